"""The streams and queues of a peer are taken, closed and dropped whole: nothing outlasts its home."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import count
from math import inf
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import Logger, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster import peer_spool, records
from s2sgw.cluster.engine import EngineFull, Fence, Fenced, LaneRecord, PeerLogs
from s2sgw.cluster.records import RecordError
from s2sgw.cluster.shared_holds import SharedHolds
from s2sgw.cluster.spool import JetStreamSpool
from s2sgw.composition.peer_custody import AT_ONCE, READ_AGAIN, QueuedPeers
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.holds import HoldTarget
from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.policy.model import PeerObject
from s2sgw.policy.peers import PeerPolicies
from s2sgw.queue.backoff import BackOff
from s2sgw.reporting.record import EventRecord
from s2sgw.s2s.accepted_streams import AcceptedStreams
from s2sgw.s2s.connecting import ConnectServices
from s2sgw.s2s.destinations import Destinations
from s2sgw.s2s.extensions import ExtensionMemory
from s2sgw.s2s.stream_provider import PeerStreamProvider
from s2sgw.spool.interface import LaneSummary, SpoolError
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.coroutines import now
from tests.support.custody import Receipt, custody_of, ingress_services
from tests.support.fakes import Connections, FixedRandom
from tests.support.memory_engine import MemoryEngine, MemoryStore
from tests.unit.delivery.test_agent import Choosing, FakeConnection, FakeSide, by_hand

HERE, ROOMS, PEER, OTHER = (Domain.parse(f"{name}.example") for name in ("here", "rooms", "peer", "other"))
OUT, IN, OUT_OTHER = Pair(HERE, PEER), Pair(PEER, HERE), Pair(HERE, OTHER)
LOCAL = Pair(ROOMS, HERE)
WINDOW = 0.02
_sessions = count(1)


def stanza(name: str, pair: Pair = OUT, kind: Any = "message", type: str | None = None) -> Stanza:
    addresses = f"from='u@{pair.sender}' to='v@{pair.recipient}'"
    data = f"<{kind} xmlns='jabber:server' id='{name}' {addresses}/>".encode()
    return Stanza(kind, data, f"v@{pair.recipient}", f"u@{pair.sender}", type, name)


class Incoming:
    """A stream of the other side, as the lists of streams know it."""

    leg = "federation"

    def __init__(self, node: Node, *pairs: Pair, managed: bool = False) -> None:
        self.node = node
        self.side = SimpleNamespace(leg=self.leg)
        self.methods = dict.fromkeys(pairs, "EXTERNAL")
        self.carried: list[Pair] = []
        self.senders = {pair.sender for pair in pairs}
        self.connection = IncomingConnection(self)
        self.engine = SimpleNamespace(managed=managed, owes=False, acknowledged_to_peer=0, handled=lambda number: [])
        self.incoming = StreamIngress(node.ingress, cast(Any, self.connection), cast(Any, self.engine), "federation", self, self.senders)
        if managed:
            self.incoming.managed()
        node.accepted._open[cast(Any, self.connection)] = cast(Any, self)
        for pair in pairs:
            node.accepted.proves(cast(Any, self), cast(Any, self.connection), pair)

    async def admit(self, pair: Pair) -> Ending | None:
        return None

    def ended(self, ending: Ending) -> None:
        self.node.accepted.gone(cast(Any, self), cast(Any, self.connection))
        self.incoming.close(ending)

    def abandon(self, concerns: Callable[[Pair], bool], ending: Ending) -> None:
        self.incoming.abandon(concerns)
        self.connection.abort(ending)


class IncomingConnection:
    """The connection of such a stream."""

    peer_address, shared = "192.0.2.1:5269", False
    has_unread_input = False
    read_since = 0.0

    def __init__(self, owner: Incoming) -> None:
        self.owner = owner
        self.ending: Ending | None = None
        self.holders: set[object] = set()
        self.last_received = 0.0
        self.closed: Deferred[None] = Deferred()

    def pause(self, holder: object) -> None:
        self.holders.add(holder)

    def resume(self, holder: object) -> None:
        self.holders.discard(holder)

    def close(self, ending: Ending) -> None:
        if self.ending is None:
            self.ending = ending
            self.owner.ended(ending)
            self.closed.callback(None)

    abort = wind_down = close

    def fail(self, refusal: Any) -> None:
        self.close(refusal.ending)

    def step(self, method: Callable[..., Any], *args: Any) -> None:
        method(*args)

    def when_closed(self) -> Deferred[None]:
        return self.closed


class Node:
    """One node: queues over the spool in the engine. Answers of the spool wait for `answer`."""

    def __init__(self, store: MemoryStore) -> None:
        self.clock = Clock()
        self.clock.rightNow = 1.0
        self.engine = MemoryEngine(store)
        self.late: list[Callable[[], None]] = []
        self.connections: list[FakeConnection] = []
        self.dead: set[int] = set()
        self.side = FakeSide()
        self.record = EventRecord(self.clock, Logger())
        self.lost: list[Domain] = []
        self.spool = JetStreamSpool(
            self.engine, 1 << 20, self.late.append, self.clock, session=str(next(_sessions)), wall=self.clock.seconds,
            peer_of=lambda pair: self.ingress.home(pair), lost=self.lost.append,
        )
        self.may_change = True
        self.reports: list[str] = []
        self.holds = SharedHolds(
            self.engine, self.clock, lambda: self.may_change, lambda pair: self.ingress.home(pair), self.reports.append,
        )
        self.holds.table.start()
        self.custody = custody_of(
            self.clock, self.record, {HERE, ROOMS}.__contains__, self._next_hop, spool=self.spool, window=WINDOW, holds=self.holds,
        )
        self.queues = self.custody.queues
        self.ingress = ingress_services(self.custody, PeerPolicies({"default": PeerObject()}))
        self.ingress.local_domains = {HERE, ROOMS}
        self.ingress.homes = self
        self.ingress.returned = self
        self.given: list[tuple[Pair, list[str | None]]] = []
        self.claims: list[Domain] = []
        self.elsewhere: Ending | None = None
        self.waiting: list[Deferred[Ending | None]] | None = None
        extensions = ExtensionMemory(self.clock)
        destinations = Destinations(self.clock, FixedRandom(), BackOff(first=2, jitter=0))
        self.accepted = AcceptedStreams(self.ingress, cast(Any, None), SimpleNamespace(contacted=lambda peer: None))
        self.connect_services = ConnectServices(cast(Any, Connections(self._connection)), self.clock, destinations, extensions)
        self.peers = QueuedPeers(self.custody, self.ingress, self.accepted, self.connect_services.initiated, self.spool, self.holds, self.holds.table.current)
        self.holds.changed = self.peers.holds_changed

    async def claim(self, home: Domain) -> Ending | None:
        self.claims.append(home)
        if self.waiting is not None:
            self.waiting.append(Deferred())
            return await self.waiting[-1]
        return self.elsewhere

    def give_back(self, pair: Pair, stanzas: Sequence[Stanza], cause: Cause) -> None:
        self.given.append((pair, [each.id for each in stanzas]))

    def _next_hop(self, queue: DeliveryQueue) -> NextHop:
        provider = PeerStreamProvider(cast(Any, self.side), self.connect_services)
        back_off = BackOff(first=2, jitter=0)
        return DeliveryAgent(queue, provider, self.record, back_off, FixedRandom(), self.clock, Choosing(by_hand))

    def _connection(self, engine: Any, owner: Any) -> FakeConnection:
        self.connections.append(FakeConnection(owner))
        return self.connections[-1]

    def take(self, peer: Domain = PEER) -> Ending | None:
        home = now(self.engine.home(peer))
        fence, logs = now(self.engine.claim(peer, b"", 0 if home is None else home.sequence))
        return self.took(fence, logs)

    def took(self, fence: Fence, logs: PeerLogs) -> Ending | None:
        result: Ending | None = now(self.peers.take(fence, logs))
        return result

    def answer(self) -> None:
        """Give the answers of the spool."""
        while self.late:
            self.late.pop(0)()

    def settle(self, seconds: float = 1.0, step: float = 0.05) -> None:
        """Let time pass, with answers."""
        for _ in range(int(seconds / step)):
            self.clock.advance(step)
            self.answer()

    def open(self) -> FakeConnection:
        """Let all attempts succeed. Return the connection of the last one."""
        for dial, connection in zip(list(self.side.dials), list(self.connections), strict=True):
            if not dial.called:
                dial.callback(None)
                connection.prove()
        return self.connections[-1]

    def written(self) -> list[str]:
        return [
            name for connection in self.connections for data in connection.written
            for name in re.findall(r" id='([^']+)'", data.decode())
        ]

    def accept(self, *names: str, pair: Pair = OUT, receipt: Receipt | None = None, kind: Any = "message", type: str | None = None) -> None:
        self.queues.queue(pair).accept([stanza(name, pair, kind, type) for name in names], None, receipt)


class PeerTestCase(SynchronousTestCase):
    """Two nodes on one engine."""

    def setUp(self) -> None:
        self.store = MemoryStore()
        self.node, self.second = Node(self.store), Node(self.store)
        self.assertIsNone(self.node.take())

    def spooled(self, node: Node | None = None, peer: Domain = PEER) -> list[int]:
        """Return how many stanzas the engine has in each lane of the peer."""
        node = node or Node(self.store)
        home = now(node.engine.home(peer))
        fence, logs = now(node.engine.claim(peer, b"", home.sequence))
        return [summary.count for summary in node.spool.restored(fence, logs)]


class TakeTests(PeerTestCase):
    """The queues of a peer begin behind what the engine has."""

    def test_behind(self) -> None:
        """Stored stanzas go first, and the next ones have later positions."""
        self.node.accept("1", "2")
        self.node.settle()
        self.node.peers.drop(PEER)
        self.assertIsNone(self.second.take())
        queue = self.second.queues.queue(OUT)
        self.assertEqual((2, 3), (len(queue.pair_queue), queue.pair_queue.next_position))
        self.second.accept("3")
        self.second.open()
        self.second.settle()
        self.assertEqual(["1", "2", "3"], self.second.written())

    def test_lane_that_is_empty(self) -> None:
        """A lane of which the engine has nothing begins behind all positions that the peer may have used."""
        self.node.accept("1", "2")
        self.node.settle()
        self.node.peers.drop(PEER)
        self.assertIsNone(self.second.take())
        self.assertGreater(self.second.spool.next_position, 1)
        self.assertEqual(self.second.spool.next_position, self.second.queues.queue(IN).pair_queue.next_position)

    def test_stopping(self) -> None:
        """A gateway that stops takes nothing."""
        self.second.custody.quiesce()
        ending = self.second.take()
        self.assertIs(Cause.SHUTDOWN, ending.cause if ending else None)

    def test_unreadable(self) -> None:
        """A peer whose records cannot be read is not taken."""
        def restored(fence: Fence, logs: PeerLogs) -> list[LaneSummary]:
            raise RecordError("a record of a later release")

        self.patch(self.second.spool, "restored", restored)
        ending = self.second.take()
        assert ending is not None
        self.assertEqual((Cause.SPOOL_UNREADABLE, "a record of a later release"), (ending.cause, ending.detail))
        self.assertEqual([], list(self.second.queues))

    def test_requests(self) -> None:
        """A request that was written at the former home is answered with an error, and not sent again."""
        self.node.accept("1", kind="iq", type="get")
        self.node.settle()
        self.node.open()
        self.node.settle()
        self.assertEqual(["1"], self.node.written())
        self.node.peers.drop(PEER)
        self.second.take()
        self.second.open()
        self.second.settle()
        self.assertEqual([], self.second.written())
        self.assertEqual(1, len(self.second.queues.queue(IN).pair_queue))

    def test_old_holds(self) -> None:
        """A hold on a single stanza ends if the stanza is gone; one on a stanza that waits stays."""
        self.node.accept("1")
        self.node.settle()
        for position in (1, 7):
            now(self.second.holds.add(HoldTarget(pair=OUT, position=position)))
        self.node.peers.drop(PEER)
        self.node.take()
        self.assertEqual(({1}, {1}), (self.node.holds.positions(OUT), self.second.holds.positions(OUT)))
        self.assertEqual({1}, self.node.queues.queue(OUT).parked)


class DropTests(PeerTestCase):
    """Nothing of a peer is left."""

    def gone(self, node: Node) -> None:
        """Everything of the peer has gone, and later answers and timers do nothing."""
        self.assertEqual([], node.queues.of_home(PEER))
        self.assertFalse(node.peers.in_use(PEER))
        written = node.written()
        node.settle(70, 0.5)
        self.assertEqual(written, node.written())
        self.assertFalse(node.peers.in_use(PEER))
        self.assertEqual(0, node.custody.services.relief.memory.used)

    def test_in_flight(self) -> None:
        """Stanzas in flight are not settled, and the stream is aborted."""
        receipt = Receipt(2)
        self.node.accept("1", receipt=receipt)
        connection = self.node.open()
        self.node.accept("2", receipt=receipt)
        agent = self.node.queues.queue(OUT).next_hop
        self.node.peers.drop(PEER)
        self.assertIsNotNone(connection.ending)
        self.assertEqual("idle", agent.state)
        self.gone(self.node)
        self.assertEqual([], receipt.by)
        self.assertTrue(receipt.abandoned)

    def test_late_answer(self) -> None:
        """The spool stores what was given, and says so too late: the receipt stays open, and the next home has the stanza."""
        receipt = Receipt(1)
        self.node.accept("1", receipt=receipt)
        self.node.clock.advance(WINDOW)
        self.node.clock.pump([0] * 6)
        self.assertTrue(self.node.queues.queue(OUT).spooling)
        self.node.peers.drop(PEER)
        self.gone(self.node)
        self.assertEqual([], receipt.by)
        self.assertEqual([1], self.spooled())

    def test_being_opened(self) -> None:
        """An attempt to open a stream is given up."""
        self.node.accept("1")
        self.node.peers.drop(PEER)
        self.gone(self.node)
        self.assertTrue(self.node.side.dials[0].called)
        self.assertEqual([], list(self.node.connect_services.initiated))

    def test_being_read(self) -> None:
        """A stanza that is being read from the spool is not written any more."""
        self.node.accept("1")
        self.node.settle()
        self.node.queues.queue(OUT).evict(0)
        connection = self.node.open()
        self.assertTrue(self.node.queues.queue(OUT).spooled_range.reading)
        self.node.peers.drop(PEER)
        self.gone(self.node)
        self.assertEqual([], connection.written)
        self.assertEqual([1], self.spooled())

    def test_bounces(self) -> None:
        """A stanza whose error is on its way back stays in the engine, and its receipt is open."""
        receipt = Receipt(1)
        self.node.accept("1", receipt=receipt)
        self.node.queues.queue(OUT).give_up(Cause.UNREACHABLE)
        self.assertEqual(1, len(self.node.queues.queue(IN).pair_queue))
        self.node.peers.drop(PEER)
        self.gone(self.node)
        self.assertEqual(([], True), (receipt.by, receipt.abandoned))

    def test_asked_by_the_operator(self) -> None:
        """An operator's order for one stanza in the spool is answered: nothing was dropped."""
        self.node.accept("1")
        self.node.settle()
        queue = self.node.queues.queue(OUT)
        queue.evict(0)
        number = queue.drop(True, 1)
        self.node.peers.drop(PEER)
        self.gone(self.node)
        self.assertEqual(0, self.successResultOf(number))
        self.assertEqual([1], self.spooled())

    def test_expired(self) -> None:
        """Rows that the spool has named as expired are not bounced after the drop."""
        self.node.accept("1")
        self.node.settle()
        self.node.queues.queue(OUT).evict(0)
        self.node.clock.advance(700)
        self.node.custody.expiry.sweep()
        self.node.peers.drop(PEER)
        self.node.take()
        self.node.answer()
        self.assertEqual(1, len(self.node.queues.queue(OUT).pair_queue))
        self.node.custody.expiry.sweep()
        self.node.settle(0.2)
        self.assertEqual(0, len(self.node.queues.queue(OUT).pair_queue))
        self.assertEqual(1, len(self.node.queues.queue(IN).pair_queue))

    def test_streams_of_the_peer(self) -> None:
        """They are aborted. What waits there is not passed on, and a server that sends it again is believed."""
        incoming = Incoming(self.node, IN, managed=True)
        self.node.waiting = []
        incoming.incoming.stanzas(IN, [stanza("1", IN)])
        self.assertTrue(self.node.peers.in_use(PEER))
        self.node.peers.drop(PEER)
        self.assertIsNotNone(incoming.connection.ending)
        self.node.waiting.pop().callback(None)
        self.node.waiting = None
        self.gone(self.node)
        self.assertFalse(self.node.ingress.admitting)
        self.node.take()
        again = Incoming(self.node, IN, managed=True)
        again.incoming.stanzas(IN, [stanza("1", IN)])
        self.assertEqual(1, len(self.node.queues.queue(IN).pair_queue))

    def test_being_closed(self) -> None:
        """A stream of theirs that carried stanzas to the peer, and is being closed, sends nothing more. It is known until it is gone."""
        for carries in (True, False):
            incoming, aborted = Incoming(self.node, IN), list[Ending]()
            if carries:
                incoming.carried.append(OUT)
                self.node.accepted.carries(cast(Any, incoming), OUT)
            self.patch(incoming.connection, "abort", aborted.append)
            incoming.ended(Ending(Cause.CLOSED))
            self.node.peers.drop(PEER)
            self.assertEqual([Cause.OTHER_NODE] if carries else [], [each.cause for each in aborted])
            incoming.connection.closed.callback(None)
            self.assertEqual([], list(self.node.accepted.closing_of_home(PEER)))

    def test_repeated_after_a_drop(self) -> None:
        """A message whose first copy was dropped here is taken when its sender sends it again."""
        incoming = Incoming(self.node, IN, managed=True)
        incoming.incoming.stanzas(IN, [stanza("1", IN)])
        self.assertEqual(1, len(self.node.queues.queue(IN).pair_queue))
        self.node.peers.drop(PEER)
        self.gone(self.node)
        self.node.take()
        again = Incoming(self.node, IN, managed=True)
        again.incoming.stanzas(IN, [stanza("1", IN)])
        self.assertEqual(1, len(self.node.queues.queue(IN).pair_queue))

    def test_repeated_on_another_stream(self) -> None:
        """The same, if the first stream had ended before the drop."""
        incoming = Incoming(self.node, IN, managed=True)
        incoming.incoming.stanzas(IN, [stanza("1", IN)])
        incoming.connection.close(Ending(Cause.CONNECTION_LOST))
        self.node.peers.drop(PEER)
        self.node.take()
        again = Incoming(self.node, IN, managed=True)
        again.incoming.stanzas(IN, [stanza("1", IN)])
        self.assertEqual(1, len(self.node.queues.queue(IN).pair_queue))

    def test_others_on_the_stream(self) -> None:
        """The stanzas that another peer has sent on the stream are passed on."""
        self.node.take(OTHER)
        both = Incoming(self.node, IN, OUT_OTHER.inverse)
        both.incoming.stanzas(OUT_OTHER.inverse, [stanza("1", OUT_OTHER.inverse)])
        self.node.peers.drop(PEER)
        self.assertIsNotNone(both.connection.ending)
        self.assertEqual(1, len(self.node.queues.queue(OUT_OTHER.inverse).pair_queue))
        self.assertEqual([], list(self.node.accepted.of_home(OTHER)))

    def test_others(self) -> None:
        """Other peers are not touched."""
        self.node.take(OTHER)
        self.node.accept("1", pair=OUT_OTHER)
        self.node.accept("2")
        self.node.peers.drop(PEER)
        self.assertEqual(1, len(self.node.queues.queue(OUT_OTHER).pair_queue))

    def test_local_pairs(self) -> None:
        """A pair of two local domains belongs to the lesser name."""
        self.node.take(HERE)
        self.node.accept("1", pair=LOCAL)
        self.node.peers.drop(PEER)
        self.node.peers.drop(ROOMS)
        self.assertTrue(self.node.peers.in_use(HERE))
        self.node.peers.drop(HERE)
        self.assertIsNone(self.node.queues.find(LOCAL))

    def test_what_may_be_stored(self) -> None:
        """Stanzas that the engine was given and has not answered for are not called lost, and not given back: it may have them."""
        self.node.engine.cut()
        self.node.accept("1", "2")
        self.node.clock.advance(WINDOW)
        self.node.accept("3")
        with capturedLogs() as logged:
            self.node.peers.drop(PEER)
        self.assertEqual([("stanzas may be stored", 2)], [(each["event"], each["stanzas"]) for each in logged])
        self.assertEqual([(OUT, ["3"])], self.node.given)

    def test_stored_in_part(self) -> None:
        """Stanzas of a large append that another home came between are not given back: the new home delivers some of them."""
        self.patch(peer_spool, "APPEND_BYTES", 400)
        self.patch(records, "RUN_STANZAS", 2)
        self.patch(self.node.spool, "_lost", self.node.peers.drop)
        appended: list[int] = []
        original = self.node.engine.append

        async def append(fence: Fence, parts: Sequence[LaneRecord], identity: str) -> Sequence[int]:
            appended.append(len(parts))
            if len(appended) == 2:
                self.second.take()
            return await original(fence, parts, identity)

        self.patch(self.node.engine, "append", append)
        self.node.accept(*"123456789")
        with capturedLogs() as logged:
            self.node.settle()
        self.assertEqual([("stanzas may be stored", 9)], [(each["event"], each["stanzas"]) for each in logged])
        self.second.open()
        self.second.settle()
        self.assertEqual(([*"123456"], []), (self.second.written(), self.node.given))

    def test_stored_in_doubt(self) -> None:
        """So are stanzas of an append that got no answer before there was another home. Those that surely were not stored are given back."""
        for in_doubt in (True, False):
            fenced = Fenced("another home")
            fenced.in_doubt = in_doubt
            self.patch(self.node.spool, "_lost", self.node.peers.drop)
            self.patch(self.node.engine, "append", lambda *_, fenced=fenced: fail(fenced))
            self.node.accept("1")
            self.node.settle()
            self.assertEqual([] if in_doubt else [(OUT, ["1"])], self.node.given)
            self.node.take()

    def test_sent_again(self) -> None:
        """Stanzas that a server with XEP-0198 sends again are not given back. Those of another server are."""
        for managed, answered in ((True, []), (False, [(IN, ["1"])])):
            Incoming(self.node, IN, managed=managed).incoming.stanzas(IN, [stanza("1", IN)])
            with capturedLogs() as logged:
                self.node.peers.drop(PEER)
            self.assertEqual((answered, []), (self.node.given, logged))
            self.node.take()

    def test_lost(self) -> None:
        """Stanzas that were written may have arrived, and some may not be answered. They are logged, and not given back."""
        self.node.accept("1")
        self.node.open()
        self.assertEqual(["1"], self.node.written())
        self.node.queues.queue(IN).accept([stanza("2", IN, type="error"), stanza("3", IN)])
        with capturedLogs() as logged:
            self.node.peers.drop(PEER)
        found = {(each["event"], each["recipient"], each["stanzas"], each["written"]) for each in logged}
        self.assertEqual({("stanzas lost", "peer.example", 1, 1), ("stanzas lost", "here.example", 1, 0)}, found)
        self.assertEqual([(IN, ["3"])], self.node.given)

    def test_step_that_fails(self) -> None:
        """If one step fails, the others follow: nothing of the peer is left behind."""
        self.node.accept("1")
        connection = self.node.open()

        def cut_off(peer: Domain) -> None:
            raise RuntimeError("broken")

        self.patch(self.node.queues, "cut_off", cut_off)
        self.patch(self.node.peers, "_give_back", cut_off)
        self.node.peers.drop(PEER)
        self.assertEqual(2, len(self.flushLoggedErrors(RuntimeError)))
        self.assertIsNotNone(connection.ending)

    def test_logged_by_the_stop(self) -> None:
        """A peer that is dropped when the node leaves, after its stop, is not logged again."""
        self.node.accept("1")
        self.node.custody.services.window.over = True
        with capturedLogs() as logged:
            self.node.peers.drop(PEER)
        self.assertEqual([], logged)

    def test_again(self) -> None:
        """The same node may take the peer again, and an answer to the former queue changes nothing in the new one."""
        self.node.accept("1", "2")
        self.node.clock.advance(WINDOW)
        self.node.clock.pump([0] * 6)
        self.node.peers.drop(PEER)
        self.node.take()
        self.node.accept("3")
        self.node.settle()
        self.node.open()
        self.node.settle()
        self.assertEqual(["1", "2", "3"], self.node.written())


