"""Write TOML, as far as an s2sgw.toml needs it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(str(value))


def _key(key: str) -> str:
    return key if key.replace("_", "").isalnum() else json.dumps(key)


def _table(name: str, table: Mapping[str, Any], brackets: tuple[str, str]) -> Iterator[str]:
    yield f"{brackets[0]}{name}{brackets[1]}"
    inner = {key: value for key, value in table.items() if key == "static" or name == "peers"}
    yield from (f"{_key(key)} = {_value(value)}" for key, value in table.items() if key not in inner)
    yield ""
    for key, value in inner.items():
        yield from _table(f"{name}.{_key(key)}", value, ("[", "]"))


def dumps(document: Mapping[str, Any]) -> str:
    """Return `document` as TOML. Sections are mappings, `[[…]]` sections are lists of mappings."""
    lines: list[str] = []
    for name, section in document.items():
        if isinstance(section, list):
            for table in section:
                lines += _table(name, table, ("[[", "]]"))
        else:
            lines += _table(name, section, ("[", "]"))
    return "\n".join(lines)
