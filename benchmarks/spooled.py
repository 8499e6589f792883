"""A million spooled stanzas in 2,000 lanes, all due at once: the operator's wait, and the effect on honest traffic."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import single
from benchmarks.entries import START_SECONDS
from benchmarks.relays import Relay, gateway_relay
from benchmarks.run import Run
from benchmarks.size import ZONE, fill
from benchmarks.testbed import Testbed, TurnReader, started_gateway, timed_command
from tests.lab.gateway import Gateway

STANZAS, QUICK_STANZAS = 1_000_000, 20_000
LANES, QUICK_LANES = 2_000, 100
EMPTY = "empty spool"
#: Seconds between the start and the first sample: lanes are restored then.
SETTLE = 3.0
#: The operator's commands, and the name of each in the table.
COMMANDS = {"status_s": ("status",), "queue_s": ("queue", "list"), "lanes_s": ("lanes",)}


@contextmanager
def gateway_with_spool(testbed: Testbed, stanzas: int, lanes: int) -> Iterator[Relay]:
    """Start a gateway whose spool holds this many stanzas for unreachable peers; each stays due."""
    console = testbed.lab.port()
    changes: dict[str, Any] = {
        "queue": {"hold": "1d"}, "console": {"listen": f"tcp:{console}:interface=127.0.0.1"},
        "peers": {f"*.{ZONE}": {"route": f"127.0.0.1:{testbed.lab.port()}"}},
    }

    def before(door: Gateway) -> None:
        state: Path = door.folder / "state"
        state.mkdir(mode=0o700, exist_ok=True)
        fill(state / "spool.db", stanzas, lanes)

    with started_gateway(testbed, "auto", changes=changes, before=before, seconds=START_SECONDS) as (door, jobs):
        yield gateway_relay("s2sgw-auto", door, jobs, console)


def _measure(run: Run, relay: Relay) -> Mapping[str, float]:
    """Return the times of the commands, and the figures of stanzas to a reachable peer meanwhile."""
    assert relay.gateway is not None
    turns = TurnReader(relay.console)
    values: dict[str, float] = {name: timed_command(relay.gateway, *words) for name, words in COMMANDS.items()}
    traffic = single.measure(relay, single.RATE, run.size(single.SECONDS, single.QUICK_SECONDS))
    return {**values, "p50_ms": traffic["p50_ms"], "p99_ms": traffic["p99_ms"], "turn_ms": turns.longest()}


def name_of(stanzas: int, lanes: int) -> str:
    """Return the name of a gateway with this spool, for the row."""
    return f"{stanzas:,} stanzas in {lanes:,} lanes"


def million(run: Run) -> None:
    """Measure a gateway with an empty spool and one with a full one, one after another in each round."""
    stanzas, lanes = run.size(STANZAS, QUICK_STANZAS), run.size(LANES, QUICK_LANES)
    name = name_of(stanzas, lanes)
    with run.attempt("spooled", name), gateway_with_spool(run.testbed, stanzas, lanes) as full:
        time.sleep(SETTLE)
        for _ in run.rounds():
            with run.attempt("spooled", EMPTY):
                run.add("spooled", EMPTY, _measure(run, run.pool.get("s2sgw-auto")))
            with run.attempt("spooled", name):
                run.add("spooled", name, _measure(run, full))
    run.show("spooled")
