"""The relays that are measured side by side: s2sgw in each `acks` mode, ejabberd, Prosody, xmpp-proxy, a bare loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.sink import component
from benchmarks.testbed import COMPONENT, DOMAIN, Jobs, Testbed, started_gateway
from tests.lab.gateway import Gateway
from tests.lab.lab import LabError, cpu_seconds
from tests.lab.peer import PeerError
from tests.lab.servers import ejabberd, prosody, xmpp_proxy
from tests.lab.servers.server import PASSWORD, Server, Site

#: The relays that are s2sgw, each with the `acks` of its backend.
OURS = {"s2sgw-tcp": "tcp", "s2sgw-auto": "auto", "s2sgw-sm": "sm"}
#: The title of each relay in a table.
TITLES = {
    "bare": "bare loop: TLS in, expat, nothing else",
    "s2sgw-tcp": 's2sgw, acks = "tcp"', "s2sgw-auto": 's2sgw, acks = "auto" (default)',
    "s2sgw-sm": 's2sgw, acks = "sm": XEP-0198 and custody on both legs',
    "ejabberd": "ejabberd", "prosody": "Prosody", "xmpp-proxy": f"xmpp-proxy {xmpp_proxy.VERSION}",
}


#: Seconds until a listening server must accept a component.
_COMPONENT_SECONDS = 60.0


@dataclass
class Relay:
    """A running relay. `jobs` makes the jobs of a sink and of a load.

    `cpu` returns its CPU seconds so far; None: those of the sink count. `check` is called when all streams of a load are open. It
    raises `LabError` if they are not as they should be.
    """

    name: str
    port: int
    to: str
    jobs: Jobs
    cpu: Callable[[], float] | None
    processes: Sequence[int]
    gateway: Gateway | None = None
    console: int = 0
    component_port: int = 0
    check: Callable[[], None] = lambda: None


@contextmanager
def _gateway(testbed: Testbed, name: str) -> Iterator[Relay]:
    port = testbed.lab.port()
    changes = {"console": {"listen": f"tcp:{port}:interface=127.0.0.1"}}
    with started_gateway(testbed, OURS[name], changes=changes) as (door, jobs):
        yield gateway_relay(name, door, jobs, port)


def gateway_relay(name: str, door: Gateway, jobs: Jobs, console: int) -> Relay:
    """Return a gateway that runs as a relay; `console` is the port of its metrics."""
    assert door.process is not None
    pid = door.process.pid
    return Relay(name, door.port, DOMAIN, jobs, lambda: cpu_seconds(pid), [pid], door, console)


@contextmanager
def _server(testbed: Testbed, name: str, start: Callable[..., Server]) -> Iterator[Relay]:
    with started_server(testbed, start) as server:
        def jobs(streams: int, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
            sink = testbed.sink("component", server.component_port, COMPONENT, count)
            return sink, testbed.load(server.s2s_port, COMPONENT, streams, count)

        pids = [process.pid for process in server.processes]
        yield Relay(name, server.s2s_port, DOMAIN, jobs, server.cpu_seconds, pids, component_port=server.component_port)


@contextmanager
def started_server(testbed: Testbed, start: Callable[..., Server], dns: int = 1) -> Iterator[Server]:
    """Start a server with a component, and with a minimal log. `dns`: the port of its name server."""
    certificate = testbed.authority.for_domain(DOMAIN)
    server = start(Site(testbed.lab, DOMAIN, dns, testbed.authority.file, certificate, verbose=False), component=COMPONENT)
    try:
        _wait_for_component(server)
        yield server
    finally:
        server.stop(testbed.lab)


def _wait_for_component(server: Server) -> None:
    """Wait until a component can connect: a listening server may still be starting. Raise `LabError` after the time limit."""
    deadline = time.monotonic() + _COMPONENT_SECONDS
    while True:
        try:
            component({"port": server.component_port, "domain": COMPONENT, "secret": PASSWORD}).close()
        except (PeerError, OSError) as problem:
            if time.monotonic() > deadline:
                raise LabError(f"no component can connect to {server.kind}: {problem}") from None
            time.sleep(0.3)
        else:
            return


@contextmanager
def _xmpp_proxy(testbed: Testbed) -> Iterator[Relay]:
    """Start xmpp-proxy. The server behind it is the sink, without TLS."""
    target = testbed.lab.port()
    server = xmpp_proxy.start(testbed.lab, testbed.authority.for_domain(DOMAIN), target)

    def jobs(streams: int, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
        return testbed.sink("plain", target, DOMAIN, count), testbed.load(server.s2s_port, DOMAIN, streams, count)

    try:
        yield Relay("xmpp-proxy", server.s2s_port, DOMAIN, jobs, server.cpu_seconds, [server.processes[0].pid])
    finally:
        server.stop(testbed.lab)


@contextmanager
def _bare(testbed: Testbed) -> Iterator[Relay]:
    port = testbed.lab.port()

    def jobs(streams: int, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
        return testbed.sink("bare", port, DOMAIN, count), testbed.load(port, DOMAIN, streams, count)

    yield Relay("bare", port, DOMAIN, jobs, None, [])


RELAYS: dict[str, Callable[[Testbed], AbstractContextManager[Relay]]] = {
    "bare": _bare,
    **{name: partial(_gateway, name=name) for name in OURS},
    "ejabberd": partial(_server, name="ejabberd", start=ejabberd.start),
    "prosody": partial(_server, name="prosody", start=prosody.start),
    "xmpp-proxy": _xmpp_proxy,
}


class RelayPool:
    """Relays that are started when they are needed, and run until the end or until they are dropped."""

    def __init__(self, testbed: Testbed) -> None:
        self.testbed = testbed
        self._running: dict[str, tuple[Relay, ExitStack]] = {}

    def get(self, name: str) -> Relay:
        """Return the running relay, and start it if needed. Errors of its start are passed on."""
        if name not in self._running:
            with ExitStack() as stack:
                relay = stack.enter_context(RELAYS[name](self.testbed))
                self._running[name] = relay, stack.pop_all()
        return self._running[name][0]

    def drop(self, name: str) -> None:
        """Stop one relay, if it runs."""
        if name in self._running:
            self._running.pop(name)[1].close()

    def close(self) -> None:
        """Stop all relays."""
        for name in list(self._running):
            self.drop(name)
