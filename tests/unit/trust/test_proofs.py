"""Tests of proofs: a chain and a name (R13, R17–R21), a pin (R20), and `validate_peer` for outside suites."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.trust import validate_peer
from s2sgw.trust.evidence import Attempt, Evidence, Role
from s2sgw.trust.path import Anchors
from s2sgw.trust.pins import Fingerprint
from s2sgw.trust.proofs import PRECEDENCE, prove_pin, prove_pkix
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import (
    AT,
    Authority,
    Issued,
    der,
    dns_constraints,
    leaf_for,
    new_key,
    rsa_key,
    self_signed,
    shared_issuer,
    shared_root,
)

PAST = AT - timedelta(days=1)
ANCHORS = Anchors([shared_root().certificate])
UNREADABLE = der(0x87, b"123")


def evidence(issued: Issued | None, domain: str = "a.example", role: Role = "receiving", **options) -> Evidence:
    return Evidence(Domain.parse(domain), role, AT, issued.der_chain if issued else (), **options)


def named(authority: Authority, kind: str, domain: str = "a.example") -> Issued:
    """Return a leaf whose only name is `domain`, as dns, xmpp or srv."""
    options: dict[str, Any] = {kind: [domain]}
    return authority.issue(**options)


def pkix(issued: Issued | None, domain: str = "a.example", **options) -> Attempt:
    return prove_pkix(evidence(issued, domain), ANCHORS, **options)


class PKIXTests(SynchronousTestCase):
    def test_proven(self):
        """R19: a trusted chain and a name that matches prove the peer, in either role."""
        roles: tuple[Role, ...] = ("initiating", "receiving")
        for role in roles:
            attempt = prove_pkix(evidence(leaf_for("a.example"), role=role), ANCHORS)
            self.assertEqual(("pkix", True, None, ()), (attempt.method, attempt.proven, attempt.cause, attempt.causes))
            self.assertIn("dNSName a.example matches", attempt.reasons[0])

    def test_each_kind_of_name(self):
        """R17: one name of any kind is sufficient."""
        for kind in ("dns", "xmpp", "srv"):
            self.assertTrue(pkix(named(shared_issuer(), kind)).proven, kind)

    def test_no_certificate(self):
        """The absence of a certificate is reported."""
        self.assertEqual(Attempt("pkix", False, Cause.NO_CERTIFICATE, ("no certificate was presented",), (Cause.NO_CERTIFICATE,)), pkix(None))

    def test_name_mismatch(self):
        """R19: a good chain for another domain proves nothing, and its names are listed."""
        attempt = pkix(leaf_for("b.example"))
        self.assertEqual((False, Cause.NAME_MISMATCH), (attempt.proven, attempt.cause))
        self.assertIn("names dNSName b.example, but not a.example", attempt.reasons[0])

    def test_common_name(self):
        """R17: a common name alone proves nothing."""
        attempt = pkix(shared_issuer().issue(common_name="a.example"))
        self.assertEqual((Cause.NAME_MISMATCH,), attempt.causes)

    def test_bad_chain_with_a_good_name(self):
        """R19: a name on an untrusted chain proves nothing."""
        attempt = pkix(self_signed(dns=["a.example"]))
        self.assertEqual((False, Cause.SELF_SIGNED, (Cause.SELF_SIGNED,)), (attempt.proven, attempt.cause, attempt.causes))

    def test_both_failing(self):
        """R19: for an expired certificate with a wrong name both faults are given."""
        attempt = pkix(shared_issuer().issue(dns=["b.example"], not_after=PAST))
        self.assertEqual((Cause.EXPIRED, Cause.NAME_MISMATCH), attempt.causes)
        self.assertEqual(2, len(attempt.reasons))

    def test_order_of_causes(self):
        """R20: faults that no approval can remedy precede the unknown issuer, and that precedes the name."""
        stranger = Authority.root("Stranger").issue(dns=["b.example"], not_after=PAST, key=rsa_key(1024))
        self.assertEqual((Cause.EXPIRED, Cause.WEAK_KEY, Cause.UNKNOWN_ISSUER, Cause.NAME_MISMATCH), pkix(stranger).causes)
        self.assertEqual((Cause.SELF_SIGNED, Cause.NAME_MISMATCH), pkix(self_signed(dns=["b.example"])).causes)

    def test_malformed_names_are_told(self):
        """R17: malformed names beside a good one have no effect. If none matches they are among the reasons."""
        good = der(0x82, b"a.example")
        bad = der(0x82, b"a.example\0.evil.example")
        self.assertTrue(pkix(shared_issuer().issue(san_der=der(0x30, bad + good + UNREADABLE))).proven)
        attempt = pkix(shared_issuer().issue(san_der=der(0x30, bad)))
        self.assertEqual(Cause.NAME_MISMATCH, attempt.cause)
        self.assertIn("is malformed", attempt.reasons[1])

    def test_insisting_on_xmpp_addr(self):
        """R17: if the policy requires it, an xmppAddr that differs overrides a dNSName that matches."""
        issued = shared_issuer().issue(dns=["a.example"], xmpp=["b.example"])
        self.assertTrue(pkix(issued).proven)
        self.assertEqual(Cause.NAME_MISMATCH, pkix(issued, insist_on_xmpp_addr=True).cause)

    def test_name_constraints_bind_xmpp_names(self):
        """R17: constraints on dNSName apply to the domain of an xmppAddr and of an SRV-ID."""
        bound = shared_root().intermediate("Bound", constraints=dns_constraints(["b.example"]))
        for kind in ("xmpp", "srv"):
            attempt = pkix(named(bound, kind))
            self.assertEqual(Cause.NAME_MISMATCH, attempt.cause)
            self.assertIn("outside the name constraints", attempt.reasons[-1])
            self.assertTrue(pkix(named(bound, kind, "x.b.example"), "x.b.example").proven)

    def test_name_constraints_of_an_anchor(self):
        """R17: constraints of the anchor itself apply too."""
        root = Authority.root("Bound Root", constraints=dns_constraints((), ["a.example"]))
        attempt = prove_pkix(evidence(root.issue(xmpp=["a.example"])), Anchors([root.certificate]))
        self.assertEqual(Cause.NAME_MISMATCH, attempt.cause)

    def test_name_constraints_beside_an_unreadable_name(self):
        """R17: a malformed name does not remove the constraints."""
        bound = shared_root().intermediate("Bound", constraints=dns_constraints(["b.example"]))
        oid = bytes.fromhex("06082b06010505070805")
        name = der(0xA0, oid + der(0xA0, der(0x0C, b"a.example")))
        self.assertTrue(pkix(shared_issuer().issue(san_der=der(0x30, name + UNREADABLE))).proven)
        self.assertEqual(Cause.NAME_MISMATCH, pkix(bound.issue(san_der=der(0x30, name + UNREADABLE))).cause)

    def test_srv_target_is_no_identity(self):
        """R13: the name of an SRV target proves nothing by itself."""
        for secure in (False, True):
            attempt = prove_pkix(evidence(leaf_for("host.example"), target="host.example", target_secure=secure), ANCHORS)
            self.assertEqual(Cause.NAME_MISMATCH, attempt.cause)

    def test_secure_delegation(self):
        """R13: it does if DNSSEC secured it, the policy permits it, and we opened the connection; by dNSName only."""
        def delegated(issued: Issued, role: Role = "receiving", **options) -> bool:
            defaults = {"target": "host.example", "target_secure": True}
            return prove_pkix(evidence(issued, role=role, **{**defaults, **options}), ANCHORS, secure_delegation=True).proven

        self.assertTrue(delegated(leaf_for("host.example")))
        self.assertTrue(delegated(leaf_for("host.example"), target="host.example."))
        self.assertTrue(delegated(leaf_for("a.example")))
        self.assertFalse(delegated(leaf_for("host.example"), target_secure=False))
        self.assertFalse(delegated(leaf_for("host.example"), role="initiating"))
        self.assertFalse(delegated(leaf_for("host.example"), target=None))
        self.assertFalse(delegated(leaf_for("host.example"), target="."))
        self.assertFalse(delegated(leaf_for("other.example")))
        self.assertFalse(delegated(shared_issuer().issue(xmpp=["host.example"])))
        self.assertFalse(delegated(self_signed(dns=["host.example"])))


class PinTests(SynchronousTestCase):
    def test_pinned(self):
        """R20: the pinned key proves the peer, whatever its certificate's issuer, dates and names."""
        for issued in (leaf_for("a.example"), self_signed(dns=["b.example"], not_after=PAST), self_signed(ca=True)):
            attempt = prove_pin(evidence(issued), {Fingerprint.of(issued.der), Fingerprint(bytes(32))})
            self.assertEqual(("pin", True, None), (attempt.method, attempt.proven, attempt.cause))

    def test_changed_key(self):
        """R20: another key is a mismatch that names both keys."""
        pin = Fingerprint(bytes(32))
        attempt = prove_pin(evidence(leaf_for("a.example")), [pin])
        self.assertEqual((False, Cause.PIN_MISMATCH, (Cause.PIN_MISMATCH,)), (attempt.proven, attempt.cause, attempt.causes))
        self.assertIn(str(pin), attempt.reasons[0])
        self.assertIn(str(Fingerprint.of(leaf_for("a.example").der)), attempt.reasons[0])

    def test_only_the_leaf_counts(self):
        """R20: a pinned key of an authority in the chain proves nothing."""
        attempt = prove_pin(evidence(leaf_for("a.example")), [Fingerprint.of(shared_issuer().der)])
        self.assertEqual(Cause.PIN_MISMATCH, attempt.cause)

    def test_nothing_to_compare(self):
        """Without pins, without a certificate, or with an unreadable one no mismatch is reported."""
        pin = Fingerprint(bytes(32))
        self.assertEqual(Cause.NOT_PROVEN, prove_pin(evidence(leaf_for("a.example")), []).cause)
        self.assertEqual(Cause.NO_CERTIFICATE, prove_pin(evidence(None), [pin]).cause)
        junk = Evidence(Domain.parse("a.example"), "receiving", AT, (b"junk",))
        self.assertEqual(Cause.BAD_CHAIN, prove_pin(junk, [pin]).cause)


