"""Many entries: the time and memory of a start, a reload and a command, with this many peers in the configuration."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

from benchmarks.idle import resident
from benchmarks.relays import Relay, gateway_relay
from benchmarks.run import Run
from benchmarks.testbed import Testbed, TurnReader, started_gateway, timed_command

#: Numbers of entries, and those of a quick run.
ENTRIES = (10, 10_000, 100_000)
QUICK_ENTRIES = (10, 1_000, 2_000)
#: Seconds for a start.
START_SECONDS = 120.0
#: Commands for each median.
COMMANDS = 7


def name_of(number: int) -> str:
    """Return the name of a gateway with this many entries, for the rows."""
    return f"{number:,} entries"


def policy(number: int) -> dict[str, Any]:
    """Return the peers of a configuration with this many entries: most are alike, each tenth has its own pin."""
    alike: dict[str, Any] = {"hold": "5m", "limits": {"streams": 3}}
    return {
        f"p{each}.many.example": alike | ({} if each % 10 else {"pins": [f"sha256:{each:064x}"]}) for each in range(number)
    }


@contextmanager
def gateway_with(testbed: Testbed, changes: Mapping[str, Any]) -> Iterator[tuple[Relay, float]]:
    """Start a gateway with these changes; yield it and the seconds from its start until it accepted connections."""
    console, began = testbed.lab.port(), 0.0

    def before(_: Any) -> None:
        nonlocal began
        began = time.monotonic()

    changes = {**changes, "console": {"listen": f"tcp:{console}:interface=127.0.0.1"}}
    with started_gateway(testbed, "auto", changes=changes, before=before, seconds=START_SECONDS) as (door, jobs):
        yield gateway_relay("s2sgw-auto", door, jobs, console), time.monotonic() - began


def starts(run: Run) -> None:
    """Start with each number of entries, ten first. The cost of an entry is counted from there."""
    for _ in run.rounds():
        few = 0.0
        for number in run.size_of(ENTRIES, QUICK_ENTRIES):
            name = name_of(number)
            with run.attempt("start", name), gateway_with(run.testbed, {"peers": policy(number)}) as (ours, seconds):
                assert ours.cpu is not None
                time.sleep(1.0)
                memory = resident(list(ours.processes))
                values = {"seconds": seconds, "cpu_s": ours.cpu(), "memory_mb": memory / 1e3}
                run.add("start", name, {**values, **({"entry_kb": (memory - few) / number} if few else {})})
                few = few or memory
    run.show("start")


def reloads(run: Run) -> None:
    """Change every second entry and reload, repeatedly."""
    for number in run.size_of(ENTRIES, QUICK_ENTRIES):
        name = name_of(number)
        with run.attempt("reload", name), gateway_with(run.testbed, {"peers": policy(number)}) as (ours, _):
            for _ in run.rounds():
                run.add("reload", name, _reload(ours))
    run.show("reload")


def _reload(relay: Relay) -> Mapping[str, float]:
    """Change every second entry and reload; return the time, and the longest turn of the reactor meanwhile."""
    door = relay.gateway
    assert door is not None
    assert relay.cpu is not None
    numbers = count()

    def changed(found: re.Match[str]) -> str:
        return found[0] if next(numbers) % 2 else {'"5m"': '"6m"', '"6m"': '"5m"'}[found[0]]

    door.config.write_text(re.sub('"[56]m"', changed, door.config.read_text("utf-8")), "utf-8")
    turns, before = TurnReader(relay.console), relay.cpu()
    seconds = timed_command(door, "reload")
    return {"seconds": seconds, "cpu_s": relay.cpu() - before, "turn_ms": turns.longest()}


def commands(run: Run) -> None:
    """Measure `s2sgw VERB`, from the shell to the answer."""
    relay = run.pool.get("s2sgw-auto")
    assert relay.gateway is not None
    for words in (("status",), ("streams",), ("queue", "list"), ("explain", "peer1.example")):
        for _ in range(run.size(COMMANDS, 2)):
            with run.attempt("command", f"s2sgw {' '.join(words)}"):
                run.add("command", f"s2sgw {' '.join(words)}", {"seconds": timed_command(relay.gateway, *words)})
    run.show("command")
