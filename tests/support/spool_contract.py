"""The contract of every spool (`s2sgw/spool/interface.py`): a mixin suite. Another implementation subclasses it and gives `open`,
`failing` and `hanging`.

Answers come through `deliver`, which is here a queue that the tests empty. If an implementation has threads of its own, the
tests wait for an answer and never for time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s2sgw.spool.interface import (
    QUARANTINE_BYTES,
    QUARANTINE_STANZAS,
    LaneSummary,
    PositionTaken,
    Spool,
    SpoolAnswer,
    SpoolBroken,
    Spooled,
    SpoolError,
    SpoolFull,
)
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza

#: Seconds after which a missing answer fails the test.
PATIENCE = 30
PAIRS = tuple(Pair(Domain.parse(one), Domain.parse(other)) for one, other in (
    ("a.example", "b.example"), ("b.example", "a.example"), ("bücher.example", "xn--9ca.example"), ("[::1]", "127.0.0.1"),
))  # fmt: skip
A, B = PAIRS[:2]

Deliver = Callable[[Callable[[], None]], None]


def spooled(pair: Pair, position: int, size: int = 100, deadline: float = 600, kind: Any = "message") -> Spooled:
    data = f"<{kind} id='{position}'>ü".encode()
    stanza = Stanza(kind, data.ljust(size, b"."), "u@b.example", "u@a.example/ü", None, str(position), ("x}y", "x}z"))
    return Spooled(pair, position, stanza, float(position), deadline)


def told(row: Spooled) -> tuple[object, ...]:
    """Return all values of a row, in a form that compares."""
    stanza = row.stanza
    words = (stanza.kind, stanza.data, stanza.to, stanza.from_, stanza.type, stanza.id, stanza.payloads)
    return (row.pair, row.position, words, row.accepted_at, row.deadline, row.written)


T = TypeVar("T")


def answer_into(rows: list[T]) -> SpoolAnswer[list[T]]:
    """Return a function that takes a spool's answer and puts its rows into `rows`."""
    def take(answer: list[T] | SpoolError) -> None:
        assert not isinstance(answer, SpoolError), answer
        rows.extend(answer)

    return take


class Asking:
    """A spool with synchronous calls."""

    def __init__(self, open_: Callable[[Deliver], Spool]) -> None:
        self.calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.spool = open_(self.calls.put)

    def ask(self, method: Callable[..., None], *arguments: Any) -> Any:
        """Return the answer of `method`, after all earlier calls have taken effect."""
        answers: list[Any] = []
        method(*arguments, lambda *answer: answers.append(answer[0] if answer else None))
        while not answers:
            self.calls.get(timeout=PATIENCE)()
        return answers[0]

    def append(self, *batch: Spooled) -> Any:
        return self.ask(self.spool.append, batch)

    def mark(self, pair: Pair, positions: list[int]) -> Any:
        return self.ask(self.spool.mark_written, pair, positions)

    def read(self, pair: Pair, after: int = 0, at_most: int = 1 << 20) -> list[Spooled]:
        rows: list[Spooled] = self.ask(self.spool.read, pair, after, at_most)
        return rows

    def positions(self, pair: Pair) -> list[int]:
        return [row.position for row in self.read(pair)]

    def queues(self) -> list[LaneSummary]:
        rows: list[LaneSummary] = self.ask(self.spool.queues)
        return sorted(rows, key=lambda row: row.pair)

    def held(self) -> tuple[int, int]:
        self.queues()
        return self.spool.count, self.spool.bytes

    def close(self) -> None:
        self.ask(self.spool.close)


#: One step of a random run: its name and its arguments (see `Model`).
_pairs, _positions = st.sampled_from(PAIRS), st.integers(0, 40)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), _pairs, st.lists(st.integers(30, 200), min_size=1, max_size=6)),
        st.tuples(st.just("remove"), _pairs, _positions),
        st.tuples(st.just("remove_each"), _pairs, st.lists(_positions, max_size=5)),
        st.tuples(st.just("mark_written"), _pairs, st.lists(_positions, max_size=5)),
        st.tuples(st.just("read"), _pairs, _positions, st.integers(1, 500)),
        st.tuples(st.just("expired"), st.integers(0, 40), st.integers(1, 10)),
    ),
    max_size=25,
)  # fmt: skip


