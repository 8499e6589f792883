"""Tests of a delivery queue: acknowledgements, spool, doubt and poison (docs/decisions.md#custody, #poison)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, patch

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery import queue as flows
from s2sgw.delivery.custody import STEP_SECONDS
from s2sgw.delivery.next_hop import NextHop, NextHopLimits
from s2sgw.delivery.queue import CHUNK, DeliveryQueue
from s2sgw.delivery.spooling import ACK_TURNS, MARK_SECONDS, READ_AGAIN, TROUBLE_SECONDS
from s2sgw.net.threads import AtOnce
from s2sgw.queue.bounce import BOUNCED_AT_ONCE
from s2sgw.queue.entries import QueuedStanza
from s2sgw.reporting.daily_report import DailyReport
from s2sgw.reporting.record import EventRecord
from s2sgw.spool.interface import LaneSummary, Quarantined, Spooled, SpoolError, SpoolFull
from s2sgw.spool.memory_spool import MemorySpool
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Kind, Stanza
from tests.support.custody import Receipt, custody_of, replacing, stop
from tests.support.fakes import FakeNextHop
from tests.support.faulty_spool import FaultySpool
from tests.support.spool_contract import answer_into

HERE, THERE = Domain.parse("here.example"), Domain.parse("there.example")
OUT = Pair(HERE, THERE)
WINDOW = 0.02


class FakeHop(FakeNextHop):
    """A next hop that the test opens. It acknowledges when the test tells it to."""

    slow = False
    last_cause = Cause.STREAM_ERROR

    def __init__(self, ready: bool = True, acknowledges: bool = True) -> None:
        self.ready = ready
        self.acknowledges = acknowledges
        self.sent: list[bytes] = []
        self.writes = 0
        self.contacts = 0
        self.press: Callable[[], None] = lambda: None
        self.asked = 0
        #: the state when not ready
        self.word = "idle"

    @property
    def state(self) -> str:
        return "ready" if self.ready else self.word

    def send(self, data: Sequence[bytes]) -> bool:
        self.sent += data
        self.writes += 1
        return self.slow

    def request_delivery(self) -> None:
        self.asked += 1

    def relieve_pressure(self) -> None:
        self.press()

    def retry_now(self, urged: bool = False) -> None:
        self.contacts += 1

    def stop(self, cause: Cause) -> Deferred[None]:
        self.ready = False
        return succeed(None)


class Source:
    """A stream that brings stanzas."""

    has_unread_input = False

    def __init__(self, shared: bool = False) -> None:
        self.shared = shared
        self.paused = False

    def pause(self, holder: object) -> None:
        self.paused = True

    def resume(self, holder: object) -> None:
        self.paused = False


class World:
    """Queues with an outbound next hop under test, an inbound next hop that keeps bounces, and a spool whose answers can be delayed."""

    def __init__(self, disk: int = 1 << 20, memory: int = 1 << 20, spool: MemorySpool | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.later: list[Callable[[], None]] = []
        self.hold_back = False
        self.spool = spool or MemorySpool(disk, self._deliver)
        self.next_hop = FakeHop()
        self.back = FakeHop(acknowledges=False)
        self.settled: list[str] = []
        self.record = EventRecord(self.clock, Logger())
        self.custody = custody_of(
            self.clock, self.record, lambda domain: domain == HERE, self._next_hop, memory=memory, spool=self.spool, window=WINDOW,
            **options,
        )
        self.queues = self.custody.queues

    def _next_hop(self, queue: DeliveryQueue) -> NextHop:
        return self.next_hop if queue.direction == "outbound" else self.back

    def _deliver(self, call: Callable[[], None]) -> None:
        self.later.append(call)
        if not self.hold_back:
            self.answer()

    def answer(self) -> None:
        """Deliver the spool's answers."""
        while self.later:
            self.later.pop(0)()

    @property
    def queue(self) -> DeliveryQueue:
        return self.queues.queue(OUT)

    def accept(self, *stanzas: Stanza) -> None:
        name = "".join(stanza.id or "" for stanza in stanzas)
        self.queue.accept(list(stanzas), None, Receipt(len(stanzas), lambda: self.settled.append(name)))

    def acknowledge_after(self, turns: int) -> None:
        """Acknowledge one stanza after this many more turns of the reactor."""
        if turns:
            self.clock.callLater(0, self.acknowledge_after, turns - 1)
        else:
            self.queue.acknowledged(1)

    def spooled(self) -> list[str]:
        """Return the ids in the spool, in order."""
        rows: list[Spooled] = []
        self.spool.read(OUT, 0, 1 << 30, answer_into(rows))
        self.answer()
        return [row.stanza.id or "" for row in rows]

    def summaries(self) -> list[LaneSummary]:
        rows: list[LaneSummary] = []
        self.spool.queues(answer_into(rows))
        self.answer()
        return rows


def stanza(id: str, kind: Kind = "message", type: str | None = None, size: int = 10) -> Stanza:
    data = f"<{kind} id='{id}'>{'.' * size}</{kind}>".encode()
    return Stanza(kind, data, "u@there.example", "u@here.example", type, id)


def presence(id: str, type: str | None = None, to: str = "u@there.example", from_: str = "u@here.example/r", payload: str = "") -> Stanza:
    return Stanza("presence", f"<presence id='{id}'/>".encode(), to, from_, type, id, (payload,) if payload else ())


def ids(data: Sequence[bytes]) -> str:
    return "".join(re.findall(r"<\w+[^>]* id='(\w+)'", b"".join(data).decode()))


class FastPathTests(SynchronousTestCase):
    """The spool is not used while stanzas are acknowledged in time."""

    def test_passed_on_when_acknowledged(self) -> None:
        """Stanzas are settled upstream when the next server acknowledges them, not before."""
        world = World()
        world.accept(stanza("1"), stanza("2"))
        world.accept(stanza("3"))
        self.assertEqual((ids(world.next_hop.sent), world.settled), ("123", []))
        world.queue.acknowledged(1)
        self.assertEqual(world.settled, [])
        world.queue.acknowledged(2)
        self.assertEqual(world.settled, ["12", "3"])
        world.clock.advance(1)
        self.assertEqual((world.spooled(), len(world.queue.pair_queue)), ([], 0))

    def test_a_hop_without_acknowledgements(self) -> None:
        """If the next hop has no acknowledgements, written stanzas count as passed on."""
        world = World()
        world.next_hop.acknowledges = False
        world.accept(stanza("1"))
        self.assertEqual((ids(world.next_hop.sent), world.settled, len(world.queue.pair_queue)), ("1", ["1"], 0))

    def test_daily_report(self) -> None:
        """Stanzas that were passed on are reported for the daily report once, with any kind of acknowledgement, and at the latest when the queue is removed."""
        world = World()
        report = world.record.report = DailyReport(Path(self.mktemp()), world.clock, AtOnce(), SimpleNamespace(domains=[]))
        world.next_hop.acknowledges = False
        world.accept(stanza("1"))
        world.next_hop.acknowledges = True
        world.accept(stanza("2"), stanza("3"))
        world.queue.report_passed()
        world.queue.report_passed()
        self.assertEqual(self.row(report)["stanzas"], {"outbound": 1})
        world.queue.acknowledged(2)
        world.next_hop.ready = False
        world.custody.expiry.sweep()
        size = sum(len(stanza(each).data) for each in "123")
        self.assertEqual(([*world.queues], self.row(report)["bytes"]), ([], {"outbound": size}))
        self.assertEqual(self.row(report)["stanzas"], {"outbound": 3})

    def row(self, report: DailyReport) -> dict[str, Any]:
        (row,) = self.successResultOf(Deferred.fromCoroutine(report.report()))["peers"]
        return dict(row)

    def test_acknowledgements_that_change_with_a_write(self) -> None:
        """A write settles nothing if acknowledgements begin with it, or if the stream is lost during it."""
        for begins in (True, False):
            world = World()
            world.next_hop.ready, world.next_hop.acknowledges = False, not begins
            world.accept(stanza("1"))

            def write(data: Sequence[bytes], world: World = world, begins: bool = begins) -> bool:
                world.next_hop.acknowledges = begins
                if not begins:
                    world.next_hop.ready = False
                    world.queue.stream_lost()
                return False

            world.next_hop.send = write  # type: ignore[method-assign]
            world.next_hop.ready = True
            world.queue.next_hop_ready()
            self.assertEqual((world.settled, len(world.queue.pair_queue)), ([], 1))


