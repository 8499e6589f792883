"""Tests of what a node does when another node has denied a peer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.policy.peers import PeerPolicies
from s2sgw.reporting.audit import AuditLog
from s2sgw.runtime.learnt_denials import ASKED_WITHIN, LearntDenials
from s2sgw.runtime.operator_denials import OperatorDenials
from tests.support.fakes import FixedClock


class LearntTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.state.mkdir()
        self.clock = Clock()
        self.denials = OperatorDenials(self.state, PeerPolicies({}).deny, self.fail, self.clock)
        self.applied = 0
        self.outcome: Deferred[Any] = succeed([])
        self.learnt = LearntDenials(self.denials, self, AuditLog(self.state, FixedClock(1_800_000_000.0)), self.clock)

    def apply_bars(self) -> Deferred[Any]:
        self.applied += 1
        return self.outcome

    def noted(self) -> list[tuple[str, list[str]]]:
        lines = (self.state / "audit.log").read_text().splitlines()
        rows = list(map(json.loads, lines))
        self.assertEqual({"the cluster"}, {row["by"] for row in rows})
        return [(row["action"], row["peers"]) for row in rows]

    def test_noted(self) -> None:
        """Names that were learnt are noted after a moment, and streams are closed once."""
        self.denials.take(["a.example", "b.example"])
        self.denials.take(["b.example"])
        self.assertEqual((0, 1), (self.applied, len(self.clock.getDelayedCalls())))
        self.clock.advance(ASKED_WITHIN)
        self.assertEqual([("deny", ["b.example"]), ("deny undone", ["a.example"])], self.noted())
        self.assertEqual((1, {}), (self.applied, self.denials.learnt))
        self.denials.take([])
        self.clock.advance(ASKED_WITHIN)
        self.assertEqual(2, self.applied)

    def test_very_many(self) -> None:
        """A thousand names are one line of the audit log, which is synced to the disk once."""
        names = [f"peer{number}.example" for number in range(1000)]
        self.denials.take(names)
        self.clock.advance(ASKED_WITHIN)
        self.assertEqual([("deny", names)], self.noted())

    def test_asked_meanwhile(self) -> None:
        """A name with which the verb has dealt meanwhile is left alone."""
        self.denials.take(["a.example"])
        del self.denials.learnt["a.example"]
        self.clock.advance(ASKED_WITHIN)
        self.assertEqual((0, False), (self.applied, (self.state / "audit.log").exists()))

    def test_failures(self) -> None:
        """Streams are closed also if the audit log cannot be written. A failure is logged."""
        (self.state / "audit.log").mkdir()
        self.outcome = fail(RuntimeError("broken"))
        self.denials.take(["a.example"])
        self.clock.advance(ASKED_WITHIN)
        self.assertEqual((1, 1), (self.applied, len(self.flushLoggedErrors(RuntimeError))))

    def test_stop(self) -> None:
        """At a stop names that were learnt are noted: the next start reads them from the file. Nothing is left that would be called."""
        self.denials.take(["a.example"])
        self.learnt.stop()
        self.assertEqual(([], [("deny", ["a.example"])], 0), (self.clock.getDelayedCalls(), self.noted(), self.applied))
