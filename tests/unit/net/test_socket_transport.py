"""Tests of the transport on the socket and of Twisted's own: one suite for both (docs/decisions.md#transport)."""

from __future__ import annotations

import gc
import socket
import struct
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import Mock

from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net import connection as connection_module
from s2sgw.net import socket_transport
from s2sgw.net.connection import ConnectionOptions, StreamConnection
from s2sgw.net.handover import HandoverProtocol, RelayedTransport
from s2sgw.net.socket_transport import (
    FULL_BYTES,
    MESSAGES_SECONDS,
    PROVEN_TINY_RECORDS,
    RECORDS,
    SEND_BYTES,
    SocketTransport,
    take_over,
)
from s2sgw.net.tls import ClientTLS
from s2sgw.net.turns import Turns
from s2sgw.net.write_permission import LOOK, WriteLease
from s2sgw.stream.events import Refusal, StanzasReceived
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from tests.lab.tls_records import DATA, Records, Secrets
from tests.support.certificates import leaf_for
from tests.support.socket_reactor import SocketReactor, client_handshake, connected, serve
from tests.support.wires import LOCAL, Recorder, ToyEngine, credential, raw_context, server_context_of

CLOSING = Ending(Cause.SHUTDOWN, "a test")
REFUSAL = Refusal(StreamCondition.POLICY_VIOLATION, "no", Ending(Cause.NOT_ALLOWED))
SOON = ConnectionOptions(negotiation_timeout=None, close_timeout=5.0)
BLOCK = b"x" * 65535 + b"\n"
#: A record of TLS with one byte in it. It cannot be decrypted.
TINY = struct.pack("!BHH", 23, 0x303, 18) + bytes(18)


class World:
    """A receiving and an initiating stream on a TCP connection, or a receiving one and a plain socket."""

    def __init__(self, case: SynchronousTestCase, *, solo: bool = False) -> None:
        self.reactor = SocketReactor()
        self.turns = Turns(self.reactor)
        self.has_lease = True
        self.permission = WriteLease(lambda: self.has_lease, self.reactor)
        near, far = connected()
        self.engine, self.owner = ToyEngine(), Recorder()
        self.receiving = self._stream(self.engine, self.owner, "receiving")
        self.below = serve(self.reactor, far, self.receiving)
        case.addCleanup(self.reactor.close)
        case.addCleanup(near.close)
        self.socket = near
        if solo:
            near.setblocking(False)
        else:
            self.far_engine, self.far_owner = ToyEngine(), Recorder()
            self.initiating = self._stream(self.far_engine, self.far_owner, "initiating")
            serve(self.reactor, near, self.initiating)

    def _stream(self, engine: ToyEngine, owner: Recorder, role: Any) -> StreamConnection:
        mine = credential(leaf_for("peer.example"))
        tls: Any = lambda order: (  # noqa: E731
            server_context_of().for_domain(LOCAL) if role == "receiving" else ClientTLS().for_peer(LOCAL, mine)
        )
        return StreamConnection(
            engine, owner, clock=self.reactor, role=role, tls=tls, options=SOON, turns=self.turns,
            may_write=self.permission,
        )

    def secured(self) -> World:
        """Put both streams under TLS and complete their negotiation."""
        self.initiating.step(self.far_engine.begin)
        self.reactor.settle()
        for stream in (self.receiving, self.initiating):
            stream.negotiated()
        return self

    def stanzas(self) -> list[bytes]:
        """Return what the receiving side has read as stanzas."""
        return [stanza.data for event in self.owner.events if isinstance(event, StanzasReceived) for stanza in event.stanzas]

    @property
    def ending(self) -> Ending:
        """Return how the receiving side ended."""
        assert self.receiving.ending is not None
        return self.receiving.ending

    def read(self) -> bytes:
        """Return what the receiving side has read since TLS began, or since the beginning."""
        return b"".join(self.engine.fed[1:] if self.engine.fed[0] == b"STARTTLS\n" else self.engine.fed)


def _drained(world: World) -> int:
    """Read at the plain socket until nothing comes. Return the number of bytes."""
    size = 0
    for _ in range(1000):
        world.reactor.settle()
        try:
            size += len(world.socket.recv(1_000_000))
        except BlockingIOError:
            return size
    raise AssertionError("it does not come to rest")


