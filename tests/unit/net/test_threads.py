"""Tests of calls in other threads: their results and their failures."""

from __future__ import annotations

from threading import Event, get_ident
from types import SimpleNamespace
from typing import Any

from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.threads import LATE_SECONDS, AtOnce, ReactorThreads, calls_under_way


class FakeReactor:
    """A reactor whose turns are run by the test."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.pool = ThreadPool(1, 1)
        self.now = 0.0

    def seconds(self) -> float:
        return self.now

    def getThreadPool(self) -> ThreadPool:
        return self.pool

    def callFromThread(self, call: Any, *args: Any) -> None:
        self.calls.append((call, args))

    def turn(self) -> None:
        """Wait for the thread, then make the calls that it requested."""
        self.pool.stop()
        for call, args in self.calls:
            call(*args)


class ThreadsTests(SynchronousTestCase):
    """Tests of both implementations of `Threads`."""

    def test_other_thread(self) -> None:
        """The call is made in another thread, with its arguments. The result comes in the reactor's turn, and not before."""
        reactor = FakeReactor()
        reactor.pool.start()
        running = ReactorThreads(reactor).run(lambda *args, **named: (get_ident(), args, named), 1, two=2)
        self.assertNoResult(running)
        reactor.turn()
        ident, args, named = self.successResultOf(running)
        self.assertEqual(((1,), {"two": 2}), (args, named))
        self.assertNotEqual(get_ident(), ident)

    def test_failure(self) -> None:
        """An exception of the call is the failure of the result."""
        reactor = FakeReactor()
        reactor.pool.start()
        running = ReactorThreads(reactor).run(int, "x")
        reactor.turn()
        self.failureResultOf(running, ValueError)

    def test_late(self) -> None:
        """A call that does not return is an alert after a while until it returns, also if its result is not awaited any more."""
        reactor, go_on = FakeReactor(), Event()
        threads = ReactorThreads(reactor)
        threads.run(go_on.wait).addErrback(lambda _: None).cancel()
        self.assertEqual([], threads.alerts())
        reactor.now = LATE_SECONDS
        [alert] = threads.alerts()
        self.assertIn("1 calls that read or write files have not ended, the oldest for 30 s", alert)
        go_on.set()
        reactor.pool.start()
        reactor.pool.stop()
        self.assertEqual(([], []), (threads.alerts(), AtOnce().alerts()))

    def test_under_way(self) -> None:
        """The calls in the pool that have not returned are counted."""
        self.assertEqual(0, calls_under_way(SimpleNamespace(threadpool=None)))
        self.assertEqual(2, calls_under_way(SimpleNamespace(threadpool=SimpleNamespace(working=[None, None]))))

    def test_at_once(self) -> None:
        """Without another thread the result, or the failure, is available at once."""
        self.assertEqual(7, self.successResultOf(AtOnce().run(int, "7")))
        self.failureResultOf(AtOnce().run(int, "x"), ValueError)
