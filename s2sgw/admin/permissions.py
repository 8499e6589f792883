"""The permissions on the admin socket.

Root and the gateway's own user may use all verbs. Members of the group `[admin].group` may use those that change nothing and show
no text of a stanza. The kernel identifies the other end (SO_PEERCRED, unix(7)). Only members of that group can connect at all.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

#: Verbs that a member of the group may use -> their permitted arguments.
READ_ONLY: Mapping[str, frozenset[str]] = {
    "status": frozenset(),
    "streams": frozenset({"peer", "limit"}),
    "lanes": frozenset({"peer", "limit"}),
    "peers": frozenset({"peer", "limit"}),
    "names": frozenset({"prefix", "limit"}),
    "refusals": frozenset({"peer", "limit", "letter"}),
    "certs": frozenset(),
    "pending": frozenset({"peer", "limit"}),
    "pins list": frozenset({"peer"}),
    "explain": frozenset({"peer", "local", "look_up"}),  # "with" reads a file
    "queue list": frozenset({"peer", "limit"}),
    "queue show": frozenset({"target", "limit"}),
    "queue ages": frozenset({"peer", "limit"}),
    "deny list": frozenset(),
    "watch": frozenset({"peer"}),
}
_CREDENTIALS = struct.Struct("3i")


class Caller(NamedTuple):
    """The process at the other end, when it connected. `user` and `group` are numbers."""

    process: int
    user: int
    group: int

    @property
    def is_operator(self) -> bool:
        """Return whether the caller is root or the gateway's own user."""
        return self.user in (0, os.geteuid())

    def may_ask(self, verb: str, arguments: Mapping[str, Any]) -> bool:
        """Return whether the caller may make this request."""
        if self.is_operator:
            return True
        allowed = READ_ONLY.get(verb)
        target = arguments.get("target")
        shows_text = isinstance(target, list) and len(target) > 2  # one stanza is shown with its text
        return allowed is not None and set(arguments) <= allowed and not shows_text


def caller_of(connection: socket.socket) -> Caller:
    """Return the process at the other end of a UNIX socket. Raises `OSError`."""
    return Caller(*_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))
