"""Finds out that the engine has lost its store: streams are gone, or what this node wrote there (docs/cluster.md).

A node that knows sequences of a former store cannot go on with a new one: its heartbeats, fences and homes mean nothing there. So
its process ends, and begins anew. A start makes the streams that are missing.

Only answers of the replica that decides count, for `LOST_SECONDS` one after the other, because a server that was cut off from the
others may think for some seconds that it still decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.cluster.engine import EngineError, Entry
from s2sgw.cluster.members import Members
from s2sgw.cluster.node_records import node_key

#: Seconds between two looks, and for which each of them must have found a loss.
LOOK_SECONDS, LOST_SECONDS = 2.0, 20.0
#: Seconds without an acknowledged heartbeat after which a look is taken.
LATE_SECONDS = 3.0


class StreamStore(Protocol):
    """The calls of the engine that are needed."""

    @property
    def stalled(self) -> bool: ...

    async def get(self, key: str) -> Entry | None: ...

    async def missing(self) -> Sequence[str]:
        """Return the streams that the engine does not have. Errors: `EngineError`."""


class LostStore:
    """Looks while heartbeats are late or writes wait. `lost` is called once, with what was lost."""

    log = Logger("s2sgw")

    def __init__(self, members: Members, engine: StreamStore, lost: Callable[[str], object], clock: IReactorTime) -> None:
        #: what seems to be lost; "": nothing
        self.problem = ""
        self._members = members
        self._engine = engine
        self._lost = lost
        self._clock = clock
        self._birth = 0
        self._since: float | None = None
        self._call: Deferred[None] | None = None
        self._loop = LoopingCall(self._look)
        self._loop.clock = clock

    def start(self) -> None:
        """Look from now on. The streams were there."""
        self._loop.start(LOOK_SECONDS)

    def stop(self) -> None:
        """Look no more."""
        if self._loop.running:
            self._loop.stop()
        if self._call is not None:
            self._call.cancel()

    def _look(self) -> None:
        session, now = self._members.session, self._clock.seconds()
        if session is not None:
            self._birth = session.birth
        if not self._engine.stalled and now - self._members.heartbeat_at <= LATE_SECONDS:
            self.problem, self._since = "", None
        elif self._call is None:
            call = self._call = Deferred.fromCoroutine(self._find())
            call.addErrback(self._failed).addBoth(self._ended)

    async def _find(self) -> None:
        try:
            self.problem = await self._what_is_lost()
        except EngineError:
            self.problem = ""
        now = self._clock.seconds()
        if not self.problem:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= LOST_SECONDS and self._loop.running:
            self._loop.stop()
            self._lost(self.problem)

    async def _what_is_lost(self) -> str:
        """Return what the engine does not have, although it had it; "": nothing."""
        missing = await self._engine.missing()
        if missing:
            return f"the stream {missing[0]}" if len(missing) == 1 else f"{len(missing)} streams, {missing[0]} among them"
        birth, entry = self._birth, await self._engine.get(node_key(self._members.node))
        if birth and (entry is None or entry.sequence < birth):
            return "the record of this node"
        return ""

    def _failed(self, failure: Failure) -> None:
        self.problem, self._since = "", None
        if failure.check(CancelledError) is None:
            self.log.failure("the store of the engine could not be looked at", failure)

    def _ended(self, _: object) -> None:
        self._call = None
