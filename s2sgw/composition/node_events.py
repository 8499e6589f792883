"""The events of all nodes of a cluster, for `s2sgw watch` (docs/cluster.md): this node asks the others for theirs every second.

A node that is asked begins a watcher for each watch, and ends it when it is not asked for some seconds. The question is a JSON
object: {"id", "user", "peers", "after"}. The answer has "events", "missed", the number of those lost before them, "number", and
"over": the watcher had to give way to another one. "after" is the number of the last answer that came. If an answer is lost, or
comes too late, the node is asked with the same number again, and gives the same answer.
"""

from __future__ import annotations

import json
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.admin.node_verbs import LOOK_SECONDS, NodeSilent
from s2sgw.admin.server import Arguments, Feed, Verb, VerbError
from s2sgw.admin.verbs import flag_argument, peer_asked
from s2sgw.cluster.engine import ClusterEngine
from s2sgw.composition.node_questions import PAGE_BYTES, EngineNodes, read_question
from s2sgw.reporting.live_events import WAITING, LiveEvents, TooManyWatchers, Watcher
from s2sgw.xmpp.bounded_dict import BoundedDict
from s2sgw.xmpp.timer import cancel

#: The first word of the question.
WORD = b"events"
#: Seconds between two questions of a watch, and for which the watcher of one that asks no more is kept.
EACH_SECONDS, KEPT_SECONDS = 1.0, 5.0
#: Watchers that had to give way, which are remembered.
REMEMBERED = 100
#: Bytes of an answer beside its events.
_ENVELOPE = 4096

_TOO_MANY = "too many watch there already"


class _Watched:
    """The watcher of another node, and its events as JSON that did not fit into an answer yet."""

    def __init__(self) -> None:
        self.watcher: Watcher
        self.timer: IDelayedCall | None = None
        #: the last answer, and its number
        self.answer, self.number = b"", 0
        self._rows: deque[str] = deque()

    def take(self, size: int) -> tuple[list[str], int]:
        """Return events, `size` bytes of them or one, and how many were lost before them."""
        events, missed = self.watcher.take()
        self._rows.extend(map(json.dumps, events))
        while len(self._rows) > WAITING:
            self._rows.popleft()
            missed += 1
        texts: list[str] = []
        while self._rows and (not texts or len(self._rows[0]) <= size):
            texts.append(self._rows.popleft())
            size -= len(texts[-1]) + 2
        return texts, missed


class EventAnswers:
    """Answers the questions of other nodes. The watchers are among those of `live`, with the same limits."""

    def __init__(self, live: LiveEvents, engine: ClusterEngine, clock: IReactorTime) -> None:
        self._live = live
        self._engine = engine
        self._clock = clock
        self._watched: dict[str, _Watched] = {}
        self._over: BoundedDict[str, bool] = BoundedDict(REMEMBERED)

    async def answer(self, question: bytes) -> bytes:
        """Answer with the events since the last question. Errors are a part of the answer."""
        try:
            identity, user, peers, after = _read(question)
            if identity in self._over:
                return b'{"result": {"over": true}}'
            watched = self._watched.get(identity) or self._begin(identity, user, peers)
        except TooManyWatchers:
            return json.dumps({"error": _TOO_MANY, "kind": "failed"}).encode()
        except VerbError as error:
            return json.dumps({"error": str(error), "kind": error.kind}).encode()
        cancel(watched.timer)
        watched.timer = self._clock.callLater(KEPT_SECONDS, self._end, identity)
        if watched.number and after == watched.number - 1:
            return watched.answer
        texts, missed = watched.take(min(PAGE_BYTES, self._engine.max_record - _ENVELOPE))
        watched.number += 1
        words = f'"missed": {missed}, "number": {watched.number}, "events": [{", ".join(texts)}]'
        watched.answer = f'{{"result": {{{words}}}}}'.encode()
        return watched.answer

    def _begin(self, identity: str, user: str, peers: frozenset[str]) -> _Watched:
        watched = _Watched()

        def gave_way() -> None:
            self._over[identity] = True
            self._end(identity)

        watched.watcher = self._live.watch(user, peers, _nothing, gave_way)
        self._watched[identity] = watched
        return watched

    def _end(self, identity: str) -> None:
        watched = self._watched.pop(identity)
        cancel(watched.timer)
        self._live.stop(watched.watcher)


