"""The source of each key of a peer's policy: the section of the configuration that sets it, and the line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel

from s2sgw.config import Config, ConfigError, parse
from s2sgw.config.errors import TOMLSource
from s2sgw.policy.model import PeerPolicy
from s2sgw.policy.peers import PeerPolicies
from s2sgw.policy.values import format_duration, parse_peer_name
from s2sgw.xmpp.jid import Domain

#: Fields of a policy that are not keys of the configuration.
_MADE = ("objects", "deny_list", "listed", "unnamed")
#: Keys whose values are durations.
DURATIONS = ("remember_proof", "hold", "resume")
#: Keys that the section `peers.default` itself inherits.
_INHERITED = {"minimum": ("tls", "minimum"), "trust_anchors": ("tls", "trust_anchors"), "hold": ("queue", "hold")}


class PolicySources:
    """Reads the file of `config` for the lines. `outdated`: the sections of peers in the file have changed since it was read."""

    def __init__(self, config: Config, peers: PeerPolicies) -> None:
        self._peers = peers
        try:
            text = config.path.read_text("utf-8-sig")
            tree = tomllib.loads(text)
            self.outdated = dict(parse(text, config.path).peers) != dict(peers.written)
        except (OSError, ValueError, ConfigError):
            text, tree, self.outdated = "", {}, True
        self._source = TOMLSource(text)
        self._spelt = dict(_spelt(tree.get("peers", {})))

    def objects(self, peer: Domain) -> list[dict[str, Any]]:
        """Return the sections that apply, the most specific first."""
        return [{"name": name, "line": self._line(name)} for name in self._peers.policy(peer).objects]

    def keys(self, policy: PeerPolicy) -> list[dict[str, Any]]:
        """Return every key with its value, also in the file's form (`text`), the section that sets it, and the line.

        `default`: the value is that of an empty configuration.
        """
        return [
            {
                "key": ".".join(path), "value": _plain(value), "text": _written(path, value), "default": value == _DEFAULTS[path],
                **self._origin(policy, path),
            }
            for path, value in _keys(policy)
        ]

    def _origin(self, policy: PeerPolicy, path: tuple[str, ...]) -> dict[str, Any]:
        for name in policy.objects:
            if _says(self._peers.written[name], path):
                return {"from": f"peers.{name}", "line": self._line(name, *path)}
        inherited = _INHERITED.get(path[0])
        line = self._source.line(inherited) if inherited else None
        return {"from": ".".join(inherited) if inherited and line else "built in", "line": line}

    def _line(self, name: str, *path: str) -> int | None:
        return self._source.line(("peers", self._spelt.get(name, name), *path))


def _spelt(peers: Any) -> Iterator[tuple[str, str]]:
    """Yield the name of each section in its canonical form, and in the file's form."""
    for name in peers if isinstance(peers, dict) else ():
        try:
            yield parse_peer_name(name), name
        except ValueError:
            continue


def _says(written: Any, path: tuple[str, ...]) -> bool:
    if not path:
        return True
    if not isinstance(written, BaseModel):
        return written is not None
    return path[0] in written.model_fields_set and _says(getattr(written, path[0]), path[1:])


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each key, also those of inner tables, with its value."""
    if is_dataclass(value):
        for each in fields(value):
            yield from _leaves((*path, each.name), getattr(value, each.name))
    else:
        yield path, value


def _keys(policy: PeerPolicy) -> Iterator[tuple[tuple[str, ...], Any]]:
    for each in fields(policy):
        if each.name not in _MADE:
            yield from _leaves((each.name,), getattr(policy, each.name))


def _written(path: tuple[str, ...], value: Any) -> str:
    """Return a value in the form of the configuration file."""
    if path[0] in DURATIONS:
        return f'"{format_duration(value)}"'
    plain = _plain(value)
    return "unset" if plain is None else json.dumps(plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


#: Every key with its value in an empty configuration.
_DEFAULTS = dict(_keys(PeerPolicy()))
