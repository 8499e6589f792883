"""Ports that other processes have, as a start of a node would find them. The sockets are on loopback."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.config import Config
from s2sgw.runtime.taken_ports import taken_ports
from tests.lab.lab import free_ports


def listener(reuse: bool = False) -> tuple[socket.socket, int]:
    """Return a socket that listens, and its port."""
    made = socket.socket()
    if reuse:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", 0))
    made.listen()
    return made, made.getsockname()[1]


class TakenPortsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.free_port = next(free_ports())
        self.shared, self.shared_port = listener(reuse=True)
        self.own, self.own_port = listener()
        self.addCleanup(self.shared.close)
        self.addCleanup(self.own.close)

    def config(self, listen: str, tls: str = "starttls", backend: str = "", cluster: str | None = None, console: str | None = None) -> Config:
        backends = [SimpleNamespace(kind="s2s", listen=backend)] if backend else [SimpleNamespace(kind="echo", listen=listen)]
        made: Any = SimpleNamespace(
            gateway=SimpleNamespace(state=Path(self.mktemp())), listen=[SimpleNamespace(endpoint=listen, tls=tls)], backends=backends,
            cluster=SimpleNamespace(listen=cluster), console=SimpleNamespace(listen=console),
        )
        return cast(Config, made)

    def endpoint(self, port: int, more: str = "") -> str:
        return f"tcp:{port}:interface=127.0.0.1{more}"

    def test_free(self) -> None:
        """Nothing is said of a port that the start can bind: a free one, one that all share, a socket of systemd, a port below 1024."""
        for text in (self.endpoint(self.free_port), self.endpoint(self.shared_port, ":reuseport=yes"), "systemd:name=x", "tcp:0", f"tcp:{self.free_port}"):
            self.assertEqual(([], []), tuple(taken_ports(self.config(text))), text)

    def test_shared(self) -> None:
        """A port that other nodes share must be shared by this one, too: for peers, and for a server."""
        shared, in_use = taken_ports(self.config(self.endpoint(self.shared_port)))
        self.assertEqual(([True], []), ([f"listen: tcp:{self.shared_port}" in text and "add :reuseport=yes" in text for text in shared], in_use))
        shared, in_use = taken_ports(self.config(self.endpoint(self.free_port), backend=self.endpoint(self.shared_port)))
        self.assertEqual((["backend.listen"], []), ([text.partition(":")[0] for text in shared], in_use))

    def test_in_use(self) -> None:
        """A port that another process has for itself is named, and so is a shared one for which nodes cannot share a port."""
        taken = self.endpoint(self.own_port)
        for config in (
            self.config(taken), self.config(f"{taken}:reuseport=yes"), self.config(self.endpoint(self.shared_port), tls="direct"),
            self.config(self.endpoint(self.free_port), cluster=self.endpoint(self.shared_port)), self.config(self.endpoint(self.free_port), console=taken),
        ):
            shared, in_use = taken_ports(config)
            self.assertEqual(([], [True]), (shared, ["is in use" in text for text in in_use]))

    def test_nothing_listens(self) -> None:
        """A port that was looked at can be bound and takes connections as before."""
        taken_ports(self.config(self.endpoint(self.free_port)))
        with socket.create_server(("127.0.0.1", self.free_port)) as server, socket.create_connection(server.getsockname()[:2], 5.0):
            server.accept()[0].close()
