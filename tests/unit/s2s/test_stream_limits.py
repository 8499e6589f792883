"""Tests of places for streams of ours: shared by owner, released by those with most or idle ones, given out in turns (R37)."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.connection import StreamConnection
from s2sgw.net.fair_slots import Owner
from s2sgw.s2s import stream_limits
from s2sgw.s2s.fair_queue import RELEASED_AT_ONCE
from s2sgw.s2s.stream_limits import CLOSING_SHARE, LOOK_SECONDS, PER_LOOK, REST_SECONDS, StreamLimit, StreamPlace
from s2sgw.xmpp.ending import Cause, Ending
from tests.support.wires import Solo


class OpenStream:
    """A stream on a transport that the test closes."""

    def __init__(self) -> None:
        self.solo = Solo(role="initiating")
        self.connection: StreamConnection = self.solo.connection
        self.busy = False
        self.retired = False

    def retire(self, ending: Ending) -> None:
        assert ending.cause is Cause.IDLE
        self.retired = True

    def gone(self) -> None:
        self.connection.close(Ending(Cause.IDLE))
        self.solo.lose()


async def turn_of(room: StreamLimit, owner: Owner, current_bound: Callable[[], int] = int) -> StreamPlace:
    """Return the turn of an attempt of `owner`, after waiting for it if need be."""
    while (place := room.turn(owner, current_bound())) is None:
        await room.wait(owner, current_bound())
    return place


class LimitCase(SynchronousTestCase):
    """Base class: the owner of a stream is the first letter of its name."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.hits: list[str] = []
        self.limit(2)
        self.streams: dict[str, OpenStream] = {}
        self.order: list[str] = []
        self.waits: dict[str, Deferred[None]] = {}

    def limit(self, number: int) -> None:
        self.room = StreamLimit(self.clock, number, self.hits.append)

    def want(self, *names: str, bound: int = 0, fails: bool = False) -> None:
        """Start attempts that succeed at once when they have their places."""
        for name in names:
            self.waits[name] = Deferred.fromCoroutine(self._attempt(name, bound, fails))

    async def _attempt(self, name: str, bound: int, fails: bool) -> None:
        place = await turn_of(self.room, ("domain", name[0]), lambda: bound)
        assert place.take()
        self.order.append(name)
        if fails:
            place.end()
            return
        self.streams[name] = OpenStream()
        self.use(name)
        place.joined(self.streams[name])
        place.end()

    def turn(self, name: str, bound: int = 0) -> StreamPlace:
        """Return the place of an attempt that need not wait for its turn."""
        place = self.room.turn(("domain", name), bound)
        assert place is not None
        return place

    def use(self, *names: str) -> None:
        for name in names:
            connection = self.streams[name].connection
            connection.last_sent = connection.last_received = self.clock.seconds()

    @property
    def retired(self) -> str:
        return " ".join(name for name, stream in self.streams.items() if stream.retired)

    @property
    def opened(self) -> str:
        return " ".join(self.order)


