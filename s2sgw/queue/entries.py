"""The entries of a delivery queue: stanzas in custody, alone or by the batch, and the receipts for their sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeVar

from s2sgw.queue.evidence import ReceiptEvidence
from s2sgw.xmpp.stanza import Stanza

#: The position of an item in its queue, as a key to sort by.
by_position = attrgetter("position")
#: Bytes of memory for a held stanza, beside its data, and beside its texts if these are long (`Stanza.text_cost`).
OVERHEAD = 600
#: No positions, for the queues in which there are none: each other empty set takes 216 bytes.
NO_POSITIONS: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class HoldTimes:
    """The time that a stanza may wait, in seconds, before it is bounced."""

    stanza: float = 600.0
    iq: float = 30.0

    def for_stanza(self, stanza: Stanza) -> float:
        """Return the seconds for which `stanza` may wait."""
        return self.iq if stanza.kind == "iq" else self.stanza


class UpstreamAck:
    """The receipt for `total` stanzas of one source. It is settled stanza by stanza, each time by evidence.

    When all are settled, `evidence` is that of the last, and `all_settled` is called once.
    """

    __slots__ = ("_followers", "_tally", "abandoned", "evidence", "left", "total")

    def __init__(self, total: int, tally: Counter[str] | None = None) -> None:
        """Begin with nothing settled. `tally` counts the stanzas by the label of the evidence."""
        self.total = self.left = total
        self._tally = tally
        self.evidence: ReceiptEvidence | None = None
        #: whether some of the stanzas were given up without evidence, so that nothing is settled any more (`abandon`)
        self.abandoned = False
        self._followers: list[tuple[UpstreamAck, int]] | None = None

    @property
    def kept_upstream(self) -> bool:
        """Until this is settled, the sender's server keeps the stanzas, and sends them again (XEP-0198)."""
        return True

    def settle(self, evidence: ReceiptEvidence, number: int = 1) -> None:
        """Settle `number` more of the stanzas: `evidence` shows their next owner.

        Repeats are settled too, and repeats of these, for any number of repetitions.
        """
        settled = [(self, number)]
        for receipt, count in settled:  # grows meanwhile
            settled += receipt._settle(evidence, count)

    def _settle(self, evidence: ReceiptEvidence, number: int) -> list[tuple[UpstreamAck, int]]:
        """Settle `number` of the stanzas. Return the repeats that are settled with them."""
        if self.abandoned:
            return []
        assert number <= self.left, f"{number} settled, where {self.left} were left"
        self.left -= number
        if self._tally is not None:
            self._tally[evidence.label] += number
        if self.left:
            return []
        self.evidence = evidence
        self.all_settled(evidence)
        followers, self._followers = self._followers, None
        return followers or []

    def all_settled(self, evidence: ReceiptEvidence) -> None:
        """React when all stanzas are settled, the last by `evidence`. Derived classes override this."""

    def abandon(self) -> None:
        """Settle nothing more: the stanzas were given up, and no other owner is known. Their repeats are given up with them."""
        given_up = [self]
        for receipt in given_up:  # grows meanwhile
            receipt.abandoned = True
            given_up += [each for each in receipt.answers_for() if not each.abandoned]
            if receipt.left:
                receipt.never_settled()

    def never_settled(self) -> None:
        """React when the stanzas were given up before all were settled. Derived classes override this."""

    def answers_for(self) -> list[UpstreamAck]:
        """Return the receipts that are settled only when this one is. Derived classes add to them."""
        return [] if self._followers is None else [follower for follower, _ in self._followers]

    def settle_with(self, first: UpstreamAck, number: int = 1) -> None:
        """Settle `number` of these stanzas, which are repeats, as soon as all of `first` are settled, by the same evidence."""
        if first.evidence is not None:
            self.settle(first.evidence, number)
        elif first._followers is None:
            first._followers = [(self, number)]
        else:
            first._followers.append((self, number))