def _nothing() -> None: ...


def _read(question: bytes) -> tuple[str, str, frozenset[str], object]:
    """Return the identity of a watch, its user, its peers, and the number of the last answer. Raises `VerbError`."""
    asked = read_question(question, WORD)
    identity, user, peers = (asked.get(name) for name in ("id", "user", "peers"))
    if not (isinstance(identity, str) and isinstance(user, str) and isinstance(peers, list)):
        raise VerbError("the question has other words", "usage")
    if not all(isinstance(peer, str) for peer in peers):
        raise VerbError("peers are names", "usage")
    return identity, user, frozenset(peers), asked.get("after")


class NodesEvents:
    """The events of all nodes for one watcher, each with its node (`on`): the `EventSource` of a `Feed`."""

    log = Logger("s2sgw")

    def __init__(self, live: LiveEvents, nodes: EngineNodes, clock: IReactorTime) -> None:
        self._live = live
        self._nodes = nodes
        self._clock = clock
        self._following: Deferred[None] | None = None
        #: nodes whose silence was told, and those whose watcher had to give way
        self._silent: set[str] = set()
        self._over: set[str] = set()
        #: the number of the last answer of each node
        self._numbers: dict[str, object] = {}

    def watch(self, user: str, peers: frozenset[str], wake: Callable[[], None], end: Callable[[], None]) -> Watcher:
        """Begin. Raises `TooManyWatchers`."""
        watcher = self._live.watch(user, peers, wake, end)
        watcher.node = self._nodes.name
        asking = f"{user or 'admin socket'} of node {self._nodes.name}"
        question = {"id": secrets.token_hex(8), "user": asking, "peers": sorted(peers)}
        self._following = Deferred.fromCoroutine(self._follow(watcher, question))
        self._following.addErrback(self._failed)
        return watcher

    def stop(self, watcher: Watcher) -> None:
        """Ask no more. The other nodes end their watchers after a while."""
        self._live.stop(watcher)
        if self._following is not None:
            self._following.cancel()

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self.log.failure("the events of other nodes could not be followed", failure)

    async def _follow(self, watcher: Watcher, question: Mapping[str, Any]) -> None:
        while True:
            others = [node for node in self._nodes.others() if node not in self._over]
            self._silent.intersection_update(others)
            calls: list[Deferred[Any]] = [Deferred.fromCoroutine(self._ask(watcher, node, question)) for node in others]
            for good, result in await DeferredList(calls, consumeErrors=True):
                if not good:
                    result.raiseException()
            await deferLater(self._clock, EACH_SECONDS)

    async def _ask(self, watcher: Watcher, node: str, question: Mapping[str, Any]) -> None:
        try:
            answer = await self._nodes.result(node, WORD, {**question, "after": self._numbers.get(node, 0)}, LOOK_SECONDS)
        except (NodeSilent, VerbError) as error:
            self._tell_silent(watcher, node, str(error))
            return
        self._silent.discard(node)
        self._numbers[node] = answer.get("number")
        if answer.get("over"):
            self._over.add(node)
            self._tell_silent(watcher, node, "a newer watch has taken the place of this one there")
        missed, events = answer.get("missed"), answer.get("events")
        watcher.miss(missed if isinstance(missed, int) else 0)
        for event in events if isinstance(events, list) else ():
            if isinstance(event, dict) and "event" in event:
                watcher.put(event, node)

    def _tell_silent(self, watcher: Watcher, node: str, why: str) -> None:
        """Tell once that a node is not heard, until it is heard again."""
        if node not in self._silent:
            self._silent.add(node)
            watcher.put({"event": "node not heard", "detail": why}, node)


def watch_verb(live: LiveEvents, nodes: EngineNodes, clock: IReactorTime) -> Verb:
    """Return the verb `watch` for the events of all nodes, or with `here` of this one."""
    def watch(arguments: Arguments) -> Feed:
        here = flag_argument(arguments, "here")
        return Feed(live if here else NodesEvents(live, nodes, clock), peer_asked(arguments))

    return watch
