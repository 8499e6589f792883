"""Closes streams that bring stanzas gracefully: at a stop, and when a reload gave a domain to another server.

A stream with XEP-0198 is not read any more, and is closed when all that was read is acknowledged: the other side sends the rest
again. Other streams are read up to their closing tags. So even a server without acknowledgements loses nothing that it had sent
by then. Each step takes a bounded time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.net.connection import StreamConnection
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.timer import cancel

#: Seconds in which stanzas in flight, and stanzas that were read, can be acknowledged.
ACK_SECONDS = 3.0
#: Seconds in which the other side may send its closing tag.
CLOSING_TAG_SECONDS = 5.0
#: Seconds in which stanzas that were read can be admitted to their queues. (A resolution has the same bound.)
ADMIT_SECONDS = 10.0
#: Seconds between two looks.
LOOK_SECONDS = 0.02

log = Logger()


class ManagedEngine(Protocol):
    """The interface of a stream's engine."""

    @property
    def managed(self) -> bool:
        """Whether stanzas are acknowledged on the stream (XEP-0198)."""

    @property
    def owes(self) -> bool:
        """Whether some stanzas that came on the stream are not acknowledged."""


class BringingStream(NamedTuple):
    """An open stream that brings stanzas."""

    connection: StreamConnection
    engine: ManagedEngine


async def close_streams(
    clock: IReactorTime, is_admitting: Callable[[], bool], streams: Iterable[BringingStream], ending: Ending,
    others: Sequence[Callable[[], Deferred[None]]] = (),
) -> None:
    """Close `streams` with `ending`. Stanzas that were read enter their queues.

    `is_admitting`: some stanzas were read whose queue is still being looked up. Each of `others` stops another source of stanzas.
    Its Deferred fires when the last stanza has come.
    """
    streams = list(streams)
    await _close_managed(clock, [stream for stream in streams if stream.engine.managed], ending)
    until = clock.seconds() + ADMIT_SECONDS
    await wait_while(clock, is_admitting, ADMIT_SECONDS)
    asked = [each().addTimeout(CLOSING_TAG_SECONDS, clock, _give_up) for each in others]
    half_closed = [_half_close(clock, stream.connection, ending) for stream in streams]
    if asked or half_closed:
        await DeferredList([*asked, *half_closed], consumeErrors=True)
    await wait_while(clock, is_admitting, until - clock.seconds())


async def _close_managed(clock: IReactorTime, streams: list[BringingStream], ending: Ending) -> None:
    holder = object()
    for stream in streams:
        stream.connection.pause(holder)
    await wait_while(clock, partial(_are_owed, streams), ACK_SECONDS)
    for stream in streams:
        stream.connection.close(ending)


def _half_close(clock: IReactorTime, connection: StreamConnection, ending: Ending) -> Deferred[None]:
    late = clock.callLater(CLOSING_TAG_SECONDS, connection.close, ending)

    def over(_: None) -> None:
        cancel(late)

    closed = connection.when_closed().addCallback(over)
    connection.wind_down(ending)
    return closed


def wait_while(clock: IReactorTime, busy: Callable[[], bool], at_most: float) -> Deferred[None]:
    """Wait while `busy` returns true, for at most `at_most` seconds. An error in `busy` is logged and ends the wait."""
    until = clock.seconds() + at_most
    done: Deferred[None] = Deferred()

    def look() -> None:
        if clock.seconds() >= until or not busy():
            looking.stop()
            done.callback(None)

    def broken(failure: Failure) -> None:
        log.failure("a step of the closing broke", failure)
        done.callback(None)

    looking = LoopingCall(look)
    looking.clock = clock
    looking.start(LOOK_SECONDS).addErrback(broken)
    return done


def _are_owed(streams: Sequence[BringingStream]) -> bool:
    return any(stream.engine.owes for stream in streams)


def _give_up(_late: object, _seconds: float) -> None:
    """End the wait."""
