"""Tests of input that waits to be read, and of output that waits to be written."""

from __future__ import annotations

from types import SimpleNamespace

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.buffering import INPUT_BYTES, UNPROVEN_SHARE, InputBuffer, UnsentBytes
from s2sgw.net.turns import Party, Turns


class InputBufferTests(SynchronousTestCase):
    """Tests of `InputBuffer` alone. `test_connection` uses it in a connection."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.turns = 0
        self.noted: list[str] = []
        self.established = self.busy = False
        self.party: Party | None = None
        self.buffer = InputBuffer(self.clock, Turns(self.clock), self, 60)
        self.buffer.transport = SimpleNamespace(
            pauseProducing=lambda: self.noted.append("pause"), resumeProducing=lambda: self.noted.append("resume"),
        )

    def take_turn(self) -> None:
        self.turns += 1

    def held_too_long(self) -> None:
        self.noted.append("too long")

    def test_taken_in_parts(self) -> None:
        """Input is taken in parts of a given size, completely and in order."""
        self.buffer.add(b"abc")
        self.buffer.add(b"defg")
        self.assertEqual([self.buffer.take(2), self.buffer.take(4), self.buffer.size], [b"ab", b"cdef", 1])
        self.buffer.add(b"h")
        self.assertEqual([self.buffer.take(), self.buffer.take(), self.buffer.size], [b"gh", b"", 0])

    def test_full(self) -> None:
        """A full buffer pauses the transport and resumes it as soon as there is room. The reader is not paused."""
        self.buffer.add(b"x" * INPUT_BYTES)
        self.assertEqual(self.noted, [])
        self.buffer.add(b"x")
        self.assertEqual((self.noted, self.buffer.held), (["pause"], False))
        self.buffer.take(1)
        self.assertEqual(self.noted, ["pause", "resume"])

    def test_full_and_held(self) -> None:
        """With another holder the transport stays paused until both are gone."""
        self.buffer.add(b"x" * (INPUT_BYTES + 1))
        self.buffer.pause("lane")
        self.assertTrue(self.buffer.held)
        self.buffer.resume("lane")
        self.clock.advance(0)
        self.assertEqual((self.noted, self.buffer.held, self.turns), (["pause"], False, 1))
        self.buffer.take()
        self.assertEqual(self.noted, ["pause", "resume"])

    def test_closed_while_full(self) -> None:
        """At the end the buffer is emptied, and the transport is read so that the other side's close is seen."""
        self.buffer.add(b"x" * (INPUT_BYTES + 1))
        self.buffer.close(read_on=True)
        self.assertEqual((self.buffer.size, self.noted, self.clock.getDelayedCalls()[1:]), (0, ["pause", "resume"], []))

    def test_unfinished(self) -> None:
        """A reader with unread bytes gets its turn after a hold, though no new bytes came."""
        self.buffer.unfinished = True
        self.buffer.pause("lane")
        self.buffer.resume("lane")
        self.clock.advance(0)
        self.assertEqual(self.turns, 1)


class UnsentBytesTests(SynchronousTestCase):
    """Tests of unsent bytes: all of them count in the memory of the queues."""

    def setUp(self) -> None:
        self.memory = SimpleNamespace(limit=UNPROVEN_SHARE * 100, used=7)
        self.unsent = UnsentBytes(self.memory)

    def test_counted(self) -> None:
        """Unread output of a stream counts as used memory until it is sent or the stream has ended."""
        self.unsent.add("a", 60, True)
        self.unsent.add("b", 30, False)
        self.unsent.add("a", 10, True)
        self.assertEqual((self.memory.used, self.unsent.total, self.unsent.unproven), (107, 100, 30))
        for _ in range(2):
            self.unsent.remove("a")
        self.unsent.remove("b")
        self.assertEqual((self.memory.used, self.unsent.total, self.unsent.unproven, self.unsent._of), (7, 0, 0, {}))

    def test_strangers_have_a_share(self) -> None:
        """Unproven streams have a small share. The bytes of others are counted even beyond the limit."""
        self.assertTrue(self.unsent.add("a", 100, False))
        self.assertFalse(self.unsent.add("b", 1, False))
        self.assertTrue(self.unsent.add("c", 100_000, True))
        self.unsent.remove("a")
        self.assertTrue(self.unsent.add("b", 1, False))

    def test_proven_meanwhile(self) -> None:
        """If a stream is proven while it is blocked, its bytes are released where they were counted."""
        self.unsent.add("a", 60, False)
        self.unsent.add("a", 60, True)
        self.unsent.remove("a")
        self.assertEqual((self.unsent.total, self.unsent.unproven), (0, 0))
