"""DANE (RFC 6698, 7671, 7673): whether the peer's key is in its DNS, as DNSSEC secured it (R22).

Lookups are made elsewhere. Here their answers are compared with the chain. There are four usages: 0 and 1 restrict PKIX to an
authority or a certificate, 2 names an authority of its own, 3 the certificate itself without regard to its names and dates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import s2sgw.trust.der as der
from s2sgw.trust.anchors import Anchors
from s2sgw.trust.evidence import TLSA, Attempt, Evidence, TLSALookup
from s2sgw.trust.identity import Constraints, Match, matches, matches_host
from s2sgw.trust.parsed import ParsedCertificate
from s2sgw.trust.path import CHAIN_CERTIFICATES, PathResult, PresentedChain, validate
from s2sgw.trust.revocation import RevocationLists
from s2sgw.xmpp.ending import Cause

PKIX_TA, PKIX_EE, DANE_TA, DANE_EE = range(4)
CERTIFICATE, PUBLIC_KEY = range(2)
FULL, SHA_256, SHA_512 = range(3)

#: Records of one target that are compared, and of all targets: those that match a presented certificate come first.
RECORDS = 64
RECORDS_TRIED = 16
#: Reasons that are given for records that prove nothing.
REASONS_TOLD = 8

_SIZES = {SHA_256: 32, SHA_512: 64}
_DIGESTS: dict[int, Callable[[bytes], bytes]] = {
    FULL: lambda data: data,
    SHA_256: lambda data: hashlib.sha256(data).digest(),
    SHA_512: lambda data: hashlib.sha512(data).digest(),
}


def prove_dane(
    evidence: Evidence, anchors: Anchors, *, revocations: RevocationLists | None = None, presented: PresentedChain | None = None,
) -> Attempt:
    """Return whether one TLSA record proves the peer. `anchors`: for usages 0 and 1.

    Outbound (the peer receives), a secured, usable set that proves nothing is a veto: another party may have the peer's address.
    Inbound, without a target that we connected to, it is only no proof. `presented` is the parsed `evidence.chain`: paths that
    were searched are not searched again.

    The work does not grow with the number of records: they are compared by digest, and at most two paths are searched, one to
    `anchors` and one to all authorities in DANE-TA records.
    """
    if not evidence.chain:
        return _unproven(Cause.NO_CERTIFICATE, ("no certificate was presented",))
    secured = [lookup for lookup in _relevant(evidence) if _secured(lookup, evidence)]
    records = {(record, lookup.target): lookup for lookup in secured for record in usable(lookup.records)}
    if not records:
        return _unproven(Cause.NOT_PROVEN, tuple(_why_none(evidence)))
    proof = _Proof(evidence, anchors, revocations, presented or PresentedChain(evidence.chain))
    found = proof.run([(record, lookup) for (record, _), lookup in records.items()])
    if found.proves:
        return Attempt("dane", True, reasons=found.reasons)
    return _unproven(Cause.DANE_MISMATCH, found.reasons, veto=evidence.role == "receiving")


def _unproven(cause: Cause, reasons: tuple[str, ...], *, veto: bool = False) -> Attempt:
    return Attempt("dane", False, cause, reasons, (cause,), veto)


def _relevant(evidence: Evidence) -> Iterator[TLSALookup]:
    """Yield, outbound, the lookup of the target that we connected to; inbound every one, because any may have connected to us."""
    for lookup in evidence.tlsa:
        if evidence.role == "initiating" or _same_host(lookup.target, evidence.target):
            yield lookup


def _same_host(one: str, other: str | None) -> bool:
    return other is not None and one.lower().rstrip(".") == other.lower().rstrip(".")


def _secured(lookup: TLSALookup, evidence: Evidence) -> bool:
    """Return whether DNSSEC secured the answer all the way (R22); outbound, also the addresses."""
    return not lookup.failure and lookup.secure and (lookup.addresses_secure or evidence.role == "initiating")


def usable(records: Sequence[TLSA]) -> list[TLSA]:
    """Return the records that can be compared (RFC 7671 §4); of digests only the strongest for each usage and selector (§9)."""
    known = [record for record in records[:RECORDS] if _well_formed(record)]
    strongest: dict[tuple[int, int], int] = {}
    for record in known:
        kind = (record.usage, record.selector)
        strongest[kind] = max(record.matching, strongest.get(kind, FULL))
    return [r for r in known if r.matching in (FULL, strongest[r.usage, r.selector])]


def _well_formed(record: TLSA) -> bool:
    known = record.usage <= DANE_EE and record.selector <= PUBLIC_KEY and record.matching <= SHA_512
    return known and bool(record.data) and len(record.data) == _SIZES.get(record.matching, len(record.data))


def _why_none(evidence: Evidence) -> Iterator[str]:
    found = False
    for lookup in _relevant(evidence):
        found = True
        if lookup.failure:
            yield f"no DANE for {lookup.target}: {lookup.failure}"
        elif not lookup.records:
            yield f"{lookup.target} has no TLSA records"
        elif not _secured(lookup, evidence):
            yield f"the TLSA records of {lookup.target} do not count: DNSSEC does not secure the way to them"
        else:
            yield f"the TLSA records of {lookup.target} are none that can be used"
    if not found:
        yield "no TLSA records were looked up"


class _Outcome(NamedTuple):
    """Whether a record, or one of several, proves the peer, and the findings in words."""

    proves: bool
    reasons: tuple[str, ...]


class _Associated:
    """One certificate, in DER, for comparison with TLSA records: each digest is made once."""

    def __init__(self, certificate: bytes) -> None:
        self.certificate = certificate
        self._found: dict[tuple[int, int], bytes | None] = {}

    def is_of(self, record: TLSA) -> bool:
        """Return whether the record matches this certificate (RFC 6698 §2.1.2, §2.1.3)."""
        kind = (record.selector, record.matching)
        if kind not in self._found:
            self._found[kind] = self._data(*kind)
        return self._found[kind] == record.data

    def _data(self, selector: int, matching: int) -> bytes | None:
        try:
            selected = self.certificate if selector == CERTIFICATE else der.fields(self.certificate).public_key_info
        except ValueError:
            return None
        return _DIGESTS[matching](selected)


class _Proof:
    """The records of a peer, compared with the presented chain."""

    def __init__(
        self, evidence: Evidence, anchors: Anchors, revocations: RevocationLists | None, presented: PresentedChain,
    ) -> None:
        self._evidence = evidence
        self._anchors = anchors
        self._revocations = revocations
        self._presented = presented
        self._names = presented.names
        self._leaf, *self._others = map(_Associated, evidence.chain[:CHAIN_CERTIFICATES])
        self._named: dict[str, Match] = {}
        self._declared = Anchors()
        self._declared_by: dict[TLSA, frozenset[bytes]] = {}

    def run(self, records: Sequence[tuple[TLSA, TLSALookup]]) -> _Outcome:
        """Return whether one of the records proves the peer; if none does, the faults of the first of them."""
        tried = sorted(records, key=lambda each: not self._speaks(each[0]))[:RECORDS_TRIED]
        self._declare(tried)
        reasons: dict[str, None] = {}
        for record, lookup in tried:
            outcome = self._try(record, lookup)
            if outcome.proves:
                return outcome
            reasons.update(dict.fromkeys(outcome.reasons))
        more = max(len(reasons) - REASONS_TOLD, 0) + len(records) - len(tried)
        told = list(reasons)[:REASONS_TOLD]
        return _Outcome(False, (*told, f"{more} more TLSA records prove nothing either") if more else tuple(told))

    def _speaks(self, record: TLSA) -> bool:
        """Return whether a record is worth a path search: it matches a presented certificate, or may match an anchor."""
        if record.usage in (PKIX_EE, DANE_EE):
            return self._leaf.is_of(record)
        return any(each.is_of(record) for each in self._others) or _is_whole(record)

    def _declare(self, tried: Sequence[tuple[TLSA, TLSALookup]]) -> None:
        """Use the authorities in DANE-TA records as anchors, in one set, if the leaf has the name for it."""
        for record, lookup in tried:
            if record.usage == DANE_TA and self._name(lookup.target).name is not None:
                self._declared_by[record] = frozenset(_readable(self._authorities(record)))
        self._declared = self._presented.declared(frozenset().union(*self._declared_by.values()))

    def _authorities(self, record: TLSA) -> Iterator[bytes]:
        """Yield the authorities of a DANE-TA record: presented ones that it matches, and the certificate in the record."""
        yield from (each.certificate for each in self._others if each.is_of(record))
        if _is_whole(record):
            yield record.data

    def _name(self, target: str) -> Match:
        """Return whether the leaf names the domain, or the target that DNSSEC secured (RFC 7673 §4.2)."""
        if target not in self._named:
            match = matches(self._names, self._evidence.domain)
            self._named[target] = match._replace(name=match.name or matches_host(self._names, target).name)
        return self._named[target]

    def _try(self, record: TLSA, lookup: TLSALookup) -> _Outcome:
        told = f"{record} of {lookup.target}"
        if record.usage in (PKIX_EE, DANE_EE) and not self._leaf.is_of(record):
            return _Outcome(False, (f"{told} is not the certificate's",))
        if record.usage == DANE_EE:
            return _Outcome(True, (f"{told} is the certificate's",))
        name = self._name(lookup.target)
        if name.name is None:
            return _Outcome(False, (f"{told}: {'; '.join(name.reasons)}",))
        declared = self._declared_by.get(record, frozenset())
        if record.usage == DANE_TA and not declared:
            return _Outcome(False, (f"{told} is no authority's of the chain",))
        anchors = self._declared if record.usage == DANE_TA else self._anchors
        found = validate(self._presented, anchors, self._evidence.at, self._revocations)
        if not found.valid:
            return _Outcome(False, (f"{told}: {'; '.join(failure.text for failure in found.failures)}",))
        if not self._is_on(record, declared, found):
            return _Outcome(False, (f"{told} is no authority's on the path",))
        return self._with_name(told, found, lookup)

    def _is_on(self, record: TLSA, declared: frozenset[bytes], found: PathResult) -> bool:
        """Return whether the path goes through an authority that the record matches, if its usage requires that."""
        above = [each.encoded for each in found.path[1:]]
        if record.usage == PKIX_TA:
            return found.exact and any(_Associated(data).is_of(record) for data in above)
        return record.usage == PKIX_EE or not declared.isdisjoint(above)

    def _with_name(self, told: str, found: PathResult, lookup: TLSALookup) -> _Outcome:
        """Return whether the leaf still has its name under the constraints of the authorities on the path."""
        bound = self._names.within([Constraints.of(each) for each in found.path[1:]])
        match = matches(bound, self._evidence.domain)
        name = match.name or matches_host(bound, lookup.target).name
        if name is None:
            return _Outcome(False, (f"{told}: {'; '.join(match.reasons)}",))
        return _Outcome(True, (f"{told} is on the path, and {name} matches",))


def _is_whole(record: TLSA) -> bool:
    """Return whether the record has a whole certificate."""
    return (record.selector, record.matching) == (CERTIFICATE, FULL)


def _readable(certificates: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the parseable certificates that may be authorities: DNS records come from a stranger, like the chain."""
    for data in certificates:
        try:
            if ParsedCertificate(data).unfit is None:
                yield data
        except ValueError:
            continue
