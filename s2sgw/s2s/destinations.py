"""When a server may be connected to: how many handshakes run at once, and how long a failing server is left alone.

There are three budgets of handshakes, so that none delays another: with a backend, with peers, and for the verification of
dialback keys. Within a budget, and at one server, waiting attempts take turns by owner (`s2s.owners`).

All queues to one server share its back-off (as Postfix does by destination). While the server fails, it is not tried again before
the time; then one attempt is made for all queues. A server that contacts us is tried again at once.

The number of remembered servers is bounded. The registered domain with the most of them loses its oldest first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Literal
from weakref import ref

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.queue.backoff import BackOff, Chance
from s2sgw.s2s.fair_queue import FairQueue
from s2sgw.xmpp.ending import Cause, Ending, Layer
from s2sgw.xmpp.fair_dict import FairNames

#: The purpose of a handshake: a stream to a backend (or the verification of a backend's own dialback key), a stream to a peer,
#: or the verification of a peer's dialback key.
Purpose = Literal["backend", "outbound", "verification"]
PURPOSES: tuple[Purpose, ...] = ("backend", "outbound", "verification")

#: Handshakes at once for each purpose (`[limits] handshakes`).
HANDSHAKES = 256
#: Handshakes at once with one server, for each purpose. A backend serves every peer.
PER_DESTINATION: dict[Purpose, int] = {"backend": 16, "outbound": 4, "verification": 4}
#: One owner takes at most this part of a budget. The last such part is for owners that have none yet.
SHARE = 4
#: Servers that are remembered, beside those to which attempts run or wait.
MAX_DESTINATIONS = 10_000
#: Seconds between two attempts that a server causes by contacting us.
CONTACT_SECONDS = 2.0
#: The back-off of a server that failed.
BACK_OFF = BackOff()

#: Failures of these layers concern the server, not only the pair that was to be proven.
_SERVER_LAYERS = (Layer.DNS, Layer.TCP, Layer.TLS, Layer.PKIX)
#: Failures that concern a backend, whatever pair the stream was for.
_UNREACHABLE = (Cause.DNS_UNREACHABLE, Cause.CONNECTION_REFUSED, Cause.CONNECTION_TIMEOUT, Cause.UNREACHABLE)


class DestinationBackingOff(Exception):
    """The server failed with `ending`. It is not tried again for `wait` seconds."""

    def __init__(self, ending: Ending, wait: float) -> None:
        super().__init__(f"{ending.cause}, tried again in {wait:.0f} s")
        self.ending = ending
        self.wait = wait


def concerns_the_server(ending: Ending, purpose: Purpose = "outbound") -> bool:
    """Return whether the failure concerns all queues to a server, not one pair alone.

    A backend is shared by all peers. A failure that one of them can cause (its domain being refused, slowly or silently) does not
    delay the others.
    """
    if purpose == "backend":
        return ending.cause in _UNREACHABLE
    return ending.layer in _SERVER_LAYERS or ending.cause is Cause.NEGOTIATION_TIMEOUT


class _Slots:
    """`limit` handshakes at once, and the attempts that wait for one. `share`: how many one owner has at most; 0: any number."""

    def __init__(self, clock: IReactorTime, limit: int, share: int = 0) -> None:
        self.limit = limit
        self._share = share
        self.running = 0
        self._by_owner: Counter[Hashable] = Counter()
        # without a circle, so that the slots of a destination leave memory as soon as it is forgotten
        self.waiting: FairQueue[Hashable] = FairQueue(clock, partial(_is_free, ref(self)))

    def free(self, owner: Hashable) -> bool:
        """Return whether `owner` may begin a handshake now."""
        if self.running >= self.limit:
            return False
        own = self._by_owner.get(owner, 0)
        return not self._share or not own or (own < self._share and self.running < self.limit - self._share)

    def take(self, owner: Hashable) -> None:
        self.running += 1
        self._by_owner[owner] += 1

    def give_back(self, owner: Hashable) -> None:
        self.running -= 1
        self._by_owner[owner] -= 1
        if not self._by_owner[owner]:
            del self._by_owner[owner]

    def release(self) -> None:
        """Release waiting attempts while there are free slots. Each takes a slot, waits elsewhere, or gives up."""
        self.waiting.serve(len(self.waiting))


def _is_free(slots: ref[_Slots], owner: Hashable) -> bool:
    found = slots()
    return found is not None and found.free(owner)


@dataclass(slots=True)
class _Destination:
    failures: int = 0
    ending: Ending | None = None
    retry_at: float = 0.0
    contacted_at: float = -inf
    succeeded_at: float = -inf
    contact_timer: IDelayedCall | None = None
    slots: dict[Purpose, _Slots] = field(default_factory=dict)
    #: the attempts that run or wait
    attempts: int = 0

    @property
    def blank(self) -> bool:
        """Nothing needs to be remembered of it."""
        return not self.failures and self.contact_timer is None

    def slots_for(self, purpose: Purpose, clock: IReactorTime) -> _Slots:
        """Return the slots of `purpose`. A failing server has one, so that one attempt is made for all queues."""
        slots = self.slots.get(purpose)
        if slots is None:
            slots = self.slots[purpose] = _Slots(clock, PER_DESTINATION[purpose])
        slots.limit = 1 if self.failures else PER_DESTINATION[purpose]
        return slots


class Destinations:
    """The state of each server, by a name such as its domain.

    `on_limit` is called when an attempt has to wait because a budget of handshakes is used up.
    """

    def __init__(
        self, clock: IReactorTime, random: Chance, back_off: BackOff = BACK_OFF, handshakes: int = HANDSHAKES,
        on_limit: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._random = random
        self._back_off = back_off
        self._on_limit = on_limit
        self._destinations: dict[str, _Destination] = {}
        #: those to which no attempt runs or waits
        self._idle: FairNames[None] = FairNames(MAX_DESTINATIONS)
        self._budgets = {purpose: _Slots(clock, handshakes, max(1, handshakes // SHARE)) for purpose in PURPOSES}

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return for each purpose how many handshakes run, and how many wait for one to end."""
        return {purpose: (budget.running, len(budget.waiting)) for purpose, budget in self._budgets.items()}

    # --- attempts ---

    @asynccontextmanager
    async def attempt(
        self, name: str, purpose: Purpose = "outbound", owner: Hashable = None, forced: bool = False,
    ) -> AsyncIterator[float]:
        """Hold a slot for one attempt to reach the server, after waiting for it if need be.

        The result is the time at which it began.
        Raises `DestinationBackingOff` while the server is left alone, unless `forced` (a question waits for the stream).
        """
        budget, destination, told = self._budgets[purpose], self._in_use(name), False
        try:
            while True:  # no coroutine of its own: thousands may wait here
                if not forced:
                    self._check_back_off(destination)
                slots = destination.slots_for(purpose, self._clock)
                if not slots.free(owner):
                    await slots.waiting.wait(owner)
                elif not budget.free(owner):
                    if not told:
                        told = True
                        self._on_limit()
                    await budget.waiting.wait(owner)
                else:
                    break
            slots.take(owner)
            budget.take(owner)
            try:
                yield self._clock.seconds()
            finally:
                slots.give_back(owner)
                budget.give_back(owner)
                destination.slots_for(purpose, self._clock).release()
                budget.release()
        finally:
            destination.attempts -= 1
            self._remember(name, destination)

    def check_back_off(self, name: str) -> None:
        """Return at once. Raises `DestinationBackingOff` while the server is left alone."""
        if name in self._destinations:
            self._check_back_off(self._destinations[name])

    def backs_off(self, name: str) -> bool:
        """Return whether the server is left alone at present."""
        destination = self._destinations.get(name)
        return destination is not None and destination.ending is not None and destination.retry_at > self._clock.seconds()

    def _check_back_off(self, destination: _Destination) -> None:
        wait = destination.retry_at - self._clock.seconds()
        if wait > 0 and destination.ending is not None:
            raise DestinationBackingOff(destination.ending, wait)

    # --- outcomes ---

    def succeeded(self, name: str) -> None:
        """Note that an attempt reached the server."""
        destination = self._destinations.get(name)
        if destination is not None:
            destination.failures, destination.ending, destination.retry_at = 0, None, 0.0
            destination.succeeded_at = self._clock.seconds()

    def failed(self, name: str, ending: Ending, began: float = inf, purpose: Purpose = "outbound") -> float | None:
        """Note that an attempt failed.

        Return the seconds until the next, if all queues share the wait; None: only the pair waits.
        A server that has contacted us since the attempt `began` is tried again at once. If another attempt has reached the server
        since then, this failure concerns the pair alone.
        """
        destination = self._destinations.get(name) or _Destination()
        contacted = destination.contacted_at > began
        if not concerns_the_server(ending, purpose) or destination.succeeded_at > began:
            return 0.0 if contacted else None
        destination.failures += 1
        destination.ending = ending
        delay = 0.0 if contacted else self._back_off.delay(destination.failures, self._random)
        destination.retry_at = self._clock.seconds() + delay
        self._remember(name, destination)
        return delay

    def contacted(self, name: str, retry: Callable[[], None]) -> None:
        """Note that the server contacted us. It may be tried again, at once or soon. If it is soon, `retry` is called then."""
        destination = self._destinations.get(name)
        if destination is None or destination.contact_timer is not None:
            return
        wait = destination.contacted_at + CONTACT_SECONDS - self._clock.seconds()
        if wait > 0:
            destination.contact_timer = self._clock.callLater(wait, self._end_back_off, destination, retry)
        else:
            self._end_back_off(destination)

    def _end_back_off(self, destination: _Destination, retry: Callable[[], None] = lambda: None) -> None:
        destination.contact_timer = None
        destination.contacted_at = self._clock.seconds()
        destination.retry_at = 0.0
        retry()

    def retry_now(self, name: str) -> None:
        """Allow an attempt at once, by an operator's order."""
        if name in self._destinations:
            self._destinations[name].retry_at = 0.0

    def forget_failures(self, name: str) -> None:
        """Forget the failures of the server: another one has the name now."""
        if name in self._destinations:
            destination = self._destinations[name]
            destination.failures, destination.ending, destination.retry_at = 0, None, 0.0

    # --- memory ---

    def _in_use(self, name: str) -> _Destination:
        """Return the record of the server, for one more attempt. It is not forgotten before the attempt ends."""
        destination = self._destinations.setdefault(name, _Destination())
        self._idle.discard(name)
        destination.attempts += 1
        return destination

    def _remember(self, name: str, destination: _Destination) -> None:
        """Keep the record of a server without attempts, if it says something. Another may have to be forgotten for it."""
        if destination.attempts:
            return
        destination.slots = {}  # all are free: they take more memory than the rest
        self._idle.discard(name)
        if destination.blank:
            del self._destinations[name]
            return
        if len(self._idle) >= MAX_DESTINATIONS:
            forgotten = self._idle.least_wanted()
            del self._idle[forgotten], self._destinations[forgotten]
        self._destinations[name] = destination
        self._idle[name] = None
