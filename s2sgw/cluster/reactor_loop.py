"""An asyncio loop that runs within Twisted's reactor, for the client of the engine.

The gateway keeps its own reactor, which shares each turn fairly between peers and strangers (`net.fair_poll`). The loop's
selector is one more descriptor of that reactor. When the selector is ready, or a call of the loop is due, the reactor makes the
loop take some steps.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections.abc import Callable
from contextvars import Context
from math import ceil
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

#: Steps of the loop in one turn of the reactor. Each step makes every call that was due when it began.
STEPS = 8
#: The loop is woken at multiples of so many parts of a second, so that many timers share a call of the reactor.
WAKES_PER_SECOND = 100


class ReactorLoop(asyncio.SelectorEventLoop):
    """A loop that takes its steps on `reactor`, from now until `close`. It is never run by `run_forever` from outside."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        #: a call was added since the last step began
        self._wanted = False
        self._stepping = self._closing = False
        self._call: IDelayedCall | None = None
        #: the times at which calls are due, in wakes since the clock's time 0: a heap, and a set so that each is there once
        self._wakes: list[int] = []
        self._awaited: set[int] = set()
        selector = selectors.EpollSelector()
        self._descriptor = _Descriptor(selector.fileno(), self._step)
        super().__init__(selector)
        reactor.addReader(self._descriptor)

    def time(self) -> float:
        """Return the time of the reactor's clock, which is monotonic."""
        seconds: float = self._reactor.seconds()
        return seconds

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        """See `asyncio.loop.call_soon`."""
        handle = super().call_soon(callback, *args, context=context)
        self._wanted = True
        if not self._stepping:
            self._step_at(0.0)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """See `asyncio.loop.call_at`. It is called up to a hundredth of a second later."""
        handle = super().call_at(when, callback, *args, context=context)
        wake = ceil(when * WAKES_PER_SECOND)
        if wake not in self._awaited:
            self._awaited.add(wake)
            heapq.heappush(self._wakes, wake)
        if not self._stepping and wake == self._wakes[0]:
            self._step_at(wake / WAKES_PER_SECOND)
        return handle

    def close(self) -> None:
        """Take no more steps, and free the selector. A step that is being taken is the last one."""
        if self._stepping:
            self._closing = True
            return
        if not self.is_closed():
            self._reactor.removeReader(self._descriptor)
            if self._call is not None:
                self._call.cancel()
                self._call = None
        super().close()

    def _step_at(self, when: float) -> None:
        """Take steps at `when`, or sooner if that was to be."""
        delay = max(0.0, when - self.time()) if when else 0.0
        if self._call is None:
            self._call = self._reactor.callLater(delay, self._due)
        elif delay < self._call.getTime() - self._reactor.seconds():
            self._call.reset(delay)

    def _due(self) -> None:
        self._call = None
        self._step()

    def _step(self) -> None:
        """Take steps until no call is due, at most `STEPS`. Then provide for the next one."""
        if self._stepping or self.is_closed():
            return
        self._stepping = True
        try:
            for _ in range(STEPS):
                self._wanted = False
                super().call_soon(self.stop)  # the loop then makes one step
                self.run_forever()
                if not self._wanted or self._closing:
                    break
        except BaseException:
            self._wanted = True  # what was due behind the call that raised
            raise
        finally:
            self._stepping = False
            if self._closing:
                self.close()
            else:
                self._provide()

    def _provide(self) -> None:
        now = self.time() * WAKES_PER_SECOND
        while self._wakes and self._wakes[0] <= now:
            self._awaited.discard(heapq.heappop(self._wakes))
        if self._wanted:
            self._step_at(0.0)
        elif self._wakes:
            self._step_at(self._wakes[0] / WAKES_PER_SECOND)


@implementer(IReadDescriptor)
class _Descriptor:
    """The loop's selector, as the reactor sees it."""

    def __init__(self, number: int, ready: Callable[[], None]) -> None:
        self._number = number
        self._ready = ready

    def fileno(self) -> int:
        return self._number

    def doRead(self) -> None:
        self._ready()

    def logPrefix(self) -> str:
        return "engine"

    def connectionLost(self, reason: Failure) -> None:
        """Do nothing: the loop owns the selector."""
