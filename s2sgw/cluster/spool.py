"""The spool of a node in a cluster: the lanes of the peers whose home this node is, in the engine (docs/cluster.md).

`restored` takes a peer after a claim, and `release` gives it back. Calls for other peers are refused. All calls are made on the
reactor's thread, and are answered there, later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from heapq import heapify, heappop
from itertools import count
from math import inf
from operator import attrgetter, itemgetter
from time import thread_time
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from s2sgw.cluster.engine import ClusterEngine, EngineError, Fence, PeerLogs
from s2sgw.cluster.failures import Failures
from s2sgw.cluster.peer_spool import Append, LoadedLanes, MarkWritten, PeerSpool, Read, Remove, SpoolServices
from s2sgw.cluster.quarantine import Quarantine
from s2sgw.cluster.records import PositionRange, ranges
from s2sgw.cluster.spool_room import SpoolRoom
from s2sgw.cluster.turn_slice import TurnSlice
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
)
from s2sgw.xmpp.jid import Domain, Pair

#: Seconds of CPU for the answers that are given in one call of `deliver`.
ANSWER_SECONDS = 0.005
#: Seconds between looks for removals that are due.
LOOK_SECONDS = 0.1
#: Peers whose removals are written in one turn of the reactor.
PEERS_AT_ONCE = 20
#: Expired stanzas that are looked at, for each one that is asked for.
EXPIRED_LOOKS = 8
#: The most alerts for failures of single peers.
ALERTS = 5

_T = TypeVar("_T")


class JetStreamSpool(Spool):
    """At most `limit` bytes in all, and `share` bytes for each registered domain.

    `deliver(call)` makes `call` soon, on the same thread. `session` is unique for each start of each node. `clock` is the clock
    of all times, and `wall` the seconds since the epoch: the nodes' wall clocks must agree, for times are stored by them.
    `peer_of` returns the peer of a pair. `lost` is called with a peer that has another home, or must be claimed again, after its
    calls were answered, save those of which the new home may have read a part. `report` is called with texts for the operator.
    """

    #: Less than another node waits for the table (`s2sgw.admin.node_verbs.LOOK_SECONDS`).
    table_seconds: float = 0.7

    def __init__(
        self, engine: ClusterEngine, limit: int, deliver: Callable[[Callable[[], None]], None], clock: IReactorTime, *,
        session: str, wall: Callable[[], float], peer_of: Callable[[Pair], Domain], share: int | None = None,
        lost: Callable[[Domain], None] = lambda peer: None, report: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._engine = engine
        self._deliver = deliver
        self._clock = clock
        self._peer_of = peer_of
        self._lost = lost
        self.failures = Failures()
        self._room = SpoolRoom(limit, limit if share is None else share)
        self._session = session
        self._appends = 0
        offset = round((wall() - clock.seconds()) * 1e6)
        self._services = SpoolServices(
            engine, self._room, offset, self._new_identity, self._give, self._write_removals_in, self._has_other_home, report,
            LoadedLanes(), self.failures,
        )
        self._quarantine = Quarantine(engine, clock, offset, self.failures)
        self._peers: dict[Domain, PeerSpool] = {}
        #: those that are given back: they take removals alone
        self._releasing: dict[Domain, PeerSpool] = {}
        self._next_position = 1
        self._answers: deque[Callable[[], None]] = deque()
        self._call_is_due = False
        #: why no more calls are taken, or ""
        self._closed = ""
        self._close_called: list[Callable[[], None]] = []
        #: a time before which nothing expires, as it is stored
        self._quiet_until: float = -inf
        #: peers with removals that are not written -> when they should be
        self._due: dict[PeerSpool, float] = {}
        self._now: list[PeerSpool] = []
        self._timer: IDelayedCall | None = None

    # --- the homes ---

    def restored(self, fence: Fence, logs: PeerLogs) -> list[LaneSummary]:
        """Take the lanes of a peer that was claimed. Return their totals. Raises `RecordError`: the home must be given back."""
        peer = PeerSpool(fence, logs, self._services)
        self.forget(fence.peer, f"the home of {fence.peer} was claimed again")
        self._peers[fence.peer] = peer
        self._next_position = max(self._next_position, peer.next_position)
        self._quiet_until = min(self._quiet_until, inf if peer.next_deadline is None else peer.next_deadline)
        return peer.summaries()

    def release(self, peer: Domain) -> Deferred[None]:
        """Take no more calls for a peer. The result comes when all earlier ones have had their effect: its home may go.

        Fails with `SpoolError` if what was removed cannot be written. Then the peer stays here.
        """
        released: Deferred[None] = Deferred()
        spool = self._peers.pop(peer, None)
        if spool is not None:
            self._releasing[peer] = spool

        def finished(error: SpoolError | None) -> None:
            if spool is not None and self._releasing.get(peer) is spool:
                del self._releasing[peer]
            if spool is None or error is None:
                if spool is not None:
                    spool.end(f"the home of {peer} was released")
                released.callback(None)
            else:
                if not spool.ended:
                    self._peers.setdefault(peer, spool)
                    self._quiet_until = -inf
                released.errback(error)

        if spool is None:
            finished(None)
        else:
            spool.put(Read(PeerSpool.finish, finished))
        return released

    def forget(self, peer: Domain, why: str) -> None:
        """Take no more calls for a peer: its home was lost. A write under way is answered when its outcome is known."""
        for spool in (self._peers.pop(peer, None), self._releasing.pop(peer, None)):
            if spool is not None:
                spool.end(why)

    def _new_identity(self) -> str:
        """Return the identity of an append."""
        self._appends += 1
        return f"{self._session}.{self._appends}"

    def _has_other_home(self, spool: PeerSpool) -> None:
        for peers in (self._peers, self._releasing):
            if peers.get(spool.peer) is spool:
                del peers[spool.peer]
                self._give(self._lost, spool.peer)

    # --- the contents ---

    @property
    def count(self) -> int:
        return self._room.count

    @property
    def bytes(self) -> int:
        return self._room.bytes

    @property
    def used(self) -> int:
        return self._room.used

    @property
    def limit(self) -> int:
        return self._room.limit

    @property
    def share(self) -> int:
        return self._room.share

    @property
    def stalled(self) -> bool:
        return self._engine.stalled

    @property
    def next_position(self) -> int:
        return self._next_position

    def alerts(self) -> list[str]:
        stalled = ["the engine does not answer: nothing more is stored until it does"] if self.stalled else []
        troubles = (spool.trouble for spool in self._peers.values() if spool.trouble)
        return [*stalled, *(text for text, _ in zip(troubles, range(ALERTS), strict=False))]

    def used_by(self, peer: Domain) -> int:
        return self._room.used_by(peer)

    # --- calls ---

    def append(self, batch: Sequence[Spooled], done: Done, replaces: Sequence[Replaced] = ()) -> None:
        """See `Spool.append`. The engine stores the stanzas of one peer at once.

        Those of several peers are stored one after another, and are removed again if one of them is refused.
        """
        parts: dict[Domain, tuple[list[Spooled], list[Replaced]]] = {}
        for row in batch:
            parts.setdefault(self._peer_of(row.pair), ([], []))[0].append(row)
        for each in replaces:
            parts.setdefault(self._peer_of(each.pair), ([], []))[1].append(each)
        self._next_position = max(self._next_position, *(row.position + 1 for row in batch), 0)
        self._quiet_until = min([self._quiet_until, *(self._stored_time(row.deadline) for row in batch)])
        self._append_parts(list(parts.items()), [], done)

    def _append_parts(
        self, parts: list[tuple[Domain, tuple[list[Spooled], list[Replaced]]]], stored: list[Spooled], done: Done,
    ) -> None:
        """Append the first part, and then the others. A part that only removes is the last, since that cannot be taken back."""
        if not parts:
            self._give(done, None)
            return
        parts.sort(key=_only_removes)
        (peer, (rows, replaces)), *others = parts

        def answered(error: SpoolError | None) -> None:
            if error is None and others:
                self._append_parts(others, [*stored, *rows], done)
                return
            for row in stored if error is not None else ():
                self.remove_each(row.pair, [row.position])
            done(error)

        spool = self._peer(peer, answered)
        if spool is not None:
            spool.put(Append(rows, replaces, answered))

    def read(self, pair: Pair, after: int, at_most: int, done: SpoolAnswer[list[Spooled]]) -> None:
        spool = self._peer(self._peer_of(pair), done)
        if spool is not None:
            spool.put(Read(partial(PeerSpool.read, pair=pair, after=after, at_most=at_most), done))

    def remove(self, pair: Pair, up_to: int) -> None:
        self._remove(pair, [(0, up_to)])

    def remove_each(self, pair: Pair, positions: Sequence[int]) -> None:
        self._remove(pair, ranges(sorted(set(positions))))

    def _remove(self, pair: Pair, positions: Sequence[PositionRange]) -> None:
        peer = self._peer_of(pair)
        spool = self._peers.get(peer) or self._releasing.get(peer)
        if spool is not None:
            spool.put(Remove(pair, positions))

    def mark_written(self, pair: Pair, positions: Sequence[int], done: Done) -> None:
        spool = self._peer(self._peer_of(pair), done)
        if spool is not None:
            spool.put(MarkWritten(pair, positions, done))

    def _peer(self, peer: Domain, done: Callable[[Any], None]) -> PeerSpool | None:
        """Return the spool of a peer. If there is none, the call is answered."""
        spool = self._peers.get(peer)
        if spool is None or self._closed:
            self._give(done, SpoolBroken(self._closed or f"this node is not the home of {peer}"))
            return None
        return spool

    def expired(self, now: float, at_most: int, done: SpoolAnswer[list[Spooled]]) -> None:
        if self._closed:
            self._give(done, SpoolBroken(self._closed))
        elif at_most < 1 or self._stored_time(now) < self._quiet_until:
            self._give(done, [])
        else:
            self._answer(self._expired(self._stored_time(now), at_most), done)

    def _stored_time(self, seconds: float) -> int:
        return round(seconds * 1e6) + self._services.offset

    def _answer(self, work: Coroutine[Deferred[Any], Any, _T | SpoolError], done: SpoolAnswer[_T]) -> None:
        """Give the result of `work`. It is an error if the work fails, so that the caller does not wait for ever."""
        Deferred.fromCoroutine(work).addErrback(self._failed).addCallback(partial(self._give, done))

    def _failed(self, failure: Failure) -> SpoolError:
        if failure.check(EngineError) is None:
            self.failures.note("a question to the spool in the engine failed", failure)
        return SpoolBroken(failure.getErrorMessage())

    async def _expired(self, now: int, at_most: int) -> list[Spooled] | SpoolError:
        """Look for what has expired, peer by peer, those with the earliest deadlines first. Then read the chosen stanzas.

        A peer whose stanzas cannot be read does not keep those of others from being found.
        """
        def work(peer: PeerSpool) -> Awaitable[list[tuple[int, Pair, int]]]:
            return peer.expired(now, at_most)

        late: list[tuple[int, int, PeerSpool]] = []
        turn, numbers = TurnSlice(self._deliver), count()
        earliest, self._quiet_until = inf, inf  # what is appended meanwhile lowers it
        for peer in list(self._peers.values()):
            deadline = peer.next_deadline
            earliest = min(earliest, inf if deadline is None else deadline)
            if peer.busy or (deadline is not None and deadline <= now):
                late.append((deadline or 0, next(numbers), peer))
            if turn.is_over:
                await turn.pause()
        self._quiet_until = min(self._quiet_until, -inf if late else earliest)
        heapify(late)
        found: list[tuple[int, Pair, int, PeerSpool]] = []
        errors: list[SpoolError] = []
        while late:
            deadline, _, peer = heappop(late)
            found.sort(key=itemgetter(0))
            if len(found) >= at_most and (deadline > found[at_most - 1][0] or len(found) >= at_most * EXPIRED_LOOKS):
                break
            answer = await self._asked(peer, work)
            if isinstance(answer, SpoolError):
                errors.append(answer)
            else:
                found += [(*each, peer) for each in answer]
        positions: dict[tuple[PeerSpool, Pair], list[int]] = {}
        for _, pair, position, peer in sorted(found, key=itemgetter(0))[:at_most]:
            positions.setdefault((peer, pair), []).append(position)
        rows: list[Spooled] = []
        for (peer, pair), chosen in positions.items():
            contents = await self._asked(peer, partial(_read_each, pair=pair, positions=sorted(chosen)))
            if isinstance(contents, SpoolError):
                errors.append(contents)
            else:
                rows += contents
        return errors[0] if errors and not rows else sorted(rows, key=attrgetter("deadline"))

    def _asked(self, peer: PeerSpool, work: Callable[[PeerSpool], Awaitable[_T]]) -> Deferred[_T | SpoolError]:
        """Return the answer of a peer, after all its earlier calls."""
        answered: Deferred[_T | SpoolError] = Deferred()
        peer.put(Read(work, answered.callback))
        return answered

    def queues(self, done: SpoolAnswer[list[LaneSummary]]) -> None:
        if self._closed:
            self._give(done, SpoolBroken(self._closed))
            return
        self._answer(self._queues(), done)

    async def _queues(self) -> list[LaneSummary]:
        """Return the totals of all lanes. A peer that is given back meanwhile, or gives an error, has another home."""
        asked: list[Deferred[list[LaneSummary] | SpoolError]] = []
        found: list[LaneSummary] = []
        turn = TurnSlice(self._deliver)
        for peer in list(self._peers.values()):
            if peer.busy:
                asked.append(self._asked(peer, _summaries))
            elif not peer.ended:
                found += peer.summaries()
            if turn.is_over:
                await turn.pause()
        for each in asked:
            answer = await each
            found += [] if isinstance(answer, SpoolError) else answer
            if turn.is_over:
                await turn.pause()
        return found

    def quarantine(self, spooled: Spooled, cause: str, at: float) -> None:
        if not self._closed:
            self._quarantine.keep(self._peer_of(spooled.pair), spooled, cause, at)

    def quarantined(self, at_most: int, done: SpoolAnswer[list[Quarantined]]) -> None:
        self._answer(self._quarantined(at_most), done)

    async def _quarantined(self, at_most: int) -> list[Quarantined] | SpoolError:
        return SpoolBroken(self._closed) if self._closed else await self._quarantine.kept(at_most)

    def raise_limit(self, by: int) -> None:
        self._room.raise_limit(by)

    def close(self, done: Callable[[], None]) -> None:
        """See `Spool.close`. What was removed is written, if the engine takes it. The homes stay claimed."""
        self._close_called.append(done)
        if len(self._close_called) == 1:
            self._closed = "the spool is closed"
            Deferred.fromCoroutine(self._close(list(self._peers.values()))).addErrback(self._failed).addCallback(self._ended)

    async def _close(self, peers: Sequence[PeerSpool]) -> None:
        turn = TurnSlice(self._deliver)
        asked: list[Deferred[SpoolError | None]] = []
        for peer in peers:
            if peer.busy or peer.has_removals:
                asked.append(self._asked(peer, PeerSpool.finish))
            if turn.is_over:
                await turn.pause()
        for each in asked:
            await each
            if turn.is_over:
                await turn.pause()
        await self._quarantine.finished()
        self._quarantine.stop()
        while self._peers:
            self._peers.popitem()[1].end(self._closed)
            if turn.is_over:
                await turn.pause()

    def _ended(self, _: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._answers += self._close_called
        self._close_called.clear()
        self._call_soon()

    # --- removals ---

    def _write_removals_in(self, peer: PeerSpool, seconds: float) -> None:
        """Write the removals of a peer after so many seconds, or sooner if that was to be."""
        due = self._clock.seconds() + seconds
        self._due[peer] = min(due, self._due.get(peer, due))
        self._watch(LOOK_SECONDS)

    def _watch(self, seconds: float) -> None:
        if self._timer is None and not self._closed:
            self._timer = self._clock.callLater(seconds, self._write_due)

    def _write_due(self) -> None:
        """Write the removals that are due, some peers at a time."""
        self._timer = None
        now = self._clock.seconds()
        if not self._now:
            self._now = [peer for peer, at in self._due.items() if at <= now]
            for peer in self._now:
                del self._due[peer]
        chosen, self._now = self._now[:PEERS_AT_ONCE], self._now[PEERS_AT_ONCE:]
        for peer in chosen:
            peer.write_removals()
        if self._now or self._due:
            self._watch(0 if self._now else LOOK_SECONDS)

    # --- answers ---

    def _give(self, answer: Callable[[_T], None], result: _T) -> None:
        """Give an answer later, in order."""
        self._answers.append(partial(answer, result))
        self._call_soon()

    def _call_soon(self) -> None:
        if self._answers and not self._call_is_due:
            self._call_is_due = True
            self._deliver(self._call)

    def _call(self) -> None:
        """Give the answers, as many as `ANSWER_SECONDS` allow. One that raises does not stop the others."""
        self._call_is_due = False
        end = thread_time() + ANSWER_SECONDS
        try:
            while self._answers and thread_time() < end:
                self._answers.popleft()()
        finally:
            self._call_soon()


def _only_removes(part: tuple[Domain, tuple[list[Spooled], list[Replaced]]]) -> bool:
    return not part[1][0]


async def _summaries(peer: PeerSpool) -> list[LaneSummary]:
    return peer.summaries()


async def _read_each(peer: PeerSpool, pair: Pair, positions: Sequence[int]) -> list[Spooled]:
    return await peer.read_each(pair, positions)
