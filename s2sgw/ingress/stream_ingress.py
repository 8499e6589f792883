"""The stanzas that come in on one stream, of either role: their way to their queues, and how many of them are safe."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection
from functools import partial
from typing import ParamSpec, Protocol

from twisted.internet.interfaces import IDelayedCall

from s2sgw.ingress.duplicates import Unacknowledged
from s2sgw.ingress.pair_ingress import HeldBytes, IngressConnection, IngressServices, PairAdmission, PairIngress
from s2sgw.queue.entries import UpstreamAck
from s2sgw.queue.evidence import ReceiptEvidence
from s2sgw.reporting.record import Leg, direction_of
from s2sgw.stream.events import Event
from s2sgw.stream.management import Counters
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from s2sgw.xmpp.timer import cancel

#: After the other side has closed the stream: seconds within which its stanzas must be safe to be acknowledged.
CLOSING_SECONDS = 2.0
#: Pairs of a stream that has ended that are forgotten in one turn: a millisecond or two.
PAIRS_AT_ONCE = 1000
_GIVEN_UP = Ending(Cause.CLOSED, "stanzas that came on it were given up: they may be sent again on the next stream")

P = ParamSpec("P")


class AcknowledgingEngine(Protocol):
    """The interface of the stream's engine."""

    @property
    def acknowledged_to_peer(self) -> int:
        """The number of their stanzas that were acknowledged to the other side (XEP-0198)."""

    def handled(self, number: int) -> list[Event]:
        """Note that `number` more of their stanzas are safe."""


