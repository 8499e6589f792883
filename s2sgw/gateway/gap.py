"""What of a lane only the spool holds: read on as memory empties, and struck off as it ends there.

The spool answers late, and of what was when it was asked: meanwhile more may have left memory, or come to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from s2sgw.queue.held import Held
from s2sgw.queue.lane import Lane
from s2sgw.queue.spool import Spooled

if TYPE_CHECKING:
    from s2sgw.gateway.lanes import Lanes


class Gap:
    """The gap of `lane`. `filled` is told what has come back to memory, then `over` that the spool has answered."""

    __slots__ = ("_ended", "_filled", "_lane", "_lanes", "_looks", "_over", "reading")

    def __init__(self, lane: Lane, lanes: Lanes, filled: Callable[[list[Held]], None], over: Callable[[], None]) -> None:
        self._lane = lane
        self._lanes = lanes
        self._filled = filled
        self._over = over
        self.reading = False
        self._looks = 0
        #: positions whose custody ended while the spool was being asked, so that its answer may still speak of them
        self._ended: set[int] = set()

    def read_on(self, at_most: int) -> None:
        """Fetch the next, about `at_most` bytes."""
        if not self.reading and self._lane.gap is not None:
            self.reading = True
            after, up_to = self._lane.gap
            self._lanes.spool.read(self._lane.pair, after, at_most, partial(self._read, after, up_to))

    def _read(self, after: int, up_to: int, spooled: list[Spooled]) -> None:
        """What stands behind `after`; worthless where more has left memory meanwhile, so that the gap begins before it.

        Where it ends behind `up_to` now, the answer says nothing of what has left memory there.
        """
        self.reading = False
        gap = self._lane.gap
        if gap is not None and gap[0] == after:
            rows = [row for row in spooled if row.position <= gap[1]]
            held = [_held(row) for row in rows if row.position not in self._ended]
            self._lane.fill(held, complete=gap[1] == up_to and (not rows or rows[-1].position >= up_to))
            self._filled(held)
        self.forget()
        self._over()

    def look(self, after: int, done: Callable[[list[Spooled]], None]) -> None:
        """The stanza behind this position, as the spool has it, at least."""
        def answered(rows: list[Spooled]) -> None:
            done(rows)
            self._looks -= 1
            self.forget()
        self._looks += 1
        self._lanes.spool.read(self._lane.pair, after, 1, answered)

    def take(self, spooled: Sequence[Spooled]) -> list[Held]:
        """Those of the rows that the spool alone holds leave it."""
        gap = self._lane.gap
        within = range(gap[0] + 1, gap[1] + 1) if gap is not None else ()
        alone = [row for row in spooled if row.position in within and row.position not in self._ended]
        self._lane.gap_count -= len(alone)
        return [_held(row) for row in alone]

    def ended(self, positions: Sequence[int]) -> None:
        """The custody of these, which the spool had, is over."""
        self._ended.update(positions)
        self.forget()

    def forget(self) -> None:
        """What ended matters no more, unless an answer is under way."""
        if not (self.reading or self._looks or self._lanes.expiring):
            self._ended.clear()


def _held(row: Spooled) -> Held:
    return Held(row.position, row.stanza, row.accepted_at, row.deadline, None, True, row.written)
