"""The audit log: one JSON line for each change by an operator, a reload or a refreshed list. Lines are only added.

    {"time": "2026-11-20T13:04:44.123Z", "action": "reload", "by": "SIGHUP", "changes": […]}

The file is opened anew for each line, so that it can be moved aside (logrotate) while the gateway runs.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from s2sgw.storage.atomic_file import is_disk_full, sync_directory
from s2sgw.xmpp.wall_clock import WallClock, date_of

FILE = "audit.log"
#: Bounds of one line: items of a list or a table, characters of a text. The rest is left out, and the line says so.
ITEMS = 1000
CHARACTERS = 2000


class AuditLog:
    """Writes `<state>/audit.log` (0600)."""

    log = Logger()

    def __init__(self, state: Path, clock: WallClock) -> None:
        self.path = state / FILE
        self._clock = clock

    def note(self, action: str, **facts: object) -> None:
        """Add one line, and sync it to the disk. Raises `OSError`: a change that cannot be recorded should not be made."""
        self.add(self.line(action, **facts))

    def line(self, action: str, **facts: object) -> bytes:
        """Return one line with the time of now. A long one takes a while; it may be made in another thread."""
        noted = {key: plain(value) for key, value in facts.items()}
        return json.dumps({"time": _time(date_of(self._clock)), "action": action, **noted}).encode("ascii") + b"\n"

    def add(self, line: bytes) -> None:
        """Add one line, and sync it to the disk. Raises `OSError`."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        new = not self.path.exists()
        descriptor = os.open(self.path, flags, 0o600)
        try:
            _write(descriptor, line)
        finally:
            os.close(descriptor)
        if new:
            sync_directory(self.path.parent)

    def note_or_log(self, action: str, **facts: object) -> None:
        """Do as `note`.

        If the disk is full, write the facts to the log: for changes that must be possible then. Raises other `OSError`.
        """
        try:
            self.note(action, **facts)
        except OSError as error:
            if not is_disk_full(error):
                raise
            noted: dict[str, Any] = {key: plain(value) for key, value in facts.items()}
            self.log.critical(event="not in the audit log", action=action, **noted, detail=str(error))


def plain(value: object) -> object:
    """Return `value` as JSON can express it, within the bounds. Other values become text."""
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


def _time(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _write(descriptor: int, line: bytes) -> None:
    """Write the whole line or none of it: a line that does not fit on the disk is cut off again."""
    size = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, "no room for the whole line")
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise
