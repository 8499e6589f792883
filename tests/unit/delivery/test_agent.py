"""Tests of delivery agents with their queues: stanzas wait for a stream, are sent on it in order, or are bounced."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, patch

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.acknowledgements import StreamManagementAcks, TcpAcks
from s2sgw.delivery.agent import WORKED_SECONDS, DeliveryAgent
from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.retry import ISOLATING_SECONDS, MAX_ISOLATIONS
from s2sgw.delivery.spooling import ACK_TURNS
from s2sgw.net.discovery import Resolution, Target
from s2sgw.net.fair_slots import Owner
from s2sgw.net.requester import Requester
from s2sgw.queue.backoff import BackOff
from s2sgw.reporting.record import EventRecord
from s2sgw.runtime.policy_change import PeerStreams
from s2sgw.s2s import stream_limits
from s2sgw.s2s.connecting import ConnectServices
from s2sgw.s2s.destinations import CONTACT_SECONDS, Destinations
from s2sgw.s2s.extensions import ExtensionMemory
from s2sgw.s2s.owners import owner_by_name
from s2sgw.s2s.stream_limits import StreamLimit
from s2sgw.s2s.stream_outcomes import StreamOutcomes
from s2sgw.s2s.stream_provider import PeerStreamProvider
from s2sgw.spool.memory_spool import MemorySpool
from s2sgw.stream.events import PairProven, PairRefused, Permission, Refusal
from s2sgw.stream.features import PeerLimits
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.custody import custody_of, stop
from tests.support.fakes import Connections, FakeNextHop, FixedRandom

HERE, THERE = Domain.parse("here.example"), Domain.parse("there.example")
OUT = Pair(HERE, THERE)


class FakeConnection:
    """The part of a connection that a delivery agent uses."""

    peer_address = "192.0.2.1:5269"
    tls_version = "TLSv1.3"
    cipher = None
    last_sent = last_received = read_since = 0.0
    shared = retiring = False

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.writable = True
        self.party = ""
        self.written: list[bytes] = []
        self.ending: Ending | None = None
        self.closed: Deferred[None] = Deferred()

    def belong_to(self, name: str) -> None:
        self.party = name

    def write(self, data: bytes) -> bool:
        self.written.append(data)
        return not self.writable

    def close(self, ending: Ending) -> None:
        if self.ending is None:
            self.ending = ending
            self.owner.ended(self, ending)
            self.closed.callback(None)

    abort = close

    def fail(self, refusal: Refusal) -> None:
        self.close(refusal.ending)

    def step(self, *call: object) -> None:
        """Take an answer of the owner: the engine is none."""

    def when_closed(self) -> Deferred[None]:
        return self.closed

    def prove(self) -> None:
        self.owner.event(self, PairProven(self.owner.pair, "EXTERNAL"))


class FakeSide:
    """A leg whose look-ups are answered by the test."""

    leg = "federation"

    def __init__(self) -> None:
        self.targets: tuple[Target, ...] = (Target("s.there.example", 5269, ("192.0.2.1",)),)
        self.ending: Ending | None = None
        self.outcomes = StreamOutcomes()
        self.dials: list[Deferred[None]] = []
        self.limits = PeerLimits()
        self.known: int | None = None
        self.managed = False
        self.most = 0
        self.judged_by: object = None

    def dialler(self, pair: Pair, target: Target) -> Any:
        return self.dial

    def dial(self, address: str, port: int, build: Any) -> Deferred[None]:
        """Record a connection attempt; the test completes it."""
        build()
        self.dials.append(Deferred())
        return self.dials[-1]

    async def resolve(self, pair: Pair, requester: Requester | None = None) -> Resolution:
        return Resolution(pair.recipient, () if self.ending else self.targets, self.ending)

    async def locate(self, pair: Pair, targets: Sequence[Target], requester: Requester | None = None) -> Sequence[Target]:
        return targets

    def dial_targets(self, pair: Pair, targets: Sequence[Target]) -> Sequence[Target]:
        return targets

    def engine(self, pair: Pair, target: Target, verifying: bool) -> Any:
        return SimpleNamespace(
            peer_limits=self.limits, managed=self.managed, enabling=self.managed, bidi=False, resuming=False, broken_off=lambda: None, unacknowledged=0,
            closing=False, extensible=False, resumption=None, continues=False, sent=lambda number: self.managed, judged=lambda permission: [],
        )

    def shown(self, pair: Pair) -> str | None:
        return None

    def owner(self, pair: Pair) -> Owner:
        return owner_by_name(pair.recipient)

    def owner_streams(self, pair: Pair) -> int:
        return 0

    def streams(self, pair: Pair) -> int:
        return self.most

    def largest(self, pair: Pair) -> int | None:
        return self.known

    def tls(self, pair: Pair, target: Target) -> Any:
        return None

    def policy(self, peer: Domain) -> object:
        return self.judged_by

    async def judge(self, connection: Any, question: Any, target: Any) -> tuple[Permission, tuple[str, ...]]:
        return Permission(), ()


class Source:
    """A stream that can be paused."""

    has_unread_input = False

    def __init__(self, shared: bool = False) -> None:
        self.shared = shared
        self.held: list[object] = []

    def pause(self, token: object) -> None:
        self.held.append(token)

    def resume(self, token: object) -> None:
        self.held.remove(token)


class World:
    """Queues on a clock. The next hop of outbound queues is a delivery agent, that of inbound queues keeps its stanzas."""

    def __init__(self, memory: int = 1 << 20, stream_limits: int = 0, spool: MemorySpool | None = None) -> None:
        self.clock = Clock()
        self.side = FakeSide()
        self.connections: list[FakeConnection] = []
        self.dials = self.side.dials
        self.back: list[Bounced] = []
        self.destinations = Destinations(self.clock, FixedRandom(), BackOff(first=2, jitter=0))
        self.extensions = ExtensionMemory(self.clock)
        self.room = StreamLimit(self.clock, stream_limits) if stream_limits else None
        self.record = EventRecord(self.clock, Logger())
        self.custody = custody_of(self.clock, self.record, lambda domain: domain == HERE, self._next_hop, memory=memory, spool=spool)
        self.queues = self.custody.queues

    def _next_hop(self, queue: DeliveryQueue) -> NextHop:
        if queue.direction == "inbound":
            return KeepingHop(self.back)
        connect_services = ConnectServices(Connections(self._connection), self.clock, self.destinations, self.extensions, room=self.room)
        return DeliveryAgent(queue, PeerStreamProvider(self.side, connect_services), self.record, BackOff(first=2, jitter=0), FixedRandom(), self.clock)  # type: ignore[arg-type]

    def _connection(self, engine: Any, owner: Any) -> FakeConnection:
        self.connections.append(FakeConnection(owner))
        return self.connections[-1]

    def open(self) -> FakeConnection:
        self.dials[-1].callback(None)
        self.connections[-1].prove()
        return self.connections[-1]

    def fail(self, cause: Cause) -> None:
        """Let the current attempt fail."""
        self.dials[-1].callback(None)
        self.connections[-1].close(Ending(cause, by="network"))

    @property
    def queue(self) -> DeliveryQueue:
        return self.queues.queue(OUT)

    @property
    def state(self) -> str:
        return self.queue.next_hop.state

    @property
    def next_hop(self) -> Any:
        return self.queue.next_hop


class Choosing:
    """Uses the acknowledgements that `make(stream)` returns."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make

    def choose(self, queue: DeliveryQueue, stream: Any, stalled_before: bool) -> Any:
        return self._make(stream)


