"""The verbs of `s2sgw queue`: what waits, seen and changed by peer, lane or stanza; each change is in the audit log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from twisted.internet.defer import Deferred

from s2sgw.admin.server import Arguments, Verb, VerbError
from s2sgw.admin.verbs import limit_asked, peer_asked
from s2sgw.delivery.holds import HoldTarget, TooManyHolds, drop, flush, hold, release
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.queue.entries import QueuedStanza
from s2sgw.reporting.audit import AuditLog
from s2sgw.spool.interface import LaneSummary, Quarantined, Spooled, SpoolError
from s2sgw.xmpp.jid import Domain, InvalidJID, Pair
from s2sgw.xmpp.stanza import Stanza

#: Bytes of stanzas that are fetched from the spool for one answer.
SHOWN_BYTES = 8 * 1024 * 1024


class PeerRow(TypedDict):
    """What waits for and from one peer, in all of its lanes."""

    peer: str
    lanes: int
    stanzas: int
    bytes: int
    oldest: float  # seconds that the first of them has waited
    states: list[str]  # "idle", "connecting", "ready", "backing off", "held", "spool unreadable"
    cause: str | None  # why the last attempt failed
    retry: float | None  # seconds until the next one
    held: list[str]  # what the operator holds back: "PEER", "FROM TO", "FROM TO NUMBER"


class StanzaRow(TypedDict):
    """One stanza in custody; `data` is there where it alone was asked for."""

    sender: str
    recipient: str
    number: int
    place: str  # "in flight", "waiting", "spooled" (there alone)
    kind: str
    type: str | None
    id: str | None
    bytes: int
    age: float
    left: float  # seconds until it is bounced
    written: bool
    held: bool
    data: str | None


class PoisonRow(TypedDict):
    """One stanza on which the next server closes its stream."""

    at: float
    sender: str
    recipient: str
    kind: str
    id: str | None
    bytes: int
    cause: str
    data: str


@dataclass(slots=True)
class _Sum:
    """A peer's row as it is added up."""

    row: PeerRow
    oldest: float = float("inf")
    retries: list[float] = field(default_factory=list)


