"""Pins: the SHA-256 of a key that an operator approved, or a first use (R20)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

import s2sgw.trust.der as der

PREFIX = "sha256:"

_HEX = re.compile(r"[0-9a-fA-F]{64}\Z")
_SIZE = 32


class InvalidFingerprint(ValueError):
    """The text is no fingerprint. The message shows a valid form."""


@dataclass(frozen=True, slots=True, order=True)
class Fingerprint:
    """The SHA-256 of a SubjectPublicKeyInfo in DER. It stays valid when the certificate is renewed with the same key."""

    digest: bytes

    @classmethod
    def of(cls, certificate: bytes) -> Fingerprint:
        """Return the fingerprint of the key of a certificate in DER. Raises `ValueError` if it cannot be parsed."""
        return cls(hashlib.sha256(der.fields(certificate).public_key_info).digest())

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """Return the fingerprint in a text: `sha256:` and 64 hexadecimal digits (with or without colons), or base64.

        Raises `InvalidFingerprint`.
        """
        kind, _, value = text.strip().partition(":")
        digest = _digest(value.strip()) if kind.lower() + ":" == PREFIX else None
        if digest is None:
            raise InvalidFingerprint(
                f"{text[:80]!r} is no fingerprint: write {PREFIX} and the key's SHA-256 in 64 hexadecimal digits or in base64"
            )
        return cls(digest)

    def __str__(self) -> str:
        return PREFIX + self.digest.hex()


def _digest(value: str) -> bytes | None:
    digits = value.replace(":", "")
    if _HEX.match(digits):
        return bytes.fromhex(digits)
    try:
        digest = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest if len(digest) == _SIZE else None
