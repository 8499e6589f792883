"""The streams and queues of each peer, as the homes of a cluster take, close and drop them (docs/cluster.md).

Positions of two homes cannot be compared. So nothing of a peer may outlast its home: neither a queue, nor an answer of the spool
that is still to come, nor a receipt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from math import inf
from typing import ParamSpec, Protocol

from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogLevel

from s2sgw.cluster.engine import EngineError, Fence, PeerLogs
from s2sgw.cluster.records import RecordError
from s2sgw.delivery.custody import STALL_SECONDS, Custody
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.ingress.pair_ingress import IngressServices
from s2sgw.net.connection import StreamConnection
from s2sgw.queue.bounce import may_bounce
from s2sgw.queue.entries import QueueItem
from s2sgw.runtime.stream_closing import ACK_SECONDS, BringingStream, close_streams, wait_while
from s2sgw.s2s.accepted_streams import AcceptedStreams
from s2sgw.s2s.initiated_streams import InitiatedStreams
from s2sgw.spool.interface import LaneSummary, SpoolError
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza

#: Seconds before operators' decisions are read again, if the engine does not answer.
READ_AGAIN = 1.0
#: Queues that follow a change of holds in one turn of the reactor.
AT_ONCE = 25

_CLOSED = Ending(Cause.CLOSED, "this node of the gateway gives the peer up")
_DROPPED = Ending(Cause.OTHER_NODE, "this node is not the home of the peer any more")
_LOST = "this node is not the home of the peer any more; no server has these stanzas, and no disk; those written may have arrived"
_UNANSWERED = (
    "this node is not the home of the peer any more, and the engine has not answered for these stanzas: if it has stored them, "
    "the next home delivers them, otherwise they are lost; those written may have arrived"
)

P = ParamSpec("P")


class PeerLanes(Protocol):
    """The spool, as to the homes of peers (`cluster.spool`)."""

    @property
    def next_position(self) -> int: ...

    def restored(self, fence: Fence, logs: PeerLogs) -> list[LaneSummary]: ...

    def release(self, peer: Domain) -> Deferred[None]: ...

    def forget(self, peer: Domain, why: str) -> None: ...


class PeerHolds(Protocol):
    """The operators' holds that all nodes share (`cluster.shared_holds`)."""

    def lanes(self, peer: Domain) -> set[Pair]: ...

    def holds(self, pair: Pair) -> bool: ...

    def positions(self, pair: Pair) -> set[int]: ...

    def ended(self, pair: Pair, positions: Collection[int]) -> None: ...

    def abandon(self, peer: Domain) -> None: ...