class Model:
    """A plain model of a spool: the held stanzas by pair and position. Each step is done in the model and in the spool."""

    def __init__(self, asking: Asking) -> None:
        self.asking = asking
        self.rows: dict[tuple[Pair, int], Spooled] = {}
        self.last = dict.fromkeys(PAIRS, 0)

    def pair_queue(self, pair: Pair) -> list[Spooled]:
        return [self.rows[key] for key in sorted(self.rows) if key[0] == pair]

    def append(self, pair: Pair, sizes: list[int]) -> None:
        batch = [spooled(pair, self.last[pair] + 1 + n, size, deadline=self.last[pair] + n) for n, size in enumerate(sizes)]
        self.last[pair] += len(sizes)
        self.rows.update({(row.pair, row.position): row for row in batch})
        assert self.asking.append(*batch) is None

    def remove(self, pair: Pair, up_to: int) -> None:
        self.rows = {key: row for key, row in self.rows.items() if key[0] != pair or key[1] > up_to}
        self.asking.spool.remove(pair, up_to)

    def remove_each(self, pair: Pair, positions: list[int]) -> None:
        self.rows = {key: row for key, row in self.rows.items() if key[0] != pair or key[1] not in positions}
        self.asking.spool.remove_each(pair, positions)

    def mark_written(self, pair: Pair, positions: list[int]) -> None:
        for position in positions:
            row = self.rows.get((pair, position))
            if row is not None:
                self.rows[pair, position] = Spooled(pair, position, row.stanza, row.accepted_at, row.deadline, True)
        assert self.asking.mark(pair, positions) is None

    def read(self, pair: Pair, after: int, at_most: int) -> None:
        """Read in order and without omissions: at least one stanza, up to `at_most`."""
        expected = [row for row in self.pair_queue(pair) if row.position > after]
        rows = self.asking.read(pair, after, at_most)
        assert list(map(told, rows)) == list(map(told, expected[: len(rows)]))
        sizes = [len(row.stanza.data) for row in rows]
        assert bool(rows) == bool(expected)
        assert sum(sizes[:-1]) < at_most
        assert len(rows) == len(expected) or sum(sizes) >= at_most

    def expired(self, now: int, at_most: int) -> None:
        late = {key: row for key, row in self.rows.items() if row.deadline <= now}
        rows = self.asking.ask(self.asking.spool.expired, float(now), at_most)
        assert len(rows) == min(len(late), at_most)
        assert all(told(row) == told(late[row.pair, row.position]) for row in rows)

    def check(self) -> None:
        """Check that the summaries agree with the rows."""
        queues = [
            LaneSummary(pair, len(rows), sum(len(row.stanza.data) for row in rows), rows[0].position, rows[-1].position, rows[0].accepted_at)
            for pair in sorted(PAIRS) if (rows := self.pair_queue(pair))
        ]
        assert self.asking.queues() == queues, (self.asking.queues(), queues)
        assert (self.asking.spool.count, self.asking.spool.bytes) == (len(self.rows), sum(row.bytes for row in queues))


