"""Tests of the operator's verbs about trust, pending, pins, explain and replay: answers, changes, audit entries and output."""

from __future__ import annotations

import json
from dataclasses import fields
from math import inf, nan
from typing import Any
from unittest.mock import Mock

from click.testing import CliRunner, Result
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.admin import explain
from s2sgw.admin.explain import Explainer
from s2sgw.admin.pin_verbs import PinVerbs
from s2sgw.admin.provenance import DURATIONS, PolicySources
from s2sgw.admin.responses import RESPONSES
from s2sgw.admin.server import Rows, VerbError
from s2sgw.authentication.judge import Judge
from s2sgw.authentication.lookups import EvidenceLookups
from s2sgw.authentication.posh_documents import POSHDocuments
from s2sgw.cli import main as command
from s2sgw.cli import output as answering
from s2sgw.net.discovery import Resolution
from s2sgw.net.https import Fetched
from s2sgw.peerdb.pending import PendingCertificate
from s2sgw.policy.model import PeerObject, PeerPolicy
from s2sgw.policy.peers import PeerPolicies
from s2sgw.reporting.audit import AuditLog
from s2sgw.reporting.record import EventRecord
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.certificates import leaf_for
from tests.support.response_types import mismatches
from tests.support.trust_verbs import HERE, NEW, NEW_KEY, NOW, OLD, OLD_KEY, PEER, TOML, FakeDiscovery, TrustCase


class PinVerbsTests(TrustCase):
    """R20: tests of pending certificates and the operator's decisions."""

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

    def test_approve(self) -> None:
        """R20: a pending certificate is shown with the waiting stanzas, approved for a time, and what waited is tried again."""
        self.hold()
        self.assertEqual([(OLD_KEY, 3, [])], [(row["key"], row["waiting"], row["remembered"]) for row in self.ask("pending", peer="peer.example")])
        row = self.ask("pins approve", peer="PEER.example", lasts=60, note="by telephone")
        self.assertEqual((NOW + 60, "by telephone", True), (row["expires"], row["note"], row["counts"]))
        self.assertEqual(([], [PEER], ["pins approve"]), (self.ask("pending"), self.told, self.audited()))
        self.assertRaisesRegex(VerbError, "no certificate of peer.example waits", self.ask, "pins approve", peer="peer.example")

    def test_which(self) -> None:
        """If several are pending, the key must be named. It replaces another one if that is requested."""
        self.hold()
        self.hold((NEW.der,))
        self.assertRaisesRegex(VerbError, "2 certificates", self.ask, "pins approve", peer="peer.example")
        self.assertRaisesRegex(VerbError, "waits", self.ask, "pins approve", peer="peer.example", key="sha256:" + "1" * 64)
        self.ask("pins approve", peer="peer.example", key=OLD_KEY)
        self.assertEqual([OLD_KEY], [old["key"] for old in self.ask("pending")[0]["remembered"]])
        self.ask("pins approve", peer="peer.example", replace=True)
        self.assertEqual({OLD_KEY: False, NEW_KEY: True}, {row["key"]: row["counts"] for row in self.ask("pins list") if row["origin"] == "operator"})
        self.assertEqual(["pins approve", "pins revoke", "pins approve"], self.audited())

    def test_list(self) -> None:
        """The list has the keys of all peers, or of one with its configured pins."""
        self.ask("pins add", peer="other.test", key=OLD_KEY)
        self.assertEqual(["pins add"], self.audited())
        self.assertEqual(["operator", "configuration"], [row["origin"] for row in self.ask("pins list")])
        self.assertEqual(["configuration"], [row["origin"] for row in self.ask("pins list", peer="peer.example")])
        self.assertEqual([], self.ask("pins list", peer="third.test"))

    def test_list_and_reload(self) -> None:
        """Rows are made while they are written: a reload meanwhile removes the pins of peers that no longer exist."""
        rows = iter(self.verbs["pins list"]({}).steps())
        while next(rows) is None:
            pass
        self.peers.adopt(PeerPolicies())
        self.assertEqual([], [row for row in rows if row is not None])
        rows = iter(self.verbs["pins list"]({}).steps())
        self.assertEqual([], [row for row in rows if row is not None])

    def test_list_and_emptied(self) -> None:
        """The same holds if the table of the old peers is emptied while rows are made."""
        rows = self.verbs["pins list"]({}).steps()
        next(rows)
        written: Any = self.peers.written
        written.clear()
        self.assertEqual([], [row for row in rows if row is not None])

    def test_revoke(self) -> None:
        """R20: the revocation of a key closes its streams. An unknown key cannot be revoked."""
        self.ask("pins add", peer="peer.example", key=OLD_KEY)
        self.assertEqual(2, self.ask("pins revoke", peer="peer.example", key=OLD_KEY)["closed"])
        self.assertRaisesRegex(VerbError, "is not remembered", self.ask, "pins revoke", peer="peer.example", key=OLD_KEY)
        self.assertTrue(self.ask("pins revoke", peer="peer.example", key=OLD_KEY, forget=True)["forgotten"])
        self.assertEqual([], self.peer_records.keys.of(PEER))

    def test_wrong_questions(self) -> None:
        """A text that is not a domain, fingerprint or time is refused. A change that cannot be noted is not made."""
        for arguments in ({}, {"peer": 1}, {"peer": "peer.example", "key": "x"}, {"peer": "peer.example", "key": OLD_KEY, "lasts": 0}):
            self.assertEqual("usage", self.assertRaises(VerbError, self.ask, "pins add", **arguments).kind)
        for lasts in (0.5, -1, True, "60", inf, nan, 10**400):
            self.assertRaisesRegex(VerbError, "lasts must be a number of seconds", self.ask, "pins add", peer="peer.example", key=OLD_KEY, lasts=lasts)
        for verb, flag in (("pins add", "replace"), ("pins revoke", "forget")):
            arguments = {"peer": "peer.example", "key": OLD_KEY, flag: "false"}
            self.assertRaisesRegex(VerbError, f"{flag} must be true or false", self.ask, verb, **arguments)
        (self.folder / "audit.log").mkdir()
        self.assertRaisesRegex(VerbError, "nothing was changed", self.ask, "pins add", peer="peer.example", key=OLD_KEY)
        self.assertEqual([], self.peer_records.keys.of(PEER))


