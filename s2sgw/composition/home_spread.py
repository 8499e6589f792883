"""`s2sgw cluster spread`: homes go from nodes with more than their share to those with fewer, in order (docs/cluster.md).

Imported only with the section `[cluster]`. The node where the command is given counts and plans. Each node that has too many
gives some of its peers up, one step at a time: it closes the streams of a peer, stores its stanzas, and releases its home. Then
the other node is asked to take the peer. If it does not, the peer comes back. While a stream of the engine has no leader, no peer
is given up: its home could not be released, and no node could take it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from math import inf
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from s2sgw.admin.answer_types import SpreadAnswer
from s2sgw.admin.node_verbs import NodeSilent, NotHome
from s2sgw.admin.protocol import MissingRow
from s2sgw.admin.server import Arguments, Verb, VerbError, asked_by
from s2sgw.admin.verbs import flag_argument
from s2sgw.cluster.home_table import QUIET
from s2sgw.cluster.homes import ClusterHomes
from s2sgw.cluster.members import Members
from s2sgw.cluster.spread import Moves, spread
from s2sgw.composition.cluster import ClusterParts
from s2sgw.composition.node_events import WORD as EVENTS
from s2sgw.composition.node_events import EventAnswers, watch_verb
from s2sgw.composition.node_questions import EngineNodes, node_verbs, read_question
from s2sgw.net.slices import SlicedWork, Slices, few_at_once
from s2sgw.reporting.audit import AuditLog
from s2sgw.reporting.live_events import LiveEvents
from s2sgw.xmpp.bounded_dict import BoundedDict
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain, InvalidJID

#: The first word of these questions.
WORD = b"spread"
#: Homes that a node gives up in one step, at one time, and in a second.
STEP_HOMES, AT_ONCE, PER_SECOND = 64, 4, 20.0
#: Seconds in which a node begins to give homes up in one step, and in which a step must be over.
STEP_SECONDS, ANSWER_SECONDS = 15.0, 90.0
#: Seconds in which the engine may elect leaders before a peer is given up. An election takes 4 to 9 s.
ELECTION_SECONDS = 10.0
#: Seconds for the number of homes of a node, and for a node that takes a peer.
COUNT_SECONDS, TAKE_SECONDS = 1.0, 10.0
#: Peers that a node takes at one time.
TAKEN_AT_ONCE = 16
#: Seconds in which a peer that could not be moved is not tried again, and how many such peers are remembered.
REST_SECONDS, RESTING = 60.0, 1000
#: The text about a node that ended while homes were moved.
ENDED = "it has ended meanwhile"
#: The text about a peer that stays because of an election.
NO_LEADERS = "the engine has no leaders now"
#: The text about a peer that stays because something came in from it during an election.
IN_USE = "it is in use now"
#: Peers whose streams are looked at in one turn.
LOOKED_AT = 100


class HomeSpread:
    """Answers the verb, and the questions of other nodes."""

    log = Logger("s2sgw")

    def __init__(
        self, nodes: EngineNodes, members: Members, homes: ClusterHomes, slices: Slices, clock: IReactorTime, audit: AuditLog,
        elected: Callable[[float], Awaitable[bool]],
    ) -> None:
        """`elected` waits so many seconds until the streams of the engine have leaders; it returns whether they have."""
        self._nodes = nodes
        self._members = members
        self._homes = homes
        self._slices = slices
        self._clock = clock
        self._audit = audit
        self._elected = elected
        self._stepping = self._giving = False
        self._taking = 0
        #: peers that could not be moved, and when
        self._resting: BoundedDict[Domain, float] = BoundedDict(RESTING)

    # --- the node where the command is given ---

    async def verb(self, arguments: Arguments) -> SpreadAnswer:
        """Do one step, or with `dry_run` show the plan. The command repeats it until the homes are even, or none moves."""
        dry_run, busy = flag_argument(arguments, "dry_run"), flag_argument(arguments, "busy")
        if not dry_run:
            self._note(arguments, busy)
        if self._stepping:
            raise VerbError("homes are being spread already")
        self._stepping = True
        try:
            homes, missing = await self._counted()
            plan = spread(homes)
            moved, kept = await self._step([] if dry_run else plan, busy, missing)
            for row in moved:
                homes[row["from"]] -= 1
                homes[row["to"]] += 1
            if kept:
                homes = await self._recounted(homes, missing)
        finally:
            self._stepping = False
        return SpreadAnswer(
            node=self._nodes.name, homes=homes, plan=[_row(each) for each in (plan if dry_run else spread(homes))], moved=moved,
            kept=kept, missing=missing,
        )

    def _note(self, arguments: Arguments, busy: bool) -> None:
        try:
            self._audit.note("cluster spread", by=asked_by(arguments), busy=busy)
        except OSError as error:
            raise VerbError(f"nothing was done: the audit log cannot be written: {error}") from None

    async def _counted(self) -> tuple[dict[str, int], list[MissingRow]]:
        """Return the number of homes of each node that gives and takes, and the nodes that do not."""
        homes: dict[str, int] = {}
        missing: list[MissingRow] = []
        own: Any = self._count()
        asked = {node: self._begin(node, {"do": "count"}, COUNT_SECONDS) for node in self._nodes.others()}
        answers = {self._nodes.name: own}
        for node, call in asked.items():
            answers[node] = await self._ended(call)
        for node, found in answers.items():
            number = found.get("homes") if isinstance(found, dict) else None
            if isinstance(number, int) and number >= 0:
                homes[node] = number
            else:
                missing.append(MissingRow(node=node, missing=found if isinstance(found, str) else "it takes no peers now"))
        return dict(sorted(homes.items())), missing

    async def _recounted(self, before: Mapping[str, int], missing: list[MissingRow]) -> dict[str, int]:
        """Count again. Nodes that give no answer now, and those that were declared dead since, are added to `missing`."""
        homes, silent = await self._counted()
        known = {row["node"] for row in missing}
        silent += [MissingRow(node=node, missing=ENDED) for node in before if node not in homes]
        for row in silent:
            if row["node"] not in known:
                known.add(row["node"])
                missing.append(row)
        return homes

    async def _step(
        self, plan: list[Moves], busy: bool, missing: list[MissingRow],
    ) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        """Let each node that has too many homes give some of them. Return the peers that moved, and those that did not."""
        moved: list[dict[str, str]] = []
        kept: list[dict[str, str]] = []
        calls: dict[str, Deferred[Any]] = {}
        for giver in dict.fromkeys(each.giver for each in plan):
            question = {"do": "give", "busy": busy, "to": {each.taker: each.homes for each in plan if each.giver == giver}}
            if giver == self._nodes.name:
                calls[giver] = Deferred.fromCoroutine(self._give(question))
            else:
                calls[giver] = self._begin(giver, question, ANSWER_SECONDS)
        for giver, call in calls.items():
            found = await self._ended(call)
            if isinstance(found, str):
                missing.append(MissingRow(node=giver, missing=found))
                continue
            takers = {each.taker for each in plan if each.giver == giver}
            moved += [{"peer": peer, "from": giver, "to": to} for peer, to in _pairs(found, "moved", "to") if to in takers]
            kept += [{"peer": peer, "node": giver, "why": why} for peer, why in _pairs(found, "kept", "why")]
        return moved, kept

    def _begin(self, node: str, question: Mapping[str, Any], seconds: float) -> Deferred[dict[str, Any]]:
        return Deferred.fromCoroutine(self._nodes.result(node, WORD, question, seconds))

    async def _ended(self, call: Deferred[Any]) -> Any:
        """Return the answer of a call, or why there is none."""
        try:
            return await call
        except (NodeSilent, NotHome, VerbError) as error:
            return str(error)

    # --- a node that is asked ---

    async def answer(self, question: bytes) -> bytes:
        """Answer the question of another node. Errors are a part of the answer."""
        try:
            return json.dumps({"result": await self._answered(read_question(question, WORD))}).encode()
        except VerbError as error:
            return json.dumps({"error": str(error), "kind": error.kind}).encode()

    async def _answered(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        match asked.get("do"):
            case "count":
                return self._count()
            case "give":
                return await self._give(asked)
            case "take":
                return await self._take(asked)
        raise VerbError("it does not know this question", "usage")

    def _count(self) -> dict[str, Any]:
        now = self._clock.seconds()
        taking = self._members.node in self._members.live_nodes(now)
        return {"homes": len(self._homes.table.owned) if taking else None}

    async def _take(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Become the home of a peer that was released for this node."""
        if self._taking >= TAKEN_AT_ONCE:
            raise VerbError("it takes other peers already")
        try:
            peer = Domain.parse(asked.get("peer"))  # type: ignore[arg-type]
        except (InvalidJID, TypeError, AttributeError):
            raise VerbError("the peer is no domain", "usage") from None
        self._taking += 1
        try:
            ending = await self._homes.claim(peer)
        finally:
            self._taking -= 1
        return {"taken": ending is None, "why": "" if ending is None else ending.detail or ending.cause.value}

    async def _give(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Give some peers up to other nodes. `to`: how many to each; `busy`: also peers that had traffic just now."""
        takers = asked.get("to")
        if not isinstance(takers, dict) or not all(_is_number(number) for number in takers.values()):
            raise VerbError("it is not told how many homes to give", "usage")
        if self._giving:
            raise VerbError("it gives homes up already")
        self._giving = True
        try:
            return await self._slices.run(self._given(takers, asked.get("busy") is True))
        finally:
            self._giving = False

    def _given(self, takers: Mapping[str, int], busy: bool) -> SlicedWork[dict[str, Any]]:
        """Return the work of a step."""
        turns = _in_turn(takers, STEP_HOMES)
        peers = yield from self._chosen(len(turns), busy)
        end = self._clock.seconds() + STEP_SECONDS
        result: dict[str, list[dict[str, str]]] = {"moved": [], "kept": []}
        moves = zip(peers, turns, strict=False)
        yield from few_at_once((partial(self._begin_move, peer, to, busy, result, end) for peer, to in moves), AT_ONCE)
        return result

    def _chosen(self, number: int, busy: bool) -> SlicedWork[list[Domain]]:
        """Return the work of choosing peers: those that may be given up now."""
        chosen: list[Domain] = []
        now = self._clock.seconds()
        for place, peer in enumerate(list(self._homes.table.owned)):
            if len(chosen) == number:
                break
            rested = now - self._resting.get(peer, -inf) >= REST_SECONDS
            if rested and self._homes.table.open(peer) and (busy or self._is_quiet(peer)):
                chosen.append(peer)
            if place % LOOKED_AT == LOOKED_AT - 1:
                yield None
        return chosen

    def _is_quiet(self, peer: Domain) -> bool:
        return self._homes.quiet(peer) >= QUIET

    def _begin_move(
        self, peer: Domain, to: str, busy: bool, result: dict[str, list[dict[str, str]]], end: float,
    ) -> Deferred[None]:
        return Deferred.fromCoroutine(self._move(peer, to, busy, result, end))

    async def _move(self, peer: Domain, to: str, busy: bool, result: dict[str, list[dict[str, str]]], end: float) -> None:
        """Give one peer up, and let `to` take it. `result` is told the outcome."""
        if self._clock.seconds() >= end:
            return
        paced = deferLater(self._clock, AT_ONCE / PER_SECOND, _nothing)
        try:
            if not await self._elected(ELECTION_SECONDS):
                why = NO_LEADERS
            else:
                why = await self._moved(peer, to) if busy or self._is_quiet(peer) else IN_USE
        except Exception:
            self.log.failure("the home of {peer} could not be moved", peer=peer)
            why = "the log says why"
        if why:
            if why not in (NO_LEADERS, IN_USE):
                self._resting[peer] = self._clock.seconds()
            result["kept"].append({"peer": peer.ascii, "why": why})
        else:
            self.log.info(event="home moved", peer=peer.ascii, node=to)
            result["moved"].append({"peer": peer.ascii, "to": to})
        await paced

    async def _moved(self, peer: Domain, to: str) -> str:
        """Return why the peer did not move, or ""."""
        if not await self._homes.give_up(peer):
            return "its streams were not closed, or its stanzas not stored"
        try:
            found = await self._nodes.result(to, WORD, {"do": "take", "peer": peer.ascii}, TAKE_SECONDS)
            why = "" if found.get("taken") is True else f"node {to}: {found.get('why')}"
        except (NodeSilent, NotHome, VerbError) as error:
            why = f"node {to}: {error}"
        if not why:
            return ""
        ending = await self._homes.claim(peer)  # its stored stanzas would wait until a node looks for them
        if ending is not None and ending.cause is Cause.OTHER_NODE and await self._homes.home_node(peer) == to:
            return ""  # its answer was lost
        return why if ending is None else f"{why}; and it has not come back: {ending.detail or ending.cause.value}"


def _in_turn(takers: Mapping[str, int], most: int) -> list[str]:
    """Return the takers of the next homes, each as often as it takes one, `most` in all."""
    left, turns = dict(takers), list[str]()
    while len(turns) < most and any(left.values()):
        for node in list(left):
            if left[node] and len(turns) < most:
                left[node] -= 1
                turns.append(node)
    return turns


def _pairs(found: Mapping[str, Any], name: str, key: str) -> list[tuple[str, str]]:
    """Return (peer, the value of `key`) of the rows `name` of an answer."""
    rows = found.get(name)
    listed = rows if isinstance(rows, list) else []
    return [(str(row.get("peer")), str(row.get(key))) for row in listed if isinstance(row, dict)]


def _row(moves: Moves) -> dict[str, Any]:
    return {"from": moves.giver, "to": moves.taker, "homes": moves.homes}


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _nothing() -> None: ...


def cluster_verbs(
    parts: ClusterParts, verbs: Mapping[str, Verb], local_domains: set[Domain], slices: Slices, clock: IReactorTime,
    audit: AuditLog, live: LiveEvents,
) -> dict[str, Verb]:
    """Return the verbs of this node for its operator: `verbs` are those of this node alone. Other nodes may ask some of them."""
    nodes = EngineNodes(parts.members, parts.homes, parts.engine, clock)
    spreading = HomeSpread(nodes, parts.members, parts.homes, slices, clock, audit, parts.engine.elected)
    parts.questions.add(WORD, spreading.answer)
    parts.questions.add(EVENTS, EventAnswers(live, parts.engine, clock).answer)
    asking = {"cluster spread": spreading.verb, "watch": watch_verb(live, nodes, clock)}
    return {**node_verbs(parts, verbs, local_domains, slices, clock), **asking}
