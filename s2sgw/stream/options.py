"""The options of a stream: the engine's part of the policy, keys and limits. They do not change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from s2sgw.stream.dialback import DialbackKeys
from s2sgw.stream.events import Refusal, TLSUse
from s2sgw.xmpp.framing import FramingLimits
from s2sgw.xmpp.jid import Domain

#: Bounds of a stream whose other side has not authenticated yet (R32).
BEFORE_AUTHENTICATION = FramingLimits(stanza_bytes=65536, stream_bytes=262144)


def _nobody(domain: Domain) -> Refusal | None:
    return None


def _any_spelling(text: str) -> bool:
    return True


def _epoch() -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class ReceivingOptions:
    """The options of the streams that one listener receives."""

    keys: DialbackKeys
    #: whether stanzas for a domain are accepted on this listener
    serves: Callable[[Domain], bool]
    #: whether we verify keys for streams from this domain (R27)
    answers_verify: Callable[[Domain], bool]
    #: returns whether TLS is required of the asserted peer (None: it has named none)
    tls: Callable[[Domain | None], TLSUse] = lambda peer: "required"
    #: returns whether a text may spell a served domain (`xmpp.jid.spelling`); other texts are not parsed
    serves_spelling: Callable[[str], bool] = _any_spelling
    #: returns why an asserted sender is never accepted (R14), even if it is proven
    refuses_sender: Callable[[Domain], Refusal | None] = _nobody
    direct_tls: bool = False
    #: the domains that agreed peers may send to without a header (XEP-0361); (): negotiate as usual
    zero_handshake: tuple[Domain, ...] = ()
    #: whether a header without version is answered (R1), and the domains may come with db:result only: the backend leg
    pre_1_0: bool = False
    #: whether the asserted peer must be resolved before TLS (R2)
    resolve: bool = True
    #: of `<db:result/>`: the most a second (0: any number), the most that may wait, and the most domains of a stream
    claims_per_second: float = 0.0
    claims_waiting: int = 64
    domains: int = 4096
    #: returns the time, in seconds
    seconds: Callable[[], float] = _epoch
    before: FramingLimits = BEFORE_AUTHENTICATION
    after: FramingLimits = field(default=FramingLimits())


@dataclass(frozen=True, slots=True)
class InitiatingOptions:
    """The options of one stream that we open."""

    local: Domain
    peer: Domain
    keys: DialbackKeys
    purpose: Literal["stanzas", "verify"] = "stanzas"
    tls: TLSUse = "required"
    direct_tls: bool = False
    #: whether no header is exchanged: the other side has agreed, and a pinned key must prove it (XEP-0361)
    zero_handshake: bool = False
    #: whether we present a certificate for `local`
    external: bool = True
    #: whether to request acknowledgements if they are offered (XEP-0198)
    management: bool = False
    #: seconds for which a lost stream is resumed; 0: resumption is not requested
    resume: int = 0
    #: whether to let the peer send on the stream too, if it offers that and the judgement allows it (XEP-0288)
    bidi: bool = False
    limits: FramingLimits = field(default=FramingLimits())
