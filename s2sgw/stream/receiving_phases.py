"""The phases of a stream that was opened towards us, in their order (R1–R9, R24, R25, R28, R29)."""

from __future__ import annotations

from dataclasses import replace

from s2sgw.stream import management, sasl
from s2sgw.stream.dialback import Request
from s2sgw.stream.dialback_authorization import DialbackAuthorization
from s2sgw.stream.events import (
    DETAIL_CHARACTERS,
    DialbackOutcome,
    JudgementNeeded,
    Method,
    Permission,
    Refusal,
    ResolutionNeeded,
    ResumptionNeeded,
    StartTLS,
    TLSUse,
)
from s2sgw.stream.management import Counters, Resumption
from s2sgw.stream.negotiation import VERSION, Stop, TLSHandshake, refuse, refused
from s2sgw.stream.receiving_context import Asserted, ReceivingContext, ReceivingPhase
from s2sgw.stream.sasl import SASLCondition, SASLRefused, ServerExchange
from s2sgw.stream.zero_handshake import Identifying
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import RemoteFault, StreamCondition
from s2sgw.xmpp.header import Header
from s2sgw.xmpp.jid import Domain, InvalidJID, Pair
from s2sgw.xmpp.namespaces import TLS

NO_TLS = "TLS is required here"
INJECTED = "plain text was sent behind <starttls/>"


# --- headers ---------------------------------------------------------------------------------------------------------


class AwaitHeader(ReceivingPhase):
    """A stream begins, before TLS."""

    def header(self, header: Header) -> None:
        asserted = self.read_header(header)
        self.stream.answer_header(asserted)
        self.begin(asserted)

    def read_header(self, header: Header) -> Asserted:
        """Return the addresses in the header. Raises the stream error that R14 requires."""
        pre_1_0 = self._check_version(header.version)
        if header.to is not None and not self.stream.may_serve(header.to):
            raise RemoteFault(StreamCondition.HOST_UNKNOWN, "the domain in the stream header's `to` is not served here")
        local = _domain("to", header.to)
        peer = _domain("from", header.from_)
        self.stream.claimed = peer, local
        if local is None and not pre_1_0:
            raise RemoteFault(StreamCondition.IMPROPER_ADDRESSING, "the stream header has no `to`")
        options = self.stream.options
        if local is not None and not (options.serves(local) or options.answers_verify(local)):
            raise RemoteFault(StreamCondition.HOST_UNKNOWN, f"{local} is not served here")
        refusal = self.stream.refusal_of(peer) if peer is not None else None
        if refusal is not None:
            raise refused(refusal)
        return Asserted(peer, local, self.stream.new_id(), pre_1_0)

    def _check_version(self, version: str | None) -> bool:
        """Return whether it is a pre-1.0 stream (R1)."""
        if version is None and self.stream.options.pre_1_0:
            return True
        if version is None or not VERSION.match(version):
            said = "no version" if version is None else f"version {version}"
            raise RemoteFault(StreamCondition.UNSUPPORTED_VERSION, f"the stream header has {said}; only version 1.0 is supported")
        return False

    def begin(self, asserted: Asserted) -> None:
        """Continue after a valid header."""
        tls = self.stream.options.tls(asserted.peer)
        if asserted.pre_1_0:
            if tls == "required":
                text = f"{NO_TLS}; a stream without version has none"
                raise refuse(Cause.ENCRYPTION_REQUIRED, StreamCondition.POLICY_VIOLATION, text)
            self.stream.phase = Conversing(self.stream, asserted, None)
            return
        self.stream.offer(asserted, Permission(dialback=True))
        self.stream.phase = Plain(self.stream, asserted, tls)
        if asserted.peer is not None and asserted.local is not None and self.stream.options.resolve:
            self.stream.emit(ResolutionNeeded(asserted.peer, asserted.local))


class AwaitSecuredHeader(AwaitHeader):
    """A stream begins anew after TLS. Everything received before is forgotten (R8)."""

    def begin(self, asserted: Asserted) -> None:
        if asserted.peer is not None and asserted.local is not None:
            self.stream.phase = Judging(self.stream, asserted)
            self.stream.emit(JudgementNeeded(asserted.peer, asserted.local, True))
        elif self.stream.options.pre_1_0:
            self.stream.offer(asserted, Permission(dialback=True))
            self.stream.phase = Conversing(self.stream, asserted, None)
        else:
            raise RemoteFault(StreamCondition.IMPROPER_ADDRESSING, "the stream header has no `from`, which authentication needs")


