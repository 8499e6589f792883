"""Has the timers of the reactor count on the monotonic clock.

Twisted's reactors count delays on the wall clock: set back by an hour, it would stop every timeout, retry and sweep for an hour.
Delays are therefore told by `reactor.seconds()`, which is monotonic from here on, and dates by a wall clock that is passed beside
it. A number of `reactor.seconds()` is no date.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def use_monotonic_clock(reactor: Any, monotonic: Callable[[], float] = time.monotonic) -> None:
    """Count the delays of `reactor` (any of Twisted's) by `monotonic` from now on. Calls that wait keep the time that is left."""
    if reactor.seconds == monotonic:
        return
    left = [(call, call.getTime() - reactor.seconds()) for call in reactor.getDelayedCalls()]
    reactor.seconds = monotonic
    for call, seconds in left:
        call.seconds, call.time, call.delayed_time = monotonic, monotonic() + seconds, 0
