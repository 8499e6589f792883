"""Stream features (RFC 6120 §4.3.2): the table of our offers, and the other side's offers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from s2sgw.sasl.scram import BINDING
from s2sgw.stream import bidi, sasl
from s2sgw.stream.events import Permission, TLSUse
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.namespaces import CHANNEL_BINDING, DIALBACK_FEATURE, LIMITS, MANAGEMENT, SASL, STREAM, TLS

#: `namespace}name` of the feature of stream management (XEP-0198 §3).
MANAGEMENT_FEATURE = f"{MANAGEMENT}}}sm"
#: The most digits of a number in a feature. A longer number is ignored.
DIGITS = 15
#: Standings whose features are kept as XML.
STANDINGS = 64


@dataclass(frozen=True, slots=True)
class Standing:
    """The facts that decide which features a stream offers."""

    tls: TLSUse
    secured: bool
    authenticated: bool
    permission: Permission
    max_bytes: int

    @property
    def bare(self) -> bool:
        """Whether TLS must come first, so that nothing else is offered (R3)."""
        return self.tls == "required" and not self.secured

    @property
    def manageable(self) -> bool:
        """Whether acknowledgements can be requested now, or after dialback: no features are sent again then (XEP-0198 §3)."""
        permission = self.permission
        return permission.management and (self.authenticated or (not self.bare and permission.dialback))

    @property
    def extensible(self) -> bool:
        """Whether pairs can be requested by dialback: by a key, or, after another pair has authenticated, by the certificate."""
        permission = self.permission
        return not self.bare and (permission.dialback or (self.authenticated and permission.external))

    @property
    def anonymous(self) -> bool:
        """Whether TLS is established and SASL is possible (R4)."""
        return self.secured and not self.authenticated

    @property
    def bindable(self) -> bool:
        """Whether a mechanism with channel binding is offered (XEP-0440)."""
        return self.permission.secret is not None and self.permission.secret.binding is not None

    @property
    def before_tls(self) -> bool:
        """Whether STARTTLS can be requested."""
        return not self.secured and self.tls != "never"

    @property
    def authenticates(self) -> bool:
        """Whether there is a SASL mechanism (R4)."""
        return self.anonymous and bool(sasl.offered(self.permission))

    @property
    def binds(self) -> bool:
        """Whether there is one that is bound to the TLS channel (XEP-0440)."""
        return self.anonymous and self.bindable

    @property
    def bidirectional(self) -> bool:
        """Whether stanzas may be sent back on the stream (XEP-0288)."""
        return self.anonymous and self.permission.bidi

    @property
    def announces(self) -> bool:
        """Whether the limits are announced (XEP-0478): to an authenticated peer, unless the policy forbids it."""
        return self.permission.announced and not self.bare and (self.secured or self.authenticated)


class Feature(NamedTuple):
    """A row of the table: the property of `Standing` that decides whether the feature is offered, and its XML."""

    offered: str
    element: Callable[[Standing], Element]


def _starttls(standing: Standing) -> Element:
    required = [Element("required", TLS)] if standing.bare else []
    return Element("starttls", TLS, children=required)


def _mechanisms(standing: Standing) -> Element:
    rows = sasl.offered(standing.permission)
    return Element("mechanisms", SASL, children=[Element("mechanism", SASL, text=row.name) for row in rows])


def _channel_binding(standing: Standing) -> Element:
    types = [Element("channel-binding", CHANNEL_BINDING, {"type": BINDING})]
    return Element("sasl-channel-binding", CHANNEL_BINDING, children=types)


def _dialback(standing: Standing) -> Element:
    return Element("dialback", DIALBACK_FEATURE, children=[Element("errors", DIALBACK_FEATURE)])


def _limits(standing: Standing) -> Element:
    return Element("limits", LIMITS, children=[Element("max-bytes", LIMITS, text=str(standing.max_bytes))])


def _acknowledgements(standing: Standing) -> Element:
    return Element("sm", MANAGEMENT)


def _bidi(standing: Standing) -> Element:
    return bidi.feature()


FEATURES = (
    Feature("before_tls", _starttls),
    Feature("authenticates", _mechanisms),
    Feature("binds", _channel_binding),
    Feature("extensible", _dialback),
    Feature("announces", _limits),
    Feature("manageable", _acknowledgements),
    Feature("bidirectional", _bidi),
)


def offer(standing: Standing) -> Element:
    """Return `<stream:features/>` for a stream with this standing."""
    rows = [row.element(standing) for row in FEATURES if getattr(standing, row.offered)]
    return Element("features", STREAM, children=rows)


def offer_in_xml(standing: Standing) -> bytes:
    """Return the same as XML. The standings of nearly all streams are a few, if neither a secret nor a refusal is part of it."""
    permission = standing.permission
    return _written(standing) if permission.secret is not None or permission.refusal is not None else _known(standing)


def _written(standing: Standing) -> bytes:
    return offer(standing).to_xml()


_known = lru_cache(STANDINGS)(_written)


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """The limits of the other side (XEP-0478): bytes of a top-level element, seconds of silence. None: not announced."""

    max_bytes: int | None = None
    idle_seconds: int | None = None
    #: bytes of a stanza that a server accepts which announces nothing and whose software is known
    presumed: int | None = None
    #: returns whether such a server can represent a stanza; None: it can represent any
    holds: Callable[[bytes], bool] | None = None


@dataclass(frozen=True, slots=True)
class StreamFeatures:
    """The other side's features. An empty `<mechanisms/>` offers nothing (ejabberd sends one before TLS)."""

    starttls: bool = False
    starttls_required: bool = False
    mechanisms: tuple[str, ...] = ()
    dialback: bool = False
    limits: PeerLimits = PeerLimits()
    #: types of channel binding; None: not announced (XEP-0440)
    bindings: tuple[str, ...] | None = None
    names: frozenset[str] = frozenset()  # `namespace}name` of everything offered
    #: whether dialback is offered in jabberd2's form, unlike Prosody's and ejabberd's: required, and without errors
    dialback_alone: bool = False
    #: whether dialback is offered in Prosody's form: neither required, nor with errors
    dialback_plain: bool = False

    @classmethod
    def read(cls, features: Element) -> StreamFeatures:
        """Return the features in `<stream:features/>`. Of unknown ones only the names are kept."""
        starttls = features.child(TLS, "starttls")
        mechanisms = features.child(SASL, "mechanisms")
        dialback = features.child(DIALBACK_FEATURE, "dialback")
        limits = features.child(LIMITS, "limits")
        bindings = features.child(CHANNEL_BINDING, "sasl-channel-binding")
        return cls(
            starttls is not None,
            starttls is not None and starttls.child(TLS, "required") is not None,
            () if mechanisms is None else tuple(child.text.strip() for child in mechanisms.every(SASL, "mechanism")),
            dialback is not None,
            PeerLimits() if limits is None else PeerLimits(_number(limits, "max-bytes"), _number(limits, "idle-seconds")),
            None if bindings is None else tuple(_types(bindings)),
            frozenset(f"{child.namespace}}}{child.name}" for child in features.children),
            dialback is not None and [child.name for child in dialback.children] == ["required"],
            dialback is not None and not dialback.children,
        )


def _types(bindings: Element) -> list[str]:
    return [child.attributes.get("type", "") for child in bindings.every(CHANNEL_BINDING, "channel-binding")]


def _number(limits: Element, name: str) -> int | None:
    child = limits.child(LIMITS, name)
    text = "" if child is None else child.text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS else None
