"""The verbs of a node of a cluster that concern other nodes too (docs/admin.md#several-nodes).

Verbs that show something are asked of every node, and their answers are merged. Verbs about one peer are passed on to its home.
`deny` and `forget` are done on every node. All others are about this node alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred, DeferredList

from s2sgw.admin.protocol import MissingRow
from s2sgw.admin.server import BY, Arguments, NothingHere, Rows, Verb, VerbError, asked_by, called
from s2sgw.admin.verb_table import TABLE
from s2sgw.admin.verbs import domain_argument, flag_argument, limit_asked
from s2sgw.delivery.holds import HoldTarget
from s2sgw.net.slices import SlicedWork, Slices, in_order
from s2sgw.xmpp.jid import Domain, InvalidJID, Pair

#: Seconds that another node has for each part of what it shows.
LOOK_SECONDS = 1.0
#: Seconds for the names that a shell completes: it waits a second for the answer.
NAMES_SECONDS = 0.5
#: Seconds for a verb that changes something on every node, and for one that its peer's home answers.
CHANGE_SECONDS, HOME_SECONDS = 10.0, 60.0
#: Pauses until a home without a process is waited for no longer: it is neither there nor declared dead. A pause is `Nodes.pause`.
PAUSES = 120
#: Bytes of the rows of all nodes in one answer, and such answers that are made at a time.
MERGED_BYTES = 8 * 1024 * 1024
MERGES = 4
#: Rows that are merged without a pause.
AT_ONCE = 500


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else 0.0


def _peer_name(row: Mapping[str, Any]) -> str:
    return str(row.get("peer"))


def _domain(row: Mapping[str, Any]) -> str:
    return str(row.get("domain"))


def _time(row: Mapping[str, Any]) -> float:
    return _number(row.get("at"))


def _most_stanzas(row: Mapping[str, Any]) -> float:
    return -_number(row.get("stanzas"))


#: Rows of every node, in this order. None: node by node.
MERGED: Mapping[str, Callable[[Any], Any] | None] = {
    "streams": None, "lanes": None, "peers": _peer_name, "refusals": _time, "queue list": _most_stanzas, "certs": _domain,
}
#: Answers that are one table. Those of the other nodes are added.
SUMMARIES = ("status", "cluster status")
#: Verbs about one peer, which its home answers. Before those of the second set, a peer without a home gets this node.
OF_HOME = ("queue show", "queue hold", "queue release", "queue drop", "queue flush", "close", "explain")
CLAIMING = ("queue hold", "queue release", "queue drop", "queue flush")
#: Changes of every node.
EVERYWHERE = ("deny", "forget")
AGES, REPORT, NAMES = "queue ages", "report", "names"
#: Answers that are one table with rows of peers -> the key of the rows, and their order. Those of all nodes are merged.
TABLES: Mapping[str, tuple[str, Callable[[Any], Any]]] = {AGES: ("rows", _most_stanzas), REPORT: ("peers", _peer_name)}
#: The verbs that other nodes may ask.
ASKABLE = frozenset({*MERGED, *SUMMARIES, *OF_HOME, *EVERYWHERE, *TABLES, NAMES})


#: The argument with the set of nodes that gave no answer to the questions of one page. They are not asked again for it.
SILENT = "silent"


class NodeSilent(Exception):
    """A node gave no answer. The text says why."""


class NodeUnreached(NodeSilent):
    """No process has read the question, so nothing was done."""


class NodeEnded(NodeSilent):
    """The node was declared dead before it answered."""


class NotHome(Exception):
    """The node is not the home of the peer, or not any more."""


class NodeRows(NamedTuple):
    """Rows of one node. `cut`: there are more of them."""

    rows: list[Any]
    cut: bool


class Nodes(Protocol):
    """The nodes of a cluster, as this one reaches them (`composition.node_questions`)."""

    @property
    def name(self) -> str:
        """Return the name of this node."""

    def others(self) -> list[str]:
        """Return the names of the other nodes that were not declared dead."""

    async def rows(self, node: str, verb: str, arguments: Mapping[str, Any], seconds: float, at_most: int) -> NodeRows:
        """Return the rows of another node: about `at_most` bytes of them, `seconds` for each part.

        The wait ends when that node is declared dead. Raises `NodeSilent`, `NotHome`, or the `VerbError` of that node.
        """

    async def ask(self, node: str, verb: str, arguments: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Return the answer of another node, which is one table. Raises as `rows` does."""

    async def home(self, peer: Domain, claim: bool) -> str:
        """Return the node that is the home of `peer`; without one this node, which becomes the home if `claim` is set.

        Raises `VerbError` if that cannot be known now, and `NotHome` if another node became the home meanwhile.
        """

    def pause(self) -> Deferred[None]:
        """Wait a quarter of a second, in which a node that has ended may be declared dead."""


