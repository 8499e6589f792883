"""The record of endings: every refusal and every change of a stream passes through it.

The log line, the rows of `s2sgw refusals` and the metrics are three views of it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from heapq import merge
from operator import attrgetter
from typing import Any, Literal, Protocol

from twisted.logger import Logger

from s2sgw.reporting.letter import letter
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.stanza import Stanza
from s2sgw.xmpp.wall_clock import WallClock

Direction = Literal["inbound", "outbound"]
Leg = Literal["federation", "backend"]

#: Strangers choose the names under which refusals are kept: so many names, so many refusals for each.
NAMES = 2000
PER_NAME = 20
#: Bytes of all of them in memory, about, and of one of them without its texts.
REFUSAL_BYTES = 16 * 1024 * 1024
OVERHEAD = 700
#: Of one refusal: characters of a name, of the detail and of all reasons together, and reasons. A refusal has at most 2 kB.
NAME_CHARACTERS = 253
DETAIL_CHARACTERS = 250
REASONS_CHARACTERS = 600
REASONS = 6

_kind = attrgetter("kind")


@dataclass(frozen=True, slots=True)
class RefusalRecord:
    """One refused handshake or delivery; `at` is seconds since the epoch, `reasons` what each proof came to.

    It happened `times` times in a row, `first` being when it began (0: at `at`).
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
        """What two refusals have in common that are told as one."""
        host, ending = self.address.rpartition(":")[0], self.ending
        return self.peer, self.local, self.direction, self.leg, host, ending.cause.value, ending.detail, ending.by

    def after(self, before: RefusalRecord) -> RefusalRecord:
        """The same once more."""
        return replace(self, times=before.times + 1, first=before.first or before.at)

    def clipped(self) -> RefusalRecord:
        """Return the same within its bounds: much of it is what strangers said."""
        peer, local, address = (clipped(name, NAME_CHARACTERS) for name in (self.peer, self.local, self.address))
        ending = replace(self.ending, detail=clipped(self.ending.detail, DETAIL_CHARACTERS))
        return replace(self, peer=peer, local=local, address=address, ending=ending, reasons=clipped_reasons(self.reasons))

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        texts = (self.peer, self.local, self.address, self.ending.detail, *self.reasons)
        return OVERHEAD + sum(map(len, texts))

    def row(self, with_letter: bool = False) -> dict[str, object]:
        """Return the JSON row that operators see. `with_letter`: with the text to the other administrator."""
        ending = self.ending
        row: dict[str, object] = {
            "at": self.at, "direction": self.direction, "leg": self.leg, "peer": self.peer, "local": self.local,
            "address": self.address, "layer": ending.layer.value, "cause": ending.cause.value, "detail": ending.detail,
            "by": ending.by, "condition": ending.condition, "reasons": list(self.reasons), "remedy": ending.remedy,
            "times": self.times, "first": self.first or self.at,
        }
        if with_letter:
            row["letter"] = letter(
                self.direction, self.peer, self.local, self.address, self.at, ending, self.reasons, self.times,
            )
        return row


def clipped(text: str, length: int) -> str:
    """Return `text`, cut to the memory of `length` ASCII characters; a text that was cut ends in "..."."""
    length //= _width(text)
    return text if len(text) <= length else text[: length - 3] + "..."


def _width(text: str) -> int:
    """Return the bytes that Python keeps of each character of `text`."""
    return 1 if text.isascii() or max(text) <= "\xff" else 2 if max(text) <= "\uffff" else 4


def clipped_reasons(reasons: tuple[str, ...]) -> tuple[str, ...]:
    """Return as many of the reasons as have room; the last one says how many are missing."""
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
    """Keeps refusals beyond the life of the process (`peerdb.refusals`)."""

    def keep(self, refused: RefusalRecord) -> None:
        """Write one refusal down, or its repetition. May not raise."""

    def past(self) -> list[RefusalRecord]:
        """Return those of earlier runs, oldest first."""


