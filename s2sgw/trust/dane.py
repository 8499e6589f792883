"""DANE (RFC 6698, 7671, 7673): does the peer's key stand in its DNS, as DNSSEC secured it (R22)?

Lookups are made elsewhere; here their answers are compared with the chain. Four usages: 0 and 1 narrow PKIX to an authority
or a certificate, 2 names an authority of its own, 3 the certificate itself and asks neither its names nor its dates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import s2sgw.trust.der as der
from s2sgw.trust.anchors import Anchors, encoded
from s2sgw.trust.evidence import TLSA, Attempt, Evidence, TLSALookup
from s2sgw.trust.identity import Constraints, matches, matches_host, names
from s2sgw.trust.path import CHAIN_CERTIFICATES, PathResult, validate
from s2sgw.trust.revocation import RevocationLists
from s2sgw.xmpp.ending import Cause

PKIX_TA, PKIX_EE, DANE_TA, DANE_EE = range(4)
CERTIFICATE, PUBLIC_KEY = range(2)
FULL, SHA_256, SHA_512 = range(3)

#: Records of one target that are looked at.
RECORDS = 64

_SIZES = {SHA_256: 32, SHA_512: 64}
_DIGESTS: dict[int, Callable[[bytes], bytes]] = {
    FULL: lambda data: data,
    SHA_256: lambda data: hashlib.sha256(data).digest(),
    SHA_512: lambda data: hashlib.sha512(data).digest(),
}


class _Try(NamedTuple):
    """A record put to the test: whether it proves the peer, and in words what was found."""

    proves: bool
    reason: str


def prove_dane(evidence: Evidence, anchors: Anchors, *, revocations: RevocationLists | None = None) -> Attempt:
    """Whether one TLSA record proves the peer; `anchors` are those that usages 0 and 1 ask for.

    Outbound (the peer receives), a secured, usable set that proves nothing is a veto: somebody else may have the peer's
    address. Inbound, where no target was connected to, it is merely no proof.
    """
    if not evidence.chain:
        return _unproven(Cause.NO_CERTIFICATE, ("no certificate was presented",))
    secured = [lookup for lookup in _relevant(evidence) if _secured(lookup, evidence)]
    tries = [_try(record, lookup, evidence, anchors, revocations) for lookup in secured for record in usable(lookup.records)]
    if not tries:
        return _unproven(Cause.NOT_PROVEN, tuple(_why_none(evidence)))
    proof = next((each for each in tries if each.proves), None)
    if proof is not None:
        return Attempt("dane", True, reasons=(proof.reason,))
    reasons = tuple(dict.fromkeys(each.reason for each in tries))
    return _unproven(Cause.DANE_MISMATCH, reasons, veto=evidence.role == "receiving")


def _unproven(cause: Cause, reasons: tuple[str, ...], *, veto: bool = False) -> Attempt:
    return Attempt("dane", False, cause, reasons, (cause,), veto)


def _relevant(evidence: Evidence) -> Iterator[TLSALookup]:
    """Outbound the lookup of the target that we connected to; inbound any target of the domain may have connected to us."""
    for lookup in evidence.tlsa:
        if evidence.role == "initiating" or _same_host(lookup.target, evidence.target):
            yield lookup


def _same_host(one: str, other: str | None) -> bool:
    return other is not None and one.lower().rstrip(".") == other.lower().rstrip(".")


def _secured(lookup: TLSALookup, evidence: Evidence) -> bool:
    """R22: only what DNSSEC secured all the way; outbound the addresses as well."""
    return not lookup.failure and lookup.secure and (lookup.addresses_secure or evidence.role == "initiating")


def usable(records: Sequence[TLSA]) -> list[TLSA]:
    """The records that can be compared (RFC 7671 §4), of digests only the strongest for each usage and selector (§9)."""
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
            yield f"the TLSA records of {lookup.target} could not be had: {lookup.failure}"
        elif not lookup.records:
            yield f"{lookup.target} has no TLSA records"
        elif not _secured(lookup, evidence):
            yield f"the TLSA records of {lookup.target} do not count: DNSSEC does not secure the way to them"
        else:
            yield f"the TLSA records of {lookup.target} are none that can be used"
    if not found:
        yield "no TLSA records were looked up"


def _try(
    record: TLSA, lookup: TLSALookup, evidence: Evidence, anchors: Anchors, revocations: RevocationLists | None,
) -> _Try:
    told = f"{record} of {lookup.target}"
    if record.usage in (PKIX_EE, DANE_EE) and not _associates(record, evidence.chain[0]):
        return _Try(False, f"{told} is not the certificate's")
    if record.usage == DANE_EE:
        return _Try(True, f"{told} is the certificate's")
    trusted = _authorities(record, evidence.chain) if record.usage == DANE_TA else anchors
    if record.usage == DANE_TA and not trusted:
        return _Try(False, f"{told} is no authority's of the chain")
    found = validate(evidence.chain, trusted, evidence.at, revocations)
    if not found.valid:
        return _Try(False, f"{told}: {'; '.join(failure.text for failure in found.failures)}")
    if record.usage == PKIX_TA and not (found.exact and any(_associates(record, encoded(c)) for c in found.path[1:])):
        return _Try(False, f"{told} is no authority's on the path")
    return _named(told, found, lookup, evidence)


def _associates(record: TLSA, certificate: bytes) -> bool:
    """Whether the record speaks of this certificate, in DER (RFC 6698 §2.1.2, §2.1.3)."""
    try:
        selected = certificate if record.selector == CERTIFICATE else der.fields(certificate).public_key_info
    except ValueError:
        return False
    return _DIGESTS[record.matching](selected) == record.data


def _authorities(record: TLSA, chain: Sequence[bytes]) -> Anchors:
    """What a DANE-TA record makes an anchor: those presented that it speaks of, or the certificate that it is itself."""
    presented = [data for data in chain[1:CHAIN_CERTIFICATES] if _associates(record, data)]
    itself = [record.data] if (record.selector, record.matching) == (CERTIFICATE, FULL) else []
    return Anchors.parse(*presented, *itself)


def _named(told: str, found: PathResult, lookup: TLSALookup, evidence: Evidence) -> _Try:
    """Usages 0 to 2 ask for a name too: the domain, or the target that DNSSEC led to (RFC 7673 §4.2)."""
    presented = names(evidence.chain[0]).within([Constraints.of(encoded(c)) for c in found.path[1:]])
    match = matches(presented, evidence.domain)
    name = match.name or matches_host(presented, lookup.target).name
    if name is None:
        return _Try(False, f"{told}: {'; '.join(match.reasons)}")
    return _Try(True, f"{told} is on the path, and {name} matches")
