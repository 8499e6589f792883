"""The spool in the engine keeps the contract, outlives its node, and loses nothing when the engine or the home is away."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.engine import EngineError, Fence, PeerLogs
from s2sgw.cluster.spool import JetStreamSpool
from s2sgw.spool.interface import Spool
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.memory_engine import MemoryEngine, MemoryStore
from tests.support.spool_contract import PAIRS, Deliver, SpoolContract


def peer_of(pair: Pair) -> Domain:
    """The greater name, so that a pair and its inverse have one home."""
    return max(pair, key=lambda domain: domain.ascii)


def now(coroutine: Coroutine[Deferred[Any], Any, Any]) -> Any:
    """Return the result of a coroutine that has it at once."""
    results: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    (result,) = results
    if isinstance(result, BaseException) or hasattr(result, "raiseException"):
        result.raiseException()
    return result


def claimed(engine: MemoryEngine, peer: Domain) -> tuple[Fence, PeerLogs]:
    home = now(engine.home(peer))
    fence, logs = now(engine.claim(peer, b"", 0 if home is None else home.sequence))
    return fence, logs


class LargeEngine(MemoryEngine):
    """It takes the largest stanzas of the contract."""

    max_record = 1 << 26


class ContractTests(SpoolContract, SynchronousTestCase):
    """The contract of every spool."""

    def open(self, deliver: Deliver, limit: int) -> Spool:
        self.engine = LargeEngine(MemoryStore())
        spool = JetStreamSpool(self.engine, limit, deliver, Clock(), session="a", wall=lambda: 1e9, peer_of=peer_of)
        for peer in set(map(peer_of, PAIRS)) | {PAIRS[0].sender}:
            self.assertEqual(spool.restored(*claimed(self.engine, peer)), [])
        return spool

    @contextmanager
    def failing(self, spool: Spool) -> Iterator[None]:
        self.engine.refuse(EngineError("the engine fails"))
        yield
        self.engine.go_on()

    @contextmanager
    def hanging(self, spool: Spool) -> Iterator[None]:
        self.engine.hold()
        yield
        self.engine.go_on()
