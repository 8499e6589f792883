"""The adapter between transport and engine, with toy engines and real TLS in memory."""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet.address import IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.buffering import UnsentBytes
from s2sgw.net.connection import FULL_BYTES, NEGOTIATION_BYTES, ConnectionOptions, StreamConnection
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
    """What one reactor turn brings is fed at once (docs/decisions.md#batching)."""

    def test_reads_of_one_turn_are_joined(self) -> None:
        """Several reads before the turn are one call of the engine, in their order."""
        solo = Solo()
        solo.receive(b"one\n", b"two\n", b"three\n")
        self.assertEqual(solo.engine.fed, [b"one\ntwo\nthree\n"])

    def test_records_are_joined(self) -> None:
        """Under TLS, where each record is delivered by itself, thousands of one-byte records are one call of the engine."""
        solo = Solo()
        solo.receive(b"STARTTLS\n")
        raw = RawTLS(solo, raw_context()).run()
        del solo.engine.fed[:]
        raw.send(*[b"x"] * 5000)
        self.assertEqual(solo.engine.fed, [b"x" * 5000])

    def test_each_turn_is_fed(self) -> None:
        """What comes in a later turn is fed in that turn, and the time of the last is known."""
        solo = Solo()
        solo.receive(b"one\n")
        solo.clock.advance(3)
        solo.receive(b"two\n")
        self.assertEqual(solo.engine.fed, [b"one\n", b"two\n"])
        self.assertEqual(solo.connection.last_received, 3)

    def test_heard_after_the_loss(self) -> None:
        """R16: what came in the turn in which the connection is lost is still delivered, before the end."""
        solo = Solo()
        solo.connection.dataReceived(b"last words\n")
        solo.lose()
        self.assertEqual(solo.engine.fed, [b"last words\n"])
        self.assertEqual(len(solo.owner.events), 1)
        self.assertEqual([e.cause for e in solo.owner.endings], [Cause.CONNECTION_LOST])
        solo.clock.advance(0)  # the turn that was due finds nothing to do

    def test_a_closing_tag_before_the_loss(self) -> None:
        """R16: a stream that was closed before its transport went was closed in order."""
        solo = Solo()
        solo.connection.dataReceived(b"BYE\n")
        solo.lose()
        self.assertEqual([e.cause for e in solo.owner.endings], [Cause.CLOSED])

    def test_nothing_after_the_end(self) -> None:
        """Input after the end is not heard."""
        solo = Solo()
        solo.receive(b"BYE\n")
        solo.receive(b"more\n")
        self.assertEqual(solo.engine.fed, [b"BYE\n"])
        self.assertEqual(solo.connection._intake.size, 0)  # and not kept


