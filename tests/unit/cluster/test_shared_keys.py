"""Keys of peers on several nodes (R20): approvals, revocations, and first uses that two nodes learn at the same time."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import permutations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.shared_items import PAUSE, PAUSE_AFTER_FAILURE
from s2sgw.cluster.shared_keys import CERTIFICATE_BYTES, FORGOTTEN, SharedKeys
from s2sgw.cluster.shared_table import NotChanged
from s2sgw.peerdb.database import MEMORY
from s2sgw.peerdb.keys import PER_PEER, KnownKeys, PeerKeys, RememberedKey
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.jid import Domain
from tests.support.coroutines import now
from tests.support.memory_engine import MemoryEngine, MemoryStore
from tests.support.peer_database import NEW_KEY, NOW, OLD, OLD_KEY, PEER, database, remembered

THIRD = Fingerprint(b"c" * 32)


class Node:
    """The keys of a node, and what it was told."""

    def __init__(self, store: MemoryStore, clock: Clock, kept: PeerKeys | None = None) -> None:
        self.may_change = True
        self.reports: list[str] = []
        self.approved: list[Domain] = []
        self.revoked: list[tuple[Domain, Fingerprint]] = []
        self.audited: list[dict[str, object]] = []
        self.audit_error: OSError | None = None
        #: changes after which the engine cannot be reached
        self.changes_left = 1_000_000
        self.engine = MemoryEngine(store)
        self.keys = SharedKeys(self.engine, clock, self._may, b"secret", self.reports.append)
        self.keys.audit = self._audit
        self.keys.approved = self.approved.append
        self.keys.revoked = lambda domain, key: self.revoked.append((domain, key))
        if kept is not None:
            self.keys.keep_in(kept)
        self.keys.table.start()
        self.keys.first_uses.table.start()

    def _may(self) -> bool:
        self.changes_left -= 1
        return self.may_change and self.changes_left >= 0

    def _audit(self, action: str, **facts: object) -> None:
        if self.audit_error is not None:
            raise self.audit_error
        self.audited.append({"action": action, **facts})

    def known(self, at: float = NOW) -> KnownKeys:
        return self.keys.known(PEER, at)


def first_use(key: Fingerprint = OLD_KEY, **changes: object) -> RememberedKey:
    return remembered(key, origin="first-use", **changes)


class SharedKeysTests(SynchronousTestCase):
    """Two nodes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore()
        self.one, self.other = Node(self.store, self.clock), Node(self.store, self.clock)
        self.nodes = (self.one, self.other)

    def settle(self) -> None:
        self.clock.pump([PAUSE] * 5)

    def test_approved(self) -> None:
        """A key that is approved on one node counts on the other, with all that was noted, until it expires. The other is told."""
        key = remembered(OLD_KEY, note="by phone", expires=NOW + 10)
        now(self.one.keys.approve(key))
        for node in (*self.nodes, Node(self.store, self.clock)):
            self.assertEqual([key], node.keys.of(PEER))
            self.assertEqual([key], node.keys.of())
            self.assertEqual(KnownKeys(approved=frozenset({OLD_KEY})), node.known())
            self.assertEqual(KnownKeys(), node.known(NOW + 10))
        self.assertEqual(([], [PEER]), (self.one.approved, self.other.approved))
        now(self.one.keys.approve(remembered(NEW_KEY, at=NOW + 1, certificate=b"x" * (CERTIFICATE_BYTES + 1))))
        self.assertEqual([OLD.der, b""], [each.certificate for each in self.other.keys.of(PEER)])

    def test_revoked(self) -> None:
        """A key that is revoked on one node is revoked on the other, which is told once, and can be approved again."""
        now(self.one.keys.approve(remembered(OLD_KEY)))
        now(self.one.keys.approve(remembered(NEW_KEY)))
        self.assertTrue(now(self.other.keys.revoke(PEER, OLD_KEY, NOW)))
        self.assertFalse(now(self.one.keys.revoke(PEER, OLD_KEY, NOW)))
        self.assertFalse(now(self.one.keys.revoke(PEER, THIRD, NOW)))
        for node in self.nodes:
            self.assertEqual(KnownKeys(frozenset({NEW_KEY}), frozenset(), frozenset({OLD_KEY})), node.known())
        self.assertEqual(([(PEER, OLD_KEY)], []), (self.one.revoked, self.other.revoked))
        self.assertEqual([], self.one.approved)
        now(self.one.keys.approve(remembered(OLD_KEY)))
        self.assertEqual(frozenset({OLD_KEY, NEW_KEY}), self.other.known().approved)

    def test_forgotten(self) -> None:
        """A key that is forgotten is as if it had never been seen, on all nodes."""
        now(self.one.keys.approve(remembered(OLD_KEY)))
        self.assertTrue(now(self.other.keys.forget(PEER, OLD_KEY)))
        self.assertFalse(now(self.one.keys.forget(PEER, OLD_KEY)))
        self.assertEqual([([], [])] * 2, [(node.keys.of(), node.keys.of(PEER)) for node in self.nodes])
        self.assertTrue(self.one.keys.learn(first_use()))
        self.assertTrue(now(self.one.keys.forget(PEER, OLD_KEY)))
        self.settle()
        self.assertEqual([[], []], [node.keys.of() for node in self.nodes])

    def test_together(self) -> None:
        """Two operators decide on two keys of one peer at the same time: both decisions count."""
        self.one.engine.fall_behind()
        now(self.other.keys.approve(remembered(OLD_KEY)))
        now(self.one.keys.approve(remembered(NEW_KEY)))
        for node in self.nodes:
            self.assertEqual(frozenset({OLD_KEY, NEW_KEY}), node.known().approved)

    def test_first_use(self) -> None:
        """A first use is known on all nodes, without its certificate, and is replaced by the next one."""
        self.assertTrue(now(self.one.keys.learn_if(first_use(), KnownKeys())))
        self.assertEqual([replace(first_use(), certificate=b"")], self.other.keys.of(PEER))
        self.assertEqual(frozenset({OLD_KEY}), self.other.known().first_use)
        self.assertTrue(self.other.keys.learn(first_use(NEW_KEY, at=NOW + 1)))
        self.settle()
        self.assertEqual([frozenset({NEW_KEY})] * 2, [node.known(NOW + 1).first_use for node in self.nodes])

    def test_two_first_uses(self) -> None:
        """Of two nodes that learn two keys at the same time one remembers its own, and the other judges again with that."""
        self.one.engine.fall_behind()
        self.assertTrue(now(self.other.keys.learn_if(first_use(NEW_KEY), KnownKeys())))
        self.assertEqual(KnownKeys(), self.one.known())
        self.assertFalse(now(self.one.keys.learn_if(first_use(OLD_KEY), KnownKeys())))
        self.assertEqual(KnownKeys(first_use=frozenset({NEW_KEY})), self.one.known())
        self.assertEqual(frozenset({NEW_KEY}), self.other.known().first_use)

    def test_first_use_beside_a_decision(self) -> None:
        """A first use that was judged before an approval or a revocation is judged again."""
        now(self.one.keys.approve(remembered(NEW_KEY)))
        self.assertFalse(now(self.other.keys.learn_if(first_use(), KnownKeys())))
        now(self.one.keys.revoke(PEER, NEW_KEY, NOW))
        self.assertFalse(now(self.other.keys.learn_if(first_use(), KnownKeys(approved=frozenset({NEW_KEY})))))
        self.assertEqual(frozenset(), self.one.known().first_use)

    def test_decision_on_a_first_use(self) -> None:
        """A first use that is revoked or approved is no first use any more; the decision counts before that is written."""
        for decide in (self.one.keys.revoke(PEER, OLD_KEY, NOW), self.one.keys.approve(remembered())):
            self.assertTrue(now(self.other.keys.learn_if(first_use(), self.other.known())))
            now(decide)
            for node in self.nodes:
                self.assertEqual((frozenset(), 1), (node.known().first_use, len(node.keys.of(PEER))))
            self.settle()
            self.assertEqual([], list(self.other.keys.first_uses.names()))
            now(self.one.keys.forget(PEER, OLD_KEY))
        self.assertEqual([(PEER, OLD_KEY)], self.other.revoked)

    def test_forgotten_after_it_was_revoked(self) -> None:
        """A first use that was revoked, and is forgotten before it was removed, does not come back."""
        now(self.one.keys.learn_if(first_use(), KnownKeys()))
        now(self.one.keys.revoke(PEER, OLD_KEY, NOW))
        now(self.other.keys.forget(PEER, OLD_KEY))
        self.assertEqual([[], [], []], [node.keys.of() for node in (*self.nodes, Node(self.store, self.clock))])

    def test_engine_away(self) -> None:
        """A node that cannot reach the engine decides nothing, and learns nothing on which a verdict would rest."""
        self.one.may_change = False
        for call in (
            self.one.keys.approve(remembered()), self.one.keys.revoke(PEER, OLD_KEY, NOW), self.one.keys.forget(PEER, OLD_KEY),
            self.one.keys.learn_if(first_use(), KnownKeys()),
        ):
            self.assertRaises(NotChanged, now, call)
        self.assertEqual([[], []], [node.keys.of() for node in self.nodes])

    def test_bounded(self) -> None:
        """A peer has a bounded number of keys."""
        for number in range(PER_PEER - 1):
            now(self.one.keys.approve(remembered(Fingerprint(bytes([number]) * 32))))
        self.assertTrue(now(self.one.keys.learn_if(first_use(), self.one.known())))
        self.assertRaises(OSError, now, self.other.keys.approve(remembered(NEW_KEY)))
        now(self.other.keys.approve(remembered(OLD_KEY)))
        self.assertRaises(OSError, now, self.other.keys.approve(remembered(NEW_KEY)))

    def test_full_record(self) -> None:
        """The keys of a peer fit into a record of an engine, with the largest certificates and notes."""
        for number in range(PER_PEER):
            now(self.one.keys.approve(remembered(Fingerprint(bytes([number]) * 32), certificate=b"x" * CERTIFICATE_BYTES, note="ä" * 500)))
        self.assertLess(len(self.store.content.table["pin.peer_example"].data or b""), 256 * 1024)

    def test_unreadable(self) -> None:
        """Of a peer whose keys cannot be read the former ones count, no first use counts, and nothing is changed."""
        now(self.one.keys.approve(remembered(NEW_KEY)))
        now(self.one.keys.learn_if(first_use(), self.one.known()))
        good = self.store.content.table["pin.peer_example"].data
        number = b'"at":1' + b"0" * 400
        huge = re.sub(rb'"at":[0-9.]+', number, good or b"")
        for data in (b"x", huge, b"{}", b'{"version":2,"keys":[]}', b'{"version":1,"keys":[{}]}', (good or b"").replace(b"operator", b"stranger")):
            now(self.other.engine.put("pin.peer_example", data, None))
            self.assertIn("cannot be read", self.one.reports.pop())
            self.assertEqual(KnownKeys(approved=frozenset({NEW_KEY})), self.one.known())
            self.assertFalse(self.one.keys.learn(first_use(THIRD)))
            for call in (self.one.keys.approve(remembered(THIRD)), self.one.keys.learn_if(first_use(THIRD), self.one.known())):
                self.assertRaises(NotChanged, now, call)
        late = Node(self.store, self.clock)
        self.assertEqual(KnownKeys(), late.known())
        self.assertRaises(NotChanged, now, late.keys.learn_if(first_use(THIRD), KnownKeys()))
        now(self.other.engine.put("pin.peer_example", good, None))
        self.assertEqual((frozenset({NEW_KEY}), frozenset({OLD_KEY})), (self.one.known().approved, self.one.known().first_use))
        now(self.other.engine.put("pin.=20", json.dumps({"version": 1, "keys": []}).encode(), None))

    def kept(self, node: Node, path: str = MEMORY) -> PeerKeys:
        """Return the keys on the disk of a node, which keeps a copy in them from now on."""
        kept = PeerKeys(database(path))
        node.keys.keep_in(kept)
        return kept

    def started(self, *keys: RememberedKey) -> tuple[Node, PeerKeys]:
        """Return a node that has kept `keys` and has read what nodes share, and the keys on its disk."""
        kept = PeerKeys(database(MEMORY))
        for key in keys:
            kept.mirror(key.domain, [*kept.of(Domain.parse(key.domain)), key])
        return Node(self.store, self.clock, kept), kept

    def test_kept(self) -> None:
        """Each node keeps a copy of the decisions on its disk, and of no first uses."""
        path = self.mktemp()
        kept = self.kept(self.other, path)
        now(self.other.keys.restore())
        now(self.one.keys.approve(remembered(OLD_KEY)))
        now(self.one.keys.approve(remembered(NEW_KEY, at=NOW + 1)))
        now(self.one.keys.revoke(PEER, OLD_KEY, NOW + 2))
        now(self.one.keys.learn_if(first_use(domain="first.example"), KnownKeys()))
        self.assertEqual(self.one.keys.of(PEER), kept.of())
        now(self.one.keys.forget(PEER, NEW_KEY))
        self.assertEqual(self.one.keys.of(PEER), kept.of())
        kept._database.close()
        self.assertEqual(self.one.keys.of(PEER), PeerKeys(database(path)).of())

    def test_restored(self) -> None:
        """The first node shares the keys that it kept, if nothing is shared of the peer. A key that was forgotten since does not come back."""
        kept = self.kept(self.one)
        for key in (remembered(OLD_KEY), remembered(NEW_KEY, domain="other.example", revoked=NOW), first_use(domain="first.example")):
            kept.mirror(key.domain, [key])
        now(self.other.keys.approve(remembered(NEW_KEY, domain="known.example")))
        now(self.other.keys.forget(Domain.parse("known.example"), NEW_KEY))
        kept.mirror("known.example", [remembered(NEW_KEY, domain="known.example")])
        now(self.other.keys.approve(remembered(NEW_KEY, domain="decided.example")))
        kept.mirror("decided.example", [first_use(domain="decided.example")])
        kept.mirror("first-known.example", [first_use(domain="first-known.example")])
        now(self.other.keys.learn_if(first_use(NEW_KEY, domain="first-known.example"), KnownKeys()))
        now(self.one.keys.restore())
        found = {(each.domain, each.key, each.revoked) for each in self.other.keys.of()}
        self.assertEqual({
            ("decided.example", NEW_KEY, None), ("peer.example", OLD_KEY, None), ("other.example", NEW_KEY, NOW), ("first.example", OLD_KEY, None), ("first-known.example", NEW_KEY, None),
        }, found)
        now(self.other.keys.forget(Domain.parse("first.example"), OLD_KEY))
        now(self.one.keys.restore())
        self.assertNotIn("first.example", [each.domain for each in self.other.keys.of()])
        second = self.kept(self.other)
        second.mirror("peer.example", [remembered(NEW_KEY)])
        now(self.other.keys.restore())
        self.assertEqual([OLD_KEY], [each.key for each in self.one.keys.of(PEER)])
        self.assertIsNone(now(Node(self.store, self.clock).keys.restore()))

    def test_restored_by_an_old_node(self) -> None:
        """A revocation counts although a node that did not know of it has restored the key first, unless it was approved later."""
        now(self.one.keys.approve(remembered(OLD_KEY, at=NOW)))
        now(self.one.keys.approve(remembered(NEW_KEY, at=NOW + 5)))
        kept = self.kept(self.other)
        for key in (OLD_KEY, NEW_KEY, THIRD):
            kept.mirror("peer.example", [*kept.of(), remembered(key, revoked=NOW + 2)])
        now(self.other.keys.restore())
        known = self.one.known(NOW + 10)
        self.assertEqual((frozenset({NEW_KEY}), frozenset({OLD_KEY, THIRD})), (known.approved, known.revoked))

    def lose_store(self) -> None:
        """The engine comes back empty."""
        self.store.content.table.clear()

    def revoked_here(self) -> tuple[Node, PeerKeys]:
        """Return a running node that has revoked a key, and its disk. Then the engine comes back empty."""
        node, kept = self.started()
        now(node.keys.restore())
        now(node.keys.approve(remembered(OLD_KEY)))
        now(node.keys.revoke(PEER, OLD_KEY, NOW + 2))
        self.lose_store()
        return node, kept

    def test_undone_under_a_running_node(self) -> None:
        """A node that runs while another one restores an older approval keeps its revocation, writes it again, and says so."""
        node, kept = self.revoked_here()
        away, _ = self.started(remembered(OLD_KEY))
        now(away.keys.restore())
        self.assertEqual(frozenset({OLD_KEY}), node.known().revoked)
        self.assertEqual([NOW + 2], [key.revoked for key in kept.of()])
        (report,) = node.reports
        self.assertIn(f"an older decision on the key {OLD_KEY} of peer.example than this node knows: that it is revoked counts", report)
        self.assertEqual([], node.audited)
        self.clock.advance(0)
        late = Node(self.store, self.clock)
        self.assertEqual([frozenset({OLD_KEY})] * 3, [each.known().revoked for each in (node, away, late)])
        self.assertEqual([(PEER, OLD_KEY)], away.revoked)
        self.assertEqual([{"action": "pins restore", "by": "this node", "peer": "peer.example", "key": str(OLD_KEY), "at": NOW, "revoked": NOW + 2}], node.audited)
        self.assertEqual((1, [], []), (len(node.reports), away.reports, self.clock.getDelayedCalls()))

    def test_undone_while_it_cannot_write(self) -> None:
        """A node that cannot write its revocation again keeps it on its disk. It tries again, and does so when it is started again."""
        node, kept = self.revoked_here()
        node.may_change = False
        away, _ = self.started(remembered(OLD_KEY))
        now(away.keys.restore())
        self.clock.advance(0)
        self.clock.advance(PAUSE_AFTER_FAILURE)
        self.assertEqual((frozenset({OLD_KEY}), frozenset()), (node.known().revoked, away.known().revoked))
        again = Node(self.store, self.clock, kept)
        self.assertEqual(frozenset({OLD_KEY}), again.known().revoked)
        now(again.keys.restore())
        self.assertEqual((frozenset({OLD_KEY}), 1), (away.known().revoked, len(again.audited)))
        self.clock.advance(PAUSE_AFTER_FAILURE)
        node.may_change = True
        self.clock.advance(PAUSE_AFTER_FAILURE)
        self.assertEqual(([], []), (node.audited, self.clock.getDelayedCalls()))

    def test_undone_and_stopped(self) -> None:
        """A node that stops writes nothing again."""
        node, _ = self.revoked_here()
        away, _ = self.started(remembered(OLD_KEY))
        now(away.keys.restore())
        node.keys.stop()
        self.assertEqual((frozenset(), []), (away.known().revoked, self.clock.getDelayedCalls()))

    def test_undone_and_not_audited(self) -> None:
        """A revocation is written again although the audit log cannot be written. The log says so."""
        late, _ = self.started(remembered(OLD_KEY, revoked=NOW + 2))
        now(self.one.keys.approve(remembered(OLD_KEY)))
        late.audit_error = OSError("read-only")
        now(late.keys.restore())
        self.assertEqual(frozenset({OLD_KEY}), self.one.known().revoked)
        self.assertIn("not to the audit log: read-only", late.reports[-1])

    def test_each_order(self) -> None:
        """After the engine has lost its store the newest decision counts, in whatever order nodes start. Some are years old."""
        years = 3 * 365 * 86400.0
        approved, revoked = remembered(OLD_KEY), remembered(OLD_KEY, revoked=NOW + years)
        again, never = remembered(OLD_KEY, at=NOW + years + 5), remembered(NEW_KEY)
        for copies, expected in (
            ([approved, revoked, revoked], NOW + years), ([approved, revoked, never], NOW + years), ([approved, revoked, again], None),
        ):
            for order in permutations(copies):
                self.lose_store()
                self.store.engines.clear()
                nodes = []
                for copy in order:
                    nodes.append(self.started(copy))
                    now(nodes[-1][0].keys.restore())
                self.settle()
                for node, kept in nodes:
                    for keys in (node.keys.of(PEER), kept.of()):
                        self.assertEqual([expected], [key.revoked for key in keys if key.key == OLD_KEY])

    def test_restore_is_cut_off(self) -> None:
        """A restore that fails between two peers has replaced nothing on the disk, and is done again."""
        names = ["a.example", "b.example"]
        for name in names:
            now(self.one.keys.approve(remembered(OLD_KEY, domain=name)))
        late, kept = self.started(*(remembered(OLD_KEY, domain=name, revoked=NOW + 2) for name in names))
        late.changes_left = 1
        self.assertRaises(NotChanged, now, late.keys.restore())
        self.assertEqual([NOW + 2, None], [key.revoked for key in self.one.keys.of()])
        self.assertEqual([NOW + 2] * 2, [key.revoked for key in (*kept.of(),)])
        again = Node(self.store, self.clock, kept)
        now(again.keys.restore())
        self.assertEqual([NOW + 2] * 2, [key.revoked for key in self.one.keys.of()])

    def test_clocks_differ(self) -> None:
        """A decision is newer than the one that it replaces, although the clock of its node is behind."""
        now(self.one.keys.approve(remembered(OLD_KEY, at=NOW)))
        now(self.other.keys.revoke(PEER, OLD_KEY, NOW - 100))
        for node, _ in (self.started(remembered(OLD_KEY, at=NOW)), self.started(remembered(OLD_KEY, at=NOW - 50))):
            now(node.keys.restore())
            self.assertEqual(frozenset({OLD_KEY}), self.one.known().revoked)
        now(self.other.keys.approve(remembered(OLD_KEY, at=NOW - 100)))
        node, _ = self.started(remembered(OLD_KEY, at=NOW, revoked=NOW))
        now(node.keys.restore())
        self.settle()
        self.assertEqual([frozenset({OLD_KEY})] * 2, [each.known().approved for each in (self.one, node)])

    def test_forgotten_while_a_node_was_away(self) -> None:
        """A revocation that was forgotten does not come back from a node that was away. One that was not forgotten does."""
        for key in (OLD_KEY, NEW_KEY):
            now(self.one.keys.approve(remembered(key)))
        now(self.one.keys.revoke(PEER, OLD_KEY, NOW))
        now(self.one.keys.forget(PEER, OLD_KEY))
        now(self.one.keys.approve(remembered(NEW_KEY, note="again")))
        node, _ = self.started(remembered(OLD_KEY, revoked=NOW), remembered(THIRD, revoked=NOW))
        now(node.keys.restore())
        self.assertEqual({NEW_KEY, THIRD}, {key.key for key in self.one.keys.of(PEER)})
        for number in range(FORGOTTEN):
            now(self.one.keys.approve(remembered(Fingerprint(bytes([number]) * 32))))
            now(self.one.keys.forget(PEER, Fingerprint(bytes([number]) * 32)))
        value = json.loads(self.store.content.table["pin.peer_example"].data or b"")
        self.assertEqual(FORGOTTEN, len(value["forgotten"]))

    def test_read_before_it_is_restored(self) -> None:
        """A node that starts later shares a revocation on its disk, although another one has restored the key before."""
        now(self.one.keys.approve(remembered(OLD_KEY, at=NOW)))
        now(self.one.keys.approve(remembered(NEW_KEY, domain="late.example")))
        late, kept = self.started(remembered(OLD_KEY, revoked=NOW + 2), remembered(OLD_KEY, domain="alone.example"))
        late.may_change = False
        self.assertRaises(NotChanged, now, late.keys.restore())
        late.may_change = True
        now(late.keys.restore())
        self.assertEqual(frozenset({OLD_KEY}), self.one.known(NOW + 10).revoked)
        self.assertEqual([("alone.example", None), ("late.example", None), ("peer.example", NOW + 2)], [(key.domain, key.revoked) for key in kept.of()])
        now(self.one.keys.forget(Domain.parse("late.example"), NEW_KEY))
        self.assertEqual(["alone.example", "peer.example"], [key.domain for key in kept.of()])

    def test_changed_while_it_is_restored(self) -> None:
        """A decision of another node, which is made while this one restores, is on the disk at the end."""
        now(self.one.keys.approve(remembered(OLD_KEY, domain="a.example")))
        late, kept = self.started(remembered(OLD_KEY, domain="a.example"), remembered(OLD_KEY, domain="b.example"))
        late.engine.lose_answers()
        call = Deferred.fromCoroutine(late.keys.restore())
        now(self.one.keys.approve(remembered(NEW_KEY, domain="a.example", at=NOW + 1)))
        late.engine.go_on()
        self.successResultOf(call)
        self.assertEqual(self.one.keys.of(), kept.of())
        self.assertEqual(3, len(kept.of()))

    def test_not_restored(self) -> None:
        """A value that cannot be read stays. Without the engine nothing is restored."""
        self.kept(self.one).mirror("peer.example", [remembered(OLD_KEY, revoked=NOW)])
        self.one.may_change = False
        self.assertRaises(NotChanged, now, self.one.keys.restore())
        self.one.may_change = True
        now(self.other.engine.put("pin.peer_example", b"x", 0))
        now(self.one.keys.restore())
        self.assertEqual(b"x", self.store.content.table["pin.peer_example"].data)
        kept = self.kept(self.one)
        kept.mirror("first.example", [first_use(domain="first.example")])
        bucket = f"firstuse.{self.one.keys.first_uses._key('first.example')}"
        now(self.other.engine.put(bucket, b"x", 0))
        now(self.one.keys.restore())
        self.assertEqual((b"x", 1), (self.store.content.table[bucket].data, len(kept.of())))
        now(self.one.keys.approve(remembered(OLD_KEY, domain="damaged.example")))
        late, kept = self.started(remembered(OLD_KEY, domain="damaged.example", revoked=NOW + 2))
        now(self.one.engine.put("pin.damaged_example", b"x", None))
        now(late.keys.restore())
        self.assertEqual([NOW + 2], [key.revoked for key in kept.of()])

    def test_late_answer(self) -> None:
        """The node that decides is not told of its own decision, also if it reads it before the engine has answered."""
        self.one.engine.lose_answers()
        call = Deferred.fromCoroutine(self.one.keys.approve(remembered()))
        self.assertEqual(frozenset({OLD_KEY}), self.one.known().approved)
        self.one.engine.go_on()
        self.successResultOf(call)
        self.assertEqual(([], [PEER]), (self.one.approved, self.other.approved))
