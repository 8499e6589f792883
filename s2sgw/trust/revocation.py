"""The operator's revocation lists (RFC 5280 §5): which certificates of a path they revoke.

A list counts if its authority, which is on the path, signed it. If an authority has lists and none of them can clear its
certificates (outdated, not understood, signed without the right to), these fail. For an authority without a list there is no
check.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import s2sgw.trust.der as der
from s2sgw.trust.evidence import Failure
from s2sgw.trust.parsed import ParsedCertificate
from s2sgw.trust.pem import unarmoured
from s2sgw.trust.revocation_list import RevocationList
from s2sgw.xmpp.ending import Cause

_CRL_SIGN = 0x02


class RevocationLists:
    """Lists by their issuer. `complaints` has the parts of the material that cannot be parsed or used."""

    def __init__(self, lists: Iterable[RevocationList] = (), complaints: Iterable[str] = ()) -> None:
        self.complaints = tuple(complaints)
        self._by_issuer: defaultdict[bytes, list[RevocationList]] = defaultdict(list)
        for each in lists:
            self._by_issuer[each.issuer].append(each)

    @classmethod
    def parse(cls, *sources: bytes) -> RevocationLists:
        """Return the lists in PEM texts or in DER. Unreadable or unusable parts become complaints, never errors."""
        lists: list[RevocationList] = []
        complaints: list[str] = []
        for source in sources:
            for number, data in enumerate(unarmoured(source, b"X509 CRL"), 1):
                try:
                    lists.append(RevocationList(data))
                    fault = lists[-1].fault
                except ValueError as error:
                    fault = f"it cannot be read: {error}"
                complaints += [f"revocation list {number} cannot be used: {fault}"] if fault else []
        return cls(lists, complaints)

    def __len__(self) -> int:
        return sum(map(len, self._by_issuer.values()))

    def failures(self, path: Sequence[ParsedCertificate], at: datetime) -> Iterator[Failure]:
        """Yield the failures of the certificates of the path (leaf first) by the lists, at that time."""
        for number, certificate in enumerate(path):
            lists = self._by_issuer.get(certificate.issuer, [])
            authorities = [each for each in path[number + 1 :] if each.subject == certificate.issuer]
            if lists and authorities:
                which = f"the authority {certificate.subject_text}" if number else "the certificate"
                yield from _revoked(certificate, which, lists, authorities)
                yield from _not_cleared(which, lists, authorities, at)


def _revoked(
    certificate: ParsedCertificate, which: str, lists: Sequence[RevocationList], authorities: Sequence[ParsedCertificate],
) -> Iterator[Failure]:
    for each in lists:
        day = each.revoked_on(certificate.serial)
        if day is not None and _is_signed(each, authorities):
            yield Failure(Cause.REVOKED, f"{which} was revoked on {day:%Y-%m-%d}")
            return


def _not_cleared(
    which: str, lists: Sequence[RevocationList], authorities: Sequence[ParsedCertificate], at: datetime,
) -> Iterator[Failure]:
    """Yield the failure if no list of an authority can clear the certificate. Signatures are checked only then."""
    unfit = "" if any(map(_signs_lists, authorities)) else "its authority may not sign any"
    if not any(unfit or each.doubt(at) for each in lists):
        return
    doubts = [unfit or each.doubt(at) for each in lists if _is_signed(each, authorities)]
    if doubts and all(doubts):
        yield Failure(Cause.BAD_CHAIN, f"the revocation list of {authorities[0].subject_text} cannot clear {which}: {doubts[0]}")


def _is_signed(revocations: RevocationList, authorities: Sequence[ParsedCertificate]) -> bool:
    return any(revocations.is_signed_by(authority.public_key_info) for authority in authorities)


def _signs_lists(authority: ParsedCertificate) -> bool:
    """Return whether an authority may sign lists (RFC 5280 §6.3.3 (f)). Path validation has read the key usage already."""
    value = authority.extension(der.KEY_USAGE)
    return value is None or any(octet & _CRL_SIGN for octet in der.inside(value, der.BIT_STRING)[1:2])
