"""The number of stanzas by age and peer, like `qshape` of Postfix, and the stanzas that have waited too long."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator
from typing import Any, NotRequired, TypedDict

from twisted.internet.defer import Deferred, TimeoutError  # noqa: A004
from twisted.internet.interfaces import IReactorTime

from s2sgw.admin.server import VerbError
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.spool.interface import Spool, Spooled, SpoolError

#: Ages in seconds at which a column ends. The last column is for everything older.
BOUNDS = (60.0, 300.0, 600.0, 1800.0, 3600.0, 21_600.0, 86_400.0)
#: Bytes of stanzas that one step reads from the spool, and stanzas that one response reads from it.
PAGE_BYTES = 256 * 1024
MOST_READ = 50_000
#: Stanzas in memory that are examined in one step.
AT_ONCE = 100


class AgesRow(TypedDict):
    """The ages of the waiting stanzas for and from one peer."""

    peer: str
    stanzas: int
    ages: list[int]  # by column; see `BOUNDS`
    unread: int  # in the spool and not examined: there are too many, or the spool does not answer
    node: NotRequired[str]  # in a cluster: whose row this is


class AgeCount:
    """Counts the ages of stanzas at one moment. The spool is asked no more when it has not answered once in `table_seconds`."""

    def __init__(self, spool: Spool, clock: IReactorTime) -> None:
        self._spool = spool
        self._clock = clock
        self._now = clock.seconds()
        self._left = MOST_READ

    def add(self, row: AgesRow, queue: DeliveryQueue) -> Generator[Deferred[Any] | None, Any, None]:
        """Add the stanzas of a queue to `row`. Raises `VerbError` if the spool cannot be read."""
        in_memory = list(queue.pair_queue)
        for number, held in enumerate(in_memory):
            row["ages"][self._column(held.accepted_at)] += 1
            if number % AT_ONCE == 0:
                yield None
        row["stanzas"] += len(queue.pair_queue)
        unread = len(queue.pair_queue) - len(in_memory)
        pages = spooled_pages(self._spool, queue, self._clock)
        known = {held.position for held in in_memory}
        while unread > 0 and self._left > 0:
            try:
                page = yield from next(pages)
            except TimeoutError:
                self._left = 0
                break
            for spooled in page:
                if spooled.position not in known:
                    row["ages"][self._column(spooled.accepted_at)] += 1
                    unread -= 1
            self._left -= len(page)
            if not page:
                break
        row["unread"] += max(0, unread)

    def _column(self, accepted_at: float) -> int:
        return bisect_right(BOUNDS, self._now - accepted_at)


Page = Generator[Deferred[Any] | None, Any, list[Spooled]]


def spooled_pages(spool: Spool, queue: DeliveryQueue, clock: IReactorTime | None = None) -> Generator[Page, None, None]:
    """Yield the work of reading each page of the stanzas that only the spool has, in order. The last page is empty.

    With a clock, the work raises `TimeoutError` if a page is not read within `table_seconds` of the spool.
    """
    spooled_range = queue.pair_queue.spooled_range
    after = 0 if spooled_range is None else spooled_range[0]

    def read() -> Page:
        nonlocal after
        if spooled_range is None:
            return []
        asked: Deferred[Any] = Deferred()
        spool.read(queue.pair, after, PAGE_BYTES, asked.callback)
        if clock is not None:
            asked.addTimeout(spool.table_seconds, clock)
        found = yield asked
        if isinstance(found, SpoolError):
            raise VerbError(f"the spool cannot be read: {found}")
        page = [row for row in found if row.position <= spooled_range[1]]
        after = found[-1].position if found else after
        return page

    while True:
        yield read()


def new_row(peer: str) -> AgesRow:
    """Return an empty row for a peer."""
    return AgesRow(peer=peer, stanzas=0, ages=[0] * (len(BOUNDS) + 1), unread=0)
