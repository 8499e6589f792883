"""The gateway's own certificates, read from a folder. Each serves the domains in its subjectAltName (R11).

A certificate is NAME.crt with NAME.key, or NAME/fullchain.pem with NAME/privkey.pem. All faults of the folder are reported
together. A reload that finds a fault keeps the certificates in use.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from s2sgw.storage.regular_file import read_regular
from s2sgw.trust.identity import Names, matches, names
from s2sgw.xmpp.jid import Domain

T = TypeVar("T")

PrivateKey = EllipticCurvePrivateKey | RSAPrivateKey | Ed25519PrivateKey | Ed448PrivateKey

#: Answers of `CertificateDirectory.for_domain` that are kept. Strangers choose the names.
ANSWERS_KEPT = 1024
#: The fewest bits of an RSA key and of an elliptic curve: OpenSSL rejects smaller ones.
RSA_BITS, CURVE_BITS = 2048, 224

_PAIRS = ("fullchain.pem", "privkey.pem")


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate chain (DER, leaf first) and its key. `name` is its file's, or the domain it was minted for."""

    name: str
    chain: tuple[bytes, ...]
    key: PrivateKey = field(repr=False, compare=False)
    not_before: datetime
    not_after: datetime
    names: Names = field(default_factory=Names)
    fingerprint: str = field(init=False, compare=False)  # SHA-256 of the whole chain, in hexadecimal

    @property
    def has_xmpp_addr(self) -> bool:
        """Whether the subjectAltName has an id-on-xmppAddr (RFC 6120 §13.7.1.4)."""
        return any(each.kind == "xmppAddr" for each in self.names.presented)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", hashlib.sha256(b"".join(self.chain)).hexdigest())


@dataclass(frozen=True, slots=True)
class Loaded:
    """The contents of a folder. A complaint keeps the gateway from starting. A warning is only logged."""

    credentials: tuple[Credential, ...] = ()
    complaints: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class UnusableCertificate(Exception):
    """A certificate cannot be used. The text says why."""


class CertificateDirectory:
    """The certificates of one folder. `now` returns the time with which their dates are compared."""

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.path = path
        self._now = now
        self._loaded = load(path, now())
        self._answers: dict[Domain, Credential | None] = {}

    @property
    def credentials(self) -> tuple[Credential, ...]:
        """Return every certificate in use, in the order of their names."""
        return self._loaded.credentials

    @property
    def complaints(self) -> tuple[str, ...]:
        return self._loaded.complaints

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._loaded.warnings

    def adopt(self, other: CertificateDirectory) -> None:
        """Take over what `other` has read, and read its folder from now on."""
        self.path, self._loaded = other.path, other._loaded
        self._answers.clear()

    def for_domain(self, domain: Domain | None) -> Credential | None:
        """Return the certificate that serves `domain`.

        The order of preference: a certificate within its dates; one without an id-on-xmppAddr, which ejabberd cannot read;
        one with the exact name before one with a wildcard; the one that expires last. `domain` None: no name is known, so the
        first of the folder is returned.
        """
        if domain is None:
            return self.credentials[0] if self.credentials else None
        if domain not in self._answers:
            if len(self._answers) >= ANSWERS_KEPT:
                self._answers.clear()
            self._answers[domain] = self._find(domain)
        return self._answers[domain]

    def unserved(self, domains: Iterable[Domain]) -> tuple[str, ...]:
        """Return a complaint for each of `domains` that no certificate names."""
        missing = (domain for domain in domains if self.for_domain(domain) is None)
        return tuple(f"no certificate in {self.path} names {domain}" for domain in missing)

    def _find(self, domain: Domain) -> Credential | None:
        now = self._now()
        ranked = []
        for credential in self.credentials:
            name = matches(credential.names, domain).name
            if name is not None:
                in_its_dates = credential.not_before <= now <= credential.not_after
                rank = (in_its_dates, not credential.has_xmpp_addr, "*" not in name, credential.not_after)
                ranked.append((rank, credential))
        return max(ranked, key=itemgetter(0))[1] if ranked else None


def load(path: Path, at: datetime) -> Loaded:
    """Return everything in the folder `path`, with all complaints and warnings. A bad file raises nothing."""
    try:
        pairs = list(_pairs(path))
    except OSError as error:
        return Loaded(complaints=(f"{path}: cannot be read: {error.strerror}",))
    if not pairs:
        shapes = "NAME.crt with NAME.key, or NAME/fullchain.pem with NAME/privkey.pem"
        return Loaded(complaints=(f"{path}: holds no certificate ({shapes})",))
    credentials: list[Credential] = []
    complaints: list[str] = []
    warnings: list[str] = []
    for name, certificate, key in pairs:
        try:
            credential = read(name, certificate, key)
        except UnusableCertificate as error:
            complaints.append(str(error))
        else:
            credentials.append(credential)
            warnings += _doubts(certificate, credential, at)
    return Loaded(tuple(credentials), tuple(complaints), tuple(warnings))


