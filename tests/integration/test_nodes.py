"""Two gateways on a real NATS server: they join before they listen, refuse other settings, and go without a trace.

Skipped where nats-server is not installed. `make cluster` is the test under load and faults.
"""

from __future__ import annotations

import contextlib
import io
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.runtime.state_directory import keep_secret
from tests.integration.test_loopback import load_hello
from tests.lab.cluster_demo import CERTIFICATES, HELLO_PORT, DemoNode, configuration
from tests.lab.lab import Lab
from tests.lab.nats import nats_server
from tests.support.certificates import leaf_for, shared_root
from tests.support.jetstream_engines import started

#: Seconds within which something must happen. Nothing waits for so long unless it fails.
PATIENCE = 60.0


class NodesTests(SynchronousTestCase):
    """Tests of the start and the end of nodes."""

    skip = None if nats_server() else "nats-server is not installed"

    def setUp(self) -> None:
        self.lab = Lab()
        self.addCleanup(self.lab.close)
        self.engine = started(1).urls
        self.shared = self.lab.directory("shared")
        keep_secret(self.shared / "secret")
        certificates = self.lab.directory("certificates")
        (certificates / "gateway").mkdir()
        (certificates / "ca").mkdir()
        leaf, key = leaf_for("example.org"), certificates / "gateway" / "example.org.key"
        (certificates / "gateway" / "example.org.crt").write_bytes(leaf.pem_chain)
        key.write_bytes(leaf.key_pem)
        key.chmod(0o600)
        (certificates / "ca" / "ca.crt").write_bytes(shared_root().pem)
        self.certificates = certificates

    def node(self, name: str, old: str = "", new: str = "") -> DemoNode:
        """Start a node. `old` of its configuration is replaced by `new`."""
        node = DemoNode(name, self.lab.port(), self.lab.directory(name))
        text = configuration(name, node.port, self.lab.port(), self.engine, self.shared)
        text = text.replace(str(CERTIFICATES), str(self.certificates))
        node.config.write_text(text.replace(old, new) if old else text, encoding="utf-8")
        node.start(self.lab)
        return node

    def output(self, node: DemoNode) -> str:
        assert node.process is not None
        return node.process.output(100)

    def until(self, node: DemoNode, done: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            if time.monotonic() > end:
                self.fail(self.output(node))
            time.sleep(0.05)

    def ready(self, *nodes: DemoNode) -> None:
        for node in nodes:
            self.until(node, lambda node=node: " ready " in self.output(node))  # type: ignore[misc]

    def listens(self, node: DemoNode) -> bool:
        try:
            socket.create_connection(("127.0.0.1", node.port), 1.0).close()
        except OSError:
            return False
        return True

    def ended(self, node: DemoNode) -> int | None:
        process = node.process
        assert process is not None
        self.until(node, lambda: not process.alive)
        return process.status

    def test_life(self) -> None:
        """Nodes join and listen. One with another domain is refused in words. One that is killed is missed, one that stops leaves."""
        a, b = self.node("a"), self.node("b")
        self.ready(a, b)
        self.assertTrue(self.listens(a))
        self.assertTrue(self.listens(b))
        other = self.node("c")
        self.ready(other)
        differs = self.node("d", 'node = "d"', 'node = "d"\nlease = "4s"')
        self.assertEqual(1, self.ended(differs))
        self.assertIn("cluster.lease must be the same on all nodes", self.output(differs))
        self.assertFalse(self.listens(differs))
        assert a.process is not None
        a.process.kill()
        self.until(b, lambda: "node gone node=a" in self.output(b))
        assert b.process is not None
        b.process.signal(15)
        self.assertEqual(0, self.ended(b))
        self.assertNotIn("Traceback", self.output(b))
        self.until(other, lambda: "node gone node=b" in self.output(other))

    def command(self, node: DemoNode, *words: str) -> str:
        """Return what `s2sgw` prints on a node."""
        argv = [sys.executable, "-c", "from s2sgw.cli.main import main; main()", *words, "--config", str(node.config)]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout

    def send(self, node: DemoNode) -> None:
        """Send a message as peer.example, whose port is closed: the echo waits at the home."""
        leaf, folder = leaf_for("peer.example"), self.lab.directory("peer")
        (folder / "peer.crt").write_bytes(leaf.pem_chain)
        (folder / "peer.key").write_bytes(leaf.key_pem)
        peer = load_hello().Peer("peer.example", self.certificates / "ca" / "ca.crt", folder / "peer.crt")
        with contextlib.redirect_stdout(io.StringIO()):
            peer.send_message(("127.0.0.1", node.port), "example.org", "hello").connection.close()

    def test_hold(self) -> None:
        """A peer that an operator holds on one node is not delivered by the next home, until it is released there."""
        place = self.lab.port()
        a, b = (self.node(name, f":{HELLO_PORT}", f":{place}") for name in "ab")
        self.ready(a, b)
        self.send(a)
        self.until(a, lambda: '"stanzas": 1' in self.command(a, "queue", "list", "--json"))
        self.command(a, "queue", "hold", "peer.example")
        with socket.create_server(("127.0.0.1", place)) as listener:
            listener.settimeout(PATIENCE)
            assert a.process is not None
            a.process.kill()
            self.until(b, lambda: '"stanzas": 1' in self.command(b, "queue", "list", "--json"))
            self.assertIn('"held":["peer.example"]', "".join(self.command(b, "queue", "list", "--json").split()))
            listener.settimeout(3.0)
            self.assertRaises(TimeoutError, listener.accept)
            listener.settimeout(PATIENCE)
            self.command(b, "queue", "release", "peer.example")
            listener.accept()[0].close()

    def test_no_engine(self) -> None:
        """A node whose engine is away opens nothing."""
        node = self.node("a", self.engine[0], f"nats://127.0.0.1:{self.lab.port()}")
        self.until(node, lambda: " joining " in self.output(node))
        assert node.process is not None
        self.assertFalse(self.listens(node))
        node.process.signal(15)
        self.assertEqual(0, self.ended(node))
        self.assertNotIn(" ready ", self.output(node))
