"""Tests of the description of a certificate: everything that an operator compares, without exceptions."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.trust import certificate
from s2sgw.trust.certificate import NAMES, summarise
from s2sgw.trust.pins import Fingerprint
from tests.support.certificates import leaf_for, rsa_key, self_signed, shared_issuer


class SummaryTests(SynchronousTestCase):
    def test_issued(self):
        """An issued certificate has names, issuer, dates, serial number, key and fingerprints."""
        issued = leaf_for("a.example")
        found = summarise(issued.der)
        self.assertEqual((hashlib.sha256(issued.der).hexdigest(), str(Fingerprint.of(issued.der))), (found.sha256, found.key))
        self.assertEqual(("EC secp256r1", False, "CN=Test Issuer"), (found.kind, found.self_signed, found.issuer))
        self.assertTrue(any("a.example" in name for name in found.names), found.names)
        self.assertIn("issued by CN=Test Issuer, valid until 2049-12-31, key sha256:", str(found))
        row = found.row()
        assert found.not_after is not None
        self.assertEqual((found.not_after.timestamp(), list(found.names)), (row["not_after"], row["names"]))

    def test_self_signed(self):
        """A self-signed certificate is described as such, also without names."""
        self.assertIn("self-signed", str(summarise(self_signed(dns=["b.example"]).der)))
        self.assertIn("for no name", str(summarise(shared_issuer().issue(dns=[]).der)))

    def test_names_are_bounded(self):
        """Of many names a bounded number is given."""
        found = summarise(shared_issuer().issue(dns=[f"n{number}.example" for number in range(NAMES + 9)]).der)
        self.assertEqual(NAMES, len(found.names))

    def test_kinds(self):
        """Every kind of key is described, also an unknown one."""
        self.assertEqual("RSA 2048", summarise(shared_issuer().issue(dns=["a.example"], key=rsa_key()).der).kind)
        self.assertEqual("Ed25519", summarise(shared_issuer().issue(dns=["a.example"], key=ed25519.Ed25519PrivateKey.generate()).der).kind)

        class Unknown:
            def public_key(self):
                raise ValueError("of a curve nobody knows")
        self.assertEqual("of no known kind", certificate._kind(Unknown()))  # type: ignore[arg-type]

    def test_unreadable(self):
        """For bytes that are not a certificate only the fingerprint is given."""
        found = summarise(b"nonsense")
        self.assertEqual(("", (), hashlib.sha256(b"nonsense").hexdigest()), (found.key, found.names, found.sha256))
        self.assertIn("cannot be read", str(found))
        self.assertIsNone(found.row()["not_after"])
