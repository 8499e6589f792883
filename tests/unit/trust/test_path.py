"""Tests of path validation (R19, R21)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from unittest.mock import Mock

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.trust import path
from s2sgw.trust.path import (
    CHAIN_CERTIFICATES,
    DEAR_CHECKS,
    NAMESAKES,
    PATH_DEPTH,
    SIGNATURE_CHECKS,
    Anchors,
    PathResult,
    PresentedChain,
    RecentChains,
    validate,
)
from s2sgw.xmpp.ending import Cause
from tests.support.certificates import (
    AT,
    BOTH,
    CLIENT_AUTH,
    NOT_AFTER,
    NOT_BEFORE,
    SERVER_AUTH,
    SHA1_WITH_ECDSA,
    Authority,
    Issued,
    der,
    dns_constraints,
    leaf_for,
    new_key,
    resigned,
    rsa_key,
    self_signed,
    shared_issuer,
    shared_root,
    usage,
    xmpp_addr,
)

DNS = ["a.example"]
PAST = AT - timedelta(days=1)
FUTURE = AT + timedelta(days=1)
EMAIL = ExtendedKeyUsageOID.EMAIL_PROTECTION
ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
#: A subjectAltName with a good name and an iPAddress of three bytes, which the library cannot return.
UNREADABLE = der(0x30, der(0x82, b"a.example") + der(0x87, b"123"))


@cache
def anchors() -> Anchors:
    return Anchors([shared_root().certificate])


def causes(issued: Issued, at=AT, trusted: Anchors | None = None) -> list[Cause]:
    """Return the causes found for a leaf with its chain, in their order."""
    return [failure.cause for failure in check(issued, at, trusted).failures]


def check(issued: Issued, at=AT, trusted: Anchors | None = None) -> PathResult:
    result = validate(issued.der_chain, anchors() if trusted is None else trusted, at)
    assert result.valid is not bool(result.failures)
    return result


def leaf(**options) -> Issued:
    return shared_issuer().issue(dns=DNS, **options)


class GoodPathTests(SynchronousTestCase):
    def test_path(self):
        """R19: a chain to a trusted anchor is valid, and the path goes from the leaf to the anchor."""
        result = check(leaf_for("a.example"))
        self.assertTrue(result.valid)
        expected = [leaf_for("a.example").certificate, shared_issuer().certificate, shared_root().certificate]
        self.assertEqual(expected, [each.certificate for each in result.path])

    def test_order_and_strangers(self):
        """Authorities may be in any order, with the root among them, and with unneeded certificates."""
        lower = shared_issuer().intermediate("Lower")
        issued = lower.issue(dns=DNS)
        stranger = Authority.root("Stranger").certificate
        issued = issued.with_chain(stranger, shared_root().certificate, shared_issuer().certificate, lower.certificate)
        self.assertTrue(check(issued).valid)

    def test_unreadable_strangers(self):
        """Authorities that cannot be read are skipped."""
        chain = [leaf_for("a.example").der, b"junk", shared_issuer().der]
        self.assertTrue(validate(chain, anchors(), AT).valid)

    def test_intermediate_as_anchor(self):
        """An anchor need not be self-signed."""
        self.assertTrue(check(leaf_for("a.example"), trusted=Anchors([shared_issuer().certificate])).valid)

    def test_trusted_leaf(self):
        """A self-signed certificate that is itself an anchor is valid."""
        issued = self_signed(dns=DNS)
        self.assertTrue(check(issued, trusted=Anchors([issued.certificate])).valid)

    def test_borders_of_validity(self):
        """R19: the first and the last second of validity are included."""
        for at in (NOT_BEFORE, NOT_AFTER, NOT_AFTER + timedelta(milliseconds=999)):
            self.assertEqual([], causes(leaf_for("a.example"), at))

    def test_authority_without_key_usage(self):
        """R19: the key usage of an authority is checked if it is present, according to RFC 5280 §6.1.4."""
        self.assertEqual([], causes(shared_root().intermediate("I", key_usage=()).issue(dns=DNS)))

    def test_without_names(self):
        """A certificate without subjectAltName has a valid path. Its names are checked elsewhere."""
        self.assertTrue(check(shared_issuer().issue(common_name="a.example")).valid)

    def test_key_kinds(self):
        """R19: RSA from 2048 bits, EC from 256 bits, Ed25519 and Ed448 are strong enough."""
        for key in (
            rsa_key(2048), ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP521R1()),
            ed25519.Ed25519PrivateKey.generate(), ed448.Ed448PrivateKey.generate(),
        ):
            self.assertEqual([], causes(leaf(key=key)))

    def test_usages(self):
        """R21: serverAuth alone, clientAuth alone, both, any or none are accepted, in the leaf and in its authority."""
        for eku in ((SERVER_AUTH,), (CLIENT_AUTH,), BOTH, (ANY,), (), (EMAIL, SERVER_AUTH)):
            self.assertEqual([], causes(leaf(eku=eku)), eku)
            self.assertEqual([], causes(shared_root().intermediate("I", eku=eku).issue(dns=DNS)), eku)

    def test_without_key_usage(self):
        """Without a key usage extension every usage is permitted."""
        key = new_key()
        builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(shared_root().certificate.subject)
        builder = builder.public_key(key.public_key()).serial_number(1).not_valid_before(NOT_BEFORE).not_valid_after(NOT_AFTER)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(shared_root().key.public_key()), False)
        certificate = builder.sign(shared_root().key, hashes.SHA256())
        self.assertEqual([], causes(Issued(certificate, key, (certificate,))))


class LeafTests(SynchronousTestCase):
    def test_no_certificate(self):
        """An empty chain has a cause of its own."""
        self.assertEqual([Cause.NO_CERTIFICATE], [f.cause for f in validate((), anchors(), AT).failures])

    def test_unreadable(self):
        """A leaf that cannot be read is a bad chain."""
        for junk in (b"", b"junk", leaf_for("a.example").der[:-1], leaf_for("a.example").der + b"\0"):
            self.assertEqual([Cause.BAD_CHAIN], [f.cause for f in validate([junk], anchors(), AT).failures])

    def test_dates(self):
        """R19: an expired certificate and one not yet valid have different causes, with the date."""
        result = check(leaf(not_after=PAST))
        self.assertEqual([Cause.EXPIRED], [f.cause for f in result.failures])
        self.assertIn("expired on 2026-05-31 12:00:00 UTC", result.failures[0].text)
        self.assertEqual([Cause.NOT_YET_VALID], causes(leaf(not_before=FUTURE)))

    def test_weak_keys(self):
        """R19: the leaf's own key is checked too, which the library does not do."""
        for key in (rsa_key(1024), ec.generate_private_key(ec.SECP224R1()), dsa.generate_private_key(1024)):
            self.assertEqual([Cause.WEAK_KEY], causes(leaf(key=key)))

    def test_unknown_key(self):
        """A key of an unknown kind is not strong."""
        known = bytes.fromhex("06072a8648ce3d020106082a8648ce3d030107")
        for unknown in ("06072a8648ce3d020906082a8648ce3d030107", "06072a8648ce3d020106082a8648ce3d030109"):
            forged = leaf_for("a.example").der.replace(known, bytes.fromhex(unknown))
            found = [failure.cause for failure in validate([forged, *leaf_for("a.example").der_chain[1:]], anchors(), AT).failures]
            self.assertIn(Cause.WEAK_KEY, found)

    def test_wrong_usages(self):
        """R21: usages without serverAuth, clientAuth or any are refused, and so is a key usage without signatures."""
        self.assertEqual([Cause.WRONG_USAGE], causes(leaf(eku=(EMAIL,))))
        self.assertEqual([Cause.WRONG_USAGE], causes(leaf(key_usage=usage(key_agreement=True))))
        self.assertEqual([Cause.WRONG_USAGE] * 2, causes(leaf(eku=(EMAIL,), key_usage=usage(key_encipherment=True))))

    def test_unreadable_usages(self):
        """Usages that cannot be read do not count as absent."""
        junk = [(x509.UnrecognizedExtension(x509.ExtendedKeyUsage.oid, b"junk"), False)]
        self.assertIn(Cause.BAD_CHAIN, causes(leaf(eku=(), extra=junk)))

    def test_authority_as_leaf(self):
        """A certificate that may issue others is not a leaf (docs/decisions.md#evidence). Only a pin may permit it."""
        key = leaf(ca=True, key_usage=usage(digital_signature=True, key_cert_sign=True))
        self.assertEqual([Cause.BAD_CHAIN], causes(key))

    def test_critical_extension(self):
        """R19: an unknown critical extension makes the certificate invalid. An uncritical one does not."""
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
        self.assertEqual([Cause.BAD_CHAIN], causes(leaf(extra=[(unknown, True)])))
        self.assertEqual([], causes(leaf(extra=[(unknown, False)])))

    def test_everything_at_once(self):
        """R19: each fault of the leaf is reported, and also its unknown issuer."""
        stranger = Authority.root("Stranger").issue(dns=DNS, not_after=PAST, eku=(EMAIL,), key=rsa_key(1024))
        self.assertEqual([Cause.EXPIRED, Cause.WEAK_KEY, Cause.WRONG_USAGE, Cause.UNKNOWN_ISSUER], causes(stranger))


    def test_an_extension_twice(self):
        """R19: any repeated extension makes the chain bad."""
        for oid, value in (("11", der(0x30, der(0x82, b"b.example"))), ("25", bytes.fromhex("300a06082b06010505070301"))):
            other = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.18"), value)
            edit = (bytes.fromhex("0603551d12"), bytes.fromhex("0603551d" + oid))
            issued = leaf(extra=[(other, False)])
            certificate = resigned(issued.certificate, shared_issuer().key, edit=edit)
            self.assertIn(Cause.BAD_CHAIN, causes(Issued(certificate, issued.key, (certificate, *issued.chain[1:]))))

    def test_signed_anew(self):
        """The test above relies on this: a certificate that is signed anew without a change is good."""
        certificate = resigned(leaf_for("a.example").certificate, shared_issuer().key)
        self.assertEqual([], causes(Issued(certificate, new_key(), (certificate, shared_issuer().certificate))))


