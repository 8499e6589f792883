"""Slots for calls that take long, shared fairly among their owners.

A call has an owner: a path of names from the widest group to the narrowest, such as the networks of an address. A free
slot goes to the group that holds the fewest, and within it to the next narrower group that holds the fewest. When all slots
are taken, a newcomer does not wait for a crowd: the group that holds the most gives up its oldest call. So a flood from
a few owners delays only these owners.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

#: Seconds after which a call of a group that holds more than its share can lose its slot (unbound's jostle time-out).
JOSTLE_SECONDS = 0.2
#: Seconds after which any call can lose its slot. Most calls that get an answer get it sooner.
SLOW_SECONDS = 2.0
#: Seconds between two looks for a slot, while calls wait.
LOOK_SECONDS = 0.05
#: The most calls that are begun in one turn of the reactor: each takes a part of a millisecond.
BEGUN_AT_ONCE = 16

T = TypeVar("T")
Owner = tuple[str, ...]
#: Why a call failed: another took its slot, too many were in line, or too many were requested in a short time.
Reason = Literal["displaced", "line-full", "rate"]


class SlotLost(Exception):
    """The call was not made, or not finished, because no slot was free."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class _Call:
    """One call: in line until it is `running`."""

    __slots__ = ("begin", "result", "running", "share", "started")

    def __init__(self, share: _Share, begin: Callable[[], Deferred[Any]]) -> None:
        self.share = share
        self.begin = begin
        self.started = 0.0
        self.running: Deferred[Any] | None = None
        self.result: Deferred[Any]


class _Share:
    """The slots and the places in line of one owner, or of one group of owners."""

    __slots__ = ("calls", "children", "line", "name", "parent", "running", "served", "waiting")

    def __init__(self, parent: _Share | None, name: str) -> None:
        self.parent = parent
        self.name = name
        self.children: dict[str, _Share] = {}
        #: slots held and calls in line, here and below
        self.running = self.waiting = 0
        #: the serial number of the last slot that it was given
        self.served = 0
        #: of the narrowest share: its running calls and those in line, oldest first
        self.calls: dict[_Call, None] = {}
        self.line: dict[_Call, None] = {}

    def add(self, running: int, waiting: int) -> None:
        """Count here and in every wider group. A share that holds nothing is removed."""
        share: _Share | None = self
        while share is not None:
            share.running += running
            share.waiting += waiting
            if not (share.running or share.waiting) and share.parent is not None:
                share.parent.children.pop(share.name, None)
            share = share.parent


