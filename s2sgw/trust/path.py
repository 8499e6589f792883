"""Case 1 of RFC 6120 §13.7.2: whether a chain leads to a trusted anchor (R19, R21).

cryptography's `x509.verification` builds and checks the path (RFC 5280 §6, with the rules of the web's PKI): signatures, dates,
basic constraints, path lengths, name constraints, key usage. It stops at the first fault. So the faults of the leaf alone (dates,
key strength, usages) are found here, and the path is checked at a time when the leaf is valid: an expired certificate from an
unknown issuer is reported as both. The library does not check the strength of the leaf's key; this module does.

A peer chooses its certificates, and the search runs on the reactor's thread. So the library gets little work: authorities with
expensive keys or many names are left out, names are followed first, and signature checks are counted (docs/trust.md).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, VerificationError

import s2sgw.trust.der as der
from s2sgw.trust.anchors import Anchors
from s2sgw.trust.evidence import Failure
from s2sgw.trust.identity import Names, names
from s2sgw.trust.keys import RSA_BITS
from s2sgw.trust.name_bounds import TooManyNames
from s2sgw.trust.parsed import ParsedCertificate, encoded
from s2sgw.trust.revocation import RevocationLists
from s2sgw.xmpp.bounded_dict import BoundedDict
from s2sgw.xmpp.ending import Cause

__all__ = ["Anchors", "Failure", "PathResult", "PresentedChain", "RecentChains", "validate"]

#: R21: the leaf and the authorities above it need serverAuth, clientAuth or anyExtendedKeyUsage, or no such extension.
USAGES = frozenset(map(bytes.fromhex, ("2b06010505070301", "2b06010505070302", "551d2500")))
EC_BITS = 256
#: The most certificates of a path above the leaf, and the most presented ones that are examined.
PATH_DEPTH = 8
CHAIN_CERTIFICATES = 32
#: Presented authorities of the same subject that are tried.
NAMESAKES = 4
#: The most signatures that are checked for one chain, with any number of anchors. An ordinary chain needs two or three, and the
#: longest allowed one nine. A check with an RSA key beyond `DEAR_RSA_BITS` or `DEAR_EXPONENT`, or on a curve larger than
#: P-256, takes some four times as long as others. It counts as `DEAR_CHECKS`.
SIGNATURE_CHECKS = 16
DEAR_CHECKS, DEAR_RSA_BITS, DEAR_EXPONENT = 2, 4096, 65537
#: Names of the certificates of a chain, times the subtrees of the name constraints above them: each pair is compared.
NAME_COMPARISONS = 20_000
#: Results that are kept of one chain: for the anchors of its policy, and for those in its TLSA records.
RESULTS_KEPT = 4

_DIGITAL_SIGNATURE = b"\x80"
_SECOND = timedelta(seconds=1)
_PURPOSES = frozenset(map(x509.ObjectIdentifier, ("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", "2.5.29.37.0")))
_NO_USAGE = "an authority's extended key usage allows neither serverAuth nor clientAuth"
_TOO_COMPLICATED = f"the chain is too complicated: more than {SIGNATURE_CHECKS} signatures would have to be checked"
_PREFIXES = ("validation failed: ", "candidates exhausted: ", "fatal error: ", "Python extension validator failed: ValueError: ")
#: The library's messages about authorities that mean more than a bad chain.
_SAID = (("too weak", Cause.WEAK_KEY), ("Forbidden public key", Cause.WEAK_KEY), (_NO_USAGE, Cause.WRONG_USAGE))


@dataclass(frozen=True, slots=True)
class PathResult:
    """The result of path validation. `path` goes from the leaf to the anchor; (): there is none.

    If the library cannot read a name of the leaf, `path` is not `exact`: it has the leaf and every authority that may be above
    it, so that all of their constraints apply.
    """

    failures: tuple[Failure, ...]
    path: tuple[ParsedCertificate, ...] = ()
    exact: bool = True

    @property
    def valid(self) -> bool:
        """Whether there is a path without a failure."""
        return bool(self.path) and not self.failures


@dataclass(slots=True)
class _Kept:
    """The result of a search. It is valid from `begin` until `end`: no date of a certificate lies in between."""

    result: PathResult
    begin: datetime
    end: datetime


class PresentedChain:
    """A presented chain (DER, leaf first, then in any order). Each certificate is parsed once, and each path is searched once.

    `signature_checks` (weighted) and `path_searches` count the work. Until `renew`, `SIGNATURE_CHECKS` bounds the checks.
    """

    def __init__(self, chain: Sequence[bytes]) -> None:
        self.encoded = tuple(chain)
        self.signature_checks = 0
        self.path_searches = 0
        self._checks_left = SIGNATURE_CHECKS
        self._results: BoundedDict[Anchors, _Kept] = BoundedDict(RESULTS_KEPT)
        self._declared: tuple[frozenset[bytes], Anchors] = (frozenset(), Anchors())

    def renew(self) -> None:
        """Allow `SIGNATURE_CHECKS` again: the chain is presented in another handshake, or judged again."""
        self._checks_left = SIGNATURE_CHECKS

    @cached_property
    def leaf(self) -> ParsedCertificate | str:
        """Return the peer's own certificate, or why it cannot be parsed."""
        try:
            return ParsedCertificate(self.encoded[0])
        except ValueError as error:
            return str(error)

    @property
    def names(self) -> Names:
        """The names of the leaf."""
        return names(self.encoded[0] if isinstance(self.leaf, str) else self.leaf)

    @cached_property
    def authorities(self) -> tuple[ParsedCertificate, ...]:
        """Return the other certificates that can be parsed, each once. Unreadable ones may not be needed."""
        found = []
        for data in dict.fromkeys(self.encoded[1:CHAIN_CERTIFICATES]):
            try:
                found.append(ParsedCertificate(data))
            except ValueError:
                continue
        return tuple(found)

    def declared(self, certificates: frozenset[bytes]) -> Anchors:
        """Return anchors made of `certificates` (valid DER): the same object for the same certificates."""
        if self._declared[0] != certificates:
            self._declared = (certificates, Anchors.parse(*sorted(certificates)))
        return self._declared[1]

    def search(self, leaf: ParsedCertificate, anchors: Anchors, at: datetime) -> PathResult:
        """Return the path to one of `anchors` at the time `at`. A known result is not searched again."""
        kept = self._results.use(anchors)
        if kept is None or not kept.begin <= at < kept.end:
            self.path_searches += 1
            search = _Search(leaf, self.authorities, anchors, at, self._checks_left)
            result = search.result()
            self.signature_checks += search.checked
            self._checks_left -= search.checked
            kept = self._results[anchors] = _Kept(result, *search.period())
        return kept.result


