"""The interface between delivery and the streams: the calls of a delivery agent on an open stream, and the stream's reports.

Delivery imports nothing from the streams' own packages. They implement the protocols of this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from twisted.internet.defer import Deferred

from s2sgw.delivery.next_hop import NextHopLimits, StreamFacts
from s2sgw.reporting.record import Leg
from s2sgw.stream.events import Event, NotResumed, Resumed
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.jid import Domain, Pair

#: Seconds for which stanzas in doubt wait for a resumption if they were sent on a stream of the other side (XEP-0288).
BIDI_RESUME_SECONDS = 15.0


class StreamUnavailable(Exception):
    """No stream could be opened.

    `ending` has the reason, `address` the place, and `reasons` the attempts to prove the other end. `retry` is the number of
    seconds after which all queues to the server may try again; None: each has a back-off of its own. `repeated`: the failure was
    known, and nothing was tried now.
    """

    def __init__(
        self, ending: Ending, address: str = "", reasons: tuple[str, ...] = (), retry: float | None = None,
        repeated: bool = False,
    ) -> None:
        super().__init__(f"{ending.layer}/{ending.cause}: {ending.detail}")
        self.ending = ending
        self.address = address
        self.reasons = reasons
        self.retry = retry
        self.repeated = repeated


class StreamUser(Protocol):
    """The user of an open stream. A user that sends nothing again may leave out the methods for resumption (XEP-0198 §5)."""

    @property
    def alone(self) -> bool:
        """Whether no other user may share the stream, because a stanza of this user may end it."""
        return False

    @property
    def busy(self) -> bool:
        """Whether stanzas of this user are in flight."""

    @property
    def largest_in_flight(self) -> int:
        """Return the bytes of the largest stanza of this user in flight."""
        return 0

    def stream_event(self, event: Event) -> None:
        """Take an event: the other side acknowledged stanzas, or answered whether it will."""

    def stream_lost(self, ending: Ending) -> None:
        """Note that the stream is gone."""

    def holds(self, number: int) -> bool:
        """Return whether all of the `number` unacknowledged stanzas are held, in their order, and no others were counted."""
        return False

    def resend(self, acknowledged: int) -> list[bytes]:
        """Return the stanzas to send again: the stream goes on, and the other side has the first `acknowledged` of them."""
        return []

    def stream_suspended(self, ending: Ending) -> None:
        """Note that the stream was lost, and may be resumed. `stream_resumed` or `stream_lost` follows shortly."""
        return

    def stream_resumed(self, stream: OutboundStream) -> None:
        """Note that the stream goes on as `stream`, where the result of `resend` was written."""
        return

    def stream_slow(self) -> None:
        """Note that the other side takes no more at present."""

    def stream_free(self) -> None:
        """Note that the other side takes more again."""


class ResumableStream(Protocol):
    """A stream of ours that was lost, without an end by either side, and can be resumed (XEP-0198 §5)."""

    @property
    def seconds(self) -> float:
        """Return the seconds for which the other side keeps it."""

    @property
    def unacknowledged(self) -> int:
        """Return the number of stanzas that were sent on it and not acknowledged."""

    @property
    def carries_back(self) -> bool:
        """Whether stanzas came on it too (XEP-0288)."""

    def forget(self) -> None:
        """Forget the stream: it is not resumed."""


class OutboundStream(Protocol):
    """The part of an open stream that carries one pair. It is a stream of ours, or one of the peer's (XEP-0288)."""

    method: str
    reasons: tuple[str, ...]
    pair: Pair
    user: StreamUser | None
    #: whether it was lost while stanzas of several pairs were in doubt
    ambiguous: bool

    @property
    def ours(self) -> bool:
        """Whether we opened it."""

    @property
    def carries_back(self) -> bool:
        """Whether it is ours, and the other side sends on it too (XEP-0288)."""

    @property
    def writable(self) -> bool:
        """Whether the other side takes more at present."""

    @property
    def read_since(self) -> float:
        """Return since when the stream is read without a hold; infinity while it is not read."""

    @property
    def shared_connection(self) -> bool:
        """Whether the connection carries stanzas of several or all pairs towards us. Then any of them may be why it ends."""

    @property
    def managed(self) -> bool:
        """Whether the other side acknowledges stanzas (XEP-0198)."""

    @property
    def unacknowledged(self) -> int:
        """Return the number of stanzas of this pair that were counted and not acknowledged."""

    @property
    def answers(self) -> bool:
        """Whether a ping was answered on the connection."""

    def note_answer(self) -> None:
        """Note that a ping was answered on the connection."""

    @property
    def resumable(self) -> ResumableStream | None:
        """Return the lost stream after its end, if it can be resumed."""

    @property
    def outcome(self) -> Resumed | NotResumed | None:
        """Return the outcome for the stream that this one was to resume."""

    def answered_before(self, outcome: NotResumed) -> None:
        """Note the answer to the resumption of the lost stream, which came on another stream than this one."""

    @property
    def limits(self) -> NextHopLimits:
        """Return the stanzas that the other side takes."""

    @property
    def asking(self) -> bool:
        """Whether, at the end, a request was unanswered: to acknowledge stanzas, or to take a further pair."""

    @property
    def largest_in_flight(self) -> int:
        """Return the bytes of the largest stanza in flight, of all users. 0: no stanza may end the stream."""

    @property
    def sole(self) -> bool:
        """Whether the stream has no other user."""

    def facts(self) -> StreamFacts:
        """Return the facts for operators."""

    def count_sent(self, number: int) -> None:
        """Count `number` stanzas that are being written."""

    def write(self, stanzas: Sequence[bytes]) -> bool:
        """Send stanzas, and requests between them. Return whether the stream takes no more for now."""

    def leave(self, ending: Ending) -> Deferred[None]:
        """Stop using the stream. The last user closes it. Fires when that is done, within a bounded time."""

    def close(self, ending: Ending) -> Deferred[None]:
        """Close the stream gracefully, for all of its pairs. Fires when that is done, within a bounded time."""

    def abort(self, ending: Ending) -> None:
        """End the connection at once, so that the stream may be resumed."""


class StreamProvider(Protocol):
    """The source of a queue's streams."""

    @property
    def leg(self) -> Leg:
        """Return the leg of the streams."""

    def place(self, pair: Pair) -> Deferred[None] | None:
        """Return a Deferred that fires when there may be a place for a stream for `pair`; None: `find` may be called now.

        Thousands may wait for a place. The wait is apart from `find`, because that takes more memory.
        """

    async def find(self, pair: Pair, broken: ResumableStream | None = None, alone: bool = False) -> OutboundStream:
        """Return a stream for `pair`. Raises `StreamUnavailable`.

        `broken`: the stream must be a new one, and must resume that one, which a stream of this provider left. `alone`: no other
        pair may use it.
        """

    def urge(self, recipient: Domain) -> None:
        """End the server's back-off: an operator asks for an attempt now."""


class KnownExtensions(Protocol):
    """The extensions that are disabled for a server."""

    def usable(self, name: str, extra: Literal["management", "resumption"]) -> bool:
        """Return whether the extension may be used with the server called `name`."""

    def disable(self, name: str, extra: Literal["management"], ending: Ending) -> None:
        """Disable the extension for this server for a day: it made a stream fail."""
