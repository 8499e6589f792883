"""`python -m benchmarks.round_trips`: the first message over a line with a round trip of 150 ms, in milliseconds and round trips.

The time is from the sender's client to the receiver's. It includes discovery, TCP, TLS, authentication and the verdict. Only
the line between the two servers is slow: look-ups and clients are on this machine. The last half round trip is the message's own.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
from functools import partial

from benchmarks.cold import ends_of, first_message
from benchmarks.slow_line import SlowLine
from tests.lab.lab import Lab
from tests.lab.servers import packages

#: Seconds of a round trip, and new peers of one measurement.
ROUND_TRIP = 0.15
PEERS = 5


def _slow(lab: Lab, port: int) -> int:
    """Return the port of a slow line to `port`."""
    return SlowLine(lab, port, ROUND_TRIP).port


async def _measure(lab: Lab, kind: str, through: bool) -> tuple[float, float]:
    """Return the medians out and in, in milliseconds. The first peer fills common caches."""
    before = list(lab.processes)
    try:
        async with ends_of(lab, kind, through, PEERS, partial(_slow, lab)) as ends:
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.round_trips", description="the first message over a slow line")
    parser.add_argument("kinds", nargs="*", default=["prosody", "ejabberd"], help="servers, alone and behind the gateway")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    packages.install()
    print(f"{f'the first message, {ROUND_TRIP * 1000:.0f} ms a round trip':<46}{'ms':>8}{'round trips':>14}", flush=True)
    with Lab(arguments.keep) as lab:
        for kind in arguments.kinds:
            for through in (False, True):
                name = f"s2sgw before {kind}" if through else kind
                ways = asyncio.run(_measure(lab, kind, through))
                for way, milliseconds in zip((f"{name} to prosody", f"prosody to {name}"), ways, strict=True):
                    print(f"{way:<46}{milliseconds:>8.0f}{milliseconds / ROUND_TRIP / 1000:>14.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
