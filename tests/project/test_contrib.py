"""contrib/: the alerts and the dashboard name existing metrics, and the alerts pass their tests."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from tests.project.source_tree import ROOT

CONTRIB = ROOT / "contrib"
#: The metrics in an expression: those of s2sgw, and those of every process.
_METRIC = re.compile(r"\b((?:s2sgw|process)_[a-z0-9_]+)")
#: The suffixes of a histogram's name.
_PARTS = ("_bucket", "_sum", "_count")
#: Metrics of every process, which docs/admin.md does not list.
_PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}


def documented() -> set[str]:
    """Return the metrics in the table of docs/admin.md."""
    _, _, section = (ROOT / "docs" / "admin.md").read_text().partition("\n## Metrics\n")
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    return {name for row in rows for name in _METRIC.findall(row.split("|")[1])}


def named(text: str) -> set[str]:
    """Return the metrics in expressions, histograms without their suffixes."""
    found = set()
    for name in _METRIC.findall(text):
        part = next((part for part in _PARTS if name.endswith(part) and name.removesuffix(part) in documented()), "")
        found.add(name.removesuffix(part))
    return found


class ContribTests(SynchronousTestCase):
    """Rules and dashboard."""

    def test_rules(self) -> None:
        """Every metric of the alerts is documented."""
        expressions = re.findall(r"expr: (.*?)\n {8}for:", (CONTRIB / "prometheus" / "s2sgw.rules.yml").read_text(), re.DOTALL)
        self.assertGreater(len(expressions), 8)
        self.assertEqual(set(), named("\n".join(expressions)) - documented())

    def test_dashboard(self) -> None:
        """Every metric of the dashboard is documented, and no panel covers another."""
        board = json.loads((CONTRIB / "grafana" / "s2sgw.json").read_text())
        expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
        self.assertEqual(set(), named("\n".join(expressions)) - documented() - _PROCESS)
        self.assertEqual(len(board["panels"]), len({panel["id"] for panel in board["panels"]}))
        cells = [cell for panel in board["panels"] for cell in _cells(panel["gridPos"])]
        self.assertEqual(len(cells), len(set(cells)))

    def test_documentation(self) -> None:
        """Every documented metric is in the code, by its whole name or by the part that a loop adds."""
        code = "\n".join(path.read_text() for path in (ROOT / "s2sgw").rglob("*.py"))
        loops = ("s2sgw_lookups", "s2sgw_verifications", "s2sgw_posh_fetches")
        missing = {name for name in documented() if name.removesuffix("_total") not in code and not name.startswith(loops)}
        self.assertEqual(set(), missing)

    def test_code(self) -> None:
        """Every metric of the code is documented. A counter is documented with its `_total`."""
        code = "\n".join(path.read_text() for path in (ROOT / "s2sgw").rglob("*.py"))
        names = set(re.findall(r'"(s2sgw_[a-z0-9_]+)"', code))
        self.assertGreater(len(names), 30)
        self.assertEqual(set(), {name for name in names if not {name, f"{name}_total"} & documented()})

    def test_alerts(self) -> None:
        """`promtool` finds the rules valid, and their tests pass. The test is skipped if it is not installed."""
        promtool = shutil.which("promtool")
        if promtool is None:
            raise SkipTest("promtool is not installed")
        for words in (("check", "rules", "s2sgw.rules.yml"), ("test", "rules", "s2sgw.test.yml")):
            done = subprocess.run([promtool, *words], cwd=CONTRIB / "prometheus", capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(0, done.returncode, done.stdout + done.stderr)


def _cells(place: dict[str, Any]) -> list[tuple[int, int]]:
    return [(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])]
