"""Tests of `log level`."""

from __future__ import annotations

import io
from pathlib import Path

from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.log_verbs import LEVELS, LogVerbs
from s2sgw.admin.server import VerbError
from s2sgw.reporting.audit import AuditLog
from s2sgw.reporting.log import observer


class LevelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.state.mkdir()
        self.file = io.StringIO()
        self.lines = observer(self.file, "text", "warn")
        self.audit = AuditLog(self.state, Clock())
        self.verb = LogVerbs(self.lines, self.audit).level

    def test_level(self) -> None:
        """The level is returned, and set: messages below it are logged from then on."""
        self.assertEqual({"level": "warn", "before": "warn"}, self.verb({}))
        self.assertEqual({"level": "debug", "before": "warn"}, self.verb({"level": "debug"}))
        self.lines({"event": "seen", "log_level": LogLevel.debug, "log_time": 0.0})
        self.lines.close()
        self.assertIn("seen", self.file.getvalue())
        self.assertIn('"log level"', (self.state / "audit.log").read_text())

    def test_wrong(self) -> None:
        """An unknown level, and a log that another program writes, are refused."""
        for level in ("loud", 7, ""):
            self.assertEqual("usage", self.assertRaises(VerbError, self.verb, {"level": level}).kind)
        self.assertRaises(VerbError, LogVerbs(None, self.audit).level, {})
        self.assertEqual({"debug", "info", "warn", "error", "critical"}, set(LEVELS))

    def test_not_noted(self) -> None:
        """A change that cannot be written to the audit log is not made."""
        (self.state / "audit.log").mkdir()
        self.assertRaises(VerbError, self.verb, {"level": "debug"})
        self.assertEqual("warn", self.lines.level)
