"""POSH documents, fetched by HTTPS and kept for a while (RFC 7711, R23).

A stranger's claim of a name causes a fetch. So a fetch is bounded (`net.https`), fetches for strangers share slots by their
addresses, and results are kept, including failures.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from s2sgw.net.fair_slots import Owner, SlotLost
from s2sgw.net.fetching import AnchorRoots, AnchorSource, permitted_addresses
from s2sgw.net.https import ADDRESSES, HTTPS, Busy, Fetched, Unfetched
from s2sgw.net.joined_calls import JoinedCalls
from s2sgw.net.requester import Requester
from s2sgw.net.requester_slots import RequesterSlots
from s2sgw.net.resolver import Resolver
from s2sgw.trust.evidence import POSHLookup
from s2sgw.trust.posh import Document, InvalidPOSH, Reference, checked_url, document_url, parse
from s2sgw.xmpp.fair_dict import FairDict
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.registered_domain import registered_domain
from s2sgw.xmpp.wall_clock import WallClock, date_of

#: Domains whose result is kept. Beyond that, the oldest result of the registered domain that has the most is removed. All results
#: of strangers count as those of one domain.
KEPT = 2048
#: Fetches at once, half of them for strangers; fetches a second for strangers at one address.
FETCHES = 32
FETCHES_PER_SECOND = 2.0
#: Seconds for which a failure is kept, and the most for which a document is.
FAILURE_SECONDS = 60.0
DOCUMENT_SECONDS = 3600.0

_REDIRECTS = (301, 302, 303, 307, 308)

Fetch = Callable[[str, Requester], Awaitable[Fetched]]


class _Kept(NamedTuple):
    until: float
    lookup: POSHLookup
    is_strangers: bool


class POSHDocuments:
    """Looks POSH documents up. `fetch(url, requester)` gets one page. `fetches` is the number of fetches at once.

    `wall` returns the seconds since the epoch.
    """

    def __init__(
        self, clock: IReactorTime, fetch: Fetch, wall: WallClock | None = None, fetches: int = FETCHES,
    ) -> None:
        self._clock = clock
        self._wall = wall or clock
        self._fetch = fetch
        self._kept: FairDict[str, _Kept] = FairDict(KEPT, _owner)
        self._joined: JoinedCalls[tuple[Owner, str], POSHLookup] = JoinedCalls()
        #: the fetches under way and in line
        self.slots: RequesterSlots[POSHLookup] = RequesterSlots(clock, fetches, FETCHES_PER_SECOND)

    def __len__(self) -> int:
        """Return the number of domains whose result is kept."""
        return len(self._kept)

    def lookup(self, domain: Domain, requester: Requester | None = None) -> Deferred[POSHLookup]:
        """Look the domain's document up. `requester` None: for the gateway itself.

        The result never fails. It can be cancelled. The fetch ends when all callers have cancelled.
        """
        known = self._kept.get(domain.ascii)
        if known is not None and known.until > self._clock.seconds():
            return succeed(known.lookup)
        asker = requester or Requester.ourselves(domain.ascii)
        key = (asker.owner if asker.is_stranger else (), domain.ascii)
        return self._joined.join(key, self._begin, domain, asker)

    def _begin(self, domain: Domain, requester: Requester) -> Deferred[POSHLookup]:
        fetching = self.slots.run(requester, self._look_up, domain, requester)
        fetching.addCallback(self._keep, domain.ascii, requester.is_stranger)
        return fetching.addErrback(self._failed, domain.ascii, requester.is_stranger)

    async def _look_up(self, domain: Domain, requester: Requester) -> POSHLookup:
        """Fetch the document. Follow one redirect at most, by HTTP or by the document itself (RFC 7711 §3.2)."""
        url, reference = document_url(domain), None
        answer = await self._fetch(url, requester)
        redirected = answer.status in _REDIRECTS
        if redirected:
            answer = await self._fetch(checked_url(answer.location), requester)
        found = _read(answer)
        if isinstance(found, Reference):
            if redirected:
                raise InvalidPOSH("the document was redirected twice")
            reference, found = found, _read(await self._fetch(found.url, requester))
        if not isinstance(found, Document):
            raise InvalidPOSH("the document was redirected twice")
        return found.lookup(self._date(), reference)

    def _date(self) -> datetime:
        return date_of(self._wall)

    def _keep(self, lookup: POSHLookup, name: str, is_strangers: bool) -> POSHLookup:
        now = self._clock.seconds()
        lifetime = FAILURE_SECONDS
        if lookup.expires is not None:
            left = lookup.expires - self._date()
            lifetime = min(left, timedelta(seconds=DOCUMENT_SECONDS)).total_seconds()
        self._kept[name] = _Kept(now + lifetime, lookup, is_strangers)
        return lookup

    def _failed(self, failure: Failure, name: str, is_strangers: bool) -> POSHLookup:
        """Return the failure in words. Keep it, unless it is our own: then the next fetch may succeed."""
        if failure.check(CancelledError):
            failure.raiseException()  # all callers have cancelled
        if failure.check(SlotLost):
            return POSHLookup(failure="too many documents are being fetched")
        words = failure.getErrorMessage()
        if failure.check(Busy):
            return POSHLookup(failure=words)
        expected = failure.check(InvalidPOSH, Unfetched) is not None
        lookup = POSHLookup(failure=words if expected else f"{type(failure.value).__name__}: {words}")
        return self._keep(lookup, name, is_strangers)


def _owner(name: str, kept: _Kept) -> str:
    return "" if kept.is_strangers else registered_domain(name)


def _read(answer: Fetched) -> Document | Reference:
    if answer.status != 200:
        raise InvalidPOSH(f"the server answered with status {answer.status}")
    return parse(answer.body)


class FetchSettings(AnchorSource, Protocol):
    """The settings for fetches, which a reload may change."""

    @property
    def private_addresses(self) -> bool:
        """Whether documents may be fetched from addresses that are not public (`[dns] private_addresses`)."""


def documents(
    settings: FetchSettings, reactor: Any, wall: WallClock, resolver: Resolver, fetches: int = FETCHES,
) -> POSHDocuments:
    """Return POSH documents that are fetched with these `settings`."""
    trust = AnchorRoots(settings)

    async def resolve(requester: Requester, host: str) -> Sequence[str]:
        found = await permitted_addresses(resolver, settings.private_addresses, host, requester=requester)
        return found[: requester.take_dials(min(len(found), ADDRESSES))]

    def fetch(url: str, requester: Requester) -> Deferred[Fetched]:
        return HTTPS(reactor, partial(resolve, requester), trust).get(url)

    return POSHDocuments(reactor, fetch, wall, fetches)
