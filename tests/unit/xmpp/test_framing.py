"""Tests of the framer: its events for any bytes, however they are cut (R16, R30, R31, R32, docs/decisions.md#framing)."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterator
from typing import Any
from unittest import mock
from xml.parsers import expat

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp import framing, restricted_xml
from s2sgw.xmpp.element import NAME_LENGTH, Element
from s2sgw.xmpp.errors import StreamCondition as C
from s2sgw.xmpp.framing import PIECE, Close, Fault, Framer, FramingLimits
from s2sgw.xmpp.header import Header, stream_header
from s2sgw.xmpp.limits import NAMES_LENGTH
from s2sgw.xmpp.namespaces import DIALBACK, SASL, SERVER, STREAM, TLS, XML
from tests.support.framing import Framed, values

HEADER = stream_header(to="montague.example", from_="capulet.example", id="s1")
OPENED = Header("montague.example", "capulet.example", "s1", "1.0", dialback=True)
MESSAGE = b"<message to='r@montague.example' from='j@capulet.example/b' type='chat' id='m1'><body>Art thou?</body></message>"
END = b"</stream:stream>"


BODY = f"{SERVER}}}body"
FRAMED = Framed("message", MESSAGE, "r@montague.example", "j@capulet.example/b", "chat", "m1", (BODY,))


def frame(*chunks: bytes, **arguments: Any) -> list[object]:
    framer = Framer(**arguments)
    return [value for chunk in chunks for value in values(framer.feed(chunk))]


def conditions(events: list[object]) -> list[object]:
    return [event.condition if isinstance(event, Fault) else event for event in events]


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Return the data whole, byte by byte, and cut in two at every byte."""
    yield [data]
    yield bytewise(data)
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]


def header(**replaced: str) -> bytes:
    """Return a header with other declarations: `default`, `stream`, `more`."""
    default = replaced.get("default", f"xmlns='{SERVER}'")
    stream = replaced.get("stream", f"xmlns:stream='{STREAM}'")
    return f"<stream:stream {default} {stream} {replaced.get('more', '')} version='1.0'>".encode()


#: Input after the header -> events after the `Header`. A condition stands for a `Fault` with it.
TRANSCRIPTS: dict[str, tuple[bytes, list[object]]] = {
    "nothing": (b"", []),
    "one stanza": (MESSAGE, [FRAMED]),
    "each kind": (
        b"<message/><presence to='a'/><iq from='b' type='get' id=''/>",
        [Framed("message", b"<message/>"), Framed("presence", b"<presence to='a'/>", "a"),
         Framed("iq", b"<iq from='b' type='get' id=''/>", "", "b", "get", "")],
    ),
    "white space between": (b" \n" + MESSAGE + b"\r\n\t " + MESSAGE + b"   ", [FRAMED, FRAMED]),
    "escapes in attributes": (
        b"<message to='a&amp;b' from=\"'&#x41;>\" id='&lt;/>'/>",
        [Framed("message", b"<message to='a&amp;b' from=\"'&#x41;>\" id='&lt;/>'/>", "a&b", "'A>", None, "</>")],
    ),
    "an empty element, then the end": (b"<message/></stream:stream>", [Framed("message", b"<message/>"), Close()]),
    "text that looks like the end of an empty tag": (b"<message>/></message >", [Framed("message", b"<message>/></message >")]),
    "an attribute that looks like one": (b"<iq id='/>'></iq\n>", [Framed("iq", b"<iq id='/>'></iq\n>", id="/>")]),
    "children without a namespace, and in another one": (
        b"<iq><a xmlns=''><b/></a><c xmlns='urn:c' x='1'>/></c>tail<d/></iq>",
        [Framed("iq", b"<iq><a xmlns=''><b/></a><c xmlns='urn:c' x='1'>/></c>tail<d/></iq>",
                payloads=("a", "urn:c}c", f"{SERVER}}}d"))],
    ),
    "a stanza inside a stanza": (
        b"<message><message><message/></message></message>",
        [Framed("message", b"<message><message><message/></message></message>", payloads=(f"{SERVER}}}message",))],
    ),
    "CDATA": (b"<message><![CDATA[</message>&]]></message>", [Framed("message", b"<message><![CDATA[</message>&]]></message>")]),
    "not ASCII": ("<iq id='ž€𝄞'>ž€𝄞</iq>".encode(), [Framed("iq", "<iq id='ž€𝄞'>ž€𝄞</iq>".encode(), id="ž€𝄞")]),
    "own xml:lang and space": (
        b"<message xml:lang='cs' xml:space='preserve'/>",
        [Framed("message", b"<message xml:lang='cs' xml:space='preserve'/>")],
    ),
    "own default namespace": (b"<iq xmlns='jabber:server'/>", [Framed("iq", b"<iq xmlns='jabber:server'/>")]),
    "a stanza that declares a prefix": (
        b"<iq xmlns:q='urn:q'><q:a/></iq>", [Framed("iq", b"<iq xmlns:q='urn:q'><q:a/></iq>", payloads=("urn:q}a",))],
    ),
    "an element": (
        b"<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>",
        [Element("features", STREAM, children=[Element("starttls", TLS, children=[Element("required", TLS)])])],
    ),
    "an element with text": (
        b"<db:result to='a' from='b'>k&amp;y</db:result>", [Element("result", DIALBACK, {"to": "a", "from": "b"}, text="k&y")],
    ),
    "a stanza of another namespace": (b"<message xmlns='jabber:client'/>", [Element("message", "jabber:client")]),
    "an element that is no stanza": (b"<route/>", [Element("route", SERVER)]),
    "the end": (b"</stream:stream>", [Close()]),
    "the end, and more": (b" \n</stream:stream> <message/><!--", [Close()]),
    "a stanza before the end": (MESSAGE + END, [FRAMED, Close()]),
}

