"""Stream management (XEP-0198): the counters of one stream and the elements that speak of them (R35).

Both directions are counted alike, whoever asked for it: what the other side sent is acknowledged by `handled`, which the
shell reports; what we sent is acknowledged by the other side's `h`. All four counters run modulo 2**32 on the wire only.

A stream that broke off, closed by neither side, may be resumed on another one (§5): then the counters go on there. What the
other side must send again by our `h`, and had sent before, is counted once and passed on once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from s2sgw.stream.events import Acknowledged, ClosingTagDue, Event
from s2sgw.stream.negotiation import ElementPhase, Negotiation, Stop, refuse
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import LocalFault, RemoteFault, StreamCondition
from s2sgw.xmpp.namespaces import MANAGEMENT, STANZA_ERRORS

#: `namespace}name` of the feature
FEATURE = f"{MANAGEMENT}}}sm"
#: What asks for an acknowledgement (§4).
REQUEST = f"<r xmlns='{MANAGEMENT}'/>".encode()
_MANAGEMENT = MANAGEMENT.encode()
#: `h` counts modulo this (§4).
MODULUS = 2**32


def feature() -> Element:
    """What announces it among the stream features."""
    return Element("sm", MANAGEMENT)


@dataclass(frozen=True, slots=True)
class Resumption:
    """By what a stream that broke off is resumed: the id that the receiving side gave, for so many seconds; and its counters."""

    id: str
    seconds: int
    counters: Counters


def enable(resume: bool = False) -> Element:
    """Initiating: ask for it (§3), and to be able to resume the stream (§5)."""
    return Element("enable", MANAGEMENT, {"resume": "true"} if resume else {})


def enabled(resumption: Resumption | None = None) -> Element:
    """Receiving: granted."""
    if resumption is None:
        return Element("enabled", MANAGEMENT)
    return Element("enabled", MANAGEMENT, {"id": resumption.id, "resume": "true", "max": str(resumption.seconds)})


def resume(resumption: Resumption) -> Element:
    """Initiating: go on with the stream that broke off."""
    return Element("resume", MANAGEMENT, resumption.counters.h | {"previd": resumption.id})


def resumed(resumption: Resumption) -> Element:
    """Receiving: granted."""
    return Element("resumed", MANAGEMENT, resumption.counters.h | {"previd": resumption.id})


def failed(condition: str, counters: Counters | None = None) -> Element:
    """Receiving: refused, by a stanza error's `condition`; the stream goes on without. `counters`: of a stream past resuming."""
    attributes = {} if counters is None else counters.h
    return Element("failed", MANAGEMENT, attributes, [Element(condition, STANZA_ERRORS)])


def may_resume(element: Element) -> bool:
    """Whether `<enable/>` asks for resumption, or `<enabled/>` grants it."""
    return element.attributes.get("resume") in ("true", "1")


def within(element: Element, seconds: int) -> int:
    """The seconds for which a stream can be resumed: ours, or the other side's `max` where that is less."""
    text = element.attributes.get("max", "")
    return min(int(text), seconds) if _is_count(text) else seconds


class Counters:
    """The stanzas of one managed stream, in both directions, since it was enabled; of all streams that resume it, too."""

    __slots__ = ("acknowledged", "began", "handled", "sent", "told")

    def __init__(self, began: int) -> None:
        """`began`: how many stanzas had been received before."""
        self.began = began
        #: of those received, the longest prefix in safe hands
        self.handled = 0
        #: of those, how many the other side was told of
        self.told = 0
        self.sent = 0
        #: of those sent, how many the other side has
        self.acknowledged = 0

    @property
    def h(self) -> dict[str, str]:
        """The attribute that says how many of theirs are in safe hands."""
        return {"h": str(self.handled % MODULUS)}

    def outstanding(self, received: int) -> int:
        """How many of theirs are not, `received` being all that came on the stream so far."""
        return received - self.began - self.handled

    def handle(self, number: int, received: int) -> bool:
        """`number` more are in safe hands; whether those are all of the `received` on the stream so far."""
        outstanding = self.outstanding(received)
        if not 0 <= number <= outstanding:
            raise LocalFault(f"{number} stanzas handled, where {outstanding} were outstanding")
        self.handled += number
        return number == outstanding

    def answer(self) -> bytes:
        """What acknowledges the stanzas handled so far."""
        self.told = self.handled
        return b"<a xmlns='%s' h='%d'/>" % (_MANAGEMENT, self.handled % MODULUS)

    def acknowledge(self, element: Element) -> int:
        """How many more stanzas of ours an `h` acknowledges; raises where it speaks of any that were never sent."""
        h = _h(element)
        outstanding = self.sent - self.acknowledged
        number = (h - self.acknowledged) % MODULUS
        if number > outstanding:
            raise self._too_high(h)
        self.acknowledged += number
        return number

    def _too_high(self, h: int) -> Stop:
        sent = self.sent % MODULUS
        stop = refuse(Cause.PROTOCOL_ERROR, StreamCondition.UNDEFINED_CONDITION, f"h is {h}, where {sent} stanzas were sent")
        assert stop.last_words is not None
        said = Element("handled-count-too-high", MANAGEMENT, {"h": str(h), "send-count": str(sent)})
        words = replace(stop.last_words, children=[*stop.last_words.children, said])
        return Stop(stop.ending, words)