class SeamTests(SynchronousTestCase):
    """Tests of what several nodes need (docs/decisions.md#nodes)."""

    def test_no_permission(self) -> None:
        """Every write asks whether this node may write to the peer. Stanzas that may not be written wait, and operators see why."""
        world = World()
        permission = world.custody.services.permission
        world.accept(stanza("1"))
        permission.granted = False
        world.accept(stanza("2"))
        world.queue.acknowledged(1)
        world.queue.resume()
        world.queue.flush()
        self.assertEqual((ids(world.next_hop.sent), world.queue.waits_for()), ("1", "no-permission"))
        world.clock.advance(WINDOW)
        self.assertEqual((world.spooled(), world.settled), (["2"], ["1", "2"]))
        permission.granted = True
        world.queue.flush()
        self.assertEqual((ids(world.next_hop.sent), world.queue.waits_for()), ("12", None))

    def test_stalled_spool(self) -> None:
        """While the spool does not answer, sources are paused although there is memory. Then all continue."""
        world = World()
        world.next_hop.ready = False
        world.hold_back = True
        sources = [Source(), Source()]
        world.queue.accept([stanza("1")], sources[0])
        world.clock.advance(WINDOW)
        self.assertFalse(sources[0].paused)
        self.patch(MemorySpool, "stalled", True)
        for number, source in enumerate(sources, 2):
            world.queue.accept([stanza(str(number))], source)
        self.assertEqual([source.paused for source in sources], [True, True])
        self.patch(MemorySpool, "stalled", False)
        world.hold_back = False
        world.answer()
        world.clock.advance(WINDOW)
        self.assertEqual(([source.paused for source in sources], world.spooled()), ([False, False], ["1", "2", "3"]))

    def test_stalled_spool_and_a_next_hop(self) -> None:
        """While the next hop takes stanzas, a spool that does not answer pauses no source, until enough is unacknowledged."""
        world = World(memory=64_000)
        world.hold_back = True
        source = Source()
        world.queue.accept([stanza("0")], source)
        world.clock.advance(WINDOW)
        self.patch(MemorySpool, "stalled", True)
        numbers = iter(range(1, 1000))
        while not world.queue.pair_queue.enough_in_flight:
            self.assertFalse(source.paused)
            world.queue.accept([stanza(str(next(numbers)))], source)
        self.assertGreater(world.queue.pair_queue.in_flight_count, 5)
        world.queue.accept([stanza("last")], source)
        self.assertTrue(source.paused)
        world.queue.acknowledged(world.queue.pair_queue.in_flight_count)
        self.assertEqual((False, 1), (source.paused, world.queue.pair_queue.in_flight_count))

    def test_stalled_spool_and_a_stream_that_breaks(self) -> None:
        """If the stream breaks as well, the next stanzas pause their source. None is acknowledged, and all are sent again in order."""
        world = World()
        world.hold_back = True
        source = Source()
        world.accept(stanza("0"))
        world.clock.advance(WINDOW)
        self.patch(MemorySpool, "stalled", True)
        for number in "123":
            world.queue.accept([stanza(number)], source)
        world.next_hop.ready = False
        world.queue.stream_lost()
        world.queue.accept([stanza("4")], source)
        self.assertEqual((True, []), (source.paused, world.settled))
        world.next_hop.ready = True
        world.next_hop.sent.clear()
        world.queue.next_hop_ready()
        self.assertEqual("01234", ids(world.next_hop.sent))
        world.queue.acknowledged(5)
        self.assertEqual((False, ["0"]), (source.paused, world.settled))