class CloseTests(PeerTestCase):
    """A peer that is closed leaves everything in the engine."""

    def close(self) -> Deferred[bool]:
        return Deferred.fromCoroutine(self.node.peers.close(PEER))

    def test_idle(self) -> None:
        """A peer of which nothing is there is given up at once."""
        done = self.close()
        self.node.settle(0.1)
        self.assertTrue(self.successResultOf(done))

    def test_all_is_spooled(self) -> None:
        """Stanzas that wait, or were written and not answered, are stored. The next home sends them in order."""
        receipt = Receipt(3)
        self.node.accept("1", receipt=receipt)
        connection = self.node.open()
        self.node.accept("2", "3", receipt=receipt)
        done = self.close()
        self.node.settle(4)
        self.assertTrue(self.successResultOf(done))
        self.assertIsNotNone(connection.ending)
        self.assertEqual([("on_disk", 3)], [(receipt.by[0][0], sum(number for _, number in receipt.by))])
        self.assertFalse(self.node.peers.in_use(PEER))
        self.second.take()
        self.second.open()
        self.second.settle()
        self.assertEqual(["1", "2", "3"], self.second.written())

    def test_acknowledged_meanwhile(self) -> None:
        """A stanza that is acknowledged before the streams close is not stored."""
        self.node.accept("1")
        self.node.open()
        done = self.close()
        self.node.settle(0.5)
        self.node.queues.queue(OUT).acknowledged(1)
        self.node.settle(0.5)
        self.assertTrue(self.successResultOf(done))
        self.assertEqual(0, sum(self.spooled()))

    def test_in_use_by_a_stream(self) -> None:
        """A stream that brings stanzas is closed in order: what comes until then is stored."""
        incoming = Incoming(self.node, IN)
        done = self.close()
        incoming.incoming.stanzas(IN, [stanza("1", IN)])
        self.node.settle(4)
        self.assertTrue(self.successResultOf(done))
        self.assertIs(Cause.CLOSED, incoming.connection.ending.cause if incoming.connection.ending else None)

    def test_full(self) -> None:
        """The peer stays here if the engine does not take its stanzas. They are delivered by a new stream."""
        self.node.accept("1")
        self.node.open()
        self.node.engine.refuse(EngineFull("full"))
        done = self.close()
        self.node.settle(12)
        self.assertFalse(self.successResultOf(done))
        self.node.engine.go_on()
        self.node.settle(3)
        self.node.open()
        self.assertEqual(["1", "1"], self.node.written())
        self.node.queues.queue(OUT).acknowledged(1)
        self.node.settle()

    def test_request_that_is_kept(self) -> None:
        """A request that was written is not sent again if the peer stays here. It is answered with an error."""
        self.node.accept("1", kind="iq", type="get")
        self.node.open()
        self.node.engine.refuse(EngineFull("full"))
        done = self.close()
        self.node.settle(12)
        self.assertFalse(self.successResultOf(done))
        self.node.engine.go_on()
        self.node.settle(3)
        self.node.open()
        self.node.settle(1)
        self.assertEqual(["1", "1"], self.node.written())
        self.assertEqual(1, b"".join(data for each in self.node.connections for data in each.written).count(b"type='error'"))

    def test_error(self) -> None:
        """The peer stays here if a step fails. Its stanzas are delivered by a new stream."""
        self.node.accept("1")
        self.node.settle()

        def release(peer: Domain) -> Deferred[None]:
            raise RuntimeError("broken")

        self.patch(self.node.spool, "release", release)
        done = self.close()
        self.node.settle(12)
        self.failureResultOf(done, RuntimeError)
        self.node.settle(3)
        self.node.open()
        self.node.settle(1)
        self.assertEqual(["1"], self.node.written())

    def test_not_released(self) -> None:
        """The peer stays here if the spool does not give it back."""
        self.node.accept("1")
        self.node.settle()
        self.patch(self.node.spool, "release", lambda peer: fail(SpoolError("closed")))
        done = self.close()
        self.node.settle(12)
        self.assertFalse(self.successResultOf(done))
        self.node.settle(3)
        self.node.open()
        self.node.settle(1)
        self.assertEqual(["1"], self.node.written())

    def test_dropped_meanwhile(self) -> None:
        """A drop ends the call. Nothing that was taken since is touched."""
        self.node.accept("1")
        self.node.open()
        done = self.close()
        self.node.peers.drop(PEER)
        self.node.take()
        self.node.accept("2")
        self.node.settle(12)
        self.assertFalse(self.successResultOf(done))
        self.assertEqual(1, len(self.node.queues.queue(OUT).pair_queue))
        self.node.open()
        self.node.settle()
        self.assertEqual(["1", "2"], self.node.written())

    def test_dropped_during_the_release(self) -> None:
        """The same, while the spool gives the peer back."""
        self.node.accept("1")
        self.node.settle()
        done = self.close()
        self.node.engine.hold()
        self.node.clock.pump([0.05] * 80)
        self.node.peers.drop(PEER)
        self.node.engine.go_on()
        self.node.take()
        self.node.settle(12)
        self.assertFalse(self.successResultOf(done))
        self.assertEqual(1, len(self.node.queues.queue(OUT).pair_queue))


