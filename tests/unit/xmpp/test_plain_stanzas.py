"""Tests of plain stanzas: the result from their bytes equals that of expat's handlers (docs/decisions.md#plain-stanzas)."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp.element import NAME_LENGTH, Element
from s2sgw.xmpp.framing import Close, Fault, Framer, FramingEvent, FramingLimits
from s2sgw.xmpp.header import Declarations
from s2sgw.xmpp.namespaces import MANAGEMENT
from s2sgw.xmpp.plain_stanzas import plain_bounds, plain_stanzas
from s2sgw.xmpp.stanza import Stanza
from tests.support.examples import EXAMPLES
from tests.support.framing import CarefulFramer, values
from tests.unit.xmpp.test_framing import HEADER, MESSAGE, REFUSED, TRANSCRIPTS, bytewise, header

LIMITS = FramingLimits()
#: Limits that are lower than small stanzas.
SMALL = FramingLimits(stanza_bytes=150, element_bytes=60, depth=5, attributes=5, children=3, elements=3)


def found(data: bytes, limits: FramingLimits = LIMITS, *namespaces: str) -> tuple[list[bytes], int]:
    """Return the bytes of the plain stanzas at the start of `data`, and where they end."""
    bounds = plain_bounds(limits, namespaces)
    assert bounds is not None
    stanzas, end, _ = plain_stanzas(bytearray(data), 0, bounds, Declarations({}, None))
    return [stanza.data for stanza in stanzas if isinstance(stanza, Stanza)], end


def read(framer: Framer, chunks: list[bytes]) -> tuple[list[object], bool, bool, bytes]:
    """Return the framer's events for the chunks, and its state afterwards."""
    events: list[FramingEvent] = [event for chunk in chunks for event in framer.feed(chunk)]
    return values(events), framer.stopped, framer.interrupted, framer.leftover


def both(head: bytes, chunks: list[bytes], limits: FramingLimits = LIMITS) -> list[tuple[list[object], bool, bool, bytes]]:
    """Return the framer's events for a stream with plain stanzas, and without."""
    return [read(kind(limits), [head, *chunks]) for kind in (Framer, CarefulFramer)]


