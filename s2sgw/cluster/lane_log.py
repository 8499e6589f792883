"""The contents of a lane's log: the fold of its records, in order (docs/cluster.md).

The fold keeps no stanza, only where each one is: 36 bytes for a stanza, about 320 for a run and 500 for a log. `fold` takes
records that are stored. `add`, `mark` and `remove` take what happens now, and the caller writes the records that say so.

A removal takes effect at once, and its record may be written later: until then the run is in `unlogged`. A run without stanzas
left is in `gone` once its removal is in the log. Its record may then be deleted. A record of positions may be deleted after the
records of all runs that it names: before, the stanzas that it removed would be back. It is then in `idle`.

A position is not used again while a part of its run is left. This is pure code. Times are microseconds since the epoch.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

from s2sgw.cluster.engine import Stored
from s2sgw.cluster.records import RANGES, LaneTotals, LoggedStanza, PositionRange, decode, joined, ranges

#: Columns of a run: position, bytes, time of acceptance, deadline.
_COLUMNS = 4
#: From this many runs that end at once, the list of runs is made again.
_MANY = 8

#: A number beyond all positions.
_NO_POSITION = 1 << 62

_first = attrgetter("first")


class Run:
    """The stanzas of one record, ascending by position. `sequence` is 0 until the record is stored.

    `left` and `written` are bits, one for each stanza. `size`: the bytes of what is left. Nothing that is left expires before
    `deadline`. `marked_by` and `removed_by`: the sequences of the last records that name it, or 0.
    """

    __slots__ = ("sequence", "first", "last", "columns", "left", "written", "size", "deadline", "marked_by", "removed_by")

    def __init__(self, stanzas: Sequence[LoggedStanza], sequence: int) -> None:
        self.sequence = sequence
        self.first, self.last = stanzas[0].position, stanzas[-1].position
        self.columns = array("q")
        self.left = (1 << len(stanzas)) - 1
        self.written = self.size = self.marked_by = self.removed_by = 0
        for index, each in enumerate(stanzas):
            size = len(each.stanza.data)
            self.columns.extend((each.position, size, each.accepted, each.deadline))
            self.size += size
            self.written |= each.written << index
        self.deadline = min(each.deadline for each in stanzas)

    def __len__(self) -> int:
        return len(self.columns) // _COLUMNS

    @property
    def _dense(self) -> bool:
        """Return whether there is no gap between the positions."""
        return self.last - self.first + 1 == len(self)

    def index(self, position: int) -> int | None:
        """Return the place of a position in the run, whether it is left or not."""
        if not self.first <= position <= self.last:
            return None
        if self._dense:
            return position - self.first
        index = bisect_left(range(len(self)), position, key=self.position)
        return index if self.position(index) == position else None

    def position(self, index: int) -> int:
        return self.columns[index * _COLUMNS]

    def bytes_at(self, index: int) -> int:
        return self.columns[index * _COLUMNS + 1]

    def accepted_at(self, index: int) -> int:
        return self.columns[index * _COLUMNS + 2]

    def deadline_at(self, index: int) -> int:
        return self.columns[index * _COLUMNS + 3]

    def is_written(self, position: int) -> bool:
        """Return whether the stanza at a position of the run may have been on the wire."""
        index = self.index(position)
        return index is not None and bool(self.written >> index & 1)

    def bits(self, first: int, last: int) -> int:
        """Return the bits of the stanzas that are left from one position to another."""
        if first <= self.first and self.last <= last:
            return self.left
        begin = bisect_left(range(len(self)), first, key=self.position)
        end = bisect_right(range(len(self)), last, key=self.position)
        return self.left & ((1 << end) - (1 << begin)) if end > begin else 0

    def bytes_of(self, bits: int) -> int:
        return self.size if bits == self.left else sum(map(self.bytes_at, places(bits)))

    def ranges(self, bits: int) -> list[PositionRange]:
        """Return the positions of these stanzas."""
        if self._dense and bits == (1 << len(self)) - 1:
            return [(self.first, self.last)]
        return ranges(map(self.position, places(bits)))

    @property
    def removed(self) -> int:
        """Return the bits of the stanzas that are not left."""
        return (1 << len(self)) - 1 & ~self.left


class Removal(NamedTuple):
    """The removed part of a run."""

    run: Run
    bits: int


class Mark(NamedTuple):
    """A run with new marks, and its marks before."""

    run: Run
    before: int


class StanzaPlace(NamedTuple):
    """Where a stanza is."""

    position: int
    run: Run
    bytes: int


def places(bits: int) -> Iterator[int]:
    """Yield the numbers of the bits that are set, ascending."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


