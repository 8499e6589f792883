"""Inbound handshakes: TCP, STARTTLS, TLS 1.3, SASL EXTERNAL and a normal close, one after another."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress

from benchmarks.relays import Relay
from benchmarks.run import Run
from benchmarks.testbed import Testbed, workers
from tests.lab.certificates import Certificate
from tests.lab.peer import authenticated

RELAYS = ("s2sgw-auto", "ejabberd", "prosody", "xmpp-proxy")
#: Handshakes of one measurement.
COUNT, QUICK_COUNT = 120, 40


def handshake(port: int, to: str, peer: tuple[str, Certificate]) -> float:
    """Open a stream as `peer`, authenticate, and close it normally; return the seconds until it was authenticated."""
    domain, certificate = peer
    began = time.perf_counter()
    stream = authenticated(port, to, domain, certificate)
    took = time.perf_counter() - began
    stream.send(b"</stream:stream>")
    stream.raw.settimeout(10)
    with suppress(OSError):
        while stream.raw.recv(65536):
            pass
    stream.close()
    return took


def measure(relay: Relay, testbed: Testbed, count: int) -> Mapping[str, float]:
    """Return CPU and time of one handshake. The first of each peer does not count: look-ups are cached afterwards."""
    with ExitStack() as stack:
        if relay.name == "xmpp-proxy":  # the server behind it does all but TLS
            sink, _ = relay.jobs(1, 1)
            stack.enter_context(workers())("benchmarks.sink", {**sink, "warm": 1}).line()
        for peer in testbed.peers:
            handshake(relay.port, relay.to, peer)
        assert relay.cpu is not None
        before = relay.cpu()
        seconds = [handshake(relay.port, relay.to, testbed.peers[number % len(testbed.peers)]) for number in range(count)]
        return {"cpu_ms": (relay.cpu() - before) / count * 1e3, "wall_ms": statistics.median(seconds) * 1e3}


def inbound(run: Run) -> None:
    """Measure one handshake of each relay."""
    run.interleaved("handshake", RELAYS, lambda relay: measure(relay, run.testbed, run.size(COUNT, QUICK_COUNT)))
