"""The time of the next attempt: exponential back-off with jitter, in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Chance(Protocol):
    """Gives random numbers (`random.Random` is one)."""

    def random(self) -> float:
        """Return a number in [0, 1)."""


@dataclass(frozen=True, slots=True)
class BackOff:
    """The n-th failure in a row waits about `first * factor ** (n - 1)`, at most `longest`, less up to `jitter` of it."""

    first: float = 2.0
    factor: float = 2.0
    longest: float = 120.0
    jitter: float = 0.25

    def delay(self, failures: int, random: Chance) -> float:
        """Return the seconds to wait after `failures` (≥ 1) in a row."""
        exponent = min(failures - 1, 32)
        return min(self.first * self.factor**exponent, self.longest) * (1 - self.jitter * random.random())
