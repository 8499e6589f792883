"""Tests of the printed steps of a probe and facts of a live check."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cli import live_check, probe
from s2sgw.cli.probe import ProbePrinter
from s2sgw.cli.text_table import Screen
from s2sgw.runtime.live_check import LiveFact
from s2sgw.runtime.probe_report import ProbeReport, ProbeStep
from s2sgw.xmpp.jid import Domain

KEY = "sha256:" + "0123456789abcdef" * 4
STEPS = (
    ProbeStep("srv", "", True, 0.012, "_xmpp-server: 0 0 5269 xmpp.outside.example.; _xmpps-server: no-such-name"),
    ProbeStep("certificate", "xmpp.outside.example:5269", False, 0.0, f"the key {KEY} \x1b[31mis not pinned", "Compare the " + "fingerprint " * 9, "theirs"),
)


class PrinterTests(SynchronousTestCase):
    def printed(self, width: int | None) -> str:
        self.patch(probe, "this_screen", lambda: Screen(width, False))
        self.patch(live_check, "this_screen", lambda: Screen(width, False))
        printer, report, out = ProbePrinter(None), ProbeReport("outside.example", "here.example"), io.StringIO()
        with redirect_stdout(out):
            printer.begin(Domain.parse("outside.example"), Domain.parse("here.example"), True)
            for step in STEPS:
                printer.step(step)
            printer.end(report)
            live_check._print(LiveFact("backend", "127.0.0.1:15269", False, "words " * 20, "other words " * 10))
        return out.getvalue()

    def test_eighty_columns(self) -> None:
        """No line is wider than the terminal, and no word or fingerprint is cut. A peer's escape characters are printed as codes."""
        text = self.printed(80)
        self.assertLessEqual(max(map(len, text.splitlines())), 80)
        self.assertIn(KEY, text)
        self.assertNotIn("\x1b", text)
        for line in ("├─ xmpp.outside.example:5269", "│  │    to fix (theirs): Compare the fingerprint", "└─ fails", "        to fix: other words"):
            self.assertIn(line, text)

    def test_pipe(self) -> None:
        """On a pipe one line is printed for each fact."""
        self.assertEqual(1 + 2 + 2 + 1 + 2, len(self.printed(None).splitlines()))
