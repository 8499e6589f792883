"""Tests of stanzas in another content namespace: they are written as they were read, and those that jabberd2 would break are not."""

from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp import content_namespace
from s2sgw.xmpp.content_namespace import NAMESPACES, NamespaceRewriter, Unrepresentable, is_fit, to_client
from s2sgw.xmpp.namespaces import CLIENT, SERVER, STREAM
from s2sgw.xmpp.restricted_xml import restricted_parser
from tests.support.examples import EXAMPLES

CONTEXT = f"<stream:stream xmlns='{SERVER}' xmlns:stream='{STREAM}'>"


def shape(data: bytes, source: str = "", target: str = "") -> object:
    """Return everything of an element except its spelling, with the content namespace `source` as `target`."""
    root = ElementTree.fromstring(f"{CONTEXT}{data.decode()}</stream:stream>")[0]
    return _shape(root, True, source, target)


def _shape(element: ElementTree.Element, in_content: bool, source: str, target: str) -> object:
    name, mark = element.tag, f"{{{source}}}"
    is_content = in_content and name.startswith(mark)
    if is_content:
        name = f"{{{target}}}{name[len(mark):]}"
    children = [(_shape(each, is_content, source, target), each.tail or "") for each in element]
    return name, sorted(element.attrib.items()), element.text or "", children


class ToClientTests(SynchronousTestCase):
    """Tests of stanzas from our streams to jabberd2's router."""

    def assertWritten(self, expected: str, stanza: str) -> None:
        self.assertEqual(expected, to_client(stanza.encode()).decode())
        self.assertTrue(is_fit(stanza.encode()))
        self.assertEqual(shape(stanza.encode(), SERVER, CLIENT), shape(expected.encode()))

    def test_plain(self) -> None:
        """If only one declaration is missing, it is inserted."""
        self.assertWritten(
            "<message xmlns='jabber:client' to='a' xml:lang='de'><body>&lt;ü</body><x xmlns=\"urn:x\"/></message>",
            "<message to='a' xml:lang='de'><body>&lt;ü</body><x xmlns=\"urn:x\"/></message>",
        )
        self.assertWritten("<iq xmlns='jabber:client'/>", "<iq/>")

    def test_prefixes(self) -> None:
        """Elements lose their prefixes, and the outermost element declares each once. Those of the stream header are known."""
        self.assertWritten(
            "<message xmlns:p='urn:p' xmlns:stream='http://etherx.jabber.org/streams' xmlns='jabber:client'>"
            "<a xmlns='urn:p' p:b='1' b='2'><c p:d='3'/></a><z xmlns='http://etherx.jabber.org/streams' stream:y='4'/></message>",
            "<message><p:a xmlns:p='urn:p' p:b='1' b='2'><q:c xmlns:q='urn:p' q:d='3'/></p:a><stream:z stream:y='4'/></message>",
        )

    def test_one_prefix_for_two(self) -> None:
        """A prefix that is declared again gets another name."""
        self.assertWritten(
            "<message xmlns:p='urn:1' xmlns:n0='urn:2' xmlns='jabber:client'><a xmlns='urn:x' p:b='1'/><a xmlns='urn:x' n0:b='1'/></message>",
            "<message><a xmlns='urn:x' xmlns:p='urn:1' p:b='1'/><a xmlns='urn:x' xmlns:p='urn:2' p:b='1'/></message>",
        )

    def test_content_and_payload(self) -> None:
        """Elements of the content namespace from the stanza down are converted, in any spelling. A stanza within a payload is not changed."""
        self.assertWritten(
            "<message xmlns='jabber:client'><body/><f xmlns='urn:f'><message xmlns='jabber:client'><body/></message>"
            "<message xmlns='jabber:server'><body/></message></f></message>",
            "<message xmlns:s='jabber:server'><s:body/><f xmlns='urn:f'><message xmlns='jabber:client'><body/></message>"
            "<s:message><body xmlns='jabber:server'/></s:message></f></message>",
        )

    def test_text(self) -> None:
        """Text, also of CDATA, is escaped again, at its place."""
        self.assertWritten(
            "<message xmlns:p='urn:p' xmlns='jabber:client'>a<body>]]&gt;&lt;/route&gt;</body>b&#13;<x xmlns='urn:x' y='&apos;&#10;'/>c</message>",
            "<message xmlns:p='urn:p'>a<body>]]&gt;<![CDATA[</route>]]></body>b&#13;<x xmlns='urn:x' y=\"'&#10;\"/>c</message>",
        )

    def test_unfit(self) -> None:
        """Stanzas that jabberd2 writes without escaping, truncates, confuses or takes for its own are refused with the reason."""
        many = "".join(f"<x xmlns='urn:{number}'/>" for number in range(NAMESPACES))
        for why, inside in {
            "does not escape": "<x xmlns='a&apos; b=&apos;c'/>", "escape": "<x xmlns='http://a/?b&amp;c'/>", "not escape": "<x xmlns='a|b'/>",
            "that jabberd2 does": "<p:x xmlns:p='&lt;/route>'/>", "too long": f"<x xmlns='urn:{'x' * 960}'/>",
            "is too long": f"<{'x' * 980}/>", "name that is": f"<x {'x' * 980}='1'/>", "no namespace": "<x xmlns=''/>",
            "XML itself": "<xml:x/>", "attribute in the": "<x xmlns='urn:x' xmlns:c='jabber:client' c:d='1'/>",
            "own": "<x xmlns='http://jabberd.jabberstudio.org/ns/component/1.0'/>", "more than": many,
        }.items():
            data = f"<message>{inside}</message>".encode()
            self.assertIn(why, str(self.assertRaises(Unrepresentable, to_client, data)))
            self.assertFalse(is_fit(data))

    def test_what_looks_like_a_declaration(self) -> None:
        """A text that could hide a declaration from the quick check is checked again."""
        self.assertFalse(is_fit(b"<message><body a=\"xmlns='\" xmlns='a&apos;b'/></message>"))
        self.assertFalse(is_fit(b"<message><body>xmlns='</body><x xmlns='a&apos;b'/></message>"))
        self.assertWritten("<message xmlns='jabber:client'><body>xmlns='&amp;'</body></message>".replace("'&amp;'", "&apos;&amp;&apos;"), "<message><body>xmlns='&amp;'</body></message>")


