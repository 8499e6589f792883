"""The time of a delivery agent's next attempt."""

from __future__ import annotations

from s2sgw.queue.backoff import BackOff, Chance

#: For finding a stanza on which the next server closes its stream: seconds until the next attempt, a random part of as many
#: more, and how often in a row (a server may close on every stanza).
ISOLATING_SECONDS = 0.5
MAX_ISOLATIONS = 20


class RetrySchedule:
    """The failures in a row of one agent."""

    __slots__ = ("_back_off", "_isolations", "_random", "failures")

    def __init__(self, back_off: BackOff, random: Chance) -> None:
        self.failures = 0
        self._isolations = 0
        self._back_off = back_off
        self._random = random

    def after_attempt(self, shared: float | None) -> float:
        """Return the seconds until the next attempt, after a failed one. `shared`: the seconds of the server's own back-off."""
        self.failures += 1
        own = self._back_off.delay(self.failures, self._random)
        return own if shared is None else shared

    def after_stream(self, worked: bool, isolating: bool) -> float:
        """Return the seconds until the next attempt, after the end of a stream.

        `worked`: the end is no failure. `isolating`: a stanza is suspected, so the server has not failed.
        """
        if worked:
            self.failures = self._isolations = 0
            return 0.0
        if isolating and self._isolations < MAX_ISOLATIONS:
            self._isolations += 1
            return ISOLATING_SECONDS * (1 + self._random.random())
        self.failures += 1
        return self._back_off.delay(self.failures, self._random)
