"""`Element`: the small trees of negotiation, and the only code that writes and escapes XML.

The relay makes no trees of stanzas (docs/decisions.md#framing). Features, SASL, dialback and errors are trees, and so is a stanza
that must be parsed (`Element.parse(stanza.data)`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from s2sgw.xmpp.errors import RemoteFault, StanzaCondition, StreamCondition
from s2sgw.xmpp.namespaces import DIALBACK, SERVER, STANZA_ERRORS, STREAM, STREAM_ERRORS, XML
from s2sgw.xmpp.restricted_xml import malformed, restricted_parser

#: The most elements of a tree, which bounds how much a few bytes can expand.
NODES = 1024
#: The most levels of nesting.
DEPTH = 64
#: The longest `namespace}name` of an element in a tree, in characters.
NAME_LENGTH = 1024

#: The prefixes in every header of ours. A tree in our streams need not declare them again.
PREFIXES = {STREAM: "stream", DIALBACK: "db"}
#: The start tag that declares them: a slice of a stream is parsed inside it.
CONTEXT = f"<stream:stream xmlns='{SERVER}' xmlns:stream='{STREAM}' xmlns:db='{DIALBACK}'>".encode()

_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&apos;", '"': "&quot;", "\r": "&#13;", "\n": "&#10;", "\t": "&#9;"}
_SPECIAL = re.compile("[&<>'\"\r]|[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SPECIAL_IN_ATTRIBUTE = re.compile("[&<>'\"\r\n\t]|[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escape(text: str) -> str:
    """Return `text` as XML character data. Characters that XML does not allow (control characters, surrogates) become U+FFFD."""
    return _SPECIAL.sub(_escaped, text)


def escape_attribute(text: str) -> str:
    """Return `text` as the value of an attribute, for quotes of either kind. Line breaks and tabs survive normalisation."""
    return _SPECIAL_IN_ATTRIBUTE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[0], "\ufffd")


@dataclass(slots=True)
class Element:
    """One element with its children.

    An attribute's name is plain, or `namespace}name` if it is in a namespace (`namespaces.XML + "}lang"`). `text` is the
    element's own character data, joined; its position between the children is not kept.
    """

    name: str
    namespace: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Element] = field(default_factory=list)
    text: str = ""

    @classmethod
    def parse(cls, data: bytes, context: bytes = CONTEXT) -> Element:
        """Return the element in `data`, parsed inside the start tag `context`.

        Raises `RemoteFault` if it is not well-formed, not one element, or larger than `NODES` allows.
        """
        return _Tree().parse(data, context)

    def child(self, namespace: str, name: str) -> Element | None:
        """Return the first child of that name, or None."""
        for child in self.children:
            if child.name == name and child.namespace == namespace:
                return child
        return None

    def every(self, namespace: str, name: str) -> Iterator[Element]:
        """Yield all children of that name."""
        return (child for child in self.children if child.name == name and child.namespace == namespace)

    def to_xml(self, default_namespace: str = SERVER) -> bytes:
        """Return the element as XML for a stream of ours whose default namespace is `default_namespace`."""
        written: list[str] = []
        self._write(written, default_namespace)
        return "".join(written).encode()

    def _write(self, written: list[str], default: str) -> None:
        prefix = PREFIXES.get(self.namespace)
        tag = f"{prefix}:{self.name}" if prefix else self.name
        written.append(f"<{tag}")
        if not prefix and self.namespace != default:
            default = self.namespace
            written.append(f" xmlns='{escape_attribute(default)}'")
        for number, (name, value) in enumerate(self.attributes.items()):
            written.append(_attribute(number, name, value))
        if not self.children and not self.text:
            written.append("/>")
            return
        written.append(f">{escape(self.text)}")
        for child in self.children:
            child._write(written, default)
        written.append(f"</{tag}>")


def _attribute(number: int, name: str, value: str) -> str:
    namespace, brace, local = name.rpartition("}")
    quoted = escape_attribute(value)
    if not brace:
        return f" {name}='{quoted}'"
    if namespace == XML:
        return f" xml:{local}='{quoted}'"
    return f" xmlns:n{number}='{escape_attribute(namespace)}' n{number}:{local}='{quoted}'"


def child_names(data: bytes) -> tuple[str, ...]:
    """Return the names of the children of the element that `data` is, inside `CONTEXT`, as `namespace}name`.

    Raises `RemoteFault` where it is not well-formed.
    """
    names: list[str] = []
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth == 2:
            names.append(name)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1

    parser = restricted_parser()
    parser.Parse(CONTEXT, False)
    parser.StartElementHandler, parser.EndElementHandler = start, end
    try:
        parser.Parse(data, False)
    except expat.ExpatError as error:
        raise malformed(error) from None
    return tuple(names)


class _Tree:
    """Builds the tree of one slice; the context's own element is the root above it."""

    def __init__(self) -> None:
        self._root = Element("", "")
        self._open: list[Element] = []
        self._nodes = 0
        self._namespaces: dict[str, str] = {}  # each is kept once: a long one may be that of many elements

    def parse(self, data: bytes, context: bytes) -> Element:
        parser = restricted_parser()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        try:
            parser.Parse(context, False)
            parser.Parse(data, False)
        except expat.ExpatError as error:
            raise malformed(error) from None
        unread = len(context) + len(data) - parser.CurrentByteIndex
        if unread or len(self._open) != 1 or len(self._root.children) != 1 or self._root.text.strip():
            raise RemoteFault(StreamCondition.NOT_WELL_FORMED, "not exactly one element")
        return self._root.children[0]

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._nodes += 1
        if self._nodes > NODES + 1 or len(self._open) > DEPTH or len(name) > NAME_LENGTH:
            text = f"more than {NODES} elements, deeper than {DEPTH}, or a name longer than {NAME_LENGTH}"
            raise RemoteFault(StreamCondition.POLICY_VIOLATION, text)
        if not self._open:
            self._open.append(self._root)
            return
        namespace, _, local = name.rpartition("}")
        element = Element(local, self._namespaces.setdefault(namespace, namespace), attributes)
        self._open[-1].children.append(element)
        self._open.append(element)

    def _end(self, name: str) -> None:
        self._open.pop()

    def _text(self, text: str) -> None:
        self._open[-1].text += text


