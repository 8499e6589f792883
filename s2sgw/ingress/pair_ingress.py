"""The stanzas of one pair on their way from the stream that brings them to their delivery queue.

They wait here until the pair is admitted, and while the peer has used up its rate. Then they pass the filter of the policy. The
waiting stanzas were read before the stream was told to pause, so they are at most what one turn brings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Container, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Protocol
from weakref import ref

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.delivery.bounces import Bounces
from s2sgw.delivery.next_hop import StanzaSource
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.ingress.duplicates import Duplicates
from s2sgw.ingress.filtering import StanzaFilter, StanzaFilters
from s2sgw.ingress.homes import Homes, SingleNode, StanzaReturn, home_of
from s2sgw.ingress.pair_lines import PairLines
from s2sgw.ingress.pair_sources import PairSources
from s2sgw.policy.filters import Refused
from s2sgw.queue.bounce import BOUNCED_AT_ONCE
from s2sgw.queue.entries import OVERHEAD, UpstreamAck
from s2sgw.queue.evidence import DROPPED, Rule
from s2sgw.reporting.record import EventRecord, Leg, direction_of
from s2sgw.stream.events import Refusal
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from s2sgw.xmpp.timer import cancel

#: Bytes of one pair that may wait here while other peers of its stream go on, and of all pairs of a stream in memory. Beyond
#: that, the stream waits too.
HELD_BYTES = 262144
HELD_BYTES_OF_STREAM = 8388608
#: Bytes in memory of a stream that has ended that may wait for older streams: a peer may open and close many streams a second.
HELD_BYTES_OF_ENDED = 65536
#: The number of stanzas that are passed on in one step, of those that waited: a few milliseconds of work.
PASSED_AT_ONCE = 200
#: Seconds for the closing tag of a server whose stanzas are given back.
CLOSING_TAG_SECONDS = 2.0
#: A stream that was held reads on before later streams of the pair do: until nothing has come in so many looks, so many seconds
#: apart, and at most for so many seconds.
QUIET_LOOKS, LOOK_SECONDS, READ_ON_SECONDS = 4, 0.01, 2.0


#: The stream error for a pair whose home is not this node (RFC 6120 §4.9.3). All other causes: internal-server-error.
HOME_CONDITIONS = {
    Cause.OTHER_NODE: StreamCondition.CONFLICT,
    Cause.NO_NODE: StreamCondition.RESOURCE_CONSTRAINT,
    Cause.TOO_MANY_DOMAINS: StreamCondition.RESOURCE_CONSTRAINT,
    Cause.SPOOL_UNREADABLE: StreamCondition.RESOURCE_CONSTRAINT,
    Cause.SHUTDOWN: StreamCondition.SYSTEM_SHUTDOWN,
}


def refusal_elsewhere(ending: Ending) -> Refusal:
    """Return the stream error for a pair whose home is not this node. `ending`: why."""
    condition = HOME_CONDITIONS.get(ending.cause, StreamCondition.INTERNAL_SERVER_ERROR)
    return Refusal(condition, ending.account.bounce, replace(ending, condition=condition.value))


class PairAdmission(Protocol):
    """Decides which pairs may enter a queue. A leg implements it (`s2s.legs`)."""

    def admit(self, pair: Pair) -> Awaitable[Ending | None]:
        """Return why stanzas of `pair` must not enter a queue, or None."""


class HeldBytes:
    """The bytes of memory of the stanzas of one stream that wait before their queues."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class IngressConnection(StanzaSource, Protocol):
    """The interface of the connection that brings the stanzas."""

    last_received: float
    """The time of the last input."""

    @property
    def read_since(self) -> float:
        """The time since which the stream is read without a hold; infinity while it is held."""

    @property
    def peer_address(self) -> str: ...

    def fail(self, refusal: Refusal) -> None:
        """End the stream with an error."""

    def wind_down(self, ending: Ending) -> None:
        """Close the stream, but read on up to the other side's closing tag."""


