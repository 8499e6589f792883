"""The last hour in numbers, sampled every ten seconds: stanzas passed in each direction, and stanzas that wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

#: Seconds between two samples, and samples of an hour.
SAMPLE_SECONDS = 10
SAMPLES = 360


class Sample(NamedTuple):
    """Stanzas a second in each direction since the sample before, and stanzas that wait."""

    at: float
    inbound: float
    outbound: float
    waiting: int


class History:
    """The samples. `status` answers like the verb; `now` returns seconds that never run backwards."""

    def __init__(self, status: Callable[[], Awaitable[Mapping[str, Any]]], now: Callable[[], float]) -> None:
        self._status = status
        self._now = now
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._before: tuple[float, dict[str, int]] | None = None

    async def sample(self) -> None:
        """Take one sample."""
        status = await self._status()
        now, passed = self._now(), _passed(status)
        if self._before is not None and now > self._before[0]:
            at, before = self._before
            inbound, outbound = (max(0, passed[way] - before[way]) / (now - at) for way in ("inbound", "outbound"))
            self._samples.append(Sample(now, inbound, outbound, int(status["waiting"]["stanzas"])))
        self._before = now, passed

    def ages(self) -> list[tuple[float, Sample]]:
        """Return the samples with their ages in seconds, the oldest first."""
        now = self._now()
        return [(now - sample.at, sample) for sample in self._samples if now - sample.at <= SAMPLES * SAMPLE_SECONDS]


def _passed(status: Mapping[str, Any]) -> dict[str, int]:
    passed = {"inbound": 0, "outbound": 0}
    for row in status["stanzas"]:
        if row["outcome"] == "passed":
            passed[row["direction"]] += row["number"]
    return passed
