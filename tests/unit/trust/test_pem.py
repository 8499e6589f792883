"""Tests of PEM."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.trust import pem
from s2sgw.trust.pem import unarmoured
from tests.support.certificates import rsa_key, self_signed, shared_issuer, shared_root


class PEMTests(SynchronousTestCase):
    def test_several(self):
        """Each block with the label gives its DER, whatever is between. Other labels are skipped."""
        key = self_signed(dns=["a.example"]).key_pem
        source = b"words\n" + shared_root().pem + key + b"-----BEGIN CERTIFICATE\n" + shared_issuer().pem
        self.assertEqual([shared_root().der, shared_issuer().der], list(unarmoured(source)))
        self.assertEqual(1, len(list(unarmoured(source, b"PRIVATE KEY"))))

    def test_no_armour(self):
        """Bytes that are not PEM are returned unchanged."""
        for data in (b"junk", b"", shared_root().der, b"\x30-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"):
            self.assertEqual([data], list(unarmoured(data)))

    def test_broken_armour(self):
        """Broken base64 gives nothing, and does not hide later blocks. A block without an end is skipped."""
        broken = b"-----BEGIN CERTIFICATE-----\nM\n-----END CERTIFICATE-----\n"
        self.assertEqual([b"", shared_root().der], list(unarmoured(broken + shared_root().pem)))
        self.assertEqual([], list(unarmoured(b"-----BEGIN CERTIFICATE-----\nMII=\n")))

    def test_pieces(self):
        """Base64 is decoded in pieces, wherever a line ends."""
        data = self_signed(dns=[f"n{number}.example" for number in range(50)], key=rsa_key())
        for size in (4, 64, 100, 65, 7):
            self.patch(pem, "PIECE", size)
            self.assertEqual([data.der], list(unarmoured(data.pem_chain)))
            self.assertEqual([data.der], list(unarmoured(data.pem_chain.replace(b"\n", b"\r\n"))))
