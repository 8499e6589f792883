"""A part of the table in the engine: a copy in memory, which a watch keeps, and changes by compare-and-set (docs/cluster.md).

Reads are of the copy. A change is judged again if another node has changed the value meanwhile. A node that may
not send to other servers changes nothing: other nodes may not know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.defer import TimeoutError as TwistedTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.cluster.engine import ClusterEngine, Conflict, EngineError, EngineGone, Entry, Watch

#: Seconds for one change. It waits for the election of a leader, which takes 4 to 9 s.
CHANGE_SECONDS = 12.0
#: Attempts to change a value that others change at the same time.
ATTEMPTS = 20

#: Makes the new value of the old one (None: there is none). None: there is nothing to change. It may raise `OSError`.
Edit = Callable[[bytes | None], bytes | None]


class NotChanged(OSError):
    """A change was not made, or it is not known whether it was (`NotKnown`)."""


class NotKnown(NotChanged, TimeoutError):
    """It is not known whether a change was made. It may still be made."""


class SharedTable:
    """The values below `prefix`. `may_change` returns whether this node may change values now.

    `taken` is called with each value that is new or changed (that of a removal is None), and whether this node has changed it.
    """

    log = Logger("s2sgw")

    def __init__(
        self, engine: ClusterEngine, prefix: str, clock: IReactorTime, may_change: Callable[[], bool],
        taken: Callable[[str, bytes | None, bool], None],
    ) -> None:
        self._engine = engine
        self._prefix = prefix
        self._clock = clock
        self._may_change = may_change
        self._taken = taken
        self._entries: dict[str, Entry] = {}
        #: the values that are being written, and the locks of those that are being changed
        self._writing: dict[str, bytes] = {}
        self._locks: dict[str, DeferredLock] = {}
        self._watch: Watch | None = None
        #: the callers of `current`: those whose reading is under way, and those that came since
        self._waiting: list[Deferred[None]] = []
        self._reading = False

    def start(self) -> None:
        """Begin to watch. The engine must be open."""
        if self._watch is None:
            self._watch = self._engine.watch(self._prefix, self._told)

    def get(self, key: str) -> bytes | None:
        """Return the value of a key (without the prefix) as far as this node knows; None: there is none."""
        entry = self._entries.get(key)
        return None if entry is None else entry.data

    def keys(self) -> list[str]:
        """Return the keys that have a value."""
        return [key for key, entry in self._entries.items() if entry.data is not None]

    def _told(self, entry: Entry) -> None:
        key = entry.key.removeprefix(f"{self._prefix}.")
        self._take(entry._replace(key=key), key in self._writing and self._writing[key] == entry.data)

    def _take(self, entry: Entry, own: bool) -> None:
        known = self._entries.get(entry.key)
        if known is None or known.sequence < entry.sequence:
            self._entries[entry.key] = entry
            self._taken(entry.key, entry.data, own)

    async def current(self) -> None:
        """Return when every change that was made before this call is known here. Errors: `EngineGone`.

        Calls that are made while another one waits share one reading.
        """
        answer: Deferred[None] = Deferred()
        self._waiting.append(answer)
        if not self._reading:
            self._read()
        await answer

    def _read(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._reading = True
        Deferred.fromCoroutine(self._watched()).addBoth(self._answer, waiting)

    async def _watched(self) -> None:
        if self._watch is None:
            raise EngineGone("the node has not joined")
        await self._watch.current()

    def _answer(self, result: object, waiting: Sequence[Deferred[None]]) -> None:
        self._reading = False
        if self._waiting:
            self._read()
        for answer in waiting:
            if answer.called:
                continue
            if isinstance(result, Failure):
                answer.errback(Failure(result.value))
            else:
                answer.callback(None)

    async def change(self, key: str, edit: Edit) -> bool:
        """Change a value by `edit`, and return whether there was anything to change. Raises `NotChanged`, or what `edit` raises.

        `edit` is called again if another node has changed the value meanwhile.
        """
        if not self._may_change():
            raise NotChanged("the engine does not answer")
        changing = Deferred.fromCoroutine(self._change(key, edit))
        try:
            return await changing.addTimeout(CHANGE_SECONDS, self._clock)
        except TwistedTimeout:
            raise NotKnown("the engine does not answer, and may still do it") from None
        except EngineError as error:
            raise NotChanged(str(error)) from None

    async def _change(self, key: str, edit: Edit) -> bool:
        """Change a value. Changes of one value on this node wait for each other: they would all lose but one."""
        lock = self._locks.setdefault(key, DeferredLock())
        await lock.acquire()
        try:
            return await self._change_alone(key, edit)
        finally:
            lock.release()  # those that waited may be done at once, and have removed the lock
            if not lock.locked and self._locks.get(key) is lock:
                del self._locks[key]

    async def _change_alone(self, key: str, edit: Edit) -> bool:
        for _ in range(ATTEMPTS):
            entry = self._entries.get(key)
            data = edit(None if entry is None else entry.data)
            if data is None:
                return False
            self._writing[key] = data
            try:
                sequence = await self._engine.put(f"{self._prefix}.{key}", data, 0 if entry is None else entry.sequence)
            except Conflict:
                await self.current()
                continue
            else:
                self._take(Entry(key, sequence, data), own=True)
                return True
            finally:
                del self._writing[key]
        raise NotChanged("other nodes change this again and again: try again")

    def begin_change(self, key: str, edit: Edit, done: Callable[[bool], None]) -> None:
        """Change a value in the background. `done` is called with whether that was possible."""
        Deferred.fromCoroutine(self.change(key, edit)).addCallbacks(self._changed, self._not_changed).addCallback(done)

    def _changed(self, made: bool) -> bool:
        return True

    def _not_changed(self, failure: Failure) -> bool:
        if failure.check(OSError, CancelledError) is None:
            self.log.failure("a value of the shared table could not be changed", failure)
        return False
