"""Makes calls that take long in another thread of the reactor's pool."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThreadPool

P = ParamSpec("P")
T = TypeVar("T")


class Threads(Protocol):
    """The place where calls that take long are made."""

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Make a call, and return its result in the reactor's thread. The call must not share data with the reactor's thread."""


class ReactorThreads:
    """The threads of a reactor's pool."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Make a call in another thread."""
        pool = self._reactor.getThreadPool()
        pool.threadFactory = partial(Thread, daemon=True)  # so that `leave_threads` need not wait for it
        result: Deferred[T] = deferToThreadPool(self._reactor, pool, call, *args, **kwargs)
        return result


class AtOnce:
    """Makes calls in the caller's thread: for a start, when nothing else waits, and for tests."""

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Make a call at once."""
        return maybeDeferred(call, *args, **kwargs)


def leave_threads(reactor: Any) -> None:
    """Let the reactor stop, and the process end, although a call in the pool does not return."""
    trigger = getattr(reactor, "threadpoolShutdownID", None)
    if trigger is not None:
        reactor.threadpoolShutdownID = None
        reactor.removeSystemEventTrigger(trigger)
