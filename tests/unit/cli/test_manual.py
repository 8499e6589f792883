"""Tests of the manual pages and the shell completion."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from s2sgw.admin.client import RequestFailed
from s2sgw.cli import main as command
from s2sgw.cli import output
from s2sgw.config.loading import SECTIONS
from tests.unit.cli.test_main import commands_of


def page(section: str) -> str:
    return CliRunner().invoke(command.main, ["setup", "man", "--section", section]).output


class ManualTests(SynchronousTestCase):
    def test_commands(self) -> None:
        """s2sgw(1) has every command with its options, and the exit statuses."""
        text = page("1")
        pending: list[tuple[str, click.Command]] = [("", command.main)]
        for words, each in pending:
            pending += [(f"{words} {name}", inner) for name, inner in commands_of(each).items()]
            self.assertIn(f".SS s2sgw{words}".replace("-", r"\-") if words else ".SH COMMANDS", text)
        for words in (r"\-\-older\-than", r"\-\-quietly", "Not permitted, or no answer.", "S2SGW_CONFIG"):
            self.assertIn(words, text)

    def test_configuration(self) -> None:
        """s2sgw.toml(5) has every section, and keys with their defaults."""
        text = page("5")
        for section in SECTIONS:
            self.assertRegex(text, rf"\.SH .*\[{section}")
        self.assertRegex(text, r'\\fBhold\\fR\n.*Default: "10m"\.')

    def test_no_stray_commands(self) -> None:
        """No text is taken for a command of roff."""
        known = {".TH", ".SH", ".SS", ".PP", ".TP", ".nf", ".fi", ".B", ".BR"}
        for section in ("1", "5"):
            self.assertEqual(set(), {line.split()[0] for line in page(section).splitlines() if line.startswith((".", "'"))} - known)

    def test_formatted(self) -> None:
        """groff, if it is installed, prints no warning."""
        if shutil.which("groff") is None:
            raise SkipTest("there is no groff")
        for section in ("1", "5"):
            done = subprocess.run(["groff", "-k", "-man", "-Tutf8", "-ww"], input=page(section), capture_output=True, text=True, check=True, timeout=60)
            self.assertEqual([], [line for line in done.stderr.splitlines() if "can't break line" not in line and "cannot break" not in line and "adjust" not in line])
            self.assertIn("S2SGW", done.stdout)


class CompletionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.patch(output, "ask", self.ask)
        self.patch(output, "_socket", lambda config: Path("/socket"))

    def ask(self, path: Path, verb: str, arguments: dict[str, Any], seconds: float = 0) -> list[str]:
        self.asked.append((verb, arguments, seconds))
        return ["peer.example", "peering.example", "pe\x1b[2J"]

    def complete(self, *words: str) -> list[str]:
        return [str(item.value) for item in ShellComplete(command.main, {}, "s2sgw", "_S2SGW_COMPLETE").get_completions(list(words[:-1]), words[-1])]

    def test_commands(self) -> None:
        """Commands, commands of groups, and options are completed."""
        self.assertEqual(["status", "streams"], self.complete("st"))
        self.assertIn("older-than", " ".join(self.complete("queue", "drop", "--")))
        self.assertEqual(["approve", "add"], sorted(self.complete("pins", "a"), reverse=True))

    def test_peers(self) -> None:
        """The names of peers come from the gateway, within a second. Names that are not printable are left out."""
        for words in (["explain", "pe"], ["streams", "pe"], ["queue", "drop", "pe"], ["deny", "pe"]):
            self.assertEqual(["peer.example", "peering.example"], self.complete(*words))
        self.assertEqual(("names", {"prefix": "pe"}, 1), self.asked[0])

    def test_no_gateway(self) -> None:
        """Without a gateway nothing is completed, and no error is printed."""
        def refuse(*_: object, **__: object) -> None:
            raise RequestFailed("nobody", "not-running")

        self.patch(output, "ask", refuse)
        self.assertEqual([], self.complete("explain", "pe"))

    def test_scripts(self) -> None:
        """There is a script for each shell."""
        for shell, words in (("bash", "complete"), ("zsh", "#compdef s2sgw"), ("fish", "complete --no-files --command s2sgw")):
            self.assertRegex(CliRunner().invoke(command.main, ["setup", "completion", shell]).output, re.escape(words))
