"""Tests of evidence as JSON."""

from __future__ import annotations

from datetime import UTC, datetime

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.peerdb.evidence_json import evidence_json, evidence_of
from s2sgw.trust.evidence import Evidence, POSHLookup
from tests.support.peer_database import EVIDENCE, PEER


class EvidenceTests(SynchronousTestCase):
    def test_evidence(self):
        """Evidence is read back as it was written, also if almost nothing is in it."""
        self.assertEqual(EVIDENCE, evidence_of(evidence_json(EVIDENCE)))
        bare = Evidence(PEER, "initiating", datetime.fromtimestamp(0, UTC), posh=POSHLookup(failure="404"))
        self.assertEqual(bare, evidence_of(evidence_json(bare)))

