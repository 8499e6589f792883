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


class CommandCase(SynchronousTestCase):
    answer: Any = ANSWER

    def run_command(self, *words: str) -> Result:
        self.asked: list[str] = []
        self.arguments: list[dict[str, Any]] = []

        def ask(path: object, verb: str, arguments: dict[str, Any]) -> Any:
            self.asked.append(verb)
            self.arguments.append(arguments)
            return self.answer

        self.patch(output, "ask", ask)
        self.patch(output, "_socket", lambda config: Path("/socket"))
        return CliRunner().invoke(command.main, list(words), catch_exceptions=False)


class ClusterTests(CommandCase):
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


STREAM: dict[str, Any] = {
    "leg": "federation", "direction": "inbound", "peer": "friend.example", "local": "example.org", "state": "proven", "method": "EXTERNAL", "pairs": [],
    "tls": "TLSv1.3", "cipher": "x", "address": "[2001:db8::1]:41234", "age": 3.0, "reasons": [], "resumption": None,
}
LANE = {
    "sender": "example.org", "recipient": "friend.example", "direction": "outbound", "state": "ready", "stanzas": 3, "bytes": 40, "oldest": 2.0,
    "cause": None, "retry": None, "blocked": None, "full": [],
}
PEER = {
    "peer": "friend.example", "inbound": 1, "outbound": 0, "methods": ["EXTERNAL"], "last_seen": None, "last_method": None, "certificate_until": None,
    "waiting": 0, "refusals": 0, "last_refusal": None, "disabled": [], "without": [],
}
WAITING = {
    "peer": "friend.example", "lanes": 1, "stanzas": 3, "bytes": 40, "oldest": 2.0, "states": ["held"], "cause": None, "retry": None, "blocked": [], "full": [],
    "held": [],
}
REFUSAL = {
    "at": 1_800_000_000.0, "direction": "inbound", "leg": "federation", "peer": "friend.example", "local": "example.org", "address": "192.0.2.1", "layer": "pkix",
    "cause": "expired", "detail": "", "by": "us", "condition": None, "reasons": [], "remedy": "Renew it.", "times": 1, "first": 1_800_000_000.0,
}
CERTIFICATE = {"domain": "example.org", "name": "x", "names": [], "expires": 1e10, "left": 1e9, "fingerprint": "ab"}
ROWS = {"streams": STREAM, "lanes": LANE, "peers": PEER, "queue list": WAITING, "refusals": REFUSAL}
MISSING = {"node": "c", "missing": "no answer within 1 s\x1b[2J"}


