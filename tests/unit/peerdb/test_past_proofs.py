"""Tests of the methods by which peers were proven before."""

from __future__ import annotations

import contextlib
import sqlite3

from twisted.internet.defer import Deferred

from s2sgw.peerdb import past_proofs
from s2sgw.peerdb.past_proofs import FRESH, LastProof, PastProofs
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import leaf_for
from tests.support.peer_database import HERE, NOW, PEER, PeerDatabaseTestCase, database


class PastProofsTests(PeerDatabaseTestCase):
    def setUp(self) -> None:
        self.path = self.mktemp()
        self.store = database(self.path)
        self.proofs = PastProofs(self.store)

    def test_remembered(self) -> None:
        """The last method that counts is remembered for its time."""
        self.assertTrue(self.proofs.proven(PEER, "pkix", "sha256:a", NOW))
        self.assertFalse(self.proofs.proven(PEER, "dane", "sha256:a", NOW + 10))
        self.assertEqual("dane", self.proofs.remembered(PEER, NOW + 20, 60, ("pkix", "dane")))
        self.assertEqual("pkix", self.proofs.remembered(PEER, NOW + 20, 60, ("pkix",)))
        self.assertIsNone(self.proofs.remembered(PEER, NOW + 70, 60, ("pkix", "dane")))
        self.assertIsNone(self.proofs.remembered(HERE, NOW, 60, ("pkix",)))
        self.assertEqual((self.proofs.is_proven("peer.example"), self.proofs.is_proven("here.example")), (True, False))

    def test_counted(self) -> None:
        """The same proof again soon is not written. Later, or with another key, it is."""
        for at, key in ((0.0, "a"), (FRESH - 1, "a"), (FRESH, "a"), (FRESH + 1, "b")):
            self.proofs.proven(PEER, "pkix", key, NOW + at)
        [found] = self.proofs.of(PEER)
        self.assertEqual((3, NOW, NOW + FRESH + 1, "b"), (found.times, found.first, found.last, found.key))
        self.assertEqual("pkix", found.row()["method"])

    def test_one_key_of_many(self) -> None:
        """A key that proves thousands of sub-domains is in memory once, also after a restart."""
        for number in range(3):
            key = "".join(("sha256:", "a" * 64))  # a new object each time
            self.proofs.proven(Domain.parse(f"a{number}.example"), "pkix", key, NOW)
        self.result(self.store.close())
        for proofs in (self.proofs, PastProofs(database(self.path))):
            self.assertEqual(len({id(proofs.of(Domain.parse(f"a{number}.example"))[0].key) for number in range(3)}), 1)

    def test_over_a_restart(self) -> None:
        """Everything is kept over a restart."""
        self.proofs.proven(PEER, "pkix", "sha256:a", NOW)
        self.proofs.proven(PEER, "dialback", "sha256:a", NOW + 10)
        before = self.proofs.of(PEER)
        self.result(self.store.close())
        self.assertEqual((PastProofs(database(self.path)).of(PEER), len(before)), (before, 2))

    def test_sub_domains_push_out_each_other(self) -> None:
        """R20: a stranger with a wildcard certificate cannot displace the proofs of others, now or after a restart."""
        self.patch(past_proofs, "NAMES", 10)
        self.proofs = PastProofs(self.store)
        self.proofs.proven(PEER, "pkix", "", NOW)
        for number in range(100):
            self.proofs.proven(Domain.parse(f"a{number}.evil.example"), "pkix", "", NOW + number)
        self.assertEqual(self.proofs.remembered(PEER, NOW + 200, 1000, ("pkix",)), "pkix")
        self.result(self.store.close())
        again = PastProofs(database(self.path))
        self.assertEqual([again.is_proven(name) for name in ("peer.example", "a99.evil.example", "a90.evil.example")], [True, True, False])

    def test_certificate(self) -> None:
        """The expiry of the last certificate is kept over a restart. A peer without one, or with an unreadable one, has none."""
        issued = leaf_for("peer.example")
        expires = issued.certificate.not_valid_after_utc.timestamp()
        self.proofs.proven(PEER, "pkix", "a", NOW, issued.der)
        self.proofs.proven(PEER, "dialback", "a", NOW + 10, issued.der)
        self.proofs.proven(HERE, "dialback", "", NOW, b"nonsense")
        expected = [LastProof("peer.example", "dialback", NOW + 10, expires), LastProof("here.example", "dialback", NOW, None)]
        self.assertEqual(expected, [self.proofs.last(PEER), self.proofs.last(HERE)])
        self.result(self.store.close())
        again = PastProofs(database(self.path))
        self.assertEqual(sorted(expected), sorted(again.latest()))
        self.assertIsNone(again.last(Domain.parse("other.example")))

    def test_forgotten(self) -> None:
        """A removed entry stays removed after a restart, and its room is free."""
        self.proofs.proven(PEER, "pkix", "a", NOW, leaf_for("peer.example").der)
        self.proofs.proven(HERE, "pkix", "a", NOW)
        self.assertTrue(self.result(Deferred.fromCoroutine(self.proofs.forget(PEER))))
        self.assertFalse(self.result(Deferred.fromCoroutine(self.proofs.forget(PEER))))
        self.result(self.store.close())
        store = database(self.path)
        again = PastProofs(store)
        self.assertEqual((again.of(PEER), again.last(PEER), again.is_proven("here.example")), ([], None, True))
        self.assertEqual([], store.rows("SELECT * FROM expiry"))

    def test_file_of_an_earlier_version(self) -> None:
        """A file without the table of certificates is used unchanged."""
        self.proofs.proven(PEER, "pkix", "a", NOW)
        self.result(self.store.close())
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute("DROP TABLE expiry")
            connection.commit()
        self.assertEqual(LastProof("peer.example", "pkix", NOW, None), PastProofs(database(self.path)).last(PEER))
