"""The spool in SQLite: one thread writes, and everything that came meanwhile shares one commit (decision 9).

The caller's thread only puts jobs on a queue. The writer takes what is there, does it in one transaction, and has all the
answers called by one call of `deliver`. A transaction that fails is done again job by job, so that only the job that is to
blame fails.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from s2sgw.spool.interface import Done, LaneSummary, Quarantined, Spool, SpoolBroken, Spooled, SpoolFull
from s2sgw.spool.spool_file import Durability, code, is_damage, open_database, set_aside
from s2sgw.spool.tables import SpoolTables, Work
from s2sgw.xmpp.jid import Pair

#: Jobs of one transaction.
GROUP = 500
#: Removals and marks that could not be written (a full disk) and wait for the next chance.
OWED = 100_000


@dataclass(slots=True)
class _Job:
    """`work` at the ledger. `answer` takes what came of it, `failed` makes an answer of an error; without one it is owed."""

    work: Work
    answer: Callable[[Any], None] | None = None
    failed: Callable[[Exception], Any] | None = None
    last: bool = False


class SQLiteSpool(Spool):
    """The file at `path`, at most `limit` bytes. `deliver(call)` has `call` made soon, on the caller's thread.

    `report` is told, on either thread, what an operator should know. Raises `SpoolBroken` where there is no way to open it; a
    damaged file is set aside and is no reason.
    """

    def __init__(
        self, path: Path, limit: int, deliver: Callable[[Callable[[], None]], None], *, durability: Durability = "power-loss",
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._path = path
        self._limit = limit
        self._deliver = deliver
        self._durability: Durability = durability
        self._report = report
        self._ledger = self._open()
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._owed: list[_Job] = []
        self._closed = False
        self.thread = Thread(target=self._work, name="spool", daemon=True)
        self.thread.start()

    @property
    def bytes(self) -> int:
        return self._ledger.bytes

    @property
    def count(self) -> int:
        return self._ledger.count

    # --- the caller's thread ---

    def append(self, batch: Sequence[Spooled], done: Done) -> None:
        self._put(_Job(lambda ledger: ledger.append(batch), done, _outcome))

    def read(self, pair: Pair, after: int, at_most: int, done: Callable[[list[Spooled]], None]) -> None:
        self._put(_Job(lambda ledger: ledger.read(pair, after, at_most), done, _nothing))

    def remove(self, pair: Pair, up_to: int) -> None:
        self._put(_Job(lambda ledger: ledger.remove(pair, up_to)))

    def remove_each(self, pair: Pair, positions: Sequence[int]) -> None:
        self._put(_Job(lambda ledger: ledger.remove_each(pair, positions)))

    def mark_written(self, pair: Pair, positions: Sequence[int], done: Done) -> None:
        self._put(_Job(lambda ledger: ledger.mark_written(pair, positions), done, _outcome))

    def expired(self, now: float, at_most: int, done: Callable[[list[Spooled]], None]) -> None:
        self._put(_Job(lambda ledger: ledger.expired(now, at_most), done, _nothing))

    def queues(self, done: Callable[[list[LaneSummary]], None]) -> None:
        self._put(_Job(lambda ledger: ledger.queues(), done, _nothing))

    def put_aside(self, spooled: Spooled, cause: str, at: float) -> None:
        self._put(_Job(lambda ledger: ledger.put_aside(spooled, cause, at)))

    def aside(self, at_most: int, done: Callable[[list[Quarantined]], None]) -> None:
        self._put(_Job(lambda ledger: ledger.aside(at_most), done, _nothing))

    def stretch(self, by: int) -> None:
        self._limit += by
        self._put(_Job(lambda ledger: ledger.may_take(self._limit)))

    def close(self, done: Callable[[], None]) -> None:
        self._put(_Job(lambda ledger: None, lambda _: done(), _nothing, last=True))
        self._closed = True

    def _put(self, job: _Job) -> None:
        if not self._closed:
            self._jobs.put(job)
        elif job.answer is not None and job.failed is not None:
            self._deliver(partial(job.answer, job.failed(SpoolBroken("the spool is closed"))))

    # --- the writer's thread ---

    def _open(self) -> SpoolTables:
        connection = open_database(self._path, self._durability, self._report)
        try:
            return SpoolTables(connection, self._limit)
        except (sqlite3.Error, ValueError) as error:
            connection.close()
            set_aside(self._path, str(error), self._report)
        return SpoolTables(open_database(self._path, self._durability, self._report), self._limit)

    def _work(self) -> None:
        last = False
        while not last:
            jobs = self._waiting()
            last = jobs[-1].last
            answers = deque(self._perform(jobs))
            if last:
                self._ledger.close()
            if answers:
                self._deliver(partial(self._call, answers))

    def _waiting(self) -> list[_Job]:
        """What is there to do; waits for the first of it."""
        jobs = [self._jobs.get()]
        while len(jobs) < GROUP and not jobs[-1].last:
            try:
                jobs.append(self._jobs.get_nowait())
            except Empty:
                break
        return jobs

    def _perform(self, jobs: list[_Job]) -> list[Callable[[], None]]:
        owed, self._owed = self._owed, []
        jobs = owed + jobs
        try:
            results = self._together(jobs)
        except Exception:
            results = [self._alone(job) for job in jobs]
        return [partial(job.answer, result) for job, result in zip(jobs, results, strict=True) if job.answer is not None]

    def _together(self, jobs: list[_Job]) -> list[Any]:
        """What each comes to, once all of it is durable."""
        try:
            self._ledger.begin()
            results = [self._one(job) for job in jobs]
            self._ledger.commit()
        except Exception:
            self._ledger.rollback()
            raise
        return results

    def _one(self, job: _Job) -> Any:
        try:
            return job.work(self._ledger)
        except SpoolFull as full:
            assert job.failed is not None
            return job.failed(full)

    def _alone(self, job: _Job, again: bool = True) -> Any:
        try:
            return self._together([job])[0]
        except Exception as error:
            if is_damage(error) and again and self._renew(error):
                return self._alone(job, again=False)
            return self._failed(job, error)

    def _renew(self, error: Exception) -> bool:
        """The file turned out to be damaged: go on with a new one."""
        self._ledger.close()
        try:
            set_aside(self._path, str(error), self._report)
            self._ledger = self._open()
        except (SpoolBroken, OSError) as broken:
            self._report(f"{self._path} is damaged, and no other can be begun: {broken}")
            return False
        return True

    def _failed(self, job: _Job, error: Exception) -> Any:
        full = code(error) == sqlite3.SQLITE_FULL
        reason: Exception = SpoolFull(f"{self._path}: the disk is full") if full else SpoolBroken(f"{self._path}: {error}")
        if not full:
            self._report(f"{self._path} failed: {type(error).__name__}: {error}")
        if job.failed is not None:
            return job.failed(reason)
        if len(self._owed) < OWED:
            self._owed.append(job)
        return None

    def _call(self, answers: deque[Callable[[], None]]) -> None:
        """One answer that breaks does not keep the others from being given."""
        try:
            while answers:
                answers.popleft()()
        finally:
            if answers:
                self._deliver(partial(self._call, answers))


def _outcome(error: Exception) -> Exception:
    return error


def _nothing(error: Exception) -> list[Any]:
    return []
