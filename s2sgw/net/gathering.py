"""Several calls, at once or one after another, and the results that came in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from s2sgw.xmpp.timer import cancel

T = TypeVar("T")


def gather_until(
    clock: Any, awaited: Sequence[Deferred[T]], *, deadline: float, grace: float, enough: Callable[[T], bool]
) -> Deferred[list[T | None]]:
    """Return the results in their order, None for each that is missing at the end.

    The end is when all have come, at `deadline` (on `clock`), or `grace` seconds after a first result that is `enough`.
    Calls without a result are cancelled then. A failure counts as missing.
    """
    return _Gathering(clock, awaited, deadline, grace, enough).done


def try_in_turn(
    clock: Any, calls: Sequence[Callable[[], Deferred[T]]], *, deadline: float, stagger: float, enough: Callable[[T], bool]
) -> Deferred[list[T | None]]:
    """Make the calls one after another until a result is `enough`. Return the results, None for each that is missing at the end.

    The next call begins when the last one has failed, or `stagger` seconds after it began. The end is the first result that is
    `enough`, or the last of all results, or `deadline` (on `clock`). Calls without a result are cancelled then. A failure
    counts as missing. The list is as long as the number of calls that were begun.
    """
    return _InTurn(clock, calls, deadline, stagger, enough).start()


class _Gathering(Generic[T]):
    def __init__(
        self, clock: Any, awaited: Sequence[Deferred[T]], deadline: float, grace: float, enough: Callable[[T], bool]
    ) -> None:
        self.done: Deferred[list[T | None]] = Deferred(self._cancelled)
        self._clock = clock
        self._awaited = awaited
        self._grace = grace
        self._enough = enough
        self._results: list[T | None] = [None] * len(awaited)
        self._left = len(awaited)
        self._timer = clock.callLater(max(deadline - clock.seconds(), 0), self._finish)
        for index, each in enumerate(awaited):
            each.addCallbacks(self._came, self._missed, callbackArgs=(index,))
        if not awaited:
            self._finish()

    def _came(self, result: T, index: int) -> None:
        self._results[index] = result
        self._less()
        if self._timer.active() and self._enough(result):
            self._hurry()

    def _missed(self, failure: Failure) -> None:
        self._less()

    def _less(self) -> None:
        self._left -= 1
        if not self._left and self._timer.active():
            self._finish()

    def _hurry(self) -> None:
        """Wait no longer than `grace` from now on."""
        if self._timer.getTime() - self._clock.seconds() > self._grace:
            self._timer.reset(self._grace)

    def _finish(self) -> None:
        self._cancel()
        self.done.callback(self._results)

    def _cancelled(self, _: object) -> None:
        self._cancel()

    def _cancel(self) -> None:
        cancel(self._timer)
        for each in self._awaited:
            each.cancel()


class _InTurn(Generic[T]):
    def __init__(
        self, clock: Any, calls: Sequence[Callable[[], Deferred[T]]], deadline: float, stagger: float,
        enough: Callable[[T], bool],
    ) -> None:
        self._clock = clock
        self._calls = calls
        self._stagger = stagger
        self._enough = enough
        self._results: list[T | None] = []
        self._running: dict[int, Deferred[T]] = {}
        self._over = False
        self._next: Any = None
        self._done: Deferred[list[T | None]] = Deferred(self._cancelled)
        self._timer = clock.callLater(max(deadline - clock.seconds(), 0), self._finish)

    def start(self) -> Deferred[list[T | None]]:
        self._go_on()
        return self._done

    def _go_on(self) -> None:
        """Begin the next call, or finish if none is left."""
        if self._over:
            return
        if len(self._results) == len(self._calls):
            if not self._running:
                self._finish()
            return
        number = len(self._results)
        self._results.append(None)
        self._wait_for_next()
        call = self._running[number] = self._calls[number]()
        call.addCallbacks(self._came, self._missed, callbackArgs=(number,), errbackArgs=(number,))

    def _wait_for_next(self) -> None:
        cancel(self._next)
        self._next = self._clock.callLater(self._stagger, self._go_on)

    def _came(self, result: T, number: int) -> None:
        self._running.pop(number, None)
        if self._over:
            return
        self._results[number] = result
        if self._enough(result):
            self._finish()
        else:
            self._go_on()

    def _missed(self, failure: Failure, number: int) -> None:
        self._running.pop(number, None)
        self._go_on()

    def _finish(self) -> None:
        self._stop()
        self._done.callback(self._results)

    def _cancelled(self, _: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._over = True
        for timer in (self._timer, self._next):
            cancel(timer)
        for call in list(self._running.values()):
            call.cancel()
