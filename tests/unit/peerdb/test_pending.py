"""Tests of certificates that wait for the operator (R20)."""

from __future__ import annotations

from typing import Any, cast

from s2sgw.peerdb import pending
from s2sgw.peerdb.pending import PendingCertificate, PendingCertificates
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.jid import Domain
from tests.support.peer_database import NOW, OLD, PEER, PeerDatabaseTestCase, database


class PendingTests(PeerDatabaseTestCase):
    """Tests of pending certificates."""

    def setUp(self):
        self.waiting = PendingCertificates(database())

    def pending(self, number: int = 0, domain: str = "peer.example", **changes: Any) -> PendingCertificate:
        facts = {
            "domain": domain, "key": Fingerprint(number.to_bytes(32, "big")), "first": NOW + number, "last": NOW + number, "times": 1,
            "direction": "inbound", "local": "here.example", "address": "192.0.2.1:1", "cause": "awaiting-approval",
            "reasons": ("pkix: …",), "dns": {"posh": None}, "chain": (OLD.der,), **changes,
        }
        return PendingCertificate(**facts)

    def test_again(self):
        """The same certificate again is counted. It is still marked as met on a stream of ours."""
        self.assertTrue(self.waiting.hold(self.pending()))
        self.assertFalse(self.waiting.hold(self.pending(direction="outbound", last=NOW + 5, cause="x")))
        self.assertFalse(self.waiting.hold(self.pending(last=NOW + 9)))
        [found] = self.waiting.list(PEER)
        self.assertEqual((3, NOW, NOW + 9, "outbound"), (found.times, found.first, found.last, found.direction))
        self.assertEqual((OLD.der,), found.chain)
        self.assertEqual(1, len(cast(Any, found.row()["chain"])))

    def test_bounds_of_one_peer(self):
        """The number is limited per peer: certificates met only inbound are removed first, then the oldest. Chains are shortened."""
        self.waiting.hold(self.pending(0, direction="outbound"))
        for number in range(1, pending.PER_PEER + 3):
            self.waiting.hold(self.pending(number))
        kept = [each.key.digest[-1] for each in self.waiting.list(PEER)]
        self.assertEqual([0, *range(4, pending.PER_PEER + 3)], kept)
        self.waiting.hold(self.pending(50, "other.example", chain=(b"x" * (pending.CHAIN_BYTES + 1), *(b"y",) * 20)))
        self.assertEqual(self.waiting.list(Domain.parse("other.example"))[0].chain, (b"y",) * 7)

    def test_bounds_of_all(self):
        """Strangers displace only each other, by domain, and no certificate that we met on streams of our own."""
        self.patch(pending, "PEERS", 3)
        self.waiting = PendingCertificates(database())
        self.waiting.hold(self.pending(0, "wanted.example", direction="outbound"))
        self.waiting.hold(self.pending(1, "one.example"))
        for number in range(2, 20):
            self.waiting.hold(self.pending(number, f"p{number}.evil.example"))
        self.assertEqual([each.domain for each in self.waiting.list()], ["wanted.example", "one.example", "p18.evil.example", "p19.evil.example"])

    def test_over_a_restart(self):
        """Pending certificates are kept over a restart, and removed ones are not."""
        path = self.mktemp()
        store = database(path)
        self.waiting = PendingCertificates(store)
        for number in range(pending.PER_PEER + 3):
            self.waiting.hold(self.pending(number))
        self.waiting.hold(self.pending(5, last=NOW + 99))
        before = self.waiting.list()
        self.result(store.close())
        again = PendingCertificates(database(path))
        self.assertEqual((again.list(), len(before)), (before, pending.PER_PEER))
        self.assertIs(again.find(PEER, self.pending(5).key), again.list()[-1])

    def test_take(self):
        """A certificate is no longer pending after the decision."""
        self.waiting.hold(self.pending())
        self.assertIsNotNone(self.result(self.waiting.take(PEER, self.pending().key)))
        self.assertIsNone(self.result(self.waiting.take(PEER, self.pending().key)))
        self.assertEqual(self.waiting.list(), [])
