"""Nodes under faults: three processes share peers on three servers while nodes are killed and stopped, and servers are killed.

    python -m tests.durability.nodes --rounds 6 --seed 1

Each node writes a line for each write to the wire of a peer. All clocks are that of one machine. What must hold: no two nodes write to
one peer at one time, and no peer is without a writer for longer than 5 seconds.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tests.durability.node_process import NAMES, PEERS
from tests.lab.lab import Lab, Process
from tests.lab.nats import NATS, nats, nats_server

#: Seconds until a session is old enough to declare another one dead; and after a fault.
OLD, QUIET = 22.0, 5.0
#: Seconds within which a peer has a new home, and between two writes of one node, in which another node has none.
NEW_HOME, TOGETHER = 5.0, 1.0


class Written(NamedTuple):
    """A write to the wire of a peer. `at`: seconds of the machine's monotonic clock."""

    at: float
    node: str
    peer: str


class Account(NamedTuple):
    """The writes, how often two nodes wrote to one peer at one time, and the longest silence of a peer."""

    writes: int
    overlaps: list[str]
    silence: float


def account(written: Iterable[Written], peers: int = len(PEERS)) -> Account:
    """Return the account of the writes."""
    rows = sorted(written)
    overlaps: list[str] = []
    silence = 0.0
    by_peer: dict[str, list[Written]] = {}
    for row in rows:
        by_peer.setdefault(row.peer, []).append(row)
    for peer, found in by_peer.items():
        last: dict[str, int] = {}
        for index, row in enumerate(found):
            before = last.get(row.node)
            if before is not None and before < index - 1 and row.at - found[before].at < TOGETHER:
                overlaps.append(f"{peer}: {found[before + 1].node} writes between two writes of {row.node}, at {row.at:.3f}")
            last[row.node] = index
        silence = max([silence, *(late.at - early.at for early, late in pairwise(found))])
    if len(by_peer) < peers:
        overlaps.append(f"only {len(by_peer)} of {peers} peers were ever written to")
    return Account(len(rows), overlaps, silence)


def read(file: Path) -> list[Written]:
    """Return the writes in the file of the nodes. A line that a killed process did not finish has none."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        at, node, kind, *peers = [*line.split(), "", "", ""][: max(3, len(line.split()))]
        if kind == "wrote":
            found += [Written(float(at), node, peer) for peer in peers if peer.endswith(".example")]
    return found


class Arena:
    """The nodes and servers of a trial."""

    def __init__(self, lab: Lab, servers: NATS, chance: random.Random) -> None:
        self.lab = lab
        self.servers = servers
        self.chance = chance
        self.folder = lab.directory("nodes")
        self.file = self.folder / "written"
        self.ports = {name: lab.port() for name in NAMES}
        self.nodes: dict[str, Process] = {}

    def start(self, name: str) -> None:
        argv = [sys.executable, "-m", "tests.durability.node_process", name, str(self.ports[name]), str(self.file), *self.servers.urls]
        self.nodes[name] = self.lab.start(f"node-{name}", argv, self.folder, {"PYTHONPATH": str(Path(__file__).resolve().parents[2])})

    def fault(self) -> str:
        """Make a fault, wait, and return what it was."""
        name, kind = self.chance.choice(NAMES), self.chance.choice(("kill", "stop", "stop", "server"))
        seconds = self.chance.choice((0.3, 2.0, 3.2, 5.0, 8.0))
        if kind == "kill":
            self.nodes[name].kill()
            time.sleep(seconds)
            self.start(name)
        elif kind == "stop":
            self.nodes[name].signal(signal.SIGSTOP)
            time.sleep(seconds)
            self.nodes[name].signal(signal.SIGCONT)
        else:
            server = self.chance.choice(self.servers.servers)
            server.kill()
            time.sleep(8.0)
            server.start()
        time.sleep(QUIET)
        return f"{kind} {name if kind != 'server' else ''} {seconds if kind != 'server' else 8.0} s"


def run(rounds: int, seed: int) -> Account:
    """Run so many faults, and return the account."""
    lab = Lab()
    servers = nats(lab, 3)
    try:
        servers.start()
        arena = Arena(lab, servers, random.Random(seed))
        for name in NAMES:
            arena.start(name)
        time.sleep(OLD)
        for number in range(rounds):
            print(f"{number + 1}: {arena.fault()}", flush=True)
        return account(read(arena.file))
    finally:
        servers.kill()
        lab.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says; return 1 if something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    if nats_server() is None:
        print("nats-server is not installed")
        return 1
    result = run(options.rounds, options.seed)
    print("\n".join(result.overlaps))
    print(f"{result.writes} writes, {len(result.overlaps)} overlaps, longest silence {result.silence:.2f} s")
    return 1 if result.overlaps or result.silence > NEW_HOME else 0


if __name__ == "__main__":
    sys.exit(main())