def managed(clock: Clock, stream: Any) -> StreamManagementAcks:
    return StreamManagementAcks(stream, Mock(), clock)


def by_hand(stream: Any) -> TcpAcks:
    """Return acknowledgements that the test gives by hand."""
    acknowledgements = TcpAcks()
    acknowledgements.acknowledges = True
    return acknowledgements


@dataclass
class Bounced:
    """The stanzas that were bounced."""

    id: str
    data: bytes


class KeepingHop(FakeNextHop):
    """A next hop that keeps its stanzas."""

    def __init__(self, kept: list[Bounced]) -> None:
        self._kept = kept

    def send(self, data: Sequence[bytes]) -> bool:
        for each in data:
            element = Element.parse(each)
            self._kept.append(Bounced(element.attributes["id"], each))
        return False


def message(id: str, kind: Any = "message", type: str | None = None, size: int = 10) -> Stanza:
    data = f"<{kind} id='{id}'>{'.' * size}</{kind}>".encode()
    return Stanza(kind, data, "u@there.example", "u@here.example", type, id)


def ids(written: list[bytes]) -> list[str]:
    """Return the ids of the stanzas in each write, joined."""
    return ["".join(re.findall(r"<\w+ id='(\w+)'", data.decode())) for data in written]


class CourierTests(SynchronousTestCase):
    """Tests of a delivery agent from the first stanza to its stream or its bounce."""

    def test_cause_of_an_expiry(self) -> None:
        """An expired stanza has the cause of the last failed attempt, or "held too long" if the last stream ended in order."""
        agent = World().queue.next_hop
        assert isinstance(agent, DeliveryAgent)
        for ending, cause in (
            (None, Cause.HELD_TOO_LONG), (Ending(Cause.CLOSED), Cause.HELD_TOO_LONG),
            (Ending(Cause.CONNECTION_REFUSED), Cause.CONNECTION_REFUSED), (Ending(Cause.BAD_XML), Cause.HELD_TOO_LONG),
        ):
            agent.last_ending = ending
            self.assertEqual(agent.last_cause, cause)

    def test_opens_on_demand_and_delivers_in_order(self) -> None:
        """R33: waiting stanzas are sent first, in one write. Later stanzas are sent at once."""
        world = World()
        self.assertEqual(world.state, "idle")
        world.queue.accept([message("1"), message("2")])
        world.queue.accept([message("3")])
        self.assertEqual((world.state, len(world.dials)), ("connecting", 1))
        connection = world.open()
        world.queue.accept([message("4")])
        self.assertEqual(ids(connection.written), ["123", "4"])
        self.assertEqual((world.state, len(world.queue.pair_queue)), ("ready", 0))

    def test_next_address(self) -> None:
        """R36: if a target fails, the next one is tried."""
        world = World()
        world.side.targets = tuple(Target(f"s{n}.there.example", 5269, (f"192.0.2.{n}",)) for n in (1, 2))
        world.queue.accept([message("1")])
        world.dials[0].callback(None)
        world.connections[0].close(Ending(Cause.CONNECTION_REFUSED, by="network"))
        self.assertEqual((world.state, len(world.dials)), ("connecting", 2))
        self.assertEqual(len(world.open().written), 1)

    def test_final_cause_bounces_at_once(self) -> None:
        """R34: a final cause bounces what waits at once, and also what arrives during the back-off."""
        world = World()
        world.side.ending = Ending(Cause.NO_SUCH_DOMAIN)
        world.queue.accept([message("1")])
        self.assertEqual([stanza.id for stanza in world.back], ["1"])
        world.queue.accept([message("2")])
        self.assertEqual([stanza.id for stanza in world.back], ["1", "2"])
        self.assertIn(b"remote-server-not-found", world.back[0].data)
        self.assertEqual(world.state, "backing off")

    def test_mistakes_of_the_next_server(self) -> None:
        """R33: what a server says wrong bounces nothing, before and after it is proven. The next stream delivers all."""
        for cause in (Cause.BAD_XML, Cause.LIMIT_EXCEEDED, Cause.INVALID_FROM, Cause.ADDRESSING, Cause.HOST_UNKNOWN):
            for proven in (False, True):
                if cause is Cause.HOST_UNKNOWN and not proven:
                    continue  # it is an answer to our header: it does not serve the domain
                with self.subTest(cause=cause, proven=proven):
                    world = World()
                    world.queue.accept([message("1")])
                    if proven:
                        world.open().writable = False
                        world.queue.accept([message("2")])
                        world.connections[-1].close(Ending(cause))
                    else:
                        world.fail(cause)
                        world.queue.accept([message("2")])
                    world.queue.accept([message("3")])
                    self.assertEqual((world.state, world.back), ("backing off", []))
                    world.clock.advance(4)
                    self.assertEqual("".join(ids(world.open().written))[-2:], "23")
                    self.assertEqual(world.back, [])

    def test_policy_ends_an_open_stream(self) -> None:
        """R34: if our policy ends an open stream, what comes for it bounces at once. The words of the server do not."""
        for by, bounced in (("us", ["2"]), ("them", [])):
            world = World()
            world.queue.accept([message("1")])
            world.open().close(Ending(Cause.DENY_LISTED, by=by))  # type: ignore[arg-type]
            world.queue.accept([message("2")])
            self.assertEqual([stanza.id for stanza in world.back], bounced)

    def test_final_cause_is_forgotten(self) -> None:
        """A later attempt that fails for another cause bounces nothing more."""
        world = World()
        world.side.ending = Ending(Cause.NO_SUCH_DOMAIN)
        world.queue.accept([message("1")])
        queue = world.queue
        world.side.ending = Ending(Cause.DNS_UNREACHABLE)
        world.destinations.retry_now(THERE.ascii)
        queue.retry_now()
        queue.accept([message("2")])
        self.assertEqual(([stanza.id for stanza in world.back], len(queue.pair_queue)), (["1"], 1))

    def test_temporary_cause_waits_and_tries_again(self) -> None:
        """R39: an unreachable server is tried again at growing intervals. What waited is delivered with a delay stamp."""
        world = World()
        world.side.ending = Ending(Cause.DNS_UNREACHABLE)
        world.queue.accept([message("1")])
        self.assertEqual((world.state, world.back), ("backing off", []))
        world.clock.advance(2)
        self.assertEqual(world.state, "backing off")
        world.side.ending = None
        world.clock.advance(3.9)
        self.assertEqual(len(world.dials), 0)
        world.clock.advance(0.1)
        connection = world.open()
        self.assertEqual(ids(connection.written), ["1"])
        self.assertIn(b"<delay xmlns='urn:xmpp:delay' from='here.example' stamp='1970-01-01T00:00:00.000Z'/></message>", connection.written[0])

    def test_expiry_bounces_with_the_cause(self) -> None:
        """R34: an IQ that waited for 30 s is bounced with the reason of the last failure. A message still waits."""
        world = World()
        world.side.ending = Ending(Cause.DNS_UNREACHABLE)
        world.queue.accept([message("q", "iq", "get"), message("m")])
        for _ in range(31):
            world.clock.advance(1)
            world.custody.expiry.sweep()
        self.assertEqual([stanza.id for stanza in world.back], ["q"])
        self.assertIn(b"remote-server-timeout", world.back[0].data)
        self.assertIn(b"dns-unreachable", world.back[0].data)
        self.assertEqual(len(world.queue.pair_queue), 1)

    def test_contact_wakes(self) -> None:
        """A contact by the peer wakes its queue."""
        world = World()
        world.side.ending = Ending(Cause.DNS_UNREACHABLE)
        world.queue.accept([message("1")])
        world.side.ending = None
        world.destinations.contacted(THERE.ascii, lambda: None)
        world.queues.retry_now(THERE)
        self.assertEqual(ids(world.open().written), ["1"])

    def test_contact_put_off(self) -> None:
        """If a peer contacts us again at once, the next attempt is delayed a little and not dropped."""
        world = World()
        world.side.ending = Ending(Cause.DNS_UNREACHABLE)
        world.queue.accept([message("1")])

        def contact() -> None:
            world.destinations.contacted(THERE.ascii, lambda: world.queues.retry_now(THERE))
            world.queues.retry_now(THERE)
        contact()
        world.side.ending = None
        contact()
        self.assertEqual((world.state, len(world.dials)), ("backing off", 0))
        world.clock.advance(CONTACT_SECONDS)
        self.assertEqual(ids(world.open().written), ["1"])

    def test_contact_during_an_attempt(self) -> None:
        """A contact during an attempt leads to exactly one immediate attempt after its failure, whatever the cause."""
        for cause in (Cause.CONNECTION_REFUSED, Cause.STREAM_ERROR):
            world = World()
            world.queue.accept([message("1")])
            world.clock.advance(1)
            world.destinations.contacted(THERE.ascii, lambda: None)
            world.queues.retry_now(THERE)
            self.assertEqual((world.state, len(world.dials)), ("connecting", 1))
            world.fail(cause)
            world.clock.advance(0)
            self.assertEqual((world.state, len(world.dials)), ("connecting", 2))
            world.clock.advance(1)
            world.fail(cause)
            world.clock.advance(1)
            self.assertEqual((world.state, len(world.dials)), ("backing off", 2))

    def test_flushed(self) -> None:
        """An operator's flush, of one queue or of all queues of an approved peer, starts an attempt at once."""
        for approved in (False, True):
            world = World()
            world.side.ending = Ending(Cause.DNS_UNREACHABLE)
            world.queue.accept([message("1")])
            world.side.ending = None
            if approved:
                PeerStreams(world.queues, [], []).wake(THERE)  # type: ignore[arg-type]
            else:
                world.queue.flush()
            self.assertEqual(ids(world.open().written), ["1"])

    def test_error_before_enabled(self) -> None:
        """A stream error while `<enable/>` is unanswered does not concern the single stanza in flight: it is sent again."""
        for enabling, back in ((True, []), (False, ["1"])):
            world = World()
            world.side.managed = True
            world.queue.accept([message("1")])
            world.dials[-1].callback(None)
            world.connections[-1].owner.engine.enabling = enabling
            world.next_hop._ack_selection = Choosing(partial(managed, world.clock))
            world.connections[-1].prove()
            world.connections[-1].close(Ending(Cause.STREAM_ERROR, by="them", condition="unsupported-stanza-type"))
            self.assertEqual([stanza.id for stanza in world.back], back)

    def test_refused_pair(self) -> None:
        """A stanza is bounced if the other side does not serve the domain."""
        world = World()
        world.queue.accept([message("1")])
        world.dials[0].callback(None)
        world.connections[0].owner.event(world.connections[0], PairRefused(OUT, Ending(Cause.HOST_UNKNOWN, by="them")))
        self.assertEqual([stanza.id for stanza in world.back], ["1"])
        self.assertIsNotNone(world.connections[0].ending)

    def test_failed_dialback_holds_the_lane(self) -> None:
        """R42: stanzas wait through a failed dialback, which is tried again. Only the end of their hold time bounces them."""
        world = World()
        world.queue.accept([message("1")])
        world.dials[0].callback(None)
        world.connections[0].owner.event(world.connections[0], PairRefused(OUT, Ending(Cause.DIALBACK_INVALID, by="them")))
        self.assertEqual((world.state, world.back, len(world.queue.pair_queue)), ("backing off", [], 1))
        world.clock.advance(2)
        self.assertEqual((world.state, len(world.dials)), ("connecting", 2))
        world.dials[1].callback(None)
        world.connections[1].owner.event(world.connections[1], PairRefused(OUT, Ending(Cause.DIALBACK_INVALID, by="them")))
        world.clock.advance(598)
        world.custody.expiry.sweep()
        self.assertEqual([stanza.id for stanza in world.back], ["1"])
        self.assertIn(b"dialback-invalid", world.back[0].data)

    def test_slow_hop_slows_its_source(self) -> None:
        """Back-pressure: a stream that accepts no more data pauses the sources, and resumes them when it accepts data again."""
        world, source = World(), Source()
        world.queue.accept([message("1")], source)
        connection = world.open()
        connection.writable = False
        world.queue.accept([message("2")], source)
        self.assertEqual((source.held, len(world.queue.pair_queue)), ([world.queue], 1))
        connection.writable = True
        connection.owner.resumed(connection)
        self.assertEqual((source.held, ids(connection.written)), ([], ["1", "2"]))

    def test_stream_lost_in_a_write(self) -> None:
        """Back-pressure: a stream that is lost during a write does not leave its source paused, although it never becomes writable again."""
        world, source = World(), Source()
        world.queue.accept([message("1")], source)
        connection = world.open()

        def write(data: bytes) -> bool:
            connection.writable = False
            connection.close(Ending(Cause.CONNECTION_LOST, by="network"))
            return True

        connection.write = write  # type: ignore[method-assign]
        world.queue.accept([message("2")], source)
        self.assertEqual((world.state, source.held), ("backing off", []))

    def test_slow_hop_does_not_slow_what_others_share(self) -> None:
        """If one stream brings the stanzas of several queues, a peer that reads nothing delays only its own queue."""
        world, source = World(), Source(shared=True)
        world.queue.accept([message("0")], source)
        world.open().writable = False
        world.queue.accept([message("1")], source)
        self.assertEqual((source.held, world.queue.pair_queue.pending), ([], True))

    def test_crowded_lane_slows_its_source_only_while_connecting(self) -> None:
        """A full queue pauses its source while its stream is being opened. During the back-off it bounces what exceeds its limit."""
        world, source = World(memory=80_000), Source()
        world.queue.accept([message("1", size=10_000)], source)
        self.assertEqual(source.held, [world.queue])
        world.dials[0].callback(None)
        world.connections[0].close(Ending(Cause.CONNECTION_REFUSED, by="network"))
        self.assertEqual((world.state, source.held), ("backing off", []))
        world.queue.accept([message("2", size=10_000)], source)
        self.assertEqual(([stanza.id for stanza in world.back], source.held), (["2"], []))
        self.assertIn(b"resource-constraint", world.back[0].data)

    def test_nothing_left_to_deliver(self) -> None:
        """When all stanzas have expired, an attempt ends, whether it waits for its place or connects. The next stanza begins another."""
        for places, dialled in ((0, 1), (1, 0)):
            world = World(stream_limits=places)
            other = None if world.room is None else world.room.turn(("domain", "other.example"), 0)
            if other is not None:
                self.assertTrue(other.take())
            world.queue.accept([message("1", kind="iq", type="get"), message("2")])
            agent = world.next_hop
            world.queue.expire(31)
            self.assertEqual(([each.id for each in world.back], agent.state), (["1"], "connecting"))
            world.queue.expire(601)
            self.assertEqual(([each.id for each in world.back], agent.state), (["1", "2"], "idle"))
            self.assertEqual((world.destinations.counts()["outbound"], len(world.room or ())), ((0, 0), 0))
            if other is not None:
                other.end()
            self.assertEqual(len(world.dials), dialled)
            world.queue.accept([message("3")])
            self.assertEqual((world.next_hop is agent, world.state, len(world.dials)), (True, "connecting", dialled + 1))

    def test_attempt_without_a_result(self) -> None:
        """The end of an attempt that had no result is recorded, once: otherwise nothing would say why the stanzas came back."""
        world = World()
        world.queue.accept([message("1")])
        world.queue.expire(601)
        world.queue.expire(1200)
        [refused] = world.record.list()
        self.assertEqual(("outbound", "there.example", "here.example"), (refused.direction, refused.peer, refused.local))
        self.assertEqual((["1"], Cause.HELD_TOO_LONG), ([each.id for each in world.back], refused.ending.cause))

    def test_attempt_at_our_own_server(self) -> None:
        """The end of such an attempt at our own server is no refusal of the peer: the state of the server tells of it."""
        world = World()
        world.queue.accept([message("1")])
        world.side.leg = "backend"
        world.queue.expire(601)
        self.assertEqual((["1"], []), ([each.id for each in world.back], world.record.list()))

    def test_attempt_after_a_failure(self) -> None:
        """The end of an attempt after one that failed is not recorded: the failure was."""
        world = World()
        world.queue.accept([message("1")])
        world.fail(Cause.CONNECTION_REFUSED)
        world.clock.advance(60)
        self.assertEqual("connecting", world.state)
        world.queue.expire(world.clock.seconds() + 601)
        self.assertEqual([Cause.CONNECTION_REFUSED], [each.ending.cause for each in world.record.list()])

    def test_nothing_left_on_the_disk(self) -> None:
        """The attempt of a queue that only the spool has stanzas of ends when these have expired. The queue is forgotten."""
        spool = MemorySpool(1 << 20, lambda call: call())
        world = World(stream_limits=1, spool=spool)
        other = None if world.room is None else world.room.turn(("domain", "other.example"), 0)
        assert other is not None
        self.assertTrue(other.take())
        world.queue.accept([message("1")])
        world.clock.advance(0.02)
        world.clock.pump([0] * ACK_TURNS)
        world.queue.evict(0)
        world.clock.advance(601)
        world.custody.expiry.sweep()
        world.custody.expiry.sweep()
        self.assertEqual(([each.id for each in world.back], world.queues.find(OUT), len(world.room or ())), (["1"], None, 0))
        self.assertEqual((spool.count, world.custody.services.relief.memory.queues), (0, 0))

    def test_withdrawn_in_another_state(self) -> None:
        """Only an attempt is ended: no stream, no back-off, and no attempt on which a lost stream may be resumed."""
        world = World()
        world.next_hop.withdraw_request()
        self.assertEqual(world.state, "idle")
        world.queue.accept([message("1")])
        world.next_hop.resume_wait.stream = Mock()
        world.next_hop.withdraw_request()
        self.assertEqual(world.state, "connecting")
        world.next_hop.resume_wait.stream = None
        world.open()
        world.next_hop.withdraw_request()
        self.assertEqual(world.state, "ready")
        world.connections[-1].close(Ending(Cause.CONNECTION_LOST, by="network"))
        world.next_hop.withdraw_request()
        self.assertEqual(world.state, "backing off")
        world.next_hop.stop(Cause.SHUTDOWN)
        world.next_hop.withdraw_request()

    def test_look_for_a_place_that_fails(self) -> None:
        """An error of ours in the look for a place, the first or a later one, is logged. The next attempt is made after a back-off."""
        for waits in (False, True):
            world, place = World(), Deferred[None]()
            looks = [place] if waits else []
            with self.subTest(waits=waits), patch.object(PeerStreamProvider, "place", lambda *_, looks=looks: looks.pop()):
                world.queue.accept([message("1")])
                if waits:
                    place.callback(None)
                self.assertEqual((world.state, len(self.flushLoggedErrors(IndexError))), ("backing off", 1))
            world.clock.advance(2)
            self.assertEqual((world.state, len(world.dials)), ("connecting", 1))

    def test_lost_stream(self) -> None:
        """A stream that worked is opened again at once if stanzas wait. A stream that ended early is opened again after a back-off."""
        world = World()
        world.queue.accept([message("1")])
        world.clock.advance(1)
        connection = world.open()
        world.clock.advance(WORKED_SECONDS)
        connection.writable = False
        world.queue.accept([message("2")])
        connection.close(Ending(Cause.CONNECTION_LOST, by="network"))
        world.clock.advance(0)
        self.assertEqual((world.state, len(world.dials)), ("connecting", 2))
        second = world.open()
        second.writable = False
        world.queue.accept([message("3")])
        second.close(Ending(Cause.CONNECTION_LOST, by="network"))
        world.clock.advance(0)
        self.assertEqual((world.state, len(world.dials)), ("backing off", 2))
        world.clock.advance(2)
        self.assertEqual(len(world.dials), 3)

    def test_reconfigured(self) -> None:
        """A stream that a reload closes, however young, is no failure: the next one is opened at once."""
        world = World()
        world.queue.accept([message("1")])
        connection = world.open()
        connection.writable = False
        world.queue.accept([message("2")])
        connection.close(Ending(Cause.RECONFIGURED))
        world.clock.advance(0)
        self.assertEqual((world.state, len(world.dials)), ("connecting", 2))

    def test_poison(self) -> None:
        """Streams that close while a poisonous stanza is being isolated are no failures: the agent tries again soon."""
        for end, said in (
            (Ending(Cause.STREAM_ERROR, by="them", condition="policy-violation"), "policy-violation"),
            (Ending(Cause.CONNECTION_LOST, by="network"), "closed without an error, twice"),
        ):
            world = World()
            world.queue.accept([message(id) for id in ("1", "bad", "3")])
            world.next_hop._ack_selection = Choosing(by_hand)
            while not world.back:
                connection = world.open()
                if ids(connection.written) == ["1"]:
                    world.queue.acknowledged(1)
                connection.close(end)
                self.assertEqual((world.state, world.next_hop.retry.failures), ("backing off", 0))
                world.clock.advance(2 * ISOLATING_SECONDS)
            self.assertEqual((ids(world.open().written), [each.id for each in world.back]), (["3"], ["bad"]))
            self.assertIn(f"(queue: poison; {said})".encode(), world.back[0].data)

    def test_every_one_poison(self) -> None:
        """A server that closes its stream on every stanza is contacted at growing intervals all the same."""
        world = World()
        world.queue.accept([message(str(number)) for number in range(MAX_ISOLATIONS + 2)])
        world.next_hop._ack_selection = Choosing(by_hand)
        rests = []
        for _ in range(MAX_ISOLATIONS + 2):
            world.open().close(Ending(Cause.STREAM_ERROR, by="them", condition="policy-violation"))
            rests.append(world.next_hop.data.timer.getTime() - world.clock.seconds())
            world.clock.advance(rests[-1])
        self.assertEqual(rests, [ISOLATING_SECONDS] * MAX_ISOLATIONS + [2.0, 4.0])

    def test_nothing_in_doubt(self) -> None:
        """If a stream ends because of another queue's stanza, a queue with nothing in flight does not wait longer."""
        world = World()
        world.queue.accept([message("1")])
        world.open().close(Ending(Cause.STREAM_ERROR, by="them", condition="policy-violation"))
        self.assertEqual((world.next_hop.retry.failures, world.next_hop.data.timer.getTime()), (0, ISOLATING_SECONDS))

    def test_released_for_others(self) -> None:
        """A stream is closed in order, once nothing is in flight on it, if others wait for a place. Stanzas that arrive
        during the close get a new stream at once, in order. None is lost, and none counts as a failure.
        """
        world = World()
        world.queue.accept([message("1")])
        connection = world.open()
        world.queue.next_hop.release_stream()
        self.assertEqual((Cause.IDLE, True), (connection.ending and connection.ending.cause, connection.ending and connection.ending.in_order))
        world.queue.accept([message("2")])
        world.queue.accept([message("3")])
        world.clock.advance(0)
        self.assertEqual(2, len(world.connections))
        self.assertEqual((["1"], ["23"]), (ids(connection.written), ids(world.open().written)))
        agent: Any = world.queue.next_hop
        self.assertEqual((0, []), (agent.retry.failures, world.back))

    def test_not_released(self) -> None:
        """A stream is kept while something is in flight or another pair uses it, and if the other side may send on it or has opened it."""
        world = World()
        world.queue.next_hop.release_stream()
        world.queue.accept([message("1")])
        connection = world.open()
        agent: Any = world.queue.next_hop
        agent.data.acknowledgements = TcpAcks()
        agent.data.acknowledgements.acknowledges = True
        world.queue.accept([message("2")])
        agent.release_stream()
        self.assertIsNone(connection.ending)
        world.queue.acknowledged(1)
        shared_stream = agent.stream._shared_stream
        shared_stream.incoming = object()
        agent.release_stream()
        self.assertIsNone(connection.ending)
        shared_stream.incoming = None
        other = shared_stream.allow(Pair(Domain.parse("rooms.here.example"), THERE))
        other.user = agent
        agent.release_stream()
        self.assertIsNone(connection.ending)
        other.user = None
        shared_stream.target = None  # a stream that the peer has opened
        agent.release_stream()
        self.assertIsNone(connection.ending)

    def test_room(self) -> None:
        """R37: at the limit of streams, a queue waits for a stream that is idle. Its stanzas are sent in order,
        and so are those that arrive for the other queue at the moment its stream is closed.
        """
        world, other = World(stream_limits=1), Pair(HERE, Domain.parse("other.example"))
        world.queue.accept([message("1")])
        first = world.open()
        first.last_sent = first.last_received = 0.0
        world.clock.advance(stream_limits.REST_SECONDS)
        queue = world.queues.queue(other)
        queue.accept([message("2")])
        world.clock.advance(0)
        self.assertEqual(("connecting", "idle"), (queue.next_hop.state, world.state))
        world.queue.accept([message("4")])
        queue.accept([message("3")])
        world.clock.advance(0)
        self.assertEqual((Cause.IDLE, ["connecting"] * 2), (first.ending and first.ending.cause, [queue.next_hop.state, world.state]))
        self.assertEqual((["1"], 2, 1), (ids(first.written), len(world.dials), len(world.room or ())))
        second = world.open()
        second.last_sent = second.last_received = world.clock.seconds()
        world.clock.advance(stream_limits.REST_SECONDS + stream_limits.LOOK_SECONDS)
        self.assertEqual((["23"], ["4"]), (ids(second.written), ids(world.open().written)))
        self.assertEqual([], world.back)

    def test_idle_queue_is_forgotten(self) -> None:
        """A queue without stream, stanzas or back-off is removed from memory."""
        world = World()
        world.queue.accept([message("1")])
        world.open().close(Ending(Cause.CLOSED, by="them"))
        world.clock.advance(600)
        world.custody.expiry.sweep()
        self.assertEqual(list(world.queues), [])

    def test_stop(self) -> None:
        """A stop closes the stream in order and bounces what waits. No stream is opened after it."""
        world = World()
        world.queue.accept([message("1")])
        connection = world.open()
        stop(world.custody)
        self.assertEqual(connection.ending, Ending(Cause.SHUTDOWN))
        waiting = World()
        waiting.queue.accept([message("2")])
        stop(waiting.custody)
        self.assertEqual([stanza.id for stanza in waiting.back], ["2"])
        self.assertEqual(waiting.clock.getDelayedCalls(), [])

    def test_limit_of_the_next_server(self) -> None:
        """R32: a stanza larger than the next server's announced limit (XEP-0478) is bounced with the reason, not sent."""
        world = World()
        world.side.limits = PeerLimits(max_bytes=12_000)
        world.queue.accept([message("1", size=12_001), message("2")])
        connection = world.open()
        self.assertEqual((ids(connection.written), [stanza.id for stanza in world.back]), (["2"], ["1"]))
        world.queue.accept([message("3"), message("4", size=12_001)])
        self.assertEqual((ids(connection.written), [stanza.id for stanza in world.back]), (["2", "3"], ["1", "4"]))
        self.assertIn(b"larger than the next server accepts", world.back[0].data)
        self.assertEqual(len(world.queue.pair_queue), 0)

    def test_limit_that_is_known(self) -> None:
        """If a server announces no limit, its known limit counts. The lesser limit applies, but it is never below 10,000 bytes."""
        for limits, known, largest in ((None, 65_535, 65_535), (20_000, 65_535, 20_000), (5, None, 10_000), (None, None, None)):
            world = World()
            world.side.limits, world.side.known = PeerLimits(max_bytes=limits), known
            world.queue.accept([message("1")])
            world.open()
            self.assertEqual(world.queue.limits.largest, largest)

    def test_what_cannot_be_held(self) -> None:
        """A stanza that the next server cannot accept is bounced with the reason, whether it has waited or not. The others are sent."""
        world = World()
        world.side.limits = PeerLimits(holds=lambda data: b"id='bad" not in data)
        world.queue.accept([message("bad1"), message("2")])
        connection = world.open()
        world.queue.accept([message("3"), message("bad4")])
        self.assertEqual((ids(connection.written), [stanza.id for stanza in world.back]), (["2", "3"], ["bad1", "bad4"]))
        self.assertIn(b"policy: unfit", world.back[0].data)

    def test_no_room_for_a_stamp(self) -> None:
        """R32, R39: the gateway's delay stamp does not make a stanza too large for the next server."""
        world = World()
        world.side.limits = PeerLimits(max_bytes=12_000)
        world.queue.accept([message("1", size=11_950), message("2")])
        world.clock.advance(5)
        written = world.open().written[0]
        self.assertEqual((ids([written]), written.count(b"<delay")), (["12"], 1))

    def test_counts(self) -> None:
        """Every stanza is counted by direction, kind and outcome."""
        world = World()
        world.side.ending = Ending(Cause.NO_SUCH_DOMAIN)
        world.queue.accept([message("1"), message("e", type="error")])
        self.assertEqual(
            dict(world.record.stanzas),
            {("outbound", "message", "bounced"): 1, ("outbound", "message", "dropped"): 1, ("inbound", "message", "passed"): 1},
        )


