"""The memory of all delivery queues, shared fairly among peers.

A peer may hold its share, and no more than is free for the others (Choudhury and Hahne, "Dynamic queue length thresholds for
shared-memory packet switches", 1998). So however many peers hold what they may, another still finds room. Nothing is refused for
lack of memory: what was read has to be somewhere. A peer that is over its allowance gives way: what the disk has leaves memory,
and its streams wait.
"""

from __future__ import annotations

#: The share of one peer.
SHARE = 0.25


class SharedMemory:
    """`limit` bytes, of which one peer may hold the part `share`. `used` may pass the limit by what was read already."""

    __slots__ = ("half", "limit", "share", "used")

    def __init__(self, limit: int, share: float = SHARE) -> None:
        self.limit = limit
        self.half = limit // 2
        self.share = int(limit * share)
        self.used = 0

    @property
    def short(self) -> bool:
        """More than half is used."""
        return self.used > self.half

    @property
    def full(self) -> bool:
        """All is used."""
        return self.used >= self.limit


class PeerMemory:
    """The bytes that the queues from and to one peer hold, as part of the `shared` memory. Each queue counts its own in both."""

    __slots__ = ("__weakref__", "shared", "used")

    def __init__(self, shared: SharedMemory) -> None:
        self.shared = shared
        self.used = 0

    @property
    def allowance(self) -> int:
        """How many bytes the peer may hold as things are; below 0 where more than all is used."""
        memory = self.shared
        free = memory.limit - memory.used
        if memory.share >= memory.limit:
            return free + self.used
        return free if free < memory.share else memory.share

    @property
    def crowded(self) -> bool:
        """The peer holds more than half of its allowance: who brings more should wait where nothing else makes room."""
        return self.used * 2 > self.allowance

    @property
    def full(self) -> bool:
        """The peer holds more than its allowance."""
        return self.used > self.allowance
