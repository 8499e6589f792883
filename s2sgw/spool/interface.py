"""The interface of the spool, the durable part of the queue.

Calls return at once and take effect in the order in which they were made. Each `done` is called once, later, on the thread of
the caller. An answer is a result or a `SpoolError`, never an empty result in place of an error.

Every implementation passes the suite in `tests/support/spool_contract.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar

from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza

#: Stanzas, and bytes of stanzas, that the quarantine holds at most.
QUARANTINE_STANZAS = 1000
QUARANTINE_BYTES = 16 * 1024 * 1024

#: The bound that `SpoolFull` reached: that of the whole spool, of one peer's share of it, or the disk itself.
SpoolBound = Literal["spool", "share", "disk"]
#: What is altered in a stored stanza. "content": its bytes; the addresses, the id and the times are as they were written, so that
#: its sender can be told. "envelope": any of those, so that nobody can be told.
Damage = Literal["", "content", "envelope"]


class SpoolError(Exception):
    """A call had no effect, and why."""


class SpoolFull(SpoolError):
    """`bound` is reached. None of the batch is held. To ask again is of no use before room is made."""

    def __init__(self, text: str, bound: SpoolBound = "spool") -> None:
        super().__init__(text)
        self.bound = bound


class SpoolBroken(SpoolError):
    """Reading or writing failed, or the spool is closed. What was durable before stays so. The same call may succeed later."""


class PositionTaken(SpoolError):
    """Another stanza is held at a position of the batch. None of the batch is held, and nothing was replaced."""


class Spooled(NamedTuple):
    """A stanza in the spool, at its position in the delivery queue of `pair`.

    `accepted_at` and `deadline` are seconds of the clock that the spool was made with. `written`: the stanza may have been on the
    wire, so that an IQ request is never sent again (R33). `damage`: the stanza was altered where it was stored; it is never to be
    delivered.
    """

    pair: Pair
    position: int
    stanza: Stanza
    accepted_at: float
    deadline: float
    written: bool = False
    damage: Damage = ""


class Replaced(NamedTuple):
    """Stanzas that are forgotten in the commit that holds what takes their place."""

    pair: Pair
    positions: Sequence[int]


def same_content(one: Spooled, other: Spooled) -> bool:
    """Whether the two are the same stanza at the same position, however far it was passed on."""
    return _content(one) == _content(other)


def _content(row: Spooled) -> tuple[object, ...]:
    stanza = row.stanza
    words = stanza.kind, stanza.data, stanza.to, stanza.from_, stanza.type, stanza.id, stanza.payloads
    return row.pair, row.position, words, row.accepted_at, row.deadline, row.damage


@dataclass(frozen=True, slots=True)
class LaneSummary:
    """What the spool holds of one pair. `bytes` counts the stanzas' own; `oldest`: when the first of them was accepted."""

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
#: Called with None once the call is durable, or with the error for which it had no effect.
Done = Callable[[SpoolError | None], None]
#: Called with a result, or with the error for which there is none.
SpoolAnswer = Callable[[_T | SpoolError], None]


class Spool(Protocol):
    """Where stanzas are safe."""

    @property
    def count(self) -> int:
        """The number of stanzas held."""

    @property
    def bytes(self) -> int:
        """The bytes of the stanzas held."""

    @property
    def used(self) -> int:
        """The part of `limit` that is used: `bytes`, and a fixed overhead for each stanza."""

    @property
    def limit(self) -> int:
        """The most that `used` may be."""

    @property
    def share(self) -> int:
        """The most that `used_by` may be for one peer, while the others leave as much free."""

    @property
    def stalled(self) -> bool:
        """Whether calls have gone unanswered for too long, as on a disk that hangs.

        Nothing has failed, and every call will be answered. Until then, streams that bring more stanzas are to be slowed.
        """

    @property
    def next_position(self) -> int:
        """A position behind all that this spool ever held, before this process too. New queues begin here or later."""

    def alerts(self) -> list[str]:
        """Return what an operator should look into, a sentence each."""

    def used_by(self, peer: Domain) -> int:
        """The part of `used` that the stanzas from and to `peer` take."""

    def append(self, batch: Sequence[Spooled], done: Done, replaces: Sequence[Replaced] = ()) -> None:
        """Hold `batch`, and forget what it replaces, in one commit: all of it, or none.

        A stanza that is held already at its position, with the same content, stays as it is: a batch may be given again after
        `SpoolBroken`. Errors: `SpoolFull`, `SpoolBroken`, `PositionTaken`.
        """

    def read(self, pair: Pair, after: int, at_most: int, done: SpoolAnswer[list[Spooled]]) -> None:
        """Read the stanzas of a pair behind position `after`, in order, about `at_most` bytes, at least one if there is one."""

    def remove(self, pair: Pair, up_to: int) -> None:
        """Forget the stanzas of a pair up to this position. What cannot be removed now is removed later."""

    def remove_each(self, pair: Pair, positions: Sequence[int]) -> None:
        """Forget the stanzas at these positions, as `remove` does."""

    def mark_written(self, pair: Pair, positions: Sequence[int], done: Done) -> None:
        """Note that these are about to be written to the wire. Errors: `SpoolFull` (the disk), `SpoolBroken`."""

    def expired(self, now: float, at_most: int, done: SpoolAnswer[list[Spooled]]) -> None:
        """Read at most so many stanzas, of any pair, whose deadline is not after `now`; the earliest deadlines first."""

    def queues(self, done: SpoolAnswer[list[LaneSummary]]) -> None:
        """List every pair of which something is held."""

    def quarantine(self, spooled: Spooled, cause: str, at: float) -> None:
        """Keep a stanza for inspection by the operator. The quarantine is bounded; the oldest goes first."""

    def quarantined(self, at_most: int, done: SpoolAnswer[list[Quarantined]]) -> None:
        """Read the last stanzas that were put in quarantine, oldest first."""

    def raise_limit(self, by: int) -> None:
        """Let `limit` be passed by so many bytes, and shares without bound: a stop begins, and what is in custody is spooled."""

    def close(self, done: Callable[[], None]) -> None:
        """Close the spool once every earlier call has taken effect."""
