"""Connecting to one place: a connection, or the ending that says why not.

A place is connected by a *dialler*, which asks `build` for the protocol at the very moment that the way is open, and closes
again where `build` answers None: of several attempts that race only one then ever speaks.
"""

from __future__ import annotations

import ipaddress
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
#: (address or host, port, build) -> fires once what was built has its transport; fails with `DialFailed`.
Dialler = Callable[[str, int, Build], Deferred[None]]


class DialFailed(Exception):
    """No connection: `ending` says why, `address` where to."""

    def __init__(self, ending: Ending, address: str = "") -> None:
        super().__init__(f"{ending.cause}: {ending.detail}")
        self.ending = ending
        self.address = address


class ClosedAtOnce(Protocol):
    """A connection that is made to see whether it can be, and closed again."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


class DirectDialler:
    """Dials IP addresses. It resolves no names.

    `sources` are addresses of ours to connect from. The first one of the right family is used.
    """

    def __init__(self, reactor: Any, *, timeout: float = CONNECT_TIMEOUT, sources: Sequence[str] = ()) -> None:
        self._reactor = reactor
        self._timeout = timeout
        self._sources = {ipaddress.ip_address(source).version: source for source in reversed(sources)}

    def __call__(self, address: str, port: int, build: Build) -> Deferred[None]:
        source = self._sources.get(ipaddress.ip_address(address).version)
        return ConnectionAttempt(self._reactor, address, port, build).start(self._timeout, source)


def _spent() -> None:
    """An attempt builds once; what it could build with leads to all that it was made for."""


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
        """Begin. To be called once."""
        bind = (source, 0) if source is not None else None
        self._connector = self._reactor.connectTCP(self._place.host, self._place.port, self, timeout, bind)
        return self._result

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Twisted connects the protocol as soon as this returns (None: closes), so the result is left to the next turn."""
        protocol = None if self._over else self._build()
        self._build = _spent
        self._reactor.callLater(0, self._connected if protocol is not None else self._unwanted)
        return protocol

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        """Twisted leaves a connector and its transport referring to each other, so that both would stay in memory."""
        connector.transport = None  # type: ignore[attr-defined]

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if not self._over:
            self._end()
            self._result.errback(DialFailed(why(reason, self._place), self._place.host))

    def _end(self) -> None:
        """There is nothing left to cancel; the connector refers back to this attempt."""
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
    """The ending that a failed attempt amounts to."""
    problem = reason.value
    if isinstance(problem, error.ConnectionRefusedError):
        return Ending(Cause.CONNECTION_REFUSED, str(place), "them")
    if isinstance(problem, error.TimeoutError | error.TCPTimedOutError):
        return Ending(Cause.CONNECTION_TIMEOUT, str(place), "network")
    return Ending(Cause.UNREACHABLE, f"{place}: {reason.getErrorMessage()}", "network")
