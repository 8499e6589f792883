"""The state directory and its secret."""

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
        """The directory is the owner's alone, even if it was another's business before."""
        self.assertEqual(self.state.stat().st_mode & 0o777, 0o700)
        self.state.chmod(0o755)
        prepare_state(self.state)
        self.assertEqual(self.state.stat().st_mode & 0o777, 0o700)

    def test_secret(self) -> None:
        """R27: made once, 32 bytes of chance, for the owner alone; the next start has the same."""
        secret = keep_secret(self.path)
        self.assertEqual((len(secret), self.path.stat().st_mode & 0o777, keep_secret(self.path)), (32, 0o600, secret))
        self.path.unlink()
        self.assertNotEqual(keep_secret(self.path), secret)
        self.assertEqual([each.name for each in self.state.iterdir()], ["secret"])

    def test_interrupted(self) -> None:
        """A crash while the secret is being made leaves none, rather than a part of one."""
        def fail(descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        self.patch(os, "fsync", fail)
        self.assertRaises(OSError, keep_secret, self.path)
        self.assertEqual([], list(self.state.iterdir()))

    def test_no_secret(self) -> None:
        """What a crash or a bad copy left is refused, with what to do: anybody could guess it."""
        for data in (b"", b"short", bytes(32), b"x" * 32, bytes(range(33))):
            self.path.write_bytes(data)
            self.path.chmod(0o600)
            error = self.assertRaises(SecretUnusable, keep_secret, self.path)
            self.assertIn("restore it from a backup", str(error))
            self.assertEqual(self.path.read_bytes(), data)

    def test_open_to_others(self) -> None:
        """A secret that others may read is none."""
        keep_secret(self.path)
        for mode in (0o640, 0o604, 0o610):
            self.path.chmod(mode)
            self.assertIn("chmod 600", str(self.assertRaises(SecretUnusable, keep_secret, self.path)))
