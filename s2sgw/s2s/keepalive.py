"""Streams at rest: kept alive, checked for life, closed when unused, and made small (R37, docs/decisions.md#idle-streams).

One timing wheel serves all streams. Each stands in the slot of the moment at which it is looked at next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from weakref import ref

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from s2sgw.net.connection import StreamConnection
from s2sgw.xmpp.ending import Cause, Ending

#: Seconds from one slot to the next, and number of slots. A look is put off by at most one round of the wheel.
TICK = 5.0
SLOTS = 128
#: Streams that are looked at in one turn of the reactor.
AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class KeepAliveLimits:
    """Seconds. `rest`: silence after which a stream is made small. `keep_alive`: between two signs of life of ours.

    `answer`: for the other side to acknowledge a request. `blocked`: how long it may read nothing. `unused`: without stanzas,
    after which a stream of ours is closed. `silent`: without any input, after which a stream of theirs is closed.
    """

    rest: float = 15.0
    keep_alive: float = 120.0
    answer: float = 60.0
    blocked: float = 60.0
    unused: float = 600.0
    silent: float = 3600.0


class KeepAliveEntry:
    """One stream on the wheel."""

    __slots__ = ("asked", "connection", "rested", "signed")

    def __init__(self, connection: StreamConnection, now: float) -> None:
        #: weak, so that a connection that is gone does not stay in memory until its slot comes
        self.connection = ref(connection)
        #: the times of our last sign of life, of the last input, of the last compaction, and of the last request for a sign of
        #: life
        self.signed = now
        self.rested = -1.0
        self.asked: float | None = None


class KeepAlive:
    """Watches every stream from its connection to its end. Call `turn` every `TICK` seconds."""

    def __init__(self, clock: IReactorTime, bounds: KeepAliveLimits = KeepAliveLimits()) -> None:
        self._clock = clock
        self._bounds = bounds
        self._slots: list[list[KeepAliveEntry]] = [[] for _ in range(SLOTS)]
        self._at = 0

    def __len__(self) -> int:
        """Return the number of streams on the wheel. A stream that has ended leaves it when its slot comes."""
        return sum(map(len, self._slots))

    def keep(self, connection: StreamConnection) -> StreamConnection:
        """Watch `connection` until it ends."""
        self._put(KeepAliveEntry(connection, self._clock.seconds()), self._bounds.rest)
        return connection

    def turn(self) -> Deferred[None]:
        """Look at the streams of the next slot, a few in each turn of the reactor. Fails with an `ExceptionGroup`."""
        return Deferred.fromCoroutine(self._turn())

    async def _turn(self) -> None:
        self._at = (self._at + 1) % SLOTS
        due, self._slots[self._at] = self._slots[self._at], []
        now = self._clock.seconds()
        errors: list[Exception] = []
        for number, watched in enumerate(due):
            if number and number % AT_ONCE == 0:
                await deferLater(self._clock, 0)
            connection = watched.connection()
            if connection is not None and connection.ending is None:
                try:
                    self._look(watched, connection, now)
                except Exception as error:  # the other streams are looked at too, and this one again
                    errors.append(error)
                    self._put(watched, self._bounds.rest)
        if errors:
            raise ExceptionGroup(f"{len(errors)} streams could not be looked after", errors)

    def _put(self, watched: KeepAliveEntry, seconds: float) -> None:
        ahead = min(max(1, -int(-seconds // TICK)), SLOTS - 1)
        self._slots[(self._at + ahead) % SLOTS].append(watched)

    def _look(self, watched: KeepAliveEntry, connection: StreamConnection, now: float) -> None:
        ending = self._verdict(watched, connection, now)
        if ending is None:
            self._tend(watched, connection, now)
            self._put(watched, min(self._dates(watched, connection)) - now)
        elif ending.cause is Cause.IDLE:
            connection.close(ending)
        else:
            connection.abort(ending)

    def _verdict(self, watched: KeepAliveEntry, connection: StreamConnection, now: float) -> Ending | None:
        """Return why the stream should end, or None. The negotiation has its own time limit."""
        bounds = self._bounds
        blocked, asked = connection.blocked_since, watched.asked
        if blocked is not None and now - blocked >= bounds.blocked:
            return Ending(Cause.UNRESPONSIVE, f"it has read nothing for {now - blocked:.0f} s", "them")
        if asked is not None and connection.last_received < asked:
            silent = now - max(asked, connection.read_since)  # an answer can arrive only while the stream is read
            if silent >= bounds.answer:
                return Ending(Cause.UNRESPONSIVE, f"it has not acknowledged for {silent:.0f} s", "them")
        if connection.established and now >= self._useful_until(connection):
            return Ending(Cause.IDLE)
        return None

    def _useful_until(self, connection: StreamConnection) -> float:
        """Return until when the stream is of use. The side that sends closes first, so that no stanza is lost on the way."""
        if connection.engine.lasting:
            return float("inf")
        if connection.engine.one_way:
            return connection.last_sent + self._bounds.unused
        return max(connection.last_received, connection.last_sent) + self._bounds.silent

    def _tend(self, watched: KeepAliveEntry, connection: StreamConnection, now: float) -> None:
        """Make the stream small, and give a sign of life, when these are due."""
        if not connection.established:
            return
        if watched.rested < connection.last_received <= now - self._bounds.rest:
            watched.rested = connection.last_received
            connection.engine.rest()
        if now >= self._sign_due(watched, connection):
            self._sign(watched, connection, now)

    def _sign(self, watched: KeepAliveEntry, connection: StreamConnection, now: float) -> None:
        """Send white space, or a request that the other side answers if it is alive."""
        watched.signed = now
        question = connection.engine.probe
        watched.asked = now if question else None
        connection.keep_alive(question or b" ")

    def _sign_due(self, watched: KeepAliveEntry, connection: StreamConnection) -> float:
        """Return the time of our next sign of life: by our interval, or half the peer's announced idle-seconds (XEP-0478)."""
        interval, limit = self._bounds.keep_alive, connection.engine.silence_limit
        if limit is not None:
            interval = min(interval, limit / 2)
        return max(watched.signed, connection.last_sent) + interval

    def _dates(self, watched: KeepAliveEntry, connection: StreamConnection) -> Iterator[float]:
        """Return the times at which there is something to look at again."""
        bounds = self._bounds
        if connection.blocked_since is not None:
            yield connection.blocked_since + bounds.blocked
        if watched.asked is not None and connection.last_received < watched.asked:
            yield max(watched.asked, connection.read_since) + bounds.answer
        if watched.rested < connection.last_received:
            yield connection.last_received + bounds.rest
        yield self._sign_due(watched, connection)
        yield self._useful_until(connection)
