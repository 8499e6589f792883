"""Tests of the memory of all queues, shared fairly among peers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.queue.memory import PeerMemory, SharedMemory


def take(peer: PeerMemory, number: int) -> None:
    """Count bytes as a queue does (`PairQueue`)."""
    peer.used += number
    peer.shared.used += number


class SharedMemoryTests(SynchronousTestCase):
    """Tests of `[queue] memory` and `share`."""

    def test_one_peer_alone(self) -> None:
        """A single peer may use its share, and is crowded at half of it."""
        memory = SharedMemory(1000, 0.25)
        peer = PeerMemory(memory)
        self.assertEqual(peer.allowance, 250)
        take(peer, 125)
        self.assertEqual((peer.crowded, peer.full), (False, False))
        take(peer, 1)
        self.assertEqual((peer.crowded, peer.full), (True, False))
        take(peer, 125)
        self.assertEqual((peer.crowded, peer.full, memory.short), (True, True, False))
        take(peer, -251)
        self.assertEqual((peer.used, memory.used), (0, 0))

    def test_all_for_one(self) -> None:
        """A share of 100% removes the limit per peer."""
        memory = SharedMemory(1000, 1.0)
        peer, other = PeerMemory(memory), PeerMemory(memory)
        take(peer, 600)
        self.assertEqual((peer.allowance, peer.full), (1000, False))
        take(other, 401)
        self.assertEqual((peer.full, memory.full), (True, True))

    def test_overrun(self) -> None:
        """Bytes that were read are counted, whether they fit or not."""
        memory = SharedMemory(1000, 0.25)
        peer = PeerMemory(memory)
        take(peer, 2000)
        self.assertEqual((peer.allowance, peer.full, memory.full, memory.short), (-1000, True, True, True))

    @given(st.integers(1, 200), st.sampled_from((0.05, 0.25, 0.5, 0.9)))
    def test_another_finds_room(self, number: int, share: float) -> None:
        """However many peers grow side by side, each of them stops while as much is free for another one."""
        memory = SharedMemory(1_000_000, share)
        peers = [PeerMemory(memory) for _ in range(number)]
        while growing := [peer for peer in peers if not peer.full]:
            for peer in growing:
                take(peer, 1000)
        newcomer = PeerMemory(memory).allowance
        self.assertGreaterEqual(newcomer, min(memory.share, 1_000_000 // (number + 1)) - 1000 * number)
        self.assertLessEqual(memory.used + newcomer, memory.limit)