class SpoolTests(SynchronousTestCase):
    """Stanzas that are not acknowledged within the window go to the spool."""

    def test_window(self) -> None:
        """At the end of the window, unacknowledged stanzas are spooled in one batch. They are settled when they are durable."""
        world = World()
        world.hold_back = True
        world.accept(stanza("1"))
        world.clock.advance(WINDOW / 2)
        world.accept(stanza("2"))
        world.clock.advance(WINDOW / 2)
        self.assertEqual(world.settled, [])
        world.answer()
        self.assertEqual(world.settled, ["1"])
        world.clock.advance(WINDOW)
        world.answer()
        self.assertEqual((world.spooled(), world.settled), (["1", "2"], ["1", "2"]))
        world.queue.acknowledged(2)
        self.assertEqual((world.spooled(), world.spool.bytes), ([], 0))

    def test_nothing_is_left_for_the_spool(self) -> None:
        """If all was acknowledged within the window, its end costs no further turn. Otherwise unread answers are waited for."""
        for acknowledged, turns in ((1, 0), (0, ACK_TURNS)):
            world = World()
            world.accept(stanza("1"))
            world.queue.acknowledged(acknowledged)
            with patch.object(world.clock, "callLater", wraps=world.clock.callLater) as called:
                world.clock.advance(WINDOW)
            self.assertEqual(sum(call.args[0] == 0 for call in called.call_args_list), turns)

    def test_nothing_in_flight(self) -> None:
        """Stanzas that only wait for their next hop are spooled when the window ends: no acknowledgement can have arrived for them."""
        world = World()
        world.next_hop.ready = False
        world.accept(stanza("1"))
        with patch.object(world.clock, "callLater", wraps=world.clock.callLater) as called:
            world.clock.advance(WINDOW)
        self.assertEqual((["1"], []), (world.spooled(), called.call_args_list))

    def test_one_timer_for_a_busy_queue(self) -> None:
        """While stanzas come and are acknowledged, the next window begins with the first that is still unacknowledged."""
        world = World()
        with patch.object(world.clock, "callLater", wraps=world.clock.callLater) as called:
            for number in range(40):
                world.accept(stanza(str(number)))
                world.queue.acknowledged(1 if number else 0)  # the last one stays
                world.clock.advance(WINDOW / 4)
        self.assertEqual((13, []), (sum(call.args[0] > 0 for call in called.call_args_list), world.spooled()))

    def test_no_timer_for_what_is_acknowledged(self) -> None:
        """At the end of a window the next one starts with the first unacknowledged stanza, and is not longer."""
        for acknowledged in (True, False):
            world = World()
            world.accept(stanza("1"))
            world.queue.acknowledged(1)
            world.clock.advance(WINDOW / 2)
            world.accept(stanza("2"))
            if acknowledged:
                world.queue.acknowledged(1)
            with patch.object(world.clock, "callLater", wraps=world.clock.callLater) as called:
                world.clock.advance(WINDOW / 2)
            self.assertEqual([] if acknowledged else [WINDOW / 2], [round(call.args[0], 6) for call in called.call_args_list])
            world.accept(stanza("3"))
            world.clock.advance(WINDOW)
            world.clock.pump([0] * ACK_TURNS)
            self.assertEqual(["3"] if acknowledged else ["2", "3"], world.spooled())

    def test_window_over_during_a_commit(self) -> None:
        """Stanzas whose window ended during a slow commit are in the next commit, without a further window."""
        world = World()
        world.hold_back = True
        world.accept(stanza("1"))
        world.clock.advance(WINDOW / 2)
        world.accept(stanza("2"))
        world.clock.advance(WINDOW)
        world.clock.advance(WINDOW)
        self.assertEqual(world.settled, [])
        world.answer()
        self.assertEqual(world.settled, ["1", "2"])

    def test_full_without_upstream_acknowledgements(self) -> None:
        """Stanzas that came without XEP-0198 do not stay in memory alone either. Errors do: they must not be answered, and are spooled later."""
        world = World(disk=120)
        world.next_hop.ready = False
        world.accept(stanza("1", size=80))
        world.clock.advance(WINDOW)
        world.queue.accept([stanza("2", size=80), stanza("3", type="error")])
        world.clock.advance(WINDOW)
        self.assertEqual((world.spooled(), len(world.queue.pair_queue), ids(world.back.sent)), (["1"], 2, "2"))
        world.spool.remove(OUT, 1)
        world.clock.advance(WINDOW)
        self.assertEqual(world.spooled(), ["3"])

    def test_heard_first(self) -> None:
        """If a turn lasts longer than the window, unread answers are processed before anything is spooled."""
        for turns, batches in ((4, 0), (5, 1)):
            world = World()
            world.hold_back = True
            world.clock.callLater(WINDOW, world.acknowledge_after, turns)
            world.accept(stanza("1"))
            world.clock.callLater(WINDOW, world.accept, stanza("2"))
            world.clock.advance(WINDOW)
            self.assertEqual((len(world.later), world.settled), (batches, ["1"]))

    def test_acknowledged_while_it_is_being_spooled(self) -> None:
        """An acknowledgement that arrives during the commit leaves nothing on the disk."""
        world = World()
        world.hold_back = True
        world.accept(stanza("1"))
        world.clock.advance(WINDOW)
        world.queue.acknowledged(1)
        self.assertEqual(world.settled, ["1"])
        world.answer()
        self.assertEqual((world.spooled(), world.settled), ([], ["1"]))

    def test_lost_while_it_is_being_spooled(self) -> None:
        """A batch that was written at once, and is in doubt when its commit succeeds, is settled."""
        world = World()
        world.custody.services.relief.resident = 0
        world.hold_back = True
        world.accept(stanza("1"), stanza("2"), stanza("3"))
        world.clock.advance(WINDOW)
        world.queue.acknowledged(1)
        world.next_hop.ready = False
        world.queue.stream_lost()
        world.answer()
        self.assertEqual((world.settled, world.spooled(), len(world.queue.pair_queue)), (["123"], ["2", "3"], 2))

    def test_lost_while_it_cannot_be_spooled(self) -> None:
        """If the spool has no room for such a batch, nothing counts as spooled, and waiting stanzas are bounced."""
        world = World(disk=10)
        world.hold_back = True
        world.accept(stanza("1"), stanza("2"))
        world.clock.advance(WINDOW)
        world.next_hop.ready = False
        world.queue.stream_lost()
        self.assertEqual([held.spooled for held in world.queue.pair_queue], [True, True])
        world.answer()
        self.assertEqual((world.settled, ids(world.back.sent), len(world.queue.pair_queue)), (["12"], "12", 0))

    def test_full(self) -> None:
        """A full spool bounces new stanzas. It drops nothing that it holds or that is in flight."""
        world = World(disk=120)
        world.next_hop.ready = False
        world.accept(stanza("1", size=80))
        world.clock.advance(WINDOW)
        world.accept(stanza("2", size=80))
        world.clock.advance(WINDOW)
        self.assertEqual((world.spooled(), world.settled, ids(world.back.sent)), (["1"], ["1", "2"], "2"))
        self.assertIn(b"resource-constraint", world.back.sent[0])
        world.next_hop.ready = True
        world.queue.next_hop_ready()
        world.accept(stanza("3", size=80))
        world.clock.advance(WINDOW)
        self.assertEqual((ids(world.next_hop.sent), ids(world.back.sent), world.settled), ("13", "2", ["1", "2"]))
        world.queue.acknowledged(2)
        self.assertEqual(world.settled, ["1", "2", "3"])

    def test_refused_and_not_yet_told(self) -> None:
        """A refused stanza is settled when its error is safe. A full disk and an unreachable sender together lose neither."""
        world = World(disk=10)
        world.next_hop.ready = world.back.ready = False
        world.accept(stanza("1"))
        world.clock.advance(WINDOW)
        world.clock.advance(WINDOW)
        self.assertEqual((world.settled, len(world.queue.pair_queue)), ([], 1))
        world.back.ready = True
        world.custody.expiry.sweep()
        self.assertEqual((world.settled, ids(world.back.sent), len(world.queue.pair_queue)), (["1"], "1", 0))

    def test_refused_and_in_doubt(self) -> None:
        """R35: no later stanza is written until the error for a refused stanza is acknowledged.

        After a crash a sender with XEP-0198 sends that stanza again.
        """
        world = World(disk=10)
        world.next_hop.ready, world.back.acknowledges = False, True
        world.accept(stanza("1"))
        world.clock.advance(WINDOW)
        self.assertEqual((ids(world.back.sent), world.settled), ("1", []))
        world.custody.expiry.sweep()
        world.next_hop.ready = True
        source = Source()
        world.queue.accept([stanza("2")], source)
        world.spool.raise_limit(1000)
        world.queue.spool_now()
        world.queue.next_hop_ready()
        self.assertEqual((ids(world.next_hop.sent), world.spooled(), source.paused), ("", [], True))
        world.queues.queue(OUT.inverse).acknowledged(1)
        self.assertEqual((ids(world.next_hop.sent), world.settled, source.paused), ("2", ["1"], False))

    def test_nowhere_to_go(self) -> None:
        """If the next server, the disk and the sender's server all accept nothing, the source is paused, unless other queues share it.
        It continues as soon as one of them accepts something.
        """
        world = World(disk=10)
        world.next_hop.ready = world.back.ready = False
        source, shared = Source(), Source(shared=True)
        world.queue.accept([stanza("1")], source)
        self.assertFalse(source.paused)
        world.clock.advance(WINDOW)
        world.queue.accept([stanza("2")], source)
        world.queue.accept([stanza("3")], shared)
        self.assertEqual((source.paused, shared.paused), (True, False))
        world.clock.advance(WINDOW)
        world.next_hop.ready = True
        world.queue.next_hop_ready()
        self.assertEqual((ids(world.next_hop.sent), source.paused, ids(world.back.sent)), ("123", False, ""))

    def test_forgotten_while_a_source_waits(self) -> None:
        """A source that waits for a queue which is forgotten continues."""
        world = World(disk=10)
        world.next_hop.ready = world.back.ready = False
        source = Source()
        world.queue.accept([stanza("1")], source)
        world.clock.advance(WINDOW)
        world.queue.accept([stanza("2")], source)
        self.assertTrue(source.paused)
        world.queues.forget(OUT)
        self.assertFalse(source.paused)

    def test_room_for_errors_during_a_back_off(self) -> None:
        """Whether errors would be written is asked of a queue that backs off without any further attempt, and of an idle one with one."""
        for state, asked in (("idle", 1), ("backing off", 0)):
            world = World(disk=10)
            world.back.ready = False
            world.back.word = state
            self.assertFalse(world.queues.queue(OUT.inverse).takes_errors())
            self.assertEqual(world.back.asked, asked, state)

    def test_offered_again(self) -> None:
        """Rejected stanzas are offered to the spool again every second, in order, and it has them when there is room."""
        world = World(disk=10)
        world.next_hop.ready = world.back.ready = False
        world.accept(stanza("1"), stanza("2"))
        for _ in range(3):
            world.clock.advance(1)
            world.custody.expiry.sweep()
        world.spool.raise_limit(1000)
        world.clock.advance(1)
        self.assertEqual(world.settled, [])
        world.custody.expiry.sweep()
        self.assertEqual((world.settled, world.spooled()), (["12"], ["1", "2"]))

    def test_share_of_a_peer(self) -> None:
        """A full share is recorded once a minute for its registered domain, under the name of the peer, and the error says so."""
        world = World()
        world.next_hop.ready = False
        pairs = [Pair(HERE, Domain.parse(name)) for name in ("a.full.example", "b.full.example", "other.example")]
        pairs.append(Pair(Domain.parse("third.example"), HERE))
        full = SpoolFull("the stanzas take 9 bytes, and their share is 5", "share")
        for _ in range(3):
            for pair in pairs:
                world.custody.services.window.rejected(world.queues.queue(pair), full, again=True)
            world.custody.services.window.trouble(Ending(Cause.QUEUE_FULL, "the disk is full"))
        told = [(each.direction, each.leg, each.peer, each.local, each.ending.detail) for each in world.record.list()]
        self.assertCountEqual(told, [
            ("outbound", "federation", "a.full.example", HERE.text, str(full)),
            ("outbound", "federation", "other.example", HERE.text, str(full)),
            ("inbound", "backend", "third.example", HERE.text, str(full)),
            ("outbound", "backend", "", "", "the disk is full"),
        ])
        world.clock.advance(TROUBLE_SECONDS)
        world.custody.services.window.rejected(world.queues.queue(pairs[1]), full, again=True)
        self.assertEqual(5, len(world.record.list()))

    def test_error_of_a_full_share(self) -> None:
        """The error for a stanza says whether the share of the peer is full, or all of the queue."""
        for bound, text in (("share", b"queue-full; share of the peer)"), ("spool", b"queue-full)")):
            world = World()
            world.next_hop.ready = False
            world.accept(stanza("1"))
            (held,) = world.queue.pair_queue.not_in_flight()
            world.queue.overflow.begin([held], SpoolFull("full", bound))  # type: ignore[arg-type]
            (error,) = world.back.sent
            self.assertIn(text, error)

    def test_an_error_has_nowhere_to_go(self) -> None:
        """A stanza that must not be answered by an error waits in memory, and does not delay those that may: answers to pings come with them."""
        world = World(disk=10)
        world.next_hop.ready = False
        source = Source()
        world.queue.accept([stanza("1", type="error")], source)
        world.clock.advance(WINDOW)
        world.queue.accept([stanza("2")], source)
        self.assertEqual((len(world.queue.pair_queue), source.paused), (2, False))
        world.clock.advance(WINDOW)
        self.assertEqual((len(world.queue.pair_queue), ids(world.back.sent)), (1, "2"))

    def test_nowhere_to_go_and_crowded(self) -> None:
        """A shared source is paused too if the queue has filled half of its memory, even while the operator holds the queue."""
        world = World(disk=10, memory=16000)
        world.next_hop.ready = world.back.ready = False
        world.queue.held = True
        shared = Source(shared=True)
        world.queue.accept([stanza("1")], shared)
        world.clock.advance(WINDOW)
        world.queue.accept([stanza("2"), stanza("3"), stanza("4")], shared)
        self.assertTrue(shared.paused)

    def test_slow_disk(self) -> None:
        """Stanzas that a slow disk has not stored fill the memory. Every source, shared or not, is paused until they are stored."""
        world = World(memory=16000)
        world.next_hop.ready, world.hold_back = False, True
        source, shared = Source(), Source(shared=True)
        world.queue.accept([stanza("1")], source)
        world.queue.accept([stanza("2")], shared)
        world.clock.advance(WINDOW)
        self.assertEqual((source.paused, shared.paused), (False, False))
        world.queue.accept([stanza("3"), stanza("4")], source)
        world.queue.accept([stanza("5")], shared)
        self.assertEqual((source.paused, shared.paused), (True, True))
        world.clock.advance(WINDOW)
        world.answer()
        self.assertEqual((world.spooled(), source.paused, shared.paused), (["1", "2", "3", "4", "5"], False, False))

    def test_stalled_disk(self) -> None:
        """A disk that does not answer for long pauses every source at once, if the next hop takes nothing."""
        world = World()
        world.next_hop.ready, world.hold_back = False, True
        shared = Source(shared=True)
        world.queue.accept([stanza("1")], shared)
        world.clock.advance(WINDOW)
        self.patch(MemorySpool, "stalled", True)
        world.queue.accept([stanza("2")], shared)
        self.assertTrue(shared.paused)

    def test_said_once(self) -> None:
        """A full spool is reported once a minute and asked again every second."""
        world = World(disk=10)
        world.next_hop.ready = world.back.ready = False
        for id in "123":
            world.accept(stanza(id))
            world.clock.advance(WINDOW)
        self.assertEqual(len(world.record.list("")), 1)
        self.assertEqual(world.record.list("")[0].times, 1)
        self.assertTrue(world.queue.overflow.active)
        world.spool.raise_limit(1000)
        world.clock.advance(1)
        self.assertEqual(world.spooled(), [])
        world.custody.expiry.sweep()
        self.assertEqual((world.spooled(), world.settled), (["1", "2", "3"], ["1", "2", "3"]))

    def test_error_in_place_of_the_stanza(self) -> None:
        """The error replaces a spooled stanza in one commit. After a crash exactly one of the two is there."""
        world = World()
        world.next_hop.ready = world.back.ready = False
        world.accept(stanza("q", "iq", "get"))
        world.clock.advance(WINDOW)
        removed: list[object] = []
        self.patch(world.spool, "remove_each", lambda *given: removed.append(given))
        world.clock.advance(31)
        world.custody.expiry.sweep()
        self.assertEqual((removed, world.spooled(), [row.pair for row in world.summaries()]), ([], [], [OUT.inverse]))

    def test_error_without_room(self) -> None:
        """An answered stanza stays in the spool until its error is safe, also if the error has no room there."""
        world = World()
        world.next_hop.ready = world.back.ready = False
        world.accept(stanza("q", "iq", "get"))
        world.clock.advance(WINDOW)
        self.patch(world.spool, "_limit", 10)
        world.clock.advance(31)
        world.custody.expiry.sweep()
        self.assertEqual((world.spooled(), len(world.queue.pair_queue)), (["q"], 0))
        world.custody.expiry.sweep()
        self.assertEqual((world.spooled(), len(world.queues.queue(OUT.inverse).pair_queue)), (["q"], 1))
        world.back.ready = True
        world.queues.queue(OUT.inverse).next_hop_ready()
        self.assertEqual((ids(world.back.sent), world.spooled()), ("q", []))

    def test_answered_and_not_struck_off(self) -> None:
        """An answered stanza that is still in the spool is not read back. It is not removed together with those behind it."""
        world = World()
        world.next_hop.ready = world.back.ready = False
        world.custody.services.relief.resident = 0
        world.accept(stanza("q", "iq", "get"), stanza("1"))
        world.clock.advance(WINDOW)
        world.clock.advance(31)
        self.patch(world.spool, "_limit", 10)
        world.custody.expiry.sweep()
        world.next_hop.ready = True
        world.queue.next_hop_ready()
        world.queue.acknowledged(1)
        self.assertEqual((ids(world.next_hop.sent), world.spooled(), len(world.queue.pair_queue)), ("1", ["q"], 0))
        world.back.ready = True
        world.queues.queue(OUT.inverse).next_hop_ready()
        self.assertEqual((ids(world.back.sent), world.spooled()), ("q", []))

    def test_more_than_memory(self) -> None:
        """A long queue is on disk, and memory holds its head. It is delivered from there in order, in parts."""
        world = World(disk=1 << 24, memory=4 << 20)
        world.next_hop.ready = False
        world.next_hop.acknowledges = False
        names = [f"s{number}" for number in range(40)]
        for name in names:
            world.accept(stanza(name, size=CHUNK // 4))
            world.clock.advance(WINDOW)
        self.assertLess(world.queue.pair_queue.bytes, 5 * CHUNK)
        self.assertEqual((len(world.queue.pair_queue), world.settled), (40, names))
        world.next_hop.ready = True
        world.queue.next_hop_ready()
        self.assertEqual(re.findall(r"s\d+", ids(world.next_hop.sent)), names)
        self.assertEqual((len(world.queue.pair_queue), world.spool.count, world.custody.services.relief.memory.used), (0, 0, 0))

    def test_evicted_while_the_spool_is_read(self) -> None:
        """Stanzas that leave memory again during a read of the spool are not overtaken by what is read (a lost stream, a slow disk)."""
        world = World(memory=1 << 16, share=0.5)  # one stanza stays in memory
        world.next_hop.ready = False
        world.accept(*(stanza(name) for name in "123456"))
        world.clock.advance(WINDOW)
        self.patch(flows, "CHUNK", 50)  # two stanzas
        world.hold_back = True
        world.next_hop.ready = True
        world.queue.next_hop_ready()
        world.accept(stanza("7"))
        world.clock.advance(WINDOW)
        world.later.pop(0)()  # the first ones are in memory and in flight, and more is requested
        world.next_hop.ready = False
        world.queue.stream_lost()
        world.later.pop(0)()  # the last stanza is spooled, so that the first ones may leave memory again
        world.next_hop.ready = True
        world.next_hop.sent.clear()
        world.hold_back = False
        world.answer()
        world.queue.next_hop_ready()
        self.assertEqual(ids(world.next_hop.sent), "1234567")
        world.queue.acknowledged(7)
        self.assertEqual((len(world.queue.pair_queue), world.spool.count, world.custody.services.relief.memory.used), (0, 0, 0))

    def test_grown_while_the_spool_is_read(self) -> None:
        """An empty answer, because all those stanzas have ended, says nothing about stanzas evicted since the request."""
        world = World()
        world.next_hop.ready = False
        world.queue.pair_queue.restore(1, 1, 1, 0.0)
        world.hold_back = True
        world.queue.spooled_range.read_on(CHUNK)
        pair_queue = world.queue.pair_queue
        pair_queue.spooled_range, pair_queue.only_spooled = (0, 2), 1
        world.answer()
        self.assertEqual((pair_queue.spooled_range, pair_queue.only_spooled), ((0, 2), 1))
        pair_queue.spooled_range, pair_queue.only_spooled = (0, 2), 0
        world.queue.spooled_range.read_on(CHUNK)
        world.answer()
        self.assertIsNone(pair_queue.spooled_range)

    def test_ended_while_the_spool_is_read(self) -> None:
        """A stanza that has ended does not come back with an older answer of the spool, and does not end twice."""
        world = World(memory=1 << 16, share=0.5)  # one stanza stays in memory
        world.next_hop.ready = False
        world.accept(stanza("1"), stanza("2"))
        world.clock.advance(WINDOW)
        world.hold_back = True
        world.accept(stanza("3"), stanza("q", "iq", "get"), stanza("4"))
        world.clock.advance(WINDOW)
        world.next_hop.ready = True
        world.queue.next_hop_ready()  # the spool is asked for the stanzas behind 1
        world.clock.advance(31)
        world.custody.expiry.sweep()
        self.assertEqual(ids(world.back.sent), "q")
        world.later.pop(0)()  # the last batch is safe and leaves memory: the spool is asked for it too
        self.assertEqual((world.queue.pair_queue.spooled_range, world.queue.pair_queue.only_spooled), ((1, 5), 3))
        world.hold_back = False
        world.answer()
        self.assertEqual((ids(world.next_hop.sent), ids(world.back.sent)), ("1234", "q"))
        world.queue.acknowledged(4)
        self.assertEqual((len(world.queue.pair_queue), world.spool.count, world.custody.services.relief.memory.used), (0, 0, 0))

    def test_dropped_while_what_expired_is_looked_for(self) -> None:
        """A stanza that the operator drops while the spool looks for expired ones is bounced once."""
        for drop_first in (True, False):
            world = World(memory=1 << 16, share=0.5)  # one stanza stays in memory
            world.next_hop.ready = False
            world.accept(stanza("1"), stanza("q", "iq", "get"))
            world.clock.advance(WINDOW)
            world.clock.advance(31)
            world.hold_back = True
            if drop_first:
                world.queue.drop(False, 2)
            world.custody.expiry.sweep()
            if not drop_first:
                world.queue.drop(False, 2)
            world.hold_back = False
            world.answer()
            self.assertEqual((ids(world.back.sent), world.spooled(), len(world.queue.pair_queue)), ("q", ["1"], 1))

    def test_restored(self) -> None:
        """After a start every queue in the spool continues, in order, before anything new."""
        before = World()
        before.next_hop.ready = False
        before.accept(stanza("1"), stanza("2"))
        before.clock.advance(WINDOW)
        after = World(spool=before.spool)
        after.next_hop.acknowledges = False
        self.assertEqual(self.successResultOf(after.custody.restore.restore_all()), 1)
        after.accept(stanza("3"))
        self.assertEqual((ids(after.next_hop.sent), after.spooled()), ("123", []))

    def test_contacted(self) -> None:
        """A contact of a peer wakes the queues for it and no others. A forgotten queue is not woken."""
        world = World()
        world.next_hop.ready = False
        world.accept(stanza("1"))
        world.queues.queue(OUT.inverse)
        world.queues.retry_now(THERE)
        world.queues.retry_now(Domain.parse("elsewhere.example"))
        self.assertEqual((world.next_hop.contacts, world.back.contacts), (1, 0))
        world.queue.give_up(Cause.NO_SUCH_DOMAIN)
        world.back.ready = False
        world.custody.expiry.sweep()
        world.queues.retry_now(THERE)
        self.assertEqual((list(world.queues), world.queues._towards, world.next_hop.contacts), ([], {}, 1))

    def test_positions_are_never_used_again(self) -> None:
        """A removal that a full disk delays does not remove later stanzas, even if the queue was forgotten meanwhile."""
        world = World()
        owed: list[int] = []
        self.patch(world.spool, "remove", lambda pair, up_to: owed.append(up_to))
        world.accept(stanza("1"), stanza("2"))
        world.clock.advance(WINDOW)
        world.queue.acknowledged(2)
        world.next_hop.ready = False
        world.custody.expiry.sweep()
        self.assertEqual((list(world.queues), owed), ([], [2]))
        world.accept(stanza("3"))
        world.clock.advance(WINDOW)
        MemorySpool.remove(world.spool, OUT, owed[0])
        self.assertEqual(world.spooled(), ["3"])

    def test_relieved_while_it_is_relieved(self) -> None:
        """Relieving the next hop may free it at once, and so relieve the queue during its own relief. Each source is resumed once."""
        world = World()
        world.next_hop.slow = True
        resumed: list[int] = []
        sources: list[Any] = [
            Mock(shared=False, resume=lambda holder, number=number: resumed.append(number))
            for number in range(3)
        ]
        for source in sources:
            world.queue.accept([stanza("1")], source)
        self.patch(type(world.queue.pair_queue), "crowded", True)

        def freed() -> None:
            world.next_hop.press = lambda: None
            world.next_hop.slow = False
            self.patch(type(world.queue.pair_queue), "crowded", False)
            world.queue.relieve()

        world.next_hop.press = freed
        world.queue.relieve()
        self.assertEqual(sorted(resumed), [0, 1, 2])

    def test_expires_on_disk(self) -> None:
        """Stanzas that are only on disk are bounced in time too."""
        before = World()
        before.next_hop.ready = False
        before.accept(stanza("q", "iq", "get"), stanza("m"))
        before.clock.advance(WINDOW)
        after = World(spool=before.spool)
        after.next_hop.ready = False
        after.custody.restore.restore_all()
        after.clock.advance(31)
        after.custody.expiry.sweep()
        self.assertEqual((ids(after.back.sent), after.spooled(), len(after.queue.pair_queue)), ("q", ["m"], 1))

    def test_expires_while_it_is_held(self) -> None:
        """A stanza that the operator held until it expired is bounced as held too long, whatever the last attempt's cause; on disk too."""
        for on_disk in (False, True):
            world = World()
            world.next_hop.ready = False
            world.accept(stanza("q", "iq", "get"))
            if on_disk:
                world.clock.advance(WINDOW)
            world.queue.hold()
            world.clock.advance(31)
            world.custody.expiry.sweep()
            self.assertEqual((ids(world.back.sent), len(world.queue.pair_queue)), ("q", 0))
            self.assertIn(b"could not be delivered in time", b"".join(bytes(each) for each in world.back.sent))

    def test_given_up(self) -> None:
        """A final cause also bounces what is on disk."""
        before = World()
        before.next_hop.ready = False
        before.accept(stanza("1"), stanza("2"))
        before.clock.advance(WINDOW)
        after = World(spool=before.spool)
        after.next_hop.ready = False
        after.custody.restore.restore_all()
        after.queue.give_up(Cause.NO_SUCH_DOMAIN)
        self.assertEqual((ids(after.back.sent), after.spooled(), len(after.queue.pair_queue)), ("12", [], 0))

    def test_stop(self) -> None:
        """A stop spools everything that was not passed on, without waiting for the window."""
        world = World()
        world.accept(stanza("1"))
        world.next_hop.ready = False
        world.accept(stanza("2"))
        stop(world.custody)
        self.assertEqual((world.spooled(), world.settled), (["1", "2"], ["1", "2"]))


    def test_stop_beyond_the_bound(self) -> None:
        """A stop spools what is held even beyond the spool's limit: it is not new custody."""
        world = World(disk=10)
        world.next_hop.ready = world.back.ready = False
        world.accept(stanza("1"))
        world.queue.accept([stanza("2")])
        world.clock.advance(WINDOW)
        self.assertEqual(world.spooled(), [])
        world.clock.advance(WINDOW)
        world.custody.quiesce()
        self.assertEqual((world.spooled(), world.settled), (["1", "2"], ["1"]))

    def test_stop_during_a_commit(self) -> None:
        """Stanzas that arrive during a commit at a stop are spooled after it, never before the earlier ones."""
        world = World()
        world.next_hop.ready = False
        world.hold_back = True
        world.accept(stanza("1"))
        world.clock.advance(WINDOW)
        world.accept(stanza("2"))
        left = Deferred.fromCoroutine(world.custody.hand_to_spool())
        self.assertEqual((len(world.later), world.spool.count), (2, 1))
        world.answer()
        self.successResultOf(left)
        self.assertEqual(world.spooled(), ["1", "2"])

    def test_both_ways_are_asked_for(self) -> None:
        """At a stop, stanzas that the disk does not store ask for a stream to the next server and for one back to the sender."""
        world = World(disk=10)
        self.patch(world.spool, "raise_limit", lambda by: None)
        world.next_hop.ready = world.back.ready = False
        world.custody.quiesce()
        world.accept(presence("1"))
        self.assertEqual((world.next_hop.asked, world.back.asked), (0, 0))
        world.clock.advance(WINDOW)
        self.assertGreater(world.next_hop.asked, 0)
        self.assertGreater(world.back.asked, 0)
        world.back.ready = True
        world.clock.advance(WINDOW)
        self.assertEqual((ids(world.back.sent), bool(world.queue._presence)), ("1", False))

    def test_stop_without_room(self) -> None:
        """At a stop, stanzas that the spool does not store are bounced while the sender can be reached, even if writing is paused."""
        world = World(disk=10)
        self.patch(world.spool, "raise_limit", lambda by: None)
        world.next_hop.ready = False
        world.custody.quiesce()
        world.queue.accept([stanza("1")])
        world.queues.queue(OUT.inverse).quiesced = True
        stop(world.custody)
        self.assertEqual((ids(world.back.sent), world.back.ready), ("1", False))


class MarkTests(SynchronousTestCase):
    """R33: a spooled request is written to the wire only after the spool has marked it."""

    def setUp(self) -> None:
        self.world = World()
        self.world.next_hop.ready = False
        self.world.accept(stanza("m"), stanza("q", "iq", "get"), stanza("r", "iq", "result"), stanza("s", "iq", "set"), stanza("n"))
        self.world.clock.advance(WINDOW)
        self.world.hold_back = True

    def go(self) -> str:
        """Make the next hop ready; return what it is sent at once."""
        self.world.next_hop.ready = True
        self.world.queue.next_hop_ready()
        return ids(self.world.next_hop.sent)

    def test_marked_first(self) -> None:
        """Stanzas before the first request are sent at once. The rest follow in order after one call marks all requests nearby."""
        self.assertEqual(self.go(), "m")
        self.world.queue.next_hop_ready()
        self.world.queue.accept([stanza("o")])
        self.assertEqual((ids(self.world.next_hop.sent), len(self.world.later)), ("m", 1))
        self.world.answer()
        self.assertEqual(ids(self.world.next_hop.sent), "mqrsno")
        self.world.hold_back = False
        after = World(spool=self.world.spool)
        after.custody.restore.restore_all()
        self.assertEqual((ids(after.next_hop.sent), ids(after.back.sent)), ("mrn", "qs"))

    def test_the_hop_goes_meanwhile(self) -> None:
        """A request that was marked and then not written is sent on the next stream."""
        self.go()
        self.world.next_hop.ready = False
        self.world.queue.stream_lost()
        self.world.answer()
        self.assertEqual(ids(self.world.next_hop.sent), "m")
        self.assertEqual(self.go(), "mmqrsn")

    def test_cannot_be_marked(self) -> None:
        """If the disk stores no mark, the requests are bounced. Nothing waits for them."""
        self.patch(self.world.spool, "mark_written", lambda pair, positions, done: done(SpoolFull("no room")))
        self.assertEqual(self.go(), "mrn")
        self.assertEqual(ids(self.world.back.sent), "qs")
        self.assertIn(b"resource-constraint", self.world.back.sent[0])

    def test_no_answer(self) -> None:
        """If the spool does not answer in time, the requests are bounced, once. Stanzas behind them go on."""
        self.go()
        self.world.clock.advance(MARK_SECONDS - 0.1)
        self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent)), ("m", ""))
        self.world.clock.advance(0.1)
        self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent)), ("mrn", "qs"))
        self.assertIn(b"spool-slow", self.world.back.sent[0])
        self.world.answer()
        self.world.queue.acknowledged(3)
        self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent), self.world.spooled()), ("mrn", "qs", []))

    def test_no_answer_and_more_requests(self) -> None:
        """As long as an answer is overdue, further requests that the spool must mark wait for nothing. Afterwards they are marked."""
        self.go()
        self.world.next_hop.ready = False
        self.world.accept(stanza("t", "iq", "get"), stanza("u"))
        self.world.clock.advance(MARK_SECONDS)
        self.world.next_hop.ready = True
        self.world.queue.next_hop_ready()
        self.world.clock.advance(0)
        self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent)), ("mrnu", "qst"))
        self.world.next_hop.ready = False
        self.world.accept(stanza("v", "iq", "get"))
        self.world.clock.advance(WINDOW)
        self.world.answer()
        self.world.next_hop.ready = True
        self.world.queue.next_hop_ready()
        self.assertEqual(ids(self.world.next_hop.sent), "mrnu")
        self.world.answer()
        self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent)), ("mrnuv", "qst"))

    def test_no_answer_and_nothing_is_written(self) -> None:
        """While the operator holds the queue, or the gateway stops, no request is given up: nothing could be written instead."""
        for end, go_on in (("hold", "release"), ("quiesce", "resume")):
            self.setUp()
            self.go()
            getattr(self.world.queue, end)()
            self.world.clock.advance(MARK_SECONDS)
            self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent)), ("m", ""))
            getattr(self.world.queue, go_on)()
            self.world.clock.advance(0)
            self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent)), ("mrn", "qs"))

    def test_no_answer_and_parked(self) -> None:
        """A request that the operator holds meanwhile is not given up. It is written when the hold and the marking have ended."""
        self.go()
        self.world.queue.hold(2)
        self.world.clock.advance(MARK_SECONDS)
        self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent)), ("mrn", "s"))
        self.world.answer()
        self.world.queue.release(2)
        self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent)), ("mrnq", "s"))

    def test_no_answer_is_recorded(self) -> None:
        """The operator sees that the spool was too slow."""
        self.go()
        self.world.clock.advance(MARK_SECONDS)
        self.assertEqual([Cause.SPOOL_SLOW], [each.ending.cause for each in self.world.record.list()])

    def test_many_are_given_up(self) -> None:
        """Many requests are given up in steps, also if an error comes meanwhile. A mark that is stored lets the others go on."""
        number = 2 * BOUNCED_AT_ONCE + 1
        give_up = DeliveryQueue.not_marked
        for error, steps in ((None, [BOUNCED_AT_ONCE]), (SpoolFull("no room"), [BOUNCED_AT_ONCE, BOUNCED_AT_ONCE, 1])):
            world, given_up = World(memory=1 << 24), list[int]()
            answers = list[Callable[[SpoolError | None], None]]()

            def not_marked(queue: DeliveryQueue, gone: list[QueuedStanza], why: Ending) -> None:
                given_up.append(len(gone))  # noqa: B023
                give_up(queue, gone, why)
                if answers:  # noqa: B023
                    answers.pop()(error)  # noqa: B023

            self.patch(DeliveryQueue, "not_marked", not_marked)
            self.patch(world.spool, "mark_written", lambda pair, positions, done, to=answers: to.append(done))
            world.next_hop.ready = False
            world.accept(*(stanza(f"q{each}", "iq", "get") for each in range(number)))
            world.clock.advance(WINDOW)
            world.next_hop.ready = True
            world.queue.next_hop_ready()
            world.clock.advance(MARK_SECONDS)
            world.clock.advance(0)
            self.assertEqual((steps, sum(steps), number - sum(steps)), (given_up, len(world.back.sent), len(world.next_hop.sent)))

    def test_no_answer_and_an_error(self) -> None:
        """An error that comes later than the requests were given up bounces nothing more. The time leaves no timer."""
        later = list[Callable[[SpoolError], None]]()
        self.patch(self.world.spool, "mark_written", lambda pair, positions, done: later.append(done))
        self.go()
        self.world.clock.advance(MARK_SECONDS)
        later.pop()(SpoolFull("no room"))
        self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent)), ("mrn", "qs"))

    def test_forgotten(self) -> None:
        """A queue that is cut off gives nothing up, and an answer that comes later does nothing."""
        self.go()
        self.world.queue.cut_off()
        self.world.clock.advance(MARK_SECONDS)
        self.world.answer()
        self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent)), ("m", ""))

    def test_parked(self) -> None:
        """A request that the operator holds delays no other stanza, and is not marked."""
        self.world.queue.parked = frozenset({2})
        self.assertEqual(self.go(), "mr")
        self.world.answer()
        self.assertEqual(ids(self.world.next_hop.sent), "mrsn")
        self.assertEqual([row.written for row in self.world.spool._queues[OUT].values() if row.position == 2], [False])


