"""The amount that the gateway has read of each connection, and the time, as the kernel reports it (sock_diag(7)).

Data that a server has written and the gateway has not read is in the kernel's buffers, so the gateway never had custody of it.
Whether the loss of a stanza is a fault therefore depends on when the gateway read it. `SocketMonitor` measures that from outside,
to a few milliseconds. It also records how long the gateway's threads waited for a processor, because a busy machine is not the
gateway's fault.
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

#: Seconds between two samples.
INTERVAL = 0.003
#: linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_SOCK_DIAG, _BY_FAMILY, _REQUESTED, _INFO = 4, 20, 1, 2
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI")
_ANY_COOKIE = b"\xff" * 8
_LOOPBACK = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
#: Offsets in an answer: of its attributes, of the number of unread bytes, and of the received bytes within `tcp_info`.
_ATTRIBUTES, _UNREAD, _RECEIVED = 16 + 72, 16 + 56, 128


class GrowingValue:
    """A number that only grows, and when each value was first seen."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self.values: list[float] = []

    def note(self, moment: float, value: float) -> None:
        """Record `value` if it is larger than the last one."""
        if not self.values or value > self.values[-1]:
            self.moments.append(moment)
            self.values.append(value)

    def reached(self, value: float) -> float | None:
        """Return when the number was first seen to be at least `value`, or None."""
        at = bisect_left(self.values, value)
        return self.moments[at] if at < len(self.values) else None

    def growth(self, since: float, until: float) -> float:
        """Return an upper bound of the growth between two moments."""
        before, after = bisect_right(self.moments, since), bisect_right(self.moments, until)
        if not self.values or after == 0:
            return 0.0
        return self.values[min(after, len(self.values) - 1)] - (self.values[before - 1] if before else 0.0)


@dataclass(eq=False)
class Connection:
    """One connection to or from the gateway, and the number of bytes that have arrived at its end, and that it has read."""

    local_port: int
    gateway_port: int
    opened: float = field(default_factory=time.time)
    arrived: GrowingValue = field(default_factory=GrowingValue)
    read: GrowingValue = field(default_factory=GrowingValue)


class SocketMonitor:
    """A thread that samples the open connections and the gateway's process."""

    def __init__(self) -> None:
        #: seconds that the gateway's threads waited for a processor, over all runs of the gateway
        self.waited = GrowingValue()
        self._waits: dict[str, int] = {}  # of each thread of this run, nanoseconds
        self._total = 0
        self._process = Path("/proc/0")
        self._open: set[Connection] = set()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG)
        self._stopped = False
        self._thread = Thread(target=self._run, name="socket monitor", daemon=True)
        self._thread.start()

    def follow(self, pid: int) -> None:
        """Watch this process from now on, after a new start of the gateway."""
        self._process, self._waits = Path(f"/proc/{pid}/task"), {}

    def watch(self, connection: Connection) -> Connection:
        """Sample `connection` from now on."""
        self._open.add(connection)
        return connection

    def forget(self, connection: Connection) -> None:
        """Stop sampling `connection`."""
        self._open.discard(connection)

    def close(self) -> None:
        """Stop the thread."""
        self._stopped = True
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while not self._stopped:
            time.sleep(INTERVAL)
            self._sample_process()
            for connection in list(self._open):
                self._sample_connection(connection)

    def _sample_process(self) -> None:
        """Read /proc/PID/task/TID/schedstat: nanoseconds on a processor, nanoseconds of waiting for one, time slices."""
        waits = self._waits
        with contextlib.suppress(OSError, ValueError, IndexError):
            for thread in self._process.iterdir():
                waited = int((thread / "schedstat").read_text().split()[1])
                self._total += waited - waits.get(thread.name, 0)
                waits[thread.name] = waited
        self.waited.note(time.time(), self._total / 1e9)

    def _sample_connection(self, connection: Connection) -> None:
        """Record the number of bytes that have arrived at the gateway's end, and that it has read, unless it is closed."""
        ports = struct.pack("!HH", connection.gateway_port, connection.local_port)
        request = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0xFFFFFFFF)
        request += ports + _LOOPBACK + _LOOPBACK + bytes(4) + _ANY_COOKIE
        self._socket.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _REQUESTED, 1, 0) + request)
        answer = self._socket.recv(8192)
        if _HEADER.unpack_from(answer)[1] != _BY_FAMILY:
            return
        (unread,) = struct.unpack_from("=I", answer, _UNREAD)
        at = _ATTRIBUTES
        while at < len(answer):
            length, attribute = struct.unpack_from("=HH", answer, at)
            if attribute == _INFO:
                (received,) = struct.unpack_from("=Q", answer, at + 4 + _RECEIVED)
                now = time.time()
                connection.arrived.note(now, received)
                connection.read.note(now, received - unread)
                return
            at += (length + 3) & ~3
