"""The names in a certificate (R17, R18): id-on-xmppAddr, SRV-ID and dNSName of its subjectAltName, and nothing else.

`names` reads them one by one, so that only a malformed one is left out. `matches` compares them with the requested domain by
`service_identity`, to whose patterns and identifiers this adds XmppAddr (RFC 6120 §13.7.1.4).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from service_identity import CertificateError
from service_identity.hazmat import DNS_ID, SRV_ID, DNSPattern, SRVPattern

import s2sgw.trust.der as der
from s2sgw.trust.name_bounds import TooManyNames, alternative_names, subtrees
from s2sgw.trust.parsed import ParsedCertificate
from s2sgw.xmpp.jid import PART_BYTES, Domain, InvalidJID, u_labels

NameKind = Literal["xmppAddr", "SRV-ID", "dNSName"]

#: The most names, and characters of one, in a text. A certificate may have thousands.
NAMES_TOLD = 8
CHARACTERS_TOLD = 80

#: The longest xmppAddr with its two frames. A longer one is no domain.
XMPP_ADDR_BYTES = PART_BYTES + 16

#: Reference identifiers that are kept.
_IDENTIFIERS = 256
_SERVICE = "_xmpp-server"
#: The encodings of id-on-xmppAddr and id-on-dnsSRV at the start of an otherName.
_OTHER_NAMES: dict[bytes, NameKind] = {
    bytes.fromhex("06082b06010505070805"): "xmppAddr", bytes.fromhex("06082b06010505070807"): "SRV-ID",
}
_OTHER_NAME_OID = 10
_OTHER_NAME, _DNS_NAME, _EXPLICIT = 0xA0, 0x82, 0xA0

_DNS_SHAPE = re.compile(rb"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\Z", re.IGNORECASE)
_SRV_SHAPE = re.compile(rb"_[a-z0-9-]+\.[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class XmppAddrPattern:
    """A presented id-on-xmppAddr: a bare domain, compared by its U-labels."""

    domain: Domain

    @classmethod
    def from_bytes(cls, value: bytes) -> XmppAddrPattern:
        """Return the pattern. Raises `CertificateError` if the text is not UTF-8, no domain, or not normalised."""
        if len(value) > PART_BYTES:
            raise CertificateError("it is longer than a domain name")
        text = _normalised(value)
        try:
            domain = Domain.registered(text)
        except InvalidJID as error:
            raise CertificateError(str(error)) from error
        if text not in (domain.ascii, u_labels(domain.ascii)):
            raise CertificateError("it is not a normalised domain name")
        return cls(domain)


def _normalised(value: bytes) -> str:
    """Return an xmppAddr composed and in lower case. Raises `CertificateError` if it is not UTF-8."""
    try:
        return unicodedata.normalize("NFC", value.decode("utf-8")).lower()
    except UnicodeDecodeError as error:
        raise CertificateError("it is not UTF-8") from error


@dataclass(frozen=True, slots=True)
class XmppAddr_ID:
    """The reference identifier for an id-on-xmppAddr."""

    domain: Domain

    def verify(self, pattern: object) -> bool:
        """Return whether `pattern` is an xmppAddr of the same domain."""
        return isinstance(pattern, XmppAddrPattern) and pattern.domain == self.domain


Pattern = XmppAddrPattern | SRVPattern | DNSPattern


@dataclass(frozen=True, slots=True)
class Constraints:
    """The dNSName subtrees of an authority's name constraints, in lower case. `permitted` None: no limit of that kind."""

    permitted: tuple[str, ...] | None = None
    excluded: tuple[str, ...] = ()

    @classmethod
    def of(cls, certificate: bytes | ParsedCertificate) -> Constraints:
        """Return those of an authority's certificate (DER, or parsed); unreadable ones, and too many, permit nothing."""
        trees: dict[bool, list[str]] = {False: [], True: []}
        try:
            value = _extension(certificate, der.NAME_CONSTRAINTS)
            for excluded, found in subtrees(value) if value is not None else ():
                base = der.span(value or b"", found.content, found.end)
                if base.tag == _DNS_NAME:
                    trees[excluded].append((value or b"")[base.content : base.end].decode("ascii").lower())
        except ValueError:
            return cls(permitted=())
        return cls(tuple(trees[False]) or None, tuple(trees[True]))

    def allow(self, host: str) -> bool:
        """Return whether the authority may name `host`, in A-labels."""
        permitted = self.permitted is None or any(_under(host, tree) for tree in self.permitted)
        return permitted and not any(_under(host, tree) for tree in self.excluded)


def _under(host: str, tree: str) -> bool:
    """Return whether `host` is `tree` or below it. The empty tree has all hosts; a leading dot requires a sub-domain."""
    return not tree or host == tree or host.endswith("." + tree.removeprefix("."))


