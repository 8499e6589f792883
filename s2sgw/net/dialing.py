"""Connecting to one address: a connection, or the ending that says why not."""

from __future__ import annotations

import ipaddress
from typing import Any

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IConnector, IProtocol
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure

from s2sgw.xmpp.ending import Cause, Ending

#: Seconds for one address to answer.
CONNECT_TIMEOUT = 15.0


class DialFailed(Exception):
    """No connection: `ending` says why, `address` where to."""

    def __init__(self, ending: Ending, address: str = "") -> None:
        super().__init__(f"{ending.cause}: {ending.detail}")
        self.ending = ending
        self.address = address


def dial(
    reactor: Any, address: str, port: int, connection: IProtocol, *, timeout: float = CONNECT_TIMEOUT, source: str | None = None,
) -> Deferred[None]:
    """Connect `connection` to `address` (an IP address, never a name: nothing is resolved here) from `source`.

    Fires once `connection` has its transport; fails with `DialFailed`. Cancelling it closes what there is.
    """
    ipaddress.ip_address(address)
    return _Attempt(reactor, address, port, connection).start(timeout, source)


class _Attempt(ClientFactory[Any]):
    """One connection attempt."""

    noisy = False

    def __init__(self, reactor: Any, address: str, port: int, connection: IProtocol) -> None:
        self._reactor = reactor
        self._address = address
        self._port = port
        self._connection = connection
        self._result: Deferred[None] = Deferred(self._cancel)
        self._connector: IConnector | None = None
        self._over = False

    def start(self, timeout: float, source: str | None) -> Deferred[None]:
        bind = (source, 0) if source is not None else None
        self._connector = self._reactor.connectTCP(self._address, self._port, self, timeout, bind)
        return self._result

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Twisted connects the protocol as soon as this returns, so the result is left to the next turn."""
        self._reactor.callLater(0, self._connected)
        return self._connection

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if not self._over:
            self._over = True
            self._result.errback(DialFailed(why(reason, self._address, self._port), self._address))

    def _connected(self) -> None:
        if not self._over:
            self._over = True
            self._result.callback(None)

    def _cancel(self, result: Deferred[None]) -> None:
        self._over = True
        if self._connector is not None:
            self._connector.disconnect()


def why(reason: Failure, address: str, port: int) -> Ending:
    """The ending that a failed attempt amounts to."""
    place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    problem = reason.value
    if isinstance(problem, error.ConnectionRefusedError):
        return Ending(Cause.CONNECTION_REFUSED, place, "them")
    if isinstance(problem, error.TimeoutError | error.TCPTimedOutError):
        return Ending(Cause.CONNECTION_TIMEOUT, place, "network")
    return Ending(Cause.UNREACHABLE, f"{place}: {reason.getErrorMessage()}", "network")


