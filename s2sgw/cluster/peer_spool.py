"""The spool of one peer whose home is this node: its lanes' logs in the engine, and the calls that change and read them.

One coroutine takes the calls in order. Writes that wait are joined into one append, of which there is one at a time. A removal
takes effect in memory at once, and its record is written within `REMOVAL_SECONDS`, or with the next append to the lane. Then the
records of which nothing is left are deleted. The last record of a lane stays as long as the lane is not empty, for it has the
totals; an empty lane is purged.

Lanes that a claim found are known by their totals alone until something more is asked, and so are lanes that were not used for
the longest, when the logs in memory are large.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred

from s2sgw.cluster.engine import ClusterEngine, EngineError, EngineFull, Fence, Fenced, LaneRecord, PeerLogs, Stored
from s2sgw.cluster.failures import Failures
from s2sgw.cluster.lane_log import LaneLog, Mark, Removal, Run, StanzaPlace, statements
from s2sgw.cluster.records import (
    RUN_BYTES,
    RUN_STANZAS,
    EncodedRecord,
    LaneTotals,
    LoggedStanza,
    PositionRange,
    RecordError,
    decode,
    encode_positions,
    encode_run,
    ranges,
    read_totals,
    runs,
)
from s2sgw.cluster.spool_room import SpoolRoom
from s2sgw.spool.interface import (
    LaneSummary,
    PositionTaken,
    Replaced,
    SpoolBroken,
    Spooled,
    SpoolError,
    SpoolFull,
    same_content,
)
from s2sgw.xmpp.jid import Domain, Pair

#: Seconds until a removal is written, and until that is tried again after it failed.
REMOVAL_SECONDS = 0.2
REMOVE_AGAIN_SECONDS = 1.0
#: The most calls that are joined, and the size from which an append takes no more: records, and bytes of stanzas.
JOINED_CALLS = 500
APPEND_RECORDS = 128
APPEND_BYTES = 1 << 20
#: The most records of one append. Only the removals of very many stanzas are more, and they are written in several.
MOST_RECORDS = 400
#: About so many bytes are read at a time.
READ_BYTES = 1 << 18
#: Bytes of the headers that the engine's client adds.
HEADER_BYTES = 1024
#: The most memory for the logs of lanes, and what a log, a run and a stanza of a run take of it.
LOADED_BYTES = 64 << 20
LOG_MEMORY, RUN_MEMORY, STANZA_MEMORY = 500, 320, 36
#: Lanes that are looked at when logs are to be forgotten.
TRIMMED_AT_ONCE = 100
#: Readings of a log that has more than its last record says. A replica of the engine may show a record a moment after it was
#: removed, together with what is newer on another. After so many of them the log counts: a stanza comes twice, or never.
DISAGREEMENTS = 5
#: Removals of lanes that could not be read, kept for another try.
LATER_CALLS = 10_000
#: Records that say nothing are deleted when there are so many in a lane.
IDLE_RECORDS = 32


@dataclass(slots=True)
class SpoolServices:
    """The state that the spools of all peers share.

    `offset`: microseconds from the gateway's clock to the epoch. `identity` returns a new one for each append. `give(answer,
    result)` gives an answer, later. `removals(peer, seconds)`: removals of a peer should be written after so many seconds.
    `lost(peer)`: the peer has another home, or must be claimed again. `report` is called with texts for the operator.
    """

    engine: ClusterEngine
    room: SpoolRoom
    offset: int
    identity: Callable[[], str]
    give: Callable[[Callable[[Any], None], Any], None]
    removals: Callable[[PeerSpool, float], None]
    lost: Callable[[PeerSpool], None]
    report: Callable[[str], None]
    loaded: LoadedLanes
    failures: Failures

    def logged(self, row: Spooled) -> LoggedStanza:
        accepted, deadline = (round(seconds * 1e6) + self.offset for seconds in (row.accepted_at, row.deadline))
        return LoggedStanza(row.position, row.stanza, accepted, deadline, row.written)

    def spooled(self, pair: Pair, each: LoggedStanza, written: bool) -> Spooled:
        accepted, deadline = self.seconds(each.accepted), self.seconds(each.deadline)
        return Spooled(pair, each.position, each.stanza, accepted, deadline, written, each.damage)

    def seconds(self, stored: int) -> float:
        return (stored - self.offset) / 1e6


class LoadedLanes:
    """The lanes whose logs are in memory. When they are large, those that were not used for the longest are forgotten."""

    def __init__(self) -> None:
        #: the lanes, with their peers and bytes, in the order of their last use
        self._lanes: dict[Lane, tuple[PeerSpool, int]] = {}
        self.bytes = 0

    def used(self, lane: Lane, peer: PeerSpool) -> None:
        """Note that a lane was used, and has changed."""
        self.forget(lane)
        if lane.log is not None:
            size = LOG_MEMORY + len(lane.log.runs) * RUN_MEMORY + lane.log.count * STANZA_MEMORY
            self._lanes[lane] = peer, size
            self.bytes += size

    def forget(self, lane: Lane) -> None:
        """Note that a lane is not known any more."""
        _, size = self._lanes.pop(lane, (None, 0))
        self.bytes -= size

    def trim(self) -> None:
        """Forget logs until there is room, of some of the lanes. Peers with a call under way keep theirs."""
        if self.bytes > LOADED_BYTES:
            for lane, (peer, size) in list(islice(self._lanes.items(), TRIMMED_AT_ONCE)):
                del self._lanes[lane]
                if not peer.in_call and lane.unload():
                    self.bytes -= size
                    if self.bytes <= LOADED_BYTES:
                        break
                else:
                    self._lanes[lane] = peer, size  # behind the others: it is looked at later


class Lane:
    """A lane. `log` is None while it is not in memory: then `known` are the totals, kept up to date by what is appended."""

    __slots__ = ("pair", "log", "known", "last_sequence", "cleaning", "stale", "disagreements", "_counted")

    def __init__(self, pair: Pair, known: LaneTotals | None = None, last_sequence: int = 0) -> None:
        self.pair = pair
        self.log = LaneLog() if known is None else None
        self.known = known if known is not None else LaneTotals(0)
        self.last_sequence = last_sequence
        #: whether records are being deleted that the log does not have any more
        self.cleaning = False
        #: whether the totals in the last record are too high: runs were deleted without a record that says so
        self.stale = False
        #: how often a reading had more than the last record says
        self.disagreements = 0
        #: stanzas and bytes that count against the room
        self._counted = 0, 0

    def unload(self) -> bool:
        """Forget the log, if the engine has all that it says. Return whether it is forgotten."""
        if self.log is not None and not self.log.unlogged and not self.log.gone and not self.cleaning:
            self.known, self.log = self.log.totals(0), None
        return self.log is None

    def totals(self, serial: int = 0) -> LaneTotals:
        """Return the totals for a record with this serial number."""
        return self.log.totals(serial) if self.log is not None else replace(self.known, serial=serial)

    def add(self, stanzas: Sequence[LoggedStanza]) -> Run | None:
        """Add a run at positions that are free, ascending. Return None if the log is not known."""
        if self.log is not None:
            return self.log.add(stanzas)
        known, first, last = self.known, stanzas[0], stanzas[-1].position
        size, deadline = sum(len(each.stanza.data) for each in stanzas), min(each.deadline for each in stanzas)
        if known.count:
            deadline = min(deadline, known.deadline)
        self.known = LaneTotals(
            0, known.count + len(stanzas), known.bytes + size, known.first if known.count else first.position, last, last,
            known.oldest if known.count else first.accepted, deadline,
        )
        return None

    def count(self, room: SpoolRoom, peer: Domain, ended: bool = False) -> None:
        """Count the change since the last time. `ended`: the lane counts no more."""
        what = self.known if self.log is None else self.log
        now = (0, 0) if ended else (what.count, what.bytes)
        room.change(peer, now[0] - self._counted[0], now[1] - self._counted[1])
        self._counted = now

    @property
    def deadline(self) -> int | None:
        """Return a time before which nothing expires. None: there is nothing."""
        what = self.known if self.log is None else self.log
        return what.deadline if what.count else None

    @property
    def unlogged(self) -> bool:
        """Return whether removals are not in the log yet."""
        return self.log is not None and bool(self.log.unlogged)

    @property
    def has_removals(self) -> bool:
        """Return whether a record of removals is to be written."""
        return self.unlogged or self.stale

    @property
    def is_empty(self) -> bool:
        """Return whether there is nothing in the log, so that it may be purged."""
        return not (self.known.count if self.log is None else self.log.count) and not self.unlogged


class _Part(NamedTuple):
    """A record to append, with the totals of its lane after it: a run, marks, or removals.

    `before`: the totals before a run, if the log is not known. `removed`: the runs, and which of their stanzas the record says.
    """

    lane: Lane
    totals: LaneTotals
    run: Run | None = None
    before: LaneTotals | None = None
    stanzas: Sequence[LoggedStanza] = ()
    marks: Sequence[Mark] = ()
    removed: Sequence[Removal] = ()
    positions: Sequence[PositionRange] = ()

    def encode(self) -> EncodedRecord:
        if self.stanzas:
            return encode_run(self.totals, self.stanzas)
        return encode_positions("W" if self.marks else "R", self.totals, self.positions)

    def stored(self, sequence: int) -> None:
        """Note that the record is stored."""
        self.lane.last_sequence, self.lane.stale = sequence, False
        log = self.lane.log
        if log is None:
            return
        if self.run is not None:
            log.stored(self.run, sequence)
        elif self.marks:
            log.name([mark.run for mark in self.marks], "W", sequence)
        else:
            log.name([run for run, _ in self.removed], "R", sequence)
            for run, bits in self.removed:
                if run.removed == bits:  # nothing more was removed in the same append
                    log.logged(run)

    def take_back(self) -> None:
        """Take back what the record would have said, save removals: those are true, and are written later."""
        if self.lane.log is None:
            self.lane.known = self.before if self.before is not None else self.lane.known
        elif self.run is not None:
            self.lane.log.drop(self.run)
        else:
            self.lane.log.unmark(self.marks)

    def undo(self) -> None:
        """Remove a run that is stored."""
        if self.lane.log is not None and self.run is not None:
            self.lane.log.remove([(self.run.first, self.run.last)])


@dataclass(slots=True)
class AppendBatch:
    """Writes that are appended together.

    `sliced`: it is one call, too large for one append. `sent`: the records of it that are stored already. `said`: the removals
    that its records say. `replaced`: what its calls have removed, which stays if the append fails.
    """

    parts: list[_Part] = field(default_factory=list)
    sliced: bool = False
    sent: list[_Part] = field(default_factory=list)
    said: dict[Run, int] = field(default_factory=dict)
    replaced: list[tuple[LaneLog, list[Removal]]] = field(default_factory=list)
    lanes: dict[Lane, None] = field(default_factory=dict)
    size: int = 0

    def put(self, part: _Part) -> None:
        self.parts.append(part)
        self.lanes[part.lane] = None
        self.size += sum(len(each.stanza.data) for each in part.stanzas)

    @property
    def full(self) -> bool:
        return len(self.parts) >= APPEND_RECORDS or self.size >= APPEND_BYTES

    def undo(self) -> None:
        """Take back everything, after a failure."""
        for log, removals in reversed(self.replaced):  # first: a run of this batch may have been replaced in it, too
            log.put_back(removals)
        for part in reversed(self.parts):
            part.take_back()
        for part in self.sent:
            part.undo()
        for each in (self.parts, self.sent, self.replaced):
            each.clear()


class Job:
    """A call that waits for its turn. `answer` is called with the result, or with a `SpoolError`.

    `alone`: it is no write, and is performed when all writes before it are stored.
    """

    __slots__ = ("answer",)
    alone = True

    def __init__(self, answer: Callable[[Any], None] | None = None) -> None:
        self.answer = answer

    @property
    def large(self) -> bool:
        """Return whether it needs more than one append."""
        return False

    def ready(self, peer: PeerSpool) -> bool:
        """Return whether nothing has to be read before `join`."""
        return True

    async def prepare(self, peer: PeerSpool) -> None:
        """Read what is needed. Raises `SpoolError`."""

    async def join(self, peer: PeerSpool, batch: AppendBatch) -> None:
        """Take effect in memory, and put the records that say so into the batch. Raises `SpoolError` without effect."""

    async def perform(self, peer: PeerSpool) -> Any:
        """Return the result of a call that is alone. Raises `SpoolError`."""


class Read(Job):
    """A call that is alone."""

    __slots__ = ("_work",)

    def __init__(self, work: Callable[[PeerSpool], Awaitable[Any]], answer: Callable[[Any], None]) -> None:
        super().__init__(answer)
        self._work = work

    async def perform(self, peer: PeerSpool) -> Any:
        return await self._work(peer)


class Append(Job):
    """See `Spool.append`. All pairs are of one peer."""

    __slots__ = ("_batch", "_replaces", "_free")
    alone = False

    def __init__(self, batch: Sequence[Spooled], replaces: Sequence[Replaced], answer: Callable[[Any], None]) -> None:
        super().__init__(answer)
        self._batch = batch
        self._replaces = replaces
        #: the rows that are not stored already, if that had to be looked up
        self._free: list[Spooled] | None = None

    @property
    def large(self) -> bool:
        rows = self._batch
        many = len(rows) >= APPEND_RECORDS and len({row.pair for row in rows}) + len(self._replaces) >= APPEND_RECORDS
        return many or len(rows) >= RUN_STANZAS * APPEND_RECORDS // 2 or _size(rows) >= APPEND_BYTES // 2

    def ready(self, peer: PeerSpool) -> bool:
        changed = {row.pair for row in self._batch} if self.large else set()
        if not all(peer.is_loaded(pair) for pair in changed.union(pair for pair, _ in self._replaces)):
            return False
        highest: dict[Pair, int] = {}
        for row in self._batch:
            if row.position <= (highest[row.pair] if row.pair in highest else peer.highest(row.pair)):
                return False
            highest[row.pair] = row.position
        return True

    async def prepare(self, peer: PeerSpool) -> None:
        for pair in {*(row.pair for row in self._batch), *(pair for pair, _ in self._replaces)}:
            await peer.load(pair)
        free: dict[tuple[Pair, int], Spooled] = {}
        for row in self._batch:
            key = row.pair, row.position
            held = free.get(key) or await peer.stored_at(row.pair, row.position)
            if held is None:
                free[key] = row
            elif not same_content(peer.as_stored(held), peer.as_stored(row)):
                raise PositionTaken(f"another stanza is held at position {row.position} of {row.pair}")
        self._free = sorted(free.values(), key=attrgetter("pair", "position"))

    async def join(self, peer: PeerSpool, batch: AppendBatch) -> None:
        rows = self._batch if self._free is None else self._free
        freed = [peer.held(pair, positions) for pair, positions in self._replaces]
        peer.require_room(rows, [place for places in freed for place in places])
        by_pair: dict[Pair, list[Spooled]] = {}
        for row in rows:
            by_pair.setdefault(row.pair, []).append(row)
        for pair, mine in by_pair.items():
            await peer.add(batch, pair, mine)
        for pair, positions in self._replaces:
            peer.replace(batch, pair, positions)


class MarkWritten(Job):
    """See `Spool.mark_written`."""

    __slots__ = ("_pair", "_positions")
    alone = False

    def __init__(self, pair: Pair, positions: Iterable[int], answer: Callable[[Any], None]) -> None:
        super().__init__(answer)
        self._pair = pair
        self._positions = ranges(sorted(set(positions)))

    def ready(self, peer: PeerSpool) -> bool:
        return peer.is_loaded(self._pair)

    async def prepare(self, peer: PeerSpool) -> None:
        await peer.load(self._pair)

    async def join(self, peer: PeerSpool, batch: AppendBatch) -> None:
        peer.mark(batch, self._pair, self._positions)


class Remove(Job):
    """See `Spool.remove` and `Spool.remove_each`."""

    __slots__ = ("_pair", "_positions")
    alone = False

    def __init__(self, pair: Pair, positions: Sequence[PositionRange]) -> None:
        super().__init__()
        self._pair = pair
        self._positions = positions

    def ready(self, peer: PeerSpool) -> bool:
        return peer.is_loaded(self._pair)

    async def prepare(self, peer: PeerSpool) -> None:
        await peer.load(self._pair)

    async def join(self, peer: PeerSpool, batch: AppendBatch) -> None:
        peer.remove(batch, self._pair, self._positions)


class _RecordMissing(Exception):
    """A record that the log should have is not there: the home before this one has deleted it late."""


class PeerSpool:
    """The lanes of the peer of `fence`. `logs` are what the claim has found. Raises `RecordError`."""

    def __init__(self, fence: Fence, logs: PeerLogs, services: SpoolServices) -> None:
        self.fence = fence
        self.peer = fence.peer
        self._services = services
        self._engine = services.engine
        known = {pair: (read_totals(stored.headers), stored.sequence) for pair, stored in logs.lanes.items()}
        self.lanes = {pair: Lane(pair, totals, sequence) for pair, (totals, sequence) in known.items()}
        #: that of the last record
        self._serial = max((totals.serial for totals, _ in known.values()), default=0)
        self._jobs: deque[Job] = deque()
        #: removals of lanes that could not be read
        self._later: list[Job] = []
        self._working = self._cleaning = self._removals_due = self._fenced = False
        #: whether a call is under way that may use the logs of lanes
        self.in_call = False
        #: lanes with records that may be deleted
        self._unclean: dict[Lane, None] = {}
        #: why no more calls are taken, or ""
        self.ended = ""
        #: why the last call failed, or ""
        self.trouble = ""
        self._settle(self.lanes.values())

    # --- what it holds ---

    @property
    def busy(self) -> bool:
        """Return whether calls wait, or are under way."""
        return bool(self._jobs) or self._working

    @property
    def has_removals(self) -> bool:
        """Return whether removals are not in the logs yet."""
        return any(lane.has_removals and not lane.is_empty for lane in self.lanes.values())

    def summaries(self) -> list[LaneSummary]:
        """Return the totals of each lane that is not empty."""
        each = [(lane.pair, lane.totals()) for lane in self.lanes.values()]
        seconds = self._services.seconds
        return [LaneSummary(pair, it.count, it.bytes, it.first, it.last, seconds(it.oldest)) for pair, it in each if it.count]

    @property
    def next_deadline(self) -> int | None:
        """Return a time before which nothing expires. None: there is nothing."""
        return min((deadline for lane in self.lanes.values() if (deadline := lane.deadline) is not None), default=None)

    @property
    def next_position(self) -> int:
        """Return a position after all that are in use."""
        return 1 + max((lane.totals().highest for lane in self.lanes.values()), default=0)

    def highest(self, pair: Pair) -> int:
        """Return the highest position of a lane that was used, or one below all."""
        lane = self.lanes.get(pair)
        if lane is None:
            return -1
        return lane.known.highest if lane.log is None else lane.log.highest

    def is_loaded(self, pair: Pair) -> bool:
        """Return whether the log of a lane is known."""
        lane = self.lanes.get(pair)
        return lane is None or lane.log is not None

    def held(self, pair: Pair, positions: Iterable[int]) -> list[StanzaPlace]:
        """Return where the stanzas at these positions are, those that are held. The log of the lane is known."""
        lane = self.lanes.get(pair)
        return lane.log.places(sorted(set(positions))) if lane is not None and lane.log is not None else []

    def as_stored(self, row: Spooled) -> Spooled:
        """Return a row with the times that it has when it is stored."""
        return self._services.spooled(row.pair, self._services.logged(row), row.written)

    # --- calls ---

    def put(self, job: Job) -> None:
        """Take a call. Calls are performed in this order."""
        if self.ended:
            self._answer(job, SpoolBroken(self.ended))
            return
        self._jobs.append(job)
        self._go_on()

    def write_removals(self) -> None:
        """Write the removals that are not in the logs, and try again what could not be removed."""
        self._jobs.extendleft(reversed(self._later))
        self._later.clear()
        self._removals_due = True
        self._go_on()

    def end(self, why: str) -> None:
        """Take no more calls: this node is not the home any more. A write under way is answered when its outcome is known."""
        if not self.ended:
            self.ended = why
            jobs, self._jobs = self._jobs, deque()
            for job in jobs:
                self._answer(job, SpoolBroken(why))
            for lane in self.lanes.values():
                lane.count(self._services.room, self.peer, ended=True)
                self._services.loaded.forget(lane)

    def _answer(self, job: Job, result: object) -> None:
        if job.answer is not None:
            self._services.give(job.answer, result)

    def _go_on(self) -> None:
        if not self._working and not self.ended and (self._jobs or self._removals_due):
            self._working = True
            Deferred.fromCoroutine(self._work())

    async def _work(self) -> None:
        try:
            await self._perform_all()
        except Exception as error:  # every call is answered: the state in memory is not known, and a new claim reads it again
            self._services.failures.note(f"the spool of {self.peer} failed")
            self._broken(error)
            if not self.ended:
                self.end(self.trouble)
                self._services.lost(self)
        finally:
            self.in_call = self._working = False

    async def _perform_all(self) -> None:
        while (self._jobs or self._removals_due) and not self.ended:
            self.in_call = True
            if self._removals_due:
                self._removals_due = False
                await self._write_removals()
            elif self._jobs[0].alone:
                job = self._jobs.popleft()
                self._answer(job, await self._performed(job))
            else:
                await self._write()
            self.in_call = False
            self._services.loaded.trim()
            if self._fenced:
                self._end_fenced()

    async def _performed(self, job: Job) -> Any:
        try:
            return await job.perform(self)
        except Exception as error:  # every call is answered
            return self._broken(error)

    def _broken(self, error: Exception) -> SpoolError:
        """Return the answer for an error of the spool, of the engine, or of a record."""
        if isinstance(error, SpoolError):
            self.trouble = f"the spool of {self.peer} failed: {error}" if isinstance(error, SpoolBroken) else self.trouble
            return error.with_traceback(None)  # its frames would keep the refused stanzas in memory
        self._fenced = self._fenced or isinstance(error, Fenced)
        text = str(error) if isinstance(error, (EngineError, RecordError)) else f"{type(error).__name__}: {error}"
        self.trouble = f"the spool of {self.peer} failed: {text}"
        if not isinstance(error, EngineError):
            self._services.report(self.trouble)
        return SpoolFull(text, "disk") if isinstance(error, EngineFull) else SpoolBroken(text)

    # --- writes ---

    async def _write(self) -> None:
        """Perform the writes that wait, as many as go into one append."""
        batch = AppendBatch()
        joined: list[Job] = []
        while self._jobs and not self._jobs[0].alone and len(joined) < JOINED_CALLS and not batch.full:
            job = self._jobs[0]
            if joined and (job.large or not job.ready(self)):
                break
            self._jobs.popleft()
            if await self._joined(job, batch):
                joined.append(job)
            if job.large:
                break
        try:
            result = await self._sent(batch)
        except Exception as error:  # it could not be undone
            for job in joined:
                self._answer(job, SpoolBroken(f"{type(error).__name__}: {error}"))
            raise
        for job in joined:
            self._answer(job, result)
        self._settle(batch.lanes)

    async def _joined(self, job: Job, batch: AppendBatch) -> bool:
        """Let a call join the batch. Return whether it did; if not, it is answered, or tried again later."""
        try:
            if not job.ready(self):
                await job.prepare(self)
            if self.ended:
                raise SpoolBroken(self.ended)
            batch.sliced = job.large
            await job.join(self, batch)
        except Exception as error:  # every call is answered
            answer = self._broken(error)
            self._end_in_doubt(batch, error)
            if job.large:
                await self._undo(batch)
            self._answer(job, answer)
            if job.answer is None and not self.ended and len(self._later) < LATER_CALLS:
                self._later.append(job)
                self._services.removals(self, REMOVE_AGAIN_SECONDS)
            return False
        return True

    async def _sent(self, batch: AppendBatch) -> SpoolError | None:
        """Append the records of the batch. Return why nothing of it is stored, or None."""
        try:
            await self._send(batch)
        except Exception as error:  # every call is answered
            answer = self._broken(error)
            self._end_in_doubt(batch, error)
            await self._undo(batch)
            return answer
        return None

    async def _undo(self, batch: AppendBatch) -> None:
        """Take back the batch. If records of it are stored, remove them in the engine first.

        When the calls are answered, their stanzas count as not stored: they are delivered from memory, or bounced. Without the
        removal, the next home would deliver them again if this node is killed.
        """
        is_stored, trouble = bool(batch.sent), self.trouble
        batch.undo()
        if is_stored and not self.ended:
            await self._write_removals()
            self.trouble = self.trouble or trouble
            if self._fenced:  # the new home has read them
                self._end_fenced()

    def _end_in_doubt(self, batch: AppendBatch, error: Exception) -> None:
        """If another node is the home, and may have read records of this batch, tell that before the calls are answered.

        Otherwise their stanzas would count as not stored, and errors would answer what the new home delivers.
        """
        if isinstance(error, Fenced) and (batch.sent or error.in_doubt):
            self._end_fenced()

    def _end_fenced(self) -> None:
        """End, because another node is the home."""
        if not self.ended:
            self.end(f"another node is the home of {self.peer}")
            self._services.lost(self)

    async def _send(self, batch: AppendBatch) -> None:
        """Append the records of the batch so far. Raises `EngineError`."""
        while batch.parts:
            parts = batch.parts[:MOST_RECORDS]
            records = [LaneRecord(part.lane.pair, *part.encode()) for part in parts]
            sequences = await self._engine.append(self.fence, records, self._services.identity())
            for part, sequence in zip(parts, sequences, strict=True):
                part.stored(sequence)
            batch.sent += parts
            del batch.parts[:MOST_RECORDS]
            self.trouble = ""
        batch.size = 0

    def require_room(self, rows: Sequence[Spooled], replaced: Sequence[StanzaPlace]) -> None:
        """Check that there is room for `rows` in place of what they replace.

        Raises `SpoolFull`, or `SpoolBroken` for a stanza that is too large for any record.
        """
        size = _size(rows) - sum(place.bytes for place in replaced)
        if len(rows) > len(replaced) and not self._engine.has_room(self.peer):
            raise SpoolFull(f"the stream of {self.peer} in the engine is nearly full", "disk")
        self._services.room.require(self.peer, len(rows) - len(replaced), size)
        for row in rows:
            if len(row.stanza.data) > RUN_BYTES:
                headers, data = encode_run(LaneTotals(self._serial), [self._services.logged(row)])
                if len(data) + len(str(headers)) + HEADER_BYTES > self._engine.max_record:
                    raise SpoolBroken(f"a stanza of {len(row.stanza.data)} bytes is too large for the engine's max_payload")

    async def add(self, batch: AppendBatch, pair: Pair, rows: Sequence[Spooled]) -> None:
        """Add stanzas of a lane at positions that are free, ascending. Raises `EngineError`."""
        lane = self.lanes.get(pair)
        if lane is None:
            lane = self.lanes[pair] = Lane(pair)
        for stanzas in runs(map(self._services.logged, rows)):
            if batch.sliced and batch.full:
                await self._send(batch)
            self._say_removals(batch, lane)
            before, run = lane.known, lane.add(stanzas)
            batch.put(_Part(lane, self._totals(lane), run, before, stanzas))

    def mark(self, batch: AppendBatch, pair: Pair, positions: Sequence[PositionRange]) -> None:
        """Mark stanzas as written. The log of the lane is known."""
        lane = self.lanes.get(pair)
        if lane is None or lane.log is None:
            return
        self._say_removals(batch, lane)
        before = {mark.run: mark.before for mark in lane.log.mark(positions) if mark.run.written != mark.before}
        for named, said in statements(before, "W"):
            batch.put(_Part(lane, self._totals(lane), marks=[Mark(run, before[run]) for run in named], positions=said))

    def remove(self, batch: AppendBatch, pair: Pair, positions: Sequence[PositionRange]) -> None:
        """Remove stanzas, in memory. The log of the lane is known."""
        lane = self.lanes.get(pair)
        if lane is not None and lane.log is not None:
            lane.log.remove(positions)
            batch.lanes[lane] = None

    def replace(self, batch: AppendBatch, pair: Pair, positions: Iterable[int]) -> None:
        """Remove stanzas in the append of the batch. The log of the lane is known."""
        lane = self.lanes.get(pair)
        if lane is not None and lane.log is not None:
            batch.replaced.append((lane.log, lane.log.remove(ranges(sorted(set(positions))))))
            self._say_removals(batch, lane)

    def _say_removals(self, batch: AppendBatch, lane: Lane) -> None:
        """Put the lane's removals into the batch that no record says yet."""
        if lane.log is not None and lane.log.unlogged:
            new = [run for run in lane.log.unlogged if batch.said.get(run) != run.removed]
            for named, said in statements(new, "R"):
                removed = [Removal(run, run.removed) for run in named]
                batch.said.update(removed)
                batch.put(_Part(lane, self._totals(lane), removed=removed, positions=said))

    def _totals(self, lane: Lane) -> LaneTotals:
        """Return the totals for the next record."""
        self._serial += 1
        return lane.totals(self._serial)

    # --- removals ---

    async def finish(self) -> None:
        """Write all removals. Raises `SpoolError`, `EngineError`."""
        batch = AppendBatch()
        try:
            for lane in [lane for lane in self.lanes.values() if not lane.is_empty]:
                self._say_removals(batch, lane)
                if lane.stale and not lane.unlogged:
                    batch.put(_Part(lane, self._totals(lane)))
                if batch.full:
                    await self._send(batch)
            await self._send(batch)
        except EngineFull:
            for lane in list(batch.lanes):
                _give_up_records(lane)
            if any(lane.unlogged for lane in batch.lanes):
                raise
        finally:
            self._settle(batch.lanes, REMOVE_AGAIN_SECONDS)

    async def _write_removals(self) -> None:
        try:
            await self.finish()
        except Exception as error:  # the calls that wait are performed
            self._broken(error)

    def _settle(self, lanes: Iterable[Lane], seconds: float = REMOVAL_SECONDS) -> None:
        """Count what has changed, and see to what is to be written or deleted."""
        for lane in list(lanes):
            if self.ended or self.lanes.get(lane.pair) is not lane:
                continue
            lane.count(self._services.room, self.peer)
            self._services.loaded.used(lane, self)
            if lane.has_removals and not lane.is_empty:
                self._services.removals(self, seconds)
            if lane.is_empty and not lane.last_sequence:
                self._forget(lane)
            elif lane.is_empty or (lane.log is not None and (lane.log.gone or len(lane.log.idle) >= IDLE_RECORDS)):
                self._unclean[lane] = None
        if self._unclean and not self._cleaning:
            self._cleaning = True
            Deferred.fromCoroutine(self._clean())

    def _forget(self, lane: Lane) -> None:
        """Forget a lane that is not in the engine any more."""
        del self.lanes[lane.pair]
        self._services.loaded.forget(lane)

    async def _clean(self) -> None:
        """Delete the records of which nothing is left."""
        while self._unclean:
            lane = next(iter(self._unclean))
            del self._unclean[lane]
            lane.cleaning = True
            try:
                if lane.is_empty:
                    await self._purge(lane)
                elif lane.log is not None:
                    await self._delete(lane.pair, lane.log)
            except Exception:
                self._services.failures.note(f"records of {lane.pair} could not be deleted")
                self._unclean[lane] = None
                break
            finally:
                lane.cleaning = False
        self._cleaning = False
        if self._unclean:
            self._services.removals(self, REMOVE_AGAIN_SECONDS)

    async def _purge(self, lane: Lane) -> None:
        """Remove all records of an empty lane."""
        up_to = lane.last_sequence
        if await self._engine.purge(lane.pair, self.peer, up_to) and lane.is_empty and lane.last_sequence == up_to:
            if self.lanes.get(lane.pair) is lane:
                self._forget(lane)
        elif lane.log is not None:
            gone = [run for run in lane.log.gone if run.sequence <= up_to]
            lane.log.gone = [run for run in lane.log.gone if run.sequence > up_to]
            lane.log.deleted(gone)
            lane.log.purged(up_to)

    async def _delete(self, pair: Pair, log: LaneLog) -> None:
        """Delete the records of runs that are gone, then those that name only such runs. The last record of the lane stays."""
        last, first = log.last_sequence, log.first_sequence
        gone = [run for run in log.gone if run.sequence < last]
        log.gone = [run for run in log.gone if run.sequence >= last]
        try:
            if sum(run.sequence < first for run in gone) > 1:
                if not await self._engine.purge(pair, self.peer, first - 1):
                    return
                log.purged(first - 1)
            else:
                first = 0
            sequences = [run.sequence for run in gone if run.sequence >= first]
            if sequences and not await self._engine.delete(self.peer, sequences):
                return
        except Exception:  # they are deleted when this is tried again
            log.gone = [*gone, *log.gone]
            raise
        log.deleted(gone)
        last = log.last_sequence
        if len(log.idle) >= IDLE_RECORDS:
            idle = [sequence for sequence in log.idle if sequence < last]
            log.idle = [sequence for sequence in log.idle if sequence >= last]
            if idle:
                await self._engine.delete(self.peer, idle)

    # --- reads ---

    async def load(self, pair: Pair) -> None:
        """Read the log of a lane, if it is not known. Raises `SpoolError`, `EngineError`, `RecordError`."""
        lane = self.lanes.get(pair)
        if lane is not None and lane.log is None:
            lane.log = await self._folded(lane)
            if (lane.log.count, lane.log.bytes) != (lane.known.count, lane.known.bytes):
                lane.stale = True
            self._settle([lane])

    async def _folded(self, lane: Lane) -> LaneLog:
        log = LaneLog()
        if lane.log is None and not lane.known.count:  # what is left of its records may be purged at any time
            log.last_sequence, log.highest = lane.last_sequence, lane.known.highest
        while log.last_sequence < lane.last_sequence:
            stored = await self._engine.read(lane.pair, self.peer, log.last_sequence, lane.last_sequence, READ_BYTES)
            if not stored:
                raise SpoolBroken(f"record {lane.last_sequence} of {lane.pair} is missing in the engine")
            for each in stored:
                log.fold(each)
        if log.count > log.said and lane.disagreements < DISAGREEMENTS:
            lane.disagreements += 1
            raise SpoolBroken(f"the engine shows records of {lane.pair} that were removed")
        lane.disagreements = 0
        return log

    async def read(self, pair: Pair, after: int, at_most: int) -> list[Spooled]:
        """See `Spool.read`. Raises `SpoolError`, `EngineError`, `RecordError`."""
        return await self._contents(pair, partial(LaneLog.select, after=after, at_most=at_most), neighbours=True)

    async def read_each(self, pair: Pair, positions: Sequence[int]) -> list[Spooled]:
        """Read the stanzas at these positions, those that are held. Raises `SpoolError`, `EngineError`, `RecordError`."""
        return await self._contents(pair, partial(LaneLog.places, positions=positions))

    async def stored_at(self, pair: Pair, position: int) -> Spooled | None:
        """Return the stanza at a position. Raises `PositionTaken` if there was one and its record is in use, and as `read`."""
        found = await self.read_each(pair, [position])
        lane = self.lanes.get(pair)
        if not found and lane is not None and lane.log is not None and lane.log.is_used(position):
            raise PositionTaken(f"position {position} of {pair} was used")
        return found[0] if found else None

    async def expired(self, now: int, at_most: int) -> list[tuple[int, Pair, int]]:
        """Return at most so many deadlines that are not after `now`, with pair and position. Raises as `read`."""
        found: list[tuple[int, Pair, int]] = []
        problem: Exception | None = None
        for lane in list(self.lanes.values()):
            if lane.deadline is not None and lane.deadline <= now:
                try:
                    await self.load(lane.pair)
                except (SpoolError, RecordError) as error:  # a lane that cannot be read keeps no other from being looked at
                    problem = error.with_traceback(None)  # its frames have this coroutine, which has the error
                    continue
                late = lane.log.expired(now, at_most) if lane.log is not None else []
                found += [(deadline, lane.pair, position) for deadline, position in late]
        if problem is not None and not found:
            raise problem
        return sorted(found)[:at_most]

    async def _contents(
        self, pair: Pair, select: Callable[[LaneLog], list[StanzaPlace]], neighbours: bool = False,
    ) -> list[Spooled]:
        """Read the selected stanzas of a lane. `neighbours`: they follow each other in the lane."""
        await self.load(pair)
        lane = self.lanes.get(pair)
        if lane is None or lane.log is None:
            return []
        try:
            return await self._fetched(pair, select(lane.log), neighbours)
        except _RecordMissing:
            await self._reload(lane, lane.log)
        try:
            return await self._fetched(pair, select(lane.log), neighbours)
        except _RecordMissing as missing:
            raise SpoolBroken(f"record {missing} of {pair} is missing in the engine") from None

    async def _reload(self, lane: Lane, old: LaneLog) -> None:
        """Read the log of a lane again. Removals that are not in it are still true."""
        log = await self._folded(lane)
        lane.stale = True
        log.remove(old.unlogged_positions())
        lane.log = log
        self._settle([lane])

    async def _fetched(self, pair: Pair, places: Sequence[StanzaPlace], neighbours: bool) -> list[Spooled]:
        """Read the stanzas at these places. Raises `_RecordMissing`."""
        wanted: dict[int, list[StanzaPlace]] = {}
        for place in places:
            wanted.setdefault(place.run.sequence, []).append(place)
        rows: list[Spooled] = []
        for after, up_to in _stretches(list(wanted), neighbours):
            end = after
            while end < up_to:
                stored = await self._engine.read(pair, self.peer, end, up_to, READ_BYTES)
                for each in stored:
                    rows += self._rows(pair, each, wanted.pop(each.sequence, ()))
                end = stored[-1].sequence if stored else up_to
        for sequence in wanted:
            raise _RecordMissing(sequence)
        return sorted(rows, key=attrgetter("position"))

    def _rows(self, pair: Pair, stored: Stored, places: Sequence[StanzaPlace]) -> Iterator[Spooled]:
        """Yield the stanzas of a record at these places."""
        if places:
            stanzas = {each.position: each for each in decode(stored.headers, stored.data).stanzas}
            for place in places:
                yield self._services.spooled(pair, stanzas[place.position], place.run.is_written(place.position))


def _size(rows: Iterable[Spooled]) -> int:
    return sum(len(row.stanza.data) for row in rows)


def _stretches(sequences: Sequence[int], neighbours: bool) -> Iterator[tuple[int, int]]:
    """Yield what `ClusterEngine.read` takes to read these records. `neighbours`: there is little between them."""
    begin = 0
    for index, sequence in enumerate(sequences):
        if index + 1 == len(sequences) or not neighbours or sequences[index + 1] < sequence:
            yield sequences[begin] - 1, sequence
            begin = index + 1


def _give_up_records(lane: Lane) -> None:
    """Let runs of which nothing is left be deleted without a record that says so: the engine has no room for one."""
    log = lane.log
    if log is not None:
        for run in list(log.unlogged):
            if not run.left:
                log.logged(run)
                lane.stale = True
