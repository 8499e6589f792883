"""Tests of `s2sgw cluster`: its request and its output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cli import main as command
from s2sgw.cli import output, tables
from s2sgw.cli.text_table import Screen

ANSWER: dict[str, Any] = {
    "node": "a", "session": "x1", "homes": 1, "takeovers": 0, "lease": 2.6, "heartbeat": 0.4,
    "engine": {"connected": True, "problem": ""}, "others": [{"node": "b", "state": "silent", "listener": "127.0.0.1:2"}],
}


class ClusterTests(SynchronousTestCase):
    def run_command(self, *words: str) -> Result:
        self.asked: list[str] = []

        def ask(path: object, verb: str, arguments: dict[str, Any]) -> Any:
            self.asked.append(verb)
            return ANSWER

        self.patch(output, "ask", ask)
        self.patch(output, "_socket", lambda config: Path("/socket"))
        return CliRunner().invoke(command.main, list(words), catch_exceptions=False)

    def test_closed_listener(self) -> None:
        """The overview tells which listeners are closed, and why."""
        rows = [{"purpose": "federation", "endpoint": "tcp:5269", "closed": "no lease"}, {"purpose": "console", "endpoint": "tcp:8269"}]
        answer = {
            "version": "1", "uptime": 1.0, "config": "x", "domains": [], "listeners": rows, "streams": [], "stanzas": [], "broken": 0, "refusals": 0,
            "waiting": {"stanzas": 0, "bytes": 0, "disk_bytes": 0, "oldest": 0.0},
        }
        text = tables.status(answer, Screen(80, bold=False))
        self.assertIn("closed     tcp:5269 (federation): no lease\nlistens    tcp:8269 (console)\n", text)

    def test_status(self) -> None:
        """The node, its homes, its lease, the engine and the others are printed, or the whole answer."""
        result = self.run_command("cluster", "status")
        self.assertEqual((0, ["cluster status"]), (result.exit_code, self.asked))
        for words in ("a, a member", "1 peer, 0 taken over", "2.6 s", "b at 127.0.0.1:2: silent"):
            self.assertIn(words, result.output)
        self.assertEqual(ANSWER, json.loads(self.run_command("cluster", "status", "--json").output))
