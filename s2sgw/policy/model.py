"""The settings of a peer: `PeerObject` as the configuration writes it, `PeerPolicy` with every key resolved.

The defaults of `PeerPolicy` are the documented defaults: they are in force without a configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
#: The settings of a policy that apply to stanzas, and to no judgement of a peer.
_OF_STANZAS = ("limits", "deny_namespaces", "deny_larger_than", "kinds", "denied", "hold", "resume", "objects")

#: RFC 6120 §13.12: no server may refuse a stanza of 10,000 bytes.
LEAST_STANZA_BYTES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StanzaRates:
    """Stanzas a second: of all kinds together (`total`), and of each. 0: no limit."""

    total: int = 0
    message: int = 0
    presence: int = 0
    iq: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a peer: bytes of one stanza, streams at a time, and the traffic of a second on all of them together.

    `domains`: how many domains one of its streams may send from, if that is more than `[limits] domains_per_stream`.

    Beyond a rate (0: no limit), `excess` decides: the peer is slowed, or the excess stanzas are refused.
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
    """The extensions that are offered to a peer and used with it: XEP-0198, XEP-0288, XEP-0478, and XEP-0220 §2.6."""

    sm: bool = True
    bidi: bool = True
    limits: bool = True
    multiplexing: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPolicy:
    """The complete policy for one peer. Durations are seconds, sizes bytes, paths absolute."""

    allow: bool = True
    tls: Encryption = "required"
    minimum: TLSVersion = "1.2"
    proofs: tuple[Proof, ...] = ALL_PROOFS
    dialback: Dialback = "never"
    unknown_issuer: UnknownIssuer = "reject"
    #: seconds for which a proof by PKIX, DANE or POSH is remembered, and the consequence if only dialback is left afterwards
    remember_proof: float = 30 * 86400.0
    lost_proof: LostProof = "report"
    #: whether a certificate may name the target of an SRV record that DNSSEC secured (R13)
    secure_delegation: bool = False
    #: whether a certificate with an id-on-xmppAddr is judged by its xmppAddrs alone (RFC 3920 §14.2)
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
    #: whether, by agreement, no header and no negotiation are exchanged with the peer (XEP-0361)
    zero_handshake: bool = False
    #: the resolver for a peer that is reached through a proxy: the proxy, or the gateway
    proxy_lookup: ProxyLookup = "remote"
    features: Features = Features()
    limits: Limits = Limits()
    deny_namespaces: tuple[str, ...] = ()
    deny_larger_than: int = 0
    kinds: tuple[Kind, ...] = ALL_KINDS
    denied: Denied = "error"
    hold: float = 600.0
    #: seconds for which a lost stream of either side can be resumed (XEP-0198 §5); 0: never
    resume: float = 120.0
    #: the names of the peer objects that made this policy, the most specific first
    objects: tuple[str, ...] = ()
    #: the deny list with the peer's name
    deny_list: str | None = None
    #: whether an object names the peer, or none needs to
    listed: bool = True
    #: whether the peer is an IP address or a single label, and no object has exactly its name
    unnamed: bool = False

    def judges_as(self, other: PeerPolicy) -> bool:
        """Return whether a peer is judged by this policy as by `other`: they differ in nothing but what applies to stanzas."""
        return replace(self, **{name: getattr(other, name) for name in _OF_STANZAS}) == other

    @property
    def bar(self) -> Ending | None:
        """Return why no stream with the peer is allowed, with any proof; None: it is allowed."""
        if self.deny_list is not None:
            return Ending(Cause.DENY_LISTED, f"named by {self.deny_list}")
        if self.unnamed:
            return Ending(Cause.NOT_ALLOWED, "an IP address or a single label is a peer only if a section has exactly this name")
        if not self.listed:
            return Ending(Cause.NOT_ALLOWED, "only peers that the configuration names are allowed")
        return None if self.allow else Ending(Cause.NOT_ALLOWED, "the policy for this peer does not allow it")

    @property
    def encryption(self) -> Encryption:
        """Return the effective TLS setting. Without TLS only dialback can prove a peer, so `tls = "optional"` needs "always"."""
        return "optional" if self.tls == "optional" and self.dialback == "always" else "required"


Rate = Annotated[Count, Field(ge=0)]


class RatesObject(Section):
    """`limits.stanzas_per_second`: a number sets `total`. Kinds that a table leaves out have no limit."""

    total: Rate = 0
    message: Rate = 0
    presence: Rate = 0
    iq: Rate = 0


def _as_table(value: object) -> object:
    return value if isinstance(value, dict) else {"total": value}


class InheritingSection(Section):
    """A table whose missing keys are inherited. Here they are None.

    There may be a hundred thousand such tables. `compact` reduces one to its written keys.
    """

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return None for a key that a compact table leaves out."""
            if name in _keys_of(type(self)):
                return None
            return super().__getattr__(name)

    def compact(self) -> Self:
        """Keep only the written keys (pydantic keeps each key, and a set of the written ones), and return self."""
        written = {key: self.__dict__[key] for key in self.__dict__ if key in self.model_fields_set}
        for value in written.values():
            if isinstance(value, InheritingSection):
                value.compact()
        object.__setattr__(self, "__dict__", written)
        object.__setattr__(self, "__pydantic_fields_set__", _same_keys(frozenset(written)))
        return self

    def written(self) -> dict[str, Any]:
        """Return the written keys with their values."""
        return {key: getattr(self, key) for key in self.model_fields_set}


