"""Tests of the events of all nodes: three nodes on the engine in memory, each with events of its own."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.server import VerbError
from s2sgw.cluster.engine import EngineGone
from s2sgw.cluster.homes import YIELD
from s2sgw.cluster.questions import Questions
from s2sgw.composition import node_events
from s2sgw.composition.node_events import EACH_SECONDS, KEPT_SECONDS, WORD, EventAnswers, NodesEvents, watch_verb
from s2sgw.composition.node_questions import EngineNodes
from s2sgw.reporting import live_events
from s2sgw.reporting.live_events import WATCHERS, LiveEvents, TooManyWatchers, Watcher
from s2sgw.xmpp.jid import Domain
from tests.support.cluster_node import Nodes

PEER = Domain.parse("p.example")


class EventsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.nodes = Nodes()
        self.clock = self.nodes.clock
        self.live = {name: LiveEvents(publisher=LogPublisher()) for name in "abc"}
        self.answers = {name: self.serve(name) for name in "abc"}
        node = self.nodes["a"]
        self.reached = EngineNodes(node.members, node.homes, node.engine, self.clock)
        self.watches: list[tuple[NodesEvents, Watcher]] = []
        self.ended = 0

    def tearDown(self) -> None:
        for events, watcher in self.watches:
            events.stop(watcher)

    def serve(self, name: str) -> EventAnswers:
        node, questions = self.nodes[name], Questions()
        answers = EventAnswers(self.live[name], node.engine, self.clock)
        questions.add(YIELD.strip(), node.homes.answer)
        questions.add(WORD, answers.answer)
        node.engine.answer(name, questions.answer)
        return answers

    def gave_way(self) -> None:
        self.ended += 1

    def watch(self, *peers: str, user: str = "") -> Watcher:
        events = NodesEvents(self.live["a"], self.reached, self.clock)
        watcher = events.watch(user, frozenset(peers), lambda: None, self.gave_way)
        self.watches.append((events, watcher))
        self.nodes.pass_time(0.1)
        return watcher

    def tell(self, on: str, number: int = 0, peer: str = "p.example", **facts: Any) -> None:
        self.live[on].tell(5.0, LogLevel.info, peer, {"event": "x", "peer": peer, "number": number, **facts})

    def seen(self, watcher: Watcher, seconds: float = EACH_SECONDS + 0.2) -> list[tuple[str, Any]]:
        """Let time pass. Return the node and the number of each event since the last look; of one without a number, its name."""
        self.nodes.pass_time(seconds)
        return [(event["on"], event.get("number", event["event"])) for event in watcher.take()[0]]

    def answer(self, question: object) -> dict[str, Any]:
        """Return the answer of node b."""
        data = question if isinstance(question, bytes) else WORD + b" " + json.dumps(question).encode()
        answer: dict[str, Any] = json.loads(self.successResultOf(Deferred.fromCoroutine(self.answers["b"].answer(data))))
        return answer


class WatchTests(EventsCase):
    """A node shows the events of all."""

    def test_all_nodes(self) -> None:
        """Events of each node come with its name: those of this node at once, those of others within a second, each once."""
        watcher = self.watch()
        for number, node in enumerate("cba"):
            self.tell(node, number)
        self.assertEqual([("a", 2)], self.seen(watcher, 0.0))
        self.assertEqual([("b", 1), ("c", 0)], sorted(self.seen(watcher)))
        self.tell("b", 3, node="c")
        self.assertEqual(([("b", 3)], []), (self.seen(watcher), self.seen(watcher)))

    def test_one_peer(self) -> None:
        """The other nodes are asked for the events of the peer alone."""
        watcher = self.watch("p.example")
        for node in "ab":
            self.tell(node, 1, "q.example")
            self.tell(node, 2)
        self.assertEqual([("a", 2), ("b", 2)], self.seen(watcher))

    def test_stop(self) -> None:
        """When the watch ends, no node is asked any more, and the watchers of the other nodes end after a while."""
        self.watch()
        self.assertEqual([1, 1, 1], [len(live) for live in self.live.values()])
        events, watcher = self.watches[0]
        events.stop(watcher)
        self.nodes.pass_time(KEPT_SECONDS - EACH_SECONDS)
        self.assertEqual([0, 1, 1], [len(live) for live in self.live.values()])
        self.nodes.pass_time(EACH_SECONDS + 0.2)
        self.assertEqual([0, 0, 0], [len(live) for live in self.live.values()])

    def test_silent(self) -> None:
        """A node without an answer is told once, until it is heard again. The events of the others go on."""
        watcher = self.watch()
        self.nodes["b"].engine.cut()
        self.assertEqual([("b", "node not heard")], self.seen(watcher, 2.0))
        self.tell("c", 1)
        self.assertEqual([("c", 1)], self.seen(watcher, 2.0))

    def test_lost_answer(self) -> None:
        """If an answer is lost, its events come with the next one, in order, each once."""
        watcher = self.watch()
        original, lost = self.nodes["a"].engine.ask, ["b", "b"]

        async def ask(node: str, question: bytes, seconds: float = 1.0) -> bytes:
            answer = await original(node, question, seconds)
            if node in lost:
                lost.remove(node)
                raise EngineGone("no answer")
            return answer

        self.patch(self.nodes["a"].engine, "ask", ask)
        for number in range(4):
            self.tell("b", number)
            self.nodes.pass_time(EACH_SECONDS)
        events = [event for event in self.seen(watcher) if event[1] != "node not heard"]
        self.assertEqual([("b", number) for number in range(4)], events)

    def test_missed(self) -> None:
        """Events that another node lost are counted with those that were lost here."""
        watcher = self.watch()
        for number in range(live_events.WAITING + 7):
            self.tell("b", number)
        self.nodes.pass_time(EACH_SECONDS + 0.2)
        events, missed = watcher.take()
        self.assertEqual((live_events.WAITING, 7, 7), (len(events), missed, events[0]["number"]))

    def test_pages(self) -> None:
        """More events than an answer has come with the next ones. If they come faster than they are asked for, the oldest are lost."""
        self.patch(node_events, "PAGE_BYTES", 500)
        watcher = self.watch()
        for number in range(12):
            self.tell("b", number)
        found = [event for _ in range(5) for event in self.seen(watcher)]
        self.assertEqual([("b", number) for number in range(12)], found)
        self.patch(node_events, "WAITING", 10)
        for number in range(12):
            self.tell("b", number)
        self.nodes.pass_time(6.0)
        events, missed = watcher.take()
        self.assertEqual(([*range(2, 12)], 2), ([event["number"] for event in events], missed))

    def test_gave_way(self) -> None:
        """A watcher that had to give way on another node is not begun again there. One that gives way here ends everywhere."""
        watcher = self.watch()
        for _ in range(live_events.WATCHERS_PER_USER):
            self.live["b"].watch("admin socket of node a", frozenset(), lambda: None)
        self.assertEqual([("b", "node not heard")], self.seen(watcher, 3.0))
        self.assertEqual((live_events.WATCHERS_PER_USER, 0), (len(self.live["b"]), self.ended))
        for _ in range(live_events.WATCHERS_PER_USER):
            self.watch()
        self.assertEqual(1, self.ended)

    def test_too_many(self) -> None:
        """Too many watchers are refused in words: on this node the watch, on another one its events."""
        for number in range(WATCHERS):
            self.live["b"].watch(str(number), frozenset(), lambda: None)
        watcher = self.watch()
        self.assertIn("too many", watcher.take()[0][0]["detail"])
        for number in range(WATCHERS - 1):
            self.live["a"].watch(str(number), frozenset(), lambda: None)
        self.assertRaises(TooManyWatchers, NodesEvents(self.live["a"], self.reached, self.clock).watch, "z", frozenset(), lambda: None, lambda: None)

    def test_fault(self) -> None:
        """A fault is logged. The events of this node go on."""
        with mock.patch.object(self.reached, "result", side_effect=RuntimeError("broken")):
            watcher = self.watch()
        self.tell("a", 1)
        self.assertEqual([("a", 1)], self.seen(watcher))
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))


class AnswerTests(EventsCase):
    """The questions of other nodes."""

    def test_wrong(self) -> None:
        """A question that cannot be read is refused, and begins no watcher."""
        for question in (
            b"events {", {"id": 1, "user": "u", "peers": []}, {"id": "1", "user": 1, "peers": []}, {"id": "1", "user": "u", "peers": 1},
            {"id": "1", "user": "u", "peers": [1]},
        ):
            self.assertEqual("usage", self.answer(question)["kind"])
        self.assertEqual(0, len(self.live["b"]))

    def test_other_release(self) -> None:
        """Words of another release in an answer are no events."""
        watcher = self.watch()
        for words in ({"events": 7, "missed": "x"}, {"events": [7, {}], "missed": None}):
            async def result(*_: Any, words: dict[str, Any] = words) -> dict[str, Any]:
                return words

            with mock.patch.object(self.reached, "result", result):
                self.assertEqual([], self.seen(watcher))


class VerbTests(EventsCase):
    """The verb of a node."""

    def test_verb(self) -> None:
        """It shows all nodes, and with `here` the one that is asked."""
        verb = watch_verb(self.live["a"], self.reached, self.clock)
        here, everywhere = verb({"peer": "p.example", "here": True}), verb({"peer": "p.example"})
        self.assertEqual((self.live["a"], PEER, PEER), (here.live, here.peer, everywhere.peer))
        self.assertIsInstance(everywhere.live, NodesEvents)
        self.assertRaises(VerbError, verb, {"here": 7})