class UseTests(PeerTestCase):
    """A peer is used by a stream or a stanza; it is quiet when nothing comes from it."""

    def test_nothing(self) -> None:
        self.assertFalse(self.node.peers.in_use(PEER))
        self.assertEqual(inf, self.node.peers.quiet(PEER))

    def test_stream(self) -> None:
        incoming = Incoming(self.node, IN)
        self.node.clock.advance(5)
        incoming.connection.last_received = 4.0
        self.assertTrue(self.node.peers.in_use(PEER))
        self.assertEqual(2, self.node.peers.quiet(PEER))
        incoming.connection.close(Ending(Cause.CLOSED))
        self.assertFalse(self.node.peers.in_use(PEER))
        self.assertEqual(inf, self.node.peers.quiet(PEER))

    def test_stream_of_ours(self) -> None:
        self.node.accept("1")
        connection = self.node.open()
        self.node.queues.queue(OUT).acknowledged(1)
        self.assertTrue(self.node.peers.in_use(PEER))
        self.assertEqual(1, self.node.peers.quiet(PEER))
        connection.close(Ending(Cause.CLOSED))
        self.node.settle(5)
        self.node.custody.expiry.sweep()
        self.assertFalse(self.node.peers.in_use(PEER))

    def test_stanza(self) -> None:
        """A stanza that only the engine has counts too."""
        self.node.accept("1")
        self.node.settle()
        self.node.queues.queue(OUT).evict(0)
        self.assertTrue(self.node.peers.in_use(PEER))

    def test_hold(self) -> None:
        """A peer on hold is not in use by that: its next home knows of the hold."""
        now(self.node.holds.add(HoldTarget(peer=PEER)))
        self.assertEqual((False, inf), (self.node.peers.in_use(PEER), self.node.peers.quiet(PEER)))


