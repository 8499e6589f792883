"""`python -m crash`: cycles of load and sudden ends; the account of every stanza; exit status 0 where what must hold holds.

Servers of the run's own stand on both sides of the gateway: peers and local domains that speak XEP-0198, and ones that do not;
in part of the cycles a real Prosody stands behind it.
Each cycle starts the gateway, lets it work and ends it: killed in the flow, while the spool fills (the next servers are shut),
at the start, while it drains; or stopped in order. At the end everything that is held is let through, and then must be there.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import signal
import sys
import time
from collections import Counter

from crash.account import HEADING, End, Times, worst
from crash.arena import Arena
from crash.real import RealArena
from interop.place import Lab

#: How often each kind of cycle comes.
KINDS: dict[End, int] = {"flow": 6, "spool": 4, "start": 3, "drain": 3, "stop": 4}


async def cycle(arena: Arena, kind: End, times: Times, chance: random.Random) -> None:
    """One life of the gateway."""
    process = arena.begin()
    if kind == "start":
        await asyncio.sleep(chance.uniform(0.2, 1.6))
    else:
        await arena.ready()
        arena.shut(kind == "spool", chance)
        await asyncio.sleep(chance.uniform(0.1, 1.2))
    if kind in ("drain", "stop"):
        process.signal(signal.SIGTERM)
    if kind == "drain":
        await asyncio.sleep(chance.uniform(0.0, 0.6))
    if kind == "stop":
        await arena.ended(process)
        times.ends.append((time.time(), kind))
    else:
        process.signal(signal.SIGKILL)
        times.ends.append((time.time(), kind))
        await arena.ended(process)
    arena.open()


async def run(arguments: argparse.Namespace, arena: Arena, cycles: int) -> int:
    """All cycles of an arena, then the account."""
    chance = random.Random(arguments.seed)
    times, kinds = Times(), Counter[End]()
    await arena.start()
    wanted: list[End] = arguments.kinds.split(",") if arguments.kinds else list(KINDS)
    began = time.monotonic()
    for number in range(cycles):
        (kind,) = chance.choices(wanted, [KINDS[each] for each in wanted])
        kinds[kind] += 1
        await cycle(arena, kind, times, chance)
        if (number + 1) % 10 == 0:
            print(f"{number + 1} cycles, {time.monotonic() - began:.0f} s, {arena.summary()}", flush=True)
    await arena.settle()
    status = report(arena, times, kinds)
    await arena.stop()
    return status


def report(arena: Arena, times: Times, kinds: Counter[End]) -> int:
    """Print the account."""
    print(f"\n{sum(kinds.values())} cycles: " + ", ".join(f"{number} × {kind}" for kind, number in sorted(kinds.items())))
    print(HEADING)
    faults = []
    for pair in arena.pairs:
        line = pair.account(times)
        print(line.text())
        if line.faults():
            faults += [f"{pair.name}: {fault}" for fault in line.faults()] + worst(pair, times)
    faults += arena.faults()
    print("\n" + ("\n".join(faults) or "What must hold holds."))
    return 1 if faults else 0


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m crash", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--rate", type=float, default=200.0, help="stanzas a second of each pair")
    parser.add_argument("--kinds", default="", help=f"only these, with commas: {', '.join(KINDS)}")
    parser.add_argument("--real", type=float, default=0.2, help="the share of cycles with a real Prosody behind the gateway")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"seed {arguments.seed}", flush=True)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # connections that are cut are what this is about
    sys.unraisablehook = lambda _: None  # Python 3.11: the writer of a connection that was cut during its TLS handshake
    real = round(arguments.cycles * arguments.real)
    status = 0
    for make, cycles in ((Arena, arguments.cycles - real), (RealArena, real)):
        if cycles:
            with Lab(arguments.keep) as lab:
                print(f"\n{make.__name__}: {cycles} cycles" + (f" in {lab.folder}" if arguments.keep else ""), flush=True)
                status |= asyncio.run(run(arguments, make(lab, arguments.rate), cycles))
    return status


if __name__ == "__main__":
    sys.exit(main())
