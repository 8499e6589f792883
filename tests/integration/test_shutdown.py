"""The end in order: a stream that we close is heard out, and what is in flight comes to its end before that ."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.acknowledgements import PingAcks
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.holds import HoldTarget
from s2sgw.runtime.shutdown import ADMIT, HAND_ON, HEAR_OUT, LOOK, SETTLE, shut_down
from s2sgw.stream.receiving import ReceivingStream
from s2sgw.xmpp.ending import Cause, Ending
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
    """What `shut_down` asks of an engine."""

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


class DrainTests(SynchronousTestCase):
    """The steps of a stop, and the bound of each."""

    def setUp(self) -> None:
        self.world = World()
        self.links: list[Any] = []
        self.admitting = False

    def shut_down(self) -> Deferred[None]:
        draining = shut_down(self.links, self.world.queues, self.world.clock, lambda: self.admitting)
        self.drained: Deferred[None] = Deferred.fromCoroutine(draining)
        return self.drained

    @property
    def clock(self) -> Clock:
        return self.world.clock

    def test_nothing_to_do(self) -> None:
        """An idle gateway is gone at once."""
        self.shut_down()
        self.successResultOf(self.drained)

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
        self.clock.advance(LOOK)
        self.assertEqual(link.calls, ["wind down"])
        link.gone()
        self.assertEqual(ids(self.world.next_hop.sent), "12")
        self.world.queue.acknowledged(1)
        self.clock.advance(LOOK)
        self.successResultOf(self.drained)
        self.assertEqual(self.world.spooled(), [])

    def test_every_wait_is_bounded(self) -> None:
        """No acknowledgement, no closing tag, a next server that takes nothing: what is held is spooled, and the end comes."""
        link = Link()
        self.links = [link]
        self.world.accept(stanza("1"))
        self.shut_down()
        for bound, calls in ((SETTLE, ["wind down"]), (HEAR_OUT, ["wind down", "close"]), (HAND_ON, ["wind down", "close"])):
            self.assertNoResult(self.drained)
            self.clock.pump([bound / 10] * 11)
            self.assertEqual(link.calls, calls)
        self.successResultOf(self.drained)
        self.assertEqual((self.world.spooled(), self.world.settled), (["1"], ["1"]))

    def test_admission(self) -> None:
        """What was read before its way is known is on its lane before the spool closes; its stream is heard out when it reads again."""
        link = Link()
        self.links = [link]
        self.admitting = True
        self.shut_down()
        self.clock.advance(1)
        self.assertEqual(link.calls, [])
        self.admitting = False
        self.clock.advance(LOOK)
        self.assertEqual(link.calls, ["wind down"])
        self.admitting = True
        link.gone()
        self.clock.advance(1)
        self.assertNoResult(self.drained)
        self.world.accept(stanza("1"))
        self.admitting = False
        self.clock.advance(LOOK)
        self.world.queue.acknowledged(1)
        self.clock.advance(LOOK)
        self.successResultOf(self.drained)
        self.assertEqual(ids(self.world.next_hop.sent), "1")

    def test_admission_is_bounded(self) -> None:
        """Where no way is ever found the end comes all the same."""
        self.admitting = True
        self.shut_down()
        self.clock.pump([ADMIT / 10] * 11)
        self.successResultOf(self.drained)

    def test_managed(self) -> None:
        """R35: a stream with XEP-0198 is read no more, and closed when what was read of it is acknowledged: nothing comes twice."""
        link = Link(managed=True)
        self.links = [link]
        self.shut_down()
        self.assertEqual(link.calls, ["pause"])
        link.engine.owes = False
        self.clock.advance(LOOK)
        self.assertEqual(link.calls, ["pause", "close", "wind down"])
        self.assertNoResult(self.drained)
        link.gone()
        self.successResultOf(self.drained)

    def test_answers_on_closed_streams(self) -> None:
        """R41: where a ping tells what the next server has, nothing is written once the streams that bring its answers are closed."""
        next_hop = DeliveryAgent.__new__(DeliveryAgent)
        next_hop.acknowledgements = PingAcks.__new__(PingAcks)
        self.world.accept(stanza("1"))
        self.world.queue.acknowledged(1)
        self.patch(DeliveryAgent, "state", "ready")
        for name, value in (("ready", True), ("slow", False), ("acknowledges", True)):
            self.patch(DeliveryAgent, name, value)
        self.patch(DeliveryAgent, "stop", lambda *_: self.world.next_hop.stop(Cause.SHUTDOWN))
        self.world.queue.next_hop = next_hop
        self.world.queues.rest()
        self.world.accept(stanza("2"))
        self.shut_down()
        self.clock.advance(LOOK)
        self.successResultOf(self.drained)
        self.assertEqual((ids(self.world.next_hop.sent), self.world.spooled()), ("1", ["2"]))

    def test_held_by_the_operator(self) -> None:
        """What the operator holds back is not handed on at the end either."""
        self.world.queues.operator_holds.add(HoldTarget(pair=OUT))
        self.world.accept(stanza("1"))
        self.shut_down()
        self.clock.advance(LOOK)
        self.successResultOf(self.drained)
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
            self.clock.pump([HAND_ON / 20] * 10)
            self.assertNoResult(self.drained)
            self.world.back.ready = opens
            self.world.queues.sweep()
            self.assertEqual((ids(self.world.back.sent), self.world.settled), ("1", ["1"]) if opens else ("", []))
            self.clock.pump([HAND_ON / 20] * (1 if opens else 12))
            self.successResultOf(self.drained)

    def test_full_disk_and_not_yet_heard(self) -> None:
        """What was written for want of room has its time to be acknowledged."""
        self.full()
        self.world.queues.rest()
        self.world.accept(stanza("1"))
        self.clock.advance(WINDOW)
        self.clock.advance(SETTLE)
        self.assertEqual(ids(self.world.next_hop.sent), "1")
        self.shut_down()
        self.clock.pump([(SETTLE + HAND_ON) / 10] * 11)
        self.assertNoResult(self.drained)
        self.world.queue.acknowledged(1)
        self.clock.advance(LOOK)
        self.successResultOf(self.drained)
