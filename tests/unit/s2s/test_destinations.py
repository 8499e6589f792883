"""Tests of the limits on attempts to one server, and of the back-off after a failure."""

from __future__ import annotations

from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.queue.backoff import BackOff
from s2sgw.s2s import destinations
from s2sgw.s2s.destinations import (
    CONTACT_SECONDS,
    PER_DESTINATION,
    PURPOSES,
    DestinationBackingOff,
    Destinations,
    Purpose,
    concerns_the_server,
)
from s2sgw.s2s.fair_queue import RELEASED_AT_ONCE
from s2sgw.xmpp.ending import Cause, Ending
from tests.support.fakes import FixedRandom

REFUSED = Ending(Cause.CONNECTION_REFUSED)
PEER = "peer.example"
PER_SERVER = PER_DESTINATION["outbound"]
HANDSHAKES = 16
SHARE = HANDSHAKES // destinations.SHARE

#: the attempts of the current test
begun: list[Attempt] = []


class Attempt:
    """One attempt: `running` once it has its slot. `end` ends it. Without `owner` each server is an owner of its own."""

    def __init__(
        self, destinations: Destinations, name: str = PEER, forced: bool = False, purpose: Purpose = "outbound", owner: str = "",
    ) -> None:
        self.running = False
        self.failed: Ending | None = None
        self.name = name
        self._destinations = destinations
        self._purpose: Purpose = purpose
        self._owner = owner or name
        self._end: Deferred[None] = Deferred()
        self.done = Deferred.fromCoroutine(self._run(forced))
        begun.append(self)

    async def _run(self, forced: bool) -> None:
        async with self._destinations.attempt(self.name, self._purpose, self._owner, forced) as began:
            self.running = True
            try:
                await self._end
            finally:
                self.running = False
                if self.failed is not None:
                    self._destinations.failed(self.name, self.failed, began, self._purpose)
                else:
                    self._destinations.succeeded(self.name)

    def end(self, failed: Ending | None = None) -> None:
        self.failed = failed
        self._end.callback(None)


