"""Tests of the limits of open connections, and of the choice of the connection that gives way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net import admission as module
from s2sgw.net.admission import (
    AT_ONCE_SECONDS,
    LEAST_NEGOTIATION,
    LOOK,
    Admission,
    AdmittedConnection,
    ConnectionLimits,
    NotAdmitted,
)
from s2sgw.net.sites import site_path
from s2sgw.net.turn_budget import TurnBudget
from s2sgw.stream.events import Refusal
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.errors import StreamCondition

NONE = ConnectionLimits(0, 0, 0, 0, 0)


class Holder:
    """The protocol of a connection, whose transport ends when the connection is dismissed."""

    def __init__(self, admitted: AdmittedConnection, *, lingers: bool = False) -> None:
        self.admitted = admitted
        self.dismissed: list[Refusal] = []
        self._lingers = lingers
        admitted.holder = self

    def dismiss(self, refusal: Refusal) -> None:
        self.dismissed.append(refusal)
        if not self._lingers:
            self.admitted.release()


class AdmissionCase(SynchronousTestCase):
    """An admission with few limits."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.hits: Counter[str] = Counter()

    def admission(self, **limits: int) -> Admission:
        values = {"total": 0, "per_address": 0, "unproven": 0, "unproven_per_site": 0, "unproven_per_name": 0, **limits}
        return Admission(ConnectionLimits(**values), self.clock, lambda limit: self.hits.update([limit]))

    def open(self, admission: Admission, *addresses: str) -> list[Holder]:
        """Open one connection from each of these addresses."""
        holders = []
        for address in addresses:
            admitted = admission.admit(address)
            if isinstance(admitted, AdmittedConnection):
                holders.append(Holder(admitted))
        return holders

    def gone(self, holders: Sequence[Holder]) -> list[int]:
        """Return the indices of the dismissed connections."""
        return [number for number, holder in enumerate(holders) if holder.dismissed]


class StrangersTests(AdmissionCase):
    """Tests of the descriptors of unproven connections, in the order in which they wait: the last ones are read first."""

    def strangers(self, number: int) -> tuple[Admission, list[AdmittedConnection]]:
        """Return an admission and this many connections, whose descriptors are 0, 1, …"""
        admission = self.admission()
        connections = [holder.admitted for holder in self.open(admission, *["192.0.2.1"] * number)]
        for descriptor, connection in enumerate(connections):
            connection.opened(descriptor)
        return admission, connections

    def test_advanced(self) -> None:
        """A connection that makes progress waits no longer than those accepted meanwhile."""
        admission, connections = self.strangers(4)
        connections[1].advance()
        connections[2].prove()
        connections[2].advance()
        self.assertEqual([0, 3, 1], list(admission.strangers))

    def test_descriptor_of_another(self) -> None:
        """A descriptor that the system has given to another connection belongs to that one."""
        admission, (gone, other) = self.strangers(2)
        other.opened(0)
        gone.advance()
        gone.release()
        self.assertIs(other, admission.strangers[0])