class DoubtTests(SynchronousTestCase):
    """Tests of stanzas that were in flight when the stream was lost."""

    def test_goes_again(self) -> None:
        """R33: messages and presence in doubt are sent again, in order. An IQ request gets one remote-server-timeout."""
        world = World()
        world.accept(stanza("1"), stanza("q", "iq", "set"), stanza("r", "iq", "result"), stanza("2"))
        world.next_hop.ready = False
        world.accept(stanza("3"))
        world.queue.stream_lost()
        self.assertEqual(ids(world.back.sent), "q")
        self.assertIn(b"remote-server-timeout", world.back.sent[0])
        world.next_hop.ready = True
        world.queue.next_hop_ready()
        self.assertEqual(ids(world.next_hop.sent), "1qr2" + "1r23")
        self.assertEqual(world.record.stanzas["outbound", "message", "resent"], 2)

    def test_another_next_hop(self) -> None:
        """R33: another kind of server takes over: what was in flight is in doubt, and goes first; limits are those of the new one."""
        world = World()
        world.accept(stanza("1"), stanza("q", "iq", "set"))
        old, world.next_hop = world.next_hop, FakeHop()
        world.queue.limits_changed(NextHopLimits(5))
        self.patch(old, "dispose", lambda: world.settled.append("old one disposed"))
        world.queues.change_next_hop(world.queue)
        world.accept(stanza("2"))
        self.assertEqual((ids(world.next_hop.sent), ids(world.back.sent)), ("12", "q"))
        self.assertEqual((["old one disposed"], False), (world.settled, old.ready))

    def test_another_next_hop_during_a_stop(self) -> None:
        """A queue that writes nothing, because the gateway stops, writes nothing to the new one either; nor does one that is held."""
        for stopping in (True, False):
            world = World()
            world.next_hop.ready = False
            world.accept(stanza("1"))
            if stopping:
                world.queue.quiesce()
            else:
                world.queue.hold()
            world.next_hop = FakeHop(ready=stopping)
            world.queues.change_next_hop(world.queue)
            self.assertEqual(([], 0, 1), (world.next_hop.sent, world.next_hop.asked, len(world.queue.pair_queue)))

    def test_a_late_answer(self) -> None:
        """R33: a late answer is dropped once. Other stanzas with the same id are not."""
        world = World()
        world.accept(stanza("q", "iq", "get"))
        world.next_hop.ready = False
        world.queue.stream_lost()
        back = world.queues.queue(OUT.inverse)
        other = Stanza("iq", b"<iq id='q'/>", "v@here.example", "u@there.example", "result", "q")
        late = Stanza("iq", b"<iq id='q'/>", "u@here.example", "u@there.example", "result", "q")
        world.back.sent.clear()
        back.accept([other, late])
        back.accept([late])
        self.assertEqual(ids(world.back.sent), "qq")

    def test_asked_again(self) -> None:
        """R33: a request in doubt is asked again with the same id: its answer is delivered, and one more answer is dropped."""
        world = World()
        answer = Stanza("iq", b"<iq type='result' id='q'/>", "u@here.example", "u@there.example", "result", "q")
        world.accept(stanza("q", "iq", "get"))
        world.queue.stream_lost()
        world.accept(stanza("q", "iq", "get"))
        world.back.sent.clear()
        for _ in range(2):
            world.queues.queue(OUT.inverse).accept([answer])
            self.assertEqual(world.back.sent, [answer.data])

    def test_asked_again_while_in_flight(self) -> None:
        """R33: so is the answer to a request that was asked again while the first was in flight, and waited."""
        world = World()
        answer = Stanza("iq", b"<iq type='result' id='q'/>", "u@here.example", "u@there.example", "result", "q")
        world.accept(stanza("q", "iq", "get"))
        world.next_hop.ready = False
        world.accept(stanza("q", "iq", "get"), stanza("r", "iq", "get"))
        world.queue.stream_lost()
        self.assertEqual(ids(world.back.sent), "q")
        world.next_hop.ready = True
        world.queue.next_hop_ready()
        self.assertEqual(ids(world.next_hop.sent), "qqr")
        world.back.sent.clear()
        for _ in range(2):
            world.queues.queue(OUT.inverse).accept([answer])
            self.assertEqual(world.back.sent, [answer.data])

    def test_many_with_one_id(self) -> None:
        """Requests that are bounced in steps do not count as sent again: one answer for each that waits is delivered, and no more.

        Those that wait are noted together: a peer may send thousands with one id.
        """
        world = World()
        answer = Stanza("iq", b"<iq type='result' id='q'/>", "u@here.example", "u@there.example", "result", "q")
        world.accept(*(stanza("q", "iq", "get") for _ in range(BOUNCED_AT_ONCE + 10)))
        world.next_hop.ready = False
        world.accept(*(stanza("q", "iq", "get") for _ in range(20)))
        late = world.queue._services.late
        noted: list[int] = []
        note = late.still_asked

        def still_asked(pair: Pair, request: Stanza, number: int) -> None:
            noted.append(number)
            note(pair, request, number)

        self.patch(late, "still_asked", still_asked)
        world.queue.stream_lost()
        world.clock.advance(0)
        self.assertEqual((len(world.back.sent), noted), (BOUNCED_AT_ONCE + 10, [20, 20]))
        world.back.sent.clear()
        for _ in range(25):
            world.queues.queue(OUT.inverse).accept([answer])
        self.assertEqual(len(world.back.sent), 20 + 4)

    def test_an_iq_on_its_way_at_a_crash(self) -> None:
        """R33: an IQ that was on the wire at a crash is not sent again after the next start."""
        before = World()
        before.accept(stanza("q", "iq", "get"), stanza("m"))
        before.clock.advance(WINDOW)
        after = World(spool=before.spool)
        after.next_hop.acknowledges = False
        after.custody.restore.restore_all()
        after.queue.next_hop_ready()
        self.assertEqual((ids(after.next_hop.sent), ids(after.back.sent)), ("m", "q"))

    def test_an_iq_spooled_before_its_way(self) -> None:
        """R33: the same holds for an IQ that was spooled while it waited, and written later."""
        before = World()
        before.next_hop.ready = False
        before.accept(stanza("q", "iq", "get"))
        before.clock.advance(WINDOW)
        before.next_hop.ready = True
        before.queue.next_hop_ready()
        after = World(spool=before.spool)
        after.custody.restore.restore_all()
        after.queue.next_hop_ready()
        self.assertEqual((ids(after.next_hop.sent), ids(after.back.sent)), ("", "q"))


