"""dnspython on a reactor: its asynchronous queries take a backend, and `TwistedBackend` is one.

Any reactor, a fake one with a test's clock too. Sockets know no time-outs: whoever waits cancels.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import Any

from dns._asyncbackend import Backend, DatagramSocket, StreamSocket  # dns.asyncbackend does not say that it exports them
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.protocol import DatagramProtocol, Protocol
from twisted.python.failure import Failure

#: IReactorTime, IReactorUDP and IReactorTCP at once, which no annotation can say.
Reactor = Any

#: Datagrams kept for a query that has not read them; what comes above that is junk, and dropped.
_DATAGRAMS = 16


class TwistedBackend(Backend):
    """dnspython's view of a reactor. Time is not its matter: whoever waits cancels (`addTimeout`)."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor

    def name(self) -> str:
        return "twisted"

    def datagram_connection_required(self) -> bool:
        """Connected sockets: the kernel passes only the server's datagrams, and tells of a refusal."""
        return True

    async def make_socket(
        self,
        af: int,
        socktype: int,
        proto: int = 0,
        source: Any = None,
        destination: Any = None,
        timeout: float | None = None,
        ssl_context: Any = None,
        server_hostname: str | None = None,
    ) -> DatagramSocket | StreamSocket:
        host, port = destination
        if socktype == socket.SOCK_DGRAM:
            datagrams = _Datagrams(host, port)
            self._reactor.listenUDP(0, datagrams, interface="::" if af == socket.AF_INET6 else "0.0.0.0")
            return _DatagramSocket(af, datagrams)
        stream = _Stream()
        try:
            await _connect(self._reactor, host, port, stream)
        except ConnectingCancelledError:  # Twisted's own word for it: whoever cancelled waits for the usual one
            raise CancelledError from None
        return _StreamSocket(af, stream)


def _connect(reactor: Reactor, host: str, port: int, stream: _Stream) -> Deferred[_Stream]:
    endpoint = TCP4ClientEndpoint(reactor, host, port)  # takes IPv6 literals as well
    connected: Deferred[_Stream] = connectProtocol(endpoint, stream)
    return connected


def _gone(error: Exception) -> Failure:
    return Failure(error)


class _Inbox:
    """What arrived and one who waits for it."""

    def __init__(self, limit: int | None = None) -> None:
        self._items: deque[bytes] = deque(maxlen=limit)
        self._failure: Failure | None = None
        self._waiting: Deferred[bytes] | None = None

    def put(self, item: bytes) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            self._items.append(item)
        else:
            waiting.callback(item)

    def fail(self, failure: Failure) -> None:
        """Nothing more comes; the first reason counts."""
        self._failure = self._failure or failure
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(self._failure)

    def get(self) -> Deferred[bytes]:
        waiting: Deferred[bytes] = Deferred(self._forget)
        if self._items:
            waiting.callback(self._items.popleft())
        elif self._failure is not None:
            waiting.errback(self._failure)
        else:
            self._waiting = waiting
        return waiting

    def _forget(self, waiting: Deferred[bytes]) -> None:
        self._waiting = None


class _Datagrams(DatagramProtocol):
    noisy = False

    @property
    def socket(self) -> Any:
        """A connected `udp.Port`, of which IUDPTransport tells but half; None once it is closed."""
        return self.transport

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._sender = (host.partition("%")[0], port)  # Twisted leaves out the scope
        self.pending_certificates = _Inbox(_DATAGRAMS)

    def startProtocol(self) -> None:
        self.socket.connect(*self._server)

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        if addr == self._sender:  # a stranger's may have come between bind and connect
            self.pending_certificates.put(datagram)

    def connectionRefused(self) -> None:
        self.pending_certificates.fail(_gone(ConnectionRefusedError("connection refused")))

    def stopProtocol(self) -> None:
        """On epoll this is how a refusal shows."""
        self.pending_certificates.fail(_gone(ConnectionRefusedError("connection refused")))


class _DatagramSocket(DatagramSocket):
    def __init__(self, family: int, protocol: _Datagrams) -> None:
        super().__init__(family, socket.SOCK_DGRAM)
        self._protocol = protocol
        self._destination: Any = None

    async def sendto(self, what: bytes, destination: Any, timeout: float | None) -> int:
        self._destination = destination
        self._protocol.socket.write(what)
        return len(what)

    async def recvfrom(self, size: int, timeout: float | None) -> tuple[bytes, Any]:
        """A datagram, and where it came from in the spelling of `sendto`: of four items for IPv6."""
        return await self._protocol.pending_certificates.get(), self._destination

    async def close(self) -> None:
        if self._protocol.socket is not None:  # a refusal has closed it already
            self._protocol.socket.stopListening()


class _Stream(Protocol):
    @property
    def stream(self) -> Any:
        """An ITCPTransport."""
        return self.transport

    def __init__(self) -> None:
        self.pending_certificates = _Inbox()

    def dataReceived(self, data: bytes) -> None:
        """Bounded by the reader: it closes when it has read the one message, of 65,535 bytes at most."""
        self.pending_certificates.put(data)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.pending_certificates.fail(_gone(EOFError("the connection ended before the answer did")))


class _StreamSocket(StreamSocket):
    def __init__(self, family: int, protocol: _Stream) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._protocol = protocol
        self._rest = b""

    async def sendall(self, what: bytes, timeout: float | None) -> None:
        self._protocol.stream.write(what)

    async def recv(self, size: int, timeout: float | None) -> bytes:
        """At least one byte and at most `size`; raises when the stream ends first."""
        data = self._rest or await self._protocol.pending_certificates.get()
        self._rest = data[size:]
        return data[:size]

    async def close(self) -> None:
        self._protocol.stream.abortConnection()
