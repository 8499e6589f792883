"""Tests of the adapter between transport and engine, with simple engines and real TLS in memory."""

from __future__ import annotations

import socket

from OpenSSL import SSL
from twisted.internet.address import IPv6Address
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.buffering import InputBuffer, UnsentBytes
from s2sgw.net.connection import ALONE_BYTES, FULL_BYTES, NEGOTIATION_BYTES, ConnectionOptions, StreamConnection
from s2sgw.queue.memory import SharedMemory
from s2sgw.stream.events import Event, JudgementNeeded, PairProven, Refusal, StanzasReceived, StartTLS, VerifyReady
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from tests.support.certificates import leaf_for
from tests.support.wires import LOCAL, PAIR, PEER, Ends, RawTLS, Recorder, Solo, ToyEngine, raw_context

CLOSING = Ending(Cause.SHUTDOWN, "a test")
REFUSAL = Refusal(StreamCondition.POLICY_VIOLATION, "no", Ending(Cause.NOT_ALLOWED))
SOON = ConnectionOptions(negotiation_timeout=10.0, close_timeout=5.0, hold_timeout=60.0)


class InputTests(SynchronousTestCase):
    """The input of one reactor turn is fed at once (docs/decisions.md#batching)."""

    def test_reads_of_one_turn_are_joined(self) -> None:
        """Several reads before the turn make one call of the engine, in their order."""
        solo = Solo()
        solo.receive(b"one\n", b"two\n", b"three\n")
        self.assertEqual(solo.engine.fed, [b"one\ntwo\nthree\n"])

    def test_records_are_joined(self) -> None:
        """Under TLS, where each record is delivered separately, thousands of one-byte records make one call of the engine."""
        solo = Solo()
        solo.receive(b"STARTTLS\n")
        raw = RawTLS(solo, raw_context()).run()
        del solo.engine.fed[:]
        raw.send(*[b"x"] * 5000)
        self.assertEqual(solo.engine.fed, [b"x" * 5000])

    def test_each_turn_is_fed(self) -> None:
        """Input of a later turn is fed in that turn, and the time of the last input is known."""
        solo = Solo()
        solo.receive(b"one\n")
        solo.clock.advance(3)
        solo.receive(b"two\n")
        self.assertEqual(solo.engine.fed, [b"one\n", b"two\n"])
        self.assertEqual(solo.connection.last_received, 3)

    def test_alone(self) -> None:
        """The input of a stream that alone has some is read at once, unless some of the stream's waits, or it is too long for that."""
        for prepare, is_read in (
            (lambda solo: None, True),
            (lambda solo: solo.turns.begin_round(), False),
            (lambda solo: solo.connection._intake.want_turn(), False),
            (lambda solo: solo.connection.pause("lane"), False),
            (lambda solo: setattr(solo.connection, "busy", True), False),
            (lambda solo: setattr(solo.connection, "established", False), False),
            (lambda solo: setattr(solo.engine, "backlogged", True), False),
        ):
            solo = Solo()
            solo.connection.negotiated()
            solo.turns.begin_round(alone=True)
            prepare(solo)
            solo.clock.advance(3)
            solo.connection.dataReceived(b"one\n")
            self.assertEqual(([b"one\n"], 3) if is_read else ([], 0), (solo.engine.fed, solo.connection.last_received))
        solo = Solo()
        solo.connection.negotiated()
        solo.turns.begin_round(alone=True)
        solo.connection.dataReceived(b"x" * ALONE_BYTES + b"\n")
        self.assertEqual([], solo.engine.fed)
        solo.turns.end_round()
        self.assertEqual([b"x" * ALONE_BYTES + b"\n"], solo.engine.fed)

    def test_alone_at_the_end(self) -> None:
        """Input that is read at once and ends the stream is answered, and nothing that comes later is read."""
        solo = Solo()
        solo.connection.negotiated()
        solo.turns.begin_round(alone=True)
        solo.connection.dataReceived(b"BYE\n")
        solo.connection.dataReceived(b"more\n")
        solo.turns.end_round()
        self.assertEqual(([b"BYE\n"], [Cause.CLOSED]), (solo.engine.fed, [each.cause for each in solo.owner.endings]))

    def test_input_is_read_after_the_loss(self) -> None:
        """R16: input of the turn in which the connection is lost is delivered before the end."""
        solo = Solo()
        solo.connection.dataReceived(b"last words\n")
        solo.lose()
        self.assertEqual(solo.engine.fed, [b"last words\n"])
        self.assertEqual(len(solo.owner.events), 1)
        self.assertEqual([e.cause for e in solo.owner.endings], [Cause.CONNECTION_LOST])
        solo.clock.advance(0)  # the scheduled turn has nothing to do

    def test_a_closing_tag_before_the_loss(self) -> None:
        """R16: a stream that was closed before its transport ended was closed in order."""
        solo = Solo()
        solo.connection.dataReceived(b"BYE\n")
        solo.lose()
        self.assertEqual([e.cause for e in solo.owner.endings], [Cause.CLOSED])

    def test_nothing_after_the_end(self) -> None:
        """Input after the end is ignored."""
        solo = Solo()
        solo.receive(b"BYE\n")
        solo.receive(b"more\n")
        self.assertEqual(solo.engine.fed, [b"BYE\n"])
        self.assertEqual(solo.connection._intake.size, 0)  # and is not kept


