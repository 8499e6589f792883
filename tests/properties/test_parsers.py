"""Random input at every door that a stranger can knock at: an answer, a refusal or a value, never another exception.

A few examples each with the other tests; `make fuzz` gives `FUZZ_EXAMPLES` to each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

import dns.message
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.server import VerbError, parse_request
from s2sgw.backend.dns_view import DNSView
from s2sgw.reporting.printable import printable, quoted
from s2sgw.trust.identity import matches, names
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.framing import Close, Fault, Framer
from s2sgw.xmpp.header import Header, stream_header
from s2sgw.xmpp.jid import JID, Domain, InvalidJID
from s2sgw.xmpp.stanza import Stanza
from tests.support.certificates import Authority

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "50"))
F = TypeVar("F", bound=Callable[..., Any])

ESCAPE = re.compile(r"\\(\\|x..|u.{4}|U.{8})")

HEADER = stream_header(to="example.org", from_="peer.example", id=None)
#: Pieces of the language: random bytes alone would never get past the first angle bracket.
WORDS = [
    b"<", b">", b"/>", b"</", b"<message", b"<presence", b"<iq", b"</message>", b"</presence>", b"</iq>", b"<body>", b"</body>", b" to='a@b.example'",
    b" from='c@d.example/e'", b" id='1'", b" type='get'", b" xmlns='urn:x'", b" xmlns:p='urn:p'", b"<p:q/>", b" p:r='s'", b" xml:lang='de'", b"text",
    b"&amp;", b"&#xD;", b"&#0;", b"&evil;", b"<![CDATA[", b"]]>", b"<!--", b"-->", b"<?pi ?>", b"<!DOCTYPE x [", b"<db:result>", b"</db:result>",
    b"<stream:features/>", b"</stream:stream>", b" ", b"\n", b"\t", b"\0", b"\xff", b"\xc3", b"\xa9", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"=", b"'", b'"', b":",
]
STREAM = st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=3)), max_size=30)
LETTERS = st.text(alphabet=st.one_of(st.characters(), st.sampled_from("@/.-:[]xn")), max_size=60)


def fuzz(*strategies: st.SearchStrategy[Any]) -> Callable[[F], Any]:
    """A test of so many examples of these."""

    def decorate(test: F) -> Any:
        slow = [HealthCheck.too_slow, HealthCheck.differing_executors]
        return settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=slow)(given(*strategies)(test))

    return decorate


class StreamTests(SynchronousTestCase):
    """What comes over the wire."""

    @fuzz(STREAM)
    def test_framer(self, words: list[bytes]) -> None:
        """R31: whatever comes, each event is one of five kinds, a fault or a close is the last, and a stanza's slice is XML by itself."""
        framer = Framer()
        events = [event for word in [HEADER, *words] for event in framer.feed(word)]
        self.assertIsInstance(events[0], Header)
        for place, event in enumerate(events, 1):
            self.assertIsInstance(event, Header | Element | Stanza | Close | Fault)
            if isinstance(event, Stanza):
                self.assertEqual(event.kind, Element.parse(event.data).name)
            if isinstance(event, Close | Fault):
                self.assertEqual(len(events), place)

    @fuzz(LETTERS)
    def test_addresses(self, text: str) -> None:
        """A text is refused as a JID, or its spelling is the spelling of the same JID."""
        try:
            jid = JID.parse(text)
        except InvalidJID:
            return
        self.assertEqual(jid, JID.parse(str(jid)))

    @fuzz(LETTERS)
    def test_domains(self, text: str) -> None:
        """A domain in A-labels is the same domain in U-labels."""
        try:
            domain = Domain.parse(text)
        except InvalidJID:
            return
        self.assertTrue(domain.ascii.isascii())
        self.assertEqual(domain, Domain.parse(domain.ascii))
        self.assertEqual(domain, Domain.parse(domain.text))


class CertificateTests(SynchronousTestCase):
    """What a peer's certificate says."""

    leaf = Authority.root().issue(dns=["a.example", "*.b.example"], xmpp=["c.example"], srv=["d.example"])
    DER = leaf.der

    @fuzz(st.lists(st.tuples(st.integers(0, len(DER) - 1), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, len(DER)))
    def test_names(self, changes: list[tuple[int, int]], length: int) -> None:
        """R17: a certificate with bytes changed, or cut short, gives names or none, never an exception."""
        data = bytearray(self.DER)
        for place, value in changes:
            data[place] = value
        for damaged in (bytes(data), bytes(data[:length])):
            matches(names(damaged), Domain.parse("a.example"))

    @fuzz(st.binary(max_size=80))
    def test_nonsense(self, data: bytes) -> None:
        """R17: what is no certificate at all names nobody."""
        self.assertEqual((), names(data).presented)


class MachineTests(SynchronousTestCase):
    """What this machine's own programs may send."""

    QUERY = dns.message.make_query("_xmpp-server._tcp.peer.example.", "SRV", use_edns=0).to_wire()

    @fuzz(st.lists(st.tuples(st.integers(0, len(QUERY) - 1), st.integers(0, 255)), max_size=5), st.integers(0, len(QUERY)), st.booleans())
    def test_dns_view(self, changes: list[tuple[int, int]], length: int, datagram: bool) -> None:
        """A damaged question gets an answer to it, or none."""
        view = DNSView(_Alone(), lambda name: name == "example.org", 15270)
        data = bytearray(self.QUERY)
        for place, value in changes:
            data[place] = value
        for wire in (bytes(data), bytes(data[:length])):
            answers: list[bytes] = []
            view.respond(wire, datagram=datagram).addCallback(answers.append)
            for answer in answers:
                self.assertIn(answer[:2], (b"", wire[:2]))
        view.stop()

    @fuzz(st.one_of(st.binary(max_size=60), st.text(alphabet='{}[]":, verbargs01', max_size=40).map(str.encode)))
    @example(b'{"verb": {}, "args": 1}')
    def test_admin(self, line: bytes) -> None:
        """A line on the admin socket is a request or a refusal."""
        try:
            verb, arguments = parse_request(line)
        except VerbError:
            return
        self.assertIsInstance(verb, str)
        self.assertIsInstance(arguments, dict)


class ShowingTests(SynchronousTestCase):
    """What a stranger said, shown."""

    @fuzz(st.text(alphabet=st.characters(), max_size=60))
    def test_printable(self, text: str) -> None:
        """Whatever was said is shown in printable characters, and two texts that differ are shown differently."""
        shown = printable(text)
        self.assertTrue(shown.isprintable())
        self.assertEqual(text, ESCAPE.sub(lambda found: "\\" if found[1] == "\\" else chr(int(found[1][1:], 16)), shown))
        self.assertTrue(quoted(text).isprintable())


class _Alone(Clock):
    """A reactor on which nobody answers."""

    def __getattr__(self, name: str) -> Any:
        raise OSError(f"no {name} here")