class PoisonTests(SynchronousTestCase):
    """Tests of a stanza on which the next hop closes its stream."""

    def test_isolated(self) -> None:
        """Suspects are sent one at a time. The culprit is bounced with the cause and put in quarantine, and the queue continues."""
        world = World()
        world.accept(stanza("1"), stanza("bad"), stanza("3"))
        world.queue.stream_lost("bad-format")
        world.next_hop.sent.clear()
        world.queue.next_hop_ready()
        self.assertEqual(ids(world.next_hop.sent), "1")
        world.accept(stanza("4"))
        self.assertEqual(ids(world.next_hop.sent), "1")
        world.queue.acknowledged(1)
        self.assertEqual(ids(world.next_hop.sent), "1bad")
        world.queue.stream_lost("bad-format")
        self.assertEqual(ids(world.back.sent), "bad")
        self.assertIn(b"(queue: poison; bad-format)</text>", world.back.sent[0])
        world.next_hop.sent.clear()
        world.queue.next_hop_ready()
        self.assertEqual((ids(world.next_hop.sent), world.queue.suspects), ("34", 0))
        pen: list[Quarantined] = []
        world.spool.quarantined(10, answer_into(pen))
        world.answer()
        self.assertEqual([(aside.spooled.stanza.id, aside.cause) for aside in pen], [("bad", "bad-format")])

    def test_other_causes(self) -> None:
        """A stream that is lost for another reason accuses no stanza."""
        world = World()
        world.accept(stanza("1"))
        for _ in range(3):
            world.queue.stream_lost()
            world.queue.next_hop_ready()
        self.assertEqual((world.back.sent, world.queue.suspects, ids(world.next_hop.sent)), ([], 0, "1111"))


