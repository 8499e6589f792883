"""Revocation lists (RFC 5280 §5) that the operator gave: which certificates of a path they revoke.

What a list says against a certificate counts where its authority, which is on the path, signed it. When all lists of an
authority are out of date its certificates fail, for nothing can clear them. An authority without a list is not asked for one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

import s2sgw.trust.der as der
from s2sgw.trust.anchors import called, issuer, subject, unarmoured
from s2sgw.trust.evidence import Failure
from s2sgw.xmpp.ending import Cause

List = x509.CertificateRevocationList

_UNDERSTOOD = (x509.CRLNumber.oid, x509.AuthorityKeyIdentifier.oid, x509.IssuingDistributionPoint.oid)
_SEQUENCE = 0x30


class RevocationLists:
    """Lists by their issuer. `complaints` names what could not be read of the material they came from, or not be used."""

    def __init__(self, lists: Iterable[List] = (), complaints: Iterable[str] = ()) -> None:
        self.complaints = tuple(complaints)
        self._by_issuer: defaultdict[bytes, list[List]] = defaultdict(list)
        for each in lists:
            self._by_issuer[_issuer(each)].append(each)

    @classmethod
    def parse(cls, *sources: bytes) -> RevocationLists:
        """Lists from PEM texts or in DER; what is unreadable or not understood becomes a complaint, never an error."""
        lists, complaints = [], []
        for source in sources:
            for number, data in enumerate(unarmoured(source, b"X509 CRL"), 1):
                try:
                    lists.append(_load(data))
                except ValueError as error:
                    complaints.append(f"revocation list {number} cannot be used: {error}")
        return cls(lists, complaints)

    def __len__(self) -> int:
        return sum(map(len, self._by_issuer.values()))

    def failures(self, path: Sequence[x509.Certificate], at: datetime) -> Iterator[Failure]:
        """What the lists have against each certificate of the path (leaf first), at that time."""
        for number, certificate in enumerate(path):
            lists = self._by_issuer.get(issuer(certificate), [])
            authorities = [each for each in path[number + 1 :] if subject(each) == issuer(certificate)]
            which = f"the authority {called(certificate)}" if number else "the certificate"
            yield from _listed(certificate, which, lists, authorities)
            if all(_outdated(each, at) for each in lists) and any(_signed(each, authorities) for each in lists):
                yield Failure(Cause.BAD_CHAIN, f"the revocation list of {called(certificate, by=True)} is out of date")


def _listed(
    certificate: x509.Certificate, which: str, lists: Sequence[List], authorities: Sequence[x509.Certificate],
) -> Iterator[Failure]:
    for each in lists:
        entry = each.get_revoked_certificate_by_serial_number(certificate.serial_number)
        if entry is not None and _signed(each, authorities):
            yield Failure(Cause.REVOKED, f"{which} was revoked on {entry.revocation_date_utc:%Y-%m-%d}")
            return


def _outdated(revocations: List, at: datetime) -> bool:
    return revocations.next_update_utc is not None and revocations.next_update_utc < at


def _signed(revocations: List, authorities: Iterable[x509.Certificate]) -> bool:
    """Whether one of the authorities signed the list: checked only of a list that has something to object."""
    for authority in authorities:
        try:
            if revocations.is_signature_valid(authority.public_key()):  # type: ignore[arg-type]
                return True
        except (TypeError, ValueError, UnsupportedAlgorithm):
            continue
    return False


def _load(data: bytes) -> List:
    """A list whose entries are about its issuer's own certificates; `ValueError` for any other (RFC 5280 §5.2)."""
    found = x509.load_der_x509_crl(data)
    for extension in _extensions(found):
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise ValueError(f"its critical extension {extension.oid.dotted_string} is not understood")
        if isinstance(extension.value, x509.IssuingDistributionPoint) and extension.value.indirect_crl:
            raise ValueError("it is an indirect list")
    return found


def _extensions(revocations: List) -> x509.Extensions:
    try:
        return revocations.extensions
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(str(error)) from error


def _issuer(revocations: List) -> bytes:
    """The issuer's name in DER: the second sequence of the TBSCertList."""
    sequences = (each for each in der.elements(der.inside(revocations.tbs_certlist_bytes)) if each.tag == _SEQUENCE)
    return next(islice(sequences, 1, None)).encoded
