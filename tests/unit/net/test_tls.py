"""Tests of TLS in both roles against OpenSSL connections of the tests, in memory."""

from __future__ import annotations

import contextlib

from OpenSSL import SSL, crypto
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net import tls
from s2sgw.net.tls import HANDSHAKING, ClientTLS, NoCertificate, ServerTLS, new_context
from s2sgw.stream.events import StartTLS
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain
from tests.lab.tls_records import DATA, Records, Secrets
from tests.support.certificates import NOT_BEFORE, Issued, leaf_for, rsa_key, self_signed, shared_issuer
from tests.support.wires import LOCAL, PEER, RawTLS, Solo, credential, raw_context, server_context_of

TLS1_2 = SSL.TLS1_2_VERSION
TLS1_3 = SSL.TLS1_3_VERSION
BOTH = (TLS1_2, TLS1_3)

ROOMS = Domain.parse("rooms.example.org")


def receiving(**options: object) -> Solo:
    """Return a receiving side that has just answered STARTTLS."""
    solo = Solo(**options)  # type: ignore[arg-type]
    assert solo.receive(b"STARTTLS\n") == b"PROCEED\n"
    return solo


def initiating(**options: object) -> tuple[Solo, bytes]:
    """Return an initiating side that has received `<proceed/>`, and its ClientHello."""
    given = {"tls": lambda order: ClientTLS().for_peer(LOCAL, credential(leaf_for("peer.example"))), **options}
    solo = Solo(role="initiating", **given)  # type: ignore[arg-type]
    return solo, solo.receive(b"PROCEED\n")


def by_name(*domains: str) -> ServerTLS:
    """Return a server with a certificate for each domain. The first is shown for an unknown name."""
    held = {Domain.parse(domain): credential(leaf_for(domain), domain) for domain in domains}
    return ServerTLS(lambda name: held[Domain.parse(domains[0])] if name is None else held.get(name))


def shown(raw: RawTLS) -> bytes:
    """Return the leaf that the other side showed."""
    certificate = raw.connection.get_peer_certificate()
    assert certificate is not None
    return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)


class EvidenceTests(SynchronousTestCase):
    """Tests of the evidence of the other side after the handshake."""

    def chain_of(self, issued: Issued | None, version: int) -> tuple[bytes, ...]:
        solo = receiving()
        RawTLS(solo, raw_context(issued, highest=version)).run()
        self.assertEqual(solo.engine.log, ["tls"], solo.ending)
        return solo.connection.chain

    def test_receiving_side_has_the_whole_chain(self) -> None:
        """R11: the peer is asked for its certificate. Its chain is kept leaf first, which OpenSSL omits on this side."""
        for version in BOTH:
            self.assertEqual(self.chain_of(leaf_for("peer.example"), version), leaf_for("peer.example").der_chain)

    def test_any_certificate_is_accepted(self) -> None:
        """R12: self-signed, expired and weak certificates pass the handshake, because they are judged after it."""
        strange = [
            self_signed(dns=["peer.example"]),
            shared_issuer().issue(dns=["peer.example"], not_after=NOT_BEFORE.replace(year=2021)),
            self_signed(dns=["peer.example"], key=rsa_key(1024)),
        ]
        for issued in strange:
            for version in BOTH:
                self.assertEqual(self.chain_of(issued, version), issued.der_chain)

    def test_nothing_is_verified(self) -> None:
        """OpenSSL checks no signatures of the presented authorities, of which there may be a hundred, on either side."""
        looked_at: list[int] = []

        def accept(_connection: object, _certificate: object, _error: int, depth: int, _ok: int) -> bool:
            looked_at.append(depth)
            return True

        self.patch(tls, "_accept_any", accept)
        authority = shared_issuer()
        for number in range(12):
            authority = authority.intermediate(f"Level {number}")
        issued = authority.issue(dns=["peer.example"])
        for version in BOTH:
            solo = receiving()
            RawTLS(solo, raw_context(issued, highest=version)).run()
            self.assertEqual(solo.connection.chain, issued.der_chain)
            solo, hello = initiating()
            RawTLS(solo, raw_context(issued, highest=version), server=True).run(hello)
            self.assertEqual(solo.connection.chain, issued.der_chain)
        self.assertLessEqual(max(looked_at), 1)

    def test_no_certificate(self) -> None:
        """R11: a peer without a certificate passes the handshake, with an empty chain."""
        for version in BOTH:
            self.assertEqual(self.chain_of(None, version), ())

    def test_initiating_side_has_the_whole_chain(self) -> None:
        """R12: the receiving side's chain is kept, leaf first and once, though OpenSSL lists the leaf on this side."""
        for version in BOTH:
            for issued in (leaf_for("example.org"), self_signed(dns=["example.org"])):
                solo, hello = initiating()
                RawTLS(solo, raw_context(issued, highest=version), server=True).run(hello)
                self.assertEqual(solo.connection.chain, issued.der_chain)

    def test_initiating_side_presents_its_chain(self) -> None:
        """R11: the initiating side presents its own certificate with its intermediates."""
        for version in BOTH:
            solo, hello = initiating()
            raw = RawTLS(solo, raw_context(leaf_for("example.org"), highest=version), server=True).run(hello)
            self.assertEqual(shown(raw), leaf_for("peer.example").der)
            self.assertEqual(len(raw.connection.get_peer_cert_chain() or ()), 1)  # the intermediate; the leaf is separate

    def test_version_and_cipher(self) -> None:
        """The version and the cipher are known."""
        for version, name in ((TLS1_2, "TLSv1.2"), (TLS1_3, "TLSv1.3")):
            solo = receiving()
            raw = RawTLS(solo, raw_context(highest=version)).run()
            self.assertEqual(solo.connection.tls_version, name)
            self.assertEqual(solo.connection.cipher, raw.connection.get_cipher_name())


