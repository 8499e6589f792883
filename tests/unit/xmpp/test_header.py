"""Tests of the stream header that we write."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp.framing import Framer
from s2sgw.xmpp.header import CLOSING_TAG, Header, declarations, stream_header


class HeaderTests(SynchronousTestCase):
    """Tests of the header that we write."""

    def test_header(self) -> None:
        """R1, R3: it has an XML declaration, the three namespaces, version 1.0, and no language."""
        self.assertEqual(
            b"<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'"
            b" xmlns:db='jabber:server:dialback' from='a.example' to='b.example' id='1&amp;2' version='1.0'>",
            stream_header(to="b.example", from_="a.example", id="1&2"),
        )

    def test_pre_1_0(self) -> None:
        """R1: a pre-1.0 header has no version, to and from."""
        [header] = Framer().feed(stream_header(id="x", version=None))
        self.assertEqual(Header(None, None, "x", None, dialback=True), header)

    def test_declarations(self) -> None:
        """Headers that declare the same share one object: an idle stream is small. The language belongs to it."""
        declared = ((None, "jabber:server"), ("x", "urn:x"))
        found = declarations(declared, "cs")
        self.assertIs(found, declarations(((None, "jabber:server"), ("x", "urn:x")), "cs"))
        self.assertIsNot(found, declarations(declared, None))
        self.assertEqual(("jabber:server", "urn:x"), found.namespaces)

    def test_read_back(self) -> None:
        """A written header is read back."""
        data = stream_header(to="ž.example", from_="<'\">", id="\t", lang="en")
        [header] = Framer().feed(data)
        self.assertEqual(Header("ž.example", "<'\">", "\t", "1.0", dialback=True), header)
        self.assertEqual(2, len(Framer().feed(data + CLOSING_TAG)))