class AllNodesTests(CommandCase):
    """Answers of all nodes."""

    def test_rows(self) -> None:
        """Each row shows its node. A node without an answer is named in a last line and in JSON, and the status is 4."""
        for verb, row in ROWS.items():
            self.answer = [{**row, "node": "east-7"}, MISSING]
            result = self.run_command(*verb.split())
            self.assertEqual((4, [verb], [{"limit": 1000}]), (result.exit_code, self.asked, self.arguments))
            self.assertIn("east-7", result.output)
            self.assertEqual("node c: no answer within 1 s\\x1b[2J", result.output.splitlines()[-1])
            result = self.run_command(*verb.split(), "--json")
            self.assertEqual((4, self.answer), (result.exit_code, json.loads(result.output)))
            self.answer = [{**row, "node": "east-7"}]
            self.assertEqual(0, self.run_command(*verb.split()).exit_code)

    def test_here(self) -> None:
        """--here is passed on. Without a node in the rows there is no column."""
        for verb, row in ROWS.items():
            self.answer = [row]
            result = self.run_command(*verb.split(), "--here")
            self.assertEqual((0, [{"limit": 1000, "here": True}]), (result.exit_code, self.arguments))
            self.assertNotIn("node", result.output)
        self.answer = ANSWER
        self.run_command("cluster", "status", "--here")
        self.assertEqual([{"here": True}], self.arguments)

    def test_certificates(self) -> None:
        """`certs` shows the node of each certificate. A node without an answer has the status 4, also if a certificate has expired."""
        self.answer = [{**CERTIFICATE, "node": "east-7"}]
        result = self.run_command("certs")
        self.assertEqual((0, [{}], True), (result.exit_code, self.arguments, "east-7" in result.output))
        self.answer = [{**CERTIFICATE, "node": "east-7", "left": -1.0}]
        self.assertEqual(1, self.run_command("certs").exit_code)
        self.answer = [*self.answer, MISSING]
        result = self.run_command("certs", "--here")
        self.assertEqual((4, [{"here": True}], True), (result.exit_code, self.arguments, "node c: no answer" in result.output))

    def test_report(self) -> None:
        """`report` shows the node of each row, and of each failure."""
        failures = {"sessions": 2, "details": [{"direction": "inbound", "layer": "pkix", "cause": "expired", "by": "us", "count": 2}]}
        row = {"peer": "p.example", "successes": {"sessions": 1}, "failures": failures, "stanzas": {}, "bytes": {}, "oldest": 0}
        self.answer = {"day": "2026-11-20", "domains": ["example.org"], "peers": [{**row, "node": "east-7"}], "missing": [MISSING]}
        result = self.run_command("report")
        self.assertEqual((4, [{}], 2), (result.exit_code, self.arguments, result.output.count("east-7")))
        self.answer = {**self.answer, "peers": [row], "missing": []}
        result = self.run_command("report", "--here")
        self.assertEqual((0, [{"here": True}], False), (result.exit_code, self.arguments, "node" in result.output))

    def test_missing_and_nothing_found(self) -> None:
        """If a node is missing, it is not certain that there is nothing: the status is 4."""
        self.answer = [MISSING]
        self.assertEqual(4, self.run_command("streams", "friend.example").exit_code)
        self.answer = []
        self.assertEqual(1, self.run_command("streams", "friend.example").exit_code)

    def test_width(self) -> None:
        """The column of the node fits into 80 places, beside names of a usual length."""
        for text in (tables.streams([{**STREAM, "node": "b"}], Screen(80, bold=False)), tables.queue([{**WAITING, "node": "b"}], Screen(80, bold=False))):
            self.assertIn("node", text.splitlines()[0])
            self.assertTrue(all(len(line) <= 80 for line in text.splitlines()))

    def test_summaries(self) -> None:
        """The overview of each node is shown, that of this one first."""
        status: dict[str, Any] = {
            "version": "1", "uptime": 1.0, "config": "x", "domains": [], "listeners": [], "streams": [], "stanzas": [], "broken": 0, "refusals": 0,
            "waiting": {"stanzas": 0, "bytes": 0, "disk_bytes": 0, "oldest": 0.0},
        }
        self.answer = {**status, "node": "a", "nodes": [{**status, "node": "b", "version": "2"}], "missing": [MISSING]}
        result = self.run_command("status")
        self.assertEqual(4, result.exit_code)
        self.assertLess(result.output.index("node       a\ns2sgw 1,"), result.output.index("node       b\ns2sgw 2,"))
        self.assertIn("node c: no answer", result.output)
        self.answer = {**ANSWER, "nodes": [{**ANSWER, "node": "b", "homes": 7}], "missing": []}
        result = self.run_command("cluster", "status")
        self.assertEqual(0, result.exit_code)
        self.assertIn("homes      7 peers", result.output)
        self.answer = {"bounds": [1.0], "rows": [{"peer": "p", "stanzas": 1, "ages": [1, 0], "unread": 0, "node": "east-7"}], "missing": [MISSING]}
        result = self.run_command("queue", "ages")
        self.assertEqual((4, True), (result.exit_code, "east-7" in result.output))

    def test_changes(self) -> None:
        """A change tells the node that has done it. One that not all nodes have done has the status 4."""
        self.answer = {"lanes": 1, "stanzas": 2, "holds": 1, "node": "b"}
        self.assertIn("dropped by node b", self.run_command("queue", "drop", "friend.example").output)
        self.assertIn("from now on by node b: 2", self.run_command("queue", "hold", "friend.example").output)
        self.answer = {"peer": "friend.example", "closed": 2, "node": "b"}
        self.assertIn("closed by node b.", self.run_command("close", "friend.example").output)
        for verb, answer in (
            ("deny", {"peer": "p", "denied": True, "changed": True, "closed": []}), ("forget", {"peer": "p", "proofs": True, "keys": 0, "pending": 0, "refusals": 0}),
        ):
            self.answer = {**answer, "node": "a", "nodes": ["b"], "missing": [MISSING]}
            result = self.run_command(verb, "friend.example")
            self.assertEqual((4, True), (result.exit_code, "node c: no answer" in result.output))
            self.assertIn("Done by nodes a, b.", result.output)
            self.answer = {**answer, "node": "a", "nodes": ["c", "b"], "missing": []}
            result = self.run_command(verb, "friend.example")
            self.assertEqual((0, True), (result.exit_code, "Done by nodes a, b, c." in result.output))
            self.answer = {**answer, "node": "a", "nodes": [], "missing": []}
            self.assertIn("Done by node a.", self.run_command(verb, "friend.example").output)
            self.answer = answer
            self.assertNotIn("Done", self.run_command(verb, "friend.example").output)


