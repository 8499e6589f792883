"""Calls that take long, in another thread of the reactor's pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThreadPool

#: Runs a call elsewhere; its result comes in the reactor's thread.
InThread = Callable[[Callable[[], Any]], Deferred[Any]]


def at_once(call: Callable[[], Any]) -> Deferred[Any]:
    """Run a call here and now: an `InThread` for tests, and for a start, when nothing waits."""
    return maybeDeferred(call)


def run_in_thread(reactor: Any) -> InThread:
    """Return what runs a call in another thread, and gives its result in the reactor's. The call shares nothing with others."""
    return lambda call: deferToThreadPool(reactor, reactor.getThreadPool(), call)
