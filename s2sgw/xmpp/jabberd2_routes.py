"""The framer of a stream with jabberd2's router: bytes -> header, elements of negotiation, routes, close. Sans-I/O.

A `<route/>` contains one jabber:client stanza, which is passed on as a jabber:server stanza, serialised anew (`xmpp.content`).
One connection carries the stanzas of all users, so a stanza beyond the limits does not end the stream: it comes without its data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from xml.parsers import expat

from s2sgw.xmpp.content_namespace import NamespaceRewriter, split
from s2sgw.xmpp.element import NAME_LENGTH, NODES, Element
from s2sgw.xmpp.errors import RemoteFault, StreamCondition
from s2sgw.xmpp.framing import PIECE, RECYCLE, Close, Fault
from s2sgw.xmpp.header import Header
from s2sgw.xmpp.limits import NAMES_LENGTH, FramingLimits, too_long
from s2sgw.xmpp.namespaces import CLIENT, COMPONENT, SERVER, STREAM
from s2sgw.xmpp.restricted_xml import malformed, restricted_parser
from s2sgw.xmpp.stanza import Kind, Stanza

_ROUTE = f"{COMPONENT}}}route"
_KINDS: dict[str, Kind] = {f"{CLIENT}}}message": "message", f"{CLIENT}}}presence": "presence", f"{CLIENT}}}iq": "iq"}
#: expat keeps the whole of a tag whose end it has not read. A longer one ends the stream.
TAG_BYTES = 1_048_576
#: Namespaces of one stanza. The prefixes of attributes are compared with each other.
NAMESPACES = 512
_HEAD = f"<stream:stream xmlns:stream='{STREAM}'>".encode()


@dataclass(frozen=True, slots=True)
class Route:
    """A route from the router. `stanza` is None if it has none. A stanza without `data` is beyond our limits."""

    to: str | None
    from_: str | None
    type: str | None
    error: str | None
    stanza: Stanza | None = None


RouterEvent = Header | Element | Route | Close | Fault


class _RouteDone(Exception):
    """Raised out of expat when reading ends, or continues with another parser."""


class RouteFramer:
    """Reads one stream, with the interface of `framing.Framer`."""

    def __init__(self, limits: FramingLimits | None = None, stop_at: frozenset[str] = frozenset()) -> None:
        self.limits = limits or FramingLimits()
        self.stopped = False
        #: no limit: the router is trusted, and may send any number of elements at once
        self.interrupted = False
        self.leftover = b""
        self._stop_at = stop_at
        self._over = False
        self._events: list[RouterEvent] = []
        self._depth = 0
        self._given = 0  # bytes given to the parser before the present piece
        self._begin = 0  # the beginning of the open top-level element in these bytes
        self._element: list[Element] = []  # the open elements, if the top-level one is no route
        self._nodes = 0
        self._inner: _RoutedStanza | None = None
        self._parser = self._new_parser(self._header)

    def feed(self, data: bytes) -> list[RouterEvent]:
        """Return what `data` completes, in order. Never raises: an error is a `Fault`, which is the last event."""
        if self.stopped:
            self.leftover += data
            return []
        try:
            while data and not self._over:
                data = self._read(data[:PIECE]) + data[PIECE:]
        except RemoteFault as fault:
            self._end(Fault(fault.condition, fault.text))
        except expat.ExpatError as error:
            wrong = malformed(error)
            self._end(Fault(wrong.condition, wrong.text))
        self._leave(data)
        events, self._events = self._events, []
        return events

    def _leave(self, data: bytes) -> None:
        if self.stopped:
            self.leftover = data

    def resume(self) -> bytes:
        """Continue behind a stop, if the stream did not end after all. Return the bytes left over, to be fed again."""
        data, self.leftover = self.leftover, b""
        self.stopped = self._over = False
        self._primed()
        return data

    def rest(self) -> None:
        """Do nothing: there is only a stream or a few, and each keeps its parser."""

    def close(self) -> None:
        """Stop reading, and drop expat, which refers back to the framer."""
        self._over = True
        self._inner = None
        self._parser = restricted_parser()

    # --- reading ---

    def _read(self, piece: bytes) -> bytes:
        """Return the rest of `piece`, for another parser."""
        try:
            self._parser.Parse(piece, False)
        except _RouteDone:
            left = piece[self._parser.CurrentByteIndex - self._given :]
            if not self._over:
                self._primed()
            return left
        self._given += len(piece)
        if self._given - self._parser.CurrentByteIndex > TAG_BYTES:
            raise too_long("tag", TAG_BYTES)
        self._check_unfinished(self._given - self._begin)
        return b""

    def _check_unfinished(self, length: int) -> None:
        if self._depth < 1:
            if length > self.limits.header_bytes:
                raise too_long("stream header", self.limits.header_bytes)
        elif self._depth > 1 and self._inner is None:
            if length > self.limits.element_bytes:
                raise too_long("element", self.limits.element_bytes)
        elif self._inner is not None and length > self.limits.stanza_bytes:
            self._inner.give_up()

    def _end(self, *events: RouterEvent) -> None:
        self._over = True
        self._events += events

    def _new_parser(self, start: Callable[[str, dict[str, str]], Any] | None) -> expat.XMLParserType:
        parser = restricted_parser(prefixes=True)
        parser.buffer_text = True
        parser.StartNamespaceDeclHandler = self._declaration
        parser.StartElementHandler = start
        parser.EndElementHandler = self._end_tag
        parser.CharacterDataHandler = self._text
        return parser

    def _primed(self) -> None:
        """Return a parser in the state after the header."""
        self._parser = parser = self._new_parser(None)
        parser.Parse(_HEAD, False)
        parser.StartElementHandler = self._start_tag
        self._given = self._begin = len(_HEAD)

    # --- events of expat ---

    def _declaration(self, prefix: str | None, namespace: str | None) -> None:
        if self._inner is not None:
            self._inner.declaration(prefix, namespace)

    def _header(self, name: str, attributes: dict[str, str]) -> None:
        namespace, local, prefix = split(name)
        if (namespace, local, prefix) != (STREAM, "stream", "stream"):
            raise RemoteFault(StreamCondition.INVALID_NAMESPACE, "the root element is not a stream")
        get = attributes.get
        self._events.append(Header(get("to"), get("from"), get("id"), get("version"), namespace=""))
        self._depth = 1
        self._parser.StartElementHandler = self._start_tag

    def _start_tag(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 2:
            self._begin = self._parser.CurrentByteIndex
        if self._inner is not None:
            self._inner.start(name, attributes, self._parser.CurrentByteIndex - self._begin)
        elif self._depth == 2 and _plain(name) == _ROUTE:
            self._inner = _RoutedStanza(self.limits, attributes)
        else:
            self._grow(name, attributes)

    def _end_tag(self, name: str) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._end(Close())
            raise _RouteDone
        if self._depth == 1:
            self._end_element(name)
        elif self._inner is not None:
            self._inner.end(name)
        else:
            self._element.pop()

    def _text(self, text: str) -> None:
        if self._inner is not None:
            self._inner.text(text)
        elif self._element:
            self._element[-1].text += text

    # --- top-level elements ---

    def _grow(self, name: str, attributes: dict[str, str]) -> None:
        """Add to the tree of an element that is no route."""
        self._nodes += 1
        if self._nodes > NODES or self._depth > self.limits.depth or _longest(name, attributes) > NAME_LENGTH:
            text = f"an element of more than {NODES} others, nested too deep, or with a name longer than {NAME_LENGTH}"
            raise RemoteFault(StreamCondition.POLICY_VIOLATION, text)
        namespace, local, _ = split(name)
        element = Element(local, namespace, {_plain(each): value for each, value in attributes.items()})
        if self._element:
            self._element[-1].children.append(element)
        self._element.append(element)

    def _end_element(self, name: str) -> None:
        inner, self._inner = self._inner, None
        self._events.append(self._element.pop() if inner is None else inner.route())
        self._nodes = 0
        if _plain(name) in self._stop_at:
            self.stopped = self._over = True
        if self.stopped or self._given > RECYCLE:  # expat keeps every name that it has read
            raise _RouteDone


class _RoutedStanza:
    """The content of one route."""

    def __init__(self, limits: FramingLimits, attributes: dict[str, str]) -> None:
        self._limits = limits
        self._attributes = attributes
        self._depth = 0
        self._children = 0  # of the route
        self._stanza: Stanza | None = None
        self._content: NamespaceRewriter | None = None
        self._payloads: list[str] = []
        self._names = 0  # characters of these names
        self._declared: list[tuple[str | None, str | None]] = []

    def declaration(self, prefix: str | None, namespace: str | None) -> None:
        """Take a declaration. Those of the stanza itself come before it."""
        if self._content is not None:
            self._content.declaration(prefix, namespace)
        elif not self._children:
            self._declared.append((prefix, namespace))

    def start(self, name: str, attributes: dict[str, str], length: int) -> None:
        """Take a start tag, behind `length` bytes of the route."""
        self._depth += 1
        if self._depth == 1:
            self._children += 1
            if self._children == 1 and _plain(name) in _KINDS:
                self._begin(_KINDS[_plain(name)], attributes)
        if self._content is None:
            return
        if self._depth == 2:
            self._add_child(_server(_plain(name)))
        if self._is_beyond(name, attributes) or self._names > NAMES_LENGTH + length:
            self.give_up()
            return
        self._content.start(name, attributes)
        if self._content.namespaces > NAMESPACES:
            self.give_up()
        else:
            self._check_length()

    def _add_child(self, name: str) -> None:
        self._payloads.append(name)
        self._names += len(name)

    def _is_beyond(self, name: str, attributes: dict[str, str]) -> bool:
        """Return whether the stanza is beyond limits that would end a peer's stream.

        There the stream itself counts as an open element.
        """
        limits = self._limits
        if self._depth >= limits.depth or len(attributes) > limits.attributes or len(self._payloads) > limits.children:
            return True
        return _longest(name if self._depth == 2 else "", attributes) > NAME_LENGTH

    def _check_length(self) -> None:
        """Give up a stanza that becomes much longer when it is written anew: each element may need its namespace declared."""
        if self._content is not None and self._content.length > 2 * self._limits.stanza_bytes:
            self.give_up()

    def _begin(self, kind: Kind, attributes: dict[str, str]) -> None:
        get = attributes.get
        self._stanza = Stanza(kind, b"", get("to", ""), get("from", ""), get("type"), get("id"))
        self._content = NamespaceRewriter(CLIENT, SERVER, around=SERVER)
        for prefix, namespace in self._declared:
            self._content.declaration(prefix, namespace)

    def end(self, name: str) -> None:
        self._depth -= 1
        if self._content is None:
            return
        self._content.end(name)
        if self._depth == 0:
            self._finish(self._content)

    def text(self, text: str) -> None:
        if self._content is not None and self._depth:
            self._content.text(text)
            self._check_length()

    def _finish(self, content: NamespaceRewriter) -> None:
        assert self._stanza is not None
        self._stanza.data, self._stanza.payloads = content.written, tuple(self._payloads)
        self._content = None

    def give_up(self) -> None:
        """Drop the data: the stanza is beyond the limits, and its rest is not kept."""
        self._content, self._payloads = None, []

    def route(self) -> Route:
        get = self._attributes.get
        return Route(get("to"), get("from"), get("type"), get("error"), self._stanza)


def _plain(name: str) -> str:
    """Return `namespace}name` without its prefix."""
    namespace, local, _ = split(name)
    return f"{namespace}}}{local}" if namespace else local


def _longest(name: str, attributes: dict[str, str]) -> int:
    """Return the length of the longest name of a tag, with its namespace and its prefix."""
    return max(len(name), max(map(len, attributes), default=0))


def _server(name: str) -> str:
    """Return the name of a stanza's child in the other namespace."""
    return f"{SERVER}}}{name[len(CLIENT) + 1 :]}" if name.startswith(f"{CLIENT}}}") else name
