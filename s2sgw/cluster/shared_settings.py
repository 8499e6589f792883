"""The settings that all nodes of a cluster must have in common, as digests in the engine (docs/cluster.md).

A node compares its settings before it joins, and once more when it is a member. The record is replaced only while no other node
is alive. Two nodes that do this at once cannot both stay: the later member sees the record, or the other member.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from s2sgw.cluster.engine import ClusterEngine, Conflict, EngineUnfit
from s2sgw.cluster.node_records import NODES, VERSION, NodeRecord, UnreadableRecord, node_key

#: The key of the record.
KEY = "cluster"
#: Attempts to write the record, and readings of the nodes until one is new enough.
ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class SharedSettings:
    """The digest of each setting, by words for the operator ("gateway.domains")."""

    digests: Mapping[str, str]

    def encode(self) -> bytes:
        """Return the bytes of the record."""
        return json.dumps({"version": VERSION, "settings": dict(self.digests)}, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> SharedSettings:
        """Return the settings of a record. Raises `UnreadableRecord`."""
        try:
            words = json.loads(data)
            version, settings = words["version"], words["settings"]
            known = isinstance(version, int) and version <= VERSION
            if not known or not all(isinstance(text, str) for each in settings.items() for text in each):
                raise UnreadableRecord(f"the record of the settings has version {version}, and this release knows {VERSION}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UnreadableRecord(f"the record of the settings cannot be read: {error}") from error
        return cls(settings)

    def differing(self, other: SharedSettings) -> list[str]:
        """Return the settings that are not the same here and there."""
        names = {**self.digests, **other.digests}
        return [name for name in names if self.digests.get(name) != other.digests.get(name)]


def digest(name: str, content: bytes) -> str:
    """Return the digest of a setting. It tells nothing of a secret, and is of no use for another setting."""
    return hashlib.sha256(f"s2sgw cluster {name}\0".encode() + content).hexdigest()


class SettingsGuard:
    """Compares the settings of `node` with those in the engine."""

    def __init__(self, engine: ClusterEngine, node: str, settings: SharedSettings) -> None:
        self._engine = engine
        self._node = node
        self._settings = settings
        self._replaced = False

    async def agree(self, birth: int = 0) -> None:
        """Write the settings if there are none, or none of a living node. `birth`: of the session of this node, if it has one.

        Raises `EngineUnfit` if living nodes have others. Other errors are those of the engine.
        """
        for _ in range(ATTEMPTS):
            entry = await self._engine.get(KEY)
            stored = _decoded(entry.data) if entry is not None and entry.data is not None else None
            differing = [] if stored is None else stored.differing(self._settings)
            if stored is not None and not differing and not (birth and self._replaced):
                return
            if stored is not None and (others := await self._others(birth)):
                raise EngineUnfit(_differ(differing, others))
            if stored is not None and not differing:
                return
            try:
                await self._engine.put(KEY, self._settings.encode(), 0 if entry is None else entry.sequence)
            except Conflict:
                continue
            self._replaced = stored is not None
            return
        raise EngineUnfit("the settings that all nodes share are changed again and again: start the nodes one after another")

    async def _others(self, birth: int) -> list[str]:
        """Return the other nodes that are alive, by a reading that is not older than the session of this node."""
        for _ in range(ATTEMPTS):
            entries = await self._engine.entries(NODES)
            if not birth or any(entry.key == node_key(self._node) and entry.sequence >= birth for entry in entries):
                return sorted(_alive(entry.data for entry in entries) - {self._node})
        raise EngineUnfit("the engine does not show the record of this node")


def _alive(records: Iterable[bytes | None]) -> set[str]:
    found = set()
    for data in records:
        try:
            record = NodeRecord.decode(data) if data is not None else None
        except UnreadableRecord:
            continue
        if record is not None and record.alive:
            found.add(record.node)
    return found


def _decoded(data: bytes) -> SharedSettings:
    try:
        return SharedSettings.decode(data)
    except UnreadableRecord as error:
        raise EngineUnfit(str(error)) from error


def _differ(names: list[str], nodes: list[str]) -> str:
    what = " and ".join(names) or "the settings that all nodes share"
    return (
        f"{what} must be the same on all nodes, and is not the same as on {', '.join(nodes)}: "
        "correct this node, or stop all nodes in order and start them with the new value"
    )
