"""The lab's own certificate authority, and certificates with any combination of names (R17, R21)."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

XMPP_ADDR = ObjectIdentifier("1.3.6.1.5.5.7.8.5")
SRV_NAME = ObjectIdentifier("1.3.6.1.5.5.7.8.7")
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
EMAIL = ExtendedKeyUsageOID.EMAIL_PROTECTION
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Certificate:
    """A chain and its key as PEM files."""

    chain: Path
    key: Path

    def combined(self) -> Path:
        """Return one file with chain and key, as jabberd2 and ejabberd need it."""
        path = self.chain.with_suffix(".both.pem")
        path.write_bytes(self.chain.read_bytes() + self.key.read_bytes())
        return path


@dataclass(frozen=True)
class Names:
    """The names in subjectAltName. `common` is the subject's CN, which is not an identity (R17)."""

    dns: Sequence[str] = ()
    xmpp: Sequence[str] = ()
    srv: Sequence[str] = ()
    common: str | None = None

    def alternatives(self) -> list[x509.GeneralName]:
        return [
            *(x509.DNSName(name) for name in self.dns),
            *(x509.OtherName(XMPP_ADDR, _der(0x0C, name)) for name in self.xmpp),
            *(x509.OtherName(SRV_NAME, _der(0x16, f"_xmpp-server.{name}")) for name in self.srv),
        ]


def _der(tag: int, text: str) -> bytes:
    value = text.encode()
    return bytes([tag, len(value)]) + value


def _subject(common: str | None) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else [])


def _pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Authority:
    """A root CA; `file` is its certificate. Issued certificates are written to `folder`."""

    def __init__(self, folder: Path, name: str = "s2sgw lab CA") -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject(name)
        self._count = 0
        self.file = folder / "ca.pem"
        self.file.write_bytes(self._root().public_bytes(serialization.Encoding.PEM))

    def self_signed(self, domain: str) -> Certificate:
        """Return a self-signed certificate for `domain` that is no CA."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _subject(domain)
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        names = x509.SubjectAlternativeName([x509.DNSName(domain)])
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).add_extension(names, critical=False)
        builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=9))
        return self._write(builder.sign(key, hashes.SHA256()), key)

    def _builder(self, subject: x509.Name, key: PrivateKey, days: int) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        start = now - datetime.timedelta(days=2)
        return (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(start)
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )

    def _root(self) -> x509.Certificate:
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )
        builder = self._builder(self._name, self._key, 30).add_extension(x509.BasicConstraints(True, 1), critical=True)
        return builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())

    def issue(
        self, names: Names, *, usages: Sequence[ObjectIdentifier] = (SERVER, CLIENT), days: int = 10, bits: int = 0,
    ) -> Certificate:
        """Return a certificate with these names. `days` < 0: it has expired. `bits` > 0: its key is an RSA key of that size."""
        key: PrivateKey = rsa.generate_private_key(65537, bits) if bits else ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_subject(names.common), key, days)
        builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if names.alternatives():
            builder = builder.add_extension(
                x509.SubjectAlternativeName(names.alternatives()), critical=names.common is None
            )
        return self._write(builder.sign(self._key, hashes.SHA256()), key)

    def _write(self, leaf: x509.Certificate, key: PrivateKey) -> Certificate:
        self._count += 1
        chain, keyfile = self.folder / f"{self._count}.crt", self.folder / f"{self._count}.key"
        chain.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        keyfile.touch(mode=0o600)
        keyfile.write_bytes(_pem(key))
        return Certificate(chain, keyfile)

    def revoke(self, file: Path, *certificates: Certificate) -> None:
        """Write a revocation list with these certificates to `file`."""
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        until = now + datetime.timedelta(days=1)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name).last_update(now).next_update(until)
        builder = builder.add_extension(x509.CRLNumber(len(certificates) + 1), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        for each in certificates:
            serial = x509.load_pem_x509_certificate(each.chain.read_bytes()).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        file.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def for_domain(self, domain: str) -> Certificate:
        """Return a certificate as a public CA issues it: one dNSName, valid for clients and servers."""
        return self.issue(Names(dns=(domain,), common=domain))