class Suite:
    """Tests for both transports."""

    def test_tls(self: Any) -> None:
        """R6: STARTTLS works, with the evidence of both sides and data in both directions."""
        world = World(self).secured()
        self.assertEqual((world.engine.log, world.far_engine.log), (["tls"], ["tls"]))
        self.assertEqual(world.receiving.chain, leaf_for("peer.example").der_chain)
        self.assertEqual((world.receiving.tls_version, world.initiating.tls_version), ("TLSv1.3", "TLSv1.3"))
        world.initiating.write(b"one\n")
        world.initiating.write(b"two\n")
        world.receiving.write(b"three\n")
        world.reactor.settle()
        self.assertEqual((world.stanzas(), world.far_engine.fed[-1]), ([b"one\n", b"two\n"], b"three\n"))

    def test_plain(self: Any) -> None:
        """Before TLS data is read and written unencrypted, in order."""
        world = World(self, solo=True)
        world.socket.sendall(b"a\nb\n")
        world.reactor.settle()
        world.receiving.write(b"c\n")
        world.reactor.settle()
        self.assertEqual((world.stanzas(), world.socket.recv(99)), ([b"a\n", b"b\n"], b"c\n"))

    def test_back_pressure(self: Any) -> None:
        """A side that reads nothing fills the transport, which reports it once. When it reads again, all data arrives in order."""
        world = World(self).secured()
        world.receiving.pause("a test")
        blocks = 0
        while "paused" not in world.far_owner.calls:
            self.assertLess(blocks, 1000)
            world.initiating.write(b"%06d" % blocks + BLOCK)
            blocks += 1
            world.reactor.settle()
        world.receiving.resume("a test")
        world.reactor.settle()
        sent = b"".join(b"%06d" % number + BLOCK for number in range(blocks))
        self.assertEqual(world.read() == sent, True)
        self.assertEqual(world.far_owner.calls[-2:], ["paused", "resumed"])
        self.assertIsNone(world.initiating.blocked_since)

    def test_held(self: Any) -> None:
        """While reading is paused nothing is read from the socket, under TLS too."""
        world = World(self).secured()
        world.receiving.pause("a test")
        world.initiating.write(b"later\n")
        world.reactor.settle()
        self.assertEqual(world.stanzas(), [])
        world.receiving.resume("a test")
        world.reactor.settle()
        self.assertEqual(world.stanzas(), [b"later\n"])

    def test_lease(self: Any) -> None:
        """Without the right to write nothing reaches the other side; with it again, all data arrives in order."""
        world = World(self).secured()
        world.initiating.write(b"one\n")
        world.reactor.settle()
        world.has_lease = False
        world.initiating.write(b"two\n")
        world.reactor.settle()
        world.initiating.write(b"three\n")
        world.reactor.advance(LOOK)
        world.reactor.settle()
        self.assertEqual(world.stanzas(), [b"one\n"])
        world.has_lease = True
        world.reactor.advance(LOOK)
        world.reactor.settle()
        self.assertEqual((world.stanzas(), world.permission.waiting), ([b"one\n", b"two\n", b"three\n"], 0))

    def test_lease_ends_over_a_full_socket(self: Any) -> None:
        """After the end of the lease nothing is written of the data that waited for the socket, also when it has room again."""
        world = World(self, solo=True)
        world.receiving.write(BLOCK * 100)
        world.reactor.settle()
        world.has_lease = False
        read = _drained(world)
        self.assertLess(read, len(BLOCK) * 100)
        self.assertEqual(world.reactor.getWriters(), [])
        world.has_lease = True
        world.reactor.advance(LOOK)
        self.assertEqual(read + _drained(world), len(BLOCK) * 100)

    def test_abort_without_lease(self: Any) -> None:
        """A stream that is closed, and then aborted without the right to write, sends nothing, and waits for nothing."""
        world = World(self).secured()
        world.has_lease = False
        world.initiating.write(b"never\n")
        world.reactor.settle()
        world.initiating.close(CLOSING)
        world.reactor.settle()
        world.has_lease = True
        world.initiating.abort(CLOSING)
        world.reactor.advance(SOON.close_timeout)
        world.reactor.settle()
        self.assertEqual((world.stanzas(), world.permission.waiting), ([], 0))

    def test_end_of_a_waiting_stream(self: Any) -> None:
        """A connection that is lost while it waits for the right to write waits for it no longer."""
        world = World(self).secured()
        world.has_lease = False
        world.initiating.write(b"never\n")
        world.reactor.settle()
        self.assertEqual(world.permission.waiting, 1)
        world.receiving.abort(CLOSING)
        world.reactor.settle()
        self.assertEqual(world.permission.waiting, 0)

    def test_in_order(self: Any) -> None:
        """An orderly close is reported on both sides, and data written before it arrives."""
        world = World(self).secured()
        world.initiating.write(BLOCK * 4)
        world.initiating.write(b"last\n")
        world.initiating.step(world.far_engine.line, b"BYE\n")
        world.reactor.settle()
        self.assertEqual(world.read() == BLOCK * 4 + b"last\n" + b"CLOSE\n", True)
        self.assertEqual(world.initiating.ending, Ending(Cause.CLOSED, by="them"))
        self.assertTrue(world.initiating.when_closed().called and world.receiving.when_closed().called)

    def test_wait_for_close_notify(self: Any) -> None:
        """A side that has closed waits for the other side's close, for a bounded time."""
        world = World(self).secured()
        world.receiving.pause("a test")  # the close is not seen
        world.initiating.close(CLOSING)
        world.reactor.settle()
        self.assertFalse(world.initiating.when_closed().called)
        world.reactor.advance(SOON.close_timeout)
        world.reactor.settle()
        self.assertTrue(world.initiating.when_closed().called)

    def test_dismissed(self: Any) -> None:
        """A connection that is dismissed is closed as soon as its error is sent."""
        world = World(self).secured()
        world.initiating.pause("a test")
        world.receiving.dismiss(REFUSAL)
        world.reactor.settle()
        self.assertTrue(world.receiving.when_closed().called)
        world.initiating.resume("a test")
        world.reactor.settle()
        self.assertIn(b"ERROR policy-violation", world.far_engine.fed[-1])

    def test_truncated(self: Any) -> None:
        """A TCP end without close_notify is a loss, not an orderly end. Earlier input is processed."""
        world = World(self, solo=True)
        tls = self.shake(world)
        tls.send(b"last words\n")
        world.socket.shutdown(socket.SHUT_WR)
        world.reactor.settle()
        ending = world.ending
        self.assertEqual((world.stanzas(), ending.cause), ([b"last words\n"], Cause.CONNECTION_LOST))
        self.assertEqual(ending.detail, "Connection to the other side was lost in a non-clean fashion: Connection lost.")

    def test_no_tls(self: Any) -> None:
        """R7: input that is not TLS ends the connection with OpenSSL's text, and no stream error is sent."""
        world = World(self, solo=True)
        world.socket.sendall(b"STARTTLS\n")
        world.reactor.settle()
        self.assertEqual(world.socket.recv(99), b"PROCEED\n")
        world.socket.sendall(b"<message/> is no ClientHello\n")
        world.reactor.settle()
        self.assertEqual(world.ending.cause, Cause.TLS_FAILED)
        self.assertTrue(world.ending.detail)
        self.assertNotIn(b"CLOSE", world.socket.recv(999))

    def test_lost_in_the_handshake(self: Any) -> None:
        """R7: a TCP end during the handshake is a TLS failure."""
        world = World(self, solo=True)
        world.socket.sendall(b"STARTTLS\n")
        world.reactor.settle()
        world.socket.shutdown(socket.SHUT_WR)
        world.reactor.settle()
        self.assertEqual(world.ending.cause, Cause.TLS_FAILED)
        self.assertEqual(world.ending.detail, "the connection closed during the TLS handshake")

    def test_garbled(self: Any) -> None:
        """R7: a record that does not decrypt is a TLS failure and ends the connection."""
        world = World(self, solo=True)
        tls = self.shake(world)
        tls.send(b"good\n")
        world.socket.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        world.reactor.settle()
        self.assertEqual((world.stanzas(), world.ending.cause), ([b"good\n"], Cause.TLS_FAILED))

    def test_certificate_refused(self: Any) -> None:
        """R10: an alert of the other side is reported as a TLS failure."""
        world = World(self, solo=True)
        self.shake(world, verify=False)
        world.reactor.settle()
        self.assertEqual(world.ending.cause, Cause.TLS_FAILED)

    def test_renegotiation(self: Any) -> None:
        """R10: a request for renegotiation closes the connection at once."""
        world = World(self, solo=True)
        tls = self.shake(world, highest=SSL.TLS1_2_VERSION)
        tls.renegotiate()
        with self.assertRaises(SSL.WantReadError):
            tls.do_handshake()
        world.reactor.settle()
        self.assertEqual(world.ending.cause, Cause.TLS_RENEGOTIATION)

    def test_messages_without_data(self: Any) -> None:
        """A side that sends KeyUpdates without end is not read without end: after a few the connection closes (RFC 8446 §4.6.3)."""
        for requested in (False, True):
            world = World(self, solo=True)
            records = self.records(world)
            world.socket.sendall(b"".join(records.key_update(requested) for _ in range(1000)))
            world.reactor.settle()
            self.assertEqual(world.ending, Ending(Cause.TLS_FAILED, "too many TLS messages without data", "them"))

    def test_messages_between_data(self: Any) -> None:
        """A side that changes its key from time to time, between its data, is read on."""
        world = World(self, solo=True)
        records = self.records(world)
        for number in range(100):
            world.socket.sendall(records.key_update() + records.record(DATA, b"%d\n" % number))
            world.reactor.settle()
        self.assertEqual((world.receiving.ending, len(world.stanzas())), (None, 100))

    def test_aborted(self: Any) -> None:
        """An abort sends nothing more, and the other side sees a reset."""
        world = World(self, solo=True)
        world.receiving.write(b"never sent")
        world.receiving.abort(CLOSING)
        world.reactor.settle()
        with self.assertRaises(ConnectionResetError):
            world.socket.recv(99)
        self.assertEqual((world.receiving.ending, world.owner.endings), (CLOSING, [CLOSING]))

    def test_reset(self: Any) -> None:
        """A reset during a write is a loss, reported once."""
        world = World(self).secured()
        world.initiating.abort(CLOSING)
        world.receiving.write(BLOCK)
        world.reactor.settle()
        world.receiving.write(b"into the void\n")
        world.reactor.settle()
        self.assertEqual([each.cause for each in world.owner.endings], [Cause.CONNECTION_LOST])

    def test_held_while_it_is_lost(self: Any) -> None:
        """R16: input is read after the loss. The owner may pause the stream then, and the stream ends once."""
        world = World(self, solo=True)
        world.owner.on_event = lambda connection, event: connection.pause("no room")
        world.receiving.dataReceived(b"one\ntwo\n")
        world.receiving._transport.connectionLost(Failure(ConnectionLost()))
        self.assertEqual((world.stanzas(), [each.cause for each in world.owner.endings]), ([b"one\n", b"two\n"], [Cause.CONNECTION_LOST]))
        world.receiving.resume("no room")
        self.assertTrue(world.receiving.when_closed().called)

    def test_lost_while_it_is_held(self: Any) -> None:
        """A stream that is lost while it is paused, because of unread answers or by its owner, ends once."""
        for holder in ("answers", "owner"):
            world = World(self, solo=True)
            if holder == "answers":
                world.receiving._hold_answers()
            else:
                world.receiving.pause("no room")
            world.receiving._transport.connectionLost(Failure(ConnectionLost()))
            self.assertEqual([each.cause for each in world.owner.endings], [Cause.CONNECTION_LOST], holder)
            world.receiving.resume("no room")
            self.assertEqual((world.receiving.when_closed().called, world.reactor.getDelayedCalls()), (True, []), holder)

    def test_nothing_is_left(self: Any) -> None:
        """A connection that has ended is in no reference cycle: it leaves memory at once."""
        for end in ("close", "abort", "garble"):
            world = World(self).secured()
            if end == "close":
                world.initiating.close(CLOSING)
            elif end == "abort":
                world.initiating.abort(CLOSING)
            else:
                world.socket.send(b"\x17\x03\x03\x00\x20" + bytes(32))
            world.reactor.settle()
            left = [weakref.ref(world.receiving), weakref.ref(world.initiating)]
            gc.disable()
            try:
                world.receiving = world.initiating = None  # type: ignore[assignment]
                world.below = None
                self.assertEqual([reference() for reference in left], [None, None], end)
            finally:
                gc.enable()

    def records(self: Any, world: World) -> Records:
        """Do STARTTLS and the handshake. Return what makes the next records of the client."""
        secrets: list[Secrets] = []
        self.shake(world, prepare=lambda context: secrets.append(Secrets(context)))
        return secrets[0].client()

    def shake(
        self: Any, world: World, *, highest: int = SSL.TLS1_3_VERSION, verify: bool = True,
        prepare: Callable[[SSL.Context], object] = id,
    ) -> SSL.Connection:
        """Do STARTTLS and the handshake by hand on the plain socket. `prepare` gets the context."""
        world.socket.sendall(b"STARTTLS\n")
        world.reactor.settle()
        self.assertEqual(world.socket.recv(99), b"PROCEED\n")
        context = raw_context(leaf_for("peer.example"), highest=highest)
        context.set_verify(SSL.VERIFY_PEER, lambda *ignored: verify)
        prepare(context)
        tls = SSL.Connection(context, world.socket)
        tls.set_connect_state()
        for _ in range(10):
            try:
                tls.do_handshake()
                break
            except SSL.WantReadError:
                world.reactor.settle()
            except SSL.Error:
                break
        world.reactor.settle()
        return tls


