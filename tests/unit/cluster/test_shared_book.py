"""The book as a whole: it is read before it is used."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.engine import EngineGone
from s2sgw.cluster.shared_book import SharedBook
from s2sgw.cluster.shared_denials import SharedDenials
from s2sgw.cluster.shared_holds import SharedHolds
from s2sgw.cluster.shared_keys import SharedKeys
from s2sgw.cluster.shared_pending import SharedPending
from s2sgw.cluster.shared_proofs import SharedProofs
from s2sgw.delivery.holds import HoldTarget
from s2sgw.xmpp.jid import Domain
from tests.support.coroutines import now
from tests.support.memory_engine import MemoryEngine, MemoryStore
from tests.support.peer_database import NOW, PEER, remembered
from tests.unit.cluster.test_shared_holds import home
from tests.unit.cluster.test_shared_pending import pending


class SharedBookTests(SynchronousTestCase):
    """Two nodes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore()

    def book(self, engine: MemoryEngine) -> SharedBook:
        reports: list[str] = []
        arguments = (engine, self.clock, lambda: True)
        holds = SharedHolds(*arguments, home, reports.append)
        keys, pending = SharedKeys(*arguments, b"s", reports.append), SharedPending(*arguments, b"s", reports.append)
        return SharedBook(holds, keys, pending, SharedProofs(*arguments, b"s", reports.append), SharedDenials(*arguments, reports.append, self.clock))

    def test_current(self) -> None:
        """All parts are current, and none without the engine."""
        one = self.book(MemoryEngine(self.store))
        one.start()
        now(one.holds.add(HoldTarget(peer=PEER)))
        now(one.keys.approve(remembered()))
        now(one.keys.learn_if(remembered(domain="first.example", origin="first-use"), one.keys.known(Domain.parse("first.example"), NOW)))
        for direction in ("outbound", "inbound"):
            one.pending.hold(pending(domain=f"{direction}.example", direction=direction))
        one.proofs.proven(PEER, "pkix", "k", NOW)
        self.clock.pump([1.0] * 5)
        engine = MemoryEngine(self.store)
        engine.fall_behind()
        engine._replica = type(self.store.content)()  # a replica that has nothing
        other = self.book(engine)
        self.assertRaises(EngineGone, now, other.current())
        other.start()
        self.assertEqual(([], []), (list(other.holds), other.keys.of()))
        now(other.current())
        self.assertEqual((1, 2, 2), (len(list(other.holds)), len(other.keys.of()), len(other.pending.list())))
        self.assertTrue(other.proofs.is_proven("peer.example"))
        engine.cut()
        self.assertRaises(EngineGone, now, other.current())

    def test_stop(self) -> None:
        """Nothing is left that would be called."""
        one = self.book(MemoryEngine(self.store))
        one.start()
        one.pending.hold(pending())
        one.pending.hold(pending(direction="outbound", domain="other.example"))
        one.keys.learn(remembered(origin="first-use"))
        one.proofs.proven(PEER, "pkix", "k", NOW)
        one.stop()
        self.assertEqual([], self.clock.getDelayedCalls())
