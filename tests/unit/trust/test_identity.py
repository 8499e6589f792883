"""Tests of the names in a certificate and their match with a domain (R17, R18)."""

from __future__ import annotations

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.trust.identity import NAMES_TOLD, Constraints, Match, NameKind, Names, RawName, matches, names
from s2sgw.trust.parsed import ParsedCertificate
from s2sgw.trust.path import PresentedChain
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import Authority, der, dns_constraints, self_signed, srv_id, xmpp_addr

IDN = "bücher.example"
A_LABEL = "xn--bcher-kva.example"
_OTHER, _DNS = 0xA0, 0x82


def of(*general_names: bytes) -> Names:
    """Return the names of a certificate whose subjectAltName has these raw GeneralNames."""
    return names(self_signed(san_der=der(0x30, b"".join(general_names))).der)


def presented(**options) -> Names:
    return names(self_signed(**options).der)


def match(name: Names, domain: str, **options) -> str | None:
    return matches(name, Domain.parse(domain), **options).name


def texts(names: Names, kind: NameKind) -> tuple[str, ...]:
    """Return the names of one kind as text."""
    return tuple(name.text for name in names.presented if name.kind == kind)


class ExtractionTests(SynchronousTestCase):
    def test_all_kinds(self):
        """R17: xmppAddr, SRV-ID and dNSName are read from the subjectAltName."""
        found = presented(dns=["a.example", "*.b.example"], xmpp=["c.example"], srv=["d.example"])
        self.assertEqual(("a.example", "*.b.example"), texts(found, "dNSName"))
        self.assertEqual(("c.example",), texts(found, "xmppAddr"))
        self.assertEqual(("_xmpp-server.d.example",), texts(found, "SRV-ID"))
        self.assertEqual((), found.dropped)

    def test_common_name_is_nothing(self):
        """R17: a common name is not an identity, with or without a subjectAltName."""
        self.assertEqual(Names(), presented(common_name="a.example"))
        self.assertIsNone(match(presented(common_name="a.example", dns=["b.example"]), "a.example"))

    def test_no_certificate_at_all(self):
        """Bytes that are not a certificate have no names, and are reported instead of raising."""
        found = names(b"junk")
        self.assertEqual((), found.presented)
        self.assertIn("malformed", found.dropped[0])

    def test_malformed_names_drop_out_one_by_one(self):
        """R17: each malformed name is ignored with its reason. The good names beside it stay."""
        bad = {
            "NUL": der(_DNS, b"a.example\0.evil.example"),
            "not ASCII": der(_DNS, "bücher.example".encode()),
            "space": der(_DNS, b" a.example"),
            "empty": der(_DNS, b""),
            "empty label": der(_DNS, b"a..example"),
            "trailing dot": der(_DNS, b"a.example."),
            "partial wildcard": der(_DNS, b"a*.c.example"),
            "second label": der(_DNS, b"a.*.example"),
            "two wildcards": der(_DNS, b"*.*.example"),
            "too short wildcard": der(_DNS, b"*.example"),
            "bare wildcard": der(_DNS, b"*"),
            "address": der(_DNS, b"192.0.2.1"),
        }
        for what, name in bad.items():
            found = of(name, der(_DNS, b"good.example"))
            self.assertEqual(("good.example",), texts(found, "dNSName"), what)
            self.assertEqual(1, len(found.dropped), what)
            self.assertIn("is malformed", found.dropped[0], what)

    def test_malformed_other_names_drop_out(self):
        """R17: an xmppAddr that is not a UTF8String, UTF-8, a domain or a value, and an SRV-ID that is not an IA5String or a name, are ignored."""
        bad = [
            xmpp_addr("a.example", 0x16), xmpp_addr(b"\xff.example"), xmpp_addr("romeo@a.example"), xmpp_addr(""),
            xmpp_addr("a.example\0"), xmpp_addr("a.example/x"), xmpp_addr("a.example."), xmpp_addr("a。example"),
            srv_id("a.example", 0x0C), srv_id(b""), srv_id(b"xmpp-server.a.example"), srv_id(b"_xmpp-server"),
            srv_id(b"_xmpp-server.*.a.example"), srv_id("_xmpp-server.bücher.example"), srv_id(b"_xmpp-server.192.0.2.1"),
        ]
        for name in bad:
            found = presented(dns=["good.example"], other_sans=[name])
            self.assertEqual(["dNSName good.example"], [str(n) for n in found.presented], name)
            self.assertEqual(1, len(found.dropped), name)

    def test_malformed_encoding(self):
        """An otherName without a value, or with two, is ignored. The names after it are still read."""
        oid = bytes.fromhex("06082b06010505070805")
        value = der(0xA0, der(0x0C, b"a.example"))
        for content in (oid, oid + value + value, oid + der(0xA0, der(0x0C, b"a.example") * 2), oid + b"\xa0"):
            found = of(der(_OTHER, content), der(_DNS, b"good.example"))
            self.assertEqual(("good.example",), texts(found, "dNSName"))
            self.assertEqual(1, len(found.dropped))

    def test_broken_extension(self):
        """Of a truncated subjectAltName the names before its end are read."""
        found = of(der(_DNS, b"good.example"), b"\x82\x20short")
        self.assertEqual(("good.example",), texts(found, "dNSName"))
        self.assertIn("the subjectAltName is malformed", found.dropped[0])

    def test_other_kinds_are_passed_over(self):
        """An address, a URI, an e-mail address and an otherName of another type are neither names nor errors."""
        found = of(
            der(0x87, b"\xc0\x00\x02\x01"), der(0x86, b"xmpp:a.example"), der(0x81, b"a@a.example"),
            der(_OTHER, bytes.fromhex("06032a0304") + der(0xA0, der(0x0C, b"a.example"))), der(0x87, b"123"),
        )
        self.assertEqual(Names(), found)

    def test_not_an_other_name(self):
        """A name of another kind that contains what looks like an xmppAddr is ignored."""
        inner = bytes.fromhex("06082b06010505070805") + der(0xA0, der(0x0C, b"a.example"))
        self.assertEqual(Names(), of(der(0x86, inner), der(0xA4, inner)))

    def test_the_list_of_malformed_names_is_bounded(self):
        """Of many malformed names a bounded number is reported."""
        self.assertEqual(NAMES_TOLD, len(of(*[der(_DNS, b"") for _ in range(50)]).dropped))


