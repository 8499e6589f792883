"""The appends of one peer: one request at a time for each fence, and what comes meanwhile joined into the next.

The server takes one fenced record in process for each fence. Records of several calls, or lanes, go together in an atomic batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred

from s2sgw.cluster.engine import EngineError, Fence, Fenced
from s2sgw.cluster.jetstream_api import Record

#: The most records, and bytes, of calls that are joined. One call may have more.
_JOINED_RECORDS = 100
_JOINED_BYTES = 512 * 1024


class Call(NamedTuple):
    """A call that waits for its turn, or its answer."""

    fence: Fence
    records: Sequence[Record]
    identity: str
    answer: Deferred[Sequence[int]]

    @property
    def size(self) -> int:
        return sum(len(record.data) for record in self.records)


class Appending(Protocol):
    """Appends records of one fence together, and returns their sequences. Errors: `EngineError`."""

    async def __call__(self, fence: Fence, records: Sequence[Record], identity: str) -> Sequence[int]:
        """Append."""


class AppendQueue:
    """The calls of one peer, in order."""

    def __init__(self, append: Appending) -> None:
        self._append = append
        self._waiting: deque[Call] = deque()

    def add(self, call: Call) -> None:
        self._waiting.append(call)

    @property
    def waits(self) -> bool:
        """Return whether there are calls that were not made."""
        return bool(self._waiting)

    def give_up(self, error: EngineError) -> None:
        """Fail every call that waits."""
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            _fail(call, error)

    async def run(self) -> None:
        """Make all calls that wait, and those that come meanwhile."""
        while self._waiting:
            joined = self._next()
            if len(joined) == 1 or not await self._together(joined):
                for call in joined:
                    await self._alone(call)

    def _next(self) -> list[Call]:
        joined = [self._waiting.popleft()]
        records, size = len(joined[0].records), joined[0].size
        while self._waiting and self._waiting[0].fence == joined[0].fence:
            records, size = records + len(self._waiting[0].records), size + self._waiting[0].size
            if records > _JOINED_RECORDS or size > _JOINED_BYTES:
                break
            joined.append(self._waiting.popleft())
        return joined

    async def _together(self, joined: list[Call]) -> bool:
        """Append the records of several calls; return whether that was possible. If it was not, each call is judged alone."""
        records = [record for call in joined for record in call.records]
        try:
            sequences = await self._append(joined[0].fence, records, joined[0].identity)
        except Fenced as error:
            for call in joined:
                _fail(call, error)
            return True
        except EngineError:
            return False
        except BaseException:
            self._waiting.extendleft(reversed(joined))
            raise
        for call in joined:
            _answer(call, sequences[: len(call.records)])
            sequences = sequences[len(call.records) :]
        return True

    async def _alone(self, call: Call) -> None:
        try:
            sequences = await self._append(call.fence, call.records, call.identity)
        except EngineError as error:
            _fail(call, error)
        except BaseException:
            self._waiting.appendleft(call)
            raise
        else:
            _answer(call, sequences)


def _answer(call: Call, sequences: Sequence[int]) -> None:
    if not call.answer.called:
        call.answer.callback(sequences)


def _fail(call: Call, error: EngineError) -> None:
    if not call.answer.called:
        call.answer.errback(error)
