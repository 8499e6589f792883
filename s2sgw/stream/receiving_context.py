"""The context of all phases of a received stream: its options, the peer's assertions, and the proven pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar, NoReturn

from s2sgw.stream import management, sasl
from s2sgw.stream.events import DialbackOutcome, ManagementEnabled, Method, PairProven, Permission, Refusal, Resumed
from s2sgw.stream.features import Standing, offer_in_xml
from s2sgw.stream.management import Counters, Managed, ManagedPhase, Resumption
from s2sgw.stream.negotiation import Stop
from s2sgw.stream.options import ReceivingOptions
from s2sgw.stream.proven_pairs import ProvenPairs
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.header import stream_header
from s2sgw.xmpp.jid import Domain, Pair, is_internationalised
from s2sgw.xmpp.limits import FramingLimits
from s2sgw.xmpp.namespaces import BIDI, DIALBACK, MANAGEMENT, SASL, TLS
from s2sgw.xmpp.stanza import Stanza

STARTTLS = f"{TLS}}}starttls"


@dataclass(frozen=True, slots=True)
class Asserted:
    """The addresses in one stream header. They are dropped with the stream that the header opened (R8).

    `peer` and `local` are None if the header does not contain them (`peer` before TLS, both on a pre-1.0 stream).
    """

    peer: Domain | None
    local: Domain | None
    stream_id: str
    pre_1_0: bool = False


class ReceivingContext(Managed):
    """The phase-independent part of the receiving role."""

    stop_at: ClassVar[frozenset[str]] = frozenset({STARTTLS, sasl.AUTH, sasl.RESPONSE, sasl.ABORT})

    def __init__(self, options: ReceivingOptions, new_id: Callable[[], str]) -> None:
        super().__init__(options.before)
        self.options = options
        self.pairs = ProvenPairs()
        #: whether its first pair was proven by SASL, which requires TLS (R4)
        self.authenticated = False
        #: the addresses in the last header, also if it was refused
        self.claimed: tuple[Domain | None, Domain | None] = (None, None)
        #: the last failure of SASL, which does not end the stream by itself
        self.sasl_failure: Ending | None = None
        self._permitted: dict[Domain, FramingLimits] = {}
        self._after: FramingLimits | None = None
        self._manageable = False
        #: seconds for which the peer may resume the stream, if it asks
        self._resume = 0
        #: the domains that may be sent to on this stream, and whether the initiating side has asked for that (XEP-0288)
        self._reachable: dict[Domain, None] = {}
        self._bidi = False
        self.new_id = new_id

    def open_anyhow(self) -> None:
        self.open(stream_header(id=self.new_id()))

    @property
    def hears(self) -> bool:
        return bool(self.pairs)

    def answer_header(self, asserted: Asserted) -> None:
        """Send our header in answer to the peer's."""
        peer, local = asserted.peer, asserted.local
        self.open(stream_header(
            to=peer.text if peer else None, from_=local.text if local else None, id=asserted.stream_id,
            version=None if asserted.pre_1_0 else "1.0",
        ))

    def offer(self, asserted: Asserted, permission: Permission) -> None:
        """Send our features, if the stream has any."""
        if not asserted.pre_1_0:
            standing = Standing(
                self.options.tls(asserted.peer), self.secured, bool(self.pairs), permission,
                self.limits_of(asserted.peer).stanza_bytes,
            )
            self._manageable = standing.manageable
            self._resume = permission.resume if standing.manageable else 0
            self.send(offer_in_xml(standing))

    def permit(self, peer: Domain, permission: Permission) -> None:
        """Note that `peer` may authenticate, and its limits after that."""
        self._permitted[peer] = permission.limits or self.options.after
        if permission.bidi:
            self._reachable[peer] = None

    def carry_back(self) -> None:
        """Handle `<bidi/>`: we may send stanzas of the inverse of each proven pair."""
        self._bidi = True

    def limits_of(self, peer: Domain | None) -> FramingLimits:
        """Return the limits after `peer` has authenticated: the largest of those of the peers on the stream."""
        permitted = self._permitted.get(peer) if peer is not None else None
        known = [limits for limits in (self._after, permitted) if limits is not None]
        return max(known, key=attrgetter("stanza_bytes"), default=self.options.after)

    def prove(self, pair: Pair, method: Method) -> None:
        """Accept stanzas of `pair` from now on."""
        self.pairs.prove(pair, method)
        self._after = self.limits_of(pair.sender)
        self.limit(self._after)
        self.emit(PairProven(pair, method))

    def reach(self, pair: Pair) -> None:
        """Permit to send stanzas of the inverse of the proven `pair`, if the peer asked for that and the policy allows it."""
        if self._bidi and pair.sender in self._reachable:
            self.emit(PairProven(pair.inverse, "bidi"))

    def enable(self, element: Element) -> None:
        """Handle `<enable/>`: count and acknowledge stanzas from now on (XEP-0198 §3)."""
        if not self._manageable:
            self.send(management.failed("service-unavailable"))
        elif not self.pairs or self.managed:
            self.send(management.failed("unexpected-request"))
        else:
            counters = self.manage()
            seconds = management.within(element, self._resume)
            if seconds and management.may_resume(element):
                self.resumption = Resumption(self.new_id(), seconds, counters)
            self.send(management.enabled(self.resumption))
            self.emit(ManagementEnabled())

    def hindrance(self) -> str:
        """Return the stanza error for which no stream can be resumed now; "": none."""
        if not self._resume:
            return "feature-not-implemented"
        return "unexpected-request" if not self.pairs or self.managed else ""

    def resume(self, resumption: Resumption, element: Element) -> None:
        """Grant `<resume/>`: continue with the counters of the lost stream."""
        count = self.go_on(resumption, resumption.counters.handled, element)
        self.send(management.resumed(resumption))
        self.emit(Resumed(count))

    def may_serve(self, text: str) -> bool:
        """Return whether a text may spell a served domain. Texts that are cheap to parse are not checked."""
        return not is_internationalised(text) or self.options.serves_spelling(text)

    def refusal_of(self, sender: Domain) -> Refusal | None:
        """Return why `sender` is never accepted, even if it is proven (R14)."""
        refusal = self.options.refuses_sender(sender)
        if refusal is None and self.options.serves(sender):
            text = f"{sender} is served here and cannot be the sender"
            refusal = Refusal(StreamCondition.INVALID_FROM, text, Ending(Cause.INVALID_FROM, text))
        return refusal


