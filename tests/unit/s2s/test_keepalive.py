"""Tests of idle streams, on a timer wheel that the test turns."""

from __future__ import annotations

import gc
import socket
from types import SimpleNamespace
from typing import Any
from weakref import ref

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net import tcp_options
from s2sgw.net.tcp_options import set_quick_ack, set_user_timeout
from s2sgw.s2s import keepalive
from s2sgw.s2s.keepalive import SLOTS, TICK, KeepAlive, KeepAliveLimits
from s2sgw.stream.dialback import DialbackKeys
from s2sgw.stream.features import PeerLimits, StreamFeatures
from s2sgw.stream.initiating import InitiatingOptions, InitiatingStream
from s2sgw.stream.management import REQUEST
from s2sgw.trust.evidence import Role
from s2sgw.xmpp.ending import Cause, Ending
from tests.support.wires import LOCAL, PEER, Solo

BOUNDS = KeepAliveLimits()


class FakeSocket:
    """A socket that records its options."""

    def __init__(self) -> None:
        self.options: list[tuple[int, int]] = []

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options.append((option, value))


class LivenessTests(SynchronousTestCase):
    """Tests of the TCP options."""

    def test_options(self) -> None:
        """R37: sent data may be unacknowledged for a minute. During a negotiation input is acknowledged without delay, afterwards not."""
        solo = Solo()
        solo.transport.socket = fake = FakeSocket()  # type: ignore[attr-defined]
        solo.transport.unregisterProducer()
        solo.connection.connectionMade()
        self.assertEqual(fake.options, [(socket.TCP_USER_TIMEOUT, 60_000), (socket.TCP_QUICKACK, 1)])
        solo.receive(b"x\n", b"y\n")
        self.assertEqual(fake.options[2:], [(socket.TCP_QUICKACK, 1)] * 2)
        solo.receive(b"PROVE\n")
        solo.receive(b"z\n")
        self.assertEqual(len(fake.options), 5)

    def test_elsewhere(self) -> None:
        """No option is set if the transport has no socket, or the system has no such option."""
        self.patch(tcp_options, "socket", object())
        set_user_timeout(SimpleNamespace(socket=FakeSocket()))
        set_quick_ack(SimpleNamespace())


