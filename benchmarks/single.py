"""Single stanzas: they arrive one by one over twenty streams, at a fixed rate. The delay and the cost of each are measured."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from functools import partial

from benchmarks.relays import OURS, Relay
from benchmarks.run import Run
from benchmarks.testbed import MANY_STREAMS, workers

RATE, HIGH_RATE = 2_000, 20_000
#: Seconds of load, in a whole run and in a quick one.
SECONDS, HIGH_SECONDS, QUICK_SECONDS = 4, 3, 1
RELAYS = (*OURS, "ejabberd", "prosody", "xmpp-proxy")
#: A sink without a stanza for this many seconds has all that will arrive.
PATIENCE = 4.0
#: Seconds for the load to send data that a relay does not accept.
_SENDING_SECONDS = 15.0
#: Seconds for the last acknowledgements before the ends of a measurement are closed.
LINGER = 0.8


def measure(relay: Relay, rate: int, seconds: int) -> Mapping[str, float]:
    """Return delays and cost of stanzas at `rate` for this many seconds. The first tenth of the delays does not count."""
    count = rate * seconds
    sink, load = relay.jobs(MANY_STREAMS, count)
    with workers() as start:
        far = start("benchmarks.sink", {**sink, "warm": MANY_STREAMS, "timed": True, "patience": PATIENCE})
        far.line()
        near = start("benchmarks.load", {**load, "rate": rate, "seconds": _SENDING_SECONDS})
        near.line()
        far.line()
        relay.check()
        time.sleep(LINGER)
        assert relay.cpu is not None
        before = relay.cpu()
        near.go()
        report, sent = json.loads(far.line()), json.loads(near.line())
        used = relay.cpu() - before
        time.sleep(LINGER)
    delays = report["delays"][MANY_STREAMS:]
    centiles = statistics.quantiles(delays[len(delays) // 10:], n=100)
    return {
        "p50_ms": centiles[49], "p99_ms": centiles[98], "cpu_us": used / max(report["count"], 1) * 1e6,
        "delivered": min(report["count"] / sent["count"], 1.0) * 100, "offered": sent["count"] / sent["seconds"],
    }


def moderate(run: Run) -> None:
    """Measure 2,000 a second."""
    run.interleaved("single-2000", RELAYS, partial(measure, rate=RATE, seconds=run.size(SECONDS, QUICK_SECONDS)))


def high(run: Run) -> None:
    """Measure 20,000 a second, more than most relays can do. Each relay is started again, because some keep stanzas."""
    run.interleaved(
        "single-20000", RELAYS, partial(measure, rate=HIGH_RATE, seconds=run.size(HIGH_SECONDS, QUICK_SECONDS)), fresh=True,
    )
