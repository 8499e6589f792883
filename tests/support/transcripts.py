"""Written conversations with an engine: its input, its output, and its events.

Each transcript is played with its whole input at once, one byte at a time, and cut once at every byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.stream.events import Ended, Event, StanzasReceived
from s2sgw.stream.negotiation import Negotiation
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain, Pair

OURS = Domain.parse("ours.example")
ROOMS = Domain.parse("rooms.ours.example")
PEER = Domain.parse("peer.example")
OTHER = Domain.parse("other.example")
PAIR = Pair(PEER, OURS)

HEAD = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback'"
CLOSE = "</stream:stream>"
STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
PROCEED = "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
TLS_FAILURE = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
SASL = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
SUCCESS = f"<success {SASL}/>"
ERRORS_FEATURE = "<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>"
LIMITS_FEATURE = "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>524288</max-bytes></limits>"
EXTERNAL_FEATURE = f"<mechanisms {SASL}><mechanism>EXTERNAL</mechanism></mechanisms>"
STARTTLS_REQUIRED = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"


def header(**attributes: str | None) -> str:
    """Return a stream header as the gateway writes it. `from_`, `to`, `id` and `version` are its attributes."""
    written = {"version": "1.0", **attributes}
    order = {"from": written.get("from_"), "to": written.get("to"), "id": written.get("id"), "version": written["version"]}
    return HEAD + "".join(f" {name}='{value}'" for name, value in order.items() if value is not None) + ">"


def features(*rows: str) -> str:
    return f"<stream:features>{''.join(rows)}</stream:features>" if rows else "<stream:features/>"


def error(condition: str, text: str) -> str:
    """Return a stream error of the gateway with the closing tag."""
    streams = "xmlns='urn:ietf:params:xml:ns:xmpp-streams'"
    text = text.replace("<", "&lt;").replace(">", "&gt;").replace("'", "&apos;")
    return f"<stream:error><{condition} {streams}/><text {streams} xml:lang='en'>{text}</text></stream:error>{CLOSE}"


def auth(message: str = "=", mechanism: str = "EXTERNAL") -> str:
    return f"<auth {SASL} mechanism='{mechanism}'>{message}</auth>"


def sasl_failure(condition: str, text: str) -> str:
    text = text.replace("<", "&lt;").replace(">", "&gt;").replace("'", "&apos;")
    return f"<failure {SASL}><{condition}/><text xml:lang='en'>{text}</text></failure>"


def result(from_: str, to: str, inside: str = "", type: str = "") -> str:
    attributes = f" from='{from_}' to='{to}'" + (f" type='{type}'" if type else "")
    return f"<db:result{attributes}>{inside}</db:result>" if inside else f"<db:result{attributes}/>"


def verify(from_: str, to: str, id: str, inside: str = "", type: str = "") -> str:
    attributes = f" from='{from_}' to='{to}' id='{id}'" + (f" type='{type}'" if type else "")
    return f"<db:verify{attributes}>{inside}</db:verify>" if inside else f"<db:verify{attributes}/>"


def dialback_error(condition: str, text: str, type: str = "cancel") -> str:
    stanzas = "xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'"
    return f"<error type='{type}'><{condition} {stanzas}/><text {stanzas} xml:lang='en'>{text}</text></error>"


def message(from_: str = "juliet@peer.example", to: str = "romeo@ours.example", body: str = "hi") -> str:
    return f"<message from='{from_}' to='{to}'><body>{body}</body></message>"


class Step:
    """One line of a transcript."""


@dataclass(frozen=True)
class In(Step):
    """Bytes from the other side."""

    data: str | bytes


@dataclass(frozen=True)
class Out(Step):
    """All output of the engine since the last step that asked."""

    data: str


class Says(Step):
    """All events of the engine since the last step that asked."""

    def __init__(self, *events: object) -> None:
        self.events = events


class Do(Step):
    """An answer, or an order, from the shell."""

    def __init__(self, method: str, *arguments: object) -> None:
        self.method = method
        self.arguments = arguments


@dataclass(frozen=True)
class End:
    """An `Ended` event with these values; the detail is compared only if given. The stream error, if any, was compared as output."""

    cause: Cause
    by: str = "us"
    condition: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Stanzas:
    """A run of stanzas of one pair, in any number of events."""

    pair: Pair
    data: tuple[str, ...]


Cut = Callable[[bytes], Iterable[bytes]]


def _whole(data: bytes) -> Iterable[bytes]:
    return [data]


def _bytewise(data: bytes) -> Iterable[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def _cut_at(place: int) -> Cut:
    return lambda data: [part for part in (data[:place], data[place:]) if part]


def cuts(steps: Iterable[Step]) -> Iterator[Cut]:
    """Return every way to play a transcript."""
    longest = max((len(step.data) for step in steps if isinstance(step, In)), default=1)
    yield _whole
    yield _bytewise
    for place in range(1, longest):
        yield _cut_at(place)


def shown(events: Iterable[Event]) -> list[Any]:
    """Return events in a form that compares: runs of stanzas are joined."""
    told: list[Any] = []
    for event in events:
        if isinstance(event, StanzasReceived):
            data = tuple(stanza.data.decode() for stanza in event.stanzas)
            if told and isinstance(told[-1], Stanzas) and told[-1].pair == event.pair:
                data = told.pop().data + data
            told.append(Stanzas(event.pair, data))
        else:
            told.append(event)
    return told


class TranscriptCase(SynchronousTestCase):
    """A test case that plays transcripts."""

    maxDiff = None

    def play(self, make: Callable[[], Any], *steps: Step) -> Negotiation:
        """Play a transcript with a new engine of `make` for each way; return the engine that got the whole input."""
        played = [self._play(make(), cut, steps) for cut in cuts(steps)]
        return played[0]

    def _play(self, engine: Any, cut: Cut, steps: Iterable[Step]) -> Negotiation:
        events: list[Event] = []
        for step in steps:
            match step:
                case In(data):
                    for part in cut(data.encode() if isinstance(data, str) else data):
                        events += engine.receive(part)
                case Do():
                    caused = getattr(engine, step.method)(*step.arguments)
                    events += caused if isinstance(caused, list) else []
                case Out(data):
                    self.assertEqual(engine.data_to_send().decode(), data)
                case Says():
                    self._compare(shown(events), step.events)
                    events = []
        self.assertEqual(shown(events), [])
        self.assertEqual(engine.data_to_send(), b"")
        assert isinstance(engine, Negotiation)
        return engine

    def _compare(self, told: list[Any], expected: tuple[object, ...]) -> None:
        if told and isinstance(told[-1], Ended) and expected and isinstance(expected[-1], End):
            ending, end = told[-1].ending, expected[-1]
            said = End(ending.cause, ending.by, ending.condition, None if end.detail is None else ending.detail)
            told, expected = [*told[:-1], said], expected
        self.assertEqual(told, list(expected))
