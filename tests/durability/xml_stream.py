"""One XML stream between two servers on asyncio, in either role: enough to negotiate, to send and to read elements."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import socket
import ssl
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.durability.account import SentPosition
from tests.durability.socket_progress import Connection

STREAMS = "{http://etherx.jabber.org/streams}"
TLS = "urn:ietf:params:xml:ns:xmpp-tls"
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
SM = "urn:xmpp:sm:3"
BIDI = "urn:xmpp:bidi"
BIDI_FEATURE = "urn:xmpp:features:bidi"
DIALBACK = "jabber:server:dialback"
VERIFY = f"{{{DIALBACK}}}verify"
STANZAS = frozenset(f"{{jabber:server}}{name}" for name in ("message", "presence", "iq"))
#: The ends of a connection: by the other side, by the network, or by invalid XML.
CONNECTION_ERRORS = OSError, TimeoutError, ET.ParseError, asyncio.IncompleteReadError
#: Seconds that one step of a negotiation may take.
STEP_SECONDS = 10.0
_READ_BYTES = 262144
_stream_ids = itertools.count(1)


class XMLStreamError(Exception):
    """Raised when the other side did something unexpected, or the connection is closed."""


@dataclass(frozen=True)
class Offer:
    """The offer of a receiving server."""

    management: bool = False  # XEP-0198
    bidi: bool = False  # XEP-0288


@dataclass(frozen=True)
class Accepted:
    """An accepted stream that is authenticated. `bidi`: the other side takes stanzas on it (XEP-0288)."""

    peer: str
    local: str
    bidi: bool


class XMLStream:
    """One connection and the XML stream on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        #: bytes written to the socket so far, TLS records included
        self.written = 0
        #: the monitored connection, if it is monitored
        self.connection: Connection | None = None
        #: when this side dropped the connection
        self.aborted_at: float | None = None
        self._write = writer.transport.write
        writer.transport.write = self._count_and_write  # type: ignore[method-assign]
        self.restart()

    @property
    def aborted(self) -> bool:
        """Whether this side dropped the connection."""
        return self.aborted_at is not None

    def restart(self) -> None:
        """Expect a new stream header on the same connection."""
        self._parser: Any = ET.XMLPullParser(("start", "end"))
        self._depth = 0
        self._root: ET.Element | None = None
        self._elements: list[ET.Element] = []
        self.header: dict[str, str] = {}
        #: the other side has sent its closing tag
        self.closed = False

    def send(self, data: str | bytes) -> SentPosition | None:
        """Queue `data` for writing. Return its end on the connection, or None if that is not monitored or takes no data any more."""
        before = self.written
        self.writer.write(data.encode() if isinstance(data, str) else data)
        return SentPosition(self.connection, self.written) if self.connection is not None and self.written > before else None

    def _count_and_write(self, data: Any) -> None:
        self.written += len(data)
        self._write(data)

    async def read(self) -> list[ET.Element]:
        """Return the elements received since the last call, or wait for one. Raise `XMLStreamError` at the end."""
        if not self._elements:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                raise XMLStreamError("the connection is closed")
            self._parser.feed(data)
            for event, element in self._parser.read_events():
                self._handle(event, element)
        elements, self._elements = self._elements, []
        return elements

    async def read_bytes(self) -> bytes:
        """Return the next bytes without parsing them; b"" at the end of the connection."""
        return await self._reader.read(_READ_BYTES)

    def _handle(self, event: str, element: ET.Element) -> None:
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

    async def expect(self, *tags: str) -> ET.Element:
        """Return the next element, which must have one of `tags`; "" stands for the stream header alone."""
        async with asyncio.timeout(STEP_SECONDS):
            while not self._elements and not (self.header and "" in tags):
                if self.closed:
                    raise XMLStreamError("the stream is closed")
                self._elements = await self.read()
        if not self._elements:
            return ET.Element("")
        element = self._elements.pop(0)
        if element.tag not in tags:
            raise XMLStreamError(f"expected {tags}, got {ET.tostring(element, 'unicode')[:300]}")
        return element

    # --- initiating role ---

    async def _open(self, to: str, from_: str) -> ET.Element:
        self.restart()
        self.send(_header(to, from_))
        return await self.expect(f"{STREAMS}features")

    async def initiate(self, to: str, from_: str, context: ssl.SSLContext, *, direct: bool = False) -> ET.Element:
        """Negotiate TLS and SASL EXTERNAL; return the stream features after authentication. `direct`: TLS without STARTTLS."""
        if not direct:
            await self._open(to, from_)
            self.send(f"<starttls xmlns='{TLS}'/>")
            await self.expect(f"{{{TLS}}}proceed")
        await self._start_tls(context, to)
        await self._open(to, from_)
        identity = base64.b64encode(from_.encode()).decode()
        self.send(f"<auth xmlns='{SASL}' mechanism='EXTERNAL'>{identity}</auth>")
        await self.expect(f"{{{SASL}}}success")
        return await self._open(to, from_)

    async def add_pairs(self, pairs: Sequence[tuple[str, str]], key: str = "key") -> None:
        """Request by dialback to use this stream also from one domain to another, for all `pairs` at once (XEP-0220 §2.6)."""
        for sender, recipient in pairs:
            self.send(f"<db:result from='{sender}' to='{recipient}'>{key}</db:result>")
        for _ in pairs:
            answer = await self.expect(f"{{{DIALBACK}}}result")
            if answer.get("type") != "valid":
                raise XMLStreamError(f"dialback: {ET.tostring(answer, 'unicode')}")

    # --- receiving role ---

    async def _answer(self, features: str) -> None:
        await self.expect("")
        head = _header(self.header.get("from", ""), self.header.get("to", "")).removesuffix(">")
        self.send(f"{head} id='stream{next(_stream_ids)}'><stream:features>{features}</stream:features>")

    async def receive(
        self, context: ssl.SSLContext, offer: Offer, valid_key: Callable[[str], bool] = lambda key: True,
    ) -> Accepted | None:
        """Negotiate as the receiving server. Return None if the other side only verified dialback keys."""
        await self._answer(f"<starttls xmlns='{TLS}'><required/></starttls>")
        await self.expect(f"{{{TLS}}}starttls")
        self.send(f"<proceed xmlns='{TLS}'/>")
        await self._start_tls(context)
        self.restart()
        bidi = f"<bidi xmlns='{BIDI_FEATURE}'/>" if offer.bidi else ""
        await self._answer(f"<mechanisms xmlns='{SASL}'><mechanism>EXTERNAL</mechanism></mechanisms>{bidi}")
        both_ways = False
        while (element := await self.expect(f"{{{SASL}}}auth", f"{{{BIDI}}}bidi", VERIFY)).tag != f"{{{SASL}}}auth":
            if element.tag == VERIFY:
                await self._verify(element, valid_key)
                return None
            both_ways = True
        self.restart()
        self.send(f"<success xmlns='{SASL}'/>")
        await self._answer(f"<sm xmlns='{SM}'/>" if offer.management else "")
        return Accepted(self.header.get("from", ""), self.header.get("to", ""), both_ways)

    async def _verify(self, element: ET.Element, valid_key: Callable[[str], bool]) -> None:
        """Answer `<db:verify/>` elements until the stream ends."""
        while not self.closed:
            kind = "valid" if valid_key(element.text or "") else "invalid"
            addresses = f"from='{element.get('to')}' to='{element.get('from')}' id='{element.get('id')}'"
            self.send(f"<db:verify {addresses} type='{kind}'/>")
            element = await self.expect(VERIFY)

    async def _start_tls(self, context: ssl.SSLContext, name: str | None = None) -> None:
        try:
            async with asyncio.timeout(STEP_SECONDS):
                await self.writer.start_tls(context, server_hostname=name)
        except AttributeError:  # Python 3.11 raises this if the connection is lost during the handshake
            raise XMLStreamError("the connection was lost during the TLS handshake") from None

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(AttributeError):
            self.writer.close()

    def abort(self) -> None:
        """Drop the connection at once, with data that is not written yet."""
        self.aborted_at = self.aborted_at or time.time()
        self.writer.transport.abort()


def _header(to: str, from_: str) -> str:
    return (
        f"<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:db='{DIALBACK}' "
        f"xmlns:stream='http://etherx.jabber.org/streams' to='{to}' from='{from_}' version='1.0'>"
    )
