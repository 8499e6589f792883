"""Room for streams of ours: so many in all. Where there are as many, those that have rested longest are closed for the sake of
the lanes that wait, which get their places in the order in which they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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


class Stream(Protocol):
    """What is needed of an open stream."""

    connection: StreamConnection

    @property
    def busy(self) -> bool:
        """Something is in flight on it."""


class Room:
    """The open streams, and those that wait to be opened. One that is being closed takes its place until it is gone."""

    def __init__(self, clock: IReactorTime, limit: int = STREAMS) -> None:
        self._clock = clock
        self._limit = limit
        self._open: dict[Stream, None] = {}
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

    def joined(self, stream: Stream) -> None:
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

    def _left(self, stream: Stream) -> None:
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
        resting = [stream for stream in self._open if _used(stream) <= before and not stream.busy]
        wanted = max(0, len(self._waiting) - leaving)
        for stream in sorted((each for each in resting if each.connection.ending is None), key=_used)[:wanted]:
            stream.connection.close(Ending(Cause.IDLE))
        if self._waiting:
            self._timer = self._clock.callLater(LOOK, self._look)


def _used(stream: Stream) -> float:
    return max(stream.connection.last_sent, stream.connection.last_received)