class MatchTests(SynchronousTestCase):
    def test_each_kind_proves(self):
        """R17: any one of the three kinds is sufficient."""
        for kind in ("dns", "xmpp", "srv"):
            found = presented(**{kind: ["a.example"]})
            self.assertIsNotNone(match(found, "a.example"), kind)
            self.assertIsNotNone(match(found, "A.EXAMPLE"), kind)
            for other in ("b.example", "x.a.example", "example", "aa.example"):
                self.assertIsNone(match(found, other), kind)

    def test_order(self):
        """An xmppAddr is preferred to an SRV-ID, and that to a dNSName (RFC 6120 §13.7.1.2.1)."""
        found = presented(dns=["a.example"], xmpp=["a.example"], srv=["a.example"])
        self.assertEqual("xmppAddr a.example", match(found, "a.example"))
        self.assertEqual("SRV-ID _xmpp-server.a.example", match(presented(dns=["a.example"], srv=["a.example"]), "a.example"))
        self.assertEqual("dNSName a.example", match(presented(dns=["a.example"]), "a.example"))

    def test_case(self):
        """R17: names are compared without regard to case."""
        self.assertIsNotNone(match(presented(dns=["A.Example"]), "a.example"))
        self.assertIsNotNone(match(presented(xmpp=["A.Example"]), "a.example"))
        self.assertIsNotNone(match(presented(srv=["_XMPP-Server.A.Example"]), "a.example"))

    def test_other_services(self):
        """R17: an SRV-ID for another service proves nothing."""
        for service in ("_xmpp-client", "_xmpps-server", "_imap"):
            self.assertIsNone(match(presented(srv=[f"{service}.a.example"]), "a.example"))

    def test_wildcards(self):
        """R17: a wildcard is the whole left-most label of a dNSName and matches exactly one label."""
        found = presented(dns=["*.a.example"])
        self.assertIsNotNone(match(found, "b.a.example"))
        for domain in ("a.example", "c.b.a.example", "b.example", "b.aa.example", "example"):
            self.assertIsNone(match(found, domain), domain)

    def test_wildcard_and_a_label(self):
        """R18: a wildcard does not match an A-label."""
        self.assertIsNone(match(presented(dns=["*.a.example"]), "bücher.a.example"))
        self.assertIsNone(match(presented(dns=["*.a.example"]), "xn--bcher-kva.a.example"))

    def test_internationalised(self):
        """R18: A-labels in dNSName and SRV-ID, U-labels in xmppAddr, match a domain given either way."""
        for found in (presented(dns=[A_LABEL]), presented(srv=[A_LABEL]), presented(xmpp=[IDN]), presented(xmpp=["BÜCHER.example"])):
            self.assertIsNotNone(match(found, IDN))
            self.assertIsNotNone(match(found, A_LABEL))
            self.assertIsNone(match(found, "bucher.example"))

    def test_decomposed_u_label(self):
        """R18: a U-label in decomposed form is the same name. One that only maps to the name is malformed."""
        self.assertIsNotNone(match(presented(xmpp=["bu\u0308cher.example"]), IDN))
        self.assertIsNone(match(presented(xmpp=["ｂücher.example"]), IDN))

    def test_insisting_on_xmpp_addr(self):
        """R17: if the policy requires it, a certificate with an xmppAddr is judged by that alone. One without is still accepted."""
        found = presented(dns=["a.example"], xmpp=["b.example"])
        self.assertIsNotNone(match(found, "a.example"))
        self.assertIsNone(match(found, "a.example", insist_on_xmpp_addr=True))
        self.assertIsNotNone(match(found, "b.example", insist_on_xmpp_addr=True))
        self.assertIsNotNone(match(presented(dns=["a.example"]), "a.example", insist_on_xmpp_addr=True))

    def test_addresses(self):
        """An address as a domain matches no dNSName."""
        for address in ("192.0.2.1", "[2001:db8::1]"):
            self.assertIsNone(match(presented(dns=["a.example"]), address))

    def test_reasons(self):
        """A mismatch lists some of the certificate's names, and the ignored ones."""
        found = of(der(_DNS, b"b.example"), der(_DNS, b"\0"))
        name, reasons = matches(found, Domain.parse("a.example"))
        self.assertIsNone(name)
        self.assertEqual("the certificate names dNSName b.example, but not a.example", reasons[0])
        self.assertIn("malformed", reasons[1])
        many = presented(dns=[f"n{i}.example" for i in range(NAMES_TOLD + 5)])
        self.assertIn(" and 5 more", matches(many, Domain.parse("a.example")).reasons[0])
        self.assertIn("common name does not count", matches(Names(), Domain.parse("a.example")).reasons[0])
        self.assertEqual((), matches(many, Domain.parse("n1.example")).reasons)
        self.assertIsInstance(matches(many, Domain.parse("n1.example")), Match)


