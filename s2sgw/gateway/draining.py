"""The end in order: nothing new is let in, what can be handed on is, the rest is left to the spool (issue: restart and drain)."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from s2sgw.gateway.lanes import Lanes
from s2sgw.net.connection import StreamConnection
from s2sgw.xmpp.ending import Cause, Ending

#: Seconds in which the next servers may still take what is on its way.
HAND_ON = 5.0
#: How often to look whether they have.
LOOK = 0.05


async def drain(accepted: Iterable[StreamConnection], lanes: Lanes, clock: IReactorTime) -> None:
    """Close the streams towards us, hand on what can be handed on within `HAND_ON`, then close our own and the spool."""
    closed = []
    for connection in accepted:
        connection.close(Ending(Cause.SHUTDOWN))
        closed.append(connection.when_closed())
    await _handed_on(lanes, clock)
    await lanes.stop()
    await DeferredList(closed)


def _handed_on(lanes: Lanes, clock: IReactorTime) -> Deferred[None]:
    until = clock.seconds() + HAND_ON
    done: Deferred[None] = Deferred()

    def look() -> None:
        if clock.seconds() >= until or not any(flow.hop.ready and len(flow.lane) for flow in lanes):
            looking.stop()
            done.callback(None)

    looking = LoopingCall(look)
    looking.clock = clock
    looking.start(LOOK)
    return done
