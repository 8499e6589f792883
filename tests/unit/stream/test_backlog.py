"""Tests of a stream that requests many answers: it is read in parts, without loss and in order."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.stream.dialback import ID_CHARACTERS
from s2sgw.stream.events import Ended, Event, Permission, StanzasReceived
from s2sgw.stream.negotiation import ANSWER_BYTES
from s2sgw.stream.receiving import ReceivingStream
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.limits import FramingLimits
from tests.support.transcripts import auth, header, message, result, verify
from tests.unit.stream.test_receiving import stream

ASK = "<r xmlns='urn:xmpp:sm:3'/>"
UNSERVED = result("peer.example", "elsewhere.example", "key")
LONG = verify("peer.example", "ours.example", "&apos;" * ID_CHARACTERS, "key")
ELEMENTS = (ASK, UNSERVED, LONG, verify("peer.example", "ours.example", "x", "key"), message(), " ")
PER_FEED = FramingLimits().elements


def ready() -> ReceivingStream:
    """Return a stream that has authenticated, with acknowledgements."""
    engine = stream()
    engine.receive(header(from_="peer.example", to="ours.example", version="1.0").encode())
    engine.resolved(None)
    engine.receive(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
    engine.tls_ready()
    engine.tls_established()
    engine.receive(header(from_="peer.example", to="ours.example", version="1.0").encode())
    engine.judged(Permission(external=True, dialback=True, management=True))
    engine.receive((auth() + header(from_="peer.example", to="ours.example", version="1.0")).encode())
    engine.receive(b"<enable xmlns='urn:xmpp:sm:3'/>")
    engine.data_to_send()
    return engine


@dataclass
class Shell:
    """Feeds an engine as `net.connection` does, and records the result of each step."""

    engine: ReceivingStream = field(default_factory=ready)
    sent: list[bytes] = field(default_factory=list)
    stanzas: list[bytes] = field(default_factory=list)
    endings: list[Cause] = field(default_factory=list)

    def feed(self, data: bytes) -> Shell:
        self._note(self.engine.receive(data))
        while self.engine.backlogged:
            self._note(self.engine.proceed())
        return self

    def _note(self, events: list[Event]) -> None:
        self.sent.append(self.engine.data_to_send())
        for event in events:
            if isinstance(event, StanzasReceived):
                self.stanzas += [stanza.data for stanza in event.stanzas]
            elif isinstance(event, Ended):
                self.endings.append(event.ending.cause)

    @property
    def outcome(self) -> tuple[bytes, list[bytes], list[Cause]]:
        return b"".join(self.sent), self.stanzas, self.endings


class BacklogTests(SynchronousTestCase):
    """Tests of `Negotiation.backlogged` and `proceed`."""

    def test_so_many_elements_at_once(self) -> None:
        """A long read is answered in parts. There is one answer for each request."""
        shell = Shell().feed((ASK * 1000).encode())
        counts = [data.count(b"<a ") for data in shell.sent]
        self.assertEqual((max(counts), sum(counts)), (PER_FEED, 1000))

    def test_so_many_bytes_at_once(self) -> None:
        """Fewer long answers are given at once."""
        shell = Shell().feed((LONG * 9).encode())
        self.assertEqual(sum(data.count(b"<db:verify") for data in shell.sent), 9)
        self.assertLess(max(map(len, shell.sent)), ANSWER_BYTES + 8 * ID_CHARACTERS)

    def test_stanzas_are_not_counted(self) -> None:
        """Any number of stanzas is read at once."""
        engine = ready()
        events = engine.receive(message().encode() * 1000)
        self.assertEqual((len(events[0].stanzas) if isinstance(events[0], StanzasReceived) else 0, engine.backlogged), (1000, False))

    def test_more_comes_meanwhile(self) -> None:
        """Bytes that arrive before the rest was read are read after it."""
        shell = Shell()
        shell.engine.receive((ASK * 100 + message(body="first")).encode())
        self.assertTrue(shell.engine.backlogged)
        shell.feed(message(body="second").encode())
        self.assertEqual([b"first" in data for data in shell.stanzas], [True, False])

    def test_over(self) -> None:
        """A stream that has ended reads nothing more."""
        shell = Shell().feed((ASK * 100 + "<nonsense/>" + ASK * 100).encode())
        self.assertEqual((shell.endings, shell.engine.backlogged, shell.engine.proceed()), ([Cause.PROTOCOL_ERROR], False, []))
        self.assertEqual(b"".join(shell.sent).count(b"<a "), 100)

    def test_waiting(self) -> None:
        """An engine that waits for an answer of the shell is not backlogged. After the answer it continues in the right order."""
        engine = stream()
        engine.receive((header(from_="peer.example", to="ours.example", version="1.0") + "<nonsense/>" * 2).encode())
        self.assertFalse(engine.backlogged)
        engine.resolved(None)
        self.assertIn(b"nonsense", engine.data_to_send())

    def test_echo_is_bounded(self) -> None:
        """The length of an echoed `id` is bounded (`improper-addressing`), in every kind of request."""
        for request in (LONG, f"<db:result from='peer.example' to='elsewhere.example' id='{'x' * ID_CHARACTERS}'>k</db:result>"):
            self.assertEqual(Shell().feed(request.encode()).endings, [])
            long = request.replace(" id='", " id='x")
            shell = Shell().feed(long.encode())
            self.assertEqual(shell.endings, [Cause.ADDRESSING])
            self.assertIn(b"improper-addressing", b"".join(shell.sent))

    @settings(deadline=None, max_examples=25)
    @given(st.lists(st.tuples(st.sampled_from(ELEMENTS), st.integers(1, 80)), max_size=4), st.integers(1, 20_000))
    def test_the_same_in_any_parts(self, elements: list[tuple[str, int]], size: int) -> None:
        """However the bytes are cut, answers, stanzas and ending are the same as for single elements."""
        one_by_one = Shell()
        for element, number in elements:
            for _ in range(number):
                one_by_one.feed(element.encode())
        cut, data = Shell(), "".join(element * number for element, number in elements).encode()
        for at in range(0, len(data), size):
            cut.feed(data[at : at + size])
        self.assertEqual(cut.outcome, one_by_one.outcome)
