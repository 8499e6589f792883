"""The targets: the bounds of rows, against a rival of the same run or as a figure, and whether a run met them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from benchmarks import cluster, entries, growth, spooled
from benchmarks.relays import OURS, TITLES
from benchmarks.results import VALUES, Results
from benchmarks.run import LONG_TURN_MS

_LESS, _MORE = "≤", "≥"
#: The names of the large configurations in the rows of a whole run.
_SPOOLED = spooled.name_of(spooled.STANZAS, spooled.LANES)
_HELD = tuple(growth.gateways(growth.ENTRIES, growth.STREAMS, spooled.STANZAS, spooled.LANES))
_SOME, _MANY = map(entries.name_of, entries.ENTRIES[1:])


@dataclass(frozen=True)
class Target:
    """A bound for the `value` of `relay` in `row`. With `rival` it is a multiple of the value of that relay.

    `relay` "" is each relay of the row, in each round: the largest value counts.
    """

    row: str
    relay: str
    value: str
    sign: str
    bound: float
    rival: str = ""

    def words(self) -> str:
        """Return the target in words."""
        if self.rival:
            return f"{self.sign} {self.bound:g} × {TITLES.get(self.rival, self.rival)}"
        return f"{self.sign} {self.bound:g}"

    def measured(self, results: Results) -> float | None:
        """Return the figure, or the ratio to the rival's; None if the run has none."""
        if not self.relay:
            found = [value for entry in results.rows.get(self.row, {}).values() for value in entry["values"].get(self.value, [])]
            return max(found) if found else None
        own = results.median(self.row, self.relay, self.value)
        if not self.rival or own is None:
            return own
        other = results.median(self.row, self.rival, self.value)
        return own / other if other else None

    def met(self, results: Results) -> bool | None:
        """Return whether it was met; None if it was not measured."""
        measured = self.measured(results)
        if measured is None:
            return None
        return measured <= self.bound if self.sign == _LESS else measured >= self.bound


def _fixed() -> Iterator[Target]:
    for row in ("bulk-1", "bulk-20"):
        for rival, times in (("ejabberd", 3.0), ("prosody", 8.0), ("xmpp-proxy", 0.7)):
            yield Target(row, "s2sgw-sm", "rate", _MORE, times, rival)
    yield Target("bulk-1", "s2sgw-sm", "cpu_us", _LESS, 2.5, "bare")
    for name in OURS:
        yield Target("single-2000", name, "cpu_us", _LESS, 0.5, "ejabberd")
        yield from (Target("single-2000", name, value, _LESS, 1.0, "ejabberd") for value in ("p50_ms", "p99_ms"))
    for name in OURS:
        yield Target("single-20000", name, "delivered", _MORE, 100.0)
        yield Target("single-20000", name, "p50_ms", _LESS, 5.0)
        yield Target("single-20000", name, "p99_ms", _LESS, 50.0)
    for row in ("handshake", "outbound"):
        yield Target(row, "s2sgw-auto", "cpu_ms", _LESS, 0.7, "ejabberd")
    yield Target("idle", "s2sgw-auto", "kb", _LESS, 40.0)
    yield Target("start", _MANY, "seconds", _LESS, 5.0)
    yield Target("start", _MANY, "entry_kb", _LESS, 1.0)
    yield Target("reload", _SOME, "seconds", _LESS, 2.0)
    yield Target("reload", _MANY, "seconds", _LESS, 15.0)
    yield Target("command", "s2sgw status", "seconds", _LESS, 0.3)
    yield from (Target("spooled", _SPOOLED, value, _LESS, 1.0) for value in ("status_s", "queue_s", "lanes_s"))
    yield Target("spooled", _SPOOLED, "p99_ms", _LESS, 2.0, spooled.EMPTY)
    for kind, times in ((cluster.HOMES, 1.05), (cluster.HANDED, 1.1)):
        yield Target("cluster-bulk", kind, "cpu_us", _LESS, times, cluster.ALONE)
        yield Target("cluster-single", kind, "cpu_us", _LESS, times, cluster.ONE)
    for held in _HELD:
        yield from (Target("growth", held, value, _LESS, 1.2, growth.FEW) for value in ("stanza_us", "handshake_ms"))


def targets(results: Results) -> list[Target]:
    """Return all targets. No turn of the reactor may be long, under any load."""
    return [*_fixed(), *(Target(row, "", "turn_ms", _LESS, LONG_TURN_MS) for row in results.rows)]


def judged(results: Results) -> list[list[str]]:
    """Return a heading, and a line for each target that was measured."""
    found = [["row", "relay", "figure", "target", "measured", "met"]]
    for target in targets(results):
        measured, met = target.measured(results), target.met(results)
        if measured is None:
            continue
        digits = 2 if target.rival else VALUES[target.value][1]
        shown = f"{measured:,.{digits}f}" + (" ×" if target.rival else "")
        relay, what = TITLES.get(target.relay, target.relay or "s2sgw"), VALUES[target.value][0].removesuffix(" ≤")
        found.append([target.row, relay, what, target.words(), shown, "yes" if met else "no"])
    return found


def missed(results: Results, rows: Collection[str]) -> int:
    """Return how many of the targets of these rows were missed, or not measured."""
    asked = [target for target in targets(results) if target.row in rows]
    return sum(not target.met(results) for target in asked if target.relay or target.measured(results) is not None)
