"""Fuzz targets: data of a stream. The framer, the negotiation of both roles, and jabberd2's router."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from s2sgw.stream.dialback import DialbackKeys
from s2sgw.stream.events import (
    DialbackNeeded,
    DialbackOutcome,
    Ended,
    Event,
    JudgementNeeded,
    PairProven,
    Permission,
    Refusal,
    ResolutionNeeded,
    ResumptionNeeded,
    StanzasReceived,
    StartTLS,
    TLSUse,
)
from s2sgw.stream.initiating import InitiatingOptions, InitiatingStream
from s2sgw.stream.negotiation import KEPT_BYTES
from s2sgw.stream.receiving import ReceivingOptions, ReceivingStream
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.framing import PIECE, Close, Fault, Framer
from s2sgw.xmpp.header import Header
from s2sgw.xmpp.jid import Pair, domain_of
from s2sgw.xmpp.limits import FramingLimits
from s2sgw.xmpp.stanza import Stanza
from tests.fuzz.source import Source
from tests.fuzz.words import ELEMENTS, FRAGMENTS, HEADERS, MANAGEMENT
from tests.support.framing import CarefulFramer, values
from tests.support.transcripts import (
    ERRORS_FEATURE,
    EXTERNAL_FEATURE,
    LIMITS_FEATURE,
    OURS,
    PEER,
    PROCEED,
    ROOMS,
    STARTTLS,
    STARTTLS_REQUIRED,
    SUCCESS,
    auth,
    error,
    features,
    header,
    message,
    result,
)

#: Small limits, so that inputs reach them: bytes of a stanza, of an element and of a stream.
LIMITS = FramingLimits(stanza_bytes=4096, depth=32, stream_bytes=65536)
#: Limits of an authenticated stream: its stanzas may be plain (docs/decisions.md#plain-stanzas).
AFTER = FramingLimits()
#: The bytes that an engine may write for each received byte, and in addition.
ANSWER_FACTOR, ANSWER_BYTES = 16, 4096

KEYS = DialbackKeys(b"fuzz")
NO = Refusal(StreamCondition.POLICY_VIOLATION, "no", Ending(Cause.NOT_ALLOWED, "no"))
RECEIVING = ReceivingOptions(
    keys=KEYS, serves=lambda domain: domain in (OURS, ROOMS), answers_verify=lambda domain: domain == OURS, before=LIMITS, after=LIMITS,
)
INITIATING = InitiatingOptions(local=OURS, peer=PEER, keys=KEYS, management=True, resume=60, bidi=True, limits=LIMITS)


def words(source: Source) -> bytes:
    """Return data to send: a word, a mutated one, or any bytes."""
    kind = source.byte() % 8
    if kind < 4:
        return source.choose(ELEMENTS)
    if kind < 5:
        return source.choose(HEADERS)
    if kind < 6:
        return source.mutated(source.choose(ELEMENTS + HEADERS))
    return source.choose(FRAGMENTS) if kind < 7 else source.take(16)


def framer(data: bytes) -> None:
    """Any input gives events of five kinds. An error or a close is the last one. Kept data is bounded. Slices are XML."""
    source = Source(data)
    framing = Framer(LIMITS)
    events = framing.feed(source.choose(HEADERS)) if source.flag() else []
    while source.more:
        events += framing.feed(source.choose(FRAGMENTS) if source.flag() else words(source))
        assert len(framing._buffer) <= LIMITS.stanza_bytes + LIMITS.tag_bytes + 2 * PIECE, "the framer keeps more than its limits allow"
    check_framed(events)


def plain(data: bytes) -> None:
    """A framer that finds plain stanzas by their bytes gives the same events as one that uses expat for every element, for the same pieces."""
    source = Source(data)
    framers = [kind(AFTER) for kind in (Framer, CarefulFramer)]
    stream = source.choose(HEADERS[:4])
    while source.more:
        stream += source.choose(FRAGMENTS) if source.byte() % 4 == 3 else words(source)
        if source.byte() % 4:
            continue
        one, other = ((values(framing.feed(stream)), framing.stopped, framing.leftover) for framing in framers)
        assert one == other, "a plain stanza is not what it seems to be"
        stream = b""


def check_framed(events: list[Any]) -> None:
    """Check the events of one stream."""
    for number, event in enumerate(events, 1):
        assert isinstance(event, Header | Element | Stanza | Close | Fault)
        assert number == 1 or not isinstance(event, Header), "a second header"
        assert not isinstance(event, Close | Fault) or number == len(events), "something behind the end"
        if isinstance(event, Stanza):
            tree = Element.parse(event.data)
            assert (tree.name, tree.attributes.get("to", ""), tree.attributes.get("from", "")) == (event.kind, event.to, event.from_)


class _Shell:
    """The shell of an engine: it answers questions as the input decides, and checks the events."""

    def __init__(self, engine: Any, source: Source) -> None:
        self.engine = engine
        self.source = source
        self.questions: list[Event] = []
        self.proven: set[Pair] = set()
        self.secured = False
        self.over = False
        self.received = self.written = 0

    def take(self, events: list[Event]) -> None:
        """Check the engine's events, and do its orders."""
        for event in events:
            assert not self.over, "an event after the last"
            if isinstance(event, PairProven):
                self.proven.add(event.pair)
            elif isinstance(event, StanzasReceived):
                self._check(event)
            elif isinstance(event, StartTLS):
                assert not self.secured, "TLS inside TLS"
                self.secured = True
                self.take(self.engine.tls_ready())
                self.written += len(self.engine.data_to_send())
                self.questions.append(event)
            elif isinstance(event, ResolutionNeeded | JudgementNeeded | DialbackNeeded | ResumptionNeeded):
                self.questions.append(event)
            self.over = isinstance(event, Ended)

    def _check(self, event: StanzasReceived) -> None:
        assert event.stanzas, "an empty run"
        for stanza in event.stanzas:
            pair = Pair(domain_of(stanza.from_), domain_of(stanza.to))
            assert pair == event.pair, "a stanza of another pair"
            assert pair in self.proven, "a stanza of a pair that is not proven"
            assert len(stanza.data) <= LIMITS.stanza_bytes + 4096

    def answer(self) -> None:
        """Answer one open question."""
        if not self.questions or self.over:
            return
        event = self.questions.pop(self.source.byte() % len(self.questions))
        if isinstance(event, StartTLS):
            self.take(self.engine.tls_established())
        elif isinstance(event, ResolutionNeeded):
            self.take(self.engine.resolved(NO if self.source.byte() % 8 == 7 else None))
        elif isinstance(event, JudgementNeeded):
            whom = (event.peer,) if isinstance(self.engine, ReceivingStream) else ()
            self.take(self.engine.judged(self._permission(), *whom))
        elif isinstance(event, DialbackNeeded):
            kind = self.source.choose(("valid", "valid", "invalid", "error"))
            ending = None if kind == "valid" else Ending(Cause.DIALBACK_ERROR, "no")
            self.take(self.engine.dialback_answered(event.pair, DialbackOutcome(kind, ending)))  # type: ignore[arg-type]
        elif isinstance(event, ResumptionNeeded):
            self.take(self.engine.resumed(None))

    def _permission(self) -> Permission:
        allowed = self.source.byte()
        if allowed % 16 == 15:
            return Permission(refusal=NO)
        return Permission(
            external=bool(allowed & 1), dialback=bool(allowed & 2) or not allowed & 1, management=bool(allowed & 4), resume=allowed & 8,
            bidi=bool(allowed & 16), limits=LIMITS if allowed & 32 else None, proven=bool(allowed & 64),
        )

    def feed(self, data: bytes) -> None:
        """Feed data to the engine, and check its kept and written data."""
        if self.over or any(isinstance(each, StartTLS) for each in self.questions):
            return  # TLS has the bytes
        self.take(self.engine.receive(data))
        assert len(self.engine._kept) <= KEPT_BYTES, "the engine keeps more than it may"
        self.received += len(data)
        self.written += len(self.engine.data_to_send())
        assert self.written <= ANSWER_FACTOR * self.received + ANSWER_BYTES, "short requests with long answers"


