"""The framer: bytes of one stream -> header, elements of negotiation, slices of stanzas, close. Sans-I/O.

See docs/decisions.md#framing.

expat parses the stream only to find where a stanza begins and ends, its own attributes and the names of its children. A plain
stanza is found by its bytes, and expat only proves it (docs/decisions.md#plain-stanzas). The stanza is passed on as the bytes
that were received.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from xml.parsers import expat

from s2sgw.xmpp.element import NAME_LENGTH, Element
from s2sgw.xmpp.errors import RemoteFault, StreamCondition
from s2sgw.xmpp.header import LANG, START_TAG, Header, declarations, read_header
from s2sgw.xmpp.limits import NAMES_LENGTH, too_long, violation
from s2sgw.xmpp.limits import FramingLimits as FramingLimits
from s2sgw.xmpp.namespaces import SERVER, XML
from s2sgw.xmpp.plain_stanzas import OPENINGS, PlainBounds, plain_bounds, plain_stanzas
from s2sgw.xmpp.restricted_xml import document_type, malformed, restricted_parser
from s2sgw.xmpp.stanza import Kind, Stanza

#: expat is fed this many bytes at a time; a tag that is longer than `FramingLimits.tag_bytes` shows between two pieces.
PIECE = 8192
#: After so many bytes the parser is replaced at the next opportunity: it keeps every name that it has read.
RECYCLE = 262144
#: After so many elements in a row that are no plain stanzas, none is looked for before the end of a piece.
MISSES = 3
#: Bounds of plain stanzas that are kept.
_BOUNDS = 64

#: expanded name -> kind, how the start tag begins, and the length of that
_SHAPES: dict[str, tuple[Kind, bytes, int]] = {
    f"{SERVER}}}message": ("message", b"<message", 8),
    f"{SERVER}}}presence": ("presence", b"<presence", 9),
    f"{SERVER}}}iq": ("iq", b"<iq", 3),
}
_XML = f"{XML}}}"
_WHITE = b" \t\r\n"
_COLON = ord(":")
_LESS_THAN = ord("<")
#: Most streams have the same limits and declarations, so they share their bounds.
_bounds = lru_cache(_BOUNDS)(plain_bounds)
_NO_ATTRIBUTES: dict[str, str] = {}  # never changed: one for all streams
_TEXT_BETWEEN = "text between the elements of the stream"


@dataclass(frozen=True, slots=True)
class Close:
    """The stream's closing tag. Nothing comes after it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A rule broken by the other side, with the stream error that answers it. Nothing comes after it."""

    condition: StreamCondition
    text: str


FramingEvent = Header | Element | Stanza | Close | Fault


class _Done(Exception):
    """Raised out of expat at the graceful end of the stream."""


class _NotPlain(Exception):
    """Raised out of expat where what looked like a plain stanza is none."""


