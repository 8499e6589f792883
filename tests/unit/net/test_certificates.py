"""Tests of the folder of our own certificates."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net import certificates
from s2sgw.net.certificates import CertificateDirectory, load
from s2sgw.net.tls import new_context
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import AT, NOT_AFTER, Issued, leaf_for, new_key, rsa_key, self_signed, shared_issuer


def d(text: str) -> Domain:
    return Domain.parse(text)


class FolderTests(SynchronousTestCase):
    """Base class that makes files for each test."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def put(self, name: str, issued: Issued, key: bytes | None = None, mode: int = 0o600) -> None:
        """Write NAME.crt and NAME.key; `key` replaces its own."""
        (self.folder / f"{name}.crt").write_bytes(issued.pem_chain)
        path = self.folder / f"{name}.key"
        path.write_bytes(issued.key_pem if key is None else key)
        path.chmod(mode)

    def directory(self, at: datetime = AT) -> CertificateDirectory:
        return CertificateDirectory(self.folder, lambda: at)

    def complaint(self) -> str:
        (complaint,) = load(self.folder, AT).complaints
        return complaint


class ChoiceTests(FolderTests):
    """R11: the names in the certificate decide, not the file's name."""

    def test_both_shapes(self) -> None:
        """Both layouts are read: NAME.crt with NAME.key, and NAME/fullchain.pem with NAME/privkey.pem, with the chain."""
        self.put("one", leaf_for("example.org"))
        two = self.folder / "two"
        two.mkdir()
        (two / "fullchain.pem").write_bytes(leaf_for("rooms.example.org").pem_chain)
        (two / "privkey.pem").write_bytes(leaf_for("rooms.example.org").key_pem)
        (two / "privkey.pem").chmod(0o600)
        (self.folder / "README").write_text("not a certificate")
        (self.folder / "archive").mkdir()
        directory = self.directory()
        self.assertEqual((directory.complaints, directory.warnings), ((), ()))
        for domain, name in (("example.org", "one"), ("rooms.example.org", "two")):
            credential = directory.for_domain(d(domain))
            assert credential is not None
            self.assertEqual((credential.name, credential.chain), (name, leaf_for(domain).der_chain))
            new_context(credential, "1.2")  # OpenSSL accepts it

    def test_every_kind_of_name(self) -> None:
        """R17: xmppAddr, SRV-ID, dNSName and a left-most wildcard are accepted. A common name is not."""
        issuer = shared_issuer()
        self.put("addr", issuer.issue(xmpp=["addr.example"]))
        self.put("srv", issuer.issue(srv=["srv.example"]))
        self.put("wild", issuer.issue(dns=["*.wild.example"], common_name="cn.example"))
        self.put("idn", issuer.issue(xmpp=["bücher.example"]))
        directory = self.directory()
        served = {name: getattr(directory.for_domain(d(name)), "name", None) for name in (
            "addr.example", "srv.example", "a.wild.example", "wild.example", "a.b.wild.example", "cn.example", "bücher.example",
        )}  # fmt: skip
        self.assertEqual(served, {
            "addr.example": "addr", "srv.example": "srv", "a.wild.example": "wild", "wild.example": None,
            "a.b.wild.example": None, "cn.example": None, "bücher.example": "idn",
        })  # fmt: skip

    def test_exact_before_wildcard(self) -> None:
        """An exact name comes before a wildcard, whatever their dates and the order of their files."""
        self.put("a-wild", shared_issuer().issue(dns=["*.example.org"], not_after=datetime(2050, 1, 1, tzinfo=UTC)))
        self.put("b-exact", leaf_for("rooms.example.org"))
        self.put("c-wild", shared_issuer().issue(dns=["*.example.org"]))
        self.assertEqual(self.directory().for_domain(d("rooms.example.org")).name, "b-exact")  # type: ignore[union-attr]
        self.assertEqual(self.directory().for_domain(d("other.example.org")).name, "a-wild")  # type: ignore[union-attr]

    def test_without_xmpp_addr_first(self) -> None:
        """Of two certificates for the domain, the one without an id-on-xmppAddr is presented: ejabberd cannot read the other."""
        self.put("a", shared_issuer().issue(dns=["example.org"], xmpp=["example.org"], not_after=NOT_AFTER + timedelta(days=900)))
        self.put("b", leaf_for("example.org"))
        chosen = self.directory().for_domain(Domain.parse("example.org"))
        assert chosen is not None
        self.assertEqual("b", chosen.name)

    def test_xmpp_addr_is_warned_of(self) -> None:
        """A certificate with an id-on-xmppAddr gets a warning: no ejabberd accepts it."""
        self.put("a", shared_issuer().issue(dns=["example.org"], xmpp=["example.org"]))
        (warning,) = self.directory().warnings
        self.assertIn("has an id-on-xmppAddr in its subjectAltName; ejabberd", warning)

    def test_the_one_that_lasts_longest(self) -> None:
        """Of equal certificates the one that is valid longest is shown. One outside its dates is shown only if there is no other."""
        year = [datetime(2027 + n, 1, 1, tzinfo=UTC) for n in range(3)]
        for name, not_before, not_after in (("a", AT, year[1]), ("b", AT, year[0]), ("c", year[1], year[2])):
            self.put(name, shared_issuer().issue(dns=["example.org"], not_before=not_before, not_after=not_after))
        self.assertEqual(self.directory().for_domain(d("example.org")).name, "a")  # type: ignore[union-attr]
        self.assertEqual(self.directory(year[2]).for_domain(d("example.org")).name, "c")  # type: ignore[union-attr]

    def test_without_a_name(self) -> None:
        """For an unknown name the first certificate by name is shown, or none if there is none."""
        self.assertIsNone(self.directory().for_domain(None))
        self.put("b", leaf_for("b.example"))
        self.put("a", leaf_for("a.example"))
        self.assertEqual(self.directory().for_domain(None).name, "a")  # type: ignore[union-attr]

    def test_answers_are_bounded(self) -> None:
        """Strangers choose the requested names, but the number of kept answers is bounded (docs/decisions.md#bounds)."""
        self.patch(certificates, "ANSWERS_KEPT", 2)
        self.put("a", leaf_for("example.org"))
        directory = self.directory()
        for number in range(5):
            self.assertIsNone(directory.for_domain(d(f"{number}.example")))
        self.assertLessEqual(len(directory._answers), 2)
        self.assertIsNotNone(directory.for_domain(d("example.org")))

    def test_unserved_domains(self) -> None:
        """Each domain that no certificate names is reported."""
        self.put("a", leaf_for("example.org"))
        (complaint,) = self.directory().unserved([d("example.org"), d("rooms.example.org")])
        self.assertIn("rooms.example.org", complaint)


