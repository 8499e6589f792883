"""The file that holds the secret shared with a peer (R26)."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from s2sgw.sasl.scram_secret import prepare
from s2sgw.storage.regular_file import open_regular

#: The most bytes of such a file.
LARGEST = 4096


def read_secret(path: Path) -> str:
    """Return the secret in the file, without a trailing newline. Raises `OSError`, or `ValueError` if it is not usable."""
    try:
        opened = open_regular(path)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise ValueError("is no regular file") from None
        raise
    with opened as file:
        mode = os.fstat(file.fileno()).st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ValueError("is readable or writable by other users (its mode must be 0600)")
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"is longer than {LARGEST} bytes")
    text = data.decode().rstrip("\r\n")
    prepare(text)
    return text
