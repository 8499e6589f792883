"""The events of an engine for its shell: questions, orders and facts (docs/decisions.md#engines).

A question is answered by one method of the engine. Until then the engine keeps its input unread, within a bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from s2sgw.sasl.scram_secret import StreamSecret
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.limits import FramingLimits
from s2sgw.xmpp.mechanisms import MECHANISMS, Mechanism
from s2sgw.xmpp.stanza import Stanza

#: The most characters of a peer's error text that are recorded.
DETAIL_CHARACTERS = 500

#: Whether a stream needs TLS.
TLSUse = Literal["required", "optional", "never"]
#: The method that proved a pair on a stream. "certificate": the pair was requested by dialback on an authenticated stream. No key
#: is accepted, but the certificate proves the domain (XEP-0344). "bidi" arises from the inverse of an authenticated pair
#: (XEP-0288), "zero-handshake" from an agreement and a pinned key (XEP-0361).
Method = Mechanism | Literal["certificate", "dialback", "bidi", "zero-handshake"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal: the stream error for the wire, and the ending for the record."""

    condition: StreamCondition
    text: str
    ending: Ending


# --- questions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResolutionNeeded:
    """Receiving, before TLS: the header's `from` is asserted and must be resolved (R2). Answer: `resolved(refusal)`.

    The question comes with the header. Features are sent before the answer, but `<starttls/>` is answered after it.
    """

    peer: Domain
    local: Domain


@dataclass(frozen=True, slots=True)
class IdentityNeeded:
    """Receiving, on a stream without headers (XEP-0361): TLS is established. Answer: `identified(peers)`.

    `peers` have agreed on a zero handshake, and the other side has presented the key of each.
    """


@dataclass(frozen=True, slots=True)
class JudgementNeeded:
    """The other side's identity is asserted and its TLS evidence complete. Answer: `judged(Permission, peer)`.

    Receiving: the header after TLS named `peer`; if the policy does not require TLS, the first db:result did. The event comes
    again for each further peer domain that a db:result names, a few at a time. Stanzas of proven pairs are read meanwhile.
    Initiating: the handshake is over, or TLS is not offered and not required. Nothing has been sent since. `peer` is the
    domain that we asked for. `verifying`: the stream only verifies a dialback key, for the claim of another server.
    """

    peer: Domain
    local: Domain
    secured: bool
    verifying: bool = False


@dataclass(frozen=True, slots=True)
class Permission:
    """The policy's answer to `JudgementNeeded`.

    Receiving: the ways to authenticate that are offered. If there is none, `refusal` says why (R8). `limits` hold from the
    first proven pair on. None: those of the stream's options. If several peers share a stream, the largest limits
    of them hold. The limits are announced (XEP-0478) unless `announced` is False. `management`: acknowledgements are offered
    (XEP-0198), and the stream can be resumed for `resume` seconds after it is lost (0: never). `bidi`: stanzas in the other
    direction are offered too (XEP-0288). `secret`: SCRAM is offered too (R26). `mechanisms`: the SASL mechanisms that may be
    used, the preferred ones first. `domains`: how many domains may send on the stream, if more than the stream's options allow.
    Initiating: `refusal` ends the stream. Without it the stream goes on. `proven`: something better than the DNS has proven
    that the other end is the domain asked for. `pinned`: a pinned key has proven it. `bidi`: the peer has proven itself as a
    sender must, so it may send stanzas on this stream, within `limits`. `secret`: we can authenticate by SCRAM. `mutual`:
    nothing has proven the peer, so only a mechanism that proves it too may be used.
    """

    external: bool = False
    dialback: bool = False
    refusal: Refusal | None = None
    limits: FramingLimits | None = None
    announced: bool = True
    management: bool = False
    resume: int = 0
    bidi: bool = False
    secret: StreamSecret | None = None
    mechanisms: tuple[Mechanism, ...] = MECHANISMS
    mutual: bool = False
    proven: bool = False
    pinned: bool = False
    domains: int = 0


@dataclass(frozen=True, slots=True)
class DialbackNeeded:
    """Receiving: `<db:result/>` with a key came for `pair` (R28). Answer: `dialback_answered(pair, outcome)`.

    Several can be outstanding, one for each pair. Stanzas of proven pairs are read meanwhile. `stream_id` is of this stream.
    """

    pair: Pair
    key: str
    stream_id: str


