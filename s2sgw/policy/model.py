"""What may be said of a peer: `PeerObject` as the configuration writes it, `PeerPolicy` with every key resolved.

The defaults of `PeerPolicy` are the contract's first values: what holds where nothing is configured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field

from s2sgw.policy.values import (
    AnchorsKey,
    Count,
    Duration,
    FilePath,
    Flag,
    Namespace,
    Pin,
    Proxy,
    ProxyURL,
    Resume,
    RouteKey,
    Section,
    Size,
    TLSVersion,
)
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.mechanisms import LEGACY, MECHANISMS, Mechanism
from s2sgw.xmpp.stanza import Kind

Encryption = Literal["required", "optional"]
Proof = Literal["pkix", "dane", "posh", "pin"]
Dialback = Literal["never", "with-tls", "always"]
UnknownIssuer = Literal["reject", "ask", "trust-first-use"]
LostProof = Literal["report", "refuse"]
Resolve = Literal["required", "address-match"]
ProxyLookup = Literal["remote", "local"]
Denied = Literal["error", "drop"]
Excess = Literal["slow", "refuse"]

ALL_PROOFS: tuple[Proof, ...] = ("pkix", "dane", "posh", "pin")
ALL_KINDS: tuple[Kind, ...] = ("message", "presence", "iq")

#: RFC 6120 §13.12: no server may refuse a stanza of 10,000 bytes.
LEAST_STANZA_BYTES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StanzaRates:
    """Stanzas a second, 0 for no limit: of all kinds together (`total`), and of each."""

    total: int = 0
    message: int = 0
    presence: int = 0
    iq: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a peer may use: bytes of one stanza, streams at a time, and on all of them together what a second may bring.

    `domains`: that one of its streams may send from, if that is more than `[limits] domains_per_stream`.

    Beyond a rate (0: there is none) the peer is slowed, or the stanzas that are too many are refused, by `excess`.
    """

    stanza_bytes: int = 524_288
    streams: int = 4
    domains: int = 0
    stanzas_per_second: StanzaRates = StanzaRates()
    bytes_per_second: int = 0
    excess: Excess = "slow"

    @property
    def rated(self) -> bool:
        """Whether there is any rate."""
        return bool(self.bytes_per_second) or self.stanzas_per_second != StanzaRates()


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What is offered to a peer and used with it, where it can: XEP-0198, XEP-0288, XEP-0478, and XEP-0220 §2.6."""

    sm: bool = True
    bidi: bool = True
    limits: bool = True
    multiplexing: bool = True


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
    #: whether a certificate that has an id-on-xmppAddr is judged by its xmppAddrs alone (RFC 3920 §14.2)
    insist_on_xmpp_addr: bool = False
    resolve: Resolve = "required"
    trust_anchors: Path | Literal["system"] = "system"
    pins: tuple[str, ...] = ()
    crl: Path | None = None
    certificate: Path | None = None
    secret_file: Path | None = None
    #: the SASL mechanisms that may be used, best first
    sasl: tuple[Mechanism, ...] = MECHANISMS
    route: str | None = None
    proxy: Proxy | Literal["none"] = "none"
    #: no header and no negotiation are exchanged with the peer, by agreement (XEP-0361)
    zero_handshake: bool = False
    #: who looks up what the DNS knows of a peer that is reached through a proxy: the proxy, or we
    proxy_lookup: ProxyLookup = "remote"
    features: Features = Features()
    limits: Limits = Limits()
    deny_namespaces: tuple[str, ...] = ()
    deny_larger_than: int = 0
    kinds: tuple[Kind, ...] = ALL_KINDS
    denied: Denied = "error"
    hold: float = 600.0
    #: seconds for which a stream that broke off can be resumed (XEP-0198 §5), whoever opened it; 0: never
    resume: float = 120.0
    #: the names of the peer objects that made this policy, the most specific first
    objects: tuple[str, ...] = ()
    #: the deny list that names the peer
    deny_list: str | None = None
    #: an object names it, or none need do so
    listed: bool = True

    @property
    def bar(self) -> Ending | None:
        """Why nothing at all may pass between us and the peer, whatever it proves."""
        if self.deny_list is not None:
            return Ending(Cause.DENY_LISTED, f"named by {self.deny_list}")
        if not self.listed:
            return Ending(Cause.NOT_ALLOWED, "only peers that the configuration names are allowed")
        return None if self.allow else Ending(Cause.NOT_ALLOWED, "the policy for this peer does not allow it")

    @property
    def encryption(self) -> Encryption:
        """What TLS comes to: without it a peer can be proven by dialback alone, so `tls = "optional"` needs "always"."""
        return "optional" if self.tls == "optional" and self.dialback == "always" else "required"


Rate = Annotated[Count, Field(ge=0)]


class RatesObject(Section):
    """`limits.stanzas_per_second`: a number stands for `total`. What a table leaves out has no limit."""

    total: Rate = 0
    message: Rate = 0
    presence: Rate = 0
    iq: Rate = 0


def _as_table(value: object) -> object:
    return value if isinstance(value, dict) else {"total": value}


class InheritingSection(Section):
    """A table whose keys are inherited where it leaves them out: there they are None.

    There may be a hundred thousand such tables. `compact` makes one as small as what it says.
    """

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return None for a key that a compact table leaves out."""
            if name in _keys_of(type(self)):
                return None
            return super().__getattr__(name)

    def compact(self) -> Self:
        """Keep only what was written (pydantic keeps each key, and a set of those that were written), and return self."""
        written = {key: self.__dict__[key] for key in self.__dict__ if key in self.model_fields_set}
        for value in written.values():
            if isinstance(value, InheritingSection):
                value.compact()
        object.__setattr__(self, "__dict__", written)
        object.__setattr__(self, "__pydantic_fields_set__", _same_keys(frozenset(written)))
        return self

    def written(self) -> dict[str, Any]:
        """Return what the table says."""
        return {key: getattr(self, key) for key in self.model_fields_set}


