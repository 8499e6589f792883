"""Tests of a stranger's text in printable characters."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting.printable import printable, quoted
from tests.support.examples import EXAMPLES

ESCAPE = re.compile(r"\\(\\|x..|u.{4}|U.{8})")


class PrintableTests(SynchronousTestCase):
    @settings(max_examples=EXAMPLES, deadline=None)
    @given(st.text(alphabet=st.characters(), max_size=60))
    def test_printable(self, text: str) -> None:
        """Any text is shown in printable characters, and different texts are shown differently."""
        shown = printable(text)
        self.assertTrue(shown.isprintable())
        self.assertEqual(text, ESCAPE.sub(lambda found: "\\" if found[1] == "\\" else chr(int(found[1][1:], 16)), shown))
        self.assertTrue(quoted(text).isprintable())
