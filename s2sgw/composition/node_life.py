"""The life of a node of a cluster: it joins before any listener opens, and leaves when its peers were given up (docs/cluster.md).

The order of a start: connect to the engine, compare the settings, enlarge the streams of the engine, open the listener for nodes,
join, compare the settings again, open the doors. The order of a stop: give the peers up, leave, close the listener for nodes,
close the engine. Each step of a stop takes a bounded time.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Coroutine
from functools import partial
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as TwistedTimeout
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.cluster.engine import EngineError, EngineUnfit
from s2sgw.cluster.homes import YIELD
from s2sgw.cluster.lost_store import LostStore
from s2sgw.cluster.members import (
    LeaseOver,
    LeaseRegained,
    MemberNotice,
    MembershipLeft,
    NameTaken,
    OtherEnded,
    SessionBegan,
    SessionEnded,
    StreamsMustEnd,
)
from s2sgw.cluster.node_records import NodeSession
from s2sgw.composition.cluster import ClusterParts, listener_place
from s2sgw.composition.node_listener import NodeDoor, NodeFactory, NodeListener
from s2sgw.composition.returned_stanzas import WORD
from s2sgw.config.sections import Cluster
from s2sgw.stream.dialback import derive
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain

#: Seconds for the first contact with the engine. Then the start fails, and the service manager starts the gateway again.
OPEN_SECONDS = 60.0
#: Seconds in which peers are given up one by one. The others get a new home when this node has left.
DRAIN_SECONDS = 20.0
#: Seconds of these in which the engine may elect leaders before. An election takes 4 to 9 s.
ELECTION_SECONDS = 10.0
NO_LEADERS = "the engine has no leaders: peers are silent until it has them"
#: Seconds in which other nodes close the streams that this one has handed on to them.
DOOR_SECONDS = 10.0
#: Seconds before the engine is asked again, if it does not answer.
READ_AGAIN = 1.0
#: Seconds in which other nodes take the errors for stanzas that came during the stop.
RETURN_SECONDS = 3.0
#: Seconds in which the other nodes are told that this one leaves, and in which the engine is closed.
LEAVE_SECONDS, CLOSE_SECONDS = 5.0, 5.0


class Doors(Protocol):
    """The listeners and streams of the gateway."""

    def open_doors(self) -> None:
        """Listen for peers and servers. They may be open."""

    def close_doors(self) -> None:
        """Close the listeners for peers and servers, and abort all streams, so that they go to other nodes."""

    def give_up(self, why: str) -> None:
        """Stop the gateway, which cannot be a member any more."""


class NodePort(Protocol):
    """The listener for other nodes (`composition.node_listener`)."""

    async def open(self) -> None: ...

    def refuse(self) -> None: ...

    def close(self) -> Deferred[Any]: ...


class NodeLife:
    """Joins with the parts of this node, follows its membership, and leaves. `place` is the address of `port`."""

    log = Logger("s2sgw")

    def __init__(
        self, parts: ClusterParts, port: NodePort, door: NodeDoor, place: HostPort, doors: Doors, clock: IReactorTime,
    ) -> None:
        #: hands connections on to other nodes
        self.door = door
        self._parts = parts
        self._port = port
        self._place = place
        self._doors = doors
        self._clock = clock
        self._left: Deferred[None] = Deferred()
        self._calls: set[Deferred[None]] = set()
        self._started = self._leaving = self._admitted = False
        #: why no connections are taken; "": they are
        self.why_closed = "it has not joined the cluster yet"
        #: finds out that the engine comes back without what it had
        self.lost_store = LostStore(parts.members, parts.engine, self._store_lost, clock)
        parts.notices.observers.append(self._noticed)

    async def join(self) -> None:
        """Begin. The doors open when this node is a member. Raises `EngineError`, in words for the operator."""
        parts = self._parts
        self.log.info(event="joining", node=parts.node)
        await parts.engine.open(OPEN_SECONDS)
        await parts.settings.agree()
        if self._leaving:
            return
        await parts.engine.enlarge(OPEN_SECONDS)
        try:
            await self._port.open()
        except (CannotListenError, ValueError) as error:
            raise EngineUnfit(f"cluster.listen: {error}") from error
        parts.book.start()
        parts.questions.add(YIELD.strip(), parts.homes.answer)
        parts.questions.add(WORD, parts.returned.answer)
        parts.engine.answer(parts.node, parts.questions.answer)
        parts.homes.start()
        parts.membership.start()
        self.lost_store.start()
        self._started = True

    def _store_lost(self, what: str) -> None:
        """End: nothing that this node knows of the engine is true any more. A start makes the streams that are missing."""
        self._doors.give_up(
            f"the engine has lost {what}, so this node ends. Started again, it makes the streams that are missing and begins "
            "anew, without what waited in the engine. If the servers run with the wrong store, give them the right one before"
        )

    # --- the membership ---

    def _noticed(self, notice: MemberNotice) -> None:
        match notice:
            case SessionBegan(session):
                self._begin(partial(self._admit, session))
            case LeaseOver():
                self.why_closed = "the engine of the cluster does not answer"
                self.log.warn(event="lease over", detail="nothing is written to streams until the engine answers")
            case LeaseRegained():
                self.log.info(event="lease regained")
                self._begin(self._read_again)
            case StreamsMustEnd():
                self._close_doors("the engine did not answer in time: peers go to other nodes")
            case SessionEnded():
                self.why_closed = "other nodes have declared it dead"
                self._admitted = False
                self._close_doors("other nodes have declared this one dead: it begins anew")
            case OtherEnded(node):
                self.door.node_ended(node)
                self.log.info(event="node gone", node=node, detail="its peers get another home")
            case NameTaken(listener):
                detail = "this node waits until that one ends: give this one another cluster.node, or stop that one"
                self.log.warn(event="node name taken", node=self._parts.node, listener=listener, detail=detail)
            case MembershipLeft():
                if not self._left.called:
                    self._left.callback(None)

    async def _admit(self, session: NodeSession) -> None:
        """Open the doors, if this node fits to the others that are members now."""
        if self._parts.members.session != session or self._leaving:
            return
        try:
            await self._parts.settings.agree(session.birth)
            await self._parts.book.current()
            await self._parts.book.restore()
            self._check_place()
        except EngineUnfit as error:
            self._doors.give_up(str(error))
        else:
            await self._parts.homes.dropped()
            if self._parts.members.session == session:
                self.log.info(event="joined", node=self._parts.node, others=sorted(self._parts.members.listeners()))
                self._admitted = True
                self._open_doors()

    async def _read_again(self) -> None:
        """Open the doors when it is known here what operators have decided meanwhile."""
        if not self._leaving:
            await self._parts.book.current()
            self._open_doors()

    def _check_place(self) -> None:
        """Raise `EngineUnfit` if this node is on loopback and another one is not, or the other way round."""
        for node, listener in self._parts.members.listeners().items():
            try:
                other = HostPort.parse(listener, 0)
            except ValueError:
                continue
            if other.is_loopback != self._place.is_loopback:
                raise EngineUnfit(
                    f"cluster.listen is {self._place}, and node {node} is at {listener}: "
                    "use loopback on all nodes, which are then on one machine, or on none"
                )

    def _open_doors(self) -> None:
        if self._admitted and not self._leaving and self._parts.membership.may_write():
            self.why_closed = ""
            self._doors.open_doors()

    def _close_doors(self, detail: str) -> None:
        if not self._leaving:
            self.log.critical(event="doors closed", detail=detail)
            self.door.close()
            self._doors.close_doors()

    # --- the stop ---

    async def drain(self) -> None:
        """Give up the peers one by one: streams end in order, stanzas are spooled, and each gets its new home at once."""
        self._leaving, self.why_closed = True, "it is stopping"
        if self._started and self._parts.membership.may_write():
            await self._give_up_peers()
            await self._bounded(self.door.leave, DOOR_SECONDS, "some streams of other nodes were not closed in time")
        self._port.refuse()

    async def _give_up_peers(self) -> None:
        """Give the peers up when the streams of the engine have leaders: without one no home is released, and no node gets it.

        Until then the peers are served here.
        """
        parts, end = self._parts, self._clock.seconds() + DRAIN_SECONDS
        await self._bounded(self._elected, ELECTION_SECONDS, NO_LEADERS)
        if parts.membership.may_write():
            parts.members.drain()
            await self._bounded(parts.homes.drain, end - self._clock.seconds(), "some peers were not given up in time")

    def _elected(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._wait_for_leaders())

    async def _wait_for_leaders(self) -> None:
        if not await self._parts.engine.elected(ELECTION_SECONDS):
            self.log.warn(event="not in time", detail=NO_LEADERS)

    async def leave(self) -> None:
        """Leave the cluster, and close the listener for nodes and the engine, in this order."""
        self._leaving = True
        self.lost_store.stop()
        parts = self._parts
        if self._started:
            await parts.returned.leave(RETURN_SECONDS)
            parts.returned.stop()
            if parts.members.session is not None:
                parts.membership.leave()
                await self._bounded(self._membership_left, LEAVE_SECONDS, "the other nodes were not told that this one leaves")
            parts.homes.stop()
            parts.membership.stop()
            parts.book.stop()
        for call in list(self._calls):
            call.cancel()
        self.door.close()
        await self._bounded(self._port.close, CLOSE_SECONDS, "the listener for nodes was not closed")
        await self._bounded(self._close_engine, CLOSE_SECONDS, "the engine was not closed")
        parts.loop.close()

    def _membership_left(self) -> Deferred[None]:
        return self._left

    def _close_engine(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._parts.engine.close())

    async def _bounded(self, step: Callable[[], Deferred[Any]], seconds: float, otherwise: str) -> None:
        """Do a step of a stop, and go on after so many seconds, or if it fails."""
        await maybeDeferred(step).addTimeout(seconds, self._clock).addErrback(self._step_failed, otherwise)

    def _step_failed(self, failure: Failure, otherwise: str) -> None:
        if failure.check(TwistedTimeout) is not None:
            self.log.warn(event="not in time", detail=otherwise)
        else:
            self.log.failure("a step of leaving the cluster failed", failure)

    def _begin(self, act: Callable[[], Coroutine[Deferred[Any], Any, None]]) -> None:
        """Do `act`. After an error it is done again: otherwise the doors would stay closed until the next session."""
        running = Deferred.fromCoroutine(act())
        self._calls.add(running)
        running.addErrback(self._failed, act)
        running.addBoth(self._ended, running)

    def _ended(self, result: object, running: Deferred[None]) -> object:
        self._calls.discard(running)
        stopped = isinstance(result, Failure) and result.check(CancelledError) is not None
        return None if stopped else result

    def _failed(self, failure: Failure, act: Callable[[], Coroutine[Deferred[Any], Any, None]]) -> Deferred[None]:
        if failure.check(CancelledError) is not None:
            failure.raiseException()
        if failure.check(EngineError, OSError) is None:
            self._parts.membership.failures.note("the membership could not be followed", failure)
        return deferLater(self._clock, READ_AGAIN, self._begin, act)


class HandedOnFactories(NamedTuple):
    """Build the streams of connections that other nodes hand on: of peers, and of the server of a domain. They go no further."""

    federation: ServerFactory
    backend: Callable[[Domain], ServerFactory | None]


def build_node(
    parts: ClusterParts, cluster: Cluster, local_domains: Container[Domain], secret: bytes, handed_on: HandedOnFactories,
    doors: Doors, reactor: Any,
) -> NodeLife:
    """Build the door, the listener for nodes and the life of this node. Nothing is opened."""
    assert cluster.listen is not None
    place = listener_place(cluster.listen)
    door = NodeDoor(reactor, parts.homes, local_domains, derive(secret, "nodes"), parts.membership.may_write, place.host)
    factory = NodeFactory(handed_on.federation, handed_on.backend, cluster.members, door.headers, reactor)
    port = NodeListener(reactor, cluster.listen, factory)
    return NodeLife(parts, port, door, place, doors, reactor)
