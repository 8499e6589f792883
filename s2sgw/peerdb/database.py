"""The gateway's records of its peers on disk: one SQLite file in the state directory.

Each kind of record defines its own tables. Facts for handshakes are also held in memory by these parts, so that neither a slow
disk nor a damaged page refuses a peer. Writes go to a thread, which makes one transaction of all waiting jobs. They are in the
file's log when it commits: a killed gateway loses the jobs since the last commit, a few milliseconds, and a power cut at most the
last moments. An operator's decision is synced to the disk before it is answered.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Protocol

from twisted.internet.defer import Deferred, fail, succeed

from s2sgw.storage.atomic_file import set_aside
from s2sgw.storage.sqlite_errors import is_damage, is_in_use, may_pass

FILE = "peers.sqlite"
MEMORY = ":memory:"
#: Bytes that all records may take: `limits.peer_records`.
DEFAULT_LIMIT = 64 * 1024 * 1024
#: Jobs of one transaction at most, and jobs that may wait for the disk. Beyond that, the records are written anew from memory.
GROUP = 500
WAITING = 20_000
#: Statements that wait for another record before they are written.
LATER = 128
#: Seconds after a failure to write the records anew until that is tried again. A nearly full disk takes small writes in between.
REWRITE_SECONDS = 30.0
#: Damaged files that may be set aside in one run of the process.
REPLACEMENTS = 8

Row = tuple[Any, ...]
Statement = tuple[str, Sequence[Any]]
#: Makes a call soon, on the thread of the caller.
Deliver = Callable[[Callable[[], None]], None]


class MonotonicClock(Protocol):
    """Returns seconds that never go back."""

    def seconds(self) -> float: ...


class DatabaseUnusable(Exception):
    """The file exists and cannot be used."""


@dataclass(slots=True)
class _Job:
    """Statements to run in one transaction, or a query. `done` takes the rows touched or found, or the error.

    `durable`: to be synced to the disk. `last`: the file is closed after it. `anew`: it writes a whole table from memory.
    """

    statements: Iterable[Statement]
    done: Callable[[Any], None] | None = None
    query: bool = False
    durable: bool = False
    last: bool = False
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a table in memory, for writing it anew: `rows`, each by the statement that `put` returns."""

    table: str
    rows: Sequence[Any]
    put: Callable[[Any], Statement]

    def __iter__(self) -> Iterator[Statement]:
        yield f"DELETE FROM {self.table}", ()
        yield from map(self.put, self.rows)


