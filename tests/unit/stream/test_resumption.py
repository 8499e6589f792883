"""R35: tests of resumption (XEP-0198 §5) in both roles."""

from __future__ import annotations

from dataclasses import replace

from s2sgw.stream.events import (
    Acknowledged,
    DialbackNeeded,
    DialbackOutcome,
    JudgementNeeded,
    ManagementEnabled,
    NotResumed,
    PairProven,
    Permission,
    Resumed,
    ResumptionNeeded,
)
from s2sgw.stream.initiating import InitiatingOptions, InitiatingStream
from s2sgw.stream.management import Counters, Resumption
from s2sgw.stream.receiving import ReceivingStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import LocalFault
from s2sgw.xmpp.jid import Pair
from tests.support.transcripts import (
    CLOSE,
    ERRORS_FEATURE,
    EXTERNAL_FEATURE,
    LIMITS_FEATURE,
    OTHER,
    OURS,
    PAIR,
    ROOMS,
    SUCCESS,
    Do,
    End,
    In,
    Out,
    Says,
    Stanzas,
    Step,
    TranscriptCase,
    auth,
    cuts,
    error,
    features,
    header,
    result,
)
from tests.unit.stream import test_bidi as bidi
from tests.unit.stream import test_initiating as initiating
from tests.unit.stream import test_receiving as receiving
from tests.unit.stream.test_management import ASK, ENABLE, ENABLED, ONE, SM, SM_FEATURE, THREE, TWO, ack, failed, too_high

ENABLE_RESUME = f"<enable {SM} resume='true'/>"
ENDED = Ending(Cause.IDLE)


def enabled(id: str, seconds: int = 120) -> str:
    return f"<enabled {SM} id='{id}' resume='true' max='{seconds}'/>"


def resume(h: int, id: str = "s4") -> str:
    return f"<resume {SM} h='{h}' previd='{id}'/>"


def resumed(h: int, id: str = "s4") -> str:
    return f"<resumed {SM} h='{h}' previd='{id}'/>"


def failed_at(h: object) -> str:
    return failed("item-not-found").replace(f"<failed {SM}>", f"<failed {SM} h='{h}'>")


def broken(handled: int, came: int, sent: int = 0, acknowledged: int = 0) -> Resumption:
    """Return the state of an interrupted stream on which this much was received and sent."""
    counters = Counters(-came)
    counters.handled, counters.sent, counters.acknowledged = handled, sent, acknowledged
    return Resumption("s4", 120, counters)


OPEN: list[Step] = [
    *receiving.judged(Permission(external=True, management=True, resume=120), EXTERNAL_FEATURE, LIMITS_FEATURE), In(auth()),
    Out(SUCCESS), Says(PairProven(PAIR, "EXTERNAL")), In(receiving.ASK),
    Out(header(from_="ours.example", to="peer.example", id="s3") + features(ERRORS_FEATURE, LIMITS_FEATURE, SM_FEATURE)),
]
GRANTED: list[Step] = [*OPEN, In(ENABLE_RESUME), Out(enabled("s4")), Says(ManagementEnabled())]