class PresenceTests(SynchronousTestCase):
    """R40: of waiting presence only the newest is kept."""

    def offer(self, *stanzas: Stanza) -> tuple[World, str]:
        """Return what is delivered of these stanzas once the next hop is ready."""
        world = World()
        world.next_hop.ready, world.next_hop.acknowledges = False, False
        for each in stanzas:
            world.accept(each)
        world.clock.advance(WINDOW)
        world.next_hop.ready = True
        world.queue.next_hop_ready()
        return world, ids(world.next_hop.sent)

    def test_newest(self) -> None:
        """R40: the newest presence of a pair of addresses replaces the older ones. Their custody ends, spooled or not."""
        world, delivered = self.offer(presence("1"), presence("2", to="x@there.example"), presence("3", type="unavailable"), presence("4"))
        self.assertEqual((delivered, world.settled[:2], world.spooled()), ("24", ["1", "3"], []))
        self.assertEqual(world.record.stanzas["outbound", "presence", "coalesced"], 2)

    def test_spooled(self) -> None:
        """R40: a presence in the spool is replaced too."""
        world = World()
        world.next_hop.ready = False
        world.accept(presence("1"))
        world.clock.advance(WINDOW)
        world.accept(presence("2"))
        world.clock.advance(WINDOW)
        self.assertEqual(world.spooled(), ["2"])

    def test_not_across_another_stanza(self) -> None:
        """R40: if another stanza of the same addresses is between two presences, both are kept."""
        message = stanza("m")
        message.from_ = presence("1").from_
        self.assertEqual(self.offer(presence("1"), message, presence("2"))[1], "1m2")

    def test_exceptions(self) -> None:
        """R40: a probe, an error, a subscription, a room's presence, or one without a resource is never replaced."""
        for one in (
            presence("1", type="probe"), presence("1", type="error"), presence("1", type="subscribe"),
            presence("1", payload="http://jabber.org/protocol/muc}x"), presence("1", payload="http://jabber.org/protocol/muc#user}x"),
            presence("1", from_="u@here.example"),
        ):
            self.assertEqual(self.offer(one, one)[1], "11", one)

    def test_not_what_is_on_its_way(self) -> None:
        """R40: a presence that was written is not replaced."""
        world = World()
        world.accept(presence("1"))
        world.next_hop.ready = False
        world.accept(presence("2"))
        world.queue.stream_lost()
        world.next_hop.ready = True
        world.queue.next_hop_ready()
        self.assertEqual(ids(world.next_hop.sent), "112")


