"""Attempts at the priorities of one server, in their order. The first stream wins (R36).

The next priority is tried when the one before it has failed. If that takes long, the next one is tried beside it: targets that
answer nothing would keep a stanza waiting for a minute. A slow server is not given up for that: it wins if its stream is first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from s2sgw.xmpp.timer import cancel

#: Seconds that one priority has before the next is tried beside it, and priorities that are tried at once.
PRIORITY_DELAY = 5.0
CONCURRENT = 3

S = TypeVar("S")


class PriorityAttempts(Generic[S]):
    """Attempts of which each returns a stream, or None if it failed.

    Without a `delay` each begins when the one before has failed.
    """

    def __init__(
        self, clock: IReactorTime, attempts: Iterable[Callable[[], Coroutine[Any, Any, S | None]]],
        delay: float | None = PRIORITY_DELAY,
    ) -> None:
        self._clock = clock
        self._waiting = deque(attempts)
        self._delay = delay
        self._running: set[Deferred[S | None]] = set()
        self._next: IDelayedCall | None = None
        self._result: Deferred[S | None] = Deferred(self._cancelled)

    def start(self) -> Deferred[S | None]:
        """Begin. The result is the first stream, or None if all attempts failed. Cancelling it ends all attempts."""
        self._go_on()
        return self._result

    def _go_on(self) -> None:
        """Begin the next attempt if there is one and room for it. The result is None if none is left at all."""
        cancel(self._next)
        if self._waiting and len(self._running) < CONCURRENT:
            begin = self._waiting.popleft()
            if self._waiting and self._delay is not None:
                self._next = self._clock.callLater(self._delay, self._go_on)
            attempt = Deferred.fromCoroutine(begin())
            self._running.add(attempt)
            attempt.addCallbacks(self._ended, self._broken, callbackArgs=(attempt,), errbackArgs=(attempt,))
        elif not (self._waiting or self._running):
            self._result.callback(None)

    def _ended(self, stream: S | None, attempt: Deferred[S | None]) -> None:
        if attempt not in self._running:  # it was ended by us, and has taken that for a failure of its own
            return
        self._running.discard(attempt)
        if stream is None:
            self._go_on()
        else:
            self._stop()
            self._result.callback(stream)

    def _broken(self, failure: Failure, attempt: Deferred[S | None]) -> None:
        """Fail: an attempt raised what it does not handle. One that was ended by us does not count."""
        if attempt in self._running:
            self._stop()
            self._result.errback(failure)

    def _cancelled(self, _: object) -> None:
        self._stop()

    def _stop(self) -> None:
        """End the attempts under way."""
        cancel(self._next)
        running, self._running = self._running, set()
        for attempt in running:
            attempt.cancel()
