"""Tests of the table of endings (docs/decisions.md#endings, R34)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp.ending import ACCOUNTS, Cause, Ending, Layer
from s2sgw.xmpp.errors import StanzaCondition


class CauseTableTests(SynchronousTestCase):
    """Tests that every cause is in the table."""

    def test_complete(self) -> None:
        """Every cause has its row, and every layer has a cause."""
        self.assertEqual(set(Cause), set(ACCOUNTS))
        self.assertEqual(set(Layer), {account.layer for account in ACCOUNTS.values()})

    def test_conditions(self) -> None:
        """R34: a bounce has one of four conditions."""
        self.assertEqual({
            StanzaCondition.REMOTE_SERVER_NOT_FOUND, StanzaCondition.REMOTE_SERVER_TIMEOUT, StanzaCondition.POLICY_VIOLATION,
            StanzaCondition.RESOURCE_CONSTRAINT,
        }, {account.condition for account in ACCOUNTS.values()})

    def test_dns_told_apart(self) -> None:
        """R2: a name that does not exist is final. A failed look-up is not."""
        self.assertTrue(ACCOUNTS[Cause.NO_SUCH_DOMAIN].final)
        self.assertFalse(ACCOUNTS[Cause.DNS_UNREACHABLE].final)
        self.assertNotEqual(ACCOUNTS[Cause.NO_SUCH_DOMAIN].condition, ACCOUNTS[Cause.DNS_UNREACHABLE].condition)

    def test_texts(self) -> None:
        """Bounce texts and remedies are sentences. No two causes of one layer have the same bounce text."""
        seen = set()
        for cause, account in ACCOUNTS.items():
            self.assertRegex(account.bounce, r"\A[A-Z][^{}%]*\.\Z", cause)
            self.assertRegex(account.remedy, r"\A[A-Z].*\.\Z", cause)
            seen.add((account.layer, account.bounce))
        self.assertEqual(len(ACCOUNTS), len(seen))


class EndingTests(SynchronousTestCase):
    """Tests of the attributes of an ending."""

    def test_account(self) -> None:
        """Layer, finality and remedy are those of the table."""
        ending = Ending(Cause.HOST_UNKNOWN, "montague.example", "them", "host-unknown")
        account = ACCOUNTS[Cause.HOST_UNKNOWN]
        self.assertIs(account, ending.account)
        self.assertEqual((account.layer, account.final, account.remedy), (ending.layer, ending.final, ending.remedy))

    def test_in_order(self) -> None:
        """Only a close, an idle stream, a reload and our own stop are orderly ends."""
        self.assertEqual(
            {Cause.CLOSED, Cause.IDLE, Cause.RECONFIGURED, Cause.SHUTDOWN}, {cause for cause in Cause if Ending(cause).in_order}
        )

    def test_refuses_peer(self) -> None:
        """We refuse the peer because of what it sent or presented, not after an orderly close, a lost connection, or an internal fault."""
        refusing = {cause for cause in Cause if Ending(cause).refuses_peer}
        self.assertLessEqual({Cause.INVALID_FROM, Cause.LIMIT_EXCEEDED, Cause.BAD_XML, Cause.PROTOCOL_ERROR, Cause.ADDRESSING}, refusing)
        faultless = {
            Cause.CLOSED, Cause.IDLE, Cause.SHUTDOWN, Cause.CONNECTION_LOST, Cause.CONNECTION_TIMEOUT, Cause.UNRESPONSIVE, Cause.INTERNAL,
            Cause.DNS_UNREACHABLE, Cause.QUEUE_FULL, Cause.BACKEND_FAILED,
        }
        self.assertFalse(faultless & refusing)

    def test_refuses_peer_by_what_we_ended(self) -> None:
        """A stream that the other side or the network ended was not ended by us."""
        self.assertFalse(Ending(Cause.BAD_XML, by="them").refuses_peer)
        self.assertFalse(Ending(Cause.TLS_FAILED, by="network").refuses_peer)
