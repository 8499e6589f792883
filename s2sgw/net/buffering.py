"""The two directions of a transport: `InputBuffer` holds unread input, `OutputGate` shows whether the transport takes more.

Under TLS `dataReceived` is called for each record. 60,000 one-byte records cost ten times less if the input of one turn is read
at once (docs/decisions.md#batching).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from zope.interface import implementer

from s2sgw.net.turns import Reader, Turns

#: Unread bytes of one stream beyond which the transport is read no further.
INPUT_BYTES = 65536
#: The largest part of the memory that streams under negotiation may leave unread.
UNPROVEN_SHARE = 16


#: The holder of a stream whose buffer is full.
_FULL = object()


class Memory(Protocol):
    """Counted bytes of memory (`queue.entries.MemoryBudget`)."""

    limit: int
    used: int


def _nothing(*_: object) -> None:
    """Replace a callback of an object that is gone."""


class InputReader(Reader, Protocol):
    """The reader of one transport's input."""

    def held_too_long(self) -> None:
        """React to a hold that has lasted too long."""


class InputBuffer:
    """Joins input and holds it back.

    `reader` has a turn in the reactor turn after input came. It clears `turn_is_due`, takes as much as it wants, and calls
    `want_turn` if something is left. The transport is paused while there are holders, and then sees neither FIN nor RST. When one
    hold has lasted `timeout` seconds, `held_too_long` of the reader is called.
    """

    __slots__ = (
        "_clock", "_held_since", "_holders", "_pieces", "_reader", "_timeout", "_turns", "_watch", "held", "open", "size",
        "transport", "turn_is_due", "unfinished",
    )

    def __init__(self, clock: IReactorTime, turns: Turns, reader: InputReader, timeout: float) -> None:
        #: the transport that is paused and resumed; None: it is gone
        self.transport: Any = None
        #: whether the reader has something left to do, even without more input
        self.unfinished = False
        self._clock = clock
        self._turns = turns
        self._reader: InputReader | None = reader
        self._timeout = timeout
        self._pieces: list[bytes] = []
        #: bytes that are not read yet
        self.size = 0
        #: whether the reader has a turn in the next reactor turn
        self.turn_is_due = False
        #: whether a holder other than the buffer itself (which may be full) stops the stream from reading
        self.held = False
        #: whether the reading has not been ended
        self.open = True
        self._holders: dict[object, None] = {}
        self._held_since = 0.0
        self._watch: IDelayedCall | None = None

    def add(self, data: bytes) -> None:
        """Add input."""
        if self.open:
            self._pieces.append(data)
            self.size += len(data)
            if not self.turn_is_due and self._reader is not None:
                self.turn_is_due = True
                self._turns.add(self._reader)
            if self.size > INPUT_BYTES:
                self.pause(_FULL)

    def want_turn(self) -> None:
        """Give the reader a turn in the next reactor turn."""
        if not self.turn_is_due and self._reader is not None:
            self.turn_is_due = True
            self._turns.add(self._reader)

    def take(self, at_most: int | None = None) -> bytes:
        """Return the input, joined: up to `at_most` bytes of it."""
        data = b"".join(self._pieces)
        if at_most is None or len(data) <= at_most:
            self._pieces, self.size = [], 0
        else:
            self._pieces, self.size = [data[at_most:]], len(data) - at_most
            data = data[:at_most]
        if _FULL in self._holders and self.size <= INPUT_BYTES:
            self.resume(_FULL)
        return data

    def pause(self, holder: object) -> None:
        """Stop reading while `holder`, or another, holds the stream. Input that was read already waits too."""
        if self.open and not self._holders and self.transport is not None:
            self._held_since = self._clock.seconds()
            self.transport.pauseProducing()
            if self._watch is None:
                self._watch = self._clock.callLater(self._timeout, self._look)
        self._holders[holder] = None
        self.held = self.held or holder is not _FULL

    def resume(self, holder: object) -> None:
        """Release the hold of `holder`."""
        if holder not in self._holders:
            return
        del self._holders[holder]
        self.held = len(self._holders) > (_FULL in self._holders)
        if self.open and not self._holders and self.transport is not None:
            self.transport.resumeProducing()
        if self.open and not self.held and (self._pieces or self.unfinished):
            self.want_turn()

    def close(self, *, read_on: bool) -> None:
        """Take no more input. With `read_on` the transport reads again, so that it notices when the other side closes."""
        self.open = False
        self._pieces, self.size = [], 0
        self._reader = None  # it refers back to this object
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._holders and read_on and self.transport is not None:
            self.transport.resumeProducing()

    def _look(self) -> None:
        """Check how long the present hold lasts. One timer serves many holds."""
        self._watch = None
        if not self._holders:
            return
        left = self._held_since + self._timeout - self._clock.seconds()
        if left > 0:
            self._watch = self._clock.callLater(left, self._look)
        elif self._reader is not None:
            self._reader.held_too_long()


class UnsentBytes:
    """Counts the bytes that wait in full transports, of all streams, in `memory` (`[queue] memory`, shared with the stanzas).

    Unread bytes of streams under negotiation are bounded: `add` returns whether they may wait. Other streams are slowed and
    closed after a while (`net.connection`), and their waiting bytes are always counted.
    """

    def __init__(self, memory: Memory | None = None, on_limit: Callable[[], None] = _nothing) -> None:
        """Take the memory. `on_limit` is called each time that a stranger has too much."""
        self._memory = memory
        self._on_limit = on_limit
        self._of: dict[object, tuple[int, bool]] = {}
        #: bytes of all streams, and bytes of streams that are negotiated
        self.total = self.unproven = 0

    def counts(self) -> dict[str, int]:
        """Return the bytes by the state of the streams."""
        return {"proven": self.total - self.unproven, "unproven": self.unproven}

    def add(self, stream: object, number: int, established: bool) -> bool:
        """Count `number` more bytes for `stream`, and return whether they may wait."""
        if not established and self._memory is not None and self.unproven + number > self._memory.limit // UNPROVEN_SHARE:
            self._on_limit()
            return False
        counted, established = self._of.get(stream, (0, established))
        self._of[stream] = (counted + number, established)
        self._count(number, established)
        return True

    def remove(self, stream: object) -> None:
        """Remove all waiting bytes of `stream`."""
        counted, established = self._of.pop(stream, (0, True))
        if counted:
            self._count(-counted, established)

    def _count(self, number: int, established: bool) -> None:
        self.total += number
        self.unproven += 0 if established else number
        if self._memory is not None:
            self._memory.used += number


@implementer(IPushProducer)
class OutputGate:
    """The producer of a transport. The transport closes and opens it as its buffer fills (64 kB) and empties.

    `changed(open)` is called at each change. (The transport may report the same state twice.)
    """

    __slots__ = ("_changed", "open")

    def __init__(self, changed: Callable[[bool], None]) -> None:
        self.open = True
        self._changed = changed

    def pauseProducing(self) -> None:
        self._set(False)

    def resumeProducing(self) -> None:
        self._set(True)

    def close(self) -> None:
        """Report no more changes."""
        self._changed = _nothing

    def stopProducing(self) -> None:
        """Close for good: the transport is lost. `connectionLost` of its protocol follows and reports it."""
        self.open = False

    def _set(self, state: bool) -> None:
        if self.open is not state:
            self.open = state
            self._changed(state)