class BoundTests(SynchronousTestCase):
    """Tests of the cost of a stranger's names, counted: docs/trust.md."""

    def count(self, *general_names: bytes, domain: str = "a.example") -> tuple[bool, int]:
        """Return whether a name matches, and how many names were parsed for the answer."""
        found = of(*general_names)
        read: list[RawName] = []
        real = RawName.read

        def counted(raw: RawName) -> object:
            read.append(raw)
            return real(raw)

        self.patch(RawName, "read", counted)
        return bool(matches(found, Domain.parse(domain)).name), len(read)

    def test_only_what_may_match_is_read(self):
        """R17: of a thousand names only the matching one is parsed. Without a match a few are, for the report."""
        others = [der(_DNS, b"n%d.example" % number) for number in range(999)]
        self.assertEqual((True, 1), self.count(*others, der(_DNS, b"A.example")))
        self.assertEqual((False, NAMES_TOLD), self.count(*others))

    def test_other_names(self):
        """R17: xmppAddrs are compared by their bytes too. None is parsed as a domain first."""
        others = [xmpp_other(f"ü{number}.example") for number in range(500)]
        self.assertEqual((True, 1), self.count(*others, xmpp_other("Ü.EXAMPLE"), domain="ü.example"))
        self.assertEqual((False, NAMES_TOLD), self.count(*others, domain="ü.example"))

    def test_many_that_may_be_an_address(self):
        """R17: an address cannot be a dNSName: each such name is ignored, without an exception."""
        self.assertEqual((False, 5 + NAMES_TOLD), self.count(*[der(_DNS, b"192.0.2.1")] * 5, *[der(_DNS, b"x")] * 4, domain="192.0.2.1"))

    def test_too_many(self):
        """R17: a certificate with too many names has none, and the reason is given."""
        found = of(der(_DNS, b"a.example"), *[b"\x88\x00"] * 1000)
        self.assertEqual((), found.presented)
        self.assertIn("too many names", matches(found, Domain.parse("a.example")).reasons[-1])

    def test_overlong_xmpp_addr(self):
        """R17: a text that is longer than a domain is not normalised."""
        self.assertIn("longer than a domain", of(xmpp_other("x" * 1024)).dropped[0])
        self.assertIsNone(match(of(xmpp_other("a.example" + "\u0301\u0323" * 1000)), "a.example"))


