"""Addresses: `Domain`, `JID` and `Pair`, the two domains that are authorized together (RFC 6122, RFC 7622).

The types are made by `parse`, which refuses invalid text, and are never checked again. Stanzas pass on unchanged, so a domain is
accepted as a U-label only if every server reads it alike (docs/conformance.md).
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from s2sgw.xmpp.errors import AmbiguousAddress, RemoteFault, StreamCondition
from s2sgw.xmpp.idna_labels import NAME_BYTES, PREFIX, InvalidLabel, a_label, mapped, reads_alike, u_label

#: RFC 7622 §3.2–§3.4: a part of a JID is at most this many bytes of UTF-8.
PART_BYTES = 1023

_LDH = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
#: Names and IPv4 addresses without capital letters. Each is its own canonical form, unless `PREFIX` is in it.
_PLAIN = re.compile(r"(?:(?!-)[a-z0-9_-]{1,63}(?<!-)\.)*(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
_LOCAL_FORBIDDEN = re.compile(r"[\"&'/:<>@\s\x00-\x1f\x7f-\x9f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ADDRESS_ENDS = frozenset("0123456789]")
#: Names that are kept, and names of strangers' claims.
_CACHED = 4096
_CLAIMED = 256
_NO_NAME = "the domainpart is no domain name: labels are 1-63 letters, digits and hyphens"


class InvalidJID(ValueError):
    """The text is no JID, or no domain. The message names the broken rule."""

    def fault(self, what: str) -> RemoteFault:
        """Return the stream error for it. `what` is invalid."""
        return RemoteFault(StreamCondition.IMPROPER_ADDRESSING, f"{what}: {self}")


class AmbiguousDomain(InvalidJID):
    """A domain whose present spelling servers read in two ways. The message has the spelling to use."""

    def fault(self, what: str) -> RemoteFault:
        """Return the stream error for it. `what` is invalid."""
        return AmbiguousAddress(f"{what}: {self}")


@dataclass(frozen=True, slots=True, order=True)
class Domain:
    """A domainpart. `ascii` (A-labels, lower case) is compared.

    `text` is for people and for our own headers: in U-labels, or in A-labels if servers would read the U-labels in two ways.
    """

    ascii: str
    text: str = field(compare=False)

    @classmethod
    def parse(cls, text: str) -> Domain:
        """Return the domain that `text` means to every server. Raises `InvalidJID`, or `AmbiguousDomain` if servers differ.

        A trailing dot is dropped (RFC 7622 §3.2).
        """
        return _parse_domain(text)

    @classmethod
    def claimed(cls, text: str) -> Domain:
        """Do as `parse`, for a text of a stranger. It removes no other name from memory."""
        return _claimed_domain(text)

    @classmethod
    def registered(cls, text: str) -> Domain:
        """Return the domain in `text` by IDNA 2008, for a certificate or a list, which we do not pass on to another server."""
        return _registered_domain(text)

    def __hash__(self) -> int:
        """Return the hash of `ascii`. A pair is looked up many times for each stanza."""
        return hash(self.ascii)

    def __str__(self) -> str:
        return self.text

    @property
    def is_address(self) -> bool:
        """Whether it is an IPv4 or bracketed IPv6 literal, which is no DNS domain."""
        return self.ascii[-1] in _ADDRESS_ENDS and _address(self.ascii) is not None

    @property
    def is_single_label(self) -> bool:
        """Whether it has no dot."""
        return "." not in self.ascii


class Pair(NamedTuple):
    """The unit of authorization: stanzas from `sender` to `recipient` (XEP-0220 §1.2)."""

    sender: Domain
    recipient: Domain

    @property
    def inverse(self) -> Pair:
        return Pair(self.recipient, self.sender)

    def __str__(self) -> str:
        return f"{self.sender.text} -> {self.recipient.text}"


@dataclass(frozen=True, slots=True)
class JID:
    """An address localpart@domainpart/resourcepart. An absent part is None."""

    local: str | None
    domain: Domain
    resource: str | None

    @classmethod
    def parse(cls, text: str) -> JID:
        """Return the address in `text`. Raises `InvalidJID` (RFC 7622 §3.1)."""
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
    """Return the domain of a stanza's `to` or `from`, after a check of the whole address. Raises `InvalidJID`."""
    return JID.parse(address).domain


