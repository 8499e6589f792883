"""Tests of the verbs that concern other nodes: merged, passed on to the home of a peer, or done on every node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin import node_verbs
from s2sgw.admin.node_verbs import (
    CLAIMING,
    OF_HOME,
    ClusterVerbs,
    NodeEnded,
    NodeRows,
    NodeSilent,
    NodeUnreached,
    NotHome,
    peer_of,
)
from s2sgw.admin.server import BY, NothingHere, Rows, VerbError
from s2sgw.admin.verb_table import TABLE
from s2sgw.net.slices import Slices
from s2sgw.xmpp.jid import Domain, Pair

PEER = Domain.parse("p.example")
#: an answer of another node, or the error that it gives
Answers = dict[tuple[str, str], Any]


def home_of(pair: Pair) -> Domain:
    return pair.sender if pair.recipient.ascii == "local.example" else pair.recipient


class FakeNodes:
    """The node `a` of a cluster. `answers`: what the others say. `homes`: the answers to the next look-ups of homes."""

    name = "a"

    def __init__(self) -> None:
        self.answers: Answers = {}
        self.homes: list[str | Exception] = []
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.claimed: list[bool] = []
        self.names = ["b", "c"]
        self.pauses = 0

    def others(self) -> list[str]:
        return list(self.names)

    def _answer(self, node: str, verb: str, arguments: Mapping[str, Any]) -> Any:
        self.asked.append((node, verb, dict(arguments)))
        answer = self.answers[node, verb]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def rows(self, node: str, verb: str, arguments: Mapping[str, Any], seconds: float, at_most: int) -> NodeRows:
        answer = self._answer(node, verb, arguments)
        return answer if isinstance(answer, NodeRows) else NodeRows(answer, False)

    async def ask(self, node: str, verb: str, arguments: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        answer: dict[str, Any] = self._answer(node, verb, arguments)
        return answer

    def pause(self) -> Deferred[None]:
        self.pauses += 1
        return succeed(None)

    async def home(self, peer: Domain, claim: bool) -> str:
        self.claimed.append(claim)
        found = self.homes.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


class NodeVerbsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.nodes = FakeNodes()
        self.own: dict[str, Any] = {}
        self.here: list[tuple[str, dict[str, Any]]] = []
        verbs: dict[str, Any] = {name: self.verb(name) for name in TABLE}
        self.verbs = ClusterVerbs(verbs, self.nodes, home_of, Slices(self.clock)).verbs()

    def verb(self, name: str) -> Callable[[Mapping[str, Any]], Any]:
        def answer(arguments: Mapping[str, Any]) -> Any:
            self.here.append((name, dict(arguments)))
            found = self.own[name]
            if isinstance(found, Exception):
                raise found
            return found

        return answer

    def ask(self, verb: str, **arguments: Any) -> Any:
        result = self.verbs[verb](arguments)
        deferred = Deferred.fromCoroutine(result) if not isinstance(result, Deferred) and hasattr(result, "send") else result
        if isinstance(deferred, Deferred):
            self.clock.pump([0.01] * 20)
            return self.successResultOf(deferred)
        return deferred

    def refused(self, verb: str, **arguments: Any) -> str:
        deferred = Deferred.fromCoroutine(self.verbs[verb](arguments))
        self.clock.pump([0.01] * 20)
        return str(self.failureResultOf(deferred, VerbError).value)


class EveryNodeTests(NodeVerbsCase):
    """Verbs that are asked of every node."""

    def test_rows(self) -> None:
        """The rows of all nodes come in one list, each with its node. The others are told who asks, and not to ask further."""
        self.own["streams"] = Rows(iter([None, {"peer": "p"}, None]))
        self.nodes.answers = {("b", "streams"): [{"peer": "q"}], ("c", "streams"): []}
        self.assertEqual([{"node": "a", "peer": "p"}, {"node": "b", "peer": "q"}], self.ask("streams", limit=5, peer="p"))
        passed = {"limit": 5, "peer": "p", BY: "admin socket of node a"}
        self.assertEqual([("b", "streams", passed), ("c", "streams", passed)], self.nodes.asked)
        self.assertEqual([("streams", {"limit": 5, "peer": "p"})], self.here)

    def test_here(self) -> None:
        """With `here` no other node is asked, and the rows are those of a gateway alone."""
        rows = Rows(iter([{"peer": "p"}]))
        for verb, answer in (("streams", rows), ("status", {"version": "1"}), ("queue ages", {"rows": []}), ("queue show", []), ("explain", {})):
            self.own[verb] = answer
            self.assertIs(answer, self.ask(verb, here=True, peer="p.example", target=["p.example"]))
        self.assertEqual([], self.nodes.asked)
        self.assertFalse(any("here" in arguments for _, arguments in self.here))

    def test_order(self) -> None:
        """Peers are in the order of their names, queues by their stanzas, refusals by time. The limit is that of all rows."""
        for verb, own, others, wanted in (
            ("peers", ["b", "d"], ["a", "c"], ["a", "b", "c"]), ("queue list", [9, 1], [5], [9, 5, 1]), ("refusals", [1.0, 4.0], [2.0, 3.0], [2.0, 3.0, 4.0]),
        ):
            key = {"peers": "peer", "queue list": "stanzas", "refusals": "at"}[verb]
            self.own[verb] = [{key: value} for value in own]
            self.nodes.answers = {("b", verb): [{key: value} for value in others], ("c", verb): []}
            self.assertEqual(wanted, [row[key] for row in self.ask(verb, limit=3)])

    def test_many_rows(self) -> None:
        """Many rows are merged in slices: no turn of the reactor takes all of them."""
        self.own["peers"] = [{"peer": f"p{number:05}"} for number in range(0, 6000, 2)]
        self.nodes.answers = {("b", "peers"): [{"peer": f"p{number:05}"} for number in range(1, 6000, 2)], ("c", "peers"): []}
        steps, ages_order = 0, node_verbs.TABLES[node_verbs.AGES][1]
        ages = node_verbs._one_list([("a", NodeRows([{"peer": "p", "stanzas": number} for number in range(6000)], False))], node_verbs.AGES, ages_order)
        self.assertGreaterEqual(sum(1 for _ in ages), 2 * 6000 // node_verbs.AT_ONCE - 2)
        work = node_verbs._one_list([("a", NodeRows(self.own["peers"], False)), ("b", NodeRows(self.nodes.answers["b", "peers"], False))], "peers", node_verbs.MERGED["peers"])
        for _ in work:
            steps += 1
        self.assertGreaterEqual(steps, 2 * 6000 // node_verbs.AT_ONCE - 2)
        rows = self.ask("peers", limit=6000)
        self.assertEqual(([f"p{number:05}" for number in range(6000)], ["a", "b"] * 3000), ([row["peer"] for row in rows], [row["node"] for row in rows]))

    def test_holds(self) -> None:
        """A hold that all nodes know is listed once: with the stanzas of its peer, if there are some. Others are listed too."""
        def row(peer: str, stanzas: int, *held: str) -> dict[str, Any]:
            return {"peer": peer, "stanzas": stanzas, "held": list(held)}

        self.own["queue list"] = [row("p", 0, "p"), row("q", 0, "q"), row("r", 2), row("s", 0, "s")]
        self.nodes.answers = {("b", "queue list"): [row("p", 3, "p"), row("q", 0, "q"), row("r", 1)], ("c", "queue list"): [row("p", 0, "p"), row("s", 0, "x s")]}
        found = [(each["peer"], each["node"], *each["held"]) for each in self.ask("queue list")]
        self.assertEqual([("p", "b", "p"), ("r", "a"), ("r", "b"), ("q", None, "q"), ("s", None, "s"), ("s", None, "x s")], found)

    def test_missing(self) -> None:
        """A node that gives no answer, that refuses, or that has too many rows is named at the end. The limit does not hide it."""
        self.own["lanes"] = [{"sender": "x"}, {"sender": "y"}]
        self.nodes.names = ["b", "c", "e", "d"]
        self.nodes.answers = {
            ("b", "lanes"): NodeSilent("no answer within 1 s"), ("c", "lanes"): VerbError("busy"), ("e", "lanes"): NotHome("not here"), ("d", "lanes"): NodeRows([{"sender": "z"}], True),
        }
        *rows, b, c, e, d = self.ask("lanes", limit=1)
        self.assertEqual([{"node": "a", "sender": "x"}], rows)
        self.assertEqual([{"node": "b", "missing": "no answer within 1 s"}, {"node": "c", "missing": "busy"}, {"node": "e", "missing": "not here"}], [b, c, e])
        self.assertIn("--here", d["missing"])

    def test_own_refusal(self) -> None:
        """Other nodes are not asked for anything that this node refuses."""
        self.own["peers"] = VerbError("peer must be a domain name", "usage")
        self.assertIn("domain name", self.refused("peers"))
        self.assertEqual([], self.nodes.asked)

    def test_own_rows_are_bounded(self) -> None:
        """All nodes have one share of the room of an answer."""
        self.patch(node_verbs, "MERGED_BYTES", 3 * 100)
        self.own["streams"] = Rows(iter([{"peer": "x" * 60} for _ in range(9)]))
        self.nodes.answers = {("b", "streams"): [], ("c", "streams"): []}
        rows = self.ask("streams")
        self.assertEqual([("a", False), ("a", True)], [(row["node"], "missing" in row) for row in rows])

    def test_few_at_once(self) -> None:
        """Only a few answers of all nodes are made at a time."""
        waiting: list[Deferred[Any]] = []

        def slow(arguments: Mapping[str, Any]) -> Deferred[Any]:
            waiting.append(Deferred())
            return waiting[-1]

        for verb in ("lanes", "names"):
            verbs = ClusterVerbs({verb: slow}, self.nodes, home_of, Slices(self.clock)).verbs()
            running = [Deferred.fromCoroutine(verbs[verb]({})) for _ in range(node_verbs.MERGES)]
            self.assertIn("--here", str(self.failureResultOf(Deferred.fromCoroutine(verbs[verb]({})), VerbError).value))
            running[0].cancel()
            self.failureResultOf(running[0])
            self.assertNoResult(Deferred.fromCoroutine(verbs[verb]({})))

    def test_many_names(self) -> None:
        """Very many names are merged in steps."""
        found = [(node, node_verbs.NodeRows([f"p{number}.example" for number in range(10_000)], False)) for node in "abc"]
        work, steps = node_verbs._each_name_once(found, 100_000), 1
        with self.assertRaises(StopIteration) as end:
            while True:
                next(work)
                steps += 1
        self.assertEqual((10_000, True), (len(end.exception.value), steps > 30_000 // node_verbs.AT_ONCE))

    def test_status(self) -> None:
        """The overview of this node has those of the others, and names those that gave none."""
        for verb in ("status", "cluster status"):
            self.own[verb] = succeed({"version": "1"})
            self.nodes.answers = {("b", verb): {"version": "2"}, ("c", verb): NodeSilent("gone")}
            wanted = {"version": "1", "node": "a", "nodes": [{"version": "2", "node": "b"}], "missing": [{"node": "c", "missing": "gone"}]}
            self.assertEqual(wanted, self.ask(verb))

    def test_ages(self) -> None:
        """The ages of all nodes are one table."""
        self.own["queue ages"] = {"bounds": [1.0], "rows": [{"peer": "p", "stanzas": 1}]}
        self.nodes.answers = {("b", "queue ages"): [{"peer": "q", "stanzas": 2}], ("c", "queue ages"): NodeSilent("gone")}
        answer = self.ask("queue ages")
        self.assertEqual([("b", "q"), ("a", "p")], [(row["node"], row["peer"]) for row in answer["rows"]])
        self.assertEqual([{"node": "c", "missing": "gone"}], answer["missing"])
        self.assertEqual(["q"], [row["peer"] for row in self.ask("queue ages", limit=1)["rows"]])
        self.nodes.answers = {("b", "queue ages"): [7, {"peer": "q", "stanzas": "x"}], ("c", "queue ages"): NodeRows([{"peer": "r"}], True)}
        answer = self.ask("queue ages")
        self.assertEqual(["p", "q", "r"], [row["peer"] for row in answer["rows"]])
        self.assertEqual([("c", True)], [(row["node"], "--here" in row["missing"]) for row in answer["missing"]])

    def test_certificates(self) -> None:
        """The certificates of all nodes are listed by domain, however many domains there are: there is no limit."""
        self.patch(node_verbs, "limit_asked", lambda arguments: 1)
        self.own["certs"] = [{"domain": "b.example"}, {"domain": "c.example"}]
        self.nodes.answers = {("b", "certs"): [{"domain": "b.example"}], ("c", "certs"): NodeSilent("gone")}
        *rows, missing = self.ask("certs")
        self.assertEqual([("a", "b.example"), ("b", "b.example"), ("a", "c.example")], [(row["node"], row["domain"]) for row in rows])
        self.assertEqual({"node": "c", "missing": "gone"}, missing)

    def test_report(self) -> None:
        """The report has the rows of all nodes, by peer, and names the nodes without an answer."""
        self.own["report"] = {"day": "2026-11-20", "domains": ["x"], "peers": [{"peer": "p"}, {"peer": "r"}]}
        self.nodes.answers = {("b", "report"): [{"peer": "p"}], ("c", "report"): NodeSilent("gone")}
        answer = self.ask("report", peer="p", day="2026-11-20")
        self.assertEqual([("a", "p"), ("b", "p"), ("a", "r")], [(row["node"], row["peer"]) for row in answer["peers"]])
        self.assertEqual((["x"], [{"node": "c", "missing": "gone"}]), (answer["domains"], answer["missing"]))
        self.assertEqual({"peer": "p", "day": "2026-11-20", BY: "admin socket of node a"}, self.nodes.asked[0][2])
        self.assertIs(self.own["report"], self.ask("report", here=True))

    def test_report_of_another_node(self) -> None:
        """A day of which this node has no report is asked of the others. If none has it, each node says why."""
        table = {"day": "2026-11-20", "domains": ["x"], "peers": []}
        self.own["report"] = NothingHere("no report of that day", table)
        self.nodes.answers = {("b", "report"): [{"peer": "p"}], ("c", "report"): VerbError("none here")}
        answer = self.ask("report", day="2026-11-20")
        self.assertEqual([("b", "p")], [(row["node"], row["peer"]) for row in answer["peers"]])
        self.assertEqual(["a", "c"], [row["node"] for row in answer["missing"]])
        self.nodes.answers["b", "report"] = NodeSilent("gone")
        self.assertEqual("no report of that day; node b: gone; node c: none here", self.refused("report", day="2026-11-20"))
        self.nodes.asked.clear()
        self.assertIn("no report of that day", self.refused("report", day="2026-11-20", here=True))
        self.assertEqual([], self.nodes.asked)

    def test_silent_for_a_page(self) -> None:
        """A node that gave no answer to a page is not asked again for it. One that refuses has answered."""
        self.own["streams"], self.own["status"] = [], {}
        self.nodes.answers = {("b", "streams"): NodeSilent("gone"), ("c", "streams"): VerbError("no"), ("c", "status"): {}}
        silent: set[str] = set()
        self.assertEqual(["b", "c"], [row["node"] for row in self.ask("streams", silent=silent)])
        self.assertEqual({"b"}, silent)
        self.assertEqual([], self.ask("status", silent=silent)["missing"])
        self.assertEqual(["b", "c", "c"], [node for node, _, _ in self.nodes.asked])
        self.assertFalse(any("silent" in arguments for _, arguments in self.here))
        self.nodes.answers["b", "status"] = {}
        self.assertEqual(2, len(self.ask("status", silent=["b"])["nodes"]))

    def test_names(self) -> None:
        """The names that any node knows are listed once, in order. Answers that are no names are left out."""
        self.own["names"] = ["p.example", "s.example"]
        self.nodes.answers = {("b", "names"): ["p.example", "q.example", {"peer": 7}], ("c", "names"): NodeSilent("gone")}
        self.assertEqual(["p.example", "q.example", "s.example", {"node": "c", "missing": "gone"}], self.ask("names", prefix=""))
        self.assertEqual(["p.example"], self.ask("names", prefix="", limit=1)[:-1])
        self.assertEqual(self.own["names"], self.ask("names", here=True))

    def test_everywhere(self) -> None:
        """A peer is denied on every node; what was closed is told of all. A node that was not reached is named."""
        self.own["deny"] = {"peer": "p", "denied": True, "changed": False, "closed": [1]}
        self.nodes.answers = {("b", "deny"): {"peer": "p", "denied": True, "changed": True, "closed": [2]}, ("c", "deny"): NodeSilent("gone")}
        self.assertEqual({
            "peer": "p", "denied": True, "changed": True, "closed": [1, 2], "node": "a", "nodes": ["b"], "missing": [{"node": "c", "missing": "gone"}],
        }, self.ask("deny", peer="p"))
        self.own["forget"] = {"peer": "p", "proofs": False, "keys": 1, "pending": 0, "refusals": 2}
        self.nodes.answers = {("b", "forget"): {"peer": "p", "proofs": True, "keys": 1, "pending": 0, "refusals": 3}, ("c", "forget"): {}}
        answer = self.ask("forget", peer="p")
        self.assertEqual((True, 2, 5, ["b", "c"]), (answer["proofs"], answer["keys"], answer["refusals"], answer["nodes"]))

    def test_denied_here(self) -> None:
        """Whether the peer is denied is said of this node alone: another one may have been told otherwise meanwhile."""
        self.own["deny"] = {"peer": "p", "denied": False, "changed": True, "closed": []}
        self.nodes.answers = {(node, "deny"): {"peer": "p", "denied": True, "changed": False, "closed": []} for node in "bc"}
        self.assertFalse(self.ask("deny", peer="p", undo=True)["denied"])

    def test_no_files(self) -> None:
        """No name of a file is passed on, and no order to ask this node alone, which other nodes do not take."""
        self.own["refusals"] = []
        self.nodes.answers = {("b", "refusals"): [], ("c", "refusals"): []}
        self.ask("refusals", here=False, letter=True)
        self.assertEqual({"letter", BY}, set(self.nodes.asked[0][2]))
        for verb in TABLE:
            passed = ClusterVerbs({}, self.nodes, home_of, Slices(self.clock))._passed(verb, {"with": "/file", "here": False})
            self.assertEqual({BY}, set(passed), verb)

    def test_refused_here(self) -> None:
        """A change that this node refuses is made nowhere."""
        self.own["deny"] = VerbError("the disk is full")
        self.assertIn("full", self.refused("deny", peer="p"))
        self.assertEqual([], self.nodes.asked)

    def test_the_rest_is_here(self) -> None:
        """All other verbs are those of this node."""
        self.own["reload"] = {"ok": True}
        self.assertEqual({"ok": True}, self.ask("reload", keep_streams=True))
        self.assertEqual([("reload", {"keep_streams": True})], self.here)


class HomeTests(NodeVerbsCase):
    """Verbs about one peer."""

    def test_passed_on(self) -> None:
        """The home answers, wherever the verb is asked. The answer tells which node it was."""
        for verb in OF_HOME:
            self.nodes.homes, self.nodes.claimed = ["b"], []
            self.nodes.answers = {("b", verb): [{"number": 1}] if verb == "queue show" else {"stanzas": 1}}
            answer = self.ask(verb, **({"target": ["p.example"]} if verb.startswith("queue") else {"peer": "p.example"}))
            self.assertEqual("b", answer[0]["node"] if verb == "queue show" else answer["node"])
            self.assertEqual([verb in CLAIMING], self.nodes.claimed)
        self.assertEqual([], self.here)

    def test_own(self) -> None:
        """A peer of this node is answered here."""
        for verb, own in (("queue drop", succeed({"stanzas": 1})), ("queue show", succeed([{"number": 1}]))):
            self.nodes.homes, self.own[verb] = ["a"], own
            answer = self.ask(verb, target=["p.example", "local.example"])
            self.assertEqual("a", answer[0]["node"] if verb == "queue show" else answer["node"])

    def test_moved(self) -> None:
        """If the home changes meanwhile, the new one is asked, once. Then the answer is an error, and nothing was done."""
        self.nodes.answers = {("b", "queue drop"): NotHome(), ("c", "queue drop"): {"stanzas": 2}}
        self.nodes.homes = ["b", "c"]
        self.assertEqual({"stanzas": 2, "node": "c"}, self.ask("queue drop", target=["p.example"]))
        self.nodes.homes = ["b", NotHome(), "c"]
        self.assertIn("is changing", self.refused("queue drop", target=["p.example"]))
        self.assertEqual(["c"], self.nodes.homes)

    def test_silent_home(self) -> None:
        """A home that gives no answer may have done it, and the operator is told. Nothing is asked again."""
        self.nodes.answers = {("b", "queue drop"): NodeSilent("no answer within 60 s"), ("b", "explain"): NodeSilent("gone")}
        self.nodes.homes = ["b", "b"]
        self.assertIn("it may have done it", self.refused("queue drop", target=["p.example"]))
        self.assertNotIn("done", self.refused("explain", peer="p.example"))
        self.assertEqual(2, len(self.nodes.asked))

    def test_home_without_process(self) -> None:
        """A home that has not read the question is waited for, and then the new home is asked. It has not done it."""
        self.nodes.answers = {("b", "queue drop"): NodeUnreached("no receiver"), ("c", "queue drop"): {"stanzas": 2}}
        self.nodes.homes = ["b", "b", "b", "c"]
        self.assertEqual({"stanzas": 2, "node": "c"}, self.ask("queue drop", target=["p.example"]))
        self.assertEqual(3, self.nodes.pauses)
        self.nodes.homes = ["b"] * (node_verbs.PAUSES + 1)
        text = self.refused("queue drop", target=["p.example"])
        self.assertIn("nothing was done: node b", text)
        self.assertNotIn("may", text)

    def test_home_declared_dead(self) -> None:
        """If the home is declared dead before it answers, a look asks the new one. A change may have been done, and that is told."""
        dead = NodeEnded("it was declared dead")
        self.nodes.answers = {("b", verb): dead for verb in ("queue drop", "explain", "queue show")}
        self.nodes.answers |= {("c", "explain"): {"peer": "p.example"}, ("c", "queue show"): [{"number": 1}]}
        self.nodes.homes = ["b", "c"] * 2
        self.assertEqual("c", self.ask("explain", peer="p.example")["node"])
        self.assertEqual("c", self.ask("queue show", target=["p.example"])[0]["node"])
        self.nodes.homes = ["b", "c"]
        self.assertIn("it may have done it", self.refused("queue drop", target=["p.example"]))
        self.assertEqual(["c"], self.nodes.homes)

    def test_refused_there(self) -> None:
        """A refusal of the home is told with its name."""
        self.nodes.answers, self.nodes.homes = {("b", "queue hold"): VerbError("too many holds")}, ["b"]
        self.assertEqual("node b: too many holds", self.refused("queue hold", target=["p.example"]))
        self.nodes.answers, self.nodes.homes = {("b", "queue hold"): VerbError("unknown argument", "usage")}, ["b"]
        running = Deferred.fromCoroutine(self.verbs["queue hold"]({"target": ["p.example"]}))
        self.assertEqual("usage", self.failureResultOf(running, VerbError).value.kind)

    def test_more_stanzas_than_room(self) -> None:
        """A home that has more stanzas than one answer holds says so, wherever it is. One stanza is always shown, however large."""
        self.patch(node_verbs, "MERGED_BYTES", 50)
        self.own["queue show"] = [{"data": "x" * 60}, {"data": "y"}]
        self.nodes.answers = {("b", "queue show"): NodeRows([{"data": "x" * 60}], True)}
        for node in "ab":
            self.nodes.homes = [node]
            row, cut = self.ask("queue show", target=["p.example"])
            self.assertEqual((node, 60, node, True), (row["node"], len(row["data"]), cut["node"], "--here" in cut["missing"]))

    def test_malformed(self) -> None:
        """Arguments that name no peer are for this node, which says what is wrong. So is a file of this machine."""
        for verb, arguments in (("queue drop", {}), ("queue drop", {"target": ["p", "q", "x", "y"]}), ("close", {"peer": 7}), ("close", {"peer": "a..b"})):
            self.own[verb] = VerbError("usage", "usage")
            self.assertEqual("usage", self.refused(verb, **arguments))
        self.own["explain"] = {"planned": True}
        self.assertEqual({"planned": True}, self.ask("explain", peer="p.example", **{"with": "/file"}))

    def test_peers_of_targets(self) -> None:
        """The peer of a lane is that of its pair."""
        self.assertEqual(PEER, peer_of("queue hold", {"target": ["p.example"]}, home_of))
        for target in (["p.example", "local.example"], ["local.example", "p.example", 7]):
            self.assertEqual(PEER, peer_of("queue hold", {"target": target}, home_of))
        self.assertEqual(PEER, peer_of("close", {"peer": "P.example"}, home_of))
        self.assertIsNone(peer_of("streams", {"peer": "p.example"}, home_of))
