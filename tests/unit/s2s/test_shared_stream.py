"""R36: tests of accepted streams that carry stanzas back (XEP-0288), and of our streams that receive stanzas."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.ack_selection import AckSelection
from s2sgw.delivery.acknowledgements import StreamManagementAcks
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.agent_states import Delivering
from s2sgw.delivery.outbound_stream import StreamUser
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.queue.backoff import BackOff
from s2sgw.s2s.accepted_streams import AcceptedStreams
from s2sgw.s2s.connecting import ConnectServices
from s2sgw.s2s.destinations import Destinations
from s2sgw.s2s.extensions import ExtensionMemory
from s2sgw.s2s.initiated_streams import InitiatedStreams
from s2sgw.s2s.shared_stream import SharedStream
from s2sgw.s2s.stream_outcomes import StreamOutcomes
from s2sgw.s2s.stream_provider import PeerStreamProvider
from s2sgw.stream.events import (
    Acknowledged,
    ManagementEnabled,
    ManagementRefused,
    PairProven,
    Refusal,
    ResolutionNeeded,
    StanzasReceived,
)
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.custody import ingress_services
from tests.support.fakes import FixedRandom
from tests.unit.delivery.test_agent import World, ids, message
from tests.unit.ingress.test_pair_ingress import IN, OTHER, OUT, PEER, EntryTestCase, stanza


class PartsOf:
    """A provider of parts of one stream (`PairStreams`)."""

    def __init__(self, shared_stream: SharedStream) -> None:
        self.pair_stream = shared_stream.for_pair


class Engine:
    """An engine that counts what is sent, once it is managed."""

    closing = continues = False
    resumption = None

    def __init__(self) -> None:
        self.managed = False
        self.counted: list[int] = []

    def sent(self, number: int) -> bool:
        if self.managed:
            self.counted.append(number)
        return self.managed


class Listening(StreamUser):
    """A stream user that records its calls."""

    busy = alone = False

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.held: list[bytes] = []

    def holds(self, number: int) -> bool:
        return number == len(self.held)

    def resend(self, acknowledged: int) -> list[bytes]:
        if acknowledged:
            self.told.append(f"{acknowledged} acknowledged")
        return self.held[acknowledged:]

    def stream_suspended(self, ending: Ending) -> None:
        self.told.append(("broken", ending))

    def stream_resumed(self, stream: Any) -> None:
        self.told.append(stream)

    def stream_event(self, event: Any) -> None:
        self.told.append(event)

    def stream_lost(self, ending: Ending) -> None:
        self.told.append(ending)

    def stream_slow(self) -> None:
        self.told.append("slow")

    def stream_free(self) -> None:
        self.told.append("free")


class SharedStreamTests(SynchronousTestCase):
    """R36: tests of one stream with several pairs and a delivery agent for each."""

    def setUp(self) -> None:
        self.engine = Engine()
        self.connection: Any = SimpleNamespace(
            ending=None, retiring=False, close=lambda ending: setattr(self.connection, "ending", ending), when_closed=lambda: succeed(None),
        )
        self.shared_stream = SharedStream(SimpleNamespace(leg="federation"), self.connection, self.engine)  # type: ignore[arg-type]
        self.second = Pair(OTHER, PEER)
        for pair in (OUT, self.second, OUT):
            self.shared_stream.allow(pair)

    def borrow(self, pair: Pair) -> tuple[Any, Listening]:
        pair_stream = self.shared_stream.for_pair(pair)
        assert pair_stream is not None
        listening = Listening()
        pair_stream.user = listening
        return pair_stream, listening

    def test_each_pair_once(self) -> None:
        """Only allowed pairs are given out, each to one agent, and none of a stream that has ended."""
        self.assertIsNone(self.shared_stream.for_pair(IN))
        pair_stream, _ = self.borrow(OUT)
        self.assertIsNone(self.shared_stream.for_pair(OUT))
        self.assertEqual((pair_stream.pair, pair_stream.method, bool(pair_stream.limits), pair_stream.ours), (OUT, "bidi", False, False))
        pair_stream.close(Ending(Cause.SHUTDOWN))
        self.assertIsNone(self.shared_stream.for_pair(self.second))

    def test_alone(self) -> None:
        """A user that must be alone takes no part of a stream in use, and shares none; a stream that winds down takes no user (docs/decisions.md#poison)."""
        self.assertIsNotNone(self.shared_stream.for_pair(OUT, alone=True))
        pair_stream, listening = self.borrow(OUT)
        self.assertEqual((self.shared_stream.for_pair(self.second, alone=True), pair_stream.sole), (None, True))
        listening.alone = True
        self.assertIsNone(self.shared_stream.for_pair(self.second))
        listening.alone = False
        self.assertIsNotNone(self.shared_stream.for_pair(self.second))
        self.engine.closing = True
        self.assertIsNone(self.shared_stream.for_pair(self.second))

    def test_leaving(self) -> None:
        """The last user that leaves the stream closes it."""
        (first, _), (second, _) = self.borrow(OUT), self.borrow(self.second)
        first.leave(Ending(Cause.SHUTDOWN))
        self.assertEqual((self.connection.ending, first.user, second.sole), (None, None, True))
        second.leave(Ending(Cause.SHUTDOWN))
        self.assertEqual(self.connection.ending, Ending(Cause.SHUTDOWN))

    def test_by_turns(self) -> None:
        """When the stream becomes writable again, a different pair is first each time."""
        order: list[str] = []
        for name, (_, listening) in (("one", self.borrow(OUT)), ("two", self.borrow(self.second))):
            listening.stream_free = partial(order.append, name)  # type: ignore[method-assign]
        for _ in range(3):
            self.shared_stream.free()
        self.assertEqual(order, ["two", "one", "one", "two", "two", "one"])

    def test_a_user_that_raises(self) -> None:
        """A user that raises at the end of the stream does not keep the others from being told."""
        (_, one), (_, two) = self.borrow(OUT), self.borrow(self.second)
        ending = Ending(Cause.CONNECTION_LOST)
        self.patch(one, "stream_lost", lambda ending: 1 / 0)
        self.shared_stream.lost(ending)
        self.assertEqual((two.told, len(self.flushLoggedErrors(ZeroDivisionError))), ([ending], 1))

    def test_owed(self) -> None:
        """R35: stanzas counted on the resumed stream come first."""
        self.engine.managed = True
        (pair_stream, listening), (other, _) = self.borrow(OUT), self.borrow(self.second)
        self.shared_stream.count_resumed(other, 0)
        self.shared_stream.count_resumed(pair_stream, 2)
        other.count_sent(1)
        self.shared_stream.event(Acknowledged(2))
        self.assertEqual((pair_stream.unacknowledged, other.unacknowledged, listening.told), (0, 1, [Acknowledged(2)]))
        self.assertTrue(self.shared_stream.shared)

    def test_not_to_blame(self) -> None:
        """If several pairs had stanzas in doubt, none of them is known to be at fault (docs/decisions.md#poison)."""
        for busy in (False, True):
            self.setUp()
            (first, one), (_, two) = self.borrow(OUT), self.borrow(self.second)
            one.busy, two.busy = True, busy
            self.shared_stream.lost(Ending(Cause.STREAM_ERROR))
            self.assertEqual(first.ambiguous, busy)

    def test_refused(self) -> None:
        """R35: after a refusal of XEP-0198 the counted stanzas are forgotten."""
        pair_stream, listening = self.borrow(OUT)
        self.engine.managed = True
        pair_stream.count_sent(2)
        self.shared_stream.event(ManagementRefused())
        self.assertEqual((pair_stream.unacknowledged, listening.told), (0, [ManagementRefused()]))

    def test_acknowledgements_are_shared_out(self) -> None:
        """R35: all pairs have one count, and acknowledgements follow the order of writing."""
        (first, one), (second, two) = self.borrow(OUT), self.borrow(self.second)
        first.count_sent(9)
        self.engine.managed = True
        self.assertTrue(first.managed)
        for pair_stream, number in ((first, 2), (second, 3), (first, 1)):
            pair_stream.count_sent(number)
        self.shared_stream.event(Acknowledged(4))
        first.user = None
        self.shared_stream.event(Acknowledged(2))
        self.assertEqual(self.engine.counted, [2, 3, 1])
        self.assertEqual((one.told, two.told), ([Acknowledged(2)], [Acknowledged(2), Acknowledged(1)]))

    def test_goes_on(self) -> None:
        """R35: on a resumed stream unacknowledged stanzas are sent again in the order of writing, over all pairs."""
        self.engine.managed = True
        (first, one), (second, two) = self.borrow(OUT), self.borrow(self.second)
        for pair_stream, number in ((first, 2), (second, 1), (first, 1)):
            pair_stream.count_sent(number)
        self.assertFalse(self.shared_stream.resumable)
        one.held, two.held = [b"a1", b"a2", b"a3"], [b"b1"]
        self.assertTrue(self.shared_stream.resumable)
        ending = Ending(Cause.CONNECTION_LOST)
        self.assertTrue(self.shared_stream.suspend(ending))
        link: Any = Mock(ending=None, retiring=False)
        later = SharedStream(SimpleNamespace(leg="federation"), link, self.engine)
        for pair in (OUT, self.second):
            later.allow(pair)
        later.continue_from(self.shared_stream.hand_over(1))
        link.write.assert_called_once_with(b"a2b1a3")
        parts = later.for_pair(OUT), later.for_pair(self.second)
        self.assertEqual((one.told, two.told), ([("broken", ending), "1 acknowledged", parts[0]], [("broken", ending), parts[1]]))
        self.assertEqual([part and part.unacknowledged for part in parts], [2, 1])

    def test_a_user_left_meanwhile(self) -> None:
        """R35: if a user's stanzas in doubt were sent on another stream after their hold time, this stream cannot be resumed in order."""
        self.engine.managed = True
        (first, one), (second, two) = self.borrow(OUT), self.borrow(self.second)
        first.count_sent(1)
        second.count_sent(1)
        one.held, two.held = [b"a"], [b"b"]
        self.shared_stream.suspend(Ending(Cause.CONNECTION_LOST))
        self.assertTrue(self.shared_stream.resumable)
        first.leave(Ending(Cause.CONNECTION_LOST))
        self.assertFalse(self.shared_stream.resumable)

    def test_suspended(self) -> None:
        """R35: a user with no stanza in doubt looks for another stream at once."""
        self.engine.managed = True
        (first, one), (_, two) = self.borrow(OUT), self.borrow(self.second)
        first.count_sent(1)
        ending = Ending(Cause.CONNECTION_LOST)
        self.shared_stream.suspend(ending)
        self.assertEqual((one.told, two.told), ([("broken", ending)], [ending]))
        self.shared_stream.lost(ending)
        self.assertEqual((one.told[1:], two.told[1:]), ([ending], []))

    def test_what_concerns_all(self) -> None:
        """Back-pressure, the end, and the offer of acknowledgements are reported to every user of the stream."""
        (_, one), (_, two) = self.borrow(OUT), self.borrow(self.second)
        ending = Ending(Cause.CLOSED)
        self.shared_stream.slow()
        self.shared_stream.free()
        self.shared_stream.event(ManagementEnabled())
        self.shared_stream.lost(ending)
        self.assertEqual(one.told, ["slow", "free", ManagementEnabled(), ending])
        self.assertEqual(one.told, two.told)


class AcceptedStreamTests(EntryTestCase):
    """R36: tests of an accepted stream that carries stanzas back: queues for the peer find it."""

    def setUp(self) -> None:
        self.made()
        self.woken: list[Domain] = []
        self.engine: Any = Mock(managed=False, closing=False, claimed=("", ""), resumption=None, acknowledged_to_peer=0)
        self.link: Any = Mock(ending=None, retiring=False, peer_address="192.0.2.1:1", tls_version=None)
        services = ingress_services(self.custody, self.peers)
        self.accepted = AcceptedStreams(services, SimpleNamespace(accept=lambda *ignored, **more: self.link), SimpleNamespace(contacted=self.woken.append))
        self.side: Any = SimpleNamespace(
            outcomes=StreamOutcomes(),
            leg="federation", proven=lambda *ignored: None, excess=lambda *ignored: None, policy=lambda *ignored: None, admit=lambda pair: succeed(None), engine=lambda direct: self.engine, tls=None,
        )

    def accept(self) -> Any:
        self.accepted.accept(self.side)
        ((_, owner),) = list(self.accepted)
        owner.connected(self.link)
        owner.event(self.link, PairProven(IN, "EXTERNAL"))
        return owner

    def test_found(self) -> None:
        """R36: it is found from the moment it may carry stanzas back until its end."""
        self.assertIsNone(self.accepted.pair_stream(OUT))
        owner = self.accept()
        self.assertIsNone(self.accepted.pair_stream(OUT))
        owner.event(self.link, PairProven(OUT, "bidi"))
        self.assertEqual(self.woken, [PEER, PEER])
        self.assertEqual(owner.methods, {IN: "EXTERNAL"})
        pair_stream = self.accepted.pair_stream(OUT)
        assert pair_stream is not None
        pair_stream.user = listening = Listening()
        self.assertIsNone(self.accepted.pair_stream(OUT))
        owner.paused(self.link)
        owner.resumed(self.link)
        owner.event(self.link, ManagementEnabled())
        self.engine.managed = True
        pair_stream.count_sent(1)
        owner.event(self.link, Acknowledged(1))
        owner.ended(self.link, Ending(Cause.CLOSED))
        self.assertEqual(listening.told, ["slow", "free", ManagementEnabled(), Acknowledged(1), Ending(Cause.CLOSED)])

    def test_the_newest(self) -> None:
        """R36: a server that connects again has lost its older streams, whether we have noticed that or not."""
        links = [Mock(ending=None, retiring=False, peer_address="192.0.2.1:1", tls_version=None) for _ in range(2)]
        for self.link in links:
            self.accepted.accept(self.side)
            owner = dict(self.accepted)[self.link]
            owner.connected(self.link)
            owner.event(self.link, PairProven(IN, "EXTERNAL"))
            owner.event(self.link, PairProven(OUT, "bidi"))
        pair_stream = self.accepted.pair_stream(OUT)
        assert pair_stream is not None
        self.assertIs(pair_stream.connection, links[1])

    def test_only_of_peers(self) -> None:
        """A backend's streams are not used by others."""
        self.side.leg = "backend"
        self.accept().event(self.link, PairProven(OUT, "bidi"))
        self.assertIsNone(self.accepted.pair_stream(OUT))

    def test_entered_and_struck_off(self) -> None:
        """The claimed, proven and carried names of a stream are registered while it is open, and removed with it."""
        owner = self.accept()
        owner.event(self.link, PairProven(OUT, "bidi"))
        self.link.local_address = "192.0.2.2:5269"
        self.assertEqual(self.accepted.ends(IN), ("192.0.2.1:1", "192.0.2.2:5269"))
        self.assertIsNone(self.accepted.ends(OUT))
        owner.ended(self.link, Ending(Cause.CLOSED))
        self.assertIsNone(self.accepted.ends(IN))
        self.assertIsNone(self.accepted.pair_stream(OUT))
        self.assertEqual([index._streams for index in (self.accepted._of_peer, self.accepted._proven, self.accepted._carrying)], [{}, {}, {}])

    def test_owner(self) -> None:
        """A pair is owned by the registered domain that was proven first on the newest stream of the pair, otherwise by its own.

        Neither another certificate nor another address of the peer makes another owner.
        """
        below, other = Pair(Domain.parse("a.b.peer.example"), IN.recipient), Pair(Domain.parse("other.example"), IN.recipient)
        self.assertEqual([self.accepted.owner(pair)[1] for pair in (IN, below, other)], ["peer.example"] * 2 + ["other.example"])
        owner = self.accept()
        for pair in (below, other):
            owner.event(self.link, PairProven(pair, "dialback"))
        for self.link.chain, self.link.peer_address in (((b"leaf",), "192.0.2.1:1"), ((b"other",), "[2001:db8::1]:1")):
            self.assertEqual({self.accepted.owner(pair) for pair in (IN, below, other)}, {("domain", "peer.example")})
        owner.ended(self.link, Ending(Cause.CLOSED))
        self.assertEqual([self.accepted.owner(pair)[1] for pair in (IN, below, other)], ["peer.example"] * 2 + ["other.example"])

    def test_registered_domain(self) -> None:
        """A stream counts once for each registered domain of the peers that are proven on it, until it ends. The backend's do not."""
        owner = self.accept()
        for name in ("a.peer.example", "b.peer.example", "c.other.example"):
            owner.event(self.link, PairProven(Pair(Domain.parse(name), IN.recipient), "dialback"))
        self.assertEqual([list(self.accepted.below(name)) for name in ("peer.example", "other.example", "a.peer.example")], [[owner]] * 2 + [[]])
        self.link.belong_to.assert_called_once_with("peer.example")
        owner.ended(self.link, Ending(Cause.CLOSED))
        self.assertEqual(self.accepted._of_registered._streams, {})
        self.side.leg = "backend"
        self.accept()
        self.assertEqual(self.accepted._of_registered._streams, {})
        self.link.belong_to.assert_called_once()

    def test_counted_by_proof(self) -> None:
        """A stream counts for the names that it has proven until it ends, not for those that it claims."""
        async def never(*ignored: object) -> None:
            await Deferred()

        self.side.resolve = self.side.judge = never
        self.accepted.accept(self.side)
        ((_, owner),) = list(self.accepted)
        owner.connected(self.link)
        other = Domain.parse("other.example")
        owner.event(self.link, ResolutionNeeded(other, IN.recipient))
        owner.event(self.link, ResolutionNeeded(PEER, IN.recipient))
        self.assertEqual((0, 0), (len(self.accepted.of_peer(other)), len(self.accepted.of_peer(PEER))))
        owner.event(self.link, PairProven(IN, "EXTERNAL"))
        owner.event(self.link, PairProven(Pair(other, IN.recipient), "dialback"))
        self.assertEqual([[owner], [owner]], [list(self.accepted.of_peer(peer)) for peer in (other, PEER)])
        owner.ended(self.link, Ending(Cause.CLOSED))
        self.assertEqual((0, 0), (len(self.accepted.of_peer(other)), len(self.accepted.of_peer(PEER))))

    def test_one_too_many(self) -> None:
        """A stream is refused if at its first proof the peer has as many streams as it may. A further pair on it is not."""
        excess = Refusal(StreamCondition.RESOURCE_CONSTRAINT, "too many", Ending(Cause.TOO_MANY_STREAMS))
        owner = self.accept()
        self.side.excess = lambda connection, pair: excess
        owner.event(self.link, PairProven(Pair(Domain.parse("other.example"), IN.recipient), "dialback"))
        self.link.fail.assert_not_called()
        self.accepted.accept(self.side)
        (_, second) = list(self.accepted)[-1]
        link = Mock(ending=None, retiring=False)
        second.connected(link)
        second.event(link, PairProven(IN, "dialback"))
        link.fail.assert_called_once_with(excess)
        self.assertEqual({}, second.methods)

    def test_before_opening_one(self) -> None:
        """R36: an agent uses an accepted stream and opens none."""
        pair_stream: Any = object()
        connect_services: Any = SimpleNamespace(carrying_back=SimpleNamespace(pair_stream=lambda pair, alone: pair_stream))
        found = PeerStreamProvider(self.side, connect_services).find(OUT)
        with self.assertRaises(StopIteration) as done:
            found.send(None)
        self.assertIs(done.exception.value, pair_stream)


class AcceptedStreamAgentTests(SynchronousTestCase):
    """R36: tests of an agent on an accepted stream."""

    def setUp(self) -> None:
        self.world = World()
        self.engine = Engine()
        self.link: Any = Mock(ending=None, retiring=False, writable=True, peer_address="192.0.2.1:1", tls_version=None)
        self.queue = self.world.queue
        self.shared_stream = SharedStream(SimpleNamespace(leg="federation"), self.link, self.engine)
        self.shared_stream.allow(self.queue.pair)
        assert isinstance(self.queue.next_hop, DeliveryAgent)
        self.agent = self.queue.next_hop
        destinations, extensions = Destinations(self.world.clock, FixedRandom(), BackOff(first=2, jitter=0)), ExtensionMemory(self.world.clock)
        self.acks: Any = "tcp"
        self.agent._ack_selection = AckSelection(lambda domain: self.acks, self.world.queues, extensions, self.world.clock)
        connect_services = ConnectServices(None, self.world.clock, destinations, extensions, carrying_back=PartsOf(self.shared_stream))  # type: ignore[arg-type]
        self.agent.provider = PeerStreamProvider(self.world.side, connect_services)  # type: ignore[arg-type]

    def written(self) -> list[str]:
        return ids([call.args[0] for call in self.link.write.call_args_list])

    def test_sends(self) -> None:
        """R35, R36: no connection is made. When the other side enables acknowledgements, we request them in turn."""
        self.queue.accept([message("1")])
        self.assertEqual((self.written(), self.world.dials, self.agent.acknowledges), (["1"], [], False))
        self.engine.managed = True
        self.shared_stream.event(ManagementEnabled())
        self.queue.accept([message("2")])
        self.assertEqual((self.engine.counted, self.agent.acknowledges, len(self.queue.pair_queue)), ([1], True, 1))
        self.shared_stream.event(Acknowledged(1))
        self.assertEqual(len(self.queue.pair_queue), 0)
        self.agent.data.acknowledgements.stop()  # type: ignore[union-attr]

    def test_counts_in_any_case(self) -> None:
        """R35: while pings are used, the other side's acknowledgements settle nothing, but everything written is counted."""
        self.acks = "ping"
        self.queue.accept([message("1")])
        self.engine.managed = True
        self.shared_stream.event(ManagementEnabled())
        self.queue.accept([message("2")])
        self.assertEqual(self.engine.counted, [1])
        self.shared_stream.event(Acknowledged(1))
        self.assertEqual(len(self.queue.pair_queue), 2)
        self.agent.data.acknowledgements.stop()  # type: ignore[union-attr]

    def test_pings_after_a_rest(self) -> None:
        """R41: if the inverse queue is forgotten between two pings, the next answer is caught all the same."""
        self.acks = "ping"
        for id in "12":
            self.queue.accept([message(id)])
            back = self.world.queues.queue(self.queue.pair.inverse)
            (ping,) = back.replies.pings
            back.accept([Stanza("iq", b"<iq/>", "", "", "result", ping)])
            self.assertEqual(len(self.queue.pair_queue), 0)
            self.world.custody.expiry.sweep()
            self.assertNotIn(back, list(self.world.queues))

    def test_later(self) -> None:
        """R35: while a ping is unanswered nothing changes. Stanzas written later, with nothing else in flight, are acknowledged by XEP-0198."""
        self.acks = "auto"
        self.queue.accept([message("1")])
        self.engine.managed = True
        self.shared_stream.event(ManagementEnabled())
        self.queue.accept([message("2")])
        self.assertEqual((self.engine.counted, len(self.queue.pair_queue)), ([1], 2))
        self.queue.acknowledged(2)
        self.queue.accept([message("3"), message("4")])
        assert isinstance(self.agent.data, Delivering)
        self.assertIsInstance(self.agent.data.acknowledgements, StreamManagementAcks)
        self.shared_stream.event(Acknowledged(1))
        self.assertEqual(len(self.queue.pair_queue), 2)
        self.shared_stream.event(Acknowledged(1))
        self.assertEqual([held.stanza.id for held in self.queue.pair_queue], ["4"])
        self.shared_stream.event(Acknowledged(1))
        self.assertEqual(len(self.queue.pair_queue), 0)
        self.agent.data.acknowledgements.stop()

    def test_lost(self) -> None:
        """When the stream is lost the agent looks for another one."""
        self.queue.accept([message("1")])
        self.shared_stream.lost(Ending(Cause.CLOSED))
        self.assertEqual(self.agent.stream, None)


class ReceivedOnOursTests(EntryTestCase):
    """R36: tests of stanzas received on a stream of ours: they are treated like all others."""

    def test_comes(self) -> None:
        """R36: they are accepted once their pair may be received. The peer's limits and filters apply."""
        world = World()
        made: list[Any] = []
        self.made(kinds=("message",))
        services = ingress_services(self.custody, self.peers)

        def incoming(stream: Any) -> StreamIngress:
            made.append(stream)
            return StreamIngress(services, Mock(peer_address="192.0.2.1:5269"), engine, "federation", SimpleNamespace(admit=lambda pair: succeed(None)), [PEER])

        engine = Mock(handled=Mock(return_value=[]), acknowledged_to_peer=0)
        world.queue.accept([message("1")])
        connection = world.open()
        stream = connection.owner
        stream.event(connection, StanzasReceived(IN, [stanza("no")]))
        stream._connect_services = SimpleNamespace(bidi=None)
        stream.event(connection, PairProven(IN, "bidi"))
        stream._connect_services = SimpleNamespace(bidi=SimpleNamespace(ingress=incoming), initiated=InitiatedStreams())
        for _ in range(2):
            stream.event(connection, PairProven(IN, "bidi"))
        stream.event(connection, ManagementEnabled())
        stream.event(connection, StanzasReceived(IN, [stanza("a"), stanza("b", "presence")]))
        self.assertEqual((made, self.passed()), ([stream], "a"))
        stream.incoming.reconsider()
        stream.ended(connection, Ending(Cause.CLOSED))
