"""Measures the turns of the reactor. In a long turn everything else waits; the code that ran in it is logged.

Two times are measured. The elapsed time includes waits for the disk, for other threads and for a processor. The CPU time of the
reactor's thread is the work of the turn itself. If it is much less than the elapsed time, the machine is busy.

A thread examines the reactor's thread while a turn is long. The turn itself costs three readings of clocks. While no turn is
long, the thread does little: it runs in an idle gateway too.
"""

from __future__ import annotations

import gc
import sys
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, thread_time
from types import FrameType

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.logger import Logger

#: Buckets of `s2sgw_reactor_turn_seconds` and `s2sgw_reactor_turn_cpu_seconds`.
BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
#: Turns of at least `LONG_SECONDS` are logged, at most one in `LOG_SECONDS`.
LONG_SECONDS = 0.1
LOG_SECONDS = 60.0
#: Seconds between two looks at the reactor's thread, and after which a turn is examined. The sum is less than `LONG_SECONDS`, so
#: each long turn is examined.
LOOK = 0.045
LOOKED_AT = 0.05

_OURS = "s2sgw"


class TurnWatch(Collector):
    """Measures each turn between `began` and `ended`, which the reactor's thread calls."""

    log = Logger("s2sgw")

    def __init__(
        self, stopwatch: Callable[[], float] = perf_counter, cpu_clock: Callable[[], float] = thread_time,
    ) -> None:
        """Take the clocks. `cpu_clock` returns the CPU seconds of the calling thread."""
        self._stopwatch = stopwatch
        self._cpu_clock = cpu_clock
        self._began: float | None = None
        self._cpu_began = 0.0
        self._turn = 0
        self._times, self._cpu_times = Histogram(), Histogram()
        #: (turn, the code that was seen to run in it)
        self._seen = (0, "")
        self._logged_at = float("-inf")
        self._unlogged = 0
        self._collecting = 0.0
        #: held until the watch ends (an `Event` costs more at each look)
        self._watching = threading.Lock()
        self._thread: threading.Thread | None = None
        self._reactor_thread = 0

    def began(self, cpu_seconds: float | None = None) -> None:
        """Note that a turn of the reactor begins. `cpu_seconds`: the CPU seconds of this thread, if the caller has read them."""
        self._turn += 1
        self._cpu_began = self._cpu_clock() if cpu_seconds is None else cpu_seconds
        self._began = self._stopwatch()

    def ended(self) -> None:
        """Note that the turn is over."""
        began, self._began = self._began, None
        if began is None:
            return
        seconds, cpu_seconds = self._stopwatch() - began, self._cpu_clock() - self._cpu_began
        for histogram, taken in ((self._times, seconds), (self._cpu_times, cpu_seconds)):
            histogram.counts[bisect_left(BUCKETS, taken)] += 1
            histogram.sum += taken
        if seconds >= LONG_SECONDS:
            self._log(seconds, cpu_seconds)

    def _log(self, seconds: float, cpu_seconds: float) -> None:
        now = self._stopwatch()
        if now - self._logged_at < LOG_SECONDS:
            self._unlogged += 1
            return
        turn, ran = self._seen
        more, self._unlogged, self._logged_at = self._unlogged, 0, now
        self.log.warn(
            event="long turn", seconds=round(seconds, 3), cpu_seconds=round(cpu_seconds, 3),
            ran=ran if turn == self._turn else "", more=more or None,
        )

    # --- the code that runs ---

    def start(self) -> None:
        """Watch the calling thread, which is the reactor's: examine it whenever a turn is long."""
        self._reactor_thread = threading.get_ident()
        gc.callbacks.append(self._collects)
        self._watching.acquire()
        self._thread = threading.Thread(target=self._watch, name="turn watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        if self._thread is not None:
            gc.callbacks.remove(self._collects)
            self._watching.release()
            self._thread.join()
            self._thread = None

    def _watch(self) -> None:
        while not self._watching.acquire(timeout=LOOK):
            if self._is_long():
                with collector_off():
                    self.look(sys._current_frames().get(self._reactor_thread))
        self._watching.release()

    def _is_long(self) -> bool:
        """Return whether a turn is under way that is to be examined, and was not yet."""
        began = self._began
        return began is not None and self._turn != self._seen[0] and self._stopwatch() - began >= LOOKED_AT

    def look(self, frame: FrameType | None) -> None:
        """Note the code that runs, if the turn is long already. The first sight of a turn counts."""
        turn = self._turn
        if frame is not None and self._is_long():
            self._seen = (turn, described(frame))

    def _collects(self, phase: str, info: dict[str, int]) -> None:
        """Note a long garbage collection: no other thread can run meanwhile."""
        if threading.get_ident() != self._reactor_thread:
            return
        now = self._stopwatch()
        if phase == "start":
            self._collecting = now
        elif now - self._collecting >= LOOKED_AT:
            self._seen = (self._turn, f"the cyclic collector, generation {info['generation']}")

    # --- the metric ---

    def describe(self) -> list[Metric]:
        """Return nothing: the metrics are named by `collect`."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the histograms."""
        text = "Time that a turn of the reactor took. Everything else waits during it."
        yield self._times.metric("s2sgw_reactor_turn_seconds", text)
        yield self._cpu_times.metric("s2sgw_reactor_turn_cpu_seconds", "CPU time of the reactor's thread in one turn.")


class Histogram:
    """Durations counted in `BUCKETS`. `counts` has one more, for those beyond the last bucket."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def metric(self, name: str, text: str) -> HistogramMetricFamily:
        """Return the metric, whose buckets are cumulative."""
        total, rows = 0, []
        for bound, count in zip([*map(str, BUCKETS), "+Inf"], self.counts, strict=True):
            total += count
            rows.append((bound, total))
        return HistogramMetricFamily(name, text, buckets=rows, sum_value=self.sum)


@contextmanager
def collector_off() -> Iterator[None]:
    """Let the cyclic collector not run while a thread reads the frames of another.

    In Python 3.11 a collection may begin within `f_back`. It calls functions, so the other thread may go on, and the frame that
    was to be read is gone: the process crashes.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def described(frame: FrameType | None) -> str:
    """Return where a thread is: our innermost function, and the innermost function of all if that is another."""
    places: list[str] = []
    ours = ""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        places.append(f"{module}.{frame.f_code.co_qualname}:{frame.f_lineno}")
        if not ours and module.split(".")[0] == _OURS:
            ours = places[-1]
        frame = frame.f_back
    innermost = places[0] if places else ""
    return innermost if ours in ("", innermost) else f"{ours}, in {innermost}"
