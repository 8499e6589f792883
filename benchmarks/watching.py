"""The cost of the turn watch: three readings of clocks, once a turn of the reactor."""

from __future__ import annotations

from time import process_time

from benchmarks.run import Run
from s2sgw.runtime.turn_watch import TurnWatch

#: Turns of one measurement.
TURNS = 200_000


def cost(run: Run) -> None:
    """Measure turns without work. The gateway reads the CPU time at the beginning of a turn for the turn's budget too."""
    watch = TurnWatch()
    for _ in run.rounds():
        began = process_time()
        for _ in range(TURNS):
            watch.began(0.0)
            watch.ended()
        run.add("turn-watch", "the turn watch", {"microseconds": (process_time() - began) / TURNS * 1e6})
    run.show("turn-watch")
