"""Tests of happy eyeballs, with diallers in memory and a clock."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.dialing import Build, DialFailed
from s2sgw.net.discovery import Target
from s2sgw.net.happy_eyeballs import RaceLost, Winner, endpoints, priority_groups, race
from s2sgw.xmpp.ending import Cause, Ending


@dataclass(frozen=True)
class Spot:
    address: str
    port: int = 5269


PLACES = tuple(map(Spot, ("v6", "v4", "third", "fourth")))


class RaceTests(SynchronousTestCase):
    """Tests of RFC 8305 §5."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.dialled: list[tuple[float, str]] = []
        self.builds: dict[str, Build] = {}
        self.attempts: dict[str, Deferred[None]] = {}
        self.cancelled: list[str] = []
        self.built: list[Spot] = []

    def dial(self, address: str, port: int, build: Build) -> Deferred[None]:
        self.dialled.append((self.clock.seconds(), address))
        self.builds[address] = build
        self.attempts[address] = Deferred(lambda _: self.cancelled.append(address))
        return self.attempts[address]

    def build(self, place: Spot) -> IProtocol:
        self.built.append(place)
        return Protocol()

    def race(self, *places: Spot, **options: float) -> Deferred[Winner[Spot]]:
        return race(self.clock, places or PLACES, self.build, lambda place: self.dial, **options)  # type: ignore[arg-type]

    def connect(self, address: str) -> bool:
        """Complete a connection; return whether it was needed."""
        wanted = self.builds[address]() is not None
        if wanted:
            self.attempts[address].callback(None)
        return wanted

    def refuse(self, address: str, cause: Cause = Cause.CONNECTION_REFUSED) -> None:
        self.attempts[address].errback(DialFailed(Ending(cause, address), address))

    def test_one_after_another(self) -> None:
        """R36: the next address is tried a quarter of a second after the last, not earlier. At most four are tried at a time."""
        self.race(*map(Spot, "abcdef")).addErrback(lambda _: None)
        for _ in range(40):
            self.clock.advance(0.0625)
        self.assertEqual([(round(at, 2), name) for at, name in self.dialled], [(0, "a"), (0.25, "b"), (0.5, "c"), (0.75, "d")])
        self.refuse("b")
        self.assertEqual(len(self.dialled), 5)

    def test_no_timer_for_the_last(self) -> None:
        """While the last place is tried, there is no timer but that of the whole race."""
        self.race(*map(Spot, "ab")).addErrback(lambda _: None)
        self.assertEqual(len(self.clock.getDelayedCalls()), 2)
        self.clock.advance(0.25)
        self.assertEqual(([name for _, name in self.dialled], len(self.clock.getDelayedCalls())), (["a", "b"], 1))

    def test_the_first_wins(self) -> None:
        """The first connection is built. The other attempts are ended, not built, and listed as worth another try."""
        result = self.race()
        self.clock.advance(0.25)
        self.assertTrue(self.connect("v4"))
        winner = self.successResultOf(result)
        self.assertEqual((winner.place, winner.others), (PLACES[1], (PLACES[0], *PLACES[2:])))
        self.assertEqual((self.built, self.cancelled, self.clock.getDelayedCalls()), ([PLACES[1]], ["v6"], []))

    def test_both_in_one_turn(self) -> None:
        """If two connect in one turn, only the first is built, and the other is still worth a try."""
        result = self.race()
        self.clock.advance(0.25)
        self.assertIsNotNone(self.builds["v6"]())
        self.assertFalse(self.connect("v4"))
        self.attempts["v4"].errback(DialFailed(Ending(Cause.CLOSED)))
        self.clock.advance(0.25)
        self.assertEqual(len(self.dialled), 2)  # the race is decided
        self.attempts["v6"].callback(None)
        winner = self.successResultOf(result)
        self.assertEqual((winner.place, winner.others), (PLACES[0], PLACES[1:]))
        self.assertEqual(self.built, [PLACES[0]])

    def test_failures_are_not_waited_for(self) -> None:
        """If an attempt fails, the next one starts at once. The delay starts again from there."""
        result = self.race()
        self.refuse("v6")
        self.assertEqual(self.dialled, [(0, "v6"), (0, "v4")])
        self.clock.advance(0.2)
        self.assertEqual(len(self.dialled), 2)
        self.connect("v4")
        winner = self.successResultOf(result)
        self.assertEqual(winner.others, PLACES[2:])  # the failed address is not worth a try

    def test_all_failed(self) -> None:
        """When all attempts have failed the race ends at once, with each address's cause and a summary."""
        result = self.race(*PLACES[:2])
        self.clock.advance(0.25)
        self.refuse("v4")
        self.refuse("v6", Cause.UNREACHABLE)
        lost = self.failureResultOf(result, RaceLost).value
        self.assertEqual([(place, ending.cause) for place, ending in lost.failures], [
            (PLACES[0], Cause.UNREACHABLE), (PLACES[1], Cause.CONNECTION_REFUSED),
        ])  # fmt: skip
        self.assertEqual(lost.ending.cause, Cause.CONNECTION_REFUSED)
        self.assertEqual(lost.ending.detail, "unreachable: v6; connection-refused: v4")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_place(self) -> None:
        """Without addresses the race fails."""
        result = race(self.clock, (), self.build, lambda place: self.dial)
        self.assertEqual(self.failureResultOf(result, RaceLost).value.ending.cause, Cause.UNREACHABLE)

    def test_too_late(self) -> None:
        """The whole race is bounded: running attempts are ended, and reported as unanswered."""
        result = self.race(*PLACES[:3], timeout=10)
        self.refuse("v6")
        self.clock.advance(0.25)
        self.clock.advance(9.75)
        lost = self.failureResultOf(result, RaceLost).value
        self.assertEqual([ending.cause for _, ending in lost.failures], [
            Cause.CONNECTION_REFUSED, Cause.CONNECTION_TIMEOUT, Cause.CONNECTION_TIMEOUT,
        ])  # fmt: skip
        self.assertEqual((self.cancelled, self.clock.getDelayedCalls()), (["v4", "third"], []))
        self.assertFalse(self.connect("v4"))  # late

    def test_cancelled(self) -> None:
        """Cancelling the race ends every attempt. A late connection is not built."""
        result = self.race()
        self.clock.advance(0.25)
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual((self.cancelled, self.clock.getDelayedCalls()), (["v6", "v4"], []))
        self.assertFalse(self.connect("v4"))

    def test_mistakes_of_ours(self) -> None:
        """A dialler that raises, and a winner that cannot be built, are failures like others."""

        def broken(address: str, port: int, build: Build) -> Deferred[None]:
            raise ValueError("a mistake")

        result = race(self.clock, PLACES[:2], self.build, lambda place: broken if place is PLACES[0] else self.dial)
        self.attempts["v4"].errback(RuntimeError("in build"))
        lost = self.failureResultOf(result, RaceLost).value
        self.assertEqual([ending.detail for _, ending in lost.failures], ["a mistake", "in build"])
        self.assertEqual(lost.ending.cause, Cause.INTERNAL)

    def test_a_winner_that_fails_yet(self) -> None:
        """A winner that is lost between its claim and its result does not end the race."""
        result = self.race(*PLACES[:2])
        self.builds["v6"]()
        self.refuse("v6", Cause.CONNECTION_LOST)
        self.connect("v4")
        self.assertEqual(self.successResultOf(result).place, PLACES[1])

    def test_each_place_its_dialler(self) -> None:
        """The dialler is requested for each address."""
        asked: list[Spot] = []

        def dialler(place: Spot) -> object:
            asked.append(place)
            return self.dial

        race(self.clock, PLACES, self.build, dialler).addErrback(lambda _: None)  # type: ignore[arg-type]
        self.clock.advance(0.25)
        self.assertEqual(asked, list(PLACES[:2]))