class ReceivingTests(TranscriptCase):
    """R35: tests of a stream that the peer opened."""

    def told(self, *steps: Step) -> ReceivingStream:
        engine = self.play(receiving.stream, *steps)
        assert isinstance(engine, ReceivingStream)
        return engine

    def resuming(self, h: int, *steps: Step, **counts: int) -> ReceivingStream:
        """Send `<resume/>` and grant it, for a stream with these counts."""
        played = [
            self._play(
                receiving.stream(), cut, [*OPEN, In(resume(h)), Says(ResumptionNeeded("s4")), Do("resumed", broken(**counts)), *steps],
            ) for cut in cuts([*OPEN, In(resume(h)), *steps])
        ]
        assert isinstance(played[0], ReceivingStream)
        return played[0]

    def test_granted(self) -> None:
        """R35: resumption is granted to those who ask for it, for at most the time that they ask for. The id is one of ours."""
        engine = self.told(*GRANTED)
        assert engine.resumption is not None
        self.assertEqual((engine.resumption.id, engine.resumption.seconds), ("s4", 120))
        for most, seconds in (("30", 30), ("600", 120), ("x", 120), ("-1", 120)):
            asked = In(f"<enable {SM} resume='1' max='{most}'/>")
            self.told(*OPEN, asked, Out(enabled("s4", seconds)), Says(ManagementEnabled()))

    def test_not_granted(self) -> None:
        """R35: it is not granted without a request, or for a requested time of zero."""
        for asked in (ENABLE, f"<enable {SM} resume='false'/>", f"<enable {SM} resume='true' max='0'/>"):
            engine = self.told(*OPEN, In(asked), Out(ENABLED), Says(ManagementEnabled()))
            self.assertIsNone(engine.broken_off())

    def test_broken_off(self) -> None:
        """R35: a stream that neither side has ended is resumable. Stanzas received by then may become safe later."""
        engine = self.told(*GRANTED, In(ONE + TWO + THREE), Says(Stanzas(PAIR, (ONE, TWO, THREE))), Do("handled", 1), Out(""))
        left = engine.broken_off()
        assert left is not None
        self.assertEqual((left.id, left.counters.handled, left.counters.outstanding(0)), ("s4", 1, 2))
        self.assertTrue(left.counters.handle(2, 0))
        self.assertEqual((engine.broken_off(), engine.managed), (None, False))

    def test_ended(self) -> None:
        """R35: a stream that either side has closed, in order or not, is not resumable."""
        for last in (
            [Do("close", ENDED), Out(CLOSE), Says(End(Cause.IDLE))], [In(CLOSE), Out(CLOSE), Says(End(Cause.CLOSED, "them"))],
            [Do("wind_down", ENDED), Out(CLOSE)],
        ):
            self.assertIsNone(self.told(*GRANTED, *last).broken_off())

    def test_resumed(self) -> None:
        """R35: `h` counts the stanzas that were safe. Those behind it are sent again, counted, and not passed on twice."""
        engine = self.resuming(
            0, Out(resumed(1)), Says(Resumed(0)), In(ASK), Out(ack(1)), Do("handled", 1), Out(""), In(ONE + TWO + THREE),
            Says(Stanzas(PAIR, (THREE,))), In(ASK), Out(ack(2)), Do("handled", 2), Out(ack(4)), handled=1, came=3,
        )
        self.assertFalse(engine.owes)

    def test_told(self) -> None:
        """R35: stanzas that our `h` covers are not sent again, not even on a third stream."""
        engine = self.resuming(0, Out(resumed(2)), Says(Resumed(0)), handled=2, came=3)
        self.assertEqual(engine.acknowledged_to_peer, 2)
        left = engine.broken_off()
        assert left is not None
        self.assertEqual(left.counters.told, 2)

    def test_before(self) -> None:
        """R35: stanzas received on the new stream before the resumption are passed on and not counted."""
        steps = [*OPEN, In(ONE + resume(0)), Says(Stanzas(PAIR, (ONE,)), ResumptionNeeded("s4"))]
        for cut in cuts(steps):
            self._play(receiving.stream(), cut, [
                *steps, Do("resumed", broken(handled=2, came=2)), Out(resumed(2)), Says(Resumed(0)), In(TWO),
                Says(Stanzas(PAIR, (TWO,))), Do("handled", 1), Out(ack(3)),
            ])

    def test_theirs(self) -> None:
        """R35: the peer's `h` tells which of our stanzas it has. The shell sends the rest again, which is counted already."""
        engine = self.resuming(
            4, Out(resumed(0)), Says(Resumed(1)), Do("sent", 1), In(ack(7)), Says(Acknowledged(3)), In(ack(8)), Out(too_high(8, 7)),
            Says(End(Cause.PROTOCOL_ERROR, condition="undefined-condition")), handled=0, came=0, sent=6, acknowledged=3,
        )
        self.assertTrue(engine.over)

    def test_again(self) -> None:
        """R35: a resumed stream may be interrupted again, and is resumed by the same id."""
        engine = self.resuming(0, Out(resumed(0)), Says(Resumed(0)), In(ONE + TWO), Says(Stanzas(PAIR, (TWO,))), handled=0, came=1)
        left = engine.broken_off()
        assert left is not None
        self.assertEqual((left.id, left.counters.handled, left.counters.outstanding(0)), ("s4", 0, 2))

    def test_too_high(self) -> None:
        """R35: an impossible `h` is an error here too, and takes nothing from the interrupted stream."""
        left = broken(handled=1, came=3, sent=2)
        steps = [*OPEN, In(resume(3)), Says(ResumptionNeeded("s4")), Do("resumed", left), Out(too_high(3, 2))]
        for cut in cuts(steps):
            self._play(receiving.stream(), cut, [*steps, Says(End(Cause.PROTOCOL_ERROR, condition="undefined-condition"))])
        self.assertEqual((left.counters.outstanding(0), left.counters.acknowledged), (2, 0))

    def test_no_count(self) -> None:
        """R35: `<resume/>` without `h` is bad format."""
        self.told(
            *OPEN, In(f"<resume {SM} previd='s4'/>"), Says(ResumptionNeeded("s4")), Do("resumed", broken(handled=0, came=0)),
            Out(error("bad-format", "<resume/> whose `h` is not a number")), Says(End(Cause.BAD_XML, condition="bad-format")),
        )

    def test_unknown(self) -> None:
        """R35: a stream that does not exist, or belongs to another peer, is not resumed. For a past stream its last count is given.
        The new stream continues.
        """
        for past, answer in ((None, failed("item-not-found")), (broken(handled=7, came=9).counters, failed_at(7))):
            self.told(
                *OPEN, In(resume(0) + ONE), Says(ResumptionNeeded("s4")), Do("resumed", None, past), Out(answer),
                Says(Stanzas(PAIR, (ONE,))), In(ENABLE_RESUME), Out(enabled("s4")), Says(ManagementEnabled()),
            )
        self.told(*OPEN, In(f"<resume {SM} h='0'/>"), Says(ResumptionNeeded("")), Do("resumed", None), Out(failed("item-not-found")))

    def test_not_now(self) -> None:
        """R35: a stream with stream management already, or without authentication, cannot be used to resume another."""
        self.told(*GRANTED, In(resume(0)), Out(failed("unexpected-request")))
        permission = Permission(dialback=True, management=True, resume=60)
        self.told(
            *receiving.judged(permission, ERRORS_FEATURE, LIMITS_FEATURE, SM_FEATURE), In(resume(0)), Out(failed("unexpected-request")),
        )
        with self.assertRaises(LocalFault):
            self.told(*OPEN).resumed(None)

    def test_questions_meanwhile(self) -> None:
        """The shell's answers about other pairs are processed while it looks for the stream."""
        pair = Pair(OTHER, OURS)
        permission = Permission(dialback=True, management=True, resume=60)
        steps: list[Step] = [
            *receiving.judged(permission, ERRORS_FEATURE, LIMITS_FEATURE, SM_FEATURE),
            In(result("peer.example", "ours.example", "k")), Says(DialbackNeeded(PAIR, "k", "s2")),
            Do("dialback_answered", PAIR, DialbackOutcome("valid")), Out(result("ours.example", "peer.example", type="valid")),
            Says(PairProven(PAIR, "dialback")), In(result("peer.example", "rooms.ours.example", "k") + resume(0)),
        ]
        rooms = Pair(PAIR.sender, ROOMS)
        self.told(
            *steps, Says(DialbackNeeded(rooms, "k", "s2"), ResumptionNeeded("s4")),
            Do("dialback_answered", rooms, DialbackOutcome("valid")),
            Out(result("rooms.ours.example", "peer.example", type="valid")), Says(PairProven(rooms, "dialback")),
            Do("resumed", None), Out(failed("item-not-found")),
        )
        self.told(
            *steps[:-1], In(result("other.example", "ours.example", "k")), Says(JudgementNeeded(OTHER, OURS, True)), In(resume(0)),
            Says(ResumptionNeeded("s4")), Do("judged", Permission(dialback=True)), Says(DialbackNeeded(pair, "k", "s2")),
            Do("resumed", None), Out(failed("item-not-found")), Do("dialback_answered", pair, DialbackOutcome("valid")),
            Out(result("ours.example", "other.example", type="valid")), Says(PairProven(pair, "dialback")),
        )


