"""Stream management (XEP-0198): the counters of one stream, and their elements (R35).

Both directions are counted in the same way. `handled`, which the shell calls, acknowledges the other side's stanzas. The other
side's `h` acknowledges ours. The counters run modulo 2**32 on the wire only.

A stream that was lost, and closed by neither side, can be resumed on another one (§5). The counters then continue there. A stanza
that the other side sends again, because of our `h`, is counted once and passed on once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from s2sgw.stream.events import Acknowledged, ClosingTagDue, Event
from s2sgw.stream.negotiation import ElementPhase, Negotiation, Stop, refuse
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import LocalFault, RemoteFault, StreamCondition
from s2sgw.xmpp.namespaces import MANAGEMENT, STANZA_ERRORS

#: The element that requests an acknowledgement (§4).
REQUEST = f"<r xmlns='{MANAGEMENT}'/>".encode()
_MANAGEMENT = MANAGEMENT.encode()
#: `h` counts modulo this (§4).
MODULUS = 2**32


@dataclass(frozen=True, slots=True)
class Resumption:
    """A lost stream that can be resumed: the id that the receiving side gave, for how many seconds, and the counters."""

    id: str
    seconds: int
    counters: Counters


def enable(resume: bool = False) -> Element:
    """Return `<enable/>` (§3), with the request to resume the stream later (§5). For the initiating side."""
    return Element("enable", MANAGEMENT, {"resume": "true"} if resume else {})


def enabled(resumption: Resumption | None = None) -> Element:
    """Return `<enabled/>`. For the receiving side."""
    if resumption is None:
        return Element("enabled", MANAGEMENT)
    return Element("enabled", MANAGEMENT, {"id": resumption.id, "resume": "true", "max": str(resumption.seconds)})


def resume(resumption: Resumption) -> Element:
    """Return `<resume/>` for a lost stream. For the initiating side."""
    return Element("resume", MANAGEMENT, resumption.counters.h | {"previd": resumption.id})


def resumed(resumption: Resumption) -> Element:
    """Return `<resumed/>`. For the receiving side."""
    return Element("resumed", MANAGEMENT, resumption.counters.h | {"previd": resumption.id})


def failed(condition: str, counters: Counters | None = None) -> Element:
    """Return `<failed/>` with a stanza error's `condition`. `counters`: of a stream that cannot be resumed."""
    attributes = {} if counters is None else counters.h
    return Element("failed", MANAGEMENT, attributes, [Element(condition, STANZA_ERRORS)])


def may_resume(element: Element) -> bool:
    """Return whether `<enable/>` asks for resumption, or `<enabled/>` grants it."""
    return element.attributes.get("resume") in ("true", "1")


def within(element: Element, seconds: int) -> int:
    """Return for how many seconds a stream can be resumed: ours, or the other side's `max` if that is less."""
    text = element.attributes.get("max", "")
    return min(int(text), seconds) if _is_count(text) else seconds


class Counters:
    """The stanzas of one managed stream in both directions since it was enabled, including the streams that resumed it."""

    __slots__ = ("acknowledged", "began", "handled", "sent", "told")

    def __init__(self, began: int) -> None:
        """Begin to count. `began`: the number of stanzas that were received before."""
        self.began = began
        #: of the received stanzas, the longest prefix that is handled
        self.handled = 0
        #: how many of those were acknowledged to the other side
        self.told = 0
        self.sent = 0
        #: how many of the sent stanzas the other side has
        self.acknowledged = 0

    @property
    def h(self) -> dict[str, str]:
        """Return the attribute `h`: how many received stanzas are handled."""
        return {"h": str(self.handled % MODULUS)}

    def outstanding(self, received: int) -> int:
        """Return how many of the `received` stanzas are not handled yet."""
        return received - self.began - self.handled

    def handle(self, number: int, received: int) -> bool:
        """Count `number` more stanzas as handled. Return whether these are all of the `received` ones."""
        outstanding = received - self.began - self.handled
        if not 0 <= number <= outstanding:
            raise LocalFault(f"{number} stanzas handled, where {outstanding} were outstanding")
        self.handled += number
        return number == outstanding

    def answer(self) -> bytes:
        """Return the `<a/>` for the stanzas handled so far."""
        self.told = self.handled
        return b"<a xmlns='%s' h='%d'/>" % (_MANAGEMENT, self.handled % MODULUS)

    def acknowledge(self, element: Element) -> int:
        """Return how many more of our stanzas an `h` acknowledges. Raises if it counts stanzas that were never sent."""
        text = element.attributes.get("h", "")
        h = int(text) if len(text) < 10 and text.isascii() and text.isdigit() else _h(element)
        outstanding = self.sent - self.acknowledged
        number = (h - self.acknowledged) % MODULUS
        if number > outstanding:
            raise self._too_high(h)
        self.acknowledged += number
        return number

    def _too_high(self, h: int) -> Stop:
        sent = self.sent % MODULUS
        stop = refuse(Cause.PROTOCOL_ERROR, StreamCondition.UNDEFINED_CONDITION, f"h is {h}, but {sent} stanzas were sent")
        assert stop.last_words is not None
        said = Element("handled-count-too-high", MANAGEMENT, {"h": str(h), "send-count": str(sent)})
        words = replace(stop.last_words, children=[*stop.last_words.children, said])
        return Stop(stop.ending, words)


