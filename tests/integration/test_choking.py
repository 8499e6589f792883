"""A next server with an unannounced limit: it stops answering on a large stanza, which is found and bounced."""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.ack_selection import MUTE_SECONDS, AckSelection
from s2sgw.delivery.acknowledgements import OVERDUE_SECONDS, PING_SECONDS, Acks
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.queue.backoff import BackOff
from s2sgw.reporting.record import EventRecord
from s2sgw.s2s.connecting import ConnectServices
from s2sgw.s2s.destinations import Destinations
from s2sgw.s2s.extensions import ExtensionMemory
from s2sgw.s2s.shared_stream import PairStream
from s2sgw.s2s.stream_provider import PeerStreamProvider
from s2sgw.spool.interface import Quarantined
from s2sgw.spool.memory_spool import MemorySpool
from s2sgw.stream.events import Acknowledged
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Pair
from tests.support.custody import custody_of
from tests.support.fakes import Connections, FixedRandom
from tests.support.spool_contract import answer_into
from tests.unit.delivery.test_agent import HERE, OUT, Bounced, FakeConnection, FakeSide, KeepingHop, message


class Server:
    """The next server's treatment of stanzas: it takes and answers all of them up to one that is too large."""

    def __init__(self, managed: bool, most: int, mute: bool) -> None:
        self.managed = managed
        self.most = most
        self.mute = mute
        self.took: list[str] = []


class Stream(FakeConnection):
    """A connection to the server. It reads nothing after a stanza that is too large."""

    def __init__(self, owner: Any, world: World) -> None:
        super().__init__(owner)
        self.world = world
        self.chokes = False

    def write(self, data: bytes) -> bool:
        super().write(data)
        for each in re.findall(rb"<(?:message|iq)\b.*?</(?:message|iq)>|<r [^>]*/>", data):
            self._read(each)
        return not self.writable

    def _read(self, each: bytes) -> None:
        server = self.world.server
        self.chokes = self.chokes or len(each) > server.most
        if self.chokes:
            return
        ident = re.search(rb" id='([^']+)'", each)
        if ident is None:
            self._told(each)
        elif ident[1].startswith(b"s2sgw-"):
            self.world.clock.callLater(0, self.world.answer, ident[1].decode())
        else:
            server.took.append(ident[1].decode())
            self.count += 1

    count = 0
    aborted = False

    def abort(self, ending: Ending) -> None:
        self.aborted = True
        self.close(ending)

    def _told(self, request: bytes) -> None:
        number, self.count = self.count, 0
        if not self.world.server.mute:
            self.world.clock.callLater(0, self.owner.event, self, Acknowledged(number))


class World:
    """A lane to a server that takes stanzas of `most` bytes."""

    def __init__(self, managed: bool = False, most: int = 60_000, mute: bool = False, acks: Acks = "auto") -> None:
        self.clock = Clock()
        self.server = Server(managed, most, mute)
        self.side = FakeSide()
        self.side.managed = managed
        self.connections: list[Stream] = []
        self.back: list[Bounced] = []
        self.destinations = Destinations(self.clock, FixedRandom(), BackOff(first=2, jitter=0))
        self.record = EventRecord(self.clock, Logger())
        self.spool = MemorySpool(1 << 24, lambda call: call())
        self.extensions = ExtensionMemory(self.clock)
        self.custody = custody_of(
            self.clock, self.record, lambda domain: domain == HERE, self._next_hop, memory=1 << 24, spool=self.spool, spools=False,
        )
        self.queues = self.custody.queues
        self.ack_selection = AckSelection(lambda domain: acks, self.queues, self.extensions, self.clock)

    def _next_hop(self, queue: DeliveryQueue) -> NextHop:
        if queue.direction == "inbound":
            return KeepingHop(self.back)
        connect_services = ConnectServices(Connections(self._connection), self.clock, self.destinations, self.extensions)
        way = PeerStreamProvider(self.side, connect_services)  # type: ignore[arg-type]
        return DeliveryAgent(queue, way, self.record, BackOff(first=2, jitter=0), FixedRandom(), self.clock, self.ack_selection)

    def _connection(self, engine: Any, owner: Any) -> Stream:
        engine.sent = lambda number: engine.managed
        engine.managed = self.ack_selection.use_stream_management(OUT.recipient) and self.server.managed
        self.connections.append(Stream(owner, self))
        return self.connections[-1]

    def answer(self, ident: str) -> None:
        """Answer a ping."""
        answered = None if self.server.mute else self.flow_back.replies.pings.pop(ident, None)
        if answered is not None:
            answered()

    @property
    def flow_back(self) -> DeliveryQueue:
        return self.queues.queue(Pair(OUT.recipient, OUT.sender))

    def pass_time(self, seconds: float) -> None:
        """Let time pass. Every connection attempt meanwhile succeeds."""
        for _ in range(int(seconds * 10)):
            self.clock.advance(0.1)
            if self.side.dials and not self.side.dials[-1].called:
                self.side.dials[-1].callback(None)
                self.connections[-1].prove()

    def send(self, *each: Any) -> None:
        self.queues.queue(OUT).accept(list(each))
        self.pass_time(0.5)

    @property
    def bounced(self) -> list[str]:
        return [each.id for each in self.back]

    def pen(self) -> list[tuple[str | None, str]]:
        found: list[Quarantined] = []
        self.spool.quarantined(10, answer_into(found))
        return [(each.spooled.stanza.id, each.cause) for each in found]


