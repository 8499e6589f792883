"""docs/conformance.md: each protocol rule has a test that names it.

`python -m tests.project.test_conformance` regenerates the column of tests.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENT = ROOT / "docs" / "conformance.md"
ANEW = "write the column of tests anew: python -m tests.project.test_conformance"
RULES = [f"R{number}" for number in range(1, 43)]

_NAMED = re.compile(r"\bR(\d{1,2})(?:\s*[–-]\s*R(\d{1,2}))?\b")
#: | R1 | summary | tests | remark |
_ROW = re.compile(r"^\| (R\d+) \| (.*?) \| (.*?) \| ?(.*?) ?\|$", re.MULTILINE)


def numbers(text: str) -> set[str]:
    """Return the rules that `text` names. A range names all rules in it."""
    found: set[str] = set()
    for first, last in _NAMED.findall(text):
        found.update(f"R{number}" for number in range(int(first), int(last or first) + 1))
    return found


@lru_cache
def named() -> dict[str, set[str]]:
    """Return rule -> the files whose tests name it: in a docstring of tests/, in any text of interop/."""
    rules: dict[str, set[str]] = defaultdict(set)
    for path in [*ROOT.glob("tests/*/**/test_*.py"), *ROOT.glob("tests/interop/*.py"), *ROOT.glob("tests/lab/*.py")]:
        if path.name in ("test_conformance.py", "test_architecture.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for rule in numbers(_words(path, node)):
                rules[rule].add(path.relative_to(ROOT).with_suffix("").as_posix())
    return rules


def _words(path: Path, node: ast.AST) -> str:
    if path.parent.name in ("interop", "lab"):
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
        return ast.get_docstring(node) or ""
    return ""


def rows() -> dict[str, tuple[str, str]]:
    """Return rule -> (tests, remark) as in the document."""
    return {rule: (tests, remark) for rule, _, tests, remark in _ROW.findall(DOCUMENT.read_text(encoding="utf-8"))}


def cell(rule: str) -> str:
    return ", ".join(f"`{name}`" for name in sorted(named().get(rule, ()))) or "–"


def rewrite() -> None:
    """Return the document with the current column of tests."""

    def row(found: re.Match[str]) -> str:
        rule, words, _, remark = found.groups()
        return f"| {rule} | {words} | {cell(rule)} | {remark or '–'} |"

    DOCUMENT.write_text(_ROW.sub(row, DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


class ConformanceTests(SynchronousTestCase):
    def test_every_rule_has_its_row(self) -> None:
        """R1 to R42 have a row each, once and in order."""
        self.assertEqual(RULES, list(rows()))

    def test_every_rule_is_tested_or_later(self) -> None:
        """A rule without a test is of a later version, and its remark says so."""
        wanting = [rule for rule, (_, remark) in rows().items() if not named().get(rule) and "issue" not in remark]
        self.assertEqual([], wanting)

    def test_the_tests_named_are_there(self) -> None:
        """A test file in a rule's row names that rule."""
        wrong = [
            f"{rule} {name}"
            for rule, (tests, _) in rows().items()
            for name in re.findall(r"`([^`]+)`", tests)
            if name not in named().get(rule, ())
        ]
        self.assertEqual([], wrong, ANEW)

    def test_no_rule_is_without_its_tests(self) -> None:
        """A rule that tests name has at least one of them in its row."""
        self.assertEqual([], [rule for rule, (tests, _) in rows().items() if named().get(rule) and "`" not in tests], ANEW)

    def test_demands(self) -> None:
        """The requirements are numbered without a gap, and each test below tests/unit that the document names exists."""
        text = DOCUMENT.read_text(encoding="utf-8")
        self.assertEqual([str(number) for number in range(1, 61)], re.findall(r"^\| (\d+) \|", text, re.MULTILINE))
        for file, name in re.findall(r"`(\w+/test_\w+)((?:\.\w+)+)`", text):
            source = (ROOT / "tests" / "unit" / f"{file}.py").read_text(encoding="utf-8")
            for part in name.strip(".").split("."):
                self.assertRegex(source, rf"(class|def) {part}\b", f"{file}{name}")

    def test_ranges(self) -> None:
        """A range of rules names all between."""
        self.assertEqual({"R3", "R4", "R5", "R17"}, numbers("R3–R5 and (R17)"))


if __name__ == "__main__":
    rewrite()
