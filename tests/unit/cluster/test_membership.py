"""The membership of nodes on the engine in memory."""

from __future__ import annotations

from typing import Any
from unittest import mock

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import NoRouteError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster import membership
from s2sgw.cluster.engine import EngineFull, Entry
from s2sgw.cluster.membership import TCPProbe
from s2sgw.cluster.node_records import node_key
from tests.support.cluster_node import Nodes


class MembershipTests(SynchronousTestCase):
    """Three nodes."""

    def test_all_live(self) -> None:
        """Nodes join, beat, and stay."""
        nodes = Nodes()
        self.assertEqual([node.notices for node in nodes.nodes.values()], [["SessionBegan"]] * 3)
        self.assertEqual(nodes["b"].members.live_nodes(nodes.clock.seconds()), ["a", "b", "c"])
        self.assertTrue(nodes["a"].may_write)

    def test_dead(self) -> None:
        """A node whose process is gone is declared dead within 2 seconds, another one within 4. Each node is told once."""
        for gone, within in ((True, 2.0), (False, 4.0)):
            nodes = Nodes()
            nodes.die("a") if gone else nodes["a"].die()
            nodes.pass_time(0.6)
            self.assertEqual(nodes["b"].notices, ["SessionBegan"])
            nodes.pass_time(within - 0.6)
            self.assertEqual([nodes[name].notices for name in "bc"], [["SessionBegan", "OtherEnded"]] * 2)
            self.assertTrue(gone or not nodes["a"].may_write)

    def test_comes_back(self) -> None:
        """A node that was cut off stops, is declared dead, and begins a new session when it is back."""
        nodes = Nodes()
        nodes["a"].engine.cut()
        nodes.pass_time(3.0)
        self.assertEqual((nodes["a"].may_write, nodes["b"].may_write, nodes["b"].notices), (False, True, ["SessionBegan"]))
        nodes.pass_time(5.0)
        self.assertEqual(nodes["a"].notices, ["SessionBegan", "LeaseOver", "StreamsMustEnd"])
        self.assertEqual(nodes["b"].notices, ["SessionBegan", "OtherEnded"])
        nodes["a"].engine.go_on()
        nodes.pass_time(1.0)
        self.assertEqual(nodes["a"].notices[3:], ["SessionEnded", "SessionBegan"])
        self.assertTrue(nodes["a"].may_write)

    def test_writes_without_the_timer(self) -> None:
        """A process that was stopped may not write when it wakes, before any timer has run."""
        nodes = Nodes("a")
        nodes.clock.rightNow += 3.1
        self.assertFalse(nodes["a"].may_write)

    def test_engine_refuses(self) -> None:
        """A full engine costs the lease, and nothing else: later the same session goes on."""
        nodes = Nodes("a")
        nodes["a"].engine.refuse(EngineFull("full"))
        nodes.pass_time(3.5)
        self.assertFalse(nodes["a"].may_write)
        nodes["a"].engine.go_on()
        nodes.pass_time(1.0)
        self.assertTrue(nodes["a"].may_write)
        self.assertNotIn("SessionEnded", nodes["a"].notices)

    def test_lost_answer(self) -> None:
        """A heartbeat whose answer is lost renews no lease, and ends no session when it is known to be written."""
        nodes = Nodes("a")
        nodes["a"].engine.lose_answers()
        nodes.pass_time(4.0)
        self.assertFalse(nodes["a"].may_write)
        nodes["a"].engine.go_on()
        nodes.pass_time(0.2)
        self.assertTrue(nodes["a"].may_write)
        self.assertNotIn("SessionEnded", nodes["a"].notices)

    def test_election(self) -> None:
        """While no node can write to the engine, pulses hold the leases of all."""
        nodes = Nodes()
        for node in nodes.nodes.values():
            node.engine.lose_answers()
        nodes.pass_time(14.0)
        self.assertEqual([node.may_write for node in nodes.nodes.values()], [True] * 3)
        nodes.pass_time(3.0)
        self.assertEqual([node.may_write for node in nodes.nodes.values()], [False] * 3)
        for node in nodes.nodes.values():
            node.engine.go_on()
        nodes.pass_time(1.0)
        self.assertEqual([node.notices[0] for node in nodes.nodes.values() if node.may_write], ["SessionBegan"] * 3)

    def test_leave(self) -> None:
        """A node that leaves tells it, and its membership ends."""
        nodes = Nodes()
        nodes["a"].membership.leave()
        nodes.pass_time(0.2)
        self.assertEqual((nodes["a"].notices[-1], nodes["b"].notices[-1]), ("MembershipLeft", "OtherEnded"))
        nodes["a"].membership.stop()
        nodes["a"].membership.stop()

    def test_fault_in_a_tick(self) -> None:
        """An error is logged, and the next tick goes on."""
        nodes = Nodes("a")
        with mock.patch.object(nodes["a"].members, "tick", side_effect=RuntimeError("broken")):
            nodes.pass_time(0.2)
        self.assertLess(0, len(self.flushLoggedErrors(RuntimeError)))
        nodes.pass_time(4.0)
        self.assertTrue(nodes["a"].may_write)

    def test_unexpected_errors(self) -> None:
        """A call that fails by a fault of the program is logged and made again, each of them: the node goes on beating and looking."""
        for name in ("put", "get", "entries"):
            nodes = Nodes("ab")
            with mock.patch.object(nodes["a"].engine, name, side_effect=RuntimeError("broken")):
                nodes.pass_time(0.6)
                nodes["a"].members.changed(Entry(node_key("a"), 10_000, None), nodes.clock.seconds())
                nodes.pass_time(1.0)
            self.assertLess(0, len(self.flushLoggedErrors(RuntimeError)), name)
            nodes.pass_time(5.0)
            self.assertTrue(nodes["a"].may_write, name)
            nodes["b"].engine.cut()
            nodes.pass_time(5.0)
            self.assertIn("OtherEnded", nodes["a"].notices, name)

    def test_probe_fails(self) -> None:
        """A probe that fails by a fault of the program proves nothing, and the node is waited for."""
        nodes = Nodes("ab")
        with mock.patch.object(nodes.probe, "refused", side_effect=RuntimeError("broken")):
            nodes["b"].die()
            nodes.pass_time(2.0)
            self.assertNotIn("OtherEnded", nodes["a"].notices)
            nodes.pass_time(3.0)
        self.assertIn("OtherEnded", nodes["a"].notices)
        self.assertLess(0, len(self.flushLoggedErrors(RuntimeError)))

    def test_stops_while_a_call_waits(self) -> None:
        """A node that stops while the engine does not answer logs no fault of the program."""
        nodes = Nodes("a")
        nodes["a"].engine.hold()
        nodes.pass_time(0.6)
        nodes["a"].membership.stop()
        self.assertEqual((0, []), (nodes["a"].membership.failures.number, self.flushLoggedErrors()))

    def test_user_fails(self) -> None:
        """A notice that cannot be followed is logged, and the membership goes on."""
        nodes = Nodes("ab")
        def broken(notice: Any) -> None:
            raise RuntimeError("broken")

        nodes["b"].noticed = broken  # type: ignore[method-assign]
        nodes.die("a")
        nodes.pass_time(3.0)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertTrue(nodes["b"].may_write)