class AwaitAuthenticatedHeader(AwaitHeader):
    """A stream begins anew after SASL: it is the stream of the authenticated pair."""

    def __init__(self, stream: ReceivingContext, pair: Pair, permission: Permission) -> None:
        super().__init__(stream)
        self._pair = pair
        self._permission = permission

    def begin(self, asserted: Asserted) -> None:
        if asserted.peer not in (None, self._pair.sender) or asserted.local != self._pair.recipient:
            raise RemoteFault(StreamCondition.INVALID_FROM, f"the stream header names another pair than {self._pair}")
        self.stream.offer(asserted, self._permission)
        self.stream.phase = Conversing(self.stream, replace(asserted, peer=self._pair.sender), self._permission)
        self.stream.reach(self._pair)


def _domain(attribute: str, text: str | None) -> Domain | None:
    try:
        return None if text is None else Domain.claimed(text)
    except InvalidJID as error:
        raise error.fault(f"the stream header's `{attribute}` is not a domain") from None


# --- before TLS ------------------------------------------------------------------------------------------------------


class Plain(ReceivingPhase):
    """The features before TLS were sent."""

    def __init__(self, stream: ReceivingContext, asserted: Asserted, tls: TLSUse) -> None:
        super().__init__(stream)
        self._asserted = asserted
        self._tls = tls
        self._unresolved = asserted.peer is not None and stream.options.resolve
        self._refusals = SASLRefusals(stream)

    def resolved(self, refusal: Refusal | None) -> None:
        if not self._unresolved:
            raise self.unasked("resolved")
        if refusal is not None:
            raise refused(refusal)
        self._unresolved = False

    def starttls(self, element: Element) -> None:
        if self._tls == "never":
            super().starttls(element)
        if element.children or element.text:
            self.fail_tls(Cause.PROTOCOL_ERROR, "<starttls/> is not empty")
        if self.stream.left_over:
            self.fail_tls(Cause.TLS_INJECTION, INJECTED)
        if self._unresolved:
            self.stream.phase = ResolvingForTLS(self.stream, self, element)
        else:
            self._proceed()

    def _proceed(self) -> None:
        assert self._asserted.local is not None  # a 1.0 header has `to`
        self.stream.phase = PreparingTLS(self.stream)
        self.stream.emit(StartTLS(self._asserted.local, self._asserted.peer))

    def auth(self, element: Element) -> None:
        if self._tls == "never":
            self._refusals.refuse(SASLRefused(SASLCondition.INVALID_MECHANISM, "no mechanism is offered"))
        else:
            self._refusals.refuse(SASLRefused(SASLCondition.ENCRYPTION_REQUIRED, "authentication comes after TLS"))

    def result(self, element: Element) -> None:
        self._converse(element)

    def verify(self, element: Element) -> None:
        self._converse(element)

    def _converse(self, element: Element) -> None:
        """Begin dialback without TLS, if the policy allows it (R28)."""
        if self._tls == "required":
            raise refuse(Cause.ENCRYPTION_REQUIRED, StreamCondition.POLICY_VIOLATION, f"{NO_TLS} before dialback")
        if self._unresolved:
            self.stream.phase = Resolving(self.stream, self, element)
            return
        self.stream.phase = Conversing(self.stream, self._asserted, None)
        self.stream.phase.element(element)


class Resolving(ReceivingPhase):
    """The first step of negotiation waits for the resolution of the peer's hostname (R2)."""

    waits = True

    def __init__(self, stream: ReceivingContext, plain: Plain, element: Element) -> None:
        super().__init__(stream)
        self._plain = plain
        self._element = element

    def resolved(self, refusal: Refusal | None) -> None:
        self._plain.resolved(refusal)
        self.stream.phase = self._plain
        self._plain.element(self._element)


class ResolvingForTLS(Resolving):
    """The same for `<starttls/>`: no byte may follow it (R6)."""

    def read(self, data: bytes) -> None:
        self.fail_tls(Cause.TLS_INJECTION, INJECTED)


