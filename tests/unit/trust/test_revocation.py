"""Tests of revocation lists (R19)."""

from __future__ import annotations

from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.trust import validate_peer
from s2sgw.trust.path import Anchors, validate
from s2sgw.trust.revocation import RevocationLists
from s2sgw.xmpp.ending import Cause
from tests.support.certificates import AT, Authority, Issued, der, leaf_for, new_key, resigned, shared_issuer, shared_root, usage

ANCHORS = Anchors([shared_root().certificate])
PAST = AT - timedelta(days=1)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")


def causes(issued: Issued, *lists: bytes) -> list[Cause]:
    revocations = RevocationLists.parse(*lists)
    assert not revocations.complaints, revocations.complaints
    return [failure.cause for failure in validate(issued.der_chain, ANCHORS, AT, revocations).failures]


def with_extensions(*extensions: x509.ExtensionType, critical: bool = True, revoked: tuple[x509.Certificate, ...] = ()) -> bytes:
    """Return a list of the shared issuer with these extensions and a CRL number."""
    return shared_issuer().crl(revoked, extensions=[(x509.CRLNumber(1), False), *((each, critical) for each in extensions)])


def distribution_point(**options: bool) -> x509.IssuingDistributionPoint:
    defaults = dict.fromkeys(
        ("only_contains_user_certs", "only_contains_ca_certs", "indirect_crl", "only_contains_attribute_certs"), False
    )
    return x509.IssuingDistributionPoint(None, None, only_some_reasons=None, **{**defaults, **options})


