"""Removals of records from the engine: without an answer, made later where they fail, several at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from s2sgw.cluster.jetstream_api import RequestRefused
from s2sgw.cluster.requests import Unanswered

#: Removals that wait for their answers at a time.
_AT_ONCE = 32
#: Seconds before a removal that failed is made again.
_PAUSE = 0.5

_Removal = Callable[[], Coroutine[Any, Any, None]]


class Removals:
    """The removals that are to be made. `start` runs a coroutine."""

    def __init__(self, start: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._start = start
        self._waiting: deque[_Removal] = deque()
        self._workers = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, removal: _Removal) -> None:
        """Make a removal, and make it again if it fails."""
        self._waiting.append(removal)
        if self._workers < _AT_ONCE:
            self._workers += 1
            self._idle.clear()
            self._start(self._work())

    async def wait(self, seconds: float) -> None:
        """Wait until all are made, or for `seconds`."""
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return

    async def _work(self) -> None:
        while self._waiting:
            removal = self._waiting.popleft()
            try:
                await removal()
            except (Unanswered, RequestRefused):
                self._waiting.append(removal)
                await asyncio.sleep(_PAUSE)
        self._workers -= 1
        if not self._workers:
            self._idle.set()
