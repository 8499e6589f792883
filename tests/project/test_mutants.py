"""The table of `make mutants`: each mutation is possible, and names existing tests."""

from __future__ import annotations

from pathlib import Path

from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.mutations import MUTATIONS

ROOT = Path(__file__).resolve().parent.parent.parent


class TableTests(SynchronousTestCase):
    """The rows of mutations."""

    def test_can_be_made(self) -> None:
        """The text to change occurs once, and its replacement can be compiled."""
        for each in MUTATIONS:
            source = (ROOT / each.file).read_text(encoding="utf-8")
            self.assertEqual((source.count(each.old), each.old != each.new), (1, True), each.name)
            compile(source.replace(each.old, each.new), each.file, "exec")

    def test_tests(self) -> None:
        """Each mutation names a rule, and existing tests."""
        self.assertEqual(len({each.name for each in MUTATIONS}), len(MUTATIONS))
        for each in MUTATIONS:
            self.assertRegex(each.broken, r"^R\d+: ")
            self.assertTrue(each.tests, each.name)
            for name in each.tests:
                namedAny(name)
