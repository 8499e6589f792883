"""The phases of a stream that we open, in their order (R1, R3–R9, R24, R25, R27)."""

from __future__ import annotations

from collections.abc import Callable

from s2sgw.stream import bidi, dialback, sasl
from s2sgw.stream.events import DETAIL_CHARACTERS, JudgementNeeded, PairRefused, Permission, StartTLS, Verified, VerifyReady
from s2sgw.stream.features import StreamFeatures
from s2sgw.stream.initiating_context import Answered, InitiatingContext, InitiatingPhase
from s2sgw.stream.negotiation import VERSION, Stop, TLSHandshake, refuse, refused
from s2sgw.stream.sasl import ClientMechanism, SASLRefused
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import RemoteFault, StreamCondition
from s2sgw.xmpp.header import Header
from s2sgw.xmpp.jid import Domain, InvalidJID, Pair
from s2sgw.xmpp.namespaces import TLS

INJECTED = "plain text was sent behind <proceed/>"


# --- headers and features --------------------------------------------------------------------------------------------


class Idle(InitiatingPhase):
    """Nothing has been sent."""

    mute = True

    def begin(self) -> None:
        if self.stream.options.direct_tls:
            self.stream.phase = Handshaking(self.stream)
        else:
            self.stream.open_stream()
            self.stream.phase = AwaitHeader(self.stream, AwaitFeatures)


class AwaitHeader(InitiatingPhase):
    """Our header was sent."""

    def __init__(self, stream: InitiatingContext, then: type[AwaitFeatures]) -> None:
        super().__init__(stream)
        self._then = then

    def header(self, header: Header) -> None:
        pre_1_0 = self.stream.pre_1_0 = _check_version(header.version)
        options = self.stream.options
        answered = Answered(
            header.id or "", header.dialback, _other(header.from_, options.peer), _other(header.to, options.local),
        )
        self.stream.phase = then = self._then(self.stream, answered)
        if pre_1_0:
            then.decide()  # without features: only dialback is left


class AwaitFeatures(InitiatingPhase):
    """The answering header has come, but not the features. TLS is not established."""

    def __init__(self, stream: InitiatingContext, answered: Answered) -> None:
        super().__init__(stream)
        self.answered = answered

    def features(self, element: Element) -> None:
        self.stream.features = StreamFeatures.read(element)
        self.decide()

    def decide(self) -> None:
        """Check the addresses of the answering header, then go on as the features allow.

        RFC 6120 §4.7.1: only an error may come from another domain than the one asked for. After TLS, Openfire answers with its
        main domain for each of its domains. That is tolerated if TLS has proven the domain asked for, because the header proves
        nothing in any case.
        """
        other = self.answered.other_to or ("" if self.stream.peer_proven else self.answered.other_from)
        if other:
            text = f"the stream header names {other}, which was not asked for"
            raise RemoteFault(StreamCondition.INVALID_FROM, text)
        self.stream.answered_as = self.answered.other_from
        self.choose()

    def choose(self) -> None:
        """Begin TLS, or negotiate without it, if the policy allows that."""
        tls, features = self.stream.options.tls, self.stream.features
        if features.starttls and tls != "never":
            self.stream.send(Element("starttls", TLS))
            self.stream.phase = AwaitProceed(self.stream)
        elif tls == "required":
            text = "TLS is required here, and <starttls/> was not offered"
            raise refuse(Cause.TLS_NOT_OFFERED, StreamCondition.POLICY_VIOLATION, text)
        elif features.starttls_required:
            text = "the other side requires TLS, which is disabled here"
            raise refuse(Cause.ENCRYPTION_REQUIRED, StreamCondition.UNSUPPORTED_FEATURE, text)
        else:
            self.stream.phase = Judging(self.stream, self._go_on)

    def _go_on(self) -> None:
        authenticate(self.stream, self.answered, [], None)


class AwaitSecuredFeatures(AwaitFeatures):
    """After TLS: authenticate by SASL if we have the means, else by dialback (R24, R25)."""

    def choose(self) -> None:
        options = self.stream.options
        self.stream.offered = self.stream.features
        mechanisms = sasl.choose(self.stream.means)
        if options.purpose == "verify":
            mechanisms = []
        elif options.bidi and self.stream.reachable and bidi.FEATURE in self.stream.features.names:
            self.stream.bidi = True
            self.stream.send(bidi.request())
        authenticate(self.stream, self.answered, mechanisms, None)