class PeerDatabase:
    """The file at `path`. `complain` is called with a text for the operator, once for each kind of trouble.

    `deliver`: makes calls on the thread of the caller, while a thread does the work; None: everything is done at once, for tests.
    `limit`: the bytes for the records. `clock` may be read on any thread; None: the machine's. Raises `DatabaseUnusable`, except
    if the disk has no room for a new file.
    """

    def __init__(
        self, path: Path | str, complain: Callable[[str], None], deliver: Deliver | None = None, limit: int = DEFAULT_LIMIT,
        clock: MonotonicClock | None = None,
    ) -> None:
        self.limit = limit
        #: bytes that rows may take, by the estimates of their tables. The rest is for indexes, and for unused parts of pages
        self.room = limit * 6 // 10
        #: bytes of the file, as of the last transaction
        self.bytes = 0
        #: records that were dropped because the disk took nothing for long
        self.given_up = 0
        self._path = path
        self._complain = complain
        self._deliver = deliver
        self._scripts: list[str] = []
        self._contents: list[Callable[[], Content]] = []
        self._trouble = ""
        #: whether the file lacks records that are in memory, so that it must be written anew
        self._stale = False
        self._seconds = time.monotonic if clock is None else clock.seconds
        #: the time until which the records are not written anew
        self._not_anew_until = float("-inf")
        #: how many damaged files were set aside
        self._replaced = 0
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        #: statements that wait for another record
        self._later: list[Statement] = []
        #: jobs that were put, and jobs that are done, which the writer's thread counts
        self._put_jobs = self._done_jobs = 0
        self._closed = False
        self._thread: Thread | None = None
        self._connection = self._open_first()

    # --- at the start ---

    def _open_first(self) -> sqlite3.Connection | None:
        """Open the file, or return None if it does not exist and the disk has no room for it."""
        absent = self._path != MEMORY and not Path(self._path).exists()
        try:
            return self._open()
        except (OSError, sqlite3.Error) as error:
            if absent and may_pass(error):
                self._say(f"{self._path} cannot be made: {error}; what is remembered of peers is written when there is room")
                return None
            in_use = "; another gateway runs with this state" if is_in_use(error) else ""
            remedy = "; restore it from a backup, or move it away to start without what it remembers of peers"
            raise DatabaseUnusable(f"{self._path}: {error}{in_use or remedy}") from None

    def _open(self) -> sqlite3.Connection:
        """Open the file as it is. A file with its tables is not written to. Raises `OSError` or `sqlite3.Error`."""
        if self._path != MEMORY:  # SQLite gives the files beside it the mode of the first one
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=64)
        try:
            for setting in (
                "locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL", "journal_size_limit=16777216",
                "temp_store=MEMORY",
            ):
                connection.execute(f"PRAGMA {setting}").fetchall()
            for script in self._scripts:
                connection.executescript(script)
        except BaseException:
            connection.close()
            raise
        return connection

    def define(self, script: str, content: Callable[[], Content] | None = None) -> None:
        """Make tables that do not exist yet. `content` returns the part of them that is in memory. Raises `DatabaseUnusable`.

        Call this before `begin`.
        """
        self._scripts.append(script)
        if content is not None:
            self._contents.append(content)
        if self._connection is None:
            return
        try:
            self._connection.executescript(script)
        except sqlite3.Error as error:
            if not may_pass(error):
                raise DatabaseUnusable(f"{self._path}: {error}; restore it from a backup, or move it away") from None
            self._say(f"{self._path} cannot be written: {error}; what is remembered of peers is written when it can be")
            self._connection.close()
            self._connection = None

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of a SELECT, at once. Call this before `begin`. Raises `DatabaseUnusable`."""
        if self._connection is None:
            return []
        try:
            return self._connection.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise DatabaseUnusable(f"{self._path}: {error}; restore it from a backup, or move it away") from None

    def begin(self) -> None:
        """Start the thread that writes. Earlier writes have waited."""
        if self._deliver is not None and self._thread is None:
            self._thread = Thread(target=self._work, name="peers", daemon=True)
            self._thread.start()

    # --- the thread of the caller ---

    def write(self, *statements: Statement) -> None:
        """Write soon, all of it or nothing."""
        self._put(_Job(statements))

    def write_later(self, *statements: Statement) -> None:
        """Write with the next record, or when `LATER` statements wait: a kill may lose them."""
        self._later += statements
        if self._deliver is None or len(self._later) >= LATER:
            self._write_waiting()

    def _write_waiting(self) -> None:
        if self._later:
            job, self._later = _Job(self._later), []
            self._put(job)

    def write_durably(self, *statements: Statement) -> Deferred[int]:
        """Write, and sync to the disk. Fires with the rows that the last statement touched, or fails with `OSError`."""
        return self._answer(_Job(statements, durable=True))

    def ask(self, query: str, parameters: Sequence[Any] = ()) -> Deferred[list[Row]]:
        """Query the records written so far. Fires with the rows, or fails with `OSError`."""
        return self._answer(_Job([(query, parameters)], query=True))

    def close(self) -> Deferred[None]:
        """Write all waiting jobs, and close the file."""
        if self._closed:
            return succeed(None)
        self._write_waiting()
        if self._stale:
            self._rewrite()
        closed = self._answer(_Job((), last=True)).addCallback(lambda _: None)
        self._closed = True
        return closed

    def alerts(self) -> list[str]:
        """Return a sentence for each problem that an operator should look into."""
        return [self._trouble] if self._trouble else []

    def _answer(self, job: _Job) -> Deferred[Any]:
        if self._closed:
            return fail(OSError("the peer database is closed"))
        answer: Deferred[Any] = Deferred()
        job.done = lambda found: answer.errback(found) if isinstance(found, OSError) else answer.callback(found)
        self._put(job)
        return answer

    def _put(self, job: _Job) -> None:
        if self._closed:
            return
        self._write_waiting()
        if self._deliver is None:
            self._now(job)
            return
        if job.done is None and self._put_jobs - self._done_jobs >= WAITING:
            self.given_up += 1
            self._stale = True
        else:
            self._put_jobs += 1
            self._jobs.put(job)

    def _now(self, job: _Job) -> None:
        """Do a job at once, for a test."""
        for call in self._perform([job]):
            call()

    def _rewrite(self) -> None:
        """Write everything that is in memory once more."""
        self._stale = False
        for content in self._contents:
            self._put(_Job(content(), anew=True))

    # --- the writer's thread ---

    def _work(self) -> None:
        last = False
        while not last:
            jobs = self._next_jobs()
            last = jobs[-1].last
            answers = self._perform(jobs)
            self._done_jobs += len(jobs)
            if answers or self._stale:
                assert self._deliver is not None
                self._deliver(partial(self._finished, answers))
            del jobs, answers  # finished jobs do not stay in memory longer than their connection

    def _next_jobs(self) -> list[_Job]:
        """Return the waiting jobs, after waiting for the first."""
        jobs = [self._jobs.get()]
        while len(jobs) < GROUP and not jobs[-1].last:
            try:
                jobs.append(self._jobs.get_nowait())
            except Empty:
                break
        return jobs

    def _finished(self, answers: list[Callable[[], None]]) -> None:
        """Give the answers, on the thread of the caller."""
        for answer in answers:
            answer()
        if self._stale and not self._trouble and not self._closed and self._seconds() >= self._not_anew_until:
            self._rewrite()

    def _perform(self, jobs: list[_Job]) -> list[Callable[[], None]]:
        try:
            results = self._together(jobs)
        except (sqlite3.Error, OSError):
            results = [self._alone(job) for job in jobs]
        if jobs[-1].last and self._connection is not None:
            self._connection.close()
        return [partial(job.done, result) for job, result in zip(jobs, results, strict=True) if job.done is not None]

    def _together(self, jobs: list[_Job]) -> list[Any]:
        """Return the result of each job when all are committed."""
        connection = self._connected()
        durable = any(job.durable for job in jobs)
        if durable:
            connection.execute("PRAGMA synchronous=FULL")
        try:
            connection.execute("BEGIN")
            results = [self._one(connection, job) for job in jobs]
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            raise
        finally:
            if durable:
                with suppress(sqlite3.Error):
                    connection.execute("PRAGMA synchronous=NORMAL")
        (pages,), (size,) = (connection.execute(f"PRAGMA {word}").fetchone() for word in ("page_count", "page_size"))
        self.bytes = pages * size
        if not all(job.query for job in jobs):  # a full disk can be read
            self._trouble = ""
        return results

    def _one(self, connection: sqlite3.Connection, job: _Job) -> Any:
        touched: Any = 0
        for statement, parameters in job.statements:
            cursor = connection.execute(statement, parameters)
            touched = cursor.fetchall() if job.query else cursor.rowcount
        return touched

    def _connected(self) -> sqlite3.Connection:
        """Return the connection. Open the file if it could not be opened before."""
        if self._connection is None:
            self._connection = self._open()
            self._stale = True
        return self._connection

    def _alone(self, job: _Job) -> Any:
        """Return the result of a job, or its error. A failed job without a caller is written anew later."""
        try:
            return self._together([job])[0]
        except (sqlite3.Error, OSError) as error:
            if is_damage(error):
                self._replace(error)
            elif may_pass(error):
                self._say(f"{self._path} cannot be written: {error}; what is remembered of peers is written when it can be")
            else:
                self._say(f"{self._path}: {type(error).__name__}: {error}")
            if job.anew:
                self._not_anew_until = self._seconds() + REWRITE_SECONDS
            if job.done is None:
                self._stale = self._stale or may_pass(error)
                self.given_up += 1
            return OSError(f"it could not be written down or read: {error}")

    def _replace(self, error: Exception) -> None:
        """Set a damaged file aside. The next job opens a new one, which is written from memory."""
        if self._replaced >= REPLACEMENTS:
            self._say(f"{self._path} is damaged again ({error}), after {self._replaced} new files: replace the disk")
            return
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        try:
            aside = set_aside(Path(self._path), "damaged", ("-wal", "-shm"))
        except OSError as problem:
            self._say(f"{self._path} is damaged ({error}), and cannot be set aside: {problem}")
            return
        self._replaced += 1
        self._say(
            f"{self._path} is damaged ({error}). It was set aside as {aside}, and a new one takes its place: keys, pending "
            f"certificates and past proofs are written anew from memory, the records of handshakes and refusals begin anew"
        )

    def _say(self, text: str) -> None:
        """Report a problem, unless it was reported already and still lasts."""
        if text == self._trouble:
            return
        self._trouble = text
        if self._thread is not None and self._deliver is not None:
            self._deliver(partial(self._complain, text))
        else:
            self._complain(text)
