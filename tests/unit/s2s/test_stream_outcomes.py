"""Tests of the counts of streams with peers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.s2s.stream_outcomes import StreamCounts
from s2sgw.xmpp.jid import Domain

PEER = Domain.parse("peer.example")


class StreamCountsTests(SynchronousTestCase):
    """Tests of counts by direction, method and TLS."""

    def test_zero(self) -> None:
        """Every series exists before its first stream, and each label is a word. The inverse pair that a stream carries has no series of its own."""
        counts = StreamCounts().counts
        self.assertIn(("inbound", "EXTERNAL", "TLSv1.3"), counts)
        self.assertIn(("outbound", "dialback", "none"), counts)
        self.assertEqual({0}, set(counts.values()))
        self.assertTrue(all(isinstance(word, str) and word != "bidi" for key in counts for word in key))

    def test_opened(self) -> None:
        """A stream is counted once. One without TLS is counted as such."""
        outcomes = StreamCounts()
        outcomes.opened("inbound", PEER, "dialback", None)
        outcomes.closed("inbound")
        self.assertEqual({("inbound", "dialback", "none"): 1}, {key: number for key, number in outcomes.counts.items() if number})