class ExplainTests(TrustCase):
    """Tests of the answers of `explain`."""

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

    def test_keys(self) -> None:
        """Each key is given with its value, the object that sets it and the line. Others have the built-in default."""
        answer = self.explain()
        self.assertEqual([("peer.example", 14), ("*.example", 12), ("default", 9)], [(o["name"], o["line"]) for o in answer["objects"]])
        keys = {row["key"]: (row["value"], row["from"], row["line"]) for row in answer["keys"]}
        self.assertEqual({
            "unknown_issuer": ("ask", "peers.peer.example", 15), "hold": (60.0, "peers.*.example", 13), "dialback": ("with-tls", "peers.default", 10),
            "limits.streams": (7, "peers.default", 11), "limits.stanza_bytes": (524288, "built in", None), "minimum": ("1.2", "tls.minimum", 5),
        }, {key: keys[key] for key in ("unknown_issuer", "hold", "dialback", "limits.streams", "limits.stanza_bytes", "minimum")})
        self.assertFalse(answer["changed"] or answer["planned"] or answer["bar"])

    def test_values_as_written(self) -> None:
        """Each value is also given as the file writes it, and whether it is the default. Every number of seconds is a duration."""
        rows = {row["key"]: (row["text"], row["default"]) for row in self.explain()["keys"]}
        self.assertEqual(('"1m"', False), rows["hold"])
        self.assertEqual(('"30d"', True), rows["remember_proof"])
        self.assertEqual(("unset", True), rows["crl"])
        self.assertEqual({each.name for each in fields(PeerPolicy) if each.type == "float"}, set(DURATIONS))

    def test_now(self) -> None:
        """The current decision is given for the last recorded handshake, and for a certificate with any proof."""
        self.judged(leaf_for("peer.example").der_chain)
        self.judged((OLD.der,), "receiving")
        self.record.refused("inbound", "federation", ("peer.example", "here.example"), "", Ending(Cause.EXPIRED))
        answer = self.explain(local="here.example")
        inbound, outbound = answer["now"]["inbound"], answer["now"]["outbound"]
        self.assertEqual(("pkix", True), (inbound["last"]["proven_by"], inbound["if_proven"]["external"]))
        self.assertEqual(("dns", "proof-lost", True), (outbound["last"]["proven_by"], outbound["last"]["report"], outbound["last"]["hold"]))
        self.assertEqual((["pkix"], 1, 1), ([row["method"] for row in answer["past"]], len(answer["pending"]), len(answer["refusals"])))

    def test_lanes(self) -> None:
        """The stanzas waiting from and to the peer are given, and the limits that it has reached."""
        def lane(sender: Domain, recipient: Domain, *ids: str) -> Mock:
            return Mock(pair=Pair(sender, recipient), pair_queue=ids, **{"waits_for.return_value": "next-hop", "full_bounds.return_value": ["disk share"]})

        self.queues += [lane(HERE, PEER, "a", "b"), lane(PEER, HERE), lane(HERE, Domain.parse("other.example"), "c")]
        row = {"sender": "here.example", "recipient": "peer.example", "stanzas": 2, "blocked": "next-hop", "full": ["disk share"]}
        self.assertEqual([row], self.explain()["lanes"])

    def test_on_record(self) -> None:
        """Without look-ups no decision is made: only the record is given, at once."""
        self.judged(leaf_for("peer.example").der_chain)
        self.discovery.resolve = None
        answer = self.explain(look_up=False)
        last = answer["now"]["inbound"]["last"]
        self.assertEqual((None, "pkix", False), (answer["dns"], last["then"]["proven_by"], "accepted" in last))
        self.assertEqual("peer.example", answer["peer"])
        asked = Deferred.fromCoroutine(self.explainer.explain({"peer": "peer.example", "look_up": 1}))
        self.assertEqual("usage", self.failureResultOf(asked, VerbError).value.kind)

    def test_planned(self) -> None:
        """A planned file is explained with its own lines. A bad one is answered with its errors. Other questions are refused."""
        plan = self.folder / "plan.toml"
        plan.write_text((TOML % ("1" * 64)).replace('dialback = "with-tls"', "allow = false"))
        answer = self.explain(**{"with": str(plan)})
        self.assertEqual((True, str(plan)), (answer["planned"], answer["file"]))
        self.assertIn("not-allowed", answer["bar"])
        self.assertEqual(2, self.elsewhere)  # the planned file, and the file with the lines
        self.assertEqual("not-allowed", answer["now"]["inbound"]["if_proven"]["cause"])
        plan.write_text("[nonsense]\n")
        for arguments in ({"with": str(plan)}, {"with": "relative.toml"}, {"local": "elsewhere.example"}, {"peer": "not a domain"}):
            asked = Deferred.fromCoroutine(self.explainer.explain({"peer": "peer.example", **arguments}))
            self.assertEqual("usage", self.failureResultOf(asked, VerbError).value.kind)

    def test_outdated(self) -> None:
        """A file that has changed since, or is missing, is reported."""
        self.path.write_text((TOML % ("0" * 64)).replace("1m", "2m"))
        self.assertTrue(self.explain()["changed"])
        self.path.unlink()
        self.assertTrue(PolicySources(self.config, self.peers).outdated)

    def test_reload_meanwhile(self) -> None:
        """If a reload comes during the DNS look-ups, the answer has the new policy and no old objects."""
        waiting: Deferred[Resolution] = Deferred()
        self.discovery.resolve = lambda domain, route: waiting
        asked = Deferred.fromCoroutine(self.explainer.explain({"peer": "peer.example"}))
        self.peers.adopt(PeerPolicies({"default": PeerObject.model_validate({"hold": "7s"})}))
        waiting.callback(Resolution(PEER, self.discovery.targets))
        answer = self.successResultOf(asked)
        self.assertEqual(["default"], [each["name"] for each in answer["objects"]])
        self.assertEqual([7.0], [row["value"] for row in answer["keys"] if row["key"] == "hold"])

    def test_unresolved(self) -> None:
        """A peer that the DNS does not have is reported with the cause."""
        self.discovery.targets, self.discovery.ending = (), Ending(Cause.NO_SUCH_DOMAIN, "NXDOMAIN")
        self.judged((OLD.der,), "receiving")
        answer = self.explain()
        self.assertEqual("no-such-domain", answer["dns"]["cause"])
        self.assertTrue(answer["now"]["outbound"]["last"]["accepted"])


