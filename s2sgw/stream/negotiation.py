"""The part that both roles share: the framer, the output, the phase, and the single way in which a stream ends.

A shell (the network, or a test) calls `receive` and the answer methods, and carries out the events that come back. It sends
`data_to_send()` before that (docs/decisions.md#engines).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, NoReturn, ParamSpec

from s2sgw.stream.events import DETAIL_CHARACTERS, Ended, Event, Refusal, StanzasReceived
from s2sgw.xmpp import framing
from s2sgw.xmpp.element import Element, stream_error
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import AmbiguousAddress, LocalFault, RemoteFault, StreamCondition
from s2sgw.xmpp.framing import Framer, FramingLimits
from s2sgw.xmpp.header import CLOSING_TAG, Header, stream_header
from s2sgw.xmpp.jabberd2_routes import Route, RouteFramer
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.namespaces import STREAM, STREAM_ERRORS
from s2sgw.xmpp.stanza import Stanza

#: RFC 6120 §4.7.5: any 1.x is compatible.
VERSION = re.compile(r"1\.[0-9]{1,9}\Z")
#: The most bytes that are kept while a stream waits for an answer of the shell; more is a violation (R32).
KEPT_BYTES = 65536
#: Bytes of answers that are made at once. Further input is read when these were taken for sending.
ANSWER_BYTES = 16384

#: The cause that is recorded for each stream error that we send.
CAUSES: Mapping[StreamCondition, Cause] = {
    StreamCondition.BAD_FORMAT: Cause.BAD_XML,
    StreamCondition.HOST_UNKNOWN: Cause.HOST_UNKNOWN,
    StreamCondition.IMPROPER_ADDRESSING: Cause.ADDRESSING,
    StreamCondition.INVALID_FROM: Cause.INVALID_FROM,
    StreamCondition.INVALID_XML: Cause.BAD_XML,
    StreamCondition.NOT_WELL_FORMED: Cause.BAD_XML,
    StreamCondition.POLICY_VIOLATION: Cause.LIMIT_EXCEEDED,
    StreamCondition.RESTRICTED_XML: Cause.BAD_XML,
    StreamCondition.UNSUPPORTED_ENCODING: Cause.BAD_XML,
}
#: The cause that is recorded for each stream error that we receive, if it is not `STREAM_ERROR`.
THEIR_CAUSES: Mapping[str, Cause] = {"host-unknown": Cause.HOST_UNKNOWN, "host-gone": Cause.HOST_UNKNOWN}

_Arguments = ParamSpec("_Arguments")


class Stop(Exception):
    """Ends the step and the stream (docs/decisions.md#engines). It has the ending, and the output before the closing tag."""

    def __init__(self, ending: Ending, last_words: Element | None = None) -> None:
        super().__init__(ending)
        self.ending = ending
        self.last_words = last_words


def refuse(cause: Cause, condition: StreamCondition, text: str) -> Stop:
    """Return the exception that ends the stream with an error of ours (R15). `text` gives the fault and the reason."""
    return Stop(Ending(cause, text, condition=str(condition)), stream_error(condition, text))


def refused(refusal: Refusal) -> Stop:
    """Return the exception that ends the stream with the error that the shell has chosen."""
    ending = replace(refusal.ending, condition=str(refusal.condition))
    return Stop(ending, stream_error(refusal.condition, refusal.text))


def _cause(fault: RemoteFault) -> Cause:
    """Return the recorded cause for a rule that the other side broke."""
    if isinstance(fault, AmbiguousAddress):
        return Cause.AMBIGUOUS_DOMAIN
    return CAUSES.get(fault.condition, Cause.PROTOCOL_ERROR)


class Phase:
    """A phase of a stream. A phase refuses every input that it does not define."""

    #: whether nothing may be sent, not even an error: it would be read as TLS, or nothing was begun
    mute: ClassVar[bool] = False
    #: whether the shell owes an answer; input is kept unread until it comes
    waits: ClassVar[bool] = False

    def __init__(self, stream: Negotiation) -> None:
        self.stream = stream

    # --- from the other side ---

    def read(self, data: bytes) -> None:
        """Take bytes of the other side."""
        stream = self.stream
        if self.waits:
            stream.keep(data)
        else:
            stream._take(stream._framer.feed(data))

    def header(self, header: Header) -> None:
        raise RemoteFault(StreamCondition.UNSUPPORTED_STANZA_TYPE, "a second stream header is not expected here")

    def element(self, element: Element) -> None:
        """Take any top-level element except a stanza or a stream error (R30)."""
        self.unexpected(element)

    def unexpected(self, element: Element) -> NoReturn:
        """Refuse an element that is not defined in this phase."""
        text = f"<{element.name} xmlns='{element.namespace}'/> is not expected here"
        raise RemoteFault(StreamCondition.UNSUPPORTED_STANZA_TYPE, text)

    def route(self, route: Route) -> None:
        """Refuse a route: only jabberd2's router sends these."""
        raise RemoteFault(StreamCondition.UNSUPPORTED_STANZA_TYPE, "a route is not expected here")

    def pair_of(self, stanza: Stanza) -> Pair:
        """Return the proven pair of a stanza (R29). A stanza that may not come here is refused."""
        raise RemoteFault(StreamCondition.INVALID_FROM, "this stream carries stanzas in the other direction only")

    def stream_error(self, ending: Ending) -> None:
        """End: the other side ends the stream with an error."""
        raise Stop(ending)

    def close(self) -> None:
        """End: the other side closes the stream gracefully (R16)."""
        raise Stop(Ending(Cause.CLOSED, by="them"))

    # --- from the shell ---

    def tls_ready(self) -> None:
        raise self.unasked("tls_ready")

    def tls_unavailable(self, ending: Ending) -> None:
        raise self.unasked("tls_unavailable")

    def tls_established(self) -> None:
        raise self.unasked("tls_established")

    def unasked(self, method: str) -> LocalFault:
        """Return the fault for an answer to a question that was not asked: an error of the shell."""
        return LocalFault(f"{method} in the phase {type(self).__name__}")


class TLSHandshake(Phase):
    """The transport belongs to the TLS library until the handshake is over. Nothing is sent meanwhile (R5)."""

    mute = True
    #: why bytes that come to the engine meanwhile end the stream
    injected: ClassVar[str]

    def read(self, data: bytes) -> None:
        raise Stop(Ending(Cause.TLS_INJECTION, self.injected, "them"))

    def tls_established(self) -> None:
        self.stream.secured = True
        self.stream.restart()
        self.go_on()

    def go_on(self) -> None:
        """Continue the negotiation after TLS."""
        raise self.unasked("go_on")


class ElementPhase(Phase):
    """A phase with a method for each element of negotiation that it accepts. It refuses all others."""

    #: (namespace, name) of an element -> its method
    inputs: ClassVar[Mapping[tuple[str, str], str]] = {}

    def element(self, element: Element) -> None:
        name = self.inputs.get((element.namespace, element.name), "unexpected")
        getattr(self, name, self.unexpected)(element)


class Negotiation(ABC):
    """One stream of either role: bytes in, events and bytes out."""

    phase: Phase
    __slots__ = (
        "_events", "_framer", "_inputs", "_kept", "_limits", "_output", "_run", "_run_pair", "again", "backlogged",
        "leaving", "opened", "over", "parting", "phase", "received", "secured", "unheard", "unsent",
    )
    #: `namespace}name` of the elements after which reading stops (R6, docs/decisions.md#engines)
    stop_at: ClassVar[frozenset[str]] = frozenset()
    #: see `net.connection.Engine`
    lasting: ClassVar[bool] = False
    #: the framer of one stream
    framer: ClassVar[type[Framer | RouteFramer]] = Framer

    def __init__(self, limits: FramingLimits) -> None:
        self.secured = False
        #: `Ended` was emitted; later input is ignored
        self.over = False
        #: whether our header was sent, so that there is a stream to close
        self.opened = False
        #: received stanzas of proven pairs
        self.received = 0
        #: how many of the next stanzas are repeats, which the other side sends again on a resumed stream
        self.again = 0
        #: whether there is unread input, because it asks for many answers: `proceed` reads on
        self.backlogged = False
        #: output that is not taken yet
        self.unsent = 0
        #: why we close: our closing tag was sent, and theirs has not come yet
        self.leaving: Ending | None = None
        #: the ending: their closing tag has come, and ours is not sent yet
        self.parting: Ending | None = None
        #: whether the transport is gone: earlier input is still read, and no output can arrive
        self.unheard = False
        self._limits = limits
        self._framer = self.framer(limits, self.stop_at)
        self._kept = b""
        self._inputs: Sequence[framing.FramingEvent | Route] = ()
        self._output: list[bytes] = []
        self._events: list[Event] = []
        self._run: list[Stanza] = []
        self._run_pair: Pair | None = None

    # --- for keep-alive ---

    @property
    def one_way(self) -> bool:
        """Return whether only we send stanzas to the other side."""
        return False

    @property
    def silence_limit(self) -> int | None:
        """Return the seconds of silence after which the other side closes the stream. None: it announced none."""
        return None

    @property
    def probe(self) -> bytes:
        """Return a request that a live other side answers; empty if there is none."""
        return b""

    # --- for the shell -------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """Take input in pieces of any size. While the stream is `backlogged`, call `proceed` instead."""
        return self.step(self.phase.read, data)

    def data_to_send(self) -> bytes:
        """Return the output so far, once."""
        data = b"".join(self._output)
        self._output.clear()
        self.unsent = 0
        return data

    def proceed(self) -> list[Event]:
        """Read on after `receive` stopped because of too many answers. Take `data_to_send` first."""
        return self.step(self._read_on)

    def _read_on(self) -> None:
        if self._framer.interrupted and not self._inputs and not self.phase.waits:
            self.phase.read(self._framer.resume())

    def tls_ready(self) -> list[Event]:
        """Answer `StartTLS`: TLS begins when the output is sent."""
        return self.step(self.phase.tls_ready)

    def tls_unavailable(self, ending: Ending) -> list[Event]:
        """Answer `StartTLS`: TLS cannot begin. The receiving side sends `<failure/>` (R7)."""
        return self.step(self.phase.tls_unavailable, ending)

    def tls_established(self) -> list[Event]:
        """Continue after TLS: the handshake of `StartTLS` or direct TLS is complete."""
        return self.step(self.phase.tls_established)

    def close(self, ending: Ending) -> list[Event]:
        """Close the stream gracefully, for a reason of the gateway."""
        return self.step(_stop, ending)

    def wind_down(self, ending: Ending) -> list[Event]:
        """Send our closing tag, and read on up to the other side's (RFC 6120 §4.4). Stanzas that come until then count.

        If no stanza can have come yet, end at once.
        """
        return self.step(self._leave, ending)

    @property
    def closing(self) -> bool:
        """Whether one of the two closing tags was sent or received."""
        return self.leaving is not None or self.parting is not None

    def _leave(self, ending: Ending) -> None:
        if self.leaving is not None and self.parting is None:
            return  # our closing tag was sent
        if not self.opened or not self.hears or self.parting is not None:
            raise Stop(ending)
        self.send(CLOSING_TAG)
        self.leaving = ending

    @property
    @abstractmethod
    def hears(self) -> bool:
        """Whether stanzas may come by now."""

    def fail(self, refusal: Refusal) -> list[Event]:
        """End the stream with a stream error."""
        return self.step(_fail, refusal)

    def rest(self) -> None:
        """Free memory that can be rebuilt: nothing has come for a while (docs/decisions.md#idle-streams)."""
        self._framer.rest()

    def release(self) -> None:
        """Drop all input, and every reference back to the stream: the transport is gone, or the stream is over.

        A phase and its stream refer to each other. They would stay in memory until the cyclic collector runs.
        """
        self.over, self.backlogged = True, False
        self._inputs, self._kept, self._run = (), b"", []
        self._framer.close()
        vars(self.phase).clear()

    @abstractmethod
    def open_anyhow(self) -> None:
        """Send our header with the known facts, so that an error can be sent in the stream (R15)."""

    # --- for the phases ------------------------------------------------------------------------------------------

    def step(self, act: Callable[_Arguments, None], *arguments: _Arguments.args, **named: _Arguments.kwargs) -> list[Event]:
        """Call `act`, then take the input that was kept meanwhile. Return all events."""
        if self.over:
            return []
        try:
            act(*arguments, **named)
            if self._inputs or self._kept:
                self._catch_up()
        except RemoteFault as fault:
            self._end(refuse(_cause(fault), fault.condition, fault.text))
        except Stop as stop:
            self._end(stop)
        self.backlogged = not self.over and not self.phase.waits and bool(self._inputs or self._kept or self._framer.interrupted)
        events, self._events = self._events, []
        self._run_pair = None
        return events

    def keep(self, data: bytes) -> None:
        """Keep the input until the shell has answered."""
        if len(self._kept) + len(data) > KEPT_BYTES:
            text = f"more than {KEPT_BYTES} bytes sent without waiting for an answer"
            raise RemoteFault(StreamCondition.POLICY_VIOLATION, text)
        self._kept += data

    def send(self, data: bytes | Element) -> None:
        if self.leaving is not None:
            return  # nothing is sent after the closing tag
        self._output.append(data if isinstance(data, bytes) else data.to_xml())
        self.unsent += len(self._output[-1])

    def emit(self, event: Event) -> None:
        self._run_pair = None
        self._events.append(event)

    def pass_on(self, pair: Pair, stanza: Stanza) -> None:
        """Take a stanza of a proven pair. A run of them becomes one event."""
        if pair is not self._run_pair:
            if self.again:
                self.again -= 1
                return
            run: list[Stanza] = []
            self._events.append(StanzasReceived(pair, run))
            self._run, self._run_pair = run, pair
        self._run.append(stanza)
        self.received += 1

    def open(self, header: bytes) -> None:
        """Send our header."""
        self.opened = True
        self.send(header)

    def presume_header(self) -> None:
        """Read on as if a header had been exchanged (XEP-0361 §4.1)."""
        self._framer.feed(stream_header())
        self.opened = True

    def restart(self) -> None:
        """Begin a new stream on the same transport. Unread bytes of the old one belong to it (R25)."""
        self.opened = False
        self._kept = self.left_over
        self._framer = self.framer(self._limits, self.stop_at)

    def read_on(self) -> None:
        """Continue after an element of `stop_at` that did not end the old stream."""
        self._kept = self._framer.resume() + self._kept

    @property
    def left_over(self) -> bytes:
        """Return the input after an element of `stop_at`."""
        return self._framer.leftover + self._kept

    def limit(self, limits: FramingLimits) -> None:
        """Use other limits from now on."""
        self._limits = self._framer.limits = limits

    # --- internal ------------------------------------------------------------------------------------------------

    def _take(self, inputs: Sequence[framing.FramingEvent | Route]) -> None:
        for at, item in enumerate(inputs, 1):
            if type(item) is Stanza:
                self.pass_on(self.phase.pair_of(item), item)
                continue
            if type(item) is Element and item.name != "error":
                self.phase.element(item)
            else:
                self._take_other(item)
            if self.phase.waits or self.unsent > ANSWER_BYTES:
                self._inputs = inputs[at:]
                return

    def _take_other(self, item: framing.FramingEvent | Route) -> None:
        match item:
            case Element(name="error", namespace=namespace) if namespace == STREAM:
                self.phase.stream_error(read_stream_error(item))
            case Element():
                self.phase.element(item)
            case Header():
                self.phase.header(item)
            case Route():
                self.phase.route(item)
            case framing.Fault():
                raise RemoteFault(item.condition, item.text)
            case _:
                self.phase.close()

    def _catch_up(self) -> None:
        while not self.phase.waits and self.unsent <= ANSWER_BYTES and self._can_read:
            inputs, self._inputs = self._inputs, ()
            if inputs:
                self._take(inputs)
            else:
                kept, self._kept = self._kept, b""
                self.phase.read(kept)

    @property
    def _can_read(self) -> bool:
        """Return whether kept input can be read: it comes after the unread input of an interrupted framer."""
        return bool(self._inputs or (self._kept and not self._framer.interrupted))

    def _end(self, stop: Stop) -> None:
        ending = stop.ending if self.leaving is None or not stop.ending.in_order else self.leaving
        if self.phase.mute:
            ending = replace(ending, condition=None)
        else:
            self._farewell(stop.last_words)
        self.emit(Ended(ending))
        self.release()

    def _farewell(self, last_words: Element | None) -> None:
        if last_words is not None:
            if not self.opened:
                self.open_anyhow()
            self.send(last_words)
        if self.opened:
            self.send(CLOSING_TAG)


def read_stream_error(error: Element) -> Ending:
    """Return the ending for a received `<stream:error/>` (RFC 6120 §4.9)."""
    names = [child.name for child in error.children if child.namespace == STREAM_ERRORS and child.name != "text"]
    condition = names[0] if names else str(StreamCondition.UNDEFINED_CONDITION)
    text = error.child(STREAM_ERRORS, "text")
    detail = "" if text is None else text.text[:DETAIL_CHARACTERS]
    return Ending(THEIR_CAUSES.get(condition, Cause.STREAM_ERROR), detail, "them", condition[:DETAIL_CHARACTERS])


# An exception with a frame in its own traceback that refers to it stays in memory until the cyclic collector runs.


def _stop(ending: Ending) -> None:
    raise Stop(ending)


def _fail(refusal: Refusal) -> None:
    raise refused(refusal)
