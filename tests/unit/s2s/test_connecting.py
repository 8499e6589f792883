"""Tests of attempts to open a stream: races within a priority, the steps after a failure, and its report."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import AlreadyCalledError, CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.outbound_stream import StreamUnavailable
from s2sgw.net.dialing import Build, DialFailed
from s2sgw.net.discovery import Target
from s2sgw.net.happy_eyeballs import ATTEMPT_DELAY
from s2sgw.policy.model import PeerPolicy
from s2sgw.s2s.connecting import ADDRESSES, PATIENCE, RETIRE_SECONDS, ConnectServices, InitiatedStream, open_stream
from s2sgw.s2s.destinations import Destinations
from s2sgw.s2s.extensions import ERROR_SECONDS, LOSS_SECONDS, ExtensionMemory
from s2sgw.s2s.initiated_streams import InitiatedStreams
from s2sgw.s2s.priority_attempts import PRIORITY_DELAY
from s2sgw.s2s.stream_limits import RETRY_SECONDS, StreamLimit, StreamPlace
from s2sgw.s2s.stream_outcomes import StreamOutcomes
from s2sgw.stream.events import Acknowledged, JudgementNeeded, Permission
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.fakes import Connections, FixedRandom, Recorder
from tests.unit.delivery.test_agent import FakeConnection, FakeSide

PAIR = Pair(Domain.parse("here.example"), Domain.parse("there.example"))


def target(name: str, *addresses: str, priority: int = 0) -> Target:
    return Target(f"{name}.there.example", 5269, addresses, priority)


class Side(FakeSide):
    """A leg whose connections are completed by the test."""

    def __init__(self, *targets: Target) -> None:
        super().__init__()
        self.targets = targets
        self.dialled: list[str] = []
        self.ways: dict[str, tuple[Build, Deferred[None]]] = {}
        self.cancelled: list[str] = []

    def dial(self, address: str, port: int, build: Build) -> Deferred[None]:
        self.dialled.append(address)
        attempt: Deferred[None] = Deferred(lambda _: self.cancelled.append(address))
        self.ways[address] = (build, attempt)
        return attempt

    def connect(self, address: str) -> None:
        build, attempt = self.ways[address]
        assert build() is not None
        attempt.callback(None)

    def fail(self, address: str, cause: Cause = Cause.CONNECTION_REFUSED) -> None:
        self.ways[address][1].errback(DialFailed(Ending(cause, address), address))


class Attempts(SynchronousTestCase):
    """Base class for attempts over connections in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.connections: list[FakeConnection] = []
        self.steps: list[str] = []
        self.destinations = Destinations(self.clock, FixedRandom())
        self.extensions = ExtensionMemory(self.clock)

    def open(self, *targets: Target, verifying: bool = False) -> Deferred[InitiatedStream]:
        self.side = Side(*targets)
        connect_services = ConnectServices(Connections(self._connection), self.clock, self.destinations, self.extensions, self)
        return Deferred.fromCoroutine(open_stream(self.side, PAIR, connect_services, verifying))  # type: ignore[arg-type]

    def took(self, step: str, seconds: float) -> None:
        self.steps.append(step)

    def _connection(self, engine: Any, owner: Any) -> FakeConnection:
        self.connections.append(FakeConnection(owner))
        return self.connections[-1]

    def refused(self, opening: Deferred[InitiatedStream]) -> Ending:
        ending: Ending = self.failureResultOf(opening, StreamUnavailable).value.ending
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return ending


