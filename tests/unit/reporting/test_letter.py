"""Tests of a refusal as a letter to the administrator of the peer."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting.letter import letter
from s2sgw.xmpp.ending import Cause, Ending

SELF_SIGNED = Ending(Cause.SELF_SIGNED, "pkix: not proven", condition="policy-violation")

PAIR = ("friend.example", "here.example")


class LetterTests(SynchronousTestCase):
    """Tests of a refusal as a text to the other administrator."""

    def test_inbound(self) -> None:
        """The letter says which server, when, why, what was seen and what to do."""
        text = letter("inbound", *PAIR, "192.0.2.1:5000", 0.0, SELF_SIGNED, ("pkix: not proven: self-signed",), 3)
        self.assertEqual(
            "To the administrator of friend.example\nFrom the administrator of here.example\n\n"
            "An XMPP server-to-server stream from your server at 192.0.2.1:5000 to\n"
            "here.example failed on 1970-01-01 00:00:00 UTC (and 2 times before).\n\n"
            "Why:        Your server's certificate is self-signed. (pkix: self-signed)\n"
            "What to do: Use a certificate from a public CA, or publish the certificate by\n"
            "            DANE or POSH.\n"
            "Our server closed the connection. The stream error was <policy-violation/>.\n\n"
            "What we saw:\n"
            "  - pkix: not proven: self-signed\n\n"
            "This report was written by s2sgw, the XMPP federation gateway in front of our server.", text,
        )

    def test_outbound(self) -> None:
        """The same holds outbound. Without reasons the detail is given as what was seen; without a detail nothing is."""
        text = letter("outbound", "friend.example", "", "", 0.0, Ending(Cause.CONNECTION_REFUSED, "port 5269", by="network"))
        self.assertIn("from our server to your server failed", text.replace("\n", " "))
        self.assertIn("Why:        Your server refuses connections.", text)
        self.assertNotIn("closed the connection", text)
        self.assertIn("  - port 5269", text)
        self.assertNotIn("What we saw", letter("inbound", "", "", "192.0.2.1:1", 0.0, Ending(Cause.CLOSED, by="them")))
