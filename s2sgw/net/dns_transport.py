"""Sockets for dnspython on a Twisted reactor: `TwistedBackend` is a backend for its asynchronous queries.

It works with any reactor, including a test's. The sockets have no time-outs: the caller cancels.
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

from s2sgw.net.dns_bounds import BYTES, AnswerTooLarge, check_answer

#: IReactorTime, IReactorUDP and IReactorTCP at once, which no annotation can express.
Reactor = Any

#: Bytes of the length before each message on a stream.
_LENGTH_BYTES = 2
#: Datagrams that are kept for a query until it reads them. Further ones are dropped.
_DATAGRAMS = 16


class TwistedBackend(Backend):
    """dnspython's interface to a reactor. The caller bounds the time by cancelling (`addTimeout`)."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor

    def name(self) -> str:
        return "twisted"

    def datagram_connection_required(self) -> bool:
        """Return True: on a connected socket the kernel passes only the server's datagrams, and reports a refusal."""
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
        except ConnectingCancelledError:  # Twisted's own exception; the caller expects the usual one
            raise CancelledError from None
        return _StreamSocket(af, stream)


def _connect(reactor: Reactor, host: str, port: int, stream: _Stream) -> Deferred[_Stream]:
    endpoint = TCP4ClientEndpoint(reactor, host, port)  # takes IPv6 literals as well
    connected: Deferred[_Stream] = connectProtocol(endpoint, stream)
    return connected


def _gone(error: Exception) -> Failure:
    return Failure(error)


class _Inbox:
    """Data that arrived, and at most one reader that waits for more."""

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
        """Note that no more data comes. The first reason is kept."""
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
        """Return the connected `udp.Port` (IUDPTransport lacks half of its methods); None once it is closed."""
        return self.transport

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._sender = (host.partition("%")[0], port)  # Twisted leaves out the scope
        self.received = _Inbox(_DATAGRAMS)

    def startProtocol(self) -> None:
        self.socket.connect(*self._server)

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        if addr == self._sender:  # others may have sent between bind and connect
            self.received.put(datagram)

    def connectionRefused(self) -> None:
        self.received.fail(_gone(ConnectionRefusedError("connection refused")))

    def stopProtocol(self) -> None:
        """Report a refusal: on epoll it closes the port."""
        self.received.fail(_gone(ConnectionRefusedError("connection refused")))


class _DatagramSocket(DatagramSocket):
    def __init__(self, family: int, protocol: _Datagrams) -> None:
        super().__init__(family, socket.SOCK_DGRAM)
        self._protocol = protocol
        self._destination: Any = None
        self._id = b""

    async def sendto(self, what: bytes, destination: Any, timeout: float | None) -> int:
        self._destination = destination
        self._id = what[:2]
        self._protocol.socket.write(what)
        return len(what)

    async def recvfrom(self, size: int, timeout: float | None) -> tuple[bytes, Any]:
        """Return a datagram and its source, spelled as in `sendto` (four items for IPv6). Raises `AnswerTooLarge`.

        A datagram with another id is not the answer: it is dropped if it is too large.
        """
        while True:
            datagram = await self._protocol.received.get()
            try:
                check_answer(datagram)
            except AnswerTooLarge:
                if datagram[:2] != self._id:
                    continue
                raise
            return datagram, self._destination

    async def close(self) -> None:
        if self._protocol.socket is not None:  # a refusal has closed it already
            self._protocol.socket.stopListening()


class _Stream(Protocol):
    @property
    def stream(self) -> Any:
        """Return the ITCPTransport."""
        return self.transport

    def __init__(self) -> None:
        self.received = _Inbox()

    def dataReceived(self, data: bytes) -> None:
        """Keep `data`. The reader closes the connection after one message of at most 65,535 bytes."""
        self.received.put(data)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.received.fail(_gone(EOFError("the connection ended before the answer did")))


class _StreamSocket(StreamSocket):
    def __init__(self, family: int, protocol: _Stream) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._protocol = protocol
        self._rest = b""

    async def sendall(self, what: bytes, timeout: float | None) -> None:
        self._protocol.stream.write(what)

    async def recv(self, size: int, timeout: float | None) -> bytes:
        """Return between one byte and `size` bytes of a whole message. Raises `EOFError` if the stream ends, `AnswerTooLarge`."""
        data = self._rest or await self._message()
        self._rest = data[size:]
        return data[:size]

    async def _message(self) -> bytes:
        """Return a message with its length (RFC 1035 §4.2.2)."""
        data, end = b"", _LENGTH_BYTES
        while len(data) < end:
            data += await self._protocol.received.get()
            if len(data) >= _LENGTH_BYTES:
                end = _LENGTH_BYTES + min(int.from_bytes(data[:_LENGTH_BYTES]), BYTES + 1)
        check_answer(data[_LENGTH_BYTES:end])
        return data

    async def close(self) -> None:
        self._protocol.stream.abortConnection()