class ShownTests(TrustCase):
    """Tests of the commands: their requests, their output and their exit status."""

    def run_command(self, answer: Any, *words: str) -> Result:
        self.asked: list[tuple[str, dict[str, Any]]] = []

        def ask(path: object, verb: str, arguments: dict[str, Any]) -> Any:
            self.asked.append((verb, arguments))
            return answer

        self.patch(answering, "ask", ask)
        self.patch(answering, "_socket", lambda config: config)
        return CliRunner().invoke(command.main, list(words), catch_exceptions=False)

    def test_pending(self) -> None:
        """The output compares old and new, shows the DNS, and explains how to approve. Text of a stranger cannot control the terminal."""
        verbs = PinVerbsTests("test_approve")
        verbs.setUp()
        verbs.hold()
        verbs.ask("pins approve", peer="peer.example")
        verbs.hold((NEW.der,))
        rows = verbs.ask("pending")
        self.assertEqual([], list(mismatches(rows, RESPONSES["pending"])))
        rows[0] |= {"reasons": ["said \x1b[2J"], "chain": [*rows[0]["chain"], {**rows[0]["chain"][0], "unreadable": "why"}]}
        rows[0]["dns"] = {
            "targets": [{"host": "h.example", "port": 1, "addresses": ["192.0.2.1"], "secure": True}],
            "tlsa": [{"target": "h.example", "failure": "", "records": []}], "posh": "404",
        }
        shown = self.run_command(rows, "pending")
        for words in (NEW_KEY, f"REMEMBERED {OLD_KEY}", "issued by itself", "said \\x1b[2J", "s2sgw pins approve peer.example", "404", "signed with DNSSEC"):
            self.assertIn(words, shown.output)
        self.assertEqual(1, self.run_command([], "pending", "peer.example").exit_code)
        self.assertIn("No certificate waits", self.run_command([], "pending").output)

    def test_pins(self) -> None:
        """The four verbs accept their options."""
        verbs = PinVerbsTests("test_approve")
        verbs.setUp()
        row = verbs.ask("pins add", peer="peer.example", key=OLD_KEY, lasts=60)
        self.assertIn(OLD_KEY, self.run_command([{**row, "counts": False}], "pins", "list").output)
        self.assertEqual(1, self.run_command([], "pins", "list", "peer.example").exit_code)
        self.assertIn("is approved for peer.example until 2026", self.run_command(row, "pins", "add", "peer.example", OLD_KEY, "--for", "60s").output)
        self.assertEqual(("pins add", {"peer": "peer.example", "key": OLD_KEY, "lasts": 60.0, "note": "", "replace": False}), self.asked[0])
        shown = self.run_command({**row, "expires": None, "counts": False}, "pins", "approve", "peer.example")
        self.assertIn("until it is revoked", shown.output)
        self.assertIn("has no effect yet", shown.output)
        self.assertEqual(2, self.run_command(row, "pins", "approve", "peer.example", "--for", "long").exit_code)
        gone = {"peer": "peer.example", "key": OLD_KEY, "closed": 1, "forgotten": False}
        self.assertIn("is revoked; 1 stream closed", self.run_command(gone, "pins", "revoke", "peer.example", OLD_KEY).output)

    def test_explain(self) -> None:
        """An explanation is printed as text. The exit status is 1 if the peer is barred."""
        tests = ExplainTests("test_now")
        tests.setUp()
        tests.judged(leaf_for("peer.example").der_chain)
        tests.judged((OLD.der,), "receiving")
        tests.record.refused("inbound", "federation", ("peer.example", "here.example"), "", Ending(Cause.EXPIRED))
        answer = tests.explain()
        self.assertEqual([], list(mismatches(answer, RESPONSES["explain"])))
        shown = self.run_command(answer, "explain", "peer.example", "--local", "here.example", "--with", str(tests.path))
        for words in ("peers.*.example", "accepted, verified by pkix", "pkix/expired", "lost_proof", "pending ", '"1m"', "remedy: "):
            self.assertIn(words, shown.output)
        self.assertLess(shown.output.index("accepted, verified by pkix"), shown.output.index("pkix/expired"))
        self.assertLess(shown.output.index("pkix/expired"), shown.output.index("certificate of the peer"))
        self.assertLess(shown.output.index("certificate of the peer"), shown.output.index('"1m"'))
        self.assertNotIn("remember_proof", shown.output)
        everything = self.run_command(answer, "explain", "peer.example", "--all").output
        for words in ('remember_proof', '"30d"', "with no proof", "then: "):
            self.assertIn(words, everything)
        self.run_command(answer, "explain", "peer.example", "--local", "here.example", "--with", str(tests.path))
        self.assertEqual(("explain", {"peer": "peer.example", "local": "here.example", "with": str(tests.path)}), self.asked[0])
        bare = {
            **answer, "bar": "not-allowed: x", "changed": True, "certificate": {"name": "c", "expires": 0.0}, "objects": [],
            "dns": {"cause": "no-such-domain", "detail": "NXDOMAIN", "targets": []}, "remembered": [], "refusals": [],
            "now": {"inbound": {**answer["now"]["inbound"], "last": None}},
            "lanes": [{"sender": "here.example", "recipient": "peer.example", "stanzas": 2, "blocked": "next-hop", "full": ["disk share"]}],
        }
        shown = self.run_command(bare, "explain", "peer.example")
        waits = "2 stanzas, blocked: next-hop, full: disk share"
        for words in ("NOT ALLOWED", "has changed", "valid until 1970", "no-such-domain", "no connection is recorded", "with no proof", waits):
            self.assertIn(words, shown.output)
        self.assertEqual(1, shown.exit_code)

    def test_replay(self) -> None:
        """The exit status is 1 if a peer would be refused that is not refused now."""
        before = {"accepted": True, "proven_by": None, "external": False, "dialback": True, "cause": None}
        after = {**before, "accepted": False, "cause": "expired"}
        row = {"peer": "peer.example", "local": "here.example", "direction": "inbound", "last": 0.0, "times": 2, "before": before, "after": after}
        answer = {"file": "plan", "handshakes": 5, "changed": [row]}
        shown = self.run_command(answer, "replay", "--with", str(self.path), "--since", "1d")
        self.assertEqual(1, shown.exit_code)
        for words in ("5 recorded handshakes", "refused: expired", "accepted if dialback succeeds"):
            self.assertIn(words, shown.output)
        self.assertEqual(86400.0, self.asked[0][1]["seconds"])
        self.assertEqual(0, self.run_command({**answer, "changed": []}, "replay", "--with", str(self.path)).exit_code)