#: R30 and R31: input that is refused after the header, and its condition.
REFUSED: dict[str, tuple[bytes, C]] = {
    "text": (b"x", C.BAD_FORMAT),
    "text before an element": (b" text <message/>", C.BAD_FORMAT),
    "text before the end": (b"x</stream:stream>", C.BAD_FORMAT),
    "a reference to white space": (b"&#32;<message/>", C.BAD_FORMAT),
    "CDATA": (b"<![CDATA[ ]]><message/>", C.BAD_FORMAT),
    "a prefixed stanza": (b"<x:message xmlns:x='jabber:server'/>", C.BAD_NAMESPACE_PREFIX),
    "a prefix like the stanza's name": (b"<message:message xmlns:message='jabber:server'/>", C.BAD_NAMESPACE_PREFIX),
    "the stream's prefix": (b"<stream:iq xmlns:stream='jabber:server'/>", C.BAD_NAMESPACE_PREFIX),
    "an attribute in a namespace": (b"<iq xmlns:x='urn:x' x:from='a'/>", C.BAD_FORMAT),
    "an attribute in jabber:server": (b"<iq xmlns:x='jabber:server' to='a' x:from='a'/>", C.BAD_FORMAT),
    "an attribute in a namespace like that of xml": (b"<iq xmlns:x='http://www.w3.org/XML/1998/namespaces' x:lang='a'/>", C.BAD_FORMAT),
    "a comment": (b"<!-- -->", C.RESTRICTED_XML),
    "a comment in a stanza": (b"<iq><!----></iq>", C.RESTRICTED_XML),
    "an instruction": (b"<?php ?>", C.RESTRICTED_XML),
    "an instruction in a stanza": (b"<iq><?a?></iq>", C.RESTRICTED_XML),
    "an entity": (b"<iq>&nbsp;</iq>", C.RESTRICTED_XML),
    "an entity in an attribute": (b"<iq to='&x;'/>", C.RESTRICTED_XML),
    "an XML declaration": (b"<?xml version='1.0'?>", C.NOT_WELL_FORMED),
    "a document type": (b"<!DOCTYPE a>", C.RESTRICTED_XML),
    "a document type in a stanza": (b"<iq><!DOCTYPE a [<!ENTITY b 'c'>]></iq>", C.RESTRICTED_XML),
    "text, then a comment": (b" x<!-- -->", C.BAD_FORMAT),
    "text, then nonsense": (b"x<!x", C.BAD_FORMAT),
    "CDATA, then a comment": (b"<![CDATA[]]><!-- -->", C.BAD_FORMAT),
    "a misspelled CDATA section": (b"<![cDATA[]]>", C.NOT_WELL_FORMED),
    "a wrong end": (b"<iq></message>", C.NOT_WELL_FORMED),
    "a wrong end of the stream": (b"</stream>", C.NOT_WELL_FORMED),
    "no quotes": (b"<iq to=a/>", C.NOT_WELL_FORMED),
    "an attribute twice": (b"<iq to='a' to='a'/>", C.NOT_WELL_FORMED),
    "an attribute twice by prefixes": (b"<iq><a xmlns:x='u' xmlns:y='u' x:a='' y:a=''/></iq>", C.NOT_WELL_FORMED),
    "an ampersand": (b"<iq>&</iq>", C.NOT_WELL_FORMED),
    "]]>": (b"<iq>]]></iq>", C.NOT_WELL_FORMED),
    "an unbound prefix": (b"<iq><x:a/></iq>", C.NOT_WELL_FORMED),
    "an unbound prefix at the top": (b"<x:iq/>", C.NOT_WELL_FORMED),
    "an unbound attribute": (b"<iq><a x:b=''/></iq>", C.NOT_WELL_FORMED),
    "a prefix undeclared": (b"<iq xmlns:db=''/>", C.NOT_WELL_FORMED),
    "our separator in a namespace": (b"<iq xmlns:x='a}b'/>", C.NOT_WELL_FORMED),
    "a prefix bound to xml's namespace": (f"<iq xmlns:x='{XML}'/>".encode(), C.NOT_WELL_FORMED),
    "NUL": (b"<iq>\0</iq>", C.NOT_WELL_FORMED),
    "a control character": (b"<iq>\x01</iq>", C.NOT_WELL_FORMED),
    "a reference to a control character": (b"<iq>&#1;</iq>", C.NOT_WELL_FORMED),
    "U+FFFE": (b"<iq>\xef\xbf\xbe</iq>", C.NOT_WELL_FORMED),
    "a surrogate": (b"<iq>\xed\xa0\x80</iq>", C.NOT_WELL_FORMED),
    "an overlong form": (b"<iq>\xc0\xaf</iq>", C.NOT_WELL_FORMED),
    "above U+10FFFF": (b"<iq>\xf4\x90\x80\x80</iq>", C.NOT_WELL_FORMED),
    "Latin-1": (b"<iq>caf\xe9</iq>", C.NOT_WELL_FORMED),
}


