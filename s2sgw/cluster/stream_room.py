"""The room in the streams of the spool, which is kept for what makes room: claims, marks and removals."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from s2sgw.cluster.jetstream_api import JetStreamAPI, RequestRefused
from s2sgw.cluster.requests import Unanswered

#: The part of a stream that stanzas may fill.
STANZAS_PART = 0.9
#: Seconds between two looks at a stream.
LOOK_SECONDS = 1.0


class StreamRoom:
    """Looks at the streams that are asked for. `now` is a monotonic clock, in seconds. `start` runs a coroutine."""

    def __init__(self, api: JetStreamAPI, now: Callable[[], float], start: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._api = api
        self._now = now
        self._start = start
        self._looked: dict[str, float] = {}
        self._full: set[str] = set()

    def has_room(self, stream: str) -> bool:
        """Return whether there was room for stanzas at the last look. If that was long ago, another look is begun."""
        if self._now() - self._looked.get(stream, float("-inf")) >= LOOK_SECONDS:
            self._looked[stream] = self._now()
            self._start(self._look(stream))
        return stream not in self._full

    async def _look(self, stream: str) -> None:
        try:
            info = await self._api.call(f"STREAM.INFO.{stream}", {})
        except (Unanswered, RequestRefused):
            return  # what was seen before counts
        if info["state"]["bytes"] > info["config"]["max_bytes"] * STANZAS_PART:
            self._full.add(stream)
        else:
            self._full.discard(stream)
