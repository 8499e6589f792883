"""The interface of the gateway's two legs: the federation, and the backend.

The streams of both legs share their code (`s2s.accepted_stream`, `s2s.connecting`, `delivery.agent`). A leg decides which peers
may connect, which certificate we show, and what proves the other end. `s2s.federation_receiving`, `s2s.federation_initiating` and
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
    """Either role of either leg."""

    @property
    def leg(self) -> Leg:
        """Return which leg it is."""


class ReceivingLeg(Protocol):
    """Streams that others open towards us."""

    @property
    def leg(self) -> Leg:
        """Return which leg it is."""

    @property
    def outcomes(self) -> StreamOutcomes:
        """Return the receiver of the outcomes of streams."""

    def engine(self, direct_tls: bool) -> ReceivingStream:
        """Return a new engine for an accepted connection."""

    def tls(self, order: StartTLS | None) -> IOpenSSLServerConnectionCreator:
        """Return our certificate: by the domain asked for, or (None: direct TLS) by SNI."""

    async def resolve(self, connection: StreamConnection, question: ResolutionNeeded) -> Refusal | None:
        """Return whether the asserted peer exists in the DNS (R2)."""

    def identify(self, connection: StreamConnection) -> tuple[Domain, ...]:
        """Return the peers with whom a zero handshake is agreed and whose key the other end has presented (XEP-0361)."""

    async def judge(self, connection: StreamConnection, question: JudgementNeeded) -> tuple[Permission, tuple[str, ...]]:
        """Return what the evidence allows, and what was tried."""

    async def verify(self, connection: StreamConnection, question: DialbackNeeded) -> DialbackOutcome:
        """Ask the authoritative server whether the key is its own (R28)."""

    async def reconsider(self, connection: StreamConnection, pair: Pair, method: str) -> Refusal | None:
        """Return why the policy now in force refuses `pair`. `method` proved it; "": it is not proven yet."""

    def policy(self, peer: Domain) -> object:
        """Return the policy in force for `peer`, to see whether it has changed between a judgement and its proof."""

    def excess(self, connection: StreamConnection, pair: Pair) -> Refusal | None:
        """Return why a stream that has just proven its first `pair` may not stay; None: it may."""

    def proven(self, connection: StreamConnection, pair: Pair, method: Method) -> None:
        """Note that the other end has authenticated for `pair`."""

    async def admit(self, pair: Pair) -> Ending | None:
        """Return why stanzas of a proven pair must not enter a queue, or None. Asked before the first one."""


class InitiatingLeg(Protocol):
    """Streams that we open towards others, for the pairs of one direction."""

    @property
    def leg(self) -> Leg:
        """Return which leg it is."""

    @property
    def outcomes(self) -> StreamOutcomes:
        """Return the receiver of the outcomes of streams."""

    async def resolve(self, pair: Pair, requester: Requester | None = None) -> Resolution:
        """Return where the recipient's server is. `requester` is charged for the look-up; None: the gateway itself."""

    async def locate(self, pair: Pair, targets: Sequence[Target], requester: Requester | None = None) -> Sequence[Target]:
        """Return those of `targets`, all of one priority, that have addresses. Addresses that are not known yet are looked up."""

    def dial_targets(self, pair: Pair, targets: Sequence[Target]) -> Sequence[Target]:
        """Return `targets` with the addresses for `dialler`: a proxy may get the name of the host instead."""

    def engine(self, pair: Pair, target: Target, verifying: bool) -> InitiatingStream:
        """Return a new engine for one connection to `target`."""

    def shown(self, pair: Pair) -> str | None:
        """Return what a stream for `pair` shows of us.

        Streams that show the same may be shared. None: the stream is not shared.
        """

    def owner(self, pair: Pair) -> Owner:
        """Return the party for whose sake a stream for `pair` is opened. Places are shared among these parties."""

    def owner_streams(self, pair: Pair) -> int:
        """Return how many streams the owner of `pair` has at most; 0: any number."""

    def streams(self, pair: Pair) -> int:
        """Return how many streams of ours the recipient's server accepts at a time; 0: any number."""

    def largest(self, pair: Pair) -> int | None:
        """Return the bytes of a stanza that the recipient's server is known to accept, whatever it announces; None: not known."""

    def dialler(self, pair: Pair, target: Target) -> Dialler:
        """Return the dialler for `target`."""

    def tls(self, pair: Pair, target: Target) -> IOpenSSLClientConnectionCreator:
        """Return the certificate that we present for `pair.sender`."""

    def policy(self, peer: Domain) -> object:
        """Return the policy in force for `peer`, to see whether it has changed between a judgement and its proof."""

    async def judge(
        self, connection: StreamConnection, question: JudgementNeeded, target: Target,
    ) -> tuple[Permission, tuple[str, ...]]:
        """Return whether the other end, at `target`, is the server that we asked for."""
