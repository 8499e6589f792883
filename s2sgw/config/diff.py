"""The differences between two configurations, key by key, and the keys that need a restart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from s2sgw.config.effective import as_written, parsers_of
from s2sgw.config.errors import KeyPath, key_text
from s2sgw.config.loading import SECTIONS
from s2sgw.config.sections import Config
from s2sgw.policy.model import PeerObject

#: Prefixes of the keys that can be reloaded.
RELOADED: tuple[KeyPath, ...] = (
    ("gateway", "domains"), ("peers",), ("policy",), ("tls",), ("console",), ("backend",),
    ("queue", "hold"), ("queue", "iq_hold"),
    ("limits", "connections"), ("limits", "connections_per_address"), ("limits", "unproven"), ("limits", "unproven_per_site"),
    ("limits", "unproven_per_name"), ("limits", "negotiation"), ("limits", "log_lines_per_second"),
    ("listen",), ("dns",), ("log",),
)  # fmt: skip


class _Leaf(NamedTuple):
    """The value of one key. `parser` is the function that parses the key."""

    value: object
    parser: object

    @property
    def written(self) -> object:
        """Return the value in the file's form."""
        return None if self.value is None else as_written(self.value, self.parser)


_ON_ALL_NODES = "can change only while all nodes of the cluster are stopped"
_NOTHING = _Leaf(None, None)


class Change(NamedTuple):
    """One key: its value before and after, in the file's form ("10m", "1GiB"). None: the key was not there."""

    path: KeyPath
    old: object
    new: object
    #: why the nodes of a cluster must have the same value; "": they need not
    shared: str = ""

    @property
    def key(self) -> str:
        """Return the key in TOML's spelling."""
        return key_text(self.path)

    @property
    def why_restart(self) -> str:
        """Return why the change needs a restart; "": it does not."""
        if self.shared:
            return self.shared
        if any(self.path[: len(prefix)] == prefix for prefix in RELOADED):
            return ""
        return "can change only at a restart"


def changes(old: Config, new: Config) -> list[Change]:
    """Return every key whose value differs: first those of `old` in the order of the sections, then new ones."""
    peers = _changed_peers(old.peers, new.peers)
    before, after = dict(_values(old, peers)), dict(_values(new, peers))
    shared: dict[KeyPath, str] = {} if old.cluster.node is None else {("gateway", "domains"): _ON_ALL_NODES}
    found = [
        Change(path, leaf.written, after.get(path, _NOTHING).written, shared.get(path, ""))
        for path, leaf in before.items() if leaf.value != after.get(path, _NOTHING).value
    ]
    found += [Change(path, None, leaf.written) for path, leaf in after.items() if path not in before and leaf.value is not None]
    return found


def unchangeable(found: Iterable[Change]) -> list[str]:
    """Return a complaint for each key that only a restart can change."""
    return [f"{change.key}: {change.why_restart}" for change in found if change.why_restart]


def _changed_peers(old: Mapping[str, PeerObject], new: Mapping[str, PeerObject]) -> list[str]:
    """Return the names of the peer sections that differ. Very many share few objects, so two objects are compared once."""
    equal: dict[tuple[int, int], bool] = {}
    found = []
    for name in {**old, **new}:
        before, after = old.get(name), new.get(name)
        pair = id(before), id(after)
        if pair not in equal:
            equal[pair] = before == after
        if not equal[pair]:
            found.append(name)
    return found


def _values(config: Config, peers: Iterable[str]) -> Iterator[tuple[KeyPath, _Leaf]]:
    """Yield each key with its effective value; of these peer sections only the keys that are written: the rest is inherited."""
    for name in SECTIONS:
        if name == "peers":
            yield from _peer_values(config.peers, peers)
        else:
            yield from _leaves((name,), getattr(config, "backends" if name == "backend" else name), None, written=False)


def _peer_values(objects: Mapping[str, PeerObject], peers: Iterable[str]) -> Iterator[tuple[KeyPath, _Leaf]]:
    """Yield the written keys of these peer sections. The keys of an object that several share are searched once."""
    known: dict[int, list[tuple[KeyPath, _Leaf]]] = {}
    for name in peers:
        found = objects.get(name)
        if found is None:
            continue
        if id(found) not in known:
            known[id(found)] = list(_leaves(("peers", name), found, None, written=True))
        for path, leaf in known[id(found)]:
            yield ("peers", name, *path[2:]), leaf


def _leaves(path: KeyPath, value: Any, parser: object, written: bool) -> Iterator[tuple[KeyPath, _Leaf]]:
    if isinstance(value, BaseModel):
        parsers = parsers_of(type(value))
        names = value.model_fields_set if written else parsers
        rows: Iterable[tuple[Any, Any, object]] = [(name, getattr(value, name), parsers[name]) for name in sorted(names)]
    elif isinstance(value, dict):
        rows = [(key, inner, None) for key, inner in value.items()]
    elif isinstance(value, tuple) and value and all(isinstance(each, BaseModel) for each in value):
        rows = [(number, inner, None) for number, inner in enumerate(value)]
    else:
        yield path, _Leaf(_plain(value), parser)
        return
    for key, inner, inner_parser in rows:
        yield from _leaves((*path, key), inner, inner_parser, written)
    if len(path) == 2 and written and not rows:
        yield path, _Leaf({}, None)


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return [_plain(each) for each in value]
    return str(value)
