"""Tests of the settings that all nodes share: nodes that agree, nodes that differ, and nodes that start at once."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.engine import EngineGone, EngineUnfit, Entry
from s2sgw.cluster.node_records import NodeRecord, Pulse, UnreadableRecord, node_key
from s2sgw.cluster.shared_settings import KEY, LONGEST_SILENCE, SettingsGuard, SharedSettings, digest
from tests.support.memory_engine import MemoryEngine, MemoryStore

ONE = SharedSettings({"gateway.domains": "1", "the secret": "x"}, 18.3)
TWO = SharedSettings({"gateway.domains": "2", "the secret": "x"}, 18.3)


class RecordTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        self.assertEqual(ONE, SharedSettings.decode(ONE.encode()))
        self.assertEqual(SharedSettings({"a": "1"}, LONGEST_SILENCE), SharedSettings.decode(b'{"version":1,"settings":{"a":"1"}}'))

    def test_unreadable(self) -> None:
        """Other texts, and records of newer versions, are refused."""
        for data in (
            b"", b"[]", b"{}", b'{"version":1}', b'{"version":1,"settings":[]}', b'{"version":1,"settings":{"a":1}}',
            b'{"version":1,"settings":{},"silence":-1}', b'{"version":1,"settings":{},"silence":NaN}',
            b'{"version":1,"settings":{},"silence":"1"}', b'{"version":1,"settings":{},"silence":1e9}', b'{"version":2,"settings":{}}', b"[" * 100_000,
        ):
            self.assertRaises(UnreadableRecord, SharedSettings.decode, data)

    def test_differing(self) -> None:
        """A setting that only one side has does not differ."""
        self.assertEqual(["gateway.domains"], ONE.differing(TWO))
        more = SharedSettings({**ONE.digests, "new": "1"})
        self.assertEqual(([], []), (ONE.differing(more), more.differing(ONE)))

    def test_digest(self) -> None:
        """Equal contents of two settings have two digests."""
        self.assertNotEqual(digest("a", b"x"), digest("b", b"x"))


class GuardTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = MemoryStore()
        self.engine = MemoryEngine(self.store)
        self.clock = Clock()
        #: the nodes that beat
        self.beating: set[str] = set()

    def guard(self, node: str, settings: SharedSettings) -> SettingsGuard:
        return SettingsGuard(MemoryEngine(self.store), node, settings, self.clock)

    def agree(self, guard: SettingsGuard, birth: int = 0) -> None:
        self.successResultOf(Deferred.fromCoroutine(guard.agree(birth)))

    def begin(self, guard: SettingsGuard, birth: int = 0) -> Deferred[None]:
        return Deferred.fromCoroutine(guard.agree(birth))

    def refused(self, guard: SettingsGuard, birth: int = 0) -> str:
        """Return why a node is refused, which takes no longer than a heartbeat."""
        call = self.begin(guard, birth)
        self.pass_time(1.0)
        return str(self.failureResultOf(call, EngineUnfit).value)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            for node in self.beating:
                self.write(node)
            self.clock.advance(0.1)

    def join(self, node: str, alive: bool = True) -> int:
        """Write the record of a node, which beats from now on."""
        self.beating |= {node} if alive else set()
        return self.write(node, alive)

    def write(self, node: str, alive: bool = True) -> int:
        record = NodeRecord(node, f"{node}1", "192.0.2.1:5271", alive=alive)
        return self.successResultOf(Deferred.fromCoroutine(self.engine.put(node_key(node), record.encode(), None)))

    def record(self, node: str) -> NodeRecord:
        entry = self.successResultOf(Deferred.fromCoroutine(self.engine.get(node_key(node))))
        assert entry is not None
        assert entry.data is not None
        return NodeRecord.decode(entry.data)

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

    def test_killed(self) -> None:
        """Nodes that do not beat for the whole time are not alive: their records are ended, and the settings replaced."""
        self.agree(self.guard("a", ONE))
        births = {node: self.write(node) for node in "abc"}
        call = self.begin(self.guard("a", TWO))
        self.pass_time(18.2)
        self.assertNoResult(call)
        self.assertEqual(ONE, self.stored())
        self.pass_time(1.0)
        self.successResultOf(call)
        self.assertEqual(TWO, self.stored())
        self.assertEqual([(False, births[node]) for node in "bc"], [(self.record(node).alive, self.record(node).birth) for node in "bc"])

    def test_wakes_late(self) -> None:
        """A node that beats at the end of the time is alive. Nothing is changed, and no record is ended."""
        self.agree(self.guard("a", ONE))
        for node in "ab":
            self.write(node)
        call = self.begin(self.guard("c", TWO))
        self.pass_time(18.0)
        self.write("b")
        self.pass_time(1.0)
        self.assertIn("as on b:", str(self.failureResultOf(call, EngineUnfit).value))
        self.assertEqual((ONE, True, True), (self.stored(), self.record("a").alive, self.record("b").alive))

    def test_beats_at_the_last_moment(self) -> None:
        """A heartbeat between the last reading and the end of a record is not overwritten."""
        self.agree(self.guard("a", ONE))
        self.write("a")
        guard = self.guard("c", TWO)
        put = guard._engine.put

        async def late(key: str, data: bytes | None, expected: int | None) -> int:
            guard._engine.put = put  # type: ignore[method-assign]
            self.join("a")
            return await put(key, data, expected)

        guard._engine.put = late  # type: ignore[method-assign]
        call = self.begin(guard)
        self.pass_time(20.0)
        self.assertIn("as on a:", str(self.failureResultOf(call, EngineUnfit).value))
        self.assertEqual((ONE, True), (self.stored(), self.record("a").alive))

    def test_pulses(self) -> None:
        """A node whose heartbeats do not come to the engine sends pulses, and is alive."""
        self.agree(self.guard("a", ONE))
        self.write("a")
        call = self.begin(self.guard("c", TWO))
        self.pass_time(10.0)
        for data in (b"rubbish", Pulse("x", "x1", 1, {}).encode()):
            self.engine.pulse(data)
        self.pass_time(1.0)
        self.assertNoResult(call)
        self.engine.pulse(Pulse("a", "a1", 1, {}).encode())
        self.pass_time(1.0)
        self.assertIn("as on a:", str(self.failureResultOf(call, EngineUnfit).value))
        self.assertEqual((ONE, True), (self.stored(), self.record("a").alive))

    def slow(self, guard: SettingsGuard, first: float, until: float) -> None:
        """Let each list of nodes take 3 s from a time to another."""
        entries = guard._engine.entries

        async def late(prefix: str) -> Sequence[Entry]:
            if first <= self.clock.seconds() < until:
                await deferLater(self.clock, 3.0)
            return await entries(prefix)

        guard._engine.entries = late  # type: ignore[method-assign]

    def test_session_begins_anew(self) -> None:
        """A node that has replaced the settings, and was alone then, may begin a new session beside nodes that have joined since."""
        self.agree(self.guard("a", ONE))
        guard = self.guard("c", TWO)
        self.agree(guard)
        self.agree(guard, self.join("c"))
        self.agree(self.guard("b", TWO), self.join("b"))
        self.agree(guard, self.join("c"))

    def test_replaced_by_a_member(self) -> None:
        """A member that replaces the record refuses to stay, if another joined with the former settings meanwhile."""
        self.agree(self.guard("a", ONE))
        guard, other = self.guard("c", TWO), self.guard("b", ONE)
        birth = self.join("c", alive=False)
        put = guard._engine.put

        async def late(key: str, data: bytes | None, expected: int | None) -> int:
            guard._engine.put = put  # type: ignore[method-assign]
            self.agree(other, self.join("b"))
            return await put(key, data, expected)

        guard._engine.put = late  # type: ignore[method-assign]
        self.assertIn("as on b:", self.refused(guard, birth))

    def test_old_list(self) -> None:
        """A list of nodes that is older than the session of this node is read again: another node may have joined since."""
        self.agree(self.guard("a", ONE))
        guard = self.guard("c", TWO)
        self.agree(guard)
        self.join("a")
        birth = self.join("c")
        lists: list[Sequence[Entry]] = [[]]
        entries = guard._engine.entries

        async def late(prefix: str) -> Sequence[Entry]:
            return lists.pop() if lists else await entries(prefix)

        guard._engine.entries = late  # type: ignore[method-assign]
        self.assertIn("as on a:", self.refused(guard, birth))

    def test_engine_that_was_away(self) -> None:
        """A reading that takes long starts the time anew: the other nodes may have been without the engine until then."""
        self.agree(self.guard("a", ONE))
        self.write("a")
        guard = self.guard("c", TWO)
        self.slow(guard, 17.0, 18.0)
        call = self.begin(guard)
        self.pass_time(38.0)
        self.assertNoResult(call)
        self.assertTrue(self.record("a").alive)
        self.pass_time(2.0)
        self.successResultOf(call)

    def test_slow_engine(self) -> None:
        """An engine that stays slow ends the watch. Nothing is changed."""
        self.agree(self.guard("a", ONE))
        self.write("a")
        guard = self.guard("c", TWO)
        self.slow(guard, 1.0, 1000.0)
        call = self.begin(guard)
        self.pass_time(70.0)
        self.failureResultOf(call, EngineGone)
        self.assertEqual((ONE, True), (self.stored(), self.record("a").alive))

    def test_other_lease(self) -> None:
        """If the lease or the bridge is what differs, the longer ones count."""
        for old, new in ((123.3, 18.3), (18.3, 123.3)):
            self.setUp()
            self.agree(self.guard("a", SharedSettings({"cluster.bridge": "1"}, old)))
            self.write("a")
            call = self.begin(self.guard("b", SharedSettings({"cluster.bridge": "2"}, new)))
            self.pass_time(123.0)
            self.assertNoResult(call)
            self.pass_time(1.0)
            self.successResultOf(call)

    def test_leaves_meanwhile(self) -> None:
        """A node that ends its session in order is not waited for."""
        self.agree(self.guard("a", ONE))
        self.write("a")
        call = self.begin(self.guard("b", TWO))
        self.write("a", alive=False)
        self.pass_time(1.0)
        self.successResultOf(call)
        self.assertEqual(TWO, self.stored())

    def test_setting_of_one_node(self) -> None:
        """A setting of only one node is added for nodes that come later, and is compared with theirs alone."""
        self.agree(self.guard("a", ONE))
        self.join("a")
        self.agree(self.guard("b", SharedSettings({**ONE.digests, "authority": "1"})))
        self.agree(self.guard("a", ONE))
        self.assertIn("authority must be", self.refused(self.guard("c", SharedSettings({**ONE.digests, "authority": "2"}))))
        self.assertEqual({**ONE.digests, "authority": "1"}, self.stored().digests)

    def test_unreadable(self) -> None:
        """A record of a newer version is left alone."""
        data = b'{"version":99,"settings":{}}'
        self.successResultOf(Deferred.fromCoroutine(self.engine.put(KEY, data, 0)))
        self.assertIn("version 99", self.refused(self.guard("a", ONE)))
