"""Tests of a stranger's text made safe for display."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting.printable import SHOWN, printable, quoted


class PrintableTests(SynchronousTestCase):
    def test_plain_text_stays(self) -> None:
        """Letters of any script are unchanged."""
        self.assertEqual("bücher.example läuft 日本", printable("bücher.example läuft 日本"))

    def test_control_and_format_characters(self) -> None:
        """Line ends, escapes, bidi overrides, surrogates and private characters are written as escapes."""
        self.assertEqual("a\\x0ab\\x1b[31m\\u202e\\udc80\\U000f0000", printable("a\nb\x1b[31m\u202e\udc80\U000f0000"))

    def test_backslash_is_doubled(self) -> None:
        """A text cannot imitate our escapes."""
        self.assertEqual("\\\\x0a", printable("\\x0a"))
        for text in ("\\u202e", "\\U000f0000", "\\\\", "\\"):
            self.assertEqual(text.replace("\\", "\\\\"), printable(text))
        self.assertEqual("\\\\\\x0a", printable("\\\n"))

    def test_other_backslashes_stay(self) -> None:
        """A backslash that begins no escape of ours is unchanged: the name in a certificate is shown as RFC 4514 writes it."""
        self.assertEqual("CN=Example\\, Inc.", printable("CN=Example\\, Inc."))
        self.assertEqual('"CN=Example\\\\, Inc."', quoted("CN=Example\\, Inc."))
        self.assertEqual('"a\\\\\\" b"', quoted('a\\" b'))

    def test_long_text_is_cut(self) -> None:
        """A text above the limit is shortened and marked."""
        self.assertEqual("x" * SHOWN + "…", printable("x" * (SHOWN + 1)))
        self.assertEqual("x" * SHOWN, printable("x" * SHOWN))

    def test_quoted(self) -> None:
        """Quotes are used if a space, a quote or an equals sign would confuse, and not otherwise."""
        self.assertEqual(["plain", '"two words"', '""', '"a=b"', '"\\""'], [quoted(text) for text in ("plain", "two words", "", "a=b", '"')])
