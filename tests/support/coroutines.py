"""Results of coroutines in tests whose answers come at once."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


def now(coroutine: Coroutine[Deferred[Any], Any, Any]) -> Any:
    """Return the result of a coroutine that has it at once, or raise its error."""
    results: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result
