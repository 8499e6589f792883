"""Attempts to one server are budgeted, and what broke it is left out."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.queue.backoff import BackOff
from s2sgw.s2s import destinations
from s2sgw.s2s.destinations import DAY, IN_ALL, PER_SERVER, WAKES, DestinationBackingOff, Destinations, speaks_of_the_server
from s2sgw.xmpp.ending import Cause, Ending

REFUSED = Ending(Cause.CONNECTION_REFUSED)
PEER = "peer.example"


class Attempt:
    """One attempt on its way: `running` once its turn has come, `end` it."""

    def __init__(self, destinations: Destinations, name: str = PEER, forced: bool = False) -> None:
        self.running = False
        self.failed: Ending | None = None
        self._destinations = destinations
        self._name = name
        self._end: Deferred[None] = Deferred()
        self.done = Deferred.fromCoroutine(self._run(forced))

    async def _run(self, forced: bool) -> None:
        async with self._destinations.turn(self._name, forced):
            self.running = True
            try:
                await self._end
            finally:
                self.running = False
                if self.failed is not None:
                    self._destinations.failed(self._name, self.failed)
                else:
                    self._destinations.succeeded(self._name)

    def end(self, failed: Ending | None = None) -> None:
        self.failed = failed
        self._end.callback(None)


class BudgetTests(SynchronousTestCase):
    """Attempts."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.destinations = Destinations(self.clock, lambda: 0.0, BackOff(first=2, jitter=0))

    def attempts(self, number: int, name: str = PEER) -> list[Attempt]:
        return [Attempt(self.destinations, name) for _ in range(number)]

    def refused(self, attempt: Attempt) -> DestinationBackingOff:
        found: DestinationBackingOff = self.failureResultOf(attempt.done, DestinationBackingOff).value
        return found

    def test_so_many_at_once(self) -> None:
        """A few handshakes with one server at a time; the others have their turn as these end."""
        attempts = self.attempts(PER_SERVER + 2)
        self.assertEqual([each.running for each in attempts], [True] * PER_SERVER + [False] * 2)
        attempts[0].end()
        self.assertEqual([each.running for each in attempts[PER_SERVER:]], [True, False])

    def test_so_many_in_all(self) -> None:
        """Handshakes are capped over all servers, and who waits for that gets the next room there is."""
        attempts = [Attempt(self.destinations, f"p{number}.example") for number in range(IN_ALL + 1)]
        self.assertEqual([each.running for each in attempts], [True] * IN_ALL + [False])
        attempts[7].end(REFUSED)
        self.assertTrue(attempts[-1].running)

    def test_a_dead_server_is_left_alone_by_all(self) -> None:
        """One failure speaks for all lanes: those that waited for their turn are told, and so is who comes during the back-off."""
        attempts = self.attempts(PER_SERVER + 1)
        for attempt in attempts[:PER_SERVER]:
            attempt.end(REFUSED)
        self.assertEqual(self.refused(attempts[-1]).ending, REFUSED)
        self.clock.advance(1)
        told = self.refused(Attempt(self.destinations))
        self.assertEqual((told.ending, round(told.wait)), (REFUSED, 15))

    def test_one_asks_for_all(self) -> None:
        """After the back-off one attempt is made; it clears the way for the others, or sends them home."""
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
        """The back-off varies, so that gateways do not come in step."""
        numbers = iter((0.0, 1.0))
        destinations = Destinations(self.clock, lambda: next(numbers), BackOff(first=2, jitter=0.25))
        self.assertEqual([destinations.failed(name, REFUSED) for name in ("a", "b")], [2.0, 1.5])

    def test_a_failure_of_one_pair(self) -> None:
        """What concerns one pair alone holds up no other."""
        self.assertIsNone(self.destinations.failed(PEER, Ending(Cause.DIALBACK_INVALID)))
        self.assertTrue(Attempt(self.destinations).running)
        self.assertEqual(
            [speaks_of_the_server(Ending(cause)) for cause in (Cause.EXPIRED, Cause.NEGOTIATION_TIMEOUT, Cause.HOST_UNKNOWN)],
            [True, True, False],
        )

    def test_contact_wakes(self) -> None:
        """A server that contacts us is asked again at once, but not at its every word: that is put off, and one timer is enough."""
        told: list[str] = []
        self.destinations.failed(PEER, REFUSED)
        self.clock.advance(1)
        self.destinations.wake(PEER, lambda: told.append("at once"))
        attempt = Attempt(self.destinations)
        self.assertTrue(attempt.running)
        attempt.end(REFUSED)
        self.clock.advance(WAKES / 2)
        for word in ("first", "second"):
            self.destinations.wake(PEER, partial(told.append, word))
            self.refused(Attempt(self.destinations))
        self.clock.advance(WAKES / 2)
        self.assertTrue(Attempt(self.destinations).running)
        self.destinations.wake("stranger.example", lambda: told.append("stranger"))
        self.assertEqual((told, self.clock.getDelayedCalls()), (["first"], []))
        self.destinations.wake(PEER, lambda: told.append("third"))
        self.clock.advance(WAKES)
        self.assertEqual(told, ["first", "third"])

    def test_forced(self) -> None:
        """Whose answer a stranger waits for is asked all the same, one question at a time where it failed before."""
        self.destinations.failed(PEER, REFUSED)
        forced = [Attempt(self.destinations, forced=True) for _ in range(2)]
        self.assertEqual([each.running for each in forced], [True, False])
        forced[0].end(REFUSED)
        self.assertTrue(forced[1].running)

    def test_who_waits_may_leave(self) -> None:
        """A cancelled attempt takes no turn."""
        attempts = self.attempts(PER_SERVER + 2)
        attempts[PER_SERVER].done.cancel()
        self.failureResultOf(attempts[PER_SERVER].done)
        attempts[0].end()
        self.assertTrue(attempts[-1].running)

    def test_bounded(self) -> None:
        """Strangers choose the names: so many are remembered, and none that is at work is forgotten."""
        self.patch(destinations, "REMEMBERED", 3)
        busy = Attempt(self.destinations, "busy.example")
        for number in range(10):
            self.destinations.failed(f"p{number}.example", REFUSED)
        self.assertTrue(Attempt(self.destinations, "p0.example").running)
        self.refused(Attempt(self.destinations, "p9.example"))
        busy.end()

    def test_nothing_to_remember(self) -> None:
        """A server that was reached, and of which nothing is known, is not remembered."""
        first, second = Attempt(self.destinations), Attempt(self.destinations)
        first.end()
        self.assertEqual([PEER], list(self.destinations._servers))
        second.end()
        self.assertEqual([], list(self.destinations._servers))


