"""Tests of the verbs that nodes ask of each other: three nodes on the engine in memory, with verbs that a test sets."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.node_verbs import NodeEnded, NodeSilent, NodeUnreached, NotHome
from s2sgw.admin.server import BY, Rows, VerbError
from s2sgw.cluster.homes import YIELD
from s2sgw.cluster.questions import Questions
from s2sgw.composition import node_questions
from s2sgw.composition.cluster import ClusterParts
from s2sgw.composition.node_questions import WORD, EngineNodes, VerbAnswers, node_verbs
from s2sgw.net.slices import Slices
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain
from tests.support.cluster_node import Nodes

P, LOCAL = Domain.parse("p.example"), Domain.parse("local.example")


class QuestionsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.nodes = Nodes()
        self.clock = self.nodes.clock
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.own: dict[tuple[str, str], Any] = {}
        self.answers: dict[str, VerbAnswers] = {}
        for name in "abc":
            self.serve(name)
        node = self.nodes["a"]
        self.reached = EngineNodes(node.members, node.homes, node.engine, self.clock)

    def serve(self, name: str) -> None:
        node, questions = self.nodes[name], Questions()
        verbs = {verb: self.verb(name, verb) for verb in ("streams", "lanes", "status", "queue drop", "queue show", "deny", "explain", "reload", "names", "report")}
        self.answers[name] = VerbAnswers(verbs, node.members, node.homes, node.engine, {LOCAL}, Slices(self.clock), self.clock)
        questions.add(YIELD.strip(), node.homes.answer)
        questions.add(WORD, self.answers[name].answer)
        node.engine.answer(name, questions.answer)

    def verb(self, name: str, verb: str) -> Any:
        def answer(arguments: Mapping[str, Any]) -> Any:
            self.asked.append((name, verb, dict(arguments)))
            found = self.own[name, verb]
            if isinstance(found, Exception):
                raise found
            return found

        return answer

    def start(self, call: Awaitable[Any]) -> Deferred[Any]:
        running: Deferred[Any] = Deferred.fromCoroutine(cast(Any, call))
        self.clock.pump([0.0] * 200)
        return running

    def result(self, call: Awaitable[Any]) -> Any:
        return self.successResultOf(self.start(call))

    def failed(self, error: type[Exception], call: Awaitable[Any]) -> str:
        return str(self.failureResultOf(self.start(call), error).value)

    def ask(self, verb: str, node: str = "b", **arguments: Any) -> Any:
        return self.result(self.reached.ask(node, verb, arguments, 1.0))

    def rows(self, verb: str, at_most: int = 1 << 20, **arguments: Any) -> Any:
        return self.result(self.reached.rows("b", verb, arguments, 1.0, at_most))

    def raw(self, question: object) -> dict[str, Any]:
        """Return the answer of node b to a question of any shape."""
        data = question if isinstance(question, bytes) else WORD + b" " + json.dumps(question).encode()
        answer: dict[str, Any] = json.loads(self.result(self.answers["b"].answer(data)))
        return answer


class AskingTests(QuestionsCase):
    """A node asks another one."""

    def test_result(self) -> None:
        """The verb is asked of the other node with its arguments, and with who asks."""
        self.own["b", "status"] = {"version": "1"}
        self.assertEqual({"version": "1"}, self.ask("status", **{BY: "x of node a"}))
        self.assertEqual([("b", "status", {BY: "x of node a"})], self.asked)
        later: Deferred[Any] = Deferred()
        self.own["b", "status"] = later
        running = self.start(self.reached.ask("b", "status", {}, 1.0))
        self.assertNoResult(running)
        later.callback({"version": "2"})
        self.assertEqual({"version": "2"}, self.successResultOf(running))

    def test_names(self) -> None:
        """The rows of `names` are texts."""
        self.own["b", "names"] = ["p.example", "q.example"]
        self.assertEqual((["p.example", "q.example"], False), self.rows("names", prefix=""))

    def test_others(self) -> None:
        """All nodes are asked that were not declared dead, silent ones too."""
        self.assertEqual(["b", "c"], self.reached.others())
        self.nodes["b"].engine.cut()
        self.nodes.pass_time(2.0)
        self.assertEqual(["b", "c"], self.reached.others())
        self.nodes.die("c")
        self.nodes.pass_time(5.0)
        self.assertNotIn("c", self.reached.others())

    def test_pages(self) -> None:
        """Rows come in pages. All of them arrive, in order, whether they are made one by one or are a list."""
        self.patch(node_questions, "PAGE_BYTES", 100)
        wanted = [{"peer": f"p{number}", "more": "x" * (number % 40)} for number in range(50)]
        for answer in (Rows(iter([row for each in wanted for row in (None, each)])), wanted):
            self.own["b", "streams"] = answer
            found = self.rows("streams")
            self.assertEqual((wanted, False), (found.rows, found.cut))
        self.assertEqual(2, len(self.asked))
        self.own["b", "streams"] = []
        self.assertEqual(([], False), self.rows("streams"))

    def test_table(self) -> None:
        """The rows of an answer that is one table come in pages too, so a day with very many peers is whole."""
        wanted = [{"peer": f"{number}.example", "failures": {"details": ["x" * 1000]}} for number in range(2000)]
        self.own["b", "report"] = {"day": "2026-11-20", "peers": wanted}
        self.assertEqual((wanted, False), self.rows("report", at_most=1 << 22))
        self.own["b", "report"] = {"day": "2026-11-20"}
        self.assertEqual(([], False), self.rows("report"))

    def test_cut(self) -> None:
        """No more rows are taken than there is room for; that some are missing is told."""
        self.patch(node_questions, "PAGE_BYTES", 100)
        self.own["b", "streams"] = [{"peer": "x" * 50} for _ in range(20)]
        found = self.rows("streams", at_most=300)
        self.assertTrue(found.cut)
        self.assertTrue(2 <= len(found.rows) <= 6, len(found.rows))

    def test_large_rows(self) -> None:
        """An answer fits into a message of the engine. A result that does not is refused in words."""
        self.patch(self.nodes["b"].engine, "max_record", 6000)
        sizes: list[int] = []
        original = self.answers["b"].answer

        async def measured(question: bytes) -> bytes:
            answer = await original(question)
            sizes.append(len(answer))
            return answer

        self.nodes["b"].engine.answer("b", measured)
        self.own["b", "streams"] = [{"peer": "x" * 500} for _ in range(40)]
        self.assertEqual(40, len(self.rows("streams").rows))
        self.own["b", "status"] = {"text": "x" * 7000}
        self.assertIn("too large", self.failed(VerbError, self.reached.ask("b", "status", {}, 1.0)))
        self.assertTrue(max(sizes) <= 6000, sizes)

    def test_errors(self) -> None:
        """A refusal of the other node is told. A fault there is in its log, and its text stays there."""
        self.own["b", "deny"] = VerbError("the disk is full")
        self.assertEqual("the disk is full", self.failed(VerbError, self.reached.ask("b", "deny", {}, 1.0)))
        for kind, told in (("usage", "usage"), ("failed", "failed"), ("denied", "failed")):
            self.own["b", "deny"] = VerbError("no", cast(Any, kind))
            running = self.start(self.reached.ask("b", "deny", {}, 1.0))
            self.assertEqual(told, self.failureResultOf(running, VerbError).value.kind)
        self.own["b", "deny"] = RuntimeError("secret")
        self.assertNotIn("secret", self.failed(VerbError, self.reached.ask("b", "deny", {}, 1.0)))
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_silence(self) -> None:
        """A node that does not answer in time, or cannot be reached, is silent. So is one of another release."""
        self.own["b", "deny"] = Deferred()
        running = self.start(self.reached.ask("b", "deny", {}, 1.0))
        self.clock.advance(0.9)
        self.assertNoResult(running)
        self.clock.advance(0.2)
        self.assertIn("1 s", self.failureResultOf(running, NodeSilent).getErrorMessage())
        self.nodes["c"].engine.cut()
        self.failed(NodeSilent, self.reached.ask("c", "status", {}, 1.0))
        self.nodes["a"].engine.hold()
        running = self.start(self.reached.rows("b", "streams", {}, 1.0, 1000))
        self.clock.advance(1.1)
        self.failureResultOf(running, NodeSilent)
        self.nodes["a"].engine.go_on()
        for strange in (b"kept", b"[]", b"{}", b'{"rows": 7}', b'{"rows": [7], "next": null}', b'{"result": []}', b"\xff"):

            async def answer(question: bytes, strange: bytes = strange) -> bytes:
                return strange

            self.nodes["b"].engine.answer("b", answer)
            self.failed(NodeSilent, self.reached.ask("b", "status", {}, 1.0))
            self.failed(NodeSilent, self.reached.rows("b", "streams", {}, 1.0, 1000))

    def test_declared_dead(self) -> None:
        """A wait ends when the asked node is declared dead, and not before."""
        self.own["b", "queue drop"] = self.own["b", "explain"] = Deferred()
        self.nodes["b"].claim(P)
        self.nodes.pass_time(0.2)
        change = self.start(self.reached.ask("b", "queue drop", {"target": ["p.example"]}, 60.0))
        look = self.start(self.reached.rows("b", "explain", {"peer": "p.example"}, 60.0, 1000))
        self.nodes["b"].die()
        self.nodes.pass_time(2.0)
        self.assertNoResult(change)
        self.nodes.pass_time(3.0)
        self.failureResultOf(change, NodeEnded)
        self.failureResultOf(look, NodeEnded)

    def test_no_receiver(self) -> None:
        """A node without a process has not read the question, and that is told apart."""
        self.nodes["b"].engine.cut()
        self.failed(NodeUnreached, self.reached.ask("b", "queue drop", {"target": ["p.example"]}, 60.0))

    def test_engine_lost_meanwhile(self) -> None:
        """A node that has lost the engine does not wait for its answer for a minute."""
        self.own["b", "deny"] = Deferred()
        running = self.start(self.reached.ask("b", "deny", {}, 60.0))
        self.nodes["a"].engine.cut()
        self.nodes.pass_time(9.0)
        self.assertNoResult(running)
        self.nodes.pass_time(2.0)
        self.assertIn("engine does not answer", self.failureResultOf(running, NodeSilent).getErrorMessage())

    def test_look_without_engine(self) -> None:
        """A question that changes nothing waits for the engine for two seconds at most."""
        self.own["b", "queue drop"] = self.own["b", "explain"] = Deferred()
        self.nodes["b"].claim(P)
        change = self.start(self.reached.ask("b", "queue drop", {"target": ["p.example"]}, 60.0))
        look = self.start(self.reached.ask("b", "explain", {"peer": "p.example"}, 60.0))
        self.nodes["a"].engine.cut()
        self.nodes.pass_time(2.25)
        self.assertNoResult(change)
        self.assertIn("engine does not answer", self.failureResultOf(look, NodeSilent).getErrorMessage())
        self.nodes.pass_time(10.0)
        self.failureResultOf(change, NodeSilent)

    def test_engine_away(self) -> None:
        """If the engine acknowledges no heartbeats either, the operator learns that it is the engine that does not answer."""
        self.nodes.pass_time(1.0)
        for away in (False, True):
            self.own["b", "deny"] = Deferred()
            if away:
                self.nodes["a"].engine.hold()
                self.nodes.pass_time(1.0)
            running = self.start(self.reached.ask("b", "deny", {}, 1.0))
            self.nodes.pass_time(1.2)
            self.assertEqual(away, "the engine does not answer" in self.failureResultOf(running, NodeSilent).getErrorMessage())
        self.nodes["a"].engine.go_on()

    def test_rows_without_end(self) -> None:
        """A node whose pages never end is left after some seconds."""

        asked: list[bytes] = []

        async def answer(question: bytes) -> bytes:
            asked.append(question)
            self.clock.rightNow += 1.0
            return b'{"rows": [], "next": "x"}'

        self.nodes["b"].engine.answer("b", answer)
        self.assertTrue(self.rows("streams").cut)
        self.assertTrue(len(asked) <= node_questions.ROWS_SECONDS)


class AnsweringTests(QuestionsCase):
    """A node answers some verbs, within bounds."""

    def test_allowed(self) -> None:
        """Other verbs, and arguments that name files, are refused. So is what is no question."""
        self.nodes["b"].claim(P)
        self.own["b", "explain"] = {}
        for question in (
            {"verb": "reload", "arguments": {}}, {"verb": "console token", "arguments": {}}, {"verb": "drain", "arguments": {}}, {"verb": 7, "arguments": {}},
            {"verb": "explain", "arguments": {"peer": "p.example", "with": "/etc/shadow"}}, {"verb": "streams", "arguments": {"anything": 1}},
            {"verb": "streams", "arguments": []}, {"verb": "streams"}, {}, {"verb": "lanes", "arguments": {BY: 7}}, {"next": 7}, {"next": "unknown"},
        ):
            self.assertIn("error", self.raw(question), question)
        for data in (b"verb", b"verb [1]", b"verb \xff", b"verb {", b"verb " + b"[" * 100_000):
            self.assertIn("error", self.raw(data))
        self.assertEqual([], self.asked)

    def test_not_the_home(self) -> None:
        """A verb about one peer is answered by its home alone, when its queues are restored."""
        self.own["b", "queue drop"] = {"stanzas": 1}
        for arguments in ({"target": ["p.example"]}, {"target": ["p.example", "local.example"]}, {"target": ["local.example", "p.example", 3]}):
            self.failed(NotHome, self.reached.ask("b", "queue drop", arguments, 1.0))
        self.failed(NotHome, self.reached.rows("b", "queue show", {"target": ["p.example"]}, 1.0, 1000))
        self.assertEqual([], self.asked)
        taking: Deferred[None] = Deferred()

        async def take(fence: object, logs: object) -> None:
            await taking

        self.patch(self.nodes["b"].custody, "take", take)
        claimed = self.nodes["b"].claim(P)
        self.nodes.pass_time(0.2)
        self.assertEqual(["b"], self.nodes.owners(P))
        self.failed(NotHome, self.reached.ask("b", "queue drop", {"target": ["p.example"]}, 1.0))
        taking.callback(None)
        self.nodes.pass_time(0.2)
        self.assertEqual([None], claimed)
        self.assertEqual({"stanzas": 1}, self.ask("queue drop", target=["local.example", "p.example"]))

    def test_late_questions(self) -> None:
        """A node that reads a question after its lease, or in another session than the asked one, changes nothing."""
        self.nodes["b"].claim(P)
        self.nodes.pass_time(0.2)
        self.own["b", "queue drop"] = self.own["b", "deny"] = self.own["b", "explain"] = {}
        session = self.nodes["b"].members.session
        assert session is not None
        drop, deny = {"verb": "queue drop", "arguments": {"target": ["p.example"]}}, {"verb": "deny", "arguments": {"peer": "p.example"}}
        explain = {"verb": "explain", "arguments": {"peer": "p.example"}, "session": "of before"}
        for good in ({}, {"session": session.identity}):
            self.assertEqual({"result": {}}, self.raw({**drop, **good}))
        self.asked.clear()
        others: tuple[object, ...] = ("of before", 7, [])
        for old in others:
            self.assertEqual("moved", self.raw({**drop, "session": old})["kind"])
            self.assertIn("nothing was done", self.raw({**deny, "session": old})["error"])
        self.assertEqual([], self.asked)
        self.assertEqual({"result": {}}, self.raw(explain))
        self.asked.clear()
        self.clock.rightNow += 4.0  # the process was stopped: the first that it does is to read the questions
        questions = [WORD + b" " + json.dumps({**each, "session": session.identity}).encode() for each in (drop, deny)]
        for answer in [Deferred.fromCoroutine(self.answers["b"].answer(each)) for each in questions]:
            self.assertIn(b"error", self.successResultOf(answer))
        self.assertEqual([], self.asked)

    def test_few_at_once(self) -> None:
        """A node answers a few at a time and refuses others in words. Questions that wait too long give their places back."""
        self.own["b", "status"] = Deferred()
        running = []
        for _ in range(node_questions.AT_ONCE):
            self.own["b", "status"] = Deferred()
            running.append(self.start(self.answers["b"].answer(b'verb {"verb": "status", "arguments": {}, "seconds": 1}')))
        self.assertIn("try again", self.raw({"verb": "status", "arguments": {}})["error"])
        self.clock.advance(1.1)
        for each in running:
            self.assertIn("in time", json.loads(self.successResultOf(each))["error"])
        self.own["b", "status"] = {"version": "1"}
        self.assertEqual({"result": {"version": "1"}}, self.raw({"verb": "status", "arguments": {}}))

    def test_changes_are_finished(self) -> None:
        """A change goes on after the time of the node that asked: it is not done by half."""
        change: Deferred[Any] = Deferred()
        self.own["b", "deny"] = change
        running = self.start(self.answers["b"].answer(b'verb {"verb": "deny", "arguments": {"peer": "p"}, "seconds": 1}'))
        self.clock.advance(30)
        change.callback({"changed": True})
        self.assertEqual({"result": {"changed": True}}, json.loads(self.successResultOf(running)))

    def test_open_answers_are_bounded(self) -> None:
        """Few answers wait for the question for their next page. The oldest gives way, and each that is not asked for in time."""
        self.patch(node_questions, "PAGE_BYTES", 10)
        tokens = []
        for number in range(node_questions.OPEN + 1):
            self.own["b", "streams"] = [{"peer": f"p{number}"}, {"peer": "last"}]
            tokens.append(self.raw({"verb": "streams", "arguments": {}})["next"])
        self.assertIn("given up", self.raw({"next": tokens[0]})["error"])
        self.assertEqual([{"peer": "last"}], self.raw({"next": tokens[1]})["rows"])
        self.clock.advance(node_questions.OPEN_SECONDS + 0.1)
        for token in tokens[2:]:
            self.assertIn("given up", self.raw({"next": token})["error"])
        self.assertEqual(len(tokens), len(set(tokens)))

    def test_no_timer_is_left(self) -> None:
        """An answer whose rows were asked for, or that gave way, leaves no timer."""
        self.patch(node_questions, "PAGE_BYTES", 10)
        before = len(self.clock.getDelayedCalls())
        tokens = []
        for _ in range(node_questions.OPEN + 3):
            self.own["b", "streams"] = [{"peer": "p"}, {"peer": "q"}]
            tokens.append(self.raw({"verb": "streams", "arguments": {}})["next"])
        self.assertEqual(before + node_questions.OPEN, len(self.clock.getDelayedCalls()))
        for token in tokens[3:]:
            while token is not None:
                token = self.raw({"next": token})["next"]
        self.assertEqual(before, len(self.clock.getDelayedCalls()))

    def test_time_is_bounded(self) -> None:
        """However long another node would wait, and whatever it says, its question gives its place back."""
        for seconds in (1e9, "x", -1, 0):
            self.own["b", "status"] = Deferred()
            running = self.start(self.answers["b"].answer(b"verb " + json.dumps({"verb": "status", "arguments": {}, "seconds": seconds}).encode()))
            self.clock.advance(node_questions.ROWS_SECONDS + 0.1)
            self.assertIn("in time", json.loads(self.successResultOf(running))["error"])


class HomeTests(QuestionsCase):
    """The home of a peer."""

    def test_found(self) -> None:
        """The home is another living node, or this one; a peer without one gets this one only for a change."""
        self.assertEqual("a", self.result(self.reached.home(P, False)))
        self.assertEqual([], self.nodes.owners(P))
        self.assertEqual("a", self.result(self.reached.home(P, True)))
        self.assertEqual(["a"], self.nodes.owners(P))
        other = Domain.parse("q.example")
        self.nodes["c"].claim(other)
        self.assertEqual("c", self.result(self.reached.home(other, True)))
        self.assertEqual(["c"], self.nodes.owners(other))

    def test_silent(self) -> None:
        """A silent home is waited for until it is declared dead. Then a change has this node."""
        self.nodes["c"].claim(P)
        self.nodes["c"].die()
        self.nodes.pass_time(1.5)
        running = self.start(self.reached.home(P, True))
        self.assertNoResult(running)
        self.nodes.pass_time(5.0)
        self.assertEqual("a", self.successResultOf(running))
        self.assertEqual(["a"], self.nodes.owners(P))

    def test_no_engine(self) -> None:
        """Without the engine nothing is known of a peer of other nodes; a peer of this node is answered at once."""
        self.nodes["a"].claim(P)
        self.nodes["a"].engine.cut()
        self.assertEqual("a", self.result(self.reached.home(P, True)))
        self.nodes.pass_time(4.0)
        self.assertFalse(self.nodes["a"].may_write)
        self.assertEqual("a", self.result(self.reached.home(P, True)))
        for claim, seconds in ((True, 10.0), (False, 1.5)):
            running = self.start(self.reached.home(Domain.parse("q.example"), claim))
            self.nodes.pass_time(seconds - 0.5)
            self.assertNoResult(running)
            self.nodes.pass_time(1.0)
            self.assertIn("the engine does not answer", self.failureResultOf(running, VerbError).getErrorMessage())

    def test_cut_off(self) -> None:
        """A look-up that is cut off, as by the end of this node, names no cause of its own."""

        async def locate(peer: Domain) -> Ending:
            return Ending(Cause.INTERNAL)

        self.patch(self.nodes["a"].homes, "locate", locate)
        self.assertIn("the engine does not answer, or this node ends", self.failed(VerbError, self.reached.home(P, True)))

    def test_lost_race(self) -> None:
        """If another node takes the peer at the same moment, the caller looks again. What cannot be taken is an error."""
        for ending, error in ((Ending(Cause.OTHER_NODE), NotHome), (Ending(Cause.SHUTDOWN), VerbError)):

            async def claim(peer: Domain, ending: Ending = ending) -> Ending:
                return ending

            self.patch(self.nodes["a"].homes, "claim", claim)
            self.failed(error, self.reached.home(P, True))

    def test_whole(self) -> None:
        """An operator of one node drops what waits at another: the verbs of a node as it is built."""
        self.nodes["b"].claim(P)
        self.own["b", "queue drop"] = {"lanes": 1, "stanzas": 3}
        node = self.nodes["a"]
        parts = SimpleNamespace(questions=Questions(), members=node.members, homes=node.homes, engine=node.engine)
        verbs = node_verbs(cast(ClusterParts, parts), {"queue drop": lambda _: self.fail()}, {LOCAL}, Slices(self.clock), self.clock)
        answer = self.result(verbs["queue drop"]({"target": ["p.example"], "quietly": True}))
        self.assertEqual({"lanes": 1, "stanzas": 3, "node": "b"}, answer)
        self.assertEqual([("b", "queue drop", {"target": ["p.example"], "quietly": True, BY: "admin socket of node a"})], self.asked)
        self.assertIn(b"error", self.result(parts.questions.answer(b"verb {}")))
