"""Idle inbound TLS streams: the memory of one in the relay, while many are held."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.outbound import ZONE, cold_peers
from benchmarks.relays import RELAYS as STARTED
from benchmarks.relays import Relay, gateway_relay
from benchmarks.run import PAUSE, Run
from benchmarks.testbed import Testbed, TurnReader, Worker, started_gateway, workers
from tests.lab.nameserver import nameserver

RELAYS = ("s2sgw-auto", "ejabberd", "prosody", "xmpp-proxy")
#: Held streams, and streams that are open before the first sample of the memory, which then has all common parts.
STREAMS, QUICK_STREAMS, FIRST = 2_000, 100, 300
#: Seconds between the last handshake and the sample.
REST = 3.0
#: Limits of the gateway that a load from one address would reach. Each peer has one stream.
LIMITS = {"connections_per_address": 0, "unproven_per_site": 0, "lookups_per_second": 100_000}


@contextmanager
def gateway_for(testbed: Testbed, peers: list[str], changes: Mapping[str, Any] | None = None, **options: Any) -> Iterator[Relay]:
    """Start a gateway whose name server has these peers. `options` are those of `started_gateway`."""
    dns, console = nameserver(testbed.lab), testbed.lab.port()
    for domain in peers:
        dns.serve(domain, 1)
    changes = {**(changes or {}), "limits": LIMITS, "console": {"listen": f"tcp:{console}:interface=127.0.0.1"}}
    with started_gateway(testbed, "auto", changes=changes, dns=dns, **options) as (door, jobs):
        yield gateway_relay("s2sgw-auto", door, jobs, console)


def holder(testbed: Testbed, relay: Relay, peers: list[str], first: int, start: Callable[[str, Any], Worker]) -> Worker:
    """Start the process that holds a stream for each peer. Its job is in a file, because it is too long for a command line."""
    certificate = testbed.authority.for_domain(f"*.{ZONE}")
    job = testbed.lab.directory("holder") / "job.json"
    job.write_text(json.dumps({
        "port": relay.port, "to": relay.to, "domains": peers, "first": first,
        "chain": str(certificate.chain), "key": str(certificate.key),
    }))
    return start("benchmarks.holder", job)


def resident(pids: list[int]) -> float:
    """Return the resident memory of processes in kB."""
    page = os.sysconf("SC_PAGE_SIZE")
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in pids) / 1e3


def measure(testbed: Testbed, name: str, count: int) -> Mapping[str, float]:
    """Return the kB of one stream, and the number of held streams."""
    peers = cold_peers(0, count + FIRST)
    with ExitStack() as stack:
        start = stack.enter_context(workers())
        started = gateway_for(testbed, peers) if name == "s2sgw-auto" else STARTED[name](testbed)
        relay = stack.enter_context(started)
        if name == "xmpp-proxy":
            sink, _ = relay.jobs(1, 1)
            start("benchmarks.sink", sink | {"warm": 1}).line()
        turns = TurnReader(relay.console) if relay.console else None
        held = holder(testbed, relay, peers, FIRST, start)
        held.line()
        time.sleep(REST)
        before = resident(list(relay.processes))
        held.go()
        held.line()
        time.sleep(REST)
        values = {"kb": (resident(list(relay.processes)) - before) / count, "held": float(count)}
        return {**values, **({"turn_ms": turns.longest()} if turns else {})}


def streams(run: Run) -> None:
    """Measure each relay once: memory hardly differs from run to run."""
    count = run.size(STREAMS, QUICK_STREAMS)
    for name in run.wanted(RELAYS):
        with run.attempt("idle", name):
            run.add("idle", name, measure(run.testbed, name, count))
        time.sleep(PAUSE)
    run.show("idle")
