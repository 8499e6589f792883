"""A spool in memory that works, answers, fills up and fails when the test says so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from s2sgw.spool.interface import Done, LaneSummary, Replaced, SpoolAnswer, SpoolBroken, Spooled, SpoolError, SpoolFull
from s2sgw.spool.memory_spool import MemorySpool
from s2sgw.xmpp.jid import Pair


class ScriptedSpool(MemorySpool):
    """A spool of up to `disk` bytes. `work` does its calls, and `answer` answers them. Its content outlives the gateway."""

    def __init__(self, disk: int) -> None:
        self.jobs: deque[Callable[[], None]] = deque()
        self.answers: deque[Callable[[], None]] = deque()
        self._removals: list[Callable[[], None]] = []
        self.full = self.reads_fail = self.writes_fail = self.hangs = False
        self._closed = False
        self._disk = disk
        super().__init__(disk, self.answers.append)

    @property
    def stalled(self) -> bool:
        return self.hangs

    @property
    def sound(self) -> bool:
        """Return whether everything works."""
        return not (self.full or self.reads_fail or self.writes_fail or self.hangs)

    def mend(self) -> None:
        """Let everything work again."""
        self.full = self.reads_fail = self.writes_fail = self.hangs = False

    def die(self) -> None:
        """Forget the calls of a gateway that was killed."""
        self.jobs.clear()
        self.answers.clear()
        self._removals.clear()
        self._limit = self._disk
        self._closed = False

    def work(self, number: int) -> None:
        """Do the first `number` calls."""
        for _ in range(min(number, len(self.jobs))):
            self.jobs.popleft()()

    def answer(self, number: int) -> None:
        """Deliver the first `number` answers."""
        for _ in range(min(number, len(self.answers))):
            self.answers.popleft()()

    def rows(self) -> Iterable[Spooled]:
        """Return the rows on the disk."""
        return (row for rows in self._queues.values() for row in rows.values())

    # --- calls ---

    def append(self, batch: Sequence[Spooled], done: Done, replaces: Sequence[Replaced] = ()) -> None:
        kept = [Replaced(pair, list(positions)) for pair, positions in replaces]
        self._write(done, partial(super().append, list(batch), done, kept))

    def mark_written(self, pair: Pair, positions: Sequence[int], done: Done) -> None:
        self._write(done, partial(super().mark_written, pair, list(positions), done))

    def _write(self, done: Done, call: Callable[[], None]) -> None:
        if self._closed:
            self.answers.append(partial(done, SpoolBroken("the spool is closed")))
            return

        def write() -> None:
            if self.writes_fail or self.full:
                error: SpoolError = SpoolFull("no room", "disk") if self.full else SpoolBroken("the disk fails")
                self.answers.append(partial(done, error))
            else:
                self._remove_late()
                call()
        self.jobs.append(write)

    def remove(self, pair: Pair, up_to: int) -> None:
        self._remove(partial(super().remove, pair, up_to))

    def remove_each(self, pair: Pair, positions: Sequence[int]) -> None:
        self._remove(partial(super().remove_each, pair, list(positions)))

    def _remove(self, call: Callable[[], None]) -> None:
        def remove() -> None:
            self._removals.append(call)
            self._remove_late()
        self.jobs.append(remove)

    def _remove_late(self) -> None:
        while self._removals and not self.writes_fail:
            self._removals.pop(0)()

    def read(self, pair: Pair, after: int, at_most: int, done: SpoolAnswer[list[Spooled]]) -> None:
        self._read(done, partial(super().read, pair, after, at_most, done))

    def expired(self, now: float, at_most: int, done: SpoolAnswer[list[Spooled]]) -> None:
        self._read(done, partial(super().expired, now, at_most, done))

    def queues(self, done: SpoolAnswer[list[LaneSummary]]) -> None:
        self._read(done, partial(super().queues, done))

    def _read(self, done: SpoolAnswer[Any], call: Callable[[], None]) -> None:
        def read() -> None:
            if self.reads_fail:
                self.answers.append(partial(done, SpoolBroken("the disk cannot be read")))
            else:
                self._remove_late()
                call()
        self.jobs.append(read)

    def close(self, done: Callable[[], None]) -> None:
        self._closed = True
        self.jobs.append(lambda: self.answers.append(done))