class HoldTests(SynchronousTestCase):
    """Tests of back-pressure to the other side."""

    def test_several_holders(self) -> None:
        """Reading continues when the last of several holders has resumed. Each may call pause and resume twice."""
        solo = Solo()
        for holder in ("lane", "lane", "limit"):
            solo.connection.pause(holder)
        self.assertEqual(solo.transport.producerState, "paused")
        solo.connection.resume("lane")
        solo.connection.resume("lane")
        self.assertEqual(solo.transport.producerState, "paused")
        solo.connection.resume("limit")
        self.assertEqual(solo.transport.producerState, "producing")

    def test_what_is_read_already_waits(self) -> None:
        """Records of the read in which the pause came are not fed until the pause is over."""
        solo = Solo()
        solo.connection.pause("lane")
        solo.receive(b"one\n", b"two\n")
        self.assertEqual(solo.engine.fed, [])
        solo.connection.resume("lane")
        self.assertEqual(solo.engine.fed, [])  # not during the call
        solo.clock.advance(0)
        self.assertEqual(solo.engine.fed, [b"one\ntwo\n"])

    def test_pause_and_resume_before_the_turn(self) -> None:
        """A scheduled turn feeds once, also after a pause and a resume."""
        solo = Solo()
        solo.connection.dataReceived(b"one\n")
        solo.connection.pause("lane")
        solo.connection.resume("lane")
        solo.clock.advance(0)
        self.assertEqual(solo.engine.fed, [b"one\n"])

    def test_held_input_is_read_after_the_loss(self) -> None:
        """R16: input held back when the connection is lost is delivered."""
        solo = Solo()
        solo.connection.pause("lane")
        solo.connection.dataReceived(b"one\n")
        solo.lose()
        self.assertEqual(solo.engine.fed, [b"one\n"])
        solo.connection.resume("lane")  # nothing is left to resume

    def test_unread_input(self) -> None:
        """Input is unread while the stream is held, while it waits for its turn, and while only the system has it."""
        solo, (near, far) = Solo(), socket.socketpair()
        self.addCleanup(near.close)
        self.addCleanup(far.close)
        solo.connection.negotiated()
        solo.transport.socket = near  # type: ignore[attr-defined]
        self.assertFalse(solo.connection.has_unread_input)
        solo.connection.pause("lane")
        self.assertTrue(solo.connection.has_unread_input)
        solo.connection.resume("lane")
        solo.connection.dataReceived(b"one\n")
        self.assertTrue(solo.connection.has_unread_input)
        solo.clock.advance(0)
        self.assertFalse(solo.connection.has_unread_input)
        far.send(b"two\n")
        self.assertTrue(solo.connection.has_unread_input)
        solo.connection.close(CLOSING)
        self.assertFalse(solo.connection.has_unread_input)
        solo.lose()

    def test_held_too_long(self) -> None:
        """A paused transport sees neither FIN nor RST, so a hold is bounded: at its end the stream ends for lack of room."""
        solo = Solo(options=SOON)
        solo.connection.negotiated()
        solo.connection.pause("lane")
        solo.clock.advance(59)
        self.assertIsNone(solo.ending)
        solo.clock.advance(1)
        assert solo.ending is not None
        self.assertEqual(solo.ending.cause, Cause.QUEUE_FULL)
        self.assertEqual(solo.written(), b"ERROR resource-constraint\nCLOSE\n")
        self.assertEqual(solo.transport.producerState, "producing")  # so that the other side's close is seen

    def test_short_holds_are_no_long_one(self) -> None:
        """Many short holds need one timer. Its time counts from the start of the current hold."""
        solo = Solo(options=SOON)
        solo.connection.negotiated()
        for _ in range(4):
            solo.connection.pause("lane")
            solo.clock.advance(40)
            solo.connection.resume("lane")
            solo.clock.advance(1)
            self.assertEqual(len(solo.clock.getDelayedCalls()), 1)
        self.assertIsNone(solo.ending)
        solo.connection.pause("lane")
        solo.clock.advance(59)
        self.assertIsNone(solo.ending)
        solo.clock.advance(1)
        self.assertIsNotNone(solo.ending)

    def test_a_hold_that_is_over(self) -> None:
        """The timer of a hold that has ended does nothing."""
        solo = Solo(options=SOON)
        solo.connection.negotiated()
        solo.connection.pause("lane")
        solo.connection.resume("lane")
        solo.clock.advance(100)
        self.assertIsNone(solo.ending)
        self.assertEqual(solo.clock.getDelayedCalls(), [])

    def test_no_hold_after_the_end(self) -> None:
        """A closing transport is never paused: it must see the other side close."""
        solo = Solo(options=SOON)
        solo.connection.close(CLOSING)
        solo.connection.pause("lane")
        self.assertEqual(solo.transport.producerState, "producing")
        solo.connection.resume("lane")

    def test_evidence_is_not_held(self) -> None:
        """The engine is told of TLS even while reading is paused."""
        solo = Solo()
        solo.receive(b"STARTTLS\n")
        raw = RawTLS(solo, raw_context())
        solo.owner.on_event = lambda connection, event: connection.pause("judging")
        raw.run()
        raw.send(b"early\n")
        self.assertEqual((solo.engine.log, solo.engine.fed), (["tls"], [b"STARTTLS\n"]))


