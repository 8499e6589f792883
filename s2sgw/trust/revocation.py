"""Revocation lists (RFC 5280 §5) that the operator gave: which certificates of a path they revoke.

A list counts where its authority, which is on the path, signed it. Where an authority has lists and none of them can clear its
certificates (out of date, not understood, not for it to sign), they fail. An authority without a list is not asked for one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

import s2sgw.trust.der as der
from s2sgw.trust.anchors import encoded, issuer, subject, subject_text, unarmoured
from s2sgw.trust.evidence import Failure
from s2sgw.xmpp.ending import Cause

_UNDERSTOOD = (x509.AuthorityKeyIdentifier.oid, x509.IssuingDistributionPoint.oid)
_SEQUENCE = 0x30
_CRL_SIGN = 0x02


class _List(NamedTuple):
    """A list and what makes it useless, in words; "" where nothing does."""

    revocations: x509.CertificateRevocationList
    fault: str

    @property
    def issuer(self) -> bytes:
        """The issuer's name in DER: the second sequence of the TBSCertList."""
        fields = der.elements(der.inside(self.revocations.tbs_certlist_bytes))
        return next(islice((field for field in fields if field.tag == _SEQUENCE), 1, None)).encoded

    def entry(self, certificate: x509.Certificate) -> x509.RevokedCertificate | None:
        return None if self.fault else self.revocations.get_revoked_certificate_by_serial_number(certificate.serial_number)

    def doubt(self, at: datetime) -> str:
        """Why the list cannot clear a certificate at that time; "" where it can."""
        if self.fault:
            return self.fault
        if self.revocations.last_update_utc > at:
            return "it is not valid yet"
        expiry = self.revocations.next_update_utc
        return "it is out of date" if expiry is None or expiry < at else ""

    def signed_by(self, authorities: Iterable[x509.Certificate]) -> bool:
        for authority in authorities:
            try:
                if self.revocations.is_signature_valid(authority.public_key()):  # type: ignore[arg-type]
                    return True
            except (TypeError, ValueError, UnsupportedAlgorithm):
                continue
        return False


class RevocationLists:
    """Lists by their issuer. `complaints` names what of the material that they came from cannot be read or used."""

    def __init__(self, lists: Iterable[x509.CertificateRevocationList] = (), complaints: Iterable[str] = ()) -> None:
        self.complaints = tuple(complaints)
        self._by_issuer: defaultdict[bytes, list[_List]] = defaultdict(list)
        for each in (_List(revocations, _fault(revocations)) for revocations in lists):
            self._by_issuer[each.issuer].append(each)

    @classmethod
    def parse(cls, *sources: bytes) -> RevocationLists:
        """Lists from PEM texts or in DER; what is unreadable or useless becomes a complaint, never an error."""
        lists: list[x509.CertificateRevocationList] = []
        complaints: list[str] = []
        for source in sources:
            for number, data in enumerate(unarmoured(source, b"X509 CRL"), 1):
                try:
                    lists.append(x509.load_der_x509_crl(data))
                    fault = _fault(lists[-1])
                except ValueError as error:
                    fault = f"it cannot be read: {error}"
                complaints += [f"revocation list {number} cannot be used: {fault}"] if fault else []
        return cls(lists, complaints)

    def __len__(self) -> int:
        return sum(map(len, self._by_issuer.values()))

    def failures(self, path: Sequence[x509.Certificate], at: datetime) -> Iterator[Failure]:
        """What the lists have against each certificate of the path (leaf first), at that time."""
        for number, certificate in enumerate(path):
            lists = self._by_issuer.get(issuer(certificate), [])
            authorities = [each for each in path[number + 1 :] if subject(each) == issuer(certificate)]
            which = f"the authority {subject_text(certificate)}" if number else "the certificate"
            if lists and authorities:
                yield from _revoked(certificate, which, lists, authorities)
                yield from _not_cleared(which, lists, authorities, at)


def _revoked(
    certificate: x509.Certificate, which: str, lists: Sequence[_List], authorities: Sequence[x509.Certificate],
) -> Iterator[Failure]:
    for each in lists:
        entry = each.entry(certificate)
        if entry is not None and each.signed_by(authorities):
            yield Failure(Cause.REVOKED, f"{which} was revoked on {entry.revocation_date_utc:%Y-%m-%d}")
            return


def _not_cleared(
    which: str, lists: Sequence[_List], authorities: Sequence[x509.Certificate], at: datetime,
) -> Iterator[Failure]:
    """The doubt that every list of an authority is in; signatures are looked at only where there is one."""
    unfit = "" if any(map(_signs_lists, authorities)) else "its authority may not sign any"
    if not any(unfit or each.doubt(at) for each in lists):
        return
    doubts = [unfit or each.doubt(at) for each in lists if each.signed_by(authorities)]
    if doubts and all(doubts):
        yield Failure(Cause.BAD_CHAIN, f"the revocation list of {subject_text(authorities[0])} cannot clear {which}: {doubts[0]}")


def _signs_lists(authority: x509.Certificate) -> bool:
    """RFC 5280 §6.3.3 (f); path validation has read the key usage already."""
    value = der.extension(encoded(authority), der.KEY_USAGE)
    return value is None or any(octet & _CRL_SIGN for octet in der.inside(value, der.BIT_STRING)[1:2])


def _fault(revocations: x509.CertificateRevocationList) -> str:
    """What in the list itself makes it useless (RFC 5280 §5.2): such a list revokes nothing and clears nothing."""
    try:
        extensions = list(revocations.extensions)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        return f"its extensions cannot be read: {error}"
    unknown = [each.oid.dotted_string for each in extensions if each.critical and each.oid not in _UNDERSTOOD]
    if unknown:
        return f"its critical extension {unknown[0]} is not understood"
    if any(isinstance(each.value, x509.IssuingDistributionPoint) and each.value.indirect_crl for each in extensions):
        return "it is an indirect list"
    return "" if any(each.oid == x509.CRLNumber.oid for each in extensions) else "it has no CRL number"
