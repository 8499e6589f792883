"""Tests of the state directory and its secret."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.runtime.state_directory import SecretUnusable, keep_secret, prepare_state


class StateDirectoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = prepare_state(Path(self.mktemp()) / "deep" / "state")
        self.path = self.state / "secret"

    def test_private(self) -> None:
        """The directory is private, even if others could read it before."""
        self.assertEqual(self.state.stat().st_mode & 0o777, 0o700)
        self.state.chmod(0o755)
        prepare_state(self.state)
        self.assertEqual(self.state.stat().st_mode & 0o777, 0o700)

    def test_secret(self) -> None:
        """R27: the secret is made once, from 32 random bytes, and is private. The next start has the same one."""
        secret = keep_secret(self.path)
        self.assertEqual((len(secret), self.path.stat().st_mode & 0o777, keep_secret(self.path)), (32, 0o600, secret))
        self.path.unlink()
        self.assertNotEqual(keep_secret(self.path), secret)
        self.assertEqual([each.name for each in self.state.iterdir()], ["secret"])

    def test_interrupted(self) -> None:
        """A crash while the secret is being made leaves none, not a part of one."""
        def fail(descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        self.patch(os, "fsync", fail)
        self.assertRaises(OSError, keep_secret, self.path)
        self.assertEqual([], list(self.state.iterdir()))

    def test_no_secret(self) -> None:
        """A damaged secret, for example after a crash or a bad copy, is refused with the remedy, because it could be guessed."""
        for data in (b"", b"short", bytes(32), b"x" * 32, bytes(range(33))):
            self.path.write_bytes(data)
            self.path.chmod(0o600)
            error = self.assertRaises(SecretUnusable, keep_secret, self.path)
            self.assertIn("restore it from a backup", str(error))
            self.assertEqual(self.path.read_bytes(), data)

    def test_open_to_others(self) -> None:
        """A secret that others may read is refused."""
        keep_secret(self.path)
        for mode in (0o640, 0o604, 0o610):
            self.path.chmod(mode)
            self.assertIn("chmod 600", str(self.assertRaises(SecretUnusable, keep_secret, self.path)))
