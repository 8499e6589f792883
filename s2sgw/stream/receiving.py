"""The receiving role: a stream that the other side opened, on either leg (RFC 6120 §4–§6, XEP-0220)."""

from __future__ import annotations

from collections.abc import Callable

from s2sgw.stream.events import DialbackOutcome, Event, Permission, Refusal
from s2sgw.stream.management import Counters, Resumption
from s2sgw.stream.options import ReceivingOptions
from s2sgw.stream.receiving_context import ReceivingContext, ReceivingPhase
from s2sgw.stream.receiving_phases import AwaitHeader, Handshaking
from s2sgw.xmpp.jid import Domain, Pair

__all__ = ["ReceivingOptions", "ReceivingStream"]


class ReceivingStream(ReceivingContext):
    """One received stream. `stream_id` returns an unguessable id for each header that we send (XEP-0185 §2)."""

    phase: ReceivingPhase

    def __init__(self, options: ReceivingOptions, stream_id: Callable[[], str]) -> None:
        super().__init__(options, stream_id)
        self.phase = Handshaking(self) if options.direct_tls else AwaitHeader(self)

    def resolved(self, refusal: Refusal | None) -> list[Event]:
        """Answer `ResolutionNeeded`. None: the peer's hostname was resolved."""
        return self.step(self.phase.resolved, refusal)

    def identified(self, peers: tuple[Domain, ...]) -> list[Event]:
        """Answer `IdentityNeeded` with the peers whose agreed key the other side has presented."""
        return self.step(self.phase.identified, peers)

    def judged(self, permission: Permission, peer: Domain | None = None) -> list[Event]:
        """Answer `JudgementNeeded` for `peer`. None: for the only question that is open."""
        return self.step(self.phase.judged, permission, peer)

    def dialback_answered(self, pair: Pair, outcome: DialbackOutcome) -> list[Event]:
        """Answer `DialbackNeeded` for `pair`."""
        return self.step(self.phase.dialback_answered, pair, outcome)

    def resumed(self, resumption: Resumption | None, past: Counters | None = None) -> list[Event]:
        """Answer `ResumptionNeeded` with the stream to resume, or None.

        `past`: counters of a stream that cannot be resumed any more.
        """
        return self.step(self.phase.resumed, resumption, past)
