"""SCRAM (RFC 5802, RFC 7677) between servers, both sides of one exchange: messages in, messages out.

The user name is the initiating side's domain. Channel binding is tls-exporter alone (RFC 9266).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from s2sgw.sasl import canonical_base64
from s2sgw.sasl.scram_secret import Hash, ScramKeys, StreamSecret
from s2sgw.xmpp.jid import Domain, InvalidJID

ScramName = Literal["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-1"]
#: Conditions of `<failure/>` (RFC 6120 §6.5) for an exchange that failed.
Condition = Literal["incorrect-encoding", "invalid-authzid", "malformed-request", "not-authorized"]

BINDING = "tls-exporter"
#: Rounds that a server may ask for: fewer make the secret easy to guess (RFC 7677 §4), more take too much time.
LEAST_ITERATIONS, MOST_ITERATIONS = 4096, 100_000
#: The most characters of a nonce, both parts together.
NONCE_CHARACTERS = 512

_FIRST = re.compile(r"(n|y|p=([A-Za-z0-9.-]+)),(?:a=([^,]+))?,(n=([^,]+),r=([^,]+)(?:,[A-Za-z]=[^,]+)*)\Z")
_FINAL = re.compile(r"(c=([^,]+),r=([^,]+)(?:,[A-Za-z]=[^,]+)*),p=([^,]+)\Z")
_SERVER_FIRST = re.compile(r"r=([^,]+),s=([^,]+),i=([1-9][0-9]{0,8})(?:,[A-Za-z]=[^,]+)*\Z")
_SERVER_FINAL = re.compile(r"([ve])=([^,]+)(?:,[A-Za-z]=[^,]+)*\Z")
_NONCE = re.compile(r"[!-+\--~]+\Z")  # printable ASCII but the comma


class ScramRefused(Exception):
    """The exchange failed: the other side did not prove that it has the secret, or violated the protocol."""

    def __init__(self, condition: Condition, text: str) -> None:
        super().__init__(f"{condition}: {text}")
        self.condition = condition
        self.text = text


@dataclass(frozen=True, slots=True)
class Variant:
    """One mechanism. `bound`: with channel binding (-PLUS)."""

    name: ScramName
    hash: Hash
    bound: bool

    def proof(self, keys: ScramKeys, message: bytes) -> bytes:
        """Return the ClientProof over AuthMessage (RFC 5802 §3)."""
        return _xor(keys.client, hmac.digest(keys.stored, message, self.hash))

    def proves(self, proof: bytes, keys: ScramKeys, message: bytes) -> bool:
        """Return whether `proof` was made with the client key whose hash we have."""
        client = _xor(proof, hmac.digest(keys.stored, message, self.hash))
        return hmac.compare_digest(hashlib.new(self.hash, client).digest(), keys.stored)

    def verifier(self, keys: ScramKeys, message: bytes) -> bytes:
        """Return the ServerSignature over AuthMessage."""
        return hmac.digest(keys.server, message, self.hash)


#: Best first.
VARIANTS = (
    Variant("SCRAM-SHA-256-PLUS", "sha256", True),
    Variant("SCRAM-SHA-1-PLUS", "sha1", True),
    Variant("SCRAM-SHA-256", "sha256", False),
    Variant("SCRAM-SHA-1", "sha1", False),
)


# --- receiving -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Begun:
    """The facts with which the client's last message is checked."""

    gs2: bytes
    nonce: str
    messages: str  # client-first-message-bare, server-first-message


class ScramServer:
    """The receiving side: it checks whether the other side, which claims to be `peer`, has the secret."""

    def __init__(self, variant: Variant, peer: Domain, secret: StreamSecret) -> None:
        self._variant = variant
        self._peer = peer
        self._secret = secret
        self._begun: _Begun | None = None
        #: the verifier, once the other side is authenticated: additional data of `<success/>`
        self.conclusion: bytes | None = None

    def step(self, message: bytes | None) -> bytes | None:
        """Return the challenge in answer to `message`, or None after success. Raises `ScramRefused`."""
        if message is None:
            return b""
        if self._begun is None:
            return self._begin(_text(message))
        self._finish(self._begun, _text(message))
        return None

    def _begin(self, message: str) -> bytes:
        found = _FIRST.match(message)
        if found is None:
            raise ScramRefused("malformed-request", "the first message is not as RFC 5802 has it, or asks for an extension")
        flag, binding, identity, bare, user, nonce = found.groups()
        self._check_binding(flag, binding)
        if identity is not None and not _names(identity, self._peer):
            raise ScramRefused("invalid-authzid", f"the authorization identity is not the stream's `from`, {self._peer}")
        if not _names(user, self._peer):
            raise ScramRefused("not-authorized", f"the user name is not the stream's `from`, {self._peer}")
        _check_nonce(nonce)
        secret = self._secret.secret
        nonce += self._secret.nonce()
        answer = f"r={nonce},s={canonical_base64.encode(secret.salt)},i={secret.iterations}"
        self._begun = _Begun(message[:len(message) - len(bare)].encode(), nonce, f"{bare},{answer}")
        return answer.encode()

    def _check_binding(self, flag: str, binding: str | None) -> None:
        """Check the flag for channel binding (RFC 5802 §6) against the mechanism and our offer. Raises `ScramRefused`."""
        if binding is not None and binding != BINDING:
            raise ScramRefused("malformed-request", f"channel binding is {BINDING} here, not {binding}")
        if (binding is not None) != self._variant.bound:
            raise ScramRefused("malformed-request", f"the channel binding flag does not fit {self._variant.name}")
        if flag == "y" and self._secret.binding is not None:
            text = "channel binding was offered here, but you did not see the offer: somebody may have changed it on the way"
            raise ScramRefused("not-authorized", text)

    def _finish(self, begun: _Begun, message: str) -> None:
        found = _FINAL.match(message)
        if found is None:
            raise ScramRefused("malformed-request", "the last message is not as RFC 5802 has it")
        without_proof, bound, nonce, proof = found.groups()
        keys = self._secret.secret.keys(self._variant.hash, self._secret.secret.salt, self._secret.secret.iterations)
        said = f"{begun.messages},{without_proof}".encode()
        sound = hmac.compare_digest(_decoded(bound), begun.gs2 + _bound(self._variant, self._secret))
        same = hmac.compare_digest(nonce.encode(), begun.nonce.encode())
        if not (self._variant.proves(_decoded(proof), keys, said) & sound & same):
            text = "the proof is not of this secret" if sound and same else "the nonce or the channel binding is another"
            raise ScramRefused("not-authorized", text)
        self.conclusion = f"v={canonical_base64.encode(self._variant.verifier(keys, said))}".encode()


