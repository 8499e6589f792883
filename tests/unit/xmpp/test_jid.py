"""Tests of addresses: valid and invalid ones, and their comparison (R14, R18, R30; RFC 7622)."""

from __future__ import annotations

import unicodedata
from types import SimpleNamespace
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp import jid
from s2sgw.xmpp.jid import JID, PART_BYTES, Domain, InvalidJID, Pair, domain_of, is_internationalised, spelling

#: text -> A-labels, U-labels
DOMAINS = {
    "montague.example": ("montague.example", "montague.example"),
    "MONTAGUE.Example": ("montague.example", "montague.example"),
    "montague.example.": ("montague.example", "montague.example"),
    "localhost": ("localhost", "localhost"),
    "a_b.example": ("a_b.example", "a_b.example"),
    "127.1": ("127.1", "127.1"),
    "bücher.example": ("xn--bcher-kva.example", "bücher.example"),
    "BÜCHER.example": ("xn--bcher-kva.example", "bücher.example"),
    "bu\u0308cher.example": ("xn--bcher-kva.example", "bücher.example"),
    "XN--Bcher-KVA.example": ("xn--bcher-kva.example", "bücher.example"),
    "bücher.example.": ("xn--bcher-kva.example", "bücher.example"),
    "xn--fa-hia.example": ("xn--fa-hia.example", "xn--fa-hia.example"),
    "ｅｘａｍｐｌｅ.com": ("example.com", "example.com"),
    "192.0.2.1": ("192.0.2.1", "192.0.2.1"),
    "[2001:DB8:0::1]": ("[2001:db8::1]", "[2001:db8::1]"),
}

NO_DOMAINS = (
    "", ".", "..", "a..b", ".a", "-a.example", "a-.example", "a b", "a\n", "a/b", "a@b", "a:5269", "*.example", "a" * 64 + ".example",
    ".".join(["a" * 49] * 6), "a" * 1024, "é" * 1024, "xn--a", "xn--bcher-kva-.example", "xn--\u00e9", "☃.example", "a\u200db.example",
    "a／b.example", "ü" * 63 + ".example", "[::1", "::1", "[::1%eth0]", "[::1%\"x]", "[v1.x]", "[]", "a\0b", "\ud800.example", "。",
)

JIDS = {
    "montague.example": (None, "montague.example", None),
    "romeo@montague.example": ("romeo", "montague.example", None),
    "romeo@montague.example/orchard": ("romeo", "montague.example", "orchard"),
    "montague.example/a@b/c": (None, "montague.example", "a@b/c"),
    "d\\27artagnan@montague.example/ É 𝄞": ("d\\27artagnan", "montague.example", " É 𝄞"),
    "a" * 1023 + "@a.example/" + "b" * 1023: ("a" * 1023, "a.example", "b" * 1023),
}

NO_JIDS = (
    "", "@a.example", "a@", "/a", "a.example/", "a@b@c.example", "a b@c.example", "a\u00a0b@c.example", "a\0@b.example", "a\x85@b.example",
    "'a@b.example", "<a@b.example", "a:b@c.example", 'a"@b.example', "a&b@c.example", "a.example/\0", "a.example/\x9f", "\ud800@a.example",
    "a.example/\udfff", "a" * 1024 + "@a.example", "é" * 512 + "@a.example", "a.example/" + "é" * 512, "a@-b.example/c",
)


class DomainTests(SynchronousTestCase):
    """Tests of `Domain`."""

    def test_domains(self) -> None:
        """R18: a domain is compared by its A-labels and shown by its U-labels, however it was written."""
        for text, (plain, unicode) in DOMAINS.items():
            domain = Domain.parse(text)
            self.assertEqual((plain, unicode, unicode), (domain.ascii, domain.text, str(domain)), text)
            self.assertEqual(domain, Domain.parse(unicode))
            self.assertEqual(hash(domain), hash(Domain.parse(plain)))

    def test_no_domains(self) -> None:
        """R30: any other text is refused."""
        for text in NO_DOMAINS:
            self.assertRaises(InvalidJID, Domain.parse, text)

    def test_addresses(self) -> None:
        """R14: an IP address is told apart from a name, however its digits are written."""
        for text in ("192.0.2.1", "[::1]", "１２７.0.0.1", "192.0.2.1."):
            self.assertTrue(Domain.parse(text).is_address, text)
        for text in ("montague.example", "1.2.3.4.5", "1.2.3", "256.1.1.1"):
            self.assertFalse(Domain.parse(text).is_address, text)

    def test_labels(self) -> None:
        """R14: a single label is recognised."""
        self.assertTrue(Domain.parse("localhost").is_single_label)
        self.assertFalse(Domain.parse("a.example").is_single_label)

    def test_pair(self) -> None:
        """A pair has a direction."""
        pair = Pair(Domain.parse("a.example"), Domain.parse("bücher.example"))
        self.assertEqual(Pair(pair.recipient, pair.sender), pair.inverse)
        self.assertNotEqual(pair, pair.inverse)
        self.assertEqual("a.example -> bücher.example", str(pair))


