"""The order of stanzas of one pair that wait on several streams: the stream that waited first goes first (R35).

A server whose stream broke sends the next stanzas on another one, while earlier ones may still wait for the pair's admission.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from s2sgw.xmpp.jid import Domain, Pair


class Waiting(Protocol):
    """The stanzas of a pair on one stream, some of which wait."""

    @property
    def pair(self) -> Pair: ...

    @property
    def passes(self) -> bool:
        """Whether stanzas wait that are on their way to the queue: their pair is admitted."""

    @property
    def stream(self) -> object:
        """The stream that brings them."""

    def waits_for(self, stream: object) -> bool:
        """Return whether they wait for what is unread on `stream`, which is older."""

    def go_on(self) -> None:
        """Pass on the waiting stanzas until there is a reason to wait again. Leave the line if nothing waits any more."""

    def abandon(self) -> None:
        """Give up what waits, and whatever comes later: another node has the pair. This stream is in no line any more."""


class PairLines:
    """The streams on which stanzas wait, by pair, in a line each."""

    def __init__(self) -> None:
        self._lines: dict[Pair, deque[Waiting]] = {}
        self._moving: set[Pair] = set()
        #: the pairs with lines of each home, if there are several nodes (`index_by`)
        self._home: Callable[[Pair], Domain] | None = None
        self._of_home: dict[Domain, set[Pair]] = {}

    def index_by(self, home: Callable[[Pair], Domain]) -> None:
        """List the lines by `home` of their pair from now on. Call this before the first stanza waits."""
        self._home = home

    def of_home(self, home: Domain) -> list[Waiting]:
        """Return the streams on which stanzas wait whose home is `home`."""
        return [one for pair in self._of_home.get(home, ()) for one in self._lines.get(pair, ())]

    def abandon(self, home: Domain) -> None:
        """Give up all that waits and has this home. No other stream of one of these pairs goes on instead."""
        given_up = self.of_home(home)
        for pair in self._of_home.pop(home, ()):
            self._lines.pop(pair, None)
        for one in given_up:
            one.abandon()

    def __len__(self) -> int:
        return len(self._lines)

    def must_wait(self, one: Waiting) -> bool:
        """Return whether stanzas of the pair wait on another stream that was first."""
        line = self._lines.get(one.pair)
        return line is not None and line[0] is not one and not line[0].waits_for(one.stream)

    def holds_up(self, one: Waiting) -> bool:
        """Return whether this stream is the first, and stanzas wait on others behind it."""
        line = self._lines.get(one.pair)
        return line is not None and len(line) > 1 and line[0] is one

    def join(self, one: Waiting) -> None:
        """Put this stream into the line: stanzas wait on it. It comes before those that wait for it."""
        line = self._lines.get(one.pair)
        if line is None:
            line = self._lines[one.pair] = deque()
            if self._home is not None:
                self._of_home.setdefault(self._home(one.pair), set()).add(one.pair)
        if one not in line:
            line.insert(next((at for at, each in enumerate(line) if each.waits_for(one.stream)), len(line)), one)

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
            if not line and self._lines.get(pair) is line:
                self._forget(pair)

    def _forget(self, pair: Pair) -> None:
        """Forget the empty line of a pair."""
        del self._lines[pair]
        pairs = None if self._home is None else self._of_home.get(home := self._home(pair))
        if pairs is not None:
            pairs.discard(pair)
            if not pairs:
                del self._of_home[home]
