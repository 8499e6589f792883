"""The processing of the figures of `make bench`: results, targets, the page and the picture. Nothing is measured here."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import cluster, report, testbed
from benchmarks.chart import svg
from benchmarks.relays import RELAYS, TITLES
from benchmarks.results import VALUES, Results, spread
from benchmarks.rows import ROWS
from benchmarks.run import BUDGET, Run
from benchmarks.sink import Tally
from benchmarks.targets import Target, judged, missed, targets
from benchmarks.testbed import TurnReader
from s2sgw.runtime.turn_watch import BUCKETS
from tests.lab.lab import LabError


def results(**rates: float) -> Results:
    """Return a run in which each relay had this rate on one stream."""
    made = Results()
    for name, rate in rates.items():
        for times in (0.9, 1.0, 1.2):
            made.add("bulk-1", name.replace("_", "-"), {"rate": rate * times})
    return made


class ResultsTests(SynchronousTestCase):
    def test_kept_as_they_come(self) -> None:
        """The file has each round as soon as it was measured, and can be read again."""
        path = Path(self.mktemp())
        made = Results(path, quick=True)
        made.add("bulk-1", "ejabberd", {"rate": 10.0})
        self.assertEqual([10.0], json.loads(path.read_text())["rows"]["bulk-1"]["ejabberd"]["values"]["rate"])
        made.note("bulk-1", "prosody", "not measured: it is not installed")
        made.add("bulk-1", "ejabberd", {"rate": 30.0})
        read = Results.read(path)
        self.assertEqual((20.0, None, True), (
            read.median("bulk-1", "ejabberd", "rate"), read.median("bulk-1", "prosody", "rate"), read.document["machine"]["quick"],
        ))
        self.assertEqual(["not measured: it is not installed"], read.rows["bulk-1"]["prosody"]["notes"])

    def test_other_files(self) -> None:
        """A file without results is refused."""
        path = Path(self.mktemp())
        for text in ("[]", '{"version": 2, "rows": {}}', "not JSON"):
            path.write_text(text)
            self.assertRaises(ValueError, Results.read, path)

    def test_spread(self) -> None:
        """A cell has the median, and the minimum and maximum if they differ as written."""
        self.assertEqual(("1,200 (1,000–3,000)", "5.0"), (spread([1000.0, 3000.0, 1200.0], 0), spread([5.01, 5.02], 1)))

    def test_failures_are_noted(self) -> None:
        """A relay that fails loses its own figures, and does not end the run."""
        made = Results()
        run = Run(mock.Mock(), mock.Mock(), mock.Mock(), made)
        with run.attempt("bulk-1", "xmpp-proxy"):
            raise LabError("cargo is not installed")
        self.assertEqual(["not measured: cargo is not installed"], made.rows["bulk-1"]["xmpp-proxy"]["notes"])
        run.add("bulk-1", "s2sgw-sm", {"turn_ms": 100.0})
        self.assertEqual(["a turn of the reactor took more than 50 ms of CPU"], made.rows["bulk-1"]["s2sgw-sm"]["notes"])

    def test_rounds(self) -> None:
        """The relays of a row take turns. One that fails is left out of the further rounds and stopped."""
        made, pool, order = Results(), mock.Mock(), []
        pool.get.side_effect = lambda name: mock.Mock(console=0, relay=name)

        def once(relay: Any) -> dict[str, float]:
            order.append(relay.relay)
            if relay.relay == "prosody":
                raise LabError("it ended")
            return {"rate": 1.0}

        run = Run(mock.Mock(), mock.Mock(), pool, made, only=("ejabberd", "prosody"))
        with mock.patch("benchmarks.run.time.sleep"), mock.patch("builtins.print"):
            run.interleaved("bulk-1", ("s2sgw-sm", "ejabberd", "prosody"), once)
        self.assertEqual(["ejabberd", "prosody", "ejabberd", "ejabberd"], order)
        self.assertEqual(1, len(list(replace(run, began=run.began - BUDGET).rounds())))  # one that takes too long already
        self.assertEqual([mock.call("prosody")], pool.drop.call_args_list)


class TargetTests(SynchronousTestCase):
    def test_rival(self) -> None:
        """A target against a rival compares the medians of one run."""
        target = Target("bulk-1", "s2sgw-sm", "rate", "≥", 3.0, "ejabberd")
        self.assertEqual([True, False, None, None], [
            target.met(run) for run in (results(s2sgw_sm=30.0, ejabberd=10.0), results(s2sgw_sm=29.0, ejabberd=10.0), results(s2sgw_sm=30.0), results())
        ])

    def test_turns(self) -> None:
        """Of the turns the longest counts, of any round and any gateway of the row."""
        run = results(s2sgw_sm=1.0)
        for relay, longest in (("s2sgw-sm", 10.0), ("s2sgw-sm", 100.0), ("s2sgw-sm", 25.0), ("s2sgw-tcp", 5.0)):
            run.add("bulk-1", relay, {"turn_ms": longest})
        self.assertEqual([["bulk-1", "s2sgw", "longest turn, ms", "≤ 50", "100", "no"]], judged(run)[1:])

    def test_missed(self) -> None:
        """A target without a measurement is not met. Rows that were not requested do not count."""
        run = results(s2sgw_sm=100.0, ejabberd=10.0, prosody=10.0)
        asked = [target for target in targets(run) if target.row == "bulk-1" and target.relay]
        self.assertEqual(2, missed(run, ["bulk-1"]))  # xmpp-proxy and the bare loop are missing
        self.assertEqual((4, 0), (len(asked), missed(run, ["turn-watch"])))

    def test_names(self) -> None:
        """Each target names an existing row and value, and each relay has a title."""
        for target in targets(Results()):
            self.assertIn(target.row, ROWS)
            self.assertIn(target.value, VALUES)
        self.assertEqual(set(RELAYS), set(TITLES))


class ClusterTests(SynchronousTestCase):
    """Rows of several nodes."""

    def test_places(self) -> None:
        """Peers take the nodes in turn. If a third is handed on, each node takes a connection of each other node's home, or two."""
        homes, turned = cluster.places(20, 3, turned=False), cluster.places(20, 3, turned=True)
        self.assertEqual([0, 1, 2, 0, 1, 2], homes[:6])
        moved = [home for home, place in zip(homes, turned, strict=True) if home != place]
        self.assertEqual(cluster.turned_peers(20, 3), len(moved))
        self.assertEqual(7, len(moved))
        self.assertEqual({0, 1, 2}, set(moved))
        self.assertEqual(([0] * 20, 0), (cluster.places(20, 1, turned=True), cluster.turned_peers(20, 1)))

    def test_connections(self) -> None:
        """Connections that were accepted at a port count: not those from there, not listeners, not those that are closing."""
        table = "\n".join([
            "  sl  local_address rem_address   st tx_queue rx_queue",
            "   0: 0100007F:1497 00000000:0000 0A 00000000:00000000", "   1: 0100007F:1497 0100007F:9000 01 00000000:00000000",
            "   2: 0100007F:9000 0100007F:1497 01 00000000:00000000", "   3: 0100007F:1498 0100007F:9001 01 00000000:00000000",
            "   4: 0100007F:1497 0100007F:9002 06 00000000:00000000",
        ])
        self.assertEqual((1, 2, 0), tuple(cluster.connections(ports, table) for ports in ([0x1497], [0x1497, 0x1498], [])))

    def test_no_engine(self) -> None:
        """Without nats-server the row says so, and nothing is started."""
        made = Results()
        self.patch(cluster, "nats_server", lambda: None)
        with mock.patch("builtins.print"):
            cluster.bulk_load(Run(mock.Mock(), mock.Mock(), mock.Mock(), made))
        self.assertEqual(["not measured: nats-server is not installed"], made.rows["cluster-bulk"][cluster.ALONE]["notes"])


