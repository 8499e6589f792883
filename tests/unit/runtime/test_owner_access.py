"""Files that the gateway's user cannot read, though root can."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.config import Config, load
from s2sgw.runtime.owner_access import faults_of_owner
from tests.support.certificates import leaf_for

#: A user that owns nothing else.
SOMEBODY = 54321
TEXT = """[gateway]
domains = ["example.org"]
[backend]
kind = "echo"
[peers."friend.example"]
secret_file = "friend.secret"
"""


class OwnerAccessTests(SynchronousTestCase):
    """A configuration of root's whose state directory may belong to another user."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir="/tmp"))  # other users must be able to enter it, and $TMPDIR may be private
        self.addCleanup(shutil.rmtree, self.folder)
        self.folder.chmod(0o755)
        for name in ("certs", "state"):
            (self.folder / name).mkdir()
        leaf = leaf_for("example.org")
        for name, content in (("certs/example.org.crt", leaf.pem_chain), ("certs/example.org.key", leaf.key_pem), ("friend.secret", b"x" * 40)):
            (self.folder / name).write_bytes(content)
        self.paths = [self.folder / "certs" / "example.org.key", self.folder / "friend.secret"]
        for path in self.paths:
            path.chmod(0o600)

    def config(self) -> Config:
        path = self.folder / "s2sgw.toml"
        path.write_text(TEXT)
        return load(path, system_nameservers=("127.0.0.1",))

    def give_away(self, *paths: Path) -> None:
        """Give files to the user. Only root can."""
        if os.geteuid():
            raise SkipTest("only root can give files away")
        for path in paths:
            os.chown(path, SOMEBODY, SOMEBODY)

    def test_unreadable(self) -> None:
        """Each file that the owner of the state directory cannot read is named, with the user; those that it can read are not."""
        self.give_away(self.folder / "state")
        found = faults_of_owner(self.config()).errors
        self.assertEqual([str(path) for path in self.paths], [text.partition(":")[0] for text in found])
        self.assertIn(f"user {SOMEBODY}", found[0])
        self.give_away(*self.paths)
        self.assertEqual(([], []), faults_of_owner(self.config()))

    def test_draft(self) -> None:
        """A configuration that the user cannot read is a warning: it may be a draft, which another user is to read later."""
        self.give_away(self.folder / "state", *self.paths)
        config = self.config()
        config.path.chmod(0o600)
        found = faults_of_owner(config)
        self.assertEqual(([], 1), (found.errors, len(found.warnings)))
        self.assertTrue(found.warnings[0].startswith(f"{config.path}: "), found.warnings)

    def test_closed_folder(self) -> None:
        """All files of a folder that the user cannot enter are unreadable. After that root has its own rights again."""
        self.give_away(self.folder / "state", *self.paths)
        (self.folder / "certs").chmod(0o700)
        found = [text.partition(":")[0] for text in faults_of_owner(self.config()).errors]
        certs = self.folder / "certs"
        self.assertEqual({str(certs), str(certs / "example.org.crt"), str(certs / "example.org.key")}, set(found))
        self.assertEqual((0, 0), (os.geteuid(), os.getegid()))

    def test_socket(self) -> None:
        """A folder in which the user cannot make the admin socket is named."""
        self.give_away(self.folder / "state", *self.paths)
        (self.folder / "sockets").mkdir(mode=0o755)
        path = self.folder / "s2sgw.toml"
        path.write_text(f'{TEXT}[admin]\nsocket = "sockets/admin.sock"\n')
        config = load(path, system_nameservers=("127.0.0.1",))
        (error,) = faults_of_owner(config).errors
        self.assertEqual(str(self.folder / "sockets"), error.partition(":")[0])
        self.assertIn("cannot make the admin socket", error)
        self.give_away(self.folder / "sockets")
        self.assertEqual(([], []), faults_of_owner(config))

    def test_not_permitted(self) -> None:
        """In a container whose root may not act as another user, or that has no such user, nothing is reported."""
        self.give_away(self.folder / "state")
        for number in (errno.EPERM, errno.EINVAL):
            def refuse(*_: object, number: int = number) -> None:
                raise OSError(number, os.strerror(number))

            self.patch(os, "setgroups", refuse)
            self.assertEqual(([], []), faults_of_owner(self.config()))

    def test_not_asked(self) -> None:
        """Nothing is asked if root owns the state directory, if there is none, or if another user than root asks."""
        config = self.config()
        self.assertEqual(([], []), faults_of_owner(config))
        (self.folder / "state").rmdir()
        self.assertEqual(([], []), faults_of_owner(config))
        (self.folder / "state").mkdir()
        self.give_away(self.folder / "state")
        self.assertNotEqual([], faults_of_owner(config).errors)
        self.patch(os, "geteuid", lambda: SOMEBODY)
        self.assertEqual(([], []), faults_of_owner(config))
