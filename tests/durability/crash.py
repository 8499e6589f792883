"""`make crash`: the gateway is killed under load repeatedly, and every stanza is accounted for (docs/durability.md).

Simulated servers are on both sides of the gateway, with and without XEP-0198; one of them acknowledges nothing. In part of the
cycles a real Prosody is behind the gateway and another one outside. Each cycle starts the gateway, loads it and ends it
(`tests.durability.crash_cycles`). At the end all held stanzas are let through and counted. The exit status is 0 if no
promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import signal
import sys
import time
from collections.abc import Sequence

from tests.durability.crash_account import HEADING, judge
from tests.durability.crash_cycles import DESCRIPTIONS, CrashCycles
from tests.durability.crash_testbed import CrashTestbed
from tests.durability.prosody_testbed import ProsodyTestbed
from tests.lab.lab import Lab

#: The share of the cycles with real servers that are only normal stops, one after another.
STOPS = 0.2


async def run(testbed: CrashTestbed, cycles: int, kinds: Sequence[str], seed: int) -> int:
    """Run all cycles of a test bed, then print the account; return the exit status."""
    await testbed.start()
    crashes = CrashCycles(testbed, random.Random(seed), kinds)
    began = time.monotonic()
    for number in range(cycles):
        await crashes.run(crashes.kind(number))
        if not (number + 1) % 10:
            print(f"{number + 1} cycles, {time.monotonic() - began:.0f} s, {testbed.summary()}", flush=True)
    await testbed.settle()
    status = report(testbed, crashes)
    await testbed.stop()
    return status


def report(testbed: CrashTestbed, crashes: CrashCycles) -> int:
    """Print the account of each pair, and the faults."""
    print(f"\n{sum(crashes.kinds.values())} cycles\n{crashes.text()}\n\n{HEADING}")
    faults = testbed.faults()
    for account in testbed.accounts:
        result = judge(account, testbed.runs)
        print(result.text())
        faults += result.faults()
    print("\n" + ("\n".join(faults) or "No promise was broken."))
    return 1 if faults else 0


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.durability.crash", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--rate", type=float, default=200.0, help="stanzas a second of each pair")
    parser.add_argument("--kinds", default="", help=f"only these, separated by commas: {', '.join(DESCRIPTIONS)}")
    parser.add_argument("--real", type=float, default=0.2, help="the share of cycles with a real Prosody on both sides")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"seed {arguments.seed}", flush=True)
    silence_asyncio()
    kinds = [each for each in arguments.kinds.split(",") if each]
    real = round(arguments.cycles * arguments.real)
    stops = 0 if kinds else round(real * STOPS)
    status = 0
    runs = (
        (CrashTestbed, arguments.cycles - real, kinds), (ProsodyTestbed, real - stops, kinds), (ProsodyTestbed, stops, ["stop"]),
    )
    for make, cycles, only in runs:
        if cycles:
            with Lab(arguments.keep) as lab:
                print(f"\n{make.__name__}: {cycles} cycles" + (f" in {lab.folder}" if arguments.keep else ""), flush=True)
                status |= asyncio.run(run(make(lab, arguments.rate), cycles, only, arguments.seed))
    return status


def silence_asyncio() -> None:
    """Keep asyncio from reporting the connections that are cut on purpose."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None  # Python 3.11: the writer of a connection that was cut during its TLS handshake


if __name__ == "__main__":
    sys.exit(main())
