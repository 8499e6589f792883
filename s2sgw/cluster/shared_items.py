"""Items by name in the shared table, of which strangers choose the names: a fixed number of values, each with bounded bytes.

A removal of a value leaves a record in the engine for ever. So the names are spread over a fixed number of values ("buckets"),
and an item that is removed leaves nothing. All names of one registered domain are in one bucket. In a full bucket the oldest item
of the registered domain that has the most gives way, as in `peerdb.fair_shares`. A secret decides the bucket of a domain, so that
no stranger can choose the bucket of another domain. The Public Suffix List does not decide it: nodes may have different releases
of it, and what is shared outlives each release.

Most changes are made in the background, a bucket at a time: what a crowd of strangers can make a node write is bounded, too.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.cluster.engine import ClusterEngine
from s2sgw.cluster.shared_table import NotChanged, SharedTable
from s2sgw.xmpp.registered_domain import registered_domain

#: The version of the values.
VERSION = 1
#: Seconds before a bucket is written in the background, between two of them, and after a failure.
PAUSE, PAUSE_AFTER_FAILURE = 0.2, 2.0
#: Items that wait for being written. The first ones give way.
WAITING = 2000
#: Bytes of a record of the engine that are not of the items.
OVERHEAD = 2048

#: Second-level names of countries, below which many register: their domains are spread by three labels. None of this may change.
_SECOND_LEVEL = re.compile(
    r"(ac|asn|asso|co|com|edu|firm|gen|go|gob|gouv|gov|govt|gub|gv|id|in|ind|info|ltd|me|mil|ne|net|nhs|nic|nom|or|org|plc|priv"
    r"|sch|school|web)\.[a-z]{2}\Z"
)
#: Countries where such a name has one owner, who must not have any number of buckets; and those that others sell domains of.
_DIRECT = frozenset((
    "ca", "cc", "cf", "ch", "de", "dk", "eu", "fi", "fo", "ga", "gq", "is", "li", "lu", "nl", "nu", "pm", "si", "td", "tf",
    "tk", "tv", "wf",
))
_SOLD = frozenset(("co.ca", "co.de", "co.dk", "co.nl", "com.de"))

T = TypeVar("T")
_Words = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ItemKind(Generic[T]):
    """One kind of items. `prefix`: the first word of the keys. `buckets`: how many. `bucket_bytes`: the most that each has.

    `write` and `read` turn an item into JSON and back. `read` gets the name, too, and raises `ValueError`, `KeyError`,
    `TypeError` or `OverflowError`. `merge(old, new)` returns what is stored of a new item where an old one is: if it is
    repeated, nothing changes. `used` returns when an item was used last.
    """

    prefix: str
    buckets: int
    bucket_bytes: int
    write: Callable[[T], _Words]
    read: Callable[[str, _Words], T]
    merge: Callable[[T, T], T]
    used: Callable[[T], float]


class SharedItems(Generic[T]):
    """The items of one `kind`, by name. A name is a domain (A-labels), which a blank and more words may follow.

    `secret` decides the bucket of a domain. `report` gets texts about values that cannot be read.
    """

    def __init__(
        self, kind: ItemKind[T], engine: ClusterEngine, clock: IReactorTime, may_change: Callable[[], bool], secret: bytes,
        report: Callable[[str], None],
    ) -> None:
        self.table = SharedTable(engine, kind.prefix, clock, may_change, self._taken)
        self._kind = kind
        self._engine = engine
        self._clock = clock
        self._secret = secret
        self._report = report
        self._buckets: dict[str, Mapping[str, T]] = {}
        self._unreadable: set[str] = set()
        #: what waits for being written, by name; None: the item is to be removed
        self._waiting: dict[str, T | None] = {}
        self._timer: IDelayedCall | None = None
        self._writing = False

    # --- reading ---

    def get(self, name: str) -> T | None:
        """Return an item, also one that is not written yet."""
        found = self._buckets.get(self._key(name), {}).get(name)
        if name not in self._waiting:
            return found
        new = self._waiting[name]
        return new if new is None or found is None else self._kind.merge(found, new)

    def names(self) -> Iterator[str]:
        """Return an iterator over the names of all items."""
        for items in list(self._buckets.values()):
            for name in items:
                if self._waiting.get(name, items) is not None:
                    yield name
        for name, item in list(self._waiting.items()):
            if item is not None and name not in self._buckets.get(self._key(name), {}):
                yield name

    def beside(self, name: str) -> list[str]:
        """Return the names of items that begin with the same domain."""
        domain = name.partition(" ")[0]
        items = self._buckets.get(self._key(name), {})
        return [each for each in {**items, **self._waiting} if each.partition(" ")[0] == domain and self.get(each) is not None]

    def readable(self, name: str) -> bool:
        """Return whether the value that would have an item of this name can be read."""
        return self._key(name) not in self._unreadable

    def _key(self, name: str) -> str:
        site = _spread_by(name.partition(" ")[0])
        digest = hashlib.blake2b(site.encode(), digest_size=4, key=self._secret).digest()
        return str(int.from_bytes(digest, "big") % self._kind.buckets)

    def _taken(self, key: str, data: bytes | None, own: bool) -> None:
        try:
            self._buckets[key] = self._decoded(data)
        except _Unreadable as error:
            self._unreadable.add(key)
            self._report(f"what nodes share as {self._kind.prefix}.{key} cannot be read ({error}): it is not changed, nor used")
            self._buckets[key] = {}
        else:
            self._unreadable.discard(key)

    # --- changing ---

    async def change(self, name: str, edit: Callable[[T | None], T | None]) -> T | None:
        """Write the item that `edit` makes of the present one (None: remove it), and return what is there then.

        It is called again if another node has changed the bucket meanwhile. Raises `NotChanged`, or what `edit` raises.
        """
        def edited(data: bytes | None) -> bytes | None:
            items = self._items(data)
            _put(items, name, edit(items.get(name)))
            return self._encoded(items, data)

        await self.table.change(self._key(name), edited)
        return self._buckets.get(self._key(name), {}).get(name)

    def put(self, name: str, item: T) -> None:
        """Write an item soon."""
        before = self._waiting.pop(name, None)
        self._waiting[name] = item if before is None else self._kind.merge(before, item)
        while len(self._waiting) > WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._write_soon(PAUSE)

    def remove(self, name: str) -> None:
        """Remove an item soon. It is not there any more for `get`."""
        self._waiting.pop(name, None)
        if self._writing or name in self._buckets.get(self._key(name), {}):  # it may be on its way to the engine
            self._waiting[name] = None
            self._write_soon(PAUSE)

    def stop(self) -> None:
        """Write nothing more."""
        self._writing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _write_soon(self, seconds: float) -> None:
        if self._timer is None and not self._writing:
            self._timer = self._clock.callLater(seconds, self._write)

    def _write(self) -> None:
        """Write all that waits for the bucket of the item that has waited for the longest."""
        self._timer = None
        if not self._waiting:
            return
        key = self._key(next(iter(self._waiting)))
        changes = {name: item for name, item in self._waiting.items() if self._key(name) == key}
        self._writing = True

        def edit(data: bytes | None) -> bytes | None:
            items = self._items(data)
            for name, new in changes.items():
                old = items.get(name)
                _put(items, name, new if new is None or old is None else self._kind.merge(old, new))
            return self._encoded(items, data)

        def done(made: bool) -> None:
            self._writing = False
            for name, item in changes.items():
                if (made or key in self._unreadable) and name in self._waiting and self._waiting[name] is item:
                    del self._waiting[name]
            if self._waiting:
                self._write_soon(PAUSE if made else PAUSE_AFTER_FAILURE)

        self.table.begin_change(key, edit, done)

    # --- the values ---

    def _items(self, data: bytes | None) -> dict[str, T]:
        try:
            return self._decoded(data)
        except _Unreadable as error:
            raise NotChanged(f"what nodes share cannot be read: {error}") from error

    def _decoded(self, data: bytes | None) -> dict[str, T]:
        if data is None:
            return {}
        try:
            words = json.loads(data)
            if words["version"] > VERSION:
                raise _Unreadable(f"it has version {words['version']}, and this release knows {VERSION}")
            return {name: self._kind.read(name, item) for name, item in words["items"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise _Unreadable(f"{type(error).__name__}: {error}") from error

    def _encoded(self, items: Mapping[str, T], data: bytes | None) -> bytes | None:
        """Return the bytes of a bucket, without what gives way; None if they are `data`."""
        texts = {name: json.dumps(self._kind.write(item), separators=(",", ":")) for name, item in items.items()}
        most = min(self._kind.bucket_bytes, self._engine.max_record - OVERHEAD)
        for name in giving_way({name: _Size(len(text), self._kind.used(items[name])) for name, text in texts.items()}, most):
            del texts[name]
        inside = ",".join(f"{json.dumps(name)}:{text}" for name, text in texts.items())
        encoded = f'{{"version":{VERSION},"items":{{{inside}}}}}'.encode()
        return None if encoded == data else encoded


def _spread_by(domain: str) -> str:
    """Return the part of `domain` that decides its bucket: the same for all sub-domains, and in each release."""
    labels = domain.split(".")
    last = ".".join(labels[-2:])
    kept = 3 if _SECOND_LEVEL.match(last) and (labels[-1] not in _DIRECT or last in _SOLD) else 2
    return ".".join(labels[-kept:])


class _Unreadable(Exception):
    """A value is of another release, or damaged."""


@dataclass(frozen=True, slots=True)
class _Size:
    """The bytes of an item without its name, and when it was used last."""

    bytes: int
    used: float


def giving_way(sizes: Mapping[str, _Size], most: int) -> list[str]:
    """Return the names that give way until the others have at most `most` bytes: the oldest of the domain that has the most."""
    sites: dict[str, list[str]] = {}
    totals: dict[str, int] = {}
    for _, name in sorted(((size.used, name) for name, size in sizes.items()), reverse=True):
        site = registered_domain(name.partition(" ")[0])
        sites.setdefault(site, []).append(name)
        totals[site] = totals.get(site, 0) + _bytes(name, sizes[name])
    total, gone = sum(totals.values()), []
    order = [(-number, sizes[sites[site][-1]].used, site) for site, number in totals.items()]
    heapq.heapify(order)
    while total > most:
        number, _, largest = order[0]
        names = sites[largest]
        gone.append(names.pop())
        freed = _bytes(gone[-1], sizes[gone[-1]])
        total -= freed
        if names:
            heapq.heapreplace(order, (number + freed, sizes[names[-1]].used, largest))
        else:
            heapq.heappop(order)
    return gone


def _bytes(name: str, size: _Size) -> int:
    return len(name) + size.bytes + 4


def _put(items: dict[str, T], name: str, item: T | None) -> None:
    if item is None:
        items.pop(name, None)
    else:
        items[name] = item
