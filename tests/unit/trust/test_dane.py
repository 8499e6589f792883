"""Tests of DANE (R22)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.trial.unittest import SynchronousTestCase

import s2sgw.trust.der as wire
from s2sgw.trust.dane import (
    CERTIFICATE,
    DANE_EE,
    DANE_TA,
    FULL,
    PKIX_EE,
    PKIX_TA,
    PUBLIC_KEY,
    REASONS_TOLD,
    RECORDS,
    RECORDS_TRIED,
    SHA_256,
    SHA_512,
    prove_dane,
    usable,
)
from s2sgw.trust.evidence import TLSA, Attempt, Evidence, Role, TLSALookup
from s2sgw.trust.path import Anchors, PresentedChain
from s2sgw.trust.proofs import prove_pkix
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import (
    AT,
    Authority,
    Issued,
    der,
    dns_constraints,
    leaf_for,
    self_signed,
    shared_issuer,
    shared_root,
)

TARGET = "xmpp.host.example"
ANCHORS = Anchors([shared_root().certificate])
OTHER = Authority.root("Other Root")
DIGESTS: dict[int, Callable[[bytes], bytes]] = {
    FULL: bytes, SHA_256: lambda data: hashlib.sha256(data).digest(), SHA_512: lambda data: hashlib.sha512(data).digest(),
}


def record(certificate: bytes, usage: int, selector: int = PUBLIC_KEY, matching: int = SHA_256) -> TLSA:
    data = certificate if selector == CERTIFICATE else wire.fields(certificate).public_key_info
    return TLSA(usage, selector, matching, DIGESTS[matching](data))


def evidence(issued: Issued | None, *records: TLSA, role: Role = "receiving", **options) -> Evidence:
    lookup = TLSALookup(TARGET, records, secure=True, addresses_secure=True)
    chain = issued.der_chain if issued else ()
    return Evidence(Domain.parse("a.example"), role, AT, chain, target=TARGET, tlsa=(replace(lookup, **options),))


def prove(issued: Issued | None, *records: TLSA, anchors: Anchors = ANCHORS, **options) -> Attempt:
    attempt = prove_dane(evidence(issued, *records, **options), anchors)
    assert attempt.method == "dane"
    assert attempt.proven is (attempt.cause is None)
    return attempt


class EndEntityTests(SynchronousTestCase):
    def test_every_selector_and_matching_type(self):
        """R22: usage 3 matches certificate or key, in full or by digest. Another certificate does not match."""
        for selector in (CERTIFICATE, PUBLIC_KEY):
            for matching in (FULL, SHA_256, SHA_512):
                wanted = record(leaf_for("a.example").der, DANE_EE, selector, matching)
                self.assertTrue(prove(leaf_for("a.example"), wanted).proven)
                self.assertEqual(Cause.DANE_MISMATCH, prove(leaf_for("b.example"), wanted).cause)

    def test_neither_name_nor_date(self):
        """R22: usage 3 does not check the certificate's names, dates and issuer (RFC 7671 §5.1)."""
        issued = self_signed(dns=["other.example"], not_after=AT - timedelta(days=1))
        self.assertTrue(prove(issued, record(issued.der, DANE_EE)).proven)

    def test_only_the_leaf(self):
        """R22: usage 3 does not match an authority in the chain."""
        self.assertFalse(prove(leaf_for("a.example"), record(shared_issuer().der, DANE_EE)).proven)

    def test_with_pkix(self):
        """R22: usage 1 needs PKIX as well: a trusted chain, a name, a date."""
        good = leaf_for("a.example")
        self.assertTrue(prove(good, record(good.der, PKIX_EE)).proven)
        self.assertFalse(prove(leaf_for("c.example"), record(good.der, PKIX_EE)).proven)
        for bad in (
            self_signed(dns=["a.example"]), leaf_for("b.example"), shared_issuer().issue(dns=["a.example"], not_after=AT - timedelta(days=1)),
            OTHER.issue(dns=["a.example"]),
        ):
            self.assertEqual(Cause.DANE_MISMATCH, prove(bad, record(bad.der, PKIX_EE)).cause)


