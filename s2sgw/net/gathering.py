"""Several answers awaited at once: all of them, or those that came in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


def gather_until(
    clock: Any, awaited: Sequence[Deferred[T]], *, deadline: float, grace: float, enough: Callable[[T], bool]
) -> Deferred[list[T | None]]:
    """The results in their order, None for what is missing at the end.

    The end is when all are there, at `deadline` (on `clock`), or `grace` seconds after a first result that is `enough`.
    What is still awaited then is cancelled. Failures are not expected and count as missing.
    """
    return _Gathering(clock, awaited, deadline, grace, enough).done


class _Gathering(Generic[T]):
    def __init__(
        self, clock: Any, awaited: Sequence[Deferred[T]], deadline: float, grace: float, enough: Callable[[T], bool]
    ) -> None:
        self.done: Deferred[list[T | None]] = Deferred(lambda _: self._cancel())
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
        if self._timer.getTime() - self._clock.seconds() > self._grace:
            self._timer.reset(self._grace)

    def _finish(self) -> None:
        self._cancel()
        self.done.callback(self._results)

    def _cancel(self) -> None:
        if self._timer.active():
            self._timer.cancel()
        for each in self._awaited:
            each.cancel()
