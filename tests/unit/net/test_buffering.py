"""Input that waits to be read, and what waits to be written."""

from __future__ import annotations

from types import SimpleNamespace

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.buffering import INPUT_BYTES, UNPROVEN_SHARE, InputBuffer, UnsentBytes
from s2sgw.net.turns import Turns


class InputBufferTests(SynchronousTestCase):
    """`InputBuffer` by itself; `test_connection` has it at work."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.turns = 0
        self.noted: list[str] = []
        self.established = self.busy = False
        self.buffer = InputBuffer(self.clock, Turns(self.clock), self, 60)
        self.buffer.transport = SimpleNamespace(
            pauseProducing=lambda: self.noted.append("pause"), resumeProducing=lambda: self.noted.append("resume"),
        )

    def take_turn(self) -> None:
        self.turns += 1

    def held_too_long(self) -> None:
        self.noted.append("too long")

    def test_taken_in_parts(self) -> None:
        """What came is taken in parts of a size, nothing is lost and the order stays."""
        self.buffer.add(b"abc")
        self.buffer.add(b"defg")
        self.assertEqual([self.buffer.take(2), self.buffer.take(4), self.buffer.size], [b"ab", b"cdef", 1])
        self.buffer.add(b"h")
        self.assertEqual([self.buffer.take(), self.buffer.take(), self.buffer.size], [b"gh", b"", 0])

    def test_full(self) -> None:
        """A reader that is behind stops the transport, which goes on as soon as there is room; the reader is not held."""
        self.buffer.add(b"x" * INPUT_BYTES)
        self.assertEqual(self.noted, [])
        self.buffer.add(b"x")
        self.assertEqual((self.noted, self.buffer.held), (["pause"], False))
        self.buffer.take(1)
        self.assertEqual(self.noted, ["pause", "resume"])

    def test_full_and_held(self) -> None:
        """With another holder the transport stays stopped until both are gone."""
        self.buffer.add(b"x" * (INPUT_BYTES + 1))
        self.buffer.pause("lane")
        self.assertTrue(self.buffer.held)
        self.buffer.resume("lane")
        self.clock.advance(0)
        self.assertEqual((self.noted, self.buffer.held, self.turns), (["pause"], False, 1))
        self.buffer.take()
        self.assertEqual(self.noted, ["pause", "resume"])

    def test_closed_while_full(self) -> None:
        """At the end nothing is kept, and the transport reads on so as to see the other side close."""
        self.buffer.add(b"x" * (INPUT_BYTES + 1))
        self.buffer.close(read_on=True)
        self.assertEqual((self.buffer.size, self.noted, self.clock.getDelayedCalls()[1:]), (0, ["pause", "resume"], []))

    def test_unfinished(self) -> None:
        """A reader that has something left gets its turn behind a hold, though nothing came."""
        self.buffer.unfinished = True
        self.buffer.pause("lane")
        self.buffer.resume("lane")
        self.clock.advance(0)
        self.assertEqual(self.turns, 1)


class UnsentBytesTests(SynchronousTestCase):
    """All is counted in the memory that the queues have."""

    def setUp(self) -> None:
        self.memory = SimpleNamespace(limit=UNPROVEN_SHARE * 100, used=7)
        self.unsent = UnsentBytes(self.memory)

    def test_counted(self) -> None:
        """What streams leave unread is used memory until it is sent, or the stream is gone."""
        self.unsent.add("a", 60, True)
        self.unsent.add("b", 30, False)
        self.unsent.add("a", 10, True)
        self.assertEqual((self.memory.used, self.unsent.total, self.unsent.unproven), (107, 100, 30))
        for _ in range(2):
            self.unsent.remove("a")
        self.unsent.remove("b")
        self.assertEqual((self.memory.used, self.unsent.total, self.unsent.unproven, self.unsent._of), (7, 0, 0, {}))

    def test_strangers_have_a_share(self) -> None:
        """Streams that have proven nothing have little of it; others are counted even beyond the limit."""
        self.assertTrue(self.unsent.add("a", 100, False))
        self.assertFalse(self.unsent.add("b", 1, False))
        self.assertTrue(self.unsent.add("c", 100_000, True))
        self.unsent.remove("a")
        self.assertTrue(self.unsent.add("b", 1, False))

    def test_proven_meanwhile(self) -> None:
        """A stream that is proven while it is blocked is given back where it was counted."""
        self.unsent.add("a", 60, False)
        self.unsent.add("a", 60, True)
        self.unsent.remove("a")
        self.assertEqual((self.unsent.total, self.unsent.unproven), (0, 0))