class AwaitAuthenticatedFeatures(AwaitFeatures):
    """The features after SASL have not come yet."""

    def choose(self) -> None:
        Ready(self.stream, self.answered).enter()
        self.stream.prove(self.stream.pair, self.stream.method)


def _check_version(version: str | None) -> bool:
    """Return whether it is a pre-1.0 stream, such as jabberd2's answer."""
    if version is not None and not VERSION.match(version):
        text = f"the stream header has version {version}; only version 1.0 is supported"
        raise RemoteFault(StreamCondition.UNSUPPORTED_VERSION, text)
    return version is None


def _other(name: str | None, domain: Domain) -> str:
    """Return `name` if it is given and is not `domain`, else ""."""
    if name is None:
        return ""
    try:
        return "" if Domain.parse(name) == domain else name
    except InvalidJID:
        return name


# --- beginning TLS ---------------------------------------------------------------------------------------------------


class AwaitProceed(InitiatingPhase):
    """`<starttls/>` was sent."""

    def proceed(self, element: Element) -> None:
        self.stream.phase = Handshaking(self.stream)
        if self.stream.left_over:
            raise Stop(Ending(Cause.TLS_INJECTION, INJECTED, "them"))
        self.stream.emit(StartTLS(self.stream.options.local, self.stream.options.peer))

    def tls_failure(self, element: Element) -> None:
        raise Stop(Ending(Cause.TLS_FAILED, "the other side answers <starttls/> with <failure/>", "them"))


class Handshaking(TLSHandshake, InitiatingPhase):
    """TLS is being negotiated."""

    injected = INJECTED

    def tls_ready(self) -> None:
        """Send nothing: `<starttls/>` was answered."""

    def tls_unavailable(self, ending: Ending) -> None:
        raise Stop(ending)

    def go_on(self) -> None:
        self.stream.phase = Judging(self.stream, self._judged)

    def _judged(self) -> None:
        if self.stream.options.zero_handshake:
            self.stream.presume_header()
            Ready(self.stream, Answered("", False)).enter()
            self.stream.prove(self.stream.pair, "zero-handshake")
            return
        self.stream.open_stream()
        self.stream.phase = AwaitHeader(self.stream, AwaitSecuredFeatures)


class Judging(InitiatingPhase):
    """The shell judges whether the other end is the domain asked for (R12). Nothing is sent until then (R13)."""

    waits = True

    def __init__(self, stream: InitiatingContext, then: Callable[[], None]) -> None:
        super().__init__(stream)
        self._then = then
        options = stream.options
        stream.emit(JudgementNeeded(options.peer, options.local, stream.secured, options.purpose == "verify"))

    def judged(self, permission: Permission) -> None:
        if permission.refusal is not None:
            raise refused(permission.refusal)
        if self.stream.options.zero_handshake and not permission.pinned:
            raise Stop(Ending(Cause.NOT_PROVEN, "a zero handshake is agreed, but no pinned key has proven the peer"))
        self.stream.reachable = permission.bidi
        self.stream.peer_proven = permission.proven and self.stream.secured
        self.stream.secret, self.stream.mutual = permission.secret, permission.mutual
        self.stream.mechanisms = permission.mechanisms
        self.stream.limit(permission.limits or self.stream.options.limits)
        self._then()


# --- authentication --------------------------------------------------------------------------------------------------


def authenticate(stream: InitiatingContext, answered: Answered, mechanisms: list[ClientMechanism], failed: Ending | None) -> None:
    """Try the best remaining mechanism, or dialback if none remains. `failed`: the failure of the last one."""
    if mechanisms:
        Authenticating(stream, answered, mechanisms).start()
    elif stream.mutual:
        text = f"{stream.options.peer} offers no mechanism that proves it to us"
        raise Stop(failed) if failed else refuse(Cause.NOT_PROVEN, StreamCondition.NOT_AUTHORIZED, text)
    else:
        Ready(stream, answered, failed).start()


