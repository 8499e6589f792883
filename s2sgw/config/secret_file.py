"""The file that holds the secret shared with a peer (R26)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from s2sgw.sasl.scram_secret import prepare

#: The most bytes of such a file.
LARGEST = 4096


def read_secret(path: Path) -> str:
    """Return the secret in the file, without a trailing newline. Raises `OSError`, or `ValueError` if it is not usable."""
    with open(path, "rb", opener=_open_at_once) as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("is no regular file")
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ValueError("is readable or writable by other users (its mode must be 0600)")
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"is longer than {LARGEST} bytes")
    text = data.decode().rstrip("\r\n")
    prepare(text)
    return text


def _open_at_once(path: str, flags: int) -> int:
    """Open a file. If it is a FIFO, do not wait for its writer: there may be none."""
    return os.open(path, flags | os.O_NONBLOCK)
