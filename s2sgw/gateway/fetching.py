"""How POSH documents and deny lists are fetched: through our own resolver, from addresses that may be asked, trusting whom
`[tls]` trusts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from twisted.internet.defer import gatherResults
from twisted.internet.ssl import Certificate, trustRootFromCertificates

from s2sgw.gateway.denial import FETCH_SECONDS, LIST_BYTES, Unreadable
from s2sgw.gateway.documents import Documents
from s2sgw.net.addresses import is_address, is_public
from s2sgw.net.https import HTTPS, Unfetched
from s2sgw.net.resolver import Resolver
from s2sgw.trust.anchors import Anchors, encoded


def documents(private: bool, reactor: Any, resolver: Resolver, anchors: Callable[[], Anchors]) -> Documents:
    """POSH documents, from addresses that are public, or any where `private` says so."""
    trust = TrustRoot()
    resolve = partial(addresses, resolver, private)
    return Documents(reactor, HTTPS(reactor, resolve, lambda: trust.of(anchors())).get)


def lists(reactor: Any, resolver: Resolver, anchors: Callable[[], Anchors]) -> Callable[[str], Awaitable[bytes]]:
    """How deny lists are fetched; the operator named their servers, so these may have any address."""
    trust = TrustRoot()
    resolve = partial(addresses, resolver, True)
    https = HTTPS(reactor, resolve, lambda: trust.of(anchors()), limit=LIST_BYTES, timeout=FETCH_SECONDS)

    async def fetch(url: str) -> bytes:
        try:
            answer = await https.get(url)
        except Unfetched as problem:
            raise Unreadable(str(problem)) from None
        if answer.status != 200:
            leads = f", leading to {answer.location}" if answer.location else ""
            raise Unreadable(f"the server answered with status {answer.status}{leads}")
        return answer.body

    return fetch


async def addresses(resolver: Resolver, private: bool, host: str) -> list[str]:
    """The addresses of a web server that a stranger's name leads to, IPv4 first; raises `Unfetched` where none may be asked."""
    if is_address(host):
        found = [host]
    else:
        answers = await gatherResults([resolver.query(host, family) for family in ("A", "AAAA")], consumeErrors=True)
        failed = [answer.reason or str(answer.status) for answer in answers if answer.failed]
        found = [record.to_text() for answer in answers if answer.found for record in answer.records]
        if not found:
            raise Unfetched(f"{host} could not be looked up: {failed[0]}" if failed else f"{host} has no address")
    allowed = [address for address in found if private or is_public(address)]
    if not allowed:
        raise Unfetched(f"{host} leads to addresses that are not public: {', '.join(found)}")
    return allowed


class TrustRoot:
    """Anchors as Twisted's TLS wants them, made anew only when they change."""

    def __init__(self) -> None:
        self._anchors: Anchors | None = None
        self._root: Any = None

    def of(self, anchors: Anchors) -> Any:
        if anchors is not self._anchors:
            self._anchors = anchors
            self._root = trustRootFromCertificates([Certificate.load(encoded(each)) for each in anchors.certificates])
        return self._root
