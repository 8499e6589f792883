"""Many entries: how long a start, a reload and a command take, and what memory, with so many peers in the configuration."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from benchmarks.idle import resident
from benchmarks.relays import Relay, gateway_relay
from benchmarks.run import Run
from benchmarks.testbed import Testbed, TurnReader, started_gateway, timed_command

#: Entries, and those of a quick run.
ENTRIES = (10, 10_000, 100_000)
QUICK_ENTRIES = (10, 1_000, 2_000)
#: Seconds that a start may take.
START_SECONDS = 120.0
#: Commands of which the median is told.
COMMANDS = 7


def policy(number: int) -> dict[str, Any]:
    """Return the peers of a configuration with so many entries."""
    return {f"p{each}.many.example": {"hold": "5m", "limits": {"streams": 3}} for each in range(number)}


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


def start_and_reload(run: Run) -> None:
    """Start with each number of entries, change one in two of them, and reload."""
    for _ in range(run.rounds):
        few = 0.0
        for number, label in zip(run.size_of(ENTRIES, QUICK_ENTRIES), ENTRIES, strict=True):
            relay = f"{number:,} entries"
            with run.attempt("start", relay), gateway_with(run.testbed, {"peers": policy(number)}) as (ours, seconds):
                time.sleep(1.0)
                memory = resident(list(ours.processes))
                few = few or memory
                values = {"seconds": seconds, "memory_mb": memory / 1e3}
                if label != ENTRIES[0]:
                    values["entry_kb"] = (memory - few) / number
                run.add("start", relay, values)
                with run.attempt("reload", relay):
                    run.add("reload", relay, _reload(ours))
                time.sleep(0.5)
    run.show("start")
    print("reload, every second entry changed  [reload]", flush=True)
    run.show("reload")


def _reload(relay: Relay) -> Mapping[str, float]:
    """Change every second entry and reload; return what it took, and the longest turn of the reactor meanwhile."""
    door = relay.gateway
    assert door is not None
    head, *entries = door.config.read_text("utf-8").split('"5m"')
    door.config.write_text(head + "".join(f'"{5 + number % 2}m"{text}' for number, text in enumerate(entries)), "utf-8")
    turns = TurnReader(relay.console)
    seconds = timed_command(door, "reload")
    return {"seconds": seconds, "turn_ms": turns.longest()}


def commands(run: Run) -> None:
    """`s2sgw VERB`, from the shell to the answer."""
    relay = run.pool.get("s2sgw-auto")
    assert relay.gateway is not None
    for words in (("status",), ("streams",), ("queue", "list"), ("explain", "peer1.example")):
        for _ in range(run.size(COMMANDS, 2)):
            with run.attempt("command", f"s2sgw {' '.join(words)}"):
                run.add("command", f"s2sgw {' '.join(words)}", {"seconds": timed_command(relay.gateway, *words)})
    run.show("command")
