"""The clock for dates, passed in like any other service, so that tests choose the time. Delays use the reactor's clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class WallClock(Protocol):
    """Returns the seconds since the epoch. Twisted's `Clock` is one, for tests."""

    def seconds(self) -> float:
        """Return the seconds since the epoch."""


def date_of(clock: WallClock) -> datetime:
    """Return the date and time in UTC."""
    return datetime.fromtimestamp(clock.seconds(), UTC)