class BarrierTests(SynchronousTestCase):
    """R41: the answer to the gateway's own ping is consumed."""

    def test_consumed(self) -> None:
        """R41: the expected answer is never forwarded, whatever its content. All other stanzas are. Upstream acknowledgements count both."""
        world = World()
        world.next_hop.acknowledges = False
        answered: list[bool] = []
        world.queue.replies.expect("p", lambda: answered.append(True))
        world.accept(stanza("1"), stanza("p", "iq", "error"), stanza("2"))
        self.assertEqual((ids(world.next_hop.sent), answered, world.settled), ("12", [True], ["1p2"]))
        world.queue.replies.give_up("p")
        world.accept(stanza("p", "iq", "result"))
        self.assertEqual(ids(world.next_hop.sent), "12p")

    def test_requests_are_no_answers(self) -> None:
        """R41: only a result or an error is an answer."""
        world = World()
        world.queue.replies.expect("p", self.fail)
        world.accept(stanza("p", "iq", "get"), stanza("p"))
        self.assertEqual(ids(world.next_hop.sent), "pp")


class StepTests(SynchronousTestCase):
    """Tests of a long queue that is bounced, or dropped, in steps."""

    def setUp(self) -> None:
        self.steps: list[Callable[[], None]] = []
        self.world = World(soon=self.steps.append)
        self.world.next_hop.ready = False
        self.world.queue.accept([stanza(str(number)) for number in range(BOUNCED_AT_ONCE + 5)])

    def step(self) -> None:
        """Run one turn of the reactor, in which everything due is done."""
        steps, self.steps[:] = list(self.steps), []
        for each in steps:
            each()

    def test_nothing_of_it_is_passed_on(self) -> None:
        """A next hop that becomes ready meanwhile gets only later stanzas, and only after the others are bounced."""
        self.world.queue.give_up(Cause.NOT_ALLOWED)
        self.world.next_hop.ready = True
        self.assertEqual(self.world.queue.blocked_by(), "being-dropped")
        self.world.queue.accept([stanza("new")])
        self.assertEqual(self.world.next_hop.sent, [])
        self.step()
        self.assertEqual((len(self.world.back.sent), len(self.world.next_hop.sent)), (BOUNCED_AT_ONCE + 5, 1))

    def test_given_up_again(self) -> None:
        """Stanzas that arrive meanwhile, and are given up too, add no further step."""
        for name in "abc":
            self.world.queue.give_up(Cause.NOT_ALLOWED)
            self.world.queue.accept([stanza(name)])
        self.assertEqual(len(self.steps), 1)
        self.world.queue.give_up(Cause.NOT_ALLOWED)
        self.step()
        self.assertEqual((len(self.world.back.sent), len(self.world.queue.pair_queue)), (BOUNCED_AT_ONCE + 8, 0))

    def test_drop(self) -> None:
        """The number of dropped stanzas is returned at once."""
        self.assertEqual(self.successResultOf(self.world.queue.drop(True)), BOUNCED_AT_ONCE + 5)
        self.step()
        self.assertEqual((len(self.world.queue.pair_queue), self.world.back.sent), (0, []))

    def test_given_up_with_each_stanza(self) -> None:
        """A long queue that is given up with each stanza that comes keeps one ending for all of them."""
        self.world.queue.accept([stanza(str(number)) for number in range(9 * BOUNCED_AT_ONCE)])
        for name in "abcde":
            self.world.queue.accept([stanza(name)])
            self.world.queue.give_up(Cause.NOT_ALLOWED)
        self.assertEqual(len(self.world.queue._endings), 1)
        while self.steps:
            self.step()
        self.assertEqual((len(self.world.back.sent), self.world.queue.blocked_by()), (10 * BOUNCED_AT_ONCE + 10, "next-hop"))

    def test_drop_and_final_cause(self) -> None:
        """A stanza that an operator drops quietly is not bounced for a cause that comes meanwhile. Later stanzas are."""
        self.world.queue.accept([stanza(str(number)) for number in range(2 * BOUNCED_AT_ONCE)])
        self.world.queue.drop(True)
        self.world.queue.accept([stanza("late")])
        self.world.queue.give_up(Cause.NOT_ALLOWED)
        self.assertEqual(("next-hop", "being-dropped"), (self.world.queue.blocked_by(), self.world.queue.waits_for()))
        while self.steps:
            self.step()
        self.assertEqual((len(self.world.back.sent), len(self.world.queue.pair_queue)), (1, 0))
        self.assertEqual(self.world.queue.blocked_by(), "next-hop")

    def test_final_cause_for_what_came_back(self) -> None:
        """A stanza that was in flight when a quiet drop began, and is in doubt, is bounced for a cause that comes meanwhile."""
        world = World(soon=self.steps.append)
        world.accept(stanza("f"))
        world.next_hop.ready = False
        world.queue.accept([stanza(str(number)) for number in range(3 * BOUNCED_AT_ONCE)])
        world.queue.drop(True)
        world.queue.stream_lost()
        world.queue.give_up(Cause.NOT_ALLOWED)
        while self.steps:
            self.step()
        self.assertEqual((len(world.back.sent), len(world.queue.pair_queue), world.settled), (1, 0, ["f"]))

    def stopped(self, world: World) -> None:
        """Stop the custody, and run steps as long as they are due."""
        done = stop(world.custody)
        while self.steps and not done.called:
            self.step()
        self.successResultOf(done)

    def test_two_endings_at_a_stop(self) -> None:
        """A stop completes both endings."""
        self.world.queue.accept([stanza(str(number)) for number in range(2 * BOUNCED_AT_ONCE)])
        self.world.queue.drop(True)
        self.world.queue.accept([stanza("late")])
        self.world.queue.give_up(Cause.NOT_ALLOWED)
        self.stopped(self.world)
        self.assertEqual((len(self.world.back.sent), self.world.spooled()), (1, []))

    def test_stop(self) -> None:
        """Dropped stanzas do not come back after a restart, although the gateway stops before the last step."""
        self.assertEqual(self.successResultOf(self.world.queue.drop(True)), BOUNCED_AT_ONCE + 5)
        self.world.next_hop.ready = False
        self.stopped(self.world)
        self.assertEqual(self.world.spooled(), [])

    def test_stop_turn_by_turn(self) -> None:
        """A stop drops, or bounces, no more in one step than at any other time."""
        for quietly in (True, False):
            world = World(soon=self.steps.append)
            world.next_hop.ready = False
            world.queue.accept([stanza(str(number)) for number in range(10 * BOUNCED_AT_ONCE)])
            world.queue.drop(quietly)
            done, most, before = stop(world.custody), 0, len(world.queue.pair_queue)
            while not done.called:
                steps, self.steps[:] = list(self.steps), []
                for each in steps:
                    each()
                    most, before = max(most, before - len(world.queue.pair_queue)), len(world.queue.pair_queue)
            self.assertEqual((most, before, len(world.back.sent)), (BOUNCED_AT_ONCE, 0, 0 if quietly else 10 * BOUNCED_AT_ONCE))
            self.assertEqual(world.spooled(), [])

    def test_stop_is_bounded(self) -> None:
        """Stanzas that are not dropped in time are in the spool, and delivered after the next start. Without a spool they are bounced at once."""
        for spools in (True, False):
            world = World(soon=self.steps.append) if spools else World(soon=self.steps.append, spools=False)
            world.next_hop.ready = False
            names = [str(number) for number in range(10 * BOUNCED_AT_ONCE)]
            world.queue.accept([stanza(name) for name in names])
            if spools:
                world.queue.drop(quietly=True)
            done = stop(world.custody)
            world.clock.advance(STEP_SECONDS)
            self.step()
            self.successResultOf(done)
            self.assertEqual((world.spooled(), len(world.back.sent)), ([*names[2 * BOUNCED_AT_ONCE:]], 0) if spools else ([], len(names)))
            self.steps.clear()

    def test_stop_before_all_is_read(self) -> None:
        """The same holds for stanzas that only the spool has at the stop, unless it cannot be read."""
        for readable in (True, False):
            world = World(memory=100_000, soon=self.steps.append)
            world.next_hop.ready = False
            for number in range(8 * BOUNCED_AT_ONCE):
                world.queue.accept([stanza(str(number), size=1000)])
                world.clock.advance(WINDOW)
            self.assertEqual(self.successResultOf(world.queue.drop(True)), 8 * BOUNCED_AT_ONCE)
            if not readable:
                self.patch(world.spool, "read", lambda pair, after, at_most, done: done(SpoolError("no")))
                self.step()
            self.stopped(world)
            self.assertEqual(not world.spool.count, readable)

    def test_without_spool(self) -> None:
        """A stop without a spool bounces everything, in steps. Stanzas that an operator had dropped quietly are not bounced."""
        world = World(spools=False, soon=self.steps.append)
        world.next_hop.ready = False
        world.queue.accept([stanza(str(number)) for number in range(2 * BOUNCED_AT_ONCE)])
        world.queue.drop(quietly=True)
        world.queue.accept([stanza(str(number)) for number in range(2 * BOUNCED_AT_ONCE + 5)])
        done, bounced = stop(world.custody), [0]
        while not done.called:
            self.step()
            bounced.append(len(world.back.sent))
        self.assertEqual(bounced[-1], 2 * BOUNCED_AT_ONCE + 5)
        self.assertLessEqual(max(later - earlier for earlier, later in pairwise(bounced)), BOUNCED_AT_ONCE)

    def test_stop_that_fails_for_one_queue(self) -> None:
        """The other queues are spooled all the same."""
        other = self.world.queues.queue(Pair(OUT.sender, Domain.parse("other.example")))
        for name in ("hand_to_spool", "spool_now"):
            self.patch(DeliveryQueue, name, replacing(other, name, raises))
        done = stop(self.world.custody)
        self.successResultOf(done)
        self.assertEqual((len(self.world.spooled()), len(self.flushLoggedErrors(OSError))), (BOUNCED_AT_ONCE + 5, 2))

    def test_requests_in_doubt(self) -> None:
        """Requests in flight on a lost stream are bounced in steps. None is written again, though the next hop is ready."""
        world = World(soon=self.steps.append)
        names = [str(number) for number in range(BOUNCED_AT_ONCE + 5)]
        world.accept(*[stanza(name, "iq", "get") for name in names], stanza("m"))
        world.next_hop.sent.clear()
        world.queue.stream_lost()
        self.assertEqual((len(world.back.sent), world.queue.blocked_by()), (BOUNCED_AT_ONCE, "being-dropped"))
        world.queue.next_hop_ready()
        world.accept(stanza("new"))
        self.assertEqual(world.next_hop.sent, [])
        self.step()
        self.assertEqual(len(world.back.sent), BOUNCED_AT_ONCE + 5)
        self.assertEqual(ids(world.next_hop.sent), "mnew")

    def test_requests_in_doubt_while_it_is_dropped(self) -> None:
        """A stream that is lost during the drop of a long queue does not stop the drop. The queue continues afterwards."""
        world = World(soon=self.steps.append)
        world.accept(*[stanza(str(number), "iq", "get") for number in range(BOUNCED_AT_ONCE + 5)])
        world.next_hop.ready = False
        world.queue.accept([stanza(str(number)) for number in range(2 * BOUNCED_AT_ONCE)])
        world.queue.drop(True)
        world.queue.stream_lost()
        world.next_hop.ready = True
        for _ in range(4):
            self.step()
        self.assertEqual((len(world.back.sent), world.queue.blocked_by()), (BOUNCED_AT_ONCE + 5, None))
        self.assertEqual((len(world.queue.pair_queue), self.steps), (0, []))

    def test_in_doubt_while_it_is_dropped(self) -> None:
        """Stanzas in flight when the drop began are not dropped. If their stream is lost meanwhile, they are sent again."""
        world = World(soon=self.steps.append)
        world.accept(stanza("f"))
        world.next_hop.ready = False
        world.queue.accept([stanza(str(number)) for number in range(2 * BOUNCED_AT_ONCE)])
        self.assertEqual(self.successResultOf(world.queue.drop(True)), 2 * BOUNCED_AT_ONCE)
        world.queue.stream_lost()
        world.next_hop.ready = True
        world.next_hop.sent.clear()
        self.step()
        self.assertEqual((ids(world.next_hop.sent), world.settled, self.steps), ("f", [], []))

    def test_limits(self) -> None:
        """Stanzas beyond new limits of the next hop are bounced in steps; the others are written."""
        self.world.queue.limits_changed(NextHopLimits(1))
        self.assertEqual((len(self.world.back.sent), self.world.queue.blocked_by()), (BOUNCED_AT_ONCE, "next-hop"))
        self.world.next_hop.ready = True
        self.step()
        self.assertEqual((len(self.world.back.sent), self.world.next_hop.sent), (BOUNCED_AT_ONCE + 5, []))

    def test_forgotten(self) -> None:
        """A queue that is emptied and forgotten has no further step."""
        self.world.queue.limits_changed(NextHopLimits(1))
        queue = self.world.queue
        queue.drop(True)
        self.world.queues.forget(OUT)
        self.step()
        self.assertEqual((len(self.world.back.sent), queue.forgotten), (BOUNCED_AT_ONCE, True))

    def test_error_that_cannot_be_made(self) -> None:
        """A step that fails does not block the queue for good."""
        self.patch(type(self.world.custody.services.bounces), "give_up", raises)
        self.assertRaises(OSError, self.world.queue.give_up, Cause.NOT_ALLOWED)
        self.assertRaises(OSError, self.step)
        self.assertEqual(self.world.queue.blocked_by(), "next-hop")


