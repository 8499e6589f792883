"""Lanes and their schedule: custody within bounds, in order, with deadlines by kind."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.queue.backoff import BackOff
from s2sgw.queue.entries import OVERHEAD, HoldTimes, MemoryBudget, QueuedStanza, QueueItem, UpstreamAck
from s2sgw.queue.pair_queue import PairQueue
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Kind, Stanza

PAIR = Pair(Domain.parse("a.example"), Domain.parse("b.example"))


def stanza(id: str, kind: Kind = "message", size: int = 100) -> Stanza:
    return Stanza(kind, b"x" * size, "u@b.example", "u@a.example", None, id)


def ids(pieces: Iterable[QueueItem]) -> list[str | None]:
    return [stanza.id for piece in pieces for stanza in piece.stanzas]


def pair_queue(share: int = 10_000, budget: int = 100_000) -> PairQueue:
    return PairQueue(PAIR, MemoryBudget(budget), share, HoldTimes(stanza=600, iq=30))


class LaneTests(SynchronousTestCase):
    """What a lane holds, hands over and gives up."""

    def test_order(self) -> None:
        """R33: what was accepted first is written and acknowledged first."""
        it = pair_queue()
        it.accept([stanza("1"), stanza("2", "iq")], 0)
        it.accept([stanza("3", "presence")], 1)
        self.assertEqual(ids(it.write(10_000)), ["1", "2", "3"])
        self.assertEqual((len(it), it.pending, it.oldest), (3, False, 0))
        self.assertEqual(ids(it.acknowledge(2)), ["1", "2"])
        self.assertEqual(ids(it.acknowledge(9)), ["3"])
        self.assertEqual((len(it), it.bytes, it.oldest), (0, 0, None))

    def test_writes_in_parts(self) -> None:
        """A hop with little room gets little, but never nothing."""
        it = pair_queue()
        it.accept([stanza("1"), stanza("2"), stanza("3")], 0)
        self.assertEqual(ids(it.write(1)), ["1"])
        self.assertEqual(ids(it.write(150)), ["2", "3"])
        self.assertEqual(it.write(1), [])

    def test_largest(self) -> None:
        """The largest of what is in flight, however it got there."""
        it = pair_queue()
        self.assertEqual(it.largest_flying, 0)
        it.fly([stanza("1"), stanza("2", size=300)], 0, None)
        it.accept([stanza("3", size=200), stanza("4", size=400)], 0)
        it.write(1)
        self.assertEqual(it.largest_flying, 300)
        it.acknowledge(2)
        self.assertEqual(it.largest_flying, 200)

    def test_taken_back(self) -> None:
        """What was in flight when the hop was lost waits again before everything else, and is known to be in doubt."""
        it = pair_queue()
        it.accept([stanza("1"), stanza("2"), stanza("3")], 0)
        it.write(150)
        self.assertEqual(ids(it.take_back()), ["1", "2"])
        again = it.write(10_000)
        self.assertEqual(ids(again), ["1", "2", "3"])

    def test_share(self) -> None:
        """A full lane refuses what is new, from the first that does not fit on, and keeps what it has."""
        it = pair_queue(share=2 * (100 + OVERHEAD))
        _, refused = it.accept([stanza("1"), stanza("big", size=5000), stanza("2")], 0)
        self.assertEqual([each.id for each in refused], ["big", "2"])
        self.assertFalse(it.crowded)
        it.accept([stanza("3")], 0)
        self.assertTrue(it.crowded)
        self.assertEqual(ids(list(it)), ["1", "3"])

    def test_budget_is_shared(self) -> None:
        """Two lanes draw on one budget, and what one passes on the other may use."""
        budget = MemoryBudget(100 + OVERHEAD)
        one, other = (PairQueue(PAIR, budget, 10_000, HoldTimes()) for _ in range(2))
        self.assertEqual(one.accept([stanza("1")], 0)[1], [])
        self.assertEqual(len(other.accept([stanza("2")], 0)[1]), 1)
        one.write(1)
        self.assertEqual(len(other.accept([stanza("2")], 0)[1]), 1)
        one.acknowledge(1)
        self.assertEqual(other.accept([stanza("2")], 0)[1], [])

    def test_crowded_budget(self) -> None:
        """Many lanes that fill a common budget slow their senders before there is no room left; an empty lane slows nobody."""
        budget = MemoryBudget(4 * (100 + OVERHEAD))
        one, other, third = (PairQueue(PAIR, budget, 1_000_000, HoldTimes()) for _ in range(3))
        one.accept([stanza("1"), stanza("2")], 0)
        self.assertFalse(one.crowded)
        other.accept([stanza("3")], 0)
        self.assertEqual((one.crowded, other.crowded, third.crowded), (True, True, False))

    def test_expiry_by_kind(self) -> None:
        """An IQ waits its own, shorter time; the stanzas around it stay, in order; what is in flight is left alone."""
        it = pair_queue()
        it.accept([stanza("f", "iq"), stanza("m1"), stanza("q", "iq"), stanza("m2")], 0)
        it.write(1)
        self.assertEqual(it.expire(29.9), [])
        self.assertEqual(ids(it.expire(30)), ["q"])
        self.assertEqual(it.expire(599), [])
        self.assertEqual(ids(it.expire(600)), ["m1", "m2"])
        self.assertEqual((len(it), it.expire(10_000)), (1, []))

    def test_clear(self) -> None:
        """Everything that is not in flight can be given up at once, and the room is free again."""
        it = pair_queue()
        it.accept([stanza("1"), stanza("2")], 0)
        self.assertEqual(ids(it.clear()), ["1", "2"])
        self.assertEqual((len(it), it.bytes, it.oldest), (0, 0, None))

    def test_unspooled(self) -> None:
        """What is old enough and still here is for the spool, once."""
        it = pair_queue()
        it.accept([stanza("1"), stanza("2")], 0)
        it.accept([stanza("3")], 1)
        it.write(1)
        it.acknowledge(1)
        self.assertEqual(ids(it.unspooled(0.5)), ["2"])
        self.assertEqual(ids(it.unspooled(1)), ["3"])
        self.assertEqual(it.unspooled(9), [])

    def test_acknowledged_is_not_kept(self) -> None:
        """What was acknowledged leaves memory at once, not when it would have been due for the spool."""
        it = pair_queue()
        it.fly([stanza("1"), stanza("2")], 0, None)
        it.fly([stanza("3")], 0, None)
        it.acknowledge(1)
        self.assertEqual(ids(it.fresh), ["2", "3"])
        it.acknowledge(2)
        self.assertEqual(ids(it.fresh), [])

    def test_receipt(self) -> None:
        """A receipt is settled once, when every stanza it is for has been."""
        settled: list[bool] = []
        upstream_ack = UpstreamAck(2, lambda: settled.append(True))
        it = pair_queue()
        it.accept([stanza("1"), stanza("2")], 0, upstream_ack)
        it.write(10_000)
        for held in it.acknowledge(1):
            held.settle()
            held.settle()
        self.assertEqual(settled, [])
        for held in it.acknowledge(1):
            held.settle()
        self.assertEqual(settled, [True])

    def test_leaves_to_the_spool_and_fetches_back(self) -> None:
        """What the spool holds need not stay in memory; it comes back in order, before what came since."""
        it = pair_queue()
        held, _ = it.accept([stanza(str(n)) for n in range(5)], 0)
        for each in held:
            each.spooled = True
        it.evict(2 * (100 + OVERHEAD))
        self.assertEqual((ids(list(it)), it.spooled_range, it.gap_count, len(it)), (["0", "1"], (2, 5), 3, 5))
        late, _ = it.accept([stanza("5")], 1)
        self.assertEqual(ids(it.write(10_000)), ["0", "1"])
        it.fill([QueuedStanza(3, stanza("2"), 0, 600, None, True)], complete=False)
        self.assertEqual((ids(it.write(10_000)), it.spooled_range, it.pending), (["2"], (3, 5), True))
        late[0].spooled = True
        it.evict(0)
        self.assertEqual((it.spooled_range, it.gap_count), ((3, 6), 3))
        it.fill([QueuedStanza(n, stanza(str(n - 1)), 0, 600, None, True) for n in (4, 5, 6)], complete=True)
        self.assertEqual((ids(it.write(10_000)), it.spooled_range, len(it)), (["3", "4", "5"], None, 6))

    def test_leaves_while_more_comes(self) -> None:
        """What the spool has leaves memory also while stanzas keep coming that it does not have yet; those stand behind the gap."""
        it = pair_queue()
        it.accept([stanza(str(n)) for n in range(4)], 0)
        for each in it.unspooled(0):
            each.spooled = True
        it.accept([stanza("4"), stanza("5")], 1)
        it.evict(100 + OVERHEAD)
        self.assertEqual((ids(it.waiting), it.spooled_range, it.gap_count, ids(it.recent)), ([], (0, 4), 4, ["4", "5"]))
        it.recent[0].spooled = True
        it.evict(100 + OVERHEAD)
        self.assertEqual((it.spooled_range, it.gap_count, ids(it.recent), len(it)), ((0, 5), 5, ["5"], 6))
        it.fill([QueuedStanza(n, stanza(str(n - 1)), 0, 600, None, True) for n in range(1, 6)], complete=True)
        self.assertEqual((ids(it.write(10_000)), len(it)), (["0", "1", "2", "3", "4", "5"], 6))

    def test_full(self) -> None:
        """So much is in flight at a time: the next is neither written at once nor from what waits, until some is acknowledged."""
        it = pair_queue(share=12 * (100 + OVERHEAD))
        self.assertTrue(it.fly([stanza("1"), stanza("2")], 0, None))
        self.assertFalse(it.full)
        it.accept([stanza("3"), stanza("4")], 0)
        it.write(1)
        it.write(1)
        self.assertTrue(it.full)
        self.assertFalse(it.fly([stanza("5")], 0, None))
        it.acknowledge(1)
        self.assertFalse(it.full)
        self.assertTrue(it.fly([stanza("5")], 0, None))
        it.take_back()
        self.assertFalse(it.full)

    def test_stays_while_there_is_room(self) -> None:
        """Nothing is set apart from a lane that is small, or of which the spool has nothing."""
        it = pair_queue()
        it.accept([stanza("1"), stanza("2")], 0)
        it.evict(0)
        self.assertEqual((ids(it.waiting), it.spooled_range, ids(it.recent)), (["1", "2"], None, []))
        it.waiting[0].spooled = True
        it.evict(10_000)
        self.assertEqual((ids(it.waiting), it.spooled_range, ids(it.recent)), (["1", "2"], None, []))

    def test_flight(self) -> None:
        """What is written as it comes is one piece, until one of its stanzas matters: acknowledged, spooled or in doubt."""
        settled: list[bool] = []
        it = pair_queue()
        self.assertTrue(it.fly([stanza("1"), stanza("2"), stanza("3")], 0, UpstreamAck(3, lambda: settled.append(True))))
        self.assertTrue(it.fly([stanza("4")], 1, None))
        self.assertEqual((len(it), it.bytes, ids(list(it)), it.pending), (4, 4 * (100 + OVERHEAD), ["1", "2", "3", "4"], False))
        first = it.acknowledge(1)
        self.assertEqual((ids(first), len(it), ids(it.unspooled(0.5))), (["1"], 3, ["2", "3"]))
        first[0].settle()
        self.assertEqual(ids(it.acknowledge(1)), ["2"])
        again = it.take_back()
        self.assertEqual(([held.position for held in again], len(it), it.pending), ([3, 4], 2, True))
        self.assertEqual(settled, [])
        self.assertEqual(ids(it.unspooled(9)), ["3", "4"])
        self.assertFalse(it.fly([stanza("5")], 2, None))

    def test_flight_without_room(self) -> None:
        """A flight that does not fit does not leave."""
        it = pair_queue(share=700)
        self.assertEqual((it.fly([stanza("1"), stanza("2")], 0, None), it.bytes, it.next_position), (False, 0, 1))
        self.assertTrue(it.fly([stanza("1")], 0, None))

    def test_flight_settles_once(self) -> None:
        """However a flight is taken apart, its receipt counts every stanza once."""
        settled: list[bool] = []
        it = pair_queue()
        it.fly([stanza("1"), stanza("2"), stanza("3")], 0, UpstreamAck(3, lambda: settled.append(True)))
        whole = it.unspooled(1)
        gone = it.acknowledge(1)
        for piece in [*whole, *gone, *whole]:
            piece.settle()
        self.assertEqual(settled, [])
        for held in it.take_back():
            held.settle()
        self.assertEqual(settled, [True])

    def test_restored(self) -> None:
        """After a start a lane knows how much the spool holds of it, and goes on counting behind that."""
        it = pair_queue()
        it.restore(7, 9, 2)
        held, _ = it.accept([stanza("n")], 0)
        self.assertEqual((len(it), it.spooled_range, held[0].position, it.pending), (3, (6, 9), 10, True))

    @given(st.lists(st.one_of(
        st.tuples(st.just("accept"), st.integers(0, 3000)), st.tuples(st.just("write"), st.integers(1, 5000)),
        st.tuples(st.just("acknowledge"), st.integers(0, 9)), st.tuples(st.just("fly"), st.integers(0, 3000)), st.tuples(st.just("expire"), st.integers(0, 40)),
        st.tuples(st.just("lose"), st.just(0)),
    )))
    def test_nothing_is_lost(self, steps: list[tuple[str, int]]) -> None:
        """Whatever happens, each stanza is refused, acknowledged, expired or still there, once; sizes add up."""
        budget = MemoryBudget(12_000)
        it = PairQueue(PAIR, budget, 8_000, HoldTimes(stanza=30, iq=10))
        seen: list[str | None] = []
        now = 0.0
        for number, (step, value) in enumerate(steps):
            if step == "accept":
                kind: Kind = "iq" if number % 3 == 0 else "message"
                seen += [each.id for each in it.accept([stanza(str(number), kind, value)], now)[1]]
            elif step == "fly":
                pair = [stanza(str(number), "message", value), stanza(f"{number}b", "message", value)]
                seen += [] if it.fly(pair, now, None) else [str(number), f"{number}b"]
            elif step == "write":
                it.write(value)
            elif step == "acknowledge":
                seen += ids(it.acknowledge(value))
            elif step == "lose":
                it.take_back()
            else:
                now += value
                seen += ids(it.expire(now))
        accepted = [str(number) for number, (step, _) in enumerate(steps) if step in ("accept", "fly")]
        accepted += [f"{number}b" for number, (step, _) in enumerate(steps) if step == "fly"]
        positions = [held.position for held in it]
        self.assertEqual(positions, sorted(positions))
        self.assertEqual(sorted(filter(None, seen + ids(list(it)))), sorted(accepted))
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
