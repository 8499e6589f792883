"""The spool's file: opened, brought to the newest schema, and set aside where it is damaged."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from s2sgw.spool.interface import SpoolBroken

#: What a commit survives: the loss of power (a full sync each), or the crash of the gateway alone.
Durability = Literal["power-loss", "crash"]
SYNCHRONOUS: dict[Durability, str] = {"power-loss": "FULL", "crash": "NORMAL"}

#: "S2SG": this file is a spool of ours.
APPLICATION = 0x53325347
#: Kibibytes of pages in memory; pages of the log that are copied home at once; bytes that the log's file may keep.
CACHE = 8192
CHECKPOINT = 4000
LOG = 64 * 1024 * 1024

_STANZA = (
    "kind TEXT NOT NULL, data BLOB NOT NULL, addressee TEXT NOT NULL, author TEXT NOT NULL, type TEXT, ident TEXT, "
    "payloads TEXT NOT NULL, accepted INTEGER NOT NULL, deadline INTEGER NOT NULL, written INTEGER NOT NULL"
)
#: The n-th brings a file of version n to version n + 1. A new one is added at the end; none is ever changed.
#:
#: `stanza.id` is the lane's number and the position in it (`ledger.POSITIONS`), so that a lane stands together in the file and
#: needs no index. Times are microseconds since the epoch. `payloads` are joined by U+001F, which XML cannot hold.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE lane (id INTEGER PRIMARY KEY, sender TEXT NOT NULL, recipient TEXT NOT NULL, "
        "count INTEGER NOT NULL, bytes INTEGER NOT NULL)",
        f"CREATE TABLE stanza (id INTEGER PRIMARY KEY, {_STANZA})",
        "CREATE INDEX stanza_deadline ON stanza (deadline)",
        "CREATE TABLE pen (number INTEGER PRIMARY KEY AUTOINCREMENT, sender TEXT NOT NULL, recipient TEXT NOT NULL, "
        f"position INTEGER NOT NULL, {_STANZA}, cause TEXT NOT NULL, at INTEGER NOT NULL)",
    ),
)

#: SQLite's words for a file whose content is not what was written. Anything else may pass: a full disk, a lock, a bad cable.
DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
TABLES = {"lane", "stanza", "pen"}


def is_damage(error: Exception) -> bool:
    """Whether `error` tells that the file is damaged."""
    return isinstance(error, sqlite3.Error) and code(error) in DAMAGE


def code(error: Exception) -> int:
    """SQLite's primary result code (0: the error is Python's own)."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def open_database(
    path: Path, durability: Durability, report: Callable[[str], None], migrations: Sequence[Sequence[str]] = MIGRATIONS,
) -> sqlite3.Connection:
    """The spool at `path`, made (0600) if absent. A damaged one, or one of a newer version, is renamed, which `report` is told,
    and a new one begun.

    Raises `SpoolBroken` where the file is sound but cannot be opened, or none can be made.
    """
    try:
        return _opened(path, durability, migrations)
    except _Newer as newer:
        keep_for_newer(path, str(newer), report)
    except (sqlite3.Error, _NotASpool, OSError) as error:
        if not isinstance(error, _NotASpool) and not is_damage(error):
            busy = code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            in_use = "; another gateway runs with this state" if busy else ""
            raise SpoolBroken(f"{path} cannot be opened: {error}{in_use}") from None
        set_aside(path, str(error), report)
    try:
        return _opened(path, durability, migrations)
    except (sqlite3.Error, OSError) as error:
        raise SpoolBroken(f"{path} cannot be made: {error}") from None


class _NotASpool(Exception):
    """A file that is no spool."""


class _Newer(Exception):
    """A sound spool, of a version that we do not know yet."""


def _opened(path: Path, durability: Durability, migrations: Sequence[Sequence[str]]) -> sqlite3.Connection:
    _make(path)
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        connection.text_factory = bytes
        for setting in (
            "locking_mode=EXCLUSIVE", "journal_mode=WAL", f"synchronous={SYNCHRONOUS[durability]}", f"cache_size=-{CACHE}",
            f"wal_autocheckpoint={CHECKPOINT}", f"journal_size_limit={LOG}", "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {setting}").fetchall()
        _migrate(connection, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def _make(path: Path) -> None:
    """SQLite gives the files beside it the mode of the first one."""
    if path.exists():
        return
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> None:
    """All steps from the file's version to ours in one transaction. Raises `_NotASpool` or `_Newer`."""
    connection.execute("BEGIN IMMEDIATE")
    (application,), (version,) = (connection.execute(f"PRAGMA {word}").fetchone() for word in ("application_id", "user_version"))
    if _tables(connection) and application != APPLICATION:
        raise _NotASpool("it is no spool of s2sgw")
    if version > len(migrations):
        raise _Newer(f"schema {version}; this one knows {len(migrations)}")
    for step in migrations[version:]:
        for statement in step:
            connection.execute(statement)
    if not _tables(connection) >= TABLES:
        raise _NotASpool("its tables are gone")
    connection.execute(f"PRAGMA application_id={APPLICATION}")
    connection.execute(f"PRAGMA user_version={len(migrations)}")
    connection.execute("COMMIT")


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {name.decode() for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def set_aside(path: Path, why: str, report: Callable[[str], None]) -> None:
    """Move what is damaged out of the way, so that nothing is lost that may yet be recovered."""
    aside = _renamed(path, "damaged")
    report(
        f"{path} cannot be read ({why}). It was set aside as {aside} and an empty one takes its place; what the old one held is "
        f"not delivered. To look for it: sqlite3 {aside} .recover"
    )


def keep_for_newer(path: Path, why: str, report: Callable[[str], None]) -> None:
    """Move what a newer version wrote, and left in order, out of the way of this one (a downgrade)."""
    aside = _renamed(path, "newer")
    report(
        f"{path} was written by a newer version of s2sgw ({why}). It was set aside as {aside}, sound and whole, and an empty one "
        f"takes its place: nothing is lost, but this version does not deliver what it holds. To bring it back: stop s2sgw, move "
        f"{aside} to {path} (and {aside}-wal, if it is there, to {path}-wal), start the newer version"
    )


def _renamed(path: Path, word: str) -> Path:
    """The first free name that says what became of the file; it and its log have that now."""
    number = 1
    while (aside := path.with_name(f"{path.name}.{word}-{number}")).exists():
        number += 1
    for suffix in ("-wal", "-shm", ""):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + suffix))
    return aside
