"""Endings: layer, cause, details, and a remedy for an administrator (docs/decisions.md#endings).

Every refusal and every bounce has one of the causes below. The log, the record of refusals, the metrics and the bounce
text all read the same table, so they never disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

from s2sgw.xmpp.errors import StanzaCondition


class Layer(StrEnum):
    """The protocol layer at which a stream or a stanza failed."""

    DNS = "dns"
    TCP = "tcp"
    TLS = "tls"
    PKIX = "pkix"
    AUTH = "auth"
    POLICY = "policy"
    STREAM = "stream"
    QUEUE = "queue"
    BACKEND = "backend"


class Cause(StrEnum):
    """Why a stream or a stanza failed. Metrics use these values as labels, so the list is fixed."""

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
    TOO_MANY_DOMAINS = "too-many-domains"
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
    RECONFIGURED = "reconfigured"
    SHUTDOWN = "shutdown"
    OTHER_NODE = "other-node"
    NO_NODE = "no-node"
    INTERNAL = "internal"
    # queue
    HELD_TOO_LONG = "held-too-long"
    QUEUE_FULL = "queue-full"
    POISON = "poison"
    DROPPED_BY_OPERATOR = "dropped-by-operator"
    IN_DOUBT = "in-doubt"
    SPOOL_DAMAGED = "spool-damaged"
    SPOOL_UNREADABLE = "spool-unreadable"
    SPOOL_SLOW = "spool-slow"
    # backend: our own server, behind the gateway
    BACKEND_REFUSED = "backend-refused"
    BACKEND_TIMEOUT = "backend-timeout"
    BACKEND_UNREACHABLE = "backend-unreachable"
    BACKEND_TLS = "backend-tls"
    BACKEND_NOT_PROVEN = "backend-not-proven"
    BACKEND_DISTRUSTS_US = "backend-distrusts-us"
    BACKEND_BYPASSES_VIEW = "backend-bypasses-view"
    BACKEND_HOST_UNKNOWN = "backend-host-unknown"
    BACKEND_FAILED = "backend-failed"


class CauseInfo(NamedTuple):
    """One row of the table. `bounce` is for the sender of a stanza, `remedy` for the administrator of the peer.

    The remedies of the layer "backend" are for our own administrator.
    """

    layer: Layer
    final: bool  # a later attempt cannot succeed
    condition: StanzaCondition
    bounce: str
    remedy: str


_NOT_FOUND = StanzaCondition.REMOTE_SERVER_NOT_FOUND
_TIMEOUT = StanzaCondition.REMOTE_SERVER_TIMEOUT
_POLICY = StanzaCondition.POLICY_VIOLATION
_FULL = StanzaCondition.RESOURCE_CONSTRAINT

#: Remedies for our own administrator, where a decision of this server is the cause.
REMEDIES_HERE: dict[Cause, str] = {
    Cause.NOT_ALLOWED: 'Set allow = true in the peer\'s section, or give it one: [peers."DOMAIN"].',
    Cause.DENY_LISTED: "Take the domain off the deny list (`s2sgw deny --undo DOMAIN`, if you denied it by hand), or allow it in a "
    "section of its own.",
    Cause.AWAITING_APPROVAL: "Compare the fingerprint with the other administrator, then `s2sgw pins approve DOMAIN`.",
    Cause.KEY_REVOKED: "The key was revoked here: compare it with the other administrator, then `s2sgw pins approve DOMAIN`.",
    Cause.PIN_MISMATCH: "The key has changed: compare it with the other administrator, then "
    "`s2sgw pins approve --replace DOMAIN`.",
}

#: Mistakes of the other side on a stream: in XML, in addresses, or beyond a limit.
MISTAKES = frozenset({Cause.BAD_XML, Cause.LIMIT_EXCEEDED, Cause.INVALID_FROM, Cause.ADDRESSING})

#: The only table: cause -> layer, finality, stanza error, bounce text (R34: no names in it), remedy.
ACCOUNTS: dict[Cause, CauseInfo] = {
    Cause.NO_SUCH_DOMAIN: CauseInfo(Layer.DNS, True, _NOT_FOUND, "The remote domain does not exist in the DNS.", "Publish an _xmpp-server._tcp SRV record, or an A or AAAA record, for the domain."),
    Cause.DNS_UNREACHABLE: CauseInfo(Layer.DNS, False, _TIMEOUT, "The remote domain could not be looked up in the DNS.", "Check that every authoritative name server of the domain answers, and that its DNSSEC signatures are valid."),
    Cause.RESOLVER_BUSY: CauseInfo(Layer.DNS, False, _TIMEOUT, "The remote domain could not be looked up, because the resolver here is busy.", "The fault is not known to be in the domain's DNS. The resolver of this server is busy or does not answer. Try again in a few minutes."),
    Cause.PRIVATE_ADDRESS: CauseInfo(Layer.DNS, True, _NOT_FOUND, "The remote domain has addresses in the DNS that are not public.", "Publish public addresses for the domain's XMPP server, not loopback, private or link-local addresses."),
    Cause.LOOP: CauseInfo(Layer.DNS, True, _NOT_FOUND, "No other server serves the remote domain.", "Host the domain on the local server, or publish a DNS entry for it."),
    Cause.ADDRESS_MISMATCH: CauseInfo(Layer.DNS, False, _POLICY, "The remote server connects from an address that its DNS does not have.", "Connect from an address that the domain's DNS records have for its XMPP server, or publish the address from which the server connects."),
    Cause.CONNECTION_REFUSED: CauseInfo(Layer.TCP, False, _TIMEOUT, "The remote server refuses connections.", "Check that the server runs and listens on the port that its SRV record names (5269 by default)."),
    Cause.CONNECTION_TIMEOUT: CauseInfo(Layer.TCP, False, _TIMEOUT, "The remote server did not answer the connection attempt.", "Check that no firewall drops connections to the server's s2s port."),
    Cause.CONNECTION_LOST: CauseInfo(Layer.TCP, False, _TIMEOUT, "The connection to the remote server was lost.", "Check in the server's log why it closed the connection."),
    Cause.UNREACHABLE: CauseInfo(Layer.TCP, False, _TIMEOUT, "The network of the remote server cannot be reached.", "Check the routing and the published addresses of the server."),
    Cause.TLS_NOT_OFFERED: CauseInfo(Layer.TLS, False, _POLICY, "The remote server does not offer encryption, which is required.", "Enable STARTTLS for server-to-server streams."),
    Cause.TLS_FAILED: CauseInfo(Layer.TLS, False, _TIMEOUT, "The encryption handshake with the remote server failed.", "Check the server's TLS versions, cipher suites and certificate files."),
    Cause.TLS_TOO_OLD: CauseInfo(Layer.TLS, False, _POLICY, "The remote server's encryption is too old.", "Enable TLS 1.2 and TLS 1.3."),
    Cause.TLS_RENEGOTIATION: CauseInfo(Layer.TLS, False, _POLICY, "The remote server tried to renegotiate TLS.", "Disable TLS renegotiation."),
    Cause.TLS_INJECTION: CauseInfo(Layer.TLS, False, _POLICY, "Plain text was injected into the encryption handshake.", "Send nothing between <starttls/> and the TLS handshake. Check whether an attacker is between the two servers."),
    Cause.NO_CERTIFICATE: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server presents no certificate.", "Configure a certificate for server-to-server streams. The server must also present it when it connects (as a TLS client)."),
    Cause.SELF_SIGNED: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate is self-signed.", "Use a certificate from a public CA, or publish the certificate by DANE or POSH."),
    Cause.UNKNOWN_ISSUER: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate was issued by an unknown CA.", "Use a certificate from a public CA, and send the intermediate certificates too."),
    Cause.EXPIRED: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate has expired.", "Renew the certificate and reload the server."),
    Cause.NOT_YET_VALID: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate is not valid yet.", "Check the clocks of both servers and the certificate's dates."),
    Cause.REVOKED: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate is revoked.", "Replace the certificate."),
    Cause.BAD_CHAIN: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate chain is not valid.", "Check the chain: its order, intermediate certificates, constraints and signatures."),
    Cause.WEAK_KEY: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate has a weak key.", "Use an RSA key of at least 2048 bits or an EC key of at least 256 bits."),
    Cause.WRONG_USAGE: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate is not meant for a server.", "Use a certificate whose extended key usage allows serverAuth or clientAuth."),
    Cause.NAME_MISMATCH: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate does not name its domain.", "Put the XMPP domain itself (not the host behind its SRV record) into the certificate's subjectAltName."),
    Cause.DANE_MISMATCH: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate contradicts its DNS (DANE).", "Update the TLSA records so that they match the certificate in use."),
    Cause.PIN_MISMATCH: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's key has changed.", "Send the fingerprint of the new key to the other administrator, who can approve it."),
    Cause.AWAITING_APPROVAL: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's certificate waits for approval.", "Ask the other administrator to compare the certificate's fingerprint and approve it."),
    Cause.KEY_REVOKED: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server's key is no longer approved.", "Change the key, and ask the other administrator to compare the new key's fingerprint and approve it."),
    Cause.PROOF_LOST: CauseInfo(Layer.PKIX, False, _POLICY, "The remote server no longer has the proof of its identity that it had before.", "Restore the certificate or the DNS records that proved the domain before. Dialback does not replace them."),
    Cause.NO_COMMON_METHOD: CauseInfo(Layer.AUTH, False, _POLICY, "The remote server and this one have no authentication method in common.", "Present a valid certificate when you connect (as a TLS client), or enable dialback."),
    Cause.SASL_FAILED: CauseInfo(Layer.AUTH, False, _POLICY, "The remote server refused our authentication.", "Check which certificate or secret the server expects. If our certificate has an id-on-xmppAddr and the server is an ejabberd, use a certificate with DNS names only."),
    Cause.DIALBACK_INVALID: CauseInfo(Layer.AUTH, False, _POLICY, "Authentication by dialback failed.", "Check that the DNS records of the domain lead to the server that opened the stream."),
    Cause.DIALBACK_ERROR: CauseInfo(Layer.AUTH, False, _TIMEOUT, "Authentication by dialback could not be completed.", "Check that the domain's server is reachable from outside and answers db:verify."),
    Cause.NOT_ALLOWED: CauseInfo(Layer.POLICY, True, _POLICY, "Communication with the remote domain is not allowed here.", "Ask the administrator of this server to allow the domain."),
    Cause.DENY_LISTED: CauseInfo(Layer.POLICY, True, _POLICY, "The remote domain is on a deny list here.", "Ask the administrator of this server which list contains the domain."),
    Cause.NOT_PROVEN: CauseInfo(Layer.POLICY, False, _POLICY, "The remote server's identity is not proven as required.", "Present a certificate that contains the domain and was issued by a trusted CA."),
    Cause.ENCRYPTION_REQUIRED: CauseInfo(Layer.POLICY, False, _POLICY, "Encryption is required.", "Enable STARTTLS for server-to-server streams."),
    Cause.FILTERED: CauseInfo(Layer.POLICY, True, _POLICY, "This kind of stanza is not allowed between the two domains.", "Ask the administrator of this server which stanzas its filters refuse."),
    Cause.TOO_LARGE: CauseInfo(Layer.POLICY, True, _POLICY, "The stanza is larger than the next server accepts.", "Send smaller stanzas."),
    Cause.UNFIT: CauseInfo(Layer.POLICY, True, _POLICY, "The next server cannot process the content of this stanza.", "Do not use namespace names with quotes, brackets, ampersands or spaces, or very long ones. The server behind this gateway fails on them."),
    Cause.RATE_EXCEEDED: CauseInfo(Layer.POLICY, False, _FULL, "The remote domain sends more stanzas than allowed.", "Send less, or ask the administrator of this server for a higher limit."),
    Cause.TOO_MANY_STREAMS: CauseInfo(Layer.POLICY, False, _FULL, "The remote domain has too many streams open.", "Reuse streams instead of opening new ones."),
    Cause.TOO_MANY_CLAIMS: CauseInfo(Layer.POLICY, False, _FULL, "The remote server claims too many domains at once.", "Claim fewer domains at a time on one stream and from one address. Wait for the answers."),
    Cause.TOO_MANY_DOMAINS: CauseInfo(Layer.POLICY, False, _FULL, "Too many new sub-domains of the remote domain have communicated with this server.", "Use fewer sub-domains, or try again later. Sub-domains that this server knows from the last day are not affected. Its administrator can raise `cluster.new_homes`."),
    Cause.TOO_MANY_CONNECTIONS: CauseInfo(Layer.POLICY, False, _FULL, "Too many connections are open.", "Open fewer connections at a time, and authenticate on those that are open."),
    Cause.HOST_UNKNOWN: CauseInfo(Layer.STREAM, True, _NOT_FOUND, "The server does not serve that domain.", "Check the domain name. The server does not serve this domain."),
    Cause.INVALID_FROM: CauseInfo(Layer.STREAM, False, _POLICY, "The stanza's sender is not authorized on the stream.", "Send only from domains that were authenticated on the stream."),
    Cause.ADDRESSING: CauseInfo(Layer.STREAM, False, _POLICY, "The stanza's addresses are not valid.", "Use valid `to` and `from` addresses in every stream and stanza."),
    Cause.AMBIGUOUS_DOMAIN: CauseInfo(Layer.STREAM, True, _POLICY, "Servers interpret the domain of an address in two ways.", "Write the domain in A-labels (xn--...) in stream headers and in the addresses of stanzas. In its present form, servers with IDNA 2003 read it as another domain."),
    Cause.BAD_XML: CauseInfo(Layer.STREAM, False, _POLICY, "The stream's XML is not valid.", "Send XML 1.0 in UTF-8 without comments, processing instructions, DTDs and entities."),
    Cause.LIMIT_EXCEEDED: CauseInfo(Layer.STREAM, False, _POLICY, "A limit of the stream was exceeded.", "Stay within the limits that the stream features announce."),
    Cause.PROTOCOL_ERROR: CauseInfo(Layer.STREAM, False, _TIMEOUT, "The remote server broke the protocol.", "Check the server's version and its log."),
    Cause.STREAM_ERROR: CauseInfo(Layer.STREAM, False, _TIMEOUT, "The remote server ended the stream with an error.", "See the reason in the remote server's log."),
    Cause.NEGOTIATION_TIMEOUT: CauseInfo(Layer.STREAM, False, _TIMEOUT, "The remote server did not finish negotiating in time.", "Check the server's load, and what it waits for during the negotiation."),
    Cause.IDLE: CauseInfo(Layer.STREAM, False, _TIMEOUT, "The stream was closed because it was not used.", "There is no fault. A new stream is opened when it is needed."),
    Cause.UNRESPONSIVE: CauseInfo(Layer.STREAM, False, _TIMEOUT, "The remote server stopped answering.", "Check the server, and the network between the two servers."),
    Cause.CLOSED: CauseInfo(Layer.STREAM, False, _TIMEOUT, "The stream was closed.", "There is no fault. A new stream is opened when it is needed."),
    Cause.RECONFIGURED: CauseInfo(Layer.STREAM, False, _TIMEOUT, "The stream was closed because the configuration changed.", "There is no fault. A new stream is opened when it is needed."),
    Cause.SHUTDOWN: CauseInfo(Layer.STREAM, False, _TIMEOUT, "The gateway is shutting down.", "Try again in a moment."),
    Cause.OTHER_NODE: CauseInfo(Layer.STREAM, False, _TIMEOUT, "Another node of the gateway serves the remote domain.", "There is no fault. A new stream is led to the right node."),
    Cause.NO_NODE: CauseInfo(Layer.STREAM, False, _FULL, "The nodes of the gateway cannot agree at the moment on the one that serves the remote domain.", "Try again in a moment."),
    Cause.INTERNAL: CauseInfo(Layer.STREAM, False, _TIMEOUT, "An internal error occurred.", "Ask the administrator of this server to check its log."),
    Cause.HELD_TOO_LONG: CauseInfo(Layer.QUEUE, False, _TIMEOUT, "The stanza could not be delivered in time.", "Check that the server is reachable from outside, and with `s2sgw queue list` that nothing is held."),
    Cause.QUEUE_FULL: CauseInfo(Layer.QUEUE, False, _FULL, "The delivery queue is full.", "Try again later."),
    Cause.POISON: CauseInfo(Layer.QUEUE, True, _POLICY, "The remote server closes its stream or stops answering when it gets this stanza.", "See in the remote server's log which part of the stanza it rejects. If it is the size, announce the limit (XEP-0478)."),
    Cause.DROPPED_BY_OPERATOR: CauseInfo(Layer.QUEUE, True, _POLICY, "The stanza was removed from the delivery queue by an administrator.", "Ask the administrator of this server."),
    Cause.IN_DOUBT: CauseInfo(Layer.QUEUE, True, _TIMEOUT, "The request may or may not have reached the remote server.", "Send the request again."),
    Cause.SPOOL_DAMAGED: CauseInfo(Layer.QUEUE, True, _FULL, "The stored stanza was damaged.", "Send the stanza again. The disk of this server may be failing."),
    Cause.SPOOL_UNREADABLE: CauseInfo(Layer.QUEUE, False, _FULL, "The delivery queue cannot be read at the moment.", "Try again later. The disk of this server may be failing."),
    Cause.SPOOL_SLOW: CauseInfo(Layer.QUEUE, False, _FULL, "The delivery queue could not store in time that the request is being sent.", "Try again later. The disk of this server, or the engine of its cluster, may be slow or away."),
    Cause.BACKEND_REFUSED: CauseInfo(Layer.BACKEND, False, _TIMEOUT, "The server of the domain does not accept connections from its gateway.", "Start your XMPP server, and check that it listens for s2s on the `address` of [backend]."),
    Cause.BACKEND_TIMEOUT: CauseInfo(Layer.BACKEND, False, _TIMEOUT, "The server of the domain does not answer its gateway.", "Check the load of your XMPP server, and the firewall between it and the gateway."),
    Cause.BACKEND_UNREACHABLE: CauseInfo(Layer.BACKEND, False, _TIMEOUT, "The server of the domain cannot be reached by its gateway.", "Check the `address` of [backend], and that the name in it has an address here."),
    Cause.BACKEND_TLS: CauseInfo(Layer.BACKEND, False, _TIMEOUT, "The server of the domain and its gateway do not agree on encryption.", "Check the certificate and the TLS settings of your XMPP server for s2s, and `tls` of [backend]."),
    Cause.BACKEND_NOT_PROVEN: CauseInfo(Layer.BACKEND, False, _TIMEOUT, "The server of the domain does not prove itself to its gateway.", "Give your XMPP server a certificate for its domain that `tls.trust_anchors` accepts, or run it on a loopback address."),
    Cause.BACKEND_DISTRUSTS_US: CauseInfo(Layer.BACKEND, False, _TIMEOUT, "The server of the domain does not trust its gateway.", "Have your XMPP server trust the gateway's authority, backend-ca.pem: `s2sgw setup prosody` (or ejabberd, openfire, jabberd2) prints the lines."),
    Cause.BACKEND_BYPASSES_VIEW: CauseInfo(Layer.BACKEND, False, _TIMEOUT, "The server of the domain looks peers up past its gateway.", "Have your XMPP server use the gateway's name server, `dns_view` of [backend]: `s2sgw setup prosody` (or ejabberd, openfire, jabberd2) prints the lines."),
    Cause.BACKEND_HOST_UNKNOWN: CauseInfo(Layer.BACKEND, False, _NOT_FOUND, "The server of the domain does not serve it.", "Add the domain to your XMPP server, or take it out of `domains` in the gateway's configuration."),
    Cause.BACKEND_FAILED: CauseInfo(Layer.BACKEND, False, _TIMEOUT, "The server of the domain ended the stream of its gateway.", "See the log of your XMPP server for its reason."),
}

By = Literal["us", "them", "network"]

#: The layers at which the peer's input or evidence is judged.
_OF_PEER = (Layer.TLS, Layer.PKIX, Layer.AUTH, Layer.POLICY, Layer.STREAM)


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a stream, of an attempt, or of the custody of a stanza.

    `detail` is for the record. It may contain text of the peer, so escape it before you display it. `condition` is the
    stream error on the wire, if one was sent (`by` "us") or received (`by` "them").
    """

    cause: Cause
    detail: str = ""
    by: By = "us"
    condition: str | None = None

    @property
    def account(self) -> CauseInfo:
        """Return the row of the table for this cause."""
        return ACCOUNTS[self.cause]

    @property
    def layer(self) -> Layer:
        """Return the protocol layer that failed."""
        return ACCOUNTS[self.cause].layer

    @property
    def final(self) -> bool:
        """Whether a later attempt cannot succeed."""
        return ACCOUNTS[self.cause].final

    @property
    def remedy(self) -> str:
        """Return what the administrator of the peer can do."""
        return ACCOUNTS[self.cause].remedy

    @property
    def in_order(self) -> bool:
        """Whether this is an ordinary close and not a failure."""
        return self.cause in (Cause.CLOSED, Cause.IDLE, Cause.RECONFIGURED, Cause.SHUTDOWN)

    @property
    def refuses_peer(self) -> bool:
        """Return whether we ended the stream because of the other side's input or evidence, or because the policy forbids it.

        False for an ordinary close, a lost connection, a server that stopped answering, a fault of our own, and a peer of another
        node.
        """
        return self.by == "us" and not self.is_faultless and self.layer in _OF_PEER

    @property
    def is_faultless(self) -> bool:
        """Whether the other side did nothing wrong."""
        return self.in_order or self.cause in (Cause.UNRESPONSIVE, Cause.INTERNAL, Cause.OTHER_NODE, Cause.NO_NODE)
