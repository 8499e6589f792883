"""Tests of the content of a delivery queue: its order, and deadlines by kind."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.queue.entries import OVERHEAD, HoldTimes, QueuedStanza, QueueItem
from s2sgw.queue.evidence import ON_DISK, PASSED_ON
from s2sgw.queue.memory import PeerMemory, SharedMemory
from s2sgw.queue.pair_queue import PairQueue
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Kind, Stanza
from tests.support.custody import Receipt

PAIR = Pair(Domain.parse("a.example"), Domain.parse("b.example"))


def stanza(id: str, kind: Kind = "message", size: int = 100) -> Stanza:
    return Stanza(kind, b"x" * size, "u@b.example", "u@a.example", None, id)


def ids(pieces: Iterable[QueueItem]) -> list[str | None]:
    return [stanza.id for piece in pieces for stanza in piece.stanzas]


def pair_queue(memory: int = 100_000, share: float = 0.1) -> PairQueue:
    return PairQueue(PAIR, PeerMemory(SharedMemory(memory, share)), HoldTimes(stanza=600, iq=30))


def in_spool(number: int, accepted_at: float = 0) -> QueuedStanza:
    """Return a stanza as it is read from the spool."""
    return QueuedStanza(number, stanza(str(number - 1)), accepted_at, accepted_at + 600, None, True, True)


class PairQueueTests(SynchronousTestCase):
    """Tests of what a queue holds, hands over and gives up."""

    def test_order(self) -> None:
        """R33: the stanza accepted first is written and acknowledged first."""
        it = pair_queue()
        it.accept([stanza("1"), stanza("2", "iq")], 0)
        it.accept([stanza("3", "presence")], 1)
        self.assertEqual(ids(it.write(10_000)), ["1", "2", "3"])
        self.assertEqual((len(it), it.pending, it.oldest), (3, False, 0))
        self.assertEqual(ids(it.acknowledge(2)), ["1", "2"])
        self.assertEqual(ids(it.acknowledge(9)), ["3"])
        self.assertEqual((len(it), it.bytes, it.oldest), (0, 0, None))

    def test_writes_in_parts(self) -> None:
        """A next hop with little room gets few stanzas, but at least one."""
        it = pair_queue()
        it.accept([stanza("1"), stanza("2"), stanza("3")], 0)
        self.assertEqual(ids(it.write(1)), ["1"])
        self.assertEqual(ids(it.write(150)), ["2", "3"])
        self.assertEqual(it.write(1), [])

    def test_largest(self) -> None:
        """The largest stanza in flight is known, however it was written."""
        it = pair_queue()
        self.assertEqual(it.largest_in_flight, 0)
        it.add_in_flight([stanza("1"), stanza("2", size=300)], 0, None)
        it.accept([stanza("3", size=200), stanza("4", size=400)], 0)
        it.write(1)
        self.assertEqual(it.largest_in_flight, 300)
        it.acknowledge(2)
        self.assertEqual(it.largest_in_flight, 200)

    def test_taken_back(self) -> None:
        """Stanzas in flight when the stream is lost wait again, before all others, and are marked as in doubt."""
        it = pair_queue()
        it.accept([stanza("1"), stanza("2"), stanza("3")], 0)
        it.write(150)
        self.assertEqual(ids(it.take_back()), ["1", "2"])
        again = it.write(10_000)
        self.assertEqual(ids(again), ["1", "2", "3"])

    def test_takes_what_was_read(self) -> None:
        """No stanza is refused for lack of memory: a stanza that was read is in custody, and the queue reports that it is crowded."""
        it = pair_queue(memory=8 * (100 + OVERHEAD), share=0.5)
        it.accept([stanza("1"), stanza("2")], 0)
        self.assertFalse(it.crowded)
        it.accept([stanza("big", size=50_000), stanza("3")], 0)
        self.assertTrue(it.crowded)
        self.assertEqual(ids(list(it)), ["1", "2", "big", "3"])

    def test_crowded_by_others(self) -> None:
        """A peer may use as much as is free: if others use much, it is crowded sooner. An empty queue is not crowded."""
        memory = SharedMemory(8 * (100 + OVERHEAD), 0.5)
        one, other, third = (PairQueue(PAIR, PeerMemory(memory), HoldTimes()) for _ in range(3))
        one.accept([stanza("1"), stanza("2")], 0)
        self.assertFalse(one.crowded)
        other.accept([stanza(str(number)) for number in range(4)], 0)
        self.assertEqual((one.crowded, other.crowded, third.crowded), (True, True, False))
        one.write(1000)
        one.acknowledge(2)
        self.assertEqual((one.crowded, memory.used), (False, 4 * (100 + OVERHEAD)))

    def test_unsaved(self) -> None:
        """Bytes that are in memory and not on the disk are counted, however they get there or leave."""
        it, each = pair_queue(), 100 + OVERHEAD
        it.add_in_flight([stanza("1"), stanza("2")], 0, None)
        it.accept([stanza("3"), stanza("4")], 0)
        self.assertEqual(it.unsaved, 4 * each)
        batch = it.take_unspooled(0)
        it.acknowledge(1)
        it.mark_durable([item for whole in batch for item in whole.parts_now()])
        self.assertEqual(it.unsaved, 0)
        it.accept([stanza("5")], 1)
        self.assertEqual(it.unsaved, each)
        it.remove_up_to(it.next_position)
        it.take_back()
        it.remove_up_to(it.next_position)
        self.assertEqual((it.unsaved, it.bytes, it.memory.used), (0, 0, 0))

    def test_given_back(self) -> None:
        """Stanzas that the spool did not store are given to it again, in order, before later ones. Those that have left meanwhile are not."""
        it = pair_queue()
        it.accept([stanza("1"), stanza("2"), stanza("3")], 0)
        batch = it.take_unspooled(0)
        it.accept([stanza("4")], 1)
        it.remove({2})
        it.give_back_unspooled(batch)
        self.assertEqual((ids(it.take_unspooled(9)), it.unsaved), (["1", "3", "4"], 3 * (100 + OVERHEAD)))

    def test_two_batches_given_back(self) -> None:
        """If the spool refuses two batches, one after the other, the stanzas of both are given to it again in order."""
        it = pair_queue()
        it.accept([stanza("1"), stanza("2")], 0)
        first = it.take_unspooled(0)
        it.accept([stanza("3"), stanza("4")], 1)
        second = it.take_unspooled(1)
        it.accept([stanza("5")], 2)
        it.give_back_unspooled(first)
        it.give_back_unspooled(second)
        self.assertTrue(it.has_unspooled(0))
        self.assertEqual(ids(it.take_unspooled(9)), ["1", "2", "3", "4", "5"])

    def test_expiry_by_kind(self) -> None:
        """An IQ has its own, shorter time. The stanzas around it stay in order, and stanzas in flight are not touched."""
        it = pair_queue()
        it.accept([stanza("f", "iq"), stanza("m1"), stanza("q", "iq"), stanza("m2")], 0)
        it.write(1)
        self.assertEqual(it.expire(29.9, 99), [])
        self.assertEqual(ids(it.expire(30, 99)), ["q"])
        self.assertEqual(it.expire(599, 99), [])
        self.assertEqual(ids(it.expire(600, 99)), ["m1", "m2"])
        self.assertEqual((len(it), it.expire(10_000, 99)), (1, []))

    def test_a_step_takes_the_first(self) -> None:
        """Steps that take the first stanzas do not rebuild the rest of a long queue."""
        it = pair_queue()
        it.accept([stanza(str(number)) for number in range(9)], 0)
        waiting = it.waiting
        self.assertEqual(ids(it.remove_up_to(9, 2)) + ids(it.expire(600, 2)) + ids(it.remove({5, 6})), list("012345"))
        self.assertIs(it.waiting, waiting)
        self.assertTrue(it.has_expired(600))
        self.assertEqual(ids(it.remove({8})) + ids(it.expire(600, 2)) + ids(it.waiting), list("768"))

    def test_few_are_taken_out(self) -> None:
        """A few stanzas are taken out of a long queue without reading it, in order, whatever line they wait in."""
        it = pair_queue()
        it.accept([stanza(str(number)) for number in range(6)], 0)
        it.mark_durable(it.take_unspooled(0))
        it.evict(2 * (100 + OVERHEAD))
        it.accept([stanza(str(number)) for number in range(6, 9)], 0)
        waiting, arrived = it.waiting, it.arrived_since
        self.assertEqual((["0", "1"], ["6", "7", "8"]), (ids(waiting), ids(arrived)))
        self.assertEqual(["1", "7"], ids(it.remove({8, 2, 3, 99})))
        self.assertIs(it.waiting, waiting)
        self.assertIs(it.arrived_since, arrived)
        self.assertEqual((["0"], ["6", "8"], 7), (ids(it.waiting), ids(it.arrived_since), len(it)))

    def test_removal_of_what_was_skipped(self) -> None:
        """A stanza that was skipped is found also when later ones came back from the stream."""
        it = pair_queue()
        it.accept([stanza(str(number)) for number in range(1, 6)], 0)
        self.assertEqual(["1", "3", "4"], ids(it.write(300, {2})))
        it.take_back()
        self.assertEqual(["1", "2", "3", "4", "5"], ids(it.waiting))
        it.write(300, {2})
        it.write(1)
        it.take_back()
        self.assertEqual((["2"], ["1", "3", "4", "5"]), (ids(it.remove({2})), ids(it.waiting)))

    def test_expiry_of_what_was_in_flight(self) -> None:
        """Stanzas in flight when the stream was lost expire like others, whether they were written at once or had waited."""
        it = pair_queue()
        it.add_in_flight([stanza("1"), stanza("q", "iq")], 0, None)
        it.accept([stanza("2")], 100)
        it.write(1)
        self.assertEqual((it.expire(10_000, 99), it.in_flight_deadline), ([], 30))
        it.take_back()
        self.assertEqual(ids(it.expire(30, 99)), ["q"])
        self.assertEqual(ids(it.expire(600, 99)), ["1"])
        self.assertEqual(ids(it.expire(700, 99)), ["2"])

    def test_expiry_of_what_was_read_back(self) -> None:
        """A stanza that was read back from disk expires in memory."""
        it = pair_queue()
        it.accept([stanza("1"), stanza("q", "iq")], 0)
        it.mark_durable(it.take_unspooled(0))
        left = it.evict(0)
        self.assertEqual((len(left), it.expire(10_000, 99)), (2, []))
        it.fill([QueuedStanza(held.position, held.stanza, 0, held.deadline) for held in reversed(left)], complete=True)
        self.assertEqual(ids(it.expire(30, 99)), ["q"])
        self.assertEqual(ids(it.expire(600, 99)), ["1"])

    def test_clear(self) -> None:
        """Everything that is not in flight can be given up at once. Its memory is free again."""
        it = pair_queue()
        it.accept([stanza("1"), stanza("2")], 0)
        self.assertEqual(ids(it.remove_up_to(it.next_position)), ["1", "2"])
        self.assertEqual((len(it), it.bytes, it.oldest), (0, 0, None))

    def test_unspooled(self) -> None:
        """Stanzas that are old enough and still here are given to the spool once."""
        it = pair_queue()
        it.accept([stanza("1"), stanza("2")], 0)
        it.accept([stanza("3")], 1)
        it.write(1)
        it.acknowledge(1)
        self.assertEqual(ids(it.take_unspooled(0.5)), ["2"])
        self.assertEqual(ids(it.take_unspooled(1)), ["3"])
        self.assertEqual(it.take_unspooled(9), [])

    def test_acknowledged_is_not_kept(self) -> None:
        """An acknowledged stanza leaves memory at once, not when it would have been due for the spool."""
        it = pair_queue()
        it.add_in_flight([stanza("1"), stanza("2")], 0, None)
        it.add_in_flight([stanza("3")], 0, None)
        it.acknowledge(1)
        self.assertEqual(ids(it.unspooled), ["2", "3"])
        it.acknowledge(2)
        self.assertEqual(ids(it.unspooled), [])

    def test_receipt(self) -> None:
        """An upstream acknowledgement is settled once, when each of its stanzas is, and has their evidence."""
        settled: list[bool] = []
        receipt = Receipt(2, lambda: settled.append(True))
        it = pair_queue()
        it.accept([stanza("1"), stanza("2")], 0, receipt)
        it.write(10_000)
        for held in it.acknowledge(1):
            held.settle(PASSED_ON)
            held.settle(PASSED_ON)
        self.assertEqual((settled, receipt.evidence), ([], None))
        for held in it.acknowledge(1):
            held.settle(ON_DISK)
        self.assertEqual((settled, receipt.evidence, receipt.by), ([True], ON_DISK, [("passed_on", 1), ("on_disk", 1)]))

    def test_leaves_to_the_spool_and_fetches_back(self) -> None:
        """Stanzas in the spool need not stay in memory. They come back in order, before later ones."""
        it = pair_queue()
        it.mark_durable(it.accept([stanza(str(n)) for n in range(5)], 0))
        it.evict(2 * (100 + OVERHEAD))
        self.assertEqual((ids(list(it)), it.spooled_range, it.only_spooled, len(it)), (["0", "1"], (2, 5), 3, 5))
        late = it.accept([stanza("5")], 1)
        self.assertEqual(ids(it.write(10_000)), ["0", "1"])
        it.fill([in_spool(3)], complete=False)
        self.assertEqual((ids(it.write(10_000)), it.spooled_range, it.pending), (["2"], (3, 5), True))
        it.mark_durable(late)
        it.evict(0)
        self.assertEqual((it.spooled_range, it.only_spooled), ((3, 6), 3))
        it.fill([in_spool(number) for number in (4, 5, 6)], complete=True)
        self.assertEqual((ids(it.write(10_000)), it.spooled_range, len(it)), (["3", "4", "5"], None, 6))

    def test_nothing_leaves_before_the_commit(self) -> None:
        """Stanzas that are being spooled stay in memory until the commit: it may fail."""
        it = pair_queue()
        it.accept([stanza("1"), stanza("2")], 0)
        first = it.take_unspooled(0)
        it.accept([stanza("3")], 1)
        it.take_unspooled(1)
        it.mark_durable(first)
        it.evict(0)
        self.assertEqual((it.spooled_range, ids(it.waiting), ids(it.arrived_since)), ((0, 2), [], ["3"]))

    def test_oldest_on_the_disk(self) -> None:
        """The age of the oldest waiting stanza is known, in memory or on the disk."""
        it = pair_queue()
        it.restore(3, 5, 3, oldest=7.0)
        it.accept([stanza("9")], 90)
        self.assertEqual(it.oldest, 7.0)
        it.fill([in_spool(3, 7.0)], complete=False)
        it.write(1)
        self.assertEqual(it.oldest, 7.0)
        it.acknowledge(1)
        self.assertEqual(it.oldest, 7.0)  # at least: no stanza on the disk is older
        it.fill([in_spool(4, 8.0), in_spool(5, 9.0)], complete=True)
        self.assertEqual(it.oldest, 8.0)
        it.mark_durable(it.waiting)
        it.evict(0)
        self.assertEqual((it.oldest, ids(list(it))), (8.0, []))

    def test_leaves_while_more_comes(self) -> None:
        """Spooled stanzas leave memory also while unspooled ones arrive. Those are placed behind the range."""
        it = pair_queue()
        it.accept([stanza(str(n)) for n in range(4)], 0)
        it.mark_durable(it.take_unspooled(0))
        it.accept([stanza("4"), stanza("5")], 1)
        it.evict(100 + OVERHEAD)
        self.assertEqual((ids(it.waiting), it.spooled_range, it.only_spooled, ids(it.arrived_since)), ([], (0, 4), 4, ["4", "5"]))
        it.mark_durable([next(iter(it.arrived_since))])
        it.evict(100 + OVERHEAD)
        self.assertEqual((it.spooled_range, it.only_spooled, ids(it.arrived_since), len(it)), ((0, 5), 5, ["5"], 6))
        it.fill([in_spool(number) for number in range(1, 6)], complete=True)
        self.assertEqual((ids(it.write(10_000)), len(it)), (["0", "1", "2", "3", "4", "5"], 6))

    def test_read_in_front_of_what_came_since(self) -> None:
        """Stanzas that were just read stay, so that they are not read again at once. If everything must leave memory, they leave too."""
        it = pair_queue()
        it.restore(1, 3, 3, oldest=0)
        it.accept([stanza("3")], 1)
        it.fill([in_spool(1), in_spool(2)], complete=False)
        it.evict(1)
        self.assertEqual(ids(it.waiting), ["0", "1"])
        it.evict(0)
        self.assertEqual((ids(it.waiting), it.spooled_range, it.only_spooled, ids(it.arrived_since)), ([], (0, 3), 3, ["3"]))

    def test_skipped(self) -> None:
        """If no stanza in the front part of the range is in custody any more, the range begins behind that part."""
        it = pair_queue()
        it.restore(1, 3, 3, oldest=0)
        it.only_spooled -= 2
        it.skip_to(2)
        self.assertEqual((it.spooled_range, it.pending, len(it)), ((2, 3), True, 1))

    def test_enough_in_flight(self) -> None:
        """The number of bytes in flight is limited; the rest waits for acknowledgements. One stanza may always be written."""
        it = pair_queue(memory=120 * (100 + OVERHEAD), share=0.1)
        it.add_in_flight([stanza("1"), stanza("2")], 0, None)
        self.assertFalse(it.enough_in_flight)
        it.add_in_flight([stanza("3"), stanza("4")], 0, None)
        self.assertTrue(it.enough_in_flight)
        it.acknowledge(1)
        self.assertFalse(it.enough_in_flight)
        it.take_back()
        self.assertFalse(it.enough_in_flight)
        tight = pair_queue(memory=100)
        self.assertFalse(tight.enough_in_flight)
        tight.add_in_flight([stanza("1")], 0, None)
        self.assertTrue(tight.enough_in_flight)

    def test_stays_while_there_is_room(self) -> None:
        """Nothing is evicted from a queue that is small, or of which the spool has nothing."""
        it = pair_queue()
        it.accept([stanza("1"), stanza("2")], 0)
        it.evict(0)
        self.assertEqual((ids(it.waiting), it.spooled_range, ids(it.arrived_since)), (["1", "2"], None, []))
        it.mark_durable([next(iter(it.waiting))])
        it.evict(10_000)
        self.assertEqual((ids(it.waiting), it.spooled_range, ids(it.arrived_since)), (["1", "2"], None, []))

    def test_batch(self) -> None:
        """Stanzas written at once are one item, until one of them is acknowledged, spooled or in doubt."""
        receipt = Receipt(3)
        it = pair_queue()
        it.add_in_flight([stanza("1"), stanza("2"), stanza("3")], 0, receipt)
        it.add_in_flight([stanza("4")], 1, None)
        self.assertEqual((len(it), it.bytes, ids(list(it)), it.pending), (4, 4 * (100 + OVERHEAD), ["1", "2", "3", "4"], False))
        first = it.acknowledge(1)
        self.assertEqual((ids(first), len(it), ids(it.take_unspooled(0.5))), (["1"], 3, ["2", "3"]))
        first[0].settle(PASSED_ON)
        self.assertEqual(ids(it.acknowledge(1)), ["2"])
        again = it.take_back()
        self.assertEqual(([held.position for held in again], len(it), it.pending), ([3, 4], 2, True))
        self.assertEqual(receipt.left, 2)
        self.assertEqual(ids(it.take_unspooled(9)), ["4"])

    def test_taken_back_in_order(self) -> None:
        """Stanzas that were not spooled when the stream was lost are given to the spool in their order."""
        it = pair_queue()
        it.add_in_flight([stanza("1")], 0, None)
        it.accept([stanza("2")], 0)
        it.write(1)
        it.add_in_flight([stanza("3"), stanza("4")], 0, None)
        it.accept([stanza("5")], 0)
        it.take_back()
        self.assertEqual(ids(it.take_unspooled(9)), ["1", "2", "3", "4", "5"])

    def test_batch_settles_once(self) -> None:
        """However a batch is split, its upstream acknowledgement counts every stanza once."""
        receipt = Receipt(3)
        it = pair_queue()
        it.add_in_flight([stanza("1"), stanza("2"), stanza("3")], 0, receipt)
        whole = it.take_unspooled(1)
        gone = it.acknowledge(1)
        for item in [*whole, *gone, *whole]:
            item.settle(PASSED_ON)
        self.assertEqual(receipt.left, 2)
        for held in it.take_back():
            held.settle(ON_DISK)
        self.assertEqual((receipt.left, receipt.evidence), (0, ON_DISK))

    def test_restored(self) -> None:
        """After a start a queue has the number of its stanzas in the spool, and continues to count behind them."""
        it = pair_queue()
        it.restore(7, 9, 2, oldest=0)
        held = it.accept([stanza("n")], 0)
        self.assertEqual((len(it), it.spooled_range, held[0].position, it.pending), (3, (6, 9), 10, True))

    @given(st.lists(st.one_of(
        st.tuples(st.just("accept"), st.integers(0, 3000)), st.tuples(st.just("write"), st.integers(1, 5000)),
        st.tuples(st.just("acknowledge"), st.integers(0, 9)), st.tuples(st.just("fly"), st.integers(0, 3000)), st.tuples(st.just("expire"), st.integers(0, 40)),
        st.tuples(st.just("lose"), st.just(0)),
    )))
    def test_nothing_is_lost(self, steps: list[tuple[str, int]]) -> None:
        """In any order of events each stanza is acknowledged, expired or still there, exactly once. The sizes add up."""
        memory = SharedMemory(12_000, 0.6)
        it = PairQueue(PAIR, PeerMemory(memory), HoldTimes(stanza=30, iq=10))
        seen: list[str | None] = []
        now = 0.0
        for number, (step, value) in enumerate(steps):
            if step == "accept":
                kind: Kind = "iq" if number % 3 == 0 else "message"
                it.accept([stanza(str(number), kind, value)], now)
            elif step == "fly":
                pair = [stanza(str(number), "message", value), stanza(f"{number}b", "message", value)]
                it.accept(pair, now) if it.pending else it.add_in_flight(pair, now, None)
            elif step == "write":
                it.write(value)
            elif step == "acknowledge":
                seen += ids(it.acknowledge(value))
            elif step == "lose":
                it.take_back()
            else:
                now += value
                seen += ids(it.expire(now, 99))
        accepted = [str(number) for number, (step, _) in enumerate(steps) if step in ("accept", "fly")]
        accepted += [f"{number}b" for number, (step, _) in enumerate(steps) if step == "fly"]
        positions = [held.position for held in it]
        self.assertEqual(positions, sorted(positions))
        self.assertEqual(sorted(filter(None, seen + ids(list(it)))), sorted(accepted))
        self.assertEqual(it.bytes, sum(len(held.stanza.data) + OVERHEAD for held in it))
        self.assertEqual((memory.used, it.unsaved), (it.bytes, it.bytes))
