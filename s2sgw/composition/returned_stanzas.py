"""Errors for stanzas that this node has read, and that may enter no queue here: another node has their peer (docs/cluster.md).

A server with XEP-0198 sends such stanzas again. Other senders are told by an error for each stanza. The queue back to the sender
is on the home of the peer, so errors are given to that node. A peer without a home gets one. Stanzas that no node answers in time
are logged as lost.

The question to another node is a JSON object: {"id", "pair", "errors"}. It may come twice, and counts once.
"""

from __future__ import annotations

import json
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.cluster.door import HandOn, Placement, ServeHere
from s2sgw.cluster.engine import ClusterEngine, EngineError
from s2sgw.cluster.members import Members
from s2sgw.cluster.records import RUN_BYTES
from s2sgw.delivery.bounces import ReturnQueue
from s2sgw.ingress.homes import StanzaReturn
from s2sgw.queue.bounce import BOUNCED_AT_ONCE, bounce, may_bounce
from s2sgw.queue.entries import OVERHEAD
from s2sgw.runtime.stream_closing import wait_while
from s2sgw.xmpp.bounded_dict import BoundedDict
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, InvalidJID, Pair
from s2sgw.xmpp.stanza import Stanza

#: The first word of the question, and the answers.
WORD = b"errors"
TAKEN, NOT_TAKEN = b"taken", b"not taken"
#: Seconds in which the errors must find a node, and between two attempts.
SECONDS, AGAIN = 60.0, 1.0
#: Seconds for the answer of a node, which may have to claim the peer.
ASK_SECONDS = 10.0
#: Bytes of memory of the stanzas that wait for their errors. Stanzas beyond that are lost.
MOST_BYTES = 16 * 1024 * 1024
#: Peers whose stanzas are answered at a time.
PEERS_AT_ONCE = 16
#: Questions that are remembered, so that one that comes again makes no second errors.
REMEMBERED = 1000

_NO_NODE = "another node is the home of the peer, and no node took the errors for their sender"
_UNANSWERABLE = "another node is the home of the peer, and no error may answer them: they are answers, or expect none"
_TOO_LARGE = "another node is the home of the peer, and an error with their id and addresses is too large for the engine"
_NO_ROOM = "another node is the home of the peer, and too many stanzas wait for the errors for their senders"


class PeerHomes(Protocol):
    """The homes of peers (`cluster.homes`)."""

    async def locate(self, peer: Domain) -> Placement | Ending: ...

    async def claim(self, home: Domain) -> Ending | None: ...


class QueueSource(Protocol):
    """The delivery queues."""

    def queue(self, pair: Pair) -> ReturnQueue: ...


class _Run(NamedTuple):
    """Stanzas of a pair that wait for their errors, `size` bytes in memory, and the time until which a node is looked for."""

    pair: Pair
    stanzas: Sequence[Stanza]
    cause: Cause
    size: int
    until: float


class ReturnedStanzas(StanzaReturn):
    """Makes the errors of this node, and takes those of others. `home` returns the domain whose node has a pair."""

    log = Logger("s2sgw")

    def __init__(
        self, homes: PeerHomes, members: Members, engine: ClusterEngine, queues: QueueSource, home: Callable[[Pair], Domain],
        clock: IReactorTime,
    ) -> None:
        self._homes = homes
        self._members = members
        self._engine = engine
        self._queues = queues
        self._home = home
        self._clock = clock
        self._bytes = 0
        self._waiting: dict[Domain, deque[_Run]] = {}
        self._calls: dict[Domain, Deferred[None]] = {}
        self._places = DeferredSemaphore(PEERS_AT_ONCE)
        self._taken: BoundedDict[str, bool] = BoundedDict(REMEMBERED)
        self._stopped = False

    def give_back(self, pair: Pair, stanzas: Sequence[Stanza], cause: Cause) -> None:
        """See `StanzaReturn`."""
        until = self._clock.seconds() + SECONDS
        answerable = list(filter(may_bounce, stanzas))
        if len(answerable) < len(stanzas):
            self._lost(pair, len(stanzas) - len(answerable), _UNANSWERABLE)
        lost = 0
        for some in _runs(answerable):
            run = _Run(pair, some, cause, sum(len(each.data) + each.text_cost + OVERHEAD for each in some), until)
            if self._stopped or self._bytes + run.size > MOST_BYTES:
                lost += len(some)
            else:
                self._add(run)
        if lost:
            self._lost(pair, lost, _NO_NODE if self._stopped else _NO_ROOM)

    def _add(self, run: _Run) -> None:
        self._bytes += run.size
        peer = self._home(run.pair)
        waiting = self._waiting.get(peer)
        if waiting is None:
            waiting = self._waiting[peer] = deque()
            self._calls[peer] = call = Deferred.fromCoroutine(self._return(peer, waiting))
            call.addErrback(self._failed)
            call.addBoth(self._ended, peer)
        waiting.append(run)

    async def leave(self, seconds: float) -> None:
        """Wait until all stanzas are answered, for so many seconds at most."""
        await wait_while(self._clock, self._is_busy, seconds)

    def _is_busy(self) -> bool:
        return bool(self._waiting)

    def stop(self) -> None:
        """Do nothing more. Stanzas that still wait are logged as lost."""
        self._stopped = True
        for call in list(self._calls.values()):
            call.cancel()

    # --- the stanzas of this node ---

    async def _return(self, peer: Domain, waiting: deque[_Run]) -> None:
        await deferLater(self._clock, 0)  # a peer that is dropped in this turn has no home here in the next one
        await self._places.acquire()
        try:
            await self._return_all(peer, waiting)
        finally:
            self._places.release()

    async def _return_all(self, peer: Domain, waiting: deque[_Run]) -> None:
        reached = True  # what has waited for its turn is given to a node once at least, unless what was before it found none
        while waiting:
            run, answered = waiting[0], False
            identity = secrets.token_hex(8)
            while (reached or self._clock.seconds() < run.until) and not answered:
                reached = answered = await self._answered(peer, run, identity)
                if not answered:
                    await deferLater(self._clock, AGAIN)
            self._bytes -= waiting.popleft().size
            if not answered:
                self._lost(run.pair, len(run.stanzas), _NO_NODE)
            await deferLater(self._clock, 0)

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self.log.failure("errors could not be given to the home of a peer", failure)

    def _ended(self, _: object, peer: Domain) -> None:
        del self._calls[peer]
        for run in self._waiting.pop(peer):
            self._bytes -= run.size
            self._lost(run.pair, len(run.stanzas), _NO_NODE)

    def _lost(self, pair: Pair, number: int, why: str) -> None:
        names = {"sender": str(pair.sender), "recipient": str(pair.recipient)}
        self.log.critical(event="stanzas lost", **names, stanzas=number, written=0, detail=why)

    async def _answered(self, peer: Domain, run: _Run, identity: str) -> bool:
        """Give the errors of a run to the home of its peer. Return whether they were taken."""
        errors = _errors(run)
        found = await self._homes.locate(peer)
        if isinstance(found, ServeHere) and await self._enter(peer, run.pair, errors):
            return True
        words = {"id": identity, "pair": [domain.ascii for domain in run.pair], "errors": errors}
        question = WORD + b" " + json.dumps(words, ensure_ascii=False).encode()
        if isinstance(found, HandOn) and len(question) > self._engine.max_record:
            self._lost(run.pair, len(run.stanzas), _TOO_LARGE)
            return True
        nodes = [found.node] if isinstance(found, HandOn) else self._others() if isinstance(found, ServeHere) else []
        for node in nodes:
            try:
                if await self._engine.ask(node, question, ASK_SECONDS) == TAKEN:
                    return True
            except EngineError:
                continue  # it is asked again, or another one
        return False

    def _others(self) -> list[str]:
        """Return the other nodes that live: this one takes no peer any more."""
        return [other.node for other in self._members.others(self._clock.seconds()) if other.state == "alive"]

    async def _enter(self, peer: Domain, pair: Pair, errors: Sequence[_Row], identity: str = "") -> bool:
        """Become the home of `peer`, if this node is not, and put errors into the queue to their recipients."""
        if await self._homes.claim(peer) is not None:
            return False
        if identity not in self._taken:
            self._queues.queue(pair.inverse).accept_errors([_stanza(row) for row in errors])
        if identity:
            self._taken[identity] = True
        return True

    # --- the stanzas of other nodes ---

    async def answer(self, question: bytes) -> bytes:
        """Take the errors in the question of another node, if this one is the home of the peer, or no node is."""
        try:
            identity, pair, errors = _read(question)
        except (ValueError, TypeError, KeyError, InvalidJID, RecursionError):
            return NOT_TAKEN
        peer = self._home(pair)
        found = await self._homes.locate(peer)
        taken = isinstance(found, ServeHere) and await self._enter(peer, pair, errors, identity)
        return TAKEN if taken else NOT_TAKEN


#: The kind of an error, its bytes as text, its `to`, its `from` and its id.
_Row = tuple[Any, str, str, str, str | None]


def _runs(stanzas: Sequence[Stanza]) -> Iterator[list[Stanza]]:
    """Split stanzas into runs, whose errors are one question each."""
    run, size = list[Stanza](), 0
    for each in stanzas:
        if run and (len(run) == BOUNCED_AT_ONCE or size + len(each.data) > RUN_BYTES):
            yield run
            run, size = [], 0
        run.append(each)
        size += len(each.data)
    if run:
        yield run


def _errors(run: _Run) -> list[_Row]:
    made = ((stanza, bounce(stanza, run.cause)) for stanza in run.stanzas)
    return [(each.kind, data.decode(), each.from_, each.to, each.id) for each, data in made if data is not None]


def _stanza(row: _Row) -> Stanza:
    kind, data, to, sender, identity = row
    return Stanza(kind, data.encode(), to, sender, "error", identity)


def _read(question: bytes) -> tuple[str, Pair, list[_Row]]:
    """Return the content of a question. Raises `ValueError`, `TypeError`, `KeyError` or `InvalidJID`."""
    words: dict[str, Any] = json.loads(question.removeprefix(WORD))
    sender, recipient = words["pair"]
    rows: list[_Row] = []
    for kind, data, to, from_, identity in words["errors"]:
        are_texts = all(isinstance(each, str) for each in (data, to, from_, identity or ""))
        if kind not in ("message", "presence", "iq") or not are_texts:
            raise ValueError("an error has other attributes")
        rows.append((kind, data, to, from_, identity))
    return str(words["id"]), Pair(Domain.parse(sender), Domain.parse(recipient)), rows
