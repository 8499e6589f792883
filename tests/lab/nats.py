"""The engine of a cluster: one NATS server with JetStream on loopback, or three as one cluster. Every write is synced to the disk."""

from __future__ import annotations

import os
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.certificates import Certificate
from tests.lab.lab import Lab, Process

_CONFIG = """\
server_name: {name}
listen: "127.0.0.1:{port}"
max_payload: {max_payload}
jetstream {{
  store_dir: "{folder}/store"
  sync_interval: always
  max_file_store: {disk}
}}
{cluster}
{tls}
"""
_CLUSTER = """\
cluster {{
  name: lab
  listen: "127.0.0.1:{port}"
  routes: [{routes}]
}}
"""
_TLS = """\
tls {{
  cert_file: "{chain}"
  key_file: "{key}"
  handshake_first: true
}}
authorization {{
  user: user
  password: secret
}}
"""


def nats_server() -> str | None:
    """Return the path of nats-server: of $NATS_SERVER, of PATH, or where `go install` puts it. None: it is not here."""
    found = os.environ.get("NATS_SERVER") or shutil.which("nats-server")
    installed = Path.home() / "go" / "bin" / "nats-server"
    return found or (str(installed) if installed.exists() else None)


@dataclass
class NATSServer:
    """One server. Its store is kept over a restart."""

    lab: Lab
    name: str
    port: int
    folder: Path
    config: Path
    process: Process | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        binary = nats_server()
        assert binary is not None, "nats-server is not here"
        self.process = self.lab.start(self.name, [binary, "-c", str(self.config)], self.folder)
        self.lab.wait_for_port(self.process, self.port)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()

    def stop(self) -> None:
        """End it in order: it gives up the leadership of its streams first, which takes seconds."""
        assert self.process is not None
        self.process.stop()

    def suspend(self) -> None:
        """Stop all of its threads, and return when they are stopped."""
        assert self.process is not None
        self.process.signal(signal.SIGSTOP)
        for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
            while (thread / "stat").read_text().rpartition(")")[2].split()[0] != "T":
                time.sleep(0.001)

    def resume(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.signal(signal.SIGCONT)


@dataclass
class NATS:
    """All servers of one engine."""

    servers: list[NATSServer] = field(default_factory=list)

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def start(self) -> None:
        for server in self.servers:
            server.start()

    def kill(self) -> None:
        """End all servers at once: an orderly end of each takes seconds."""
        for server in self.servers:
            server.kill()


def nats(lab: Lab, number: int, max_payload: int = 1 << 20, disk: int = 1 << 30, certificate: Certificate | None = None) -> NATS:
    """Return `number` servers that are not started yet. `disk`: bytes that the streams of one server may reserve.

    With a certificate, TLS is the first thing on each connection, and the user is "user" with the password "secret".
    """
    ports = [(lab.port(), lab.port()) for _ in range(number)]
    routes = ", ".join(f'"nats://127.0.0.1:{route}"' for _, route in ports)
    engine = NATS()
    for index, (port, route) in enumerate(ports):
        folder = lab.directory(f"nats-{index}")
        config = folder / "nats.conf"
        cluster = _CLUSTER.format(port=route, routes=routes) if number > 1 else ""
        tls = _TLS.format(chain=certificate.chain, key=certificate.key) if certificate is not None else ""
        text = _CONFIG.format(name=f"n{index}", port=port, folder=folder, cluster=cluster, max_payload=max_payload, disk=disk, tls=tls)
        config.write_text(text)
        engine.servers.append(NATSServer(lab, f"n{index}", port, folder, config))
    return engine