def _h(element: Element) -> int:
    """Return the `h` of an element (§4: unsigned 32 bits)."""
    text = element.attributes.get("h", "")
    if not _is_count(text):
        raise RemoteFault(StreamCondition.BAD_FORMAT, f"<{element.name}/> whose `h` is not a number")
    return int(text)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < MODULUS


class Managed(Negotiation):
    """A stream of either role whose stanzas can be acknowledged."""

    counters: Counters | None = None
    #: the resumption of the stream if it is lost
    resumption: Resumption | None = None
    #: whether it resumes a lost stream
    continues = False
    #: how many of the received stanzas were acknowledged to the other side, also after the loss of the stream
    acknowledged_to_peer = 0

    @property
    def managed(self) -> bool:
        """Whether stanzas are acknowledged on this stream."""
        return self.counters is not None

    @property
    def owes(self) -> bool:
        """Whether some received stanzas are not handled yet."""
        return self.counters is not None and self.counters.outstanding(self.received) > 0

    @property
    def unacknowledged(self) -> int:
        """Return how many of the sent and counted stanzas are not acknowledged."""
        return 0 if self.counters is None else self.counters.sent - self.counters.acknowledged

    def manage(self) -> Counters:
        """Count the stanzas from now on."""
        self.counters = Counters(self.received)
        self.acknowledged_to_peer = 0
        return self.counters

    def handled(self, number: int) -> list[Event]:
        """Note that `number` more received stanzas were passed on, spooled or ended, as the longest prefix over all pairs."""
        return self.step(self._handled, number)

    def _handled(self, number: int) -> None:
        if self.counters is None:
            raise LocalFault("stanzas are handled on a stream without acknowledgements")
        if self.counters.handle(number, self.received):
            self.acknowledge(self.counters)
            if self.parting is not None:
                raise Stop(self.parting)

    def acknowledge(self, counters: Counters) -> None:
        """Acknowledge the other side's handled stanzas. If that cannot be sent, it does not count: the stanzas come again."""
        if self.unheard or self.leaving is not None:
            return
        self.send(counters.answer())
        self.acknowledged_to_peer = counters.told

    def part(self, ending: Ending) -> None:
        """Answer the other side's closing tag. It sends again the stanzas that are not acknowledged before our tag."""
        if self.leaving is not None or not self.owes:
            raise Stop(ending)
        self.parting = ending
        self.emit(ClosingTagDue(ending))

    def _farewell(self, last_words: Element | None) -> None:
        """Send the last acknowledgement, before the closing tag."""
        if self.counters is not None and self.counters.told < self.counters.handled:
            self.acknowledge(self.counters)
        super()._farewell(last_words)

    def broken_off(self) -> Resumption | None:
        """Return the resumption of the lost stream, once. None: either side ended it (§5)."""
        if self.over or self.closing or self.resumption is None:
            return None
        resumption, self.resumption, self.counters = self.resumption, None, None
        resumption.counters.began -= self.received
        return resumption

    def go_on(self, resumption: Resumption, told: int, element: Element) -> int:
        """Continue the counters of a lost stream. Return how many more of our stanzas the `h` of `element` acknowledges.

        `told`: how many stanzas were acknowledged to the other side. It sends again everything after those.
        """
        number = resumption.counters.acknowledge(element)
        self.resumption, self.counters = resumption, resumption.counters
        self.counters.told = self.acknowledged_to_peer = max(self.counters.told, told)
        self.continues = True
        self.again = -self.counters.began - told
        self.counters.began += self.received
        return number

    def sent(self, number: int) -> bool:
        """Count `number` stanzas that the shell writes after the engine's output. Return whether they are counted."""
        if self.counters is None:
            return False
        self.counters.sent += number
        return True


class ManagedPhase(ElementPhase):
    """The requests and answers of a managed stream, in every phase."""

    stream: Managed

    def close(self) -> None:
        self.stream.part(Ending(Cause.CLOSED, by="them"))

    def requested(self, element: Element) -> None:
        """Handle `<r/>`: acknowledge the stanzas that are handled."""
        if self.stream.counters is None:
            self.unexpected(element)
        else:
            self.stream.acknowledge(self.stream.counters)

    def acknowledged(self, element: Element) -> None:
        """Handle `<a/>`: the other side acknowledges our stanzas."""
        if self.stream.counters is None:
            self.unexpected(element)
        elif count := self.stream.counters.acknowledge(element):
            self.stream.emit(Acknowledged(count))
