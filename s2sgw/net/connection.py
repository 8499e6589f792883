"""The protocol between a transport and a sans-I/O engine: receive, flush, perform events, flush (docs/decisions.md#engines).

Under TLS `dataReceived` is called for each record, so the input of one turn of the reactor is joined, and fed at once
(docs/decisions.md#batching), as far as the turn has time for one stream. STARTTLS and direct TLS share one path.

If the other side sends and does not read, the gateway stops reading from it once answers wait. On a stream that also carries
stanzas out, more than a few answers must wait first. Otherwise two sides that both send would wait for each other.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, ParamSpec

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.net.addresses import spelled
from s2sgw.net.buffering import InputBuffer, OutputGate, UnsentBytes
from s2sgw.net.handover import innermost
from s2sgw.net.socket_transport import SocketTransport, take_over
from s2sgw.net.tcp_options import set_quick_ack, set_user_timeout, unacknowledged_bytes, unread_bytes
from s2sgw.net.tls_layer import TLSFacts, TLSListener, lost, tls_on
from s2sgw.net.turn_budget import TurnBudget
from s2sgw.net.turns import Party, Turns
from s2sgw.net.write_permission import HeldWrites, WriteLease
from s2sgw.stream.events import Ended, Event, PairProven, Refusal, StartTLS, VerifyReady
from s2sgw.trust.evidence import Role
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.timer import cancel

P = ParamSpec("P")
#: The events with which the negotiation has succeeded.
_NEGOTIATED = PairProven | VerifyReady

#: Bounds of one stream in one turn of the reactor: seconds of reading, bytes read while it is negotiated, bytes of answers.
STREAM_SECONDS = 0.005
NEGOTIATION_BYTES = 16384
ANSWER_BYTES = 16384
#: Bytes of an established stream that are read at once: at first, the least and the most. Many small stanzas take long.
FIRST_PORTION_BYTES, LEAST_PORTION_BYTES, PORTION_BYTES = 16_384, 4_096, 65_536
#: Bytes of an established stream that are read without a turn of its own, if it is the only one with input.
ALONE_BYTES = LEAST_PORTION_BYTES
#: The least number of bytes that a full transport has buffered (Twisted's `FileDescriptor.bufferSize`).
FULL_BYTES = 65536


class Engine(typing.Protocol):
    """The interface of an engine of either role.

    `parting`: the ending, if the other side has closed the stream; `leaving`: if we have, and read on (`wind_down`).
    `unheard`: the transport is gone, so our output cannot arrive. Input that came before is still read.
    """

    parting: Ending | None
    leaving: Ending | None
    unheard: bool

    @property
    def backlogged(self) -> bool:
        """Whether the engine has unread input. `proceed` reads on."""
    @property
    def unsent(self) -> int:
        """The number of bytes that `data_to_send` returns."""
    @property
    def lasting(self) -> bool:
        """Whether the stream stays open to be reached by: it is not closed for being idle."""
    @property
    def one_way(self) -> bool:
        """Whether only we send stanzas. Then we close the stream first, so that no stanza is lost on its way."""
    @property
    def silence_limit(self) -> int | None:
        """The seconds of silence after which the other side closes the stream (XEP-0478). None: it announced none."""
    @property
    def probe(self) -> bytes:
        """Return a request that a live other side answers; empty if there is none."""
    def receive(self, data: bytes) -> list[Event]: ...
    def proceed(self) -> list[Event]: ...
    def data_to_send(self) -> bytes: ...
    def tls_ready(self) -> list[Event]: ...
    def tls_unavailable(self, ending: Ending) -> list[Event]: ...
    def tls_established(self) -> list[Event]: ...
    def close(self, ending: Ending) -> list[Event]: ...
    def wind_down(self, ending: Ending) -> list[Event]: ...
    def fail(self, refusal: Refusal) -> list[Event]: ...
    def rest(self) -> None: ...
    def release(self) -> None: ...


class ConnectionOwner(typing.Protocol):
    """The owner of a stream. `ended` is called once for each connection made, as the last call."""

    def connected(self, connection: StreamConnection) -> None:
        """Begin: the transport is open, and direct TLS has begun. The initiating side calls `begin` now."""

    def event(self, connection: StreamConnection, event: Event) -> None:
        """Handle an event of the engine. `StartTLS` and `Ended` do not come here: the adapter handles them."""

    def paused(self, connection: StreamConnection) -> None:
        """Write nothing until `resumed`: the other side takes no more at present."""

    def resumed(self, connection: StreamConnection) -> None:
        """Go on writing: the other side takes more again."""

    def ended(self, connection: StreamConnection, ending: Ending) -> None:
        """Take the end of the stream. The transport is gone after `ConnectionOptions.close_timeout` at most."""


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """Bounds in seconds.

    `negotiation_timeout`: from the connection to the first `PairProven` or `VerifyReady`, or to `negotiated()`. None: the
    admission ends the connection in time (`net.admission`).
    `close_timeout`: from the graceful close to the abort. `hold_timeout`: how long reading may be held. Meanwhile neither FIN
    nor RST is noticed. `blocked_timeout`: how long it may be held because the other side reads no answers.
    """

    negotiation_timeout: float | None = 30.0
    close_timeout: float = 5.0
    hold_timeout: float = 300.0
    blocked_timeout: float = 60.0


class StreamConnection(Protocol):
    """One transport with one engine.

    `tls(event)` returns the function that opens TLS in the engine's role (`ServerTLS.for_domain`, `ClientTLS.for_peer`). `event`
    is the engine's order. None: direct TLS, which begins with the connection.
    `may_write` is asked before each write to the socket. While it is not given, data waits. None: it always is.
    """

    _log = Logger()
    #: (Twisted's base class adds a dict, which holds two attributes more. All of these in it would take 1.2 kB more.)
    __slots__ = (
        "_answered", "_blocked_timer", "_clock", "_closed", "_deadline", "_direct_tls", "_events", "_gone", "_handshaking",
        "_held_writes", "_intake", "_link", "_may_write", "_options", "_out", "_outlet", "_owed", "_portion", "_sends",
        "_socket", "_stepping", "_tls", "_tls_is_news", "_transport", "_turning", "_turns", "_unsent", "blocked_since", "busy",
        "ending", "engine", "established", "has_preface", "last_received", "last_sent", "owner", "party", "read_since",
        "recorded", "retiring", "role", "secured", "shared",
    )

    def __init__(
        self, engine: Engine, owner: ConnectionOwner, *, clock: IReactorTime, role: Role, tls: Callable[[StartTLS | None], Any],
        direct_tls: bool = False, options: ConnectionOptions = ConnectionOptions(), shared: bool = False,
        turns: Turns | None = None, unsent: UnsentBytes | None = None, may_write: WriteLease | None = None,
    ) -> None:
        self.engine = engine
        self.owner = owner
        self.role: Role = role
        self.ending: Ending | None = None
        self.secured: TLSFacts | None = None
        #: the times of the last input, of the last stanzas written, and since when the other side has read nothing
        self.last_received = self.last_sent = clock.seconds()
        self.blocked_since: float | None = None
        #: the time since which the stream is read without a hold; infinity while it is held
        self.read_since = self.last_received
        #: whether the negotiation is over: the stream's turns come before those of streams under negotiation
        self.established = False
        #: whether the last turn was a long one (`net.turns`)
        self.busy = False
        #: its owner (`net.turns`), if that may have several streams
        self.party: Party | None = None
        #: whether no more stanzas are written: the stream is closed as soon as everything in flight is acknowledged
        self.retiring = False
        #: what was recorded of its handshake: registered domains, with the outcomes of the verdicts (`authentication.judge`)
        self.recorded: tuple[object, ...] = ()
        #: the first bytes of direct TLS were read from the socket before, so that OpenSSL cannot read them there
        self.has_preface = False
        #: whether it carries the stanzas of many pairs: one slow queue must not delay the others
        self.shared = shared
        self._clock = clock
        self._tls = tls
        self._direct_tls = direct_tls
        self._options = options
        self._events: list[Event] = []
        self._stepping = False
        self._turning = False
        self._portion = FIRST_PORTION_BYTES
        self._turns = turns or Turns(clock)
        self._intake = InputBuffer(clock, self._turns, self, options.hold_timeout)
        self._outlet = OutputGate(self._outlet_changed)
        #: whether stanzas were written
        self._sends = False
        #: bytes of answers: in this turn, and since the transport became full
        self._answered = self._owed = 0
        self._unsent = unsent or UnsentBytes()
        self._may_write = may_write
        self._held_writes: HeldWrites | None = None  # on a transport of Twisted's
        self._deadline: IDelayedCall | None = None
        self._blocked_timer: IDelayedCall | None = None
        self._out: Any = None  # the target of writes: the transport, later the TLS on it
        self._link: Any = None  # the TLS on it
        self._transport: Any = None  # the transport: our own in place of Twisted's where there is one
        self._socket: SocketTransport | None = None  # our own, TLS and all
        self._handshaking = False
        self._tls_is_news = False
        self._gone = False
        self._closed: list[Deferred[None]] = []

    # --- for the owner ---------------------------------------------------------------------------------------------

    def step(self, method: Callable[P, list[Event]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run a method of the engine, and handle the events that follow. After the end, do nothing. Any caller may use it."""
        if self.ending is not None:
            return
        try:
            self._events.extend(method(*args, **kwargs))
            if not self._stepping:
                self._perform()
                if not self._turning and self.engine.backlogged:
                    self._want_turn()
        except Exception:
            self._broken()

    def write(self, data: bytes) -> bool:
        """Send stanzas past the engine. Return whether the stream takes no more for now. Callers join the stanzas of one turn.

        Nothing is sent after our closing tag.
        """
        engine = self.engine
        closes = engine.leaving is not None or (bool(self._events) and self._is_ending)
        if self.ending is None and not self._gone and not closes:
            self.last_sent = self._clock.seconds()
            self._sends = True
            self._out.write(data)
        return not self._outlet.open or self.retiring or engine.parting is not None or closes

    def belong_to(self, name: str) -> None:
        """Share turns with the other streams of the party of this name."""
        self.party = self._turns.party(name)

    def keep_alive(self, data: bytes = b" ") -> None:
        """Send white space between stanzas (RFC 6120 §4.6.1), or a request for a sign of life. It does not count as use."""
        if self.ending is None and not self._gone and self.engine.leaving is None and not self._is_ending:
            self._out.write(data)

    def close(self, ending: Ending) -> None:
        """Close the stream gracefully, with a closing tag."""
        if self._handshaking:
            self._finish(ending, abort=True)
        else:
            self.step(self.engine.close, ending)

    def wind_down(self, ending: Ending) -> None:
        """Close, but read on up to the other side's closing tag, which may never come."""
        if self._handshaking:
            self._finish(ending, abort=True)
        else:
            self.step(self.engine.wind_down, ending)

    def fail(self, refusal: Refusal) -> None:
        """End the stream with an error; during a TLS handshake, without one (R7)."""
        if self._handshaking:
            self._finish(refusal.ending, abort=True)
        else:
            self.step(self.engine.fail, refusal)

    def abort(self, ending: Ending) -> None:
        """End the connection at once, also one that is being closed: nothing more is sent or read."""
        if self.ending is not None and not self._gone:
            self._stop_deadline()
            self._transport.abortConnection()
        self._finish(ending, abort=True)

    def dismiss(self, refusal: Refusal) -> None:
        """End the stream with an error, and close the transport as soon as the error is sent. Do not wait for the other side.

        A connection that is already being closed gracefully is closed at once too.
        """
        self.fail(refusal)
        if self._socket is not None:
            self._socket.hang_up()
        elif not self._gone:
            self._transport.loseConnection()

    def negotiated(self) -> None:
        """Note that the negotiation has ended in time."""
        if self.ending is None:
            self.established = True
            self._stop_deadline()

    def pause(self, holder: object) -> None:
        """Stop reading while `holder`, or another, holds the stream. Input that was read already waits too."""
        self.read_since = inf
        self._intake.pause(holder)

    def resume(self, holder: object) -> None:
        """Release the hold of `holder`."""
        self._intake.resume(holder)
        if self.read_since == inf and not self._intake.held:
            self.read_since = self._clock.seconds()

    def when_closed(self) -> Deferred[None]:
        """Return a Deferred that fires when the transport is gone. If it is cancelled, nothing is kept of it."""
        waiter: Deferred[None] = Deferred(self._forget_waiter)
        if self._gone:
            waiter.callback(None)
        else:
            self._closed.append(waiter)
        return waiter

    def _forget_waiter(self, waiter: Deferred[None]) -> None:
        if waiter in self._closed:
            self._closed.remove(waiter)

    @property
    def writable(self) -> bool:
        """Return whether the other side takes more at present."""
        engine = self.engine
        closes = engine.parting is not None or engine.leaving is not None or (bool(self._events) and self._is_ending)
        return self._outlet.open and not closes and not self.retiring

    @property
    def _is_ending(self) -> bool:
        """Whether the engine has ended the stream, and the events before the end are still handled."""
        return bool(self._events) and type(self._events[-1]) is Ended

    @property
    def chain(self) -> tuple[bytes, ...]:
        """Return the other side's certificates, DER, leaf first; (): there are none, or TLS is not up yet."""
        return self.secured.chain if self.secured else ()

    @property
    def tls_version(self) -> str | None:
        return self.secured.version if self.secured else None

    @property
    def cipher(self) -> str | None:
        return self.secured.cipher if self.secured else None

    @property
    def peer_address(self) -> str:
        """Return the other side's address and port, as text."""
        return spelled(self._transport.getPeer())

    @property
    def unacknowledged_bytes(self) -> int:
        """Return the bytes that were sent and that the other machine has not acknowledged (TCP).

        0 if the system does not know.
        """
        return 0 if self._gone else unacknowledged_bytes(self._transport)

    @property
    def has_unread_input(self) -> bool:
        """Whether input waits to be read, or may wait: the stream is held."""
        if self.ending is not None:
            return False
        return self._intake.held or self._readable or (not self._gone and unread_bytes(self._transport) > 0)

    @property
    def local_address(self) -> str:
        return spelled(self._transport.getHost())

    # --- for Twisted -----------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self._transport = self.transport
        self._transport.setTcpNoDelay(True)
        self._transport.setTcpKeepAlive(True)
        set_user_timeout(self._transport)
        set_quick_ack(self._transport)
        if not (self._direct_tls and self.has_preface):
            self._socket = take_over(self.transport, self, self._turns, self._may_write)
            self._transport = self._socket or self.transport
        if self._socket is None and self._may_write is not None:
            self._held_writes = HeldWrites(innermost(self.transport), self._may_write)
        self._out = self._intake.transport = self._transport
        self._out.registerProducer(self._outlet, True)
        if self._options.negotiation_timeout is not None:
            self._deadline = self._clock.callLater(self._options.negotiation_timeout, self._negotiation_is_late)
        if self._direct_tls:
            self._guarded(self._begin_direct_tls)
        if self.ending is None:
            self._guarded(self.owner.connected, self)

    def dataReceived(self, data: bytes) -> None:
        if not self.established:
            set_quick_ack(self._transport)
        if self._link is not None:
            self._link.dataReceived(data)
        elif self._turns.alone and len(data) <= ALONE_BYTES and self._may_read_at_once:
            self._answered = 0
            self.last_received = self._clock.seconds()
            self.step(self.engine.receive, data)
        else:
            self._intake.add(data)

    @property
    def _may_read_at_once(self) -> bool:
        """Return whether nothing waits before the input that has just come. If no other stream has input, it needs no turn."""
        intake = self._intake
        waits = intake.size or intake.held or intake.turn_is_due or self.engine.backlogged
        return self.established and intake.open and not self.busy and not waits

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._link is None:
            self._lost(reason)
        else:
            self._link.connectionLost(reason)

    # --- input -----------------------------------------------------------------------------------------------------

    def take_turn(self) -> None:
        """Read a part of the input (`net.turns`)."""
        self._intake.turn_is_due = False
        if not self._intake.open:
            return
        if self._tls_is_news:
            self._tell_of_tls()
        self._turning, self._answered = True, 0
        try:
            self._read(self._turns.budget)
        except Exception:
            self._broken()
        finally:
            self._turning = False
        self._want_turn()

    def _tell_of_tls(self) -> None:
        """Tell the engine that the handshake is over, before it reads the input after it."""
        self._tls_is_news = False
        self.step(self.engine.tls_established)

    def _read(self, budget: TurnBudget) -> None:
        """Read input as far as this turn of the reactor has time and room, and at least one portion."""
        began = budget.stopwatch()
        at_most = self._portion if self.established else NEGOTIATION_BYTES
        intake = self._intake
        while self.ending is None and (intake.size or self.engine.backlogged) and not intake.held:
            taken = self._feed(at_most)
            now = budget.stopwatch()
            seconds = now - began
            if not self.established:
                at_most -= taken
            elif taken >= self._portion or seconds > 2 * STREAM_SECONDS:
                at_most = self._portion = _next_portion(self._portion, taken, seconds)
            if seconds > STREAM_SECONDS or now > budget.end or self._answered > ANSWER_BYTES or at_most <= 0:
                return

    @property
    def _readable(self) -> bool:
        return self.ending is None and (self._intake.size > 0 or self.engine.backlogged)

    def _feed(self, at_most: int | None = None) -> int:
        """Let the engine read on, or feed it input. Return how many bytes of input it took."""
        if self._tls_is_news:
            self._tell_of_tls()
        if self.engine.backlogged:
            self.step(self.engine.proceed)
            return 0
        data = self._intake.take(at_most)
        self.last_received = self._clock.seconds()
        self.step(self.engine.receive, data)
        return len(data)

    def _want_turn(self) -> None:
        intake = self._intake
        intake.unfinished = self.ending is None and self.engine.backlogged
        if (intake.unfinished or (intake.size and self.ending is None)) and not intake.held:
            intake.want_turn()

    # --- events and output -----------------------------------------------------------------------------------------

    def _perform(self) -> None:
        self._stepping = True
        try:
            if self.engine.unsent:
                self._flush()
            while self._events:
                event = self._events.pop(0)
                if isinstance(event, Ended):
                    self._finish(event.ending)
                elif isinstance(event, StartTLS):
                    self._start_tls(event)
                else:
                    if isinstance(event, _NEGOTIATED):
                        self.negotiated()
                    self.owner.event(self, event)
                if self.engine.unsent:
                    self._flush()
        finally:
            self._stepping = False

    def _flush(self) -> None:
        if not self.engine.unsent:
            return
        data = self.engine.data_to_send()
        if self.ending is None and not self._gone:
            self._answered += len(data)
            if not self._outlet.open:
                self._owe(len(data))
            self._out.write(data)

    # --- answers that the other side does not read ---------------------------------------------------------------------------

    def _outlet_changed(self, is_open: bool) -> None:
        self.blocked_since = None if is_open else self._clock.seconds()
        if is_open:
            self._settle()
        elif self.ending is None:
            self._count_unsent(FULL_BYTES)
            if not self._sends:
                self._hold_answers()
        if self.ending is None:
            self._guarded(self.owner.resumed if is_open else self.owner.paused, self)

    def _owe(self, number: int) -> None:
        """Count bytes of answers that wait in a full transport."""
        self._owed += number
        self._count_unsent(number)
        if self._owed > ANSWER_BYTES:
            self._hold_answers()

    def _hold_answers(self) -> None:
        """Stop reading until the other side has taken the waiting answers."""
        self.pause(self._outlet)
        if self._blocked_timer is None:
            self._blocked_timer = self._clock.callLater(self._options.blocked_timeout, self._blocked_too_long)

    def _settle(self) -> None:
        """Forget the waiting answers: they were sent, or never will be."""
        self._owed = 0
        self._unsent.remove(self)
        self._stop_blocked_timer()
        self.resume(self._outlet)

    def _count_unsent(self, number: int) -> None:
        if not self._unsent.add(self, number, self.established):
            text = "it reads no answers, and too much waits for peers that do not"
            self._clock.callLater(0, self.abort, Ending(Cause.UNRESPONSIVE, text, "them"))

    def _stop_blocked_timer(self) -> None:
        if self._blocked_timer is not None:
            self._blocked_timer.cancel()
            self._blocked_timer = None

    def _blocked_too_long(self) -> None:
        self._blocked_timer = None
        text = f"it has read nothing for {self._options.blocked_timeout:g} s"
        self.abort(Ending(Cause.UNRESPONSIVE, text, "them"))

    # --- errors ------------------------------------------------------------------------------------------------------

    def _guarded(self, method: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception:
            self._broken()

    def _broken(self) -> None:
        """End the stream after an error of ours or of the owner, with a stream error if one can be sent."""
        failure = Failure()
        self._log.failure("a stream failed", failure)
        ending = Ending(Cause.INTERNAL, failure.getErrorMessage())
        if self.ending is None and not self._handshaking:
            try:
                self.engine.fail(Refusal(StreamCondition.INTERNAL_SERVER_ERROR, "An internal error occurred.", ending))
                self._flush()
            except Exception:
                self._log.failure("and could not say so")
        self._finish(ending, abort=self._handshaking)

    # --- TLS -------------------------------------------------------------------------------------------------------

    def _begin_direct_tls(self) -> None:
        self._handshaking = True  # after a failure nothing is sent in the clear
        self._open_tls(self._tls(None))

    def _start_tls(self, order: StartTLS) -> None:
        """Begin TLS if it can begin: the receiving side sends `<proceed/>` only then (R7).

        R6: bytes in the clear after `<starttls/>` or `<proceed/>` are an injection, and are never parsed.
        """
        if self._gone:
            return
        if self._intake.size:
            ending = Ending(Cause.TLS_INJECTION, "plain text came after the STARTTLS exchange", "them")
            self._events.extend(self.engine.tls_unavailable(ending))
            return
        try:
            creator = self._tls(order)
        except Exception:
            failure = Failure()
            self._log.failure("TLS cannot begin", failure)
            self._events.extend(self.engine.tls_unavailable(Ending(Cause.INTERNAL, failure.getErrorMessage())))
            return
        self._events.extend(self.engine.tls_ready())
        self._flush()
        self._open_tls(creator)

    def _open_tls(self, creator: Any) -> None:
        """Lay TLS on the transport."""
        self._handshaking = True
        if self._socket is not None:
            self._socket.start_tls(creator, self.role == "initiating", self)
            return
        inside = TLSListener(self._intake.add, self.tls_secured, self._lost, self.tls_renegotiated, self.tls_flooded)
        link = tls_on(inside, creator, self.role == "initiating", self._clock)
        self._transport.unregisterProducer()
        link.makeConnection(self._transport)
        self._link = self._out = link
        link.registerProducer(self._outlet, True)

    def tls_secured(self, secured: TLSFacts) -> None:
        """Note that the handshake is over."""
        self.secured = secured
        self._handshaking = False
        self._tls_is_news = True
        self._intake.want_turn()

    def tls_renegotiated(self) -> None:
        """End the stream (R10)."""
        self._end_tls(Ending(Cause.TLS_RENEGOTIATION, "", "them"))

    def tls_flooded(self) -> None:
        """End the stream: TLS messages come without end, and no data."""
        self._end_tls(Ending(Cause.TLS_FAILED, "too many TLS messages without data", "them"))

    def _end_tls(self, ending: Ending) -> None:
        """End the stream in the next turn. OpenSSL is the caller, so it cannot end now. Nothing is read until then."""
        self._intake.close(read_on=False)
        self._clock.callLater(0, self.abort, ending)

    # --- the end ---------------------------------------------------------------------------------------------------

    def _lost(self, reason: Failure) -> None:
        """Handle the loss of the transport. Input that came before is still read (R16)."""
        self._gone, self._link, self._out = True, None, None
        self.engine.unheard = True
        if self._socket is not None:
            self._socket.release()
            self._socket = self._intake.transport = None
            self._transport = self.transport
        if self._held_writes is not None:
            self._held_writes.release()
            self._held_writes = None
        try:
            while self._readable:
                self._feed()
            self._settle()
        finally:
            try:
                self._finish(self.engine.parting or lost(reason, handshaking=self._handshaking))
            finally:
                self._tell_closed()

    def _tell_closed(self) -> None:
        self._stop_deadline()
        while self._closed:
            self._closed.pop(0).callback(None)

    def _finish(self, ending: Ending, *, abort: bool = False) -> None:
        """End the stream, once: store the ending, close the transport, call the owner."""
        if self.ending is not None:
            return
        self.ending = ending
        self._events.clear()
        self._intake.close(read_on=not abort and not self._gone)
        self._stop_deadline()
        if not self._gone:
            self._shut(abort)
        self._outlet.close()
        self._stop_blocked_timer()
        if abort:
            self._settle()
        try:
            self.owner.ended(self, ending)
        except Exception:
            self._log.failure("the owner of a stream failed at its end")
        self.engine.release()
        del self.owner, self._tls  # they refer back here: objects in no circle leave memory at once

    def _shut(self, abort: bool) -> None:
        """Bound the time of `loseConnection`. It would wait for the peer without end, also while a producer is registered."""
        self._out.unregisterProducer()
        if abort:
            self._transport.abortConnection()
            return
        self._deadline = self._clock.callLater(self._options.close_timeout, self._transport.abortConnection)
        self._out.loseConnection()

    # --- deadlines -------------------------------------------------------------------------------------------------

    def _negotiation_is_late(self) -> None:
        text = f"The stream was not negotiated within {self._options.negotiation_timeout:g} seconds."
        self.fail(Refusal(StreamCondition.CONNECTION_TIMEOUT, text, Ending(Cause.NEGOTIATION_TIMEOUT, text)))

    def held_too_long(self) -> None:
        """End the stream: it could not be read for too long."""
        text = f"No room for further stanzas for {self._options.hold_timeout:g} seconds."
        self.fail(Refusal(StreamCondition.RESOURCE_CONSTRAINT, text, Ending(Cause.QUEUE_FULL, text)))

    def _stop_deadline(self) -> None:
        cancel(self._deadline)
        self._deadline = None


def _next_portion(portion: int, taken: int, seconds: float) -> int:
    """Return how many bytes are read at once from now on, after `taken` bytes took `seconds`."""
    if seconds > 2 * STREAM_SECONDS:
        return max(LEAST_PORTION_BYTES, portion // 2)
    if seconds < STREAM_SECONDS / 2 and taken >= portion:
        return min(PORTION_BYTES, portion * 2)
    return portion