class OutputTests(SynchronousTestCase):
    """Tests of back-pressure from the other side, and of output."""

    def test_full_transport_is_reported_to_the_owner(self) -> None:
        """A full transport pauses the owner once, and resumes it once, even if it reports twice."""
        solo = Solo()
        tap = solo.tap
        self.assertTrue(solo.transport.streaming)
        tap.pauseProducing()
        tap.pauseProducing()
        self.assertFalse(solo.connection.writable)
        tap.resumeProducing()
        tap.resumeProducing()
        self.assertTrue(solo.connection.writable)
        self.assertEqual(solo.owner.calls, ["connected", "paused", "resumed"])
        tap.stopProducing()

    def test_through_tls(self) -> None:
        """The output is paused by the transport below the TLS layer: that is the one that fills up."""
        solo = Solo()
        solo.receive(b"STARTTLS\n")
        RawTLS(solo, raw_context()).run()
        tap = solo.tap
        tap.pauseProducing()
        tap.resumeProducing()
        self.assertEqual(solo.owner.calls[-2:], ["paused", "resumed"])

    def test_not_after_the_end(self) -> None:
        """After the end back-pressure is no longer reported."""
        solo = Solo()
        tap = solo.tap
        solo.connection.close(CLOSING)
        tap.pauseProducing()
        self.assertEqual(solo.owner.calls, ["connected", CLOSING])

    def test_stanzas_are_written_past_the_engine(self) -> None:
        """Stanza bytes go to the transport. After the end they are discarded."""
        solo = Solo()
        solo.connection.write(b"<message/>")
        self.assertEqual(solo.written(), b"<message/>")
        solo.connection.close(CLOSING)
        solo.written()
        solo.connection.write(b"<message/>")
        self.assertEqual(solo.written(), b"")

    def test_nothing_is_written_to_a_lost_transport(self) -> None:
        """Bytes that an owner writes after the connection was lost are discarded without an error."""
        solo = Solo()
        solo.owner.on_event = write_too_late
        solo.connection.dataReceived(b"last words\n")
        solo.lose()
        self.assertEqual(solo.written(), b"")


def write_too_late(connection: StreamConnection, event: Event) -> None:
    connection.write(b"too late")


class Answering(ToyEngine):
    """An engine that answers each line with a fixed number of bytes, and reads `lines` of them in one step."""

    def __init__(self, answer: int = 1000, lines: int = 4) -> None:
        super().__init__()
        self.rest_of_lines: list[bytes] = []
        self.answer = answer
        self.lines = lines
        self.steps = 0

    @property
    def backlogged(self) -> bool:  # type: ignore[override]
        return bool(self.rest_of_lines)

    def receive(self, data: bytes) -> list[Event]:
        self.fed.append(data)
        self.rest_of_lines += data.splitlines(keepends=True)
        return self.proceed()

    def proceed(self) -> list[Event]:
        self.steps += 1
        now, self.rest_of_lines = self.rest_of_lines[: self.lines], self.rest_of_lines[self.lines :]
        events: list[Event] = []
        for line in now:
            if line == b"PROVE\n":
                events += self.line(line)
            else:
                self.out += b"x" * self.answer
        return events


class UnreadAnswersTests(SynchronousTestCase):
    """Tests of a peer that sends requests and does not read the answers."""

    def solo(self, established: bool = False, **options: int) -> Solo:
        self.engine = Answering(**options)
        solo = Solo(engine=self.engine)
        if established:
            solo.receive(b"PROVE\n")
        return solo

    def ask(self, solo: Solo, number: int, turns: int = 50) -> int:
        """Send this many requests in one read, and run this many turns; return the number of answer bytes written."""
        solo.connection.dataReceived(b"?\n" * number)
        for _ in range(turns):
            solo.clock.turn()
        return len(solo.written())

    def test_all_is_answered_in_several_turns(self) -> None:
        """One turn makes a bounded number of answer bytes. The others follow, and none is lost."""
        for established in (False, True):
            solo = self.solo(established)
            self.assertEqual(self.ask(solo, 100, turns=1), 20_000)
            self.assertEqual(self.ask(solo, 0), 80_000)
            self.assertEqual((self.engine.backlogged, len(solo.clock.getDelayedCalls())), (False, 0 if established else 1))

    def test_read_no_further(self) -> None:
        """While the transport is full nothing is read or answered, in either state. Then reading continues from there."""
        for established in (False, True):
            solo = self.solo(established)
            solo.tap.pauseProducing()
            self.assertEqual(self.ask(solo, 100), 0)
            self.assertEqual(solo.transport.producerState, "paused")
            solo.tap.resumeProducing()
            self.assertEqual(solo.transport.producerState, "producing")
            self.assertEqual(self.ask(solo, 0), 100_000)

    def test_full_in_the_midst(self) -> None:
        """If a transport fills up during a long read, at most one more step is answered."""
        solo = self.solo(True)
        self.ask(solo, 100, turns=1)
        solo.tap.pauseProducing()
        self.assertEqual(self.ask(solo, 100), 0)
        self.assertTrue(self.engine.backlogged)

    def test_two_sides_that_both_send(self) -> None:
        """If stanzas are sent too, the stream is read while it is full, up to a limit: otherwise both sides would wait for each other."""
        solo = self.solo(True)
        solo.connection.write(b"<message/>")
        solo.written()
        solo.tap.pauseProducing()
        self.assertEqual(self.ask(solo, 10), 10_000)
        self.assertEqual(self.ask(solo, 1000), 8_000)
        self.assertEqual(solo.transport.producerState, "paused")

    def test_it_ends(self) -> None:
        """A paused transport sees no FIN: a stream that is not read for a minute is aborted."""
        solo = self.solo(True)
        solo.tap.pauseProducing()
        self.ask(solo, 10)
        solo.clock.advance(ConnectionOptions().blocked_timeout - 1)
        self.assertIsNone(solo.ending)
        solo.clock.advance(1)
        self.assertEqual((solo.ending and solo.ending.cause, solo.transport.disconnected), (Cause.UNRESPONSIVE, True))
        self.assertEqual(solo.clock.getDelayedCalls(), [])

    def test_timer_of_an_end(self) -> None:
        """A stream that ends otherwise while it is full leaves no timer."""
        for end in ("close", "lose", "open"):
            solo = self.solo(True)
            solo.tap.pauseProducing()
            {"close": lambda: solo.connection.close(CLOSING), "lose": solo.lose, "open": solo.tap.resumeProducing}[end]()  # noqa: B023
            if end == "close":
                solo.lose()
            self.assertNotIn(solo.connection._blocked_too_long, [call.func for call in solo.clock.calls], end)

    def test_the_loss_ends_the_wait(self) -> None:
        """R16: input received before a loss is read, however it was held back."""
        solo = self.solo(True)
        solo.tap.pauseProducing()
        self.ask(solo, 100)
        steps = self.engine.steps
        solo.lose()
        self.assertEqual((self.engine.backlogged, self.engine.steps - steps), (False, 25))

    def test_counted(self) -> None:
        """Waiting bytes count as memory from the moment the transport is full until it has room or has ended."""
        for end in ("open", "lose", "abort"):
            memory = SharedMemory(1 << 20)
            solo = self.solo(True)
            solo.connection._unsent = UnsentBytes(memory)
            solo.connection.write(b"<message/>")
            solo.tap.pauseProducing()
            self.assertEqual(memory.used, FULL_BYTES)
            self.ask(solo, 10)
            self.assertEqual(memory.used, FULL_BYTES + 10_000)
            {"open": solo.tap.resumeProducing, "lose": solo.lose, "abort": lambda: solo.connection.abort(CLOSING)}[end]()  # noqa: B023
            self.assertEqual(memory.used, 0)

    def test_strangers_beyond_their_share(self) -> None:
        """A stranger is disconnected if there is no room for its answers: soon, but not during the write."""
        solo = self.solo()
        solo.connection._unsent = UnsentBytes(SharedMemory(FULL_BYTES))
        solo.tap.pauseProducing()
        self.assertIsNone(solo.ending)
        solo.clock.advance(0)
        self.assertEqual(solo.ending and solo.ending.cause, Cause.UNRESPONSIVE)