def peer_of(verb: str, arguments: Arguments, home: Callable[[Pair], Domain]) -> Domain | None:
    """Return the peer whose home answers a verb. None: the arguments name none, and the verb says what is wrong with them.

    `home` returns the domain whose node owns a pair.
    """
    if verb not in OF_HOME:
        return None
    try:
        if not verb.startswith("queue "):
            return domain_argument(arguments)
        target = HoldTarget.read(arguments["target"])
    except (InvalidJID, KeyError, LookupError, TypeError, ValueError, VerbError):
        return None
    return target.peer if target.pair is None else home(target.pair)


class ClusterVerbs:
    """The verbs of a node: `verbs` are those of this node alone. `home` returns the domain whose node owns a pair."""

    def __init__(self, verbs: Mapping[str, Verb], nodes: Nodes, home: Callable[[Pair], Domain], slices: Slices) -> None:
        self._verbs = verbs
        self._nodes = nodes
        self._home = home
        self._slices = slices
        self._merging = 0

    def verbs(self) -> dict[str, Verb]:
        """Return all verbs."""
        kinds: tuple[tuple[Iterable[str], Callable[[str, Arguments], Any]], ...] = (
            (MERGED, self._merged), (SUMMARIES, self._summary), (OF_HOME, self._at_home), (EVERYWHERE, self._everywhere),
            (TABLES, self._table), ((NAMES,), self._names),
        )
        return {**self._verbs, **{verb: partial(act, verb) for names, act in kinds for verb in names if verb in self._verbs}}

    # --- every node ---

    async def _merged(self, verb: str, arguments: Arguments) -> Any:
        """Return the rows of all nodes in one order, each with its node."""
        if flag_argument(arguments, "here"):
            return await self._here(verb, arguments)
        self._begin()
        try:
            limit = limit_asked(arguments)
            answers, missing = await self._all_rows(verb, arguments)
            rows = await self._slices.run(_one_list(answers, verb, MERGED[verb]))
        finally:
            self._merging -= 1
        if not _takes_limit(verb):
            return [*rows, *missing]
        return [*(rows[-limit:] if verb == "refusals" else rows[:limit]), *missing]

    def _begin(self) -> None:
        if self._merging >= MERGES:
            raise VerbError(f"{MERGES} such answers of all nodes are made already; try again, or ask this node alone (--here)")
        self._merging += 1

    async def _all_rows(
        self, verb: str, arguments: Arguments, seconds: float = LOOK_SECONDS,
    ) -> tuple[list[tuple[str, NodeRows]], list[MissingRow]]:
        at_most = MERGED_BYTES // (1 + len(self._nodes.others()))
        own = await self._slices.run(taken_rows(await self._here(verb, arguments), at_most))
        answers, missing = await self._rows_of_others(verb, arguments, seconds)
        return [(self._nodes.name, own), *answers], [*missing, *_cut([(self._nodes.name, own)])]

    async def _rows_of_others(
        self, verb: str, arguments: Arguments, seconds: float,
    ) -> tuple[list[tuple[str, NodeRows]], list[MissingRow]]:
        others = self._asked_of(arguments)
        at_most = MERGED_BYTES // (1 + len(others))
        passed = self._passed(verb, arguments)
        calls = {node: self._nodes.rows(node, verb, passed, seconds, at_most) for node in others}
        answers, missing = await self._of_each(calls, _silent(arguments))
        return answers, [*missing, *_cut(answers)]

    async def _summary(self, verb: str, arguments: Arguments) -> Any:
        """Return the answer of this node, with those of the others in `nodes`."""
        own = await self._here(verb, arguments)
        if flag_argument(arguments, "here"):
            return own
        answers, missing = await self._ask_others(verb, arguments, LOOK_SECONDS)
        return {**own, **self._told([{**answer, "node": node} for node, answer in answers], missing)}

    async def _table(self, verb: str, arguments: Arguments) -> Any:
        """Return the answer of this node, with the rows of all nodes in it. It may have none: others may have some."""
        if flag_argument(arguments, "here"):
            return await self._here(verb, arguments)
        nothing: NothingHere | None = None
        try:
            own = await self._here(verb, arguments)
        except NothingHere as error:
            own, nothing = error.table, error
        self._begin()
        try:
            answers, missing = await self._rows_of_others(verb, arguments, LOOK_SECONDS)
            if nothing is not None:
                if not answers:
                    raise VerbError("; ".join([str(nothing), *(f"node {row['node']}: {row['missing']}" for row in missing)]))
                missing = [MissingRow(node=self._nodes.name, missing=str(nothing)), *missing]
            tables = [(self._nodes.name, NodeRows(table_rows(verb, own), False)), *answers]
            rows = await self._slices.run(_one_list(tables, verb, TABLES[verb][1]))
        finally:
            self._merging -= 1
        return {**own, TABLES[verb][0]: rows[: limit_asked(arguments)] if _takes_limit(verb) else rows, "missing": missing}

    async def _names(self, verb: str, arguments: Arguments) -> Any:
        """Return the names that any node knows, each once."""
        if flag_argument(arguments, "here"):
            return await self._here(verb, arguments)
        self._begin()
        try:
            limit = limit_asked(arguments)
            answers, missing = await self._all_rows(verb, arguments, NAMES_SECONDS)
            names = await self._slices.run(_each_name_once(answers, limit))
        finally:
            self._merging -= 1
        return [*names, *missing]

    async def _everywhere(self, verb: str, arguments: Arguments) -> Any:
        """Change this node, and then all others. What this node refuses is not asked of others."""
        own = await self._here(verb, arguments)
        answers, missing = await self._ask_others(verb, arguments, CHANGE_SECONDS)
        merged = {key: _together(key, value, [answer.get(key) for _, answer in answers]) for key, value in own.items()}
        return {**merged, **self._told([node for node, _ in answers], missing)}

    def _told(self, others: Sequence[Any], missing: Sequence[MissingRow]) -> dict[str, Any]:
        return {"node": self._nodes.name, "nodes": others, "missing": missing}

    async def _ask_others(
        self, verb: str, arguments: Arguments, seconds: float,
    ) -> tuple[list[tuple[str, dict[str, Any]]], list[MissingRow]]:
        """Return the answers of the other nodes, which are tables, and the nodes without one."""
        passed = self._passed(verb, arguments)
        calls = {node: self._nodes.ask(node, verb, passed, seconds) for node in self._asked_of(arguments)}
        return await self._of_each(calls, _silent(arguments))

    def _asked_of(self, arguments: Arguments) -> list[str]:
        """Return the other nodes, without those that have been silent for this page."""
        silent = _silent(arguments)
        return [node for node in self._nodes.others() if node not in silent]

    async def _of_each(
        self, calls: Mapping[str, Coroutine[Any, Any, Any]], silent: set[str],
    ) -> tuple[list[tuple[str, Any]], list[MissingRow]]:
        """Make a call to each node at once. Return the answers of those that answer, and why the others do not.

        Those that give no answer are added to `silent`.
        """
        answers, missing = [], []
        running = DeferredList([Deferred.fromCoroutine(call) for call in calls.values()], consumeErrors=True)
        for node, (good, answer) in zip(calls, await running, strict=True):
            if good:
                answers.append((node, answer))
            elif answer.check(NodeSilent, NotHome, VerbError):
                missing.append(MissingRow(node=node, missing=answer.getErrorMessage()))
                if answer.check(NodeSilent):
                    silent.add(node)
            else:
                answer.raiseException()
        return answers, missing

    # --- the home of a peer ---

    async def _at_home(self, verb: str, arguments: Arguments) -> Any:
        """Return the answer of the home of the peer. If the home changes meanwhile, the new one is asked, once.

        A home without a process is waited for: it comes back, or is declared dead.
        """
        peer = peer_of(verb, arguments, self._home)
        if peer is None or arguments.get("with") is not None or flag_argument(arguments, "here"):
            return await self._here(verb, arguments)
        changes, pauses = 0, 0
        while changes < 2:
            node = ""
            try:
                node = await self._nodes.home(peer, verb in CLAIMING)
                return await self._at(node, verb, arguments)
            except (NotHome, NodeEnded):
                changes += 1
            except NodeUnreached as error:
                if pauses == PAUSES:
                    raise VerbError(f"nothing was done: node {node} is the home of the peer, and {error}") from None
                pauses += 1
                await self._nodes.pause()
        raise VerbError(f"nothing was done: the home of {peer} is changing; try again in a moment")

    async def _at(self, node: str, verb: str, arguments: Arguments) -> Any:
        lists, own = verb == "queue show", node == self._nodes.name
        if own and lists:
            found = await self._slices.run(taken_rows(await self._here(verb, arguments), MERGED_BYTES))
        elif own:
            return {**await self._here(verb, arguments), "node": node}
        else:
            passed = self._passed(verb, arguments)
            try:
                if not lists:
                    return {**await self._nodes.ask(node, verb, passed, HOME_SECONDS), "node": node}
                found = await self._nodes.rows(node, verb, passed, HOME_SECONDS, MERGED_BYTES)
            except NodeUnreached:
                raise
            except NodeSilent as error:
                if isinstance(error, NodeEnded) and not TABLE[verb].changes:
                    raise
                doubt = "; it may have done it" if TABLE[verb].changes else ""
                raise VerbError(f"node {node} is the home of the peer and gave no answer: {error}{doubt}") from None
            except VerbError as error:
                raise VerbError(f"node {node}: {error}", error.kind) from None
        return [*({**row, "node": node} for row in found.rows), *_cut([(node, found)])]

    # --- this node ---

    async def _here(self, verb: str, arguments: Arguments) -> Any:
        answer = called(self._verbs[verb], {name: value for name, value in arguments.items() if name not in ("here", SILENT)})
        return await answer if isinstance(answer, Deferred) else answer

    def _passed(self, verb: str, arguments: Arguments) -> dict[str, Any]:
        """Return the arguments for another node, with who asks."""
        names = {each.name for each in TABLE[verb].parameters if each.kind != "path" and each.name != "here"}
        passed = {name: value for name, value in arguments.items() if name in names}
        return {**passed, BY: f"{asked_by(arguments)} of node {self._nodes.name}"}


