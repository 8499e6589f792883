"""Tests of what a verdict records, and of which peers are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from s2sgw.authentication.assessment import ProofRunner
from s2sgw.net.discovery import Target
from s2sgw.peerdb.keys import KnownKeys
from s2sgw.peerdb.peer_records import PeerRecords
from s2sgw.policy.model import PeerPolicy
from s2sgw.reporting.record import Direction, RefusalRecord
from s2sgw.trust.anchors import Anchors
from s2sgw.trust.evidence import Evidence, POSHLookup
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import AT, leaf_for, shared_root
from tests.support.fakes import FixedAnchors
from tests.support.peer_database import HERE, NEW, NOW, OLD, OLD_KEY, PEER, PeerDatabaseTestCase, database, remembered


class PeerRecordsTests(PeerDatabaseTestCase):
    """Tests of what a verdict records."""

    def setUp(self):
        self.peer_records = PeerRecords(database())
        self.events: list[dict[str, Any]] = []
        self.patch(PeerRecords, "log", Logger("book", observer=self.events.append))  # type: ignore[arg-type]
        self.proving = ProofRunner(FixedAnchors(Anchors([shared_root().certificate])))

    def judge(self, chain: tuple[bytes, ...], policy: PeerPolicy, verifying: bool = False, **changes: Any) -> Any:
        facts = {"domain": PEER, "role": "initiating", "at": AT, "chain": chain, "tls_version": "TLSv1.3", **changes}
        evidence = Evidence(**facts)
        found = self.proving.found(policy, evidence, self.peer_records.standing(PEER, policy, evidence.at.timestamp()))
        targets = (Target("host.example", 5269, ("192.0.2.1",)),)
        self.peer_records.record_verdict(evidence, HERE, found.verdict, targets, verifying=verifying)
        return found.verdict

    def said(self) -> list[tuple[str, str]]:
        return [(facts["log_level"].name, facts["event"]) for facts in self.events]

    def test_ask(self):
        """R20: a stranger's certificate is kept with the DNS facts, approved, and then proves the peer. A changed key is critical once."""
        ask = PeerPolicy(unknown_issuer="ask")
        self.assertIs(Cause.AWAITING_APPROVAL, self.judge((OLD.der,), ask, posh=POSHLookup(failure="404")).ending.cause)
        [waiting] = self.peer_records.pending_certificates.list(PEER)
        self.assertEqual(("host.example", "404"), (waiting.dns["targets"][0]["host"], waiting.dns["posh"]))
        self.result(self.peer_records.keys.approve(remembered()))
        self.assertEqual("pin", self.judge((OLD.der,), ask).proven_by)
        for _ in range(2):
            self.assertIs(Cause.PIN_MISMATCH, self.judge((NEW.der,), ask).ending.cause)
        self.assertEqual([("warn", "certificate waits"), ("warn", "certificate waits"), ("critical", "key changed"), ("warn", "key changed")], self.said())
        self.assertEqual([str(OLD_KEY)], self.events[2]["old"])

    def test_wanted(self):
        """A certificate counts as met on our way to a peer only if we have stanzas: a claim makes us verify a key for any name."""
        ask = PeerPolicy(unknown_issuer="ask")
        for verifying, direction in ((True, "inbound"), (False, "outbound")):
            self.judge((OLD.der,), ask, verifying, role="receiving")
            [waiting] = self.peer_records.pending_certificates.list(PEER)
            self.assertEqual(direction, waiting.direction)

    def test_first_use(self):
        """R20: outbound the first use is remembered, inbound it is not. Then any other key is refused."""
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
        """A proof by PKIX is remembered while the policy wants it. Dialback alone is then reported, or refused."""
        report = PeerPolicy(dialback="with-tls")
        self.assertEqual("pkix", self.judge(leaf_for("peer.example").der_chain, report).proven_by)
        self.assertIs(Cause.PROOF_LOST, self.judge((OLD.der,), report).report.cause)
        self.assertEqual([("warn", "proof lost")], self.said())
        self.assertIs(Cause.PROOF_LOST, self.judge((OLD.der,), PeerPolicy(dialback="with-tls", lost_proof="refuse")).ending.cause)
        self.assertIsNone(self.judge((OLD.der,), PeerPolicy(dialback="with-tls", lost_proof="refuse", remember_proof=0.0)).ending)
        self.assertEqual(3, len(self.result(self.peer_records.handshakes.of(PEER))))

    def test_without_tls(self):
        """Without TLS there is no handshake to record, and no certificate to keep."""
        self.judge((), PeerPolicy(tls="optional", dialback="always", unknown_issuer="ask"), tls_version=None)
        self.assertEqual(([], []), (self.result(self.peer_records.handshakes.of(PEER)), self.peer_records.pending_certificates.list()))

    def test_known(self):
        """A name is known if its peer was proven, is configured, or is one that we contact. Strangers' names are not."""
        name = Domain.parse("bücher.example")
        self.peer_records = PeerRecords(database(), lambda domain: domain.ascii == "listed.example")
        self.peer_records.proven(name, "dialback", (), NOW)
        known = [each for each in ("bücher.example", "xn--bcher-kva.example", "Listed.example", "other.example", "ß..", "") if self.peer_records.is_known(each)]
        self.assertEqual(known, ["bücher.example", "xn--bcher-kva.example", "Listed.example"])
        self.assertTrue(self.peer_records.refusals.is_known(refusal("other.example", direction="outbound")))
        self.assertFalse(self.peer_records.refusals.is_known(refusal("other.example")))

    def test_proven_at_last(self):
        """The earlier records of a peer count as those of a known peer from its first proof on."""
        self.peer_records.refusals.keep(refusal("peer.example"))
        self.judge((NEW.der,), PeerPolicy())
        store = self.peer_records.database
        self.assertEqual(store.rows("SELECT known FROM refusal UNION ALL SELECT known FROM handshake"), [(0,), (0,)])
        self.judge(leaf_for("peer.example").der_chain, PeerPolicy())
        self.assertEqual({known for (known,) in store.rows("SELECT known FROM refusal UNION ALL SELECT known FROM handshake")}, {1})

    def test_over_a_restart(self):
        """All records are in the state directory."""
        state = Path(self.mktemp())
        state.mkdir()
        calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        records = PeerRecords.at(state, calls.put, 1 << 26, lambda domain: False)
        approved = Deferred.fromCoroutine(records.keys.approve(remembered()))
        closed = records.database.close()
        while not closed.called:
            calls.get(timeout=30)()
        self.assertIsNone(self.successResultOf(approved))
        again = PeerRecords.at(state, calls.put, 1 << 26, lambda domain: False)
        self.assertEqual(KnownKeys(frozenset({OLD_KEY})), again.keys.known(PEER, NOW))


def refusal(peer: str, direction: Direction = "inbound") -> RefusalRecord:
    return RefusalRecord(NOW, direction, "federation", peer, "here.example", "192.0.2.1:1", Ending(Cause.SELF_SIGNED))
