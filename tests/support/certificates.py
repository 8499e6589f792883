"""Certificates for tests: authorities of one's own and leaves with any names, made in microseconds (EC P-256).

    root = Authority.root("Test Root")
    leaf = root.intermediate().issue(dns=["example.org"], xmpp=["example.org"])
    leaf.der_chain, leaf.pem_chain, leaf.key_pem, root.pem

Everything is valid from 2020 to the end of 2049 unless dates are given; `AT` is a moment between. The ready-made ones
(`shared_root()`, `shared_issuer()`, `leaf_for(domain)`) are made once per run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from itertools import count

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AT = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
NOT_BEFORE = datetime(2020, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(2049, 12, 31, tzinfo=UTC)

ID_ON_XMPP_ADDR = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5")
ID_ON_DNS_SRV = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")
SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
BOTH = (SERVER_AUTH, CLIENT_AUTH)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | dsa.DSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

_USAGES = {True: {"key_cert_sign": True, "crl_sign": True}, False: {"digital_signature": True}}
_UTF8_STRING, _IA5_STRING = 0x0C, 0x16
_serials = count(1000)


def der(tag: int, content: bytes) -> bytes:
    """Return one DER element: `tag` is its identifier byte."""
    length = len(content)
    if length < 128:
        return bytes((tag, length)) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + content


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return an RSA key, made once per size and run because that is slow."""
    return rsa.generate_private_key(65537, bits)


def xmpp_addr(value: str | bytes, tag: int = _UTF8_STRING) -> x509.OtherName:
    """Return an id-on-xmppAddr (RFC 6120 §13.7.1.4)."""
    return x509.OtherName(ID_ON_XMPP_ADDR, der(tag, value.encode() if isinstance(value, str) else value))


def srv_id(value: str | bytes, tag: int = _IA5_STRING) -> x509.OtherName:
    """Return an id-on-dnsSRV (RFC 4985). A bare domain gets `_xmpp-server.` before it."""
    if isinstance(value, str):
        value = (value if value.startswith("_") else f"_xmpp-server.{value}").encode()
    return x509.OtherName(ID_ON_DNS_SRV, der(tag, value))


def dns_constraints(permitted: Sequence[str] = (), excluded: Sequence[str] = ()) -> x509.NameConstraints | None:
    """Return name constraints on dNSName, or None if neither is given (RFC 5280 §4.2.1.10)."""
    if not permitted and not excluded:
        return None
    return x509.NameConstraints([x509.DNSName(n) for n in permitted] or None, [x509.DNSName(n) for n in excluded] or None)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def usage(**allowed: bool) -> x509.KeyUsage:
    """Return a key usage with only the bits given, such as `digital_signature=True`."""
    bits = dict.fromkeys((
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
        "crl_sign", "encipher_only", "decipher_only",
    ), False)
    return x509.KeyUsage(**bits | allowed)


@dataclass(frozen=True)
class Issued:
    """A leaf with its key and the chain to present: leaf first, then intermediates, without the root."""

    certificate: x509.Certificate
    key: Key
    chain: tuple[x509.Certificate, ...]

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def der_chain(self) -> tuple[bytes, ...]:
        return tuple(c.public_bytes(serialization.Encoding.DER) for c in self.chain)

    @property
    def pem_chain(self) -> bytes:
        return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in self.chain)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def with_chain(self, *certificates: x509.Certificate) -> Issued:
        """Return the same leaf presented with other certificates after it."""
        return replace(self, chain=(self.certificate, *certificates))


