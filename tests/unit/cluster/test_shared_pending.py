"""Certificates that wait for approval, on several nodes (R20)."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.shared_items import PAUSE
from s2sgw.cluster.shared_pending import FRESH, OUTBOUND, SharedPending
from s2sgw.peerdb.pending import CHAIN_BYTES, PER_PEER, PendingCertificate
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.jid import Domain
from tests.support.coroutines import now
from tests.support.memory_engine import MemoryEngine, MemoryStore
from tests.support.peer_database import NEW, NEW_KEY, NOW, OLD, OLD_KEY, PEER


def pending(key: Fingerprint = OLD_KEY, last: float = NOW, **changes: Any) -> PendingCertificate:
    facts: dict[str, Any] = {"domain": "peer.example", "direction": "inbound", "address": "192.0.2.1:5269", "chain": (OLD.der, NEW.der), **changes}
    return PendingCertificate(
        key=key, first=last, last=last, times=1, local="here.example", cause="self-signed",
        reasons=("the chain ends in itself",), dns={"srv": [1]}, **facts,
    )


class Node:
    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self.may_change = True
        self.reports: list[str] = []
        self.pending = SharedPending(MemoryEngine(store), clock, lambda: self.may_change, b"secret", self.reports.append)
        for items in (self.pending.outbound, self.pending.inbound):
            items.table.start()


class SharedPendingTests(SynchronousTestCase):
    """Two nodes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore()
        self.one, self.other = Node(self.store, self.clock), Node(self.store, self.clock)

    def settle(self) -> None:
        self.clock.pump([PAUSE] * 10)

    def test_held(self) -> None:
        """A certificate that waits is known here at once, and soon on all nodes, with its chain. There it is not new."""
        self.assertTrue(self.one.pending.hold(pending()))
        self.assertEqual([pending()], self.one.pending.list(PEER))
        self.settle()
        self.assertEqual(([pending()], [pending()], pending()), (self.other.pending.list(), self.other.pending.list(PEER), self.other.pending.find(PEER, OLD_KEY)))
        self.assertFalse(self.other.pending.hold(pending()))
        self.assertEqual((None, []), (self.other.pending.find(PEER, NEW_KEY), self.other.pending.list(Domain.parse("a.peer.example"))))

    def test_seen_again(self) -> None:
        """A certificate that is seen again is counted once in a while, so that strangers cannot make a node write all the time."""
        self.one.pending.hold(pending())
        self.settle()
        before = next(self.store._sequences)
        for seconds in (1, 2, FRESH - 1):
            self.assertFalse(self.one.pending.hold(pending(last=NOW + seconds)))
        self.settle()
        self.assertEqual(before + 1, next(self.store._sequences))
        self.other.pending.hold(pending(last=NOW + FRESH, address="192.0.2.2:5269"))
        self.settle()
        (found,) = self.one.pending.list()
        self.assertEqual((NOW, NOW + FRESH, 2, "192.0.2.2:5269"), (found.first, found.last, found.times, found.address))

    def test_taken(self) -> None:
        """A certificate that is taken waits on no node any more."""
        self.one.pending.hold(pending())
        self.settle()
        self.assertEqual(pending(), now(self.other.pending.take(PEER, OLD_KEY)))
        self.assertEqual([], self.other.pending.list())
        self.settle()
        self.assertEqual(([], None), (self.one.pending.list(), now(self.one.pending.take(PEER, OLD_KEY))))
        self.assertTrue(self.one.pending.hold(pending()))

    def test_wanted(self) -> None:
        """A certificate that a node meets when it opens a stream is kept apart from those of strangers, from then on."""
        self.one.pending.hold(pending())
        self.settle()
        self.other.pending.hold(pending(direction="outbound", last=NOW + 1))
        self.other.pending.hold(pending(last=NOW + FRESH + 1))
        self.settle()
        (found,) = self.one.pending.list()
        self.assertEqual(("outbound", NOW, 3), (found.direction, found.first, found.times))
        self.assertEqual(([], 1), (list(self.one.pending.inbound.names()), len(list(self.one.pending.outbound.names()))))

    def test_strangers(self) -> None:
        """Strangers push out no certificate that waits for a peer that we want to reach, and the table has a bounded size."""
        self.one.pending.hold(pending(direction="outbound"))
        self.settle()
        for number in range(60):
            for sub in range(PER_PEER + 2):
                chain = (OLD.der, bytes(CHAIN_BYTES - len(OLD.der)))
                self.other.pending.hold(pending(Fingerprint(bytes([number, sub]) * 16), NOW + number, domain=f"a{number % 7}.evil.example", chain=chain))
            self.settle()
        self.assertEqual(1, len([found for found in self.one.pending.list() if found.direction == "outbound"]))
        self.assertLess(sum(len(entry.data or b"") for entry in self.store.content.table.values()), 2 * OUTBOUND.bucket_bytes)

    def test_of_one_peer(self) -> None:
        """Of one peer the newest wait."""
        for number in range(PER_PEER + 3):
            self.one.pending.hold(pending(Fingerprint(bytes([number]) * 32), NOW + number, chain=(b"x",)))
        self.settle()
        self.assertEqual([NOW + number for number in range(3, PER_PEER + 3)], [found.last for found in self.other.pending.list(PEER)])

    def test_long_chain(self) -> None:
        """Of a chain that is too long, a part is kept."""
        self.one.pending.hold(pending(chain=(OLD.der, bytes(CHAIN_BYTES), NEW.der)))
        self.assertEqual([(OLD.der, NEW.der)], [found.chain for found in self.one.pending.list()])
