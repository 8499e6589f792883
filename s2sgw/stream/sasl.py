"""SASL between servers (RFC 6120 §6): its elements, and the mechanisms as rows of two tables, one for each role.

A mechanism is an exchange: the receiving one is given messages and says what to answer, the initiating one makes them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from s2sgw.stream.events import Method, Permission
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.errors import RemoteFault, StreamCondition
from s2sgw.xmpp.jid import Domain, InvalidJID
from s2sgw.xmpp.namespaces import SASL, XML

#: After so many failures on one stream the receiving side closes it (R25, RFC 6120 §6.4.5 recommends 2 to 5).
FAILURES = 3

AUTH = f"{SASL}}}auth"
RESPONSE = f"{SASL}}}response"
ABORT = f"{SASL}}}abort"
SUCCESS = f"{SASL}}}success"


class SASLCondition(StrEnum):
    """RFC 6120 §6.5, as far as we have use for them."""

    ABORTED = "aborted"
    ENCRYPTION_REQUIRED = "encryption-required"
    INCORRECT_ENCODING = "incorrect-encoding"
    INVALID_AUTHZID = "invalid-authzid"
    INVALID_MECHANISM = "invalid-mechanism"


class SASLRefused(Exception):
    """Authentication failed: what `<failure/>` says."""

    def __init__(self, condition: SASLCondition, text: str) -> None:
        super().__init__(f"{condition}: {text}")
        self.condition = condition
        self.text = text


# --- messages --------------------------------------------------------------------------------------------------------


def decode(text: str) -> bytes | None:
    """The message that an element carries; None: none at all, `=`: an empty one (RFC 6120 §6.4.2). Raises `SASLRefused`."""
    if text in ("", "="):
        return b"" if text else None
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if base64.b64encode(data).decode() != text:
        raise SASLRefused(SASLCondition.INCORRECT_ENCODING, "the message is not encoded in canonical base64")
    return data


def encode(message: bytes | None) -> str:
    """The inverse of `decode`."""
    if not message:
        return "" if message is None else "="
    return base64.b64encode(message).decode()


def auth(mechanism: str, message: bytes | None) -> Element:
    """Initiating: begin."""
    return Element("auth", SASL, {"mechanism": mechanism}, text=encode(message))


def challenge(message: bytes) -> Element:
    """Receiving: ask on. An empty challenge has no text (RFC 6120 §6.4.3)."""
    return Element("challenge", SASL, text=encode(message or None))


def response(message: bytes) -> Element:
    """Initiating: answer a challenge."""
    return Element("response", SASL, text=encode(message))


def success() -> Element:
    """Receiving: authenticated. No mechanism of ours has anything to add."""
    return Element("success", SASL)


def failure(refused: SASLRefused) -> Element:
    """Receiving: not authenticated, and why."""
    text = Element("text", SASL, {f"{XML}}}lang": "en"}, text=refused.text)
    return Element("failure", SASL, children=[Element(str(refused.condition), SASL), text])


def read_failure(element: Element) -> str:
    """What a received `<failure/>` says, in one line."""
    names = [child.name for child in element.children if child.namespace == SASL and child.name != "text"]
    text = element.child(SASL, "text")
    return ": ".join([*names[:1], *([text.text] if text else [])])


def read_challenge(element: Element) -> bytes | None:
    """The message of a `<challenge/>`; raises `RemoteFault` where it is none."""
    try:
        return decode(element.text)
    except SASLRefused as why:
        raise RemoteFault(StreamCondition.BAD_FORMAT, f"<challenge/>: {why.text}") from None


# --- receiving -------------------------------------------------------------------------------------------------------


class ServerExchange(Protocol):
    """The receiving side of one authentication."""

    def step(self, message: bytes | None) -> bytes | None:
        """The challenge that answers `message`, or None: authenticated. Raises `SASLRefused`."""


class ExternalServer:
    """EXTERNAL (XEP-0178): the certificate has proven `peer`; the authorization identity may be that, or nothing (R24)."""

    def __init__(self, peer: Domain) -> None:
        self._peer = peer

    def step(self, message: bytes | None) -> bytes | None:
        if message is None:
            return b""
        if message and not self._is_peer(message):
            text = f"the authorization identity is not the stream's `from`, {self._peer}"
            raise SASLRefused(SASLCondition.INVALID_AUTHZID, text)
        return None

    def _is_peer(self, identity: bytes) -> bool:
        try:
            return Domain.parse(identity.decode()) == self._peer
        except (InvalidJID, UnicodeDecodeError):
            return False


class ServerMechanism(NamedTuple):
    """A row: the name, when it would succeed and so is offered (decision 5), and its exchange with the asserted peer."""

    name: Method
    offered: Callable[[Permission], bool]
    exchange: Callable[[Domain], ServerExchange]


SERVER_MECHANISMS = (
    ServerMechanism("EXTERNAL", lambda permission: permission.external, ExternalServer),
)


def offered(permission: Permission) -> list[ServerMechanism]:
    """The mechanisms that are offered, best first."""
    return [mechanism for mechanism in SERVER_MECHANISMS if mechanism.offered(permission)]


# --- initiating ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Means:
    """By what we can authenticate: our domain, and whether we presented a certificate for it."""

    local: Domain
    external: bool


class ClientExchange(Protocol):
    """The initiating side of one authentication."""

    def start(self) -> bytes | None:
        """The initial response."""

    def respond(self, message: bytes | None) -> bytes:
        """The response to a challenge. Raises `RemoteFault` where it makes no sense."""


class ExternalClient:
    """EXTERNAL: our domain is the authorization identity, whether it is asked for or not (R24)."""

    def __init__(self, means: Means) -> None:
        self._identity = means.local.text.encode()
        self._asked = False

    def start(self) -> bytes | None:
        return self._identity

    def respond(self, message: bytes | None) -> bytes:
        if self._asked:
            raise RemoteFault(StreamCondition.UNSUPPORTED_STANZA_TYPE, "a second <challenge/> in SASL EXTERNAL")
        self._asked = True
        return self._identity


class ClientMechanism(NamedTuple):
    """A row: the name, what it needs, and its exchange."""

    name: Method
    usable: Callable[[Means], bool]
    exchange: Callable[[Means], ClientExchange]


CLIENT_MECHANISMS = (
    ClientMechanism("EXTERNAL", lambda means: means.external, ExternalClient),
)


def choose(names: Collection[str], means: Means) -> list[ClientMechanism]:
    """The mechanisms worth trying of those the other side offers, best first: each once, which bounds the retries (R25)."""
    return [mechanism for mechanism in CLIENT_MECHANISMS if mechanism.name in names and mechanism.usable(means)]
