"""Tests of queues that wait for their next hop: the memory of each, and that it counts for its peer."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.composition.backends import Backends, ServerStreamProvider
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.queue import WAIT_BYTES, DeliveryQueue
from s2sgw.net.discovery import Resolution
from s2sgw.net.fair_slots import Owner
from s2sgw.net.requester import Requester
from s2sgw.queue.backoff import BackOff
from s2sgw.reporting.record import Direction, EventRecord, Leg
from s2sgw.s2s.connecting import ConnectServices
from s2sgw.s2s.destinations import HANDSHAKES, SHARE, Destinations
from s2sgw.s2s.extensions import ExtensionMemory
from s2sgw.s2s.stream_limits import StreamLimit
from s2sgw.s2s.stream_provider import PeerStreamProvider
from s2sgw.spool.interface import LaneSummary
from s2sgw.spool.memory_spool import MemorySpool
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.registered_domain import registered_domain
from tests.support.custody import custody_of
from tests.support.fakes import Connections, FixedRandom
from tests.unit.delivery.test_agent import FakeConnection, FakeSide
from tests.unit.delivery.test_queue import HERE, OUT, WINDOW, World, stanza

#: Queues that are measured.
MEASURED = 400


class BackendSide(FakeSide):
    """The leg to a server where one owner has two places; or the leg to peers."""

    leg: Leg = "backend"

    def __init__(self) -> None:
        super().__init__()
        self.bound = 2
        self.resolved: list[str] = []

    async def resolve(self, pair: Pair, requester: Requester | None = None) -> Resolution:
        self.resolved.append(pair.sender.text)
        return await super().resolve(pair, requester)

    def owner(self, pair: Pair) -> Owner:
        return ("certificate", "00")

    def owner_streams(self, pair: Pair) -> int:
        return self.bound


class ForgettingSpool(MemorySpool):
    """A spool that keeps no stanza that it is given, so that only the queues are measured."""

    def append(self, batch: object, done: Callable[[None], None], replaces: object = ()) -> None:
        done(None)


class WaitingCase(SynchronousTestCase):
    """Base class: queues to a server behind the gateway, and two places for the streams of one owner."""

    def setUp(self) -> None:
        clock, self.side = Clock(), BackendSide()
        side, self.connections = self.side, list[FakeConnection]()
        self.destinations = Destinations(clock, FixedRandom())
        self.room = StreamLimit(clock, 2 * MEASURED)
        services = ConnectServices(Connections(self._connection), clock, self.destinations, ExtensionMemory(clock), room=self.room)
        record = EventRecord(clock, Logger())
        backends: Any = object.__new__(Backends)
        leg = SimpleNamespace(serves=lambda domain: True, backend=SimpleNamespace(address=""), initiating=side)
        backends.legs, backends.links, backends._echoing = {"": leg}, {}, frozenset[Domain]()
        backends._ended = frozenset[Domain]()
        backends._services = SimpleNamespace(connect_services=services)

        def agent(queue: DeliveryQueue) -> NextHop:
            inbound = queue.direction == "inbound"
            provider = ServerStreamProvider(backends) if inbound else PeerStreamProvider(side, services)
            return DeliveryAgent(queue, provider, record, BackOff(), FixedRandom(), clock)

        spool = ForgettingSpool(1 << 30, lambda call: call())
        self.clock = clock
        self.custody = custody_of(clock, record, lambda domain: domain == HERE, agent, memory=1 << 30, spool=spool, window=WINDOW)

    def tearDown(self) -> None:
        """End all attempts. Otherwise the garbage collector would end them during another test."""
        for queue in reversed(list(self.custody.queues)):
            queue.next_hop.stop(Cause.SHUTDOWN)

    def _connection(self, engine: Any, owner: Any) -> FakeConnection:
        self.connections.append(FakeConnection(owner))
        return self.connections[-1]

    def accept(self, name: str, direction: Direction = "inbound") -> None:
        pair = Pair(Domain(name, name), HERE)
        pair = pair if direction == "inbound" else pair.inverse
        self.custody.queues.queue(pair).accept([stanza(name)])

    def spool(self) -> None:
        """Leave the stanzas to the spool."""
        self.clock.advance(WINDOW)
        self.clock.pump([0] * 6)
        for queue in self.custody.queues:
            queue.evict(0)
        gc.collect()

    def state(self, name: str) -> str:
        return self.custody.queues.queue(Pair(Domain(name, name), HERE)).next_hop.state


class PlaceTests(WaitingCase):
    """An attempt that waits for its place does nothing else."""

    def test_released(self) -> None:
        """Nothing is resolved before there is a place. Then the attempts go on in their order."""
        for name in "abcd":
            self.accept(name)
        self.assertEqual((self.side.resolved, len(self.room)), (["a", "b"], 2))
        self.side.dials[0].callback(None)
        self.connections[0].prove()
        self.connections[0].close(Ending(Cause.CONNECTION_LOST, by="network"))
        self.assertEqual((self.side.resolved, len(self.room), self.state("c")), (["a", "b", "c"], 1, "connecting"))
        self.side.dials[-1].callback(None)
        self.connections[-1].prove()
        self.assertEqual(self.state("c"), "ready")

    def test_back_off(self) -> None:
        """While the server is left alone, no attempt waits for a place. One that waits is told when there is a place."""
        for name in "abc":
            self.accept(name)
        self.destinations.failed(HERE.ascii, Ending(Cause.UNREACHABLE), purpose="backend")
        self.accept("d")
        self.assertEqual((self.state("c"), self.state("d"), len(self.room)), ("connecting", "backing off", 1))
        self.side.dials[0].callback(None)
        self.connections[0].close(Ending(Cause.CONNECTION_LOST, by="network"))
        self.assertEqual((self.state("c"), len(self.room), self.side.resolved), ("backing off", 0, ["a", "b"]))

    def test_other_bound(self) -> None:
        """When a reload lets all look at their bounds again, as many go on as may. The others wait as before."""
        for name in "abcde":
            self.accept(name)
        found: list[Pair] = []
        find = Backends.find

        def finding(backends: Backends, pair: Pair, *args: Any) -> Any:
            found.append(pair)
            return find(backends, pair, *args)

        self.patch(Backends, "find", finding)
        self.patch(self.side, "owner_streams", lambda pair: 3)
        self.room.reconsider()
        self.clock.advance(0)
        self.assertEqual((self.side.resolved, [pair.sender.text for pair in found], len(self.room)), (["a", "b", "c"], ["c"], 2))

    def test_stopped(self) -> None:
        """An attempt that is given up leaves the line. Another one may wait then."""
        for name in "abc":
            self.accept(name)
        agent = self.custody.queues.queue(Pair(Domain("c", "c"), HERE)).next_hop
        agent.withdraw_request()
        self.assertEqual((agent.state, len(self.room)), ("idle", 0))
        agent.request_delivery()
        self.assertEqual((agent.state, len(self.room)), ("connecting", 1))
        agent.stop(Cause.SHUTDOWN)
        self.assertEqual((len(self.room), self.side.resolved), (0, ["a", "b"]))


class MeasuredTests(WaitingCase):
    """The memory of a queue whose attempt waits for its place, with all that belongs to it."""

    def test_bytes(self) -> None:
        """It is at most what is counted for it, with a tenth for other versions of Python."""
        self.measure("inbound")
        self.assertEqual(len(self.room), MEASURED + 8)

    def test_bytes_towards_peers(self) -> None:
        """A queue whose attempt waits for its handshake at a peer takes more: each peer has a record of its own."""
        self.measure("outbound")
        self.assertEqual((len(self.room), self.destinations.counts()["outbound"][1]), (0, MEASURED + 10 - HANDSHAKES // SHARE))

    def measure(self, direction: Direction) -> None:
        """Measure queues of one direction, and compare with what is counted for them."""
        if direction == "outbound":
            self.side.leg, self.side.bound = "federation", 0
        names = [f"{number}.there.example" for number in range(MEASURED + 10)]
        for name in names[MEASURED:]:  # these make what all queues share
            self.accept(name, direction)
        self.spool()
        registered_domain.cache_clear()  # it may be about to grow, after other tests
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        for name in names[:MEASURED]:
            self.accept(name, direction)
        self.spool()
        taken = (tracemalloc.get_traced_memory()[0] - before) / MEASURED
        tracemalloc.stop()
        counted = WAIT_BYTES[direction]
        memory = self.custody.services.relief.memory
        self.assertEqual((memory.used, memory.queues), (0, (MEASURED + 10) * counted))
        self.assertLess(taken, 1.1 * counted)
        self.assertGreater(taken, 0.6 * counted)


class CountedTests(SynchronousTestCase):
    """A queue counts while it waits for its next hop, and only then."""

    def setUp(self) -> None:
        self.world = World()
        self.memory = self.world.custody.services.relief.memory

    @property
    def counted(self) -> float:
        """Return the number of outbound queues that count in all."""
        return self.memory.queues / WAIT_BYTES["outbound"]

    def unreachable(self) -> None:
        self.world.next_hop.ready = False

    def test_ready(self) -> None:
        """A queue whose next hop takes its stanzas does not count."""
        self.world.accept(stanza("1"))
        self.assertEqual(self.counted, 0)

    def test_until_it_is_ready(self) -> None:
        """It counts once, however many stanzas wait, on the disk too, until the next hop takes them."""
        self.unreachable()
        self.world.accept(stanza("1"))
        self.world.accept(stanza("2"))
        self.world.clock.advance(WINDOW)
        self.world.queue.evict(0)
        self.assertEqual((self.counted, self.world.queue.pair_queue.bytes), (1, 0))
        self.world.next_hop.ready = True
        self.world.queue.next_hop_ready()
        self.assertEqual(self.counted, 0)

    def test_until_it_is_forgotten(self) -> None:
        """A queue that has become empty counts as long as it exists."""
        self.unreachable()
        self.world.accept(stanza("1"))
        self.world.queue.give_up(Cause.HOST_UNKNOWN)
        self.assertEqual((len(self.world.queue.pair_queue), self.counted), (0, 1))
        self.world.queues.forget(OUT)
        self.assertEqual(self.counted, 0)

    def test_stream_lost(self) -> None:
        """A queue whose stanzas are in doubt counts, unless there is another stream already. An empty one does not."""
        self.world.queue.stream_lost()
        self.assertEqual(self.counted, 0)
        for ready in (True, False):
            self.world.next_hop.ready = True
            self.world.accept(stanza("1"))
            self.world.next_hop.ready = ready
            self.world.queue.stream_lost()
            self.assertEqual(self.counted, not ready)

    def test_other_direction(self) -> None:
        """A queue whose next hop is of another kind now counts as others of that kind."""
        self.unreachable()
        self.world.accept(stanza("1"))
        self.world.queue.change_next_hop(self.world.back, "inbound")
        self.world.back.ready = False
        self.world.accept(stanza("2"))
        self.assertEqual(self.memory.queues, WAIT_BYTES["inbound"])

    def test_restored(self) -> None:
        """A queue of which only the spool has stanzas counts from the start on."""
        self.unreachable()
        self.world.custody.restore.restore([LaneSummary(OUT, 1, 1, 2, 3, 0.0)])
        self.assertEqual(self.counted, 1)

    def test_by_registered_domain(self) -> None:
        """The queues of a peer's sub-domains count together, in both directions. Those of other peers are not affected."""
        self.unreachable()
        self.world.back.ready = False
        pairs = [Pair(HERE, Domain.parse(f"{number}.there.example")) for number in range(30)]
        for pair in (*pairs, pairs[0].inverse, Pair(HERE, Domain.parse("other.example"))):
            self.world.queues.queue(pair).accept([stanza(str(pair))])
        out = WAIT_BYTES["outbound"]
        peer, other = pairs[0].recipient, Domain.parse("other.example")
        of_peer, of_other = (self.world.queues.queue(Pair(HERE, each)).pair_queue.memory for each in (peer, other))
        self.assertEqual((of_peer.queues, of_other.queues), (30 * out + WAIT_BYTES["inbound"], out))
        self.assertEqual((of_peer.tight, of_peer.crowded, of_other.tight), (True, False, False))

    def test_stanzas_leave_memory(self) -> None:
        """If a peer holds more than half of its share, for queues and stanzas together, its stanzas stay on the disk only."""
        self.unreachable()
        for number in range(40):
            self.world.queues.queue(Pair(HERE, Domain.parse(f"{number}.there.example"))).accept([stanza(str(number))])
        self.world.queues.queue(Pair(HERE, Domain.parse("other.example"))).accept([stanza("other")])
        self.world.clock.advance(WINDOW)
        self.world.answer()
        kept = [queue.peer.text for queue in self.world.queues if queue.pair_queue.bytes]
        self.assertEqual(kept, ["other.example"])

    def test_without_a_spool(self) -> None:
        """Without a spool, stanzas beyond the share are bounced, if queues that wait take it too."""
        world = World(spools=False, memory=16 * WAIT_BYTES["outbound"])
        world.next_hop.ready = False
        for number in range(6):
            world.queues.queue(Pair(HERE, Domain.parse(f"{number}.there.example"))).accept([stanza(str(number))])
        world.custody.expiry.sweep()
        self.assertEqual(len(world.back.sent), 3)