class ReceivingPhase(ManagedPhase):
    """A phase that refuses every element of negotiation and every answer. Subclasses accept some."""

    stream: ReceivingContext
    inputs = {
        (TLS, "starttls"): "starttls",
        (SASL, "auth"): "auth",
        (SASL, "response"): "respond",
        (SASL, "abort"): "abort",
        (DIALBACK, "result"): "result",
        (DIALBACK, "verify"): "verify",
        (BIDI, "bidi"): "bidi",
        (MANAGEMENT, "enable"): "enable",
        (MANAGEMENT, "resume"): "resume",
        (MANAGEMENT, "r"): "requested",
        (MANAGEMENT, "a"): "acknowledged",
    }

    def starttls(self, element: Element) -> None:
        """Refuse `<starttls/>`: it is not offered in this phase (R7)."""
        self.fail_tls(Cause.PROTOCOL_ERROR, "<starttls/> was not offered")

    def pair_of(self, stanza: Stanza) -> Pair:
        pairs = self.stream.pairs
        return pairs.routes.get((stanza.from_, stanza.to)) or pairs.admit(stanza, self.stream.options.serves)

    def resolved(self, refusal: Refusal | None) -> None:
        raise self.unasked("resolved")

    def identified(self, peers: tuple[Domain, ...]) -> None:
        raise self.unasked("identified")

    def judged(self, permission: Permission, peer: Domain | None) -> None:
        raise self.unasked("judged")

    def dialback_answered(self, pair: Pair, outcome: DialbackOutcome) -> None:
        raise self.unasked("dialback_answered")

    def resumed(self, resumption: Resumption | None, past: Counters | None) -> None:
        raise self.unasked("resumed")

    def fail_tls(self, cause: Cause, detail: str) -> NoReturn:
        """Send `<failure/>` and the closing tag, and end the stream (R7)."""
        raise Stop(Ending(cause, detail), Element("failure", TLS))
