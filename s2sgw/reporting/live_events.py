"""The events of the gateway as they happen, for watchers of one peer or all (`s2sgw watch`, `/events`).

They are the events of the log, also those below its level, and each of those that the log only counts. A watcher that reads
slowly loses its oldest events and gets their number. Without watchers nothing is observed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Any

from twisted.logger import ILogObserver, LogEvent, LogLevel, LogPublisher, globalLogPublisher
from zope.interface import implementer

from s2sgw.reporting.log import event_row

#: Watchers at once, in all and of one user; events that wait for one of them.
WATCHERS = 16
WATCHERS_PER_USER = 4
WAITING = 200
#: The key of a log event that sums up events which the watchers got one by one.
TOLD = "log_told"


class TooManyWatchers(Exception):
    """The largest number of watchers is reached."""


class Watcher:
    """One watcher. `wake` is called when the first event waits, `end` when the watcher has to give way."""

    def __init__(self, user: str, peers: frozenset[str], wake: Callable[[], None], end: Callable[[], None]) -> None:
        self.user = user
        self.end = end
        #: the node of this gateway, if the watcher also gets the events of other nodes
        self.node: str | None = None
        self._peers = peers
        self._wake = wake
        self._waiting: deque[dict[str, Any]] = deque(maxlen=WAITING)
        self._missed = 0

    def wants(self, peer: str) -> bool:
        """Return whether the watcher gets events of a peer."""
        return not self._peers or peer.lower() in self._peers

    def put(self, event: dict[str, Any], node: str | None = None) -> None:
        """Keep an event until it is taken. `node`: the other node that it comes from."""
        self._missed += len(self._waiting) == WAITING
        on = node or self.node
        self._waiting.append(event if on is None else {**event, "on": on})
        if len(self._waiting) == 1:
            self._wake()

    def miss(self, number: int) -> None:
        """Count events that were lost elsewhere."""
        self._missed += number

    def take(self) -> tuple[list[dict[str, Any]], int]:
        """Return the waiting events, and how many were lost before them."""
        events, missed = list(self._waiting), self._missed
        self._waiting.clear()
        self._missed = 0
        return events, missed


def _at_once(call: Callable[..., object], *arguments: object) -> None:
    call(*arguments)


@implementer(ILogObserver)
class LiveEvents:
    """Passes each event on to the watchers of its peer.

    `in_reactor` calls a function on the reactor's thread. It is used for log events of other threads.
    """

    def __init__(
        self, in_reactor: Callable[..., object] = _at_once, publisher: LogPublisher = globalLogPublisher,
    ) -> None:
        self._in_reactor = in_reactor
        self._publisher = publisher
        self._thread = get_ident()
        #: in the order of arrival
        self._watchers: dict[Watcher, None] = {}

    def __len__(self) -> int:
        return len(self._watchers)

    def watch(
        self, user: str, peers: frozenset[str], wake: Callable[[], None], end: Callable[[], None] = lambda: None,
    ) -> Watcher:
        """Return a new watcher of some peers (names in lower case), or of all.

        The oldest watcher of a user who has too many gives way. If there are too many in all and the newcomer's user has fewer,
        the oldest watcher of the user who has most gives way. Raises `TooManyWatchers`.
        """
        numbers = Counter(each.user for each in self._watchers)
        if numbers[user] >= WATCHERS_PER_USER:
            self._give_way(user)
        elif len(self._watchers) >= WATCHERS:
            most = max(numbers, key=numbers.__getitem__)
            if numbers[most] <= numbers[user] + 1:
                raise TooManyWatchers
            self._give_way(most)
        if not self._watchers:
            self._publisher.addObserver(self)
        watcher = Watcher(user, peers, wake, end)
        self._watchers[watcher] = None
        return watcher

    def _give_way(self, user: str) -> None:
        oldest = next(each for each in self._watchers if each.user == user)
        self.stop(oldest)
        oldest.end()

    def stop(self, watcher: Watcher) -> None:
        """Remove a watcher."""
        if watcher in self._watchers:
            del self._watchers[watcher]
            if not self._watchers:
                self._publisher.removeObserver(self)

    def __call__(self, event: LogEvent) -> None:
        """Pass on an event of the log. Notes in free text are not passed on."""
        if "event" not in event or event.get(TOLD):
            return
        if get_ident() == self._thread:
            self._pass_on(event)
        else:
            self._in_reactor(self._pass_on, event)

    def tell(self, at: float, level: LogLevel, peer: str, event: Mapping[str, Any]) -> None:
        """Pass on an event of a peer that is not in the log. `at`: seconds since the epoch."""
        if any(watcher.wants(peer) for watcher in self._watchers):
            self._pass_on({"log_time": at, "log_level": level, **event})

    def _pass_on(self, event: LogEvent) -> None:
        peer = str(event.get("peer", ""))
        watchers = [watcher for watcher in self._watchers if watcher.wants(peer)]
        if watchers:
            row = {**event_row(event), "at": event.get("log_time", 0.0)}
            for watcher in watchers:
                watcher.put(row)
