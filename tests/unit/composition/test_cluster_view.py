"""Tests of the view of a node of a cluster."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cli import tables
from s2sgw.cli.text_table import Screen
from s2sgw.cluster.members import OtherNode
from s2sgw.composition.cluster import ClusterParts
from s2sgw.composition.cluster_view import ClusterView


class ClusterViewTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(100)
        self.nodes = [OtherNode("b", "127.0.0.1:2", "alive"), OtherNode("c", "127.0.0.1:3", "silent")]
        self.members = SimpleNamespace(
            lease_until=102.6, heartbeat_at=99.6, session=SimpleNamespace(identity="x1"), others=lambda now: self.nodes,
        )
        engine_failures, spool_failures, other_failures, home_failures = (SimpleNamespace(number=10**power) for power in range(4))
        self.engine = SimpleNamespace(connected=True, problem="an old one", failures=engine_failures)
        new_homes = SimpleNamespace(refused=3)
        table = SimpleNamespace(owned=["p.example", "q.example"], takeovers=1, new_homes=new_homes)
        homes = SimpleNamespace(table=table, old_homes=SimpleNamespace(deleted=4), failures=home_failures)
        parts = SimpleNamespace(
            node="a", members=self.members, engine=self.engine, homes=homes, spool=SimpleNamespace(failures=spool_failures),
            membership=SimpleNamespace(failures=other_failures),
        )
        self.view = ClusterView(cast(ClusterParts, parts), self.clock)

    def shown(self) -> str:
        answer: dict[str, Any] = dict(self.view.status())
        return tables.cluster(answer, Screen(80, bold=False))

    def test_well(self) -> None:
        """A member shows its homes, its lease, the age of its last heartbeat, the others, and the engine."""
        numbers = self.view.numbers()
        self.assertEqual((2, 1, {"alive": 1, "silent": 1}, True), (numbers.homes, numbers.takeovers, numbers.nodes, numbers.connected))
        self.assertEqual((3, 4, 1111), (numbers.homes_refused, numbers.homes_deleted, numbers.failures))
        self.assertAlmostEqual(2.6, numbers.lease)
        self.assertAlmostEqual(0.4, numbers.heartbeat)
        text = self.shown()
        for words in ("a, a member", "2 peers, 1 taken over", "2.6 s", "acknowledged 0.4 s ago", "connected", "c at 127.0.0.1:3: silent"):
            self.assertIn(words, text)
        self.assertLessEqual(max(map(len, text.splitlines())), 80)
        self.assertEqual(["node c of the cluster is silent"], self.view.alerts())
        self.assertEqual("x1", self.view.status()["session"])

    def test_without_engine(self) -> None:
        """Without the engine the lease ends. The alert and the command say why."""
        self.engine.connected, self.engine.problem, self.nodes = False, "nats://b: refused", []
        self.clock.advance(5)
        self.assertEqual(0, self.view.numbers().lease)
        self.assertIn("over: nothing is written to streams", self.shown())
        self.assertIn("not connected: nats://b: refused", self.shown())
        self.assertEqual(["no connection to the engine of the cluster: nats://b: refused"], self.view.alerts())

    def test_engine_that_does_not_write(self) -> None:
        """An engine that acknowledges nothing is an alert, also while the bridge holds."""
        self.nodes, self.members.lease_until = [], 110.0
        self.clock.advance(5)
        (alert,) = self.view.alerts()
        self.assertEqual("the engine of the cluster has acknowledged no heartbeat for 5 s", alert)

    def test_not_joined(self) -> None:
        """A node that has not joined has no lease and no heartbeat."""
        self.nodes, self.members.session = [], None
        self.members.heartbeat_at = self.members.lease_until = -inf
        self.assertIsNone(self.view.status()["heartbeat"])
        self.assertEqual(0, self.view.status()["lease"])
        self.assertIn("not joined", self.shown())
        self.assertIn("none is acknowledged", self.shown())
        self.assertEqual(["this node has not joined the cluster"], self.view.alerts())
