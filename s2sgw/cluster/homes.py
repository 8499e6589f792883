"""The homes of peers on an engine: performs what `HomeTable` decides, and answers nodes that ask for a peer (docs/cluster.md)."""

from __future__ import annotations

from collections.abc import Coroutine
from math import inf
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from s2sgw.cluster.door import AskAgain, NodeView, Placement, ServeHere, place
from s2sgw.cluster.engine import ClusterEngine, EngineError, Fence, PeerLogs
from s2sgw.cluster.failures import Failures
from s2sgw.cluster.home_table import (
    PATIENCE,
    RECHECK,
    Admit,
    AnswerYield,
    AskToYield,
    ClaimHome,
    ClosePeer,
    DropPeer,
    HomeCall,
    HomeEffect,
    HomesReleased,
    HomeTable,
    ListPeers,
    ReadHome,
    ReleaseHome,
    TakePeer,
    Waiter,
)
from s2sgw.cluster.members import MemberNotice, OtherEnded, SessionBegan, SessionEnded
from s2sgw.cluster.node_records import HomeRecord, UnreadableRecord
from s2sgw.cluster.old_homes import OldHomes
from s2sgw.ingress.homes import Homes
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, InvalidJID
from s2sgw.xmpp.timer import cancel

#: Seconds between two looks at what is due.
TICK = 0.25
#: The question of a node that wants a peer: this, and the domain. The answer is `YIELDED` or `KEPT`.
YIELD = b"yield "
YIELDED, KEPT = b"yielded", b"kept"


class PeerCustody(Protocol):
    """The streams and queues of peers on this node."""

    def in_use(self, peer: Domain) -> bool:
        """Return whether a stream of `peer` is open, or a stanza from or to it is held."""

    def quiet(self, peer: Domain) -> float:
        """Return for how many seconds no stream of `peer` has given a sign of life. Infinite: none is open."""

    async def take(self, fence: Fence, logs: PeerLogs) -> Ending | None:
        """Restore the queues of the fence's peer, before its stanzas are admitted; return why that is impossible, or None."""

    async def close(self, peer: Domain) -> bool:
        """Close the streams of `peer` in order, and spool its stanzas; return whether all of them are safe in the engine.

        If not, the peer stays here.
        """

    def drop(self, peer: Domain) -> None:
        """Forget the streams and queues of `peer` at once, and write nothing more: it has another home, or none."""


class _Asked(Waiter):
    """An admission that waits, or a node that waits for a peer."""

    def __init__(self) -> None:
        self.answer: Deferred[Any] = Deferred()

    def give(self, answer: Ending | bool | None) -> None:
        if not self.answer.called:
            self.answer.callback(answer)


def _nothing() -> None: ...


