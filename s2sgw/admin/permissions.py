"""The process at the other end of the admin socket.

Root and the gateway's own user may use all verbs. Members of the group `[admin].group` may use the same as a read-only user of
the console: `admin.verb_table.is_read_only` decides for both. The kernel identifies the other end (SO_PEERCRED, unix(7)). Only
members of that group can connect at all.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import NamedTuple

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


def caller_of(connection: socket.socket) -> Caller:
    """Return the process at the other end of a UNIX socket. Raises `OSError`."""
    return Caller(*_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))