class OpeningTests(Attempts):
    """R36: tests of the choice among targets and addresses."""

    def test_silent_address_costs_a_quarter_of_a_second(self) -> None:
        """R36: if an address does not answer, the next one is tried too. The stream is opened only where a server answered."""
        opening = self.open(target("a", "2001:db8::1", "192.0.2.1"))
        self.assertEqual(self.side.dialled, ["2001:db8::1"])
        self.clock.advance(ATTEMPT_DELAY)
        self.side.connect("192.0.2.1")
        self.assertEqual((self.side.cancelled, len(self.connections)), (["2001:db8::1"], 1))
        self.connections[0].prove()
        self.assertEqual(self.successResultOf(opening).target.host, "a.there.example")
        self.assertEqual((self.steps, self.clock.getDelayedCalls()), (["dns", "tcp", "auth", "total"], []))

    def test_by_name(self) -> None:
        """A proxy may be given a host's name instead of its addresses, and is asked once."""
        opening = self.open(target("a", "2001:db8::1", "192.0.2.1"))
        opening.addErrback(lambda _: None).cancel()
        self.side = side = Side(target("a", "2001:db8::1", "192.0.2.1"))
        side.dial_targets = lambda pair, targets: [replace(each, addresses=(each.host,)) for each in targets]  # type: ignore[method-assign]
        services = ConnectServices(Connections(self._connection), self.clock, self.destinations, self.extensions, self)
        opening = Deferred.fromCoroutine(open_stream(side, PAIR, services, False))  # type: ignore[arg-type]
        self.clock.advance(ATTEMPT_DELAY)
        self.assertEqual(side.dialled, ["a.there.example"])
        side.connect("a.there.example")
        self.connections[-1].prove()
        self.assertEqual(self.successResultOf(opening).target.host, "a.there.example")

    def test_races_stay_within_a_priority(self) -> None:
        """R36: a target of lower priority waits until those before it have failed, and is then tried at once."""
        opening = self.open(target("a", "192.0.2.1", priority=1), target("b", "192.0.2.2", priority=2))
        self.clock.advance(1)
        self.assertEqual(self.side.dialled, ["192.0.2.1"])
        self.side.fail("192.0.2.1")
        self.assertEqual(self.side.dialled, ["192.0.2.1", "192.0.2.2"])
        self.side.connect("192.0.2.2")
        self.connections[0].prove()
        self.assertEqual(self.successResultOf(opening).target.host, "b.there.example")

    def test_the_next_when_the_negotiation_fails(self) -> None:
        """R36: if TLS or the negotiation fails, the other addresses of the race are tried, including those that did not answer first."""
        opening = self.open(target("a", "2001:db8::1", "192.0.2.1"), target("b", "192.0.2.2", priority=1))
        self.clock.advance(ATTEMPT_DELAY)
        self.side.connect("192.0.2.1")
        self.connections[0].close(Ending(Cause.TLS_FAILED, by="network"))
        self.assertEqual(self.side.dialled, ["2001:db8::1", "192.0.2.1", "2001:db8::1"])
        self.side.connect("2001:db8::1")
        self.connections[1].close(Ending(Cause.NEGOTIATION_TIMEOUT))
        self.side.connect("192.0.2.2")
        self.connections[2].prove()
        self.assertEqual(self.successResultOf(opening).target.host, "b.there.example")

    def test_all_failed_is_known_at_once(self) -> None:
        """R36: if every address has refused, the attempt fails without a time-out and names each of them."""
        opening = self.open(target("a", "192.0.2.1", "192.0.2.2"))
        self.side.fail("192.0.2.1")
        self.side.fail("192.0.2.2", Cause.UNREACHABLE)
        ending = self.refused(opening)
        self.assertEqual((ending.cause, ending.detail), (Cause.CONNECTION_REFUSED, "connection-refused: 192.0.2.1; unreachable: 192.0.2.2"))
        self.assertEqual(self.clock.seconds(), 0)

    def test_the_best_cause(self) -> None:
        """A server's own answer is a better cause than an unreachable address."""
        opening = self.open(target("a", "192.0.2.1"), target("b", "192.0.2.2", priority=1))
        self.side.connect("192.0.2.1")
        self.connections[0].close(Ending(Cause.EXPIRED))
        self.side.fail("192.0.2.2")
        self.assertEqual(self.refused(opening).cause, Cause.EXPIRED)

    def test_no_address(self) -> None:
        """A resolution without addresses fails."""
        self.assertEqual(self.refused(self.open(target("a"))).cause, Cause.UNREACHABLE)

    def test_patience(self) -> None:
        """The whole attempt is bounded: after its time no further address is tried."""
        opening = self.open(target("a", "192.0.2.1", "192.0.2.2"))
        self.side.connect("192.0.2.1")
        self.clock.advance(PATIENCE)
        self.connections[0].close(Ending(Cause.NEGOTIATION_TIMEOUT))
        self.assertEqual(self.refused(opening).cause, Cause.NEGOTIATION_TIMEOUT)
        self.assertEqual(self.side.dialled, ["192.0.2.1"])

    def test_targets_that_answer_nothing(self) -> None:
        """If a target accepts no connection, or stalls in TLS, the next priority is tried beside it after some seconds.

        The first stream wins. The record names the others.
        """
        told: list[tuple[Any, ...]] = []
        record: Any = SimpleNamespace(refused=lambda *facts: told.append(facts))
        services = ConnectServices(Connections(self._connection), self.clock, self.destinations, self.extensions, self, record=record)
        self.side = Side(*(target(name, f"192.0.2.{number}", priority=number) for number, name in enumerate("abcd", 1)))
        opening = Deferred.fromCoroutine(open_stream(self.side, PAIR, services))  # type: ignore[arg-type]
        self.side.fail("192.0.2.1")
        self.clock.advance(PRIORITY_DELAY)
        self.side.connect("192.0.2.3")
        self.clock.advance(PRIORITY_DELAY)
        self.side.connect("192.0.2.4")
        self.connections[1].prove()
        self.assertIs(self.successResultOf(opening).connection, self.connections[1])
        self.assertEqual((self.side.cancelled, self.connections[0].ending), (["192.0.2.2"], Ending(Cause.CLOSED)))
        peer, local = str(PAIR.recipient), str(PAIR.sender)
        self.assertEqual({facts[:3] for facts in told}, {("outbound", "federation", (peer, local))})
        self.assertEqual({(address, ending.cause, ending.by) for *_, address, ending, _ in told}, {
            ("192.0.2.1", Cause.CONNECTION_REFUSED, "us"), ("192.0.2.2", Cause.CONNECTION_TIMEOUT, "network"),
            ("192.0.2.3", Cause.NEGOTIATION_TIMEOUT, "us"),
        })
        self.assertIn("192.0.2.2:5269: no stream within 10 seconds, and another target has one", [facts[4].detail for facts in told])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_record_of_a_verification(self) -> None:
        """Targets that failed have no record where a stream to our own server, or one that only verifies a key, is opened."""
        for leg, verifying in (("federation", True), ("backend", False), ("federation", False)):
            self.setUp()
            told: list[Any] = []
            record: Any = SimpleNamespace(refused=lambda *facts: told.append(facts))  # noqa: B023
            services = ConnectServices(Connections(self._connection), self.clock, self.destinations, self.extensions, self, record=record)
            self.side = Side(target("a", "192.0.2.1"), target("b", "192.0.2.2", priority=1))
            self.patch(self.side, "leg", leg)
            opening = Deferred.fromCoroutine(open_stream(self.side, PAIR, services, verifying))  # type: ignore[arg-type]
            self.side.fail("192.0.2.1")
            self.side.connect("192.0.2.2")
            self.connections[-1].owner._ready("EXTERNAL")
            self.successResultOf(opening)
            self.assertEqual(int(leg == "federation" and not verifying), len(told), (leg, verifying))

    def test_addresses_of_all_priorities(self) -> None:
        """The addresses of an attempt are bounded for all priorities together."""
        opening = self.open(*(target(name, *(f"192.0.2.{10 * number + each}" for each in range(5)), priority=number) for number, name in enumerate("abcd")))
        for _ in range(100):
            for address in list(self.side.ways):
                with contextlib.suppress(AlreadyCalledError):
                    self.side.fail(address)
            self.clock.advance(ATTEMPT_DELAY)
        self.assertEqual(ADDRESSES, len(self.side.dialled))
        self.refused(opening)

    def test_a_backup_in_time(self) -> None:
        """A target that was given up before it had its seconds has no record: nothing is known to be wrong with it."""
        told: list[tuple[Any, ...]] = []
        record: Any = SimpleNamespace(refused=lambda *facts: told.append(facts))
        services = ConnectServices(Connections(self._connection), self.clock, self.destinations, self.extensions, self, record=record)
        self.side = Side(target("a", "192.0.2.1"), target("b", "192.0.2.2", priority=1))
        opening = Deferred.fromCoroutine(open_stream(self.side, PAIR, services))  # type: ignore[arg-type]
        self.side.connect("192.0.2.1")
        self.clock.advance(PRIORITY_DELAY)
        self.side.connect("192.0.2.2")
        self.connections[0].prove()
        self.assertIs(self.successResultOf(opening).connection, self.connections[0])
        self.assertEqual([], told)

    def test_a_slow_server(self) -> None:
        """A server that is slow is not given up for the next priority: it wins if its stream is the first."""
        opening = self.open(target("a", "192.0.2.1"), target("b", "192.0.2.2", priority=1))
        self.side.connect("192.0.2.1")
        self.clock.advance(2 * PRIORITY_DELAY)
        self.side.connect("192.0.2.2")
        self.connections[0].prove()
        self.assertEqual(self.successResultOf(opening).target.host, "a.there.example")
        self.assertIsNotNone(self.connections[1].ending)

    def test_resumed_on_one_stream(self) -> None:
        """An attempt to resume a stream tries one priority at a time: two streams must not resume the same one."""
        self.side = Side(target("a", "192.0.2.1"), target("b", "192.0.2.2", priority=1))
        services = ConnectServices(Connections(self._connection), self.clock, self.destinations, self.extensions, self)
        broken: Any = SimpleNamespace()
        Deferred.fromCoroutine(open_stream(self.side, PAIR, services, broken=broken))  # type: ignore[arg-type]
        self.clock.advance(2 * PRIORITY_DELAY)
        self.assertEqual(self.side.dialled, ["192.0.2.1"])

    def test_cut_off_between_claim_and_connection(self) -> None:
        """If a connection is lost before its attempt owns it, no event is reported and the race continues."""
        opening = self.open(target("a", "192.0.2.1", "192.0.2.2"))
        build, attempt = self.side.ways["192.0.2.1"]
        build()
        self.connections[0].close(Ending(Cause.CONNECTION_LOST))
        attempt.errback(DialFailed(Ending(Cause.CONNECTION_LOST)))
        self.side.connect("192.0.2.2")
        self.connections[1].prove()
        self.assertIs(self.successResultOf(opening).connection, self.connections[1])

    def test_direct_tls_that_breaks(self) -> None:
        """XEP-0368: if direct TLS fails and STARTTLS does not, direct TLS is not used from then on if there is an alternative."""
        direct, plain = replace(target("a", "192.0.2.1"), direct_tls=True), target("b", "192.0.2.2", priority=1)
        opening = self.open(direct, plain)
        self.side.connect("192.0.2.1")
        self.connections[0].close(Ending(Cause.TLS_FAILED, by="network"))
        self.side.connect("192.0.2.2")
        self.connections[1].prove()
        self.successResultOf(opening)
        self.assertFalse(self.extensions.usable("there.example", "direct-tls"))
        self.open(direct, plain)
        self.assertEqual(self.side.dialled, ["192.0.2.2"])
        self.open(direct)
        self.assertEqual(self.side.dialled, ["192.0.2.1"])

    def test_backing_off(self) -> None:
        """A server that failed a moment ago is not contacted for another queue: that gets the same cause and the time of the next attempt."""
        opening = self.open(target("a", "192.0.2.1"))
        self.side.fail("192.0.2.1")
        first = self.failureResultOf(opening, StreamUnavailable).value
        again = self.failureResultOf(self.open(target("a", "192.0.2.1")), StreamUnavailable).value
        self.assertEqual((first.retry, first.repeated, again.retry, again.repeated), (2.0, False, 2.0, True))
        self.assertEqual((again.ending, self.side.dialled), (first.ending, []))

    def test_verifying_asks_all_the_same(self) -> None:
        """A verification for a stranger connects all the same. Its failure does not count for the queues' server."""
        self.destinations.failed("there.example", Ending(Cause.CONNECTION_REFUSED))
        opening = self.open(target("a", "192.0.2.1"), verifying=True)
        self.assertEqual(self.side.dialled, ["192.0.2.1"])
        self.side.fail("192.0.2.1")
        self.assertIsNone(self.failureResultOf(opening, StreamUnavailable).value.retry)

    def test_missed(self) -> None:
        """An unreachable server is reported to rediscovery with its addresses. A failed verification is not."""
        missed = Recorder()
        connect_services = ConnectServices(Connections(self._connection), self.clock, self.destinations, self.extensions, watcher=missed)
        for verifying in (True, False):
            side = Side(target("a", "192.0.2.1"))
            opening = Deferred.fromCoroutine(open_stream(side, PAIR, connect_services, verifying))  # type: ignore[arg-type]
            side.fail("192.0.2.1")
            self.failureResultOf(opening, StreamUnavailable)
        ((pair, known),) = missed.calls
        self.assertEqual((pair, known.targets), (PAIR, (target("a", "192.0.2.1"),)))

    def test_limit_of_streams(self) -> None:
        """A peer has at most `limits.streams` streams, including those being opened. A stream that verifies a key does not count."""
        side = Side(target("a", "192.0.2.1"))
        side.most = 1
        connect_services = ConnectServices(Connections(self._connection), self.clock, self.destinations, self.extensions)
        first, second, verifying = (
            Deferred.fromCoroutine(open_stream(side, PAIR, connect_services, verifying)) for verifying in (False, False, True)  # type: ignore[arg-type]
        )
        refused = self.failureResultOf(second, StreamUnavailable).value
        self.assertEqual((refused.ending.cause, refused.retry, refused.repeated), (Cause.TOO_MANY_STREAMS, RETRY_SECONDS, True))
        self.assertEqual(len(side.dialled), 2)
        for opening in (first, verifying):
            opening.cancel()
            self.failureResultOf(opening, CancelledError)

    def full(self) -> tuple[Side, StreamLimit, ConnectServices, StreamPlace]:
        """Return a server, room for one stream, the services with that room, and the place in it, which another owner has taken."""
        side, room = Side(target("a", "192.0.2.1")), StreamLimit(self.clock, 1)
        services = ConnectServices(Connections(self._connection), self.clock, self.destinations, self.extensions, self, room=room)
        place = room.turn(("domain", "other.example"), 0)
        assert place is not None
        self.assertTrue(place.take())
        return side, room, services, place

    def test_place_lost(self) -> None:
        """If the place is gone when the handshake's turn comes, the attempt waits for another place and gives up its slot."""
        side, room = Side(target("a", "192.0.2.1")), StreamLimit(self.clock, 1)
        connect_services = ConnectServices(Connections(self._connection), self.clock, self.destinations, self.extensions, room=room)
        busy = [self.destinations.attempt("there.example", owner=number) for number in range(4)]
        for each in busy:
            self.successResultOf(Deferred.fromCoroutine(each.__aenter__()))
        opening = Deferred.fromCoroutine(open_stream(side, PAIR, connect_services))  # type: ignore[arg-type]
        place = room.turn(("domain", "other.example"), 0)
        assert place is not None
        self.assertTrue(place.take())
        later = room.wait(("domain", "third.example"), 0)
        for each in busy:
            self.successResultOf(Deferred.fromCoroutine(each.__aexit__(None, None, None)))
        self.assertEqual((side.dialled, len(room), self.destinations.counts()["outbound"]), ([], 2, (0, 0)))
        place.end()
        self.assertEqual((side.dialled, later.called), (["192.0.2.1"], False))
        opening.cancel()
        self.failureResultOf(opening, CancelledError)
        self.assertEqual((room._total, dict(room._held)), (0, {}))

    def test_long_wait_for_a_place(self) -> None:
        """The time for an attempt begins when it has a place: after a long wait it still connects."""
        side, _, services, place = self.full()
        opening = Deferred.fromCoroutine(open_stream(side, PAIR, services))  # type: ignore[arg-type]
        self.clock.advance(PATIENCE + 1)
        place.end()
        self.assertEqual((side.dialled, self.steps), (["192.0.2.1"], ["dns"]))
        opening.cancel()
        self.failureResultOf(opening, CancelledError)

    def test_back_off_before_a_place(self) -> None:
        """No stream gives way to an attempt that the back-off of its server ends, at its beginning or after it waited."""
        side, room, services, other = self.full()
        waiting = Deferred.fromCoroutine(open_stream(side, PAIR, services))  # type: ignore[arg-type]
        self.destinations.failed("there.example", Ending(Cause.CONNECTION_REFUSED))
        turns: list[object] = []
        self.patch(room, "turn", lambda *args: turns.append(args))
        other.end()
        for opening in (waiting, Deferred.fromCoroutine(open_stream(side, PAIR, services))):  # type: ignore[arg-type]
            refused = self.failureResultOf(opening, StreamUnavailable).value
            self.assertEqual((refused.ending.cause, refused.repeated), (Cause.CONNECTION_REFUSED, True))
        self.assertEqual((turns, len(room), side.dialled), ([], 0, []))

    def test_back_off_after_a_wait(self) -> None:
        """If the back-off of its server ends an attempt that was released for a free place, another one gets the place at once."""
        side, room, services, other = self.full()
        waiting = Deferred.fromCoroutine(open_stream(side, PAIR, services))  # type: ignore[arg-type]
        later = room.wait(("domain", "third.example"), 0)
        self.destinations.failed("there.example", Ending(Cause.CONNECTION_REFUSED))
        other.end()
        self.failureResultOf(waiting, StreamUnavailable)
        self.assertEqual((later.called, len(room), side.dialled), (True, 0, []))

    def test_place_of_a_failure(self) -> None:
        """An attempt that fails releases its place."""
        side, room = Side(target("a", "192.0.2.1")), StreamLimit(self.clock, 1)
        connect_services = ConnectServices(Connections(self._connection), self.clock, self.destinations, self.extensions, room=room)
        opening = Deferred.fromCoroutine(open_stream(side, PAIR, connect_services))  # type: ignore[arg-type]
        self.assertEqual(room._total, 1)
        side.fail("192.0.2.1")
        self.failureResultOf(opening, StreamUnavailable)
        self.assertEqual(room._total, 0)

    def test_retired(self) -> None:
        """A retired stream accepts no more stanzas, and closes when those in flight are acknowledged."""
        for busy, seconds in ((False, 0.0), (True, 0.3), (True, RETIRE_SECONDS + 1)):
            opening = self.open(target("a", "192.0.2.1"))
            self.side.connect("192.0.2.1")
            connection = self.connections[-1]
            connection.prove()
            stream = self.successResultOf(opening)
            stream.part.user = user = cast(Any, SimpleNamespace(busy=busy, alone=False, stream_lost=lambda ending: None))
            for _ in range(2):
                stream.retire(Ending(Cause.IDLE))
            self.assertEqual((connection.retiring, connection.ending is None, stream.shared_stream.takes_user()), (True, busy, False))
            self.clock.pump([0.1] * round(seconds * 10 + 1))
            if seconds < RETIRE_SECONDS:
                user.busy = False
                self.clock.advance(0.1)
            self.assertEqual(connection.ending, Ending(Cause.IDLE))
            self.clock.advance(1)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_negotiation_that_ends(self) -> None:
        """A stream whose connection is lost before it is ready is forgotten."""
        opening, _, initiated = self.negotiating()
        self.connections[0].close(Ending(Cause.CONNECTION_LOST, by="network"))
        self.refused(opening)
        self.assertEqual({}, initiated._negotiated)

    def negotiating(self) -> tuple[Deferred[InitiatedStream], InitiatedStream, InitiatedStreams]:
        """Return an attempt whose peer was judged, its stream, and the streams of ours."""
        self.side, initiated = Side(target("a", "192.0.2.1")), InitiatedStreams()
        self.side.judged_by = "the policy of before"
        services = ConnectServices(Connections(self._connection), self.clock, self.destinations, self.extensions, initiated=initiated)
        opening = Deferred.fromCoroutine(open_stream(self.side, PAIR, services))  # type: ignore[arg-type]
        self.side.connect("192.0.2.1")
        stream: InitiatedStream = self.connections[-1].owner
        self.assertEqual([], initiated.negotiated)
        stream.event(stream.connection, JudgementNeeded(PAIR.recipient, PAIR.sender, True))
        self.assertEqual([stream], initiated.negotiated)
        return opening, stream, initiated

    def test_policy_changed(self) -> None:
        """A peer that was judged by a policy that is in force no more gets no stanza: the next attempt judges it anew."""
        opening, _, initiated = self.negotiating()
        self.side.judged_by = "the policy of now"
        self.connections[0].prove()
        self.assertEqual(Cause.RECONFIGURED, self.refused(opening).cause)
        self.assertEqual([], initiated.negotiated)

    def test_policy_changed_and_judged(self) -> None:
        """A peer that was judged again by the changed policy goes on."""
        opening, stream, initiated = self.negotiating()
        stream.judged_by = self.side.judged_by = "the policy of now"
        self.connections[0].prove()
        self.assertIs(stream, self.successResultOf(opening))
        self.assertEqual([], initiated.negotiated)

    def test_policy_of_stanzas_changed(self) -> None:
        """A change that concerns stanzas only, such as their hold time, is none for a peer that was judged."""
        opening, stream, _ = self.negotiating()
        stream.judged_by, self.side.judged_by = PeerPolicy(), PeerPolicy(hold=1.0, kinds=("message",), objects=("peer.example",))
        self.connections[0].prove()
        self.assertIs(stream, self.successResultOf(opening))
        opening, stream, _ = self.negotiating()
        stream.judged_by, self.side.judged_by = PeerPolicy(), PeerPolicy(proofs=("pin",))
        self.connections[-1].prove()
        self.assertEqual(Cause.RECONFIGURED, self.refused(opening).cause)

    def test_policy_changed_while_judged(self) -> None:
        """R12: a peer whose policy changes while it is judged is judged again."""
        opening, judged = self.open(target("a", "192.0.2.1")), []

        async def judge(connection: Any, question: Any, target: Any) -> tuple[Permission, tuple[str, ...]]:
            judged.append(self.side.judged_by)
            self.assertTrue(self.connections[0].owner.judging)
            self.side.judged_by = "the policy of now"
            return Permission(), ()

        self.side.judge = judge  # type: ignore[method-assign]
        self.side.connect("192.0.2.1")
        self.connections[0].owner.event(self.connections[0], JudgementNeeded(PAIR.recipient, PAIR.sender, True))
        self.connections[0].prove()
        self.successResultOf(opening)
        self.assertEqual([None, "the policy of now"], judged)
        self.assertFalse(self.connections[0].owner.judging)

    def test_cancelled(self) -> None:
        """A cancelled attempt ends its race, or the stream that won it, and tries no other address."""
        racing = self.open(target("a", "192.0.2.1"))
        racing.cancel()
        self.failureResultOf(racing, CancelledError)
        self.assertEqual(self.side.cancelled, ["192.0.2.1"])
        negotiating = self.open(target("a", "192.0.2.1", "192.0.2.2"))
        self.side.connect("192.0.2.1")
        negotiating.cancel()
        self.failureResultOf(negotiating, CancelledError)
        self.assertIsNotNone(self.connections[0].ending)
        self.assertEqual(self.side.dialled, ["192.0.2.1"])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class TrialTests(Attempts):
    """Tests of the search for an extension that breaks a peer: the next stream does not use it."""

    def ready(self, managed: bool = True) -> FakeConnection:
        opening = self.open(target("a", "192.0.2.1"))
        self.side.managed = managed
        self.side.connect("192.0.2.1")
        self.connections[-1].prove()
        self.successResultOf(opening)
        return self.connections[-1]

    def test_party(self) -> None:
        """A stream shares turns with the others of the peer's registered domain. Those to our own server are of no party."""
        for leg, party in (("federation", "there.example"), ("backend", "")):
            self.patch(Side, "leg", leg)
            self.assertEqual(self.ready().party, party)

    def broken(self, managed: bool = True) -> None:
        self.ready(managed).close(Ending(Cause.STREAM_ERROR, by="them", condition="unsupported-stanza-type"))

    @property
    def bears(self) -> bool:
        return self.extensions.usable("there.example", "management")

    def test_disabled(self) -> None:
        """If a stream breaks early with an extension, and the next one lives without it, the extension is disabled for a day."""
        self.broken()
        self.assertFalse(self.bears)
        self.ready(managed=False)
        self.clock.advance(ERROR_SECONDS)
        self.assertEqual(list(self.extensions.disabled()), [("there.example", ("management",))])
        self.clock.advance(3600)
        self.assertFalse(self.bears)

    def test_end_without_an_error(self) -> None:
        """An extension is also found if the server breaks the connection at once, or closes in order, without a stream error."""
        for ending in (Ending(Cause.CONNECTION_LOST, by="them"), Ending(Cause.CLOSED, by="them")):
            self.ready().close(ending)
            self.assertFalse(self.bears)
            self.extensions.clear("there.example")

    def test_before_it_is_ready(self) -> None:
        """`<bidi/>` precedes authentication: a peer that fails on it never completes a stream."""
        opening = self.open(target("a", "192.0.2.1"))
        self.side.connect("192.0.2.1")
        self.connections[0].owner.engine.bidi = True
        self.connections[0].close(Ending(Cause.STREAM_ERROR, by="them", condition="unsupported-stanza-type"))
        self.failureResultOf(opening, StreamUnavailable)
        self.assertFalse(self.extensions.usable("there.example", "bidi"))
        self.assertTrue(self.bears)

    def test_lost_during_the_negotiation(self) -> None:
        """An extension is also found if the peer ends the connection during the negotiation without an error."""
        opening = self.open(target("a", "192.0.2.1"))
        self.side.connect("192.0.2.1")
        self.connections[0].owner.engine.bidi = True
        self.connections[0].close(Ending(Cause.CONNECTION_LOST, by="network"))
        self.failureResultOf(opening, StreamUnavailable)
        self.assertFalse(self.extensions.usable("there.example", "bidi"))

    def acknowledged(self, stream: FakeConnection, bidi: bool) -> tuple[bool, bool]:
        """Suspect bidi elsewhere and acknowledge on `stream`; return whether bidi may be used, and whether a suspicion remains."""
        self.extensions.suspect("there.example", "bidi", Ending(Cause.CONNECTION_LOST, by="network"))
        stream.owner.engine.bidi = bidi
        stream.owner.engine.sent = lambda number: True
        stream.owner.part.count_sent(1)
        stream.owner.event(stream, Acknowledged(1))
        return self.extensions.usable("there.example", "bidi"), self.extensions.suspects("there.example")

    def test_trial_acknowledges(self) -> None:
        """A trial stream that acknowledges has lived: the suspect is disabled and reported at once."""
        self.assertEqual(self.acknowledged(self.ready(), bidi=False), (False, False))
        self.assertEqual(list(self.extensions.disabled()), [("there.example", ("bidi",))])

    def test_suspected_elsewhere(self) -> None:
        """A stream that uses the suspected extension and works clears it."""
        self.assertEqual(self.acknowledged(self.ready(), bidi=True), (True, False))

    def test_answered(self) -> None:
        """After the answer to `<enable/>` an error about content concerns a stanza. Any other error still makes the extension suspect."""
        for condition, bears in (("bad-format", True), ("internal-server-error", False)):
            stream = self.ready()
            stream.owner.engine.enabling = False
            stream.close(Ending(Cause.STREAM_ERROR, by="them", condition=condition))
            self.assertEqual(self.bears, bears)

    def test_cleared(self) -> None:
        """If the stream without the extension breaks too, the extension is cleared."""
        self.broken()
        self.broken(managed=False)
        self.assertTrue(self.bears)

    def test_not_suspected(self) -> None:
        """No suspicion follows the end of a stream that lived, that acknowledged, that we ended, or that used no extension."""
        self.broken(managed=False)
        old = self.ready()
        self.clock.advance(ERROR_SECONDS)
        old.close(Ending(Cause.CONNECTION_LOST, by="network"))
        self.ready().close(Ending(Cause.UNRESPONSIVE))
        self.ready().close(Ending(Cause.STREAM_ERROR, by="them", condition="system-shutdown"))
        for ending in (Ending(Cause.CONNECTION_LOST, by="them"), Ending(Cause.CLOSED, by="them")):
            killed = self.ready()
            self.clock.advance(LOSS_SECONDS + 0.1)
            killed.close(ending)
        acknowledged = self.ready()
        acknowledged.owner.engine.sent = lambda number: True
        acknowledged.owner.part.count_sent(1)
        acknowledged.owner.event(acknowledged, Acknowledged(1))
        acknowledged.close(Ending(Cause.CONNECTION_LOST, by="network"))
        self.assertTrue(self.bears)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RefusalTests(Attempts):
    """Tests of a ready stream of ours that we end because of what the other side sent on it."""

    def after(self, *endings: Ending) -> list[tuple[object, ...]]:
        """Return the records after streams ended with these endings."""
        refused: list[tuple[object, ...]] = []
        record: Any = SimpleNamespace(refused=lambda *facts: refused.append(facts))
        for ending in endings:
            services = ConnectServices(Connections(self._connection), self.clock, self.destinations, self.extensions, record=record)
            self.side = Side(target("a", "192.0.2.1"))
            opening = Deferred.fromCoroutine(open_stream(self.side, PAIR, services, False))  # type: ignore[arg-type]
            self.side.connect("192.0.2.1")
            self.connections[-1].prove()
            self.successResultOf(opening)
            self.connections[-1].close(ending)
        return refused

    def test_recorded(self) -> None:
        """The refusal is recorded once, with pair, address and ending."""
        ending = Ending(Cause.INVALID_FROM, "from elsewhere.example", condition="invalid-from")
        peer, local = str(PAIR.recipient), str(PAIR.sender)
        refused = self.after(ending)
        self.assertEqual([("outbound", "federation", (peer, local), self.connections[-1].peer_address, ending)], refused)

    def test_direction(self) -> None:
        """The end of a stream of ours is told as one of ours."""
        told: list[str] = []
        self.patch(StreamOutcomes, "closed", lambda outcomes, direction: told.append(direction))
        self.after(Ending(Cause.CLOSED))
        self.assertEqual(["outbound"], told)

    def test_own_server(self) -> None:
        """On the backend leg the server is at fault, as in an attempt."""
        self.patch(StreamOutcomes, "attribute", lambda outcomes, ending: Ending(Cause.BACKEND_FAILED, ending.detail))
        ((*_, told),) = self.after(Ending(Cause.BAD_XML, "text"))
        self.assertEqual(Ending(Cause.BACKEND_FAILED, "text"), told)

    def test_not_recorded(self) -> None:
        """An orderly close, a lost connection and an error of the other side are not refusals by us."""
        self.assertEqual([], self.after(
            Ending(Cause.SHUTDOWN), Ending(Cause.CLOSED, by="them"), Ending(Cause.CONNECTION_LOST, by="network"),
            Ending(Cause.STREAM_ERROR, by="them", condition="reset"),
        ))