class ChoiceTests(SynchronousTestCase):
    """Tests of the certificate that is shown."""

    def test_starttls_chooses_by_the_header(self) -> None:
        """R11: with STARTTLS the domain in `to` chooses the certificate, whatever the SNI."""
        server = by_name("example.org", "rooms.example.org")
        solo = receiving(tls=lambda order: server.for_domain(order.local))
        raw = RawTLS(solo, raw_context(), server_name=b"rooms.example.org").run()
        self.assertEqual(shown(raw), leaf_for("example.org").der)
        rooms = receiving(tls=lambda order: server.for_domain(ROOMS))
        raw = RawTLS(rooms, raw_context(), server_name=b"example.org").run()
        self.assertEqual(shown(raw), leaf_for("rooms.example.org").der)

    def test_a_domain_without_a_certificate(self) -> None:
        """R11: for a served domain without a certificate the first one is shown: encryption with a wrong name is better than none."""
        server = by_name("example.org")
        raw = RawTLS(receiving(tls=lambda order: server.for_domain(PEER)), raw_context()).run()
        self.assertEqual(shown(raw), leaf_for("example.org").der)

    def direct(self, server_name: bytes | None, alpn: list[bytes] | None = None, version: int = TLS1_3) -> tuple[Solo, RawTLS]:
        held = {LOCAL: credential(leaf_for("example.org")), ROOMS: credential(leaf_for("rooms.example.org"))}
        server = ServerTLS(lambda name: held[LOCAL] if name is None else held.get(name), direct=True)
        solo = Solo(tls=lambda order: server.for_domain(None), direct=True)
        return solo, RawTLS(solo, raw_context(alpn=alpn, highest=version), server_name=server_name).run()

    def test_direct_tls_chooses_by_sni(self) -> None:
        """R11: with direct TLS the server name chooses the certificate, with its intermediates."""
        for version in BOTH:
            _, raw = self.direct(b"ROOMS.example.org", version=version)
            self.assertEqual(shown(raw), leaf_for("rooms.example.org").der)
            self.assertEqual(len(raw.connection.get_peer_cert_chain() or ()), 2)

    def test_unknown_and_malformed_server_names(self) -> None:
        """R11: with no name, one that is not served, or an invalid one, the first certificate is shown."""
        for server_name in (None, b"stranger.example", b"..", b"\xff\xfe"):
            _, raw = self.direct(server_name)
            self.assertEqual(shown(raw), leaf_for("example.org").der)

    def test_protocol_is_agreed_on_the_chosen_context(self) -> None:
        """XEP-0368: `xmpp-server` is agreed on by ALPN, also after SNI has replaced the context."""
        for server_name in (b"example.org", b"rooms.example.org"):
            _, raw = self.direct(server_name, [b"h2", b"xmpp-server"])
            self.assertEqual(raw.connection.get_alpn_proto_negotiated(), b"xmpp-server")

    def test_another_protocol_is_refused(self) -> None:
        """XEP-0368: a client that offers only other protocols gets a fatal alert, and no stream."""
        for server_name in (b"example.org", b"rooms.example.org"):
            solo, raw = self.direct(server_name, [b"http/1.1", b"xmpp-client"])
            self.assertIn("no application protocol", str(raw.problem))
            self.assertTrue(solo.transport.disconnecting)
            solo.lose()
            assert solo.ending is not None
            self.assertEqual((solo.ending.cause, solo.engine.log), (Cause.TLS_FAILED, []))

    def test_no_protocol_is_fine(self) -> None:
        """XEP-0368: a peer that offers no protocol is accepted."""
        solo, raw = self.direct(b"example.org")
        self.assertEqual(solo.engine.log, ["tls"])
        self.assertEqual(raw.connection.get_alpn_proto_negotiated(), b"")

    def test_no_certificate_at_all(self) -> None:
        """Without any certificate TLS cannot be offered, and the caller gets an error."""
        server = ServerTLS(lambda name: None)
        self.assertRaisesRegex(NoCertificate, r"example\.org", server.for_domain, LOCAL)
        self.assertRaises(NoCertificate, server.for_domain, None)

    def test_client_names_the_peer(self) -> None:
        """RFC 7590 §3.7: SNI carries the peer's domain in A-labels, and is absent for an address."""
        for text, expected in (("bücher.example", b"xn--bcher-kva.example"), ("192.0.2.1", None)):
            creator = ClientTLS().for_peer(Domain.parse(text), None)
            solo, hello = initiating(tls=lambda order, creator=creator: creator)
            raw = RawTLS(solo, raw_context(leaf_for("example.org")), server=True).run(hello)
            self.assertEqual(raw.connection.get_servername(), expected)

    def test_client_offers_the_protocol_for_direct_tls_alone(self) -> None:
        """XEP-0368: ALPN `xmpp-server` is offered with direct TLS, and not after STARTTLS."""
        offered: list[list[bytes]] = []

        def select(connection: SSL.Connection, names: list[bytes]) -> bytes:
            offered.append(names)
            return names[0]

        for direct in (True, False):
            solo, hello = initiating(tls=lambda order, direct=direct: ClientTLS().for_peer(LOCAL, None, direct=direct))
            context = raw_context(leaf_for("example.org"))
            context.set_alpn_select_callback(select)
            RawTLS(solo, context, server=True).run(hello)
        self.assertEqual(offered, [[b"xmpp-server"]])


