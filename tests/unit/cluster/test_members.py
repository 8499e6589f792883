"""The rules of membership, one at a time. What follows from them together is in `tests/properties/test_cluster.py`."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.engine import Entry
from s2sgw.cluster.members import (
    PULSE_BYTES,
    LeaseOver,
    LeaseRegained,
    MemberEffect,
    Members,
    MembershipLeft,
    NameTaken,
    OtherEnded,
    ProbeListener,
    ReadMembers,
    ReadRecord,
    SendPulse,
    SessionBegan,
    SessionEnded,
    StreamsMustEnd,
    WriteRecord,
)
from s2sgw.cluster.node_records import NodeRecord, NodeSession, Pulse, node_key

_E = TypeVar("_E")
HERE, THERE = "192.0.2.1:5271", "192.0.2.2:5271"
B = NodeRecord("b", "b1", THERE, birth=1, beat=5)


class Table:
    """The node `a`, and the records of nodes. Calls of `a` wait until the test answers them."""

    def __init__(self) -> None:
        numbers = count(1)
        self.members = Members("a", HERE, lambda: f"a{next(numbers)}", settings="s")
        self.now = 100.0
        self.sequence = 10
        self.entries: dict[str, Entry] = {}
        self.effects: list[MemberEffect] = []

    def take(self, kind: type[_E]) -> _E:
        """Return the first output of a kind that was not taken yet."""
        self.effects += self.members.effects()
        effect = next(effect for effect in self.effects if isinstance(effect, kind))
        self.effects.remove(effect)
        return effect

    def seen(self) -> list[str]:
        """Return the names of all outputs, and forget them."""
        self.effects += self.members.effects()
        names = [type(effect).__name__ for effect in self.effects]
        self.effects = []
        return names

    def store(self, record: NodeRecord) -> Entry:
        self.sequence += 1
        self.entries[record.node] = Entry(node_key(record.node), self.sequence, record.encode())
        return self.entries[record.node]

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.members.tick(self.now)

    def changed(self, record: NodeRecord) -> None:
        self.members.changed(self.store(record), self.now)

    def write(self) -> WriteRecord:
        """Let the next write succeed."""
        call = self.take(WriteRecord)
        self.members.written(call, self.store(call.record).sequence, self.now)
        return call

    def read_members(self) -> None:
        self.members.members_read(self.take(ReadMembers), list(self.entries.values()), self.now)

    def join(self) -> NodeSession:
        self.members.start()
        call = self.take(ReadRecord)
        self.members.record_read(call, self.entries.get("a"), self.now)
        self.write()
        session = self.take(SessionBegan).session
        self.read_members()
        return session

    def beat(self, seconds: float = 0.5) -> None:
        """Send a heartbeat that is acknowledged, with the list of nodes behind it."""
        self.tick(seconds)
        self.write()
        self.read_members()

    def pulse(self) -> int:
        """Return the number of the last pulse."""
        return self.last_pulse().number

    def last_pulse(self) -> Pulse:
        self.effects += self.members.effects()
        return [Pulse.decode(effect.data) for effect in self.effects if isinstance(effect, SendPulse)][-1]

    def hear(self, number: int, echo: int = 0, identity: str = "b1", node: str = "b") -> None:
        heard = {"a1": echo} if echo else {}
        self.members.pulse_heard(Pulse(node, identity, number, heard).encode(), self.now)


class MembersTests(SynchronousTestCase):
    """One node."""

    def setUp(self) -> None:
        self.table = Table()
        self.members = self.table.members

    def writes(self, at: float) -> bool:
        return self.members.may_write(at)

    # --- sessions ---

    def test_join(self) -> None:
        """A node reads its record and writes a session of its own; before that it may not write to wires."""
        self.members.start()
        self.assertFalse(self.writes(self.table.now))
        self.table.effects = self.members.effects()
        self.members.record_read(self.table.take(ReadRecord), None, self.table.now)
        call = self.table.take(WriteRecord)
        self.assertEqual((call.record.identity, call.record.beat, call.expected, call.record.settings), ("a1", 0, 0, "s"))
        self.members.written(call, 11, self.table.now + 1)
        self.assertEqual(self.table.take(SessionBegan).session, NodeSession("a", "a1", 11))
        self.assertEqual([self.writes(self.table.now + after) for after in (1, 2.9, 3.0)], [True, True, False])

    def test_joins_over_own_port(self) -> None:
        """A former session with this node's own listener is over, since the port is ours now; so is a dead one elsewhere."""
        for former in (NodeRecord("a", "a0", HERE), NodeRecord("a", "a0", THERE, alive=False)):
            table = Table()
            sequence = table.store(former).sequence
            table.members.start()
            table.members.record_read(table.take(ReadRecord), table.entries["a"], table.now)
            self.assertEqual(table.take(WriteRecord).expected, sequence)

    def test_port_proves_nothing(self) -> None:
        """A listener on every address, or with a name, can be that of another machine: then the former session is waited for."""
        for listener in ("0.0.0.0:5271", "[::]:5271", "node.example:5271", "?", "192.0.2.1:x"):
            members = Members("a", listener, lambda: "a1")
            members.start()
            (call,) = members.effects()
            members.record_read(call, self.table.store(NodeRecord("a", "a0", listener)), 100.0)  # type: ignore[arg-type]
            self.assertEqual([type(effect) for effect in members.effects()], [NameTaken], listener)

    def test_name_is_taken(self) -> None:
        """A living session elsewhere is waited for as long as it could have a bridge. While it beats, this node does not join."""
        table, other = self.table, NodeRecord("a", "a0", THERE)
        table.store(other)
        self.members.start()
        for beat in range(60):
            self.members.record_read(table.take(ReadRecord), table.store(replace(other, beat=beat)), table.now)
            table.tick(0.5)
        self.assertEqual(table.seen(), ["NameTaken", "ReadRecord"])
        self.setUp()
        table = self.table
        entry = table.store(other)
        self.members.start()
        for _ in range(37):
            self.members.record_read(table.take(ReadRecord), entry, table.now)
            table.tick(0.5)
        self.members.record_read(table.take(ReadRecord), entry, table.now)
        self.assertEqual(table.take(WriteRecord).expected, entry.sequence)

    def test_says_that_the_name_is_taken(self) -> None:
        """It is noticed once."""
        self.table.store(NodeRecord("a", "a0", THERE))
        self.members.start()
        self.members.record_read(self.table.take(ReadRecord), self.table.entries["a"], 100.0)
        self.assertEqual(self.table.take(NameTaken).listener, THERE)

    def test_birth_is_refused(self) -> None:
        """Another session was faster: the record is read again. An engine that refuses is asked again."""
        for conflict in (True, False):
            table = Table()
            table.members.start()
            table.members.record_read(table.take(ReadRecord), None, table.now)
            table.members.not_written(table.take(WriteRecord), conflict, table.now)
            table.tick(0.1)
            table.members.record_not_read(table.take(ReadRecord), table.now)
            table.tick(0.1)
            table.members.record_read(table.take(ReadRecord), None, table.now)
            self.assertEqual(table.take(WriteRecord).record.identity, "a2")

    def test_buried(self) -> None:
        """A refused heartbeat and a dead record end the session at once, and a new one begins."""
        session = self.table.join()
        self.table.tick(0.5)
        self.table.store(NodeRecord("a", "a1", HERE, alive=False))
        self.members.not_written(self.table.take(WriteRecord), True, self.table.now)
        self.assertTrue(self.writes(self.table.now))
        self.table.tick(0.1)
        self.members.record_read(self.table.take(ReadRecord), self.table.entries["a"], self.table.now)
        self.assertEqual(self.table.take(SessionEnded).session, session)
        self.assertFalse(self.writes(self.table.now))
        self.table.tick(0.1)
        self.members.record_read(self.table.take(ReadRecord), self.table.entries["a"], self.table.now)
        self.table.write()
        self.assertEqual(self.table.take(SessionBegan).session.identity, "a2")
        self.assertEqual(self.members.state_of(session, self.table.now), "over")

    def test_told_of_its_burial(self) -> None:
        """A dead record that the node is told of is looked into at once, and not believed if it is old."""
        self.table.join()
        self.members.changed(Entry("node.a", 3, NodeRecord("a", "a0", HERE, alive=False).encode()), self.table.now)
        self.table.tick(0.1)
        self.assertNotIn("ReadRecord", self.table.seen())
        self.table.changed(NodeRecord("a", "a1", HERE, alive=False))
        self.table.tick(0.1)
        self.members.record_read(self.table.take(ReadRecord), self.table.entries["a"], self.table.now)
        self.table.take(SessionEnded)

    def test_heartbeat_that_was_written_after_all(self) -> None:
        """A conflict with the own heartbeat, whose answer was lost, ends nothing; the lease is not longer for it."""
        self.table.join()
        self.table.tick(0.5)
        call = self.table.take(WriteRecord)
        entry = self.table.store(call.record)
        self.members.not_written(call, True, self.table.now)
        self.table.tick(0.1)
        self.members.record_read(self.table.take(ReadRecord), entry, self.table.now)
        self.assertFalse(self.writes(103.0))
        self.table.tick(0.1)
        self.assertEqual(self.table.take(WriteRecord).expected, entry.sequence)

    # --- the lease ---

    def test_lease(self) -> None:
        """An acknowledged heartbeat renews the lease from when it was sent, however late the answer comes."""
        self.table.join()
        self.table.tick(0.5)
        self.members.written(self.table.take(WriteRecord), 50, 103.2)
        self.assertEqual(self.members.lease_until, 103.5)

    def test_one_heartbeat_at_a_time(self) -> None:
        """While one is not answered, no other is sent."""
        self.table.join()
        for _ in range(20):
            self.table.tick(0.5)
        self.assertEqual(self.table.seen().count("WriteRecord"), 1)

    def test_notices(self) -> None:
        """The end of the lease is noticed, then that streams must end, and the new lease."""
        self.table.join()
        self.table.seen()
        self.table.tick(0.5)
        call = self.table.take(WriteRecord)
        seen = []
        for _ in range(11):
            self.table.tick(0.5)
            seen += [name for name in self.table.seen() if name != "SendPulse"]
        self.assertEqual(seen, [LeaseOver.__name__, StreamsMustEnd.__name__])
        self.members.written(call, 50, self.table.now)
        self.table.tick(0.1)
        self.members.written(self.table.take(WriteRecord), 51, self.table.now)
        self.table.take(LeaseRegained)
        self.assertTrue(self.writes(self.table.now))

    def with_b(self) -> None:
        self.table.store(B)
        self.table.join()
        self.table.beat()

    def test_bridge(self) -> None:
        """Without heartbeats, pulses that every other node echoes hold the lease, until `bridge` after the last heartbeat."""
        self.with_b()
        until = []
        for number in range(1, 60):
            self.table.tick(0.5)
            self.table.hear(number, self.table.pulse())
            until.append(self.members.lease_until)
        self.assertEqual(max(until), 100.5 + 15.0)
        self.assertEqual(until[4], 103.0 + 3.0)
        self.assertFalse(self.writes(115.6))

    def test_bridge_needs_every_node(self) -> None:
        """One node that does not echo ends it; a node alone has none."""
        self.table.store(NodeRecord("c", "c1", THERE, birth=2))
        self.with_b()
        for number in range(1, 20):
            self.table.tick(0.5)
            self.table.hear(number, self.table.pulse())
        self.assertEqual(self.members.lease_until, 103.5)

    def test_bridge_counts_from_the_sending(self) -> None:
        """An echo of an old pulse holds the lease as long as the pulse was young."""
        self.with_b()
        self.table.tick(0.5)
        first = self.table.pulse()
        self.table.tick(2.0)
        self.table.hear(1, first)
        self.assertEqual(self.members.lease_until, 104.0)
        self.table.hear(2, 99)
        self.assertEqual(self.members.lease_until, 104.0)

    def bridge_without(self, seconds: float, refused: bool = True) -> list[ProbeListener]:
        """Let b and c echo once, and then c alone for so long, without heartbeats. Answer all looks at the listener of b."""
        looks: list[ProbeListener] = []
        number, ends = 0, self.table.now + seconds
        while self.table.now < ends:
            self.table.tick(0.5)
            number += 1
            echo = self.table.pulse()
            self.table.hear(number, echo, "c1", "c")
            if number == 1:
                self.table.hear(number, echo)
            self.table.effects += self.members.effects()
            for look in [each for each in self.table.effects if isinstance(each, ProbeListener)]:
                self.table.effects.remove(look)
                looks.append(look)
                self.members.probed(look, refused, self.table.now)
        return looks

    def test_bridge_outlasts_a_death(self) -> None:
        """A node whose process is gone need not echo, if that was found while its last echo was younger than the lease."""
        self.table.store(NodeRecord("c", "c1", "192.0.2.3:5271", birth=2))
        self.with_b()
        (look,) = self.bridge_without(8.0)
        self.assertEqual((ProbeListener, "b", THERE, "b1"), (type(look), look.node, look.listener, look.identity))
        self.assertEqual(self.table.now + 3.0, self.members.lease_until)
        self.assertNotIn("WriteRecord", [name for name in self.table.seen() if name != "SendPulse"][1:])

    def test_bridge_after_a_death_and_a_heartbeat(self) -> None:
        """A list of nodes that still has the dead one does not need its echo again."""
        self.table.store(NodeRecord("c", "c1", "192.0.2.3:5271", birth=2))
        self.with_b()
        self.bridge_without(5.0)
        self.table.write()
        self.table.read_members()
        for number in range(20, 30):
            self.table.tick(0.5)
            self.table.hear(number, self.table.pulse(), "c1", "c")
        self.assertEqual(self.table.now + 3.0, self.members.lease_until)

    def test_bridge_and_a_node_that_does_not_refuse(self) -> None:
        """A silent node that may live must echo. Its listener is looked at again."""
        self.table.store(NodeRecord("c", "c1", "192.0.2.3:5271", birth=2))
        self.with_b()
        looks = self.bridge_without(8.0, refused=False)
        self.assertGreater(len(looks), 2)
        self.assertEqual(101.0 + 3.0, self.members.lease_until)

    def test_bridge_and_a_listener_that_proves_nothing(self) -> None:
        """A node must echo if its refused listener may be that of another machine: a name, every address, a loopback address."""
        for listener in ("node.example:5271", "0.0.0.0:5271", "[::]:5271", "127.0.0.2:5271"):
            self.setUp()
            self.table.store(NodeRecord("c", "c1", "192.0.2.3:5271", birth=2))
            self.table.store(replace(B, listener=listener))
            self.table.join()
            self.table.beat()
            looks = self.bridge_without(8.0)
            self.assertGreater(len(looks), 2, listener)
            self.assertEqual(101.0 + 3.0, self.members.lease_until, listener)

    def test_bridge_and_a_death_that_is_found_late(self) -> None:
        """A node whose echo was older than the lease when its listener refused may have declared this one dead before."""
        self.table.store(NodeRecord("c", "c1", "192.0.2.3:5271", birth=2))
        self.with_b()
        self.table.tick(0.5)
        echo = self.table.pulse()
        self.table.hear(1, echo)
        self.table.hear(1, echo, "c1", "c")
        for number in range(2, 5):
            self.table.tick(0.5)
            self.table.hear(number, self.table.pulse(), "c1", "c")
        look = self.table.take(ProbeListener)
        for number in range(5, 10):
            self.table.tick(0.5)
            self.table.hear(number, self.table.pulse(), "c1", "c")
        self.assertEqual(101.0 + 3.0, self.members.lease_until)
        self.members.probed(look, True, self.table.now)
        self.table.tick(0.1)
        self.assertFalse(self.writes(self.table.now))

    def test_bridge_and_a_successor(self) -> None:
        """A listener that refused says nothing of a session that began at its node meanwhile."""
        self.table.store(NodeRecord("c", "c1", "192.0.2.3:5271", birth=2))
        self.with_b()
        for number in range(1, 4):
            self.table.tick(0.5)
            self.table.hear(number, self.table.pulse(), "c1", "c")
            if number == 1:
                self.table.hear(number, self.table.pulse())
        self.table.tick(0.5)
        look = self.table.take(ProbeListener)
        self.table.changed(NodeRecord("b", "b2", THERE, birth=20))
        self.table.hear(1, self.table.pulse(), "b2")
        self.members.probed(look, True, self.table.now)
        self.assertNotIn("b2", self.members._gone)

    def test_lease_after_a_death_is_found(self) -> None:
        """The lease that the echoes of the others give counts as soon as the listener refuses, without another pulse."""
        self.table.store(NodeRecord("c", "c1", "192.0.2.3:5271", birth=2))
        self.with_b()
        for number in range(1, 5):
            self.table.tick(0.5)
            self.table.hear(number, self.table.pulse(), "c1", "c")
            if number == 1:
                self.table.hear(number, self.table.pulse())
        look = self.table.take(ProbeListener)
        self.assertEqual(101.0 + 3.0, self.members.lease_until)
        self.members.probed(look, True, self.table.now)
        self.assertEqual(102.5 + 3.0, self.members.lease_until)

    def test_no_look_for_the_bridge_while_heartbeats_are_acknowledged(self) -> None:
        """The bridge is not needed as long as heartbeats are acknowledged: only the reading of the record leads to a look."""
        self.table.store(NodeRecord("c", "c1", "192.0.2.3:5271", birth=2))
        self.with_b()
        self.table.tick(0.4)
        self.table.hear(1, self.table.pulse())
        for _ in range(5):
            self.table.tick(0.5)
            self.table.write()
        self.assertIn("ReadRecord", names := self.table.seen())
        self.assertNotIn("ProbeListener", names)

    def test_a_new_session_looks_again(self) -> None:
        """A look that was not answered before the session ended does not keep the next session from looking."""
        self.table.store(NodeRecord("c", "c1", "192.0.2.3:5271", birth=2))
        self.with_b()
        self.table.hear(1, self.table.pulse())
        self.silent_for(2.0)
        self.assertIn("ProbeListener", self.table.seen())
        self.table.changed(NodeRecord("a", "a1", HERE, birth=11, alive=False))
        for _ in range(2):  # the end of the session, and the birth of the next one
            self.table.tick()
            self.members.record_read(self.table.take(ReadRecord), self.table.entries["a"], self.table.now)
        self.table.write()
        self.table.read_members()
        self.table.tick()
        self.members.pulse_heard(Pulse("b", "b1", 2, {"a2": self.table.pulse()}).encode(), self.table.now)
        self.silent_for(2.0)
        self.assertIn("ProbeListener", self.table.seen())

    def silent_for(self, seconds: float) -> None:
        """Let time pass in which nothing is heard."""
        for _ in range(int(seconds / 0.5)):
            self.table.tick(0.5)

    def test_bridge_of_two_and_a_death(self) -> None:
        """A node alone has no bridge: the lease ends with the last echo."""
        self.with_b()
        self.table.tick(0.5)
        self.table.hear(1, self.table.pulse())
        self.table.tick(1.3)
        self.members.probed(self.table.take(ProbeListener), True, self.table.now)
        self.assertEqual(101.0 + 3.0, self.members.lease_until)

    def test_nodes_that_come_later_are_not_counted(self) -> None:
        """A list without the heartbeat is asked for again. One with a birth or death behind the heartbeat tells nothing."""
        self.table.store(B)
        self.table.join()
        self.table.beat()
        old = list(self.table.entries.values())
        self.table.tick(0.5)
        self.table.write()
        self.members.members_read(self.table.take(ReadMembers), old, self.table.now)
        self.table.tick(0.1)
        self.assertEqual(self.table.take(ReadMembers).sent, 101.0)
        for later in (NodeRecord("c", "c1", THERE), replace(B, alive=False)):
            self.setUp()
            self.with_b()
            self.table.tick(0.5)
            self.table.write()
            self.table.store(later)
            self.table.read_members()
            for number in range(1, 60):
                self.table.tick(0.5)
                self.table.hear(number, self.table.pulse())
            self.assertLessEqual(self.members.lease_until, 115.5)

    # --- burials ---

    def old(self) -> None:
        """Let the node be old enough to declare others dead; b was heard now."""
        self.with_b()
        for number in range(1, 41):
            self.table.beat()
            self.table.hear(number)
        self.table.changed(replace(B, beat=9))
        self.table.seen()

    def look(self, refused: bool) -> None:
        """Wait until b is looked into, and let its listener answer."""
        for _ in range(3):
            self.table.beat()
        self.members.record_read(self.table.take(ReadRecord), self.table.entries["b"], self.table.now)
        self.members.probed(self.table.take(ProbeListener), refused, self.table.now)

    def burial(self, within: float) -> WriteRecord | None:
        """Return the first burial within so many seconds of heartbeats."""
        for _ in range(round(within / 0.5)):
            self.table.tick(0.5)
            effects, self.table.effects = [*self.table.effects, *self.members.effects()], []
            for effect in effects:
                if isinstance(effect, WriteRecord) and effect.record.node == "b":
                    return effect
                if isinstance(effect, WriteRecord):
                    self.members.written(effect, self.table.store(effect.record).sequence, self.table.now)
                if isinstance(effect, ReadMembers):
                    self.members.members_read(effect, list(self.table.entries.values()), self.table.now)
        return None

    def test_refused(self) -> None:
        """A node whose listener refuses is declared dead at once, on the record that was read."""
        self.old()
        heard = self.table.now
        self.look(refused=True)
        call = self.table.take(WriteRecord)
        self.assertEqual((call.record, call.expected), (replace(B, beat=9, alive=False), self.table.entries["b"].sequence))
        self.assertLess(self.table.now, heard + 2.1)
        self.members.written(call, self.table.store(call.record).sequence, self.table.now)
        self.assertEqual(self.table.take(OtherEnded).node, "b")
        self.assertEqual(self.members.state_of(NodeSession("b", "b1", 1), self.table.now), "over")

    def test_loopback(self) -> None:
        """A loopback address that refuses is no proof unless all living nodes have one: it may be of another machine."""
        for here, third, proof in (("127.0.0.1:1", "[::1]:3", True), (HERE, "127.0.0.3:3", False), ("127.0.0.1:1", THERE, False)):
            self.setUp()
            self.members._listener = here
            self.old()
            self.table.changed(NodeRecord("c", "c1", third, birth=2))
            self.table.store(replace(B, beat=10, listener="127.0.0.2:2"))
            self.members.changed(self.table.entries["b"], self.table.now)
            self.table.seen()
            for _ in range(3):
                self.table.hear(self.table.sequence, identity="c1", node="c")
                self.table.beat()
            self.members.record_read(self.table.take(ReadRecord), self.table.entries["b"], self.table.now)
            self.members.probed(self.table.take(ProbeListener), True, self.table.now)
            self.assertEqual("WriteRecord" in self.table.seen(), proof, (here, third))

    def test_silent(self) -> None:
        """A node that does not refuse is waited for until its lease is over, and longer by the margin."""
        self.old()
        heard = self.table.now
        self.look(refused=False)
        self.assertEqual(self.members.state_of(NodeSession("b", "b1", 1), self.table.now), "silent")
        self.assertIsNotNone(self.burial(9))
        self.assertGreaterEqual(self.table.now, heard + 3.3)
        self.assertLess(self.table.now, heard + 4.0)

    def test_heard_again(self) -> None:
        """A pulse or heartbeat after the reading saves it, even if its listener refuses."""
        for refused in (True, False):
            self.setUp()
            self.old()
            self.table.tick(1.3)
            self.members.record_read(self.table.take(ReadRecord), self.table.entries["b"], self.table.now)
            self.table.hear(50)
            self.members.probed(self.table.take(ProbeListener), refused, self.table.now)
            self.assertIsNone(self.burial(1.0))

    def test_newer_record(self) -> None:
        """A heartbeat that is found at the reading counts as heard then."""
        self.old()
        self.table.tick(1.3)
        call = self.table.take(ReadRecord)
        self.members.record_read(call, self.table.store(replace(B, beat=10)), self.table.now)
        read = self.table.now
        self.members.probed(self.table.take(ProbeListener), False, self.table.now)
        self.assertIsNotNone(self.burial(9))
        self.assertGreaterEqual(self.table.now, read + 3.3)

    def test_young_nodes_declare_nobody_dead(self) -> None:
        """A young session waits; a refused listener is no doubt even for it."""
        self.with_b()
        self.look(refused=False)
        self.assertIsNone(self.burial(15.0))
        self.assertIsNotNone(self.burial(6.0))
        self.setUp()
        self.with_b()
        self.look(refused=True)
        self.assertEqual(self.table.take(WriteRecord).record.node, "b")

    def test_needs_a_lease_by_heartbeats(self) -> None:
        """Without acknowledged heartbeats a node declares no node dead, and examines none."""
        self.old()
        self.look(refused=False)
        for _ in range(5):
            self.table.tick(3.1)
        self.assertNotIn("b", [effect.record.node for effect in self.members.effects() if isinstance(effect, WriteRecord)])

    def test_no_echo_while_it_is_declared_dead(self) -> None:
        """From the decision on, no pulse of the session is echoed, until the engine has refused the burial."""
        def echoes() -> dict[str, int]:
            self.table.tick(0.5)
            return dict(self.table.last_pulse().heard)

        self.old()
        self.assertEqual(echoes(), {"b1": 40})
        self.look(refused=True)
        call: Any = self.table.take(WriteRecord)
        self.table.hear(42)
        self.assertEqual(echoes(), {})
        self.members.not_written(call, True, self.table.now)
        self.assertEqual(echoes(), {"b1": 42})

    # --- what others ask ---

    def test_states(self) -> None:
        """A session is over if a record says so that is not older than its birth; else nothing is known."""
        session = self.table.join()
        self.table.changed(replace(B, birth=1))
        state = self.members.state_of
        now, sequence = self.table.now, self.table.sequence
        self.assertEqual(state(session, now), "own")
        self.assertEqual(state(NodeSession("b", "b1", 1), now), "alive")
        self.assertEqual(state(NodeSession("b", "b0", 1), now), "over")
        self.assertEqual(state(NodeSession("b", "b2", sequence + 1), now), "unknown")
        self.assertEqual(state(NodeSession("c", "c1", 1), now), "unknown")
        self.assertEqual(state(NodeSession("a", "a0", 1), now), "over")
        self.assertEqual(state(NodeSession("a", "a9", 99), now), "unknown")

    def test_live_nodes(self) -> None:
        """Nodes that drain, are silent, or have no lease take no peers."""
        self.table.join()
        self.table.changed(B)
        self.table.changed(NodeRecord("c", "c1", THERE, draining=True))
        self.assertEqual(self.members.live_nodes(self.table.now), ["a", "b"])
        self.assertEqual(self.members.live_nodes(self.table.now + 1.3), ["a"])
        self.assertEqual(self.members.others(self.table.now), [("b", THERE, "alive"), ("c", THERE, "alive")])
        self.assertEqual(self.members.others(self.table.now + 1.3), [("b", THERE, "silent"), ("c", THERE, "silent")])
        self.assertLessEqual(self.members.heartbeat_at, self.table.now)
        self.members.drain()
        self.assertEqual(self.members.live_nodes(self.table.now), ["b"])
        self.assertEqual((self.members.listener_of("b"), self.members.listener_of("d")), (THERE, None))

    def test_differing(self) -> None:
        """Living nodes with other settings are named."""
        self.table.join()
        self.table.changed(B)
        self.table.changed(NodeRecord("c", "c1", THERE, settings="s"))
        self.assertEqual(self.members.differing(), ["b"])

    def test_leave(self) -> None:
        """Leaving ends the lease at once, and then the session; nothing follows."""
        self.table.join()
        self.members.leave()
        self.assertFalse(self.writes(self.table.now))
        self.table.tick(0.1)
        self.assertFalse(self.table.write().record.alive)
        self.table.take(MembershipLeft)
        self.table.seen()
        self.table.tick(1.0)
        self.assertEqual(self.table.seen(), [])

    def test_leave_behind_a_heartbeat(self) -> None:
        """A heartbeat that is under way is waited for, and brings no lease."""
        self.table.join()
        self.table.tick(0.5)
        call = self.table.take(WriteRecord)
        self.members.leave()
        self.table.tick(0.5)
        self.members.written(call, self.table.store(call.record).sequence, self.table.now)
        self.assertFalse(self.writes(self.table.now))
        self.table.tick(0.1)
        self.assertFalse(self.table.write().record.alive)
        self.table.take(MembershipLeft)

    def test_leave_before_joining(self) -> None:
        """A node that is no member leaves at once."""
        self.members.start()
        self.members.leave()
        self.table.tick(0.1)
        self.table.take(MembershipLeft)

    def test_foreign_bytes(self) -> None:
        """Unreadable records change nothing."""
        self.table.join()
        self.table.changed(B)
        self.members.pulse_heard(b"?", self.table.now)
        self.members.pulse_heard(Pulse("b", "b1", 7, {"x" * PULSE_BYTES: 1}).encode(), self.table.now)
        self.table.tick(0.5)
        self.assertEqual(self.table.last_pulse().heard, {})
        for data in (b"?", None, replace(B, node="x").encode()):
            self.members.changed(Entry("node.b", 99, data), self.table.now)
        self.assertEqual(self.members.live_nodes(self.table.now), ["a", "b"])
