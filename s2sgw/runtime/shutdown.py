"""The end in order: nothing new is let in, what can be handed on is, the rest is left to the spool.

What is in flight comes to its end first, while the streams towards us are open: a next server without XEP-0198 answers our
ping (R41) on one of those. Then each of them is told that we close. One with XEP-0198 is read no more, and is closed when all
that was read is acknowledged: the other side sends the rest again. The others are heard out up to their own closing tags, so
that not even a server that acknowledges nothing loses what it had sent by then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.net.connection import StreamConnection
from s2sgw.stream.management import Managed
from s2sgw.xmpp.ending import Cause, Ending

#: Seconds in which what is in flight may be acknowledged, the others may say their closing tags, what was read may be admitted
#: to its lane (a resolution has its own bound, and this is the same), and the next servers may still take what waits.
SETTLE = 3.0
HEAR_OUT = 5.0
ADMIT = 10.0
HAND_ON = 5.0
#: How often to look whether they have.
LOOK = 0.02


async def shut_down(
    accepted: Sequence[StreamConnection], queues: DeliveryQueues, clock: IReactorTime, admitting: Callable[[],
    bool] = lambda: False,
    others: Sequence[Callable[[], Deferred[None]]] = (),
) -> None:
    """Bring what is in flight to its end, close the streams towards us, hand on what waits, then close our own and the spool.

    `admitting`: something was read whose way is still being looked up. Whoever brought it may not send it again. `others`: what
    else brings stanzas is asked so to bring no more, and fires when the last has come.
    """
    queues.rest()
    await _while(lambda: any(queue.next_hop.ready and queue.pair_queue.in_flight for queue in queues), SETTLE, clock)
    await _close_managed([connection for connection in accepted if _engine(connection).managed], clock)
    until = clock.seconds() + ADMIT
    await _while(admitting, ADMIT, clock)
    last = [each().addTimeout(HEAR_OUT, clock, lambda late, _: None) for each in others]
    await DeferredList([*last, *(_heard_out(connection, clock) for connection in accepted)], consumeErrors=True)
    await _while(admitting, until - clock.seconds(), clock)
    queues.go_on(lambda queue: not (queues.spools and queue.next_hop.acks_arrive_elsewhere))
    await _while(lambda: any(queue.next_hop.ready and len(queue.pair_queue) and not queue.held for queue in queues), HAND_ON,
    clock)
    await queues.leave()
    await _while(lambda: any(queues.may_yet_go(queue) or _unheard(queue) for queue in queues), HAND_ON, clock)
    await queues.stop()


async def _close_managed(connections: Sequence[StreamConnection], clock: IReactorTime) -> None:
    for connection in connections:
        connection.pause(shut_down)
    await _while(lambda: any(_engine(connection).owes for connection in connections), SETTLE, clock)
    for connection in connections:
        connection.close(Ending(Cause.SHUTDOWN))


def _engine(connection: StreamConnection) -> Managed:
    return cast(Managed, connection.engine)


def _unheard(queue: DeliveryQueue) -> bool:
    """What the spool had no room for is on its way, and will be acknowledged (not on a stream towards us: those are closed)."""
    acknowledged = queue.next_hop.ready and not queue.next_hop.acks_arrive_elsewhere
    return queue.overflow.lasts and acknowledged and bool(queue.pair_queue.in_flight)


def _heard_out(connection: StreamConnection, clock: IReactorTime) -> Deferred[None]:
    late = clock.callLater(HEAR_OUT, connection.close, Ending(Cause.SHUTDOWN))

    def over(_: None) -> None:
        if late.active():
            late.cancel()

    closed = connection.when_closed().addCallback(over)
    connection.wind_down(Ending(Cause.SHUTDOWN))
    return closed


def _while(busy: Callable[[], bool], at_most: float, clock: IReactorTime) -> Deferred[None]:
    until = clock.seconds() + at_most
    done: Deferred[None] = Deferred()

    def look() -> None:
        if clock.seconds() >= until or not busy():
            looking.stop()
            done.callback(None)

    looking = LoopingCall(look)
    looking.clock = clock
    looking.start(LOOK)
    return done
