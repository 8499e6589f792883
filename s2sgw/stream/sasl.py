"""SASL between servers (RFC 6120 §6): its elements, and the mechanisms as rows of two tables, one for each role.

A mechanism is an exchange. The receiving side takes messages and returns the answers; the initiating side makes the messages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from s2sgw.sasl import canonical_base64
from s2sgw.sasl.digest_md5 import DigestClient, DigestRefused, DigestServer
from s2sgw.sasl.scram import BINDING, VARIANTS, ScramClient, ScramRefused, ScramServer, Variant
from s2sgw.sasl.scram_secret import StreamSecret
from s2sgw.stream.events import Permission
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.errors import RemoteFault, StreamCondition
from s2sgw.xmpp.jid import Domain, InvalidJID, Pair
from s2sgw.xmpp.mechanisms import BY_SECRET, LEGACY, MECHANISMS, Mechanism
from s2sgw.xmpp.namespaces import SASL, XML

#: Failures on one stream after which the receiving side closes it (R25; RFC 6120 §6.4.5 recommends 2 to 5).
FAILURES = 3

AUTH = f"{SASL}}}auth"
RESPONSE = f"{SASL}}}response"
ABORT = f"{SASL}}}abort"
SUCCESS = f"{SASL}}}success"


#: The variants of SCRAM that are bound to the TLS they run in.
BOUND = tuple(variant for variant in VARIANTS if variant.bound)


def _usable(variant: Variant, secret: StreamSecret | None) -> bool:
    return secret is not None and (secret.binding is not None or not variant.bound)


class SASLCondition(StrEnum):
    """The conditions of RFC 6120 §6.5 that are used here."""

    ABORTED = "aborted"
    ENCRYPTION_REQUIRED = "encryption-required"
    INCORRECT_ENCODING = "incorrect-encoding"
    INVALID_AUTHZID = "invalid-authzid"
    INVALID_MECHANISM = "invalid-mechanism"
    MALFORMED_REQUEST = "malformed-request"
    NOT_AUTHORIZED = "not-authorized"


class SASLRefused(Exception):
    """Authentication failed: the content of `<failure/>`."""

    def __init__(self, condition: SASLCondition, text: str) -> None:
        super().__init__(f"{condition}: {text}")
        self.condition = condition
        self.text = text


# --- messages --------------------------------------------------------------------------------------------------------


def decode(text: str) -> bytes | None:
    """Return the message of an element. None: there is none; `=` is an empty one (RFC 6120 §6.4.2). Raises `SASLRefused`."""
    if text in ("", "="):
        return b"" if text else None
    data = canonical_base64.decode(text)
    if data is None:
        raise SASLRefused(SASLCondition.INCORRECT_ENCODING, "the message is not encoded in canonical base64")
    return data


def encode(message: bytes | None) -> str:
    """Return the text of a message: the inverse of `decode`."""
    if not message:
        return "" if message is None else "="
    return canonical_base64.encode(message)


def auth(mechanism: str, message: bytes | None) -> Element:
    """Return `<auth/>`, which begins. For the initiating side."""
    return Element("auth", SASL, {"mechanism": mechanism}, text=encode(message))


def challenge(message: bytes) -> Element:
    """Return `<challenge/>`. An empty challenge has no text (RFC 6120 §6.4.3). For the receiving side."""
    return Element("challenge", SASL, text=encode(message or None))


def response(message: bytes) -> Element:
    """Return the `<response/>` to a challenge. For the initiating side."""
    return Element("response", SASL, text=encode(message))


def abort() -> Element:
    """Return `<abort/>` (RFC 6120 §6.4.4). For the initiating side."""
    return Element("abort", SASL)


def success(message: bytes | None = None) -> Element:
    """Return `<success/>` with the mechanism's additional data. For the receiving side."""
    return Element("success", SASL, text=encode(message))


def failure(refused: SASLRefused) -> Element:
    """Return `<failure/>` with the reason. For the receiving side."""
    text = Element("text", SASL, {f"{XML}}}lang": "en"}, text=refused.text)
    return Element("failure", SASL, children=[Element(str(refused.condition), SASL), text])


def read_failure(element: Element) -> str:
    """Return the content of a received `<failure/>`, in one line."""
    names = [child.name for child in element.children if child.namespace == SASL and child.name != "text"]
    text = element.child(SASL, "text")
    return ": ".join([*names[:1], *([text.text] if text else [])])


