"""Tests of a single revocation list (R19)."""

from __future__ import annotations

from datetime import UTC, date, datetime
from random import Random

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.trust import revocation_list
from s2sgw.trust.der import fields
from s2sgw.trust.revocation_list import RevocationList
from tests.support.certificates import Authority, der, leaf_for, new_key, rsa_key, shared_issuer

ALGORITHM = bytes.fromhex("300a06082a8648ce3d040302")
NUMBER = der(0xA0, der(0x30, der(0x30, bytes.fromhex("0603551d14") + der(0x04, b"\2\1\1"))))
TODAY = der(0x17, b"250601000000Z")


def listed(*entries: bytes, algorithm: bytes = ALGORITHM, extensions: bytes = NUMBER, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """Return a list of the shared issuer with these raw entries."""
    issuer = shared_issuer().certificate.subject.public_bytes()
    dates = der(0x17, b"200101000000Z") + der(0x17, b"491231000000Z")
    revoked = der(0x30, b"".join(entries)) if entries else b""
    tbs = der(0x30, b"\2\1\1" + ALGORITHM + issuer + dates + revoked + extensions)
    signing = key or shared_issuer().key
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    return der(0x30, tbs + algorithm + der(0x03, b"\0" + signing.sign(tbs, ec.ECDSA(hashes.SHA256()))))


def entry(serial: bytes, time: bytes = TODAY, extensions: bytes = b"") -> bytes:
    return der(0x30, der(0x02, serial) + time + extensions)


def number(value: int) -> bytes:
    return value.to_bytes((value if value >= 0 else ~value).bit_length() // 8 + 1, "big", signed=True)


def key_of(authority: Authority) -> bytes:
    return fields(authority.der).public_key_info


def day(found: RevocationList, value: int) -> date | None:
    return found.revoked_on(number(value))


class EntryTests(SynchronousTestCase):
    def test_as_the_library_has_them(self):
        """Entries, dates and extensions are the same as those that the library reads."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(shared_issuer().certificate.subject)
        builder = builder.last_update(datetime(2020, 1, 1, tzinfo=UTC)).next_update(datetime(2049, 1, 1, tzinfo=UTC))
        random = Random(7)
        serials = {random.getrandbits(random.choice((7, 8, 64, 127, 128, 159))) or 1 for _ in range(300)}
        for each in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(each).revocation_date(datetime(1990 + each % 100, 2, 28, tzinfo=UTC))
            builder = builder.add_revoked_certificate(revoked.add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), False).build())
        builder = builder.add_extension(x509.CRLNumber(1), False)
        data = builder.sign(shared_issuer().key, hashes.SHA256()).public_bytes(Encoding.DER)
        found, library = RevocationList(data), x509.load_der_x509_crl(data)
        self.assertEqual(len(serials), len(found))
        for each in serials:
            revoked_there = library.get_revoked_certificate_by_serial_number(each)
            assert revoked_there is not None
            self.assertEqual(revoked_there.revocation_date_utc.date(), day(found, each))
            self.assertEqual(each + 1 in serials, day(found, each + 1) is not None)

    @given(st.sets(st.integers(-(2**170), 2**170) | st.integers(-300, 300), max_size=40), st.integers(-(2**170), 2**170) | st.integers(-300, 300))
    @settings(max_examples=200, deadline=None)
    def test_exactly_those(self, serials: set[int], other: int) -> None:
        """Exactly the serial numbers on the list are found, whatever their sign and length."""
        found = RevocationList(listed(*map(entry, map(number, serials))))
        self.assertEqual([True] * len(serials), [day(found, each) is not None for each in serials])
        self.assertEqual(other in serials, day(found, other) is not None)

    def test_records_side_by_side(self):
        """A serial number that spans two records of the table is not found."""
        zeros = [entry(bytes([1]) + bytes(size)) for size in range(20)]
        found = RevocationList(listed(*zeros))
        for size in range(20):
            self.assertEqual(date(2025, 6, 1), day(found, 1 << 8 * size))
            self.assertIsNone(day(found, (1 << 8 * size) + 1))
        self.assertIsNone(day(found, 0))

    def test_malformed(self):
        """Entries that are not pairs of a number and a date, or not in DER, make the list unreadable."""
        good = entry(b"\1")
        for bad in (
            der(0x31, der(0x02, b"\1") + TODAY), der(0x30, der(0x04, b"\1") + TODAY), der(0x30, der(0x02, b"\1")), entry(b""), entry(b"\0\1"),
            entry(b"\xff\x80"), entry(b"\1", der(0x05, b"")), entry(b"\1", der(0x17, b"250230000000Z")), entry(b"\1", der(0x17, b"x")), b"\x30\x20\2",
        ):
            self.assertRaises(ValueError, RevocationList, listed(good, bad))

    def test_dates(self):
        """Days before 1970 and in the far future are given as the nearest possible."""
        found = RevocationList(listed(entry(b"\1", der(0x18, b"19600101000000Z")), entry(b"\2", der(0x18, b"22000101000000Z"))))
        self.assertEqual((date(1970, 1, 1), date(2149, 6, 6)), (day(found, 1), day(found, 2)))

    def test_no_list(self):
        """Bytes without the fields are not a list."""
        for data in (b"", b"junk", der(0x30, b""), der(0x30, der(0x30, b"") + ALGORITHM + der(0x03, b"\0")), listed() + b"\0", listed()[:-1]):
            self.assertRaises(ValueError, RevocationList, data)


class SignatureTests(SynchronousTestCase):
    def test_kinds(self):
        """R19: RSA with both paddings, EC and both Edwards curves are verified. Another key of the same kind is not accepted."""
        keys = [rsa_key(), new_key(), ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate(), ed448.Ed448PrivateKey.generate()]
        for key in keys:
            authority = Authority.root("Signer", key=key)
            found = RevocationList(authority.crl())
            others = (Authority.root("Signer", key=each) for each in (*keys, new_key()) if each is not key)
            self.assertTrue(found.is_signed_by(key_of(authority)))
            self.assertEqual([False] * 5, [found.is_signed_by(key_of(each)) for each in others])

    def test_pss(self):
        """R19: a list signed by RSA-PSS counts."""
        authority = Authority.root("Signer", key=rsa_key())
        builder = x509.CertificateRevocationListBuilder().issuer_name(authority.certificate.subject).add_extension(x509.CRLNumber(1), False)
        builder = builder.last_update(datetime(2020, 1, 1, tzinfo=UTC)).next_update(datetime(2049, 1, 1, tzinfo=UTC))
        assert isinstance(authority.key, rsa.RSAPrivateKey)
        signed = builder.sign(authority.key, hashes.SHA256(), rsa_padding=padding.PSS(padding.MGF1(hashes.SHA256()), 32))
        self.assertTrue(RevocationList(signed.public_bytes(Encoding.DER)).is_signed_by(key_of(authority)))

    def test_checked_once(self):
        """A signature is checked once for each key, however often it is needed. The number of kept results is bounded."""
        found, issuer = RevocationList(listed()), key_of(shared_issuer())
        for _ in range(5):
            self.assertTrue(found.is_signed_by(issuer))
        self.assertEqual(1, found.signature_checks)
        for _ in range(revocation_list.SIGNERS_KEPT):
            self.assertFalse(found.is_signed_by(key_of(Authority.root())))
        self.assertLessEqual(len(found._signers), revocation_list.SIGNERS_KEPT)
        self.assertTrue(found.is_signed_by(issuer))

    def test_changed(self):
        """R19: a list with a changed entry has no valid signature. One with two signature algorithms is not a list."""
        issuer = key_of(shared_issuer())
        changed = listed(entry(b"\x11\x22\x33")).replace(b"\x11\x22\x33", b"\x11\x22\x34")
        other = listed(algorithm=bytes.fromhex("300a06082a8648ce3d040303"))
        self.assertFalse(RevocationList(changed).is_signed_by(issuer))
        self.assertRaises(ValueError, RevocationList, other)

    def test_edwards_bound(self):
        """A long list signed with an Edwards curve cannot be used: each check would read all of it."""
        self.patch(revocation_list, "MAX_EDWARDS_BYTES", 50)
        found = RevocationList(Authority.root("Signer", key=ed25519.Ed25519PrivateKey.generate()).crl([leaf_for("a.example").certificate]))
        self.assertIn("Edwards", found.fault)
        self.assertIsNone(day(found, leaf_for("a.example").certificate.serial_number))

    def test_unknown_algorithm(self):
        """R19: a list with an unknown signature algorithm cannot be used."""
        odd = listed().replace(ALGORITHM, bytes.fromhex("300a06082a8648ce3d04037f"))
        self.assertIn("no known kind", RevocationList(odd).fault)