class HoldTests(SynchronousTestCase):
    """Back-pressure towards the other side."""

    def test_several_holders(self) -> None:
        """Reading goes on when the last of several holders lets go; each may say so twice."""
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
        """Records of the read in which the pause came are not fed until it is over."""
        solo = Solo()
        solo.connection.pause("lane")
        solo.receive(b"one\n", b"two\n")
        self.assertEqual(solo.engine.fed, [])
        solo.connection.resume("lane")
        self.assertEqual(solo.engine.fed, [])  # not from within the call
        solo.clock.advance(0)
        self.assertEqual(solo.engine.fed, [b"one\ntwo\n"])

    def test_pause_and_resume_before_the_turn(self) -> None:
        """A turn that was due when reading was held and let go again feeds once."""
        solo = Solo()
        solo.connection.dataReceived(b"one\n")
        solo.connection.pause("lane")
        solo.connection.resume("lane")
        solo.clock.advance(0)
        self.assertEqual(solo.engine.fed, [b"one\n"])

    def test_held_input_is_heard_after_the_loss(self) -> None:
        """R16: what was held back when the connection is lost is delivered."""
        solo = Solo()
        solo.connection.pause("lane")
        solo.connection.dataReceived(b"one\n")
        solo.lose()
        self.assertEqual(solo.engine.fed, [b"one\n"])
        solo.connection.resume("lane")  # nothing is left to resume

    def test_held_too_long(self) -> None:
        """A paused transport sees neither FIN nor RST, so a hold is bounded: then the stream ends for want of room."""
        solo = Solo(options=SOON)
        solo.connection.negotiated()
        solo.connection.pause("lane")
        solo.clock.advance(59)
        self.assertIsNone(solo.ending)
        solo.clock.advance(1)
        assert solo.ending is not None
        self.assertEqual(solo.ending.cause, Cause.QUEUE_FULL)
        self.assertEqual(solo.written(), b"ERROR resource-constraint\nCLOSE\n")
        self.assertEqual(solo.transport.producerState, "producing")  # so as to see the other side close

    def test_short_holds_are_no_long_one(self) -> None:
        """Many short holds, one watch: its time counts from the beginning of the present one."""
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
        """The watch of a hold that ended finds nothing to do."""
        solo = Solo(options=SOON)
        solo.connection.negotiated()
        solo.connection.pause("lane")
        solo.connection.resume("lane")
        solo.clock.advance(100)
        self.assertIsNone(solo.ending)
        self.assertEqual(solo.clock.getDelayedCalls(), [])

    def test_no_hold_after_the_end(self) -> None:
        """A closing transport is never paused, or it would not see the other side close."""
        solo = Solo(options=SOON)
        solo.connection.close(CLOSING)
        solo.connection.pause("lane")
        self.assertEqual(solo.transport.producerState, "producing")
        solo.connection.resume("lane")

    def test_evidence_is_not_held(self) -> None:
        """The engine hears of TLS even while its reading is held."""
        solo = Solo()
        solo.receive(b"STARTTLS\n")
        raw = RawTLS(solo, raw_context())
        solo.owner.on_event = lambda connection, event: connection.pause("judging")
        raw.run()
        raw.send(b"early\n")
        self.assertEqual((solo.engine.log, solo.engine.fed), (["tls"], [b"STARTTLS\n"]))


class OutputTests(SynchronousTestCase):
    """Back-pressure from the other side, and what is written."""

    def test_owner_hears_of_a_full_transport(self) -> None:
        """A transport that is full closes the tap once, and opens it once, though it may say so twice."""
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
        """The tap stands behind the TLS layer, whose transport is what fills."""
        solo = Solo()
        solo.receive(b"STARTTLS\n")
        RawTLS(solo, raw_context()).run()
        tap = solo.tap
        tap.pauseProducing()
        tap.resumeProducing()
        self.assertEqual(solo.owner.calls[-2:], ["paused", "resumed"])

    def test_not_after_the_end(self) -> None:
        """After the end, a call reports nothing."""
        solo = Solo()
        tap = solo.tap
        solo.connection.close(CLOSING)
        tap.pauseProducing()
        self.assertEqual(solo.owner.calls, ["connected", CLOSING])

    def test_stanzas_are_written_past_the_engine(self) -> None:
        """Stanza bytes go to the transport; after the end they go nowhere."""
        solo = Solo()
        solo.connection.write(b"<message/>")
        self.assertEqual(solo.written(), b"<message/>")
        solo.connection.close(CLOSING)
        solo.written()
        solo.connection.write(b"<message/>")
        self.assertEqual(solo.written(), b"")

    def test_nothing_is_written_to_a_lost_transport(self) -> None:
        """What an owner writes on hearing the last words goes nowhere, without harm."""
        solo = Solo()
        solo.owner.on_event = write_too_late
        solo.connection.dataReceived(b"last words\n")
        solo.lose()
        self.assertEqual(solo.written(), b"")


def write_too_late(connection: StreamConnection, event: Event) -> None:
    connection.write(b"too late")


