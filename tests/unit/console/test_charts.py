"""Tests of the charts and of the history that they show."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.console.charts import chart, label, round_up
from s2sgw.console.history import Sample


class ChartTests(SynchronousTestCase):
    def test_points(self) -> None:
        """The newest value is at the right, the largest below the top, 0 on the base. The area is closed on the base."""
        ages = [(3600.0, Sample(0, 0, 0, 0)), (1800.0, Sample(0, 50, 0, 0)), (0.0, Sample(0, 25, 0, 0))]
        found = chart("t", "u", ages, (("in", "inbound", lambda sample: sample.inbound),))
        (line,) = found.lines
        points = [tuple(map(float, point.split(","))) for point in line.points.split()]
        self.assertEqual([(52.0, 172.0), (382.0, 18.0), (712.0, 95.0)], points)
        self.assertTrue(line.area.startswith("52.0,172 ") and line.area.endswith(" 712.0,172"))
        self.assertEqual(([172.0, 95.0, 18.0], ["0", "25", "50"]), ([y for y, _ in found.levels], [text for _, text in found.levels]))
        self.assertEqual((25, False), (line.latest, found.is_empty))

    def test_empty(self) -> None:
        """A chart without samples is empty and raises no error."""
        found = chart("t", "u", [], (("in", "inbound", lambda sample: sample.inbound),))
        self.assertEqual((True, ""), (found.is_empty, found.lines[0].area))

    def test_axis(self) -> None:
        """The top of the axis is a round number that is not less than the largest value."""
        self.assertEqual([1, 1, 2, 5, 10, 20, 100, 500, 2e6], [round_up(value) for value in (0, 1, 1.1, 2.5, 9, 11, 99, 250, 1.5e6)])
        self.assertEqual(["0", "0.5", "2.5", "10", "250", "1k", "2.5k", "1M"], [label(v) for v in (0, 0.5, 2.5, 10, 250, 1000, 2500, 1e6)])
