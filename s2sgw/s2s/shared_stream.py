"""Streams that carry several pairs, whoever opened them: what a courier sees of one, a part for each pair.

Streams of theirs on which stanzas may go back (XEP-0288, R36), and streams of ours (XEP-0220 §2.6).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Literal, Protocol

from twisted.internet.defer import Deferred

from s2sgw.delivery.next_hop import NextHopLimits, StreamFacts
from s2sgw.delivery.outbound_stream import ResumableStream, StreamUser
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.net.connection import StreamConnection
from s2sgw.net.discovery import Target
from s2sgw.s2s.legs import Legged
from s2sgw.stream.events import Acknowledged, Event, ManagementRefused, NotResumed, Resumed
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.jid import Pair


class CarryingEngine(Protocol):
    """What is needed of the engine."""

    @property
    def closing(self) -> bool: ...

    @property
    def managed(self) -> bool: ...

    @property
    def resumption(self) -> object | None: ...

    @property
    def continues(self) -> bool: ...

    def sent(self, number: int) -> None: ...


class PairStream:
    """The part of a stream that carries `pair`: an `OutboundStream`."""

    def __init__(self, shared_stream: SharedStream, pair: Pair, method: str, reasons: tuple[str, ...]) -> None:
        self._shared_stream = shared_stream
        self.pair = pair
        self.method = method
        self.reasons = reasons
        self.connection = shared_stream.connection
        self.user: StreamUser | None = None
        self.ambiguous = False

    @property
    def ours(self) -> bool:
        return self._shared_stream.target is not None

    @property
    def carries_back(self) -> bool:
        return self._shared_stream.incoming is not None

    @property
    def writable(self) -> bool:
        return self.connection.writable

    @property
    def shared_connection(self) -> bool:
        return self.connection.shared

    @property
    def answers(self) -> bool:
        return self._shared_stream.answers

    def note_answer(self) -> None:
        self._shared_stream.answers = True

    def facts(self) -> StreamFacts:
        shared, connection = self._shared_stream, self.connection
        return StreamFacts(
            shared.side.leg, self.method, self.reasons, connection.peer_address, connection.tls_version, connection.cipher,
            self.ours, connection, None if len(shared.users) > 1 else shared.resumption,
        )

    @property
    def asking(self) -> bool:
        return self._shared_stream.asking

    @property
    def resumable(self) -> ResumableStream | None:
        return self._shared_stream.broken

    @property
    def outcome(self) -> Resumed | NotResumed | None:
        return self._shared_stream.outcome

    @property
    def limits(self) -> NextHopLimits:
        return self._shared_stream.limits(self.pair)

    @property
    def managed(self) -> bool:
        return self._shared_stream.engine.managed

    @property
    def unacknowledged(self) -> int:
        return self._shared_stream.unacknowledged(self)

    def count_sent(self, number: int) -> None:
        """Count for this pair too: the acknowledgements of all pairs come in one count."""
        self._shared_stream.sent(self, number)

    def write(self, stanzas: Sequence[bytes]) -> None:
        """Send these."""
        self.connection.write(b"".join(stanzas))

    @property
    def largest_in_flight(self) -> int:
        return max((user.largest_in_flight for user in self._shared_stream.users), default=0)

    @property
    def sole(self) -> bool:
        return len(self._shared_stream.users) == 1

    def leave(self, ending: Ending) -> Deferred[None]:
        """Its user has done with it; the last one closes the stream."""
        self.user = None
        if not self._shared_stream.users:
            self.connection.close(ending)
        return self.connection.when_closed()

    def abort(self, ending: Ending) -> None:
        """End the connection at once, for all of its pairs."""
        self.connection.abort(ending)

    def close(self, ending: Ending) -> Deferred[None]:
        """Close the stream, for all of its pairs."""
        self.connection.close(ending)
        return self.connection.when_closed()


def _unknown(pair: Pair) -> NextHopLimits:
    """Nothing is announced."""
    return NextHopLimits()


class SharedStream:
    """The pairs that one stream may carry, and whose courier uses it.

    `target`: where we connected to. `limits`: which stanzas of a pair the other side takes. `incoming` takes
    what comes on a stream of ours.
    """

    def __init__(
        self, side: Legged, connection: StreamConnection, engine: CarryingEngine, target: Target | None = None,
        limits: Callable[[Pair], NextHopLimits] = _unknown,
    ) -> None:
        self.side = side
        self.connection = connection
        self.engine = engine
        self.target = target
        self.limits = limits
        #: a ping was answered on the connection
        self.answers = False
        self.incoming: StreamIngress | None = None
        #: an extension of a stream of ours was asked for, and is not answered
        self.asking = False
        #: what is left of a stream of ours, and what became of the one with which it was to go on
        self.broken: ResumableStream | None = None
        self.outcome: Resumed | NotResumed | None = None
        self._pair_stream: dict[Pair, PairStream] = {}
        self._written: deque[tuple[PairStream, int]] = deque()  # what is unacknowledged, in order
        self._turn = 0

    def allow(self, pair: Pair, method: str = "bidi", reasons: tuple[str, ...] = ()) -> PairStream:
        """`pair` may be sent."""
        return self._pair_stream.setdefault(pair, PairStream(self, pair, method, reasons))

    @property
    def shared(self) -> bool:
        """More than one pair may use it."""
        return len(self._pair_stream) > 1

    def of(self, pair: Pair, alone: bool = False) -> PairStream | None:
        """The part for `pair`, unless it is in use, or `takes` does not hold."""
        pair_stream = self._pair_stream.get(pair)
        return pair_stream if pair_stream is not None and pair_stream.user is None and self.takes(alone) else None

    def takes(self, alone: bool = False) -> bool:
        """Whether one more may use the stream: nobody shares it with a user that must be `alone`."""
        users = self.users
        over = self.connection.ending is not None or self.engine.closing or self.connection.retiring
        return not over and not (alone and users) and not any(user.alone for user in users)

    @property
    def users(self) -> list[StreamUser]:
        """Who uses it now."""
        return [pair_stream.user for pair_stream in self._pair_stream.values() if pair_stream.user is not None]

    @property
    def used_by(self) -> list[Pair]:
        """The pairs whose users use it now."""
        return [pair_stream.pair for pair_stream in self._pair_stream.values() if pair_stream.user is not None]

    def sent(self, pair_stream: PairStream, number: int) -> None:
        """`number` stanzas of one pair are being written."""
        if self.engine.managed:
            self._written.append((pair_stream, number))
            self.engine.sent(number)

    def owe(self, pair_stream: PairStream, number: int) -> None:
        """The stream goes on with one on which so many of a pair were written, and counted."""
        if number:
            self._written.append((pair_stream, number))

    def unacknowledged(self, pair_stream: PairStream) -> int:
        """Of what was written of one pair, and counted."""
        return sum(number for each, number in self._written if each is pair_stream)

    def event(self, event: Event) -> None:
        """What the other side has, told to those who sent it; anything else concerns all."""
        if isinstance(event, Acknowledged):
            self._acknowledged(event.count)
            return
        if isinstance(event, ManagementRefused):
            self._written.clear()
        for user in self.users:
            user.stream_event(event)

    def _acknowledged(self, count: int) -> None:
        while count:
            pair_stream, number = self._written.popleft()
            part = min(count, number)
            count -= part
            if part < number:
                self._written.appendleft((pair_stream, number - part))
            if pair_stream.user is not None:
                pair_stream.user.stream_event(Acknowledged(part))

    def slow(self) -> None:
        """The other side takes nothing at present."""
        for user in self.users:
            user.stream_slow()

    def free(self) -> None:
        """It takes again; another one goes first each time, for the first may fill it."""
        users = self.users
        self._turn = (self._turn + 1) % max(1, len(users))
        for user in users[self._turn:] + users[:self._turn]:
            user.stream_free()

    def lost(self, ending: Ending) -> None:
        """The stream is gone; where several had stanzas in doubt, nobody can tell over whose."""
        users = self.users
        ambiguous = sum(user.busy for user in users) > 1
        for pair_stream in self._pair_stream.values():
            pair_stream.ambiguous = ambiguous
        for user in users:
            user.stream_lost(ending)
        self._release()

    def _release(self) -> None:
        """Let go of what refers back here: it would stay in memory until Python looks for circles."""
        self._pair_stream, self.limits = {}, _unknown
        self._written.clear()

    # --- resumption (XEP-0198 §5) ---

    @property
    def resumption(self) -> Literal["possible", "resumed"] | None:
        """Whether the stream can be resumed should it break off, or is one that was."""
        if self.engine.continues:
            return "resumed"
        return None if self.engine.resumption is None else "possible"

    @property
    def resumable(self) -> bool:
        """What is unacknowledged can be sent again as it was."""
        return all(each.user is not None and each.user.holds(number) for each, number in self._owed().items())

    def _owed(self) -> Counter[PairStream]:
        owed: Counter[PairStream] = Counter()
        for pair_stream, number in self._written:
            owed[pair_stream] += number
        return owed

    def suspend(self, ending: Ending) -> bool:
        """The stream broke off: whose stanzas are unacknowledged waits for it, if anybody; all others go another way."""
        owed = self._owed()
        for pair_stream in self._pair_stream.values():
            if pair_stream.user is not None and not owed[pair_stream]:
                user, pair_stream.user = pair_stream.user, None
                user.stream_lost(ending)
        for user in self.users:
            user.stream_suspended(ending)
        return bool(owed)

    def go_on(self, former: SharedStream, count: int) -> None:
        """Stanzas go back here from where `former` broke off; the other side has `count` more of them."""
        former._acknowledged(count)
        waiting = {each: each.user for each in former._pair_stream.values() if each.user is not None}
        again = {pair_stream: iter(user.again()) for pair_stream, user in waiting.items()}
        data: list[bytes] = []
        for pair_stream, number in former._written:
            data += islice(again[pair_stream], number)
            self._written.append((self._pair_stream[pair_stream.pair], number))
        if data:
            self.connection.write(b"".join(data))
        former._release()
        for pair_stream, user in waiting.items():
            user.stream_resumed(self._pair_stream[pair_stream.pair])
