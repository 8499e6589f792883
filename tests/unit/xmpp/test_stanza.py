"""Tests of a stanza as the gateway relays it."""

from __future__ import annotations

from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp import stanza as module
from s2sgw.xmpp.element import child_names
from s2sgw.xmpp.stanza import Stanza


class StanzaTests(SynchronousTestCase):
    """Tests of `Stanza`."""

    def test_payloads(self) -> None:
        """The children's names are those given, or are read once on request."""
        data = b"<iq><query xmlns='urn:q'/></iq>"
        self.assertEqual((), Stanza("iq", data, "", "").payloads)
        self.assertEqual(("a",), Stanza("iq", data, "", "", payloads=("a",)).payloads)
        read = mock.Mock(side_effect=child_names)
        self.patch(module, "child_names", read)
        unread = Stanza("iq", data, "", "", payloads=None)
        read.assert_not_called()
        self.assertEqual([("urn:q}query",)] * 2, [unread.payloads, unread.payloads])
        read.assert_called_once_with(data)
        unread.payloads = ("b",)
        self.assertEqual(("b",), unread.payloads)

    def test_usual_payloads(self) -> None:
        """The names of the children of a usual message are read once."""
        children = b"<body/><a xmlns='http://jabber.org/protocol/chatstates'/><r xmlns='urn:xmpp:receipts'/><o xmlns='urn:xmpp:sid:0'/>"
        unread = Stanza("message", b"<message>" + children + b"</message>", "", "", payloads=None)
        read = mock.Mock(side_effect=child_names)
        self.patch(module, "child_names", read)
        self.assertEqual([4, 4], [len(unread.payloads), len(unread.payloads)])
        self.assertEqual(1, read.call_count)

    def test_many_payloads(self) -> None:
        """The names of many children are read again at each request: what is kept of them would not be counted."""
        unread = Stanza("iq", b"<iq>" + b"<a/>" * 99 + b"</iq>", "", "", payloads=None)
        read = mock.Mock(side_effect=child_names)
        self.patch(module, "child_names", read)
        self.assertEqual([99, 99], [len(unread.payloads), len(unread.payloads)])
        self.assertEqual((2, 0), (read.call_count, unread.text_cost))

    def test_request(self) -> None:
        """Only an IQ of type get or set is a request."""
        self.assertTrue(all(Stanza("iq", b"", "", "", type).is_request for type in ("get", "set")))
        for stanza in (Stanza("iq", b"", "", "", "result"), Stanza("iq", b"", "", ""), Stanza("message", b"", "", "", "get")):
            self.assertFalse(stanza.is_request, stanza)
