"""How long TCP waits for a sign of life from the other machine, where the system lets us say so (Linux)."""

from __future__ import annotations

import socket
from typing import Any

#: Seconds that sent data may go unacknowledged by the other machine before TCP gives up; its own bound is some 15 minutes.
UNACKNOWLEDGED = 60


def bound_silence(transport: Any) -> None:
    """Have TCP end the connection of `transport` once data has gone unacknowledged for so long (RFC 5482, R37)."""
    handle = getattr(transport, "socket", None)
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if handle is not None and option is not None:
        handle.setsockopt(socket.IPPROTO_TCP, option, UNACKNOWLEDGED * 1000)