@dataclass(frozen=True)
class Authority:
    """A certification authority. `above` are the intermediates from this one up, without the root."""

    certificate: x509.Certificate
    key: Key
    above: tuple[x509.Certificate, ...] = ()

    @classmethod
    def root(cls, name: str = "Test Root", **options: object) -> Authority:
        """Return a self-signed authority; `options` are those of `certify`."""
        key = options.pop("key", None) or new_key()
        certificate = certify(_name(name), key, None, **{"ca": True, **options})  # type: ignore[arg-type]
        return cls(certificate, key)  # type: ignore[arg-type]

    def intermediate(self, name: str = "Test Issuer", **options: object) -> Authority:
        """Return an authority below this one; `options` are those of `certify`."""
        key = options.pop("key", None) or new_key()
        certificate = certify(_name(name), key, self, **{"ca": True, **options})  # type: ignore[arg-type]
        return Authority(certificate, key, (certificate, *self.above))  # type: ignore[arg-type]

    def issue(
        self, *, dns: Iterable[str] = (), xmpp: Iterable[str] = (), srv: Iterable[str] = (), common_name: str | None = None,
        key: Key | None = None, **options: object,
    ) -> Issued:
        """Return a leaf below this authority; `options` are those of `certify`."""
        key = key or new_key()
        certificate = certify(
            _name(common_name) if common_name else x509.Name([]), key, self, sans=names(dns, xmpp, srv), **options,  # type: ignore[arg-type]
        )
        return Issued(certificate, key, (certificate, *self.above))

    def crl(
        self, revoked: Iterable[x509.Certificate] = (), *, last_update: datetime = NOT_BEFORE, next_update: datetime = NOT_AFTER,
        key: Key | None = None, extensions: Sequence[tuple[x509.ExtensionType, bool]] = ((x509.CRLNumber(1), False),),
    ) -> bytes:
        """Return a signed revocation list in DER that lists `revoked`. Another `key` makes its signature wrong."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(last_update).next_update(next_update)
        for certificate in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(last_update)
            builder = builder.add_revoked_certificate(entry.build())
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        signing = key or self.key
        digest = None if isinstance(signing, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256()
        return builder.sign(signing, digest).public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)


def names(dns: Iterable[str] = (), xmpp: Iterable[str] = (), srv: Iterable[str] = ()) -> list[x509.GeneralName]:
    """Return names for a subjectAltName, in the order dNSName, xmppAddr, SRV-ID."""
    return [*map(x509.DNSName, dns), *map(xmpp_addr, xmpp), *map(srv_id, srv)]


def certify(
    subject: x509.Name, key: Key, issuer: Authority | None, *, ca: bool = False, sans: Sequence[x509.GeneralName] = (),
    not_before: datetime = NOT_BEFORE, not_after: datetime = NOT_AFTER, eku: Sequence[x509.ObjectIdentifier] | None = None,
    path_length: int | None = None, constraints: x509.NameConstraints | None = None, key_usage: x509.KeyUsage | tuple[()] | None = None,
    basic_constraints: bool = True, digest: hashes.HashAlgorithm | None = None, san_der: bytes | None = None,
    other_sans: Sequence[x509.GeneralName] = (), extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
    subject_key_identifier: bool = True, authority_key_identifier: bool = True, signed_by: Key | None = None,
) -> x509.Certificate:
    """Return a certificate for `key`, signed by `issuer` (None: by itself).

    `eku` None: leaves get both usages, authorities none; `()`: no extension. `key_usage` works in the same way. `san_der` is the raw value of the
    subjectAltName, for values that no builder writes. `signed_by` another key makes the signature wrong.
    """
    issuer_name = issuer.certificate.subject if issuer else subject
    issuer_key: Key = issuer.key if issuer else key
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer_name).public_key(key.public_key())
    builder = builder.serial_number(next(_serials)).not_valid_before(not_before).not_valid_after(not_after)
    extensions = list(extra)
    if basic_constraints:
        extensions.append((x509.BasicConstraints(ca=ca, path_length=path_length), True))
    if key_usage != ():
        extensions.append((key_usage or usage(**_USAGES[ca]), True))
    if eku is None:
        eku = () if ca else BOTH
    if eku:
        extensions.append((x509.ExtendedKeyUsage(eku), False))
    if san_der is not None:
        extensions.append((x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, san_der), not subject))
    elif all_sans := [*sans, *other_sans]:
        extensions.append((x509.SubjectAlternativeName(all_sans), not list(subject)))
    if constraints is not None:
        extensions.append((constraints, True))
    if subject_key_identifier:
        extensions.append((x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False))
    if authority_key_identifier:
        extensions.append((x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    signing = signed_by or issuer_key
    if isinstance(signing, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        return builder.sign(signing, None)
    return builder.sign(signing, digest or hashes.SHA256())  # type: ignore[arg-type]


def resigned(
    certificate: x509.Certificate, key: Key, algorithm: bytes | None = None, *, digest: hashes.HashAlgorithm | None = None,
    edit: tuple[bytes, bytes] = (b"", b""),
) -> x509.Certificate:
    """Return the same certificate signed again, for values that no builder writes.

    `algorithm` is another AlgorithmIdentifier in DER, `digest` is the actual digest (SHA-256). `edit` replaces bytes of
    the TBSCertificate by the same number of other bytes.
    """
    parts = _elements(_elements(certificate.tbs_certificate_bytes.replace(*edit))[0][1])
    algorithm = algorithm or der(*parts[2])
    parts[2] = _elements(algorithm)[0]
    tbs = der(0x30, b"".join(der(tag, content) for tag, content in parts))
    signature = _sign(key, tbs, digest or hashes.SHA256())
    return x509.load_der_x509_certificate(der(0x30, tbs + algorithm + der(0x03, b"\0" + signature)))


def _sign(key: Key, data: bytes, digest: hashes.HashAlgorithm) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), digest)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.sign(data, ec.ECDSA(digest))


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        size = data[1]
        start = 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(data[2:start], "big")
        found.append((data[0], data[start : start + size]))
        data = data[start + size :]
    return found


#: AlgorithmIdentifiers that are weak or unknown.
SHA1_WITH_RSA = bytes.fromhex("300d06092a864886f70d0101050500")
SHA1_WITH_ECDSA = bytes.fromhex("300906072a8648ce3d0401")
MD5_WITH_RSA = bytes.fromhex("300d06092a864886f70d0101040500")


def self_signed(
    *, dns: Iterable[str] = (), xmpp: Iterable[str] = (), srv: Iterable[str] = (), common_name: str = "self-signed",
    key: Key | None = None, **options: object,
) -> Issued:
    """Return a leaf signed by its own key; `options` are those of `certify`."""
    key = key or new_key()
    certificate = certify(_name(common_name), key, None, sans=names(dns, xmpp, srv), **options)  # type: ignore[arg-type]
    return Issued(certificate, key, (certificate,))


@cache
def shared_root() -> Authority:
    """Return the root of the run."""
    return Authority.root()


@cache
def shared_issuer() -> Authority:
    """Return an intermediate under `shared_root()`."""
    return shared_root().intermediate()


@cache
def leaf_for(domain: str) -> Issued:
    """Return a good leaf under `shared_issuer()` with `domain` (A-labels) as dNSName."""
    return shared_issuer().issue(dns=[domain])
