"""The engine on real NATS servers: the contract of every engine, on one server and on three, and what their faults do to it.

Skipped where nats-server is not installed ($NATS_SERVER, PATH or ~/go/bin).
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.engine import ClusterEngine
from s2sgw.cluster.jetstream import JetStreamEngine
from s2sgw.cluster.jetstream_api import JetStreamAPI
from s2sgw.cluster.nats_connection import NATSConnection
from s2sgw.cluster.subjects import BOOK_STREAM, SPOOL_STREAMS
from tests.lab.lab import Lab
from tests.lab.nats import NATS, nats, nats_server
from tests.support.engine_contract import EngineContract

#: Seconds that a test may take. It waits for answers, never for time.
PATIENCE = 60
SHARD_BYTES = 16 << 20
RECORD_BYTES = 300_000

_T = TypeVar("_T")


@cache
def started(number: int) -> NATS:
    """Return so many servers. They run until this process ends."""
    lab = Lab()
    atexit.register(lab.close)
    engine = nats(lab, number)
    atexit.register(engine.kill)
    engine.start()
    return engine


class EngineTests(EngineContract):
    """Tests on servers that all tests share."""

    servers: int
    skip = None if nats_server() else "nats-server is not installed"

    def setUp(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.made: list[JetStreamEngine] = []

    def tearDown(self) -> None:
        for engine in self.made:
            self.wait(Deferred.fromCoroutine(engine.close()))
        self.loop.run_until_complete(asyncio.sleep(0.01))
        left = asyncio.all_tasks(self.loop)
        self.loop.close()
        self.assertEqual(left, set())

    def engine(self) -> JetStreamEngine:
        engine = JetStreamEngine(started(self.servers).urls, self.loop, record_bytes=RECORD_BYTES, shard_bytes=SHARD_BYTES)
        self.made.append(engine)
        return engine

    def wait(self, call: Deferred[_T]) -> _T:
        async def result() -> _T:
            return await asyncio.wait_for(call.asFuture(self.loop), PATIENCE)

        return self.loop.run_until_complete(result())

    # --- of the contract ---

    def open(self) -> tuple[ClusterEngine, ClusterEngine]:
        return self.engines

    def run_coroutine(self, coroutine: Coroutine[Deferred[Any], Any, None]) -> None:
        self.engines = self.engine(), self.engine()
        for engine in self.engines:
            self.wait(Deferred.fromCoroutine(engine.open(PATIENCE)))
        self.wait(Deferred.fromCoroutine(coroutine))

    def pause(self) -> Deferred[None]:
        return Deferred.fromFuture(asyncio.ensure_future(asyncio.sleep(0.01), loop=self.loop))

    @asynccontextmanager
    async def filled(self) -> AsyncIterator[None]:
        await Deferred.fromFuture(asyncio.ensure_future(self.resize(5000)))
        yield
        await Deferred.fromFuture(asyncio.ensure_future(self.resize(SHARD_BYTES)))

    async def resize(self, room: int) -> None:
        """Let every stream have `room` for so many bytes more."""
        connection = NATSConnection(started(self.servers).urls, None, self.loop)
        api = JetStreamAPI(connection, self.loop.time)
        connection.open()
        for stream in (*SPOOL_STREAMS, BOOK_STREAM):
            info = await api.info(stream)
            changed = {**info["config"], "max_bytes": info["state"]["bytes"] + room}
            await api.call(f"STREAM.UPDATE.{stream}", changed, PATIENCE)
        await connection.close()


class OneServerTests(EngineTests, SynchronousTestCase):
    """One server that runs alone."""

    servers = 1


class ThreeServersTests(EngineTests, SynchronousTestCase):
    """Three servers in a cluster."""

    servers = 3
