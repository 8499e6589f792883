"""The common part of fetching POSH documents and deny lists: the permitted addresses, and the trust anchors."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, Protocol

from twisted.internet.defer import gatherResults
from twisted.internet.ssl import Certificate, trustRootFromCertificates

from s2sgw.net.addresses import is_public
from s2sgw.net.https import Busy, Unfetched
from s2sgw.net.requester import Requester
from s2sgw.net.resolver import Resolver
from s2sgw.trust.anchors import Anchors
from s2sgw.trust.parsed import encoded
from s2sgw.xmpp.host_port import is_address


async def permitted_addresses(
    resolver: Resolver, private: bool, host: str, requester: Requester | None = None,
) -> list[str]:
    """Return the addresses of a web server, the families in turns, IPv4 first. Raises `Unfetched` if none is permitted.

    `private`: addresses that are not public are permitted too. `requester` is charged for the look-ups; None: the gateway itself.
    """
    if is_address(host):
        found = [host]
    else:
        answers = await gatherResults([resolver.query(host, family, requester) for family in ("A", "AAAA")], consumeErrors=True)
        families = [[record.to_text() for record in answer.records] for answer in answers if answer.found]
        found = [address for both in zip_longest(*families) for address in both if address]
        failed = [answer for answer in answers if answer.failed]
        if not found and failed:
            problem = Busy if any(answer.busy for answer in failed) else Unfetched
            raise problem(f"{host} could not be looked up: {failed[0].reason or failed[0].status}")
        if not found:
            raise Unfetched(f"{host} has no address")
    allowed = [address for address in found if private or is_public(address)]
    if not allowed:
        raise Unfetched(f"{host} leads to addresses that are not public: {', '.join(found)}")
    return allowed


class AnchorSource(Protocol):
    """A holder of the gateway's trust anchors, which may change while it runs."""

    def anchors(self) -> Anchors:
        """Return the anchors."""


class AnchorRoots:
    """The anchors of `source` as a `TrustRoots` (see `net.https`). They are converted only when they change."""

    def __init__(self, source: AnchorSource) -> None:
        self._source = source
        self._anchors: Anchors | None = None
        self._root: Any = None

    def current(self) -> Any:
        anchors = self._source.anchors()
        if anchors is not self._anchors:
            self._anchors = anchors
            self._root = trustRootFromCertificates([Certificate.load(encoded(each)) for each in anchors.certificates])
        return self._root
