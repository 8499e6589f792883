"""Certificates that wait for the approval of an operator, on any node of a cluster (R20; docs/cluster.md).

Strangers cause them, so they are `shared_items`. Those of peers that a node has opened a stream to are apart, and give way only
to each other.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from typing import Any

from twisted.internet.interfaces import IReactorTime

from s2sgw.cluster.engine import ClusterEngine
from s2sgw.cluster.shared_items import ItemKind, SharedItems
from s2sgw.peerdb.pending import PER_PEER, PendingCertificate, kept_chain
from s2sgw.peerdb.stores import PendingStore
from s2sgw.reporting.record import Direction
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.jid import Domain

#: Seconds for which a certificate that is seen again is not written again.
FRESH = 3600.0


def _written(pending: PendingCertificate) -> dict[str, Any]:
    return {
        "first": pending.first, "last": pending.last, "times": pending.times, "direction": pending.direction,
        "local": pending.local, "address": pending.address, "cause": pending.cause, "reasons": list(pending.reasons),
        "dns": pending.dns,
        "chain": [base64.b64encode(each).decode() for each in pending.chain],
    }


def _read(name: str, words: dict[str, Any]) -> PendingCertificate:
    """Return the certificate of `words`. Raises `ValueError`, `KeyError`, `TypeError` or `OverflowError`."""
    domain, key = name.split(" ")
    direction: Direction = "outbound" if words["direction"] == "outbound" else "inbound"
    if not isinstance(words["dns"], dict):
        raise TypeError("dns is no object")
    return PendingCertificate(
        domain, Fingerprint.parse(key), float(words["first"]), float(words["last"]), int(words["times"]), direction,
        str(words["local"]), str(words["address"]), str(words["cause"]), tuple(map(str, words["reasons"])), words["dns"],
        tuple(base64.b64decode(each, validate=True) for each in words["chain"]),
    )


def _merged(old: PendingCertificate, new: PendingCertificate) -> PendingCertificate:
    last = max(old, new, key=_last)
    return replace(last, first=min(old.first, new.first), times=max(old.times, new.times))


def _last(pending: PendingCertificate) -> float:
    return pending.last


#: Certificates of peers that we opened a stream to, and of others, by domain and key. Each bucket has room for a few long chains.
OUTBOUND: ItemKind[PendingCertificate] = ItemKind("pending", 64, 96 * 1024, _written, _read, _merged, _last)
INBOUND: ItemKind[PendingCertificate] = ItemKind("pendingin", 64, 96 * 1024, _written, _read, _merged, _last)


class SharedPending(PendingStore):
    """The `PendingStore` of a node (see `peerdb.stores`)."""

    def __init__(
        self, engine: ClusterEngine, clock: IReactorTime, may_change: Callable[[], bool], secret: bytes,
        report: Callable[[str], None],
    ) -> None:
        self.outbound, self.inbound = (
            SharedItems(kind, engine, clock, may_change, secret, report) for kind in (OUTBOUND, INBOUND)
        )

    def hold(self, pending: PendingCertificate) -> bool:
        name = _name(pending.domain, pending.key)
        before = self._get(name)
        if before is None:
            self._make_room(pending)
        else:
            direction: Direction = "outbound" if "outbound" in (before.direction, pending.direction) else "inbound"
            if direction == before.direction and pending.last < before.last + FRESH:
                return False
            pending = replace(pending, first=before.first, times=before.times + 1, direction=direction)
        self._items(pending.direction).put(name, replace(pending, chain=kept_chain(pending.chain)))
        if before is not None and pending.direction != before.direction:
            self._items(before.direction).remove(name)
        return before is None

    def _make_room(self, pending: PendingCertificate) -> None:
        """Remove the oldest certificate of a peer that has too many."""
        items = self._items(pending.direction)
        names = items.beside(_name(pending.domain, pending.key))
        if len(names) >= PER_PEER:
            items.remove(min((found.last, name) for name in names if (found := items.get(name)) is not None)[1])

    def list(self, domain: Domain | None = None) -> list[PendingCertificate]:
        if domain is None:
            names = {*self.outbound.names(), *self.inbound.names()}
        else:
            names = {*self.outbound.beside(domain.ascii), *self.inbound.beside(domain.ascii)}
        rows = [found for name in names if (found := self._get(name)) is not None]
        return sorted(rows, key=attrgetter("last", "domain", "key"))

    def find(self, domain: Domain, key: Fingerprint) -> PendingCertificate | None:
        return self._get(_name(domain.ascii, key))

    async def take(self, domain: Domain, key: Fingerprint) -> PendingCertificate | None:
        found = self.find(domain, key)
        for items in (self.outbound, self.inbound):
            items.remove(_name(domain.ascii, key))
        return found

    def _get(self, name: str) -> PendingCertificate | None:
        found = self.outbound.get(name)
        return self.inbound.get(name) if found is None else found

    def _items(self, direction: Direction) -> SharedItems[PendingCertificate]:
        return self.outbound if direction == "outbound" else self.inbound


def _name(domain: str, key: Fingerprint) -> str:
    return f"{domain} {key}"
