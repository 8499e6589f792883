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
from s2sgw.s2s.accepted_stream import AcceptedStream
from s2sgw.s2s.resumption_table import ResumptionTable
from s2sgw.s2s.stream_outcomes import StreamOutcomes
from s2sgw.stream.events import JudgementNeeded, PairProven, Permission, ResolutionNeeded
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair

PEER, HERE = Domain.parse("peer.example"), Domain.parse("here.example")


class AdmissionTests(SynchronousTestCase):
    """An unproven stream claims a name, and has priority while its negotiation makes progress."""

    def setUp(self) -> None:
        self.answer: Deferred[None] = Deferred()

        async def resolve(connection: object, event: object) -> None:
            await self.answer

        side: Any = SimpleNamespace(
            outcomes=StreamOutcomes(),
            leg="federation", resolve=resolve, excess=lambda connection, pair: None, proven=Mock(),
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
        self.engine.claimed, order = (None, None), Mock()
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
        self.engine.claimed = PEER, HERE
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
        self.engine.claimed = None, None
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


class RefusalTests(SynchronousTestCase):
    """Tests of streams that we end because of what a proven peer sent: each is a refusal of the peer."""

    def ended(self, leg: str, ending: Ending) -> tuple[list[dict[str, object]], EventRecord, list[str]]:
        """Return the refusals of both domains after a proven stream ended, their record, and the events of its log."""
        with capturedLogs() as logs:
            record = EventRecord(Clock(), Logger("test"))
            side: Any = SimpleNamespace(
                outcomes=StreamOutcomes(), leg=leg, excess=lambda connection, pair: None, proven=Mock(),
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

    def test_own_server(self) -> None:
        """A fault of our own server is recorded for the peer of the stanza, on the backend leg. There is no letter to the peer."""
        ((row,), _, _) = self.ended("backend", Ending(Cause.BAD_XML))
        self.assertEqual(("here.example", "peer.example", "backend"), (row["peer"], row["local"], row["leg"]))

    def test_ends_without_a_fault_of_the_peer(self) -> None:
        """A stop, an orderly close, a lost connection, a silent peer and an internal fault are no refusals."""
        for ending in (
            Ending(Cause.SHUTDOWN), Ending(Cause.CLOSED), Ending(Cause.CLOSED, by="them"), Ending(Cause.IDLE), Ending(Cause.INTERNAL),
            Ending(Cause.CONNECTION_LOST, by="network"), Ending(Cause.CONNECTION_LOST), Ending(Cause.UNRESPONSIVE, by="them"),
            Ending(Cause.STREAM_ERROR, by="them", condition="reset"),
        ):
            rows, record, events = self.ended("federation", ending)
            self.assertEqual(([], {}, ["stream proven", "stream closed"]), (rows, record.refusals, events), ending)
