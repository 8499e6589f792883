"""What the gateway asks of each of its two legs: the federation, and the backend.

The streams of both legs share their code (`s2s.accepted_stream`, `s2s.connecting`, `delivery.agent`). A leg says who may come,
which certificate we show there, and what proves the other end. `s2s.federation_receiving`, `s2s.federation_initiating` and
`backend.server` implement these protocols.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator

from s2sgw.net.connection import StreamConnection
from s2sgw.net.dialing import Dialler
from s2sgw.net.discovery import Resolution, Target
from s2sgw.net.fair_slots import Owner
from s2sgw.net.requester import Requester
from s2sgw.reporting.record import Leg
from s2sgw.s2s.stream_outcomes import StreamOutcomes
from s2sgw.stream.events import (
    DialbackNeeded,
    DialbackOutcome,
    JudgementNeeded,
    Method,
    Permission,
    Refusal,
    ResolutionNeeded,
    StartTLS,
)
from s2sgw.stream.initiating import InitiatingStream
from s2sgw.stream.receiving import ReceivingStream
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.jid import Domain, Pair


class Legged(Protocol):
    """Any of the sides."""

    @property
    def leg(self) -> Leg:
        """Which it is."""


class ReceivingLeg(Protocol):
    """Streams that others open towards us."""

    @property
    def leg(self) -> Leg:
        """Which side this is."""

    @property
    def outcomes(self) -> StreamOutcomes:
        """Return what is told how the streams fare."""

    def engine(self, direct_tls: bool) -> ReceivingStream:
        """A fresh engine for an accepted connection."""

    def tls(self, order: StartTLS | None) -> IOpenSSLServerConnectionCreator:
        """Our certificate: by the domain asked for, or (None: direct TLS) by SNI."""

    async def resolve(self, connection: StreamConnection, question: ResolutionNeeded) -> Refusal | None:
        """Whether the asserted peer exists in the DNS (R2)."""

    def identify(self, connection: StreamConnection) -> tuple[Domain, ...]:
        """Return the peers with whom a zero handshake is agreed and whose key the other end has presented (XEP-0361)."""

    async def judge(self, connection: StreamConnection, question: JudgementNeeded) -> tuple[Permission, tuple[str, ...]]:
        """What the evidence allows, and what was tried."""

    async def verify(self, connection: StreamConnection, question: DialbackNeeded) -> DialbackOutcome:
        """Ask the authoritative server whether the key is its own (R28)."""

    def excess(self, connection: StreamConnection, pair: Pair) -> Refusal | None:
        """Return why a stream that has just proven its first `pair` may not stay, None where it may."""

    def proven(self, connection: StreamConnection, pair: Pair, method: Method) -> None:
        """The other end has authenticated for `pair`."""

    async def admit(self, pair: Pair) -> Ending | None:
        """Before the first stanza of a proven pair reaches a lane: why it must not, or None."""


class InitiatingLeg(Protocol):
    """Streams that we open towards others, for the pairs of one direction."""

    @property
    def leg(self) -> Leg:
        """Which side this is."""

    @property
    def outcomes(self) -> StreamOutcomes:
        """Return what is told how the streams fare."""

    async def resolve(self, pair: Pair, requester: Requester | None = None) -> Resolution:
        """Return where the recipient's server is; `requester` None: we ask for ourselves."""

    async def locate(self, pair: Pair, targets: Sequence[Target], requester: Requester | None = None) -> Sequence[Target]:
        """Return those of `targets`, of one priority, that have addresses, looking up what is not known yet."""

    def dial_targets(self, pair: Pair, targets: Sequence[Target]) -> Sequence[Target]:
        """Return `targets` with the addresses that `dialler` is given: a proxy may be given the name of the host instead."""

    def engine(self, pair: Pair, target: Target, verifying: bool) -> InitiatingStream:
        """A fresh engine for one connection to `target`."""

    def shown(self, pair: Pair) -> str | None:
        """What a stream for `pair` shows the other side of us; those that show the same may be shared. None: none is."""

    def owner(self, pair: Pair) -> Owner:
        """Return the party for whose sake a stream for `pair` is opened: places are shared among these."""

    def owner_streams(self, pair: Pair) -> int:
        """Return how many streams the owner of `pair` has at most; 0: any number."""

    def streams(self, pair: Pair) -> int:
        """How many streams of ours the recipient's server has to bear at a time; 0: any number."""

    def largest(self, pair: Pair) -> int | None:
        """Bytes of a stanza that the recipient's server is known to accept, whatever it announces; None: unknown."""

    def dialler(self, pair: Pair, target: Target) -> Dialler:
        """How `target` is connected to."""

    def tls(self, pair: Pair, target: Target) -> IOpenSSLClientConnectionCreator:
        """The certificate we present for `pair.sender`."""

    async def judge(
        self, connection: StreamConnection, question: JudgementNeeded, target: Target,
    ) -> tuple[Permission, tuple[str, ...]]:
        """Whether the other end, at `target`, is whom we asked for."""
