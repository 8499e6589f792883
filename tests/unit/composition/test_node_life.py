"""Tests of the life of a node: nodes on the engine in memory, with doors that note what is asked of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.engine import EngineFull, EngineGone, EngineUnfit
from s2sgw.cluster.home_table import HomeTable
from s2sgw.cluster.homes import ClusterHomes
from s2sgw.cluster.members import LeaseRegained, Members, SessionEnded
from s2sgw.cluster.membership import Membership
from s2sgw.cluster.new_homes import NewHomes
from s2sgw.cluster.shared_book import SharedBook
from s2sgw.cluster.shared_denials import SharedDenials
from s2sgw.cluster.shared_holds import SharedHolds
from s2sgw.cluster.shared_keys import SharedKeys
from s2sgw.cluster.shared_pending import SharedPending
from s2sgw.cluster.shared_proofs import SharedProofs
from s2sgw.cluster.shared_settings import SettingsGuard, SharedSettings
from s2sgw.composition.cluster import ClusterParts, MembershipNotices
from s2sgw.composition.node_life import ELECTION_SECONDS, NO_LEADERS, READ_AGAIN, NodeLife
from s2sgw.composition.node_listener import NodeDoor
from s2sgw.composition.returned_stanzas import ReturnedStanzas
from s2sgw.delivery.holds import HoldTarget
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.cluster_node import Custody, Probe
from tests.support.coroutines import now
from tests.support.memory_engine import MemoryEngine, MemoryStore
from tests.unit.composition.test_returned_stanzas import PAIR, Queues, stanza

PEER = Domain.parse("peer.example")
SAME = SharedSettings({"gateway.domains": "1"}, 18.3)
#: the events of a node that joins
JOINED = ["engine opened", "streams enlarged", "port opened", "open"]


def home(pair: Pair) -> Domain:
    return pair.sender


async def _result(answer: Deferred[bool]) -> bool:
    return await answer


class OpenedEngine(MemoryEngine):
    """An engine in memory that is opened first. `unfit`: why it cannot be."""

    unfit: EngineUnfit | None = None

    def __init__(self, store: MemoryStore, events: list[str]) -> None:
        super().__init__(store)
        self.events = events

    async def open(self, seconds: float) -> None:
        self.events.append("engine opened")
        if self.unfit is not None:
            raise self.unfit

    async def enlarge(self, seconds: float) -> None:
        self.events.append("streams enlarged")

    async def elected(self, seconds: float) -> bool:
        return True

    async def close(self) -> None:
        self.events.append("engine closed")
        await super().close()


class Port:
    """The listener for nodes."""

    error: Exception | None = None

    def __init__(self, events: list[str]) -> None:
        self.events = events

    async def open(self) -> None:
        if self.error is not None:
            raise self.error
        self.events.append("port opened")

    def refuse(self) -> None:
        self.events.append("port refuses")

    def close(self) -> Deferred[None]:
        self.events.append("port closed")
        return succeed(None)


class Life:
    """The node `name`, and the doors that it opens and closes."""

    def __init__(self, name: str, store: MemoryStore, clock: Clock, place: str = "", settings: SharedSettings = SAME) -> None:
        self.events: list[str] = []
        self.engine = OpenedEngine(store, self.events)
        self.custody = Custody()
        place = place or f"192.0.2.{ord(name) - 96}:5271"
        identities = iter(f"{name}{number}" for number in range(1000))
        self.members = Members(name, place, lambda: next(identities))
        notices = MembershipNotices()
        membership = Membership(self.members, self.engine, Probe(), notices, clock)
        self.homes = notices.homes = ClusterHomes(HomeTable(name, self.members), self.members, self.engine, self.custody, clock)
        may, secret = membership.may_write, b"secret"
        self.holds = SharedHolds(self.engine, clock, may, home, self.events.append)
        keys = SharedKeys(self.engine, clock, may, secret, self.events.append)
        pending = SharedPending(self.engine, clock, may, secret, self.events.append)
        proofs = SharedProofs(self.engine, clock, may, secret, self.events.append)
        self.book = SharedBook(self.holds, keys, pending, proofs, SharedDenials(self.engine, clock, may, self.events.append, clock))
        self.queues = Queues()
        self.returned = ReturnedStanzas(self.homes, self.members, self.engine, self.queues, home, clock)
        door = SimpleNamespace(node_ended=self.node_ended, leave=self.door_left, close=self.door_closed)
        parts = ClusterParts(
            name, cast(Any, SimpleNamespace(close=self.loop_closed)), cast(Any, self.engine), cast(Any, None), self.members,
            membership, notices, cast(Any, None), SettingsGuard(self.engine, name, settings, clock), self.book,
            NewHomes(), self.homes, self.returned,
        )
        self.life = NodeLife(parts, Port(self.events), cast(NodeDoor, door), HostPort.parse(place, 0), self, clock)
        self.joining = Deferred.fromCoroutine(self.life.join())

    def node_ended(self, node: str) -> None:
        self.events.append(f"{node} ended")

    def door_left(self) -> Deferred[None]:
        self.events.append("door left")
        return succeed(None)

    def door_closed(self) -> None:
        self.events.append("door closed")

    def loop_closed(self) -> None:
        self.events.append("loop closed")

    def open_doors(self) -> None:
        self.events.append("open")

    def close_doors(self) -> None:
        self.events.append("close")

    def give_up(self, why: str) -> None:
        self.events.append(f"give up: {why}")

    @property
    def taken(self) -> list[str]:
        """Take the events since the last look."""
        events = self.events.copy()
        self.events.clear()
        return events

    def stop(self) -> Deferred[None]:
        async def stop() -> None:
            await self.life.drain()
            await self.life.leave()

        return Deferred.fromCoroutine(stop())


class LifeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore()
        self.reports: list[str] = []

    def node(self, name: str, place: str = "", settings: SharedSettings = SAME) -> Life:
        return Life(name, self.store, self.clock, place, settings)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            self.clock.advance(0.05)

    def joined(self, *names: str) -> list[Life]:
        """Return nodes that are members, and old enough to declare others dead."""
        nodes = [self.node(name) for name in names]
        self.pass_time(20.0)
        for node in nodes:
            self.assertEqual(JOINED, node.taken)
            self.assertEqual("", node.life.why_closed)
        return nodes

    # --- the start ---

    def test_join(self) -> None:
        """The listener for nodes opens before the node is a member, and the doors open when it is one."""
        self.joined("a", "b")

    def test_engine_unfit(self) -> None:
        """An engine that does not fit ends the start, with nothing opened."""
        reason = EngineUnfit("the engine is NATS 2.9")
        self.patch(OpenedEngine, "unfit", reason)
        node = self.node("a")
        self.assertIs(reason, self.failureResultOf(node.joining, EngineUnfit).value)
        self.assertEqual(["engine opened"], node.taken)

    def test_other_settings(self) -> None:
        """A node with other settings opens nothing, and changes nothing in the engine."""
        self.joined("a")
        other = self.node("b", settings=SharedSettings({"gateway.domains": "2"}))
        self.pass_time(1.5)
        self.assertIn("gateway.domains", str(self.failureResultOf(other.joining, EngineUnfit).value))
        self.assertEqual(["engine opened"], other.taken)

    def test_loopback(self) -> None:
        """A node on loopback cannot be reached by others, and gives up."""
        self.joined("a")
        other = self.node("b", place="127.0.0.1:5271")
        self.pass_time(1.0)
        (event,) = other.taken[3:]
        self.assertIn("give up: cluster.listen is 127.0.0.1:5271, and node a is at 192.0.2.1:5271", event)

    def test_settings_of_killed_nodes(self) -> None:
        """After all nodes were killed one starts with other settings. A killed one that wakes is refused."""
        a, b = self.joined("a", "b")
        a.engine.cut()
        b.engine.cut()
        changed = SharedSettings({"gateway.domains": "2"}, 18.3)
        other = self.node("c", settings=changed)
        self.pass_time(18.0)
        self.assertEqual(["engine opened"], other.taken)
        self.pass_time(3.0)
        self.assertEqual(JOINED[1:], other.taken)
        a.engine.go_on()
        self.pass_time(3.0)
        self.assertIn("as on c:", a.events[-1])
        self.assertEqual([], other.taken)

    def test_port_taken(self) -> None:
        """A port that is taken names the key."""
        self.patch(Port, "error", CannotListenError("192.0.2.1", 5271, OSError(98, "Address already in use")))
        node = self.node("a")
        self.assertIn("cluster.listen: Couldn't listen on 192.0.2.1:5271", str(self.failureResultOf(node.joining, EngineUnfit).value))

    # --- the lease ---

    def test_lease(self) -> None:
        """The doors stay open for 2 s without a lease, then they close. With the lease they open again."""
        (node,) = self.joined("a")
        node.engine.cut()
        self.pass_time(3.6)
        self.assertEqual([], node.taken)
        self.assertIn("engine", node.life.why_closed)
        self.pass_time(2.0)
        self.assertEqual(["door closed", "close"], node.taken)
        node.engine.go_on()
        self.pass_time(2.0)
        self.assertEqual(["open"], node.taken)
        self.assertEqual("", node.life.why_closed)

    def test_many_peers_are_dropped(self) -> None:
        """The doors open when all peers of the old session are dropped."""
        a, _ = self.joined("a", "b")
        self.successResultOf(Deferred.fromCoroutine(a.homes.claim(PEER)))
        a.engine.cut()
        self.pass_time(6.0)
        self.assertEqual(["door closed", "close"], a.taken)
        dropped: Deferred[None] = Deferred()
        with mock.patch.object(a.homes, "dropped", return_value=dropped):
            a.engine.go_on()
            self.pass_time(2.0)
        self.assertNotIn("open", a.taken)
        dropped.callback(None)
        self.assertIn("open", a.taken)

    def test_declared_dead(self) -> None:
        """A node that was declared dead closes its doors, drops its peers, and opens the doors again as a new session."""
        a, b = self.joined("a", "b")
        self.successResultOf(Deferred.fromCoroutine(a.homes.claim(PEER)))
        a.engine.cut()
        self.pass_time(6.0)
        self.assertEqual(["door closed", "close"], a.taken)
        self.assertEqual(["a ended"], b.taken)
        a.engine.go_on()
        self.pass_time(2.0)
        self.assertEqual(["door closed", "close", "open"], a.taken)
        self.assertEqual([PEER], a.custody.dropped)

    def test_what_operators_decided(self) -> None:
        """The doors open when all is known that operators have decided, also after a while without the lease."""
        elsewhere = SharedHolds(MemoryEngine(self.store), self.clock, lambda: True, home, self.reports.append)
        elsewhere.table.start()
        now(elsewhere.add(HoldTarget(peer=PEER)))
        tell, known = MemoryEngine.tell_watches, []
        self.patch(MemoryEngine, "tell_watches", lambda engine, late=False: tell(engine, late) if late else None)
        self.patch(Life, "open_doors", lambda node: known.append(list(node.holds)))
        node = self.node("b")
        self.pass_time(5.0)
        self.assertEqual([[HoldTarget(peer=PEER)]], known)
        node.engine.cut()
        self.pass_time(3.5)
        now(elsewhere.discard(HoldTarget(peer=PEER)))
        self.assertEqual(1, len(list(node.holds)))
        node.engine.go_on()
        self.pass_time(2.0)
        self.assertEqual([[HoldTarget(peer=PEER)], []], known)
        self.assertEqual("", node.life.why_closed)

    def test_restored(self) -> None:
        """The doors open when what this node has kept is shared. It is tried again."""
        tried: list[object] = []

        async def restore(book: SharedBook) -> None:
            tried.append(book)
            if len(tried) < 3:
                raise OSError("the engine does not answer")

        self.patch(SharedBook, "restore", restore)
        node = self.node("a")
        self.pass_time(READ_AGAIN)
        self.assertEqual((2, JOINED[:-1]), (len(tried), node.events))
        self.pass_time(2 * READ_AGAIN)
        self.assertEqual((3, JOINED), (len(tried), node.taken))

    def test_doors_after_errors(self) -> None:
        """Every error that keeps the doors closed is met with another attempt: a full engine, a full disk, and a fault of the program, which is logged."""
        errors = [EngineFull("full"), OSError("the disk is full"), RuntimeError("broken"), None]
        tried: list[float] = []

        async def fail(part: object, birth: int = 1) -> None:
            if not birth:
                return  # the node has not joined yet
            tried.append(self.clock.seconds())
            error = errors[len(tried) - 1]
            if error is not None:
                raise error

        self.patch(SettingsGuard, "agree", lambda guard, birth=0: fail(guard, birth))
        node = self.node("a")
        self.pass_time(3 * READ_AGAIN + 0.5)
        self.assertEqual((4, JOINED, ""), (len(tried), node.taken, node.life.why_closed))
        self.assertEqual((1, 1), (node.life._parts.membership.failures.number, len(self.flushLoggedErrors(RuntimeError))))
        tried.clear()
        node.engine.cut()
        self.pass_time(6.0)
        node.taken  # noqa: B018
        self.patch(SharedBook, "current", fail)
        node.engine.go_on()
        self.pass_time(4 * READ_AGAIN)
        self.assertEqual((4, ["open"], ""), (len(tried), node.taken, node.life.why_closed))
        self.assertEqual((2, 1), (node.life._parts.membership.failures.number, len(self.flushLoggedErrors(RuntimeError))))

    def test_stops_before_it_is_admitted(self) -> None:
        """A node that stops while it waits for the engine stops without an error, and tries nothing more."""
        tried: list[Deferred[None]] = []

        async def wait(guard: object, birth: int = 0) -> None:
            if birth:
                tried.append(Deferred())
                await tried[-1]

        self.patch(SettingsGuard, "agree", wait)
        node = self.node("a")
        self.pass_time(1.0)
        stopped = node.stop()
        self.pass_time(5.0)
        self.successResultOf(stopped)
        self.assertEqual((1, 0), (len(tried), node.life._parts.membership.failures.number))

    def test_lease_before_the_settings(self) -> None:
        """After the end of a session a lease opens no door before the settings were compared again."""
        (node,) = self.joined("a")
        session = node.members.session
        assert session is not None
        node.life._noticed(SessionEnded(session))
        node.life._noticed(LeaseRegained())
        self.assertEqual(["door closed", "close"], node.taken)

    def test_settings_changed_meanwhile(self) -> None:
        """A node that was declared dead, and whose settings are not those of the others any more, gives up."""
        a, _ = self.joined("a", "b")
        a.engine.cut()
        self.pass_time(6.0)
        changed = SharedSettings({"gateway.domains": "2"})
        entry = self.store.content.table["cluster"]
        self.store.put("cluster", changed.encode(), entry.sequence)
        a.taken  # noqa: B018
        a.engine.go_on()
        self.pass_time(2.0)
        self.assertEqual(["door closed", "close"], a.events[:2])
        self.assertIn("give up: gateway.domains", a.events[2])

    # --- a lost store ---

    def test_lost_record(self) -> None:
        """A node whose record is gone from the engine gives up after a while, in words. It is never waited for in vain."""
        a, b = self.joined("a", "b")
        self.store.content.table.clear()
        self.pass_time(20.0)
        self.assertFalse(any("give up" in event for event in a.events + b.events))
        self.pass_time(10.0)
        for node in (a, b):
            (event,) = [event for event in node.taken if "give up" in event]
            self.assertIn("the engine has lost the record of this node, so this node ends. Started again, it makes the streams", event)

    def test_lost_stream(self) -> None:
        """The same of a stream, although the node's own record is there."""
        (node,) = self.joined("a")
        self.store.missing.append("S2SGW_SPOOL_3")
        node.engine.lose_answers()
        self.pass_time(4.0)
        node.engine.go_on()
        self.patch(OpenedEngine, "stalled", True)
        self.pass_time(30.0)
        self.assertIn("the engine has lost the stream S2SGW_SPOOL_3,", node.taken[-1])

    def test_cut_off_is_no_loss(self) -> None:
        """A node that is cut off for long, and one that was declared dead, lost nothing."""
        a, _ = self.joined("a", "b")
        a.engine.cut()
        self.pass_time(60.0)
        a.engine.go_on()
        self.pass_time(30.0)
        self.assertEqual(["door closed", "close", "door closed", "close", "open"], a.taken)

    def test_lost_at_the_stop(self) -> None:
        """A node that has left looks no more."""
        (node,) = self.joined("a")
        stopped = node.stop()
        self.pass_time(1.0)
        self.successResultOf(stopped)
        node.taken  # noqa: B018
        self.store.missing.append("S2SGW_NODES")
        self.pass_time(60.0)
        self.assertEqual([], node.taken)

    # --- the stop ---

    def test_stop(self) -> None:
        """At a stop peers are given up, the others are told, and the engine closes last. The doors are not touched."""
        a, b = self.joined("a", "b")
        self.successResultOf(Deferred.fromCoroutine(a.homes.claim(PEER)))
        stopped = a.stop()
        self.pass_time(2.0)
        self.successResultOf(stopped)
        self.assertEqual(([PEER], ["door left", "port refuses", "door closed", "port closed", "engine closed", "loop closed"]), (a.custody.closed, a.taken))
        self.assertEqual(["a ended"], b.taken)
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(b.homes.claim(PEER))))

    def test_stop_during_an_election(self) -> None:
        """Peers are served until the engine has leaders: no home can be released or claimed before. Then the next node gets them at once."""
        a, b = self.joined("a", "b")
        self.successResultOf(Deferred.fromCoroutine(a.homes.claim(PEER)))
        election: Deferred[bool] = Deferred()
        self.patch(a.engine, "elected", lambda seconds: _result(election))
        stopped = a.stop()
        self.pass_time(ELECTION_SECONDS - 1)
        self.assertEqual(([], True, ["a", "b"]), (a.custody.closed, a.homes.table.open(PEER), b.members.live_nodes(self.clock.seconds())))
        election.callback(True)
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(b.homes.claim(PEER))))
        self.pass_time(2.0)
        self.successResultOf(stopped)
        self.assertEqual([PEER], a.custody.closed)

    def test_stop_during_a_long_election(self) -> None:
        """An election is waited for in a bounded time. The other nodes know then that this one takes no peers."""
        a, b = self.joined("a", "b")
        self.successResultOf(Deferred.fromCoroutine(a.homes.claim(PEER)))
        closing: Deferred[bool] = Deferred()
        self.patch(a.engine, "elected", lambda seconds: _result(Deferred()))
        self.patch(a.custody, "close", lambda peer: _result(closing))
        stopped = a.stop()
        self.pass_time(ELECTION_SECONDS + 1)
        self.assertEqual((False, ["b"]), (a.homes.table.open(PEER), b.members.live_nodes(self.clock.seconds())))
        closing.callback(True)
        self.pass_time(2.0)
        self.successResultOf(stopped)

    def test_stop_without_leaders(self) -> None:
        """If the engine has no leaders when the wait is over, or does not answer, the log says so once, and the peers are given up."""
        for name, answer in (("a", succeed(False)), ("b", Deferred[bool]())):
            (a,) = self.joined(name)
            self.successResultOf(Deferred.fromCoroutine(a.homes.claim(PEER)))
            self.patch(a.engine, "elected", lambda seconds, answer=answer: _result(answer))
            with capturedLogs() as logs:
                stopped = a.stop()
                self.pass_time(ELECTION_SECONDS + 2.0)
            self.successResultOf(stopped)
            self.assertEqual([PEER], a.custody.closed)
            self.assertEqual([NO_LEADERS], [each["detail"] for each in logs if each.get("event") == "not in time"])

    def test_lease_ends_in_an_election(self) -> None:
        """A node whose lease ends while it waits for an election gives no peer up."""
        a, _ = self.joined("a", "b")
        self.successResultOf(Deferred.fromCoroutine(a.homes.claim(PEER)))
        self.patch(a.engine, "elected", lambda seconds: _result(Deferred()))
        stopped = a.stop()
        a.engine.cut()
        self.pass_time(35.0)
        self.successResultOf(stopped)
        self.assertEqual([], a.custody.closed)

    def test_given_back_at_the_stop(self) -> None:
        """A stanza that comes during a stop, and may enter no queue here, is answered by another node before this one leaves."""
        a, b = self.joined("a", "b")
        a.returned.give_back(PAIR, [stanza("1")], Cause.SHUTDOWN)
        stopped = a.stop()
        self.pass_time(3.0)
        self.successResultOf(stopped)
        self.assertEqual((["1"], []), ([each for _, each, _ in b.queues.errors], a.queues.errors))
        self.assertTrue(b.homes.table.owns(PEER))

    def test_stop_without_engine(self) -> None:
        """A stop without the engine takes a bounded time."""
        (node,) = self.joined("a")
        node.engine.cut()
        stopped = node.stop()
        self.pass_time(40.0)
        self.successResultOf(stopped)
        self.assertEqual(["door left", "port refuses", "door closed", "port closed", "engine closed", "loop closed"], node.taken)

    def test_stop_without_lease(self) -> None:
        """Without a lease no peer is given up: another node may be its home already."""
        a, _ = self.joined("a", "b")
        self.successResultOf(Deferred.fromCoroutine(a.homes.claim(PEER)))
        a.engine.cut()
        self.pass_time(6.0)
        a.taken  # noqa: B018
        stopped = a.stop()
        self.pass_time(20.0)
        self.successResultOf(stopped)
        self.assertEqual(([], ["port refuses", "door closed", "port closed", "engine closed", "loop closed"]), (a.custody.closed, a.taken))

    def test_stop_before_join(self) -> None:
        """A stop while the engine does not answer the first question ends everything."""
        store = MemoryStore()
        waiting: Deferred[None] = Deferred()

        async def slow(engine: OpenedEngine, seconds: float) -> None:
            await waiting

        self.patch(OpenedEngine, "open", slow)
        node = Life("a", store, self.clock)
        stopped = node.stop()
        self.pass_time(20.0)
        self.successResultOf(stopped)
        waiting.callback(None)
        self.failureResultOf(node.joining, EngineGone)
        self.assertNotIn("port opened", node.events)
