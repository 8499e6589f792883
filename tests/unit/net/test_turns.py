"""Tests of sharing the reactor's time among the streams that have input."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.turn_budget import TurnBudget, TurnPart
from s2sgw.net.turns import BUSY_SECONDS, STREAMS_SECONDS, Turns
from tests.support.turn_clock import TurnClock


class Stream:
    """A stream that reads for some milliseconds in each turn, and needs `again` more turns."""

    busy = False

    def __init__(self, case: TurnsTests, name: str, ms: float, established: bool, again: int, party: str = "") -> None:
        self._case, self._name, self._seconds, self.established, self._again = case, name, ms / 1000, established, again
        self.party = case.turns.party(party) if party else None

    def take_turn(self) -> None:
        self._case.called.append(self._name)
        self._case.now += self._seconds
        if self._again:
            self._again -= 1
            self._case.turns.add(self)


class TurnsTests(SynchronousTestCase):
    """Tests of turns on a stopwatch that the test moves."""

    def setUp(self) -> None:
        self.clock = TurnClock()
        self.now = 0.0
        self.budget = TurnBudget(stopwatch=lambda: self.now)
        self.turns = Turns(self.clock, self.budget)
        self.called: list[str] = []

    def add(self, name: str, ms: float = 0, established: bool = True, again: int = 0, party: str = "") -> None:
        self.turns.add(Stream(self, name, ms, established, again, party))

    def call(self, name: str, ms: float = 0) -> Callable[[], None]:
        """Return a call of that name that takes this many milliseconds."""
        def call() -> None:
            self.called.append(name)
            self.now += ms / 1000
        return call

    def judge(self, name: str, ms: float = 0) -> Deferred[None]:
        """Let the turn judge `name`."""
        return self.turns.time_to_judge().addCallback(lambda _: self.call(name, ms)())

    def round(self) -> str:
        """Run a turn of the reactor; return what is called at its end and by the timers that it leaves."""
        self.called.clear()
        self.budget.begin()
        self.turns.begin_round()
        self.turns.end_round()
        self.clock.turn()
        return "".join(self.called)

    def turn(self) -> str:
        """Return what the next turn of the reactor calls."""
        self.called.clear()
        self.clock.turn()
        return "".join(self.called)

    def test_one_call_for_all(self) -> None:
        """All waiting streams are called in one turn, established ones first. Then nothing is left."""
        self.add("n", established=False)
        self.add("a")
        self.add("b")
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.assertEqual((self.turn(), self.turn(), self.clock.getDelayedCalls()), ("abn", "", []))

    def test_party(self) -> None:
        """When the streams of one party have read for a while in a turn, its others come behind those of other parties."""
        kept = self.turns.party("many.example")  # by another stream of it
        self.budget.begin()
        self.turns.begin_round()
        for name in "abcd":
            self.add(name, ms=BUSY_SECONDS * 700, party="many.example")
        self.add("x", party="one.example")
        self.add("y")
        self.turns.end_round()
        self.assertEqual(("".join(self.called), self.clock.getDelayedCalls()), ("abxycd", []))  # all of them in this turn
        self.add("c", ms=1, party="many.example")
        self.add("d", ms=1, party="many.example")
        self.add("x", party="one.example")
        self.assertEqual(self.round(), "cdx")  # each turn begins anew
        self.assertIs(kept, self.turns.party("many.example"))

    def test_party_without_time(self) -> None:
        """A crowd of one party's streams delays no others in the next turns either, and each of its streams is served."""
        names = [chr(ord("A") + number) for number in range(26)]
        for name in names:
            self.add(name, ms=1.5, party="many.example")
        self.add("x", party="one.example")
        called = self.round()
        self.assertEqual((called[:3], called.count("x")), ("ABx", 1))
        while called != "".join(names) + "x" and self.clock.getDelayedCalls():
            self.add("y", party="one.example")
            turn = self.round()
            self.assertIn("y", turn[:1])
            called += turn.replace("y", "")
            if len(called) >= 27:
                break
        self.assertEqual(sorted(called), sorted([*names, "x"]))

    def test_parties_are_forgotten(self) -> None:
        """A party is kept as long as one of its streams."""
        self.add("a", party="many.example")
        self.assertIs(self.turns.party("many.example"), self.turns.party("many.example"))
        self.assertEqual((self.round(), len(self.turns._parties)), ("a", 0))

    def test_rounds(self) -> None:
        """Streams added while the reactor reads its sockets are called at the end of that round. Those that they add wait for the next turn."""
        self.turns.begin_round()
        self.add("a", again=1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.turns.end_round()
        self.assertEqual((list(self.called), self.turn(), self.turn()), (["a"], "a", ""))

    def test_alone(self) -> None:
        """A stream may read at once only while a single socket is read, and no stream or judgement waits. Its output is sent then."""
        for alone, waits in ((True, False), (False, False), (True, True)):
            if waits:
                self.add("a")
            self.turns.begin_round(alone)
            self.assertEqual(alone and not waits, self.turns.alone)
            self.turns.send_soon(self.call("o"))
            self.turns.end_round()
            self.assertEqual((["a", "o"] if waits else ["o"], False), (self.called, self.turns.alone))
            self.called.clear()
        self.judge("j")
        self.turns.begin_round(alone=True)
        self.assertFalse(self.turns.alone)

    def test_a_round_that_takes_what_was_due(self) -> None:
        """A stream added before a round is called at its end at the latest, once."""
        self.add("a")
        self.turns.begin_round()
        self.turns.end_round()
        self.assertEqual((list(self.called), self.turn()), (["a"], ""))

    def test_output(self) -> None:
        """Output is sent after the turn has called all others. Outside a turn it is sent in the next one."""
        self.turns.send_soon(lambda: self.called.append("1"))
        self.add("a")
        writing = Stream(self, "b", 0, True, 0)
        self.patch(writing, "take_turn", lambda: self.turns.send_soon(lambda: self.called.append("2")))
        self.turns.add(writing)
        self.add("c")
        self.assertEqual((self.turn(), self.turn()), ("ac12", ""))

    def test_output_that_takes_long(self) -> None:
        """Much output is sent over several turns, in order, with at least one piece in each."""
        for name in "abcde":
            self.turns.send_soon(self.call(name, 750 * STREAMS_SECONDS))
        self.assertEqual([self.turn() for _ in range(4)], ["ab", "cd", "e", ""])

    def test_output_that_raises(self) -> None:
        """If one output raises, the others are sent all the same, and so is later output."""
        def broken() -> None:
            raise ZeroDivisionError

        for send in (lambda: self.called.append("1"), broken, lambda: self.called.append("2")):
            self.turns.send_soon(send)
        with self.assertRaises(ZeroDivisionError):
            self.clock.turn()
        self.assertEqual(self.turn(), "2")
        self.turns.send_soon(lambda: self.called.append("3"))
        self.assertEqual(self.turn(), "3")

    def test_stream_that_adds_itself_waits_for_the_next_turn(self) -> None:
        """A stream with more to read does not delay the others."""
        self.add("a", again=2)
        self.add("b")
        self.assertEqual([self.turn() for _ in range(4)], ["ab", "a", "a", ""])

    def test_the_rest_waits(self) -> None:
        """If the time of a turn is used up, the others are called in the next one, before those that were called already."""
        for name in "abc":
            self.add(name, 6, again=1)
        self.assertEqual([self.turn() for _ in range(4)], ["ab", "ca", "bc", ""])

    def test_slow_streams_come_last(self) -> None:
        """Streams that took long are called after the others, at least one in each turn. Later they are called as all others."""
        for name in "abc":
            self.add(name, 20, again=3)
        self.assertEqual([self.turn() for _ in range(3)], ["a", "ba", "cb"])
        self.add("x")
        self.assertEqual(self.turn(), "xa")
        self.add("y", again=1)
        self.assertEqual([self.turn() for _ in range(2)], ["yc", "yb"])

    def test_busy_no_more(self) -> None:
        """A stream that took long once is not called after the others for good."""
        stream = Stream(self, "a", BUSY_SECONDS * 2000, True, 0)
        self.turns.add(stream)
        self.turn()
        self.assertTrue(stream.busy)
        stream._seconds = 0
        self.turns.add(stream)
        self.add("b")
        self.assertEqual(self.turn(), "ba")
        self.turns.add(stream)
        self.add("b")
        self.assertEqual(self.turn(), "ab")

    def test_strangers_are_not_starved(self) -> None:
        """However busy the established streams are, one in negotiation is called every few turns: the oldest, then the newest."""
        self.add("a", 50, again=9)
        for name in "xyz":
            self.add(name, 1, established=False)
        called = "".join(self.round() for _ in range(3 * len(TurnPart))).replace("a", "")
        self.assertEqual(called, "xzy")

    def test_stream_that_raises(self) -> None:
        """An error in one stream does not affect the others."""
        class Broken(Stream):
            def take_turn(self) -> None:
                raise ZeroDivisionError

        self.turns.add(Broken(self, "", 0, True, 0))
        self.add("a")
        with self.assertRaises(ZeroDivisionError):
            self.clock.turn()
        self.assertEqual(self.turn(), "a")

    def test_one_timer(self) -> None:
        """However long streams have more to read, they are called by one timer, and at the ends of the rounds."""
        self.add("a", again=20)
        self.assertEqual([self.round() for _ in range(5)], ["aa"] * 5)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_over(self) -> None:
        """When the turn is over timers call no stream, and the next turn continues."""
        for name in "ab":
            self.add(name, 20, again=3)
        self.assertEqual([self.round() for _ in range(4)], ["a", "b", "a", "b"])

    def test_turns_of_reading(self) -> None:
        """In a turn that sockets have used up, streams that take little are called and their output is sent. The others are called later."""
        for name in "abc":
            self.add(name, 1)
        self.add("n", 1, established=False)
        self.turns.send_soon(self.call("1", 1))
        self.turns.close_soon(self.call("x", 1))
        self.judge("j", 1)

        def used_up() -> str:
            self.called.clear()
            self.budget.begin()
            self.now += 1
            self.turns.begin_round()
            self.turns.end_round()
            return "".join(self.called)

        self.assertEqual([used_up() for _ in range(len(TurnPart))], ["abcn1x", "j", ""])

    def test_readings(self) -> None:
        """The stopwatch is not read for a stream, an output and a connection to close behind which nothing waits."""
        readings: list[float] = []

        def stopwatch() -> float:
            readings.append(self.now)
            return self.now

        self.patch(self.budget, "stopwatch", stopwatch)
        counts = []
        for number in (1, 2):
            self.patch(self.budget, "_turn", TurnPart.NEGOTIATIONS)
            for name in "no"[:number]:
                self.add(name, established=False)
            for name in "12"[:number]:
                self.turns.send_soon(self.call(name))
            for name in "xy"[:number]:
                self.turns.close_soon(self.call(name))
            counts.append((self.turn(), len(readings)))
            readings.clear()
        timer = 1  # it asks whether the turn is over
        self.assertEqual([("n1x", timer), ("on12xy", timer + 6)], counts)

    def test_a_single_judgement(self) -> None:
        """Behind the last judgement the stopwatch is not read."""
        self.patch(self.budget, "_turn", TurnPart.JUDGEMENTS)
        self.judge("j").addCallback(lambda _: self.patch(self.budget, "stopwatch", lambda: self.fail("it was read")))
        self.assertEqual("j", self.turn())

    def test_judgements(self) -> None:
        """Judgements follow the streams, as many as time permits: at least one in each turn, the newest and the oldest in turns."""
        for name in "vwxyz":
            self.judge(name, 20)
        self.add("a", 1, established=False)
        self.assertEqual(self.turns.negotiating, 6)
        self.assertEqual([self.round() for _ in range(6)], ["av", "z", "w", "y", "x", ""])

    def test_few_judgements(self) -> None:
        """Judgements that take little are all made in one turn."""
        for name in "xyz":
            self.judge(name)
        self.assertEqual([self.turn(), self.turn()], ["xzy", ""])

    def test_a_cancelled_judgement(self) -> None:
        """A cancelled judgement takes no time."""
        waiting = self.judge("x")
        self.judge("y")
        waiting.addErrback(lambda failure: failure.trap(CancelledError) and None)
        waiting.cancel()
        self.assertEqual((self.turns.negotiating, self.turn(), self.turn()), (1, "y", ""))

    def test_a_judgement_that_raises(self) -> None:
        """An error in one judgement does not affect the others."""
        broken = self.judge("x").addCallback(lambda _: 1 / 0)
        self.judge("y")
        self.assertEqual(self.turn(), "xy")
        self.failureResultOf(broken, ZeroDivisionError)

    def test_closing(self) -> None:
        """Connections are closed after the output is sent, and never at once. Many of them take several turns."""
        self.turns.close_soon(self.call("x"))
        self.turns.send_soon(self.call("1"))
        self.assertEqual(("".join(self.called), self.turn()), ("", "1x"))
        for name in "vwxyz":
            self.turns.close_soon(self.call(name, 750 * STREAMS_SECONDS))
        self.assertEqual([self.turn() for _ in range(4)], ["vw", "xy", "z", ""])

    def test_closing_raises(self) -> None:
        """An error in a close affects neither other closes nor output."""
        def broken() -> None:
            raise ZeroDivisionError

        self.turns.close_soon(broken)
        self.turns.close_soon(self.call("x"))
        with self.assertRaises(ZeroDivisionError):
            self.clock.turn()
        self.assertEqual(self.turn(), "x")
