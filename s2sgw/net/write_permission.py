"""The right to send to other servers: a node of a cluster has it only while it holds its lease (docs/cluster.md).

A transport asks before each write to its socket. Without the right it keeps its data. It is called when the right is there
again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds between two looks for the right, while transports wait for it; the most that are called in one turn of the reactor.
LOOK = 0.1
CALLED_PER_TURN = 500


class WaitingWriter(Protocol):
    """A transport that has data to write."""

    def permitted(self) -> None:
        """Write again, soon."""


class WriteLease:
    """Answers whether data may be written now. `may_write` is the lease of this node (`cluster.membership`).

    A transport waits from a refused write to the call of `permitted`, or to its end.
    """

    def __init__(self, may_write: Callable[[], bool], clock: IReactorTime) -> None:
        #: whether data may be written now
        self.given = may_write
        self._clock = clock
        self._waiting: dict[WaitingWriter, None] = {}
        self._timer: IDelayedCall | None = None

    @property
    def waiting(self) -> int:
        """The number of transports that wait."""
        return len(self._waiting)

    def wait(self, writer: WaitingWriter) -> None:
        """Call `writer` once, when data may be written again."""
        self._waiting[writer] = None
        if self._timer is None:
            self._timer = self._clock.callLater(LOOK, self._look)

    def forget(self, writer: WaitingWriter) -> None:
        """Do not call `writer`: it is gone."""
        self._waiting.pop(writer, None)
        if not self._waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if not self.given():
            self._timer = self._clock.callLater(LOOK, self._look)
            return
        try:
            for writer in list(self._waiting)[:CALLED_PER_TURN]:
                if self._waiting.pop(writer, self) is None:  # a call before may have ended this one
                    writer.permitted()
        finally:  # also after a call that fails
            if self._waiting and self._timer is None:
                self._timer = self._clock.callLater(0, self._look)


class HeldWrites:
    """Holds the writes of a `FileDescriptor` of Twisted's back, until they are permitted."""

    def __init__(self, transport: Any, permission: WriteLease) -> None:
        self._transport = transport
        self._permission = permission
        self._write = transport.doWrite
        transport.doWrite = self._do_write

    def _do_write(self) -> Any:
        """Write, or leave the reactor. Replaces `doWrite` of the transport."""
        if self._permission.given():
            return self._write()
        self._transport.stopWriting()
        self._permission.wait(self)
        return None

    def permitted(self) -> None:
        """Let the reactor call again when the socket takes data."""
        self._transport.startWriting()

    def release(self) -> None:
        """Forget the transport, which is gone."""
        self._permission.forget(self)
        vars(self._transport).pop("doWrite", None)  # it refers back to this object
