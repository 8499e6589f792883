"""Past proofs of peers that all nodes of a cluster share.

A peer that proved itself well on one node is not accepted on less on another. Strangers cause them, too, so they are
`shared_items`, which are written in the background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from twisted.internet.interfaces import IReactorTime

from s2sgw.cluster.engine import ClusterEngine
from s2sgw.cluster.shared_items import ItemKind, SharedItems
from s2sgw.peerdb.past_proofs import LastProof, PastProof, expiry, remembered_method
from s2sgw.peerdb.stores import ProofStore
from s2sgw.policy.verdict import ProvenBy
from s2sgw.trust.evidence import ProofMethod
from s2sgw.xmpp.jid import Domain

#: Seconds for which the same proof is not written again.
FRESH = 3600.0


class PeerProofs(NamedTuple):
    """The proofs of one peer, one for each method. `expires`: the expiry of its last certificate (seconds since the epoch)."""

    proofs: tuple[PastProof, ...]
    expires: float | None

    @property
    def last(self) -> PastProof:
        return max(self.proofs, key=attrgetter("last"))


def _written(item: PeerProofs) -> dict[str, Any]:
    return {"proofs": [proof[1:] for proof in item.proofs], "expires": item.expires}


def _read(name: str, words: dict[str, Any]) -> PeerProofs:
    """Return the proofs of `words`. Raises `ValueError`, `KeyError`, `TypeError` or `OverflowError`."""
    proofs = tuple(
        PastProof(name, str(method), float(first), float(last), int(times), str(key))
        for method, first, last, times, key in words["proofs"]
    )
    if not proofs:
        raise ValueError("there is no proof")
    return PeerProofs(proofs, None if words["expires"] is None else float(words["expires"]))


def _merged(old: PeerProofs, new: PeerProofs) -> PeerProofs:
    proofs = {proof.method: proof for proof in old.proofs}
    for proof in new.proofs:
        proofs[proof.method] = _joined(proofs[proof.method], proof) if proof.method in proofs else proof
    return PeerProofs(tuple(proofs.values()), old.expires if new.expires is None else new.expires)


def _joined(one: PastProof, other: PastProof) -> PastProof:
    later = other if other.last >= one.last else one
    return later._replace(first=min(one.first, other.first), times=max(one.times, other.times))


def _used(item: PeerProofs) -> float:
    return item.last.last


#: The proofs, by domain.
PROOFS: ItemKind[PeerProofs] = ItemKind("proof", 256, 64 * 1024, _written, _read, _merged, _used)


class SharedProofs(ProofStore):
    """The `ProofStore` of a node (see `peerdb.stores`)."""

    def __init__(
        self, engine: ClusterEngine, clock: IReactorTime, may_change: Callable[[], bool], secret: bytes,
        report: Callable[[str], None],
    ) -> None:
        self.items = SharedItems(PROOFS, engine, clock, may_change, secret, report)

    def proven(
        self, domain: Domain, method: ProvenBy | Literal["dialback"], key: str, at: float, certificate: bytes = b"",
    ) -> bool:
        found = self.items.get(domain.ascii)
        known = next((proof for proof in self.of(domain) if proof.method == method), None)
        if known is not None:
            at = max(at, known.last)  # the clock of the node that noted it may be ahead
            if known.key == key and at < known.last + FRESH:
                return False
        first, times = (at, 0) if known is None else (known.first, known.times)
        proof = PastProof(domain.ascii, method, first, at, times + 1, key)
        self.items.put(domain.ascii, PeerProofs((proof,), expiry(certificate)))
        return found is None

    def is_proven(self, name: str) -> bool:
        return self.items.get(name) is not None

    def latest(self) -> Iterator[LastProof]:
        for name in self.items.names():
            found = self.items.get(name)
            if found is not None:
                yield _last(name, found)

    def last(self, domain: Domain) -> LastProof | None:
        found = self.items.get(domain.ascii)
        return None if found is None else _last(domain.ascii, found)

    async def forget(self, domain: Domain) -> bool:
        found = self.items.get(domain.ascii)
        await self.items.change(domain.ascii, _none)
        self.items.remove(domain.ascii)
        return found is not None

    def of(self, domain: Domain) -> list[PastProof]:
        found = self.items.get(domain.ascii)
        return [] if found is None else sorted(found.proofs, key=attrgetter("last"), reverse=True)

    def remembered(self, domain: Domain, at: float, within: float, methods: Iterable[str]) -> ProofMethod | None:
        return remembered_method(self.of(domain), at, within, methods)


def _last(name: str, item: PeerProofs) -> LastProof:
    return LastProof(name, item.last.method, item.last.last, item.expires)


def _none(_: PeerProofs | None) -> PeerProofs | None:
    return None