def large(id: str, size: int = 70_000, **more: Any) -> Any:
    return message(id, size=size, **more)


class ChokingTests(SynchronousTestCase):
    """A limit that the server did not announce (docs/decisions.md#poison)."""

    def found(self, world: World, within: float) -> None:
        """Check that the large stanza was found among the others."""
        world.send(message("1"))
        world.send(message("2"), large("big"), message("3"))
        world.pass_time(within)
        self.assertEqual((world.bounced, world.pen()), (["big"], [("big", "answered no more, twice")]))
        self.assertIn(b"(queue: poison; answered no more, twice)", world.back[0].data)
        world.send(message("4"))
        self.assertEqual([ident for ident in "1234" if world.server.took.count(ident) not in (1, 2)], [])
        self.assertEqual(world.server.took[-3:], ["2", "3", "4"])
        self.assertEqual((world.queues.queue(OUT).pair_queue.in_flight_count, len(world.queues.queue(OUT).pair_queue)), (0, 0))

    def test_pings(self) -> None:
        """R41: a server that has answered pings is not believed to have stanzas that it does not answer. The large stanza is bounced."""
        world = World()
        self.found(world, 2 * PING_SECONDS + 2)
        self.assertNotIn(OUT.recipient.ascii, world.ack_selection._never_answering)

    def test_acknowledgements(self) -> None:
        """R35: a server that has acknowledged before is asked for acknowledgements again from now on."""
        world = World(managed=True)
        self.found(world, 2 * OVERDUE_SECONDS + 2)
        self.assertTrue(world.ack_selection.use_stream_management(OUT.recipient))

    def test_acknowledgements_alone(self) -> None:
        """R35: the stanza is alone on the second stream too. That stream is ended, not broken, so that it is not resumed."""
        world = World(managed=True)
        world.send(message("1"))
        world.send(large("big"))
        world.pass_time(2 * OVERDUE_SECONDS + 2)
        self.assertEqual((world.bounced, len(world.connections)), (["big"], 2))
        self.assertEqual([connection.aborted for connection in world.connections], [False, False])
        self.assertTrue(world.ack_selection.use_stream_management(OUT.recipient))

    def test_the_first_of_all(self) -> None:
        """The first stanza of the lane is large. The answer to the ping before it shows that the server answers."""
        world = World()
        world.send(large("big"))
        world.pass_time(2 * PING_SECONDS + 2)
        self.assertEqual((world.bounced, len(world.connections)), (["big"], 2))

    def test_the_first_of_all_acknowledged(self) -> None:
        """With XEP-0198 the server is first believed never to acknowledge; then the test continues as with pings."""
        world = World(managed=True)
        world.send(large("big"))
        world.pass_time(OVERDUE_SECONDS + 2 * PING_SECONDS + 3)
        self.assertEqual(world.bounced, ["big"])

    def test_several(self) -> None:
        """Each large stanza is found in turn, in a bounded time."""
        world = World()
        world.send(message("1"))
        world.send(*(each for number in range(3) for each in (large(f"big{number}"), message(f"s{number}"))))
        world.pass_time(6 * PING_SECONDS + 6)
        self.assertEqual((world.bounced, world.server.took), (["big0", "big1", "big2"], ["1", "s0", "s0", "s1", "s1", "s2"]))

    def test_request(self) -> None:
        """R33: a request is never sent again. It ends with one error, and no stanza goes to quarantine for it."""
        world = World()
        world.send(message("1"))
        world.send(large("ask", kind="iq", type="get"))
        world.pass_time(3 * PING_SECONDS)
        self.assertEqual((world.bounced, world.pen()), (["ask"], []))
        self.assertIn(b"in-doubt", world.back[0].data)
        self.assertEqual(sum(b"id='ask'" in each for connection in world.connections for each in connection.written), 1)

    def test_no_limit(self) -> None:
        """A server that takes large stanzas is not disturbed."""
        world = World(most=1 << 20)
        world.send(large("1"), message("2"), large("3"))
        world.pass_time(2 * OVERDUE_SECONDS)
        self.assertEqual((world.server.took, len(world.connections), world.bounced), (["1", "2", "3"], 1, []))

    def test_one_way(self) -> None:
        """R41: a server that never answers is believed, with or without large stanzas, and is not pinged for a day."""
        world = World(most=1 << 20, mute=True)
        world.send(large("1"), message("2"))
        world.pass_time(PING_SECONDS)
        world.send(large("3"))
        world.pass_time(2 * PING_SECONDS)
        self.assertEqual((world.server.took, len(world.connections), world.bounced), (["1", "2", "3"], 1, []))
        self.assertEqual(world.queues.queue(OUT).pair_queue.in_flight_count, 0)

    def test_falls_mute(self) -> None:
        """R41: a server whose replies no longer arrive is detected on further streams, and believed after a while. No stanza is bounced."""
        world = World(most=1 << 20)
        world.send(message("1"))
        world.server.mute = True
        world.send(large("2"), message("3"))
        world.pass_time(PING_SECONDS + MUTE_SECONDS + 120)
        world.send(message("4"))
        self.assertEqual((world.bounced, len(world.queues.queue(OUT).pair_queue), world.pen()), ([], 0, []))
        self.assertEqual(world.server.took[-3:], ["2", "3", "4"])
        self.assertLess(len(world.connections), 10)

    def test_a_shared_connection_that_ends(self) -> None:
        """A shared connection that ends on a stanza repeatedly condemns no stanza of any lane. All are sent again until their hold is over."""
        world = World(acks="ping")
        world.send(message("1"))
        ends = 0
        world.server.most = 0
        world.queues.queue(OUT).accept([message("2")])
        while world.queues.queue(OUT).pair_queue:
            world.pass_time(0.5)
            connection = world.connections[-1]
            connection.shared = True
            ends += connection.ending is None
            connection.close(Ending(Cause.STREAM_ERROR, by="them", condition="bad-format"))
            world.custody.expiry.sweep()
            self.assertEqual((world.queues.queue(OUT).suspects, world.pen()), (0, []))
        self.assertEqual(world.bounced, ["2"])
        self.assertIn(b"stream-error", world.back[0].data)
        self.assertTrue(3 < ends < 600, ends)

    def test_no_burden(self) -> None:
        """Stanzas that a part of jabberd2 does not answer are not suspected. They are sent again until their hold is over."""
        world = World()
        world.send(message("1"))
        self.patch(PairStream, "largest_in_flight", 0)
        self.patch(PairStream, "shared_connection", True)
        world.send(large("big"))
        world.pass_time(3 * PING_SECONDS)
        self.assertEqual((world.bounced, world.queues.queue(OUT).pair_queue.pending or world.queues.queue(OUT).pair_queue.in_flight_count), ([], 1))
        self.assertGreater(len(world.connections), 1)
