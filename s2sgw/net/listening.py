"""Accepts connections: endpoints in Twisted's spelling, and a protocol for each admitted connection."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping
from time import thread_time
from typing import Any

from twisted.internet import tcp
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.python.failure import Failure

from s2sgw.net.admission import Admission, AdmittedConnection, NotAdmitted
from s2sgw.net.connection import StreamConnection
from s2sgw.net.endpoint_strings import EndpointString
from s2sgw.net.handover import HandoverProtocol
from s2sgw.stream.events import Refusal
from s2sgw.xmpp.ending import Ending

#: The first file descriptor that systemd passes (sd_listen_fds(3)).
_FIRST_HANDED_OVER = 3

#: Connections that one listener accepts in one turn of the reactor, and the seconds of CPU after which it accepts no more:
#: another connection may have to be closed for each. With less time, newcomers would wait long behind a crowd, since the system
#: queues all connections in one line. Twisted has no such bounds.
ACCEPTS, ACCEPT_SECONDS = 128, 0.01
#: Connections that are accepted before the time is read.
ACCEPTED_AT_ONCE = 4

BuildStream = Callable[[AdmittedConnection], StreamConnection]
#: (address, ending) of a connection that named no peer, and was refused or ended
OnRefused = Callable[[str, Ending], None]


class SilentConnection(HandoverProtocol):
    """An accepted connection until its first byte: then its stream is built.

    The other side may close the connection before that: a health check or a port scan. This costs little, and is no refusal.

    `direct_tls`: the first byte stays in a TCP socket, from which OpenSSL reads it (`net.socket_transport`).
    """

    def __init__(
        self, admitted: AdmittedConnection, address: str, build: BuildStream, refused: OnRefused, direct_tls: bool = False,
    ) -> None:
        self._admitted = admitted
        self._address = address
        self._build = build
        self._refused = refused
        self._direct_tls = direct_tls
        self._stream: StreamConnection | None = None
        admitted.holder = self

    def connectionMade(self) -> None:
        """Note that the transport is there, and read at once: the first bytes often follow directly after the TCP handshake."""
        self._admitted.opened(self.transport.fileno())
        if type(self.transport) is tcp.Server:
            if self._direct_tls:
                self.transport.doRead = self._look  # type: ignore[method-assign]
            if not self._admitted.in_a_crowd:
                self.transport.doRead()  # the reactor reports an end or an error again

    def prefaceReceived(self, data: bytes) -> None:
        """Build the stream, which gets `data` first."""
        connection = self._stream = self._build(self._admitted)
        connection.has_preface = bool(data)
        self._admitted.holder = connection
        self.hand_over(connection, self.transport, data)

    def prefaceLost(self, reason: Failure) -> None:
        """Forget the connection, which closed without a byte."""
        self._look_no_more()

    def _look(self) -> Any:
        """Build the stream if there is a byte, without reading it. Replaces `doRead` of the transport until then."""
        try:
            first = self.transport.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            first = b""
        self._look_no_more()
        if not first:
            return self.transport.doRead()  # it returns why the connection is lost
        self.prefaceReceived(b"")
        return None

    def _look_no_more(self) -> None:
        vars(self.transport).pop("doRead", None)  # it refers back to this object

    def dismiss(self, refusal: Refusal) -> None:
        """End the connection without an error, because nothing was received."""
        if not refusal.ending.in_order:
            self._refused(self._address, refusal.ending)
        self.transport.abortConnection()

    def wind_down(self, ending: Ending) -> None:
        """Close the stream, and read on up to the other side's closing tag. A connection without a stream is ended at once."""
        if self._stream is None:
            self.transport.abortConnection()
        elif self._stream.ending is None:
            self._stream.retiring = True
            self._stream.wind_down(ending)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Leave the admission's count, behind the last call of the stream."""
        try:
            super().connectionLost(reason)
        finally:
            self._admitted.release()


