"""Charts of the last hour as coordinates of SVG elements, for a template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from s2sgw.console.history import SAMPLE_SECONDS, SAMPLES, Sample

#: The drawing in its own units: the plot and the room for labels beside and below it.
WIDTH, HEIGHT = 720, 200
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 18, 28
SPAN = SAMPLES * SAMPLE_SECONDS


class Coordinates(str):
    """The points of a line: our own numbers, of any length, which a template prints unchanged."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Line:
    """One series: its name, the class of its colour, the points of its line, the outline of the area below it."""

    name: str
    style: str
    points: Coordinates
    area: Coordinates
    latest: float


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart. `levels` are (y, label) of the horizontal lines, `times` are (x, label)."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    levels: tuple[tuple[float, str], ...]
    times: tuple[tuple[float, str], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw yet."""
        return not any(line.points for line in self.lines)


SeriesValue = Callable[[Sample], float]


def chart(title: str, unit: str, ages: Sequence[tuple[float, Sample]], series: Sequence[tuple[str, str, SeriesValue]]) -> Chart:
    """Return the chart of some series. `series`: a name, the class of its colour, and its value in a sample."""
    most = max((value(sample) for _, sample in ages for _, _, value in series), default=0)
    top = round_up(most)
    lines = tuple(_line(name, style, [(age, value(sample)) for age, sample in ages], top) for name, style, value in series)
    levels = tuple((_y(top * part / 2, top), label(top * part / 2)) for part in range(3))
    times = tuple((_x(60.0 * minutes), f"−{minutes} min" if minutes else "now") for minutes in (60, 45, 30, 15, 0))
    return Chart(title, unit, lines, levels, times)


def round_up(value: float) -> float:
    """Return the top of an axis for values up to `value`: 1, 2 or 5 with zeros, at least 1."""
    step = 1.0
    while True:
        for factor in (1, 2, 5):
            if value <= step * factor:
                return step * factor
        step *= 10


def label(value: float) -> str:
    """Return a number in short form."""
    for limit, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{suffix}"
    return f"{value:g}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _line(name: str, style: str, values: Sequence[tuple[float, float]], top: float) -> Line:
    places = [(_x(age), _y(value, top)) for age, value in values]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    area = ""
    if places:
        base = HEIGHT - BOTTOM
        area = f"{places[0][0]:.1f},{base} {points} {places[-1][0]:.1f},{base}"
    return Line(name, style, Coordinates(points), Coordinates(area), values[-1][1] if values else 0)


def _x(age: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (1 - min(age, SPAN) / SPAN)


def _y(value: float, top: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top)
