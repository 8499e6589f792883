"""Stanzas that are sent again: after the loss of a stream with XEP-0198 a server resends what was not acknowledged.

Only a message is taken for a repeat, and only if it is the same to the byte, has an id, was not acknowledged when its stream
broke, and comes from the same pair within `REMEMBERED_SECONDS`. Everything else passes: a repeated presence does no harm,
programs send equal IQs on purpose, and a sender may use the id of an acknowledged message again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import islice, takewhile

from twisted.internet.interfaces import IReactorTime

from s2sgw.queue.entries import UpstreamAck
from s2sgw.xmpp.fair_dict import FairDict
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.registered_domain import registered_domain
from s2sgw.xmpp.stanza import Stanza

#: Seconds for which resent stanzas are recognised. The other bounds: pairs, unacknowledged stanzas of one stream, and
#: stanzas of one pair and of all pairs that are remembered. One takes about 200 bytes.
REMEMBERED_SECONDS = 600.0
MAX_PAIRS = 1000
MAX_OF_STREAM, MAX_OF_PAIR, MAX_OF_ALL = 10_000, 40_000, 200_000


class ReceivedRun:
    """Stanzas of `pair` that came together, their receipt, and their hashes (None: it is not recognised).

    The hashes are valid in this process only.
    """

    __slots__ = ("hashes", "pair", "receipt")

    def __init__(self, pair: Pair, stanzas: list[Stanza], receipt: UpstreamAck) -> None:
        self.pair = pair
        self.receipt = receipt
        self.hashes = [hash(each.data) if each.kind == "message" and each.id is not None else None for each in stanzas]


class Unacknowledged:
    """The stanzas of one stream that are not acknowledged to its sender, oldest first."""

    def __init__(self) -> None:
        self._runs: deque[ReceivedRun] = deque()
        self._number = 0  # of these stanzas
        self._before = 0  # stanzas of runs that were acknowledged, or are forgotten

    def add(self, pair: Pair, stanzas: list[Stanza], receipt: UpstreamAck) -> None:
        """Add `stanzas` of `pair`, which came together after the others."""
        run = ReceivedRun(pair, stanzas, receipt)
        self._runs.append(run)
        self._number += len(run.hashes)
        while self._number > MAX_OF_STREAM and len(self._runs) > 1:
            self.acknowledged(self._before + len(self._runs[0].hashes))

    def acknowledged(self, number: int) -> None:
        """Drop the first `number` stanzas of the stream: they were acknowledged to the sender."""
        runs = self._runs
        while runs and self._before + len(runs[0].hashes) <= number:
            dropped = len(runs.popleft().hashes)
            self._number -= dropped
            self._before += dropped

    def rows(self, acknowledged: int) -> Iterator[tuple[Pair, int, UpstreamAck]]:
        """Return pair, hash and receipt of each stanza that can be recognised.

        The sender has `acknowledged` stanzas of the stream.
        """
        self.acknowledged(acknowledged)
        known = max(0, acknowledged - self._before)  # of the first run
        for run in self._runs:
            for value in islice(run.hashes, known, None):
                if value is not None and not run.receipt.abandoned:
                    yield run.pair, value, run.receipt
            known = 0


def _sender(pair: Pair, expected: object) -> str:
    """Return the party that may send stanzas of `pair` again."""
    return registered_domain(pair.sender.ascii)


class ExpectedRepeats:
    """The stanzas of one pair that may come again until a time: their receipts by their hashes, and how many were lost."""

    __slots__ = ("number", "receipts", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self.receipts: dict[int, list[UpstreamAck]] = {}
        self.number = 0

    def add(self, value: int, receipt: UpstreamAck) -> None:
        """Add a stanza with this hash."""
        self.receipts.setdefault(value, []).append(receipt)
        self.number += 1


class Duplicates:
    """The stanzas that may be sent again, by pair."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        #: the pairs of which stanzas may come again. A sender with many sub-domains does not remove the pairs of others
        self.expected: FairDict[Pair, ExpectedRepeats] = FairDict(MAX_PAIRS, _sender)

    def expect(self, rows: Iterable[tuple[Pair, int, UpstreamAck]]) -> None:
        """Remember the stanzas of a stream that broke: they may be sent again."""
        now = self._clock.seconds()
        for pair, value, receipt in rows:
            lost = self.expected.get(pair)
            if lost is None or lost.until < now or lost.number >= MAX_OF_PAIR:
                lost = ExpectedRepeats()
            if lost.until != now + REMEMBERED_SECONDS:
                lost.until = now + REMEMBERED_SECONDS
                self.expected[pair] = lost
            lost.add(value, receipt)
        self._forget_some()

    def _forget_some(self) -> None:
        """Forget what is past, and keep the bound of all stanzas.

        The registered domain that lost most is forgotten first, its oldest pairs first.
        """
        now = self._clock.seconds()
        for pair in [pair for pair, _ in takewhile(lambda row: row[1].until < now, self.expected.items())]:  # oldest first
            del self.expected[pair]
        excess = sum(lost.number for lost in self.expected.values()) - MAX_OF_ALL
        if excess <= 0:
            return
        numbers: Counter[str] = Counter()
        pairs: dict[str, deque[Pair]] = {}
        for pair, lost in self.expected.items():
            numbers[_sender(pair, lost)] += lost.number
            pairs.setdefault(_sender(pair, lost), deque()).append(pair)
        while excess > 0:
            most = max(numbers, key=numbers.__getitem__)
            pair = pairs[most].popleft()
            number = self.expected[pair].number
            del self.expected[pair]
            numbers[most] -= number
            excess -= number

    def divide(self, pair: Pair, stanzas: list[Stanza]) -> tuple[list[Stanza], list[tuple[Stanza, UpstreamAck]]]:
        """Return the new stanzas, and the repeated ones, each with the receipt of its first copy."""
        known = self.expected.get(pair)
        if known is None:
            return stanzas, []
        if self._clock.seconds() > known.until:
            del self.expected[pair]
            return stanzas, []
        new: list[Stanza] = []
        repeats: list[tuple[Stanza, UpstreamAck]] = []
        for stanza in stanzas:
            same = known.receipts.get(hash(stanza.data)) if stanza.kind == "message" and stanza.id is not None else None
            while same and same[0].abandoned:
                same.pop(0)
            if same:
                repeats.append((stanza, same.pop(0)))
            else:
                new.append(stanza)
        return new, repeats
