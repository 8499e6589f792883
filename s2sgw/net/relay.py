"""Copies bytes both ways between two connected TCP sockets, without a look at them.

What is read from one side is sent to the other at once. If the other side does not take all of it, nothing more is read until it
has. The end of the input of one side is passed on as such, and a loss as a reset. A far side that ends before it has sent
anything has refused the connection, so this is passed on as a reset too.

A node copies nothing after its lease: a process that was stopped and wakes ends both connections. Otherwise the stanzas of a
peer that has meanwhile connected again would come behind newer ones.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import tcp
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReadWriteDescriptor
from twisted.internet.main import CONNECTION_LOST
from twisted.python.failure import Failure
from zope.interface import implementer

from s2sgw.net.handover import innermost
from s2sgw.xmpp.timer import cancel

#: The most that is read at once, and so the most that waits for one side.
READ_BYTES = 32768
#: Seconds that the second direction may last after the end of the first.
HALF_CLOSED_SECONDS = 60.0


def can_be_relayed(transport: Any) -> bool:
    """Return whether the transport has a TCP socket of its own, which a relay can take over."""
    below = innermost(transport)
    return type(below) in (tcp.Server, tcp.Client) and IReactorFDSet.providedBy(below.reactor)


class Relay:
    """Takes over the sockets of two transports of Twisted's. At the end the transports close them, and call their protocols."""

    def __init__(self, near: Any, far: Any, may_copy: Callable[[], bool] = lambda: True) -> None:
        """`may_copy` is asked before bytes are copied. If it is false, both connections end."""
        self.may_copy = may_copy
        self._clock = innermost(near).reactor
        self._timer: IDelayedCall | None = None
        self._over = False
        self.near, self.far = RelayEnd(innermost(near), self), RelayEnd(innermost(far), self)
        self.near.other, self.far.other = self.far, self.near

    @property
    def is_unanswered(self) -> bool:
        """Whether the far side has closed or broken its connection before it sent anything, and before the near side ended."""
        return self.far.is_silent and self.far.ended_first

    def begin(self, greeting: bytes) -> None:
        """Send `greeting` to the far side, and copy from then on."""
        self.near.resume()
        self.far.resume()
        self.far.send(greeting)

    def half_closed(self) -> None:
        """Note that one direction is over. Both: the relay is over."""
        if self.near.is_shut and self.far.is_shut:
            self._close(Failure(ConnectionDone()))
        elif self._timer is None and not self._over:
            self._timer = self._clock.callLater(HALF_CLOSED_SECONDS, self.abort)

    def abort(self) -> None:
        """End both connections with a reset. What was not sent is dropped."""
        self._close(Failure(ConnectionAborted()))

    def _close(self, reason: Failure) -> None:
        if self._over:
            return
        self._over = True
        cancel(self._timer)
        self._timer = None
        for end in (self.near, self.far):
            end.close(reason)


@implementer(IReadWriteDescriptor)
class RelayEnd:
    """One of the two sockets at the reactor. `is_shut`: the input of the other one is over, and all of it was sent."""

    def __init__(self, below: Any, relay: Relay) -> None:
        self._below = below
        self._relay = relay
        self._socket: socket.socket = below.socket
        self._descriptor: int = below.fileno()
        self._reactor = below.reactor
        self._pending: bytes | memoryview = b""
        self._reading = False
        self._finishing = self._lost = False
        #: whether this side sends no more
        self.input_over = False
        self.is_shut = False
        #: whether nothing has come from this side, and whether it has closed or broken its connection before the other one
        self.is_silent, self.ended_first = True, False
        self.other: RelayEnd
        below.stopReading()
        below.stopWriting()

    # --- output ---

    def send(self, data: bytes) -> None:
        """Send `data`. Called only when nothing waits. While a part of it waits, the other side is not read."""
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._break()
            return
        if sent < len(data):
            self._pending = memoryview(data)[sent:]
            self._reactor.addWriter(self)
            self.other.pause()

    def finish(self) -> None:
        """Shut the output when everything is sent: the input of the other side is over."""
        self._finishing = True
        if not self._pending:
            self._shut()

    def _shut(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._break()
            return
        self.is_shut = True
        self._relay.half_closed()

    # --- calls of the reactor ---

    def fileno(self) -> int:
        """Return the descriptor; -1 after the end."""
        return -1 if self._lost else self._descriptor

    def logPrefix(self) -> str:
        """Return its name in Twisted's log."""
        return "Relay"

    def doRead(self) -> Any:
        """Read, and send to the other side. Return why the connection is lost, an exception."""
        if not self._reading:
            return None  # the other side has ended it in this turn
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if data and not self._relay.may_copy():
            self._relay.abort()
        elif data:
            self.is_silent = False
            self.other.send(data)
        else:
            self.input_over = True
            self.ended_first = not self.other.input_over
            if self._relay.is_unanswered:
                self._relay.abort()
            else:
                self.pause()
                self.other.finish()
        return None

    def doWrite(self) -> Any:
        """Send on: the socket takes more. Return why the connection is lost."""
        if self._lost:
            return None
        if not self._relay.may_copy():
            self._relay.abort()
            return None
        try:
            self._pending = self._pending[self._socket.send(self._pending) :]
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not self._pending:
            self._pending = b""
            self._reactor.removeWriter(self)
            if self._finishing:
                self._shut()
            else:
                self.other.resume()
        return None

    def connectionLost(self, reason: Failure) -> None:
        """End the relay: this connection broke."""
        self._break()

    def _break(self) -> None:
        self.ended_first = self.ended_first or not self.other.input_over
        self._relay.abort()

    # --- holding and closing ---

    def pause(self) -> None:
        """Stop reading."""
        if self._reading:
            self._reading = False
            self._reactor.removeReader(self)

    def resume(self) -> None:
        """Go on reading, if there is more to come."""
        if not (self._reading or self.input_over or self._lost):
            self._reading = True
            self._reactor.addReader(self)

    def close(self, reason: Failure) -> None:
        """Leave the reactor. Twisted's transport closes the socket, with a reset after an abort, and tells its protocol."""
        if not self._lost:
            self.pause()
            self._reactor.removeWriter(self)
            self._lost = True
            self._pending = b""
            below = self._below
            del self._below, self._relay, self.other  # they refer back to this object
            below.connectionLost(reason)
