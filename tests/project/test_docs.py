"""The documentation: its examples load, its generated pages agree with the code, and the first page leads to every page."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.config import parse
from tests.project.source_tree import ROOT
from tests.support import refusals_page

DOCS = ROOT / "docs"
HEAD = '[gateway]\ndomains = ["example.org"]\n'


class RefusalsPageTests(SynchronousTestCase):
    def test_generated(self) -> None:
        """docs/refusals.md is the output of `python -m tests.support.refusals_page`."""
        self.assertEqual(refusals_page.page(), refusals_page.PAGE.read_text("utf-8"))


class ExampleTests(SynchronousTestCase):
    def test_load(self) -> None:
        """Every example in TOML is a valid configuration, with the files that it names."""
        folder = Path(self.mktemp()).absolute()
        (folder / "certs").mkdir(parents=True)
        for name in ("branch.secret", "federation-ca.pem", "deny.txt"):
            (folder / name).write_text("x" * 40)
            (folder / name).chmod(0o600)
        found = 0
        for page in sorted(DOCS.glob("*.md")):
            for text in re.findall(r"(?ms)^```toml\n(.*?)^```$", page.read_text("utf-8")):
                found += 1
                parse(HEAD + text, folder / "s2sgw.toml", system_nameservers=("127.0.0.1",))
        self.assertGreater(found, 12)


class PageTests(SynchronousTestCase):
    def test_all_listed(self) -> None:
        """The first page lists every other page once."""
        listed = re.findall(r"(?m)^([a-z0-9-]+)$", re.sub(r"(?m)^:.*", "", "".join(re.findall(r"(?s)```\{toctree\}(.*?)```", (DOCS / "index.md").read_text("utf-8")))))
        self.assertEqual(sorted(page.stem for page in DOCS.glob("*.md") if page.stem != "index"), sorted(listed))

    def test_links(self) -> None:
        """Every link of README and of docs/ to a file of this repository has an existing target."""
        for page in [*ROOT.glob("*.md"), *DOCS.glob("*.md")]:
            for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
                self.assertTrue((page.parent / target).exists(), f"{page.name}: {target}")
