"""Several of our domains on one stream to a peer (XEP-0220 §2.6.1): each further pair is asked for by dialback.

A stream is shared only among pairs whose own streams would show the peer the very same certificate. So no pair loses a proof by
sharing (docs/architecture.md has the reasons).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from s2sgw.net.connection import StreamConnection
from s2sgw.s2s.extensions import ExtensionMemory
from s2sgw.s2s.shared_stream import PairStream, SharedStream
from s2sgw.stream.initiating import InitiatingStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Pair

#: Seconds that a peer has to answer for a further pair; it may have to call back for that.
ANSWER = 10.0
#: Seconds after a request for a further pair within which a stream error may be due to the request.
BRIEF = 10.0

#: Stream errors that concern the peer's own state, whatever we ask of it.
_OF_STATE = frozenset({"system-shutdown", "reset", "connection-timeout", "resource-constraint", "conflict", "see-other-host"})
#: Stream errors about the sender. On a shared stream they mean that the peer answered "valid" and still refuses the pair.
_OF_SENDERS = frozenset({"invalid-from", "not-authorized", "host-unknown", "invalid-id"})


class PairRequests:
    """The requests for further pairs on one stream of ours to the server called `name`, and whether it supports them.

    If it does not, nothing is multiplexed with it for a day (`s2s.extensions`).
    """

    def __init__(
        self, connection: StreamConnection, engine: InitiatingStream, name: str, extensions: ExtensionMemory, clock: IReactorTime,
    ) -> None:
        self._connection = connection
        self._engine = engine
        self._name = name
        self._extensions = extensions
        self._clock = clock
        self._asked: dict[Pair, Deferred[Ending | None]] = {}
        self._added_at: float | None = None

    def ask(self, pair: Pair) -> Deferred[Ending | None]:
        """Ask whether `pair` may be sent too. Fires with None, or with the reason against it, after a bounded time."""
        answer: Deferred[Ending | None] = Deferred(partial(self._unasked, pair))
        self._asked[pair] = answer
        answer.addTimeout(ANSWER, self._clock, self._late)
        self._connection.step(self._engine.authorize, pair)
        return answer

    def proven(self, pair: Pair) -> None:
        """Take the answer: the other side accepts the pair."""
        self._added_at = self._clock.seconds()
        self._answer(pair, None)

    def refused(self, pair: Pair, ending: Ending) -> None:
        """Take the answer: the other side refuses the pair, or this way of asking."""
        self._broke(ending)
        self._answer(pair, ending)

    def ended(self, ending: Ending) -> bool:
        """Fail all requests: the stream is gone. Note whether further pairs may be the reason."""
        blamed = self._to_blame(ending)
        if blamed:
            self._broke(ending)
        for pair in list(self._asked):
            self._answer(pair, ending)
        return blamed

    def _unasked(self, pair: Pair, answer: Deferred[Ending | None]) -> None:
        """Forget a request whose answer is not needed any more."""
        self._asked.pop(pair, None)

    def _answer(self, pair: Pair, ending: Ending | None) -> None:
        answer = self._asked.pop(pair, None)
        if answer is not None:
            answer.callback(ending)

    def _late(self, _: object, seconds: float) -> Ending:
        ending = Ending(Cause.DIALBACK_ERROR, f"no answer for a further pair on the stream in {seconds:g} s", "them")
        self._broke(ending)
        return ending

    def _broke(self, ending: Ending) -> None:
        self._extensions.disable(self._name, "multiplexing", ending)

    def _to_blame(self, ending: Ending) -> bool:
        if ending.condition in _OF_STATE or (ending.by == "us" and ending.in_order):
            return False
        if self._asked or self._added_at is None:
            return bool(self._asked)
        young = self._clock.seconds() - self._added_at <= BRIEF
        return ending.by == "them" and (ending.condition in _OF_SENDERS or (young and ending.condition is not None))


class Shared(Protocol):
    """A stream of ours that may be shared. `shown`: the certificate that it shows to the peer."""

    pair: Pair
    shown: str | None
    engine: InitiatingStream
    connection: StreamConnection
    shared_stream: SharedStream
    additions: PairRequests


class ShareableStreams:
    """The streams of ours that may be shared, by the domain they lead to, and the attempts under way."""

    def __init__(self) -> None:
        self._open: dict[str, list[Shared]] = {}
        self._under_way: dict[tuple[str, str], list[Deferred[None]]] = {}

    def add(self, stream: Shared) -> None:
        """Add `stream`, which is ready. It is listed until it is gone."""
        name = stream.pair.recipient.ascii
        self._open.setdefault(name, []).append(stream)
        stream.connection.when_closed().addCallback(self._gone, name, stream)

    def _gone(self, _: object, name: str, stream: Shared) -> None:
        self._open[name].remove(stream)
        if not self._open[name]:
            del self._open[name]

    @contextmanager
    def opening(self, name: str, shown: str) -> Iterator[None]:
        """Note an attempt. Until it ends, others wait for its stream."""
        first = (name, shown) not in self._under_way
        waiting = self._under_way.setdefault((name, shown), [])
        try:
            yield
        finally:
            if first:
                del self._under_way[name, shown]
                for waiter in waiting:
                    waiter.callback(None)

    async def settled(self, name: str, shown: str) -> None:
        """Wait until the attempt that is under way ends, if there is one and no stream yet."""
        waiting = self._under_way.get((name, shown))
        if waiting is not None and not any(stream.shown == shown for stream in self._open.get(name, ())):
            waiter: Deferred[None] = Deferred(waiting.remove)
            waiting.append(waiter)
            await waiter

    async def join(self, pair: Pair, shown: str | None = None) -> PairStream | None:
        """Return a part for `pair` of a stream that shows `shown` (None: any), if there is one and the peer agrees."""
        for stream in self._open.get(pair.recipient.ascii, ()):
            if shown in (None, stream.shown) and stream.engine.extensible and stream.shared_stream.takes_user():
                pair_stream = stream.shared_stream.for_pair(pair)
                if pair_stream is None and await stream.additions.ask(pair) is None:
                    pair_stream = stream.shared_stream.for_pair(pair)
                return pair_stream
        return None
