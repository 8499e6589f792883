"""Timers: calls that are made later."""

from __future__ import annotations

from typing import Protocol


class Timer(Protocol):
    """A call that is made later (Twisted's `IDelayedCall` is one)."""

    def active(self) -> bool:
        """Return whether the call has not been made yet."""

    def cancel(self) -> None:
        """Cancel the call."""


def cancel(timer: Timer | None) -> None:
    """Cancel the timer, if there is one and its call has not been made yet."""
    if timer is not None and timer.active():
        timer.cancel()