class PreparingTLS(ReceivingPhase):
    """`<starttls/>` is answered when the shell has a certificate: `<proceed/>` cannot be taken back (R7)."""

    waits = True

    def read(self, data: bytes) -> None:
        self.fail_tls(Cause.TLS_INJECTION, INJECTED)

    def tls_ready(self) -> None:
        self.stream.send(Element("proceed", TLS))
        self.stream.phase = Handshaking(self.stream)

    def tls_unavailable(self, ending: Ending) -> None:
        raise Stop(ending, Element("failure", TLS))


class Handshaking(TLSHandshake, ReceivingPhase):
    """TLS is being negotiated."""

    injected = INJECTED

    def go_on(self) -> None:
        if self.stream.options.zero_handshake:
            Identifying(self.stream).begin()
        else:
            self.stream.phase = AwaitSecuredHeader(self.stream)


# --- after TLS -------------------------------------------------------------------------------------------------------


class Judging(ReceivingPhase):
    """The features wait until the shell has judged the evidence (docs/decisions.md#external)."""

    waits = True

    def __init__(self, stream: ReceivingContext, asserted: Asserted) -> None:
        super().__init__(stream)
        self._asserted = asserted

    def judged(self, permission: Permission, peer: Domain | None) -> None:
        if peer not in (None, self._asserted.peer):
            raise self.unasked(f"judged for {peer}")
        if permission.refusal is not None:
            raise refused(permission.refusal)
        if not permission.dialback and not sasl.offered(permission):
            text = f"{self._asserted.peer} has no way to authenticate here"
            raise refuse(Cause.NO_COMMON_METHOD, StreamCondition.POLICY_VIOLATION, text)
        assert self._asserted.peer is not None  # otherwise nothing could have been judged
        self.stream.permit(self._asserted.peer, permission)
        self.stream.offer(self._asserted, permission)
        self.stream.phase = Authenticating(self.stream, self._asserted, permission)


class Conversing(ReceivingPhase):
    """Pairs are authorized by dialback, keys are verified, and stanzas of proven pairs pass."""

    def __init__(self, stream: ReceivingContext, asserted: Asserted, permission: Permission | None) -> None:
        super().__init__(stream)
        self.asserted = asserted
        self._granted = permission
        self._authorisation: DialbackAuthorization | None = None

    @property
    def authorisation(self) -> DialbackAuthorization:
        """The requests of dialback on this stream. Most streams have none, so it is made for the first one."""
        if self._authorisation is None:
            self._authorisation = DialbackAuthorization(self.stream, self.asserted, self._granted)
        return self._authorisation

    @property
    def asks_nothing(self) -> bool:
        """Whether no request of dialback is open."""
        return self._authorisation is None or self._authorisation.idle

    def result(self, element: Element) -> None:
        if self._is_for_us(element):
            self.authorisation.result(Request.read(element))

    def verify(self, element: Element) -> None:
        if self._is_for_us(element):
            self.authorisation.verify(Request.read(element))

    def _is_for_us(self, element: Element) -> bool:
        """Return whether a request may be for a domain that is served. Any other is refused without parsing."""
        if self.stream.may_serve(element.attributes.get("to", "")):
            return True
        self.authorisation.not_served(element)
        return False

    def enable(self, element: Element) -> None:
        self.stream.enable(element)

    def resume(self, element: Element) -> None:
        """Ask the shell for the stream to resume, if resumption is allowed (XEP-0198 §5)."""
        hindrance = self.stream.hindrance()
        if hindrance:
            self.stream.send(management.failed(hindrance))
        else:
            self.stream.phase = Resuming(self, element)
            self.stream.emit(ResumptionNeeded(element.attributes.get("previd", "")))

    def judged(self, permission: Permission, peer: Domain | None) -> None:
        self.authorisation.judged(permission, peer)

    def dialback_answered(self, pair: Pair, outcome: DialbackOutcome) -> None:
        self.authorisation.answered(pair, outcome)


