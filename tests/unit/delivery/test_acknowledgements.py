"""Tests of acknowledgements by XEP-0198 and by pings (R41)."""

from __future__ import annotations

from itertools import count
from math import inf
from typing import Any
from unittest.mock import Mock

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.acknowledgements import (
    LARGE,
    NOTE_SECONDS,
    OVERDUE_SECONDS,
    PING_SECONDS,
    REPEAT_SECONDS,
    UNREAD_SECONDS,
    PingAcks,
    ReplyCatcher,
    StreamManagementAcks,
    TcpAcks,
)
from s2sgw.delivery.iq_replies import LateReplies, PingReplies
from s2sgw.stream.management import REQUEST
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.namespaces import PING
from s2sgw.xmpp.stanza import Stanza
from tests.unit.delivery.test_iq_replies import Directions

PAIR = Pair(Domain.parse("here.example"), Domain.parse("there.example"))


class Stream:
    """A stream that records what is written and counted."""

    pair = PAIR

    def __init__(self) -> None:
        self.answers = False
        self.read_since = 0.0
        self.written: list[bytes] = []
        self.counted: list[int] = []

    def write(self, stanzas: list[bytes]) -> bool:
        self.written += stanzas
        return False

    def count_sent(self, number: int) -> None:
        self.counted.append(number)


class OneQueue:
    """The queue of the inverse pair, with its replies."""

    def __init__(self, caught: PingReplies) -> None:
        self._caught = caught
        self.held = False

    def holds_source(self, pair: Pair) -> bool:
        assert pair == PAIR.inverse
        return self.held

    def replies(self, pair: Pair) -> PingReplies:
        assert pair == PAIR.inverse
        return self._caught


class Policy:
    """A policy that the test sets, and that records its calls."""

    def __init__(self) -> None:
        self.answers = False
        self.ends = False
        self.told: list[Any] = []

    def ping_answered(self, stream: Any) -> None:
        self.answers = stream.answers = True

    def answers_pings(self, stream: object) -> bool:
        return self.answers

    def ping_unanswered(self, stream: object) -> bool:
        self.told.append("unanswered")
        return self.ends

    def acks_overdue(self, stream: object, acked_before: bool) -> None:
        self.told.append(acked_before)


class Queue:
    """A queue that records what is acknowledged."""

    pair = PAIR

    def __init__(self) -> None:
        self.acknowledgements: list[tuple[int, str]] = []

    def acknowledged(self, number: int, evidence: Any) -> None:
        self.acknowledgements.append((number, evidence.label))


