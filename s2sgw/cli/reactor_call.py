"""Runs one call on the reactor, for a command that connects to servers itself."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


def call_on_reactor(call: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Run the reactor until `call(reactor)` is done. Return its result, or raise its error. Once for a process.

    Ctrl-C ends it with `KeyboardInterrupt`.
    """
    from twisted.internet import reactor

    loop: Any = reactor
    results: list[T | Failure] = []

    def done(result: T | Failure) -> None:
        results.append(result)
        loop.stop()

    loop.callWhenRunning(lambda: Deferred.fromCoroutine(call(loop)).addBoth(done))
    loop.run()
    if not results:
        raise KeyboardInterrupt
    result = results[0]
    if isinstance(result, Failure):
        result.raiseException()
    return result
