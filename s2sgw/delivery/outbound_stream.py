"""The interface between delivery and the streams: what a delivery agent asks of an open stream, and what the stream reports.

Delivery imports nothing of the streams' own packages. They implement the protocols of this file.
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

    `ending` says why, `address` where, and `reasons` what was tried to prove the other end. `retry` is the number of seconds
    after which all queues to the server may try again; None: each has a back-off of its own. `repeated`: the failure was
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
    """The user of an open stream. One that has nothing to send again may leave out what concerns resumption (XEP-0198 §5)."""

    @property
    def alone(self) -> bool:
        """No other user may share the stream, because it may be lost over a stanza of this user."""
        return False

    @property
    def busy(self) -> bool:
        """Stanzas of this user are in flight."""

    @property
    def largest_in_flight(self) -> int:
        """Bytes of the largest stanza of this user in flight."""
        return 0

    def stream_event(self, event: Event) -> None:
        """The other side acknowledged stanzas, or answered whether it will."""

    def stream_lost(self, ending: Ending) -> None:
        """The stream is gone."""

    def holds(self, number: int) -> bool:
        """Return whether all of the `number` unacknowledged stanzas are held, in their order, and no others were counted."""
        return False

    def resend(self, acknowledged: int) -> list[bytes]:
        """The stream goes on, and the other side has the first `acknowledged` of those stanzas. Return the others."""
        return []

    def stream_suspended(self, ending: Ending) -> None:
        """The stream was lost, and may be resumed. `stream_resumed` or `stream_lost` follows shortly."""
        return

    def stream_resumed(self, stream: OutboundStream) -> None:
        """The stream goes on as `stream`, and what `resend` returned was written there."""
        return

    def stream_slow(self) -> None:
        """The other side takes no more at present."""

    def stream_free(self) -> None:
        """The other side takes more again."""


class ResumableStream(Protocol):
    """A stream of ours that was lost, without an end by either side, and can be resumed (XEP-0198 §5)."""

    @property
    def seconds(self) -> float:
        """Seconds for which the other side keeps it."""

    @property
    def unacknowledged(self) -> int:
        """Stanzas that were sent on it and not acknowledged."""

    @property
    def carries_back(self) -> bool:
        """Stanzas came on it too (XEP-0288)."""

    def forget(self) -> None:
        """It is not resumed."""


class OutboundStream(Protocol):
    """The part of an open stream that carries one pair. It is a stream of ours, or one of the peer's (XEP-0288)."""

    method: str
    reasons: tuple[str, ...]
    pair: Pair
    user: StreamUser | None
    #: it was lost while stanzas of several pairs were in doubt
    ambiguous: bool

    @property
    def ours(self) -> bool:
        """We opened it."""

    @property
    def carries_back(self) -> bool:
        """It is ours, and the other side sends on it too (XEP-0288)."""

    @property
    def writable(self) -> bool:
        """The other side takes more at present."""

    @property
    def read_since(self) -> float:
        """Since when what comes on the stream is read without a hold; infinity while it is not read."""

    @property
    def shared_connection(self) -> bool:
        """The connection carries stanzas of several pairs towards us, or of all: its end may be due to any of them."""

    @property
    def managed(self) -> bool:
        """The other side acknowledges stanzas (XEP-0198)."""

    @property
    def unacknowledged(self) -> int:
        """Stanzas of this pair that were counted and not acknowledged."""

    @property
    def answers(self) -> bool:
        """A ping was answered on the connection."""

    def note_answer(self) -> None:
        """A ping was answered on the connection."""

    @property
    def resumable(self) -> ResumableStream | None:
        """After its end: the lost stream, if it can be resumed."""

    @property
    def outcome(self) -> Resumed | NotResumed | None:
        """The outcome for the stream that this one was to resume."""

    @property
    def limits(self) -> NextHopLimits:
        """Which stanzas the other side takes."""

    @property
    def asking(self) -> bool:
        """After its end: the other side had not answered yet whether it acknowledges stanzas, or takes a further pair."""

    @property
    def largest_in_flight(self) -> int:
        """Bytes of the largest stanza in flight, of all users. 0: the stream must not be ended over a stanza."""

    @property
    def sole(self) -> bool:
        """No one else uses the stream."""

    def facts(self) -> StreamFacts:
        """Return what operators are shown."""

    def count_sent(self, number: int) -> None:
        """Count `number` stanzas that are being written."""

    def write(self, stanzas: Sequence[bytes]) -> bool:
        """Send stanzas, and requests between them. Return whether the stream takes no more for now."""

    def leave(self, ending: Ending) -> Deferred[None]:
        """Use the stream no more. The last user closes it. Fires when that is done, within a bounded time."""

    def close(self, ending: Ending) -> Deferred[None]:
        """Close the stream in order, for all of its pairs. Fires when that is done, within a bounded time."""

    def abort(self, ending: Ending) -> None:
        """End the connection at once, so that the stream may be resumed."""


class StreamProvider(Protocol):
    """Where the streams of a queue come from."""

    @property
    def leg(self) -> Leg:
        """On which leg they are."""

    async def find(self, pair: Pair, broken: ResumableStream | None = None, alone: bool = False) -> OutboundStream:
        """Return a stream for `pair`; raises `StreamUnavailable`.

        `broken`: the stream must be a new one, and is to resume that one, which a stream of this provider left. `alone`: no
        other pair may use it.
        """

    def urge(self, recipient: Domain) -> None:
        """An operator asks for an attempt now: withdraw the server's back-off."""


class KnownExtensions(Protocol):
    """The extensions that are disabled for a server."""

    def usable(self, name: str, extra: Literal["management", "resumption"]) -> bool:
        """Return whether the extension may be used with the server called `name`."""

    def disable(self, name: str, extra: Literal["management"], ending: Ending) -> None:
        """Disable the extension for this server for a day: it made a stream fail."""
