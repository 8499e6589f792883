"""What a lane holds: stanzas in custody, alone or by the batch, and what the one who brought them waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from s2sgw.xmpp.stanza import Stanza

#: What the bookkeeping of a held stanza costs in memory, beside its bytes.
OVERHEAD = 600


@dataclass(frozen=True, slots=True)
class HoldTimes:
    """How long a stanza may wait, in seconds, before it is bounced."""

    stanza: float = 600.0
    iq: float = 30.0

    def of(self, stanza: Stanza) -> float:
        return self.iq if stanza.kind == "iq" else self.stanza


class UpstreamAck:
    """What the one who brought `total` stanzas waits for: all of them passed on, spooled or ended. Then `settled` is called."""

    __slots__ = ("left", "settled", "total")

    def __init__(self, total: int, settled: Callable[[], None]) -> None:
        self.total = self.left = total
        self.settled = settled

    def settle(self, number: int = 1) -> None:
        """So many more are in safe hands."""
        self.left -= number
        if self.left == 0:
            self.settled()


class QueuedStanza:
    """A stanza in custody. `spooled`: the spool has it too. `written`: it was on the wire once, so it may have arrived.
    `gone`: it has left its lane.
    """

    __slots__ = ("accepted_at", "deadline", "gone", "position", "upstream_ack", "spooled", "stanza", "written")

    def __init__(
        self, position: int, stanza: Stanza, accepted_at: float, deadline: float, upstream_ack: UpstreamAck | None = None,
        spooled: bool = False, written: bool = False,
    ) -> None:
        self.position = position
        self.stanza = stanza
        self.accepted_at = accepted_at
        self.deadline = deadline
        self.upstream_ack = upstream_ack
        self.spooled = spooled
        self.written = written
        self.gone = False

    @property
    def cost(self) -> int:
        """Bytes of memory."""
        return len(self.stanza.data) + OVERHEAD

    @property
    def unmarked(self) -> bool:
        """A request that the spool holds, and does not know to be on the wire: it is to know that first (R33)."""
        return self.spooled and not self.written and self.stanza.is_request

    @property
    def stanzas(self) -> list[Stanza]:
        """As of a flight of one."""
        return [self.stanza]

    @property
    def last(self) -> int:
        return self.position

    def settle(self) -> None:
        """Nobody upstream need keep it any more."""
        upstream_ack, self.upstream_ack = self.upstream_ack, None
        if upstream_ack is not None:
            upstream_ack.settle()

    def each(self, holds: HoldTimes) -> list[QueuedStanza]:
        """As of a flight of one."""
        return [self]

    take_apart = each

    def now(self) -> list[QueueItem]:
        """As of a flight of one."""
        return [self]


class Batch:
    """Stanzas that were written as they came, in one batch: what they cost is counted once, until one of them matters."""

    __slots__ = ("accepted_at", "cost", "gone", "parts", "position", "upstream_ack", "spooled", "stanzas")

    def __init__(
        self, position: int, stanzas: list[Stanza], accepted_at: float, upstream_ack: UpstreamAck | None, spooled: bool = False,
    ) -> None:
        self.position = position
        self.stanzas = stanzas
        self.accepted_at = accepted_at
        self.upstream_ack = upstream_ack
        self.spooled = spooled
        self.gone = False
        self.parts: Sequence[QueueItem] = ()
        self.cost = sum([len(stanza.data) for stanza in stanzas]) + OVERHEAD * len(stanzas)

    @property
    def last(self) -> int:
        """The position of the last one."""
        return self.position + len(self.stanzas) - 1

    def settle(self) -> None:
        """Nobody upstream need keep them any more."""
        upstream_ack, self.upstream_ack = self.upstream_ack, None
        if upstream_ack is not None:
            upstream_ack.settle(len(self.stanzas))

    def each(self, holds: HoldTimes) -> list[QueuedStanza]:
        """A view of each."""
        at = self.accepted_at
        rows = enumerate(self.stanzas, self.position)
        return [QueuedStanza(position, stanza, at, at + holds.of(stanza), None, self.spooled, True) for position, stanza in rows]

    def take_apart(self, holds: HoldTimes) -> list[QueuedStanza]:
        """Each for itself, in place of the flight."""
        parts = self.each(holds)
        for held in parts:
            held.upstream_ack = self.upstream_ack
        self.parts, self.upstream_ack, self.gone = parts, None, True
        return parts

    def split(self, number: int) -> tuple[Batch, Batch]:
        """The first `number`, and the rest, in place of the flight."""
        first = Batch(self.position, self.stanzas[:number], self.accepted_at, self.upstream_ack, self.spooled)
        rest = Batch(self.position + number, self.stanzas[number:], self.accepted_at, self.upstream_ack, self.spooled)
        self.parts, self.upstream_ack, self.gone = (first, rest), None, True
        return first, rest

    def now(self) -> list[QueueItem]:
        """What stands in its place: itself, or its parts."""
        return [piece for part in self.parts for piece in part.now()] if self.parts else [self]


QueueItem = QueuedStanza | Batch
AnyPiece = TypeVar("AnyPiece", QueuedStanza, Batch, QueueItem)


def settle(pieces: Iterable[QueuedStanza | Batch]) -> None:
    """Nobody upstream need keep any of these."""
    for piece in pieces:
        piece.settle()


class MemoryBudget:
    """A number of bytes that many lanes share."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, amount: int) -> bool:
        """Whether `amount` more bytes fit; if so, they are counted."""
        if self.used + amount > self.limit:
            return False
        self.used += amount
        return True

    def give_back(self, amount: int) -> None:
        self.used -= amount
