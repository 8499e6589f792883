"""Tests of tables for a terminal."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cli.text_table import Column, Screen, hanging, number, paragraphs, table, width_of, wrapped

COLUMNS = (Column("name", "name"), number("count", "count", rank=1), Column("note", "note", rank=2), Column("empty", "empty", rank=1))
ROWS = [{"name": "a.example", "count": 5, "note": "two words"}, {"name": "b.example", "count": 12, "note": ""}]


class TableTests(SynchronousTestCase):
    def test_whole(self) -> None:
        """Without a limit every column is printed, and no line ends in spaces."""
        self.assertEqual(
            ["name       count  note       empty", "a.example      5  two words  -", "b.example     12  -          -"],
            table(COLUMNS, ROWS, Screen(None, False)).splitlines(),
        )

    def test_narrow(self) -> None:
        """Columns without a value are left out first, then those of the highest rank. A line names the omitted columns that had values."""
        self.assertEqual("name       count  note", table(COLUMNS, ROWS, Screen(30, False)).splitlines()[0])
        lines = table(COLUMNS, ROWS, Screen(24, False)).splitlines()
        self.assertEqual(["name       count", "a.example      5", "b.example     12"], lines[:3])
        self.assertIn("note", " ".join(lines[3:]))
        self.assertNotIn("empty", " ".join(lines[3:]))

    def test_too_narrow(self) -> None:
        """If not even the first column fits, each row is printed as a list."""
        self.assertEqual("name   a.example\ncount  5\nnote   two words\n\nname   b.example\ncount  12", table(COLUMNS, ROWS, Screen(8, False)))

    def test_bold(self) -> None:
        """Heads are bold if the terminal supports it."""
        self.assertTrue(table(COLUMNS, ROWS, Screen(None, True)).startswith("\x1b[1mname"))
        self.assertNotIn("\x1b", table(COLUMNS, ROWS, Screen(None, False)))

    def test_wide_characters(self) -> None:
        """A wide character counts as two places, a combining one as none."""
        self.assertEqual((4, 1, 1), (width_of("例え"), width_of("u\u0308"), width_of("ü")))
        first, second = table((Column("name", "name"), Column("x", "x")), [{"name": "例え", "x": 1}], Screen(None, False)).splitlines()
        self.assertEqual(width_of(first), width_of(second))

    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.lists(st.fixed_dictionaries({"name": st.text("abc", max_size=30), "count": st.integers(0, 10**9), "note": st.text("xyz ", max_size=40)}), min_size=1, max_size=5),
        st.integers(1, 120),
    )
    def test_no_word_is_cut(self, rows: list[dict[str, object]], width: int) -> None:
        """The name of each row is complete, and each line of a table fits the screen."""
        text = table(COLUMNS, rows, Screen(width, False))
        for row in rows:
            self.assertIn(str(row["name"]), text)
        if text.startswith("name ") and "count" in text.splitlines()[0]:
            self.assertTrue(all(width_of(line) <= width for line in text.partition("\n\n")[0].splitlines()), text)

    def test_wrapped(self) -> None:
        """Lines break between words. A word that is too long has a line of its own."""
        self.assertEqual(["one two", "  three", "  incomprehensible", "  x"], wrapped("one two three incomprehensible x", 8))
        self.assertEqual(["  a  b", "    c"], wrapped("  a  b c", 6))
        self.assertEqual("  a b\n    c\nx\\x1b", paragraphs(["  a b c", "x\x1b"], Screen(6, False)))


class HangingTests(SynchronousTestCase):
    """Tests of text after a head that continues below."""

    def test_fits(self) -> None:
        """Text that fits, and all text on a pipe, is one line."""
        self.assertEqual("head: two words", hanging("head: ", "two words", "  ", Screen(15, False)))
        self.assertEqual("head: two words", hanging("head: ", "two words", "  ", Screen(None, False)))
        self.assertEqual("head:", hanging("head: ", "", "  ", Screen(80, False)))

    def test_continued(self) -> None:
        """Text that does not fit continues below, also a first word that does not fit beside the head."""
        self.assertEqual("head: two\n  words\n  more", hanging("head: ", "two words more", "  ", Screen(10, False)))
        self.assertEqual("head:\n  longer", hanging("head: ", "longer", "  ", Screen(9, False)))

    @given(st.text("ab漢 ", max_size=60), st.integers(1, 40))
    def test_no_word_is_cut(self, text: str, width: int) -> None:
        """Every word is complete and in order. A line that is too wide is a single word."""
        lines = hanging("head  ", text, "  ", Screen(width, False)).splitlines()
        self.assertEqual(text.split(), " ".join(lines).split()[1:])
        for line in lines[1:]:
            self.assertTrue(width_of(line) <= width or len(line.split()) == 1, line)
