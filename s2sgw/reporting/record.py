"""The record of endings: every refusal and every change of a stream is recorded here.

The log line, the rows of `s2sgw refusals` and the metrics are three views of it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from heapq import merge
from operator import attrgetter
from typing import Any, Literal, Protocol

from twisted.logger import Logger, LogLevel

from s2sgw.reporting.daily_report import DailyReport
from s2sgw.reporting.letter import letter, no_letter
from s2sgw.reporting.live_events import TOLD, LiveEvents
from s2sgw.reporting.repetition import RepeatedEvents
from s2sgw.xmpp.ending import REMEDIES_HERE, Ending, Layer
from s2sgw.xmpp.fair_dict import FairDict
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.registered_domain import registered_domain
from s2sgw.xmpp.stanza import Stanza
from s2sgw.xmpp.wall_clock import WallClock

Direction = Literal["inbound", "outbound"]
Leg = Literal["federation", "backend"]

#: Strangers choose the names under which refusals are kept, so these are bounded: names, and refusals of each name.
NAMES = 2000
PER_NAME = 20
#: The largest part of these names that may be made up.
STRANGERS = 0.2
#: Bytes of all refusals in memory, approximately, and of one without its texts.
REFUSAL_BYTES = 16 * 1024 * 1024
OVERHEAD = 700
#: Changes of one kind, of one peer, that are logged individually in a minute.
CHANGES_TOLD = 10
#: Bounds of one refusal: characters of a name, of the detail and of all reasons together, and number of reasons. It has at most 2
#: kB.
NAME_CHARACTERS = 253
DETAIL_CHARACTERS = 250
REASONS_CHARACTERS = 600
REASONS = 6
#: A text of at most this length is never clipped.
MOST_BYTES = 2000

#: The key of a stanza's kind in the counters.
kind_of = attrgetter("kind")
_direction_and_cause = attrgetter("direction", "ending.cause")


def direction_of(leg: Leg) -> Direction:
    """Return the direction of the stanzas that come on streams of `leg`."""
    return "inbound" if leg == "federation" else "outbound"


@dataclass(frozen=True, slots=True)
class RefusalRecord:
    """One refused handshake or delivery; `at` is seconds since the epoch, `reasons` what each proof came to.

    It happened `times` times in a row, the first time at `first` (0: at `at`).
    """

    at: float
    direction: Direction
    leg: Leg
    peer: str
    local: str
    address: str
    ending: Ending
    reasons: tuple[str, ...] = ()
    times: int = 1
    first: float = 0.0

    @property
    def sameness(self) -> tuple[str, ...]:
        """Return the facts that two refusals must share to be counted as one."""
        host, ending = self.address.rpartition(":")[0], self.ending
        return self.peer, self.local, self.direction, self.leg, host, ending.cause.value, ending.detail, ending.by

    def after(self, before: RefusalRecord) -> RefusalRecord:
        """Return both refusals as one."""
        return replace(self, times=before.times + self.times, first=before.first or before.at)

    def clipped(self) -> RefusalRecord:
        """Return the refusal within its bounds: strangers chose much of it."""
        texts = f"{self.peer}{self.local}{self.address}{self.ending.detail}"
        if not self.reasons and len(texts) <= min(NAME_CHARACTERS, DETAIL_CHARACTERS) and texts.isascii():
            return self
        peer, local, address = (clipped(name, NAME_CHARACTERS) for name in (self.peer, self.local, self.address))
        ending = replace(self.ending, detail=clipped(self.ending.detail, DETAIL_CHARACTERS))
        return replace(self, peer=peer, local=local, address=address, ending=ending, reasons=clipped_reasons(self.reasons))

    @property
    def remedy(self) -> str:
        """Return what to do: for our own administrator if our server or a decision of ours is concerned, else for the other."""
        if self.ending.by == "us" and self.ending.cause in REMEDIES_HERE:
            return REMEDIES_HERE[self.ending.cause]
        ours = self.leg == "backend" and self.ending.layer in (Layer.TCP, Layer.TLS, Layer.PKIX, Layer.AUTH, Layer.STREAM)
        return f"This concerns your own server, not the peer. {self.ending.remedy}" if ours else self.ending.remedy

    @property
    def size(self) -> int:
        """Return its bytes of memory, approximately."""
        texts = (self.peer, self.local, self.address, self.ending.detail, *self.reasons)
        return OVERHEAD + sum(map(len, texts))

    def row(self, with_letter: bool = False) -> dict[str, object]:
        """Return the JSON row for operators. `with_letter`: with the text to the other administrator."""
        ending = self.ending
        row: dict[str, object] = {
            "at": self.at, "direction": self.direction, "leg": self.leg, "peer": self.peer, "local": self.local,
            "address": self.address, "layer": ending.layer.value, "cause": ending.cause.value, "detail": ending.detail,
            "by": ending.by, "condition": ending.condition, "reasons": list(self.reasons), "remedy": self.remedy,
            "times": self.times, "first": self.first or self.at,
        }
        if with_letter and self.leg == "backend":
            row["letter"], row["no_letter"] = None, no_letter(self.peer, self.remedy)
        elif with_letter:
            row["letter"] = letter(
                self.direction, self.peer, self.local, self.address, self.at, ending, self.reasons, self.times,
            )
        return row


def _take_commonest(rows: deque[RefusalRecord]) -> RefusalRecord:
    """Take out the oldest refusal of the most common cause: repeated claims of a name remove nothing else."""
    ((commonest, _),) = Counter(map(_direction_and_cause, rows)).most_common(1)
    taken = next(row for row in rows if _direction_and_cause(row) == commonest)
    rows.remove(taken)
    return taken


def _host(address: str) -> str:
    """Return the host of "host", "host:port" or "[host]:port"."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address


