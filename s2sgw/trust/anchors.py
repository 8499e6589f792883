"""Trusted certificates, and what may be asked of one certificate without validating it."""

from __future__ import annotations

import binascii
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import Store

import s2sgw.trust.der as der

#: So many characters of a distinguished name are put into words.
NAME_CHARACTERS = 120

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)


class Anchors:
    """Trusted certificates. `complaints` names what could not be read of the material they came from.

    Made once and kept: the store and the index by subject are built here.
    """

    def __init__(self, certificates: Iterable[x509.Certificate] = (), complaints: Iterable[str] = ()) -> None:
        self.certificates = tuple(dict.fromkeys(certificates))
        self.complaints = tuple(complaints)
        self.store = Store(list(self.certificates)) if self.certificates else None
        self._by_subject: defaultdict[bytes, list[x509.Certificate]] = defaultdict(list)
        for certificate in self.certificates:
            self._by_subject[subject(certificate)].append(certificate)

    @classmethod
    def parse(cls, *sources: bytes) -> Anchors:
        """Anchors from PEM bundles or single certificates in DER; what is unreadable becomes a complaint, never an error."""
        certificates: list[x509.Certificate] = []
        complaints: list[str] = []
        for source in sources:
            for number, data in enumerate(unarmoured(source), 1):
                try:
                    certificates.append(load(data))
                except ValueError as error:
                    complaints.append(f"certificate {number} cannot be read: {error}")
        return cls(certificates, complaints)

    def __add__(self, other: Anchors) -> Anchors:
        return Anchors(self.certificates + other.certificates, self.complaints + other.complaints)

    def __len__(self) -> int:
        return len(self.certificates)

    def __contains__(self, certificate: x509.Certificate) -> bool:
        return certificate in self._by_subject.get(subject(certificate), ())

    def named(self, name: bytes) -> Iterable[x509.Certificate]:
        """Those whose subject is `name`, in DER."""
        return self._by_subject.get(name, ())


def unarmoured(source: bytes, label: bytes = b"CERTIFICATE") -> Iterator[bytes]:
    """What a PEM text holds under that label, each in DER; `source` itself where it is no PEM. Broken armour yields b""."""
    blocks = _PEM.findall(source)
    for block in (content for name, content in blocks if name == label):
        try:
            yield binascii.a2b_base64(block)
        except binascii.Error:
            yield b""
    if not blocks:
        yield source


def load(data: bytes) -> x509.Certificate:
    """A certificate from DER; `ValueError` where it is none, or none whose outer parts can be told apart."""
    with warnings.catch_warnings():  # a bundle of the system's holds one or two with a serial number of 0
        warnings.simplefilter("ignore")
        try:
            certificate = x509.load_der_x509_certificate(data)
        except x509.InvalidVersion as error:
            raise ValueError(str(error)) from error
    der.fields(data)
    return certificate


def encoded(certificate: x509.Certificate) -> bytes:
    """The certificate in DER."""
    return certificate.public_bytes(Encoding.DER)


def subject(certificate: x509.Certificate) -> bytes:
    """The subject's name in DER: compared as it is encoded (RFC 5280 §7.1 allows no less to a careful authority)."""
    return der.fields(encoded(certificate)).subject


def issuer(certificate: x509.Certificate) -> bytes:
    """The issuer's name in DER."""
    return der.fields(encoded(certificate)).issuer


def subject_text(certificate: x509.Certificate, *, by: bool = False) -> str:
    """The subject, or (`by`) the issuer, in words and bounded; whoever shows it escapes it."""
    try:
        text = (certificate.issuer if by else certificate.subject).rfc4514_string()
    except ValueError:
        return "of an unreadable name"
    return f"'{text[:NAME_CHARACTERS]}'"


def self_signed(certificate: x509.Certificate) -> bool:
    """Whether it is signed by its own key, not only issued under its own name."""
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