class SessionTests(SynchronousTestCase):
    """R11: tests that no session is ever resumed."""

    def test_no_session_is_resumed(self) -> None:
        """R11: a client that offers its session gets a full handshake, and we get its chain."""
        for version in BOTH:
            context = raw_context(leaf_for("peer.example"), highest=version)
            server = by_name("example.org")
            first = RawTLS(receiving(tls=lambda order, server=server: server.for_domain(order.local)), context).run()
            first.solo.connection.write(b"data, so that tickets would have come by now")
            first.run(first.solo.written())
            session = first.connection.get_session()
            again = RawTLS(receiving(tls=lambda order, server=server: server.for_domain(order.local)), context)
            if session is not None:
                again.connection.set_session(session)
            again.run()
            self.assertEqual(again.solo.connection.chain, leaf_for("peer.example").der_chain)
            self.assertEqual(new_context(None, "1.2").get_session_cache_mode(), SSL.SESS_CACHE_OFF)
            self.assertNotEqual(again.connection.master_key(), first.connection.master_key())


class RenegotiationTests(SynchronousTestCase):
    """Tests of renegotiation: OpenSSL itself only warns, but the connection must close."""

    def test_the_peer_as_client_renegotiates(self) -> None:
        """R10: a ClientHello on an established TLS 1.2 connection closes it at once, without a stream error."""
        solo = receiving()
        raw = RawTLS(solo, raw_context(highest=TLS1_2)).run()
        answered = solo.receive(raw.renegotiate())
        self.assert_closed(solo)
        raw._take(answered)
        self.assertEqual(raw.plain, b"")

    def test_the_peer_as_server_renegotiates(self) -> None:
        """R10: a HelloRequest to us as the initiating side closes the connection too."""
        solo, hello = initiating()
        raw = RawTLS(solo, raw_context(leaf_for("example.org"), highest=TLS1_2), server=True).run(hello)
        solo.receive(raw.renegotiate())
        self.assert_closed(solo)

    def test_what_follows_is_discarded(self) -> None:
        """R10: stanzas in the same read, before or after the request, are not processed."""
        solo = receiving()
        raw = RawTLS(solo, raw_context(highest=TLS1_2)).run()
        raw.connection.send(b"before\n")
        early = raw._output()
        raw.connection.send(b"after\n")
        solo.receive(early + raw.renegotiate())
        self.assert_closed(solo)
        self.assertEqual(solo.engine.fed, [b"STARTTLS\n"])

    def test_key_update_is_no_renegotiation(self) -> None:
        """R10: streams on TLS 1.3 continue. OpenSSL itself refuses to renegotiate there."""
        solo = receiving()
        raw = RawTLS(solo, raw_context()).run()
        raw.send(b"hello\n")
        self.assertEqual((solo.ending, solo.engine.fed[-1]), (None, b"hello\n"))

    def assert_closed(self, solo: Solo) -> None:
        assert solo.ending is not None
        self.assertEqual(solo.ending.cause, Cause.TLS_RENEGOTIATION)
        self.assertTrue(solo.transport.disconnected)  # aborted
        self.assertEqual(solo.owner.endings, [solo.ending])
        self.assertEqual(solo.engine.out, b"")


