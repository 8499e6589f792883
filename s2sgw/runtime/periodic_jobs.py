"""Jobs that run periodically: a job that fails is logged and counted, and goes on.

A job that has not succeeded for three times its period is an alert in `s2sgw status`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

#: A job is overdue if it has not succeeded for this number of its periods.
OVERDUE_PERIODS = 3
#: Seconds between two log entries for the same job.
LOG_SECONDS = 60.0


class PeriodicJob:
    """Calls `work` every `period` seconds. A Deferred that it returns is waited for, so that no two calls overlap."""

    log = Logger("s2sgw")

    def __init__(self, name: str, period: float, work: Callable[[], Any], clock: IReactorTime) -> None:
        self.name = name
        self.period = period
        self.successes = self.failures = 0
        #: the error of the last run, or ""
        self.error = ""
        self._work = work
        self._clock = clock
        self._succeeded_at = clock.seconds()
        self._logged_at = float("-inf")
        self._unlogged = 0
        self._loop = LoopingCall(self._run)
        self._loop.clock = clock

    def start(self) -> None:
        """Run for the first time after one period, and go on until `stop`."""
        self._succeeded_at = self._clock.seconds()
        self._loop.start(self.period, now=False)

    def stop(self) -> None:
        """Run no more."""
        if self._loop.running:
            self._loop.stop()

    @property
    def age(self) -> float:
        """Return the seconds since the job last succeeded, or was started."""
        return self._clock.seconds() - self._succeeded_at

    @property
    def overdue(self) -> bool:
        """Whether the job is overdue."""
        return self._loop.running and self.age > OVERDUE_PERIODS * self.period

    def _run(self) -> Deferred[None]:
        return maybeDeferred(self._work).addCallbacks(self._succeeded, self._failed)

    def _succeeded(self, _: object) -> None:
        self.successes += 1
        self.error = ""
        self._succeeded_at = self._clock.seconds()

    def _failed(self, failure: Failure) -> None:
        """Count the failure, and log it unless one was logged a moment ago."""
        self.failures += 1
        self.error = f"{type(failure.value).__name__}: {failure.getErrorMessage()}"
        now = self._clock.seconds()
        if now - self._logged_at < LOG_SECONDS:
            self._unlogged += 1
            return
        since = f" ({self._unlogged} failures since the last entry)" if self._unlogged else ""
        self.log.failure("the periodic job {job!r} failed and goes on{since}", failure, job=self.name, since=since)
        self._logged_at, self._unlogged = now, 0


def _alert(job: PeriodicJob) -> str:
    why = f": {job.error}" if job.error else ""
    return f"the job {job.name!r} has not succeeded for {job.age:.0f} s (it runs every {job.period:g} s){why}"


class PeriodicJobs(Collector):
    """The periodic jobs of one gateway. Prometheus collects their numbers."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._jobs: list[PeriodicJob] = []

    def __iter__(self) -> Iterator[PeriodicJob]:
        return iter(self._jobs)

    def start(self, name: str, period: float, work: Callable[[], Any]) -> PeriodicJob:
        """Begin to call `work` every `period` seconds."""
        job = PeriodicJob(name, period, work, self._clock)
        self._jobs.append(job)
        job.start()
        return job

    def stop(self) -> None:
        """Stop every job."""
        for job in self._jobs:
            job.stop()

    def alerts(self) -> list[str]:
        """Return a sentence for each job that is overdue."""
        return [_alert(job) for job in self._jobs if job.overdue]

    def describe(self) -> list[Metric]:
        """Return nothing: the metrics are named by `collect`."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return how often each job succeeded and failed, and how long ago it last succeeded."""
        runs = CounterMetricFamily("s2sgw_job_runs", "Runs of the periodic jobs.", labels=("job", "outcome"))
        ages = GaugeMetricFamily("s2sgw_job_age_seconds", "Seconds since a periodic job last succeeded.", labels=("job",))
        for job in self._jobs:
            runs.add_metric((job.name, "succeeded"), job.successes)
            runs.add_metric((job.name, "failed"), job.failures)
            ages.add_metric((job.name,), job.age)
        yield from (runs, ages)
