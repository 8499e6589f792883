"""One attempt to open a stream: find the server, race for a connection, negotiate. The result is a stream that is ready, or the
reason why there is none (docs/decisions.md#engines).

The addresses of one priority race each other (R36). If the winner's TLS or negotiation fails, the others of its group go on, then
the next priority (`s2s.priority_attempts`). The attempt has failed as soon as the last address has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.authentication.refusals import policy_changed
from s2sgw.delivery.next_hop import NextHopLimits
from s2sgw.delivery.outbound_stream import OutboundStream, StreamUnavailable
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.net.connection import StreamConnection
from s2sgw.net.dialing import Dialler
from s2sgw.net.discovery import Resolution, Target
from s2sgw.net.fair_slots import Owner
from s2sgw.net.happy_eyeballs import Endpoint, RaceLost, endpoints, priority_groups, race
from s2sgw.net.requester import Requester
from s2sgw.policy.model import LEAST_STANZA_BYTES, PeerPolicy
from s2sgw.reporting.record import Direction, EventRecord, Leg
from s2sgw.s2s.destinations import DestinationBackingOff, Destinations, Purpose
from s2sgw.s2s.extensions import ExtensionMemory, ExtensionTrial
from s2sgw.s2s.handshake_timer import HandshakeTimer, StepTimes
from s2sgw.s2s.initiated_streams import InitiatedStreams
from s2sgw.s2s.legs import InitiatingLeg
from s2sgw.s2s.multiplexing import PairRequests, ShareableStreams
from s2sgw.s2s.owners import BACKEND
from s2sgw.s2s.priority_attempts import PRIORITY_DELAY, PriorityAttempts
from s2sgw.s2s.resumption import BrokenStream
from s2sgw.s2s.shared_stream import SharedStream
from s2sgw.s2s.stream_limits import LimitReached, PeerStreamLimit, StreamLimit, StreamPlace
from s2sgw.stream.events import (
    ClosingTagDue,
    Event,
    JudgementNeeded,
    ManagementEnabled,
    Method,
    NotResumed,
    PairProven,
    PairRefused,
    Resumed,
    StanzasReceived,
    VerifyReady,
)
from s2sgw.stream.initiating import InitiatingStream
from s2sgw.xmpp.ending import Cause, Ending, Layer
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.registered_domain import registered_domain

#: Addresses that are tried in one attempt, over all targets. An attempt that a stranger causes has `net.requester.DIALS`.
ADDRESSES = 8
#: Seconds in which stanzas in flight can be acknowledged on a stream that is closed for another, and seconds between two looks.
RETIRE_SECONDS = 5.0
RETIRE_LOOK_SECONDS = 0.1
#: Seconds after which an attempt begins with no further address.
PATIENCE = 60.0


class ConnectionSource(Protocol):
    """Makes connections."""

    def connect(self, engine: InitiatingStream, owner: InitiatedStream) -> StreamConnection:
        """Return the connection of a stream that we open. It has no transport yet."""


class PairStreams(Protocol):
    """The streams that others opened and that may carry a pair back (XEP-0288)."""

    def pair_stream(self, pair: Pair, alone: bool = False) -> OutboundStream | None:
        """Return a stream for `pair`, or None. `alone`: only one that carries no other pair."""


class BidiStreams(Protocol):
    """Takes the stanzas that come on streams that we opened (XEP-0288)."""

    def ingress(self, stream: InitiatedStream) -> StreamIngress:
        """Return the ingress for the stanzas that the other side sends on `stream`."""


class MissedTargets(Protocol):
    """The receiver of attempts that reached no server."""

    def missed(self, pair: Pair, known: Resolution) -> None:
        """Note that an attempt for `pair` failed. `known`: the places of its server, or why they are not known."""


@dataclass(frozen=True, slots=True)
class ConnectServices:
    """The services of the gateway that an attempt uses."""

    connections: ConnectionSource
    clock: IReactorTime
    destinations: Destinations
    extensions: ExtensionMemory
    times: StepTimes | None = None
    carrying_back: PairStreams | None = None
    bidi: BidiStreams | None = None
    peer_streams: PeerStreamLimit = field(default_factory=PeerStreamLimit)
    room: StreamLimit | None = None
    initiated: InitiatedStreams = field(default_factory=InitiatedStreams)
    multiplexing: ShareableStreams = field(default_factory=ShareableStreams)
    watcher: MissedTargets | None = None
    record: EventRecord | None = None


class InitiatedStream:
    """The owner of a connection that we opened. It negotiates until the stream is ready, then it passes on the events."""

    log = Logger()

    def __init__(
        self, side: InitiatingLeg, pair: Pair, target: Target, engine: InitiatingStream, connect_services: ConnectServices,
        watch: HandshakeTimer,
    ) -> None:
        self._watch = watch
        self.side = side
        self.pair = pair
        self.target = target
        self.engine = engine
        self.reasons: tuple[str, ...] = ()
        #: what we show the other side of us
        self.shown = side.shown(pair)
        self.connection = connect_services.connections.connect(engine, self)
        #: the pair that the stream carries, and the pair for which more was requested
        self.shared_stream = SharedStream(side, self.connection, engine, target, self._limits)
        #: the part of the pair that it was opened for
        self.part = self.shared_stream.allow(pair, "")
        #: fires when stanzas (or `verify`) may be sent; fails with `StreamUnavailable`
        self.ready: Deferred[InitiatedStream] = Deferred(self._abandon)
        self._question: Deferred[Any] | None = None
        #: the policy by which the peer was judged, and whether it is being judged
        self.judged_by: object = None
        self.judging = False
        self._over = False
        self._abandoned = False
        self._opened = False
        self._trial = ExtensionTrial(engine, pair.recipient.ascii, connect_services.extensions, connect_services.clock)
        self.additions = PairRequests(self.connection, engine, pair.recipient.ascii, connect_services.extensions,
        connect_services.clock)
        self._connect_services = connect_services
        #: the broken stream that this one resumes (XEP-0198 §5)
        self.former: BrokenStream | None = None

    def open_tls(self, _: object) -> IOpenSSLClientConnectionCreator:
        """Return the function that opens TLS to the target, with our certificate for the pair."""
        return self.side.tls(self.pair, self.target)

    def connected(self, connection: StreamConnection) -> None:
        """Begin: we opened the connection."""
        connection.step(self.engine.begin)

    def event(self, connection: StreamConnection, event: Event) -> None:
        """Handle one event of the engine."""
        match event:
            case JudgementNeeded():
                self._watch.step("tls")
                self._ask(event)
            case PairProven(pair, "bidi"):
                self._carries_back(pair)
            case PairProven(pair, method):
                self._proven(pair, method)
            case StanzasReceived(pair, stanzas) if self.incoming is not None:
                self.incoming.stanzas(pair, stanzas)
            case ManagementEnabled() if self.incoming is not None:
                self.incoming.managed()
            case ClosingTagDue(ending) if self.incoming is not None:
                self.incoming.peer_closing(ending)
            case Resumed() | NotResumed():
                self._go_on(event)
            case VerifyReady():
                self._ready("")
            case PairRefused(_, ending) if not self.ready.called:
                self._refuse(ending)
                connection.close(ending)
            case PairRefused(pair, ending):
                self.additions.refused(pair, ending)
            case _:
                if not self._trial.over:
                    self._trial.event(event)
                self.shared_stream.event(event)

    def ended(self, connection: StreamConnection, ending: Ending) -> None:
        """Release everything: the connection is gone."""
        self._over = True
        self._connect_services.initiated.end(self)
        if self._opened:
            self.side.outcomes.closed("outbound")
            self._record_refusal(ending)
        excused = self.additions.ended(ending)
        self._trial.end(ending, excused)
        self.shared_stream.asking = excused or self.engine.enabling
        # a shared stream is not resumed: the next one would have to prove all of its pairs first
        resumption = None if self.shared_stream.shared else self.engine.broken_off()
        if resumption is not None:
            self.shared_stream.broken = BrokenStream.of(resumption, self.incoming)
        if self._question is not None:
            self._question.cancel()
        if not self.ready.called:
            self._refuse(ending)
        self.shared_stream.lost(ending)  # first, so that nothing of what is passed on now is written here
        if self.incoming is not None and resumption is not None:
            self.incoming.pass_on()
        elif self.incoming is not None:
            self.incoming.close(ending)

    def _record_refusal(self, ending: Ending) -> None:
        """Record that we ended the stream because of what the other side sent on it.

        If it is not ready yet, the attempt fails.
        """
        record = self._connect_services.record if ending.refuses_peer else None
        if record is not None:
            on_federation = self.side.leg == "federation"
            peer, local = self.pair.inverse if on_federation else self.pair
            direction: Direction = "outbound" if on_federation else "inbound"
            told = self.side.outcomes.attribute(ending)
            record.refused(direction, self.side.leg, (str(peer), str(local)), self.connection.peer_address, told)

    def paused(self, connection: StreamConnection) -> None:
        """Tell the users that the transport is full."""
        self.shared_stream.slow()

    def resumed(self, connection: StreamConnection) -> None:
        """Tell the users that the transport has room again."""
        self.shared_stream.free()

    @property
    def busy(self) -> bool:
        """A user of the stream waits for an acknowledgement."""
        return any(user.busy for user in self.shared_stream.users)

    @property
    def incoming(self) -> StreamIngress | None:
        """The ingress for stanzas that the other side sends on this stream."""
        return self.shared_stream.incoming

    @property
    def leg(self) -> Leg:
        return self.side.leg

    @property
    def pairs(self) -> list[Pair]:
        """The pairs that use it now."""
        return self.shared_stream.used_by

    def _limits(self, pair: Pair) -> NextHopLimits:
        """Return which stanzas of `pair` the other side takes, by its announcement or by the configuration."""
        limits, known = self.engine.peer_limits, self.side.largest(pair)
        bounds = [] if limits.max_bytes is None else [max(limits.max_bytes, LEAST_STANZA_BYTES)]
        return NextHopLimits(min(bounds if known is None else [*bounds, known], default=limits.presumed), limits.holds)

    def _proven(self, pair: Pair, method: Method) -> None:
        if self.ready.called:
            self.shared_stream.allow(pair, method, (*self.reasons, f"on the stream of {self.pair.sender}"))
            self.additions.proven(pair)
        elif self._is_outdated():
            self.connection.fail(policy_changed(self.pair.recipient))
        else:
            self.part.method, self.part.reasons = method, self.reasons
            self._trial.begin()
            self._ready(method)

    def _ready(self, method: str) -> None:
        """Make the stream available. `method` is "" on a stream that only verifies a key."""
        self._opened = True
        if self.leg == "federation":
            self.connection.belong_to(registered_domain(self.pair.recipient.ascii))
        if method:
            self.side.outcomes.opened("outbound", self.pair.recipient, method, self.connection.tls_version)
        else:
            self.side.outcomes.verifies()
        self.ready.callback(self)
        self._connect_services.initiated.end(self)

    def _carries_back(self, pair: Pair) -> None:
        """Let the other side send `pair` on this stream."""
        if self._connect_services.bidi is not None and self.incoming is None:
            self.shared_stream.incoming = self._connect_services.bidi.ingress(self)
        if self.incoming is not None:
            self.incoming.proven(pair)

    def go_on_with(self, former: BrokenStream) -> None:
        """Resume that stream, if the other side supports it. Call this before the stream begins."""
        if self.engine.options.resume:
            self.former, self.engine.previous = former, former.resumption

    def _go_on(self, outcome: Resumed | NotResumed) -> None:
        """Take the answer to the resumption of the former stream."""
        self.shared_stream.outcome = outcome
        self._trial.event(outcome)
        came = self.former.incoming if self.former is not None else None
        if came is not None and isinstance(outcome, Resumed) and self.incoming is not None:
            self.incoming.continue_from(came)
        if isinstance(outcome, Resumed):
            self.shared_stream.count_resumed(self.part, self.engine.unacknowledged)

    def write(self, stanzas: Sequence[bytes]) -> None:
        """Send these bytes."""
        self.connection.write(b"".join(stanzas))

    def retire(self, ending: Ending) -> None:
        """Write no more, and close gracefully when everything in flight is acknowledged, or `RETIRE_SECONDS` later."""
        if self.connection.ending is None and not self.connection.retiring:
            self.connection.retiring = True
            self._retire(ending, self._connect_services.clock.seconds() + RETIRE_SECONDS)

    def _retire(self, ending: Ending, latest: float) -> None:
        clock = self._connect_services.clock
        if self._over:
            return
        if not self.busy or clock.seconds() >= latest:
            self.close(ending)
        else:
            clock.callLater(RETIRE_LOOK_SECONDS, self._retire, ending, latest)

    def close(self, ending: Ending) -> Deferred[None]:
        """Close gracefully."""
        self.connection.close(ending)
        return self.connection.when_closed()

    def _abandon(self, ready: Deferred[InitiatedStream]) -> None:
        """Fail `ready`, which was cancelled, so that the attempt does not go on elsewhere."""
        self._abandoned = True
        self.connection.abort(Ending(Cause.CLOSED))

    def _refuse(self, ending: Ending) -> None:
        if not self._abandoned:
            self.ready.errback(StreamUnavailable(ending, self.connection.peer_address, self.reasons))

    def _ask(self, question: JudgementNeeded) -> None:
        self._question = Deferred.fromCoroutine(self._judge(question))
        self._question.addErrback(self._unanswered)

    async def _judge(self, question: JudgementNeeded) -> None:
        """Judge the peer, and again if its policy changes meanwhile."""
        self._connect_services.initiated.begin(self)
        self.judging = True
        while True:
            self.judged_by = self.side.policy(self.pair.recipient)
            permission, self.reasons = await self.side.judge(self.connection, question, self.target)
            if not self._is_outdated():
                break
        self.judging = False
        if not self._over:
            self.connection.step(self.engine.judged, permission)

    def _is_outdated(self) -> bool:
        """Return whether the policy has changed since the peer was judged."""
        policy, before = self.side.policy(self.pair.recipient), self.judged_by
        if policy is before or policy == before:
            return False
        return not (isinstance(policy, PeerPolicy) and isinstance(before, PeerPolicy) and policy.judges_as(before))

    def _unanswered(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self.log.failure("a stream could not be judged", failure)
        self.close(Ending(Cause.INTERNAL))


async def open_stream(
    side: InitiatingLeg, pair: Pair, connect_services: ConnectServices, verifying: bool = False,
    broken: BrokenStream | None = None, requester: Requester | None = None,
) -> InitiatedStream:
    """Return a stream for `pair` that is ready. Raises `StreamUnavailable` with the most telling reason (R36).

    `verifying`: the stream is to verify a dialback key. `requester` is charged for the look-ups; None: the gateway itself.
    """
    order = StreamOrder(side, pair, connect_services, verifying, broken, requester)
    try:
        return await (_verifying_stream(order) if verifying else _stanza_stream(order))
    except LimitReached as full:
        raise StreamUnavailable(full.ending, retry=full.wait, repeated=True) from None
    except DestinationBackingOff as later:
        raise StreamUnavailable(side.outcomes.attribute(later.ending), retry=later.wait, repeated=True) from None
    except StreamUnavailable as refused:
        side.outcomes.attempt_failed(pair, refused.ending)
        refused.ending = side.outcomes.attribute(refused.ending)
        raise


def awaited_place(side: InitiatingLeg, pair: Pair, connect_services: ConnectServices) -> Deferred[None] | None:
    """Return a Deferred that fires when there may be a place for a stream for `pair`.

    None: `open_stream` may be called now, because there may be a place, or because the server is left alone.
    """
    room = connect_services.room
    if room is None or connect_services.destinations.backs_off(pair.recipient.ascii):
        return None
    return room.wait_if_full(side.owner(pair), side.owner_streams(pair))


async def _verifying_stream(order: StreamOrder) -> InitiatedStream:
    """Open a stream for which a question waits: no back-off delays it, and it counts for no limit of streams."""
    on_backend, destinations = order.side.leg == "backend", order.services.destinations
    purpose: Purpose = "backend" if on_backend else "verification"
    owner = BACKEND if on_backend else order.side.owner(order.pair)
    async with destinations.attempt(order.name, purpose, owner, forced=True):
        stream = await ConnectAttempt(order).run()
        destinations.succeeded(order.name)
        return stream


async def _stanza_stream(order: StreamOrder) -> InitiatedStream:
    """Wait for a place among all streams, then for a handshake. If the place is gone by then, wait for another.

    Thousands may wait here, so nothing is resolved or built for an attempt before it has a place.
    """
    room, owner, place_lost = order.services.room, order.side.owner(order.pair), False
    while True:
        place = None
        while room is not None and place is None:
            try:
                order.services.destinations.check_back_off(order.name)  # first: for a turn, another stream may have to give way
            except DestinationBackingOff:
                room.pass_on()
                raise
            bound = order.side.owner_streams(order.pair)
            place = room.turn(owner, bound)
            if place is None:
                await room.wait(owner, bound, first=place_lost)
        try:
            stream = await _placed_stream(order, owner, place)
        finally:
            if place is not None:
                place.end()
        if stream is not None:
            return stream
        place_lost = True


async def _placed_stream(order: StreamOrder, owner: Owner, place: StreamPlace | None) -> InitiatedStream | None:
    """Wait for a handshake; return the stream, or None if `place` cannot be taken any more."""
    services, name = order.services, order.name
    purpose: Purpose = "backend" if order.side.leg == "backend" else "outbound"
    async with services.destinations.attempt(name, purpose, owner) as began:
        if place is not None and not place.take():
            return None
        try:
            with services.peer_streams.entering(name, order.side.streams(order.pair), services.clock.seconds()):
                stream = await ConnectAttempt(order).run()
            services.destinations.succeeded(name)
            services.peer_streams.joined(name, stream.connection)
            if place is not None:
                place.joined(stream)
            return stream
        except StreamUnavailable as refused:
            refused.retry = services.destinations.failed(name, refused.ending, began, purpose)
            raise
        finally:
            if place is not None:
                place.end()  # before others get this handshake: they may need the place


class StreamOrder(NamedTuple):
    """The stream that is to be opened (see `open_stream`)."""

    side: InitiatingLeg
    pair: Pair
    services: ConnectServices
    verifying: bool
    broken: BrokenStream | None
    requester: Requester | None

    @property
    def name(self) -> str:
        """Return the name of the server."""
        return self.pair.recipient.ascii


class ConnectAttempt:
    """One attempt, which begins when it is made. `failures` collects the reason of each place that failed."""

    def __init__(self, order: StreamOrder) -> None:
        self._requester = order.requester
        self._broken = order.broken
        self.side = order.side
        self.pair = order.pair
        self.name = order.name
        self.services = order.services
        self._verifying = order.verifying
        self._watch = HandshakeTimer(order.services.clock, order.services.times)
        self._failures: list[StreamUnavailable] = []
        self._left = ADDRESSES
        #: the targets whose addresses were looked up, by place
        self._located: dict[tuple[str, int, bool], Target] = {}
        self._direct_failed: Ending | None = None

    async def run(self) -> InitiatedStream:
        resolution = await self.side.resolve(self.pair, self._requester)
        self._watch.step("dns")
        try:
            return await self._reach(resolution)
        except StreamUnavailable:
            watcher = self.services.watcher
            if watcher is not None and not self._verifying:
                known = [self._located.get(target.place, target) for target in resolution.targets]
                watcher.missed(self.pair, replace(resolution, targets=tuple(known)))
            raise

    async def _reach(self, resolution: Resolution) -> InitiatedStream:
        if resolution.ending is not None:
            raise StreamUnavailable(resolution.ending)
        groups = priority_groups(self._borne(resolution.targets))
        if len(groups) == 1:
            stream = await self._try(groups[0])
        else:
            delay = None if self._broken is not None else PRIORITY_DELAY  # two streams must not resume the same one
            stream = await PriorityAttempts(self.services.clock, [partial(self._try, group) for group in groups], delay).start()
        if stream is not None:
            self._opened(stream)
            return stream
        raise self._verdict()

    async def _try(self, group: Sequence[Target]) -> InitiatedStream | None:
        """Try the targets of one priority."""
        if not self._left:
            return None
        if self._requester is not None and self._requester.is_spent:
            ending = Ending(Cause.TOO_MANY_CLAIMS, "the claim of one name takes too many connections")
            self._failures.insert(0, StreamUnavailable(ending))
            self._left = 0
            return None
        watch = HandshakeTimer(self.services.clock, self.services.times)
        located = self.side.dial_targets(self.pair, await self._locate(group))
        places = self._affordable(endpoints(located, self._left))
        self._left -= len(places)
        return await self._heat(places, watch)

    async def _locate(self, group: Sequence[Target]) -> Sequence[Target]:
        """Look up the addresses of the targets of one priority. Targets without an address are left out."""
        located = await self.side.locate(self.pair, group, self._requester)
        self._located.update((target.place, replace(target, located=True)) for target in group)
        self._located.update((target.place, target) for target in located)
        return located

    def _affordable(self, places: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """Return those of the places that the requester may make us connect to."""
        return places if self._requester is None else places[: self._requester.take_dials(len(places))]

    def _verdict(self) -> StreamUnavailable:
        """Return the most telling reason.

        It is not kept here: its traceback refers to this attempt and would keep it in memory.
        """
        failures, self._failures = self._failures, []
        return _telling(failures)

    def _borne(self, targets: Sequence[Target]) -> Sequence[Target]:
        """Leave out direct TLS if it broke this server and there is another way."""
        if self.services.extensions.usable(self.name, "direct-tls"):
            return targets
        return [target for target in targets if not target.direct_tls] or targets

    def _opened(self, stream: InitiatedStream) -> None:
        self._watch.stop()
        if self._direct_failed is not None and not stream.target.direct_tls:
            self.services.extensions.disable(self.name, "direct-tls", self._direct_failed)
        if self.services.record is not None and self.side.leg == "federation" and not self._verifying:
            pair = str(self.pair.recipient), str(self.pair.sender)
            for failed in self._failures:
                self.services.record.refused("outbound", "federation", pair, failed.address, failed.ending, failed.reasons)

    async def _heat(self, places: Sequence[Endpoint], watch: HandshakeTimer) -> InitiatedStream | None:
        """Try the places of one priority: race them, and if the winner fails, race the others."""
        while places and self._watch.elapsed < PATIENCE:
            built: list[InitiatedStream] = []
            winner = None
            try:
                winner = await race(self.services.clock, places, partial(self._build, built, watch), self._dialler)
                watch.step("tcp")
                stream = await built[-1].ready
            except RaceLost as lost:
                self._failures += [StreamUnavailable(lost.ending, place.address) for place, _ in lost.failures[:1]]
                return None
            except StreamUnavailable as refused:
                assert winner is not None
                self._failures.append(refused)
                if winner.place.target.direct_tls and refused.ending.layer in (Layer.TLS, Layer.STREAM):
                    self._direct_failed = refused.ending
                places = winner.others
            except CancelledError:
                if watch.elapsed >= PRIORITY_DELAY:
                    self._failures.append(_too_slow(places[0] if winner is None else winner.place, winner is None, watch.elapsed))
                raise
            else:
                watch.step("auth")
                return stream
            finally:
                _forget(built[:-1] if winner else built)
        return None

    def _build(self, built: list[InitiatedStream], watch: HandshakeTimer, spot: Endpoint) -> StreamConnection:
        engine = self.side.engine(self.pair, spot.target, self._verifying)
        built.append(InitiatedStream(self.side, self.pair, spot.target, engine, self.services, watch))
        if self._broken is not None:
            built[-1].go_on_with(self._broken)
        return built[-1].connection

    def _dialler(self, spot: Endpoint) -> Dialler:
        return self.side.dialler(self.pair, spot.target)


def _too_slow(place: Endpoint, silent: bool, seconds: float) -> StreamUnavailable:
    """Return the failure of a place that was given up because another had a stream. `silent`: it had no connection."""
    cause = Cause.CONNECTION_TIMEOUT if silent else Cause.NEGOTIATION_TIMEOUT
    what = f"{HostPort(place.address, place.port)}: no stream within {seconds:.0f} seconds, and another target has one"
    return StreamUnavailable(Ending(cause, what, "network" if silent else "us"), place.address)


def _expected(_: Failure) -> None:
    """Take a failure that no caller waits for."""


def _forget(streams: Sequence[InitiatedStream]) -> None:
    """Discard connections that were cut off after their claim and before they connected."""
    for stream in streams:
        stream.ready.addErrback(_expected)


def _telling(failures: Sequence[StreamUnavailable]) -> StreamUnavailable:
    """Return why the attempt failed: the reason of the last server that answered, else of the first that was not reached."""
    for refused in reversed(failures):
        if refused.ending.layer is not Layer.TCP:
            return refused
    return failures[0] if failures else StreamUnavailable(Ending(Cause.UNREACHABLE, "the domain has no address to connect to"))
