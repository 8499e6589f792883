"""DIGEST-MD5 (RFC 2831) as a client, with qop=auth: what jabberd2's router asks of those who connect to it.

It is historic (RFC 6331), and no peer is ever offered it, or asked for it (R26, R38).
"""

from __future__ import annotations

import hashlib
import hmac
import re

MECHANISM = "DIGEST-MD5"
_DIRECTIVE = re.compile(r'\s*([a-z-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^",\s]+))\s*(?:,|\Z)', re.IGNORECASE)
_ESCAPED = re.compile(r"\\(.)")
_SPECIAL = re.compile(r'(["\\])')
#: The first use of a nonce, and the only one.
_COUNT = "00000001"


class DigestRefused(Exception):
    """The exchange makes no sense, or the other side does not know the secret."""


class DigestClient:
    """One exchange. `nonce` is fresh and not to be guessed; `uri` is "service/host"."""

    def __init__(self, user: str, secret: str, realm: str, uri: str, nonce: str) -> None:
        self._user = user
        self._secret = secret
        self._realm = realm
        self._uri = uri
        self._nonce = nonce
        self._expected: str | None = None
        self._proven = False

    def respond(self, message: bytes) -> bytes:
        """The response to a challenge; the second one only tells that they know the secret. Raises `DigestRefused`."""
        if self._expected is not None:
            self._check(message)
            return b""
        given = _directives(message)
        nonces, realms = given.get("nonce", []), given.get("realm", [])
        offered = {each.strip() for qop in given.get("qop", ["auth"]) for each in qop.split(",")}
        if len(nonces) != 1 or given.get("algorithm") != ["md5-sess"] or "auth" not in offered:
            raise DigestRefused("the challenge is not one of md5-sess with qop=auth")
        if realms and self._realm not in realms:
            raise DigestRefused(f"the realm is not {self._realm}")
        return self._response(nonces[0], "utf-8" in given.get("charset", []))

    def finish(self, message: bytes | None) -> None:
        """`<success/>` came, with this additional data; raises `DigestRefused` unless they have proven themselves."""
        if message is not None or not self._proven:
            self._check(message or b"")

    def _response(self, nonce: str, unicode: bool) -> bytes:
        secret = _md5(f"{self._user}:{self._realm}:{self._secret}")
        first = hashlib.md5(secret + f":{nonce}:{self._nonce}".encode()).hexdigest()

        def answer(method: str) -> str:
            return _md5(f"{first}:{nonce}:{_COUNT}:{self._nonce}:auth:{_md5(f'{method}:{self._uri}').hex()}").hex()

        self._expected = answer("")
        quoted = {"username": self._user, "realm": self._realm, "nonce": nonce, "cnonce": self._nonce, "digest-uri": self._uri}
        said = [f'{name}="{_quoted(value)}"' for name, value in quoted.items()]
        said += [f"nc={_COUNT}", "qop=auth", f"response={answer('AUTHENTICATE')}", *(["charset=utf-8"] if unicode else [])]
        return ",".join(said).encode()

    def _check(self, message: bytes) -> None:
        proof = _directives(message).get("rspauth", [""])[0]
        if self._expected is None or not hmac.compare_digest(proof.encode(), self._expected.encode()):
            raise DigestRefused("the other side does not prove that it knows the secret")
        self._proven = True


def _directives(message: bytes) -> dict[str, list[str]]:
    """RFC 2831 §2.1.1; raises `DigestRefused` where it is none."""
    try:
        text = message.decode()
    except UnicodeDecodeError:
        raise DigestRefused("the challenge is not UTF-8") from None
    found: dict[str, list[str]] = {}
    at = 0
    while at < len(text):
        directive = _DIRECTIVE.match(text, at)
        if directive is None:
            raise DigestRefused("the challenge is not as RFC 2831 has it")
        name, quoted, token = directive.groups()
        found.setdefault(name.lower(), []).append(_ESCAPED.sub(r"\1", quoted) if token is None else token)
        at = directive.end()
    return found


def _quoted(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def _md5(text: str) -> bytes:
    """RFC 2831 §2.1.2.1: what ISO 8859-1 can hold is hashed in it."""
    try:
        data = text.encode("iso-8859-1")
    except UnicodeEncodeError:
        data = text.encode()
    return hashlib.md5(data).digest()
