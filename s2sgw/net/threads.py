"""Makes calls that take long in another thread of the reactor's pool."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThreadPool

#: Seconds after which a call that has not returned is an alert.
LATE_SECONDS = 30.0

P = ParamSpec("P")
T = TypeVar("T")


class Threads(Protocol):
    """The place where calls that take long are made."""

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Make a call, and return its result in the reactor's thread. The call must not share data with the reactor's thread."""

    def alerts(self) -> list[str]:
        """Return an alert if calls do not return, as those that read a file on a disk that hangs."""


class ReactorThreads:
    """The threads of a reactor's pool."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        #: since when each call is under way
        self._since: dict[object, float] = {}

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Make a call in another thread."""
        pool = self._reactor.getThreadPool()
        pool.threadFactory = partial(Thread, daemon=True)  # so that `leave_threads` need not wait for it
        token = object()

        def noted() -> T:
            try:
                return call(*args, **kwargs)
            finally:
                self._since.pop(token, None)

        self._since[token] = self._reactor.seconds()
        result: Deferred[T] = deferToThreadPool(self._reactor, pool, noted)
        return result

    def alerts(self) -> list[str]:
        waited = [self._reactor.seconds() - since for since in list(self._since.values())]
        late = [seconds for seconds in waited if seconds >= LATE_SECONDS]
        if not late:
            return []
        return [
            f"{len(late)} calls that read or write files have not ended, the oldest for {max(late):.0f} s: a file or its disk "
            "does not answer. If they become more, no reload is carried out and no renewed certificate is loaded"
        ]


class AtOnce:
    """Makes calls in the caller's thread: for a start, when nothing else waits, and for tests."""

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Make a call at once."""
        return maybeDeferred(call, *args, **kwargs)

    def alerts(self) -> list[str]:
        """Return nothing."""
        return []


def calls_under_way(reactor: Any) -> int:
    """Return how many calls in the reactor's pool have not returned."""
    pool = getattr(reactor, "threadpool", None)  # None: no call was made yet
    return 0 if pool is None else len(pool.working)


def leave_threads(reactor: Any) -> None:
    """Let the reactor stop, and the process end, although a call in the pool does not return."""
    trigger = getattr(reactor, "threadpoolShutdownID", None)
    if trigger is not None:
        reactor.threadpoolShutdownID = None
        reactor.removeSystemEventTrigger(trigger)