# --- initiating ------------------------------------------------------------------------------------------------------


class ScramClient:
    """The initiating side, which is `local`. The other side is authenticated if `finish` does not raise."""

    def __init__(self, variant: Variant, local: Domain, secret: StreamSecret, offered: Collection[str]) -> None:
        self._variant = variant
        self._secret = secret
        self._gs2 = f"{_flag(variant, secret, offered)},,"
        self._nonce = secret.nonce()
        self._bare = f"n={local.text},r={self._nonce}"
        self._verifier: bytes | None = None
        self._proven = False

    def start(self) -> bytes:
        """Return the initial response."""
        return f"{self._gs2}{self._bare}".encode()

    def respond(self, message: bytes | None) -> bytes:
        """Return the response to a challenge. Raises `ScramRefused` if it is not valid, or the other side lacks the secret."""
        if self._verifier is not None:
            self._check(message)
            return b""
        found = _SERVER_FIRST.match(_text(message or b""))
        if found is None:
            raise ScramRefused("malformed-request", "the challenge is not as RFC 5802 has it, or asks for an extension")
        nonce, salt, iterations = found[1], _decoded(found[2]), int(found[3])
        _check_nonce(nonce)
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise ScramRefused("not-authorized", "the challenge has not our nonce with theirs behind it")
        if not LEAST_ITERATIONS <= iterations <= MOST_ITERATIONS:
            text = f"{iterations} iterations are asked for; from {LEAST_ITERATIONS} to {MOST_ITERATIONS} are made here"
            raise ScramRefused("not-authorized", text)
        return self._proof(found[0], nonce, self._secret.secret.keys(self._variant.hash, salt, iterations))

    def _proof(self, challenge: str, nonce: str, keys: ScramKeys) -> bytes:
        bound = canonical_base64.encode(self._gs2.encode() + _bound(self._variant, self._secret))
        without_proof = f"c={bound},r={nonce}"
        said = f"{self._bare},{challenge},{without_proof}".encode()
        self._verifier = self._variant.verifier(keys, said)
        return f"{without_proof},p={canonical_base64.encode(self._variant.proof(keys, said))}".encode()

    def finish(self, message: bytes | None) -> None:
        """Check the additional data of `<success/>`. Raises `ScramRefused` if the other side did not prove itself."""
        if message is not None or not self._proven:
            self._check(message)

    def _check(self, message: bytes | None) -> None:
        found = _SERVER_FINAL.match(_text(message or b""))
        if found is None or self._verifier is None or self._proven:
            raise ScramRefused("not-authorized", "the other side has not proven that it has the secret")
        if found[1] == "e":
            raise ScramRefused("not-authorized", f"the other side says {found[2][:100]}")
        if not hmac.compare_digest(_decoded(found[2]), self._verifier):
            raise ScramRefused("not-authorized", "the other side's proof is not of this secret")
        self._proven = True


def _flag(variant: Variant, secret: StreamSecret, offered: Collection[str]) -> str:
    """Return the flag (RFC 5802 §6): "y": we support channel binding and it was not offered; "n": we cannot use it."""
    if variant.bound:
        return f"p={BINDING}"
    plus = any(each.bound and each.name in offered for each in VARIANTS)
    return "n" if secret.binding is None or plus else "y"


# --- both ------------------------------------------------------------------------------------------------------------


def _bound(variant: Variant, secret: StreamSecret) -> bytes:
    return (secret.binding or b"") if variant.bound else b""


def _text(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise ScramRefused("malformed-request", "the message is not UTF-8") from None


def _names(name: str, domain: Domain) -> bool:
    try:
        return Domain.parse(name) == domain
    except InvalidJID:
        return False


def _check_nonce(nonce: str) -> None:
    if len(nonce) > NONCE_CHARACTERS or not _NONCE.match(nonce):
        raise ScramRefused("malformed-request", f"a nonce is printable ASCII, at most {NONCE_CHARACTERS} characters of it")


def _decoded(text: str) -> bytes:
    data = canonical_base64.decode(text)
    if data is None:
        raise ScramRefused("incorrect-encoding", "a value is not encoded in canonical base64")
    return data


def _xor(one: bytes, other: bytes) -> bytes:
    """Return the exclusive or, in the length of `other`. A proof of another length is not valid."""
    if len(one) != len(other):
        return b""
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
