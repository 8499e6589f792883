"""The XML namespaces of server-to-server XMPP, with the names of their documents."""

STREAM = "http://etherx.jabber.org/streams"  # RFC 6120 §4.8.1
SERVER = "jabber:server"  # RFC 6120 §4.8.3
CLIENT = "jabber:client"
DIALBACK = "jabber:server:dialback"  # XEP-0220 §2
DIALBACK_FEATURE = "urn:xmpp:features:dialback"  # XEP-0220 §2.3
TLS = "urn:ietf:params:xml:ns:xmpp-tls"  # RFC 6120 §5
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"  # RFC 6120 §6
STREAM_ERRORS = "urn:ietf:params:xml:ns:xmpp-streams"  # RFC 6120 §4.9
STANZA_ERRORS = "urn:ietf:params:xml:ns:xmpp-stanzas"  # RFC 6120 §8.3
BIDI = "urn:xmpp:bidi"  # XEP-0288
BIDI_FEATURE = "urn:xmpp:features:bidi"
MANAGEMENT = "urn:xmpp:sm:3"  # XEP-0198
LIMITS = "urn:xmpp:stream-limits:0"  # XEP-0478
PING = "urn:xmpp:ping"  # XEP-0199
DELAY = "urn:xmpp:delay"  # XEP-0203
MUC = "http://jabber.org/protocol/muc"  # XEP-0045
MUC_USER = "http://jabber.org/protocol/muc#user"
CHANNEL_BINDING = "urn:xmpp:sasl-cb:0"  # XEP-0440
XML = "http://www.w3.org/XML/1998/namespace"
COMPONENT = "http://jabberd.jabberstudio.org/ns/component/1.0"  # jabberd2's router
