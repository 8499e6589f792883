"""`python -m benchmarks.single`: stanzas that come one by one, 2,000 a second: how long each is on its way through the gateway.

Both ends are processes of this machine, so what is measured is two TCP connections with TLS and what stands between them.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import time
from typing import Any

from benchmarks.__main__ import ACKS, LINGER, Ground, front, ground_in, parts
from tests.lab.lab import Lab, LabError, cpu_seconds

RATE = 2000
COUNT = 20_000
STREAMS = (1, 20)
#: Milliseconds that the median may be at most.
MEDIAN = 1.0


def measure(ground: Ground, sink: dict[str, Any], load: dict[str, Any]) -> list[float]:
    """The delays, in milliseconds, of all but the first tenth."""
    with parts() as start:
        far = start("benchmarks.sink", {**sink, "warm": len(load["peers"]), "timed": True})
        far.line()
        near = start("benchmarks.load", {**load, "rate": RATE})
        near.line()
        far.line()
        near.go()
        report = json.loads(far.line())
        time.sleep(LINGER)
    delays: list[float] = report["delays"]
    return delays[len(delays) // 10:]


def _rows(ground: Ground, acks: str) -> bool:
    """One line for each number of streams; whether the medians are what they should be."""
    good = True
    with front(ground, acks) as (door, ends):
        assert door.process is not None
        for streams in STREAMS:
            before = cpu_seconds(door.process.pid)
            delays = measure(ground, *ends(streams, COUNT))
            cpu = (cpu_seconds(door.process.pid) - before) / COUNT * 1e6
            centiles = statistics.quantiles(delays, n=100)
            good &= centiles[49] < MEDIAN
            print(f"{ACKS[acks][0]:<44}{streams:>8}{centiles[49]:>12.2f}{centiles[98]:>12.2f}{cpu:>14.0f}", flush=True)
    return good


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.single", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"{RATE:,} single stanzas a second")
    print(f"{'relay':<44}{'streams':>8}{'median ms':>12}{'99th ms':>12}{'CPU µs each':>14}")
    good = True
    with Lab(arguments.keep) as lab:
        ground = ground_in(lab)
        for acks in ACKS:
            try:
                good &= _rows(ground, acks)
            except (LabError, OSError, ValueError) as problem:
                print(f"{acks}: failed: {problem}", flush=True)
                good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