class PriorityTests(SynchronousTestCase):
    """R36: tests of the limits of a race to one priority."""

    def test_by_priority(self) -> None:
        """The addresses of all targets of one priority are in one race, in order, within the limit."""
        targets = (
            Target("a.example", 5269, ("2001:db8::1", "192.0.2.1"), 5), Target("b.example", 5270, ("192.0.2.2",), 5, direct_tls=True),
            Target("c.example", 5269, ("192.0.2.3", "192.0.2.4"), 10),
        )  # fmt: skip
        first, second = priority_groups(targets)
        told = [(place.address, place.port, place.target.direct_tls) for place in endpoints(first, 8)]
        self.assertEqual(told, [("2001:db8::1", 5269, False), ("192.0.2.1", 5269, False), ("192.0.2.2", 5270, True)])
        self.assertEqual([place.address for place in endpoints(second, 1)], ["192.0.2.3"])

    def test_each_place_once(self) -> None:
        """Many names with the same address and port are one entry. Direct TLS is another."""
        targets = [Target(f"h{number}.example", 5269, ("192.0.2.1",)) for number in range(16)]
        self.assertEqual(len(endpoints(targets, 8)), 1)
        other = Target("d.example", 5269, ("192.0.2.1",), direct_tls=True)
        self.assertEqual([place.target.host for place in endpoints([*targets, other], 8)], ["h0.example", "d.example"])
