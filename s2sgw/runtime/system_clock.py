"""The wall clock of the machine, for dates. Delays are counted on the reactor's clock (`runtime.monotonic_clock`)."""

from __future__ import annotations

import time


class SystemClock:
    """A `WallClock` (see `xmpp.wall_clock`)."""

    def seconds(self) -> float:
        """Return the seconds since the epoch. The operator, or NTP, may set this clock back."""
        return time.time()


#: The clock of this process.
SYSTEM_CLOCK = SystemClock()
