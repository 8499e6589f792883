"""How many streams we have open to each server: where there are as many as it has to bear, one at rest makes room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from s2sgw.net.connection import StreamConnection
from s2sgw.xmpp.ending import Cause, Ending

#: Seconds without stanzas after which a stream may be closed for the sake of another.
AT_REST = 5.0
#: Seconds until a lane that found no room tries again.
AGAIN = 2.0


class Full(Exception):
    """There are so many streams to the server, all at work; it is worth a try again in `wait` seconds."""

    def __init__(self, limit: int) -> None:
        self.ending = Ending(Cause.TOO_MANY_STREAMS, f"all {limit} streams to the server are in use")
        self.wait = AGAIN
        super().__init__(self.ending.detail)


class Crowd:
    """The streams of ours that are open, by the name of the server."""

    def __init__(self) -> None:
        self._open: dict[str, list[StreamConnection]] = {}
        self._entering: Counter[str] = Counter()

    @contextmanager
    def entering(self, name: str, limit: int, now: float) -> Iterator[None]:
        """One more is on its way, for which room is made; raises `Full` where none is to be had. A `limit` of 0 is none."""
        if limit:
            self._make_room(name, limit, now)
        self._entering[name] += 1
        try:
            yield
        finally:
            self._entering[name] -= 1
            if not self._entering[name]:
                del self._entering[name]

    def joined(self, name: str, connection: StreamConnection) -> None:
        """A stream is open."""
        self._open.setdefault(name, []).append(connection)
        connection.when_closed().addCallback(lambda _: self._left(name, connection))

    def _make_room(self, name: str, limit: int, now: float) -> None:
        streams = [each for each in self._open.get(name, ()) if each.ending is None]
        if len(streams) + self._entering[name] < limit:
            return
        longest = min(streams, key=_used, default=None)
        if longest is None or now - _used(longest) < AT_REST:
            raise Full(limit)
        longest.close(Ending(Cause.IDLE))

    def _left(self, name: str, connection: StreamConnection) -> None:
        self._open[name].remove(connection)
        if not self._open[name]:
            del self._open[name]


def _used(connection: StreamConnection) -> float:
    return max(connection.last_sent, connection.last_received)
