"""How much of each connection the gateway has read, moment by moment, by the kernel's own account (sock_diag(7)).

What was written towards the gateway and not read by it stands in the kernel's buffers: it never was in the gateway's hands.
So the question about a stanza that was lost is when it was *read*; here is the answer, from outside, to a few milliseconds.
Beside it stands how long the gateway's threads waited for a processor meanwhile, which is the machine's doing.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

#: Seconds between two looks.
INTERVAL = 0.003
#: linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_SOCK_DIAG, _BY_FAMILY, _REQUESTED, _INFO = 4, 20, 1, 2
_HEADER = struct.Struct("=IHHII")
_QUESTION = struct.Struct("=BBBxI")
_ANY_COOKIE = b"\xff" * 8
_LOOPBACK = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
#: Of an answer: where its attributes begin, where the unread bytes stand, and in `tcp_info` the received ones.
_ATTRIBUTES, _UNREAD, _RECEIVED = 16 + 72, 16 + 56, 128


class History:
    """A number that only grows, with the moment from which on it was known to be so great."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self.values: list[float] = []

    def note(self, moment: float, value: float) -> None:
        if not self.values or value > self.values[-1]:
            self.moments.append(moment)
            self.values.append(value)

    def reached(self, value: float) -> float | None:
        """When it was first seen to be at least `value`; None: never."""
        at = bisect_left(self.values, value)
        return self.moments[at] if at < len(self.values) else None

    def grown(self, since: float, until: float) -> float:
        """By how much it grew between two moments, at most."""
        before, after = bisect_right(self.moments, since), bisect_right(self.moments, until)
        if not self.values or after == 0:
            return 0.0
        return self.values[min(after, len(self.values) - 1)] - (self.values[before - 1] if before else 0.0)


@dataclass(eq=False)
class Connection:
    """One connection to the gateway, from our port `near` to its port `far`, and how many bytes of it the gateway has read."""

    near: int
    far: int
    opened: float = field(default_factory=time.time)
    read: History = field(default_factory=History)


class Reading:
    """Looks at the connections that are open, and at the process of the gateway, on a thread of its own."""

    def __init__(self) -> None:
        #: seconds that its threads waited for a processor, over all its lives
        self.waited = History()
        self._waits: dict[str, int] = {}  # of each thread of this life, nanoseconds
        self._total = 0
        self._process = Path("/proc/0")
        self._open: set[Connection] = set()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG)
        self._over = False
        self._thread = Thread(target=self._work, name="reading", daemon=True)
        self._thread.start()

    def follow(self, pid: int) -> None:
        """The gateway has a new life."""
        self._process, self._waits = Path(f"/proc/{pid}/task"), {}

    def watch(self, connection: Connection) -> Connection:
        self._open.add(connection)
        return connection

    def forget(self, connection: Connection) -> None:
        self._open.discard(connection)

    def close(self) -> None:
        self._over = True
        self._thread.join()
        self._socket.close()

    def _work(self) -> None:
        while not self._over:
            time.sleep(INTERVAL)
            self._look_at_process()
            for connection in list(self._open):
                read = self._read(connection)
                if read is not None:
                    connection.read.note(time.time(), read)

    def _look_at_process(self) -> None:
        """/proc/PID/task/TID/schedstat: nanoseconds on a processor, nanoseconds of waiting for one, turns."""
        waits = self._waits
        with contextlib.suppress(OSError, ValueError, IndexError):
            for thread in self._process.iterdir():
                waited = int((thread / "schedstat").read_text().split()[1])
                self._total += waited - waits.get(thread.name, 0)
                waits[thread.name] = waited
        self.waited.note(time.time(), self._total / 1e9)

    def _read(self, connection: Connection) -> int | None:
        """How many bytes the gateway's end has read; None: it is no more."""
        ports = struct.pack("!HH", connection.far, connection.near)
        question = _QUESTION.pack(socket.AF_INET, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0xFFFFFFFF)
        question += ports + _LOOPBACK + _LOOPBACK + bytes(4) + _ANY_COOKIE
        self._socket.send(_HEADER.pack(_HEADER.size + len(question), _BY_FAMILY, _REQUESTED, 1, 0) + question)
        answer = self._socket.recv(8192)
        if _HEADER.unpack_from(answer)[1] != _BY_FAMILY:
            return None
        (unread,) = struct.unpack_from("=I", answer, _UNREAD)
        at = _ATTRIBUTES
        while at < len(answer):
            length, attribute = struct.unpack_from("=HH", answer, at)
            if attribute == _INFO:
                (received,) = struct.unpack_from("=Q", answer, at + 4 + _RECEIVED)
                return int(received) - int(unread)
            at += (length + 3) & ~3
        return None