#: valid / invalid, or the stanza error condition of an answer of type "error" with its text.
@dataclass(frozen=True, slots=True)
class DialbackOutcome:
    type: Literal["valid", "invalid", "error"]
    ending: Ending | None = None  # the reason; its table row has the error's condition and text


@dataclass(frozen=True, slots=True)
class ClosingTagDue:
    """The other side has sent its closing tag, and some of its stanzas are not handled yet (XEP-0198).

    Our closing tag follows when all are `handled`, or on `close(ending)`, which the shell calls after a bounded time.
    """

    ending: Ending


@dataclass(frozen=True, slots=True)
class ResumptionNeeded:
    """Receiving: `<resume/>` came on a stream with proven pairs (XEP-0198 §5). Answer: `resumed(resumption or None)`."""

    id: str


# --- orders ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartTLS:
    """Begin TLS in the engine's role; `local` picks our certificate.

    Call `tls_ready()` when TLS can begin. Flush, begin TLS, and call `tls_established()` when the handshake is over. If TLS
    cannot begin, call `tls_unavailable(ending)`.
    """

    local: Domain
    peer: Domain | None


# --- facts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PairProven:
    """Stanzas may now pass for `pair`: towards us (receiving) or from us (initiating); "bidi": the other way."""

    pair: Pair
    method: Method


@dataclass(frozen=True, slots=True)
class LimitHit:
    """Receiving: the other side asked for more than `limit` allows, a key of `[limits]`."""

    limit: str


@dataclass(frozen=True, slots=True)
class PairRefused:
    """Initiating: the other side refused `pair`. Receiving: this side refused it. The stream may go on for other pairs."""

    pair: Pair
    ending: Ending


@dataclass(frozen=True, slots=True)
class Verified:
    """Initiating: the authoritative side answered our `<db:verify/>` (XEP-0220 §2.2).

    `pair` is the pair whose key it is, as in `DialbackNeeded`: its sender is the authoritative side.
    """

    pair: Pair
    stream_id: str
    outcome: DialbackOutcome


@dataclass(frozen=True, slots=True)
class VerifyReady:
    """Initiating with purpose "verify": `verify()` may be called now."""


@dataclass(frozen=True, slots=True)
class StanzasReceived:
    """A run of consecutive stanzas of one proven pair, in their order on the stream."""

    pair: Pair
    stanzas: list[Stanza]


@dataclass(frozen=True, slots=True)
class ManagementEnabled:
    """The stanzas after this event are acknowledged (XEP-0198). The shell reports each run when it is `handled`."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The other side has `count` more of the stanzas counted by `sent`, in their order on the stream (XEP-0198)."""

    count: int


@dataclass(frozen=True, slots=True)
class ManagementRefused:
    """Initiating: the other side offered acknowledgements and refuses them. Sent stanzas stay unacknowledged."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """This stream resumes a lost one: the other side has `count` more of the stanzas that were sent there (XEP-0198 §5).

    The rest must be sent again now, in the same order and before anything else. It is counted already.
    """

    count: int


@dataclass(frozen=True, slots=True)
class NotResumed:
    """Initiating: the other side does not have that stream any more. By its answer it has at least `count` more stanzas."""

    count: int


@dataclass(frozen=True, slots=True)
class Bound:
    """With jabberd2's router: we are its default route; False: we are not any more (after `unbind`)."""

    bound: bool


@dataclass(frozen=True, slots=True)
class Announced:
    """With jabberd2's router: a component of it serves `name` from now on, or not any more."""

    name: str
    served: bool


@dataclass(frozen=True, slots=True)
class Routed:
    """jabberd2's router returned a stanza of ours, with the number `error`. None: the stanza has no valid addresses."""

    stanza: Stanza
    error: str | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The engine is finished: flush the output, then close the transport gracefully. Always the last event."""

    ending: Ending


Event = (
    ResolutionNeeded | IdentityNeeded
    | JudgementNeeded | DialbackNeeded | StartTLS | PairProven | PairRefused | Verified | VerifyReady
    | StanzasReceived | ManagementEnabled | Acknowledged | ManagementRefused | ResumptionNeeded | Resumed | NotResumed
    | ClosingTagDue | LimitHit | Bound | Announced | Routed | Ended
)
