"""The account of `tests.durability.nodes` sees what it must see."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.durability.nodes import Written, account, read


def writes(text: str) -> list[Written]:
    """Return writes to one peer, 0.1 s apart: a letter is the node, a dot is none."""
    return [Written(number / 10, node, "p.example") for number, node in enumerate(text) if node != "."]


class NodesAccountTests(SynchronousTestCase):
    """Overlaps, silence, and lines that are cut off."""

    def test_one_after_the_other(self) -> None:
        """A peer may move, and may come back."""
        found = account(writes("aaa....bbbccccccccccccaaa"), 1)
        self.assertEqual((found.writes, found.overlaps), (21, []))
        self.assertAlmostEqual(found.silence, 0.5)

    def test_overlap(self) -> None:
        """A write of another node between two of one node is seen, even a single one."""
        self.assertEqual(len(account(writes("aaabaaa"), 1).overlaps), 1)
        self.assertNotEqual(account(writes("aaabababbb"), 1).overlaps, [])

    def test_nothing(self) -> None:
        """A peer without a writer is no success."""
        self.assertNotEqual(account(writes("aaa"), 2).overlaps, [])
        self.assertNotEqual(account([], 1).overlaps, [])

    def test_read(self) -> None:
        """Notices and unfinished lines are no writes."""
        file = Path(self.mktemp())
        file.write_text("1.5 a notice SessionBegan\n2.5 a wrote p.example q.example\n3.5 b wrote p.exa\n4.5 b\n\n", encoding="utf-8")
        self.assertEqual(read(file), [Written(2.5, "a", "p.example"), Written(2.5, "a", "q.example")])