def read_challenge(element: Element) -> bytes | None:
    """Return the message of a `<challenge/>` or a `<success/>`. Raises `RemoteFault` if it is malformed."""
    try:
        return decode(element.text)
    except SASLRefused as why:
        raise RemoteFault(StreamCondition.BAD_FORMAT, f"<{element.name}/>: {why.text}") from None


# --- receiving -------------------------------------------------------------------------------------------------------


class ServerExchange(Protocol):
    """The receiving side of one authentication. `conclusion` is the content of `<success/>`."""

    conclusion: bytes | None

    def step(self, message: bytes | None) -> bytes | None:
        """Return the challenge that answers `message`. None: authenticated. Raises `SASLRefused`."""


class ExternalServer:
    """EXTERNAL (XEP-0178): the certificate has proven `peer`. The authorization identity may be `peer`, or empty (R24)."""

    conclusion: bytes | None = None

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
            return Domain.claimed(identity.decode()) == self._peer
        except (InvalidJID, UnicodeDecodeError):
            return False


class SecretServer(ScramServer):
    """SCRAM (R26) as an exchange of SASL."""

    def step(self, message: bytes | None) -> bytes | None:
        try:
            return super().step(message)
        except ScramRefused as why:
            raise SASLRefused(SASLCondition(why.condition), why.text) from None


class LegacyServer(DigestServer):
    """DIGEST-MD5 (R26) as an exchange of SASL."""

    def step(self, message: bytes | None) -> bytes | None:
        try:
            return super().step(message)
        except DigestRefused as why:
            raise SASLRefused(SASLCondition(why.condition), why.text) from None


class ServerMechanism(NamedTuple):
    """A row: the name, the condition of the offer (the mechanism can succeed), and its exchange for the asserted pair."""

    name: Mechanism
    offered: Callable[[Permission], bool]
    exchange: Callable[[Pair, Permission], ServerExchange]


def _secret_server(variant: Variant) -> ServerMechanism:
    def exchange(pair: Pair, permission: Permission) -> ServerExchange:
        assert permission.secret is not None  # otherwise it is not offered
        return SecretServer(variant, pair.sender, permission.secret)

    return ServerMechanism(variant.name, _bound_offered if variant.bound else _secret_offered, exchange)


def _external_offered(permission: Permission) -> bool:
    return permission.external


def _external_server(pair: Pair, permission: Permission) -> ServerExchange:
    return ExternalServer(pair.sender)


def _secret_offered(permission: Permission) -> bool:
    return permission.secret is not None


def _bound_offered(permission: Permission) -> bool:
    return permission.secret is not None and permission.secret.binding is not None


def _legacy_server(pair: Pair, permission: Permission) -> ServerExchange:
    assert permission.secret is not None  # otherwise it is not offered
    return LegacyServer(pair.sender, permission.secret.secret.text, pair.recipient, permission.secret.nonce())


SERVER_MECHANISMS = {
    row.name: row for row in (
        ServerMechanism("EXTERNAL", _external_offered, _external_server),
        *map(_secret_server, VARIANTS),
        ServerMechanism(LEGACY, _secret_offered, _legacy_server),
    )
}


def offered(permission: Permission) -> list[ServerMechanism]:
    """Return the mechanisms that are offered, in the order of the policy, and the legacy one last."""
    names = [name for name in permission.mechanisms if SERVER_MECHANISMS[name].offered(permission)]
    return [SERVER_MECHANISMS[name] for name in _legacy_last(names)]


def _legacy_last(names: Sequence[Mechanism]) -> list[Mechanism]:
    return sorted(names, key=LEGACY.__eq__)


# --- initiating ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Means:
    """The means by which we can authenticate: our domain, whether we presented its certificate, and the shared secret.

    `peer`: the domain that the stream was opened to. `mutual`: only a mechanism that proves the peer too may be used. `offered`:
    the mechanisms that the peer announces. `bindings`: the types of channel binding that it announces (XEP-0440); None: it
    announces none. `mechanisms`: those that the policy allows, the preferred ones first.
    """

    local: Domain
    external: bool
    secret: StreamSecret | None = None
    mutual: bool = False
    offered: tuple[str, ...] = ()
    bindings: tuple[str, ...] | None = None
    mechanisms: tuple[Mechanism, ...] = MECHANISMS
    peer: Domain | None = None

    def uses(self, variant: Variant) -> bool:
        """Return whether to use that variant of SCRAM. A variant without binding can be relayed, so it is the last choice."""
        if not _usable(variant, self.secret) or (variant.bound and not self._binds):
            return False
        return variant.bound or not (self.mutual or self._could_bind)

    @property
    def _could_bind(self) -> bool:
        names = set(self.offered).intersection(self.mechanisms)
        return any(each.name in names and self.uses(each) for each in BOUND)

    @property
    def _binds(self) -> bool:
        return self.bindings is None or BINDING in self.bindings


