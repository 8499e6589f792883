"""`watch`: its lines, its JSON, and its exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.client import RequestFailed
from s2sgw.cli import main as command
from s2sgw.cli import output
from s2sgw.cli.watch import event_line


class WatchTests(SynchronousTestCase):
    def run_command(self, rows: list[dict[str, Any]], *words: str) -> Result:
        def follow(path: object, verb: str, arguments: dict[str, Any]) -> Iterator[Any]:
            self.asked = (verb, arguments)
            yield from rows
            raise RequestFailed("the gateway closed the connection without an answer", "not-running")

        self.patch(output, "follow", follow)
        self.patch(output, "_socket", lambda config: Path("/socket"))
        return CliRunner().invoke(command.main, ["watch", *words], catch_exceptions=False)

    def test_lines(self) -> None:
        """One line is printed for each event, escaped. The status is 3 when the gateway stops."""
        row = {"time": "2026-11-29T08:21:14.123Z", "level": "warn", "event": "refused", "peer": "evil.example", "detail": "said \x1b[2J", "reasons": ["a", "b"]}
        result = self.run_command([{"event": "watching", "peer": None}, row], "evil.example")
        self.assertEqual(3, result.exit_code)
        self.assertEqual(
            ["watching  peer=all", '08:21:14  warn   refused  peer=evil.example detail="said \\x1b[2J" reasons="a; b"'], result.output.splitlines()[:2],
        )
        self.assertEqual(("watch", {"peer": "evil.example"}), self.asked)

    def test_nodes(self) -> None:
        """In a cluster each event shows its node. With --here one node is asked."""
        row = {"time": "2026-11-29T08:21:14.123Z", "level": "info", "event": "node gone", "node": "c", "on": "b"}
        self.assertEqual(["08:21:14  info   b  node gone  node=c"], self.run_command([row]).output.splitlines()[:1])
        self.assertEqual(("watch", {}), self.asked)
        self.run_command([row], "--here")
        self.assertEqual(("watch", {"here": True}), self.asked)

    def test_json(self) -> None:
        """One JSON object is printed per line, also for the error at the end, so that a program can follow."""
        lines = self.run_command([{"event": "a"}, {"event": "b"}], "--json").output.splitlines()
        *events, end = map(json.loads, lines)
        self.assertEqual((["a", "b"], 3), ([each["event"] for each in events], end["status"]))
        lines = self.run_command([{"event": "a"}], "--json-v1").output.splitlines()
        self.assertEqual({"version": 1, "ok": True, "result": {"event": "a"}}, json.loads(lines[0]))

    def test_odd_facts(self) -> None:
        """A row without time and level, and with an empty list, is printed."""
        self.assertEqual('x  list=""', event_line({"event": "x", "list": []}))
