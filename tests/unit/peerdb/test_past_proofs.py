"""By what peers were proven before."""

from __future__ import annotations

from s2sgw.peerdb import past_proofs
from s2sgw.peerdb.past_proofs import FRESH, PastProofs
from s2sgw.xmpp.jid import Domain
from tests.support.peer_database import HERE, NOW, PEER, PeerDatabaseTestCase, database


class PastProofsTests(PeerDatabaseTestCase):
    def setUp(self) -> None:
        self.path = self.mktemp()
        self.store = database(self.path)
        self.proofs = PastProofs(self.store)

    def test_remembered(self) -> None:
        """The last method that counts, within its time."""
        self.assertTrue(self.proofs.proven(PEER, "pkix", "sha256:a", NOW))
        self.assertFalse(self.proofs.proven(PEER, "dane", "sha256:a", NOW + 10))
        self.assertEqual("dane", self.proofs.remembered(PEER, NOW + 20, 60, ("pkix", "dane")))
        self.assertEqual("pkix", self.proofs.remembered(PEER, NOW + 20, 60, ("pkix",)))
        self.assertIsNone(self.proofs.remembered(PEER, NOW + 70, 60, ("pkix", "dane")))
        self.assertIsNone(self.proofs.remembered(HERE, NOW, 60, ("pkix",)))
        self.assertEqual((self.proofs.is_proven("peer.example"), self.proofs.is_proven("here.example")), (True, False))

    def test_counted(self) -> None:
        """A proof soon after the same is not written again; later, or by another key, it is."""
        for at, key in ((0.0, "a"), (FRESH - 1, "a"), (FRESH, "a"), (FRESH + 1, "b")):
            self.proofs.proven(PEER, "pkix", key, NOW + at)
        [found] = self.proofs.of(PEER)
        self.assertEqual((3, NOW, NOW + FRESH + 1, "b"), (found.times, found.first, found.last, found.key))
        self.assertEqual("pkix", found.row()["method"])

    def test_over_a_restart(self) -> None:
        """Everything is there again."""
        self.proofs.proven(PEER, "pkix", "sha256:a", NOW)
        self.proofs.proven(PEER, "dialback", "sha256:a", NOW + 10)
        before = self.proofs.of(PEER)
        self.result(self.store.close())
        self.assertEqual((PastProofs(database(self.path)).of(PEER), len(before)), (before, 2))

    def test_sub_domains_push_out_each_other(self) -> None:
        """R20: a stranger with a wildcard certificate cannot make the gateway forget how others were proven, now or after a start."""
        self.patch(past_proofs, "NAMES", 10)
        self.proofs = PastProofs(self.store)
        self.proofs.proven(PEER, "pkix", "", NOW)
        for number in range(100):
            self.proofs.proven(Domain.parse(f"a{number}.evil.example"), "pkix", "", NOW + number)
        self.assertEqual(self.proofs.remembered(PEER, NOW + 200, 1000, ("pkix",)), "pkix")
        self.result(self.store.close())
        again = PastProofs(database(self.path))
        self.assertEqual([again.is_proven(name) for name in ("peer.example", "a99.evil.example", "a90.evil.example")], [True, True, False])
