"""An XMPP client on a plain stream over loopback: enough to log in, to send and to receive (RFC 6120)."""

from __future__ import annotations

import asyncio
import base64
import itertools
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

CLIENT = "{jabber:client}"
_STREAMS = "{http://etherx.jabber.org/streams}"
_SASL = "{urn:ietf:params:xml:ns:xmpp-sasl}"
_STANZAS = "{urn:ietf:params:xml:ns:xmpp-stanzas}"
_PING = "urn:xmpp:ping"
_VERSION = "jabber:iq:version"
if TYPE_CHECKING:
    Element = ET.Element[str]
else:
    Element = ET.Element
Predicate = Callable[[Element], bool]


class ClientError(Exception):
    """Raised when the server refused something, or closed the stream."""


class Elements:
    """A parser of a stream that yields the children of its root."""

    def __init__(self) -> None:
        self._parser: Any = ET.XMLPullParser(("start", "end"))
        self._depth = 0
        self.root: Element | None = None
        self.closed = False

    def feed(self, data: bytes) -> list[Element]:
        self._parser.feed(data)
        return [element for event, element in self._parser.read_events() if self._complete(event, element)]

    def _complete(self, event: str, element: Element) -> bool:
        if event == "start":
            self._depth += 1
            self.root = element if self.root is None else self.root
            return False
        self._depth -= 1
        self.closed = self._depth == 0
        if self._depth == 1 and self.root is not None:
            self.root.remove(element)
        return self._depth == 1


def body(element: Element) -> str | None:
    """Return the text of a message's body."""
    return element.findtext(f"{CLIENT}body")


def error(element: Element) -> tuple[str, str]:
    """Return condition and text of a stanza error, ("", "") if there is none."""
    found = element.find(f"{CLIENT}error")
    if found is None:
        return "", ""
    names = [child.tag.removeprefix(_STANZAS) for child in found if child.tag.startswith(_STANZAS)]
    condition = next((name for name in names if name != "text"), "")
    return condition, found.findtext(f"{_STANZAS}text") or ""


