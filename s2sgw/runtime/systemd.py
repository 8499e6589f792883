"""Messages to systemd: ready, reloading, stopping, the status, and the watchdog's sign of life (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress


class ServiceNotifications:
    """Sends to the socket that systemd names in `NOTIFY_SOCKET`. Without one nothing is sent.

    `monotonic` gives microseconds of CLOCK_MONOTONIC. A message that cannot be sent is lost, and the gateway goes on.
    """

    def __init__(
        self, environ: Mapping[str, str] = os.environ, monotonic: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
    ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._monotonic = monotonic
        self.watchdog_interval = _watchdog_interval(environ)

    def ready(self, status: str) -> None:
        """Report that everything listens and the spool is read, or that a reload is over."""
        self._send("READY=1", f"STATUS={_line(status)}")

    def reloading(self) -> None:
        """Report that the configuration is being read again."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={self._monotonic()}")

    def stopping(self) -> None:
        """Report that the gateway shuts down."""
        self._send("STOPPING=1", "STATUS=stopping")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(f"STATUS={_line(text)}")

    def alive(self) -> None:
        """Send the watchdog's sign of life. Call this from the reactor: a reactor that stands still sends none."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), self._address)


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Return the seconds between two signs of life, half of systemd's limit; None: systemd does not watch."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()) or not microseconds.isdecimal():
        return None
    return int(microseconds) / 2_000_000 or None


def _line(text: str) -> str:
    return " ".join(text.split())
