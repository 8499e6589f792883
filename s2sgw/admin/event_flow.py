"""The events of one watcher on their way to its client: over HTTP (`/events`) and over the line protocol (`watch`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IPushProducer, IReactorTime
from zope.interface import implementer

from s2sgw.reporting.live_events import Watcher
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.timer import cancel

#: Seconds between two looks for waiting events.
FLUSH_SECONDS = 0.2


class EventSource(Protocol):
    """The events of this gateway (`reporting.live_events`), or those of all nodes of a cluster."""

    def watch(self, user: str, peers: frozenset[str], wake: Callable[[], None], end: Callable[[], None]) -> Watcher:
        """Return a new watcher. Raises `TooManyWatchers`."""

    def stop(self, watcher: Watcher) -> None:
        """Remove a watcher."""


@implementer(IPushProducer)
class EventFlow:
    """Writes events a few times a second, as fast as the client reads. A client that does not read loses the oldest.

    `write` is called with the events and the number of those lost before them. `end` is called when the watcher had to give way.
    """

    def __init__(
        self, live: EventSource, clock: IReactorTime, write: Callable[[list[dict[str, Any]], int], None], end: Callable[[], None],
    ) -> None:
        self._live = live
        self._clock = clock
        self._write = write
        self._end = end
        self._watcher: Watcher | None = None
        self._flush: Any = None
        #: whether the client does not read
        self.paused = False

    def begin(self, user: str, peer: Domain | None) -> None:
        """Watch a peer, or all peers, on behalf of a user. Raises `TooManyWatchers`."""
        peers = frozenset[str]() if peer is None else frozenset((peer.ascii, peer.text))
        self._watcher = self._live.watch(user, peers, self._woken, self._gave_way)

    def stop(self) -> None:
        """Watch no more."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            self._live.stop(watcher)
        cancel(self._flush)
        self._flush = None

    def _gave_way(self) -> None:
        self.stop()
        self._end()

    def _woken(self) -> None:
        if not self.paused and self._flush is None:
            self._flush = self._clock.callLater(FLUSH_SECONDS, self._flow)

    def _flow(self) -> None:
        self._flush = None
        if self._watcher is not None and not self.paused:
            events, missed = self._watcher.take()
            if events:
                self._write(events, missed)

    def pauseProducing(self) -> None:
        """Keep events, as far as there is room: the client does not read."""
        self.paused = True

    def resumeProducing(self) -> None:
        """Go on writing: the client reads again."""
        self.paused = False
        self._woken()

    def stopProducing(self) -> None:
        """Do nothing: the connection is closing, and its end stops the flow."""
