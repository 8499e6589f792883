"""Tests of `close`, `deny` and `forget`: an operator's changes for one peer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.peer_verbs import PeerServices, PeerVerbs
from s2sgw.admin.server import VerbError
from s2sgw.cluster.shared_denials import SharedDenials
from s2sgw.cluster.shared_table import CHANGE_SECONDS
from s2sgw.peerdb.database import PeerDatabase
from s2sgw.peerdb.keys import RememberedKey
from s2sgw.peerdb.peer_records import PeerRecords
from s2sgw.peerdb.pending import PendingCertificate
from s2sgw.policy.peers import PeerPolicies
from s2sgw.reporting.audit import AuditLog
from s2sgw.reporting.record import EventRecord
from s2sgw.runtime.operator_denials import OperatorDenials
from s2sgw.runtime.policy_change import Closed
from s2sgw.s2s.extensions import ExtensionMemory
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import leaf_for
from tests.support.coroutines import now
from tests.support.memory_engine import MemoryEngine, MemoryStore

PEER, HERE = Domain.parse("peer.example"), Domain.parse("here.example")
KEY, OTHER_KEY = Fingerprint(b"1" * 32), Fingerprint(b"2" * 32)
CLOSED = Closed("inbound", "peer.example", "here.example", "192.0.2.1:1", "deny-listed", "named by s2sgw deny")


class Streams:
    """Two streams with each peer."""

    def __init__(self) -> None:
        self.asked: list[tuple[Domain, str]] = []

    def disconnect(self, peer: Domain, text: str) -> int:
        self.asked.append((peer, text))
        return 2


class SharedNamesStub:
    """The names of all nodes, which have each name already. `error`: why a change is not made."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    async def add(self, name: str) -> bool:
        if self._error is not None:
            raise self._error
        return False

    remove = add


class PeerVerbCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.state = Path(self.mktemp())
        self.state.mkdir()
        self.complaints: list[str] = []
        self.records = PeerRecords(PeerDatabase(":memory:", self.complaints.append))
        self.record = EventRecord(self.clock, Logger(), self.records.refusals)
        self.extensions = ExtensionMemory(self.clock)
        self.peers = PeerPolicies({})
        self.streams = Streams()
        self.applied = 0
        denials = self.denials = OperatorDenials(self.state, self.peers.deny, self.complaints.append, self.clock)
        services = PeerServices(
            cast(Any, self.streams), denials, self.apply_bars, self.records, self.record, self.extensions, lambda domain: domain == HERE,
        )
        self.verbs = PeerVerbs(services, AuditLog(self.state, self.clock))

    def apply_bars(self) -> Deferred[list[Closed]]:
        self.applied += 1
        return succeed([CLOSED])

    def ask(self, verb: str, **arguments: Any) -> Any:
        def call() -> Any:
            found = self.verbs.verbs()[verb](arguments)
            return Deferred.fromCoroutine(found) if hasattr(found, "send") else found

        return self.successResultOf(maybeDeferred(call))

    def refused(self, verb: str, **arguments: Any) -> VerbError:
        def call() -> Any:
            found = self.verbs.verbs()[verb](arguments)
            return Deferred.fromCoroutine(found) if hasattr(found, "send") else found

        error: VerbError = self.failureResultOf(maybeDeferred(call), VerbError).value
        return error

    def audit(self) -> list[dict[str, Any]]:
        path = self.state / "audit.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class CloseTests(PeerVerbCase):
    def test_close(self) -> None:
        """The streams of the peer are closed, in any spelling of its name, and the audit log has an entry."""
        self.assertEqual({"peer": "peer.example", "closed": 2}, self.ask("close", peer="PEER.example"))
        self.assertEqual([PEER], [peer for peer, _ in self.streams.asked])
        self.assertEqual([("close", "peer.example")], [(row["action"], row["peer"]) for row in self.audit()])

    def test_wrong(self) -> None:
        """A call without a name, or with a local domain, is refused."""
        for peer in (None, "a b", 7, "here.example"):
            self.assertEqual("usage", self.refused("close", peer=peer).kind)
        self.assertEqual([], self.streams.asked)

    def test_not_noted(self) -> None:
        """A change that cannot be written to the audit log is not made."""
        (self.state / "audit.log").mkdir()
        for verb in ("close", "deny", "forget"):
            self.assertIn("audit log", str(self.refused(verb, peer="peer.example")))
        self.assertEqual(([], 0, None), (self.streams.asked, self.applied, self.peers.policy(PEER).bar))


