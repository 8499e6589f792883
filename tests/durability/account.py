"""The books: for each pair of domains what was sent, what arrived, and what the rules say of the difference.

What a sender without XEP-0198 may lose at a kill is what the gateway had *not read*, which never was in its hands, and what it
had read within `WINDOW` before; `SLACK` is what reading, framing, the commit and the looks of `tests.durability.unread` may take beside,
and the time that the gateway's threads waited for a processor in between does not count: a busy machine is no fault of its.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from tests.durability.unread import Connection, History

#: How a life of the gateway ended (`tests.durability.lives`): all but "stop" are sudden.
End = Literal["inbound", "outbound", "flow", "spool", "commit", "start", "restore", "drain", "mute", "stop"]
#: Seconds: `queue.window` as it is configured by default, and what is granted beside it.
WINDOW, SLACK = 0.020, 0.040


#: Seconds after a kill in which a real server may not have noticed yet.
UNAWARE = 0.1


@dataclass
class Times:
    """When each life of the gateway ended, and how, in order; and how long it had waited for a processor."""

    ends: list[tuple[float, End]] = field(default_factory=list)
    waited: History = field(default_factory=History)

    def after(self, moment: float) -> tuple[float, End] | None:
        """The first end after `moment`."""
        return next((end for end in self.ends if end[0] > moment), None)

    def sudden(self, sent: float) -> tuple[float, End] | None:
        """A kill to which a stanza sent then may have fallen victim, where nothing but that is known; else a stop."""
        ends = [end for end in self.ends if end[0] > sent - UNAWARE]
        return next((end for end in ends if end[1] != "stop"), ends[0] if ends else None)


@dataclass(frozen=True)
class Mark:
    """A stanza's last byte on its way to the gateway, as it was last sent."""

    connection: Connection
    position: int


@dataclass
class Pair:
    """One way between two domains. Stanzas are numbered from 0; `sent` has the moment at which each was first written."""

    name: str
    managed: bool  # the sender speaks XEP-0198 (and knows what is unacknowledged)
    orderly: bool = True  # the sender itself keeps the order when it sends again
    acknowledgements: bool = True  # the next server acknowledges, or answers pings
    inward: bool = True
    sent: list[float] = field(default_factory=list)
    marks: dict[int, Mark] = field(default_factory=dict)
    queries: set[int] = field(default_factory=set)  # which of them are IQs
    arrived: list[int] = field(default_factory=list)
    on: list[int] = field(default_factory=list)  # the number of the stream on which each of these arrived
    bounced: set[int] = field(default_factory=set)
    resent: Counter[int] = field(default_factory=Counter)  # by the sender itself
    withdrawn: set[int] = field(default_factory=set)  # IQs in doubt, which their sender does not send again

    def lost(self) -> list[int]:
        """What neither arrived nor came back."""
        there = {*self.arrived, *self.bounced, *self.withdrawn}
        return [number for number in range(len(self.sent)) if number not in there]

    def under_way(self) -> int:
        """How many are, at present: lost ones too."""
        return len(self.sent) - len(set(self.arrived) | self.bounced)

    def account(self, times: Times) -> Line:
        """What became of everything."""
        counts = Counter(self.arrived)
        losses = [self._loss(number, times) for number in self.lost()]
        streams = Counter(zip(self.on, self.arrived, strict=False))
        return Line(
            self, arrived=len(counts), bounced=len(self.bounced - set(counts)), losses=losses,
            duplicates=sum(count - 1 for count in counts.values()),
            needless=sum(1 for (_, number), count in streams.items() if count > 1 + self.resent[number]),
            queries_twice=sum(1 for number in self.queries if counts[number] > 1), reordered=self._reordered(),
        )

    def _loss(self, number: int, times: Times) -> Loss:
        mark, query = self.marks.get(number), number in self.queries
        if mark is None:
            end = times.sudden(self.sent[number])
            return Loss(number, query, end and end[1], None, 0.0)
        end = times.after(mark.connection.opened)
        read = mark.connection.read.reached(mark.position)
        if end is None or read is None:
            return Loss(number, query, end and end[1], None, 0.0)
        return Loss(number, query, end[1], max(end[0] - read, 0.0), times.waited.grown(read, end[0]))

    def _reordered(self) -> int:
        """First arrivals that came behind a later one."""
        seen: set[int] = set()
        highest, wrong = -1, 0
        for number in self.arrived:
            if number not in seen and number < highest:
                wrong += 1
            seen.add(number)
            highest = max(highest, number)
        return wrong


