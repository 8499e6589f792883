"""The content of one certificate in words for the operator: names, issuer, dates, key, fingerprints. It proves nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from s2sgw.trust.identity import names
from s2sgw.trust.parsed import ParsedCertificate
from s2sgw.trust.pins import Fingerprint

#: Names of a certificate that are listed, and digits of its serial number (RFC 5280 §4.1.2.2 allows forty).
NAMES = 32
SERIAL_DIGITS = 42


@dataclass(frozen=True, slots=True)
class Summary:
    """The content of a certificate. If it cannot be parsed, `unreadable` has the reason, and the rest is empty."""

    sha256: str
    key: str = ""  # `sha256:` of the public key, as pins are written
    kind: str = ""  # "RSA 2048", "EC secp256r1", …
    subject: str = ""
    issuer: str = ""
    self_signed: bool = False
    names: tuple[str, ...] = ()
    not_before: datetime | None = None
    not_after: datetime | None = None
    serial: str = ""
    unreadable: str = ""

    def row(self) -> dict[str, object]:
        """Return the summary for JSON: times are seconds since the epoch."""
        return {
            "sha256": self.sha256, "key": self.key, "kind": self.kind, "subject": self.subject, "issuer": self.issuer,
            "self_signed": self.self_signed, "names": list(self.names), "serial": self.serial, "unreadable": self.unreadable,
            "not_before": self.not_before.timestamp() if self.not_before else None,
            "not_after": self.not_after.timestamp() if self.not_after else None,
        }

    def __str__(self) -> str:
        if self.unreadable:
            return f"a certificate that cannot be read ({self.unreadable})"
        listed = ", ".join(self.names) or "no name"
        by = "self-signed" if self.self_signed else f"issued by {self.issuer}"
        return f"for {listed}, {by}, valid until {self.not_after:%Y-%m-%d}, key {self.key}"


def summarise(certificate: bytes) -> Summary:
    """Return the summary of a certificate in DER. Never raises for its content."""
    digest = hashlib.sha256(certificate).hexdigest()
    try:
        parsed = ParsedCertificate(certificate)
        found, presented = parsed.certificate, names(certificate).read(NAMES)[0]
        serial = f"{int.from_bytes(parsed.serial, 'big', signed=True):x}"
        return Summary(
            digest, str(Fingerprint.of(certificate)), _kind(found), parsed.subject_text.strip("'"), parsed.issuer_text.strip("'"),
            parsed.self_signed, tuple(map(str, presented)), found.not_valid_before_utc, found.not_valid_after_utc,
            serial if len(serial) <= SERIAL_DIGITS else f"{serial[:SERIAL_DIGITS]}…",
        )
    except ValueError as error:
        return Summary(digest, unreadable=str(error))


def _kind(certificate: x509.Certificate) -> str:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return "of no known kind"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {key.curve.name}"
    return type(key).__name__.strip("_").removesuffix("PublicKey")
