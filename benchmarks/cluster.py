"""Several nodes: the same load through one gateway, one node, and three nodes of a cluster (docs/cluster.md).

Peers connect to their homes, or a third of them to another node, which hands their connections on. A node without stanzas that
wait asks the engine for its lease alone, so the engine has no more to do than at rest.

The load in bulk is the same for all. Of single stanzas each gateway gets as many a second: at a lower rate fewer of them share
a turn of the reactor, and each costs more, with or without a cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import bulk, single
from benchmarks.relays import Relay, gateway_relay
from benchmarks.run import PAUSE, Run
from benchmarks.testbed import DOMAIN, MANY_STREAMS, Testbed, TurnReader, started_gateway
from s2sgw.backend.private_ca import CERTIFICATE_FILE, PrivateCA
from s2sgw.runtime.state_directory import keep_secret
from tests.lab.gateway import Gateway, gateway
from tests.lab.lab import LabError, cpu_seconds
from tests.lab.nameserver import nameserver
from tests.lab.nats import NATS, nats, nats_server

#: The kinds of a row, and their titles.
ALONE, ONE, TWO = "one gateway, without [cluster]", "one node", "two nodes, one port"
HOMES, HANDED = "three nodes, peers at their homes", "three nodes, a third handed on"
#: Single stanzas a second for each gateway.
RATE = 1_000
#: Seconds until a node has joined and listens.
START_SECONDS = 60.0
#: Bytes of `queue.disk`: the engine reserves more than that on each of its servers.
DISK = "64MB"
#: Seconds in which the engine is measured at rest.
REST_SECONDS = 3.0
#: The state of an established connection in /proc/net/tcp.
_ESTABLISHED = "01"


@dataclass
class Nodes:
    """The nodes of one cluster, and the servers of its engine. `handed`: the connections of the last load that were handed on."""

    testbed: Testbed
    backend: int
    engine: NATS
    anchors: Path
    gateways: list[Gateway] = field(default_factory=list)
    consoles: list[int] = field(default_factory=list)
    listeners: list[int] = field(default_factory=list)
    handed: int = 0

    def relay(self, name: str, *, turned: bool = False, shared: bool = False) -> Relay:
        """Return the nodes as a relay. `turned`: a third of the peers connects to another node. `shared`: the system chooses."""
        pids = [each.process.pid for each in self.gateways if each.process is not None]

        def jobs(streams: int, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
            sink = self.testbed.sink("managed", self.backend, DOMAIN, count, self.anchors)
            ports = [self.gateways[each].port for each in places(streams, len(self.gateways), turned)]
            return sink, {**self.testbed.load(0, DOMAIN, streams, count), "ports": ports, "managed": True}

        def check() -> None:
            self.handed = connections(self.listeners)
            wanted = turned_peers(MANY_STREAMS, len(self.gateways)) if turned else 0
            if self.handed != wanted and not shared:
                raise LabError(f"{self.handed} connections were handed on, and {wanted} should be")

        return Relay(name, 0, DOMAIN, jobs, lambda: sum(map(cpu_seconds, pids)), pids, check=check)

    def engine_cpu(self) -> float:
        """Return the CPU seconds of all servers of the engine."""
        return sum(cpu_seconds(server.process.pid) for server in self.engine.servers if server.process is not None)


def places(streams: int, nodes: int, turned: bool) -> list[int]:
    """Return for each peer the node that it connects to. Peers take the nodes in turn; `turned`: a third takes the next node."""
    return [(each + (turned and _is_turned(each, nodes))) % nodes for each in range(streams)]


def turned_peers(streams: int, nodes: int) -> int:
    """Return the number of peers that connect to another node than their home."""
    return sum(_is_turned(each, nodes) for each in range(streams))


def _is_turned(peer: int, nodes: int) -> bool:
    """Return whether a peer is among the third that is handed on. Each node has as many of them."""
    return nodes > 1 and peer % nodes == peer // nodes % nodes


def connections(ports: Sequence[int], table: str | None = None) -> int:
    """Return the number of connections that were accepted at these ports of 127.0.0.1, by /proc/net/tcp."""
    lines = (Path("/proc/net/tcp").read_text() if table is None else table).splitlines()[1:]
    rows = (line.split() for line in lines)
    return sum(row[3] == _ESTABLISHED and int(row[1].partition(":")[2], 16) in ports for row in rows)


@contextmanager
def started_nodes(testbed: Testbed, number: int, *, one_port: bool = False) -> Iterator[Nodes]:
    """Start three servers of the engine and this many nodes. `one_port`: all nodes listen at the port of the first one."""
    lab, names, shared = testbed.lab, nameserver(testbed.lab), testbed.lab.directory("shared")
    for domain, _ in testbed.peers:
        names.serve(domain, 1)
    names.start()
    keep_secret(shared / "secret")
    PrivateCA(shared)
    nodes = Nodes(testbed, lab.port(), nats(lab, 3), shared / CERTIFICATE_FILE)
    try:
        nodes.engine.start()
        for index in range(number):
            door, console, listen = gateway(lab, DOMAIN), lab.port(), lab.port()
            if one_port and nodes.gateways:
                door = replace(door, port=nodes.gateways[0].port)
            changes: dict[str, Any] = {
                "backend": {"acks": "sm"}, "queue": {"disk": DISK}, "console": {"listen": f"tcp:{console}:interface=127.0.0.1"},
                "cluster": {
                    "node": f"n{index}", "engine": nodes.engine.urls, "listen": f"tcp:{listen}:interface=127.0.0.1",
                    "members": ["127.0.0.0/8"], "shared": str(shared),
                },
            }
            if one_port:
                changes["listen"] = [{"endpoint": f"tcp:{door.port}:interface=127.0.0.1:reuseport=yes"}]
            door.configure(
                backend=f"127.0.0.1:{nodes.backend}", dns=names, anchors=testbed.authority.file,
                certificates=[testbed.authority.for_domain(DOMAIN)], changes=changes,
            )
            door.begin()
            nodes.gateways.append(door)
            nodes.consoles.append(console)
            nodes.listeners.append(listen)
        for door in nodes.gateways:
            assert door.process is not None
            lab.wait_for_port(door.process, door.inner, START_SECONDS)
        yield nodes
    finally:
        lab.stop([each.process for each in nodes.gateways if each.process is not None])
        nodes.engine.kill()
        if names.process is not None:
            lab.stop([names.process])


@dataclass
class Kind:
    """One line of a row: the relay, the consoles of its gateways, and the nodes if it has an engine."""

    relay: Relay
    consoles: Sequence[int]
    nodes: Nodes | None = None

    def measure(self, load: Callable[[Relay], Mapping[str, float]]) -> dict[str, float]:
        """Return the values of one load, and what the engine used meanwhile."""
        turns = [TurnReader(port) for port in self.consoles]
        before, began = self.engine_cpu(), time.monotonic()
        values = dict(load(self.relay))
        if self.nodes is not None:
            values["handed"] = self.nodes.handed
            values["engine_percent"] = (self.engine_cpu() - before) / (time.monotonic() - began) * 100
        return {**values, "turn_ms": max(turn.longest() for turn in turns)}

    def engine_cpu(self) -> float:
        return 0.0 if self.nodes is None else self.nodes.engine_cpu()

    def at_rest(self) -> dict[str, float]:
        """Return what the gateways and the engine use without load."""
        assert self.relay.cpu is not None
        own, engine, began = self.relay.cpu(), self.engine_cpu(), time.monotonic()
        time.sleep(REST_SECONDS)
        seconds = time.monotonic() - began
        values = {"rest_percent": (self.relay.cpu() - own) / seconds * 100}
        return values if self.nodes is None else {**values, "engine_rest": (self.engine_cpu() - engine) / seconds * 100}


def _alone(stack: ExitStack, testbed: Testbed) -> Kind:
    console = testbed.lab.port()
    changes = {"console": {"listen": f"tcp:{console}:interface=127.0.0.1"}}
    door, jobs = stack.enter_context(started_gateway(testbed, "sm", changes=changes))
    return Kind(gateway_relay(ALONE, door, jobs, console), [console])


def _three(stack: ExitStack, testbed: Testbed) -> dict[str, Kind]:
    one, three = (stack.enter_context(started_nodes(testbed, number)) for number in (1, 3))
    return {
        ALONE: _alone(stack, testbed),
        ONE: Kind(one.relay(ONE), one.consoles, one),
        HOMES: Kind(three.relay(HOMES), three.consoles, three),
        HANDED: Kind(three.relay(HANDED, turned=True), three.consoles, three),
    }


def _two(stack: ExitStack, testbed: Testbed) -> dict[str, Kind]:
    two = stack.enter_context(started_nodes(testbed, 2, one_port=True))
    return {ALONE: _alone(stack, testbed), TWO: Kind(two.relay(TWO, shared=True), two.consoles, two)}


def _row(
    run: Run, row: str, start: Callable[[ExitStack, Testbed], dict[str, Kind]], load: Callable[[Relay], Mapping[str, float]],
) -> None:
    """Measure each kind in turn, round after round. The homes are those of the load before: they are kept for 60 s."""
    if nats_server() is None:
        run.results.note(row, ALONE, "not measured: nats-server is not installed")
        run.show(row)
        return
    with ExitStack() as stack, run.attempt(row, "the row"):
        kinds = start(stack, run.testbed)
        for name, kind in kinds.items():
            if name != HANDED:  # the same processes as those of the line before
                run.add(row, name, kind.at_rest())
        for _ in run.rounds():
            for name, kind in kinds.items():
                with run.attempt(row, name):
                    run.add(row, name, kind.measure(load))
                time.sleep(PAUSE)
    run.show(row)


def bulk_load(run: Run) -> None:
    """Measure twenty streams in bulk."""
    _row(run, "cluster-bulk", _three, _in_bulk(run))


def one_port(run: Run) -> None:
    """Measure twenty streams in bulk, with two nodes at one port. A peer that comes again meets either of them."""
    _row(run, "cluster-port", _two, _in_bulk(run))


def _in_bulk(run: Run) -> Callable[[Relay], Mapping[str, float]]:
    whole = bulk.COUNTS["s2sgw-sm"]
    return partial(bulk.measure, streams=MANY_STREAMS, count=run.size(whole, whole // 10))


def single_load(run: Run) -> None:
    """Measure single stanzas over twenty streams, `RATE` a second for each gateway."""
    seconds = run.size(single.SECONDS, single.QUICK_SECONDS)
    _row(run, "cluster-single", _three, lambda relay: single.measure(relay, RATE * len(relay.processes), seconds))
