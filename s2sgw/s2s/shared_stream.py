"""A stream that carries stanzas of several pairs, and its part for each pair, which a delivery agent uses.

Streams of ours carry several pairs by XEP-0220 §2.6. Streams of the other side carry stanzas back by XEP-0288 (R36).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Literal, NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from s2sgw.delivery.next_hop import NextHopLimits, StreamFacts
from s2sgw.delivery.outbound_stream import ResumableStream, StreamUser
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.net.connection import StreamConnection
from s2sgw.net.discovery import Target
from s2sgw.s2s.legs import Legged
from s2sgw.stream.events import Acknowledged, Event, ManagementRefused, NotResumed, Resumed
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.jid import Pair

log = Logger()


class CarryingEngine(Protocol):
    """The interface of the stream's engine."""

    @property
    def closing(self) -> bool: ...

    @property
    def managed(self) -> bool: ...

    @property
    def resumption(self) -> object | None: ...

    @property
    def continues(self) -> bool: ...

    def sent(self, number: int) -> bool:
        """Count `number` stanzas that are being written. Return whether they will be acknowledged."""


def tell_lost(user: StreamUser, ending: Ending) -> None:
    """Tell one user of a stream that it is gone. An error in one user does not keep the others from being told."""
    try:
        user.stream_lost(ending)
    except Exception:
        log.failure("a user of a stream failed at its end")


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
    def read_since(self) -> float:
        return self.connection.read_since

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

    def answered_before(self, outcome: NotResumed) -> None:
        self._shared_stream.outcome = outcome

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
        if self._shared_stream.engine.sent(number):
            self._shared_stream.note_written(self, number)

    def write(self, stanzas: Sequence[bytes]) -> bool:
        return self.connection.write(b"".join(stanzas))

    @property
    def largest_in_flight(self) -> int:
        return max((user.largest_in_flight for user in self._shared_stream.users), default=0)

    @property
    def sole(self) -> bool:
        return len(self._shared_stream.users) == 1

    def leave(self, ending: Ending) -> Deferred[None]:
        self.user = None
        if not self._shared_stream.users:
            self.connection.close(ending)
        return self.connection.when_closed()

    def abort(self, ending: Ending) -> None:
        self.connection.abort(ending)

    def close(self, ending: Ending) -> Deferred[None]:
        self.connection.close(ending)
        return self.connection.when_closed()


def _unknown(pair: Pair) -> NextHopLimits:
    """Return no limits: none are announced."""
    return NextHopLimits()


class ResumedParts(NamedTuple):
    """The state that an interrupted stream hands over to the stream that resumes it.

    `written`: the stanzas that must be written again, in their first order. `users`: the users that go on.
    """

    written: list[tuple[Pair, list[bytes]]]
    users: dict[Pair, StreamUser]


