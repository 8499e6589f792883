"""What is written down of peers: keys, certificates that wait, past proofs, handshakes; bounded, and there after a restart."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.authentication.assessment import ProofRunner
from s2sgw.net.discovery import Target
from s2sgw.peerdb import handshakes, keys, past_proofs
from s2sgw.peerdb import pending as inbox
from s2sgw.peerdb.database import DatabaseUnusable, PeerDatabase
from s2sgw.peerdb.evidence_json import CHAIN_BYTES, evidence_json, evidence_of
from s2sgw.peerdb.handshakes import Handshakes, outcome_of
from s2sgw.peerdb.keys import KnownKeys, PeerKeys, RememberedKey, key_of
from s2sgw.peerdb.past_proofs import FRESH, PastProofs
from s2sgw.peerdb.peer_records import PeerRecords
from s2sgw.peerdb.pending import PendingCertificate, PendingCertificates
from s2sgw.policy.model import PeerPolicy
from s2sgw.policy.verdict import Verdict
from s2sgw.trust.anchors import Anchors
from s2sgw.trust.evidence import TLSA, Evidence, POSHLookup, TLSALookup
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import AT, leaf_for, self_signed, shared_root

PEER, HERE = Domain.parse("peer.example"), Domain.parse("here.example")
OLD, NEW = self_signed(dns=["peer.example"]), self_signed(dns=["peer.example"])
OLD_KEY, NEW_KEY = Fingerprint.of(OLD.der), Fingerprint.of(NEW.der)
NOW = AT.timestamp()


def store(path: str = ":memory:") -> PeerDatabase:
    return PeerDatabase(path, lambda text: None)


def remembered(key: Fingerprint = OLD_KEY, **changes: Any) -> RememberedKey:
    return RememberedKey(**{"domain": "peer.example", "key": key, "origin": "operator", "at": NOW, "certificate": OLD.der, **changes})


class StoreTests(SynchronousTestCase):
    """The file."""

    def test_private(self):
        """The file and those that SQLite puts beside it are for us alone."""
        path = Path(self.mktemp())
        store = PeerDatabase(path, print)
        store.define("CREATE TABLE t (x)")
        self.assertEqual({0o600}, {each.stat().st_mode & 0o777 for each in path.parent.glob(f"{path.name}*")})
        store.close()
        with self.assertRaisesRegex(DatabaseUnusable, "No such file or directory"):
            PeerDatabase(Path(self.mktemp()) / "x", print)

    def test_no_database(self):
        """A file that is something else is not written over."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"something else, of some length, at least a hundred bytes " * 9)
        with self.assertRaisesRegex(DatabaseUnusable, "move it away"):
            PeerDatabase(path, print)

    def test_all_or_nothing(self):
        """A write that fails leaves nothing behind, is complained of once until one succeeds, and an operator hears of it."""
        complaints: list[str] = []
        found = PeerDatabase(":memory:", complaints.append)
        found.define("CREATE TABLE t (x INTEGER UNIQUE)")
        good, bad = ("INSERT INTO t VALUES (1)", ()), ("INSERT INTO missing VALUES (1)", ())
        self.assertFalse(found.note(good, bad))
        self.assertFalse(found.note(good, bad))
        self.assertEqual((1, []), (len(complaints), found.rows("SELECT * FROM t")))
        with self.assertRaises(OSError):
            found.decide(good, bad)
        self.assertTrue(found.note(good))
        self.assertEqual(1, found.decide(("UPDATE t SET x = 2", ())))
        self.assertEqual([(2,)], found.rows("SELECT * FROM t"))
        found.close()
        with self.assertRaises(sqlite3.ProgrammingError):
            found.rows("SELECT 1")


