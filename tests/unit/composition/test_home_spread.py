"""Tests of `cluster spread`: three nodes on the engine in memory."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.protocol import MissingRow
from s2sgw.admin.server import VerbError
from s2sgw.cluster.engine import EngineGone
from s2sgw.cluster.homes import YIELD
from s2sgw.cluster.questions import Questions
from s2sgw.composition import home_spread
from s2sgw.composition.cluster import ClusterParts
from s2sgw.composition.home_spread import WORD, HomeSpread, cluster_verbs
from s2sgw.composition.node_events import NodesEvents
from s2sgw.composition.node_questions import EngineNodes
from s2sgw.net.slices import Slices
from s2sgw.reporting.audit import AuditLog
from s2sgw.reporting.live_events import LiveEvents
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain
from tests.support.cluster_node import Nodes


class Audit:
    """Notes the changes. `full`: it cannot be written."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.full = False

    def note(self, action: str, **facts: Any) -> None:
        if self.full:
            raise OSError("the disk is full")
        self.notes.append((action, facts))


class SpreadCase(SynchronousTestCase):
    names = "abc"

    def setUp(self) -> None:
        self.nodes = Nodes(self.names)
        self.clock = self.nodes.clock
        self.audit = Audit()
        #: when the engine has leaders
        self.leaders_at = 0.0
        self.spreads = {name: self.serve(name) for name in self.names}

    def serve(self, name: str) -> HomeSpread:
        node, questions = self.nodes[name], Questions()
        reached = EngineNodes(node.members, node.homes, node.engine, self.clock)
        spreading = HomeSpread(
            reached, node.members, node.homes, Slices(self.clock), self.clock, cast(AuditLog, self.audit), self.elected,
        )
        questions.add(YIELD.strip(), node.homes.answer)
        questions.add(WORD, spreading.answer)
        node.engine.answer(name, questions.answer)
        return spreading

    async def elected(self, seconds: float) -> bool:
        """Wait for leaders, as the engine does."""
        wait = self.leaders_at - self.clock.seconds()
        if wait > 0:
            await deferLater(self.clock, min(wait, seconds))
        return wait <= seconds

    def own(self, name: str, number: int, first: int = 0) -> None:
        for each in range(first, first + number):
            self.assertEqual([None], self.nodes[name].claim(Domain.parse(f"{name}{each}.example")))

    def run_step(self, node: str = "a", seconds: float = 5.0, **arguments: Any) -> Any:
        running = Deferred.fromCoroutine(self.spreads[node].verb(arguments))
        self.nodes.pass_time(seconds)
        return self.successResultOf(running)

    def refused(self, node: str = "a", **arguments: Any) -> str:
        running = Deferred.fromCoroutine(self.spreads[node].verb(arguments))
        self.nodes.pass_time(0.5)
        return str(self.failureResultOf(running, VerbError).value)

    def homes(self) -> list[int]:
        return [len(self.nodes[name].table.owned) for name in self.names]


