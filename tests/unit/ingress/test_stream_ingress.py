"""R35: tests of custody with XEP-0198: which stanzas are acknowledged to their sender, and what acknowledgements from the next hop do."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.acknowledgements import StreamManagementAcks
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.ingress.pair_sources import PairSources
from s2sgw.ingress.stream_ingress import PAIRS_AT_ONCE, StreamIngress, StreamReceipts
from s2sgw.queue.entries import UpstreamAck
from s2sgw.queue.evidence import ON_DISK, PASSED_ON
from s2sgw.s2s.accepted_stream import AcceptedStream
from s2sgw.s2s.shared_stream import PairStream
from s2sgw.s2s.stream_outcomes import StreamOutcomes
from s2sgw.stream.events import Acknowledged, ManagementEnabled, ManagementRefused, PairProven, StanzasReceived
from s2sgw.stream.management import REQUEST, Counters
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.custody import ingress_services
from tests.unit.delivery.test_agent import Choosing, World, ids, message
from tests.unit.ingress.test_pair_ingress import HERE, IN, OTHER, EntryTestCase, stanza


class Receipts(StreamReceipts):
    """The handled stanzas of a stream that records its calls, and acknowledges at once unless the test says otherwise."""

    def __init__(self) -> None:
        self.handled: list[int] = []
        self.known: int | None = None
        super().__init__(self, Counter())

    def acknowledge(self, number: int) -> None:
        self.handled.append(number)

    def end_stream(self) -> None:
        raise AssertionError("a stream ends that is not to end")

    @property
    def acknowledged(self) -> int:
        return sum(self.handled) if self.known is None else self.known

    def of(self, *ids: str) -> UpstreamAck:
        """Return the upstream acknowledgement for a run of these stanzas."""
        return self.receipt(IN, [stanza(id) for id in ids])


class ReceiptsTests(SynchronousTestCase):
    """R35: `h` is the longest settled prefix over all pairs."""

    def setUp(self) -> None:
        self.receipts = Receipts()

    def test_in_order(self) -> None:
        """A run counts when all of it is settled. Each stanza is counted by its evidence."""
        first, second = self.receipts.of("1", "2"), self.receipts.of("3")
        first.settle(PASSED_ON)
        self.assertEqual(self.receipts.handled, [])
        first.settle(ON_DISK)
        second.settle(PASSED_ON)
        self.assertEqual((self.receipts.handled, self.receipts.tally), ([2, 1], {"passed_on": 2, "on_disk": 1}))

    def test_out_of_order(self) -> None:
        """A run that is settled early waits for those before it on the stream."""
        first, second, third = self.receipts.of("1", "2"), self.receipts.of("3", "4", "5"), self.receipts.of("6")
        second.settle(PASSED_ON, 3)
        third.settle(PASSED_ON)
        self.assertEqual(self.receipts.handled, [])
        first.settle(PASSED_ON, 2)
        self.assertEqual(self.receipts.handled, [6])

    def test_what_may_come_again(self) -> None:
        """R35: at the end of the stream, stanzas not acknowledged to the sender may come again, safe or not. Others may not."""
        runs = [self.receipts.of("1"), self.receipts.of("2", "3"), self.receipts.of("4")]
        self.receipts.known = 2
        for each in runs[:2]:
            each.settle(PASSED_ON, each.total)
        self.assertEqual(self.receipts.handled, [1, 2])
        rows = self.receipts.end()
        self.assertEqual([(value, receipt) for _, value, receipt in rows], [(hash(stanza("3").data), runs[1]), (hash(stanza("4").data), runs[2])])
        runs[2].settle(PASSED_ON)
        self.assertEqual(self.receipts.handled, [1, 2])


class EntryReceiptTests(EntryTestCase):
    """R35: whatever happens to a stanza behind the ingress, its upstream acknowledgement is settled."""

    def test_refused_pair(self) -> None:
        """R35: a stanza whose pair is not admitted is ended, and so handled."""
        receipts = Receipts()
        entry = self.made()
        entry.accept([stanza("a"), stanza("b")], receipts.of("a", "b"))
        self.assertEqual(receipts.handled, [])
        self.admissions.pop().callback(Ending(Cause.NOT_ALLOWED))
        self.assertEqual((receipts.handled, receipts.tally), ([2], {"answered": 2}))

    def test_filtered(self) -> None:
        """R35: filtered stanzas count as handled, together with those that pass."""
        receipts = Receipts()
        entry = self.admitted(kinds=("message",))
        entry.accept([stanza("a"), stanza("b", "presence"), stanza("c")], receipts.of("a", "b", "c"))
        self.assertEqual((receipts.handled, self.passed()), ([3], "a c"))
        self.assertEqual(receipts.tally, {"written": 2, "answered": 1})

    def test_filtered_in_silence(self) -> None:
        """R35: filtered stanzas are settled as dropped if the policy says so."""
        receipts = Receipts()
        entry = self.admitted(kinds=("message",), denied="drop")
        entry.accept([stanza("a", "presence")], receipts.of("a"))
        self.assertEqual((receipts.handled, receipts.tally), ([1], {"dropped_by_rule": 1}))

    def test_slowed(self) -> None:
        """R35: a stanza that a rate delays is handled when it passes."""
        receipts = Receipts()
        entry = self.admitted(limits={"stanzas_per_second": 1})
        for number in range(4):
            entry.accept([stanza(str(number))], receipts.of(str(number)))
        self.assertLess(sum(receipts.handled), 4)
        self.clock.pump([1.0] * 10)
        self.assertEqual((sum(receipts.handled), self.passed()), (4, "0 1 2 3"))


class FakeEngine:
    """An engine that records what was handled."""

    claimed = (None, None)
    sasl_failure = None
    resumption = None

    def __init__(self, unheard: int = 0) -> None:
        self.told: list[int] = []
        self._unheard = unheard

    @property
    def acknowledged_to_peer(self) -> int:
        return max(0, sum(self.told) - self._unheard)

    def handled(self, number: int) -> list[Any]:
        self.told.append(number)
        return []


class AcceptedTests(EntryTestCase):
    """R35: tests of a stream that brings stanzas."""

    def test_from_enabled_on(self) -> None:
        """R35: stanzas before `<enable/>` are not counted. After it all pairs of the stream count together."""
        self.made()
        engine = FakeEngine()
        connection: Any = SimpleNamespace(
            peer_address="192.0.2.1:1", tls_version=None, shared=False, pause=lambda holder: None, resume=lambda holder: None,
            step=lambda method, *arguments: method(*arguments), belong_to=lambda name: None,
        )
        nothing = lambda *ignored: None  # noqa: E731
        side: Any = SimpleNamespace(
            leg="federation", proven=nothing, excess=nothing, policy=lambda peer: None, admit=lambda pair: succeed(None), outcomes=StreamOutcomes(),
        )
        services = ingress_services(self.custody, self.peers)
        stream = AcceptedStream(side, engine, services, Mock())  # type: ignore[arg-type]
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
        """R35: stanzas that a server sends again after it lost a managed stream are handled, and not passed on twice."""
        self.made()
        connection: Any = Mock(peer_address="192.0.2.1:1", step=lambda method, *arguments: method(*arguments))
        nothing = lambda *ignored: None  # noqa: E731
        side: Any = SimpleNamespace(
            leg="federation", proven=nothing, excess=nothing, policy=lambda peer: None, admit=lambda pair: succeed(None), outcomes=StreamOutcomes(),
        )
        services = ingress_services(self.custody, self.peers)
        for ending, batch, unheard in ((Cause.CONNECTION_LOST, "ab", 1), (Cause.CLOSED, "bc", 0), (Cause.CLOSED, "bc", 0)):
            engine = FakeEngine(unheard)
            stream = AcceptedStream(side, engine, services, Mock())  # type: ignore[arg-type]
            stream.connected(connection)
            stream.event(connection, PairProven(IN, "EXTERNAL"))
            stream.event(connection, ManagementEnabled())
            stream.event(connection, StanzasReceived(IN, [stanza(each) for each in batch]))
            self.assertEqual(sum(engine.told), 2)
            stream.ended(connection, Ending(ending))
        self.assertEqual(self.passed(), "a b c b c")


    def test_sent_again_too_soon(self) -> None:
        """R35: a repeat is acknowledged when its first copy is safe, not before."""
        self.made()
        services = ingress_services(self.custody, self.peers)
        connection: Any = Mock(peer_address="192.0.2.1:1", step=lambda method, *arguments: method(*arguments))
        first_receipt = UpstreamAck(2)
        services.duplicates.expect([(IN, hash(stanza(each).data), first_receipt) for each in "ab"])
        engine = FakeEngine()
        admission: Any = SimpleNamespace(admit=lambda pair: succeed(None))
        ingress = StreamIngress(services, connection, engine, "federation", admission, {IN.sender})
        ingress.managed()
        ingress.stanzas(IN, [stanza("a"), stanza("b")])
        self.assertEqual((engine.told, self.passed()), ([], ""))
        first_receipt.settle(ON_DISK)
        self.assertEqual(engine.told, [])
        first_receipt.settle(ON_DISK)
        self.assertEqual(engine.told, [2])


class GivenUpTests(EntryTestCase):
    """R35: tests of a stream with stanzas that can never be acknowledged: nothing behind them can be."""

    def opened(self) -> StreamIngress:
        """Return the ingress of a stream of the same server."""
        services = self.ingress_services
        admission: Any = SimpleNamespace(admit=self.admit)
        self.ended: list[Cause] = []
        connection: Any = Mock(
            peer_address="192.0.2.1:1", step=lambda method, *arguments: method(*arguments), last_received=0.0, read_since=0.0,
            has_unread_input=False, close=lambda ending: self.ended.append(ending.cause),
        )
        ingress = StreamIngress(services, connection, FakeEngine(), "federation", admission, {IN.sender})
        ingress.managed()
        return ingress

    def test_repeats_of_stanzas_that_are_given_up(self) -> None:
        """A new stream repeats stanzas that still wait for their admission, which is refused: another node has the pair.

        The new stream is closed, once, so that the server sends them again.
        """
        self.made()
        first = self.opened()
        first.stanzas(IN, [stanza("a"), stanza("b")])
        first.close(Ending(Cause.CONNECTION_LOST))
        second = self.opened()
        second.stanzas(IN, [stanza("a"), stanza("b"), stanza("c")])

        async def claim(peer: Domain) -> Ending | None:
            return Ending(Cause.OTHER_NODE)

        self.patch(self.ingress_services, "homes", SimpleNamespace(claim=claim))
        self.admissions.pop(0).callback(None)
        self.assertEqual([], self.ended)
        self.step()
        self.step()
        self.assertEqual([Cause.CLOSED], self.ended)

    def test_resumed(self) -> None:
        """A stream that resumes such a stream is closed too."""
        self.made()
        former = self.opened()
        former.stanzas(IN, [stanza("a")])
        former.suspend(Counters(0))
        self.ingress_services.lines.abandon(IN.sender)
        former.abandon(lambda pair: True)
        self.step()
        self.assertEqual([], self.ended)
        self.opened().continue_from(former)
        self.step()
        self.assertEqual([Cause.CLOSED], self.ended)

    def test_settled_before(self) -> None:
        """A receipt that is settled is not given up any more."""
        receipts = Receipts()
        receipt = receipts.of("a")
        receipt.settle(ON_DISK)
        receipt.abandon()
        self.assertFalse(receipts.blocked)


class ProvenPairsTests(SynchronousTestCase):
    """The index of the streams on which a pair is proven."""

    def test_many(self) -> None:
        """The end of a stream with very many pairs is no long turn. Another stream of a pair stays in the index."""
        steps: list[Any] = []
        services, connection = Mock(sources=PairSources(), soon=steps.append), Mock()
        ingress = StreamIngress(services, connection, Mock(), "federation", Mock(), ())
        pairs = [Pair(Domain.parse(f"p{number}.example"), HERE) for number in range(2 * PAIRS_AT_ONCE + 1)]
        for pair in pairs:
            ingress.proven(pair)
        services.sources.add(pairs[-1], Mock())
        left = []
        ingress.pass_on()
        while steps:
            left.append(len(services.sources))
            steps.pop()()
        self.assertEqual(([PAIRS_AT_ONCE + 1, 1], 1), (left, len(services.sources)))


class CourierReceiptTests(SynchronousTestCase):
    """R35: tests of a stream that takes stanzas."""

    def setUp(self) -> None:
        self.world = World()
        self.sent: list[int] = []
        self.world.queue.accept([message("1")])
        self.connection = self.world.open()
        assert isinstance(self.world.queue.next_hop, DeliveryAgent)
        self.agent = self.world.queue.next_hop
        engine: Any = self.connection.owner.engine
        engine.managed, engine.sent = True, self._count
        self.agent.data.acknowledgements = StreamManagementAcks(self.agent.stream, Mock(), self.world.clock)  # type: ignore[union-attr, arg-type]
        self.world.queue.accept([message("2"), message("3")])
        self.world.queue.accept([message("4")])

    def _count(self, number: int) -> bool:
        self.sent.append(number)
        return True

    def tell(self, event: Any) -> None:
        self.connection.owner.event(self.connection, event)

    def test_acknowledged(self) -> None:
        """R35: acknowledged stanzas are passed on. The others stay in custody until they are acknowledged."""
        self.assertEqual(self.sent, [2, 1])
        self.assertTrue(self.connection.written[-1].endswith(REQUEST))
        self.tell(Acknowledged(1))
        self.assertEqual([held.stanza.id for held in self.world.queue.pair_queue], ["3", "4"])
        self.tell(Acknowledged(2))
        self.assertEqual(len(self.world.queue.pair_queue), 0)
        self.agent.data.acknowledgements.stop()  # type: ignore[union-attr]

    def test_refused(self) -> None:
        """R35: if XEP-0198 is refused, written stanzas count as they do without acknowledgements."""
        self.tell(ManagementRefused())
        self.assertEqual((len(self.world.queue.pair_queue), self.agent.acknowledges), (0, False))
        self.world.queue.accept([message("5")])
        self.assertEqual((ids(self.connection.written)[-1], self.sent), ("5", [2, 1]))

    def test_refused_with_pings(self) -> None:
        """R35: if pings are used instead, one ping is sent for all that was written."""
        asked: list[int] = []

        def behind(number: int) -> bytes:
            asked.append(number)
            return b"<ping/>"

        pings = SimpleNamespace(acknowledges=True, after_batch=behind, stop=lambda: None)
        self.agent._ack_selection = Choosing(lambda stream: pings)
        self.tell(ManagementRefused())
        self.assertEqual((asked, self.connection.written[-1], len(self.world.queue.pair_queue)), ([3], b"<ping/>", 3))
        self.world.queue.acknowledged(3)
        self.tell(ManagementRefused())
        self.assertEqual(asked, [3])

    def test_suspended(self) -> None:
        """R35: stanzas in flight on a peer's interrupted stream wait for it, but no longer than their hold time."""
        self.agent.stream_suspended(Ending(Cause.CONNECTION_LOST))
        self.world.clock.advance(599)
        self.assertEqual((self.agent.state, self.world.queue.pair_queue.in_flight_count), ("broken", 3))
        self.world.clock.advance(1)
        self.assertEqual(self.world.queue.pair_queue.in_flight_count, 0)
        self.world.custody.expiry.sweep()
        self.assertEqual(len(self.world.queue.pair_queue), 0)

    def test_suspended_and_stopped(self) -> None:
        """A stopped agent does not use an interrupted stream any more."""
        stream = self.agent.stream
        assert isinstance(stream, PairStream)
        self.assertIs(self.agent, stream.user)
        self.agent.stream_suspended(Ending(Cause.CONNECTION_LOST))
        self.agent.stop(Cause.CLOSED)
        self.assertIsNone(stream.user)

    def test_other_events(self) -> None:
        """Other events of the stream have no effect here."""
        self.tell(PairProven(self.world.queue.pair, "dialback"))
        self.assertEqual(len(self.world.queue.pair_queue), 3)