class Answering(ToyEngine):
    """An engine that answers each line with as many bytes as it has, and reads `lines` of them in one step."""

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
    """A side that asks and does not read what it is answered."""

    def solo(self, established: bool = False, **options: int) -> Solo:
        self.engine = Answering(**options)
        solo = Solo(engine=self.engine)
        if established:
            solo.receive(b"PROVE\n")
        return solo

    def ask(self, solo: Solo, number: int, turns: int = 50) -> int:
        """Ask so often in one read, and let so many turns pass: bytes of the answers that were written."""
        solo.connection.dataReceived(b"?\n" * number)
        for _ in range(turns):
            solo.clock.turn()
        return len(solo.written())

    def test_all_is_answered_in_several_turns(self) -> None:
        """One turn makes a bounded number of bytes of answers; the others follow, and none is lost."""
        for established in (False, True):
            solo = self.solo(established)
            self.assertEqual(self.ask(solo, 100, turns=1), 20_000)
            self.assertEqual(self.ask(solo, 0), 80_000)
            self.assertEqual((self.engine.backlogged, len(solo.clock.getDelayedCalls())), (False, 0 if established else 1))

    def test_read_no_further(self) -> None:
        """While the transport is full nothing is read or answered, in either state; then it goes on where it stood."""
        for established in (False, True):
            solo = self.solo(established)
            solo.tap.pauseProducing()
            self.assertEqual(self.ask(solo, 100), 0)
            self.assertEqual(solo.transport.producerState, "paused")
            solo.tap.resumeProducing()
            self.assertEqual(solo.transport.producerState, "producing")
            self.assertEqual(self.ask(solo, 0), 100_000)

    def test_full_in_the_midst(self) -> None:
        """A transport that fills up while a long read is answered gets no more than one step behind it."""
        solo = self.solo(True)
        self.ask(solo, 100, turns=1)
        solo.tap.pauseProducing()
        self.assertEqual(self.ask(solo, 100), 0)
        self.assertTrue(self.engine.backlogged)

    def test_two_sides_that_both_send(self) -> None:
        """Where stanzas go out too, the stream is read on while it is full, or both sides would wait for each other; up to a bound."""
        solo = self.solo(True)
        solo.connection.write(b"<message/>")
        solo.written()
        solo.tap.pauseProducing()
        self.assertEqual(self.ask(solo, 10), 10_000)
        self.assertEqual(self.ask(solo, 1000), 8_000)
        self.assertEqual(solo.transport.producerState, "paused")

    def test_it_ends(self) -> None:
        """Behind a pause no FIN is seen: a stream that is not read for a minute is cut off."""
        solo = self.solo(True)
        solo.tap.pauseProducing()
        self.ask(solo, 10)
        solo.clock.advance(ConnectionOptions().blocked_timeout - 1)
        self.assertIsNone(solo.ending)
        solo.clock.advance(1)
        self.assertEqual((solo.ending and solo.ending.cause, solo.transport.disconnected), (Cause.UNRESPONSIVE, True))
        self.assertEqual(solo.clock.getDelayedCalls(), [])

    def test_timer_of_an_end(self) -> None:
        """A stream that ends otherwise while it is full leaves no timer behind."""
        for end in ("close", "lose", "open"):
            solo = self.solo(True)
            solo.tap.pauseProducing()
            {"close": lambda: solo.connection.close(CLOSING), "lose": solo.lose, "open": solo.tap.resumeProducing}[end]()  # noqa: B023
            if end == "close":
                solo.lose()
            self.assertNotIn(solo.connection._blocked_too_long, [call.func for call in solo.clock.calls], end)

    def test_the_loss_ends_the_wait(self) -> None:
        """R16: what came before a loss is read, however it was held back."""
        solo = self.solo(True)
        solo.tap.pauseProducing()
        self.ask(solo, 100)
        steps = self.engine.steps
        solo.lose()
        self.assertEqual((self.engine.backlogged, self.engine.steps - steps), (False, 25))

    def test_counted(self) -> None:
        """What waits is counted in memory from the moment the transport is full until it has room, or is gone."""
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
        """A stranger for whose answers there is no room is cut off, soon but not from within the write."""
        solo = self.solo()
        solo.connection._unsent = UnsentBytes(SharedMemory(FULL_BYTES))
        solo.tap.pauseProducing()
        self.assertIsNone(solo.ending)
        solo.clock.advance(0)
        self.assertEqual(solo.ending and solo.ending.cause, Cause.UNRESPONSIVE)


