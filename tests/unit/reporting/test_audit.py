"""Tests of the audit log: append-only, private, one JSON line for each change."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting import audit
from s2sgw.reporting.audit import AuditLog
from s2sgw.storage.atomic_file import is_disk_full
from tests.support.fakes import FixedClock


class AuditTests(SynchronousTestCase):
    """Tests of what `AuditLog.note` writes."""

    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.state.mkdir()
        self.audit = AuditLog(self.state, FixedClock(1795179884.1234))

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit.path.read_text("ascii").splitlines()]

    def test_lines(self) -> None:
        """Each note is one line: the time, the action, then its facts."""
        self.audit.note("reload", by="SIGHUP", changes=[{"key": "tls.minimum", "old": "1.2", "new": "1.3"}])
        self.audit.note("pin", peer="friend.example")
        self.assertEqual([
            {"time": "2026-11-20T13:04:44.123Z", "action": "reload", "by": "SIGHUP",
             "changes": [{"key": "tls.minimum", "old": "1.2", "new": "1.3"}]},
            {"time": "2026-11-20T13:04:44.123Z", "action": "pin", "peer": "friend.example"},
        ], self.lines())
        self.assertEqual(["time", "action", "peer"], list(self.lines()[1]))

    def test_private(self) -> None:
        """Only its owner can read it, with any umask."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.audit.note("x")
        self.assertEqual(0o600, self.audit.path.stat().st_mode & 0o777)

    def test_only_added_to(self) -> None:
        """Existing lines stay, and a file that was moved aside is not written."""
        self.audit.path.write_text('{"old": 1}\n')
        self.audit.note("x")
        self.assertEqual({"old": 1}, self.lines()[0])
        self.audit.path.rename(self.state / "audit.log.1")
        self.audit.note("y")
        self.assertEqual(["y"], [line["action"] for line in self.lines()])

    def test_no_link(self) -> None:
        """The log is not written through a symbolic link."""
        self.audit.path.symlink_to(self.state / "elsewhere")
        self.assertRaises(OSError, self.audit.note, "x")
        self.assertFalse((self.state / "elsewhere").exists())

    def test_one_line_whatever_is_said(self) -> None:
        """A stranger's line break, or a character outside ASCII, makes no second line."""
        self.audit.note("x", peer="a\nb\u2028\x85é")
        self.assertEqual(1, self.audit.path.read_bytes().count(b"\n"))
        self.assertEqual("a\nb\u2028\x85é", self.lines()[0]["peer"])

    def test_bounds(self) -> None:
        """Long texts, lists and tables are shortened and marked."""
        self.audit.note("x", text="a" * 3000, rows=list(range(1002)), table={str(number): number for number in range(1001)})
        (line,) = self.lines()
        self.assertEqual("a" * 2000 + "…", line["text"])
        self.assertEqual((1001, "… 2 more"), (len(line["rows"]), line["rows"][-1]))
        self.assertEqual((1001, "1 more"), (len(line["table"]), line["table"]["…"]))

    def test_plain(self) -> None:
        """Sets are sorted, paths are text, and the rest is JSON."""
        self.assertEqual(
            {"a": ["x", "y"], "b": "/p", "c": [None, True, 1, 1.5]},
            audit.plain({"a": {"y", "x"}, "b": Path("/p"), "c": (None, True, 1, 1.5)}),
        )

    def test_full_disk(self) -> None:
        """A line that was not written completely is removed again, and the caller gets an error."""
        self.audit.note("x")
        self.patch(os, "write", lambda descriptor, line, write=os.write: write(descriptor, line[:5]))
        self.assertTrue(is_disk_full(self.assertRaises(OSError, self.audit.note, "y")))
        self.assertEqual(["x"], [line["action"] for line in self.lines()])
