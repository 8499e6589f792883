"""Removals of records from the engine: made later where they fail, several at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred

from s2sgw.cluster.failures import Failures
from s2sgw.cluster.jetstream_api import RequestRefused
from s2sgw.cluster.requests import Unanswered

#: Removals that wait for their answers at a time.
_AT_ONCE = 32
#: Seconds before a removal that failed is made again.
_PAUSE = 0.5

_Removal = Callable[[], Coroutine[Any, Any, None]]


class Removals:
    """The removals that are to be made. `start` runs a coroutine."""

    def __init__(self, start: Callable[[Coroutine[Any, Any, None]], None], failures: Failures | None = None) -> None:
        self._start = start
        self._failures = failures or Failures()
        self._waiting: deque[tuple[_Removal, Deferred[bool]]] = deque()
        self._unanswered: set[Deferred[bool]] = set()
        self._workers = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, removal: _Removal) -> Deferred[bool]:
        """Make a removal, and make it again if it fails. The result is True when it is made, and False if it was given up."""
        done: Deferred[bool] = Deferred(let_go)
        self._unanswered.add(done)
        self._waiting.append((removal, done))
        self._idle.clear()
        if self._workers < _AT_ONCE:
            self._workers += 1
            self._start(self._work())
        return done

    async def wait(self, seconds: float) -> None:
        """Wait until all are made, or for `seconds`."""
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return

    def give_up(self) -> None:
        """Answer every removal that is not made. It may still have its effect."""
        self._waiting.clear()
        unanswered, self._unanswered = self._unanswered, set()
        for done in unanswered:
            _answer(done, False)

    async def _work(self) -> None:
        while self._waiting:
            removal, done = self._waiting.popleft()
            try:
                await removal()
            except Exception as error:
                if not isinstance(error, (Unanswered, RequestRefused)):
                    self._failures.note("a removal of records from the engine failed")
                self._waiting.append((removal, done))
                await asyncio.sleep(_PAUSE)
            else:
                self._unanswered.discard(done)
                _answer(done, True)
        self._workers -= 1
        if not self._workers:
            self._idle.set()


def let_go(answer: Deferred[Any]) -> None:
    """Cancel a call whose effect goes on: its caller waits no more."""


def _answer(done: Deferred[bool], made: bool) -> None:
    if not done.called:
        done.callback(made)