class ClusterHomes(Homes):
    """The `Homes` of a node of a cluster. Give it the notices of the membership by `noticed`, before all others get them."""

    log = Logger("s2sgw")

    def __init__(
        self, table: HomeTable, nodes: NodeView, engine: ClusterEngine, custody: PeerCustody, clock: IReactorTime,
    ) -> None:
        self.table = table
        self.failures = Failures()
        self.old_homes = OldHomes(table.node, engine, nodes, clock, self.failures)
        #: whether peers of a session that has ended are still to be dropped. Nothing may be written before
        self.dropping = False
        self._dropped: list[Deferred[None]] = []
        self._work: IDelayedCall | None = None
        self._nodes = nodes
        self._engine = engine
        self._custody = custody
        self._clock = clock
        self._performing = self._stopped = False
        self._drained: Deferred[None] | None = None
        #: the connections that wait for a look-up of their peer's home
        self._locating: dict[Domain, list[Deferred[Placement | Ending]]] = {}
        self._calls: set[Deferred[None]] = set()
        self._loop = LoopingCall(self._tick)
        self._loop.clock = clock

    def start(self) -> None:
        """Begin to look at what is due."""
        self._loop.start(TICK, now=False)
        self.old_homes.start()

    def stop(self) -> None:
        """Do nothing more. Nothing is released."""
        self._stopped = True
        self.old_homes.stop()
        cancel(self._work)
        self._work = None
        if self._loop.running:
            self._loop.stop()
        for call in list(self._calls):
            call.cancel()

    # --- what the gateway asks ---

    async def claim(self, home: Domain) -> Ending | None:
        """Make this node the owner of every pair of `home`; return why stanzas may not enter here, or None.

        It takes as long as another node is silent and not yet declared dead, `home_table.PATIENCE` at most.
        """
        if self.table.open(home):
            return None
        asked = _Asked()
        self.table.asked(home, asked, self._clock.seconds())
        self._perform()
        ending: Ending | None = await asked.answer
        return ending

    async def locate(self, peer: Domain) -> Placement | Ending:
        """Return where a new connection of `peer` goes, and claim nothing. A silent home is waited for; an `Ending`: in vain.

        All connections of one peer that wait share one look-up.
        """
        answer: Deferred[Placement | Ending] = Deferred()
        waiting = self._locating.get(peer)
        if waiting is not None:
            waiting.append(answer)
        else:
            self._locating[peer] = [answer]
            self._begin(self._look_up(peer))
        return await answer

    async def _look_up(self, peer: Domain) -> None:
        """Look for the home of `peer`, for all that wait. One of them that waits no more does not end it."""
        found: Placement | Ending = Ending(Cause.INTERNAL)
        try:
            found = await self._located(peer)
        finally:
            for each in self._locating.pop(peer):
                if not each.called:
                    each.callback(found)

    async def _located(self, peer: Domain) -> Placement | Ending:
        end = self._clock.seconds() + PATIENCE
        while True:
            found = await self._place(peer)
            if not isinstance(found, AskAgain):
                return found
            if self._clock.seconds() >= end:
                return Ending(Cause.NO_NODE)
            await deferLater(self._clock, RECHECK, _nothing)

    async def _place(self, peer: Domain) -> Placement | Ending:
        if not self._nodes.may_write(self._clock.seconds()):
            return AskAgain()
        if self.table.owns(peer):
            return ServeHere()
        try:
            stored = await self._engine.home(peer)
            owner = None if stored is None else HomeRecord.decode(stored.data).owner
        except EngineError:
            return AskAgain()
        except UnreadableRecord as error:
            return Ending(Cause.INTERNAL, f"the home record of the peer: {error}")
        return place(owner, self._nodes, self._clock.seconds())

    def quiet(self, peer: Domain) -> float:
        """Return for how many seconds no stream of `peer` has given a sign of life here. Infinite: none is open."""
        return self._custody.quiet(peer)

    async def give_up(self, peer: Domain) -> bool:
        """Give up a peer of this node in order, whether it is quiet or not; return whether its home is released."""
        if not self.table.open(peer):
            return False
        asked = _Asked()
        self.table.yield_asked(peer, asked, inf, self._clock.seconds())
        self._perform()
        return bool(await asked.answer)

    async def home_node(self, peer: Domain) -> str | None:
        """Return the living node that is the home of `peer`; None: it has none, or that is not known now."""
        if self.table.owns(peer):
            return self.table.node
        try:
            stored = await self._engine.home(peer)
            owner = None if stored is None else HomeRecord.decode(stored.data).owner
        except (EngineError, UnreadableRecord):
            return None
        state = "over" if owner is None else self._nodes.state_of(owner, self._clock.seconds())
        return owner.node if owner is not None and state in ("alive", "own") else None

    def drain(self) -> Deferred[None]:
        """Give up every peer, and take no other. Fires when this node owns none."""
        if self._drained is None:
            self._drained = Deferred()
            self.table.drain(self._clock.seconds())
            self._perform()
        return self._drained

    def lost(self, peer: Domain) -> None:
        """The engine has refused a write of `peer`, because another node is its home."""
        self.table.lost(peer, self._clock.seconds())
        self._perform()

    # --- what nodes tell ---

    def noticed(self, notice: MemberNotice) -> None:
        """Take a notice of the membership. When a session has ended, its peers are dropped, some in each turn (`dropping`)."""
        now = self._clock.seconds()
        match notice:
            case SessionBegan(session):
                self.table.session_began(session, now)
            case SessionEnded():
                self.dropping = True
                self.table.session_ended(now)
            case OtherEnded():
                self.table.other_ended(now)
        self._perform()

    async def answer(self, question: bytes) -> bytes:
        """Answer the question of another node that wants a peer."""
        try:
            peer = Domain.parse(question.removeprefix(YIELD).decode())
        except (UnicodeDecodeError, InvalidJID):
            return KEPT
        asked = _Asked()
        self.table.yield_asked(peer, asked, self._custody.quiet(peer), self._clock.seconds())
        self._perform()
        return YIELDED if await asked.answer else KEPT

    def dropped(self) -> Deferred[None]:
        """Wait until no peers of a session that has ended are left."""
        dropped: Deferred[None] = Deferred()
        if self.dropping:
            self._dropped.append(dropped)
        else:
            dropped.callback(None)
        return dropped

    # --- effects ---

    def _do_work(self) -> None:
        self._work = None
        try:
            self.table.work(self._clock.seconds())
        except Exception:
            self.failures.note("a part of the homes of peers could not be looked at")
        self._perform()

    def _tick(self) -> None:
        try:
            self.table.tick(self._clock.seconds(), self._custody.in_use)
        except Exception:
            self.failures.note("the homes of peers could not be looked at")
        self._perform()

    def _perform(self) -> None:
        """Perform what is wanted, in order. What an answer wants meanwhile is performed behind it."""
        if self._performing:
            return
        self._performing = True
        try:
            while effects := self.table.effects():
                for effect in effects:
                    self._perform_one(effect)
        finally:
            self._performing = False
            self._go_on()

    def _go_on(self) -> None:
        """Do what is left in the next turn, and tell that all peers were dropped."""
        if self.table.has_work and self._work is None and not self._stopped:
            self._work = self._clock.callLater(0, self._do_work)
        if self.dropping and not self.table.dropping:
            self.dropping = False
            dropped, self._dropped = self._dropped, []
            for each in dropped:
                each.callback(None)

    def _perform_one(self, effect: HomeEffect) -> None:
        match effect:
            case ReadHome():
                self._begin(self._read_home(effect))
            case ClaimHome():
                self._begin(self._claim_home(effect))
            case ReleaseHome():
                self._begin(self._release_home(effect))
            case AskToYield():
                self._begin(self._ask_to_yield(effect))
            case TakePeer():
                self._begin(self._take_peer(effect))
            case ClosePeer():
                self._begin(self._close_peer(effect))
            case ListPeers():
                self._begin(self._list_peers(effect))
            case _:
                self._tell(effect)

    def _tell(self, effect: DropPeer | Admit | AnswerYield | HomesReleased) -> None:
        try:
            match effect:
                case DropPeer(peer):
                    self._custody.drop(peer)
                case Admit(_Asked() as asked, ending):
                    asked.give(ending)
                case AnswerYield(_Asked() as asked, yielded):
                    asked.give(yielded)
                case HomesReleased():
                    self._drained, done = succeed(None), self._drained
                    if done is not None:
                        done.callback(None)
        except Exception:
            self.log.failure("a change of the home of a peer could not be followed: {effect}", effect=effect)

    def _begin(self, call: Coroutine[Deferred[Any], Any, None]) -> None:
        running = Deferred.fromCoroutine(call)
        self._calls.add(running)
        running.addErrback(self._failed)
        running.addBoth(self._ended, running)

    def _failed(self, failure: Any) -> None:
        if failure.check(CancelledError) is None:
            self.log.failure("a call for the home of a peer failed", failure)

    def _ended(self, _: object, running: Deferred[None]) -> None:
        self._calls.discard(running)
        self._perform()

    async def _read_home(self, call: ReadHome) -> None:
        try:
            stored = await self._engine.home(call.peer)
        except Exception as error:
            self.table.failed(call, self._error(call, error), self._clock.seconds())
        else:
            self.table.home_read(call, stored, self._clock.seconds())

    async def _claim_home(self, call: ClaimHome) -> None:
        try:
            fence, logs = await self._engine.claim(call.peer, call.data, call.expected)
        except Exception as error:
            self.table.failed(call, self._error(call, error), self._clock.seconds())
        else:
            self.table.claimed(call, fence, logs, self._clock.seconds())

    async def _release_home(self, call: ReleaseHome) -> None:
        try:
            await self._engine.claim(call.peer, call.data, call.expected)
        except Exception as error:
            self.table.failed(call, self._error(call, error), self._clock.seconds())
        else:
            self.table.released(call, self._clock.seconds())

    async def _ask_to_yield(self, call: AskToYield) -> None:
        try:
            yielded = await self._engine.ask(call.home.node, YIELD + call.peer.ascii.encode()) == YIELDED
        except Exception as error:
            self._error(call, error)
            self.table.yield_answered(call, None, self._clock.seconds())
        else:
            self.table.yield_answered(call, yielded, self._clock.seconds())

    async def _take_peer(self, call: TakePeer) -> None:
        try:
            ending = await self._custody.take(call.fence, call.logs)
        except Exception as error:
            if self._is_stop(error):
                raise
            self.log.failure("the queues of {peer} could not be restored", peer=call.peer)
            self._tell(DropPeer(call.peer))  # some may be there, and would deliver without a home
            ending = Ending(Cause.INTERNAL)
        self.table.taken(call, ending, self._clock.seconds())

    async def _close_peer(self, call: ClosePeer) -> None:
        try:
            safe = await self._custody.close(call.peer)
        except Exception as error:
            if self._is_stop(error):
                raise
            self.log.failure("the streams of {peer} could not be closed", peer=call.peer)
            safe = False
        self.table.closed(call, safe, self._clock.seconds())

    def _error(self, call: HomeCall, error: Exception) -> EngineError:
        """Return the error of a call to the engine. An unexpected one is noted, and the call is made again."""
        if isinstance(error, EngineError):
            return error
        if self._is_stop(error):
            raise error
        self.failures.note(f"a call to the engine of the cluster failed ({type(call).__name__})")
        return EngineError(f"{type(error).__name__}: {error}")

    def _is_stop(self, error: Exception) -> bool:
        """Return whether the error is that of a call that `stop` has cancelled."""
        return self._stopped and isinstance(error, CancelledError)

    async def _list_peers(self, call: ListPeers) -> None:
        try:
            peers = await self._engine.held_peers()
        except Exception as error:
            self._error(call, error)
            self.table.peers_listed(call, None, self._clock.seconds())
        else:
            self.table.peers_listed(call, peers, self._clock.seconds())
