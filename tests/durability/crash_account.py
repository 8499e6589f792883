"""The judgement of `make crash`: which stanzas may be lost at a kill, and which may not.

A sender without XEP-0198 may lose stanzas that the gateway had not read, which were never in its custody, and stanzas that it had
read less than `WINDOW` before the kill. `SLACK` is for reading, framing, the commit, and the samples of
`tests.durability.socket_progress`. Time in which the gateway's threads waited for a processor does not count.

A stanza may arrive twice if its sender sent it again, or if it was in doubt: when its stream or the gateway ended, no acknowledgement
of it had arrived at the gateway, or one had arrived less than `SETTLE_SECONDS` before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from tests.durability.account import ArrivalStream, PairAccount
from tests.durability.socket_progress import GrowingValue

#: The ends of a run of the gateway (`tests.durability.crash_cycles`). Every kind except "stop" is sudden.
End = Literal["inbound", "outbound", "both", "spool", "commit", "start", "restore", "shutdown", "unanswered", "stop"]
#: Seconds: the default of `queue.window`, and the tolerance.
WINDOW, SLACK = 0.020, 0.040
#: Seconds for the removal of a stanza from the spool, after its acknowledgement has arrived at the gateway's end of the connection.
SETTLE_SECONDS = 0.060
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


@dataclass(frozen=True)
class Repeat:
    """A stanza that arrived, and arrived again on a later stream.

    `acknowledged`: seconds from the moment at which its first acknowledgement had arrived at the gateway to the end of that run, or of the
    stream (`end` None); infinity: neither has ended. None: no acknowledgement had arrived by then. The gateway waited for a processor during `waited` of them.
    """

    number: int
    end: End | None
    acknowledged: float | None
    waited: float

    @property
    def settling(self) -> float:
        """Return the seconds that the gateway had for the removal, 0 if no acknowledgement had arrived."""
        return 0.0 if self.acknowledged is None else self.acknowledged - self.waited

    @property
    def in_doubt(self) -> bool:
        """Return whether the gateway could not be expected to have removed the stanza."""
        return self.acknowledged is None or self.settling <= SETTLE_SECONDS

    def text(self) -> str:
        if self.acknowledged == inf:
            return f"    number {self.number}: its stream has not ended"
        end = f"an end of kind {self.end}" if self.end else "the end of its stream"
        seconds, waited = (self.acknowledged or 0.0) * 1000, self.waited * 1000
        return f"    number {self.number}: acknowledged {seconds:.0f} ms before {end}, {waited:.0f} of them without a processor"


@dataclass
class PairResult:
    """The results of the stanzas of one pair."""

    account: PairAccount
    losses: list[Loss]
    #: stanzas that arrived again, although neither their sender nor the gateway had a reason to send them again
    needless_repeats: list[Repeat] = field(default_factory=list)

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
        yield len(self.needless_repeats), f"arrived twice that had been acknowledged more than {SETTLE_SECONDS:g} s before"

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
        losses = sorted(self.unexcused, key=lambda loss: -(loss.held or 0.0))
        repeats = sorted(self.needless_repeats, key=lambda repeat: -repeat.settling)
        return [each.text() for found in (losses, repeats) for each in found[:number]]

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


def _needless_repeats(account: PairAccount, runs: GatewayRuns) -> list[Repeat]:
    """Return the stanzas that arrived again, were not sent again by their sender, and had not been in doubt each time."""
    if not account.acknowledging:
        return []
    found = []
    for number, arrivals in account.arrivals_by_stream().items():
        earlier = [_repeat(number, stream, moment, runs) for stream, moment in arrivals[:-1]]
        settled = [repeat for repeat in earlier if not repeat.in_doubt]
        if len(settled) > account.resent[number]:
            found.append(max(settled, key=lambda repeat: repeat.settling))
    return found


def _repeat(number: int, stream: ArrivalStream, arrived: float, runs: GatewayRuns) -> Repeat:
    """Return how long the gateway had had the acknowledgement of an arrival, when the stream or the run ended."""
    run = runs.first_end_after(stream.opened)
    end, kind = run if run is not None and run[0] < stream.ended else (stream.ended, None)
    acknowledgement = stream.acknowledgement(arrived)
    position = None if acknowledgement is None else acknowledgement.position
    reached = None if position is None else position.connection.arrived.reached(position.position)
    if end == inf:
        return Repeat(number, None, inf, 0.0)  # nothing put it in doubt
    if reached is None or reached >= end:
        return Repeat(number, kind, None, 0.0)
    return Repeat(number, kind, end - reached, runs.waited.growth(reached, end))


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
