"""An XML stream between servers on asyncio, in either role: just enough to negotiate, count and acknowledge."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import socket
import ssl
import xml.etree.ElementTree as ET
from typing import Any

STREAMS = "{http://etherx.jabber.org/streams}"
TLS = "urn:ietf:params:xml:ns:xmpp-tls"
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
SM = "urn:xmpp:sm:3"
STANZAS = frozenset(f"{{jabber:server}}{name}" for name in ("message", "presence", "iq"))
#: Seconds for one step of a negotiation.
STEP = 5.0
_CHUNK = 262144
_numbers = itertools.count(1)


class WireError(Exception):
    """The other side did something else, or is gone."""


class Wire:
    """One connection and its current XML stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        #: bytes written so far, as they are on the wire
        self.written = 0
        self._write = writer.transport.write
        writer.transport.write = self._counted  # type: ignore[method-assign]
        #: of what was sent, how much the other side said to have
        self.acknowledged = 0
        self.restart()

    def restart(self) -> None:
        self._parser: Any = ET.XMLPullParser(("start", "end"))
        self._depth = 0
        self._root: ET.Element | None = None
        self._elements: list[ET.Element] = []
        self.header: dict[str, str] = {}
        #: the other side said its closing tag
        self.closed = False

    def send(self, data: str | bytes) -> None:
        self.writer.write(data.encode() if isinstance(data, str) else data)

    def _counted(self, data: Any) -> None:
        self.written += len(data)
        self._write(data)

    async def read(self) -> list[ET.Element]:
        """The elements of the next piece; raises `WireError` at the end of the connection."""
        data = await self._reader.read(_CHUNK)
        if not data:
            raise WireError("the connection is closed")
        self._parser.feed(data)
        for event, element in self._parser.read_events():
            self._seen(event, element)
        elements, self._elements = self._elements, []
        return elements

    async def raw(self) -> bytes:
        """The next piece as it is; b"" at the end of the connection."""
        return await self._reader.read(_CHUNK)

    def _seen(self, event: str, element: ET.Element) -> None:
        if event == "start":
            self._depth += 1
            if self._depth == 1:
                self._root, self.header = element, dict(element.attrib)
            return
        self._depth -= 1
        self.closed = self._depth == 0
        if self._depth == 1 and self._root is not None:
            self._root.remove(element)
            self._elements.append(element)

    async def _until(self, *tags: str) -> ET.Element:
        """The next element, one of `tags`; "" stands for the header alone."""
        async with asyncio.timeout(STEP):
            while not self._elements and not (self.header and "" in tags):
                if self.closed:
                    raise WireError("the stream was closed")
                self._elements = await self.read()
        if not self._elements:
            return ET.Element("")
        element = self._elements.pop(0)
        if element.tag not in tags:
            raise WireError(f"wanted {tags}, came {ET.tostring(element, 'unicode')[:300]}")
        return element

    # --- the initiating role ---

    async def _open(self, to: str, from_: str) -> ET.Element:
        self.restart()
        self.send(_header(to, from_))
        return await self._until(f"{STREAMS}features")

    async def initiate(self, to: str, from_: str, context: ssl.SSLContext, manage: bool) -> bool:
        """STARTTLS, EXTERNAL, and XEP-0198 where it is asked for and offered: whether it is on."""
        await self._open(to, from_)
        self.send(f"<starttls xmlns='{TLS}'/>")
        await self._until(f"{{{TLS}}}proceed")
        await self._secure(context, to)
        await self._open(to, from_)
        identity = base64.b64encode(from_.encode()).decode()
        self.send(f"<auth xmlns='{SASL}' mechanism='EXTERNAL'>{identity}</auth>")
        await self._until(f"{{{SASL}}}success")
        features = await self._open(to, from_)
        if not manage or features.find(f"{{{SM}}}sm") is None:
            return False
        self.send(f"<enable xmlns='{SM}'/>")
        await self._until(f"{{{SM}}}enabled")
        return True

    # --- the receiving role ---

    async def _answer(self, features: str) -> None:
        await self._until("")
        number = next(_numbers)
        head = _header(self.header.get("from", ""), self.header.get("to", "")).removesuffix(">")
        self.send(f"{head} id='wire{number}'><stream:features>{features}</stream:features>")

    async def receive(self, context: ssl.SSLContext, manage: bool) -> tuple[str, str]:
        """The same from the other side: who came, and to whom."""
        await self._answer(f"<starttls xmlns='{TLS}'><required/></starttls>")
        await self._until(f"{{{TLS}}}starttls")
        self.send(f"<proceed xmlns='{TLS}'/>")
        await self._secure(context)
        self.restart()
        await self._answer(f"<mechanisms xmlns='{SASL}'><mechanism>EXTERNAL</mechanism></mechanisms>")
        await self._until(f"{{{SASL}}}auth")
        self.restart()
        self.send(f"<success xmlns='{SASL}'/>")
        await self._answer(f"<sm xmlns='{SM}'/>" if manage else "")
        return self.header.get("from", ""), self.header.get("to", "")

    async def _secure(self, context: ssl.SSLContext, name: str | None = None) -> None:
        try:
            async with asyncio.timeout(STEP):
                await self.writer.start_tls(context, server_hostname=name)
        except AttributeError:  # Python 3.11, where the connection is lost during the handshake
            raise WireError("the connection was lost during the TLS handshake") from None

    def close(self) -> None:
        with contextlib.suppress(AttributeError):
            self.writer.close()


def _header(to: str, from_: str) -> str:
    return (
        f"<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:db='jabber:server:dialback' "
        f"xmlns:stream='http://etherx.jabber.org/streams' to='{to}' from='{from_}' version='1.0'>"
    )
