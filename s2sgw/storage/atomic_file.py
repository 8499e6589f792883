"""Files that are written whole or not at all, readable for their owner only, and synced to the disk."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Give the file at `path` the content `data`. After a crash it holds the old content or the new, never a part.

    The content is written to a file beside it, synced, and renamed; then the directory is synced. A file that root writes belongs
    to the owner of the directory: the gateway can read what `s2sgw` wrote as root. Raises `OSError`. Then the old file is as it
    was, unless only the directory could not be synced.
    """
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            if os.geteuid() == 0:
                owner = path.parent.stat()
                with suppress(PermissionError):  # root without CAP_CHOWN
                    os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
    sync_directory(path.parent)


def is_disk_full(error: OSError) -> bool:
    """Return whether a file could not be written because the disk is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable, so that they survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(path: Path, word: str, companions: tuple[str, ...] = ()) -> Path:
    """Rename a file to the first free name with `word` and a number, and return it: "held.json" to "held.json.damaged-1".

    `companions` are endings of files that belong to it and go with it. Raises `OSError`.
    """
    number = 1
    while any(_with_ending(_numbered(path, word, number), ending).exists() for ending in ("", *companions)):
        number += 1
    aside = _numbered(path, word, number)
    for ending in (*companions, ""):
        beside = _with_ending(path, ending)
        if beside.exists():
            beside.rename(_with_ending(aside, ending))
    sync_directory(path.parent)
    return aside


def keep_copy(path: Path, word: str) -> Path:
    """Copy a file to the first free name with `word` and a number, for its owner alone, and return that. Raises `OSError`."""
    number = 1
    while (copy := _numbered(path, word, number)).exists():
        number += 1
    write_atomically(copy, path.read_bytes())
    return copy


def _numbered(path: Path, word: str, number: int) -> Path:
    return path.with_name(f"{path.name}.{word}-{number}")


def _with_ending(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
