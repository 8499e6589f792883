"""A model of the custody of a whole gateway, between servers of the model's own, in which everything fails on demand.

The gateway's queues, delivery agents, acknowledgements, receipts, streams of several pairs and resumption are the real ones. The
model keeps an account of each stanza: how often it was sent, acknowledged, delivered, answered and dropped. Each acknowledged stanza
must be one of: delivered, on the disk, answered by an error that is one of these, or dropped by a rule of docs/custody.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger

from s2sgw.delivery.ack_selection import MUTE_SECONDS, AckSelection
from s2sgw.delivery.acknowledgements import Acknowledgements, Acks, TcpAcks
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.holds import HoldTarget, OperatorHolds
from s2sgw.delivery.next_hop import NextHop, StanzaSource
from s2sgw.delivery.outbound_stream import OutboundStream, ResumableStream, StreamUnavailable
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.policy.model import PeerPolicy
from s2sgw.policy.peers import PeerPolicies
from s2sgw.queue.backoff import BackOff
from s2sgw.queue.bounce import may_bounce
from s2sgw.queue.entries import UpstreamAck
from s2sgw.queue.evidence import ReceiptEvidence
from s2sgw.reporting.record import Direction, EventRecord, Leg
from s2sgw.runtime.monotonic_clock import use_monotonic_clock
from s2sgw.runtime.periodic_jobs import PeriodicJobs
from s2sgw.runtime.shutdown import Shutdown
from s2sgw.runtime.stream_closing import BringingStream
from s2sgw.s2s.extensions import ExtensionMemory
from s2sgw.s2s.resumption import BrokenStream
from s2sgw.s2s.resumption_table import ResumptionTable
from s2sgw.stream.events import Acknowledged, ManagementEnabled, ManagementRefused, NotResumed, Resumed
from s2sgw.stream.management import Counters, Resumption
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Kind, Stanza
from tests.support.coroutines import now
from tests.support.custody import custody_of, ingress_services
from tests.support.fakes import FixedRandom
from tests.support.model_servers import LOST, Line, Link, Server, Token, domain_of
from tests.support.scripted_spool import ScriptedSpool

HERE, ROOMS, THERE, OTHER = (Domain.parse(f"{name}.example") for name in ("here", "rooms", "there", "other"))
LOCAL = (HERE, ROOMS)
#: Bytes of memory and of the disk: room for all stanzas of a run, or for a few.
ROOM, LITTLE_ROOM = (48 * 1024, 12 * 1024), (6_000, 800)
WINDOW = 0.02

CLOSED = Ending(Cause.CLOSED, by="them")
OVER_CONTENT = Ending(Cause.STREAM_ERROR, by="them", condition="policy-violation")


class ReactorClock(Clock):
    """A reactor that counts delays by a wall clock, as Twisted's do, until it is told otherwise (`runtime.monotonic_clock`)."""

    def __init__(self, wall: Callable[[], float]) -> None:
        super().__init__()
        self.seconds = wall  # type: ignore[method-assign]


class SweepFault(OSError):
    """An error of a sweep that the model raises."""


@dataclass
class Account:
    """The fate of the stanzas of one id between two users. An id that is used again has the same account."""

    stanza: Stanza
    pair: Pair
    #: given to the gateway: in total, as new stanzas, and without XEP-0198
    sends: int = 0
    new: int = 0
    unmanaged: int = 0
    #: acknowledged to its server, delivered, and errors delivered
    acknowledged: int = 0
    arrived: int = 0
    answered: int = 0
    #: dropped by a rule; its error dropped by a rule
    dropped: int = 0
    error_dropped: int = 0
    #: passed on to a next hop that acknowledges nothing and is believed; the same for its error
    passed: int = 0
    error_passed: int = 0
    #: the number of these that had not arrived then, although the next hop was believed
    believed: int = 0
    error_believed: int = 0
    #: an end of the gateway may have destroyed it: its server does not use XEP-0198
    excused: bool = False

    @property
    def ended(self) -> int:
        return max(self.arrived, self.passed) + max(self.answered, self.error_passed) + self.dropped + self.error_dropped


@dataclass
class Attempt:
    """A delivery agent that waits for a stream of `pair`."""

    pair: Pair
    broken: BrokenStream | None
    alone: bool
    opened: Deferred[OutboundStream]


class Provider:
    """A provider of streams for the agents (`delivery.outbound_stream.StreamProvider`)."""

    leg: Leg = "federation"

    def __init__(self, model: Model) -> None:
        self._model = model

    def place(self, pair: Pair) -> Deferred[None] | None:
        return None

    async def find(self, pair: Pair, broken: ResumableStream | None = None, alone: bool = False) -> OutboundStream:
        if broken is None and (part := self._model.carrying_back(pair, alone)) is not None:
            return part
        attempt = Attempt(pair, cast(BrokenStream | None, broken), alone, Deferred(lambda _: self._model.attempts.remove(attempt)))
        self._model.attempts.append(attempt)
        return await attempt.opened

    def urge(self, recipient: Domain) -> None: ...


