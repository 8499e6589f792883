"""What is looked up about a peer for its verdict: the TLSA records of its targets, and its POSH document (R22, R23).

The DNS is asked when the peer is first asserted, or dialled, beside the handshake, and so is the web where it proved the peer
lately; the verdict waits for them, a few seconds at most. What was begun is not carried along: the resolver and the documents
keep and join what is asked twice.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime

from s2sgw.authentication.posh_documents import POSHDocuments
from s2sgw.net.discovery import Discovery, Resolution, Target
from s2sgw.trust.evidence import POSHLookup, TLSALookup
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain

#: Seconds that a verdict waits for each kind of look-up.
PATIENCE = 5.0
#: Targets of an inbound peer whose TLSA records are asked for.
TARGETS = 8

T = TypeVar("T")


@dataclass(frozen=True)
class EvidenceLookups:
    """Asks the DNS and the web about peers. No look-up fails: what cannot be had is said to be."""

    clock: IReactorTime
    discovery: Discovery
    documents: POSHDocuments
    #: peers that a proxy reaches by name: nothing is looked up for them
    relayed: Callable[[Domain], bool] = lambda peer: False

    def begin(self, peer: Domain, route: str | None, target: Target | None, *, dane: bool, posh: bool) -> None:
        """Ask beside the handshake; the answers are found again when they are needed."""
        if dane and (target is None or target.secure):  # of any other nothing is asked
            _ignore(self.dane(peer, route, target))
        if posh:
            _ignore(self.posh(peer))

    async def targets(self, peer: Domain, route: str | None) -> tuple[Target, ...]:
        """Where the DNS says that the peer is."""
        late = Resolution(peer, (), Ending(Cause.DNS_UNREACHABLE, "no answer in time"))
        return (await self._bounded(self.discovery.resolve(peer, route), late)).targets

    async def dane(self, peer: Domain, route: str | None, target: Target | None) -> tuple[TLSALookup, ...]:
        """The TLSA look-up of `target`, which we connect to, or of each of the peer's targets (it connects to us)."""
        targets = (target,) if target is not None else (await self.targets(peer, route))[:TARGETS]
        asked = [self._bounded(self.discovery.tlsa(each), TLSALookup(each.host, failure="no answer in time")) for each in targets]
        return tuple(await gatherResults(asked))

    async def posh(self, peer: Domain) -> POSHLookup:
        """What the peer's POSH document came to."""
        if self.relayed(peer):
            return POSHLookup(failure="the peer is reached through a proxy, and nothing is looked up for it")
        return await self._bounded(self.documents.lookup(peer), POSHLookup(failure="no answer in time"))

    def _bounded(self, asked: Deferred[T], late: T) -> Deferred[T]:
        if not asked.called:
            asked.addTimeout(PATIENCE, self.clock, lambda _result, _seconds: late)
        return asked


def _ignore(asked: Coroutine[Any, Any, Any]) -> None:
    """Whoever needs the answer asks again, and hears of what went wrong."""
    Deferred.fromCoroutine(asked).addErrback(lambda _: None)