class KeysTests(SynchronousTestCase):
    """R20: what was approved, or first used, must be presented again."""

    def setUp(self):
        self.keys = PeerKeys(store())

    def standing(self, *chain: bytes, **policy: Any) -> str:
        return self.keys.known(PEER, NOW).under(PeerPolicy(**policy)).standing(chain)

    def test_standings(self):
        """R20: unknown, known, changed, absent."""
        self.assertEqual(("unknown", "unknown"), (self.standing(OLD.der), self.standing()))
        self.keys.approve(remembered())
        self.assertEqual(("known", "changed", "absent"), (self.standing(OLD.der), self.standing(NEW.der), self.standing()))
        self.assertEqual("absent", self.standing(b"unreadable"))

    def test_expiry(self):
        """R20: an approval ends when it was said to."""
        self.keys.approve(remembered(expires=NOW))
        self.assertEqual("unknown", self.standing(OLD.der))
        self.keys.approve(remembered(expires=NOW + 1))
        self.assertEqual("known", self.standing(OLD.der))

    def test_revoked(self):
        """R20: a revoked key is neither known nor a stranger's; forgotten it is a stranger's; approved anew it counts."""
        self.assertFalse(self.keys.revoke(PEER, OLD_KEY, NOW))
        self.keys.approve(remembered())
        self.assertTrue(self.keys.revoke(PEER, OLD_KEY, NOW))
        self.assertFalse(self.keys.revoke(PEER, OLD_KEY, NOW))
        self.assertEqual(("revoked", "unknown"), (self.standing(OLD.der), self.standing(NEW.der)))
        self.keys.approve(remembered())
        self.assertEqual("known", self.standing(OLD.der))
        self.assertTrue(self.keys.forget(PEER, OLD_KEY))
        self.assertFalse(self.keys.forget(PEER, OLD_KEY))

    def test_what_the_policy_hears(self):
        """Approvals count with the proof "pin" or where approval is asked for; first uses only where strangers may come."""
        self.keys.approve(remembered())
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
        """A first use takes the place of the one before, not of an approval nor of what was revoked."""
        self.keys.approve(remembered(Fingerprint(b"a" * 32)))
        self.keys.learn(remembered(OLD_KEY, origin="first-use"))
        self.keys.revoke(PEER, OLD_KEY, NOW)
        self.keys.learn(remembered(Fingerprint(b"b" * 32), origin="first-use"))
        self.keys.learn(remembered(NEW_KEY, origin="first-use"))
        self.assertEqual({"operator", "first-use"}, {each.origin for each in self.keys.of(PEER)})
        self.assertEqual(3, len(self.keys.of()))
        self.assertEqual(frozenset({NEW_KEY}), self.keys.known(PEER, NOW).first_use)

    def test_bounds(self):
        """So many keys of one peer, so many first uses in all."""
        for number in range(keys.PER_PEER):
            self.keys.approve(remembered(Fingerprint(bytes([number]) * 32)))
        self.keys.approve(remembered(Fingerprint(bytes([0]) * 32)))
        self.assertRaises(OSError, self.keys.approve, remembered())
        self.patch(keys, "FIRST_USES", 0)
        self.assertFalse(self.keys.learn(remembered(origin="first-use")))

    def test_rows(self):
        """A row tells the key and the certificate it came in."""
        self.keys.approve(remembered(note="by telephone"))
        row: Any = self.keys.of(PEER)[0].row()
        self.assertEqual((str(OLD_KEY), "by telephone", True), (row["key"], row["note"], row["certificate"]["self_signed"]))
        self.assertIsNone(remembered(certificate=b"").row()["certificate"])
        self.assertIsNone(key_of(()))