class ChainTests(SynchronousTestCase):
    def test_self_signed(self):
        """R20: self-signed has its own cause, different from an unknown issuer, whether the leaf claims to be an authority or not."""
        for ca in (False, True):
            issued = self_signed(dns=DNS, ca=ca, key_usage=usage(digital_signature=True))
            self.assertEqual([Cause.SELF_SIGNED], causes(issued))
            self.assertEqual([Cause.SELF_SIGNED], causes(issued, trusted=Anchors()))

    def test_named_like_its_issuer(self):
        """A certificate issued under its own name by another key is not self-signed."""
        issued = self_signed(dns=DNS, signed_by=new_key())
        self.assertEqual([Cause.UNKNOWN_ISSUER], causes(issued))

    def test_unknown_issuer(self):
        """R20: for a chain that ends elsewhere, or is incomplete, the last issuer is named."""
        stranger = Authority.root("Stranger")
        issued = stranger.intermediate("Below").issue(dns=DNS)
        complete = check(issued.with_chain(*issued.chain[1:], stranger.certificate))
        self.assertEqual([Cause.UNKNOWN_ISSUER], [f.cause for f in complete.failures])
        self.assertIn("ends in 'CN=Stranger', which is no trusted anchor", complete.failures[0].text)
        self.assertIn("issuer 'CN=Stranger' is neither", check(issued).failures[0].text)
        self.assertIn("issuer 'CN=Below' is neither", check(issued.with_chain()).failures[0].text)

    def test_missing_intermediate(self):
        """A leaf without its intermediate has an unknown issuer."""
        self.assertEqual([Cause.UNKNOWN_ISSUER], causes(leaf_for("a.example").with_chain()))

    def test_namesake(self):
        """R20: an authority that only has the name of a trusted one is unknown."""
        self.assertEqual([Cause.UNKNOWN_ISSUER], causes(Authority.root().intermediate().issue(dns=DNS)))

    def test_no_anchors(self):
        """Without anchors every issuer is unknown."""
        self.assertEqual([Cause.UNKNOWN_ISSUER], causes(leaf_for("a.example"), trusted=Anchors()))

    def test_bad_signature(self):
        """R19: a false signature under a trusted name is a bad chain."""
        self.assertEqual([Cause.BAD_CHAIN], causes(leaf(signed_by=new_key())))
        self.assertEqual([Cause.BAD_CHAIN], causes(shared_root().intermediate("I", signed_by=new_key()).issue(dns=DNS)))

    def test_weak_signature(self):
        """R19: a SHA-1 signature is not strong enough."""
        good = leaf()
        weak = resigned(good.certificate, shared_issuer().key, SHA1_WITH_ECDSA, digest=hashes.SHA1())
        self.assertEqual([Cause.BAD_CHAIN], causes(Issued(weak, good.key, (weak, shared_issuer().certificate))))

    def test_dates_of_authorities(self):
        """R19: an authority must be valid too. The failure names it and its dates."""
        issued = shared_root().intermediate("Old", not_after=PAST).issue(dns=DNS)
        self.assertEqual([Cause.EXPIRED], causes(issued))
        self.assertIn("the authority 'CN=Old' expired on 2026-05-31", check(issued).failures[0].text)
        self.assertEqual([Cause.NOT_YET_VALID], causes(shared_root().intermediate("New", not_before=FUTURE).issue(dns=DNS)))

    def test_an_expired_namesake(self):
        """R19: an expired certificate that the library tried, though it has another key, does not hide the real fault."""
        namesake = shared_root().intermediate(not_after=PAST)
        issued = leaf(signed_by=new_key())
        for chain in ([shared_issuer().certificate, namesake.certificate], [namesake.certificate, shared_issuer().certificate]):
            result = check(issued.with_chain(*chain))
            self.assertEqual(([Cause.BAD_CHAIN], False), ([f.cause for f in result.failures], result.valid))

    def test_old_leaf_of_a_new_authority(self):
        """R19: for a leaf that expired before its authority was renewed the only fault is its expiry."""
        authority = shared_root().intermediate("Renewed", not_before=AT - timedelta(days=10))
        issued = authority.issue(dns=DNS, not_after=AT - timedelta(days=20))
        self.assertEqual([Cause.EXPIRED], causes(issued))
        self.assertFalse(check(issued).valid)

    def test_expired_anchor(self):
        """R19: an expired anchor is not trusted."""
        root = Authority.root("Old Root", not_after=PAST)
        self.assertEqual([Cause.EXPIRED], causes(root.issue(dns=DNS), trusted=Anchors([root.certificate])))

    def test_another_way_up(self):
        """An expired authority has no effect if another one with the same key is present."""
        key = new_key()
        old, new = (shared_root().intermediate("Cross", key=key, not_after=end) for end in (PAST, NOT_AFTER))
        self.assertEqual([], causes(old.issue(dns=DNS).with_chain(old.certificate, new.certificate)))

    def test_path_length(self):
        """R19: the path length of an authority limits the authorities below it."""
        upper = shared_root().intermediate("Upper", path_length=0)
        self.assertEqual([], causes(upper.issue(dns=DNS)))
        self.assertEqual([Cause.BAD_CHAIN], causes(upper.intermediate("Lower").issue(dns=DNS)))

    def test_long_chains(self):
        """A path has at most PATH_DEPTH authorities between leaf and anchor."""
        authority = shared_root()
        for number in range(PATH_DEPTH):
            authority = authority.intermediate(f"Level {number}")
        self.assertEqual([], causes(authority.issue(dns=DNS)))
        self.assertEqual([Cause.BAD_CHAIN], causes(authority.intermediate("Too deep").issue(dns=DNS)))

    def test_only_so_many_are_looked_at(self):
        """Only the first CHAIN_CERTIFICATES of the presented certificates are used."""
        filler = [leaf_for("b.example").certificate] * (CHAIN_CERTIFICATES - 2)
        issued = leaf_for("a.example")
        self.assertEqual([], causes(issued.with_chain(*filler, shared_issuer().certificate)))
        self.assertEqual([Cause.UNKNOWN_ISSUER], causes(issued.with_chain(*filler, filler[0], shared_issuer().certificate)))

    def test_no_authority(self):
        """R19: basic constraints and key usage decide which certificate may issue."""
        for options in (
            {"basic_constraints": False}, {"ca": False}, {"key_usage": usage(digital_signature=True)},
        ):
            self.assertEqual([Cause.BAD_CHAIN], causes(shared_root().intermediate("I", **options).issue(dns=DNS)), options)

    def test_leaf_that_issues(self):
        """R19: a leaf cannot issue another leaf."""
        first = leaf_for("a.example")
        second = Authority(first.certificate, first.key, first.chain).issue(dns=DNS)
        self.assertIn(causes(second)[0], (Cause.BAD_CHAIN, Cause.UNKNOWN_ISSUER))

    def test_weak_authority(self):
        """R19: the keys of authorities must be strong too."""
        self.assertEqual([Cause.WEAK_KEY], causes(shared_root().intermediate("I", key=rsa_key(1024)).issue(dns=DNS)))

    def test_usage_of_an_authority(self):
        """R21: an authority that is limited to other usages is not accepted for servers."""
        self.assertEqual([Cause.WRONG_USAGE], causes(shared_root().intermediate("I", eku=(EMAIL,)).issue(dns=DNS)))

    def test_name_constraints(self):
        """R19: a dNSName outside the name constraints of an authority makes the chain bad."""
        bound = shared_root().intermediate("Bound", constraints=dns_constraints(["example"], ["bad.example"]))
        self.assertEqual([], causes(bound.issue(dns=DNS)))
        self.assertEqual([Cause.BAD_CHAIN], causes(bound.issue(dns=["a.test"])))
        self.assertEqual([Cause.BAD_CHAIN], causes(bound.issue(dns=["a.example", "bad.example"])))
        self.assertEqual([Cause.BAD_CHAIN], causes(bound.issue(dns=["*.example"])))

    def test_constraints_of_other_kinds(self):
        """R19: name constraints that the library cannot apply make the chain bad."""
        bound = shared_root().intermediate("Bound", constraints=x509.NameConstraints([xmpp_addr("a.example")], None))
        self.assertEqual([Cause.BAD_CHAIN], causes(bound.issue(xmpp=["a.example"])))

    def test_circles_are_bounded(self):
        """Authorities that issue each other in circles end in a refusal, not in an endless search."""
        one, two = Authority.root("One"), Authority.root("Two")
        circle = [
            Authority.intermediate(upper, name, key=lower.key).certificate
            for upper, lower, name in ((one, two, "Two"), (two, one, "One")) for _ in range(8)
        ]
        issued = one.issue(dns=DNS).with_chain(one.certificate, two.certificate, *circle)
        self.assertEqual([Cause.UNKNOWN_ISSUER], causes(issued))

    def test_unreadable_issuer_name(self):
        """An authority's name that cannot be written as text is reported as such."""
        issued = Authority.root("QQQQ").issue(dns=DNS)
        chain = [data.replace(b"\x0c\x04QQQQ", b"\x0c\x04\xff\xff\xff\xff") for data in issued.der_chain]
        self.assertIn("issuer of an unreadable name", validate(chain, anchors(), AT).failures[0].text)


