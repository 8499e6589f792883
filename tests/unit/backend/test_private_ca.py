"""Tests of the private authority of the backend leg."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.backend import private_ca
from s2sgw.backend.private_ca import PrivateCA, PrivateCAError
from s2sgw.net.certificates import Credential
from s2sgw.net.tls import ServerTLS, new_context
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import AT, rsa_key, self_signed
from tests.support.wires import RawTLS, Solo, raw_context

PEER = Domain.parse("peer.example")


class AuthorityTests(SynchronousTestCase):
    """Tests of an authority in a folder and on a clock of the test."""

    def setUp(self) -> None:
        self.state = Path(self.mktemp()) / "state"
        self.at = AT

    def now(self) -> datetime:
        return self.at

    def make(self) -> PrivateCA:
        return PrivateCA(self.state, self.now)

    def leaf(self, domain: Domain = PEER) -> x509.Certificate:
        return x509.load_der_x509_certificate(self.make().leaf(domain).chain[0])

    def verify(self, ca_pem: bytes, credential: Credential) -> None:
        """Verify as the existing server does: by the library's own path validation with this one anchor."""
        from cryptography.x509.verification import PolicyBuilder, Store

        store = Store(x509.load_pem_x509_certificates(ca_pem))
        verifier = PolicyBuilder().store(store).time(self.at).build_server_verifier(x509.DNSName(credential.name))
        verifier.verify(x509.load_der_x509_certificate(credential.chain[0]), [])

    def test_kept_and_private(self) -> None:
        """The authority is made once, readable by its owner alone, and the same after a restart."""
        first = self.make()
        self.assertEqual(self.make().ca_pem, first.ca_pem)
        self.assertEqual((self.state / private_ca.KEY_FILE).stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.state.stat().st_mode & 0o777, 0o700)
        self.assertEqual((self.state / private_ca.CERTIFICATE_FILE).read_bytes(), first.ca_pem)
        self.verify(first.ca_pem, self.make().leaf(PEER))

    def test_it_may_sign_leaves_alone(self) -> None:
        """The authority can have no other authority below it."""
        certificate = x509.load_pem_x509_certificate(self.make().ca_pem)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        self.assertEqual((constraints.value.ca, constraints.value.path_length, constraints.critical), (True, 0, True))
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        self.assertEqual((usage.key_cert_sign, usage.digital_signature), (True, False))

    def test_leaves(self) -> None:
        """A leaf has one dNSName in A-labels, no xmppAddr (it crashes ejabberd 23.01), and both usages."""
        leaf = self.leaf(Domain.parse("bücher.example"))
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(list(names), [x509.DNSName("xn--bcher-kva.example")])
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        self.assertEqual(set(usages), {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH})
        self.assertFalse(leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)

    def test_long_domains(self) -> None:
        """A domain that is too long for a common name is in the subjectAltName only."""
        domain = Domain.parse(".".join(["a" * 60] * 3))
        self.verify(self.make().ca_pem, self.make().leaf(domain))

    def test_leaves_are_kept(self) -> None:
        """A leaf is minted once, and again in good time before it expires."""
        made = self.make()
        first = made.leaf(PEER)
        self.at += timedelta(days=private_ca._LEAF_DAYS - private_ca._RENEW_DAYS - 1)
        self.assertIs(made.leaf(PEER), first)
        self.at += timedelta(days=2)
        second = made.leaf(PEER)
        self.assertGreater(second.not_after, first.not_after)
        self.assertGreater(second.not_after - self.at, timedelta(days=private_ca._RENEW_DAYS))

    def test_the_cache_is_bounded(self) -> None:
        """The number of kept leaves is bounded: the least recently used one is removed (docs/decisions.md#bounds)."""
        self.patch(private_ca, "LEAVES_KEPT", 2)
        made = self.make()
        one, two, three = (Domain.parse(f"{n}.example") for n in ("one", "two", "three"))
        first = made.leaf(one)
        made.leaf(two)
        made.leaf(one)
        made.leaf(three)
        self.assertIs(made.leaf(one), first)
        self.assertEqual(len(made._leaves), 2)

    def test_in_tls(self) -> None:
        """OpenSSL accepts a leaf in either role."""
        made = self.make()
        new_context(made.leaf(PEER), "1.2")
        solo = Solo(tls=lambda order: ServerTLS(lambda domain: made.leaf(PEER)).for_domain(PEER))
        solo.receive(b"STARTTLS\n")
        self.assertTrue(RawTLS(solo, raw_context()).run().done)

    def test_damage(self) -> None:
        """Unusable files are reported with the remedy: damage, a missing half, another's key, a key that others may read."""
        self.make()
        certificate, key = self.state / private_ca.CERTIFICATE_FILE, self.state / private_ca.KEY_FILE
        good = certificate.read_bytes(), key.read_bytes()
        locked = self_signed().key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))
        for path, data, words in (
            (certificate, b"rubbish", "damaged; remove both"),
            (key, b"rubbish", "damaged; remove both"),
            (key, locked, "damaged; remove both"),
            (key, self_signed().key_pem, "is not the key of"),
            (key, self_signed(key=rsa_key()).key_pem, "no elliptic-curve key"),
        ):
            path.write_bytes(data)
            self.assertRaisesRegex(PrivateCAError, words, self.make)
            certificate.write_bytes(good[0])
            key.write_bytes(good[1])
        key.chmod(0o640)
        self.assertRaisesRegex(PrivateCAError, "chmod 600", self.make)
        key.unlink()
        self.assertRaisesRegex(PrivateCAError, "cannot be read: No such file", self.make)

    def test_damage_of_a_shared_authority(self) -> None:
        """In a folder that nodes share, the remedy is a copy. A new authority would be that of one node alone."""
        self.make()
        key = self.state / private_ca.KEY_FILE
        for data, words in ((b"rubbish", "damaged"), (self_signed().key_pem, "is not the key of")):
            key.write_bytes(data)
            error = self.assertRaises(PrivateCAError, PrivateCA, self.state, create=False)
            self.assertEqual((words in str(error), "copy both" in str(error), "remove" in str(error)), (True, True, False), error)

    def test_missing_in_a_shared_folder(self) -> None:
        """In a folder that nodes share no authority is made."""
        error = self.assertRaises(PrivateCAError, PrivateCA, self.state, create=False)
        self.assertIn("cannot be read", str(error))
        self.assertFalse(self.state.exists())

    def test_crash_between_key_and_certificate(self) -> None:
        """If only the key was made, its certificate is made at the next start."""
        made = self.make()
        (self.state / private_ca.CERTIFICATE_FILE).unlink()
        again = self.make()
        self.assertEqual(made._key.public_key(), again._key.public_key())
        self.assertEqual(made._certificate.subject, again._certificate.subject)

    def test_a_place_that_cannot_be_written(self) -> None:
        """A state directory that cannot be made is reported."""
        self.state.parent.mkdir()
        self.state.write_text("a file")
        self.assertRaisesRegex(PrivateCAError, "cannot be written", self.make)