class Tally(EventRecord):
    """Tell the model the gateway's counts."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.clock, Logger())
        self._model = model

    def counted(self, direction: Direction, outcome: str, stanzas: Iterable[Stanza]) -> None:
        stanzas = list(stanzas)
        super().counted(direction, outcome, stanzas)
        for stanza in stanzas:
            self._model.counted(outcome, stanza)


@contextmanager
def passing_noted(model: Callable[[], Model]) -> Iterator[None]:
    """Tell the model meanwhile which requests the queues take, and which stanzas they pass on: those are counted only by kind.

    Sweeps of queues fail as the model says.
    """
    accept, passed_on, write_through = DeliveryQueue.accept, DeliveryQueue._passed_on, DeliveryQueue._write_through
    expire = DeliveryQueue.expire

    def noted_accept(
        queue: DeliveryQueue, stanzas: list[Stanza], source: StanzaSource | None = None, upstream_ack: UpstreamAck | None = None,
    ) -> None:
        model().asks(queue.pair, stanzas)
        accept(queue, stanzas, source, upstream_ack)

    def noted_passed_on(queue: DeliveryQueue, number: int, evidence: ReceiptEvidence) -> None:
        for held in queue.pair_queue.rows(queue.pair_queue.in_flight)[:number]:
            model().counted("passed", held.stanza)
        passed_on(queue, number, evidence)

    def noted_write_through(queue: DeliveryQueue, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> bool:
        if not queue.next_hop.acknowledges:
            for stanza in stanzas:
                model().counted("passed", stanza)
        return write_through(queue, stanzas, upstream_ack)

    def noted_expire(queue: DeliveryQueue, now: float, at_most: int) -> int:
        model().sweeps(queue)
        return expire(queue, now, at_most)

    with mock.patch.multiple(
        DeliveryQueue, accept=noted_accept, _passed_on=noted_passed_on, _write_through=noted_write_through, expire=noted_expire,
    ):
        yield


@dataclass
class Late:
    """The facts about the replies to one request.

    How often it was in doubt, how often it was asked again since, and how many replies were passed on since.
    """

    expected: int = 0
    asked: int = 0
    passed: int = 0


class Model:
    """The gateway, its servers, its disk, and the account."""

    def __init__(self, *, shared_back_end: bool = True, spools: bool = True, roomy: bool = True) -> None:
        """Begin.

        `shared_back_end`: one stream brings what its server sends. `spools`: there is a spool. `roomy`: memory and disk have room
        for all stanzas.
        """
        self.spools = spools
        self.roomy = roomy
        self.memory, disk = ROOM if roomy else LITTLE_ROOM
        self.now = 0.0
        self.wall_offset = 0.0
        self._numbers = 0
        self.spool = ScriptedSpool(disk)
        self.holds = OperatorHolds()
        self.accounts: dict[tuple[Pair, str], Account] = {}
        #: by pair: ids that were given to the gateway and are not finished, in order
        self.open: dict[Pair, dict[str, None]] = {}
        self.local, self.peer, self.other = Server(LOCAL, "backend"), Server((THERE,), "federation"), Server((OTHER,), "federation")
        self.servers = {domain: server for server in (self.local, self.peer, self.other) for domain in server.domains}
        outbound = [Pair(HERE, THERE), Pair(ROOMS, THERE), Pair(HERE, OTHER)]
        split = [tuple(outbound)] if shared_back_end else [(pair,) for pair in outbound]
        self.lines = [Line(self.local, pairs) for pairs in split]
        self.lines += [Line(self.peer, (Pair(THERE, HERE), Pair(THERE, ROOMS))), Line(self.other, (Pair(OTHER, HERE),))]
        #: pairs whose stanzas an operator drops without errors, some of them perhaps when they are read
        self.dropped_quietly: set[Pair] = set()
        #: by pair: how many of its next sweeps fail; and the pairs whose last sweep failed
        self.sweep_fails: Counter[Pair] = Counter()
        self.unswept: set[Pair] = set()
        self._sweeping = False
        #: pairs whose stanzas the policy refuses
        self.forbidden: set[Pair] = set()
        self._parked: dict[tuple[Pair, int], str] = {}
        #: the same, of stanzas that an end of the gateway destroyed: their holds end later
        self._lost_holds: set[tuple[Pair, int]] = set()
        #: by pair: the position of the next stanza, at the last check of this life
        self._positions: dict[Pair, int] = {}
        self._bringing: Counter[tuple[Pair, str]] = Counter()
        self.life: object = None
        self.links: list[Link] = []
        self._begin()

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    # --- the gateway ---

    def _begin(self) -> None:
        """Start a gateway."""
        self.life = object()
        self._positions = {}
        self.clock = ReactorClock(self.seconds)
        self.clock.rightNow = self.now
        use_monotonic_clock(self.clock, self.monotonic)
        self.attempts: list[Attempt] = []
        self.admissions: list[Deferred[None]] = []
        self.admits_late = False
        self.acks: Acks = "auto"
        self.late: dict[tuple[Pair, str], Late] = {}
        self.record = Tally(self)
        self.extensions = ExtensionMemory(self.clock)
        self.extensions.suspect = lambda *ignored: None  # type: ignore[method-assign]
        self.custody = custody_of(
            self.clock, self.record, LOCAL.__contains__, self._next_hop, memory=self.memory, spool=self.spool, window=WINDOW,
            holds=self.holds, restore=2, wall=self, share=0.5, spools=self.spools,
        )
        self.queues = self.custody.queues
        self.services = ingress_services(self.custody, cast(PeerPolicies, SimpleNamespace(policy=lambda peer: PeerPolicy())))
        self.table = ResumptionTable(self.clock, self.record)
        self.ack_selection = AckSelection(lambda domain: self.acks, self.queues, self.extensions, self.clock)
        #: pairs whose stream acknowledges nothing, because of the configuration or because its server is not known to answer pings
        self.believed: set[Pair] = set()
        self._watch_late_replies()
        #: the time of a domain's last answer to a ping of the gateway
        self.answered_at: dict[Domain, float] = {}
        self._watch_pings()
        self.accepts = False
        self.sweep_fails, self.unswept = Counter(), set()
        PeriodicJobs(self.clock).start("queue sweep", 1, self._sweep)
        self.custody.restore.restore_all().addCallback(lambda _: setattr(self, "accepts", True))

    def seconds(self) -> float:
        """Return the date (`WallClock`)."""
        return self.now + self.wall_offset

    def monotonic(self) -> float:
        """Return the time that no step of the wall clock changes."""
        return self.now

    def _sweep(self) -> None:
        self._sweeping = True
        try:
            self.custody.expiry.sweep()
        finally:
            self._sweeping = False

    def sweeps(self, queue: DeliveryQueue) -> None:
        """Record that a queue is swept. Raises `SweepFault` if that is to fail."""
        if self._sweeping and self.sweep_fails[queue.pair]:
            self.sweep_fails[queue.pair] -= 1
            self.unswept.add(queue.pair)
            raise SweepFault("the sweep of a queue fails")
        self.unswept.discard(queue.pair)

    def _next_hop(self, queue: DeliveryQueue) -> NextHop:
        back_off = BackOff(first=2, jitter=0)
        return DeliveryAgent(queue, Provider(self), self.record, back_off, FixedRandom(), self.clock, self)

    def choose(self, queue: DeliveryQueue, stream: OutboundStream, stalled_before: bool) -> Acknowledgements:
        chosen = self.ack_selection.choose(queue, stream, stalled_before)
        if isinstance(chosen, TcpAcks):
            assert self.acks == "tcp" or not self._answers(stream.pair.recipient), "a server that answers pings gets no ping"
            self.believed.add(stream.pair)
        else:
            self.believed.discard(stream.pair)
        return chosen

    def _answers(self, domain: Domain) -> bool:
        """Return True if a domain has answered a ping of the gateway recently."""
        at = self.answered_at.get(domain)
        return at is not None and self.clock.seconds() - at < MUTE_SECONDS

    def _watch_pings(self) -> None:
        answered = self.ack_selection.ping_answered

        def ping_answered(stream: OutboundStream) -> None:
            self.answered_at[stream.pair.recipient] = self.clock.seconds()
            answered(stream)

        self.ack_selection.ping_answered = ping_answered  # type: ignore[method-assign]

    def _watch_late_replies(self) -> None:
        late = self.custody.services.late
        expect, take = late.expect, late.take

        def expects(pair: Pair, request: Stanza) -> None:
            expect(pair, request)
            state = self.late.setdefault((pair, request.id or ""), Late())
            state.expected, state.asked, state.passed = state.expected + 1, 0, 0

        def takes(pair: Pair, reply: Stanza) -> bool:
            dropped = take(pair, reply)
            state = self.late.get((pair, reply.id or ""))
            if dropped and not (reply.id or "").startswith("s2sgw-"):
                fair = state is not None and state.asked <= state.passed
                assert fair, f"the reply to {reply.id}, which was asked again, is dropped"
                self._end(self.account(pair, f"r{reply.id}"), "dropped")
            elif state is not None:
                state.passed += 1
            return dropped

        late.expect, late.take = expects, takes  # type: ignore[method-assign]

    def asks(self, pair: Pair, stanzas: Iterable[Stanza]) -> None:
        """Record the requests that enter a queue. If one was in doubt and is asked again, its next reply is needed."""
        for stanza in stanzas:
            if stanza.is_request and (state := self.late.get((pair.inverse, stanza.id or ""))) is not None:
                state.asked += 1

    async def admit(self, pair: Pair) -> Ending | None:
        if self.admits_late:
            self.admissions.append(Deferred())
            await self.admissions[-1]
        return Ending(Cause.NOT_ALLOWED) if pair in self.forbidden else None

    def change_policy(self, forbidden: set[Pair]) -> None:
        """Refuse only the stanzas of these pairs from now on."""
        self.forbidden = forbidden
        for link in self.links:
            if link.ingress is not None:
                link.ingress.reconsider()

    def carrying_back(self, pair: Pair, alone: bool) -> OutboundStream | None:
        """Act as `s2s.accepted_streams.AcceptedStreams.pair_stream`."""
        awaited = self.table.awaits(pair.inverse)
        for link in reversed(self.links):
            if not link.ours and (link.managed or not awaited) and (part := link.shared_stream.for_pair(pair, alone)) is not None:
                return part
        return None

    # --- the account ---

    def account(self, pair: Pair, id: str) -> Account:
        return self.accounts[pair, id]

    def _account_of(self, stanza: Stanza) -> tuple[Account | None, bool]:
        """Return the account of a stanza, or of the stanza that it answers as an error, and whether it is an error."""
        pair = Pair(domain_of(stanza.from_), domain_of(stanza.to))
        name = f"r{stanza.id}" if stanza.kind == "iq" and stanza.type == "result" else stanza.id or ""
        if stanza.type == "error":
            return self.accounts.get((pair.inverse, name)), True
        return self.accounts.get((pair, name)), False

    def _end(self, account: Account, how: str) -> None:
        setattr(account, how, getattr(account, how) + 1)
        self._resolve(account)

    def _resolve(self, account: Account) -> None:
        """Record that the stanza is finished."""
        self.open.get(account.pair, {}).pop(self._name(account.stanza), None)

    @staticmethod
    def _name(stanza: Stanza) -> str:
        return f"r{stanza.id}" if stanza.type == "result" else stanza.id or ""

    def counted(self, outcome: str, stanza: Stanza) -> None:
        """Record that the gateway counted a stanza."""
        account, is_error = self._account_of(stanza)
        if account is None or (stanza.id or "").startswith("s2sgw-"):
            return
        if outcome == "passed":
            self._passed(account, is_error)
        elif outcome == "bounced":
            assert not is_error, "an error was answered by an error"
            self._resolve(account)
        elif outcome == "dropped":
            pair = account.pair.inverse if is_error else account.pair
            assert pair in self.dropped_quietly or not may_bounce(stanza), f"{stanza.id} was dropped without an error"
            self._end(account, "error_dropped" if is_error else "dropped")
        elif outcome == "coalesced":
            assert stanza.kind == "presence"
            assert not is_error
            self._end(account, "dropped")
        elif outcome == "duplicate":
            key = account.pair, self._name(stanza)
            assert self._bringing[key], f"{stanza.id} was sent for the first time, and taken for a repeat"
            self._bringing[key] -= 1

    def _passed(self, account: Account, is_error: bool) -> None:
        """Check that it has arrived, or that the next hop is believed."""
        if is_error:
            account.error_passed += 1
        else:
            account.passed += 1
        seen = account.answered + account.error_believed if is_error else account.arrived + account.believed
        if (account.error_passed if is_error else account.passed) <= seen:
            return
        pair = account.pair.inverse if is_error else account.pair
        assert pair in self.believed or not self._answers(pair.recipient), f"{account.stanza.id} is passed on and did not arrive"
        account.error_believed += is_error
        account.believed += not is_error

    def acknowledged(self, stanzas: Iterable[tuple[Pair, Stanza]]) -> None:
        """Record that a server is told that these are safe."""
        for pair, stanza in stanzas:
            account = self.accounts[pair, self._name(stanza)]
            account.acknowledged += not (stanza.id or "").startswith("s2sgw-")
        self.check()

    def on_disk(self) -> Counter[tuple[Pair, str]]:
        """Return how many stanzas of each account are on the disk, including their errors."""
        found: Counter[tuple[Pair, str]] = Counter()
        for row in self.spool.rows():
            error = row.stanza.type == "error"
            found[row.pair.inverse if error else row.pair, self._name(row.stanza)] += 1
        return found

    def check(self) -> None:
        """Check the one invariant: each acknowledged stanza is somewhere."""
        disk = self.on_disk()
        for key, account in self.accounts.items():
            if account.acknowledged > account.ended + disk[key]:
                raise AssertionError(f"{key[1]} is acknowledged but nowhere: {account}")

    def check_queues(self) -> None:
        """Check the invariants of the queues."""
        self.dropped_quietly &= {queue.pair for queue in self.queues if queue._endings}
        for queue in self.queues:
            held = {each.position: each.stanza.id for each in queue.pair_queue}
            for position in queue.parked:
                name = self._parked.get((queue.pair, position))
                of_operator = name is not None and held.get(position, name) == name
                assert of_operator, f"{position} of {queue.pair} is held without an order"
            following = queue.pair_queue.next_position
            assert following >= self._positions.get(queue.pair, 0), f"positions of {queue.pair} are used again"
            self._positions[queue.pair] = following
        self._check_holds()

    def _check_holds(self) -> None:
        """Check that no hold outlives its stanza, in a queue or in the list of holds, which a restart reads."""
        holds = {(queue.pair, position) for queue in self.queues for position in queue.parked}
        holds |= {(target.pair, target.position) for target in self.holds if target.pair and target.position}
        for pair, position in holds - self._lost_holds:
            assert self._is_held_back(pair, position), f"the hold of {position} of {pair} outlives its stanza"

    def _is_held_back(self, pair: Pair, position: int) -> bool:
        """Return whether a stanza is in memory or on the disk."""
        queue = self.queues.find(pair)
        in_memory = queue is not None and any(each.position == position for each in queue.pair_queue)
        return in_memory or self._is_on_disk(pair, position)

    def _is_on_disk(self, pair: Pair, position: int) -> bool:
        return any(row.pair == pair and row.position == position for row in self.spool.rows())

    def check_deadlines(self) -> None:
        """Check that no stanza waits in memory beyond its time."""
        for queue in self.queues:
            if queue.pair in self.unswept:
                continue
            late = [each.stanza.id for each in queue.pair_queue.waiting if each.deadline < self.now - 2]
            assert not late or queue.overflow.unacked_bounces, f"{late} of {queue.pair} wait beyond their time"

    # --- what servers do ---

    def send(self, line: Line, pair: Pair, kind: Kind, id: str) -> None:
        """Let a user send a stanza. It waits for the stream of its server."""
        type = "get" if kind == "iq" else None
        asks = " type='get'" if type else ""
        data = f"<{kind} from='u@{pair.sender}/r' to='u@{pair.recipient}' id='{id}'{asks}>{'.' * 30}</{kind}>"
        line.outbox.append((pair, Stanza(kind, data.encode(), f"u@{pair.recipient}", f"u@{pair.sender}/r", type, id), True))

    def reply(self, token: Token) -> None:
        """Let a server answer a request."""
        assert token.pair is not None
        pair = token.pair.inverse
        line = next(line for line in self.lines if pair in line.pairs)
        data = f"<iq from='u@{pair.sender}' to='u@{pair.recipient}/r' id='{token.id}' type='result'/>".encode()
        line.outbox.append((pair, Stanza("iq", data, f"u@{pair.recipient}/r", f"u@{pair.sender}", "result", token.id), True))

    def bring(self, line: Line, number: int) -> None:
        """Let the server write the next `number` stanzas, as far as the gateway reads them."""
        link = line.link
        runs: list[tuple[Pair, list[Stanza]]] = []
        while number and line.outbox and link is not None and not link.holders:
            pair, stanza, new = line.outbox.popleft()
            self._sent(link, pair, stanza, new)
            if runs and runs[-1][0] == pair:
                runs[-1][1].append(stanza)
            else:
                runs.append((pair, [stanza]))
            number -= 1
        for pair, stanzas in runs:
            if link is not None and link.ingress is not None and link.ending is None:
                before = self._bytes(pair)
                link.ingress.stanzas(pair, stanzas)
                if self._bytes(pair) > before:
                    self._check_slowed(link, pair)
        self._bringing.clear()

    def _bytes(self, pair: Pair) -> int:
        queue = self.queues.find(pair)
        return 0 if queue is None else queue.pair_queue.bytes

    def _check_slowed(self, link: Link, pair: Pair) -> None:
        """Check that a stream waits, also a shared one, after it has brought stanzas that only memory has while that is full."""
        queue = self.queues.find(pair)
        full = self.spools and self.custody.services.relief.memory.full
        if full and queue is not None and queue.pair_queue.unsaved and link.ending is None:
            assert link.holders, f"memory is full, and the stream that brings {pair} is not slowed"

    def _sent(self, link: Link, pair: Pair, stanza: Stanza, new: bool) -> None:
        assert link.line is not None
        name = self._name(stanza)
        account = self.accounts.setdefault((pair, name), Account(stanza, pair))
        account.sends += 1
        account.new += new
        if new and account.new == 1 and not name.startswith(("r", "s2sgw-")):
            self.open.setdefault(pair, {})[name] = None
        if not new:
            self._bringing[pair, name] += 1
        if link.managed:
            link.line.brought.append((pair, stanza))
        else:
            account.unmanaged += 1

    def connect(self, line: Line, *, managed: bool = True, resumable: bool = True, back: bool = False) -> None:
        """Let the server open a stream. It resumes the broken stream, if there is one. `back`: with XEP-0288."""
        if line.link is not None or not self.accepts:
            return
        link = Link(self, line.server, line, ours=False, kind="managed" if managed else "ping", several=len(line.pairs) > 1)
        self.links.append(link)
        if back and line.server is not self.local:
            link.carried = [pair.inverse for pair in line.pairs]
            for pair in link.carried:
                link.shared_stream.allow(pair)
        broken, line.broken = line.broken, None
        if broken is not None and broken.former is not None:
            self._resume_theirs(link, broken.former)
            line.broken = None
        elif managed:
            link.enable(resumable)
            if link.ingress is not None:
                link.ingress.managed()
        if link.resumption is not None:
            self.table.opened(link.resumption.id, cast(Any, link))

    def _resume_theirs(self, link: Link, former: Resumption) -> None:
        line = link.line
        assert line is not None
        assert link.ingress is not None
        resumption, past = self.table.claim(former.id, cast(Any, link))
        if resumption is None:
            if past is not None:
                self.acknowledged(line.brought[past.told:past.handled])
                line.heard = max(line.heard, past.handled)
            line.take_back()
            link.enable(resumable=True)
            link.ingress.managed()
            return
        counters = link.counters = resumption.counters
        link.resumption, link.continues, link.asking_open = resumption, True, False
        taken = line.server.sessions.pop(resumption.id, counters.acknowledged)
        link.taken = taken
        link.tell()
        line.heard = counters.told
        counters.acknowledged, count = taken, taken - counters.acknowledged
        link.shared_stream.event(ManagementEnabled())
        self.table.resumed(resumption.id, cast(Any, link), count)

    def lose_on_one_side(self, line: Line) -> None:
        """Let the server consider its stream lost. The gateway does not notice."""
        link = line.link
        if link is not None and link.resumption is not None:
            line.link, line.broken, link.former = None, link, link.resumption

    def hear(self, line: Line, behind: int = 0) -> None:
        """Let the server read acknowledgements, except for the last `behind`."""
        if line.link is not None and line.link.counters is not None:
            line.heard = max(line.heard, line.link.counters.told - behind)

    # --- what the gateway's streams do ---

    def open_stream(self, attempt: Attempt, kind: str, granted: bool = True, back: bool = False) -> None:
        """Let an attempt succeed. `kind`: "managed", "resumable", "ping", "tcp", or "joined" to a stream that is open.

        `back`: the server sends on the stream too (XEP-0288), unless it has a stream of its own. Then the stream cannot be resumed.
        """
        self.attempts.remove(attempt)
        server = self.servers[attempt.pair.recipient]
        self.acks = "tcp" if kind == "tcp" else "auto"
        if kind == "joined" and attempt.broken is None:
            for link in self.links:
                if link.ours and link.server is server and link.shared_stream.takes_user(attempt.alone):
                    link.shared_stream.allow(attempt.pair)
                    if (part := link.shared_stream.for_pair(attempt.pair, attempt.alone)) is not None:
                        attempt.opened.callback(part)
                        return
        line = self._line_back(attempt) if back else None
        link = Link(self, server, line, ours=True, kind=kind, several=False)
        self.links.append(link)
        part = link.shared_stream.allow(attempt.pair, "EXTERNAL")
        if kind in ("managed", "resumable", "joined") or attempt.broken is not None:
            link.enable(kind == "resumable" and line is None)
            if link.ingress is not None:
                link.ingress.managed()
        if attempt.broken is not None:
            self._resume_ours(link, attempt, granted)
        attempt.opened.callback(part)

    def _line_back(self, attempt: Attempt) -> Line | None:
        """Return the stanzas that the server sends back on a stream of ours, if they have no other stream."""
        for line in self.lines:
            free = line.link is None and line.broken is None and not line.brought
            if free and line.pairs == (attempt.pair.inverse,) and line.server is not self.local and attempt.broken is None:
                return line
        return None

    def _resume_ours(self, link: Link, attempt: Attempt, granted: bool) -> None:
        assert attempt.broken is not None
        resumption = attempt.broken.resumption
        taken = link.server.sessions.pop(resumption.id, None)
        counters = resumption.counters
        count = 0 if taken is None else taken - counters.acknowledged
        if taken is None or not granted:
            link.shared_stream.outcome = NotResumed(count)
            return
        counters.acknowledged = taken
        link.counters, link.taken, link.resumption, link.continues = counters, taken, resumption, True
        link.shared_stream.outcome = Resumed(count)
        link.shared_stream.count_resumed(link.shared_stream.allow(attempt.pair), counters.sent - counters.acknowledged)

    def refuse_stream(self, attempt: Attempt, cause: Cause) -> None:
        self.attempts.remove(attempt)
        attempt.opened.errback(StreamUnavailable(Ending(cause)))

    def take(self, link: Link, number: int) -> None:
        """Let the server take the next `number` stanzas in transit."""
        for _ in range(min(number, len(link.wire))):
            token = link.wire.popleft()
            if token.kind == "counted":
                link.taken = 0
                continue
            if link.taken is not None and token.counts:
                link.taken += 1
            if token.ping:
                self._pinged(link, token)
            elif token.counts:
                self._arrives(token)

    def _pinged(self, link: Link, token: Token) -> None:
        if link.server.answers and token.pair is not None:
            pair = token.pair.inverse
            answer = Stanza("iq", b"<iq/>", token.pair.sender.text, token.pair.recipient.text, "result", token.id)
            line = next((line for line in self.lines if pair in line.pairs), None)
            if line is not None:
                line.outbox.append((pair, answer, True))

    def _arrives(self, token: Token) -> None:
        if token.pair is None:
            return  # an answer to a ping that is no longer needed
        if token.error:
            account = self.accounts.get((token.pair.inverse, token.id)) or self.accounts[token.pair.inverse, f"r{token.id}"]
            self._end(account, "answered")
            return
        is_reply = token.kind == "iq" and not token.request
        account = self.accounts[token.pair, f"r{token.id}" if is_reply else token.id]
        if token.request:
            assert account.arrived < account.sends, f"the request {token.id} came twice"
            self.reply(token)
        if not account.arrived and account.new == 1 and not is_reply:
            self._in_order(token)
        self._end(account, "arrived")

    def _in_order(self, token: Token) -> None:
        assert token.pair is not None
        waiting = self.open.get(token.pair, {})
        if token.id not in waiting:
            return
        parked = {name for (pair, _), name in self._parked.items() if pair == token.pair}
        for name in waiting:
            if name == token.id:
                return
            account = self.accounts[token.pair, name]
            assert name in parked or account.ended or account.new > 1, f"{token.id} overtook {name}"

    def acknowledge(self, link: Link, behind: int = 0) -> None:
        """Let the server acknowledge the stanzas that it has taken, except the last `behind` (XEP-0198)."""
        counters = link.counters
        if link.server.answers and counters is not None and link.taken is not None and link.taken - behind > counters.acknowledged:
            count = link.taken - behind - counters.acknowledged
            counters.acknowledged += count
            link.asking_open = False
            link.shared_stream.event(Acknowledged(count))

    def lie(self, link: Link) -> None:
        """Let the server acknowledge stanzas that it has not read, and discard them: the server is responsible for that loss."""
        if link.counters is None or link.taken is None:
            return
        tokens = [token for token in link.wire if token.counts]
        link.wire.clear()
        link.taken += len(tokens)
        for token in tokens:
            if token.pair is not None and not token.ping:
                account, _ = self._by_token(token)
                self._end(account, "answered" if token.error else "arrived")
        self.acknowledge(link)

    def _by_token(self, token: Token) -> tuple[Account, bool]:
        assert token.pair is not None
        pair = token.pair.inverse if token.error else token.pair
        name = token.id if (pair, token.id) in self.accounts and (token.error or token.request or token.kind != "iq") else f"r{token.id}"
        return self.accounts[pair, name], token.error

    def promise(self, link: Link) -> None:
        """Let the server announce that it acknowledges stanzas, if it has not answered yet."""
        if link.ours and link.line is None and link.asking_open and link.counters is None:
            link.asking_open = False
            link.wire.append(Token("counted"))
            link.counters = Counters(0)
            link.shared_stream.event(ManagementEnabled())

    def break_promise(self, link: Link) -> None:
        """Let the server withdraw that."""
        if not link.ours or link.line is not None:
            return
        if link.counters is not None and link.resumption is None and not link.counters.acknowledged and not link.continues:
            link.counters = link.taken = None
            link.shared_stream.event(ManagementRefused())

    def block(self, link: Link) -> None:
        """Let the server accept nothing more, or accept stanzas again."""
        link.writable = not link.writable
        if link.writable:
            link.shared_stream.free()
        else:
            link.shared_stream.slow()

    # --- time, kill, stop ---

    def pass_time(self, seconds: float) -> None:
        steps = 10 if seconds >= 1 else 1
        for _ in range(steps):
            self.now += seconds / steps
            self.clock.advance(seconds / steps)
        if seconds >= 1:
            self.now += 1
            self.clock.advance(1)  # a sweep follows everything that was due in the last step
            self.check_deadlines()

    def kill(self, taken: int = 0) -> None:
        """End the gateway by `kill -9`. The first `taken` tokens in transit still arrive."""
        self.check()
        for link in list(self.links):
            self.take(link, taken)
        self._gone()

    def _gone(self, *, orderly: bool = False) -> None:
        """Start a new gateway after an end.

        Unless it was `orderly`, stanzas that servers without XEP-0198 had given to the gateway may be lost.
        """
        self.life = None
        disk = self.on_disk()
        for key, account in self.accounts.items():
            if account.unmanaged and not disk[key] and account.acknowledged <= account.ended:
                account.excused = account.excused or not orderly or account.new > 1
                assert account.ended or account.excused or "s2sgw-" in key[1], f"{key} was lost at a stop: {account}"
                self._resolve(account)
        for link in list(self.links):
            link.end(LOST)
        for line in self.lines:
            if line.broken is not None or line.brought:
                line.take_back()
        self.spool.die()
        self._lost_holds = {key for key in self._parked if not self._is_on_disk(*key)}
        self._begin()

    @property
    def admitting(self) -> bool:
        return self.services.admitting

    def bringing_streams(self) -> list[BringingStream]:
        return [BringingStream(cast(Any, link), link) for link in self.links if not link.ours]

    def own_bringing_streams(self) -> list[BringingStream]:
        return [BringingStream(cast(Any, link), link) for link in self.links if link.ours and link.ingress is not None]

    def stop(self, servers_work: bool, disk_works: bool) -> None:
        """Stop the gateway normally, and start a new one. `servers_work`, `disk_works`: during the stop."""
        done: list[None] = []
        shutdown = Shutdown(self.custody, self.clock, self)
        Deferred.fromCoroutine(shutdown.run()).addCallback(done.append)
        for _ in range(400):
            if done:
                break
            if servers_work:
                self._serve()
                for attempt in self.attempts[:1]:
                    self.open_stream(attempt, "ping", back=True)
            commits = disk_works or self.now % 7 < 0.1
            if commits:
                self.spool.work(100)
            for line in self.lines if servers_work else ():
                self.go_on_sending(line)
            if commits:
                self.spool.answer(100)
            for admission in self.admissions[:]:
                self.admissions.remove(admission)
                admission.callback(None)
            self.pass_time(0.1)
        assert done or not disk_works, "the stop does not end"
        self.spool.work(10_000)
        self.check()
        self._gone(orderly=self.spools and self.roomy and servers_work and disk_works and self.spool.sound)

    def _serve(self) -> None:
        for link in list(self.links):
            self.take(link, 1000)
            self.acknowledge(link)
        for line in self.lines:
            self.hear(line)

    def go_on_sending(self, line: Line) -> None:
        """Let the server write a stanza, a new one if it has no other, as long as it has a stream that the gateway reads."""
        if line.link is not None and not line.link.holders:
            if not line.outbox:
                self.send(line, line.pairs[0], "message", str(self.next_number()))
            self.bring(line, 1)

    # --- the operator ---

    def hold(self, queue: DeliveryQueue) -> None:
        """Hold all of a queue. The gateway remembers this (`admin.queue_verbs`)."""
        now(self.holds.add(HoldTarget(pair=queue.pair)))
        queue.hold()

    def hold_stanza(self, queue: DeliveryQueue) -> None:
        """Hold the first stanza that waits."""
        if queue.pair_queue.waiting:
            first = queue.pair_queue.waiting[0]
            self._parked[queue.pair, first.position] = first.stanza.id or ""
            now(self.holds.add(HoldTarget(pair=queue.pair, position=first.position)))
            queue.hold(first.position)

    def release(self, queue: DeliveryQueue) -> None:
        """End all holds of a queue."""
        now(self.holds.discard(HoldTarget(pair=queue.pair)))
        queue.release()

    def drop(self, queue: DeliveryQueue, quietly: bool) -> None:
        """Drop what waits in a queue. An earlier drop that is still under way goes on in its way."""
        quiet = quietly or any(ending.cause is None for ending in queue._endings)
        (self.dropped_quietly.add if quiet else self.dropped_quietly.discard)(queue.pair)
        queue.drop(quietly)

    # --- the end ---

    def finish(self) -> None:
        """Let everything work. Check that all stanzas are finished, and that nothing is left."""
        self.spool.mend()
        self.sweep_fails.clear()
        self.change_policy(set())
        for server in self.servers.values():
            server.answers = True
        for target in list(self.holds):
            now(self.holds.discard(target))
        for queue in self.queues:
            queue.release()
        quiet = 0
        for _ in range(600):
            self._heal()
            quiet = quiet + 1 if self._is_quiet() else 0
            if quiet > 3:
                break
        self.check()
        left = {str(queue.pair): len(queue.pair_queue) for queue in self.queues if len(queue.pair_queue)}
        assert not left, f"left in the queues: {left}"
        assert not list(self.spool.rows()), f"left in the spool: {list(self.spool.rows())}"
        assert not self.custody.services.relief.memory.used, f"left in memory: {self.custody.services.relief.memory.used} bytes"
        for line in self.lines:
            assert not line.outbox, "a stream waits forever"
            assert line.heard == len(line.brought) or line.link is None or not line.link.managed, "not everything is acknowledged"
        for key, account in self.accounts.items():
            assert account.ended or account.unmanaged or "s2sgw-" in key[1], f"{key} was lost: {account}"

    def _heal(self) -> None:
        for attempt in self.attempts[:]:
            if attempt in self.attempts:
                self.open_stream(attempt, "managed")
        for link in list(self.links):
            if not link.writable:
                self.block(link)
            self.take(link, 1000)
            self.acknowledge(link)
        for admission in self.admissions[:]:
            self.admissions.remove(admission)
            admission.callback(None)
        for line in self.lines:
            self.connect(line)
            self.bring(line, 1000)
            self.hear(line)
        self.spool.work(1000)
        self.spool.answer(1000)
        self.now += 2
        self.clock.advance(2)

    def _is_quiet(self) -> bool:
        idle = not self.spool.jobs and not self.spool.answers and not any(line.outbox for line in self.lines)
        return idle and not any(len(queue.pair_queue) for queue in self.queues) and not list(self.spool.rows())