class TranscriptTests(SynchronousTestCase):
    """Tests that every transcript gives the same events, however it is cut."""

    def test_transcripts(self) -> None:
        """R16, R30: the parts of the stream are returned in order, with their own bytes."""
        for name, (data, expected) in TRANSCRIPTS.items():
            for chunks in cuts(data):
                self.assertEqual([OPENED, *expected], frame(HEADER, *chunks), f"{name}: {chunks}")

    def test_refused(self) -> None:
        """R30, R31: input that a stream must not contain is a fault. Complete parts before it are still returned."""
        for name, (data, condition) in REFUSED.items():
            for chunks in cuts(data):
                events = conditions(frame(HEADER + MESSAGE, *chunks, b"  ", END))
                self.assertEqual([OPENED, FRAMED, condition], events, f"{name}: {chunks}")

    def test_nothing_after_a_fault(self) -> None:
        """A fault is the last event."""
        framer = Framer()
        framer.feed(HEADER + b"x")
        self.assertEqual([], framer.feed(MESSAGE))
        self.assertEqual([], framer.feed(END))

    def test_text_of_a_fault(self) -> None:
        """R15: the text gives the fault, and repeats nothing of the input."""
        for data, _ in REFUSED.values():
            fault = frame(HEADER, data)[-1]
            assert isinstance(fault, Fault)
            self.assertTrue(fault.text)
            self.assertNotIn("nbsp", fault.text)

    def test_repr_of_a_stanza(self) -> None:
        """The repr of a stanza has its addresses, not its content."""
        _, stanza = Framer().feed(HEADER + MESSAGE)
        self.assertEqual(
            f"<message type='chat' 'j@capulet.example/b' -> 'r@montague.example' id='m1' {len(MESSAGE)} bytes>", repr(stanza)
        )


