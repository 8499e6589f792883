"""Transports with a preface: the PROXY protocol, a SOCKS proxy. After the preface another protocol gets the transport."""

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
    """An address, or a name that only a proxy resolves, with a port."""

    host: str
    port: int


class RelayedTransport:
    """A transport with other ends than those of its socket."""

    def __init__(self, transport: Any, peer: IAddress, host: IAddress) -> None:
        self.relays = transport
        self._peer = peer
        self._host = host
        self.write = transport.write  # looked up once: it is called most often
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
    """Gets the preface by `prefaceReceived`, then hands the transport over."""

    _inner: IProtocol | None = None
    transport: Any

    def prefaceReceived(self, data: bytes) -> None:
        """Take input before the hand-over."""

    def prefaceLost(self, reason: Failure) -> None:
        """React to the loss of the transport before the hand-over."""

    def hand_over(self, inner: IProtocol, transport: Any, leftover: bytes = b"") -> None:
        """Hand the transport over to `inner`, with `leftover` as its first input."""
        self._inner = inner
        self.dataReceived = inner.dataReceived  # type: ignore[method-assign]  # saves one call for each read
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
