"""The verbs that nodes of a cluster ask of each other, as questions through the engine (docs/cluster.md).

Imported only with the section `[cluster]`. Every user of the engine can ask, and is trusted as the stanzas in it are
(docs/security.md). A question is a JSON object: {"verb", "arguments", "seconds", "session"}, or {"next"} for more rows of an
answer. The answer to it has "result", or "rows" and "next", or "error" and "kind".

A question is to one session of the asked node, and the node that asks waits no longer than that session. So a node that was
stopped, and reads a question after it was declared dead, changes nothing. It knows that by its lease, before it has heard of its
end. The clocks of machines differ, so no time is compared.
"""

from __future__ import annotations

import json
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TwistedTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from s2sgw.admin.node_verbs import (
    ASKABLE,
    TABLES,
    ClusterVerbs,
    NodeEnded,
    NodeRows,
    NodeSilent,
    NodeUnreached,
    NotHome,
    peer_of,
    table_rows,
)
from s2sgw.admin.server import BY, Rows, Verb, VerbError, called
from s2sgw.admin.verb_table import TABLE
from s2sgw.cluster.door import HandOn
from s2sgw.cluster.engine import ClusterEngine, EngineError, NoReceiver
from s2sgw.cluster.homes import ClusterHomes
from s2sgw.cluster.members import Members
from s2sgw.composition.cluster import ClusterParts
from s2sgw.ingress.homes import home_of
from s2sgw.net.slices import SlicedWork, Slices
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.timer import cancel

#: The first word of these questions.
WORD = b"verb"
#: Bytes of the rows in one answer.
PAGE_BYTES = 128 * 1024
#: Questions that a node answers at a time. It refuses others in words.
AT_ONCE = 8
#: Answers of which more rows may be asked for, and seconds for which they are kept. The oldest gives way.
OPEN, OPEN_SECONDS = 8, 5.0
#: Seconds for all parts of the rows of one node.
ROWS_SECONDS = 20.0
#: Seconds between two looks at what ends a wait: the node that was asked is declared dead, or the engine does not answer.
LOOK = 0.25
#: Seconds after which the engine does not answer, if it has acknowledged no heartbeat for `STALE_SECONDS`.
ENGINE_SECONDS, STALE_SECONDS = 10.0, 5.0
#: The same for a question that changes nothing, with `LATE_SECONDS`.
LOOK_ENGINE_SECONDS = 1.5
#: Seconds without an acknowledged heartbeat, of which there are two in a second, after which the engine counts as late.
LATE_SECONDS = 1.5
#: Bytes of an answer beside its rows.
_ENVELOPE = 4096

_Found = TypeVar("_Found")

_NO_ENGINE = "the engine does not answer"
_OTHER_RELEASE = "its answer is that of another release"


class _OpenRows:
    """An answer of which more rows may be asked for."""

    def __init__(self, rows: Iterator[Any]) -> None:
        self.rows = rows
        self.timer: Any = None