#: RFC 6120 §8.3.3: what the sender of a stanza can do about each condition.
ERROR_TYPES = {
    StanzaCondition.BAD_REQUEST: "modify",
    StanzaCondition.FEATURE_NOT_IMPLEMENTED: "cancel",
    StanzaCondition.FORBIDDEN: "auth",
    StanzaCondition.INTERNAL_SERVER_ERROR: "cancel",
    StanzaCondition.ITEM_NOT_FOUND: "cancel",
    StanzaCondition.NOT_ACCEPTABLE: "modify",
    StanzaCondition.NOT_ALLOWED: "cancel",
    StanzaCondition.NOT_AUTHORIZED: "auth",
    StanzaCondition.POLICY_VIOLATION: "modify",
    StanzaCondition.REMOTE_SERVER_NOT_FOUND: "cancel",
    StanzaCondition.REMOTE_SERVER_TIMEOUT: "wait",
    StanzaCondition.RESOURCE_CONSTRAINT: "wait",
    StanzaCondition.SERVICE_UNAVAILABLE: "cancel",
    StanzaCondition.UNDEFINED_CONDITION: "cancel",
}


def stream_error(condition: StreamCondition, text: str = "") -> Element:
    """Return `<stream:error/>` with its condition and a text with the fault and the reason (RFC 6120 §4.9, R15)."""
    return Element("error", STREAM, children=_condition(condition, text, STREAM_ERRORS))


def stanza_error(condition: StanzaCondition, text: str = "") -> Element:
    """Return `<error/>` for a stanza of type "error", or for a dialback answer (RFC 6120 §8.3, XEP-0220 §2.5)."""
    return Element("error", SERVER, {"type": ERROR_TYPES[condition]}, _condition(condition, text, STANZA_ERRORS))


def _condition(condition: str, text: str, namespace: str) -> list[Element]:
    children = [Element(str(condition), namespace)]
    if text:
        children.append(Element("text", namespace, {f"{XML}}}lang": "en"}, text=text))
    return children
