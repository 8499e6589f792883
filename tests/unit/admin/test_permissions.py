"""Who may ask what on the admin socket."""

from __future__ import annotations

import os
import socket

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.permissions import READ_ONLY, Caller, caller_of
from tests.support.admin import member, operator

CHANGES = (
    "pins add", "pins approve", "pins revoke", "reload", "drain", "queue hold", "queue release", "queue drop", "queue flush", "replay", "close", "deny", "allow",
    "forget", "log level", "queue poison",
)


class PermissionTests(SynchronousTestCase):
    def test_operators(self) -> None:
        """Root and the gateway's own user may ask everything."""
        for caller in (operator(None), Caller(1, 0, 0)):
            for verb in (*CHANGES, *READ_ONLY):
                self.assertTrue(caller.may_ask(verb, {"with": "/etc/shadow"}), verb)

    def test_members(self) -> None:
        """A member of the group may ask what changes nothing; never what changes something, an unknown verb, or a file to be read."""
        for verb in READ_ONLY:
            self.assertTrue(member(None).may_ask(verb, {}), verb)
        for verb in (*CHANGES, "frobnicate", ""):
            self.assertFalse(member(None).may_ask(verb, {}), verb)
        self.assertFalse(member(None).may_ask("explain", {"peer": "a.example", "with": "/etc/shadow"}))
        self.assertFalse(member(None).may_ask("status", {"anything": 1}))

    def test_text_of_stanzas(self) -> None:
        """A member of the group sees no text of a stanza."""
        self.assertTrue(member(None).may_ask("queue show", {"target": ["a.example", "b.example"]}))
        self.assertFalse(member(None).may_ask("queue show", {"target": ["a.example", "b.example", 7]}))

    def test_kernel(self) -> None:
        """The kernel says who is at the other end."""
        one, other = socket.socketpair()
        with one, other:
            self.assertEqual(Caller(os.getpid(), os.geteuid(), os.getegid()), caller_of(one))
