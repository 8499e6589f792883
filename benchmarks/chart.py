"""The picture of a run: a panel of bars for each of the main figures, as SVG."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchmarks.relays import OURS
from benchmarks.results import Results

#: Pixels.
_WIDTH, _PANEL, _LABEL, _BAR, _GAP, _MARGIN = 980, 470, 110, 16, 7, 20
_SHORT = {
    "s2sgw-tcp": "s2sgw tcp", "s2sgw-auto": "s2sgw auto", "s2sgw-sm": "s2sgw sm", "ejabberd": "ejabberd", "prosody": "Prosody",
    "xmpp-proxy": "xmpp-proxy", "bare": "bare loop",
}
_OURS_COLOUR, _OTHER_COLOUR, _INK, _PALE = "#2f6fab", "#a9b0b8", "#24292f", "#6b7480"


@dataclass(frozen=True)
class Panel:
    """One figure of one row. `less` tells whether less or more is better."""

    row: str
    value: str
    title: str
    less: bool = True


PANELS = (
    Panel("bulk-1", "rate", "Bulk, 1 stream: stanzas a second", less=False),
    Panel("bulk-20", "rate", "Bulk, 20 streams: stanzas a second", less=False),
    Panel("bulk-1", "cpu_us", "Bulk, 1 stream: µs of CPU a stanza"),
    Panel("single-2000", "cpu_us", "2,000 single stanzas a second: µs of CPU each"),
    Panel("single-2000", "p99_ms", "2,000 single stanzas a second: delay, p99 in ms"),
    Panel("single-20000", "p99_ms", "20,000 single stanzas a second: delay, p99 in ms"),
    Panel("handshake", "cpu_ms", "Inbound handshake: ms of CPU"),
    Panel("outbound", "cpu_ms", "Outbound stream: ms of CPU"),
    Panel("idle", "kb", "Idle inbound TLS stream: kB of memory"),
)


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", size: int = 12, colour: str = _INK, bold: bool = False,
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"{weight}>{escape(words)}</text>'
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _bars(panel: Panel, results: Results) -> list[tuple[str, float, float, float]]:
    """Return relay, median, minimum and maximum of each measurement."""
    relays = results.rows.get(panel.row, {})
    measured = {name: relays[name]["values"].get(panel.value) for name in _SHORT if name in relays}
    return [(name, statistics.median(values), min(values), max(values)) for name, values in measured.items() if values]


def _panel(panel: Panel, bars: list[tuple[str, float, float, float]], x: float, y: float) -> list[str]:
    hint = "less is better" if panel.less else "more is better"
    parts = [_text(x, y, panel.title, size=13, bold=True), _text(x, y + 15, hint, size=10, colour=_PALE)]
    longest, room = max(most for *_, most in bars) or 1.0, _PANEL - _LABEL - 80
    for number, (name, median, least, most) in enumerate(bars):
        top = y + 25 + number * (_BAR + _GAP)
        left, middle = x + _LABEL, top + _BAR / 2
        colour = _OURS_COLOUR if name in OURS else _OTHER_COLOUR
        parts.append(_text(left - 8, middle + 4, _SHORT[name], anchor="end"))
        width = max(median / longest * room, 1)
        parts.append(f'<rect x="{left}" y="{top:.1f}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>')
        if most > least:
            ends = left + least / longest * room, left + most / longest * room
            parts.append(f'<path d="M{ends[0]:.1f} {middle:.1f}H{ends[1]:.1f}" stroke="{_INK}" stroke-width="1.5"/>')
        parts.append(_text(left + most / longest * room + 6, middle + 4, _number(median)))
    return parts


def svg(results: Results) -> str:
    """Return the picture: the panels that have figures, in two columns."""
    panels = [(panel, bars) for panel in PANELS if (bars := _bars(panel, results))]
    parts: list[str] = []
    tops = [float(_MARGIN + 45)] * 2
    for number, (panel, bars) in enumerate(panels):
        column = number % 2
        parts += _panel(panel, bars, _MARGIN + column * _PANEL, tops[column])
        tops[column] += 25 + len(bars) * (_BAR + _GAP) + 35
        if column:
            tops = [max(tops)] * 2
    height = int(max(tops)) + _MARGIN - 25
    facts = results.document["machine"]
    title = f"s2sgw beside other servers: medians; lines: least to most ({facts['cores']} cores, {facts['began'][:10]})"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" role="img">',
        f"<title>{escape(title)}</title>", f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(_MARGIN, _MARGIN + 10, title, size=14, bold=True), *parts, "</svg>", "",
    ])
