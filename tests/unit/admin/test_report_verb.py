"""Tests of the verb `report`: the day, the peer, and the current waiting times."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.report_verb import ReportVerb
from s2sgw.admin.server import VerbError
from s2sgw.cli.report import report_table
from s2sgw.cli.text_table import Screen
from s2sgw.net.slices import Slices
from s2sgw.net.threads import AtOnce
from s2sgw.reporting.daily_report import DailyReport
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain

SCREEN = Screen(None, False)


class Queue:
    """A queue from the peer whose oldest stanza was accepted at `oldest`, and that has passed on one stanza."""

    peer = Domain.parse("peer.example")

    def __init__(self, report: DailyReport, oldest: float | None) -> None:
        self.pair_queue = SimpleNamespace(oldest=oldest)
        self._report = report

    def report_passed(self) -> None:
        self._report.passed("inbound", self.peer.text, 1, 10)


class ReportVerbTests(SynchronousTestCase):
    """Tests of a report with one peer, and of queues that the test fills."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_795_780_800.0)
        self.report = DailyReport(Path(self.mktemp()), self.clock, AtOnce(), SimpleNamespace(domains=["here.example"]))
        self.report.authenticated("inbound", "peer.example", "EXTERNAL", "TLSv1.3")
        self.queues: list[Any] = []
        self.verb = ReportVerb(self.report, self.queues, Slices(self.clock), self.clock)  # type: ignore[arg-type]

    def ask(self, **arguments: object) -> Deferred[Any]:
        asked = Deferred.fromCoroutine(self.verb.report(arguments))
        self.clock.pump([0] * 5)
        return asked

    def test_peer(self) -> None:
        """The report has one peer, in any spelling, or all. It is empty for an unknown peer."""
        self.assertEqual(1, len(self.successResultOf(self.ask())["peers"]))
        self.assertEqual(1, len(self.successResultOf(self.ask(peer="PEER.example."))["peers"]))
        self.assertEqual([], self.successResultOf(self.ask(peer="other.example"))["peers"])

    def test_mistakes(self) -> None:
        """A day that is none, or not text, and a peer that is not a domain are usage errors."""
        for arguments in ({"day": "yesterday"}, {"day": 3}, {"peer": "-"}, {"peer": 3}):
            self.assertEqual("usage", self.failureResultOf(self.ask(**arguments), VerbError).value.kind)

    def test_no_report(self) -> None:
        """A day without a report is a negative answer, as an unknown peer is, and names the days that have one."""
        error = self.failureResultOf(self.ask(day="2020-01-01"), VerbError).value
        self.assertEqual(("failed", "there is no report of 2020-01-01; there are: 2026-11-27"), (error.kind, str(error)))
        self.assertEqual(("2020-01-01", ["here.example"], []), tuple(error.table[key] for key in ("day", "domains", "peers")))

    def test_waiting(self) -> None:
        """The report has the stanzas that wait now, for the peer in either direction. A queue without stanzas is left out."""
        now = self.clock.seconds()
        self.queues += [Queue(self.report, oldest) for oldest in (now - 7, now - 50, None)]
        (row,) = self.successResultOf(self.ask())["peers"]
        self.assertEqual(("peer.example", 50.0), (row["peer"], row["oldest"]))

    def test_passed(self) -> None:
        """The report has the stanzas passed on until now, and at the end those until the gateway stopped."""
        self.queues.append(Queue(self.report, None))
        (row,) = self.successResultOf(self.ask())["peers"]
        self.assertEqual(({"inbound": 1}, {"inbound": 10}), (row["stanzas"], row["bytes"]))
        self.successResultOf(self.verb.close())
        (row,) = self.successResultOf(Deferred.fromCoroutine(self.report.report()))["peers"]
        self.assertEqual({"inbound": 2}, row["stanzas"])

    def test_table(self) -> None:
        """The table has the peers, and below it the failures by cause. Text chosen by a stranger is escaped."""
        self.report.refused("inbound", "evil\x1b.example", True, Ending(Cause.EXPIRED))
        text = report_table(self.successResultOf(self.ask()), SCREEN)
        self.assertIn("2026-11-27 (UTC), for here.example", text)
        self.assertIn("1 time inbound pkix/expired (by us)", text)
        self.assertNotIn("\x1b", text)
        empty = {"day": "2026-11-27", "domains": ["here.example"], "peers": []}
        self.assertIn("nothing happened", report_table(empty, SCREEN))
        self.assertIn("nothing is reported of a.example.", report_table(empty, SCREEN, "a.example"))
