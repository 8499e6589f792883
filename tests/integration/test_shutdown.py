"""The stop in order: streams that bring stanzas are read to their end, and what is in flight comes to its end before that."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery import queue as flows
from s2sgw.delivery.holds import HoldTarget
from s2sgw.runtime.shutdown import DELIVER_SECONDS, PAIRS_LOGGED, Shutdown
from s2sgw.runtime.stream_closing import ACK_SECONDS, ADMIT_SECONDS, CLOSING_TAG_SECONDS, LOOK_SECONDS, BringingStream
from s2sgw.stream.receiving import ReceivingStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.spool_contract import answer_into
from tests.support.transcripts import CLOSE, PAIR, Do, End, In, Out, Says, Stanzas, Step, TranscriptCase
from tests.unit.delivery.test_queue import OUT, WINDOW, FakeHop, World, ids, stanza
from tests.unit.stream import test_receiving as receiving
from tests.unit.stream.test_management import ASK, MANAGED, ONE, OPEN, TWO

SHUTDOWN = Ending(Cause.SHUTDOWN)


class HearingOutTests(TranscriptCase):
    """RFC 6120 §4.4: who closes hears the other side out."""

    def told(self, *steps: Step) -> ReceivingStream:
        engine = self.play(receiving.stream, *steps)
        assert isinstance(engine, ReceivingStream)
        return engine

    def test_heard_out(self) -> None:
        """R16: what comes behind our closing tag, up to theirs, is delivered; nothing more is said, and the end is what we wanted."""
        self.told(*OPEN, Do("wind_down", SHUTDOWN), Out(CLOSE), In(ONE + TWO), Says(Stanzas(PAIR, (ONE, TWO))), In(CLOSE), Says(End(Cause.SHUTDOWN)))

    def test_no_word_behind_the_closing_tag(self) -> None:
        """Not even an acknowledgement; a stream error of ours is an end without one."""
        self.told(*MANAGED, Do("wind_down", SHUTDOWN), Out(CLOSE), In(ONE + ASK), Says(Stanzas(PAIR, (ONE,))), Do("handled", 1), Out(""), Do("close", SHUTDOWN), Says(End(Cause.SHUTDOWN)))

    def test_wound_down_twice(self) -> None:
        """A stop while a reload closes the stream, or a second reload: the closing tag is sent once, and the other side is heard out."""
        self.told(
            *OPEN, Do("wind_down", Ending(Cause.CLOSED)), Out(CLOSE), In(ONE), Says(Stanzas(PAIR, (ONE,))), Do("wind_down", SHUTDOWN), Out(""),
            In(TWO + CLOSE), Says(Stanzas(PAIR, (TWO,)), End(Cause.CLOSED)),
        )

    def test_before_any_pair_is_proven(self) -> None:
        """Nothing can be lost there: the end is at once."""
        self.told(*OPEN[:-5], Do("wind_down", SHUTDOWN), Out(CLOSE), Says(End(Cause.SHUTDOWN)))

    def test_owes(self) -> None:
        """What was received on a managed stream and is not in safe hands."""
        engine = self.told(*MANAGED, In(ONE), Says(Stanzas(PAIR, (ONE,))))
        self.assertTrue(engine.owes)
        engine.handled(1)
        self.assertFalse(engine.owes)
        self.assertFalse(self.told(*OPEN).owes)


class Engine:
    """What a stop asks of an engine."""

    def __init__(self, managed: bool = False) -> None:
        self.managed = managed
        self.owes = managed


class Link:
    """A stream towards us that closes when the test says so."""

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
    """The steps of a stop, and the bound of each."""

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
        """An idle gateway is gone at once."""
        self.shut_down()
        self.successResultOf(self.stopped)

    def test_in_flight_first(self) -> None:
        """Streams towards us stay open until what is in flight is acknowledged; meanwhile nothing more is written, it is spooled."""
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
        """No acknowledgement, no closing tag, a next server that takes nothing: what is held is spooled, and the end comes."""
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
        """A server that did not acknowledge what it has is given nothing more: that would be in doubt after the start."""
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
        """What waits goes on while the next server acknowledges; one that stops leaves one chunk in doubt, not everything."""
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
        """XEP-0288: they are closed with the accepted ones, and what came on them is spooled before the spool closes."""
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
        """A stream of ours that was opened to deliver what was left brings stanzas as well: it is wound down too."""
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
        """A queue that has nothing may be forgotten while streams are closed: the stop goes on with the others."""
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
        """What was read before its way is known is on its lane before the spool closes; its stream is heard out when it reads again."""
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
        """Where no way is ever found the end comes all the same."""
        self.admitting = True
        self.shut_down()
        self.clock.pump([ADMIT_SECONDS / 10] * 11)
        self.successResultOf(self.stopped)

    def test_a_look_that_breaks(self) -> None:
        """A mistake in one step is logged, and the stop goes on with the next one."""
        self.patch(Shutdown, "_awaits_acks", lambda stop: 1 / 0)
        self.world.next_hop.ready = False
        self.world.accept(stanza("1"))
        self.shut_down()
        self.successResultOf(self.stopped)
        self.assertEqual((len(self.flushLoggedErrors(ZeroDivisionError)), self.world.spooled()), (1, ["1"]))

    def test_managed(self) -> None:
        """R35: a stream with XEP-0198 is read no more, and closed when what was read of it is acknowledged: nothing comes twice."""
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
        """R41: where a ping tells what the next server has, nothing is written once the streams that bring its answers are closed."""
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
        """What the operator holds back is not handed on at the end either."""
        self.world.custody.services.holds.add(HoldTarget(pair=OUT))
        self.world.accept(stanza("1"))
        self.shut_down()
        self.clock.advance(LOOK_SECONDS)
        self.successResultOf(self.stopped)
        self.assertEqual((self.world.next_hop.sent, self.world.spooled()), ([], ["1"]))

    def full(self) -> None:
        """A disk that takes nothing, not even at a stop."""
        self.world = World(disk=10)
        self.patch(self.world.spool, "raise_limit", lambda by: None)

    def test_full_disk(self) -> None:
        """What comes during a stop and has no room on the disk goes on at once where the next server is there: nothing is refused."""
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
        """Where it is not, the streams by which senders are told are waited for."""
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

    def test_full_disk_and_not_yet_heard(self) -> None:
        """What was written for want of room has its time to be acknowledged."""
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
        """What no disk, next server or sender's server has is logged for each pair."""
        (line,) = self.lost(1)
        self.assertEqual(("stanzas lost", "here.example", "p0.example", 2, 0), tuple(line[key] for key in ("event", "sender", "recipient", "stanzas", "written")))
        self.assertEqual([], self.lost(0))

    def test_many_pairs_lose(self) -> None:
        """At most so many lines, and one for the rest."""
        lines = self.lost(PAIRS_LOGGED + 3)
        self.assertEqual(PAIRS_LOGGED + 1, len(lines))
        self.assertEqual((3, 6), (lines[-1]["pairs"], lines[-1]["stanzas"]))