def clipped(text: str, length: int) -> str:
    """Return `text`, cut to the memory of `length` ASCII characters; a text that was cut ends in "..."."""
    length //= _width(text)
    return text if len(text) <= length else text[: length - 3] + "..."


def _width(text: str) -> int:
    """Return the bytes that Python keeps of each character of `text`."""
    return 1 if text.isascii() or max(text) <= "\xff" else 2 if max(text) <= "\uffff" else 4


def clipped_reasons(reasons: tuple[str, ...]) -> tuple[str, ...]:
    """Return as many of the reasons as fit. The last one has the number of missing ones."""
    kept: list[str] = []
    room = REASONS_CHARACTERS
    for reason in reasons[:REASONS]:
        kept.append(clipped(reason, room))
        room -= len(kept[-1]) * _width(kept[-1])
        if room < REASONS_CHARACTERS // REASONS:
            break
    missing = len(reasons) - len(kept)
    if missing:
        kept[-1:] = [f"... and {missing + 1} more"]
    return tuple(kept)


class RefusalStore(Protocol):
    """Keeps refusals after the end of the process (`peerdb.refusals`)."""

    def keep(self, refused: RefusalRecord) -> None:
        """Store one refusal, or its repetition. May not raise."""

    def past(self) -> list[RefusalRecord]:
        """Return the refusals of earlier runs, oldest first."""

    def forget(self, peer: str) -> None:
        """Forget the refusals of a peer. May not raise."""

    def is_known(self, refused: RefusalRecord) -> bool:
        """Return whether a refusal's peer was proven, is configured, or is one that we want to reach: its name is not made up."""


#: Marks a log line that sums up events which the watchers got one by one.
_SUM: dict[str, Any] = {TOLD: True}


def _facts(refused: RefusalRecord) -> dict[str, Any]:
    """Return the facts of a refusal for its log line. A peer that was not reached has refused nothing, and was not refused."""
    ending = refused.ending
    unreached = refused.direction == "outbound" and ending.layer in (Layer.DNS, Layer.TCP)
    return {
        "event": "connection failed" if unreached else "refused", "direction": refused.direction,
        "leg": refused.leg, "peer": refused.peer, "local": refused.local,
        "address": refused.address, "layer": ending.layer.value, "cause": ending.cause.value, "detail": ending.detail,
        "reasons": list(refused.reasons),
    }


def _owner_of(name: str, _: None) -> str:
    """Return the party that may choose any number of names like this one."""
    return registered_domain(name)


def _names() -> FairDict[str, None]:
    """Return a table for names of peers. The record removes names before it is full."""
    return FairDict(NAMES + 1, _owner_of)


