"""Tests of the nodes as servers reach them, on the engine in memory with several nodes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.engine import EngineGone
from s2sgw.composition.server_nodes import NodeDirectory, server_name
from s2sgw.config import Backend, Config
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain
from tests.support.cluster_node import Node, Nodes

P = Domain.parse("p.example")


def configuration(*backends: Backend) -> Config:
    """Return a configuration with these backends. Each serves its domains, or a.example and b.example."""
    every = [Domain.parse("b.example"), Domain.parse("a.example")]
    return cast(Config, SimpleNamespace(backends=backends, domains_of=lambda backend: backend.domains or every))


def backend(listen: str = "tcp:15270:interface=192.0.2.1", **keys: Any) -> Backend:
    return Backend.model_validate({"listen": listen, **keys})


class ServerNodesTests(SynchronousTestCase):
    """Three nodes: `a` at 192.0.2.1, `b` at 192.0.2.2, and `c` at 192.0.2.3."""

    def setUp(self) -> None:
        self.nodes = Nodes()
        for name in "abc":
            node = self.nodes[name]
            host = node.listener.partition(":")[0]
            self.directory(node).adopt(configuration(backend(f"tcp:15270:interface={host}")))
        self.nodes.pass_time(1.0)

    def directory(self, node: Node, listen: str = "") -> NodeDirectory:
        return NodeDirectory(node.members, node.homes, listen or f"tcp:5271:interface={node.listener.partition(':')[0]}", self.nodes.clock)

    def ranked(self, name: str = "a", peer: str = "p.example", **keys: Any) -> list[tuple[int, str]]:
        own = backend(**keys)
        found: list[tuple[int, str]] = self.successResultOf(self.directory(self.nodes[name]).of(configuration(own), own).ranked(peer))
        return found

    def test_home_first(self) -> None:
        """The home is first. Without a home, or for a name that is none, this node is."""
        self.assertEqual([(0, "a"), (10, "b"), (10, "c")], self.ranked())
        self.assertEqual([(0, "a"), (10, "b"), (10, "c")], self.ranked(peer="a b"))
        self.nodes["b"].claim(P)
        self.assertEqual([[(0, "b"), (10, "a"), (10, "c")]] * 2, [self.ranked(), self.ranked("b")])
        self.nodes["a"].claim(Domain.parse("q.example"))
        self.assertEqual([(0, "a"), (10, "b"), (10, "c")], self.ranked(peer="q.example"))

    def test_engine(self) -> None:
        """An engine that does not answer, and a record of a newer version, leave this node the first."""
        self.nodes["b"].claim(P)
        self.nodes["a"].engine.refuse(EngineGone("no"))
        self.assertEqual((0, "a"), self.ranked()[0])
        self.nodes["a"].engine.go_on()
        self.nodes.store.claim(Domain.parse("new.example"), b'{"version":2}', 0)
        self.assertEqual((0, "a"), self.ranked(peer="new.example")[0])

    def test_dead_and_draining(self) -> None:
        """A dead node, and one that drains, are left out. A node without a lease is the last."""
        self.nodes["b"].claim(P)
        self.nodes.die("b")
        self.nodes["c"].members.drain()
        self.nodes.pass_time(5.0)
        self.assertEqual([(0, "a")], self.ranked())
        self.nodes = Nodes("ab")
        self.directory(self.nodes["b"]).adopt(configuration(backend("tcp:15270:interface=192.0.2.2")))
        self.nodes.pass_time(1.0)
        self.nodes["a"].members.drain()
        self.assertEqual([(10, "b"), (20, "a")], self.ranked())

    def test_addresses(self) -> None:
        """Each living node has the address that it tells; one that it does not tell, or that is none, is not known."""
        own = backend()
        found = self.directory(self.nodes["a"]).of(configuration(own), own)
        self.assertEqual(HostPort("192.0.2.1", 15270), found.address("a"))
        self.assertEqual(HostPort("192.0.2.2", 15270), found.address("b"))
        self.assertEqual(None, found.address("d"))
        self.nodes["b"].members.inner = (("a.example", "192.0.2.2:x"),)
        self.nodes.pass_time(1.0)
        self.assertEqual(None, found.address("b"))
        self.directory(self.nodes["b"]).adopt(configuration())
        self.nodes.pass_time(1.0)
        self.assertEqual(([(0, "a"), (10, "c")], None), (self.ranked(), found.address("b")))

    def test_several_servers(self) -> None:
        """Each server gets the listeners for it alone."""
        one, other = backend("tcp:15270:interface=192.0.2.2", domains=["a.example"]), backend("tcp:15271:interface=192.0.2.2", domains=["b.example"])
        config = configuration(one, other)
        self.directory(self.nodes["b"]).adopt(config)
        self.nodes.pass_time(1.0)
        places = [self.directory(self.nodes["a"]).of(config, each).address("b") for each in (one, other)]
        self.assertEqual([HostPort("192.0.2.2", 15270), HostPort("192.0.2.2", 15271)], places)

    def test_own_place(self) -> None:
        """An inner listener on all addresses is at that of the node. One on loopback is told to nodes of the same machine only."""
        node = self.nodes["a"]
        for listen, inner, place in (
            ("", "tcp:15270", "192.0.2.1:15270"), ("", "tcp:15270:interface=127.0.0.1", None), ("", "unix:/run/inner", None),
            ("tcp:5271:interface=127.0.0.1", "tcp:15270:interface=127.0.0.2", "127.0.0.2:15270"),
            ("", "tcp:15270:interface=192.0.2.99", "192.0.2.99:15270"), ("", "tcp:15270:interface=here.example", None),
        ):
            directory, own = self.directory(node, listen), backend(inner)
            directory.adopt(configuration(own, Backend(kind="echo")))
            self.assertEqual((("a.example", place),) if place else (), node.members.inner)
            nodes = directory.of(configuration(own), own)
            self.assertEqual(None if place is None else HostPort.parse(place, 0), nodes.address("a"))
            first = self.successResultOf(nodes.ranked("p.example"))[0]
            self.assertEqual(((0, "a" if place else ""), first[1]), (first, nodes.own))

    def test_server_name(self) -> None:
        """It is the least of the domains, the same on all nodes."""
        own = backend()
        self.assertEqual("a.example", server_name(configuration(own), own))
