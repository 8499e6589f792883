"""The verbs of `s2sgw queue`: show and change waiting stanzas by peer, lane or stanza. Each change is in the audit log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from operator import itemgetter
from typing import Any, NoReturn, NotRequired, TypedDict

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.python.failure import Failure

from s2sgw.admin.queue_ages import BOUNDS, AgeCount, AgesRow, new_row, spooled_pages
from s2sgw.admin.server import Arguments, Verb, VerbError, asked_by
from s2sgw.admin.spool_summaries import by_pair, spool_summaries, unspooled_bytes
from s2sgw.admin.verbs import flag_argument, limit_asked, peer_asked, seconds_argument
from s2sgw.delivery.custody import Custody
from s2sgw.delivery.holds import HoldTarget, NoStanzaNumber, TooManyHolds
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.net.slices import SlicedWork, Slices, in_order
from s2sgw.queue.bounce import BOUNCED_AT_ONCE
from s2sgw.queue.entries import QueuedStanza
from s2sgw.reporting.audit import AuditLog
from s2sgw.spool.interface import LaneSummary, Quarantined, Spooled, SpoolError
from s2sgw.xmpp.jid import Domain, InvalidJID
from s2sgw.xmpp.stanza import Stanza

#: Bytes of stanzas that are read from the spool for one answer.
SHOWN_BYTES = 8 * 1024 * 1024
#: Seconds in which the spool shows stanzas. It answers later if its disk hangs, or if the engine of a cluster is away.
SPOOL_SECONDS = 2.0
#: Lanes, or stanzas, that are examined in one step of the work.
AT_ONCE = 100
#: The changes that are also made on a full disk.
MAKES_ROOM = ("release", "drop")


def _fewest_last(row: AgesRow) -> int:
    return -row["stanzas"]


class WaitingRow(TypedDict):
    """The waiting stanzas to and from one peer, in all lanes."""

    peer: str
    lanes: int
    stanzas: int
    bytes: int
    oldest: float  # seconds that the first of them has waited
    states: list[str]  # "idle", "connecting", "ready", "backing off", "held", "spool unreadable"
    cause: str | None  # why the last attempt failed
    retry: float | None  # seconds until the next one
    blocked: list[str]  # why no stanza is written
    full: list[str]  # which bounds are reached: "memory share", "disk share", "disk"
    held: list[str]  # the operator's holds: "PEER", "FROM TO", "FROM TO NUMBER"
    node: NotRequired[str]  # in a cluster: whose row this is


class StanzaRow(TypedDict):
    """One stanza in custody. `data` is its text if this stanza alone was requested."""

    sender: str
    recipient: str
    number: int
    place: str  # "in flight", "waiting", "spooled" (only on disk)
    kind: str
    type: str | None
    id: str | None
    bytes: int
    age: float
    left: float  # seconds until it is bounced
    written: bool
    held: bool
    data: str | None
    node: NotRequired[str]


class PoisonRow(TypedDict):
    """One stanza on which the next server closed its stream."""

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
    """The sums for a peer's row."""

    row: WaitingRow
    oldest: float = inf
    retries: list[float] = field(default_factory=list)