class Name(NamedTuple):
    """One presented identifier, well formed: its kind, its text in the certificate, its pattern."""

    kind: NameKind
    text: str
    pattern: Pattern

    def __str__(self) -> str:
        return f"{self.kind} {self.text[:CHARACTERS_TOLD]}"

    @property
    def host(self) -> str:
        """Return the domain, in A-labels, of an xmppAddr or an SRV-ID."""
        if isinstance(self.pattern, XmppAddrPattern):
            return self.pattern.domain.ascii
        return self.text.lower().partition(".")[2]


class RawName(NamedTuple):
    """One presented identifier in its encoding; of an otherName the part after its type. It may be malformed."""

    kind: NameKind
    value: bytes

    def read(self) -> Name:
        """Return the name. Raises `CertificateError` or `ValueError` if it is malformed."""
        return Name(self.kind, *_READERS[self.kind](self.value))


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a certificate that may be those of an XMPP domain; `faults` has the faults of the list itself.

    A peer may present a thousand names. `matches` parses those that look like the requested domain, and a few for the text. The
    properties parse all; they are for certificates of our own.
    """

    raw: tuple[RawName, ...] = ()
    faults: tuple[str, ...] = ()
    constraints: tuple[Constraints, ...] = ()

    def read(self, most: int | None = None) -> tuple[list[Name], list[str]]:
        """Return the first `most` names (None: all), well formed and permitted, and each of the others with the reason."""
        presented: list[Name] = []
        dropped: list[str] = []
        for raw in self.raw[:most]:
            try:
                name = raw.read()
            except (CertificateError, ValueError) as error:
                if len(dropped) < NAMES_TOLD:
                    dropped.append(f"{raw.kind} {ascii(raw.value[:CHARACTERS_TOLD])[2:-1]} is malformed: {error}")
                continue
            if raw.kind == "dNSName" or self.allow(name.host):
                presented.append(name)
            elif len(dropped) < NAMES_TOLD:
                dropped.append(f"{name} is outside the name constraints of its authority")
        return presented, dropped

    def allow(self, host: str) -> bool:
        """Return whether the authorities may name `host` (in A-labels) by an xmppAddr or an SRV-ID."""
        return all(each.allow(host) for each in self.constraints)

    def of_kind(self, kind: NameKind) -> Names:
        """Return the names of one kind only."""
        return replace(self, raw=tuple(raw for raw in self.raw if raw.kind == kind))

    @property
    def presented(self) -> tuple[Name, ...]:
        """Return all names that are well formed and permitted."""
        return tuple(self.read()[0])

    @property
    def dropped(self) -> tuple[str, ...]:
        """Return the other names, with the reasons; of many a few."""
        return (*self.read()[1], *self.faults)

    def within(self, constraints: Sequence[Constraints]) -> Names:
        """Return the names without those whose domain one of `constraints` does not allow (R17).

        Path validation applies constraints to dNSNames only (RFC 5280 §4.2.1.10). An authority that may not name a domain must
        not do so by an xmppAddr or SRV-ID either.
        """
        return replace(self, constraints=(*self.constraints, *constraints))


class Match(NamedTuple):
    """The presented identifier that matched, in words, or None and the reasons."""

    name: str | None
    reasons: tuple[str, ...]


def names(leaf: bytes | ParsedCertificate) -> Names:
    """Return what the subjectAltName of a certificate (DER, or parsed) presents. A common name is nothing. Never fails."""
    found: list[RawName] = []
    try:
        value = _extension(leaf, der.SUBJECT_ALT_NAME)
        for span in alternative_names(value) if value is not None else ():
            raw = _raw(span.tag, (value or b"")[span.content : span.end])
            if raw is not None:
                found.append(raw)
    except TooManyNames as error:
        return Names(faults=(f"the certificate names nobody: {error}",))
    except ValueError as error:
        return Names(tuple(found), (f"the subjectAltName is malformed: {error}",))
    return Names(tuple(found))


def _extension(certificate: bytes | ParsedCertificate, oid: bytes) -> bytes | None:
    """Return the value of an extension, or None. Raises `ValueError` where it is there twice, or one cannot be read."""
    return der.extension(certificate, oid) if isinstance(certificate, bytes) else certificate.extension(oid)


def _raw(tag: int, content: bytes) -> RawName | None:
    """Return the identifier in a GeneralName; None: its kind names no XMPP domain."""
    if tag == _DNS_NAME:
        return RawName("dNSName", content)
    kind = _OTHER_NAMES.get(content[:_OTHER_NAME_OID]) if tag == _OTHER_NAME else None
    return None if kind is None else RawName(kind, content[_OTHER_NAME_OID:])


def _read_xmpp_addr(value: bytes) -> tuple[str, XmppAddrPattern]:
    content = _string(value, der.UTF8_STRING, "UTF8String")
    pattern = XmppAddrPattern.from_bytes(content)
    return content.decode("utf-8"), pattern


def _read_srv_id(value: bytes) -> tuple[str, SRVPattern]:
    content = _string(value, der.IA5_STRING, "IA5String")
    if not _SRV_SHAPE.match(content):
        raise CertificateError("it is not _service.domain")
    return content.decode("ascii"), SRVPattern.from_bytes(content)


def _read_dns_name(value: bytes) -> tuple[str, DNSPattern]:
    if not _DNS_SHAPE.match(value):
        raise CertificateError("it is no DNS name, with a wildcard at most as its whole left-most label")
    return value.decode("ascii"), DNSPattern.from_bytes(value)


def _string(value: bytes, tag: int, name: str) -> bytes:
    element, rest = der.read(der.inside(value, _EXPLICIT))
    if rest or element.tag != tag:
        raise CertificateError(f"it is no {name}")
    return element.content


_READERS: dict[NameKind, Callable[[bytes], tuple[str, Pattern]]] = {
    "xmppAddr": _read_xmpp_addr, "SRV-ID": _read_srv_id, "dNSName": _read_dns_name,
}


def matches(presented: Names, domain: Domain, *, insist_on_xmpp_addr: bool = False) -> Match:
    """Return whether one of the names is `domain`, in the order of RFC 6120 §13.7.1.2.1: xmppAddr, SRV-ID, dNSName.

    With `insist_on_xmpp_addr` a certificate with an xmppAddr is judged by its xmppAddrs alone.
    """
    if insist_on_xmpp_addr:
        only = presented.of_kind("xmppAddr")
        presented = only if len(only.raw) > NAMES_TOLD or only.read()[0] else presented
    bound = not presented.allow(domain.ascii)
    for identifier in _identifiers(domain):
        if bound and identifier.kind != "dNSName":  # path validation checks those
            continue
        for raw in presented.raw:
            if raw.kind == identifier.kind and identifier.may_be(raw.value):
                name = _verified(raw, identifier)
                if name is not None:
                    return Match(str(name), ())
    told, dropped = presented.read(NAMES_TOLD)
    return Match(None, (_account(told, len(presented.raw), domain), *dropped, *presented.faults))


def _verified(raw: RawName, identifier: _Identifier) -> Name | None:
    """Return a name whose bytes look like the domain, or None where it is malformed, or of another domain."""
    try:
        name = raw.read()
        return name if identifier.verify(name.pattern) else None
    except (CertificateError, ValueError):
        return None


def matches_host(presented: Names, host: str) -> Match:
    """Return whether a dNSName is `host`, an SRV target that DNSSEC secured (R13). Other kinds of names have no hosts."""
    try:
        domain = Domain.registered(host)
    except InvalidJID as error:
        return Match(None, (f"the target is no host name: {error}",))
    return matches(presented.of_kind("dNSName"), domain)


class _Identifier(NamedTuple):
    """The domain asked for as one kind of name: a cheap test of the bytes, and the check of the pattern by `service_identity`.

    `verify` raises `ValueError` where the domain is an address, which has no name of that kind.
    """

    kind: NameKind
    may_be: Callable[[bytes], bool]
    verify: Callable[[Any], bool]


def _identifiers(domain: Domain) -> Iterator[_Identifier]:
    """Yield the reference identifiers of `domain`, in the order of the search."""
    spelled = {domain.ascii, u_labels(domain.ascii)}
    yield _Identifier("xmppAddr", lambda value: _xmpp_addr(value) in spelled, XmppAddr_ID(domain).verify)
    host = domain.ascii.encode()
    service, hosts = f"{_SERVICE}.{domain.ascii}".encode(), {host, b"*." + host.partition(b".")[2]}
    yield _Identifier(
        "SRV-ID", lambda value: value[-len(service) :].lower() == service,
        lambda pattern: _srv_id(service.decode()).verify(pattern),
    )
    yield _Identifier("dNSName", lambda value: value.lower() in hosts, lambda pattern: _dns_id(domain.ascii).verify(pattern))


@lru_cache(_IDENTIFIERS)
def _srv_id(name: str) -> SRV_ID:
    return SRV_ID(name)


@lru_cache(_IDENTIFIERS)
def _dns_id(name: str) -> DNS_ID:
    return DNS_ID(name)


def _xmpp_addr(value: bytes) -> str | None:
    """Return the value of an xmppAddr in the form for comparison; None: it is malformed."""
    if len(value) > XMPP_ADDR_BYTES:
        return None
    try:
        return _normalised(_string(value, der.UTF8_STRING, "UTF8String"))
    except (CertificateError, ValueError):
        return None


def _account(told: Sequence[Name], number: int, domain: Domain) -> str:
    """Return the text about other names in the certificate. `number` is how many names it has, good or malformed."""
    if not told:
        return f"the certificate names no XMPP domain, but {domain.text} was asked for; a common name does not count"
    more = f" and {number - NAMES_TOLD} more" if number > NAMES_TOLD else ""
    return f"the certificate names {', '.join(map(str, told))}{more}, but not {domain.text}"