class PlacesTests(LimitCase):
    """Tests of attempts that wait for a place."""

    def test_room(self) -> None:
        """No attempt waits while there is room. An attempt that fails releases its place."""
        self.want("a1", fails=True)
        self.want("b1")
        self.want("c1", fails=True)
        self.want("d1")
        self.assertEqual(("a1 b1 c1 d1", 0, [], []), (self.opened, len(self.room), self.clock.getDelayedCalls(), self.hits))

    def test_those_on_their_way_count(self) -> None:
        """An attempt has its place from its beginning. `take` fails if no place is left."""
        places = [self.turn(name) for name in "abc"]
        self.assertEqual([place.take() for place in places], [True, True, False])
        self.want("c1")
        places[0].end()
        self.assertEqual((self.opened, self.hits), ("c1", ["streams"]))

    def test_later_attempts_of_an_owner(self) -> None:
        """A later attempt takes no place that one of the same owner needs, whose turn it is and that waits for its handshake."""
        place = self.turn("a")
        self.want("a1", "a2")
        self.turn("b").end()
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual((self.opened, len(self.room), self.hits), ("a1", 1, ["streams"]))
        self.assertTrue(place.take())
        self.assertEqual((self.opened, len(self.room)), ("a1", 1))
        place.end()
        self.assertEqual((self.opened, len(self.room)), ("a1 a2", 0))

    def test_turn_that_is_given_up(self) -> None:
        """A later attempt goes on when the one before it gives up its turn, also if others have their turns."""
        places = [self.turn("a"), self.turn("b"), self.turn("a")]
        self.want("a1")
        self.assertEqual((self.opened, len(self.room)), ("", 1))
        places[0].end()
        self.assertEqual((self.opened, len(self.room)), ("a1", 0))

    def test_turn_without_a_place(self) -> None:
        """An attempt that finds its place gone when it has its handshake gets the next place, before all that wait."""
        place = self.turn("a")
        self.want("b1", "c1", "d1", "a2")
        self.assertEqual((self.opened, place.take()), ("b1 c1", False))
        again = self.room.wait(("domain", "a"), 0, first=True).addCallback(lambda _: self.turn("a").take())
        self.streams["b1"].gone()
        self.assertEqual((again.called, self.opened), (True, "b1 c1"))
        self.streams["c1"].gone()
        self.assertEqual(self.opened, "b1 c1 d1")

    def test_longest_unused_first(self) -> None:
        """Among owners with one stream each, the one that has been idle longest is closed. Its place is free at once."""
        self.want("a1", "b1")
        self.clock.advance(1)
        self.use("a1")
        self.clock.advance(REST_SECONDS)
        self.want("c1")
        self.assertEqual((self.retired, self.opened, len(self.room)), ("", "a1 b1", 1))
        self.clock.advance(0)
        self.assertEqual((self.retired, self.opened, len(self.room)), ("b1", "a1 b1 c1", 0))
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual((self.retired, self.clock.getDelayedCalls()), ("b1", []))
        self.streams["b1"].gone()
        self.want("d1")
        self.assertEqual(len(self.room), 1)  # the place of b1 was given to c1, and freed only once

    def test_at_work(self) -> None:
        """A stream in use, or with unacknowledged stanzas, is not closed. It is checked again later."""
        self.want("a1", "b1")
        self.streams["a1"].busy = True
        self.clock.advance(REST_SECONDS - LOOK_SECONDS)
        self.use("b1")
        self.want("c1")
        self.clock.advance(LOOK_SECONDS)
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual((self.retired, len(self.room)), ("", 1))
        self.streams["a1"].busy = False
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual((self.retired, self.opened), ("a1", "a1 b1 c1"))

    def test_wait_apart(self) -> None:
        """An attempt may wait without a turn. If there is a place, it need not wait, and takes none yet."""
        self.assertIsNone(self.room.wait_if_full(("domain", "a"), 0))
        self.want("a1", "b1")
        waiting = self.room.wait_if_full(("domain", "c"), 0)
        assert waiting is not None
        self.streams["a1"].gone()
        self.assertEqual((waiting.called, len(self.room), self.room._total, dict(self.room._turns)), (True, 0, 1, {}))

    def test_given_up(self) -> None:
        """A cancelled attempt takes no place and closes no stream."""
        self.want("a1", "b1", "c1")
        self.waits["c1"].cancel()
        self.failureResultOf(self.waits["c1"], CancelledError)
        self.clock.advance(REST_SECONDS + LOOK_SECONDS)
        self.assertEqual((self.retired, len(self.room), self.clock.getDelayedCalls()), ("", 0, []))

    def test_closed_by_others(self) -> None:
        """A stream that ends for any reason makes room at once."""
        self.want("a1", "b1", "c1")
        self.streams["a1"].gone()
        self.assertEqual(self.opened, "a1 b1 c1")

    def test_closed_before_it_joins(self) -> None:
        """A stream that has already ended when it is added takes no place."""
        self.limit(1)
        stream = OpenStream()
        stream.gone()
        place = self.turn("a")
        self.assertTrue(place.take())
        place.joined(stream)
        self.want("b1")
        self.assertEqual(self.opened, "b1")


