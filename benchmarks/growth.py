"""Growth: the cost of a stanza and a handshake for a gateway that holds much, beside one that holds little."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks import handshakes, single
from benchmarks.entries import gateway_with, policy
from benchmarks.idle import gateway_for, holder
from benchmarks.outbound import cold_peers
from benchmarks.relays import Relay
from benchmarks.run import Run
from benchmarks.spooled import LANES, QUICK_LANES, QUICK_STANZAS, STANZAS, gateway_with_spool
from benchmarks.testbed import Testbed, TurnReader, workers

FEW = "ten peer entries"
#: The number of each, and in a quick run.
ENTRIES, QUICK_ENTRIES = 100_000, 1_000
STREAMS, QUICK_STREAMS = 2_000, 100
#: Seconds of stanzas, and handshakes, of one measurement.
SECONDS, QUICK_SECONDS = 2, 1
HANDSHAKES, QUICK_HANDSHAKES = 60, 20
#: A gateway below this part of a core has finished its start. The maximum wait for that is in seconds.
RESTING, SETTLE = 0.05, 20.0


@contextmanager
def _entries(testbed: Testbed, number: int) -> Iterator[Relay]:
    with gateway_with(testbed, {"peers": policy(number)}) as (relay, _):
        yield relay


@contextmanager
def _denied(testbed: Testbed, number: int) -> Iterator[Relay]:
    path: Path = testbed.lab.directory("deny") / "list.txt"
    path.write_text("".join(f"d{each}.denied.example\n" for each in range(number)))
    with gateway_with(testbed, {"policy": {"deny_lists": [str(path)]}}) as (relay, _):
        yield relay


@contextmanager
def _streams(testbed: Testbed, number: int) -> Iterator[Relay]:
    peers = cold_peers(0, number)
    with ExitStack() as stack:
        start = stack.enter_context(workers())
        relay = stack.enter_context(gateway_for(testbed, peers))
        held = holder(testbed, relay, peers, 0, start)
        held.line()
        held.go()
        held.line()
        yield relay


def settled(relay: Relay) -> float:
    """Wait until a gateway is idle; return the percent of a core that it uses then."""
    assert relay.cpu is not None
    deadline = time.monotonic() + SETTLE
    while True:
        before, began = relay.cpu(), time.monotonic()
        time.sleep(1.0)
        used = (relay.cpu() - before) / (time.monotonic() - began)
        if used < RESTING or time.monotonic() > deadline:
            return used * 100


def measure(run: Run, relay: Relay) -> Mapping[str, float]:
    """Return CPU of a single stanza, and of a handshake."""
    turns = TurnReader(relay.console)
    traffic = single.measure(relay, single.RATE, run.size(SECONDS, QUICK_SECONDS))
    opened = handshakes.measure(relay, run.testbed, run.size(HANDSHAKES, QUICK_HANDSHAKES))
    return {"stanza_us": traffic["cpu_us"], "handshake_ms": opened["cpu_ms"], "turn_ms": turns.longest()}


#: A function that starts a gateway.
Start = Callable[[Testbed], AbstractContextManager[Relay]]


def gateways(entries: int, streams: int, stanzas: int, lanes: int) -> dict[str, Start]:
    """Return a starter of each gateway that holds much, by its contents."""
    return {
        f"{entries:,} peer entries": partial(_entries, number=entries),
        f"{entries:,} domains on a deny list": partial(_denied, number=entries),
        f"{streams:,} idle streams": partial(_streams, number=streams),
        f"{stanzas:,} spooled stanzas in {lanes:,} lanes": partial(gateway_with_spool, stanzas=stanzas, lanes=lanes),
    }


def costs(run: Run) -> None:
    """Measure each gateway that holds much in turns with one that holds ten of each."""
    entries, streams = run.size(ENTRIES, QUICK_ENTRIES), run.size(STREAMS, QUICK_STREAMS)
    stanzas, lanes = run.size(STANZAS, QUICK_STANZAS), run.size(LANES, QUICK_LANES)
    with _entries(run.testbed, 10) as few:
        run.add("growth", FEW, {"rest_percent": settled(few)})
        for name, start in gateways(entries, streams, stanzas, lanes).items():
            with run.attempt("growth", name), start(run.testbed) as many:
                run.add("growth", name, {"rest_percent": settled(many)})
                for _ in run.rounds():
                    with run.attempt("growth", FEW):
                        run.add("growth", FEW, measure(run, few))
                    with run.attempt("growth", name):
                        run.add("growth", name, measure(run, many))
    run.show("growth")
