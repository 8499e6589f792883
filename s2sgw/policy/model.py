"""What may be said of a peer: `PeerObject` as the configuration writes it, `PeerPolicy` with every key resolved.

The defaults of `PeerPolicy` are the contract's first values: what holds where nothing is configured.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from s2sgw.policy.values import Anchors, Count, Duration, FilePath, Flag, Pin, Route, Section, Size, TLSVersion

Encryption = Literal["required", "optional"]
Proof = Literal["pkix", "dane", "posh", "pin"]
Dialback = Literal["never", "with-tls", "always"]
UnknownIssuer = Literal["reject", "ask", "trust-first-use"]
LostProof = Literal["report", "refuse"]
Resolve = Literal["required"]

ALL_PROOFS: tuple[Proof, ...] = ("pkix", "dane", "posh", "pin")

#: RFC 6120 §13.12: no server may refuse a stanza of 10,000 bytes.
LEAST_STANZA_BYTES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a peer may use: bytes of one stanza, streams at a time in each direction."""

    stanza_bytes: int = 524_288
    streams: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPolicy:
    """The policy for one peer, complete. Durations are seconds, sizes bytes, paths absolute."""

    allow: bool = True
    tls: Encryption = "required"
    minimum: TLSVersion = "1.2"
    proofs: tuple[Proof, ...] = ALL_PROOFS
    dialback: Dialback = "never"
    unknown_issuer: UnknownIssuer = "reject"
    #: seconds for which a proof by PKIX, DANE or POSH is remembered, and what it means when dialback alone is left after one
    remember_proof: float = 30 * 86400.0
    lost_proof: LostProof = "report"
    #: whether a certificate may name the target of an SRV record that DNSSEC secured (R13)
    secure_delegation: bool = False
    resolve: Resolve = "required"
    trust_anchors: Path | Literal["system"] = "system"
    pins: tuple[str, ...] = ()
    crl: Path | None = None
    certificate: Path | None = None
    route: str | None = None
    limits: Limits = field(default_factory=Limits)
    hold: float = 600.0
    #: the names of the peer objects that made this policy, the most specific first
    objects: tuple[str, ...] = ()

    @property
    def encryption(self) -> Encryption:
        """What TLS comes to: without it a peer can be proven by dialback alone, so `tls = "optional"` needs "always"."""
        return "optional" if self.tls == "optional" and self.dialback == "always" else "required"


class LimitsObject(Section):
    """`limits` of a peer object; what it leaves out is inherited key by key."""

    stanza_bytes: Annotated[Size, Field(ge=LEAST_STANZA_BYTES)] | None = None
    streams: Annotated[Count, Field(ge=1)] | None = None


class PeerObject(Section):
    """One `[peers.…]` table: what it leaves out is inherited from the next less specific one."""

    allow: Flag | None = None
    tls: Encryption | None = None
    minimum: TLSVersion | None = None
    proofs: tuple[Proof, ...] | None = None
    dialback: Dialback | None = None
    unknown_issuer: UnknownIssuer | None = None
    remember_proof: Duration | None = None
    lost_proof: LostProof | None = None
    secure_delegation: Flag | None = None
    resolve: Resolve | None = None
    trust_anchors: Anchors | None = None
    pins: tuple[Pin, ...] | None = None
    crl: FilePath | None = None
    certificate: FilePath | None = None
    route: Route | None = None
    limits: LimitsObject | None = None
    hold: Duration | None = None

    def refine(self, inherited: PeerPolicy, name: str) -> PeerPolicy:
        """`inherited` with everything that this object says, which goes by `name`."""
        written = {key: getattr(self, key) for key in self.model_fields_set}
        limits = self.limits.model_dump(exclude_unset=True) if self.limits else {}
        written["limits"] = replace(inherited.limits, **limits)
        return replace(inherited, **written, objects=(name, *inherited.objects))