class QueueVerbs:
    """Answers the verbs from the queues, in slices. Each change is written to `audit` before it is made.

    On a full disk `release` and `drop` work without a line in `audit`, because they make room. The log has the line instead.
    """

    def __init__(
        self, custody: Custody, is_local: Callable[[Domain], bool], audit: AuditLog, slices: Slices,
        is_own: Callable[[Domain], bool] | None = None,
    ) -> None:
        """Take the services. `is_own`: whether a domain is local, or was given up and is left in lanes; None: as `is_local`."""
        self._queues = custody.queues
        self._services = custody.services
        self._is_local = is_local
        self._is_own = is_own or is_local
        self._audit = audit
        self._slices = slices

    def verbs(self) -> dict[str, Verb]:
        """Return the verbs for `AdminService`."""
        return {
            "queue ages": self.ages, "queue list": self.peers,
            "queue poison": self.poison, "queue show": self.show, "queue hold": self.hold,
            "queue release": self.release, "queue drop": self.drop, "queue flush": self.flush,
        }

    # --- reading ---

    def peers(self, arguments: Arguments) -> Deferred[list[WaitingRow]]:
        """Return a row for each peer, those with the most waiting stanzas first."""
        return self._slices.run(self._peers(peer_asked(arguments), limit_asked(arguments)))

    def _peers(self, wanted: Domain | None, limit: int) -> SlicedWork[list[WaitingRow]]:
        summaries = yield from by_pair((yield Deferred.fromCoroutine(spool_summaries(self._services))))
        sums: dict[Domain, _Sum] = {}
        for number, queue in enumerate(self._queues):
            if number % AT_ONCE == 0:
                yield None
            peer = queue.peer
            if (wanted is None or peer == wanted) and (len(queue.pair_queue) or queue.held or queue.parked):
                sum_ = sums.setdefault(peer, _Sum(_no_row(peer)))
                sum_.row["bytes"] += yield from unspooled_bytes(queue)
                self._add(sum_, queue, summaries.get(queue.pair))
        return (yield from self._finished(sums, wanted, limit))

    def _add(self, sum_: _Sum, queue: DeliveryQueue, summary: LaneSummary | None) -> None:
        row, status = sum_.row, queue.next_hop.status()
        row["lanes"] += len(queue.pair_queue) > 0
        row["stanzas"] += len(queue.pair_queue)
        row["bytes"] += summary.bytes if summary else 0
        state = "held" if queue.held else "spool unreadable" if queue.spooled_range.unreadable else status.state
        if state not in row["states"]:
            row["states"].append(state)
        since = [queue.pair_queue.oldest, None if summary is None else summary.oldest]
        sum_.oldest = min([sum_.oldest, *(at for at in since if at is not None)])
        if status.cause is not None:
            row["cause"] = status.cause.value
        for words, more in ((row["blocked"], [queue.waits_for()]), (row["full"], queue.full_bounds())):
            words += [word for word in more if word is not None and word not in words]
        if status.retry_at is not None:
            sum_.retries.append(status.retry_at)

    def _finished(self, sums: dict[Domain, _Sum], wanted: Domain | None, limit: int) -> SlicedWork[list[WaitingRow]]:
        """Return the rows in order, also those of peers without waiting stanzas if something is held."""
        for target in self._services.holds:
            for peer in (target.peer,) if target.peer is not None else target.pair or ():
                if peer in sums or (target.peer is not None and (wanted is None or peer == wanted)):
                    sums.setdefault(peer, _Sum(_no_row(peer))).row["held"].append(str(target))
        ordered = yield from in_order(sums.values(), lambda sum_: -sum_.row["stanzas"])
        return [_finished(sum_, self._now()) for sum_ in islice(ordered, limit)]

    def _now(self) -> float:
        return self._services.clock.seconds()

    def _spooled(self, method: Callable[..., None], *arguments: Any) -> Deferred[Any]:
        """Return the spool's answer. The Deferred fails with `VerbError` if the spool cannot be read, or not in time."""
        answered: Deferred[Any] = Deferred()
        method(*arguments, answered.callback)
        answered.addTimeout(SPOOL_SECONDS, self._services.clock)
        return answered.addCallbacks(_readable, _not_in_time)

    def ages(self, arguments: Arguments) -> Deferred[dict[str, Any]]:
        """Return the waiting stanzas of each peer by age, those with the most stanzas first."""
        return self._slices.run(self._ages(peer_asked(arguments), limit_asked(arguments)))

    def _ages(self, wanted: Domain | None, limit: int) -> SlicedWork[dict[str, Any]]:
        rows: dict[Domain, AgesRow] = {}
        count = AgeCount(self._services.spool, self._services.clock)
        for number, queue in enumerate(self._queues):
            if number % AT_ONCE == 0:
                yield None
            peer = queue.peer
            if (wanted is None or peer == wanted) and len(queue.pair_queue):
                yield from count.add(rows.setdefault(peer, new_row(str(peer))), queue)
        ordered = yield from in_order(rows.values(), _fewest_last)
        return {"bounds": list(BOUNDS), "rows": list(islice(ordered, limit))}

    async def poison(self, arguments: Arguments) -> list[PoisonRow]:
        """Return the stanzas in quarantine, oldest first."""
        rows: list[Quarantined] = await self._spooled(self._services.spool.quarantined, limit_asked(arguments))
        wanted = peer_asked(arguments)
        return [_poison(row) for row in rows if wanted is None or wanted in row.spooled.pair]

    def show(self, arguments: Arguments) -> Deferred[list[StanzaRow]]:
        """Return the stanzas of a peer or a lane, lane by lane, or one stanza with its text."""
        return self._slices.run(self._show(_target(arguments), limit_asked(arguments)))

    def _show(self, target: HoldTarget, limit: int) -> SlicedWork[list[StanzaRow]]:
        rows: list[StanzaRow] = []
        for queue in (yield from self._chosen(target)):
            if len(rows) < limit:
                rows += yield from self._rows(queue, target.position, limit - len(rows))
        return rows

    def _rows(self, queue: DeliveryQueue, position: int | None, limit: int) -> SlicedWork[list[StanzaRow]]:
        pair_queue = queue.pair_queue
        flying = sum(len(piece.stanzas) for piece in pair_queue.in_flight)
        known, rows = set[int](), list[StanzaRow]()
        for at, held in enumerate(list(pair_queue)):
            known.add(held.position)
            if held.position == position or (position is None and len(rows) < limit):
                rows.append(self._row(queue, held, "in flight" if at < flying else "waiting"))
            if at % AT_ONCE == 0:
                yield None
        if pair_queue.spooled_range is not None:
            after, at_most = (pair_queue.spooled_range[0], SHOWN_BYTES) if position is None else (position - 1, 1)
            spooled: list[Spooled] = yield self._spooled(self._services.spool.read, queue.pair, after, at_most)
            rows += [self._row(queue, row, "spooled") for row in spooled[:limit] if row.position not in known]
        if position is None:
            return [StanzaRow(**{**row, "data": None}) for row in sorted(rows, key=itemgetter("number"))[:limit]]
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

    def hold(self, arguments: Arguments) -> Deferred[dict[str, Any]]:
        """Deliver nothing of the target until it is released. It still expires."""
        return self._slices.run(self._hold(self._changing("hold", arguments)))

    def _hold(self, target: HoldTarget) -> SlicedWork[dict[str, Any]]:
        if target.position is not None and not (yield from self._may_wait(target)):
            raise VerbError(f"nothing was held: no stanza waits with number {target.position} in this lane")
        try:
            yield Deferred.fromCoroutine(self._services.holds.add(target))
        except TimeoutError as error:
            raise VerbError(f"it is not known whether this is held: {error}; s2sgw queue list shows it") from None
        except (TooManyHolds, OSError) as error:
            raise VerbError(f"cannot be held: {error}") from None
        lanes = stanzas = 0
        for queue in (yield from self._chosen(target)):
            number = yield from self._number(queue, target)
            queue.hold(target.position)
            lanes += number > 0
            stanzas += number
            yield None
        return {"lanes": lanes, "stanzas": stanzas}

    def _may_wait(self, target: HoldTarget) -> SlicedWork[bool]:
        """Return whether the stanza waits in memory, or may wait in the spool."""
        for queue in (yield from self._chosen(target)):
            if (yield from self._number(queue, target)):
                return True
        return False

    def release(self, arguments: Arguments) -> Deferred[dict[str, Any]]:
        """Remove all holds that the target covers. `holds` is their number; `held` names others that hold it back still."""
        return self._slices.run(self._release(self._changing("release", arguments)))

    def _release(self, target: HoldTarget) -> SlicedWork[dict[str, Any]]:
        """Release each lane of the target, unless another hold covers it. Stanzas are counted first: some are sent at once."""
        counted: dict[DeliveryQueue, int] = {}
        for queue in (yield from self._chosen(target)):
            counted[queue] = yield from self._number(queue, target)
            yield None
        try:
            holds: int = yield Deferred.fromCoroutine(self._services.holds.discard(target))
        except TimeoutError as error:
            raise VerbError(f"it is not known whether this is released: {error}; s2sgw queue list shows it") from None
        except OSError as error:
            raise VerbError(f"cannot be released: {error}") from None
        lanes = stanzas = 0
        for queue in (yield from self._chosen(target)):  # some may have been made meanwhile
            number = counted[queue] if queue in counted else (yield from self._number(queue, target))
            if not self._services.holds.holds(queue.pair):
                queue.release(target.position)
                lanes += number > 0
                stanzas += number
            yield None
        left = [str(hold) for hold in self._services.holds if _is_wider(hold, target)]
        return {"lanes": lanes, "stanzas": stanzas, "holds": holds, **({"held": left} if left else {})}

    def flush(self, arguments: Arguments) -> Deferred[dict[str, Any]]:
        """Retry the delivery now. For a stanza, its lane is retried."""
        target = self._changing("flush", arguments)
        return self._slices.run(self._flush(target))

    def _flush(self, target: HoldTarget) -> SlicedWork[dict[str, Any]]:
        lanes = stanzas = 0
        for queue in (yield from self._chosen(target)):
            if not queue.held and len(queue.pair_queue):
                lanes, stanzas = lanes + 1, stanzas + len(queue.pair_queue)
                queue.flush()
            yield None
        return {"lanes": lanes, "stanzas": stanzas}

    def drop(self, arguments: Arguments) -> Deferred[dict[str, Any]]:
        """Bounce waiting stanzas, or with `quietly` remove them.

        `older_than`: only those that have waited at least so many seconds.
        """
        quietly, older_than = flag_argument(arguments, "quietly"), seconds_argument(arguments, "older_than", least=0)
        if older_than is not None and _target(arguments).position is not None:
            raise VerbError("older_than is for a peer or a lane, not for one stanza", "usage")
        facts = {} if older_than is None else {"older_than": older_than}
        target = self._changing("drop", arguments, quietly=quietly, **facts)
        return self._slices.run(self._drop(target, quietly, None if older_than is None else self._now() - older_than))

    def _drop(self, target: HoldTarget, quietly: bool, before: float | None) -> SlicedWork[dict[str, Any]]:
        lanes = stanzas = 0
        for queue in (yield from self._chosen(target)):
            if before is None:
                number = yield queue.drop(quietly, target.position)
            else:
                number = yield from self._drop_older(queue, quietly, before)
            lanes += number > 0
            stanzas += number
        return {"lanes": lanes, "stanzas": stanzas}

    def _drop_older(self, queue: DeliveryQueue, quietly: bool, before: float) -> SlicedWork[int]:
        """Drop what was accepted before `before`. Positions are in the order of acceptance, so the first younger one ends it."""
        number = 0
        while dropped := queue.drop_older(quietly, before, BOUNCED_AT_ONCE):
            number += dropped
            yield None
        for read in spooled_pages(self._services.spool, queue):
            page = yield from read
            older = [spooled.position for spooled in page if spooled.accepted_at < before]
            for position in older:
                number += yield queue.drop(quietly, position)
            if not page or len(older) < len(page):
                break
        return number

    def _chosen(self, target: HoldTarget) -> SlicedWork[Sequence[DeliveryQueue]]:
        chosen = []
        for number, queue in enumerate(self._queues):
            if target.covers(queue.pair):
                chosen.append(queue)
            if number % AT_ONCE == 0:
                yield None
        return chosen

    def _number(self, queue: DeliveryQueue, target: HoldTarget) -> SlicedWork[int]:
        """Return how many stanzas of the lane the target covers. A number that the spool may hold counts as one."""
        if target.position is None:
            return len(queue.pair_queue)
        spooled = queue.pair_queue.spooled_range
        if spooled is not None and spooled[0] < target.position <= spooled[1]:
            return 1
        found = 0
        for number, held in enumerate(list(queue.pair_queue)):
            found += held.position == target.position
            if number % AT_ONCE == 0:
                yield None
        return found

    def _changing(self, action: str, arguments: Arguments, **facts: object) -> HoldTarget:
        """Write the change to the audit log, and return the target. Raises `VerbError` if it cannot be written.

        On a full disk, a change that makes room is written to the log instead.
        """
        target = _target(arguments)
        if target.peer is not None and self._is_local(target.peer):
            raise VerbError(f"{target.peer} is a local domain; name a peer, or a lane as FROM TO", "usage")
        if target.pair is not None and not any(map(self._is_own, target.pair)):
            raise VerbError(f"neither {target.pair.sender} nor {target.pair.recipient} is a local domain", "usage")
        note = self._audit.note_or_log if action in MAKES_ROOM else self._audit.note
        try:
            note(f"queue {action}", by=asked_by(arguments), target=str(target), **facts)
        except OSError as error:
            raise VerbError(f"nothing was done: the audit log cannot be written: {error}") from None
        return target


