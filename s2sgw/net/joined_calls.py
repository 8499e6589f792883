"""Joins calls that several callers make at the same time: the call is made once, and every caller gets the result."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
P = ParamSpec("P")


@dataclass(eq=False, slots=True)
class _Call(Generic[T]):
    """One call under way. `waiters` are in the order of arrival."""

    running: Deferred[T] | None = None
    waiters: dict[Deferred[T], None] = field(default_factory=dict)


class JoinedCalls(Generic[K, T]):
    """The calls under way, by key.

    A caller that cancels its Deferred leaves alone. When the last caller has left, the call itself is cancelled.
    """

    def __init__(self) -> None:
        self._calls: dict[K, _Call[T]] = {}

    def __len__(self) -> int:
        """Return the number of calls under way."""
        return len(self._calls)

    def __contains__(self, key: K) -> bool:
        """Return whether a call for `key` is under way."""
        return key in self._calls

    def join(self, key: K, begin: Callable[P, Deferred[T]], *args: P.args, **named: P.kwargs) -> Deferred[T]:
        """Return the result of the call for `key`, which `begin(…)` starts unless it is under way."""
        call = self._calls.get(key)
        if call is not None:
            return self._wait(key, call)
        call = self._calls[key] = _Call()
        waiter = self._wait(key, call)
        running = call.running = begin(*args, **named)
        running.addCallbacks(self._succeeded, self._failed, callbackArgs=(key, call), errbackArgs=(key, call))
        return waiter

    def _wait(self, key: K, call: _Call[T]) -> Deferred[T]:
        waiter: Deferred[T] = Deferred(partial(self._leave, key, call))
        call.waiters[waiter] = None
        return waiter

    def _leave(self, key: K, call: _Call[T], waiter: Deferred[T]) -> None:
        call.waiters.pop(waiter, None)
        if not call.waiters and self._calls.get(key) is call:
            del self._calls[key]  # a caller that comes now begins a new call
            if call.running is not None:
                call.running.cancel()

    def _succeeded(self, result: T, key: K, call: _Call[T]) -> None:
        for waiter in self._end(key, call):
            waiter.callback(result)

    def _failed(self, failure: Failure, key: K, call: _Call[T]) -> None:
        for waiter in self._end(key, call):
            waiter.errback(failure)

    def _end(self, key: K, call: _Call[T]) -> list[Deferred[T]]:
        """Forget the call. Return the Deferreds that wait for it."""
        if self._calls.get(key) is call:
            del self._calls[key]
        waiters, call.waiters = call.waiters, {}
        return list(waiters)
