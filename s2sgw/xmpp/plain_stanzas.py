"""Plain stanzas: short ones of the usual shape, which are found by their bytes (docs/decisions.md#plain-stanzas).

A parser without element handlers proves afterwards that the bytes are well-formed. What is found here is an element of its own
only together with that proof.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, get_args

from s2sgw.xmpp.element import NAME_LENGTH
from s2sgw.xmpp.header import Declarations
from s2sgw.xmpp.limits import FramingLimits
from s2sgw.xmpp.namespaces import XML
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
#: How many attributes that start tag has at most.
_ATTRIBUTES = 5
#: name -> kind, how a start tag of that name begins, the length of that, and the end tag
_SHAPES: dict[bytes, tuple[Kind, bytes, int, bytes]] = {
    kind.encode(): (kind, f"<{kind}".encode(), len(kind) + 1, f"</{kind}>".encode()) for kind in get_args(Kind)
}
#: What a run of plain stanzas begins with: anything else need not be looked at.
OPENINGS = tuple(opening for _, opening, _, _ in _SHAPES.values())


class PlainBounds(NamedTuple):
    """How large a plain stanza is, so that it keeps the limits of its stream whatever it contains.

    It has at most `stanza` bytes. Up to `content` bytes between its tags have no room to break a limit. Longer content has at
    most so many `tags` and `equals` signs, one of which each attribute needs, and no tag of more than `name` bytes: so long is
    the longest name of a child without the namespace that the header may declare for it.
    """

    stanza: int
    content: int
    tags: int
    equals: int
    name: int

    def keep(self, buffer: bytearray, begin: int, end: int) -> bool:
        """Return whether the content of a stanza, which is longer than `content`, is within the others."""
        if buffer.count(b"<", begin, end) > self.tags or buffer.count(b"=", begin, end) > self.equals:
            return False
        return end - begin <= self.name or max(map(len, buffer[begin:end].split(b"<"))) < self.name


def plain_bounds(limits: FramingLimits, namespaces: Iterable[str]) -> PlainBounds | None:
    """Return the bounds that keep `limits` where the header declares these namespaces; None where no stanza is plain."""
    name = NAME_LENGTH - max(map(len, (XML, *namespaces))) - 1
    if limits.stream_bytes is not None or limits.attributes < _ATTRIBUTES or name <= 0:
        return None
    # An attribute takes 5 bytes, as in ` a=''`; an element in an element 7, as in `<a></a>`; a child 4, as `<a/>`.
    content = min(5 * limits.attributes, 7 * limits.depth - 11, 4 * limits.children, name)
    # Of elements in each other, all but the innermost have two tags.
    tags = min(2 * limits.depth - 5, limits.children)
    return PlainBounds(min(limits.stanza_bytes, limits.tag_bytes), content, tags, limits.attributes, name)


def plain_stanzas(buffer: bytearray, at: int, bounds: PlainBounds, declarations: Declarations) -> tuple[list[Stanza], int]:
    """Return the plain stanzas that are complete from `at` on, one behind the other, and where the last of them ends.

    (No match object may outlive this: it would lock the buffer's size.)
    """
    found: list[Stanza] = []
    match, find, complete = _START.match, buffer.find, declarations.complete
    while (start := match(buffer, at)) is not None:
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
        try:
            stanza = Stanza(
                kind, complete(bytes(buffer[begin:end]), length, lang is not None),
                to.decode() if to else "", from_.decode() if from_ else "",
                None if type is None else type.decode(), None if id is None else id.decode(), None,
            )
        except UnicodeDecodeError:
            break
        found.append(stanza)
        at = end
    return found, at

