"""The initiating role: a stream that we open, on either leg (RFC 6120 §4–§6, XEP-0220)."""

from __future__ import annotations

from dataclasses import replace

from s2sgw.stream.events import Event, Permission
from s2sgw.stream.features import PeerLimits
from s2sgw.stream.initiating_context import InitiatingContext, InitiatingPhase
from s2sgw.stream.initiating_phases import Idle
from s2sgw.stream.management import REQUEST
from s2sgw.stream.options import InitiatingOptions
from s2sgw.xmpp.content_namespace import is_fit
from s2sgw.xmpp.jid import Pair

#: Bytes of a stanza on which jabberd2 stops reading, by its default configuration. It announces no limit.
JABBERD2_BYTES = 65_535

__all__ = ["InitiatingOptions", "InitiatingStream"]


class InitiatingStream(InitiatingContext):
    """One stream that we open. Stanzas of a pair may be written to the transport after `PairProven`."""

    phase: InitiatingPhase

    def __init__(self, options: InitiatingOptions) -> None:
        super().__init__(options)
        self.phase = Idle(self)

    @property
    def peer_limits(self) -> PeerLimits:
        """Return the limits that the other side announced (XEP-0478), or that are known of it."""
        if self.pre_1_0 or self.features.dialback_alone:
            return replace(self.features.limits, presumed=JABBERD2_BYTES, holds=is_fit)
        return self.features.limits

    @property
    def one_way(self) -> bool:
        return not self.bidi

    @property
    def silence_limit(self) -> int | None:
        return self.peer_limits.idle_seconds

    @property
    def probe(self) -> bytes:
        return REQUEST if self.managed else b""

    def begin(self) -> list[Event]:
        """Start: the transport is connected. With direct TLS, `tls_established` follows."""
        return self.step(self.phase.begin)

    def judged(self, permission: Permission) -> list[Event]:
        """Answer `JudgementNeeded`. A `refusal` ends the stream; nothing else is used."""
        return self.step(self.phase.judged, permission)

    def authorize(self, pair: Pair) -> list[Event]:
        """Request `pair` by dialback. `PairProven` or `PairRefused` follows. Call it after the first such event."""
        return self.step(self.phase.authorize, pair)

    def verify(self, pair: Pair, stream_id: str, key: str) -> list[Event]:
        """Ask the other side whether the key for `pair` on our stream `stream_id` is its own; `Verified` follows."""
        return self.step(self.phase.ask_verify, pair, stream_id, key)