def _cut(answers: Iterable[tuple[str, NodeRows]]) -> list[MissingRow]:
    """Return a row for each node that has more rows than were taken."""
    text = "it has more rows than one answer of all nodes holds: name a peer, or ask it alone (--here)"
    return [MissingRow(node=node, missing=text) for node, found in answers if found.cut]


def _silent(arguments: Arguments) -> set[str]:
    found = arguments.get(SILENT)
    return found if isinstance(found, set) else set()  # a client can send no set


def _takes_limit(verb: str) -> bool:
    return any(each.name == "limit" for each in TABLE[verb].parameters)


def taken_rows(answer: object, at_most: int) -> SlicedWork[NodeRows]:
    """Return the work of taking rows from an answer of this node: about `at_most` bytes of them as JSON."""
    steps = answer.steps() if isinstance(answer, Rows) else iter(answer if isinstance(answer, list) else [])
    rows: list[Any] = []
    for row in steps:
        if row is not None:
            at_most -= len(json.dumps(row))
            if rows and at_most < 0:
                return NodeRows(rows, True)
            rows.append(row)
        yield None
    return NodeRows(rows, False)


def table_rows(verb: str, answer: Mapping[str, Any]) -> list[Any]:
    """Return the rows in an answer that is one table."""
    rows = answer.get(TABLES[verb][0])
    return rows if isinstance(rows, list) else []