class HoldTests(PeerTestCase):
    """Holds of operators go with the peer."""

    def test_takeover(self) -> None:
        """Stanzas that were held on a node that is gone are not delivered by the next home, until they are released on any node."""
        self.node.accept("1", "2", "3")
        self.node.settle()
        now(self.node.holds.add(HoldTarget(pair=OUT, position=2)))
        now(self.node.holds.add(HoldTarget(peer=PEER)))
        self.node.engine.cut()
        third = Node(self.store)  # a node that has just begun
        self.assertIsNone(third.take())
        third.settle(5)
        self.assertEqual([], third.connections)
        now(self.second.holds.discard(HoldTarget(pair=OUT, position=2)))
        third.settle()
        self.assertEqual([], third.connections)
        self.assertEqual(1, now(self.second.holds.discard(HoldTarget(peer=PEER))))
        third.settle()
        third.open()
        third.settle()
        self.assertEqual(["1", "2", "3"], third.written())

    def test_watch_that_is_late(self) -> None:
        """A hold that this node was not told yet is read before the first stanza is delivered, also from an engine that is slow."""
        self.node.accept("1")
        self.node.settle()
        self.second.engine.fall_behind()
        now(self.node.holds.add(HoldTarget(pair=OUT)))
        self.assertFalse(self.second.holds.holds(OUT))
        home = now(self.second.engine.home(PEER))
        fence, logs = now(self.second.engine.claim(PEER, b"", home.sequence))
        self.second.engine.cut()
        taken = Deferred.fromCoroutine(self.second.peers.take(fence, logs))
        self.second.settle(3)
        self.assertEqual(([], False), (list(self.second.queues), taken.called))
        self.second.engine.go_on()
        self.second.engine.fall_behind()
        self.second.settle(READ_AGAIN)
        self.assertIsNone(self.successResultOf(taken))
        self.assertTrue(self.second.queues.queue(OUT).held)
        self.second.settle()
        self.assertEqual([], self.second.connections)

    def test_dropped_while_it_is_taken(self) -> None:
        """A peer that gets another home while its holds are read has no queues here, and a later taking is not disturbed."""
        self.node.accept("1")
        self.node.settle()
        home = now(self.second.engine.home(PEER))
        fence, logs = now(self.second.engine.claim(PEER, b"", home.sequence))
        self.second.engine.hold()
        first, second = (Deferred.fromCoroutine(self.second.peers.take(fence, logs)) for _ in range(2))
        self.second.engine.go_on()
        ending = self.successResultOf(first)
        assert ending is not None
        self.assertIs(Cause.OTHER_NODE, ending.cause)
        self.assertIsNone(self.successResultOf(second))
        self.second.engine.hold()
        third = Deferred.fromCoroutine(self.second.peers.take(fence, logs))
        self.second.peers.drop(PEER)
        self.second.engine.go_on()
        self.assertIsNotNone(self.successResultOf(third))
        self.assertEqual([], list(self.second.queues))

    def test_elsewhere(self) -> None:
        """The queues of the home follow a hold and a release on another node: peers, lanes and single stanzas, in order."""
        domains = [Domain.parse(f"l{number}.here.example") for number in range(AT_ONCE + 2)]
        self.node.ingress.local_domains = self.second.ingress.local_domains = {HERE, ROOMS, *domains}
        for domain in (HERE, *domains):
            self.node.accept("1", "2", pair=Pair(domain, PEER))
        self.node.settle()
        now(self.second.holds.add(HoldTarget(pair=OUT, position=2)))
        now(self.second.holds.add(HoldTarget(peer=PEER)))
        self.node.settle()
        self.assertTrue(all(queue.held for queue in self.node.queues))
        self.node.open()
        self.node.settle()
        self.assertEqual([], self.node.written())
        now(self.second.holds.discard(HoldTarget(peer=PEER)))
        now(self.second.holds.add(HoldTarget(pair=OUT, position=1)))
        self.node.settle()
        self.assertFalse(any(queue.held for queue in self.node.queues))
        self.assertEqual({1}, self.node.queues.queue(OUT).parked)
        for _ in domains:  # a few streams are opened at a time
            self.node.settle()
            self.node.open()
        self.assertEqual(2 * len(domains) + 1, len(self.node.written()))
        now(self.second.holds.discard(HoldTarget(pair=OUT, position=1)))
        self.node.settle()
        self.assertEqual(2 * len(domains) + 2, len(self.node.written()))

    def test_dropped_stanza(self) -> None:
        """The hold of a stanza that an operator drops ends on all nodes; where the engine does not answer, when it does."""
        self.node.accept("1", "2")
        self.node.settle()
        for position in (1, 2):
            now(self.node.holds.add(HoldTarget(pair=OUT, position=position)))
        self.node.settle()
        self.node.queues.queue(OUT).drop(True, 1)
        self.node.settle()
        self.assertEqual({2}, self.second.holds.positions(OUT))
        self.node.engine.cut()
        self.node.queues.queue(OUT).drop(True, 2)
        self.assertEqual((set(), []), (self.node.holds.positions(OUT), list(self.node.holds)))
        self.node.settle(20)
        self.assertEqual({2}, self.second.holds.positions(OUT))
        self.node.engine.go_on()
        self.node.custody.expiry.sweep()
        self.assertEqual([], list(self.second.holds))

    def test_dropped_where_it_has_no_home_any_more(self) -> None:
        """A node that has lost the peer ends no hold: the next home has the stanza."""
        self.node.accept("1")
        self.node.settle()
        now(self.node.holds.add(HoldTarget(pair=OUT, position=1)))
        self.node.settle()
        self.node.may_change = False
        self.node.queues.queue(OUT).drop(True, 1)
        self.node.peers.drop(PEER)
        self.node.may_change = True
        self.node.custody.expiry.sweep()
        self.assertEqual({1}, self.second.holds.positions(OUT))


