"""The gateway's own certificates: a credential is a chain with its private key."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

PrivateKey = EllipticCurvePrivateKey | RSAPrivateKey | Ed25519PrivateKey | Ed448PrivateKey


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate chain (DER, leaf first) and its key. `name` is its file's, or the domain it was minted for."""

    name: str
    chain: tuple[bytes, ...]
    key: PrivateKey = field(repr=False, compare=False)
    not_after: datetime
    fingerprint: str = field(init=False, compare=False)  # SHA-256 of the whole chain, in hexadecimal

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", hashlib.sha256(b"".join(self.chain)).hexdigest())
