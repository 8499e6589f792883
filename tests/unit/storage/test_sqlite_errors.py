"""Tests of the classification of errors of SQLite and of the disk."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.storage.sqlite_errors import is_damage, is_in_use, may_pass, result_code


def error(code: int) -> sqlite3.Error:
    made = sqlite3.OperationalError("no")
    made.sqlite_errorcode = code
    return made


class ErrorTests(SynchronousTestCase):
    def test_real(self) -> None:
        """Errors that SQLite itself raises are classified."""
        path = Path(self.mktemp())
        path.write_bytes(b"garbage " * 200)
        connection = sqlite3.connect(path)
        found = self.assertRaises(sqlite3.Error, connection.execute, "SELECT * FROM sqlite_master")
        self.assertEqual((is_damage(found), may_pass(found), is_in_use(found)), (True, False, False))
        connection.close()
        path.unlink()
        one, other = sqlite3.connect(path, isolation_level=None), sqlite3.connect(path, timeout=0, isolation_level=None)
        one.execute("BEGIN EXCLUSIVE")
        found = self.assertRaises(sqlite3.Error, other.execute, "BEGIN EXCLUSIVE")
        self.assertEqual((is_damage(found), may_pass(found), is_in_use(found)), (False, False, True))
        one.close()
        other.close()

    def test_extended_codes(self) -> None:
        """An extended code is classified by its primary code."""
        self.assertEqual(result_code(error(sqlite3.SQLITE_IOERR_READ)), sqlite3.SQLITE_IOERR)
        self.assertEqual((may_pass(error(sqlite3.SQLITE_IOERR_READ)), may_pass(error(sqlite3.SQLITE_FULL))), (True, True))
        self.assertTrue(is_damage(error(sqlite3.SQLITE_CORRUPT_INDEX)))

    def test_others(self) -> None:
        """Errors of the system and of Python are classified, and so is the absence of one."""
        self.assertEqual([may_pass(OSError(number, "")) for number in (errno.ENOSPC, errno.EIO, errno.EACCES)], [True, True, False])
        for each in (None, ValueError(), sqlite3.ProgrammingError("closed")):
            self.assertEqual((result_code(each), is_damage(each), may_pass(each), is_in_use(each)), (0, False, False, False))
