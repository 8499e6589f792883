"""Tests of element trees in a negotiation: reading, writing, escaping (RFC 6120 §4.9, §8.3, §11.1)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp.element import (
    CONTEXT,
    ERROR_TYPES,
    NODES,
    Element,
    child_names,
    escape,
    escape_attribute,
    stanza_error,
    stream_error,
)
from s2sgw.xmpp.errors import RemoteFault, StanzaCondition, StreamCondition
from s2sgw.xmpp.namespaces import DIALBACK, SASL, SERVER, STANZA_ERRORS, STREAM, STREAM_ERRORS, TLS, XML


class WritingTests(SynchronousTestCase):
    """Tests of an element's spelling on a stream of ours."""

    def assertWritten(self, expected: str, element: Element, default: str = SERVER) -> None:
        self.assertEqual(expected, element.to_xml(default).decode())

    def test_default_namespace(self) -> None:
        """A namespace is declared where it differs from the surrounding one, and nowhere else."""
        self.assertWritten("<iq/>", Element("iq", SERVER))
        self.assertWritten("<iq xmlns='jabber:server'/>", Element("iq", SERVER), "jabber:client")
        nested = Element("a", "urn:a", children=[Element("b", "urn:a"), Element("c", SERVER, children=[Element("d", "")])])
        self.assertWritten("<a xmlns='urn:a'><b/><c xmlns='jabber:server'><d xmlns=''/></c></a>", nested)
        self.assertWritten("<a xmlns='&apos;&amp;'/>", Element("a", "'&"))

    def test_prefixes_of_our_headers(self) -> None:
        """R3: stream and dialback elements have the prefixes that our headers declare. The default namespace does not change."""
        features = Element("features", STREAM, children=[Element("starttls", TLS, children=[Element("required", TLS)])])
        self.assertWritten(
            "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>", features
        )
        result = Element("result", DIALBACK, {"from": "a", "to": "b"}, [Element("error", SERVER)])
        self.assertWritten("<db:result from='a' to='b'><error/></db:result>", result)

    def test_attributes(self) -> None:
        """Attributes are quoted. One in a namespace gets a prefix."""
        element = Element("a", SERVER, {"b": "'\"<&>\t\n\r", f"{XML}}}lang": "cs", "urn:x}y": "1", "urn:'}z": "2"})
        self.assertWritten(
            "<a b='&apos;&quot;&lt;&amp;&gt;&#9;&#10;&#13;' xml:lang='cs' xmlns:n2='urn:x' n2:y='1' xmlns:n3='urn:&apos;' n3:z='2'/>",
            element,
        )

    def test_text(self) -> None:
        """Text is escaped and comes before the children."""
        self.assertWritten("<a>&lt;]]&gt;\n<b/></a>", Element("a", SERVER, text="<]]>\n", children=[Element("b", SERVER)]))

    def test_escape(self) -> None:
        """R34: for any text the output is well-formed XML."""
        self.assertEqual("&amp;amp; \t\n&#13; ž \ufffd\ufffd\ufffd", escape("&amp; \t\n\r ž \0\ud800\ufffe"))
        self.assertEqual("&#9;&#10;&#13;\ufffd𝄞", escape_attribute("\t\n\r\x1f𝄞"))

    def test_errors(self) -> None:
        """R15, R34: an error has its condition, its type and an English text, if there is one."""
        self.assertWritten(
            "<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
            "<text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>a &amp; b</text></stream:error>",
            stream_error(StreamCondition.HOST_UNKNOWN, "a & b"),
        )
        self.assertEqual([Element("reset", STREAM_ERRORS)], stream_error(StreamCondition.RESET).children)
        self.assertWritten(
            "<error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>",
            stanza_error(StanzaCondition.ITEM_NOT_FOUND),
        )
        self.assertEqual("why", stanza_error(StanzaCondition.FORBIDDEN, "why").children[1].text)

    def test_every_condition_has_a_type(self) -> None:
        """RFC 6120 §8.3.2: each condition has one of the five types."""
        self.assertEqual(set(StanzaCondition), set(ERROR_TYPES))
        self.assertLessEqual(set(ERROR_TYPES.values()), {"auth", "cancel", "continue", "modify", "wait"})
        self.assertEqual(Element("bad-request", STANZA_ERRORS), stanza_error(StanzaCondition.BAD_REQUEST).children[0])