class Resuming(ReceivingPhase):
    """The shell looks for the stream to resume."""

    waits = True

    def __init__(self, before: Conversing, element: Element) -> None:
        super().__init__(before.stream)
        self._before = before
        self._element = element

    def resumed(self, resumption: Resumption | None, past: Counters | None) -> None:
        self.stream.phase = self._before
        if resumption is None:
            self.stream.send(management.failed("item-not-found", past))
        else:
            self.stream.resume(resumption, self._element)

    def judged(self, permission: Permission, peer: Domain | None) -> None:
        self._before.judged(permission, peer)

    def dialback_answered(self, pair: Pair, outcome: DialbackOutcome) -> None:
        self._before.dialback_answered(pair, outcome)


class Authenticating(Conversing):
    """The features after TLS were sent: SASL, dialback, or both are offered."""

    def __init__(self, stream: ReceivingContext, asserted: Asserted, permission: Permission) -> None:
        super().__init__(stream, asserted, permission)
        self._permission = permission
        self._refusals = SASLRefusals(stream)

    def auth(self, element: Element) -> None:
        if self.stream.pairs or not self.asks_nothing:
            self.unexpected(element)
        name = element.attributes.get("mechanism")
        mechanism = next((row for row in sasl.offered(self._permission) if row.name == name), None)
        if mechanism is None:
            self._refusals.refuse(SASLRefused(SASLCondition.INVALID_MECHANISM, "the mechanism is not offered"))
            return
        Exchanging(self, mechanism.name, mechanism.exchange(self._pair, self._permission)).step(element)

    def bidi(self, element: Element) -> None:
        """Take `<bidi/>`, which comes before authentication, if it was offered (XEP-0288 §2.1)."""
        if not self._permission.bidi or self.stream.pairs or not self.asks_nothing:
            self.unexpected(element)
        self.stream.carry_back()

    def authenticated(self, method: Method, conclusion: bytes | None) -> None:
        """Begin the stream anew: SASL has succeeded (R25)."""
        pair = self._pair
        self.stream.send(sasl.success(conclusion))
        self.stream.authenticated = True
        self.stream.prove(pair, method)
        self.stream.restart()
        self.stream.phase = AwaitAuthenticatedHeader(self.stream, pair, self._permission)

    @property
    def _pair(self) -> Pair:
        """Return the pair in the header."""
        assert self.asserted.peer is not None  # otherwise nothing could have been judged
        assert self.asserted.local is not None
        return Pair(self.asserted.peer, self.asserted.local)

    def refuse(self, why: SASLRefused) -> None:
        """Send the failure of SASL. Another try, or dialback, may follow (R25)."""
        self.stream.phase = self
        self._refusals.refuse(why)


class Exchanging(ReceivingPhase):
    """A SASL exchange is under way."""

    def __init__(self, before: Authenticating, method: Method, exchange: ServerExchange) -> None:
        super().__init__(before.stream)
        self._before = before
        self._method = method
        self._exchange = exchange

    def respond(self, element: Element) -> None:
        self.step(element, b"")

    def step(self, element: Element, without_text: bytes | None = None) -> None:
        """Take a message.

        An `<auth/>` without text has no initial response; a `<response/>` without text is empty (RFC 4422 §3).
        """
        try:
            challenge = self._exchange.step(sasl.decode(element.text) or (b"" if element.text else without_text))
        except SASLRefused as why:
            self._before.refuse(why)
            return
        if challenge is None:
            self._before.authenticated(self._method, self._exchange.conclusion)
        else:
            self.stream.send(sasl.challenge(challenge))
            self.stream.phase = self
            self.stream.read_on()

    def abort(self, element: Element) -> None:
        self._before.refuse(SASLRefused(SASLCondition.ABORTED, "aborted as asked"))


class SASLRefusals:
    """The failures of one stream, within a bound (R25)."""

    def __init__(self, stream: ReceivingContext) -> None:
        self._stream = stream
        self._count = 0

    def refuse(self, why: SASLRefused) -> None:
        """Send `<failure/>`. The last one ends the stream."""
        self._count += 1
        self._stream.sasl_failure = Ending(Cause.SASL_FAILED, str(why)[:DETAIL_CHARACTERS])
        self._stream.send(sasl.failure(why))
        if self._count >= sasl.FAILURES:
            raise refuse(Cause.SASL_FAILED, StreamCondition.POLICY_VIOLATION, f"{self._count} failed authentications ({why})")
        self._stream.read_on()
