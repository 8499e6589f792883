"""Endings: the layer, the cause, what was seen, and a remedy in words for the other administrator (docs/decisions.md#endings).

Every refusal and every bounce is one of the causes below. The log, the record of refusals, the metrics and the bounce
text all read the same table, so that they can never disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

from s2sgw.xmpp.errors import StanzaCondition


class Layer(StrEnum):
    """Where a stream or a stanza met its end."""

    DNS = "dns"
    TCP = "tcp"
    TLS = "tls"
    PKIX = "pkix"
    AUTH = "auth"
    POLICY = "policy"
    STREAM = "stream"
    QUEUE = "queue"


class Cause(StrEnum):
    """Why: the fixed list that metrics are labelled with."""

    # dns
    NO_SUCH_DOMAIN = "no-such-domain"
    DNS_UNREACHABLE = "dns-unreachable"
    RESOLVER_BUSY = "resolver-busy"
    PRIVATE_ADDRESS = "private-address"
    LOOP = "loop"
    ADDRESS_MISMATCH = "address-mismatch"
    # tcp
    CONNECTION_REFUSED = "connection-refused"
    CONNECTION_TIMEOUT = "connection-timeout"
    CONNECTION_LOST = "connection-lost"
    UNREACHABLE = "unreachable"
    # tls
    TLS_NOT_OFFERED = "tls-not-offered"
    TLS_FAILED = "tls-failed"
    TLS_TOO_OLD = "tls-too-old"
    TLS_RENEGOTIATION = "tls-renegotiation"
    TLS_INJECTION = "tls-injection"
    # pkix
    NO_CERTIFICATE = "no-certificate"
    SELF_SIGNED = "self-signed"
    UNKNOWN_ISSUER = "unknown-issuer"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    REVOKED = "revoked"
    BAD_CHAIN = "bad-chain"
    WEAK_KEY = "weak-key"
    WRONG_USAGE = "wrong-usage"
    NAME_MISMATCH = "name-mismatch"
    DANE_MISMATCH = "dane-mismatch"
    PIN_MISMATCH = "pin-mismatch"
    AWAITING_APPROVAL = "awaiting-approval"
    KEY_REVOKED = "key-revoked"
    PROOF_LOST = "proof-lost"
    # auth
    NO_COMMON_METHOD = "no-common-method"
    SASL_FAILED = "sasl-failed"
    DIALBACK_INVALID = "dialback-invalid"
    DIALBACK_ERROR = "dialback-error"
    # policy
    NOT_ALLOWED = "not-allowed"
    DENY_LISTED = "deny-listed"
    NOT_PROVEN = "not-proven"
    ENCRYPTION_REQUIRED = "encryption-required"
    FILTERED = "filtered"
    TOO_LARGE = "too-large"
    UNFIT = "unfit"
    RATE_EXCEEDED = "rate-exceeded"
    TOO_MANY_STREAMS = "too-many-streams"
    TOO_MANY_CLAIMS = "too-many-claims"
    TOO_MANY_CONNECTIONS = "too-many-connections"
    # stream
    HOST_UNKNOWN = "host-unknown"
    INVALID_FROM = "invalid-from"
    ADDRESSING = "addressing"
    AMBIGUOUS_DOMAIN = "ambiguous-domain"
    BAD_XML = "bad-xml"
    LIMIT_EXCEEDED = "limit-exceeded"
    PROTOCOL_ERROR = "protocol-error"
    STREAM_ERROR = "stream-error"
    NEGOTIATION_TIMEOUT = "negotiation-timeout"
    IDLE = "idle"
    UNRESPONSIVE = "unresponsive"
    CLOSED = "closed"
    SHUTDOWN = "shutdown"
    INTERNAL = "internal"
    # queue
    HELD_TOO_LONG = "held-too-long"
    QUEUE_FULL = "queue-full"
    POISON = "poison"
    DROPPED_BY_OPERATOR = "dropped-by-operator"
    IN_DOUBT = "in-doubt"
    SPOOL_DAMAGED = "spool-damaged"
    SPOOL_UNREADABLE = "spool-unreadable"


class CauseInfo(NamedTuple):
    """What the table says of a cause: `remedy` is for the other side's administrator, `bounce` for the sender."""

    layer: Layer
    final: bool  # trying again later cannot help
    condition: StanzaCondition
    bounce: str
    remedy: str


_NOT_FOUND = StanzaCondition.REMOTE_SERVER_NOT_FOUND
_TIMEOUT = StanzaCondition.REMOTE_SERVER_TIMEOUT
_POLICY = StanzaCondition.POLICY_VIOLATION
_FULL = StanzaCondition.RESOURCE_CONSTRAINT

