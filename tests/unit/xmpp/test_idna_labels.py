"""Tests of labels of internationalised names (R18), and of names with two readings: docs/conformance.md."""

from __future__ import annotations

import sys
import unicodedata

import idna
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp.idna_labels import InvalidLabel, a_label, mapped, punycode, reads_alike, u_label
from s2sgw.xmpp.jid import AmbiguousDomain, Domain, InvalidJID, domain_of

#: Characters that IDNA 2003 and IDNA 2008 read differently, with both readings: by IDNA 2008, and by nameprep.
DIFFERENT = {
    "faß": ("xn--fa-hia", "fass"), "βόλος": ("xn--nxasmm1c", "βόλοσ"), "نامه\u200cای": ("xn--mgba3gch31f060k", "نامهای"),
    "ශ්\u200dරී": ("xn--10cl1a0b660p", "ශ්රී"),
}


class LabelTests(SynchronousTestCase):
    def test_labels(self):
        """R18: an A-label and its U-label are converted to each other."""
        for text, plain in (("bücher", "xn--bcher-kva"), ("παράδειγμα", "xn--hxajbheg2az3al"), ("例え", "xn--r8jz45g"), *(
            (text, plain) for text, (plain, _) in DIFFERENT.items()
        )):
            self.assertEqual((plain, text), (a_label(text), u_label(plain)))

    def test_no_labels(self):
        """R18: a label that IDNA 2008 does not permit is refused, in either form. An A-label must be the spelling of its U-label."""
        for text in ("☃", "a\u0301"[1:] + "a", "ü" * 60, "ab--ü", "-ü", "אa"):
            self.assertRaises(InvalidLabel, a_label, text)
        for plain in (
            "xn--", "xn--a", "xn--a-", "xn--bcher-kva-", "xn--bcher-kvA", "xn--\u00fc", "xn--" + "a" * 60, "xn--n3h", "xn--99999999", "xn--abc-",
        ):
            self.assertRaises(InvalidLabel, u_label, plain)
        self.assertRaises(InvalidLabel, mapped, "a\u2488b.example")

    @given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=59))
    @settings(max_examples=300, deadline=None)
    def test_punycode(self, label: str) -> None:
        """Punycode equals the standard library's, in both directions."""
        self.assertEqual(label.encode("punycode").decode("ascii"), punycode(label))

    def test_the_longest(self):
        """R18: the longest label of different characters is encoded in fewer than a hundred steps."""
        label = "".join(chr(0x4E00 + 331 * number) for number in range(59))
        self.assertEqual(label.encode("punycode").decode("ascii"), punycode(label))


class TwoReadingsTests(SynchronousTestCase):
    def test_different(self):
        """R18: a domain that servers read in two ways is accepted as A-labels only, and shown as such."""
        for text, (plain, other) in DIFFERENT.items():
            self.assertFalse(reads_alike(text, text))
            refused = self.assertRaises(AmbiguousDomain, Domain.parse, f"{text}.example")
            self.assertIn(f"write it as {plain}.example", str(refused))
            self.assertRaises(AmbiguousDomain, domain_of, f"a@{text}.example/b")
            domain = Domain.parse(f"{plain}.example")
            self.assertEqual((f"{plain}.example", f"{plain}.example"), (domain.ascii, domain.text))
            self.assertNotEqual(domain, Domain.parse(f"{other}.example"))

    def test_alike(self):
        """R18: both readings of case, composition and width are equal."""
        for text in ("Bücher", "BÜCHER", "bu\u0308cher", "BU\u0308CHER", "ｂücher"):
            self.assertEqual(("xn--bcher-kva", "bücher"), (Domain.parse(text).ascii, Domain.parse(text).text), text)

    def test_dots(self):
        """R30: only the ASCII dot is accepted: nameprep maps other dots to letters, or joins two labels."""
        for dot in ("\u3002", "\uff61", "\uff0e"):
            self.assertRaises(AmbiguousDomain, Domain.parse, f"evil{dot}example")
            self.assertRaises(AmbiguousDomain, Domain.parse, f"a.example{dot}")

    def test_separators(self):
        """R30: a wide slash, at sign or colon is refused, because a server that uses nameprep would split the address there."""
        for text in ("ours.example\uff0fx", "a\uff20ours.example", "ours.example\uff1a5269", "ours.example\u2100", "a\u2048.example"):
            self.assertRaises(InvalidJID, Domain.parse, text)

    def test_every_character(self):
        """R18: for each character of Unicode, both readings of a name with it agree, or the name is refused as written."""
        passed = 0
        for number in range(0x80, sys.maxunicode + 1):
            character = chr(number)
            if unicodedata.category(character) in ("Cn", "Cs", "Co"):
                continue
            passed += self.agrees(character)
            if not _is_ideograph(number):
                passed += self.agrees(f"a{character}b")
        self.assertGreater(passed, 60_000)

    def agrees(self, text: str) -> bool:
        """Return whether the text is a valid domain; check that its two standard readings agree then."""
        try:
            domain = Domain.parse(text)
        except InvalidJID:
            return False
        if text.isascii():
            return True
        self.assertEqual(domain.ascii, text.encode("idna").decode("ascii"), ascii(text))
        self.assertNotIn("Cn", map(unicodedata.ucd_3_2_0.category, text + domain.text), ascii(text))
        if domain.text.isascii():  # a wide underscore and the like, for which IDNA 2008 has no A-label
            self.assertEqual(domain.ascii, mapped(text), ascii(text))
        else:
            self.assertEqual(domain.ascii, idna.encode(text, uts46=True).decode("ascii"), ascii(text))
            self.assertEqual(domain.text, domain.text.encode("idna").decode("idna"))
        return True

    def test_later_small_letters(self):
        """R18: a capital letter whose small letter is newer than Unicode 3.2 is refused: nameprep does not change it."""
        for text in ("\u04c0", "\u10a0", "\u2132", "\u13a0"):
            self.assertRaises(InvalidJID, Domain.parse, text)  # older tables of UTS 46 do not permit it at all

    def test_composed_before(self):
        """R18: a character that only composition maps, and that Unicode 3.2 did not have, is refused."""
        self.assertRaises(AmbiguousDomain, Domain.parse, "\ufa2e.example")

    def test_what_no_character_shows(self):
        """R18: the same holds for right-to-left scripts, and for whole words."""
        for number in range(0x590, 0x700):
            for text in (f"א{chr(number)}א", f"ب{chr(number)}ب", f"ا{chr(number)}"):
                if unicodedata.category(text[1]) != "Cn":
                    self.agrees(text)
        for text in ("ΣΑΣ", "ΌΣΟΣ", "σας", "İstanbul", "ıi", "straße", "STRASSE", "ſtraße", "ﬁsh", "ĳs", "ǅ", "ẞ", "k\u212a", "a\u00adb", "㍿"):
            self.agrees(text)


def _is_ideograph(number: int) -> bool:
    """Return whether a character is in one of the large uniform blocks, Han and Hangul."""
    return 0x3400 <= number < 0xA000 or 0xAC00 <= number < 0xD7A4 or 0x20000 <= number < 0x40000