class LimitTests(AdmissionCase):
    """Tests of each limit separately."""

    def test_address_with_unproven(self) -> None:
        """At the limit of an address its oldest unproven connection gives way. Other addresses are not affected."""
        admission = self.admission(per_address=2)
        holders = self.open(admission, "192.0.2.9", *["192.0.2.1"] * 3)
        self.assertEqual(([1], {"connections_per_address": 1}), (self.gone(holders), dict(self.hits)))
        self.assertEqual((3, 3), (admission.total, admission.unproven))

    def test_address_with_proven_alone(self) -> None:
        """Proven connections never give way: the new one is refused, with a hint at load balancers."""
        admission = self.admission(per_address=2)
        holders = self.open(admission, *["2001:db8::1"] * 2)
        for holder in holders:
            holder.admitted.prove()
        reached = admission.admit("2001:db8::ffff")
        assert isinstance(reached, NotAdmitted)
        self.assertEqual(("connections_per_address", Cause.TOO_MANY_CONNECTIONS), (reached.limit, reached.ending.cause))
        for word in ("2001:db8::/64", "PROXY protocol", "limits.connections_per_address"):
            self.assertIn(word, reached.ending.detail)
        self.assertEqual([], self.gone(holders))
        self.assertIsInstance(admission.admit("2001:db8:1::1"), AdmittedConnection)

    def test_total(self) -> None:
        """At the total limit an unproven connection gives way, if there is one."""
        admission = self.admission(total=3)
        holders = self.open(admission, "192.0.2.1", "192.0.2.2", "192.0.2.3")
        holders[0].admitted.prove()
        holders += self.open(admission, "192.0.2.4")
        self.assertEqual([1], self.gone(holders))
        for holder in holders[2:]:
            holder.admitted.prove()
        reached = admission.admit("192.0.2.5")
        assert isinstance(reached, NotAdmitted)
        self.assertEqual(("connections", 3, 3, 0), (reached.limit, admission.total, admission.proven, admission.unproven))
        holders[0].admitted.release()
        self.assertIsInstance(admission.admit("192.0.2.5"), AdmittedConnection)

    def test_unproven_in_all(self) -> None:
        """At the limit of unproven connections the oldest of the most crowded address gives way, in the most crowded /24."""
        admission = self.admission(unproven=6)
        holders = self.open(
            admission, "198.51.100.1", "192.0.2.1", "192.0.2.2", "192.0.2.2", "203.0.113.1", "203.0.113.1", "203.0.113.9",
        )
        self.assertEqual([2], self.gone(holders))

    def test_sites(self) -> None:
        """An address and an IPv4 /24, IPv6 /64, /56 and /48 each have a limit. A new connection from elsewhere is not affected."""
        for addresses, bound in (
            (["192.0.2.1"], 3), ([f"192.0.2.{number}" for number in range(90)], 6),
            ([f"2001:db8:0:7::{number}" for number in range(9)], 3),
            ([f"2001:db8:0:7{number:02x}::1" for number in range(90)], 6),
            ([f"2001:db8:0:{number:x}00::1" for number in range(90)], 12),
        ):
            admission = self.admission(unproven_per_site=3)
            holders = self.open(admission, "198.51.100.1", *addresses * 30)
            self.assertEqual(bound + 1, admission.unproven, addresses[0])
            self.assertEqual([], holders[0].dismissed)
            self.assertEqual([], holders[-1].dismissed)

    def test_names(self) -> None:
        """Of the connections that claim one name the oldest of the most crowded site gives way. A claim that is given up no longer counts."""
        admission = self.admission(unproven_per_name=3)
        holders = self.open(admission, "192.0.2.1", *["198.51.100.1"] * 3)
        for holder in holders:
            holder.admitted.claim("four.example")
        self.assertEqual(([1], 1), (self.gone(holders), self.hits["unproven_per_name"]))
        holders[2].admitted.claim("other.example")
        holders[2].admitted.claim("other.example")
        holders += self.open(admission, "198.51.100.1")
        holders[4].admitted.claim("four.example")
        self.assertEqual([1], self.gone(holders))
        holders[0].admitted.prove()  # nor do proven ones count
        holders[0].admitted.claim("four.example")
        holders += self.open(admission, "198.51.100.1")
        holders[5].admitted.claim("four.example")
        self.assertEqual([1], self.gone(holders))

    def test_one_that_lingers(self) -> None:
        """A dismissed connection counts for its address until its transport has ended, and is not dismissed again."""
        admission = self.admission(per_address=1)
        first = Holder(self.admitted(admission, "192.0.2.1"), lingers=True)
        second = Holder(self.admitted(admission, "192.0.2.1"))
        third = Holder(self.admitted(admission, "192.0.2.1"))
        self.assertEqual([1, 1, 0], [len(each.dismissed) for each in (first, second, third)])
        first.admitted.release()
        first.admitted.release()
        self.assertEqual((1, 1), (admission.total, admission.unproven))

    def admitted(self, admission: Admission, address: str) -> AdmittedConnection:
        found = admission.admit(address)
        assert isinstance(found, AdmittedConnection)
        return found

    def test_no_limit(self) -> None:
        """The value 0 means no limit."""
        admission = Admission(NONE, self.clock)
        self.assertEqual(set(), {type(admission.admit("192.0.2.1")) for _ in range(1000)} - {AdmittedConnection})

    def test_no_address(self) -> None:
        """Connections without an address, for example from a socket in the file system, are one site."""
        admission = self.admission(per_address=2)
        self.assertEqual([0], self.gone(self.open(admission, "", "", "")))

    def test_lowered(self) -> None:
        """Limits may be replaced: open connections stay, and new ones are measured by the new limits."""
        admission = self.admission(unproven=9)
        holders = self.open(admission, *[f"192.0.2.{number}" for number in range(9)])
        admission.limits = ConnectionLimits(unproven=3)
        holders += self.open(admission, "198.51.100.1")
        self.assertEqual((9, 1), (admission.unproven, len(self.gone(holders))))


