"""The secret of two servers (R26): prepared once, and the keys of RFC 5802 §3 derived once for each salt and count."""

from __future__ import annotations

import hashlib
import hmac
import stringprep
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from s2sgw.xmpp.bounded_dict import BoundedDict

Hash = Literal["sha256", "sha1"]

#: Rounds of PBKDF2 that we ask for (RFC 7677 §4 requires at least 4096).
ITERATIONS = 10_000
#: Derivations that are kept of one secret: one of ours for each hash, and one for each hash of each server with the secret.
KEPT = 16

_PROHIBITED = (
    stringprep.in_table_a1, stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3, stringprep.in_table_c4,
    stringprep.in_table_c5, stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8, stringprep.in_table_c9,
)


@dataclass(frozen=True, slots=True, repr=False)
class ScramKeys:
    """The keys of an exchange: ClientKey, StoredKey, ServerKey."""

    client: bytes
    stored: bytes
    server: bytes


class SharedSecret:
    """The secret of one peer. `salt` (random, constant for the life of the secret) and `iterations` are our choice as server."""

    def __init__(self, secret: str, salt: bytes, iterations: int = ITERATIONS) -> None:
        #: the secret after SASLprep, for a mechanism that derives nothing from it in advance
        self.text = prepare(secret)
        self._secret = self.text.encode()
        self.salt = salt
        self.iterations = iterations
        self._keys: BoundedDict[tuple[Hash, bytes, int], ScramKeys] = BoundedDict(KEPT)

    def keys(self, hash: Hash, salt: bytes, iterations: int) -> ScramKeys:
        """Return the keys for these parameters. The first time this takes `iterations` rounds of PBKDF2."""
        asked = hash, salt, iterations
        keys = self._keys.use(asked)
        if keys is None:
            keys = self._keys[asked] = self._derived(*asked)
        return keys

    def _derived(self, hash: Hash, salt: bytes, iterations: int) -> ScramKeys:
        salted = hashlib.pbkdf2_hmac(hash, self._secret, salt, iterations)
        client = hmac.digest(salted, b"Client Key", hash)
        return ScramKeys(client, hashlib.new(hash, client).digest(), hmac.digest(salted, b"Server Key", hash))


@dataclass(frozen=True, slots=True)
class StreamSecret:
    """A secret for one stream. `nonce` returns a new nonce for each exchange: printable ASCII without a comma.

    `binding` is the tls-exporter value of the stream's TLS (RFC 9266); None: there is none.
    """

    secret: SharedSecret = field(repr=False)
    nonce: Callable[[], str] = field(repr=False)
    binding: bytes | None = field(repr=False, default=None)


def prepare(text: str) -> str:
    """Return the secret after SASLprep (RFC 4013), as a query. Raises `ValueError` for a prohibited or an empty text."""
    mapped = "".join(" " if stringprep.in_table_c12(each) else each for each in text if not stringprep.in_table_b1(each))
    prepared = unicodedata.normalize("NFKC", mapped)
    if not prepared:
        raise ValueError("is empty")
    if any(prohibited(each) for each in prepared for prohibited in _PROHIBITED) or not _one_way(prepared):
        raise ValueError("holds characters that a secret cannot have (RFC 4013)")
    return prepared


def _one_way(text: str) -> bool:
    """Return whether no text from right to left is mixed with text from left to right (RFC 3454 §6)."""
    if not any(stringprep.in_table_d1(each) for each in text):
        return True
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends and not any(stringprep.in_table_d2(each) for each in text)
