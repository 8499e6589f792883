"""A spool's file for tests: opened as often as needed, copied as after a kill, and damaged."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

from s2sgw.spool.sqlite_spool import SQLiteSpool
from tests.support.spool_contract import Asking


class File:
    """A spool's file, opened as often as needed."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.reports: list[str] = []

    def open(self, **options: Any) -> Asking:
        return Asking(lambda deliver: SQLiteSpool(self.path, 1 << 26, deliver, report=self.reports.append, **options))

    def after_a_kill(self) -> File:
        """Return the file as after a kill of the gateway, while the gateway continues."""
        copy = File(f"{self.path}-killed")
        for suffix in ("", "-wal"):
            if Path(f"{self.path}{suffix}").exists():
                shutil.copy(f"{self.path}{suffix}", f"{copy.path}{suffix}")
        return copy

    @property
    def aside(self) -> list[str]:
        return sorted(each.name.removeprefix(self.path.name) for each in self.path.parent.glob(f"{self.path.name}.damaged-*"))


def connection_of(it: Asking) -> sqlite3.Connection:
    """Return the writer's own connection, for faults. The writer is idle after its answer."""
    assert isinstance(it.spool, SQLiteSpool)
    assert it.spool._tables is not None
    return it.spool._tables._connection
