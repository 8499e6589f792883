"""Tests of peers that an operator denied."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.shared_denials import SharedDenials
from s2sgw.cluster.shared_table import CHANGE_SECONDS
from s2sgw.policy.denylist import DenyList
from s2sgw.policy.model import PeerObject
from s2sgw.policy.peers import PeerPolicies
from s2sgw.runtime import operator_denials
from s2sgw.runtime.operator_denials import OperatorDenials, TooManyDenied
from s2sgw.xmpp.jid import Domain
from tests.support.coroutines import now
from tests.support.memory_engine import MemoryEngine, MemoryStore

PEER, SUB, OTHER = (Domain.parse(name) for name in ("peer.example", "sub.peer.example", "other.example"))
LIST = DenyList("list", dict.fromkeys({"other.example"}))


class DenialsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.state.mkdir()
        self.peers = PeerPolicies({"peer.example": PeerObject(allow=True), "other.example": PeerObject(allow=True)})
        self.reports: list[str] = []
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.denials = self.start()

    def start(self) -> OperatorDenials:
        return OperatorDenials(self.state, self.peers.deny, self.reports.append, self.clock)

    def barred(self, *peers: Domain) -> list[bool]:
        return [self.peers.policy(peer).bar is not None for peer in peers]


class DenialTests(DenialsCase):
    def test_denied(self) -> None:
        """A name is denied at once, also if its own section has `allow = true`. An undo ends that."""
        self.assertEqual((True, False), (now(self.denials.add("peer.example")), now(self.denials.add("peer.example"))))
        self.assertEqual([True, False], self.barred(PEER, SUB))
        self.assertIn("s2sgw deny", self.peers.policy(PEER).bar.detail)  # type: ignore[union-attr]
        self.assertEqual((True, False), (now(self.denials.remove("peer.example")), now(self.denials.remove("peer.example"))))
        self.assertEqual([False], self.barred(PEER))

    def test_sub_domains(self) -> None:
        """A pattern denies names under a domain, not the domain itself."""
        now(self.denials.add("*.peer.example"))
        self.assertEqual([False, True], self.barred(PEER, SUB))

    def test_restart(self) -> None:
        """The names apply after a restart, before any list is read."""
        now(self.denials.add("peer.example"))
        self.peers.deny(())
        self.assertEqual(("peer.example",), self.start().names)
        self.assertEqual([True], self.barred(PEER))

    def test_beside_lists(self) -> None:
        """Deny lists of the configuration change independently of the names. They spare a peer that its own section allows."""
        now(self.denials.add("peer.example"))
        self.denials.use((LIST,))
        self.assertEqual([True, False], self.barred(PEER, OTHER))
        now(self.denials.remove("peer.example"))
        self.assertEqual((LIST,), self.peers.deny_lists)
        self.denials.use(())
        now(self.denials.add("other.example"))
        self.assertEqual([True], self.barred(OTHER))

    def test_not_written(self) -> None:
        """A denial that cannot be written does not apply: it would be lost at the next start."""
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        self.patch(operator_denials, "write_atomically", full)
        self.assertRaises(OSError, now, self.denials.add("peer.example"))
        self.assertEqual(([False], ()), (self.barred(PEER), self.denials.names))

    def test_bounded(self) -> None:
        """The number is limited, and the error says so."""
        self.patch(operator_denials, "MOST", 1)
        now(self.denials.add("peer.example"))
        self.assertRaises(TooManyDenied, now, self.denials.add("other.example"))
        self.assertFalse(now(self.denials.add("peer.example")))

    def test_damaged(self) -> None:
        """A file that cannot be understood is set aside and reported. One that cannot be read ends the start."""
        path = self.state / "denied.json"
        bad: Sequence[bytes] = (b"{", b"{}", b"[1]", json.dumps(["no domain"]).encode(), b"\xff")
        for number, text in enumerate(bad, 1):
            path.write_bytes(text)
            self.assertEqual(((), number, False), (self.start().names, len(self.reports), path.exists()))
        path.mkdir()
        self.assertRaises(OSError, self.start)

    def test_times(self) -> None:
        """A name has the time of its last denial, also after a restart. It has none when it is denied no longer."""
        now(self.denials.add("peer.example"))
        self.clock.advance(1.0)
        now(self.denials.add("other.example"))
        self.assertEqual({"peer.example": 1000.0, "other.example": 1001.0}, self.start().kept)
        self.clock.advance(1.0)
        self.assertFalse(now(self.denials.add("peer.example")))
        self.assertEqual({"peer.example": 1002.0, "other.example": 1001.0}, self.start().kept)
        for name in ("peer.example", "other.example"):
            now(self.denials.remove(name))
        self.denials.take(["peer.example"])
        self.assertEqual({"peer.example": 0.0}, self.start().kept)

    def test_damaged_times(self) -> None:
        """A file of times that cannot be understood is set aside and reported. The names stay denied."""
        now(self.denials.add("peer.example"))
        path = self.state / "denied-times.json"
        for number, text in enumerate((b"{", b"[]", b'{"peer.example":"x"}', b'{"no domain":1}', b"\xff", b'{"peer.example":NaN}', b'{"peer.example":1' + b"0" * 400 + b"}", b"[" * 100_000), 1):
            path.write_bytes(text)
            self.assertEqual(({"peer.example": 0.0}, number, False), (self.start().kept, len(self.reports), path.exists()))


class SharedNamesStub:
    """The names of all nodes. Changes are only noted."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def add(self, name: str) -> bool:
        self.asked.append(("add", name))
        return True

    async def remove(self, name: str) -> bool:
        self.asked.append(("remove", name))
        return False


