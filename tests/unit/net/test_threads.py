"""Tests of calls in other threads: their results and their failures."""

from __future__ import annotations

from threading import get_ident
from typing import Any

from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.threads import AtOnce, ReactorThreads


class FakeReactor:
    """A reactor whose turns are run by the test."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.pool = ThreadPool(1, 1)

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

    def test_at_once(self) -> None:
        """Without another thread the result, or the failure, is available at once."""
        self.assertEqual(7, self.successResultOf(AtOnce().run(int, "7")))
        self.failureResultOf(AtOnce().run(int, "x"), ValueError)
