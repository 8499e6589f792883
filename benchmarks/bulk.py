"""Bulk: peers send messages of about 400 bytes as fast as they are accepted, on one stream or on twenty."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from benchmarks.relays import Relay
from benchmarks.run import Run
from benchmarks.stanzas import message
from benchmarks.testbed import MANY_STREAMS, workers

#: Messages of one measurement: about two seconds of each relay.
COUNTS = {
    "bare": 500_000, "s2sgw-tcp": 200_000, "s2sgw-auto": 200_000, "s2sgw-sm": 200_000, "ejabberd": 100_000, "prosody": 30_000,
    "xmpp-proxy": 300_000,
}
_QUICK_PART = 10
#: Seconds for the last acknowledgements before the ends of a measurement are closed.
LINGER = 0.8


def measure(relay: Relay, streams: int, count: int) -> Mapping[str, float]:
    """Return rate and cost of `count` messages."""
    sink, load = relay.jobs(streams, count)
    with workers() as start:
        far = start("benchmarks.sink", {**sink, "warm": streams})
        far.line()
        near = start("benchmarks.load", load)
        near.line()
        far.line()
        relay.check()
        before = relay.cpu() if relay.cpu else 0.0
        near.go()
        report = json.loads(far.line())
        used = relay.cpu() - before if relay.cpu else report["cpu"]
        time.sleep(LINGER)
    arrived = report["count"]
    rate = arrived / report["seconds"]
    size = len(message(load["peers"][0][0], load["to"]))
    return {"rate": rate, "cpu_us": used / arrived * 1e6, "megabytes": rate * size / 1e6}


def _row(run: Run, row: str, streams: int, relays: list[str]) -> None:
    def once(relay: Relay) -> Mapping[str, float]:
        whole = COUNTS[relay.name]
        return measure(relay, streams, run.size(whole, whole // _QUICK_PART))

    run.interleaved(row, relays, once)


def one_stream(run: Run) -> None:
    """Measure one stream."""
    _row(run, "bulk-1", 1, list(COUNTS))


def many_streams(run: Run) -> None:
    """Measure twenty streams; the bare loop has one only."""
    _row(run, "bulk-20", MANY_STREAMS, [name for name in COUNTS if name != "bare"])