class TurnTests(SynchronousTestCase):
    """How much of one stream is read in one turn."""

    def test_negotiation(self) -> None:
        """A stream that is negotiated is read in parts, one a turn."""
        solo = Solo()
        solo.connection.dataReceived(b"x" * 40_000)
        fed = []
        for _ in range(4):
            solo.clock.turn()
            fed.append([len(data) for data in solo.engine.fed])
            solo.engine.fed.clear()
        self.assertEqual(fed, [[NEGOTIATION_BYTES], [NEGOTIATION_BYTES], [40_000 - 2 * NEGOTIATION_BYTES], []])

    def test_stanzas(self) -> None:
        """One that is established is read in one turn, as far as it has come."""
        solo = Solo()
        solo.receive(b"PROVE\n")
        solo.receive(b"x" * 40_000)
        self.assertEqual(len(b"".join(solo.engine.fed[-2:])), 40_000)

    def test_portions(self) -> None:
        """As much is read at once as does not take too long: little at first, then more, then less where that takes long."""
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
        """An answer that lets the engine read on has it read on in a turn of its own."""
        engine = Answering(answer=0, lines=1)
        solo = Solo(engine=engine)
        engine.rest_of_lines = [b"?\n"] * 3
        solo.connection.step(list)
        self.assertEqual(engine.steps, 0)
        solo.clock.advance(0)
        self.assertEqual(engine.steps, 3)


class DelayTests(SynchronousTestCase):
    """TCP options."""

    def test_no_delay(self) -> None:
        """TCP_NODELAY on every leg (docs/decisions.md#batching)."""
        self.assertTrue(Solo().transport.no_delay)


class StartTLSTests(SynchronousTestCase):
    """The change to TLS."""

    def test_both_sides_are_secured(self) -> None:
        """R12: each engine hears that TLS is established, and each side has the other's whole chain."""
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
        """R5, R6: `<proceed/>` goes out in the clear, with nothing after it, and TLS begins at the next byte."""
        solo = Solo()
        self.assertEqual(solo.receive(b"STARTTLS\n"), b"PROCEED\n")
        raw = RawTLS(solo, raw_context()).run()
        self.assertEqual((raw.problem, solo.engine.log), (None, ["tls"]))

    def test_greeting_after_tls_is_encrypted(self) -> None:
        """R8: what the engine says after the handshake goes through TLS."""
        solo = Solo()
        solo.engine.greets_after_tls = b"<stream>"
        solo.receive(b"STARTTLS\n")
        self.assertEqual(RawTLS(solo, raw_context()).run().plain, b"<stream>")

    def test_plain_text_that_waits_is_an_injection(self) -> None:
        """R6, R7: plain text that has come when TLS is to begin is refused and never read; `<proceed/>` is not said."""
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
        """R7: a failed handshake closes TCP, with no stream error and no closing tag; the ending has OpenSSL's words."""
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
        """R7: a connection that goes in the middle of the handshake is a TLS failure."""
        solo = Solo()
        solo.receive(b"STARTTLS\n")
        solo.lose()
        assert solo.ending is not None
        self.assertEqual(solo.ending.cause, Cause.TLS_FAILED)

    def test_nothing_is_said_during_the_handshake(self) -> None:
        """R7: whoever ends the stream during the handshake sends neither an error nor a closing tag."""
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
        """R7: where our certificate cannot be had, `<failure/>` is the answer instead of `<proceed/>`; direct TLS just ends."""

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
        """R7: nothing is said behind the other side's `<proceed/>` where our TLS cannot begin."""

        def none(order: StartTLS | None) -> object:
            raise LookupError("no certificate")

        solo = Solo(role="initiating", tls=none)
        self.assertEqual(solo.receive(b"PROCEED\n"), b"")
        assert solo.ending is not None
        self.assertEqual(solo.ending.cause, Cause.INTERNAL)
        self.assertTrue(solo.transport.disconnecting)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)

    def test_a_failure_after_the_handshake(self) -> None:
        """R7: a record that does not decrypt ends the connection, what came before it having been heard."""
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
        """In TLS 1.3 the initiating side's handshake is over before the other side has seen its certificate."""
        refusing = raw_context(leaf_for("example.org"))
        refusing.set_verify(SSL.VERIFY_PEER, lambda *ignored: False)
        solo = Solo(role="initiating", tls=Ends().client._tls)
        hello = solo.receive(b"PROCEED\n")
        RawTLS(solo, refusing, server=True).run(hello)
        solo.lose()
        assert solo.ending is not None
        self.assertEqual((solo.engine.log, solo.ending.cause), (["tls"], Cause.TLS_FAILED))


