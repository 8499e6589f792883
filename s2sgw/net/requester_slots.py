"""Slots for work at the request of peers: half of them for strangers, half for ourselves (`net.requester`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime

from s2sgw.net.fair_slots import FairSlots, SlotLost
from s2sgw.net.requester import Requester
from s2sgw.net.site_rates import SiteRates

#: The largest part of its half that one owner may hold, and the number of its calls that may wait.
OWNER_PART = 8
OWNER_LINE = 64
#: Calls that wait in all, as a multiple of the slots.
LINE_FACTOR = 4
#: The burst of a stranger's address, in seconds of its rate.
BURST_SECONDS = 20

T = TypeVar("T")
P = ParamSpec("P")


class RequesterSlots(Generic[T]):
    """`number` slots. `rate`: calls a second that strangers at one address may begin."""

    def __init__(self, clock: IReactorTime, number: int, rate: float) -> None:
        self._strangers: FairSlots[T] = _slots(clock, number // 2)
        self._ours: FairSlots[T] = _slots(clock, number - number // 2)
        self._rates = SiteRates(clock, rate, rate * BURST_SECONDS)
        self._given_up: Counter[str] = Counter()

    @property
    def in_flight(self) -> int:
        """Return the number of slots that are taken."""
        return self._strangers.in_flight + self._ours.in_flight

    @property
    def in_line(self) -> int:
        """Return the number of calls that wait for a slot."""
        return self._strangers.in_line + self._ours.in_line

    @property
    def given_up(self) -> Counter[str]:
        """Return the number of calls since the start that lost their slot or got none, by reason."""
        total = Counter(self._given_up)
        for slots in (self._strangers, self._ours):
            total.update(slots.given_up)
        return total

    def run(
        self, requester: Requester, ask: Callable[P, Coroutine[Deferred[Any], Any, T]], *args: P.args, **named: P.kwargs,
    ) -> Deferred[T]:
        """Await `ask(…)` as soon as `requester` gets a slot, and return its result. Fails with `SlotLost`.

        Cancelling the result takes the call out of the line, or cancels the call.
        """

        def begin() -> Deferred[T]:
            return Deferred.fromCoroutine(ask(*args, **named))

        if not requester.is_stranger:
            return self._ours.run(requester.owner, begin)
        if not self._rates.take(requester.owner):
            self._given_up["rate"] += 1
            return fail(SlotLost("rate"))
        return self._strangers.run(requester.owner, begin)


def _slots(clock: IReactorTime, number: int) -> FairSlots[T]:
    part = max(number // OWNER_PART, 1)
    return FairSlots(clock, max(number, 1), per_owner=part, per_line=OWNER_LINE, waiting=LINE_FACTOR * max(number, 1))
