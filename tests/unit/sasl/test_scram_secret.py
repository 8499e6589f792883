"""Tests of the secret of two servers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.sasl.scram import (
    LEAST_ITERATIONS,
)
from s2sgw.sasl.scram_secret import KEPT, SharedSecret, StreamSecret, prepare


def stream_secret(text: str = "correct horse", nonce: str = "ours", binding: bytes | None = b"x" * 32, **given: object) -> StreamSecret:
    secret = SharedSecret(text, b"salt", LEAST_ITERATIONS, **given)
    return StreamSecret(secret, lambda: nonce, binding)


class SecretTests(SynchronousTestCase):
    """Tests of the secret and the keys derived from it."""

    def test_prepared(self) -> None:
        """The examples of RFC 4013 §3 are prepared correctly."""
        for text, prepared in (("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX"), ("a\u00a0b", "a b")):
            self.assertEqual(prepared, prepare(text))
        self.assertEqual("\u0627\u0031\u0628", prepare("\u0627\u0031\u0628"))
        for text in ("\u0007", "\u0627\u0031", "\u0627a\u0628", "", "\u00ad", "\u0221"):
            self.assertRaises(ValueError, prepare, text)

    def test_never_shown(self) -> None:
        """The secret, the keys derived from it and the channel binding appear in no repr."""
        secret = stream_secret(binding=b"binding")
        shown = repr(secret) + repr(secret.secret) + repr(secret.secret.keys("sha256", b"salt", 4096))
        for word in ("correct", "binding'", "client", "stored"):
            self.assertNotIn(word, shown)

    def test_derived_once(self) -> None:
        """The same parameters are derived once. The number of kept derivations is bounded."""
        secret = SharedSecret("x", b"salt")
        first = secret.keys("sha1", b"salt", 1)
        self.assertIs(first, secret.keys("sha1", b"salt", 1))
        for number in range(KEPT):
            secret.keys("sha1", b"salt", 2 + number)
        self.assertIsNot(first, secret.keys("sha1", b"salt", 1))
        self.assertEqual(first.stored, secret.keys("sha1", b"salt", 1).stored)
