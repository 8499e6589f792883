"""Trusted certificates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.x509.verification import Store

from s2sgw.trust.parsed import ParsedCertificate, encoded
from s2sgw.trust.pem import unarmoured


class Anchors:
    """Trusted certificates. `complaints` has the parts of the material that could not be parsed.

    Made once and kept: building makes the store and the index by subject.
    """

    def __init__(self, certificates: Iterable[x509.Certificate] = (), complaints: Iterable[str] = ()) -> None:
        self.certificates = tuple(dict.fromkeys(certificates))
        self.complaints = tuple(complaints)
        self.store = Store(list(self.certificates)) if self.certificates else None
        self._by_encoding: dict[bytes, ParsedCertificate] = {}
        self._by_subject: defaultdict[bytes, list[ParsedCertificate]] = defaultdict(list)
        for parsed in (ParsedCertificate(encoded(certificate)) for certificate in self.certificates):
            self._by_encoding[parsed.encoded] = parsed
            self._by_subject[parsed.subject].append(parsed)

    @classmethod
    def parse(cls, *sources: bytes) -> Anchors:
        """Return the anchors in PEM bundles or single certificates in DER. Unreadable parts become complaints."""
        certificates: list[x509.Certificate] = []
        complaints: list[str] = []
        for source in sources:
            for number, data in enumerate(unarmoured(source), 1):
                try:
                    certificates.append(ParsedCertificate(data).certificate)
                except ValueError as error:
                    complaints.append(f"certificate {number} cannot be read: {error}")
        return cls(certificates, complaints)

    def __add__(self, other: Anchors) -> Anchors:
        return Anchors(self.certificates + other.certificates, self.complaints + other.complaints)

    def __len__(self) -> int:
        return len(self.certificates)

    def __contains__(self, certificate: ParsedCertificate) -> bool:
        return certificate.encoded in self._by_encoding

    def named(self, name: bytes) -> Sequence[ParsedCertificate]:
        """Return the anchors whose subject is `name`, in DER."""
        return self._by_subject.get(name, ())

    def parsed(self, data: bytes) -> ParsedCertificate:
        """Return the anchor that is `data`, in DER. Raises `KeyError` if there is none."""
        return self._by_encoding[data]
