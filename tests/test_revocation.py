"""Revocation lists: R19."""

from __future__ import annotations

from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.trust import validate_peer
from s2sgw.trust.path import Anchors, validate
from s2sgw.trust.revocation import RevocationLists
from s2sgw.xmpp.ending import Cause
from tests.certificates import (
    AT,
    NOT_AFTER,
    NOT_BEFORE,
    Authority,
    Issued,
    der,
    leaf_for,
    new_key,
    resigned,
    shared_issuer,
    shared_root,
)

ANCHORS = Anchors([shared_root().certificate])
PAST = AT - timedelta(days=1)


def causes(issued: Issued, *lists: bytes) -> list[Cause]:
    revocations = RevocationLists.parse(*lists)
    assert not revocations.complaints, revocations.complaints
    return [failure.cause for failure in validate(issued.der_chain, ANCHORS, AT, revocations).failures]


def with_extension(*extensions: x509.ExtensionType, critical: bool = True) -> bytes:
    builder = x509.CertificateRevocationListBuilder().issuer_name(shared_issuer().certificate.subject)
    builder = builder.last_update(NOT_BEFORE).next_update(NOT_AFTER)
    for extension in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(shared_issuer().key, hashes.SHA256()).public_bytes(Encoding.DER)


def distribution_point(**options: bool) -> x509.IssuingDistributionPoint:
    defaults = dict.fromkeys(
        ("only_contains_user_certs", "only_contains_ca_certs", "indirect_crl", "only_contains_attribute_certs"), False
    )
    return x509.IssuingDistributionPoint(None, None, only_some_reasons=None, **{**defaults, **options})


class RevocationTests(SynchronousTestCase):
    def test_revoked(self):
        """R19: a certificate on its authority's list is revoked, its neighbour is not."""
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

    def test_both_said(self):
        """R19: expired and revoked are both told."""
        issued = shared_issuer().issue(dns=["a.example"], not_after=PAST)
        self.assertEqual([Cause.EXPIRED, Cause.REVOKED], causes(issued, shared_issuer().crl([issued.certificate])))

    def test_told_once(self):
        """Several lists that revoke the same certificate make one failure."""
        revoking = shared_issuer().crl([leaf_for("a.example").certificate])
        self.assertEqual([Cause.REVOKED], causes(leaf_for("a.example"), revoking, revoking))

    def test_lists_of_others(self):
        """R19: a list counts only if an authority of the path signed it; a namesake's does not."""
        issued = leaf_for("a.example")
        for key in (new_key(), ed25519.Ed25519PrivateKey.generate()):
            forged = x509.CertificateRevocationListBuilder().issuer_name(shared_issuer().certificate.subject)
            entry = x509.RevokedCertificateBuilder().serial_number(issued.certificate.serial_number).revocation_date(NOT_BEFORE).build()
            forged = forged.last_update(NOT_BEFORE).next_update(PAST).add_revoked_certificate(entry)
            digest = hashes.SHA256() if not isinstance(key, ed25519.Ed25519PrivateKey) else None
            self.assertEqual([], causes(issued, forged.sign(key, digest).public_bytes(Encoding.DER)))
        stranger = Authority.root("Stranger").crl([issued.certificate])
        self.assertEqual([], causes(issued, stranger))

    def test_outdated(self):
        """R19: an authority whose every list is out of date clears nothing; what the lists revoke stays revoked."""
        issued = leaf_for("a.example")
        old, new = shared_issuer().crl(next_update=PAST), shared_issuer().crl()
        self.assertEqual([Cause.BAD_CHAIN], causes(issued, old))
        self.assertEqual([], causes(issued, old, new))
        self.assertEqual([], causes(issued, shared_issuer().crl(next_update=AT)))
        self.assertEqual([Cause.REVOKED, Cause.BAD_CHAIN], causes(issued, shared_issuer().crl([issued.certificate], next_update=PAST)))

    def test_unreadable_names(self):
        """R17: revocation is asked of a certificate with a malformed name too."""
        issued = shared_issuer().issue(san_der=der(0x30, der(0x82, b"a.example") + der(0x87, b"123")))
        self.assertEqual([Cause.REVOKED], causes(issued, shared_issuer().crl([issued.certificate])))

    def test_unreadable_key(self):
        """R19: a namesake with a key that nobody knows does not hide what the authority's list says."""
        issued = shared_issuer().issue(san_der=der(0x30, der(0x82, b"a.example") + der(0x87, b"123")))
        namesake = shared_root().intermediate(subject_key_identifier=False)
        curve = (bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030109"))
        odd = resigned(namesake.certificate, shared_root().key, edit=curve)
        presented = issued.with_chain(odd, shared_issuer().certificate)
        self.assertEqual([], causes(presented))
        self.assertEqual([Cause.REVOKED], causes(presented, shared_issuer().crl([issued.certificate])))

    def test_by_the_one_function(self):
        """`validate_peer` takes lists too, in PEM or DER."""
        issued = leaf_for("a.example")
        armoured = x509.load_der_x509_crl(shared_issuer().crl([issued.certificate])).public_bytes(Encoding.PEM)
        for crls in (armoured, [b"junk", shared_issuer().crl([issued.certificate])]):
            attempt = validate_peer(issued.pem_chain, shared_root().pem, "a.example", AT, crls=crls)
            self.assertEqual(Cause.REVOKED, attempt.cause)


class ParsingTests(SynchronousTestCase):
    def test_sources(self):
        """Lists come in PEM, several to a text, or in DER."""
        one, two = shared_issuer().crl(), shared_root().crl()
        armoured = b"".join(x509.load_der_x509_crl(data).public_bytes(Encoding.PEM) for data in (one, two))
        found = RevocationLists.parse(armoured, one)
        self.assertEqual((3, ()), (len(found), found.complaints))
        self.assertEqual(0, len(RevocationLists()))

    def test_what_cannot_be_used(self):
        """R19: unreadable, indirect, and lists with a critical extension that is not understood are complained of."""
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
        twice = with_extension(x509.CRLNumber(1), x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.99"), b"\2\1\1"))
        twice = twice.replace(bytes.fromhex("0603551d63"), bytes.fromhex("0603551d14"))
        odd_point = x509.UnrecognizedExtension(x509.IssuingDistributionPoint.oid, bytes.fromhex("3006a004a002a300"))
        for data in (
            b"junk", with_extension(unknown), with_extension(distribution_point(indirect_crl=True)),
            with_extension(x509.DeltaCRLIndicator(1)), twice, with_extension(odd_point),
        ):
            found = RevocationLists.parse(data)
            self.assertEqual((0, 1), (len(found), len(found.complaints)))
            self.assertIn("revocation list 1 cannot be used", found.complaints[0])

    def test_partitioned_lists(self):
        """R19: a list for a part of an authority's certificates revokes what it lists, whatever else it says uncritically."""
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
        self.assertEqual(1, len(RevocationLists.parse(with_extension(x509.CRLNumber(1), unknown, critical=False))))
        self.assertEqual(1, len(RevocationLists.parse(with_extension(distribution_point(only_contains_user_certs=True)))))
