"""Fuzz target: the framer beside another parser, lxml (libxml2).

If the framer accepts input, lxml accepts it with the same elements, and each slice in a fresh stream is the same infoset as in its own. If
the framer refuses input, a rule of the list applies, which says whether other parsers may accept it.

One difference is known and accepted: libxml2 requires a URI reference as the name of a namespace, which is not a condition
of well-formed XML (Namespaces in XML 1.0 §2.2, §7). expat, which every tested server uses, does not require it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

from lxml import etree

from s2sgw.xmpp.element import Element
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.framing import Close, Fault, Framer
from s2sgw.xmpp.header import CLOSING_TAG, Header, stream_header
from s2sgw.xmpp.stanza import Stanza
from tests.fuzz.source import Source
from tests.fuzz.streams import LIMITS, words
from tests.fuzz.words import FRAGMENTS, HEADERS

XML = "{http://www.w3.org/XML/1998/namespace}"
#: Limits of an authenticated stream: its stanzas may be plain (docs/decisions.md#plain-stanzas).
AFTER = replace(LIMITS, stream_bytes=None)
FRESH = stream_header(to="a.example", from_="b.example")


class Rule(NamedTuple):
    """A rule by which the framer refuses input: its number, its condition and text, and whether it refuses good XML."""

    number: str
    condition: StreamCondition
    text: str
    refuses_good_xml: bool


_C = StreamCondition
RULES = (
    Rule("R14", _C.INVALID_NAMESPACE, r"the root element is not in the namespace .*|the default namespace is not jabber:server", True),
    Rule("R14", _C.BAD_FORMAT, "the root element is not a stream", True),
    Rule("R14", _C.BAD_NAMESPACE_PREFIX, "the prefix of the root element is not `stream`", True),
    Rule("R30", _C.BAD_NAMESPACE_PREFIX, "a stanza's start tag has a prefix", True),
    Rule("R30", _C.BAD_FORMAT, "a stanza's start tag has an attribute in a namespace", True),
    Rule("R30", _C.BAD_FORMAT, "text between the elements of the stream", True),
    Rule("R31", _C.RESTRICTED_XML, "(document type declarations|comments|processing instructions) are not allowed", True),
    Rule("R31", _C.RESTRICTED_XML, "entity references other than the predefined five are not allowed", False),
    Rule("R31", _C.UNSUPPORTED_ENCODING, "the XML declaration names an encoding other than UTF-8|the stream is not encoded in UTF-8", True),
    Rule("R31", _C.NOT_WELL_FORMED, "the XML version is not 1.0", True),
    Rule("R31", _C.NOT_WELL_FORMED, "the stream does not begin with a tag", False),
    Rule("R31", _C.NOT_WELL_FORMED, "XML: .*|not exactly one element", False),
    Rule("R32", _C.POLICY_VIOLATION, r"the (stanza|element|stream header|tag) is longer than \d+ bytes", True),
    Rule("R32", _C.POLICY_VIOLATION, r"more than \d+ (bytes before authentication|attributes)", True),
    Rule("R32", _C.POLICY_VIOLATION, r"(a stanza|an element)?.*more than \d+ (children|elements).*", True),
    Rule("R32", _C.POLICY_VIOLATION, r"elements nested more than \d+ deep", True),
    Rule("R32", _C.POLICY_VIOLATION, r"the name of an element or attribute, with its namespace, is longer than \d+ characters", True),
    Rule("R32", _C.POLICY_VIOLATION, r"the names of a stanza's children are more than \d+ characters longer than the stanza", True),
    Rule("R32", _C.POLICY_VIOLATION, r"the stream header declares more than \d+ bytes for each stanza", True),
)


def rule_of(fault: Fault) -> Rule:
    """Return the rule by which the framer refused; fail if there is none."""
    found = [rule for rule in RULES if rule.condition == fault.condition and re.fullmatch(rule.text, fault.text)]
    assert len(found) == 1, f"no rule, or several, for {fault}"
    return found[0]


def differential(data: bytes) -> None:
    """Compare the two parsers on one stream."""
    source = Source(data)
    stream = source.choose(HEADERS[:4])
    while source.more:
        stream += source.choose(FRAGMENTS) if source.flag() else words(source)
    compare(stream)


def compare(stream: bytes) -> None:
    """Compare the framer's result for a stream with lxml's."""
    events = Framer(AFTER).feed(stream)
    if events and isinstance(events[-1], Fault):
        fault = events.pop()
        assert isinstance(fault, Fault)
        rule = rule_of(fault)
        if not rule.refuses_good_xml:
            assert not _is_whole(stream), "the framer refuses as malformed what lxml accepts"
    if not events:
        return
    read = _read(stream, len(events), closed=isinstance(events[-1], Close))
    assert isinstance(events[0], Header)
    root = read[0]
    assert (events[0].to, events[0].from_) == (root.get("to"), root.get("from"))
    slices = [event for event in events[1:] if not isinstance(event, Close)]
    assert len(slices) == len(read) - 1, "the framer and lxml count different elements"
    between = [root.text, *(element.tail for element in read[1:-1])]
    assert not any(text and text.strip(" \t\r\n") for text in between), "the framer accepts text between elements (R30)"
    for event, element in zip(slices, read[1:], strict=True):
        if isinstance(event, Stanza):
            _check_stanza(event, element)
        else:
            assert isinstance(event, Element)
            assert f"{{{event.namespace}}}{event.name}" == element.tag
            assert _plain(event.attributes) == dict(element.attrib)


def _is_whole(stream: bytes) -> bool:
    """Return whether lxml reads the stream as a document."""
    try:
        etree.fromstring(stream, _parser())
    except (etree.XMLSyntaxError, ValueError):
        return False
    return True


def _parser() -> etree.XMLParser:
    return etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True, recover=False)


def _read(stream: bytes, events: int, *, closed: bool) -> list[etree._Element]:
    """Return lxml's result for a stream: the root and its whole children, as many as the framer has events."""
    parser = etree.XMLPullParser(events=("start", "end"), resolve_entities=False, no_network=True, huge_tree=True)
    found: list[etree._Element] = []
    depth = 0
    wanted = events - closed
    for at in range(len(stream)):
        parser.feed(stream[at : at + 1])
        for what, element in parser.read_events():
            depth += 1 if what == "start" else -1
            if (what, depth) == ("start", 1) or (what, depth) == ("end", 1):
                found.append(element)
        if len(found) >= wanted and not (closed and depth):
            break
    return found


