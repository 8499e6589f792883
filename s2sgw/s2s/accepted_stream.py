"""The life of a stream that was opened towards us, on either leg: its questions, its stanzas, its end."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.authentication.refusals import policy_changed
from s2sgw.ingress.pair_ingress import IngressServices
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.net.admission import AdmittedConnection
from s2sgw.net.connection import StreamConnection
from s2sgw.reporting.record import Leg, direction_of
from s2sgw.s2s.legs import ReceivingLeg
from s2sgw.s2s.resumption_table import ResumptionTable
from s2sgw.s2s.shared_stream import SharedStream
from s2sgw.stream.events import (
    Acknowledged,
    ClosingTagDue,
    DialbackNeeded,
    DialbackOutcome,
    Event,
    IdentityNeeded,
    JudgementNeeded,
    LimitHit,
    ManagementEnabled,
    Method,
    PairProven,
    PairRefused,
    Permission,
    Refusal,
    ResolutionNeeded,
    Resumed,
    ResumptionNeeded,
    StanzasReceived,
)
from s2sgw.stream.receiving import ReceivingStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.registered_domain import registered_domain
from s2sgw.xmpp.token_bucket import TokenBucket

#: Seconds for which a peer that a changed policy refused is not judged again on its stream.
REFUSED_SECONDS = 60.0
#: Refused pairs that are recorded for one stream: this many at once, and then one a minute.
RECORDS, RECORDS_PER_SECOND = 64, 1 / 60
#: Ends of a stream that say nothing new of pairs that were refused on it before.
_WITHOUT_NEWS = (Cause.NEGOTIATION_TIMEOUT, Cause.CONNECTION_LOST)


class _Refused(NamedTuple):
    """In place of the policy by which a peer was judged: a changed one has refused it. The engine asks for no judgement again."""

    ending: Ending
    policy: object
    until: float


class StreamRegister(Protocol):
    """The register of accepted streams: what each proves and carries."""

    sessions: ResumptionTable

    def proves(self, stream: AcceptedStream, connection: StreamConnection, pair: Pair) -> None: ...

    def carries(self, stream: AcceptedStream, pair: Pair) -> None: ...

    def resumes(self, stream: AcceptedStream) -> None: ...

    def gone(self, stream: AcceptedStream, connection: StreamConnection) -> None: ...


class AcceptedStream:
    """The owner of one accepted `StreamConnection`."""

    log = Logger()

    def __init__(
        self, side: ReceivingLeg, engine: ReceivingStream, ingress_services: IngressServices, register: StreamRegister,
        admitted: AdmittedConnection | None = None,
    ) -> None:
        self.engine = engine
        self.side = side
        self.peer: Domain | None = None
        self.local: Domain | None = None
        self.methods: dict[Pair, str] = {}
        #: the domains whose stanzas come here, each with what led to its judgement
        self.senders: dict[Domain, tuple[str, ...]] = {}
        #: what led to the last judgement, and to that of each peer that may authenticate and has not
        self.reasons: tuple[str, ...] = ()
        self._judged_peers: dict[Domain, tuple[str, ...]] | None = None
        #: the policies by which peers were judged: that of the first peer, and those of further ones
        self._judged_first: Domain | None = None
        self._policy: object = None
        self._policies: dict[Domain, object] | None = None
        #: the pairs that are being proven, while none is: the end of the stream refuses all of them
        self._claims: dict[Pair, None] | None = None
        self._records: TokenBucket | None = None
        self._ingress_services = ingress_services
        self._record = ingress_services.record
        self._register = register
        self._admitted = admitted
        #: the pairs whose stanzas may go back on it
        self.carried: list[Pair] = []
        self.incoming: StreamIngress
        self.shared_stream: SharedStream
        self._questions: list[Deferred[Any]] = []
        self._is_connected = self._over = self._left = self._abandoned = False
        self.since = ingress_services.clock.seconds()

    def connected(self, connection: StreamConnection) -> None:
        """Begin: the other side opened the connection."""
        self._is_connected = True
        self.incoming = StreamIngress(
            self._ingress_services, connection, self.engine, self.side.leg, self.side, self.senders,
        )
        self.shared_stream = SharedStream(self.side, connection, self.engine)

    def paused(self, connection: StreamConnection) -> None:
        """Do nothing: our answers are few and bounded by the questions, and stanzas that go back wait."""
        self.shared_stream.slow()

    def resumed(self, connection: StreamConnection) -> None:
        """See `paused`."""
        self.shared_stream.free()

    def event(self, connection: StreamConnection, event: Event) -> None:
        """Handle one event of the engine (`net.connection` carries out its orders)."""
        match event:
            case StanzasReceived(pair, stanzas):
                self.incoming.stanzas(pair, stanzas)
            case ResolutionNeeded(peer, local):
                self._assert(peer, local)
                self._ask(connection, self.side.resolve(connection, event), self.engine.resolved)
            case IdentityNeeded():
                connection.step(self.engine.identified, self.side.identify(connection))
            case JudgementNeeded(peer, local):
                self._assert(peer, local)
                self._claimed(Pair(peer, local))
                self._ask(connection, self._judge(connection, event), partial(self._judged, peer))
            case DialbackNeeded(pair):
                self._claimed(pair)
                self._ask(connection, self._verify(connection, event), partial(self.engine.dialback_answered, pair))
            case PairProven(pair, "bidi"):
                self._carries_back(connection, pair)
            case PairProven(pair, method):
                self._pair_proven(connection, pair, method)
            case PairRefused(pair, ending):
                self._claims = self._claims or {}
                self._claims.pop(pair, None)
                if not ending.is_faultless and self._takes_record():
                    self._record_refusal(connection, pair, ending)
            case ManagementEnabled():
                self.incoming.managed()
                if self.engine.resumption is not None:
                    self._register.sessions.opened(self.engine.resumption.id, self)
                self.shared_stream.event(event)
            case Acknowledged():
                self.shared_stream.event(event)
            case LimitHit(limit):
                self._record.limit_hit(limit)
            case ClosingTagDue(ending):
                self.incoming.peer_closing(ending)
            case ResumptionNeeded(id):
                connection.step(self.engine.resumed, *self._register.sessions.claim(id, self))
            case Resumed(count):
                self._go_on(connection, count)

    def ended(self, connection: StreamConnection, ending: Ending) -> None:
        """Release everything: the connection is gone. Called exactly once."""
        self._over = True
        if self.methods:
            self.side.outcomes.closed("inbound")
        self._register.gone(self, connection)
        for question in list(self._questions):
            question.cancel()
        if self._is_connected and not self._leave(ending):
            self.shared_stream.lost(ending)  # first, so that nothing of what is passed on now is written here
            self.incoming.close(ending)
        self._account(connection, ending)

    # --- resumption (XEP-0198 §5) ---

    @property
    def leg(self) -> Leg:
        return self.side.leg

    @property
    def connection(self) -> StreamConnection:
        return self.shared_stream.connection

    @property
    def managed(self) -> bool:
        """Whether stanzas are acknowledged on this stream (XEP-0198)."""
        return self.engine.managed

    @property
    def busy(self) -> bool:
        """Whether some stanza of ours is in flight on it (XEP-0288)."""
        return any(user.busy for user in self.shared_stream.users)

    @property
    def pairs(self) -> frozenset[Pair]:
        """Those proven, in both directions."""
        return frozenset([*self.methods, *self.carried])

    def _leave(self, ending: Ending) -> bool:
        """Keep the stream if it broke off and can be resumed; return whether it is kept."""
        resumption = self.engine.resumption
        if resumption is not None:
            sessions = self._register.sessions
            sessions.closed(resumption.id)
            broken = self.engine.broken_off() is not None and not self._abandoned
            self._left = broken and sessions.keep(resumption, self, ending)
        return self._left

    def displace(self) -> None:
        """Leave the stream: the other side goes on with it on another connection."""
        text = "the stream was resumed on another connection"
        self._leave(Ending(Cause.CONNECTION_LOST, text))
        ending = Ending(Cause.CLOSED, text, condition=StreamCondition.CONFLICT.value)
        self.shared_stream.connection.fail(Refusal(StreamCondition.CONFLICT, text, ending))

    def _go_on(self, connection: StreamConnection, count: int) -> None:
        assert self.engine.resumption is not None
        self.shared_stream.event(ManagementEnabled())
        self._register.sessions.resumed(self.engine.resumption.id, self, count)
        self._register.resumes(self)
        self._record.standing(
            "stream resumed", direction_of(self.side.leg), self.side.leg, next(iter(self.methods)),
            address=connection.peer_address,
        )

    # --- questions ---

    def _assert(self, peer: Domain, local: Domain) -> None:
        if self.peer is None or not self.methods:
            self.peer, self.local = peer, local
            if self._admitted is not None:
                self._admitted.claim(peer.ascii)

    def _note_policy(self, peer: Domain, policy: object) -> None:
        """Note the policy by which a peer is judged. The peer decides when it proves itself by it."""
        if self._judged_first is None or peer == self._judged_first:
            self._judged_first, self._policy = peer, policy
        else:
            self._policies = self._policies or {}
            self._policies[peer] = policy

    async def _judge(self, connection: StreamConnection, question: JudgementNeeded) -> tuple[Permission, tuple[str, ...]]:
        """Judge a peer, and again if its policy changes meanwhile."""
        while True:
            self._note_policy(question.peer, self.side.policy(question.peer))
            answer = await self.side.judge(connection, question)
            if not self._is_outdated(question.peer):
                return answer

    async def _verify(self, connection: StreamConnection, question: DialbackNeeded) -> DialbackOutcome:
        """Verify a key. If the policy has changed since its peer was judged, the new one must let it in."""
        outcome, peer = await self.side.verify(connection, question), question.pair.sender
        while outcome.type == "valid" and self._is_outdated(peer):
            policy, now, before = self.side.policy(peer), self._ingress_services.clock.seconds(), self._judged_by(peer)
            if isinstance(before, _Refused) and before.policy == policy and now < before.until:
                return DialbackOutcome("error", before.ending)
            refusal = await self.side.reconsider(connection, question.pair, "dialback")
            if refusal is not None:
                outcome = DialbackOutcome("error", refusal.ending)
                self._note_policy(peer, _Refused(refusal.ending, policy, now + REFUSED_SECONDS))
            else:
                self._note_policy(peer, policy)
        return outcome

    def _is_outdated(self, peer: Domain) -> bool:
        """Return whether the policy has changed since the peer was judged. A proven peer is judged by each reload."""
        if self._judged_first is None or peer in self.senders:
            return False
        policy, judged_by = self.side.policy(peer), self._judged_by(peer)
        return policy is not judged_by and policy != judged_by

    def _judged_by(self, peer: Domain) -> object:
        return self._policy if peer == self._judged_first else (self._policies or {}).get(peer)

    def _claimed(self, pair: Pair) -> None:
        if self.methods:
            return
        if self._claims is None:
            self._claims = {}
        self._claims[pair] = None

    def _takes_record(self) -> bool:
        """Return whether one more refused pair of this stream is recorded. A stream may claim names without end."""
        now = self._ingress_services.clock.seconds()
        if self._records is None:
            self._records = TokenBucket(RECORDS_PER_SECOND, now, burst=RECORDS)
        return self._records.take(now)

    def _record_refusal(self, connection: StreamConnection, pair: Pair, ending: Ending) -> None:
        """Record that a pair was refused. The stream may go on for others."""
        sender, recipient = str(pair.sender), str(pair.recipient)
        names = (sender, recipient) if self.side.leg == "federation" else (recipient, sender)
        self._record.refused(direction_of(self.side.leg), self.side.leg, names, connection.peer_address, ending)

    def _ask(
        self, connection: StreamConnection, question: Coroutine[Any, Any, Any], answer: Callable[[Any], list[Event]],
    ) -> None:
        deferred = Deferred.fromCoroutine(question)
        self._questions.append(deferred)

        def done(result: Any) -> None:
            self._questions.remove(deferred)
            if not self._over:
                if self._admitted is not None:
                    self._admitted.advance()
                connection.step(answer, result)

        def failed(failure: Failure) -> None:
            self._questions.remove(deferred)
            if not self._over:
                self.log.failure("a question of a stream could not be answered", failure)
                connection.close(Ending(Cause.INTERNAL))

        deferred.addCallbacks(done, failed)

    def _judged(self, peer: Domain, answer: tuple[Permission, tuple[str, ...]]) -> list[Event]:
        permission, self.reasons = answer
        if permission.refusal is not None and self._policies:
            self._policies.pop(peer, None)  # the engine forgets it, too: a stream may go on claiming new names
        if permission.refusal is None:
            self._judged_peers = self._judged_peers or {}
            self._judged_peers[peer] = self.reasons
        return self.engine.judged(permission, peer)

    def _add_sender(self, peer: Domain) -> None:
        """Note that stanzas of `peer` may come here, and what led to that."""
        judged: dict[Domain, tuple[str, ...]] = self._judged_peers or {}
        self.senders[peer] = judged.pop(peer, self.senders.get(peer, ()))
        self._judged_peers = judged or None

    def _pair_proven(self, connection: StreamConnection, pair: Pair, method: Method) -> None:
        excess = None if self.methods else self.side.excess(connection, pair)
        if excess is None and not self.methods and self._is_outdated(pair.sender):
            excess = policy_changed(pair.sender)
        if excess is not None:
            connection.fail(excess)
            return
        if not self.methods:
            self.side.outcomes.opened("inbound", pair.sender, method, connection.tls_version)
            if self.leg == "federation":
                connection.belong_to(registered_domain(pair.sender.ascii))
        if pair not in self.methods:
            self.incoming.proven(pair)
        self.methods[pair] = method
        self._claims = None
        if self._admitted is not None:
            self._admitted.prove()
        self._add_sender(pair.sender)
        connection.shared = connection.shared or len(self.methods) > 1
        self.side.proven(connection, pair, method)
        self._record.standing(
            "stream proven", direction_of(self.side.leg), self.side.leg, pair, self.peer, method=method,
            address=connection.peer_address, tls=connection.tls_version or "none",
            detail="; ".join(self.senders[pair.sender]),
        )
        self._register.proves(self, connection, pair)

    def _carries_back(self, connection: StreamConnection, pair: Pair) -> None:
        """Let stanzas of `pair` go back on this stream: queues that wait for a stream need not open one (XEP-0288)."""
        self._record.standing(
            "stream carries back", "outbound" if self.side.leg == "federation" else "inbound", self.side.leg, pair, self.peer,
            method="bidi", address=connection.peer_address,
        )
        self.carried.append(pair)
        self.shared_stream.allow(pair)
        self._register.carries(self, pair)

    def reconsider(self) -> None:
        """Admit the pairs anew: the policy has changed."""
        self.incoming.reconsider()

    # --- endings ---

    def abandon(self, concerns: Callable[[Pair], bool], ending: Ending) -> None:
        """End the stream at once, for good: another node has the pairs that `concerns` is true for.

        Nothing is written, and nothing that came for these pairs is passed on. What came for others is.
        """
        self._abandoned = True
        self.incoming.abandon(concerns)
        self.connection.abort(ending)

    def _account(self, connection: StreamConnection, ending: Ending) -> None:
        failed = self.engine.sasl_failure
        if failed is not None and not self.methods and (ending.in_order or ending.cause in _WITHOUT_NEWS):
            ending = failed  # the other side gave up after our `<failure/>`
        peer, local = (self.peer, self.local) if self.peer is not None else self.engine.claimed
        sender, recipient = str(peer or ""), str(local or "")
        pair = (sender, recipient)
        if self.methods or ending.in_order:
            self._record.standing(
                "stream closed", direction_of(self.side.leg), self.side.leg, pair, self.peer, layer=ending.layer.value,
                cause=ending.cause.value, address=connection.peer_address, detail=ending.detail,
                pairs=len(self.methods) if len(self.methods) > 1 else None,
            )
        names = pair if self.side.leg == "federation" else (recipient, sender)
        if self.methods and ending.refuses_peer:
            self._record.refused(direction_of(self.side.leg), self.side.leg, names, connection.peer_address, ending)
        elif not (self.methods or ending.in_order):
            ending = self.side.outcomes.accepted_failed(names, ending)
            open_claims = {(str(claim.sender), str(claim.recipient)): claim for claim in self._claims or ()}
            all_refused = self._claims == {} and ending.cause in _WITHOUT_NEWS
            if not (all_refused or open_claims) or open_claims.pop(pair, None) is not None:
                self._record.refused(
                    direction_of(self.side.leg), self.side.leg, names, connection.peer_address, ending, self.reasons,
                )
            for claim in open_claims.values():
                self._record_refusal(connection, claim, ending)
