"""The spool in an SQLite file. One thread writes, and all waiting jobs share one commit.

The caller's thread only puts jobs on a queue. The writer takes the waiting jobs, does them in one transaction, and gives all
answers by one call of `deliver`. A failed transaction is done again job by job, so that only the job at fault fails.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import thread_time
from typing import Any

from s2sgw.spool.interface import (
    Done,
    LaneSummary,
    Quarantined,
    Replaced,
    Spool,
    SpoolAnswer,
    SpoolBroken,
    Spooled,
    SpoolError,
    SpoolFull,
)
from s2sgw.spool.salvage import DroppedCommits, Salvage, add_dropped, dropped_commits, failing_pages, salvage
from s2sgw.spool.spool_file import (
    Durability,
    NewerVersion,
    NoRoom,
    NotASpool,
    begin_replacement,
    commit_replacement,
    file_identity,
    finish_replacement,
    is_damage,
    keep_for_newer,
    open_database,
    write_again,
)
from s2sgw.spool.stored_time import boot_id, clock_now
from s2sgw.spool.tables import RowsDamaged, SpoolTables, Work
from s2sgw.storage.atomic_file import keep_copy
from s2sgw.storage.sqlite_errors import may_pass, result_code
from s2sgw.storage.sqlite_pages import DatabasePages, read_log
from s2sgw.xmpp.jid import Domain, Pair

#: The most jobs of one transaction.
GROUP = 500
#: Removals that could not be written (a full disk), kept for another try.
RETRIES = 100_000
#: Seconds without any answer after which the spool is stalled.
STALLED_SECONDS = 2.0
#: Seconds of CPU for the answers that are given in one call of `deliver`.
ANSWER_SECONDS = 0.005
#: Seconds until the salvage of a damaged file, or the copy of a removed one, is tried again after it failed.
SAVE_AGAIN_SECONDS = 30.0
#: SQLite's codes for a page that the disk did not read. After `READ_TRIES` over `READ_SECONDS` a call counts as failing for good.
READ_ERRORS = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS})
READ_TRIES, READ_SECONDS = 3, 2.5
JOBS_WITH_ERRORS = 10_000
#: Damaged files that may be replaced in one run of the process. Each is kept beside the spool.
REPLACEMENTS = 8
#: Pages that may be unreadable in a file of any size, before the whole disk counts as gone.
FEW_PAGES = 16
#: Seconds between two tries to open a file that could not be opened, and between two reports of the same trouble.
REOPEN_SECONDS = 1.0
REPORT_SECONDS = 60.0
#: Seconds between two looks whether the open file is still at its path.
LOOK_SECONDS = 5.0
#: Lanes that are named if the stop loses the spool.
LANES_NAMED = 20
#: Seconds without a commit that was refused for lack of room, after which the disk has room again. One small commit that
#: succeeds is no proof: there may be room for it in the file.
ROOM_SECONDS = 60.0


@dataclass(slots=True)
class _Job:
    """`work` is done at the tables, and `answer` is called with its result or its error.

    A job without an `answer` is tried again.
    `name` is the same for calls that read the same. `again`: the work if a row of `work` may be stored already.
    """

    name: str
    work: Work
    answer: Callable[[Any], None] | None = None
    again: Work | None = None
    last: bool = False


class SQLiteSpool(Spool):
    """The file at `path`, at most `limit` bytes in all and `share` bytes for the peers of one registered domain.

    `deliver(call)` makes `call` soon, on the thread of the caller. `report` is called, on either thread, with texts for the
    operator. `committed` is called, on the writer's thread, with the seconds of each commit. `clock` is the clock of all times;
    `wall` and `boot` are used for storing them. Raises `SpoolBroken` or `OSError` if the file is in use or may not be opened. A
    disk that is full, fails, or has a damaged file is no reason to fail.
    """

    def __init__(
        self, path: Path, limit: int, deliver: Callable[[Callable[[], None]], None], *, durability: Durability = "power-loss",
        report: Callable[[str], None] = lambda text: None, share: int | None = None,
        peer_of: Callable[[Pair], Domain] = lambda pair: pair.recipient,
        committed: Callable[[float], None] = lambda seconds: None,
        clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time, boot: Callable[[], str] = boot_id,
    ) -> None:
        self._path = path
        self._limit = limit
        self._share = limit if share is None else share
        self._peer_of = peer_of
        self._deliver = deliver
        self._durability: Durability = durability
        self._report = report
        self._committed = committed
        self._clock = clock
        self._wall = wall
        self._boot = boot
        #: None while the file cannot be opened
        self._tables: SpoolTables | None = None
        #: why the file could not be used lately, or ""
        self._trouble = ""
        #: whether there is no file yet, because there is no room: the tables are empty ones in memory that take nothing
        self._absent = False
        self._next_try = 0.0
        #: the device and inode of the open file, when they are looked at next, and the alert if they are not those at the path
        self._identity: tuple[int, int] | None = None
        self._next_look = 0.0
        self._removed = ""
        #: when a commit was last refused for lack of room; None: there is room again
        self._refused_at: float | None = None
        #: how often a new file replaced a damaged one
        self._replaced = 0
        #: the consequences of damage, for the operator
        self._warnings: list[str] = []
        self._log_aside = Path()
        #: since when, and how often, a call could not be read, by its name
        self._read_errors: dict[str, tuple[float, int]] = {}
        self._reported: dict[str, float] = {}
        self._open_first()
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._retry: list[_Job] = []
        self._closed = False
        #: the answers to calls after `close`, until it is answered; then None
        self._too_late: deque[Callable[[], None]] | None = deque()
        self._unanswered = 0
        self._answers: deque[Callable[[], None]] = deque()
        #: a call that gives answers is under way to the caller's thread: the calls of one turn would each take their own time
        self._call_is_due = False
        self._answers_lock = Lock()
        self._answered_at = 0.0
        self.thread = Thread(target=self._work, name="spool", daemon=True)
        self.thread.start()

    # --- the contents ---

    @property
    def count(self) -> int:
        return 0 if self._tables is None else self._tables.count

    @property
    def bytes(self) -> int:
        return 0 if self._tables is None else self._tables.bytes

    @property
    def used(self) -> int:
        return 0 if self._tables is None else self._tables.used

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def share(self) -> int:
        return min(self._share, self._limit)

    @property
    def stalled(self) -> bool:
        return self._unanswered > 0 and self._clock() - self._answered_at > STALLED_SECONDS

    @property
    def next_position(self) -> int:
        return 1 if self._tables is None else self._tables.reserved

    def alerts(self) -> list[str]:
        full = self._full if self._refused_at is not None else ""
        alerts = [*self._warnings, *(text for text in (self._trouble, self._removed, full) if text)]
        if self.stalled:
            alerts.append(f"the disk of the spool {self._path} has not answered for {self._clock() - self._answered_at:.0f} s")
        return alerts

    def used_by(self, peer: Domain) -> int:
        return 0 if self._tables is None else self._tables.used_by(peer)

    # --- the thread of the caller ---

    def append(self, batch: Sequence[Spooled], done: Done, replaces: Sequence[Replaced] = ()) -> None:
        append = partial(SpoolTables.append, batch=batch, replaces=replaces)
        again = partial(SpoolTables.append_missing, batch=batch, replaces=replaces)
        self._put(_Job("append", append, done, again))

    def read(self, pair: Pair, after: int, at_most: int, done: SpoolAnswer[list[Spooled]]) -> None:
        self._put(_Job(f"read {pair}", partial(SpoolTables.read, pair=pair, after=after, at_most=at_most), done))

    def remove(self, pair: Pair, up_to: int) -> None:
        self._put(_Job("remove", partial(SpoolTables.remove, pair=pair, up_to=up_to)))

    def remove_each(self, pair: Pair, positions: Sequence[int]) -> None:
        self._put(_Job("remove each", partial(SpoolTables.remove_each, pair=pair, positions=positions)))

    def mark_written(self, pair: Pair, positions: Sequence[int], done: Done) -> None:
        self._put(_Job("mark written", partial(SpoolTables.mark_written, pair=pair, positions=positions), done))

    def expired(self, now: float, at_most: int, done: SpoolAnswer[list[Spooled]]) -> None:
        self._put(_Job("expired", partial(SpoolTables.expired, now=now, at_most=at_most), done))

    def queues(self, done: SpoolAnswer[list[LaneSummary]]) -> None:
        self._put(_Job("queues", SpoolTables.queues, done))

    def quarantine(self, spooled: Spooled, cause: str, at: float) -> None:
        self._put(_Job("quarantine", partial(SpoolTables.quarantine, spooled=spooled, cause=cause, at=at)))

    def quarantined(self, at_most: int, done: SpoolAnswer[list[Quarantined]]) -> None:
        self._put(_Job("quarantined", partial(SpoolTables.quarantined, at_most=at_most), done))

    def raise_limit(self, by: int) -> None:
        self._limit += by
        self._share = self._limit
        self._put(_Job("limits", self._set_limits))

    def close(self, done: Callable[[], None]) -> None:
        def closed(_: object) -> None:
            done()
            while self._too_late:
                self._deliver(self._too_late.popleft())
            self._too_late = None

        self._put(_Job("close", _no_work, closed, last=True))
        self._closed = True

    def _put(self, job: _Job) -> None:
        if not self._closed:
            if job.answer is not None:
                self._answered_at = self._answered_at if self._unanswered else self._clock()
                self._unanswered += 1
            self._jobs.put(job)
        elif job.answer is not None:
            answer = partial(job.answer, SpoolBroken("the spool is closed"))
            if self._too_late is None:
                self._deliver(answer)
            else:
                self._too_late.append(answer)  # calls are answered in order

    def _call(self) -> None:
        """Give the answers, in order, as many as `ANSWER_SECONDS` allow. One that raises does not stop the others."""
        self._answered_at = self._clock()
        end = thread_time() + ANSWER_SECONDS
        try:
            while self._answers and thread_time() < end:
                self._unanswered -= 1
                self._answers.popleft()()
        finally:
            with self._answers_lock:
                self._call_is_due = bool(self._answers)
            if self._call_is_due:
                self._deliver(self._call)

    # --- the file ---

    @property
    def _full(self) -> str:
        return f"{self._path}: the disk is full"

    def _open_first(self) -> None:
        """Open the file at the start. Raises `SpoolBroken` if another try would not help."""
        self._next_try = self._clock() + REOPEN_SECONDS
        try:
            self._tables = self._open()
        except SpoolBroken as broken:
            if not may_pass(broken.__cause__):
                raise
            self._trouble = f"{broken}; no peer is admitted until it can be"
            self._say(self._trouble)

    def _open(self) -> SpoolTables:
        """Return the tables of the file. The readable part of a damaged one is saved first. Raises `SpoolBroken` or `OSError`."""
        self._absent = False
        finish_replacement(self._path)
        try:
            return self._opened()
        except NewerVersion as newer:
            keep_for_newer(self._path, str(newer), self._report)
        except (sqlite3.Error, NotASpool, RowsDamaged) as damage:
            self._replace_damaged(str(damage))
        except NoRoom as full:
            self._trouble = f"{full}; nothing is held on the disk until there is room"
            self._say(self._trouble)
            self._absent = True
            return SpoolTables(open_database(Path(":memory:"), self._durability), 0)
        try:
            return self._opened()
        except (sqlite3.Error, NotASpool, RowsDamaged, NoRoom) as error:  # the new file is damaged too
            raise SpoolBroken(f"{self._path} cannot be made: {error}") from error

    def _opened(self) -> SpoolTables:
        """Open the file as it is. Raises `SpoolBroken`, `NewerVersion`, `NoRoom`, or the errors of a damaged file."""
        dropped = self._dropped_commits()
        connection = open_database(self._path, self._durability)
        try:
            if dropped is not None:
                self._add_dropped(connection, dropped)
            tables = SpoolTables(connection, self._limit, self.share, self._peer_of)
            stored, boot = tables.clock, self._boot()
            newest = 0 if stored is not None and stored.boot == boot else tables.newest()
            tables.use_clock(clock_now(stored, boot, self._clock(), self._wall(), newest))
            self._identity = file_identity(self._path)
        except sqlite3.Error as error:
            connection.close()
            if is_damage(error):
                raise
            raise SpoolBroken(f"{self._path} cannot be read: {error}") from error
        except BaseException:
            connection.close()
            raise
        return tables

    def _dropped_commits(self) -> DroppedCommits | None:
        """Return the commits of the log that SQLite would drop, after a copy of the log is kept. Raises `SpoolBroken`."""
        log_path = self._path.with_name(self._path.name + "-wal")
        if not self._path.exists() or not log_path.exists():
            return None
        try:
            log = read_log(log_path)
            if log is None or not log.commits_behind:
                return None
            pages = DatabasePages(self._path, behind=True)
            try:
                dropped = dropped_commits(pages)
            finally:
                pages.close()
            self._log_aside = keep_copy(log_path, "damaged")
        except OSError as error:
            raise SpoolBroken(f"{log_path} is damaged, and cannot be kept: {error}") from error
        return dropped

    def _add_dropped(self, connection: sqlite3.Connection, dropped: DroppedCommits) -> None:
        saved = add_dropped(connection, dropped)
        self._warn(
            f"the write-ahead log of {self._path} is damaged, with {dropped.commits} commits behind the damage. Of these, "
            f"{saved.words()}, some perhaps not for the first time. The log was kept as {self._log_aside}"
        )

    def _replace_damaged(self, why: str, failing: Collection[int] = ()) -> None:
        """Save the readable part of the file into a new one, which replaces it. `failing`: pages that the disk did not read.

        Raises `SpoolBroken`, with the file as it was. Another try comes later.
        """
        self._next_try = self._clock() + SAVE_AGAIN_SECONDS
        if self._replaced >= REPLACEMENTS:
            raise SpoolBroken(f"{self._path} is damaged again ({why}), after {self._replaced} new files: replace the disk")
        self._report(f"{self._path} is damaged ({why}). What can be read of it is being saved")
        try:
            saved = self._save(failing)
            aside = commit_replacement(self._path)
            self._replaced += 1
        except (sqlite3.Error, SpoolError, NoRoom, OSError) as error:
            raise SpoolBroken(f"{self._path} is damaged ({why}), and what it holds cannot be saved now: {error}") from error
        self._warn(f"{self._path} was damaged ({why}): {saved.words()}. The damaged file was kept as {aside}")

    def _save(self, failing: Collection[int]) -> Salvage:
        pages = DatabasePages(self._path)
        try:
            unreadable = len(pages.unreadable_pages())
            if unreadable and (unreadable == len(pages) or (unreadable > FEW_PAGES and unreadable * 4 > len(pages))):
                raise SpoolBroken(f"{unreadable} of its {len(pages)} pages cannot be read, as if the disk were away")
            connection = open_database(begin_replacement(self._path), self._durability)
            try:
                saved = salvage(pages, connection, pages.unreadable | set(failing))
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                return saved
            finally:
                connection.close()
        finally:
            pages.close()

    def _failing_pages(self) -> set[int]:
        """Return the pages of the file that cannot be read. SQLite must not have it open: closing it here ends SQLite's lock."""
        pages = DatabasePages(self._path)
        try:
            failing = set(pages.unreadable_pages())
            try:
                connection = open_database(self._path, self._durability)
            except (sqlite3.Error, SpoolError, NotASpool, NewerVersion, NoRoom):
                return failing
            try:
                return failing | failing_pages(pages, connection)
            finally:
                connection.close()
        finally:
            pages.close()

    def _warn(self, text: str) -> None:
        """Report `text`, and show it as an alert for the rest of this run."""
        self._warnings.append(text)
        self._report(text)

    def _set_limits(self, tables: SpoolTables) -> None:
        tables.limit, tables.share = (0, 0) if self._absent else (self._limit, self.share)

    def _say(self, text: str) -> None:
        """Report `text`, unless it was reported a moment ago."""
        now = self._clock()
        if now - self._reported.get(text, now - REPORT_SECONDS) >= REPORT_SECONDS:
            self._reported = {said: at for said, at in self._reported.items() if now - at < REPORT_SECONDS} | {text: now}
            self._report(text)

    # --- the writer's thread ---

    def _work(self) -> None:
        last = False
        while not last:
            jobs = self._waiting()
            last = jobs[-1].last
            answers = self._perform(jobs)
            if last:
                self._look()
                self._close_tables()
            calls = False
            if answers:
                with self._answers_lock:
                    self._answers.extend(answers)
                    calls, self._call_is_due = not self._call_is_due, True
            del jobs, answers  # finished jobs do not stay in memory longer than their queues
            if calls:
                self._deliver(self._call)

    def _waiting(self) -> list[_Job]:
        """Return the waiting jobs, after waiting for the first."""
        jobs = [self._first_job()]
        while len(jobs) < GROUP and not jobs[-1].last:
            try:
                jobs.append(self._jobs.get_nowait())
            except Empty:
                break
        return jobs

    def _first_job(self) -> _Job:
        """Return the first waiting job. Meanwhile, check the room on a full disk, and whether the file is there."""
        while True:
            self._note_room()
            if self._clock() >= self._next_look:
                self._look()
            with suppress(Empty):
                return self._jobs.get(timeout=LOOK_SECONDS if self._refused_at is None else REOPEN_SECONDS)

    def _look(self) -> None:
        """Write the file again if it was removed from its path while it is open: the next start would not find it."""
        tables, self._next_look = self._tables, self._clock() + LOOK_SECONDS
        if tables is None or self._absent:
            return
        try:
            if file_identity(self._path) == self._identity:
                self._removed = ""
                return
            write_again(self._path, tables.copy)
        except (sqlite3.Error, OSError) as error:
            self._removed = (
                f"{self._path} was removed while the gateway runs, and cannot be written again: {error}. What it holds is still "
                "delivered, and a stop loses the rest"
            )
            self._say(self._removed)
            self._next_look = self._clock() + SAVE_AGAIN_SECONDS
            return
        self._removed = ""
        self._warn(f"{self._path} was removed while the gateway runs. It was written again, with all that it held")
        tables.close()
        self._tables, self._next_try = None, 0.0
        self._try_again()

    def _close_tables(self) -> None:
        """Close the file. If it is not at its path any more, report what it holds."""
        if self._tables is not None:
            if self._removed:
                self._name_lost(self._tables)
            self._tables.close()

    def _name_lost(self, tables: SpoolTables) -> None:
        lanes = sorted((lane for lane in tables.queues() if lane.count), key=attrgetter("count"), reverse=True)
        for lane in lanes[:LANES_NAMED]:
            self._report(f"lost with {self._path}: {lane.count} stanzas from {lane.pair.sender} to {lane.pair.recipient}")
        if rest := lanes[LANES_NAMED:]:
            self._report(f"lost with {self._path}: {sum(lane.count for lane in rest)} stanzas of {len(rest)} more pairs")

    def _note_room(self) -> None:
        if self._refused_at is not None and self._clock() - self._refused_at >= ROOM_SECONDS:
            self._refused_at = None
            self._reported.pop(self._full, None)
            self._report(f"{self._path}: the disk has room again: for {ROOM_SECONDS:.0f} s it refused nothing")

    def _perform(self, jobs: list[_Job]) -> list[Callable[[], None]]:
        self._try_again()
        retried, self._retry = self._retry, []
        jobs = retried + jobs
        try:
            results = self._together(jobs)
            for job in jobs if self._read_errors else ():
                self._read_errors.pop(job.name, None)
        except Exception:
            results = [self._alone(job) for job in jobs]
        return [partial(job.answer, result) for job, result in zip(jobs, results, strict=True) if job.answer is not None]

    def _try_again(self) -> None:
        """Try to open the file that could not be opened, now and then."""
        if (self._tables is not None and not self._absent) or self._clock() < self._next_try:
            return
        was_absent = self._absent
        self._next_try = self._clock() + REOPEN_SECONDS
        try:
            try:
                self._tables = self._open()
            except SpoolBroken as broken:
                failing = self._failing_pages() if self._persists("open", broken.__cause__) else set()
                if not failing:
                    raise
                self._replace_damaged(str(broken), failing)
                self._tables = self._open()
        except (SpoolBroken, OSError) as broken:
            self._trouble = str(broken)
            self._say(self._trouble)
        if was_absent and not self._absent and self._tables is not None:
            self._report(f"{self._path}: the disk has room again")

    def _together(self, jobs: list[_Job]) -> list[Any]:
        """Return the result of each job when all are durable."""
        tables = self._tables
        if tables is None:
            raise SpoolBroken(self._trouble)
        try:
            tables.begin()
            results = [self._one(job, tables) for job in jobs]
            began = self._clock()
            if tables.commit():
                self._committed(self._clock() - began)
                self._trouble = self._trouble if self._absent else ""
        except Exception:
            tables.rollback()
            raise
        return results

    def _one(self, job: _Job, tables: SpoolTables) -> Any:
        try:
            return job.work(tables)
        except SpoolError as error:
            return SpoolFull(self._trouble, "disk") if self._absent else _without_frames(error)

    def _alone(self, job: _Job, tries: int = 2) -> Any:
        try:
            result = self._together([job])[0]
        except sqlite3.IntegrityError as error:
            if job.again is None:
                return self._failed(job, error)
            return self._alone(_Job(job.name, job.again, job.answer), tries)
        except Exception as error:
            if tries and (_is_damage(error) or self._persists(job.name, error)) and self._repair(error, tries):
                return self._alone(job, tries - 1)
            return self._failed(job, error)
        self._read_errors.pop(job.name, None)
        return result

    def _persists(self, name: str, error: BaseException | None) -> bool:
        """Note an error of the disk. Return whether the same call has failed to read for a while."""
        if not isinstance(error, sqlite3.Error) or error.sqlite_errorcode not in READ_ERRORS:
            return False
        if len(self._read_errors) >= JOBS_WITH_ERRORS:
            self._read_errors.clear()
        first, number = self._read_errors.get(name, (self._clock(), 0))
        self._read_errors[name] = first, number + 1
        return number + 1 >= READ_TRIES and self._clock() - first >= READ_SECONDS

    def _repair(self, error: Exception, tries: int) -> bool:
        """Open the file once more. If that did not help, or a part cannot be read, save the rest into a new file."""
        if self._tables is not None:
            self._tables.close()
            self._tables = None
        try:
            failing = set() if _is_damage(error) else self._failing_pages()
            if failing or (tries == 1 and _is_damage(error)):
                self._replace_damaged(str(error), failing)
            self._tables = self._open()
        except (SpoolBroken, OSError) as broken:
            self._trouble = str(broken)
            self._say(self._trouble)
            return False
        self._read_errors.clear()
        return True

    def _failed(self, job: _Job, error: Exception) -> SpoolError | None:
        full = result_code(error) == sqlite3.SQLITE_FULL
        if full:
            self._refused_at = self._clock()
            self._say(self._full)
        elif not isinstance(error, SpoolBroken):
            self._trouble = f"{self._path} failed: {type(error).__name__}: {error}"
            self._say(self._trouble)
        if job.answer is None and len(self._retry) < RETRIES:
            self._retry.append(job)
        if isinstance(error, SpoolError):
            return _without_frames(error)
        return SpoolFull(self._full, "disk") if full else SpoolBroken(f"{self._path}: {error}")


def _without_frames(error: SpoolError) -> SpoolError:
    """Return an error that is an answer. Its traceback is a reference cycle, which would keep the refused stanzas in memory."""
    return error.with_traceback(None)


def _is_damage(error: Exception) -> bool:
    return is_damage(error) or isinstance(error, RowsDamaged)


def _no_work(tables: SpoolTables) -> None:
    """Do nothing at the tables."""