class DirectTLSTests(SynchronousTestCase):
    """XEP-0368."""

    def test_tls_comes_first(self) -> None:
        """Both sides are secured without a word in the clear, and each owner is told of the connection first."""
        ends = Ends(direct=True)
        ends.pump.flush()
        for owner, engine in ((ends.server_owner, ends.server_engine), (ends.client_owner, ends.client_engine)):
            self.assertEqual((owner.calls, engine.log, engine.fed), (["connected"], ["tls"], []))

    def test_what_is_written_early_waits_for_the_handshake(self) -> None:
        """What the initiating side begins with is sent once TLS is there."""
        ends = Ends(direct=True)
        ends.client.step(ends.client_engine.begin)
        ends.pump.flush()
        self.assertEqual(ends.server_engine.fed, [b"STARTTLS\n"])


class StepTests(SynchronousTestCase):
    """Habit 9: receive, flush, perform events, flush."""

    def test_flush_before_perform(self) -> None:
        """What the engine said is on the wire before its event is performed."""
        solo = Solo()
        seen: list[bytes] = []
        solo.owner.on_event = lambda connection, event: seen.append(solo.written())

        def speak() -> list[Event]:
            solo.engine.out += b"said"
            return [VerifyReady()]

        solo.connection.step(speak)
        self.assertEqual(seen, [b"said"])

    def test_output_without_events(self) -> None:
        """What the engine says without an event is flushed too."""
        solo = Solo()
        solo.connection.step(solo.engine.begin)
        self.assertEqual(solo.written(), b"STARTTLS\n")

    def test_answers_from_within_an_event(self) -> None:
        """An answer given at once, from within the event that asked, is performed after the events before it."""
        solo = Solo()

        def answer(connection: StreamConnection, event: Event) -> None:
            if isinstance(event, StanzasReceived) and event.stanzas[0].data == b"one\n":
                connection.step(solo.engine.line, b"answer\n")

        solo.owner.on_event = answer
        solo.receive(b"one\ntwo\n")
        order = [event.stanzas[0].data for event in solo.owner.events if isinstance(event, StanzasReceived)]
        self.assertEqual(order, [b"one\n", b"two\n", b"answer\n"])

    def test_events_are_not_nested(self) -> None:
        """The owner is never called from within its own call, and what an answer makes the engine say goes out."""
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

    def test_nothing_is_said_after_an_abort(self) -> None:
        """What an engine still had to say when its connection was aborted is not written."""
        solo = Solo()

        def end(connection: StreamConnection, event: Event) -> None:
            solo.engine.out = b"too late"
            connection.abort(CLOSING)

        solo.owner.on_event = end
        self.assertEqual(solo.receive(b"one\n"), b"")

    def test_closing_ends_the_step(self) -> None:
        """Habit 8: events that were due are not performed after the end, however it came."""
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
        """A look-up that answers too late changes nothing; the engine is not asked."""
        solo = Solo()
        solo.receive(b"BYE\n")
        solo.connection.step(solo.engine.line, b"late\n")
        solo.connection.close(CLOSING)
        solo.connection.fail(REFUSAL)
        solo.connection.abort(CLOSING)
        solo.connection.negotiated()
        self.assertEqual((solo.owner.events, len(solo.owner.endings)), ([], 1))

    def test_an_engine_that_breaks(self) -> None:
        """Our own mistake ends the stream with internal-server-error, is logged, and told once."""
        solo = Solo()
        self.assertEqual(solo.receive(b"CRASH\n"), b"ERROR internal-server-error\nCLOSE\n")
        self.assertEqual([e.cause for e in solo.owner.endings], [Cause.INTERNAL])
        self.assertTrue(solo.transport.disconnecting)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_an_owner_that_breaks(self) -> None:
        """A mistake of the owner's does the same, wherever it is made."""

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
        """A broken engine does not keep the transport open."""
        engine = ToyEngine()
        solo = Solo(engine=engine)

        def crash(refusal: Refusal) -> list[Event]:
            raise ValueError("another")

        engine.fail = crash  # type: ignore[method-assign]
        solo.receive(b"CRASH\n")
        self.assertTrue(solo.transport.disconnecting)
        self.assertEqual((len(self.flushLoggedErrors(RuntimeError)), len(self.flushLoggedErrors(ValueError))), (1, 1))


