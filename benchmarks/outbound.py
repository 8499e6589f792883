"""Outbound streams: from a stanza for a domain without a stream, through SRV, TCP, STARTTLS and EXTERNAL, to its arrival."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

from benchmarks.delays import stamp
from benchmarks.relays import gateway_relay, started_server
from benchmarks.run import PAUSE, Run
from benchmarks.sink import component
from benchmarks.stanzas import ID, message
from benchmarks.testbed import COMPONENT, DOMAIN, Testbed, TurnReader, started_gateway, workers
from tests.lab.nameserver import Nameserver, nameserver
from tests.lab.peer import Stream, authenticated
from tests.lab.servers import ejabberd, prosody
from tests.lab.servers.server import PASSWORD, Server

RELAYS = ("s2sgw-auto", "ejabberd", "prosody")
#: New peers of one measurement, and seconds between two of them.
PEERS, QUICK_PEERS = 30, 8
EVERY = 0.1
#: Peers before these.
WARM = 2
ZONE = "cold.example"

#: A function that sends one stanza to a domain by its stream there.
Send = Callable[[str], None]


def cold_peers(first: int, count: int) -> list[str]:
    """Return this many domains."""
    return [f"p{number}.{ZONE}" for number in range(first, first + count)]


@contextmanager
def _name_server(testbed: Testbed, port: int, peers: Sequence[str]) -> Iterator[Nameserver]:
    """Start a name server of these peers, all of which listen at `port`."""
    dns = nameserver(testbed.lab)
    for domain in peers:
        dns.serve(domain, port)
    yield dns
    if dns.process is not None:
        testbed.lab.stop([dns.process])


@contextmanager
def _gateway(
    testbed: Testbed, dns: Nameserver, peers: Sequence[str], program: Sequence[str] = (),
) -> Iterator[tuple[Callable[[], float], Send, int]]:
    """Start a gateway to which the server behind it has a stream for each peer."""
    console = testbed.lab.port()
    changes = {"console": {"listen": f"tcp:{console}:interface=127.0.0.1"}}
    with started_gateway(testbed, "auto", program, changes=changes, dns=dns) as (door, jobs):
        relay = gateway_relay("s2sgw-auto", door, jobs, console)
        certificate = testbed.authority.for_domain(DOMAIN)
        streams = {peer: authenticated(door.inner, peer, DOMAIN, certificate) for peer in peers}
        assert relay.cpu is not None
        yield relay.cpu, lambda peer: streams[peer].send(message(DOMAIN, peer).replace(ID, stamp())), console
        for stream in streams.values():
            stream.close()


@contextmanager
def _server(testbed: Testbed, dns: Nameserver, name: str) -> Iterator[tuple[Callable[[], float], Send, int]]:
    """Start a server with a component that sends."""
    dns.start()
    start: Callable[..., Server] = ejabberd.start if name == "ejabberd" else prosody.start
    with started_server(testbed, start, dns.port) as server:
        stream: Stream = component({"port": server.component_port, "domain": COMPONENT, "secret": PASSWORD})
        yield server.cpu_seconds, lambda peer: stream.send(message(COMPONENT, peer).replace(ID, stamp())), 0
        stream.close()


def counted(testbed: Testbed, program: Sequence[str], count: int, counting: Callable[[], AbstractContextManager[object]]) -> None:
    """Open `count` streams of a gateway that is started by `program`, one every `EVERY` seconds, within `counting`."""
    port, peers = testbed.lab.port(), cold_peers(0, count + WARM)
    with _name_server(testbed, port, peers) as dns, workers() as start:
        sink = start("benchmarks.sink", {**testbed.sink("server", port, f"*.{ZONE}", count), "warm": WARM})
        sink.line()
        with _gateway(testbed, dns, peers, program) as (_, send, _):
            for peer in peers[:WARM]:
                send(peer)
                time.sleep(0.5)
            sink.line()
            with counting():
                for peer in peers[WARM:]:
                    send(peer)
                    time.sleep(EVERY)
                sink.line()


def measure(testbed: Testbed, name: str, count: int) -> Mapping[str, float]:
    """Return CPU and time of one stream, from the stanza to its arrival. `WARM` peers before these fill common caches."""
    port, peers = testbed.lab.port(), cold_peers(0, count + WARM)
    with ExitStack() as stack:
        dns = stack.enter_context(_name_server(testbed, port, peers))
        job = testbed.sink("server", port, f"*.{ZONE}", len(peers))
        sink = stack.enter_context(workers())("benchmarks.sink", {**job, "warm": 0, "timed": True, "patience": 8.0})
        sink.line()
        relay = _gateway(testbed, dns, peers) if name == "s2sgw-auto" else _server(testbed, dns, name)
        cpu, send, console = stack.enter_context(relay)
        for peer in peers[:WARM]:
            send(peer)
            time.sleep(0.5)
        turns = TurnReader(console) if console else None
        before = cpu()
        for peer in peers[WARM:]:
            send(peer)
            time.sleep(EVERY)
        report = json.loads(sink.line())
        used = cpu() - before
        delays = report["delays"][WARM:]
        values = {"cpu_ms": used / count * 1e3, "wall_ms": statistics.median(delays), "delivered": len(delays) / count * 100}
        return {**values, **({"turn_ms": turns.longest()} if turns else {})}


def streams(run: Run) -> None:
    """Measure one stream of each server; a reverse proxy opens none."""
    count = run.size(PEERS, QUICK_PEERS)
    for _ in run.rounds():
        for name in run.wanted(RELAYS):
            with run.attempt("outbound", name):
                run.add("outbound", name, measure(run.testbed, name, count))
            time.sleep(PAUSE)
    run.show("outbound")
