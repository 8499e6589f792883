"""`python -m tests.durability`: cycles of load and sudden ends; the account of every stanza; exit status 0 where what must hold holds.

Servers of the run's own stand on both sides of the gateway: peers and local domains that speak XEP-0198, and ones that do not,
one of which confirms nothing; in part of the cycles a real Prosody stands behind it and another outside.
Each cycle starts the gateway, lets it work and ends it (`tests.durability.lives` has the kinds of ends). At the end everything that is held
is let through, and then must be there.
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

from tests.durability.account import HEADING
from tests.durability.arena import Arena
from tests.durability.lives import KINDS, Lives
from tests.durability.real_servers import RealArena
from tests.lab.place import Lab

#: The part of the cycles with real servers that are stops in order alone, one after the other.
STOPS = 0.2


async def run(arena: Arena, cycles: int, kinds: Sequence[str], seed: int) -> int:
    """All cycles of an arena, then the account."""
    await arena.start()
    lives = Lives(arena, random.Random(seed), kinds)
    began = time.monotonic()
    for number in range(cycles):
        await lives.live(lives.kind(number))
        if not (number + 1) % 10:
            print(f"{number + 1} cycles, {time.monotonic() - began:.0f} s, {arena.summary()}", flush=True)
    await arena.settle()
    status = report(arena, lives)
    await arena.stop()
    return status


def report(arena: Arena, lives: Lives) -> int:
    """Print the account."""
    print(f"\n{sum(lives.kinds.values())} cycles\n{lives.text()}\n\n{HEADING}")
    faults = arena.faults()
    for pair in arena.pairs:
        line = pair.account(lives.times)
        print(line.text())
        faults += line.faults()
    print("\n" + ("\n".join(faults) or "What must hold holds."))
    return 1 if faults else 0


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.durability", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--rate", type=float, default=200.0, help="stanzas a second of each pair")
    parser.add_argument("--kinds", default="", help=f"only these, with commas: {', '.join(KINDS)}")
    parser.add_argument("--real", type=float, default=0.2, help="the share of cycles with a real Prosody on both sides")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"seed {arguments.seed}", flush=True)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # connections that are cut are what this is about
    sys.unraisablehook = lambda _: None  # Python 3.11: the writer of a connection that was cut during its TLS handshake
    kinds = [each for each in arguments.kinds.split(",") if each]
    real = round(arguments.cycles * arguments.real)
    stops = 0 if kinds else round(real * STOPS)
    status = 0
    runs = (Arena, arguments.cycles - real, kinds), (RealArena, real - stops, kinds), (RealArena, stops, ["stop"])
    for make, cycles, only in runs:
        if cycles:
            with Lab(arguments.keep) as lab:
                print(f"\n{make.__name__}: {cycles} cycles" + (f" in {lab.folder}" if arguments.keep else ""), flush=True)
                status |= asyncio.run(run(make(lab, arguments.rate), cycles, only, arguments.seed))
    return status


if __name__ == "__main__":
    sys.exit(main())
