"""Tests of the search for what the engine has lost."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.engine import EngineGone, Entry
from s2sgw.cluster.lost_store import LATE_SECONDS, LOOK_SECONDS, LOST_SECONDS, LostStore
from s2sgw.cluster.members import Members
from s2sgw.cluster.node_records import node_key


class Engine:
    """An engine whose answers are as the test says. An exception is raised; a Deferred is waited for."""

    def __init__(self) -> None:
        self.stalled = False
        self.gone: Any = []
        self.entry: Entry | None = Entry(node_key("a"), 120, b"x")
        self.looks = 0

    async def missing(self) -> Sequence[str]:
        self.looks += 1
        if isinstance(self.gone, Exception):
            raise self.gone
        found: Sequence[str] = await self.gone if isinstance(self.gone, Deferred) else self.gone
        return found

    async def get(self, key: str) -> Entry | None:
        assert key == node_key("a")
        return self.entry


class LostStoreTests(SynchronousTestCase):
    """A node with a session whose first record was number 100."""

    def setUp(self) -> None:
        self.clock, self.engine, self.lost = Clock(), Engine(), list[str]()
        self.members = SimpleNamespace(node="a", session=SimpleNamespace(birth=100), heartbeat_at=0.0)
        self.watch = LostStore(cast(Members, self.members), self.engine, self.lost.append, self.clock)
        self.watch.start()

    def pass_time(self, seconds: float, beats: bool = False) -> None:
        for _ in range(round(seconds / 0.5)):
            self.clock.advance(0.5)
            if beats:
                self.members.heartbeat_at = self.clock.seconds()

    def test_well(self) -> None:
        """While heartbeats are acknowledged and no write waits, nothing is asked."""
        self.pass_time(60, beats=True)
        self.assertEqual(self.engine.looks, 0)
        self.engine.stalled = True
        self.pass_time(LOOK_SECONDS, beats=True)
        self.assertEqual(self.engine.looks, 1)

    def test_streams(self) -> None:
        """Streams that are missing for long are told, once."""
        self.engine.gone = ["S2SGW_NODES"]
        self.pass_time(LATE_SECONDS + LOST_SECONDS - LOOK_SECONDS)
        self.assertEqual((self.lost, self.watch.problem), ([], "the stream S2SGW_NODES"))
        self.engine.gone = ["S2SGW_NODES", "S2SGW_BOOK"]
        self.pass_time(60)
        self.assertEqual(self.lost, ["2 streams, S2SGW_NODES among them"])

    def test_record(self) -> None:
        """So is a record of the node that is gone, or older than its session. A younger one is of another session."""
        for entry, lost in ((None, True), (Entry(node_key("a"), 99, b"x"), True), (Entry(node_key("a"), 900, None), False)):
            self.setUp()
            self.engine.entry = entry
            self.pass_time(60)
            self.assertEqual(self.lost, ["the record of this node"] if lost else [])

    def test_session_that_is_over(self) -> None:
        """The session counts also when it is over. A node that never had one misses no record."""
        self.members.session, self.engine.entry = None, None
        self.pass_time(60)
        self.assertEqual(self.lost, ["the record of this node"])
        self.setUp()
        self.watch.stop()
        self.members.session, self.members.heartbeat_at, self.engine.entry = None, -inf, None
        never = LostStore(cast(Members, self.members), self.engine, self.lost.append, self.clock)
        never.start()
        self.pass_time(60)
        self.assertEqual(self.lost, [])

    def test_in_between(self) -> None:
        """A look that finds all, or that the engine does not answer, begins the time anew. So do heartbeats."""
        cases: list[Any] = [[], EngineGone("no answer"), None]
        for between in cases:
            self.setUp()
            self.engine.gone = ["S2SGW_NODES"]
            self.pass_time(LATE_SECONDS + LOST_SECONDS - 2 * LOOK_SECONDS)
            if between is not None:
                self.engine.gone = between
            self.pass_time(LOOK_SECONDS, beats=between is None)
            self.assertEqual(self.watch.problem, "")
            self.engine.gone = ["S2SGW_NODES"]
            self.pass_time(LOST_SECONDS)
            self.assertEqual(self.lost, [])
            self.pass_time(LATE_SECONDS + LOOK_SECONDS)
            self.assertEqual(len(self.lost), 1)

    def test_slow_engine(self) -> None:
        """There is one look at a time. One that a stop cuts off tells nothing."""
        waiting: Deferred[Sequence[str]] = Deferred()
        self.engine.gone = waiting
        self.pass_time(60)
        self.assertEqual(self.engine.looks, 1)
        self.watch.stop()
        self.watch.stop()
        self.pass_time(60)
        self.assertEqual((self.engine.looks, self.lost), (1, []))

    def test_fault(self) -> None:
        """A fault of the program is logged, and the next look is taken."""
        self.engine.gone = RuntimeError("broken")
        self.pass_time(10)
        self.assertLess(1, len(self.flushLoggedErrors(RuntimeError)))
        self.engine.gone = ["S2SGW_NODES"]
        self.pass_time(LOST_SECONDS + LOOK_SECONDS)
        self.assertEqual(len(self.lost), 1)