class ValidatePeerTests(SynchronousTestCase):
    def test_shapes(self):
        """The chain and the anchors may be PEM texts, DER bytes, or mixed. Anchors may also be an `Anchors` object."""
        leaf = leaf_for("a.example")
        for chain in (leaf.pem_chain, leaf.der_chain, [leaf.pem_chain], [leaf.der, shared_issuer().pem]):
            for anchors in (shared_root().pem, [shared_root().der], ANCHORS):
                self.assertTrue(validate_peer(chain, anchors, "a.example", AT).proven)

    def test_refusals(self):
        """The answer has the cause and the reasons of a refusal."""
        attempt = validate_peer(leaf_for("b.example").pem_chain, shared_root().pem, "a.example", NEVER, "initiating")
        self.assertEqual((Cause.EXPIRED, Cause.NAME_MISMATCH), attempt.causes)
        self.assertEqual(Cause.UNKNOWN_ISSUER, validate_peer(leaf_for("a.example").pem_chain, b"", "a.example", AT).cause)
        self.assertEqual(Cause.NO_CERTIFICATE, validate_peer([], shared_root().pem, "a.example", AT).cause)
        self.assertEqual(Cause.BAD_CHAIN, validate_peer(b"junk", shared_root().pem, "a.example", AT).cause)

    def test_options(self):
        """The policy's requirement of an xmppAddr can be set too."""
        issued = shared_issuer().issue(dns=["a.example"], xmpp=["b.example"], key=new_key())
        self.assertTrue(validate_peer(issued.pem_chain, shared_root().pem, "a.example", AT).proven)
        self.assertFalse(validate_peer(issued.pem_chain, shared_root().pem, "a.example", AT, insist_on_xmpp_addr=True).proven)

    def test_no_domain(self):
        """An invalid domain matches no name. The chain's other faults are reported as well."""
        leaf = leaf_for("a.example").pem_chain
        self.assertEqual((Cause.NAME_MISMATCH,), validate_peer(leaf, shared_root().pem, "xn--☃.example", AT).causes)
        self.assertEqual((Cause.UNKNOWN_ISSUER, Cause.NAME_MISMATCH), validate_peer(leaf, b"", "no domain", AT).causes)

    def test_bad_arguments(self):
        """An error of the caller raises."""
        leaf = leaf_for("a.example").pem_chain
        self.assertRaises(ValueError, validate_peer, leaf, b"", "a.example", AT.replace(tzinfo=None))


NEVER = AT + timedelta(days=365 * 100)


class DocumentationTests(SynchronousTestCase):
    document = (Path(__file__).resolve().parents[3] / "docs" / "trust.md").read_text(encoding="utf-8")

    def test_the_example_runs(self):
        """The example of docs/trust.md works as documented."""
        example = self.document.partition("```python\n")[2].partition("```")[0].replace("example.org", "a.example")
        said: list[tuple[object, ...]] = []
        leaf = leaf_for("a.example")
        exec(example, {"chain": leaf.pem_chain, "anchors": shared_root().pem, "print": lambda *words, **_options: said.append(words)})
        self.assertEqual((True, None, ()), said[0])

    def test_every_cause_is_told(self):
        """docs/trust.md lists each cause of a refusal, in order."""
        rows = [line for line in self.document.splitlines() if line.startswith("| `")]
        told = [word.strip("`") for row in rows for word in row.split("|")[1].strip().split(", ")]
        self.assertEqual([cause.value for cause in PRECEDENCE], [word for word in told if word in set(PRECEDENCE)])