class HeaderTests(SynchronousTestCase):
    """Tests of the stream header."""

    def first(self, data: bytes) -> object:
        """Return the only event of `data`, however it is cut."""
        for chunks in cuts(data):
            events = conditions(frame(*chunks))
            self.assertEqual(conditions(frame(data)), events, chunks)
        return events[0]

    def test_attributes(self) -> None:
        """R3: the header's attributes are read. Absent ones are None."""
        self.assertEqual(OPENED, self.first(HEADER))
        self.assertEqual(Header(None, None, None, "1.0"), self.first(header()))
        self.assertEqual(Header(None, None, "é", "1.0"), self.first(header(more="id='&#233;' xml:lang='cs'")))

    def test_pre_1_0(self) -> None:
        """R1: jabberd2's header has no version, no to and no from."""
        data = f"<?xml version='1.0'?><stream:stream xmlns='{SERVER}' xmlns:db='{DIALBACK}' xmlns:stream='{STREAM}'>"
        self.assertEqual(Header(None, None, None, None, dialback=True), self.first(data.encode()))

    def test_prolog(self) -> None:
        """R31: a declaration of 1.0 and UTF-8, a byte order mark and white space are accepted."""
        for prolog in (
            b"<?xml version='1.0' encoding='UTF-8'?>", b'<?xml version="1.0" encoding="utf-8" standalone="yes"?>\r\n', b"",
            b"\xef\xbb\xbf", b"\xef\xbb\xbf<?xml version='1.0'?> ", b" \n", b"\n<?xml version='1.0'?>\n",
        ):
            self.assertEqual(Header(None, None, None, "1.0"), self.first(prolog + header()))
            self.assertEqual([Framed("iq", b"<iq/>")], frame(prolog + header() + b"<iq/>")[1:])

    def test_prolog_refused(self) -> None:
        """R31: another encoding, another version, a document type, comments and text are refused."""
        for data, condition in (
            (b"<?xml version='1.0' encoding='ISO-8859-1'?>" + header(), C.UNSUPPORTED_ENCODING),
            (b"<?xml version='1.0' encoding='utf-16'?>" + header(), C.UNSUPPORTED_ENCODING),
            (b"<?xml version='1.1'?>" + header(), C.NOT_WELL_FORMED),
            (b"<?xml encoding='utf-8'?>" + header(), C.NOT_WELL_FORMED),
            (header().decode().encode("utf-16"), C.UNSUPPORTED_ENCODING),
            (header().decode().encode("utf-16-le"), C.UNSUPPORTED_ENCODING),
            (header().decode().encode("utf-16-be"), C.UNSUPPORTED_ENCODING),
            (b"\xfe\xff" + header().decode().encode("utf-16-be"), C.UNSUPPORTED_ENCODING),
            (b"\xef\xbb" + header(), C.NOT_WELL_FORMED),
            (b"\xef\0<\0", C.UNSUPPORTED_ENCODING),
            (b"<!DOCTYPE a [<!ENTITY b 'c'>]>" + header(), C.RESTRICTED_XML),
            (b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'>" + header(), C.RESTRICTED_XML),
            (b"<!-- -->" + header(), C.RESTRICTED_XML),
            (b"<?a?>" + header(), C.RESTRICTED_XML),
            (b"GET / HTTP/1.1\r\n\r\n", C.NOT_WELL_FORMED),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", C.NOT_WELL_FORMED),
            (b" \n text" + header(), C.NOT_WELL_FORMED),
            (header().replace(b"version", b"id='&a;' version"), C.RESTRICTED_XML),
        ):
            self.assertEqual(condition, self.first(data), data)

    def test_root_refused(self) -> None:
        """R14, R38: another namespace gets invalid-namespace; another prefix, or none, gets bad-namespace-prefix."""
        for data, condition in (
            (header(default="xmlns='jabber:client'"), C.INVALID_NAMESPACE),
            (header(default=""), C.INVALID_NAMESPACE),
            (header(default="xmlns=''"), C.INVALID_NAMESPACE),
            (header(stream="xmlns:stream='urn:x'"), C.INVALID_NAMESPACE),
            (b"<stream:stream>", C.NOT_WELL_FORMED),
            (b"<stream>", C.INVALID_NAMESPACE),
            (f"<s:stream xmlns='{SERVER}' xmlns:s='{STREAM}'>".encode(), C.BAD_NAMESPACE_PREFIX),
            (f"<stream xmlns='{STREAM}'>".encode(), C.BAD_NAMESPACE_PREFIX),
            (header().replace(b"<stream:stream", b"<stream:flow"), C.BAD_FORMAT),
        ):
            self.assertEqual(condition, self.first(data), data)

    def test_empty_root(self) -> None:
        """A header that is an empty element opens and closes the stream."""
        for chunks in cuts(header().replace(b">", b"/>") + b"junk"):
            self.assertEqual([Header(None, None, None, "1.0"), Close()], frame(*chunks))


class SliceTests(SynchronousTestCase):
    """Tests that a slice is complete without the header above it (docs/decisions.md#framing)."""

    def slice(self, more: str, data: bytes) -> bytes:
        for chunks in cuts(data):
            *_, stanza = frame(header(more=more), *chunks)
            assert isinstance(stanza, Framed), stanza
            sliced = stanza.data
            Element.parse(sliced)  # raises where a prefix is missing
        return sliced

    def test_prefixes_are_declared_again(self) -> None:
        """Every prefix of the header is declared on the slice, used or not: content may use it."""
        self.assertEqual(
            b"<iq xmlns:x='urn:x' xmlns:y='a&apos;&amp;&lt;' to='a'><x:a/></iq>",
            self.slice("xmlns:x='urn:x' xmlns:y=\"a'&amp;&lt;\"", b"<iq to='a'><x:a/></iq>"),
        )
        self.assertEqual(b"<message xmlns:x='urn:x'/>", self.slice("xmlns:x='urn:x'", b"<message/>"))
        self.assertEqual(b"<presence xmlns:x='urn:x'>/></presence>", self.slice("xmlns:x='urn:x'", b"<presence>/></presence>"))

    def test_own_declarations_stay(self) -> None:
        """A prefix that the start tag declares itself is not changed. A declaration further inside does not count."""
        more = "xmlns:x='urn:x' xmlns:y='urn:y'"
        for data, expected in (
            (b"<iq xmlns:x='urn:z'/>", b"<iq xmlns:y='urn:y' xmlns:x='urn:z'/>"),
            (b"<iq\nxmlns:x\t=\n'urn:z' />", b"<iq xmlns:y='urn:y'\nxmlns:x\t=\n'urn:z' />"),
            (b"<iq><a xmlns:x='urn:z'/></iq>", b"<iq xmlns:x='urn:x' xmlns:y='urn:y'><a xmlns:x='urn:z'/></iq>"),
            (b"<iq id=' xmlns:x=\"\"'/>", b"<iq xmlns:x='urn:x' xmlns:y='urn:y' id=' xmlns:x=\"\"'/>"),
            (b"<iq id=\" xmlns:x='>'\">/></iq>", b"<iq xmlns:x='urn:x' xmlns:y='urn:y' id=\" xmlns:x='>'\">/></iq>"),
            (b"<iq xmlns:xx='urn:z'/>", b"<iq xmlns:x='urn:x' xmlns:y='urn:y' xmlns:xx='urn:z'/>"),
        ):
            self.assertEqual(expected, self.slice(more, data))

    def test_dialback_prefix(self) -> None:
        """`db` for dialback is declared where it is used. For another namespace it is a prefix like any other."""
        dialback = f"xmlns:db='{DIALBACK}'"
        self.assertEqual(b"<iq><a/></iq>", self.slice(dialback, b"<iq><a/></iq>"))
        self.assertEqual(f"<iq {dialback}><db:a/></iq>".encode(), self.slice(dialback, b"<iq><db:a/></iq>"))
        self.assertEqual(b"<iq xmlns:db='urn:z'><db:a/></iq>", self.slice(dialback, b"<iq xmlns:db='urn:z'><db:a/></iq>"))
        self.assertEqual(b"<iq xmlns:db='urn:z'/>", self.slice("xmlns:db='urn:z'", b"<iq/>"))
        self.assertEqual(f"<iq xmlns:dialback='{DIALBACK}'/>".encode(), self.slice(f"xmlns:dialback='{DIALBACK}'", b"<iq/>"))

    def test_stream_prefix(self) -> None:
        """`stream` is declared by our headers too, and is never declared again."""
        self.assertEqual(b"<iq><stream:a/></iq>", self.slice("", b"<iq><stream:a/></iq>"))

    def test_language(self) -> None:
        """A stanza without xml:lang gets the stream's."""
        self.assertEqual(b"<iq xml:lang='c&apos;s' id='1'/>", self.slice('xml:lang="c\'s"', b"<iq id='1'/>"))
        self.assertEqual(b"<iq id='1' xml:lang='en'/>", self.slice("xml:lang='cs'", b"<iq id='1' xml:lang='en'/>"))
        self.assertEqual(b"<iq xml:lang=''/>", self.slice("xml:lang='cs'", b"<iq xml:lang=''/>"))
        self.assertEqual(b"<iq xml:lang='cs' xml:space='a'/>", self.slice("xml:lang='cs'", b"<iq xml:space='a'/>"))
        self.assertEqual(b"<iq/>", self.slice("xml:lang=''", b"<iq/>"))
        self.assertEqual(
            f"<iq xml:lang='cs' xmlns:db='{DIALBACK}' xmlns:x='u'><db:a/></iq>".encode(),
            self.slice(f"xml:lang='cs' xmlns:x='u' xmlns:db='{DIALBACK}'", b"<iq><db:a/></iq>"),
        )

    def test_elements_know_the_header(self) -> None:
        """An element of negotiation is read with every prefix of the header."""
        *_, element = frame(header(more="xmlns:sasl='urn:ietf:params:xml:ns:xmpp-sasl'"), b"<sasl:auth mechanism='EXTERNAL'>=</sasl:auth>")
        self.assertEqual(Element("auth", SASL, {"mechanism": "EXTERNAL"}, text="="), element)

    def test_empty_elements(self) -> None:
        """An empty-element tag is read like any other element: its names, its attributes, its limits."""
        head = header(more="xmlns:a='u1' xmlns:b='u2'")
        for data in (
            b"<r xmlns='urn:xmpp:sm:3'/>", b"<a:r a:x='1' b:x='2' x='3'/>", b"<r xmlns='' x='&lt;&#10;\t>/>'/>", b"<r\n xml:lang='en'\n/>",
            b"<b:r xmlns:b='u3' b:y='/>'/>", b"<r></r>", b"<r> </r>", b"<r>/></r>",
        ):
            _, element = frame(head, data)
            _, wrapped = frame(head, b"<w>" + data + b"</w>")
            self.assertIsInstance(element, Element)
            assert isinstance(wrapped, Element)
            self.assertEqual([element], wrapped.children, data)
        for namespace, fits in (("u" * (NAME_LENGTH - 2), True), ("u" * (NAME_LENGTH - 1), False)):
            _, event = frame(head, f"<r xmlns='{namespace}'/>".encode())
            self.assertEqual(isinstance(event, Element), fits)


STARTTLS = f"{TLS}}}starttls"


class StoppingTests(SynchronousTestCase):
    """R6: tests of the restart boundary."""

    def test_leftover(self) -> None:
        """Reading stops behind the element's `>`, and later bytes are not interpreted, however they arrive."""
        for tag in (
            b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'></starttls\n>",
            b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'>/></starttls>", b"<t:starttls xmlns:t='urn:ietf:params:xml:ns:xmpp-tls'/>",
        ):
            for rest in (b"", b"\x16\x03\x01\x00<", b"</stream:stream>", b">>/>", HEADER):
                for chunks in cuts(MESSAGE + tag + rest):
                    framer = Framer(stop_at=frozenset({STARTTLS}))
                    events = values(framer.feed(HEADER)) + [e for chunk in chunks for e in values(framer.feed(chunk))]
                    self.assertEqual((True, rest), (framer.stopped, framer.leftover))
                    self.assertEqual([OPENED, FRAMED], events[:2])
                    self.assertEqual(("starttls", TLS), (events[2].name, events[2].namespace))  # type: ignore[attr-defined]

    def test_only_at_the_top(self) -> None:
        """The element inside another one, or in another namespace, does not stop reading."""
        framer = Framer(stop_at=frozenset({STARTTLS}))
        events = framer.feed(
            HEADER + b"<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features><starttls/>"
        )
        self.assertEqual((False, 3, b""), (framer.stopped, len(events), framer.leftover))

    def test_leftover_beyond_the_limit(self) -> None:
        """Bytes behind the boundary do not count against the limit of the stream before it, and all of them are kept."""
        tag = b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
        framer = Framer(FramingLimits(stream_bytes=len(HEADER + tag)), stop_at=frozenset({STARTTLS}))
        framer.feed(HEADER + tag + b"x" * 100)
        framer.feed(b"y")
        self.assertEqual((True, b"x" * 100 + b"y"), (framer.stopped, framer.leftover))


    def test_resume(self) -> None:
        """R25: if the stream continues after all (a `<failure/>`), the framer continues with the bytes left over."""
        tag = b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
        for data, expected in ((MESSAGE + END, [FRAMED, Close()]), (b" x", [C.BAD_FORMAT]), (b" " + tag, [Element("starttls", TLS)])):
            for chunks in cuts(HEADER + tag + data):
                framer = Framer(FramingLimits(stream_bytes=sum(map(len, chunks))), stop_at=frozenset({STARTTLS}))
                for chunk in chunks:
                    framer.feed(chunk)
                self.assertTrue(framer.stopped)
                leftover = framer.resume()
                self.assertEqual((False, b""), (framer.stopped, framer.leftover))
                self.assertEqual(expected, conditions(values(framer.feed(leftover))))


class LimitTests(SynchronousTestCase):
    """R32: input above a limit is a policy-violation that names the limit."""

    def assertLimited(self, limits: FramingLimits, data: bytes, number: int, before: int = 1) -> None:
        for chunks in ([data], bytewise(data)):
            *events, fault = frame(*chunks, limits=limits)
            assert isinstance(fault, Fault), fault
            self.assertEqual((C.POLICY_VIOLATION, before), (fault.condition, len(events)))
            self.assertIn(str(number), fault.text)

    def assertPasses(self, limits: FramingLimits, data: bytes) -> None:
        for chunks in ([data], bytewise(data)):
            self.assertNotIsInstance(frame(*chunks, limits=limits)[-1], Fault)

    def test_stanza(self) -> None:
        """A stanza of exactly the limit is accepted. One byte more is refused, before the stanza's end."""
        size = len(MESSAGE)
        self.assertPasses(FramingLimits(stanza_bytes=size), HEADER + b"   " + MESSAGE + MESSAGE)
        self.assertLimited(FramingLimits(stanza_bytes=size - 1), HEADER + b"   " + MESSAGE, size - 1)
        self.assertLimited(FramingLimits(stanza_bytes=size), HEADER + MESSAGE + b"<message>" + b"x" * size, size, 2)

    def test_element(self) -> None:
        """Elements of negotiation have a limit of their own."""
        element = b"<a xmlns='urn:a'>" + b"x" * 40 + b"</a>"
        limits = FramingLimits(element_bytes=len(element), stanza_bytes=1)
        self.assertPasses(limits, HEADER + element + element)
        self.assertLimited(FramingLimits(element_bytes=len(element) - 1), HEADER + element, len(element) - 1)

    def test_header(self) -> None:
        """The header, and any input in its place, is limited."""
        self.assertPasses(FramingLimits(header_bytes=len(HEADER)), HEADER)
        self.assertLimited(FramingLimits(header_bytes=len(HEADER) - 1), HEADER, len(HEADER) - 1, 0)
        self.assertLimited(FramingLimits(header_bytes=99), b"<?xml version='1.0'?>" + b" " * 99, 99, 0)
        self.assertEqual([], frame(*[b" \r\n" * 10] * 10, limits=FramingLimits(header_bytes=99)))

    def test_white_space_before_the_header(self) -> None:
        """R32: white space before the header counts among the bytes before authentication."""
        white = [b" \r\n" * 10] * 10
        self.assertEqual([], frame(*white, limits=FramingLimits(stream_bytes=300)))
        fault = Fault(C.POLICY_VIOLATION, "more than 299 bytes before authentication")
        self.assertEqual([fault], frame(*white, limits=FramingLimits(stream_bytes=299)))

    def test_declarations(self) -> None:
        """The bytes that the header adds to each stanza are limited."""
        declaring = header(more="xmlns:x='urn:x' xml:lang='cs'")
        self.assertPasses(FramingLimits(declared_bytes=30), declaring)
        self.assertLimited(FramingLimits(declared_bytes=29), declaring, 29, 0)

    def test_depth(self) -> None:
        """The depth of elements is limited, and the stream is the first level."""
        self.assertPasses(FramingLimits(depth=5), HEADER + b"<iq><a><b><c></c></b></a></iq>")
        self.assertLimited(FramingLimits(depth=5), HEADER + b"<iq><a><b><c><d>", 5)

    def test_attributes(self) -> None:
        """The number of attributes of an element is limited, at any depth."""
        for data in (b"<iq a='' b=''><a a='' b=''><b a='' b=''/></a></iq>", b"<a xmlns='u' a='' b=''/>"):
            self.assertPasses(FramingLimits(attributes=2), HEADER + data)
        for data in (b"<iq a='' b='' c=''/>", b"<iq><a a='' b='' c=''/></iq>", b"<iq><a><b a='' b='' c=''/></a></iq>"):
            self.assertLimited(FramingLimits(attributes=2), HEADER + data, 2)

    def test_children(self) -> None:
        """The number of children of a stanza is limited. The fault is reported before the stanza's end."""
        self.assertPasses(FramingLimits(children=3), HEADER + b"<iq><a/><a/><a/></iq>")
        self.assertLimited(FramingLimits(children=3), HEADER + b"<iq><a/><a/><a/><a/></iq>", 3)
        self.assertLimited(FramingLimits(children=3), HEADER + b"<iq><a/><a/><a/><a/>", 3)

    def test_names(self) -> None:
        """A long namespace is not multiplied by many children."""
        self.assertPasses(FramingLimits(), HEADER + b"<iq><a xmlns='%s'/></iq>" % (b"n" * 1022))
        self.assertLimited(FramingLimits(), HEADER + b"<iq><a xmlns='%s'/></iq>" % (b"n" * 1023), 1024)
        for data in (b"<iq><a xmlns:n='%b' n:b=''/></iq>", b"<a xmlns='u' xmlns:n='%b' n:b=''/>"):
            self.assertPasses(FramingLimits(), HEADER + data % (b"n" * 1022))
            self.assertLimited(FramingLimits(), HEADER + data % (b"n" * 1023), 1024)

    def test_names_of_many_children(self) -> None:
        """A namespace that is declared once does not fill the memory with the names of many children."""
        declaring = b" xmlns:n='%s'" % (b"n" * 1000)
        self.assertPasses(FramingLimits(), HEADER + b"<iq>" + b"<a/>" * 512 + b"</iq>")
        self.assertPasses(FramingLimits(), HEADER + b"<iq%b>" % declaring + b"<n:a/>" * 9 + b"</iq>")
        self.assertLimited(FramingLimits(), HEADER + b"<iq%b>" % declaring + b"<n:a/>" * 12, NAMES_LENGTH)
        for namespace, children in ((b"n" * 1000, 12), (b"n" * 200, 100), (b"n" * 100, 100), (b"n" * 60, 122)):
            data = [header(more=f"xmlns:n='{namespace.decode()}'"), b"<iq>" + b"<n:a/>" * children + b"</iq>"]
            whole, by_bytes = (conditions(frame(*chunks)) for chunks in (data, bytewise(b"".join(data))))
            self.assertEqual(whole, by_bytes, (namespace, children))

    def test_name_from_two_tags(self) -> None:
        """An attribute may have its namespace from another tag. Its length is refused however the bytes are received."""
        for namespace, name, refused in ((900, 100, False), (900, 123, False), (900, 124, True), (500, 600, True)):
            data = [HEADER, b"<iq><a xmlns:n='%b'><b n:%b=''/></a></iq>" % (b"n" * namespace, b"b" * name)]
            for chunks in (data, bytewise(b"".join(data))):
                self.assertEqual(refused, C.POLICY_VIOLATION in conditions(frame(*chunks)), (namespace, name))

    def test_names_in_an_open_element(self) -> None:
        """Of an element that is no stanza, and has not ended, no more than one name is kept: strangers may begin any number."""
        framer = Framer()
        framer.feed(HEADER + b"<n:a xmlns:n='%s'>" % (b"n" * 1000))
        framer.feed(b"<n:b/>" * 5000)
        self.assertLess(sum(map(len, framer._payloads)), NAME_LENGTH)

    def test_tag(self) -> None:
        """A tag that is too long is refused, in a stanza and between stanzas. One of twice the limit is never accepted."""
        limits = FramingLimits(tag_bytes=1000)
        self.assertPasses(FramingLimits(), HEADER + b"<iq id='" + b"x" * 8000 + b"'/>")
        self.assertLimited(limits, HEADER + b"<iq id='" + b"x" * 1000, 1000)
        self.assertLimited(limits, HEADER + b"<iq><a><!--" + b"x" * 1000, 1000)
        self.assertLimited(FramingLimits(), HEADER + b"<iq id='" + b"x" * 2 * 8192 + b"'/>", 8192)

    def test_stream(self) -> None:
        """Before authentication the stream as a whole is limited. Parts within the limit still count."""
        limits = FramingLimits(stream_bytes=len(HEADER + MESSAGE))
        self.assertPasses(limits, HEADER + MESSAGE)
        self.assertLimited(limits, HEADER + MESSAGE + b" ", limits.stream_bytes or 0, 2)
        self.assertLimited(limits, HEADER + MESSAGE + MESSAGE, limits.stream_bytes or 0, 2)

    def test_exchanged(self) -> None:
        """The limits of a framer may be replaced at any time, also in the middle of a stanza."""
        framer = Framer(FramingLimits(stanza_bytes=50, stream_bytes=len(HEADER) + 50))
        framer.feed(HEADER + MESSAGE[:50])
        framer.limits = FramingLimits()
        self.assertEqual([FRAMED], values(framer.feed(MESSAGE[50:])))

    def test_elements_of_negotiation_are_bounded_in_nodes(self) -> None:
        """A features element with a thousand empty children is refused before a tree is built."""
        self.assertLimited(FramingLimits(), HEADER + b"<a xmlns=''>" + b"<b/>" * 1024 + b"</a>", 1024)

    def test_long_stanza_of_small_pieces(self) -> None:
        """A large stanza is one slice, however small its pieces."""
        data = b"<message><body>" + b"0123456789" * 45000 + b"</body></message>"
        for size in (len(data), 1460, PIECE, PIECE - 1, PIECE + 1, 100000):
            chunks = [data[at : at + size] for at in range(0, len(data), size)]
            self.assertTrue(frame(HEADER, *chunks) == [OPENED, Framed("message", data, payloads=(BODY,))], size)


class RestingTests(SynchronousTestCase):
    """A compacted framer has no parser, and its events are the same (docs/decisions.md#idle-streams)."""

    def test_resting_between_bytes(self) -> None:
        """Compacting after every byte changes nothing."""
        for name, (data, expected) in TRANSCRIPTS.items():
            framer = Framer()
            events = framer.feed(HEADER)
            for chunk in bytewise(data):
                framer.rest()
                events += framer.feed(chunk)
            framer.rest()
            self.assertEqual([OPENED, *expected], values(events), name)

    def test_rest_lets_go(self) -> None:
        """The parser is released at once, without the garbage collector. In the middle of an element it is kept."""
        framer = Framer()
        framer.rest()
        framer.feed(HEADER + MESSAGE[:20])
        framer.rest()
        self.assertIsNotNone(framer._parser)
        framer.feed(MESSAGE[20:])
        gc.disable()
        self.addCleanup(gc.enable)
        before = sum(type(thing) is expat.XMLParserType for thing in gc.get_objects())
        framer.rest()
        self.assertEqual(before - 1, sum(type(thing) is expat.XMLParserType for thing in gc.get_objects()))
        self.assertEqual([FRAMED], values(framer.feed(MESSAGE)))

    def test_before_the_first_stanza(self) -> None:
        """Until a stanza comes the parser is released after each input, also after a rest. Afterwards it stays."""
        framer = Framer()
        kept = []
        for data in (HEADER, b"<r xmlns='urn:x'/>", b" ", MESSAGE[:9], MESSAGE[9:], b" "):
            framer.feed(data)
            kept.append(framer._parser is not None)
        self.assertEqual(kept, [False, False, False, True, True, True])
        framer.rest()
        framer.feed(b" ")
        self.assertIsNone(framer._parser)

    def test_faults_after_rest(self) -> None:
        """The same input is refused after compacting."""
        for name, (data, condition) in REFUSED.items():
            framer = Framer()
            framer.feed(HEADER)
            framer.rest()
            self.assertEqual([condition], conditions(values(framer.feed(data))), name)

    def test_prefixes_after_rest(self) -> None:
        """The header's declarations are kept without the parser."""
        framer = Framer()
        framer.feed(header(more="xmlns:x='urn:x' xml:lang='cs'"))
        framer.rest()
        self.assertEqual(
            [Framed("iq", b"<iq xml:lang='cs' xmlns:x='urn:x'><x:a/></iq>", payloads=("urn:x}a",))],
            values(framer.feed(b"<iq><x:a/></iq>")),
        )

    def test_recycling(self) -> None:
        """A parser that has read much is replaced, also in the middle of a stanza. No event is lost or repeated."""
        data = (MESSAGE + b" ") * 40 + END
        for recycle in (1, 50, 300, 1000):
            self.patch(framing, "RECYCLE", recycle)
            for size in (1, 7, 100, 1000):
                chunks = [data[at : at + size] for at in range(0, len(data), size)]
                self.assertEqual([OPENED, *[FRAMED] * 40, Close()], frame(HEADER, *chunks))

    def test_recycled_parsers_do_not_pile_up(self) -> None:
        """Names that a peer invents do not stay in memory for the stream's life."""
        framer = Framer()
        framer.feed(HEADER)
        first = framer._parser
        for _ in range(40):
            framer.feed(b"<iq>" + b"<a/>" * 500 + b"x" * 8000 + b"</iq>")
        self.assertIsNot(first, framer._parser)

    def test_a_large_stanza_is_not_read_again_and_again(self) -> None:
        """While a large stanza is open its parser stays: a replacement would have to read all of it again."""
        make = mock.Mock(side_effect=restricted_xml.restricted_parser)
        self.patch(framing, "restricted_parser", make)
        frame(HEADER, b"<iq>", *[b"x" * 1000] * 500, b"</iq>", MESSAGE[:9], MESSAGE[9:])
        self.assertEqual(3, make.call_count)  # the first is for the header

    def test_discarded(self) -> None:
        """A framer that has ended, or was closed in the middle of an element, has no parser."""

        class Weak(Framer):
            __slots__ = ("__weakref__",)

        gc.disable()
        self.addCleanup(gc.enable)
        for data, close in ((HEADER + END, False), (HEADER[:9], True), (HEADER + MESSAGE[:9], True)):
            framer = Weak()
            framer.feed(data)
            if close:
                framer.close()
                self.assertEqual([], framer.feed(MESSAGE))
            reference = weakref.ref(framer)
            del framer
            self.assertIsNone(reference())


# --- properties ----------------------------------------------------------------------------------------------------------

_NAMES = st.sampled_from(["a", "body", "x-1", "message", "x:a", "ž"])
_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff<&>\"'"), max_size=8)
_VALUE = st.one_of(_TEXT, st.sampled_from(["/>", ">", "&lt;", "&amp;", " xmlns:x=", "]]>"]))


