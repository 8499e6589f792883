"""The limits of open streams of ours: in all, for each owner, and to each server.

All streams share `StreamLimit`. When all places are in use they are shared fairly among the owners (`s2s.owners`): a stream of
the owner that has most gives way to an owner that has fewer, even if it is in use. `PeerStreamLimit` is the limit of a peer's
policy (`limits.streams`): a stream that rests gives way to a new one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from math import inf
from typing import Literal, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.net.connection import StreamConnection
from s2sgw.net.fair_slots import Owner
from s2sgw.s2s.fair_queue import RELEASED_AT_ONCE, FairQueue
from s2sgw.xmpp.ending import Cause, Ending

#: Streams open at once, in all (`[queue] streams`).
STREAMS = 4000
#: Seconds without stanzas after which a stream rests: it may be closed for another, of any owner.
REST_SECONDS = 5.0
#: Seconds between two looks for a stream that may be closed, while attempts wait.
LOOK_SECONDS = 1.0
#: At most this part of the limit, or of an owner's bound, may be streams that are being closed for others.
CLOSING_SHARE = 8
#: Streams of one owner that are examined to find the one that gives way, and owners that are served in one look.
SAMPLE = 64
PER_LOOK = 64

#: The limit that is reached: that of all streams, or that of one owner.
Limit = Literal["streams", "domains_per_stream"]


class LimitedStream(Protocol):
    """The facts about an open stream."""

    connection: StreamConnection

    @property
    def busy(self) -> bool:
        """Whether anything is in flight on it."""

    def retire(self, ending: Ending) -> None:
        """Write no more, and close gracefully when everything in flight is acknowledged, or a few seconds later."""


class StreamLimit:
    """The streams that are open and those that are being opened, by owner. `on_limit` is called when an attempt has to wait.

    A stream that is retired gives its place up at once, although it may take a few seconds to close. Another owner can have the
    place. For the bound of its own owner the stream counts until it is closed.
    """

    def __init__(self, clock: IReactorTime, limit: int = STREAMS, on_limit: Callable[[Limit], None] = lambda limit: None) -> None:
        self._clock = clock
        self._limit = limit
        self._on_limit = on_limit
        #: by owner, the one whose stream was opened last at the end
        self._open: dict[Owner, OrderedDict[LimitedStream, None]] = {}
        #: places of each owner: streams that are open, and those that are being opened
        self._held: Counter[Owner] = Counter()
        self._total = 0
        #: streams that are retired and not yet closed, with their owners, and how many each owner has
        self._closing: dict[LimitedStream, Owner] = {}
        self._closing_of: Counter[Owner] = Counter()
        #: a line for each owner and bound: the pairs of one owner may have different bounds, and a reload changes them
        self._waiting: FairQueue[tuple[Owner, int]] = FairQueue(clock, lambda line: self._free(*line, self._turns[line[0]]))
        #: attempts of each owner whose turn it is, and that have not taken a place yet
        self._turns: Counter[Owner] = Counter()
        #: how many lines at their bounds were examined by former looks
        self._examined = 0
        self._timer: IDelayedCall | None = None
        self._looked_at = -inf

    def __len__(self) -> int:
        """Return how many attempts wait for a place."""
        return len(self._waiting)

    def turn(self, owner: Owner, bound: int) -> StreamPlace | None:
        """Return the turn of an attempt if there may be a place for `owner`, to be ended with `end`; None: `wait` for it.

        The owner has at most `bound` places (0: any number). No more attempts of the owner have their turn at a time than it may
        have places, and than there are: a later attempt does not take the place of one that still waits for its handshake.
        """
        if not self._make_room(owner, bound, self._turns[owner]):
            return None
        self._turns[owner] += 1
        return StreamPlace(self, owner, bound)

    def wait_if_full(self, owner: Owner, bound: int) -> Deferred[None] | None:
        """Return None if an attempt of `owner` may have its `turn` now; otherwise `wait`."""
        return None if self._make_room(owner, bound, self._turns[owner]) else self.wait(owner, bound)

    def wait(self, owner: Owner, bound: int, first: bool = False) -> Deferred[None]:
        """Join the line of `owner`. The Deferred fires when there may be a place, or another bound: ask for the `turn` again.

        `first`: in front of all others, because this attempt had its turn, and the place was gone when it came to take it.
        """
        self._on_limit("domains_per_stream" if self._at_bound(owner, bound) else "streams")
        if self._timer is None:
            wait = self._looked_at + LOOK_SECONDS - self._clock.seconds()
            self._timer = self._clock.callLater(max(0.0, wait), self._look)
        return self._waiting.wait((owner, bound), first)

    def pass_on(self) -> None:
        """Release another attempt: one that was released ends without a turn.

        Otherwise the place would be free until the next look.
        """
        self._release()

    def reconsider(self, _config: object = None) -> None:
        """Let all that wait look at their bounds again: a reload has changed the configuration."""
        self._waiting.recall()

    def take(self, owner: Owner, bound: int) -> bool:
        """End a turn, and take a place for a stream that is being opened; False: there is none any more."""
        self._end_turn(owner)
        if not self._make_room(owner, bound):
            return False
        self._count(owner, 1)
        return True

    def give_up(self, owner: Owner) -> None:
        """End a turn without a place."""
        self._end_turn(owner)
        self._release()

    def give_back(self, owner: Owner) -> None:
        """Give the place of a failed attempt back."""
        self._count(owner, -1)
        self._release()

    def joined(self, stream: LimitedStream, owner: Owner) -> None:
        """Note that the stream is open. It keeps the place that was taken for it until it is closed."""
        self._open.setdefault(owner, OrderedDict())[stream] = None
        stream.connection.when_closed().addCallback(self._left, stream, owner)

    # --- places ---

    def _free(self, owner: Owner, bound: int, turns: int = 0) -> bool:
        """Return whether there is a place for an attempt of `owner`, besides those of so many whose turn it is already."""
        return self._total + turns < self._limit and not self._at_bound(owner, bound)

    def _at_bound(self, owner: Owner, bound: int) -> bool:
        return bool(bound) and self._held[owner] + self._closing_of[owner] + self._turns[owner] >= bound

    def _end_turn(self, owner: Owner) -> None:
        self._turns[owner] -= 1
        if not self._turns[owner]:
            del self._turns[owner]

    def _count(self, owner: Owner, number: int) -> None:
        self._total += number
        self._held[owner] += number
        if not self._held[owner]:
            del self._held[owner]

    def _left(self, _: object, stream: LimitedStream, owner: Owner) -> None:
        if self._closing.pop(stream, None) is not None:
            self._closing_of[owner] -= 1
            if not self._closing_of[owner]:
                del self._closing_of[owner]
        self._vacate(stream, owner)
        self._release()

    def _vacate(self, stream: LimitedStream, owner: Owner) -> None:
        """Free the place of `stream`, unless it is free already."""
        if stream in self._open.get(owner, ()):
            del self._open[owner][stream]
            self._count(owner, -1)
            if not self._open[owner]:
                del self._open[owner]

    def _release(self) -> None:
        """Release waiting attempts, as many as there are places."""
        self._waiting.serve(self._limit - self._total)

    # --- giving way ---

    def _make_room(self, owner: Owner, bound: int, turns: int = 0) -> bool:
        """Return whether there is a place for `owner` (see `_free`). If need be, retire a stream that has to give way to it.

        No stream of another owner gives way while an attempt of this one has its turn and waits for its handshake.
        """
        if self._free(owner, bound, turns):
            return True
        if self._at_bound(owner, bound):
            if self._closing_of[owner] < max(1, bound // CLOSING_SHARE):
                self._retire(self._longest_unused(owner, resting=True), owner)
        elif not turns:
            greatest = max(self._open, key=self._held.__getitem__, default=None)
            if greatest is not None and self._held[greatest] >= self._held[owner] + 2:
                self._retire(self._longest_unused(greatest), greatest)
        return self._free(owner, bound, turns)

    def _longest_unused(self, owner: Owner, resting: bool = False) -> LimitedStream | None:
        """Return the stream of `owner` that has been unused longest, if possible one with nothing in flight.

        `resting`: only one that rests. A few streams are examined each time, in turns.
        """
        streams = self._open.get(owner, OrderedDict())
        sample = [stream for stream in islice(streams, SAMPLE) if stream.connection.ending is None]
        found = min(sample, key=lambda stream: (stream.busy, _used(stream.connection)), default=None)
        for stream in sample:
            if stream is not found:
                streams.move_to_end(stream)
        return None if found is None or (resting and not self._rests(found)) else found

    def _rests(self, stream: LimitedStream) -> bool:
        return _used(stream.connection) <= self._clock.seconds() - REST_SECONDS and not stream.busy

    def _retire(self, stream: LimitedStream | None, owner: Owner) -> None:
        if stream is not None and len(self._closing) < max(1, self._limit // CLOSING_SHARE):
            self._vacate(stream, owner)
            self._closing[stream] = owner
            self._closing_of[owner] += 1
            stream.retire(Ending(Cause.IDLE))

    def _look(self) -> None:
        """Make room while attempts wait: first for each owner that has few streams, then by closing streams that rest."""
        self._looked_at = self._clock.seconds()
        lines: list[tuple[Owner, int]] = []
        at_bound: list[tuple[Owner, int]] = []
        for line in self._waiting.owners():
            (at_bound if self._at_bound(*line) else lines).append(line)
        # in turns, so that none is left out, and apart from the others: they may wait at their bounds for a long time
        start = self._examined % max(1, len(at_bound))
        self._examined = start + PER_LOOK
        bounded = [*at_bound[start:], *at_bound[:start]][:PER_LOOK]
        self._examine([*lines[:PER_LOOK], *bounded], self._resting() if lines else [])

    def _examine(self, lines: list[tuple[Owner, int]], resting: list[tuple[LimitedStream, Owner]]) -> None:
        """Make room for some of `lines`, and for the others in later turns of the reactor. Then wait for the next look."""
        now, later = lines[:RELEASED_AT_ONCE], lines[RELEASED_AT_ONCE:]
        # first, since an attempt that is released may wait again
        if later:
            self._timer = self._clock.callLater(0, self._examine, later, resting)
        else:
            self._timer = self._clock.callLater(LOOK_SECONDS, self._look)
        for line in now:
            turns = self._turns[line[0]]
            if not self._make_room(*line, turns) and not turns and not self._at_bound(*line):
                self._retire_resting(resting)
            if self._free(*line, turns):
                self._waiting.release(line.__eq__)
        if not len(self._waiting):
            self._timer.cancel()
            self._timer = None

    def _retire_resting(self, resting: list[tuple[LimitedStream, Owner]]) -> None:
        """Retire the one that was unused longest, if it still rests: it may be retired, or in use, since they were listed."""
        while resting:
            stream, owner = resting.pop()
            if stream in self._open.get(owner, ()) and stream.connection.ending is None and self._rests(stream):
                self._retire(stream, owner)
                return

    def _resting(self) -> list[tuple[LimitedStream, Owner]]:
        """Return the streams that rest, of any owner. The one that was unused longest is last."""
        streams = ((stream, owner) for owner, streams in self._open.items() for stream in streams)
        resting = [each for each in streams if each[0].connection.ending is None and self._rests(each[0])]
        return sorted(resting, key=lambda each: _used(each[0].connection), reverse=True)


class StreamPlace:
    """The turn of one attempt, then the place that it takes, for a stream that is being opened."""

    __slots__ = ("_bound", "_owner", "_streams", "_taken", "_turn")

    def __init__(self, streams: StreamLimit, owner: Owner, bound: int) -> None:
        self._streams = streams
        self._owner = owner
        self._bound = bound
        self._turn = True
        self._taken = False

    def take(self) -> bool:
        """Take a place; False: there is none any more, and this turn is over."""
        self._turn = False
        self._taken = self._streams.take(self._owner, self._bound)
        return self._taken

    def joined(self, stream: LimitedStream) -> None:
        """Leave the place to `stream`, which is open."""
        self._taken = False
        self._streams.joined(stream, self._owner)

    def end(self) -> None:
        """Give up the turn, or the place, unless an open stream has it."""
        if self._turn:
            self._turn = False
            self._streams.give_up(self._owner)
        elif self._taken:
            self._taken = False
            self._streams.give_back(self._owner)


def _used(connection: StreamConnection) -> float:
    return max(connection.last_sent, connection.last_received)


#: Seconds until a queue that found no room tries again.
RETRY_SECONDS = 2.0


class LimitReached(Exception):
    """As many streams as allowed are open to the server, and all are in use. The next try is in `wait` seconds."""

    def __init__(self, limit: int) -> None:
        self.ending = Ending(Cause.TOO_MANY_STREAMS, f"all {limit} streams to the server are in use")
        self.wait = RETRY_SECONDS
        super().__init__(self.ending.detail)


class PeerStreamLimit:
    """The streams of ours that are open to each server, by its name."""

    def __init__(self) -> None:
        self._open: dict[str, list[StreamConnection]] = {}
        self._entering: Counter[str] = Counter()

    @contextmanager
    def entering(self, name: str, limit: int, now: float) -> Iterator[None]:
        """Count a stream that is being opened, after making room for it. Raises `LimitReached`. A `limit` of 0: no limit."""
        if limit:
            self._make_room(name, limit, now)
        self._entering[name] += 1
        try:
            yield
        finally:
            self._entering[name] -= 1
            if not self._entering[name]:
                del self._entering[name]

    def joined(self, name: str, connection: StreamConnection) -> None:
        """Note that the stream is open."""
        self._open.setdefault(name, []).append(connection)
        connection.when_closed().addCallback(self._left, name, connection)

    def _make_room(self, name: str, limit: int, now: float) -> None:
        streams = [each for each in self._open.get(name, ()) if each.ending is None]
        if len(streams) + self._entering[name] < limit:
            return
        longest = min(streams, key=_used, default=None)
        if longest is None or now - _used(longest) < REST_SECONDS:
            raise LimitReached(limit)
        longest.close(Ending(Cause.IDLE))

    def _left(self, _: object, name: str, connection: StreamConnection) -> None:
        self._open[name].remove(connection)
        if not self._open[name]:
            del self._open[name]
