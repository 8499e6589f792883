"""Tests of `s2sgw console`."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cli import console
from s2sgw.cli.main import main
from s2sgw.config import password_hash
from s2sgw.config.password_hash import PasswordHash


class ConsoleCommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(password_hash, "COST", password_hash.LEAST_COST)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answer = {"user": "root", "role": "operator", "token": "T", "expires": 1.0, "address": "http://127.0.0.1:8269/login?token=T"}
        self.patch(console, "asked", self.ask)

    def ask(self, config: object, as_json: bool, verb: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append((verb, arguments))
        return self.answer

    def run_command(self, *words: str, typed: str = "") -> Result:
        return CliRunner().invoke(main, ["console", *words], input=typed)

    def test_token(self) -> None:
        """The output is a link, or JSON, with the requested role and name."""
        self.assertEqual("http://127.0.0.1:8269/login?token=T\n", self.run_command("token").stdout)
        self.assertEqual(self.answer, json.loads(self.run_command("token", "--json", "--user", "root", "--read-only").stdout))
        self.assertEqual(
            [("console token", {"user": "operator", "role": "operator"}), ("console token", {"user": "root", "role": "read-only"})], self.asked,
        )
        self.answer["address"] = ""
        self.assertEqual("/login?token=T\n", self.run_command("token").stdout)

    def test_password(self) -> None:
        """The output is the line for the configuration. The password is not shown."""
        result = self.run_command("password", "alice", typed="correct horse\ncorrect horse\n")
        line = result.stdout.strip().splitlines()[-1]
        self.assertTrue(line.startswith('"alice" = "scrypt:'), line)
        self.assertTrue(PasswordHash.parse(line.partition(" = ")[2].strip('"')).matches("correct horse"))
        self.assertNotIn("correct horse", result.output)

    def test_short_password(self) -> None:
        """A password that is too short is refused."""
        result = self.run_command("password", "alice", typed="short\nshort\n")
        self.assertEqual(2, result.exit_code)
        self.assertIn("8 to 1024 bytes", result.output)
