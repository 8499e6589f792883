"""Who owns which lane: every accepted stanza passes through `Lanes`, and so does every bounce.

A `Flow` is a lane at work: its store, the hop it leads to, and the sources that are slowed while the hop is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from s2sgw.gateway.record import Direction, Record
from s2sgw.queue.bounce import bounce
from s2sgw.queue.lane import Budget, Holds, Lane
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza

#: A single lane may use this part of the memory of all.
SHARE = 4
#: Bytes handed to a hop at once when a lane is drained.
CHUNK = 65536


class Source(Protocol):
    """A stream that brings stanzas and can be told to wait."""

    def pause(self, token: object) -> None: ...

    def resume(self, token: object) -> None: ...


class Hop(Protocol):
    """Where a lane leads: a stream to the next server, or the embedded echo."""

    @property
    def state(self) -> str:
        """idle, connecting, ready or backing off: a word for operators."""

    @property
    def ready(self) -> bool:
        """`send` may be called now."""

    @property
    def slow(self) -> bool:
        """It is there, but has more to swallow than it can: whoever feeds it should wait."""

    @property
    def last_cause(self) -> Cause:
        """Why the last attempt failed: what a stanza that waited in vain is told."""

    def send(self, stanzas: list[Stanza]) -> None:
        """Pass `stanzas` on now."""

    def wanted(self) -> None:
        """The lane holds something: see to it that `Flow.drain` is called when it can go."""

    def contact(self) -> None:
        """The next server was heard of: now is a good time to try again."""

    def stop(self, cause: Cause) -> None:
        """Close in order, for good."""


class Flow:
    """The lane of one pair at work."""

    def __init__(self, lane: Lane, lanes: Lanes, direction: Direction) -> None:
        self.lane = lane
        self.direction = direction
        self.hop: Hop
        self.last_used = lanes.clock.seconds()
        self._lanes = lanes
        self._slowed: set[Source] = set()

    @property
    def pair(self) -> Pair:
        return self.lane.pair

    def accept(self, stanzas: list[Stanza], source: Source | None = None) -> None:
        """Take custody of the stanzas of one turn: they go on at once where the way is free."""
        self.last_used = self._lanes.clock.seconds()
        if not self.lane and self.hop.ready:
            self._send(stanzas)
        else:
            self._keep(stanzas)
        if source is not None and self._must_slow():
            self._slowed.add(source)
            source.pause(self)

    def _send(self, stanzas: list[Stanza]) -> None:
        self.hop.send(stanzas)
        self._lanes.record.counted(self.direction, "passed", stanzas)

    def _keep(self, stanzas: list[Stanza]) -> None:
        refused = self.lane.accept(stanzas, self.last_used)
        self.hop.wanted()
        if refused:
            self._lanes.bounce(self.pair, refused, Cause.QUEUE_FULL)

    def _must_slow(self) -> bool:
        return self.hop.slow or (self.hop.state == "connecting" and self.lane.crowded)

    def drain(self) -> None:
        """The hop is free: hand over what waits, then let the sources go on."""
        while self.lane and self.hop.ready:
            self._send([held.stanza for held in self.lane.take(CHUNK)])
        if not self._must_slow():
            self.relieve()

    def relieve(self) -> None:
        """Let every slowed source go on."""
        slowed, self._slowed = self._slowed, set()
        for source in slowed:
            source.resume(self)

    def forget(self, source: Source) -> None:
        """`source` is gone."""
        self._slowed.discard(source)

    def give_up(self, cause: Cause) -> None:
        """Bounce everything that waits."""
        self._lanes.bounce(self.pair, [held.stanza for held in self.lane.clear()], cause)
        self.relieve()

    def expire(self, now: float, cause: Cause) -> None:
        """Bounce what has waited too long."""
        gone = self.lane.expire(now)
        if gone:
            self._lanes.bounce(self.pair, [held.stanza for held in gone], cause)

    @property
    def idle(self) -> bool:
        return not self.lane and self.hop.state == "idle"


class Lanes:
    """All flows, by pair, within one budget of memory."""

    def __init__(
        self, clock: IReactorTime, record: Record, memory: int, holds: Callable[[Pair], Holds],
        is_local: Callable[[Domain], bool], hop: Callable[[Flow], Hop],
    ) -> None:
        self.clock = clock
        self.record = record
        self.budget = Budget(memory)
        self._holds = holds
        self._is_local = is_local
        self._hop = hop
        self._flows: dict[Pair, Flow] = {}

    def __iter__(self) -> Iterator[Flow]:
        return iter(list(self._flows.values()))

    def flow(self, pair: Pair) -> Flow:
        """The flow of `pair`, made at its first use. Whoever asks has made sure that the pair is proven and resolved."""
        flow = self._flows.get(pair)
        if flow is None:
            lane = Lane(pair, self.budget, self.budget.limit // SHARE, self._holds(pair))
            flow = Flow(lane, self, "inbound" if self._is_local(pair.recipient) else "outbound")
            flow.hop = self._hop(flow)
            self._flows[pair] = flow
        return flow

    def bounce(self, pair: Pair, stanzas: Iterable[Stanza], cause: Cause) -> None:
        """End the custody of `stanzas` with a stanza error each, where one is due (R33, R34)."""
        direction: Direction = "inbound" if self._is_local(pair.recipient) else "outbound"
        errors = []
        for stanza in stanzas:
            error = bounce(stanza, cause)
            self.record.counted(direction, "dropped" if error is None else "bounced", (stanza,))
            if error is not None:
                errors.append(Stanza(stanza.kind, error, stanza.from_, stanza.to, "error", stanza.id))
        if errors:
            self.flow(pair.inverse).accept(errors)

    def contact(self, peer: Domain) -> None:
        """`peer` proved itself on a stream of its own: the lanes that wait for it try again."""
        for flow in self:
            if flow.pair.recipient == peer:
                flow.hop.contact()

    def sweep(self) -> None:
        """Once a second: bounce what expired, and forget the flows that nothing uses."""
        now = self.clock.seconds()
        for flow in self:
            if flow.lane:
                flow.expire(now, flow.hop.last_cause)
            elif flow.idle:
                del self._flows[flow.pair]

    def stop(self) -> None:
        """Bounce what waits and close every hop in order."""
        for flow in self:
            flow.hop.stop(Cause.SHUTDOWN)
            flow.give_up(Cause.SHUTDOWN)
