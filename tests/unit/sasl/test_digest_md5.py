"""Tests of DIGEST-MD5 (RFC 2831), both sides of an exchange."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.sasl.digest_md5 import MESSAGE_BYTES, DigestClient, DigestRefused, DigestServer
from s2sgw.xmpp.jid import Domain

CHALLENGE = b'realm="elwood.innosoft.com",nonce="OA6MG9tEQGm2hh",qop="auth",algorithm=md5-sess,charset=utf-8'
RSPAUTH = b"rspauth=ea40f60335c427b5527b84dbabcdfffd"


def client(user: str = "chris", secret: str = "secret") -> DigestClient:
    return DigestClient(user, secret, "elwood.innosoft.com", "imap/elwood.innosoft.com", "OA6MHXh6VqTrRk")


class ExampleTests(SynchronousTestCase):
    """Tests of the worked example of RFC 2831 §4."""

    def test_response(self) -> None:
        """Response and proof of the other side are those of the example. The proof may come with `<success/>` or before."""
        for early in (False, True):
            one = client()
            answer = one.respond(CHALLENGE)
            self.assertIn(b"response=d388dad90d4bbd760a152321f2143af7", answer)
            self.assertIn(b'username="chris",realm="elwood.innosoft.com",nonce="OA6MG9tEQGm2hh",cnonce="OA6MHXh6VqTrRk"', answer)
            if early:
                self.assertEqual(b"", one.respond(RSPAUTH))
            one.finish(None if early else RSPAUTH)


class RefusalTests(SynchronousTestCase):
    """Tests of invalid challenges, and of a peer without the secret."""

    def test_challenges(self) -> None:
        """A challenge needs one nonce, md5-sess, qop auth, our realm, UTF-8 and the correct grammar. Others are refused."""
        for challenge in (
            b"", b"\xff", b"nonce", CHALLENGE.replace(b"md5-sess", b"md5"), CHALLENGE.replace(b'"auth"', b'"auth-int"'),
            CHALLENGE + b',nonce="x"', CHALLENGE.replace(b"elwood", b"other"),
        ):
            self.assertRaises(DigestRefused, client().respond, challenge)

    def test_proof(self) -> None:
        """Success without the proof, or with another one, is a failure."""
        for proof in (None, b"rspauth=00", b"other=1"):
            one = client()
            one.respond(CHALLENGE)
            self.assertRaises(DigestRefused, one.finish, proof)
        self.assertRaises(DigestRefused, client().finish, RSPAUTH)
        one = client()
        one.respond(CHALLENGE)
        self.assertRaises(DigestRefused, one.respond, RSPAUTH.replace(b"e", b"f"))

    def test_spelling(self) -> None:
        """Quotes are escaped. The realm may be absent. A text outside ISO 8859-1 is hashed as UTF-8."""
        answer = client('a"b\\', "ключ").respond(b'nonce="x\\"y",algorithm=md5-sess')
        self.assertIn(b'username="a\\"b\\\\"', answer)
        self.assertIn(b'nonce="x\\"y"', answer)
        self.assertNotIn(b"charset", answer)

    def test_narrow(self) -> None:
        """RFC 2831 §2.1.2.1: a name and a secret are each hashed in ISO 8859-1 if possible."""
        server, one = (
            DigestServer(Domain.parse("bücher.example"), "ключ", Domain.parse("ours.example"), "n"),
            DigestClient("bücher.example", "ключ", "ours.example", "xmpp/ours.example", "c"),
        )
        answer = one.respond(server.step(None))
        one.respond(server.step(answer))
        one.finish(None)


#: Directives of a response without the proof.
WORDS = (
    b'username="peer.example"', b'realm="ours.example"', b'nonce="nonce"', b'cnonce="c"', b"nc=00000001", b"qop=auth",
    b'digest-uri="xmpp/ours.example"', b"response=" + b"0" * 32, b"charset=utf-8", b'authzid="peer.example"', b'"', b"\\",
)
OURS, PEER = Domain.parse("ours.example"), Domain.parse("peer.example")


class ServerTests(SynchronousTestCase):
    """R26: tests of the receiving side."""

    def setUp(self) -> None:
        self.server = DigestServer(PEER, "secret", OURS, "nonce")
        self.client = DigestClient("peer.example", "secret", "ours.example", "xmpp/ours.example", "cnonce")
        self.challenge = self.server.step(None)
        self.answer = self.client.respond(self.challenge)

    def refused(self, answer: bytes) -> str:
        """Return the condition by which a response is refused."""
        server = DigestServer(PEER, "secret", OURS, "nonce")
        server.step(None)
        refusal: DigestRefused = self.assertRaises(DigestRefused, server.step, answer)
        return refusal.condition

    def test_example(self) -> None:
        """The server's side of the worked example of RFC 2831 §4 is correct."""
        server = DigestServer(Domain.parse("chris"), "secret", Domain.parse("elwood.innosoft.com"), "OA6MG9tEQGm2hh", "imap")
        self.assertEqual(server.step(None), b'realm="elwood.innosoft.com",nonce="OA6MG9tEQGm2hh",qop="auth",charset=utf-8,algorithm=md5-sess')
        answer = (
            b'charset=utf-8,username="chris",realm="elwood.innosoft.com",nonce="OA6MG9tEQGm2hh",nc=00000001,cnonce="OA6MHXh6VqTrRk",'
            b'digest-uri="imap/elwood.innosoft.com",response=d388dad90d4bbd760a152321f2143af7,qop=auth'
        )
        self.assertEqual(server.step(answer), RSPAUTH)
        self.assertIsNone(server.step(b""))

    def test_both(self) -> None:
        """Each side proves itself to the other, and the exchange is complete."""
        self.assertEqual(self.client.respond(self.server.step(self.answer)), b"")
        self.assertIsNone(self.server.step(None))
        self.client.finish(None)

    def test_secret(self) -> None:
        """Another secret, and an invalid response, are refused."""
        other = DigestClient("peer.example", "Secret", "ours.example", "xmpp/ours.example", "cnonce")
        self.assertEqual(self.refused(other.respond(self.challenge)), "not-authorized")
        proof = self.answer.split(b"response=")[1][:32]
        for answer in (proof.upper(), proof[:-1], b"0" * 32):
            self.assertEqual(self.refused(self.answer.replace(proof, answer)), "not-authorized")

    def test_names(self) -> None:
        """The user is the stream's `from`. Realm and digest-uri are the requested domain. The nonce belongs to this exchange and is used once."""
        for old, new in (
            (b'username="peer', b'username="other'), (b'realm="ours', b'realm="other'), (b"xmpp/ours", b"xmpp/other"), (b"xmpp/", b"imap/"),
            (b'nonce="nonce"', b'nonce="other"'), (b"nc=00000001", b"nc=00000002"), (b"xmpp/ours.example", b"xmpp/ours.example/x"),
        ):
            self.assertIn(old, self.answer)
            self.assertEqual(self.refused(self.answer.replace(old, new)), "not-authorized", new)

    def test_authorization_identity(self) -> None:
        """The authorization identity may be the stream's `from`, and is part of the proof. Another one gets `<invalid-authzid/>`."""
        self.assertEqual(self.refused(self.answer + b',authzid="other.example"'), "invalid-authzid")
        self.assertEqual(self.refused(self.answer + b',authzid="peer.example"'), "not-authorized")  # the proof does not include it
        proof = self.answer.split(b"response=")[1][:32]
        secret = hashlib.md5(b"peer.example:ours.example:secret").digest()
        first = hashlib.md5(secret + b":nonce:cnonce:peer.example").hexdigest()
        second = hashlib.md5(b"AUTHENTICATE:xmpp/ours.example").hexdigest()
        whole = hashlib.md5(f"{first}:nonce:00000001:cnonce:auth:{second}".encode()).hexdigest().encode()
        self.assertIn(b"rspauth=", self.server.step(self.answer.replace(proof, whole) + b',authzid="peer.example"') or b"")

    def test_malformed(self) -> None:
        """A missing or repeated directive, bytes that are not text, excess length, another qop and another charset are refused."""
        for answer in (
            b"", b"x", b"\xff", self.answer + b",qop=auth", self.answer.replace(b"qop=auth", b"qop=auth-int"),
            self.answer.replace(b"cnonce=", b"x="), self.answer.replace(b"cnonce", b""), self.answer.replace(b"utf-8", b"koi8-r"),
            self.answer + b',username="peer.example"', self.answer.replace(b"peer", b"\xff"), self.answer + b',x="' + b"y" * MESSAGE_BYTES + b'"',
        ):
            self.assertEqual(self.refused(answer), "malformed-request", answer)

    @given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(WORDS)), max_size=12))
    def test_noise(self, parts: list[bytes]) -> None:
        """After any message an exchange is refused with a text or continues. Only the secret completes it."""
        for server in (DigestServer(PEER, "secret", OURS, "nonce"), DigestServer(PEER, "another", OURS, "nonce")):
            server.step(None)
            try:
                server.step(b",".join(parts))
            except DigestRefused as why:
                self.assertTrue(why.text)
            else:
                self.fail(f"proven by {parts!r}")

    def test_latin_1(self) -> None:
        """RFC 2831 §2.1.2: without a charset the response is ISO 8859-1."""
        books = Domain.parse("b\xfccher.example")
        assert self.challenge is not None
        answer = DigestClient(books.text, "secret", "ours.example", "xmpp/ours.example", "c").respond(self.challenge.replace(b",charset=utf-8", b""))
        server = DigestServer(books, "secret", OURS, "nonce")
        server.step(None)
        server.step(answer.decode().encode("iso-8859-1"))
        self.assertIsNone(server.step(None))

    def test_no_subsequent_authentication(self) -> None:
        """§2.2: an earlier proof proves nothing: an initial response is refused, and a nonce is used once."""
        again = DigestServer(PEER, "secret", OURS, "another")
        self.assertEqual(self.assertRaises(DigestRefused, again.step, self.answer).condition, "malformed-request")
        again.step(None)
        self.assertEqual(self.assertRaises(DigestRefused, again.step, self.answer).condition, "not-authorized")
        self.server.step(self.answer)
        self.assertEqual(self.assertRaises(DigestRefused, self.server.step, self.answer).condition, "malformed-request")
