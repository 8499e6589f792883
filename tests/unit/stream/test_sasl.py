"""Tests of SASL between servers: messages, EXTERNAL in both roles, and the choice of mechanisms."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.stream import sasl
from s2sgw.stream.events import Permission
from s2sgw.stream.sasl import ExternalClient, ExternalServer, Means, SASLCondition, SASLRefused
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.errors import RemoteFault, StreamCondition
from s2sgw.xmpp.jid import Domain, _parse_domain
from s2sgw.xmpp.namespaces import SASL
from tests.support.transcripts import PEER


class MessageTests(SynchronousTestCase):
    """Tests of base64 as RFC 6120 §6.4 defines it."""

    def test_round(self) -> None:
        """An absent message, an empty one and others are read as they were written."""
        for data in (None, b"", b"=", b"peer.example", bytes(range(256))):
            self.assertEqual(sasl.decode(sasl.encode(data)), data)
        self.assertEqual((sasl.encode(None), sasl.encode(b""), sasl.encode(b"a")), ("", "=", "YQ=="))

    def test_incorrect(self) -> None:
        """R24: bad base64 gets `<incorrect-encoding/>`: another alphabet, white space, missing or wrong padding."""
        for text in ("*", "YQ", "YQ=", "YQ==\n", " YQ==", "YR==", "==", "YQ==YQ==", "é", "Y-_=", "a"):
            failed = self.assertRaises(SASLRefused, sasl.decode, text)
            self.assertEqual(failed.condition, SASLCondition.INCORRECT_ENCODING)

    def test_elements(self) -> None:
        """The elements are written as RFC 6120 says."""
        ns = b"xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
        self.assertEqual(sasl.auth("EXTERNAL", b"").to_xml(), b"<auth " + ns + b" mechanism='EXTERNAL'>=</auth>")
        self.assertEqual(sasl.auth("EXTERNAL", None).to_xml(), b"<auth " + ns + b" mechanism='EXTERNAL'/>")
        self.assertEqual(sasl.challenge(b"").to_xml(), b"<challenge " + ns + b"/>")
        self.assertEqual(sasl.challenge(b"a").to_xml(), b"<challenge " + ns + b">YQ==</challenge>")
        self.assertEqual(sasl.response(b"").to_xml(), b"<response " + ns + b">=</response>")
        self.assertEqual(sasl.success().to_xml(), b"<success " + ns + b"/>")
        failure = sasl.failure(SASLRefused(SASLCondition.ABORTED, "so")).to_xml()
        self.assertEqual(failure, b"<failure " + ns + b"><aborted/><text xml:lang='en'>so</text></failure>")

    def test_read_failure(self) -> None:
        """A failure is read into one line, whatever parts it lacks."""
        text = Element("text", SASL, text="go away")
        reasons = [Element("x", "y"), Element("not-authorized", SASL), text]
        self.assertEqual(sasl.read_failure(Element("failure", SASL, children=reasons)), "not-authorized: go away")
        self.assertEqual(sasl.read_failure(Element("failure", SASL, children=[text])), "go away")
        self.assertEqual(sasl.read_failure(Element("failure", SASL)), "")

    def test_read_challenge(self) -> None:
        """A challenge that is not base64 is an error of the other side."""
        self.assertIs(sasl.read_challenge(Element("challenge", SASL)), None)
        fault = self.assertRaises(RemoteFault, sasl.read_challenge, Element("challenge", SASL, text="*"))
        self.assertEqual(fault.condition, StreamCondition.BAD_FORMAT)


class ExternalTests(SynchronousTestCase):
    """R24: tests of EXTERNAL."""

    def test_authzid(self) -> None:
        """R24: the authorization identity is empty or the stream's `from`, in any spelling."""
        for identity in (b"", b"peer.example", b"PEER.example", b"peer.example."):
            self.assertIs(ExternalServer(PEER).step(identity), None)
        books = Domain.parse("bücher.example")
        for name in ("bücher.example", "xn--bcher-kva.example"):
            self.assertIs(ExternalServer(books).step(name.encode()), None)

    def test_authzid_is_not_kept(self) -> None:
        """The authorization identity is a text of the other side: it removes no known name from memory."""
        kept = _parse_domain.cache_info().currsize
        self.assertRaises(SASLRefused, ExternalServer(PEER).step, b"made-up.example")
        self.assertEqual(kept, _parse_domain.cache_info().currsize)

    def test_invalid_authzid(self) -> None:
        """R24: any other identity gets `<invalid-authzid/>`."""
        for identity in (b"other.example", b"juliet@peer.example", b"peer.example/x", b"\xff", b"peer", b" "):
            failed = self.assertRaises(SASLRefused, ExternalServer(PEER).step, identity)
            self.assertEqual(failed.condition, SASLCondition.INVALID_AUTHZID)

    def test_no_initial_response(self) -> None:
        """RFC 6120 §6.4.2: without an initial response the identity is requested."""
        exchange = ExternalServer(PEER)
        self.assertEqual(exchange.step(None), b"")
        self.assertIs(exchange.step(b""), None)

    def test_client(self) -> None:
        """R24: the initiating side names its own domain, and answers one challenge with it."""
        exchange = ExternalClient(Means(PEER, True))
        self.assertEqual(exchange.start(), b"peer.example")
        self.assertEqual(exchange.respond(None), b"peer.example")
        self.assertRaises(RemoteFault, exchange.respond, b"")

    def test_rows(self) -> None:
        """R24: EXTERNAL is offered if it would succeed. It is chosen if it is offered and we have a certificate."""
        self.assertEqual([row.name for row in sasl.offered(Permission(external=True))], ["EXTERNAL"])
        self.assertEqual(sasl.offered(Permission(dialback=True)), [])
        self.assertEqual([row.name for row in sasl.choose(Means(PEER, True, offered=("PLAIN", "EXTERNAL")))], ["EXTERNAL"])
        self.assertEqual(sasl.choose(Means(PEER, False, offered=("EXTERNAL",))), [])
        self.assertEqual(sasl.choose(Means(PEER, True, offered=("PLAIN",))), [])
