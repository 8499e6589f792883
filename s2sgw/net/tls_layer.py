"""TLS on a transport: the facts after its handshake, and the meaning of its failures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from sys import intern
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from s2sgw.net.tls import HANDSHAKING
from s2sgw.xmpp.ending import Cause, Ending

#: OpenSSL's words for a version that one side refuses.
_TOO_OLD = ("unsupported protocol", "protocol version", "no protocols available", "inappropriate fallback")


@dataclass(frozen=True, slots=True)
class TLSFacts:
    """The facts of one TLS connection. `chain` is DER, leaf first, as presented; (): the other side showed none."""

    chain: tuple[bytes, ...]
    version: str  # "TLSv1.2", "TLSv1.3"
    cipher: str
    #: the data of channel binding: tls-exporter (RFC 9266). None below TLS 1.3, where its safety is not known
    exporter: bytes | None = field(default=None, repr=False)


@implementer(IHandshakeListener)
class TLSListener(Protocol):
    """The user of the TLS layer, in five calls."""

    def __init__(
        self, heard: Callable[[bytes], None], secured: Callable[[TLSFacts], None], lost: Callable[[Failure], None],
        renegotiated: Callable[[], None], flooded: Callable[[], None],
    ) -> None:
        #: see `net.tls.TLSWatch`
        self.steps = HANDSHAKING
        self._heard = heard
        self._secured = secured
        self._lost = lost
        self._renegotiated = renegotiated
        self._flooded = flooded

    def handshakeCompleted(self) -> None:
        self.steps = 0
        transport: Any = self.transport
        self._secured(observe(transport.getHandle()))

    def dataReceived(self, data: bytes) -> None:
        self.steps = 0
        self._heard(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost(reason)

    def takes_long(self) -> bool:
        """Return False: Twisted feeds OpenSSL a little at a time."""
        return False

    def renegotiationAttempted(self) -> None:
        """Called from within OpenSSL (`net.tls`): nothing may be closed here."""
        self._renegotiated()

    def messagesWithoutData(self) -> None:
        """Called in the same way."""
        self._flooded()


class _TLSTransport(BufferingTLSTransport):
    """Twisted's TLS layer, without a circle of references after a failure."""

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        """Note why TLS is over, without the traceback.

        The frames of the traceback refer to this transport and to the failure itself. So they would keep all of a connection in
        memory until the cyclic collector runs.
        """
        if reason is not None:
            reason.cleanFailure()
        super()._tlsShutdownFinished(reason)


def tls_on(inside: TLSListener, creator: Any, is_client: bool, clock: IReactorTime) -> Any:
    """Return a TLS layer around `inside`. It is to be connected to a transport that feeds it.

    `transport.startTLS` does the same on the global reactor's clock. This is one path for STARTTLS and direct TLS, and for tests
    in memory.
    """
    return _TLSTransport(TLSMemoryBIOFactory(creator, is_client, Factory(), clock=clock), inside)


def observe(connection: SSL.Connection) -> TLSFacts:
    """Return the facts of `connection`, whose handshake is over."""
    return TLSFacts(
        chain=presented_chain(connection),
        version=intern(connection.get_protocol_version_name()),
        cipher=intern(connection.get_cipher_name() or ""),
        exporter=exporter(connection),
    )


def exporter(connection: SSL.Connection) -> bytes | None:
    """Return the tls-exporter value. Under TLS 1.2 it is safe only with the extended master secret, which is not visible here."""
    if connection.get_protocol_version_name() != "TLSv1.3":
        return None
    return connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")


def presented_chain(connection: SSL.Connection) -> tuple[bytes, ...]:
    """Return the other side's certificates. OpenSSL leaves the leaf out of its list on the server side only."""
    leaf = connection.get_peer_certificate()
    if leaf is None:
        return ()
    first = crypto.dump_certificate(crypto.FILETYPE_ASN1, leaf)
    rest = [crypto.dump_certificate(crypto.FILETYPE_ASN1, one) for one in connection.get_peer_cert_chain() or ()]
    return (first, *(rest[1:] if rest[:1] == [first] else rest))


def lost(reason: Failure, *, handshaking: bool) -> Ending:
    """Return the ending for the loss of a transport."""
    error = reason.value
    if isinstance(error, SSL.Error):
        words = _words(error)
        cause = Cause.TLS_TOO_OLD if any(phrase in words for phrase in _TOO_OLD) else Cause.TLS_FAILED
        return Ending(cause, words, "network")
    if handshaking:
        return Ending(Cause.TLS_FAILED, "the connection closed during the TLS handshake", "network")
    if isinstance(error, ConnectionDone):
        return Ending(Cause.CONNECTION_LOST, "the connection closed without a closing tag", "them")
    if isinstance(error, ConnectionAborted):
        return Ending(Cause.CONNECTION_LOST, "the connection was aborted", "us")
    return Ending(Cause.CONNECTION_LOST, reason.getErrorMessage(), "network")


def _words(error: SSL.Error) -> str:
    """Return OpenSSL's reasons in its own words, the first cause first."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(reason for _library, _function, reason in queue) or type(error).__name__