class QueuedPeers:
    """The `PeerCustody` of a gateway (see `cluster.homes`)."""

    log = Logger("s2sgw")

    def __init__(
        self, custody: Custody, ingress_services: IngressServices, accepted: AcceptedStreams, initiated: InitiatedStreams,
        spool: PeerLanes, holds: PeerHolds, read_book: Callable[[], Awaitable[None]],
    ) -> None:
        """Take the parts of a gateway that was built and is not open: queues and streams are listed by their homes from now on.

        `spool` and `holds` are those of `custody`. The `peer_of` of the spool must be `ingress_services.home`. Set
        `ingress_services.homes` next, so that the home of each pair is claimed before its stanzas enter a queue. `read_book`
        returns when all is known here that operators have decided (`cluster.shared_book`).
        """
        self._custody = custody
        self._queues = custody.queues
        self._clock = custody.services.clock
        self._ingress_services = ingress_services
        self._lines = ingress_services.lines
        self._accepted = accepted
        self._initiated = initiated
        self._spool = spool
        self._holds = holds
        self._read_book = read_book
        #: the peers that are being taken, or closed, each with the mark of that call; `drop` takes it away
        self._taking: dict[Domain, object] = {}
        self._closing: dict[Domain, object] = {}
        for part in (custody.queues, ingress_services.lines, accepted, initiated):
            part.index_by(ingress_services.home)

    def _is_of(self, peer: Domain, pair: Pair) -> bool:
        return self._ingress_services.home(pair) == peer

    # --- how a peer is used ---

    def in_use(self, peer: Domain) -> bool:
        """Return whether a stream of `peer` is open, or a stanza from or to it is held or waits for its admission.

        A queue that holds nothing counts until the sweep forgets it.
        """
        streams = self._accepted.of_home(peer) or self._initiated.of_home(peer)
        return bool(streams) or self._queues.has_home(peer) or bool(self._lines.of_home(peer))

    def quiet(self, peer: Domain) -> float:
        """Return for how many seconds nothing came on a stream with the peer's server. Infinite: none is open."""
        local = peer in self._ingress_services.local_domains  # a pair of two local domains has streams to backends alone
        legs = ("federation", "backend") if local else ("federation",)
        connections = [stream.connection for stream in self._accepted.of_home(peer) if stream.leg in legs]
        connections += [stream.connection for stream in self._initiated.of_home(peer) if stream.leg in legs]
        latest = max((each.last_received for each in connections if each.ending is None), default=None)
        return inf if latest is None else self._clock.seconds() - latest

    # --- taking ---

    async def take(self, fence: Fence, logs: PeerLogs) -> Ending | None:
        """Make the queues of the fence's peer behind what the engine has of them; return why that is impossible, or None.

        All that operators have decided before the claim is known by then. If the peer is dropped meanwhile, no more is done.
        """
        peer = fence.peer
        mark = self._taking[peer] = object()
        try:
            await self._book_read()
            if self._taking.get(peer) is not mark:
                return _DROPPED
        finally:
            if self._taking.get(peer) is mark:
                del self._taking[peer]
        if self._queues.quiesced:
            return Ending(Cause.SHUTDOWN)
        self._closing.pop(peer, None)
        self._queues.cut_off(peer)
        try:
            summaries = self._spool.restored(fence, logs)
        except RecordError as error:
            return Ending(Cause.SPOOL_UNREADABLE, str(error))
        self._queues.begin_behind(self._spool.next_position)
        self._end_old_holds(peer, summaries)
        self._custody.restore.restore(summaries)
        return None

    async def _book_read(self) -> None:
        while True:
            try:
                await self._read_book()
            except EngineError:
                await deferLater(self._clock, READ_AGAIN)
            else:
                return

    def holds_changed(self, peer: Domain) -> None:
        """Let the queues of `peer` follow the holds, which an operator has changed on any node."""
        if self._queues.has_home(peer):
            self._custody.services.soon(partial(self._follow_holds, self._queues.of_home(peer)))

    def _follow_holds(self, queues: list[DeliveryQueue]) -> None:
        for queue in queues[:AT_ONCE]:
            if not queue.forgotten:
                queue.follow_holds(self._holds.holds(queue.pair), self._holds.positions(queue.pair))
        if len(queues) > AT_ONCE:
            self._custody.services.soon(partial(self._follow_holds, queues[AT_ONCE:]))

    def _end_old_holds(self, peer: Domain, summaries: Iterable[LaneSummary]) -> None:
        """End the holds of single stanzas that are gone: the positions may be those of other stanzas later."""
        lanes = {summary.pair: summary for summary in summaries}
        for pair in self._holds.lanes(peer):
            lane = lanes.get(pair)
            there = range(lane.first, lane.last + 1) if lane is not None and lane.count else range(0)
            positions = self._holds.positions(pair)
            self._holds.ended(pair, {position for position in positions if position not in there})

    # --- dropping ---

    def drop(self, peer: Domain) -> None:
        """Forget the streams and queues of `peer` at once, and write nothing more: it has another home, or none.

        Nothing of it is settled or removed from the spool any more, whatever comes later.
        """
        self._taking.pop(peer, None)
        self._closing.pop(peer, None)
        self._holds.abandon(peer)
        self._guarded(self._give_back, peer)
        concerns = partial(self._is_of, peer)
        self._guarded(self._cut_off_queues, peer)
        self._guarded(self._lines.abandon, peer)
        if self._accepted.sessions.involves(peer):
            self._guarded(self._accepted.sessions.end, concerns, True)
        for accepted in list(self._accepted.of_home(peer)):
            self._guarded(accepted.abandon, concerns, _DROPPED)
        for initiated in list(self._initiated.of_home(peer)):
            if initiated.incoming is not None:
                self._guarded(initiated.incoming.abandon, concerns)
            self._guarded(initiated.connection.abort, _DROPPED)
        for closing in list(self._accepted.closing_of_home(peer)):
            self._guarded(closing.abort, _DROPPED)
        self._spool.forget(peer, _DROPPED.detail)

    def _cut_off_queues(self, peer: Domain) -> None:
        self._queues.cut_off(peer)
        self._custody.expiry.start_anew()

    def _guarded(self, step: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do one step. If it fails, the others still follow: nothing of the peer may be left behind."""
        try:
            step(*args, **kwargs)
        except Exception:
            self.log.failure("a part of a peer that has another home could not be dropped")

    def _give_back(self, peer: Domain) -> None:
        """Give back the stanzas that only this node has: no disk, and no server that would send them again.

        Those that were written, or cannot be answered, are logged, and so are those that the engine was given and has not
        answered for. After a stop all of them are logged already.
        """
        if self._custody.services.window.over:
            return
        for queue in self._queues.of_home(peer):
            items, returned = list[QueueItem](), list[Stanza]()
            for item in queue.pair_queue.only_in_memory():
                if item.spooled or item.written or not all(map(may_bounce, item.stanzas)):
                    items += [] if item.kept_upstream else [item]
                elif not item.kept_upstream:
                    returned += item.stanzas
            if returned:
                self._ingress_services.returned.give_back(queue.pair, returned, Cause.OTHER_NODE)
            for unanswered, level, event, detail in (
                (False, LogLevel.critical, "stanzas lost", _LOST), (True, LogLevel.warn, "stanzas may be stored", _UNANSWERED),
            ):
                chosen = [item for item in items if item.spooled is unanswered]
                if chosen:
                    names = {"sender": str(queue.pair.sender), "recipient": str(queue.pair.recipient)}
                    stanzas = sum(len(item.stanzas) for item in chosen)
                    written = sum(len(item.stanzas) for item in chosen if item.written)
                    self.log.emit(level, event=event, **names, stanzas=stanzas, written=written, detail=detail)

    # --- closing ---

    async def close(self, peer: Domain) -> bool:
        """Close the streams of `peer` in order, and spool its stanzas; return whether all of them are safe in the engine.

        If not, its queues deliver again by new streams, and the peer stays here. If it is dropped meanwhile, no more is done.
        """
        mark = self._closing[peer] = object()
        try:
            return await self._close(peer, mark)
        except CancelledError:
            raise
        except Exception:  # the peer stays here, and its queues may have been stopped
            if self._closing.get(peer) is mark:
                self._serve_again(peer)
            raise
        finally:
            if self._closing.get(peer) is mark:
                del self._closing[peer]

    async def _close(self, peer: Domain, mark: object) -> bool:
        for step in (self._close_bringing_streams, self._close_own_streams, self._spool_rest):
            await step(peer)
            if self._closing.get(peer) is not mark:
                return False
        safe = not any(map(_is_unsafe, self._queues.of_home(peer)))
        if safe:
            try:
                await self._spool.release(peer)
            except SpoolError:
                safe = False
        if self._closing.get(peer) is not mark:
            return False
        if safe:
            self._give_back(peer)
            self._cut_off_queues(peer)
            for stream in list(self._initiated.of_home(peer)):
                stream.connection.abort(_CLOSED)
        else:
            self._serve_again(peer)
        return safe

    async def _close_bringing_streams(self, peer: Domain) -> None:
        """Write nothing more, let what is in flight be acknowledged, and close the streams that bring stanzas.

        Stanzas of streams that come meanwhile wait for their admission.
        """
        for queue in self._queues.of_home(peer):
            queue.quiesce()
        await wait_while(self._clock, partial(self._awaits_acks, peer), ACK_SECONDS)
        streams = [BringingStream(stream.connection, stream.engine) for stream in self._accepted.of_home(peer)]
        streams += [
            BringingStream(stream.connection, stream.engine) for stream in self._initiated.of_home(peer)
            if stream.incoming is not None
        ]
        await close_streams(self._clock, partial(self._is_passing, peer), streams, _CLOSED)

    def _awaits_acks(self, peer: Domain) -> bool:
        return any(queue.next_hop.ready and queue.pair_queue.in_flight for queue in self._queues.of_home(peer))

    def _is_passing(self, peer: Domain) -> bool:
        """Return whether stanzas of the peer that were read and admitted are still on their way to their queues."""
        return any(waiting.passes for waiting in self._lines.of_home(peer))

    async def _close_own_streams(self, peer: Domain) -> None:
        """Close the streams to the peer, and those to backends for it."""
        self._accepted.sessions.end(partial(self._is_of, peer), abandoned=False)
        closed = [maybeDeferred(queue.next_hop.stop, Cause.CLOSED) for queue in self._queues.of_home(peer)]
        connections: list[StreamConnection] = [stream.connection for stream in self._initiated.of_home(peer)]
        for connection in connections:
            connection.close(_CLOSED)
            closed.append(connection.when_closed())
        await DeferredList(closed, consumeErrors=True)

    async def _spool_rest(self, peer: Domain) -> None:
        """Give the spool everything that is in memory alone, and wait for its answer. What was written is marked as that.

        It stays in flight until then: if the peer is kept, requests among it are in doubt, and are not sent again (R33).
        """
        for queue in self._queues.of_home(peer):
            queue.hand_to_spool()
        await wait_while(self._clock, partial(self._is_spooling, peer), STALL_SECONDS)

    def _is_spooling(self, peer: Domain) -> bool:
        queues = self._queues.of_home(peer)
        return any(map(_is_unsafe, queues)) and not any(queue.overflow.active for queue in queues)

    def _serve_again(self, peer: Domain) -> None:
        """Deliver again: the peer stays here."""
        self.log.warn(event="peer kept", peer=str(peer), detail="its stanzas could not be stored, so no other node gets it now")
        for queue in self._queues.of_home(peer):
            queue.quiesced = self._queues.quiesced
            self._queues.change_next_hop(queue)


def _is_unsafe(queue: DeliveryQueue) -> bool:
    """Return whether some stanza of the queue is not on the disk, or that is not known yet."""
    return queue.spooling or queue.pair_queue.unsaved > 0
