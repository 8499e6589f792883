"""The two ends of a delivery queue: the sources that bring stanzas, and the next hop that takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from twisted.internet.defer import Deferred, succeed

from s2sgw.reporting.record import Leg
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.stanza import Stanza


class StanzaSource(Protocol):
    """A stream that brings stanzas and can be told to wait."""

    @property
    def shared(self) -> bool:
        """Whether it brings the stanzas of several queues, so that one slow next hop must not slow all of them."""

    @property
    def has_unread_input(self) -> bool:
        """Whether input waits to be read, or may wait: the stream is held."""

    def pause(self, holder: object) -> None:
        """Stop reading until `holder`, and all others that paused it, resume it."""

    def resume(self, holder: object) -> None:
        """End the pause of `holder`."""


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """The facts of an open stream for operators.

    `connection` is the same object for all pairs on one connection. `ours`: we opened it. `resumption`: whether the stream
    can be resumed (XEP-0198 §5), or is one that was.
    """

    leg: Leg
    method: str
    reasons: tuple[str, ...]
    address: str
    tls: str | None
    cipher: str | None
    ours: bool
    connection: object
    resumption: Literal["possible", "resumed"] | None = None


@dataclass(frozen=True, slots=True)
class NextHopStatus:
    """The facts of a next hop for operators.

    `state` is idle, connecting, ready, broken (the stream may still be resumed) or backing off. `cause`: why the last
    attempt failed, or the last stream was lost. `retry_at`: when the next attempt begins, by the clock. `stream`: the open
    stream, used since `since` by the clock.
    """

    state: str
    cause: Cause | None = None
    retry_at: float | None = None
    stream: StreamFacts | None = None
    since: float = 0.0


class NextHop(Protocol):
    """The taker of a queue's stanzas: a stream to the next server, or the embedded echo."""

    def dispose(self) -> None:
        """Drop the references to the queue, which was forgotten. No call follows."""

    @property
    def state(self) -> str:
        """Return the state, see `NextHopStatus.state`."""

    @property
    def ready(self) -> bool:
        """Return whether `send` may be called now."""

    @property
    def slow(self) -> bool:
        """Return whether the next server is there and takes no more at present, so that its sources should wait."""

    @property
    def acknowledges(self) -> bool:
        """Return whether the hop reports acknowledgements (`DeliveryQueue.acknowledged`).

        If not, written stanzas are passed on.
        """

    @property
    def acks_arrive_elsewhere(self) -> bool:
        """Return whether the acknowledgements arrive on a stream towards us, not on the stream that is written to."""

    @property
    def last_cause(self) -> Cause:
        """Return why the last attempt failed: the cause for bouncing a stanza when its time is up."""

    def status(self) -> NextHopStatus:
        """Return the facts for operators."""

    def send(self, data: Sequence[bytes]) -> bool:
        """Pass these stanzas on now. Return whether the next hop takes no more for now (`slow`)."""

    def relieve_pressure(self) -> None:
        """Settle what can be settled. So much is unacknowledged that the sources would have to wait."""

    def request_delivery(self) -> None:
        """Begin the delivery: stanzas wait. Call `DeliveryQueue.next_hop_ready` when they can be written."""

    def withdraw_request(self) -> None:
        """End an attempt that is under way: all stanzas that waited for it have expired."""

    def retry_now(self, urged: bool = False) -> None:
        """Try again now if an attempt is due later. `urged`: an operator asks for it; the back-off is ignored."""

    def release_stream(self) -> None:
        """Close a stream that is not in use, because others wait for a stream."""

    def stop(self, cause: Cause) -> Deferred[None]:
        """Close gracefully, for good. Fires when that is done, within a bounded time."""

    def abandon(self) -> None:
        """End at once, for good: another node has the queue. Write nothing, and leave the stream to the caller, who aborts it."""


class NoNextHop:
    """The `NextHop` of a queue that was forgotten, for callers that still refer to the queue. It takes nothing."""

    state = "idle"
    ready = slow = acknowledges = acks_arrive_elsewhere = False
    last_cause = Cause.HELD_TOO_LONG

    def dispose(self) -> None:
        """Do nothing: there are no references to drop."""

    def status(self) -> NextHopStatus:
        """Return that it is idle."""
        return NextHopStatus(self.state)

    def send(self, data: Sequence[bytes]) -> bool:
        """Raise `TypeError`: it is never ready."""
        raise TypeError("a queue that was forgotten sends nothing")

    def relieve_pressure(self) -> None:
        """Do nothing: nothing can be settled."""

    def request_delivery(self) -> None:
        """Do nothing: no stanza waits."""

    def withdraw_request(self) -> None:
        """Do nothing: no attempt is under way."""

    def retry_now(self, urged: bool = False) -> None:
        """Do nothing: no attempt can be made."""

    def release_stream(self) -> None:
        """Do nothing: there is no stream."""

    def stop(self, cause: Cause) -> Deferred[None]:
        """Return a fired Deferred."""
        return succeed(None)

    def abandon(self) -> None:
        """Do nothing: there is no stream."""


@dataclass(frozen=True, slots=True)
class NextHopLimits:
    """The stanzas that the next hop takes. Any other is bounced, so that it does not break the stream.

    `largest`: bytes of a stanza, as announced (XEP-0478) or known. `holds`: whether it can represent a stanza at all.
    """

    largest: int | None = None
    holds: Callable[[bytes], bool] | None = None

    def __bool__(self) -> bool:
        """Return whether there is a limit."""
        return self.largest is not None or self.holds is not None

    def violation(self, data: bytes) -> Cause | None:
        """Return why a stanza with these bytes is refused; None: it is taken."""
        if self.largest is not None and len(data) > self.largest:
            return Cause.TOO_LARGE
        return Cause.UNFIT if self.holds is not None and not self.holds(data) else None

    def partition(self, stanzas: Sequence[Stanza]) -> tuple[list[Stanza], list[tuple[Stanza, Cause]]]:
        """Return the stanzas that are taken, and the others with the cause."""
        taken, refused = [], []
        for stanza in stanzas:
            cause = self.violation(stanza.data)
            if cause is None:
                taken.append(stanza)
            else:
                refused.append((stanza, cause))
        return taken, refused