class SpoolContract:
    """Subclass beside a `SynchronousTestCase`. `open(deliver, limit)` gives a new, empty spool whose disk can fail and hang."""

    assertEqual: Callable[..., None]
    assertIsInstance: Callable[..., None]
    assertLessEqual: Callable[..., None]
    assertGreater: Callable[..., None]

    def open(self, deliver: Deliver, limit: int) -> Spool:
        raise AssertionError("a subclass implements it")

    def failing(self, spool: Spool) -> AbstractContextManager[None]:
        """Let every read and write of the disk fail inside it."""
        raise AssertionError("a subclass implements it")

    def hanging(self, spool: Spool) -> AbstractContextManager[None]:
        """Let the disk answer nothing inside it."""
        raise AssertionError("a subclass implements it")

    @contextmanager
    def asking(self, limit: int = 1 << 26) -> Iterator[Asking]:
        asking = Asking(lambda deliver: self.open(deliver, limit))
        yield asking
        asking.close()

    def test_keeps_everything(self) -> None:
        """Appended stanzas are read unchanged, in order, from the reader's position."""
        with self.asking() as it:
            plain = Spooled(A, 1, Stanza("iq", b"<iq/>", "", "", "get"), 0.5, 1.25)
            rich = Spooled(A, 2, Stanza("presence", "<presence>\U0001f600 ]]&gt;\\\"\t</presence>".encode(), "ü@b.example/\\\"", "a.example", "error", "", ("}body", "urn:é}x")), 1.0, 2.0, True)
            self.assertEqual(it.append(plain, rich), None)
            self.assertEqual(it.append(spooled(B, 1)), None)
            self.assertEqual([told(row) for row in it.read(A)], [told(plain), told(rich)])
            self.assertEqual([told(row) for row in it.read(A, after=1)], [told(rich)])
            self.assertEqual(it.read(A, after=2), [])
            self.assertEqual(it.read(Pair(A.sender, A.sender)), [])

    def test_reads_in_parts(self) -> None:
        """A read returns about as many bytes as requested, and at least one stanza."""
        with self.asking() as it:
            it.append(*(spooled(A, position) for position in range(1, 6)))
            for at_most, positions in ((1, [1]), (100, [1]), (101, [1, 2]), (500, [1, 2, 3, 4, 5])):
                self.assertEqual([row.position for row in it.read(A, 0, at_most)], positions)

    def test_many_and_large(self) -> None:
        """A batch of a thousand stanzas, and a stanza of half a megabyte, are kept."""
        with self.asking() as it:
            it.append(*(spooled(A, position) for position in range(1, 1338)))
            it.append(spooled(A, 1338, size=1 << 19))
            self.assertEqual(it.held(), (1338, 133_700 + (1 << 19)))
            rows: list[Spooled] = []
            while more := it.read(A, rows[-1].position if rows else 0, 1 << 16):
                rows += more
            self.assertEqual([row.position for row in rows], list(range(1, 1339)))
            self.assertEqual(told(rows[-1]), told(spooled(A, 1338, size=1 << 19)))

    def test_removes(self) -> None:
        """Stanzas are removed up to a position, or one by one. Another lane is not touched, and a missing position is no error."""
        with self.asking() as it:
            it.append(*(spooled(A, position) for position in range(1, 8)), spooled(B, 1))
            it.spool.remove(A, 2)
            it.spool.remove_each(A, [4, 6, 6, 99])
            it.spool.remove(PAIRS[2], 5)
            it.spool.remove_each(PAIRS[2], [5])
            self.assertEqual((it.positions(A), it.positions(B), it.held()), ([3, 5, 7], [1], (4, 400)))
            it.spool.remove(A, 1 << 60)
            self.assertEqual((it.positions(A), it.positions(B), it.held()), ([], [1], (1, 100)))

    def test_lane_that_was_empty_goes_on(self) -> None:
        """A lane that became empty takes more stanzas, at higher positions. Meanwhile it is not listed."""
        with self.asking() as it:
            it.append(spooled(A, 1))
            it.spool.remove(A, 1)
            self.assertEqual(it.queues(), [])
            it.append(spooled(A, 2), spooled(B, 1))
            self.assertEqual([(row.pair, row.first, row.last) for row in it.queues()], [(A, 2, 2), (B, 1, 1)])

    def test_marks(self) -> None:
        """R33: a stanza marked as written is read with its mark. A mark on a missing position has no effect."""
        with self.asking() as it:
            it.append(spooled(A, 1), spooled(A, 2))
            self.assertEqual((it.mark(A, [2, 3]), it.mark(B, [1])), (None, None))
            self.assertEqual([row.written for row in it.read(A)], [False, True])

    def test_expired(self) -> None:
        """R34: expired stanzas of any lane are returned, the most overdue first, up to the requested number."""
        with self.asking() as it:
            it.append(spooled(A, 1, deadline=30), spooled(A, 2, deadline=10), spooled(B, 1, deadline=20), spooled(B, 2, deadline=40))
            found = it.ask(it.spool.expired, 30.0, 9)
            self.assertEqual([(row.pair, row.position) for row in found], [(A, 2), (B, 1), (A, 1)])
            self.assertEqual([row.position for row in it.ask(it.spool.expired, 30.0, 1)], [2])
            self.assertEqual(it.ask(it.spool.expired, 9.0, 9), [])

    def test_summaries(self) -> None:
        """The summary of each lane has its bytes, its first and last position, and its oldest time."""
        with self.asking() as it:
            it.append(spooled(B, 5, 50), spooled(B, 9, 70), spooled(PAIRS[2], 1), spooled(PAIRS[3], 1))
            self.assertEqual(it.queues()[1:], [LaneSummary(B, 2, 120, 5, 9, 5.0), *it.queues()[2:]])
            self.assertEqual({row.pair for row in it.queues()}, set(PAIRS[1:]))

    def test_bound(self) -> None:
        """A batch that does not fit is refused as a whole. Held stanzas stay, and freed space is used."""
        with self.asking(limit=20_000) as it:
            self.assertEqual(it.append(*(spooled(A, position, 1000) for position in range(1, 11))), None)
            self.assertIsInstance(it.append(*(spooled(A, position, 1000) for position in range(11, 31))), SpoolFull)
            self.assertEqual((it.positions(A), it.held()), (list(range(1, 11)), (10, 10_000)))
            it.spool.remove(A, 10)
            self.assertEqual(it.append(*(spooled(A, position, 1000) for position in range(11, 21))), None)
            self.assertIsInstance(it.append(*(spooled(B, position, 1000) for position in range(1, 12))), SpoolFull)
            it.spool.raise_limit(20_000)
            self.assertEqual(it.append(*(spooled(B, position, 1000) for position in range(1, 12))), None)
            self.assertIsInstance(it.append(*(spooled(B, position, 1000) for position in range(12, 32))), SpoolFull)

    def test_calls_take_effect_in_order(self) -> None:
        """Calls do not wait for answers, and each answer reflects all calls before it."""
        with self.asking() as it:
            seen: list[Any] = []
            for position in range(1, 50):
                it.spool.append([spooled(A, position)], seen.append)
                it.spool.read(A, 0, 1 << 20, seen.append)
                it.spool.remove(A, position)
            it.held()
            told_of = [[row.position for row in answer] if isinstance(answer, list) else answer for answer in seen]
            self.assertEqual(told_of, [each for position in range(1, 50) for each in (None, [position])])

    def test_nothing_is_replaced(self) -> None:
        """A taken position is refused, with the whole batch. The same stanza at its position is accepted as held."""
        with self.asking() as it:
            it.append(spooled(A, 1), spooled(A, 2))
            it.mark(A, [1])
            self.assertEqual(it.append(spooled(A, 1), spooled(A, 2), spooled(A, 3)), None)
            self.assertEqual([(row.position, row.written) for row in it.read(A)], [(1, True), (2, False), (3, False)])
            self.assertIsInstance(it.append(spooled(A, 4), spooled(A, 2, size=101)), PositionTaken)
            self.assertIsInstance(it.append(spooled(A, 3)._replace(deadline=1.0)), PositionTaken)
            self.assertEqual([told(row) for row in it.read(A, 1)], [told(spooled(A, 2)), told(spooled(A, 3))])
            self.assertEqual(it.held(), (3, 300))

    def test_next_position(self) -> None:
        """The next position is behind every position that was ever held."""
        with self.asking() as it:
            before = it.spool.next_position
            it.append(spooled(A, before + 7), spooled(B, 2))
            it.spool.remove(A, before + 7)
            it.held()
            self.assertGreater(it.spool.next_position, before + 7)

    def test_use(self) -> None:
        """Stanzas count against the limit, and against the share of their peer."""
        with self.asking(limit=1 << 16) as it:
            self.assertEqual((it.spool.used, it.spool.limit), (0, 1 << 16))
            it.append(spooled(A, 1), spooled(A, 2))
            it.held()
            self.assertLessEqual(200, it.spool.used)
            self.assertEqual(it.spool.used_by(A.recipient), it.spool.used)
            it.spool.remove(A, 2)
            it.held()
            self.assertEqual((it.spool.used, it.spool.used_by(A.recipient)), (0, 0))

    def test_errors_are_no_empty_answers(self) -> None:
        """A failed read and a failed write are errors. Nothing is lost: later all stanzas are there."""
        with self.asking() as it:
            it.append(spooled(A, 1), spooled(A, 2), spooled(A, 3))
            with self.failing(it.spool):
                spool = it.spool
                for answer in (it.ask(spool.read, A, 0, 1 << 20), it.ask(spool.expired, 1e9, 9), it.ask(spool.quarantined, 9)):
                    self.assertIsInstance(answer, SpoolBroken)
                listed = it.ask(spool.queues)  # a spool that has the totals in memory answers
                if not isinstance(listed, SpoolBroken):
                    self.assertEqual(listed, [LaneSummary(A, 3, 300, 1, 3, 1.0)])
                for answer in (it.append(spooled(A, 4)), it.mark(A, [3])):
                    self.assertIsInstance(answer, SpoolBroken)
                spool.remove(A, 1)
                spool.remove_each(A, [2])
                self.assertIsInstance(it.append(spooled(A, 5)), SpoolBroken)
            self.assertEqual([(row.position, row.written) for row in it.read(A)], [(3, False)])
            self.assertEqual(it.append(spooled(A, 4)), None)
            self.assertEqual((it.positions(A), it.held()), ([3, 4], (2, 200)))

    def test_stalled(self) -> None:
        """A disk that hangs is different from one that fails: calls wait for their answers, and all stanzas arrive in order."""
        with self.asking() as it:
            it.append(spooled(A, 1))
            self.assertEqual(it.spool.stalled, False)
            seen: list[Any] = []
            with self.hanging(it.spool):
                it.spool.append([spooled(A, 2)], seen.append)
                it.spool.read(A, 0, 1 << 20, seen.append)
                self.assertEqual((it.spool.stalled, seen), (True, []))
            self.assertEqual(it.held(), (2, 200))
            self.assertEqual((seen[0], [row.position for row in seen[1]], it.spool.stalled), (None, [1, 2], False))

    def test_quarantine(self) -> None:
        """A quarantined stanza is kept with the reason; the quarantine is bounded by number, and the oldest goes first."""
        with self.asking() as it:
            it.spool.quarantine(spooled(B, 7), "poison", 12.5)
            (found,) = it.ask(it.spool.quarantined, 10)
            self.assertEqual((told(found.spooled), found.cause, found.at), (told(spooled(B, 7)), "poison", 12.5))
            for position in range(1, QUARANTINE_STANZAS + 5):
                it.spool.quarantine(spooled(A, position), "poison", float(position))
            kept = it.ask(it.spool.quarantined, QUARANTINE_STANZAS * 2)
            self.assertEqual([each.spooled.position for each in kept], list(range(5, QUARANTINE_STANZAS + 5)))
            self.assertEqual([each.at for each in it.ask(it.spool.quarantined, 2)], [QUARANTINE_STANZAS + 3.0, QUARANTINE_STANZAS + 4.0])
            self.assertEqual(it.ask(it.spool.quarantined, 0), [])
            self.assertEqual(it.held(), (0, 0))

    def test_quarantine_of_large_stanzas(self) -> None:
        """The quarantine is bounded by bytes."""
        with self.asking() as it:
            for position in range(1, 4):
                it.spool.quarantine(spooled(A, position, QUARANTINE_BYTES // 2 - 10), "poison", 0.0)
            self.assertEqual([each.spooled.position for each in it.ask(it.spool.quarantined, QUARANTINE_STANZAS)], [2, 3])
            self.assertEqual(it.held(), (0, 0))

    @given(STEPS)
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    def test_any_life(self, steps: list[tuple[Any, ...]]) -> None:
        """After any steps, the held stanzas are those appended and not removed, in order, with their marks, and are counted exactly."""
        with self.asking() as it:
            model = Model(it)
            for name, *arguments in steps:
                getattr(model, name)(*arguments)
            model.check()
            for pair in PAIRS:
                model.read(pair, 0, 1 << 20)
