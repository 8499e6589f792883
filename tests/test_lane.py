"""Lanes and their schedule: custody within bounds, in order, with deadlines by kind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.queue.lane import OVERHEAD, Budget, Held, Holds, Lane
from s2sgw.queue.schedule import BackOff
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Kind, Stanza

PAIR = Pair(Domain.parse("a.example"), Domain.parse("b.example"))


def stanza(id: str, kind: Kind = "message", size: int = 100) -> Stanza:
    return Stanza(kind, b"x" * size, "u@b.example", "u@a.example", None, id)


def ids(held: list[Held]) -> list[str | None]:
    return [each.stanza.id for each in held]


def lane(share: int = 10_000, budget: int = 100_000) -> Lane:
    return Lane(PAIR, Budget(budget), share, Holds(stanza=600, iq=30))


class LaneTests(SynchronousTestCase):
    """What a lane holds, hands over and gives up."""

    def test_order(self) -> None:
        """R33: what was accepted first leaves first."""
        it = lane()
        it.accept([stanza("1"), stanza("2", "iq")], 0)
        it.accept([stanza("3", "presence")], 1)
        self.assertEqual(ids(it.take(10_000)), ["1", "2", "3"])
        self.assertEqual((len(it), it.bytes, it.oldest), (0, 0, None))

    def test_takes_in_parts(self) -> None:
        """A taker with little room gets little, but never nothing."""
        it = lane()
        it.accept([stanza("1"), stanza("2"), stanza("3")], 0)
        self.assertEqual(ids(it.take(1)), ["1"])
        self.assertEqual(ids(it.take(150)), ["2", "3"])
        self.assertEqual(it.take(1), [])

    def test_share(self) -> None:
        """A full lane refuses what is new, from the first that does not fit on, and keeps what it has."""
        it = lane(share=2 * (100 + OVERHEAD))
        refused = it.accept([stanza("1"), stanza("big", size=5000), stanza("2")], 0)
        self.assertEqual([each.id for each in refused], ["big", "2"])
        self.assertFalse(it.crowded)
        it.accept([stanza("3")], 0)
        self.assertTrue(it.crowded)
        self.assertEqual(ids(list(it)), ["1", "3"])

    def test_budget_is_shared(self) -> None:
        """Two lanes draw on one budget, and what one hands over the other may use."""
        budget = Budget(100 + OVERHEAD)
        one, other = (Lane(PAIR, budget, 10_000, Holds()) for _ in range(2))
        self.assertEqual(one.accept([stanza("1")], 0), [])
        self.assertEqual(len(other.accept([stanza("2")], 0)), 1)
        one.take(1)
        self.assertEqual(other.accept([stanza("2")], 0), [])

    def test_expiry_by_kind(self) -> None:
        """An IQ waits its own, shorter time; the stanzas around it stay, in order."""
        it = lane()
        it.accept([stanza("m1"), stanza("q", "iq"), stanza("m2")], 0)
        self.assertEqual(it.expire(29.9), [])
        self.assertEqual(ids(it.expire(30)), ["q"])
        self.assertEqual(it.expire(599), [])
        self.assertEqual(ids(it.expire(600)), ["m1", "m2"])
        self.assertEqual((it.bytes, it.expire(10_000)), (0, []))

    def test_clear(self) -> None:
        """Everything can be given up at once, and the room is free again."""
        it = lane()
        it.accept([stanza("1"), stanza("2")], 0)
        self.assertEqual(ids(it.clear()), ["1", "2"])
        self.assertEqual((len(it), it.bytes, it.oldest), (0, 0, None))

    @given(st.lists(st.one_of(
        st.tuples(st.just("accept"), st.integers(0, 3000)), st.tuples(st.just("take"), st.integers(1, 5000)),
        st.tuples(st.just("expire"), st.integers(0, 40)),
    )))
    def test_nothing_is_lost(self, steps: list[tuple[str, int]]) -> None:
        """Whatever happens, each stanza is refused, handed over, expired or still there, once; sizes add up."""
        budget = Budget(12_000)
        it = Lane(PAIR, budget, 8_000, Holds(stanza=30, iq=10))
        seen: list[str | None] = []
        now = 0.0
        for number, (step, value) in enumerate(steps):
            if step == "accept":
                kind: Kind = "iq" if number % 3 == 0 else "message"
                seen += [each.id for each in it.accept([stanza(str(number), kind, value)], now)]
            elif step == "take":
                seen += ids(it.take(value))
            else:
                now += value
                seen += ids(it.expire(now))
        accepted = [str(number) for number, (step, _) in enumerate(steps) if step == "accept"]
        left = ids(list(it))
        self.assertEqual(sorted(filter(None, seen + left)), sorted(accepted))
        self.assertEqual(it.bytes, sum(len(held.stanza.data) + OVERHEAD for held in it))
        self.assertEqual(budget.used, it.bytes)


class BackOffTests(SynchronousTestCase):
    """The schedule of attempts."""

    def test_grows_to_its_bound(self) -> None:
        """Each failure doubles the wait, up to the longest."""
        it = BackOff(first=2, factor=2, longest=10, jitter=0)
        self.assertEqual([it.delay(n, lambda: 0.5) for n in (1, 2, 3, 4, 1000)], [2, 4, 8, 10, 10])

    def test_jitter(self) -> None:
        """Jitter shortens a wait by at most its part."""
        it = BackOff(first=8, jitter=0.25)
        self.assertEqual((it.delay(1, lambda: 0.0), it.delay(1, lambda: 1.0)), (8, 6))