class TrustAnchorTests(SynchronousTestCase):
    def test_an_authority_of_its_own(self):
        """R22: usage 2 makes an anchor of an otherwise unknown authority. It must be among the presented certificates."""
        leaf = OTHER.issue(dns=["a.example"])
        presented = leaf.with_chain(OTHER.certificate)
        for selector in (CERTIFICATE, PUBLIC_KEY):
            for matching in (FULL, SHA_256, SHA_512):
                self.assertTrue(prove(presented, record(OTHER.der, DANE_TA, selector, matching)).proven)
        self.assertFalse(prove(leaf, record(OTHER.der, DANE_TA)).proven)
        absent = prove(presented, record(shared_root().der, DANE_TA))
        self.assertIn("is no authority's of the chain", absent.reasons[0])

    def test_an_authority_in_the_record(self):
        """R22: if the record is the whole certificate, it need not be presented."""
        self.assertTrue(prove(OTHER.issue(dns=["a.example"]), record(OTHER.der, DANE_TA, CERTIFICATE, FULL)).proven)
        self.assertFalse(prove(OTHER.issue(dns=["a.example"]), TLSA(DANE_TA, CERTIFICATE, FULL, b"junk")).proven)

    def test_an_intermediate(self):
        """R22: usage 2 may name an intermediate. The authorities above it do not matter."""
        lower = OTHER.intermediate("Lower")
        self.assertTrue(prove(lower.issue(dns=["a.example"]), record(lower.der, DANE_TA)).proven)

    def test_names_and_dates(self):
        """R22: usage 2 needs a valid path and a name: the domain, or the target as dNSName."""
        wanted = record(OTHER.der, DANE_TA)
        for kind in ("dns", "xmpp", "srv"):
            self.assertTrue(prove(_named(kind, "a.example"), wanted).proven, kind)
        self.assertTrue(prove(_named("dns", TARGET), wanted).proven)
        for kind, domain in (("dns", "b.example"), ("xmpp", TARGET), ("srv", TARGET)):
            self.assertEqual(Cause.DANE_MISMATCH, prove(_named(kind, domain), wanted).cause)
        expired = OTHER.issue(dns=["a.example"], not_after=AT - timedelta(days=1)).with_chain(OTHER.certificate)
        self.assertIn("expired", prove(expired, wanted).reasons[0])

    def test_the_leaf_is_no_authority(self):
        """R22: a leaf that matches a usage 2 record is not proven by it."""
        issued = self_signed(dns=["a.example"])
        self.assertFalse(prove(issued, record(issued.der, DANE_TA)).proven)

    def test_constraints(self):
        """R17: the name constraints of a DANE authority apply to xmppAddr too."""
        bound = OTHER.intermediate("Bound", constraints=dns_constraints(["b.example"]))
        self.assertFalse(prove(bound.issue(xmpp=["a.example"]), record(bound.der, DANE_TA)).proven)

    def test_with_pkix(self):
        """R22: usage 0 limits PKIX to an authority that must be on the path."""
        good = leaf_for("a.example")
        for authority in (shared_issuer(), shared_root()):
            self.assertTrue(prove(good, record(authority.der, PKIX_TA)).proven)
        beside = good.with_chain(shared_issuer().certificate, OTHER.certificate)
        self.assertFalse(prove(beside, record(OTHER.der, PKIX_TA)).proven)
        self.assertFalse(prove(good, record(good.der, PKIX_TA)).proven)
        stranger = OTHER.issue(dns=["a.example"]).with_chain(OTHER.certificate)
        self.assertFalse(prove(stranger, record(OTHER.der, PKIX_TA)).proven)

    def test_uncertain_path(self):
        """R22: usage 0 proves nothing if the path is not exactly known. Usage 2 has its anchor all the same."""
        names = der(0x30, der(0x82, b"a.example") + der(0x87, b"123"))
        self.assertFalse(prove(shared_issuer().issue(san_der=names), record(shared_issuer().der, PKIX_TA)).proven)
        self.assertTrue(prove(shared_issuer().issue(san_der=names), record(shared_issuer().der, DANE_TA)).proven)


def _named(kind: str, domain: str) -> Issued:
    options: dict[str, list[str]] = {kind: [domain]}
    return OTHER.issue(**options).with_chain(OTHER.certificate)  # type: ignore[arg-type]


class UsableTests(SynchronousTestCase):
    def test_what_cannot_be_used(self):
        """R22: records with unknown parameters, or with invalid data, are ignored."""
        good = record(leaf_for("a.example").der, DANE_EE)
        bad = [
            replace(good, usage=4), replace(good, usage=255), replace(good, selector=2), replace(good, matching=3),
            replace(good, data=good.data[:-1]), replace(good, data=b""), replace(good, matching=SHA_512), replace(good, matching=FULL, data=b""),
        ]
        self.assertEqual([good], usable([*bad, good]))
        attempt = prove(leaf_for("a.example"), *bad)
        self.assertEqual((Cause.NOT_PROVEN, False), (attempt.cause, attempt.veto))
        self.assertIn("none that can be used", attempt.reasons[0])

    def test_strongest_digest(self):
        """Of several digests for a usage and selector only the strongest counts. Data in full always does (RFC 7671 §9)."""
        leaf = leaf_for("a.example").der
        weak, strong, full = (record(leaf, DANE_EE, PUBLIC_KEY, matching) for matching in (SHA_256, SHA_512, FULL))
        self.assertEqual([strong, full], usable([weak, strong, full]))
        self.assertEqual([weak, full], usable([weak, full]))
        elsewhere = record(leaf, DANE_EE, CERTIFICATE, SHA_512)
        self.assertEqual([weak, elsewhere], usable([weak, elsewhere]))
        stale = record(leaf_for("b.example").der, DANE_EE, PUBLIC_KEY, SHA_512)
        self.assertFalse(prove(leaf_for("a.example"), weak, stale).proven)

    def test_bounded(self):
        """The number of records of a target that are used is bounded."""
        good = record(leaf_for("a.example").der, DANE_EE)
        self.assertEqual(RECORDS, len(usable([good] * (RECORDS + 10))))