def _tag(name: str, values: list[str], inside: list[str]) -> str:
    attributes = "".join(f" a{number}=\"{value}\"" for number, value in enumerate(values))
    return f"<{name}{attributes}>{''.join(inside)}</{name}>" if inside else f"<{name}{attributes}/>"


_INNER = st.recursive(
    st.one_of(_TEXT, st.sampled_from(["/>", "<![CDATA[</iq>/>]]>", "&gt;"])),
    lambda inside: st.builds(_tag, _NAMES, st.lists(_VALUE, max_size=2), st.lists(inside, max_size=4)),
    max_leaves=8,
)
_STANZAS = st.builds(
    _tag, st.sampled_from(["message", "presence", "iq"]), st.lists(_VALUE, max_size=3), st.lists(_INNER, max_size=4)
)
_STREAMS = st.lists(st.tuples(_STANZAS, st.sampled_from(["", " ", "\r\n\t"])), max_size=6)
_SEED = st.randoms(use_true_random=False)


def _pieces(data: bytes, chance: random.Random) -> list[bytes]:
    pieces = []
    while data:
        size = chance.choice((1, 2, 3, 7, 40, 1000))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


class PropertyTests(SynchronousTestCase):
    """Tests of properties of every stream."""

    @given(_STREAMS, _SEED)
    @settings(max_examples=200, deadline=None)
    def test_slices_are_the_bytes(self, stream: list[tuple[str, str]], chance: random.Random) -> None:
        """However a stream is cut, its stanzas are returned completely, in order, as their exact bytes."""
        opening = header(more="xmlns:x='urn:x'")
        data = "".join(stanza + spooled_range for stanza, spooled_range in stream).encode()
        _, *framed = frame(opening, *_pieces(data, chance))
        self.assertEqual(len(stream), len(framed))
        for (stanza, _), got in zip(stream, framed, strict=True):
            assert isinstance(got, Framed), got
            self.assertEqual(stanza.encode(), got.data.replace(b" xmlns:x='urn:x'", b"", 1))
            read = Element.parse(got.data)
            self.assertEqual(got.payloads, tuple(f"{child.namespace}}}{child.name}" for child in read.children))

    @given(st.lists(st.sampled_from([
        b"<", b">", b"/>", b"</", b"iq", b"message", b" ", b"'", b'"', b"=", b"to", b"xmlns", b":", b"a", b"&", b";", b"<!--", b"-->",
        b"<?", b"?>", b"<![CDATA[", b"]]>", b"<iq>", b"</iq>", b"<message/>", b"\xc3", b"\xa9", b"\0", b"</stream:stream>", b"<db:result>",
    ]), max_size=14), _SEED)
    @settings(max_examples=400, deadline=None)
    def test_cuts_do_not_matter(self, tokens: list[bytes], chance: random.Random) -> None:
        """Valid or not, whole or cut, a stream gives the same events and the same fault, and never an exception."""
        data = b"".join(tokens)
        whole = conditions(frame(HEADER + data))
        self.assertEqual(whole, conditions(frame(HEADER, *_pieces(data, chance))))
        self.assertEqual(whole, conditions(frame(*bytewise(HEADER + data))))

    @given(st.binary(max_size=40), _SEED)
    @settings(max_examples=200, deadline=None)
    def test_any_bytes_for_a_header(self, data: bytes, chance: random.Random) -> None:
        """Arbitrary bytes never raise, and give the same result however they are cut."""
        self.assertEqual(conditions(frame(data)), conditions(frame(*_pieces(data, chance))))