class TimeTests(AdmissionCase):
    """Tests of the time in which a connection must prove a pair."""

    def test_late(self) -> None:
        """A connection that is late is ended with an error. One that has proven a pair is not."""
        admission = self.admission()
        holders = self.open(admission, "192.0.2.1", "192.0.2.2")
        holders[1].admitted.prove()
        self.clock.advance(29.9)
        self.assertEqual([], self.gone(holders))
        self.clock.pump([LOOK] * 3)
        self.assertEqual([0], self.gone(holders))
        (refusal,) = holders[0].dismissed
        self.assertEqual((StreamCondition.CONNECTION_TIMEOUT, Cause.NEGOTIATION_TIMEOUT), (refusal.condition, refusal.ending.cause))
        self.assertIn("within 3", refusal.text)
        self.assertEqual((1, 0, 1), (self.hits["negotiation"], admission.unproven, admission.proven))

    def test_under_pressure(self) -> None:
        """If more than half of the unproven connections are in use, the time shrinks, down to `LEAST_NEGOTIATION`."""
        admission = self.admission(unproven=8)
        seen = []
        for number in range(8):
            self.open(admission, f"192.0.2.{number}")
            seen.append(admission.negotiation_seconds)
        self.assertEqual([30.0] * 4 + [23.75, 17.5, 11.25, LEAST_NEGOTIATION], seen)
        self.assertEqual(5.0, LEAST_NEGOTIATION)

    def test_shorter_than_the_least(self) -> None:
        """A time that is configured shorter than that is not extended."""
        limits = ConnectionLimits(0, 0, 2, 0, 0, negotiation=5.0)
        admission = Admission(limits, self.clock)
        self.open(admission, "192.0.2.1", "192.0.2.2")
        self.assertEqual(5.0, admission.negotiation_seconds)

    def test_many_at_once(self) -> None:
        """However many connections are late at once, one turn of the reactor ends a few of them."""
        self.patch(module, "ENDED_PER_TURN", 3)
        admission = self.admission()
        holders = self.open(admission, *["192.0.2.1"] * 8)
        turns: list[int] = []
        call_later = self.clock.callLater

        def noted(delay: float, *call: Any) -> Any:
            if not delay:
                turns.append(len(self.gone(holders)))
            return call_later(delay, *call)

        self.patch(self.clock, "callLater", noted)
        self.clock.advance(31)
        self.assertEqual(([3, 6], 8, []), (turns, len(self.gone(holders)), self.clock.getDelayedCalls()))

    def test_closed(self) -> None:
        """At a stop unproven connections are ended. Proven ones are closed in order by their owners."""
        admission = self.admission()
        holders = self.open(admission, "192.0.2.1", "192.0.2.2")
        holders[0].admitted.prove()
        admission.close()
        self.assertEqual(([1], []), (self.gone(holders), self.clock.getDelayedCalls()))
        self.assertTrue(holders[1].dismissed[0].ending.in_order)

    def test_entrusted(self) -> None:
        """A connection that another node serves is not ended for its age, but gives way to others until it counts as proven."""
        admission = self.admission(unproven=2)
        first, second = self.open(admission, "192.0.2.1", "192.0.2.2")
        first.admitted.entrust()
        self.clock.advance(admission.limits.negotiation + 1)
        self.assertEqual(self.gone([first, second]), [1])
        self.assertEqual((admission.unproven, self.clock.getDelayedCalls()), (1, []))
        second.admitted.entrust()
        third, fourth = self.open(admission, "192.0.2.3", "192.0.2.4")
        self.assertEqual((self.gone([first]), admission.unproven), ([0], 2))
        third.admitted.entrust()
        third.admitted.prove()
        fourth.admitted.entrust()
        admission.close()
        self.assertEqual((self.gone([third, fourth]), admission.unproven), ([1], 0))

    def test_no_timer_at_rest(self) -> None:
        """No timer runs while no connection is unproven."""
        admission = self.admission()
        (holder,) = self.open(admission, "192.0.2.1")
        holder.admitted.release()
        self.clock.advance(LOOK)
        self.assertEqual([], self.clock.getDelayedCalls())