class PingTests(SynchronousTestCase):
    """R41: tests of acknowledgement by pings."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.late = LateReplies(Directions())
        self.replies = PingReplies(PAIR.inverse, self.late)
        self.stream, self.queue, self.policy = Stream(), Queue(), Policy()
        self.acks = self.pings()

    def pings(self, always: bool = False) -> PingAcks:
        ids = count(1)
        self.back = OneQueue(self.replies)
        catcher = ReplyCatcher(self.back, PAIR.inverse)
        return PingAcks(self.stream, self.queue, catcher, self.policy, self.clock, lambda: f"id{next(ids)}", always)  # type: ignore[arg-type]

    def answer(self, id: str) -> None:
        self.replies.pings.pop(id)()

    def test_the_ping(self) -> None:
        """R41: one ping with its own id is sent from the proven pair after the first batch, and is counted as a stanza."""
        ping = Element.parse(self.acks.after_batch(3))
        self.assertEqual(ping.attributes, {"type": "get", "id": "id1", "from": "here.example", "to": "there.example"})
        self.assertIsNotNone(ping.child(PING, "ping"))
        self.assertEqual((list(self.replies.pings), self.stream.counted), (["id1"], [4]))

    def test_one_at_a_time(self) -> None:
        """R41: stanzas written while a ping is unanswered are covered by the next ping."""
        self.acks.after_batch(3)
        self.assertEqual((self.acks.after_batch(2), self.acks.after_batch(4)), (b"", b""))
        self.answer("id1")
        self.assertEqual((self.queue.acknowledgements, list(self.replies.pings), len(self.stream.written)), ([(3, "passed_on")], ["id2"], 1))
        self.answer("id2")
        self.assertEqual((self.queue.acknowledgements[1:], self.replies.pings, len(self.stream.written)), ([(6, "passed_on")], {}, 1))
        self.clock.advance(PING_SECONDS)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_timer(self) -> None:
        """One timer serves the pings of a busy stream. Each ping has its full time."""
        self.acks.after_batch(1)
        (timer,) = self.clock.getDelayedCalls()
        self.clock.advance(REPEAT_SECONDS - 1)
        self.answer("id1")
        self.acks.after_batch(2)
        self.assertEqual([timer], self.clock.getDelayedCalls())
        self.clock.pump([1] * (int(PING_SECONDS) - 1))
        self.assertEqual(([], 1), (self.policy.told, len(self.clock.getDelayedCalls())))
        self.clock.advance(1)
        self.assertEqual((["unanswered"], [(2, "written")], []), (self.policy.told, self.queue.acknowledgements[1:], self.clock.getDelayedCalls()))

    def repeated(self) -> None:
        """Let the server answer a first ping, and then no second one, behind three stanzas, until a third follows behind two more."""
        self.acks.after_batch(1)
        self.answer("id1")
        self.acks.after_batch(3)
        self.acks.after_batch(2)
        self.clock.advance(REPEAT_SECONDS)
        self.assertEqual((["id2", "id3"], 1, 1), (list(self.replies.pings), len(self.stream.written), self.stream.counted[-1]))
        self.acks.after_batch(4)
        del self.queue.acknowledgements[:]

    def test_repeated(self) -> None:
        """R41: a late reply may be lost with the stream that brings it. The reply to a further ping acknowledges all before that."""
        self.repeated()
        self.answer("id3")
        self.assertEqual(([(5, "passed_on")], ["id4"]), (self.queue.acknowledgements, list(self.replies.pings)))
        self.assertTrue(self.late.expects(PAIR.inverse, Stanza("iq", b"", "there.example", "here.example", "get", "id2")))
        self.answer("id4")
        self.assertEqual([(5, "passed_on"), (4, "passed_on")], self.queue.acknowledgements)

    def test_repeated_when(self) -> None:
        """R41: the ping is repeated 3, 6 and 12 seconds after the first. So a silent server takes four places among the late replies.

        Replies that may lie unread put a repeat off, and it follows within 3 seconds once they are read.
        """
        self.policy.answers = self.policy.ends = True
        self.acks.after_batch(1)
        numbers = []
        for _ in range(int(PING_SECONDS) - 1):
            self.clock.advance(1)
            numbers.append(len(self.replies.pings))
        self.assertEqual([1] * 2 + [2] * 3 + [3] * 6 + [4] * 8, numbers)
        self.clock.advance(1)
        self.assertEqual((["unanswered"], 4), (self.policy.told, self.late.pairs[PAIR.inverse]))
        self.acks = self.pings()
        self.acks.after_batch(1)
        self.back.held = True
        self.clock.pump([1] * 13)
        self.assertEqual(1, len(self.replies.pings))
        self.back.held = False
        self.clock.pump([1] * 3)
        self.assertEqual(2, len(self.replies.pings))

    def test_repeated_after_others(self) -> None:
        """R41: after a ping that was repeated and answered, the next one is repeated in time again."""
        self.policy.answers = True
        self.acks.after_batch(1)
        self.clock.pump([1] * 16)
        self.acks.after_batch(1)
        self.answer("id4")
        self.assertEqual(["id5"], list(self.replies.pings))
        self.clock.pump([1] * int(REPEAT_SECONDS))
        self.assertEqual(["id5", "id6"], list(self.replies.pings))

    def test_repeated_and_late(self) -> None:
        """The late reply to the first of these pings acknowledges only the stanzas before it. The others are awaited as long as ever."""
        self.repeated()
        self.clock.advance(REPEAT_SECONDS)
        self.clock.pump([1] * 13)
        self.assertEqual(["id2", "id3", "id4", "id5"], list(self.replies.pings))
        self.answer("id3")
        self.assertEqual(([(5, "passed_on")], ["id4", "id5"]), (self.queue.acknowledgements, list(self.replies.pings)))
        self.clock.pump([1] * 19)
        self.assertEqual([], self.policy.told)
        self.clock.advance(1)
        self.assertEqual(["unanswered"], self.policy.told)

    def test_always_late(self) -> None:
        """A server that answers each ping late is asked no more once all stanzas are acknowledged. It counts as one that answers."""
        self.policy.answers = True
        noted = self.policy.ping_answered = Mock()  # type: ignore[method-assign]
        self.acks.after_batch(3)
        self.clock.pump([1] * 10)
        self.assertEqual(["id1", "id2", "id3"], list(self.replies.pings))
        self.answer("id1")
        self.assertEqual(([(3, "passed_on")], 1), (self.queue.acknowledgements, noted.call_count))
        self.assertEqual(({}, []), (self.replies.pings, self.clock.getDelayedCalls()))
        self.assertTrue(self.late.expects(PAIR.inverse, Stanza("iq", b"", "there.example", "here.example", "get", "id3")))
        self.assertIn(b"id4", self.acks.after_batch(1))

    def test_late_before_a_large_stanza(self) -> None:
        """The late reply to the ping before a large stanza acknowledges nothing. The reply behind the stanza is awaited."""
        self.policy.answers = True
        self.acks.batch([b"x" * (LARGE + 1)])
        self.clock.advance(REPEAT_SECONDS)
        self.answer("id1")
        self.assertEqual(([(0, "passed_on")], ["id2"]), (self.queue.acknowledgements, list(self.replies.pings)))
        self.answer("id2")
        self.assertEqual([(1, "passed_on")], self.queue.acknowledgements[1:])

    def test_always_late_and_unread(self) -> None:
        """The bound for a reply that may lie unread begins with the last reply, also if that was late."""
        self.policy.answers = True
        self.acks.after_batch(1)
        for number in range(1, 100):
            self.clock.advance(REPEAT_SECONDS)
            self.acks.after_batch(1)
            self.answer(f"id{number}")
        self.back.held = True
        self.clock.pump([1] * int(UNREAD_SECONDS - 1))
        self.assertEqual([], self.policy.told)
        self.clock.pump([1] * int(PING_SECONDS))
        self.assertEqual(["unanswered"], self.policy.told)

    def test_repeated_in_vain(self) -> None:
        """The time for a reply is that of the first ping, however often it is repeated. Then all are given up."""
        self.repeated()
        self.policy.ends = True
        self.clock.pump([1] * 16)
        self.assertEqual([], self.policy.told)
        self.clock.advance(1)
        self.assertEqual((["unanswered"], {}, []), (self.policy.told, self.replies.pings, self.clock.getDelayedCalls()))

    def test_repeated_and_unread(self) -> None:
        """The bound for a reply that may lie unread begins with the first ping."""
        self.repeated()
        self.back.held = True
        self.clock.pump([1] * int(UNREAD_SECONDS - REPEAT_SECONDS - 1))
        self.assertEqual([], self.policy.told)
        self.clock.advance(1)
        self.assertEqual(["unanswered"], self.policy.told)

    def test_repeated_and_believed(self) -> None:
        """If the server does not count as one that answers any more, all written stanzas count as passed on, under pressure and later."""
        self.repeated()
        self.policy.answers = False
        self.acks.on_pressure()
        self.assertEqual(([(9, "written")], ["id3"]), (self.queue.acknowledgements, list(self.replies.pings)))
        self.answer("id3")
        self.assertEqual([(9, "written"), (0, "passed_on")], self.queue.acknowledgements)

    def test_repeated_though_unknown(self) -> None:
        """R41: a server that has answered no ping yet is asked again, too: its first reply may have been lost."""
        self.acks.after_batch(5)
        self.clock.pump([1] * int(REPEAT_SECONDS))
        self.assertEqual(["id1", "id2"], list(self.replies.pings))
        self.answer("id2")
        self.assertEqual(([(5, "passed_on")], {}), (self.queue.acknowledgements, self.replies.pings))
        self.assertIn(b"id3", self.acks.after_batch(1))

    def test_not_repeated(self) -> None:
        """A server whose reply may lie unread gets one ping, and what lay unread stays so."""
        self.acks.after_batch(1)
        self.answer("id1")
        self.acks.after_batch(1)
        self.back.held = True
        self.clock.pump([1] * 20)
        self.back.held = False
        self.assertEqual((["id2"], []), (list(self.replies.pings), self.stream.written))
        self.clock.pump([1] * 20)
        self.assertEqual(([], 4), (self.policy.told, len(self.replies.pings)))

    def test_asked_again_while_the_timer_runs(self) -> None:
        """A ping that follows an answered one has its own full time, also if its answer may be unread. After a stop no ping is due."""
        self.acks.after_batch(1)
        self.clock.advance(PING_SECONDS - 1)
        self.acks.after_batch(1)
        self.answer("id1")
        self.back.held = True
        self.clock.advance(PING_SECONDS)  # the answer to id2 may be unread
        self.back.held = False
        self.clock.advance(PING_SECONDS - 1)
        self.assertEqual([], self.policy.told)
        self.acks.stop()
        self.clock.advance(10 * PING_SECONDS)
        self.assertEqual(([], []), (self.policy.told, self.clock.getDelayedCalls()))

    def test_silence(self) -> None:
        """R41: if a server has never answered, its stanzas count as written, now and later."""
        self.acks.after_batch(3)
        self.acks.after_batch(2)
        self.clock.advance(PING_SECONDS)
        self.assertEqual((self.queue.acknowledgements, self.policy.told, self.replies.pings), ([(5, "written")], ["unanswered"], {}))
        self.assertEqual((self.acks.acknowledges, self.acks.after_batch(1)), (False, b""))

    def test_silence_of_one_that_is_always_asked(self) -> None:
        """R41: if pings are configured, the next batch is followed by a ping all the same."""
        self.acks = self.pings(always=True)
        self.acks.after_batch(3)
        self.clock.advance(PING_SECONDS)
        self.assertEqual((self.queue.acknowledgements, self.acks.acknowledges), ([(3, "written")], True))
        self.assertIn(b"id2", self.acks.after_batch(1))

    def test_answers_are_noted(self) -> None:
        """The policy is told of the first answer, of one a minute later, and of one after a silence."""
        self.acks = self.pings(always=True)
        noted = self.policy.ping_answered = Mock()  # type: ignore[method-assign]
        for number, (seconds, calls) in enumerate(((0, 1), (NOTE_SECONDS - 1, 1), (1, 2), (1, 2)), 1):
            self.clock.advance(seconds)
            self.acks.after_batch(1)
            self.answer(f"id{number}")
            self.assertEqual(calls, noted.call_count)
        self.acks.after_batch(1)
        self.clock.advance(PING_SECONDS)
        self.assertEqual(["unanswered"], self.policy.told)
        self.acks.after_batch(1)
        self.answer("id6")
        self.assertEqual(3, noted.call_count)

    def test_silence_that_ends_the_stream(self) -> None:
        """If the stream is ended for a missing answer, nothing is acknowledged."""
        self.acks.after_batch(1)
        self.answer("id1")
        self.acks.after_batch(2)
        self.policy.ends = True
        self.clock.advance(PING_SECONDS)
        self.assertEqual((self.queue.acknowledgements, self.replies.pings, self.clock.getDelayedCalls()), ([(1, "passed_on")], {}, []))

    def test_a_reply_that_lies_unread(self) -> None:
        """While the stream that may bring the answer is not read, a missing answer has no effect. The time starts again when it is read."""
        self.acks.after_batch(3)
        self.back.held = True
        self.clock.pump([PING_SECONDS] * 2)
        self.back.held = False
        self.clock.advance(PING_SECONDS)
        self.assertEqual(self.policy.told, [])
        self.clock.advance(PING_SECONDS - 1)
        self.answer("id1")
        self.assertEqual((self.queue.acknowledgements, self.policy.told), ([(3, "passed_on")], []))
        self.acks.after_batch(1)
        self.back.held = True
        self.clock.pump([PING_SECONDS] * round(UNREAD_SECONDS / PING_SECONDS - 1))
        self.assertEqual(self.policy.told, [])
        self.clock.advance(PING_SECONDS)
        self.assertEqual((self.policy.told, self.clock.getDelayedCalls()), (["unanswered"], []))

    def test_a_late_reply_is_dropped(self) -> None:
        """R41: an answer that arrives after its time is dropped."""
        self.acks.after_batch(1)
        self.clock.advance(PING_SECONDS)
        self.assertEqual(({}, [PAIR.inverse]), (self.replies.pings, list(self.late.pairs)))

    def test_pressure(self) -> None:
        """R41: a server that never answered slows no source. The answer of a server that has answered before is waited for."""
        self.acks.after_batch(3)
        self.acks.after_batch(2)
        self.acks.on_pressure()
        self.assertEqual((self.queue.acknowledgements, list(self.replies.pings)), ([(5, "written")], ["id1"]))
        self.answer("id1")
        self.acks.after_batch(4)
        self.acks.on_pressure()
        self.assertEqual(self.queue.acknowledgements[1:], [(0, "passed_on")])

    def test_pressure_with_nothing_written(self) -> None:
        """If nothing was written, nothing is acknowledged. Otherwise a crowded queue would ask again forever."""
        self.acks.on_pressure()
        self.acks.after_batch(3)
        self.acks.on_pressure()
        self.acks.on_pressure()
        self.assertEqual(self.queue.acknowledgements, [(3, "written")])

    def test_before_a_large_stanza(self) -> None:
        """A ping before the first large stanza finds out whether the server answers at all. The next ping is for that stanza."""
        large, small = b"x" * (LARGE + 1), b"x" * LARGE
        written = self.acks.batch([small, large])
        self.assertIn(b"id1", written[0])
        self.assertEqual((written[1:], self.stream.counted, self.queue.acknowledgements), ([small, large], [1, 2], []))
        self.assertEqual(self.acks.batch([large]), [large])
        self.answer("id1")
        self.assertEqual((self.queue.acknowledgements, list(self.replies.pings), len(self.stream.written)), ([(0, "passed_on")], ["id2"], 1))
        self.answer("id2")
        self.assertEqual(self.queue.acknowledgements[1:], [(3, "passed_on")])
        written = self.acks.batch([large])
        self.assertEqual((written[0], b"id3" in written[1]), (large, True))

    def test_behind_small_stanzas(self) -> None:
        """A batch of small stanzas is followed by a ping. While it is unanswered, the next batch is not."""
        small = b"x" * LARGE
        written = self.acks.batch([small, small])
        self.assertEqual((written[:2], b"id1" in written[2], len(written)), ([small, small], True, 3))
        self.assertEqual(self.acks.batch([small]), [small])

    def test_not_asked_once_silent(self) -> None:
        """R41: a server that does not answer is not pinged again."""
        large = b"x" * (LARGE + 1)
        self.acks.batch([large])
        self.clock.advance(PING_SECONDS)
        self.assertEqual((self.queue.acknowledgements, self.acks.batch([large])), ([(1, "written")], [large]))

    def test_stop(self) -> None:
        """After the stream has ended no answer is expected."""
        self.acks.after_batch(3)
        self.acks.stop()
        self.acks.stop()
        self.assertEqual((self.replies.pings, self.clock.getDelayedCalls(), self.queue.acknowledgements), ({}, [], []))


class StreamManagementTests(SynchronousTestCase):
    """R35: tests of acknowledgement by XEP-0198."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.stream, self.policy = Stream(), Policy()

    def acks(self, before: int = 0, acked_before: bool = False) -> StreamManagementAcks:
        return StreamManagementAcks(self.stream, self.policy, self.clock, before, acked_before)  # type: ignore[arg-type]

    def test_asked(self) -> None:
        """R35: each write is counted and followed by a request for an acknowledgement."""
        acks = self.acks()
        large = b"x" * (LARGE + 1)
        self.assertEqual((acks.batch([large, b"y"]), self.stream.counted, acks.acknowledges), ([large, b"y", REQUEST], [2], True))
        acks.on_pressure()
        acks.stop()
        acks.stop()

    def test_in_time(self) -> None:
        """R35: acknowledgements in time, or a stream without unacknowledged stanzas, end the timer."""
        acks = self.acks()
        self.clock.advance(100)
        acks.after_batch(2)
        self.clock.advance(OVERDUE_SECONDS - 1)
        acks.acknowledged(1)
        self.clock.advance(OVERDUE_SECONDS - 1)
        acks.acknowledged(1)
        self.clock.advance(1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(100)
        acks.after_batch(1)
        self.clock.advance(OVERDUE_SECONDS - 1)
        acks.stop()
        self.assertEqual((self.clock.getDelayedCalls(), self.policy.told), ([], []))

    def test_overdue(self) -> None:
        """R35: an overdue acknowledgement is reported, with the information whether the stream has acknowledged before."""
        acks = self.acks()
        acks.after_batch(2)
        self.clock.advance(10)
        acks.acknowledged(1)
        acks.after_batch(1)
        self.clock.advance(OVERDUE_SECONDS - 1)
        self.assertEqual(self.policy.told, [])
        self.clock.advance(1)
        self.assertEqual((self.policy.told, self.clock.getDelayedCalls()), ([True], []))
        for acked_before in (False, True):
            self.acks(acked_before=acked_before).after_batch(1)
            self.clock.advance(OVERDUE_SECONDS)
        self.assertEqual(self.policy.told, [True, False, True])

    def test_not_read(self) -> None:
        """While the stream is not read (XEP-0288), an acknowledgement may be unread. The time starts when the stream is read again."""
        acks = self.acks()
        acks.after_batch(1)
        self.stream.read_since = inf
        self.clock.pump([OVERDUE_SECONDS] * 4)
        self.stream.read_since = self.clock.seconds()
        self.clock.pump([OVERDUE_SECONDS / 4] * 3)
        self.assertEqual(self.policy.told, [])
        self.clock.advance(OVERDUE_SECONDS / 4)
        self.assertEqual((self.policy.told, self.clock.getDelayedCalls()), ([False], []))

    def test_counted_before(self) -> None:
        """R35: stanzas that were counted earlier are acknowledged first. This settles nothing."""
        acks = self.acks(before=2)
        acks.after_batch(3)
        self.assertFalse(acks.whole)
        self.assertEqual((acks.acknowledged(3), acks.acknowledged(2), acks.whole), (1, 2, True))

    def test_resumed(self) -> None:
        """R35: stanzas that are written again on a resumed stream are already counted."""
        acks = self.acks(before=2)
        self.assertEqual((acks.resumed(2), self.stream.counted, acks.acknowledged(2)), (REQUEST, [], 2))


class TcpTests(SynchronousTestCase):
    """Tests of TCP without acknowledgements."""

    def test_none(self) -> None:
        """Stanzas are counted, and nothing is acknowledged."""
        stream = Stream()
        acks = TcpAcks(stream)  # type: ignore[arg-type]
        large = b"x" * (LARGE + 1)
        self.assertEqual((acks.batch([large]), acks.after_batch(3), acks.acknowledges, acks.acknowledged(1), stream.counted), ([large], b"", False, 0, [1, 3]))
        acks.on_pressure()
        acks.stop()
        self.assertEqual(TcpAcks().after_batch(3), b"")
