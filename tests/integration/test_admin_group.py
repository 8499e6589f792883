"""The admin socket with real users: what root may do, and what a member of the group may do."""

from __future__ import annotations

import grp
import json
import os
import pwd
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from s2sgw.admin.server import AdminService
from s2sgw.admin.verb_table import is_read_only

#: A program that asks as another user, who is in the group of the socket.
_SCRIPT = """
import os, socket, sys
path, user, group, request = sys.argv[1:]
os.setgroups([]); os.setgid(int(group)); os.setuid(int(user))
with socket.socket(socket.AF_UNIX) as connection:
    connection.settimeout(10)
    connection.connect(path)
    connection.sendall(request.encode() + b"\\n")
    print(connection.recv(65536).decode())
"""


class GroupTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        if os.geteuid():
            raise SkipTest("only root can ask as another user")
        from twisted.internet import reactor

        self.group = grp.getgrnam("users")
        self.nobody = pwd.getpwnam("nobody").pw_uid
        directory = tempfile.TemporaryDirectory(dir="/tmp")  # other users must reach it, and $TMPDIR may be private
        self.addCleanup(directory.cleanup)
        os.chmod(directory.name, 0o755)
        self.path = Path(directory.name) / "admin.sock"
        verbs = {"status": lambda _: "fine", "drain": lambda _: "stopped"}
        service = AdminService(reactor, self.path, verbs, group="users", is_read_only=is_read_only)
        service.startService()
        self.addCleanup(service.stopService)

    def as_user(self, user: int, group: int, verb: str) -> str:
        request = json.dumps({"verb": verb})
        words = [sys.executable, "-c", _SCRIPT, str(self.path), str(user), str(group), request]
        return subprocess.run(words, capture_output=True, text=True, timeout=30, check=False).stdout

    @inlineCallbacks
    def test_member(self) -> Any:
        """A member of the group may look, and may stop nothing."""
        for verb, words in (("status", '"fine"'), ("drain", '"denied"')):
            found: Deferred[str] = deferToThread(self.as_user, self.nobody, self.group.gr_gid, verb)
            self.assertIn(words, (yield found))

    @inlineCallbacks
    def test_stranger(self) -> Any:
        """Another user cannot connect at all."""
        self.assertEqual("", (yield deferToThread(self.as_user, self.nobody, 65534, "status")))

    @inlineCallbacks
    def test_root(self) -> Any:
        """Root may do everything."""
        self.assertIn('"stopped"', (yield deferToThread(self.as_user, 0, 0, "drain")))

    def test_mode(self) -> None:
        """Only the group and the owner can open the socket."""
        found = self.path.stat()
        self.assertEqual((0o660, self.group.gr_gid), (found.st_mode & 0o777, found.st_gid))
        self.assertTrue(hasattr(socket, "SO_PEERCRED"))
