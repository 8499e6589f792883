"""Engines on real NATS servers for tests: the servers, which run until the process ends, and a loop for each test."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from twisted.internet.defer import Deferred

from s2sgw.cluster.jetstream import JetStreamEngine
from tests.lab.lab import Lab
from tests.lab.nats import NATS, nats, nats_server

#: Seconds that a test may take. It waits for answers, never for time.
PATIENCE = 60
SHARD_BYTES = 16 << 20
RECORD_BYTES = 300_000

_T = TypeVar("_T")


@cache
def started(number: int, max_payload: int = 1 << 20) -> NATS:
    """Return so many servers. They run until this process ends."""
    lab = Lab()
    atexit.register(lab.close)
    engine = nats(lab, number, max_payload)
    atexit.register(engine.kill)
    engine.start()
    return engine


class EngineHarness:
    """Tests with engines on a loop of their own."""

    assertEqual: Callable[..., None]
    skip = None if nats_server() else "nats-server is not installed"
    shard_bytes = SHARD_BYTES

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
        engine = JetStreamEngine(self.urls, self.loop, record_bytes=RECORD_BYTES, shard_bytes=self.shard_bytes)
        self.made.append(engine)
        return engine

    def wait(self, call: Deferred[_T]) -> _T:
        async def result() -> _T:
            return await asyncio.wait_for(call.asFuture(self.loop), PATIENCE)

        return self.loop.run_until_complete(result())

    @property
    def urls(self) -> list[str]:
        """Return the URLs of the servers."""
        raise AssertionError("a subclass says which")