class Watched:
    """The app data of a connection: it counts what OpenSSL tells."""

    def __init__(self) -> None:
        self.wrappedProtocol = self
        self.steps: float = HANDSHAKING
        self.told: list[str] = []

    def takes_long(self) -> bool:
        return False

    def renegotiationAttempted(self) -> None:
        self.told.append("renegotiation")

    def messagesWithoutData(self) -> None:
        self.told.append("messages")


def _shaken(ours: SSL.Connection, theirs: SSL.Connection) -> int:
    """Do a handshake in memory. Return how many records the other side has sent since it was over there."""
    sent = 0
    for _ in range(5):
        for one, other in ((ours, theirs), (theirs, ours)):
            with contextlib.suppress(SSL.WantReadError):
                one.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                data = one.bio_read(100_000)
                other.bio_write(data)
                sent = _number_of_records(data) if one is theirs else sent
    return sent


def _number_of_records(data: bytes) -> int:
    number = 0
    while data:
        data = data[5 + int.from_bytes(data[3:5]) :]
        number += 1
    return number


class MessagesWithoutDataTests(SynchronousTestCase):
    """Tests of TLS messages without end: OpenSSL would read them in one call for as long as more come."""

    def client(self) -> tuple[SSL.Connection, Watched, Records]:
        """Do a handshake as a client. Return its connection, what it is told, and what makes the next records of the server."""
        context = raw_context(leaf_for("example.org"))
        secrets, watched = Secrets(context), Watched()
        ours = ClientTLS().for_peer(LOCAL, None).clientConnectionForTLS(watched)
        theirs = SSL.Connection(context, None)
        ours.set_connect_state()
        theirs.set_accept_state()
        records = secrets.server(_shaken(ours, theirs))
        return ours, watched, records

    def test_key_updates_for_a_server(self) -> None:
        """RFC 8446 §4.6.3: of a thousand KeyUpdates in a row only a few are read. What comes next is not read either."""
        context = raw_context()
        secrets, watched = Secrets(context), Watched()
        ours = server_context_of().for_domain(LOCAL).serverConnectionForTLS(watched)
        theirs = SSL.Connection(context, None)
        ours.set_accept_state()
        theirs.set_connect_state()
        _shaken(ours, theirs)
        records = secrets.client()
        self.assert_cut(ours, watched, b"".join(records.key_update() for _ in range(1000)))

    def test_session_tickets_for_a_client(self) -> None:
        """RFC 8446 §4.6.1: the same for a thousand session tickets of a server, in two records."""
        ours, watched, records = self.client()
        self.assert_cut(ours, watched, records.session_tickets(500) + records.session_tickets(500))

    def test_few_tickets(self) -> None:
        """Four tickets at once, which some servers send, are read, and the data behind them."""
        ours, watched, records = self.client()
        watched.steps = 0
        ours.bio_write(records.session_tickets(4) + records.record(DATA, b"hello"))
        self.assertEqual((ours.recv(99), watched.told), (b"hello", []))

    def assert_cut(self, ours: SSL.Connection, watched: Watched, data: bytes) -> None:
        watched.steps = 0
        ours.bio_write(data)
        with self.assertRaises(SSL.ZeroReturnError):
            ours.recv(99)
        self.assertEqual(watched.told, ["messages"])
        with self.assertRaises(SSL.ZeroReturnError):
            ours.recv(99)
        self.assertEqual(watched.told, ["messages"])


