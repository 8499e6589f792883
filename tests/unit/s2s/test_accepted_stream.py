"""Tests of the owner of an accepted stream, and of what it reports to its connection's admission."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting.record import EventRecord
from s2sgw.s2s.accepted_stream import RECORDS, REFUSED_SECONDS, AcceptedStream
from s2sgw.s2s.resumption_table import ResumptionTable
from s2sgw.s2s.stream_outcomes import StreamOutcomes
from s2sgw.stream.events import (
    DialbackNeeded,
    DialbackOutcome,
    Event,
    JudgementNeeded,
    PairProven,
    PairRefused,
    Permission,
    Refusal,
    ResolutionNeeded,
)
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain, Pair

PEER, HERE = Domain.parse("peer.example"), Domain.parse("here.example")
SILENT = Ending(Cause.NEGOTIATION_TIMEOUT)


class AdmissionTests(SynchronousTestCase):
    """An unproven stream claims a name, and has priority while its negotiation makes progress."""

    def setUp(self) -> None:
        self.answer: Deferred[None] = Deferred()

        async def resolve(connection: object, event: object) -> None:
            await self.answer

        side: Any = SimpleNamespace(
            outcomes=StreamOutcomes(),
            leg="federation", resolve=resolve, excess=lambda connection, pair: None, policy=lambda peer: None, proven=Mock(),
        )
        self.admitted, self.engine, self.connection = Mock(), Mock(resumption=None), Mock()
        self.services = Mock(clock=Clock())
        self.stream = AcceptedStream(side, self.engine, self.services, Mock(), self.admitted)
        self.stream.connected(self.connection)

    def test_claimed(self) -> None:
        """The name of the header is a claim."""
        self.stream.event(self.connection, ResolutionNeeded(PEER, HERE))
        self.assertEqual([call.claim("peer.example")], self.admitted.mock_calls)

    def test_answered(self) -> None:
        """An answer is progress of the negotiation."""
        self.stream.event(self.connection, ResolutionNeeded(PEER, HERE))
        self.answer.callback(None)
        self.assertEqual(call.advance(), self.admitted.mock_calls[-1])
        self.connection.step.assert_called_once_with(self.engine.resolved, None)

    def test_answered_too_late(self) -> None:
        """An answer for a stream that has ended has no effect."""
        self.stream.event(self.connection, ResolutionNeeded(PEER, HERE))
        self.stream.ended(self.connection, Ending(Cause.CLOSED))
        self.admitted.advance.assert_not_called()
        self.connection.step.assert_not_called()

    def test_ended(self) -> None:
        """Users that send stanzas back lose the stream before its last stanzas are passed on, so no answer to those is written there."""
        self.engine.claimed, self.engine.sasl_failure, order = (None, None), None, Mock()
        self.stream.incoming, self.stream.shared_stream = order.incoming, order.shared_stream
        ending = Ending(Cause.CONNECTION_LOST)
        self.stream.ended(self.connection, ending)
        self.assertEqual([call.shared_stream.lost(ending), call.incoming.close(ending)], order.mock_calls)

    def test_broken_off(self) -> None:
        """XEP-0198 §5: the same holds if the stream can be resumed. The stanzas passed on are counted."""
        order, resumption = Mock(), Mock(seconds=60)
        table = ResumptionTable(Clock(), Mock())
        order.shared_stream.suspend.return_value = False
        owner = Mock(incoming=order.incoming, shared_stream=order.shared_stream, leg="federation", pairs=frozenset(), senders={PEER})
        ending = Ending(Cause.CONNECTION_LOST)
        self.assertTrue(table.keep(resumption, owner, ending))
        self.assertEqual(
            [call.incoming.suspend(resumption.counters), call.shared_stream.suspend(ending), call.incoming.pass_on()], order.mock_calls,
        )

    def test_abandoned(self) -> None:
        """Another node has the pairs: the connection is aborted, and the stream is not kept although it could be resumed."""
        self.engine.claimed, self.engine.sasl_failure = (PEER, HERE), None
        self.engine.resumption, self.engine.broken_off.return_value = Mock(id="x", seconds=60), object()
        order = Mock()
        self.stream.incoming, self.stream.shared_stream = order.incoming, order.shared_stream
        order.shared_stream.connection.abort.side_effect = lambda ending: self.stream.ended(self.connection, ending)
        ending = Ending(Cause.OTHER_NODE)
        self.stream.abandon(bool, ending)
        self.assertEqual(
            [call.incoming.abandon(bool), call.shared_stream.connection.abort(ending), call.shared_stream.lost(ending), call.incoming.close(ending)],
            order.mock_calls,
        )
        register = self.stream._register
        register.sessions.keep.assert_not_called()  # type: ignore[attr-defined]
        register.sessions.closed.assert_called_once_with("x")  # type: ignore[attr-defined]

    def test_ended_before_it_began(self) -> None:
        """A connection that breaks before its stream begins, for example if TLS fails, is recorded like any other."""
        services = Mock(clock=Clock())
        stream = AcceptedStream(self.stream.side, self.engine, services, Mock(), self.admitted)
        self.engine.claimed, self.engine.sasl_failure = (None, None), None
        stream.ended(self.connection, Ending(Cause.INTERNAL))
        services.record.refused.assert_called_once()

    def test_proven(self) -> None:
        """With its first proven pair the stream is safe from displacement."""
        self.stream.event(self.connection, PairProven(Pair(PEER, HERE), "EXTERNAL"))
        self.assertEqual([call.prove()], self.admitted.mock_calls)

    def test_proven_twice(self) -> None:
        """R35: the stream is listed among those of each proven pair, once."""
        pair = Pair(PEER, HERE)
        for _ in range(2):
            self.stream.event(self.connection, PairProven(pair, "dialback"))
        self.services.sources.add.assert_called_once_with(pair, self.connection)

    def test_reasons(self) -> None:
        """The reasons of the judgement of a peer are told with each of its proven pairs, and with those of no other peer."""
        async def judge(connection: object, question: JudgementNeeded) -> tuple[Permission, tuple[str, ...]]:
            return Permission(dialback=True), (f"{question.peer} is known",)

        self.stream.side.judge = judge  # type: ignore[method-assign]
        self.connection.step.side_effect = lambda answer, result: answer(result)
        other = Domain.parse("other.example")
        for peer in (PEER, other):
            self.stream.event(self.connection, JudgementNeeded(peer, HERE, secured=True))
        told: Mock = self.services.record.standing
        for pair in (Pair(other, HERE), Pair(PEER, HERE), Pair(PEER, Domain.parse("rooms.here.example"))):
            self.stream.event(self.connection, PairProven(pair, "dialback"))
            self.assertEqual(f"{pair.sender} is known", told.mock_calls[-1].kwargs["detail"])
        self.assertEqual([other, PEER], list(self.stream.senders))


class ChangedPolicyTests(SynchronousTestCase):
    """A pair is proven by the policy in force: if it has changed since its peer was judged, the new one decides."""

    def setUp(self) -> None:
        self.answers: list[Deferred[Any]] = []

        async def answer(*_: object) -> Any:
            self.answers.append(Deferred())
            return await self.answers[-1]

        self.policies: dict[str, str] = {}
        side: Any = SimpleNamespace(
            outcomes=StreamOutcomes(), leg="federation", excess=lambda connection, pair: None, proven=Mock(),
            policy=lambda peer: self.policies.get(peer.ascii, "first"), judge=answer, verify=answer, reconsider=answer,
        )
        self.engine = Mock(resumption=None)
        self.connection = Mock(peer_address="192.0.2.1:5269", tls_version="TLSv1.3")
        self.connection.step.side_effect = lambda answer, result: answer(result)
        self.clock = Clock()
        services = Mock(clock=self.clock, record=EventRecord(Clock(), Logger()))
        self.stream = AcceptedStream(side, self.engine, services, Mock(), Mock())
        self.stream.connected(self.connection)
        self.stream.incoming = Mock()

    def judge(self, *names: str, refusal: Any = None) -> None:
        for name in names:
            self.stream.event(self.connection, JudgementNeeded(Domain.parse(name), HERE, secured=True))
            self.answers.pop().callback((Permission(dialback=True, refusal=refusal), ()))

    def verify(self, name: str) -> Pair:
        """Ask for the verification of a key. The test answers."""
        pair = Pair(Domain.parse(name), HERE)
        self.stream.event(self.connection, DialbackNeeded(pair, "k", "s"))
        return pair

    def prove(self, name: str, method: Any = "dialback") -> bool:
        """Return whether the pair is proven."""
        pair = Pair(Domain.parse(name), HERE)
        self.stream.event(self.connection, PairProven(pair, method))
        return pair in self.stream.methods

    def test_unchanged(self) -> None:
        """Each peer is compared with its own policy, in any order, and not judged again."""
        self.policies["other.example"] = "of other.example"
        self.judge("peer.example", "other.example")
        for name in ("other.example", "peer.example"):
            pair = self.verify(name)
            self.answers.pop().callback(DialbackOutcome("valid"))
            self.engine.dialback_answered.assert_called_with(pair, DialbackOutcome("valid"))
            self.assertTrue(self.prove(name))
        self.connection.fail.assert_not_called()

    def test_during_a_judgement(self) -> None:
        """A peer whose policy changes while it is judged is judged again."""
        self.stream.event(self.connection, JudgementNeeded(PEER, HERE, secured=True))
        self.policies["peer.example"] = "second"
        self.answers.pop().callback((Permission(dialback=True), ()))
        self.engine.judged.assert_not_called()
        refused = Permission(refusal=Refusal(StreamCondition.POLICY_VIOLATION, "no", Ending(Cause.NOT_ALLOWED)))
        self.answers.pop().callback((refused, ()))
        self.engine.judged.assert_called_once_with(refused, PEER)

    def test_during_a_verification(self) -> None:
        """A peer that is denied, or whose policy is tightened, while its key is verified is refused, and not the stream."""
        for refusal in (None, Refusal(StreamCondition.POLICY_VIOLATION, "no", Ending(Cause.DENY_LISTED))):
            self.setUp()
            self.judge("peer.example", "other.example")
            self.assertTrue(self.prove("peer.example", "EXTERNAL"))
            self.verify("other.example")
            self.policies["other.example"] = "second"
            self.answers.pop().callback(DialbackOutcome("valid"))
            self.engine.dialback_answered.assert_not_called()
            self.answers.pop().callback(refusal)
            outcome = DialbackOutcome("valid") if refusal is None else DialbackOutcome("error", refusal.ending)
            self.assertEqual(outcome, self.engine.dialback_answered.call_args.args[1])
            self.connection.fail.assert_not_called()
            self.verify("other.example")
            self.answers.pop().callback(DialbackOutcome("valid"))
            again = self.engine.dialback_answered.call_args.args[1]
            self.assertEqual((outcome, []), (again, self.answers), "it asks again")

    def test_refused_for_a_while(self) -> None:
        """A peer that the new policy refused is judged again after a minute, or when the policy changes again."""
        refusal = Refusal(StreamCondition.POLICY_VIOLATION, "no", Ending(Cause.DNS_UNREACHABLE))
        for seconds, policy, judged in ((1, "second", False), (REFUSED_SECONDS, "second", True), (1, "third", True)):
            self.setUp()
            self.judge("peer.example", "other.example")
            self.assertTrue(self.prove("peer.example", "EXTERNAL"))
            self.policies["other.example"] = "second"
            for answer in (DialbackOutcome("valid"), refusal):
                if answer is not refusal:
                    self.verify("other.example")
                self.answers.pop().callback(answer)
            self.clock.advance(seconds)
            self.policies["other.example"] = policy
            self.verify("other.example")
            self.answers.pop().callback(DialbackOutcome("valid"))
            self.assertEqual(judged, bool(self.answers), (seconds, policy))
            if judged:
                self.answers.pop().callback(None)
                self.assertEqual(DialbackOutcome("valid"), self.engine.dialback_answered.call_args.args[1])

    def test_before_it_authenticates(self) -> None:
        """A peer decides when it authenticates. If its policy has changed by then, it must open a new stream."""
        self.judge("peer.example")
        self.policies["peer.example"] = "second"
        self.assertFalse(self.prove("peer.example", "EXTERNAL"))
        (refusal,) = self.connection.fail.call_args.args
        self.assertEqual((StreamCondition.RESET, Cause.RECONFIGURED), (refusal.condition, refusal.ending.cause))
        self.stream.incoming.proven.assert_not_called()  # type: ignore[attr-defined]

    def test_proven_peer(self) -> None:
        """A peer that is proven here was judged by the reload: a further pair of it needs no look, and ends no stream."""
        self.judge("peer.example")
        self.assertTrue(self.prove("peer.example", "EXTERNAL"))
        self.assertIsNone(self.stream._claims, "nothing of it is kept")
        self.policies["peer.example"] = "second"
        self.verify("peer.example")
        self.answers.pop().callback(DialbackOutcome("valid"))
        self.assertEqual(DialbackOutcome("valid"), self.engine.dialback_answered.call_args.args[1])

    def test_asked_again(self) -> None:
        """A peer whose key could not be verified asks again, without a new judgement."""
        self.judge("peer.example", "other.example")
        self.assertTrue(self.prove("peer.example"))
        for outcome in (DialbackOutcome("error", Ending(Cause.DIALBACK_ERROR)), DialbackOutcome("valid")):
            pair = self.verify("other.example")
            self.answers.pop().callback(outcome)
            self.assertEqual((pair, outcome), self.engine.dialback_answered.call_args.args)
            if outcome.ending is not None:
                self.stream.event(self.connection, PairRefused(pair, outcome.ending))
        self.assertTrue(self.prove("other.example"))

    def test_names_without_end(self) -> None:
        """Nothing is kept of refused names, and few of them are recorded."""
        self.judge("peer.example", "other.example")
        refusal = Refusal(StreamCondition.POLICY_VIOLATION, "no", Ending(Cause.NOT_ALLOWED))
        for number in range(1000):
            name = f"n{number}.example"
            self.judge(name, refusal=refusal)
            self.stream.event(self.connection, PairRefused(Pair(Domain.parse(name), HERE), refusal.ending))
        record: Any = self.stream._record
        self.assertEqual(["other.example"], [each.ascii for each in self.stream._policies or ()])
        self.assertEqual(RECORDS, sum(record.refusals.values()))


class RefusalTests(SynchronousTestCase):
    """Tests of streams that we end because of what a proven peer sent: each is a refusal of the peer."""

    def ended(self, leg: str, ending: Ending) -> tuple[list[dict[str, object]], EventRecord, list[str]]:
        """Return the refusals of both domains after a proven stream ended, their record, and the events of its log."""
        with capturedLogs() as logs:
            record = EventRecord(Clock(), Logger("test"))
            side: Any = SimpleNamespace(
                outcomes=StreamOutcomes(), leg=leg, excess=lambda connection, pair: None, policy=lambda peer: None, proven=Mock(),
            )
            engine, connection = Mock(resumption=None), Mock(peer_address="192.0.2.1:5269", tls_version="TLSv1.3")
            stream = AcceptedStream(side, engine, Mock(clock=Clock(), record=record), Mock(), Mock())
            stream.connected(connection)
            stream.incoming = Mock()
            stream.peer, stream.local = PEER, HERE
            stream.event(connection, PairProven(Pair(PEER, HERE), "EXTERNAL"))
            stream.ended(connection, ending)
        return [each.row() for each in record.list()], record, [event["event"] for event in logs if "event" in event]

    def test_refused(self) -> None:
        """The refusal is recorded, counted and logged with pair, layer, cause and address."""
        for cause in (Cause.INVALID_FROM, Cause.LIMIT_EXCEEDED, Cause.BAD_XML):
            rows, record, events = self.ended("federation", Ending(cause, "what it sent", condition=cause.value))
            (row,) = rows
            self.assertEqual(("peer.example", "here.example", "inbound", "federation"), (row["peer"], row["local"], row["direction"], row["leg"]))
            self.assertEqual(("stream", cause.value, "us", "192.0.2.1:5269"), (row["layer"], row["cause"], row["by"], row["address"]))
            self.assertEqual({("stream", cause.value, "us"): 1}, record.refusals)
            self.assertEqual(["stream proven", "stream closed", "refused"], events)

    def test_not_told(self) -> None:
        """It is recorded also if the connection ended before the stream error could be sent."""
        rows, _, _ = self.ended("federation", Ending(Cause.INVALID_FROM))
        self.assertEqual(1, len(rows))

    def test_direction(self) -> None:
        """The end of an accepted stream is told as one of the other side."""
        told: list[str] = []
        self.patch(StreamOutcomes, "closed", lambda outcomes, direction: told.append(direction))
        self.ended("backend", Ending(Cause.CLOSED))
        self.assertEqual(["inbound"], told)

    def test_own_server(self) -> None:
        """A fault of our own server is recorded for the peer of the stanza, on the backend leg. There is no letter to the peer."""
        ((row,), _, _) = self.ended("backend", Ending(Cause.BAD_XML))
        self.assertEqual(("here.example", "peer.example", "backend"), (row["peer"], row["local"], row["leg"]))

    def claims(self, *events: Event, ending: Ending = SILENT, failed: Ending | None = None) -> list[tuple[object, object]]:
        """Return peer and cause of each record after these events of an unproven stream, and its end."""
        async def silence(*_: object) -> None:
            await Deferred()

        record = EventRecord(Clock(), Logger("test"))
        side: Any = SimpleNamespace(
            outcomes=StreamOutcomes(), leg="federation", excess=lambda connection, pair: None, policy=lambda peer: None, proven=Mock(),
            judge=silence, verify=silence,
        )
        connection = Mock(peer_address="192.0.2.1:5269", tls_version="TLSv1.3")
        stream = AcceptedStream(side, Mock(resumption=None, claimed=(None, None), sasl_failure=failed), Mock(clock=Clock(), record=record), Mock(), Mock())
        stream.connected(connection)
        stream.incoming = Mock()
        for event in events:
            stream.event(connection, event)
        stream.ended(connection, ending)
        return sorted((row["peer"], row["cause"]) for row in (each.row() for each in record.list()))

    def test_each_claim(self) -> None:
        """Each pair that is refused has its record: one that the stream outlives, and those that were open at its end."""
        one, two, three = (Pair(Domain.parse(f"{name}.example"), HERE) for name in ("one", "two", "three"))
        asked = [JudgementNeeded(pair.sender, HERE, secured=True) for pair in (one, two, three)]
        refused = PairRefused(one, Ending(Cause.DIALBACK_INVALID))
        self.assertEqual(self.claims(*asked, refused, DialbackNeeded(two, "k", "s")), [
            ("one.example", "dialback-invalid"), ("three.example", "negotiation-timeout"), ("two.example", "negotiation-timeout"),
        ])
        last = PairRefused(three, Ending(Cause.DENY_LISTED))
        self.assertEqual(self.claims(*asked, refused, last), [
            ("one.example", "dialback-invalid"), ("three.example", "deny-listed"), ("two.example", "negotiation-timeout"),
        ])
        for ending in (SILENT, Ending(Cause.CONNECTION_LOST, by="network"), Ending(Cause.CLOSED)):
            self.assertEqual(self.claims(asked[0], refused, ending=ending), [("one.example", "dialback-invalid")])
            self.assertEqual(self.claims(refused, ending=ending), [("one.example", "dialback-invalid")], "barred before it is judged")
        flood = Ending(Cause.TOO_MANY_CLAIMS)
        self.assertIn("too-many-claims", [cause for _, cause in self.claims(asked[0], refused, ending=flood)])
        for cause in (Cause.OTHER_NODE, Cause.NO_NODE, Cause.INTERNAL, Cause.RECONFIGURED):
            self.assertEqual(self.claims(asked[0], PairRefused(one, Ending(cause)), ending=Ending(Cause.CLOSED)), [], "nobody's fault")
        self.assertEqual(self.claims(*asked, refused, ending=Ending(Cause.CLOSED)), [("one.example", "dialback-invalid")])

    def test_failed_authentication(self) -> None:
        """R25: a peer that gives up after our `<failure/>` is a refusal for that reason. One that was proven after all is none."""
        failed, judged = Ending(Cause.SASL_FAILED, "not-authorized"), JudgementNeeded(PEER, HERE, secured=True)
        for ending in (SILENT, Ending(Cause.CONNECTION_LOST, by="them"), Ending(Cause.CLOSED, by="them")):
            self.assertEqual(self.claims(judged, ending=ending, failed=failed), [("peer.example", "sasl-failed")])
            proven = self.claims(judged, PairProven(Pair(PEER, HERE), "dialback"), ending=ending, failed=failed)
            self.assertNotIn(("peer.example", "sasl-failed"), proven)
        self.assertEqual(self.claims(judged, ending=Ending(Cause.BAD_XML), failed=failed), [("peer.example", "bad-xml")])
        self.assertEqual(self.claims(judged, ending=Ending(Cause.CLOSED, by="them")), [])

    def test_claims_beside_a_proven_pair(self) -> None:
        """On a stream with a proven pair a refused one has its record. Its end refuses none."""
        one, two = (Pair(Domain.parse(f"{name}.example"), HERE) for name in ("one", "two"))
        events: list[Event] = [JudgementNeeded(one.sender, HERE, secured=True), PairProven(Pair(PEER, HERE), "EXTERNAL"), DialbackNeeded(two, "k", "s")]
        lost = Ending(Cause.CONNECTION_LOST, by="network")
        self.assertEqual(self.claims(*events, ending=lost), [])
        refused = PairRefused(two, Ending(Cause.DENY_LISTED))
        self.assertEqual(self.claims(*events, refused, ending=lost), [("two.example", "deny-listed")])

    def test_ends_without_a_fault_of_the_peer(self) -> None:
        """A stop, an orderly close, a lost connection, a silent peer and an internal fault are no refusals."""
        for ending in (
            Ending(Cause.SHUTDOWN), Ending(Cause.CLOSED), Ending(Cause.CLOSED, by="them"), Ending(Cause.IDLE), Ending(Cause.INTERNAL),
            Ending(Cause.CONNECTION_LOST, by="network"), Ending(Cause.CONNECTION_LOST), Ending(Cause.UNRESPONSIVE, by="them"),
            Ending(Cause.STREAM_ERROR, by="them", condition="reset"),
        ):
            rows, record, events = self.ended("federation", ending)
            self.assertEqual(([], {}, ["stream proven", "stream closed"]), (rows, record.refusals, events), ending)