class KeepAliveTests(SynchronousTestCase):
    """R37: tests of keep-alive."""

    def kept(self, role: Role = "initiating", prove: bool = True, engine: Any = None) -> Solo:
        self.solo = solo = Solo(role=role, engine=engine)
        if engine is None:
            solo.engine.one_way = role == "initiating"
        self.keeper = KeepAlive(solo.clock)
        self.keeper.keep(solo.connection)
        if prove:
            solo.connection.negotiated()
        return solo

    def test_a_stream_that_fails(self) -> None:
        """The failure of one stream is reported. It has its next turn, and the others are not affected."""
        solo = self.kept()
        other = Solo()
        other.connection.negotiated()
        failing = [True]
        self.keeper.keep(other.connection)
        look = self.keeper._look
        looked: list[object] = []

        def fail(watched: Any, connection: Any, now: float) -> None:
            looked.append(connection)
            if connection is solo.connection and failing:
                raise OSError(failing.pop())
            look(watched, connection, now)

        self.patch(self.keeper, "_look", fail)
        errors: list[Any] = []
        for _ in range(2 * SLOTS):
            self.keeper.turn().addErrback(errors.append)
        self.assertEqual((len(errors), len(self.keeper)), (1, 2))
        self.assertIsInstance(errors[0].value, ExceptionGroup)
        self.assertGreater(looked.count(solo.connection), 1)
        self.assertGreater(looked.count(other.connection), 1)

    def test_many(self) -> None:
        """However many streams are due at once, one turn of the reactor checks a few of them. All are checked soon."""
        self.patch(keepalive, "AT_ONCE", 3)
        solo = self.kept()
        for _ in range(7):
            self.keeper.keep(solo.connection)
        looked: list[Any] = []
        self.patch(self.keeper, "_look", lambda *ignored: looked.append(ignored))
        turns = [self.keeper.turn() for _ in range(3)]
        seen = [len(looked)]
        while not all(turn.called for turn in turns):
            solo.clock.advance(0)
            seen.append(len(looked))
        self.assertEqual([3, 8], [seen[0], seen[-1]])

    def test_gone(self) -> None:
        """A stream that has ended does not stay in memory until its slot comes."""
        gone = ref(self.kept().connection)
        gc.disable()  # nor until the next garbage collection
        self.addCleanup(gc.enable)
        self.solo.lose()
        clock, self.solo = self.solo.clock, Solo()
        self.assertIsNone(gone())
        clock.advance(TICK)
        for _ in range(SLOTS):
            self.keeper.turn()
        self.assertEqual(0, len(self.keeper))

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK)):
            self.solo.clock.advance(TICK)
            self.keeper.turn()

    def test_made_small(self) -> None:
        """After some silence the engine releases what it can make again, once for each silence (docs/decisions.md#idle-streams)."""
        solo = self.kept("receiving")
        self.pass_time(BOUNDS.rest * 4)
        self.assertEqual(solo.engine.log, ["rest"])
        solo.receive(b"hello\n")
        self.pass_time(BOUNDS.rest * 4)
        self.assertEqual(solo.engine.log, ["rest", "rest"])

    def test_not_while_it_is_used(self) -> None:
        """A stream with constant input is not compacted."""
        solo = self.kept("receiving")
        for _ in range(20):
            solo.receive(b"hello\n")
            self.pass_time(TICK)
        self.assertEqual(solo.engine.log, [])

    def test_kept_alive(self) -> None:
        """R37: white space is sent after each two minutes without stanzas of ours, in either role."""
        for role in ("initiating", "receiving"):
            solo = self.kept(role)
            self.pass_time(BOUNDS.keep_alive - TICK)
            self.assertEqual(solo.written(), b"")
            self.pass_time(TICK)
            self.assertEqual(solo.written(), b" ")
            self.pass_time(BOUNDS.keep_alive)
            self.assertEqual(solo.written(), b" ")

    def test_stanzas_are_signs_of_life(self) -> None:
        """Sent stanzas postpone the white space."""
        solo = self.kept()
        self.pass_time(100)
        solo.connection.write(b"<message/>")
        self.pass_time(100)
        self.assertEqual(solo.written(), b"<message/>")
        self.pass_time(20)
        self.assertEqual(solo.written(), b" ")

    def test_never_while_it_is_negotiated(self) -> None:
        """R5: no white space is sent between the elements of a negotiation."""
        solo = self.kept(prove=False)
        self.pass_time(25)
        self.assertEqual(solo.written(), b"")

    def test_announced_idle_seconds(self) -> None:
        """XEP-0478: white space is sent well within the announced idle-seconds."""
        options = InitiatingOptions(local=LOCAL, peer=PEER, keys=DialbackKeys(b"s"))
        engine = InitiatingStream(options)
        engine.features = StreamFeatures(limits=PeerLimits(idle_seconds=40))
        solo = self.kept(engine=engine)
        self.pass_time(20)
        self.assertEqual(solo.written(), b" ")

    def test_unused(self) -> None:
        """R37: a stream of ours without stanzas for ten minutes is closed in order. White space is not use."""
        solo = self.kept()
        self.pass_time(300)
        solo.connection.write(b"<message/>")
        self.pass_time(BOUNDS.unused - TICK)
        self.assertIsNone(solo.ending)
        self.pass_time(TICK)
        self.assertEqual(solo.ending, Ending(Cause.IDLE))
        self.assertTrue(solo.written().endswith(b"CLOSE\n"))
        self.pass_time(SLOTS * TICK)
        self.assertEqual(len(self.keeper), 0)

    def test_both_ways(self) -> None:
        """A stream that carries stanzas both ways (XEP-0288) is not closed while the other side uses it."""
        solo = self.kept()
        solo.engine.one_way = False
        self.pass_time(BOUNDS.unused * 2)
        self.assertIsNone(solo.ending)

    def test_silent(self) -> None:
        """R37: a stream that the peer opened is closed after an hour without a byte. Until then its end is left to the peer."""
        solo = self.kept("receiving")
        self.pass_time(3000)
        solo.receive(b"\n")
        self.pass_time(BOUNDS.silent - TICK)
        self.assertIsNone(solo.ending)
        self.pass_time(TICK * 2)
        self.assertEqual(solo.ending, Ending(Cause.IDLE))

    def test_blocked(self) -> None:
        """R37: a peer that reads nothing for a minute is dead, and is recognised as dead within a bounded time."""
        solo = self.kept()
        solo.tap.pauseProducing()
        self.pass_time(BOUNDS.blocked - TICK)
        self.assertIsNone(solo.ending)
        self.pass_time(BOUNDS.keep_alive)
        assert solo.ending is not None
        self.assertEqual(solo.ending.cause, Cause.UNRESPONSIVE)

    def test_slow_is_not_dead(self) -> None:
        """A peer that reads a little now and then is alive."""
        solo = self.kept()
        for _ in range(10):
            solo.tap.pauseProducing()
            self.pass_time(BOUNDS.blocked - TICK)
            solo.tap.resumeProducing()
        self.assertIsNone(solo.ending)

    def test_asked_and_silent(self) -> None:
        """R37: a stream with acknowledgements is probed by `<r/>` instead. It is dead if the answer is late."""
        solo = self.kept()
        solo.engine.probe = REQUEST
        self.pass_time(BOUNDS.keep_alive)
        self.assertEqual(solo.written(), b"<r xmlns='urn:xmpp:sm:3'/>")
        solo.receive(b"<a/>\n")
        self.pass_time(BOUNDS.keep_alive)
        self.assertEqual((solo.written(), solo.ending), (b"<r xmlns='urn:xmpp:sm:3'/>", None))
        self.pass_time(BOUNDS.answer)
        assert solo.ending is not None
        self.assertEqual((solo.ending.cause, solo.ending.by), (Cause.UNRESPONSIVE, "them"))

    def test_asked_and_held(self) -> None:
        """While we do not read a stream, its answer cannot be seen. The time starts when we read again."""
        solo = self.kept()
        solo.engine.probe = REQUEST
        self.pass_time(BOUNDS.keep_alive - TICK)
        solo.connection.pause("no room")
        self.pass_time(TICK + BOUNDS.answer * 1.5)
        self.assertEqual((solo.written(), solo.ending), (REQUEST, None))
        solo.connection.resume("no room")
        self.pass_time(BOUNDS.answer - TICK)
        self.assertIsNone(solo.ending)
        self.pass_time(BOUNDS.keep_alive)
        assert solo.ending is not None
        self.assertEqual(solo.ending.cause, Cause.UNRESPONSIVE)

    def test_thousands(self) -> None:
        """One turn checks only the streams of its slot. They have no timers of their own (docs/decisions.md#idle-streams)."""
        self.kept()
        for _ in range(1000):
            self.keeper.keep(self.solo.connection)
        self.assertEqual((len(self.keeper), self.solo.clock.getDelayedCalls()), (1001, []))
