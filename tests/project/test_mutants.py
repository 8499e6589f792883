"""The table of `make mutants`: each mutation is possible, and names existing tests."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.cluster import RULES
from tests.mutants.custody import FAULTS, MODEL, MODEL_TESTS, PROMISES
from tests.mutants.mutations import MUTATIONS

ALL = (*MUTATIONS, *FAULTS, *PROMISES)
ROOT = Path(__file__).resolve().parent.parent.parent


class TableTests(SynchronousTestCase):
    """The rows of mutations."""

    def test_can_be_made(self) -> None:
        """The text to change occurs once, and its replacement can be compiled."""
        for each in ALL:
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
        """Each mutation names a rule, and existing tests."""
        self.assertEqual(len({each.name for each in ALL}), len(ALL))
        for each in ALL:
            self.assertRegex(each.broken, r"^(R\d+|fault|promise): ")
            self.assertTrue(each.tests, each.name)
            for name in each.tests:
                namedAny(name)

    def test_model(self) -> None:
        """Each fault that the model must find is in the table, and the model's tests exist."""
        self.assertEqual(set(), set(MODEL) - {each.name for each in ALL})
        for name in MODEL_TESTS:
            namedAny(name)

    def test_faults_are_documented(self) -> None:
        """docs/durability.md names each mutation that brings back a fault."""
        text = (ROOT / "docs" / "durability.md").read_text(encoding="utf-8")
        self.assertEqual([], [each.name for each in FAULTS if not re.search(rf"\b{each.name}\b", text)])