class ReadingTests(SynchronousTestCase):
    """Tests of `Element.parse` and of access to its result."""

    def test_parse(self) -> None:
        """Names, attributes, children and text are available. Text is joined."""
        element = Element.parse(b"<iq to='a' xml:lang='cs'>x<q xmlns='urn:q' xmlns:y='urn:y' y:b='1'><![CDATA[<]]>&amp;</q>y</iq>")
        query = Element("q", "urn:q", {"urn:y}b": "1"}, text="<&")
        self.assertEqual(Element("iq", SERVER, {"to": "a", f"{XML}}}lang": "cs"}, [query], "xy"), element)

    def test_context(self) -> None:
        """The declarations of the context apply, by default those of our headers."""
        self.assertEqual(Element("result", DIALBACK), Element.parse(b"<db:result/>"))
        self.assertEqual(Element("a", "urn:x"), Element.parse(b"<x:a/>", b"<x:b xmlns:x='urn:x'>"))
        self.assertEqual(Element("features", STREAM), Element.parse(b" <stream:features/> ", CONTEXT))

    def test_children(self) -> None:
        """Children are found by namespace and name."""
        first, second, other = Element("m", SASL, text="1"), Element("m", SASL, text="2"), Element("m", TLS)
        element = Element("a", SASL, children=[other, first, second])
        self.assertIs(first, element.child(SASL, "m"))
        self.assertEqual([first, second], list(element.every(SASL, "m")))
        self.assertIsNone(element.child(SASL, "n"))
        self.assertIsNone(element.child(SERVER, "m"))

    def test_refused(self) -> None:
        """R31: a text that is not exactly one element, or is restricted, is a fault with its condition."""
        for data, condition in (
            (b"", StreamCondition.NOT_WELL_FORMED),
            (b"text", StreamCondition.NOT_WELL_FORMED),
            (b"<a/><b/>", StreamCondition.NOT_WELL_FORMED),
            (b"<a>", StreamCondition.NOT_WELL_FORMED),
            (b"<a/></stream:stream>", StreamCondition.NOT_WELL_FORMED),
            (b"<a", StreamCondition.NOT_WELL_FORMED),
            (b"<a></b>", StreamCondition.NOT_WELL_FORMED),
            (b"<a/><b", StreamCondition.NOT_WELL_FORMED),
            (b"text<a/>", StreamCondition.NOT_WELL_FORMED),
            (b"<x:a/>", StreamCondition.NOT_WELL_FORMED),
            (b"<a><!-- --></a>", StreamCondition.RESTRICTED_XML),
            (b"<a>&b;</a>", StreamCondition.RESTRICTED_XML),
        ):
            fault = self.assertRaises(RemoteFault, Element.parse, data)
            self.assertEqual(condition, fault.condition, data)

    def test_bounds(self) -> None:
        """R32: the number of elements in a tree, its depth and the length of names are limited."""
        Element.parse(b"<a>" + b"<b/>" * (NODES - 1) + b"</a>")
        Element.parse(b"<a>" * 64 + b"</a>" * 64)
        for data in (
            b"<a>" + b"<b/>" * NODES + b"</a>", b"<a>" * 65 + b"</a>" * 65, b"<a xmlns='%s'/>" % (b"n" * 1024),
        ):
            fault = self.assertRaises(RemoteFault, Element.parse, data)
            self.assertEqual(StreamCondition.POLICY_VIOLATION, fault.condition)

    def test_namespaces(self) -> None:
        """R32: a namespace that is declared once is in memory once."""
        tree = Element.parse(b"<n:a xmlns:n='urn:n'>" + b"<n:b><n:c/></n:b>" * 3 + b"</n:a>")
        every = [tree, *tree.children, *(inner for child in tree.children for inner in child.children)]
        self.assertEqual(({"urn:n"}, 1), ({each.namespace for each in every}, len({id(each.namespace) for each in every})))

    def test_long_text(self) -> None:
        """Text of any length and shape is joined."""
        self.assertEqual("a\n&" * 9000, Element.parse(b"<a>" + b"a\n&amp;" * 9000 + b"</a>").text)


class ChildNamesTests(SynchronousTestCase):
    """Tests of `child_names`."""

    def test_names(self) -> None:
        """The children of an element are listed in order, without their content."""
        for data, names in (
            (b"<iq/>", ()), (b"<iq>text</iq>", ()),
            (b"<iq><a/><b xmlns='urn:b'><c/></b><db:a/><stream:x/><d xmlns=''/></iq>", (f"{SERVER}}}a", "urn:b}b", f"{DIALBACK}}}a", f"{STREAM}}}x", "d")),
            (b"<message xmlns:p='urn:p'><p:a/><p:a/></message>", ("urn:p}a", "urn:p}a")),
        ):
            self.assertEqual(names, child_names(data), data)

    def test_refused(self) -> None:
        """Text that is not well-formed, or restricted, is a fault."""
        for data, condition in ((b"<iq></a>", StreamCondition.NOT_WELL_FORMED), (b"<iq><!----></iq>", StreamCondition.RESTRICTED_XML)):
            self.assertEqual(condition, self.assertRaises(RemoteFault, child_names, data).condition)


_NAMES = st.sampled_from(["a", "b-1", "žluť"])
_NAMESPACES = st.sampled_from([SERVER, STREAM, DIALBACK, "urn:a", "urn:'&b", ""])
_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\ufffe\uffff" + "".join(
    chr(code) for code in range(32) if code not in (9, 10, 13))), max_size=10)
_ATTRIBUTES = st.dictionaries(st.sampled_from(["id", "to", f"{XML}}}lang", "urn:x}y", "urn:y}y"]), _TEXT, max_size=4)
_ELEMENTS = st.recursive(
    st.builds(Element, _NAMES, _NAMESPACES, _ATTRIBUTES, st.just([]), _TEXT),
    lambda inside: st.builds(Element, _NAMES, _NAMESPACES, _ATTRIBUTES, st.lists(inside, max_size=3), _TEXT),
    max_leaves=8,
)


class PropertyTests(SynchronousTestCase):
    """Writing and reading are inverse."""

    @given(_ELEMENTS)
    @settings(max_examples=200, deadline=None)
    def test_round_trip(self, element: Element) -> None:
        """Any element, written and read again, is the same."""
        self.assertEqual(element, Element.parse(element.to_xml()))

    @given(st.text(max_size=20))
    @settings(max_examples=200, deadline=None)
    def test_any_text_is_written(self, text: str) -> None:
        """Any text, whatever its content, is written as well-formed XML."""
        Element.parse(Element("a", SERVER, {"b": text}, text=text).to_xml())
