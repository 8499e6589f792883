"""Connects to one place: the result is a connection, or the ending with the reason.

A *dialler* connects to a place. It calls `build` for the protocol when the connection is ready, and closes the connection if
`build` returns None. So only one of several racing attempts becomes a stream.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IConnector, IProtocol
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.python.failure import Failure

from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.host_port import HostPort

#: Seconds for one address to answer.
CONNECT_TIMEOUT = 15.0

Build = Callable[[], IProtocol | None]
#: (address or host, port, build) -> fires once the built protocol has its transport; fails with `DialFailed`.
Dialler = Callable[[str, int, Build], Deferred[None]]


class DialFailed(Exception):
    """No connection. `ending` has the reason, `address` the place."""

    def __init__(self, ending: Ending, address: str = "") -> None:
        super().__init__(f"{ending.cause}: {ending.detail}")
        self.ending = ending
        self.address = address


class ClosedAtOnce(Protocol):
    """A connection that only tests whether it can be made. It is closed at once."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


class DirectDialler:
    """Connects to IP addresses. It resolves no names.

    `sources` are the local addresses to connect from. The first one of the right family is used.
    """

    def __init__(self, reactor: Any, *, timeout: float = CONNECT_TIMEOUT, sources: Sequence[str] = ()) -> None:
        self._reactor = reactor
        self._timeout = timeout
        self._sources = {ipaddress.ip_address(source).version: source for source in reversed(sources)}

    def __call__(self, address: str, port: int, build: Build) -> Deferred[None]:
        source = self._sources.get(ipaddress.ip_address(address).version)
        return ConnectionAttempt(self._reactor, address, port, build).start(self._timeout, source)


def _spent() -> None:
    """Replace `build`: an attempt builds once, and must not keep references afterwards."""


class ConnectionAttempt(ClientFactory[Any]):
    """One TCP connection attempt to an IP address."""

    noisy = False

    def __init__(self, reactor: Any, address: str, port: int, build: Build) -> None:
        self._reactor = reactor
        self._place = HostPort(address, port)
        self._build = build
        self._result: Deferred[None] = Deferred(self._cancel)
        self._connector: IConnector | None = None
        self._over = False

    def start(self, timeout: float, source: str | None = None) -> Deferred[None]:
        """Begin. Call this once."""
        bind = (source, 0) if source is not None else None
        self._connector = self._reactor.connectTCP(self._place.host, self._place.port, self, timeout, bind)
        return self._result

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Report success in the next turn: Twisted connects the protocol only when this returns (None: closes the connection)."""
        protocol = None if self._over else self._build()
        self._build = _spent
        self._reactor.callLater(0, self._connected if protocol is not None else self._unwanted)
        return protocol

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        """Cut the references between Twisted's connector and its transport, so that both leave memory."""
        connector.transport = None  # type: ignore[attr-defined]

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if not self._over:
            self._end()
            self._result.errback(DialFailed(why(reason, self._place), self._place.host))

    def _end(self) -> None:
        """Drop the timer and the connector, which refers back to this attempt."""
        self._over = True
        self._connector = None

    def _connected(self) -> None:
        if not self._over:
            self._end()
            self._result.callback(None)

    def _unwanted(self) -> None:
        if not self._over:
            self._end()
            self._result.errback(DialFailed(Ending(Cause.CLOSED, f"{self._place}: no longer wanted"), self._place.host))

    def _cancel(self, result: Deferred[None]) -> None:
        connector = self._connector
        self._end()
        if connector is not None:
            connector.disconnect()


def why(reason: Failure, place: HostPort) -> Ending:
    """Return the ending for a failed attempt."""
    problem = reason.value
    if isinstance(problem, error.ConnectionRefusedError):
        return Ending(Cause.CONNECTION_REFUSED, str(place), "them")
    if isinstance(problem, error.TimeoutError | error.TCPTimedOutError):
        return Ending(Cause.CONNECTION_TIMEOUT, str(place), "network")
    number = problem.osError if isinstance(problem, error.ConnectError) else None
    words = os.strerror(number) if isinstance(number, int) else reason.getErrorMessage()
    return Ending(Cause.UNREACHABLE, f"{place}: {words}", "network")
