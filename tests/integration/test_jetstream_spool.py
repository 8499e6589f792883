"""The spool in a real engine: the contract of every spool, on one NATS server and on three.

Skipped where nats-server is not installed ($NATS_SERVER, PATH or ~/go/bin).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from s2sgw.cluster.engine import EngineError, Fence, LaneRecord, PeerLogs, Stored
from s2sgw.cluster.jetstream import JetStreamEngine
from s2sgw.cluster.spool import JetStreamSpool
from s2sgw.spool.interface import Spool
from s2sgw.xmpp.jid import Domain, Pair
from tests.integration.test_jetstream import PATIENCE, SHARD_BYTES, Harness, started
from tests.support.spool_contract import PAIRS, STEPS, Asking, Deliver, Model, SpoolContract

_T = TypeVar("_T")


def peer_of(pair: Pair) -> Domain:
    """The greater name, so that a pair and its inverse have one home."""
    return max(pair, key=lambda domain: domain.ascii)


class FaultyEngine(JetStreamEngine):
    """Its calls fail, or wait, when the test says so."""

    fails = False
    gate: Deferred[None] | None = None

    @property
    def stalled(self) -> bool:
        return self.gate is not None or super().stalled

    async def _made(self, call: Callable[[], Awaitable[_T]]) -> _T:
        if self.gate is not None:
            await self.gate
        if self.fails:
            raise EngineError("the engine fails")
        return await call()

    async def append(self, fence: Fence, records: Sequence[LaneRecord], identity: str) -> Sequence[int]:
        append = super().append
        return await self._made(lambda: append(fence, records, identity))

    async def read(self, pair: Pair, peer: Domain, after: int, up_to: int, at_most: int) -> Sequence[Stored]:
        read = super().read
        return await self._made(lambda: read(pair, peer, after, up_to, at_most))

    async def kept(self, at_most: int) -> Sequence[Stored]:
        kept = super().kept
        return await self._made(lambda: kept(at_most))


class Answers:
    """The queue of answers. It runs the loop while it is empty."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], None]] = deque()
        self._came: asyncio.Event = asyncio.Event()

    def put(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        self._came.set()

    def get(self, timeout: float) -> Callable[[], None]:
        while not self._calls:
            self._came.clear()
            self._loop.run_until_complete(asyncio.wait_for(self._came.wait(), timeout))
        return self._calls.popleft()


class LoopAsking(Asking):
    """A spool whose answers come from the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, open_: Callable[[Deliver], Spool]) -> None:
        self.calls = Answers(loop)  # type: ignore[assignment]
        self.spool = open_(self.calls.put)


class SpoolTests(SpoolContract, Harness):
    """The contract on servers that all tests share: each test begins with empty lanes, under new fences."""

    servers: int

    @property
    def urls(self) -> list[str]:
        return started(self.servers).urls

    @contextmanager
    def asking(self, limit: int = 1 << 26) -> Iterator[Asking]:
        asking = LoopAsking(self.loop, lambda deliver: self.open(deliver, limit))
        yield asking
        asking.close()
        self.wait(Deferred.fromCoroutine(self.engine_.close()))

    def open(self, deliver: Deliver, limit: int) -> Spool:
        self.engine_ = engine = FaultyEngine(self.urls, self.loop, record_bytes=900_000, shard_bytes=SHARD_BYTES)
        self.made.append(engine)
        self.wait(Deferred.fromCoroutine(engine.open(PATIENCE)))
        spool = JetStreamSpool(
            engine, limit, deliver, Clock(), session=f"{id(engine)}.{self.loop.time()}", wall=lambda: 1e9, peer_of=peer_of,
        )  # fmt: skip
        for peer in set(map(peer_of, PAIRS)) | {PAIRS[0].sender}:
            self.assertEqual(spool.restored(*self.wait(Deferred.fromCoroutine(self.emptied(engine, peer)))), [])
        return spool

    async def emptied(self, engine: JetStreamEngine, peer: Domain) -> tuple[Fence, PeerLogs]:
        """Claim a peer, after its lanes were purged."""
        fence, logs = await self.claim(engine, peer)
        while logs.lanes:
            for pair, stored in logs.lanes.items():
                await engine.purge(pair, peer, stored.sequence)
            fence, logs = await self.claim(engine, peer, fence.sequence)
        return fence, logs

    async def claim(self, engine: JetStreamEngine, peer: Domain, expected: int | None = None) -> tuple[Fence, PeerLogs]:
        if expected is None:
            home = await engine.home(peer)
            expected = 0 if home is None else home.sequence
        return await engine.claim(peer, b"", expected)

    @contextmanager
    def failing(self, spool: Spool) -> Iterator[None]:
        self.engine_.fails = True
        yield
        self.engine_.fails = False

    @contextmanager
    def hanging(self, spool: Spool) -> Iterator[None]:
        gate: Deferred[None] = Deferred()
        self.engine_.gate = gate
        yield
        self.engine_.gate = None
        gate.callback(None)

    def test_quarantine_of_large_stanzas(self) -> None:
        """It is tested on the engine in memory."""
        raise SkipTest("a record of these servers has no room for half of the quarantine")

    @given(STEPS)
    @settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    def test_any_life(self, steps: list[tuple[Any, ...]]) -> None:
        """After any steps: what is held is what was appended and not removed, in order, with its marks, and is counted exactly."""
        with self.asking() as it:
            model = Model(it)
            for name, *arguments in steps:
                getattr(model, name)(*arguments)
            model.check()


class OneServerTests(SpoolTests, SynchronousTestCase):
    """One server that runs alone."""

    servers = 1


class ThreeServersTests(SpoolTests, SynchronousTestCase):
    """Three servers in a cluster."""

    servers = 3


