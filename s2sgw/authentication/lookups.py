"""The look-ups for a verdict on a peer: the TLSA records of its targets, and its POSH document (R22, R23).

The look-ups start when the peer is first asserted or dialled, and run during the handshake. The verdict asks again and waits for
a few seconds at most. The resolver and the documents join equal questions, and keep the answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime

from s2sgw.authentication.posh_documents import POSHDocuments
from s2sgw.net.discovery import Discovery, Resolution, Target
from s2sgw.net.requester import Requester
from s2sgw.trust.evidence import POSHLookup, TLSALookup
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain

#: Seconds that a verdict waits for each kind of look-up.
LOOKUP_SECONDS = 5.0
#: Targets of an inbound peer whose TLSA records are asked for.
TLSA_TARGETS = 4

T = TypeVar("T")


class ProxyRoutes(Protocol):
    """The peers that a proxy reaches."""

    def relayed(self, peer: Domain) -> bool:
        """Return whether a proxy reaches `peer` by name, so that it is not looked up."""


@dataclass(frozen=True)
class EvidenceLookups:
    """Asks the DNS and the web about peers. No look-up fails: the result has the reason for what was not found.

    `requester` is the party that the look-up is made for (`net.requester`). None: the gateway itself.
    """

    clock: IReactorTime
    discovery: Discovery
    documents: POSHDocuments
    routes: ProxyRoutes | None = None

    def begin(
        self, peer: Domain, route: str | None, target: Target | None, requester: Requester | None = None, *,
        dane: bool, posh: bool,
    ) -> Deferred[None]:
        """Start the look-ups. The result fires when all are done. It can be cancelled, and never fails."""
        begun = []
        if dane and (target is None or target.secure):  # any other target is not looked up
            begun.append(Deferred.fromCoroutine(self.dane(peer, route, target, requester)).addBoth(_drop))
        if posh:
            begun.append(Deferred.fromCoroutine(self.posh(peer, requester)).addBoth(_drop))
        return gatherResults(begun).addBoth(_drop)

    async def targets(self, peer: Domain, route: str | None, requester: Requester | None = None) -> tuple[Target, ...]:
        """Return the places of the peer by the DNS."""
        late = Resolution(peer, (), Ending(Cause.DNS_UNREACHABLE, "no answer in time"))
        return (await self._bounded(self.discovery.resolve(peer, route, requester), late)).targets

    async def dane(
        self, peer: Domain, route: str | None, target: Target | None, requester: Requester | None = None,
    ) -> tuple[TLSALookup, ...]:
        """Return the TLSA records of `target`, which we connect to, or of the peer's first targets (it connects to us)."""
        targets = (target,) if target is not None else (await self.targets(peer, route, requester))[:TLSA_TARGETS]
        return tuple(await gatherResults([self._tlsa(each, requester) for each in targets], consumeErrors=True))

    def _tlsa(self, target: Target, requester: Requester | None) -> Deferred[TLSALookup]:
        return self._bounded(self.discovery.tlsa(target, requester), TLSALookup(target.host, failure="no answer in time"))

    async def posh(self, peer: Domain, requester: Requester | None = None) -> POSHLookup:
        """Return the result of the peer's POSH document."""
        if self.routes is not None and self.routes.relayed(peer):
            return POSHLookup(failure="the peer is reached through a proxy, and nothing is looked up for it")
        return await self._bounded(self.documents.lookup(peer, requester), POSHLookup(failure="no answer in time"))

    def _bounded(self, asked: Deferred[T], late: T) -> Deferred[T]:
        if not asked.called:
            def give_up(_result: object, _seconds: float) -> T:
                return late

            asked.addTimeout(LOOKUP_SECONDS, self.clock, give_up)
        return asked


def _drop(_: object) -> None:
    """Drop a result. The verdict asks again, and then gets the failure."""
