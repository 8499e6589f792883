"""docs/custody.md and docs/durability.md: each test that they name exists."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.durability.custody import load

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = ("custody.md", "durability.md")

#: `test_queue.SpoolTests.test_window`, `test_queue.SpoolTests` or `test_queue`; `custody: slow-disk`
_TEST = re.compile(r"`(test_\w+(?:\.\w+){0,2})`")
_SCENARIO = re.compile(r"`custody: ([\w:-]+)`")


def _text(document: str) -> str:
    return (ROOT / "docs" / document).read_text(encoding="utf-8")


@lru_cache
def tests() -> frozenset[str]:
    """Return the names of all test modules, classes (with what they inherit from tests.support) and methods."""
    found: set[str] = set()
    contracts = [node for path in ROOT.glob("tests/support/*.py") for node in ast.parse(path.read_text(encoding="utf-8")).body]
    inherited = {node.name: _methods(node) for node in contracts if isinstance(node, ast.ClassDef)}
    for path in ROOT.glob("tests/**/test_*.py"):
        found.add(path.stem)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                name = f"{path.stem}.{node.name}"
                bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                methods = _methods(node) | set().union(*(inherited.get(base, set()) for base in bases))
                found |= {name, *(f"{name}.{method}" for method in methods)}
    return frozenset(found)


def _methods(node: ast.ClassDef) -> set[str]:
    return {each.name for each in node.body if isinstance(each, ast.FunctionDef)}


class CustodyDocumentTests(SynchronousTestCase):
    """Each promise has its test."""

    def test_tests_exist(self) -> None:
        """Each test that is named exists."""
        for document in DOCUMENTS:
            named = _TEST.findall(_text(document))
            self.assertTrue(named)
            self.assertEqual([], [name for name in named if name not in tests()], document)

    def test_scenarios_exist(self) -> None:
        """Each scenario of `make custody` that is named exists."""
        names = [scenario.name for scenario in load()]
        named = set(_SCENARIO.findall("".join(map(_text, DOCUMENTS))))
        self.assertTrue(named)
        self.assertEqual([], [each for each in sorted(named) if not any(name.partition(":")[0] == each or name == each for name in names)])
