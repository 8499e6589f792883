"""The fold of a lane's log: it has what was appended and not removed, however the log was cut, repeated and cleaned.

`Model` is the same in the plainest way. `Writer` writes a log as the spool does, with removals that are written later, records that
are not stored, and records that are deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster import lane_log
from s2sgw.cluster.engine import Stored
from s2sgw.cluster.lane_log import LaneLog, Removal, Run, statements
from s2sgw.cluster.records import (
    LaneTotals,
    LoggedStanza,
    PositionRange,
    RecordDamaged,
    encode_positions,
    encode_run,
    ranges,
    read_totals,
)
from s2sgw.xmpp.stanza import Stanza


def stanza(position: int, written: bool = False) -> LoggedStanza:
    """A stanza whose size and times tell its position."""
    return LoggedStanza(position, Stanza("message", b"." * (position % 7), "", ""), position * 10, 1000 - position, written)


def told(log: LaneLog) -> dict[int, tuple[int, bool]]:
    """Return what a fold has: by position its bytes and whether it may have been written."""
    return {place.position: (place.bytes, place.run.is_written(place.position)) for place in log.select(-1, 1 << 40)}


def fold(stored: Iterable[Stored]) -> LaneLog:
    log = LaneLog()
    for each in stored:
        log.fold(each)
    return log


class Model:
    """A lane: by position, whether it was written. A run: the positions that it had, and those that are left."""

    def __init__(self) -> None:
        self.rows: dict[int, bool] = {}
        self.runs: list[tuple[set[int], set[int]]] = []
        self.highest = 0

    def copy(self) -> Model:
        model = Model()
        model.rows, model.highest = dict(self.rows), self.highest
        model.runs = [(set(had), set(left)) for had, left in self.runs]
        return model

    def free(self, positions: Iterable[int]) -> set[int]:
        return set(positions) - {position for had, left in self.runs if left for position in had}

    def add(self, positions: Iterable[int], written: bool = False) -> None:
        new = self.free(positions)
        self.rows.update(dict.fromkeys(new, written))
        self.runs.append((new, set(new)))
        self.highest = max([self.highest, *new])

    def mark(self, positions: Iterable[int]) -> None:
        self.rows.update({position: True for position in positions if position in self.rows})

    def remove(self, positions: Iterable[int]) -> None:
        gone = set(positions)
        self.rows = {position: written for position, written in self.rows.items() if position not in gone}
        for _, left in self.runs:
            left -= gone

    def told(self) -> dict[int, tuple[int, bool]]:
        return {position: (position % 7, self.rows[position]) for position in sorted(self.rows)}

    def totals(self, serial: int) -> LaneTotals:
        """The totals, with the exact deadline."""
        if not self.rows:
            return LaneTotals(serial, highest=self.highest)
        first, last = min(self.rows), max(self.rows)
        size = sum(position % 7 for position in self.rows)
        return LaneTotals(serial, len(self.rows), size, first, last, self.highest, first * 10, 1000 - last)


class Case(SynchronousTestCase):
    """The model that a fold is compared with."""

    def check(self, log: LaneLog, model: Model, serial: int = 0) -> None:
        self.assertEqual(told(log), model.told())
        self.check_totals(log.totals(serial), model.totals(serial))

    def check_totals(self, totals: LaneTotals, exact: LaneTotals) -> None:
        """They are exact, save two bounds: the deadline may be too early, and the highest position may be of a run that failed."""
        self.assertLessEqual(totals.deadline, exact.deadline)
        self.assertGreaterEqual(totals.highest, exact.highest)
        self.assertEqual(replace(totals, deadline=0, highest=0), replace(exact, deadline=0, highest=0))


positions = st.lists(st.integers(1, 24), min_size=1, max_size=6)
HISTORIES = st.lists(
    st.tuples(st.just("A"), positions, st.booleans()) | st.tuples(st.just("W"), positions) | st.tuples(st.just("R"), positions), max_size=14,
)  # fmt: skip


class FoldTests(Case):
    """The fold of a log that is given."""

    def written(self, history: Sequence[Any]) -> tuple[list[Stored], list[Model]]:
        """Return the records of a history, and what the lane has after each. `W` and `R` name each position that was named before."""
        stored: list[Stored] = []
        models = [Model()]
        named: dict[str, set[int]] = {"W": set(), "R": set()}
        for serial, (kind, chosen, *written) in enumerate(history, 1):
            model = models[-1].copy()
            if kind == "A":
                model.add(chosen, *written)
                headers, data = encode_run(model.totals(serial), [stanza(position, *written) for position in chosen])
            else:
                (model.mark if kind == "W" else model.remove)(chosen)
                headers, data = encode_positions(kind, model.totals(serial), ranges(sorted(set(chosen))))
                named[kind] |= set(chosen)
            stored.append(Stored(serial * 3, headers, data))
            models.append(model)
        return stored, models

    @given(HISTORIES)
    def test_every_prefix(self, history: Sequence[Any]) -> None:
        """A log that is cut anywhere has what it had then, and its last record alone has the totals."""
        stored, models = self.written(history)
        for length, model in enumerate(models):
            self.check(fold(stored[:length]), model)
            if length:
                self.check_totals(read_totals(stored[length - 1].headers), model.totals(length))

    @given(HISTORIES, st.data())
    def test_repeated_records(self, history: Sequence[Any], data: st.DataObject) -> None:
        """A record that comes again, anywhere behind itself, counts once; the repeated ones say nothing and may be deleted."""
        stored, models = self.written(history)
        log = list(stored)
        repeated = 0
        for number in data.draw(st.lists(st.integers(0, len(stored) - 1), max_size=4) if stored else st.just([])):
            place = data.draw(st.integers(next(place for place, each in enumerate(log) if each.data is stored[number].data) + 1, len(log)))
            log.insert(place, stored[number])
            repeated += 1
        log = [Stored(sequence, headers, content) for sequence, (_, headers, content) in enumerate(log, 1)]
        found = fold(log)
        self.check(found, models[-1])
        self.assertGreaterEqual(len(found.idle), repeated)

    def test_a_log_in_disorder(self) -> None:
        """Runs whose positions lie between those of others are found, read in order and counted."""
        stored, models = self.written([("A", [1, 5, 9], False), ("A", [3, 7], False), ("A", [2, 10], True), ("R", [5, 3]), ("W", [7])])
        log = fold(stored)
        self.check(log, models[-1])
        self.assertEqual([place.position for place in log.select(2, 1)], [7, 9])
        self.assertEqual([place.position for place in log.places([10, 1, 5, 4])], [10, 1])
        self.assertEqual(log.expired(992, 2), [(990, 10), (991, 9)])

    def test_a_position_is_not_used_again(self) -> None:
        """A removed position is not used while a part of its run is left, and is free afterwards."""
        stored, _ = self.written([("A", [1, 2], False), ("R", [2]), ("A", [2], True), ("R", [1]), ("A", [2], True)])
        self.assertEqual([list(told(fold(stored[:length]))) for length in range(1, 6)], [[1, 2], [1], [1], [], [2]])
        self.assertEqual([fold(stored[:2]).is_used(position) for position in (1, 2, 3)], [True, True, False])

    def test_damage(self) -> None:
        """A damaged record is no empty one."""
        stored, _ = self.written([("A", [1], False)])
        self.assertRaises(RecordDamaged, fold, [stored[0]._replace(data=b"")])

    def test_expired(self) -> None:
        """The earliest deadlines come first, at most so many, and the bounds are exact where it was looked."""
        log = LaneLog()
        for chosen in ([1, 2, 3], [4, 5], [6]):
            log.add(map(stanza, chosen))
        self.assertEqual((log.expired(996, 2), log.expired(993, 9), log.deadline), ([(994, 6), (995, 5)], [], 994))
        log.remove([(6, 6)])
        self.assertEqual((log.deadline, log.expired(994, 9), log.deadline), (994, [], 995))
        log.remove([(1, 9)])
        self.assertEqual((log.expired(1000, 9), log.totals(1)), ([], LaneTotals(1, highest=6)))


class Writer:
    """A lane with its log as the spool writes it. `durable` is what the log says, `model` what is true."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        self.live = LaneLog()
        self.model, self.durable = Model(), Model()
        self.stored: list[Stored] = []
        self._choose = choose
        self._serial = self._sequence = 0

    def _append(self, kind: str, runs: Sequence[Run], said: Sequence[PositionRange], content: Sequence[LoggedStanza] = ()) -> int:
        self._serial += 1
        self._sequence += 1 + self._choose(3)
        totals = self.live.totals(self._serial)
        headers, data = encode_run(totals, content) if kind == "A" else encode_positions(kind, totals, said)  # type: ignore[arg-type]
        self.stored.append(Stored(self._sequence, headers, data))
        return self._sequence

    def add(self, chosen: Iterable[int], written: bool) -> None:
        free = self.model.free(chosen)
        if free:
            self.write_removals()
            content = [stanza(position, written) for position in free]
            run = self.live.add(content)
            assert run is not None
            self.live.stored(run, self._append("A", [run], (), content))
            for model in (self.model, self.durable):
                model.add(free, written)

    def mark(self, chosen: Iterable[int]) -> None:
        self.write_removals()
        marks = [mark for mark in self.live.mark(ranges(sorted(set(chosen)))) if mark.run.written != mark.before]
        for runs, said in statements([mark.run for mark in marks], "W"):
            self.live.name(runs, "W", self._append("W", runs, said))
        for model in (self.model, self.durable):
            model.mark(chosen)

    def remove(self, chosen: Iterable[int]) -> None:
        self.live.remove(ranges(sorted(set(chosen))))
        self.model.remove(chosen)

    def write_removals(self) -> None:
        for runs, said in list(statements(list(self.live.unlogged), "R")):
            self.live.name(runs, "R", self._append("R", runs, said))
            for run in runs:
                self.live.logged(run)
        self.durable = self.model.copy()

    def fail(self, chosen: Iterable[int], marked: Iterable[int], replaced: Iterable[int]) -> None:
        """Make an append with a run, marks and removals, which is refused."""
        removals = self.live.remove(ranges(sorted(set(replaced))))
        free = self.model.free(chosen)
        run = self.live.add([stanza(position) for position in free])
        marks = self.live.mark(ranges(sorted(set(marked))))
        self.live.unmark(marks)
        if run is not None:
            self.live.drop(run)
        self.live.put_back(removals)

    def delete(self) -> None:
        """Delete records as the spool does, some of them."""
        last, first = self.live.last_sequence, self.live.first_sequence
        gone = [run for run in self.live.gone if run.sequence < last and self._choose(3)]
        self.live.gone = [run for run in self.live.gone if run not in gone]
        if self._choose(2) and first:
            self.live.gone = [run for run in self.live.gone if run.sequence >= first]
            self.stored = [each for each in self.stored if each.sequence >= first]
            self.live.purged(first - 1)
        sequences = {run.sequence for run in gone}
        self.stored = [each for each in self.stored if each.sequence not in sequences]
        self.live.deleted(gone)
        idle = {sequence for sequence in self.live.idle if sequence < last}
        self.live.idle = [sequence for sequence in self.live.idle if sequence >= last]
        self.stored = [each for each in self.stored if each.sequence not in idle]

    def take_over(self) -> None:
        """Go on as another node, from the log."""
        self.live = fold(self.stored)
        self.model = self.durable.copy()