class AdmissionTests(PeerTestCase):
    """The home is claimed before a stanza enters a queue. A stream whose peer is served elsewhere is ended."""

    def test_claimed(self) -> None:
        """Each direction asks for the peer."""
        Incoming(self.node, IN).incoming.stanzas(IN, [stanza("1", IN)])
        Incoming(self.node, OUT).incoming.stanzas(OUT, [stanza("2")])
        Incoming(self.node, LOCAL).incoming.stanzas(LOCAL, [stanza("3", LOCAL)])
        self.assertEqual([PEER, PEER, HERE], self.node.claims)

    def test_elsewhere(self) -> None:
        """The stream ends with a conflict. No queue is made, and a server with XEP-0198 may send the stanza again."""
        self.second.elsewhere = Ending(Cause.OTHER_NODE, "peer.example is served by the node a")
        incoming = Incoming(self.second, IN, managed=True)
        incoming.incoming.stanzas(IN, [stanza("1", IN)])
        ending = incoming.connection.ending
        assert ending is not None
        self.assertEqual((Cause.OTHER_NODE, "conflict"), (ending.cause, ending.condition))
        self.assertEqual([], list(self.second.queues))
        self.second.elsewhere = None
        self.second.take()
        Incoming(self.second, IN, managed=True).incoming.stanzas(IN, [stanza("1", IN)])
        self.assertEqual(1, len(self.second.queues.queue(IN).pair_queue))

    def test_not_admitted_elsewhere(self) -> None:
        """An error for a stanza that the policy refuses is made by the home alone."""
        async def refused(pair: Pair) -> Ending | None:
            return Ending(Cause.NOT_ALLOWED)

        self.second.elsewhere = Ending(Cause.OTHER_NODE)
        incoming = Incoming(self.second, OUT)
        incoming.admit = refused  # type: ignore[method-assign]
        incoming.incoming.stanzas(OUT, [stanza("1")])
        self.assertEqual([], list(self.second.queues))
        self.assertIsNotNone(incoming.connection.ending)

    def test_no_node(self) -> None:
        """If the nodes do not agree, or this one stops, the stream says why."""
        for cause, condition in (
            (Cause.NO_NODE, "resource-constraint"), (Cause.SHUTDOWN, "system-shutdown"), (Cause.INTERNAL, "internal-server-error"),
        ):
            self.second.elsewhere = Ending(cause)
            incoming = Incoming(self.second, IN)
            incoming.incoming.stanzas(IN, [stanza("1", IN)])
            self.assertEqual(condition, incoming.connection.ending.condition if incoming.connection.ending else None)

    def test_two_streams(self) -> None:
        """The second stream on which stanzas of the pair wait is ended too."""
        self.second.waiting = []
        streams = [Incoming(self.second, IN), Incoming(self.second, IN)]
        for stream in streams:
            stream.incoming.stanzas(IN, [stanza("1", IN)])
        while self.second.waiting:
            self.second.waiting.pop(0).callback(Ending(Cause.OTHER_NODE))
        self.assertEqual([True, True], [stream.connection.ending is not None for stream in streams])
        self.assertFalse(self.second.ingress.admitting)


