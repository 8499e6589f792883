"""What a stranger said, made fit to be shown: in the log, on a terminal, on a page (docs/decisions.md#endings)."""

from __future__ import annotations

import re
from itertools import repeat

#: Characters of a stranger's text that are shown; the rest is cut and marked.
SHOWN = 400
_CUT = "…"
#: What stands behind the backslash of an escape of ours.
_BEGINS = "\\xuU"
_NEEDS_QUOTES = re.compile('[ "=]')


def printable(text: str, limit: int = SHOWN) -> str:
    """Return `text` in one line without control, format (bidi), private and unassigned characters, at most `limit` long.

    What is not printable is written as `\\xNN`, `\\uNNNN` or `\\UNNNNNNNN`. A backslash is written as two where it could be
    taken for the beginning of an escape of ours, so that two texts that differ are shown differently. Any other backslash is
    written as it is: `CN=Example\\, Inc.` (RFC 4514).
    """
    return _shown(text, limit, shown_next=None)


def quoted(text: str, limit: int = SHOWN) -> str:
    """Return the text in printable characters, in quotes where a reader of `key=value` pairs needs them.

    Every backslash is written as two: one before a quote would end the quoted text.
    """
    shown = _shown(text, limit, shown_next="\\")
    if shown and _NEEDS_QUOTES.search(shown) is None:
        return shown
    return '"' + shown.replace('"', '\\"') + '"'


def _shown(text: str, limit: int, shown_next: str | None) -> str:
    """Return the text. `shown_next` is taken for the character behind each one; None: the one that is there."""
    shown = text if len(text) <= limit else text[:limit]
    if not shown.isprintable() or "\\" in shown:
        shown = "".join(map(_escaped, shown, repeat(shown_next) if shown_next else shown[1:] + "\\"))
    return shown if len(text) <= limit else shown + _CUT


def _escaped(character: str, follows: str) -> str:
    """Return a character as it is shown before the one that `follows`."""
    if character == "\\":
        return "\\" if follows.isprintable() and follows not in _BEGINS else "\\\\"
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