class ManyTests(LimitCase):
    """Thousands of attempts of one owner."""

    def test_they_fail_at_once(self) -> None:
        """The failure of each releases the next: a few in one turn of the reactor, without recursion."""
        self.limit(100)
        self.want("a1", bound=1)
        self.want(*(f"a{number}" for number in range(2, 3000)), bound=1, fails=True)
        self.want("a3000", bound=1)
        self.streams["a1"].gone()
        self.assertEqual(len(self.order), 1 + RELEASED_AT_ONCE)
        self.clock.advance(0)
        self.assertEqual((self.order, len(self.room)), ([f"a{number}" for number in range(1, 3001)], 0))
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual((self.clock.getDelayedCalls(), dict(self.room._turns)), ([], {}))

    def test_as_many_turns_as_places(self) -> None:
        """An owner that may have two places has two turns. Another attempt gets its turn when one of these ends without a place."""
        self.limit(100)
        places = [self.turn("a", 2), self.turn("a", 2)]
        self.want("a1", "a2", bound=2)
        self.turn("b", 2)
        self.assertEqual((self.opened, self.hits), ("", ["domains_per_stream"] * 2))
        places[0].end()
        self.assertEqual(self.opened, "a1")
        self.assertTrue(places[1].take())
        self.assertEqual(self.opened, "a1")
        for _ in range(2):
            places[1].end()
        self.assertEqual((self.opened, dict(self.room._held)), ("a1 a2", {("domain", "a"): 2}))


class ChangedBoundTests(LimitCase):
    """The bound of an owner is looked up again whenever an attempt may go on."""

    def setUp(self) -> None:
        super().setUp()
        self.limit(100)
        self.bound = 2
        self.places = [self.turn("a", 2), self.turn("a", 2)]
        for place in self.places:
            self.assertTrue(place.take())

    def current_bound(self) -> int:
        return self.bound

    def wait(self) -> Deferred[StreamPlace]:
        return Deferred.fromCoroutine(turn_of(self.room, ("domain", "a"), self.current_bound))

    def test_raised(self) -> None:
        """A reload that raises the bound releases as many attempts as may go on then. The others wait by the new bound."""
        waiting = [self.wait() for _ in range(3)]
        self.bound = 4
        self.room.reconsider()
        self.clock.advance(0)
        self.assertEqual(([True, True, False], 1), ([each.called for each in waiting], len(self.room)))
        self.successResultOf(waiting[0]).end()
        self.successResultOf(waiting[2]).end()
        self.successResultOf(waiting[1]).end()
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual(([], {}), (self.clock.getDelayedCalls(), dict(self.room._turns)))

    def test_two_bounds(self) -> None:
        """Attempts of one owner with different bounds do not block one another."""
        low = self.wait()
        self.bound = 3
        high = self.successResultOf(self.wait())
        self.assertTrue(high.take())
        later = self.wait()
        high.end()
        self.assertEqual((False, True), (low.called, later.called))
        self.successResultOf(later).end()
        self.places[0].end()
        self.successResultOf(low).end()