def _check_stanza(stanza: Stanza, there: etree._Element) -> None:
    """Check that a slice is the same in a fresh stream as in its own."""
    try:
        here = etree.fromstring(FRESH + stanza.data + CLOSING_TAG, _parser())
    except etree.XMLSyntaxError as error:
        if "is not a valid URI" in str(error):
            return
        raise
    assert len(here) == 1, "a slice is not one element"
    assert here[0].tag == there.tag == f"{{jabber:server}}{stanza.kind}"
    assert (here[0].get("to", ""), here[0].get("from", "")) == (stanza.to, stanza.from_)
    assert tuple(child.tag[1:].replace("}", "}", 1) for child in here[0]) == stanza.payloads
    assert there.prefix is None, "the framer accepts a prefix on a stanza (R30)"
    assert all(name.startswith(XML) for name in there.attrib if "}" in name), "the framer accepts a foreign attribute on a stanza (R30)"
    assert _language(here[0]) == _language(there)
    _check_same(here[0], there, top=True)


def _check_same(here: etree._Element, there: etree._Element, *, top: bool = False) -> None:
    """Check that two elements are one infoset: names, attributes, text, children, and the namespace of each prefix."""
    attributes = dict(here.attrib), dict(there.attrib)
    if top:
        for each in attributes:
            each.pop(f"{XML}lang", None)
    assert attributes[0] == attributes[1]
    assert (here.tag, here.text) == (there.tag, there.text)
    assert top or here.tail == there.tail
    prefixes = {prefix: namespace for prefix, namespace in there.nsmap.items() if prefix not in ("stream", "db")}
    assert prefixes.items() <= here.nsmap.items(), "a prefix stands for something else in a fresh stream"
    assert len(here) == len(there)
    for one, other in zip(here, there, strict=True):
        _check_same(one, other)


def _language(element: etree._Element) -> str:
    return next((each.get(f"{XML}lang", "") for each in (element, *element.iterancestors()) if f"{XML}lang" in each.attrib), "")


def _plain(attributes: dict[str, str]) -> dict[str, str]:
    return {f"{{{name}" if "}" in name else name: value for name, value in attributes.items()}
