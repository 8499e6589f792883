"""R35: custody and XEP-0198: what is acknowledged to whom sends to us, and what acknowledgements of ours come to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.acknowledgements import REQUEST, StreamManagementAcks
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.ingress.filtering import StanzaFilters
from s2sgw.ingress.pair_ingress import IngressServices
from s2sgw.ingress.stream_ingress import HandledPrefix
from s2sgw.s2s.accepted_stream import AcceptedStream
from s2sgw.stream.events import Acknowledged, ManagementEnabled, ManagementRefused, PairProven, StanzasReceived
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Pair
from tests.unit.delivery.test_agent import World, ids, message
from tests.unit.ingress.test_pair_ingress import HERE, IN, OTHER, EntryTestCase, stanza


class PrefixTests(SynchronousTestCase):
    """R35: `h` is the longest prefix over all pairs."""

    def setUp(self) -> None:
        self.told: list[int] = []
        self.handled = HandledPrefix(self.told.append)

    def test_in_order(self) -> None:
        """A run counts when all of it is settled."""
        first, second = self.handled.upstream_ack(2), self.handled.upstream_ack(1)
        first.settle()
        self.assertEqual(self.told, [])
        first.settle()
        second.settle()
        self.assertEqual(self.told, [2, 1])

    def test_out_of_order(self) -> None:
        """What settles before its time waits for what came before it on the stream."""
        first, second, third = self.handled.upstream_ack(2), self.handled.upstream_ack(3), self.handled.upstream_ack(1)
        second.settle(3)
        third.settle()
        self.assertEqual(self.told, [])
        first.settle(2)
        self.assertEqual(self.told, [6])


class EntryReceiptTests(EntryTestCase):
    """R35: whatever becomes of a stanza behind its entry, its receipt is settled."""

    def test_refused_pair(self) -> None:
        """R35: what is not admitted to its lane is ended, and so handled."""
        told: list[int] = []
        handled = HandledPrefix(told.append)
        entry = self.made()
        entry.accept([stanza("a"), stanza("b")], handled.upstream_ack(2))
        self.assertEqual(told, [])
        self.admissions.pop().callback(Ending(Cause.NOT_ALLOWED))
        self.assertEqual(told, [2])

    def test_filtered(self) -> None:
        """R35: filtered stanzas count as handled, together with those that pass."""
        told: list[int] = []
        entry = self.admitted(kinds=("message",))
        entry.accept([stanza("a"), stanza("b", "presence"), stanza("c")], HandledPrefix(told.append).upstream_ack(3))
        self.assertEqual((told, self.passed()), ([3], "a c"))

    def test_slowed(self) -> None:
        """R35: what a rate holds back is handled when it goes on."""
        told: list[int] = []
        entry = self.admitted(limits={"stanzas_per_second": 1})
        handled = HandledPrefix(told.append)
        for number in range(4):
            entry.accept([stanza(str(number))], handled.upstream_ack(1))
        self.assertLess(sum(told), 4)
        self.clock.pump([1.0] * 10)
        self.assertEqual((sum(told), self.passed()), (4, "0 1 2 3"))


class FakeEngine:
    """Notes what was handled."""

    claimed = (None, None)
    resumption = None

    def __init__(self) -> None:
        self.told: list[int] = []

    def handled(self, number: int) -> list[Any]:
        self.told.append(number)
        return []


class AcceptedTests(EntryTestCase):
    """R35: a stream that brings stanzas."""

    def test_from_enabled_on(self) -> None:
        """R35: nothing is said of what came before `<enable/>`; behind it all pairs of the stream count together."""
        self.made()
        engine = FakeEngine()
        connection: Any = SimpleNamespace(
            peer_address="192.0.2.1:1", tls_version=None, shared=False, pause=lambda holder: None, resume=lambda holder: None,
            step=lambda method, *arguments: method(*arguments),
        )
        nothing = lambda *ignored: None  # noqa: E731
        side: Any = SimpleNamespace(leg="federation", proven=nothing, excess=nothing, admit=lambda pair: succeed(None))
        ingress_services = IngressServices(self.queues, self.record, StanzaFilters(self.peers, self.clock))
        stream = AcceptedStream(side, engine, ingress_services, Mock())  # type: ignore[arg-type]
        stream.connected(connection)
        other = Pair(OTHER, HERE)
        for pair in (IN, other):
            stream.event(connection, PairProven(pair, "dialback"))
            self.assertEqual(pair == other, connection.shared)
        stream.event(connection, StanzasReceived(IN, [stanza("a")]))
        stream.event(connection, ManagementEnabled())
        stream.event(connection, StanzasReceived(IN, [stanza("b"), stanza("c")]))
        stream.event(connection, StanzasReceived(other, [stanza("d")]))
        self.assertEqual((engine.told, self.passed(), self.passed(other)), ([2, 1], "a b c", "d"))

    def test_sent_again(self) -> None:
        """R35: what a server sends again after it lost a managed stream is handled, and not passed on twice."""
        self.made()
        connection: Any = Mock(peer_address="192.0.2.1:1", step=lambda method, *arguments: method(*arguments))
        nothing = lambda *ignored: None  # noqa: E731
        side: Any = SimpleNamespace(leg="federation", proven=nothing, excess=nothing, admit=lambda pair: succeed(None))
        ingress_services = IngressServices(self.queues, self.record, StanzaFilters(self.peers, self.clock))
        for ending, batch in ((Cause.CONNECTION_LOST, "ab"), (Cause.CLOSED, "bc"), (Cause.CLOSED, "bc")):
            engine = FakeEngine()
            stream = AcceptedStream(side, engine, ingress_services, Mock())  # type: ignore[arg-type]
            stream.connected(connection)
            stream.event(connection, PairProven(IN, "EXTERNAL"))
            stream.event(connection, ManagementEnabled())
            stream.event(connection, StanzasReceived(IN, [stanza(each) for each in batch]))
            self.assertEqual(sum(engine.told), 2)
            stream.ended(connection, Ending(ending))
        self.assertEqual(self.passed(), "a b c b c")


class CourierReceiptTests(SynchronousTestCase):
    """R35: a stream that takes stanzas."""

    def setUp(self) -> None:
        self.world = World()
        self.sent: list[int] = []
        self.world.queue.accept([message("1")])
        self.connection = self.world.open()
        assert isinstance(self.world.queue.next_hop, DeliveryAgent)
        self.agent = self.world.queue.next_hop
        engine: Any = self.connection.owner.engine
        engine.managed, engine.sent = True, self.sent.append
        self.agent.acknowledgements = StreamManagementAcks(self.agent.stream.count_sent, self.world.clock, self.fail)  # type: ignore[union-attr]
        self.world.queue.accept([message("2"), message("3")])
        self.world.queue.accept([message("4")])

    def tell(self, event: Any) -> None:
        self.connection.owner.event(self.connection, event)

    def test_acknowledged(self) -> None:
        """R35: what is acknowledged is passed on; the rest stays in custody until it is."""
        self.assertEqual(self.sent, [2, 1])
        self.assertTrue(self.connection.written[-1].endswith(REQUEST))
        self.tell(Acknowledged(1))
        self.assertEqual([held.stanza.id for held in self.world.queue.pair_queue], ["3", "4"])
        self.tell(Acknowledged(2))
        self.assertEqual(len(self.world.queue.pair_queue), 0)
        self.agent.acknowledgements.stop()

    def test_refused(self) -> None:
        """R35: without acknowledgements what was written counts as it does where there are none."""
        self.tell(ManagementRefused())
        self.assertEqual((len(self.world.queue.pair_queue), self.agent.acknowledges), (0, False))
        self.world.queue.accept([message("5")])
        self.assertEqual((ids(self.connection.written)[-1], self.sent), ("5", [2, 1]))

    def test_refused_with_pings(self) -> None:
        """R35: where pings serve, one asks for all that was written."""
        asked: list[int] = []

        def behind(number: int) -> bytes:
            asked.append(number)
            return b"<ping/>"

        pings = SimpleNamespace(acknowledges=True, behind=behind, stop=lambda: None)
        self.agent._receipts_of = lambda agent, stream: pings
        self.tell(ManagementRefused())
        self.assertEqual((asked, self.connection.written[-1], len(self.world.queue.pair_queue)), ([3], b"<ping/>", 3))
        self.world.queue.acknowledged(3)
        self.tell(ManagementRefused())
        self.assertEqual(asked, [3])

    def test_other_events(self) -> None:
        """Anything else that the stream tells means nothing here."""
        self.tell(PairProven(self.world.queue.pair, "dialback"))
        self.assertEqual(len(self.world.queue.pair_queue), 3)
