"""Happy eyeballs (RFC 8305, XEP-0495): several places are tried, each a little after the last, and the first that answers wins.

The caller passes places of one priority only (R36), in the order of the attempts, with the address families in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IProtocol
from twisted.python.failure import Failure

from s2sgw.net.dialing import DialFailed, Dialler
from s2sgw.net.discovery import Target
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.timer import cancel

#: RFC 8305 §5: seconds to wait for one place before the next is tried too.
ATTEMPT_DELAY = 0.25
#: Attempts under way at once in one race.
CONCURRENT = 4
#: Seconds for a whole race.
RACE_TIMEOUT = 30.0


class RacePlace(Protocol):
    """The place to connect to."""

    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int: ...


P = TypeVar("P", bound=RacePlace)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a target."""

    target: Target
    address: str

    @property
    def port(self) -> int:
        return self.target.port


def priority_groups(targets: Sequence[Target]) -> list[tuple[Target, ...]]:
    """Return `targets` in one tuple for each priority. They come in the order of the attempts."""
    return [tuple(group) for _priority, group in groupby(targets, key=attrgetter("priority"))]


def endpoints(targets: Sequence[Target], limit: int) -> tuple[Endpoint, ...]:
    """Return the first `limit` addresses of `targets`, each address and port once: many names may lead to one server."""
    found: dict[tuple[str, int, bool], Endpoint] = {}
    for target in targets:
        for address in target.addresses:
            found.setdefault((address, target.port, target.direct_tls), Endpoint(target, address))
    return tuple(found.values())[:limit]


@dataclass(frozen=True, slots=True)
class Winner(Generic[P]):
    """The place that answered, and the places that have not failed. These are worth a try if the stream there fails."""

    place: P
    others: tuple[P, ...]


class RaceLost(Exception):
    """No place answered. `failures` has the reason of each. `ending` is the most telling one."""

    def __init__(self, failures: Sequence[tuple[Any, Ending]]) -> None:
        self.failures = tuple(failures)
        self.ending = _sum(self.failures)
        super().__init__(f"{self.ending.cause}: {self.ending.detail}")


def race(
    clock: Any, places: Sequence[P], build: Callable[[P], IProtocol], dialler: Callable[[P], Dialler], *,
    delay: float = ATTEMPT_DELAY, concurrent: int = CONCURRENT, timeout: float = RACE_TIMEOUT,
) -> Deferred[Winner[P]]:
    """Connect to one of `places`. `build(place)` makes the protocol for the winner only, `dialler(place)` connects to it.

    The next attempt begins when one has failed, or `delay` seconds after the last, with at most `concurrent` under way.
    Fails with `RaceLost` as soon as the last has failed, or after `timeout` seconds. Cancelling the result ends all attempts.
    """
    return _Race(clock, places, build, dialler, delay, concurrent).start(timeout)


class _Race(Generic[P]):
    """One race. The number of an attempt is the index of its place."""

    def __init__(
        self, clock: Any, places: Sequence[P], build: Callable[[P], IProtocol], dialler: Callable[[P], Dialler], delay: float,
        concurrent: int,
    ) -> None:
        self._clock = clock
        self._places = tuple(places)
        self._build = build
        self._dialler = dialler
        self._delay = delay
        self._concurrent = concurrent
        self._begun = 0
        self._running: dict[int, Deferred[None]] = {}
        self._failures: dict[int, Ending] = {}
        self._winner: int | None = None
        self._deadline: IDelayedCall | None = None
        self._next: IDelayedCall | None = None
        self._result: Deferred[Winner[P]] = Deferred(self._cancelled)

    def start(self, timeout: float) -> Deferred[Winner[P]]:
        self._deadline = self._clock.callLater(timeout, self._too_late)
        self._go_on()
        return self._result

    def _go_on(self) -> None:
        """Begin the next attempt if there is one and room for it. Give up if none is left at all."""
        cancel(self._next)
        if self._winner is None:
            if self._begun < len(self._places) and len(self._running) < self._concurrent:
                self._try(self._begun)
            elif not self._running:
                self._lose(self._failures)

    def _try(self, number: int) -> None:
        self._begun += 1
        self._next = self._clock.callLater(self._delay, self._go_on) if self._begun < len(self._places) else None
        place = self._places[number]
        attempt = maybeDeferred(self._dialler(place), place.address, place.port, partial(self._claim, number))
        self._running[number] = attempt
        attempt.addCallbacks(self._won, self._failed, callbackArgs=(number,), errbackArgs=(number,))

    def _claim(self, number: int) -> IProtocol | None:
        """Build the protocol for the first attempt that connects. It has won the race."""
        if self._winner is not None or self._result.called:
            return None
        self._winner = number
        return self._build(self._places[number])

    def _won(self, _: object, number: int) -> None:
        del self._running[number]
        self._stop()
        others = (place for other, place in enumerate(self._places) if other != number and other not in self._failures)
        self._result.callback(Winner(self._places[number], tuple(others)))

    def _failed(self, failure: Failure, number: int) -> None:
        if self._running.pop(number, None) is None or self._winner not in (None, number):
            return  # we gave it up
        self._winner = None
        self._failures[number] = _ending(failure)
        self._go_on()

    def _too_late(self) -> None:
        ending = Ending(Cause.CONNECTION_TIMEOUT, "no place answered in time", "network")
        self._lose({**self._failures, **dict.fromkeys(self._running, ending)})

    def _lose(self, failures: dict[int, Ending]) -> None:
        self._stop()
        self._result.errback(RaceLost([(self._places[number], failures[number]) for number in sorted(failures)]))

    def _cancelled(self, _: object) -> None:
        self._stop()

    def _stop(self) -> None:
        """End the attempts under way."""
        cancel(self._deadline)
        cancel(self._next)
        running, self._running = self._running, {}
        for attempt in running.values():
            attempt.cancel()


def _ending(failure: Failure) -> Ending:
    if isinstance(failure.value, DialFailed):
        return failure.value.ending
    return Ending(Cause.INTERNAL, failure.getErrorMessage())


#: The most telling causes why a domain could not be reached come first: an answer, even a refusal, before silence.
_TELLING = (Cause.CONNECTION_REFUSED, Cause.CONNECTION_TIMEOUT, Cause.UNREACHABLE)


def _sum(failures: Sequence[tuple[Any, Ending]]) -> Ending:
    endings = [ending for _place, ending in failures]
    if not endings:
        return Ending(Cause.UNREACHABLE, "there is no address to connect to")
    first = min(endings, key=lambda e: _TELLING.index(e.cause) if e.cause in _TELLING else len(_TELLING))
    return Ending(first.cause, "; ".join(dict.fromkeys(f"{e.cause}: {e.detail}" for e in endings)), first.by)
