"""Tests of stream features: those offered in every state of a stream, and those read from the other side."""

from __future__ import annotations

import itertools
from unittest.mock import Mock

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.stream import features
from s2sgw.stream.events import Permission, Refusal, TLSUse
from s2sgw.stream.features import PeerLimits, Standing, StreamFeatures, offer, offer_in_xml
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.namespaces import STREAM

USES: tuple[TLSUse, ...] = ("required", "optional", "never")


def expected(tls: str, secured: bool, authenticated: bool, external: bool, dialback: bool) -> list[str]:
    """Return the features that R3, R4, R8, R24, R28 and R32 ask for."""
    if tls == "required" and not secured:
        return ["starttls"]  # R3: nothing else
    rows = []
    if tls == "optional" and not secured:
        rows.append("starttls")
    if external and secured and not authenticated:  # R4, R24
        rows.append("mechanisms")
    if dialback or (external and authenticated):  # R28
        rows.append("dialback")
    if secured or authenticated:
        rows.append("limits")
    return rows


class OfferTests(SynchronousTestCase):
    """Tests of our features."""

    def test_every_standing(self) -> None:
        """R3, R4, R8, R24, R28, R32: the rows over the full product of a stream's state."""
        for tls, (secured, authenticated, external, dialback) in itertools.product(USES, itertools.product((False, True), repeat=4)):
            standing = Standing(tls, secured, authenticated, Permission(external, dialback), 1000)
            names = [child.name for child in offer(standing).children]
            self.assertEqual(names, expected(tls, secured, authenticated, external, dialback), standing)
            self.assertEqual(offer_in_xml(standing), offer(standing).to_xml())

    def test_known(self) -> None:
        """The XML for a usual standing is made once. A secret or a refusal is not kept."""
        made: list[Standing] = []

        def note(standing: Standing) -> Element:
            made.append(standing)
            return Element("features", STREAM)

        self.patch(features, "offer", note)
        refusal = Refusal(StreamCondition.POLICY_VIOLATION, "", Ending(Cause.CLOSED))
        for number, permission in enumerate((Permission(), Permission(refusal=refusal), Permission(secret=Mock()))):
            made.clear()
            for _ in range(2):
                offer_in_xml(Standing("never", False, False, permission, 123_456))
            self.assertEqual(len(made), 2 if number else 1)

    def test_required(self) -> None:
        """R3: `<required/>` is present if TLS is mandatory, and only then."""
        required = offer(Standing("required", False, False, Permission(), 1)).to_xml()
        self.assertIn(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>", required)
        self.assertNotIn(b"required", offer(Standing("optional", False, False, Permission(), 1)).to_xml())


class ReadTests(SynchronousTestCase):
    """Tests of the other side's features."""

    def read(self, inside: str) -> StreamFeatures:
        return StreamFeatures.read(Element.parse(f"<stream:features>{inside}</stream:features>".encode()))

    def test_nothing(self) -> None:
        """Empty features, and ejabberd's empty mechanisms, offer nothing."""
        self.assertEqual(self.read(""), StreamFeatures())
        self.assertEqual(self.read("<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>").mechanisms, ())

    def test_everything(self) -> None:
        """All known features are read. The others are named."""
        read = self.read(
            "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
            "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>\nEXTERNAL </mechanism><mechanism>X</mechanism><y/></mechanisms>"
            "<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback><x xmlns='y'/>"
            "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>10000</max-bytes><idle-seconds> 60 </idle-seconds></limits>"
        )
        self.assertTrue(read.starttls and read.starttls_required and read.dialback)
        self.assertEqual(read.mechanisms, ("EXTERNAL", "X"))
        self.assertEqual(read.limits, PeerLimits(10000, 60))
        self.assertIn("y}x", read.names)

    def test_less(self) -> None:
        """The same features are read without their optional content."""
        read = self.read("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><dialback xmlns='urn:xmpp:features:dialback'/>")
        self.assertTrue(read.starttls and read.dialback)
        self.assertFalse(read.starttls_required)

    def test_forms_of_dialback(self) -> None:
        """Prosody offers dialback without anything, ejabberd with errors, jabberd2 as required. None of these forms is another."""
        forms = {"": (False, True), "<errors/>": (False, False), "<required/>": (True, False)}
        for inside, expected in forms.items():
            read = self.read(f"<dialback xmlns='urn:xmpp:features:dialback'>{inside}</dialback>")
            self.assertEqual((read.dialback_alone, read.dialback_plain), expected, inside)
        self.assertFalse(self.read("").dialback_plain)

    def test_numbers(self) -> None:
        """R32: a limit that is not a number, or an absurd one, counts as absent."""
        for text in ("", "-1", "1.5", "x", "٣", "9" * 16, "1 0"):
            read = self.read(f"<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>{text}</max-bytes></limits>")
            self.assertEqual(read.limits, PeerLimits())
        for number in (0, 10**15 - 1):
            read = self.read(f"<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>{number}</max-bytes></limits>")
            self.assertEqual(read.limits, PeerLimits(number))
