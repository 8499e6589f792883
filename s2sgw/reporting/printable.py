"""What a stranger said, made fit to be shown: in the log, on a terminal, on a page (docs/decisions.md#endings)."""

from __future__ import annotations

import re

#: Characters of a stranger's text that are shown; the rest is cut and marked.
SHOWN = 400
_CUT = "…"
_NEEDS_QUOTES = re.compile('[ "=]')


def printable(text: str, limit: int = SHOWN) -> str:
    """`text` in one line without control, format (bidi), private and unassigned characters, at most `limit` long.

    What is not printable is written as `\\xNN`, `\\uNNNN` or `\\UNNNNNNNN`, and a backslash as two, so that nothing that
    was said can look like an escape of ours.
    """
    shown = text if len(text) <= limit else text[:limit]
    if not shown.isprintable() or "\\" in shown:
        shown = "".join(map(_escaped, shown))
    return shown if len(text) <= limit else shown + _CUT


def quoted(text: str, limit: int = SHOWN) -> str:
    """`printable`, in quotes where a reader of `key=value` pairs needs them."""
    shown = printable(text, limit)
    if shown and _NEEDS_QUOTES.search(shown) is None:
        return shown
    return '"' + shown.replace('"', '\\"') + '"'


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