class StreamSource(IngressConnection, Protocol):
    """The interface of the connection."""

    def step(self, method: Callable[P, list[Event]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a method of the engine, and carry out its orders."""

    def close(self, ending: Ending) -> None:
        """Close the stream gracefully."""


class StreamIngress:
    """The stanzas of one stream on `leg`.

    `admission` decides which pairs may enter a queue. `senders` are the domains that send here; the owner adds to it.
    """

    __slots__ = (
        "_admission_of", "_connection", "_engine", "_held", "_late", "_latest", "_leg", "_pairs", "_proven", "_receipts",
        "_senders", "_services",
    )

    def __init__(
        self, ingress_services: IngressServices, connection: StreamSource, engine: AcknowledgingEngine, leg: Leg,
        admission: PairAdmission, senders: Collection[Domain],
    ) -> None:
        self._services = ingress_services
        self._connection = connection
        self._engine = engine
        self._leg: Leg = leg
        self._admission_of = admission
        self._senders = senders
        self._proven: list[Pair] = []
        self._pairs: dict[Pair, PairIngress] = {}
        self._latest: PairIngress | None = None  # of these, the one whose stanzas came last
        self._held = HeldBytes()
        self._receipts: StreamReceipts | None = None
        self._late: IDelayedCall | None = None

    def proven(self, pair: Pair) -> None:
        """Note, once, that `pair` is proven on this stream.

        Its stanzas come before those of later streams, also if they are read later.
        """
        self._proven.append(pair)
        self._services.sources.add(pair, self._connection)

    def stanzas(self, pair: Pair, stanzas: list[Stanza]) -> None:
        """Take a run of stanzas of a proven pair."""
        ingress = self._latest
        if ingress is None or ingress.pair is not pair:
            ingress = self._latest = self._ingress(pair)
        receipt = None if self._receipts is None else self._receipts.receipt(pair, stanzas)
        duplicates = self._services.duplicates
        if duplicates.expected:
            new, repeats = duplicates.divide(pair, stanzas)
            if repeats:
                self._repeated(repeats, receipt)
            if not new:
                return
            stanzas = new
        ingress.accept(stanzas, receipt)

    def _ingress(self, pair: Pair) -> PairIngress:
        """Return where the stanzas of `pair` come in on this stream."""
        ingress = self._pairs.get(pair)
        if ingress is None:
            ingress = self._pairs[pair] = PairIngress(
                self._services, self._connection, self._leg, pair, self._admission_of, self._senders, self._held,
            )
        return ingress

    def _repeated(self, repeats: list[tuple[Stanza, UpstreamAck]], receipt: UpstreamAck | None) -> None:
        """Drop repeated stanzas. Each of them is as safe as its first copy."""
        self._services.record.counted(direction_of(self._leg), "duplicate", [stanza for stanza, _ in repeats])
        if receipt is not None:
            for _, first_copy in repeats:
                receipt.settle_with(first_copy)

    def managed(self) -> None:
        """Acknowledge stanzas to the other side from now on (XEP-0198)."""
        self._receipts = StreamReceipts(self._open_stream(), self._services.record.receipts)

    def _open_stream(self) -> Sender:
        return _OpenStream(self._connection, self._engine, self._services.soon)

    def peer_closing(self, ending: Ending) -> None:
        """Acknowledge the safe stanzas, then close the stream, which the other side has closed."""
        self._late = self._services.clock.callLater(CLOSING_SECONDS, self._connection.close, ending)

    def reconsider(self) -> None:
        """Admit the pairs anew: the policy has changed."""
        for ingress in self._pairs.values():
            ingress.reconsider()

    def forget_resting(self, before: float) -> None:
        """On a stream that lasts, drop pairs without stanzas since `before`. They are admitted anew when they come again."""
        self._latest = None
        for pair in [pair for pair, ingress in self._pairs.items() if ingress.rests(before)]:
            self._pairs.pop(pair).close()

    def close(self, ending: Ending) -> None:
        """End: the stream is gone."""
        self.pass_on()
        cancel(self._late)
        self.forget()

    def abandon(self, concerns: Callable[[Pair], bool]) -> None:
        """Take no more stanzas of the pairs that `concerns` is true for: another node has them (`PairIngress.abandon`)."""
        for pair in [pair for pair in self._pairs if concerns(pair)]:
            self._pairs[pair].abandon()

    def pass_on(self) -> None:
        """Pass on the stanzas that came before the stream was gone. No stream is left to be paused."""
        self._forget_proven()
        for ingress in self._pairs.values():
            ingress.close()

    def _forget_proven(self) -> None:
        """Take the stream out of the index of the pairs proven on it, some in each turn: it may have very many."""
        some, self._proven = self._proven[:PAIRS_AT_ONCE], self._proven[PAIRS_AT_ONCE:]
        for pair in some:
            self._services.sources.discard(pair, self._connection)
        if self._proven:
            self._services.soon(self._forget_proven)

    # --- resumption (XEP-0198 §5) ---

    def suspend(self, counters: Counters) -> None:
        """Go on counting safe stanzas: the stream broke off and may be resumed. Call `pass_on` next."""
        if self._receipts is not None:
            self._receipts.sender = _SuspendedStream(counters)

    def continue_from(self, former: StreamIngress) -> None:
        """Continue the stream of `former`, which this one resumes."""
        self._receipts = former._receipts
        if self._receipts is not None:
            self._receipts.sender = self._open_stream()
            if self._receipts.blocked:
                self._receipts.sender.end_stream()

    def forget(self) -> None:
        """Expect repeats: unacknowledged stanzas may come again, on any stream."""
        receipts, self._receipts = self._receipts, None
        if receipts is not None:
            self._services.duplicates.expect(receipts.end())


class StreamReceipt(UpstreamAck):
    """The receipt for a run of stanzas of a stream with XEP-0198."""

    __slots__ = ("_receipts",)

    def __init__(self, total: int, receipts: StreamReceipts) -> None:
        super().__init__(total, receipts.tally)
        self._receipts = receipts

    def all_settled(self, evidence: ReceiptEvidence) -> None:
        self._receipts.settled()

    def never_settled(self) -> None:
        self._receipts.given_up()


class Sender(Protocol):
    """The sender of the stanzas of a stream. It is told which of them are safe (XEP-0198)."""

    @property
    def acknowledged(self) -> int:
        """The number of stanzas that were acknowledged in all."""

    def acknowledge(self, number: int) -> None:
        """Acknowledge `number` more, from the first on."""

    def end_stream(self) -> None:
        """End the stream, in one of the next turns of the reactor: no more of its stanzas can be acknowledged."""


class _OpenStream:
    """The sender at the other end of a stream."""

    __slots__ = ("_connection", "_engine", "_soon")

    def __init__(
        self, connection: StreamSource, engine: AcknowledgingEngine, soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._connection = connection
        self._engine = engine
        self._soon = soon

    @property
    def acknowledged(self) -> int:
        return self._engine.acknowledged_to_peer

    def acknowledge(self, number: int) -> None:
        self._connection.step(self._engine.handled, number)

    def end_stream(self) -> None:
        self._soon(partial(self._connection.close, _GIVEN_UP))


class _SuspendedStream:
    """The sender of a stream that broke off. It is told when it resumes the stream."""

    __slots__ = ("_counters",)

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    @property
    def acknowledged(self) -> int:
        return self._counters.told

    def acknowledge(self, number: int) -> None:
        self._counters.handle(number, 0)

    def end_stream(self) -> None:
        """Do nothing: there is no stream. The one that resumes it ends."""


class _NoSender:
    """The sender of a stream that is gone."""

    __slots__ = ()
    acknowledged = 0

    def acknowledge(self, number: int) -> None:
        """Do nothing."""

    def end_stream(self) -> None:
        """Do nothing."""


class StreamReceipts:
    """The receipts of a stream. The safe stanzas are the longest prefix over all of its pairs, in any order of settling (R35).

    `sender` is told of the prefix. `tally` counts settled receipts by evidence.
    """

    def __init__(self, sender: Sender, tally: Counter[str]) -> None:
        self.sender = sender
        self.tally = tally
        #: whether a stanza was given up: neither it nor any behind it is ever acknowledged
        self.blocked = False
        self._open: deque[UpstreamAck] = deque()
        self._unacknowledged = Unacknowledged()

    def receipt(self, pair: Pair, stanzas: list[Stanza]) -> UpstreamAck:
        """Return the receipt for the next stanzas of the stream."""
        receipt = StreamReceipt(len(stanzas), self)
        self._open.append(receipt)
        self._unacknowledged.add(pair, stanzas, receipt)
        return receipt

    def settled(self) -> None:
        """Note that a receipt is settled."""
        number = 0
        while self._open and not self._open[0].left:
            number += self._open.popleft().total
        if number:
            self.sender.acknowledge(number)
            self._unacknowledged.acknowledged(self.sender.acknowledged)

    def given_up(self) -> None:
        """End the stream: a receipt will never be settled. Its sender sends again what was not acknowledged."""
        if not self.blocked:
            self.blocked = True
            self.sender.end_stream()

    def end(self) -> list[tuple[Pair, int, UpstreamAck]]:
        """End: the stream is gone. Return the stanzas that its sender does not know to be safe."""
        acknowledged = self.sender.acknowledged
        self.sender = _NoSender()  # the sender leads to the stream
        return list(self._unacknowledged.rows(acknowledged))
