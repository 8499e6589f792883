"""The interface of the spool, the durable part of the queue.

Calls return at once and take effect in the order in which they were made. Each `done` is called once, later, on the thread of
the caller. An answer is a result or a `SpoolError`, never an empty result instead of an error.

Every implementation passes the test suite in `tests/support/spool_contract.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar

from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza

#: The most stanzas, and bytes of stanzas, in quarantine.
QUARANTINE_STANZAS = 1000
QUARANTINE_BYTES = 16 * 1024 * 1024

#: The bound of a `SpoolFull`: of the whole spool, of the share of one registered domain, or of the disk itself.
SpoolBound = Literal["spool", "share", "disk"]
#: The altered part of a stored stanza. "content": its bytes; its addresses, id and times are sound, so that an error can be sent
#: to the sender. "envelope": any of those, so that no error can be sent.
Damage = Literal["", "content", "envelope"]


class SpoolError(Exception):
    """A call had no effect. The text says why."""


class SpoolFull(SpoolError):
    """`bound` is reached. None of the batch is held. The same call fails again until there is room."""

    def __init__(self, text: str, bound: SpoolBound = "spool") -> None:
        super().__init__(text)
        self.bound = bound


class SpoolBroken(SpoolError):
    """Reading or writing failed, or the spool is closed. Durable stanzas stay durable. The same call may succeed later."""


class PositionTaken(SpoolError):
    """Another stanza is at a position of the batch. None of the batch is held, and nothing was replaced."""


class Spooled(NamedTuple):
    """A stanza in the spool, at its position in the delivery queue of `pair`.

    `accepted_at` and `deadline` are seconds of the spool's clock. `written`: the stanza may have been on the wire, so an IQ
    request is never sent again (R33). `damage`: the stanza was altered on the disk, and must not be delivered.
    """

    pair: Pair
    position: int
    stanza: Stanza
    accepted_at: float
    deadline: float
    written: bool = False
    damage: Damage = ""


class Replaced(NamedTuple):
    """Stanzas that are removed in the commit with their replacement."""

    pair: Pair
    positions: Sequence[int]


def same_content(one: Spooled, other: Spooled) -> bool:
    """Return whether the two are the same stanza at the same position, in any state of delivery."""
    return _content(one) == _content(other)


def _content(row: Spooled) -> tuple[object, ...]:
    stanza = row.stanza
    words = stanza.kind, stanza.data, stanza.to, stanza.from_, stanza.type, stanza.id, stanza.payloads
    return row.pair, row.position, words, row.accepted_at, row.deadline, row.damage


@dataclass(frozen=True, slots=True)
class LaneSummary:
    """The spool's totals of one pair. `bytes` counts the stanzas' own; `oldest`: when the first of them was accepted."""

    pair: Pair
    count: int
    bytes: int
    first: int
    last: int
    oldest: float


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A stanza in quarantine, with the reason. `at` is seconds since the epoch."""

    number: int
    spooled: Spooled
    cause: str
    at: float


_T = TypeVar("_T")
#: Called with None when the call is durable, or with its error.
Done = Callable[[SpoolError | None], None]
#: Called with a result, or with the error.
SpoolAnswer = Callable[[_T | SpoolError], None]


class Spool(Protocol):
    """The place where stanzas are safe."""

    #: Seconds that an operator's table waits for `queues`.
    table_seconds: float = 2.0

    @property
    def count(self) -> int:
        """Return the number of stanzas held."""

    @property
    def bytes(self) -> int:
        """Return the bytes of the stanzas held."""

    @property
    def used(self) -> int:
        """Return the used part of `limit`: `bytes`, and a fixed overhead for each stanza."""

    @property
    def limit(self) -> int:
        """Return the most that `used` may be."""

    @property
    def share(self) -> int:
        """Return the most that `used_by` may be for one registered domain, while the others leave as much free."""

    @property
    def stalled(self) -> bool:
        """Return whether calls have been unanswered for too long, as on a disk that hangs.

        No call has failed, and every call will be answered. Until then, streams that bring more stanzas should be slowed.
        """

    @property
    def next_position(self) -> int:
        """Return a position after all that this spool ever had, also in earlier processes. New queues begin here or later."""

    def alerts(self) -> list[str]:
        """Return a sentence for each problem that an operator should look into."""

    def used_by(self, peer: Domain) -> int:
        """Return the part of `used` for the stanzas from and to `peer` and the other peers of its registered domain."""

    def append(self, batch: Sequence[Spooled], done: Done, replaces: Sequence[Replaced] = ()) -> None:
        """Store `batch`, and remove the stanzas that it replaces, in one commit: all of it, or none.

        A stanza that is already at its position, with the same content, stays: a batch may be given again after `SpoolBroken`.
        Errors: `SpoolFull`, `SpoolBroken`, `PositionTaken`.
        """

    def read(self, pair: Pair, after: int, at_most: int, done: SpoolAnswer[list[Spooled]]) -> None:
        """Read the stanzas of a pair after position `after`, in order, about `at_most` bytes, at least one if there is one."""

    def remove(self, pair: Pair, up_to: int) -> None:
        """Remove the stanzas of a pair up to this position. If this fails now, it is done later."""

    def remove_each(self, pair: Pair, positions: Sequence[int]) -> None:
        """Remove the stanzas at these positions, as `remove` does."""

    def mark_written(self, pair: Pair, positions: Sequence[int], done: Done) -> None:
        """Note that these are about to be written to the wire. Errors: `SpoolFull` (the disk), `SpoolBroken`."""

    def expired(self, now: float, at_most: int, done: SpoolAnswer[list[Spooled]]) -> None:
        """Read at most so many stanzas, of any pair, whose deadline is not after `now`; the earliest deadlines first."""

    def queues(self, done: SpoolAnswer[list[LaneSummary]]) -> None:
        """List every pair with stanzas in the spool."""

    def quarantine(self, spooled: Spooled, cause: str, at: float) -> None:
        """Keep a stanza for inspection by the operator. The quarantine is bounded: the oldest is removed first."""

    def quarantined(self, at_most: int, done: SpoolAnswer[list[Quarantined]]) -> None:
        """Read the last stanzas in quarantine, oldest first."""

    def raise_limit(self, by: int) -> None:
        """Raise `limit` by this many bytes, and lift the shares: a stop begins, and stanzas in custody are spooled."""

    def close(self, done: Callable[[], None]) -> None:
        """Close the spool once every earlier call has taken effect."""
