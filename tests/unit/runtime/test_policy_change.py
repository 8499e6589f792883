"""Tests of a changed policy: refused streams are closed in order, pairs are admitted anew, and barred stanzas are bounced."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.net.discovery import Target
from s2sgw.net.slices import Slices
from s2sgw.policy.denylist import DenyList
from s2sgw.policy.model import PeerObject
from s2sgw.policy.peers import PeerPolicies
from s2sgw.queue.backoff import BackOff
from s2sgw.reporting.record import EventRecord
from s2sgw.runtime import policy_change
from s2sgw.runtime.policy_change import Closed, PolicyChange
from s2sgw.s2s.stream_provider import PeerStreamProvider
from s2sgw.stream.events import Refusal
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.custody import custody_of
from tests.support.fakes import FakeNextHop, FixedRandom
from tests.support.turn_clock import TurnClock

HERE, PEER, OTHER = (Domain.parse(name) for name in ("here.example", "peer.example", "other.example"))
NO = Refusal(StreamCondition.REMOTE_CONNECTION_FAILED, "pkix: no.", Ending(Cause.EXPIRED, "expired"))
TARGET = Target("s.peer.example", 5269, ("192.0.2.1",))


class Connection:
    """A connection as the reconsideration uses it."""

    peer_address = "192.0.2.1:40000"

    def __init__(self) -> None:
        self.ending: Ending | None = None
        self.said: Refusal | None = None

    def fail(self, refusal: Refusal) -> None:
        self.said, self.ending = refusal, refusal.ending


class Owner:
    """An accepted stream."""

    def __init__(self, leg: str, methods: dict[Pair, str], peer: Domain | None = None) -> None:
        self.side = SimpleNamespace(leg=leg)
        self.methods = methods
        self.peer, self.local = peer, HERE
        self.asked_anew = 0

    def reconsider(self) -> None:
        self.asked_anew += 1


class Initiated(list[Any]):
    """The streams that we opened."""

    def __init__(self, *ready: Any) -> None:
        super().__init__(ready)
        self.negotiated: list[Any] = []


class Waiting(FakeNextHop):
    """A next hop that accepts nothing, or keeps its stanzas."""

    def __init__(self, ready: bool, kept: list[bytes]) -> None:
        self.ready = ready
        self._kept = kept

    def send(self, data: Sequence[bytes]) -> bool:
        self._kept += data
        return False


class Review:
    """Judges open streams by a function of the test."""

    def __init__(self, reconsider: Any) -> None:
        self.reconsider = reconsider


class ReconsiderationTests(SynchronousTestCase):
    """Tests over streams and queues of the test, with judgements by the test."""

    def setUp(self) -> None:
        self.clock = TurnClock()
        self.back: list[bytes] = []
        self.record = EventRecord(self.clock, Logger())
        self.queues = custody_of(self.clock, self.record, lambda domain: domain == HERE, self.next_hop).queues
        self.peers = PeerPolicies()
        self.accepted: dict[Connection, Owner] = {}
        self.initiated: Any = Initiated()
        self.questions: list[tuple[Any, ...]] = []
        self.answers: dict[tuple[Domain, str], Refusal] = {}

    def next_hop(self, queue: DeliveryQueue) -> Any:
        if queue.direction == "inbound":
            return Waiting(True, self.back)
        side: Any = SimpleNamespace(leg="federation")
        return DeliveryAgent(queue, PeerStreamProvider(side, None), self.record, BackOff(), FixedRandom(), self.clock)  # type: ignore[arg-type]

    def stream(self, leg: str = "federation", peer: Domain = PEER, method: str = "EXTERNAL") -> Connection:
        connection = Connection()
        self.accepted[connection] = Owner(leg, {Pair(peer, HERE): method} if method else {}, peer)
        return connection

    def outgoing(self, peer: Domain = PEER, leg: str = "federation") -> Connection:
        pair, connection = Pair(HERE, peer), Connection()
        self.initiated.append(SimpleNamespace(connection=connection, leg=leg, target=TARGET, incoming=None, pair=pair, pairs=[pair]))
        return connection

    def negotiated(self, peer: Domain = PEER, leg: str = "federation") -> Any:
        stream = SimpleNamespace(connection=Connection(), leg=leg, target=TARGET, pair=Pair(HERE, peer), judged_by=None, judging=False)
        self.initiated.negotiated.append(stream)
        return stream

    async def inbound(self, connection: Any, pair: Pair, method: str) -> Refusal | None:
        self.questions.append((pair, method))
        return self.answers.get((pair.sender, method))

    async def outbound(self, connection: Any, pair: Pair, target: Target) -> Refusal | None:
        self.questions.append((pair, target))
        return self.answers.get((pair.recipient, "outbound"))

    def change(self) -> PolicyChange:
        accepted: Any = self.accepted.items()
        slices = Slices(self.clock, stopwatch=self.clock.seconds)
        return PolicyChange(self.peers, accepted, self.initiated, self.queues, Review(self.inbound), Review(self.outbound), slices)

    def apply(self, keep_streams: bool = False) -> list[Closed]:
        done = self.change().apply(keep_streams)
        self.clock.advance(0)
        return self.successResultOf(done)

    def apply_bars(self) -> list[Closed]:
        done = self.change().apply_bars()
        self.clock.advance(0)
        return self.successResultOf(done)

    def test_closed(self) -> None:
        """A refused stream ends with policy-violation, whatever the cause, and is reported. The others stay open."""
        bad, good = self.stream(), self.stream(peer=OTHER)
        self.answers[PEER, "EXTERNAL"] = NO
        self.assertEqual([Closed("inbound", "peer.example", "here.example", "192.0.2.1:40000", "expired", "expired")], self.apply())
        assert bad.said is not None
        self.assertEqual((StreamCondition.POLICY_VIOLATION, "The policy has changed. pkix: no."), (bad.said.condition, bad.said.text))
        self.assertEqual(("policy-violation", None), (bad.said.ending.condition, good.said))

    def test_outbound(self) -> None:
        """Streams that we opened are judged by their destination."""
        connection = self.outgoing()
        self.answers[PEER, "outbound"] = NO
        self.assertEqual([("outbound", "peer.example", "here.example")], [closed[:3] for closed in self.apply()])
        self.assertIsNotNone(connection.said)
        self.assertEqual([(Pair(HERE, PEER), TARGET)], self.questions)

    def test_negotiated(self) -> None:
        """A stream of ours that is being negotiated is judged too. It is closed, or goes on under the policy of now."""
        refused, allowed, backend = self.negotiated(), self.negotiated(OTHER), self.negotiated(leg="backend")
        self.answers[PEER, "outbound"] = NO
        closed = self.apply()
        self.assertEqual([("outbound", "peer.example", "expired")], [(each.direction, each.peer, each.cause) for each in closed])
        self.assertEqual(NO.ending.cause, refused.connection.said.ending.cause)
        self.assertEqual((None, self.peers.policy(OTHER)), (allowed.connection.said, allowed.judged_by))
        self.assertEqual((None, None), (refused.judged_by, backend.connection.said))

    def test_being_judged(self) -> None:
        """A stream of ours whose peer is being judged is judged again when that is done. It is closed at once if its peer is barred."""
        judged, barred = self.negotiated(OTHER), self.negotiated()
        self.answers[OTHER, "outbound"] = NO
        self.peers.deny([DenyList("a list", {str(PEER): None})])
        for stream in (judged, barred):
            stream.judging, stream.judged_by = True, "the policy of before"
        self.assertEqual([PEER], [Domain.parse(each.peer) for each in self.apply()])
        self.assertEqual((None, None), (judged.connection.said, judged.judged_by))

    def test_ready_meanwhile(self) -> None:
        """A stream of ours that becomes ready while others are judged is judged, too."""
        class Copied(Initiated):
            def __iter__(self) -> Any:
                return iter(list(list.__iter__(self)))

        self.initiated = Copied()
        self.outgoing(OTHER)
        unready, asked = self.negotiated(), self.outbound
        self.answers[PEER, "outbound"] = NO

        async def outbound(connection: Any, pair: Pair, target: Any) -> Any:
            if unready in self.initiated.negotiated:
                self.initiated.negotiated.remove(unready)
                self.initiated.append(unready)
            return await asked(connection, pair, target)

        self.patch(self, "outbound", outbound)
        self.apply()
        self.assertIsNotNone(unready.connection.said)

    def test_negotiated_and_barred(self) -> None:
        """A stream of ours that is being negotiated is closed if a deny list bars its peer now."""
        refused, allowed = self.negotiated(), self.negotiated(OTHER)
        self.peers.adopt(PeerPolicies({"peer.example": PeerObject(allow=False)}))
        self.apply_bars()
        self.assertEqual((True, None), (refused.connection.said is not None, allowed.connection.said))

    def test_each_peer(self) -> None:
        """A stream of several peers ends once if one of them is refused."""
        connection = self.stream()
        self.accepted[connection].methods[Pair(OTHER, HERE)] = "dialback"
        self.answers[PEER, "EXTERNAL"] = NO
        self.assertEqual(1, len(self.apply()))
        self.assertEqual([(Pair(PEER, HERE), "EXTERNAL")], self.questions)

    def test_one_of_many(self) -> None:
        """The same holds if only the last one is refused."""
        connection = self.stream()
        self.accepted[connection].methods[Pair(OTHER, HERE)] = "dialback"
        self.answers[OTHER, "dialback"] = NO
        self.assertEqual([("inbound", "other.example")], [closed[:2] for closed in self.apply()])
        self.assertEqual([(Pair(PEER, HERE), "EXTERNAL"), (Pair(OTHER, HERE), "dialback")], self.questions)

    def test_judged_once(self) -> None:
        """A peer is judged once per stream, however many pairs it has there, with each method by which it was proven."""
        connection = self.stream()
        for number in range(100):
            local = Domain.parse(f"{number}.here.example")
            self.accepted[connection].methods[Pair(PEER, local)] = "EXTERNAL" if number % 2 else "dialback"
        self.apply()
        self.assertEqual([PEER, PEER], [pair.sender for pair, _ in self.questions])
        self.assertEqual({"EXTERNAL", "dialback"}, {method for _, method in self.questions})

    def test_unproven(self) -> None:
        """A stream in negotiation is judged by the name that it claims."""
        self.stream(method="")
        self.accepted[Connection()] = Owner("federation", {})
        self.apply()
        self.assertEqual([(Pair(PEER, HERE), "")], self.questions)

    def test_backend(self) -> None:
        """The backend's streams are not judged, but their pairs are admitted anew, like all others."""
        self.stream("backend")
        self.stream()
        self.outgoing(leg="backend")
        self.apply()
        self.assertEqual([(Pair(PEER, HERE), "EXTERNAL")], self.questions)
        self.assertEqual([1, 1], [owner.asked_anew for owner in self.accepted.values()])

    def test_keep_streams(self) -> None:
        """`keep_streams`: no stream is closed or judged. Pairs are admitted anew all the same."""
        connection = self.stream()
        self.answers[PEER, "EXTERNAL"] = NO
        self.assertEqual([], self.apply(keep_streams=True))
        self.assertEqual((None, [], 1), (connection.said, self.questions, self.accepted[connection].asked_anew))

    def test_waits_in_vain(self) -> None:
        """Stanzas for a barred peer are bounced with the cause. Those for another peer continue to wait."""
        for peer in (PEER, OTHER):
            queue = self.queues.queue(Pair(HERE, peer))
            queue.next_hop = Waiting(False, [])
            queue.accept([Stanza("message", b"<message/>", f"a@{peer}", "b@here.example", id=peer.ascii)])
        self.peers.adopt(PeerPolicies({"peer.example": PeerObject(allow=False)}))
        self.apply(keep_streams=True)
        self.assertEqual(1, len(self.back))
        self.assertIn(b"policy: not-allowed", self.back[0])
        self.assertEqual(1, len(self.queues.queue(Pair(HERE, OTHER)).pair_queue))

    def test_bars(self) -> None:
        """A changed deny list closes the streams of a barred peer in both directions, and no others. None is judged."""
        streams = self.stream(), self.outgoing(), self.stream(peer=OTHER), self.outgoing(OTHER)
        unproven, backend = self.stream(method=""), self.stream("backend")
        queue = self.queues.queue(Pair(HERE, PEER))
        queue.next_hop = Waiting(False, [])
        queue.accept([Stanza("message", b"<message/>", "a@peer.example", "b@here.example", id="1")])
        self.peers.adopt(PeerPolicies({"peer.example": PeerObject(allow=False)}))
        closed = self.apply_bars()
        self.assertEqual(["inbound", "inbound", "outbound"], sorted(each.direction for each in closed))
        self.assertEqual({"not-allowed"}, {each.cause for each in closed})
        self.assertEqual([True, True, False, False], [stream.ending is not None for stream in streams])
        self.assertEqual((True, False), (unproven.ending is not None, backend.ending is not None))
        self.assertEqual(([], 1), (self.questions, len(self.back)))
        self.assertEqual(1, self.accepted[streams[2]].asked_anew)

    def test_bar_of_one_on_a_shared_stream(self) -> None:
        """A stream of several peers ends if one of them is barred."""
        connection = self.stream()
        self.accepted[connection].methods[Pair(OTHER, HERE)] = "dialback"
        self.peers.adopt(PeerPolicies({"other.example": PeerObject(allow=False)}))
        self.assertEqual([("inbound", "other.example")], [closed[:2] for closed in self.apply_bars()])

    def test_very_many(self) -> None:
        """Many streams and queues are checked over several turns of the reactor."""
        for number in range(50):
            self.stream(peer=Domain.parse(f"{number}.example"))
            self.queues.queue(Pair(HERE, Domain.parse(f"{number}.example")))
        steps = iter(range(10_000))
        accepted: Any = self.accepted.items()
        slices = Slices(self.clock, seconds=2, stopwatch=lambda: float(next(steps)))
        change = PolicyChange(self.peers, accepted, self.initiated, self.queues, Review(self.inbound), Review(self.outbound), slices)
        done = change.apply()
        seen = [0]
        while not done.called:
            self.clock.turn()
            seen.append(len(self.questions))
        self.successResultOf(done)
        self.assertEqual(50, seen[-1])
        self.assertLessEqual(max(after - before for before, after in pairwise(seen)), 3)

    def test_gone_meanwhile(self) -> None:
        """A stream that ends before its turn is not judged."""
        first, second = self.stream(), self.stream(peer=OTHER)
        done = self.change().apply()
        first.ending = Ending(Cause.CLOSED)
        self.clock.advance(0)
        self.successResultOf(done)
        self.assertEqual(([(Pair(OTHER, HERE), "EXTERNAL")], None), (self.questions, second.said))

    def test_mistake(self) -> None:
        """A judgement that raises closes nothing. The other judgements are made all the same."""
        first, second = self.stream(), self.stream(peer=OTHER)
        self.answers[PEER, "EXTERNAL"] = None  # type: ignore[assignment]
        broken = RuntimeError("x")

        async def inbound(connection: Any, pair: Pair, method: str) -> Refusal | None:
            if connection is first:
                raise broken
            return NO

        self.inbound = inbound  # type: ignore[method-assign]
        self.assertEqual(1, len(self.apply()))
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        self.assertEqual((None, NO.ending.cause), (first.said, second.said.ending.cause if second.said else None))

    def test_not_all_at_once(self) -> None:
        """The number of simultaneous judgements is limited. A stream that ends meanwhile is not reported."""
        self.patch(policy_change, "CONCURRENT", 2)
        waiting: list[Deferred[Refusal | None]] = []

        async def inbound(connection: Any, pair: Pair, method: str) -> Refusal | None:
            waiting.append(Deferred())
            return await waiting[-1]

        self.inbound = inbound  # type: ignore[method-assign]
        connections = [self.stream() for _ in range(5)]
        done = self.change().apply()
        self.clock.advance(0)
        self.assertEqual(2, len(waiting))
        connections[0].ending = Ending(Cause.CLOSED)
        for number in range(5):
            waiting[number].callback(NO)
            self.clock.advance(0)
        self.assertEqual(4, len(self.successResultOf(done)))
