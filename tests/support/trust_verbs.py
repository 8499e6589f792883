"""The records of peers and the files behind the verbs about trust, for their tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.authentication.assessment import ProofRunner
from s2sgw.config import parse
from s2sgw.net.discovery import Resolution, Target
from s2sgw.net.threads import Threads
from s2sgw.peerdb.database import PeerDatabase
from s2sgw.peerdb.peer_records import PeerRecords
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
