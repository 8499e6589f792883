"""A token bucket: a burst, then a rate. Pure: the time comes in as seconds."""

from __future__ import annotations

#: The default burst, in seconds of the rate, and the longest debt in seconds.
BURST = 2.0
DEBT = 60.0


class TokenBucket:
    """Fills at `rate` a second up to `burst`, and is full at `now`. Spending more than is there leaves a debt."""

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, now: float, burst: float | None = None) -> None:
        self.rate = rate
        self.burst = rate * BURST if burst is None else burst
        self._level = self.burst
        self._at = now

    def debt(self, now: float) -> float:
        """Return the seconds until there is something to spend again; 0: there is."""
        self._fill(now)
        return max(0.0, -self._level / self.rate)

    def spend(self, amount: float, now: float) -> None:
        """Spend `amount`, even if less is there. The debt is bounded, because one amount may exceed a minute's rate."""
        self._fill(now)
        self._level = max(self._level - amount, -self.rate * DEBT)

    def has(self, amount: float, now: float) -> bool:
        """Return whether `amount` is there. A full bucket has enough for any amount."""
        self._fill(now)
        return self._level >= min(amount, self.burst)

    def take(self, now: float) -> bool:
        """Spend one if it is there. Return whether it was."""
        if not self.has(1, now):
            return False
        self._level -= 1
        return True

    def _fill(self, now: float) -> None:
        self._level = min(self._level + (now - self._at) * self.rate, self.burst)
        self._at = now
