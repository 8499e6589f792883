"""The contract's keys that this version cannot honour yet. The one place to change when one of them begins to work.

A key or a value listed here is refused in words, so that no configuration asks for what is not done. A value that asks
for exactly what this version does anyway (`neutral`) is let through.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from s2sgw.config.complaints import Complaint, KeyPath

#: any key, or any index of an array
ANY = "*"


class LaterKey(NamedTuple):
    """A key that no model knows yet."""

    path: tuple[str, ...]
    what: str
    neutral: tuple[object, ...] = ()


class LaterValue(NamedTuple):
    """A key that works, and values of it that do not yet."""

    path: tuple[str, ...]
    values: tuple[object, ...]


KEYS = (
    LaterKey(("peers", ANY, "secret_file"), "shared secrets (SCRAM)"),
)

VALUES: tuple[LaterValue, ...] = ()


def refuse(tree: dict[str, Any]) -> list[Complaint]:
    """What `tree` asks for that is still to come. Takes all of it out of `tree`, neutral values too."""
    complaints = []
    for key in KEYS:
        for path, table in list(_holders(tree, key.path)):
            value = table.pop(str(path[-1]))
            if value not in key.neutral:
                complaints.append(Complaint(path, f"is not in this version yet ({key.what})"))
    for row in VALUES:
        for path, table in list(_holders(tree, row.path)):
            if table[str(path[-1])] in row.values:
                complaints.append(Complaint(path, f'"{table.pop(str(path[-1]))}" is not in this version yet'))
    return complaints


def _holders(tree: Any, pattern: tuple[str, ...], at: KeyPath = ()) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Every table that holds the last key of `pattern`, with that key's path."""
    step, rest = pattern[0], pattern[1:]
    for key in _steps(tree, step):
        if rest:
            yield from _holders(tree[key], rest, (*at, key))
        else:
            yield (*at, key), tree


def _steps(tree: Any, step: str) -> list[Any]:
    if isinstance(tree, list):
        return list(range(len(tree))) if step == ANY else []
    if not isinstance(tree, dict):
        return []
    return list(tree) if step == ANY else [step] if step in tree else []