class StreamFactory(ServerFactory):
    """Admits connections. `build` makes the stream of a connection; `refused` is called for connections that never had one.

    `direct_tls`: the streams begin with TLS.
    """

    noisy = False

    def __init__(
        self, build: BuildStream, admission: Admission, refused: OnRefused = lambda address, ending: None, *,
        direct_tls: bool = False,
    ) -> None:
        self._build = build
        self._admission = admission
        self._refused = refused
        self._direct_tls = direct_tls

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the protocol of a new connection. None: Twisted closes it."""
        address = str(getattr(addr, "host", ""))
        admitted = self._admission.admit(address)
        if isinstance(admitted, NotAdmitted):
            self._refused(address, admitted.ending)
            return None
        return self.connection(admitted, address)

    def connection(self, admitted: AdmittedConnection, address: str) -> SilentConnection:
        """Return the protocol of an admitted connection."""
        return SilentConnection(admitted, address, self._build, self._refused, self._direct_tls)


def bound_accepts(port: Any, stopwatch: Callable[[], float] = thread_time) -> Any:
    """Return Twisted's listening port, limited to `ACCEPTS` connections and about `ACCEPT_SECONDS` in one turn.

    `stopwatch` returns seconds of CPU. The port accepts `numberAccepts` connections, and then raises this number if there may be
    more.
    """
    if hasattr(port, "numberAccepts"):
        accept = port.doRead

        def do_read() -> None:
            end = stopwatch() + ACCEPT_SECONDS
            for _ in range(ACCEPTS // ACCEPTED_AT_ONCE):
                port.numberAccepts = ACCEPTED_AT_ONCE
                accept()
                if port.numberAccepts <= ACCEPTED_AT_ONCE or stopwatch() > end:
                    return

        port.doRead = do_read
    return port


def listen(reactor: Any, endpoint: str, factory: ServerFactory) -> list[Deferred[IListeningPort]]:
    """Listen at an endpoint string (`net.endpoint_strings`): one port, or two for a TCP port of both families.

    Each fails with Twisted's `CannotListenError`, or with `ValueError` if systemd has passed no such socket. A host
    without IPv6 listens on IPv4 alone.
    """
    return [listening.addCallback(bound_accepts) for listening in _listen(reactor, endpoint, factory)]


def _listen(reactor: Any, endpoint: str, factory: ServerFactory) -> list[Deferred[IListeningPort]]:
    place = EndpointString.parse(endpoint)
    if place.socket_name is not None:
        return _listen_systemd(reactor, endpoint, place.socket_name, factory)
    if place.every_family and place.port and has_ipv6():
        return [_listen_tcp4(reactor, place, factory), _listen_tcp6(reactor, place, factory)]
    if place.families:
        return [(_listen_tcp6 if place.families == {6} else _listen_tcp4)(reactor, place, factory)]
    try:
        return [serverFromString(reactor, endpoint).listen(factory)]
    except LookupError:
        return [fail(ValueError(f"{endpoint}: systemd has handed over no such socket"))]


def _listen_systemd(reactor: Any, endpoint: str, name: str, factory: ServerFactory) -> list[Deferred[IListeningPort]]:
    """Listen on every socket that systemd has passed under `name` (sd_listen_fds(3)), of any family."""
    found = handed_over(name)
    if not found:
        return [fail(ValueError(f"{endpoint}: systemd has handed over no such socket"))]
    return [maybeDeferred(_adopt, reactor, each, factory) for each in found]


def handed_over(name: str, environ: Mapping[str, str] = os.environ, first: int = _FIRST_HANDED_OVER) -> list[int]:
    """Return the file descriptors that systemd passed to this process under `name`, from `first` on.

    When Twisted's endpoints are imported, they remove LISTEN_PID and LISTEN_FDS from the environment, if these are for this
    process, and leave LISTEN_FDNAMES. So a LISTEN_PID that is still there must be ours, and each descriptor must listen.
    """
    if environ.get("LISTEN_PID", str(os.getpid())) != str(os.getpid()):
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    return [first + at for at, each in enumerate(names) if each == name and _listens(first + at)]


def _listens(descriptor: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            return bool(copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


def _adopt(reactor: Any, descriptor: int, factory: ServerFactory) -> IListeningPort:
    with socket.socket(fileno=os.dup(descriptor)) as handed:
        handed.setblocking(False)
        port: IListeningPort = reactor.adoptStreamPort(handed.fileno(), handed.family, factory)
    return port


def replace_factory(port: Any, factory: ServerFactory) -> None:
    """Let `factory` serve the connections to `port` from now on. Both are told, so that no timer of the old one stays."""
    old = port.factory
    if old is not factory:
        factory.doStart()
        port.factory = factory
        old.doStop()


def trouble(failure: Failure) -> str:
    """Return why a listener could not be opened, and what an operator can do."""
    error = failure.value
    number = error.socketError.errno if isinstance(error, CannotListenError) and isinstance(error.socketError, OSError) else None
    if number == errno.EADDRINUSE:
        return (
            "the port is in use, perhaps by your XMPP server, by systemd for s2sgw.socket, by another node (all need "
            "reuseport=yes and one user), or by s2sgw itself on another address, which needs a restart; `ss -ltnp` shows by what"
        )
    if number == errno.EACCES:
        return "a port below 1024 needs the capability CAP_NET_BIND_SERVICE, which the unit of `s2sgw setup systemd` gives"
    return failure.getErrorMessage()


def has_ipv6() -> bool:
    """Return whether this host can listen on IPv6."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _listen_tcp4(reactor: Any, place: EndpointString, factory: ServerFactory) -> Deferred[IListeningPort]:
    if place.reuses_port:  # Twisted cannot
        return maybeDeferred(_adopt_tcp, reactor, place, factory, socket.AF_INET)
    return maybeDeferred(reactor.listenTCP, place.port, factory, place.backlog, place.interface or "0.0.0.0")


def _listen_tcp6(reactor: Any, place: EndpointString, factory: ServerFactory) -> Deferred[IListeningPort]:
    """Listen on IPv6 alone (IPV6_V6ONLY), so that IPv4 addresses are never mapped. The system's default is not used."""
    return maybeDeferred(_adopt_tcp, reactor, place, factory, socket.AF_INET6)


def _adopt_tcp(reactor: Any, place: EndpointString, factory: ServerFactory, family: socket.AddressFamily) -> IListeningPort:
    interface = place.interface or ("::" if family == socket.AF_INET6 else "0.0.0.0")
    with socket.socket(family, socket.SOCK_STREAM) as opened:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if place.reuses_port:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            opened.bind((interface, place.port))
            opened.listen(place.backlog)
        except OSError as problem:
            raise CannotListenError(interface, place.port, problem) from None
        port: IListeningPort = reactor.adoptStreamPort(opened.fileno(), family, factory)
    return port