class SpreadTests(CommandCase):
    """`s2sgw cluster spread`."""

    def steps(self, *answers: dict[str, Any]) -> None:
        left = list(answers)
        self.patch(CommandCase, "answer", property(lambda case: left.pop(0) if len(left) > 1 else left[0]))

    def step(self, moved: list[str], left: int, **more: Any) -> dict[str, Any]:
        return {
            "node": "a", "homes": {"a": 3, "b": 2}, "plan": [{"from": "a", "to": "b", "homes": left}] if left else [],
            "moved": [{"peer": peer, "from": "a", "to": "b"} for peer in moved], "kept": [], "missing": [], **more,
        }

    def test_until_even(self) -> None:
        """The step is repeated until the homes are even. What moved is printed, or is in one answer."""
        self.steps(self.step(["p.example", "q\x1b.example"], 1), self.step(["r.example"], 0))
        result = self.run_command("cluster", "spread", "--busy")
        self.assertEqual((0, [{"dry_run": False, "busy": True}, {"busy": True}]), (result.exit_code, self.arguments))
        self.assertEqual(["p.example: a -> b", "q\\x1b.example: a -> b", "r.example: a -> b", "Homes: a 3, b 2."], result.output.splitlines())
        self.steps(self.step(["p.example", "q.example"], 1), self.step(["r.example"], 0))
        answer = json.loads(self.run_command("cluster", "spread", "--json").output)
        self.assertEqual((["p.example", "q.example", "r.example"], []), ([row["peer"] for row in answer["moved"]], answer["plan"]))

    def test_no_progress(self) -> None:
        """If none moves any more, the command ends with status 1, and says why. A node that is missing has the status 4."""
        kept = [{"peer": "p.example", "node": "a", "why": "its stanzas were not stored"}]
        self.steps(self.step(["q.example"], 3), self.step([], 2, kept=kept))
        result = self.run_command("cluster", "spread")
        self.assertEqual((1, 2), (result.exit_code, len(self.asked)))
        self.assertIn("p.example stays at a: its stanzas were not stored", result.output)
        self.assertIn("2 homes did not move", result.output)
        self.steps(self.step([], 0, missing=[MISSING]))
        self.assertEqual(4, self.run_command("cluster", "spread").exit_code)

    def test_kept(self) -> None:
        """A peer that could not be moved in any step is named in the end, with its last reason, unless a later step has moved it."""
        def kept(why: str, *peers: str) -> list[dict[str, Any]]:
            return [{"peer": peer, "node": "a", "why": why} for peer in peers]

        first = self.step(["x.example"], 4, kept=kept("first", "p.example", "q.example", "r.example"))
        second = self.step(["q.example"], 3, kept=kept("second", "r.example"))
        self.steps(first, second, self.step([], 2))
        result = self.run_command("cluster", "spread")
        stays = [line for line in result.output.splitlines() if "stays" in line]
        self.assertEqual((1, ["p.example stays at a: first", "r.example stays at a: second"]), (result.exit_code, stays))
        self.steps(first, second, self.step([], 2))
        answer = json.loads(self.run_command("cluster", "spread", "--json").output)
        self.assertEqual(kept("first", "p.example") + kept("second", "r.example"), answer["kept"])

    def test_missing_once(self) -> None:
        """A node that gave no answer in any step, or that ended between two, is named in the end. One that is back is not."""
        back = {"node": "b", "missing": "no answer"}
        three = {"a": 3, "b": 2, "d": 0}
        first = self.step(["x.example"], 4, missing=[MISSING])
        self.steps(first, self.step(["y.example"], 3, homes=three, missing=[]), self.step(["z.example"], 1, homes={"a": 3, "d": 1}, missing=[back]), self.step([], 0))
        result = self.run_command("cluster", "spread")
        self.assertEqual(4, result.exit_code)
        self.assertEqual(["node c: no answer within 1 s\\x1b[2J", "node d: it has ended meanwhile"], sorted(result.output.splitlines()[-2:]))

    def test_plan(self) -> None:
        """The plan is printed, and asked for once. It is no failure that homes are not even."""
        self.steps(self.step([], 2))
        result = self.run_command("cluster", "spread", "--dry-run")
        self.assertEqual((0, "Homes: a 3, b 2.\na -> b: 2 homes\n", [{"dry_run": True, "busy": False}]), (result.exit_code, result.output, self.arguments))
        self.steps(self.step([], 0))
        self.assertIn("They are even.", self.run_command("cluster", "spread", "--dry-run").output)