class Client:
    """A logged-in client. Received elements stay in `inbox` until a `wait` takes them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, domain: str) -> None:
        self._reader, self._writer = reader, writer
        self.domain = domain
        self.jid = ""
        self.inbox: list[Element] = []
        self._arrived = asyncio.Condition()
        self._elements = Elements()
        self._ids = (f"lab{number}" for number in itertools.count(1))
        self._task: asyncio.Task[None] | None = None
        self.ended: str | None = None

    @classmethod
    async def _connect(cls, port: int, domain: str) -> tuple[Client, Element]:
        client = cls(*await asyncio.open_connection("127.0.0.1", port), domain)
        return client, await client._open()

    @classmethod
    async def register(cls, port: int, jid: str, password: str, seconds: float = 20.0) -> None:
        """Make the account `jid` by in-band registration (XEP-0077), unless it exists.

        A separate connection is used, because jabberd2 does not answer a bind on the stream that registered.
        """
        async with asyncio.timeout(seconds):
            user, _, rest = jid.partition("@")
            client, _ = await cls._connect(port, rest.partition("/")[0])
            await client._register(user, password)
            await client.close()

    @classmethod
    async def login(cls, port: int, jid: str, password: str, seconds: float = 20.0) -> Client:
        """Log in as `jid` (user@domain/resource) at 127.0.0.1:`port`."""
        async with asyncio.timeout(seconds):
            user, _, rest = jid.partition("@")
            domain, _, resource = rest.partition("/")
            client, _ = await cls._connect(port, domain)
            await client._authenticate(user, password)
            await client._bind(resource)
            client._task = asyncio.create_task(client._read())
            return client

    # --- negotiation ---------------------------------------------------------------------------------------------

    async def _open(self) -> Element:
        self._elements, self.inbox = Elements(), []
        self._write(
            f"<?xml version='1.0'?><stream:stream to={quoteattr(self.domain)} version='1.0' xmlns='jabber:client' "
            "xmlns:stream='http://etherx.jabber.org/streams'>"
        )
        return await self._next(f"{_STREAMS}features")

    async def _next(self, *tags: str) -> Element:
        while True:
            while self.inbox:
                element = self.inbox.pop(0)
                if element.tag in tags:
                    return element
                if element.tag == f"{_STREAMS}error":
                    raise ClientError(ET.tostring(element, "unicode"))
            data = await self._reader.read(65536)
            if not data:
                raise ClientError("the server closed the connection")
            self.inbox += self._elements.feed(data)

    async def _register(self, user: str, password: str) -> None:
        self._write(
            "<iq type='set' id='reg'><query xmlns='jabber:iq:register'>"
            f"<username>{escape(user)}</username><password>{escape(password)}</password></query></iq>"
        )
        answer = await self._next(f"{CLIENT}iq")
        if answer.get("type") != "result" and error(answer)[0] != "conflict":
            raise ClientError(f"registration: {ET.tostring(answer, 'unicode')}")

    async def _authenticate(self, user: str, password: str) -> None:
        secret = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
        self._write(f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{secret}</auth>")
        answer = await self._next(f"{_SASL}success", f"{_SASL}failure")
        if answer.tag != f"{_SASL}success":
            raise ClientError(ET.tostring(answer, "unicode"))

    async def _bind(self, resource: str) -> None:
        features = await self._open()
        self._write(
            "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>"
            f"<resource>{escape(resource)}</resource></bind></iq>"
        )
        answer = await self._next(f"{CLIENT}iq")
        self.jid = answer.findtext(".//{urn:ietf:params:xml:ns:xmpp-bind}jid") or ""
        if not self.jid:
            raise ClientError(ET.tostring(answer, "unicode"))
        if features.find("{urn:ietf:params:xml:ns:xmpp-session}session") is not None:
            self._write("<iq type='set' id='sess'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>")
            await self._next(f"{CLIENT}iq")

    # --- traffic -------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(262144):
                await self._keep(self._elements.feed(data))
            self.ended = "closed"
        except (OSError, ET.ParseError) as problem:
            self.ended = str(problem)
        async with self._arrived:
            self._arrived.notify_all()

    async def _keep(self, elements: list[Element]) -> None:
        for element in elements:
            self._answer(element)
        async with self._arrived:
            self.inbox += elements
            self._arrived.notify_all()

    def _answer(self, element: Element) -> None:
        """Answer pings and version requests as any client does."""
        if element.tag != f"{CLIENT}iq" or element.get("type") != "get":
            return
        head = f"<iq type='result' to={quoteattr(element.get('from', ''))} id={quoteattr(element.get('id', ''))}"
        if element.find(f"{{{_PING}}}ping") is not None:
            self._write(f"{head}/>")
        if element.find(f"{{{_VERSION}}}query") is not None:
            self._write(f"{head}><query xmlns='{_VERSION}'><name>lab</name><version>1</version></query></iq>")

    def _write(self, text: str) -> None:
        self._writer.write(text.encode())

    async def send(self, text: str) -> None:
        self._write(text)
        await self._writer.drain()

    def id(self) -> str:
        return next(self._ids)

    async def message(self, to: str, text: str, extra: str = "") -> str:
        """Send a chat message; return its id."""
        ident = self.id()
        await self.send(
            f"<message type='chat' to={quoteattr(to)} id='{ident}'><body>{escape(text)}</body>{extra}</message>"
        )
        return ident

    async def presence(self, to: str = "", kind: str = "", children: str = "") -> None:
        attributes = (f" to={quoteattr(to)}" if to else "") + (f" type='{kind}'" if kind else "")
        await self.send(f"<presence{attributes}>{children}</presence>")

    async def iq(self, to: str, payload: str, kind: str = "get", seconds: float = 15.0) -> Element:
        """Send a request; return the result or the error."""
        ident = self.id()
        await self.send(f"<iq type='{kind}' to={quoteattr(to)} id='{ident}'>{payload}</iq>")
        return await self.wait(
            lambda got: got.tag == f"{CLIENT}iq" and got.get("id") == ident and got.get("type") in ("result", "error"),
            seconds, f"the answer to iq {ident}",
        )

    async def ping(self, to: str, seconds: float = 15.0) -> Element:
        return await self.iq(to, f"<ping xmlns='{_PING}'/>", seconds=seconds)

    async def version(self, to: str, seconds: float = 15.0) -> Element:
        return await self.iq(to, f"<query xmlns='{_VERSION}'/>", seconds=seconds)

    async def disco(self, to: str, seconds: float = 15.0) -> Element:
        return await self.iq(to, "<query xmlns='http://jabber.org/protocol/disco#info'/>", seconds=seconds)

    def take(self, predicate: Predicate) -> Element | None:
        """Take the first element that matches out of the inbox."""
        for index, element in enumerate(self.inbox):
            if predicate(element):
                return self.inbox.pop(index)
        return None

    async def wait(self, predicate: Predicate, seconds: float = 15.0, what: str = "a stanza") -> Element:
        """Wait for an element that matches. Raise `ClientError` after `seconds`, with the elements that came instead."""
        try:
            async with asyncio.timeout(seconds), self._arrived:
                while (found := self.take(predicate)) is None:
                    if self.ended:
                        raise ClientError(f"{self.jid}: stream ended ({self.ended}) while waiting for {what}")
                    await self._arrived.wait()
                return found
        except TimeoutError:
            rest = [ET.tostring(element, "unicode")[:200] for element in self.inbox[-3:]]
            raise ClientError(f"{self.jid} waited {seconds:.0f} s for {what}; received instead: {rest}") from None

    async def wait_message(self, text: str, seconds: float = 15.0) -> Element:
        return await self.wait(
            lambda got: got.tag == f"{CLIENT}message" and body(got) == text and got.get("type") != "error",
            seconds, f"message {text!r}",
        )

    async def wait_error(self, ident: str, seconds: float = 15.0) -> tuple[str, str]:
        """Return condition and text of the error that answers stanza `ident`."""
        return error(await self.wait(
            lambda got: got.get("id") == ident and got.get("type") == "error", seconds, f"an error for {ident}"
        ))

    async def wait_presence(self, sender: str, kind: str | None = None, seconds: float = 15.0) -> Element:
        def fits(got: Element) -> bool:
            origin = got.get("from", "")
            return got.tag == f"{CLIENT}presence" and got.get("type") == kind and (
                origin == sender or origin.partition("/")[0] == sender)
        return await self.wait(fits, seconds, f"presence {kind or 'available'} from {sender}")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._writer.close()