class ClientExchange(Protocol):
    """The initiating side of one authentication."""

    def start(self) -> bytes | None:
        """Return the initial response."""

    def respond(self, message: bytes | None) -> bytes:
        """Return the response to a challenge. Raises `RemoteFault` if it is malformed, `SASLRefused` if we give up."""

    def finish(self, message: bytes | None) -> None:
        """Take `<success/>`. Raises `SASLRefused` if the other side had to prove itself and did not."""


class ExternalClient:
    """EXTERNAL: our domain is the authorization identity, also if it is not requested (R24)."""

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

    def finish(self, message: bytes | None) -> None:
        """Do nothing: EXTERNAL adds nothing."""


class SecretClient(ScramClient):
    """SCRAM (R26) as an exchange of SASL."""

    def respond(self, message: bytes | None) -> bytes:
        try:
            return super().respond(message)
        except ScramRefused as why:
            raise SASLRefused(SASLCondition(why.condition), why.text) from None

    def finish(self, message: bytes | None) -> None:
        try:
            super().finish(message)
        except ScramRefused as why:
            raise SASLRefused(SASLCondition(why.condition), why.text) from None


class LegacyClient(DigestClient):
    """DIGEST-MD5 (R26) as an exchange of SASL: we are `local`, and the other side is the server of `peer`."""

    def __init__(self, local: Domain, peer: Domain, secret: StreamSecret) -> None:
        super().__init__(local.ascii, secret.secret.text, peer.ascii, f"xmpp/{peer.ascii}", secret.nonce())

    def respond(self, message: bytes | None) -> bytes:
        try:
            return super().respond(message)
        except DigestRefused as why:
            raise SASLRefused(SASLCondition(why.condition), why.text) from None

    def finish(self, message: bytes | None) -> None:
        try:
            super().finish(message)
        except DigestRefused as why:
            raise SASLRefused(SASLCondition(why.condition), why.text) from None


class ClientMechanism(NamedTuple):
    """A row: the name, its needs, and its exchange."""

    name: Mechanism
    usable: Callable[[Means], bool]
    exchange: Callable[[Means], ClientExchange]


def _secret_client(variant: Variant) -> ClientMechanism:
    def exchange(means: Means) -> ClientExchange:
        assert means.secret is not None  # otherwise it is not usable
        return SecretClient(variant, means.local, means.secret, means.offered)

    def usable(means: Means) -> bool:
        return means.uses(variant)

    return ClientMechanism(variant.name, usable, exchange)


def _external_usable(means: Means) -> bool:
    return means.external and not means.mutual


def _legacy_usable(means: Means) -> bool:
    return means.secret is not None and means.peer is not None and not means.mutual


def _legacy_client(means: Means) -> ClientExchange:
    assert means.secret is not None  # otherwise it is not usable
    assert means.peer is not None
    return LegacyClient(means.local, means.peer, means.secret)


CLIENT_MECHANISMS = {
    row.name: row for row in (
        ClientMechanism("EXTERNAL", _external_usable, ExternalClient),
        *map(_secret_client, VARIANTS),
        ClientMechanism(LEGACY, _legacy_usable, _legacy_client),
    )
}


def choose(means: Means) -> list[ClientMechanism]:
    """Return the offered mechanisms that are worth a try, the best first, each once, which bounds the retries (R25).

    Of those that need the secret only the best is tried: a secret that is wrong for one is wrong for all.
    """
    rows = [CLIENT_MECHANISMS[name] for name in _legacy_last(means.mechanisms) if name in means.offered]
    usable = [row for row in rows if row.usable(means)]
    by_secret = [row for row in usable if row.name in BY_SECRET]
    return [row for row in usable if row not in by_secret[1:]]