class AnyMomentTests(SynchronousTestCase):
    """A peer may be dropped at any moment: nothing of it is settled, written or left afterwards."""

    @given(st.lists(st.sampled_from(
        ["accept", "request", "open", "ack", "lose", "answer", "window", "second", "evict", "give up", "expire", "in", "close"],
    ), max_size=25), st.lists(st.sampled_from(["answer", "second", "window"]), max_size=6))  # fmt: skip
    @settings(max_examples=30, deadline=None)
    def test_dropped(self, steps: Sequence[str], after: Sequence[str]) -> None:
        store = MemoryStore()
        node = Node(store)
        node.take()
        receipts: list[Receipt] = []
        numbers = count(1)
        for step in steps:
            self.step(node, step, receipts, numbers)
        node.peers.drop(PEER)
        written, settled = node.written(), [list(receipt.by) for receipt in receipts]
        for step in after:
            self.step(node, step, receipts, numbers)
        self.assertEqual([], node.queues.of_home(PEER))
        self.assertFalse(node.peers.in_use(PEER))
        node.settle(60, 1)
        self.assertEqual(written, node.written())
        self.assertEqual(settled, [list(receipt.by) for receipt in receipts])
        self.assertTrue(all(receipt.left == 0 or receipt.abandoned for receipt in receipts))
        self.assertEqual(0, node.custody.services.relief.memory.used)
        self.assertFalse(node.peers.in_use(PEER))
        self.assertIsNone(node.take())

    def step(self, node: Node, step: str, receipts: list[Receipt], numbers: Any) -> None:
        queue = node.queues.find(OUT)
        match step:
            case "accept" | "request":
                receipts.append(Receipt(1))
                kind, type = ("iq", "get") if step == "request" else ("message", None)
                node.accept(str(next(numbers)), receipt=receipts[-1], kind=kind, type=type)
            case "in":
                stream = Incoming(node, IN, managed=bool(next(numbers) % 2))
                stream.incoming.stanzas(IN, [stanza(f"i{next(numbers)}", IN)])
            case "open" if node.connections:
                node.open()
            case "ack" if queue is not None and queue.pair_queue.in_flight:
                queue.acknowledged(1)
            case "lose" if node.connections and node.side.dials[-1].called:
                node.connections[-1].close(Ending(Cause.CONNECTION_LOST, by="network"))
            case "answer":
                node.answer()
            case "window":
                node.clock.advance(WINDOW)
                node.clock.pump([0] * 6)
            case "second":
                node.clock.advance(1)
                node.custody.expiry.sweep()
            case "evict" if queue is not None:
                queue.evict(0)
            case "give up" if queue is not None:
                queue.give_up(Cause.UNREACHABLE)
            case "expire":
                node.clock.advance(700)
                node.custody.expiry.sweep()
            case "close":
                Deferred.fromCoroutine(node.peers.close(PEER))
            case _:
                pass
