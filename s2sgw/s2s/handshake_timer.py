"""The duration of each step of one attempt to open a stream."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IReactorTime


class StepTimes(Protocol):
    """The receiver of the times."""

    def took(self, step: str, seconds: float) -> None:
        """Record that a step took `seconds`."""


class HandshakeTimer:
    """Times the steps of one attempt: dns, tcp, tls (STARTTLS included), auth (judgement included), and the total."""

    def __init__(self, clock: IReactorTime, times: StepTimes | None) -> None:
        self._clock = clock
        self._times = times
        self._began = self._last = clock.seconds()

    @property
    def elapsed(self) -> float:
        """Return the seconds since the attempt began."""
        return self._clock.seconds() - self._began

    def step(self, name: str) -> None:
        """Record that the step called `name` is over."""
        now = self._clock.seconds()
        self._took(name, now - self._last)
        self._last = now

    def _took(self, name: str, seconds: float) -> None:
        if self._times is not None:
            self._times.took(name, seconds)

    def stop(self) -> None:
        """Record the total: the stream is ready."""
        self._took("total", self.elapsed)