class EndTests(SynchronousTestCase):
    """The end, once, in order, in bounded time."""

    def test_closing_in_order(self) -> None:
        """R16: a closing line is answered, then both transports close and each owner hears of one end."""
        ends = Ends().start_tls()
        ends.client.write(b"hello\nBYE\n")
        ends.pump.flush()
        self.assertEqual([e.cause for e in ends.server_owner.endings], [Cause.CLOSED])
        self.assertEqual([e.cause for e in ends.client_owner.endings], [Cause.CONNECTION_LOST])
        self.assertEqual(ends.client_engine.fed, [b"PROCEED\n", b"CLOSE\n"])
        self.assertTrue(ends.client_wire.disconnected)
        self.assertEqual(ends.clock.getDelayedCalls(), [])

    def test_unheard(self) -> None:
        """What came before the loss is read after it; the engine knows that nothing it says arrives."""
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

    def test_a_turn_that_breaks(self) -> None:
        """A mistake while a stream is read ends it: it would wait for a turn that never comes."""
        solo = Solo()
        self.patch(solo.connection._intake, "take", lambda at_most: 1 / 0)
        solo.receive(b"hello\n")
        self.assertEqual([each.cause for each in solo.owner.endings], [Cause.INTERNAL])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_an_end_that_breaks(self) -> None:
        """A mistake at the end keeps nobody waiting for it: who counts the connection is told that it is gone."""
        solo = Solo()
        closed = solo.connection.when_closed()
        self.patch(solo.engine, "release", lambda: 1 / 0)
        with self.assertRaises(ZeroDivisionError):
            solo.lose()
        self.assertTrue(closed.called)
        self.assertEqual(([each.cause for each in solo.owner.endings], solo.clock.getDelayedCalls()), ([Cause.CONNECTION_LOST], []))

    def test_flushed_before_closed(self) -> None:
        """R15: the error and the closing tag are written, then the producer is let go, then the transport is closed."""
        solo = Solo()
        solo.connection.fail(REFUSAL)
        self.assertEqual(solo.written(), b"ERROR policy-violation\nCLOSE\n")
        self.assertIsNone(solo.transport.producer)
        self.assertTrue(solo.transport.disconnecting)
        self.assertFalse(solo.transport.disconnected)

    def test_the_close_is_bounded(self) -> None:
        """A peer that does not answer close_notify has five seconds, then the connection is aborted."""
        solo = Solo()
        solo.receive(b"STARTTLS\n")
        RawTLS(solo, raw_context()).run()
        solo.connection.close(CLOSING)
        solo.clock.advance(4.9)
        self.assertFalse(solo.transport.disconnected)
        solo.clock.advance(0.1)
        self.assertTrue(solo.transport.disconnected)

    def test_a_close_that_is_answered(self) -> None:
        """A transport that goes in time leaves no timer behind."""
        solo = Solo(options=SOON)
        solo.connection.pause("lane")
        solo.connection.close(CLOSING)
        solo.lose()
        self.assertEqual(solo.clock.getDelayedCalls(), [])
        self.assertEqual(solo.owner.endings, [CLOSING])

    def test_lost(self) -> None:
        """A connection that goes without a word is lost: by them where it was closed, by the network where it broke."""
        for error, by in ((None, "them"), (ConnectionLost(), "network")):
            solo = Solo()
            solo.lose(error)
            assert solo.ending is not None
            self.assertEqual((solo.ending.cause, solo.ending.by), (Cause.CONNECTION_LOST, by))
            self.assertFalse(solo.transport.disconnecting)  # there is nothing left to close

    def test_starttls_as_last_words(self) -> None:
        """R7: no TLS is opened on a transport that is gone."""
        solo = Solo()
        solo.connection.dataReceived(b"STARTTLS\n")
        solo.lose()
        assert solo.ending is not None
        self.assertEqual((solo.ending.cause, solo.written(), solo.connection._link), (Cause.CONNECTION_LOST, b"", None))

    def test_aborted_by_others(self) -> None:
        """A connection that somebody else in this process aborts is our own doing."""
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
        """A Deferred for the end of the transport fires, requested before or after."""
        solo = Solo()
        waiting = solo.connection.when_closed()
        solo.connection.close(CLOSING)
        self.assertNoResult(waiting)
        solo.lose()
        self.assertIsNone(self.successResultOf(waiting))
        self.assertIsNone(self.successResultOf(solo.connection.when_closed()))

    def test_attributes(self) -> None:
        """A stream at rest is small: its own attributes are slots, and its dict holds those of Twisted's base class alone."""
        self.assertEqual({"transport", "connected"}, set(vars(Solo().connection)))

    def test_addresses(self) -> None:
        """Addresses as people write them; a transport without any is shown as it is."""
        solo = Solo()
        self.assertEqual((solo.connection.peer_address, solo.connection.local_address), ("192.0.2.7:4000", "127.0.0.1:5269"))
        solo.transport.peerAddr = IPv6Address("TCP", "2001:db8::1", 5269)
        solo.transport.hostAddr = "a socket"
        self.assertEqual((solo.connection.peer_address, solo.connection.local_address), ("[2001:db8::1]:5269", "a socket"))


class NegotiationTimeTests(SynchronousTestCase):
    """R37: negotiation takes a bounded time."""

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
        """R7: in the middle of a handshake it closes without a word."""
        solo = Solo(options=SOON)
        solo.receive(b"STARTTLS\n")
        solo.clock.advance(10)
        assert solo.ending is not None
        self.assertEqual((solo.ending.cause, solo.written()), (Cause.NEGOTIATION_TIMEOUT, b""))

    def test_in_time(self) -> None:
        """A proven pair, readiness to verify, or the owner's word meet the deadline."""
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
        """A question, or a stanza, is not the end of negotiation."""
        solo = Solo(options=SOON)
        solo.connection.step(lambda: [JudgementNeeded(PEER, LOCAL, True)])
        solo.clock.advance(10)
        self.assertIsNotNone(solo.ending)
