"""The table of `make mutants`: each mutation can be made, and names tests that are there."""

from __future__ import annotations

from pathlib import Path

from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.cluster import RULES
from tests.mutants.mutations import MUTATIONS

ROOT = Path(__file__).resolve().parent.parent.parent


class TableTests(SynchronousTestCase):
    """What a mutation has to say."""

    def test_can_be_made(self) -> None:
        """The text to change occurs once, and what takes its place can be compiled."""
        for each in MUTATIONS:
            source = (ROOT / each.file).read_text(encoding="utf-8")
            self.assertEqual((source.count(each.old), each.old != each.new), (1, True), each.name)
            compile(source.replace(each.old, each.new), each.file, "exec")

    def test_rules_of_the_cluster(self) -> None:
        """The same holds for those that the simulation of a cluster must notice."""
        for each in RULES:
            file = f"s2sgw/cluster/{each.module}.py"
            source = (ROOT / file).read_text(encoding="utf-8")
            self.assertEqual((source.count(each.old), each.old != each.new), (1, True), each.name)
            compile(source.replace(each.old, each.new), file, "exec")

    def test_tests(self) -> None:
        """Each names a rule, and tests that exist."""
        self.assertEqual(len({each.name for each in MUTATIONS}), len(MUTATIONS))
        for each in MUTATIONS:
            self.assertRegex(each.broken, r"^R\d+: ")
            self.assertTrue(each.tests, each.name)
            for name in each.tests:
                namedAny(name)