class RecentChains:
    """The chains that were presented lately: a repeated one, also for another domain, is not searched again.

    The number of chains and the bytes of their certificates are bounded. The least recently used is removed first.
    """

    def __init__(self, chains: int = 256, size: int = 2_097_152) -> None:
        self._most_chains = chains
        self._most_bytes = size
        self._size = 0
        self._chains: OrderedDict[tuple[bytes, ...], PresentedChain] = OrderedDict()

    def presented(self, chain: Sequence[bytes]) -> PresentedChain:
        """Return the chain, known or new, with its signature checks allowed anew."""
        key = tuple(chain)
        found = self._chains.get(key)
        if found is None:
            found = self._chains[key] = PresentedChain(key)
            self._size += _bytes_of(key)
            while len(self._chains) > 1 and (len(self._chains) > self._most_chains or self._size > self._most_bytes):
                self._size -= _bytes_of(self._chains.popitem(last=False)[0])
        self._chains.move_to_end(key)
        found.renew()
        return found


def _bytes_of(chain: tuple[bytes, ...]) -> int:
    return sum(map(len, chain))


def validate(
    chain: Sequence[bytes] | PresentedChain, anchors: Anchors, at: datetime, revocations: RevocationLists | None = None,
) -> PathResult:
    """Return whether the chain (DER, leaf first, then in any order) leads to one of `anchors` at the time `at` (aware).

    Dates have whole seconds; the last second is valid to its end (RFC 5280 §4.1.2.5). `revocations` are checked for every
    certificate of the path.
    """
    at = at.replace(microsecond=0)
    presented = chain if isinstance(chain, PresentedChain) else PresentedChain(chain)
    if not presented.encoded:
        return PathResult((Failure(Cause.NO_CERTIFICATE, "no certificate was presented"),))
    leaf = presented.leaf
    if isinstance(leaf, str):
        return PathResult((Failure(Cause.BAD_CHAIN, f"the certificate cannot be read: {leaf}"),))
    own = (*_dates(leaf, at, "the certificate"), *_key(leaf), *_usages(leaf))
    found = presented.search(leaf, anchors, at)
    revoked = revocations.failures(found.path, at) if revocations else ()
    return PathResult((*own, *revoked, *found.failures), found.path, found.exact)