ADDRESSES = [f"192.0.2.{number}" for number in range(3)] + ["198.51.100.7"] + [f"2001:db8:0:{number:x}00::1" for number in range(3)]
ACTIONS = st.lists(
    st.tuples(st.sampled_from(["open", "open", "prove", "claim", "release"]), st.sampled_from(ADDRESSES), st.integers(0, 9)),
    max_size=120,
)


class AnyOrderTests(AdmissionCase):
    """In any order of events the limits hold, proven connections stay, and a site with one connection keeps it while others have more."""

    @settings(max_examples=200, deadline=None)
    @given(ACTIONS)
    def test_bounds(self, actions: list[tuple[str, str, int]]) -> None:
        self.clock = Clock()
        admission = self.admission(total=12, per_address=6, unproven=7, unproven_per_site=3, unproven_per_name=3)
        holders: list[Holder] = []
        for what, address, number in actions:
            alive = [each for each in holders if not each.dismissed and each.admitted._open]
            crowd = Counter(site for each in alive if not each.admitted.proven for site in each.admitted.path)
            if what == "open":
                holders += self.open(admission, address)
            elif alive:
                self.act(what, alive[number % len(alive)].admitted, f"{number % 2}")
            self.check(admission, [each for each in holders if not each.dismissed and each.admitted._open])
            for each in alive:
                if each.dismissed and what == "open":
                    self.least_harm(each.admitted, crowd, site_path(address))

    def act(self, what: str, admitted: AdmittedConnection, name: str) -> None:
        if what == "claim":
            admitted.claim(name)
        elif what == "prove":
            admitted.prove()
        else:
            admitted.release()

    def check(self, admission: Admission, alive: list[Holder]) -> None:
        unproven = [each.admitted for each in alive if not each.admitted.proven]
        self.assertEqual((len(alive), len(unproven)), (admission.total, admission.unproven))
        self.assertEqual(len(alive) - len(unproven), admission.proven)
        self.assertLessEqual(len(alive), 12)
        self.assertLessEqual(len(unproven), 7)
        for bound in (
            Counter(each.path[-1] for each in unproven), Counter(each.claimed for each in unproven if each.claimed),
        ):
            self.assertLessEqual(max(bound.values(), default=0), 3)
        self.assertEqual([], [each for each in alive if each.admitted.proven and each.dismissed])

    def least_harm(self, gone: AdmittedConnection, crowd: Counter[str], newcomer: Sequence[str]) -> None:
        """Check that the connection that gave way was of the most crowded widest site, or shares a site with the new one."""
        most = max(number for site, number in crowd.items() if site.endswith(("/24", "/48")))
        self.assertTrue(crowd[gone.path[0]] == most or gone.path[0] == newcomer[0], (gone.path, newcomer, crowd))


class AtOnceTests(AdmissionCase):
    """Tests of which connections are read in the turn that accepts them."""

    def test_much_was_done_in_this_turn(self) -> None:
        """No connection is read at once if part of the turn is used up: each handshake of direct TLS takes some milliseconds."""
        now = [0.0]
        budget = TurnBudget(stopwatch=lambda: now[0])
        admission = Admission(NONE, self.clock, budget=budget)
        [holder] = self.open(admission, "192.0.2.1")
        self.assertFalse(holder.admitted.in_a_crowd)
        budget.begin()
        self.assertFalse(holder.admitted.in_a_crowd)
        now[0] += AT_ONCE_SECONDS * 1.1
        self.assertTrue(holder.admitted.in_a_crowd)
        budget.begin()
        self.assertFalse(holder.admitted.in_a_crowd)