class EventRecord:
    """Remembers refusals by the peer's claimed name, counts them, and writes the log line of each change of standing."""

    def __init__(
        self, clock: WallClock, log: Logger, store: RefusalStore | None = None,
    ) -> None:
        """Begin with what `store` holds of earlier runs."""
        self._clock = clock
        self._log = log
        self._store = store
        self._by_peer: OrderedDict[str, deque[RefusalRecord]] = OrderedDict()
        #: bytes of memory that the refusals take, about
        self.bytes = 0
        for each in () if store is None else store.past():
            self._add(each.clipped())
        #: (layer, cause) -> number
        self.refusals: Counter[tuple[str, str]] = Counter()
        #: limit, by the name of its key -> how often it kept something out or ended it
        self.limit_hits: Counter[str] = Counter()
        #: (role, outcome) -> number of streams that broke off
        self.resumptions: Counter[tuple[str, str]] = Counter()
        #: (direction, kind, outcome) -> number
        self.stanzas: Counter[tuple[str, str, str]] = Counter()

    def refused(
        self, direction: Direction, leg: Leg, pair: tuple[str, str], address: str, ending: Ending,
        reasons: tuple[str, ...] = (),
    ) -> None:
        """A handshake or a delivery was refused; `pair` is (peer, local), as claimed."""
        peer, local = pair
        refused = self._add(RefusalRecord(self._clock.seconds(), direction, leg, peer, local, address, ending, reasons).clipped())
        self.refusals[ending.layer.value, ending.cause.value] += 1
        if self._store is not None:
            self._store.keep(refused)
        self._log.warn(
            event="refused", direction=direction, leg=leg, peer=refused.peer, local=refused.local, address=refused.address,
            layer=ending.layer.value, cause=ending.cause.value, detail=refused.ending.detail, reasons=list(refused.reasons),
        )

    def _add(self, refused: RefusalRecord) -> RefusalRecord:
        """Keep a refusal, and return it as it is kept: counted with the one before, if that was the same."""
        rows = self._by_peer.setdefault(refused.peer, deque())
        self._by_peer.move_to_end(refused.peer)
        if rows and rows[-1].sameness == refused.sameness:
            refused = refused.after(self._drop(rows.pop()))
        rows.append(refused)
        self.bytes += refused.size
        if len(rows) > PER_NAME:
            self._drop(rows.popleft())
        while len(self._by_peer) > 1 and (len(self._by_peer) > NAMES or self.bytes > REFUSAL_BYTES):
            for each in self._by_peer.popitem(last=False)[1]:
                self._drop(each)
        return refused

    def _drop(self, refused: RefusalRecord) -> RefusalRecord:
        self.bytes -= refused.size
        return refused

    def standing(self, event: str, direction: Direction, leg: Leg, pair: Pair | tuple[str, str], **facts: Any) -> None:
        """A stream or a lane changed its standing."""
        sender, recipient = pair
        peer, local = (recipient, sender) if direction == "outbound" else (sender, recipient)
        self._log.info(event=event, direction=direction, leg=leg, peer=str(peer), local=str(local), **facts)

    def resumption(self, role: Literal["initiating", "receiving"], outcome: Literal["resumed", "refused", "expired"]) -> None:
        """What became of a stream that broke off and could be resumed."""
        self.resumptions[role, outcome] += 1

    def limit_hit(self, limit: str) -> None:
        """Count that a limit of `[limits]` kept something out, or ended it."""
        self.limit_hits[limit] += 1

    def counted(self, direction: Direction, outcome: str, stanzas: Iterable[Stanza]) -> None:
        """So many stanzas met `outcome`: "passed", "bounced", "dropped" or "refused"."""
        for kind, number in Counter(map(_kind, stanzas)).items():
            self.stanzas[direction, kind, outcome] += number

    def summaries(self) -> list[tuple[str, int, RefusalRecord]]:
        """Return for each name how many refusals are remembered of it, and the last one."""
        return [(name, len(rows), rows[-1]) for name, rows in self._by_peer.items()]

    def list(self, peer: str | None = None) -> list[RefusalRecord]:
        """Return what is remembered, the oldest first; of one peer if it is named."""
        if peer is not None:
            return list(self._by_peer.get(peer, ()))
        return list(self.newest())[::-1]

    def newest(self, peers: Iterable[str] | None = None) -> Iterator[RefusalRecord]:
        """Return an iterator over what is remembered now, the newest first; of some peers if they are named.

        It makes nothing before it is asked: what is not wanted costs nothing.
        """
        names = self._by_peer if peers is None else [name for name in dict.fromkeys(peers) if name in self._by_peer]
        rows = [tuple(self._by_peer[name]) for name in names]
        return merge(*map(reversed, rows), key=attrgetter("at"), reverse=True)