@dataclass(frozen=True)
class Loss:
    """A stanza that is gone.

    `held`: seconds from its reading to the end (None: it had not been read), `waited` of which the gateway waited for a
    processor.
    """

    number: int
    query: bool
    end: End | None
    held: float | None
    waited: float

    @property
    def excused(self) -> bool:
        """It may be: it had not been read, or was within the window, when the gateway was killed."""
        return self.end not in (None, "stop") and (self.held is None or self.held - self.waited <= WINDOW + SLACK)

    def text(self) -> str:
        name, end = f"    number {self.number}{' (IQ)' if self.query else ''}", f"an end of kind {self.end or 'none'}"
        if self.held is None:
            return f"{name}: not read before {end}"
        waiting = f"{self.waited * 1000:.0f} of them without a processor"
        return f"{name}: read {self.held * 1000:.0f} ms before {end}, {waiting}"


@dataclass
class Line:
    """One pair's account."""

    pair: Pair
    arrived: int
    bounced: int
    losses: list[Loss]
    duplicates: int
    needless: int  # came twice on one stream, and not because their sender sent them twice
    queries_twice: int
    reordered: int

    def faults(self) -> list[str]:
        """What must not be."""
        return [f"{self.pair.name}: {number} {what}" for number, what in self._found() if number] + self._worst()

    def _found(self) -> Iterator[tuple[int, str]]:
        yield len(self.unexcused), (
            "lost though the sender speaks XEP-0198" if self.pair.managed
            else f"lost that had been read more than {WINDOW + SLACK:g} s before the kill, or at a stop in order"
        )
        yield self.reordered if self.pair.orderly else 0, "out of order"
        yield self.queries_twice, "IQs came twice"
        yield self.needless, "came twice on one stream"

    @property
    def unexcused(self) -> list[Loss]:
        """With XEP-0198 nothing may be, save after 20 s on the way to a next server that confirms nothing (R41)."""
        pair = self.pair
        return [loss for loss in self.losses if not loss.excused or (pair.managed and (pair.acknowledgements or loss.end != "mute"))]

    def _worst(self, number: int = 5) -> list[str]:
        found = sorted(self.unexcused, key=lambda loss: -(loss.held or 0.0))
        return [loss.text() for loss in found[:number]]

    def text(self) -> str:
        pair = self.pair
        held = [loss.held for loss in self.losses if loss.held is not None]
        return (
            f"{pair.name:<46}{'0198' if pair.managed else '-':>5}{len(pair.sent):>8}{self.arrived:>8}{self.bounced:>8}"
            f"{len(pair.withdrawn):>8}{len(self.losses) - len(held):>7}{len(held):>7}{max(held, default=0.0) * 1000:>5.0f}"
            f"{self.duplicates:>7}{pair.resent.total():>7}{self.reordered:>10}"
        )


HEADING = (
    f"{'':<46}{'':>5}{'':>8}{'':>8}{'':>8}{'IQs in':>8}{'   lost:':>7}{'':>7}\n"
    f"{'pair':<46}{'by':>5}{'sent':>8}{'arrived':>8}{'bounced':>8}{'doubt':>8}{'unread':>7}{'read':>7}{'ms':>5}"
    f"{'twice':>7}{'resent':>7}{'reordered':>10}"
)
