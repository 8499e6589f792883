"""The records of nodes: the record of a node, its pulses, and the home record of a peer (docs/cluster.md).

A session is one membership of a node. A node that starts, or that was declared dead, begins a new session.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

#: The version of the formats in this file. A record of a newer version is not understood.
VERSION = 1
#: The first word of the keys of node records.
NODES = "node"


class UnreadableRecord(ValueError):
    """The bytes are no record, or one of a newer version."""


class NodeSession(NamedTuple):
    """One session of a node. `birth` is the sequence of its first record.

    The sequences of all node records ascend together. So a reader who knows a record of the node that is not older than `birth`
    knows whether the session is over, and a reader with an older one knows that it does not know.
    """

    node: str
    identity: str
    birth: int


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """The record of a node in the engine. `listener`: where other nodes connect to it, as host:port.

    `beat` counts the heartbeats. `alive` is False once the session has ended, or another node has declared it dead. `draining`:
    it wants no more peers. `settings`: a digest of what should be equal on all nodes. `birth` is 0 in the first record.
    `inner`: where each server behind the gateway connects to it, as (name of the server, host:port).
    """

    node: str
    identity: str
    listener: str
    birth: int = 0
    beat: int = 0
    alive: bool = True
    draining: bool = False
    settings: str = ""
    inner: tuple[tuple[str, str], ...] = ()

    def session(self, sequence: int) -> NodeSession:
        """Return the session of this record, whose own sequence is `sequence`."""
        return NodeSession(self.node, self.identity, self.birth or sequence)

    def encode(self) -> bytes:
        """Return the bytes of the record."""
        return _encoded({
            "node": self.node, "identity": self.identity, "listener": self.listener, "birth": self.birth, "beat": self.beat,
            "alive": self.alive, "draining": self.draining, "settings": self.settings,
            **({"inner": dict(self.inner)} if self.inner else {}),
        })  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> NodeRecord:
        """Return the record of these bytes. Raises `UnreadableRecord`."""
        words = _decoded(data)
        return cls(
            _text(words, "node"), _text(words, "identity"), _text(words, "listener"), _number(words, "birth"),
            _number(words, "beat"), _truth(words, "alive"), _truth(words, "draining"), _text(words, "settings"),
            _texts(words.get("inner", {}), "inner"),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pulse:
    """A sign of life that needs no leader of the engine. `heard`: the last number heard from each other session."""

    node: str
    identity: str
    number: int
    heard: Mapping[str, int]

    def encode(self) -> bytes:
        """Return the bytes of the pulse."""
        return _encoded({"node": self.node, "identity": self.identity, "number": self.number, "heard": dict(self.heard)})

    @classmethod
    def decode(cls, data: bytes) -> Pulse:
        """Return the pulse of these bytes. Raises `UnreadableRecord`."""
        words = _decoded(data)
        heard = words.get("heard")
        if not isinstance(heard, dict):
            raise UnreadableRecord("heard is missing")
        numbers = {identity: _number(heard, identity) for identity in heard}
        return cls(_text(words, "node"), _text(words, "identity"), _number(words, "number"), numbers)


@dataclass(frozen=True, slots=True)
class HomeRecord:
    """The session that owns a peer. None: it was released."""

    owner: NodeSession | None

    def encode(self) -> bytes:
        """Return the bytes of the record."""
        return _encoded({} if self.owner is None else self.owner._asdict())

    @classmethod
    def decode(cls, data: bytes) -> HomeRecord:
        """Return the record of these bytes. Raises `UnreadableRecord`."""
        words = _decoded(data)
        if "node" not in words:
            return cls(None)
        return cls(NodeSession(_text(words, "node"), _text(words, "identity"), _number(words, "birth")))


def node_key(node: str) -> str:
    """Return the key of the record of `node` in the shared table."""
    return f"{NODES}.{node}"


def _encoded(words: Mapping[str, Any]) -> bytes:
    return json.dumps({"version": VERSION, **words}, separators=(",", ":")).encode()


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        words = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UnreadableRecord("the record is no JSON") from error
    if not isinstance(words, dict):
        raise UnreadableRecord("the record is no object")
    if _number(words, "version") > VERSION:
        raise UnreadableRecord(f"the record has version {words['version']}, and this release knows {VERSION}")
    return words


def _text(words: Mapping[str, Any], name: str) -> str:
    value = words.get(name)
    if not isinstance(value, str):
        raise UnreadableRecord(f"{name} is no text")
    return value


def _texts(words: Any, name: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(words, dict):
        raise UnreadableRecord(f"{name} is no object")
    return tuple((key, _text(words, key)) for key in words)


def _number(words: Mapping[str, Any], name: str) -> int:
    value = words.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UnreadableRecord(f"{name} is no number")
    return value


def _truth(words: Mapping[str, Any], name: str) -> bool:
    value = words.get(name)
    if not isinstance(value, bool):
        raise UnreadableRecord(f"{name} is neither true nor false")
    return value
