"""Makes the timers of the reactor count on the monotonic clock.

Twisted's reactors count delays on the wall clock. If that is set back by an hour, every timeout, retry and sweep stops for an
hour. So delays use `reactor.seconds()`, which is monotonic from here on, and dates use a wall clock that is passed beside it. A
number of `reactor.seconds()` is no date.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def use_monotonic_clock(reactor: Any, monotonic: Callable[[], float] = time.monotonic) -> None:
    """Count the delays of `reactor` (any of Twisted's) by `monotonic` from now on. Pending calls keep the time that is left."""
    if reactor.seconds == monotonic:
        return
    left = [(call, call.getTime() - reactor.seconds()) for call in reactor.getDelayedCalls()]
    reactor.seconds = monotonic
    for call, seconds in left:
        call.seconds, call.time, call.delayed_time = monotonic, monotonic() + seconds, 0
