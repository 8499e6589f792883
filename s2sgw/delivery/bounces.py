"""The error stanzas that end the custody of stanzas which could not be passed on (R33, R34).

The receipt of a bounced stanza is settled when its error is safe: passed on, or on the disk. A stanza in the spool is removed
there in the commit that has its error, or when the error was passed on, and never before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from s2sgw.delivery.next_hop import StanzaSource
from s2sgw.queue.bounce import bounce, may_bounce
from s2sgw.queue.entries import QueuedStanza, QueueItem, UpstreamAck, settle
from s2sgw.queue.evidence import DROPPED, ErrorInCustody, ReceiptEvidence, Rule
from s2sgw.reporting.record import Direction, EventRecord
from s2sgw.spool.interface import Replaced
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.stanza import Stanza


class BouncingQueue(Protocol):
    """The interface of the delivery queue whose stanzas are bounced."""

    direction: Direction

    @property
    def pair(self) -> Pair: ...

    def leave(self, gone: Sequence[QueuedStanza]) -> list[int]:
        """Take stanzas out of the queue. Return the positions that must be removed from the spool."""

    def strike_off(self, positions: Sequence[int]) -> None:
        """Remove these from the spool."""

    def struck_off(self, positions: Sequence[int]) -> None:
        """Note that the spool no longer holds these."""


class ReturnQueue(Protocol):
    """The interface of the delivery queue back to the sender."""

    def accept_errors(
        self, stanzas: list[Stanza], source: StanzaSource | None = None, upstream_ack: UpstreamAck | None = None,
    ) -> None: ...

    def spool_now(self) -> None: ...

    def takes_errors(self) -> bool:
        """Return whether an error would be written at once. If not, request its delivery."""


class QueueLookup(Protocol):
    """Finds the delivery queue of a pair."""

    def queue(self, pair: Pair) -> ReturnQueue: ...

    def direction(self, pair: Pair) -> Direction: ...


class RefusalAck(UpstreamAck):
    """The receipt of errors that answer stanzas which were not taken into custody. Their own receipt is `refused`."""

    __slots__ = ("_refused",)

    def __init__(self, total: int, refused: UpstreamAck) -> None:
        super().__init__(total)
        self._refused = refused

    def all_settled(self, evidence: ReceiptEvidence) -> None:
        self._refused.settle(ErrorInCustody(evidence), self.total)

    def answers_for(self) -> list[UpstreamAck]:
        return [*super().answers_for(), self._refused]


class BounceAck(UpstreamAck):
    """The receipt of errors that answer `answered`. These stanzas have left the custody of `queue`.

    `positions` of the stanzas must be removed from the spool.
    """

    __slots__ = ("_answered", "_positions", "_queue", "_told")

    def __init__(
        self, queue: BouncingQueue, answered: Sequence[QueuedStanza], positions: list[int], told: Callable[[], None],
    ) -> None:
        super().__init__(len(answered))
        self._queue = queue
        self._answered = answered
        self._positions = positions
        self._told = told

    @property
    def kept_upstream(self) -> bool:
        """Whether the answered stanzas are on the disk, or kept by their sender's server."""
        return all(held.durable or held.kept_upstream for held in self._answered)

    @property
    def replaces(self) -> Replaced | None:
        """Return the rows that the spool removes in the commit with the last of the errors."""
        return Replaced(self._queue.pair, self._positions) if self._positions else None

    def replaced(self) -> None:
        """Note that the commit is done. If the errors were passed on before, the queue may have been forgotten."""
        positions, self._positions = self._positions, []
        if positions:
            self._queue.struck_off(positions)

    def answers_for(self) -> list[UpstreamAck]:
        return [*super().answers_for(), *(held.upstream_ack for held in self._answered if held.upstream_ack is not None)]

    def all_settled(self, evidence: ReceiptEvidence) -> None:
        positions, self._positions = self._positions, []
        if positions:
            self._queue.strike_off(positions)
        settle(self._answered, ErrorInCustody(evidence))
        self._told()


def completed_by(batch: Sequence[QueueItem]) -> list[BounceAck]:
    """Return the receipts of errors that are all in `batch`, or safe already, and replace something in the spool."""
    numbers: dict[BounceAck, int] = {}
    for item in batch:
        ack = item.upstream_ack
        if isinstance(ack, BounceAck) and ack.replaces is not None:
            numbers[ack] = numbers.get(ack, 0) + len(item.stanzas)
    return [ack for ack, number in numbers.items() if number == ack.left]


def _nothing() -> None:
    """Do nothing: no caller waits for this."""


class Bounces:
    """Makes error stanzas and puts them into the queue back to the sender."""

    def __init__(self, record: EventRecord, lookup: QueueLookup) -> None:
        self._record = record
        self._lookup = lookup

    def takes_errors(self, pair: Pair) -> bool:
        """Return whether an error that answers a stanza of `pair` would be written at once."""
        return self._lookup.queue(pair.inverse).takes_errors()

    def refuse(
        self, pair: Pair, stanzas: Sequence[Stanza], cause: Cause, upstream_ack: UpstreamAck | None = None,
        source: StanzaSource | None = None, outcome: str | None = None,
    ) -> None:
        """Bounce stanzas that were not taken into custody. They are counted as `outcome`.

        `source` brought them. It is paused if the queue back to the sender takes no more.
        """
        errors = self._errors(self._lookup.direction(pair), stanzas, cause, "", outcome)
        if upstream_ack is not None and len(errors) < len(stanzas):
            upstream_ack.settle(DROPPED[Rule.UNANSWERABLE], len(stanzas) - len(errors))
        if errors:
            ack = None if upstream_ack is None else RefusalAck(len(errors), upstream_ack)
            self._lookup.queue(pair.inverse).accept_errors(errors, source, ack)

    def give_up(
        self, queue: BouncingQueue, gone: Sequence[QueuedStanza], cause: Cause, said: str = "",
        told: Callable[[], None] = _nothing,
    ) -> None:
        """Bounce stanzas that were in the custody of `queue`. `told` is called when the receipts of all of them are settled.

        `said`: a word of a fixed list for the error's text.
        """
        answerable = [held for held in gone if may_bounce(held.stanza)]
        if len(answerable) < len(gone):
            self.drop(queue, [held for held in gone if not may_bounce(held.stanza)], Rule.UNANSWERABLE, "dropped")
        if not answerable:
            told()
            return
        errors = self._errors(queue.direction, [held.stanza for held in answerable], cause, said, None)
        positions = queue.leave(answerable)
        back = self._lookup.queue(queue.pair.inverse)
        back.accept_errors(errors, None, BounceAck(queue, answerable, positions, told))
        if positions:
            back.spool_now()

    def drop(self, queue: BouncingQueue, gone: Sequence[QueuedStanza], rule: Rule, outcome: str) -> None:
        """End the custody of stanzas without an error, by `rule`. They are counted as `outcome`."""
        self._record.counted(queue.direction, outcome, [held.stanza for held in gone])
        if positions := queue.leave(gone):
            queue.strike_off(positions)
        settle(gone, DROPPED[rule])

    def _errors(
        self, direction: Direction, stanzas: Sequence[Stanza], cause: Cause, said: str, outcome: str | None,
    ) -> list[Stanza]:
        """Return the errors for `stanzas`, in their order. Some stanzas must not be answered by an error."""
        errors = []
        for stanza in stanzas:
            error = bounce(stanza, cause, said)
            self._record.counted(direction, outcome or ("dropped" if error is None else "bounced"), (stanza,))
            if error is not None:
                errors.append(Stanza(stanza.kind, error, stanza.from_, stanza.to, "error", stanza.id))
        return errors
