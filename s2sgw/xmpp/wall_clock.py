"""Who tells the date: a collaborator like any other, so that tests choose the time. Delays are counted on the reactor's clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class WallClock(Protocol):
    """Tells the seconds since the epoch. Twisted's `Clock` is one, for tests."""

    def seconds(self) -> float:
        """Return the seconds since the epoch."""


def date_of(clock: WallClock) -> datetime:
    """Return the date and time in UTC."""
    return datetime.fromtimestamp(clock.seconds(), UTC)
