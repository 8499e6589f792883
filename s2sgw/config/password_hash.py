"""Hashes of the console users' passwords in the configuration (RFC 7914): `scrypt:N:r:p:SALT:HASH`, the last two in base64."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from dataclasses import dataclass, field

#: The cost of new hashes: some 60 ms and 32 MiB.
COST, BLOCK, PARALLEL = 1 << 15, 8, 1
#: The possible costs of a hash. Each attempt to log in takes that cost.
LEAST_COST, MOST_COST = 1 << 14, 1 << 17
MOST_BLOCK, MOST_PARALLEL = 16, 4
MOST_MEMORY = 128 * 1024 * 1024
SALT_BYTES = 16
HASH_BYTES = 32
#: Bytes of a password.
LEAST_PASSWORD, MOST_PASSWORD = 8, 1024

_NUMBER = re.compile("[1-9][0-9]{0,6}")


class PasswordUnusable(ValueError):
    """A password that is too short or too long."""


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """The hash of one password."""

    cost: int
    block: int
    parallel: int
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, password: str) -> PasswordHash:
        """Return the hash of a new password. Raises `PasswordUnusable`."""
        data = password.encode()
        if not LEAST_PASSWORD <= len(data) <= MOST_PASSWORD:
            raise PasswordUnusable(f"a password has {LEAST_PASSWORD} to {MOST_PASSWORD} bytes")
        salt = os.urandom(SALT_BYTES)
        return cls(COST, BLOCK, PARALLEL, salt, _scrypt(data, salt, COST, BLOCK, PARALLEL))

    @classmethod
    def parse(cls, text: object) -> PasswordHash:
        """Return the hash in a text. Raises `ValueError`, which says what to write."""
        parts = text.split(":") if isinstance(text, str) else []
        if len(parts) != 6 or parts[0] != "scrypt" or not all(map(_NUMBER.fullmatch, parts[1:4])):
            raise ValueError('must be a hash that "s2sgw console password" prints')
        cost, block, parallel = map(int, parts[1:4])
        if cost & (cost - 1) or not LEAST_COST <= cost <= MOST_COST:
            raise ValueError(f"the cost of a hash is a power of 2 from {LEAST_COST} to {MOST_COST}")
        if block > MOST_BLOCK or parallel > MOST_PARALLEL or 128 * block * (cost + parallel) > MOST_MEMORY:
            raise ValueError("the hash asks for too much memory or time")
        try:
            salt, digest = (base64.b64decode(part, validate=True) for part in parts[4:])
        except (binascii.Error, ValueError):
            raise ValueError("the salt and the hash must be base64") from None
        if not 8 <= len(salt) <= 64 or len(digest) != HASH_BYTES:
            raise ValueError("the salt or the hash has the wrong length")
        return cls(cost, block, parallel, salt, digest)

    def matches(self, password: str) -> bool:
        """Return whether this is the hash of `password`. This takes long, so call it in another thread."""
        data = password.encode("utf-8", "surrogatepass")[:MOST_PASSWORD]
        return hmac.compare_digest(self.digest, _scrypt(data, self.salt, self.cost, self.block, self.parallel))

    def text(self) -> str:
        """Return the hash in the configuration's form."""
        salt, digest = (base64.b64encode(each).decode("ascii") for each in (self.salt, self.digest))
        return f"scrypt:{self.cost}:{self.block}:{self.parallel}:{salt}:{digest}"

    def __str__(self) -> str:
        """Return a short text for the audit log. It distinguishes two hashes, and does not help to guess a password."""
        return f"a scrypt hash ({hashlib.sha256(self.salt + self.digest).hexdigest()[:8]})"


def _scrypt(password: bytes, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=cost, r=block, p=parallel, maxmem=MOST_MEMORY * 2, dklen=HASH_BYTES)
