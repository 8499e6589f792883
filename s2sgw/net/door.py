"""Serves a new connection here, or hands it on to another node of the cluster, by its first stream header (docs/cluster.md).

The header is in clear before STARTTLS. It is read here and passed on unchanged: to the stream that is built here, or to the
other node, behind a PROXY header. Bytes are copied then (`net.relay`), and the other node ends the negotiation in time.

The admission of the connection stays here too. A connection that is handed on may give way to others as an unproven one does,
until the other node must have ended it if it had proven nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.net.admission import Admission, AdmittedConnection
from s2sgw.net.dialing import DialFailed, Dialler
from s2sgw.net.listening import BuildStream, OnRefused, SilentConnection, StreamFactory
from s2sgw.net.relay import Relay, can_be_relayed
from s2sgw.net.tcp_options import set_user_timeout
from s2sgw.stream.events import Refusal
from s2sgw.xmpp.framing import Framer
from s2sgw.xmpp.header import Header
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.timer import cancel

#: The most bytes in which the stream header is looked for. A longer one is served here.
HEADER_BYTES = 4096
#: Seconds after a failed connection to another node, before the place is asked for again.
AGAIN_SECONDS = 0.25
#: Seconds beyond the time of a negotiation, after which a connection that another node still serves counts as proven.
PROVEN_AFTER = 5.0


class Placing(Protocol):
    """Decides where connections are served."""

    def place(self, header: Header, address: str) -> Deferred[HostPort | None]:
        """Return the listener of the node that serves the stream of `header`; None: this node. `address`: of the other side.

        Never fails. It may be cancelled.
        """

    def greeting(self, header: Header, source: HostPort, destination: HostPort) -> bytes:
        """Return the bytes that begin the connection to the other node; b"": it cannot be handed on."""

    def not_reached(self, header: Header, place: HostPort, why: str) -> None:
        """Forget that the connection should go to `place`: it cannot be connected to. `why` is a few words."""

    def not_answered(self, place: HostPort) -> None:
        """Note that `place` has closed a connection that was handed on, before it sent anything."""

    def handed_on(self, connection: HandedOn, place: HostPort, header: Header) -> None:
        """Note that the connection of `header` is handed on to `place`."""

    def gone(self, connection: HandedOn) -> None:
        """Note that it is closed."""

    def may_copy(self) -> bool:
        """Return whether bytes may be copied. If not, connections that are handed on end when the next bytes come."""


class HandedOn(Protocol):
    """A connection that another node serves."""

    def abort(self) -> None:
        """End it with a reset."""


class DoorFactory(StreamFactory):
    """A `StreamFactory` whose connections are placed when their stream header has come. They begin in clear."""

    def __init__(
        self, build: BuildStream, admission: Admission, refused: OnRefused, placing: Placing, dialler: Dialler,
        clock: IReactorTime,
    ) -> None:
        super().__init__(build, admission, refused)
        self.placing = placing
        self.dialler = dialler
        self.clock = clock

    def connection(self, admitted: AdmittedConnection, address: str) -> SilentConnection:
        """Return the protocol of an admitted connection."""
        return DoorConnection(self, admitted, address, self._build, self._refused)

    @property
    def proven_after(self) -> float:
        """The seconds after which a connection that is handed on counts as proven."""
        return self._admission.limits.negotiation + PROVEN_AFTER


class DoorConnection(SilentConnection):
    """An accepted connection until it is placed. If it is handed on, until its end."""

    _log = Logger()

    def __init__(
        self, door: DoorFactory, admitted: AdmittedConnection, address: str, build: BuildStream, refused: OnRefused,
    ) -> None:
        super().__init__(admitted, address, build, refused)
        self._door = door
        self._framer: Framer | None = Framer()
        self._data = b""
        self._is_over = False
        #: what is waited for: the place, the connection to it, or the time for another look
        self._call: Deferred[Any] | None = None
        self._timer: IDelayedCall | None = None
        self._relay: Relay | None = None
        self._place: HostPort | None = None
        self._header: Header | None = None

    # --- the header ---

    def prefaceReceived(self, data: bytes) -> None:
        """Look for the stream header."""
        room = HEADER_BYTES - len(self._data)
        self._data += data
        if self._framer is None:
            return  # it waits for its place
        events = self._framer.feed(data[:room])
        if not events and len(data) < room:
            return
        self._drop_framer()
        if events and isinstance(events[0], Header) and can_be_relayed(self.transport):
            self.transport.pauseProducing()
            self._ask(events[0])
        else:
            self._serve()

    def _drop_framer(self) -> None:
        if self._framer is not None:
            self._framer.close()
            self._framer = None

    # --- its place ---

    def _ask(self, header: Header) -> None:
        self._timer = None
        self._call = self._door.placing.place(header, self._address)
        self._call.addCallback(self._placed, header).addErrback(self._failed)

    def _placed(self, place: HostPort | None, header: Header) -> None:
        self._call = None
        if self._is_over:
            return
        source, destination = (_host_port(each) for each in (self.transport.getPeer(), self.transport.getHost()))
        greeting = b"" if place is None else self._door.placing.greeting(header, source, destination)
        if place is None or not greeting:
            self._serve()
            return
        self._header = header
        self._call = self._door.dialler(place.host, place.port, partial(self._far_end, place, greeting))
        self._call.addCallbacks(self._reached, self._not_reached, errbackArgs=(header, place))

    def _failed(self, failure: Failure) -> None:
        if not self._is_over:
            self._log.failure("the place of a connection could not be found", failure)
            self.transport.abortConnection()

    def _serve(self) -> None:
        """Build the stream here."""
        data, self._data = self._data, b""
        self.transport.resumeProducing()
        super().prefaceReceived(data)

    # --- handed on ---

    def _far_end(self, place: HostPort, greeting: bytes) -> TwistedProtocol | None:
        return None if self._is_over else _FarEnd(self, place, greeting)

    def _reached(self, _: None) -> None:
        self._call = None

    def _not_reached(self, failure: Failure, header: Header, place: HostPort) -> None:
        self._call = None
        if not self._is_over and self._relay is None:
            ending = failure.value.ending if isinstance(failure.value, DialFailed) else None
            why = failure.getErrorMessage() if ending is None else f"{ending.cause}: {ending.detail}"
            self._door.placing.not_reached(header, place, why)
            self._timer = self._door.clock.callLater(AGAIN_SECONDS, self._ask, header)

    def hand_on(self, far: Any, place: HostPort, greeting: bytes) -> None:
        """Copy bytes from and to the transport `far` from now on."""
        if self._is_over:
            far.abortConnection()
            return
        for transport in (self.transport, far):
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)
            set_user_timeout(transport)
        self._admitted.entrust()
        self._timer = self._door.clock.callLater(self._door.proven_after, self._prove)
        data, self._data = self._data, b""
        assert self._header is not None
        self._place = place
        self._door.placing.handed_on(self, place, self._header)
        self._relay = Relay(self.transport, far, self._door.placing.may_copy)
        self._relay.begin(greeting + data)

    def _prove(self) -> None:
        """Count the connection as proven, unless the other node has closed it, and only this side keeps it open."""
        self._timer = None
        if self._relay is not None and self._relay.far.input_over:
            self.abort()
        else:
            self._admitted.prove()

    def abort(self) -> None:
        """End the connection with a reset, and that to the other node."""
        if self._relay is not None:
            self._relay.abort()
        else:
            self.transport.abortConnection()

    # --- the end ---

    def prefaceLost(self, reason: Failure) -> None:
        """Forget the connection."""
        self._stop()
        super().prefaceLost(reason)

    def dismiss(self, refusal: Refusal) -> None:
        """End the connection without an error."""
        if not refusal.ending.in_order:
            self._refused(self._address, refusal.ending)
        self._stop()
        self.abort()

    def _stop(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._drop_framer()
        self._data = b""
        cancel(self._timer)
        self._timer = None
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        if self._relay is not None:
            assert self._place is not None
            if self._relay.is_unanswered:
                self._door.placing.not_answered(self._place)
            self._door.placing.gone(self)


class _FarEnd(TwistedProtocol):
    """The connection to the other node."""

    def __init__(self, connection: DoorConnection, place: HostPort, greeting: bytes) -> None:
        self._connection: DoorConnection | None = connection
        self._place = place
        self._greeting = greeting

    def connectionMade(self) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        connection.hand_on(self.transport, self._place, self._greeting)


def _host_port(address: Any) -> HostPort:
    return HostPort(address.host, address.port)
