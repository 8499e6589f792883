"""`make cluster`: three nodes of the gateway on three engine servers, under faults and load. Every stanza is accounted for (docs/durability.md).

    python -m tests.durability.cluster --rounds 6 --seed 1

Each round makes one fault, waits until every pair is served again, and prints the longest time without an arrival. Six rounds have
each kind of fault once. At the end the traffic stops, and every stanza must have arrived, or have been answered by an error. The exit
status is 0 if no promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from tests.durability.cluster_account import HEADING, Round, judge, measure_silence, silences
from tests.durability.cluster_testbed import HOPPING, RATE, ClusterTestbed
from tests.durability.crash import silence_asyncio
from tests.lab.lab import Lab
from tests.lab.nats import nats_server

#: Seconds until a session may declare another one dead by waiting; of load before each fault; and until all is served again.
OLD, LOAD, RECOVER = 20.0, 2.0, 60.0
#: Seconds of each fault: a node or a server that is down, that is stopped, cut off, and a peer that hops.
DOWN, STOPPED, CUT, HOPS = (0.5, 3.0), 8.0, 6.0, 5.0
#: Seconds for all stanzas to arrive at the end.
SETTLE = 60.0


class ClusterRounds:
    """The faults of a test bed, by kind."""

    def __init__(self, testbed: ClusterTestbed, chance: random.Random) -> None:
        self._bed = testbed
        self._chance = chance
        self.rounds: list[Round] = []
        self.errors: list[str] = []
        self.kinds: dict[str, Callable[[Round], Coroutine[Any, Any, None]]] = {
            "kill": self._kill, "stop": self._stop, "server": self._server, "hop": self._hop, "drain": self._drain, "cut": self._cut,
        }

    async def run(self, kind: str) -> None:
        """Make a fault of this kind, wait until all is well again, and measure."""
        await asyncio.sleep(LOAD)
        found = Round(kind, kind, time.time())
        self.rounds.append(found)
        await self.kinds[kind](found)
        found.ended = time.time()
        if not await self._bed.until(self._bed.flowing, RECOVER):
            silent = self._bed.silent_pairs()
            self.errors.append(f"{found.text}: {RECOVER:.0f} s later {len(silent)} pairs are silent: {', '.join(silent[:4])}")
        measure_silence(found, self._bed.accounts, time.time())
        print(f"{len(self.rounds):>3}  {found.text:<48}longest silence {found.silence:5.2f} s ({found.silent}), from {found.began:.2f} to {found.ended:.2f}", flush=True)

    async def _kill(self, found: Round) -> None:
        node, seconds = await self._bed.busiest(), self._chance.uniform(*DOWN)
        found.text = f"kill -9 of node {node.name}, back after {seconds:.1f} s"
        await node.runner.kill()
        await asyncio.sleep(seconds)
        await self._bed.restart(node)

    async def _stop(self, found: Round) -> None:
        node = await self._bed.busiest()
        found.text = f"node {node.name} stopped for {STOPPED:.0f} s"
        node.runner.process.signal(signal.SIGSTOP)
        await asyncio.sleep(1.0)
        self._bed.leave(node, 0.5)
        await asyncio.sleep(STOPPED - 1.0)
        node.runner.process.signal(signal.SIGCONT)

    async def _server(self, found: Round) -> None:
        server, seconds = self._chance.choice(self._bed.engine.servers), self._chance.uniform(*DOWN)
        found.text, found.loses = f"kill -9 of engine server {server.name}, back after {seconds:.1f} s", False
        server.kill()
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.start)

    async def _hop(self, found: Round) -> None:
        found.text = f"{len(HOPPING)} peers hop from node to node for {HOPS:.0f} s"
        deadline = time.monotonic() + HOPS
        while time.monotonic() < deadline:
            for stream in self._bed.outgoing:
                if stream.account.sender in HOPPING:
                    stream.hop()
                    stream.cut()
            await asyncio.sleep(self._chance.uniform(0.2, 0.8))

    async def _drain(self, found: Round) -> None:
        node = await self._bed.busiest()
        found.text = f"orderly restart of node {node.name}"
        await node.runner.stop()
        await self._bed.restart(node)

    async def _cut(self, found: Round) -> None:
        node = await self._bed.busiest()
        found.text = f"node {node.name} cut off from the engine for {CUT:.0f} s"
        for relay in node.relays:
            relay.swallow()
        await asyncio.sleep(CUT)
        for relay in node.relays:
            relay.cut()


def plan(kinds: Sequence[str], rounds: int, chance: random.Random) -> list[str]:
    """Return the kinds of the rounds: each kind once, in any order, and so on."""
    found: list[str] = []
    while len(found) < rounds:
        found += chance.sample(kinds, len(kinds))
    return found[:rounds]


async def run(lab: Lab, rounds: int, seed: int, only: Sequence[str], rate: float) -> int:
    """Run so many rounds, print the account, and return the exit status."""
    chance = random.Random(seed)
    testbed = ClusterTestbed(lab, random.Random(seed + 1), rate)
    faults = ClusterRounds(testbed, chance)
    await testbed.start()
    if not await testbed.until(testbed.flowing, RECOVER):
        faults.errors.append(f"at the start these pairs are silent: {', '.join(testbed.silent_pairs())}")
    else:
        await asyncio.sleep(OLD)
        for kind in plan([kind for kind in faults.kinds if not only or kind in only], rounds, chance):
            await faults.run(kind)
    if not await testbed.settle(SETTLE):
        print("\n".join(["not everything arrived in time:", *await testbed.held()]))
    verdicts = [judge(stream.account, faults.rounds, stream.refused) for stream in testbed.outgoing]
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
    parser.add_argument("--kinds", default="", help="only these faults, separated by commas: kill, stop, server, hop, drain, cut")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    arguments = parser.parse_args()
    if nats_server() is None:
        print("nats-server is not installed")
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    silence_asyncio()
    with Lab(arguments.keep) as lab:
        print(f"seed {arguments.seed}" + (f", in {lab.folder}" if arguments.keep else ""), flush=True)
        return asyncio.run(run(lab, arguments.rounds, arguments.seed, [each for each in arguments.kinds.split(",") if each], arguments.rate))


if __name__ == "__main__":
    sys.exit(main())
