"""`explain`: the policy of a peer with its sources, the records, and the present verdict."""

from __future__ import annotations

from dataclasses import fields
from unittest.mock import Mock

from twisted.internet.defer import Deferred

from s2sgw.admin.provenance import DURATIONS, PolicySources
from s2sgw.admin.server import VerbError
from s2sgw.net.discovery import Resolution
from s2sgw.policy.model import PeerObject, PeerPolicy
from s2sgw.policy.peers import PeerPolicies
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.certificates import leaf_for
from tests.support.trust_verbs import HERE, OLD, PEER, TOML, ExplainCase


class ExplainTests(ExplainCase):
    """Tests of the answers of `explain`."""

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

    def test_no_peer(self) -> None:
        """A local domain is no peer, which is said. An address that no section names is not allowed."""
        failure = self.failureResultOf(Deferred.fromCoroutine(self.explainer.explain({"peer": "here.example"})), VerbError)
        self.assertEqual(("here.example is a local domain; name a peer", "usage"), (str(failure.value), failure.value.kind))
        self.assertIn("exactly this name", self.explain(peer="192.0.2.1")["bar"])

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
