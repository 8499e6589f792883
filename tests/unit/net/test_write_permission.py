"""Tests of the right to write. Its use by the transports: `test_socket_transport`."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.write_permission import CALLED_PER_TURN, LOOK, WriteLease


class Transport:
    def __init__(self) -> None:
        self.calls = 0

    def permitted(self) -> None:
        self.calls += 1


class WriteLeaseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.has_lease = False
        self.permission = WriteLease(lambda: self.has_lease, self.clock)

    def test_waiting(self) -> None:
        """A transport is called once, when the lease is there again."""
        transport = Transport()
        self.permission.wait(transport)
        self.permission.wait(transport)
        self.clock.advance(LOOK)
        self.assertEqual(transport.calls, 0)
        self.has_lease = True
        self.clock.pump([LOOK, LOOK])
        self.assertEqual((transport.calls, self.permission.waiting, self.clock.getDelayedCalls()), (1, 0, []))

    def test_forgotten(self) -> None:
        """A transport that is gone is not called, and no timer stays."""
        transport = Transport()
        self.permission.wait(transport)
        self.permission.forget(transport)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.has_lease = True
        self.clock.advance(LOOK)
        self.assertEqual((transport.calls, self.clock.getDelayedCalls()), (0, []))

    def test_many(self) -> None:
        """Many transports are called over several turns of the reactor. The lease may end between two: the rest waits on."""
        answers = [True, False]
        permission = WriteLease(lambda: answers.pop(0) if answers else False, self.clock)
        transports = [Transport() for _ in range(2 * CALLED_PER_TURN)]
        for each in transports:
            permission.wait(each)
        self.clock.advance(LOOK)
        self.assertEqual((sum(each.calls for each in transports), permission.waiting), (CALLED_PER_TURN, CALLED_PER_TURN))
        answers.append(True)
        self.clock.advance(LOOK)
        self.assertEqual(({each.calls for each in transports}, permission.waiting), ({1}, 0))

    def test_ended_by_another(self) -> None:
        """A transport that the call of another one ends is not called."""
        ended = Transport()
        permission = self.permission

        class Ending(Transport):
            def permitted(self) -> None:
                permission.forget(ended)

        permission.wait(Ending())
        permission.wait(ended)
        self.has_lease = True
        self.clock.advance(LOOK)
        self.assertEqual((ended.calls, permission.waiting), (0, 0))

    def test_one_that_fails(self) -> None:
        """If the call of one transport fails, the others are called all the same."""
        class Failing(Transport):
            def permitted(self) -> None:
                raise ValueError("broken")

        other = Transport()
        for each in (Failing(), other):
            self.permission.wait(each)
        self.has_lease = True
        self.assertRaises(ValueError, self.clock.advance, LOOK)
        self.clock.advance(0)
        self.assertEqual((other.calls, self.permission.waiting, self.clock.getDelayedCalls()), (1, 0, []))
