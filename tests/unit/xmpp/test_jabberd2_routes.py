"""Tests of the framer of a stream with jabberd2's router."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp.element import Element
from s2sgw.xmpp.framing import RECYCLE, Close, Fault
from s2sgw.xmpp.header import Header
from s2sgw.xmpp.jabberd2_routes import Route, RouteFramer
from s2sgw.xmpp.limits import FramingLimits

COMPONENT = "xmlns='http://jabberd.jabberstudio.org/ns/component/1.0'"

HEAD = "<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0'"

ANSWER = HEAD + " id='1'>"

IQ = "<iq xmlns='jabber:client' type='get' id='1' from='a@in.example/x' to='b@out.example'><q xmlns='urn:q'/></iq>"


def route(inside: str, to: str = "out.example", more: str = "") -> str:
    return f"<route {COMPONENT} to='{to}' from='sm'{more}>{inside}</route>"


class FramerTests(SynchronousTestCase):
    """R31, R32: tests of the reader of the router's stream."""

    def framer(self, **limits: int) -> RouteFramer:
        made = RouteFramer(FramingLimits(**limits))
        self.assertIsInstance(made.feed(ANSWER.encode())[0], Header)
        return made

    def test_beyond_limits(self) -> None:
        """A stanza that is too large, too deep or has too many parts is returned without its data, and the next one is complete."""
        for inside in ("<b>" + "x" * 20000 + "</b>", "<b>" * 80 + "</b>" * 80, "<b/>" * 600, "<b " + " ".join(f"a{n}='1'" for n in range(70)) + "/>"):
            framer = self.framer(stanza_bytes=10000)
            large = route(f"<message xmlns='jabber:client' from='a@b.example' to='c@d.example'>{inside}<x/>y</message>")
            data = (large + route(IQ)).encode()
            found = [each for at in range(0, len(data), 3000) for each in framer.feed(data[at:at + 3000])]
            first, second = found
            assert isinstance(first, Route)
            assert isinstance(second, Route)
            assert first.stanza
            assert second.stanza
            self.assertEqual((b"", "c@d.example"), (first.stanza.data, first.stanza.to))
            self.assertTrue(second.stanza.data)

    def test_largest(self) -> None:
        """Earlier input does not count for the limit."""
        framer = self.framer(stanza_bytes=10000)
        data = route(f"<message xmlns='jabber:client'><body>{'x' * 9000}</body></message>").encode() * 3
        self.assertTrue(all(each.stanza.data for each in framer.feed(data)))  # type: ignore[union-attr]

    def test_declared_outside(self) -> None:
        """Prefixes that the stanza or the route declares apply in it. Only the route's first child counts."""
        framer = self.framer()
        inside = "<message xmlns='jabber:client' xmlns:p='urn:p'><x xmlns='urn:x' p:a='1' q:b='2'/></message><message xmlns='jabber:client' id='2'/>"
        [found] = framer.feed(f"<route {COMPONENT} xmlns:q='urn:q' to='a'>t{inside}</route>".encode())
        assert isinstance(found, Route)
        assert found.stanza
        self.assertEqual(b"<message xmlns:p='urn:p' xmlns:q='urn:q'><x xmlns='urn:x' p:a='1' q:b='2'/></message>", found.stanza.data)

    def test_stop(self) -> None:
        """Reading stops behind an element that requires it, and continues when it is resumed."""
        framer = RouteFramer(FramingLimits(), frozenset({"urn:x}stop"}))
        events = framer.feed(ANSWER.encode() + b"<stop xmlns='urn:x'/><y xmlns='urn:y'>")
        self.assertEqual(2, len(events))
        self.assertEqual([], framer.feed(b"z</y>"))
        self.assertEqual((True, b"<y xmlns='urn:y'>z</y>"), (framer.stopped, framer.leftover))
        [element] = framer.feed(framer.resume())
        assert isinstance(element, Element)
        self.assertEqual(("y", "z"), (element.name, element.text))

    def test_recycled(self) -> None:
        """The expat parser is replaced now and then, wherever the input is cut."""
        framer = self.framer()
        data = route(f"<message xmlns='jabber:client'><body>{'x' * 5000}</body></message>").encode() * (2 * RECYCLE // 5000) + b"<p xmlns='urn:p'/>" * 20
        found = [each for at in range(0, len(data), 7777) for each in framer.feed(data[at:at + 7777])]
        self.assertEqual(2 * RECYCLE // 5000 + 20, len(found))
        parser = framer._parser
        self.assertLess(parser.CurrentByteIndex, 2 * RECYCLE)

    def test_faults(self) -> None:
        """Invalid XMPP XML, too many elements, elements that are too long, and an endless header are faults."""
        for data in (b"<a xmlns='u'><!-- --></a>", b"<a>&x;</a>", b"</b>", b"<a xmlns='u'>" + b"<b/>" * 1100, b"<a>" * 70, b"<a>" + b"x" * 70000):
            self.assertIsInstance(self.framer().feed(data)[-1], Fault)
        self.assertIsInstance(RouteFramer().feed(b"<stream:stream xmlns:stream='" + b"x" * 9000)[-1], Fault)
        framer = self.framer()
        self.assertEqual([Close()], framer.feed(b"</stream:stream>"))
        self.assertEqual([], framer.feed(b"<x/>"))
