"""Tests of the keys that an authority may sign with (R19)."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.trust.keys import is_cheap, signing_fault
from tests.support.certificates import der, rsa_key

RSA = bytes.fromhex("300d06092a864886f70d0101010500")


def info(key: Any) -> bytes:
    encoded: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def rsa_info(bits: int, exponent: int = 65537) -> bytes:
    """Return an RSA public key of a size, without a private key."""
    numbers = rsa.RSAPublicNumbers(exponent, (1 << (bits - 1)) | 1)
    content = b"".join(der(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big")) for number in (numbers.n, numbers.e))
    return der(0x30, RSA + der(0x03, b"\0" + der(0x30, content)))


class SigningTests(SynchronousTestCase):
    def test_kinds(self):
        """R19: P-256, P-384, P-521, Ed25519, Ed448 and RSA from 2048 to 8192 bits may sign."""
        for key in (
            *map(ec.generate_private_key, (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())),
            ed25519.Ed25519PrivateKey.generate(), ed448.Ed448PrivateKey.generate(), rsa_key(2048),
        ):
            self.assertEqual(("", True), (signing_fault(info(key)), is_cheap(info(key))))
        for bits in (2048, 3072, 4096, 8192):
            self.assertEqual("", signing_fault(rsa_info(bits)))

    def test_others(self):
        """R19: other curves and kinds may not sign."""
        for key in (
            *map(ec.generate_private_key, (ec.SECP192R1(), ec.SECP224R1(), ec.SECP256K1(), ec.BrainpoolP512R1())),
            dsa.generate_private_key(1024),
        ):
            self.assertIn("neither RSA, P-256", signing_fault(info(key)))
        self.assertFalse(is_cheap(info(dsa.generate_private_key(1024))))

    def test_sizes(self):
        """R19: RSA keys that are too small, too large, or have a huge exponent may not sign. Only the large ones are expensive."""
        self.assertIn("has 2047 bits", signing_fault(rsa_info(2047)))
        self.assertIn("has 8193 bits", signing_fault(rsa_info(8193)))
        self.assertIn("has 500000 bits", signing_fault(rsa_info(500_000)))
        self.assertIn("exponent", signing_fault(rsa_info(2048, 2**32 + 1)))
        self.assertEqual("", signing_fault(rsa_info(2048, 2**32)))
        dear = (rsa_info(16384), rsa_info(1024, 2**64 + 1))
        self.assertEqual([True, False, False], [is_cheap(each) for each in (rsa_info(1024), *dear)])

    def test_unreadable(self):
        """A key that cannot be read is reported as such."""
        for data in (b"", b"junk", b"\x30\x00", der(0x30, RSA + der(0x03, b"\0junk")), der(0x30, RSA + der(0x03, b""))):
            self.assertIn("cannot be read", signing_fault(data))
            self.assertFalse(is_cheap(data))
        self.assertIn("has 0 bits", signing_fault(der(0x30, RSA + der(0x03, b"\0" + der(0x30, der(0x02, b"") * 2)))))