class DenyTests(PeerVerbCase):
    def test_deny(self) -> None:
        """A peer is denied, its streams are closed, and this can be undone. A repetition is no change and makes no entry."""
        answer = self.ask("deny", peer="peer.example")
        self.assertEqual(("peer.example", True, True, [CLOSED._asdict()]), tuple(answer.values()))
        self.assertEqual(False, self.ask("deny", peer="peer.example")["changed"])
        self.assertIsNotNone(self.peers.policy(PEER).bar)
        self.assertEqual(["peer.example"], self.ask("deny list"))
        self.assertEqual((True, False), (self.ask("deny", peer="peer.example", undo=True)["changed"], self.ask("deny", peer="peer.example", undo=True)["changed"]))
        self.assertIsNone(self.peers.policy(PEER).bar)
        self.assertEqual(["deny", "deny undone"], [row["action"] for row in self.audit()])
        self.assertEqual(2, self.applied)

    def test_pattern(self) -> None:
        """A pattern denies everything under a domain."""
        self.assertEqual("*.peer.example", self.ask("deny", peer="*.Peer.example")["peer"])

    def test_wrong(self) -> None:
        """Neither local domains nor all peers can be denied. `undo` is a boolean."""
        for arguments in ({"peer": "here.example"}, {"peer": "*.here.example"}, {"peer": "default"}, {"peer": "*"}, {}, {"peer": "a.example", "undo": 1}):
            self.assertEqual("usage", self.refused("deny", **arguments).kind, arguments)

    def test_of_all_nodes(self) -> None:
        """A node that has learnt the name from the node that asks it notes the change, and closes streams. One that cannot is refused."""
        self.denials.shared = SharedNamesStub()
        self.denials.take(["peer.example"])
        answer = self.ask("deny", peer="peer.example")
        self.assertEqual((True, [CLOSED._asdict()], {}), (answer["changed"], answer["closed"], self.denials.learnt))
        answer = self.ask("deny", peer="peer.example")
        self.assertEqual((False, [], ["deny"], 1), (answer["changed"], answer["closed"], [row["action"] for row in self.audit()], self.applied))
        for error, words in ((TimeoutError("it may still do it"), "it may still"), (OSError("the engine does not answer"), "nothing was changed: the engine")):
            self.denials.shared = SharedNamesStub(error)
            self.assertEqual(words, str(self.refused("deny", peer="other.example"))[: len(words)])

    def shared_by_two(self) -> tuple[OperatorDenials, MemoryEngine]:
        """Share the names with another node. Return its names, and the engine of this node."""
        store = MemoryStore()
        state = Path(self.mktemp())
        state.mkdir()
        other = OperatorDenials(state, PeerPolicies({}).deny, self.complaints.append, self.clock)
        engines = []
        for denials in (other, self.denials):
            engines.append(MemoryEngine(store))
            shared = denials.shared = SharedDenials(engines[-1], self.clock, lambda: True, self.complaints.append, self.clock)
            shared.apply = denials.take
            shared.table.start()
            now(shared.restore())
        return other, engines[1]

    def test_asked_first(self) -> None:
        """A node that is asked before it is told the change of the other node closes streams, too."""
        other, engine = self.shared_by_two()
        for undo in (False, True):
            engine.fall_behind()
            now(other.remove("peer.example") if undo else other.add("peer.example"))
            self.assertEqual([CLOSED._asdict()], self.ask("deny", peer="peer.example", undo=undo)["closed"])
            engine.go_on()
        self.assertEqual((2, {}), (self.applied, self.denials.learnt))

    def test_told_before_the_answer(self) -> None:
        """A change that is told, but whose write gets no answer, is made: streams are closed."""
        _, engine = self.shared_by_two()
        engine.lose_answers()
        asked = Deferred.fromCoroutine(self.verbs.deny({"peer": "peer.example"}))
        self.clock.advance(CHANGE_SECONDS)
        self.assertEqual((True, 1), (self.successResultOf(asked)["changed"], self.applied))

    def test_not_written(self) -> None:
        """A full disk is reported."""
        (self.state / "denied.json").mkdir()
        self.assertIn("nothing was changed", str(self.refused("deny", peer="peer.example")))
        self.assertEqual(0, self.applied)


class ForgetTests(PeerVerbCase):
    def remember(self) -> None:
        self.records.proven(PEER, "pkix", (leaf_for("peer.example").der,), 1.0)
        self.records.keys.learn(RememberedKey("peer.example", KEY, "first-use", 1.0))
        self.successResultOf(Deferred.fromCoroutine(self.records.keys.approve(RememberedKey("peer.example", OTHER_KEY, "operator", 1.0))))
        self.records.pending_certificates.hold(PendingCertificate("peer.example", KEY, 1.0, 1.0, 1, "inbound", "here.example", "", "", (), {}, ()))
        self.record.refused("inbound", "federation", ("peer.example", "here.example"), "192.0.2.1:1", Ending(Cause.EXPIRED))
        self.extensions.disable("peer.example", "bidi", Ending(Cause.CLOSED))

    def test_forget(self) -> None:
        """Everything except the operator's decisions is removed."""
        self.remember()
        answer = self.ask("forget", peer="peer.example")
        self.assertEqual({"peer": "peer.example", "proofs": True, "keys": 1, "pending": 1, "refusals": 1}, answer)
        self.assertEqual([OTHER_KEY], [each.key for each in self.records.keys.of(PEER)])
        self.assertEqual(([], [], None, []), (self.records.pending_certificates.list(), self.record.list(), self.records.past_proofs.last(PEER), list(self.extensions.disabled())))
        self.assertFalse(self.records.is_known("peer.example"))
        self.assertEqual({"peer": "peer.example", "proofs": False, "keys": 0, "pending": 0, "refusals": 0}, self.ask("forget", peer="peer.example"))

    def test_keys(self) -> None:
        """With `keys` the approvals are removed too."""
        self.remember()
        self.assertEqual(2, self.ask("forget", peer="peer.example", keys=True)["keys"])
        self.assertEqual([], self.records.keys.of(PEER))
