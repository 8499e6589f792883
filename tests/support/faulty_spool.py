"""A spool in memory whose disk fails, fills up or hangs when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from s2sgw.spool.interface import Done, LaneSummary, Quarantined, Replaced, SpoolAnswer, SpoolBroken, Spooled, SpoolError
from s2sgw.spool.memory_spool import MemorySpool
from s2sgw.xmpp.jid import Pair


class FaultySpool(MemorySpool):
    """A spool that answers with `read_error` and `write_error`, without effect, while they are set. `stall` holds all answers back."""

    def __init__(self, limit: int, deliver: Callable[[Callable[[], None]], None]) -> None:
        super().__init__(limit, self._deliver_in_time)
        self._deliver_now = deliver
        self.read_error: SpoolError | None = None
        self.write_error: SpoolError | None = None
        self._removals: list[Callable[[], None]] = []
        self._late: list[Callable[[], None]] | None = None

    @property
    def stalled(self) -> bool:
        return self._late is not None

    def stall(self) -> None:
        """Give no answer from now on."""
        self._late = [] if self._late is None else self._late

    def go_on(self) -> None:
        """Give the answers that were held back, and later ones at once."""
        late, self._late = self._late or [], None
        for call in late:
            self._deliver_now(call)

    def fail(self, text: str = "the disk fails") -> None:
        """Let every read and write fail from now on."""
        self.read_error = self.write_error = SpoolBroken(text)

    def mend(self) -> None:
        """Let reads and writes succeed again."""
        self.read_error = self.write_error = None

    def _deliver_in_time(self, call: Callable[[], None]) -> None:
        if self._late is None:
            self._deliver_now(call)
        else:
            self._late.append(call)

    # --- calls ---

    def append(self, batch: Sequence[Spooled], done: Done, replaces: Sequence[Replaced] = ()) -> None:
        if not self._refused(self.write_error, done):
            super().append(batch, done, replaces)

    def mark_written(self, pair: Pair, positions: Sequence[int], done: Done) -> None:
        if not self._refused(self.write_error, done):
            super().mark_written(pair, positions, done)

    def remove(self, pair: Pair, up_to: int) -> None:
        self._remove(partial(super().remove, pair, up_to))

    def remove_each(self, pair: Pair, positions: Sequence[int]) -> None:
        self._remove(partial(super().remove_each, pair, list(positions)))

    def read(self, pair: Pair, after: int, at_most: int, done: SpoolAnswer[list[Spooled]]) -> None:
        if not self._refused(self.read_error, done):
            super().read(pair, after, at_most, done)

    def expired(self, now: float, at_most: int, done: SpoolAnswer[list[Spooled]]) -> None:
        if not self._refused(self.read_error, done):
            super().expired(now, at_most, done)

    def queues(self, done: SpoolAnswer[list[LaneSummary]]) -> None:
        if not self._refused(self.read_error, done):
            super().queues(done)

    def quarantined(self, at_most: int, done: SpoolAnswer[list[Quarantined]]) -> None:
        if not self._refused(self.read_error, done):
            super().quarantined(at_most, done)

    def _refused(self, error: SpoolError | None, done: Callable[[SpoolError], None]) -> bool:
        if error is None:
            self._remove_late()
            return False
        self._deliver(partial(done, error))
        return True

    def _remove(self, removal: Callable[[], None]) -> None:
        self._removals.append(removal)
        self._remove_late()

    def _remove_late(self) -> None:
        while self._removals and self.write_error is None:
            self._removals.pop(0)()
