"""The records of peers and the files behind the verbs about trust, for their tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin import explain
from s2sgw.admin.explain import Explainer
from s2sgw.admin.pin_verbs import PinVerbs
from s2sgw.admin.server import Rows
from s2sgw.authentication.assessment import ProofRunner
from s2sgw.authentication.judge import Judge
from s2sgw.authentication.lookups import EvidenceLookups
from s2sgw.authentication.posh_documents import POSHDocuments
from s2sgw.config import parse
from s2sgw.net.discovery import Resolution, Target
from s2sgw.net.https import Fetched
from s2sgw.net.threads import Threads
from s2sgw.peerdb.database import PeerDatabase
from s2sgw.peerdb.peer_records import PeerRecords
from s2sgw.peerdb.pending import PendingCertificate
from s2sgw.reporting.audit import AuditLog
from s2sgw.reporting.record import EventRecord
from s2sgw.trust.anchors import Anchors
from s2sgw.trust.evidence import Evidence, TLSALookup
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import AT, self_signed, shared_root
from tests.support.fakes import FixedAnchors

PEER, HERE = Domain.parse("peer.example"), Domain.parse("here.example")
OLD, NEW = self_signed(dns=["peer.example"]), self_signed(dns=["peer.example"])
OLD_KEY, NEW_KEY = str(Fingerprint.of(OLD.der)), str(Fingerprint.of(NEW.der))
NOW = AT.timestamp()
TOML = """\
[gateway]
domains = ["here.example"]
[tls]
certificates = "."
minimum = "1.2"
[backend]
kind = "echo"

[peers.default]
dialback = "with-tls"
limits = { streams = 7 }
[peers."*.example"]
hold = "1m"
[peers."PEER.Example"]
unknown_issuer = "ask"
pins = ["sha256:%s"]
"""


class TrustCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.elsewhere = 0
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "s2sgw.toml"
        self.path.write_text(TOML % ("0" * 64))
        self.config = parse(self.path.read_text(), self.path)
        self.peers = self.config.policies
        self.peer_records = PeerRecords(PeerDatabase(":memory:", self.fail))
        self.patch(PeerRecords, "log", Logger("book", observer=lambda event: None))  # type: ignore[arg-type]
        self.threads = cast(Threads, SimpleNamespace(run=self.in_thread))
        self.proving = ProofRunner(FixedAnchors(Anchors([shared_root().certificate])))

    def in_thread(self, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Read files here, not in a thread."""
        self.elsewhere += 1
        return maybeDeferred(call, *arguments)

    def judged(self, chain: tuple[bytes, ...], role: Any = "initiating") -> None:
        evidence = Evidence(PEER, role, AT, chain, "TLSv1.3", "", "192.0.2.1:1", "host.example" if role == "receiving" else None)
        policy = self.peers.policy(PEER)
        found = self.proving.found(policy, evidence, self.peer_records.standing(PEER, policy, NOW))
        self.peer_records.record_verdict(evidence, HERE, found.verdict, ())


class FakeDiscovery:
    targets: tuple[Target, ...] = (Target("host.example", 5269, ("192.0.2.1",)),)
    ending: Ending | None = None

    def resolve(self, domain: Domain, route: str | None = None, requester: object = None) -> Deferred[Resolution]:
        return succeed(Resolution(domain, self.targets, self.ending))

    def locate(self, targets: tuple[Target, ...]) -> Deferred[tuple[Target, ...]]:
        return succeed(targets)

    def tlsa(self, target: Target, requester: object = None) -> Deferred[TLSALookup]:
        return succeed(TLSALookup(target.host, failure="not secured"))


class PinVerbsCase(TrustCase):
    """A test case with the verbs for pending certificates and pins."""

    def setUp(self) -> None:
        super().setUp()
        self.told: list[Any] = []
        self.verbs = PinVerbs(
            self.peer_records, self.peers, AuditLog(self.folder, self.clock), self.clock.seconds, waiting=lambda peer: 3,
            approved=self.told.append, revoked=lambda peer, key: self.told.append(key) or 2,  # type: ignore[func-returns-value]
        ).verbs()

    def ask(self, verb: str, **arguments: Any) -> Any:
        """Return the verb's answer, or raise its refusal."""
        answer: list[Any] = []
        maybeDeferred(self.verbs[verb], arguments).addBoth(answer.append)
        if isinstance(answer[0], Failure):
            answer[0].raiseException()
        return list(answer[0]) if isinstance(answer[0], Rows) else answer[0]

    def hold(self, chain: tuple[bytes, ...] = (OLD.der,)) -> None:
        key = Fingerprint.of(chain[0])
        self.peer_records.pending_certificates.hold(PendingCertificate("peer.example", key, NOW, NOW, 1, "outbound", "here.example", "", "awaiting-approval", chain=chain))

    def audited(self) -> list[str]:
        return [json.loads(line)["action"] for line in (self.folder / "audit.log").read_text().splitlines()]


class ExplainCase(TrustCase):
    """A test case with an `Explainer`."""

    def setUp(self) -> None:
        super().setUp()
        self.discovery: Any = FakeDiscovery()
        documents = POSHDocuments(self.clock, lambda url, requester: succeed(Fetched(404, None, b"")))
        judge = Judge(self.peers, self.proving, EvidenceLookups(self.clock, self.fake(), documents), self.peer_records, self.clock)
        self.record = EventRecord(self.clock, Logger("r", observer=lambda event: None))  # type: ignore[arg-type]
        self.patch(explain, "system_servers", lambda: ())
        self.queues: list[Any] = []
        self.explainer = Explainer(
            lambda: self.config, self.peers, judge, self.fake(), self.peer_records, self.record, lambda local, peer: None, self.clock.seconds, self.threads,
            self.queues,
        )

    def fake(self) -> Any:
        return self.discovery

    def explain(self, **arguments: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(self.explainer.explain({"peer": "peer.example", **arguments})))
