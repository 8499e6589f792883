"""The homes of peers on the engine in memory, with several nodes."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any
from unittest import mock

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster import home_table
from s2sgw.cluster.door import HandOn, Placement, ServeHere
from s2sgw.cluster.engine import EngineFull, Fence, LaneRecord, Stored
from s2sgw.cluster.homes import KEPT, YIELD, YIELDED
from s2sgw.cluster.members import OtherEnded, SessionEnded
from s2sgw.cluster.node_records import NodeSession
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.cluster_node import Nodes

P, Q, LOCAL = (Domain.parse(f"{name}.example") for name in "pql")
LANE = Pair(LOCAL, P)


class ClusterHomesTests(SynchronousTestCase):
    """Three nodes."""

    def setUp(self) -> None:
        self.nodes = Nodes()

    def own(self, name: str = "a", peer: Domain = P) -> Fence:
        self.assertEqual(self.nodes[name].claim(peer), [None])
        fence = self.nodes[name].table.fence(peer)
        assert fence is not None
        return fence

    def store(self, fence: Fence) -> None:
        """Store a stanza, as the home."""
        node = self.nodes["a"]
        Deferred.fromCoroutine(node.engine.append(fence, [LaneRecord(LANE, {}, b"stanza")], "1"))

    def test_claim(self) -> None:
        """The first node that is asked is the home; it is restored once, and answers at once from then on."""
        fence = self.own()
        self.own()
        self.assertEqual([taken[0] for taken in self.nodes["a"].custody.taken], [fence])
        self.assertEqual(self.nodes.owners(P), ["a"])

    def test_elsewhere(self) -> None:
        """A peer with a live stream at its home is refused elsewhere."""
        self.own()
        self.nodes["a"].custody.seconds = 1.0
        (ending,) = self.nodes["b"].claim(P)
        self.assertEqual(ending and ending.cause, Cause.OTHER_NODE)
        self.assertEqual(self.nodes.owners(P), ["a"])

    def test_yielded(self) -> None:
        """A peer whose streams are silent at its home moves, with what is stored."""
        self.store(self.own())
        self.assertEqual(self.nodes["b"].claim(P), [None])
        self.assertEqual((self.nodes["a"].custody.closed, self.nodes.owners(P)), ([P], ["b"]))
        (taken,) = self.nodes["b"].custody.taken
        self.assertEqual(list(taken[1].lanes), [LANE])

    def test_not_safe(self) -> None:
        """A home that cannot spool the stanzas keeps the peer; so does one whose streams cannot be closed."""
        self.own()
        for error in (None, RuntimeError("broken")):
            self.nodes["a"].custody.safe, self.nodes["a"].custody.error = False, error
            (ending,) = self.nodes["b"].claim(P)
            self.assertEqual(ending and ending.cause, Cause.OTHER_NODE)
            self.assertEqual(self.nodes.owners(P), ["a"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_takeover(self) -> None:
        """A dead node's peers that have stanzas get one new home within 5 seconds; the others are free."""
        fences = {name: self.own(peer=Domain.parse(f"{name}.example")) for name in "pqrstuvw"}
        for name, fence in fences.items():
            record = LaneRecord(Pair(LOCAL, fence.peer), {}, b"stanza")
            if name != "w":
                Deferred.fromCoroutine(self.nodes["a"].engine.append(fence, [record], name))
        self.nodes.die("a")
        self.nodes.pass_time(5.0)
        owners = {name: self.nodes.owners(fence.peer) for name, fence in fences.items()}
        self.assertEqual({len(found) for name, found in owners.items() if name != "w"}, {1})
        self.assertEqual({found[0] for found in owners.values() if found}, {"b", "c"})
        self.assertEqual(owners["w"], [])
        self.assertEqual(self.nodes["c"].claim(fences["w"].peer), [None])

    def test_waits_for_the_burial(self) -> None:
        """A stream of a peer whose home is silent waits, and then gets this node as its home."""
        self.own()
        self.nodes["a"].die()
        self.nodes.pass_time(1.5)
        answers = self.nodes["b"].claim(P)
        self.nodes.pass_time(1.0)
        self.assertEqual(answers, [])
        self.nodes.pass_time(2.5)
        self.assertEqual((answers, self.nodes.owners(P)), ([None], ["b"]))

    def test_cut_off(self) -> None:
        """A node that was cut off has dropped its peers before it may write again."""
        self.own()
        self.nodes["a"].engine.cut()
        self.nodes.pass_time(6.0)
        self.assertEqual((self.nodes["a"].custody.dropped, self.nodes["b"].claim(P)), ([], [None]))
        self.nodes["a"].engine.go_on()
        self.nodes.pass_time(1.0)
        self.assertEqual((self.nodes["a"].custody.dropped, self.nodes["a"].may_write, self.nodes.owners(P)), ([P], True, ["b"]))

    def test_cannot_be_restored(self) -> None:
        """A peer whose queues cannot be restored is refused and released."""
        custody = self.nodes["a"].custody
        custody.ending = Ending(Cause.INTERNAL, "newer")
        self.assertEqual(self.nodes["a"].claim(P), [Ending(Cause.INTERNAL, "newer")])
        custody.error = RuntimeError("broken")
        self.assertEqual(self.nodes["a"].claim(P), [Ending(Cause.INTERNAL)])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(custody.dropped, [P])  # a part of its queues may have been restored
        self.own("b")

    def test_stopped_while_it_closes(self) -> None:
        """A stop ends the giving up of peers, and the restoring, without an error. Otherwise one that is cancelled is a fault."""
        never: Deferred[bool] = Deferred()

        async def wait(*_: object) -> Any:
            return await never

        self.own()
        custody = self.nodes["a"].custody
        self.patch(custody, "close", wait)
        self.patch(custody, "take", wait)
        self.nodes["a"].homes.drain()
        self.nodes["a"].homes.stop()
        self.assertEqual([], self.flushLoggedErrors())
        self.assertTrue(never.called)
        self.own("b", Q)
        self.patch(self.nodes["b"].custody, "close", wait)
        never = Deferred()
        self.nodes["b"].homes.drain()
        never.cancel()
        self.assertEqual(1, len(self.flushLoggedErrors(CancelledError)))

    def test_engine_is_full(self) -> None:
        """A claim for which there is no room is refused in words."""
        self.nodes["a"].engine.refuse(EngineFull("full"))
        answers = self.nodes["a"].claim(P)
        self.nodes.store.full = True
        self.nodes["a"].engine.go_on()
        self.nodes.pass_time(0.5)
        self.assertIn("full", str(answers[0]))

    def test_replica_is_behind(self) -> None:
        """A home record that is read too old leads to no second home."""
        self.nodes["b"].engine.fall_behind()
        self.own()
        self.nodes["a"].custody.seconds = 1.0
        answers = self.nodes["b"].claim(P)
        self.nodes.pass_time(1.0)
        self.assertEqual((answers, self.nodes.owners(P)), ([], ["a"]))
        self.nodes["b"].engine.go_on()
        self.nodes.pass_time(1.0)
        self.assertEqual(answers[0] and answers[0].cause, Cause.OTHER_NODE)

    def test_lost(self) -> None:
        """A peer whose writes are refused is dropped."""
        self.own()
        self.nodes["a"].homes.lost(P)
        self.assertEqual((self.nodes["a"].custody.dropped, self.nodes.owners(P)), ([P], []))

    def test_lost_by_a_fault_of_its_queues(self) -> None:
        """A peer whose queues have failed is claimed again, for it may have stanzas that nothing else would deliver."""
        self.own()
        self.nodes["a"].homes.lost(P)
        self.nodes.pass_time(home_table.LOST_AGAIN + 0.5)
        self.assertEqual((self.nodes.owners(P), len(self.nodes["a"].custody.taken)), (["a"], 2))

    def test_session_ends_with_many_peers(self) -> None:
        """Until all are dropped, some in each turn, nothing may be written. What waits for that goes on at the end."""
        self.patch(home_table, "DROPPED_AT_ONCE", 2)
        node = self.nodes["a"]
        for number in range(5):
            self.own(peer=Domain.parse(f"p{number}.example"))
        told: list[int] = []
        node.homes.dropped().addCallback(lambda _: told.append(len(node.custody.dropped)))
        self.assertEqual([0], told)
        node.homes.noticed(SessionEnded(node.members.session or NodeSession("a", "a1", 1)))
        node.homes.dropped().addCallback(lambda _: told.append(len(node.custody.dropped)))
        found = [(node.homes.dropping, len(node.custody.dropped))]
        for _ in range(2):
            self.nodes.clock.turn()
            found.append((node.homes.dropping, len(node.custody.dropped)))
        self.assertEqual(([(True, 2), (True, 4), (False, 5)], [0, 5]), (found, told))
        node.homes.noticed(SessionEnded(node.members.session or NodeSession("a", "a1", 1)))
        self.assertFalse(node.homes.dropping)

    def test_stopped_while_peers_are_dropped(self) -> None:
        """A stop leaves nothing to be done later."""
        self.patch(home_table, "DROPPED_AT_ONCE", 1)
        node = self.nodes["a"]
        for peer in (P, Q):
            self.own(peer=peer)
        node.homes.noticed(SessionEnded(node.members.session or NodeSession("a", "a1", 1)))
        node.homes.stop()
        self.nodes.clock.advance(0)
        self.assertEqual([P], node.custody.dropped)

    def test_faults_of_calls(self) -> None:
        """A call that fails for a reason that was not expected is logged, counted and made again."""
        def once(name: str) -> None:
            real = getattr(node.engine, name)

            async def call(*arguments: Any) -> Any:
                setattr(node.engine, name, real)
                raise ZeroDivisionError

            setattr(node.engine, name, call)

        node = self.nodes["a"]
        self.own("b", Q)
        for name in ("home", "claim", "ask", "held_peers"):
            once(name)
        answers = [node.claim(P), node.claim(Q)]
        self.nodes.pass_time(5.0)
        self.assertEqual(([[None], [None]], ["a"], ["a"]), (answers, self.nodes.owners(P), self.nodes.owners(Q)))
        node.homes.noticed(OtherEnded("c"))
        self.nodes.pass_time(5.0)
        once("claim")
        self.nodes.pass_time(home_table.UNUSED + 1)
        self.assertEqual(([], 5, 5), (self.nodes.owners(P), node.homes.failures.number, len(self.flushLoggedErrors(ZeroDivisionError))))
        self.assertEqual(["b"], [self.own("b", P), *self.nodes.owners(P)][1:])

    def test_fault_in_long_work(self) -> None:
        """It is logged and counted, and the rest is done."""
        self.patch(home_table, "LOOKED_AT", 1)
        node = self.nodes["a"]
        node.engine.cut()
        answers = [node.claim(P), node.claim(Q)]
        with mock.patch.object(node.table, "_proceed", side_effect=ZeroDivisionError):
            node.homes._do_work()
            node.table._due.extend([P, Q])
            node.homes._do_work()
            self.nodes.clock.advance(0)
        node.engine.go_on()
        self.nodes.pass_time(2.0)
        self.assertEqual([[None], [None]], answers)
        self.assertEqual(node.homes.failures.number, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertLess(0, node.homes.failures.number)

    def test_home_ends_without_an_answer(self) -> None:
        """A node that asks for a peer, and waits for the home when it ends, gets the peer as soon as that is known."""
        async def never(peer: Domain) -> bool:
            return await Deferred[bool]()

        self.own()
        self.patch(self.nodes["a"].custody, "close", never)
        answers = self.nodes["b"].claim(P)
        self.nodes.die("a")
        self.nodes.pass_time(3.0)
        self.assertEqual((answers, self.nodes.owners(P)), ([None], ["b"]))

    def test_unused(self) -> None:
        """A home that is not used is released."""
        self.own()
        self.nodes.pass_time(home_table.UNUSED + 1)
        self.assertEqual((self.nodes["a"].custody.closed, self.nodes.owners(P)), ([P], []))

    def test_fault_in_a_tick(self) -> None:
        """An error is logged, and the next tick goes on."""
        self.own()
        self.patch(self.nodes["a"].custody, "in_use", lambda peer: 1 / 0)
        self.nodes.pass_time(1.0)
        self.assertLess(0, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.patch(self.nodes["a"].custody, "in_use", lambda peer: False)
        self.nodes.pass_time(home_table.UNUSED + 1)
        self.assertEqual(self.nodes.owners(P), [])

    def test_drain(self) -> None:
        """A node that drains gives its peers up, refuses new ones, and the others take over what is stored when it leaves."""
        self.store(self.own())
        drained: list[None] = []
        self.nodes["a"].members.drain()
        self.nodes["a"].homes.drain().addCallback(drained.append)
        self.nodes["a"].homes.drain()
        (ending,) = self.nodes["a"].claim(Q)
        self.nodes.pass_time(0.5)
        self.assertEqual((ending and ending.cause, drained, self.nodes.owners(P)), (Cause.SHUTDOWN, [None], []))
        self.nodes["a"].membership.leave()
        self.nodes.pass_time(3.0)
        self.assertEqual(len(self.nodes.owners(P)), 1)

    # --- where a connection goes ---

    def locate(self, name: str, peer: Domain = P) -> list[Placement | Ending]:
        answers: list[Placement | Ending] = []
        Deferred.fromCoroutine(self.nodes[name].homes.locate(peer)).addCallback(answers.append)
        return answers

    def test_locate(self) -> None:
        """A connection is served at its home, or anywhere if there is none, and handed on from the other nodes."""
        self.assertEqual(self.locate("b"), [ServeHere()])
        self.assertEqual(self.nodes.owners(P), [])
        self.own()
        self.assertEqual((self.locate("a"), self.locate("b")), ([ServeHere()], [HandOn("a", self.nodes["a"].listener)]))

    def test_locate_waits(self) -> None:
        """A connection whose home is silent waits for the burial."""
        self.own()
        self.nodes["a"].die()
        self.nodes.pass_time(1.5)
        answers = self.locate("b")
        self.nodes.pass_time(1.0)
        self.assertEqual(answers, [])
        self.nodes.pass_time(2.5)
        self.assertEqual(answers, [ServeHere()])

    def test_locate_together(self) -> None:
        """Connections of one peer that wait share one look-up, and each gets its answer."""
        self.own()
        self.nodes["a"].die()
        self.nodes.pass_time(1.5)
        answers = [self.locate("b") for _ in range(3)]
        gone = Deferred.fromCoroutine(self.nodes["b"].homes.locate(Q))
        self.nodes["b"].engine.cut()
        first = Deferred.fromCoroutine(self.nodes["b"].homes.locate(LOCAL))
        others = [self.locate("b", LOCAL) for _ in range(2)]
        first.addErrback(lambda failure: failure.trap(CancelledError))
        first.cancel()
        self.nodes["b"].engine.go_on()
        self.nodes.pass_time(4.0)
        self.assertEqual((self.successResultOf(gone), answers, others), (ServeHere(), [[ServeHere()]] * 3, [[ServeHere()]] * 2))

    def test_locate_reads_once(self) -> None:
        """The engine is asked once for all of them."""
        engine, homes = self.nodes["b"].engine, self.nodes["b"].homes
        reads: list[Domain] = []
        home = engine.home

        def count(peer: Domain) -> Awaitable[Stored | None]:
            reads.append(peer)
            return home(peer)

        self.patch(engine, "home", count)
        engine.hold()
        answers = [Deferred.fromCoroutine(homes.locate(P)) for _ in range(3)]
        engine.go_on()
        self.assertEqual(([self.successResultOf(each) for each in answers], reads), ([ServeHere()] * 3, [P]))

    def test_locate_in_vain(self) -> None:
        """A node that is cut off from the engine serves no new connection, and says so after a while."""
        self.own()
        self.nodes["a"].engine.cut()
        self.nodes.pass_time(3.0)
        answers = self.locate("a")
        self.nodes.pass_time(home_table.PATIENCE - 1)
        self.assertEqual(answers, [])
        self.nodes.pass_time(1.5)
        self.assertEqual(answers, [Ending(Cause.NO_NODE)])

    def test_locate_unreadable(self) -> None:
        """A home record of a newer release is an answer."""
        Deferred.fromCoroutine(self.nodes["a"].engine.claim(P, b'{"version":2}', 0))
        (ending,) = self.locate("a")
        self.assertTrue(isinstance(ending, Ending) and ending.cause == Cause.INTERNAL)

    def test_questions(self) -> None:
        """A question that is none is answered with no."""
        answers: list[bytes] = []
        for question in (b"?", YIELD, YIELD + b"\xff", YIELD + b"q.example"):
            Deferred.fromCoroutine(self.nodes["a"].homes.answer(question)).addCallback(answers.append)
        self.assertEqual(answers, [KEPT, KEPT, KEPT, YIELDED])
