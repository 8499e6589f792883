"""Tests of trusted certificates."""

from __future__ import annotations

import warnings
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from s2sgw.authentication.trust_files import read_anchors
from s2sgw.trust.anchors import Anchors
from s2sgw.trust.parsed import ParsedCertificate
from tests.support.certificates import Authority, shared_issuer, shared_root

BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


class AnchorsTests(SynchronousTestCase):
    def test_sources(self):
        """Anchors are read from PEM bundles with text between the certificates, and from DER; each once."""
        other = Authority.root("Other")
        found = Anchors.parse(b"# a root\n" + shared_root().pem + b"another\n" + shared_issuer().pem, other.der, other.pem)
        self.assertEqual([shared_root().certificate, shared_issuer().certificate, other.certificate], list(found.certificates))
        self.assertEqual((3, ()), (len(found), found.complaints))

    def test_unreadable_sources(self):
        """Unreadable sources are reported. The rest still counts."""
        broken = shared_root().pem.replace(b"\nMII", b"\nXII")
        armour = b"-----BEGIN CERTIFICATE-----\nM\n-----END CERTIFICATE-----\n"
        found = Anchors.parse(broken + armour + shared_issuer().pem, b"junk")
        self.assertEqual([shared_issuer().certificate], list(found.certificates))
        self.assertEqual(3, len(found.complaints))
        self.assertIn("certificate 1 cannot be read", found.complaints[0])

    def test_files(self):
        """A file or a directory without a certificate, for example a key, is reported."""
        folder = Path(self.mktemp())
        folder.mkdir()
        self.assertEqual((f"{folder} holds no certificate",), read_anchors(str(folder)).complaints)
        key = folder / "a.key"
        key.write_bytes(b"-----BEGIN PRIVATE KEY-----\nMII=\n-----END PRIVATE KEY-----\n")
        self.assertEqual((f"{key} holds no certificate",), read_anchors(str(key)).complaints)
        (folder / "a.crt").write_bytes(shared_root().pem)
        found = read_anchors(str(folder))
        self.assertEqual(((shared_root().certificate,), ()), (found.certificates, found.complaints))

    def test_none(self):
        """There may be no anchors at all."""
        self.assertEqual(0, len(Anchors()))
        self.assertIsNone(Anchors().store)

    def test_sum(self):
        """Anchors and their errors can be added."""
        found = Anchors.parse(shared_root().pem) + Anchors.parse(shared_issuer().der, shared_root().der, b"junk")
        self.assertEqual((2, 1), (len(found), len(found.complaints)))

    def test_membership(self):
        """A certificate is an anchor by its bytes, not by its name."""
        trusted = Anchors([shared_root().certificate])
        self.assertIn(ParsedCertificate(shared_root().der), trusted)
        self.assertNotIn(ParsedCertificate(Authority.root().der), trusted)
        self.assertNotIn(ParsedCertificate(shared_issuer().der), trusted)

    def test_by_name(self):
        """Anchors are found by their subject."""
        namesake = Authority.root()
        name = ParsedCertificate(namesake.der).subject
        found = Anchors([shared_root().certificate, namesake.certificate]).named(name)
        self.assertEqual([shared_root().der, namesake.der], [each.encoded for each in found])
        self.assertEqual([], list(Anchors().named(name)))

    def test_system_bundle(self):
        """The system's bundle is read without an error or a warning."""
        if not BUNDLE.exists():
            raise SkipTest("this system keeps its anchors elsewhere")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = Anchors.parse(BUNDLE.read_bytes())
        self.assertEqual((), found.complaints)
        self.assertGreater(len(found), 20)
