"""The engine in memory: several nodes on one store. A test sets the faults of each node's way to the store."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import NamedTuple, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from s2sgw.cluster.engine import (
    ASK_SECONDS,
    KEPT_BYTES,
    KEPT_RECORDS,
    ClusterEngine,
    Conflict,
    EngineError,
    EngineFull,
    EngineGone,
    Entry,
    Fence,
    Fenced,
    HomesPage,
    LaneRecord,
    NoReceiver,
    PeerLogs,
    Stored,
    Watch,
)
from s2sgw.xmpp.jid import Domain, Pair

_T = TypeVar("_T")
_Call = Callable[[], None]


class _Record(NamedTuple):
    """A record of a peer: of a lane, or the home record (`pair` is None)."""

    pair: Pair | None
    stored: Stored


@dataclass
class _Content:
    """Everything that is stored. `records`: by peer and sequence, in order."""

    records: dict[Domain, dict[int, _Record]] = field(default_factory=dict)
    table: dict[str, Entry] = field(default_factory=dict)

    def copy(self) -> _Content:
        return _Content({peer: dict(records) for peer, records in self.records.items()}, dict(self.table))

    def of(self, peer: Domain, pair: Pair | None) -> list[Stored]:
        return [record.stored for record in self.records.get(peer, {}).values() if record.pair == pair]

    def home(self, peer: Domain) -> Stored | None:
        homes = self.of(peer, None)
        return homes[-1] if homes else None

    def lanes(self, peer: Domain) -> dict[Pair, Stored]:
        records = self.records.get(peer, {}).values()
        return {record.pair: record.stored._replace(data=b"") for record in records if record.pair is not None}


class MemoryStore:
    """The store that the engines of several nodes share. `now` is its clock, in seconds.

    `full`: it has no room. `nearly_full`: it has none for stanzas. `missing`: the streams that it has lost.
    """

    def __init__(self, now: Callable[[], float] = lambda: 0.0) -> None:
        self._now = now
        self._written: dict[int, float] = {}
        self.full = self.nearly_full = False
        self.missing: list[str] = []
        self.content = _Content()
        self.kept: deque[Stored] = deque()
        self.engines: list[MemoryEngine] = []
        self._sequences = count(1)
        self._done: dict[tuple[Domain, str], list[int]] = {}

    def append(self, fence: Fence, records: Sequence[LaneRecord], identity: str) -> list[int]:
        done = self._done.get((fence.peer, identity))
        if done is not None:
            return done
        home = self.content.home(fence.peer)
        if home is None or home.sequence != fence.sequence:
            raise Fenced(f"the home record of {fence.peer} is not {fence.sequence}")
        self._require_room()
        sequences = [self._add(fence.peer, record.pair, record.headers, record.data) for record in records]
        self._done[fence.peer, identity] = sequences
        return sequences

    def claim(self, peer: Domain, data: bytes, expected: int) -> tuple[Fence, PeerLogs]:
        home = self.content.home(peer)
        found = home.sequence if home is not None else 0
        if found != expected:
            raise Conflict(f"the home record of {peer} is {found}, not {expected}")
        self._require_room()
        sequence = self._add(peer, None, {}, data)
        if home is not None:
            self.delete(peer, [home.sequence])
        return Fence(peer, sequence), PeerLogs(self.content.home(peer), self.content.lanes(peer))

    def _require_room(self) -> None:
        if self.full:
            raise EngineFull("the engine is full")

    def _add(self, peer: Domain, pair: Pair | None, headers: Mapping[str, str], data: bytes) -> int:
        sequence = next(self._sequences)
        self._written[sequence] = self._now()
        self.content.records.setdefault(peer, {})[sequence] = _Record(pair, Stored(sequence, dict(headers), data))
        return sequence

    def delete(self, peer: Domain, sequences: Iterable[int]) -> None:
        records = self.content.records.get(peer, {})
        for sequence in sequences:
            records.pop(sequence, None)
        if not records:
            self.content.records.pop(peer, None)

    def old_homes(self, after: int, age: float) -> HomesPage:
        """Return a page of two records."""
        homes = [(peer, home) for peer in self.content.records if (home := self.content.home(peer)) is not None]
        old = sorted(
            (each for each in homes if each[1].sequence > after and self._now() - self._written[each[1].sequence] >= age),
            key=lambda each: each[1].sequence,
        )
        return HomesPage(old[:2], old[1][1].sequence if len(old) > 2 else 0)

    def purge(self, pair: Pair, peer: Domain, up_to: int) -> None:
        self.delete(peer, [stored.sequence for stored in self.content.of(peer, pair) if stored.sequence <= up_to])

    def keep(self, data: bytes) -> None:
        self._require_room()
        self.kept.append(Stored(next(self._sequences), {}, data))
        while len(self.kept) > KEPT_RECORDS or sum(len(stored.data) for stored in self.kept) > KEPT_BYTES:
            self.kept.popleft()

    def put(self, key: str, data: bytes | None, expected: int | None) -> int:
        entry = self.content.table.get(key)
        found = entry.sequence if entry is not None else 0
        if expected not in (None, found):
            raise Conflict(f"the sequence of {key} is {found}, not {expected}")
        self._require_room()
        self.content.table[key] = Entry(key, next(self._sequences), data)
        for engine in list(self.engines):
            engine.tell_watches()
        return self.content.table[key].sequence

    def pulse(self, data: bytes) -> None:
        for engine in list(self.engines):
            engine.hear(data)

    def answers(self, node: str) -> Callable[[bytes], Awaitable[bytes]] | None:
        """Return what answers the questions to `node`, if it can be reached."""
        found = [engine.answers[node] for engine in self.engines if node in engine.answers and engine.reachable]
        return found[0] if found else None


class _MemoryWatch(Watch):
    """`told`: the sequence of each value when it was told."""

    def __init__(
        self, prefix: str, changed: Callable[[Entry], None], stop: Callable[[_MemoryWatch], None],
        current: Callable[[], Awaitable[None]],
    ) -> None:
        self.prefix = prefix
        self.changed = changed
        self.told: dict[str, int] = {}
        self._stop = stop
        self._current = current

    async def current(self) -> None:
        await self._current()

    def stop(self) -> None:
        self._stop(self)


class _Waiting(NamedTuple):
    """A call that waits. `perform` has its effect and gives its answer; `fail` gives an error instead."""

    perform: _Call
    fail: Callable[[EngineError], None]
    write: bool


class MemoryEngine(ClusterEngine):
    """The engine of one node. `deliver(call)` gives an answer: at once, or as the test says.

    The faults last until `go_on`. They are of this node alone; `MemoryStore.full` is of all.
    """

    max_record = 1 << 20

    def __init__(self, store: MemoryStore, deliver: Callable[[_Call], None] = lambda call: call()) -> None:
        self.answers: dict[str, Callable[[bytes], Awaitable[bytes]]] = {}
        self._store = store
        self._deliver = deliver
        self._waiting: list[_Waiting] = []
        self._late: list[tuple[_Call, Callable[[EngineError], None], bool]] = []
        self._watches: list[_MemoryWatch] = []
        self._heard: list[Callable[[bytes], None]] = []
        self._held = self._cut = self._answers_lost = self._closed = False
        self._refusal: EngineError | None = None
        self._replica: _Content | None = None
        store.engines.append(self)

    # --- faults ---

    def hold(self) -> None:
        """Let calls wait without effect: the engine elects a leader, or is slow."""
        self._held = True

    def cut(self) -> None:
        """Let writes wait without effect, questions fail and pulses be lost: this node is cut off from the engine."""
        self._cut = True

    def lose_answers(self) -> None:
        """Let calls have their effect, and their answers wait."""
        self._answers_lost = True

    def refuse(self, error: EngineError) -> None:
        """Let every call fail with `error`, without effect."""
        self._refusal = error

    def fall_behind(self) -> None:
        """Let the replica that this node reads from stand still: `home`, `entries`, `held_peers` and watches are out of date."""
        self._replica = self._store.content.copy()

    def go_on(self) -> None:
        """End all faults. The calls that waited have their effect in the order in which they were made."""
        self._held = self._cut = self._answers_lost = False
        self._refusal = self._replica = None
        late, self._late = self._late, []
        for answer, _, _ in late:
            self._deliver(answer)
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call.perform()
        self.tell_watches()

    @property
    def reachable(self) -> bool:
        return not (self._cut or self._closed)

    # --- the engine ---

    @property
    def stalled(self) -> bool:
        return any(call.write for call in self._waiting) or any(write for _, _, write in self._late)

    def has_room(self, peer: Domain) -> bool:
        return not self._store.nearly_full

    async def append(self, fence: Fence, records: Sequence[LaneRecord], identity: str) -> Sequence[int]:
        return await self._call(partial(self._store.append, fence, list(records), identity), write=True)

    async def home(self, peer: Domain) -> Stored | None:
        return await self._call(lambda: self._content.home(peer))

    async def claim(self, peer: Domain, data: bytes, expected: int) -> tuple[Fence, PeerLogs]:
        return await self._call(partial(self._store.claim, peer, data, expected), write=True)

    async def read(self, pair: Pair, peer: Domain, after: int, up_to: int, at_most: int) -> Sequence[Stored]:
        return await self._call(lambda: _first([
            stored for stored in self._store.content.of(peer, pair) if after < stored.sequence <= up_to
        ], at_most))  # fmt: skip

    def delete(self, peer: Domain, sequences: Sequence[int]) -> Deferred[bool]:
        return self._remove(partial(self._store.delete, peer, list(sequences)))

    def purge(self, pair: Pair, peer: Domain, up_to: int) -> Deferred[bool]:
        return self._remove(partial(self._store.purge, pair, peer, up_to))

    async def keep(self, peer: Domain, data: bytes) -> None:
        await self._call(partial(self._store.keep, data), write=True)

    async def kept(self, at_most: int) -> Sequence[Stored]:
        return await self._call(lambda: list(self._store.kept)[-at_most:] if at_most else [])

    async def held_peers(self) -> Mapping[Domain, int]:
        return await self._call(lambda: {peer: len(records) for peer, records in self._content.records.items()})

    parts = 1

    async def old_homes(self, part: int, after: int, age: float) -> HomesPage:
        return await self._call(partial(self._store.old_homes, after, age))

    async def get(self, key: str) -> Entry | None:
        return await self._call(lambda: self._store.content.table.get(key))

    async def missing(self) -> Sequence[str]:
        """See `s2sgw.cluster.lost_store.StreamStore`."""
        return await self._call(lambda: list(self._store.missing))

    async def put(self, key: str, data: bytes | None, expected: int | None) -> int:
        return await self._call(partial(self._store.put, key, data, expected), write=True)

    async def entries(self, prefix: str) -> Sequence[Entry]:
        return await self._call(lambda: [entry for key, entry in sorted(self._content.table.items()) if _below(key, prefix)])

    def watch(self, prefix: str, changed: Callable[[Entry], None]) -> Watch:
        watch = _MemoryWatch(prefix, changed, self._stop_watch, self._current)
        self._watches.append(watch)
        self.tell_watches()
        return watch

    def _stop_watch(self, watch: _MemoryWatch) -> None:
        if watch in self._watches:
            self._watches.remove(watch)

    async def _current(self) -> None:
        await self._call(partial(self.tell_watches, late=True))

    def pulse(self, data: bytes) -> None:
        if self.reachable and not self._held:
            self._store.pulse(data)

    def on_pulse(self, heard: Callable[[bytes], None]) -> None:
        self._heard.append(heard)

    async def ask(self, node: str, question: bytes, seconds: float = ASK_SECONDS) -> bytes:
        answers = await self._call(partial(self._store.answers, node))
        if answers is None:
            raise NoReceiver(f"{node} does not answer")
        answered: Deferred[bytes] = Deferred()
        Deferred.fromCoroutine(_made(answers, question)).addBoth(_given, answered)  # it goes on when the call is cancelled
        try:
            return await answered
        except CancelledError:
            raise
        except Exception as error:
            raise EngineGone(f"{node} does not answer") from error

    def answer(self, node: str, answers: Callable[[bytes], Awaitable[bytes]]) -> None:
        self.answers[node] = answers

    async def close(self) -> None:
        self._closed = True
        self._watches.clear()
        if self in self._store.engines:
            self._store.engines.remove(self)
        waiting, late = self._waiting, self._late
        self._waiting, self._late = [], []
        for fail in [*(fail for _, fail, _ in late), *(call.fail for call in waiting)]:
            fail(EngineGone("the engine was closed"))

    # --- what the store tells ---

    def hear(self, data: bytes) -> None:
        """Take a pulse of any node."""
        if self.reachable and not self._held:
            for heard in self._heard:
                self._deliver(partial(heard, data))

    def tell_watches(self, late: bool = False) -> None:
        """Tell each watch the values that it was not told. `late`: also those that the replica of this node has not yet."""
        if self._held or not self.reachable:
            return
        content = self._store.content if late else self._content
        for watch in list(self._watches):
            for key, entry in sorted(content.table.items()):
                if _below(key, watch.prefix) and watch.told.get(key, 0) < entry.sequence:
                    watch.told[key] = entry.sequence
                    self._deliver(partial(self._tell_watch, watch, entry))

    def _tell_watch(self, watch: _MemoryWatch, entry: Entry) -> None:
        if watch in self._watches:
            watch.changed(entry)

    # --- calls ---

    @property
    def _content(self) -> _Content:
        return self._store.content if self._replica is None else self._replica

    def _call(self, effect: Callable[[], _T], write: bool = False) -> Deferred[_T]:
        answer: Deferred[_T] = Deferred()

        def give(result: _T | Failure) -> None:
            if not answer.called:
                answer.callback(result)

        def fail(error: EngineError) -> None:
            self._deliver(partial(give, Failure(error)))

        def perform() -> None:
            try:
                result: _T | Failure = effect()
            except EngineError as error:
                result = Failure(error)
            if self._answers_lost:
                self._late.append((partial(give, result), fail, write))
            else:
                self._deliver(partial(give, result))

        self._enter(_Waiting(perform, fail, write))
        return answer

    def _enter(self, call: _Waiting) -> None:
        if self._closed:
            call.fail(EngineGone("the engine was closed"))
        elif self._refusal is not None:
            call.fail(self._refusal)
        elif self._held or (self._cut and call.write):
            self._waiting.append(call)
        elif self._cut:
            call.fail(EngineGone("the engine does not answer"))
        else:
            call.perform()

    def _remove(self, effect: _Call) -> Deferred[bool]:
        """Remove something. It is not refused, and not lost while the node is cut off."""
        done: Deferred[bool] = Deferred()

        def perform() -> None:
            effect()
            self._deliver(partial(done.callback, True))

        def fail(error: EngineError) -> None:
            self._deliver(partial(done.callback, False))

        if self._closed:
            fail(EngineGone("the engine was closed"))
        elif self._held or self._cut:
            self._waiting.append(_Waiting(perform, fail, False))
        else:
            perform()
        return done


async def _made(answers: Callable[[bytes], Awaitable[bytes]], question: bytes) -> bytes:
    return await answers(question)


def _given(answer: bytes | Failure, answered: Deferred[bytes]) -> None:
    if not answered.called:
        answered.callback(answer)


def _first(records: Sequence[Stored], at_most: int) -> list[Stored]:
    found: list[Stored] = []
    size = 0
    for stored in records:
        if found and size >= at_most:
            break
        found.append(stored)
        size += len(stored.data)
    return found


def _below(key: str, prefix: str) -> bool:
    return not prefix or key.startswith(f"{prefix}.")
