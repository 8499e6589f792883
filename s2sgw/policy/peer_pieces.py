"""Cut a long configuration into sections of peers and the rest, so that not all of it is in memory as tables at once.

Each section is read as a document of its own, and so is the rest. Together they say what the file says if each of them is valid,
and no peer is in two of them. If that is not so, the whole file is to be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

#: Characters from which on a file is cut.
LONG = 65_536

#: The header of a peer's section with its name, of a table within such a section, or any other header. A row of an array may look
#: like the last.
_HEADER = re.compile(r'\n(?:\[peers\.(?:"([^"\\\x00-\x1f\x7f]+)"|([A-Za-z0-9_-]+))\]|(\[peers\.)|[ \t]*\[)')
_WITHIN = 3


class Piece(NamedTuple):
    """A section of a peer: the name in its header, and what is behind it. With tables within: "", and the whole section."""

    name: str
    body: str

    @property
    def document(self) -> str:
        """Return the section as a TOML document."""
        return f'[peers."{self.name}"]{self.body}' if self.name else self.body


def cut(text: str) -> tuple[str, Iterator[Piece]]:
    """Return the rest of a file, and its sections of peers. A short file is not cut, and has no pieces.

    The first and the last of adjacent sections stay in the rest: after an array that is still open, the header of the last one is
    an error. Strings of several lines might contain lines that look like headers, so a file with such strings is not cut.
    """
    if len(text) < LONG or '"""' in text or "'''" in text:
        return text, iter(())
    rest: list[str] = []
    gaps = list(_gaps(text))
    at = 0
    for gap in gaps:
        rest.append(text[at : gap.start])
        at = gap.stop
    rest.append(text[at:])
    return "".join(rest), (piece for gap in gaps for piece in _pieces(text, gap))


def _gaps(text: str) -> Iterator[slice]:
    """Yield the places of the sections between the first and the last of adjacent ones."""
    count = second = last = 0
    for found in _HEADER.finditer(text):
        if found.lastindex is None:
            if count > 2:
                yield slice(second, last)
            count = 0
        elif found.lastindex != _WITHIN:
            count += 1
            last = found.start() + 1
            second = last if count == 2 else second
    if count > 2:
        yield slice(second, last)


def _pieces(text: str, gap: slice) -> Iterator[Piece]:
    begun: re.Match[str] | None = None
    within = False
    for found in _HEADER.finditer(text, gap.start - 1, gap.stop):
        if found.lastindex == _WITHIN:
            within = True
            continue
        if begun is not None:
            yield _piece(begun, within, found.start() + 1)
        begun, within = found, False
    if begun is not None:
        yield _piece(begun, within, gap.stop)


def _piece(header: re.Match[str], within: bool, end: int) -> Piece:
    text = header.string
    return Piece("", text[header.start() + 1 : end]) if within else Piece(header[1] or header[2], text[header.end() : end])
