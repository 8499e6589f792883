"""DIGEST-MD5 (RFC 2831) with qop=auth, both sides of one exchange: messages in, messages out.

The mechanism is historic (RFC 6331). jabberd2's router requires it from its clients. Between servers it is used only if the
policy for a peer names it, under TLS, and after every other mechanism (R26, R38). Subsequent authentication (RFC 2831 §2.2) is
not supported: each nonce is for one exchange.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Literal

from s2sgw.xmpp.jid import Domain, InvalidJID

MECHANISM = "DIGEST-MD5"
#: The conditions of `<failure/>` (RFC 6120 §6.5) for a failed exchange.
DigestCondition = Literal["invalid-authzid", "malformed-request", "not-authorized"]

#: The most bytes of a message (RFC 2831 §2.1.1 and §2.1.2 allow 2048 and 4096).
MESSAGE_BYTES = 4096
_DIRECTIVE = re.compile(r'\s*([a-z-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^",\s]+))\s*(?:,|\Z)', re.IGNORECASE | re.ASCII)
_ESCAPED = re.compile(r"\\(.)")
_SPECIAL = re.compile(r'(["\\])')
#: The first use of a nonce, and the only one.
_COUNT = "00000001"
#: The directives that a response may have, each once. Others are ignored (RFC 2831 §2.1.2, auth-param).
_REQUIRED = ("username", "realm", "nonce", "cnonce", "nc", "digest-uri", "response")
_OF_RESPONSE = (*_REQUIRED, "qop", "charset", "authzid")


class DigestRefused(Exception):
    """The exchange is invalid, or the other side does not have the secret."""

    def __init__(self, text: str, condition: DigestCondition = "not-authorized") -> None:
        super().__init__(text)
        self.condition = condition
        self.text = text


class DigestClient:
    """One exchange. `nonce` is new and unguessable; `uri` is "service/host"."""

    def __init__(self, user: str, secret: str, realm: str, uri: str, nonce: str) -> None:
        self._user = user
        self._secret = secret
        self._realm = realm
        self._uri = uri
        self._nonce = nonce
        self._expected: str | None = None
        self._proven = False

    def start(self) -> bytes | None:
        """Return None: the other side begins (RFC 2831 §2.1)."""
        return None

    def respond(self, message: bytes | None) -> bytes:
        """Return the response to a challenge.

        The second challenge only proves that they have the secret. Raises `DigestRefused`.
        """
        if self._expected is not None:
            self._check(message or b"")
            return b""
        given = _directives(message or b"")
        nonces, realms = given.get("nonce", []), given.get("realm", [])
        offered = {each.strip() for qop in given.get("qop", ["auth"]) for each in qop.split(",")}
        if len(nonces) != 1 or given.get("algorithm") != ["md5-sess"] or "auth" not in offered:
            raise DigestRefused("the challenge is not one of md5-sess with qop=auth", "malformed-request")
        if realms and self._realm not in realms:
            raise DigestRefused(f"the realm is not {self._realm}")
        return self._response(nonces[0], "utf-8" in given.get("charset", []))

    def finish(self, message: bytes | None) -> None:
        """Take `<success/>` with this additional data. Raises `DigestRefused` unless they have proven themselves."""
        if message is not None or not self._proven:
            self._check(message or b"")

    def _response(self, nonce: str, unicode: bool) -> bytes:
        secret = _hashed_secret(self._user, self._realm, self._secret)
        self._expected = _digest(secret, nonce, self._nonce, self._uri, "")
        quoted = {"username": self._user, "realm": self._realm, "nonce": nonce, "cnonce": self._nonce, "digest-uri": self._uri}
        said = [f'{name}="{_quoted(value)}"' for name, value in quoted.items()]
        proof = _digest(secret, nonce, self._nonce, self._uri, "AUTHENTICATE")
        said += [f"nc={_COUNT}", "qop=auth", f"response={proof}", *(["charset=utf-8"] if unicode else [])]
        return ",".join(said).encode()

    def _check(self, message: bytes) -> None:
        proof = _directives(message).get("rspauth", [""])[0]
        if self._expected is None or not hmac.compare_digest(proof.encode(), self._expected.encode()):
            raise DigestRefused("the other side does not prove that it knows the secret")
        self._proven = True


class DigestServer:
    """The receiving side of one exchange: it checks whether the other end, which claims to be `peer`, has the secret.

    `realm` is the domain of the stream. `nonce` is new, unguessable, and for this exchange only.
    """

    def __init__(self, peer: Domain, secret: str, realm: Domain, nonce: str, service: str = "xmpp") -> None:
        self._peer = peer
        self._secret = secret
        self._realm = realm
        self._nonce = nonce
        self._service = service
        self._asked = False
        self._answered = False
        #: the content of `<success/>`: nothing, since the last challenge has the proof (RFC 3920 §6.5)
        self.conclusion: bytes | None = None

    def step(self, message: bytes | None) -> bytes | None:
        """Return the challenge in answer to `message`; None: authenticated. Raises `DigestRefused`."""
        if not self._asked:
            return self._challenge(message)
        if not self._answered:
            return self._proof(message or b"")
        if message:
            raise DigestRefused("nothing is to be said to the last challenge", "malformed-request")
        return None

    def _challenge(self, message: bytes | None) -> bytes:
        if message:
            raise DigestRefused("DIGEST-MD5 has no initial response here", "malformed-request")
        self._asked = True
        return f'realm="{self._realm.ascii}",nonce="{self._nonce}",qop="auth",charset=utf-8,algorithm=md5-sess'.encode()

    def _proof(self, message: bytes) -> bytes:
        """Return the proof that we have the secret too, if `message` proves that the other side does."""
        given = _response_directives(message)
        self._check(given)
        secret = _hashed_secret(given["username"], given["realm"], self._secret)
        authzid = given.get("authzid")
        expected, ours = (
            _digest(secret, self._nonce, given["cnonce"], given["digest-uri"], method, authzid) for method in ("AUTHENTICATE", "")
        )
        if not hmac.compare_digest(given["response"].encode(), expected.encode()):
            raise DigestRefused("the response is not of this secret")
        self._answered = True
        return f"rspauth={ours}".encode()

    def _check(self, given: dict[str, str]) -> None:
        """Check everything but the response itself (RFC 2831 §2.1.2)."""
        missing = [name for name in _REQUIRED if not given.get(name)]
        if missing:
            raise DigestRefused(f"the response has no {missing[0]}", "malformed-request")
        if given.get("qop", "auth") != "auth":
            raise DigestRefused("the quality of protection is auth here, TLS does the rest", "malformed-request")
        if given.get("charset", "utf-8") != "utf-8":
            raise DigestRefused("the charset is utf-8, or is not named", "malformed-request")
        if given["nc"] != _COUNT or not hmac.compare_digest(given["nonce"].encode(), self._nonce.encode()):
            raise DigestRefused("the nonce is not the one of this exchange, or is used again")
        if not _names(given["username"], self._peer):
            raise DigestRefused(f"the user name is not the stream's `from`, {self._peer}")
        if given["realm"] != self._realm.ascii:
            raise DigestRefused(f"the realm is not {self._realm.ascii}")
        service, _, host = given["digest-uri"].partition("/")
        if service.lower() != self._service or not _names(host, self._realm):
            raise DigestRefused(f"the digest-uri is not {self._service}/{self._realm.ascii}")
        if "authzid" in given and not _names(given["authzid"], self._peer):
            raise DigestRefused(f"the authorization identity is not the stream's `from`, {self._peer}", "invalid-authzid")


def _names(name: str, domain: Domain) -> bool:
    try:
        return Domain.parse(name) == domain
    except InvalidJID:
        return False


def _response_directives(message: bytes) -> dict[str, str]:
    """Return the directives of a client's response. Raises `DigestRefused` if one occurs twice.

    Without a charset the text is ISO 8859-1 (RFC 2831 §2.1.2).
    """
    given = _directives(message, "iso-8859-1")
    if "charset" in given:
        given = _directives(message)
    found = {}
    for name in _OF_RESPONSE:
        values = given.get(name, [])
        if len(values) > 1:
            raise DigestRefused(f"the response has {name} twice", "malformed-request")
        if values:
            found[name] = values[0]
    return found


def _directives(message: bytes, charset: Literal["utf-8", "iso-8859-1"] = "utf-8") -> dict[str, list[str]]:
    """Parse directives (RFC 2831 §2.1.1). Raises `DigestRefused` for an invalid message."""
    if len(message) > MESSAGE_BYTES:
        raise DigestRefused(f"the message has more than {MESSAGE_BYTES} bytes", "malformed-request")
    try:
        text = message.decode(charset)
    except UnicodeDecodeError:
        raise DigestRefused("the message is not UTF-8", "malformed-request") from None
    found: dict[str, list[str]] = {}
    at = 0
    while at < len(text):
        directive = _DIRECTIVE.match(text, at)
        if directive is None:
            raise DigestRefused("the message is not as RFC 2831 has it", "malformed-request")
        name, quoted, token = directive.groups()
        found.setdefault(name.lower(), []).append(_ESCAPED.sub(r"\1", quoted) if token is None else token)
        at = directive.end()
    return found


def _quoted(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def _hashed_secret(user: str, realm: str, secret: str) -> bytes:
    """Return H({username:realm:passwd}). A name or secret that fits ISO 8859-1 is hashed in it (RFC 2831 §2.1.2.1)."""
    return hashlib.md5(b":".join((_narrowed(user), realm.encode(), _narrowed(secret)))).digest()


def _narrowed(text: str) -> bytes:
    try:
        return text.encode("iso-8859-1")
    except UnicodeEncodeError:
        return text.encode()


def _digest(secret: bytes, nonce: str, client_nonce: str, uri: str, method: str, authzid: str | None = None) -> str:
    """Return the response-value (RFC 2831 §2.1.2.1). `method` is "" for the server's (§2.1.3)."""
    identity = "" if authzid is None else f":{authzid}"
    first = hashlib.md5(secret + f":{nonce}:{client_nonce}{identity}".encode()).hexdigest()
    second = hashlib.md5(f"{method}:{uri}".encode()).hexdigest()
    return hashlib.md5(f"{first}:{nonce}:{_COUNT}:{client_nonce}:auth:{second}".encode()).hexdigest()
