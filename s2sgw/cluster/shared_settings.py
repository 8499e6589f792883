"""The settings that all nodes of a cluster must have in common, as digests in the engine (docs/cluster.md).

A node compares its settings before it joins, and once more when it is a member. The record is replaced only while no other node
is alive. Two nodes that do this at once cannot both stay: the later member sees the record, or the other member.

Nodes that were killed, or could not say that they leave, look alive by their records. A session whose record was not written for
lease and bridge may send nothing to other servers. Its record is ended by compare-and-set, so a process that wakes begins anew.
Nodes that cannot reach the leader of the engine write no record, but send pulses: they are alive.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from s2sgw.cluster.engine import ClusterEngine, Conflict, EngineGone, EngineUnfit, Entry
from s2sgw.cluster.node_records import NODES, VERSION, NodeRecord, Pulse, UnreadableRecord, node_key

#: The key of the record.
KEY = "cluster"
#: Attempts to write the record, and readings of the nodes until one is new enough.
ATTEMPTS = 20
#: Seconds between two readings of the records of nodes that may be dead.
LOOK_SECONDS = 0.5
#: A reading that takes longer, in seconds, starts the time anew: the nodes, too, may have been without the engine until now.
SLOW_SECONDS = 2.0
#: Seconds for the whole watch, besides those of the silence.
PATIENCE = 60.0
#: Seconds after which a session that has written nothing may send nothing to other servers, with the longest lease and bridge.
LONGEST_SILENCE = 150.3


@dataclass(frozen=True, slots=True)
class SharedSettings:
    """The digest of each setting, by words for the operator ("gateway.domains").

    `silence`: seconds after which a session with these settings that has written nothing has no right to send to other servers.
    """

    digests: Mapping[str, str]
    silence: float = LONGEST_SILENCE

    def encode(self) -> bytes:
        """Return the bytes of the record."""
        words = {"version": VERSION, "settings": dict(self.digests), "silence": self.silence}
        return json.dumps(words, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> SharedSettings:
        """Return the settings of a record. Raises `UnreadableRecord`."""
        try:
            words = json.loads(data)
            version, settings, silence = words["version"], words["settings"], words.get("silence", LONGEST_SILENCE)
            known = isinstance(version, int) and version <= VERSION
            if not known or not all(isinstance(text, str) for each in settings.items() for text in each):
                raise UnreadableRecord(f"the record of the settings has version {version}, and this release knows {VERSION}")
            if isinstance(silence, bool) or not 0 <= silence <= LONGEST_SILENCE:
                raise UnreadableRecord(f"the record of the settings has the silence {silence}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UnreadableRecord(f"the record of the settings cannot be read: {error}") from error
        return cls(settings, float(silence))

    def differing(self, other: SharedSettings) -> list[str]:
        """Return the settings that both have, and that are not the same."""
        return [name for name, found in self.digests.items() if other.digests.get(name, found) != found]

    def completed(self, other: SharedSettings) -> SharedSettings:
        """Return these settings, and those that only the other has."""
        return replace(self, digests={**other.digests, **self.digests})


def digest(name: str, content: bytes) -> str:
    """Return the digest of a setting. It tells nothing of a secret, and is of no use for another setting."""
    return hashlib.sha256(f"s2sgw cluster {name}\0".encode() + content).hexdigest()


class SettingsGuard:
    """Compares the settings of `node` with those in the engine."""

    log = Logger("s2sgw")

    def __init__(self, engine: ClusterEngine, node: str, settings: SharedSettings, clock: IReactorTime) -> None:
        self._engine = engine
        self._node = node
        self._settings = settings
        self._clock = clock
        self._replaced = False
        #: the nodes whose pulses were heard since the watch began; None: there was no watch
        self._heard: set[str] | None = None

    async def agree(self, birth: int = 0) -> None:
        """Write the settings if there are none, or none of a living node. `birth`: of the session of this node, if it has one.

        Settings that only this node has are added. If one differs, this takes until another node has beaten, or all were silent
        for so long that they are not alive. Raises `EngineUnfit` if living nodes have others. Other errors are the engine's.
        """
        for _ in range(ATTEMPTS):
            entry = await self._engine.get(KEY)
            stored = _decoded(entry.data) if entry is not None and entry.data is not None else None
            differing = [] if stored is None else stored.differing(self._settings)
            if stored is not None and (differing or (birth and self._replaced)):
                silence = max(stored.silence, self._settings.silence)
                if not await self._alone(differing, birth, silence):
                    continue
            wanted = self._settings if stored is None or differing else stored.completed(self._settings)
            if stored is not None and wanted.digests == stored.digests:
                self._replaced = self._replaced and not birth  # all who join from now on see these settings
                return
            try:
                await self._engine.put(KEY, wanted.encode(), 0 if entry is None else entry.sequence)
            except Conflict:
                continue
            self._replaced = self._replaced or bool(differing)
            if not birth:
                return  # a member looks again: another node may have compared its settings before this
        raise EngineUnfit("the settings that all nodes share are changed again and again: start the nodes one after another")

    async def _alone(self, differing: list[str], birth: int, seconds: float) -> bool:
        """Return whether no other node is alive, after the records of those silent for `seconds` were ended; False: look again.

        Raises `EngineUnfit` if one beats, and `EngineGone` if the engine answers too slowly to tell.
        """
        first = await self._others(birth)
        if not first:
            return True
        if self._heard is None:
            self._engine.on_pulse(self._pulse_heard)
        self._heard = set()
        names = ", ".join(sorted(first))
        detail = f"{_words(differing)} not as on {names}: this node looks for up to {seconds:g} s whether they are alive"
        self.log.warn(event="settings differ", detail=detail)
        start = begun = self._clock.seconds()
        while self._clock.seconds() - start <= seconds:
            await deferLater(self._clock, LOOK_SECONDS)
            asked = self._clock.seconds()
            found = await self._others(birth)
            if beating := [each for each in found if each in self._heard or first.get(each, (0,))[0] != found[each][0]]:
                raise EngineUnfit(_differ(differing, sorted(beating)))
            if self._clock.seconds() - asked > SLOW_SECONDS:
                start = self._clock.seconds()
            if start - begun > PATIENCE:
                raise EngineGone(f"the engine answers too slowly to tell whether {names} are alive")
            first = found
            if not first:
                return True
        for node, (sequence, record) in first.items():
            try:
                await self._engine.put(node_key(node), replace(record, alive=False).encode(), sequence)
            except Conflict:
                return False
            self.log.warn(event="node gone", node=node, detail=f"its record was not written for {seconds:g} s")
        return True

    def _pulse_heard(self, data: bytes) -> None:
        try:
            node = Pulse.decode(data).node
        except UnreadableRecord:
            return
        if self._heard is not None:
            self._heard.add(node)

    async def _others(self, birth: int) -> dict[str, tuple[int, NodeRecord]]:
        """Return the records of the other nodes that are alive, with their sequences, from the replica that decides.

        The list of nodes is not older than the session of this node.
        """
        for _ in range(ATTEMPTS):
            entries = await self._engine.entries(NODES)
            if not birth or any(entry.key == node_key(self._node) and entry.sequence >= birth for entry in entries):
                newest = [await self._engine.get(entry.key) for entry in entries if entry.key != node_key(self._node)]
                return _alive(entry for entry in newest if entry is not None)
        raise EngineUnfit("the engine does not show the record of this node")


def _alive(entries: Iterable[Entry]) -> dict[str, tuple[int, NodeRecord]]:
    found = {}
    for entry in entries:
        try:
            record = NodeRecord.decode(entry.data) if entry.data is not None else None
        except UnreadableRecord:
            continue
        if record is not None and record.alive and entry.key == node_key(record.node):
            found[record.node] = entry.sequence, replace(record, birth=record.birth or entry.sequence)
    return found


def _decoded(data: bytes) -> SharedSettings:
    try:
        return SharedSettings.decode(data)
    except UnreadableRecord as error:
        raise EngineUnfit(str(error)) from error


def _words(names: list[str]) -> str:
    return f"{' and '.join(names) or 'the settings that all nodes share'} {'are' if len(names) != 1 else 'is'}"


def _differ(names: list[str], nodes: list[str]) -> str:
    if not names:
        return (
            "this node has replaced the settings that all nodes share, and other nodes joined meanwhile. "
            f"It does not know whether their settings are the same as on {', '.join(nodes)}: start this node again"
        )
    what = " and ".join(names)
    return (
        f"{what} must be the same on all nodes, and is not the same as on {', '.join(nodes)}: "
        "correct this node, or stop all nodes and start them with the new value"
    )
