"""Tests of the judge: which look-ups are made, when they are waited for, and how their answers count."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.authentication.assessment import ProofRunner
from s2sgw.authentication.judge import JUDGED, Judge, permission
from s2sgw.authentication.lookups import LOOKUP_SECONDS, EvidenceLookups
from s2sgw.authentication.posh_documents import POSHDocuments
from s2sgw.cluster.shared_keys import SharedKeys
from s2sgw.cluster.shared_pending import SharedPending
from s2sgw.cluster.shared_proofs import SharedProofs
from s2sgw.net.discovery import Resolution, Target
from s2sgw.net.https import Fetched
from s2sgw.net.requester import Requester
from s2sgw.peerdb.database import PeerDatabase
from s2sgw.peerdb.keys import KnownKeys, RememberedKey
from s2sgw.peerdb.peer_records import PeerRecords, SharedStores
from s2sgw.policy.model import PeerObject
from s2sgw.policy.peers import PeerPolicies
from s2sgw.stream.events import JudgementNeeded, Refusal
from s2sgw.trust.anchors import Anchors
from s2sgw.trust.dane import DANE_EE
from s2sgw.trust.evidence import TLSA, TLSALookup
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import AT, leaf_for, self_signed, shared_issuer, shared_root
from tests.support.coroutines import now
from tests.support.fakes import FixedAnchors
from tests.support.memory_engine import MemoryEngine, MemoryStore

PEER, HERE = Domain.parse("peer.example"), Domain.parse("here.example")
LEAF = self_signed(dns=["peer.example"])
TARGET = Target("host.example", 5269, ("192.0.2.1",), secure=True, addresses_secure=True)
MATCHING = TLSA(DANE_EE, 1, 1, Fingerprint.of(LEAF.der).digest)
OTHER = TLSA(DANE_EE, 1, 1, b"\0" * 32)


class Connection:
    """A connection as the judge uses it."""

    tls_version: str | None = "TLSv1.3"
    cipher = "TLS_AES_256_GCM_SHA384"
    peer_address = "192.0.2.1:5000"

    def __init__(self, chain: tuple[bytes, ...] = (LEAF.der,)) -> None:
        self.chain = chain
        self.recorded: tuple[object, ...] = ()


class FakeDiscovery:
    """Answers with the value that the test sets. None means no answer."""

    def __init__(self) -> None:
        self.targets: tuple[Target, ...] | None = (TARGET,)
        self.lookup: TLSALookup | None = TLSALookup("host.example", (), True, True)
        self.asked: list[str] = []

    def resolve(self, domain: Domain, route: str | None = None, requester: object = None) -> Deferred[Resolution]:
        self.asked.append("SRV")
        return Deferred() if self.targets is None else succeed(Resolution(domain, self.targets))

    def tlsa(self, target: Target, requester: object = None) -> Deferred[TLSALookup]:
        self.asked.append("TLSA")
        return Deferred() if self.lookup is None else succeed(self.lookup)


class JudgeCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(AT.timestamp())
        self.discovery = FakeDiscovery()
        self.fetched: list[str] = []
        self.page: Deferred[Fetched] | None = succeed(Fetched(404, None, b""))
        self.peer_records = PeerRecords(PeerDatabase(":memory:", self.fail))
        self.patch(PeerRecords, "log", Logger("book", observer=lambda event: None))  # type: ignore[arg-type]

    def fetch(self, url: str, requester: Requester) -> Any:
        self.fetched.append(url)
        return self.page if self.page is not None else Deferred()

    def judge(self, **policy: Any) -> Judge:
        proving = ProofRunner(FixedAnchors(Anchors([shared_root().certificate])))
        look_ups = EvidenceLookups(self.clock, self.discovery, POSHDocuments(self.clock, self.fetch))  # type: ignore[arg-type]
        return Judge(
            PeerPolicies({"default": PeerObject(**policy)}), proving, look_ups, self.peer_records, self.clock, self.time_to_judge,
        )

    def time_to_judge(self) -> Deferred[None]:
        """There is time at once."""
        return succeed(None)

    def verdict(
        self, judge: Judge, connection: Connection | None = None, role: Any = "initiating", verifying: bool = False,
    ) -> Deferred[Any]:
        target = TARGET if role == "receiving" else None
        question = JudgementNeeded(PEER, HERE, True, verifying)
        asked = judge.verdict(connection or Connection(), question, role, target)  # type: ignore[arg-type]
        return Deferred.fromCoroutine(asked)


class JudgeTests(JudgeCase):
    def test_a_key_to_be_verified(self) -> None:
        """R20: the certificate of a server that is only asked about a key is not recorded for a peer."""
        for verifying, direction in ((True, "inbound"), (False, "outbound")):
            self.verdict(self.judge(unknown_issuer="ask"), role="receiving", verifying=verifying)
            [waiting] = self.peer_records.pending_certificates.list(PEER)
            self.assertEqual(direction, waiting.direction)

    def test_pkix_alone(self) -> None:
        """R12: for a peer that proves itself by PKIX the DNS is asked, because it may veto. No document is fetched."""
        found = self.successResultOf(self.verdict(self.judge(), Connection(leaf_for("peer.example").der_chain)))
        self.assertEqual(("pkix", []), (found.proven_by, self.fetched))
        self.assertEqual(["SRV", "TLSA"], self.discovery.asked)
        self.assertTrue(permission(found, None).external)

    def test_dane(self) -> None:
        """R22: DANE counts in both roles: inbound any target of the domain, outbound the one that was dialled."""
        self.discovery.lookup = TLSALookup("host.example", (MATCHING,), True, True)
        self.assertEqual("dane", self.successResultOf(self.verdict(self.judge())).proven_by)
        self.discovery.asked.clear()
        self.assertEqual("dane", self.successResultOf(self.verdict(self.judge(), role="receiving")).proven_by)
        self.assertEqual(["TLSA"], self.discovery.asked)

    def test_veto(self) -> None:
        """R22: outbound, other records veto PKIX, and no document is fetched then. Inbound they do not."""
        self.discovery.lookup = TLSALookup("host.example", (OTHER,), True, True)
        trusted = Connection(leaf_for("peer.example").der_chain)
        found = self.successResultOf(self.verdict(self.judge(), trusted, "receiving"))
        self.assertIs(Cause.DANE_MISMATCH, found.ending.cause)
        refusal = Refusal(StreamCondition.POLICY_VIOLATION, "", Ending(Cause.NOT_PROVEN))
        self.assertIs(refusal, permission(found, refusal).refusal)
        self.assertEqual("pkix", self.successResultOf(self.verdict(self.judge(), trusted)).proven_by)
        self.assertEqual([], self.fetched)

    def test_posh(self) -> None:
        """R23: if nothing else proves the peer, its document is fetched."""
        digest = b64encode(sha256(LEAF.der).digest()).decode()
        self.page = succeed(Fetched(200, None, json.dumps({"fingerprints": [{"sha-256": digest}], "expires": 60}).encode()))
        self.assertEqual("posh", self.successResultOf(self.verdict(self.judge())).proven_by)
        self.assertEqual(["https://peer.example/.well-known/posh/xmpp-server.json"], self.fetched)

    def test_time(self) -> None:
        """Each judgement of a certificate waits until the reactor has time. Without a certificate none waits."""
        waiting: list[Deferred[None]] = []

        def time_to_judge() -> Deferred[None]:
            waiting.append(Deferred())
            return waiting[-1]

        self.patch(self, "time_to_judge", time_to_judge)
        verdict = self.verdict(self.judge())
        for number in (1, 2):  # before and after the POSH document
            self.assertEqual((len(waiting), verdict.called), (number, False))
            waiting[-1].callback(None)
        self.assertIs(Cause.SELF_SIGNED, self.successResultOf(verdict).ending.cause)
        left = self.verdict(self.judge())
        left.addErrback(lambda failure: None)
        left.cancel()
        self.assertTrue(waiting[-1].called)
        bare = Connection(())
        bare.tls_version = None
        self.assertTrue(self.verdict(self.judge(), bare).called)
        self.assertEqual(len(waiting), 3)

    def test_patience(self) -> None:
        """Look-ups without an answer are waited for a few seconds and do not count."""
        self.discovery.lookup = self.page = None
        verdict = self.verdict(self.judge())
        self.clock.advance(LOOKUP_SECONDS)
        self.assertNoResult(verdict)
        self.clock.advance(LOOKUP_SECONDS)
        found = self.successResultOf(verdict)
        self.assertIs(Cause.SELF_SIGNED, found.ending.cause)
        self.assertIn("no answer in time", " ".join(found.reasons))

    def test_begun_beside_the_handshake(self) -> None:
        """R23: look-ups made when the peer was asserted are not repeated at the verdict. A document is fetched beside the handshake
        only for a peer that was proven by one; of any other the certificate is judged first.
        """
        judge = self.judge()
        judge.begin(PEER, "initiating")
        self.assertEqual((["SRV", "TLSA"], 0), (self.discovery.asked, len(self.fetched)))
        self.peer_records.past_proofs.proven(PEER, "posh", "", AT.timestamp())
        judge.begin(PEER, "initiating")
        self.assertEqual(1, len(self.fetched))
        self.successResultOf(self.verdict(judge))
        self.assertEqual(1, len(self.fetched))

    def test_not_begun(self) -> None:
        """Nothing is looked up for a barred peer, or for a method that does not count. A peer proven lately needs no document."""
        self.judge(allow=False).begin(PEER, "initiating")
        self.judge(proofs=("pkix", "pin")).begin(PEER, "initiating")
        self.successResultOf(self.verdict(self.judge(proofs=("pkix", "pin"))))
        self.assertEqual(([], []), (self.discovery.asked, self.fetched))
        self.peer_records.past_proofs.proven(PEER, "pkix", "", AT.timestamp())
        self.judge().begin(PEER, "receiving", replace(TARGET, secure=False))
        self.assertEqual(([], []), (self.discovery.asked, self.fetched))
        self.judge().begin(PEER, "receiving", TARGET)
        self.assertEqual((["TLSA"], []), (self.discovery.asked, self.fetched))

    def test_held(self) -> None:
        """R20: the pending certificate is kept with the DNS evidence of the peer."""
        self.successResultOf(self.verdict(self.judge(unknown_issuer="ask")))
        self.assertEqual("host.example", self.peer_records.pending_certificates.list(PEER)[0].dns["targets"][0]["host"])

    def test_first_use_by_dialback(self) -> None:
        """R20: an inbound first use is remembered once dialback has proven the same domain on the same stream."""
        judge = self.judge(unknown_issuer="trust-first-use", dialback="with-tls")
        one, other = Connection(), Connection()
        for connection, peer, method in ((one, HERE, "dialback"), (other, PEER, "EXTERNAL")):
            self.successResultOf(self.verdict(judge, connection))
            judge.proven(connection, peer, method)  # type: ignore[arg-type]
        judge.proven(other, PEER, "dialback")  # type: ignore[arg-type]
        self.assertEqual([], self.peer_records.keys.of(PEER))
        judge.proven(one, PEER, "dialback")  # type: ignore[arg-type]
        self.assertEqual(["first-use"], [each.origin for each in self.peer_records.keys.of(PEER)])


    def test_one_record(self) -> None:
        """Sub-domains that the same certificate proves on one stream are one record. Another registered domain is another."""
        certificate = shared_issuer().issue(dns=["*.peer.example", "peer.example", "other.example"])
        judge, connection = self.judge(), Connection((certificate.der, shared_issuer().der))
        for name in ("peer.example", "a.peer.example", "b.peer.example", "other.example", "c.bad.example", "d.bad.example"):
            question = JudgementNeeded(Domain.parse(name), HERE, True)
            verdict = self.successResultOf(Deferred.fromCoroutine(judge.verdict(connection, question, "initiating")))  # type: ignore[arg-type]
            self.assertEqual(verdict.external, "bad" not in name)
        recorded = [name for (name,) in self.peer_records.database.rows("SELECT domain FROM handshake ORDER BY domain")]
        self.assertEqual(recorded, ["c.bad.example", "other.example", "peer.example"])
        self.assertEqual(self.peer_records.past_proofs.of(Domain.parse("b.peer.example"))[0].method, "pkix")


class SharedFirstUseTests(JudgeCase):
    """R20: first uses on two nodes of a cluster, which share the keys of peers."""

    def setUp(self) -> None:
        super().setUp()
        self.store = MemoryStore()
        self.may_change = True
        self.engines, self.records = zip(*(self.node() for _ in range(2)), strict=True)

    def node(self) -> tuple[MemoryEngine, PeerRecords]:
        engine, may = MemoryEngine(self.store), lambda: self.may_change
        keys = SharedKeys(engine, self.clock, may, b"secret", self.fail)
        pending = SharedPending(engine, self.clock, may, b"secret", self.fail)
        proofs = SharedProofs(engine, self.clock, may, b"secret", self.fail)
        for table in (keys.table, keys.first_uses.table, pending.outbound.table, pending.inbound.table, proofs.items.table):
            table.start()
        records = PeerRecords(PeerDatabase(":memory:", self.fail), shared=SharedStores(keys, keys.keep_in, pending, proofs))
        now(keys.restore())  # as a node does before its listeners open: since then the copy on its disk follows the others
        return engine, records

    def found(self, node: int, certificate: bytes = LEAF.der) -> Any:
        self.peer_records = self.records[node]
        return self.successResultOf(self.verdict(self.judge(unknown_issuer="trust-first-use"), Connection((certificate,)), "receiving"))

    def test_at_the_same_time(self) -> None:
        """Two nodes meet two keys of one peer at the same time: the second judges again, and refuses its key."""
        self.engines[1].fall_behind()
        self.assertEqual("trust-first-use", self.found(0).proven_by)
        self.assertIs(Cause.PIN_MISMATCH, self.found(1, self_signed(dns=["peer.example"]).der).ending.cause)
        self.assertEqual("trust-first-use", self.found(1).proven_by)
        (key,) = self.records[1].keys.of(PEER)
        self.assertEqual(Fingerprint.of(LEAF.der), key.key)

    def test_learnt_while_it_is_judged(self) -> None:
        """A key that becomes known during the look-ups of another one counts."""
        other = self_signed(dns=["peer.example"]).der
        key = RememberedKey(PEER.ascii, Fingerprint.of(other), "first-use", self.clock.seconds())

        def learn() -> Deferred[None]:
            now(self.records[1].keys.learn_if(key, KnownKeys()))
            return succeed(None)

        self.patch(self, "time_to_judge", learn)
        self.assertIs(Cause.PIN_MISMATCH, self.found(0).ending.cause)
        self.assertEqual([key], self.records[0].keys.of(PEER))

    def test_logged_once(self) -> None:
        """The node that learns a key says so."""
        events: list[str] = []
        self.patch(PeerRecords, "log", Logger("book", observer=lambda event: events.append(event["event"])))  # type: ignore[arg-type]
        for node in (0, 1, 0):
            self.found(node)
        self.assertEqual(["key remembered"], events)
        alone = self.peer_records = PeerRecords(PeerDatabase(":memory:", self.fail))
        self.successResultOf(self.verdict(self.judge(unknown_issuer="trust-first-use"), role="receiving"))
        self.assertEqual((1, ["key remembered"] * 2), (len(alone.keys.of(PEER)), events))

    def test_engine_away(self) -> None:
        """A node that cannot reach the engine trusts no new key, and one that is known."""
        self.found(0)
        self.may_change = False
        self.assertEqual("trust-first-use", self.found(1).proven_by)
        other = self_signed(dns=["peer.example"]).der
        self.may_change = True
        now(self.records[0].keys.forget(PEER, Fingerprint.of(LEAF.der)))
        self.may_change = False
        refused = self.found(1, other)
        self.assertIs(Cause.NO_NODE, refused.ending.cause)
        self.assertIn("the key cannot be remembered: the engine does not answer", refused.reasons)
        self.assertEqual((False, False, None), (refused.external, refused.dialback, refused.proven_by))
        self.assertEqual([], self.records[0].keys.of(PEER))

    def test_changed_again_and_again(self) -> None:
        """A key that is never agreed on is refused after a few attempts."""
        asked: list[object] = []

        async def learn_if(key: object, judged_with: object) -> bool:
            asked.append(key)
            return False

        self.patch(self.records[0].keys, "learn_if", learn_if)
        self.assertIs(Cause.NO_NODE, self.found(0).ending.cause)
        self.assertEqual(JUDGED, len(asked))
        self.assertEqual([], self.records[0].keys.of(PEER))

    def test_proven_on_another_node(self) -> None:
        """A peer whose certificate was proven on one node is not accepted on dialback alone on another."""
        policy = {"dialback": "always", "remember_proof": "1h", "lost_proof": "refuse"}
        self.peer_records = self.records[0]
        proven = Connection(leaf_for("peer.example").der_chain)
        self.assertEqual("pkix", self.successResultOf(self.verdict(self.judge(**policy), proven)).proven_by)
        self.peer_records = self.records[1]
        before = self.successResultOf(self.verdict(self.judge(**policy), Connection(())))
        self.assertTrue(before.dialback)
        self.clock.advance(1)
        after = self.successResultOf(self.verdict(self.judge(**policy), Connection(())))
        self.assertEqual((False, False), (after.dialback, after.ending is None))

    def test_approved_on_another_node(self) -> None:
        """A peer whose certificate waits is let in on each node as soon as it is approved on one."""
        self.peer_records = self.records[0]
        refused = self.successResultOf(self.verdict(self.judge(unknown_issuer="ask"), role="receiving"))
        self.assertIsNotNone(refused.ending)
        self.clock.advance(1)
        (waiting,) = self.records[1].pending_certificates.list(PEER)
        now(self.records[1].keys.approve(RememberedKey(PEER.ascii, waiting.key, "operator", self.clock.seconds())))
        for records in self.records:  # each node keeps a copy on its disk
            self.assertEqual([(str(waiting.key),)], self.successResultOf(records.database.ask("SELECT key FROM keys")))
        self.peer_records = self.records[0]
        self.assertEqual("pin", self.successResultOf(self.verdict(self.judge(unknown_issuer="ask"), role="receiving")).proven_by)
