"""Tests of the asyncio loop that runs within the reactor: on a clock and real sockets, and nothing waits."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.reactor_loop import STEPS, ReactorLoop
from tests.support.socket_reactor import SocketReactor


class LoopCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = SocketReactor()
        self.loop = ReactorLoop(self.reactor)
        self.addCleanup(self.close)

    def close(self) -> None:
        self.loop.close()
        self.assertEqual([], self.reactor.getDelayedCalls())
        self.assertEqual([], self.reactor.getReaders())

    def turn(self, turns: int = 1) -> None:
        for _ in range(turns):
            self.reactor.turn()

    def until(self, done: Callable[[], bool]) -> None:
        for _ in range(1000):
            if done():
                return
            self.reactor.turn()
        self.fail("it never happens")


class CallTests(LoopCase):
    def test_soon(self) -> None:
        """A call is made in the next turn, and not before. Nothing is left to do then."""
        calls: list[str] = []
        self.loop.call_soon(calls.append, "soon")
        self.assertEqual([], calls)
        self.turn()
        self.assertEqual(["soon"], calls)
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_bounded_turn(self) -> None:
        """A loop that is always busy gets some steps in each turn."""
        steps: list[int] = []

        def again() -> None:
            steps.append(1)
            self.loop.call_soon(again)

        self.loop.call_soon(again)
        for turns in (1, 2):
            (call,) = self.reactor.getDelayedCalls()  # `Clock.advance` would make the calls of later turns too
            call.cancel()
            self.loop._call = None
            self.loop._step()
            self.assertEqual(turns * STEPS, len(steps))

    def test_timers(self) -> None:
        """Timers are called when they are due, in order; a cancelled one is not; many timers share calls of the reactor."""
        calls: list[str] = []
        self.loop.call_later(2.0, calls.append, "late")
        self.loop.call_later(1.0, calls.append, "early")
        self.loop.call_later(1.5, calls.append, "never").cancel()
        for number in range(1000):
            self.loop.call_later(0.5 + number / 1e6, lambda: None)
        self.assertEqual(1, len(self.reactor.getDelayedCalls()))
        self.reactor.advance(0.9)
        self.turn()
        self.assertEqual([], calls)
        self.reactor.advance(0.1)
        self.turn()
        self.assertEqual(["early"], calls)
        self.reactor.advance(0.49)
        self.reactor.advance(0.6)
        self.turn()
        self.assertEqual(["early", "late"], calls)
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_sooner_timer(self) -> None:
        """A timer that is due before the others is not late."""
        calls: list[str] = []
        self.loop.call_later(10.0, calls.append, "late")
        self.loop.call_later(0.1, calls.append, "early")
        self.reactor.advance(0.11)
        self.turn()
        self.assertEqual(["early"], calls)

    def test_other_threads(self) -> None:
        """A call from another thread is made."""
        calls: list[str] = []
        self.loop.call_soon_threadsafe(calls.append, "called")
        self.until(lambda: bool(calls))

    def test_exception(self) -> None:
        """A call that raises is reported, and stops no other."""
        calls: list[str] = []
        reported: list[object] = []
        self.loop.set_exception_handler(lambda loop, context: reported.append(context["exception"]))
        self.loop.call_soon(lambda: 1 / 0)
        self.loop.call_soon(calls.append, "called")
        self.turn()
        self.assertEqual((["called"], [ZeroDivisionError]), (calls, [type(each) for each in reported]))

    def test_exit(self) -> None:
        """`SystemExit` goes through, and the loop goes on afterwards."""
        calls: list[str] = []

        def leave() -> None:
            raise SystemExit(1)

        self.loop.call_soon(leave)
        self.loop.call_soon(calls.append, "called")
        self.assertRaises(SystemExit, self.turn)
        self.until(lambda: bool(calls))

    def test_closed(self) -> None:
        """A closed loop makes no call."""
        calls: list[str] = []
        self.loop.call_soon(calls.append, "called")
        self.loop.close()
        self.turn()
        self.assertEqual([], calls)


    def test_closed_within_a_call(self) -> None:
        """A call can close the loop: it is closed when the call returns."""
        calls: list[str] = []

        def close() -> None:
            self.loop.close()
            self.loop.call_soon(calls.append, "late")

        self.loop.call_soon(close)
        self.turn()
        self.assertTrue(self.loop.is_closed())
        self.assertEqual([], calls)


class TaskTests(LoopCase):
    def test_task_and_deferred(self) -> None:
        """A task waits for a Deferred, and a Deferred for a task."""
        given: Deferred[int] = Deferred()

        async def work() -> int:
            await asyncio.sleep(0.2)
            return await given.asFuture(self.loop) + 1

        answer = Deferred.fromFuture(asyncio.ensure_future(work(), loop=self.loop))
        self.turn(3)
        self.reactor.advance(0.2)
        self.turn(3)
        self.assertNoResult(answer)
        given.callback(41)
        self.turn(3)
        self.assertEqual(42, self.successResultOf(answer))

    def test_sockets(self) -> None:
        """Streams of asyncio work on real sockets, without a thread of their own."""
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        theirs.setblocking(False)

        async def talk() -> bytes:
            reader, writer = await asyncio.open_connection(sock=ours)
            writer.write(b"question")
            await writer.drain()
            answer = await reader.readexactly(6)
            writer.close()
            await writer.wait_closed()
            return answer

        answer = Deferred.fromFuture(self.loop.create_task(talk()))
        received: list[bytes] = []

        def asked() -> bool:
            try:
                received.append(theirs.recv(100))
            except BlockingIOError:
                return False
            return True

        self.until(asked)
        theirs.send(b"answer")
        self.until(lambda: bool(answer.called))
        self.assertEqual(([b"question"], b"answer"), (received, self.successResultOf(answer)))
        gc.collect()
