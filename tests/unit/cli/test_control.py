"""Tests of `close`, `deny`, `forget` and `log level`: their requests, output and exit status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cli import main as command
from s2sgw.cli import output

CLOSED = {"direction": "inbound", "peer": "evil.example", "local": "here.example", "address": "", "cause": "deny-listed", "detail": "x\x1b[2J"}


class ControlTests(SynchronousTestCase):
    def run_command(self, answer: Any, *words: str) -> Result:
        self.asked: list[tuple[str, dict[str, Any]]] = []

        def ask(path: object, verb: str, arguments: dict[str, Any]) -> Any:
            self.asked.append((verb, arguments))
            return answer

        self.patch(output, "ask", ask)
        self.patch(output, "_socket", lambda config: Path("/socket"))
        return CliRunner().invoke(command.main, list(words), catch_exceptions=False)

    def test_close(self) -> None:
        """The number of streams is printed. The status is 1 if there was none."""
        result = self.run_command({"peer": "evil.example", "closed": 2}, "close", "evil.example")
        self.assertEqual((0, "2 streams with evil.example closed.\n"), (result.exit_code, result.output))
        self.assertEqual([("close", {"peer": "evil.example"})], self.asked)
        self.assertEqual(1, self.run_command({"peer": "evil.example", "closed": 0}, "close", "evil.example").exit_code)

    def test_drain(self) -> None:
        """The waiting stanzas are printed with what will happen to them. Those that no disk holds are not called kept."""
        answer = {"waiting": 155, "kept": True, "unsaved": 0}
        self.assertIn("155 stanzas waiting; those that cannot be delivered now are kept for the next start.", self.run_command(answer, "drain").output)
        self.assertIn("now are bounced.", self.run_command({**answer, "kept": False}, "drain").output)
        told = self.run_command({**answer, "unsaved": 46}, "drain").output
        self.assertIn("46 of them in memory only, because the disk is full or fails", told)
        self.assertIn("neither delivered nor bounced within seconds are lost", told)
        self.assertIn("The others that cannot be delivered now are kept", told)

    def test_reload(self) -> None:
        """The file is named, with or without changes; a reload that is refused is said to be that, whatever the reason."""
        answer: dict[str, Any] = {"ok": True, "config": "/etc/s2sgw.toml", "warnings": [], "changes": [], "more_changes": 0, "certificates": [], "closed": []}
        result = self.run_command(answer, "reload")
        self.assertEqual((0, "Configuration reloaded from /etc/s2sgw.toml; no changes.\n"), (result.exit_code, result.output))
        result = self.run_command({**answer, "ok": False, "complaints": ["the gateway is stopping"]}, "reload")
        self.assertEqual(2, result.exit_code)
        self.assertEqual("The reload of /etc/s2sgw.toml was refused, and nothing has changed:\n  the gateway is stopping\n", result.output)

    def test_reload_of_another_file(self) -> None:
        """A gateway that was started with another file than --config says so."""
        answer: dict[str, Any] = {"ok": True, "config": "/etc/s2sgw.toml", "warnings": [], "changes": [], "more_changes": 0, "certificates": [], "closed": []}
        result = self.run_command(answer, "reload", "--config", "/tmp/other.toml")
        self.assertIn("note: the gateway was started with /etc/s2sgw.toml, and reads that file, not /tmp/other.toml", result.stderr)
        self.assertEqual("", self.run_command(answer, "reload", "--config", "/etc/../etc/s2sgw.toml").stderr)

    def test_deny(self) -> None:
        """The closed streams are printed. The status is 1 if nothing changed."""
        answer = {"peer": "evil.example", "denied": True, "changed": True, "closed": [CLOSED]}
        result = self.run_command(answer, "deny", "evil.example")
        self.assertIn("evil.example is denied.", result.output)
        self.assertIn("closed: inbound stream of evil.example with here.example", result.output)
        self.assertNotIn("\x1b", result.output)
        self.assertEqual([("deny", {"peer": "evil.example", "undo": False})], self.asked)
        result = self.run_command({**answer, "denied": False, "changed": False, "closed": []}, "deny", "evil.example", "--undo")
        self.assertEqual((1, "evil.example was not denied.\n"), (result.exit_code, result.output))

    def test_internationalised(self) -> None:
        """Names are shown in U-labels, as in all tables. One that cannot be read is shown as it is."""
        name = "xn--mller-kva.example"
        self.assertEqual("müller.example\n*.müller.example\nxn--\u20ac\n", self.run_command([name, f"*.{name}", "xn--\u20ac"], "deny", "--list").output)
        answer = {"peer": f"*.{name}", "denied": True, "changed": True, "closed": []}
        self.assertEqual("*.müller.example is denied.\n", self.run_command(answer, "deny", name).output)
        self.assertEqual("0 streams with müller.example closed.\n", self.run_command({"peer": name, "closed": 0}, "close", name).output)
        forgotten = {"peer": name, "proofs": False, "keys": 0, "pending": 0, "refusals": 0}
        self.assertIn("Forgotten of müller.example:", self.run_command(forgotten, "forget", name).output)

    def test_deny_list(self) -> None:
        """The names are printed. A PEER with --list, or neither of them, is an error."""
        self.assertEqual("*.a.example\nb.example\n", self.run_command(["*.a.example", "b.example"], "deny", "--list").output)
        self.assertEqual([("deny list", {})], self.asked)
        self.assertIn("No peer is denied", self.run_command([], "deny", "--list").output)
        for words, said in (
            (["deny"], "Name a PEER, or use --list."), (["deny", "--undo"], "Name a PEER, or use --list."),
            (["deny", "a.example", "--list"], "--list takes no PEER"), (["deny", "--list", "--undo"], "--list takes no PEER"),
        ):
            result = self.run_command([], *words)
            self.assertEqual(2, result.exit_code)
            self.assertIn(said, result.output)

    def test_forget(self) -> None:
        """The removed data is printed as text."""
        answer = {"peer": "evil.example", "proofs": True, "keys": 1, "pending": 0, "refusals": 2}
        output_ = self.run_command(answer, "forget", "evil.example", "--keys").output
        self.assertEqual("Forgotten of evil.example: how it was verified, 1 key, 0 pending certificates, 2 refusals.\n", output_)
        self.assertEqual([("forget", {"peer": "evil.example", "keys": True})], self.asked)

    def test_log_level(self) -> None:
        """The level, or the change, is printed. An unknown level is an error."""
        self.assertEqual("info\n", self.run_command({"level": "info", "before": "info"}, "log", "level").output)
        self.assertEqual("info -> debug\n", self.run_command({"level": "debug", "before": "info"}, "log", "level", "debug").output)
        self.assertEqual([("log level", {"level": "debug"})], self.asked)
        self.assertEqual(2, self.run_command({}, "log", "level", "loud").exit_code)
