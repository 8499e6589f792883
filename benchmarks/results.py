"""The results of a run: the values of each row for each relay, kept in a JSON file during the run.

{"version": 1, "machine": {…}, "rows": {ROW: {RELAY: {"values": {NAME: [one number a round, …]}, "notes": ["…"]}}}}
"""

from __future__ import annotations

import json
import os
import platform
import ssl
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERSION = 1
#: The names of values -> (heading, digits after the point).
VALUES = {
    "rate": ("stanzas/s", 0), "cpu_us": ("CPU µs each", 1), "megabytes": ("MB/s in", 1),
    "p50_ms": ("p50 ms", 2), "p99_ms": ("p99 ms", 2), "delivered": ("delivered %", 1), "offered": ("sent/s", 0),
    "cpu_ms": ("CPU ms each", 2), "wall_ms": ("ms each", 1),
    "kb": ("kB each", 1), "held": ("held", 0),
    "seconds": ("s", 2), "cpu_s": ("CPU s", 2), "memory_mb": ("MB", 0), "entry_kb": ("kB an entry", 2),
    "handshake_ms": ("handshake, CPU ms", 2), "stanza_us": ("stanza, CPU µs", 0),
    "rest_percent": ("at rest, % of a core", 1),
    "engine_percent": ("engine, % of a core", 1), "handed": ("handed on", 0),
    "engine_rest": ("engine at rest, % of a core", 1),
    "status_s": ("s2sgw status, s", 2), "queue_s": ("s2sgw queue list, s", 2), "lanes_s": ("s2sgw lanes, s", 2),
    "microseconds": ("µs a turn", 2), "turn_ms": ("longest turn, ms ≤", 0),
}


class Results:
    """The values and notes of a run. With `path`, they are written there after each change."""

    def __init__(self, path: Path | None = None, **head: Any) -> None:
        self._path = path
        self.document: dict[str, Any] = {"version": VERSION, "machine": {**machine(), **head}, "rows": {}}

    @classmethod
    def read(cls, path: Path) -> Results:
        """Return the results of an earlier run. Raise ValueError if the file has none."""
        document = json.loads(path.read_text("utf-8"))
        if not isinstance(document, dict) or document.get("version") != VERSION:
            raise ValueError(f"{path} has no results of version {VERSION}")
        results = cls()
        results.document = document
        return results

    @property
    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        """Return row -> relay -> values and notes."""
        rows: Mapping[str, Mapping[str, Any]] = self.document["rows"]
        return rows

    def _entry(self, row: str, relay: str) -> dict[str, Any]:
        entry: dict[str, Any] = self.document["rows"].setdefault(row, {}).setdefault(relay, {"values": {}, "notes": []})
        return entry

    def add(self, row: str, relay: str, values: Mapping[str, float]) -> None:
        """Keep the values of one round."""
        kept = self._entry(row, relay)["values"]
        for name, value in values.items():
            kept.setdefault(name, []).append(round(value, 4))
        self.save()

    def note(self, row: str, relay: str, text: str) -> None:
        """Keep a sentence about a relay in a row, once."""
        notes = self._entry(row, relay)["notes"]
        if text not in notes:
            notes.append(text)
        self.save()

    def head(self, **facts: Any) -> None:
        """Keep facts about the run."""
        self.document["machine"].update(facts)
        self.save()

    def median(self, row: str, relay: str, name: str) -> float | None:
        """Return the median of a value over the rounds; None if it was not measured."""
        values = self.rows.get(row, {}).get(relay, {}).get("values", {}).get(name)
        return statistics.median(values) if values else None

    def save(self) -> None:
        """Write the whole file, so that an interrupted run keeps its results."""
        if self._path is not None:
            new = self._path.with_name(self._path.name + ".new")
            new.write_text(json.dumps(self.document, indent=1, ensure_ascii=False) + "\n", "utf-8")
            new.replace(self._path)


def machine() -> dict[str, Any]:
    """Return the facts about the machine on which the figures depend."""
    return {
        "began": time.strftime("%Y-%m-%d %H:%M", time.gmtime()), "processor": _processor(), "cores": os.cpu_count(),
        "python": platform.python_version(), "openssl": ssl.OPENSSL_VERSION, "load_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def spread(values: list[float], digits: int) -> str:
    """Return the median, with minimum and maximum if they differ."""
    median, least, most = (f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return median if least == most else f"{median} ({least}–{most})"


def table(relays: Mapping[str, Any], titles: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """Return headings and lines of one row's table. A value that was not measured is empty."""
    names = [name for name in VALUES if any(name in entry["values"] for entry in relays.values())]
    lines = []
    for relay, entry in relays.items():
        values = entry["values"]
        cells = [spread(values[name], VALUES[name][1]) if name in values else "" for name in names]
        lines.append([titles.get(relay, relay), *cells])
    return ["", *(VALUES[name][0] for name in names)], lines


def printed(relays: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """Return the table of one row for a terminal, with its notes."""
    heading, lines = table(relays, titles)
    notes = [f"  {titles.get(relay, relay)}: {note}" for relay, entry in relays.items() for note in entry["notes"]]
    return "\n".join([printed_table([heading, *lines]), *notes])


def printed_table(lines: list[list[str]]) -> str:
    """Return lines as columns; the first column is text."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for first, *others in lines:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        text.append("  ".join(["", first.ljust(widths[0]), *cells]))
    return "\n".join(text)