#: The one table: cause -> layer, finality, stanza error, bounce text (R34: no names in it), remedy.
ACCOUNTS: dict[Cause, CauseInfo] = {
    Cause.NO_SUCH_DOMAIN: CauseInfo(Layer.DNS, True, _NOT_FOUND, "The remote domain does not exist in the DNS.", "Publish an _xmpp-server._tcp SRV record, or an A or AAAA record, for the domain."),
    Cause.DNS_UNREACHABLE: CauseInfo(Layer.DNS, False, _TIMEOUT, "The remote domain could not be looked up in the DNS.", "Check that every authoritative name server of the domain answers, and that its DNSSEC signatures are valid."),
    Cause.RESOLVER_BUSY: CauseInfo(Layer.DNS, False, _TIMEOUT, "The remote domain could not be looked up: the resolver here is busy.", "Nothing is known to be wrong with the domain's DNS: the resolver of this server is busy or does not answer. Try again in a few minutes."),
    Cause.PRIVATE_ADDRESS: CauseInfo(Layer.DNS, True, _NOT_FOUND, "The DNS of the remote domain gives addresses that are not public.", "Publish public addresses for the domain's XMPP server, not loopback, private or link-local ones."),
    Cause.LOOP: CauseInfo(Layer.DNS, True, _NOT_FOUND, "The remote domain is served by no other server.", "Host the domain on the local server, or give it a DNS entry of its own."),
    Cause.ADDRESS_MISMATCH: CauseInfo(Layer.DNS, False, _POLICY, "The remote server's address is not the one that its DNS gives.", "Open streams from an address that the domain's own DNS records give for its XMPP server, or publish the one they come from."),
    Cause.CONNECTION_REFUSED: CauseInfo(Layer.TCP, False, _TIMEOUT, "The remote server refuses connections.", "Check that the server runs and listens on the port that its SRV record names (5269 by default)."),
    Cause.CONNECTION_TIMEOUT: CauseInfo(Layer.TCP, False, _TIMEOUT, "The remote server does not answer connections.", "Check that no firewall drops connections to the server's s2s port."),
    Cause.CONNECTION_LOST: CauseInfo(Layer.TCP, False, _TIMEOUT, "The connection to the remote server was lost.", "Check the server's log for why it dropped the connection."),
    Cause.UNREACHABLE: CauseInfo(Layer.TCP, False, _TIMEOUT, "The network of the remote server cannot be reached.", "Check the routing and the published addresses of the server."),
    Cause.TLS_NOT_OFFERED: CauseInfo(Layer.TLS, False, _POLICY, "The remote server does not offer encryption, which is required.", "Enable STARTTLS for server-to-server streams."),
    Cause.TLS_FAILED: CauseInfo(Layer.TLS, False, _TIMEOUT, "The encryption handshake with the remote server failed.", "Check the server's TLS versions, cipher suites and certificate files."),
    Cause.TLS_TOO_OLD: CauseInfo(Layer.TLS, False, _POLICY, "The remote server's encryption is too old.", "Enable TLS 1.2 and TLS 1.3."),
    Cause.TLS_RENEGOTIATION: CauseInfo(Layer.TLS, False, _POLICY, "The remote server tried to renegotiate TLS.", "Disable TLS renegotiation."),
    Cause.TLS_INJECTION: CauseInfo(Layer.TLS, False, _POLICY, "Plain text was injected into the encryption handshake.", "Send nothing between <starttls/> and the TLS handshake; look for somebody in the middle."),
    Cause.NO_CERTIFICATE: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server presents no certificate.", "Configure a certificate for server-to-server streams, and present it as TLS client too."),
    Cause.SELF_SIGNED: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate is self-signed.", "Use a certificate from a public authority, or publish it by DANE or POSH."),
    Cause.UNKNOWN_ISSUER: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate comes from an unknown authority.", "Use a certificate from a public authority and send the intermediate certificates along."),
    Cause.EXPIRED: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate has expired.", "Renew the certificate and reload the server."),
    Cause.NOT_YET_VALID: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate is not valid yet.", "Check the clock and the certificate's dates."),
    Cause.REVOKED: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate is revoked.", "Replace the certificate."),
    Cause.BAD_CHAIN: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate chain is not valid.", "Check the chain: order, intermediates, constraints, signatures."),
    Cause.WEAK_KEY: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate has a weak key.", "Use an RSA key of at least 2048 bits or an EC key of at least 256 bits."),
    Cause.WRONG_USAGE: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate is not meant for a server.", "Use a certificate whose extended key usage allows serverAuth or clientAuth."),
    Cause.NAME_MISMATCH: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate does not name its domain.", "Put the XMPP domain itself (not the host behind its SRV record) into the certificate's subjectAltName."),
    Cause.DANE_MISMATCH: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate contradicts its DNS (DANE).", "Update the TLSA records to the certificate in use."),
    Cause.PIN_MISMATCH: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's key has changed.", "Tell the other administrator the new key's fingerprint, so that it can be approved."),
    Cause.AWAITING_APPROVAL: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate awaits approval.", "Ask the other administrator to approve the certificate, comparing its fingerprint."),
    Cause.KEY_REVOKED: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's key is no longer approved.", "Change the key, and ask the other administrator to approve the new one, comparing its fingerprint."),
    Cause.PROOF_LOST: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server no longer proves itself as it did before.", "Restore the certificate or the DNS records that proved the domain before; dialback alone does not replace them."),
    Cause.NO_COMMON_METHOD: CauseInfo(Layer.AUTH, False, _POLICY, "The remote server and this one share no way to authenticate.", "Present a valid certificate as TLS client, or enable dialback."),
    Cause.SASL_FAILED: CauseInfo(Layer.AUTH, False, _POLICY, "The remote server refused our authentication.", "Check which certificate or secret the server expects. If our certificate has an id-on-xmppAddr and the server is an ejabberd, use a certificate with DNS names only."),
    Cause.DIALBACK_INVALID: CauseInfo(Layer.AUTH, False, _POLICY, "Authentication by dialback failed.", "Check that the DNS of the domain leads to the server that opened the stream."),
    Cause.DIALBACK_ERROR: CauseInfo(Layer.AUTH, False, _TIMEOUT, "Authentication by dialback could not be completed.", "Check that the domain's server is reachable from outside and answers db:verify."),
    Cause.NOT_ALLOWED: CauseInfo(Layer.POLICY, True, _POLICY, "Communication with the remote domain is not allowed here.", "Ask the administrator of this server to allow the domain."),
    Cause.DENY_LISTED: CauseInfo(Layer.POLICY, True, _POLICY, "The remote domain is on a deny list here.", "Ask the administrator of this server which list names the domain."),
    Cause.NOT_PROVEN: CauseInfo(Layer.POLICY, False, _POLICY, "The remote server's identity is not proven as required.", "Present a certificate that names the domain and chains to a trusted authority."),
    Cause.ENCRYPTION_REQUIRED: CauseInfo(Layer.POLICY, False, _POLICY, "Encryption is required.", "Enable STARTTLS for server-to-server streams."),
    Cause.FILTERED: CauseInfo(Layer.POLICY, True, _POLICY, "This kind of stanza is not allowed between the two domains.", "Ask the administrator of this server what its filters refuse."),
    Cause.TOO_LARGE: CauseInfo(Layer.POLICY, True, _POLICY, "The stanza is larger than the next server accepts.", "Send smaller stanzas."),
    Cause.UNFIT: CauseInfo(Layer.POLICY, True, _POLICY, "The next server cannot hold what is in the stanza.", "Send no names of namespaces with quotes, brackets, ampersands or blanks, nor overlong ones; the server behind this gateway would break on them."),
    Cause.RATE_EXCEEDED: CauseInfo(Layer.POLICY, False, _FULL, "The remote domain sends more than is allowed.", "Send less, or ask the administrator of this server for a higher limit."),
    Cause.TOO_MANY_STREAMS: CauseInfo(Layer.POLICY, False, _FULL, "The remote domain has too many streams open.", "Reuse streams instead of opening new ones."),
    Cause.TOO_MANY_CLAIMS: CauseInfo(Layer.POLICY, False, _FULL, "The remote server claims too many domains at once.", "Claim fewer domains at a time, on one stream and from one address, and wait for the answers."),
    Cause.TOO_MANY_CONNECTIONS: CauseInfo(Layer.POLICY, False, _FULL, "Too many connections are open.", "Open fewer connections at a time, and negotiate on those that are open."),
    Cause.HOST_UNKNOWN: CauseInfo(Layer.STREAM, True, _NOT_FOUND, "The remote server does not serve that domain.", "Check the domain name; this server does not serve it."),
    Cause.INVALID_FROM: CauseInfo(Layer.STREAM, True, _POLICY, "The stanza's sender is not authorised on that stream.", "Send only from domains that were authenticated on the stream."),
    Cause.ADDRESSING: CauseInfo(Layer.STREAM, True, _POLICY, "The stanza's addresses are not valid.", "Give every stream and stanza valid `to` and `from` addresses."),
    Cause.AMBIGUOUS_DOMAIN: CauseInfo(Layer.STREAM, True, _POLICY, "Servers read the domain of an address in two ways.", "Write the domain in A-labels (xn--...), in stream headers and in the addresses of stanzas: as it is written now, servers that follow IDNA 2003 take it for another domain."),
    Cause.BAD_XML: CauseInfo(Layer.STREAM, True, _POLICY, "The stream's XML is not valid.", "Check what the server sends: XML 1.0 in UTF-8 without comments, instructions, DTDs and entities."),
    Cause.LIMIT_EXCEEDED: CauseInfo(Layer.STREAM, True, _POLICY, "A limit of the stream was exceeded.", "Stay within the limits that the stream features announce."),
    Cause.PROTOCOL_ERROR: CauseInfo(Layer.STREAM, False, _TIMEOUT, "The remote server broke the protocol.", "Check the server's version and its log."),
    Cause.STREAM_ERROR: CauseInfo(Layer.STREAM, False, _TIMEOUT, "The remote server ended the stream with an error.", "See the remote server's log for its reason."),
    Cause.NEGOTIATION_TIMEOUT: CauseInfo(Layer.STREAM, False, _TIMEOUT, "The remote server did not finish negotiating in time.", "Check the server's load and what it waits for."),
    Cause.IDLE: CauseInfo(Layer.STREAM, False, _TIMEOUT, "The stream was closed as unused.", "Nothing is wrong; a new stream is opened when needed."),
    Cause.UNRESPONSIVE: CauseInfo(Layer.STREAM, False, _TIMEOUT, "The remote server stopped answering.", "Check the server and the network between."),
    Cause.CLOSED: CauseInfo(Layer.STREAM, False, _TIMEOUT, "The stream was closed.", "Nothing is wrong; a new stream is opened when needed."),
    Cause.SHUTDOWN: CauseInfo(Layer.STREAM, False, _TIMEOUT, "The gateway is shutting down.", "Try again in a moment."),
    Cause.INTERNAL: CauseInfo(Layer.STREAM, False, _TIMEOUT, "An internal error occurred.", "Ask the administrator of this server to look into its log."),
    Cause.HELD_TOO_LONG: CauseInfo(Layer.QUEUE, False, _TIMEOUT, "The remote server could not be reached in time.", "Check that the server is reachable from outside."),
    Cause.QUEUE_FULL: CauseInfo(Layer.QUEUE, False, _FULL, "The delivery queue is full.", "Try again later."),
    Cause.POISON: CauseInfo(Layer.QUEUE, True, _POLICY, "The remote server ends its stream on this stanza, or stops answering.", "See the remote server's log for what it dislikes in the stanza; if it is its size, announce the limit (XEP-0478)."),
    Cause.DROPPED_BY_OPERATOR: CauseInfo(Layer.QUEUE, True, _POLICY, "The stanza was removed from the delivery queue by an administrator.", "Ask the administrator of this server."),
    Cause.IN_DOUBT: CauseInfo(Layer.QUEUE, True, _TIMEOUT, "The request may or may not have reached the remote server.", "Send the request again."),
    Cause.SPOOL_DAMAGED: CauseInfo(Layer.QUEUE, True, _FULL, "The stanza was damaged where it was stored.", "Send the stanza again; the disk of this server may be failing."),
    Cause.SPOOL_UNREADABLE: CauseInfo(Layer.QUEUE, False, _FULL, "The delivery queue cannot be read at the moment.", "Try again later; the disk of this server may be failing."),
}

By = Literal["us", "them", "network"]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a stream, an attempt or a custody ended.

    `detail` is for the record and may hold what the peer said: whoever shows it escapes it. `condition` is the stream
    error on the wire, if one was sent (`by` "us") or received (`by` "them").
    """

    cause: Cause
    detail: str = ""
    by: By = "us"
    condition: str | None = None

    @property
    def account(self) -> CauseInfo:
        return ACCOUNTS[self.cause]

    @property
    def layer(self) -> Layer:
        return ACCOUNTS[self.cause].layer

    @property
    def final(self) -> bool:
        return ACCOUNTS[self.cause].final

    @property
    def remedy(self) -> str:
        return ACCOUNTS[self.cause].remedy

    @property
    def in_order(self) -> bool:
        """An end that nobody need be told of."""
        return self.cause in (Cause.CLOSED, Cause.IDLE, Cause.SHUTDOWN)
