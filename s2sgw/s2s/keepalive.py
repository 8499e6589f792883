"""Streams at rest: kept alive, found dead, closed when nobody uses them, and small (R37, docs/decisions.md#idle-streams).

One wheel of slots serves all streams: each stands in the slot of the moment at which it is next to be looked at.
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

#: Seconds from one slot to the next, and slots: nothing is put off for longer than the wheel is round.
TICK = 5.0
SLOTS = 128
#: Streams that are looked at in one turn of the reactor.
AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class KeepAliveLimits:
    """Seconds. `rest`: of silence, until a stream is made small. `keep_alive`: between two signs of life of ours.

    `answer`: for the other side to acknowledge when asked. `blocked`: that it may take nothing. `unused`: without stanzas,
    until a stream of ours is closed. `silent`: without any input, until a stream of theirs is.
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
        #: one that is gone does not stay in memory until its slot comes
        self.connection = ref(connection)
        #: when we last gave a sign of life, when it had last input and was made small since, when it was asked for one
        self.signed = now
        self.rested = -1.0
        self.asked: float | None = None


class KeepAlive:
    """Looks after every stream from its connection to its end. `turn` is to be called every `TICK` seconds."""

    def __init__(self, clock: IReactorTime, bounds: KeepAliveLimits = KeepAliveLimits()) -> None:
        self._clock = clock
        self._bounds = bounds
        self._slots: list[list[KeepAliveEntry]] = [[] for _ in range(SLOTS)]
        self._at = 0

    def __len__(self) -> int:
        """Streams on the wheel; those that have ended leave it when their slot comes."""
        return sum(map(len, self._slots))

    def keep(self, connection: StreamConnection) -> StreamConnection:
        """Look after `connection` until it ends."""
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
                except Exception as error:  # the others have their turn too, and this one has it again
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
        """Why the stream should end, or None. While it is negotiated, the negotiation's own bound holds."""
        bounds = self._bounds
        blocked, asked = connection.blocked_since, watched.asked
        if blocked is not None and now - blocked >= bounds.blocked:
            return Ending(Cause.UNRESPONSIVE, f"it has read nothing for {now - blocked:.0f} s", "them")
        if asked is not None and connection.last_received < asked:
            silent = now - max(asked, connection.read_since)  # an answer is seen while the stream is read
            if silent >= bounds.answer:
                return Ending(Cause.UNRESPONSIVE, f"it has not acknowledged for {silent:.0f} s", "them")
        if connection.established and now >= self._useful_until(connection):
            return Ending(Cause.IDLE)
        return None

    def _useful_until(self, connection: StreamConnection) -> float:
        """Return until when the stream is of use. The side that alone sends closes first, so that nothing is lost on its way."""
        if connection.engine.lasting:
            return float("inf")
        if connection.engine.one_way:
            return connection.last_sent + self._bounds.unused
        return max(connection.last_received, connection.last_sent) + self._bounds.silent

    def _tend(self, watched: KeepAliveEntry, connection: StreamConnection, now: float) -> None:
        """Make it small, and give a sign of life, as is due."""
        if not connection.established:
            return
        if watched.rested < connection.last_received <= now - self._bounds.rest:
            watched.rested = connection.last_received
            connection.engine.rest()
        if now >= self._sign_due(watched, connection):
            self._sign(watched, connection, now)

    def _sign(self, watched: KeepAliveEntry, connection: StreamConnection, now: float) -> None:
        """White space; where there is something to ask that a live one answers, that."""
        watched.signed = now
        question = connection.engine.probe
        watched.asked = now if question else None
        connection.keep_alive(question or b" ")

    def _sign_due(self, watched: KeepAliveEntry, connection: StreamConnection) -> float:
        """Our interval, or half the peer's announced idle-seconds (XEP-0478) if that is shorter."""
        interval, limit = self._bounds.keep_alive, connection.engine.silence_limit
        if limit is not None:
            interval = min(interval, limit / 2)
        return max(watched.signed, connection.last_sent) + interval

    def _dates(self, watched: KeepAliveEntry, connection: StreamConnection) -> Iterator[float]:
        """When there is something to look at again."""
        bounds = self._bounds
        if connection.blocked_since is not None:
            yield connection.blocked_since + bounds.blocked
        if watched.asked is not None and connection.last_received < watched.asked:
            yield max(watched.asked, connection.read_since) + bounds.answer
        if watched.rested < connection.last_received:
            yield connection.last_received + bounds.rest
        yield self._sign_due(watched, connection)
        yield self._useful_until(connection)
