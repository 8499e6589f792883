"""A line of waiting attempts that is shared fairly among their owners."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from functools import partial
from operator import itemgetter
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: The most attempts that are released in one turn of the reactor. Each takes a part of a millisecond, or a few if it connects.
RELEASED_AT_ONCE = 16

_Key = TypeVar("_Key", bound=Hashable)


class FairQueue(Generic[_Key]):
    """Releases waiting attempts round robin by owner (fair queueing, RFC 970), if `may_go` holds for the owner.

    An owner with many does not delay the first of another.
    """

    def __init__(self, clock: IReactorTime, may_go: Callable[[_Key], bool]) -> None:
        self._clock = clock
        self._may_go = may_go
        #: the waiters of each owner, in a table from which any of them can leave: a stop cancels thousands
        self._waiters: OrderedDict[_Key, OrderedDict[Deferred[None], None]] = OrderedDict()
        self._number = 0
        #: how many more `serve` may release, and whether it does so now
        self._due = 0
        self._serving = False
        self._later: IDelayedCall | None = None

    def __len__(self) -> int:
        """Return how many wait."""
        return self._number

    def owners(self) -> list[_Key]:
        """Return the owners in the line, the next one first."""
        return list(self._waiters)

    def wait(self, owner: _Key, first: bool = False) -> Deferred[None]:
        """Join the line of `owner`. The Deferred fires when `release` chooses it; cancelling it leaves the line.

        `first`: it is released before all others, because it had its turn already and could not use it.
        """
        waiter: Deferred[None] = Deferred(partial(self._leave, owner))
        line = self._waiters.setdefault(owner, OrderedDict())
        line[waiter] = None
        if first:
            line.move_to_end(waiter, last=False)
            self._waiters.move_to_end(owner, last=False)
        self._number += 1
        return waiter

    def serve(self, at_most: int) -> None:
        """Release so many at most, while there are owners that may go: a few now, the others in later turns of the reactor.

        An attempt that is released may end at once and call this again. Then the first call goes on for the second, so that
        thousands that end at once are no recursion.
        """
        self._due = max(self._due, at_most)
        if self._serving or self._later is not None:  # this turn of the reactor has had its share
            return
        self._serving = True
        try:
            for _ in range(RELEASED_AT_ONCE):
                if self._due <= 0:
                    return
                self._due -= 1
                if not self.release(self._may_go):
                    self._due = 0
                    return
        finally:
            self._serving = False
        if not self._number:
            self._due = 0  # the places are for those that wait now, not for later ones
        elif self._due and self._later is None:
            self._later = self._clock.callLater(0, self._serve_on)

    def _serve_on(self) -> None:
        self._later = None
        self.serve(0)

    def release(self, may_go: Callable[[_Key], bool]) -> bool:
        """Release one waiter of the next owner for whom `may_go` holds, and return whether there was one."""
        owner = next((owner for owner in self._waiters if may_go(owner)), None)
        if owner is None:
            return False
        line = self._waiters[owner]
        waiter, _ = line.popitem(last=False)
        self._number -= 1
        self._waiters.move_to_end(owner)
        if not line:
            del self._waiters[owner]
        waiter.callback(None)
        return True

    def recall(self) -> None:
        """Release all that wait now, a few in each of the next turns of the reactor: they may join another line.

        The first of each line come first, then the second ones.
        """
        numbered = [(number, owner, waiter) for owner, line in self._waiters.items() for number, waiter in enumerate(line)]
        numbered.sort(key=itemgetter(0))
        if numbered:
            self._clock.callLater(0, self._recall_some, deque((owner, waiter) for _, owner, waiter in numbered))

    def _recall_some(self, recalled: deque[tuple[_Key, Deferred[None]]]) -> None:
        """Release the first of these that still wait, and the others later."""
        for _ in range(min(RELEASED_AT_ONCE, len(recalled))):
            owner, waiter = recalled.popleft()
            if not waiter.called:
                self._leave(owner, waiter)
                waiter.callback(None)
        if recalled:
            self._clock.callLater(0.001, self._recall_some, recalled)

    def _leave(self, owner: _Key, waiter: Deferred[None]) -> None:
        line = self._waiters[owner]
        del line[waiter]
        self._number -= 1
        if not line:
            del self._waiters[owner]