class RevocationTests(SynchronousTestCase):
    def test_revoked(self):
        """R19: a certificate on its authority's list is revoked, and others are not."""
        issued = leaf_for("a.example")
        revoking = shared_issuer().crl([issued.certificate])
        self.assertEqual([Cause.REVOKED], causes(issued, revoking))
        self.assertEqual([], causes(leaf_for("b.example"), revoking))
        text = validate(issued.der_chain, ANCHORS, AT, RevocationLists.parse(revoking)).failures[0].text
        self.assertEqual("the certificate was revoked on 2020-01-01", text)

    def test_revoked_authority(self):
        """R19: an authority on the path may be revoked too, and is named."""
        lower = shared_issuer().intermediate("Lower")
        revoking = RevocationLists.parse(shared_issuer().crl([lower.certificate]))
        found = validate(lower.issue(dns=["a.example"]).der_chain, ANCHORS, AT, revoking)
        self.assertEqual([Cause.REVOKED], [failure.cause for failure in found.failures])
        self.assertIn("the authority 'CN=Lower' was revoked", found.failures[0].text)

    def test_both_reported(self):
        """R19: for an expired and revoked certificate both faults are given."""
        issued = shared_issuer().issue(dns=["a.example"], not_after=PAST)
        self.assertEqual([Cause.EXPIRED, Cause.REVOKED], causes(issued, shared_issuer().crl([issued.certificate])))

    def test_told_once(self):
        """Several lists that revoke the same certificate make one failure."""
        revoking = shared_issuer().crl([leaf_for("a.example").certificate])
        self.assertEqual([Cause.REVOKED], causes(leaf_for("a.example"), revoking, revoking))

    def test_lists_of_others(self):
        """R19: a list counts only if an authority of the path signed it. A namesake's does not."""
        issued = leaf_for("a.example")
        for key in (new_key(), ed25519.Ed25519PrivateKey.generate()):
            self.assertEqual([], causes(issued, shared_issuer().crl([issued.certificate], next_update=PAST, key=key)))
        stranger = Authority.root("Stranger").crl([issued.certificate])
        self.assertEqual([], causes(issued, stranger))

    def test_outdated(self):
        """R19: if all lists of an authority are outdated, none of its certificates is accepted. Revoked ones stay revoked."""
        issued = leaf_for("a.example")
        old, new = shared_issuer().crl(next_update=PAST), shared_issuer().crl()
        self.assertEqual([Cause.BAD_CHAIN], causes(issued, old))
        self.assertEqual([], causes(issued, old, new))
        self.assertEqual([Cause.BAD_CHAIN], causes(issued, old, shared_issuer().crl(key=new_key())))
        self.assertEqual([Cause.BAD_CHAIN], causes(issued, shared_issuer().crl(last_update=AT + timedelta(seconds=1))))
        self.assertEqual([], causes(issued, shared_issuer().crl(last_update=AT)))
        self.assertEqual([], causes(issued, shared_issuer().crl(next_update=AT)))
        self.assertEqual([Cause.REVOKED, Cause.BAD_CHAIN], causes(issued, shared_issuer().crl([issued.certificate], next_update=PAST)))

    def test_no_next_update(self):
        """R19: a list without the time of the next one is outdated (RFC 5280 §5.1.2.5)."""
        issued = leaf_for("a.example")
        dated = x509.load_der_x509_crl(shared_issuer().crl())
        dates = der(0x17, b"200101000000Z"), der(0x17, b"491231000000Z")
        tbs = dated.tbs_certlist_bytes.replace(dates[1], b"")
        tbs = der(0x30, tbs[2:] if tbs[1] < 0x80 else tbs[3:])
        signature = shared_issuer().key.sign(tbs, ec.ECDSA(hashes.SHA256()))  # type: ignore[call-arg, arg-type]
        timeless = der(0x30, tbs + bytes.fromhex("300a06082a8648ce3d040302") + der(0x03, b"\0" + signature))
        self.assertEqual([Cause.BAD_CHAIN], causes(issued, timeless))

    def test_useless_lists(self):
        """R19: a list that cannot be used has no effect, and none on a good one beside it."""
        issued = leaf_for("a.example")
        useless = with_extensions(UNKNOWN, revoked=(issued.certificate,))
        found = validate(issued.der_chain, ANCHORS, AT, RevocationLists.parse(useless))
        self.assertEqual([Cause.BAD_CHAIN], [failure.cause for failure in found.failures])
        self.assertIn("'CN=Test Issuer' cannot clear the certificate: its critical extension 1.2.3.4", found.failures[0].text)
        beside = RevocationLists.parse(useless, shared_issuer().crl())
        self.assertTrue(validate(issued.der_chain, ANCHORS, AT, beside).valid)

    def test_authority_that_may_not_sign_lists(self):
        """R19: a list does not count if the authority's key usage does not permit signing lists. Without a key usage it does."""
        authority = shared_root().intermediate("I", key_usage=usage(key_cert_sign=True))
        self.assertEqual([Cause.BAD_CHAIN], causes(authority.issue(dns=["a.example"]), authority.crl()))
        self.assertEqual([], causes(authority.issue(dns=["a.example"])))
        authority = shared_root().intermediate("I", key_usage=())
        self.assertEqual([], causes(authority.issue(dns=["a.example"]), authority.crl()))

    def test_unreadable_names(self):
        """R17: revocation is checked for a certificate with a malformed name too."""
        issued = shared_issuer().issue(san_der=der(0x30, der(0x82, b"a.example") + der(0x87, b"123")))
        self.assertEqual([Cause.REVOKED], causes(issued, shared_issuer().crl([issued.certificate])))

    def test_unreadable_key(self):
        """R19: a namesake with an unknown kind of key does not hide the authority's list."""
        issued = shared_issuer().issue(san_der=der(0x30, der(0x82, b"a.example") + der(0x87, b"123")))
        namesake = shared_root().intermediate(subject_key_identifier=False)
        curve = (bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030109"))
        odd = resigned(namesake.certificate, shared_root().key, edit=curve)
        presented = issued.with_chain(odd, shared_issuer().certificate)
        self.assertEqual([], causes(presented))
        self.assertEqual([Cause.REVOKED], causes(presented, shared_issuer().crl([issued.certificate])))

    def test_by_the_one_function(self):
        """`validate_peer` accepts lists too, in PEM or DER."""
        issued = leaf_for("a.example")
        armoured = x509.load_der_x509_crl(shared_issuer().crl([issued.certificate])).public_bytes(Encoding.PEM)
        for crls in (armoured, [b"junk", shared_issuer().crl([issued.certificate])]):
            attempt = validate_peer(issued.pem_chain, shared_root().pem, "a.example", AT, crls=crls)
            self.assertEqual(Cause.REVOKED, attempt.cause)


class ParsingTests(SynchronousTestCase):
    def test_sources(self):
        """Lists are read from PEM, several to a text, or from DER."""
        one, two = shared_issuer().crl(), shared_root().crl()
        armoured = b"".join(x509.load_der_x509_crl(data).public_bytes(Encoding.PEM) for data in (one, two))
        found = RevocationLists.parse(armoured, one)
        self.assertEqual((3, ()), (len(found), found.complaints))
        self.assertEqual(0, len(RevocationLists()))

    def test_what_cannot_be_used(self):
        """R19: a list that is unreadable, indirect, without a number or not understood is reported."""
        twice = with_extensions(x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.99"), b"\2\1\1"))
        twice = twice.replace(bytes.fromhex("0603551d63"), bytes.fromhex("0603551d14"))
        odd_point = x509.UnrecognizedExtension(x509.IssuingDistributionPoint.oid, bytes.fromhex("3006a004a002a300"))
        unreadable = x509.UnrecognizedExtension(x509.IssuingDistributionPoint.oid, b"junk")
        for data, reason in (
            (b"junk", "cannot be read"), (with_extensions(UNKNOWN), "1.2.3.4 is not understood"),
            (with_extensions(distribution_point(indirect_crl=True)), "indirect"), (with_extensions(x509.DeltaCRLIndicator(1)), "not understood"),
            (twice, "cannot be read"), (with_extensions(odd_point), "cannot be read"), (with_extensions(unreadable), "cannot be read"),
            (shared_issuer().crl(extensions=()), "no CRL number"), (shared_issuer().crl(extensions=[(x509.CRLNumber(1), True)]), "not understood"),
        ):
            found = RevocationLists.parse(data)
            self.assertEqual(1, len(found.complaints))
            self.assertIn("revocation list 1 cannot be used: ", found.complaints[0])
            self.assertIn(reason, found.complaints[0])

    def test_partitioned_lists(self):
        """R19: a list for some of an authority's certificates revokes those that it lists, whatever its uncritical extensions."""
        for data in (with_extensions(UNKNOWN, critical=False), with_extensions(distribution_point(only_contains_user_certs=True))):
            self.assertEqual((), RevocationLists.parse(data).complaints)