class QueueVerbs:
    """Answers the verbs from `lanes`; changes are noted in `audit` before they are made."""

    def __init__(self, queues: DeliveryQueues, is_local: Callable[[Domain], bool], audit: AuditLog) -> None:
        self._queues = queues
        self._is_local = is_local
        self._audit = audit

    def verbs(self) -> dict[str, Verb]:
        """For `AdminService`."""
        return {
            "queue list": self.peers, "queue poison": self.poison, "queue show": self.show, "queue hold": self.hold,
            "queue release": self.release, "queue drop": self.drop, "queue flush": self.flush,
        }

    # --- looking ---

    async def peers(self, arguments: Arguments) -> list[PeerRow]:
        """By peer, those with the most to wait for first."""
        wanted = peer_asked(arguments)
        summaries: dict[Pair, LaneSummary] = {row.pair: row for row in await _answer(self._queues.spool.queues)}
        sums: dict[Domain, _Sum] = {}
        for queue in self._queues:
            peer = queue.pair.sender if queue.direction == "inbound" else queue.pair.recipient
            if (wanted is None or peer.ascii == wanted) and (len(queue.pair_queue) or queue.held or queue.parked):
                self._add(sums.setdefault(peer, _Sum(self._empty(peer))), queue, summaries.get(queue.pair))
        for peer in [target.peer for target in self._queues.operator_holds if target.peer is not None]:
            if wanted is None or peer.ascii == wanted:
                sums.setdefault(peer, _Sum(self._empty(peer)))
        rows = [self._finished(each) for each in sums.values()]
        return sorted(rows, key=lambda row: -row["stanzas"])[: limit_asked(arguments)]

    def _empty(self, peer: Domain) -> PeerRow:
        held = [str(target) for target in self._queues.operator_holds if target.peer == peer or (target.pair and peer in
        target.pair)]
        return PeerRow(peer=str(peer), lanes=0, stanzas=0, bytes=0, oldest=0.0, states=[], cause=None, retry=None, held=held)

    def _add(self, sum_: _Sum, queue: DeliveryQueue, summary: LaneSummary | None) -> None:
        row = sum_.row
        row["lanes"] += 1
        row["stanzas"] += len(queue.pair_queue)
        row["bytes"] += sum(len(held.stanza.data) for held in queue.pair_queue if not held.spooled) + (summary.bytes if summary
        else 0)
        status = queue.next_hop.status()
        state = "held" if queue.held else "spool unreadable" if queue.spooled_range.unreadable else status.state
        if state not in row["states"]:
            row["states"].append(state)
        since = [queue.pair_queue.oldest, None if summary is None else summary.oldest]
        sum_.oldest = min([sum_.oldest, *(at for at in since if at is not None)])
        if status.cause is not None:
            row["cause"] = status.cause.value
        if status.retry_at is not None:
            sum_.retries.append(status.retry_at)

    def _finished(self, sum_: _Sum) -> PeerRow:
        now = self._now()
        sum_.row["oldest"] = max(0.0, now - sum_.oldest)
        sum_.row["retry"] = min(sum_.retries) - now if sum_.retries else None
        return sum_.row

    def _now(self) -> float:
        return self._queues.clock.seconds()

    async def poison(self, arguments: Arguments) -> list[PoisonRow]:
        """The pen, oldest first."""
        rows: list[Quarantined] = await _answer(self._queues.spool.quarantined, limit_asked(arguments))
        wanted = peer_asked(arguments)
        return [_poison(row) for row in rows if wanted is None or any(each.ascii == wanted for each in row.spooled.pair)]

    async def show(self, arguments: Arguments) -> list[StanzaRow]:
        """The stanzas of a peer, a lane, or one with its data; in order, lane by lane."""
        target, limit = _target(arguments), limit_asked(arguments)
        rows: list[StanzaRow] = []
        for queue in self._chosen(target):
            if len(rows) < limit:
                rows += await self._rows(queue, target.position, limit - len(rows))
        return rows

    async def _rows(self, queue: DeliveryQueue, position: int | None, limit: int) -> list[StanzaRow]:
        pair_queue = queue.pair_queue
        known = {held.position for held in pair_queue}
        flying = sum(len(piece.stanzas) for piece in pair_queue.in_flight)
        rows = [self._row(queue, held, "in flight" if at < flying else "waiting") for at, held in enumerate(pair_queue)]
        if pair_queue.spooled_range is not None:
            after, at_most = (pair_queue.spooled_range[0], SHOWN_BYTES) if position is None else (position - 1, 1)
            spooled: list[Spooled] = await _answer(self._queues.spool.read, queue.pair, after, at_most)
            rows += [self._row(queue, row, "spooled") for row in spooled if row.position not in known]
        if position is None:
            return [StanzaRow(**{**row, "data": None}) for row in sorted(rows, key=lambda row: row["number"])[:limit]]
        return [row for row in rows if row["number"] == position]

    def _row(self, queue: DeliveryQueue, row: QueuedStanza | Spooled, place: str) -> StanzaRow:
        stanza, now = row.stanza, self._now()
        return StanzaRow(
            sender=str(queue.pair.sender), recipient=str(queue.pair.recipient), number=row.position, place=place,
            kind=stanza.kind,
            type=stanza.type, id=stanza.id, bytes=len(stanza.data), age=now - row.accepted_at, left=row.deadline - now,
            written=row.written, held=queue.held or row.position in queue.parked, data=_text(stanza),
        )

    # --- changing ---

    def hold(self, arguments: Arguments) -> dict[str, Any]:
        """Nothing of it is written until it is released; it goes on ageing."""
        target = self._changing("hold", arguments)
        try:
            self._queues.operator_holds.add(target)
        except (TooManyHolds, OSError) as error:
            raise VerbError(f"cannot be held: {error}") from None
        queues = self._chosen(target)
        for queue in queues:
            hold(queue, target.position)
        return {"lanes": len(queues), "stanzas": self._number(queues, target)}

    def release(self, arguments: Arguments) -> dict[str, Any]:
        """The end of holds, of all that the target covers; `holds`: how many there were."""
        target = self._changing("release", arguments)
        try:
            holds = self._queues.operator_holds.discard(target)
        except OSError as error:
            raise VerbError(f"cannot be released: {error}") from None
        queues = [queue for queue in self._chosen(target) if not self._queues.operator_holds.holds(queue.pair)]
        for queue in queues:
            release(queue, target.position)
        return {"lanes": len(queues), "stanzas": self._number(queues, target), "holds": holds}

    def flush(self, arguments: Arguments) -> dict[str, Any]:
        """Another attempt now. A stanza's is its lane's."""
        target = self._changing("flush", arguments)
        queues = [queue for queue in self._chosen(target) if not queue.held and len(queue.pair_queue)]
        for queue in queues:
            flush(queue)
        return {"lanes": len(queues), "stanzas": sum(len(queue.pair_queue) for queue in queues)}

    def drop(self, arguments: Arguments) -> dict[str, Any]:
        """Bounce what waits; or forget it, where `quietly`."""
        quietly = arguments.get("quietly", False)
        if not isinstance(quietly, bool):
            raise VerbError("quietly must be true or false", "usage")
        target = self._changing("drop", arguments, quietly=quietly)
        queues = self._chosen(target)
        return {"lanes": len(queues), "stanzas": sum(drop(queue, quietly, target.position) for queue in queues)}

    def _chosen(self, target: HoldTarget) -> Sequence[DeliveryQueue]:
        return [queue for queue in self._queues if target.covers(queue.pair)]

    def _number(self, queues: Sequence[DeliveryQueue], target: HoldTarget) -> int:
        if target.position is None:
            return sum(len(queue.pair_queue) for queue in queues)
        return sum(1 for queue in queues for held in queue.pair_queue if held.position == target.position)

    def _changing(self, action: str, arguments: Arguments, **facts: object) -> HoldTarget:
        """The target, once the change is noted: what cannot be noted is not done."""
        target = _target(arguments)
        if target.peer is not None and self._is_local(target.peer):
            raise VerbError(f"{target.peer} is a local domain; name a peer, or a lane as FROM TO", "usage")
        try:
            self._audit.note(f"queue {action}", by="admin socket", target=str(target), **facts)
        except OSError as error:
            raise VerbError(f"nothing was done, for it cannot be noted in the audit log: {error}") from None
        return target


