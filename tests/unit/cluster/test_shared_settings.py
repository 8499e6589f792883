"""Tests of the settings that all nodes share: nodes that agree, nodes that differ, and nodes that start at once."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.engine import EngineUnfit
from s2sgw.cluster.node_records import NodeRecord, UnreadableRecord, node_key
from s2sgw.cluster.shared_settings import KEY, SettingsGuard, SharedSettings, digest
from tests.support.memory_engine import MemoryEngine, MemoryStore

ONE = SharedSettings({"gateway.domains": "1", "the secret": "x"})
TWO = SharedSettings({"gateway.domains": "2", "the secret": "x"})


class RecordTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        self.assertEqual(ONE, SharedSettings.decode(ONE.encode()))

    def test_unreadable(self) -> None:
        """Other texts, and records of newer versions, are refused."""
        for data in (
            b"", b"[]", b"{}", b'{"version":1}', b'{"version":1,"settings":[]}', b'{"version":1,"settings":{"a":1}}',
            b'{"version":2,"settings":{}}', b"[" * 100_000,
        ):
            self.assertRaises(UnreadableRecord, SharedSettings.decode, data)

    def test_differing(self) -> None:
        """A setting that one side does not know differs."""
        self.assertEqual(["gateway.domains"], ONE.differing(TWO))
        self.assertEqual(["new"], ONE.differing(SharedSettings({**ONE.digests, "new": "1"})))

    def test_digest(self) -> None:
        """Equal contents of two settings have two digests."""
        self.assertNotEqual(digest("a", b"x"), digest("b", b"x"))


class GuardTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = MemoryStore()
        self.engine = MemoryEngine(self.store)

    def guard(self, node: str, settings: SharedSettings) -> SettingsGuard:
        return SettingsGuard(MemoryEngine(self.store), node, settings)

    def agree(self, guard: SettingsGuard, birth: int = 0) -> None:
        self.successResultOf(Deferred.fromCoroutine(guard.agree(birth)))

    def refused(self, guard: SettingsGuard, birth: int = 0) -> str:
        return str(self.failureResultOf(Deferred.fromCoroutine(guard.agree(birth)), EngineUnfit).value)

    def join(self, node: str, alive: bool = True) -> int:
        record = NodeRecord(node, f"{node}1", "192.0.2.1:5271", alive=alive)
        return self.successResultOf(Deferred.fromCoroutine(self.engine.put(node_key(node), record.encode(), None)))

    def stored(self) -> SharedSettings:
        entry = self.successResultOf(Deferred.fromCoroutine(self.engine.get(KEY)))
        assert entry is not None
        assert entry.data is not None
        return SharedSettings.decode(entry.data)

    def test_first(self) -> None:
        """The first node writes its settings, and others with the same agree."""
        self.agree(self.guard("a", ONE))
        self.assertEqual(ONE, self.stored())
        birth = self.join("a")
        self.agree(self.guard("a", ONE), birth)
        self.agree(self.guard("b", ONE))

    def test_differs(self) -> None:
        """A node with other settings is told which, and on which nodes. Nothing is written."""
        self.agree(self.guard("a", ONE))
        self.join("a")
        text = self.refused(self.guard("b", TWO))
        self.assertIn("gateway.domains must be the same on all nodes", text)
        self.assertIn("as on a:", text)
        self.assertNotIn("secret", text)
        self.assertEqual(ONE, self.stored())

    def test_replaced(self) -> None:
        """When no other node is alive the settings may change: also those of a node's own former session."""
        self.agree(self.guard("a", ONE))
        self.join("a")
        self.join("b", alive=False)
        self.agree(self.guard("a", TWO))
        self.assertEqual(TWO, self.stored())

    def test_at_once(self) -> None:
        """Of two nodes that start at once with different settings at most one stays, whatever the order of their steps."""
        self.agree(self.guard("a", ONE))
        b, c = self.guard("b", TWO), self.guard("c", ONE)
        self.agree(c)
        self.agree(b)  # replaces the record: neither is alive yet
        births = {"b": self.join("b"), "c": self.join("c")}
        self.refused(c, births["c"])
        self.refused(b, births["b"])  # which replaced what c had agreed to

    def test_late_replacement(self) -> None:
        """A node that has replaced the record refuses to stay, if another joined meanwhile."""
        self.agree(self.guard("a", ONE))
        c = self.guard("c", ONE)
        self.agree(c)
        birth_of_c = self.join("c", alive=False)
        b = self.guard("b", TWO)
        self.agree(b)
        birth_of_b = self.join("b")
        self.join("c")
        self.assertIn("as on c:", self.refused(b, birth_of_b))
        self.refused(c, birth_of_c)

    def test_unreadable(self) -> None:
        """A record of a newer version is left alone."""
        data = b'{"version":99,"settings":{}}'
        self.successResultOf(Deferred.fromCoroutine(self.engine.put(KEY, data, 0)))
        self.assertIn("version 99", self.refused(self.guard("a", ONE)))
