"""A dict with a maximum number of entries. Beyond that, the oldest entry of the owner that has the most is removed.

An owner is a party that may choose any number of keys, such as a registered domain with its sub-domains. So a party that adds
many entries removes its own, and not those of others.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

from s2sgw.xmpp.registered_domain import registered_domain

FairKey = TypeVar("FairKey", bound=Hashable)
FairValue = TypeVar("FairValue")


class FairDict(dict[FairKey, FairValue]):
    """Entries in the order in which they were set last. `owner(key, value)` returns the owner of an entry.

    It is changed only by setting, deleting and `clear`. The time of each of these does not grow with the number of entries.
    """

    def __init__(self, limit: int, owner: Callable[[FairKey, FairValue], Hashable]) -> None:
        super().__init__()
        self.limit = limit
        self._owner = owner
        self._owner_of: dict[FairKey, Hashable] = {}
        #: owner -> its keys, the oldest first
        self._keys: dict[Hashable, dict[FairKey, None]] = {}
        #: a number of entries -> the owners that have so many, and the largest such number
        self._owners: dict[int, dict[Hashable, None]] = {}
        self._most = 0

    def __setitem__(self, key: FairKey, value: FairValue) -> None:
        """Set an entry, and remove another if there is one too many."""
        if key in self:
            del self[key]
        super().__setitem__(key, value)
        owner = self._owner_of[key] = self._owner(key, value)
        keys = self._keys.setdefault(owner, {})
        keys[key] = None
        self._count(owner, len(keys) - 1, len(keys))
        if len(self) > self.limit:
            del self[self.least_wanted()]

    def least_wanted(self) -> FairKey:
        """Return the key that gives way to the next one.

        Of several owners that have the most, the one that has had so many for longest loses its oldest.
        """
        owner = next(iter(self._owners[self._most]))
        return next(iter(self._keys[owner]))

    def __delitem__(self, key: FairKey) -> None:
        super().__delitem__(key)
        owner = self._owner_of.pop(key)
        keys = self._keys[owner]
        del keys[key]
        self._count(owner, len(keys) + 1, len(keys))
        if not keys:
            del self._keys[owner]

    def _count(self, owner: Hashable, before: int, now: int) -> None:
        """Note that `owner` has one entry more, or one less."""
        if before:
            owners = self._owners[before]
            del owners[owner]
            if not owners:
                del self._owners[before]
        if now:
            self._owners.setdefault(now, {})[owner] = None
        if now > self._most or (before == self._most and before not in self._owners):
            self._most = now

    def discard(self, key: FairKey) -> None:
        """Delete an entry, if it is there."""
        if key in self:
            del self[key]

    def clear(self) -> None:
        """Remove all entries."""
        super().clear()
        self._owner_of.clear()
        self._keys.clear()
        self._owners.clear()
        self._most = 0


class FairNames(FairDict[str, FairValue]):
    """Entries by names of servers (A-labels). The owner is the registered domain, which may have any number of sub-domains."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit, _registered_domain)


def _registered_domain(name: str, value: object) -> str:
    return registered_domain(name)
