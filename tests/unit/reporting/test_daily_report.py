"""Tests of the daily report: counted by peer, bounded, and kept on disk over a restart."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.threads import AtOnce
from s2sgw.reporting import daily_report
from s2sgw.reporting.daily_report import DAYS, OTHERS, STRANGERS, DailyReport, FileThreads
from s2sgw.xmpp.ending import Cause, Ending

NOON = 1_795_780_800.0  # 2026-11-27 12:00 UTC
DAY = 86400.0
EXPIRED = Ending(Cause.EXPIRED, "yesterday", "us")


class DailyReportTests(SynchronousTestCase):
    """Tests of reports in a directory of their own."""

    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.state.mkdir()
        self.clock = Clock()
        self.clock.advance(NOON)
        self.report = self.made()

    def made(self) -> DailyReport:
        return DailyReport(self.state, self.clock, AtOnce(), SimpleNamespace(domains=["here.example"]))

    def turn(self) -> None:
        self.successResultOf(self.report.turn())

    def rows(self, day: str | None = None) -> dict[str, dict[str, Any]]:
        found = self.successResultOf(Deferred.fromCoroutine(self.report.report(day)))
        return {row["peer"]: row for row in found["peers"]}

    def fill(self) -> None:
        self.report.authenticated("inbound", "peer.example", "EXTERNAL", "TLSv1.3")
        self.report.authenticated("inbound", "peer.example", "EXTERNAL", "TLSv1.3")
        self.report.refused("outbound", "peer.example", True, EXPIRED)
        self.report.passed("inbound", "peer.example", 2, 120)
        self.report.waited("peer.example", 12.34)
        self.report.waited("peer.example", 3.0)

    def test_row(self) -> None:
        """A row has successes by method and TLS, failures by cause, stanzas, bytes, and the longest wait."""
        self.fill()
        row = self.rows()["peer.example"]
        self.assertEqual({"sessions": 2, "details": [{"direction": "inbound", "method": "EXTERNAL", "tls": "TLSv1.3", "count": 2}]}, row["successes"])
        self.assertEqual(
            {"sessions": 1, "details": [{"direction": "outbound", "layer": "pkix", "cause": "expired", "by": "us", "count": 1}]}, row["failures"],
        )
        self.assertEqual(({"inbound": 2}, {"inbound": 120}, 12.3), (row["stanzas"], row["bytes"], row["oldest"]))

    def test_strangers(self) -> None:
        """Names that may be invented are counted together, however many."""
        for number in range(1000):
            self.report.refused("inbound", f"{number}.evil.example", False, EXPIRED)
        self.report.refused("inbound", "", True, EXPIRED)
        self.assertEqual([STRANGERS], list(self.rows()))
        self.assertEqual(1001, self.rows()[STRANGERS]["failures"]["sessions"])

    def test_bounded(self) -> None:
        """A domain's owner can prove any number of names under it: they are counted together, and displace no others."""
        self.patch(daily_report, "PEERS", 8)
        self.patch(daily_report, "PEERS_OF_DOMAIN", 3)
        for number in range(100):
            self.report.authenticated("inbound", f"{number}.evil.example", "EXTERNAL", "TLSv1.3")
        self.report.authenticated("inbound", "friend.test", "EXTERNAL", "TLSv1.3")
        rows = self.rows()
        self.assertEqual({"0.evil.example", "1.evil.example", "2.evil.example", "*.evil.example", "friend.test"}, set(rows))
        self.assertEqual(97, rows["*.evil.example"]["successes"]["sessions"])
        for number in range(10):
            self.report.authenticated("inbound", f"peer{number}.test", "EXTERNAL", "TLSv1.3")
        rows = self.rows()
        self.assertEqual((9, 7), (len(rows), rows[OTHERS]["successes"]["sessions"]))

    def test_restart(self) -> None:
        """The current day continues after a restart with all its numbers. A damaged file is started anew."""
        self.fill()
        self.successResultOf(self.report.close())
        before = self.rows()
        self.report = self.made()
        self.assertEqual(before, self.rows())
        for content in (b"[]", b"{", b'{"peers": [{"peer": "x"}]}', b""):
            next((self.state / "reports").iterdir()).write_bytes(content)
            self.assertEqual({}, {row["peer"]: row for row in self.successResultOf(Deferred.fromCoroutine(self.made().report()))["peers"]})

    def test_days(self) -> None:
        """A finished day is on the disk, and the next one starts with zero. The oldest days are removed."""
        self.fill()
        for _ in range(DAYS + 5):
            self.clock.advance(DAY)
            self.turn()
            self.report.authenticated("outbound", "other.example", "dialback", "none")
            self.turn()
        self.assertEqual(DAYS, len(list((self.state / "reports").glob("*.json"))))
        self.assertEqual(["other.example"], list(self.rows()))
        yesterday = sorted(path.stem for path in (self.state / "reports").glob("*.json"))[-2]
        self.assertEqual(["other.example"], list(self.rows(yesterday)))
        self.assertEqual(0o700, (self.state / "reports").stat().st_mode & 0o777)

    def test_over_midnight(self) -> None:
        """Events before midnight count for that day, although it is written later."""
        self.fill()
        self.clock.advance(DAY)
        self.turn()
        self.assertEqual({}, self.rows())
        self.assertEqual(["peer.example"], list(self.rows("2026-11-27")))

    def test_full_disk_over_midnight(self) -> None:
        """A day that could not be written while the disk was full is reported, and is written when there is room, of the last days."""
        self.patch(DailyReport, "log", Mock())
        storing = self.patch(daily_report, "_store", Mock(side_effect=OSError(28, "No space left on device")))
        first = self.report.day
        self.fill()
        self.turn()
        for _ in range(daily_report.UNWRITTEN_DAYS):
            self.clock.advance(DAY)
            self.turn()
            self.report.passed("inbound", "peer.example", 1, 10)
        self.assertEqual((self.rows(first)["peer.example"]["bytes"], self.rows()["peer.example"]["bytes"]), ({"inbound": 120}, {"inbound": 10}))
        storing.restore()
        self.turn()
        self.report = self.made()
        self.assertEqual((self.rows(first)["peer.example"]["bytes"], self.rows()["peer.example"]["bytes"]), ({"inbound": 120}, {"inbound": 10}))
        self.assertEqual(len(list(self.report.folder.glob("*.json"))), daily_report.UNWRITTEN_DAYS + 1)

    def test_full_disk_for_days(self) -> None:
        """If the disk is full for days, the last few are kept."""
        self.patch(DailyReport, "log", Mock())
        self.patch(daily_report, "_store", Mock(side_effect=OSError(28, "No space left on device")))
        for _ in range(9):
            self.fill()
            self.clock.advance(DAY)
            self.turn()
        self.assertEqual(sorted(self.report._unwritten), [f"2026-12-0{day}" for day in (3, 4, 5)])

    def test_slow_disk(self) -> None:
        """While a file is being written nothing else is: at a stop the newer counts come last. A failure of the older ones changes nothing."""
        writes: list[tuple[Deferred[None], bytes]] = []

        def run(store: object, folder: Path, path: Path, data: bytes) -> Deferred[None]:
            writes.append((Deferred(), data))
            return writes[-1][0]

        self.patch(DailyReport, "log", Mock())
        self.report._threads = cast(FileThreads, SimpleNamespace(run=run))
        self.fill()
        first = self.report.turn()
        self.report.passed("inbound", "peer.example", 1, 1)
        self.clock.advance(DAY)
        last = self.report.close()
        self.assertEqual(len(writes), 1)
        writes[0][0].errback(OSError(28, "No space left on device"))
        self.successResultOf(first)
        self.assertNoResult(last)
        self.assertEqual([row["bytes"] for row in json.loads(writes[1][1])["peers"]], [{"inbound": 121}])
        writes[1][0].callback(None)
        self.successResultOf(last)
        self.assertEqual(self.report._unwritten, {})

    def test_no_report(self) -> None:
        """For a day without a report, or an invalid text or path, the error lists the available days."""
        for day in ("2026-11-01", "yesterday", "../../etc/passwd", "2026-11-27.json"):
            failure = self.failureResultOf(Deferred.fromCoroutine(self.report.report(day)), ValueError)
            self.assertTrue(str(failure.value))
        self.assertIn("2026-11-27", str(self.failureResultOf(Deferred.fromCoroutine(self.report.report("2026-11-01"))).value))

    def test_nothing_to_write(self) -> None:
        """A day without events is not written again. One whose write failed is."""
        self.turn()
        self.assertFalse((self.state / "reports").exists())
        self.fill()
        self.report._threads = SimpleNamespace(run=lambda *call: fail(OSError("the disk is full")))
        self.turn()
        self.report._threads = AtOnce()
        self.turn()
        (path,) = (self.state / "reports").iterdir()
        self.assertEqual("2026-11-27", json.loads(path.read_text())["day"])
        path.unlink()
        self.turn()
        self.assertFalse(path.exists())