def _converse(shell: _Shell) -> None:
    while shell.source.more and not shell.over:
        kind = shell.source.byte() % 4
        if kind == 0:
            shell.answer()
        elif kind == 1:
            data = words(shell.source)
            for at in range(0, len(data), 7):
                shell.feed(data[at : at + 7])
        else:
            shell.feed(words(shell.source))
    shell.engine.rest()
    if not shell.over:
        shell.take(shell.engine.close(Ending(Cause.SHUTDOWN)))
    assert shell.over, "a stream that was closed is not over"
    assert shell.engine.receive(b"<message/>") == [], "data was read after the end"


def receiving(data: bytes) -> None:
    """An engine in the receiving role: no stanza of an unproven pair, nothing after the end, bounded answers."""
    source, numbers = Source(data), itertools.count(1)
    uses: tuple[TLSUse, ...] = ("required", "optional", "never")
    tls = source.choose(uses)
    options = replace(RECEIVING, tls=lambda peer: tls, resolve=source.flag(), pre_1_0=source.flag(), direct_tls=source.byte() % 8 == 7)
    shell = _Shell(ReceivingStream(options, lambda: f"s{next(numbers)}"), source)
    if options.direct_tls:
        shell.secured = True
        shell.take(shell.engine.tls_established())
    _converse(shell)


