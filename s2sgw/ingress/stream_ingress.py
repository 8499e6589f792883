"""The stanzas that come in on one stream, whoever opened it: on their way to their queues, and how many of them are safe."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection
from typing import ParamSpec, Protocol

from twisted.internet.interfaces import IDelayedCall

from s2sgw.ingress.duplicates import Unacknowledged
from s2sgw.ingress.pair_ingress import HeldBytes, IngressConnection, IngressServices, PairAdmission, PairIngress
from s2sgw.queue.entries import UpstreamAck
from s2sgw.queue.evidence import ReceiptEvidence
from s2sgw.reporting.record import Leg, direction_of
from s2sgw.stream.events import Event
from s2sgw.stream.management import Counters
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from s2sgw.xmpp.timer import cancel

#: Seconds within which what came on a stream must be safe to be acknowledged, once the other side has closed the stream.
CLOSING_SECONDS = 2.0

P = ParamSpec("P")


class AcknowledgingEngine(Protocol):
    """What is needed of the engine."""

    @property
    def acknowledged_to_peer(self) -> int:
        """How many of their stanzas were acknowledged to the other side (XEP-0198)."""

    def handled(self, number: int) -> list[Event]:
        """`number` more of their stanzas are safe."""


class StreamSource(IngressConnection, Protocol):
    """What is needed of the connection."""

    def step(self, method: Callable[P, list[Event]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a method of the engine, and perform what follows."""

    def close(self, ending: Ending) -> None:
        """End the stream in order."""


class StreamIngress:
    """The stanzas of one stream on `leg`.

    `admission` says whether those of a pair may enter a queue. `senders` are the domains that send here; its owner adds to it.
    """

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
        self._pairs: dict[Pair, PairIngress] = {}
        self._held = HeldBytes()
        self._receipts: StreamReceipts | None = None
        self._late: IDelayedCall | None = None

    def stanzas(self, pair: Pair, stanzas: list[Stanza]) -> None:
        """Take a run of stanzas of a proven pair."""
        ingress = self._pairs.get(pair)
        if ingress is None:
            ingress = self._pairs[pair] = PairIngress(
                self._services, self._connection, self._leg, pair, self._admission_of, self._senders, self._held,
            )
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

    def _repeated(self, repeats: list[tuple[Stanza, UpstreamAck]], receipt: UpstreamAck | None) -> None:
        """Do not pass on what had come before; it is as safe as its first copy is."""
        self._services.record.counted(direction_of(self._leg), "duplicate", [stanza for stanza, _ in repeats])
        if receipt is not None:
            for _, first_copy in repeats:
                receipt.settle_with(first_copy)

    def managed(self) -> None:
        """From now on the other side is told which of its stanzas are safe (XEP-0198)."""
        self._receipts = StreamReceipts(_OpenStream(self._connection, self._engine), self._services.record.receipts)

    def peer_closing(self, ending: Ending) -> None:
        """The other side has closed the stream, and is told which of its stanzas are safe before we close it too."""
        self._late = self._services.clock.callLater(CLOSING_SECONDS, self._connection.close, ending)

    def reconsider(self) -> None:
        """The policy has changed: admit the pairs anew."""
        for ingress in self._pairs.values():
            ingress.reconsider()

    def forget_resting(self, before: float) -> None:
        """On a stream that lasts: admit pairs anew of which nothing has come since `before`, when they come again."""
        for pair in [pair for pair, ingress in self._pairs.items() if ingress.rests(before)]:
            self._pairs.pop(pair).close()

    def close(self, ending: Ending) -> None:
        """The stream is gone."""
        self.pass_on()
        cancel(self._late)
        self.forget()

    def pass_on(self) -> None:
        """The stream is gone: what came before is passed on, and no stream is left to be paused."""
        for ingress in self._pairs.values():
            ingress.close()

    # --- resumption (XEP-0198 §5) ---

    def suspend(self, counters: Counters) -> None:
        """The stream broke off and may be resumed: what becomes of its stanzas is counted on all the same. `pass_on` follows."""
        if self._receipts is not None:
            self._receipts.sender = _SuspendedStream(counters)

    def continue_from(self, former: StreamIngress) -> None:
        """This stream resumes the one of `former`."""
        self._receipts = former._receipts
        if self._receipts is not None:
            self._receipts.sender = _OpenStream(self._connection, self._engine)

    def forget(self) -> None:
        """What was not acknowledged may come again, on any stream."""
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


class Sender(Protocol):
    """Who sent the stanzas of a stream, and is told which of them are safe (XEP-0198)."""

    @property
    def acknowledged(self) -> int:
        """How many of all were acknowledged."""

    def acknowledge(self, number: int) -> None:
        """`number` more, from the first on, are safe."""


class _OpenStream:
    """The sender at the other end of a stream."""

    __slots__ = ("_connection", "_engine")

    def __init__(self, connection: StreamSource, engine: AcknowledgingEngine) -> None:
        self._connection = connection
        self._engine = engine

    @property
    def acknowledged(self) -> int:
        return self._engine.acknowledged_to_peer

    def acknowledge(self, number: int) -> None:
        self._connection.step(self._engine.handled, number)


class _SuspendedStream:
    """The sender whose stream broke off. It is told when it resumes the stream."""

    __slots__ = ("_counters",)

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    @property
    def acknowledged(self) -> int:
        return self._counters.told

    def acknowledge(self, number: int) -> None:
        self._counters.handle(number, 0)


class _NoSender:
    """The stream is gone."""

    __slots__ = ()
    acknowledged = 0

    def acknowledge(self, number: int) -> None:
        """There is nobody to be told."""


class StreamReceipts:
    """Which stanzas of a stream are safe: the longest prefix over all of its pairs, however their runs settle (R35).

    `sender` is told of the prefix. `tally` counts settled receipts by evidence.
    """

    def __init__(self, sender: Sender, tally: Counter[str]) -> None:
        self.sender = sender
        self.tally = tally
        self._open: deque[UpstreamAck] = deque()
        self._unacknowledged = Unacknowledged()

    def receipt(self, pair: Pair, stanzas: list[Stanza]) -> UpstreamAck:
        """Return the receipt for the next stanzas of the stream."""
        receipt = StreamReceipt(len(stanzas), self)
        self._open.append(receipt)
        self._unacknowledged.add(pair, stanzas, receipt)
        return receipt

    def settled(self) -> None:
        """A receipt is settled."""
        number = 0
        while self._open and not self._open[0].left:
            number += self._open.popleft().total
        if number:
            self.sender.acknowledge(number)
            self._unacknowledged.acknowledged(self.sender.acknowledged)

    def end(self) -> list[tuple[Pair, int, UpstreamAck]]:
        """The stream is gone. Return what its sender does not know to be safe."""
        acknowledged = self.sender.acknowledged
        self.sender = _NoSender()  # the sender leads to the stream
        return list(self._unacknowledged.rows(acknowledged))