class ClaimTests(SynchronousTestCase):
    """Tests of names that are claimed without proof."""

    def test_pushes_nothing_out(self) -> None:
        """However many are claimed, the names used otherwise stay in memory. A claim is read like any other text."""
        known = Domain.parse("bücher.example")
        hits = jid._parse_domain.cache_info().hits
        for number in range(3 * jid._CACHED):
            Domain.claimed(f"x{number}.example")
        self.assertEqual(Domain.claimed("BÜCHER.example"), known)
        self.assertRaises(InvalidJID, Domain.claimed, "a b")
        self.assertIs(Domain.parse("bücher.example"), known)
        self.assertEqual(jid._parse_domain.cache_info().hits, hits + 1)

    def test_spelling(self) -> None:
        """All spellings of one domain have one canonical spelling. Another domain has another."""
        for text in ("Bücher.Example", "bücher.example.", "bu\u0308cher.example", "ＢÜcher.example"):
            self.assertEqual(spelling(text), "bücher.example")
        self.assertEqual(spelling("XN--BCHER-KVA.example."), "xn--bcher-kva.example")
        self.assertNotEqual(spelling("bucher.example"), spelling("bücher.example"))
        self.assertEqual(
            [is_internationalised(text) for text in ("a.example", "ä.example", "XN--4CA.example", "a.xn--4ca")], [False, True, True, True],
        )

    def test_long_text_is_not_composed(self) -> None:
        """A text that is too long for a domain is not composed: accents in a bad order take time by the square of their number."""
        composing = mock.Mock(side_effect=unicodedata.normalize)
        self.patch(jid, "unicodedata", SimpleNamespace(normalize=composing))
        for number, times in ((PART_BYTES, 1), (PART_BYTES + 1, 0)):
            composing.reset_mock()
            spelling("\u0301" * number)
            self.assertEqual(times, composing.call_count, number)


class JIDTests(SynchronousTestCase):
    """Tests of `JID`."""

    def test_jids(self) -> None:
        """R30: an address is split at the first slash, and then at the first at sign."""
        for text, (local, domain, resource) in JIDS.items():
            jid = JID.parse(text)
            self.assertEqual((local, domain, resource), (jid.local, jid.domain.text, jid.resource))
            self.assertEqual(text, str(jid))
            self.assertEqual(text.partition("/")[0], jid.bare)
            self.assertEqual(jid.domain, domain_of(text))

    def test_no_jids(self) -> None:
        """R30: a text that breaks a rule of RFC 7622 is refused, in every function."""
        for text in NO_JIDS:
            self.assertRaises(InvalidJID, JID.parse, text)
            self.assertRaises(InvalidJID, domain_of, text)


class PropertyTests(SynchronousTestCase):
    """Tests with any text."""

    @given(st.lists(st.sampled_from(("a", "9", "-", "_", ".", "xn--", "x" * 62, "B", "ü", "1.2.3", "[", "\n")), max_size=8).map("".join))
    @settings(max_examples=500, deadline=None)
    def test_plain_names(self, text: str) -> None:
        """R18: a name that is its own canonical form is read at once, any other text label by label. The results are the same."""
        try:
            slow, _ = jid._read(jid._composed(text))
        except InvalidJID:
            self.assertRaises(InvalidJID, Domain.claimed, text)
        else:
            if text.isascii():
                quick = Domain.claimed(text)
                self.assertEqual((slow.ascii, slow.text), (quick.ascii, quick.text))

    def test_plain_names_are_not_read_by_label(self) -> None:
        """A configuration may have very many names that are their own canonical form."""
        self.patch(jid, "_read", None)
        for text in ("a.example", "_a-b.9x.example", "localhost", "a" * 63 + ".example"):
            self.assertEqual((text, text), (jid._parsed(text).ascii, jid._parsed(text).text))

    @given(st.text(max_size=30) | st.text("ab.@/[]:%1xn-ü。", max_size=16))
    @settings(max_examples=500, deadline=None)
    def test_parsing_is_final(self, text: str) -> None:
        """Any text is a JID or raises `InvalidJID`. The text of a JID gives the same JID again."""
        try:
            jid = JID.parse(text)
        except InvalidJID:
            return
        self.assertEqual(jid, JID.parse(str(jid)))
        self.assertTrue(jid.domain.ascii.isascii())
        self.assertEqual(jid.domain, Domain.parse(jid.domain.ascii))
        self.assertNotIn("/", jid.domain.text)