class ParsedTests(SynchronousTestCase):
    """Tests that a parsed certificate gives the same answers as its DER."""

    def test_names(self):
        """R17: the names are the same, and so is the error if they cannot be read."""
        for general_names in ([der(_DNS, b"a.example"), xmpp_other("b.example")], [b"\x82\x05a"], [b"\x88\x00"] * 1001):
            certificate = self_signed(san_der=der(0x30, b"".join(general_names))).der
            self.assertEqual(names(certificate), names(ParsedCertificate(certificate)))
            self.assertEqual(names(certificate), PresentedChain([certificate]).names)

    def test_names_of_what_cannot_be_read(self):
        """R17: a leaf that is not a certificate has no names."""
        self.assertEqual((names(b"junk"), ()), (PresentedChain([b"junk"]).names, names(b"junk").raw))

    def test_constraints(self):
        """R17: the constraints are the same."""
        for permitted, excluded in ((["a.example"], []), ([], ["b.example"])):
            certificate = Authority.root(constraints=dns_constraints(permitted, excluded)).der
            self.assertEqual(Constraints.of(certificate), Constraints.of(ParsedCertificate(certificate)))
            self.assertNotEqual(Constraints(), Constraints.of(certificate))


def xmpp_other(text: str) -> bytes:
    """Return an xmppAddr as a raw GeneralName."""
    return der(_OTHER, bytes.fromhex("06082b06010505070805") + der(0xA0, der(0x0C, text.encode())))


def constraints(permitted=(), excluded=()) -> Constraints:
    return Constraints.of(Authority.root(constraints=dns_constraints(permitted, excluded)).der)


class ConstraintTests(SynchronousTestCase):
    def test_none(self):
        """An authority without name constraints, or with constraints on other kinds of names only, may certify any name."""
        self.assertEqual(Constraints(), constraints())
        self.assertTrue(constraints().allow("a.example"))
        self.assertEqual((None, ()), (Constraints().permitted, Constraints().excluded))
        mail = x509.NameConstraints([x509.RFC822Name("b.example")], [x509.RFC822Name("a.example")])
        self.assertEqual(Constraints(), Constraints.of(Authority.root(constraints=mail).der))

    def test_permitted(self):
        """R17: a permitted subtree contains its own name and those below it."""
        bound = constraints(["a.example", "B.example"])
        for host in ("a.example", "x.a.example", "b.example", "y.x.b.example"):
            self.assertTrue(bound.allow(host), host)
        for host in ("example", "aa.example", "c.example"):
            self.assertFalse(bound.allow(host), host)

    def test_excluded(self):
        """R17: an excluded subtree overrides a permitted one."""
        bound = constraints(["example"], ["bad.example"])
        self.assertTrue(bound.allow("a.example"))
        self.assertFalse(bound.allow("bad.example"))
        self.assertFalse(bound.allow("x.bad.example"))

    def test_special_trees(self):
        """The empty subtree contains every name. A leading dot requires a sub-domain."""
        self.assertFalse(Constraints(excluded=("",)).allow("a.example"))
        self.assertTrue(Constraints(permitted=(".example",)).allow("a.example"))
        self.assertFalse(Constraints(permitted=(".a.example",)).allow("a.example"))

    def test_unreadable(self):
        """R17: unreadable name constraints permit nothing."""
        self.assertFalse(Constraints.of(b"junk").allow("a.example"))

    def test_within(self):
        """R17: constraints on dNSName apply to the domain of an xmppAddr and of an SRV-ID. Names outside are ignored with a reason."""
        found = presented(dns=["a.test"], xmpp=["a.test", "b.example", IDN], srv=["a.test", "c.example"])
        kept = found.within([constraints(["example"]), Constraints()])
        self.assertEqual((("b.example", IDN), ("_xmpp-server.c.example",)), (texts(kept, "xmppAddr"), texts(kept, "SRV-ID")))
        self.assertEqual(("a.test",), texts(kept, "dNSName"))
        self.assertEqual(2, len(kept.dropped))
        self.assertIn("outside the name constraints", kept.dropped[0])
        self.assertEqual((), texts(found.within([constraints(["example"]), constraints(["test"])]), "xmppAddr"))

    def test_within_compares_a_labels(self):
        """R18: the domain of an xmppAddr is compared with a constraint by its A-labels."""
        found = presented(xmpp=[IDN])
        self.assertEqual((IDN,), texts(found.within([constraints([A_LABEL])]), "xmppAddr"))
        self.assertEqual((), texts(found.within([constraints((), [A_LABEL])]), "xmppAddr"))
