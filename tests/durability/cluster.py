"""`make cluster`: three nodes of the gateway on three engine servers, under faults and load. Every stanza is accounted for (docs/durability.md).

    python -m tests.durability.cluster --rounds 6 --seed 1

Each round makes one fault, waits until every pair is served again, and prints the longest time without an arrival. Each kind of fault
comes once before one comes again. At the end the traffic stops, and every stanza must have arrived, or have been answered by an error.
The exit status is 0 if no promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import time
from collections.abc import Sequence

from tests.durability.cluster_account import HEADING, judge, silences
from tests.durability.cluster_faults import RECOVER, ClusterFaults
from tests.durability.cluster_prosody import is_installed
from tests.durability.cluster_testbed import RATE, ClusterTestbed
from tests.durability.crash import silence_asyncio
from tests.lab.lab import Lab
from tests.lab.nats import nats_server

#: Seconds for all stanzas to arrive at the end.
SETTLE = 60.0


async def run(lab: Lab, rounds: int, seed: int, only: Sequence[str], rate: float, real: bool, in_order: bool = False) -> int:
    """Run so many rounds, print the account, and return the exit status. `real`: with a Prosody behind the nodes."""
    testbed = ClusterTestbed(lab, random.Random(seed + 1), rate, real)
    await testbed.start()
    faults = ClusterFaults(testbed, random.Random(seed))
    if not await testbed.until(testbed.flowing, RECOVER):
        faults.errors.append(f"at the start these pairs are silent: {', '.join(testbed.silent_pairs())}")
    else:
        for kind in faults.plan(only, rounds, in_order):
            await faults.run(kind)
    if not await testbed.settle(SETTLE):
        print("\n".join(["not everything arrived in time:", *await testbed.held()]))
    verdicts = [judge(stream.account, faults.rounds, stream.refused) for stream in testbed.streams]
    verdicts += [judge(account, faults.rounds) for account in testbed.real_accounts]
    faults.errors += [f"{account.name}: nothing arrived" for account in testbed.real_accounts if not account.arrived]
    errors = [*faults.errors, *await testbed.stop(), *silences(faults.rounds)]
    print(f"\n{HEADING}")
    for verdict in verdicts:
        print(verdict.row())
        errors += verdict.errors()
    print("\n" + ("\n".join(f"ERROR {each}" for each in errors) or "No promise was broken."))
    passed = len(faults.rounds) - min(len(errors), len(faults.rounds))
    print(f"{passed} passed, {len(errors)} failed")
    return 1 if errors else 0


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.durability.cluster", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--rate", type=float, default=RATE, help="stanzas a second of each pair")
    parser.add_argument("--kinds", default="", help="only these faults, separated by commas (docs/durability.md)")
    parser.add_argument("--in-order", action="store_true", help="with --kinds: these follow each other in this order, again and again")
    parser.add_argument(
        "--real", action=argparse.BooleanOptionalAction, help="with a Prosody behind the nodes, or without (default: with even seeds)",
    )
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    arguments = parser.parse_args()
    if nats_server() is None:
        print("nats-server is not installed")
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    silence_asyncio()
    real = arguments.seed % 2 == 0 if arguments.real is None else arguments.real
    if real and not is_installed():
        print("Prosody is not installed: no real server is behind the nodes")
        real = False
    with Lab(arguments.keep) as lab:
        print(f"seed {arguments.seed}" + (f", in {lab.folder}" if arguments.keep else ""), flush=True)
        kinds = [each for each in arguments.kinds.split(",") if each]
        return asyncio.run(run(lab, arguments.rounds, arguments.seed, kinds, arguments.rate, real, arguments.in_order and bool(kinds)))


if __name__ == "__main__":
    sys.exit(main())