def _dates(parsed: ParsedCertificate, at: datetime, what: str) -> Iterator[Failure]:
    certificate = parsed.certificate
    if at > certificate.not_valid_after_utc:
        yield Failure(Cause.EXPIRED, f"{what} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC")
    if at < certificate.not_valid_before_utc:
        yield Failure(Cause.NOT_YET_VALID, f"{what} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC")


def _key(leaf: ParsedCertificate) -> Iterator[Failure]:
    try:
        key = leaf.certificate.public_key()
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


def _usages(leaf: ParsedCertificate) -> Iterator[Failure]:
    try:
        usage = leaf.extension(der.KEY_USAGE)
        signs = usage is None or der.inside(usage, der.BIT_STRING)[1:2] >= _DIGITAL_SIGNATURE
        serves = leaf.key_purposes is None or not USAGES.isdisjoint(leaf.key_purposes)
    except ValueError as error:
        yield Failure(Cause.BAD_CHAIN, f"the certificate's key usages cannot be read: {error}")
        return
    if not serves:
        yield Failure(Cause.WRONG_USAGE, "the certificate's extended key usage allows neither serverAuth nor clientAuth")
    if not signs:
        yield Failure(Cause.WRONG_USAGE, "the certificate's key usage does not allow the signatures that TLS makes with its key")


def _check_signing(_policy: Policy, _authority: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("an authority's key usage does not allow it to sign certificates")


#: The library requires a key usage of every authority. RFC 5280 §6.1.4 checks it only if it is there.
_AUTHORITIES = ExtensionPolicy.webpki_defaults_ca().may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _check_signing)
_LEAF = ExtensionPolicy.webpki_defaults_ee().may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, None)
_NAMELESS_LEAF = _LEAF.may_be_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)


