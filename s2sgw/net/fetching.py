"""What POSH documents and deny lists have in common when they are fetched: the addresses that may be asked, and the anchors."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import gatherResults
from twisted.internet.ssl import Certificate, trustRootFromCertificates

from s2sgw.net.addresses import is_public
from s2sgw.net.https import Unfetched
from s2sgw.net.resolver import Resolver
from s2sgw.trust.anchors import Anchors, encoded
from s2sgw.xmpp.host_port import is_address


async def permitted_addresses(resolver: Resolver, private: bool, host: str) -> list[str]:
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
