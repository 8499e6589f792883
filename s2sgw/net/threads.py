"""Calls that take long, in another thread of the reactor's pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool


def run_in_thread(reactor: Any) -> Callable[[Callable[[], Any]], Deferred[Any]]:
    """Return what runs a call in another thread, and gives its result in the reactor's. The call shares nothing with others."""
    return lambda call: deferToThreadPool(reactor, reactor.getThreadPool(), call)
