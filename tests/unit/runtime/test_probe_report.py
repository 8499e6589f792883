"""Tests of the report of a probe."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.runtime.probe_report import whose
from s2sgw.xmpp.ending import ACCOUNTS, Cause, Ending, Layer


class BlameTests(SynchronousTestCase):
    """Tests of the side that must fix a cause."""

    def test_every_cause(self) -> None:
        """Each cause has its side: causes of our own server are ours, and network failures belong to neither side alone."""
        for cause in ACCOUNTS:
            self.assertIn(whose(cause), ("ours", "theirs", "network"))
            if Ending(cause).layer is Layer.BACKEND:
                self.assertEqual("ours", whose(cause))
        self.assertEqual(("network", "theirs"), (whose(Cause.TLS_FAILED, "network"), whose(Cause.TLS_FAILED, "them")))