def _h(element: Element) -> int:
    """The `h` of an element (§4: unsigned 32 bits)."""
    text = element.attributes.get("h", "")
    if not _is_count(text):
        raise RemoteFault(StreamCondition.BAD_FORMAT, f"<{element.name}/> with an `h` that is no count")
    return int(text)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < MODULUS


class Managed(Negotiation):
    """A stream of either role whose stanzas may be acknowledged."""

    counters: Counters | None = None
    #: by what the stream is resumed, should it break off
    resumption: Resumption | None = None
    #: it goes on with one that broke off
    continues = False
    #: of the stanzas received, how many were acknowledged to the other side, also after the stream broke off
    acknowledged_to_peer = 0

    @property
    def managed(self) -> bool:
        """Stanzas are acknowledged on this stream."""
        return self.counters is not None

    @property
    def owes(self) -> bool:
        """Some of what came on this stream is not in safe hands yet."""
        return self.counters is not None and self.counters.outstanding(self.received) > 0

    @property
    def unacknowledged(self) -> int:
        """Of the stanzas that were sent and counted."""
        return 0 if self.counters is None else self.counters.sent - self.counters.acknowledged

    def manage(self) -> Counters:
        """Count from here on."""
        self.counters = Counters(self.received)
        self.acknowledged_to_peer = 0
        return self.counters

    def handled(self, number: int) -> list[Event]:
        """`number` more of the stanzas received were passed on, spooled or ended: the longest prefix over all pairs."""
        return self.step(self._handled, number)

    def _handled(self, number: int) -> None:
        if self.counters is None:
            raise LocalFault("stanzas are handled on a stream without acknowledgements")
        if self.counters.handle(number, self.received):
            self.acknowledge(self.counters)
            if self.parting is not None:
                raise Stop(self.parting)

    def acknowledge(self, counters: Counters) -> None:
        """Tell the other side which of its stanzas are safe."""
        self.send(counters.answer())
        self.acknowledged_to_peer = counters.told

    def part(self, ending: Ending) -> None:
        """The other side has closed the stream: what it does not hear to be in safe hands it would send again."""
        if self.leaving is not None or not self.owes:
            raise Stop(ending)
        self.parting = ending
        self.emit(ClosingTagDue(ending))

    def _farewell(self, last_words: Element | None) -> None:
        """The last acknowledgement goes before the closing tag."""
        if self.counters is not None and self.counters.told < self.counters.handled:
            self.acknowledge(self.counters)
        super()._farewell(last_words)

    def broken_off(self) -> Resumption | None:
        """The transport is gone: by what the stream is resumed. One that either side has ended is not (§5). Once."""
        if self.over or self.closing or self.resumption is None:
            return None
        resumption, self.resumption, self.counters = self.resumption, None, None
        resumption.counters.began -= self.received
        return resumption

    def go_on(self, resumption: Resumption, told: int, element: Element) -> int:
        """Count on where that stream broke off; how many more stanzas of ours the `h` of `element` acknowledges.

        `told`: how many of theirs were handled when we said so. They send again all that came behind those.
        """
        number = resumption.counters.acknowledge(element)
        self.resumption, self.counters = resumption, resumption.counters
        self.acknowledged_to_peer = self.counters.told
        self.continues = True
        self.again = -self.counters.began - told
        self.counters.began += self.received
        return number

    def sent(self, number: int) -> bool:
        """The shell writes `number` stanzas behind what the engine has sent. Return whether they are counted."""
        if self.counters is None:
            return False
        self.counters.sent += number
        return True


class ManagedPhase(ElementPhase):
    """The requests and answers of a managed stream, in whatever phase they come."""

    stream: Managed

    def close(self) -> None:
        self.stream.part(Ending(Cause.CLOSED, by="them"))

    def requested(self, element: Element) -> None:
        """`<r/>`: what of theirs is in safe hands?"""
        if self.stream.counters is None:
            self.unexpected(element)
        else:
            self.stream.acknowledge(self.stream.counters)

    def acknowledged(self, element: Element) -> None:
        """`<a/>`: what of ours they have."""
        if self.stream.counters is None:
            self.unexpected(element)
        elif count := self.stream.counters.acknowledge(element):
            self.stream.emit(Acknowledged(count))
