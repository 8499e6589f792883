"""The names that operators denied (`s2sgw deny`), in the shared table of a cluster: also a node that was away learns of them.

All names are one value, so that changes of two operators have one order on all nodes. The value also has the names that were
undone last, with the time. So a node that was away does not bring back from its disk what was undone meanwhile, and a gateway
that was alone brings what was denied there later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from math import inf
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from s2sgw.cluster.engine import ClusterEngine
from s2sgw.cluster.shared_items import OVERHEAD
from s2sgw.cluster.shared_table import NotChanged, SharedTable
from s2sgw.policy.denylist import MOST_BY_HAND
from s2sgw.policy.values import parse_peer_name
from s2sgw.xmpp.wall_clock import WallClock

#: The first word of the key, and the version of the value.
PREFIX, KEY = "deny", "all"
VERSION = 1
#: Names that were undone, of which a value has the last ones.
UNDONE = 1000
#: Bytes of a name in a value, beside its own: two quotes and a comma.
_NAME_OVERHEAD = 3

_FULL = "they have more bytes than a record of the engine. Use policy.deny_lists for more"


class UnreadableNames(ValueError):
    """The bytes are no names, or those of a newer version."""


class _Value(NamedTuple):
    """The names that are denied, and those that were undone last, in the order of the changes.

    A name that was undone has the time: seconds since the epoch, or infinite if a node of an older release left it out.
    """

    denied: tuple[str, ...] = ()
    undone: Mapping[str, float] = {}

    def without_undone(self, names: Collection[str]) -> _Value:
        """Return the value in which these names are not among those that were undone."""
        return self._replace(undone={name: at for name, at in self.undone.items() if name not in names})


class SharedDenials:
    """The names, as all nodes share them. `report` gets texts about a value that cannot be read."""

    def __init__(
        self, engine: ClusterEngine, clock: IReactorTime, may_change: Callable[[], bool], report: Callable[[str], None],
        wall: WallClock,
    ) -> None:
        self.table = SharedTable(engine, PREFIX, clock, may_change, self._taken)
        #: returns the names in force on this node, with the time of those that were denied while it was alone; 0: no such one
        self.kept: Callable[[], Mapping[str, float]] = dict
        #: called with all names
        self.apply: Callable[[Collection[str]], object] = lambda names: None
        self._engine = engine
        self._report = report
        self._wall = wall
        self._restored = self._unreadable = False
        #: whether `restore` was asked while the names could not be read
        self._waits = False

    async def restore(self) -> None:
        """Share what this node has on its disk and no node knows, then apply what all share. Raises `OSError`.

        This node was alone when it was denied, or the engine has lost its store.
        """
        self._waits = self._unreadable
        if not self._unreadable:
            if self._unshared(_read(self.table.get(KEY))):
                await self._change(self._with_kept)
            self._restored = True
            self.apply(_read(self.table.get(KEY)).denied)

    def _unshared(self, value: _Value) -> list[str]:
        """Return the names on the disk of this node of which no node knows, or that were denied after they were undone."""
        denied = {*value.denied}
        return [name for name, at in self.kept().items() if name not in denied and at > value.undone.get(name, -inf)]

    def _with_kept(self, value: _Value) -> _Value:
        unshared = self._unshared(value)
        value = value.without_undone({*unshared})
        room = self._room - len(_encoded(value)) + (not value.denied)  # the first name has no comma
        new: list[str] = []
        for name in unshared:
            room -= len(name) + _NAME_OVERHEAD
            if room < 0:
                left = len(unshared) - len(new)
                self._report(f"{left} names that were denied on this node alone are denied no longer: {_FULL}")
                break
            new.append(name)
        return value._replace(denied=(*value.denied, *new))

    @property
    def _room(self) -> int:
        """Return the most bytes of a value."""
        return self._engine.max_record - OVERHEAD

    async def add(self, name: str) -> bool:
        """Deny a name. Return whether that is new. Raises `OSError`."""
        def edit(value: _Value) -> _Value:
            if name in value.denied:
                return value
            if len(value.denied) >= MOST_BY_HAND:
                raise NotChanged(f"at most {MOST_BY_HAND} names can be denied; use policy.deny_lists for more")
            return value.without_undone((name,))._replace(denied=(*value.denied, name))

        return await self._change(edit)

    async def remove(self, name: str) -> bool:
        """Deny a name no longer. Return whether it was denied. Raises `OSError`."""
        def edit(value: _Value) -> _Value:
            if name not in value.denied:
                return value
            undone = [*value.without_undone((name,)).undone.items(), (name, float(round(self._wall.seconds())))]
            return _Value(tuple(each for each in value.denied if each != name), dict(undone[-UNDONE:]))

        return await self._change(edit)

    async def _change(self, edit: Callable[[_Value], _Value]) -> bool:
        changed = False

        def edited(data: bytes | None) -> bytes | None:
            nonlocal changed
            try:
                value = _read(data)
            except UnreadableNames as error:
                raise NotChanged(f"the denied names that nodes share cannot be read: {error}") from error
            new = edit(value)
            changed = new != value
            if changed and not self._fits(new):
                raise NotChanged(_FULL)
            return _encoded(new) if changed else None

        await self.table.change(KEY, edited)
        return changed

    def _fits(self, value: _Value) -> bool:
        return not value.denied or len(_encoded(value)) <= self._room

    def _taken(self, key: str, data: bytes | None, own: bool) -> None:
        if key != KEY:
            return
        try:
            names = _read(data).denied
        except UnreadableNames as error:
            self._unreadable = True
            self._report(f"the denied names that nodes share cannot be read ({error}): those that this node knew before count")
            return
        self._unreadable = False
        if self._restored:
            self.apply(names)
        elif self._waits:
            self._waits = False
            Deferred.fromCoroutine(self.restore()).addErrback(self._not_restored)

    def _not_restored(self, failure: Failure) -> None:
        self._waits = True
        self._report(f"the denied names that nodes share do not apply until they change: {failure.getErrorMessage()}")


def _read(data: bytes | None) -> _Value:
    if data is None:
        return _Value()
    try:
        words = json.loads(data)
        if words["version"] > VERSION:
            raise UnreadableNames(f"it has version {words['version']}, and this release knows {VERSION}")
        undone = list(map(parse_peer_name, words["undone"]))
        times = [inf if at is None else float(round(at)) for at in words.get("undone_at", [None] * len(undone))]
        return _Value(tuple(map(parse_peer_name, words["denied"])), dict(zip(undone, times, strict=True)))
    except UnreadableNames:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UnreadableNames(str(error)) from error


def _encoded(value: _Value) -> bytes:
    words: dict[str, object] = {"version": VERSION, "denied": value.denied, "undone": list(value.undone)}
    if value.undone:
        words["undone_at"] = [None if at == inf else round(at) for at in value.undone.values()]
    return json.dumps(words, separators=(",", ":")).encode()
