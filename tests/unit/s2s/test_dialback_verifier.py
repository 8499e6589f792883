"""Tests of verification requests to the authoritative server (R28)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.outbound_stream import StreamUnavailable
from s2sgw.net.requester import Requester
from s2sgw.s2s import dialback_verifier
from s2sgw.s2s.dialback_verifier import VERIFICATION_SECONDS, DialbackVerifier
from s2sgw.stream.events import DialbackNeeded, DialbackOutcome, PairProven, Verified
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair

PAIR = Pair(Domain.parse("peer.example"), Domain.parse("here.example"))
QUESTION = DialbackNeeded(PAIR, "key", "id")


class FakeStream:
    """A verifying stream that records the questions, and whether it was closed."""

    def __init__(self) -> None:
        self.user: Any = None
        self.asked: list[Any] = []
        self.closed: list[Ending] = []
        self.connection = self.engine = self.part = self
        self.verify = "verify"

    def step(self, method: str, *arguments: Any) -> None:
        self.asked.append((method, *arguments))

    def close(self, ending: Ending) -> None:
        self.closed.append(ending)

    def leave(self, ending: Ending) -> None:
        self.user = None
        self.close(ending)


class VerifierTests(SynchronousTestCase):
    """R28: tests of one question, on its own stream, within a bounded time."""

    def setUp(self) -> None:
        self.clock, self.stream = Clock(), FakeStream()
        self.opening: Deferred[Any] = Deferred()
        self.opened: list[tuple[Pair, bool]] = []
        self.askers: list[Requester | None] = []

        async def open_stream(side: Any, pair: Pair, connect_services: Any, verifying: bool, requester: Requester | None) -> Any:
            self.opened.append((pair, verifying))
            self.askers.append(requester)
            return await self.opening

        self.patch(dialback_verifier, "open_stream", open_stream)
        self.verifier = DialbackVerifier(None, None, self.clock, 16)  # type: ignore[arg-type]
        self.outcome = Deferred.fromCoroutine(self.verifier.verify(QUESTION))

    def error(self) -> tuple[Cause, str]:
        """Return the cause and the text of an outcome that is an error."""
        outcome: DialbackOutcome = self.successResultOf(self.outcome)
        self.assertEqual(outcome.type, "error")
        assert outcome.ending is not None
        return outcome.ending.cause, outcome.ending.detail

    def test_answered(self) -> None:
        """R28: the sender's own server is asked, its answer counts, and the stream is closed. Other answers on it do not count."""
        self.assertEqual(self.opened, [(PAIR.inverse, True)])
        self.opening.callback(self.stream)
        self.assertEqual(self.stream.asked, [("verify", PAIR, "id", "key")])
        user = self.stream.user
        user.stream_event(PairProven(PAIR, "dialback"))
        self.assertNoResult(self.outcome)
        answer = DialbackOutcome("invalid")
        user.stream_event(Verified(PAIR, "id", answer))
        user.stream_event(Verified(PAIR, "id", DialbackOutcome("valid")))
        user.stream_lost(Ending(Cause.CLOSED))
        self.assertEqual(self.successResultOf(self.outcome), answer)
        self.assertEqual((self.stream.closed, self.stream.user), ([Ending(Cause.CLOSED)], None))

    def test_not_reached(self) -> None:
        """R28: an unreachable server is an error, never valid and never invalid."""
        self.opening.errback(StreamUnavailable(Ending(Cause.CONNECTION_REFUSED)))
        self.assertEqual(self.error()[0], Cause.CONNECTION_REFUSED)

    def test_lost(self) -> None:
        """R28: a stream that is lost before the answer is an error."""
        self.opening.callback(self.stream)
        self.stream.user.stream_lost(Ending(Cause.CONNECTION_LOST, "gone", "network"))
        self.assertEqual(self.error(), (Cause.DIALBACK_ERROR, "gone"))

    def test_silent(self) -> None:
        """R28: a server that does not answer in time is an error, and its stream is closed."""
        self.opening.callback(self.stream)
        self.clock.advance(VERIFICATION_SECONDS)
        self.assertEqual(self.error()[0], Cause.DIALBACK_ERROR)
        self.assertEqual(self.stream.closed, [Ending(Cause.CLOSED)])

    def ask(self, requester: Requester | None) -> Deferred[DialbackOutcome]:
        return Deferred.fromCoroutine(self.verifier.verify(QUESTION, requester))

    def test_shares(self) -> None:
        """Verifications for strangers share half of the slots by address. Ours, and a backend's, never wait behind them."""
        for number in range(20):
            self.ask(Requester.stranger(f"10.0.{number}.1"))
        self.assertEqual((len(self.opened), self.verifier.slots.in_flight, self.verifier.slots.in_line), (1 + 8, 8, 12))
        self.ask(Requester.ourselves("peer.example"))
        self.ask(None)
        self.assertEqual(len(self.opened), 1 + 8 + 2)
        self.assertEqual([asker is not None and asker.is_stranger for asker in self.askers], [False] + [True] * 8 + [False] * 2)

    def test_too_many(self) -> None:
        """One address has one verification at a time, and its claims are rated. Further ones are told to wait, with a text of their own."""
        outcomes = [self.ask(Requester.stranger("10.0.0.1")) for _ in range(130)]
        self.assertEqual(len(self.opened), 2)
        endings = [self.successResultOf(each).ending for each in (outcomes[1], outcomes[-1])]
        self.assertEqual([each.cause for each in endings if each], [Cause.TOO_MANY_CLAIMS] * 2)
        self.assertNotEqual(endings[0], endings[1])
        self.assertEqual(set(self.verifier.slots.given_up), {"rate", "line-full"})

    def test_left(self) -> None:
        """The end of a stream ends its verification."""
        self.opening = Deferred()
        asking = self.ask(Requester.stranger("10.0.0.1"))
        self.assertEqual(self.verifier.slots.in_flight, 1)
        asking.addErrback(lambda _: None).cancel()
        self.assertEqual(self.verifier.slots.in_flight, 0)