SENDING = replace(initiating.FEDERATION, management=True, resume=300)
PROVEN = PairProven(initiating.OUTBOUND, "EXTERNAL")
ASKED: list[Step] = [
    *initiating.SUCCEEDED, initiating.answered("r3", LIMITS_FEATURE, SM_FEATURE), Out(ENABLE_RESUME), Says(PROVEN),
]
RESUMING: list[Step] = [*initiating.SUCCEEDED, initiating.answered("r3", LIMITS_FEATURE, SM_FEATURE)]
BOTH = replace(SENDING, bidi=True)
BACK = bidi.OUTBOUND.inverse
COMES_BACK: list[Step] = [*bidi.OPEN[:-2], initiating.answered("r3", SM_FEATURE)]


class InitiatingTests(TranscriptCase):
    """R35: tests of a stream that we opened."""

    def told(self, *steps: Step, options: InitiatingOptions = SENDING) -> InitiatingStream:
        engine = self.play(lambda: InitiatingStream(options), *steps)
        assert isinstance(engine, InitiatingStream)
        return engine

    def resuming(self, *steps: Step, options: InitiatingOptions = SENDING, **counts: int) -> InitiatingStream:
        """Run a stream that is to resume one with these counts."""
        def make() -> InitiatingStream:
            engine = InitiatingStream(options)
            engine.previous = broken(**counts)
            return engine

        engine = self.play(make, *steps)
        assert isinstance(engine, InitiatingStream)
        return engine

    def test_granted(self) -> None:
        """R35: the stream is resumable for the shorter of both sides' times."""
        for given, seconds in ((enabled("x", 60), 60), (enabled("x", 600), 300), (f"<enabled {SM} id='x' resume='1'/>", 300)):
            engine = self.told(*ASKED, Do("sent", 3), In(given), In(ack(1)), Says(Acknowledged(1)))
            left = engine.broken_off()
            assert left is not None
            self.assertEqual((left.id, left.seconds, left.counters.sent, left.counters.acknowledged), ("x", seconds, 3, 1))

    def test_not_granted(self) -> None:
        """R35: it is not if the server says so without an id (Prosody), or if resumption was not requested."""
        for given in (
            ENABLED, f"<enabled {SM} resume='true'/>", f"<enabled {SM} id='x'/>", f"<enabled {SM} id='' resume='true'/>",
            enabled("x", 0),
        ):
            self.assertIsNone(self.told(*ASKED, In(given)).broken_off())
        self.assertIsNone(self.told(*ASKED).broken_off())
        without = self.told(*ASKED[:-2], Out(ENABLE), Says(PROVEN), In(enabled("x")), options=replace(SENDING, resume=0))
        self.assertIsNone(without.broken_off())

    def test_resumed(self) -> None:
        """R35: `<resume/>` follows authentication in place of `<enable/>`. Nothing is sent before the answer, whose `h` acknowledges stanzas."""
        engine = self.resuming(
            *RESUMING, Out(resume(0)), In(resumed(4)), Says(Resumed(2), PROVEN), Do("sent", 1), In(ack(6)), Says(Acknowledged(2)),
            In(ack(8)), Out(too_high(8, 7)), Says(End(Cause.PROTOCOL_ERROR, condition="undefined-condition")),
            handled=0, came=0, sent=6, acknowledged=2,
        )
        self.assertFalse(engine.resuming)

    def test_waits(self) -> None:
        """R35: until the answer the stream is not ready, and is not resumable itself."""
        engine = self.resuming(*RESUMING, Out(resume(0)), handled=0, came=0, sent=1)
        self.assertEqual((engine.resuming, engine.managed, engine.broken_off()), (True, False, None))

    def test_dialback(self) -> None:
        """R35: `<resume/>` follows dialback as it follows SASL."""
        self.resuming(
            *initiating.SECURED, initiating.answered("r2", ERRORS_FEATURE, SM_FEATURE), initiating.asking("r2"), initiating.VALID,
            Out(resume(0)), In(resumed(0)), Says(Resumed(0), PairProven(initiating.OUTBOUND, "dialback")), handled=0, came=0,
        )

    def test_failed(self) -> None:
        """R35: the `h` of a refusal counts too, if there is one. Then the stream begins anew."""
        for answer, count in ((failed("item-not-found"), 0), (failed_at(5), 3)):
            engine = self.resuming(
                *RESUMING, Out(resume(0)), In(answer), Out(ENABLE_RESUME), Says(NotResumed(count), PROVEN), Do("sent", 1),
                In(enabled("new")), In(ack(1)), Says(Acknowledged(1)), handled=0, came=0, sent=6, acknowledged=2,
            )
            assert engine.resumption is not None
            self.assertEqual(engine.resumption.id, "new")

    def test_too_high(self) -> None:
        """R35: an `h` beyond the number sent is an error, in either answer."""
        for answer in (resumed(7), failed_at(7)):
            self.resuming(
                *RESUMING, Out(resume(0)), In(answer), Out(too_high(7, 6)),
                Says(End(Cause.PROTOCOL_ERROR, condition="undefined-condition")), handled=0, came=0, sent=6, acknowledged=2,
            )

    def test_of_another(self) -> None:
        """An answer that names another stream is refused, and so is one without a request."""
        text = "<resumed/> names another stream"
        self.resuming(
            *RESUMING, Out(resume(0)), In(resumed(0, "x")), Out(error("undefined-condition", text)),
            Says(End(Cause.PROTOCOL_ERROR, condition="undefined-condition")), handled=0, came=0,
        )
        end = Says(End(Cause.PROTOCOL_ERROR, condition="unsupported-stanza-type"))
        text = "<resumed xmlns='urn:xmpp:sm:3'/> is not expected here"
        self.told(*ASKED, In(resumed(0)), Out(error("unsupported-stanza-type", text)), end)
        text = "<enabled xmlns='urn:xmpp:sm:3'/> is not expected here"
        self.resuming(*RESUMING, Out(resume(0)), In(ENABLED), Out(error("unsupported-stanza-type", text)), end, handled=0, came=0)

    def test_closed(self) -> None:
        """A closing tag instead of an answer ends the stream."""
        engine = self.resuming(*RESUMING, Out(resume(0)), In(CLOSE), Out(CLOSE), Says(End(Cause.CLOSED, "them")), handled=0, came=0)
        self.assertTrue(engine.resuming)

    def test_unoffered(self) -> None:
        """R35: no stream is resumed if acknowledgements are not offered."""
        self.resuming(*RESUMING[:-1], initiating.answered("r3", LIMITS_FEATURE), Says(PROVEN), handled=0, came=0, sent=1)

    def test_bidi(self) -> None:
        """R35, R36: received stanzas are counted on, and not passed on twice. Those before the answer are not counted."""
        self.resuming(
            *COMES_BACK, Out(resume(1)), Says(PairProven(BACK, "bidi")), In(ONE), Says(Stanzas(BACK, (ONE,))), In(resumed(0)),
            Says(Resumed(0), PairProven(bidi.OUTBOUND, "EXTERNAL")), In(TWO + THREE), Says(Stanzas(BACK, (THREE,))),
            Do("handled", 2), Out(ack(3)), handled=1, came=2, options=BOTH,
        )

    def test_handled_meanwhile(self) -> None:
        """R35, R36: the other side sends again everything behind the `h` that it was given, even if it was handled since."""
        for cut in cuts([In(TWO + THREE + ASK)]):
            left = broken(handled=1, came=3)
            engine = InitiatingStream(BOTH)
            engine.previous = left
            self._play(engine, cut, [*COMES_BACK, Out(resume(1)), Says(PairProven(BACK, "bidi"))])
            left.counters.handle(2, 0)
            self._play(engine, cut, [
                In(resumed(0)), Says(Resumed(0), PairProven(bidi.OUTBOUND, "EXTERNAL")), In(ONE + TWO + THREE + ASK), Out(ack(3)),
                Says(Stanzas(BACK, (THREE,))), Do("handled", 1), Out(ack(4)),
            ])