class BoundTests(SynchronousTestCase):
    """Tests of the cost of a stranger's records, counted: docs/trust.md."""

    def searched(self, issued: Issued, *lookups: TLSALookup) -> tuple[PresentedChain, Attempt]:
        presented = PresentedChain(issued.der_chain)
        inbound = Evidence(Domain.parse("a.example"), "initiating", AT, issued.der_chain, tlsa=lookups)
        return presented, prove_dane(inbound, ANCHORS, presented=presented)

    def test_records_cost_nothing(self):
        """R22: hundreds of records that need PKIX cost one path search, the same that PKIX itself needs."""
        usages = (PKIX_TA, DANE_TA, PKIX_EE)
        lookups = [
            TLSALookup(f"t{number}.example", tuple(
                TLSA(usages[each % 3], PUBLIC_KEY, SHA_256, DIGESTS[SHA_256](b"%d %d" % (number, each))) for each in range(RECORDS)
            ), secure=True) for number in range(8)
        ]
        presented, attempt = self.searched(leaf_for("a.example"), *lookups)
        self.assertEqual((False, Cause.DANE_MISMATCH), (attempt.proven, attempt.cause))
        self.assertEqual((1, 2), (presented.path_searches, presented.signature_checks))
        self.assertEqual(REASONS_TOLD + 1, len(attempt.reasons))
        self.assertIn(f"{8 * RECORDS - REASONS_TOLD} more TLSA records", attempt.reasons[-1])
        prove_pkix(Evidence(Domain.parse("a.example"), "initiating", AT, presented.encoded), ANCHORS, presented=presented)
        self.assertEqual(1, presented.path_searches)

    def test_the_right_one_among_many(self):
        """R22: the record for the certificate is tried first, wherever it is in the list."""
        leaf = leaf_for("a.example")
        others = tuple(TLSA(DANE_EE, PUBLIC_KEY, SHA_256, DIGESTS[SHA_256](b"%d" % number)) for number in range(RECORDS_TRIED + 8))
        for usage in (PKIX_EE, DANE_EE):
            right = record(leaf.der, usage)
            self.assertTrue(self.searched(leaf, TLSALookup("t.example", (*others, right), secure=True))[1].proven)

    def test_authorities_share_a_search(self):
        """R22: all authorities in DANE-TA records are anchors of one search, whichever target they belong to."""
        authorities = [OTHER]
        for number in range(5):
            authorities.append(authorities[-1].intermediate(f"Level {number}"))
        issued = authorities[-1].issue(dns=["two.example"])
        wanted = tuple(record(each.der, DANE_TA) for each in reversed(authorities[1:]))
        one, two = (TLSALookup(target, wanted, secure=True) for target in ("one.example", "two.example"))
        presented, attempt = self.searched(issued, one, two)
        self.assertTrue(attempt.proven, attempt.reasons)
        self.assertEqual(1, presented.path_searches)
        presented, attempt = self.searched(issued, one)
        self.assertEqual((False, 0), (attempt.proven, presented.path_searches))

    def test_unfit_authorities(self):
        """R22: an authority with an expensive key, presented or in the record, is not made an anchor."""
        weak = Authority.root("Weak", key=ec.generate_private_key(ec.BrainpoolP512R1()))
        issued = weak.issue(dns=["a.example"])
        presented, attempt = self.searched(issued.with_chain(weak.certificate), TLSALookup(
            "t.example", (record(weak.der, DANE_TA), record(weak.der, DANE_TA, CERTIFICATE, FULL)), secure=True,
        ))
        self.assertEqual((False, 0), (attempt.proven, presented.signature_checks))