def _target(arguments: Arguments) -> HoldTarget:
    words = arguments.get("target")
    if not isinstance(words, list) or not 1 <= len(words) <= 3:
        raise VerbError("target must be [peer], [from, to] or [from, to, number]", "usage")
    try:
        target = HoldTarget.read(words)
    except (InvalidJID, ValueError, TypeError):
        raise VerbError("target must be one domain, two, or two and the number of a stanza", "usage") from None
    if target.position is not None and target.position < 1:
        raise VerbError("stanzas are numbered from 1", "usage")
    return target


async def _answer(method: Callable[..., None], *arguments: Any) -> Any:
    """Return what the spool answers. Raises `VerbError` where it cannot be read."""
    answered: Deferred[Any] = Deferred()
    method(*arguments, answered.callback)
    answer = await answered
    if isinstance(answer, SpoolError):
        raise VerbError(f"the spool cannot be read: {answer}")
    return answer


def _poison(row: Quarantined) -> PoisonRow:
    pair, stanza = row.spooled.pair, row.spooled.stanza
    return PoisonRow(
        at=row.at, sender=str(pair.sender), recipient=str(pair.recipient), kind=stanza.kind, id=stanza.id,
        bytes=len(stanza.data), cause=row.cause, data=_text(stanza),
    )


def _text(stanza: Stanza) -> str:
    return stanza.data.decode("utf-8", "replace")