@cache
def _keys_of(table: type[InheritingSection]) -> frozenset[str]:
    """Return the keys that a table may have: asking pydantic takes ten times as long, and a start asks millions of times."""
    return frozenset(table.model_fields)


@cache
def _same_keys(keys: frozenset[str]) -> set[str]:
    """Return one set for all tables that have the same keys."""
    return set(keys)


class LimitsObject(InheritingSection):
    """`limits` of a peer object; what it leaves out is inherited key by key."""

    stanza_bytes: Annotated[Size, Field(ge=LEAST_STANZA_BYTES)] | None = None
    streams: Annotated[Count, Field(ge=1)] | None = None
    domains: Annotated[Count, Field(ge=0)] | None = None
    stanzas_per_second: Annotated[RatesObject, BeforeValidator(_as_table)] | None = None
    bytes_per_second: Size | None = None
    excess: Excess | None = None


class FeaturesObject(InheritingSection):
    """`features` of a peer object; what it leaves out is inherited key by key."""

    sm: Flag | None = None
    bidi: Flag | None = None
    limits: Flag | None = None
    multiplexing: Flag | None = None


def _check_mechanisms(names: tuple[Mechanism, ...]) -> tuple[Mechanism, ...]:
    """Refuse a mechanism that is named twice, and the legacy one where it is not the last."""
    if len(set(names)) < len(names):
        raise ValueError("names a mechanism twice")
    if LEGACY in names[:-1]:
        raise ValueError(f"must have {LEGACY} as the last: it is used only where every other mechanism is not to be had")
    return names


class PeerObject(InheritingSection):
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
    insist_on_xmpp_addr: Flag | None = None
    resolve: Resolve | None = None
    trust_anchors: AnchorsKey | None = None
    pins: tuple[Pin, ...] | None = None
    crl: FilePath | None = None
    certificate: FilePath | None = None
    secret_file: FilePath | None = None
    sasl: Annotated[tuple[Mechanism, ...], AfterValidator(_check_mechanisms)] | None = None
    route: RouteKey | None = None
    proxy: ProxyURL | None = None
    proxy_lookup: ProxyLookup | None = None
    zero_handshake: Flag | None = None
    features: FeaturesObject | None = None
    limits: LimitsObject | None = None
    deny_namespaces: tuple[Namespace, ...] | None = None
    deny_larger_than: Size | None = None
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] | None = None
    denied: Denied | None = None
    hold: Duration | None = None
    resume: Resume | None = None

    def refine(self, inherited: PeerPolicy, name: str) -> PeerPolicy:
        """Return `inherited` with everything that this object says, which goes by `name`."""
        written = self.written()
        if self.limits is not None:
            written["limits"] = _refined_limits(inherited.limits, self.limits)
        if self.features is not None:
            written["features"] = replace(inherited.features, **self.features.written())
        return replace(inherited, **written, objects=(name, *inherited.objects))


def _refined_limits(inherited: Limits, limits: LimitsObject) -> Limits:
    written = limits.written()
    if limits.stanzas_per_second is not None:
        written["stanzas_per_second"] = StanzaRates(**dict(limits.stanzas_per_second))
    return replace(inherited, **written)