class InboxTests(SynchronousTestCase):
    """Certificates that wait."""

    def setUp(self):
        self.pending_certificates = PendingCertificates(store())

    def pending(self, number: int = 0, domain: str = "peer.example", **changes: Any) -> PendingCertificate:
        facts = {
            "domain": domain, "key": Fingerprint(number.to_bytes(32, "big")), "first": NOW + number, "last": NOW + number, "times": 1,
            "direction": "inbound", "local": "here.example", "address": "192.0.2.1:1", "cause": "awaiting-approval",
            "reasons": ("pkix: …",), "dns": {"posh": None}, "chain": (OLD.der,), **changes,
        }
        return PendingCertificate(**facts)

    def test_again(self):
        """The same certificate again is counted; that we met it on a stream of our own is not forgotten."""
        self.assertTrue(self.pending_certificates.hold(self.pending()))
        self.assertFalse(self.pending_certificates.hold(self.pending(direction="outbound", last=NOW + 5, cause="x")))
        self.assertFalse(self.pending_certificates.hold(self.pending(last=NOW + 9)))
        [found] = self.pending_certificates.list(PEER)
        self.assertEqual((3, NOW, NOW + 9, "outbound"), (found.times, found.first, found.last, found.direction))
        self.assertEqual((OLD.der,), found.chain)
        self.assertEqual(1, len(cast(Any, found.row()["chain"])))

    def test_bounds(self):
        """So many of one peer, so many in all; those that only came inbound go first, then the oldest; chains are cut."""
        self.pending_certificates.hold(self.pending(0, direction="outbound"))
        for number in range(1, inbox.PER_PEER + 3):
            self.pending_certificates.hold(self.pending(number))
        kept = [each.key.digest[-1] for each in self.pending_certificates.list(PEER)]
        self.assertEqual([0, *range(4, inbox.PER_PEER + 3)], kept)
        self.patch(inbox, "KEPT", 3)
        self.pending_certificates.hold(self.pending(50, "other.example", chain=(b"x" * (inbox.CERTIFICATE_BYTES + 1), *(OLD.der,) * 20)))
        self.assertEqual([0, 10, 50], [each.key.digest[-1] for each in self.pending_certificates.list()])
        self.assertEqual(inbox.CHAIN_CERTIFICATES - 1, len(self.pending_certificates.list(Domain.parse("other.example"))[0].chain))

    def test_take(self):
        """What was decided waits no longer."""
        self.pending_certificates.hold(self.pending())
        self.assertIsNotNone(self.pending_certificates.take(PEER, self.pending().key))
        self.assertIsNone(self.pending_certificates.take(PEER, self.pending().key))


class MemoryTests(SynchronousTestCase):
    """Past proofs."""

    def setUp(self):
        self.memory = PastProofs(store())

    def test_remembered(self):
        """The last method that counts, within its time."""
        self.memory.proven(PEER, "pkix", "sha256:a", NOW)
        self.memory.proven(PEER, "dane", "sha256:a", NOW + 10)
        self.assertEqual("dane", self.memory.remembered(PEER, NOW + 20, 60, ("pkix", "dane")))
        self.assertEqual("pkix", self.memory.remembered(PEER, NOW + 20, 60, ("pkix",)))
        self.assertIsNone(self.memory.remembered(PEER, NOW + 70, 60, ("pkix", "dane")))
        self.assertIsNone(self.memory.remembered(HERE, NOW, 60, ("pkix",)))

    def test_counted(self):
        """A proof soon after the same is not written again; later, or by another key, it is."""
        for at, key in ((0.0, "a"), (FRESH - 1, "a"), (FRESH, "a"), (FRESH + 1, "b")):
            self.memory.proven(PEER, "pkix", key, NOW + at)
        [found] = self.memory.of(PEER)
        self.assertEqual((3, NOW, NOW + FRESH + 1, "b"), (found.times, found.first, found.last, found.key))
        self.assertEqual("pkix", found.row()["method"])

    def test_bounded(self):
        """What was not renewed for longest is forgotten."""
        self.patch(past_proofs, "_TRIM_EVERY", 4)
        for number in range(4):
            self.memory.proven(Domain.parse(f"p{number}.example"), "pkix", "", NOW + number)
        self.memory.trim(2)
        self.assertEqual([0, 0, 1, 1], [len(self.memory.of(Domain.parse(f"p{number}.example"))) for number in range(4)])


