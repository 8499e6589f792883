"""TLS of both roles: contexts that ask for a certificate, accept any, and never renegotiate or resume (R10, R11).

See docs/decisions.md#evidence.

The chain is evidence. Pure code judges it after the handshake; nothing is verified here. OpenSSL would still check the signatures
of the whole chain, and accept any result: a verify depth of 0 prevents that. One context is kept for each certificate
(making one costs 133 µs, a connection on it 13 µs), in a bounded cache.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Literal, Protocol

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from zope.interface import implementer

from s2sgw.net.certificates import Credential
from s2sgw.xmpp.bounded_dict import BoundedDict
from s2sgw.xmpp.jid import Domain, InvalidJID

Minimum = Literal["1.2", "1.3"]
CredentialFor = Callable[[Domain | None], Credential | None]

#: XEP-0368 §4: the application protocol of direct TLS between servers.
ALPN = b"xmpp-server"

#: Contexts kept by one `ServerTLS` or `ClientTLS`. The least recently used is removed first.
CONTEXTS_KEPT = 256

#: TLS 1.2 suites: forward secrecy and authenticated encryption only, so no static RSA, no 3DES and no CBC (R38, RFC 9325 §4.2).
#: TLS 1.3 keeps OpenSSL's list.
CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:!aNULL:!eNULL:!aDSS:!PSK:!SRP"

_VERSIONS: dict[Minimum, int] = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
_ALERT_WRITTEN = SSL.SSL_CB_WRITE_ALERT
_NO_RENEGOTIATION = 100  # RFC 5246 §7.2: the warning with which OpenSSL answers an attempt

#: Steps of OpenSSL's handshake machine that may follow each other on an established connection without data. A message has about
#: three. Servers send up to four session tickets at once.
STEPS = 64
#: `TLSWatch.steps` before the handshake is over: its steps are not counted.
HANDSHAKING = -inf


class TLSWatch(Protocol):
    """The object that OpenSSL's calls reach (`_watch`): the app data of a connection, or its `wrappedProtocol`.

    `steps`: the steps of the handshake machine since the last data. Nothing may be closed in these calls.
    """

    steps: float

    def takes_long(self) -> bool:
        """Return whether this call of OpenSSL reads such messages for long: one can come in 131,338 records (RFC 8446 §5.1)."""

    def renegotiationAttempted(self) -> None:
        """Note that the other side asks for a renegotiation. No more is read."""

    def messagesWithoutData(self) -> None:
        """Note that the other side sends messages without end, and no data. No more is read."""


class DirectWatch:
    """The base class of a `TLSWatch` that is the app data of a connection."""

    __slots__ = ()


class NoCertificate(Exception):
    """There is no certificate for the server side of TLS."""


class ServerTLS:
    """Makes TLS connections of the receiving role.

    `credential_for(domain)` returns the credential for a domain, `credential_for(None)` the one for an unknown name. `direct`:
    direct TLS, where SNI selects the certificate, and ALPN, if offered, must be `xmpp-server`. Otherwise the domain in the
    header's `to` has selected the certificate, and SNI is ignored (R11).
    """

    def __init__(self, credential_for: CredentialFor, minimum: Minimum = "1.2", *, direct: bool = False) -> None:
        self._credential_for = credential_for
        self._minimum: Minimum = minimum
        self._direct = direct
        self._contexts = _Contexts(self._prepare)

    def for_domain(self, domain: Domain | None) -> ServerCreator:
        """Return the function that opens TLS as `domain`; None: as the domain in SNI. Raises `NoCertificate`."""
        credential = self._credential_for(domain) or self._credential_for(None)
        if credential is None:
            raise NoCertificate(f"no certificate serves {domain}" if domain else "there is no certificate")
        return self.for_credential(credential)

    def for_credential(self, credential: Credential) -> ServerCreator:
        """Return the function that opens TLS with this certificate alone."""
        return ServerCreator(self._contexts.get(credential, self._minimum))

    def _prepare(self, context: SSL.Context) -> None:
        if self._direct:
            context.set_alpn_select_callback(_select_protocol)
            context.set_tlsext_servername_callback(self._server_named)

    def _server_named(self, connection: SSL.Connection) -> None:
        """Select the certificate by SNI (RFC 6066 §3). An unknown name keeps the present one: the stream answers host-unknown."""
        domain = _domain(connection.get_servername())
        credential = self._credential_for(domain) if domain is not None else None
        if credential is not None:
            connection.set_context(self._contexts.get(credential, self._minimum))


class ClientTLS:
    """Makes TLS connections of the initiating role."""

    def __init__(self) -> None:
        self._plain = _Contexts()
        self._direct = _Contexts(_announce_protocol)

    def for_peer(
        self, peer: Domain, credential: Credential | None, *, minimum: Minimum = "1.2", direct: bool = False,
    ) -> ClientCreator:
        """Return the function that opens TLS to `peer` (named by SNI, RFC 7590 §3.7).

        It presents `credential` if there is one.
        """
        contexts = self._direct if direct else self._plain
        server_name = None if peer.is_address else peer.ascii.encode("ascii")
        return ClientCreator(contexts.get(credential, minimum), server_name)


@implementer(IOpenSSLServerConnectionCreator)
class ServerCreator:
    """One receiving connection, made when Twisted calls for it."""

    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def serverConnectionForTLS(self, tlsProtocol: object, socket: Any = None) -> SSL.Connection:
        """Return a connection on `socket`; None: on buffers in memory."""
        connection = SSL.Connection(self._context, socket)
        connection.set_app_data(tlsProtocol)
        return connection


@implementer(IOpenSSLClientConnectionCreator)
class ClientCreator:
    """One initiating connection, made when Twisted calls for it."""

    def __init__(self, context: SSL.Context, server_name: bytes | None) -> None:
        self._context = context
        self._server_name = server_name

    def clientConnectionForTLS(self, tlsProtocol: object, socket: Any = None) -> SSL.Connection:
        """Return a connection on `socket`; None: on buffers in memory."""
        connection = SSL.Connection(self._context, socket)
        connection.set_app_data(tlsProtocol)
        if self._server_name is not None:
            connection.set_tlsext_host_name(self._server_name)
        return connection


class _Contexts:
    """Contexts by credential and minimum version. Beyond `CONTEXTS_KEPT` the least recently used is removed."""

    def __init__(self, prepare: Callable[[SSL.Context], None] | None = None) -> None:
        self._prepare = prepare
        self._kept: BoundedDict[tuple[str, Minimum], SSL.Context] = BoundedDict(CONTEXTS_KEPT)

    def get(self, credential: Credential | None, minimum: Minimum) -> SSL.Context:
        key = (credential.fingerprint if credential else "", minimum)
        context = self._kept.use(key)
        if context is None:
            context = self._kept[key] = new_context(credential, minimum)
            if self._prepare is not None:
                self._prepare(context)
        return context


def _announce_protocol(context: SSL.Context) -> None:
    """Announce our protocol to the other side (ALPN, XEP-0368)."""
    context.set_alpn_protos([ALPN])


def new_context(credential: Credential | None, minimum: Minimum) -> SSL.Context:
    """Return a context for either role. Raises `SSL.Error` if OpenSSL refuses the credential.

    There are no tickets and no session cache, since a resumed session has no chain (R11). Under TLS 1.3 OpenSSL still sends two
    tickets, because pyOpenSSL has no SSL_CTX_set_num_tickets. Without a cache they lead to a full handshake. There is no trust
    store: the verify callback accepts every chain. MODE_RELEASE_BUFFERS returns an idle stream's buffers
    (docs/decisions.md#idle-streams).
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(_VERSIONS[minimum])
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_cipher_list(CIPHERS)
    context.set_verify(SSL.VERIFY_PEER, _accept_any)
    context.set_verify_depth(0)
    context.set_info_callback(_watch)
    if credential is not None:
        _present(context, credential)
    return context


def _present(context: SSL.Context, credential: Credential) -> None:
    leaf, *rest = (x509.load_der_x509_certificate(certificate) for certificate in credential.chain)
    context.use_certificate(leaf)
    for certificate in rest:
        context.add_extra_chain_cert(certificate)
    context.use_privatekey(credential.key)
    context.check_privatekey()


def _accept_any(connection: SSL.Connection, certificate: object, error: int, depth: int, ok: int) -> bool:
    return True


def _watch(connection: SSL.Connection, where: int, code: int) -> None:
    """Watch for renegotiation (R10), and for messages without end. The owner of the connection must close it.

    OpenSSL answers a renegotiation with a warning and goes on. It reads messages that are no data (KeyUpdate, NewSessionTicket:
    RFC 8446 §4.6) in one call for as long as more of them come. So the input is cut off here.
    """
    watch: TLSWatch | None = connection.get_app_data()
    if not isinstance(watch, DirectWatch):
        watch = getattr(watch, "wrappedProtocol", None)
    if watch is None:
        return
    if where & SSL.SSL_CB_LOOP:
        watch.steps += 1
        if watch.steps > STEPS or (watch.steps > 0 and watch.takes_long()):
            watch.steps = HANDSHAKING
            connection.set_shutdown(SSL.RECEIVED_SHUTDOWN)
            watch.messagesWithoutData()
    elif where & _ALERT_WRITTEN == _ALERT_WRITTEN and code & 0xFF == _NO_RENEGOTIATION:
        connection.set_shutdown(SSL.RECEIVED_SHUTDOWN)
        watch.renegotiationAttempted()


def _select_protocol(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    """Select our protocol (RFC 7301 §3.2). Any other is fatal, against cross-protocol attacks. Twisted catches this error."""
    if ALPN in offered:
        return ALPN
    raise SSL.Error([("SSL routines", "", "no application protocol in common")])


def _domain(server_name: bytes | None) -> Domain | None:
    try:
        return Domain.parse(server_name.decode("ascii")) if server_name else None
    except (InvalidJID, UnicodeDecodeError):
        return None
