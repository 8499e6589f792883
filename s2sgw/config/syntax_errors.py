"""Help for a file that is not valid TOML, in words for the operator. The parser stops at the first such error."""

from __future__ import annotations

import re

_PLACE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)\Z")
_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?\Z")
_ASSIGNMENT = re.compile(r"""\s*([A-Za-z0-9_."'-]+)\s*=\s*(.*?)\s*(?:#.*)?\Z""")
#: A value without quotes that seems to be text: a word, a duration, a size, a path, an address.
_BARE_TEXT = re.compile(r"[A-Za-z0-9._/:%*@+-]+\Z")
#: Words of other languages for TOML's true and false, in small letters.
_TRUTH = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}


def syntax_complaint(text: str, error: str) -> str:
    """Return the error in `text`, beginning with its line. `error` is the parser's message."""
    found = _PLACE.search(error)
    message = error[: found.start()] if found else error
    lines = text.splitlines() or [""]
    number = int(found[1]) if found and found[1] else len(lines)
    return f"line {number}: {_words(lines, number, message)}"


def _words(lines: list[str], number: int, message: str) -> str:
    line = lines[number - 1] if number <= len(lines) else ""
    header, assignment = _HEADER.match(line), _ASSIGNMENT.match(line)
    if header is not None and (first := _first_header(lines, number, header[1])):
        return f"[{header[1]}] stands here a second time (first on line {first})"
    if assignment is not None and "overwrite" in message and (first := _first_assignment(lines, number, assignment[1])):
        return f"{assignment[1]} is set a second time (first on line {first})"
    if assignment is not None and (truth := _TRUTH.get(assignment[2].lower())) and truth != assignment[2]:
        return f"write {assignment[1]} = {truth}"
    unquoted = assignment is not None and _BARE_TEXT.match(assignment[2])
    if assignment is not None and unquoted and message.startswith(("Invalid value", "Expected newline")):
        return f'put the value in quotes: {assignment[1]} = "{assignment[2]}"'
    if message.startswith("Illegal character '\\n'"):
        return "a quote is not closed on this line"
    return f"is not valid TOML: {message}"


def _first_header(lines: list[str], number: int, name: str) -> int | None:
    """Return the number of the line before `number` that has the same header."""
    headers = ((at, _HEADER.match(line)) for at, line in enumerate(lines[: number - 1], 1))
    return next((at for at, header in headers if header is not None and header[1] == name), None)


def _first_assignment(lines: list[str], number: int, key: str) -> int | None:
    """Return the number of the line before `number` that sets the same key in the same section."""
    for at in range(number - 1, 0, -1):
        line = lines[at - 1]
        if line.lstrip().startswith("["):
            return None
        assignment = _ASSIGNMENT.match(line)
        if assignment is not None and assignment[1] == key:
            return at
    return None