EVIDENCE: Any = Evidence(
    PEER, "receiving", AT, (OLD.der,), "TLSv1.3", "TLS_AES_256_GCM_SHA384", "192.0.2.1:5269", "host.example", True,
    (TLSALookup("host.example", (TLSA(3, 1, 1, b"\1" * 32),), True, True, ""),),
    POSHLookup(({"sha-256": b"\2" * 32},), AT + timedelta(hours=1), ""),
)


class HandshakesTests(SynchronousTestCase):
    """Handshakes on record."""

    def setUp(self):
        self.handshakes = Handshakes(store())

    def judged(self, number: int = 0, domain: Domain = PEER, **changes: Any) -> None:
        facts = {**{name: getattr(EVIDENCE, name) for name in EVIDENCE.__dataclass_fields__}, "domain": domain, **changes}
        facts["at"] = AT + timedelta(seconds=number)
        self.handshakes.judged(Evidence(**facts), HERE, Verdict(True, True, "dane"))

    def test_evidence(self):
        """Evidence comes back as it was written, and so does one with hardly anything in it."""
        self.assertEqual(EVIDENCE, evidence_of(evidence_json(EVIDENCE)))
        bare = Evidence(PEER, "initiating", datetime.fromtimestamp(0, UTC), posh=POSHLookup(failure="404"))
        self.assertEqual(bare, evidence_of(evidence_json(bare)))

    def test_again(self):
        """What says nothing new is counted; another verdict or certificate is kept beside it."""
        self.judged(0)
        self.judged(5, address="192.0.2.1:6000", posh=replace(EVIDENCE.posh, expires=AT + timedelta(hours=2)))
        [found] = self.handshakes.list(PEER)
        self.assertEqual((2, NOW, NOW + 5, "192.0.2.1:6000"), (found.times, found.first, found.last, found.evidence.address))
        self.assertEqual({"accepted": True, "proven_by": "dane", "external": True, "dialback": True, "cause": None}, found.outcome)
        self.judged(6, chain=(NEW.der,))
        self.handshakes.judged(EVIDENCE, HERE, Verdict(ending=Ending(Cause.EXPIRED)))
        self.assertEqual(3, len(self.handshakes.list(PEER)))
        self.assertEqual([], self.handshakes.list(HERE))
        self.assertEqual(1, len(self.handshakes.list(since=NOW + 6)))

    def test_bounds(self):
        """So many of one peer, so many in all, for so long, each with so much of its chain."""
        for number in range(handshakes.PER_PEER + 2):
            self.judged(number, chain=(bytes([number]),))
        self.assertEqual(handshakes.PER_PEER, len(self.handshakes.list()))
        self.patch(handshakes, "KEPT", 3)
        self.patch(handshakes, "TRIM_EVERY", 1)
        self.judged(100, HERE)
        self.assertEqual([1, 2], [len(self.handshakes.list(each)) for each in (HERE, PEER)])
        self.judged(int(handshakes.SECONDS) + 101, chain=(b"x" * CHAIN_BYTES, b"y"))
        [found] = self.handshakes.list()
        self.assertEqual([CHAIN_BYTES], [len(each) for each in found.evidence.chain])

    def test_outcome(self):
        """A verdict in its words."""
        self.assertEqual("expired", outcome_of(Verdict(ending=Ending(Cause.EXPIRED)))["cause"])


