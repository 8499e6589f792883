"""Two gateways on a real NATS server: they join before they listen, refuse other settings, and go without a trace.

Skipped where nats-server is not installed. `make cluster` is the test under load and faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import dns.message
import dns.query
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.client import ask, follow, socket_path
from s2sgw.backend.private_ca import PrivateCA
from s2sgw.cluster.jetstream import JetStreamEngine
from s2sgw.cluster.jetstream_api import JetStreamAPI, RequestRefused
from s2sgw.cluster.nats_connection import NATSConnection
from s2sgw.cluster.stream_setup import wanted_streams
from s2sgw.cluster.subjects import PEN_STREAM
from s2sgw.runtime.state_directory import keep_secret
from tests.integration.test_loopback import load_hello
from tests.lab import demo_traffic
from tests.lab.certificates import Certificate
from tests.lab.cluster_demo import CERTIFICATES, HELLO_PORT, DemoNode, configuration
from tests.lab.lab import Lab
from tests.lab.nats import nats, nats_server
from tests.support.certificates import Issued, leaf_for, self_signed, shared_root
from tests.support.jetstream_engines import RECORD_BYTES

#: Seconds within which something must happen. Nothing waits for so long unless it fails.
PATIENCE = 60.0


class NodesTests(SynchronousTestCase):
    """Tests of the start and the end of nodes."""

    skip = None if nats_server() else "nats-server is not installed"

    def setUp(self) -> None:
        self.lab = Lab()
        self.addCleanup(self.lab.close)
        servers = self.servers = nats(self.lab, 1)  # of this test alone: others leave sessions, settings, stanzas and keys in theirs
        servers.start()
        self.addCleanup(servers.kill)
        self.engine = servers.urls
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

    def node(self, name: str, old: object = "", new: object = "", port: int = 0) -> DemoNode:
        """Start a node at `port`; 0: at a free one. `old` of its configuration is replaced by `new`."""
        node = DemoNode(name, port or self.lab.port(), self.lab.directory(name))
        text = configuration(name, node.port, self.lab.port(), self.engine, self.shared)
        text = text.replace(str(CERTIFICATES), str(self.certificates))
        node.config.write_text(text.replace(str(old), str(new)) if old else text, encoding="utf-8")
        node.start(self.lab)
        assert node.process is not None
        self.addCleanup(node.process.kill)
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

    def send(self, node: DemoNode, leaf: Issued | None = None) -> bool:
        """Send a message as peer.example, whose port is closed: the echo waits at the home. Return whether the stream was accepted."""
        leaf, folder = leaf or leaf_for("peer.example"), self.lab.directory("peer")
        (folder / "peer.crt").write_bytes(leaf.pem_chain)
        (folder / "peer.key").write_bytes(leaf.key_pem)
        hello = load_hello()
        peer = hello.Peer("peer.example", self.certificates / "ca" / "ca.crt", folder / "peer.crt")
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                peer.send_message(("127.0.0.1", node.port), "example.org", "hello").close()
            except (hello.UnexpectedAnswer, OSError):
                return False
        return True

    def test_hold(self) -> None:
        """A peer that an operator holds on one node is not delivered by the next home, until it is released there."""
        place = self.lab.port()
        a, b = (self.node(name, f":{HELLO_PORT}", f":{place}") for name in "ab")
        self.ready(a, b)
        self.assertTrue(self.send(a))
        self.until(a, lambda: '"stanzas": 1' in self.command(a, "queue", "list", "--json"))
        self.command(a, "queue", "hold", "peer.example")
        with socket.create_server(("127.0.0.1", place)) as listener:
            listener.settimeout(PATIENCE)
            assert a.process is not None
            a.process.kill()
            self.until(b, lambda: '"stanzas": 1' in self.command(b, "queue", "list", "--json", "--here"))
            self.assertIn('"held":["peer.example"]', "".join(self.command(b, "queue", "list", "--json", "--here").split()))
            listener.settimeout(3.0)
            self.assertRaises(TimeoutError, listener.accept)
            listener.settimeout(PATIENCE)
            self.command(b, "queue", "release", "peer.example")
            listener.accept()[0].close()

    def test_demo_traffic(self) -> None:
        """The peer of `make cluster-demo` shows numbers that come back, then that its node has died, and numbers by the other node."""
        place, told = self.lab.port(), list[str]()
        a, b = (self.node(name, f":{HELLO_PORT}", f":{place}") for name in "ab")
        self.ready(a, b)
        leaf, folder = leaf_for("peer.example"), self.lab.directory("demo-peer")
        certificate = Certificate(folder / "peer.crt", folder / "peer.key")
        certificate.chain.write_bytes(leaf.pem_chain)
        certificate.key.write_bytes(leaf.key_pem)
        self.patch(demo_traffic, "PACE", 0.1)
        traffic = demo_traffic.Traffic([demo_traffic.Place("a", a.port), demo_traffic.Place("b", b.port)], certificate, told.append)
        receiver = traffic.listen(self.lab, place)
        running = threading.Thread(target=traffic.run)
        running.start()
        try:
            self.until(a, lambda: len(traffic.echoed) >= 3)
            assert a.process is not None
            a.process.kill()
            self.until(b, lambda: "connected to node b" in told)
            before = len(traffic.echoed)
            self.until(b, lambda: len(traffic.echoed) >= before + 3)
        finally:
            traffic.stopping.set()
            running.join(PATIENCE)
            receiver.close()
        self.assertEqual(["connected to node a", "1 sent to node a"], told[:2])
        self.assertIn("numbers were sent", traffic.summary())
        self.assertEqual(sorted(set(traffic.echoed)), list(dict.fromkeys(traffic.echoed)))

    def test_dns_view(self) -> None:
        """The DNS view of each node leads the server to the home of a peer first, then to the others, and not to a dead node."""
        PrivateCA(self.shared)
        views, inner, nodes = [self.lab.port(), self.lab.port()], [self.lab.port(), self.lab.port()], []
        for name, view, port in zip("ab", views, inner, strict=True):
            backend = f'kind = "s2s"\naddress = "127.0.0.1:{self.lab.port()}"\nlisten = "tcp:{port}:interface=127.0.0.1"\ndns_view = "127.0.0.1:{view}"'
            nodes.append(self.node(name, 'kind = "echo"', backend))
        a, b = nodes
        self.ready(a, b)
        both = [f"0 0 {inner[1]} b.nodes.s2sgw.internal.", f"10 0 {inner[0]} a.nodes.s2sgw.internal."]
        self.until(b, lambda: self.asked(views[1], "_xmpp-server._tcp.peer.example", "SRV") == both)
        self.assertTrue(self.send(a))
        home = [f"0 0 {inner[0]} a.nodes.s2sgw.internal.", f"10 0 {inner[1]} b.nodes.s2sgw.internal."]
        for node, view in zip(nodes, views, strict=True):
            self.until(node, lambda view=view: self.asked(view, "_xmpp-server._tcp.peer.example", "SRV") == home)  # type: ignore[misc]
        self.assertEqual(["127.0.0.1"], self.asked(views[1], "a.nodes.s2sgw.internal", "A"))
        assert a.process is not None
        a.process.kill()
        self.until(b, lambda: self.asked(views[1], "_xmpp-server._tcp.peer.example", "SRV") == [f"0 0 {inner[1]} b.nodes.s2sgw.internal."])

    def asked(self, view: int, name: str, kind: str) -> list[str]:
        """Return the records that a DNS view answers with, in order."""
        answer = dns.query.udp(dns.message.make_query(name, kind), "127.0.0.1", port=view, timeout=PATIENCE)
        return sorted(record.to_text() for rrset in answer.answer for record in rrset)

    def refused(self, node: DemoNode, words: str) -> None:
        """Check that a start ends with status 1 and these words, and that nothing was opened."""
        self.assertEqual(1, self.ended(node))
        self.assertIn(words, self.output(node))
        self.assertNotIn(" ready ", self.output(node))
        self.assertNotIn("Traceback", self.output(node))

    def test_other_secret(self) -> None:
        """A node whose dialback secret is another one is refused, while a node with the first one lives."""
        a = self.node("a")
        self.ready(a)
        other = self.lab.directory("other")
        keep_secret(other / "secret")
        self.refused(self.node("b", self.shared, other), "the file secret in cluster.shared must be the same on all nodes")
        assert a.process is not None
        a.process.signal(15)
        self.assertEqual(0, self.ended(a))

    def test_old_engine(self) -> None:
        """An engine before the version that is needed is refused."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            threading.Thread(target=self.greet, args=(server,), daemon=True).start()
            node = self.node("a", self.engine[0], f"nats://127.0.0.1:{server.getsockname()[1]}")
            self.refused(node, "the engine is NATS 2.9, and must be 2.15 or later")

    @staticmethod
    def greet(server: socket.socket) -> None:
        """Greet each client as NATS 2.9 does, and answer its pings."""
        information = {"server_id": "N", "version": "2.9.10", "proto": 1, "headers": True, "max_payload": 4 << 20}
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                client.sendall(f"INFO {json.dumps(information)}\r\n".encode())
                while data := client.recv(4096):
                    client.sendall(b"PONG\r\n" * data.count(b"PING\r\n"))

    def test_records_of_others(self) -> None:
        """Settings of a newer version, and a stream that would not survive its server, end the start. Nothing is changed."""
        stream = next(each for each in wanted_streams(1, 1 << 20) if each["name"] == PEN_STREAM)
        for change, words in (({"storage": "memory"}, "the engine's stream S2SGW_PEN is in memory"), ({}, "has version 99")):
            asyncio.run(self.prepare({**stream, **change}))
            self.refused(self.node("a"), words)

    async def prepare(self, stream: dict[str, Any]) -> None:
        """Make a stream anew, and let the settings of all nodes be of a newer version, if their stream can be made."""
        loop = asyncio.get_running_loop()
        connection = NATSConnection(self.engine, None, loop)
        api = JetStreamAPI(connection, loop.time)
        connection.open()
        with contextlib.suppress(RequestRefused):
            await api.question(api.call, f"STREAM.DELETE.{stream['name']}", {})
        await api.question(api.call, f"STREAM.CREATE.{stream['name']}", stream)
        await connection.close()
        if stream["storage"] == "file":
            engine = JetStreamEngine(self.engine, loop, record_bytes=RECORD_BYTES, shard_bytes=1 << 20)
            await Deferred.fromCoroutine(engine.open(PATIENCE)).asFuture(loop)
            await Deferred.fromCoroutine(engine.put("cluster", b'{"version":99,"settings":{}}', 0)).asFuture(loop)
            await Deferred.fromCoroutine(engine.close()).asFuture(loop)

    def test_shared_port(self) -> None:
        """Two nodes listen on one port. One that does not say so is refused in words. When one is killed, the other has all connections."""
        port = self.lab.port()
        endpoint = f"tcp:{port}:interface=127.0.0.1"
        a, b = (self.node(name, endpoint, f"{endpoint}:reuseport=yes", port) for name in "ab")
        self.ready(a, b)
        other = self.node("c", port=port)
        self.assertEqual(1, self.ended(other))
        self.assertIn("all need reuseport=yes and one user", self.output(other))
        self.assertIn("is good", self.command(a, "check"))
        with self.assertRaises(subprocess.CalledProcessError) as refused:
            self.command(other, "check")
        self.assertEqual((2, True), (refused.exception.returncode, "add :reuseport=yes" in refused.exception.stderr))
        assert a.process is not None
        a.process.kill()
        for _ in range(20):
            self.assertTrue(self.listens(b))

    def test_approval(self) -> None:
        """A certificate that one node has refused is approved on the other, and let in on the first. Its revocation closes the stream."""
        a, b = (self.node(name, "[queue]", '[peers.default]\nunknown_issuer = "ask"\n\n[queue]') for name in "ab")
        self.ready(a, b)
        stranger = self_signed(dns=["peer.example"])
        self.assertFalse(self.send(a, stranger))
        self.until(b, lambda: "peer.example" in self.command(b, "pending", "--json"))
        self.command(b, "pins", "approve", "peer.example")
        self.until(a, lambda: "peer.example" not in self.command(a, "pending", "--json"))
        self.assertTrue(self.send(a, stranger))
        self.until(a, lambda: '"stanzas": 1' in self.command(a, "queue", "list", "--json"))
        (key,) = set(re.findall("sha256:[0-9a-f]{64}", self.command(a, "pins", "list", "--json")))
        self.command(b, "pins", "revoke", "peer.example", key)
        self.assertFalse(self.send(a, stranger))

    def end(self, node: DemoNode) -> None:
        """Stop a node in order."""
        assert node.process is not None
        node.process.signal(15)
        self.assertEqual(0, self.ended(node))

    def again(self, node: DemoNode) -> None:
        """Start a node again."""
        node.start(self.lab)
        assert node.process is not None
        self.addCleanup(node.process.kill)
        self.until(node, lambda: self.listens(node))

    def test_denied_meanwhile(self) -> None:
        """A node that was away learns which peers were denied meanwhile, and which are denied no longer."""
        a, b = self.node("a"), self.node("b")
        self.ready(a, b)
        self.until(a, partial(self.shows, a, b))
        self.ask(a, "deny", peer="pardoned.example")
        self.assertEqual(["pardoned.example"], self.ask(b, "deny list"))
        self.end(b)
        self.assertTrue(self.ask(a, "deny", peer="peer.example")["changed"])
        self.assertTrue(self.ask(a, "deny", peer="pardoned.example", undo=True)["changed"])
        self.again(b)
        self.assertEqual(["peer.example"], self.ask(b, "deny list"))
        self.assertFalse(self.send(b))
        audit = b.folder / "state" / "audit.log"
        self.until(b, lambda: audit.read_text().count('"by": "the cluster"') == 2)

    def counts(self, node: DemoNode) -> list[bool]:
        return [row["counts"] for row in self.ask(node, "pins list", peer="peer.example")]

    def revoked_meanwhile(self) -> tuple[DemoNode, DemoNode, Issued]:
        """Return two nodes, and a peer whose key was approved while both ran, and revoked on the first one while the second was away."""
        a, b = (self.node(name, "[queue]", '[peers.default]\nunknown_issuer = "ask"\n\n[queue]') for name in "ab")
        self.ready(a, b)
        stranger = self_signed(dns=["peer.example"])
        self.assertFalse(self.send(a, stranger))
        self.ask(a, "pins approve", peer="peer.example")
        self.until(b, lambda: self.counts(b) == [True])
        self.end(b)
        (key,) = [row["key"] for row in self.ask(a, "pins list", peer="peer.example")]
        self.ask(a, "pins revoke", peer="peer.example", key=key)
        return a, b, stranger

    def lose_store(self) -> None:
        self.servers.kill()
        for server in self.servers.servers:
            shutil.rmtree(server.folder / "store")
        self.servers.start()

    def test_revoked_before_the_store_was_lost(self) -> None:
        """An older approval of the first node that starts counts until the node that knows the revocation joins."""
        a, b, stranger = self.revoked_meanwhile()
        self.end(a)
        self.lose_store()
        self.again(b)
        self.assertEqual([True], self.counts(b))
        self.again(a)
        self.until(b, lambda: self.counts(b) == [False])
        self.assertEqual([False], self.counts(a))
        self.assertFalse(self.send(b, stranger))
        self.assertIn('"pins restore"', (a.folder / "state" / "audit.log").read_text())

    def test_node_that_runs_while_the_store_is_lost(self) -> None:
        """It ends and is started again. Then its revocation counts on all nodes, although another one has brought an older approval."""
        a, b, stranger = self.revoked_meanwhile()
        self.lose_store()
        self.again(b)
        self.assertEqual(1, self.ended(a))
        self.assertIn("the engine has lost", self.output(a))
        self.again(a)
        self.until(b, lambda: self.counts(b) == [False])
        self.assertEqual([False], self.counts(a))
        self.assertFalse(self.send(b, stranger))

    def test_no_engine(self) -> None:
        """A node whose engine is away opens nothing."""
        node = self.node("a", self.engine[0], f"nats://127.0.0.1:{self.lab.port()}")
        self.until(node, lambda: " joining " in self.output(node))
        assert node.process is not None
        self.assertFalse(self.listens(node))
        node.process.signal(15)
        self.assertEqual(0, self.ended(node))
        self.assertNotIn(" ready ", self.output(node))

    def ask(self, node: DemoNode, verb: str, **arguments: Any) -> Any:
        return ask(socket_path(node.config), verb, arguments)

    def shows(self, node: DemoNode, other: DemoNode) -> bool:
        return [row["node"] for row in self.ask(node, "status")["nodes"]] == [other.name]

    def test_commands(self) -> None:
        """Any node shows all of them. A hold is made by the home of the peer, wherever it is asked for, and noted there."""
        a, b = self.node("a"), self.node("b")
        self.ready(a, b)
        for node, other in ((a, b), (b, a)):
            self.until(node, partial(self.shows, node, other))
        self.assertEqual(["a"], [row["node"] for row in self.ask(b, "cluster status")["nodes"]])
        self.assertNotIn("nodes", self.ask(b, "cluster status", here=True))
        self.assertEqual("a", self.ask(a, "queue hold", target=["held.example"])["node"])
        self.assertEqual("a", self.ask(b, "queue hold", target=["held.example", "example.org"])["node"])
        self.until(b, lambda: [len(row["held"]) for row in self.ask(b, "queue list", peer="held.example")] == [2])
        self.assertIn('"admin socket of node b"', (a.folder / "state" / "audit.log").read_text())
        self.assertEqual(("a", 2), itemgetter("node", "holds")(self.ask(b, "queue release", target=["held.example"])))
        self.assertEqual((True, ["b"]), itemgetter("changed", "nodes")(self.ask(a, "deny", peer="bad.example")))
        self.assertEqual(["bad.example"], self.ask(b, "deny list"))
        self.assertIn('"deny", "by": "admin socket of node a"', (b.folder / "state" / "audit.log").read_text())
        self.assertEqual(["a", "b"], sorted(row["node"] for row in self.ask(b, "certs")))
        self.assertEqual([], self.ask(b, "report")["missing"])
        self.assertEqual([], self.ask(b, "names", prefix="zz"))

    def test_watch(self) -> None:
        """`watch` on any node shows the events of all, each with its node."""
        a, b = self.node("a"), self.node("b")
        self.ready(a, b)
        self.until(b, partial(self.shows, b, a))
        events = follow(socket_path(b.config), "watch", {})
        self.assertEqual("watching", next(events)["event"])
        self.ask(b, "status")  # node a has answered behind the first question of the watch
        refused: list[dict[str, Any]] = []

        def read() -> None:
            refused.append(next(row for row in events if row["event"] == "refused"))

        threading.Thread(target=read, daemon=True).start()
        with socket.create_connection(("127.0.0.1", a.port), 1.0) as connection:
            connection.sendall(b"no XML\n")
            self.until(b, lambda: bool(refused))
        self.assertEqual(("a", "bad-xml"), itemgetter("on", "cause")(refused[0]))

    def test_spread(self) -> None:
        """A node that comes gets its part of the homes."""
        a = self.node("a")
        self.ready(a)
        for number in range(6):
            self.assertEqual("a", self.ask(a, "queue flush", target=[f"p{number}.example"])["node"])
        b = self.node("b")
        self.ready(b)
        self.until(b, partial(self.shows, b, a))
        answer = self.ask(b, "cluster spread")
        self.assertEqual(([], [], []), (answer["plan"], answer["kept"], answer["missing"]))
        self.assertGreaterEqual(len(answer["moved"]), 2)
        for row in answer["moved"]:
            self.assertEqual(("a", "b"), (row["from"], row["to"]))
            self.assertEqual("b", self.ask(a, "queue flush", target=[row["peer"]])["node"])
        self.assertLessEqual(abs(answer["homes"]["a"] - answer["homes"]["b"]), 1)