class SharedStream:
    """The parts of one stream, by the pairs that it may carry.

    `target`: the place that we connected to; None on a stream of the other side. `limits`: which stanzas of a pair the other side
    takes.
    `incoming` takes what comes on a stream of ours (XEP-0288).
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
        #: whether a ping was answered on the connection
        self.answers = False
        self.incoming: StreamIngress | None = None
        #: whether an extension was requested on a stream of ours and is not answered yet
        self.asking = False
        #: what remains of a stream of ours, and whether it was resumed
        self.broken: ResumableStream | None = None
        self.outcome: Resumed | NotResumed | None = None
        self._parts: dict[Pair, PairStream] = {}
        #: (part, number of stanzas) that are being written, counted (XEP-0198) and not acknowledged, in order
        #: None: there were none yet, as on a stream that only brings stanzas
        self._written: deque[tuple[PairStream, int]] | None = None
        self._turn = 0

    def allow(self, pair: Pair, method: str = "bidi", reasons: tuple[str, ...] = ()) -> PairStream:
        """Return the part for `pair`, which may be sent from now on."""
        return self._parts.setdefault(pair, PairStream(self, pair, method, reasons))

    @property
    def pairs(self) -> list[Pair]:
        """The pairs that may use it."""
        return list(self._parts)

    @property
    def shared(self) -> bool:
        """Whether more than one pair may use the stream."""
        return len(self._parts) > 1

    def for_pair(self, pair: Pair, alone: bool = False) -> PairStream | None:
        """Return the part for `pair`, unless it is in use, or the stream takes no further user (`takes_user`)."""
        part = self._parts.get(pair)
        return part if part is not None and part.user is None and self.takes_user(alone) else None

    def takes_user(self, alone: bool = False) -> bool:
        """Return whether one more user may use the stream. A user that must be `alone` shares it with no other."""
        users = self.users
        over = self.connection.ending is not None or self.engine.closing or self.connection.retiring
        return not over and not (alone and users) and not any(user.alone for user in users)

    @property
    def users(self) -> list[StreamUser]:
        """The users of all parts."""
        return [part.user for part in self._parts.values() if part.user is not None]

    @property
    def used_by(self) -> list[Pair]:
        """The pairs whose parts are in use."""
        return [part.pair for part in self._parts.values() if part.user is not None]

    def count_resumed(self, part: PairStream, number: int) -> None:
        """Count stanzas of the resumed stream: `number` of the pair were not acknowledged on it."""
        if number:
            self.note_written(part, number)

    def note_written(self, part: PairStream, number: int) -> None:
        """Note that `number` stanzas of one part are being written, and that the engine counts them."""
        if self._written is None:
            self._written = deque()
        self._written.append((part, number))

    def unacknowledged(self, part: PairStream) -> int:
        """Return how many stanzas of one part are counted and not acknowledged."""
        return sum(number for each, number in self._written or () if each is part)

    def event(self, event: Event) -> None:
        """Tell each user how many of its own stanzas the other side has. Pass any other event to all users."""
        if isinstance(event, Acknowledged):
            if self._written and self._written[0][1] == event.count:  # as usual
                part, _ = self._written.popleft()
                if part.user is not None:
                    part.user.stream_event(event)
                return
            for part, number in self._take_written(event.count):
                if part.user is not None:
                    part.user.stream_event(Acknowledged(number))
            return
        if isinstance(event, ManagementRefused):
            self._written = None
        for user in self.users:
            user.stream_event(event)

    def _take_written(self, count: int) -> Iterator[tuple[PairStream, int]]:
        """Yield part and number of the first `count` stanzas that were written, which are acknowledged now."""
        while count and self._written:
            part, number = self._written.popleft()
            acknowledged = min(count, number)
            count -= acknowledged
            if acknowledged < number:
                self._written.appendleft((part, number - acknowledged))
            yield part, acknowledged

    def slow(self) -> None:
        """Tell all users that the other side reads nothing at present."""
        for user in self.users:
            user.stream_slow()

    def free(self) -> None:
        """Tell all users that the other side reads again. The order rotates, because the first user may fill the connection."""
        users = self.users
        self._turn = (self._turn + 1) % max(1, len(users))
        for user in users[self._turn:] + users[:self._turn]:
            user.stream_free()

    def lost(self, ending: Ending) -> None:
        """Tell all users that the stream is gone. If several had stanzas in flight, it is unknown which one caused the end."""
        users = self.users
        ambiguous = sum(user.busy for user in users) > 1
        for part in self._parts.values():
            part.ambiguous = ambiguous
        for user in users:
            tell_lost(user, ending)
        self._release()

    def _release(self) -> None:
        """Drop all references back to this object. Otherwise it stays in memory until the cyclic collector runs."""
        self._parts, self.limits, self._written = {}, _unknown, None

    # --- resumption (XEP-0198 §5) ---

    @property
    def resumption(self) -> Literal["possible", "resumed"] | None:
        """Whether the stream can be resumed if it breaks off, or has itself resumed another."""
        if self.engine.continues:
            return "resumed"
        return None if self.engine.resumption is None else "possible"

    @property
    def resumable(self) -> bool:
        """Whether everything unacknowledged can be sent again in its order: the users still hold it, and none has left."""
        return all(part.user is not None and part.user.holds(number) for part, number in self._unacknowledged().items())

    def _unacknowledged(self) -> Counter[PairStream]:
        total: Counter[PairStream] = Counter()
        for part, number in self._written or ():
            total[part] += number
        return total

    def suspend(self, ending: Ending) -> bool:
        """Suspend the stream, which broke off.

        Users with unacknowledged stanzas wait, the others lose it. Return whether any waits.
        """
        unacknowledged = self._unacknowledged()
        for part in self._parts.values():
            if part.user is not None and not unacknowledged[part]:
                user, part.user = part.user, None
                tell_lost(user, ending)
        for user in self.users:
            user.stream_suspended(ending)
        return bool(unacknowledged)

    def hand_over(self, count: int) -> ResumedParts:
        """Return what remains for the stream that resumes this one. The other side has `count` of the unacknowledged stanzas.

        Call this only while the stream is `resumable`.
        """
        acknowledged: Counter[PairStream] = Counter()
        for part, number in self._take_written(count):
            acknowledged[part] += number
        users = {part: part.user for part in self._parts.values() if part.user is not None}
        again = {part: iter(user.resend(acknowledged[part])) for part, user in users.items()}
        written = [(part.pair, list(islice(again[part], number))) for part, number in self._written or ()]
        self._release()
        return ResumedParts(written, {part.pair: user for part, user in users.items()})

    def continue_from(self, former: ResumedParts) -> None:
        """Continue `former`: write its stanzas again, then let its users go on here."""
        for pair, stanzas in former.written:
            self.note_written(self._parts[pair], len(stanzas))
        if former.written:
            self.connection.write(b"".join(data for _, stanzas in former.written for data in stanzas))
        for pair, user in former.users.items():
            user.stream_resumed(self._parts[pair])