class VerbAnswers:
    """Answers the verbs that other nodes ask of this one. `verbs` are those of this node alone."""

    log = Logger("s2sgw")

    def __init__(
        self, verbs: Mapping[str, Verb], members: Members, homes: ClusterHomes, engine: ClusterEngine, local_domains: set[Domain],
        slices: Slices, clock: IReactorTime,
    ) -> None:
        self._verbs = verbs
        self._members = members
        self._homes = homes
        self._engine = engine
        self._local_domains = local_domains
        self._slices = slices
        self._clock = clock
        self._answering = 0
        self._open: OrderedDict[str, _OpenRows] = OrderedDict()

    async def answer(self, question: bytes) -> bytes:
        """Answer a question. Errors are a part of the answer."""
        if self._answering >= AT_ONCE:
            return _error("it answers other nodes already; try again", "failed")
        self._answering += 1
        try:
            return await self._answered(read_question(question))
        except VerbError as error:
            return _error(str(error), error.kind)
        except NotHome:
            return _error("it is not the home of the peer", "moved")
        except (CancelledError, TwistedTimeout):
            return _error("it could not answer in time", "failed")
        except Exception:
            self.log.failure("a question of another node failed")
            return _error("it could not answer; its log says why", "failed")
        finally:
            self._answering -= 1

    async def _answered(self, asked: dict[str, Any]) -> bytes:
        token = asked.get("next")
        if token is not None:
            opened = self._open.pop(token, None) if isinstance(token, str) else None
            if opened is None:
                raise VerbError("its rows were given up, because more was asked meanwhile")
            cancel(opened.timer)
            return await self._page(opened)
        verb, arguments = self._checked(asked)
        result = called(self._verbs[verb], arguments)
        if isinstance(result, Deferred):
            if not TABLE[verb].changes:  # the node that asked waits no longer
                result.addTimeout(_seconds(asked), self._clock)
            result = await result
        if isinstance(result, Rows):
            return await self._page(_OpenRows(result.steps()))
        if verb in TABLES:  # the node that asks needs the rows of the table alone
            result = table_rows(verb, result)
        if isinstance(result, list):
            return await self._page(_OpenRows(iter(result)))
        answer = json.dumps({"result": result}).encode()
        if len(answer) > self._engine.max_record:
            raise VerbError("its answer is too large; ask it alone (--here), or for less")
        return answer

    def _checked(self, asked: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the verb and its arguments. Raises `VerbError`, or `NotHome`."""
        verb, arguments = asked.get("verb"), asked.get("arguments")
        if verb not in ASKABLE or verb not in self._verbs or not isinstance(arguments, dict):
            raise VerbError(f"a node does not answer {str(verb)[:40]!r} to others", "usage")
        allowed = {each.name for each in TABLE[verb].parameters if each.kind != "path"} | {BY}
        if not set(arguments) <= allowed or not isinstance(arguments.get(BY, ""), str):
            raise VerbError(f"{verb} has other arguments here", "usage")
        peer = peer_of(verb, arguments, self._home)
        if peer is not None and not self._homes.table.open(peer):
            raise NotHome
        if TABLE[verb].changes and not self._in_time(asked.get("session")):
            if peer is not None:
                raise NotHome
            raise VerbError("nothing was done: it was silent, or declared dead, when it read the question")
        return verb, arguments

    def _in_time(self, asked: object) -> bool:
        """Return whether this node has a lease in the session that was asked. A node of an older release names none."""
        session = self._members.session
        current = session is not None and asked in (None, session.identity)
        return current and self._members.may_write(self._clock.seconds())

    def _home(self, pair: Pair) -> Domain:
        return home_of(pair, self._local_domains)

    async def _page(self, opened: _OpenRows) -> bytes:
        size = min(PAGE_BYTES, max(self._engine.max_record - _ENVELOPE, 0))
        texts, more = await self._slices.run(_taken(opened.rows, size))
        token = self._keep(opened) if more else None
        return f'{{"next": {json.dumps(token)}, "rows": [{", ".join(texts)}]}}'.encode()

    def _keep(self, opened: _OpenRows) -> str:
        """Keep the rest of an answer for a while; return the word by which it is asked for."""
        token = secrets.token_hex(8)
        self._open[token] = opened
        opened.timer = self._clock.callLater(OPEN_SECONDS, self._open.pop, token, None)
        if len(self._open) > OPEN:
            _, oldest = self._open.popitem(last=False)
            cancel(oldest.timer)
        return token


def _taken(rows: Iterator[Any], size: int) -> SlicedWork[tuple[list[str], bool]]:
    """Return the work of taking rows as JSON, about `size` bytes of them; and whether there are more."""
    texts: list[str] = []
    for row in rows:
        if row is not None:
            texts.append(json.dumps(row))
            size -= len(texts[-1]) + 2
            if size <= 0:
                return texts, True
        yield None
    return texts, False


def read_question(question: bytes, word: bytes = WORD) -> dict[str, Any]:
    """Return the object behind the first word of a question. Raises `VerbError` if there is none."""
    try:
        asked = json.loads(question.removeprefix(word))
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise VerbError("the question is no JSON object", "usage")
    return asked


def _seconds(asked: Mapping[str, Any]) -> float:
    seconds = asked.get("seconds")
    return min(float(seconds), ROWS_SECONDS) if isinstance(seconds, int | float) and seconds > 0 else 1.0


def _error(text: str, kind: str) -> bytes:
    return json.dumps({"error": text, "kind": kind}).encode()


class EngineNodes:
    """The `Nodes` of `admin.node_verbs`: asks the other nodes through the engine."""

    def __init__(self, members: Members, homes: ClusterHomes, engine: ClusterEngine, clock: IReactorTime) -> None:
        self._members = members
        self._homes = homes
        self._engine = engine
        self._clock = clock

    @property
    def name(self) -> str:
        """Return the name of this node."""
        return self._members.node

    def others(self) -> list[str]:
        """Return the names of the other nodes that were not declared dead."""
        return [other.node for other in self._members.others(self._clock.seconds())]

    async def rows(self, node: str, verb: str, arguments: Mapping[str, Any], seconds: float, at_most: int) -> NodeRows:
        """See `admin.node_verbs.Nodes`."""
        end = self._clock.seconds() + ROWS_SECONDS
        found: list[Any] = []
        question: dict[str, Any] = {"verb": verb, "arguments": arguments, "seconds": seconds}
        while True:
            answer, size = await self._asked(node, question, seconds)
            rows, token = answer.get("rows"), answer.get("next")
            if not isinstance(rows, list) or not all(isinstance(row, dict | str) for row in rows):
                raise NodeSilent(_OTHER_RELEASE)
            found += rows
            at_most -= size
            if token is None:
                return NodeRows(found, False)
            if at_most <= 0 or self._clock.seconds() >= end:
                return NodeRows(found, True)
            question = {"next": token}

    async def ask(self, node: str, verb: str, arguments: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """See `admin.node_verbs.Nodes`."""
        return await self.result(node, WORD, {"verb": verb, "arguments": arguments, "seconds": seconds}, seconds)

    async def result(self, node: str, word: bytes, question: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Return the answer of another node to a question of any kind. Raises as `ask` does."""
        answer, _ = await self._asked(node, question, seconds, word)
        result = answer.get("result")
        if not isinstance(result, dict):
            raise NodeSilent(_OTHER_RELEASE)
        return result

    async def _asked(
        self, node: str, question: Mapping[str, Any], seconds: float, word: bytes = WORD,
    ) -> tuple[dict[str, Any], int]:
        """Return the answer to a question, and its size."""
        session = self._members.session_of(node)
        if word == WORD and session is not None:
            question = {**question, "session": session.identity}
        data = word + b" " + json.dumps(question).encode()
        asked = Deferred.fromCoroutine(self._engine.ask(node, data, seconds + 1.0))
        asked.addTimeout(seconds, self._clock)
        began, verb = self._clock.seconds(), str(question.get("verb"))
        looks = word == WORD and not (verb in TABLE and TABLE[verb].changes)

        def why() -> NodeSilent | None:
            now = self._clock.seconds()
            if session is not None and self._members.state_of(session, now) == "over":
                return NodeEnded("it was declared dead")
            return NodeSilent(_NO_ENGINE) if self._engine_away(began, looks) else None

        try:
            found = await self._until(asked, why)
            answer = json.loads(found)
        except TwistedTimeout:
            raise NodeSilent(f"no answer within {seconds:g} s{self._heartbeats()}") from None
        except NoReceiver as error:
            raise NodeUnreached(str(error)) from None
        except EngineError as error:
            raise NodeSilent(str(error)) from None
        except (ValueError, RecursionError):
            raise NodeSilent(_OTHER_RELEASE) from None
        if not isinstance(answer, dict):
            raise NodeSilent(_OTHER_RELEASE)
        if answer.get("kind") == "moved":
            raise NotHome("it is not the home of the peer")
        if "error" in answer:
            raise VerbError(str(answer["error"]), "usage" if answer.get("kind") == "usage" else "failed")
        return answer, len(found)

    def _heartbeats(self) -> str:
        """Return words for the operator if the engine acknowledges no heartbeats of this node."""
        age = self._clock.seconds() - self._members.heartbeat_at
        return f"; {_NO_ENGINE} this node either" if age >= LATE_SECONDS else ""

    async def home(self, peer: Domain, claim: bool) -> str:
        """See `admin.node_verbs.Nodes`. It takes as long as a silent home is not declared dead."""
        if self._homes.table.open(peer):
            return self.name
        began = self._clock.seconds()

        def why() -> VerbError | None:
            return VerbError(f"nothing was done: {_NO_ENGINE}") if self._engine_away(began, looks=not claim) else None

        return await self._until(Deferred.fromCoroutine(self._home(peer, claim)), why)

    async def _home(self, peer: Domain, claim: bool) -> str:
        found = await self._homes.locate(peer)
        if isinstance(found, Ending):
            if found.cause is Cause.INTERNAL and not found.detail:  # the look-up was cut off
                raise VerbError(f"nothing was done: {_NO_ENGINE}, or this node ends: its log says why")
            raise VerbError(f"nothing was done: the home of {peer} is not known: {found.detail or found.cause.value}")
        if isinstance(found, HandOn):
            return found.node
        if claim:
            ending = await self._homes.claim(peer)
            if ending is not None and ending.cause is Cause.OTHER_NODE:
                raise NotHome
            if ending is not None:
                raise VerbError(f"nothing was done: no node can be the home of {peer}: {ending.detail or ending.cause.value}")
        return self.name

    def pause(self) -> Deferred[None]:
        """See `admin.node_verbs.Nodes`."""
        return deferLater(self._clock, LOOK)

    def _engine_away(self, began: float, looks: bool) -> bool:
        """Return whether the engine does not answer this node, which has waited since `began`. A look waits less."""
        now = self._clock.seconds()
        wait, age = (LOOK_ENGINE_SECONDS, LATE_SECONDS) if looks else (ENGINE_SECONDS, STALE_SECONDS)
        return now - began >= wait and now - self._members.heartbeat_at >= age

    async def _until(self, call: Deferred[_Found], why: Callable[[], Exception | None]) -> _Found:
        """Wait for a call. It is given up, with this error, as soon as `why` returns one."""
        ended: list[Exception] = []

        def look() -> None:
            error = why()
            if error is not None and not ended:
                ended.append(error)
                call.cancel()

        looks = LoopingCall(look)
        looks.clock = self._clock
        looks.start(LOOK, now=False)
        try:
            return await call
        except CancelledError:
            if ended:
                raise ended[0] from None
            raise
        finally:
            looks.stop()


def node_verbs(
    parts: ClusterParts, verbs: Mapping[str, Verb], local_domains: set[Domain], slices: Slices, clock: IReactorTime,
) -> dict[str, Verb]:
    """Return the verbs of this node for its operator: `verbs` are those of this node alone. Other nodes may ask some of them."""
    answers = VerbAnswers(verbs, parts.members, parts.homes, parts.engine, local_domains, slices, clock)
    parts.questions.add(WORD, answers.answer)
    nodes = EngineNodes(parts.members, parts.homes, parts.engine, clock)
    return ClusterVerbs(verbs, nodes, partial(home_of, local_domains=local_domains), slices).verbs()