def _one_list(
    answers: Sequence[tuple[str, NodeRows]], verb: str, order: Callable[[Any], Any] | None,
) -> SlicedWork[list[dict[str, Any]]]:
    """Return the work of merging the rows of nodes, each with its node."""
    tagged = ({"node": node, **row} for node, found in answers for row in found.rows if isinstance(row, dict))
    rows: Iterator[dict[str, Any]] = tagged if order is None else (yield from in_order(tagged, order, AT_ONCE))
    if verb == "queue list":
        rows = _each_hold_once(rows)
    merged: list[dict[str, Any]] = []
    for row in rows:
        merged.append(row)
        if len(merged) % AT_ONCE == 0:
            yield None
    return merged


def _each_name_once(answers: Sequence[tuple[str, NodeRows]], limit: int) -> SlicedWork[list[str]]:
    """Return the work of merging the names of nodes, in order. At most `limit` are taken."""
    names = (name for _, found in answers for name in found.rows if isinstance(name, str))
    merged: list[str] = []
    for number, name in enumerate((yield from in_order(names, str, AT_ONCE)), 1):
        if not merged or merged[-1] != name:
            merged.append(name)
        if len(merged) == limit:
            break
        if number % AT_ONCE == 0:
            yield None
    return merged


def _each_hold_once(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of `queue list`, without those that only repeat a hold: all nodes know what operators hold.

    A row with a hold and without stanzas is of no node.
    """
    told: set[tuple[str, ...]] = set()
    for row in rows:
        held = (_peer_name(row), *map(str, row.get("held") or ()))
        if row.get("stanzas") or held not in told:
            yield row if row.get("stanzas") or not row.get("held") else {**row, "node": None}
        told.add(held)


def _together(key: str, own: Any, others: Sequence[Any]) -> Any:
    """Return the values of one key of all nodes as one: numbers are added, lists are joined, and a flag is set if one is."""
    alike = [other for other in others if type(other) is type(own)]
    if key == "denied" or not alike:
        return own
    if isinstance(own, bool):
        return any((own, *alike))
    if isinstance(own, int | list):
        return sum(alike, own)
    return own
