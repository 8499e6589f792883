"""Tests of stanzas that a node may not take: three nodes on the engine in memory, whose queues note the errors."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs as captured_logs
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.engine import EngineGone
from s2sgw.cluster.home_table import PATIENCE
from s2sgw.cluster.homes import YIELD
from s2sgw.cluster.questions import Questions
from s2sgw.composition import returned_stanzas
from s2sgw.composition.returned_stanzas import AGAIN, NOT_TAKEN, SECONDS, TAKEN, WORD, ReturnedStanzas
from s2sgw.queue.bounce import BOUNCED_AT_ONCE
from s2sgw.queue.entries import OVERHEAD
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.cluster_node import Nodes
from tests.support.memory_engine import MemoryEngine

LOCAL, PEER, OTHER = (Domain.parse(name) for name in ("local.example", "peer.example", "other.example"))
PAIR = Pair(PEER, LOCAL)


def stanza(name: str, pair: Pair = PAIR, type: str | None = None, size: int = 0) -> Stanza:
    to, sender = f"v@{pair.recipient}", f"ü@{pair.sender}"
    data = f"<message xmlns='jabber:server' from='{sender}' to='{to}' id='{name}'>{'x' * size}</message>"
    return Stanza("message", data.encode(), to, sender, type, name)


def home(pair: Pair) -> Domain:
    return pair.sender if pair.recipient == LOCAL else pair.recipient


class Queues:
    """The queues of a node. `errors`: the pair, the id and the words of each error that they took."""

    def __init__(self) -> None:
        self.errors: list[tuple[Pair, str | None, str]] = []
        self._pair = PAIR

    def queue(self, pair: Pair) -> Any:
        self._pair = pair
        return self

    def accept_errors(self, stanzas: list[Stanza], source: object = None, upstream_ack: object = None) -> None:
        for each in stanzas:
            assert each.type == "error"
            cause = re.findall(r"stream: ([a-z-]+)", each.data.decode())
            self.errors.append((self._pair, each.id, f"{cause[0]} from {each.from_} to {each.to}"))


class ReturnedCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.nodes = Nodes()
        self.clock = self.nodes.clock
        self.queues = {name: Queues() for name in "abc"}
        self.returned = {name: self.made(name) for name in "abc"}

    def tearDown(self) -> None:
        for each in self.returned.values():
            each.stop()

    def made(self, name: str) -> ReturnedStanzas:
        node, questions = self.nodes[name], Questions()
        made = ReturnedStanzas(node.homes, node.members, node.engine, self.queues[name], home, self.clock)
        questions.add(YIELD.strip(), node.homes.answer)
        questions.add(WORD, made.answer)
        node.engine.answer(name, questions.answer)
        return made

    def own(self, name: str, peer: Domain = PEER) -> None:
        """Make a node the home of a peer, which is in use there."""
        answers = self.nodes[name].claim(peer)
        self.nodes.pass_time(0.5)
        self.assertEqual([None], answers)
        self.nodes[name].custody.used.add(peer)
        self.nodes[name].custody.seconds = 0.0

    def give(self, *names: str, node: str = "a", cause: Cause = Cause.OTHER_NODE, seconds: float = 0.5) -> list[str]:
        """Give stanzas back on a node, and let time pass. Return the log: the event and the number of stanzas."""
        with captured_logs() as logged:
            self.returned[node].give_back(PAIR, [stanza(name) for name in names], cause)
            self.nodes.pass_time(seconds)
        return [f"{each['event']} {each['stanzas']}" for each in logged if each.get("event") == "stanzas lost"]

    def ids(self, name: str) -> list[str | None]:
        return [identity for _, identity, _ in self.queues[name].errors]

    def answer(self, question: object, name: str = "b") -> bytes:
        data = question if isinstance(question, bytes) else WORD + b" " + json.dumps(question).encode()
        asked = Deferred.fromCoroutine(self.returned[name].answer(data))
        self.nodes.pass_time(0.5)
        answered: bytes = self.successResultOf(asked)
        return answered


class GiveBackTests(ReturnedCase):
    """The errors are made by the home of the peer."""

    def test_home(self) -> None:
        """The home of the peer puts the errors into the queue back to the sender, in order, with the reason."""
        self.own("b")
        self.assertEqual([], self.give("1", "2", cause=Cause.NO_NODE))
        words = f"no-node from v@{LOCAL} to ü@{PEER}"
        self.assertEqual([(PAIR.inverse, "1", words), (PAIR.inverse, "2", words)], self.queues["b"].errors)
        self.assertEqual(([], []), (self.ids("a"), self.ids("c")))

    def test_not_in_this_turn(self) -> None:
        """The home is looked for in the next turn: the peer may be dropped in this one."""
        self.own("a")
        self.returned["a"].give_back(PAIR, [stanza("1")], Cause.OTHER_NODE)
        self.assertEqual([], self.ids("a"))
        self.nodes["a"].homes.lost(PEER)
        self.nodes.pass_time(3.0)
        self.assertEqual(["1"], self.ids("a") + self.ids("b") + self.ids("c"))

    def test_no_home(self) -> None:
        """A peer without a home gets this node, or another one if this one is drained."""
        self.give("1")
        self.assertEqual(["1"], self.ids("a"))
        self.assertTrue(self.nodes["a"].table.owns(PEER))
        self.nodes["c"].homes.drain()
        self.nodes.pass_time(1.0)
        self.returned["c"].give_back(Pair(OTHER, LOCAL), [stanza("2", Pair(OTHER, LOCAL))], Cause.SHUTDOWN)
        self.nodes.pass_time(1.0)
        self.assertEqual((["1", "2"], []), (self.ids("a") + self.ids("b"), self.ids("c")))

    def test_unanswerable(self) -> None:
        """No error answers an error. It is logged as lost."""
        self.own("b")
        with captured_logs() as logged:
            for stanzas in ([stanza("1", type="error"), stanza("2")], [stanza("3", type="error")]):
                self.returned["a"].give_back(PAIR, stanzas, Cause.OTHER_NODE)
                self.nodes.pass_time(0.5)
        self.assertEqual(["2"], self.ids("b"))
        self.assertEqual([1, 1], [each["stanzas"] for each in logged if each.get("event") == "stanzas lost"])

    def test_too_large(self) -> None:
        """A stanza whose error no question can have is logged as lost. Those behind it do not wait."""
        self.own("b")
        self.assertEqual(["stanzas lost 1"], self.give("1" * MemoryEngine.max_record, "2"))
        self.assertEqual(["2"], self.ids("b"))

    def test_many(self) -> None:
        """Many stanzas, and large ones, are given back in parts and in order, also those that come meanwhile. Each once."""
        self.own("b")
        names = [str(number) for number in range(3 * BOUNCED_AT_ONCE)]
        self.returned["a"].give_back(PAIR, [stanza(name) for name in names], Cause.OTHER_NODE)
        self.clock.advance(0)
        self.returned["a"].give_back(PAIR, [stanza(name, size=50_000) for name in "xyz"], Cause.OTHER_NODE)
        self.nodes.pass_time(1.0)
        self.assertEqual([*names, "x", "y", "z"], self.ids("b"))

    def test_home_that_dies(self) -> None:
        """If the home dies, the next one answers."""
        self.own("b")
        self.nodes.die("b")
        self.assertEqual([], self.give("1", seconds=10.0))
        self.assertEqual(["1"], self.ids("a") + self.ids("c"))

    def test_lost_answer(self) -> None:
        """If the answer of the home is lost, it is asked again, and makes no second error."""
        self.own("b")
        asked: list[bytes] = []
        original = self.nodes["a"].engine.ask

        async def ask(node: str, question: bytes, seconds: float = 1.0) -> bytes:
            answer = await original(node, question, seconds)
            asked.append(answer)
            if len(asked) == 1:
                raise EngineGone("no answer")
            return answer

        self.patch(self.nodes["a"].engine, "ask", ask)
        self.assertEqual([], self.give("1", seconds=2 * AGAIN))
        self.assertEqual(([TAKEN, TAKEN], ["1"]), (asked, self.ids("b")))

    def test_in_vain(self) -> None:
        """Stanzas that no node answers in time are logged as lost. So are those beyond the bound, and those after the stop."""
        for name in "abc":
            self.nodes[name].custody.ending = Ending(Cause.SPOOL_UNREADABLE)
        self.assertEqual([], self.give("1", "2", seconds=SECONDS - 5.0))
        self.assertEqual(["stanzas lost 2"], self.give(seconds=10.0 + AGAIN))
        self.patch(returned_stanzas, "MOST_BYTES", OVERHEAD + 200)
        self.assertEqual(["stanzas lost 40"], self.give("x", *map(str, range(39))))
        self.assertEqual([], self.give("1"))
        with captured_logs() as logged:
            self.returned["a"].stop()
        self.assertEqual([("stanzas lost", 1)], [(each["event"], each["stanzas"]) for each in logged])
        self.assertEqual(["stanzas lost 1"], self.give("2"))
        self.assertEqual([], self.ids("a") + self.ids("b") + self.ids("c"))

    def test_many_in_vain(self) -> None:
        """Stanzas behind others that no node answered in time are given up with them."""
        async def locate(peer: Domain) -> Ending:
            await deferLater(self.clock, PATIENCE)
            return Ending(Cause.NO_NODE)

        self.patch(self.nodes["a"].homes, "locate", locate)
        for number in range(20):
            self.returned["a"].give_back(PAIR, [stanza(str(number), size=50_000)], Cause.OTHER_NODE)
        with captured_logs() as logged:
            for _ in range(int(SECONDS + PATIENCE) + 10):
                self.clock.advance(1.0)
        self.assertEqual(20, len([each for each in logged if each.get("event") == "stanzas lost"]))

    def test_room_comes_back(self) -> None:
        """Stanzas that were answered take no room any more."""
        self.own("b")
        self.patch(returned_stanzas, "MOST_BYTES", OVERHEAD + 200)
        for name in "123":
            self.assertEqual([], self.give(name))
        self.assertEqual(["1", "2", "3"], self.ids("b"))

    def test_leave(self) -> None:
        """A stop waits until all are answered, for some seconds at most."""
        self.own("b")
        self.returned["a"].give_back(PAIR, [stanza("1")], Cause.SHUTDOWN)
        left = Deferred.fromCoroutine(self.returned["a"].leave(3.0))
        self.assertNoResult(left)
        self.nodes.pass_time(0.5)
        self.assertIsNone(self.successResultOf(left))
        self.nodes["b"].engine.cut()
        self.returned["a"].give_back(PAIR, [stanza("2")], Cause.SHUTDOWN)
        left = Deferred.fromCoroutine(self.returned["a"].leave(3.0))
        self.nodes.pass_time(2.9)
        self.assertNoResult(left)
        self.nodes.pass_time(0.2)
        self.assertIsNone(self.successResultOf(left))

    def test_fault(self) -> None:
        """An unexpected failure is logged, and so are the stanzas."""
        def broken(pair: Pair) -> Any:
            raise RuntimeError("broken")

        self.own("a")
        self.patch(self.queues["a"], "queue", broken)
        self.assertEqual(["stanzas lost 1"], self.give("1"))
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))


class AnswerTests(ReturnedCase):
    """A node takes errors from others."""

    def question(self, **words: object) -> dict[str, object]:
        errors: Sequence[object] = [["message", "<message>stream: other-node</message>", "a@peer.example", "b@local.example", None]]
        return {"id": "1", "pair": ["peer.example", "local.example"], "errors": errors, **words}

    def test_taken_once(self) -> None:
        """The home takes errors, and the same question only once. A node that is not the home takes none."""
        self.own("b")
        self.assertEqual([TAKEN, TAKEN, NOT_TAKEN], [self.answer(self.question()), self.answer(self.question()), self.answer(self.question(), "c")])
        self.assertEqual(([None], []), (self.ids("b"), self.ids("c")))
        self.assertEqual(TAKEN, self.answer(self.question(id="2")))
        self.assertEqual([None, None], self.ids("b"))

    def test_wrong(self) -> None:
        """A question that cannot be read is not answered by errors."""
        self.own("b")
        errors: list[object] = [7, [], ["message"], ["query", "x", "a", "b", None], ["message", 7, "a", "b", None], ["message", "x", "a", "b", 7]]
        for question in (
            b"errors {", b"errors []", b"errors 7", {"id": "1"}, self.question(pair=["peer.example"]), self.question(pair=["", "x"]), self.question(pair=7),
            *(self.question(errors=[each]) for each in errors), self.question(errors=7),
        ):
            self.assertEqual(NOT_TAKEN, self.answer(question), question)
        self.assertEqual([], self.ids("b"))
