"""Tests of the reader of a small part of DER."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.trial.unittest import SynchronousTestCase

import s2sgw.trust.der as der
from tests.support.certificates import der as encode
from tests.support.certificates import leaf_for, self_signed, shared_issuer, shared_root


def with_extension(oid: str, value: bytes) -> bytes:
    """Return a certificate with this extension, whatever its value."""
    extra = [(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), False)]
    return self_signed(extra=extra, subject_key_identifier=False, authority_key_identifier=False).der


class ElementTests(SynchronousTestCase):
    def test_read(self):
        """An element is read as its identifier, contents and encoding. The rest follows."""
        for size in (0, 1, 127, 128, 255, 256, 70000):
            data = encode(0x04, b"x" * size)
            element, rest = der.read(data + b"rest")
            self.assertEqual((0x04, b"x" * size, data, b"rest"), (*element, rest))

    def test_malformed(self):
        """An element that is truncated, or has a form that DER does not permit, is a ValueError."""
        for data in (b"", b"\x04", b"\x04\x01", b"\x04\x81", b"\x04\x82\x01\x00x", b"\x04\x80\x00\x00", b"\x04\x85\0\0\0\0\1x", b"\x1f\x01x"):
            self.assertRaises(ValueError, der.read, data)

    def test_elements(self):
        """Elements are read until the end, or until a malformed one."""
        found = der.elements(b"\x04\x01a\x05\x00\x04\x05b")
        self.assertEqual([0x04, 0x05], [next(found).tag, next(found).tag])
        self.assertRaises(ValueError, next, found)

    def test_linear(self):
        """Elements are found by their offsets: the bytes behind an element are not copied."""

        class Counting(bytes):
            copied = 0

            def __getitem__(self, key):
                found = super().__getitem__(key)
                Counting.copied += len(found) if isinstance(found, bytes) else 0
                return found

        data = Counting(b"\x88\x00" * 20_000)
        self.assertEqual(20_000, sum(1 for _ in der.spans(data)))
        self.assertEqual(0, Counting.copied)
        self.assertEqual(20_000, sum(1 for _ in der.elements(data)))
        self.assertEqual(len(data), Counting.copied)

    def test_encode(self):
        """Encoded contents are read back, whatever their length."""
        for size in (0, 127, 128, 255, 256, 70000):
            self.assertEqual(encode(0x04, b"x" * size), der.encode(0x04, b"x" * size))

    def test_few(self):
        """The number of elements in a list may be limited."""
        self.assertEqual([0x05, 0x05], [each.tag for each in der.few(b"\x05\x00\x05\x00", 2)])
        self.assertRaises(ValueError, der.few, b"\x05\x00" * 3, 2)

    def test_inside(self):
        """The contents of a single element with the expected tag are read."""
        self.assertEqual(b"\x05\x00", der.inside(b"\x30\x02\x05\x00"))
        self.assertRaises(ValueError, der.inside, b"\x30\x00\x05\x00")
        self.assertRaises(ValueError, der.inside, b"\x31\x00")


class FieldTests(SynchronousTestCase):
    def test_fields(self):
        """Issuer, subject and key of a certificate are returned as they are encoded."""
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
        """Bytes without the fields are not a certificate."""
        for data in (b"", b"\x30\x00", b"\x30\x02\x30\x00", encode(0x30, encode(0x30, b"\x05\x00" * 5))):
            self.assertRaises(ValueError, der.fields, data)


class ExtensionTests(SynchronousTestCase):
    def test_there_and_not_there(self):
        """An extension is found by its OID, critical or not."""
        leaf = leaf_for("a.example").der
        self.assertEqual(encode(0x30, encode(0x82, b"a.example")), der.extension(leaf, der.SUBJECT_ALT_NAME))
        self.assertIsNone(der.extension(leaf, der.NAME_CONSTRAINTS))

    def test_twice(self):
        """A repeated extension is a ValueError."""
        leaf = with_extension("2.5.29.18", b"\x30\x00").replace(bytes.fromhex("0603551d12"), bytes.fromhex("0603551d0f"))
        self.assertRaises(ValueError, der.extension, leaf, der.KEY_USAGE)

    def test_malformed(self):
        """Extensions that are not pairs of OID and value are a ValueError."""
        leaf = with_extension("2.5.29.18", b"\x30\x00").replace(bytes.fromhex("0603551d12"), bytes.fromhex("0503551d12"))
        self.assertRaises(ValueError, der.extension, leaf, der.SUBJECT_ALT_NAME)
        self.assertRaises(ValueError, der.extensions, encode(0x30, b"\x01\x00" * 3 + encode(der.OID, b"x") + encode(der.OCTET_STRING, b"")))

    def test_too_many(self):
        """More extensions or key purposes than any real certificate has are a ValueError."""
        one = encode(0x30, encode(der.OID, b"x") + encode(der.OCTET_STRING, b""))
        self.assertEqual(der.MAX_EXTENSIONS, len(der.extensions(one * der.MAX_EXTENSIONS)))
        self.assertRaises(ValueError, der.extensions, one * (der.MAX_EXTENSIONS + 1))
        self.assertRaises(ValueError, der.object_identifiers, encode(0x30, b"\x06\x01\x2a" * (der.MAX_KEY_PURPOSES + 1)))

    def test_object_identifiers(self):
        """The OIDs of an extended key usage are read."""
        self.assertEqual({b"\x2a\x03", b"\x55"}, der.object_identifiers(bytes.fromhex("300706022a03060155")))

    def test_key_identifiers(self):
        """Key identifiers that are absent or cannot be read are None."""
        self.assertEqual(b"key", der.subject_key(encode(0x04, b"key")))
        self.assertEqual(b"key", der.authority_key(encode(0x30, encode(0x80, b"key"))))
        for value in (None, b"junk", b"\x30\x00", b""):
            self.assertEqual((None, None), (der.subject_key(value), der.authority_key(value)))
