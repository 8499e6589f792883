"""Tests of probes started on the console: their outcomes, and how many are kept."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.server import VerbError
from s2sgw.console.probes import RUNS, ProbeRun, ProbeRuns


class RunTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.runs = ProbeRuns(self.clock.seconds)

    def begin(self, kind: Any = "probe") -> tuple[ProbeRun, Deferred[Any]]:
        asked: Deferred[Any] = Deferred()
        return self.runs.begin(kind, "peer.example", "alice", asked), asked

    def test_outcomes(self) -> None:
        """A run is in progress until its answer comes. Then it is good, bad, or broken."""
        for kind, answer, outcome in (
            ("probe", {"verdict": "federates"}, "good"), ("probe", {"verdict": "fails"}, "bad"),
            ("check", {"ok": True}, "good"), ("check", {"ok": False}, "bad"),
        ):
            run, asked = self.begin(kind)
            self.clock.advance(2)
            self.assertEqual(("running", 2), (run.outcome, self.runs.seconds(run)))
            asked.callback(answer)
            self.clock.advance(9)
            self.assertEqual((outcome, 2), (run.outcome, self.runs.seconds(run)))

    def test_problems(self) -> None:
        """A late refusal is shown with its text. An internal error is in the log, and the text says so."""
        run, asked = self.begin()
        asked.errback(VerbError("no answer within 120 seconds", "slow"))
        self.assertEqual(("broken", "no answer within 120 seconds"), (run.outcome, run.problem))
        run, asked = self.begin()
        asked.errback(ZeroDivisionError("x"))
        self.assertEqual(("broken", True), (run.outcome, "log" in run.problem))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_refused_at_once(self) -> None:
        """An immediate refusal is no run."""
        asked: Deferred[Any] = Deferred()
        asked.errback(VerbError("domain must be a domain name", "usage"))
        error = self.assertRaises(VerbError, self.runs.begin, "probe", "", "alice", asked)
        self.assertEqual(("usage", []), (error.kind, self.runs.last()))

    def test_bounded(self) -> None:
        """The number of kept runs is bounded. The oldest finished one is removed before one in progress."""
        first, _ = self.begin()
        for _ in range(RUNS * 2):
            self.begin()[1].callback({"verdict": "fails"})
        self.assertEqual(RUNS, len(self.runs.last()))
        self.assertIs(first, self.runs.find("1"))
        self.assertIsNone(self.runs.find("2"))
        for _ in range(RUNS):
            self.begin()
        self.assertEqual(RUNS, len(self.runs.last()))

    def test_find(self) -> None:
        """Only the numbers of kept runs are found."""
        run, _ = self.begin()
        self.assertIs(run, self.runs.find("1"))
        for text in ("0", "2", "-1", "", "x", "\u0661", "1e0", "1" * 5000):
            self.assertIsNone(self.runs.find(text))