class ReportTests(SynchronousTestCase):
    def test_page(self) -> None:
        """The figures replace those of the previous run, and nothing else of the page."""
        page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
        once = report.written(page, results(s2sgw_sm=30.0, ejabberd=10.0))
        self.assertTrue(once.startswith(f"before\n{report.BEGIN}\n") and once.endswith(f"{report.END}\nafter\n"))
        self.assertNotIn("old", once)
        self.assertIn("| ejabberd | 10 (9–12) |", once)
        self.assertIn("](performance.svg)", once)
        self.assertEqual(once.count("### Targets"), report.written(once, results(prosody=1.0)).count("### Targets"))
        self.assertRaises(ValueError, report.written, "a page without a place", results())

    def test_our_page(self) -> None:
        """docs/performance.md has the place for the figures."""
        self.assertIn("### Targets", report.written(report.PAGE.read_text("utf-8"), results(prosody=1.0)))

    def test_picture(self) -> None:
        """The picture is XML, has a bar for each relay, and has none for rows that were not measured."""
        drawn = ET.fromstring(svg(results(s2sgw_sm=30.0, ejabberd=10.0)))
        texts = [element.text or "" for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
        self.assertEqual({"s2sgw sm", "ejabberd"}, {"s2sgw sm", "ejabberd", "Prosody"} & set(texts))
        self.assertEqual(1, sum("stream" in text for text in texts))


class MeasuringTests(SynchronousTestCase):
    def test_longest_turn(self) -> None:
        """The longest turn is the bucket above which there was no turn since the last call."""
        def scraped(**above: int) -> dict[str, float]:
            count = 100.0 + sum(above.values())
            found = {f"{testbed._TURNS}_count": count}
            for bound in BUCKETS:
                found[f'{testbed._TURNS}_bucket{{le="{bound}"}}'] = count - sum(
                    number for name, number in above.items() if int(name[1:]) / 1000 > bound
                )
            return found

        looks = [scraped(t9000=1), scraped(t9000=1, t20=3), scraped(t9000=1, t20=3), scraped(t9000=2, t20=3)]
        with mock.patch.object(testbed, "metrics", side_effect=looks):
            reader = TurnReader(1)
            self.assertEqual([25.0, 1.0, 10_000.0], [reader.longest() for _ in range(3)])

    def test_what_never_comes(self) -> None:
        """A sink ends when all stanzas arrived, or after its patience without one. It does not wait for dropped stanzas."""
        tally = Tally(10, 1)
        with mock.patch("benchmarks.sink.time.monotonic", return_value=5.0), mock.patch("builtins.print"):
            tally.add(1, b"")
            self.assertFalse(tally.done(4.0))
            tally.add(9, b"<message/>")
            self.assertFalse(tally.done(4.0))
        nothing = Tally(10, 1)
        with mock.patch("benchmarks.sink.time.monotonic", return_value=5.0), mock.patch("builtins.print"):
            nothing.add(1, b"")
        with mock.patch("benchmarks.sink.time.monotonic", return_value=9.5):
            self.assertEqual((True, False, True), (tally.done(4.0), tally.done(5.0), nothing.done(4.0)))
            tally.add(1, b"<message/>")
            self.assertTrue(tally.done(5.0))