class TurnTests(SynchronousTestCase):
    """Tests of how much of one stream is read in one turn."""

    def test_negotiation(self) -> None:
        """A stream in negotiation is read in parts, one per turn."""
        solo = Solo()
        solo.connection.dataReceived(b"x" * 40_000)
        fed = []
        for _ in range(4):
            solo.clock.turn()
            fed.append([len(data) for data in solo.engine.fed])
            solo.engine.fed.clear()
        self.assertEqual(fed, [[NEGOTIATION_BYTES], [NEGOTIATION_BYTES], [40_000 - 2 * NEGOTIATION_BYTES], []])

    def test_stanzas(self) -> None:
        """An established stream is read in one turn, as far as input has arrived."""
        solo = Solo()
        solo.receive(b"PROVE\n")
        solo.receive(b"x" * 40_000)
        self.assertEqual(len(b"".join(solo.engine.fed[-2:])), 40_000)

    def test_portions(self) -> None:
        """The size of a read is adapted to its time: small at first, then larger, and smaller if reads take long."""
        solo = Solo()
        solo.receive(b"PROVE\n")
        now, each = 0.0, 0.0
        self.patch(solo.connection._turns.budget, "stopwatch", lambda: now)
        receive = solo.engine.receive

        def slow(data: bytes) -> list[Event]:
            nonlocal now
            now += each
            return receive(data)

        solo.engine.receive = slow  # type: ignore[method-assign]
        sizes = []
        for seconds in (0.001, 0.011, 0.011, 0.011, 0.004, 0.011, 0.011, 0.011, 0.011):
            each = seconds
            solo.engine.fed.clear()
            solo.connection.dataReceived(b"x" * 262_144)
            solo.clock.turn()
            sizes.append([len(data) for data in solo.engine.fed])
            while solo.connection._intake.size:
                solo.connection._intake.take()
        few, some, most = 16_384, 32_768, 65_536
        self.assertEqual(sizes, [[few, some, most, most, most, 262_144 - few - some - 3 * most], [most], [some], [few], [few // 2] * 2, [few // 2], [few // 4], [few // 4], [few // 4]])

    def test_time(self) -> None:
        """An engine that takes long leaves the rest to the next turn."""
        engine = Answering(answer=0, lines=1)
        solo = Solo(engine=engine)
        proceed = engine.proceed

        def slow() -> list[Event]:
            self.now += 0.003
            return proceed()

        self.now = 0.0
        self.patch(solo.connection._turns.budget, "stopwatch", lambda: self.now)
        engine.proceed = slow  # type: ignore[method-assign]
        solo.connection.dataReceived(b"?\n" * 5)
        steps = []
        for _ in range(4):
            before = engine.steps
            solo.clock.turn()
            steps.append(engine.steps - before)
        self.assertEqual(steps, [2, 2, 1, 0])

    def test_an_answer_of_the_owner(self) -> None:
        """If an answer of the owner lets the engine continue, it continues in a turn of its own."""
        engine = Answering(answer=0, lines=1)
        solo = Solo(engine=engine)
        engine.rest_of_lines = [b"?\n"] * 3
        solo.connection.step(list)
        self.assertEqual(engine.steps, 0)
        solo.clock.advance(0)
        self.assertEqual(engine.steps, 3)


class DelayTests(SynchronousTestCase):
    """Tests of TCP options."""

    def test_no_delay(self) -> None:
        """TCP_NODELAY is set on every leg (docs/decisions.md#batching)."""
        self.assertTrue(Solo().transport.no_delay)


class StartTLSTests(SynchronousTestCase):
    """Tests of the change to TLS."""

    def test_both_sides_are_secured(self) -> None:
        """R12: each engine is told that TLS is established, and each side has the other's whole chain."""
        ends = Ends().start_tls()
        for owner, engine in ((ends.server_owner, ends.server_engine), (ends.client_owner, ends.client_engine)):
            self.assertEqual(engine.log, ["tls"])
            self.assertIsInstance(owner.events[0], JudgementNeeded)
        self.assertEqual(ends.server.chain, leaf_for("peer.example").der_chain)
        self.assertEqual(ends.client.chain, leaf_for("example.org").der_chain)

    def test_before_tls(self) -> None:
        """Before TLS there is no evidence."""
        connection = Solo().connection
        self.assertEqual((connection.chain, connection.tls_version, connection.cipher), ((), None, None))

    def test_proceed_is_sent_before_tls_begins(self) -> None:
        """R5, R6: `<proceed/>` is sent unencrypted, with nothing after it, and TLS begins at the next byte."""
        solo = Solo()
        self.assertEqual(solo.receive(b"STARTTLS\n"), b"PROCEED\n")
        raw = RawTLS(solo, raw_context()).run()
        self.assertEqual((raw.problem, solo.engine.log), (None, ["tls"]))

    def test_greeting_after_tls_is_encrypted(self) -> None:
        """R8: the engine's output after the handshake is encrypted."""
        solo = Solo()
        solo.engine.greets_after_tls = b"<stream>"
        solo.receive(b"STARTTLS\n")
        self.assertEqual(RawTLS(solo, raw_context()).run().plain, b"<stream>")

    def test_plain_text_that_waits_is_an_injection(self) -> None:
        """R6, R7: if unencrypted input has arrived when TLS is to begin, it is refused and not read. `<proceed/>` is not sent."""
        solo = Solo()
        solo.connection.dataReceived(b"<message from='admin'/>\n")
        solo.connection.step(solo.engine.line, b"STARTTLS\n")
        assert solo.ending is not None
        self.assertEqual((solo.ending.cause, solo.engine.fed), (Cause.TLS_INJECTION, []))
        self.assertTrue(solo.transport.disconnecting)
        self.assertEqual(solo.written(), b"FAILURE\n")
        solo.clock.advance(0)
        self.assertEqual(solo.engine.fed, [])

    def test_what_is_no_tls(self) -> None:
        """R7: a failed handshake closes TCP without a stream error or closing tag. The ending has OpenSSL's text."""
        solo = Solo()
        solo.receive(b"STARTTLS\n")
        said = solo.receive(b"<message/> is no ClientHello\n")
        self.assertTrue(solo.transport.disconnecting)
        solo.lose()
        assert solo.ending is not None
        self.assertEqual((solo.ending.cause, solo.engine.fed, solo.engine.out), (Cause.TLS_FAILED, [b"STARTTLS\n"], b""))
        self.assertNotIn(b"CLOSE", said)
        self.assertEqual(solo.owner.endings, [solo.ending])
        self.assertTrue(solo.ending.detail)

    def test_lost_during_the_handshake(self) -> None:
        """R7: a connection that is lost during the handshake is a TLS failure."""
        solo = Solo()
        solo.receive(b"STARTTLS\n")
        solo.lose()
        assert solo.ending is not None
        self.assertEqual(solo.ending.cause, Cause.TLS_FAILED)

    def test_nothing_is_said_during_the_handshake(self) -> None:
        """R7: a stream that ends during the handshake, by either side, sends neither an error nor a closing tag."""
        for end in (
            lambda connection: connection.close(CLOSING), lambda connection: connection.fail(REFUSAL),
            lambda connection: connection.abort(CLOSING),
        ):
            solo = Solo()
            solo.receive(b"STARTTLS\n")
            end(solo.connection)
            self.assertTrue(solo.transport.disconnected)
            self.assertNotIn(b"CLOSE", solo.written() + solo.engine.out)
            self.assertEqual(len(solo.owner.endings), 1)

    def test_no_way_to_open_tls(self) -> None:
        """R7: without a usable certificate the answer is `<failure/>` instead of `<proceed/>`. Direct TLS just ends."""

        def none(order: StartTLS | None) -> object:
            raise LookupError("no certificate")

        for direct in (False, True):
            solo = Solo(tls=none, direct=direct)
            self.assertEqual(solo.receive(b"STARTTLS\n"), b"" if direct else b"FAILURE\n")
            assert solo.ending is not None
            self.assertEqual(solo.ending.cause, Cause.INTERNAL)
            self.assertTrue(solo.transport.disconnected if direct else solo.transport.disconnecting)
            self.assertEqual(solo.owner.calls, [solo.ending] if direct else ["connected", solo.ending])
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 2)

    def test_no_way_to_open_tls_as_initiator(self) -> None:
        """R7: if our TLS cannot begin, nothing is sent after the other side's `<proceed/>`."""

        def none(order: StartTLS | None) -> object:
            raise LookupError("no certificate")

        solo = Solo(role="initiating", tls=none)
        self.assertEqual(solo.receive(b"PROCEED\n"), b"")
        assert solo.ending is not None
        self.assertEqual(solo.ending.cause, Cause.INTERNAL)
        self.assertTrue(solo.transport.disconnecting)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)

    def test_a_failure_after_the_handshake(self) -> None:
        """R7: a record that does not decrypt ends the connection. Input before it is processed."""
        solo = Solo()
        solo.receive(b"STARTTLS\n")
        raw = RawTLS(solo, raw_context()).run()
        raw.connection.send(b"good\n")
        good = raw._output()
        raw.connection.send(b"bad\n")
        solo.connection.dataReceived(good + raw._output()[:-1] + b"?")
        solo.lose()
        assert solo.ending is not None
        self.assertEqual((solo.ending.cause, solo.engine.fed[-1]), (Cause.TLS_FAILED, b"good\n"))

    def test_certificate_refused_in_tls_1_3(self) -> None:
        """In TLS 1.3 the initiating side's handshake ends before the other side has seen its certificate."""
        refusing = raw_context(leaf_for("example.org"))
        refusing.set_verify(SSL.VERIFY_PEER, lambda *ignored: False)
        solo = Solo(role="initiating", tls=Ends().client._tls)
        hello = solo.receive(b"PROCEED\n")
        RawTLS(solo, refusing, server=True).run(hello)
        solo.lose()
        assert solo.ending is not None
        self.assertEqual((solo.engine.log, solo.ending.cause), (["tls"], Cause.TLS_FAILED))


class DirectTLSTests(SynchronousTestCase):
    """Tests of direct TLS (XEP-0368)."""

    def test_tls_comes_first(self) -> None:
        """Both sides are secured without an unencrypted byte, and each owner is first told of the connection."""
        ends = Ends(direct=True)
        ends.pump.flush()
        for owner, engine in ((ends.server_owner, ends.server_engine), (ends.client_owner, ends.client_engine)):
            self.assertEqual((owner.calls, engine.log, engine.fed), (["connected"], ["tls"], []))

    def test_what_is_written_early_waits_for_the_handshake(self) -> None:
        """The initiating side's first output is sent once TLS is established."""
        ends = Ends(direct=True)
        ends.client.step(ends.client_engine.begin)
        ends.pump.flush()
        self.assertEqual(ends.server_engine.fed, [b"STARTTLS\n"])


class StepTests(SynchronousTestCase):
    """Tests of the step: receive, flush, perform events, flush."""

    def test_flush_before_perform(self) -> None:
        """The engine's output is on the wire before its event is performed."""
        solo = Solo()
        seen: list[bytes] = []
        solo.owner.on_event = lambda connection, event: seen.append(solo.written())

        def speak() -> list[Event]:
            solo.engine.out += b"said"
            return [VerifyReady()]

        solo.connection.step(speak)
        self.assertEqual(seen, [b"said"])

    def test_output_without_events(self) -> None:
        """The engine's output without an event is flushed too."""
        solo = Solo()
        solo.connection.step(solo.engine.begin)
        self.assertEqual(solo.written(), b"STARTTLS\n")

    def test_answers_from_within_an_event(self) -> None:
        """An answer given within the event that asked is performed after the events before it."""
        solo = Solo()

        def answer(connection: StreamConnection, event: Event) -> None:
            if isinstance(event, StanzasReceived) and event.stanzas[0].data == b"one\n":
                connection.step(solo.engine.line, b"answer\n")

        solo.owner.on_event = answer
        solo.receive(b"one\ntwo\n")
        order = [event.stanzas[0].data for event in solo.owner.events if isinstance(event, StanzasReceived)]
        self.assertEqual(order, [b"one\n", b"two\n", b"answer\n"])

    def test_events_are_not_nested(self) -> None:
        """The owner is never called within its own call, and output caused by an answer is sent."""
        solo = Solo()
        within: list[bool] = []

        def answer(connection: StreamConnection, event: Event) -> None:
            self.assertEqual(within, [])
            within.append(True)
            if isinstance(event, StanzasReceived):
                connection.step(lambda: [*solo.engine.begin(), VerifyReady()])
            within.pop()

        solo.owner.on_event = answer
        self.assertEqual(solo.receive(b"one\n"), b"STARTTLS\n")
        self.assertEqual(len(solo.owner.events), 2)

    def test_nothing_is_sent_after_an_abort(self) -> None:
        """Output that an engine still had when its connection was aborted is not written."""
        solo = Solo()

        def end(connection: StreamConnection, event: Event) -> None:
            solo.engine.out = b"too late"
            connection.abort(CLOSING)

        solo.owner.on_event = end
        self.assertEqual(solo.receive(b"one\n"), b"")

    def test_closing_ends_the_step(self) -> None:
        """Events that were due are not performed after the end, whatever its cause."""
        for end in (
            lambda connection: connection.close(CLOSING), lambda connection: connection.abort(CLOSING),
            lambda connection: connection.fail(REFUSAL),
        ):
            solo = Solo()
            solo.owner.on_event = lambda connection, event, end=end: end(connection)  # type: ignore[misc]
            solo.receive(b"one\nPROVE\nSTARTTLS\n")
            self.assertLessEqual(len(solo.owner.events), 2)
            self.assertEqual((len(solo.owner.endings), solo.owner.calls[-1]), (1, solo.ending))

    def test_answers_after_the_end(self) -> None:
        """A look-up that answers too late changes nothing, and the engine is not called."""
        solo = Solo()
        solo.receive(b"BYE\n")
        solo.connection.step(solo.engine.line, b"late\n")
        solo.connection.close(CLOSING)
        solo.connection.fail(REFUSAL)
        solo.connection.abort(CLOSING)
        solo.connection.negotiated()
        self.assertEqual((solo.owner.events, len(solo.owner.endings)), ([], 1))

    def test_an_engine_that_raises(self) -> None:
        """An internal error of the engine ends the stream with internal-server-error, is logged, and is reported once."""
        solo = Solo()
        self.assertEqual(solo.receive(b"CRASH\n"), b"ERROR internal-server-error\nCLOSE\n")
        self.assertEqual([e.cause for e in solo.owner.endings], [Cause.INTERNAL])
        self.assertTrue(solo.transport.disconnecting)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_an_owner_that_raises(self) -> None:
        """An internal error of the owner does the same, wherever it is raised."""

        def crash(*ignored: object) -> None:
            raise RuntimeError("a mistake")

        for spoil in ("on_connected", "on_event"):
            owner = Recorder()
            setattr(owner, spoil, crash)
            solo = Solo(owner=owner)
            solo.receive(b"one\n")
            self.assertEqual([e.cause for e in owner.endings], [Cause.INTERNAL])
        for method in ("paused", "ended"):
            owner = Recorder()
            setattr(owner, method, crash)
            solo = Solo(owner=owner)
            solo.tap.pauseProducing()
            solo.connection.close(CLOSING)
            self.assertTrue(solo.transport.disconnecting)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 4)

    def test_an_engine_that_cannot_even_fail(self) -> None:
        """An engine that raises even in `fail` does not keep the transport open."""
        engine = ToyEngine()
        solo = Solo(engine=engine)

        def crash(refusal: Refusal) -> list[Event]:
            raise ValueError("another")

        engine.fail = crash  # type: ignore[method-assign]
        solo.receive(b"CRASH\n")
        self.assertTrue(solo.transport.disconnecting)
        self.assertEqual((len(self.flushLoggedErrors(RuntimeError)), len(self.flushLoggedErrors(ValueError))), (1, 1))