class TCPProbeTests(SynchronousTestCase):
    """Whether a listener has a process."""

    def probe(self, listener: str, error: Exception | None) -> list[bool]:
        reactor = MemoryReactorClock()
        answers: list[bool] = []
        Deferred.fromCoroutine(TCPProbe(reactor).refused(listener)).addCallback(answers.append)
        if reactor.tcpClients:
            _, port, factory, timeout, _ = reactor.tcpClients[0]
            self.assertEqual((port, timeout), (5271, membership.PROBE_SECONDS))
            connector = reactor.connectors[0]
            if error is not None:
                factory.clientConnectionFailed(connector, Failure(error))
            else:
                protocol = factory.buildProtocol(IPv4Address("TCP", listener, 5271))
                assert protocol is not None
                protocol.makeConnection(StringTransport())
        return answers

    def test_answers(self) -> None:
        """Only a refusal by the machine itself says that there is no process; a name could stand for several machines."""
        for listener in ("192.0.2.1:5271", "[2001:db8::1]:5271"):
            self.assertEqual(self.probe(listener, Refused()), [True])
            self.assertEqual(self.probe(listener, NoRouteError()), [False])
            self.assertEqual(self.probe(listener, None), [False])
        for listener in ("node.example:5271", "0.0.0.0:5271", "[::]:5271", "[::ffff:0.0.0.0]:5271"):
            self.assertEqual(self.probe(listener, Refused()), [False])
        self.assertEqual(self.probe("?", Refused()), [False])

    def test_source(self) -> None:
        """It connects from the address of this node, if the listener is of the same family."""
        for listener, source, bind in (
            ("192.0.2.1:5271", "192.0.2.2", ("192.0.2.2", 0)), ("[2001:db8::1]:5271", "192.0.2.2", None), ("192.0.2.1:5271", "", None),
        ):
            reactor = MemoryReactorClock()
            Deferred.fromCoroutine(TCPProbe(reactor, source).refused(listener))
            self.assertEqual(reactor.tcpClients[0][4], bind)