class BookTests(SynchronousTestCase):
    """What a verdict leaves behind."""

    def setUp(self):
        self.peer_records = PeerRecords(store())
        self.events: list[dict[str, Any]] = []
        self.patch(PeerRecords, "log", Logger("book", observer=self.events.append))  # type: ignore[arg-type]
        self.proving = ProofRunner(lambda policy: Anchors([shared_root().certificate]), lambda path: None)

    def judge(self, chain: tuple[bytes, ...], policy: PeerPolicy, **changes: Any) -> Any:
        facts = {"domain": PEER, "role": "initiating", "at": AT, "chain": chain, "tls_version": "TLSv1.3", **changes}
        evidence = Evidence(**facts)
        found = self.proving.found(policy, evidence, self.peer_records.standing(PEER, policy, evidence.at.timestamp()))
        self.peer_records.record_verdict(evidence, HERE, found.verdict, (Target("host.example", 5269, ("192.0.2.1",)),))
        return found.verdict

    def said(self) -> list[tuple[str, str]]:
        return [(facts["log_level"].name, facts["event"]) for facts in self.events]

    def test_ask(self):
        """R20: a stranger's certificate is held with the DNS facts, approved, and proves the peer; a changed key is critical once."""
        ask = PeerPolicy(unknown_issuer="ask")
        self.assertIs(Cause.AWAITING_APPROVAL, self.judge((OLD.der,), ask, posh=POSHLookup(failure="404")).ending.cause)
        [waiting] = self.peer_records.pending_certificates.list(PEER)
        self.assertEqual(("host.example", "404"), (waiting.dns["targets"][0]["host"], waiting.dns["posh"]))
        self.peer_records.keys.approve(remembered())
        self.assertEqual("pin", self.judge((OLD.der,), ask).proven_by)
        for _ in range(2):
            self.assertIs(Cause.PIN_MISMATCH, self.judge((NEW.der,), ask).ending.cause)
        self.assertEqual([("warn", "certificate waits"), ("warn", "certificate waits"), ("critical", "key changed"), ("warn", "key changed")], self.said())
        self.assertEqual([str(OLD_KEY)], self.events[2]["old"])

    def test_first_use(self):
        """R20: outbound the first use is remembered, inbound it is not; then any other key is refused."""
        first = PeerPolicy(unknown_issuer="trust-first-use")
        self.assertIs(Cause.SELF_SIGNED, self.judge((NEW.der,), first).ending.cause)
        self.assertEqual([], self.peer_records.keys.of(PEER))
        self.assertEqual("trust-first-use", self.judge((OLD.der,), first, role="receiving").proven_by)
        self.assertEqual("trust-first-use", self.judge((OLD.der,), first).proven_by)
        self.assertIs(Cause.PIN_MISMATCH, self.judge((NEW.der,), first, role="receiving").ending.cause)
        self.peer_records.learn(PEER, (), NOW, "…")
        self.peer_records.learn(PEER, (OLD.der,), NOW, "…")
        self.assertEqual(1, len(self.peer_records.keys.of(PEER)))

    def test_memory(self):
        """A proof by PKIX is remembered while the policy wants it; dialback alone is then reported, or refused."""
        report = PeerPolicy(dialback="with-tls")
        self.assertEqual("pkix", self.judge(leaf_for("peer.example").der_chain, report).proven_by)
        self.assertIs(Cause.PROOF_LOST, self.judge((OLD.der,), report).report.cause)
        self.assertEqual([("warn", "proof lost")], self.said())
        self.assertIs(Cause.PROOF_LOST, self.judge((OLD.der,), PeerPolicy(dialback="with-tls", lost_proof="refuse")).ending.cause)
        self.assertIsNone(self.judge((OLD.der,), PeerPolicy(dialback="with-tls", lost_proof="refuse", remember_proof=0.0)).ending)
        self.assertEqual(3, len(self.peer_records.handshakes.list(PEER)))

    def test_without_tls(self):
        """Without TLS there is no handshake to keep, and nothing to hold."""
        self.judge((), PeerPolicy(tls="optional", dialback="always", unknown_issuer="ask"), tls_version=None)
        self.assertEqual(([], []), (self.peer_records.handshakes.list(), self.peer_records.pending_certificates.list()))

    def test_survives(self):
        """All of it is in the state directory."""
        state = Path(self.mktemp())
        state.mkdir()
        PeerRecords.at(state).keys.approve(remembered())
        self.assertEqual(1, len(PeerRecords.at(state).keys.of(PEER)))
        self.assertEqual(KnownKeys(frozenset({OLD_KEY})), PeerRecords.at(state).keys.known(PEER, NOW))
