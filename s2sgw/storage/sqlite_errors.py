"""The meaning of an error of SQLite or of the disk: the file is damaged, or the same call may succeed soon."""

from __future__ import annotations

import errno
import sqlite3

#: SQLite's codes for a damaged file. Any other error may be temporary: a full disk, a lock, a bad cable.
DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
#: Its codes for temporary errors.
PASSING = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM})
#: Its codes for a file in use by another process.
IN_USE = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def result_code(error: BaseException | None) -> int:
    """Return SQLite's primary result code; 0: the error is not SQLite's."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF if isinstance(error, sqlite3.Error) else 0


def is_damage(error: BaseException | None) -> bool:
    """Return whether `error` means that the content of the file is damaged."""
    return result_code(error) in DAMAGE


def may_pass(error: BaseException | None) -> bool:
    """Return whether `error` is a temporary one of the disk: no room, or a failed read or write."""
    return result_code(error) in PASSING or (isinstance(error, OSError) and error.errno in _DISK)


def is_in_use(error: BaseException | None) -> bool:
    """Return whether `error` means that another process uses the file."""
    return result_code(error) in IN_USE
