"""A request in the spool is written to the wire only once the spool knows: an IQ is never sent twice, even after a crash (R33).

A mark that came to the disk behind the request itself would leave a moment in which a `kill -9` makes two of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import islice

from s2sgw.queue.held import Held
from s2sgw.queue.lane import Lane
from s2sgw.queue.spool import Spool

#: Of those that wait, in order, so many are looked at at once.
AHEAD = 1000


class Marks:
    """Of one lane. `go_on` is called when more may be written, `refuse` with what the spool cannot mark."""

    def __init__(
        self, lane: Lane, spool: Callable[[], Spool], go_on: Callable[[], None], refuse: Callable[[list[Held]], None],
    ) -> None:
        self._lane = lane
        self._spool = spool
        self._go_on = go_on
        self._refuse = refuse
        self._marking = False

    def make(self, parked: Collection[int]) -> None:
        """The next that waits is such a request: mark it, and those soon behind it."""
        if self._marking:
            return
        self._marking = True
        near = islice(self._lane.waiting, AHEAD)
        requests = [held for held in near if held.unmarked and held.position not in parked]
        positions = [held.position for held in requests]
        self._spool().mark_written(self._lane.pair, positions, lambda error: self._made(requests, error))

    def _made(self, requests: list[Held], error: Exception | None) -> None:
        self._marking = False
        if error is None:
            for held in requests:
                held.written = True
        else:
            positions = {held.position for held in requests}
            self._refuse(self._lane.remove(lambda held: held.position in positions))
        self._go_on()
