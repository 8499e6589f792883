"""The record of endings: one place through which every refusal and change of standing goes (decision 13).

The log line, the list that `s2sgw refusals` shows and the numbers that the metrics export are three views of it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Literal

from twisted.logger import Logger

from s2sgw.reporting.letter import letter
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.stanza import Stanza

Direction = Literal["inbound", "outbound"]
Leg = Literal["federation", "backend"]

#: Strangers choose the names under which refusals are kept: so many names, so many refusals for each.
NAMES = 2000
PER_NAME = 20

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

    def row(self) -> dict[str, object]:
        """The JSON row that operators see."""
        ending = self.ending
        return {
            "at": self.at, "direction": self.direction, "leg": self.leg, "peer": self.peer, "local": self.local,
            "address": self.address, "layer": ending.layer.value, "cause": ending.cause.value, "detail": ending.detail,
            "by": ending.by, "condition": ending.condition, "reasons": list(self.reasons), "remedy": ending.remedy,
            "times": self.times, "first": self.first or self.at,
            "letter": letter(self.direction, self.peer, self.local, self.address, self.at, ending, self.reasons, self.times),
        }


class EventRecord:
    """Remembers refusals by the peer's claimed name, counts them, and writes the log line of each change of standing."""

    def __init__(
        self, now: Callable[[], float], log: Logger, keep: Callable[[RefusalRecord], None] = lambda _: None,
        past: Iterable[RefusalRecord] = (),
    ) -> None:
        """`keep` hears of each refusal, to write it down; `past` are those of earlier lives, oldest first."""
        self._now = now
        self._log = log
        self._keep = keep
        self._by_peer: OrderedDict[str, deque[RefusalRecord]] = OrderedDict()
        for each in past:
            self._rows(each.peer).append(each)
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
        refused = RefusalRecord(self._now(), direction, leg, peer, local, address, ending, reasons)
        self.refusals[ending.layer.value, ending.cause.value] += 1
        rows = self._rows(peer)
        if rows and rows[-1].sameness == refused.sameness:
            refused = refused.after(rows.pop())
        rows.append(refused)
        self._keep(refused)
        self._log.warn(
            event="refused", direction=direction, leg=leg, peer=peer, local=local, address=address,
            layer=ending.layer.value, cause=ending.cause.value, detail=ending.detail, reasons=list(reasons),
        )

    def _rows(self, peer: str) -> deque[RefusalRecord]:
        """The refusals of a peer, which is the last to have met one."""
        rows = self._by_peer.pop(peer, None)
        self._by_peer[peer] = rows = deque(maxlen=PER_NAME) if rows is None else rows
        if len(self._by_peer) > NAMES:
            self._by_peer.popitem(last=False)
        return rows

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

    def list(self, peer: str | None = None) -> list[RefusalRecord]:
        """What is remembered, oldest first; of one peer if it is named."""
        if peer is not None:
            return list(self._by_peer.get(peer, ()))
        return sorted((row for rows in self._by_peer.values() for row in rows), key=attrgetter("at"))
