"""Timers: a call that is made later, and may have been made already."""

from __future__ import annotations

from typing import Protocol


class Timer(Protocol):
    """A call that is made later (Twisted's `IDelayedCall` is one)."""

    def active(self) -> bool:
        """Return whether the call is still to be made."""

    def cancel(self) -> None:
        """Do not make the call."""


def cancel(timer: Timer | None) -> None:
    """Cancel the timer, if there is one and its call has not been made yet."""
    if timer is not None and timer.active():
        timer.cancel()
