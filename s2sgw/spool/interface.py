"""The durable part of the queue, as an interface: by batch, asynchronous, told when a batch is safe (decision 15).

Whoever implements it passes the suite in `tests/support/spool_contract.py`. Calls return at once and take effect in the order in
which they were made; each `done` is called once, later, on the caller's own thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.stanza import Stanza

#: Stanzas, and bytes of them, that the pen of the poisonous holds.
PEN = 1000
PEN_BYTES = 16 * 1024 * 1024


class SpoolFull(Exception):
    """The bound of the spool, or of the disk, is reached: nothing of the batch is held."""


class SpoolBroken(Exception):
    """The spool cannot be used any more; what it holds stays on the disk."""


class Spooled(NamedTuple):
    """A stanza in the spool, at its position in the lane of `pair`. Times are seconds since the epoch.

    `written`: it was on the wire once, so that an IQ is never sent again (R33).
    """

    pair: Pair
    position: int
    stanza: Stanza
    accepted_at: float
    deadline: float
    written: bool = False


@dataclass(frozen=True, slots=True)
class LaneSummary:
    """What the spool holds of one lane. `bytes` counts the stanzas' own; `oldest`: when the first of them was accepted."""

    pair: Pair
    count: int
    bytes: int
    first: int
    last: int
    oldest: float


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A stanza in the pen of the poisonous: what the next hop said to it."""

    number: int
    spooled: Spooled
    cause: str
    at: float


Done = Callable[[Exception | None], None]


class Spool(Protocol):
    """Where stanzas are safe. `bytes` and `count` are what it holds."""

    @property
    def bytes(self) -> int: ...

    @property
    def count(self) -> int: ...

    def append(self, batch: Sequence[Spooled], done: Done) -> None:
        """Hold `batch`; `done(None)` once it is durable, `done(SpoolFull)` or `done(SpoolBroken)` where none of it is."""

    def read(self, pair: Pair, after: int, at_most: int, done: Callable[[list[Spooled]], None]) -> None:
        """The stanzas of a lane behind position `after`, in order, about `at_most` bytes, at least one if there is one."""

    def remove(self, pair: Pair, up_to: int) -> None:
        """Forget the stanzas of a lane up to this position."""

    def remove_each(self, pair: Pair, positions: Sequence[int]) -> None:
        """Forget just these."""

    def mark_written(self, pair: Pair, positions: Sequence[int], done: Done) -> None:
        """These are about to be written to the wire; `done` as of `append`."""

    def expired(self, now: float, at_most: int, done: Callable[[list[Spooled]], None]) -> None:
        """So many stanzas at most whose deadline is past, of any lane."""

    def queues(self, done: Callable[[list[LaneSummary]], None]) -> None:
        """Every lane that has something here."""

    def put_aside(self, spooled: Spooled, cause: str, at: float) -> None:
        """Keep a poisonous stanza for inspection; the pen is bounded, the oldest goes first."""

    def aside(self, at_most: int, done: Callable[[list[Quarantined]], None]) -> None:
        """The last ones put aside, oldest first."""

    def stretch(self, by: int) -> None:
        """A stop has begun: the bound may be passed by so many bytes, for what the gateway has custody of already."""

    def close(self, done: Callable[[], None]) -> None:
        """Everything asked so far takes effect, then the spool is closed."""
