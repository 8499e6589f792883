"""A stranger's text made safe for display: in the log, on a terminal, on a page (docs/decisions.md#endings)."""

from __future__ import annotations

import re
from itertools import repeat

#: Characters of a stranger's text that are shown. The rest is cut, with a mark.
SHOWN = 400
_CUT = "…"
#: The character behind the backslash of an escape of ours.
_BEGINS = "\\xuU"
_NEEDS_QUOTES = re.compile('[ "=]')
#: Texts of printable ASCII characters that need neither quotes nor escapes.
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+\Z")


def printable(text: str, limit: int = SHOWN) -> str:
    """Return `text` in one line without control, format (bidi), private and unassigned characters, at most `limit` long.

    Other characters are written as `\\xNN`, `\\uNNNN` or `\\UNNNNNNNN`. A backslash is doubled if it could be taken for the
    beginning of such an escape, so that two different texts are shown differently. Any other backslash is written unchanged:
    `CN=Example\\, Inc.` (RFC 4514).
    """
    return _shown(text, limit, shown_next=None)


def quoted(text: str, limit: int = SHOWN) -> str:
    """Return the text in printable characters, in quotes if a reader of `key=value` pairs needs them.

    Every backslash is doubled: one before a quote would end the quoted text.
    """
    if len(text) <= limit and _PLAIN.match(text) is not None:
        return text
    shown = _shown(text, limit, shown_next="\\")
    if shown and _NEEDS_QUOTES.search(shown) is None:
        return shown
    return '"' + shown.replace('"', '\\"') + '"'


def _shown(text: str, limit: int, shown_next: str | None) -> str:
    """Return the text. `shown_next` replaces the character behind each one; None: the real next character counts."""
    shown = text if len(text) <= limit else text[:limit]
    if not shown.isprintable() or "\\" in shown:
        shown = "".join(map(_escaped, shown, repeat(shown_next) if shown_next else shown[1:] + "\\"))
    return shown if len(text) <= limit else shown + _CUT


def _escaped(character: str, follows: str) -> str:
    """Return a character in its display form, given the one that `follows`."""
    if character == "\\":
        return "\\" if follows.isprintable() and follows not in _BEGINS else "\\\\"
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