class LaneLog:
    """The fold of one lane's log. `last_sequence` and `serial`: those of the last record that is stored."""

    __slots__ = (
        "serial", "last_sequence", "said", "count", "bytes", "highest", "deadline", "runs", "_mixed", "unlogged", "gone", "idle",
        "_names",
    )  # fmt: skip

    def __init__(self) -> None:
        self.serial = self.last_sequence = 0
        #: the number of stanzas that the last record said
        self.said = 0
        self.count = self.bytes = 0
        #: the highest position that was used since the lane was empty
        self.highest = 0
        #: nothing that is left expires before
        self.deadline = 0
        #: runs with stanzas left: ascending by position, or, if `_mixed`, in any order
        self.runs: list[Run] = []
        self._mixed = False
        #: runs with removals that are not in the log yet
        self.unlogged: dict[Run, None] = {}
        self.gone: list[Run] = []
        self.idle: list[int] = []
        #: records of positions -> the number of runs of which it is the last record
        self._names: Counter[int] = Counter()

    # --- the records ---

    def fold(self, stored: Stored) -> None:
        """Take the next record of the log. Raises `RecordError`."""
        record = decode(stored.headers, stored.data)
        self.last_sequence = stored.sequence
        if record.totals.serial <= self.serial:
            self.idle.append(stored.sequence)
            return
        self.serial = record.totals.serial
        if record.kind == "A":
            if self.add(record.stanzas, stored.sequence) is None:
                self.idle.append(stored.sequence)
        elif record.kind == "W":
            marks = self.mark(record.ranges)
            self.name([mark.run for mark in marks], "W", stored.sequence)
        else:
            runs = [removal.run for removal in self.remove(record.ranges)]
            self.name(runs, "R", stored.sequence)
            for run in runs:
                self.logged(run)
        totals = record.totals
        self.highest = max(self.highest, totals.highest)
        self.said = totals.count
        # a run that was stored twice, and deleted once, must not come back
        self.remove([(0, totals.first - 1 if totals.count else _NO_POSITION)])

    def stored(self, run: Run, sequence: int) -> None:
        """Note that the record of a new run is stored."""
        run.sequence = self.last_sequence = sequence

    def name(self, runs: Iterable[Run], kind: str, sequence: int) -> None:
        """Note that a record of positions is stored, which names these runs."""
        self.last_sequence = sequence
        named = list(runs)
        if not named:
            self.idle.append(sequence)
        for run in named:
            self._names[sequence] += 1
            if kind == "W":
                before, run.marked_by = run.marked_by, sequence
            else:
                before, run.removed_by = run.removed_by, sequence
            self._unname(before)

    def logged(self, run: Run) -> None:
        """Note that all removals of a run are in the log, or need not be. Its record may go if nothing is left of it."""
        self.unlogged.pop(run, None)
        if not run.left and run.sequence:
            self.gone.append(run)

    def _unname(self, sequence: int) -> None:
        if sequence:
            self._names[sequence] -= 1
            if not self._names[sequence]:
                del self._names[sequence]
                self.idle.append(sequence)

    def deleted(self, runs: Iterable[Run]) -> None:
        """Note that the records of these runs are deleted."""
        for run in runs:
            self._unname(run.marked_by)
            self._unname(run.removed_by)

    def purged(self, up_to: int) -> None:
        """Note that there is no record up to this sequence."""
        self.idle = [sequence for sequence in self.idle if sequence > up_to]

    @property
    def first_sequence(self) -> int:
        """Return the sequence of the first record that must stay: all earlier ones may go. 0: it is not known."""
        if self._mixed or not self.runs:
            return 0
        return min([self.runs[0].sequence, *(run.sequence for run in self.unlogged)])

    def totals(self, serial: int) -> LaneTotals:
        """Return the totals. `serial` is that of the record that has them."""
        if not self.count:
            return LaneTotals(serial, highest=self.highest)
        ends = self.runs if self._mixed else (self.runs[0], self.runs[-1])
        first, oldest = min((run.position(index), run.accepted_at(index)) for run in ends for index in (_lowest(run.left),))
        last = max(run.position(run.left.bit_length() - 1) for run in ends)
        return LaneTotals(serial, self.count, self.bytes, first, last, self.highest, oldest, self.deadline)

    # --- the stanzas ---

    def is_used(self, position: int) -> bool:
        """Return whether a run has, or had, a stanza at this position, and a part of the run is left."""
        return any(run.index(position) is not None for run in self._near(position))

    def _near(self, position: int) -> Sequence[Run]:
        """Return the runs that may have this position."""
        if self._mixed:
            return self.runs
        index = bisect_right(self.runs, position, key=_first)
        return self.runs[index - 1 : index] if index else ()

    def _between(self, first: int, last: int) -> list[Run]:
        """Return the runs that may have positions from `first` to `last`."""
        if self._mixed:
            return [run for run in self.runs if run.first <= last and run.last >= first]
        begin = max(bisect_right(self.runs, first, key=_first) - 1, 0)
        return self.runs[begin : bisect_right(self.runs, last, key=_first)]

    def add(self, stanzas: Iterable[LoggedStanza], sequence: int = 0) -> Run | None:
        """Add a run. Stanzas at positions that are in use are left out. Return None if no stanza remains."""
        highest = self._last
        new: dict[int, LoggedStanza] = {}
        for each in stanzas:
            if each.position not in new and (each.position > highest or not self.is_used(each.position)):
                new[each.position] = each
        if not new:
            return None
        run = Run([new[position] for position in sorted(new)], sequence)
        self._mixed = self._mixed or run.first <= highest
        self.runs.append(run)
        self.highest = max(self.highest, run.last)
        self.deadline = min(self.deadline, run.deadline) if self.count else run.deadline
        self.count += len(run)
        self.bytes += run.size
        return run

    @property
    def _last(self) -> int:
        """Return the last position of the runs that are there, or a number below all positions."""
        if not self.runs:
            return -1
        return max(run.last for run in self.runs) if self._mixed else self.runs[-1].last

    def drop(self, run: Run) -> None:
        """Take back a run whose record was not stored."""
        self.unlogged.pop(run, None)
        if run.left:
            self._take(run, run.left)
            self._sweep([run])

    def mark(self, positions: Iterable[PositionRange]) -> list[Mark]:
        """Mark the stanzas at these positions as written. Return the runs with marked stanzas at these positions."""
        before: dict[Run, int] = {}
        for first, last in positions:
            for run in self._between(first, last):
                if bits := run.bits(first, last):
                    before.setdefault(run, run.written)
                    run.written |= bits
        return [Mark(run, written) for run, written in before.items()]

    def unmark(self, marks: Iterable[Mark]) -> None:
        """Take back marks whose record was not stored."""
        for run, before in marks:
            run.written = before

    def remove(self, positions: Iterable[PositionRange]) -> list[Removal]:
        """Remove the stanzas at these positions. Return what was removed; it is in `unlogged` now."""
        removed: dict[Run, int] = {}
        for first, last in positions:
            for run in self._between(first, last):
                if bits := run.bits(first, last):
                    self._take(run, bits)
                    removed[run] = removed.get(run, 0) | bits
        self.unlogged.update(dict.fromkeys(removed))
        self._sweep([run for run in removed if not run.left])
        return [Removal(run, bits) for run, bits in removed.items()]

    def _take(self, run: Run, bits: int) -> None:
        size = run.bytes_of(bits)
        run.left &= ~bits
        run.size -= size
        self.count -= bits.bit_count()
        self.bytes -= size

    def _sweep(self, empty: list[Run]) -> None:
        """Take runs without stanzas left out of the list."""
        if len(empty) < _MANY:
            for run in empty:
                index = self.runs.index(run) if self._mixed else bisect_left(self.runs, run.first, key=_first)
                del self.runs[index]
        else:
            self.runs = [run for run in self.runs if run.left]
        self._mixed = self._mixed and bool(self.runs)

    def places(self, positions: Iterable[int]) -> list[StanzaPlace]:
        """Return where the stanzas at these positions are, those that are left."""
        return [
            StanzaPlace(position, run, run.bytes_of(bits))
            for position in positions for run in self._near(position) if (bits := run.bits(position, position))
        ]

    def put_back(self, removals: Iterable[Removal]) -> None:
        """Take back removals whose record was not stored."""
        for run, bits in removals:
            if not run.left:
                self._insert(run)
            size = sum(map(run.bytes_at, places(bits)))
            self.deadline = min(self.deadline, run.deadline) if self.count else run.deadline
            run.left |= bits
            run.size += size
            self.count += bits.bit_count()
            self.bytes += size
            if not run.removed:
                self.unlogged.pop(run, None)

    def _insert(self, run: Run) -> None:
        index = 0 if self._mixed else bisect_left(self.runs, run.first, key=_first)
        self.runs.insert(index, run)
        neighbours = self.runs[max(index - 1, 0) : index + 2]
        self._mixed = self._mixed or any(
            one.last >= other.first or one.sequence > other.sequence for one, other in pairwise(neighbours)
        )

    def select(self, after: int, at_most: int) -> list[StanzaPlace]:
        """Return where the stanzas after a position are, ascending: about `at_most` bytes, at least one if there is one."""
        found: list[StanzaPlace] = []
        for place in self._after(after):
            if found and at_most <= 0:
                break
            found.append(place)
            at_most -= place.bytes
        return found

    def _after(self, after: int) -> Iterable[StanzaPlace]:
        found = (
            StanzaPlace(run.position(index), run, run.bytes_at(index))
            for run in self._between(after + 1, _NO_POSITION) for index in places(run.bits(after + 1, _NO_POSITION))
        )
        return sorted(found, key=attrgetter("position")) if self._mixed else found

    def expired(self, now: int, at_most: int) -> list[tuple[int, int]]:
        """Return deadlines that are not after `now` with their positions: the earliest, at most so many, ascending.

        The bounds `deadline` are exact afterwards, where they were looked at.
        """
        found: list[tuple[int, int]] = []  # a heap of the chosen, negative, with the latest on top
        for run in sorted((run for run in self.runs if run.deadline <= now), key=attrgetter("deadline")):
            if len(found) >= at_most and run.deadline > -found[0][0]:
                break
            deadlines = [(run.deadline_at(index), run.position(index)) for index in places(run.left)]
            run.deadline = min(deadlines)[0]
            for deadline, position in deadlines:
                if deadline <= now:
                    heappush(found, (-deadline, -position))
                    if len(found) > at_most:
                        heappop(found)
        self.deadline = min((run.deadline for run in self.runs), default=0)
        return sorted((-deadline, -position) for deadline, position in found)

    def unlogged_positions(self) -> list[PositionRange]:
        """Return what was removed of the runs in `unlogged`."""
        return [each for run in self.unlogged for each in run.ranges(run.removed)]


def statements(runs: Iterable[Run], kind: str) -> Iterator[tuple[list[Run], list[PositionRange]]]:
    """Yield the content of records that name these runs: each record's runs, with all their written, or removed, positions."""
    named: list[Run] = []
    said: list[PositionRange] = []
    for run in runs:
        its = run.ranges(run.written if kind == "W" else run.removed)
        if named and len(said) + len(its) > RANGES:
            yield named, joined(said)
            named, said = [], []
        named.append(run)
        said += its
    if named:
        yield named, joined(said)


def _lowest(bits: int) -> int:
    """Return the number of the lowest bit that is set."""
    return (bits & -bits).bit_length() - 1
