"""The spool in the engine on real NATS servers passes the contract of every spool, on one server and on three.

Skipped where nats-server is not installed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster import jetstream
from s2sgw.cluster.engine import EngineError, Fence, LaneRecord, Stored
from s2sgw.cluster.jetstream import JetStreamEngine
from s2sgw.cluster.jetstream_api import JetStreamAPI
from s2sgw.cluster.nats_connection import NATSConnection
from s2sgw.cluster.spool import JetStreamSpool
from s2sgw.cluster.subjects import PEN_STREAM, SPOOL_STREAMS
from s2sgw.spool.interface import Spool
from s2sgw.xmpp.jid import Domain, Pair
from tests.lab.nats import NATS
from tests.support.jetstream_engines import PATIENCE, RECORD_BYTES, EngineHarness, started
from tests.support.spool_contract import PAIRS, Asking, Deliver, SpoolContract

#: A stanza of half the quarantine must fit into a message.
MAX_PAYLOAD = 16 << 20


def peer_of(pair: Pair) -> Domain:
    """The greater name, so that a pair and its inverse have one home."""
    return max(pair, key=lambda domain: domain.ascii)


class RefusingEngine(JetStreamEngine):
    """It fails, if a test says so, before it asks its servers."""

    refuses = False

    def _refuse(self) -> None:
        if self.refuses:
            raise EngineError("the engine fails")

    async def append(self, fence: Fence, records: Sequence[LaneRecord], identity: str) -> Sequence[int]:
        self._refuse()
        return await super().append(fence, records, identity)

    async def read(self, pair: Pair, peer: Domain, after: int, up_to: int, at_most: int) -> Sequence[Stored]:
        self._refuse()
        return await super().read(pair, peer, after, up_to, at_most)

    async def kept(self, at_most: int) -> Sequence[Stored]:
        self._refuse()
        return await super().kept(at_most)


class LoopCalls:
    """Calls that the tests empty. To wait for one is to run the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], None]] = deque()

    def put(self, call: Callable[[], None]) -> None:
        self._calls.append(call)

    def get(self, timeout: float) -> Callable[[], None]:
        async def wait() -> None:
            while not self._calls:
                await asyncio.sleep(0.0005)

        self._loop.run_until_complete(asyncio.wait_for(wait(), timeout))
        return self._calls.popleft()


class LoopAsking(Asking):
    """A spool whose answers come on a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, open_: Callable[[Deliver], Spool]) -> None:
        self.calls: Any = LoopCalls(loop)
        self.spool = open_(self.calls.put)


class SpoolTests(EngineHarness, SpoolContract):
    """The contract on servers that all tests share, emptied for each spool."""

    servers: int
    shard_bytes = 64 << 20

    @property
    def nats(self) -> NATS:
        return started(self.servers, MAX_PAYLOAD)

    @contextmanager
    def asking(self, limit: int = 1 << 26) -> Iterator[Asking]:
        asking = LoopAsking(self.loop, lambda deliver: self.open(deliver, limit))
        yield asking
        asking.close()
        self.wait(Deferred.fromCoroutine(self.opened.close()))

    def open(self, deliver: Deliver, limit: int) -> Spool:
        self.opened = RefusingEngine(self.nats.urls, self.loop, record_bytes=RECORD_BYTES, shard_bytes=self.shard_bytes)
        self.made.append(self.opened)
        self.wait(Deferred.fromCoroutine(self.opened.open(PATIENCE)))
        self.loop.run_until_complete(self.empty())
        spool = JetStreamSpool(self.opened, limit, deliver, Clock(), session=secrets.token_hex(8), wall=lambda: 1e9, peer_of=peer_of)
        for peer in set(map(peer_of, PAIRS)) | {PAIRS[0].sender}:
            self.assertEqual(spool.restored(*self.wait(Deferred.fromCoroutine(self.opened.claim(peer, b"", 0)))), [])
        return spool

    async def empty(self) -> None:
        connection = NATSConnection(self.nats.urls, None, self.loop)
        api = JetStreamAPI(connection, self.loop.time)
        connection.open()
        for stream in (*SPOOL_STREAMS, PEN_STREAM):
            await api.call(f"STREAM.PURGE.{stream}", {}, PATIENCE)
        await connection.close()

    @contextmanager
    def failing(self, spool: Spool) -> Iterator[None]:
        self.opened.refuses = True
        yield
        self.opened.refuses = False

    @contextmanager
    def hanging(self, spool: Spool) -> Iterator[None]:
        """Every write counts as one that was not answered for long, on servers that do not answer."""
        seconds = jetstream._STALL_SECONDS
        jetstream._STALL_SECONDS = -1.0
        for server in self.nats.servers:
            server.suspend()
        yield
        for server in self.nats.servers:
            server.resume()
        jetstream._STALL_SECONDS = seconds


class OneServerTests(SpoolTests, SynchronousTestCase):
    """One server that runs alone."""

    servers = 1


class ThreeServersTests(SpoolTests, SynchronousTestCase):
    """Three servers in a cluster."""

    servers = 3
