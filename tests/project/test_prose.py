"""The prose of docstrings, comments and titles: plain sentences with the subject first (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.attack.stages import STAGES as ATTACKS
from tests.durability.custody import load
from tests.interop.stages import STAGES as INTEROP
from tests.mutants.custody import FAULTS, PROMISES
from tests.mutants.mutations import MUTATIONS
from tests.project.source_tree import ROOT

#: Folders whose docstrings are checked.
FOLDERS = ("s2sgw", "twisted", "benchmarks", "certs", "docs", "examples", "packaging", "tests")
#: Words that begin a clause in place of a subject. A function's docstring begins with a verb ("Return…"), others with a noun.
FIRST = re.compile(r"(?:What|Who|Whom|Whose|Whoever|Whatever|Which|How|That|Nor|Nobody|Somebody|Anybody|Everybody)\b")
#: Words of personification, old words, and pronouns that do not say which program or person is meant.
ANYWHERE = re.compile(r"\b(?:nobody|somebody|anybody|everybody|whoever|hears?|suffers?|lest|for want of|be it)\b", re.IGNORECASE)
#: The clause, or the rules, that a docstring names before its text: "R35: ", "RFC 6120 §6.4.3: ", "`denied = "drop"`: ".
REFERENCE = re.compile(r"(?:(?:R\d+|RFC \d+|XEP-\d+|§)[^:]*|`[^`]+`): ")


def docstrings(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, docstring) of a module, its classes and its functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found = ast.get_docstring(node)
            if found is not None:
                yield node.body[0].lineno, found


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, comment) of a module, without the marks.

    A module in which no text after a "#" has a fault yields nothing: most need not be read token by token.
    """
    if not any(fault(part.strip(": ")) for line in text.splitlines() if "#" in line for part in line.split("#")[1:]):
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("#: ")


def titles() -> Iterator[str]:
    """Yield the titles of all stages, scenarios and mutations."""
    for stage in (*ATTACKS, *INTEROP):
        yield from (stage.name, *(each.title for each in stage.scenarios))
    yield from (each.title for each in load())
    for mutation in (*MUTATIONS, *FAULTS, *PROMISES):
        yield mutation.broken.rpartition(": ")[2]


def fault(docstring: str) -> str:
    """Return the word of a docstring that is not plain, or ""."""
    text = REFERENCE.sub("", docstring, count=1) if REFERENCE.match(docstring) else docstring
    found = FIRST.match(text) or ANYWHERE.search(text)
    return found[0] if found else ""


def files() -> Iterator[Path]:
    """Yield the Python files of the checked folders."""
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


class DocstringTests(SynchronousTestCase):
    """Tests of the first words, and of words that are avoided."""

    def test_plain(self) -> None:
        """No docstring begins with a clause in place of its subject, or has a word that is avoided."""
        wrong = [
            f"{path.relative_to(ROOT)}:{line} {word}: {docstring.splitlines()[0]}"
            for path in files()
            for line, docstring in docstrings(path.read_text(encoding="utf-8"))
            if (word := fault(docstring))
        ]
        self.assertEqual([], wrong)

    def test_comments(self) -> None:
        """The same is true of each comment."""
        wrong = [
            f"{path.relative_to(ROOT)}:{line} {word}: {comment}"
            for path in files()
            for line, comment in comments(path.read_text(encoding="utf-8"))
            if (word := fault(comment))
        ]
        self.assertEqual([], wrong)

    def test_titles(self) -> None:
        """The titles of scenarios and mutations have no word that is avoided."""
        found = list(titles())
        self.assertGreater(len(found), 200)
        self.assertEqual([], [title for title in found if ANYWHERE.search(title)])

    def test_fault(self) -> None:
        """The check finds such words, also after a reference, and accepts plain sentences."""
        for text, word in (
            ("What is left.", "What"), ("R35: what is left.", ""), ("R3, R4: What is left.", "What"), ("RFC 6120 §6.4: Nor this.", "Nor"),
            ("The peer hears of it.", "hears"), ("Done for\nwant of room.", ""), ("Whatever comes.", "Whatever"), ("Return what is left.", ""),
            ("However long it takes, it ends.", ""), ("`drop`: Nobody is told.", "Nobody"), ("The server is thereby bound.", ""),
        ):
            self.assertEqual(word, fault(text), text)

    def test_folders(self) -> None:
        """Each folder exists."""
        self.assertEqual([], [folder for folder in FOLDERS if not (ROOT / folder).is_dir()])
