"""Transports on which something else is said first: the PROXY protocol, a SOCKS proxy. Then another protocol gets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IAddress)
@dataclass(frozen=True, slots=True)
class RelayedAddress:
    """An address, or a name that only a proxy resolves, and a port."""

    host: str
    port: int


class RelayedTransport:
    """A transport whose ends are other than those of its socket."""

    def __init__(self, transport: Any, peer: IAddress, host: IAddress) -> None:
        self.relays = transport
        self._peer = peer
        self._host = host
        self.write = transport.write  # looked up once: it is called most
        self.writeSequence = transport.writeSequence

    def getPeer(self) -> IAddress:
        return self._peer

    def getHost(self) -> IAddress:
        return self._host

    def __getattr__(self, name: str) -> Any:
        return getattr(self.relays, name)


def innermost(transport: Any) -> Any:
    """Return the transport that has the socket."""
    while isinstance(transport, RelayedTransport):
        transport = transport.relays
    return transport


class HandoverProtocol(Protocol):
    """Hears the preface by `prefaceReceived`, then hands the transport over."""

    _inner: IProtocol | None = None
    transport: Any

    def prefaceReceived(self, data: bytes) -> None:
        """Input before the hand-over."""

    def prefaceLost(self, reason: Failure) -> None:
        """The transport went before the hand-over."""

    def hand_over(self, inner: IProtocol, transport: Any, leftover: bytes = b"") -> None:
        """From now on everything is `inner`'s, `leftover` first."""
        self._inner = inner
        self.dataReceived = inner.dataReceived  # type: ignore[method-assign]  # one call less for each read
        inner.makeConnection(transport)
        if leftover:
            inner.dataReceived(leftover)

    def dataReceived(self, data: bytes) -> None:
        if self._inner is None:
            self.prefaceReceived(data)
        else:
            self._inner.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is None:
            self.prefaceLost(reason)
        else:
            self._inner.connectionLost(reason)
