"""Whom a certificate names (R17, R18): id-on-xmppAddr, SRV-ID and dNSName of its subjectAltName, and nothing else.

`names` extracts them one by one, so that a malformed one only drops out; `matches` compares them with the domain that was
asked for through `service_identity`, to whose patterns and identifiers this adds XmppAddr (RFC 6120 §13.7.1.4).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from service_identity import CertificateError
from service_identity.hazmat import DNS_ID, SRV_ID, DNSPattern, SRVPattern

import s2sgw.trust.der as der
from s2sgw.xmpp.jid import Domain, InvalidJID

NameKind = Literal["xmppAddr", "SRV-ID", "dNSName"]

#: So many names, and so many characters of one, are put into words; a certificate may hold thousands.
NAMES_TOLD = 8
CHARACTERS_TOLD = 80

_SERVICE = "_xmpp-server"
#: id-on-xmppAddr and id-on-dnsSRV as they are encoded at the start of an otherName.
_OTHER_NAMES: dict[bytes, NameKind] = {
    bytes.fromhex("06082b06010505070805"): "xmppAddr", bytes.fromhex("06082b06010505070807"): "SRV-ID",
}
_OTHER_NAME_OID = 10
_OTHER_NAME, _DNS_NAME, _EXPLICIT = 0xA0, 0x82, 0xA0
_PERMITTED, _EXCLUDED = 0xA0, 0xA1

_DNS_SHAPE = re.compile(rb"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\Z", re.IGNORECASE)
_SRV_SHAPE = re.compile(rb"_[a-z0-9-]+\.[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class XmppAddrPattern:
    """An id-on-xmppAddr as presented: a bare domain, compared by its U-labels."""

    domain: Domain

    @classmethod
    def from_bytes(cls, value: bytes) -> XmppAddrPattern:
        """Raises `CertificateError` for what is not UTF-8, no domain, or not in the form that it is compared in."""
        try:
            text = unicodedata.normalize("NFC", value.decode("utf-8")).lower()
            domain = Domain.parse(text)
        except UnicodeDecodeError as error:
            raise CertificateError("it is not UTF-8") from error
        except InvalidJID as error:
            raise CertificateError(str(error)) from error
        if text not in (domain.text, domain.ascii):
            raise CertificateError("it is not a normalised domain name")
        return cls(domain)


@dataclass(frozen=True, slots=True)
class XmppAddr_ID:
    """The reference identifier that an id-on-xmppAddr answers to."""

    domain: Domain

    def verify(self, pattern: object) -> bool:
        """Whether `pattern` is an xmppAddr of the same domain."""
        return isinstance(pattern, XmppAddrPattern) and pattern.domain == self.domain


Pattern = XmppAddrPattern | SRVPattern | DNSPattern


class Name(NamedTuple):
    """One presented identifier, well formed: its kind, its text as it stands in the certificate, its pattern."""

    kind: NameKind
    text: str
    pattern: Pattern

    def __str__(self) -> str:
        return f"{self.kind} {self.text[:CHARACTERS_TOLD]}"

    @property
    def host(self) -> str:
        """The domain, in A-labels, that an xmppAddr or an SRV-ID is about."""
        if isinstance(self.pattern, XmppAddrPattern):
            return self.pattern.domain.ascii
        return self.text.lower().partition(".")[2]


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a certificate, and for each that dropped out what it was and why."""

    presented: tuple[Name, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def xmpp_addrs(self) -> tuple[str, ...]:
        return self._of("xmppAddr")

    @property
    def srv_ids(self) -> tuple[str, ...]:
        return self._of("SRV-ID")

    @property
    def dns_names(self) -> tuple[str, ...]:
        return self._of("dNSName")

    def _of(self, kind: NameKind) -> tuple[str, ...]:
        return tuple(name.text for name in self.presented if name.kind == kind)

    def within(self, constraints: Sequence[Constraints]) -> Names:
        """Without the names whose domain one of `constraints` does not allow (R17).

        Path validation binds dNSNames only (RFC 5280 §4.2.1.10); an authority that may not speak for a domain must not do
        so by an xmppAddr or SRV-ID either.
        """
        outside = [n for n in self.presented if n.kind != "dNSName" and not all(c.allow(n.host) for c in constraints)]
        kept = tuple(n for n in self.presented if n not in outside)
        told = tuple(f"{name} is outside the name constraints of its authority" for name in outside)
        return replace(self, presented=kept, dropped=self.dropped + told)


class Match(NamedTuple):
    """The presented identifier that matched, in words, or None and the reasons why none did."""

    name: str | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Constraints:
    """The dNSName subtrees of an authority's name constraints, lower case; `permitted` None: no limit of that kind."""

    permitted: tuple[str, ...] | None = None
    excluded: tuple[str, ...] = ()

    @classmethod
    def of(cls, certificate: bytes) -> Constraints:
        """Those of an authority's certificate in DER; unreadable ones permit nothing."""
        try:
            value = der.extension(certificate, der.NAME_CONSTRAINTS)
            trees = {} if value is None else {tree.tag: _subtrees(tree.content) for tree in der.elements(der.inside(value))}
        except ValueError:
            return cls(permitted=())
        return cls(trees.get(_PERMITTED) or None, trees.get(_EXCLUDED, ()))

    def allow(self, host: str) -> bool:
        """Whether the authority may name `host`, in A-labels."""
        permitted = self.permitted is None or any(_under(host, tree) for tree in self.permitted)
        return permitted and not any(_under(host, tree) for tree in self.excluded)


def _subtrees(content: bytes) -> tuple[str, ...]:
    bases = [der.read(subtree.content)[0] for subtree in der.elements(content)]
    return tuple(base.content.decode("ascii").lower() for base in bases if base.tag == _DNS_NAME)


def _under(host: str, tree: str) -> bool:
    """Whether `host` is `tree` or below it; the empty tree holds all, a leading dot asks for a sub-domain."""
    return not tree or host == tree or host.endswith("." + tree.removeprefix("."))


def names(leaf: bytes) -> Names:
    """What the subjectAltName of a certificate in DER presents. A common name is nothing. Never fails."""
    presented: list[Name] = []
    dropped: list[str] = []
    try:
        for name in der.elements(der.inside(der.extension(leaf, der.SUBJECT_ALT_NAME) or b"\x30\x00")):
            _take(name, presented, dropped)
    except ValueError as error:
        dropped.append(f"the subjectAltName is malformed: {error}")
    return Names(tuple(presented), tuple(dropped))


def _take(element: der.Element, presented: list[Name], dropped: list[str]) -> None:
    """Adds what one GeneralName says to either list; kinds that name no XMPP domain are passed over."""
    kind, value = _kind(element)
    if kind is None:
        return
    try:
        presented.append(Name(kind, *_READERS[kind](value)))
    except (CertificateError, ValueError) as error:
        if len(dropped) < NAMES_TOLD:
            dropped.append(f"{kind} {ascii(value[:CHARACTERS_TOLD])[2:-1]} is malformed: {error}")


def _kind(element: der.Element) -> tuple[NameKind | None, bytes]:
    """What a GeneralName is, and its value; of an otherName what follows its type."""
    if element.tag == _DNS_NAME:
        return "dNSName", element.content
    kind = next((k for oid, k in _OTHER_NAMES.items() if element.content.startswith(oid)), None)
    if element.tag != _OTHER_NAME or kind is None:
        return None, b""
    return kind, element.content[_OTHER_NAME_OID:]


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
    """Whether one of the names is `domain`, in the order of RFC 6120 §13.7.1.2.1: xmppAddr, SRV-ID, dNSName.

    With `insist_on_xmpp_addr` a certificate that has an xmppAddr is judged by those alone.
    """
    candidates = [n for n in presented.presented if n.kind == "xmppAddr"] if insist_on_xmpp_addr else []
    candidates = candidates or list(presented.presented)
    for identifier in _identifiers(domain):
        for name in candidates:
            if identifier(name.pattern):
                return Match(str(name), ())
    return Match(None, (*_account(candidates, domain), *presented.dropped))


def matches_host(presented: Names, host: str) -> Match:
    """Whether a dNSName is `host`, an SRV target that DNSSEC secured (R13); no other kind of name speaks of hosts."""
    try:
        domain = Domain.parse(host)
    except InvalidJID as error:
        return Match(None, (f"the target is no host name: {error}",))
    return matches(replace(presented, presented=tuple(n for n in presented.presented if n.kind == "dNSName")), domain)


def _identifiers(domain: Domain) -> Iterator[Callable[[object], bool]]:
    yield XmppAddr_ID(domain).verify
    try:
        yield SRV_ID(f"{_SERVICE}.{domain.ascii}").verify  # type: ignore[misc]
        yield DNS_ID(domain.ascii).verify  # type: ignore[misc]
    except ValueError:  # an address: no DNS name
        return


def _account(candidates: Sequence[Name], domain: Domain) -> Iterable[str]:
    if not candidates:
        return (f"the certificate names no XMPP domain, but {domain.text} was asked for; a common name does not count",)
    told = ", ".join(map(str, candidates[:NAMES_TOLD]))
    more = f" and {len(candidates) - NAMES_TOLD} more" if len(candidates) > NAMES_TOLD else ""
    return (f"the certificate names {told}{more}, but not {domain.text}",)