class SpreadTests(SpreadCase):
    """A step, as the operator sees it."""

    def test_even(self) -> None:
        """Homes go to the nodes with fewer, until all have the same; each peer has one home then. Any node can be asked."""
        self.own("a", 9)
        self.own("b", 3)
        answer = self.run_step("c")
        self.assertEqual(([4, 4, 4], {"a": 4, "b": 4, "c": 4}, [], []), (self.homes(), answer["homes"], answer["plan"], answer["kept"]))
        self.assertEqual({("a", "b"), ("a", "c")}, {(row["from"], row["to"]) for row in answer["moved"]})
        self.assertEqual(5, len({row["peer"] for row in answer["moved"]}))
        for row in answer["moved"]:
            peer = Domain.parse(row["peer"])
            self.assertEqual([row["to"]], self.nodes.owners(peer))
            self.assertIn(peer, self.nodes["a"].custody.closed)
        self.assertEqual([], self.run_step()["moved"])
        self.assertEqual(("cluster spread", {"by": "admin socket", "busy": False}), self.audit.notes[0])

    def test_dry_run(self) -> None:
        """The plan is shown, and nothing moves or is noted."""
        self.own("a", 6)
        answer = self.run_step(dry_run=True)
        self.assertEqual([{"from": "a", "to": "b", "homes": 2}, {"from": "a", "to": "c", "homes": 2}], sorted(answer["plan"], key=lambda row: row["to"]))
        self.assertEqual(([6, 0, 0], [], []), (self.homes(), answer["moved"], self.audit.notes))

    def test_comes_back(self) -> None:
        """A node that comes back gets its part, its stored stanzas included."""
        self.own("a", 4)
        self.own("b", 4)
        self.assertEqual([3, 3, 2], sorted(self.homes_after("b"), reverse=True))

    def homes_after(self, node: str) -> list[int]:
        self.run_step(node)
        return self.homes()

    def test_busy(self) -> None:
        """A peer from which something came a moment ago stays, unless it is asked for."""
        self.own("a", 3)
        self.nodes["a"].custody.seconds = 9.0
        answer = self.run_step()
        self.assertEqual(([], [3, 0, 0], 2), (answer["moved"], self.homes(), sum(row["homes"] for row in answer["plan"])))
        self.nodes["a"].custody.seconds = 10.0
        self.assertEqual(2, len(self.run_step()["moved"]))
        self.nodes["a"].custody.seconds = 0.0
        self.own("a", 3, first=7)
        self.assertEqual(2, len(self.run_step(busy=True)["moved"]))

    def test_election(self) -> None:
        """While a stream of the engine has no leader, no peer is given up. Its streams stay open, and it moves afterwards."""
        self.own("a", 6)
        self.leaders_at = self.clock.seconds() + 8.0
        running = Deferred.fromCoroutine(self.spreads["b"].verb({"busy": True}))
        self.nodes.pass_time(7.5)
        self.assertEqual(([], [6, 0, 0]), (self.nodes["a"].custody.closed, self.homes()))
        self.nodes.pass_time(5.0)
        self.assertEqual(4, len(self.successResultOf(running)["moved"]))

    def test_busy_after_an_election(self) -> None:
        """A peer from which something came while the node waited for leaders stays, unless it is asked for. It may be moved soon."""
        self.own("a", 3)
        for busy, moved in ((False, 0), (True, 2)):
            self.nodes["a"].custody.seconds = 10.0
            self.leaders_at = self.clock.seconds() + 8.0
            running = Deferred.fromCoroutine(self.spreads["b"].verb({"busy": busy}))
            self.nodes.pass_time(2.0)
            self.nodes["a"].custody.seconds = 0.0
            self.nodes.pass_time(10.0)
            answer = self.successResultOf(running)
            self.assertEqual(moved, len(answer["moved"]))
            self.assertEqual([home_spread.IN_USE] * (2 - moved), [row["why"] for row in answer["kept"]])

    def test_election_in_a_step(self) -> None:
        """A leader that is lost in the middle of a step keeps the peers that were not given up yet."""
        self.own("a", 30)
        running = Deferred.fromCoroutine(self.spreads["b"].verb({"busy": True}))
        self.nodes.pass_time(0.3)
        given_up = len(self.nodes["a"].custody.closed)
        self.leaders_at = self.clock.seconds() + 6.0
        self.nodes.pass_time(5.0)
        self.assertLess(len(self.nodes["a"].custody.closed), given_up + 2 * home_spread.AT_ONCE)
        self.nodes.pass_time(6.0)
        self.assertEqual((20, [10, 10, 10]), (len(self.successResultOf(running)["moved"]), self.homes()))

    def test_no_leaders(self) -> None:
        """Peers that stay because no leader is elected in time are named with the reason. They may be moved at once later."""
        self.own("a", 3)
        self.leaders_at = self.clock.seconds() + 60.0
        answer = self.run_step(seconds=20.0, busy=True)
        self.assertEqual(([], [3, 0, 0], []), (answer["moved"], self.homes(), self.nodes["a"].custody.closed))
        self.assertEqual({home_spread.NO_LEADERS}, {row["why"] for row in answer["kept"]})
        self.leaders_at = 0.0
        self.assertEqual(2, len(self.run_step(busy=True)["moved"]))

    def test_not_stored(self) -> None:
        """A peer whose stanzas cannot be stored stays, with the reason. It is not tried again for a while, so others get their turn."""
        self.own("a", 9)
        self.nodes["a"].custody.safe = False
        self.patch(home_spread, "STEP_HOMES", 2)
        first, second = self.run_step(), self.run_step()
        self.assertEqual(([], 2, 2), (first["moved"], len(first["kept"]), len(second["kept"])))
        self.assertFalse({row["peer"] for row in first["kept"]} & {row["peer"] for row in second["kept"]})
        self.assertEqual(("a", True), (first["kept"][0]["node"], "stored" in first["kept"][0]["why"]))
        self.nodes["a"].custody.safe = True
        self.nodes["a"].custody.used = set(self.nodes["a"].table.owned)
        self.nodes.pass_time(home_spread.REST_SECONDS)
        self.assertEqual(2, len(self.run_step()["moved"]))

    def test_taker_fails(self) -> None:
        """A peer that the other node does not take comes back, so that its stored stanzas are not left without a home."""
        self.own("a", 3)

        async def refuse(fence: object, logs: object) -> Any:
            raise RuntimeError("broken")

        self.patch(self.nodes["b"].custody, "take", refuse)
        self.patch(self.nodes["c"].custody, "take", refuse)
        answer = self.run_step()
        self.assertEqual(([3, 0, 0], [], 2), (self.homes(), answer["moved"], len(answer["kept"])))
        self.assertEqual(2, len(self.flushLoggedErrors(RuntimeError)))
        self.assertTrue(all(row["why"].startswith("node ") for row in answer["kept"]))

    def test_taker_dies(self) -> None:
        """A taker that dies after it was counted leaves the peer with its former home."""
        self.own("a", 3)
        original = self.nodes["a"].homes.give_up

        async def give_up(peer: Domain) -> bool:
            given = await original(peer)
            self.nodes["b"].engine.cut()
            self.nodes["c"].engine.cut()
            return given

        self.patch(self.nodes["a"].homes, "give_up", give_up)
        answer = self.run_step(seconds=30.0)
        self.assertEqual(([], 2), (answer["moved"], len(answer["kept"])))
        self.assertEqual(3, len(self.nodes["a"].table.owned))

    def test_ends_meanwhile(self) -> None:
        """A node that ends while peers are moved is named, declared dead or not, and has no share of the homes any more."""
        self.own("a", 4)
        self.own("b", 1)
        original = self.nodes["a"].homes.give_up

        async def give_up(peer: Domain) -> bool:
            self.nodes.die("b")
            return await original(peer)

        self.patch(self.nodes["a"].homes, "give_up", give_up)
        answer = self.run_step(seconds=30.0)
        self.assertEqual((["b"], {"a", "c"}), ([row["node"] for row in answer["missing"]], set(answer["homes"])))
        missing: list[MissingRow] = []
        counted = Deferred.fromCoroutine(self.spreads["a"]._recounted({"a": 2, "b": 1, "c": 2}, missing))
        self.nodes.pass_time(5.0)
        self.successResultOf(counted)
        self.assertEqual([{"node": "b", "missing": home_spread.ENDED}], missing)

    def test_answer_lost(self) -> None:
        """A taker whose answer is lost has taken the peer: it has moved."""
        self.own("a", 2)
        self.lose_takes("b", self.spreads["b"].answer)
        self.lose_takes("c", self.spreads["c"].answer)
        self.nodes["b"].custody.seconds = self.nodes["c"].custody.seconds = 0.0
        answer = self.run_step()
        self.assertEqual((1, [], 1), (len(answer["moved"]), answer["kept"], len(self.nodes["a"].table.owned)))
        self.assertEqual([answer["moved"][0]["to"]], self.nodes.owners(Domain.parse(answer["moved"][0]["peer"])))

    def lose_takes(self, name: str, act: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Let a node do what it is asked, and give no answer if it was asked to take a peer."""

        async def answer(question: bytes) -> bytes:
            if not question.startswith(WORD):
                return await self.nodes[name].homes.answer(question)
            answered = await act(question)
            if b"take" in question:
                raise RuntimeError("lost")
            return answered

        self.nodes[name].engine.answer(name, answer)

    def test_taken_by_a_third(self) -> None:
        """A peer that neither the taker nor its former home has, but another node, is not told as moved to the taker."""
        self.own("a", 2)

        async def home_node(peer: Domain) -> str:
            return "a node that was not asked"

        self.patch(self.nodes["a"].homes, "home_node", home_node)
        self.lose_takes("b", self.spreads["b"].answer)
        self.lose_takes("c", self.spreads["c"].answer)
        self.nodes["b"].custody.seconds = self.nodes["c"].custody.seconds = 0.0
        answer = self.run_step()
        self.assertEqual([], answer["moved"])
        self.assertIn("has not come back: a0.example is served by the node", answer["kept"][0]["why"])

    def test_two_givers(self) -> None:
        """Each node with too many homes gives its own part, and to its own takers."""
        self.own("a", 6)
        self.own("b", 5)
        told: list[dict[str, Any]] = []
        original = self.spreads["b"].answer

        async def noted(question: bytes) -> bytes:
            told.append(json.loads(question.removeprefix(WORD)))
            return await original(question)

        self.relay("b", noted)
        answer = self.run_step()
        given = next(each for each in told if each["do"] == "give")
        self.assertEqual(({"c": 1}, [4, 4, 3], []), (given["to"], self.homes(), answer["plan"]))

    def relay(self, name: str, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Let `answer` answer these questions to a node."""

        async def answered(question: bytes) -> bytes:
            return await (answer if question.startswith(WORD) else self.nodes[name].homes.answer)(question)

        self.nodes[name].engine.answer(name, answered)

    def test_lies(self) -> None:
        """A node may say anything of its homes, and of the peers that it gave: the step ends, and counts only moves that were planned."""
        self.own("b", 4)
        for count, given in (
            (4, {"moved": 7, "kept": "x"}), (4, {"moved": [7, {}, {"peer": "p", "to": "z"}, {"peer": "p", "to": "b"}], "kept": [None]}), (4, {}), (-1, {}), ("x", {}), (None, {}),
        ):

            async def lie(question: bytes, count: object = count, given: object = given) -> bytes:
                return json.dumps({"result": {"homes": count} if b"count" in question else given}).encode()

            self.relay("b", lie)
            answer = self.run_step()
            self.assertEqual([], answer["moved"], given)
            self.assertEqual({"a": 0, "b": 4, "c": 0} if count == 4 else {"a": 0, "c": 0}, answer["homes"])

    def test_strange_refusal(self) -> None:
        """A node that refuses in a way that makes no sense here is named, and the others go on."""
        self.own("a", 2)

        async def refuse(question: bytes) -> bytes:
            return b'{"error": "x", "kind": "moved"}'

        self.relay("b", refuse)
        answer = self.run_step()
        self.assertEqual(([{"node": "b", "missing": "it is not the home of the peer"}], 1), (answer["missing"], len(answer["moved"])))

    def test_strange_refusal_to_take(self) -> None:
        """A peer that its taker refuses in a way that makes no sense comes back."""
        self.own("a", 2)
        original = self.spreads["b"].answer

        async def refuse(question: bytes) -> bytes:
            return b'{"error": "x", "kind": "moved"}' if b"take" in question else await original(question)

        self.relay("b", refuse)
        self.relay("c", refuse)
        answer = self.run_step()
        self.assertEqual(([], 1, 2), (answer["moved"], len(answer["kept"]), len(self.nodes["a"].table.owned)))

    def test_fault(self) -> None:
        """A peer that cannot be given up by a fault of the program is named, and is in the log. The others move."""
        self.own("a", 3)
        original = self.nodes["a"].homes.give_up
        broken = Domain.parse("a0.example")

        async def give_up(peer: Domain) -> bool:
            if peer == broken:
                raise RuntimeError("broken")
            return await original(peer)

        self.patch(self.nodes["a"].homes, "give_up", give_up)
        answer = self.run_step()
        self.assertEqual(([{"peer": "a0.example", "node": "a", "why": "the log says why"}], 1), (answer["kept"], len(answer["moved"])))
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_does_not_come_back(self) -> None:
        """If neither the taker nor the former home can have the peer, the operator is told both reasons."""
        self.own("a", 2)

        async def refuse(question: bytes) -> bytes:
            self.nodes["a"].custody.ending = Ending(Cause.SHUTDOWN, "stopping")
            raise RuntimeError("refused")

        for name in "bc":
            self.lose_takes(name, self.spreads[name].answer)
        self.patch(self.spreads["b"], "_take", refuse)
        self.patch(self.spreads["c"], "_take", refuse)
        answer = self.run_step()
        self.assertEqual(([], 1), (answer["moved"], len(answer["kept"])))
        self.assertIn("does not answer; and it has not come back: stopping", answer["kept"][0]["why"])

    def test_away(self) -> None:
        """A node that gives no answer, or takes no peers, is named and left out."""
        self.own("a", 4)
        self.nodes["b"].engine.cut()
        self.nodes["c"].homes.drain()
        self.nodes["c"].members.drain()
        self.nodes.pass_time(0.6)
        answer = self.run_step()
        self.assertEqual(({"a": 4}, [], ["b", "c"]), (answer["homes"], answer["moved"], sorted(row["node"] for row in answer["missing"])))

    def test_bounds(self) -> None:
        """A step gives a bounded number of homes, a few at a time, and not more in a second than it may."""
        self.own("a", 60)
        self.patch(home_spread, "STEP_HOMES", 20)
        running = Deferred.fromCoroutine(self.spreads["a"].verb({}))
        self.nodes.pass_time(0.5)
        closed = len(self.nodes["a"].custody.closed)
        self.assertTrue(home_spread.AT_ONCE <= closed <= 0.5 * home_spread.PER_SECOND + home_spread.AT_ONCE, closed)
        self.nodes.pass_time(2.0)
        self.assertEqual(20, len(self.successResultOf(running)["moved"]))

    def test_time_is_over(self) -> None:
        """A step begins no move when its time is over. What is left is told, and the next step goes on."""
        self.own("a", 9)
        self.patch(home_spread, "STEP_SECONDS", 0.1)
        answer = self.run_step()
        left = sum(row["homes"] for row in answer["plan"])
        self.assertTrue(0 < left < 6, answer)
        self.assertEqual(6 - left, len(answer["moved"]))

    def test_one_at_a_time(self) -> None:
        """Two operators do not spread homes at one time: not on one node, and not the homes of one node."""
        self.own("a", 9)
        running = Deferred.fromCoroutine(self.spreads["a"].verb({}))
        running_there = Deferred.fromCoroutine(self.spreads["b"].verb({}))
        self.assertIn("already", self.refused())
        self.nodes.pass_time(5.0)
        self.successResultOf(running)
        self.assertIn("already", self.successResultOf(running_there)["missing"][0]["missing"])
        self.assertEqual([3, 3, 3], self.homes())
        self.assertEqual([], self.run_step()["moved"])

    def test_audit(self) -> None:
        """A change that cannot be recorded is not made."""
        self.own("a", 3)
        self.audit.full = True
        self.assertIn("audit", self.refused())
        self.assertEqual([3, 0, 0], self.homes())

    def test_no_engine(self) -> None:
        """Without the engine nothing is given up."""
        self.own("a", 3)
        self.nodes["a"].engine.refuse(EngineGone("cut"))
        answer = self.run_step()
        self.assertEqual(([], ["b", "c"]), (answer["moved"], [row["node"] for row in answer["missing"]]))
        self.assertEqual([], self.nodes["a"].custody.closed)


class AnswerTests(SpreadCase):
    """The questions of other nodes."""

    def raw(self, question: object) -> dict[str, Any]:
        data = question if isinstance(question, bytes) else WORD + b" " + json.dumps(question).encode()
        running = Deferred.fromCoroutine(self.spreads["b"].answer(data))
        self.nodes.pass_time(1.0)
        answer: dict[str, Any] = json.loads(self.successResultOf(running))
        return answer

    def test_malformed(self) -> None:
        """Malformed questions are refused, and nothing is given or taken."""
        self.own("b", 3)
        for question in (
            {}, {"do": "x"}, {"do": "take"}, {"do": "take", "peer": 7}, {"do": "take", "peer": "a..b"}, {"do": "give"}, {"do": "give", "to": ["a"]},
            {"do": "give", "to": {"a": -1}}, {"do": "give", "to": {"a": True}}, {"do": "give", "to": {"a": 1.5}}, b"spread [", b"spread 7",
        ):
            self.assertIn("error", self.raw(question), question)
        self.assertEqual([0, 3, 0], self.homes())

    def test_take(self) -> None:
        """A peer is taken, or it is told why not."""
        self.assertEqual({"result": {"taken": True, "why": ""}}, self.raw({"do": "take", "peer": "p.example"}))
        self.own("a", 1)
        self.nodes["a"].custody.seconds = 1.0
        answer = self.raw({"do": "take", "peer": "a0.example"})["result"]
        self.assertEqual((False, True), (answer["taken"], "node a" in answer["why"]))
        self.patch(home_spread, "TAKEN_AT_ONCE", 1)
        self.assertTrue(self.raw({"do": "take", "peer": "q.example"})["result"]["taken"])
        self.patch(home_spread, "TAKEN_AT_ONCE", 0)
        self.assertIn("already", self.raw({"do": "take", "peer": "r.example"})["error"])

    def test_huge_numbers(self) -> None:
        """A question for more homes than there are, or than a step has, is bounded."""
        self.own("b", 5)
        moved = self.raw({"do": "give", "to": {"a": 10**30, "c": 10**30}})["result"]["moved"]
        self.assertEqual(5, len(moved))

    def test_step_is_full(self) -> None:
        """The takers of a step come in turn, and are as many as a step has, wherever it ends."""
        self.assertEqual(["a", "c", "a"], home_spread._in_turn({"a": 5, "c": 5}, 3))
        self.assertEqual(["a", "c", "a"], home_spread._in_turn({"a": 2, "c": 1}, 9))

    def test_peer_that_is_being_taken(self) -> None:
        """A peer that this node is taking at the moment is not given up, and is not named as one that could not be moved."""
        taking: Deferred[None] = Deferred()

        async def take(fence: object, logs: object) -> None:
            await taking

        self.patch(self.nodes["b"].custody, "take", take)
        self.nodes["b"].claim(Domain.parse("p.example"))
        self.nodes.pass_time(0.2)
        self.assertEqual([0, 1, 0], self.homes())
        self.assertEqual({"moved": [], "kept": []}, self.raw({"do": "give", "to": {"a": 1}, "busy": True})["result"])
        taking.callback(None)

    def test_many_peers_are_looked_at_in_slices(self) -> None:
        """A node with many peers, none of which may be given up, looks at some of them in one turn."""
        self.own("b", 250)
        self.nodes["b"].custody.seconds = 0.0
        work = self.spreads["b"]._chosen(9, False)
        self.assertEqual(2, sum(1 for _ in work))

    def test_whole(self) -> None:
        """The verbs of a node as it is built have `cluster spread`, and its questions are answered."""
        node = self.nodes["a"]
        node.engine.elected = self.elected  # type: ignore[attr-defined]
        parts = SimpleNamespace(questions=Questions(), members=node.members, homes=node.homes, engine=node.engine)
        audit = cast(AuditLog, self.audit)
        verbs = cluster_verbs(cast(ClusterParts, parts), {}, set(), Slices(self.clock), self.clock, audit, LiveEvents())
        running = Deferred.fromCoroutine(verbs["cluster spread"]({"dry_run": True}))
        self.nodes.pass_time(0.5)
        self.assertEqual({"a": 0, "b": 0, "c": 0}, self.successResultOf(running)["homes"])
        answered = Deferred.fromCoroutine(parts.questions.answer(b'spread {"do": "count"}'))
        self.assertEqual({"result": {"homes": 0}}, json.loads(self.successResultOf(answered)))
        self.assertIsInstance(verbs["watch"]({}).live, NodesEvents)
        answered = Deferred.fromCoroutine(parts.questions.answer(b'events {"id": "1", "user": "u", "peers": []}'))
        self.assertEqual({"result": {"missed": 0, "number": 1, "events": []}}, json.loads(self.successResultOf(answered)))
