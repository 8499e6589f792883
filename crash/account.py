"""The books: for each pair of domains what was sent, what arrived, and what the rules say of the difference."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

#: How a life of the gateway ended: killed (in which kind of cycle), or asked to stop and given the time for it.
End = Literal["flow", "spool", "start", "drain", "stop"]
#: Seconds before a kill in which a stanza may be lost whose sender has no XEP-0198: the window, and what is on its way into it.
WINDOW = 0.5
#: Seconds after a kill in which the sender may not have noticed yet. (A stop in order is told, on every stream.)
UNAWARE = 0.1


@dataclass
class Times:
    """When each life of the gateway ended, and how, in order."""

    ends: list[tuple[float, End]] = field(default_factory=list)

    def before(self, at: float) -> tuple[float, End] | None:
        """The end that a stanza sent `at` fell victim to, if one came: seconds that it had been under way by then."""
        for moment, how in self.ends:
            if moment > at - (0.0 if how == "stop" else UNAWARE):
                return moment - at, how
        return None


@dataclass
class Pair:
    """One way between two domains. Stanzas are numbered from 0; `sent` has the moment at which each was first written."""

    name: str
    managed: bool  # the sender speaks XEP-0198 (and knows what is unacknowledged)
    orderly: bool = True  # the sender itself keeps the order when it sends again
    sent: list[float] = field(default_factory=list)
    queries: set[int] = field(default_factory=set)  # which of them are IQs
    arrived: list[int] = field(default_factory=list)
    bounced: set[int] = field(default_factory=set)
    resent: int = 0  # by the sender itself

    def account(self, times: Times) -> Line:
        """What became of everything."""
        counts = Counter(self.arrived)
        lost = [number for number in range(len(self.sent)) if number not in counts and number not in self.bounced]
        ends = [times.before(self.sent[number]) for number in lost]
        late = max(((*end,) for end in ends if end is not None and end[1] != "stop"), default=(0.0, "-"))
        return Line(
            self, arrived=len(counts), bounced=len(self.bounced - set(counts)), lost=len(lost),
            at_stops=sum(1 for end in ends if end is None or end[1] == "stop"), window=late[0], cycle=late[1],
            duplicates=sum(count - 1 for count in counts.values()),
            queries_twice=sum(1 for number in self.queries if counts[number] > 1), reordered=self._reordered(),
        )

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


@dataclass
class Line:
    """One pair's account."""

    pair: Pair
    arrived: int
    bounced: int
    lost: int
    at_stops: int  # of the lost: at a stop in order, or at no end at all
    window: float  # seconds before its kill at which the earliest of the lost was sent
    cycle: str  # and the kind of cycle where that was
    duplicates: int
    queries_twice: int
    reordered: int

    def faults(self) -> list[str]:
        """What must not be."""
        found = []
        if self.pair.managed and self.lost:
            found.append(f"{self.lost} lost though the sender speaks XEP-0198")
        if self.at_stops:
            found.append(f"{self.at_stops} lost at a stop in order, or for no reason")
        if self.window > WINDOW:
            found.append(f"one lost that was sent {self.window:.2f} s before the kill (at most {WINDOW} s)")
        if self.reordered and self.pair.orderly:
            found.append(f"{self.reordered} out of order")
        if self.queries_twice:
            found.append(f"{self.queries_twice} IQs came twice")
        return found

    def text(self) -> str:
        pair = self.pair
        return (
            f"{pair.name:<48}{'0198' if pair.managed else '-':>6}{len(pair.sent):>9}{self.arrived:>9}{self.bounced:>8}"
            f"{self.lost:>6}{self.window * 1000:>8.0f} {self.cycle:<6}{self.duplicates:>8}{pair.resent:>8}{self.reordered:>10}"
        )


HEADING = (
    f"{'pair':<48}{'by':>6}{'sent':>9}{'arrived':>9}{'bounced':>8}"
    f"{'lost':>6}{'ms':>8} {'in':<6}{'twice':>8}{'resent':>8}{'reordered':>10}"
)


def worst(pair: Pair, times: Times, number: int = 5) -> list[str]:
    """Those of the lost that were sent longest before the end that they fell victim to."""
    there = set(pair.arrived) | pair.bounced
    lost = [(times.before(at), each) for each, at in enumerate(pair.sent) if each not in there]
    lost.sort(key=lambda one: -1.0 if one[0] is None else -one[0][0])
    return [
        f"    number {each}{' (IQ)' if each in pair.queries else ''} was sent "
        + ("and no end came" if end is None else f"{end[0]:.3f} s before the end of a cycle of kind {end[1]}")
        for end, each in lost[:number]
    ]
