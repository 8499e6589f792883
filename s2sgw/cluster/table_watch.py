"""Watches of the shared table: the values that are there, and each change.

A stream of the table has one record of each value, so what is behind the last known sequence is what has changed. It is read when
a message to the watched subjects passes by, which is a hint alone, and now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from twisted.logger import Logger

from s2sgw.cluster.engine import EngineError, Entry, Watch
from s2sgw.cluster.failures import Failures
from s2sgw.cluster.jetstream_api import Found, RecordPage

#: Seconds after a hint at which is read: a replica has the change by then, if not the first time.
_AFTER_HINT = (0.01, 0.05, 0.25)
#: Seconds between readings without a hint.
_INTERVAL = 2.0
_PAGE_BYTES = 1024 * 1024


class TableReader(Protocol):
    """The reads that a watch needs (`JetStreamAPI`)."""

    async def next_page(self, stream: str, subjects: str, after: int, at_most: int) -> RecordPage: ...

    async def leader_next(self, stream: str, subject: str, after: int) -> Found | None: ...


class TableWatch(Watch):
    """A watch of the values of one pattern of one stream. `entry` makes the value of a record."""

    _log = Logger()

    def __init__(
        self, api: TableReader, stream: str, pattern: str, entry: Callable[[Found], Entry], changed: Callable[[Entry], None],
        failures: Failures | None = None,
    ) -> None:
        self._failures = failures or Failures()
        self._api = api
        self._stream = stream
        self._pattern = pattern
        self._entry = entry
        self._changed = changed
        self._known = 0
        self._hinted = asyncio.Event()
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True
        self._hinted.set()

    def hint(self, subject: str) -> None:
        """Read soon if the subject is of this watch: its value may have changed."""
        if subject.startswith(self._pattern[:-1]):
            self._hinted.set()

    async def run(self) -> None:
        """Tell the values and their changes, until the watch is stopped."""
        await self._read()
        while not self._stopped:
            try:
                await asyncio.wait_for(self._hinted.wait(), _INTERVAL)
            except TimeoutError:
                await self._read()
                continue
            self._hinted.clear()
            for pause in _AFTER_HINT:
                await asyncio.sleep(pause)
                if await self._read():
                    break

    async def current(self) -> None:
        """Tell every change that was made before this call: go on until the leader has no newer one. A replica may be behind."""
        while not self._stopped:
            newer = await self._api.leader_next(self._stream, self._pattern, self._known)
            if newer is None:
                return
            if not await self._read():
                self._take(newer)

    async def _read(self) -> bool:
        """Tell what is new; return whether there was anything."""
        before, more = self._known, True
        while more and not self._stopped:
            try:
                page = await self._api.next_page(self._stream, self._pattern, self._known, _PAGE_BYTES)
            except Exception as error:
                if not isinstance(error, EngineError):
                    self._failures.note("the changes of the shared table could not be read")
                break
            for found in page.records:
                self._take(found)
            more = page.more and bool(page.records)
        return self._known > before

    def _take(self, found: Found) -> None:
        """Tell a record, unless another call has told it meanwhile."""
        if self._stopped or found.sequence <= self._known:
            return
        self._known = found.sequence
        try:
            self._changed(self._entry(found))
        except Exception:
            self._log.failure("engine: the change of {subject} could not be taken", subject=found.subject)
