"""The shared book on a real NATS server: what one node decides or learns is known to another one.

Skipped where nats-server is not installed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.jetstream import JetStreamEngine
from s2sgw.cluster.shared_book import SharedBook
from s2sgw.cluster.shared_denials import SharedDenials
from s2sgw.cluster.shared_holds import SharedHolds
from s2sgw.cluster.shared_items import PAUSE
from s2sgw.cluster.shared_keys import SharedKeys
from s2sgw.cluster.shared_pending import SharedPending
from s2sgw.cluster.shared_proofs import SharedProofs
from s2sgw.delivery.holds import HoldTarget
from s2sgw.peerdb.keys import KnownKeys
from s2sgw.xmpp.jid import Domain
from tests.support.jetstream_engines import PATIENCE, EngineHarness, started
from tests.support.peer_database import NEW_KEY, NOW, OLD_KEY, remembered
from tests.unit.cluster.test_shared_holds import home
from tests.unit.cluster.test_shared_pending import pending

_numbers = count(1)


class SharedBookTests(EngineHarness, SynchronousTestCase):
    """Two nodes on one server."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.peer = Domain.parse(f"book{next(_numbers)}.example")
        self.one, self.other = self.book(), self.book()

    @property
    def urls(self) -> list[str]:
        return started(1).urls

    def run_now(self, coroutine: Coroutine[Deferred[Any], Any, Any]) -> Any:
        return self.wait(Deferred.fromCoroutine(coroutine))

    def book(self) -> SharedBook:
        engine: JetStreamEngine = self.engine()
        self.run_now(engine.open(PATIENCE))
        reports: list[str] = []
        arguments = (engine, self.clock, lambda: True)
        holds = SharedHolds(*arguments, home, reports.append)
        keys, waiting = SharedKeys(*arguments, b"s", reports.append), SharedPending(*arguments, b"s", reports.append)
        book = SharedBook(holds, keys, waiting, SharedProofs(*arguments, b"s", reports.append), SharedDenials(*arguments, reports.append, self.clock))
        book.start()
        return book

    def test_decisions(self) -> None:
        """Each decision is known to the other node when that is current, and to one that comes later."""
        for number in range(10):
            mine, others = (self.one, self.other) if number % 2 else (self.other, self.one)
            self.run_now(mine.holds.add(HoldTarget(peer=self.peer)))
            self.run_now(mine.keys.approve(remembered(domain=self.peer.ascii)))
            self.assertTrue(self.run_now(mine.denials.add(f"{number}.{self.peer}")))
            self.run_now(others.current())
            self.assertFalse(self.run_now(others.denials.add(f"{number}.{self.peer}")))
            self.assertTrue(self.run_now(others.denials.remove(f"{number}.{self.peer}")))
            self.assertIn(HoldTarget(peer=self.peer), list(others.holds))
            self.assertEqual(frozenset({OLD_KEY}), others.keys.known(self.peer, NOW).approved)
            self.assertEqual(1, self.run_now(others.holds.discard(HoldTarget(peer=self.peer))))
            self.assertTrue(self.run_now(others.keys.forget(self.peer, OLD_KEY)))
        self.run_now(self.one.keys.approve(remembered(domain=self.peer.ascii)))
        late = self.book()
        self.run_now(late.current())
        self.assertNotIn(HoldTarget(peer=self.peer), list(late.holds))
        self.assertEqual(frozenset({OLD_KEY}), late.keys.known(self.peer, NOW).approved)

    def test_at_the_same_time(self) -> None:
        """Of two nodes that learn two keys at the same time one remembers its own. Two holds of one peer are both in force."""
        calls = [
            Deferred.fromCoroutine(book.keys.learn_if(remembered(key, domain=self.peer.ascii, origin="first-use"), KnownKeys()))
            for book, key in ((self.one, OLD_KEY), (self.other, NEW_KEY))
        ]
        learnt: list[bool] = self.wait(gatherResults(calls))
        self.assertEqual([False, True], sorted(learnt))
        targets = [HoldTarget(peer=self.peer), *(HoldTarget(peer=Domain.parse(f"x{number}.example")) for number in range(5))]
        self.wait(gatherResults([
            Deferred.fromCoroutine(book.holds.add(target)) for target in targets for book in (self.one, self.other)
        ]))
        for book in (self.one, self.other):
            self.run_now(book.current())
            self.assertEqual(1, len(book.keys.known(self.peer, NOW).first_use))
            self.assertLessEqual(set(targets), set(book.holds))

    def test_in_the_background(self) -> None:
        """Items of both nodes come to both, however many at once."""
        names = [f"{number}.{self.peer}" for number in range(40)]
        for number, name in enumerate(names):
            book = (self.one, self.other)[number % 2]
            book.proofs.proven(Domain.parse(name), "pkix", "k", NOW + number)
            book.pending.hold(pending(domain=name, chain=(b"x",)))

        async def written() -> None:
            while any(items._waiting for book in (self.one, self.other) for items in (book.proofs.items, book.pending.inbound)):
                self.clock.advance(PAUSE)
                await asyncio.sleep(0.005)

        self.loop.run_until_complete(asyncio.wait_for(written(), PATIENCE))
        for book in (self.one, self.other):
            self.run_now(book.current())
            self.assertTrue(all(book.proofs.is_proven(name) for name in names))
            self.assertEqual(40, len([found for found in book.pending.list() if found.domain in names]))
