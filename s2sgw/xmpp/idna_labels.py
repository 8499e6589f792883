"""Labels of internationalised domain names: A-label and U-label (RFC 5890), and whether both readings of a label agree.

RFC 7622 reads a domain by IDNA 2008. Servers that follow RFC 3920, which are most, read it by nameprep (RFC 3491, Unicode 3.2).
If the two differ, such a server takes `faß.example` for `fass.example`, another party's domain.
"""

from __future__ import annotations

import stringprep
from bisect import bisect_right, insort
from encodings import idna as idna2003
from functools import lru_cache

import idna

PREFIX = "xn--"
#: RFC 1035 §2.3.4: bytes of a label, and of a name as text.
LABEL_BYTES, NAME_BYTES = 63, 253

#: Results that are kept, for labels that are requested several times in a row. Names in long use are kept as names
#: (`xmpp.jid`), where strangers' names cannot remove them.
_CACHED = 256
_DIGITS = "abcdefghijklmnopqrstuvwxyz0123456789"


class InvalidLabel(ValueError):
    """The text is no label. The message names the broken rule."""


def mapped(name: str) -> str:
    """Return a name with every character mapped to the user's intended one (UTS 46). Raises `InvalidLabel`."""
    try:
        return idna.uts46_remap(name, std3_rules=False, transitional=False)
    except (idna.IDNAError, UnicodeError) as error:
        raise InvalidLabel(str(error)) from None


@lru_cache(_CACHED)
def a_label(label: str) -> str:
    """Return the A-label of a U-label, which is mapped already. Raises `InvalidLabel` if it is not valid by IDNA 2008."""
    if len(label) > LABEL_BYTES - len(PREFIX):
        raise InvalidLabel("a label is too long")
    _check(label)
    found = PREFIX + punycode(label)
    if len(found) > LABEL_BYTES:
        raise InvalidLabel("a label is too long")
    return found


@lru_cache(_CACHED)
def u_label(label: str) -> str:
    """Return the U-label of an A-label in lower case. Raises `InvalidLabel` if it is not valid by IDNA 2008."""
    if len(label) > LABEL_BYTES:
        raise InvalidLabel("a label is too long")
    try:
        found = label[len(PREFIX) :].encode("ascii").decode("punycode")
    except (UnicodeError, OverflowError) as error:
        raise InvalidLabel(f"a label is no A-label: {error}") from None
    _check(found)
    if found.isascii() or PREFIX + punycode(found) != label:
        raise InvalidLabel("a label is no A-label: it spells another")
    return found


def _check(label: str) -> None:
    try:
        idna.check_label(label)
    except (idna.IDNAError, UnicodeError, IndexError) as error:
        raise InvalidLabel(str(error)) from None


@lru_cache(_CACHED)
def reads_alike(label: str, meant: str) -> bool:
    """Return whether a server with nameprep reads `label`, as written, as `meant`, the reading of IDNA 2008.

    Characters that Unicode 3.2 does not have count as read differently: some servers refuse them, others pass them unmapped.
    """
    # Python's nameprep lowers letters by today's Unicode. `meant` shows whether Unicode 3.2 had the small letter.
    if any(map(stringprep.in_table_a1, label + meant)):
        return False
    try:
        return idna2003.nameprep(label) == meant
    except UnicodeError:
        return False


def punycode(label: str) -> str:
    """Return the Punycode of a label (RFC 3492 §6.3). The time grows little faster than the length."""
    basic = [character for character in label if character < "\x80"]
    written: list[str] = [*basic, "-"] if basic else []
    positions = [at for at, character in enumerate(label) if character < "\x80"]  # of the decoder's characters, in order
    number, delta, bias = 128, 0, 72
    handled = len(basic)
    at_last = 0  # the decoder is after this many of its characters
    for code, at in sorted((ord(character), at) for at, character in enumerate(label) if character >= "\x80"):
        before = bisect_right(positions, at)
        if code > number:  # to the end of the label, through all code points between, and from its beginning
            delta += handled - at_last + 1 + (code - number - 1) * (handled + 1) + before
            number = code
        else:
            delta += before - at_last
        written += _variable(delta, bias)
        bias = _adapted(delta, handled + 1, first=handled == len(basic))
        insort(positions, at)
        handled += 1
        delta, at_last = 0, before + 1
    return "".join(written)


def _variable(delta: int, bias: int) -> list[str]:
    """Return a generalised variable-length integer (RFC 3492 §3.3)."""
    written: list[str] = []
    threshold_at = 36
    while True:
        threshold = min(max(threshold_at - bias, 1), 26)
        if delta < threshold:
            return [*written, _DIGITS[delta]]
        delta, digit = divmod(delta - threshold, 36 - threshold)
        written.append(_DIGITS[threshold + digit])
        threshold_at += 36


def _adapted(delta: int, points: int, *, first: bool) -> int:
    """Return the next bias (RFC 3492 §6.1)."""
    delta = delta // 700 if first else delta // 2
    delta += delta // points
    bias = 0
    while delta > 455:
        delta //= 35
        bias += 36
    return bias + 36 * delta // (delta + 38)
