"""A line of waiting attempts that is shared fairly among their owners."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

_Key = TypeVar("_Key", bound=Hashable)


class FairQueue(Generic[_Key]):
    """Releases waiting attempts round robin by owner (fair queueing, RFC 970).

    An owner with many does not delay the first of another.
    """

    def __init__(self) -> None:
        self._waiters: OrderedDict[_Key, deque[Deferred[None]]] = OrderedDict()
        self._number = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return self._number

    def owners(self) -> list[_Key]:
        """Return the owners in the line, the next one first."""
        return list(self._waiters)

    def wait(self, owner: _Key) -> Deferred[None]:
        """Join the line of `owner`. The Deferred fires when `release` chooses it; cancelling it leaves the line."""
        waiter: Deferred[None] = Deferred(partial(self._leave, owner))
        self._waiters.setdefault(owner, deque()).append(waiter)
        self._number += 1
        return waiter

    def release(self, may_go: Callable[[_Key], bool] = lambda owner: True) -> bool:
        """Release one waiter of the next owner for whom `may_go` holds, and return whether there was one."""
        owner = next((owner for owner in self._waiters if may_go(owner)), None)
        if owner is None:
            return False
        line = self._waiters[owner]
        waiter = line.popleft()
        self._number -= 1
        self._waiters.move_to_end(owner)
        if not line:
            del self._waiters[owner]
        waiter.callback(None)
        return True

    def _leave(self, owner: _Key, waiter: Deferred[None]) -> None:
        line = self._waiters[owner]
        line.remove(waiter)
        self._number -= 1
        if not line:
            del self._waiters[owner]
