"""Addresses: `Domain`, `JID` and the `Pair` of domains that authorisation speaks of (RFC 6122, RFC 7622).

Both types are made by `parse`, which refuses what is not valid, and are never checked again.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import idna

#: RFC 7622 §3.2–§3.4: a part of a JID is at most this many bytes of UTF-8.
PART_BYTES = 1023

_LDH = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
_LOCAL_FORBIDDEN = re.compile(r"[\"&'/:<>@\s\x00-\x1f\x7f-\x9f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ADDRESS_ENDS = frozenset("0123456789]")
_CACHED = 4096


class InvalidJID(ValueError):
    """A text that is no JID, or no domain; its message says which rule it breaks."""


@dataclass(frozen=True, slots=True, order=True)
class Domain:
    """A domainpart. `ascii` (A-labels, lower case) is what compares; `text` has U-labels, for people and xmppAddr."""

    ascii: str
    text: str = field(compare=False)

    @classmethod
    def parse(cls, text: str) -> Domain:
        """The domain that `text` names; raises `InvalidJID`. A trailing dot is dropped (RFC 7622 §3.2)."""
        return _parse_domain(text)

    def __str__(self) -> str:
        return self.text

    @property
    def is_address(self) -> bool:
        """An IPv4 or bracketed IPv6 literal, which names no DNS domain."""
        return _address(self.ascii) is not None

    @property
    def is_single_label(self) -> bool:
        return "." not in self.ascii

    def is_under(self, parent: Domain) -> bool:
        """A true sub-domain of `parent`."""
        return self.ascii.endswith("." + parent.ascii)


class Pair(NamedTuple):
    """A direction of authorisation: stanzas from `sender` to `recipient` (XEP-0220 §1.2)."""

    sender: Domain
    recipient: Domain

    @property
    def inverse(self) -> Pair:
        return Pair(self.recipient, self.sender)

    def __str__(self) -> str:
        return f"{self.sender.text} -> {self.recipient.text}"


@dataclass(frozen=True, slots=True)
class JID:
    """localpart@domainpart/resourcepart, the parts that are absent being None."""

    local: str | None
    domain: Domain
    resource: str | None

    @classmethod
    def parse(cls, text: str) -> JID:
        """The address `text` spells; raises `InvalidJID` (RFC 7622 §3.1)."""
        bare, slash, resource = text.partition("/")
        local, at, domain = bare.partition("@")
        if not at:
            local, domain = "", bare
        if at:
            _check_part("localpart", local)
            if _LOCAL_FORBIDDEN.search(local):
                raise InvalidJID("the localpart holds a character that RFC 7622 §3.3.1 forbids")
        if slash:
            _check_part("resourcepart", resource)
            if _CONTROL.search(resource):
                raise InvalidJID("the resourcepart holds a control character")
        return cls(local if at else None, Domain.parse(domain), resource if slash else None)

    @property
    def bare(self) -> str:
        return self.domain.text if self.local is None else f"{self.local}@{self.domain.text}"

    def __str__(self) -> str:
        return self.bare if self.resource is None else f"{self.bare}/{self.resource}"


@lru_cache(_CACHED)
def domain_of(address: str) -> Domain:
    """The domain of a stanza's `to` or `from`, the whole address being checked; raises `InvalidJID`."""
    return JID.parse(address).domain


@lru_cache(_CACHED)
def _parse_domain(text: str) -> Domain:
    if len(text) > PART_BYTES:
        raise InvalidJID("the domainpart is longer than 1023 bytes")
    name = unicodedata.normalize("NFC", text).lower().removesuffix(".")
    if not name:
        raise InvalidJID("the domainpart is empty")
    address = _address(name)
    if address:
        return Domain(address, address)
    if name.isascii():
        return _ascii_domain(name)
    try:
        return _ascii_domain(idna.encode(name, uts46=True).decode("ascii").removesuffix("."))
    except (idna.IDNAError, UnicodeError) as error:
        raise InvalidJID(f"the domainpart is no internationalised domain name: {error}") from None


def _ascii_domain(name: str) -> Domain:
    if len(name) > 253 or not all(_LDH.match(label) for label in name.split(".")):
        raise InvalidJID("the domainpart is no domain name: labels are 1-63 letters, digits and hyphens")
    if "xn--" not in name:
        return Domain(name, name)
    try:
        return Domain(name, idna.decode(name))
    except (idna.IDNAError, UnicodeError) as error:
        raise InvalidJID(f"the domainpart has a label that is no A-label: {error}") from None


def _address(name: str) -> str | None:
    """The IP address that `name` spells, in its one canonical form; an IPv6 address stands in brackets."""
    if name[-1:] not in _ADDRESS_ENDS:  # as of nearly all names, of which each stream asks several times
        return None
    try:
        if name.startswith("[") and name.endswith("]") and "%" not in name:  # a scope would be any text
            return f"[{ipaddress.IPv6Address(name[1:-1])}]"
        return str(ipaddress.IPv4Address(name))
    except ValueError:
        return None


def _check_part(part: str, text: str) -> None:
    if not text:
        raise InvalidJID(f"the {part} is empty")
    if _SURROGATE.search(text):
        raise InvalidJID(f"the {part} holds a surrogate")
    if len(text.encode()) > PART_BYTES:
        raise InvalidJID(f"the {part} is longer than 1023 bytes")
