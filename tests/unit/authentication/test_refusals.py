"""Tests of what the other side of a refused stream is told, and what it is not told."""

from __future__ import annotations

from datetime import timedelta

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.authentication.refusals import barred, refusal, refusal_of_unproven
from s2sgw.stream.events import Refusal
from s2sgw.xmpp.ending import Cause, Ending, Layer
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import NOT_BEFORE, leaf_for

PEER = Domain.parse("peer.example")
NOW = NOT_BEFORE + timedelta(days=1)
CHAIN = leaf_for("peer.example").der_chain
SECRET = 'this peer was proven by pkix before; dialback = "never"'


class StrangerTests(SynchronousTestCase):
    """A stranger that claims a domain learns nothing about our policy for it."""

    def told(self, cause: Cause, chain: tuple[bytes, ...] = CHAIN) -> Refusal:
        return refusal_of_unproven(Ending(cause, SECRET), PEER, chain, NOW)

    def test_one_text(self) -> None:
        """The same certificate gets the same answer, whichever proof, pin, approval or record is missing."""
        causes = [cause for cause in Cause if Ending(cause).layer in (Layer.PKIX, Layer.AUTH)]
        answers = {(told.condition, told.text) for told in map(self.told, [*causes, Cause.NOT_PROVEN, Cause.ADDRESS_MISMATCH])}
        self.assertEqual(1, len(answers))
        ((condition, text),) = answers
        self.assertEqual(StreamCondition.POLICY_VIOLATION, condition)
        self.assertIn("peer.example is not proven as this server requires", text)

    def test_what_is_presented(self) -> None:
        """The faults of the certificate itself are told."""
        self.assertIn("no certificate was presented", self.told(Cause.PIN_MISMATCH, ()).text)
        self.assertIn("it does not name peer.example", self.told(Cause.PIN_MISMATCH, leaf_for("other.example").der_chain).text)

    def test_no_detail(self) -> None:
        """No detail of the record is told, whatever the cause, except what the public DNS says."""
        for cause in Cause:
            told = self.told(cause)
            self.assertEqual(Ending(cause).layer is Layer.DNS and cause is not Cause.ADDRESS_MISMATCH, SECRET in told.text, cause)
            self.assertEqual((cause, SECRET, told.condition.value), (told.ending.cause, told.ending.detail, told.ending.condition))

    def test_barred(self) -> None:
        """The key or list that bars a domain is told to our own operator only."""
        texts = {barred(Ending(cause, "list 7")).text for cause in (Cause.NOT_ALLOWED, Cause.DENY_LISTED)}
        self.assertEqual({"policy: This server has no streams with that domain. Ask its administrator."}, texts)
        self.assertEqual(texts, {self.told(Cause.DENY_LISTED).text})
        self.assertEqual("list 7", barred(Ending(Cause.DENY_LISTED, "list 7")).ending.detail)


class PeerTests(SynchronousTestCase):
    """Tests of a peer that has proven itself: it is told the reason."""

    def test_refusal(self) -> None:
        """R2, R15: the answer says what was refused, why, and whether to try again."""
        told = refusal(Ending(Cause.TOO_MANY_STREAMS, "4 streams are open"))
        self.assertEqual(StreamCondition.RESOURCE_CONSTRAINT, told.condition)
        self.assertEqual("policy: Reuse streams instead of opening new ones. (4 streams are open)", told.text)
        self.assertIn("Trying again later may help", refusal(Ending(Cause.DNS_UNREACHABLE)).text)
        for cause in (Cause.BAD_XML, Cause.LIMIT_EXCEEDED, Cause.INVALID_FROM, Cause.ADDRESSING):
            self.assertNotIn("Trying again later may help", refusal(Ending(cause)).text, "a mistake of the peer")
