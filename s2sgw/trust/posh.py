"""POSH (RFC 7711): certificates that a domain publishes in a document on its own HTTPS server (R23).

Fetching is done elsewhere, by `document_url` and `Reference`. Here the document is parsed and compared with the chain.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from s2sgw.trust.evidence import Attempt, Digests, Evidence, POSHLookup
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain

#: Bounds of a document: its size, the certificates in it, and the longest time for which it is valid.
DOCUMENT_BYTES = 65536
FINGERPRINTS = 64
LONGEST = timedelta(days=30)

_SERVICE = "xmpp-server"
#: The accepted hash functions, the strongest first. RFC 7711 §3.1 makes SHA-256 mandatory.
_HASHES: dict[str, Callable[[bytes], bytes]] = {
    "sha-512": lambda data: hashlib.sha512(data).digest(),
    "sha-384": lambda data: hashlib.sha384(data).digest(),
    "sha-256": lambda data: hashlib.sha256(data).digest(),
}


class InvalidPOSH(ValueError):
    """The document is invalid. The message has the reason."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A document that refers to another (RFC 7711 §3.2), which must not refer on. `lifetime` bounds the other's own."""

    url: str
    lifetime: timedelta


@dataclass(frozen=True, slots=True)
class Document:
    """The digests of each certificate in the document, and the time for which they are valid after the fetch."""

    fingerprints: tuple[Digests, ...]
    lifetime: timedelta

    def lookup(self, fetched: datetime, reference: Reference | None = None) -> POSHLookup:
        """Return the document as evidence. It was fetched at that time, through `reference` if there was one."""
        lifetime = min(self.lifetime, reference.lifetime) if reference else self.lifetime
        return POSHLookup(self.fingerprints, fetched + lifetime)


def document_url(domain: Domain) -> str:
    """Return the URL of a domain's document (RFC 7711 §3)."""
    return f"https://{domain.ascii}/.well-known/posh/{_SERVICE}.json"


def parse(data: bytes) -> Document | Reference:
    """Return the content of a fetched document. Raises `InvalidPOSH`."""
    if len(data) > DOCUMENT_BYTES:
        raise InvalidPOSH(f"the document is longer than {DOCUMENT_BYTES} bytes")
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidPOSH(f"the document is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidPOSH("the document is no JSON object")
    lifetime = _lifetime(document.get("expires"))
    if "fingerprints" in document:
        return Document(_fingerprints(document["fingerprints"]), lifetime)
    return Reference(checked_url(document.get("url")), lifetime)


def checked_url(url: object) -> str:
    """Return `url` if a document, or a redirect, may have it: HTTPS, a host, no password. Raises `InvalidPOSH`."""
    try:
        parts = urlsplit(url) if isinstance(url, str) and url.isascii() and url.isprintable() else None
        good = parts is not None and parts.scheme == "https" and parts.hostname and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise InvalidPOSH("the document has neither fingerprints nor an https URL")
    return str(url)


def _lifetime(expires: Any) -> timedelta:
    """Return how long a document is valid. Raises `InvalidPOSH` without `expires`, or if it is zero (RFC 7711 §6)."""
    if not isinstance(expires, int) or isinstance(expires, bool) or expires <= 0:
        raise InvalidPOSH("the document's 'expires' is no positive number of seconds")
    return timedelta(seconds=min(expires, LONGEST.total_seconds()))


def _fingerprints(listed: Any) -> tuple[Digests, ...]:
    if not isinstance(listed, list) or not 0 < len(listed) <= FINGERPRINTS:
        raise InvalidPOSH(f"the document's 'fingerprints' is no list of 1 to {FINGERPRINTS}")
    return tuple(_digests(each) for each in listed)


def _digests(listed: Any) -> Digests:
    """Return the digests of one certificate by the accepted hashes. Unknown ones are ignored."""
    if not isinstance(listed, dict):
        raise InvalidPOSH("a fingerprint is no JSON object")
    return {name: _digest(name, listed[name]) for name in _HASHES if name in listed}


def _digest(name: str, value: Any) -> bytes:
    try:
        digest = base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        digest = b""
    if len(digest) != len(_HASHES[name](b"")):
        raise InvalidPOSH(f"a fingerprint's {name} is no base64 of such a digest")
    return digest


def prove_posh(evidence: Evidence) -> Attempt:
    """Return whether the domain's document has the certificate. Its names, issuer and dates do not matter."""
    if not evidence.chain:
        return _unproven(Cause.NO_CERTIFICATE, "no certificate was presented")
    if evidence.posh is None:
        return _unproven(Cause.NOT_PROVEN, "no POSH document was looked up")
    if evidence.posh.failure:
        return _unproven(Cause.NOT_PROVEN, f"no POSH document could be had: {evidence.posh.failure}")
    if evidence.posh.expires is None or evidence.at >= evidence.posh.expires:
        return _unproven(Cause.NOT_PROVEN, "the POSH document has expired")
    presented = {name: digest(evidence.chain[0]) for name, digest in _HASHES.items()}
    if not any(_vouches(digests, presented) for digests in evidence.posh.fingerprints):
        return _unproven(Cause.NOT_PROVEN, "the POSH document does not vouch for the certificate")
    return Attempt("posh", True, reasons=("the POSH document vouches for the certificate",))


def _vouches(digests: Digests, presented: Digests) -> bool:
    """Return whether the digest by the strongest given hash matches the certificate. Weaker ones are then ignored."""
    name = next((name for name in _HASHES if name in digests), None)
    return name is not None and presented[name] == digests[name]


def _unproven(cause: Cause, reason: str) -> Attempt:
    return Attempt("posh", False, cause, (reason,), (cause,))
