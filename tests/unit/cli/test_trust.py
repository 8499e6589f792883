"""`pending`, `pins`, `explain`, `replay`: the requests of the commands, their output and their exit status."""

from __future__ import annotations

from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.responses import RESPONSES
from s2sgw.cli import main as command
from s2sgw.cli import output as answering
from s2sgw.cli.trust_tables import outcome
from s2sgw.xmpp.ending import Cause, Ending
from tests.support.certificates import leaf_for
from tests.support.response_types import mismatches
from tests.support.trust_verbs import NEW, NEW_KEY, OLD, OLD_KEY, ExplainCase, PinVerbsCase


class Commands(SynchronousTestCase):
    """A test case that runs commands with a fixed answer of the gateway."""

    def run_command(self, answer: Any, *words: str) -> Result:
        self.asked: list[tuple[str, dict[str, Any]]] = []

        def ask(path: object, verb: str, arguments: dict[str, Any]) -> Any:
            self.asked.append((verb, arguments))
            return answer

        self.patch(answering, "ask", ask)
        self.patch(answering, "_socket", lambda config: config)
        return CliRunner().invoke(command.main, list(words), catch_exceptions=False)


class PinCommandTests(Commands, PinVerbsCase):
    """Tests of `pending` and `pins`."""

    def test_pending(self) -> None:
        """The output compares old and new, shows the DNS, and explains how to approve. Text of a stranger cannot control the terminal."""
        self.hold()
        self.ask("pins approve", peer="peer.example")
        self.hold((NEW.der,))
        rows = self.ask("pending")
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
        row = self.ask("pins add", peer="peer.example", key=OLD_KEY, lasts=60)
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


class ExplainCommandTests(Commands, ExplainCase):
    """Tests of `explain` and `replay`."""

    def test_explain(self) -> None:
        """An explanation is printed as text. The exit status is 1 if the peer is barred."""
        self.judged(leaf_for("peer.example").der_chain)
        self.judged((OLD.der,), "receiving")
        self.record.refused("inbound", "federation", ("peer.example", "here.example"), "", Ending(Cause.EXPIRED))
        answer = self.explain()
        self.assertEqual([], list(mismatches(answer, RESPONSES["explain"])))
        shown = self.run_command(answer, "explain", "peer.example", "--local", "here.example", "--with", str(self.path))
        for words in ("peers.*.example", "accepted, verified by pkix", "pkix/expired", "lost_proof", "pending ", '"1m"', "remedy: "):
            self.assertIn(words, shown.output)
        self.assertLess(shown.output.index("accepted, verified by pkix"), shown.output.index("pkix/expired"))
        self.assertLess(shown.output.index("pkix/expired"), shown.output.index("certificate of the peer"))
        self.assertLess(shown.output.index("certificate of the peer"), shown.output.index('"1m"'))
        self.assertNotIn("remember_proof", shown.output)
        everything = self.run_command(answer, "explain", "peer.example", "--all").output
        for words in ('remember_proof', '"30d"', "with no proof", "then: "):
            self.assertIn(words, everything)
        lane = {"sender": "here.example", "recipient": "a.peer.example", "stanzas": 2, "blocked": None, "full": ["memory share", "disk"]}
        below = self.run_command({**answer, "peer": "a.peer.example", "lanes": [lane]}, "explain", "a.peer.example").output
        self.assertIn("2 stanzas, full: memory share of peer.example with all its sub-domains, disk\n", below)
        self.run_command(answer, "explain", "peer.example", "--local", "here.example", "--with", str(self.path))
        self.assertEqual(("explain", {"peer": "peer.example", "local": "here.example", "with": str(self.path)}), self.asked[0])
        bare = {
            **answer, "bar": "not-allowed: x", "changed": True, "certificate": {"name": "c", "expires": 0.0}, "objects": [],
            "dns": {"cause": "no-such-domain", "detail": "NXDOMAIN", "targets": []}, "remembered": [], "refusals": [],
            "now": {"inbound": {**answer["now"]["inbound"], "last": None}},
            "lanes": [{"sender": "here.example", "recipient": "peer.example", "stanzas": 2, "blocked": "next-hop", "full": ["disk share"]}],
        }
        name = "xn--mller-kva.example"
        self.assertIn("müller.example with here.example", self.run_command({**bare, "peer": name}, "explain", name).output)
        shown = self.run_command(bare, "explain", "peer.example")
        waits = "2 stanzas, blocked: next-hop, full: disk share"
        for words in ("NOT ALLOWED", "has changed", "valid until 1970", "no-such-domain", "no connection is recorded", "with no proof", waits):
            self.assertIn(words, shown.output)
        self.assertEqual(1, shown.exit_code)

    def test_outcome(self) -> None:
        """A peer that nothing has proven yet may do dialback, or must know the shared secret."""
        for dialback, words in ((True, "accepted if dialback succeeds"), (False, "accepted if SCRAM succeeds")):
            self.assertEqual(words, outcome({"accepted": True, "proven_by": None, "external": False, "dialback": dialback}))

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
