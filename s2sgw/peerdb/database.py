"""What the gateway remembers of its peers, on disk: one small SQLite file in the state directory.

Each part that remembers something defines its own tables here. Writes are small and rare (one or two for each handshake), in
WAL mode without a flush each: a killed gateway loses nothing, a power cut at most the last moments; what an operator decided
is flushed.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FILE = "peers.sqlite"
MEMORY = ":memory:"
DatabaseRow = tuple[Any, ...]


class DatabaseUnusable(Exception):
    """The file is there and cannot be used."""


class PeerDatabase:
    """The file. `complain` hears of a write that failed, where nobody waits for it."""

    def __init__(self, path: Path | str, complain: Callable[[str], None]) -> None:
        self._complain = complain
        self._failing = False
        try:
            if path != MEMORY:  # SQLite gives the files beside it the mode of the first one
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute("PRAGMA journal_size_limit=16777216")
        except (OSError, sqlite3.DatabaseError) as error:
            raise DatabaseUnusable(f"{path}: {error}; move it away to start without what it remembers of peers") from None

    def define(self, script: str) -> None:
        """Make tables that are not there yet."""
        self._database.executescript(script)

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[DatabaseRow]:
        """What a SELECT finds."""
        return self._database.execute(query, parameters).fetchall()

    def note(self, *statements: tuple[str, Sequence[Any]]) -> bool:
        """Write, all or nothing; where the disk will not have it, complain (once until it does) and go on."""
        try:
            self._write(statements)
        except sqlite3.DatabaseError as error:
            if not self._failing:
                self._complain(str(error))
            self._failing = True
            return False
        self._failing = False
        return True

    def decide(self, *statements: tuple[str, Sequence[Any]]) -> int:
        """Write what an operator decided and see it to the disk; how many rows the last statement touched. Raises `OSError`."""
        try:
            self._database.execute("PRAGMA synchronous=FULL")
            return self._write(statements)
        except sqlite3.DatabaseError as error:
            raise OSError(f"it could not be written down: {error}") from None
        finally:
            self._database.execute("PRAGMA synchronous=NORMAL")

    def _write(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> int:
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            touched = 0
            for statement, parameters in statements:
                touched = self._database.execute(statement, parameters).rowcount
        return touched

    def close(self) -> None:
        self._database.close()
