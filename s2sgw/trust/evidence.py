"""The observed facts about a peer, and the result of each method to prove it. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain

Role = Literal["initiating", "receiving"]
ProofMethod = Literal["pkix", "dane", "posh", "pin", "trust-first-use"]


@dataclass(frozen=True, slots=True)
class TLSA:
    """One TLSA record (RFC 6698 §2.1). Its fields are octets, `data` is the certificate association data."""

    usage: int
    selector: int
    matching: int
    data: bytes

    def __str__(self) -> str:
        return f"TLSA {self.usage} {self.selector} {self.matching} {self.data[:16].hex()}…"


@dataclass(frozen=True, slots=True)
class TLSALookup:
    """The result of a DNS look-up for one SRV target's key (RFC 7673 §3).

    `secure`: DNSSEC secured the SRV answer (or the answer that there is none) and the TLSA answer. `addresses_secure`: the
    addresses of the target too. `failure`: why the look-up failed; then it counts for nothing.
    """

    target: str
    records: tuple[TLSA, ...] = ()
    secure: bool = False
    addresses_secure: bool = False
    failure: str = ""


#: Hash names of RFC 7711 §3.1 ("sha-256", "sha-512") and the digest of a certificate by each.
Digests = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class POSHLookup:
    """The result of a look-up of a domain's POSH document (RFC 7711): the certificates in it, and until when it is valid.

    `failure`: why there is none; then the look-up counts for nothing.
    """

    fingerprints: tuple[Digests, ...] = ()
    expires: datetime | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything known of the peer at its judgement.

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
    #: one for each SRV target of the domain; outbound the one we connected to is enough (R22)
    tlsa: tuple[TLSALookup, ...] = ()
    posh: POSHLookup | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """One check that failed, of a certificate or of the path from it."""

    cause: Cause
    text: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One method to prove the peer, and its result: proven, or the cause and every reason in words.

    `cause` is the most important of `causes`. `veto`: no other method may prove the peer either (R22).
    """

    method: ProofMethod
    proven: bool
    cause: Cause | None = None
    reasons: tuple[str, ...] = field(default=())
    causes: tuple[Cause, ...] = field(default=())
    veto: bool = False