def maze(top: Authority, levels: int = 7, namesakes: int = NAMESAKES, dear: ec.EllipticCurvePrivateKey | None = None) -> Issued:
    """Return a leaf below levels of authorities. Those of a level share one name and one key: each has signed each one below."""
    above, found = top, []
    for number in range(levels):
        key = dear or new_key()
        level = [above.intermediate(f"Level {number}", key=key) for _ in range(namesakes)]
        found += [each.certificate for each in level]
        above = Authority(level[0].certificate, key)
    return above.issue(dns=DNS).with_chain(*reversed(found))


class BoundTests(SynchronousTestCase):
    """Tests of the cost of a stranger's chain, counted: docs/trust.md."""

    def searched(self, issued: Issued, trusted: Anchors | None = None) -> tuple[PresentedChain, PathResult]:
        presented = PresentedChain(issued.der_chain)
        return presented, validate(presented, anchors() if trusted is None else trusted, AT)

    def test_an_ordinary_chain(self):
        """A leaf, an authority and a root cost one search and two signature checks, and nothing the next time."""
        presented, _ = self.searched(leaf_for("a.example"))
        for _ in range(3):
            self.assertTrue(validate(presented, anchors(), AT + timedelta(days=1)).valid)
        self.assertEqual((1, 2), (presented.path_searches, presented.signature_checks))

    def test_no_way(self):
        """If the names lead to no anchor, no signature is checked, whatever is presented."""
        presented, result = self.searched(maze(Authority.root("Stranger")))
        self.assertEqual(([Cause.UNKNOWN_ISSUER], 0), ([f.cause for f in result.failures], presented.signature_checks))

    def test_a_maze(self):
        """In a maze below a namesake of an anchor, the number of signature checks is bounded, and the answer gives the reason."""
        presented, result = self.searched(maze(Authority.root()))
        self.assertEqual([Cause.BAD_CHAIN], [f.cause for f in result.failures])
        self.assertIn("too complicated", result.failures[0].text)
        self.assertEqual(SIGNATURE_CHECKS, presented.signature_checks)

    def test_a_maze_of_dear_keys(self):
        """A check with an expensive key counts as several. An ordinary chain of such keys is well below the limit."""
        for key in (ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP521R1())):
            above = shared_root(), shared_root().intermediate("I", key=key)
            presented, result = self.searched(above[1].intermediate("J", key=key).issue(dns=DNS))
            self.assertEqual((True, 1 + 2 * DEAR_CHECKS), (result.valid, presented.signature_checks))
            presented, result = self.searched(maze(Authority.root(key=key), dear=key))
            self.assertIn("too complicated", result.failures[0].text)
            self.assertIn(presented.signature_checks, (SIGNATURE_CHECKS - 1, SIGNATURE_CHECKS))

    def test_dear_rsa_keys(self):
        """RSA keys are expensive by their size and by their exponent."""
        def certificate(bits: int, exponent: int) -> Any:
            return Mock(public_key=rsa.RSAPublicNumbers(exponent, (1 << bits - 1) + 1).public_key)

        cheap, large, odd = certificate(4096, 65537), certificate(4104, 65537), certificate(2048, 65539)
        self.assertEqual([False, True, True], [path._is_dear(each) for each in (cheap, large, odd)])

    def test_the_bound_is_of_the_chain(self):
        """Another set of anchors permits no more signature checks for a chain. Another handshake does."""
        issued = maze(Authority.root())
        presented, _ = self.searched(issued)
        validate(presented, Anchors([shared_root().certificate, shared_issuer().certificate]), AT)
        self.assertEqual((2, SIGNATURE_CHECKS), (presented.path_searches, presented.signature_checks))
        presented.renew()
        validate(presented, Anchors([shared_root().certificate]), AT)
        self.assertEqual(2 * SIGNATURE_CHECKS, presented.signature_checks)

    def test_a_way_out_of_a_maze(self):
        """A good chain is found among a few namesakes that lead nowhere."""
        good = leaf_for("a.example")
        others = [Authority.root("Stranger").intermediate().certificate for _ in range(NAMESAKES - 1)]
        presented, result = self.searched(good.with_chain(*others, shared_issuer().certificate))
        self.assertTrue(result.valid)
        self.assertLessEqual(presented.signature_checks, SIGNATURE_CHECKS)

    def test_namesakes(self):
        """Of many authorities with one name a few are tried, currently valid ones first."""
        good, old = leaf_for("a.example"), shared_root().intermediate(not_after=PAST).certificate
        more = [shared_root().intermediate(not_after=PAST - timedelta(days=day)).certificate for day in range(NAMESAKES + 3)]
        self.assertTrue(self.searched(good.with_chain(old, *more, shared_issuer().certificate))[1].valid)
        strangers = [shared_root().intermediate().certificate for _ in range(NAMESAKES)]
        self.assertFalse(self.searched(good.with_chain(*strangers, shared_issuer().certificate))[1].valid)

    def test_dear_keys(self):
        """R19: an authority with an expensive key is left out before any signature check, and reported."""
        presented, result = self.searched(shared_root().intermediate("I", key=rsa_key(1024)).issue(dns=DNS))
        self.assertEqual(([Cause.WEAK_KEY], 0), ([f.cause for f in result.failures], presented.signature_checks))
        self.assertIn("the authority 'CN=I' is not used", result.failures[0].text)
        key = ec.generate_private_key(ec.BrainpoolP512R1())
        presented, result = self.searched(shared_root().intermediate("I", key=key).issue(dns=DNS))
        self.assertEqual(([Cause.WEAK_KEY], 0), ([f.cause for f in result.failures], presented.signature_checks))

    def test_too_many_names(self):
        """R17: a leaf with too many names is reported, and no signature is checked for it."""
        presented, result = self.searched(shared_issuer().issue(dns=[*DNS, *(f"n{number}.example" for number in range(1000))]))
        self.assertEqual(([Cause.BAD_CHAIN], 0), ([f.cause for f in result.failures], presented.signature_checks))
        self.assertIn("too many names", result.failures[0].text)

    def test_too_many_comparisons(self):
        """R19: many names below many name constraints are too many together."""
        bound = shared_root().intermediate("Bound", constraints=dns_constraints(["example", *(f"x{n}.example" for n in range(499))]))
        few, many = (bound.issue(dns=[f"n{number}.example" for number in range(count)]) for count in (40, 41))
        self.assertTrue(self.searched(few)[1].valid)
        presented, result = self.searched(many)
        self.assertEqual(([Cause.BAD_CHAIN], 0), ([f.cause for f in result.failures], presented.signature_checks))
        self.assertIn("41, for 500 name constraints", result.failures[0].text)

    def test_dates_are_borders(self):
        """A result is kept until a certificate of the chain becomes valid or expires, not longer."""
        border = AT + timedelta(days=30)
        issued = shared_root().intermediate("I", not_after=border).issue(dns=DNS)
        presented = PresentedChain(issued.der_chain)
        for at, valid, searches in (
            (AT, True, 1), (border, True, 1), (border + timedelta(seconds=1), False, 2), (border + timedelta(days=1), False, 2), (AT, True, 3),
        ):
            self.assertEqual((valid, searches), (validate(presented, anchors(), at).valid, presented.path_searches), at)

    def test_the_last_date(self):
        """A certificate without an end of validity (RFC 5280 §4.1.2.5) has a path like any other."""
        forever = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
        self.assertEqual([], causes(leaf(not_after=forever)))

    def test_results_are_few(self):
        """Results are kept for a few recently used sets of anchors."""
        presented, _ = self.searched(leaf_for("a.example"))
        for _ in range(path.RESULTS_KEPT):
            validate(presented, Anchors([shared_root().certificate]), AT)
        validate(presented, anchors(), AT)
        self.assertEqual(path.RESULTS_KEPT + 2, presented.path_searches)


