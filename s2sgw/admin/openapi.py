"""The OpenAPI document of the HTTP interface, made from the table of verbs (`admin.verb_table`)."""

from __future__ import annotations

from types import UnionType
from typing import Any, NotRequired, Required, get_args, get_origin, get_type_hints, is_typeddict

from s2sgw import __version__
from s2sgw.admin.verb_table import ROWS, VerbParameter, VerbRow

_KINDS: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "path": {"type": "string"},
    "flag": {"type": "boolean"},
    "count": {"type": "integer", "minimum": 1, "maximum": 100_000},
    "seconds": {"type": "number", "exclusiveMinimum": 0},
    "target": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"type": ["string", "integer"]}},
}
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_ERRORS = {
    "400": "The request is wrong.", "401": "Log in, or send a user and a password.", "403": "Your role does not allow this.",
    "409": "The gateway cannot do this now.", "503": "The gateway is busy, or did not answer in time.",
}


def document() -> dict[str, Any]:
    """Return the document."""
    schemas: dict[str, Any] = {"Error": {
        "type": "object", "required": ["error", "kind"], "additionalProperties": False,
        "properties": {"error": {"type": "string"}, "kind": {"enum": ["usage", "failed"]}},
    }}
    paths = {f"/api/v1/{row.path}": {"post" if row.changes else "get": _operation(row, schemas)} for row in ROWS}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "s2sgw", "version": __version__,
            "description": "The verbs of the s2sgw command. The admin socket needs no authentication. On the console's "
            "port a session or a user and a password is needed; changes need the role of an operator.",
        },
        "security": [{"password": []}, {"session": []}],
        "paths": {**paths, "/events": {"get": _events()}},
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "password": {"type": "http", "scheme": "basic"},
                "session": {"type": "apiKey", "in": "cookie", "name": "s2sgw"},
            },
        },
    }


def _operation(row: VerbRow, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": row.name.replace(" ", "_"), "summary": row.text,
        "x-role": "operator" if row.for_operators else "read-only",
        "responses": {
            "200": {"description": "The answer.", "content": {"application/json": {"schema": schema(row.answer, schemas)}}},
            **{status: _error(text) for status, text in _ERRORS.items()},
        },
    }
    if row.changes:
        operation["requestBody"] = _body(row)
    else:
        operation["parameters"] = [_in_query(each) for each in row.parameters]
    return operation


def _body(row: VerbRow) -> dict[str, Any]:
    required = [each.name for each in row.parameters if each.required]
    properties = {each.name: {**_KINDS[each.kind], "description": each.text} for each in row.parameters}
    described = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"required": bool(required), "content": {"application/json": {"schema": described}}}


def _in_query(parameter: VerbParameter) -> dict[str, Any]:
    return {
        "name": parameter.name, "in": "query", "required": parameter.required, "description": parameter.text,
        "schema": _KINDS[parameter.kind],
    }


def _events() -> dict[str, Any]:
    return {
        "operationId": "watch", "summary": "Events as they happen, as server-sent events.", "x-role": "read-only",
        "parameters": [
            {"name": "peer", "in": "query", "required": False, "description": "Only this peer.", "schema": {"type": "string"}},
            {
                "name": "here", "in": "query", "required": False, "description": "This node of a cluster alone.",
                "schema": {"type": "boolean"},
            },
        ],
        "responses": {
            "200": {"description": 'Each event is a JSON object with "at" and "event".', "content": {"text/event-stream": {}}},
            **{status: _error(text) for status, text in _ERRORS.items() if status != "409"},
        },
    }


def _error(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}


def schema(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a type; a TypedDict gets its entry in `schemas`."""
    if kind is Any:
        return {}
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if is_typeddict(kind):
        if kind.__name__ not in schemas:
            schemas[kind.__name__] = {}
            schemas[kind.__name__] = _object(kind, schemas)
        return {"$ref": f"#/components/schemas/{kind.__name__}"}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list:
        return {"type": "array", "items": schema(arguments[0], schemas)}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema(arguments[1], schemas)}
    if origin in (NotRequired, Required):
        return schema(arguments[0], schemas)
    if isinstance(kind, UnionType):
        return {"anyOf": [schema(each, schemas) for each in arguments]}
    raise TypeError(f"no schema for {kind}")


def _object(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    optional = {name for name, hint in hints.items() if get_origin(hint) is NotRequired}
    return {
        "type": "object", "description": (kind.__doc__ or "").partition("\n")[0],
        "properties": {name: schema(hint, schemas) for name, hint in hints.items()},
        "required": [name for name in hints if name not in optional], "additionalProperties": False,
    }
