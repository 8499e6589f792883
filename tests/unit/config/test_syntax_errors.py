"""Tests of the messages for a file that is not TOML."""

from __future__ import annotations

import tomllib

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.config.syntax_errors import syntax_complaint


class SyntaxTests(SynchronousTestCase):
    def complaint(self, text: str) -> str:
        error = self.assertRaises(tomllib.TOMLDecodeError, tomllib.loads, text)
        return syntax_complaint(text, str(error))

    def test_twice(self) -> None:
        """A section or a key that occurs twice is reported with both lines."""
        self.assertEqual("line 3: [tls] stands here a second time (first on line 1)", self.complaint("[tls]\n[log]\n[ tls ] # again\n"))
        self.assertEqual("line 4: level is set a second time (first on line 2)", self.complaint('[log]\nlevel = "info"\n\nlevel = "warn"\n'))
        self.assertEqual('line 3: [peers."a.example"] stands here a second time (first on line 1)', self.complaint('[peers."a.example"]\nallow = true\n[peers."a.example"]\n'))

    def test_other_section(self) -> None:
        """The same key in another section is not the first one."""
        self.assertEqual("line 5: x is set a second time (first on line 4)", self.complaint("[a]\nx = 1\n[b]\nx = 2\nx = 3\n"))

    def test_truth(self) -> None:
        """The words of other languages for true and false are shown as TOML writes them, not in quotes."""
        for word, right in (("True", "true"), ("yes", "true"), ("on", "true"), ("FALSE", "false"), ("no", "false"), ("off", "false")):
            self.assertEqual(f"line 2: write allow = {right}", self.complaint(f"[peers.default]\nallow = {word}  # so\n"))

    def test_no_quotes(self) -> None:
        """A value without quotes is shown with them."""
        self.assertEqual('line 2: put the value in quotes: level = "debug"', self.complaint("[log]\nlevel = debug # loud\n"))
        self.assertEqual('line 1: put the value in quotes: hold = "10m"', self.complaint("hold = 10m\n"))
        self.assertEqual('line 1: put the value in quotes: state = "/var/lib/s2sgw"', self.complaint("state = /var/lib/s2sgw"))
        self.assertEqual('line 1: put the value in quotes: address = "127.0.0.1:5269"', self.complaint("address = 127.0.0.1:5269"))

    def test_open_quote(self) -> None:
        """A quote that is not closed is reported."""
        self.assertEqual("line 2: a quote is not closed on this line", self.complaint('[log]\nlevel = "info\n'))

    def test_others(self) -> None:
        """Other errors have the parser's text, with its line; also at the end of the file."""
        self.assertEqual("line 2: is not valid TOML: Expected '=' after a key in a key/value pair", self.complaint("[log]\nlevel\n"))
        self.assertTrue(self.complaint("[log]\nlevel = [").startswith("line 2: is not valid TOML: "))
        self.assertEqual("line 1: is not valid TOML: odd", syntax_complaint("", "odd"))
