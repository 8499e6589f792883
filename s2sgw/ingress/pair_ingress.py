"""The entry of a pair: its stanzas' way from the stream that brings them to their lane.

They wait, in the stream's own hands, until the pair is admitted, and where the peer has used up its rate; then they pass
the gate. What waits was read before the stream was told to pause, so it is as much as one turn brings.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Container
from itertools import groupby
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.ingress.duplicates import Duplicates
from s2sgw.ingress.filtering import StanzaFilter, StanzaFilters
from s2sgw.ingress.homes import Homes, SingleNode, home_of
from s2sgw.net.connection import StreamConnection
from s2sgw.policy.filters import Refused
from s2sgw.queue.entries import OVERHEAD, UpstreamAck
from s2sgw.reporting.record import Direction, EventRecord, Leg
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza

#: Bytes of a slowed pair that wait while other peers of its stream go on, and of all pairs of a stream in memory; beyond, the
#: stream waits too.
HELD = 262144
HELD_IN_ALL = 8388608


class PairAdmission(Protocol):
    """Says which pairs may enter a queue: a leg does (`s2s.legs`)."""

    def admit(self, pair: Pair) -> Awaitable[Ending | None]:
        """Return why stanzas of `pair` must not enter a queue, or None."""


class HeldBytes:
    """What waits at the entries of one stream, in bytes of memory."""

    def __init__(self) -> None:
        self.bytes = 0


class IngressServices:
    """What all entries share."""

    def __init__(
        self, queues: DeliveryQueues, record: EventRecord, stanza_filters: StanzaFilters, homes: Homes | None = None,
        local_domains: Container[Domain] = (),
    ) -> None:
        """`homes` are asked before stanzas of a pair enter a queue here; None: this node is alone."""
        self.queues = queues
        self.record = record
        self.stanza_filters = stanza_filters
        self._homes = homes or SingleNode()
        self._local_domains = local_domains
        self.duplicates = Duplicates(queues.clock)
        #: pairs whose first stanzas wait for the answer whether they may pass
        self.admissions = 0

    @property
    def admitting(self) -> bool:
        """Whether stanzas were read that are in no queue yet."""
        return self.admissions > 0

    async def claim(self, pair: Pair) -> Ending | None:
        """Make this node the home of `pair`; return why its stanzas may not enter here, or None."""
        return await self._homes.claim(home_of(pair, self._local_domains))


class PairIngress:
    """The stanzas of `pair` on `connection`.

    `admission` says whether they may enter a queue. `senders` are the domains that send on the connection: where there is one
    alone, pausing the connection slows no other. `waiting` counts what waits at all entries of the connection.
    """

    log = Logger()

    def __init__(
        self, ingress_services: IngressServices, connection: StreamConnection, leg: Leg, pair: Pair,
        admission: PairAdmission, senders: Collection[Domain], waiting: HeldBytes,
    ) -> None:
        self.pair = pair
        self._ingress_services = ingress_services
        self._queues = ingress_services.queues
        self._connection = connection
        self._leg: Leg = leg
        self._admission_of = admission
        self._senders = senders
        self._admitted = False
        self._admitting = False
        self._outdated = False  # the admission under way
        self._entered = False
        self._stanza_filter: StanzaFilter | None = None
        self._held: list[tuple[list[Stanza], UpstreamAck | None]] = []
        self._size = 0  # bytes of these
        self._waiting = waiting
        self._timer: IDelayedCall | None = None
        self._told: set[Cause] = set()
        self._over = False
        self._used = 0.0

    def rests(self, before: float) -> bool:
        """Nothing has come since `before`, and nothing waits."""
        return self._used < before and not self._held

    def accept(self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None = None) -> None:
        """The stanzas of one turn; `receipt` is settled as they are in safe hands, or refused."""
        self._used = self._queues.clock.seconds()
        if self._held:
            self._hold(stanzas, upstream_ack)
        elif not self._admitted:
            self._ask(stanzas, upstream_ack)
        elif self._stanza_filter is None:
            self._pass(stanzas, upstream_ack)
        else:
            self._pass_gate(self._stanza_filter, stanzas, upstream_ack)

    def reconsider(self) -> None:
        """The policy has changed: whether the pair is admitted, and by which gate, is asked anew."""
        self._admitted = False
        self._outdated = self._admitting

    def close(self) -> None:
        """The stream is gone: what came before is still passed on (R16), and there is nobody left to slow."""
        self._over = True
        if self._entered:
            self._queues.queue(self.pair).forget(self._connection)
        if self._timer is not None:
            self._go_on()

    # --- admission ---

    def _ask(self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> None:
        self._admitting = True
        self._ingress_services.admissions += 1
        self._hold(stanzas, upstream_ack)
        admission = Deferred.fromCoroutine(self._admission())
        admission.addErrback(self._not_asked)
        admission.addCallback(self._decided)
        admission.addErrback(lambda failure: self.log.failure("stanzas could not be put on their lane", failure))

    async def _admission(self) -> Ending | None:
        """Return why the pair is not admitted: by its policy, or by its home."""
        ending = await self._admission_of.admit(self.pair)
        return await self._ingress_services.claim(self.pair) if ending is None else ending

    def _not_asked(self, failure: Failure) -> Ending:
        self.log.failure("a pair could not be admitted to its lane", failure)
        return Ending(Cause.INTERNAL)

    def _decided(self, ending: Ending | None) -> None:
        self._admitting = False
        self._ingress_services.admissions -= 1
        if self._outdated:
            self._outdated = False
        elif ending is None:
            self._admitted = True
            self._stanza_filter = self._ingress_services.stanza_filters.of(self._leg, self.pair)
        else:
            self._record(ending)
            for stanzas, upstream_ack in self._take():
                self._queues.refuse(self.pair, stanzas, ending.cause, upstream_ack)
        self._go_on()

    # --- the gate ---

    def _pass(self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> None:
        self._entered = True
        self._queues.queue(self.pair).accept(stanzas, None if self._over else self._connection, upstream_ack)

    def _pass_gate(self, stanza_filter: StanzaFilter, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> None:
        debt = 0.0 if self._over else stanza_filter.debt()
        if debt:
            self._timer = self._queues.clock.callLater(debt, self._go_on)
            self._hold(stanzas, upstream_ack)
            return
        passed, refused = stanza_filter.sift(self._without_answers(stanzas, upstream_ack))
        if refused:
            self._refuse(stanza_filter, refused, upstream_ack)
        if passed:
            self._pass(passed, upstream_ack)

    def _without_answers(self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> list[Stanza]:
        """What answers the gateway's own pings (R41) goes by the gate."""
        queue = self._queues.queue(self.pair)
        answers = [stanza for stanza in stanzas if queue.awaits(stanza)]
        if not answers:
            return stanzas
        self._pass(answers, upstream_ack)
        return [stanza for stanza in stanzas if stanza not in answers]

    def _refuse(self, stanza_filter: StanzaFilter, refused: list[Refused], upstream_ack: UpstreamAck | None) -> None:
        """Counted one by one, told once: a flood of refused stanzas is no flood of records."""
        for cause, group in groupby(refused, lambda each: each[1].cause):
            rows = list(group)
            stanzas = [stanza for stanza, _ in rows]
            if cause not in self._told:
                self._told.add(cause)
                self._record(rows[0][1])
            if stanza_filter.answers:
                self._queues.refuse(self.pair, stanzas, cause, upstream_ack, outcome="refused")
            else:
                self._ingress_services.record.counted(self._direction, "refused", stanzas)
                _settle(upstream_ack, len(stanzas))

    # --- waiting ---

    def _hold(self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> None:
        self._held.append((stanzas, upstream_ack))
        self._size += sum(len(stanza.data) for stanza in stanzas)
        self._waiting.bytes += sum(len(stanza.data) + OVERHEAD for stanza in stanzas)
        if len(self._senders) == 1 or self._size > HELD or self._waiting.bytes > HELD_IN_ALL:
            self._connection.pause(self)

    def _take(self) -> list[tuple[list[Stanza], UpstreamAck | None]]:
        """All that is held, which waits no longer."""
        held, self._held, self._size = self._held, [], 0
        self._waiting.bytes -= sum(len(stanza.data) + OVERHEAD for stanzas, _ in held for stanza in stanzas)
        return held

    def _go_on(self) -> None:
        """Nothing to wait for any more, or for the first of what is held."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        for stanzas, upstream_ack in self._take():
            self.accept(stanzas, upstream_ack)
        if not self._held and not self._over:
            self._connection.resume(self)

    # --- telling ---

    @property
    def _direction(self) -> Direction:
        return "inbound" if self._leg == "federation" else "outbound"

    def _record(self, ending: Ending) -> None:
        peer, local = self.pair if self._leg == "federation" else self.pair.inverse
        address = self._connection.peer_address
        self._ingress_services.record.refused(self._direction, self._leg, (str(peer), str(local)), address, ending)


def _settle(upstream_ack: UpstreamAck | None, number: int) -> None:
    if upstream_ack is not None:
        upstream_ack.settle(number)
