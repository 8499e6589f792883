"""POSH documents, fetched by HTTPS and kept for a while (RFC 7711, R23).

A stranger's name is enough to start a fetch. So each fetch is bounded (`net.https`), few run at once, and their results, failures
too, are kept in a bounded cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from s2sgw.net.fetching import TrustRoot, permitted_addresses
from s2sgw.net.https import HTTPS, Fetched, Unfetched
from s2sgw.net.resolver import Resolver
from s2sgw.trust.anchors import Anchors
from s2sgw.trust.evidence import POSHLookup
from s2sgw.trust.posh import Document, InvalidPOSH, Reference, checked_url, document_url, parse
from s2sgw.xmpp.jid import Domain

#: Domains whose result is kept. Fetches that may run at once; one more fails at once.
KEPT = 2048
CONCURRENT = 32
#: Seconds for which a failure, and at most a document, is kept.
FAILURE_SECONDS = 60.0
DOCUMENT_SECONDS = 3600.0

_REDIRECTS = (301, 302, 303, 307, 308)


class _CachedDocument(NamedTuple):
    until: float
    lookup: POSHLookup


class POSHDocuments:
    """Looks POSH documents up. `fetch` is `HTTPS.get`, `wall` tells the seconds since the epoch."""

    def __init__(
        self, clock: IReactorTime, fetch: Callable[[str], Awaitable[Fetched]], wall: Callable[[], float] | None = None,
    ) -> None:
        self._clock = clock
        self._wall = wall or clock.seconds
        self._fetch = fetch
        self._kept: OrderedDict[str, _CachedDocument] = OrderedDict()
        self._pending: dict[str, list[Deferred[POSHLookup]]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def lookup(self, domain: Domain) -> Deferred[POSHLookup]:
        """Look the document of a domain up. Never fails. To cancel the Deferred leaves the fetch to the other callers."""
        name = domain.ascii
        waiter: Deferred[POSHLookup] = Deferred(lambda cancelled: self._pending[name].remove(cancelled))
        known = self._kept.get(name)
        if known is not None and known.until > self._clock.seconds():
            waiter.callback(known.lookup)
        elif name in self._pending:
            self._pending[name].append(waiter)
        elif len(self._pending) >= CONCURRENT:
            waiter.callback(POSHLookup(failure="too many documents are being fetched"))
        else:
            self._pending[name] = [waiter]
            Deferred.fromCoroutine(self._look_up(domain)).addErrback(_failed).addCallback(self._settle, name)
        return waiter

    async def _look_up(self, domain: Domain) -> POSHLookup:
        """Fetch the document. At most one redirect is followed, HTTP's or the document's own (RFC 7711 §3.2)."""
        url, reference = document_url(domain), None
        answer = await self._fetch(url)
        redirected = answer.status in _REDIRECTS
        if redirected:
            answer = await self._fetch(checked_url(answer.location))
        found = _read(answer)
        if isinstance(found, Reference):
            if redirected:
                raise InvalidPOSH("the document was redirected twice")
            reference, found = found, _read(await self._fetch(found.url))
        if not isinstance(found, Document):
            raise InvalidPOSH("the document was redirected twice")
        return found.lookup(self._date(), reference)

    def _date(self) -> datetime:
        return datetime.fromtimestamp(self._wall(), UTC)

    def _settle(self, lookup: POSHLookup, name: str) -> None:
        now = self._clock.seconds()
        lifetime = FAILURE_SECONDS
        if lookup.expires is not None:
            left = lookup.expires - self._date()
            lifetime = min(left, timedelta(seconds=DOCUMENT_SECONDS)).total_seconds()
        self._kept.pop(name, None)
        self._kept[name] = _CachedDocument(now + lifetime, lookup)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        for waiter in self._pending.pop(name):
            waiter.callback(lookup)


def _read(answer: Fetched) -> Document | Reference:
    if answer.status != 200:
        raise InvalidPOSH(f"the server answered with status {answer.status}")
    return parse(answer.body)


def _failed(failure: Failure) -> POSHLookup:
    """Return a look-up that says what went wrong."""
    words = failure.getErrorMessage()
    told = failure.check(InvalidPOSH, Unfetched) is not None
    return POSHLookup(failure=words if told else f"{type(failure.value).__name__}: {words}")


def documents(
    private: bool, reactor: Any, wall: Callable[[], float], resolver: Resolver, anchors: Callable[[], Anchors],
) -> POSHDocuments:
    """Return what fetches POSH documents from public addresses, or from any where `private` is true."""
    trust = TrustRoot()
    resolve = partial(permitted_addresses, resolver, private)
    return POSHDocuments(reactor, HTTPS(reactor, resolve, lambda: trust.of(anchors())).get, wall)
