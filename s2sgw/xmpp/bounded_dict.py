"""A dict with a maximum number of entries. Beyond that, the least recently set or used one is removed."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

EntryKey = TypeVar("EntryKey")
EntryValue = TypeVar("EntryValue")


class BoundedDict(OrderedDict[EntryKey, EntryValue]):
    """Entries in the order of their last use. Setting a key is a use, and so is `use`. Reading by `[]` or `get` is not."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def __setitem__(self, key: EntryKey, value: EntryValue) -> None:
        """Set an entry, and remove the oldest if there is one too many. O(1)."""
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self.limit:
            self.popitem(last=False)

    def use(self, key: EntryKey) -> EntryValue | None:
        """Return the value of `key`, which becomes the newest; None: there is none."""
        value = self.get(key)
        if value is not None:
            self.move_to_end(key)
        return value
