"""The acknowledgements of the next server: by XEP-0198, by an XMPP ping behind the batch, or none (TCP alone).

Servers work in order, so the reply to a ping acknowledges everything before it (R41). A server that has never answered a ping
may be unable to reach us: written stanzas count as passed on. A server that has answered before and falls silent is presumed
dead: its stream ends, and stanzas in doubt are sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Literal, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.delivery.iq_replies import PingReplies
from s2sgw.delivery.outbound_stream import OutboundStream
from s2sgw.queue.evidence import PASSED_ON, WRITTEN, ReceiptEvidence
from s2sgw.stream.management import REQUEST
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.namespaces import PING, SERVER
from s2sgw.xmpp.timer import cancel

Acks = Literal["auto", "sm", "ping", "tcp"]

#: Seconds that a server has to answer a ping. It gets another one after so many seconds without a reply, and then after twice the
#: time each: the reply may be lost with the stream that brings it. So there are four pings in all.
PING_SECONDS, REPEAT_SECONDS = 20.0, 3.0
#: Seconds until the policy is told again that a server answers pings.
NOTE_SECONDS = 60.0
#: Seconds after which a ping is unanswered even if its reply may lie unread: as long as a stream may be held.
UNREAD_SECONDS = 300.0
#: Seconds without any acknowledgement, on a stream that promised them, after which something is wrong.
OVERDUE_SECONDS = 60.0
#: Bytes of a stanza that every server takes (RFC 6120 §13.12). Some announce no limit, and fall silent beyond theirs.
LARGE = 10_000


class Acknowledgements(Protocol):
    """Tells a delivery agent which of its stanzas the next server has."""

    #: False: written stanzas are passed on
    acknowledges: bool
    #: whether they arrive on a stream towards us, not on the stream that is written to
    arrive_elsewhere: bool

    @property
    def whole(self) -> bool:
        """Whether this queue sent all unacknowledged stanzas of the stream, and awaits their acknowledgements here."""

    def batch(self, stanzas: Sequence[bytes]) -> Sequence[bytes]:
        """Count these stanzas, which are being written. Return them with the requests before and after them."""

    def after_batch(self, number: int) -> bytes:
        """Count `number` stanzas that were written. Return the request to write after them."""

    def resumed(self, number: int) -> bytes:
        """Count `number` stanzas that are written again on a resumed stream. Return the request to write after them."""

    def acknowledged(self, number: int) -> int:
        """Take an acknowledgement of `number` more stanzas (XEP-0198). Return how many in flight it settles."""

    def on_pressure(self) -> None:
        """Settle what can be settled. So much is unacknowledged that the sources would have to wait."""

    def stop(self) -> None:
        """Stop: the stream is gone."""


class AckedQueue(Protocol):
    """The interface of the delivery queue whose stanzas are acknowledged."""

    @property
    def pair(self) -> Pair: ...

    def acknowledged(self, number: int, evidence: ReceiptEvidence) -> None:
        """Note that the first `number` stanzas in flight have another owner."""


class StallPolicy(Protocol):
    """The policy for a server that falls silent (`delivery.ack_selection`)."""

    def ping_answered(self, stream: OutboundStream) -> None:
        """Note that a ping was answered on the stream."""

    def answers_pings(self, stream: OutboundStream) -> bool:
        """Return whether the server is known to answer pings."""

    def ping_unanswered(self, stream: OutboundStream) -> bool:
        """Judge a ping that was not answered in time. Return whether the stream was ended for it."""

    def acks_overdue(self, stream: OutboundStream, acked_before: bool) -> None:
        """Judge a stream on which nothing was acknowledged for `OVERDUE_SECONDS`.

        `acked_before`: something was, earlier on it.
        """


class ReplyQueues(Protocol):
    """The delivery queues in which the replies to pings arrive."""

    def replies(self, pair: Pair) -> PingReplies:
        """Return the caught replies of the queue of `pair`."""

    def holds_source(self, pair: Pair) -> bool:
        """Return whether the queue of `pair` stops a stream that feeds it from being read."""


class ReplyCatcher:
    """Catches the replies to pings where they arrive: in the queue of `pair`, back to us.

    The queue is looked up for each ping, because it may be forgotten between two pings.
    """

    def __init__(self, queues: ReplyQueues, pair: Pair) -> None:
        self._queues = queues
        self._pair = pair

    def expect(self, id: str, answered: Callable[[], None]) -> None:
        """Call `answered` when the reply to the ping `id` arrives."""
        self._queues.replies(self._pair).expect(id, answered)

    def give_up(self, id: str) -> None:
        """Stop waiting for that reply."""
        self._queues.replies(self._pair).give_up(id)

    @property
    def unread(self) -> bool:
        """Return whether a reply may lie unread, on a stream that is held."""
        return self._queues.holds_source(self._pair)


class TcpAcks:
    """No acknowledgements. The stream still counts stanzas, because XEP-0198 may be enabled later."""

    acknowledges = whole = arrive_elsewhere = False

    def __init__(self, stream: OutboundStream | None = None) -> None:
        self._stream = stream

    def batch(self, stanzas: Sequence[bytes]) -> Sequence[bytes]:
        self.after_batch(len(stanzas))
        return stanzas

    def after_batch(self, number: int) -> bytes:
        if self._stream is not None:
            self._stream.count_sent(number)
        return b""

    def resumed(self, number: int) -> bytes:
        return self.after_batch(number)

    def acknowledged(self, number: int) -> int:
        return 0

    def on_pressure(self) -> None:
        """Do nothing: no stanza is unacknowledged."""

    def stop(self) -> None:
        """Do nothing: no acknowledgement is awaited."""


class StreamManagementAcks:
    """XEP-0198. The stream counts sent stanzas. Acknowledgements of the other side come in through `acknowledged`."""

    acknowledges = True
    arrive_elsewhere = False

    def __init__(
        self, stream: OutboundStream, policy: StallPolicy, clock: IReactorTime, before: int = 0, acked_before: bool = False,
    ) -> None:
        """`before`: the number of counted stanzas that were acknowledged in another way. Their acknowledgements come first.

        `acked_before`: the other side has acknowledged something on the stream before.
        """
        self._stream = stream
        self._policy = policy
        self._clock = clock
        self._before = before
        self._acked_before = acked_before
        self._outstanding = 0
        self._since = 0.0  # the time of the first of these, or of the last acknowledgement
        self._watch: IDelayedCall | None = None

    @property
    def whole(self) -> bool:
        return not self._before

    def batch(self, stanzas: Sequence[bytes]) -> Sequence[bytes]:
        self._stream.count_sent(len(stanzas))
        return [*stanzas, self._await(len(stanzas))]

    def after_batch(self, number: int) -> bytes:
        self._stream.count_sent(number)
        return self._await(number)

    def resumed(self, number: int) -> bytes:
        """Count nothing: the stream has counted these already."""
        self._before -= number
        self._acked_before = True
        return self._await(number)

    def _await(self, number: int) -> bytes:
        if not self._outstanding:
            self._since = self._clock.seconds()
        self._outstanding += number
        if self._watch is None:
            self._watch = self._clock.callLater(OVERDUE_SECONDS, self._look)
        return REQUEST

    def acknowledged(self, number: int) -> int:
        skipped = min(number, self._before)
        self._before -= skipped
        settled = min(number - skipped, self._outstanding)
        self._outstanding -= settled
        self._since = self._clock.seconds()
        self._acked_before = True
        return settled

    def on_pressure(self) -> None:
        """Do nothing: sources have to wait."""

    def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _look(self) -> None:
        """React to the timer. Start it again if something was acknowledged since, or the stream was not read."""
        self._watch = None
        left = max(self._since, self._stream.read_since) + OVERDUE_SECONDS - self._clock.seconds()
        if self._outstanding and left <= 0:
            self._policy.acks_overdue(self._stream, self._acked_before)
        elif self._outstanding:
            self._watch = self._clock.callLater(min(left, OVERDUE_SECONDS), self._look)


class PingAcks:
    """One ping at a time after the written stanzas. Its reply acknowledges them. If more was written, the next ping follows.

    If a reply is late, further pings follow without it, at growing intervals: each ping that is given up takes a place among the
    late replies (`iq_replies`). A reply acknowledges what was written before its ping.
    """

    whole = False
    arrive_elsewhere = True

    def __init__(
        self, stream: OutboundStream, queue: AckedQueue, replies: ReplyCatcher, policy: StallPolicy, clock: IReactorTime,
        token: Callable[[], str], always: bool = False,
    ) -> None:
        """Take the stream.

        `token` makes ids that cannot be guessed, of letters, digits and hyphens. `always`: ping again after the next batch, even
        without a reply before.
        """
        self.acknowledges = True
        self._stream = stream
        self._queue = queue
        self._replies = replies
        self._policy = policy
        self._clock = clock
        self._token = token
        self._always = always
        self._covered = 0  # stanzas before the unanswered ping, and behind the one before it
        self._uncovered = 0  # stanzas written since
        self._id: str | None = None
        self._earlier: list[tuple[str, int]] | None = None  # unanswered pings before it, and the stanzas that each of them covers
        self._asked_at = self._due_at = self._repeat_at = 0.0  # asked at: the time of the last late reply, if there was one
        self._note_at = -inf  # when the policy is told again that a ping was answered
        self._unread = False  # at the last look, the reply may have been unread
        self._timer: IDelayedCall | None = None  # it outlasts replies: one timer serves the pings of `REPEAT_SECONDS`
        self._request: tuple[bytes, bytes] | None = None  # a ping before and behind its id

    def batch(self, stanzas: Sequence[bytes]) -> Sequence[bytes]:
        before = b""
        if not self._stream.answers and self._id is None and self.acknowledges and max(map(len, stanzas)) > LARGE:
            before = self._ping(1)  # to find out whether it answers at all: it may fall silent because of one of these stanzas
        after = self.after_batch(len(stanzas))
        if before:
            stanzas = [before, *stanzas]
        return [*stanzas, after] if after else stanzas

    def after_batch(self, number: int) -> bytes:
        self._uncovered += number
        if self._id is None and self.acknowledges:
            return self._ping(number + 1)
        self._stream.count_sent(number)
        return b""

    def resumed(self, number: int) -> bytes:
        return self.after_batch(number)

    def acknowledged(self, number: int) -> int:
        """Ignore the event: only pings acknowledge."""
        return 0

    def on_pressure(self) -> None:
        """Count written stanzas as passed on if the server may be one that never answers, so that no source is slowed."""
        if (self._covered or self._uncovered or self._earlier) and not self._policy.answers_pings(self._stream):
            self._believe()

    def _believe(self) -> None:
        self._give_up_earlier()
        everything, self._covered, self._uncovered = self._covered + self._uncovered, 0, 0
        self._queue.acknowledged(everything, WRITTEN)

    def _give_up_earlier(self) -> None:
        """Wait for no reply to the earlier pings: the last one covers their stanzas too."""
        earlier, self._earlier = self._earlier or [], None
        for id, covered in earlier:
            self._replies.give_up(id)
            self._covered += covered

    def stop(self) -> None:
        self._give_up_earlier()
        if self._id is not None:
            self._replies.give_up(self._id)
            self._id = None
        cancel(self._timer)
        self._timer = None

    def _ping(self, number: int) -> bytes:
        """Return a ping, and count `number` stanzas that are written with it, itself among them."""
        self._id = self._token()
        self._stream.count_sent(number)
        self._covered, self._uncovered = self._uncovered, 0
        self._asked_at, self._unread = self._clock.seconds(), False
        self._due_at, self._repeat_at = self._asked_at + PING_SECONDS, self._asked_at + REPEAT_SECONDS
        self._replies.expect(self._id, self._answered)
        if self._timer is None:
            self._timer = self._clock.callLater(REPEAT_SECONDS, self._look)
        if self._request is None:
            self._request = _ping_around(self._queue.pair)
        before, behind = self._request
        return b"%b%b%b" % (before, self._id.encode(), behind)

    def _answered(self) -> None:
        self._id = None  # the reply is caught
        self._note_answer()
        if self._earlier is not None:
            self._give_up_earlier()
        covered, self._covered = self._covered, 0
        if self._uncovered:
            self._stream.write([self._ping(1)])
        self._queue.acknowledged(covered, PASSED_ON)

    def _note_answer(self) -> None:
        """Tell the policy that a ping was answered."""
        now = self._clock.seconds()
        if now >= self._note_at:
            self._note_at = now + NOTE_SECONDS
            self._policy.ping_answered(self._stream)

    def _look(self) -> None:
        """The timer is due. Repeat the ping, judge it, or wait on: one timer serves all pings of `REPEAT_SECONDS`."""
        self._timer = None
        if self._id is None:
            return
        now = self._clock.seconds()
        if now >= self._due_at:
            self._unanswered()
            return
        is_time = now >= self._repeat_at
        if is_time:
            self._repeat_at = now + REPEAT_SECONDS
        self._timer = self._clock.callLater(min(self._repeat_at - now, self._due_at - now, REPEAT_SECONDS), self._look)
        if is_time and not self._replies.unread:
            self._repeat(self._id, now)

    def _repeat(self, id: str, now: float) -> None:
        """Ping again: the reply to the ping `id` may be lost. The time for a reply goes on.

        The next ping follows when twice as much of that time has passed.
        """
        self._replies.expect(id, partial(self._answered_late, id))
        self._earlier = [*(self._earlier or ()), (id, self._covered)]
        since = self._asked_at, self._due_at, self._unread
        ping = self._ping(1)
        self._asked_at, self._due_at, self._unread = since
        waited = now - (self._due_at - PING_SECONDS)
        self._repeat_at = now + max(waited, REPEAT_SECONDS)
        self._stream.write([ping])

    def _answered_late(self, id: str) -> None:
        """Take the reply to a ping that was repeated. It acknowledges what was written before it, and the server lives.

        If this was all, no further reply is awaited. A server that is always late would be asked for ever.
        """
        self._note_answer()
        earlier = self._earlier or []
        number = 1 + [each for each, _ in earlier].index(id)
        self._earlier = earlier[number:] or None
        for each, _ in earlier[: number - 1]:
            self._replies.give_up(each)
        self._asked_at = self._clock.seconds()
        self._due_at = self._asked_at + PING_SECONDS
        if not (self._uncovered or self._covered or any(covered for _, covered in earlier[number:])):
            self.stop()
        self._queue.acknowledged(sum(covered for _, covered in earlier[:number]), PASSED_ON)

    def _unanswered(self) -> None:
        """End a ping without a reply. A reply that may lie unread gets its time again when the stream is read."""
        was_unread, self._unread = self._unread, self._replies.unread
        if (was_unread or self._unread) and self._clock.seconds() < self._asked_at + UNREAD_SECONDS:
            now = self._clock.seconds()
            self._due_at, self._repeat_at = now + PING_SECONDS, now + REPEAT_SECONDS
            self._timer = self._clock.callLater(REPEAT_SECONDS, self._look)
            return
        self.stop()
        self._note_at = -inf
        if self._policy.ping_unanswered(self._stream):
            return
        self.acknowledges = self._always
        self._believe()


def _ping_around(pair: Pair) -> tuple[bytes, bytes]:
    """Return what stands before the id of a ping of `pair`, and behind it. A ping is written often, and only its id differs."""
    addresses = {"type": "get", "from": pair.sender.text, "to": pair.recipient.text, "id": ""}
    before, empty, behind = Element("iq", SERVER, addresses, [Element("ping", PING)]).to_xml().partition(b" id='")
    return before + empty, behind
