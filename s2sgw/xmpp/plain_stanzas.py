"""Plain stanzas: short ones of the usual shape, which are found by their bytes (docs/decisions.md#plain-stanzas). So are the
requests and acknowledgements between them (XEP-0198 §4).

A parser without element handlers proves afterwards that the bytes are well-formed. What is found here is an element of its own
only together with that proof.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple, get_args

from s2sgw.xmpp.element import NAME_LENGTH, Element
from s2sgw.xmpp.header import Declarations
from s2sgw.xmpp.limits import NAMES_LENGTH, FramingLimits
from s2sgw.xmpp.namespaces import MANAGEMENT, XML
from s2sgw.xmpp.stanza import Kind, Stanza

#: White space, then a start tag that has no attributes but these, each in quotes and without references, line breaks, tabs and
#: quotes. It declares no namespace, so its name is in that of the stream.
_START = re.compile(rb"""[ \t\r\n]*<(message|presence|iq)(?:\x20(?:
    to=(['"])([^'"<&\t\r\n]*)\2
    |from=(['"])([^'"<&\t\r\n]*)\4
    |type=(['"])([^'"<&\t\r\n]*)\6
    |id=(['"])([^'"<&\t\r\n]*)\8
    |(xml:lang)=(['"])[^'"<&\t\r\n]*\11
))*\x20?(/)?>""", re.VERBOSE)
#: White space, then `<r/>` or `<a/>`, without a prefix. It is one of XEP-0198 if its namespace is there.
_ACKNOWLEDGEMENT = re.compile(
    rb"""[ \t\r\n]*<([ra])(?:\x20(?:xmlns=(['"])urn:xmpp:sm:3\2|h=(['"])([0-9]{1,10})\3))*\x20?/>"""
)
_ACKNOWLEDGEMENTS = frozenset({f"{MANAGEMENT}}}r", f"{MANAGEMENT}}}a"})
#: It is shorter than so many bytes.
_ACKNOWLEDGEMENT_BYTES = 64
#: The maximum number of attributes of that start tag.
_ATTRIBUTES = 5
#: name -> kind, how a start tag of that name begins, the length of that, and the end tag
_SHAPES: dict[bytes, tuple[Kind, bytes, int, bytes]] = {
    kind.encode(): (kind, f"<{kind}".encode(), len(kind) + 1, f"</{kind}>".encode()) for kind in get_args(Kind)
}
#: The beginning of a run of plain stanzas. Other input need not be checked.
OPENINGS = (*(opening for _, opening, _, _ in _SHAPES.values()), b"<r ", b"<a ")


class PlainBounds(NamedTuple):
    """The size of a plain stanza that keeps the limits of its stream whatever it contains.

    It has at most `stanza` bytes. Up to `content` bytes between its tags have no room to break a limit. Longer content has at
    most so many `tags` and `equals` signs, one of which each attribute needs, and no tag of more than `name` bytes: so long is
    the longest name without the namespace that the header may declare for it. If it is longer than that, it declares no prefix.
    `elements` acknowledgements are read in one feed.
    """

    stanza: int
    content: int
    tags: int
    equals: int
    name: int
    elements: int

    def keep(self, buffer: bytearray, begin: int, end: int) -> bool:
        """Return whether the content of a stanza, which is longer than `content`, is within the others."""
        if buffer.count(b"<", begin, end) > self.tags or buffer.count(b"=", begin, end) > self.equals:
            return False
        if end - begin <= self.name:
            return True
        if buffer.find(b"xmlns:", begin, end) >= 0:  # one tag may hold the namespace of an attribute, another its name
            return False
        return max(map(len, buffer[begin:end].split(b"<"))) < self.name


def plain_bounds(
    limits: FramingLimits, namespaces: Iterable[str], stop_at: Collection[str] = (),
) -> PlainBounds | None:
    """Return the bounds that keep `limits` where the header declares these namespaces; None where no stanza is plain.

    An acknowledgement is not plain where the framer is to stop at one (`stop_at`).
    """
    longest = max(map(len, (XML, *namespaces))) + 1
    name, children = NAME_LENGTH - longest, min(limits.children, NAMES_LENGTH // longest)
    if limits.stream_bytes is not None or limits.attributes < _ATTRIBUTES or name <= 0:
        return None
    # An attribute takes 5 bytes, as in ` a=''`; an element in an element 7, as in `<a></a>`; a child 4, as `<a/>`.
    content = min(5 * limits.attributes, 7 * limits.depth - 11, 4 * children, name)
    # Of elements in each other, all but the innermost have two tags.
    tags = min(2 * limits.depth - 5, children)
    is_ready = min(limits.element_bytes, limits.tag_bytes) >= _ACKNOWLEDGEMENT_BYTES and _ACKNOWLEDGEMENTS.isdisjoint(stop_at)
    elements = limits.elements - 1 if is_ready else 0
    return PlainBounds(min(limits.stanza_bytes, limits.tag_bytes), content, tags, limits.attributes, name, elements)


def plain_stanzas(
    buffer: bytearray, at: int, bounds: PlainBounds, declarations: Declarations, elements: int = 0,
) -> tuple[list[Stanza | Element], int, int]:
    """Return the plain stanzas that are complete from `at` on, one behind the other, and where the last of them ends.

    Acknowledgements are among them, at most `elements`; the last number is how many. (No match object may outlive this: it would
    lock the buffer's size.)
    """
    found: list[Stanza | Element] = []
    elements_left = elements
    match, find = _START.match, buffer.find
    while True:
        start = match(buffer, at)
        if start is None:
            acknowledgement = _ACKNOWLEDGEMENT.match(buffer, at) if elements_left > 0 else None
            if acknowledgement is None or acknowledgement[2] is None:
                break
            elements_left -= 1
            h = acknowledgement[4]
            attributes = {} if h is None else {"h": h.decode()}
            found.append(Element(acknowledgement[1].decode(), MANAGEMENT, attributes))
            at = acknowledgement.end()
            continue
        name, _, to, _, from_, _, type, _, id, lang, _, empty = start.groups()
        kind, opening, length, closing = _SHAPES[name]
        end = inside = start.end()
        begin = start.start(1) - 1
        if empty is None:
            close = find(closing, inside)
            if close < 0 or find(opening, inside, close) >= 0:
                break
            if close - inside > bounds.content and not bounds.keep(buffer, inside, close):
                break
            end = close + len(closing)
        if end - begin > bounds.stanza:
            break
        data = bytes(buffer[begin:end])
        if declarations.adds or b"db:" in data:
            data = declarations.complete(data, length, lang is not None)
        try:
            stanza = Stanza(
                kind, data,
                to.decode() if to else "", from_.decode() if from_ else "",
                None if type is None else type.decode(), None if id is None else id.decode(), None,
            )
        except UnicodeDecodeError:
            break
        found.append(stanza)
        at = end
    return found, at, elements - elements_left