class RecentChainsTests(SynchronousTestCase):
    def test_again(self):
        """The same chain gives the same object. Another one gives another."""
        recent, chain = RecentChains(), leaf_for("a.example").der_chain
        self.assertIs(recent.presented(chain), recent.presented(list(chain)))
        self.assertIsNot(recent.presented(chain), recent.presented(chain[:1]))

    def test_bounds(self):
        """Chains are bounded in number and in bytes: the least recently used is removed. One is always kept."""
        recent = RecentChains(chains=3, size=100)
        first = recent.presented([b"a" * 10])
        for letter in (b"b", b"c"):
            recent.presented([letter * 10])
        self.assertIs(first, recent.presented([b"a" * 10]))
        second = recent.presented([b"d" * 10])  # b was removed
        self.assertIs(first, recent.presented([b"a" * 10]))
        large = recent.presented([b"e" * 1000])
        self.assertIs(large, recent.presented([b"e" * 1000]))
        self.assertIsNot(first, recent.presented([b"a" * 10]))
        self.assertIsNot(second, recent.presented([b"d" * 10]))


class UnreadableNameTests(SynchronousTestCase):
    """The library reads a leaf's names once the path is good, and raises if it cannot read one."""

    def test_good_path(self):
        """R17: a malformed name does not make the path bad. Every possible authority of the leaf counts as its path."""
        issued = shared_issuer().issue(san_der=UNREADABLE)
        result = check(issued)
        self.assertTrue(result.valid)
        self.assertEqual({issued.certificate, shared_issuer().certificate, shared_root().certificate}, {each.certificate for each in result.path})

    def test_authority_without_a_key_identifier(self):
        """R17: an authority without a key identifier is a possible authority of the leaf."""
        bare = shared_root().intermediate("Bare", subject_key_identifier=False)
        self.assertIn(bare.certificate, [each.certificate for each in check(bare.issue(san_der=UNREADABLE)).path])

    def test_unsupported_name(self):
        """R17: a kind of name that the library does not support does not make the path bad either."""
        self.assertTrue(check(shared_issuer().issue(san_der=der(0x30, der(0x82, b"a.example") + der(0xA3, b"")))).valid)

    def test_odd_directory_name(self):
        """R17: nor does a directoryName with an attribute of a type that the library does not return."""
        attribute = der(0x31, der(0x30, der(0x06, b"\x55\x04\x03") + der(0x03, b"\0x")))
        name = der(0x30, der(0x82, b"a.example") + der(0xA4, der(0x30, attribute)))
        self.assertTrue(check(shared_issuer().issue(san_der=name)).valid)

    def test_bad_paths(self):
        """R19: a bad path is found bad before the names are read, whatever its fault."""
        issued = [
            self_signed(san_der=UNREADABLE), Authority.root("Stranger").issue(san_der=UNREADABLE),
            Authority.root().issue(san_der=UNREADABLE), shared_issuer().issue(san_der=UNREADABLE, signed_by=new_key()),
            shared_issuer().issue(san_der=UNREADABLE, not_after=PAST), shared_issuer().issue(san_der=UNREADABLE).with_chain(),
            shared_root().intermediate("I", not_after=PAST).issue(san_der=UNREADABLE),
            shared_root().intermediate("I", path_length=0).intermediate("J").issue(san_der=UNREADABLE),
            shared_root().intermediate("I", basic_constraints=False).issue(san_der=UNREADABLE),
            shared_root().intermediate("I", key_usage=usage(digital_signature=True)).issue(san_der=UNREADABLE),
            shared_root().intermediate("I", eku=(EMAIL,)).issue(san_der=UNREADABLE),
            shared_root().intermediate("I", constraints=dns_constraints(["test"])).issue(san_der=UNREADABLE),
            shared_issuer().issue(san_der=UNREADABLE, ca=True, key_usage=usage(digital_signature=True, key_cert_sign=True)),
            shared_issuer().issue(san_der=UNREADABLE, authority_key_identifier=False),
        ]
        for number, each in enumerate(issued):
            self.assertFalse(check(each).valid, number)

    def test_what_the_library_does(self):
        """The code relies on this order: an invalid path is a VerificationError even if a name is unreadable."""
        verifier = PolicyBuilder().store(Store([shared_root().certificate])).time(AT).build_client_verifier()
        good, bad = (i.issue(san_der=UNREADABLE) for i in (shared_issuer(), Authority.root("Stranger")))
        with self.assertRaises(ValueError):
            verifier.verify(good.certificate, list(good.chain[1:]))
        with self.assertRaises(VerificationError):
            verifier.verify(bad.certificate, list(bad.chain[1:]))
