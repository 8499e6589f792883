"""`make cluster-demo`: three nodes for one domain and three engine servers on this machine, to be tried by hand (docs/cluster.md).

All files are in a temporary folder, which is removed at the end. The nodes have the built-in echo server behind them, and the
development certificates of `make certs`. Ctrl-C ends everything. A node that you kill is started again after `DOWN` seconds.
"""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from s2sgw.backend.private_ca import PrivateCA
from s2sgw.runtime.state_directory import keep_secret
from tests.lab.demo_traffic import PORT
from tests.lab.gateway import PROJECT, TWISTD
from tests.lab.lab import Lab, LabError, Process
from tests.lab.nats import nats, nats_server
from tests.lab.toml import dumps

NAMES = "abc"
CERTIFICATES = PROJECT / "certs"
#: The port at which the peer waits for the answer: that of `demo_traffic`, and of examples/hello.py.
HELLO_PORT = PORT
#: Seconds until a node that was killed is started again, and between two looks.
DOWN, LOOK = 15.0, 0.5


@dataclass
class DemoNode:
    """One node, its listener for peers, and when it was seen dead (0: it runs)."""

    name: str
    port: int
    folder: Path
    process: Process | None = None
    dead_since: float = 0.0

    @property
    def config(self) -> Path:
        return self.folder / "s2sgw.toml"

    def start(self, lab: Lab) -> None:
        self.dead_since = 0.0
        argv = [TWISTD, "-n", "--pidfile=", "s2sgw", "--config", str(self.config)]
        self.process = lab.start("s2sgw", argv, self.folder, {"PYTHONPATH": str(PROJECT)})


def configuration(name: str, port: int, listen: int, engine: list[str], shared: Path) -> str:
    """Return the s2sgw.toml of a node."""
    return dumps({
        "gateway": {"state": "state", "domains": ["example.org"]},
        "listen": [{"endpoint": f"tcp:{port}:interface=127.0.0.1"}],
        "tls": {"certificates": str(CERTIFICATES / "gateway"), "trust_anchors": str(CERTIFICATES / "ca" / "ca.crt")},
        "dns": {"private_addresses": "allow", "static": {"peer.example": f"127.0.0.1:{HELLO_PORT}"}},
        "backend": {"kind": "echo"},
        "queue": {"disk": "64MB"},
        "cluster": {
            "node": name, "engine": engine, "listen": f"tcp:{listen}:interface=127.0.0.1", "members": ["127.0.0.0/8"], "shared": str(shared),
        },
    })


def build(lab: Lab, engine: list[str]) -> list[DemoNode]:
    """Write the files of all nodes."""
    shared = lab.directory("shared")
    keep_secret(shared / "secret")
    PrivateCA(shared)
    nodes = [DemoNode(name, lab.port(), lab.directory(f"node-{name}")) for name in NAMES]
    for node in nodes:
        node.config.write_text(configuration(node.name, node.port, lab.port(), engine, shared), encoding="utf-8")
    return nodes


def describe(nodes: list[DemoNode], engine: list[str]) -> str:
    """Return what runs, and what to try."""
    python, command = sys.executable, Path(sys.executable).with_name("s2sgw")
    a, b, c = nodes
    assert b.process is not None
    places = f"b=127.0.0.1:{b.port} c=127.0.0.1:{c.port}"
    rows = [
        f"  node {node.name}  127.0.0.1:{node.port}  process {node.process.pid}  {node.config}" for node in nodes if node.process is not None
    ]
    return "\n".join([
        "These run:", *rows, f"  engine  {' '.join(engine)}", "",
        "1. See traffic. In a second terminal:", "",
        f"     cd {PROJECT}",
        f"     {python} -m tests.lab.demo_traffic {places}", "",
        "   A peer sends one number in a second to node b, and prints each one that comes back. Let it run.", "",
        "2. See the nodes. In a third terminal:", "",
        f"     export S2SGW_CONFIG={a.config}",
        f"     {command} cluster status",
        f"     {command} streams",
        f"     {command} peers", "",
        "   You ask node a, and all nodes answer. Node b is the home of one peer, which is peer.example.", "",
        "3. Let a node die. This is kill -9 of node b:", "",
        f"     kill -9 {b.process.pid}", "",
        "   The second terminal shows that the connection is lost. The peer goes to node c, and after some seconds numbers come back",
        "   again. A number that was on its way at that moment may come twice, or be missing: this peer has no XEP-0198.",
        "   Look who took over:", "",
        f"     {command} cluster status", "",
        f"   Node b is started again after {DOWN:.0f} s. This terminal tells you.", "",
        "4. See that stanzas outlast a node. End the peer with Ctrl-C, and let one run that does not listen, for some seconds:", "",
        f"     {python} -m tests.lab.demo_traffic --closed {places}", "",
        "   The echoes cannot be delivered. They wait at the home, and are stored in the engine:", "",
        f"     {command} queue list", "",
        "   The line shows the node. Kill its process (the numbers are above, and in this terminal), and look again some seconds later:",
        "   another node has them. End the peer, and begin the first one again: it gets all of them.", "",
        "5. Spread the homes over the nodes, or see what that would do:", "",
        f"     {command} cluster spread --dry-run", "",
        "Press Ctrl-C here to stop everything.",
    ])


def watch(lab: Lab, nodes: list[DemoNode]) -> None:
    """Start nodes again that have ended."""
    while True:
        time.sleep(LOOK)
        for node in nodes:
            assert node.process is not None
            if node.process.alive:
                continue
            now = time.monotonic()
            if not node.dead_since:
                node.dead_since = now
                print(f"node {node.name} has ended with status {node.process.status}", flush=True)
            elif now - node.dead_since > DOWN:
                lab.stop([node.process])
                node.start(lab)
                print(f"node {node.name} is started again: process {node.process.pid}", flush=True)


def run(lab: Lab) -> None:
    """Start everything, and run until Ctrl-C."""
    servers = nats(lab, 3)
    try:
        print("Starting three engine servers and three nodes…", flush=True)
        servers.start()
        nodes = build(lab, servers.urls)
        for node in nodes:
            node.start(lab)
        for node in nodes:
            assert node.process is not None
            lab.wait_for_port(node.process, node.port, 60.0)
        print(describe(nodes, servers.urls), flush=True)
        watch(lab, nodes)
    except KeyboardInterrupt:
        print("\nstopping", flush=True)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        lab.stop([process for process in lab.processes if process.name == "s2sgw"])
    finally:
        servers.kill()


def main() -> int:
    """Run the command."""
    if nats_server() is None:
        print("nats-server is not installed")
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Lab(own_sessions=True) as lab:
            run(lab)
    except LabError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
