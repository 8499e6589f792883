"""Tests of the framer of a stream with jabberd2's router."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp.element import Element
from s2sgw.xmpp.framing import RECYCLE, Close, Fault
from s2sgw.xmpp.header import Header
from s2sgw.xmpp.jabberd2_routes import TAG_BYTES, Route, RouteFramer
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

    def test_beyond_memory(self) -> None:
        """A stanza that would take much more memory than its bytes is returned without its data.

        A long namespace is declared once and repeated by each child, or by elements below; or there are very many namespaces.
        """
        two = "<p:a>" + "<q:b/>" * 3000 + "</p:a>"
        for declared, inside in (
            (f" xmlns:q='{'u' * 900}'", "<q:x/>" * 100), (f" xmlns:q='{'u' * 900}' xmlns:p='urn:p'", two),
            (f" xmlns:q='{'u' * 1100}'", "<q:x/>"), (f" xmlns:q='{'u' * 1100}'", "<x q:y='1'/>"),
            ("", "<x>" + "".join(f"<y xmlns:p='urn:{n}' p:a='1'/>" for n in range(600)) + "</x>"),
        ):
            framer = self.framer(stanza_bytes=100_000)
            [found] = framer.feed(route(f"<message xmlns='jabber:client'{declared}>{inside}</message>").encode())
            assert isinstance(found, Route)
            assert found.stanza
            self.assertEqual((b"", ()), (found.stanza.data, found.stanza.payloads), inside[:60])

    def test_within_memory(self) -> None:
        """Many children in the namespace of the stanza pass, and so do long namespaces of a few, and a body of quotes."""
        for inside in ("<x/>" * 512, "<body>" + "'" * 500_000 + "</body>", f"<x xmlns='{'u' * 1000}'/>" * 20):
            [found] = self.framer().feed(route(f"<message xmlns='jabber:client'>{inside}</message>").encode())
            assert isinstance(found, Route)
            assert found.stanza
            self.assertTrue(found.stanza.data)

    def test_endless_tag(self) -> None:
        """expat keeps a tag without end, so a very long one ends the stream."""
        framer = self.framer()
        events = framer.feed(f"<route {COMPONENT}><message xmlns='jabber:client' to='".encode())
        while not events:
            events = framer.feed(b"x" * 65536)
            self.assertLess(framer._given, 2 * TAG_BYTES)
        self.assertIsInstance(events[-1], Fault)

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
        for data in (b"<a xmlns='u'><!-- --></a>", b"<a>&x;</a>", b"</b>", b"<a xmlns='u'>" + b"<b/>" * 1100, b"<a>" * 70, b"<a>" + b"x" * 70000, b"<a xmlns:p='" + b"u" * 2000 + b"'><p:b/></a>"):
            self.assertIsInstance(self.framer().feed(data)[-1], Fault)
        self.assertIsInstance(RouteFramer().feed(b"<stream:stream xmlns:stream='" + b"x" * 9000)[-1], Fault)
        framer = self.framer()
        self.assertEqual([Close()], framer.feed(b"</stream:stream>"))
        self.assertEqual([], framer.feed(b"<x/>"))
