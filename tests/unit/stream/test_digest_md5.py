"""DIGEST-MD5 towards jabberd2's router (RFC 2831)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.stream.digest_md5 import DigestClient, DigestRefused

CHALLENGE = b'realm="elwood.innosoft.com",nonce="OA6MG9tEQGm2hh",qop="auth",algorithm=md5-sess,charset=utf-8'
RSPAUTH = b"rspauth=ea40f60335c427b5527b84dbabcdfffd"


def client(user: str = "chris", secret: str = "secret") -> DigestClient:
    return DigestClient(user, secret, "elwood.innosoft.com", "imap/elwood.innosoft.com", "OA6MHXh6VqTrRk")


class ExampleTests(SynchronousTestCase):
    """The worked example of RFC 2831 §4."""

    def test_response(self) -> None:
        """Response and proof of the other side are those of the example; the proof may come with `<success/>` or before."""
        for early in (False, True):
            one = client()
            answer = one.respond(CHALLENGE)
            self.assertIn(b"response=d388dad90d4bbd760a152321f2143af7", answer)
            self.assertIn(b'username="chris",realm="elwood.innosoft.com",nonce="OA6MG9tEQGm2hh",cnonce="OA6MHXh6VqTrRk"', answer)
            if early:
                self.assertEqual(b"", one.respond(RSPAUTH))
            one.finish(None if early else RSPAUTH)


class RefusalTests(SynchronousTestCase):
    """What is no challenge of this mechanism, and who does not know the secret."""

    def test_challenges(self) -> None:
        """One nonce, md5-sess, qop auth, our realm, in UTF-8, in the grammar; nothing else."""
        for challenge in (
            b"", b"\xff", b"nonce", CHALLENGE.replace(b"md5-sess", b"md5"), CHALLENGE.replace(b'"auth"', b'"auth-int"'),
            CHALLENGE + b',nonce="x"', CHALLENGE.replace(b"elwood", b"other"),
        ):
            self.assertRaises(DigestRefused, client().respond, challenge)

    def test_proof(self) -> None:
        """Success without the proof, or with another, is none."""
        for proof in (None, b"rspauth=00", b"other=1"):
            one = client()
            one.respond(CHALLENGE)
            self.assertRaises(DigestRefused, one.finish, proof)
        self.assertRaises(DigestRefused, client().finish, RSPAUTH)

    def test_spelling(self) -> None:
        """Quotes are escaped; a realm need not be offered; what ISO 8859-1 cannot hold is hashed as UTF-8."""
        answer = client('a"b\\', "ключ").respond(b'nonce="x\\"y",algorithm=md5-sess')
        self.assertIn(b'username="a\\"b\\\\"', answer)
        self.assertIn(b'nonce="x\\"y"', answer)
        self.assertNotIn(b"charset", answer)
