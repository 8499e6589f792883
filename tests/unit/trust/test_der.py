"""The little of DER that is read."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.trial.unittest import SynchronousTestCase

import s2sgw.trust.der as der
from tests.support.certificates import Authority, leaf_for, self_signed, shared_issuer, shared_root
from tests.support.certificates import der as encode

ALT_NAME = x509.SubjectAlternativeName.oid


def with_extension(oid: str, value: bytes) -> bytes:
    """A certificate with this extension, whatever its value."""
    extra = [(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), False)]
    return self_signed(extra=extra, subject_key_identifier=False, authority_key_identifier=False).der


class ElementTests(SynchronousTestCase):
    def test_read(self):
        """An element is its identifier, its contents and its encoding; the rest follows."""
        for size in (0, 1, 127, 128, 255, 256, 70000):
            data = encode(0x04, b"x" * size)
            element, rest = der.read(data + b"rest")
            self.assertEqual((0x04, b"x" * size, data, b"rest"), (*element, rest))

    def test_malformed(self):
        """An element that is cut short, or of a form that DER does not have, is a ValueError."""
        for data in (b"", b"\x04", b"\x04\x01", b"\x04\x81", b"\x04\x82\x01\x00x", b"\x04\x80\x00\x00", b"\x04\x85\0\0\0\0\1x", b"\x1f\x01x"):
            self.assertRaises(ValueError, der.read, data)

    def test_elements(self):
        """Elements are read until the end, or until one is malformed."""
        found = der.elements(b"\x04\x01a\x05\x00\x04\x05b")
        self.assertEqual([0x04, 0x05], [next(found).tag, next(found).tag])
        self.assertRaises(ValueError, next, found)

    def test_inside(self):
        """The contents of a single element of the tag that is expected."""
        self.assertEqual(b"\x05\x00", der.inside(b"\x30\x02\x05\x00"))
        self.assertRaises(ValueError, der.inside, b"\x30\x00\x05\x00")
        self.assertRaises(ValueError, der.inside, b"\x31\x00")


class FieldTests(SynchronousTestCase):
    def test_fields(self):
        """Issuer, subject and key of a certificate, as they are encoded."""
        fields = der.fields(shared_issuer().der)
        self.assertEqual(shared_root().certificate.subject.public_bytes(), fields.issuer)
        self.assertEqual(shared_issuer().certificate.subject.public_bytes(), fields.subject)
        info = shared_issuer().key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.assertEqual(info, fields.public_key_info)

    def test_version_one(self):
        """A certificate of version 1 has neither a version nor extensions."""
        tbs = b"".join(encode(0x30, bytes([number])) for number in range(6))
        self.assertEqual(b"\x30\x01\x02", der.fields(encode(0x30, encode(0x30, tbs))).issuer)
        self.assertEqual(b"", der.fields(encode(0x30, encode(0x30, tbs))).extensions)

    def test_no_certificate(self):
        """What lacks fields is no certificate."""
        for data in (b"", b"\x30\x00", b"\x30\x02\x30\x00", encode(0x30, encode(0x30, b"\x05\x00" * 5))):
            self.assertRaises(ValueError, der.fields, data)


class ExtensionTests(SynchronousTestCase):
    def test_there_and_not_there(self):
        """An extension is found by its OID, critical or not."""
        leaf = leaf_for("a.example").der
        self.assertEqual(encode(0x30, encode(0x82, b"a.example")), der.extension(leaf, der.SUBJECT_ALT_NAME))
        self.assertIsNone(der.extension(leaf, der.NAME_CONSTRAINTS))
        self.assertTrue(der.has_extension(leaf, der.SUBJECT_ALT_NAME))
        self.assertFalse(der.has_extension(leaf, der.NAME_CONSTRAINTS))

    def test_twice(self):
        """An extension that is there twice is a ValueError."""
        leaf = with_extension("2.5.29.18", b"\x30\x00").replace(bytes.fromhex("0603551d12"), bytes.fromhex("0603551d0f"))
        self.assertRaises(ValueError, der.extension, leaf, der.KEY_USAGE)

    def test_malformed(self):
        """Extensions that are no pairs of OID and value are a ValueError, and count as being there."""
        leaf = with_extension("2.5.29.18", b"\x30\x00").replace(bytes.fromhex("0603551d12"), bytes.fromhex("0503551d12"))
        self.assertRaises(ValueError, der.extension, leaf, der.SUBJECT_ALT_NAME)
        self.assertTrue(der.has_extension(leaf, der.SUBJECT_ALT_NAME))

    def test_object_identifiers(self):
        """The OIDs of an extended key usage."""
        self.assertEqual({b"\x2a\x03", b"\x55"}, der.object_identifiers(bytes.fromhex("300706022a03060155")))

    def test_key_identifiers(self):
        """The identifiers of the authority's key and the subject's agree along a chain."""
        self.assertEqual(der.subject_key(shared_issuer().der), der.authority_key(leaf_for("a.example").der))
        self.assertEqual(20, len(der.subject_key(shared_issuer().der) or b""))

    def test_no_key_identifiers(self):
        """Key identifiers that are absent or cannot be read are None."""
        bare = Authority.root(subject_key_identifier=False, authority_key_identifier=False).der
        junk = (with_extension("2.5.29.14", b"junk"), with_extension("2.5.29.35", b"junk"))
        empty = with_extension("2.5.29.35", b"\x30\x00")
        self.assertEqual([None] * 5, [
            der.subject_key(bare), der.authority_key(bare), der.subject_key(junk[0]), der.authority_key(junk[1]), der.authority_key(empty),
        ])
