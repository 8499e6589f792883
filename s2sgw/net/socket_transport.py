"""A connection directly on its socket, in the clear or under TLS. `StreamConnection` reads from it and writes to it.

Twisted accepts and connects. Then this transport takes the place of Twisted's at the reactor. Twisted's transport sends in a
later turn, and runs TLS through buffers in memory. This one sends the output of a turn at its end, through OpenSSL on the socket.
It waits for the socket only if the socket takes no more (docs/decisions.md#transport).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from itertools import islice
from socket import MSG_PEEK
from time import thread_time
from typing import Any, Protocol

from OpenSSL import SSL
from twisted.internet import tcp
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IPushProducer, IReactorFDSet, IReadWriteDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python.failure import Failure
from zope.interface import implementer

from s2sgw.net.handover import innermost
from s2sgw.net.tcp_options import unread_bytes
from s2sgw.net.tls import HANDSHAKING, DirectWatch
from s2sgw.net.tls_layer import TLSFacts, observe
from s2sgw.net.write_permission import WriteLease

#: The most that is read in one turn: bytes, and TLS records of up to `RECORD_BYTES` (RFC 8446 §5.1).
READ_BYTES = 65536
RECORD_BYTES = 16384
RECORDS = 64
#: Bytes that are looked at before a step of the handshake: all that the largest certificate chain takes (100 kB). A record of it
#: with fewer bytes than `TINY_BYTES` is tiny. (A byte that is encrypted takes 18.)
HANDSHAKE_BYTES = 131_072
TINY_BYTES = 32
#: Tiny records of a server that is proven, of which so many may wait at once. It may send some with data in them: white space
#: between stanzas. If they are parts of one message, OpenSSL reads them in 2 ms. So many take `FEW_BYTES` at least.
PROVEN_TINY_RECORDS = 1024
FEW_BYTES = PROVEN_TINY_RECORDS * 22
_TINY_RECORD = re.compile(rb"[\x14-\x18]\x03.\x00[\x00-%c]" % (TINY_BYTES - 1), re.DOTALL)  # RFC 8446 §5.1
#: A tiny record of a proven server. It is encrypted, and a search for four fixed bytes takes a tenth of the time.
_TINY_ENCRYPTED = re.compile(rb"\x17\x03\x03\x00[\x00-%c]" % (TINY_BYTES - 1))
_PLAIN_HANDSHAKE = 22  # RFC 8446 §5.1: the type of the records of a handshake that are not encrypted
#: Seconds of CPU after which no more messages without data are read in one call. Four session tickets take less than 1 ms.
MESSAGES_SECONDS = 0.05
#: Bytes that wait to be sent before the producer is paused.
FULL_BYTES = 65536
#: Bytes that are passed to OpenSSL, or to the system, in one call.
SEND_BYTES = 131072


class Outputs(Protocol):
    """Sends written data once a turn, and closes lost connections (`net.turns`)."""

    def send_soon(self, send: Callable[[], None]) -> None:
        """Call `send` once, at the end of this turn."""

    def close_soon(self, close: Callable[[], None]) -> None:
        """Call `close` once, after everything is sent, never from within this call."""


class Input(Protocol):
    """The protocol that reads."""

    established: bool
    """Whether the negotiation is over: the other side is proven."""

    @property
    def party(self) -> object:
        """Return the party that the stream belongs to, or None (`net.turns`)."""

    def dataReceived(self, data: bytes) -> None: ...


class TLSUser(Protocol):
    """The protocol that gets the calls about TLS."""

    def tls_secured(self, facts: TLSFacts) -> None:
        """Note that the handshake is over."""

    def tls_renegotiated(self) -> None:
        """Note that the other side asked for a renegotiation. Called from within OpenSSL: nothing may be closed here."""

    def tls_flooded(self) -> None:
        """Note that the other side sends TLS messages without end, and no data. Called from within OpenSSL too."""


class _Watch(DirectWatch):
    """A `TLSWatch` (`net.tls`), which is the app data of a connection."""

    __slots__ = ("_user", "began", "is_cut", "steps")

    def __init__(self, user: TLSUser) -> None:
        self.steps = HANDSHAKING
        #: when the present call of OpenSSL came to its first message without data (CPU time)
        self.began: float | None = None
        #: whether no more is read: the connection is closed in the next turn
        self.is_cut = False
        self._user = user

    def takes_long(self) -> bool:
        now = thread_time()
        if self.began is None:
            self.began = now
        return now - self.began > MESSAGES_SECONDS

    def renegotiationAttempted(self) -> None:
        self.is_cut = True
        self._user.tls_renegotiated()

    def messagesWithoutData(self) -> None:
        self.is_cut = True
        self._user.tls_flooded()


def take_over(
    transport: Any, user: Input, outputs: Outputs, may_write: WriteLease | None = None,
) -> SocketTransport | None:
    """Return a transport in place of Twisted's; None: Twisted's has no plain TCP socket of its own.

    `transport` may be relayed (`net.handover`): its ends are kept. At the end Twisted's transport closes the socket and calls its
    protocol. `may_write` is asked before each write to the socket. TLS itself may write its own records without it.
    """
    below = innermost(transport)
    if type(below) not in (tcp.Server, tcp.Client) or not IReactorFDSet.providedBy(below.reactor):
        return None
    if below.dataBuffer or getattr(below, "_tempDataBuffer", None):
        below.doWrite()  # sends a preface that was just written
        if below.dataBuffer:
            return None
    return SocketTransport(transport, below, user, outputs, may_write)


@implementer(IReadWriteDescriptor, IPushProducer)
class SocketTransport:
    """One connected TCP socket at the reactor. After the loss it does nothing more."""

    def __init__(
        self, transport: Any, below: Any, user: Input, outputs: Outputs, may_write: WriteLease | None = None,
    ) -> None:
        self.socket = below.socket
        #: Twisted's, perhaps relayed: it has the addresses of both ends
        self._transport = transport
        self._below = below
        self._reactor = below.reactor
        self._descriptor: int = below.fileno()
        self._user: Input | None = user
        self._outputs = outputs
        self._may_write = may_write
        self._pending: list[bytes] = []
        self._size = 0
        self._send_is_due = False
        self._gate: Any = None
        self._is_full = False
        self._reading = self._writing = False
        #: whether TLS reads on when the socket takes its answer (to a KeyUpdate): until then it can read nothing
        self._must_answer = False
        self._tls: Any = None
        self._tls_watch: Any = None
        self._tls_user: TLSUser | None = None
        self._tls_begin: Callable[[], None] | None = None
        self._handshaking = False
        #: whether the other side may send session tickets: long messages without data
        self._is_client = False
        #: whether close_notify is sent
        self._notified = False
        #: whether it is being closed (data written then is dropped), and whether without waiting for the other side
        self._closing = self._hangs_up = False
        self._lost = False
        below.stopReading()
        self.resumeProducing()

    @property
    def party(self) -> object:
        """Return the party that the stream belongs to, or None."""
        return None if self._user is None else self._user.party

    def getPeer(self) -> Any:
        return self._transport.getPeer()

    def getHost(self) -> Any:
        return self._transport.getHost()

    # --- output ------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send `data` at the end of this turn."""
        if self._closing or self._lost or not data:
            return
        self._pending.append(data)
        self._size += len(data)
        if not self._send_is_due:
            self._send_is_due = True
            self._outputs.send_soon(self._send)
        elif self._size > FULL_BYTES:
            self._send()

    def registerProducer(self, gate: Any, streaming: bool) -> None:
        """Tell `gate` to pause while more than `FULL_BYTES` wait to be sent."""
        self._gate = gate
        if self._is_full:
            gate.pauseProducing()

    def unregisterProducer(self) -> None:
        """Make no more calls."""
        self._gate = None

    def _send(self) -> None:
        """Send the waiting data, as far as the socket takes it."""
        self._send_is_due = False
        if self._writing or self._handshaking or not self._pending or self._lost:
            self._look_if_full()
            return
        may_write = self._may_write
        if may_write is not None and not may_write.given():
            may_write.wait(self)
            self._look_if_full()
            return
        data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        sent = 0
        send = self.socket.send if self._tls is None else self._tls.send
        try:
            if len(data) <= SEND_BYTES:
                sent = send(data)
            view = memoryview(data)
            while sent < len(data):
                if may_write is not None and not may_write.given():
                    may_write.wait(self)
                    break
                sent += send(view[sent : sent + SEND_BYTES])
        except (BlockingIOError, SSL.WantWriteError):
            self._want_write(True)
        except SSL.WantReadError:
            pass  # sent again when something was read
        except (OSError, SSL.Error) as error:
            self._end(_reason(error))
            return
        self._pending = [data[sent:]] if sent < len(data) else []
        self._size = len(data) - sent
        if self._is_full or self._size:
            self._look_if_full()
        if self._closing and not self._size:
            self._close()

    def permitted(self) -> None:
        """Send on: the right to write is there again."""
        if not self._lost:
            self._want_write(True)

    def _look_if_full(self) -> None:
        if not self._is_full and self._size > FULL_BYTES:
            self._is_full = True
            if self._gate is not None:
                self._gate.pauseProducing()
        elif self._is_full and not self._size:
            self._is_full = False
            if self._gate is not None:
                self._gate.resumeProducing()

    # --- TLS -----------------------------------------------------------------------------------------------------------

    def start_tls(self, creator: Any, is_client: bool, user: TLSUser) -> None:
        """Begin TLS after the data that was written before. `creator` makes the connection (`net.tls`)."""
        make = creator.clientConnectionForTLS if is_client else creator.serverConnectionForTLS
        self._tls_watch, self._is_client = _Watch(user), is_client
        tls = make(self._tls_watch, self.socket)
        (tls.set_connect_state if is_client else tls.set_accept_state)()
        self._tls_user = user
        self._send()
        if self._lost:
            return
        if self._pending:
            self._tls_begin = lambda: self._begin_tls(tls)
        else:
            self._begin_tls(tls)

    def _begin_tls(self, tls: Any) -> None:
        self._tls_begin = None
        self._tls, self._handshaking = tls, True
        if not self._is_client and not self._waiting(1):
            return  # OpenSSL would read what comes meanwhile, without the look at its records
        problem = self._handshake()
        if problem is not None:
            self._end(problem)

    def _handshake(self) -> BaseException | None:
        """Advance the handshake as far as possible. Return why it failed."""
        if self._is_in_pieces():
            return _in_pieces()
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            self._want_write(False)
            return None
        except SSL.WantWriteError:
            self._want_write(True)
            return None
        except SSL.Error as error:
            return _reason(error)
        self._handshaking = False
        self._tls_watch.steps = 0
        self._want_write(False)
        assert self._tls_user is not None
        self._tls_user.tls_secured(observe(self._tls))
        self._send()
        return self._read_records() if self._reading else None

    def _is_in_pieces(self) -> bool:
        """Return whether many tiny records wait, or a plain handshake without end. OpenSSL would read all of that in one call.

        RFC 8446 §5.1 allows a message to be split into records of one byte each, but no library does this. Data may come right
        behind the last message (XEP-0361): its records are not tiny, and OpenSSL does not read them now.
        """
        waiting = self._waiting(HANDSHAKE_BYTES)
        if len(waiting) == HANDSHAKE_BYTES and waiting[0] == _PLAIN_HANDSHAKE:
            return True
        return _has_more(_TINY_RECORD, waiting, RECORDS)

    def _is_flooded(self) -> bool:
        """Return whether a server sends a session ticket in pieces, as above.

        What is looked at reaches as far as a ticket can (128 kB) that begins among the records of one turn.
        """
        assert self._user is not None
        if not self._user.established:
            return self._is_in_pieces()
        if unread_bytes(self) < FEW_BYTES:
            return False
        waiting = self._waiting(READ_BYTES + HANDSHAKE_BYTES)
        return _has_more(_TINY_ENCRYPTED, waiting, PROVEN_TINY_RECORDS)

    def _waiting(self, at_most: int) -> bytes:
        """Return the bytes that have arrived, without reading them."""
        try:
            waiting: bytes = self.socket.recv(at_most, MSG_PEEK)
        except OSError:
            return b""
        return waiting

    def _read_records(self) -> BaseException | None:
        """Read some records. Return why there will be no more.

        OpenSSL reads no byte of the next record (its `read_ahead` is off). So after the first record the socket shows whether
        there is more. This costs less than a record that OpenSSL does not find.
        """
        records: list[bytes] = []
        size = 0
        problem: BaseException | None = None
        recv = self._tls.recv
        self._tls_watch.began = None
        try:
            while size < READ_BYTES and len(records) < RECORDS:
                record = recv(RECORD_BYTES)
                records.append(record)
                size += len(record)
                if len(records) == 1:
                    self.socket.recv(1, MSG_PEEK)
        except (BlockingIOError, SSL.WantReadError):
            pass
        except SSL.WantWriteError:
            self._must_answer = True
            self._reactor.removeReader(self)
            self._want_write(True)
        except SSL.ZeroReturnError:
            problem = None if self._tls_watch.is_cut else CONNECTION_DONE
        except (OSError, SSL.Error) as error:
            problem = _reason(error)
        if records and self._user is not None:
            self._tls_watch.steps = 0
            self._user.dataReceived(records[0] if len(records) == 1 else b"".join(records))
        if problem is CONNECTION_DONE:
            self._shut_tls()
        return problem

    def _shut_tls(self) -> bool:
        """Send close_notify, once, when there is room for it. Return whether the other side has sent its own."""
        if self._notified:
            return False
        try:
            is_over = bool(self._tls.shutdown())
        except SSL.WantWriteError:
            self._want_write(True)
            return False
        except SSL.Error:
            return True
        self._notified = True
        return is_over

    # --- calls of the reactor ----------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor; -1 after the loss."""
        return -1 if self._lost else self._descriptor

    def logPrefix(self) -> str:
        """Return its name in Twisted's log."""
        return "SocketTransport"

    def doRead(self) -> Any:
        """Read. Return why the connection is lost, an exception."""
        if self._tls is not None:
            if self._handshaking:
                problem = self._handshake()
            elif self._is_client and self._user is not None and self._is_flooded():
                problem = _in_pieces()
            else:
                problem = self._read_records()
            if problem is None and self._pending and not self._send_is_due:
                self._send()
            return problem
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        if self._user is not None:
            self._user.dataReceived(data)
        return None

    def doWrite(self) -> Any:
        """Send on: the socket takes more. Return why the connection is lost."""
        if not self._writing:
            return None  # the input just read has ended it
        if self._handshaking:
            return self._handshake()
        self._want_write(False)
        if self._must_answer:
            self._must_answer = False
            if self._reading:
                self._reactor.addReader(self)
        if self._closing and not self._pending:
            self._close()  # there was no room for close_notify
        self._send()
        if self._tls_begin is not None and not self._pending and not self._lost:
            self._tls_begin()
        return None

    def connectionLost(self, reason: Failure) -> None:
        """Close the socket. Twisted's transport tells the protocol."""
        if not self._lost:
            below = self._below
            self.release()
            below.connectionLost(reason)

    def release(self) -> None:
        """Leave the reactor, and drop all references, so that nothing is in a circle."""
        if self._lost:
            return
        self._stop()
        self._lost = True
        if self._may_write is not None:
            self._may_write.forget(self)
        if self._tls is not None:
            self._tls.set_app_data(None)
        self._tls = self._tls_watch = self._tls_user = self._tls_begin = self._user = self._gate = self._below = None
        self._pending, self._size = [], 0

    # --- holding and closing -----------------------------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Stop reading."""
        if self._reading:
            self._reading = False
            self._reactor.removeReader(self)

    def resumeProducing(self) -> None:
        """Go on reading."""
        if not self._reading and not self._lost:
            self._reading = True
            if not self._must_answer:
                self._reactor.addReader(self)

    def stopProducing(self) -> None:
        """Close (IPushProducer)."""
        self.loseConnection()

    def loseConnection(self) -> None:
        """Close gracefully when the waiting data is sent; under TLS, when the other side has closed as well."""
        if self._closing or self._lost:
            return
        self._closing = True
        if self._handshaking or self._tls_begin is not None:
            self.abortConnection()
        elif self._pending:
            self._send()
        else:
            self._close()

    def hang_up(self) -> None:
        """Close gracefully, without waiting for the other side."""
        self._hangs_up = True
        if not self._closing:
            self.loseConnection()
        elif not self._pending:
            self._close()

    def abortConnection(self) -> None:
        """Close at once, with a reset. Waiting data is dropped."""
        self._closing = True
        self._end(ConnectionAborted())

    def _close(self) -> None:
        is_over = self._tls is None or self._shut_tls()
        if is_over or self._hangs_up:
            self._end(CONNECTION_DONE)

    def _end(self, reason: BaseException) -> None:
        """Report the lost connection at the end of this turn: the caller may be in the middle of a write."""
        if not self._lost:
            self._stop()
            self._pending, self._size = [], 0
            if self._gate is not None:
                self._gate.stopProducing()  # otherwise later writes would count as sent
            self._outputs.close_soon(partial(self.connectionLost, Failure(reason)))

    def _stop(self) -> None:
        self.pauseProducing()
        self._want_write(False)

    def _want_write(self, wanted: bool) -> None:
        if self._writing is not wanted:
            self._writing = wanted
            (self._reactor.addWriter if wanted else self._reactor.removeWriter)(self)


def _has_more(tiny: re.Pattern[bytes], waiting: bytes, at_most: int) -> bool:
    """Return whether more than so many `tiny` records are in `waiting`.

    Their headers are searched for: OpenSSL may have read a part of the first record, so that `waiting` begins somewhere.
    """
    return any(True for _ in islice(tiny.finditer(waiting), at_most, None))


def _in_pieces() -> SSL.Error:
    return SSL.Error([("SSL routines", "", "too many small records")])


def _reason(error: BaseException) -> BaseException:
    """Return the reason for a loss: a socket that failed, an end without close_notify, or an error of TLS."""
    if isinstance(error, SSL.SysCallError) or not isinstance(error, SSL.Error):
        return CONNECTION_LOST
    return error.with_traceback(None)
