"""Tests of files that are read only if they are regular."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.storage.regular_file import open_regular, read_regular


class RegularFileTests(SynchronousTestCase):
    def test_content(self) -> None:
        """A file, and what a link leads to, is read."""
        path, link = Path(self.mktemp()), Path(self.mktemp())
        path.write_bytes(b"x" * 100_000)
        link.symlink_to(path.absolute())
        self.assertEqual([b"x" * 100_000] * 2, [read_regular(path), read_regular(link)])
        with open_regular(path) as file:
            self.assertEqual(b"xxx", file.read(3))

    def test_others(self) -> None:
        """A FIFO without a writer, a device and a directory are refused at once, and nothing stays open."""
        fifo = Path(self.mktemp())
        os.mkfifo(fifo)
        before = len(os.listdir("/proc/self/fd"))
        for path in (fifo, Path("/dev/null"), Path("/dev/zero"), Path("/")):
            error = self.assertRaises(OSError, read_regular, path)
            self.assertEqual(("is no regular file", str(path)), (error.strerror, error.filename))
        self.assertRaises(FileNotFoundError, read_regular, Path("/nothing/there"))
        self.assertEqual(before, len(os.listdir("/proc/self/fd")))
