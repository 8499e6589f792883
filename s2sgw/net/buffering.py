"""The two directions of a transport: `InputBuffer` holds unread input, `OutputGate` knows whether the transport takes more.

Under TLS `dataReceived` comes once per record; 60,000 one-byte records cost ten times less when what one turn brought
is read at once (docs/decisions.md#batching).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from zope.interface import implementer

from s2sgw.net.turns import Reader, Turns

#: Unread bytes of one stream beyond which the transport is read no further.
INPUT_BYTES = 65536
#: Streams that are still negotiated may leave this part of the memory unread, at most.
UNPROVEN_SHARE = 16


#: The holder of a stream whose buffer is full.
_FULL = object()


class Memory(Protocol):
    """Bytes of memory that are counted (`queue.entries.MemoryBudget`)."""

    limit: int
    used: int


def _nothing(*_: object) -> None:
    """Stand in for a callback of an object that is gone."""


class InputReader(Reader, Protocol):
    """The reader of one transport's input."""

    def held_too_long(self) -> None:
        """Handle a hold that has lasted for too long."""


class InputBuffer:
    """Joins input and holds it back.

    `reader` has a turn in the reactor turn after input came. It clears `turn_is_due`, takes what it wants, and asks by
    `want_turn` for another if something is left. The transport is paused while there are holders, and then sees neither
    FIN nor RST. After `timeout` seconds of one hold, `held_too_long` of the reader is called.
    """

    def __init__(self, clock: IReactorTime, turns: Turns, reader: InputReader, timeout: float) -> None:
        #: what is paused and resumed; None: it is gone
        self.transport: Any = None
        #: the reader has something left to do, even if nothing more comes
        self.unfinished = False
        self._clock = clock
        self._turns = turns
        self._reader: InputReader | None = reader
        self._timeout = timeout
        self._pieces: list[bytes] = []
        #: bytes that wait to be read
        self.size = 0
        #: the reader has a turn in the next reactor turn
        self.turn_is_due = False
        #: something besides the buffer itself, which may be full, keeps the stream from reading
        self.held = False
        #: nothing has ended the reading
        self.open = True
        self._holders: set[object] = set()
        self._held_since = 0.0
        self._watch: IDelayedCall | None = None

    def add(self, data: bytes) -> None:
        """Add input."""
        if self.open:
            self._pieces.append(data)
            self.size += len(data)
            if not self.turn_is_due:
                self.want_turn()
            if self.size > INPUT_BYTES:
                self.pause(_FULL)

    def want_turn(self) -> None:
        """See that the reader has a turn in the next reactor turn."""
        if not self.turn_is_due and self._reader is not None:
            self.turn_is_due = True
            self._turns.add(self._reader)

    def take(self, at_most: int | None = None) -> bytes:
        """Take what came, joined: up to `at_most` bytes of it."""
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
        """Read no more while `holder`, or another, holds the stream. Input that was read already waits too."""
        if self.open and not self._holders and self.transport is not None:
            self._held_since = self._clock.seconds()
            self.transport.pauseProducing()
            if self._watch is None:
                self._watch = self._clock.callLater(self._timeout, self._look)
        self._holders.add(holder)
        self.held = self.held or holder is not _FULL

    def resume(self, holder: object) -> None:
        """Release the hold of `holder`."""
        if holder not in self._holders:
            return
        self._holders.remove(holder)
        self.held = len(self._holders) > (_FULL in self._holders)
        if self.open and not self._holders and self.transport is not None:
            self.transport.resumeProducing()
        if self.open and not self.held and (self._pieces or self.unfinished):
            self.want_turn()

    def close(self, *, read_on: bool) -> None:
        """Take nothing more. With `read_on` the transport reads again, so that it sees the other side close."""
        self.open = False
        self._pieces, self.size = [], 0
        self._reader = None  # which leads back here
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._holders and read_on and self.transport is not None:
            self.transport.resumeProducing()

    def _look(self) -> None:
        """The timer is due, which serves many holds: look how long the present one lasts."""
        self._watch = None
        if not self._holders:
            return
        left = self._held_since + self._timeout - self._clock.seconds()
        if left > 0:
            self._watch = self._clock.callLater(left, self._look)
        elif self._reader is not None:
            self._reader.held_too_long()


class UnsentBytes:
    """Counts what waits in full transports, of all streams, in `memory` (`[queue] memory`, which the stanzas share).

    What streams that are still negotiated leave unread is bounded: `add` says when it is too much. Others are slowed and
    closed after a while (`net.connection`), but what they are owed is counted, whether it fits or not.
    """

    def __init__(self, memory: Memory | None = None, on_limit: Callable[[], None] = _nothing) -> None:
        """`on_limit` is called each time that a stranger has too much."""
        self._memory = memory
        self._on_limit = on_limit
        self._of: dict[object, tuple[int, bool]] = {}
        #: bytes, and bytes of streams that are negotiated
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
        """Nothing of `stream` waits any more."""
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
    """The producer of a transport, which closes and opens it as its buffer fills (64 kB) and empties.

    `changed(open)` is called at each change. (The transport may say the same twice.)
    """

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
        """The transport is lost and takes nothing more; `connectionLost` of its protocol follows, which says so."""
        self.open = False

    def _set(self, state: bool) -> None:
        if self.open is not state:
            self.open = state
            self._changed(state)
