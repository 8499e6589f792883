"""Tests of the verb `replay`."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from s2sgw.admin import explain
from s2sgw.admin.replay import Replay
from s2sgw.admin.server import VerbError
from s2sgw.net.slices import Slices
from tests.support.certificates import leaf_for
from tests.support.trust_verbs import OLD, TOML, TrustCase


class ReplayTests(TrustCase):
    """Tests of what a planned file would change."""

    def replay(self, text: str, **arguments: Any) -> Any:
        plan = self.folder / "plan.toml"
        plan.write_text(text)
        replay = Replay(Slices(self.clock), self.threads, self.peers, self.proving, self.peer_records, self.clock.seconds)
        asked = Deferred.fromCoroutine(replay.replay({"with": str(plan), **arguments}))
        self.clock.advance(0)
        return asked

    def test_changes(self) -> None:
        """The same file changes nothing. Another one changes the listed peers."""
        self.patch(explain, "system_servers", lambda: ())
        self.judged((OLD.der,))
        self.judged(leaf_for("peer.example").der_chain)
        self.assertEqual((2, []), (lambda found: (found["handshakes"], found["changed"]))(self.successResultOf(self.replay(TOML % ("0" * 64)))))
        stricter = (TOML % ("0" * 64)).replace("with-tls", "never")
        changed = self.successResultOf(self.replay(stricter))["changed"]
        self.assertEqual([("peer.example", True, "pin-mismatch")] * 1, [(r["peer"], r["before"]["accepted"], r["after"]["cause"]) for r in changed if not r["after"]["accepted"]])
        self.assertEqual(0, self.successResultOf(self.replay(stricter, seconds=0.0001))["handshakes"] - 2)
        self.failureResultOf(self.replay(stricter, seconds=-1), VerbError)