class IngressServices:
    """The services that all streams that bring stanzas share."""

    def __init__(
        self, queues: DeliveryQueues, bounces: Bounces, clock: IReactorTime, record: EventRecord, stanza_filters: StanzaFilters,
        homes: Homes | None = None, local_domains: Container[Domain] = (),
        soon: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        """Take the services. `homes` are asked before stanzas of a pair enter a queue here; None: this node is alone.

        `soon` makes a call in one of the next turns of the reactor, when there is time for it; None: in the next.
        """
        self.queues = queues
        self.bounces = bounces
        self.clock = clock
        self.record = record
        self.stanza_filters = stanza_filters
        #: the agreement of the nodes, which is asked at each admission
        self.homes: Homes = homes or SingleNode()
        #: answers the stanzas of a pair that another node has
        self.returned: StanzaReturn = SingleNode()
        self.local_domains = local_domains
        self.soon = soon or partial(clock.callLater, 0)
        self.duplicates = Duplicates(clock)
        self.lines = PairLines()
        self.sources = PairSources()
        #: pairs whose first stanzas wait for their admission
        self.admissions = 0

    @property
    def admitting(self) -> bool:
        """Some stanzas were read and are in no queue yet."""
        return self.admissions > 0

    def home(self, pair: Pair) -> Domain:
        """Return the domain whose node has `pair`."""
        return home_of(pair, self.local_domains)

    async def claim(self, pair: Pair) -> Ending | None:
        """Make this node the home of `pair`; return why its stanzas may not enter here, or None."""
        return await self.homes.claim(self.home(pair))


class PairIngress:
    """The stanzas of `pair` on `connection`.

    `admission` decides whether they may enter a queue. `senders` are the domains that send on the connection: with only one,
    pausing the connection slows no other domain. `held` counts the waiting bytes of the whole connection.
    """

    __slots__ = (
        "_abandoned", "_admission_of", "_admitted", "_admitting", "_connection", "_elsewhere", "_entered", "_found", "_held",
        "_held_bytes", "_held_on_connection", "_leg", "_older", "_outdated", "_over", "_read_on_until", "_recorded", "_refusal",
        "_senders", "_services", "_stanza_filter", "_step_is_due", "_timer", "_used_at", "pair",
    )
    log = Logger()

    def __init__(
        self, ingress_services: IngressServices, connection: IngressConnection, leg: Leg, pair: Pair,
        admission: PairAdmission, senders: Collection[Domain], held: HeldBytes,
    ) -> None:
        self.pair = pair
        self._services = ingress_services
        self._connection = connection
        self._leg: Leg = leg
        self._admission_of = admission
        self._senders = senders
        self._admitted = False
        self._admitting = False
        #: the policy has changed during the admission under way, so that its outcome is asked for again
        self._outdated = False
        #: the queues that may have paused the connection: this pair's, and the one back to the sender
        self._entered: tuple[Pair, ...] = ()
        #: the queue that was last found for this pair: a weak reference, because a queue that is forgotten leaves memory
        self._found: ref[DeliveryQueue] | None = None
        self._stanza_filter: StanzaFilter | None = None
        #: the waiting stanzas. An empty deque takes 760 bytes, and a peer may have thousands of pairs
        self._held: deque[HeldRun] | tuple[()] = ()
        self._held_bytes = 0
        self._held_on_connection = held
        self._timer: IDelayedCall | None = None
        self._step_is_due = False
        #: why this node is not the home of the pair
        self._elsewhere: Ending | None = None
        #: another node has the pair: nothing enters here any more
        self._abandoned = False
        #: why the pair is not admitted, and how many of the runs that wait are still to be refused for it
        self._refusal: tuple[Cause, int] | None = None
        self._recorded: tuple[Cause, ...] = ()
        self._over = False
        self._used_at = 0.0
        #: the time until which this stream may read on while others wait behind it; 0: it need not
        self._read_on_until = 0.0
        #: the older streams whose unread input comes before what waits here; None: it has waited for them
        self._older: Sequence[StanzaSource] | None = ()

    def rests(self, before: float) -> bool:
        """Return whether nothing has come since `before`, and nothing waits."""
        return self._used_at < before and not self._held

    def accept(self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None = None) -> None:
        """Take the stanzas of one turn. `upstream_ack` is settled when they have another owner."""
        self._used_at = self._services.clock.seconds()
        if self._admitted and not self._held and self._stanza_filter is None:
            self._queue().accept(stanzas, None if self._over else self._connection, upstream_ack)
        elif self._abandoned:
            self._give_up(stanzas, upstream_ack)
        elif stanzas := self._without_ping_replies(stanzas, upstream_ack):
            if self._held or (not self._admitted and self._services.lines.must_wait(self)):
                self._hold(stanzas, upstream_ack)
            elif not self._admitted:
                self._ask(stanzas, upstream_ack)
            elif self._stanza_filter is not None:
                self._filter(self._stanza_filter, stanzas, upstream_ack)

    def reconsider(self) -> None:
        """The policy has changed: ask again whether the pair is admitted, and by which filter."""
        self._admitted = False
        self._outdated = self._admitting

    def close(self) -> None:
        """End: the stream is gone. The stanzas that came before are still passed on (R16), and no stream is left to be paused."""
        self._over = True
        for pair in self._entered:
            queue = self._services.queues.find(pair)
            if queue is not None:
                queue.forget(self._connection)
        if self._timer is not None:
            self.go_on()

    @property
    def passes(self) -> bool:
        """Whether stanzas wait that are on their way to the queue: their pair is admitted."""
        return self._admitted and bool(self._held)

    @property
    def stream(self) -> StanzaSource:
        """The stream that brings the stanzas."""
        return self._connection

    def waits_for(self, stream: object) -> bool:
        """Return whether what waits here waits for the unread input of `stream`."""
        return any(each is stream for each in self._older or ())

    def abandon(self) -> None:
        """Give up what waits, and whatever comes later, without evidence: another node has the pair.

        A server with XEP-0198 sends it again. The senders of other stanzas get errors (`StanzaReturn`). The caller has taken this
        stream out of its line, and ends the stream.
        """
        self._abandoned, self._admitted = True, False
        cancel(self._timer)
        self._timer = self._refusal = None
        for stanzas, upstream_ack in self._take():
            self._give_up(stanzas, upstream_ack)

    def _give_up(self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> None:
        self._services.record.counted(direction_of(self._leg), "refused", stanzas)
        if upstream_ack is not None:
            upstream_ack.abandon()
        else:
            cause = Cause.OTHER_NODE if self._elsewhere is None else self._elsewhere.cause
            self._services.returned.give_back(self.pair, stanzas, cause)

    def _queue(self) -> DeliveryQueue:
        """Return the queue of the pair, which may have been forgotten since the last time."""
        queue = None if self._found is None else self._found()
        if queue is None or queue.forgotten:
            queue = self._services.queues.queue(self.pair)
            self._found = ref(queue)
            self._enters(self.pair)
        return queue

    def _enters(self, pair: Pair) -> None:
        """Note that the queue of `pair` may pause the connection from now on."""
        if pair not in self._entered:
            self._entered = (*self._entered, pair)

    @property
    def _source(self) -> StanzaSource | None:
        return None if self._over else self._connection

    # --- admission ---

    def _ask(self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> None:
        self._hold(stanzas, upstream_ack)
        self._begin_admission()

    def _begin_admission(self) -> None:
        """Begin the admission. What is unread on older streams of the pair is read first, once (R35)."""
        until = self._used_at + READ_ON_SECONDS  # what waited longer, behind another stream, waits for this no more
        if self._older is not None and not self._entered and self._services.clock.seconds() < until:
            self._older = self._older_unread()
        if self._older:
            self._look_at_older_later(0, until)
        else:
            self._ask_policy()

    def _older_unread(self) -> list[StanzaSource]:
        """Return the older streams of the pair that may have unread input: those that its queue stops, and any others.

        Another pair may be why a stream is held, or has been until now.
        """
        queue = self._services.queues.find(self.pair)
        stopped = [] if queue is None else queue.slowed_besides(self._connection)
        unread = self._services.sources.unread_before(self.pair, self._connection)
        return [*stopped, *(each for each in unread if each not in stopped)]

    def _look_at_older_later(self, quiet: int, until: float) -> None:
        """Look for input on the older streams soon. `quiet`: how many looks have found none."""
        self._step_is_due = True
        self._services.admissions += 1
        self._services.clock.callLater(LOOK_SECONDS, self._look_at_older, quiet, until)

    def _look_at_older(self, quiet: int, until: float) -> None:
        """Begin the admission once the older streams have had no input for a while, and what they brought does not wait."""
        self._step_is_due = False
        self._services.admissions -= 1
        if self._abandoned:
            return
        quiet = 0 if any(each.has_unread_input for each in self._older or ()) else quiet + 1
        if self._over and self._held_on_connection.bytes > HELD_BYTES_OF_ENDED:
            until = 0.0
        if quiet < QUIET_LOOKS and self._services.clock.seconds() < until:
            self._look_at_older_later(quiet, until)
            return
        self._older = None
        if not self._services.lines.must_wait(self):
            self._ask_policy()

    def _ask_policy(self) -> None:
        self._admitting = True
        self._services.admissions += 1
        admission = Deferred.fromCoroutine(self._policy_answer())
        admission.addErrback(self._not_asked)
        admission.addCallback(self._ask_home)
        admission.addErrback(self._home_not_asked)
        admission.addCallback(self._decided)
        admission.addErrback(self._not_passed)

    async def _policy_answer(self) -> Ending | None:
        return await self._admission_of.admit(self.pair)

    def _ask_home(self, ending: Ending | None) -> Deferred[Ending | None]:
        """Note why this node is not the home of the pair. The result is `ending`, the answer of the policy.

        An error for a stanza that the policy does not admit enters a queue too, so the home is asked in any case.
        """
        return Deferred.fromCoroutine(self._claim(ending))

    async def _claim(self, ending: Ending | None) -> Ending | None:
        self._elsewhere = await self._services.claim(self.pair)
        return ending

    def _not_passed(self, failure: Failure) -> None:
        self.log.failure("stanzas could not be put into their queue", failure)

    def _not_asked(self, failure: Failure) -> Ending:
        self.log.failure("a pair could not be admitted to its queue", failure)
        return Ending(Cause.INTERNAL)

    def _home_not_asked(self, failure: Failure) -> None:
        self.log.failure("the home of a pair could not be asked for", failure)
        self._elsewhere = Ending(Cause.INTERNAL)

    def _decided(self, ending: Ending | None) -> None:
        self._admitting = False
        self._services.admissions -= 1
        if self._abandoned:
            return
        if self._elsewhere is not None:
            self._refuse_stream(self._elsewhere)
            return
        if self._outdated:
            self._outdated = False
        elif ending is None or self._may_go_on(ending):
            self._admitted = True
            self._stanza_filter = self._services.stanza_filters.of(self._leg, self.pair)
        else:
            self._record(ending)
            self._refusal = (ending.cause, len(self._held)) if self._held else None
        self.go_on()

    def _refuse_stream(self, ending: Ending) -> None:
        """End the stream: this node is not the home of the pair, so that not even an error may enter a queue here.

        If another node has the pair, a server without XEP-0198 gets a closing tag and no error. What it has sent is read, and its
        stanzas are given back.
        """
        to_be_read = ending.cause is Cause.OTHER_NODE and any(upstream_ack is None for _, upstream_ack in self._held)
        self._record(ending)
        self.abandon()
        self._services.lines.leave(self)
        if self._over:
            return
        if not to_be_read:
            self._connection.fail(refusal_elsewhere(ending))
            return
        self._timer = self._services.clock.callLater(CLOSING_TAG_SECONDS, self._connection.fail, refusal_elsewhere(ending))
        self._connection.wind_down(ending)
        self._connection.resume(self)

    def _may_go_on(self, ending: Ending) -> bool:
        """Return whether the peer cannot be looked up now, and a stream to it is open or stanzas wait for it already (R2)."""
        if ending.cause not in (Cause.DNS_UNREACHABLE, Cause.RESOLVER_BUSY):
            return False
        queue = self._services.queues.find(self.pair)
        return queue is not None and (queue.next_hop.ready or len(queue.pair_queue) > 0)

    # --- the filter ---

    def _filter(self, stanza_filter: StanzaFilter, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> None:
        wait = 0.0 if self._over else stanza_filter.seconds_to_wait()
        if wait:
            self._hold(stanzas, upstream_ack)
            self._timer = self._services.clock.callLater(wait, self.go_on)
            return
        passed, refused = stanza_filter.partition(stanzas)
        if refused:
            self._refuse_filtered(stanza_filter, refused, upstream_ack)
        if passed:
            self._queue().accept(passed, self._source, upstream_ack)

    def _without_ping_replies(self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> list[Stanza]:
        """Pass replies to the gateway's own pings on at once (R41). Return the others.

        Nothing delays these replies: no look-up of the peer, no policy and no rate. A server that answers is not silent.
        """
        queue = None if self._found is None else self._found()
        if queue is None or queue.forgotten:
            queue = self._services.queues.find(self.pair)
        if queue is None or not queue.replies.pings:
            return stanzas
        replies = [stanza for stanza in stanzas if queue.replies.awaits(stanza)]
        if not replies:
            return stanzas
        self._queue().accept(replies, self._source, upstream_ack)
        return [] if len(replies) == len(stanzas) else [stanza for stanza in stanzas if stanza not in replies]

    def _refuse_filtered(
        self, stanza_filter: StanzaFilter, refused: list[Refused], upstream_ack: UpstreamAck | None,
    ) -> None:
        """Count each stanza, and record each cause once. So a flood of refused stanzas is no flood of records."""
        for cause, group in groupby(refused, lambda each: each[1].cause):
            rows = list(group)
            stanzas = [stanza for stanza, _ in rows]
            if cause not in self._recorded:
                self._recorded = (*self._recorded, cause)
                self._record(rows[0][1])
            if stanza_filter.answers:
                self._refuse(stanzas, cause, upstream_ack, outcome="refused")
            else:
                self._services.record.counted(direction_of(self._leg), "refused", stanzas)
                if upstream_ack is not None:
                    upstream_ack.settle(DROPPED[Rule.FILTERED], len(stanzas))

    def _refuse(
        self, stanzas: list[Stanza], cause: Cause, upstream_ack: UpstreamAck | None, outcome: str | None = None,
    ) -> None:
        self._enters(self.pair.inverse)
        self._services.bounces.refuse(self.pair, stanzas, cause, upstream_ack, self._source, outcome)

    # --- waiting ---

    def _hold(self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> None:
        self._services.lines.join(self)
        if not self._held:
            cancel(self._timer)  # it looked for more input
            self._timer = None
        held = self._held = self._held if isinstance(self._held, deque) else deque()
        held.append((stanzas, upstream_ack))
        self._held_bytes += sum(len(stanza.data) for stanza in stanzas)
        self._held_on_connection.bytes += _memory(stanzas)
        alone = len(self._senders) == 1
        if alone or self._held_bytes > HELD_BYTES or self._held_on_connection.bytes > HELD_BYTES_OF_STREAM:
            self._connection.pause(self)

    def _take(self) -> deque[HeldRun]:
        """Return all waiting stanzas, and clear the line."""
        held = self._held if isinstance(self._held, deque) else deque()
        self._held, self._held_bytes = (), 0
        self._held_on_connection.bytes -= sum(_memory(stanzas) for stanzas, _ in held)
        return held

    def go_on(self) -> None:
        """Pass on the waiting stanzas, or refuse them, in steps, until there is a reason to wait again."""
        cancel(self._timer)
        self._timer = None
        if self._step_is_due or self._admitting or self._abandoned:
            return
        if self._held and not self._admitted and self._refusal is None:
            if not self._services.lines.must_wait(self):
                self._begin_admission()  # which may be decided at once: all that waits is in its place
            return
        self._note_hold()
        held, failed = self._take(), True
        try:
            if self._refusal is not None:
                self._refuse_some(held, *self._refusal)
            else:
                self._pass_some(held)
            failed = False
        finally:
            for stanzas, upstream_ack in held:
                self._hold(stanzas, upstream_ack)
            if held or failed:
                self._step_soon()
        if self._held:
            return
        if not self._over:
            self._connection.resume(self)
        if not self._over and self._services.clock.seconds() < self._read_on_until:
            self._look_later(0)
        else:
            self._leave()

    def _leave(self) -> None:
        """Leave the line."""
        self._read_on_until = 0.0
        self._services.lines.leave(self)

    def _note_hold(self) -> None:
        """Note that input may be left on this stream that is older than what waits, or comes, on the next stream of the pair.

        A stream that was held has not been read. If its server has restarted meanwhile, a new stream brings later stanzas (R35).
        """
        now, last = self._services.clock.seconds(), self._used_at
        was_held = now - last > LOOK_SECONDS and self._connection.read_since > last
        if not self._read_on_until and (was_held or self._services.lines.holds_up(self)):
            self._read_on_until = now + READ_ON_SECONDS

    def _look_later(self, quiet: int) -> None:
        """Look for input again soon. `quiet`: how many looks have found none."""
        received = self._connection.last_received
        self._timer = self._services.clock.callLater(LOOK_SECONDS, self._look, quiet, received)

    def _look(self, quiet: int, received: float) -> None:
        """Leave the line once this stream has brought nothing for a while."""
        self._timer = None
        came = self._connection.has_unread_input or self._connection.last_received > received
        quiet = 0 if came else quiet + 1
        if quiet >= QUIET_LOOKS or self._services.clock.seconds() >= self._read_on_until:
            self._leave()
        else:
            self._look_later(quiet)

    def _refuse_some(self, held: deque[HeldRun], cause: Cause, runs: int) -> None:
        """Refuse the first of the stanzas that waited when it was known that the pair is not admitted, in `runs`."""
        left = BOUNCED_AT_ONCE
        while runs and left:
            stanzas, upstream_ack = held.popleft()
            first, rest = stanzas[:left], stanzas[left:]
            left -= len(first)
            if rest:
                held.appendleft((rest, upstream_ack))
            else:
                runs -= 1
            self._refusal = (cause, runs) if runs else None
            self._refuse(first, cause, upstream_ack)

    def _pass_some(self, held: deque[HeldRun]) -> None:
        """Pass on some of what waited. Once one must wait again, all behind it do."""
        passed = 0
        while held and (self._held or passed < PASSED_AT_ONCE):
            stanzas, upstream_ack = held.popleft()
            passed += len(stanzas)
            self.accept(stanzas, upstream_ack)

    def _step_soon(self) -> None:
        self._step_is_due = True
        self._services.admissions += 1
        self._services.soon(self._step)

    def _step(self) -> None:
        self._step_is_due = False
        self._services.admissions -= 1
        self.go_on()

    # --- the record ---

    def _record(self, ending: Ending) -> None:
        peer, local = self.pair if self._leg == "federation" else self.pair.inverse
        address = self._connection.peer_address
        self._services.record.refused(direction_of(self._leg), self._leg, (str(peer), str(local)), address, ending)


#: Stanzas that came together and wait, and their receipt.
HeldRun = tuple[list[Stanza], UpstreamAck | None]


def _memory(stanzas: list[Stanza]) -> int:
    return sum(len(stanza.data) + stanza.text_cost + OVERHEAD for stanza in stanzas)
