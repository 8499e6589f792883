"""`python -m benchmarks.cold`: the first message to and from a new peer. It shows the time that the gateway adds to two servers.

Each message goes to (or comes from) a domain without an earlier stream, so discovery, the connection, TLS,
authentication and the verdict are included. The same servers run on the same machine, with and without the gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.interop.conversation import login
from tests.lab.certificates import Authority, Names
from tests.lab.client import Client
from tests.lab.gateway import gateway
from tests.lab.lab import Lab
from tests.lab.nameserver import nameserver
from tests.lab.servers import packages
from tests.lab.servers.launch import START
from tests.lab.servers.server import Site
from tests.lab.world import Front

INSIDE = "inside.example"
#: New peers of one measurement, in each direction.
PEERS = 15
#: Target: milliseconds at the median.
TARGET = 15.0
_SECONDS = 20.0


@dataclass
class Ends:
    """A client behind, and one on each of many domains outside."""

    near: Client
    far: list[Client]


@asynccontextmanager
async def ends_of(
    lab: Lab, kind: str, through: bool, peers: int = PEERS, line: Callable[[int], int] = lambda port: port,
) -> AsyncIterator[Ends]:
    """Yield a server of `kind` and a Prosody of many domains, with the gateway before the first, or without.

    `peers` are the new ones in each direction. `line` returns the port by which the other side reaches a port.
    """
    dns, authority = nameserver(lab), Authority(lab.directory("authority"))
    dns.start()
    domains = [f"cold{number}.example" for number in range(2 * peers + 1)]
    far = START["prosody"](Site(
        lab, domains[0], dns.port, authority.file, authority.issue(Names(dns=tuple(domains))), also=domains[1:], verbose=False,
    ))
    outside = line(far.s2s_port)
    for domain in domains:
        dns.serve(domain, outside)
    if through:
        door = gateway(lab, INSIDE)
        dns.serve(INSIDE, line(door.port))
        dns.reload()
        near = Front(door, kind, [authority.issue(Names(dns=(INSIDE,)))]).start(dns, authority)
    else:
        near = START[kind](Site(lab, INSIDE, dns.port, authority.file, authority.for_domain(INSIDE), verbose=False))
        dns.serve(INSIDE, line(near.s2s_port))
        dns.reload()
    ends = Ends(await login(near, "juliet"), [await login(far, "romeo", domain=domain) for domain in domains])
    try:
        yield ends
    finally:
        for client in (ends.near, *ends.far):
            await client.close()


async def first_message(sender: Client, receiver: Client) -> float:
    """Return the milliseconds from the message's sending to its arrival."""
    text = f"the first to {receiver.jid}"
    start = time.perf_counter()
    await sender.message(receiver.jid, text)
    await receiver.wait_message(text, _SECONDS)
    took = (time.perf_counter() - start) * 1000
    await asyncio.sleep(0.15)  # wait until the work after a stream's opening is over
    return took


async def _measure(lab: Lab, kind: str, through: bool) -> tuple[float, float]:
    """Return the medians out and in. The first peer fills common caches."""
    before = list(lab.processes)
    try:
        async with ends_of(lab, kind, through) as ends:
            warm, *cold = ends.far
            await first_message(ends.near, warm)
            await first_message(warm, ends.near)
            out = [await first_message(ends.near, client) for client in cold[:PEERS]]
            back = [await first_message(client, ends.near) for client in cold[PEERS:]]
    finally:
        lab.stop([process for process in lab.processes if process not in before])
    return statistics.median(out), statistics.median(back)


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("kinds", nargs="*", default=["prosody", "ejabberd"], help="servers behind the gateway")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    packages.install()
    print(f"{'the first message to or from a new peer, ms':<46}{'directly':>10}{'gateway':>10}{'added':>8}", flush=True)
    with Lab(arguments.keep) as lab:
        for kind in arguments.kinds:
            direct, ours = (asyncio.run(_measure(lab, kind, through)) for through in (False, True))
            for way, one, other in zip((f"{kind} to prosody", f"prosody to {kind}"), direct, ours, strict=True):
                verdict = "" if other - one <= TARGET else f"  (target {TARGET:.0f})"
                print(f"{way + f', the median of {PEERS}':<46}{one:>10.1f}{other:>10.1f}{other - one:>8.1f}{verdict}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