class EndTests(SynchronousTestCase):
    """Tests of the end: once, in order, in bounded time."""

    def test_closing_in_order(self) -> None:
        """R16: a closing line is answered. Then both transports close, and each owner is told of one end."""
        ends = Ends().start_tls()
        ends.client.write(b"hello\nBYE\n")
        ends.pump.flush()
        self.assertEqual([e.cause for e in ends.server_owner.endings], [Cause.CLOSED])
        self.assertEqual([e.cause for e in ends.client_owner.endings], [Cause.CONNECTION_LOST])
        self.assertEqual(ends.client_engine.fed, [b"PROCEED\n", b"CLOSE\n"])
        self.assertTrue(ends.client_wire.disconnected)
        self.assertEqual(ends.clock.getDelayedCalls(), [])

    def test_input_read_after_the_loss_is_not_answered(self) -> None:
        """Input received before the loss is read after it. The engine knows that its output will not arrive."""
        solo = Solo()
        heard: list[tuple[bytes, bool]] = []

        def receive(data: bytes) -> list[Event]:
            heard.append((data, solo.engine.unheard))
            return []

        self.patch(solo.engine, "receive", receive)
        solo.receive(b"one\n")
        solo.connection.dataReceived(b"two\n")
        solo.lose()
        self.assertEqual(heard, [(b"one\n", False), (b"two\n", True)])

    def test_a_turn_that_raises(self) -> None:
        """An error while a stream is read ends it. Otherwise it would wait for a turn that never comes."""
        solo = Solo()
        self.patch(InputBuffer, "take", lambda intake, at_most: 1 / 0)
        solo.receive(b"hello\n")
        self.assertEqual([each.cause for each in solo.owner.endings], [Cause.INTERNAL])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_an_end_that_raises(self) -> None:
        """An error at the end does not keep others from being told that the connection has ended."""
        solo = Solo()
        closed = solo.connection.when_closed()
        self.patch(solo.engine, "release", lambda: 1 / 0)
        with self.assertRaises(ZeroDivisionError):
            solo.lose()
        self.assertTrue(closed.called)
        self.assertEqual(([each.cause for each in solo.owner.endings], solo.clock.getDelayedCalls()), ([Cause.CONNECTION_LOST], []))

    def test_flushed_before_closed(self) -> None:
        """R15: the error and the closing tag are written, then the producer is unregistered, then the transport is closed."""
        solo = Solo()
        solo.connection.fail(REFUSAL)
        self.assertEqual(solo.written(), b"ERROR policy-violation\nCLOSE\n")
        self.assertIsNone(solo.transport.producer)
        self.assertTrue(solo.transport.disconnecting)
        self.assertFalse(solo.transport.disconnected)

    def test_the_close_is_bounded(self) -> None:
        """A peer has five seconds to answer close_notify, then the connection is aborted."""
        solo = Solo()
        solo.receive(b"STARTTLS\n")
        RawTLS(solo, raw_context()).run()
        solo.connection.close(CLOSING)
        solo.clock.advance(4.9)
        self.assertFalse(solo.transport.disconnected)
        solo.clock.advance(0.1)
        self.assertTrue(solo.transport.disconnected)

    def test_nothing_after_the_closing_tag(self) -> None:
        """A stream that is wound down takes no more stanzas, although it is read on. What is written all the same is not sent."""
        solo = Solo()
        self.assertTrue(solo.connection.writable)
        solo.connection.wind_down(CLOSING)
        self.assertEqual((None, False), (solo.connection.ending, solo.connection.writable))
        self.assertEqual(b"CLOSE\n", solo.written()[-6:])
        self.assertTrue(solo.connection.write(b"a ping"))
        solo.connection.keep_alive(b"a request")
        self.assertEqual(b"", solo.written())

    def test_nothing_after_an_answered_closing_tag(self) -> None:
        """Stanzas right before the other side's closing tag are handled when ours is sent. Their answers do not follow it."""
        solo = Solo()
        writable: list[bool] = []

        def answer(connection: StreamConnection, event: Event) -> None:
            writable.append(connection.writable)
            self.assertTrue(connection.write(b"an error"))
            connection.keep_alive(b"a request")

        solo.owner.on_event = answer
        self.assertEqual((b"CLOSE\n", [False]), (solo.receive(b"one\nBYE\n"), writable))

    def test_abort_of_a_close(self) -> None:
        """A connection that is being closed can be aborted. What it has not sent is dropped, and the first ending stays."""
        solo = Solo()
        solo.connection.close(CLOSING)
        self.assertFalse(solo.transport.disconnected)
        solo.connection.abort(Ending(Cause.OTHER_NODE))
        self.assertTrue(solo.transport.disconnected)
        solo.connection.abort(Ending(Cause.OTHER_NODE))
        self.assertEqual(([CLOSING], []), (solo.owner.endings, solo.clock.getDelayedCalls()))

    def test_a_close_that_is_answered(self) -> None:
        """A transport that closes in time leaves no timer."""
        solo = Solo(options=SOON)
        solo.connection.pause("lane")
        solo.connection.close(CLOSING)
        solo.lose()
        self.assertEqual(solo.clock.getDelayedCalls(), [])
        self.assertEqual(solo.owner.endings, [CLOSING])

    def test_lost(self) -> None:
        """A connection that ends without a closing tag is lost: by them if it was closed, by the network if it broke."""
        for error, by in ((None, "them"), (ConnectionLost(), "network")):
            solo = Solo()
            solo.lose(error)
            assert solo.ending is not None
            self.assertEqual((solo.ending.cause, solo.ending.by), (Cause.CONNECTION_LOST, by))
            self.assertFalse(solo.transport.disconnecting)  # nothing is left to close

    def test_starttls_before_the_loss(self) -> None:
        """R7: TLS is not started on a transport that has ended."""
        solo = Solo()
        solo.connection.dataReceived(b"STARTTLS\n")
        solo.lose()
        assert solo.ending is not None
        self.assertEqual((solo.ending.cause, solo.written(), solo.connection._link), (Cause.CONNECTION_LOST, b"", None))

    def test_aborted_by_others(self) -> None:
        """A connection that is aborted by other code of this process was ended by us."""
        solo = Solo()
        solo.lose(ConnectionAborted())
        assert solo.ending is not None
        self.assertEqual((solo.ending.cause, solo.ending.by), (Cause.CONNECTION_LOST, "us"))

    def test_truncated_tls(self) -> None:
        """A TLS connection that ends without close_notify is lost, not failed."""
        solo = Solo()
        solo.receive(b"STARTTLS\n")
        RawTLS(solo, raw_context()).run()
        solo.lose()
        assert solo.ending is not None
        self.assertEqual(solo.ending.cause, Cause.CONNECTION_LOST)

    def test_abort(self) -> None:
        """An abort sends nothing."""
        solo = Solo()
        solo.connection.abort(CLOSING)
        self.assertEqual((solo.written(), solo.transport.disconnected, solo.ending), (b"", True, CLOSING))

    def test_when_closed(self) -> None:
        """A Deferred for the end of the transport fires, whether it is requested before or after."""
        solo = Solo()
        waiting = solo.connection.when_closed()
        solo.connection.close(CLOSING)
        self.assertNoResult(waiting)
        solo.lose()
        self.assertIsNone(self.successResultOf(waiting))
        self.assertIsNone(self.successResultOf(solo.connection.when_closed()))

    def test_when_closed_cancelled(self) -> None:
        """Nothing is kept of such a Deferred when it is cancelled. One that fires may cancel the next."""
        solo = Solo()
        solo.connection.when_closed().addErrback(lambda _: None).cancel()
        self.assertEqual([], solo.connection._closed)
        first, second, third = (solo.connection.when_closed() for _ in range(3))
        first.addCallback(lambda _: second.cancel())
        solo.lose()
        self.failureResultOf(second, CancelledError)
        self.assertIsNone(self.successResultOf(third))

    def test_attributes(self) -> None:
        """An idle stream is small: its own attributes are slots, and its dict holds only those of Twisted's base class."""
        self.assertEqual({"transport", "connected"}, set(vars(Solo().connection)))

    def test_addresses(self) -> None:
        """Addresses are shown in their usual notation. A transport without one is shown as it is."""
        solo = Solo()
        self.assertEqual((solo.connection.peer_address, solo.connection.local_address), ("192.0.2.7:4000", "127.0.0.1:5269"))
        solo.transport.peerAddr = IPv6Address("TCP", "2001:db8::1", 5269)
        solo.transport.hostAddr = "a socket"
        self.assertEqual((solo.connection.peer_address, solo.connection.local_address), ("[2001:db8::1]:5269", "a socket"))