class SocketTransportTests(Suite, SynchronousTestCase):
    """Tests of the transport on the socket alone."""

    def setUp(self) -> None:
        self.assertIsInstance(World(self).receiving._transport, SocketTransport)

    def test_one_turn(self) -> None:
        """The output of one turn is sent at its end, in one piece, without waiting for the reactor."""
        world = World(self).secured()
        world.reactor.waits = 0

        def answer(connection: StreamConnection, event: object) -> None:
            connection.write(b"answer\n")

        world.owner.on_event = answer
        world.initiating.write(b"one\n")
        world.initiating.write(b"two\n")
        world.reactor.settle()
        self.assertEqual((world.far_engine.fed[-1], world.reactor.waits), (b"answer\nanswer\n", 0))
        self.assertEqual(world.engine.fed[-1], b"one\ntwo\n")

    def test_the_handshake_ends_in_the_turn_that_began_it(self) -> None:
        """The other side's new header may arrive in the turn in which TLS began: TLS is reported first."""
        world = World(self, solo=True)
        facts = World(self).secured().receiving.secured

        def start_tls(creator: Any, is_client: bool, user: Any) -> None:
            user.tls_secured(facts)
            user.dataReceived(b"behind\n")

        assert world.receiving._socket is not None
        self.patch(world.receiving._socket, "start_tls", start_tls)
        world.engine.receive = self.told(world.engine)  # type: ignore[method-assign]
        world.socket.sendall(b"STARTTLS\n")
        world.reactor.settle()
        self.assertEqual(world.engine.log, [b"STARTTLS\n", "tls", b"behind\n"])

    def told(self, engine: ToyEngine) -> Any:
        """Return the engine's `receive`, wrapped to record its input in the log."""
        receive = engine.receive

        def noting(data: bytes) -> Any:
            engine.log.append(data)
            return receive(data)

        return noting

    def test_many_small_records(self) -> None:
        """Records of one byte are joined, and all are read in many turns."""
        world = World(self, solo=True)
        tls = self.shake(world)
        world.receiving.negotiated()
        del world.engine.fed[:]
        for _ in range(500):
            tls.send(b"y")
        world.reactor.settle()
        self.assertEqual(b"".join(world.engine.fed), b"y" * 500)
        self.assertLess(len(world.engine.fed), 20)

    def test_lease_ends_during_a_write(self) -> None:
        """The right is asked for before each part of a long write. What is left waits."""
        world = World(self, solo=True)
        answers = [True, True]
        lease = WriteLease(lambda: bool(answers) and answers.pop(), world.reactor)
        self.patch(world.receiving._socket, "_may_write", lease)
        world.receiving.write(b"x" * 2 * SEND_BYTES)
        world.reactor.settle()
        self.assertEqual((lease.waiting, answers), (1, []))
        self.assertIn(_drained(world), range(1, SEND_BYTES + 1))

    def one_read(self, *records: bytes, reset: bool = False) -> tuple[World, int, Any]:
        """Send these records, and read once. Return how often OpenSSL was asked for a record, and the result of the read."""
        world = World(self, solo=True)
        tls = self.shake(world)
        world.receiving.negotiated()
        del world.engine.fed[:]
        transport = world.receiving._socket
        assert transport is not None
        asked = Mock(wraps=transport._tls)
        self.patch(transport, "_tls", asked)
        for record in records:
            tls.send(record)
        if reset:
            world.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            world.socket.close()
        problem = transport.doRead()
        self.patch(transport, "_tls", tls)
        world.reactor.settle()
        return world, asked.recv.call_count, problem

    def test_a_record_alone(self) -> None:
        """OpenSSL is not asked for a record behind one that came alone. Records that came together are read at once."""
        world, asked, problem = self.one_read(b"one\n")
        self.assertEqual((world.engine.fed, asked, problem), ([b"one\n"], 1, None))
        world, asked, problem = self.one_read(b"one\n", b"two\n")
        self.assertEqual((world.engine.fed, asked, problem), ([b"one\ntwo\n"], 3, None))

    def test_read_alone(self) -> None:
        """The output of a stream that is read without a turn of its own is sent once, when the round ends."""
        world = World(self, solo=True)
        tls = self.shake(world)
        world.receiving.negotiated()

        def answer(connection: StreamConnection, event: object) -> None:
            connection.write(b"answer\n")

        world.owner.on_event = answer
        transport: Any = world.receiving._transport
        asked = Mock(wraps=transport._tls)
        self.patch(transport, "_tls", asked)
        tls.send(b"one\n")
        world.turns.begin_round(alone=True)
        transport.doRead()
        self.assertEqual((b"one\n", 0), (world.engine.fed[-1], asked.send.call_count))
        world.turns.end_round()
        self.assertEqual(1, asked.send.call_count)
        self.assertEqual(b"answer\n", tls.recv(99))

    def test_a_record_before_a_reset(self) -> None:
        """R16: a record that came before a reset is read, and the loss is reported."""
        world, _, problem = self.one_read(b"one\n", reset=True)
        self.assertIsNotNone(problem)
        self.assertEqual(world.engine.fed, [b"one\n"])

    def test_begins_when_the_clear_is_sent(self) -> None:
        """R5: TLS does not begin before all unencrypted output is sent, however slowly the other side reads."""
        world = World(self, solo=True)
        for _ in range(200):
            world.receiving.write(BLOCK)
        world.reactor.settle()
        self.assertEqual(world.owner.calls, ["connected", "paused"])
        world.receiving.step(world.engine.line, b"STARTTLS\n")
        taken = 0
        for _ in range(5000):
            world.reactor.turn()
            try:
                data = world.socket.recv(1 << 20)
            except BlockingIOError:
                continue
            taken += len(data)
            if data.endswith(b"PROCEED\n"):
                break
        self.assertEqual(taken, 200 * len(BLOCK) + len(b"PROCEED\n"))
        world.reactor.settle()
        context = raw_context(leaf_for("peer.example"))
        tls = SSL.Connection(context, world.socket)
        tls.set_connect_state()
        for _ in range(4):
            try:
                tls.do_handshake()
            except SSL.WantReadError:
                world.reactor.settle()
        world.reactor.settle()
        self.assertEqual(world.engine.log, ["tls"])

    def test_no_step_before_the_first_bytes(self) -> None:
        """OpenSSL is not called before something has come and was looked at: it would read what comes while it reads."""
        steps: list[int] = []
        step = SocketTransport._handshake

        def counted(transport: SocketTransport) -> BaseException | None:
            steps.append(len(transport._waiting(1)))
            return step(transport)

        self.patch(SocketTransport, "_handshake", counted)
        world = World(self, solo=True)
        world.socket.sendall(b"STARTTLS\n")
        world.reactor.settle()
        self.assertEqual([], steps)
        world.socket.sendall(b"\x16")
        world.reactor.settle()
        self.assertEqual([1], steps[:1])

    def test_a_handshake_in_pieces(self) -> None:
        """A ClientHello of 16 kB in records of one byte each is not read: OpenSSL would do so in one call (RFC 8446 §5.1)."""
        world = World(self, solo=True)
        world.socket.sendall(b"STARTTLS\n")
        world.reactor.settle()
        pieces = struct.pack("!BHHI", 22, 0x301, 4, 0x01004000) + struct.pack("!BHHB", 22, 0x301, 1, 0) * 5000
        world.socket.sendall(pieces)
        world.reactor.settle()
        self.assertEqual(world.ending, Ending(Cause.TLS_FAILED, "too many small records", "network"))

    def test_a_session_ticket_in_pieces(self) -> None:
        """Many tiny records of a server that is not proven yet are not read: a session ticket may have 128 kB (RFC 8446 §4.6.1).

        A proven one may send more of them, but not thousands at once. (These cannot be decrypted.)
        """
        for proven, number, refused in ((False, 2 * RECORDS, True), (True, 2 * RECORDS, False), (True, PROVEN_TINY_RECORDS + 1, True)):
            self.assertEqual(refused, self.pieces(proven, TINY * number))

    def pieces(self, proven: bool, *sent: bytes) -> bool:
        """Let a server send these bytes, one after another. Return whether it is refused for its small records."""
        world = World(self)
        world.initiating.step(world.far_engine.begin)
        world.reactor.settle()
        if proven:
            world.initiating.negotiated()
        for data in sent:
            self.assertIsNone(world.initiating.ending)
            world.below.socket.sendall(data)
            world.reactor.settle()
        ending = world.initiating.ending
        assert ending is not None
        self.assertEqual(Cause.TLS_FAILED, ending.cause)
        return ending.detail == "too many small records"

    def test_a_session_ticket_in_pieces_behind_a_part_of_a_record(self) -> None:
        """Tiny records are found if OpenSSL has read the beginning of the record before them, whatever the rest of it looks like."""
        head, rest = struct.pack("!BHH", 23, 0x303, 1000) + bytes(10), b"\xff" * 990
        for proven in (False, True):
            self.assertTrue(self.pieces(proven, head, rest + TINY * (PROVEN_TINY_RECORDS + 1)))

    def test_a_session_ticket_in_pieces_behind_large_records(self) -> None:
        """Tiny records of a proven server are found behind as many large ones as one turn reads."""
        large = struct.pack("!BHH", 23, 0x303, 8000) + bytes(8000)
        self.assertTrue(self.pieces(True, large * 8 + TINY * (PROVEN_TINY_RECORDS + 1)))

    def test_white_space_of_a_server(self) -> None:
        """White space between stanzas comes in tiny records. A proven server may send hundreds at once, while it is not read."""
        world = World(self).secured()
        world.initiating.pause("a test")
        transport: Any = world.receiving._socket
        for _ in range(PROVEN_TINY_RECORDS):
            transport._tls.send(b" ")
        world.initiating.resume("a test")
        world.reactor.settle()
        self.assertEqual((None, PROVEN_TINY_RECORDS), (world.initiating.ending, b"".join(world.far_engine.fed).count(b" ")))

    def test_messages_that_take_long(self) -> None:
        """Of messages that take long, because each comes in thousands of records, few are read in one call. In many calls all are."""
        for at_once in (True, False):
            times = iter(MESSAGES_SECONDS / 20 * number for number in range(100))
            self.patch(socket_transport, "thread_time", partial(next, times))
            world = World(self, solo=True)
            records = self.records(world)
            messages = [records.key_update() for _ in range(10)]
            for data in [b"".join(messages)] if at_once else messages:
                world.socket.sendall(data)
                world.reactor.settle()
            flooded = Ending(Cause.TLS_FAILED, "too many TLS messages without data", "them")
            self.assertEqual(world.receiving.ending, flooded if at_once else None)

    def test_a_handshake_behind_large_records(self) -> None:
        """Small records behind large ones are not read either."""
        world = World(self, solo=True)
        world.below.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        world.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        world.socket.sendall(b"STARTTLS\n")
        world.reactor.settle()
        body = struct.pack("!I", 0x0101FF00) + bytes(0x1FF00)
        large = b"".join(struct.pack("!BHH", 22, 0x301, 16384) + body[at : at + 16384] for at in range(0, 65536, 16384))
        world.socket.sendall(large + struct.pack("!BHHB", 22, 0x301, 1, 0) * 5000)
        world.reactor.settle()
        self.assertEqual(world.ending, Ending(Cause.TLS_FAILED, "too many small records", "network"))

    def test_data_right_behind_the_handshake(self) -> None:
        """Data that the other side sends right behind its last message of the handshake is read, many records and many bytes of it.

        A server does so without waiting if a zero handshake is agreed (XEP-0361).
        """
        for number, size in ((40, 4000), (200, 30)):
            world = World(self, solo=True)
            world.below.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            world.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            world.socket.sendall(b"STARTTLS\n")
            world.reactor.settle()
            self.assertEqual(world.socket.recv(99), b"PROCEED\n")
            tls = SSL.Connection(raw_context(leaf_for("peer.example")), None)
            tls.set_connect_state()
            with self.assertRaises(SSL.WantReadError):
                tls.do_handshake()
            world.socket.sendall(tls.bio_read(100_000))
            world.reactor.settle()
            tls.bio_write(world.socket.recv(100_000))
            tls.do_handshake()
            for _ in range(number):
                tls.sendall(b"x" * size + b"\n")
            world.socket.sendall(tls.bio_read(1 << 20))
            world.reactor.settle()
            self.assertEqual((None, number * size), (world.receiving.ending, b"".join(world.stanzas()).count(b"x")))

    def test_a_handshake_in_a_few_pieces(self) -> None:
        """A ClientHello in a few records is read."""
        world = World(self, solo=True)
        world.socket.sendall(b"STARTTLS\n")
        world.reactor.settle()
        self.assertEqual(world.socket.recv(99), b"PROCEED\n")
        tls = SSL.Connection(raw_context(), None)
        tls.set_connect_state()
        with self.assertRaises(SSL.WantReadError):
            tls.do_handshake()
        hello = tls.bio_read(100_000)[5:]
        size = len(hello) // RECORDS + 1
        parts = [hello[at : at + size] for at in range(0, len(hello), size)]
        world.socket.sendall(b"".join(struct.pack("!BHH", 22, 0x301, len(part)) + part for part in parts))
        world.reactor.settle()
        self.assertEqual((world.receiving.ending, world.socket.recv(1)), (None, b"\x16"))

    def test_no_room_for_an_answer_of_tls(self) -> None:
        """If TLS must answer what it reads (a KeyUpdate) and the socket takes no more, it is read again when the socket does.

        Until then the reactor must not report the input again and again.
        """
        world = World(self).secured()
        transport: Any = world.receiving._socket
        real = transport._tls
        full = Mock(wraps=real)
        full.recv.side_effect = SSL.WantWriteError
        transport._tls = full
        world.initiating.write(b"one\n")
        while not full.recv.called:
            world.reactor.turn()
        self.assertIn(transport, world.reactor.getWriters())
        self.assertNotIn(transport, world.reactor.getReaders())
        world.receiving.pause("a test")
        world.receiving.resume("a test")
        self.assertNotIn(transport, world.reactor.getReaders())
        transport._tls = real
        world.reactor.settle()
        self.assertEqual((world.stanzas(), transport in world.reactor.getReaders()), ([b"one\n"], True))

    def test_other_transports(self) -> None:
        """A transport that is not a TCP socket of Twisted's is not replaced."""
        self.assertIsNone(take_over(object(), Recorder(), Turns(SocketReactor())))  # type: ignore[arg-type]

    def test_relayed(self) -> None:
        """The addresses that a proxy reported are kept, and a header that is still to be sent goes first."""
        reactor = SocketReactor()
        self.addCleanup(reactor.close)
        near, far = connected()
        self.addCleanup(near.close)
        engine, owner = ToyEngine(), Recorder()
        stream = StreamConnection(engine, owner, clock=reactor, role="receiving", tls=lambda order: None, options=SOON)
        peer, host = IPv4Address("TCP", "192.0.2.1", 1), IPv4Address("TCP", "192.0.2.2", 2)

        class Announcing(Protocol):
            def makeConnection(self, transport: Any) -> None:
                transport.write(b"PREFACE\n")
                stream.makeConnection(RelayedTransport(RelayedTransport(transport, host, peer), peer, host))

            def connectionLost(self, reason: Any = None) -> None:
                stream.connectionLost(reason)

        serve(reactor, far, Announcing())
        stream.write(b"behind\n")
        reactor.settle()
        self.assertEqual((near.recv(99), stream.peer_address, stream.local_address), (b"PREFACE\nbehind\n", "192.0.2.1:1", "192.0.2.2:2"))
        self.assertIsInstance(stream._transport, SocketTransport)

    def test_direct_tls_that_was_read(self) -> None:
        """XEP-0368: a connection whose first TLS bytes were read before its stream was built is secured all the same."""
        reactor = SocketReactor()
        self.addCleanup(reactor.close)
        near, far = connected()
        near.setblocking(False)
        self.addCleanup(near.close)
        engine = ToyEngine()
        stream = StreamConnection(
            engine, Recorder(), clock=reactor, role="receiving", direct_tls=True, options=SOON,
            tls=lambda order: server_context_of().for_domain(LOCAL),
        )

        class Waiting(HandoverProtocol):
            def prefaceReceived(self, data: bytes) -> None:
                stream.has_preface = True
                self.hand_over(stream, self.transport, data)

        serve(reactor, far, Waiting())
        tls = client_handshake(reactor, near)
        tls.send(b"inside\n")
        reactor.settle()
        self.assertEqual((engine.log, engine.fed), (["tls"], [b"inside\n"]))

    def test_full(self) -> None:
        """More output than one turn holds is sent at once, before the producer is told to pause."""
        world = World(self).secured()
        world.initiating.write(b"z" * (FULL_BYTES // 2))
        world.initiating.write(b"z" * FULL_BYTES + b"\n")
        self.assertNotIn("paused", world.far_owner.calls)
        world.reactor.settle()
        self.assertEqual(len(world.read()), FULL_BYTES * 3 // 2 + 1)

    def test_after_the_loss(self) -> None:
        """After the loss every call has no effect."""
        world = World(self, solo=True)
        transport = world.receiving._socket
        assert transport is not None
        world.socket.close()
        world.reactor.settle()
        transport.write(b"x")
        transport.loseConnection()
        transport.abortConnection()
        transport.resumeProducing()
        transport.release()
        world.reactor.settle()
        self.assertEqual((transport.fileno(), world.reactor.getReaders()), (-1, []))


    def blocked(self) -> tuple[World, SSL.Connection]:
        """Return a stream under TLS that has more to send than the other side reads, and that side."""
        world = World(self, solo=True)
        tls = self.shake(world)
        world.receiving.negotiated()
        while "paused" not in world.owner.calls:
            world.receiving.write(BLOCK)
            world.reactor.settle()
        return world, tls

    def drain(self, world: World, tls: SSL.Connection) -> bytes:
        """Return what the other side reads until the close."""
        data = b""
        for _ in range(5000):
            world.reactor.turn()
            try:
                data += tls.recv(1 << 20)
            except SSL.WantReadError:
                continue
            except SSL.ZeroReturnError:
                return data
        raise AssertionError("the connection does not close")

    def test_closed_as_soon_as_it_is_writable(self) -> None:
        """An owner may close a stream within the call that resumes it: the close of the other side is waited for all the same."""
        world, tls = self.blocked()
        self.patch(world.owner, "resumed", lambda connection: connection.close(CLOSING))
        self.assertTrue(self.drain(world, tls).endswith(b"CLOSE\n"))
        world.reactor.settle()
        self.assertFalse(world.receiving.when_closed().called)
        tls.shutdown()
        world.reactor.settle()
        self.assertTrue(world.receiving.when_closed().called)

    def test_not_writable_once_it_is_lost(self) -> None:
        """After a failed send no more output is accepted until the close, which may take some turns: it would count as sent."""
        world = World(self, solo=True)
        world.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        world.socket.close()
        self.assertFalse(world.receiving.write(b"one\n"))
        closings: list[Any] = []
        self.patch(world.turns, "close_soon", closings.append)
        world.reactor.advance(0)
        self.assertEqual((len(closings), world.receiving.ending), (1, None))
        self.assertTrue(world.receiving.write(b"two\n"))
        closings[0]()
        self.assertEqual([each.cause for each in world.owner.endings], [Cause.CONNECTION_LOST])

    def test_no_room_for_close_notify(self) -> None:
        """If the socket has no room for close_notify, it is sent as soon as there is room, and the other side is waited for."""
        world = World(self, solo=True)
        tls = self.shake(world)
        transport = world.receiving._socket
        assert transport is not None
        refused, shutdown = iter([True]), transport._tls.shutdown

        def full_once() -> bool:
            if next(refused, False):
                raise SSL.WantWriteError
            return bool(shutdown())

        self.patch(transport._tls, "shutdown", full_once)
        world.receiving.close(CLOSING)
        world.reactor.turn()
        self.assertFalse(world.receiving.when_closed().called)
        self.assertEqual(self.drain(world, tls), b"CLOSE\n")
        self.assertFalse(world.receiving.when_closed().called)
        tls.shutdown()
        world.reactor.settle()
        self.assertTrue(world.receiving.when_closed().called)


class TwistedTransportTests(Suite, SynchronousTestCase):
    """Tests of Twisted's own transport, which is used without a socket of our own."""

    def setUp(self) -> None:
        self.patch(connection_module, "take_over", lambda *arguments: None)
