"""Past proofs on several nodes."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.shared_items import PAUSE
from s2sgw.cluster.shared_proofs import FRESH, SharedProofs
from s2sgw.cluster.shared_table import NotChanged
from s2sgw.peerdb.past_proofs import REMEMBERED, LastProof, PastProof
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import leaf_for
from tests.support.coroutines import now
from tests.support.memory_engine import MemoryEngine, MemoryStore
from tests.support.peer_database import NOW, PEER

LEAF = leaf_for("peer.example").der_chain[0]


class Node:
    """The proofs of a node."""

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self.may_change = True
        self.reports: list[str] = []
        self.proofs = SharedProofs(MemoryEngine(store), clock, lambda: self.may_change, b"secret", self.reports.append)
        self.proofs.items.table.start()


class SharedProofsTests(SynchronousTestCase):
    """Two nodes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore()
        self.one, self.other = Node(self.store, self.clock), Node(self.store, self.clock)

    def settle(self) -> None:
        self.clock.pump([PAUSE] * 10)

    def test_proven(self) -> None:
        """A proof counts here at once, and soon on all nodes: there it is not the first one of the peer."""
        self.assertTrue(self.one.proofs.proven(PEER, "pkix", "k", NOW, LEAF))
        last: LastProof | None = None
        for node in (self.one, self.other):
            self.assertEqual(("pkix", None), tuple(
                node.proofs.remembered(PEER, NOW + seconds, 10, REMEMBERED) for seconds in (9, 10)
            ))
            self.assertEqual(([PastProof("peer.example", "pkix", NOW, NOW, 1, "k")], True), (node.proofs.of(PEER), node.proofs.is_proven("peer.example")))
            last = node.proofs.last(PEER)
            assert last is not None
            self.assertEqual([last], list(node.proofs.latest()))
            self.assertGreater(last.expires or 0, NOW)
            self.settle()
        assert last is not None
        self.assertFalse(self.other.proofs.proven(PEER, "dialback", "", NOW + 1))
        self.assertEqual(LastProof("peer.example", "dialback", NOW + 1, last.expires), self.other.proofs.last(PEER))
        self.settle()
        self.assertEqual(["dialback", "pkix"], [proof.method for proof in self.one.proofs.of(PEER)])
        self.assertEqual(("pkix", None), (self.one.proofs.remembered(PEER, NOW, 10, REMEMBERED), self.one.proofs.remembered(PEER, NOW, 10, ["dane"])))
        stranger = Domain.parse("a.peer.example")
        self.assertEqual((None, [], False, None), (
            self.one.proofs.last(stranger), self.one.proofs.of(stranger), self.one.proofs.is_proven("a.peer.example"),
            self.one.proofs.remembered(stranger, NOW, 10, REMEMBERED),
        ))

    def test_at_the_same_time(self) -> None:
        """Proofs that two nodes note at the same time are all kept."""
        self.one.proofs.proven(PEER, "pkix", "k", NOW, LEAF)
        self.other.proofs.proven(PEER, "dane", "k", NOW + 1)
        self.other.proofs.proven(PEER, "pkix", "l", NOW + 2)
        self.settle()
        expected = [PastProof("peer.example", "pkix", NOW, NOW + 2, 1, "l"), PastProof("peer.example", "dane", NOW + 1, NOW + 1, 1, "k")]
        for node in (self.one, self.other):
            self.assertEqual(expected, node.proofs.of(PEER))
            self.assertIsNotNone(next(node.proofs.latest()).expires)

    def test_again(self) -> None:
        """The same proof is written once in a while; with another key at once."""
        self.one.proofs.proven(PEER, "pkix", "k", NOW)
        self.settle()
        before = next(self.store._sequences)
        for node, seconds in ((self.one, 1), (self.other, FRESH - 1)):
            node.proofs.proven(PEER, "pkix", "k", NOW + seconds)
        self.settle()
        self.assertEqual(before + 1, next(self.store._sequences))
        self.other.proofs.proven(PEER, "pkix", "k", NOW + FRESH)
        self.settle()
        self.assertEqual([PastProof("peer.example", "pkix", NOW, NOW + FRESH, 2, "k")], self.one.proofs.of(PEER))
        self.one.proofs.proven(PEER, "pkix", "l", NOW + FRESH + 1)
        self.assertEqual("l", self.one.proofs.of(PEER)[0].key)

    def test_clocks_differ(self) -> None:
        """A node whose clock is behind does not write the same proof each time. Another key is newer than the one that it replaces."""
        self.one.proofs.proven(PEER, "pkix", "k", NOW)
        self.settle()
        before = next(self.store._sequences)
        for seconds in (-2 * FRESH, -100, -1):
            self.assertFalse(self.other.proofs.proven(PEER, "pkix", "k", NOW + seconds))
            self.settle()
        self.assertEqual(before + 1, next(self.store._sequences))
        for seconds in (-100, -50):
            self.other.proofs.proven(PEER, "pkix", "l", NOW + seconds)
            self.settle()
        self.assertEqual([[("l", NOW, 2)]] * 2, [[(proof.key, proof.last, proof.times) for proof in node.proofs.of(PEER)] for node in (self.one, self.other)])
        self.assertEqual(before + 3, next(self.store._sequences))

    def test_forgotten(self) -> None:
        """Proofs that are forgotten are so on all nodes, also those that wait to be written. Without the engine they stay."""
        self.one.proofs.proven(PEER, "pkix", "k", NOW)
        self.settle()
        self.one.proofs.proven(PEER, "dane", "k", NOW)
        self.one.may_change = False
        self.assertRaises(NotChanged, now, self.one.proofs.forget(PEER))
        self.assertEqual(2, len(self.one.proofs.of(PEER)))
        self.one.may_change = True
        self.assertTrue(now(self.one.proofs.forget(PEER)))
        self.settle()
        self.assertEqual(([], []), (self.one.proofs.of(PEER), self.other.proofs.of(PEER)))
        self.assertFalse(now(self.other.proofs.forget(PEER)))
        self.assertTrue(self.other.proofs.proven(PEER, "pkix", "k", NOW))

    def test_unreadable(self) -> None:
        """Proofs that cannot be read are none, and are not overwritten."""
        self.one.proofs.proven(PEER, "pkix", "k", NOW)
        self.settle()
        ((key, entry),) = self.store.content.table.items()
        for old, new in ((b'[["pkix"', b'[["pkix",1'), (b'"expires"', b'"ends"'), (b'"proofs":[[', b'"proofs":[],"x":[[')):
            data = (entry.data or b"").replace(old, new)
            self.assertNotEqual(data, entry.data)
            self.store.put(key, data, None)
            self.assertEqual([], self.other.proofs.of(PEER))
            self.assertIn("cannot be read", self.other.reports.pop())
