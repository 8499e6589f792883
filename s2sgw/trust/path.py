"""Case 1 of RFC 6120 §13.7.2: does a chain lead to a trusted anchor (R19, R21)?

cryptography's `x509.verification` builds and checks the path (RFC 5280 §6, with the rules of the web's PKI): signatures,
dates, basic constraints, path lengths, name constraints, key usage. It stops at the first fault, so what concerns the leaf
alone (dates, key strength, usages) is checked here, and the path at a time when the leaf is valid: an expired certificate
from an unknown issuer is told to be both. It does not check the strength of the leaf's key; this does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, VerificationError

import s2sgw.trust.der as der
from s2sgw.trust.anchors import Anchors, encoded, issuer, load, self_signed, subject, subject_text
from s2sgw.trust.evidence import Failure
from s2sgw.trust.revocation import RevocationLists
from s2sgw.xmpp.ending import Cause

__all__ = ["Anchors", "Failure", "PathResult", "validate"]

#: R21: serverAuth, clientAuth or anyExtendedKeyUsage, or no such extension, in the leaf and in the authorities above it.
USAGES = frozenset(map(bytes.fromhex, ("2b06010505070301", "2b06010505070302", "551d2500")))
RSA_BITS = 2048
EC_BITS = 256
#: Certificates that a path may have above the leaf, and that are looked at of those that a peer presents.
PATH_DEPTH = 8
CHAIN_CERTIFICATES = 32

_DIGITAL_SIGNATURE = b"\x80"
_NO_USAGE = "an authority's extended key usage allows neither serverAuth nor clientAuth"
_PREFIXES = ("validation failed: ", "candidates exhausted: ", "fatal error: ", "Python extension validator failed: ValueError: ")
#: What the library says of authorities, where it means more than a bad chain.
_SAID = (("too weak", Cause.WEAK_KEY), ("Forbidden public key", Cause.WEAK_KEY), (_NO_USAGE, Cause.WRONG_USAGE))


@dataclass(frozen=True, slots=True)
class PathResult:
    """What path validation found. `path` goes from the leaf to the anchor; it is () where none was found.

    Where the library cannot read a name of the leaf, `path` is not `exact`: it is the leaf and every authority that may be
    above it, enough to apply all that they forbid.
    """

    failures: tuple[Failure, ...]
    path: tuple[x509.Certificate, ...] = ()
    exact: bool = True

    @property
    def valid(self) -> bool:
        return bool(self.path) and not self.failures


def validate(
    chain: Sequence[bytes], anchors: Anchors, at: datetime, revocations: RevocationLists | None = None,
) -> PathResult:
    """Whether the chain (DER, leaf first, then in any order) leads to one of `anchors` at the time `at` (aware).

    Dates are in whole seconds, the last of which is valid to its end (RFC 5280 §4.1.2.5). `revocations` are asked about every
    certificate of the path that is found.
    """
    at = at.replace(microsecond=0)
    if not chain:
        return PathResult((Failure(Cause.NO_CERTIFICATE, "no certificate was presented"),))
    try:
        leaf = load(chain[0])
    except ValueError as error:
        return PathResult((Failure(Cause.BAD_CHAIN, f"the certificate cannot be read: {error}"),))
    found = _Search(leaf, list(_readable(chain[1:CHAIN_CERTIFICATES])), anchors, at).result()
    own = (*_dates(leaf, at, "the certificate"), *_key(leaf), *_usages(leaf))
    revoked = revocations.failures(found.path, at) if revocations else ()
    return PathResult((*own, *revoked, *found.failures), found.path, found.exact)


def _readable(chain: Iterable[bytes]) -> Iterator[x509.Certificate]:
    for data in chain:
        try:
            yield load(data)
        except ValueError:  # it may not be needed; if it is, its issuer is missing
            continue


def _dates(certificate: x509.Certificate, at: datetime, what: str) -> Iterator[Failure]:
    if at > certificate.not_valid_after_utc:
        yield Failure(Cause.EXPIRED, f"{what} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC")
    if at < certificate.not_valid_before_utc:
        yield Failure(Cause.NOT_YET_VALID, f"{what} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC")


def _key(leaf: x509.Certificate) -> Iterator[Failure]:
    try:
        key = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        yield Failure(Cause.WEAK_KEY, f"the certificate's key is of no known kind: {error}")
        return
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < RSA_BITS:
            yield Failure(Cause.WEAK_KEY, f"the certificate's RSA key has {key.key_size} bits, at least {RSA_BITS} are asked for")
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if key.key_size < EC_BITS:
            yield Failure(Cause.WEAK_KEY, f"the certificate's EC key has {key.key_size} bits, at least {EC_BITS} are asked for")
    elif not isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        yield Failure(Cause.WEAK_KEY, "the certificate's key is neither RSA, EC, Ed25519 nor Ed448")


def _usages(leaf: x509.Certificate) -> Iterator[Failure]:
    try:
        usage = der.extension(encoded(leaf), der.KEY_USAGE)
        signs = usage is None or der.inside(usage, der.BIT_STRING)[1:2] >= _DIGITAL_SIGNATURE
        serves = _for_tls(leaf)
    except ValueError as error:
        yield Failure(Cause.BAD_CHAIN, f"the certificate's key usages cannot be read: {error}")
        return
    if not serves:
        yield Failure(Cause.WRONG_USAGE, "the certificate's extended key usage allows neither serverAuth nor clientAuth")
    if not signs:
        yield Failure(Cause.WRONG_USAGE, "the certificate's key usage does not allow the signatures that TLS makes with its key")


def _for_tls(certificate: x509.Certificate) -> bool:
    value = der.extension(encoded(certificate), der.EXTENDED_KEY_USAGE)
    return value is None or not USAGES.isdisjoint(der.object_identifiers(value))


def _check_usage(_policy: Policy, authority: x509.Certificate, _extension: x509.ExtendedKeyUsage | None) -> None:
    if not _for_tls(authority):
        raise ValueError(_NO_USAGE)


def _check_signing(_policy: Policy, _authority: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("an authority's key usage does not allow it to sign certificates")


#: The library would have every authority carry a key usage; RFC 5280 §6.1.4 asks what one allows only where it is there.
_AUTHORITIES = (
    ExtensionPolicy.webpki_defaults_ca()
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _check_usage)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _check_signing)
)
_LEAF = ExtensionPolicy.webpki_defaults_ee().may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, None)
_NAMELESS_LEAF = _LEAF.may_be_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)


@dataclass(frozen=True, slots=True)
class _Search:
    """The search for a path: from a leaf, by what was presented with it, to an anchor, at a time."""

    leaf: x509.Certificate
    presented: Sequence[x509.Certificate]
    anchors: Anchors
    at: datetime

    @property
    def moment(self) -> datetime:
        """The time of the search: where the leaf's dates fail (which is told apart), the nearest at which they do not."""
        return min(max(self.at, self.leaf.not_valid_before_utc), self.leaf.not_valid_after_utc)

    def result(self) -> PathResult:
        """The path that the library finds, or what is wrong with those that there could be: at least one failure."""
        if self.anchors.store is None:
            return PathResult((self._unanchored(self._above()),))
        nameless = not der.has_extension(encoded(self.leaf), der.SUBJECT_ALT_NAME)
        builder = PolicyBuilder().store(self.anchors.store).time(self.moment).max_chain_depth(PATH_DEPTH)
        builder = builder.extension_policies(ca_policy=_AUTHORITIES, ee_policy=_NAMELESS_LEAF if nameless else _LEAF)
        try:
            return PathResult((), tuple(builder.build_client_verifier().verify(self.leaf, list(self.presented)).chain))
        except VerificationError as error:
            return PathResult(self._explained(str(error)))
        except (ValueError, x509.UnsupportedGeneralNameType):  # the path is good; a name that the library hands out is not
            return PathResult((), (self.leaf, *self._above()), exact=False)

    def _above(self) -> list[x509.Certificate]:
        """Every certificate that, by its name and key identifier, may be above the leaf; the nearest first."""
        found = [self.leaf]
        for certificate in found:
            name = issuer(certificate)
            candidates = (*self.anchors.named(name), *(each for each in self.presented if subject(each) == name))
            found += [each for each in candidates if each not in found and _fits(certificate, each)]
        return found[1:]

    def _explained(self, said: str) -> tuple[Failure, ...]:
        above = self._above()
        if not any(certificate in self.anchors for certificate in (self.leaf, *above)):
            return (self._unanchored(above),)
        if "validation time" in said:
            dated = tuple(f for each in above for f in _dates(each, self.at, f"the authority {subject_text(each)}"))
            if dated or self.moment != self.at:  # in the leaf's own time its authorities may not have been valid: no matter
                return dated
        for prefix in _PREFIXES:
            said = said.removeprefix(prefix)
        cause = next((cause for words, cause in _SAID if words in said), Cause.BAD_CHAIN)
        return (Failure(cause, f"the chain is not valid: {said.partition(' (encountered')[0]}"),)

    def _unanchored(self, above: Sequence[x509.Certificate]) -> Failure:
        if self_signed(self.leaf):
            return Failure(Cause.SELF_SIGNED, f"the certificate is self-signed ({subject_text(self.leaf)})")
        last = above[-1] if above else self.leaf
        if issuer(last) == subject(last):
            return Failure(Cause.UNKNOWN_ISSUER, f"the chain ends in {subject_text(last)}, which is no trusted anchor")
        parent = subject_text(last, by=True)
        return Failure(Cause.UNKNOWN_ISSUER, f"the issuer {parent} is neither in the chain nor a trusted anchor")


def _fits(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """No key identifiers that contradict each other (RFC 5280 §4.2.1.1)."""
    wanted, present = der.authority_key(encoded(certificate)), der.subject_key(encoded(authority))
    return wanted is None or present is None or wanted == present
