"""Tests of `s2sgw queue …`: requests, output and exit status."""

from __future__ import annotations

from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cli import main as command
from s2sgw.cli import output as answering
from s2sgw.cli import tables

PEER = {
    "peer": "gone.example", "lanes": 2, "stanzas": 3, "bytes": 2048, "oldest": 75.0, "states": ["backing off", "held"],
    "cause": "connection-refused", "retry": 2.5, "blocked": ["next-hop"], "full": ["disk"], "held": ["example.org gone.example"],
}
STANZA = {
    "sender": "example.org", "recipient": "gone.example", "number": 7, "place": "spooled", "kind": "iq", "type": "get", "id": "x\x1b[2J",
    "bytes": 400, "age": 5.0, "left": 20.0, "written": False, "held": True, "data": None,
}
POISON = {"at": 1_800_000_000.0, "sender": "example.org", "recipient": "gone.example", "kind": "message", "id": "p", "bytes": 10, "cause": "poison", "data": "<message>\x1b</message>"}


class QueueCommandTests(SynchronousTestCase):
    """Tests of each verb of the group."""

    def run_command(self, answer: Any, *words: str) -> Result:
        self.asked: list[tuple[str, dict[str, Any]]] = []

        def ask(path: object, verb: str, arguments: dict[str, Any]) -> Any:
            self.asked.append((verb, arguments))
            return answer

        self.patch(answering, "ask", ask)
        self.patch(answering, "_socket", lambda config: config)
        return CliRunner().invoke(command.main, ["queue", *words])

    def test_list(self) -> None:
        """By peer, everything that an operator asks first is printed. The status is 1 if the named peer has no stanzas."""
        result = self.run_command([PEER], "list")
        for words in ("gone.example", "backing off, held", "2.0 KiB", "1 min 15 s", "connection-refused", "2.5 s", "next-hop", "disk", "example.org gone.example"):
            self.assertIn(words, result.output)
        self.assertEqual(([("queue list", {"limit": 1000})], 0), (self.asked, result.exit_code))
        self.assertEqual(1, self.run_command([], "list", "gone.example").exit_code)
        self.assertIn("No stanzas wait", self.run_command([], "list").output)

    def test_poison(self) -> None:
        """The text of each stanza is printed, escaped."""
        result = self.run_command([POISON], "list", "--poison")
        self.assertIn("example.org -> gone.example  message  poison", result.output)
        self.assertIn("<message>\\x1b</message>", result.output)
        self.assertEqual([("queue poison", {"limit": 1000})], self.asked)
        self.assertIn("There are no poison stanzas", self.run_command([], "list", "--poison").output)

    def test_show(self) -> None:
        """A target has one, two or three words. The text of one stanza is printed in full."""
        self.assertIn("spooled, held", self.run_command([STANZA], "show", "gone.example").output)
        self.assertNotIn("\x1b", self.run_command([STANZA], "show", "gone.example").output)
        result = self.run_command([{**STANZA, "data": "<iq>" + "x" * 1000 + "</iq>"}], "show", "example.org", "gone.example", "7")
        self.assertIn("</iq>", result.output)
        self.assertEqual([("queue show", {"target": ["example.org", "gone.example", 7], "limit": 1000})], self.asked)
        self.assertEqual(1, self.run_command([], "show", "gone.example").exit_code)
        self.assertEqual(2, self.run_command([], "show").exit_code)

    def test_changes(self) -> None:
        """Each change prints its number. Without stanzas, drop, flush and release have the status 1. An empty lane may be held."""
        for words, verb, more, said, of_nothing in (
            (["hold"], "queue hold", {}, "gone.example is held from now on: 3 stanzas in 2 lanes, and what comes", 0), (["release"], "queue release", {}, "released", 1),
            (["drop"], "queue drop", {"quietly": False}, "dropped", 1), (["drop", "--quietly"], "queue drop", {"quietly": True}, "dropped", 1),
            (["flush"], "queue flush", {}, "are retried now", 1),
        ):  # fmt: skip
            result = self.run_command({"lanes": 2, "stanzas": 3, "holds": 1}, *words, "gone.example")
            self.assertIn(said, result.output)
            self.assertEqual(([(verb, {"target": ["gone.example"], **more})], 0), (self.asked, result.exit_code))
            self.assertEqual(of_nothing, self.run_command({"lanes": 0, "stanzas": 0, "holds": 0}, *words, "gone.example").exit_code)

    def test_release_without_stanzas(self) -> None:
        """A hold that held nothing back yet is told from none at all."""
        for holds, words in ((2, "2 holds removed; 0 stanzas in 0 lanes released"), (0, "nothing was held; 0 stanzas in 0 lanes released")):
            result = self.run_command({"lanes": 0, "stanzas": 0, "holds": holds}, "release", "gone.example")
            self.assertEqual((words, int(not holds)), (result.output.strip(), result.exit_code))

    def test_release_under_another_hold(self) -> None:
        """A lane whose peer is held too is not told as released."""
        for holds, words in ((1, "1 hold removed"), (0, "no hold of its own")):
            answer = {"lanes": 0, "stanzas": 0, "holds": holds, "held": ["gone.example"]}
            result = self.run_command(answer, "release", "here.example", "gone.example")
            self.assertEqual((f"{words}; it is still held, by the hold of gone.example", int(not holds)), (result.output.strip(), result.exit_code))

    def test_tables_hold_everything(self) -> None:
        """Every column has its cell."""
        for columns, row in ((tables.QUEUE, PEER), (tables.QUEUED, STANZA)):
            self.assertEqual(len(columns), len([column.cell(row) for column in columns]))

    def test_ages(self) -> None:
        """There is a column for each age. The status is 1 if the named peer has no stanzas."""
        answer = {"bounds": [60.0, 3600.0, 86400.0], "rows": [{"peer": "gone.example", "stanzas": 6, "ages": [1, 2, 3, 0], "unread": 0}]}
        lines = self.run_command(answer, "ages").output.splitlines()
        self.assertEqual(["peer", "waiting", "<1m", "<1h", "<1d", ">1d", "not", "read"], lines[0].split())
        self.assertEqual(["gone.example", "6", "1", "2", "3", "0", "-"], lines[1].split())
        self.assertEqual(("queue ages", {"limit": 1000}), self.asked[0])
        self.assertEqual(1, self.run_command({**answer, "rows": []}, "ages", "x.example").exit_code)
        self.assertIn("No stanzas wait", self.run_command({**answer, "rows": []}, "ages").output)

    def test_drop_older(self) -> None:
        """An age is written like durations in the configuration."""
        self.run_command({"lanes": 1, "stanzas": 1}, "drop", "gone.example", "--older-than", "2h")
        self.assertEqual([("queue drop", {"target": ["gone.example"], "quietly": False, "older_than": 7200.0})], self.asked)
        self.assertEqual(2, self.run_command({}, "drop", "gone.example", "--older-than", "long").exit_code)