class VersionTests(SynchronousTestCase):
    """Tests of old versions and weak cipher suites."""

    def test_minimum_of_the_receiving_side(self) -> None:
        """RFC 7590: below the minimum version the handshake fails, and the ending says that the other side is too old."""
        for minimum, highest in (("1.2", SSL.TLS1_1_VERSION), ("1.3", TLS1_2)):
            held = credential(leaf_for("example.org"))
            creator = ServerTLS(lambda name, held=held: held, minimum).for_domain(LOCAL)  # type: ignore[misc, arg-type]
            solo = receiving(tls=lambda order, creator=creator: creator)
            raw = RawTLS(solo, raw_context(highest=highest)).run()
            self.assertIn("protocol version", str(raw.problem))
            solo.lose()
            assert solo.ending is not None
            self.assertEqual(solo.ending.cause, Cause.TLS_TOO_OLD)

    def test_minimum_of_the_initiating_side(self) -> None:
        """RFC 7590: a server without TLS 1.3 is too old if that version is required."""
        solo, hello = initiating(tls=lambda order: ClientTLS().for_peer(LOCAL, None, minimum="1.3"))
        RawTLS(solo, raw_context(leaf_for("example.org"), highest=TLS1_2), server=True).run(hello)
        solo.lose()
        assert solo.ending is not None
        self.assertEqual(solo.ending.cause, Cause.TLS_TOO_OLD)

    def test_suites(self) -> None:
        """R38: no suite without forward secrecy and authenticated encryption is offered: no static RSA, CBC, 3DES, RC4, or anonymous suite."""
        names = SSL.Connection(new_context(None, "1.2"), None).get_cipher_list()
        self.assertIn("ECDHE-RSA-AES128-GCM-SHA256", names)
        self.assertIn("TLS_AES_256_GCM_SHA384", names)
        for name in names:
            self.assertTrue(name.startswith(("TLS_", "ECDHE-", "DHE-")), name)
            self.assertNotRegex(name, "3DES|DES-CBC|RC4|NULL|anon|MD5|PSK|SRP")
            self.assertRegex(name, "GCM|CHACHA20|CCM", "no authenticated encryption")

    def test_no_suite_in_common(self) -> None:
        """R38: a peer that supports only static RSA is refused."""
        solo = receiving()
        RawTLS(solo, raw_context(highest=TLS1_2, ciphers=b"AES128-SHA:@SECLEVEL=0")).run()
        solo.lose()
        assert solo.ending is not None
        self.assertEqual(solo.ending.cause, Cause.TLS_FAILED)
        self.assertIn("no shared cipher", solo.ending.detail)


class ContextTests(SynchronousTestCase):
    """Tests of the bounded cache of contexts."""

    def test_one_context_per_certificate(self) -> None:
        """One context is made per certificate and version. A new certificate gets a new one."""
        held = [credential(leaf_for("example.org"))]
        server = ServerTLS(lambda name: held[0])
        first = server.for_domain(LOCAL)._context
        self.assertIs(server.for_domain(ROOMS)._context, first)
        held[0] = credential(shared_issuer().issue(dns=["example.org"]))
        self.assertIsNot(server.for_domain(LOCAL)._context, first)

    def test_clients_contexts(self) -> None:
        """The client's contexts differ by certificate, minimum version and direct TLS, not by peer."""
        client, mine = ClientTLS(), credential(leaf_for("peer.example"))
        made = [
            client.for_peer(LOCAL, mine)._context, client.for_peer(LOCAL, None)._context,
            client.for_peer(LOCAL, mine, minimum="1.3")._context, client.for_peer(LOCAL, mine, direct=True)._context,
        ]
        self.assertEqual(len(set(map(id, made))), 4)
        self.assertIs(client.for_peer(PEER, mine)._context, made[0])

    def test_the_cache_is_bounded(self) -> None:
        """Strangers choose the names, but the size of the cache is bounded. The most recently used stay (docs/decisions.md#bounds)."""
        self.patch(tls, "CONTEXTS_KEPT", 2)
        domains = [Domain.parse(f"d{number}.example") for number in range(3)]
        server = ServerTLS(lambda name: credential(leaf_for(str(name))))
        first, _second = (server.for_domain(domain)._context for domain in domains[:2])
        self.assertIs(server.for_domain(domains[0])._context, first)
        server.for_domain(domains[2])
        self.assertEqual(len(server._contexts._kept), 2)
        self.assertIs(server.for_domain(domains[0])._context, first)

    def test_what_is_no_order(self) -> None:
        """The order to begin TLS names the domain: the adapter passes it to the choice of the certificate."""
        orders: list[object] = []

        def choose(order: StartTLS | None) -> object:
            orders.append(order)
            return by_name("example.org").for_domain(None)

        receiving(tls=choose)
        Solo(tls=choose, direct=True)
        self.assertEqual(orders, [StartTLS(LOCAL, PEER), None])