class Authenticating(InitiatingPhase):
    """A SASL exchange is under way."""

    def __init__(self, stream: InitiatingContext, answered: Answered, mechanisms: list[ClientMechanism]) -> None:
        super().__init__(stream)
        self._answered = answered
        self._mechanism, *self._others = mechanisms
        self._exchange = self._mechanism.exchange(stream.means)
        self._aborted = ""  # the reason, if we aborted the exchange

    def start(self) -> None:
        """Send `<auth/>`."""
        self.stream.phase = self
        self.stream.send(sasl.auth(self._mechanism.name, self._exchange.start()))

    def challenge(self, element: Element) -> None:
        message = sasl.read_challenge(element)
        if self._aborted:
            self.unexpected(element)
        try:
            self.stream.send(sasl.response(self._exchange.respond(message)))
        except SASLRefused as why:
            self._aborted = why.text
            self.stream.send(sasl.abort())

    def success(self, element: Element) -> None:
        """Take `<success/>`. It fails if the other side must prove itself and did not (RFC 5802 §5)."""
        message = sasl.read_challenge(element)
        if self._aborted:
            self.unexpected(element)
        try:
            self._exchange.finish(message)
        except SASLRefused as why:
            text = f"{self._mechanism.name}: {why.text}"
            raise refuse(Cause.SASL_FAILED, StreamCondition.NOT_AUTHORIZED, text) from None
        self.stream.method = self._mechanism.name
        self.stream.restart()
        self.stream.open_stream()
        self.stream.phase = AwaitHeader(self.stream, AwaitAuthenticatedFeatures)

    def failure(self, element: Element) -> None:
        why = f"{self._mechanism.name}: {self._aborted or sasl.read_failure(element)}"[:DETAIL_CHARACTERS]
        failed = self.stream.sasl_failure = Ending(Cause.SASL_FAILED, why, "us" if self._aborted else "them")
        authenticate(self.stream, self._answered, self._others, failed)

    def close(self) -> None:
        raise Stop(Ending(Cause.SASL_FAILED, "the other side closed the stream instead of answering", "them"))


class Ready(InitiatingPhase):
    """Negotiation is over: pairs are requested by dialback, and keys are sent to be verified."""

    def __init__(self, stream: InitiatingContext, answered: Answered, failed: Ending | None = None) -> None:
        super().__init__(stream)
        self._answered = answered
        self._failed = failed
        self._pairs: set[Pair] = set()
        self._verifications: set[tuple[Pair, str]] = set()

    def enter(self) -> None:
        self.stream.phase = self
        self.stream.extend(self._answered)

    def start(self) -> None:
        """Request the first pair by dialback."""
        self.enter()
        if self.stream.options.purpose == "verify":
            self.stream.emit(VerifyReady())
        else:
            self.authorize(self.stream.pair)

    # --- requests ---

    def authorize(self, pair: Pair) -> None:
        if pair in self.stream.proven or pair in self._pairs:
            return
        hindrance = self._hindrance()
        if hindrance is not None:
            self._refused(pair, hindrance)
            return
        self._pairs.add(pair)
        key = self.stream.options.keys.key(pair.recipient, pair.sender, self._answered.stream_id)
        self.stream.send(dialback.result(pair, key))

    def _hindrance(self) -> Ending | None:
        """Return why dialback cannot be tried."""
        if not (self._answered.dialback or self.stream.features.dialback):
            text = "the other side offers neither a usable mechanism nor dialback"
            return self._failed or Ending(Cause.NO_COMMON_METHOD, text)
        if not self._answered.stream_id:
            return Ending(Cause.PROTOCOL_ERROR, "the other side's stream header has no id, which a dialback key needs", "them")
        return None

    def ask_verify(self, pair: Pair, stream_id: str, key: str) -> None:
        self._verifications.add((pair, stream_id))
        self.stream.send(dialback.verify(pair, stream_id, key))

    # --- answers ---

    def result(self, element: Element) -> None:
        pair = dialback.addresses(element).inverse
        outcome = dialback.outcome(element)
        if pair not in self._pairs:
            raise dialback.unsolicited(element)
        self._pairs.remove(pair)
        if outcome.ending is None:
            self.stream.prove(pair, "dialback")
        else:
            self._refused(pair, outcome.ending)

    def verify(self, element: Element) -> None:
        pair = dialback.addresses(element)
        stream_id = element.attributes.get("id", "")
        outcome = dialback.outcome(element)
        if (pair, stream_id) not in self._verifications:
            raise dialback.unsolicited(element)
        self._verifications.remove((pair, stream_id))
        self.stream.emit(Verified(pair, stream_id, outcome))

    def _refused(self, pair: Pair, ending: Ending) -> None:
        """Close a stream that is of no use any more."""
        self.stream.emit(PairRefused(pair, ending))
        if not self.stream.proven and not self._pairs and not self._verifications:
            raise Stop(ending)

    def close(self) -> None:
        if self._pairs and not self.stream.proven:
            text = "the other side closed the stream instead of answering the dialback"
            raise Stop(self._failed or Ending(Cause.DIALBACK_ERROR, text, "them"))
        super().close()
