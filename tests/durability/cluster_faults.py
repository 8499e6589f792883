"""The faults of `make cluster`, by kind (docs/durability.md)."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

from s2sgw.cluster.subjects import NODES_STREAM
from tests.durability.cluster_account import Round, measure_silence
from tests.durability.cluster_testbed import HOPPING, ClusterTestbed, large_stanzas
from tests.lab.relay import Relay

#: Seconds until a session may declare another one dead by waiting; of load before each fault; and until all is served again.
OLD, LOAD, RECOVER = 20.0, 2.0, 60.0
#: Seconds of each fault: a node or a server that is down, a node that is stopped or cut off, a slow engine, peers with odd streams.
DOWN, STOPPED, CUT, SLOW, HOPS = (0.5, 3.0), 8.0, 6.0, 6.0, 5.0
#: Seconds by which the engine is slow, and between two resets of its connections.
DELAY, RESETS = 0.2, 1.5
#: Seconds in which two servers of three are down, and in which stanzas pass through all the same. The bridge has 15 s.
MINORITY, BRIDGED = 21.0, 10.0
#: Seconds until the engine refuses stanzas, and until a node has ended whose engine has lost its store.
FULL, EMPTY = 60.0, 120.0
#: Bytes of the body of a stanza, and the number of stanzas, that fill a stream of the engine.
LARGE, MANY = 50_000, 300
#: Faults of a node, and others, of which two are made at once.
OF_NODES, OTHERS = ("kill", "drain", "stop", "cut"), ("server", "slow", "reset", "full", "nodes", "hop", "double")
#: Steps after which the homes are even.
SPREADS = 5
#: The peer that is away while its stream of the engine is filled.
AWAY = "managed2.example"


@dataclass(frozen=True)
class Fault:
    """One kind of fault. `old`: its node is declared dead by waiting. `loses`: see `Round`."""

    make: Callable[[Round], Coroutine[Any, Any, None]]
    old: bool = False
    loses: bool = True


class ClusterFaults:
    """The faults of a test bed, by kind. `rounds` and `errors` are those so far."""

    def __init__(self, testbed: ClusterTestbed, chance: random.Random) -> None:
        self._bed = testbed
        self._chance = chance
        self._started = time.monotonic()
        self.rounds: list[Round] = []
        self.errors: list[str] = []
        self.kinds: dict[str, Fault] = {
            "kill": Fault(self._kill), "drain": Fault(self._drain), "server": Fault(self._server, loses=False),
            "machine": Fault(self._machine), "hop": Fault(self._hop), "double": Fault(self._double),
            "slow": Fault(self._slow), "reset": Fault(self._reset), "full": Fault(self._full), "nodes": Fault(self._nodes),
            "stop": Fault(self._stop, old=True), "cut": Fault(self._cut, old=True), "alone": Fault(self._alone, old=True),
            "minority": Fault(self._minority), "rolling": Fault(self._rolling), "empty": Fault(self._empty),
            "deleted": Fault(self._deleted), "spread": Fault(self._spread),
            "two": Fault(self._two, old=True),
        }

    def plan(self, only: Sequence[str], rounds: int, in_order: bool = False) -> list[str]:
        """Return the kinds of the rounds: each kind once, in any order, and so on. `only`: the kinds; none: all of them.

        The first ones need no node that is declared dead by waiting, which is possible `OLD` seconds after the start. `in_order`:
        the kinds follow each other as `only` says.
        """
        if in_order:
            return list(islice(cycle(only), rounds))
        kinds = [kind for kind in self.kinds if not only or kind in only]
        found: list[str] = []
        while len(found) < rounds:
            found += self._chance.sample(kinds, len(kinds))
        found = found[:rounds]
        first = sorted(found[: len(kinds)], key=lambda kind: self.kinds[kind].old)
        return first + found[len(kinds) :]

    async def run(self, kind: str) -> None:
        """Make a fault of this kind, wait until all is well again, and measure."""
        fault = self.kinds[kind]
        await asyncio.sleep(max(LOAD, self._started + OLD - time.monotonic() if fault.old else 0.0))
        found = Round(kind, kind, time.time(), loses=fault.loses)
        self.rounds.append(found)
        await fault.make(found)
        found.ended = time.time()
        if not await self._bed.until(self._bed.flowing, RECOVER):
            silent = self._bed.silent_pairs()
            self.errors.append(f"{found.text}: {RECOVER:.0f} s later {len(silent)} pairs are silent: {', '.join(silent[:4])}")
        measure_silence(found, self._bed.accounts, time.time())
        print(f"{len(self.rounds):>3}  {found.text:<58} longest silence {found.silence:5.2f} s ({found.silent}), from {found.began:.2f} to {found.ended:.2f}", flush=True)

    def _down(self) -> float:
        return self._chance.uniform(*DOWN)

    async def _two(self, found: Round) -> None:
        """Make a fault of a node, and at about the same time another one."""
        first, second = (Round(kind, kind, found.began) for kind in (self._chance.choice(OF_NODES), self._chance.choice(OTHERS)))
        wait, later = self._chance.random(), self._chance.random() < 0.5
        await asyncio.gather(
            self._after(0.0 if later else wait, self.kinds[first.kind].make(first)),
            self._after(wait if later else 0.0, self.kinds[second.kind].make(second)),
        )
        found.text = f"{first.text}; {second.text}"

    @staticmethod
    async def _after(seconds: float, fault: Coroutine[Any, Any, None]) -> None:
        await asyncio.sleep(seconds)
        await fault

    # --- nodes ---

    async def _kill(self, found: Round) -> None:
        node, seconds = await self._bed.busiest(), self._down()
        found.text = f"kill -9 of node {node.name}, back after {seconds:.1f} s"
        await node.kill()
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

    async def _drain(self, found: Round) -> None:
        node = await self._bed.busiest()
        found.text = f"orderly restart of node {node.name}"
        await node.stop()
        await self._bed.restart(node)

    async def _spread(self, found: Round) -> None:
        node = await self._bed.busiest()
        found.text = f"orderly restart of node {node.name}, which then gets its part of the homes"
        await node.stop()
        await self._bed.restart(node)
        await self._flows(found, f"node {node.name} was restarted")
        for _ in range(SPREADS):
            answer = await asyncio.to_thread(node.ask, "cluster spread", {"busy": True})
            if not answer["plan"]:
                return
        self.errors.append(f"{found.text}: the homes are not even: {answer['homes']}, {answer['kept'][:2]}, {answer['missing']}")

    async def _rolling(self, found: Round) -> None:
        found.text = "each node and each engine server restarted in order"
        for node in self._bed.nodes:
            await node.stop()
            await self._bed.restart(node)
            await self._flows(found, f"node {node.name} was restarted")
        for server in self._bed.engine.servers:
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            await self._flows(found, f"engine server {server.name} was restarted")

    async def _flows(self, found: Round, after: str) -> None:
        """Wait until every pair is served. It is an error if it is not."""
        if not await self._bed.until(self._bed.flowing, RECOVER):
            self.errors.append(f"{found.text}: {RECOVER:.0f} s after {after}, pairs are silent: {', '.join(self._bed.silent_pairs()[:4])}")

    # --- the engine ---

    async def _server(self, found: Round) -> None:
        server, seconds = self._chance.choice(self._bed.engine.servers), self._down()
        found.text = f"kill -9 of engine server {server.name}, back after {seconds:.1f} s"
        server.kill()
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.start)

    async def _machine(self, found: Round) -> None:
        server, node, seconds = self._chance.choice(self._bed.engine.servers), await self._bed.busiest(), self._down()
        found.text = f"kill -9 of node {node.name} and server {server.name}, back after {seconds:.1f} s"
        server.kill()
        await node.kill()
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.start)
        await self._bed.restart(node)

    async def _minority(self, found: Round) -> None:
        servers = self._chance.sample(self._bed.engine.servers, 2)
        found.text = f"engine servers {servers[0].name} and {servers[1].name} down for {MINORITY:.0f} s"
        for server in servers:
            server.kill()
        await asyncio.sleep(BRIDGED)
        bridged = Round(found.kind, found.text, found.began)
        measure_silence(bridged, self._bed.accounts, time.time())
        found.bridged = bridged.silence
        found.text += f" ({found.bridged:.1f} s in the bridge)"
        await asyncio.sleep(MINORITY - BRIDGED)
        said = [node for node in self._bed.nodes if node.said("lease over", found.began)]
        if len(said) < len(self._bed.nodes):
            self.errors.append(f"{found.text}: {len(said)} nodes said that their lease is over")
        for server in servers:
            await asyncio.to_thread(server.start)
        await self._bed.elected(RECOVER)  # otherwise the next fault comes while peers cannot be claimed

    async def _empty(self, found: Round) -> None:
        found.text = "the engine comes back without its store"
        for server in self._bed.engine.servers:
            server.kill()
        for server in self._bed.engine.servers:
            shutil.rmtree(server.folder / "store")
            await asyncio.to_thread(server.start)
        await self._begin_anew(found)

    async def _deleted(self, found: Round) -> None:
        found.text = "the stream of the nodes is deleted"
        await self._bed.delete_stream(NODES_STREAM)
        await self._begin_anew(found)

    async def _begin_anew(self, found: Round) -> None:
        """Wait until all nodes have ended, and start them again."""
        for node in self._bed.nodes:
            if not await self._bed.until(partial(node.has_ended, 1), EMPTY):
                self.errors.append(f"{found.text}: node {node.name} does not end")
        for node in self._bed.nodes:
            await self._bed.restart(node)

    async def _full(self, found: Round) -> None:
        found.text = f"a stream of the engine is full: {AWAY} is away"
        away = self._bed.server(AWAY)
        away.refuse()
        stream = self._bed.stream_to(AWAY)
        before = len(stream.account.sent)
        stream.traffic.special.update(large_stanzas(stream, MANY, LARGE))
        stream.send(MANY)
        if not await self._bed.until(lambda: stream.account.refused_since(before), FULL):
            self.errors.append(f"{found.text}: nothing was refused within {FULL:.0f} s")
        away.refuses = False

    # --- what lies between ---

    async def _cut(self, found: Round) -> None:
        node = await self._bed.busiest()
        found.text = f"node {node.name} cut off from the engine for {CUT:.0f} s"
        await self._cut_off(node.relays)

    async def _nodes(self, found: Round) -> None:
        found.text = f"the nodes cut off from each other for {CUT:.0f} s"
        await self._cut_off([node.inner_relay for node in self._bed.nodes])

    async def _alone(self, found: Round) -> None:
        node = await self._bed.busiest()
        found.text = f"node {node.name} cut off from the engine and the nodes for {CUT:.0f} s"
        await self._cut_off([*node.relays, *(each.inner_relay for each in self._bed.nodes)])

    @staticmethod
    async def _cut_off(relays: Sequence[Relay]) -> None:
        for relay in relays:
            relay.swallow()
        await asyncio.sleep(CUT)
        for relay in relays:
            relay.cut()

    async def _slow(self, found: Round) -> None:
        found.text = f"the engine answers {2 * DELAY:.1f} s late for {SLOW:.0f} s"
        relays = [relay for node in self._bed.nodes for relay in node.relays]
        for relay in relays:
            relay.delay = DELAY
        await asyncio.sleep(SLOW)
        for relay in relays:
            relay.delay = 0.0

    async def _reset(self, found: Round) -> None:
        found.text = f"connections to the engine reset every {RESETS:.1f} s for {SLOW:.0f} s"
        deadline = time.monotonic() + SLOW
        while time.monotonic() < deadline:
            for relay in self._chance.choice(self._bed.nodes).relays:
                relay.cut()
            await asyncio.sleep(RESETS)

    # --- the streams of peers ---

    async def _hop(self, found: Round) -> None:
        found.text = f"{len(HOPPING)} peers hop from node to node for {HOPS:.0f} s"
        deadline = time.monotonic() + HOPS
        while time.monotonic() < deadline:
            for stream in self._bed.outgoing:
                if stream.account.sender in HOPPING:
                    stream.hop()
                    stream.cut()
            await asyncio.sleep(self._chance.uniform(0.2, 0.8))

    async def _double(self, found: Round) -> None:
        found.text = f"{len(self._bed.second)} peers have two streams for {HOPS:.0f} s"
        streams = self._bed.second
        for stream in streams:
            stream.hop()
            stream.connects = stream.sending = True
        await asyncio.sleep(HOPS)
        for stream in streams:
            stream.sending = False
        if not await self._bed.until(lambda: not any(stream.owes() for stream in streams), RECOVER):
            self.errors.append(f"{found.text}: {'; '.join(stream.text() for stream in streams if stream.owes())}")
        await asyncio.sleep(1.0)
        for stream in streams:
            stream.connects = False
            stream.cut()
        if not any(stream.account.arrived for stream in streams):
            self.errors.append(f"{found.text}: nothing came by the second streams")