class ShapeTests(SynchronousTestCase):
    """Tests of which stanzas are plain."""

    def test_plain(self) -> None:
        """The usual forms are found, one after the other. White space between them is left out."""
        for stanza in (
            MESSAGE, b"<message/>", b"<presence from=\"a@b/c\" to='d' />", b"<iq type='set' id='1' from='a' to='b' xml:lang='de'></iq>",
            "<message id='é'>ž&amp;<![]></message>".encode(), b"<iq to='a'><message/></iq>", b"<message><b>x</b></message>",
        ):
            self.assertEqual(([stanza, stanza], 2 * len(stanza) + 3), found(stanza + b"\r\n " + stanza), stanza)

    def test_attributes(self) -> None:
        """The stanza has the attributes of its start tag. Absent ones are None, or empty for an address."""
        bounds = plain_bounds(LIMITS, ())
        assert bounds is not None
        data = bytearray("<message to='ž' type=''><a/></message><iq from=\"b\" id='2'/>".encode())
        one, other = plain_stanzas(data, 0, bounds, Declarations({}, "cs"))[0]
        assert isinstance(one, Stanza)
        assert isinstance(other, Stanza)
        self.assertEqual(("message", "ž", "", "", None), (one.kind, one.to, one.from_, one.type, one.id))
        self.assertEqual(("iq", "", "b", None, "2"), (other.kind, other.to, other.from_, other.type, other.id))
        self.assertEqual("<message xml:lang='cs' to='ž' type=''><a/></message>".encode(), one.data)
        self.assertEqual((("jabber:server}a",), ()), (one.payloads, other.payloads))
        data.clear()  # no match object locks it

    def test_not_plain(self) -> None:
        """Unusual stanzas are left to the handlers."""
        for data in (
            b"", b" ", b"text", b"<mess", b"<message", b"<message>", b"<message><body>", b"<message></messag", b"<message></message >", b"<message\tto='a'/>",
            b"<message to='&amp;'/>", b"<message to='a\tb'/>", b"<message to='<'/>", b"<message to=\"a'/>", b"<message to='a\"'/>", b"<message to=a/>",
            b"<message to='a'from='b'/>", b"<message lang='a'/>", b"<message xmlns='jabber:server'/>", b"<message xmlns:a='b'/>", b"<message a:to='b'/>",
            b"<x:message/>", b"<message:x/>", b"<messages/>", b"<message/ >", b"<message><message/></message>", b"<message><messages/></message>",
            b"<message to='\xff'/>", b"<message to='\xed\xa0\x80'/>", b"<a/><message/>", b"\xc2\xa0<message/>", b"\0<message/>", b"\x0b<message/>",
        ):
            self.assertEqual(([], 0), found(data), data)

    def test_limits(self) -> None:
        """A stanza that may exceed a limit is not plain. One that cannot is."""
        for limits, good, bad in (
            (FramingLimits(stanza_bytes=40), b"<iq>" + b"x" * 31 + b"</iq>", b"<iq>" + b"x" * 32 + b"</iq>"),
            (FramingLimits(stanza_bytes=40), b"<iq id='%b'/>" % (b"x" * 29), b"<iq id='%b'/>" % (b"x" * 30)),
            (FramingLimits(depth=5), b"<iq><a><b><c/></b></a></iq>", b"<iq><a><b><c><d/></c></b></a></iq>"),
            (FramingLimits(children=3), b"<iq><a/><a/><a/></iq>", b"<iq><a/><a/><a/><a/></iq>"),
            (FramingLimits(children=20), b"<iq>" + b"<a/>" * 20 + b"</iq>", b"<iq>" + b"<a/>" * 21 + b"</iq>"),
            (FramingLimits(attributes=5), b"<iq><a a='' b='' c='' d='' e=''/></iq>", b"<iq><a a='' b='' c='' d='' e='' f=''/></iq>"),
        ):
            self.assertEqual(([good], len(good)), found(good, limits))
            self.assertEqual(([], 0), found(bad, limits))
            self.assertNotIsInstance(both(HEADER, [good], limits)[1][0][-1], Fault)
            self.assertIsInstance(both(HEADER, [bad], limits)[1][0][-1], Fault)
        self.assertEqual(([], 0), found(b"<iq>" + b"x" * 32 + b"</iq>", FramingLimits(tag_bytes=40)))

    def test_names(self) -> None:
        """The length of a child's name with its namespace is limited, whichever is long, and wherever the namespace is declared."""
        for size in range(NAME_LENGTH - 60, NAME_LENGTH + 2):
            for namespace, content in (
                ("", b"<%b/>" % (b"n" * size)), ("", b"<a xmlns='%b'/>" % (b"n" * size)), ("", b"y" * 700 + b"<a xmlns='%b'/>" % (b"n" * size)),
                ("n" * size, b"<x:a/>"), ("n" * (size - 100), b"<x:%b/>" % (b"a" * 100)),
            ):
                head = header(more=f"xmlns:x='{namespace or 'urn:x'}'")
                limits = FramingLimits(declared_bytes=2000)
                one, other = both(head, [b"<iq>" + content + b"</iq>"], limits)
                self.assertEqual(other, one, size)
        self.assertIsNone(plain_bounds(LIMITS, ["n" * (NAME_LENGTH - 1)]))

    def test_long(self) -> None:
        """Long text makes a stanza unusual. Many short pieces do not."""
        for content, plain in ((b"<b>x</b>" * 50, True), (b"<b>x</b>" * 62, False), (b"=" * 64, True), (b"x" * 300 + b"=" * 65, False), (b"x" * 2000, False)):
            data = b"<message>" + content + b"</message>"
            self.assertEqual(([data], len(data)) if plain else ([], 0), found(data), content[:9])
        pieces = b"<b>" + (b"x" * 400 + b"</b><b>") * 8 + b"</b>"
        self.assertEqual(1, len(found(b"<message>" + pieces + b"</message>")[0]))

    def test_acknowledgements(self) -> None:
        """Requests and acknowledgements of XEP-0198 are found too, up to their limit."""
        bounds = plain_bounds(LIMITS, ())
        assert bounds is not None
        request, acknowledgement = Element("r", MANAGEMENT), Element("a", MANAGEMENT, {"h": "4294967295"})
        for data, expected in (
            (b"<r xmlns='urn:xmpp:sm:3'/>", request), (b' \n<r xmlns="urn:xmpp:sm:3" />', request),
            (b"<a xmlns='urn:xmpp:sm:3' h='4294967295'/>", acknowledgement), (b"<a h=\"4294967295\" xmlns='urn:xmpp:sm:3'/>", acknowledgement),
        ):
            found, end, number = plain_stanzas(bytearray(data + MESSAGE + data), 0, bounds, Declarations({}, None), 2)
            self.assertEqual(([expected, expected], 2 * len(data + MESSAGE) - len(MESSAGE), 2), ([found[0], found[2]], end, number))
            self.assertEqual((len(data + MESSAGE), 1), plain_stanzas(bytearray(data + MESSAGE + data), 0, bounds, Declarations({}, None), 1)[1:])
            self.assertEqual(([], 0, 0), plain_stanzas(bytearray(data), 0, bounds, Declarations({}, None)))
        for data in (b"<r/>", b"<a h='1'/>", b"<r xmlns='urn:x'/>", b"<a xmlns='urn:xmpp:sm:3' h='x'/>", b"<a xmlns='urn:xmpp:sm:3' h='12345678901'/>",
                     b"<r xmlns='urn:xmpp:sm:3'></r>", b"<x:r xmlns='urn:xmpp:sm:3'/>", b"<r xmlns='urn:xmpp:sm:3' x='y'/>", b"<b xmlns='urn:xmpp:sm:3'/>"):
            self.assertEqual(([], 0, 0), plain_stanzas(bytearray(data), 0, bounds, Declarations({}, None), 9), data)

    def test_acknowledgements_have_their_limit(self) -> None:
        """The framer stops behind the limit in one feed, and behind one that requires a stop. With small limits the handlers read them."""
        data = b"<r xmlns='urn:xmpp:sm:3'/>" * 9
        for limits in (LIMITS, FramingLimits(elements=1), FramingLimits(elements=2), FramingLimits(elements=9), FramingLimits(element_bytes=20)):
            for chunks in ([data, MESSAGE, data], [data[: len(data) // 9 * 5] + b"<x xmlns='urn:x'/>" + data]):
                one, other = both(HEADER, chunks, limits)
                self.assertEqual(other, one)
        stop_at = frozenset({f"{MANAGEMENT}}}r"})
        framer = Framer(stop_at=stop_at)
        framer.feed(HEADER)
        framer.feed(data)
        self.assertEqual((True, data[len(data) // 9 :]), (framer.stopped, framer.leftover))

    def test_no_bounds(self) -> None:
        """Before authentication no stanza is plain, nor with limits below the usual."""
        self.assertIsNone(plain_bounds(FramingLimits(stream_bytes=100000), ()))
        self.assertIsNone(plain_bounds(FramingLimits(attributes=4), ()))


class PathTests(SynchronousTestCase):
    """Tests of when the framer looks for plain stanzas."""

    def calls_handlers(self, framer: Framer, data: bytes) -> bool:
        """Return whether the handlers of expat were called."""
        calls: list[str] = []
        start = framer._start_tag

        class Spy(Framer):
            __slots__ = ()

            def _start_tag(self, name: str, attributes: dict[str, str]) -> None:
                calls.append(name)
                start(name, attributes)

        framer.__class__ = Spy
        framer.rest()  # the next parser has the spy's handlers
        framer.feed(data)
        framer.__class__ = Framer
        framer.rest()
        return bool(calls)

    def test_no_handler_is_called(self) -> None:
        """A plain stanza needs no call of a handler. Elements between are read by the handlers, and the next stanza is plain again."""
        framer = Framer()
        framer.feed(HEADER)
        self.assertFalse(self.calls_handlers(framer, MESSAGE * 3))
        self.assertFalse(self.calls_handlers(framer, MESSAGE + b"<r xmlns='urn:xmpp:sm:3'/>" + MESSAGE))
        self.assertTrue(self.calls_handlers(framer, MESSAGE + b"<r xmlns='urn:x'/>" + MESSAGE))
        self.assertFalse(self.calls_handlers(framer, MESSAGE))
        framer.limits = FramingLimits(stream_bytes=10**6)
        self.assertTrue(self.calls_handlers(framer, MESSAGE))
        framer.limits = LIMITS
        self.assertFalse(self.calls_handlers(framer, MESSAGE))

    def test_mixed(self) -> None:
        """Between other elements, and after a stanza that arrived in two parts, stanzas are plain."""
        calls: list[int] = []

        class Counting(Framer):
            __slots__ = ()

            def _take_plain_stanzas(self) -> bool:
                before = len(self._events)
                taken = super()._take_plain_stanzas()
                calls.append(len(self._events) - before)
                return taken

        framer = Counting()
        framer.feed(HEADER)
        between = b"<r xmlns='urn:x'/><a xmlns='urn:x' h='7'/>"
        for cut, plain in ((50, 4), (100, 3)):  # in the start tag and after it
            framer.feed(MESSAGE[:cut])
            calls.clear()
            self.assertEqual(10, len(framer.feed(MESSAGE[cut:] + (between + MESSAGE) * 3)))
            self.assertEqual(plain, sum(calls))

    def test_nested(self) -> None:
        """If end tags do not end the stanza, they are not searched one by one."""
        ends: list[int] = []

        class Counting(Framer):
            __slots__ = ()

            def _parse(self, end: int) -> None:
                ends.append(end)
                super()._parse(end)

        framer = Counting()
        framer.feed(HEADER)
        framer.feed(b"<message>" + b"<message></message>" * 100 + b"</message>" + MESSAGE)
        self.assertLess(len(ends), 6)

    def test_not_again(self) -> None:
        """A stanza that only looks plain makes a new parser once. The handlers then read the stream until the parser is replaced."""
        framer = Framer()
        framer.feed(HEADER + MESSAGE)
        self.assertIsNotNone(framer._bounds)
        section = b"<message><![CDATA[</message>]]></message>"
        self.assertEqual(2, len(framer.feed(MESSAGE + section)))
        self.assertIsNone(framer._bounds)
        parser = framer._parser
        framer.feed(section * 5)
        self.assertIs(parser, framer._parser)
        framer.rest()
        framer.feed(MESSAGE)
        self.assertIsNotNone(framer._bounds)


class SameTests(SynchronousTestCase):
    """With plain stanzas and without, the framer gives the same events."""

    def assertSame(self, head: bytes, chunks: list[bytes], limits: FramingLimits = LIMITS) -> None:
        one, other = both(head, chunks, limits)
        self.assertEqual(other, one, chunks)

    def test_transcripts(self) -> None:
        """The same holds for valid and invalid input, between stanzas and inside one, with several endings."""
        for data in (*(data for data, _ in TRANSCRIPTS.values()), *(data for data, _ in REFUSED.values())):
            for begin, end in (
                (b"", b""), (b"<message>", b"</message>"), (b"<message>", b"</message ><iq/></message>"), (b"<iq><a b='", b"'/></iq>"),
                (b"<iq><a>", b"</iq></a></iq>"), (b"<presence>" + b"x" * 400, b"</presence>"), (b"<iq to='", b"'/>"), (b"<iq><a/>", b"</iq></stream:stream>"),
            ):
                stream = MESSAGE + begin + data + end + MESSAGE
                self.assertSame(HEADER, [stream])
                self.assertSame(HEADER, [stream[:150], stream[150:]])

    def test_what_hides_an_end(self) -> None:
        """A text that looks like an end tag, and an end by another tag, give the same events."""
        for data in (
            b"<message><![CDATA[</message>]]></message>", b"<message><![CDATA[</message><iq>]]></iq></message>", b"<message><a b='</message>'/></message>",
            b"<message><!--</message>--></message>", b"<message><?a </message>", b"<message><?a </message>?></message>", b"<message><?a </message><iq/>?>",
            b"<message><a></message>", b"<message></a></message>", b"<message></message ></message>", b"<message></message ><iq/></message>",
            b"<message></message ></stream:stream></message>", b"<message><iq></message></iq>", b"<message></iq></message>", b"<message>]]></message>",
            b"<message><a b='1' b='2'/></message>", b"<message to='a' to='b'/>", b"<iq xml:lang='a' xml:lang='b'/>", b"<message><x:a/></message>",
            b"<message><a x:b=''/></message>", b"<message>&nbsp;</message>", b"<message>\x01</message>", b"<message>\xff</message>", b"<message to='\xef\xbf\xbe'/>",
            b"<message to='\x01'/>", b"<message><a xmlns:x='a}b'/></message>", b"<message><xml:a/></message>", b"<message><a xmlns:xml='urn:a'/></message>",
            b"<message><a xmlns:x=''/></message>", b"<message><db:a/><stream:b/></message>", b"<message></stream:stream></message>", b"<message></ message></message>",
        ):
            for after in (b"", MESSAGE, b"?>", b"]]></message>", b"'/></message>", b"--></message>", b"</stream:stream>"):
                self.assertSame(HEADER, [MESSAGE + data + after])
                self.assertSame(HEADER, [MESSAGE + data, after])
                self.assertSame(HEADER, bytewise(data + after))

    def test_prefixes_and_language(self) -> None:
        """The header's declarations are added to plain stanzas, too."""
        head = header(more="xmlns:x='urn:x' xmlns:db='jabber:server:dialback' xml:lang='cs'")
        self.assertSame(head, [b"<iq><x:a/></iq><message xml:lang=''><a xmlns:x='urn:y'/></message><presence to='a'><db:b/></presence>"])

    def test_exchange_of_the_parser(self) -> None:
        """A fault after many plain stanzas, and after a new parser, is the same."""
        for fault in (b"x", b"<message>&x;</message>", b"<message><![CDATA[]]></message>", b"</stream:stream>"):
            self.assertSame(HEADER, [MESSAGE * 3000, MESSAGE[:30], MESSAGE[30:] + MESSAGE * 30 + fault, MESSAGE])


# --- properties ----------------------------------------------------------------------------------------------------------

_STARTS = (
    b"<message>", b"<message to='a@b' from='c@d/e' type='chat' id='1'>", b"<presence from=\"a\" to='b'>", b"<iq id='1' xml:lang='de'>", b"<iq >",
    b"<message to='&amp;'>", b"<message\tto='a'>", b"<message xmlns='jabber:server'>", b"<iq xmlns='urn:y'>", b"<iq a='b'>", b"<message to='a' to='b'>",
    "<iq id='ž'>".encode(), b"<iq id='\xff'>", b"<presence id='>'>", b"<presence xml:lang='' xml:space='a'>", b"<x:iq>",
)
_EMPTY = (b"<r xmlns='urn:xmpp:sm:3'/>", b"<a h='1' xmlns=\"urn:xmpp:sm:3\"/>", b"<message/>", b"<presence to='a' />", b"<iq id='1' type='result'/>", b"<presence from='\xef\xbf\xbe'/>", b"<message to='/>'/>")
_ENDS = (b"</message>", b"</presence>", b"</iq>", b"</message >", b"</iq\n>")
_CONTENT = (
    b"text", b"<a/>", b"<a>", b"</a>", b"<b xmlns='urn:b' c='d'>e</b>", b"<b c='</message>'/>", b"<b c=\"'\" d='' e='' f=''/>", b"<x:a x:b=''/>", b"<y:a/>",
    b"<db:a/>", b"<stream:a/>", b"<messages/>", b"<iqx>", b"&amp;", b"&x;", b"&#1;", b"<![CDATA[", b"]]>", b"<!--", b"-->", b"<?a", b"?>", b"<!DOCTYPE a>",
    b"<", b">", b"'", b'"', b"=", b"\0", b"\xc3", b"\xa9", b"\xed\xa0\x80", b" ", b"\r\n", b"x" * 130, b"<a>" * 4, b"</a>" * 4, b"=" * 66, b"<a/>" * 130,
    b"</stream:stream>", b"<r xmlns='urn:xmpp:sm:3'/>", b"<a xmlns='urn:xmpp:sm:3' h='1'/>", b"<a h='1' h='2'/>", b"<r/>", b"<stream:error>", b"</stream:error>",
)
_PARTS = st.lists(st.sampled_from(_STARTS + _EMPTY + _ENDS + _CONTENT), max_size=4).map(b"".join)
_WELL_FORMED = st.sampled_from([part for part in _CONTENT if part.startswith(b"<") and part.endswith((b"/>", b"</b>"))] + [b"text", b"&amp;", b""])


def _whole(start: bytes, content: list[bytes], end: int) -> bytes:
    name = start[1:].split(b">")[0].split(b" ")[0].split(b"\t")[0]
    return start + b"".join(content) + b"</" + name + (b" " if end == 9 else b"") + b">"


_ITEMS = st.one_of(
    st.just(MESSAGE), st.builds(_whole, st.sampled_from(_STARTS[:5]), st.lists(_WELL_FORMED, max_size=4), st.integers(0, 9)), st.sampled_from(_EMPTY[:5]),
    st.builds(_whole, st.sampled_from(_STARTS), st.lists(st.sampled_from(_CONTENT + _EMPTY), max_size=4), st.integers(0, 9)), _PARTS,
)
_HEADS = st.sampled_from([HEADER, header(more="xmlns:x='urn:x' xml:lang='cs'"), header(more="xmlns:x='" + "n" * 880 + "'")])


def _pieces(data: bytes, chance: random.Random) -> list[bytes]:
    sizes = chance.choice(((10000,), (1, 2, 3), (30, 100, 400), (1, 50, 1000)))
    pieces = []
    while data:
        size = chance.choice(sizes)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


class PropertyTests(SynchronousTestCase):
    """Tests of properties of every stream."""

    @given(_HEADS, st.lists(_ITEMS, max_size=8), st.randoms(use_true_random=False))
    @settings(max_examples=4 * EXAMPLES, deadline=None)
    def test_same(self, head: bytes, items: list[bytes], chance: random.Random) -> None:
        """Valid or not, whole or cut: with plain stanzas and without there are the same events, faults and remaining bytes."""
        one, other = both(head, _pieces(b"".join(items), chance))
        self.assertEqual(other, one)

    @given(_HEADS, st.lists(_ITEMS, max_size=8), st.randoms(use_true_random=False))
    @settings(max_examples=4 * EXAMPLES, deadline=None)
    def test_same_limits(self, head: bytes, items: list[bytes], chance: random.Random) -> None:
        """The same holds with small limits. If a stanza breaks two rules at once, either may be reported, as with pieces of other sizes."""
        limits = replace(SMALL, attributes=chance.choice((5, 6)), children=chance.choice((1, 3, 100)), stanza_bytes=chance.choice((60, 150, 5000)))
        one, other = both(head, _pieces(b"".join(items), chance), limits)
        for events in (one[0], other[0]):
            if events and isinstance(events[-1], Fault):
                events[-1] = Fault
        self.assertEqual(other, one)

    @given(st.lists(_ITEMS, max_size=8), st.randoms(use_true_random=False))
    @settings(max_examples=4 * EXAMPLES, deadline=None)
    def test_cuts_do_not_matter(self, items: list[bytes], chance: random.Random) -> None:
        """However a stream is cut, its events are the same."""
        data = b"".join(items)
        whole = read(Framer(replace(LIMITS, elements=1000)), [HEADER + data])
        cut = read(Framer(replace(LIMITS, elements=1000)), [HEADER, *_pieces(data, chance)])
        self.assertEqual(whole, cut)
        self.assertTrue(all(not isinstance(event, Close | Fault) for event in whole[0][:-1]))