@cache
def _keys_of(table: type[InheritingSection]) -> frozenset[str]:
    """Return the keys that a table may have: asking pydantic takes ten times as long, and a start asks millions of times."""
    return frozenset(table.model_fields)


@cache
def _same_keys(keys: frozenset[str]) -> set[str]:
    """Return one set for all tables with the same keys."""
    return set(keys)


class LimitsObject(InheritingSection):
    """`limits` of a peer object. Missing keys are inherited one by one."""

    stanza_bytes: Annotated[Size, Field(ge=LEAST_STANZA_BYTES)] | None = None
    streams: Annotated[Count, Field(ge=1)] | None = None
    domains: Annotated[Count, Field(ge=0)] | None = None
    stanzas_per_second: Annotated[RatesObject, BeforeValidator(_as_table)] | None = None
    bytes_per_second: Size | None = None
    excess: Excess | None = None


class FeaturesObject(InheritingSection):
    """`features` of a peer object. Missing keys are inherited one by one."""

    sm: Flag | None = None
    bidi: Flag | None = None
    limits: Flag | None = None
    multiplexing: Flag | None = None


def _check_mechanisms(names: tuple[Mechanism, ...]) -> tuple[Mechanism, ...]:
    """Refuse a mechanism that is named twice, and a legacy one that is not last."""
    if len(set(names)) < len(names):
        raise ValueError("names a mechanism twice")
    if LEGACY in names[:-1]:
        raise ValueError(f"must have {LEGACY} as the last: it is used only where every other mechanism is not to be had")
    return names


class PeerObject(InheritingSection):
    """One `[peers.…]` table. Missing keys are inherited from the next less specific one."""

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
        """Return `inherited` with all keys of this object, whose name is `name`."""
        written = self.written()
        if self.limits is not None:
            written["limits"] = _refined_limits(inherited.limits, self.limits)
        if self.features is not None:
            written["features"] = replace(inherited.features, **self.features.written())
        return replace(inherited, **written, objects=(name, *inherited.objects))


def objects_with(peers: Mapping[str, PeerObject], *keys: str) -> Iterator[tuple[str, PeerObject]]:
    """Yield the peer objects that write any of these keys, with their names. There may be very many that write none."""
    wanted = frozenset(keys)
    return ((name, each) for name, each in peers.items() if not wanted.isdisjoint(each.model_fields_set))


def _refined_limits(inherited: Limits, limits: LimitsObject) -> Limits:
    written = limits.written()
    if limits.stanzas_per_second is not None:
        written["stanzas_per_second"] = StanzaRates(**dict(limits.stanzas_per_second))
    return replace(inherited, **written)
