"""The engine's answer that names subjects with their numbers of records, read in steps: it may name 100,000 of them.

`json.loads` would take longer than a turn of the reactor may. Its decoder reads one subject, or one number, at a time here.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

#: Subjects that are read in one step.
AT_ONCE = 500

_BEGIN = '"subjects":{'
_DECODER = json.JSONDecoder()


def read_counts(data: bytes) -> Generator[None, None, Any]:
    """Return the work of reading an answer, whose result is that of `json.loads`. Raises `ValueError`."""
    text = data.decode()
    begin = text.find(_BEGIN) + len(_BEGIN)
    if begin < len(_BEGIN):
        return json.loads(text)
    counts: dict[str, int] = {}
    try:
        end = yield from _read(text, begin, counts)
        content = json.loads(text[:begin] + text[end:])
        if content["state"]["subjects"] == {}:
            content["state"]["subjects"] = counts
            return content
    except (ValueError, KeyError, TypeError):
        pass
    return json.loads(text)  # it is written in another way


def _read(text: str, at: int, counts: dict[str, int]) -> Generator[None, None, int]:
    """Return the work of reading the members of an object that begins before `at`. The result is where it ends."""
    while text[at : at + 1] != "}":
        if counts and text[at : at + 1] != ",":
            raise ValueError("no comma")
        subject, at = _DECODER.raw_decode(text, at + bool(counts))
        if not isinstance(subject, str) or text[at : at + 1] != ":":
            raise ValueError("no name and colon")
        counts[subject], at = _DECODER.raw_decode(text, at + 1)
        if len(counts) % AT_ONCE == 0:
            yield
    return at