class FairSlots(Generic[T]):
    """`limit` slots. One owner (the narrowest group) holds at most `per_owner` of them, and has at most `per_line` calls in line.

    At most `waiting` calls are in line in all. `given_up` counts the failed calls since the start, by reason.
    """

    def __init__(self, clock: IReactorTime, limit: int, *, per_owner: int, per_line: int, waiting: int) -> None:
        self.limit = limit
        self.given_up: Counter[str] = Counter()
        self._clock = clock
        self._per_owner = per_owner
        self._per_line = per_line
        self._waiting = waiting
        self._root = _Share(None, "")
        self._running: dict[_Call, None] = {}
        self._serial = 0
        self._filling = False
        self._look: IDelayedCall | None = None

    @property
    def in_flight(self) -> int:
        """Return the number of slots that are taken."""
        return len(self._running)

    @property
    def in_line(self) -> int:
        """Return the number of calls that wait for a slot."""
        return self._root.waiting

    def run(self, owner: Owner, begin: Callable[[], Deferred[T]]) -> Deferred[T]:
        """Call `begin` as soon as `owner` gets a slot, and return its result. Fails with `SlotLost`.

        Cancelling the result takes the call out of the line, or cancels what `begin` returned.
        """
        share = self._share(owner)
        call = _Call(share, begin)
        call.result = Deferred(lambda _: self._abandon(call))
        share.line[call] = None
        share.add(0, 1)
        self._trim(share)
        self._fill()
        return call.result

    # --- the line ---

    def _share(self, owner: Owner) -> _Share:
        share = self._root
        for name in owner:
            child = share.children.get(name)
            if child is None:
                child = share.children[name] = _Share(share, name)
            share = child
        return share

    def _trim(self, share: _Share) -> None:
        """Keep the lines within their bounds: remove the call that has waited longest in the longest line."""
        if len(share.line) > self._per_line:
            self._drop(share)
        elif self._root.waiting > self._waiting:
            longest = self._root
            while longest.children:
                longest = max(longest.children.values(), key=_by_waiting)
            self._drop(longest)

    def _drop(self, share: _Share) -> None:
        call = next(iter(share.line))
        self._leave_line(call)
        self._give_up(call, "line-full")

    def _leave_line(self, call: _Call) -> None:
        del call.share.line[call]
        call.share.add(0, -1)

    def _fill(self) -> None:
        """Give slots to calls in line while there are slots, or calls that must give way. Begin a few now, the others soon."""
        if self._filling:
            return
        self._filling = True
        try:
            for _ in range(BEGUN_AT_ONCE):
                call = self._next(self._root)
                if call is None or not self._make_room(call):
                    break
                self._start(call)
            else:
                self._look_at_once()
        finally:
            self._filling = False
        self._look_again()

    def _look_at_once(self) -> None:
        if self._root.waiting:
            if self._look is not None:
                self._look.cancel()
            self._look = self._clock.callLater(0, self._looked)

    def _next(self, share: _Share) -> _Call | None:
        """Return the call that is next: of the group with the fewest slots; among equals, of the one served longest ago."""
        if share.line:
            return next(iter(share.line)) if share.running < self._per_owner else None
        waiting = [each for each in share.children.values() if each.waiting]
        while waiting:
            child = min(waiting, key=_by_turn)
            call = self._next(child)
            if call is not None:
                return call
            waiting.remove(child)  # its owners hold all slots that they may have
        return None

    def _look_again(self) -> None:
        """While calls wait for the slots of others, check again soon: the others get older."""
        if self._look is None and self._root.waiting and len(self._running) >= self.limit:
            self._look = self._clock.callLater(LOOK_SECONDS, self._looked)

    def _looked(self) -> None:
        self._look = None
        self._fill()

    # --- slots ---

    def _make_room(self, call: _Call) -> bool:
        """Return whether there is a slot for `call`. If all are taken, the call that must give way loses its slot."""
        if len(self._running) < self.limit:
            return True
        loser = self._crowding(call.share) or self._slow()
        if loser is None:
            return False
        self._release(loser)
        self._give_up(loser, "displaced")
        return True

    def _crowding(self, newcomer: _Share) -> _Call | None:
        """Return the oldest call of a group that would hold more slots than the newcomer's group even without it."""
        path = [newcomer]
        while path[-1].parent is not None:
            path.append(path[-1].parent)
        for group, own in zip(reversed(path[1:]), reversed(path[:-1]), strict=True):
            most = max(group.children.values(), key=_by_running)
            if most.running > own.running + 1:
                while most.children:
                    most = max(most.children.values(), key=_by_running)
                return self._older(next(iter(most.calls), None), JOSTLE_SECONDS)
        return None

    def _slow(self) -> _Call | None:
        """Return the oldest of all calls, if it is slow."""
        return self._older(next(iter(self._running), None), SLOW_SECONDS)

    def _older(self, call: _Call | None, seconds: float) -> _Call | None:
        return call if call is not None and self._clock.seconds() - call.started >= seconds else None

    def _start(self, call: _Call) -> None:
        share = call.share
        del share.line[call]
        share.calls[call] = self._running[call] = None
        share.add(1, -1)
        self._serial += 1
        above: _Share | None = share
        while above is not None:
            above.served, above = self._serial, above.parent
        call.started = self._clock.seconds()
        try:
            call.running = call.begin()
        except Exception:
            self._finished(Failure(), call)
        else:
            call.running.addBoth(self._finished, call)

    def _release(self, call: _Call) -> None:
        del self._running[call]
        del call.share.calls[call]
        call.share.add(-1, 0)

    def _finished(self, result: Any, call: _Call) -> None:
        if call in self._running:
            self._release(call)
            if not call.result.called:
                call.result.callback(result)  # a Failure becomes an errback
            self._fill()

    # --- endings ---

    def _give_up(self, call: _Call, reason: Reason) -> None:
        self.given_up[reason] += 1
        call.result.errback(SlotLost(reason))
        if call.running is not None:
            call.running.cancel()

    def _abandon(self, call: _Call) -> None:
        """Forget a call whose caller has cancelled."""
        if call in self._running:
            self._release(call)
            if call.running is not None:
                call.running.cancel()
            self._fill()
        elif call in call.share.line:
            self._leave_line(call)


def _by_turn(share: _Share) -> tuple[int, int]:
    return share.running, share.served


def _by_running(share: _Share) -> int:
    return share.running


def _by_waiting(share: _Share) -> int:
    return share.waiting