class EventRecord:
    """Keeps refusals by the peer's claimed name, counts them, and logs each change of a stream or a queue."""

    def __init__(
        self, clock: WallClock, log: Logger, store: RefusalStore | None = None, site: Callable[[str], str] = str,
        live: LiveEvents | None = None, unrecorded: Collection[str] = (),
    ) -> None:
        """Begin with the refusals of earlier runs in `store`. `site` returns the network of an address for the log.

        `live` are the watchers of events. Refusals of the names in `unrecorded` are not refusals of peers: they are neither kept
        nor logged.
        """
        self._unrecorded = frozenset(unrecorded)
        self._clock = clock
        self._log = log
        self._site = site
        #: the daily report, if there is one
        self.report: DailyReport | None = None
        #: refusals of connections of strangers, and the others. Strangers with many addresses do not fill the table of the others
        self._strangers_told, self._refusals_told = RepeatedEvents(clock), RepeatedEvents(clock)
        self._changes_told = RepeatedEvents(clock, CHANGES_TOLD)
        self._store = store
        self.live = LiveEvents() if live is None else live
        self._by_peer: OrderedDict[str, deque[RefusalRecord]] = OrderedDict()
        #: the names that may be made up, and the others: of each, the registered domain with the most names gives one up first
        self._strangers, self._known = _names(), _names()
        #: bytes of memory of the refusals, approximately
        self.bytes = 0
        for each in () if store is None else store.past():
            self._add(each if each.size <= MOST_BYTES else each.clipped())
        #: (layer, cause, by) -> number
        self.refusals: Counter[tuple[str, str, str]] = Counter()
        #: limit, by the name of its key -> how often it kept something out or ended it
        self.limit_hits: Counter[str] = Counter()
        #: (role, outcome) -> number of streams that broke off
        self.resumptions: Counter[tuple[str, str]] = Counter()
        #: settled receipts, by evidence (`queue.evidence`)
        self.receipts: Counter[str] = Counter()
        self._stanzas: dict[tuple[str, str], Counter[str]] = {}

    def refused(
        self, direction: Direction, leg: Leg, pair: tuple[str, str], address: str, ending: Ending,
        reasons: tuple[str, ...] = (),
    ) -> None:
        """Record a refused handshake or delivery. `pair` is (peer, local), as claimed.

        For each site and cause one is logged, then the number of others in a minute. A refusal without a peer's name is kept only
        when it is logged, so that a silent connection costs little more than a number. A failure of our own server is kept, but
        not logged for each peer: `backend.health` logs it once for all.
        """
        peer, local = pair
        if peer in self._unrecorded:
            return
        self.refusals[ending.layer.value, ending.cause.value, ending.by] += 1
        refused = RefusalRecord(self._clock.seconds(), direction, leg, peer, local, address, ending, reasons)
        if self.report is not None:
            known = self._store is not None and self._store.is_known(refused)
            self.report.refused(direction, peer, known or leg == "backend", ending)
        if ending.layer is Layer.BACKEND:
            self._tell_refusal(self._keep(refused))
            return
        stranger = leg == "federation" and direction == "inbound"
        if stranger:
            is_news = self._strangers_told.is_news((self._site(_host(address)), ending.cause), refused)
        else:
            is_news = self._refusals_told.is_news((pair, ending.cause), refused)
        if is_news or peer:
            refused = self._keep(refused)
        if is_news:
            self._log_refusal(refused)
        else:
            self._tell_refusal(refused)

    def _tell_refusal(self, refused: RefusalRecord) -> None:
        """Tell the watchers of a refusal that the log only counts."""
        if self.live:
            self.live.tell(refused.at, LogLevel.warn, refused.peer, _facts(refused.clipped()))

    def _keep(self, refused: RefusalRecord) -> RefusalRecord:
        refused = self._add(refused.clipped())
        if self._store is not None:
            self._store.keep(refused)
        return refused

    def _log_refusal(self, refused: RefusalRecord, **more: Any) -> None:
        self._log.warn(**_facts(refused), **more)

    def tell_repeated(self, at_once: bool = False) -> None:
        """Log the events that were only counted for a minute. Call this every few seconds. `at_once`: log all, at the end."""
        for refused, number in (*self._strangers_told.due(at_once), *self._refusals_told.due(at_once)):
            if not refused.peer:
                self._keep(replace(refused, times=number))
            self._log_refusal(refused.clipped(), times=number, **_SUM)
        for facts, number in self._changes_told.due(at_once):
            self._log.info(**facts, times=number, **_SUM)

    def _add(self, refused: RefusalRecord) -> RefusalRecord:
        """Keep a refusal. Return it as it is kept: if it repeats the one before, both are counted as one."""
        rows = self._by_peer.setdefault(refused.peer, deque())
        self._by_peer.move_to_end(refused.peer)
        if rows and rows[-1].sameness == refused.sameness:
            refused = refused.after(self._drop(rows.pop()))
        rows.append(refused)
        self.bytes += refused.size
        if len(rows) > PER_NAME:
            self._drop(_take_commonest(rows))
        is_known = self._store is None or self._store.is_known(refused)
        names, others = (self._known, self._strangers) if is_known else (self._strangers, self._known)
        names[refused.peer] = None
        if refused.peer in others:
            del others[refused.peer]
        while len(self._by_peer) > 1 and self._is_full():
            self._forget(self._least_wanted())
        return refused

    def _is_full(self) -> bool:
        too_many_strangers = len(self._strangers) > NAMES * STRANGERS
        return len(self._by_peer) > NAMES or self.bytes > REFUSAL_BYTES or too_many_strangers

    def _least_wanted(self) -> str:
        """Return the name that gives way: a name that may be made up before that of a known peer."""
        return (self._strangers or self._known).least_wanted()

    def _forget(self, name: str) -> int:
        """Forget the refusals of a name in memory. Return how many."""
        rows = self._by_peer.pop(name, ())
        for each in rows:
            self._drop(each)
        for names in (self._strangers, self._known):
            if name in names:
                del names[name]
        return len(rows)

    def _drop(self, refused: RefusalRecord) -> RefusalRecord:
        self.bytes -= refused.size
        return refused

    def standing(
        self, event: str, direction: Direction, leg: Leg, pair: Pair | tuple[str, str], owner: object = None, **facts: Any,
    ) -> None:
        """Log a change of a stream or a queue.

        For one `owner` the first `CHANGES_TOLD` in a minute are logged, then the number of the others.
        """
        sender, recipient = pair
        peer, local = (recipient, sender) if direction == "outbound" else (sender, recipient)
        row = {"event": event, "direction": direction, "leg": leg, "peer": str(peer), "local": str(local), **facts}
        if owner is None or self._changes_told.is_news((event, owner), row):
            self._log.info(**row)
        else:
            self.live.tell(self._clock.seconds(), LogLevel.info, row["peer"], row)

    def resumption(self, role: Literal["initiating", "receiving"], outcome: Literal["resumed", "refused", "expired"]) -> None:
        """Count the outcome of a stream that broke off and could be resumed."""
        self.resumptions[role, outcome] += 1

    def limit_hit(self, limit: str) -> None:
        """Count that a limit of `[limits]` refused or ended something."""
        self.limit_hits[limit] += 1

    def counted(self, direction: Direction, outcome: str, stanzas: Iterable[Stanza]) -> None:
        """Count stanzas with this `outcome`: "passed", "bounced", "dropped" or "refused"."""
        self.stanza_counter(direction, outcome).update(map(kind_of, stanzas))

    def stanza_counter(self, direction: Direction, outcome: str) -> Counter[str]:
        """Return the counter of the stanzas with this `outcome`, by their kind (`kind_of`)."""
        return self._stanzas.setdefault((direction, outcome), Counter())

    @property
    def stanzas(self) -> Counter[tuple[str, str, str]]:
        """The number of stanzas by (direction, kind, outcome)."""
        return Counter({
            (direction, kind, outcome): number
            for (direction, outcome), kinds in self._stanzas.items() for kind, number in kinds.items()
        })

    def summaries(self) -> list[tuple[str, int, RefusalRecord]]:
        """Return for each name the number of remembered refusals, and the last one."""
        return [(name, len(rows), rows[-1]) for name, rows in self._by_peer.items()]

    def forget(self, names: Iterable[str]) -> int:
        """Forget the refusals of the peer with these names, also on disk. Return how many."""
        number = 0
        for name in names:
            number += self._forget(name)
            if self._store is not None:
                self._store.forget(name)
        return number

    def list(self, peer: str | None = None) -> list[RefusalRecord]:
        """Return the remembered refusals, oldest first; if a peer is named, only its own."""
        if peer is not None:
            return list(self._by_peer.get(peer, ()))
        return list(self.newest())[::-1]

    def newest(self, peers: Iterable[str] | None = None) -> Iterator[RefusalRecord]:
        """Return an iterator over the remembered refusals, newest first; if peers are named, only theirs.

        Rows are made only on request: unread rows cost nothing.
        """
        names = self._by_peer if peers is None else [name for name in dict.fromkeys(peers) if name in self._by_peer]
        rows = [tuple(self._by_peer[name]) for name in names]
        return merge(*map(reversed, rows), key=attrgetter("at"), reverse=True)
