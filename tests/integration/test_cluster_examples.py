"""The files of examples/cluster, as they are: three servers of the engine with TLS, a user and an encrypted store, and a node that joins.

Only addresses, ports and folders are replaced. Skipped where nats-server or openssl is not installed.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.backend.private_ca import PrivateCA
from s2sgw.runtime.state_directory import keep_secret
from tests.lab.gateway import PROJECT, TWISTD
from tests.lab.lab import Lab, Process
from tests.lab.nats import nats_server
from tests.support.certificates import leaf_for

EXAMPLES = PROJECT / "examples" / "cluster"
#: The network of the examples, and the one on loopback that takes its place.
NETWORK, LOOPBACK = "192.0.2.", "127.77.2."
SERVERS = ("n1", "n2", "n3")
#: Seconds within which something must happen. Nothing waits for so long unless it fails.
PATIENCE = 60.0


class ClusterExampleTests(SynchronousTestCase):
    """Start the servers and a node."""

    skip = None if nats_server() and shutil.which("openssl") else "nats-server or openssl is not installed"

    def setUp(self) -> None:
        self.lab = Lab()
        self.addCleanup(self.lab.close)
        self.secrets = self.lab.folder / "secrets"
        addresses = [f"{LOOPBACK}{number}" for number in (21, 22, 23)]
        subprocess.run(["sh", str(EXAMPLES / "secrets.sh"), str(self.secrets), *addresses], check=True)
        # the ports of the examples may be in use
        self.health: list[int] = []
        self.ports = {port: str(self.lab.port()) for port in ("4222", "6222", "5269", "15270", "8269", "5271")}

    def adapted(self, name: str, folders: dict[str, str]) -> str:
        """Return an example with these folders, on loopback."""
        text = (EXAMPLES / name).read_text("utf-8").replace(NETWORK, LOOPBACK)
        for old, new in folders.items():
            text = text.replace(old, new)
        for old, new in self.ports.items():
            text = text.replace(f":{old}", f":{new}").replace(f"port: {old}\n", f"port: {new}\n")
        return text

    def server(self, name: str) -> Process:
        """Check the configuration of a server, and start it."""
        folder, binary = self.secrets / name, nats_server()
        assert binary is not None
        config, store = folder / "nats.conf", self.lab.directory(f"store-{name}")
        self.health.append(self.lab.port())
        folders = {"/etc/nats": str(folder), "/var/lib/nats": str(store), "127.0.0.1:8222": f"127.0.0.1:{self.health[-1]}"}
        config.write_text(self.adapted("nats.conf", folders))
        environment = dict(line.split("=", 1) for line in (folder / "nats.env").read_text().splitlines())
        checked = subprocess.run([binary, "-t", "--config", str(config)], env=environment, capture_output=True, text=True, check=False)
        self.assertEqual(0, checked.returncode, checked.stderr)
        process = self.lab.start(name, [binary, "--config", str(config)], folder, environment)
        self.addCleanup(process.kill)
        return process

    def node(self) -> tuple[Path, Process]:
        """Check the configuration of node a, and start it."""
        folder = self.secrets / "node"
        for name in ("certs", "shared"):
            (folder / name).mkdir()
        keep_secret(folder / "shared" / "secret")
        PrivateCA(folder / "shared")
        leaf, key = leaf_for("example.org"), folder / "certs" / "example.org.key"
        (folder / "certs" / "example.org.crt").write_bytes(leaf.pem_chain)
        key.write_bytes(leaf.key_pem)
        key.chmod(0o600)
        config = folder / "a.toml"
        state = self.lab.directory("state")
        config.write_text(self.adapted("a.toml", {"/var/lib/s2sgw": str(state), "/run/s2sgw": str(state)}))
        return config, self.lab.start("s2sgw", [TWISTD, "-n", "--pidfile=", "s2sgw", "--config", str(config)], folder, {"PYTHONPATH": str(PROJECT)})

    def until(self, process: Process, done: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            self.assertTrue(process.alive and time.monotonic() < end, process.output(30))
            time.sleep(0.05)

    def test_joins(self) -> None:
        """The servers find each other by TLS. A node with its credentials makes the streams, joins, and is ready."""
        server = [self.server(name) for name in SERVERS][-1]
        config, process = self.node()
        self.until(process, lambda: "joined" in process.output(100) and "ready" in process.output(100))
        command = [str(Path(TWISTD).with_name("s2sgw"))]
        for words in (["check"], ["cluster", "status"]):
            done = subprocess.run([*command, *words, "--config", str(config)], capture_output=True, text=True, check=False)
            self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        self.assertEqual(0, process.stop())
        for port in self.health:
            self.until(server, partial(_healthy, port))


def _healthy(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5.0) as answer:
            return b'"ok"' in answer.read()
    except URLError:
        return False
