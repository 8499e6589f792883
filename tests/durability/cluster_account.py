"""The judgement of `make cluster`: the fate of every stanza, and the silence of every pair (docs/durability.md).

A sender with XEP-0198 loses nothing: it sends again what was not acknowledged. A sender without it loses what no node had read, or
only just read, when a node was killed or stopped or its stream was cut, and what it wrote on a stream that was refused because another
node is the home. It must not lose anything else.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.durability.account import PairAccount

#: Seconds before a fault in which a stanza may have been written and not read, and after it until its sender noticed the fault.
BEFORE, AFTER = 1.0, 6.0
#: Seconds without arrivals of a pair that are an error, for kinds of faults that have a limit. It is three times the promise: the machine may be slow.
LIMITS = {"kill": 15.0, "server": 15.0, "machine": 30.0}
#: The same while the nodes have no majority of the engine, and still the bridge.
BRIDGE_LIMIT = 6.0


@dataclass
class Round:
    """One fault. Times are in seconds since the epoch. `loses`: senders without XEP-0198 may lose what was not read."""

    kind: str
    text: str
    began: float
    ended: float = 0.0
    loses: bool = True
    #: the longest time without an arrival, and the pair
    silence: float = 0.0
    silent: str = ""
    #: the same as long as the nodes had the bridge, without a majority of the engine
    bridged: float = 0.0


@dataclass
class Verdict:
    """The numbers of one pair, and its errors."""

    account: PairAccount
    excused: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)

    def row(self) -> str:
        account, arrived = self.account, set(self.account.arrived)
        return (
            f"{account.name:<44}{'0198' if account.managed else '-':>5}{len(account.sent):>8}{len(arrived):>8}"
            f"{len(account.bounced - arrived):>8}{len(account.withdrawn - arrived - account.bounced):>8}{len(self.excused):>8}"
            f"{len(self.lost):>6}{account.duplicates():>7}{account.out_of_order():>10}{account.requests_twice():>7}"
        )

    def errors(self) -> Iterator[str]:
        account = self.account
        if self.lost:
            yield f"{account.name}: {len(self.lost)} lost, such as number {self.lost[0]}, sent at {account.sent[self.lost[0]]:.2f}"
        if account.orderly and account.out_of_order():
            number = account.overtaken()[0]
            moments = f"sent at {account.sent[number]:.2f}, arrived at {account.arrivals[number][0]:.2f}"
            yield f"{account.name}: {account.out_of_order()} out of order, such as number {number}, {moments}"
        if account.requests_twice():
            yield f"{account.name}: {account.requests_twice()} IQ requests arrived twice"
        if account.repeated_on_a_stream():
            yield f"{account.name}: {account.repeated_on_a_stream()} arrived twice on one stream"


HEADING = (
    f"{'pair':<44}{'by':>5}{'sent':>8}{'arrived':>8}{'bounced':>8}{'doubt':>8}{'unread':>8}{'lost':>6}{'twice':>7}{'reordered':>10}{'IQ 2×':>7}"
)


def judge(account: PairAccount, rounds: Sequence[Round], refused: Container[int] = ()) -> Verdict:
    """Return the fate of the stanzas of a pair that neither arrived nor bounced. `refused`: written on streams that were refused.

    A real server, whose order is not judged, may write a stanza long after its client has sent it. Any later fault may lose it.
    """
    verdict = Verdict(account)
    for number in account.missing():
        in_doubt = number in refused or _unread(account.sent[number], rounds, account.orderly)
        excused = not account.managed and number not in account.acknowledged and in_doubt
        (verdict.excused if excused else verdict.lost).append(number)
    return verdict


def _unread(sent: float, rounds: Sequence[Round], at_once: bool) -> bool:
    return any(each.loses and (each.began - BEFORE <= sent or not at_once) and sent <= each.ended + AFTER for each in rounds)


def measure_silence(found: Round, accounts: Sequence[PairAccount], until: float) -> None:
    """Find the longest time without an arrival, of all pairs, from the fault to `until`."""
    for account in accounts:
        moments = sorted(moment for moments in account.arrivals.values() for moment in moments if moment < until)
        for early, late in pairwise([*moments, until]):
            if late > found.began and late - early > found.silence:
                found.silence, found.silent = late - early, account.name


def silences(rounds: Sequence[Round]) -> list[str]:
    """Return the errors of rounds in which a pair was silent for too long."""
    return [
        *(
            f"{each.text}: {each.silent} was silent for {each.silence:.1f} s"
            for each in rounds if each.silence > LIMITS.get(each.kind, float("inf"))
        ),
        *(
            f"{each.text}: a pair was silent for {each.bridged:.1f} s while the nodes had the bridge"
            for each in rounds if each.bridged > BRIDGE_LIMIT
        ),
    ]