def _target(arguments: Arguments) -> HoldTarget:
    words = arguments.get("target")
    if not isinstance(words, list) or not 1 <= len(words) <= 3:
        raise VerbError("target must be [peer], [from, to] or [from, to, number]", "usage")
    try:
        return HoldTarget.read(words)
    except NoStanzaNumber as error:
        raise VerbError(f"target: {error}", "usage") from None
    except (InvalidJID, ValueError):
        raise VerbError("target must be one domain, two, or two and the number of a stanza", "usage") from None


def _is_wider(hold: HoldTarget, target: HoldTarget) -> bool:
    """Return whether a hold also holds a lane or a stanza back, beside the holds of `target` itself."""
    return target.pair is not None and hold.position is None and hold.covers(target.pair) and hold != target


def _no_row(peer: Domain) -> WaitingRow:
    return WaitingRow(
        peer=str(peer), lanes=0, stanzas=0, bytes=0, oldest=0.0, states=[], cause=None, retry=None, blocked=[], full=[], held=[],
    )


def _finished(sum_: _Sum, now: float) -> WaitingRow:
    sum_.row["oldest"] = max(0.0, now - sum_.oldest)
    sum_.row["retry"] = min(sum_.retries) - now if sum_.retries else None
    return sum_.row


def _readable(answer: Any) -> Any:
    if isinstance(answer, SpoolError):
        raise VerbError(f"the spool cannot be read: {answer}")
    return answer


def _not_in_time(failure: Failure) -> NoReturn:
    if failure.check(TookTooLong) is not None:
        raise VerbError("the spool does not answer: try again when its disk, or the engine of the cluster, does")
    failure.raiseException()


def _poison(row: Quarantined) -> PoisonRow:
    pair, stanza = row.spooled.pair, row.spooled.stanza
    return PoisonRow(
        at=row.at, sender=str(pair.sender), recipient=str(pair.recipient), kind=stanza.kind, id=stanza.id,
        bytes=len(stanza.data), cause=row.cause, data=_text(stanza),
    )


def _text(stanza: Stanza) -> str:
    return stanza.data.decode("utf-8", "replace")
