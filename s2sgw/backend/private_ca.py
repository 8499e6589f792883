"""The private certificate authority of the backend leg. It issues a certificate for each remote domain.

The existing server trusts this authority in place of all others (docs/architecture.md). A certificate has one dNSName and both
usages, because ejabberd 23.01 crashes on an xmppAddr, and refuses serverAuth alone.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from s2sgw.net.certificates import Credential
from s2sgw.storage.atomic_file import write_atomically
from s2sgw.trust.identity import names
from s2sgw.xmpp.bounded_dict import BoundedDict
from s2sgw.xmpp.jid import Domain

#: The authority's certificate, which the existing server must trust, and its key, in the state directory.
CERTIFICATE_FILE, KEY_FILE = "backend-ca.pem", "backend-ca.key"
#: Certificates that are kept. The least recently used is removed first. Making one takes a millisecond.
LEAVES_KEPT = 1024

_AUTHORITY_DAYS = 20 * 365
_LEAF_DAYS = 60
_RENEW_DAYS = 20
_EARLY = timedelta(days=1)  # for a server whose clock is behind
#: The remedies for files that cannot be used: those of one gateway, and those of a folder that the nodes of a cluster share.
_ANEW = "remove both to make a new authority, which the server must be told to trust"
_COPY = "copy both from one node, or from the gateway that made them"


class PrivateCAError(Exception):
    """The authority in the state directory cannot be used. The text says why."""


class PrivateCA:
    """The authority in the directory `state`. With `create` it is created there at the first start. Raises `PrivateCAError`.

    All certificates of one run share one key.
    """

    def __init__(self, state: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC), create: bool = True) -> None:
        self._now = now
        self._certificate, self._key = _load_or_create(state, now(), create)
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._leaves: BoundedDict[Domain, Credential] = BoundedDict(LEAVES_KEPT)

    @property
    def ca_pem(self) -> bytes:
        """Return the certificate that the existing server must trust."""
        return self._certificate.public_bytes(Encoding.PEM)

    def leaf(self, domain: Domain) -> Credential:
        """Return a credential that proves `domain` to the existing server."""
        credential = self._leaves.use(domain)
        if credential is None or credential.not_after - self._now() < timedelta(days=_RENEW_DAYS):
            credential = self._leaves[domain] = self._mint(domain)
        return credential

    def _mint(self, domain: Domain) -> Credential:
        now = self._now()
        subject = domain.ascii if len(domain.ascii) <= 64 else "s2sgw"  # X.520: a common name has at most 64 characters
        builder = _builder(subject, self._certificate.subject, self._leaf_key.public_key(), now, _LEAF_DAYS)
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(authority=False), critical=True)
        builder = builder.add_extension(usages, critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(domain.ascii)]), critical=False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        leaf = builder.add_extension(identifier, critical=False).sign(self._key, SHA256())
        der = leaf.public_bytes(Encoding.DER)
        return Credential(domain.ascii, (der,), self._leaf_key, leaf.not_valid_before_utc, leaf.not_valid_after_utc, names(der))


def _load_or_create(state: Path, at: datetime, create: bool) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate_file, key_file = state / CERTIFICATE_FILE, state / KEY_FILE
    if create and not certificate_file.exists():
        _create(certificate_file, key_file, at)
    remedy = _ANEW if create else _COPY
    try:
        if key_file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise PrivateCAError(f"{key_file}: others than its owner may read it (chmod 600)")
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key = _load_key(key_file, remedy)
    except OSError as error:
        raise PrivateCAError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise PrivateCAError(f"{certificate_file} is damaged; {remedy}") from error
    if key.public_key() != certificate.public_key():
        raise PrivateCAError(f"{state}: {KEY_FILE} is not the key of {CERTIFICATE_FILE}; {remedy}")
    return certificate, key


def _load_key(key_file: Path, remedy: str) -> ec.EllipticCurvePrivateKey:
    """Return the key. Raises `OSError` or `PrivateCAError`."""
    try:
        key = load_pem_private_key(key_file.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise PrivateCAError(f"{key_file} is damaged; {remedy}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PrivateCAError(f"{key_file} holds no elliptic-curve key; {remedy}")
    return key


def _create(certificate_file: Path, key_file: Path, at: datetime) -> None:
    """Create the key and its certificate. An existing key is kept: a crash may have come between the two files."""
    new = not key_file.exists()
    key = ec.generate_private_key(ec.SECP256R1()) if new else _load_key(key_file, _ANEW)
    name = "s2sgw backend authority"
    builder = _builder(name, _name(name), key.public_key(), at, _AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(authority=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    certificate = builder.sign(key, SHA256())
    try:
        key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if new:
            write_atomically(key_file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        write_atomically(certificate_file, certificate.public_bytes(Encoding.PEM), 0o644)
    except OSError as error:
        raise PrivateCAError(f"{error.filename}: cannot be written: {error.strerror}") from error


def _builder(
    subject: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, at: datetime, days: int,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(issuer).public_key(key)
    builder = builder.not_valid_before(at - _EARLY).not_valid_after(at + timedelta(days=days))
    return builder.serial_number(x509.random_serial_number())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )
