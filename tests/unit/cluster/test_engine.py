"""The engine in memory, by which the other modules of the cluster are tested, passes the contract of every engine and has faults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.engine import ClusterEngine, EngineFull, EngineGone, Entry, Fence, Fenced
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.engine_contract import LOCAL, EngineContract, record, texts
from tests.support.memory_engine import MemoryEngine, MemoryStore

PEER = Domain.parse("peer.example")
LANE = Pair(PEER, LOCAL)


class ContractTests(EngineContract, SynchronousTestCase):
    """The contract."""

    def open(self) -> tuple[ClusterEngine, ClusterEngine]:
        self.store = MemoryStore()
        return MemoryEngine(self.store), MemoryEngine(self.store)

    def run_coroutine(self, coroutine: Coroutine[Deferred[Any], Any, None]) -> None:
        self.successResultOf(Deferred.fromCoroutine(coroutine))

    def pause(self) -> Deferred[None]:
        raise AssertionError("everything takes effect at once")

    @asynccontextmanager
    async def filled(self) -> AsyncIterator[None]:
        self.store.full = True
        yield
        self.store.full = False


class FaultTests(SynchronousTestCase):
    """The faults of one node, while another works."""

    def setUp(self) -> None:
        self.store = MemoryStore()
        self.one, self.other = MemoryEngine(self.store), MemoryEngine(self.store)
        self.fence, _ = self.now(self.one.claim(PEER, b"a", 0))

    def start(self, coroutine: Coroutine[Deferred[Any], Any, Any]) -> Deferred[Any]:
        return Deferred.fromCoroutine(coroutine)

    def now(self, coroutine: Coroutine[Deferred[Any], Any, Any]) -> Any:
        return self.successResultOf(self.start(coroutine))

    def append(self, text: str, fence: Fence | None = None, engine: MemoryEngine | None = None) -> Deferred[Any]:
        return self.start((engine or self.one).append(fence or self.fence, [record(LANE, text)], text))

    def held(self) -> list[str]:
        return texts(self.now(self.other.read(LANE, PEER, 0, 1 << 40, 1 << 20)))

    def test_hold(self) -> None:
        """Calls wait without effect, and go on in their order."""
        self.one.hold()
        calls = [self.append("1"), self.start(self.one.read(LANE, PEER, 0, 1 << 40, 1000)), self.append("2")]
        self.one.delete(PEER, [self.fence.sequence])
        self.assertEqual((self.held(), self.one.stalled, self.other.stalled, [call.called for call in calls]), ([], True, False, [False] * 3))
        self.one.go_on()
        self.assertEqual((self.held(), self.one.stalled, texts(self.successResultOf(calls[1]))), (["1", "2"], False, ["1"]))
        self.assertEqual(self.now(self.other.home(PEER)), None)

    def test_cut(self) -> None:
        """Writes wait, and are judged when they arrive; questions fail; pulses are lost; watches are told afterwards what they missed."""
        told: list[Entry] = []
        heard: list[bytes] = []
        self.one.watch("a", told.append)
        self.one.on_pulse(heard.append)
        self.one.cut()
        late = self.append("late")
        self.failureResultOf(self.start(self.one.home(PEER)), EngineGone)
        self.failureResultOf(self.start(self.one.ask("b", b"")), EngineGone)
        self.other.pulse(b"lost")
        self.one.pulse(b"lost")
        fence, _ = self.now(self.other.claim(PEER, b"b", self.fence.sequence))
        for data in (b"1", b"2"):
            self.now(self.other.put("a.x", data, None))
        self.assertEqual(self.now(self.other.append(fence, [record(LANE, "new")], "new")), [6 - 1])
        self.assertEqual((told, heard), ([], []))
        self.one.go_on()
        self.failureResultOf(late, Fenced)
        self.other.pulse(b"heard")
        self.assertEqual((self.held(), [entry.data for entry in told], heard), (["new"], [b"2"], [b"heard"]))

    def test_lost_answers(self) -> None:
        """A call has its effect at once, and its answer comes when it is asked for again."""
        self.one.lose_answers()
        late = self.append("1")
        self.assertEqual((self.held(), late.called, self.one.stalled), (["1"], False, True))
        self.now(self.other.claim(PEER, b"b", self.fence.sequence))
        self.one.go_on()
        self.assertEqual((len(self.successResultOf(late)), self.one.stalled), (1, False))

    def test_refuse(self) -> None:
        """Every call fails without effect."""
        self.one.refuse(EngineFull("no"))
        self.failureResultOf(self.append("1"), EngineFull)
        self.failureResultOf(self.start(self.one.get("a")), EngineFull)
        self.one.go_on()
        self.assertEqual(self.held(), [])
        self.successResultOf(self.append("1"))

    def test_fall_behind(self) -> None:
        """Answers that may be out of date are; the others are not."""
        self.one.fall_behind()
        self.now(self.other.put("a", b"1", 0))
        fence, _ = self.now(self.other.claim(PEER, b"b", self.fence.sequence))
        self.successResultOf(self.append("1", fence, self.other))
        home = self.now(self.one.home(PEER))
        self.assertEqual((home.data, self.now(self.one.entries("")), self.now(self.one.held_peers())), (b"a", [], {PEER: 1}))
        self.assertEqual(texts(self.now(self.one.read(LANE, PEER, 0, 1 << 40, 1000))), ["1"])
        self.assertEqual(self.now(self.one.get("a")).data, b"1")
        self.one.go_on()
        self.assertEqual(self.now(self.one.home(PEER)).data, b"b")

    def test_close_ends_calls(self) -> None:
        """Calls that wait fail, those with an effect too, and are not made later."""
        self.one.lose_answers()
        done = self.append("done")
        self.one.hold()
        waiting = self.append("waiting")
        self.now(self.one.close())
        self.one.go_on()
        for call in (done, waiting):
            self.failureResultOf(call, EngineGone)
        self.assertEqual(self.held(), ["done"])

    def test_answers_come_when_the_test_says(self) -> None:
        """`deliver` has every answer."""
        calls: list[Callable[[], None]] = []
        engine = MemoryEngine(self.store, calls.append)
        answer = self.start(engine.get("a"))
        self.assertFalse(answer.called)
        calls.pop()()
        self.assertEqual(self.successResultOf(answer), None)
