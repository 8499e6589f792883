"""Manners towards a server that is not there, or that cannot bear what others can: attempts are budgeted, and what broke
is left out for a day.

All lanes to one server share its back-off: while it is known not to answer, nobody asks it again before its time, and then
one asks for all. A server that contacts us is worth a new try.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.queue.backoff import BackOff
from s2sgw.xmpp.ending import Cause, Ending, Layer

#: What a stream can do without.
Extra = Literal["direct-tls", "bidi", "management", "resumption", "multiplexing"]

#: Handshakes under way at once: with one server, and in all.
PER_SERVER = 4
IN_ALL = 256
#: Seconds for which an extension that broke a server is left out there.
DAY = 86_400.0
#: Servers of which anything is remembered.
REMEMBERED = 10_000
#: Seconds between two tries that a server wakes by contacting us.
WAKES = 2.0
#: How long a server that failed is left alone.
BACK_OFF = BackOff()

#: What speaks of the server, not of the pair that was to be proven.
_OF_THE_SERVER = (Layer.DNS, Layer.TCP, Layer.TLS, Layer.PKIX)


class DestinationBackingOff(Exception):
    """The server failed for `ending`, and is not asked again for `wait` seconds."""

    def __init__(self, ending: Ending, wait: float) -> None:
        super().__init__(f"{ending.cause}, tried again in {wait:.0f} s")
        self.ending = ending
        self.wait = wait


def speaks_of_the_server(ending: Ending) -> bool:
    """Whether the failure concerns all lanes to a server, not one pair alone."""
    return ending.layer in _OF_THE_SERVER or ending.cause is Cause.NEGOTIATION_TIMEOUT


@dataclass(slots=True)
class _Destination:
    failures: int = 0
    ending: Ending | None = None
    retry_at: float = 0.0
    woken_at: float = float("-inf")
    waking: IDelayedCall | None = None
    running: int = 0
    waiting: deque[Deferred[None]] = field(default_factory=deque)
    without: dict[Extra, float] = field(default_factory=dict)
    suspects: dict[Extra, Ending] = field(default_factory=dict)

    @property
    def busy(self) -> bool:
        return bool(self.running or self.waiting or self.waking)

    @property
    def blank(self) -> bool:
        """Nothing is to be remembered of it."""
        return not (self.busy or self.failures or self.without or self.suspects)

    @property
    def room(self) -> bool:
        """One asks for all where it failed last; otherwise several may."""
        return self.running < (1 if self.failures else PER_SERVER)


class Destinations:
    """What is known of each server, by a name such as its domain. `random` gives numbers in [0, 1)."""

    def __init__(
        self, clock: IReactorTime, random: Callable[[], float], back_off: BackOff = BACK_OFF,
        told: Callable[[str, Extra, Ending], None] = lambda server, extra, ending: None,
    ) -> None:
        self._clock = clock
        self._random = random
        self._back_off = back_off
        self._told = told
        self._servers: OrderedDict[str, _Destination] = OrderedDict()
        self._running = 0
        self._peer_streams: deque[str] = deque()

    # --- attempts ---

    @asynccontextmanager
    async def turn(self, name: str, forced: bool = False) -> AsyncIterator[float]:
        """One attempt's turn, for which it may have to wait, and when that began; raises `DestinationBackingOff` while the
        server is left alone.

        `forced`: it is asked all the same, since a stranger waits for the answer.
        """
        server = self._server(name)
        while not (server.room and self._running < IN_ALL):
            self._refuse(server, forced)
            await self._queue(name, server)
        self._refuse(server, forced)
        server.running += 1
        self._running += 1
        try:
            yield self._clock.seconds()
        finally:
            server.running -= 1
            self._running -= 1
            self._next(server)
            if server.blank and self._servers.get(name) is server:
                del self._servers[name]

    def _refuse(self, server: _Destination, forced: bool) -> None:
        wait = server.retry_at - self._clock.seconds()
        if wait > 0 and server.ending is not None and not forced:
            raise DestinationBackingOff(server.ending, wait)

    def _queue(self, name: str, server: _Destination) -> Deferred[None]:
        waiter: Deferred[None] = Deferred(server.waiting.remove)
        server.waiting.append(waiter)
        self._peer_streams.append(name)
        return waiter

    def _next(self, server: _Destination) -> None:
        """Those that wait look again: all where the server is left alone now, else as many as there is room for."""
        alone = server.retry_at > self._clock.seconds()
        room = len(server.waiting) if alone else (1 if server.failures else PER_SERVER) - server.running
        for _ in range(min(room, len(server.waiting))):
            server.waiting.popleft().callback(None)
        while self._peer_streams and self._running < IN_ALL:
            other = self._servers.get(self._peer_streams.popleft())
            if other is not None and other.waiting and other.room:
                other.waiting.popleft().callback(None)
                break

    # --- outcomes ---

    def succeeded(self, name: str) -> None:
        """The server is there."""
        server = self._servers.get(name)
        if server is not None:
            server.failures, server.ending, server.retry_at = 0, None, 0.0

    def failed(self, name: str, ending: Ending, began: float = inf) -> float | None:
        """An attempt came to nothing. Seconds until the next, where all lanes share the wait; None: the pair's own affair.

        A server that has contacted us since the attempt `began` is asked again at once, whatever became of that one.
        """
        server = self._server(name)
        heard = server.woken_at > began
        if not speaks_of_the_server(ending):
            return 0.0 if heard else None
        server.failures += 1
        server.ending = ending
        delay = 0.0 if heard else self._back_off.delay(server.failures, self._random)
        server.retry_at = self._clock.seconds() + delay
        return delay

    def wake(self, name: str, later: Callable[[], None]) -> None:
        """The server contacted us: it may be asked again, at once or soon; `later` is called where it is soon, and then."""
        server = self._servers.get(name)
        if server is None or server.waking is not None:
            return
        wait = server.woken_at + WAKES - self._clock.seconds()
        if wait > 0:
            server.waking = self._clock.callLater(wait, self._awake, server, later)
        else:
            self._awake(server)

    def _awake(self, server: _Destination, then: Callable[[], None] = lambda: None) -> None:
        server.waking = None
        server.woken_at = self._clock.seconds()
        server.retry_at = 0.0
        then()

    def urge(self, name: str) -> None:
        """The operator's word: the server may be asked again at once."""
        if name in self._servers:
            self._servers[name].retry_at = 0.0

    # --- extensions ---

    def broke(self, name: str, extra: Extra, ending: Ending) -> None:
        """`extra` made a stream fail that works without it: it is left out for a day."""
        server = self._server(name)
        if not self._held(server, extra):
            self._told(name, extra, ending)
        server.without[extra] = self._clock.seconds() + DAY

    def suspect(self, name: str, extra: Extra, ending: Ending) -> None:
        """A stream on which `extra` was used failed early: the next is tried without. `steady` or `acquit` follows."""
        self._server(name).suspects[extra] = ending

    def suspects(self, name: str) -> bool:
        """Whether a stream to the server is a trial now."""
        server = self._servers.get(name)
        return server is not None and bool(server.suspects)

    def steady(self, name: str) -> None:
        """The trial lives: what it was opened without is to blame."""
        for extra, ending in self._server(name).suspects.items():
            self.broke(name, extra, ending)
        self.acquit(name)

    def acquit(self, name: str) -> None:
        """The trial failed as well."""
        self._server(name).suspects.clear()

    def bears(self, name: str, extra: Extra) -> bool:
        """Whether `extra` may be used with the server."""
        server = self._servers.get(name)
        return server is None or not (extra in server.suspects or self._held(server, extra))

    def without(self) -> Iterator[tuple[str, tuple[Extra, ...]]]:
        """The servers with what is left out there."""
        for name, server in self._servers.items():
            extras = tuple(extra for extra in server.without if self._held(server, extra))
            if extras:
                yield name, extras

    def _held(self, server: _Destination, extra: Extra) -> bool:
        return server.without.get(extra, 0.0) > self._clock.seconds()

    # --- memory ---

    def _server(self, name: str) -> _Destination:
        """The server's standing; with too many of them the one that was longest untouched, and rests, is forgotten."""
        server = self._servers.get(name)
        if server is None:
            server = self._servers[name] = _Destination()
            self._forget()
        self._servers.move_to_end(name)
        return server

    def _forget(self) -> None:
        if len(self._servers) > REMEMBERED:
            oldest = next((name for name, server in self._servers.items() if not server.busy), None)
            if oldest is not None:
                del self._servers[oldest]
