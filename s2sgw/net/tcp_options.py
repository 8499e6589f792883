"""Options of TCP, on systems that have them (Linux): time limits for the other machine's answer, and for its acknowledgement.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from typing import Any

#: Seconds that sent data may stay unacknowledged before TCP gives up. TCP's own bound is some 15 minutes.
UNACKNOWLEDGED = 60


def set_quick_ack(transport: Any) -> None:
    """Have the next input acknowledged without delay. The option lasts only for a while, so it is set again with each input.

    Servers that leave Nagle's algorithm on send the second of two small writes only when the first is acknowledged: 40 ms later,
    several times in one negotiation.
    """
    handle = getattr(transport, "socket", None)
    option = getattr(socket, "TCP_QUICKACK", None)
    if handle is not None and option is not None:
        handle.setsockopt(socket.IPPROTO_TCP, option, 1)


def unacknowledged_bytes(transport: Any) -> int:
    """Return how many bytes the other machine has not acknowledged. 0 if the system does not know."""
    return _number_of_bytes(transport, termios.TIOCOUTQ)


def unread_bytes(transport: Any) -> int:
    """Return how many bytes have arrived and were not read. 0 if the system does not know."""
    return _number_of_bytes(transport, termios.FIONREAD)


def _number_of_bytes(transport: Any, question: int) -> int:
    handle = getattr(transport, "socket", None)
    if handle is None:
        return 0
    try:
        (number,) = struct.unpack("i", fcntl.ioctl(handle, question, bytes(4)))
    except (OSError, ValueError):
        return 0
    return int(number)


def set_user_timeout(transport: Any) -> None:
    """Have TCP end the connection of `transport` when data has been unacknowledged for the given time (RFC 5482, R37)."""
    handle = getattr(transport, "socket", None)
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if handle is not None and option is not None:
        handle.setsockopt(socket.IPPROTO_TCP, option, UNACKNOWLEDGED * 1000)
