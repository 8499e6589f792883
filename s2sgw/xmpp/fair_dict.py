"""A dict with a maximum number of entries. Beyond that, the oldest entry of the owner that has the most is removed.

An owner is a party that may choose any number of keys, such as a registered domain with its sub-domains. So a party that adds
many entries removes its own, and not those of others.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

FairKey = TypeVar("FairKey", bound=Hashable)
FairValue = TypeVar("FairValue")


class FairDict(dict[FairKey, FairValue]):
    """Entries in the order in which they were set last. `owner(key, value)` returns the owner of an entry.

    It is changed only by setting, deleting and `clear`.
    """

    def __init__(self, limit: int, owner: Callable[[FairKey, FairValue], Hashable]) -> None:
        super().__init__()
        self.limit = limit
        self._owner = owner
        self._owner_of: dict[FairKey, Hashable] = {}
        #: owner -> its number of entries
        self._numbers: dict[Hashable, int] = {}

    def __setitem__(self, key: FairKey, value: FairValue) -> None:
        """Set an entry, and remove another if there is one too many. Then the time grows with the number of entries."""
        if key in self:
            del self[key]
        super().__setitem__(key, value)
        owner = self._owner_of[key] = self._owner(key, value)
        self._numbers[owner] = self._numbers.get(owner, 0) + 1
        if len(self) > self.limit:
            del self[self.least_wanted()]

    def least_wanted(self) -> FairKey:
        """Return the key that gives way to the next one. The time grows with the number of entries."""
        most = max(self._numbers.values())
        return next(each for each in self if self._numbers[self._owner_of[each]] == most)

    def __delitem__(self, key: FairKey) -> None:
        super().__delitem__(key)
        owner = self._owner_of.pop(key)
        self._numbers[owner] -= 1
        if not self._numbers[owner]:
            del self._numbers[owner]

    def clear(self) -> None:
        """Remove all entries."""
        super().clear()
        self._owner_of.clear()
        self._numbers.clear()
