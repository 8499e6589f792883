"""One certificate in words that an operator can compare: names, issuer, dates, key, fingerprints. It proves nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from s2sgw.trust.anchors import load, self_signed, subject_text
from s2sgw.trust.identity import names
from s2sgw.trust.pins import Fingerprint

#: Names of a certificate that are listed.
NAMES = 32


@dataclass(frozen=True, slots=True)
class Summary:
    """What stands in a certificate. Where it cannot be read, `unreadable` says why and the rest is empty."""

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
        """As JSON has it: times are seconds since the epoch."""
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
    """The summary of a certificate in DER; nothing in it makes this raise."""
    digest = hashlib.sha256(certificate).hexdigest()
    try:
        found = load(certificate)
        presented = [str(name) for name in names(certificate).presented[:NAMES]]
        return Summary(
            digest, str(Fingerprint.of(certificate)), _kind(found), subject_text(found).strip("'"),
            subject_text(found, by=True).strip("'"), self_signed(found), tuple(presented), found.not_valid_before_utc,
            found.not_valid_after_utc, f"{found.serial_number:x}",
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
