"""Bytes read as decisions: the same bytes make the same decisions, so that a case is one file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class Source:
    """The decisions in the bytes of one input. At its end every decision is the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        """Return whether there are bytes left."""
        return self._at < len(self._data)

    def byte(self) -> int:
        """Return the next byte, or 0."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def flag(self) -> bool:
        """Return a decision."""
        return bool(self.byte() & 1)

    def choose(self, among: Sequence[T]) -> T:
        """Return one of several values."""
        return among[self.byte() % len(among)]

    def take(self, most: int) -> bytes:
        """Return up to this many bytes unchanged."""
        size = self.byte() * (most + 1) // 256
        self._at += size
        return self._data[self._at - size : self._at]

    def rest(self) -> bytes:
        """Return all remaining bytes."""
        found, self._at = self._data[self._at :], len(self._data)
        return found

    def mutated(self, data: bytes) -> bytes:
        """Return `data` with a few changes: bytes replaced, removed, doubled, or the end cut off."""
        changed = bytearray(data)
        for _ in range(self.byte() % 4):
            at = (self.byte() << 8 | self.byte()) % (len(changed) + 1)
            change: Callable[[], None] = self.choose((
                lambda at=at: changed.__setitem__(slice(at, at + 1), bytes((self.byte(),))),
                lambda at=at: changed.__delitem__(slice(at, at + 1 + self.byte() % 8)),
                lambda at=at: changed.__setitem__(slice(at, at), changed[at : at + 1 + self.byte() % 32]),
                lambda at=at: changed.__delitem__(slice(at, None)),
                lambda at=at: changed.__setitem__(slice(at, at), self.take(16)),
            ))
            change()
        return bytes(changed)
