"""Anchors and what may be asked of one certificate."""

from __future__ import annotations

import warnings
from pathlib import Path

from cryptography import x509
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from s2sgw.authentication.trust_files import read_anchors
from s2sgw.trust.anchors import NAME_CHARACTERS, Anchors, load, self_signed, subject, subject_text, unarmoured
from tests.support.certificates import Authority, certify, leaf_for, new_key, resigned, shared_issuer, shared_root
from tests.support.certificates import self_signed as make_self_signed

BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


class AnchorsTests(SynchronousTestCase):
    def test_sources(self):
        """Anchors come from PEM bundles with words between the certificates, and from DER; each once."""
        other = Authority.root("Other")
        found = Anchors.parse(b"# a root\n" + shared_root().pem + b"another\n" + shared_issuer().pem, other.der, other.pem)
        self.assertEqual([shared_root().certificate, shared_issuer().certificate, other.certificate], list(found.certificates))
        self.assertEqual((3, ()), (len(found), found.complaints))

    def test_unreadable_sources(self):
        """What cannot be read is complained of; the rest still counts."""
        broken = shared_root().pem.replace(b"\nMII", b"\nXII")
        armour = b"-----BEGIN CERTIFICATE-----\nM\n-----END CERTIFICATE-----\n"
        found = Anchors.parse(broken + armour + shared_issuer().pem, b"junk")
        self.assertEqual([shared_issuer().certificate], list(found.certificates))
        self.assertEqual(3, len(found.complaints))
        self.assertIn("certificate 1 cannot be read", found.complaints[0])

    def test_files(self):
        """A file or a directory without any certificate, such as a key, is complained of."""
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
        """Anchors add up, with their complaints."""
        found = Anchors.parse(shared_root().pem) + Anchors.parse(shared_issuer().der, shared_root().der, b"junk")
        self.assertEqual((2, 1), (len(found), len(found.complaints)))

    def test_membership(self):
        """A certificate is an anchor as itself, not by its name."""
        self.assertIn(shared_root().certificate, Anchors([shared_root().certificate]))
        self.assertNotIn(Authority.root().certificate, Anchors([shared_root().certificate]))
        self.assertNotIn(shared_issuer().certificate, Anchors([shared_root().certificate]))

    def test_by_name(self):
        """Anchors are found by their subject."""
        namesake = Authority.root()
        found = Anchors([shared_root().certificate, namesake.certificate]).named(subject(namesake.certificate))
        self.assertEqual([shared_root().certificate, namesake.certificate], list(found))
        self.assertEqual([], list(Anchors().named(subject(namesake.certificate))))

    def test_system_bundle(self):
        """The system's bundle is read without a complaint or a warning."""
        if not BUNDLE.exists():
            raise SkipTest("this system keeps its anchors elsewhere")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = Anchors.parse(BUNDLE.read_bytes())
        self.assertEqual((), found.complaints)
        self.assertGreater(len(found), 20)


class CertificateTests(SynchronousTestCase):
    def test_armour(self):
        """A PEM text yields each certificate's DER; what is no PEM yields itself."""
        self.assertEqual([shared_root().der, shared_issuer().der], list(unarmoured(shared_root().pem + shared_issuer().pem)))
        self.assertEqual([b"junk"], list(unarmoured(b"junk")))

    def test_load(self):
        """What is no certificate, or of a version that does not exist, is a ValueError."""
        self.assertEqual(shared_root().certificate, load(shared_root().der))
        future = shared_root().der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05")
        for data in (b"", b"junk", future):
            self.assertRaises(ValueError, load, data)

    def test_called(self):
        """A certificate is called by its subject or its issuer, bounded, and something even where that is unreadable."""
        self.assertEqual("'CN=Test Issuer'", subject_text(shared_issuer().certificate))
        self.assertEqual("'CN=Test Root'", subject_text(shared_issuer().certificate, by=True))
        long = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, letter * 64) for letter in "xyz"])
        self.assertEqual(NAME_CHARACTERS + 2, len(subject_text(certify(long, new_key(), None))))
        authority = Authority.root("QQQQ")
        unreadable = resigned(authority.certificate, authority.key, edit=(b"QQQQ", b"\xff" * 4))
        self.assertEqual("of an unreadable name", subject_text(unreadable))

    def test_self_signed(self):
        """Self-signed means by its own key, not only under its own name."""
        self.assertTrue(self_signed(make_self_signed(dns=["a.example"]).certificate))
        self.assertTrue(self_signed(shared_root().certificate))
        self.assertFalse(self_signed(leaf_for("a.example").certificate))
        self.assertFalse(self_signed(make_self_signed(dns=["a.example"], signed_by=new_key()).certificate))
