"""docs/security.md names tests and scenarios that exist."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from tests.attack.stages import STAGES
from tests.project.source_tree import ROOT

_SECTION = (ROOT / "docs" / "security.md").read_text().partition("## What shows it\n")[2].partition("\n## ")[0]


class SecurityDocumentTests(SynchronousTestCase):
    """The table of promises and their tests."""

    def test_scenarios(self) -> None:
        """The words of each attack are words of a scenario's title."""
        titles = [scenario.title for stage in STAGES for scenario in stage.scenarios]
        named = re.findall(r"attack: ([^;|`\n]+?)\s*[;|]", _SECTION)
        self.assertGreater(len(named), 30)
        self.assertEqual([], [words for words in named if not any(words in title for title in titles)])

    def test_files(self) -> None:
        """Each test file exists."""
        named = re.findall(r"`([a-z]+/[a-z_/]+)`", _SECTION)
        self.assertGreater(len(named), 30)
        self.assertEqual([], [name for name in named if not (ROOT / "tests" / f"{name}.py").exists()])

    def test_each_line(self) -> None:
        """Each row names a test."""
        rows = [line for line in _SECTION.splitlines() if line.startswith("| ")][1:]
        self.assertEqual([], [row for row in rows if "`" not in row])