class QueuedStanza:
    """A stanza in custody.

    `spooled`: the spool has it or will get it, so it must be removed there. `durable`: the spool has it. `written`: it was on the
    wire once, so it may have arrived. `gone`: it has left its queue.
    """

    __slots__ = ("accepted_at", "deadline", "durable", "gone", "position", "spooled", "stanza", "upstream_ack", "written")

    def __init__(
        self, position: int, stanza: Stanza, accepted_at: float, deadline: float, upstream_ack: UpstreamAck | None = None,
        spooled: bool = False, durable: bool = False, written: bool = False,
    ) -> None:
        self.position = position
        self.stanza = stanza
        self.accepted_at = accepted_at
        self.deadline = deadline
        self.upstream_ack = upstream_ack
        self.spooled = spooled
        self.durable = durable
        self.written = written
        self.gone = False

    @property
    def cost(self) -> int:
        """Return its bytes of memory."""
        return len(self.stanza.data) + self.stanza.text_cost + OVERHEAD

    @property
    def kept_upstream(self) -> bool:
        """The sender's server keeps it, because its receipt is not settled."""
        return self.upstream_ack is not None and self.upstream_ack.kept_upstream

    @property
    def unmarked(self) -> bool:
        """Whether it is a request that the spool has as not written. The spool must be told before it is written (R33)."""
        return self.spooled and not self.written and self.stanza.is_request

    @property
    def stanzas(self) -> list[Stanza]:
        """The stanzas of this item."""
        return [self.stanza]

    @property
    def last(self) -> int:
        """Return the position of the last stanza of this item."""
        return self.position

    def settle(self, evidence: ReceiptEvidence) -> None:
        """Settle the receipt, if it is open."""
        upstream_ack, self.upstream_ack = self.upstream_ack, None
        if upstream_ack is not None:
            upstream_ack.settle(evidence)

    def each(self, hold_times: HoldTimes) -> list[QueuedStanza]:
        """Return the stanzas of this item, one by one."""
        return [self]

    take_apart = each

    def parts_now(self) -> list[QueueItem]:
        """Return the items that now stand in the place of this one."""
        return [self]


class Batch:
    """Stanzas that were written together, as they came. Their cost is counted once. They are taken apart only if need be."""

    __slots__ = ("accepted_at", "cost", "durable", "gone", "parts", "position", "spooled", "stanzas", "upstream_ack")

    def __init__(
        self, position: int, stanzas: list[Stanza], accepted_at: float, upstream_ack: UpstreamAck | None, spooled: bool = False,
        durable: bool = False,
    ) -> None:
        self.position = position
        self.stanzas = stanzas
        self.accepted_at = accepted_at
        self.upstream_ack = upstream_ack
        self.spooled = spooled
        self.durable = durable
        self.gone = False
        self.parts: Sequence[QueueItem] = ()
        self.cost = OVERHEAD * len(stanzas)
        for stanza in stanzas:
            self.cost += len(stanza.data) + stanza.text_cost

    @property
    def written(self) -> bool:
        """Whether they were on the wire."""
        return True

    @property
    def kept_upstream(self) -> bool:
        """Whether the sender's server keeps them, because their receipt is not settled."""
        return self.upstream_ack is not None and self.upstream_ack.kept_upstream

    @property
    def last(self) -> int:
        """Return the position of the last stanza."""
        return self.position + len(self.stanzas) - 1

    def settle(self, evidence: ReceiptEvidence) -> None:
        """Settle the receipts of all, if they are open."""
        upstream_ack, self.upstream_ack = self.upstream_ack, None
        if upstream_ack is not None:
            upstream_ack.settle(evidence, len(self.stanzas))

    def each(self, hold_times: HoldTimes) -> list[QueuedStanza]:
        """Return a view of each stanza."""
        at = self.accepted_at
        return [
            QueuedStanza(position, stanza, at, at + hold_times.for_stanza(stanza), None, self.spooled, self.durable, True)
            for position, stanza in enumerate(self.stanzas, self.position)
        ]

    def take_apart(self, hold_times: HoldTimes) -> list[QueuedStanza]:
        """Return the stanzas one by one, in the place of the batch."""
        parts = self.each(hold_times)
        for held in parts:
            held.upstream_ack = self.upstream_ack
        self.parts, self.upstream_ack, self.gone = parts, None, True
        return parts

    def split(self, number: int) -> tuple[Batch, Batch]:
        """Return the first `number` stanzas and the rest, in the place of the batch."""
        first = Batch(self.position, self.stanzas[:number], self.accepted_at, self.upstream_ack, self.spooled, self.durable)
        rest = Batch(
            self.position + number, self.stanzas[number:], self.accepted_at, self.upstream_ack, self.spooled, self.durable,
        )
        self.parts, self.upstream_ack, self.gone = (first, rest), None, True
        return first, rest

    def parts_now(self) -> list[QueueItem]:
        """Return the items that now stand in the place of the batch: itself, or its parts."""
        return [item for part in self.parts for item in part.parts_now()] if self.parts else [self]


QueueItem = QueuedStanza | Batch
AnyItem = TypeVar("AnyItem", QueuedStanza, Batch, QueueItem)


def settle(items: Iterable[QueueItem], evidence: ReceiptEvidence) -> None:
    """Settle the receipts of all."""
    for item in items:
        item.settle(evidence)
