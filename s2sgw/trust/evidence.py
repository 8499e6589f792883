"""What was observed of a peer, and what each way to prove it made of that. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain

Role = Literal["initiating", "receiving"]
ProofMethod = Literal["pkix", "dane", "posh", "pin", "trust-first-use"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything known of the peer when its verdict is due.

    `chain` is DER, leaf first, as presented ((): no certificate). `role` is the peer's role on the stream.
    """

    domain: Domain
    role: Role
    at: datetime
    chain: tuple[bytes, ...] = ()
    tls_version: str | None = None  # "TLSv1.2", "TLSv1.3"; None: no TLS
    cipher: str | None = None
    address: str = ""
    #: the SRV target or host we connected to, and whether DNSSEC secured the way to it (R13, R22)
    target: str | None = None
    target_secure: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to prove the peer, tried: whether it did, and if not the cause and every reason in words.

    `cause` is the chief one of `causes`, all that were found.
    """

    method: ProofMethod
    proven: bool
    cause: Cause | None = None
    reasons: tuple[str, ...] = field(default=())
    causes: tuple[Cause, ...] = field(default=())
