"""News fragments: towncrier can read their names after `make changelog` has replaced words by numbers."""

from __future__ import annotations

import importlib.util
import re
import tomllib

from twisted.trial.unittest import SynchronousTestCase

from tests.project.source_tree import ROOT

_SPEC = importlib.util.spec_from_file_location("changelog", ROOT / "packaging" / "changelog.py")
assert _SPEC is not None
assert _SPEC.loader is not None
changelog = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(changelog)


class NamesTests(SynchronousTestCase):
    def test_numbered(self) -> None:
        """A word becomes the first free number. Names stay unique. Other names do not change."""
        names = ["12.bugfix.md", "12.bugfix.1.md", "12.bugfix.places.md", "12.bugfix.log.md", "+x.feature.md", "README.md"]
        self.assertEqual({"12.bugfix.log.md": "12.bugfix.2.md", "12.bugfix.places.md": "12.bugfix.3.md"}, changelog.numbered(names))

    def test_ours(self) -> None:
        """Each fragment is of a kind in pyproject.toml."""
        types = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["towncrier"]["type"]
        kinds = "|".join(each["directory"] for each in types)
        for path in (ROOT / "newsfragments").glob("*.md"):
            if path.name != "README.md":
                self.assertRegex(path.name, rf"^(\d+|\+[a-z0-9-]+)\.({kinds})(\.[a-z0-9-]+)?\.md$")
                self.assertTrue(re.search(r"\w", path.read_text("utf-8")), path.name)