def to_server(data: bytes) -> bytes:
    parser = restricted_parser(prefixes=True)
    parser.Parse(CONTEXT.encode(), False)
    written = NamespaceRewriter(CLIENT, SERVER, around=SERVER)
    written.hear(parser)
    parser.Parse(data, False)
    return written.written


NAMES = st.sampled_from(["a", "b", "body", "message", "route", "x"])
SPACES = st.sampled_from([SERVER, CLIENT, "", "urn:x", "urn:y", "http://z/?a&b", "it's", "urn:" + "l" * 950])
PREFIXES = st.sampled_from(["", "p", "q", "n0", "stream"])
TEXTS = st.text(alphabet="a<>&'\"]\t\n é", max_size=6)


@st.composite
def elements(draw: st.DrawFn, depth: int = 0) -> str:
    """Return an element with declarations, attributes and children of every kind. Namespaces are declared where they are used."""
    prefix, namespace = draw(PREFIXES), draw(SPACES)
    name = draw(NAMES)
    if prefix and not namespace:
        prefix = ""
    declared = {prefix: namespace}
    attributes = ""
    used = set()
    for _ in range(draw(st.integers(0, 2))):
        own, space = draw(PREFIXES), draw(SPACES)
        called = draw(NAMES)
        if own and space and own not in declared and (space, called) not in used:
            declared[own] = space
            used.add((space, called))
            attributes += f" {own}:{called}={_quoted(draw(TEXTS))}"
    attributes += f" {draw(NAMES)}={_quoted(draw(TEXTS))}"
    spelled = "".join(f" xmlns{':' if each else ''}{each}={_quoted(space)}" for each, space in declared.items())
    children = [] if depth > 2 else draw(st.lists(elements(depth + 1), max_size=3))
    inside = "".join(_escaped(draw(TEXTS)) + each for each in children) + _escaped(draw(TEXTS))
    tag = f"{prefix}:{name}" if prefix else name
    return f"<{tag}{spelled}{attributes}>{inside}</{tag}>"


def _quoted(text: str) -> str:
    return "'" + _escaped(text).replace("\t", "&#9;").replace("\n", "&#10;") + "'"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("'", "&apos;")


class AnyStanzaTests(SynchronousTestCase):
    """Any stanza of a peer is converted exactly, or not at all."""

    @settings(max_examples=EXAMPLES * 4, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors])
    @given(st.lists(elements(), max_size=3))
    def test_exact_or_unfit(self, children: list[str]) -> None:
        """The element is the same except for its content namespace, with both methods, and the same again after the way back."""
        data = f"<message to='a'>{''.join(children)}</message>".encode()
        if not is_fit(data):
            self.assertRaises(Unrepresentable, to_client, data)
            return
        written = to_client(data)
        self.assertEqual(shape(data, SERVER, CLIENT), shape(written))
        self.assertEqual(shape(content_namespace._rewritten(data)), shape(written))
        self.assertEqual(shape(written, CLIENT, SERVER), shape(to_server(written)))

    @settings(max_examples=EXAMPLES * 4, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors])
    @given(elements())
    def test_back(self, child: str) -> None:
        """In the other direction every stanza can be converted."""
        data = f"<message xmlns='jabber:client'>{child}</message>".encode()
        self.assertEqual(shape(data, CLIENT, SERVER), shape(to_server(data)))
