"""Tests of the fingerprints of keys (R20)."""

from __future__ import annotations

import base64
import hashlib

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.trust.pins import Fingerprint, InvalidFingerprint
from tests.support.certificates import leaf_for, rsa_key, self_signed, shared_issuer


class FingerprintTests(SynchronousTestCase):
    def test_of_a_certificate(self):
        """R20: the fingerprint is the SHA-256 of the SubjectPublicKeyInfo, whatever the kind of key."""
        for issued in (leaf_for("a.example"), self_signed(key=rsa_key())):
            info = issued.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            self.assertEqual(hashlib.sha256(info).digest(), Fingerprint.of(issued.der).digest)

    def test_outlives_a_renewal(self):
        """R20: a new certificate for the same key has the same fingerprint, a new key another."""
        first = shared_issuer().issue(dns=["a.example"])
        renewed = shared_issuer().issue(dns=["b.example"], key=first.key)
        self.assertEqual(Fingerprint.of(first.der), Fingerprint.of(renewed.der))
        self.assertNotEqual(Fingerprint.of(first.der), Fingerprint.of(leaf_for("a.example").der))

    def test_text(self):
        """A fingerprint is written as "sha256:" with hexadecimal digits, and read back."""
        fingerprint = Fingerprint(bytes(range(32)))
        self.assertEqual("sha256:" + bytes(range(32)).hex(), str(fingerprint))
        self.assertEqual(fingerprint, Fingerprint.parse(str(fingerprint)))

    def test_other_spellings(self):
        """Upper case, colons, surrounding white space and base64 are read too."""
        fingerprint = Fingerprint(bytes(range(200, 232)))
        for text in (
            "SHA256:" + fingerprint.digest.hex().upper(), "sha256:" + fingerprint.digest.hex(":"), f" {fingerprint} ",
            "sha256:" + base64.b64encode(fingerprint.digest).decode(),
        ):
            self.assertEqual(fingerprint, Fingerprint.parse(text), text)

    def test_invalid(self):
        """A text that is not a fingerprint is refused with an explanation of the format."""
        for text in ("", "sha256:", "sha1:" + "00" * 20, "00" * 32, "sha256:" + "00" * 31, "sha256:" + "0g" * 32, "sha256:AAAA", "sha256:ä"):
            error = self.assertRaises(InvalidFingerprint, Fingerprint.parse, text)
            self.assertIn("64 hexadecimal digits", str(error))

    def test_no_certificate(self):
        """Bytes that are not a certificate have no fingerprint."""
        for junk in (b"", b"junk", b"\x30\x00", b"\x30\x02\x30\x00"):
            self.assertRaises(ValueError, Fingerprint.of, junk)