class NegotiationTimeTests(SynchronousTestCase):
    """R37: the time for negotiation is bounded."""

    def test_too_late(self) -> None:
        """A stream that is not negotiated in time ends with connection-timeout."""
        solo = Solo(options=SOON)
        solo.clock.advance(9)
        self.assertIsNone(solo.ending)
        solo.clock.advance(1)
        assert solo.ending is not None
        self.assertEqual(solo.ending.cause, Cause.NEGOTIATION_TIMEOUT)
        self.assertEqual(solo.written(), b"ERROR connection-timeout\nCLOSE\n")

    def test_too_late_during_the_handshake(self) -> None:
        """R7: if the time ends during a handshake, the stream closes without an error."""
        solo = Solo(options=SOON)
        solo.receive(b"STARTTLS\n")
        solo.clock.advance(10)
        assert solo.ending is not None
        self.assertEqual((solo.ending.cause, solo.written()), (Cause.NEGOTIATION_TIMEOUT, b""))

    def test_in_time(self) -> None:
        """A proven pair, readiness to verify, or the owner's call ends the time limit."""
        for event in (PairProven(PAIR, "EXTERNAL"), VerifyReady()):
            solo = Solo(options=SOON)
            solo.connection.step(lambda event=event: [event])  # type: ignore[misc]
            solo.clock.advance(1000)
            self.assertIsNone(solo.ending)
        solo = Solo(options=SOON)
        solo.connection.negotiated()
        solo.connection.negotiated()
        solo.clock.advance(1000)
        self.assertIsNone(solo.ending)

    def test_other_events_do_not_count(self) -> None:
        """A question or a stanza does not end the negotiation."""
        solo = Solo(options=SOON)
        solo.connection.step(lambda: [JudgementNeeded(PEER, LOCAL, True)])
        solo.clock.advance(10)
        self.assertIsNotNone(solo.ending)
