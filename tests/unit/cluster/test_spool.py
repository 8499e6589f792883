"""The spool in the engine keeps the contract, outlives its node, and loses nothing when the engine or the home is away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster import peer_spool, records, turn_slice
from s2sgw.cluster.engine import EngineError, EngineFull, Fence, LaneRecord, PeerLogs, Stored
from s2sgw.cluster.peer_spool import IDLE_RECORDS, REMOVAL_SECONDS
from s2sgw.cluster.records import RecordDamaged, RecordNewer, decode, read_totals
from s2sgw.cluster.spool import JetStreamSpool
from s2sgw.cluster.spool_room import STANZA_OVERHEAD
from s2sgw.spool.interface import (
    LaneSummary,
    PositionTaken,
    Replaced,
    Spool,
    SpoolBroken,
    Spooled,
    SpoolFull,
)
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.coroutines import now
from tests.support.memory_engine import MemoryEngine, MemoryStore
from tests.support.spool_contract import PAIRS, A, Asking, B, Deliver, SpoolContract, spooled, told

#: The peer of A and B, and a lane of another peer.
PEER = Domain.parse("b.example")
OTHER = Domain.parse("other.example")
C = Pair(Domain.parse("a.example"), OTHER)
_sessions = count(1)


def peer_of(pair: Pair) -> Domain:
    """The greater name, so that a pair and its inverse have one home."""
    return max(pair, key=lambda domain: domain.ascii)


def claimed(engine: MemoryEngine, peer: Domain, name: bytes = b"") -> tuple[Fence, PeerLogs]:
    home = now(engine.home(peer))
    fence, logs = now(engine.claim(peer, name, 0 if home is None else home.sequence))
    return fence, logs


class LoggingEngine(MemoryEngine):
    """It notes the appends, counts the reads, and refuses the appends whose numbers are in `refused`. It takes large stanzas."""

    max_record = 1 << 26

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.appends: list[list[LaneRecord]] = []
        self.refused: dict[int, EngineError] = {}
        self.reads = 0

    async def append(self, fence: Fence, records: Sequence[LaneRecord], identity: str) -> Sequence[int]:
        self.appends.append(list(records))
        if len(self.appends) in self.refused:
            raise self.refused[len(self.appends)]
        return await super().append(fence, records, identity)

    async def read(self, pair: Pair, peer: Domain, after: int, up_to: int, at_most: int) -> Sequence[Stored]:
        self.reads += 1
        return await super().read(pair, peer, after, up_to, at_most)


class ContractTests(SpoolContract, SynchronousTestCase):
    """The contract of every spool."""

    def open(self, deliver: Deliver, limit: int) -> Spool:
        self.engine = LoggingEngine(MemoryStore())
        spool = JetStreamSpool(self.engine, limit, deliver, Clock(), session="a", wall=lambda: 1e9, peer_of=peer_of)
        for peer in set(map(peer_of, PAIRS)) | {PAIRS[0].sender}:
            self.assertEqual(spool.restored(*claimed(self.engine, peer)), [])
        return spool

    @contextmanager
    def failing(self, spool: Spool) -> Iterator[None]:
        self.engine.refuse(EngineError("the engine fails"))
        yield
        self.engine.go_on()

    @contextmanager
    def hanging(self, spool: Spool) -> Iterator[None]:
        self.engine.hold()
        yield
        self.engine.go_on()


class Node(Asking):
    """A node with its spool. Its own clock is at `started` when the wall clock is at 10⁹ s."""

    def __init__(self, store: MemoryStore, *peers: Domain, limit: int = 1 << 26, share: int | None = None, started: float = 100.0) -> None:
        self.store = store
        self.engine = LoggingEngine(store)
        self.clock = Clock()
        self.clock.advance(started)
        self.lost: list[Domain] = []
        self.on_lost: Callable[[Domain], None] = self.lost.append
        self.reports: list[str] = []
        self.name = f"session{next(_sessions)}"
        self.jetstream: JetStreamSpool
        super().__init__(lambda deliver: self._open(deliver, limit, share))
        for peer in peers:
            self.claim(peer)

    def _open(self, deliver: Deliver, limit: int, share: int | None) -> JetStreamSpool:
        self.jetstream = JetStreamSpool(
            self.engine, limit, deliver, self.clock, session=self.name, wall=lambda: 1e9, peer_of=peer_of, share=share,
            lost=lambda peer: self.on_lost(peer), report=self.reports.append,
        )
        return self.jetstream

    def claim(self, peer: Domain = PEER) -> list[LaneSummary]:
        fence, logs = claimed(self.engine, peer, self.name.encode())
        return sorted(self.jetstream.restored(fence, logs), key=lambda summary: summary.pair)

    def answer_all(self) -> None:
        """Give all answers that are due."""
        while not self.calls.empty():
            self.calls.get()()

    def turn(self) -> None:
        """Make the calls that are due now, and none that come by them."""
        for _ in range(self.calls.qsize()):
            self.calls.get()()

    def write_removals(self) -> None:
        """Let the time pass in which removals are written."""
        self.clock.pump([0.1] * 4)

    def release(self, peer: Domain = PEER) -> Any:
        results: list[Any] = []
        self.jetstream.release(peer).addBoth(results.append)
        self.answer_all()
        return results[0] if results else "waits"

    def started(self, method: Any, *arguments: Any) -> list[Any]:
        """Make a call, and return the list that its answer will be in."""
        answers: list[Any] = []
        method(*arguments, answers.append)
        return answers


class Case(SynchronousTestCase):
    """A store, and the first node, which is the home of two peers."""

    def setUp(self) -> None:
        self.store = MemoryStore()
        self.node = Node(self.store, PEER, OTHER)

    def log(self, pair: Pair = A) -> list[Stored]:
        return self.store.content.of(peer_of(pair), pair)

    def kinds(self, pair: Pair = A) -> str:
        return "".join(decode(stored.headers, stored.data).kind for stored in self.log(pair))

    def is_error(self, kind: type[Exception], answer: Any, *words: str) -> None:
        self.assertIsInstance(answer, kind)
        for word in words:
            self.assertIn(word, str(answer))


class TakeoverTests(Case):
    """Tests of the state that another node finds."""

    def test_over_a_kill(self) -> None:
        """Stanzas, marks, and times by the wall clock; the claim reads no log."""
        self.node.append(*(spooled(A, position, deadline=130) for position in range(1, 6)), spooled(B, 1))
        self.node.mark(A, [2, 4])
        self.node.spool.remove(A, 1)
        self.node.spool.remove_each(A, [3])
        self.node.write_removals()
        other = Node(self.store, started=1000.0)
        later = 900.0
        self.assertEqual(other.claim(), [LaneSummary(A, 3, 300, 2, 5, 2 + later), LaneSummary(B, 1, 100, 1, 1, 1 + later)])
        self.assertEqual((other.engine.reads, other.held()), (0, (4, 400)))
        self.assertEqual([(row.position, row.written, row.accepted_at, row.deadline) for row in other.read(A)], [
            (2, True, 902, 1030), (4, True, 904, 1030), (5, False, 905, 1030),
        ])  # fmt: skip
        self.assertEqual([told(row) for row in other.read(B)], [told(spooled(B, 1)._replace(accepted_at=901, deadline=1500))])

    def test_removals_that_were_not_written(self) -> None:
        """Stanzas removed just before the kill are there again: they are in doubt. They are gone if the removal was written in time."""
        self.node.append(spooled(A, 1), spooled(A, 2))
        self.node.spool.remove(A, 1)
        self.assertEqual(Node(self.store, PEER).positions(A), [1, 2])
        again = Node(self.store, PEER)
        again.spool.remove(A, 1)
        again.clock.advance(REMOVAL_SECONDS / 2)
        self.assertEqual(self.kinds(), "A")
        again.clock.pump([REMOVAL_SECONDS / 2] * 2)
        self.assertEqual(self.kinds(), "AR")
        self.assertEqual(Node(self.store, PEER).positions(A), [2])

    def test_an_append_writes_removals_first(self) -> None:
        """The totals of every record are those of the log up to it."""
        self.node.append(spooled(A, 1), spooled(A, 2))
        self.node.spool.remove(A, 1)
        self.node.append(spooled(A, 3))
        self.node.spool.remove_each(A, [2])
        self.node.mark(A, [3])
        self.assertEqual(self.kinds(), "RARW")
        self.assertEqual(Node(self.store, PEER).positions(A), [3])
        self.assertEqual(Node(self.store).claim(), [LaneSummary(A, 1, 100, 3, 3, 3.0)])

    def test_a_removal_is_said_once(self) -> None:
        """Several appends to a lane in one turn have one record of what was removed before them; a mark that is there is not written."""
        self.node.append(spooled(A, 1), spooled(A, 2)._replace(written=True))
        self.node.engine.hold()
        self.node.started(self.node.spool.append, [spooled(B, 1)])
        self.node.spool.remove(A, 1)
        for position in (3, 4):
            self.node.started(self.node.spool.append, [spooled(A, position)])
        self.node.engine.go_on()
        self.assertEqual((self.node.mark(A, [2, 9]), self.kinds()), (None, "ARAA"))

    def test_appends_to_a_lane_that_was_not_read(self) -> None:
        """They go on behind what is there, with exact totals, and nothing is read for them."""
        self.node.append(spooled(A, 1, deadline=300), spooled(A, 2, deadline=200))
        other = Node(self.store, PEER)
        self.assertEqual(other.append(spooled(A, 3, 50, deadline=250), spooled(A, 4, deadline=400)), None)
        self.assertEqual((other.engine.reads, other.queues()), (0, [LaneSummary(A, 4, 350, 1, 4, 1.0)]))
        self.assertEqual(read_totals(self.log()[-1].headers).deadline, int((1e9 + 100) * 1e6))
        other.engine.refused = {2: EngineError("no")}
        self.is_error(SpoolBroken, other.append(spooled(A, 5)))
        self.assertEqual((other.engine.reads, other.queues()), (0, [LaneSummary(A, 4, 350, 1, 4, 1.0)]))
        self.assertEqual(other.positions(A), [1, 2, 3, 4])
        self.assertEqual(Node(self.store).claim(), [LaneSummary(A, 4, 350, 1, 4, 1.0)])

    def test_calls_to_a_lane_that_was_not_read(self) -> None:
        """Calls of one turn that need the log have it read when what was before them is stored."""
        self.node.append(spooled(A, 1), spooled(A, 2), spooled(A, 3))
        other = Node(self.store, PEER)
        other.engine.hold()
        answers = [other.started(other.spool.append, [spooled(pair, 4)]) for pair in (B, A)]
        answers.append(other.started(other.spool.mark_written, A, [2, 4]))
        other.spool.remove_each(A, [1])
        answers.append(other.started(other.spool.append, [spooled(A, 5)]))
        other.engine.go_on()
        other.answer_all()
        self.assertEqual((answers, other.held()), ([[None]] * 4, (5, 500)))
        other.write_removals()
        for node in (other, Node(self.store, PEER)):
            self.assertEqual([(row.position, row.written) for row in node.read(A)], [(2, True), (3, False), (4, True), (5, False)])

    def test_positions_go_on(self) -> None:
        """A position of the last stanzas, which were removed, is not used again while the lane is there."""
        self.node.append(*(spooled(A, position) for position in range(1, 6)))
        self.node.spool.remove_each(A, [4, 5])
        self.node.write_removals()
        other = Node(self.store, PEER)
        self.assertEqual(other.spool.next_position, 6)
        self.is_error(PositionTaken, other.append(spooled(A, 5)), "was used")
        self.assertEqual(other.append(spooled(A, 6)), None)
        self.assertEqual(Node(self.store, PEER).positions(A), [1, 2, 3, 6])

    def test_release(self) -> None:
        """A home that is given back leaves nothing unwritten, and takes no more calls."""
        self.node.append(spooled(A, 1), spooled(A, 2), spooled(C, 1))
        self.node.spool.remove(A, 1)
        self.assertEqual((self.node.release(), self.node.held()), (None, (1, 100)))
        self.is_error(SpoolBroken, self.node.append(spooled(A, 3)), "not the home")
        self.assertEqual((Node(self.store, PEER).positions(A), self.node.positions(C)), ([2], [1]))
        self.assertEqual((self.node.release(Domain.parse("nobody.example")), self.node.lost), (None, []))

    def test_release_waits(self) -> None:
        """It comes after all calls that were made before. When the engine refuses, the peer stays."""
        self.node.append(spooled(A, 1), spooled(A, 2))
        self.node.engine.hold()
        appended = self.node.started(self.node.spool.append, [spooled(A, 3)])
        self.node.spool.remove(A, 1)
        self.assertEqual((self.node.release(), appended), ("waits", []))
        self.node.engine.go_on()
        self.node.answer_all()
        self.assertEqual((appended, Node(self.store).claim()), ([None], [LaneSummary(A, 2, 200, 2, 3, 2.0)]))
        other = Node(self.store, PEER)
        other.positions(A)
        other.spool.remove_each(A, [2])
        other.engine.refuse(EngineError("no"))
        self.is_error(SpoolBroken, other.release().value, "no")
        other.engine.go_on()
        self.assertEqual((other.positions(A), other.release()), ([3], None))

    def test_removed_while_it_is_released(self) -> None:
        """A stanza that is delivered during a release is removed, also if the release fails."""
        self.node.append(*(spooled(A, position) for position in (1, 2, 3)))
        self.node.spool.remove(A, 1)
        self.node.engine.hold()
        released: list[Any] = []
        self.node.jetstream.release(PEER).addBoth(released.append)
        self.node.spool.remove(A, 2)
        waiting, self.node.engine._waiting = self.node.engine._waiting, []
        self.node.engine.go_on()
        for call in waiting:
            call.fail(EngineFull("full"))
        self.node.answer_all()
        self.is_error(SpoolFull, released[0].value, "full")
        self.node.write_removals()
        self.assertEqual((self.node.positions(A), Node(self.store, PEER).positions(A)), ([3], [3]))

    def test_lost_while_it_is_released(self) -> None:
        """A peer that has another home is told as lost, also during its release. It does not come back."""
        self.node.append(spooled(A, 1), spooled(A, 2))
        self.node.spool.remove(A, 1)
        Node(self.store, PEER)
        self.is_error(SpoolBroken, self.node.release().value, "home")
        self.assertEqual((self.node.lost, self.node.held()), ([PEER], (0, 0)))
        self.is_error(SpoolBroken, self.node.append(spooled(A, 3)), "not the home")

    def test_forgotten_or_claimed_while_it_is_released(self) -> None:
        """A release that fails brings back no peer that was forgotten, and none that was claimed again; it counts no more."""
        for again in (False, True):
            node = Node(self.store, PEER)
            node.append(spooled(A, 1), spooled(A, 2))
            node.spool.remove(A, 1)
            node.engine.hold()
            released: list[Any] = []
            node.jetstream.release(PEER).addBoth(released.append)
            waiting, node.engine._waiting = node.engine._waiting, []
            node.engine.go_on()
            if again:
                node.claim()
            else:
                node.jetstream.forget(PEER, "its home was lost")
            for call in waiting:
                call.fail(EngineError("no"))
            node.answer_all()
            self.is_error(SpoolBroken, released[0].value, "no")
            self.assertEqual((len(node.queues()), node.held()), ((1, (2, 200)) if again else (0, (0, 0))))
            self.store.content.records.clear()

    def test_newer_records(self) -> None:
        """A lane that a newer version wrote is not taken, and is not changed."""
        self.patch(records, "VERSION", 2)
        self.node.append(spooled(A, 1))
        self.patch(records, "VERSION", 1)
        other = Node(self.store)
        self.assertRaises(RecordNewer, other.claim)
        self.is_error(SpoolBroken, other.append(spooled(B, 1)))
        self.assertEqual(len(self.log()), 1)

    def test_claimed_again(self) -> None:
        """A peer that the same node claims again goes on with the new fence, and counts once."""
        self.node.append(spooled(A, 1))
        self.assertEqual(self.node.claim(), [LaneSummary(A, 1, 100, 1, 1, 1.0)])
        self.assertEqual((self.node.append(spooled(A, 2)), self.node.positions(A), self.node.held(), self.node.lost), (None, [1, 2], (2, 200), []))

    def test_an_empty_lane(self) -> None:
        """A lane that ran empty just before the kill is no lane, and is purged at the claim."""
        self.node.append(spooled(A, 1))
        self.node.engine.purge = lambda *arguments: Deferred()  # type: ignore[method-assign]
        self.node.spool.remove(A, 1)
        self.node.write_removals()
        self.assertEqual(self.kinds(), "AR")
        third = Node(self.store)
        third.engine.purge = lambda *arguments: Deferred()  # type: ignore[method-assign]
        third.claim()
        self.store.purge(A, PEER, 1 << 40)  # by the home before, late
        self.assertEqual((third.positions(A), third.mark(A, [1]), third.append(spooled(A, 2)), third.positions(A)), ([], None, None, [2]))
        self.assertEqual(Node(self.store, PEER).release(), None)
        self.store.purge(A, PEER, 1 << 40)
        self.node = Node(self.store, PEER)
        self.node.append(spooled(A, 1))
        self.node.engine.purge = lambda *arguments: Deferred()  # type: ignore[method-assign]
        self.node.spool.remove(A, 1)
        self.node.write_removals()
        other = Node(self.store)
        self.assertEqual((other.claim(), self.log()), ([], []))
        self.assertEqual((other.append(spooled(A, 1)), other.positions(A)), (None, [1]))


class FenceTests(Case):
    """Two rivals: the engine refuses the old home, and its calls are answered."""

    def test_the_old_home(self) -> None:
        """Its writes are refused and its calls answered, in order; then it is told; nothing of it is behind the claim."""
        self.node.append(spooled(A, 1), spooled(C, 1))
        other = Node(self.store, PEER)
        self.node.engine.hold()
        answers: list[tuple[str, Any]] = []
        calls: list[tuple[Any, ...]] = [
            ("append", self.node.spool.append, [spooled(A, 2)]), ("late", self.node.spool.append, [spooled(B, 1)]),
            ("mark", self.node.spool.mark_written, A, [1]), ("read", self.node.spool.read, B, 0, 1000),
        ]  # fmt: skip
        for name, method, *arguments in calls:
            method(*arguments, partial(lambda name, answer: answers.append((name, answer)), name))
        self.assertEqual(answers, [])
        self.node.engine.go_on()
        self.node.on_lost = lambda peer: answers.append(("lost", peer))
        self.node.answer_all()
        self.assertEqual([name for name, _ in answers], ["append", "late", "mark", "read", "lost"])
        self.assertTrue(all(isinstance(answer, SpoolBroken) for _, answer in answers[:4]))
        self.assertEqual(len(self.log()) + len(self.log(B)), 1)
        self.assertEqual((self.node.spool.count, self.node.spool.used_by(PEER), self.node.positions(C)), (1, 0, [1]))
        self.is_error(SpoolBroken, self.node.append(spooled(A, 3)), "not the home")
        self.assertEqual((other.append(spooled(A, 2)), other.positions(A)), (None, [1, 2]))

    def test_removals_of_the_old_home(self) -> None:
        """They are refused too, and it is told; records that it deletes late are those of which the log said so."""
        self.node.append(spooled(A, 1))
        self.node.append(spooled(A, 2))
        self.node.spool.remove(A, 1)
        other = Node(self.store, PEER)
        self.node.write_removals()
        self.node.answer_all()
        self.assertEqual((self.node.lost, other.positions(A), self.kinds()), ([PEER], [1, 2], "AA"))

    def test_forgotten_with_a_write_under_way(self) -> None:
        """A home that is lost otherwise refuses what waits; the write under way is answered as the engine says."""
        for position in (1, 2):
            node = Node(self.store, PEER)
            node.engine.lose_answers()
            first = node.started(node.spool.append, [spooled(A, position)])
            waits = node.started(node.spool.append, [spooled(A, 3)])
            node.jetstream.forget(PEER, "this node was buried")
            node.answer_all()
            self.is_error(SpoolBroken, waits[0], "buried")
            self.assertEqual((first, node.spool.count), ([], 0))
            node.engine.go_on()
            node.answer_all()
            self.assertEqual((first, node.lost, node.spool.count), ([None], [], 0))
        self.assertEqual(Node(self.store, PEER).positions(A), [1, 2])

    def test_a_record_that_the_old_home_deleted_late(self) -> None:
        """A lane whose record is gone is read again, and what is there is delivered."""
        for position in (1, 2, 3):
            self.node.append(spooled(A, position))
        other = Node(self.store, PEER)
        self.assertEqual(other.positions(A), [1, 2, 3])
        self.store.delete(PEER, [self.log()[0].sequence])
        other.spool.remove_each(A, [2])
        self.assertEqual((other.positions(A), other.queues()), ([3], [LaneSummary(A, 1, 100, 3, 3, 3.0)]))
        self.store.delete(PEER, [self.log()[-1].sequence])
        self.is_error(SpoolBroken, other.ask(other.spool.read, A, 0, 1000), "missing")

    @given(st.lists(st.sampled_from(["claim", "append", "hold", "go on", "remove"]), max_size=30), st.data())
    @settings(max_examples=60, deadline=None)
    def test_rivals(self, steps: Sequence[str], data: st.DataObject) -> None:
        """Two nodes that steal a peer from each other: what was acknowledged and not removed is there once, in order for each node,
        and no record stands behind the claim of another.
        """
        store = MemoryStore()
        nodes = [Node(store), Node(store)]
        appended: list[tuple[int, list[Any]]] = []
        positions, removed = count(1), set()
        writers: dict[int, str] = {}
        for step in steps:
            node = data.draw(st.sampled_from(nodes))
            if step == "claim" and not node.engine._held:
                node.claim()
            elif step == "append":
                position = next(positions)
                appended.append((position, node.started(node.spool.append, [spooled(A, position)])))
            elif step == "hold":
                node.engine.hold()
            elif step == "go on":
                node.engine.go_on()
            elif step == "remove" and appended:
                position = data.draw(st.sampled_from([position for position, _ in appended]))
                node.spool.remove_each(A, [position])
                removed.add(position)
            node.answer_all()
            home = store.content.home(PEER)
            for stored in store.content.of(PEER, A):
                writers.setdefault(stored.sequence, "" if home is None else home.data.decode())
                identities = [identity for (_, identity), sequences in store._done.items() if stored.sequence in sequences]
                self.assertEqual([identity.partition(".")[0] for identity in identities], [writers[stored.sequence]])
        for node in nodes:
            node.engine.go_on()
            node.answer_all()
        self.assertTrue(all(len(answers) == 1 for _, answers in appended))
        found = Node(store, PEER).positions(A)
        acknowledged = [position for position, answers in appended if answers == [None]]
        self.assertEqual(sorted(set(found)), found)
        self.assertEqual(set(acknowledged) - removed, set(found) - removed)
        self.assertLessEqual(set(found), set(acknowledged))


class EngineTests(Case):
    """An engine that is slow, full, or refuses."""

    def test_calls_are_joined(self) -> None:
        """Stanzas appended during an append go into one more, with the calls in between."""
        self.node.engine.hold()
        answers = [self.node.started(self.node.spool.append, [spooled(A, position)]) for position in range(1, 101)]
        self.node.spool.remove(A, 50)
        answers.append(self.node.started(self.node.spool.append, [spooled(B, 1)]))
        self.node.engine.go_on()
        self.node.answer_all()
        self.assertEqual((answers, [len(each) for each in self.node.engine.appends]), ([[None]] * 101, [1, 100]))
        self.assertEqual((self.node.positions(A), self.node.positions(B)), (list(range(51, 101)), [1]))

    def test_removals_of_one_turn(self) -> None:
        """All of them are written in the end, those before and those behind a write of the same turn."""
        self.node.append(*(spooled(A, position) for position in range(1, 6)))
        self.node.engine.hold()
        self.node.started(self.node.spool.append, [spooled(B, 1)])
        for position in (1, 2, 3):
            self.node.spool.remove_each(A, [position])
            self.node.started(self.node.spool.append, [spooled(A, 5 + position)])
        self.node.spool.remove_each(A, [4])
        self.node.engine.go_on()
        self.node.write_removals()
        self.assertEqual(Node(self.store, PEER).positions(A), [5, 6, 7, 8])

    def test_lost_answers(self) -> None:
        """An append whose answer is lost waits, and is not stored twice."""
        self.node.engine.lose_answers()
        answer = self.node.started(self.node.spool.append, [spooled(A, 1)])
        self.node.answer_all()
        self.assertEqual((answer, self.node.spool.stalled, len(self.node.spool.alerts())), ([], True, 1))
        self.node.engine.go_on()
        self.node.answer_all()
        self.assertEqual((answer, self.node.spool.stalled, self.node.positions(A), self.kinds()), ([None], False, [1], "A"))

    def test_full(self) -> None:
        """A full engine is a full disk. Removals make room, though their records have none, and are written when there is room."""
        for position in range(1, 7):
            self.node.append(spooled(A, position, 70_000 if position == 4 else 100))
        self.node.append(spooled(B, 1), spooled(B, 2))
        self.store.full = True
        answer = self.node.append(spooled(A, 7))
        self.is_error(SpoolFull, answer)
        self.assertEqual((answer.bound, self.node.spool.next_position, len(self.node.spool.alerts())), ("disk", 8, 1))
        self.node.spool.remove(A, 4)
        self.node.spool.remove_each(B, [1])
        self.node.write_removals()
        self.assertEqual((self.kinds(), self.kinds(B)), ("AA", "A"))
        self.assertEqual(Node(self.full_again(False), PEER).positions(A), [5, 6])

    def full_again(self, full: bool) -> MemoryStore:
        self.store.full = full
        return self.store

    def test_nearly_full(self) -> None:
        """An engine with little room takes no stanza. It takes marks, removals and claims, so that there is room again."""
        self.node.append(spooled(A, 1), spooled(A, 2), spooled(A, 3))
        self.store.nearly_full = True
        self.is_error(SpoolFull, self.node.append(spooled(A, 4)), "nearly full")
        self.assertEqual(self.node.mark(A, [2]), None)
        self.node.spool.remove(A, 1)
        self.node.write_removals()
        self.assertEqual(self.node.ask(lambda done: self.node.spool.append([spooled(B, 1)], done, [Replaced(A, [3])])), None)
        other = Node(self.store, PEER)
        self.assertEqual([(row.position, row.written) for row in other.read(A)], [(2, True)])
        self.assertEqual(other.positions(B), [1])
        self.store.nearly_full = False
        self.assertEqual(other.append(spooled(A, 4)), None)

    def test_full_and_removed_and_room_again(self) -> None:
        """The same node goes on: nothing comes back, and the removals are written."""
        self.node.append(spooled(A, 1))
        self.node.append(spooled(A, 2), spooled(A, 3))
        self.store.full = True
        self.node.spool.remove(A, 2)
        self.node.write_removals()
        self.assertEqual((self.kinds(), self.node.positions(A)), ("A", [3]))
        self.store.full = False
        self.node.clock.pump([0.2] * 6)
        self.assertEqual((self.kinds(), self.node.positions(A), Node(self.store, PEER).positions(A)), ("AR", [3], [3]))
        self.node = Node(self.store, PEER)
        self.node.append(spooled(A, 4))
        self.node.append(spooled(A, 5))
        self.node.positions(A)
        self.store.full = True
        self.node.spool.remove_each(A, [4])
        self.node.write_removals()
        self.store.full = False
        self.node.clock.pump([0.2] * 6)
        self.assertEqual(Node(self.store).claim(), [LaneSummary(A, 2, 200, 3, 5, 3.0)])

    def test_full_and_taken_over(self) -> None:
        """Totals that are too high, since there was no room for a record of removals, are told once, and are put right."""
        for position in (1, 2, 3):
            self.node.append(spooled(A, position))
        self.store.full = True
        self.node.spool.remove(A, 1)
        self.node.write_removals()
        self.assertEqual(self.node.release(), None)
        self.store.full = False
        other = Node(self.store)
        self.patch(peer_spool, "LOADED_BYTES", 0)
        self.assertEqual((other.claim()[0].count, other.positions(A), other.positions(A), other.held()), (3, [2, 3], [2, 3], (2, 200)))
        other.write_removals()
        self.assertEqual((self.kinds(), Node(self.store).claim()), ("AAR", [LaneSummary(A, 2, 200, 2, 3, 2.0)]))

    def test_refused(self) -> None:
        """A refused append leaves nothing, and can be made again, in part too; the positions of others stay free."""
        self.node.engine.refused = {1: EngineError("no"), 3: EngineError("no")}
        self.is_error(SpoolBroken, self.node.append(spooled(A, 1), spooled(A, 2)), "no")
        self.assertEqual((self.node.held(), self.log(), len(self.node.spool.alerts())), ((0, 0), [], 1))
        self.assertEqual((self.node.append(spooled(A, 2)), self.node.spool.alerts()), (None, []))
        self.is_error(SpoolBroken, self.node.mark(A, [2]))
        self.assertEqual([row.written for row in self.node.read(A)], [False])
        self.assertEqual(self.node.append(spooled(A, 1), spooled(A, 2), spooled(A, 3)), None)
        self.assertEqual((self.node.positions(A), self.node.held()), ([1, 2, 3], (3, 300)))
        self.assertEqual(Node(self.store, PEER).positions(A), [1, 2, 3])

    def test_replaced(self) -> None:
        """The stanzas that an append replaces are removed in the same append, and stay if it is refused."""
        self.node.append(*(spooled(B, position) for position in range(1, 5)))
        self.node.engine.refused = {2: EngineError("no")}
        replaces = [Replaced(B, [1, 3, 9])]
        for answer, positions in ((SpoolBroken, [1, 2, 3, 4]), (type(None), [2, 4])):
            self.assertIsInstance(self.node.ask(lambda done: self.node.spool.append([spooled(A, 1)], done, replaces)), answer)
            self.assertEqual(self.node.positions(B), positions)
        self.assertEqual(([len(each) for each in self.node.engine.appends], self.node.held()), ([1, 2, 2], (3, 300)))
        other = Node(self.store, PEER)
        self.assertEqual((other.positions(A), other.positions(B)), ([1], [2, 4]))

    def test_replaced_whole_runs(self) -> None:
        """The same where nothing else is left of the lane."""
        self.node.append(spooled(B, 1), spooled(B, 2))
        self.node.engine.refused = {2: EngineFull("no")}
        replaces = [Replaced(B, [1, 2])]
        self.assertIsInstance(self.node.ask(lambda done: self.node.spool.append([spooled(A, 1)], done, replaces)), SpoolFull)
        self.assertEqual((self.node.positions(B), self.node.held(), Node(self.store, PEER).positions(B)), ([1, 2], (2, 200), [1, 2]))

    def test_a_large_call(self) -> None:
        """A call that is too large for one append is stored in several. When one of them is refused, nothing of it is held."""
        self.patch(peer_spool, "APPEND_BYTES", 20_000)
        rows = [spooled(A, position, 1000) for position in range(2, 302)]
        self.node.append(spooled(A, 1))
        self.node.engine.refused = {4: EngineError("no")}
        self.is_error(SpoolBroken, self.node.append(*rows))
        self.assertEqual((self.node.positions(A), self.node.held(), len(self.node.engine.appends)), ([1], (1, 100), 5))
        self.assertEqual(Node(self.store, PEER).positions(A), [1])
        self.node.claim()
        self.assertEqual(self.node.append(*rows), None)
        self.assertEqual((len(self.node.positions(A)), self.node.held()), (301, (301, 300_100)))
        self.assertEqual(Node(self.store, PEER).positions(A), list(range(1, 302)))
        other = Node(self.store, PEER)
        other.engine.refused = {2: EngineError("no")}
        self.is_error(SpoolBroken, other.append(*(spooled(A, position, 1000) for position in range(400, 500))))
        other.write_removals()
        self.assertEqual(Node(self.store, PEER).positions(A), list(range(1, 302)))

    def test_stored_in_part(self) -> None:
        """Records of a refused call that are stored are removed before the call is answered: the stanzas may then be delivered."""
        self.patch(peer_spool, "APPEND_BYTES", 20_000)
        self.node.append(spooled(A, 1))
        self.node.engine.refused = {3: EngineFull("full")}
        answers: list[Any] = []
        stored: list[list[int]] = []

        def answered(answer: Any) -> None:
            answers.append(answer)
            stored.append(Node(self.store, PEER).positions(A))  # as if this node was killed now

        self.node.spool.append([spooled(A, position, 1000) for position in range(2, 102)], answered)
        self.node.answer_all()
        self.assertEqual(([SpoolFull], [[1]], 1), ([type(answer) for answer in answers], stored, len(self.node.spool.alerts())))

    def test_stored_in_part_of_another_home(self) -> None:
        """If another node becomes the home meanwhile, that is told before the call is answered: it delivers what is stored."""
        self.patch(peer_spool, "APPEND_BYTES", 20_000)
        self.node.engine.refused = {2: EngineFull("full")}
        original = self.node.engine.append

        async def append(fence: Fence, records: Sequence[LaneRecord], identity: str) -> Sequence[int]:
            if len(self.node.engine.appends) == 2:
                Node(self.store, PEER)
            return await original(fence, records, identity)

        self.patch(self.node.engine, "append", append)
        told: list[str] = []
        self.node.on_lost = lambda peer: told.append("lost")
        self.node.spool.append([spooled(A, position, 1000) for position in range(1, 101)], lambda answer: told.append("answered"))
        self.node.answer_all()
        self.assertEqual(["lost", "answered"], told)

    def test_a_call_of_many_lanes(self) -> None:
        """A call with a few stanzas of many lanes, too many for one append, is stored whole or not at all."""
        peer = Domain.parse("zz.example")
        pairs = [Pair(Domain.parse(f"l{number:04}.a.example"), peer) for number in range(500)]
        node = Node(self.store, peer)
        for pair in pairs:
            self.assertIsNone(node.append(spooled(pair, 1)))
        other = Node(self.store, peer)
        other.engine.refused = {4: EngineFull("full")}
        self.is_error(SpoolFull, other.append(*(spooled(pair, 2) for pair in pairs)))
        self.assertEqual(len(other.engine.appends), 7)
        self.assertEqual(sum(each.count for each in Node(self.store, peer).queues()), 500)

    def test_replaced_in_the_append_of_another_call(self) -> None:
        """A stanza that one call appends, and the next one replaces, is not held if the append of both fails."""
        self.node.append(spooled(A, 1))
        self.node.engine.hold()
        answers = [self.node.started(self.node.spool.append, [spooled(*each)]) for each in ((B, 1), (A, 2))]
        last: list[Any] = []
        self.node.spool.append([spooled(B, 2)], last.append, [Replaced(A, [2])])
        self.node.engine.refused = {3: EngineFull("full")}
        self.node.engine.go_on()
        self.node.answer_all()
        self.assertEqual(([type(answer) for (answer,) in (*answers, last)]), [type(None), SpoolFull, SpoolFull])
        self.assertEqual((self.node.held(), self.node.positions(A), self.node.positions(B)), ((2, 200), [1], [1]))

    def test_an_unexpected_failure(self) -> None:
        """A fault of the program within a call, or behind it, leaves no call unanswered. The peer is given up, and can be claimed again."""
        for fails in ("undo", "trim"):
            self.setUp()
            self.node.append(spooled(A, 1))
            self.node.engine.hold()
            answers = [self.node.started(self.node.spool.append, [spooled(A, position)]) for position in (2, 3)]
            answers += [self.node.started(self.node.spool.read, A, 0, 1000), self.node.started(self.node.spool.append, [spooled(A, 4)])]
            self.node.engine.refused = {3: EngineError("no")} if fails == "undo" else {}
            kind = peer_spool.AppendBatch if fails == "undo" else peer_spool.LoadedLanes
            with mock.patch.object(kind, fails, side_effect=RuntimeError("broken")):
                self.node.engine.go_on()
                self.node.answer_all()
            self.assertEqual([len(answer) for answer in answers], [1] * 4)
            self.is_error(SpoolBroken, answers[-1][0], "broken")
            self.is_error(SpoolBroken, self.node.append(spooled(A, 5)), "not the home")
            self.assertEqual((self.node.lost, self.node.held(), len(self.node.reports)), ([PEER], (0, 0), 1))
            self.assertEqual((1, 1), (self.node.jetstream.failures.number, len(self.flushLoggedErrors(RuntimeError))))
            self.assertIn(1, [row.position for row in Node(self.store, PEER).read(A)])

    def test_too_large_for_a_record(self) -> None:
        """A stanza that no record has room for is refused in words, and others are stored."""
        self.node.engine.max_record = 100_000
        self.is_error(SpoolBroken, self.node.append(spooled(A, 1, 99_500)), "max_payload")
        self.assertEqual((self.node.append(spooled(A, 2, 90_000)), self.node.positions(A)), (None, [2]))

    def test_damage(self) -> None:
        """A stanza whose bytes were altered says so. A record that cannot be read is an error in words, for its lane alone."""
        self.node.append(spooled(A, 1), spooled(A, 2))
        self.node.append(spooled(B, 1))
        lanes = self.store.content.records[PEER]
        for stored in (*self.log(A), *self.log(B)):
            changed = stored.data[:-1] + b"!" if stored in self.log(A) else b"x" + stored.data[1:]
            lanes[stored.sequence] = lanes[stored.sequence]._replace(stored=stored._replace(data=changed))
        self.assertEqual([row.damage for row in self.node.read(A)], ["", "content"])
        other = Node(self.store, PEER)
        self.is_error(SpoolBroken, other.ask(other.spool.read, B, 0, 1000), "altered")
        self.assertEqual((other.positions(A), len(other.reports), len(other.spool.alerts())), ([1, 2], 1, 1))
        lanes[self.log(A)[-1].sequence] = lanes[self.log(A)[-1].sequence]._replace(stored=self.log(A)[-1]._replace(headers={}))
        self.assertRaises(RecordDamaged, Node(self.store).claim)

    def test_a_record_that_is_shown_after_its_removal(self) -> None:
        """A reading with more than the last record says is made again, some times: nothing that was removed comes back soon."""
        self.patch(peer_spool, "IDLE_RECORDS", 1)
        for position in (1, 2, 3):
            self.node.append(spooled(A, position))
        before = self.log()
        self.node.spool.remove_each(A, [2])
        self.node.write_removals()
        self.node.append(spooled(A, 4))
        self.assertEqual(self.kinds(), "AAA")
        other = Node(self.store, PEER)
        fresh, read = before[1], other.engine.read

        async def stale(*arguments: Any) -> Sequence[Stored]:
            return sorted([*await read(*arguments), fresh])

        other.engine.read = stale  # type: ignore[method-assign, assignment]
        self.is_error(SpoolBroken, other.ask(other.spool.read, A, 0, 1 << 20), "removed")
        other.engine.read = read  # type: ignore[method-assign]
        self.assertEqual(other.positions(A), [1, 3, 4])
        other = Node(self.store, PEER)
        read = other.engine.read
        other.engine.read = stale  # type: ignore[method-assign, assignment]
        answers = [other.ask(other.spool.read, A, 0, 1 << 20) for _ in range(peer_spool.DISAGREEMENTS)]
        self.assertTrue(all(isinstance(answer, SpoolBroken) for answer in answers))
        self.assertEqual(other.positions(A), [1, 2, 3, 4])

    def test_removals_of_a_lane_that_cannot_be_read(self) -> None:
        """They are made when it can be."""
        self.node.append(spooled(A, 1), spooled(A, 2))
        other = Node(self.store, PEER)
        other.engine.refuse(EngineError("no"))
        other.spool.remove(A, 1)
        other.engine.go_on()
        self.assertEqual(other.positions(A), [1, 2])
        other.clock.pump([0.2] * 6)
        self.assertEqual((other.positions(A), self.kinds()), ([2], "AR"))


class CleaningTests(Case):
    """The records of which nothing is left."""

    def test_an_emptied_lane(self) -> None:
        """Nothing is left of a lane that was delivered, and it goes on as a new one."""
        for position in range(1, 21):
            self.node.append(spooled(A, position))
        self.node.spool.remove(A, 20)
        self.node.write_removals()
        self.assertEqual((self.log(), self.node.queues()), ([], []))
        self.assertEqual((self.node.append(spooled(A, 21)), self.kinds(), self.node.positions(A)), (None, "A", [21]))

    def test_appended_while_it_is_purged(self) -> None:
        """Stanzas appended to an emptied lane before the engine has purged it stay."""
        self.node.append(spooled(A, 1))
        purges: list[tuple[Any, Deferred[bool]]] = []

        def purge(*arguments: Any) -> Deferred[bool]:
            purges.append((arguments, Deferred()))
            return purges[-1][1]

        self.node.engine.purge = purge  # type: ignore[method-assign, assignment]
        self.node.spool.remove(A, 1)
        self.node.write_removals()
        self.node.append(spooled(A, 2))
        (arguments, done), = purges
        self.store.purge(*arguments)
        done.callback(True)
        self.assertEqual((self.kinds(), self.node.positions(A), Node(self.store, PEER).positions(A)), ("A", [2], [2]))

    def test_a_fault(self) -> None:
        """A deletion that fails for a reason that was not expected is logged, counted and made again: of records, and of a whole lane."""
        for position in range(1, 5):
            self.node.append(spooled(A, position))
        self.node.append(spooled(B, 1))
        for name in ("delete", "purge"):
            with mock.patch.object(self.node.engine, name, side_effect=ZeroDivisionError):
                if name == "delete":
                    self.node.spool.remove_each(A, [2, 3])
                else:
                    self.node.spool.remove(B, 1)
                self.node.write_removals()
                kinds = self.kinds(A), self.kinds(B)
            self.assertEqual((1, kinds), (len(self.flushLoggedErrors(ZeroDivisionError)), ("AAAAR", "A") if name == "delete" else ("AAR", "AR")))
            self.node.clock.pump([0.1] * 15)
        self.assertEqual(("AAR", "", 2), (self.kinds(A), self.kinds(B), self.node.jetstream.failures.number))
        self.assertEqual([1, 4], Node(self.store, PEER).positions(A))

    def test_the_front_goes(self) -> None:
        """A lane that is delivered in order keeps what waits, and one record of removals."""
        for position in range(1, 31):
            self.node.append(spooled(A, position))
        for up_to in range(1, 30):
            self.node.spool.remove(A, up_to)
            self.node.write_removals()
            self.assertLessEqual(len(self.log()), 30 - up_to + IDLE_RECORDS)
            self.assertEqual(Node(self.store).claim()[0].count, 30 - up_to)
            self.node = Node(self.store, PEER)
            self.node.positions(A)

    def test_the_last_record_stays(self) -> None:
        """The record of a run that is gone stays while it is the last one, since it has the totals."""
        self.node.append(spooled(A, 1))
        self.node.append(spooled(A, 2))
        self.node.engine.refused = {3: EngineFull("no")}
        self.node.spool.remove_each(A, [2])
        self.node.write_removals()
        self.assertEqual(self.kinds(), "AA")
        self.node.append(spooled(A, 3))
        self.assertEqual((self.kinds(), Node(self.store, PEER).positions(A)), ("AA", [1, 3]))

    def test_a_stanza_that_stays_in_front(self) -> None:
        """Thousands that pass behind one that is held leave a bounded number of records."""
        self.node.append(*(spooled(A, position) for position in range(1, 4)))
        for position in range(4, 300):
            self.node.append(spooled(A, position))
            if position % 2:
                self.node.mark(A, [position])
            self.node.spool.remove_each(A, [position])
            self.node.write_removals()
        self.assertLess(len(self.log()), IDLE_RECORDS + 5)
        self.assertEqual(Node(self.store, PEER).positions(A), [1, 2, 3])

    def test_a_removal_is_deleted_last(self) -> None:
        """The record of a removal stays until the engine has deleted the runs that it names."""
        deletes: list[tuple[list[int], Deferred[bool]]] = []

        def delete(peer: Domain, sequences: Sequence[int]) -> Deferred[bool]:
            deletes.append((list(sequences), Deferred()))
            return deletes[-1][1]

        self.patch(peer_spool, "IDLE_RECORDS", 1)
        for position in (1, 2, 3):
            self.node.append(spooled(A, position))
        one, two, three = (stored.sequence for stored in self.log())
        self.node.engine.delete = delete  # type: ignore[method-assign]
        self.node.spool.remove_each(A, [2])
        self.node.write_removals()
        removal = self.log()[-1].sequence
        self.node.append(spooled(A, 4))
        self.assertEqual([sequences for sequences, _ in deletes], [[two]])
        deletes[0][1].callback(True)
        self.assertEqual([sequences for sequences, _ in deletes], [[two], [removal]])
        self.assertEqual(len({one, two, three, removal}), 4)


class BoundsTests(Case):
    """Room, shares, expiry, the end, the quarantine."""

    def test_shares(self) -> None:
        """A peer has its share, and never what is free for the others; what is replaced counts."""
        size = 1000 + STANZA_OVERHEAD
        node = Node(self.store, PEER, OTHER, limit=20 * size, share=8 * size)
        self.assertEqual(node.append(*(spooled(A, position, 1000) for position in range(1, 9))), None)
        answer = node.append(spooled(B, 1, 1000))
        self.is_error(SpoolFull, answer, "b.example", "share")
        self.assertEqual((answer.bound, node.spool.used_by(PEER), node.spool.share), ("share", 8 * size, 8 * size))
        self.assertEqual(node.ask(lambda done: node.spool.append([spooled(B, 1, 1000)], done, [Replaced(A, [1])])), None)
        self.assertEqual(node.append(*(spooled(C, position, 1000) for position in range(1, 7))), None)
        self.assertEqual(node.append(spooled(C, 7, 1000)).bound, "share")
        node.spool.raise_limit(size)
        self.assertEqual(node.append(*(spooled(C, position, 1000) for position in range(7, 14))), None)
        self.assertEqual(node.append(spooled(C, 14, 1000)).bound, "spool")
        other = Node(self.store, PEER)
        self.assertEqual((other.spool.used_by(PEER), other.held()), (8 * size, (8, 8000)))

    def test_shares_of_sub_domains(self) -> None:
        """The peers of a registered domain have one share, also in one append, after another node took them over, and as they end."""
        size, here = 1000 + STANZA_OVERHEAD, A.sender if peer_of(A) == A.recipient else A.recipient
        peers = [Domain.parse(f"n{number}.much.example") for number in range(4)]
        rows = [spooled(Pair(here, peer), position, 1000) for position in (1, 2, 3) for peer in peers]
        node = Node(self.store, *peers, OTHER, limit=40 * size, share=8 * size)
        self.assertEqual(node.append(*rows[:8]), None)
        refused = node.append(rows[8])
        self.is_error(SpoolFull, refused, "much.example, with all its sub-domains,", "share")
        self.assertEqual((refused.bound, node.spool.used_by(peers[3]), node.append(spooled(C, 1, 1000))), ("share", 8 * size, None))
        other = Node(self.store, *peers, limit=40 * size, share=10 * size)
        self.assertEqual((other.append(*rows[8:10]), other.append(rows[10]).bound), (None, "share"))
        other.jetstream.forget(peers[0], "another node has it")
        self.assertEqual((other.spool.used_by(peers[0]), other.append(rows[10])), (7 * size, None))

    def test_memory(self) -> None:
        """The logs of lanes in memory are bounded: those that were not used for the longest are read again when they are used."""
        self.patch(peer_spool, "LOADED_BYTES", 2500)
        for pair in (A, B, C):
            for position in (1, 2):
                self.node.append(spooled(pair, position))
        loaded = self.node.jetstream._services.loaded
        self.assertEqual(([str(lane.pair) for lane in loaded._lanes], loaded.bytes), ([str(B), str(C)], 2 * 1212))
        reads = self.node.engine.reads
        self.assertEqual((self.node.append(spooled(A, 3)), self.node.engine.reads), (None, reads))
        self.node.mark(A, [2])
        self.assertEqual([row.written for row in self.node.read(A)], [False, True, False])
        self.assertLessEqual(loaded.bytes, 2500)
        self.node.spool.remove(A, 3)
        self.node.spool.remove(C, 2)
        self.node.write_removals()
        self.assertEqual((self.node.held(), self.node.queues(), loaded.bytes <= 1212), ((2, 200), [LaneSummary(B, 2, 200, 1, 2, 1.0)], True))
        self.node.release()
        self.assertEqual((loaded.bytes, loaded._lanes), (0, {}))

    def test_memory_and_a_full_engine(self) -> None:
        """A log is not read again while records are being deleted that it does not have any more."""
        self.patch(peer_spool, "LOADED_BYTES", 0)
        for position in (1, 2):
            self.node.append(spooled(A, position))
        deleted: Deferred[bool] = Deferred()
        self.node.engine.delete = lambda peer, sequences: deleted  # type: ignore[method-assign]
        self.node.positions(A)
        self.store.full = True
        self.node.spool.remove_each(A, [1])
        self.node.write_removals()
        self.assertEqual((self.node.positions(A), len(self.log())), ([2], 2))

    def test_several_peers(self) -> None:
        """A batch of several peers is stored whole or not at all; without their homes nothing is."""
        self.assertEqual(self.node.append(spooled(A, 1), spooled(C, 1)), None)
        self.node.engine.refused = {4: EngineError("no")}
        self.assertIsInstance(self.node.append(spooled(A, 2), spooled(C, 2)), SpoolBroken)
        self.assertEqual((self.node.positions(A), self.node.positions(C), self.node.held()), ([1], [1], (2, 200)))
        third = Pair(A.sender, Domain.parse("third.example"))
        self.node.claim(third.recipient)
        self.node.engine.refused = {7: EngineError("no")}
        self.assertIsInstance(self.node.append(spooled(A, 3), spooled(C, 3), spooled(third, 3)), SpoolBroken)
        self.assertEqual((self.node.positions(A), self.node.positions(C), self.node.held()), ([1], [1], (2, 200)))
        stranger = Pair(A.sender, Domain.parse("stranger.example"))
        self.is_error(SpoolBroken, self.node.append(spooled(A, 2), spooled(stranger, 1)), "stranger.example")
        self.assertEqual((self.node.positions(A), self.node.append()), ([1], None))
        for method, *arguments in ((self.node.spool.read, stranger, 0, 1), (self.node.spool.mark_written, stranger, [1])):
            self.is_error(SpoolBroken, self.node.ask(method, *arguments), "not the home")
        self.node.spool.remove(stranger, 1)

    def test_expired(self) -> None:
        """The earliest deadlines of all peers come first, from lanes that were not read too; unreadable ones hide no others."""
        self.node.append(*(spooled(A, position, deadline=200 + position) for position in range(1, 200)))
        self.node.append(spooled(C, 1, deadline=210.5), spooled(C, 2, deadline=5000))
        other = Node(self.store, PEER, OTHER)
        self.assertEqual(other.ask(other.spool.expired, 200.0, 5), [])
        self.assertEqual(other.engine.reads, 0)
        found = other.ask(other.spool.expired, 1000.0, 12)
        self.assertEqual([(row.pair, row.position) for row in found], [*((A, position) for position in range(1, 11)), (C, 1), (A, 11)])
        lanes = self.store.content.records[PEER]
        for stored in self.log():
            lanes[stored.sequence] = lanes[stored.sequence]._replace(stored=stored._replace(data=b""))
        again = Node(self.store, PEER, OTHER)
        self.assertEqual([(row.pair, row.position) for row in again.ask(again.spool.expired, 1000.0, 12)], [(C, 1)])
        again.spool.remove(C, 1)
        self.is_error(SpoolBroken, again.ask(again.spool.expired, 1000.0, 12), "altered")
        self.assertEqual(again.ask(again.spool.expired, 1000.0, 0), [])

    def test_expired_beside_a_lane_that_cannot_be_read(self) -> None:
        """The other lanes of the peer are looked at. If there is nothing in them, the answer is the error."""
        self.node.append(spooled(A, 1, deadline=130), spooled(B, 1, deadline=131))
        lanes, (first,) = self.store.content.records[PEER], self.log()
        lanes[first.sequence] = lanes[first.sequence]._replace(stored=first._replace(data=b"\0\0\0\2[]"))
        other = Node(self.store, PEER)
        self.assertEqual([row.pair for row in other.ask(other.spool.expired, 1000.0, 10)], [B])
        other.spool.remove(B, 1)
        self.is_error(SpoolBroken, other.ask(other.spool.expired, 1000.0, 10))

    def test_close(self) -> None:
        """It waits for every call, writes the removals, and every later call is an error."""
        self.node.append(spooled(A, 1), spooled(A, 2))
        self.node.spool.remove(A, 1)
        self.node.engine.hold()
        appended = self.node.started(self.node.spool.append, [spooled(A, 3)])
        closed: list[bool] = []
        self.node.spool.close(lambda: closed.append(True))
        self.node.answer_all()
        self.assertEqual((appended, closed), ([], []))
        self.node.engine.go_on()
        self.node.answer_all()
        self.assertEqual((appended, closed, Node(self.store, PEER).positions(A)), ([None], [True], [2, 3]))
        spool = self.node.spool
        for method, *arguments in (
            (spool.append, [spooled(A, 4)]), (spool.read, A, 0, 1), (spool.mark_written, A, [2]), (spool.queues,), (spool.expired, 1e9, 1),
            (spool.quarantined, 1),
        ):  # fmt: skip
            self.is_error(SpoolBroken, self.node.ask(method, *arguments), "closed")
        spool.remove(A, 9)
        spool.quarantine(spooled(A, 4), "poison", 1.0)
        self.node.close()
        self.assertEqual(self.node.clock.getDelayedCalls(), [])

    def test_close_of_a_failing_engine(self) -> None:
        """It ends, and what was removed is in doubt."""
        self.node.append(spooled(A, 1), spooled(A, 2))
        self.node.spool.remove(A, 1)
        self.node.engine.refuse(EngineError("no"))
        self.node.spool.quarantine(spooled(A, 2), "poison", 1.0)
        self.node.close()
        self.assertEqual(self.node.clock.getDelayedCalls(), [])
        self.assertEqual(Node(self.store, PEER).positions(A), [1, 2])

    def test_nothing_expires(self) -> None:
        """Peers are looked at only when something may have expired: after the earliest deadline that is known, of any peer."""
        expired, spool = self.node.spool.expired, self.node.spool

        def looked(now: float) -> tuple[bool, list[int]]:
            with mock.patch.object(self.node.jetstream, "_expired", wraps=self.node.jetstream._expired) as looks:
                rows = self.node.ask(expired, now, 9)
            return looks.called, [row.position for row in rows]

        self.node.append(spooled(A, 1, deadline=200), spooled(C, 2, deadline=300))
        self.assertEqual([(True, []), (False, []), (True, [1])], [looked(now) for now in (150.0, 199.0, 200.0)])
        spool.remove(A, 1)
        self.assertEqual([(True, []), (False, [])], [looked(now) for now in (201.0, 299.0)])
        self.node.append(spooled(A, 3, deadline=250))
        self.assertEqual([(False, []), (True, [3])], [looked(now) for now in (249.0, 250.0)])
        spool.remove(A, 3)
        self.assertEqual((True, []), looked(251.0))
        self.node.append(spooled(A, 5, deadline=252), spooled(A, 6, deadline=253))
        self.node.spool.remove(A, 5)
        self.node.engine.hold()
        released: list[Any] = []
        self.node.jetstream.release(PEER).addErrback(released.append)
        self.assertEqual((True, []), looked(252.0))  # without the peer, which may come back
        self.node.engine.refuse(EngineError("no"))
        for call in self.node.engine._waiting:
            call.fail(EngineError("no"))
        self.node.answer_all()
        self.assertEqual(1, len(released))
        self.node.engine.go_on()
        self.assertEqual((True, [6]), looked(254.0))
        spool.remove(A, 6)
        self.node.write_removals()
        self.assertEqual((True, []), looked(255.0))
        other = Node(self.store, PEER)
        other.append(spooled(A, 4, deadline=260))
        self.node.claim(PEER)
        self.assertEqual([(False, []), (True, [4])], [looked(now) for now in (259.0, 260.0)])

    # --- many peers ---

    def many(self, number: int = 4) -> tuple[Node, list[Pair]]:
        """Return the home of so many peers, each with a stanza that expires at 130, and with a removal that is not written."""
        pairs = [Pair(A.sender, Domain.parse(f"z{each}.example")) for each in range(number)]
        node = Node(self.store, *(pair.recipient for pair in pairs))
        node.append(*(spooled(pair, position, deadline=130) for pair in pairs for position in (1, 2)))
        for pair in pairs:
            node.spool.remove(pair, 1)
        self.patch(turn_slice, "SLICE_SECONDS", -1.0)
        return node, pairs

    def turns_of(self, node: Node, answers: list[Any]) -> int:
        """Return the turns of the reactor until the answer comes."""
        turns = 0
        while not answers:
            self.assertLess(turns, 20)
            turns += 1
            node.turn()
        return turns

    def test_questions_to_many_peers(self) -> None:
        """They take several turns. A peer that is lost meanwhile is left out, and what is asked of one meanwhile is answered first."""
        node, pairs = self.many()
        queues = node.started(node.spool.queues)
        node.turn()
        node.jetstream.forget(pairs[2].recipient, "lost")
        appended = node.started(node.spool.append, [spooled(pairs[3], 3)])
        self.assertEqual(4, self.turns_of(node, queues))
        self.assertEqual([None], appended)
        counts = {summary.pair: summary.count for summary in queues[0]}
        self.assertEqual({pairs[0]: 1, pairs[1]: 1, pairs[3]: 2}, counts)
        node.jetstream.forget(pairs[1].recipient, "lost")
        expired = node.started(node.spool.expired, 1000.0, 9)
        self.assertEqual(3, self.turns_of(node, expired))
        self.assertEqual([pairs[0], pairs[3], pairs[3]], sorted(row.pair for row in expired[0]))

    def test_close_with_many_peers(self) -> None:
        """It takes several turns, and the removals of all are written."""
        node, pairs = self.many()
        closed: list[bool] = []
        node.spool.close(lambda: closed.append(True))
        again: list[bool] = []
        node.spool.close(lambda: again.append(True))
        self.is_error(SpoolBroken, node.ask(node.spool.queues), "closed")
        self.turns_of(node, closed)
        self.turns_of(node, again)
        self.assertEqual({"AR"}, {self.kinds(pair) for pair in pairs})
        self.assertEqual((0, 0), (node.jetstream.count, node.jetstream.bytes))

    def test_faults_of_questions(self) -> None:
        """A question that fails for a reason that was not expected is logged, counted and answered, and so is a close."""
        broken: dict[str, Any] = {"side_effect": ZeroDivisionError("broken")}
        self.node.append(spooled(A, 1))
        spool = self.node.spool
        for method, *arguments in ((spool.queues,), (spool.expired, 1e9, 1)):
            with mock.patch.object(peer_spool.PeerSpool, "busy", new_callable=mock.PropertyMock, **broken):
                self.is_error(SpoolBroken, self.node.ask(method, *arguments), "broken")
        with mock.patch.object(self.node.engine, "kept", **broken):
            self.is_error(SpoolBroken, self.node.ask(spool.quarantined, 1), "broken")
        with mock.patch.object(peer_spool.PeerSpool, "busy", new_callable=mock.PropertyMock, **broken):
            self.node.close()
        self.assertEqual((4, 4), (self.node.jetstream.failures.number, len(self.flushLoggedErrors(ZeroDivisionError))))

    def test_memory_of_many_lanes(self) -> None:
        """Some lanes are looked at for each call. Those that cannot be forgotten now are looked at later."""
        self.patch(peer_spool, "TRIMMED_AT_ONCE", 2)
        node, pairs = self.many(6)
        self.patch(peer_spool, "LOADED_BYTES", 0)
        loaded = node.jetstream._services.loaded
        before, number = loaded.bytes, len(loaded._lanes)
        loaded.trim()
        self.assertEqual((before, number), (loaded.bytes, len(loaded._lanes)))
        with mock.patch.object(peer_spool.Lane, "unload", return_value=True) as unload:
            loaded.trim()
            self.assertEqual((2, number - 2), (unload.call_count, len(loaded._lanes)))
        self.assertEqual(pairs[4:], [call.pair for call in list(loaded._lanes)[:2]])
        with mock.patch.object(peer_spool.Lane, "unload", return_value=True):
            loaded.trim()
            loaded.trim()
        self.assertEqual((0, 0), (loaded.bytes, len(loaded._lanes)))

    def test_quarantine_that_fails(self) -> None:
        """A stanza that cannot be kept for a reason that was not expected is kept later."""
        with mock.patch.object(self.node.engine, "keep", side_effect=ZeroDivisionError):
            self.node.spool.quarantine(spooled(A, 1), "poison", 12.5)
        self.assertEqual((1, 1), (self.node.jetstream.failures.number, len(self.flushLoggedErrors(ZeroDivisionError))))
        self.node.clock.advance(1)
        self.assertEqual(1, len(self.node.ask(self.node.spool.quarantined, 9)))

    def test_quarantine(self) -> None:
        """It is of all nodes, with times of the one that reads. What could not be stored is stored later; what is damaged is left out."""
        self.node.engine.hold()
        for position in (8, 9):
            self.node.spool.quarantine(spooled(B, position), "first", 11.5)
        early = self.node.started(self.node.spool.quarantined, 9)
        self.node.engine.go_on()
        self.node.answer_all()
        self.assertEqual([each.spooled.position for each in early[0]], [8, 9])
        self.store.kept.clear()
        self.node.engine.refuse(EngineError("no"))
        self.node.spool.quarantine(spooled(A, 1), "poison", 12.5)
        self.node.spool.quarantine(spooled(C, 2), "worse", 13.5)
        self.node.engine.go_on()
        self.assertEqual(self.node.ask(self.node.spool.quarantined, 9), [])
        self.node.clock.advance(1)
        now(self.node.engine.keep(PEER, b"{}\nno record"))
        other = Node(self.store, started=1000.0)
        found = other.ask(other.spool.quarantined, 9)
        self.assertEqual([(each.spooled.pair, each.spooled.position, each.cause, each.at) for each in found], [(A, 1, "poison", 12.5), (C, 2, "worse", 13.5)])
        self.assertEqual([each.spooled.accepted_at for each in found], [901.0, 902.0])

    def test_an_answer_that_raises(self) -> None:
        """The other answers are given."""
        def broken(answer: object) -> None:
            raise ZeroDivisionError

        self.node.spool.append([spooled(A, 1)], broken)
        second = self.node.started(self.node.spool.append, [spooled(A, 2)])
        self.assertRaises(ZeroDivisionError, self.node.calls.get())
        self.node.answer_all()
        self.assertEqual(second, [None])

    def test_a_call_that_cannot_be_made(self) -> None:
        """A fault of ours is an answer too, and the next call is made."""
        odd = Spooled(A, 1, Stanza("message", b"<message/>", object(), ""), 1.0, 2.0)  # type: ignore[arg-type]
        self.is_error(SpoolBroken, self.node.append(odd), "TypeError")
        self.assertEqual((len(self.node.reports), self.node.append(spooled(A, 1)), self.node.held()), (1, None, (1, 100)))

    def test_many_peers_write_their_removals(self) -> None:
        """Some in each turn of the reactor, until all are written."""
        peers = [Domain.parse(f"z{number}.example") for number in range(50)]
        node = Node(self.store, *peers)
        pairs = [Pair(A.sender, peer) for peer in peers]
        node.append(*(spooled(pair, position) for pair in pairs for position in (1, 2)))
        for pair in pairs:
            node.spool.remove(pair, 1)
        node.engine.appends.clear()
        turns: list[int] = []
        later = node.clock.callLater

        def call_later(seconds: float, *arguments: Any) -> Any:
            turns.append(len(node.engine.appends))
            return later(seconds, *arguments)

        node.clock.callLater = call_later  # type: ignore[method-assign, assignment]
        node.clock.pump([0.1] * 3)
        self.assertEqual((turns[-3:], len(node.engine.appends), {self.kinds(pair) for pair in pairs}), ([0, 20, 40], 50, {"AR"}))


_lanes, _positions = st.sampled_from([A, B, C]), st.lists(st.integers(1, 14), min_size=1, max_size=6)
_append = st.tuples(st.just("append"), _lanes, st.lists(st.integers(30, 300), min_size=1, max_size=6))
LIVES = st.lists(
    st.one_of(
        _append,
        st.tuples(st.just("remove_each"), _lanes, _positions),
        st.tuples(st.just("remove"), _lanes, st.integers(1, 14)),
        _append,
        st.tuples(st.just("mark"), _lanes, _positions),
        st.tuples(st.just("wait")),
        st.tuples(st.just("kill")),
        st.tuples(st.sampled_from(["release", "full", "room"])),
        st.tuples(st.just("refuse"), st.integers(1, 3)),
    ),
    min_size=10,
    max_size=30,
)  # fmt: skip


class LifeTests(SynchronousTestCase):
    """Any life of lanes over nodes that are killed, engines that refuse, and little memory."""

    @given(LIVES, st.sampled_from([0, 1000, 1 << 20]))
    @settings(max_examples=100, deadline=None)
    def test_any_life(self, steps: Sequence[tuple[Any, ...]], memory: int) -> None:
        """Each node finds what was acknowledged and not removed, with its marks, in order. Besides it may find what was removed just
        before a kill, and nothing else. The totals that it is told at the claim are of what it finds, once removals are written, and
        unless the engine was full.
        """
        self.patch(peer_spool, "LOADED_BYTES", memory)
        self.store = MemoryStore()
        self.node = Node(self.store, PEER, OTHER)
        self.rows: dict[tuple[Pair, int], bool] = {}
        self.doubtful: set[tuple[Pair, int]] = set()
        self.was_full = False
        self.last = dict.fromkeys((A, B, C), 0)
        for pair in (A, B, C):
            self.append(pair, [30, 40, 50])
        for name, *arguments in steps:
            getattr(self, name)(*arguments)
            self.check()
        self.room()
        self.kill()
        self.check()
        self.was_full = False
        self.release()
        self.check()

    def check(self) -> None:
        self.node.answer_all()
        for pair in (A, B, C):
            expected = {position: written for (one, position), written in self.rows.items() if one == pair}
            found = self.node.read(pair)
            self.assertEqual([row.position for row in found], sorted(expected))
            self.assertEqual({row.position: row.written for row in found}, expected)
        self.assertEqual(self.node.spool.count, len(self.rows))

    def append(self, pair: Pair, sizes: list[int]) -> None:
        batch = [spooled(pair, self.last[pair] + number, size) for number, size in enumerate(sizes, 1)]
        if self.node.append(*batch) is None:
            self.last[pair] += len(sizes)
            self.rows.update({(pair, row.position): False for row in batch})

    def remove(self, pair: Pair, up_to: int) -> None:
        self.remove_each(pair, range(up_to + 1))

    def remove_each(self, pair: Pair, positions: Sequence[int]) -> None:
        self.node.spool.remove_each(pair, positions)
        gone = {(pair, position) for position in positions} & self.rows.keys()
        self.doubtful |= gone
        for key in gone:
            del self.rows[key]

    def mark(self, pair: Pair, positions: list[int]) -> None:
        if self.node.mark(pair, positions) is None:
            self.rows.update({key: True for position in positions if (key := (pair, position)) in self.rows})

    def wait(self) -> None:
        self.node.clock.pump([0.2] * 8)
        if not self.store.full and not self.node.engine.refused:
            self.doubtful.clear()

    def kill(self) -> None:
        full, self.store.full = self.store.full, False
        before = self.store.content.copy()
        self.node = Node(self.store)
        summaries = {summary.pair: summary for peer in (PEER, OTHER) for summary in self.node.claim(peer)}
        self.store.full = full
        found = {(pair, row.position): row for pair in (A, B, C) for row in self.node.read(pair)}
        self.assertLessEqual(self.rows.keys(), found.keys(), before)
        self.assertLessEqual(found.keys(), self.rows.keys() | self.doubtful)
        self.assertTrue(all(found[key].written >= written for key, written in self.rows.items()))
        for pair in (A, B, C):
            rows = [row for (one, _), row in found.items() if one == pair]
            if not self.doubtful and not self.was_full:
                self.assertEqual(summaries[pair].count if pair in summaries else 0, len(rows))
                self.assertTrue(not rows or (summaries[pair].first, summaries[pair].last) == (rows[0].position, rows[-1].position))
        self.rows = {key: row.written for key, row in found.items()}
        self.doubtful.clear()
        self.last = {pair: max(self.last[pair], self.node.spool.next_position) for pair in self.last}

    def release(self) -> None:
        if [self.node.release(peer) for peer in (PEER, OTHER)] == [None, None]:
            self.doubtful.clear()
            self.kill()
        else:
            self.kill()

    def full(self) -> None:
        self.store.full = self.was_full = True

    def refuse(self, number: int) -> None:
        self.node.engine.refused = {len(self.node.engine.appends) + number: EngineError("no")}

    def room(self) -> None:
        self.store.full = False
        self.node.engine.refused = {}