def initiating(data: bytes) -> None:
    """An engine in the initiating role: the same, with a peer that answers at random."""
    source = Source(data)
    options = replace(
        INITIATING, tls=source.choose(("required", "optional", "never")), purpose=source.choose(("stanzas", "stanzas", "verify")),
        external=source.flag(), direct_tls=source.byte() % 8 == 7,
    )
    shell = _Shell(InitiatingStream(options), source)
    shell.take(shell.engine.begin())
    if options.direct_tls:
        shell.secured = True
        shell.take(shell.engine.tls_established())
    _converse(shell)


def _say(word: str) -> bytes:
    """Return the decisions that send a whole word: an element, or a header."""
    data = word.encode()
    return bytes((2, 0, ELEMENTS.index(data))) if data in ELEMENTS else bytes((2, 4, HEADERS.index(data)))


def _answer(decision: int = 3) -> bytes:
    """Return the decisions that answer the first open question."""
    return bytes((0, 0, decision))


_THEIR_HEADER = header(from_="peer.example", to="ours.example")
_OUR_ANSWER = header(from_="ours.example", to="peer.example", id="s7")
_ALL = 1 | 2 | 4 | 8 | 16 | 32 | 64


def receiving_seeds() -> list[bytes]:
    """Return inputs that lead a receiving engine through its negotiation, because random bytes seldom do."""
    begin = bytes((0, 1, 0, 0)) + _say(_THEIR_HEADER) + _answer(0) + _say(STARTTLS) + _answer() + _say(_THEIR_HEADER) + _answer(_ALL)
    stanzas = _say(message()) + _say("<presence from='juliet@peer.example/b' to='romeo@ours.example'/>") + _say(message("mercutio@other.example"))
    external = begin + _say(auth()) + _say(_THEIR_HEADER)
    dialback = begin + _say(result("peer.example", "ours.example", "key")) + _answer(0)
    managed = external + _say(f"<enable {MANAGEMENT} resume='true'/>") + _say(f"<r {MANAGEMENT}/>") + _say(f"<a {MANAGEMENT} h='0'/>")
    return [external + stanzas, dialback + stanzas, managed + stanzas, dialback + _say(result("peer.example", "rooms.ours.example", "key")) + _answer(0)]


def initiating_seeds() -> list[bytes]:
    """Return inputs that lead an initiating engine through its negotiation."""
    begin = bytes((0, 0, 1, 0)) + _say(_OUR_ANSWER) + _say(features(STARTTLS_REQUIRED)) + _say(PROCEED) + _answer() + _say(_OUR_ANSWER)
    offered = features(EXTERNAL_FEATURE, ERRORS_FEATURE, f"<sm {MANAGEMENT}/>", "<bidi xmlns='urn:xmpp:features:bidi'/>")
    external = begin + _say(offered) + _answer(_ALL) + _say(SUCCESS) + _say(_OUR_ANSWER) + _say(offered)
    enabled = external + _say(f"<enabled {MANAGEMENT} id='x' resume='true' max='600'/>") + _say(f"<a {MANAGEMENT} h='1'/>") + _say(message())
    dialback = begin + _say(features(ERRORS_FEATURE, LIMITS_FEATURE)) + _answer(_ALL) + _say(result("ours.example", "peer.example", type="valid"))
    return [enabled, dialback, external + _say(error("policy-violation", "no"))]
