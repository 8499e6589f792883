"""Room for streams of ours: so many in all. Where there are as many, those that have rested longest are closed for the sake of
the lanes that wait, which get their places in the order in which they came.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.net.connection import StreamConnection
from s2sgw.xmpp.ending import Cause, Ending

#: Streams open at once, in all.
STREAMS = 4000
#: Seconds without stanzas after which a stream may be closed for the sake of another.
AT_REST = 5.0
#: Seconds between two looks for such a one.
LOOK = 1.0


class LimitedStream(Protocol):
    """What is needed of an open stream."""

    connection: StreamConnection

    @property
    def busy(self) -> bool:
        """Something is in flight on it."""


class StreamLimit:
    """The open streams, and those that wait to be opened. One that is being closed takes its place until it is gone."""

    def __init__(self, clock: IReactorTime, limit: int = STREAMS) -> None:
        self._clock = clock
        self._limit = limit
        self._open: dict[LimitedStream, None] = {}
        self._entering = 0
        self._waiting: deque[Deferred[None]] = deque()
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        """How many wait for a place."""
        return len(self._waiting)

    @asynccontextmanager
    async def entering(self) -> AsyncIterator[None]:
        """A place for a stream that is being opened, for which it may have to wait; `joined` makes it the stream's own."""
        if self._waiting or self._full:
            await self._queue()
        else:
            self._entering += 1
        try:
            yield
        finally:
            self._entering -= 1
            self._next()

    def joined(self, stream: LimitedStream) -> None:
        """The stream is open."""
        self._open[stream] = None
        stream.connection.when_closed().addCallback(lambda _: self._left(stream))

    @property
    def _full(self) -> bool:
        return len(self._open) + self._entering >= self._limit

    def _queue(self) -> Deferred[None]:
        waiter: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        if self._timer is None:
            self._look()
        return waiter

    def _left(self, stream: LimitedStream) -> None:
        del self._open[stream]
        self._next()

    def _next(self) -> None:
        while self._waiting and not self._full:
            self._entering += 1
            self._waiting.popleft().callback(None)

    def _look(self) -> None:
        """As long as somebody waits: close as many as there are lanes without a place, the longest unused first."""
        self._timer = None
        leaving = sum(stream.connection.ending is not None for stream in self._open)
        before = self._clock.seconds() - AT_REST
        resting = [stream for stream in self._open if _used(stream.connection) <= before and not stream.busy]
        wanted = max(0, len(self._waiting) - leaving)
        for stream in sorted((each for each in resting if each.connection.ending is None),
        key=lambda each: _used(each.connection))[:wanted]:
            stream.connection.close(Ending(Cause.IDLE))
        if self._waiting:
            self._timer = self._clock.callLater(LOOK, self._look)


def _used(connection: StreamConnection) -> float:
    return max(connection.last_sent, connection.last_received)


# How many streams we have open to each server: where there are as many as it has to bear, one at rest makes room.
#: Seconds until a lane that found no room tries again.
AGAIN = 2.0


class LimitReached(Exception):
    """There are so many streams to the server, all at work; it is worth a try again in `wait` seconds."""

    def __init__(self, limit: int) -> None:
        self.ending = Ending(Cause.TOO_MANY_STREAMS, f"all {limit} streams to the server are in use")
        self.wait = AGAIN
        super().__init__(self.ending.detail)


class PeerStreamLimit:
    """The streams of ours that are open, by the name of the server."""

    def __init__(self) -> None:
        self._open: dict[str, list[StreamConnection]] = {}
        self._entering: Counter[str] = Counter()

    @contextmanager
    def entering(self, name: str, limit: int, now: float) -> Iterator[None]:
        """One more is on its way, for which room is made; raises `LimitReached` where none is to be had. A `limit` of 0 is
        none.
        """
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
        """A stream is open."""
        self._open.setdefault(name, []).append(connection)
        connection.when_closed().addCallback(lambda _: self._left(name, connection))

    def _make_room(self, name: str, limit: int, now: float) -> None:
        streams = [each for each in self._open.get(name, ()) if each.ending is None]
        if len(streams) + self._entering[name] < limit:
            return
        longest = min(streams, key=_used, default=None)
        if longest is None or now - _used(longest) < AT_REST:
            raise LimitReached(limit)
        longest.close(Ending(Cause.IDLE))

    def _left(self, name: str, connection: StreamConnection) -> None:
        self._open[name].remove(connection)
        if not self._open[name]:
            del self._open[name]
