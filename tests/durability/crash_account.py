"""The judgement of `make crash`: which stanzas may be lost at a kill, and which may not.

A sender without XEP-0198 may lose stanzas that the gateway had not read, which were never in its custody, and stanzas that it had
read less than `WINDOW` before the kill. `SLACK` is for reading, framing, the commit, and the samples of
`tests.durability.socket_progress`. Time in which the gateway's threads waited for a processor does not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from tests.durability.account import PairAccount
from tests.durability.socket_progress import GrowingValue

#: The ends of a run of the gateway (`tests.durability.crash_cycles`). Every kind except "stop" is sudden.
End = Literal["inbound", "outbound", "both", "spool", "commit", "start", "restore", "shutdown", "unanswered", "stop"]
#: Seconds: the default of `queue.window`, and the tolerance.
WINDOW, SLACK = 0.020, 0.040
#: Seconds within which the acknowledgement of a stanza that arrived leads to its removal from the spool.
SETTLE_SECONDS = 1.0
#: Seconds after a kill in which a real server may not have noticed it.
UNNOTICED = 0.1


@dataclass
class GatewayRuns:
    """The time and kind of each end of the gateway, in order, and how long the gateway had waited for a processor."""

    ends: list[tuple[float, End]] = field(default_factory=list)
    waited: GrowingValue = field(default_factory=GrowingValue)

    def first_end_after(self, moment: float) -> tuple[float, End] | None:
        """Return the first end after `moment`."""
        return next((end for end in self.ends if end[0] > moment), None)

    def kill_after(self, sent: float) -> tuple[float, End] | None:
        """Return a kill that may explain the loss of a stanza sent at `sent`, or a stop if there was no kill."""
        ends = [end for end in self.ends if end[0] > sent - UNNOTICED]
        return next((end for end in ends if end[1] != "stop"), ends[0] if ends else None)


@dataclass(frozen=True)
class Loss:
    """A lost stanza.

    `held`: seconds from the moment it was read to the end of that run, None if it was not read. The gateway waited for a
    processor during `waited` of them.
    """

    number: int
    request: bool
    end: End | None
    held: float | None
    waited: float

    @property
    def excused(self) -> bool:
        """Return whether the gateway was killed before it could be expected to hold the stanza."""
        return self.end not in (None, "stop") and (self.held is None or self.held - self.waited <= WINDOW + SLACK)

    def text(self) -> str:
        name, end = f"    number {self.number}{' (IQ)' if self.request else ''}", f"an end of kind {self.end or 'none'}"
        if self.held is None:
            return f"{name}: not read before {end}"
        return f"{name}: read {self.held * 1000:.0f} ms before {end}, {self.waited * 1000:.0f} of them without a processor"


@dataclass
class PairResult:
    """The results of the stanzas of one pair."""

    account: PairAccount
    losses: list[Loss]
    #: stanzas that arrived again, although neither their sender nor the gateway had a reason to send them again
    needless_repeats: list[int] = field(default_factory=list)

    def faults(self) -> list[str]:
        """Return the broken promises."""
        return [f"{self.account.name}: {number} {what}" for number, what in self._counts() if number] + self._worst()

    def _counts(self) -> Iterator[tuple[int, str]]:
        account = self.account
        yield len(self.unexcused), (
            "lost although the sender uses XEP-0198" if account.managed
            else f"lost that had been read more than {WINDOW + SLACK:g} s before the kill, or at a normal stop"
        )
        yield account.out_of_order() if account.orderly else 0, "out of order"
        yield account.requests_twice(), "IQ requests arrived twice"
        yield account.repeated_on_a_stream(), "arrived twice on one stream"
        yield len(self.needless_repeats), f"arrived twice without having been in doubt, such as {self.needless_repeats[:3]}"

    @property
    def unexcused(self) -> list[Loss]:
        """Return the losses that are faults.

        With XEP-0198 every loss is a fault, except after 20 s on the way to a server that acknowledges nothing (R41).
        """
        account = self.account
        managed = account.managed
        return [
            loss for loss in self.losses
            if not loss.excused or (managed and (account.acknowledging or loss.end != "unanswered"))
        ]

    def _worst(self, number: int = 5) -> list[str]:
        found = sorted(self.unexcused, key=lambda loss: -(loss.held or 0.0))
        return [loss.text() for loss in found[:number]]

    def text(self) -> str:
        account = self.account
        held = [loss.held for loss in self.losses if loss.held is not None]
        arrived = set(account.arrived)
        return (
            f"{account.name:<46}{'0198' if account.managed else '-':>5}{len(account.sent):>8}{len(arrived):>8}"
            f"{len(account.bounced - arrived):>8}{len(account.withdrawn):>8}{len(self.losses) - len(held):>7}{len(held):>7}"
            f"{max(held, default=0.0) * 1000:>5.0f}{account.duplicates():>7}{account.resent.total():>7}{account.out_of_order():>10}"
        )


HEADING = (
    f"{'':<46}{'':>5}{'':>8}{'':>8}{'':>8}{'IQs in':>8}{'   lost:':>7}{'':>7}\n"
    f"{'pair':<46}{'by':>5}{'sent':>8}{'arrived':>8}{'bounced':>8}{'doubt':>8}{'unread':>7}{'read':>7}{'ms':>5}"
    f"{'twice':>7}{'resent':>7}{'reordered':>10}"
)


def judge(account: PairAccount, runs: GatewayRuns) -> PairResult:
    """Determine when each missing stanza was read, and how that run of the gateway ended."""
    return PairResult(account, [_loss(account, number, runs) for number in account.missing()], _needless_repeats(account, runs))


def _needless_repeats(account: PairAccount, runs: GatewayRuns) -> list[int]:
    """Return the stanzas that arrived again, were not sent again by their sender, and were not in doubt.

    A stanza was in doubt if it arrived less than `SETTLE_SECONDS` before a run of the gateway ended.
    """
    if not account.acknowledging:
        return []
    return [
        number for number, moments in account.arrivals.items()
        if len(moments) > 1 + account.resent[number] + sum(1 for moment in moments[:-1] if _in_doubt(moment, runs))
    ]


def _in_doubt(arrived: float, runs: GatewayRuns) -> bool:
    """Return whether a run ended when the stanza had just arrived, or (it was read late) shortly before."""
    end = runs.first_end_after(arrived - SETTLE_SECONDS)
    return end is not None and end[0] - arrived - runs.waited.growth(arrived, end[0]) < SETTLE_SECONDS


def _loss(account: PairAccount, number: int, runs: GatewayRuns) -> Loss:
    place, request = account.positions.get(number), number in account.requests
    if place is None:
        end = runs.kill_after(account.sent[number])
        return Loss(number, request, end and end[1], None, 0.0)
    end = runs.first_end_after(place.connection.opened)
    read = place.connection.read.reached(place.position)
    if end is None or read is None:
        return Loss(number, request, end and end[1], None, 0.0)
    return Loss(number, request, end[1], max(end[0] - read, 0.0), runs.waited.growth(read, end[0]))