class ExtensionTests(SynchronousTestCase):
    """What breaks a server is left out for a day, and told of."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.told: list[tuple[str, str, Cause]] = []
        self.destinations = Destinations(
            self.clock, lambda: 0.0, told=lambda name, extra, ending: self.told.append((name, extra, ending.cause)),
        )

    def test_for_a_day(self) -> None:
        """It is told of once, listed, and tried again after a day."""
        self.assertTrue(self.destinations.bears(PEER, "direct-tls"))
        for _ in range(2):
            self.destinations.broke(PEER, "direct-tls", REFUSED)
        self.assertEqual(self.told, [(PEER, "direct-tls", Cause.CONNECTION_REFUSED)])
        self.assertEqual(list(self.destinations.without()), [(PEER, ("direct-tls",))])
        self.assertEqual([self.destinations.bears(PEER, extra) for extra in ("direct-tls", "bidi")], [False, True])
        self.clock.advance(DAY)
        self.assertTrue(self.destinations.bears(PEER, "direct-tls"))
        self.assertEqual(list(self.destinations.without()), [])

    def test_suspicion(self) -> None:
        """A suspect is left out once: where that helps it is to blame, where it does not it is cleared."""
        self.destinations.suspect(PEER, "management", REFUSED)
        self.assertEqual((self.destinations.suspects(PEER), self.destinations.bears(PEER, "management")), (True, False))
        self.destinations.acquit(PEER)
        self.assertEqual((self.destinations.suspects(PEER), self.destinations.bears(PEER, "management")), (False, True))
        self.destinations.suspect(PEER, "management", REFUSED)
        self.destinations.steady(PEER)
        self.assertEqual((self.destinations.suspects(PEER), self.destinations.bears(PEER, "management")), (False, False))
        self.assertEqual(self.told, [(PEER, "management", Cause.CONNECTION_REFUSED)])