@lru_cache(_CACHED)
def _parse_domain(text: str) -> Domain:
    return _parsed(text)


@lru_cache(_CLAIMED)
def _claimed_domain(text: str) -> Domain:
    return _parsed(text)


def _parsed(text: str) -> Domain:
    if len(text) <= NAME_BYTES and _PLAIN.match(text) and PREFIX not in text:
        return Domain(text, text)
    domain, meant = _read(_composed(text))
    if not text.isascii() and not _reads_alike(text.removesuffix("."), meant):  # as written: composing maps some characters
        raise AmbiguousDomain(f"servers read the domainpart in two ways (IDNA 2003 and IDNA 2008): write it as {domain.ascii}")
    return domain


@lru_cache(_CACHED)
def _registered_domain(text: str) -> Domain:
    return _read(_composed(text))[0]


def _composed(text: str) -> str:
    """Return the text composed, and without a trailing dot."""
    if len(text) > PART_BYTES:
        raise InvalidJID("the domainpart is longer than 1023 bytes")
    name = unicodedata.normalize("NFC", text).removesuffix(".")
    if len(name) > NAME_BYTES:  # no character takes less than a byte of an A-label
        raise InvalidJID("the domainpart is longer than a domain name")
    return name


def _read(name: str) -> tuple[Domain, str]:
    """Return the domain of a name by IDNA 2008, and its U-labels."""
    lower = name.lower()
    if not lower:
        raise InvalidJID("the domainpart is empty")
    address = _address(lower)
    if address:
        return Domain(address, address), address
    try:
        labels = lower.split(".") if lower.isascii() else mapped(name).removesuffix(".").split(".")
        ascii_name = ".".join(label if label.isascii() else a_label(label) for label in labels)
        if len(ascii_name) > NAME_BYTES or not all(map(_LDH.match, ascii_name.split("."))):
            raise InvalidJID(_NO_NAME)
        meant = ".".join(map(_u_label, labels))
    except InvalidLabel as error:
        raise InvalidJID(f"the domainpart is no internationalised domain name: {error}") from None
    return Domain(ascii_name, meant if meant == ascii_name or _reads_alike(meant, meant) else ascii_name), meant


def _u_label(label: str) -> str:
    return u_label(label) if label.startswith(PREFIX) else label


def _reads_alike(name: str, meant: str) -> bool:
    """Return whether nameprep reads each label of a name as IDNA 2008 does. Nameprep has only the ASCII dot."""
    labels, others = name.split("."), meant.split(".")
    return len(labels) == len(others) and all(map(_label_reads_alike, labels, others))


def _label_reads_alike(label: str, meant: str) -> bool:
    return label.lower() == meant if label.isascii() else reads_alike(label, meant)


def u_labels(ascii_name: str) -> str:
    """Return a domain in U-labels by IDNA 2008, the form in an xmppAddr (RFC 6120 §13.7.1.4)."""
    return ".".join(map(_u_label, ascii_name.split(".")))


def _address(name: str) -> str | None:
    """Return the IP address in `name`, in its canonical form (IPv6 in brackets), or None."""
    if name[-1:] not in _ADDRESS_ENDS:  # nearly all names end here; each stream needs this several times
        return None
    try:
        if name.startswith("[") and name.endswith("]") and "%" not in name:  # a scope could be any text
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


def is_internationalised(text: str) -> bool:
    """Return whether a text that may be a domain is expensive to parse: it has characters beyond ASCII, or A-labels."""
    return not text.isascii() or PREFIX in text.lower()


def spelling(text: str) -> str:
    """Return a text for comparing the spellings of a domain at little cost: different results mean different domains.

    Equal results may still mean different domains: `Domain.parse` decides.
    """
    if text.isascii():
        return text.removesuffix(".").lower()
    if len(text) > PART_BYTES:
        return text  # no domain; the time for composing grows with the square of the length
    return unicodedata.normalize("NFKC", text).removesuffix(".").casefold()
