"""Tests of files that are written completely or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.storage import atomic_file
from s2sgw.storage.atomic_file import set_aside, write_atomically


class WriteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "secret"

    def names(self) -> list[str]:
        return sorted(each.name for each in self.folder.iterdir())

    def test_written(self) -> None:
        """A private file is made, and replaced. Nothing is left beside it."""
        for data in (b"one", b"another"):
            write_atomically(self.path, data)
            self.assertEqual((self.path.read_bytes(), self.path.stat().st_mode & 0o777, self.names()), (data, 0o600, ["secret"]))
        write_atomically(self.path, b"for all", 0o644)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o644)

    def test_owner(self) -> None:
        """A file that root writes belongs to the owner of the directory. Without CAP_CHOWN it stays root's."""
        calls: list[tuple[int, int]] = []

        def fchown(_: int, user: int, group: int) -> None:
            calls.append((user, group))
            if len(calls) == 2:
                raise PermissionError(errno.EPERM, "not permitted")

        self.patch(os, "fchown", fchown)
        for user, expected in ((0, 1), (0, 2), (1000, 2)):
            self.patch(os, "geteuid", lambda user=user: user)
            write_atomically(self.path, b"x")
            self.assertEqual(expected, len(calls))
        owner = self.folder.stat()
        self.assertEqual({(owner.st_uid, owner.st_gid)}, set(calls))
        self.assertEqual(["secret"], self.names())

    def test_order(self) -> None:
        """The content is synced before the rename, and the rename before the call returns."""
        steps: list[str] = []
        for name in ("fsync", "replace"):
            self.note(steps, name)
        write_atomically(self.path, b"x")
        self.assertEqual(steps, ["fsync file", "replace", "fsync directory"])

    def note(self, steps: list[str], name: str) -> None:
        real = getattr(os, name)

        def noted(target: Any, *arguments: Any) -> Any:
            kind = "" if name == "replace" else " directory" if Path(f"/proc/self/fd/{target}").resolve().is_dir() else " file"
            steps.append(name + kind)
            return real(target, *arguments)

        self.patch(os, name, noted)

    def test_no_room(self) -> None:
        """On a full disk the old content stays, whichever step fails, and the error names the file."""
        write_atomically(self.path, b"old")
        for name in ("open", "fdopen", "fsync", "replace"):
            real = getattr(os, name)

            def fail(*arguments: Any) -> Any:
                raise OSError(errno.ENOSPC, "No space left on device")

            patch = self.patch(os, name, fail)
            error = self.assertRaises(OSError, write_atomically, self.path, b"new")
            patch.restore()
            self.assertEqual((error.errno, error.filename), (errno.ENOSPC, str(self.path)))
            self.assertEqual((self.path.read_bytes(), self.names(), getattr(os, name)), (b"old", ["secret"], real))

    def test_draft_of_a_crash(self) -> None:
        """The leftover file of a crash is replaced safely: no link is followed."""
        victim = self.folder / "victim"
        victim.write_bytes(b"unharmed")
        (self.folder / "secret.new").symlink_to(victim)
        write_atomically(self.path, b"x")
        self.assertEqual((self.path.read_bytes(), victim.read_bytes(), self.path.is_symlink()), (b"x", b"unharmed", False))


class SetAsideTests(SynchronousTestCase):
    def test_numbers(self) -> None:
        """A file is renamed together with those that belong to it. No file that was set aside before is replaced."""
        folder = Path(self.mktemp())
        folder.mkdir()
        path = folder / "spool.db"
        for number in (1, 2):
            path.write_text(str(number))
            (folder / "spool.db-wal").write_text("log")
            self.assertEqual(set_aside(path, "damaged", ("-wal", "-shm")), folder / f"spool.db.damaged-{number}")
        names = ["spool.db.damaged-1", "spool.db.damaged-1-wal", "spool.db.damaged-2", "spool.db.damaged-2-wal"]
        self.assertEqual(sorted(each.name for each in folder.iterdir()), names)
        self.assertEqual((folder / "spool.db.damaged-1").read_text(), "1")

    def test_a_log_alone(self) -> None:
        """A log without its file keeps its name from being used for another."""
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "x.damaged-1-wal").write_text("log")
        (folder / "x").write_text("file")
        self.assertEqual(set_aside(folder / "x", "damaged", ("-wal",)), folder / "x.damaged-2")

    def test_synced(self) -> None:
        """The directory is synced afterwards."""
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "x").touch()
        synced: list[Path] = []
        self.patch(atomic_file, "sync_directory", synced.append)
        set_aside(folder / "x", "damaged")
        self.assertEqual(synced, [folder])
