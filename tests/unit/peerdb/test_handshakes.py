"""Tests of the recorded handshakes."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from datetime import timedelta
from typing import Any

from s2sgw.peerdb import handshakes
from s2sgw.peerdb.evidence_json import CHAIN_BYTES, evidence_json
from s2sgw.peerdb.handshakes import Handshake, Handshakes, outcome_of
from s2sgw.policy.verdict import Verdict
from s2sgw.trust.evidence import Evidence
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import AT
from tests.support.peer_database import EVIDENCE, HERE, NEW, NOW, OLD, PEER, PeerDatabaseTestCase, database

#: The table of the first version.
_FIRST_VERSION = """
CREATE TABLE handshakes (
    id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, first REAL NOT NULL, last REAL NOT NULL, times INTEGER NOT NULL,
    domain TEXT NOT NULL, role TEXT NOT NULL, local TEXT NOT NULL, evidence TEXT NOT NULL, verdict TEXT NOT NULL
);
"""


#: The certificate proves nothing, and dialback may follow.
UNPROVEN = Verdict(False, True)


class HandshakesTests(PeerDatabaseTestCase):
    """Tests of recorded handshakes."""

    def setUp(self):
        self.path = self.mktemp()
        self.store = database(self.path)
        self.handshakes = Handshakes(self.store)

    def judged(
        self, number: int = 0, domain: Domain = PEER, verdict: Verdict = Verdict(True, True, "dane"), wanted: bool = False,  # noqa: B008
        **changes: Any,
    ) -> None:
        facts = {**{name: getattr(EVIDENCE, name) for name in EVIDENCE.__dataclass_fields__}, "domain": domain, **changes}
        facts["at"] = AT + timedelta(seconds=number)
        self.handshakes.judged(Evidence(**facts), HERE, verdict, wanted)

    def of(self, domain: Domain = PEER) -> list[Handshake]:
        return self.result(self.handshakes.of(domain))

    def all_since(self, at: float = 0.0) -> list[Handshake]:
        async def collect() -> list[Handshake]:
            return [each async for page in self.handshakes.all_since(at) for each in page]

        return self.result(collect())

    def test_again(self):
        """A handshake that is the same again is counted. Another verdict or certificate is kept beside it."""
        self.judged(0)
        self.judged(5, address="192.0.2.1:6000", posh=replace(EVIDENCE.posh, expires=AT + timedelta(hours=2)))
        [found] = self.of()
        self.assertEqual((2, NOW, NOW + 5, "192.0.2.1:6000"), (found.times, found.first, found.last, found.evidence.address))
        self.assertEqual({"accepted": True, "proven_by": "dane", "external": True, "dialback": True, "cause": None}, found.outcome)
        self.judged(6, chain=(NEW.der,))
        self.handshakes.judged(EVIDENCE, HERE, Verdict(ending=Ending(Cause.EXPIRED)))
        self.assertEqual(3, len(self.of()))
        self.assertEqual([], self.of(HERE))
        self.assertEqual(1, len(self.all_since(NOW + 6)))

    def test_bounds(self):
        """The number is limited per peer and in all, and so are the time and the length of a chain."""
        for number in range(handshakes.PER_PEER + 2):
            self.judged(number, chain=(bytes([number]),))
        self.assertEqual(handshakes.PER_PEER, len(self.all_since()))
        self.patch(handshakes, "KEPT", 3)
        self.patch(handshakes, "TRIM_EVERY", 1)
        self.judged(100, HERE)
        self.assertEqual([1, 2], [len(self.of(each)) for each in (HERE, PEER)])
        self.judged(int(handshakes.SECONDS) + 101, chain=(b"x" * CHAIN_BYTES, b"y"))
        [found] = self.all_since()
        self.assertEqual([CHAIN_BYTES], [len(each) for each in found.evidence.chain])

    def test_a_chain_is_kept_once(self):
        """A chain that many handshakes have is stored once, and removed with the last of them."""
        large = b"x" * 20_000
        for number in range(handshakes.PER_PEER):
            self.judged(number, chain=(large,), address=f"192.0.2.{number}:1", cipher=str(number), target=f"h{number}.example")
        [(number,)] = self.store.rows("SELECT count(*) FROM chain")
        self.assertEqual((number, {each.evidence.chain for each in self.of()}), (1, {(large,)}))
        self.patch(handshakes, "TRIM_EVERY", 1)
        self.judged(int(handshakes.SECONDS) + 101, HERE, chain=())
        self.assertEqual([size for (size,) in self.store.rows("SELECT length(certificates) FROM chain")], [2])

    def test_strangers_have_a_part(self):
        """However many names are invented, the handshakes of proven peers stay, and so do those that we began."""
        self.patch(handshakes, "KEPT", 50)
        self.patch(handshakes, "TRIM_EVERY", 10)
        known = {"friend.example"}
        self.handshakes = Handshakes(self.store, known.__contains__)
        self.judged(0, Domain.parse("friend.example"), role="initiating")
        self.judged(1, Domain.parse("wanted.example"), UNPROVEN, wanted=True, role="receiving")
        self.judged(2, Domain.parse("later.example"), UNPROVEN, role="initiating")
        known.add("later.example")
        self.handshakes.now_known("later.example")
        for number in range(3, 400):
            self.judged(number, Domain.parse(f"made-up-{number}.example"), UNPROVEN, role="initiating")
        for name in ("friend", "wanted", "later"):
            self.assertEqual(len(self.of(Domain.parse(f"{name}.example"))), 1, name)
        self.assertLessEqual(len(self.all_since()), 3 + 10 + 10)

    def test_claims_of_a_name(self):
        """Repeated claims of a peer's name without proof remove no handshake that the peer proved."""
        self.handshakes = Handshakes(self.store, {PEER.ascii}.__contains__)
        self.judged(0, role="initiating")
        self.judged(1, verdict=UNPROVEN, wanted=True, role="receiving")
        for number in range(2, 60):
            self.judged(number, verdict=Verdict(ending=Ending(Cause.SELF_SIGNED)), role="initiating", chain=(bytes([number]),))
        found = self.of()
        self.assertEqual(handshakes.PER_PEER, len(found))
        self.assertEqual({("initiating", "dane"), ("receiving", None)}, {
            (each.evidence.role, each.outcome["proven_by"]) for each in found if each.outcome["cause"] is None
        })
        known = self.store.rows("SELECT count(*) FROM handshake WHERE known")
        self.assertEqual([(2,)], known)

    def test_bytes(self):
        """All handshakes may use a quarter of the database, and strangers a fifth of that."""
        self.store.room = 4 * 200_000
        self.patch(handshakes, "TRIM_EVERY", 1)
        for number in range(60):
            self.judged(number, Domain.parse(f"p{number}.example"), UNPROVEN, role="initiating", chain=(bytes([number]) * 6000,))
        [(size,)] = self.store.rows("SELECT sum(size) FROM chain")
        self.assertEqual((size < 40_000, len(self.all_since())), (True, 4))

    def test_first_version(self):
        """The newest rows of a file of the first version are moved to the new tables."""
        path = self.mktemp()
        connection = sqlite3.connect(path)
        connection.executescript(_FIRST_VERSION)
        for number in range(3):
            written = {**evidence_json(EVIDENCE), "domain": f"p{number}.example"}
            outcome = json.dumps(outcome_of(Verdict(True, True, "dane")))
            row = (bytes([number]), NOW, NOW + number, 7, f"p{number}.example", "receiving", "here.example", json.dumps(written), outcome)
            connection.execute("INSERT INTO handshakes VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        connection.commit()
        connection.close()
        self.patch(handshakes, "MOVED", 2)
        for _ in range(2):
            store = database(path)
            self.handshakes = Handshakes(store)
            found = self.all_since()
            self.assertEqual([(each.evidence.domain.ascii, each.times, each.evidence.chain) for each in found], [("p1.example", 7, (OLD.der,)), ("p2.example", 7, (OLD.der,))])
            self.assertEqual(store.rows("SELECT 1 FROM sqlite_master WHERE name = 'handshakes'"), [])
            self.result(store.close())

    def test_unreadable(self):
        """If the disk cannot be read, that is an error."""
        self.judged()
        self.result(self.store.close())
        self.failure(self.handshakes.of(PEER))

    def test_outcome(self):
        """A verdict is written as a text."""
        self.assertEqual("expired", outcome_of(Verdict(ending=Ending(Cause.EXPIRED)))["cause"])
