"""Tests of periodic jobs, which continue after failures and report them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.runtime.periodic_jobs import PeriodicJob, PeriodicJobs


class Work:
    """A job that fails as long as `error` is set, and answers with `waits` if that is given."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None
        self.waits: Deferred[None] | None = None

    def __call__(self) -> Deferred[None] | None:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.waits


class PeriodicJobTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.work = Clock(), Work()
        self.jobs = PeriodicJobs(self.clock)
        self.job = self.jobs.start("sweep", 2, self.work)

    def pass_time(self, seconds: int) -> None:
        self.clock.pump([1.0] * seconds)

    def metrics(self) -> str:
        registry = CollectorRegistry()
        registry.register(self.jobs)
        return generate_latest(registry).decode()

    def test_runs(self) -> None:
        """It runs once each period, first after one period, and never after a stop."""
        self.assertEqual(self.work.calls, 0)
        self.pass_time(7)
        self.assertEqual((self.work.calls, self.job.successes, self.jobs.alerts()), (3, 3, []))
        self.jobs.stop()
        self.pass_time(60)
        self.assertEqual((self.work.calls, self.jobs.alerts()), (3, []))
        self.jobs.stop()

    def test_survives(self) -> None:
        """A job that raises continues. Each failure is counted, and an alert follows after three periods."""
        self.work.error = OSError("disk full")
        self.pass_time(6)
        self.assertEqual((self.job.failures, self.jobs.alerts()), (3, []))
        self.pass_time(1)
        self.assertEqual(self.jobs.alerts(), ["the job 'sweep' has not succeeded for 7 s (it runs every 2 s): OSError: disk full"])
        self.work.error = None
        self.pass_time(1)
        self.assertEqual((self.job.successes, self.job.error, self.jobs.alerts()), (1, "", []))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_logged_by_the_minute(self) -> None:
        """A job that fails each time is logged once a minute, with the number of failures since."""
        self.work.error = OSError("disk full")
        self.pass_time(121)
        self.assertEqual(self.job.failures, 60)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 2)

    def test_a_deferred_that_fails(self) -> None:
        """The same holds if the failure comes later."""
        self.work.waits = Deferred()
        self.pass_time(2)
        self.work.waits.errback(ValueError("late"))
        self.work.waits = None
        self.pass_time(2)
        self.assertEqual((self.job.failures, self.job.successes), (1, 1))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_one_that_never_ends(self) -> None:
        """A run that does not end is not started again, and raises an alert."""
        self.work.waits = Deferred()
        self.pass_time(9)
        self.assertEqual(self.work.calls, 1)
        self.assertEqual(self.jobs.alerts(), ["the job 'sweep' has not succeeded for 9 s (it runs every 2 s)"])
        self.work.waits.callback(None)
        self.assertEqual(self.jobs.alerts(), [])

    def test_counted(self) -> None:
        """The metrics have the runs by outcome, and the age of the last success."""
        self.pass_time(4)
        self.work.error = OSError("disk full")
        self.pass_time(3)
        for line in ('s2sgw_job_runs_total{job="sweep",outcome="succeeded"} 2.0', 's2sgw_job_runs_total{job="sweep",outcome="failed"} 1.0',
                     's2sgw_job_age_seconds{job="sweep"} 3.0'):
            self.assertIn(line, self.metrics())
        self.flushLoggedErrors(OSError)

    def test_not_overdue_before_it_starts(self) -> None:
        """A job that was not started raises no alert."""
        job = PeriodicJob("idle", 1, self.work, self.clock)
        self.pass_time(60)
        self.assertFalse(job.overdue)