class OutboundTests(SynchronousTestCase):
    """Tests of a receiving peer: we connected to `TARGET`."""

    def test_one_of_several(self):
        """R22: one matching record is sufficient."""
        leaf = leaf_for("a.example")
        self.assertTrue(prove(leaf, record(leaf_for("b.example").der, DANE_EE), record(leaf.der, DANE_EE)).proven)

    def test_veto(self):
        """R22: a secure, usable set without a match vetoes every other proof."""
        attempt = prove(leaf_for("a.example"), record(leaf_for("b.example").der, DANE_EE))
        self.assertEqual((Cause.DANE_MISMATCH, True), (attempt.cause, attempt.veto))
        self.assertIn("TLSA 3 1 1", attempt.reasons[0])

    def test_insecure(self):
        """R22: insecure or failed look-ups never count, for or against."""
        leaf = leaf_for("a.example")
        for options in ({"secure": False}, {"addresses_secure": False}, {"failure": "SERVFAIL"}, {"target": "other.example"}):
            for wanted in (leaf, leaf_for("b.example")):
                attempt = prove(leaf, record(wanted.der, DANE_EE), **options)
                self.assertEqual((Cause.NOT_PROVEN, False), (attempt.cause, attempt.veto), options)
                self.assertEqual(1, len(attempt.reasons))

    def test_nothing_to_compare(self):
        """Without records, a look-up, or a certificate there is no proof and no veto."""
        self.assertIn("has no TLSA records", prove(leaf_for("a.example")).reasons[0])
        self.assertIn("no DANE for xmpp.host.example: SERVFAIL", prove(leaf_for("a.example"), failure="SERVFAIL").reasons[0])
        self.assertEqual(Cause.NO_CERTIFICATE, prove(None, record(leaf_for("a.example").der, DANE_EE)).cause)
        plain = Evidence(Domain.parse("a.example"), "receiving", AT, leaf_for("a.example").der_chain)
        self.assertEqual(("no TLSA records were looked up",), prove_dane(plain, ANCHORS).reasons)

    def test_target_spelling(self):
        """The target is compared without regard to case and a trailing dot."""
        leaf = leaf_for("a.example")
        self.assertTrue(prove(leaf, record(leaf.der, DANE_EE), target=TARGET.upper() + ".").proven)

    def test_odd_target(self):
        """A target that is not a host name matches no name."""
        found = replace(evidence(_named("dns", "b.example"), record(OTHER.der, DANE_TA), target="..").tlsa[0])
        odd = Evidence(Domain.parse("a.example"), "receiving", AT, _named("dns", "b.example").der_chain, target="..", tlsa=(found,))
        self.assertEqual(Cause.DANE_MISMATCH, prove_dane(odd, ANCHORS).cause)

    def test_without_a_target(self):
        """Outbound, look-ups of targets that we did not connect to do not count."""
        leaf = leaf_for("a.example")
        untold = replace(evidence(leaf, record(leaf.der, DANE_EE)), target=None)
        self.assertEqual(Cause.NOT_PROVEN, prove_dane(untold, ANCHORS).cause)

    def test_unreadable_certificate(self):
        """Bytes that are not a certificate match only a record with their own digest."""
        junk = Evidence(Domain.parse("a.example"), "receiving", AT, (b"junk",), target=TARGET)
        wanted = TLSALookup(TARGET, (TLSA(DANE_EE, PUBLIC_KEY, SHA_256, DIGESTS[SHA_256](b"junk")),), True, True)
        self.assertFalse(prove_dane(replace(junk, tlsa=(wanted,)), ANCHORS).proven)


class InboundTests(SynchronousTestCase):
    """Tests of an initiating peer: any of its targets may be the one that connected."""

    def test_any_target(self):
        """R22: the records of any SRV target prove the peer. The addresses do not matter."""
        leaf = leaf_for("a.example")
        lookups = (
            TLSALookup("one.example", (record(leaf_for("b.example").der, DANE_EE),), secure=True),
            TLSALookup("two.example", (record(leaf.der, DANE_EE),), secure=True),
        )
        both = Evidence(Domain.parse("a.example"), "initiating", AT, leaf.der_chain, tlsa=lookups)
        self.assertTrue(prove_dane(both, ANCHORS).proven)

    def test_no_veto(self):
        """R22: inbound, a set without a match is no proof and no veto."""
        attempt = prove(leaf_for("a.example"), record(leaf_for("b.example").der, DANE_EE), role="initiating")
        self.assertEqual((Cause.DANE_MISMATCH, False), (attempt.cause, attempt.veto))

    def test_insecure(self):
        """R22: inbound too, records that DNSSEC does not secure never count."""
        leaf = leaf_for("a.example")
        for options in ({"secure": False}, {"failure": "bogus"}):
            self.assertEqual(Cause.NOT_PROVEN, prove(leaf, record(leaf.der, DANE_EE), role="initiating", **options).cause)
