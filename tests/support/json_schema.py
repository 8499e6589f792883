"""A check of a JSON value against the part of JSON Schema that the OpenAPI document uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "null": (type(None),), "array": (list,),
    "object": (dict,),
}


def faults(value: Any, schema: dict[str, Any], document: dict[str, Any], at: str = "$") -> Iterator[str]:
    """Yield the faults of `value`; `$ref` is looked up in `document`."""
    if "$ref" in schema:
        yield from faults(value, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document, at)
    elif "anyOf" in schema:
        if all(list(faults(value, each, document, at)) for each in schema["anyOf"]):
            yield f"{at}: {value!r} is none of {schema['anyOf']}"
    elif "enum" in schema:
        if value not in schema["enum"]:
            yield f"{at}: {value!r} is not one of {schema['enum']}"
    elif "type" in schema:
        yield from _typed(value, schema, document, at)


def _typed(value: Any, schema: dict[str, Any], document: dict[str, Any], at: str) -> Iterator[str]:
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool)) for kind in kinds):
        yield f"{at}: {value!r} is no {kinds}"
    elif isinstance(value, dict):
        properties = schema.get("properties", {})
        yield from (f"{at}: has no {name}" for name in schema.get("required", ()) if name not in value)
        for name, item in value.items():
            inner = properties.get(name, schema.get("additionalProperties", {}))
            if inner is False:
                yield f"{at}: has {name}, which the document does not have"
            else:
                yield from faults(item, inner, document, f"{at}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from faults(item, schema.get("items", {}), document, f"{at}[{index}]")