class AbandonedTests(SynchronousTestCase):
    """Another node has the queue: the agent ends at once, in any state. It closes no stream and makes no attempt."""

    def setUp(self) -> None:
        self.world = World()

    def abandoned(self) -> None:
        dials = len(self.world.dials)
        queue = self.world.queue
        agent = queue.next_hop
        queue.cut_off()
        self.assertEqual(("idle", False), (agent.state, agent.ready))
        self.world.clock.advance(1000)
        self.assertEqual((dials, [], 0), (len(self.world.dials), self.world.clock.getDelayedCalls(), len(queue.pair_queue)))

    def test_idle(self) -> None:
        self.abandoned()

    def test_connecting(self) -> None:
        self.world.queue.accept([message("1")])
        self.abandoned()
        self.assertTrue(self.world.dials[0].called)

    def test_ready(self) -> None:
        """The stream is left to the caller. Its end tells this agent nothing."""
        self.world.queue.accept([message("1")])
        connection = self.world.open()
        self.abandoned()
        self.assertIsNone(connection.ending)
        connection.abort(Ending(Cause.OTHER_NODE))
        self.assertEqual([], self.world.back)

    def test_backing_off(self) -> None:
        self.world.queue.accept([message("1")])
        self.world.fail(Cause.CONNECTION_REFUSED)
        self.abandoned()
        self.assertEqual([], self.world.back)
