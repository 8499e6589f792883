"""The engine under faults: two nodes steal peers from each other while its servers are killed, stopped and restarted.

    python -m tests.durability.engine --seconds 60 --seed 1

Each record has a number, and the fence under which it was appended. At the end every lane is read. What must hold: every record
that was acknowledged is there, once, in order; no record stands behind a newer claim of its peer.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from s2sgw.cluster.engine import ClusterEngine, Conflict, Fence, Fenced, LaneRecord, PeerLogs
from s2sgw.cluster.jetstream import JetStreamEngine
from s2sgw.xmpp.jid import Domain, Pair
from tests.lab.lab import Lab
from tests.lab.nats import NATS, NATSServer, nats

LOCAL = Domain.parse("local.example")
_T = TypeVar("_T")


class Wrong(Exception):
    """The engine broke a promise."""


@dataclass
class PeerAccount:
    """The account of one peer. `claims`: fences in order, with the node. `sent`: by number, the lane and the fence; `acked`: the sequence."""

    peer: Domain
    numbers: Any = field(default_factory=lambda: count(1))
    claims: list[tuple[int, int]] = field(default_factory=list)
    sent: dict[int, tuple[Pair, int]] = field(default_factory=dict)
    acked: dict[int, int] = field(default_factory=dict)

    @property
    def lanes(self) -> tuple[Pair, Pair]:
        return Pair(self.peer, LOCAL), Pair(LOCAL, self.peer)


class Trial:
    """One trial on running servers."""

    def __init__(self, servers: NATS, peers: int, chance: random.Random, loop: asyncio.AbstractEventLoop) -> None:
        self.servers = servers
        self.chance = chance
        self.loop = loop
        self.engines = [JetStreamEngine(servers.urls, loop, record_bytes=100_000, shard_bytes=64 << 20) for _ in range(2)]
        self.accounts = [PeerAccount(Domain.parse(f"peer{number}.example")) for number in range(peers)]
        self.over = False
        self.longest = 0.0
        self.events: Counter[str] = Counter()

    async def call(self, coroutine: Coroutine[Deferred[Any], Any, _T]) -> _T:
        return await Deferred.fromCoroutine(coroutine).asFuture(self.loop)

    async def run(self, seconds: float) -> None:
        for engine in self.engines:
            await self.call(engine.open(30))
        tasks = [asyncio.ensure_future(self.serve(account, node)) for account in self.accounts for node in (0, 1)]
        await self.faults(seconds)
        self.over = True
        await asyncio.wait_for(asyncio.gather(*tasks), 90)
        for account in self.accounts:
            await self.check(account)
        for engine in self.engines:
            await self.call(engine.close())

    # --- the nodes ---

    async def serve(self, account: PeerAccount, node: int) -> None:
        """Be the home of a peer again and again, until the other claims it."""
        engine = self.engines[node]
        await asyncio.sleep(self.chance.random())
        while not self.over:
            home = await self.call(engine.home(account.peer))
            try:
                fence, logs = await self.call(engine.claim(account.peer, b"%d" % node, home.sequence if home else 0))
            except Conflict:
                self.events["claims lost"] += 1
                await asyncio.sleep(0.05 * self.chance.random())
                continue
            self.events["claims"] += 1
            account.claims.append((fence.sequence, node))
            self.check_claim(account, fence, logs)
            try:
                await self.append(account, engine, fence)
            except Fenced:
                self.events["fenced"] += 1
                await asyncio.sleep(0.5 * self.chance.random())

    async def append(self, account: PeerAccount, engine: ClusterEngine, fence: Fence) -> None:
        while not self.over:
            pairs = self.chance.choices(account.lanes, k=self.chance.choice((1, 1, 1, 2, 5)))
            numbers = [next(account.numbers) for _ in pairs]
            for number, pair in zip(numbers, pairs, strict=True):
                account.sent[number] = (pair, fence.sequence)
            records = [
                LaneRecord(pair, {"fence": str(fence.sequence), "number": str(number)}, b"x" * self.chance.choice((10, 400, 20_000)))
                for number, pair in zip(numbers, pairs, strict=True)
            ]
            start = self.loop.time()
            sequences = await self.call(engine.append(fence, records, f"{numbers[0]}"))
            self.longest = max(self.longest, self.loop.time() - start)
            self.events["appends"] += 1
            account.acked.update(zip(numbers, sequences, strict=True))
            await asyncio.sleep(0.1 * self.chance.random())

    def check_claim(self, account: PeerAccount, fence: Fence, logs: PeerLogs) -> None:
        """The claimant sees the last record of each lane that was acknowledged to the former home."""
        for pair in account.lanes:
            last = max((sequence for number, sequence in account.acked.items() if account.sent[number][0] == pair), default=0)
            seen = logs.lanes[pair].sequence if pair in logs.lanes else 0
            if last < fence.sequence and seen < last:
                raise Wrong(f"{pair}: a claim at {fence.sequence} saw {seen}, and {last} was acknowledged")

    # --- faults ---

    async def faults(self, seconds: float) -> None:
        """Kill, stop and restart one server at a time."""
        end = self.loop.time() + seconds
        while self.loop.time() < end:
            await asyncio.sleep(self.chance.uniform(0.5, 3))
            server = self.chance.choice(self.servers.servers)
            if self.chance.random() < 0.7:
                await self.kill(server)
            else:
                self.events["stops"] += 1
                server.suspend()
                await asyncio.sleep(self.chance.uniform(1, 8))
                server.resume()
            await asyncio.sleep(self.chance.uniform(4, 8))

    async def kill(self, server: NATSServer) -> None:
        self.events["kills"] += 1
        server.kill()
        await asyncio.sleep(self.chance.uniform(0.1, 6))
        server.start()

    # --- the account ---

    async def check(self, account: PeerAccount) -> None:
        """Read all lanes of a peer."""
        found: list[tuple[int, int, int]] = []
        last = max(account.acked.values(), default=0)
        for pair in account.lanes:
            of_lane: list[tuple[int, int, int]] = []
            while records := await self.call(self.engines[0].read(pair, account.peer, of_lane[-1][0] if of_lane else 0, last, 100_000)):
                of_lane += [(record.sequence, int(record.headers["number"]), int(record.headers["fence"])) for record in records]
            if [number for _, number, _ in of_lane] != sorted({number for _, number, _ in of_lane}):
                self.check_order(account, pair, of_lane)
            found += of_lane
        numbers = Counter(number for _, number, _ in found)
        lost = {number: sequence for number, sequence in account.acked.items() if not numbers[number]}
        twice = [number for number, times in numbers.items() if times > 1]
        moved = [number for sequence, number, _ in found if account.acked.get(number, sequence) != sequence]
        if lost or twice or moved:
            raise Wrong(f"{account.peer}: lost {lost}, twice {twice}, at another sequence {moved}")
        claims = sorted(account.claims)
        for sequence, number, fence in found:
            if any(fence < claim < sequence for claim, _ in claims):
                raise Wrong(f"{account.peer}: record {number} of fence {fence} stands at {sequence}, behind a newer claim: {claims}")
        self.events["records read"] += len(found)
        self.events["in doubt and stored"] += len(numbers.keys() - account.acked.keys())

    def check_order(self, account: PeerAccount, pair: Pair, found: list[tuple[int, int, int]]) -> None:
        """Within one fence, records are in the order of their numbers."""
        for _, claim in enumerate({fence for _, _, fence in found}):
            numbers = [number for _, number, fence in found if fence == claim]
            if numbers != sorted(numbers):
                raise Wrong(f"{pair}: out of order under fence {claim}: {numbers}")


def trial(seconds: float, seed: int, peers: int = 12) -> Trial:
    """Run one trial on three servers of its own. Raises `Wrong`."""
    with Lab() as lab:
        servers = nats(lab, 3)
        servers.start()
        loop = asyncio.new_event_loop()
        try:
            made = Trial(servers, peers, random.Random(seed), loop)
            loop.run_until_complete(made.run(seconds))
        finally:
            loop.close()
            servers.kill()
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.seconds:.0f} s")
    made = trial(options.seconds, options.seed)
    print(", ".join(f"{name} {number}" for name, number in sorted(made.events.items())))
    print(f"the longest append: {made.longest:.1f} s; nothing lost, nothing twice, nothing behind a newer claim")
    return 0


if __name__ == "__main__":
    sys.exit(main())
