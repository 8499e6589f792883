"""What is counted of the streams with peers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.s2s.stream_outcomes import StreamCounts
from s2sgw.xmpp.jid import Domain

PEER = Domain.parse("peer.example")


class StreamCountsTests(SynchronousTestCase):
    """Counts by direction, method and TLS."""

    def test_zero(self) -> None:
        """Every series is there before its first stream, each label a word; a pair that a stream carries back opens none."""
        counts = StreamCounts().counts
        self.assertIn(("inbound", "EXTERNAL", "TLSv1.3"), counts)
        self.assertIn(("outbound", "dialback", "none"), counts)
        self.assertEqual({0}, set(counts.values()))
        self.assertTrue(all(isinstance(word, str) and word != "bidi" for key in counts for word in key))

    def test_opened(self) -> None:
        """A stream is counted once; one without TLS as such."""
        outcomes = StreamCounts()
        outcomes.opened("inbound", PEER, "dialback", None)
        outcomes.closed()
        self.assertEqual({("inbound", "dialback", "none"): 1}, {key: number for key, number in outcomes.counts.items() if number})
