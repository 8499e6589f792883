"""The two JSON Schemas of the package, made from the code and docs/configuration.md.

python -m tests.support.schemas        writes them
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from s2sgw.admin.responses import RESPONSES
from s2sgw.cli.schema import CONFIGURATION
from s2sgw.cli.schema import RESPONSES as RESPONSES_FILE
from s2sgw.config.schema import DIALECT, configuration_schema
from tests.support.response_types import schema_of

ROOT = Path(__file__).parents[2]
DATA = ROOT / "s2sgw" / "cli" / "data"
_SECTION = re.compile(r"^#+ `\[+([a-z]+)", re.MULTILINE)
_ROW = re.compile(r"^\| ((?:`[a-z_.]+`(?:, )?)+) \| [^|]* \| (.*) \|$", re.MULTILINE)


def descriptions() -> dict[str, str]:
    """Return section.key -> its text in docs/configuration.md, without Markdown."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    found: dict[str, str] = {}
    for part in re.split(r"(?=^## )", text, flags=re.MULTILINE):
        section = _SECTION.search(part)
        for keys, meaning in _ROW.findall(part) if section else ():
            for key in re.findall(r"`([a-z_.]+)`", keys):
                found.setdefault(f"{section[1]}.{key}", _plain(meaning))  # type: ignore[index]
    return found


def _plain(text: str) -> str:
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "").replace("\\|", "|").strip()


def response_schema() -> dict[str, Any]:
    """Return the schema of the verbs' results, and of the output of the command with --json-v1."""
    definitions: dict[str, Any] = {}
    verbs = {verb: schema_of(type_, definitions) for verb, type_ in RESPONSES.items()}
    error = {
        "type": "object", "required": ["version", "ok", "error", "kind", "status"],
        "properties": {
            "version": {"const": 1}, "ok": {"const": False}, "error": {"type": "string"}, "status": {"type": "integer", "minimum": 1, "maximum": 4},
            "kind": {"enum": ["usage", "configuration", "failed", "denied", "internal", "not-running", "no-answer"]},
        },
    }
    result = {
        "type": "object", "required": ["version", "ok", "result"], "properties": {"version": {"const": 1}, "ok": {"const": True}, "result": {}},
    }
    return {
        "$schema": DIALECT, "title": "What s2sgw prints with --json-v1", "anyOf": [result, error],
        "$comment": "`result` is by the verb: see $defs/verbs. --json prints it alone. Keys may be added within a version.",
        "$defs": {"verbs": verbs, **definitions},
    }


def files() -> dict[Path, str]:
    """Return path -> text of both schemas."""
    schemas = {CONFIGURATION: configuration_schema(descriptions()), RESPONSES_FILE: response_schema()}
    return {DATA / name: json.dumps(schema, indent=1, ensure_ascii=False) + "\n" for name, schema in schemas.items()}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, "utf-8")
