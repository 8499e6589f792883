"""The two directions of a transport: `InputBuffer`, what has come and waits to be heard, and `OutputGate`, whether more can go.

Under TLS `dataReceived` comes once per record; 60,000 one-byte records cost ten times less when what one turn brought
is fed at once (decision 2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from zope.interface import implementer


def _nothing(*_: object) -> None:
    """In the place of a callback into what is gone."""


class InputBuffer:
    """Joins input and holds it back.

    `turn()` is called in the reactor turn after input came, unless reading is held. The transport is paused while there
    are holders, and then sees neither FIN nor RST: `too_long()` is called after `timeout` seconds of one hold.
    """

    def __init__(self, clock: IReactorTime, turn: Callable[[], None], timeout: float, too_long: Callable[[], None]) -> None:
        self.transport: Any = None
        self._clock = clock
        self._turn = turn
        self._timeout = timeout
        self._too_long = too_long
        self._pieces: list[bytes] = []
        self._turn_is_due = False
        self._holders: set[object] = set()
        self._held_since = 0.0
        self._watch: IDelayedCall | None = None
        self._open = True

    def __bool__(self) -> bool:
        return bool(self._pieces)

    @property
    def held(self) -> bool:
        return bool(self._holders)

    def add(self, data: bytes) -> None:
        if self._open:
            self._pieces.append(data)
            if not self._turn_is_due:
                self.want_turn()

    def want_turn(self) -> None:
        """See that `turn` is called in the next reactor turn."""
        if not self._turn_is_due:
            self._turn_is_due = True
            self._clock.callLater(0, self._take_turn)

    def take(self) -> bytes:
        """Everything there is, joined."""
        data = b"".join(self._pieces)
        self._pieces = []
        return data

    def pause(self, holder: object) -> None:
        """Read no more while `holder`, or another, is in the way. What has been read already waits too."""
        if self._open and not self._holders:
            self._held_since = self._clock.seconds()
            self.transport.pauseProducing()
            if self._watch is None:
                self._watch = self._clock.callLater(self._timeout, self._look)
        self._holders.add(holder)

    def resume(self, holder: object) -> None:
        """`holder` is out of the way."""
        if holder not in self._holders:
            return
        self._holders.remove(holder)
        if self._open and not self._holders:
            self.transport.resumeProducing()
            if self._pieces:
                self.want_turn()

    def close(self, *, read_on: bool) -> None:
        """Take no more. With `read_on` the transport reads again, so as to see the other side close."""
        self._open = False
        self._pieces = []
        self._turn = self._too_long = _nothing
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._holders and read_on:
            self.transport.resumeProducing()

    def _take_turn(self) -> None:
        self._turn_is_due = False
        if self._open:
            self._turn()

    def _look(self) -> None:
        """One timer serves many holds: it looks when the present one began."""
        self._watch = None
        if not self._holders:
            return
        left = self._held_since + self._timeout - self._clock.seconds()
        if left > 0:
            self._watch = self._clock.callLater(left, self._look)
        else:
            self._too_long()


@implementer(IPushProducer)
class OutputGate:
    """Registered as producer with the transport, which closes and opens it as its buffer fills and empties.

    `changed(open)` is called at each change; the transport may say the same twice.
    """

    def __init__(self, changed: Callable[[bool], None]) -> None:
        self.open = True
        self._changed = changed

    def pauseProducing(self) -> None:
        self._set(False)

    def resumeProducing(self) -> None:
        self._set(True)

    def close(self) -> None:
        """Nobody is to hear of changes any more."""
        self._changed = _nothing

    def stopProducing(self) -> None:
        """The transport is going; its protocol hears of it by `connectionLost`."""

    def _set(self, state: bool) -> None:
        if self.open is not state:
            self.open = state
            self._changed(state)
