"""The JSON Schema of the configuration file, for editors (completion, hover) and for checks without s2sgw.

Texts such as durations and addresses have a pattern that is a little wider than what `s2sgw check` accepts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from s2sgw.config.effective import DURATIONS, as_written
from s2sgw.config.loading import REPEATED, SECTIONS
from s2sgw.policy import values

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DURATION = {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)$"}
_SIZE = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(B|kB|KiB|MB|MiB|GB|GiB)$"}]}
#: The schema of the result of a parsing function. Any other result is text.
_PARSED: dict[object, JsonSchemaValue] = {
    **dict.fromkeys(DURATIONS, _DURATION), values.parse_size: _SIZE,
    values.parse_share: {"type": "string", "pattern": r"^\d{1,3}(\.\d{1,3})?\s*%$"},
}


class ConfigurationSchema(GenerateJsonSchema):
    """Knows the file's form of values that the models hold as numbers and objects."""

    def function_plain_schema(self, schema: Any) -> JsonSchemaValue:
        return dict(_PARSED.get(schema["function"]["function"], {"type": "string"}))

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        if "default" not in schema or schema["default"] is None:
            return inner
        return {**inner, "default": as_written(schema["default"], _parser(schema["schema"]))}

    def tuple_schema(self, schema: Any) -> JsonSchemaValue:
        return {**super().tuple_schema(schema), "type": "array"}

    def nullable_schema(self, schema: Any) -> JsonSchemaValue:
        """Return the schema of a key that may be absent: it cannot be null in TOML."""
        return self.generate_inner(schema["schema"])


def _parser(schema: Any) -> object:
    """Return the function that parses a value, within constraints on it."""
    while schema["type"] != "function-plain" and "schema" in schema:
        schema = schema["schema"]
    return schema["function"]["function"] if schema["type"] == "function-plain" else None


def configuration_schema(descriptions: Mapping[str, str]) -> dict[str, Any]:
    """Return the schema. `descriptions` has a text for some keys, by section and key ("queue.hold")."""
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    for name, type_ in SECTIONS.items():
        schema = _plain(TypeAdapter(type_).json_schema(schema_generator=ConfigurationSchema))
        definitions |= schema.pop("$defs", {})
        _describe(schema, name, descriptions)
        properties[name] = {"anyOf": [schema, schema["items"]]} if name in REPEATED else schema
    for definition, section in (("Listener", "listen"), ("Backend", "backend"), ("PeerObject", "peers")):
        _describe(definitions[definition], section, descriptions)
    schema = {
        "$schema": DIALECT, "title": "s2sgw.toml", "type": "object", "additionalProperties": False, "required": ["gateway"],
        "properties": properties, "$defs": definitions,
    }
    result: dict[str, Any] = json.loads(json.dumps(schema))
    return result


def _plain(schema: Any) -> Any:
    """Return a schema without pydantic's additions: titles, the docstrings of classes, constraints in its own words."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _plain(each) for name, each in value.items()} if key in ("properties", "$defs") else _plain(value)
        for key, value in schema.items()
        if key not in ("title", "ge", "description")
    }


def _describe(table: dict[str, Any], section: str, descriptions: Mapping[str, str]) -> None:
    for key, schema in table.get("properties", {}).items():
        text = descriptions.get(f"{section}.{key}")
        if text:
            schema["description"] = text
