"""Tests of facts about one certificate that need no validation."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

import s2sgw.trust.der as der
from s2sgw.trust.parsed import NAME_BYTES, NAME_CHARACTERS, ParsedCertificate
from s2sgw.xmpp.ending import Cause
from tests.support.certificates import (
    Authority,
    certify,
    dns_constraints,
    leaf_for,
    new_key,
    resigned,
    rsa_key,
    self_signed,
    shared_issuer,
    shared_root,
)
from tests.support.certificates import der as encode


def parsed(certificate: x509.Certificate) -> ParsedCertificate:
    return ParsedCertificate(certificate.public_bytes(Encoding.DER))


def with_extension(oid: str, value: bytes) -> ParsedCertificate:
    """Return a certificate with this extension, whatever its value."""
    extra = [(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), False)]
    return ParsedCertificate(self_signed(extra=extra, subject_key_identifier=False, authority_key_identifier=False).der)


class ParsedCertificateTests(SynchronousTestCase):
    def test_parts(self):
        """The names and the key are kept as they are encoded."""
        issuer = ParsedCertificate(shared_issuer().der)
        self.assertEqual(shared_root().certificate.subject.public_bytes(), issuer.issuer)
        self.assertEqual(shared_issuer().certificate.subject.public_bytes(), issuer.subject)
        self.assertEqual(shared_issuer().certificate, issuer.certificate)
        self.assertEqual(shared_issuer().certificate.serial_number, int.from_bytes(issuer.serial, "big"))

    def test_no_certificate(self):
        """Bytes that are not a certificate, or have a version that does not exist, are a ValueError."""
        future = shared_root().der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05")
        for data in (b"", b"junk", future, shared_root().der + b"\0"):
            self.assertRaises(ValueError, ParsedCertificate, data)

    def test_extensions(self):
        """An extension is found by its OID. If there are too many, each is a ValueError and counts as present."""
        leaf = ParsedCertificate(leaf_for("a.example").der)
        self.assertEqual(encode(0x30, encode(0x82, b"a.example")), leaf.extension(der.SUBJECT_ALT_NAME))
        self.assertIsNone(leaf.extension(der.NAME_CONSTRAINTS))
        self.assertEqual((True, False), (leaf.has_extension(der.SUBJECT_ALT_NAME), leaf.has_extension(der.NAME_CONSTRAINTS)))
        odd = [(x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.3.{number}"), b""), False) for number in range(65)]
        crowded = ParsedCertificate(self_signed(extra=odd).der)
        self.assertRaises(ValueError, crowded.extension, der.SUBJECT_ALT_NAME)
        self.assertTrue(crowded.has_extension(der.NAME_CONSTRAINTS))

    def test_key_identifiers(self):
        """The key identifiers of authority and subject agree along a chain. Unreadable ones are None."""
        issuer, leaf = ParsedCertificate(shared_issuer().der), ParsedCertificate(leaf_for("a.example").der)
        self.assertEqual(issuer.subject_key, leaf.authority_key)
        self.assertEqual(20, len(issuer.subject_key or b""))
        bare = ParsedCertificate(Authority.root(subject_key_identifier=False, authority_key_identifier=False).der)
        self.assertEqual((None, None), (bare.subject_key, bare.authority_key))
        self.assertIsNone(with_extension("2.5.29.14", b"junk").subject_key)
        self.assertIsNone(with_extension("2.5.29.35", b"junk").authority_key)
        self.assertIsNone(with_extension("2.5.29.35", b"\x30\x00").authority_key)

    def test_words(self):
        """Subject and issuer are given as text, bounded, also if they are unreadable or very long."""
        issuer = ParsedCertificate(shared_issuer().der)
        self.assertEqual(("'CN=Test Issuer'", "'CN=Test Root'"), (issuer.subject_text, issuer.issuer_text))
        long = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, letter * 64) for letter in "xyz"])
        self.assertEqual(NAME_CHARACTERS + 2, len(parsed(certify(long, new_key(), None)).subject_text))
        huge = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")] * (NAME_BYTES // 4))
        self.assertEqual("of a name that is too long to tell", parsed(certify(huge, new_key(), None)).issuer_text)
        authority = Authority.root("QQQQ")
        unreadable = resigned(authority.certificate, authority.key, edit=(b"QQQQ", b"\xff" * 4))
        self.assertEqual("of an unreadable name", parsed(unreadable).subject_text)
        odd = resigned(authority.certificate, authority.key, edit=(b"\x0c\x04QQQQ", b"\x03\x04\x00QQQ"))  # a BIT STRING
        self.assertEqual("of an unreadable name", parsed(odd).issuer_text)

    def test_self_signed(self):
        """Self-signed means signed with its own key, not only under its own name. An expensive key is not checked."""
        self.assertTrue(ParsedCertificate(self_signed(dns=["a.example"]).der).self_signed)
        self.assertTrue(ParsedCertificate(self_signed(dns=["a.example"], key=rsa_key(1024)).der).self_signed)
        self.assertFalse(ParsedCertificate(leaf_for("a.example").der).self_signed)
        self.assertFalse(ParsedCertificate(self_signed(dns=["a.example"], signed_by=new_key()).der).self_signed)

    def test_unfit_authorities(self):
        """R19: a weak key, or too many names, constraints, key purposes or extensions make an authority unfit, with a reason."""
        many = encode(0x30, b"\x88\x00" * 1001)
        purposes = encode(0x30, b"\x06\x01\x2a" * 65)
        odd = [(x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.3.{number}"), b""), False) for number in range(65)]
        for cause, words, options in (
            (Cause.WEAK_KEY, "1024 bits", {"key": rsa_key(1024)}), (Cause.BAD_CHAIN, "too many names", {"san_der": many}),
            (Cause.BAD_CHAIN, "too many names", {"constraints": dns_constraints(["a.example"] * 1001)}),
            (Cause.BAD_CHAIN, "key purposes", {"extra": [(x509.UnrecognizedExtension(x509.ExtendedKeyUsage.oid, purposes), False)]}),
            (Cause.BAD_CHAIN, "64 extensions", {"extra": odd}),
        ):
            unfit = ParsedCertificate(Authority.root("Odd", **options).der).unfit
            assert unfit is not None, words
            self.assertEqual(cause, unfit.cause)
            self.assertIn(words, unfit.text)
        self.assertIsNone(ParsedCertificate(shared_issuer().der).unfit)
