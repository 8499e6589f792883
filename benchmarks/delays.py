"""The delay of a stanza between two processes of this machine: its id has the time of sending."""

from __future__ import annotations

import re
import time

#: Digits of an id, and the period of its microseconds of this machine's monotonic clock.
_DIGITS = 10
_WRAP = int("1" + "0" * _DIGITS)
_ID = re.compile(rb"<message [^>]*\bid='([0-9]{%d})'[^>]*>" % _DIGITS)
#: Longer than any start tag of such a message.
_TAG = 512


def stamp() -> bytes:
    """Return an id for a message that is sent now."""
    return b"%0*d" % (_DIGITS, _now())


def _now() -> int:
    return (time.monotonic_ns() // 1000) % _WRAP


class Delays:
    """A finder of stamped messages in a stream that arrives in pieces."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes, milliseconds: list[float]) -> None:
        """Add the delay of each message that begins in these new bytes to `milliseconds`."""
        now, text, end = _now(), self._tail + data, 0
        for found in _ID.finditer(text):
            milliseconds.append((now - int(found[1])) % _WRAP / 1000)
            end = found.end()
        self._tail = text[end:][-_TAG:]
