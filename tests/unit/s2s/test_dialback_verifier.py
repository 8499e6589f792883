"""Asking the authoritative server whether a key is its own (R28)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.outbound_stream import StreamUnavailable
from s2sgw.s2s import dialback_verifier
from s2sgw.s2s.dialback_verifier import PATIENCE, DialbackVerifier
from s2sgw.stream.events import DialbackNeeded, DialbackOutcome, PairProven, Verified
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair

PAIR = Pair(Domain.parse("peer.example"), Domain.parse("here.example"))
QUESTION = DialbackNeeded(PAIR, "key", "id")


class FakeStream:
    """A verifying stream: notes what was asked, and that it was closed."""

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
    """R28: one question, on a stream of its own, within a bounded time."""

    def setUp(self) -> None:
        self.clock, self.stream = Clock(), FakeStream()
        self.opening: Deferred[Any] = Deferred()
        self.opened: list[tuple[Pair, bool]] = []

        async def open_stream(side: Any, pair: Pair, connect_services: Any, verifying: bool = False) -> Any:
            self.opened.append((pair, verifying))
            return await self.opening

        self.patch(dialback_verifier, "open_stream", open_stream)
        verifier = DialbackVerifier(None, None, self.clock)  # type: ignore[arg-type]
        self.outcome = Deferred.fromCoroutine(verifier.verify(QUESTION))

    def error(self) -> tuple[Cause, str]:
        """The cause and the words of an outcome that is an error."""
        outcome: DialbackOutcome = self.successResultOf(self.outcome)
        self.assertEqual(outcome.type, "error")
        assert outcome.ending is not None
        return outcome.ending.cause, outcome.ending.detail

    def test_answered(self) -> None:
        """R28: the sender's own server is asked, its answer counts, and the stream is closed; nothing else said there does."""
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
        """R28: a server that cannot be reached is an error, never a yes and never an invalid."""
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
        self.clock.advance(PATIENCE)
        self.assertEqual(self.error()[0], Cause.DIALBACK_ERROR)
        self.assertEqual(self.stream.closed, [Ending(Cause.CLOSED)])
