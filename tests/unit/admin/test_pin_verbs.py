"""Pending certificates and pins: the verbs, their answers, and what they change and note."""

from __future__ import annotations

from math import inf, nan
from typing import Any

from twisted.internet.defer import fail

from s2sgw.admin.server import VerbError
from s2sgw.peerdb.keys import PER_PEER
from s2sgw.policy.peers import PeerPolicies
from tests.support.trust_verbs import NEW, NEW_KEY, NOW, OLD_KEY, PEER, PinVerbsCase


class PinVerbsTests(PinVerbsCase):
    """R20: tests of pending certificates and the operator's decisions."""

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
        self.assertEqual(["pins approve", "pins approve", "pins revoke"], self.audited())

    def test_not_replaced(self) -> None:
        """A key that cannot be approved, because too many are remembered, replaces none: the peer keeps those that it has."""
        for number in range(PER_PEER):
            self.ask("pins add", peer="peer.example", key=f"sha256:{number:064x}")
        self.assertRaisesRegex(VerbError, "nothing was changed: ", self.ask, "pins add", peer="peer.example", key=NEW_KEY, replace=True)
        self.assertEqual(PER_PEER, sum(row["counts"] for row in self.ask("pins list") if row["origin"] == "operator"))

    def test_replaced_in_part(self) -> None:
        """If another key cannot be revoked, the answer says that the new one is approved."""
        self.ask("pins add", peer="peer.example", key=OLD_KEY)
        revoke = self.peer_records.keys.revoke
        self.patch(self.peer_records.keys, "revoke", lambda *given: fail(OSError("the disk is full")))
        text = f"{NEW_KEY} is approved, but {OLD_KEY} is not revoked: nothing was changed: the disk is full"
        self.assertRaisesRegex(VerbError, text, self.ask, "pins add", peer="peer.example", key=NEW_KEY, replace=True)
        self.patch(self.peer_records.keys, "revoke", revoke)
        counting = {row["key"] for row in self.ask("pins list") if row["origin"] == "operator" and row["counts"]}
        self.assertEqual({OLD_KEY, NEW_KEY}, counting)

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

    def test_unknown_result(self) -> None:
        """If it is not known whether a decision was made, that is told, with the command that shows it."""

        async def slow(*arguments: object) -> bool:
            raise TimeoutError("the engine does not answer")

        self.patch(self.peer_records.keys, "revoke", slow)
        self.assertRaisesRegex(VerbError, "^it is not known whether .* pins list", self.ask, "pins revoke", peer="peer.example", key=OLD_KEY)

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
