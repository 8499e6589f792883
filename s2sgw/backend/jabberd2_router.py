"""jabberd2 through its router: one connection, on which the gateway is the default route in place of jabberd2's own s2s.

All domains of the backend share the connection. Each queue has a part of it, and loses the part while no component of jabberd2
serves its domain. jabberd2 accepts everything that comes by its router, so nothing behind our checks checks again: stanzas are
serialised anew (`xmpp.content`), and addressed to the domain of their queue.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.delivery.next_hop import NextHopLimits, StreamFacts
from s2sgw.delivery.outbound_stream import OutboundStream, ResumableStream, StreamUnavailable, StreamUser
from s2sgw.ingress.pair_ingress import IngressServices
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.net.connection import StreamConnection
from s2sgw.net.dialing import Build, DialFailed
from s2sgw.queue.backoff import BackOff, Chance
from s2sgw.queue.bounce import bounce
from s2sgw.s2s.shared_stream import tell_lost
from s2sgw.s2s.stream_outcomes import StreamOutcomes
from s2sgw.stream.events import Announced, Bound, Event, NotResumed, Resumed, Routed, StanzasReceived
from s2sgw.stream.jabberd2_router import RouterOptions, RouterStream, wrapped
from s2sgw.xmpp.content_namespace import is_fit
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, InvalidJID, Pair, domain_of
from s2sgw.xmpp.stanza import Stanza
from s2sgw.xmpp.timer import cancel

#: Seconds until a queue tries again by itself. It is told at once when its domain is served again.
AGAIN = 30.0
#: Seconds after which a connection counts as good.
STEADY = 10.0
#: Seconds between two looks for unused parts, and of disuse until a part is dropped.
SWEEP, UNUSED = 60.0, 600.0
#: Seconds in which stanzas in flight can be acknowledged on a part that is ended for another server, and between two looks.
RETIRE_SECONDS = 5.0
RETIRE_LOOK_SECONDS = 0.1
STOPPED = Ending(Cause.SHUTDOWN)
#: Names of components that are remembered.
MAX_NAMES = 10_000
#: The cause of a returned stanza, by the router's error number. With any other number a rule of its filter has refused it.
_RETURNED = {"404": Cause.HOST_UNKNOWN, "400": Cause.ADDRESSING, "401": Cause.INTERNAL}


@dataclass(frozen=True, slots=True)
class Router:
    """The router: its address, our user (`secret` reads its file), and our domains. `stanza_bytes` 0: of any size."""

    host: str
    port: int
    user: str
    secret: Callable[[], str] = field(repr=False)
    domains: frozenset[Domain]
    stanza_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RouterServices:
    """The services of the gateway that a link uses."""

    ingress_services: IngressServices
    connection: Callable[[RouterStream, RouterLink], StreamConnection]
    dial: Callable[[str, int, Build], Awaitable[None]]
    admit: Callable[[Pair], Awaitable[Ending | None]]
    clock: IReactorTime
    random: Chance
    nonce: Callable[[], str]
    outcomes: StreamOutcomes = field(default_factory=StreamOutcomes)


class RouterPairStream:
    """The part of the link that carries one pair: an `OutboundStream`. The router acknowledges nothing and resumes nothing."""

    method = "router"
    reasons: tuple[str, ...] = ()
    ours = carries_back = managed = asking = ambiguous = False
    shared_connection = sole = True
    unacknowledged = largest_in_flight = 0
    resumable: ResumableStream | None = None
    outcome: Resumed | NotResumed | None = None

    def __init__(self, link: RouterLink, connection: StreamConnection, pair: Pair, now: float) -> None:
        self._link = link
        self.connection = connection
        self.pair = pair
        self.used = now
        self.user: StreamUser | None = None
        #: nothing more is written: another server has the domain
        self.retiring = False

    @property
    def writable(self) -> bool:
        return self.connection.writable and not self.retiring

    @property
    def busy(self) -> bool:
        """Whether its user waits for an acknowledgement."""
        return self.user is not None and self.user.busy

    @property
    def read_since(self) -> float:
        return self.connection.read_since

    @property
    def answers(self) -> bool:
        return self.pair.recipient in self._link.answering

    def note_answer(self) -> None:
        self._link.answering.add(self.pair.recipient)

    def answered_before(self, outcome: NotResumed) -> None:
        self.outcome = outcome

    def facts(self) -> StreamFacts:
        connection = self.connection
        return StreamFacts(
            "backend", self.method, self.reasons, connection.peer_address, connection.tls_version, connection.cipher, False,
            connection,
        )

    def count_sent(self, number: int) -> None:
        """Do nothing: the router acknowledges nothing."""

    @property
    def limits(self) -> NextHopLimits:
        return NextHopLimits(self._link.router.stanza_bytes or None, is_fit)

    def write(self, stanzas: Sequence[bytes]) -> bool:
        """Send the stanzas, which were all found representable."""
        self.used = self._link.now
        return self.connection.write(wrapped(self.pair.recipient, stanzas))

    def close(self, ending: Ending) -> Deferred[None]:
        """Do nothing: the link itself stays."""
        self._link.forget(self)
        return succeed(None)

    leave = close

    def abort(self, ending: Ending) -> None:
        """End this part. The link carries all pairs, and does not end for one of them."""
        self.lost(ending)

    def lost(self, ending: Ending) -> None:
        self._link.forget(self)
        if self.user is not None:
            tell_lost(self.user, ending)


class RouterLink:
    """A `StreamProvider` (see `delivery.outbound_stream`), and the owner of the connection, which is made anew whenever it is
    lost.
    """

    leg: Literal["backend"] = "backend"
    log = Logger("s2sgw")

    def __init__(self, router: Router, around: RouterServices, back_off: BackOff) -> None:
        self.router = router
        self.bound = False
        #: domains whose parts have answered a ping on the connection
        self.answering: set[Domain] = set()
        #: the backend's domains that a component of jabberd2 has announced
        self.served: set[Domain] = set()
        #: domains that the gateway gave up, and that the router may still serve
        self.former: frozenset[Domain] = frozenset()
        self._announced_names: set[str] = set()
        self.connection: StreamConnection | None = None
        self.incoming: StreamIngress | None = None
        self.ending: Ending | None = None
        self.since = 0.0
        self._around = around
        self._record = around.ingress_services.record
        self._back_off = back_off
        self._failures = 0
        self._parts: dict[Pair, RouterPairStream] = {}
        self._attempt: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._stopping = False
        self._unbound: list[Deferred[None]] = []

    @property
    def now(self) -> float:
        return self._around.clock.seconds()

    @property
    def state(self) -> str:
        """Return "bound", "connecting" or "backing off", for operators."""
        if self.bound:
            return "bound"
        return "connecting" if self._attempt is not None or self.connection is not None else "backing off"

    # --- the connection ---

    def start(self) -> None:
        """Connect, and stay connected."""
        self._timer = None
        self._attempt = Deferred.fromCoroutine(self._connect())
        self._attempt.addCallbacks(self._dialled, self._not_dialled).addErrback(self._broken)

    async def _connect(self) -> None:
        router = self.router
        options = RouterOptions(router.host, router.user, router.secret(), self._around.nonce)
        connection = self._around.connection(RouterStream(options), self)
        await self._around.dial(router.host, router.port, lambda: connection)

    def _dialled(self, _: None) -> None:
        self._attempt = None

    def _not_dialled(self, failure: Failure) -> None:
        self._attempt = None
        if failure.check(CancelledError):
            return
        problem = failure.value
        if isinstance(problem, DialFailed):
            self._failed(problem.ending)
        elif failure.check(OSError, ValueError):
            self._failed(Ending(Cause.SASL_FAILED, f"the secret cannot be read: {failure.getErrorMessage()}"))
        else:
            self.log.failure("the attempt to reach the router failed", failure)
            self._failed(Ending(Cause.INTERNAL))

    def _broken(self, failure: Failure) -> None:
        self.log.failure("the outcome of an attempt could not be handled", failure)

    def _failed(self, ending: Ending) -> None:
        """Try again later."""
        self.ending = ending
        if self._stopping:
            return
        self._failures += 1
        self._around.outcomes.attempt_failed(None, ending)
        told = self._around.outcomes.attribute(ending)
        self._record.refused("outbound", "backend", ("", self._names), str(self.router.host), told)
        self._timer = self._around.clock.callLater(self._back_off.delay(self._failures, self._around.random), self.start)

    @property
    def _names(self) -> str:
        return ", ".join(sorted(domain.text for domain in self.router.domains))

    def unbind(self) -> Deferred[None]:
        """Stop the router from bringing more. Fires when all that it had has come (or it is not there)."""
        done: Deferred[None] = Deferred()
        if not self.bound or self.connection is None:
            done.callback(None)
            return done
        self._unbound.append(done)
        self.connection.step(self._engine.unbind)
        return done

    def stop(self, ending: Ending = STOPPED) -> Deferred[None]:
        """Close gracefully, for good."""
        self._stopping = True
        cancel(self._timer)
        if self._attempt is not None:
            self._attempt.cancel()
        if self.connection is None:
            return succeed(None)
        closed = self.connection.when_closed()
        self.connection.close(ending)
        return closed

    def adopt(self, router: Router, former: Collection[Domain] = ()) -> None:
        """Use other settings of the same router: the user and the secret at the next connection, the rest at once.

        A domain that is not the router's any more stays with it if it is among `former`. The parts of others are ended.
        """
        self.former = (self.router.domains | self.former) & frozenset(former)
        self.router = router
        self.served = {each for each in self._domains if not self._announced_names.isdisjoint((each.text, each.ascii))}
        gone = [part for part in self._parts.values() if part.pair.recipient not in self._domains]
        self._end_in_order(gone, Ending(Cause.RECONFIGURED, "another server has the domain now"))

    @property
    def _domains(self) -> frozenset[Domain]:
        return self.router.domains | self.former

    def end_parts(self, domain: Domain, ending: Ending) -> None:
        """End the parts to `domain`. Stanzas in flight have some seconds to settle."""
        self._end_in_order([part for part in self._parts.values() if part.pair.recipient == domain], ending)

    def _end_in_order(self, parts: list[RouterPairStream], ending: Ending) -> Deferred[None]:
        """Write nothing more on `parts`, and end each when nothing is in flight, or `RETIRE_SECONDS` later."""
        for part in parts:
            part.retiring = True
        done: Deferred[None] = Deferred()
        self._end_quiet(parts, ending, self.now + RETIRE_SECONDS, done)
        return done

    def _end_quiet(self, parts: list[RouterPairStream], ending: Ending, latest: float, done: Deferred[None]) -> None:
        parts = [part for part in parts if self._parts.get(part.pair) is part]
        late = self.now >= latest
        self._lose([part for part in parts if late or not part.busy], ending)
        busy = [part for part in parts if self._parts.get(part.pair) is part]
        if busy:
            self._around.clock.callLater(RETIRE_LOOK_SECONDS, self._end_quiet, busy, ending, latest, done)
        else:
            done.callback(None)

    def retire(self, ending: Ending) -> Deferred[None]:
        """Close gracefully, for good: the router was removed from the configuration. What it had by then is accepted."""
        self._stopping = True
        cancel(self._timer)
        if self._attempt is not None:
            self._attempt.cancel()
        return Deferred.fromCoroutine(self._leave(ending))

    async def _leave(self, ending: Ending) -> None:
        await self._end_in_order(list(self._parts.values()), ending)  # first: the replies to our pings come from the router
        await self.unbind().addTimeout(RETIRE_SECONDS, self._around.clock, _give_up)
        await self.stop(ending)

    # --- Way ---

    def urge(self, recipient: Domain) -> None:
        """Do nothing: the router has no back-off to end."""

    def place(self, pair: Pair) -> Deferred[None] | None:
        """Return None: the link carries all pairs."""
        return None

    async def find(self, pair: Pair, broken: ResumableStream | None = None, alone: bool = False) -> OutboundStream:
        """Return a part for `pair`, while the router and the component of the recipient are there."""
        if not self.bound or self.connection is None:
            ending = self.ending or Ending(Cause.UNREACHABLE, "the router is not connected yet")
            raise StreamUnavailable(self._around.outcomes.attribute(ending), retry=AGAIN, repeated=True)
        if pair.recipient not in self.served:
            text = f"no part of jabberd2 serves {pair.recipient} at present"
            ending = self._around.outcomes.attribute(Ending(Cause.UNREACHABLE, text, "them"))
            raise StreamUnavailable(ending, self.connection.peer_address, retry=AGAIN)
        part = self._parts[pair] = RouterPairStream(self, self.connection, pair, self.now)
        return part

    def forget(self, part: RouterPairStream) -> None:
        """Drop a part that is not used any more."""
        if self._parts.get(part.pair) is part:
            del self._parts[part.pair]

    # --- ConnectionOwner ---

    @property
    def _engine(self) -> RouterStream:
        assert self.connection is not None
        engine = self.connection.engine
        assert isinstance(engine, RouterStream)
        return engine

    def connected(self, connection: StreamConnection) -> None:
        self.connection = connection
        self.answering.clear()
        self.incoming = StreamIngress(
            self._around.ingress_services, connection, self._engine, "backend", self._around, (),
        )
        connection.step(self._engine.begin)

    def event(self, connection: StreamConnection, event: Event) -> None:
        match event:
            case StanzasReceived(pair, stanzas):
                self._received(pair, stanzas)
            case Routed(stanza, None):
                self._refuse(stanza.from_, [stanza], Cause.ADDRESSING)
            case Routed(stanza, str(error)):
                self._returned(stanza, error)
            case Announced(name, served):
                self._announced(name, served)
            case Bound(True):
                self._is_bound(connection)
            case Bound(False):
                self._is_unbound()

    def ended(self, connection: StreamConnection, ending: Ending) -> None:
        was_bound, self.connection = self.bound, None
        incoming, self.incoming = self.incoming, None
        self.served.clear()
        self._announced_names.clear()
        self._lose(list(self._parts.values()), ending)
        try:
            if incoming is not None:
                incoming.close(ending)
        finally:
            self._is_unbound()
            self._gone(connection, ending, was_bound)

    def _gone(self, connection: StreamConnection, ending: Ending, was_bound: bool) -> None:
        if was_bound and self.now - self.since >= STEADY:
            self._failures = 0
        if was_bound:
            self._around.outcomes.closed("outbound")
            self._tell("router lost", connection, cause=ending.cause.value, layer=ending.layer.value, detail=ending.detail)
        self._failed(ending)

    def paused(self, connection: StreamConnection) -> None:
        for part in list(self._parts.values()):
            if part.user is not None:
                part.user.stream_slow()

    def resumed(self, connection: StreamConnection) -> None:
        """Tell the parts that the router takes more. The first may fill it again, so the order rotates."""
        for pair, part in list(self._parts.items()):
            if connection.writable and part.user is not None:
                self._parts[pair] = self._parts.pop(pair)
                part.user.stream_free()

    # --- messages of the router ---

    def _is_bound(self, connection: StreamConnection) -> None:
        self.bound = True
        self.since = self.now
        self.ending = None
        connection.negotiated()
        self._around.outcomes.opened("outbound", next(iter(self.router.domains)), "router", None)
        self._tell("router bound", connection)
        self._timer = self._around.clock.callLater(SWEEP, self._sweep)

    def _is_unbound(self) -> None:
        cancel(self._timer)
        self.bound = False
        waiting, self._unbound = self._unbound, []
        for waiter in waiting:
            waiter.callback(None)

    def _announced(self, name: str, served: bool) -> None:
        """Note that components come and go. Only the domains of the backend matter, now or after a reload."""
        if not served:
            self._announced_names.discard(name)
        elif len(self._announced_names) < MAX_NAMES:
            self._announced_names.add(name)
        domain = next((each for each in self._domains if name in (each.text, each.ascii)), None)
        if domain is None or (domain in self.served) == served:
            return
        self._tell("router announces", self.connection, local=str(domain), detail="served" if served else "no longer served")
        if served:
            self.served.add(domain)
            self._around.ingress_services.queues.retry_now(domain)
        else:
            self.served.discard(domain)
            gone = Ending(Cause.CONNECTION_LOST, f"the part of jabberd2 that serves {domain} has gone", "them")
            self._lose([part for part in self._parts.values() if part.pair.recipient == domain], gone)

    def _lose(self, parts: list[RouterPairStream], ending: Ending) -> None:
        for part in parts:
            part.lost(ending)

    def _received(self, pair: Pair, stanzas: list[Stanza]) -> None:
        """Take stanzas of users to peers, or to another backend."""
        cause = self._objection(pair)
        beyond = [stanza for stanza in stanzas if not stanza.data]
        if cause is not None:
            self._refuse(pair.sender.text, stanzas, cause)
        elif beyond:
            self._around.ingress_services.bounces.refuse(pair, beyond, Cause.LIMIT_EXCEEDED, source=self.connection)
            stanzas = [stanza for stanza in stanzas if stanza.data]
        if cause is None and stanzas and self.incoming is not None:
            self.incoming.stanzas(pair, stanzas)

    def _objection(self, pair: Pair) -> Cause | None:
        """Return why the stanzas are refused (R14): the backend may send for its own domains only, and not to one of them."""
        if pair.sender not in self.router.domains:
            return Cause.INVALID_FROM
        return Cause.LOOP if pair.recipient in self.router.domains else None

    def _refuse(self, sender: str, stanzas: list[Stanza], cause: Cause) -> None:
        """Answer directly, past the queues: there is none between such addresses."""
        address = self.connection.peer_address if self.connection else ""
        self._record.counted("outbound", "refused", stanzas)
        self._record.refused("outbound", "backend", ("", sender), address, Ending(cause, f"a stanza for {stanzas[0].to}", "them"))
        errors = [error for error in (bounce(stanza, cause) for stanza in stanzas) if error is not None]
        domain = _domain(sender)
        if errors and domain is not None and self.connection is not None:
            self.connection.write(wrapped(domain, errors))

    def _returned(self, stanza: Stanza, error: str) -> None:
        """Take a stanza that the router returned.

        If no component serves its domain, the queue still has it, unless nothing acknowledges. A ping of the gateway's own stays
        unanswered.
        """
        sender, recipient = _domain(stanza.from_), _domain(stanza.to)
        if sender is None or recipient not in self._domains:
            return
        pair, services = Pair(sender, recipient), self._around.ingress_services
        if services.queues.replies(pair.inverse).is_over(stanza):
            return
        if recipient in self.served or not services.queues.queue(pair).next_hop.acknowledges:
            services.bounces.refuse(pair, [stanza], _RETURNED.get(error, Cause.FILTERED), source=self.connection)

    # --- internal ---

    def _sweep(self) -> None:
        """Drop unused parts, because strangers' names may have made them."""
        before = self.now - UNUSED
        self._lose([part for part in self._parts.values() if part.used < before], Ending(Cause.IDLE))
        if self.incoming is not None:
            self.incoming.forget_resting(before)
        self._timer = self._around.clock.callLater(SWEEP, self._sweep)

    def _tell(self, event: str, connection: StreamConnection | None, **facts: str) -> None:
        address = "" if connection is None else connection.peer_address
        self.log.info(event=event, leg="backend", local=facts.pop("local", self._names), address=address, **facts)


def _give_up(_late: object, _seconds: float) -> None:
    """End the wait."""


def _domain(address: str) -> Domain | None:
    try:
        return domain_of(address)
    except InvalidJID:
        return None