class ComplaintTests(FolderTests):
    """Tests of errors: all of them are reported at once."""

    def test_all_at_once(self) -> None:
        """Each file's errors are listed, and the sound certificates are loaded nevertheless."""
        self.put("a", leaf_for("a.example"), leaf_for("b.example").key_pem)
        self.put("b", self_signed(common_name="b.example"), mode=0o604)
        self.put("c", leaf_for("c.example"), b"rubbish")
        self.put("d", leaf_for("d.example"))
        loaded = load(self.folder, AT)
        self.assertEqual([credential.name for credential in loaded.credentials], ["d"])
        a, b, c = loaded.complaints
        self.assertIn("a.key: is not the key of a.crt", a)
        self.assertIn("is readable or writable by other users", b)
        self.assertIn("b.crt: names no domain", b)
        self.assertIn("c.key: holds no private key", c)

    def test_folders_that_hold_none(self) -> None:
        """A missing or empty folder, or a file in its place, is an error."""
        self.assertIn("holds no certificate (NAME.crt", self.complaint())
        (complaint,) = load(self.folder / "missing", AT).complaints
        self.assertIn("cannot be read: No such file", complaint)
        (self.folder / "file").write_text("")
        (complaint,) = load(self.folder / "file", AT).complaints
        self.assertIn("cannot be read: Not a directory", complaint)

    def test_halves(self) -> None:
        """A certificate without its key is an error, and so is a key without its certificate, in both layouts."""
        (self.folder / "a.crt").write_bytes(leaf_for("a.example").pem_chain)
        (self.folder / "b.key").write_bytes(leaf_for("b.example").key_pem)
        (self.folder / "b.key").chmod(0o600)
        for name, half in (("c", "fullchain.pem"), ("d", "privkey.pem")):
            (self.folder / name).mkdir()
            (self.folder / name / half).write_bytes(leaf_for("c.example").pem_chain)
            (self.folder / name / half).chmod(0o600)
        a, b, c, d_ = load(self.folder, AT).complaints
        self.assertIn("a.key: cannot be read: No such file", a)
        self.assertIn("b.crt: cannot be read: No such file", b)
        self.assertIn("c/privkey.pem: cannot be read: No such file", c)
        self.assertIn("d/fullchain.pem: cannot be read: No such file", d_)

    def test_what_is_no_certificate(self) -> None:
        """A file without a certificate is an error."""
        self.put("a", leaf_for("a.example"))
        (self.folder / "a.crt").write_text("rubbish")
        self.assertIn("a.crt: holds no certificate", self.complaint())

    def test_no_regular_file(self) -> None:
        """A device in the place of a certificate is not read."""
        self.put("a", leaf_for("a.example"))
        (self.folder / "a.crt").unlink()
        (self.folder / "a.crt").symlink_to("/dev/null")
        self.assertIn("a.crt: cannot be read: is no regular file", self.complaint())

    def test_unreadable_key(self) -> None:
        """A key that the gateway may not read is an error."""
        if os.geteuid() == 0:
            (self.folder / "a.crt").write_bytes(leaf_for("a.example").pem_chain)
            (self.folder / "a.key").mkdir()  # root can read every file, but not a folder as a file
        else:
            self.put("a", leaf_for("a.example"), mode=0o000)
        self.assertIn("a.key: cannot be read: ", self.complaint())

    def test_keys_that_will_not_do(self) -> None:
        """A key with a password, of an unsupported type, or too weak is an error."""
        leaf = leaf_for("a.example")
        secret = leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))

        def pem(key: dsa.DSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
            return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

        for key, words in (
            (secret, "encrypted; the gateway cannot ask"),
            (pem(dsa.generate_private_key(1024)), "has an unsupported key type"),
            (self_signed(key=rsa_key(1024)).key_pem, "has 1024 bits, which is too weak"),
            (pem(ec.generate_private_key(ec.SECP192R1())), "has 192 bits, which is too weak"),
        ):
            self.put("a", leaf, key)
            self.assertIn(f"a.key: is {words}" if words.startswith("encrypted") else f"a.key: {words}", self.complaint())

    def test_group_readable_is_fine(self) -> None:
        """A key that its group may read, as packages install them, is private enough."""
        self.put("a", leaf_for("a.example"), mode=0o640)
        self.assertEqual(load(self.folder, AT).complaints, ())

    def test_rsa_keys(self) -> None:
        """An RSA key of 2048 bits is accepted."""
        self.put("a", shared_issuer().issue(dns=["a.example"], key=rsa_key()))
        (credential,) = load(self.folder, AT).credentials
        new_context(credential, "1.2")


class WarningTests(FolderTests):
    """Tests of warnings about certificates that are used all the same."""

    def warning(self) -> str:
        loaded = load(self.folder, AT)
        self.assertEqual((len(loaded.credentials), loaded.complaints), (1, ()))
        (warning,) = loaded.warnings
        return warning

    def test_dates(self) -> None:
        """An expired certificate and one that is not valid yet get warnings."""
        self.put("a", shared_issuer().issue(dns=["a.example"], not_after=datetime(2026, 5, 1, tzinfo=UTC)))
        self.assertIn("a.crt: expired on 2026-05-01", self.warning())
        self.put("a", shared_issuer().issue(dns=["a.example"], not_before=datetime(2027, 5, 1, tzinfo=UTC)))
        self.assertIn("a.crt: is not valid before 2027-05-01", self.warning())

    def test_chains_out_of_order(self) -> None:
        """Certificates after the leaf that do not follow from each other get a warning."""
        self.put("a", leaf_for("a.example").with_chain(leaf_for("b.example").certificate))
        self.assertIn("a.crt: its certificates are not in order", self.warning())

    def test_malformed_names(self) -> None:
        """A malformed name is ignored with a warning."""
        self.put("a", shared_issuer().issue(dns=["a.example", "*.*.example"]))
        self.assertIn("a.crt: dNSName *.*.example is malformed", self.warning())


class ReloadTests(FolderTests):
    """Tests of reading the folder again while the gateway runs."""

    def test_a_new_certificate(self) -> None:
        """After a reload the new certificate is shown, even if the old one has been requested before."""
        self.put("a", leaf_for("a.example"))
        directory = self.directory()
        old = directory.for_domain(d("a.example"))
        self.assertIsNone(directory.for_domain(d("b.example")))
        self.put("a", shared_issuer().issue(dns=["a.example", "b.example"], key=new_key()))
        directory.adopt(self.directory())
        new = directory.for_domain(d("a.example"))
        assert new is not None
        assert old is not None
        self.assertNotEqual(new.fingerprint, old.fingerprint)
        self.assertIs(directory.for_domain(d("b.example")), new)
