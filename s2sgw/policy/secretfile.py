"""The file that holds the secret shared with a peer (R26)."""

from __future__ import annotations

from pathlib import Path

from s2sgw.stream.secret import prepare

#: Bytes of such a file.
LARGEST = 4096


def read_secret(path: Path) -> str:
    """Its text without the line break at the end. Raises `OSError`, or `ValueError` where that is no secret."""
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"is longer than {LARGEST} bytes")
    text = data.decode().rstrip("\r\n")
    prepare(text)
    return text