class DestinationsCase(SynchronousTestCase):
    """Base class with sixteen handshakes for each purpose."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.hits = 0
        self.destinations = Destinations(self.clock, FixedRandom(), BackOff(first=2, jitter=0), HANDSHAKES, self._hit)

    def tearDown(self) -> None:
        """Cancel all attempts. Otherwise the garbage collector would end them during another test."""
        while begun:
            attempt = begun.pop()
            attempt.done.addErrback(lambda _: None)
            attempt.done.cancel()

    def _hit(self) -> None:
        self.hits += 1

    def attempts(self, number: int, name: str = PEER) -> list[Attempt]:
        return [Attempt(self.destinations, name) for _ in range(number)]

    def many(self, number: int, owner: str = "", purpose: Purpose = "outbound") -> list[Attempt]:
        """Return this many attempts, each to a different server."""
        return [Attempt(self.destinations, f"p{n}.{owner}.example", purpose=purpose, owner=owner) for n in range(number)]

    def refused(self, attempt: Attempt) -> DestinationBackingOff:
        found: DestinationBackingOff = self.failureResultOf(attempt.done, DestinationBackingOff).value
        return found



class ConcurrencyTests(DestinationsCase):
    """Tests of the number of concurrent handshakes."""

    def test_so_many_at_once(self) -> None:
        """The number of handshakes with one server is limited. The others start as these end."""
        attempts = self.attempts(PER_SERVER + 2)
        self.assertEqual([each.running for each in attempts], [True] * PER_SERVER + [False] * 2)
        attempts[0].end()
        self.assertEqual([each.running for each in attempts[PER_SERVER:]], [True, False])

    def test_many_wait_for_one_that_fails(self) -> None:
        """Thousands that wait while a server fails are told so, a few in one turn of the reactor."""
        attempts = self.attempts(PER_SERVER + 3000)
        for each in attempts[:PER_SERVER]:
            each.end(REFUSED)
        self.assertEqual(sum(each.done.called for each in attempts[PER_SERVER:]), RELEASED_AT_ONCE)
        self.clock.advance(0)
        self.assertEqual({self.refused(each).ending for each in attempts[PER_SERVER:]}, {REFUSED})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_so_many_in_all(self) -> None:
        """The number of handshakes with all servers is limited. A waiting attempt gets the next free slot."""
        attempts = [Attempt(self.destinations, f"p{number}.example") for number in range(HANDSHAKES + 1)]
        self.assertEqual([each.running for each in attempts], [True] * HANDSHAKES + [False])
        self.assertEqual((self.destinations.counts()["outbound"], self.hits), ((HANDSHAKES, 1), 1))
        attempts[7].end(REFUSED)
        self.assertTrue(attempts[-1].running)

    def test_budgets_are_separate(self) -> None:
        """A purpose whose budget is used up, with many in line, delays no other purpose."""
        attempts: list[Attempt] = []
        for purpose in PURPOSES:
            attempts += [Attempt(self.destinations, f"{n}.{purpose}.example", purpose=purpose) for n in range(HANDSHAKES + 4)]
            self.assertEqual(self.destinations.counts()[purpose], (HANDSHAKES, 4))

    def test_purposes_at_one_server_are_separate(self) -> None:
        """Many verifications of keys at a server do not delay deliveries to it."""
        verifying = [Attempt(self.destinations, purpose="verification", owner=str(n)) for n in range(PER_SERVER + 3)]
        self.assertEqual(sum(each.running for each in verifying), PER_SERVER)
        self.assertTrue(Attempt(self.destinations).running)

    def test_one_owner_has_a_share(self) -> None:
        """One owner has at most a quarter of a budget, even if no other waits."""
        greedy = self.many(HANDSHAKES * 2, "greedy")
        self.assertEqual(sum(each.running for each in greedy), SHARE)
        self.assertTrue(Attempt(self.destinations, "fresh.example").running)

    def test_owner_without_a_handshake_starts_at_once(self) -> None:
        """The last quarter of a budget is for owners without a handshake, so several greedy ones delay no newcomer."""
        greedy = [attempt for owner in "abcdef" for attempt in self.many(HANDSHAKES, owner)]
        running = sum(each.running for each in greedy)
        self.assertLess(running, HANDSHAKES)
        for number in range(HANDSHAKES - running):
            self.assertTrue(Attempt(self.destinations, f"fresh{number}.example").running)

    def test_turns_by_owner(self) -> None:
        """In line for one server, owners take turns."""
        greedy = [Attempt(self.destinations, owner="greedy") for _ in range(PER_SERVER + 10)]
        fresh = Attempt(self.destinations, owner="fresh")
        greedy[0].end()
        greedy[1].end()
        self.assertTrue(fresh.running)

    def test_a_slot_is_not_lost(self) -> None:
        """An attempt that gets a slot and then has to wait for its server leaves the slot to the next in line."""
        busy = self.attempts(PER_SERVER - 1)
        fill = [Attempt(self.destinations, f"p{number}.example") for number in range(HANDSHAKES - len(busy))]
        waiting = [Attempt(self.destinations, owner="first"), Attempt(self.destinations, owner="second")]
        waiting.append(Attempt(self.destinations, "other.example"))
        fill[0].end()
        self.assertEqual([each.running for each in waiting], [True, False, False])
        fill[1].end()
        self.assertEqual([each.running for each in waiting], [True, False, True])
        busy[0].end()
        self.assertTrue(waiting[1].running)


class BackOffTests(DestinationsCase):
    """Tests of a server that fails."""

    def test_failure_counts_for_all_queues(self) -> None:
        """One failure counts for all queues: those that wait are told, and so are those that come during the back-off."""
        attempts = self.attempts(PER_SERVER + 1)
        for attempt in attempts[:PER_SERVER]:
            attempt.end(REFUSED)
        self.assertEqual(self.refused(attempts[-1]).ending, REFUSED)
        self.clock.advance(1)
        told = self.refused(Attempt(self.destinations))
        self.assertEqual((told.ending, round(told.wait)), (REFUSED, 15))

    def test_one_asks_for_all(self) -> None:
        """After the back-off one attempt is made. Its success lets the others start; its failure ends them."""
        first, *_ = self.attempts(1)
        first.end(REFUSED)
        self.clock.advance(2)
        attempts = self.attempts(3)
        self.assertEqual([each.running for each in attempts], [True, False, False])
        attempts[0].end(REFUSED)
        self.assertEqual(self.refused(attempts[1]).wait, 4)
        self.refused(attempts[2])
        self.clock.advance(4)
        attempts = self.attempts(3)
        attempts[0].end()
        self.assertEqual([each.running for each in attempts], [False, True, True])

    def test_jitter(self) -> None:
        """The back-off varies, so that gateways do not act in step."""
        destinations = Destinations(self.clock, FixedRandom(0.0, 1.0), BackOff(first=2, jitter=0.25))
        self.assertEqual([destinations.failed(name, REFUSED) for name in ("a", "b")], [2.0, 1.5])

    def test_a_failure_of_one_pair(self) -> None:
        """A failure that concerns one pair delays no other."""
        self.assertIsNone(self.destinations.failed(PEER, Ending(Cause.DIALBACK_INVALID)))
        self.assertTrue(Attempt(self.destinations).running)
        self.assertEqual(
            [concerns_the_server(Ending(cause)) for cause in (Cause.EXPIRED, Cause.NEGOTIATION_TIMEOUT, Cause.HOST_UNKNOWN)],
            [True, True, False],
        )

    def test_backs_off(self) -> None:
        """A server is left alone from its failure to the end of the back-off, and no other server is."""
        self.assertFalse(self.destinations.backs_off(PEER))
        self.destinations.failed(PEER, Ending(Cause.CONNECTION_REFUSED))
        self.assertEqual((self.destinations.backs_off(PEER), self.destinations.backs_off("other.example")), (True, False))
        self.assertRaises(DestinationBackingOff, self.destinations.check_back_off, PEER)
        self.clock.advance(2)
        self.assertFalse(self.destinations.backs_off(PEER))
        self.destinations.check_back_off(PEER)

    def test_failure_of_a_backend_for_one_peer(self) -> None:
        """If a backend ends a stream because of one pair, in whatever way, no other peer is delayed. A dead backend delays all."""
        causes = (Cause.TLS_FAILED, Cause.CONNECTION_LOST, Cause.NEGOTIATION_TIMEOUT, Cause.CONNECTION_REFUSED)
        told = [self.destinations.failed(PEER, Ending(cause), purpose="backend") for cause in causes]
        self.assertEqual(told, [None, None, None, 2.0])

    def test_reached_meanwhile(self) -> None:
        """A failed attempt does not count if another attempt has reached the server since it began."""
        first, second, third = self.attempts(3)
        self.clock.advance(1)
        first.end()
        second.end(Ending(Cause.NEGOTIATION_TIMEOUT))
        self.assertTrue(Attempt(self.destinations).running)
        third.end()

    def test_contact_wakes(self) -> None:
        """A contact by the server ends the back-off at once. Further contacts are delayed, with one timer."""
        told: list[str] = []
        self.destinations.failed(PEER, REFUSED)
        self.clock.advance(1)
        self.destinations.contacted(PEER, lambda: told.append("at once"))
        attempt = Attempt(self.destinations)
        self.assertTrue(attempt.running)
        attempt.end(REFUSED)
        self.clock.advance(CONTACT_SECONDS / 2)
        for word in ("first", "second"):
            self.destinations.contacted(PEER, partial(told.append, word))
            self.refused(Attempt(self.destinations))
        self.clock.advance(CONTACT_SECONDS / 2)
        self.assertTrue(Attempt(self.destinations).running)
        self.destinations.contacted("stranger.example", lambda: told.append("stranger"))
        self.assertEqual((told, self.clock.getDelayedCalls()), (["first"], []))
        self.destinations.contacted(PEER, lambda: told.append("third"))
        self.clock.advance(CONTACT_SECONDS)
        self.assertEqual(told, ["first", "third"])

    def test_forced(self) -> None:
        """A verification is tried during the back-off too, one at a time if the server failed before."""
        self.destinations.failed(PEER, REFUSED)
        forced = [Attempt(self.destinations, forced=True) for _ in range(2)]
        self.assertEqual([each.running for each in forced], [True, False])
        forced[0].end(REFUSED)
        self.assertTrue(forced[1].running)

    def test_cancelled_while_waiting(self) -> None:
        """A cancelled attempt takes no turn."""
        attempts = self.attempts(PER_SERVER + 2)
        attempts[PER_SERVER].done.cancel()
        self.failureResultOf(attempts[PER_SERVER].done)
        attempts[0].end()
        self.assertTrue(attempts[-1].running)

    def test_bounded(self) -> None:
        """Strangers choose the names: the number of remembered servers is bounded, and no active one is forgotten."""
        self.patch(destinations, "MAX_DESTINATIONS", 3)
        busy = Attempt(self.destinations, "busy.example")
        for number in range(10):
            self.destinations.failed(f"p{number}.example", REFUSED)
        self.assertTrue(Attempt(self.destinations, "p0.example").running)
        self.refused(Attempt(self.destinations, "p9.example"))
        busy.end()

    def test_many_names_of_one_domain(self) -> None:
        """Many failing servers below one registered domain do not make the gateway forget the back-off of another server."""
        self.patch(destinations, "MAX_DESTINATIONS", 3)
        self.destinations.failed("friend.example", REFUSED)
        for number in range(10):
            Attempt(self.destinations, f"p{number}.many.example").end(REFUSED)
        self.refused(Attempt(self.destinations, "friend.example"))
        self.refused(Attempt(self.destinations, "p9.many.example"))
        self.assertTrue(Attempt(self.destinations, "p0.many.example").running)

    def test_nothing_to_remember(self) -> None:
        """A server that was reached, and has no other state, is not remembered."""
        first, second = Attempt(self.destinations), Attempt(self.destinations)
        first.end()
        self.assertEqual([PEER], list(self.destinations._destinations))
        second.end()
        self.assertEqual([], list(self.destinations._destinations))

    def test_not_forgotten_while_it_waits(self) -> None:
        """A server is not forgotten while an attempt waits for the budget: its limit of handshakes holds."""
        self.patch(destinations, "MAX_DESTINATIONS", 1)
        fill = [Attempt(self.destinations, f"p{number}.example") for number in range(HANDSHAKES)]
        waiting = [Attempt(self.destinations, owner=str(number)) for number in range(PER_SERVER + 2)]
        self.assertEqual(sum(each.running for each in waiting), 0)
        for attempt in fill:
            attempt.end()
        self.assertEqual(sum(each.running for each in waiting), PER_SERVER)


class ModelTests(DestinationsCase):
    """Tests with attempts and ends in any order."""

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.sampled_from(PURPOSES), st.booleans()), max_size=60), st.data())
    def test_no_attempt_waits_without_reason(self, steps: list[tuple[int, int, Purpose, bool]], data: st.DataObject) -> None:
        """No limit is exceeded. An attempt waits only for a reason. After all have ended none is left waiting."""
        clock = Clock()
        tested = Destinations(clock, FixedRandom(), BackOff(first=2, jitter=0), 8)
        attempts: list[Attempt] = []
        for server, owner, purpose, forced in steps:
            attempts.append(Attempt(tested, f"s{server}.example", forced, purpose, str(owner)))
            attempts[-1].done.addErrback(lambda failure: failure.trap(DestinationBackingOff))
            running = [each for each in attempts if each.running]
            ended = data.draw(st.integers(0, 2 * len(running)))
            if ended < len(running):
                running[ended].end(REFUSED if data.draw(st.integers(0, 1)) else None)
            clock.advance(data.draw(st.integers(0, 10)))
            self.bounds(attempts)
        for _ in range(len(attempts)):
            for attempt in attempts:
                if attempt.running:
                    attempt.end()
        for attempt in attempts:
            self.assertTrue(attempt.done.called)
        self.assertEqual(set(tested.counts().values()), {(0, 0)})

    def bounds(self, attempts: list[Attempt]) -> None:
        for purpose in PURPOSES:
            running = [each for each in attempts if each.running and each._purpose == purpose]
            self.assertLessEqual(len(running), 8)
            for name in {each.name for each in running}:
                self.assertLessEqual(sum(each.name == name for each in running), PER_DESTINATION[purpose])
            for owner in {each._owner for each in running}:
                self.assertLessEqual(sum(each._owner == owner for each in running), 2)
