"""Make the development CA and the certificates of the example domains (`make certs`). Valid certificates are kept."""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HERE = Path(__file__).resolve().parent
GATEWAY = ["example.org", "rooms.example.org"]
PEER = ["peer.example"]
DAYS_CA, DAYS_LEAF, RENEW = 3650, 365, timedelta(days=30)
SRV_ID = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")  # RFC 4985, IA5String
XMPP_ADDR = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5")  # RFC 6120 §13.7.1.4, UTF8String
Issued = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateway", nargs="*", default=GATEWAY, metavar="DOMAIN", help="local domains")
    parser.add_argument("--peer", nargs="*", default=PEER, metavar="DOMAIN", help="domains of federation peers")
    chosen = parser.parse_args()
    authority = kept(HERE / "ca" / "ca.crt") or make_authority()
    for folder, domains in (("gateway", chosen.gateway), ("peer", chosen.peer)):
        for domain in domains:
            ensure_leaf(HERE / folder / f"{domain}.crt", domain, authority)


def kept(path: Path) -> Issued | None:
    """Return the certificate at `path` with its key, if both exist and do not expire soon."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        key = serialization.load_pem_private_key(path.with_suffix(".key").read_bytes(), None)
    except (OSError, ValueError):
        return None
    fresh = certificate.not_valid_after_utc - datetime.now(UTC) > RENEW
    return (certificate, key) if fresh and isinstance(key, ec.EllipticCurvePrivateKey) else None


def ensure_leaf(path: Path, domain: str, authority: Issued) -> None:
    have = kept(path)
    if have is None or have[0].issuer != authority[0].subject or not signed_by(have[0], authority[0]):
        make_leaf(path, domain, authority)


def signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True


def make_authority() -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "s2sgw development CA, trust it nowhere else")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        begin(name, name, key, DAYS_CA)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return write(HERE / "ca" / "ca.crt", (certificate, key), [certificate])


def make_leaf(path: Path, domain: str, authority: Issued) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        begin(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, domain)]), authority[0].subject, key, DAYS_LEAF)
        .add_extension(x509.SubjectAlternativeName(names(domain, xmpp_addr=path.parent.name == "peer")), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority[1].public_key()), critical=False)
        .sign(authority[1], hashes.SHA256())
    )
    return write(path, (certificate, key), [certificate, authority[0]])


def begin(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
    builder = builder.not_valid_after(now + timedelta(days=days))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def names(domain: str, xmpp_addr: bool) -> list[x509.GeneralName]:
    """Return the names. The gateway's own certificates have no xmppAddr, because every ejabberd so far closes the stream."""
    found: list[x509.GeneralName] = [x509.DNSName(domain), x509.OtherName(SRV_ID, der(0x16, f"_xmpp-server.{domain}"))]
    return [*found, x509.OtherName(XMPP_ADDR, der(0x0C, domain))] if xmpp_addr else found


def der(tag: int, text: str) -> bytes:
    """Return a DER string of fewer than 256 bytes, which is enough for every domain name."""
    body = text.encode()
    return bytes([tag, len(body)]) + body if len(body) < 128 else bytes([tag, 0x81, len(body)]) + body


def write(path: Path, issued: Issued, chain: list[x509.Certificate]) -> Issued:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = issued[1].private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_secret(path.with_suffix(".key"), pem)
    path.write_bytes(b"".join(link.public_bytes(serialization.Encoding.PEM) for link in chain))
    print(f"made {path.relative_to(HERE.parent)}")
    return issued


def write_secret(path: Path, data: bytes) -> None:
    """Write a file that is never readable by others, not even for a moment."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


if __name__ == "__main__":
    main()
