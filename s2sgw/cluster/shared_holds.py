"""The holds of operators, in the shared table of a cluster: every node knows them, so they outlast a node (docs/cluster.md).

All holds that concern one peer are one value. So the home of the peer reads them whole, and two operators never undo each other's
changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping

from twisted.internet.interfaces import IReactorTime

from s2sgw.cluster.engine import ClusterEngine
from s2sgw.cluster.shared_table import SharedTable
from s2sgw.cluster.subjects import domain_of_word, key_word
from s2sgw.delivery.holds import HOLDS, Holds, HoldTarget, TooManyHolds, within
from s2sgw.xmpp.jid import Domain, Pair

#: The first word of the keys, and the version of the values.
PREFIX = "hold"
VERSION = 1
#: Bytes of the holds that concern one peer.
PEER_BYTES = 64 * 1024

_Targets = Mapping[HoldTarget, None]


class UnreadableHolds(ValueError):
    """The bytes are no holds, or those of a newer version."""


class SharedHolds(Holds):
    """The `Holds` of a node (see `delivery.holds`).

    `home` returns the peer that a pair belongs to. `report` gets texts about values that cannot be read.
    """

    def __init__(
        self, engine: ClusterEngine, clock: IReactorTime, may_change: Callable[[], bool], home: Callable[[Pair], Domain],
        report: Callable[[str], None],
    ) -> None:
        self.table = SharedTable(engine, PREFIX, clock, may_change, self._taken)
        #: called with a peer whose holds have changed
        self.changed: Callable[[Domain], None] = lambda peer: None
        self._home = home
        self._report = report
        self._targets: dict[Domain, _Targets] = {}
        #: holds of stanzas that are gone here, and are to be removed from the table -> whether that is under way
        self._ended: dict[HoldTarget, bool] = {}

    def __iter__(self) -> Iterator[HoldTarget]:
        return iter([target for targets in self._targets.values() for target in targets if target not in self._ended])

    def holds(self, pair: Pair) -> bool:
        return any(target.position is None and target.covers(pair) for target in self._of(pair))

    def positions(self, pair: Pair) -> set[int]:
        return {
            target.position for target in self._of(pair)
            if target.pair == pair and target.position is not None and target not in self._ended
        }

    def lanes(self, peer: Domain) -> set[Pair]:
        """Return the lanes of `peer` of which single stanzas are held."""
        targets = self._targets.get(peer, {})
        return {target.pair for target in targets if target.pair is not None and target.position is not None}

    def _of(self, pair: Pair) -> _Targets:
        return self._targets.get(self._home(pair), {})

    def abandon(self, peer: Domain) -> None:
        """Forget which stanzas of `peer` were gone here: another node has its queues."""
        self._forget_ended([target for target in self._ended if self._peer(target) == peer])

    async def add(self, target: HoldTarget) -> None:
        def edit(data: bytes | None) -> bytes | None:
            targets = _decoded(peer, data)
            if target in targets:
                return None
            encoded = _encoded({**targets, target: None})
            if sum(map(len, self._targets.values())) >= HOLDS or len(encoded) > PEER_BYTES:
                raise TooManyHolds(f"at most {HOLDS} holds at a time, and {PEER_BYTES} bytes of them for one peer")
            return encoded

        peer = self._peer(target)
        self._ended.pop(target, None)
        await self.table.change(key_word(peer), edit)

    async def discard(self, target: HoldTarget) -> int:
        ended = 0

        def edit(data: bytes | None) -> bytes | None:
            nonlocal ended
            targets = _decoded(peer, data)
            left = {each: None for each in targets if not within(each, target)}
            ended = len(targets) - len(left)
            return _encoded(left) if ended else None

        peer = self._peer(target)
        await self.table.change(key_word(peer), edit)
        return ended

    def _peer(self, target: HoldTarget) -> Domain:
        if target.pair is not None:
            return self._home(target.pair)
        assert target.peer is not None
        return target.peer

    def ended(self, pair: Pair, positions: Collection[int]) -> None:
        ended = [target for target in self._of(pair) if target.pair == pair and target.position in positions]
        self._ended.update(dict.fromkeys((target for target in ended if target not in self._ended), False))
        self.write_again()

    def forget(self, pair: Pair) -> None:
        self.ended(pair, self.positions(pair))

    def write_again(self) -> None:
        """Remove holds from the table that have ended here, and could not be removed before."""
        by_peer: dict[Domain, list[HoldTarget]] = {}
        for target, removing in self._ended.items():
            if not removing:
                by_peer.setdefault(self._peer(target), []).append(target)
        for peer, targets in by_peer.items():
            self._remove(peer, targets)

    def _remove(self, peer: Domain, targets: list[HoldTarget]) -> None:
        def edit(data: bytes | None) -> bytes | None:
            there = _decoded(peer, data)
            left = {each: None for each in there if each not in targets or each not in self._ended}
            if len(left) < len(there):
                return _encoded(left)
            self._forget_ended(targets)
            return None

        def done(made: bool) -> None:
            if not made:
                self._ended.update({target: False for target in targets if target in self._ended})

        self._ended.update(dict.fromkeys(targets, True))
        self.table.begin_change(key_word(peer), edit, done)

    def _forget_ended(self, targets: Collection[HoldTarget]) -> None:
        for target in targets:
            self._ended.pop(target, None)

    def _taken(self, key: str, data: bytes | None, own: bool) -> None:
        peer = domain_of_word(key)
        if peer is None:
            return
        try:
            targets = _read(data)
        except UnreadableHolds as error:
            targets = {HoldTarget(peer=peer): None}
            self._report(f"what operators hold of {peer} cannot be read ({error}): all of the peer is held until it is released")
        self._forget_ended([target for target in self._targets.pop(peer, {}) if target not in targets])
        if targets:
            self._targets[peer] = targets
        self.changed(peer)


def _whole(peer: Domain) -> _Targets:
    return {HoldTarget(peer=peer): None}


def _decoded(peer: Domain, data: bytes | None) -> _Targets:
    """Return the holds of a value. What cannot be read counts as a hold of the whole peer."""
    try:
        return _read(data)
    except UnreadableHolds:
        return _whole(peer)


def _read(data: bytes | None) -> _Targets:
    if data is None:
        return {}
    try:
        words = json.loads(data)
        if words["version"] > VERSION:
            raise UnreadableHolds(f"it has version {words['version']}, and this release knows {VERSION}")
        return dict.fromkeys(HoldTarget.read(target) for target in words["holds"])
    except UnreadableHolds:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UnreadableHolds(str(error)) from error


def _encoded(targets: _Targets) -> bytes:
    words = {"version": VERSION, "holds": [target.words() for target in targets]}
    return json.dumps(words, separators=(",", ":")).encode()
