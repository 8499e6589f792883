"""The memory of all delivery queues, shared fairly among peers.

A peer may hold its share, and at most as much as is free for the others (Choudhury and Hahne, "Dynamic queue length thresholds
for shared-memory packet switches", 1998). So there is always room for one more peer. Nothing is refused for lack of memory,
because stanzas that were read must be kept. A peer above its allowance gives way: stanzas that are on disk leave memory, and its
streams wait.

A queue that waits for its next hop takes memory even if all of its stanzas are on disk. That counts for the share of its peer. It
does not count for the others: nothing of theirs that leaves memory would make up for it.
"""

from __future__ import annotations

#: The share of one peer.
SHARE = 0.25


class SharedMemory:
    """`limit` bytes, of which one peer may hold the part `share`.

    `used` may exceed the limit by stanzas that were read already. `queues` are the bytes for queues that wait.
    """

    __slots__ = ("half", "limit", "queues", "share", "used")

    def __init__(self, limit: int, share: float = SHARE) -> None:
        self.limit = limit
        self.half = limit // 2
        self.share = int(limit * share)
        self.used = self.queues = 0

    @property
    def short(self) -> bool:
        """Whether more than half is used."""
        return self.used > self.half

    @property
    def full(self) -> bool:
        """Whether all is used."""
        return self.used >= self.limit


class PeerMemory:
    """The bytes in the queues from and to one peer, as part of the `shared` memory. Each queue counts its own bytes in both.

    `used`: the stanzas. `queues`: the queues that wait.
    """

    __slots__ = ("__weakref__", "queues", "shared", "used")

    def __init__(self, shared: SharedMemory) -> None:
        self.shared = shared
        self.used = self.queues = 0

    @property
    def held(self) -> int:
        """Return the bytes of the stanzas, and of the queues that wait."""
        return self.used + self.queues

    def count_queue(self, number: int) -> None:
        """Count these bytes more for a queue that waits, or fewer."""
        self.queues += number
        self.shared.queues += number

    @property
    def allowance(self) -> int:
        """Return how many bytes the peer may hold at present; below 0 if more than all is used."""
        memory = self.shared
        free = memory.limit - memory.used
        if memory.share >= memory.limit:
            return free + self.used
        return free if free < memory.share else memory.share

    @property
    def crowded(self) -> bool:
        """Whether the stanzas of the peer take more than half of its allowance.

        Its sources should then wait, unless something else makes room.
        """
        memory, twice = self.shared, self.used * 2
        if twice <= memory.share and twice <= memory.limit - memory.used:
            return False  # the allowance is at least the lesser of the two
        return twice > self.allowance

    @property
    def tight(self) -> bool:
        """Whether the peer holds more than half of its allowance. Stanzas that are on disk should then leave memory."""
        return self.held * 2 > self.allowance

    @property
    def full(self) -> bool:
        """Whether the peer holds more than its allowance."""
        return self.held > self.allowance
