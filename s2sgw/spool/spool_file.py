"""The spool's file: opened, migrated to the newest schema, and set aside if it cannot be used.

A file of the newest schema is opened without a write, so a start succeeds on a full disk.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from s2sgw.spool.interface import SpoolBroken
from s2sgw.storage import atomic_file, sqlite_errors

#: The event that a commit survives: a loss of power (each commit is synced to the disk), or only a crash of the gateway.
Durability = Literal["power-loss", "crash"]
SYNCHRONOUS: dict[Durability, str] = {"power-loss": "FULL", "crash": "NORMAL"}

#: "S2SG": this file is a spool of s2sgw.
APPLICATION = 0x53325347
#: Kibibytes of pages in memory; pages of the log that are copied to the file at once; bytes that the log file may keep.
CACHE = 8192
CHECKPOINT = 4000
LOG = 64 * 1024 * 1024

_STANZA = (
    "kind TEXT NOT NULL, data BLOB NOT NULL, addressee TEXT NOT NULL, author TEXT NOT NULL, type TEXT, ident TEXT, "
    "payloads TEXT NOT NULL, accepted INTEGER NOT NULL, deadline INTEGER NOT NULL, written INTEGER NOT NULL"
)
_LAST = "(SELECT max(id) FROM stanza WHERE id > lane.id * 4398046511104 AND id < (lane.id + 1) * 4398046511104)"
#: Migration n brings a file of version n to version n + 1. New ones are added at the end. None is ever changed.
#:
#: Version 1: `stanza.id` is the number of the lane and the position in it (`tables.POSITIONS`), so that a lane is contiguous in
#: the file and needs no index. Times are microseconds since the epoch. `payloads` are joined by U+001F, which XML cannot hold;
#: U+001F alone says that they are long, and are read from `data` again (`tables.STORED_NAMES`).
#:
#: Version 2: checksums of each row, NULL in the rows of version 1. `note`: a position after all that were ever used
#: ("next position"), and the clock of the stored times ("clock", see `stored_time`).
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE lane (id INTEGER PRIMARY KEY, sender TEXT NOT NULL, recipient TEXT NOT NULL, "
        "count INTEGER NOT NULL, bytes INTEGER NOT NULL)",
        f"CREATE TABLE stanza (id INTEGER PRIMARY KEY, {_STANZA})",
        "CREATE INDEX stanza_deadline ON stanza (deadline)",
        "CREATE TABLE pen (number INTEGER PRIMARY KEY AUTOINCREMENT, sender TEXT NOT NULL, recipient TEXT NOT NULL, "
        f"position INTEGER NOT NULL, {_STANZA}, cause TEXT NOT NULL, at INTEGER NOT NULL)",
    ),
    (
        "ALTER TABLE lane ADD COLUMN check_sum INTEGER",
        "ALTER TABLE stanza ADD COLUMN content_sum INTEGER",
        "ALTER TABLE stanza ADD COLUMN envelope_sum INTEGER",
        "ALTER TABLE pen RENAME TO quarantine",
        "ALTER TABLE quarantine ADD COLUMN content_sum INTEGER",
        "ALTER TABLE quarantine ADD COLUMN envelope_sum INTEGER",
        "CREATE TABLE note (name TEXT PRIMARY KEY, value)",
        f"INSERT INTO note SELECT 'next position', coalesce(max({_LAST} % 4398046511104), 0) + 1 FROM lane",
    ),
)

#: Suffixes of SQLite's files beside the database.
COMPANIONS = ("-wal", "-shm")
#: Suffixes of a file that is being built as a replacement for a damaged one, and of a finished replacement.
NEW, BUILT = ".new", ".built"
TABLES = {"lane", "stanza", "quarantine", "note"}


class NoRoom(Exception):
    """The file does not exist or is empty, and there is no room for a new one on the disk."""


class NotASpool(Exception):
    """The file belongs to another program, or its tables are gone."""


class NewerVersion(Exception):
    """The file is sound, and was written by a newer version of s2sgw."""


def is_damage(error: Exception) -> bool:
    """Return whether `error` means that the content of the file is damaged."""
    return isinstance(error, NotASpool) or sqlite_errors.is_damage(error)


def open_database(path: Path, durability: Durability, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> sqlite3.Connection:
    """Open the spool at `path`. It is created (0600) if it does not exist.

    Raises `NewerVersion`; `NoRoom`; the errors of `is_damage`; or `SpoolBroken`, with its cause, if the file may be sound and
    cannot be opened now.
    """
    existed = path.exists()
    try:
        if not existed:
            _make(path)
        return _opened(path, durability, migrations)
    except (sqlite3.Error, OSError) as error:
        if is_damage(error):
            raise
        if sqlite_errors.may_pass(error) and (not path.exists() or not path.stat().st_size):
            raise NoRoom(f"{path} cannot be made: {error}") from None
        in_use = "; another gateway runs with this state" if sqlite_errors.is_in_use(error) else ""
        raise SpoolBroken(f"{path} cannot be {'opened' if existed else 'made'}: {error}{in_use}") from error


def _opened(path: Path, durability: Durability, migrations: Sequence[Sequence[str]]) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        connection.text_factory = bytes
        for setting in (
            "locking_mode=EXCLUSIVE", "journal_mode=WAL", f"synchronous={SYNCHRONOUS[durability]}", f"cache_size=-{CACHE}",
            f"wal_autocheckpoint={CHECKPOINT}", f"journal_size_limit={LOG}", "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {setting}").fetchall()
        if not _is_newest(connection, migrations):
            _migrate_or_say_why(connection, path, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def _make(path: Path) -> None:
    """Create the file. SQLite gives the files beside it the same mode."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    atomic_file.sync_directory(path.parent)


