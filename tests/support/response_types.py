"""The types of responses as JSON Schema, and a check that a response has its type."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

_PLAIN: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


def schema_of(type_: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a type. The schemas of its tables are added to `definitions`."""
    if type_ in _PLAIN:
        return {"type": _PLAIN[type_]}
    origin, inner = get_origin(type_), get_args(type_)
    if origin in (Union, UnionType):
        return {"anyOf": [schema_of(each, definitions) for each in inner]}
    if origin is list:
        return {"type": "array", "items": schema_of(inner[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(inner[1], definitions)}
    if is_typeddict(type_):
        if type_.__name__ not in definitions:
            definitions[type_.__name__] = {}
            fields = _fields(type_)
            definitions[type_.__name__] = {
                "type": "object", "description": (type_.__doc__ or "").partition("\n")[0] if type_.__doc__ != dict.__doc__ else "",
                "required": [key for key, (_, required) in fields.items() if required],
                "properties": {key: schema_of(field, definitions) for key, (field, _) in fields.items()},
            }
        return {"$ref": f"#/$defs/{type_.__name__}"}
    return {}


def mismatches(value: Any, type_: Any, place: str = "result") -> Iterator[str]:
    """Yield each difference between a response and its type, including keys that the type does not have."""
    origin, inner = get_origin(type_), get_args(type_)
    if origin in (Union, UnionType):
        if all(list(mismatches(value, each, place)) for each in inner):
            yield f"{place}: {value!r} is not {type_}"
    elif origin is list or origin is dict:
        if not isinstance(value, origin):
            yield f"{place}: {value!r} is not {type_}"
        else:
            rows = enumerate(value) if isinstance(value, list) else value.items()
            for key, each in rows:
                yield from mismatches(each, inner[-1], f"{place}[{key!r}]")
    elif is_typeddict(type_):
        yield from _table_mismatches(value, type_, place)
    elif type_ is not Any and not _is_plain(value, type_):
        yield f"{place}: {value!r} is not {type_}"


def _table_mismatches(value: Any, type_: Any, place: str) -> Iterator[str]:
    fields = _fields(type_)
    if not isinstance(value, dict):
        yield f"{place}: {value!r} is not {type_}"
        return
    required = {key for key, (_, is_required) in fields.items() if is_required}
    for key in sorted((required - set(value)) | (set(value) - set(fields))):
        yield f"{place}.{key}: {'is missing' if key in required else 'is not in the type'}"
    for key in set(value) & set(fields):
        yield from mismatches(value[key], fields[key][0], f"{place}.{key}")


def _is_plain(value: Any, type_: Any) -> bool:
    if type_ is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type_


def _fields(type_: Any) -> dict[str, tuple[Any, bool]]:
    """Return key -> its type, and whether the key is required."""
    hints = get_type_hints(type_, include_extras=True)
    return {key: (get_args(hint)[0], False) if get_origin(hint) is NotRequired else (hint, True) for key, hint in hints.items()}
