"""Tests of a long configuration that is cut into sections of peers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.policy import peer_pieces
from s2sgw.policy.peer_pieces import LONG, cut

FIRST, SECOND, THIRD, FOURTH = (f'[peers."{name}.example"]\nhold = "1m"\n' for name in ("a", "b", "c", "d"))
GATEWAY = '[gateway]\ndomains = ["example.org"]\n\n'


class CutTests(SynchronousTestCase):
    """Tests of the places where a file is cut."""

    def setUp(self) -> None:
        self.patch(peer_pieces, "LONG", 0)

    def cut(self, text: str) -> tuple[str, list[str]]:
        """Return the rest, and the pieces as documents."""
        rest, pieces = cut(text)
        return rest, [piece.document for piece in pieces]

    def test_sections(self) -> None:
        """The first and the last of adjacent sections stay in the rest."""
        tail = '[queue]\nhold = "1h"\n'
        rest = GATEWAY + FIRST + FOURTH + tail
        self.assertEqual((rest, [SECOND, THIRD]), self.cut(GATEWAY + FIRST + SECOND + THIRD + FOURTH + tail))
        self.assertEqual((GATEWAY + FIRST + SECOND, []), self.cut(GATEWAY + FIRST + SECOND))
        self.assertEqual((GATEWAY, []), self.cut(GATEWAY))

    def test_several_places(self) -> None:
        """Sections on both sides of another one are cut apart."""
        text = GATEWAY + FIRST + SECOND + THIRD + "[log]\n" + THIRD + SECOND + FIRST
        self.assertEqual((GATEWAY + FIRST + THIRD + "[log]\n" + THIRD + FIRST, [SECOND, SECOND]), self.cut(text))

    def test_parts(self) -> None:
        """A piece has its name and what is behind its header, so that equal sections can be told by their text."""
        _, pieces = cut(GATEWAY + FIRST + SECOND + "[peers.default]  # all\nallow = false\n" + FOURTH)
        self.assertEqual([("b.example", '\nhold = "1m"\n'), ("default", "  # all\nallow = false\n")], list(pieces))

    def test_tables_within(self) -> None:
        """A table within a section goes with it, whatever name it has. The piece then has no name of its own."""
        within = SECOND + '[peers."b.example".limits]\nstreams = 2\n[peers."\\u0062.example".features]\nsm = false\n'
        _, pieces = cut(GATEWAY + FIRST + within + THIRD + FOURTH)
        self.assertEqual([("", within), ("c.example", '\nhold = "1m"\n')], list(pieces))

    def test_other_headers(self) -> None:
        """Any other header, and a row of an array, ends the adjacent sections."""
        for line in ("[queue]", "  [queue]", "\t[peers]", "[[listen]]", '[[peers."a.example"]]', '["x"]', '[ peers."x.example" ]'):
            text = GATEWAY + FIRST + SECOND + line + "\n" + THIRD + FOURTH
            self.assertEqual((text, []), self.cut(text), line)

    def test_long_strings(self) -> None:
        """A file with strings of several lines is not cut: they might contain lines that look like headers."""
        for quotes in ('"""', "'''"):
            text = GATEWAY + FIRST + SECOND + f"x = {quotes}\n" + THIRD + quotes + "\n" + FOURTH
            self.assertEqual((text, []), self.cut(text))


class LongTests(SynchronousTestCase):
    """Tests of the length from which on a file is cut."""

    def test_short(self) -> None:
        """A short file is not cut. A long one is."""
        short = GATEWAY + FIRST + SECOND + THIRD
        self.assertEqual(short, cut(short)[0])
        self.assertEqual(GATEWAY + "#" * LONG + "\n" + FIRST + THIRD, cut(GATEWAY + "#" * LONG + "\n" + FIRST + SECOND + THIRD)[0])
