"""The audit log: one JSON line for each change that an operator, a reload or a refreshed list made. Lines are only added.

    {"time": "2026-11-20T13:04:44.123Z", "action": "reload", "by": "SIGHUP", "changes": […]}

The file is opened anew for each line, so that it may be moved aside (logrotate) while the gateway runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from s2sgw.storage.atomic_file import sync_directory

FILE = "audit.log"
#: Bounds of one line: items of a list or a table, characters of a text. What is beyond is left out, and the line says so.
ITEMS = 1000
CHARACTERS = 2000


class AuditLog:
    """Writes `<state>/audit.log` (0600). `now` tells the seconds since the epoch."""

    def __init__(self, state: Path, now: Callable[[], float]) -> None:
        self.path = state / FILE
        self._now = now

    def note(self, action: str, **facts: object) -> None:
        """Add one line, and sync it to the disk. Raises `OSError`: a change that cannot be noted should not be made."""
        line = json.dumps({"time": _time(self._now()), "action": action, **{key: plain(value) for key, value in facts.items()}})
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        new = not self.path.exists()
        descriptor = os.open(self.path, flags, 0o600)
        try:
            _write(descriptor, line.encode("ascii") + b"\n")
        finally:
            os.close(descriptor)
        if new:
            sync_directory(self.path.parent)


def plain(value: object) -> object:
    """Return `value` as JSON can hold it, within the bounds. What JSON does not know becomes text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        kept = {str(key): plain(item) for key, item in list(value.items())[:ITEMS]}
        return kept if len(value) <= ITEMS else {**kept, "…": f"{len(value) - ITEMS} more"}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        more = [f"… {len(items) - ITEMS} more"] if len(items) > ITEMS else []
        return [plain(item) for item in items[:ITEMS]] + more
    text = str(value)
    return text if len(text) <= CHARACTERS else text[:CHARACTERS] + "…"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _write(descriptor: int, line: bytes) -> None:
    """Write the whole line or none of it: a line that the disk has no room for is cut off again."""
    size = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError("no room for the whole line")
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise
