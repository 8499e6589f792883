"""The events of the gateway as they happen, for those who watch one peer or all (`s2sgw watch`, `/events`).

A watcher that reads slowly loses its oldest events and is told how many. Without a watcher an event costs one comparison.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from s2sgw.reporting.audit import plain

#: Watchers at once, in all and of one user; events that wait for one of them.
WATCHERS = 16
WATCHERS_PER_USER = 4
WAITING = 200


class TooManyWatchers(Exception):
    """There are as many watchers as there may be."""


class Watcher:
    """One who watches. `wake` is called when the first event waits, `end` when the watcher had to give way."""

    def __init__(self, user: str, peers: frozenset[str], wake: Callable[[], None], end: Callable[[], None]) -> None:
        self.user = user
        self.end = end
        self._peers = peers
        self._wake = wake
        self._waiting: deque[dict[str, Any]] = deque(maxlen=WAITING)
        self._missed = 0

    def wants(self, peer: str) -> bool:
        """Return whether events of a peer are watched."""
        return not self._peers or peer in self._peers

    def put(self, event: dict[str, Any]) -> None:
        """Keep an event until it is taken."""
        self._missed += len(self._waiting) == WAITING
        self._waiting.append(event)
        if len(self._waiting) == 1:
            self._wake()

    def take(self) -> tuple[list[dict[str, Any]], int]:
        """Return the events that wait, and how many were lost before them."""
        events, missed = list(self._waiting), self._missed
        self._waiting.clear()
        self._missed = 0
        return events, missed


class LiveEvents:
    """Passes each event on to those who watch its peer."""

    def __init__(self) -> None:
        self._watchers: dict[Watcher, None] = {}

    def __len__(self) -> int:
        return len(self._watchers)

    def watch(
        self, user: str, peers: frozenset[str], wake: Callable[[], None], end: Callable[[], None] = lambda: None,
    ) -> Watcher:
        """Return a new watcher of some peers, or of all. The oldest watcher of a user who has too many gives way.

        Raises `TooManyWatchers`.
        """
        own = [each for each in self._watchers if each.user == user]
        if len(own) >= WATCHERS_PER_USER:
            self.stop(own[0])
            own[0].end()
        if len(self._watchers) >= WATCHERS:
            raise TooManyWatchers
        watcher = Watcher(user, peers, wake, end)
        self._watchers[watcher] = None
        return watcher

    def stop(self, watcher: Watcher) -> None:
        """Pass nothing more on to a watcher."""
        self._watchers.pop(watcher, None)

    def tell(self, at: float, peer: str, event: Mapping[str, Any]) -> None:
        """Pass an event of a peer on. `at`: seconds since the epoch."""
        watchers = [watcher for watcher in self._watchers if watcher.wants(peer)]
        if watchers:
            told = {"at": at, **{key: plain(value) for key, value in event.items()}}
            for watcher in watchers:
                watcher.put(told)