LIVES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), positions, st.booleans()),
        st.tuples(st.just("mark"), positions),
        st.tuples(st.just("remove"), positions),
        st.tuples(st.just("write_removals")),
        st.tuples(st.just("fail"), positions, positions, positions),
        st.tuples(st.just("delete")),
        st.tuples(st.just("take_over")),
    ),
    max_size=25,
)  # fmt: skip


class WriterTests(Case):
    """A log that is written, cleaned and taken over."""

    @given(LIVES, st.data())
    @settings(max_examples=80, deadline=None)
    def test_any_life(self, steps: Sequence[tuple[Any, ...]], data: st.DataObject) -> None:
        """The live fold has what is true. The log has what was said, whatever was deleted of it, folded at once or in two parts."""
        self.patch(lane_log, "RANGES", 4)
        writer = Writer(lambda bound: data.draw(st.integers(0, bound - 1)))
        for name, *arguments in steps:
            getattr(writer, name)(*arguments)
            self.check(writer.live, writer.model)
            found = fold(writer.stored)
            self.check(found, writer.durable)
            if writer.stored:
                self.check_totals(read_totals(writer.stored[-1].headers), writer.durable.totals(found.serial))
                self.assertEqual((found.last_sequence, writer.live.last_sequence), (writer.stored[-1].sequence,) * 2)

    def test_what_may_be_deleted(self) -> None:
        """A run may go when its removal is in the log, and a record of removals when all runs that it names have gone."""
        writer = Writer(lambda bound: 1)
        for chosen in ([1, 2], [3, 4], [5, 6]):
            writer.add(chosen, False)
        one, other, third = writer.live.runs
        writer.remove([1, 2, 3])
        self.assertEqual((list(writer.live.unlogged), writer.live.gone, writer.live.first_sequence), ([one, other], [], one.sequence))
        writer.write_removals()
        self.assertEqual((writer.live.gone, writer.live.idle, writer.live.first_sequence), ([one], [], other.sequence))
        first = writer.live.last_sequence
        writer.mark([5])
        writer.remove([4])
        writer.write_removals()
        self.assertEqual((writer.live.gone, writer.live.idle), ([one, other], []))
        writer.live.deleted([other])
        self.assertEqual(writer.live.idle, [writer.live.last_sequence])
        writer.live.deleted([one])
        self.assertEqual(set(writer.live.idle), {writer.live.last_sequence, first})
        self.assertEqual(writer.live.runs, [third])

    def test_put_back(self) -> None:
        """Removals whose record was refused are taken back, a whole run too, and nothing of them is written later."""
        log = LaneLog()
        runs = [log.add(map(stanza, chosen)) for chosen in ([1, 2], [3, 4], [5, 6])]
        before = told(log), log.totals(0)
        removals = log.remove([(2, 5)])
        self.assertEqual([removal.run for removal in removals], runs)
        self.assertIsInstance(removals[0], Removal)
        log.put_back(removals)
        self.assertEqual(((told(log), log.totals(0)), log.unlogged, log.runs), (before, {}, runs))

    def test_stored_twice(self) -> None:
        """The first of two equal records, of which only the second one was known and deleted, does not come back."""
        writer = Writer(lambda bound: 1)
        writer.add([1, 2], False)
        twice = writer.stored[0]._replace(sequence=1)
        writer.add([3, 4], False)
        writer.remove([1, 2])
        writer.write_removals()
        writer.mark([3])
        self.check(fold([twice, *writer.stored[1:2], writer.stored[-1]]), writer.durable)
        writer.remove([3, 4])
        writer.write_removals()
        self.check(fold([twice, writer.stored[-1]]), writer.durable)

    def test_many_runs_end_at_once(self) -> None:
        """A thousand runs are removed by one call, and said by as many records as they need."""
        log = LaneLog()
        for number in range(1000):
            log.stored(log.add([stanza(number * 3), stanza(number * 3 + 1)]) or self.fail(), number + 1)
        log.remove([(0, 2996)])
        self.assertEqual((log.count, [place.position for place in log.select(0, 100)]), (2, [2997, 2998]))
        said = list(statements(log.unlogged, "R"))
        self.assertEqual(([len(positions) for _, positions in said], sum(len(runs) for runs, _ in said)), ([999], 999))
