"""Complaints about a configuration: the key, the line where it stands, what is wrong and what was perhaps meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

KeyPath = tuple[str | int, ...]

#: sorts after every line
_NO_LINE = 1 << 31
_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")
_KEY_PART = r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'"""
_KEY = rf"(?:{_KEY_PART})(?:\s*\.\s*(?:{_KEY_PART}))*"
_ARRAY_TABLE = re.compile(rf"\s*\[\[\s*({_KEY})\s*\]\]")
_TABLE = re.compile(rf"\s*\[\s*({_KEY})\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_KEY})\s*=")


class Complaint(NamedTuple):
    """What is wrong with the key at `path`; (): with the file."""

    path: KeyPath
    text: str


class ConfigError(Exception):
    """A configuration that cannot be used: `complaints` lists everything that is wrong with it, a line of text each.

    `certificates`: the folder that it names all the same, so that what is wrong in there can be told in the same breath.
    """

    def __init__(self, path: Path, complaints: Sequence[str], certificates: Path | None = None) -> None:
        super().__init__(f"{path} cannot be used:\n" + "\n".join(f"  {each}" for each in complaints))
        self.path = path
        self.complaints = list(complaints)
        self.certificates = certificates


class TOMLSource:
    """Where each key stands in a TOML text; a key inside an inline table is found by the table that holds it."""

    def __init__(self, text: str) -> None:
        self._lines: dict[KeyPath, int] = {}
        self._tables: dict[KeyPath, int] = {}
        self._at: KeyPath = ()
        quoted = False
        for number, line in enumerate(text.splitlines(), 1):
            if not quoted:
                self._read(line, number)
            quoted ^= (line.count('"""') + line.count("'''")) % 2 == 1

    def line(self, path: KeyPath) -> int | None:
        """The line of `path`, or of the nearest table or array around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._lines:
                return self._lines[path[:length]]
        return None

    def tell(self, complaint: Complaint) -> str:
        """The complaint as one line for the operator."""
        line = self.line(complaint.path)
        where = f"line {line}: " if line is not None else ""
        key = f"{key_text(complaint.path)}: " if complaint.path else ""
        return where + key + complaint.text

    def order(self, complaint: Complaint) -> tuple[int, str]:
        """Complaints in the order of the file, those with no line at the end."""
        return self.line(complaint.path) or _NO_LINE, key_text(complaint.path)

    def _read(self, line: str, number: int) -> None:
        if found := _ARRAY_TABLE.match(line):
            name = _parts(found[1])
            index = self._tables[name] = self._tables.get(name, -1) + 1
            self._at = (*name, index)
        elif found := _TABLE.match(line):
            self._at = _parts(found[1])
        elif found := _ASSIGNMENT.match(line):
            self._lines.setdefault((*self._at, *_parts(found[1])), number)
            return
        else:
            return
        self._lines.setdefault(self._at, number)


def key_text(path: KeyPath) -> str:
    """A key as TOML spells it: peers."friend.example".tls, listen[0].endpoint."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.match(part) else f'"{part}"')
    return text


def suggest(word: str, known: Iterable[str]) -> str:
    """A suggestion for a misspelt word, or what words there are."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, 1, 0.6)
    return f'did you mean "{close[0]}"?' if close else f"known here: {', '.join(words)}"


def translate(error: Mapping[str, Any], known: Iterable[str]) -> str:
    """A finding of pydantic in words for the operator; `known` are the keys that there are beside the one complained of."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"there is no such key; {suggest(str(error['loc'][-1]), known)}"
    if kind == "literal_error":
        expected = str(context["expected"]).replace("'", '"')
        return f"must be {expected}, not {value_text(value)}"
    if kind == "greater_than_equal":
        return f"must be at least {context['ge']}, not {value_text(value)}"
    if kind == "value_error":
        return str(context["error"])
    return _WORDS.get(kind) or error["msg"]


_WORDS = {
    "missing": "is missing",
    "too_short": "must not be empty",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "tuple_type": "must be an array, as in [\"…\"]",
    "dict_type": "must be a table",
    "model_type": "must be a table",
}


def value_text(value: object) -> str:
    """A value as TOML spells it, cut short."""
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _parts(key: str) -> tuple[str, ...]:
    return tuple(re.sub(r"\\(.)", r"\1", part[1:-1]) if part[0] in "\"'" else part for part in re.findall(_KEY_PART, key))
