"""The normal stop: streams that bring stanzas are read to their end, after stanzas in flight are acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery import queue as flows
from s2sgw.delivery import spooling as overflows
from s2sgw.delivery.custody import STALL_SECONDS
from s2sgw.delivery.holds import HoldTarget
from s2sgw.queue.pair_queue import PairQueue
from s2sgw.runtime.shutdown import DELIVER_SECONDS, PAIRS_LOGGED, Shutdown
from s2sgw.runtime.stream_closing import ACK_SECONDS, ADMIT_SECONDS, CLOSING_TAG_SECONDS, LOOK_SECONDS, BringingStream
from s2sgw.spool.interface import SpoolBroken, SpoolFull
from s2sgw.stream.receiving import ReceivingStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.coroutines import now
from tests.support.faulty_spool import FaultySpool
from tests.support.spool_contract import answer_into
from tests.support.transcripts import CLOSE, PAIR, Do, End, In, Out, Says, Stanzas, Step, TranscriptCase
from tests.unit.delivery.test_queue import OUT, WINDOW, FakeHop, World, ids, stanza
from tests.unit.stream import test_receiving as receiving
from tests.unit.stream.test_management import ASK, MANAGED, ONE, OPEN, TWO

SHUTDOWN = Ending(Cause.SHUTDOWN)


class HearingOutTests(TranscriptCase):
    """RFC 6120 §4.4: a closing server reads the other side to its end."""

    def told(self, *steps: Step) -> ReceivingStream:
        engine = self.play(receiving.stream, *steps)
        assert isinstance(engine, ReceivingStream)
        return engine

    def test_heard_out(self) -> None:
        """R16: stanzas after the gateway's closing tag, up to the peer's, are delivered. Nothing more is sent, and the ending is the intended one."""
        self.told(*OPEN, Do("wind_down", SHUTDOWN), Out(CLOSE), In(ONE + TWO), Says(Stanzas(PAIR, (ONE, TWO))), In(CLOSE), Says(End(Cause.SHUTDOWN)))

    def test_no_word_behind_the_closing_tag(self) -> None:
        """Nothing is sent after the closing tag, not even an acknowledgement. A stream error of the gateway ends the stream without an acknowledgement."""
        self.told(*MANAGED, Do("wind_down", SHUTDOWN), Out(CLOSE), In(ONE + ASK), Says(Stanzas(PAIR, (ONE,))), Do("handled", 1), Out(""), Do("close", SHUTDOWN), Says(End(Cause.SHUTDOWN)))

    def test_wound_down_twice(self) -> None:
        """A stop while a reload closes the stream, or a second reload: the closing tag is sent once, and the other side is read to its end."""
        self.told(
            *OPEN, Do("wind_down", Ending(Cause.CLOSED)), Out(CLOSE), In(ONE), Says(Stanzas(PAIR, (ONE,))), Do("wind_down", SHUTDOWN), Out(""),
            In(TWO + CLOSE), Says(Stanzas(PAIR, (TWO,)), End(Cause.CLOSED)),
        )

    def test_before_any_pair_is_proven(self) -> None:
        """Before any pair is proven, no stanza can be lost: the stream ends at once."""
        self.told(*OPEN[:-5], Do("wind_down", SHUTDOWN), Out(CLOSE), Says(End(Cause.SHUTDOWN)))

    def test_owes(self) -> None:
        """`owes` tells that a managed stream has received stanzas that are not safe."""
        engine = self.told(*MANAGED, In(ONE), Says(Stanzas(PAIR, (ONE,))))
        self.assertTrue(engine.owes)
        engine.handled(1)
        self.assertFalse(engine.owes)
        self.assertFalse(self.told(*OPEN).owes)


class Engine:
    """The part of an engine that a stop uses."""

    def __init__(self, managed: bool = False) -> None:
        self.managed = managed
        self.owes = managed


class Link:
    """A stream from a peer that closes when the test says so."""

    def __init__(self, managed: bool = False) -> None:
        self.engine = Engine(managed)
        self.calls: list[str] = []
        self._closed: list[Deferred[None]] = []

    def pause(self, holder: object) -> None:
        self.calls.append("pause")

    def wind_down(self, ending: Ending) -> None:
        self.calls.append("wind down")

    def close(self, ending: Ending) -> None:
        self.calls.append("close")
        self.gone()

    def when_closed(self) -> Deferred[None]:
        self._closed.append(Deferred())
        return self._closed[-1]

    def gone(self) -> None:
        waiting, self._closed = self._closed, []
        for each in waiting:
            each.callback(None)


def bringing(links: list[Any]) -> list[BringingStream]:
    return [BringingStream(link, link.engine) for link in links]


class ShutdownTests(SynchronousTestCase):
    """The steps of a stop, and the time limit of each."""

    def setUp(self) -> None:
        self.world = World()
        self.links: list[Any] = []
        self.ours: list[Any] = []
        self.admitting = False

    def shut_down(self) -> Deferred[None]:
        stop = Shutdown(self.world.custody, self.world.clock, self)
        self.stopped: Deferred[None] = Deferred.fromCoroutine(stop.run())
        return self.stopped

    def bringing_streams(self) -> list[BringingStream]:
        return bringing(self.links)

    def own_bringing_streams(self) -> list[BringingStream]:
        return bringing(self.ours)

    @property
    def clock(self) -> Clock:
        return self.world.clock

    def test_nothing_to_do(self) -> None:
        """An idle gateway stops at once."""
        self.shut_down()
        self.successResultOf(self.stopped)

    def test_in_flight_first(self) -> None:
        """Streams from peers stay open until stanzas in flight are acknowledged. Meanwhile nothing more is written; stanzas are spooled."""
        link = Link()
        self.links = [link]
        self.world.accept(stanza("1"))
        self.shut_down()
        self.world.accept(stanza("2"))
        self.clock.advance(WINDOW)
        self.assertEqual((ids(self.world.next_hop.sent), link.calls, self.world.settled), ("1", [], ["1", "2"]))
        self.world.queue.acknowledged(1)
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual(link.calls, ["wind down"])
        link.gone()
        self.assertEqual(ids(self.world.next_hop.sent), "12")
        self.world.queue.acknowledged(1)
        self.clock.advance(LOOK_SECONDS)
        self.successResultOf(self.stopped)
        self.assertEqual(self.world.spooled(), [])

    def test_every_wait_is_bounded(self) -> None:
        """Without acknowledgements, without a closing tag, or with a next server that does not read, stanzas are spooled and the stop ends."""
        link = Link()
        self.links = [link]
        self.world.accept(stanza("1"))
        self.shut_down()
        for bound, calls in ((ACK_SECONDS, ["wind down"]), (CLOSING_TAG_SECONDS, ["wind down", "close"])):
            self.assertNoResult(self.stopped)
            self.clock.pump([bound / 10] * 11)
            self.assertEqual(link.calls, calls)
        self.successResultOf(self.stopped)
        self.assertEqual((self.world.spooled(), self.world.settled), (["1"], ["1"]))

    def test_what_waits_for_a_silent_server(self) -> None:
        """A server that did not acknowledge gets no further stanzas: they would be in doubt after the start."""
        self.world.accept(stanza("1"))
        self.shut_down()
        self.world.accept(stanza("q", "iq", "get"))
        self.clock.pump([ACK_SECONDS / 10] * 11)
        self.successResultOf(self.stopped)
        self.assertEqual((ids(self.world.next_hop.sent), self.world.spooled()), ("1", ["1", "q"]))
        rows: list[Any] = []
        self.world.spool.read(OUT, 0, 1 << 20, answer_into(rows))
        self.assertEqual([(row.stanza.id, row.written) for row in rows], [("1", True), ("q", False)])

    def test_one_chunk_at_a_time(self) -> None:
        """Waiting stanzas are sent while the next server acknowledges. A server that stops leaves one chunk in doubt, not all of them."""
        self.patch(flows, "CHUNK", 1)
        self.world.custody.quiesce()
        self.world.accept(stanza("1"), stanza("2"), stanza("3"))
        self.shut_down()
        self.assertEqual(ids(self.world.next_hop.sent), "1")
        self.world.queue.acknowledged(1)
        self.assertEqual(ids(self.world.next_hop.sent), "12")
        self.clock.pump([DELIVER_SECONDS / 10] * 11)
        self.successResultOf(self.stopped)
        self.assertEqual((ids(self.world.next_hop.sent), self.world.spooled()), ("12", ["2", "3"]))

    def test_streams_of_ours_that_carry_stanzas_back(self) -> None:
        """XEP-0288: streams of the gateway that carry stanzas back are closed with the accepted ones. Their stanzas are spooled before the spool closes."""
        plain, managed = Link(), Link(managed=True)
        self.links, self.ours = [Link()], [plain, managed]
        self.shut_down()
        self.assertEqual((plain.calls, managed.calls), ([], ["pause"]))
        managed.engine.owes = False
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual((plain.calls, managed.calls), (["wind down"], ["pause", "close", "wind down"]))
        self.links[0].gone()
        self.assertNoResult(self.stopped)
        self.world.next_hop.ready = False
        self.world.accept(stanza("1"))
        self.ours = []
        plain.gone()
        managed.gone()
        self.successResultOf(self.stopped)
        self.assertEqual((self.world.spooled(), self.world.settled), (["1"], ["1"]))

    def test_opened_during_the_stop(self) -> None:
        """A stream that was opened to deliver the rest brings stanzas too. It is also wound down."""
        late = Link()
        self.world.next_hop.ready = False
        self.world.accept(stanza("1"))
        self.world.next_hop.request_delivery = lambda: setattr(self, "ours", [late])  # type: ignore[method-assign]
        self.shut_down()
        self.assertEqual(late.calls, ["wind down"])
        self.assertNoResult(self.stopped)
        late.gone()
        self.successResultOf(self.stopped)

    def test_forgotten_during_the_stop(self) -> None:
        """An empty queue may be forgotten while streams are closed. The stop continues with the others."""
        link, other = Link(), Pair(OUT.sender, Domain.parse("other.example"))
        self.links = [link]
        self.world.accept(stanza("1"))
        self.world.queue.acknowledged(1)
        idle = self.world.queues.queue(other)
        self.patch(idle, "next_hop", FakeHop(ready=False))
        self.shut_down()
        self.world.accept(stanza("2"))
        self.world.custody.expiry.sweep()
        self.assertNotIn(idle, list(self.world.queues))
        link.gone()
        self.world.queue.acknowledged(1)
        self.clock.advance(LOOK_SECONDS)
        self.successResultOf(self.stopped)
        self.assertEqual((ids(self.world.next_hop.sent), self.world.spooled()), ("12", []))

    def test_admission(self) -> None:
        """Stanzas that were read before their admission is decided are on their lane before the spool closes. Their stream is read to its end when reading resumes."""
        link = Link()
        self.links = [link]
        self.admitting = True
        self.shut_down()
        self.clock.advance(1)
        self.assertEqual(link.calls, [])
        self.admitting = False
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual(link.calls, ["wind down"])
        self.admitting = True
        link.gone()
        self.clock.advance(1)
        self.assertNoResult(self.stopped)
        self.world.accept(stanza("1"))
        self.admitting = False
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual((ids(self.world.next_hop.sent), self.world.settled), ("", ["1"]))
        self.successResultOf(self.stopped)
        self.assertEqual(self.world.spooled(), ["1"])

    def test_admission_is_bounded(self) -> None:
        """If the admission is never decided, the stop still ends."""
        self.admitting = True
        self.shut_down()
        self.clock.pump([ADMIT_SECONDS / 10] * 11)
        self.successResultOf(self.stopped)

    def test_a_look_that_breaks(self) -> None:
        """An error in one step is logged, and the stop continues with the next step."""
        self.patch(Shutdown, "_awaits_acks", lambda stop: 1 / 0)
        self.world.next_hop.ready = False
        self.world.accept(stanza("1"))
        self.shut_down()
        self.successResultOf(self.stopped)
        self.assertEqual((len(self.flushLoggedErrors(ZeroDivisionError)), self.world.spooled()), (1, ["1"]))

    def test_a_step_that_fails(self) -> None:
        """Whichever step fails, the later ones follow, and what is held is in the spool."""
        for name in ("stop_writing", "await_in_flight", "close_bringing_streams", "deliver_remaining", "pass_on_rejected", "close_late_streams"):
            self.world = World()
            self.world.next_hop.ready = False
            self.world.accept(stanza("1"))
            with patch.object(Shutdown, name, side_effect=ZeroDivisionError):
                self.shut_down()
                self.clock.pump([1.0] * 10)
            self.successResultOf(self.stopped)
            self.assertEqual((len(self.flushLoggedErrors(ZeroDivisionError)), self.world.spooled()), (1, ["1"]), name)

    def test_managed(self) -> None:
        """R35: a stream with XEP-0198 is no longer read. It is closed when its stanzas are acknowledged, so nothing is sent twice."""
        link = Link(managed=True)
        self.links = [link]
        self.shut_down()
        self.assertEqual(link.calls, ["pause"])
        link.engine.owes = False
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual(link.calls, ["pause", "close", "wind down"])
        self.assertNoResult(self.stopped)
        link.gone()
        self.successResultOf(self.stopped)

    def test_answers_on_closed_streams(self) -> None:
        """R41: if a ping confirms delivery, nothing is written after the streams that bring its answers are closed."""
        self.world.accept(stanza("1"))
        self.world.queue.acknowledged(1)
        self.world.next_hop.acks_arrive_elsewhere = True
        self.world.custody.quiesce()
        self.world.accept(stanza("2"))
        self.shut_down()
        self.clock.advance(LOOK_SECONDS)
        self.successResultOf(self.stopped)
        self.assertEqual((ids(self.world.next_hop.sent), self.world.spooled()), ("1", ["2"]))

    def test_held_by_the_operator(self) -> None:
        """Stanzas that the operator holds are not sent at the end either."""
        now(self.world.custody.services.holds.add(HoldTarget(pair=OUT)))
        self.world.accept(stanza("1"))
        self.shut_down()
        self.clock.advance(LOOK_SECONDS)
        self.successResultOf(self.stopped)
        self.assertEqual((self.world.next_hop.sent, self.world.spooled()), ([], ["1"]))

    def full(self) -> None:
        """A disk that stores nothing, not even at a stop."""
        self.world = World(disk=10)
        self.patch(self.world.spool, "raise_limit", lambda by: None)

    def test_full_disk(self) -> None:
        """Stanzas that arrive during a stop and have no space on the disk are sent at once if the next server is connected. None is refused."""
        self.full()
        link = Link(managed=True)
        self.links = [link]
        self.world.queue.accept([])
        self.shut_down()
        self.world.accept(stanza("1"))
        self.assertEqual(ids(self.world.next_hop.sent), "")
        self.clock.advance(WINDOW)
        self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent), self.world.settled), ("1", "", []))
        self.world.queue.acknowledged(1)
        self.assertEqual(self.world.settled, ["1"])

    def test_full_disk_and_nowhere_to_go(self) -> None:
        """If the next server is not connected, the stop waits for the streams that tell the senders."""
        for opens in (True, False):
            self.full()
            self.world.next_hop.ready = self.world.back.ready = False
            self.patch(FakeHop, "state", property(lambda next_hop: "ready" if next_hop.ready else "connecting"))
            self.world.accept(stanza("1"))
            self.clock.advance(WINDOW)
            self.shut_down()
            self.clock.pump([DELIVER_SECONDS / 20] * 10)
            self.assertNoResult(self.stopped)
            self.world.back.ready = opens
            self.world.custody.expiry.sweep()
            self.assertEqual((ids(self.world.back.sent), self.world.settled), ("1", ["1"]) if opens else ("", []))
            self.clock.pump([DELIVER_SECONDS / 20] * (1 if opens else 12))
            self.successResultOf(self.stopped)

    def silent(self, unkept: Sequence[str] = ("1", "2")) -> None:
        """Fill the disk. A server that acknowledges nothing has "1", and nothing more is sent to it. Only the sender of "3" keeps its stanza."""
        self.full()
        self.patch(PairQueue, "enough_in_flight", property(lambda queue: queue.pair == OUT and bool(queue.in_flight)))
        for name in unkept:
            self.world.queue.accept([stanza(name)])
        self.world.accept(stanza("3"))
        self.clock.advance(WINDOW)
        self.assertEqual(ids(self.world.next_hop.sent), "1")

    def test_full_disk_and_a_silent_server(self) -> None:
        """A server that acknowledges nothing is not waited for: senders that do not keep their stanzas are told of those that it was not sent."""
        self.silent()
        self.shut_down()
        self.clock.pump([ACK_SECONDS / 10] * 11)
        self.assertNoResult(self.stopped)
        self.world.custody.expiry.sweep()
        self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent), self.world.settled), ("1", "2", []))
        self.clock.pump([DELIVER_SECONDS / 10] * 11)
        self.successResultOf(self.stopped)
        self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent), self.world.settled), ("1", "2", []))

    def test_full_disk_and_many_errors(self) -> None:
        """Errors are not held back because those before them are unacknowledged: their acknowledgements cannot arrive any more."""
        self.patch(overflows, "BOUNCED_AT_ONCE", 1)
        self.silent(["1", "2", "4", "5"])
        self.world.back.acknowledges = True
        self.world.queues.queue(OUT.inverse)
        self.shut_down()
        self.clock.pump([ACK_SECONDS / 10] * 11)
        self.assertTrue(self.world.queues.queue(OUT.inverse).one_chunk)
        self.world.custody.expiry.sweep()
        self.clock.pump([0] * 10)
        self.assertEqual(ids(self.world.back.sent), "245")

    def test_full_disk_and_a_server_that_answers_again(self) -> None:
        """If it answers in time, it gets what waits, and no sender is told anything."""
        self.silent()
        self.shut_down()
        self.clock.pump([ACK_SECONDS / 10] * 11)
        for _ in range(3):
            self.world.queue.acknowledged(1)
        self.world.custody.expiry.sweep()
        self.clock.pump([DELIVER_SECONDS / 10] * 11)
        self.successResultOf(self.stopped)
        self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent), self.world.settled), ("123", "", ["3"]))

    def test_full_disk_and_a_silent_server_alone(self) -> None:
        """If no error can be sent either, all is written at the end, however much is in flight, but not if the senders keep what waits."""
        for kept in (False, True):
            self.silent(["1"] if kept else ["1", "2"])
            self.world.back.ready = False
            self.shut_down()
            self.clock.pump([(ACK_SECONDS + DELIVER_SECONDS) / 20] * 24)
            self.successResultOf(self.stopped)
            self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent), self.world.settled), ("1" if kept else "123", "", []))

    def stop_on_full_disk(self, *pairs: Pair, acknowledges: bool) -> None:
        """Stop on a full disk, while a stream brings six stanzas for a server that takes one at a time, and acknowledges each or none.

        `pairs` have queues before the stop.
        """
        self.full()
        self.patch(flows, "CHUNK", 1)
        self.patch(PairQueue, "enough_in_flight", property(lambda queue: queue.pair == OUT and bool(queue.in_flight)))
        for pair in pairs:
            self.world.queues.queue(pair)
        link = Link()
        self.links = [link]
        self.shut_down()
        self.clock.advance(LOOK_SECONDS)
        self.world.queue.accept([stanza(name) for name in "123456"])
        self.clock.advance(WINDOW)
        link.gone()
        for _ in range(24):
            self.clock.pump([LOOK_SECONDS] * 25)
            self.world.custody.expiry.sweep()
            if acknowledges and self.world.next_hop.ready and self.world.queue.pair_queue.in_flight:
                self.world.queue.acknowledged(1)
        self.successResultOf(self.stopped)

    def test_full_disk_and_a_live_server(self) -> None:
        """A server that acknowledges what it was sent is not silent, also if its queue is new: nothing is bounced."""
        self.stop_on_full_disk(OUT.inverse, acknowledges=True)
        self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent)), ("123456", ""))

    def test_full_disk_and_a_server_that_falls_silent(self) -> None:
        """A server that falls silent only during the stop is not waited for either."""
        self.stop_on_full_disk(OUT, OUT.inverse, acknowledges=False)
        self.assertEqual((ids(self.world.next_hop.sent), ids(self.world.back.sent)), ("1", "23456"))

    def test_full_disk_behind_what_the_disk_has(self) -> None:
        """Stanzas that only the disk has are not written to a silent server: they would be in doubt for nothing."""
        spool = FaultySpool(1 << 20, lambda call: call())
        self.world = World(spool=spool)
        self.patch(PairQueue, "enough_in_flight", property(lambda queue: queue.pair == OUT and bool(queue.in_flight)))
        self.world.back.ready = False
        for name in "123":
            self.world.queue.accept([stanza(name)])
        self.clock.pump([WINDOW, 1.0])
        self.world.queue.evict(0)
        self.assertIsNotNone(self.world.queue.pair_queue.spooled_range)
        spool.write_error = SpoolFull("the disk is full", "disk")
        self.world.queue.accept([stanza("4")])
        self.clock.advance(WINDOW)
        self.shut_down()
        self.clock.pump([LOOK_SECONDS] * 600)
        self.successResultOf(self.stopped)
        self.assertEqual(ids(self.world.next_hop.sent), "1")

    def test_without_a_spool_and_a_silent_server(self) -> None:
        """Without a spool, the last errors are written too, however much is in flight."""
        self.world = World(spools=False, soon=partial(self._soon, 0))
        self.patch(flows, "BOUNCED_AT_ONCE", 1)
        self.patch(PairQueue, "enough_in_flight", property(lambda queue: queue.pair == OUT.inverse and bool(queue.in_flight)))
        self.world.next_hop.ready, self.world.back.acknowledges = False, True
        self.world.queues.queue(OUT.inverse)
        self.world.queue.accept([stanza(name) for name in "123"])
        self.shut_down()
        self.clock.pump([LOOK_SECONDS] * 600)
        self.successResultOf(self.stopped)
        self.assertEqual(ids(self.world.back.sent), "123")

    def test_full_disk_and_errors_behind_other_stanzas(self) -> None:
        """Errors that must be sent do not wait for ever behind stanzas that a stop leaves to the spool."""
        spool = FaultySpool(1 << 20, lambda call: call())
        self.world = World(spool=spool)
        self.world.next_hop.ready, self.world.back.acks_arrive_elsewhere = False, True
        link = Link()
        self.links = [link]
        self.shut_down()
        self.world.queues.queue(OUT.inverse).accept([stanza("b")])
        self.clock.advance(WINDOW)
        spool.write_error = SpoolFull("the disk is full", "disk")
        self.world.queue.accept([stanza("1")])
        self.clock.advance(WINDOW)
        link.gone()
        for _ in range(12):
            self.clock.advance(DELIVER_SECONDS / 10)
            self.world.custody.expiry.sweep()
        self.successResultOf(self.stopped)
        self.assertEqual((ids(self.world.back.sent), self.world.custody.lost()), ("b1", []))

    def test_without_a_spool(self) -> None:
        """Without a spool, errors have time to reach the senders: on a stream that is opened for them, or that connects already."""
        for opens in (True, False):
            self.world = World(spools=False, soon=partial(self._soon, 0))
            self.world.next_hop.ready = self.world.back.ready = False
            self.patch(FakeHop, "state", property(lambda next_hop: "ready" if next_hop.ready else "connecting"))
            self.world.accept(stanza("1"))
            self.shut_down()
            self.clock.pump([DELIVER_SECONDS / 20] * 10)
            self.assertNoResult(self.stopped)
            self.world.back.ready = opens
            self.world.queues.queue(OUT.inverse).next_hop_ready()
            self.clock.pump([DELIVER_SECONDS / 20] * (1 if opens else 12))
            self.successResultOf(self.stopped)
            self.assertEqual((ids(self.world.back.sent), self.world.settled), ("1", ["1"]) if opens else ("", []))

    def _soon(self, delay: float, call: Callable[[], None]) -> None:
        self.clock.callLater(delay, call)

    def test_full_disk_and_not_yet_heard(self) -> None:
        """Stanzas that were written for lack of space have time to be acknowledged."""
        self.full()
        self.world.custody.quiesce()
        self.world.accept(stanza("1"))
        self.clock.advance(WINDOW)
        self.clock.advance(ACK_SECONDS)
        self.assertEqual(ids(self.world.next_hop.sent), "1")
        self.shut_down()
        self.clock.pump([(ACK_SECONDS + DELIVER_SECONDS / 2) / 10] * 11)
        self.assertNoResult(self.stopped)
        self.world.queue.acknowledged(1)
        self.clock.advance(LOOK_SECONDS)
        self.successResultOf(self.stopped)

    def lost(self, pairs: int) -> list[dict[str, Any]]:
        """Stop on a full disk with two stanzas of each pair, whose sender's server has no XEP-0198. Return the critical lines."""
        self.full()
        self.world.next_hop.ready = self.world.back.ready = False
        for number in range(pairs):
            pair = Pair(OUT.sender, Domain.parse(f"p{number}.example"))
            self.world.queues.queue(pair).accept([stanza("1"), stanza("2")])
        self.clock.advance(WINDOW)
        with capturedLogs() as logged:
            self.shut_down()
            self.clock.pump([DELIVER_SECONDS] * 3)
            self.successResultOf(self.stopped)
        return [each for each in logged if each["log_level"] is LogLevel.critical]

    def test_lost_is_said(self) -> None:
        """Stanzas that neither the disk, nor the next server, nor the sender's server has are logged for each pair."""
        (line,) = self.lost(1)
        self.assertEqual(("stanzas lost", "here.example", "p0.example", 2, 0), tuple(line[key] for key in ("event", "sender", "recipient", "stanzas", "written")))
        self.assertEqual([], self.lost(0))

    def test_engine_that_hangs(self) -> None:
        """Stanzas that an engine has not answered for are not called lost, and its answers change nothing after the stop."""
        for in_engine, events in ((True, ["stanzas may be stored"]), (False, ["stanzas lost"])):
            spool = FaultySpool(1 << 20, lambda call: call())
            self.world = World(spool=spool)
            self.world.next_hop.ready = self.world.back.ready = False
            self.world.queues.queue(OUT).accept([stanza("1"), stanza("2")])
            spool.stall()
            self.clock.advance(WINDOW)
            with capturedLogs() as logged:
                stop = Deferred.fromCoroutine(Shutdown(self.world.custody, self.clock, self, in_engine=in_engine).run())
                self.clock.pump([STALL_SECONDS / 4] * 40)
                self.successResultOf(stop)
            self.assertEqual([(each, 2) for each in events], [(each["event"], each["stanzas"]) for each in logged])
            refusals = sum(self.world.record.refusals.values())
            self.world.queue._stored([], [], SpoolBroken("the engine was closed"))
            self.assertEqual(refusals + (not in_engine), sum(self.world.record.refusals.values()))

    def test_many_pairs_lose(self) -> None:
        """The number of such lines is bounded; one line covers the rest."""
        lines = self.lost(PAIRS_LOGGED + 3)
        self.assertEqual(PAIRS_LOGGED + 1, len(lines))
        self.assertEqual((3, 6), (lines[-1]["pairs"], lines[-1]["stanzas"]))
