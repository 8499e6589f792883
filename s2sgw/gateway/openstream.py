"""An open stream as its user sees it, whoever opened it."""

from __future__ import annotations

from typing import Protocol

from s2sgw.gateway.incoming import Incoming
from s2sgw.gateway.sides import Legged
from s2sgw.net.connection import StreamConnection
from s2sgw.net.discovery import Target
from s2sgw.stream.events import Event
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.jid import Pair


class Listener(Protocol):
    """Whoever uses an open stream."""

    @property
    def busy(self) -> bool:
        """Something of it is in flight."""

    def stream_event(self, event: Event) -> None: ...

    def stream_lost(self, ending: Ending) -> None: ...

    def stream_slow(self) -> None: ...

    def stream_free(self) -> None: ...


class Counting(Protocol):
    """What is needed of the engine of an open stream."""

    @property
    def managed(self) -> bool: ...

    @property
    def unacknowledged(self) -> int: ...

    def sent(self, number: int) -> None: ...


class OpenStream(Protocol):
    """A stream on which stanzas of one pair may be sent: one of ours, or one of theirs that carries them back (XEP-0288)."""

    method: str
    reasons: tuple[str, ...]
    pair: Pair
    listener: Listener | None
    connection: StreamConnection

    @property
    def side(self) -> Legged: ...

    @property
    def engine(self) -> Counting: ...

    @property
    def target(self) -> Target | None:
        """Where we connected to."""

    @property
    def incoming(self) -> Incoming | None:
        """Where stanzas go that come on a stream of ours."""

    @property
    def largest(self) -> int | None:
        """Bytes of a stanza that the other side accepts; None: unknown."""

    def close(self, ending: Ending) -> None: ...
