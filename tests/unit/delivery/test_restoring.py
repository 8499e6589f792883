"""Tests of the queues of the spool after a start: they take turns, the oldest first, and none is forgotten (docs/decisions.md#custody)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery import restoring
from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.restoring import TURN_SECONDS, StartupRestore
from s2sgw.queue.entries import HoldTimes
from s2sgw.reporting.record import EventRecord
from s2sgw.spool.interface import LaneSummary, Spooled
from s2sgw.spool.memory_spool import MemorySpool
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.custody import custody_of, stop
from tests.support.fakes import FakeNextHop
from tests.support.spool_contract import answer_into

HERE = Domain.parse("here.example")


def pair(name: str) -> Pair:
    return Pair(HERE, Domain.parse(f"{name}.example"))


def stanza(id: str) -> Stanza:
    return Stanza("message", f"<message id='{id}'/>".encode(), "u@there.example", "u@here.example", None, id)


class HopUnderTest(FakeNextHop):
    """A next hop that opens, fails and acknowledges when the test tells it to."""

    acknowledges = True
    last_cause = Cause.CONNECTION_REFUSED

    def __init__(self, queue: DeliveryQueue, asked: list[str]) -> None:
        self.queue = queue
        self.now = "idle"
        self.sent: list[bytes] = []
        self.parted = False
        self._asked = asked

    @property
    def state(self) -> str:
        return self.now

    @property
    def ready(self) -> bool:  # type: ignore[override]
        return self.now == "ready"

    def send(self, data: Sequence[bytes]) -> bool:
        self.sent += data
        return self.slow

    def request_delivery(self) -> None:
        if self.now == "idle":
            self.now = "connecting"
            self._asked.append(self.queue.pair.recipient.ascii.removesuffix(".example"))

    def open(self) -> None:
        self.now = "ready"
        self.queue.next_hop_ready()

    def fail_at_once(self) -> None:
        self._asked.append(self.queue.pair.recipient.ascii)
        self.fail()

    def fail(self) -> None:
        self.now = "backing off"
        self.queue.relieve()

    def release_stream(self) -> None:
        self.parted = True



class BacklogTests(SynchronousTestCase):
    """Tests of a restore with two queues at a time."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[str] = []
        self.spool = MemorySpool(1 << 20, lambda call: call())
        record = EventRecord(self.clock, Logger())
        self.custody = custody_of(
            self.clock, record, lambda domain: domain == HERE, self._next_hop, hold_times=lambda pair: HoldTimes(),
            spool=self.spool, restore=2,
        )
        self.queues = self.custody.queues

    def _next_hop(self, queue: DeliveryQueue) -> NextHop:
        return HopUnderTest(queue, self.asked)

    def next_hop(self, name: str) -> HopUnderTest:
        next_hop = self.queues.queue(pair(name)).next_hop
        assert isinstance(next_hop, HopUnderTest)
        return next_hop

    def hold(self, **ages: int) -> None:
        """Put two stanzas for each name into the spool, accepted this many seconds after the epoch."""
        for name, at in ages.items():
            rows = [Spooled(pair(name), number, stanza(f"{name}{number}"), at, at + 1e6) for number in (1, 2)]
            self.spool.append(rows, lambda error: None)

    def finish(self, name: str, number: int = 2) -> None:
        """Open the stream and acknowledge everything."""
        self.next_hop(name).open()
        self.queues.queue(pair(name)).acknowledged(number)

    def test_in_turns(self) -> None:
        """The queues that wait longest are first, a limited number at a time. A finished queue makes room for the next."""
        self.hold(c=3, a=1, d=4, b=2)
        self.custody.restore.restore_all()
        self.assertEqual((["a", "b"], 2), (self.asked, len(self.custody.restore)))
        self.finish("b")
        self.assertEqual(["a", "b", "c"], self.asked)
        self.finish("a")
        self.assertEqual((["a", "b", "c", "d"], 0), (self.asked, len(self.custody.restore)))

    def test_one_peer_later(self) -> None:
        """The queues of one peer can be restored at any time, beside active ones. They wait for their turn as at a start."""
        self.hold(a=1)
        self.custody.restore.restore_all()
        self.next_hop("a").open()
        self.hold(later=5)
        rows: list[LaneSummary] = []
        self.spool.queues(answer_into(rows))
        number = self.custody.restore.restore([row for row in rows if row.pair == pair("later")])
        self.assertEqual((number, self.asked), (1, ["a", "later"]))
        self.finish("later")
        self.assertEqual([len(self.queues.queue(pair(name)).pair_queue) for name in ("a", "later")], [2, 0])
        self.assertEqual(2, len(self.next_hop("later").sent))

    def test_not_done_before_it_is_acknowledged(self) -> None:
        """A written stanza is not finished: its queue keeps its place until the next server acknowledges it."""
        self.hold(a=1, b=2, c=3)
        self.custody.restore.restore_all()
        self.next_hop("a").open()
        self.queues.queue(pair("a")).acknowledged(1)
        self.assertEqual((["a", "b"], False), (self.asked, self.next_hop("a").parted))
        self.queues.queue(pair("a")).acknowledged(1)
        self.assertEqual((["a", "b", "c"], True), (self.asked, self.next_hop("a").parted))

    def test_finished_queues_release_their_streams(self) -> None:
        """While others wait, a finished queue releases its stream. The last ones keep theirs."""
        self.hold(a=1, b=2, c=3)
        self.custody.restore.restore_all()
        for name in "abc":
            self.finish(name)
        self.assertEqual([True, False, False], [self.next_hop(name).parted for name in "abc"])

    def test_in_use(self) -> None:
        """A queue with a new stanza keeps its stream."""
        self.hold(a=1, b=2, c=3)
        self.custody.restore.restore_all()
        self.queues.queue(pair("a")).accept([stanza("new")])
        self.finish("a", 3)
        self.assertEqual((["a", "b", "c"], False), (self.asked, self.next_hop("a").parted))
        self.assertIn(b"<message id='new'/>", self.next_hop("a").sent[-1])

    def test_failed(self) -> None:
        """An unreachable peer delays no other."""
        self.hold(a=1, b=2, c=3)
        self.custody.restore.restore_all()
        self.next_hop("a").fail()
        self.assertEqual((["a", "b", "c"], False), (self.asked, self.next_hop("a").parted))

    def test_slow(self) -> None:
        """A slow peer delays no other either: it continues beside them until it is finished."""
        self.hold(a=1, b=2, c=3, d=4, e=5)
        self.custody.restore.restore_all()
        self.clock.advance(1)
        self.finish("b")
        self.clock.advance(TURN_SECONDS - 1.5)
        self.assertEqual(["a", "b", "c"], self.asked)
        self.clock.advance(0.5)
        self.assertEqual(["a", "b", "c", "d"], self.asked)  # in the place of a
        self.finish("a")  # a has no place any more, and releases its stream all the same
        self.assertEqual((["a", "b", "c", "d"], True), (self.asked, self.next_hop("a").parted))
        self.clock.advance(1)
        self.assertEqual(["a", "b", "c", "d", "e"], self.asked)  # in the place of c
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_rounded(self) -> None:
        """If the sum of times is rounded, the place is passed on all the same, and the timer is not set again and again."""
        self.clock.advance(13.44)  # 13.44 + 5 is 18.439999999999998, less than 5 after 13.44
        self.hold(a=1, b=2, c=3)
        self.custody.restore.restore_all()
        made = self.clock.callLater
        timers: list[float] = []

        def counted(delay: float, *arguments: Any) -> Any:
            timers.append(delay)
            self.assertLess(len(timers), 5)
            return made(delay, *arguments)

        self.clock.callLater = counted  # type: ignore[method-assign,assignment]
        self.clock.advance(TURN_SECONDS)
        self.assertEqual(["a", "b", "c"], self.asked)

    def test_something_new(self) -> None:
        """A new stanza for a waiting queue requests its stream at once, and is sent after the queue's older stanzas."""
        self.hold(a=1, b=2, c=3)
        self.custody.restore.restore_all()
        self.queues.queue(pair("c")).accept([stanza("new")])
        self.assertEqual(["a", "b", "c"], self.asked)
        self.next_hop("c").open()
        ids = [data.split(b"id='")[1].split(b"'")[0] for data in self.next_hop("c").sent]
        self.assertEqual([b"c1", b"c2", b"new"], ids)
        for name in "ab":
            self.finish(name)
        self.assertEqual((["a", "b", "c"], 0), (self.asked, len(self.custody.restore)))

    def test_contact(self) -> None:
        """A peer that contacts us does not wait for its turn, and takes no other peer's place."""
        self.hold(a=1, b=2, c=3, d=4)
        self.custody.restore.restore_all()
        self.queues.retry_now(Domain.parse("d.example"))
        self.queues.retry_now(Domain.parse("d.example"))
        self.assertEqual(["a", "b", "d"], self.asked)
        self.finish("a")
        self.finish("c")
        self.assertEqual((["a", "b", "d", "c"], 0), (self.asked, len(self.custody.restore)))

    def test_held_back(self) -> None:
        """A queue that the operator holds needs no turn."""
        self.hold(a=1, b=2, c=3)
        self.queues.queue(pair("a")).held = True
        self.custody.restore.restore_all()
        self.assertEqual(["b", "c"], self.asked)

    def test_no_stream_needed(self) -> None:
        """No queue waits if its next hop is ready at once."""
        self.hold(a=1, b=2, c=3)
        self.next_hop("a").now = "ready"
        self.custody.restore.restore_all()
        self.queues.queue(pair("a")).acknowledged(2)
        self.assertEqual((["b", "c"], 2), (self.asked, len(self.next_hop("a").sent)))

    def test_forgotten_before_its_turn(self) -> None:
        """A queue whose stanzas have expired before its turn is forgotten. The queues behind it have their turns."""
        self.hold(a=1, b=2, d=4)
        rows = [Spooled(pair("c"), number, stanza(f"c{number}"), 3, 4) for number in (1, 2)]
        self.spool.append(rows, lambda error: None)
        self.custody.restore.restore_all()
        self.clock.advance(TURN_SECONDS - 0.5)
        for _ in range(2):
            self.custody.expiry.sweep()
        self.assertNotIn(pair("c"), [queue.pair for queue in self.queues])
        for name in "abd":
            self.finish(name)
        self.assertEqual((["a", "b", "here", "d"], 0), (self.asked, len(self.custody.restore)))

    def test_stop(self) -> None:
        """After a stop no queue has a turn."""
        self.hold(a=1, b=2, c=3)
        self.custody.restore.restore_all()
        stop(self.custody)
        self.clock.advance(TURN_SECONDS)
        self.assertEqual((["a", "b"], []), (self.asked, self.clock.getDelayedCalls()))

    def test_expired_before_its_turn(self) -> None:
        """A queue whose stanzas all expire before its turn is forgotten. The others still have their turns."""
        self.hold(a=1, b=2)
        self.spool.append([Spooled(pair("c"), 1, stanza("c1"), 3, 2.0)], lambda error: None)
        self.hold(d=4)
        self.custody.restore.restore_all()
        self.clock.advance(3)
        self.custody.expiry.sweep()  # this bounces the stanza for c
        self.queues.queue(pair("c").inverse).acknowledged(1)
        for _ in range(3):
            self.custody.expiry.sweep()
        self.assertNotIn(pair("c"), [queue.pair for queue in self.queues])
        self.finish("a")
        self.finish("b")
        self.assertEqual((["a", "b", "d"], 0), ([name for name in self.asked if name != "here"], len(self.custody.restore)))

    def test_many_that_fail_at_once(self) -> None:
        """Queues whose attempts end at once, as of peers that the policy bars, begin in several turns of the reactor."""
        self.hold(**{f"n{number}": number for number in range(7)})
        self.patch(HopUnderTest, "request_delivery", HopUnderTest.fail_at_once)
        self.patch(restoring, "BEGUN_AT_ONCE", 2)
        with mock.patch.object(self.clock, "callLater") as later:
            self.custody.restore.restore_all()
            begun = [len(self.asked)]
            while len(self.custody.restore):
                _, go_on = later.call_args.args
                self.custody.restore.add([])  # in the same turn
                go_on()
                begun.append(len(self.asked))
        self.assertEqual([2, 4, 6, 7], begun)

    def test_stop_between_turns(self) -> None:
        """After a stop, no queue begins any more."""
        self.hold(**{f"n{number}": number for number in range(7)})
        self.patch(HopUnderTest, "request_delivery", HopUnderTest.fail_at_once)
        self.patch(restoring, "BEGUN_AT_ONCE", 2)
        self.custody.restore.restore_all()
        self.custody.restore.stop()
        self.assertEqual((2, []), (len(self.asked), self.clock.getDelayedCalls()))

    def test_nothing_to_do(self) -> None:
        """An empty spool needs no restore and no timer."""
        backlog = StartupRestore(self.queues, self.spool, self.clock, lambda ending: None)
        backlog.add([])
        backlog.stop()
        self.assertEqual((0, []), (len(backlog), self.clock.getDelayedCalls()))