class MemoryTests(SynchronousTestCase):
    """Tests of short memory while an operator holds single stanzas, or during a drop."""

    def made(self, *held: int) -> World:
        """Accept eight stanzas and hold these. The others are in flight, and all are on the disk."""
        world = World()
        world.next_hop.ready = False
        world.queue.accept([stanza(name) for name in "abcdefgh"])
        for position in held:
            world.queue.hold(position)
        world.next_hop.ready = True
        world.queue.next_hop_ready()
        world.clock.advance(WINDOW)
        world.queue.evict(0)
        return world

    def short(self, world: World) -> None:
        """Let other queues use more than half of the memory. Each call of the spool is answered later, a limited number of times."""
        memory = world.custody.services.relief.memory
        memory.used += memory.limit * 6 // 10
        world.queue.evict(0)
        world.hold_back = True

    def answers(self, world: World, steps: Sequence[Callable[[], None]] = ()) -> None:
        for _ in range(400):
            if world.later:
                world.later.pop(0)()
            else:
                for each in [steps.pop() for _ in range(len(steps))]:  # type: ignore[attr-defined]
                    each()
        self.assertEqual([], world.later, "the spool is read again and again")

    def test_lost_behind_one_that_is_held(self) -> None:
        """A stanza in flight behind a held one is not lost with its stream, although all of it leaves memory."""
        world = self.made(3)
        world.next_hop.ready = False
        world.queue.stream_lost()
        world.queue.evict(0)
        world.next_hop.sent.clear()
        world.next_hop.ready = True
        world.queue.release()
        world.queue.acknowledged(8)
        self.assertEqual((ids(world.next_hop.sent), len(world.queue.pair_queue), world.spooled()), ("abcdefgh", 0, []))

    def test_in_flight_between_two_that_are_held(self) -> None:
        """A stanza in flight is not read back with the held ones around it: it would be written twice."""
        world = self.made(3, 7)
        world.queue.next_hop_ready()
        self.assertEqual(ids(world.next_hop.sent), "abdefh")
        world.queue.acknowledged(6)
        world.queue.evict(0)
        world.accept(stanza("i"))
        self.assertEqual((ids(world.next_hop.sent), len(world.queue.pair_queue)), ("abdefhi", 3))

    def test_held_alone(self) -> None:
        """A held stanza is not read back again and again. Those behind it are sent."""
        world = World()
        world.next_hop.ready = False
        for name in "abcdefgh":
            world.queue.accept([stanza(name)])
            world.clock.advance(WINDOW)
        world.queue.hold(1)
        self.short(world)
        world.next_hop.ready = True
        world.queue.next_hop_ready()
        self.answers(world)
        self.assertEqual(ids(world.next_hop.sent), "bcdefgh")

    def test_drop(self) -> None:
        """Stanzas in flight when a drop began, and in doubt now, do not stop the drop."""
        steps: list[Callable[[], None]] = []
        world = World(soon=steps.append)
        world.accept(*[stanza(f"f{number}", size=10_000) for number in range(20)])
        world.next_hop.ready = False
        for number in range(200):
            world.queue.accept([stanza(str(number), size=1000)])
            world.clock.advance(WINDOW)
        self.short(world)
        world.queue.drop(True)
        world.queue.stream_lost()
        self.answers(world, steps)
        self.assertEqual((len(world.queue.pair_queue), world.queue.blocked_by()), (20, "next-hop"))


def raises(*_: object, **__: object) -> None:
    raise OSError("no memory")


class CutOffTests(SynchronousTestCase):
    """Another node has the queue: nothing is written, settled or removed any more, also not after an answer of the spool."""

    def spooled(self, spool: MemorySpool | None = None) -> tuple[World, DeliveryQueue]:
        """Return a world in which only the spool has the three stanzas of a queue."""
        world = World(spool=spool)
        world.next_hop.ready = False
        world.accept(*(stanza(name) for name in "123"))
        world.clock.advance(WINDOW)
        world.answer()
        world.queue.evict(0)
        return world, world.queue

    def test_read_under_way(self) -> None:
        """A late answer of the spool does nothing, to a read for the queue or for an operator who drops one stanza."""
        world, queue = self.spooled()
        world.hold_back = True
        dropped = queue.drop(quietly=False, position=2)
        world.next_hop.ready = True
        queue.next_hop_ready()
        queue.cut_off()
        world.answer()
        self.assertEqual((self.successResultOf(dropped), world.next_hop.sent, world.back.sent, world.spool.count), (0, [], [], 3))

    def test_spool_that_cannot_be_read(self) -> None:
        """A spool that could not be read is not asked again."""
        spool = FaultySpool(1 << 20, lambda call: call())
        world, queue = self.spooled(spool)
        spool.fail()
        dropped = queue.drop(quietly=False, position=2)
        world.next_hop.ready = True
        queue.next_hop_ready()
        queue.cut_off()
        world.clock.advance(READ_AGAIN)
        self.assertEqual((self.successResultOf(dropped), world.next_hop.sent, spool.count), (0, [], 3))