class SharedTests(DenialsCase):
    """Names that all nodes of a cluster share."""

    def setUp(self) -> None:
        super().setUp()
        self.heard: list[dict[str, bool]] = []

    def share(self) -> SharedNamesStub:
        shared = self.denials.shared = SharedNamesStub()
        self.denials.heard = lambda: self.heard.append(dict(self.denials.learnt))
        return shared

    def test_changes(self) -> None:
        """A change is one of all nodes. It applies when it comes back from them."""
        shared = self.share()
        self.assertEqual((True, False), (now(self.denials.add("peer.example")), now(self.denials.remove("peer.example"))))
        self.assertEqual(([("add", "peer.example"), ("remove", "peer.example")], ()), (shared.asked, self.denials.names))

    def test_taken(self) -> None:
        """Names of all nodes apply at once, also after a restart. Each change is learnt; a repetition is none."""
        self.share()
        self.denials.take(["peer.example"])
        self.assertEqual(([True, False], [{"peer.example": True}]), (self.barred(PEER, OTHER), self.heard))
        self.denials.learnt.clear()  # as the verb does
        self.denials.take(["other.example"])
        self.denials.take(["other.example"])
        self.assertEqual(([False, True], {"other.example": True, "peer.example": False}, 2), (self.barred(PEER, OTHER), self.denials.learnt, len(self.heard)))
        self.assertEqual(("other.example",), self.start().names)

    def test_times_forgotten(self) -> None:
        """Names that all nodes share have no time of their own any more, also if they are those of before."""
        now(self.denials.add("peer.example"))
        self.share()
        self.denials.take(["peer.example"])
        self.assertEqual([{"peer.example": 0.0}] * 2, [self.denials.kept, self.start().kept])

    def test_engine_away_and_disk_full(self) -> None:
        """A name whose engine has no majority is not denied, until it has one. Then it is, also on a full disk and after a restart."""
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        store, clock = MemoryStore(), Clock()
        engine = MemoryEngine(store)
        shared = SharedDenials(engine, clock, lambda: True, self.reports.append, clock)
        shared.kept, shared.apply = (lambda: self.denials.kept), self.denials.take
        shared.table.start()
        now(shared.restore())
        self.denials.shared = shared
        self.patch(operator_denials, "write_atomically", full)
        engine.hold()
        denying = Deferred.fromCoroutine(self.denials.add("peer.example"))
        clock.advance(CHANGE_SECONDS + 1)
        self.assertIn("does not answer", self.failureResultOf(denying, OSError).getErrorMessage())
        self.assertEqual(([False], []), (self.barred(PEER), self.reports))
        engine.go_on()
        self.assertEqual(([True], 1), (self.barred(PEER), len(self.reports)))
        again = self.start()
        late = SharedDenials(MemoryEngine(store), clock, lambda: True, self.reports.append, clock)
        late.kept, late.apply = (lambda: again.kept), again.take
        late.table.start()
        now(late.restore())
        self.assertEqual(("peer.example",), again.names)

    def test_copy_not_written(self) -> None:
        """Names that all nodes share apply also if the copy on the disk cannot be written. That is reported."""
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        self.share()
        self.patch(operator_denials, "write_atomically", full)
        self.denials.take(["peer.example"])
        self.assertEqual(([True], 1), (self.barred(PEER), len(self.reports)))
