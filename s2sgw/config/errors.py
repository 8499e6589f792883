"""Errors of a configuration: the key, its line, the fault, and a suggestion."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from s2sgw.xmpp.jid import Domain

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
    """The fault of the key at `path`, or of the file if `path` is ()."""

    path: KeyPath
    text: str


class ConfigError(Exception):
    """The configuration cannot be used. `complaints` lists all errors, one line of text each.

    `certificates` and `domains`: the folder and the domains that it still names, so that certificates can be checked too.
    """

    def __init__(
        self, path: Path, complaints: Sequence[str], certificates: Path | None = None, domains: Sequence[Domain] = (),
    ) -> None:
        super().__init__(f"{path} cannot be used:\n" + "\n".join(f"  {each}" for each in complaints))
        self.path = path
        self.complaints = list(complaints)
        self.certificates = certificates
        self.domains = tuple(domains)


class TOMLSource:
    """The line of each key of a TOML text. A key in an inline table has the line of that table."""

    def __init__(self, text: str) -> None:
        self._lines: dict[KeyPath, int] = {}
        self._tables: dict[KeyPath, int] = {}
        #: tables without a header of their own -> the line of the first header inside
        self._inside: dict[KeyPath, int] = {}
        self._at: KeyPath = ()
        quoted = False
        for number, line in enumerate(text.splitlines(), 1):
            if not quoted:
                self._read(line, number)
            quoted ^= (line.count('"""') + line.count("'''")) % 2 == 1

    def line(self, path: KeyPath) -> int | None:
        """Return the line of `path`, or of the nearest table or array around it."""
        if path not in self._lines and path in self._inside:
            return self._inside[path]
        for length in range(len(path), 0, -1):
            if path[:length] in self._lines:
                return self._lines[path[:length]]
        return None

    def exact_line(self, path: KeyPath) -> int | None:
        """Return the line of `path` itself, or None if the text does not set it."""
        return self._lines.get(path)

    def tell(self, complaint: Complaint) -> str:
        """Return the error as one line for the operator."""
        line = self.line(complaint.path)
        where = f"line {line}: " if line is not None else ""
        key = f"{key_text(complaint.path)}: " if complaint.path else ""
        return where + key + complaint.text

    def order(self, complaint: Complaint) -> tuple[int, str]:
        """Return the key that sorts errors by line. Those without a line come last."""
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
        for length in range(1, len(self._at)):
            self._inside.setdefault(self._at[:length], number)


def key_text(path: KeyPath) -> str:
    """Return a key in TOML's spelling: peers."friend.example".tls, listen[0].endpoint."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.match(part) else f'"{part}"')
    return text


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a suggestion for a misspelt word, or the list of known words."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, 1, 0.6)
    return f'did you mean "{close[0]}"?' if close else f"known here: {', '.join(words)}"


def translate(error: Mapping[str, Any], known: Iterable[str]) -> str:
    """Return a finding of pydantic in words for the operator. `known`: the possible keys in this place."""
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
    """Return a value in TOML's spelling, at most 60 characters."""
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _parts(key: str) -> tuple[str, ...]:
    return tuple(re.sub(r"\\(.)", r"\1", part[1:-1]) if part[0] in "\"'" else part for part in re.findall(_KEY_PART, key))
