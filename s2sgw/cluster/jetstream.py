"""The engine on NATS JetStream (docs/cluster.md): fenced appends, claims, reads, the shared table, pulses and questions.

A record of a lane, and the home record of its peer, are in one stream. The server refuses a record unless the home record is the
one of its fence. Reads come from any replica. Where they must not be out of date, an answer that lacks what is known to exist is
asked for again.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from itertools import count
from math import inf
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.python.failure import Failure

from s2sgw.cluster.append_queue import AppendQueue, Call
from s2sgw.cluster.current_reads import lane_records, last_records, newest_records
from s2sgw.cluster.engine import (
    ASK_SECONDS,
    KEPT_BYTES,
    ClusterEngine,
    Conflict,
    EngineError,
    EngineGone,
    EngineUnfit,
    Entry,
    Fence,
    HomesPage,
    LaneRecord,
    NoReceiver,
    PeerLogs,
    Stored,
    Watch,
)
from s2sgw.cluster.failures import Failures
from s2sgw.cluster.fenced_writes import FencedWrites, new_id
from s2sgw.cluster.jetstream_api import ANSWER_SECONDS, ID, WRONG_SEQUENCE, Found, JetStreamAPI, Record, RequestRefused, expecting
from s2sgw.cluster.nats_connection import Login, NATSConnection
from s2sgw.cluster.removals import Removals, let_go
from s2sgw.cluster.requests import Message, NoResponders, Unanswered
from s2sgw.cluster.stream_room import StreamRoom
from s2sgw.cluster.stream_setup import REPLICAS, check_server, check_stream, needs_update, room_words, wanted_streams
from s2sgw.cluster.subjects import (
    BOOK_STREAM,
    KEPT_SUBJECTS,
    NODES_STREAM,
    PEN_STREAM,
    PULSES,
    SPOOL_STREAMS,
    home_subject,
    homes_subjects,
    kept_subject,
    key_of,
    key_stream,
    key_subject,
    lane_subject,
    pair_of,
    peer_of,
    peer_subjects,
    question_subject,
    shard_subjects,
    spool_stream,
    subjects_below,
    table_subjects,
)
from s2sgw.cluster.table_watch import TableWatch
from s2sgw.xmpp.bounded_dict import BoundedDict
from s2sgw.xmpp.jid import Domain, Pair

#: Bytes of a message that are not of the record: the id, the fence, the subject of the home record, and its own headers.
_OVERHEAD = 6 * 1024
HEADER_BYTES = 4 * 1024
#: Records of one call.
_CALL_RECORDS = 500
#: Appends to one stream that wait for an answer at a time: a stream without a leader holds up no other.
_APPENDS = 64
#: Seconds for which a write may be unanswered before the engine counts as stalled.
_STALL_SECONDS = 1.0
#: Seconds that a close waits for removals.
_REMOVAL_SECONDS = 2.0
#: Seconds that the servers have to make a stream, before they are asked again.
_CHANGE_SECONDS = 5.0
#: Seconds after which a stream that may have no leader is asked again.
_LEADER_SECONDS = 1.0
#: Seconds after which the record of a node is sent again. Heartbeats, and the words that a node is dead, wait for a new leader.
_NODE_SECONDS = 0.2
#: Nanoseconds since the last contact of a leader with another copy of its stream, below which this copy counts.
_CONTACT = 3_000_000_000
#: Seconds after which a cluster of servers that is not complete is asked again.
_STARTING = 0.5
#: Peers whose last sequence is remembered.
_REMEMBERED = 100_000
#: Subjects that are read without a pause.
_SLICE = 500
#: Bytes of home records that are read at once.
_HOMES_BYTES = 64 * 1024

_HEADER = "S2S-"
_HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*\Z")
_HEADER_VALUE = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?\Z")
_IDENTITY = re.compile(r"[!-~]{1,200}\Z")
#: The header of a record that is read, in which the server tells when it was stored.
_WRITTEN_AT = "Nats-Time-Stamp"
_REMOVED = {"Removed": "1"}
_FAILED = {"Failed": "1"}
_NOT_CLUSTERED, _NO_PEERS, _NO_STREAM, _OTHER_CONFIG = 10074, 10005, 10059, 10058
#: The servers, or the limits of the account, have no room for a stream.
_NO_ROOM = {10002, 10023, 10028, 10047}

_T = TypeVar("_T")


class JetStreamEngine(ClusterEngine):
    """The engine of one node, on the asyncio loop of the reactor.

    `servers`: URLs ("nats://192.0.2.21:4222"), of the three servers, or of one that runs alone. `record_bytes`: the largest
    record that must fit. `shard_bytes`: the most that each of the streams of the spool may hold; it is reserved on the disk.
    """

    def __init__(
        self,
        servers: Sequence[str],
        loop: asyncio.AbstractEventLoop,
        *,
        record_bytes: int,
        shard_bytes: int,
        tls: ssl.SSLContext | None = None,
        login: Login | None = None,
    ) -> None:
        self._loop = loop
        self._alone = len(servers) == 1
        self._record_bytes = record_bytes
        self._wanted = wanted_streams(REPLICAS, shard_bytes)
        self._connection = NATSConnection(servers, tls, loop, self._check_server, login)
        self._api = JetStreamAPI(self._connection, loop.time)
        self._queues: dict[Domain, AppendQueue] = {}
        self._slots: dict[str, asyncio.Semaphore] = defaultdict(partial(asyncio.Semaphore, _APPENDS))
        self._last: BoundedDict[Domain, int] = BoundedDict(_REMEMBERED)
        self.failures = Failures()
        self._removals = Removals(self._connection.start, self.failures)
        self._room = StreamRoom(self._api, loop.time, self._connection.start)
        self._fenced = FencedWrites(self._api, self._remove_later)
        self._watches: list[TableWatch] = []
        self._hinting = False
        self._writes: dict[int, float] = {}
        self._numbers = count(1)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    # --- the start and the end ---

    async def open(self, seconds: float) -> None:
        """Connect, check the streams that are there, and make those that are missing. No stream is changed.

        Errors: `EngineUnfit`; `EngineGone` after `seconds`.
        """
        await self._call(self._open(seconds))

    async def _open(self, seconds: float) -> None:
        self._connection.open()
        end = self._loop.time() + seconds
        while not self._connection.connected:
            try:
                await self._connection.wait_up(_STARTING)
            except Unanswered as error:
                if self._connection.unfit or self._loop.time() > end:
                    raise (self._connection.unfit or EngineGone(str(error))) from None
        missing = [wanted for wanted in self._wanted if await self._found(wanted, end - self._loop.time()) is None]
        for wanted in missing:
            await self._make_stream(wanted, end - self._loop.time())

    async def enlarge(self, seconds: float) -> None:
        """Make the streams as large as they must be. Errors: `EngineUnfit`; `EngineGone` after `seconds`."""
        await self._call(self._enlarge(seconds))

    async def _enlarge(self, seconds: float) -> None:
        end = self._loop.time() + seconds
        for wanted in self._wanted:
            found = await self._found(wanted, end - self._loop.time())
            if found is None or not needs_update(wanted, found):
                continue
            name, room = wanted["name"], max(found["max_bytes"], wanted["max_bytes"])
            changed = {**found, "max_bytes": room, "duplicate_window": wanted["duplicate_window"]}
            try:
                await self._change(f"STREAM.UPDATE.{name}", changed, end - self._loop.time())
            except RequestRefused as error:
                why = f"the engine's stream {name} cannot be made as large as it must be: {error}"
                raise EngineUnfit(why + self._room_needed(wanted, error)) from error

    def _check_server(self, version: tuple[int, int], max_payload: int) -> None:
        check_server(version, max_payload, self._record_bytes + _OVERHEAD)

    async def _found(self, wanted: Mapping[str, Any], seconds: float) -> Mapping[str, Any] | None:
        """Return the configuration of a stream that can serve; None if there is none. Raises `EngineUnfit`."""
        name, tell = wanted["name"], self._connection.tell
        try:
            found = await self._api.question(self._api.call, f"STREAM.INFO.{name}", {}, seconds=seconds, failed=tell)
        except RequestRefused as error:
            if error.code != _NO_STREAM:
                raise EngineUnfit(f"the engine's stream {name} cannot be read: {error}") from error
            return None
        return self._checked(wanted, found)

    async def _make_stream(self, wanted: Mapping[str, Any], seconds: float) -> None:
        """Make a stream. Another node may make it meanwhile. Raises `EngineUnfit`.

        Its sequences begin with the time, so that they are not those of a former stream of this name. What nodes, or late copies
        of writes, still know of a lost store fits nothing in the new one.
        """
        try:
            found = await self._create({**wanted, "first_seq": time.time_ns() // 1_000_000}, seconds)
        except RequestRefused as error:
            room = self._room_needed(wanted, error)
            if error.code in (_NOT_CLUSTERED, _NO_PEERS) and not room:
                why = f"the engine must be {REPLICAS} servers in one cluster, all with JetStream: {error}"
                raise EngineUnfit(why) from error
            raise EngineUnfit(f"the engine's stream {wanted['name']} cannot be made: {error}{room}") from error
        self._checked(wanted, found)

    async def missing(self) -> Sequence[str]:
        """Return the streams that the engine does not have, by the word of the server that decides. Errors: `EngineError`."""
        return await self._call(self._missing())

    async def _missing(self) -> Sequence[str]:
        names = [wanted["name"] for wanted in self._wanted]
        questions = [self._api.question(self._api.call, f"STREAM.INFO.{name}", {}, seconds=ANSWER_SECONDS) for name in names]
        answers = await asyncio.gather(*questions, return_exceptions=True)
        missing = [name for name, answer in zip(names, answers, strict=True) if _is_no_stream(answer)]
        for answer in answers:
            if isinstance(answer, BaseException) and not missing:
                raise answer
        return missing

    async def elected(self, seconds: float) -> bool:
        """Wait until each stream that a new home of a peer needs has a leader, for so long; return whether it has.

        A leader without contact to most copies of its stream can write nothing, and does not count.
        """
        return await self._call(self._elected(seconds))

    async def _elected(self, seconds: float) -> bool:
        ask, names = self._api.question, (*SPOOL_STREAMS, BOOK_STREAM)
        answers = await asyncio.gather(*(ask(self._led, name, seconds=seconds) for name in names), return_exceptions=True)
        return not any(isinstance(answer, BaseException) for answer in answers)

    async def _led(self, name: str) -> None:
        """Ask a stream, once, whether it has a leader. Errors: `Unanswered`, `RequestRefused`."""
        found = await self._api.call(f"STREAM.INFO.{name}", {}, _LEADER_SECONDS)
        others = (found.get("cluster") or {}).get("replicas") or []
        reached = 1 + sum(_is_reached(each) for each in others)
        if 2 * reached <= 1 + len(others):
            raise Unanswered(f"the leader of {name} has no majority")

    def _checked(self, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Mapping[str, Any]:
        wanted = {**wanted, "num_replicas": 1 if self._alone else REPLICAS}
        config: Mapping[str, Any] = found["config"]
        check_stream(wanted, config, bool(found.get("cluster", {}).get("name")))
        return config

    def _room_needed(self, wanted: Mapping[str, Any], error: RequestRefused) -> str:
        """Return words for an operator, if the servers have no room for a stream."""
        return f": {room_words(wanted, self._wanted)}" if error.code in _NO_ROOM or "insufficient storage" in str(error) else ""

    async def _create(self, wanted: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Make a stream, once there are servers for its copies: they may still be starting."""
        end = self._loop.time() + seconds
        while True:
            try:
                return await self._change(f"STREAM.CREATE.{wanted['name']}", wanted, seconds)
            except RequestRefused as error:
                if error.code == _OTHER_CONFIG:
                    made = await self._made_meanwhile(wanted["name"], end)
                    if made is not None:
                        return made
                    continue
                if error.code == _NOT_CLUSTERED and self._alone and wanted["num_replicas"] > 1:
                    return await self._create({**wanted, "num_replicas": 1}, seconds)
                if error.code != _NO_PEERS or self._loop.time() > end:
                    raise
                self._connection.tell(f"{error}{self._room_needed(wanted, error)}")
            await asyncio.sleep(_STARTING)

    async def _made_meanwhile(self, name: str, end: float) -> dict[str, Any] | None:
        """Return a stream that another node makes. It is not there at once. None: it is not there after a while."""
        try:
            return await self._change(f"STREAM.INFO.{name}", {}, max(end - self._loop.time(), 0.0))
        except RequestRefused as error:
            if error.code != _NO_STREAM or self._loop.time() > end:
                raise
        await asyncio.sleep(_STARTING)
        return None

    async def _change(self, name: str, content: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Ask for a change that may be asked for again. A cluster that starts drops requests until it has a leader."""
        call = self._api.call
        answer: dict[str, Any] = await self._api.question(
            call, name, content, _CHANGE_SECONDS, seconds=seconds, failed=self._connection.tell,
        )
        return answer

    async def close(self) -> None:
        """Wait a little for removals, then end all calls, with `EngineGone`, and the connection."""
        if self._closed:
            return
        self._closed = True
        calls = set(self._tasks)
        await self._deferred(self._close(calls))

    async def _close(self, calls: Iterable[asyncio.Task[Any]]) -> None:
        if self._connection.connected:
            await self._removals.wait(_REMOVAL_SECONDS)
        for task in calls:
            task.cancel()
        await self._connection.close()
        self._removals.give_up()
        await asyncio.wait([*calls, self._loop.create_task(asyncio.sleep(0))])

    # --- calls ---

    def _deferred(self, coroutine: Coroutine[Any, Any, _T]) -> Deferred[_T]:
        """Run a coroutine of asyncio; return its result to coroutines of Twisted."""
        answer: Deferred[_T] = Deferred(let_go)
        task = self._loop.create_task(coroutine)

        def done(task: asyncio.Task[_T]) -> None:
            self._tasks.discard(task)
            error = EngineGone("the engine was closed") if task.cancelled() else task.exception()
            if not answer.called:
                answer.callback(task.result() if error is None else Failure(error))

        self._tasks.add(task)
        task.add_done_callback(done)
        return answer

    def _call(self, coroutine: Coroutine[Any, Any, _T]) -> Deferred[_T]:
        if self._closed:
            coroutine.close()
            raise EngineGone("the engine was closed")
        return self._deferred(_within_engine(coroutine))

    @contextmanager
    def _write(self) -> Iterator[None]:
        """Note a write that waits for its answer."""
        number = next(self._numbers)
        self._writes[number] = self._loop.time()
        try:
            yield
        finally:
            del self._writes[number]

    @property
    def connected(self) -> bool:
        """Return whether there is a connection to a server now."""
        return self._connection.connected

    @property
    def problem(self) -> str:
        """Return why there is no connection, or was none."""
        return self._connection.problem

    @property
    def stalled(self) -> bool:
        oldest = next(iter(self._writes.values()), None)
        return oldest is not None and self._loop.time() - oldest > _STALL_SECONDS

    @property
    def max_record(self) -> int:
        return max(self._record_bytes, self._connection.max_payload - _OVERHEAD)

    # --- records ---

    def has_room(self, peer: Domain) -> bool:
        return self._closed or self._room.has_room(spool_stream(peer))

    async def append(self, fence: Fence, records: Sequence[LaneRecord], identity: str) -> Sequence[int]:
        if len(records) > _CALL_RECORDS:
            raise EngineError(f"{len(records)} records in one call, at most {_CALL_RECORDS}")
        if not _IDENTITY.match(identity):
            raise ValueError(f"{identity!r} is no identity of a call")
        made = [
            self._record(fence.peer, record, {ID: f"{fence.peer.ascii} {identity} {number}"})
            for number, record in enumerate(records)
        ]
        if self._closed:
            raise EngineGone("the engine was closed")
        answer: Deferred[Sequence[int]] = Deferred(let_go)
        queue = self._queues.get(fence.peer)
        if queue is None:
            queue = self._queues[fence.peer] = AppendQueue(self._append)
            self._connection.start(self._run_queue(fence.peer, queue))
        queue.add(Call(fence, made, identity, answer))
        with self._write():
            return await answer

    def _record(self, peer: Domain, record: LaneRecord, headers: Mapping[str, str]) -> Record:
        for name, value in record.headers.items():
            if not _HEADER_NAME.match(name) or not _HEADER_VALUE.match(value):
                raise ValueError(f"the header {name!r} with {value!r} cannot be written")
        size = sum(len(name) + len(value) + 8 for name, value in record.headers.items())
        if size > HEADER_BYTES or size + len(record.data) > self.max_record:
            raise EngineError(f"a record of {size + len(record.data)} bytes, with {size} of headers, is too large for the engine")
        own = {f"{_HEADER}{name}": value for name, value in record.headers.items()}
        return Record(lane_subject(record.pair, peer), {**own, **headers}, record.data)

    async def _run_queue(self, peer: Domain, queue: AppendQueue) -> None:
        try:
            while queue.waits:
                await queue.run()
                async with self._slots[spool_stream(peer)]:
                    await self._fenced.settle(peer)
        finally:
            del self._queues[peer]
            queue.give_up(EngineGone("the engine was closed"))

    async def _append(self, fence: Fence, records: Sequence[Record], identity: str) -> Sequence[int]:
        after = max(self._last.get(fence.peer, 0), fence.sequence)
        async with self._slots[spool_stream(fence.peer)]:
            sequences = await self._fenced.append(fence, records, after)
        self._last[fence.peer] = max(after, *sequences)
        return sequences

    async def home(self, peer: Domain) -> Stored | None:
        return await self._call(self._home(peer))

    async def _home(self, peer: Domain) -> Stored | None:
        found = await self._api.last_of(spool_stream(peer), home_subject(peer))
        return _stored(found[-1]) if found else None

    async def claim(self, peer: Domain, data: bytes, expected: int) -> tuple[Fence, PeerLogs]:
        with self._write():
            return await self._call(self._claim(peer, data, expected))

    async def _claim(self, peer: Domain, data: bytes, expected: int) -> tuple[Fence, PeerLogs]:
        subject, stream = home_subject(peer), spool_stream(peer)
        with _conflicts(subject):
            sequence = await self._fenced.claim(peer, data, expected)
        found = await last_records(self._api, stream, peer_subjects(peer), subject, sequence)
        if found[subject].sequence != sequence:
            raise Conflict(f"{peer} was claimed by another node meanwhile")
        pairs = ((pair_of(each.subject), each) for each in found.values())
        lanes = {pair: _stored(each) for pair, each in pairs if pair is not None}
        return Fence(peer, sequence), PeerLogs(Stored(sequence, {}, data), lanes)

    async def read(self, pair: Pair, peer: Domain, after: int, up_to: int, at_most: int) -> Sequence[Stored]:
        return await self._call(self._read(spool_stream(peer), lane_subject(pair, peer), after, up_to, at_most))

    async def _read(self, stream: str, subject: str, after: int, up_to: int, at_most: int) -> Sequence[Stored]:
        return list(map(_stored, await lane_records(self._api, stream, subject, after, up_to, at_most)))

    # --- removal ---

    def delete(self, peer: Domain, sequences: Sequence[int]) -> Deferred[bool]:
        return self._remove([partial(self._api.delete, spool_stream(peer), sequence) for sequence in sequences])

    def purge(self, pair: Pair, peer: Domain, up_to: int) -> Deferred[bool]:
        return self._remove([partial(self._api.purge, spool_stream(peer), lane_subject(pair, peer), up_to)])

    def _remove_later(self, stream: str, sequence: int) -> None:
        self._removals.add(partial(self._api.delete, stream, sequence))

    def _remove(self, removals: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> Deferred[bool]:
        if self._closed:
            return succeed(False)
        return gatherResults(list(map(self._removals.add, removals))).addCallback(all)

    async def held_peers(self) -> Mapping[Domain, int]:
        return await self._call(self._held_peers())

    async def _held_peers(self) -> Mapping[Domain, int]:
        held: dict[Domain, int] = {}
        for shard, stream in enumerate(SPOOL_STREAMS):
            subjects = (await self._api.info(stream, shard_subjects(shard)))["state"]["subjects"]
            for number, (subject, records) in enumerate(subjects.items(), 1):
                peer = peer_of(subject)
                if peer is not None:
                    held[peer] = held.get(peer, 0) + records
                if not number % _SLICE:
                    await asyncio.sleep(0)
        return held

    @property
    def parts(self) -> int:
        return len(SPOOL_STREAMS)

    async def old_homes(self, part: int, after: int, age: float) -> HomesPage:
        return await self._call(self._old_homes(part, after, age))

    async def _old_homes(self, part: int, after: int, age: float) -> HomesPage:
        """Read a page. The sequences of a stream ascend with the time, so that the first young record is the end."""
        page = await self._api.next_page(SPOOL_STREAMS[part], homes_subjects(part), after, _HOMES_BYTES)
        if not page.records:
            return HomesPage([], 0)
        now = _time((await self._api.info(SPOOL_STREAMS[part]))["ts"])
        old = [found for found in page.records if now - _time(found.headers[_WRITTEN_AT]) >= age]
        more = page.more and len(old) == len(page.records)
        named = ((peer_of(found.subject), _stored(found)) for found in old)
        homes = [(peer, stored) for peer, stored in named if peer is not None]
        return HomesPage(homes, page.records[-1].sequence if more else 0)

    # --- what is kept for inspection ---

    async def keep(self, peer: Domain, data: bytes) -> None:
        with self._write():
            await self._call(self._keep(Record(kept_subject(peer), {ID: new_id()}, data)))

    async def _keep(self, record: Record) -> None:
        async with self._slots[PEN_STREAM]:
            await self._api.store(PEN_STREAM, [record], 0)

    async def kept(self, at_most: int) -> Sequence[Stored]:
        return await self._call(self._kept(at_most))

    async def _kept(self, at_most: int) -> Sequence[Stored]:
        found = await newest_records(self._api, PEN_STREAM, KEPT_SUBJECTS, at_most, KEPT_BYTES) if at_most else []
        return list(map(_stored, found))

    # --- the table ---

    async def get(self, key: str) -> Entry | None:
        return await self._call(self._get(key))

    async def _get(self, key: str) -> Entry | None:
        found = await self._api.leader_last(key_stream(key), key_subject(key))
        return _entry(found) if found is not None else None

    async def put(self, key: str, data: bytes | None, expected: int | None) -> int:
        subject = key_subject(key)
        headers = {ID: new_id(), **(_REMOVED if data is None else {})}
        if expected is not None:
            headers.update(expecting(subject, expected))
        with self._write():
            return await self._call(self._put(key_stream(key), Record(subject, headers, data or b"")))

    async def _put(self, stream: str, record: Record) -> int:
        with _conflicts(record.subject):
            return (await self._api.store(stream, [record], 0, again=_NODE_SECONDS if stream == NODES_STREAM else inf))[0]

    async def entries(self, prefix: str) -> Sequence[Entry]:
        return await self._call(self._entries(prefix))

    async def _entries(self, prefix: str) -> Sequence[Entry]:
        found = [each for stream, pattern in subjects_below(prefix).items() for each in await self._api.last_of(stream, pattern)]
        return list(map(_entry, found))

    def watch(self, prefix: str, changed: Callable[[Entry], None]) -> Watch:
        if not self._hinting:
            self._hinting = True
            for subject in {subject for stream in subjects_below("") for subject in table_subjects(stream)}:
                self._connection.subscribe(subject, self._hint)
        patterns = subjects_below(prefix).items()
        watches = [
            TableWatch(self._api, stream, pattern, _entry, changed, self.failures) for stream, pattern in patterns
        ]
        self._watches += watches
        for watch in watches:
            self._connection.start(watch.run())
        return _Watches(watches, self._watches, self._current)

    async def _current(self, watches: Sequence[TableWatch]) -> None:
        await self._call(self._all_current(watches))

    async def _all_current(self, watches: Sequence[TableWatch]) -> None:
        for watch in watches:
            await watch.current()

    def _hint(self, message: Message) -> None:
        for watch in self._watches:
            watch.hint(message.subject)

    # --- messages ---

    def pulse(self, data: bytes) -> None:
        if not self._closed:
            self._connection.start(self._send(PULSES, data))

    async def _send(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a message that may be lost."""
        with suppress(Unanswered):
            await self._connection.publish(subject, data, headers)

    def on_pulse(self, heard: Callable[[bytes], None]) -> None:
        def take(message: Message) -> None:
            heard(message.data)

        self._connection.subscribe(PULSES, take)

    async def ask(self, node: str, question: bytes, seconds: float = ASK_SECONDS) -> bytes:
        return await self._call(self._ask(question_subject(node), question, seconds))

    async def _ask(self, subject: str, question: bytes, seconds: float) -> bytes:
        try:
            (answer,) = await self._connection.request(subject, question, seconds)
        except NoResponders as error:
            raise NoReceiver(f"{subject.rpartition('.')[2]} does not answer: {error}") from None
        except Unanswered as error:
            raise EngineGone(f"{subject.rpartition('.')[2]} does not answer: {error}") from None
        if _FAILED.items() <= answer.headers.items():
            raise EngineGone(f"{subject.rpartition('.')[2]} cannot answer")
        return answer.data

    def answer(self, node: str, answers: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._connection.subscribe(question_subject(node), partial(self._answer, answers))

    def _answer(self, answers: Callable[[bytes], Awaitable[bytes]], message: Message) -> None:
        async def made() -> bytes:
            return await answers(message.data)

        def send(answer: bytes | Failure) -> None:
            failed = isinstance(answer, Failure) or len(answer) > self._connection.max_payload - _OVERHEAD
            data, headers = (b"", _FAILED) if failed or isinstance(answer, Failure) else (answer, None)
            self._connection.start(self._send(message.reply, data, headers))

        if message.reply and not self._closed:
            Deferred.fromCoroutine(made()).addBoth(send)


class _Watches(Watch):
    """The watches of one prefix: it may have values in two streams."""

    def __init__(
        self, watches: Iterable[TableWatch], all_watches: list[TableWatch],
        current: Callable[[Sequence[TableWatch]], Awaitable[None]],
    ) -> None:
        self._watches = list(watches)
        self._all = all_watches
        self._current = current

    async def current(self) -> None:
        await self._current(self._watches)

    def stop(self) -> None:
        for watch in self._watches:
            watch.stop()
            if watch in self._all:
                self._all.remove(watch)


def _is_no_stream(answer: object) -> bool:
    return isinstance(answer, RequestRefused) and answer.code == _NO_STREAM


def _is_reached(replica: Mapping[str, Any]) -> bool:
    """Return whether the leader has contact to a copy. The server writes 0 for a copy that this leader has never seen."""
    return not replica.get("offline") and 0 < replica.get("active", _CONTACT) < _CONTACT


async def _within_engine(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a call. A request that the server refuses for another reason than those of the interface is an `EngineError`."""
    try:
        return await coroutine
    except Unanswered as error:
        raise EngineGone(str(error)) from None


@contextmanager
def _conflicts(subject: str) -> Iterator[None]:
    """Raise `Conflict` for a write that the server refuses because the last record of a subject is another."""
    try:
        yield
    except RequestRefused as error:
        if error.code == WRONG_SEQUENCE:
            raise Conflict(f"{subject}: {error}") from error
        raise


def _time(text: str) -> float:
    """Return the seconds since the epoch of a time of the server (RFC 3339, with nanoseconds)."""
    return datetime.fromisoformat(text).timestamp()


def _stored(found: Found) -> Stored:
    prefix = len(_HEADER)
    headers = {name[prefix:]: value for name, value in found.headers.items() if name.startswith(_HEADER)}
    return Stored(found.sequence, headers, found.data)


def _entry(found: Found) -> Entry:
    return Entry(key_of(found.subject), found.sequence, None if _REMOVED.items() <= found.headers.items() else found.data)
