"""The order of stanzas of one pair that wait on several streams: the stream that waited first goes first (R35).

A server whose stream broke sends the next stanzas on another one, while earlier ones may still wait for the pair's admission.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from s2sgw.xmpp.jid import Pair


class Waiting(Protocol):
    """The stanzas of a pair on one stream, some of which wait."""

    @property
    def pair(self) -> Pair: ...

    def go_on(self) -> None:
        """Pass on the waiting stanzas until there is a reason to wait again. Leave the line if nothing waits any more."""


class PairLines:
    """The streams on which stanzas wait, by pair, in a line each."""

    def __init__(self) -> None:
        self._lines: dict[Pair, deque[Waiting]] = {}
        self._moving: set[Pair] = set()

    def __len__(self) -> int:
        return len(self._lines)

    def must_wait(self, one: Waiting) -> bool:
        """Return whether stanzas of the pair wait on another stream that was first."""
        line = self._lines.get(one.pair)
        return line is not None and line[0] is not one

    def join(self, one: Waiting) -> None:
        """Put this stream into the line: stanzas wait on it."""
        line = self._lines.setdefault(one.pair, deque())
        if one not in line:
            line.append(one)

    def leave(self, one: Waiting) -> None:
        """Take this stream out of the line: nothing waits on it any more. If it was the first, let the next go on."""
        pair, line = one.pair, self._lines.get(one.pair)
        if line is None or one not in line:
            return
        was_first = line[0] is one
        line.remove(one)
        if not was_first or pair in self._moving:
            return
        self._moving.add(pair)
        try:
            while line:
                first = line[0]
                first.go_on()
                if line and line[0] is first:
                    break
        finally:
            self._moving.discard(pair)
            if not line:
                del self._lines[pair]
