"""How it is learnt what the next server has: pings as receipts, and servers that answer none (R41)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.acknowledgements import (
    LARGE,
    MEMORY,
    OVERDUE,
    PATIENCE,
    REMEMBERED,
    REQUEST,
    PingAcks,
    StreamManagementAcks,
    TcpAcks,
    UnansweredPings,
)
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.namespaces import PING

PAIR = Pair(Domain.parse("here.example"), Domain.parse("there.example"))


class PingTests(SynchronousTestCase):
    """R41: the ping barrier."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.expected: dict[str, Callable[[], None]] = {}
        self.written: list[bytes] = []
        self.acknowledged: list[int] = []
        self.silent: list[bool] = []
        self.chokes = False
        ids = count(1)
        self.acknowledgements = PingAcks(
            PAIR, self.written.append, self.expected.__setitem__, lambda id: self.expected.pop(id, None) and None,
            self.acknowledged.append, lambda: self.silent.append(True), self.clock, lambda: f"id{next(ids)}",
            choked=lambda: self.chokes,
        )

    def test_the_ping(self) -> None:
        """R41: one ping from the proven pair, with an id of its own, behind the first batch."""
        ping = Element.parse(self.acknowledgements.behind(3))
        self.assertEqual(ping.attributes, {"type": "get", "id": "id1", "from": "here.example", "to": "there.example"})
        self.assertIsNotNone(ping.child(PING, "ping"))
        self.assertEqual(list(self.expected), ["id1"])

    def test_one_at_a_time(self) -> None:
        """R41: what is written while a ping is out is asked for by the next one."""
        self.acknowledgements.behind(3)
        self.assertEqual((self.acknowledgements.behind(2), self.acknowledgements.behind(4)), (b"", b""))
        self.expected["id1"]()
        self.assertEqual((self.acknowledged, list(self.expected), len(self.written)), ([3], ["id2"], 1))
        self.expected["id2"]()
        self.assertEqual((self.acknowledged, self.expected, len(self.written)), ([3, 6], {}, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silence(self) -> None:
        """R41: no answer in time on a live stream: what was written counts as passed on, now and from now on."""
        self.acknowledgements.behind(3)
        self.acknowledgements.behind(2)
        self.clock.advance(PATIENCE)
        self.assertEqual((self.acknowledged, self.silent, self.expected), ([5], [True], {}))
        self.assertFalse(self.acknowledgements.acknowledges)
        self.assertEqual(self.acknowledgements.behind(1), b"")

    def test_crowded(self) -> None:
        """R41: a server that never answered holds up nobody; one that did is waited for."""
        self.acknowledgements.behind(3)
        self.acknowledgements.behind(2)
        self.acknowledgements.crowded()
        self.assertEqual((self.acknowledged, list(self.expected)), ([5], ["id1"]))
        self.expected["id1"]()
        self.acknowledgements.behind(4)
        self.acknowledgements.crowded()
        self.assertEqual(self.acknowledged, [5, 0])

    def test_crowded_with_nothing_written(self) -> None:
        """Where nothing was written there is nothing to count as passed on: a crowded lane would ask again for ever."""
        self.acknowledgements.crowded()
        self.acknowledgements.behind(3)
        self.acknowledgements.crowded()
        self.acknowledgements.crowded()
        self.assertEqual(self.acknowledged, [3])

    def test_choked(self) -> None:
        """A server that may not have got over what was sent is not believed to have it, nor said to answer nothing."""
        self.acknowledgements.behind(1)
        self.expected["id1"]()
        self.acknowledgements.behind(2)
        self.chokes = True
        self.clock.advance(PATIENCE)
        self.assertEqual((self.acknowledged, self.silent, self.expected, self.clock.getDelayedCalls()), ([1], [], {}, []))

    def test_ahead(self) -> None:
        """Before the first large stanza of a stream it is asked whether the server answers at all; the next ping is about that one."""
        large, small = b"x" * (LARGE + 1), b"x" * LARGE
        self.assertEqual(self.acknowledgements.ahead([small]), b"")
        self.assertIn(b"id1", self.acknowledgements.ahead([small, large]))
        self.assertEqual((self.acknowledgements.ahead([large]), self.acknowledgements.behind(2), self.acknowledged), (b"", b"", []))
        self.expected["id1"]()
        self.assertEqual((self.acknowledged, list(self.expected), len(self.written)), ([0], ["id2"], 1))
        self.expected["id2"]()
        self.assertEqual((self.acknowledged, self.acknowledgements.ahead([large])), ([0, 2], b""))

    def test_not_ahead_once_silent(self) -> None:
        """R41: who answers nothing is asked nothing more."""
        self.acknowledgements.ahead([b"x" * (LARGE + 1)])
        self.acknowledgements.behind(1)
        self.clock.advance(PATIENCE)
        self.assertEqual((self.acknowledged, self.acknowledgements.ahead([b"x" * (LARGE + 1)])), ([1], b""))

    def test_stop(self) -> None:
        """A stream that is gone expects nothing any more."""
        self.acknowledgements.behind(3)
        self.acknowledgements.stop()
        self.acknowledgements.stop()
        self.assertEqual((self.expected, self.clock.getDelayedCalls(), self.acknowledged), ({}, [], []))


class OtherReceiptsTests(SynchronousTestCase):
    """The other two ways."""

    def test_managed(self) -> None:
        """R35: each write is counted and followed by a request."""
        sent: list[int] = []
        acknowledgements = StreamManagementAcks(sent.append, Clock(), self.fail)
        self.assertEqual((acknowledgements.behind(3), sent, acknowledgements.acknowledges), (REQUEST, [3], True))
        acknowledgements.crowded()
        acknowledgements.stop()
        acknowledgements.stop()

    def test_managed_in_time(self) -> None:
        """R35: while something is acknowledged now and then, or nothing is to be, all is well; the timer ends then."""
        clock = Clock()
        acknowledgements = StreamManagementAcks(lambda number: None, clock, self.fail)
        clock.advance(100)
        acknowledgements.behind(2)
        clock.advance(OVERDUE - 1)
        acknowledgements.acknowledged(1)
        clock.advance(OVERDUE - 1)
        acknowledgements.acknowledged(1)
        clock.advance(1)
        self.assertEqual(clock.getDelayedCalls(), [])
        clock.advance(100)
        acknowledgements.behind(1)
        clock.advance(OVERDUE - 1)
        acknowledgements.stop()
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_managed_too_late(self) -> None:
        """R35: nothing acknowledged for too long, on a stream that promised it: broken."""
        clock, broken = Clock(), []
        acknowledgements = StreamManagementAcks(lambda number: None, clock, lambda heard: broken.append((clock.seconds(), heard)))
        acknowledgements.behind(2)
        clock.advance(10)
        acknowledgements.acknowledged(1)
        acknowledgements.behind(1)
        clock.advance(OVERDUE - 1)
        self.assertEqual(broken, [])
        clock.advance(1)
        self.assertEqual((broken, clock.getDelayedCalls()), ([(OVERDUE + 10, True)], []))

    def test_managed_heard_before(self) -> None:
        """R35: who has acknowledged on the stream before is known to."""
        clock = Clock()
        broken: list[bool] = []
        acknowledgements = StreamManagementAcks(lambda number: None, clock, broken.append, heard=True)
        self.assertEqual(acknowledgements.ahead([b"x" * (LARGE + 1)]), b"")
        acknowledgements.behind(1)
        clock.advance(OVERDUE)
        self.assertEqual(broken, [True])

    def test_none(self) -> None:
        """TCP says nothing."""
        acknowledgements = TcpAcks()
        self.assertEqual(acknowledgements.ahead([b"x" * (LARGE + 1)]), b"")
        self.assertEqual((acknowledgements.behind(3), acknowledgements.acknowledges), (b"", False))
        acknowledgements.acknowledged(1)
        acknowledgements.crowded()
        acknowledgements.stop()


class SilentTests(SynchronousTestCase):
    """R41: who answers no ping is remembered for a day."""

    def test_for_a_day(self) -> None:
        """R41: and asked again after it."""
        clock = Clock()
        silent = UnansweredPings(clock)
        silent.remember("there.example")
        clock.advance(MEMORY - 1)
        self.assertIn("there.example", silent)
        self.assertNotIn("other.example", silent)
        clock.advance(1)
        self.assertNotIn("there.example", silent)

    def test_bounded(self) -> None:
        """The memory is bounded: the oldest goes first."""
        silent = UnansweredPings(Clock())
        for number in range(REMEMBERED + 1):
            silent.remember(f"s{number}.example")
        self.assertNotIn("s0.example", silent)
        self.assertIn(f"s{REMEMBERED}.example", silent)