class LookTests(LimitCase):
    """The regular look for streams that may give way."""

    def test_attempts_of_attempts(self) -> None:
        """There is one timer, also if the released attempts make others wait."""
        self.limit(1)
        self.want("a1")
        others: list[Deferred[StreamPlace]] = []

        async def attempt() -> None:
            place = await turn_of(self.room, ("domain", "b"))
            self.assertTrue(place.take())
            others.extend(Deferred.fromCoroutine(turn_of(self.room, ("domain", name))) for name in "cd")

        waiting = Deferred.fromCoroutine(attempt())
        self.clock.pump([LOOK_SECONDS] * (int(REST_SECONDS) + 1))
        self.successResultOf(waiting)
        self.assertEqual((2, 1), (len(self.room), len(self.clock.getDelayedCalls())))

    def test_retired_twice(self) -> None:
        """A stream that gave way to one owner is not counted again for the next."""
        self.limit(16)
        self.want("g1", "g2", "g3", "g4")
        for number in range(4):
            self.streams[f"g{number + 1}"].connection.last_sent = self.streams[f"g{number + 1}"].connection.last_received = number - 9.0
        self.want(*"abcdefhijklm")
        for name in "abcdefhijklm":
            self.streams[name].busy = True
        self.clock.advance(REST_SECONDS + 1)
        self.want("x1", "y1", "z1", "w1")
        for _ in range(3):
            for stream in list(self.streams.values()):
                if stream.retired and stream.connection.ending is None:
                    stream.gone()
            self.clock.advance(LOOK_SECONDS)
        for stream in list(self.streams.values()):
            if stream.retired and stream.connection.ending is None:
                stream.gone()
        self.assertEqual(({}, {}), (dict(self.room._closing_of), self.room._closing))

    def test_every_owner_at_its_bound(self) -> None:
        """Of many owners at their bounds, each is looked at in turn: the last one has a stream that rests."""
        self.limit(1000)
        owners = [chr(0x4E00 + number) for number in range(PER_LOOK + 1)]
        for owner in owners:
            self.want(owner + "1", bound=1)
        for stream in self.streams.values():
            stream.busy = True
        for owner in owners:
            self.want(owner + "2", bound=1)
        self.streams[owners[-1] + "1"].busy = False
        self.clock.advance(REST_SECONDS)
        self.clock.pump([LOOK_SECONDS] * 2)
        self.assertEqual(self.retired, owners[-1] + "1")

    def test_many_owners_at_their_bounds(self) -> None:
        """Owners that wait at their bounds do not keep the look from one that waits for the limit."""
        self.limit(2 * PER_LOOK)
        owners = [chr(0x4E00 + number) for number in range(PER_LOOK)]
        for owner in owners:
            self.want(owner + "1", owner + "2", owner + "3", bound=2)
        for stream in self.streams.values():
            stream.busy = True
        new = [chr(0x5E00 + number) for number in range(2 * PER_LOOK // CLOSING_SHARE + 1)]
        self.want(*new, bound=2)
        self.assertEqual(len(new) - 1, sum(name in new for name in self.order))
        for stream in self.streams.values():
            if stream.retired:
                stream.gone()
        self.clock.pump([LOOK_SECONDS] * 10)
        self.assertIn(new[-1], self.order)


class SharingTests(LimitCase):
    """Tests of sharing when all places are in use."""

    def test_owner_without_a_stream_gets_one_at_once(self) -> None:
        """The owner with most streams gives one to an owner that has none, even if all of its streams are busy."""
        self.limit(20)
        self.want(*(f"a{number}" for number in range(20)))
        for stream in self.streams.values():
            stream.busy = True
        self.want("b1", "c1")
        self.assertEqual((self.order[20:], len(self.retired.split()), self.hits), (["b1", "c1"], 2, []))

    def test_one_gives_way_for_a_handshake(self) -> None:
        """While an attempt waits for its handshake, no second stream gives way to its owner."""
        self.limit(2 * CLOSING_SHARE)
        self.want(*(f"a{number}" for number in range(2 * CLOSING_SHARE)))
        place = self.turn("b")
        self.clock.advance(REST_SECONDS)
        self.want("b1")
        self.clock.pump([LOOK_SECONDS] * 3)
        self.assertEqual((len(self.retired.split()), len(self.room)), (1, 1))
        self.assertTrue(place.take())
        next(stream for stream in self.streams.values() if stream.retired).gone()
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual((self.order[-1], len(self.room)), ("b1", 0))

    def test_what_is_not_at_work_goes_first(self) -> None:
        """The owner with most streams gives the least recently used one with nothing in flight."""
        self.limit(4)
        for name in ("a1", "a2", "a3", "a4"):
            self.want(name)
            self.clock.advance(1)
        self.streams["a1"].busy = True
        self.want("b1")
        self.assertEqual(self.retired, "a2")

    def test_until_it_is_fair(self) -> None:
        """An owner takes places only from one that has at least two more than itself."""
        self.limit(4)
        self.want("a1", "a2", "a3", "a4", "b1", "b2", "b3")
        for _ in range(3):
            for stream in self.streams.values():
                if stream.retired and stream.connection.ending is None:
                    stream.gone()
            self.clock.advance(LOOK_SECONDS)
        self.assertEqual((self.opened, len(self.room)), ("a1 a2 a3 a4 b1 b2", 1))

    def test_by_turns(self) -> None:
        """Waiting owners take turns, however many attempts each has in line."""
        self.want("a1", "b1", "c1", "c2", "c3", "d1")
        for name in ("a1", "b1", "c1"):
            self.streams[name].gone()
        self.assertEqual(self.opened, "a1 b1 c1 d1 c2")

    def test_bound_of_an_owner(self) -> None:
        """An owner has no more streams than its limit, however much room there is: an idle one of its own is closed for another."""
        self.limit(100)
        self.want("a1", "a2", "a3", bound=2)
        self.want("b1", bound=2)
        self.assertEqual((self.opened, self.hits), ("a1 a2 b1", ["domains_per_stream"]))
        self.clock.advance(REST_SECONDS + LOOK_SECONDS)
        self.assertEqual((self.retired, self.opened), ("a1", "a1 a2 b1"))
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual(self.retired, "a1")  # one closing stream is enough for one waiting attempt
        self.streams["a1"].gone()
        self.assertEqual(self.opened, "a1 a2 b1 a3")

    def test_bound_and_limit(self) -> None:
        """A stream that was retired for another owner counts against its own owner's limit until it is closed."""
        self.limit(17)
        self.want(*(f"a{number}" for number in range(16)), bound=16)
        self.want("b1", "c1")
        self.assertEqual((len(self.retired.split()), self.opened.split()[-1]), (1, "c1"))
        self.streams["b1"].gone()  # there is room again, and `a` has fifteen streams
        self.want("a16", bound=16)
        self.assertEqual((len(self.room), self.hits), (1, ["domains_per_stream"]))
        next(stream for stream in self.streams.values() if stream.retired).gone()
        self.assertEqual(self.opened.split()[-1], "a16")

    def test_few_close_at_once(self) -> None:
        """The places of closing streams are given out only up to a fraction of the limit."""
        self.limit(CLOSING_SHARE * 2)
        self.want(*(f"a{number}" for number in range(CLOSING_SHARE * 2)))
        self.want("b1", "c1", "d1")
        self.assertEqual((self.order[CLOSING_SHARE * 2:], len(self.room)), (["b1", "c1"], 1))
        next(stream for stream in self.streams.values() if stream.retired).gone()
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual(self.order[-1], "d1")

    def test_many_streams_of_one_owner(self) -> None:
        """Of many streams a few are checked each time, and the next ones later."""
        self.patch(stream_limits, "SAMPLE", 3)
        self.limit(9)
        self.want(*(f"a{number}" for number in range(9)), bound=9)
        self.clock.advance(REST_SECONDS)
        self.use(*(f"a{number}" for number in range(8)))
        self.want("a9", bound=9)
        self.assertEqual(self.retired, "")
        for _ in range(3):
            self.clock.advance(LOOK_SECONDS)
        self.assertEqual(self.retired, "a8")
        self.streams["a8"].gone()
        self.assertEqual(self.order[-1], "a9")


class ModelTests(LimitCase):
    """Tests with attempts and ends in any order."""

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 6), st.integers(0, 5)), max_size=50))
    def test_bounds_hold(self, steps: list[tuple[str, int, int]]) -> None:
        """Used places never exceed the limit, nor closing ones their fraction of it. No attempt waits if there is room."""
        self.setUp()
        self.limit(5)
        for number, (owner, act, seconds) in enumerate(steps):
            if act < 4:
                self.want(f"{owner}{number}", bound=3)
            else:
                victims = [stream for stream in self.streams.values() if stream.connection.ending is None]
                if victims:
                    victims[act % len(victims)].gone()
            self.clock.advance(seconds)
            open_ = [stream for stream in self.streams.values() if stream.connection.ending is None]
            self.assertLessEqual(sum(not stream.retired for stream in open_), 5)
            self.assertLessEqual(sum(stream.retired for stream in open_), 1)
            for each in "abcd":
                self.assertLessEqual(sum(name[0] == each for name, stream in self.streams.items() if stream in open_), 3)
        for _ in range(3 * len(steps)):
            for stream in list(self.streams.values()):
                if stream.connection.ending is None:
                    stream.gone()
            self.clock.advance(LOOK_SECONDS)
        self.assertEqual((len(self.room), self.room._total, dict(self.room._held), self.room._open), (0, 0, {}, {}))
        self.assertEqual((self.room._closing, dict(self.room._closing_of)), ({}, {}))

    async def _slow_attempt(self, name: str, bound: int) -> None:
        """Wait for a turn, then for a handshake that the test gives, then take a place. Begin again if there is none any more."""
        owner, lost = ("domain", name[0]), False
        while True:
            while (place := self.room.turn(owner, bound)) is None:
                await self.room.wait(owner, bound, first=lost)
            try:
                handshake: Deferred[None] = Deferred()
                self.handshakes.append(handshake)
                await handshake
                if place.take():
                    self.streams[name] = OpenStream()
                    self.use(name)
                    place.joined(self.streams[name])
                    return
            finally:
                place.end()
            lost = True

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 6), st.integers(0, 5)), max_size=60), st.sampled_from((0, 3)))
    def test_slow_handshakes(self, steps: list[tuple[str, int, int]], bound: int) -> None:
        """With handshakes that take time, and attempts that are given up, bounds hold, and no attempt waits for ever."""
        self.setUp()
        self.limit(5)
        self.handshakes: list[Deferred[None]] = []
        attempts: list[Deferred[None]] = []
        for number, (owner, act, seconds) in enumerate(steps):
            if act < 3:
                attempts.append(Deferred.fromCoroutine(self._slow_attempt(f"{owner}{number}", bound)))
            elif act == 3 and attempts:
                attempts.pop(seconds % len(attempts)).addErrback(lambda _: None).cancel()
            elif act < 6 and self.handshakes:
                given = self.handshakes.pop(seconds % len(self.handshakes))
                if not given.called:
                    given.callback(None)
            self._close(seconds if act == 6 else None)
            self.clock.advance(seconds)
            self.assertLessEqual(self.room._total, 5)
            for each in "abcd" if bound else "":
                self.assertLessEqual(self.room._held[("domain", each)], bound)
        for _ in range(5 * len(steps) + 5):
            while self.handshakes:
                given = self.handshakes.pop(0)
                if not given.called:
                    given.callback(None)
            for _ in range(5):
                self._close(0)
            self.clock.advance(LOOK_SECONDS)
        self.assertEqual((len(self.room), dict(self.room._turns), self.clock.getDelayedCalls()), (0, {}, []))
        for attempt in attempts:
            self.successResultOf(attempt)

    def _close(self, which: int | None) -> None:
        """Close one of the open streams."""
        open_ = [stream for stream in self.streams.values() if stream.connection.ending is None]
        if open_ and which is not None:
            open_[which % len(open_)].gone()