def _pairs(path: Path) -> Iterator[tuple[str, Path, Path]]:
    """Yield (name, certificate file, key file) for each pair of files, even if one of them is missing."""
    for entry in sorted(path.iterdir()):
        if entry.suffix == ".crt":
            yield entry.stem, entry, entry.with_suffix(".key")
        elif entry.suffix == ".key" and not entry.with_suffix(".crt").exists():
            yield entry.stem, entry.with_suffix(".crt"), entry
        elif any((entry / half).exists() for half in _PAIRS):
            yield entry.name, entry / _PAIRS[0], entry / _PAIRS[1]


def read(name: str, certificate: Path, key: Path) -> Credential:
    """Read one pair of files. Raises `UnusableCertificate` with all of its faults."""
    wrong: list[str] = []
    chain = _attempt(wrong, _read_chain, certificate)
    private = _attempt(wrong, _read_key, key)
    if chain and private is not None and not _belong(chain[0], private):
        wrong.append(f"{key}: is not the key of {certificate.name}")
    presented = names(chain[0].public_bytes(Encoding.DER)) if chain else Names()
    if chain and not presented.presented:
        wrong.append(f"{certificate}: names no domain in its subjectAltName (a common name does not count)")
    if wrong or not chain or private is None:
        raise UnusableCertificate("; ".join(wrong))
    return Credential(
        name, tuple(each.public_bytes(Encoding.DER) for each in chain), private, chain[0].not_valid_before_utc,
        chain[0].not_valid_after_utc, presented,
    )  # fmt: skip


def _attempt(wrong: list[str], reading: Callable[[Path], T], path: Path) -> T | None:
    try:
        return reading(path)
    except UnusableCertificate as error:
        wrong.append(str(error))
        return None


def _read_chain(path: Path) -> list[x509.Certificate]:
    data = _bytes(path)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise UnusableCertificate(f"{path}: holds no certificate in PEM that can be read") from None


def _read_key(path: Path) -> PrivateKey:
    """Read a private key. Refuse one that other users can read, and one that is encrypted."""
    data = _bytes(path)
    if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise UnusableCertificate(f"{path}: is readable or writable by other users (chmod 640)")
    try:
        key = load_pem_private_key(data, None)
    except TypeError:
        raise UnusableCertificate(f"{path}: is encrypted; the gateway cannot ask for a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableCertificate(f"{path}: holds no private key in PEM that can be read") from None
    if not isinstance(key, PrivateKey):
        raise UnusableCertificate(f"{path}: has an unsupported key type")
    if isinstance(key, RSAPrivateKey) and key.key_size < RSA_BITS:
        raise UnusableCertificate(f"{path}: has {key.key_size} bits, which is too weak (RSA needs {RSA_BITS})")
    if isinstance(key, EllipticCurvePrivateKey) and key.key_size < CURVE_BITS:
        raise UnusableCertificate(f"{path}: has {key.key_size} bits, which is too weak (curves need {CURVE_BITS})")
    return key


def _bytes(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise UnusableCertificate(f"{path}: cannot be read: {error.strerror}") from None


def _belong(leaf: x509.Certificate, key: PrivateKey) -> bool:
    def raw(public: object) -> bytes:
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return]

    return raw(leaf.public_key()) == raw(key.public_key())


def _doubts(path: Path, credential: Credential, at: datetime) -> Iterator[str]:
    if at > credential.not_after:
        yield f"{path}: expired on {credential.not_after:%Y-%m-%d %H:%M} UTC; peers will refuse it"
    if at < credential.not_before:
        yield f"{path}: is not valid before {credential.not_before:%Y-%m-%d %H:%M} UTC; peers will refuse it"
    yield from (f"{path}: {reason}" for reason in credential.names.dropped)
    if credential.has_xmpp_addr:
        yield (
            f"{path}: has an id-on-xmppAddr in its subjectAltName; ejabberd closes the stream on such a certificate. "
            "Use a certificate with DNS names only"
        )
    chain = [x509.load_der_x509_certificate(each) for each in credential.chain]
    if any(lower.issuer != upper.subject for lower, upper in pairwise(chain)):
        yield f"{path}: its certificates are not in order, each followed by its issuer"