class Framer:
    """Reads one stream, from its header to its closing tag, or to the end of an element in `stop_at`.

    `stop_at` holds `namespace}name` of top-level elements: after one of these `stopped` is True and `leftover` holds
    the bytes behind it, unread (R6); who leaves a stopped framer in place bounds what it takes. The framer also stops
    behind `limits.elements` top-level elements that are not stanzas, all in one `feed`; then `interrupted` is True, too.
    `limits` may be exchanged at any time.
    """

    __slots__ = (
        "_attributes", "_base", "_begin", "_bounds", "_buffer", "_carries", "_declarations", "_depth", "_elements", "_events",
        "_fed", "_has_handlers", "_head", "_lang", "_last", "_length", "_limits", "_name", "_names", "_over", "_parser",
        "_payloads", "_prefixes", "_received", "_since", "_stanza", "_stop_at", "interrupted", "leftover", "stopped",
    )

    def __init__(self, limits: FramingLimits | None = None, stop_at: frozenset[str] = frozenset()) -> None:
        self._limits = limits or FramingLimits()
        self._bounds: PlainBounds | None = None  # of plain stanzas; None where there are none
        self._has_handlers = True  # expat has its element handlers
        self._carries = False  # stanzas have come, since the header or since the last `rest`
        self.stopped = False
        self.interrupted = False
        self.leftover = b""
        self._elements = 0  # that are not stanzas, in this feed
        self._stop_at = stop_at
        self._over = False
        self._events: list[FramingEvent] = []
        self._parser: expat.XMLParserType | None = None
        self._buffer = bytearray()  # received and not passed on yet
        self._base = 0  # what expat calls the index of the buffer's first byte
        self._fed = 0  # how much of the buffer expat has seen
        self._last = 0  # where in the buffer the last slice ended
        self._received = 0  # bytes of the stream
        self._since = 0  # bytes of this parser
        self._head = b""  # the header's start tag
        self._prefixes: dict[str | None, str] | None = None  # what the header declares, while it is read
        self._declarations = declarations((), None)
        self._depth = 0
        self._clear_slice()

    @property
    def limits(self) -> FramingLimits:
        """The limits of the stream."""
        return self._limits

    @limits.setter
    def limits(self, limits: FramingLimits) -> None:
        self._limits = limits
        self._allow_plain_stanzas()

    def feed(self, data: bytes) -> list[FramingEvent]:
        """Return what `data` completes, in order. Never raises: an error is a `Fault`, which is the last event."""
        if self.stopped:
            self.leftover += data
        if self._over:
            return []
        self._elements = 0
        try:
            if not self._head:
                data = self._prolog(data)
            if self._parser is None:
                self._parser = self._new_parser()
            most = self._limits.stream_bytes
            room = len(data) if most is None else min(len(data), max(0, most - self._received))
            self._received += len(data)
            end = len(self._buffer) + room
            self._buffer += data
            self._read_to(end)
            if most is not None and self._received > most:
                raise violation(f"more than {most} bytes before authentication")
            self._trim()
        except RemoteFault as fault:
            self._end(self._first_fault(fault))
        except expat.ExpatError as error:
            self._end(self._first_fault(self._malformed(error)))
        except _Done:
            self._end()
        events, self._events = self._events, []
        return events

    def resume(self) -> bytes:
        """Continue behind a stop, where the stream did not end after all. Returns the bytes left over, to be fed again."""
        data, self.leftover = self.leftover, b""
        self.stopped = self.interrupted = self._over = False
        return data

    def rest(self) -> None:
        """Free the parser between two feeds, about 10 kB. Until a stanza comes, each feed makes one, and frees it at its end.

        See docs/decisions.md#idle-streams.
        """
        self._carries = False
        if self._depth == 1 and not self._buffer:
            self._drop_parser()

    def close(self) -> None:
        """Stop reading. Free the parser, which refers back to the framer, and the bytes that were not passed on."""
        self._over = True
        self._buffer = bytearray()
        self._drop_parser()

    # --- reading -------------------------------------------------------------------------------------------------

    def _read_to(self, end: int) -> None:
        """Read the buffer up to `end`: plain stanzas by their bytes, all else by the handlers of expat."""
        misses = 0  # elements in a row that are no plain stanzas
        while self._fed < end:
            if self._bounds is not None and self._depth == 1:
                misses = 0 if self._take_plain_stanzas() else misses + 1
            if self._fed < end:
                is_open = self._depth > 1
                self._parse(self._element_end(end) if self._bounds is not None and misses < MISSES else end)
                misses = MISSES if is_open and self._depth > 1 else misses

    def _take_plain_stanzas(self) -> bool:
        """Read the plain stanzas that come next, once expat has proven them; return whether there were any."""
        assert self._parser is not None
        assert self._bounds is not None
        if not self._buffer.startswith(OPENINGS, self._last):
            return False
        elements = self._bounds.elements - self._elements
        found, end, elements = plain_stanzas(self._buffer, self._last, self._bounds, self._declarations, elements)
        if not found:
            return False
        if self._has_handlers:
            self._set_handlers(False)
        try:
            self._parser.Parse(self._buffer[self._fed : end], False)
            is_proven = self._parser.CurrentByteIndex - self._base == end
        except (expat.ExpatError, RemoteFault, _NotPlain):
            is_proven = False
        if not is_proven:
            self._bounds = None
            self._parser = self._new_parser()
            return False
        self._since += end - self._fed
        self._fed = self._last = end
        self._carries = True
        self._events += found
        self._elements += elements
        return True

    def _element_end(self, end: int) -> int:
        """Return where the open stanza seems to end, or else the next tag: plain stanzas may come behind it."""
        if self._depth == 1:
            at = self._buffer.find(b">", self._fed, end) + 1
        elif self._stanza is not None:
            closing = b"</%b>" % self._stanza.kind.encode()
            at = self._buffer.find(closing, max(self._begin, self._fed - len(closing)), end)
            at = at + len(closing) if at >= 0 else 0
        else:
            at = 0
        return at if at > self._fed else end

    def _prolog(self, data: bytes) -> bytes:
        """Check the bytes before the header (R31): drop white space, and refuse UTF-16, which expat would accept."""
        if not self._buffer:
            self._received += len(data)
            data = data.lstrip(_WHITE)
            self._received -= len(data)
        first = bytes(self._buffer[:2] + data[:2])[:2]
        if first.startswith((b"\xfe", b"\xff", b"\0", b"<\0", b"\xef\0")):
            raise RemoteFault(StreamCondition.UNSUPPORTED_ENCODING, "the stream is not encoded in UTF-8")
        if first and first[0] not in b"<\xef":  # 0xEF: of a byte order mark
            raise RemoteFault(StreamCondition.NOT_WELL_FORMED, "the stream does not begin with a tag")
        return data

    def _parse(self, end: int) -> None:
        """Have expat read to `end`, one piece at most, and call its handlers."""
        assert self._parser is not None
        if not self._has_handlers:
            self._set_handlers(True)
        piece = self._buffer[self._fed : min(end, self._fed + PIECE)]
        self._fed += len(piece)
        self._since += len(piece)
        self._parser.Parse(piece, False)
        self._check_unfinished(self._fed - self._position())

    def _check_unfinished(self, unread: int) -> None:
        """Check the limits for what is not complete yet; `unread`: bytes of a tag whose end was not received."""
        if not self._head:
            self._check_header(self._fed)
            return
        if unread > self._limits.tag_bytes:
            raise too_long("tag", self._limits.tag_bytes)
        if self._depth > 1:
            self._check_slice(self._fed - self._begin)

    def _check_header(self, length: int) -> None:
        if length > self._limits.header_bytes:
            raise too_long("stream header", self._limits.header_bytes)

    def _check_slice(self, length: int) -> None:
        """Check the length of a top-level element, or of the part of it that was received."""
        limits = self._limits
        if self._stanza is None:
            if length > limits.element_bytes:
                raise too_long("element", limits.element_bytes)
        elif length > limits.stanza_bytes:
            raise too_long("stanza", limits.stanza_bytes)
        elif len(self._payloads) > limits.children:
            raise violation(f"a stanza with more than {limits.children} children")

    def _trim(self) -> None:
        """Drop what was passed on, and white space between elements; other text there is a fault (R30)."""
        if self._depth == 1 and self._fed != self._last:
            self._check_gap(self._position())
        del self._buffer[: self._last]
        self._base += self._last
        self._begin -= self._last
        self._fed = len(self._buffer)
        self._last = 0
        if not self._carries and self._head:
            self.rest()  # no stanza comes yet, and perhaps none for long
        elif self._since > RECYCLE and self._fed <= PIECE and self._head:
            self._drop_parser()

    def _check_gap(self, end: int) -> None:
        """Check that there is only white space between the last slice and `end`."""
        if end != self._last and self._buffer[self._last : end].strip(_WHITE):
            raise RemoteFault(StreamCondition.BAD_FORMAT, _TEXT_BETWEEN)
        self._last = end

    def _first_fault(self, fault: RemoteFault) -> Fault:
        """Return `fault`, or the fault of the text before it: it is found first if it is received alone."""
        if self._depth == 1:
            between = self._buffer[self._last : self._position()].lstrip(_WHITE)
            if between and (between[0] != _LESS_THAN or between.startswith(b"<![CDATA[")):
                return Fault(StreamCondition.BAD_FORMAT, _TEXT_BETWEEN)
        return Fault(fault.condition, fault.text)

    def _malformed(self, error: expat.ExpatError) -> RemoteFault:
        at = self._position()
        if self._buffer[max(0, at - 2) : at + 1] == b"<!D":  # where none can stand; expat has a handler for where one can
            return document_type()
        return malformed(error)

    def _end(self, *events: FramingEvent) -> None:
        self._over = True
        self._events += events
        if self.stopped:
            self.leftover = bytes(self._buffer[self._last :])
            self._received -= len(self.leftover)
            self._last = 0
        self._buffer = bytearray()
        self._drop_parser()

    # --- expat ---------------------------------------------------------------------------------------------------

    def _new_parser(self) -> expat.XMLParserType:
        """Return a parser in the state of the one before: behind the header, before what was not passed on yet."""
        parser = restricted_parser()
        self._fed = self._last
        self._since = 0
        self._has_handlers = False
        if self._head:
            parser.Parse(self._head, False)
            self._base = len(self._head) - self._last
            parser.StartCdataSectionHandler = self._cdata_section
        else:
            parser.StartNamespaceDeclHandler = self._declaration
            parser.StartElementHandler = self._header
            parser.EndElementHandler = self._end_tag
            self._has_handlers = True
        return parser

    def _set_handlers(self, on: bool) -> None:
        """Give expat its element handlers, or take them away."""
        assert self._parser is not None
        self._parser.StartElementHandler = self._start_tag if on else None
        self._parser.EndElementHandler = self._end_tag if on else None
        self._has_handlers = on

    def _allow_plain_stanzas(self) -> None:
        self._bounds = _bounds(self._limits, self._declarations.namespaces, self._stop_at) if self._head else None

    def _drop_parser(self) -> None:
        self._parser = None
        self._depth = 1
        self._fed = self._since = 0
        self._clear_slice()
        self._allow_plain_stanzas()

    def _clear_slice(self) -> None:
        self._begin = 0
        self._name = ""  # of the open top-level element
        self._stanza: Stanza | None = None  # the same if it is a stanza, its data still missing
        self._length = 0  # of `<` and the stanza's name
        self._attributes = _NO_ATTRIBUTES  # of its start tag, if it is none
        self._lang = False  # it has an xml:lang
        self._payloads: list[str] = []  # the names of its children; of an element that is no stanza, only the first
        self._names = 0  # characters of these names

    def _position(self) -> int:
        """Return where in the buffer expat is: at the start of a tag, but behind it when an empty element ends."""
        assert self._parser is not None
        return self._parser.CurrentByteIndex - self._base

    # --- the header ----------------------------------------------------------------------------------------------

    def _declaration(self, prefix: str | None, namespace: str | None) -> None:
        if self._prefixes is None:
            self._prefixes = {}
        self._prefixes[prefix] = namespace or ""

    def _header(self, name: str, attributes: dict[str, str]) -> None:
        assert self._parser is not None
        begin = self._position()
        self._last = end = _tag_end(self._buffer, begin)
        self._check_header(end)
        self._head = bytes(self._buffer[begin:end])
        declared, self._prefixes = self._prefixes or {}, None
        header = read_header(self._head, name, attributes, declared)
        self._declarations = declarations(tuple(declared.items()), attributes.get(LANG))
        if self._declarations.size > self._limits.declared_bytes:
            raise violation(f"the stream header declares more than {self._limits.declared_bytes} bytes for each stanza")
        self._events.append(header)
        self._allow_plain_stanzas()
        self._depth = 1
        self._parser.StartNamespaceDeclHandler = None
        self._parser.StartElementHandler = self._start_tag
        self._parser.StartCdataSectionHandler = self._cdata_section

    # --- what is on the stream -----------------------------------------------------------------------------------

    def _start_tag(self, name: str, attributes: dict[str, str]) -> None:
        depth = self._depth = self._depth + 1
        if attributes:
            if len(attributes) > self._limits.attributes:
                raise violation(f"more than {self._limits.attributes} attributes")
            if max(map(len, attributes)) > NAME_LENGTH:
                raise _name_too_long()
        if depth == 3:
            if len(name) > NAME_LENGTH:
                raise _name_too_long()
            self._add_child(name)
        elif depth == 2:
            self._begin_slice(name, attributes)
        elif depth > self._limits.depth:
            raise violation(f"elements nested more than {self._limits.depth} deep")

    def _add_child(self, name: str) -> None:
        """Note a child of the open top-level element. A namespace that is declared once must not be kept for each child."""
        if self._stanza is None:
            self._payloads = self._payloads or [name]
            return
        if self._names > NAMES_LENGTH and self._names > NAMES_LENGTH + self._position() - self._begin:
            raise violation(f"the names of a stanza's children are more than {NAMES_LENGTH} characters longer than the stanza")
        self._payloads.append(name)
        self._names += len(name)

    def _cdata_section(self) -> None:
        """Find that a stanza is not plain: in a CDATA section, what looks like a tag is none."""
        if not self._has_handlers:
            raise _NotPlain

    def _begin_slice(self, name: str, attributes: dict[str, str]) -> None:
        assert self._parser is not None
        self._begin = begin = self._parser.CurrentByteIndex - self._base
        if begin != self._last:
            self._check_gap(begin)
        self._payloads, self._names = [], 0
        self._name = name
        shape = _SHAPES.get(name)
        if shape is None:
            self._stanza, self._attributes = None, attributes
            return
        kind, opening, self._length = shape
        if not self._buffer.startswith(opening, begin) or self._buffer[begin + self._length] == _COLON:
            raise RemoteFault(StreamCondition.BAD_NAMESPACE_PREFIX, "a stanza's start tag has a prefix")
        self._carries = True
        take = attributes.pop
        self._stanza = Stanza(kind, b"", take("to", ""), take("from", ""), take("type", None), take("id", None))
        self._lang = bool(attributes) and _has_lang(attributes)

    def _end_tag(self, name: str) -> None:
        depth = self._depth = self._depth - 1
        if depth == 1:
            self._end_slice()
        elif depth == 0:
            self._check_gap(self._position())
            self._events.append(Close())
            raise _Done

    def _end_slice(self) -> None:
        assert self._parser is not None
        buffer = self._buffer
        end = self._parser.CurrentByteIndex - self._base
        is_empty = not self._payloads and self._is_empty(end)
        if not is_empty:
            end = buffer.index(b">", end) + 1
        self._last = end
        begin, stanza = self._begin, self._stanza
        self._check_slice(end - begin)
        if stanza is None:
            self._end_element(self._empty_element() if is_empty else Element.parse(bytes(buffer[begin:end]), self._head))
            return
        stanza.data = self._declarations.complete(bytes(buffer[begin:end]), self._length, self._lang)
        stanza.payloads = tuple(self._payloads)
        self._events.append(stanza)

    def _is_empty(self, at: int) -> bool:
        """Return whether the slice is one empty-element tag that ends at `at`; text may end in "/>" too."""
        return self._buffer[at - 2 : at] == b"/>" and _tag_end(self._buffer, self._begin) == at

    def _empty_element(self) -> Element:
        """Return the element that is one empty-element tag, as `<r/>` of XEP-0198 is: its start tag says all of it."""
        if len(self._name) > NAME_LENGTH:
            raise _name_too_long()
        namespace, _, name = self._name.rpartition("}")
        return Element(name, namespace, self._attributes)

    def _end_element(self, element: Element) -> None:
        self._events.append(element)
        self._elements += 1
        self.interrupted = self._name not in self._stop_at and self._elements >= self._limits.elements
        if self.interrupted or self._name in self._stop_at:
            self.stopped = True
            raise _Done


def _name_too_long() -> RemoteFault:
    return violation(f"the name of an element or attribute, with its namespace, is longer than {NAME_LENGTH} characters")


def _has_lang(attributes: dict[str, str]) -> bool:
    """Return whether a stanza has an xml:lang; raises `RemoteFault` for an attribute in another namespace (R30)."""
    for name in attributes:
        if "}" in name and not name.startswith(_XML):
            raise RemoteFault(StreamCondition.BAD_FORMAT, "a stanza's start tag has an attribute in a namespace")
    return LANG in attributes


def _tag_end(buffer: bytearray, begin: int) -> int:
    """Return where the tag ends that begins at `begin`. (No match object may outlive this: it would lock the buffer's size.)"""
    match = START_TAG.match(buffer, begin)
    assert match is not None
    return match.end()