@dataclass(slots=True)
class _Search:
    """The search for a path at a time: from a leaf, by the presented certificates, to an anchor.

    `allowed` bounds the signature checks; `checked` counts them.
    """

    leaf: ParsedCertificate
    presented: Sequence[ParsedCertificate]
    anchors: Anchors
    at: datetime
    allowed: int
    checked: int = 0
    exhausted: bool = False
    _above_leaf: list[ParsedCertificate] | None = field(default=None)

    @property
    def moment(self) -> datetime:
        """The time of the search. If the leaf's dates fail (a separate failure), the nearest time at which they do not."""
        certificate = self.leaf.certificate
        return min(max(self.at, certificate.not_valid_before_utc), certificate.not_valid_after_utc)

    def result(self) -> PathResult:
        """Return the path that the library finds, or the failures of the possible paths: at least one."""
        try:
            self.leaf.names  # noqa: B018  raises where there are too many
            candidates = self._on_a_way()
            if self.leaf not in self.anchors and candidates is None:
                return PathResult(self._no_way())
            self._bound_comparisons(candidates or [])
        except TooManyNames as error:
            return PathResult((Failure(Cause.BAD_CHAIN, f"the chain cannot be checked: {error}"),))
        return self._verified(candidates or [])

    def period(self) -> tuple[datetime, datetime]:
        """Return the begin and the end (exclusive) of the result's validity: no date of any certificate lies in between."""
        seen = (self.leaf, *self.presented, *self._above())
        dates = [date for each in seen for date in (each.certificate.not_valid_before_utc, _past(each.certificate))]
        begin = max((date for date in dates if date <= self.at), default=datetime.min.replace(tzinfo=self.at.tzinfo))
        return begin, min((date for date in dates if date > self.at), default=datetime.max.replace(tzinfo=self.at.tzinfo))

    # --- before any signature check ------------------------------------------------------------------------------

    def _on_a_way(self) -> list[ParsedCertificate] | None:
        """Return the presented certificates that may be between the leaf and an anchor, by their names; None: there is no way.

        Of one subject at most `NAMESAKES`, first those that are valid now.
        """
        by_subject: dict[bytes, list[ParsedCertificate]] = {}
        for each in sorted(self.presented, key=self._is_out_of_date):
            namesakes = by_subject.setdefault(each.subject, [])
            if len(namesakes) < NAMESAKES and each.unfit is None and each not in self.anchors:
                namesakes.append(each)
        reached = [self.leaf]
        for each in reached:
            reached += [above for above in by_subject.get(each.issuer, ()) if above not in reached]
        arriving = {each.subject for each in reached[1:] if self.anchors.named(each.issuer)}
        grown = True
        while grown:
            below = {each.subject for each in reached[1:] if each.issuer in arriving}
            grown = not below <= arriving
            arriving |= below
        if not self.anchors.named(self.leaf.issuer) and self.leaf.issuer not in arriving:
            return None
        return [each for each in reached[1:] if each.subject in arriving]

    def _is_out_of_date(self, each: ParsedCertificate) -> bool:
        return not each.certificate.not_valid_before_utc <= self.moment <= each.certificate.not_valid_after_utc

    def _bound_comparisons(self, candidates: Sequence[ParsedCertificate]) -> None:
        """Raise `TooManyNames` if the library would compare too many names with too many constraints."""
        above = [*candidates, *(anchor for each in (self.leaf, *candidates) for anchor in self.anchors.named(each.issuer))]
        subtrees = sum(each.subtrees for each in {id(each): each for each in above}.values())
        names = self.leaf.names + sum(each.names for each in candidates)
        if names * subtrees > NAME_COMPARISONS:
            raise TooManyNames(f"there are too many names, {names}, for {subtrees} name constraints")

    # --- by the library ------------------------------------------------------------------------------------------

    def _verified(self, candidates: Sequence[ParsedCertificate]) -> PathResult:
        if self.anchors.store is None:
            return PathResult((self._unanchored(self._above()),))
        nameless = not self.leaf.has_extension(der.SUBJECT_ALT_NAME)
        authorities = _AUTHORITIES.may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, self._count)
        builder = PolicyBuilder().store(self.anchors.store).time(self.moment).max_chain_depth(PATH_DEPTH)
        builder = builder.extension_policies(ca_policy=authorities, ee_policy=_NAMELESS_LEAF if nameless else _LEAF)
        try:
            chain = builder.build_client_verifier().verify(self.leaf.certificate, [each.certificate for each in candidates]).chain
            return PathResult((), tuple(self._parsed(chain)))
        except VerificationError as error:
            return PathResult(self._explained(str(error)))
        except (ValueError, TypeError, x509.UnsupportedGeneralNameType):  # the path is good, but not a name in the leaf
            above = (each for each in self._above() if each in self.anchors or each.unfit is None)
            return PathResult((), (self.leaf, *above), exact=False)

    def _parsed(self, chain: Sequence[x509.Certificate]) -> Iterator[ParsedCertificate]:
        """Yield the certificates of a path in their parsed form."""
        known = {each.encoded: each for each in (self.leaf, *self.presented)}
        for data in map(encoded, chain):
            yield known.get(data) or self.anchors.parsed(data)

    def _count(self, _policy: Policy, authority: x509.Certificate, usage: x509.ExtendedKeyUsage | None) -> None:
        """Check the usage of an authority (R21). The library calls this for each one, before its one signature check."""
        number = DEAR_CHECKS if _is_dear(authority) else 1
        if self.checked + number > self.allowed:
            self.exhausted = True
            raise ValueError(_TOO_COMPLICATED)
        self.checked += number
        if usage is not None and _PURPOSES.isdisjoint(usage):
            raise ValueError(_NO_USAGE)

    # --- in words ------------------------------------------------------------------------------------------------

    def _above(self) -> list[ParsedCertificate]:
        """Return every certificate that may be above the leaf, by its name and key identifier; the nearest first."""
        if self._above_leaf is None:
            found = [self.leaf]
            known = {self.leaf.encoded}
            for each in found:
                others = (other for other in self.presented if other.subject == each.issuer)
                for other in (*self.anchors.named(each.issuer), *others):
                    if other.encoded not in known and _fits(each, other):
                        known.add(other.encoded)
                        found.append(other)
            self._above_leaf = found[1:]
        return self._above_leaf

    def _is_anchored(self) -> bool:
        return any(each in self.anchors for each in (self.leaf, *self._above()))

    def _no_way(self) -> tuple[Failure, ...]:
        """Return why the names lead to no anchor. An authority that was left out may be the reason."""
        if not self._is_anchored():
            return (self._unanchored(self._above()),)
        unfit = [(each, each.unfit) for each in self._above() if each not in self.anchors]
        told = (Failure(why.cause, f"the authority {each.subject_text} is not used: {why.text}") for each, why in unfit if why)
        return tuple(told) or (Failure(Cause.BAD_CHAIN, _TOO_COMPLICATED),)

    def _explained(self, said: str) -> tuple[Failure, ...]:
        if self.exhausted:
            return (Failure(Cause.BAD_CHAIN, _TOO_COMPLICATED),)
        above = self._above()
        if not self._is_anchored():
            return (self._unanchored(above),)
        if "validation time" in said:
            dated = tuple(f for each in above for f in _dates(each, self.at, f"the authority {each.subject_text}"))
            if dated or self.moment != self.at:  # the authorities need not have been valid at the leaf's time
                return dated
        for prefix in _PREFIXES:
            said = said.removeprefix(prefix)
        cause = next((cause for words, cause in _SAID if words in said), Cause.BAD_CHAIN)
        return (Failure(cause, f"the chain is not valid: {said.partition(' (encountered')[0]}"),)

    def _unanchored(self, above: Sequence[ParsedCertificate]) -> Failure:
        self.checked += self.leaf.subject == self.leaf.issuer
        if self.leaf.self_signed:
            return Failure(Cause.SELF_SIGNED, f"the certificate is self-signed ({self.leaf.subject_text})")
        last = above[-1] if above else self.leaf
        if last.issuer == last.subject:
            return Failure(Cause.UNKNOWN_ISSUER, f"the chain ends in {last.subject_text}, which is no trusted anchor")
        return Failure(Cause.UNKNOWN_ISSUER, f"the issuer {last.issuer_text} is neither in the chain nor a trusted anchor")


def _is_dear(authority: x509.Certificate) -> bool:
    """Return whether checking a signature of `authority` takes long."""
    try:
        key = authority.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False  # then there is no check
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size > DEAR_RSA_BITS or key.public_numbers().e > DEAR_EXPONENT
    return isinstance(key, ec.EllipticCurvePublicKey) and key.key_size > EC_BITS


def _past(certificate: x509.Certificate) -> datetime:
    """Return the first moment after the last second of validity."""
    try:
        return certificate.not_valid_after_utc + _SECOND
    except OverflowError:  # 9999-12-31 23:59:59: never (RFC 5280 §4.1.2.5)
        return certificate.not_valid_after_utc


def _fits(certificate: ParsedCertificate, authority: ParsedCertificate) -> bool:
    """Return whether no key identifiers contradict each other (RFC 5280 §4.2.1.1)."""
    wanted, present = certificate.authority_key, authority.subject_key
    return wanted is None or present is None or wanted == present