def _is_newest(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> bool:
    """Return whether the file has the newest schema. Raises `NotASpool` or `NewerVersion`."""
    (application,), (version,) = (connection.execute(f"PRAGMA {word}").fetchone() for word in ("application_id", "user_version"))
    tables = _tables(connection)
    if tables and application != APPLICATION:
        raise NotASpool("it is no spool of s2sgw")
    if version > len(migrations):
        raise NewerVersion(f"schema {version}; this version knows {len(migrations)}")
    if version < len(migrations):
        return False
    if not tables >= TABLES:
        raise NotASpool("its tables are gone")
    return True


def _migrate_or_say_why(connection: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]]) -> None:
    """Migrate the file to the newest schema. Raises `NoRoom` if it is still empty, and the disk has no room for the tables."""
    new = not _tables(connection)
    try:
        _migrate(connection, migrations)
    except sqlite3.Error as error:
        if new and sqlite_errors.may_pass(error):
            raise NoRoom(f"{path} cannot be made: {error}") from None
        raise


def _migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> None:
    """Migrate the file to the newest schema in one transaction. Raises `NotASpool`."""
    connection.execute("BEGIN IMMEDIATE")
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    for step in migrations[version:]:
        for statement in step:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id={APPLICATION}")
    connection.execute(f"PRAGMA user_version={len(migrations)}")
    if not _tables(connection) >= TABLES:
        raise NotASpool("its tables are gone")
    connection.execute("COMMIT")


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {name.decode() for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def begin_replacement(path: Path) -> Path:
    """Return the path for building a replacement of the file at `path`. The rest of an earlier try is removed."""
    new = path.with_name(path.name + NEW)
    for ending in ("", *COMPANIONS):
        new.with_name(new.name + ending).unlink(missing_ok=True)
    return new


def commit_replacement(path: Path) -> Path:
    """Put the finished replacement in the place of the file at `path`. Return the new path of the old file. Raises `OSError`.

    The first step decides. After a crash, `finish_replacement` does the remaining steps.
    """
    aside = _put_in_place(path)
    assert aside is not None
    return aside


def _put_in_place(path: Path) -> Path | None:
    new = path.with_name(path.name + NEW)
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.rename(path.with_name(path.name + BUILT))
    atomic_file.sync_directory(path.parent)
    return finish_replacement(path)


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of the file at `path`. None: there is no file. Raises `OSError` if that cannot be told."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def write_again(path: Path, copy: Callable[[Path], None]) -> None:
    """Put a copy of an open database at `path`, from which it was removed, also with its directory. `copy` writes it.

    Raises `OSError` or `sqlite3.Error`. A file that another program has put there stays.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, "another file is in its place", str(path))
    path.parent.mkdir(mode=0o700, exist_ok=True)
    new = begin_replacement(path)
    _make(new)
    try:
        copy(new)
    except BaseException:
        begin_replacement(path)  # the part of a copy takes no room
        raise
    _put_in_place(path)


def finish_replacement(path: Path) -> Path | None:
    """Finish a replacement that was decided. Return the new path of the old file; None: there is nothing to finish."""
    built = path.with_name(path.name + BUILT)
    if not built.exists():
        return None
    aside = None
    if any(path.with_name(path.name + ending).exists() for ending in ("", *COMPANIONS)):
        aside = atomic_file.set_aside(path, "damaged", COMPANIONS)
    built.rename(path)
    atomic_file.sync_directory(path.parent)
    return aside


def keep_for_newer(path: Path, why: str, report: Callable[[str], None]) -> None:
    """Rename a sound file that a newer version wrote (after a downgrade), and call `report`."""
    aside = atomic_file.set_aside(path, "newer", COMPANIONS)
    report(
        f"{path} was written by a newer version of s2sgw ({why}). It was set aside as {aside}, sound and whole, and an empty one "
        f"takes its place: nothing is lost, but this version does not deliver what it holds. To bring it back: stop s2sgw, move "
        f"{aside} to {path} (and {aside}-wal, if it is there, to {path}-wal), start the newer version"
    )
