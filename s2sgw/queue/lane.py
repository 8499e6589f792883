"""A lane: the ordered flow of stanzas of one pair, while they wait for their next hop (decisions 9 and 10).

Pure: the time comes in as seconds of a monotonic clock, and every bound is an argument. A lane refuses what it has no
room for and says so; what it has accepted leaves it only by `take` or `expire`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.stanza import Stanza

#: What the bookkeeping of a waiting stanza costs in memory, beside its bytes.
OVERHEAD = 400


@dataclass(frozen=True, slots=True)
class Holds:
    """How long a stanza may wait, in seconds, before it is bounced."""

    stanza: float = 600.0
    iq: float = 30.0


@dataclass(frozen=True, slots=True)
class Held:
    """A stanza in custody: when it was accepted, and when the waiting ends."""

    stanza: Stanza
    accepted_at: float
    deadline: float


class Budget:
    """A number of bytes that many lanes share."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, amount: int) -> bool:
        """Whether `amount` more bytes fit; if so, they are counted."""
        if self.used + amount > self.limit:
            return False
        self.used += amount
        return True

    def give_back(self, amount: int) -> None:
        self.used -= amount


class Lane:
    """The waiting stanzas of `pair`, oldest first, within `share` bytes of a common `budget`."""

    def __init__(self, pair: Pair, budget: Budget, share: int, holds: Holds) -> None:
        self.pair = pair
        self.bytes = 0
        self._budget = budget
        self._share = share
        self._holds = holds
        self._waiting: deque[Held] = deque()
        self._earliest: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def oldest(self) -> float | None:
        """When the longest-waiting stanza was accepted."""
        return self._waiting[0].accepted_at if self._waiting else None

    @property
    def crowded(self) -> bool:
        """Past half of its share: whoever fills it should be slowed."""
        return self.bytes * 2 > self._share

    def accept(self, stanzas: Iterable[Stanza], now: float) -> list[Stanza]:
        """Take custody of `stanzas`; the ones there is no room for come back, and are not held."""
        refused: list[Stanza] = []
        for stanza in stanzas:
            cost = len(stanza.data) + OVERHEAD
            if refused or self.bytes + cost > self._share or not self._budget.take(cost):
                refused.append(stanza)
                continue
            self.bytes += cost
            self._append(Held(stanza, now, now + self._hold(stanza)))
        return refused

    def take(self, at_most: int) -> list[Held]:
        """Hand over the oldest stanzas, about `at_most` bytes of them, at least one if there is one."""
        taken: list[Held] = []
        size = 0
        while self._waiting and (not taken or size < at_most):
            held = self._waiting.popleft()
            size += len(held.stanza.data)
            self._release(held)
            taken.append(held)
        return taken

    def expire(self, now: float) -> list[Held]:
        """Give up what has waited too long, wherever in the lane it stands; the rest keeps its order."""
        if self._earliest is None or now < self._earliest:
            return []
        gone = [held for held in self._waiting if held.deadline <= now]
        self._waiting = deque(held for held in self._waiting if held.deadline > now)
        self._earliest = min((held.deadline for held in self._waiting), default=None)
        for held in gone:
            self._release(held)
        return gone

    def clear(self) -> list[Held]:
        """Give up everything."""
        gone = list(self._waiting)
        self._waiting.clear()
        self._earliest = None
        for held in gone:
            self._release(held)
        return gone

    def __iter__(self) -> Iterator[Held]:
        return iter(self._waiting)

    def _hold(self, stanza: Stanza) -> float:
        return self._holds.iq if stanza.kind == "iq" else self._holds.stanza

    def _append(self, held: Held) -> None:
        self._waiting.append(held)
        if self._earliest is None or held.deadline < self._earliest:
            self._earliest = held.deadline

    def _release(self, held: Held) -> None:
        cost = len(held.stanza.data) + OVERHEAD
        self.bytes -= cost
        self._budget.give_back(cost)
