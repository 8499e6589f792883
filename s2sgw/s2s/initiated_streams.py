"""The open streams of ours, for a change of policy and for the stop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.net.connection import StreamConnection
from s2sgw.net.discovery import Target
from s2sgw.reporting.record import Leg
from s2sgw.s2s.shared_stream import SharedStream
from s2sgw.stream.initiating import InitiatingStream
from s2sgw.xmpp.jid import Domain, Pair


class ReadyStream(Protocol):
    """One open stream of ours. `pair` is the pair that it was opened for, `target` the place that we connected to."""

    pair: Pair
    target: Target
    engine: InitiatingStream
    connection: StreamConnection
    shared_stream: SharedStream

    @property
    def leg(self) -> Leg: ...

    @property
    def busy(self) -> bool:
        """Whether some stanza of ours is in flight on it."""

    @property
    def pairs(self) -> list[Pair]:
        """The pairs that use it now."""

    @property
    def incoming(self) -> StreamIngress | None:
        """The ingress for stanzas that the other side sends on it (XEP-0288)."""


class NegotiatedStream(Protocol):
    """A stream of ours whose peer is being judged or was judged, and that is not ready yet."""

    pair: Pair
    target: Target
    connection: StreamConnection
    #: the policy by which the peer was judged, and whether it is being judged
    judged_by: object
    judging: bool

    @property
    def leg(self) -> Leg: ...


class InitiatedStreams:
    """The streams of ours that are ready, oldest first, and those that are being negotiated."""

    def __init__(self) -> None:
        self._open: dict[ReadyStream, None] = {}
        #: those whose peer is being judged or was judged, and that are not ready yet
        self._negotiated: dict[NegotiatedStream, None] = {}
        #: by home, if there are several nodes (`index_by`)
        self._home: Callable[[Pair], Domain] | None = None
        self._of_home: dict[Domain, dict[ReadyStream, None]] = {}

    def index_by(self, home: Callable[[Pair], Domain]) -> None:
        """List the streams by `home` of the pair that they were opened for, from now on. All pairs on one have the same home."""
        self._home = home

    def of_home(self, home: Domain) -> Collection[ReadyStream]:
        """Return the open streams whose home is `home`."""
        return self._of_home.get(home, {})

    def __iter__(self) -> Iterator[ReadyStream]:
        return iter([stream for stream in self._open if stream.connection.ending is None])

    @property
    def negotiated(self) -> list[NegotiatedStream]:
        """Those that are not ready yet, and whose peer is being judged or was judged."""
        return [stream for stream in self._negotiated if stream.connection.ending is None]

    def begin(self, stream: NegotiatedStream) -> None:
        """Note a stream whose peer is about to be judged. It is not ready yet."""
        self._negotiated[stream] = None

    def end(self, stream: NegotiatedStream) -> None:
        """Note the end of a negotiation: the stream is ready, or gone."""
        self._negotiated.pop(stream, None)

    def add(self, stream: ReadyStream) -> None:
        """Add a stream that is ready. It is forgotten when its connection is gone."""
        self._open[stream] = None
        home = None if self._home is None else self._home(stream.pair)
        if home is not None:
            self._of_home.setdefault(home, {})[stream] = None
        stream.connection.when_closed().addCallback(self._forget, stream, home)

    def _forget(self, _: None, stream: ReadyStream, home: Domain | None) -> None:
        self._open.pop(stream, None)
        if home is not None and (streams := self._of_home.get(home)) is not None:
            streams.pop(stream, None)
            if not streams:
                del self._of_home[home]
