"""A folder for files with secrets, for tests of their readers."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase


class SecretTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_text("correct horse\n")
        self.path.chmod(0o600)
