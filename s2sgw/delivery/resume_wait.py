"""The wait until a lost stream of ours is resumed on the next one (XEP-0198 §5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.delivery.outbound_stream import BIDI_RESUME_SECONDS, ResumableStream
from s2sgw.reporting.record import EventRecord
from s2sgw.xmpp.timer import cancel


class ResumeWait:
    """The wait for `stream`, if there is one. `expired(final)` is called when its time is over.

    `final`: the hold time of a stanza in flight is over too, so an attempt under way must not be awaited.
    """

    __slots__ = ("_clock", "_expired", "_record", "_timer", "stream")

    def __init__(self, clock: IReactorTime, record: EventRecord, expired: Callable[[bool], None]) -> None:
        self.stream: ResumableStream | None = None
        self._clock = clock
        self._record = record
        self._expired = expired
        self._timer: IDelayedCall | None = None

    def begin(self, stream: ResumableStream, in_flight: bool, deadline: float | None) -> None:
        """Wait for `stream`. `in_flight`: stanzas of ours are in doubt on it. They wait until `deadline` at most."""
        seconds = stream.seconds
        if stream.carries_back and not in_flight:  # only the other side may have lost something
            seconds = min(seconds, BIDI_RESUME_SECONDS)
        self.stream = stream
        left = None if deadline is None else max(0.0, deadline - self._clock.seconds())
        final = left is not None and left <= seconds
        self._timer = self._clock.callLater(left if left is not None and final else seconds, self._over, final)

    def _over(self, final: bool) -> None:
        self._timer = None
        self._expired(final)

    @property
    def over(self) -> bool:
        """Return whether the time is over, or there is nothing to wait for."""
        return self._timer is None

    def end(self, outcome: Literal["resumed", "refused", "expired"]) -> ResumableStream | None:
        """End the wait. Return the stream that was awaited."""
        stream = self.stream
        self.stop()
        if stream is not None:
            self._record.resumption("initiating", outcome)
        return stream

    def stop(self) -> None:
        """End the wait: the gateway closes."""
        cancel(self._timer)
        self._timer = self.stream = None
