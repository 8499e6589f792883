"""Tests of the keys that are remembered of peers (R20)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import fail

from s2sgw.peerdb import keys
from s2sgw.peerdb.keys import PeerKeys, key_of
from s2sgw.policy.model import PeerPolicy
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.jid import Domain
from tests.support.peer_database import NEW, NEW_KEY, NOW, OLD, OLD_KEY, PEER, PeerDatabaseTestCase, database, remembered


class KeysTests(PeerDatabaseTestCase):
    """R20: a key that was approved, or first used, must be presented again."""

    def setUp(self):
        self.keys = PeerKeys(database())

    def standing(self, *chain: bytes, **policy: Any) -> str:
        return self.keys.known(PEER, NOW).under(PeerPolicy(**policy)).standing(chain)

    def test_standings(self):
        """R20: a key is unknown, known or changed, or there is none."""
        self.assertEqual(("unknown", "unknown"), (self.standing(OLD.der), self.standing()))
        self.result(self.keys.approve(remembered()))
        self.assertEqual(("known", "changed", "absent"), (self.standing(OLD.der), self.standing(NEW.der), self.standing()))
        self.assertEqual("absent", self.standing(b"unreadable"))

    def test_expiry(self):
        """R20: an approval ends at its given time."""
        self.result(self.keys.approve(remembered(expires=NOW)))
        self.assertEqual("unknown", self.standing(OLD.der))
        self.result(self.keys.approve(remembered(expires=NOW + 1)))
        self.assertEqual("known", self.standing(OLD.der))

    def test_revoked(self):
        """R20: a revoked key is refused. After `forget` it is a stranger's. A new approval makes it valid."""
        self.assertFalse(self.result(self.keys.revoke(PEER, OLD_KEY, NOW)))
        self.result(self.keys.approve(remembered()))
        self.assertTrue(self.result(self.keys.revoke(PEER, OLD_KEY, NOW)))
        self.assertFalse(self.result(self.keys.revoke(PEER, OLD_KEY, NOW)))
        self.assertEqual(("revoked", "unknown"), (self.standing(OLD.der), self.standing(NEW.der)))
        self.result(self.keys.approve(remembered()))
        self.assertEqual("known", self.standing(OLD.der))
        self.assertTrue(self.result(self.keys.forget(PEER, OLD_KEY)))
        self.assertFalse(self.result(self.keys.forget(PEER, OLD_KEY)))

    def test_what_counts_under_a_policy(self):
        """Approvals count with the proof "pin", or if unknown issuers are not rejected. First uses count only in the second case."""
        self.result(self.keys.approve(remembered()))
        self.keys.learn(remembered(NEW_KEY, origin="first-use"))
        heard = {
            (proofs, issuer): (bool(known.approved), bool(known.first_use))
            for proofs in (("pin",), ("pkix",)) for issuer in ("reject", "ask", "trust-first-use")
            for known in [self.keys.known(PEER, NOW).under(PeerPolicy(proofs=proofs, unknown_issuer=issuer))]
        }
        self.assertEqual({
            (("pin",), "reject"): (True, False), (("pin",), "ask"): (True, True), (("pin",), "trust-first-use"): (True, True),
            (("pkix",), "reject"): (False, False), (("pkix",), "ask"): (True, True), (("pkix",), "trust-first-use"): (True, True),
        }, heard)

    def test_learn_replaces(self):
        """A first use replaces the one before, but neither an approval nor a revoked key."""
        self.result(self.keys.approve(remembered(Fingerprint(b"a" * 32))))
        self.keys.learn(remembered(OLD_KEY, origin="first-use"))
        self.result(self.keys.revoke(PEER, OLD_KEY, NOW))
        self.keys.learn(remembered(Fingerprint(b"b" * 32), origin="first-use"))
        self.keys.learn(remembered(NEW_KEY, origin="first-use"))
        self.assertEqual({"operator", "first-use"}, {each.origin for each in self.keys.of(PEER)})
        self.assertEqual(3, len(self.keys.of()))
        self.assertEqual(frozenset({NEW_KEY}), self.keys.known(PEER, NOW).first_use)

    def test_bounds(self):
        """The number of keys is limited per peer, and that of first uses in all."""
        for number in range(keys.PER_PEER):
            self.result(self.keys.approve(remembered(Fingerprint(bytes([number]) * 32))))
        self.result(self.keys.approve(remembered(Fingerprint(bytes([0]) * 32))))
        self.assertIn("16 keys", str(self.failure(self.keys.approve(remembered()))))

    def test_first_uses_are_shared_by_domain(self):
        """However many sub-domains of one domain are met first, they displace only each other. An operator's approvals stay."""
        self.patch(keys, "FIRST_USES", 10)
        self.keys = PeerKeys(database())
        self.result(self.keys.approve(remembered(domain="approved.evil.example")))
        self.assertTrue(self.keys.learn(remembered(origin="first-use")))
        for number in range(50):
            self.assertTrue(self.keys.learn(remembered(domain=f"a{number}.evil.example", origin="first-use")))
        found = [each.domain for each in self.keys.of()]
        self.assertEqual((len(found), "peer.example" in found, "approved.evil.example" in found), (11, True, True))
        self.assertEqual(self.keys.known(Domain.parse("a49.evil.example"), NOW).first_use, frozenset({OLD_KEY}))

    def test_bytes_of_first_uses(self):
        """A certificate that is too large is not kept with its key. All of them may use a part of the database."""
        self.keys = PeerKeys(database(limit=4 * 10_000 * 10 // 6))
        for number in range(20):
            self.keys.learn(remembered(domain=f"p{number}.example", origin="first-use", certificate=b"x" * 2000))
        self.assertEqual(len(self.keys.of()), 4)
        self.keys.learn(remembered(domain="large.example", origin="first-use", certificate=b"x" * (keys.CERTIFICATE_BYTES + 1)))
        self.assertEqual([each.certificate for each in self.keys.of(Domain.parse("large.example"))], [b""])

    def test_over_a_restart(self):
        """Everything is kept over a restart, with its changes."""
        path = self.mktemp()
        store = database(path)
        self.keys = PeerKeys(store)
        self.result(self.keys.approve(remembered(note="by telephone", expires=NOW + 5)))
        self.keys.learn(remembered(NEW_KEY, origin="first-use"))
        self.keys.learn(remembered(NEW_KEY, domain="other.example", origin="first-use"))
        self.result(self.keys.revoke(PEER, OLD_KEY, NOW))
        self.result(self.keys.forget(Domain.parse("other.example"), NEW_KEY))
        before = self.keys.of()
        self.result(store.close())
        self.assertEqual((PeerKeys(database(path)).of(), len(before)), (before, 2))

    def test_not_written(self):
        """R20: a decision that cannot be written is not made."""
        self.result(self.keys.approve(remembered()))
        self.patch(self.keys._database, "write_durably", lambda *statements: fail(OSError("disk full")))
        for decision in (self.keys.approve(remembered(NEW_KEY)), self.keys.revoke(PEER, OLD_KEY, NOW), self.keys.forget(PEER, OLD_KEY)):
            self.failure(decision)
        self.assertEqual((self.standing(OLD.der), self.standing(NEW.der)), ("known", "changed"))

    def test_rows(self):
        """A row has the key and the certificate that contained it."""
        self.result(self.keys.approve(remembered(note="by telephone")))
        row: Any = self.keys.of(PEER)[0].row()
        self.assertEqual((str(OLD_KEY), "by telephone", True), (row["key"], row["note"], row["certificate"]["self_signed"]))
        self.assertIsNone(remembered(certificate=b"").row()["certificate"])
        self.assertIsNone(key_of(()))
