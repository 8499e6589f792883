"""The verb `watch`: the events of one peer, or of all, while they happen, including those below `[log] level`."""

from __future__ import annotations

from s2sgw.admin.server import Arguments, Feed
from s2sgw.admin.verbs import peer_asked
from s2sgw.reporting.live_events import LiveEvents


class EventWatch:
    """Answers the verb."""

    def __init__(self, live: LiveEvents) -> None:
        self._live = live

    def watch(self, arguments: Arguments) -> Feed:
        """Return the feed of events about `peer`, or of all events."""
        return Feed(self._live, peer_asked(arguments))
