"""R35: tests of stream management (XEP-0198) in both roles."""

from __future__ import annotations

from dataclasses import replace

from s2sgw.stream.events import (
    Acknowledged,
    ClosingTagDue,
    DialbackNeeded,
    DialbackOutcome,
    ManagementEnabled,
    ManagementRefused,
    PairProven,
    Permission,
    Refusal,
)
from s2sgw.stream.initiating import InitiatingOptions, InitiatingStream
from s2sgw.stream.management import MODULUS, Counters
from s2sgw.stream.receiving import ReceivingStream
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import LocalFault, StreamCondition
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.namespaces import MANAGEMENT
from tests.support.transcripts import (
    CLOSE,
    ERRORS_FEATURE,
    EXTERNAL_FEATURE,
    LIMITS_FEATURE,
    PAIR,
    PEER,
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
    error,
    features,
    header,
    message,
    result,
)
from tests.unit.stream import test_initiating as initiating
from tests.unit.stream import test_receiving as receiving

SM = f"xmlns='{MANAGEMENT}'"
SM_FEATURE = f"<sm {SM}/>"
ENABLE = f"<enable {SM}/>"
ENABLED = f"<enabled {SM}/>"
ASK = f"<r {SM}/>"
BY_KEY = Permission(dialback=True, management=True)
EXTERNAL_ONLY = Permission(external=True, management=True)


def ack(h: object) -> str:
    return f"<a {SM} h='{h}'/>"


def failed(condition: str) -> str:
    return f"<failed {SM}><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"


def too_high(h: int, sent: int) -> str:
    """Return the stream error that answers an impossible `h` (§4)."""
    text = f"h is {h}, but {sent} stanzas were sent"
    said = f"<handled-count-too-high {SM} h='{h}' send-count='{sent}'/>"
    return error("undefined-condition", text).replace("</stream:error>", f"{said}</stream:error>")


OPEN: list[Step] = [
    *receiving.judged(EXTERNAL_ONLY, EXTERNAL_FEATURE, LIMITS_FEATURE), In(auth()), Out(SUCCESS), Says(PairProven(PAIR, "EXTERNAL")),
    In(receiving.ASK), Out(header(from_="ours.example", to="peer.example", id="s3") + features(ERRORS_FEATURE, LIMITS_FEATURE, SM_FEATURE)),
]
MANAGED: list[Step] = [*OPEN, In(ENABLE), Out(ENABLED), Says(ManagementEnabled())]
ONE, TWO, THREE = (message(body=body) for body in ("one", "two", "three"))


class ReceivingManagementTests(TranscriptCase):
    """R35: tests of the acknowledgement of received stanzas."""

    def told(self, *steps: Step) -> ReceivingStream:
        engine = self.play(receiving.stream, *steps)
        assert isinstance(engine, ReceivingStream)
        return engine

    def test_acknowledged(self) -> None:
        """R35: `<r/>` is answered at once with the number handled by then. Once everything is handled, that is acknowledged without a request."""
        engine = self.told(
            *MANAGED, In(ONE + TWO + ASK), Out(ack(0)), Says(Stanzas(PAIR, (ONE, TWO))), Do("handled", 1), Out(""), In(ASK),
            Out(ack(1)), Do("handled", 1), Out(ack(2)), In(THREE), Says(Stanzas(PAIR, (THREE,))), Do("handled", 1), Out(ack(3)),
            Do("handled", 0), Out(ack(3)),
        )
        self.assertTrue(engine.managed)

    def test_before_the_closing_tag(self) -> None:
        """R16, R35: stanzas received with the peer's closing tag are acknowledged before our own closing tag, which waits for that."""
        theirs = Ending(Cause.CLOSED, by="them")
        self.told(*MANAGED, In(CLOSE), Out(CLOSE), Says(End(Cause.CLOSED, by="them")))
        came: list[Step] = [*MANAGED, In(ONE + TWO + CLOSE), Says(Stanzas(PAIR, (ONE, TWO)), ClosingTagDue(theirs)), Do("handled", 1), Out("")]
        self.told(*came, Do("handled", 1), Out(ack(2) + CLOSE), Says(End(Cause.CLOSED, by="them")))
        self.told(*came, Do("close", theirs), Out(ack(1) + CLOSE), Says(End(Cause.CLOSED, by="them")))
        self.told(*came, Do("wind_down", Ending(Cause.SHUTDOWN)), Out(ack(1) + CLOSE), Says(End(Cause.SHUTDOWN)))
        engine = self.told(*came)
        self.assertTrue(engine.closing)
        self.assertIsNone(engine.broken_off())

    def test_before_any_closing_tag(self) -> None:
        """R35: whichever side closes, and however, the last count is sent first."""
        came: list[Step] = [*MANAGED, In(ONE + TWO), Says(Stanzas(PAIR, (ONE, TWO))), Do("handled", 1), Out("")]
        self.told(*came, Do("close", Ending(Cause.IDLE)), Out(ack(1) + CLOSE), Says(End(Cause.IDLE)))
        text = error("not-well-formed", "mismatched tag")
        refusal = Refusal(StreamCondition.NOT_WELL_FORMED, "mismatched tag", Ending(Cause.BAD_XML))
        self.told(*came, Do("fail", refusal), Out(ack(1) + text), Says(End(Cause.BAD_XML, condition="not-well-formed")))

    def test_handled_after_the_loss(self) -> None:
        """R35: stanzas handled after the transport is gone are not acknowledged: the other side sends them again elsewhere."""
        engine = self.told(*MANAGED, In(ONE + TWO), Says(Stanzas(PAIR, (ONE, TWO))), Do("handled", 1), In(ASK), Out(ack(1)))
        engine.unheard = True
        engine.handled(1)
        engine.receive(ASK.encode())
        assert engine.counters is not None
        self.assertEqual((engine.acknowledged_to_peer, engine.counters.handled, engine.data_to_send()), (1, 2, b""))

    def test_counts_from_enable_on(self) -> None:
        """R35: stanzas before `<enable/>` are not counted, even in the same segment."""
        self.told(
            *OPEN, In(ONE + ENABLE + TWO), Out(ENABLED), Says(Stanzas(PAIR, (ONE,)), ManagementEnabled(), Stanzas(PAIR, (TWO,))),
            Do("handled", 1), Out(ack(1)),
        )

    def test_not_before_authentication(self) -> None:
        """R35: management is offered beside dialback, because no features follow it. It is enabled only for proven pairs, once."""
        self.told(
            *receiving.judged(BY_KEY, ERRORS_FEATURE, LIMITS_FEATURE, SM_FEATURE),
            In(ENABLE), Out(failed("unexpected-request")), In(result("peer.example", "ours.example", "k")),
            Says(DialbackNeeded(PAIR, "k", "s2")), Do("dialback_answered", PAIR, DialbackOutcome("valid")),
            Out(result("ours.example", "peer.example", type="valid")), Says(PairProven(PAIR, "dialback")), In(ENABLE), Out(ENABLED),
            Says(ManagementEnabled()), In(ENABLE), Out(failed("unexpected-request")),
        )

    def test_unoffered(self) -> None:
        """R35: management is enabled only if it was advertised. Without it nothing is acknowledged."""
        engine = self.told(*receiving.OPEN, In(ENABLE), Out(failed("service-unavailable")))
        self.assertFalse(engine.managed)
        for given, name in ((ASK, "r"), (ack(0), "a")):
            text = f"<{name} xmlns='{MANAGEMENT}'/> is not expected here"
            end = End(Cause.PROTOCOL_ERROR, condition="unsupported-stanza-type")
            self.told(*receiving.OPEN, In(given), Out(error("unsupported-stanza-type", text)), Says(end))

    def test_resume(self) -> None:
        """R35: no stream is resumed here. A request for it is refused and may be followed by `<enable/>` (XEP-0198 §5)."""
        resume = f"<resume {SM} h='0' previd='x'/>"
        self.told(
            *OPEN, In(resume), Out(failed("feature-not-implemented")), In(ENABLE), Out(ENABLED), Says(ManagementEnabled()),
        )
        text = f"<resume xmlns='{MANAGEMENT}'/> is not expected here"
        self.told(
            *receiving.PLAIN, In(resume), Out(error("unsupported-stanza-type", text)),
            Says(End(Cause.PROTOCOL_ERROR, condition="unsupported-stanza-type")),
        )

    def test_offered_after_authentication(self) -> None:
        """R35: if SASL is the only mechanism, `<sm/>` follows it. An earlier `<enable/>` is refused."""
        text = f"<enable xmlns='{MANAGEMENT}'/> is not expected here"
        self.told(
            *receiving.SECURED, Do("judged", EXTERNAL_ONLY), Out(features(EXTERNAL_FEATURE, LIMITS_FEATURE)),
            In(ENABLE), Out(failed("service-unavailable")),
        )
        self.told(
            *receiving.PLAIN, In(ENABLE), Out(error("unsupported-stanza-type", text)),
            Says(End(Cause.PROTOCOL_ERROR, condition="unsupported-stanza-type")),
        )

    def test_acknowledgements_by_the_initiating_side(self) -> None:
        """R35: nothing was sent to the initiating side, so the only possible `h` is 0."""
        self.told(*MANAGED, In(ack(0)))
        self.told(
            *MANAGED, In(ack(1)), Out(too_high(1, 0)), Says(End(Cause.PROTOCOL_ERROR, condition="undefined-condition")),
        )

    def test_no_count(self) -> None:
        """R35: an `h` that is not a 32-bit number is a bad format."""
        for h in ("", "x", "-1", "²", "4294967296", "00000000001"):
            self.told(
                *MANAGED, In(ack(h)), Out(error("bad-format", "<a/> whose `h` is not a number")),
                Says(End(Cause.BAD_XML, condition="bad-format")),
            )

    def test_shell(self) -> None:
        """The shell cannot report more stanzas than were received, and none on a stream without acknowledgements. A late report has no effect."""
        engine = self.told(*MANAGED, In(ONE), Says(Stanzas(PAIR, (ONE,))))
        for number in (2, -1):
            with self.assertRaises(LocalFault):
                engine.handled(number)
        with self.assertRaises(LocalFault):
            self.told(*receiving.OPEN).handled(0)
        engine.close(Ending(Cause.IDLE))
        self.assertEqual(engine.handled(1), [])
        self.assertEqual(engine.data_to_send().decode(), CLOSE)


SENDING = replace(initiating.FEDERATION, management=True)
SENT_EXTERNAL: list[Step] = [
    *initiating.SUCCEEDED, initiating.answered("r3", LIMITS_FEATURE, SM_FEATURE), Out(ENABLE),
    Says(PairProven(initiating.OUTBOUND, "EXTERNAL")),
]


class InitiatingManagementTests(TranscriptCase):
    """R35: tests of acknowledgements for the stanzas that we send."""

    def told(self, *steps: Step, options: InitiatingOptions = SENDING) -> InitiatingStream:
        engine = self.play(lambda: InitiatingStream(options), *steps)
        assert isinstance(engine, InitiatingStream)
        return engine

    def test_acknowledged(self) -> None:
        """R35: `<enable/>` follows the proof at once. The shell writes at once and is told how many more stanzas have arrived."""
        engine = self.told(
            *SENT_EXTERNAL, Do("sent", 4), In(ENABLED), In(ack(2)), Says(Acknowledged(2)), In(ack(2)), In(ack(3)),
            Says(Acknowledged(1)), In(ASK), Out(ack(0)),
        )
        self.assertEqual((engine.managed, engine.unacknowledged), (True, 1))

    def test_dialback(self) -> None:
        """R35: `<enable/>` also follows dialback, by the features before it. A further pair does not request it again."""
        rooms = Pair(ROOMS, PEER)
        self.told(
            *initiating.SECURED, initiating.answered("r2", ERRORS_FEATURE, SM_FEATURE), initiating.asking("r2"), initiating.VALID,
            Out(ENABLE), Says(PairProven(initiating.OUTBOUND, "dialback")), In(ENABLED), Do("authorize", rooms),
            initiating.asking("r2", rooms), In(result("peer.example", "rooms.ours.example", type="valid")),
            Says(PairProven(rooms, "dialback")),
        )

    def test_not_asked(self) -> None:
        """R35: management is not requested if it is off or not offered. The call `sent` has no effect then."""
        without: list[Step] = [*SENT_EXTERNAL[:-2], SENT_EXTERNAL[-1], Do("sent", 2)]
        self.assertFalse(self.told(*without, options=initiating.FEDERATION).managed)
        engine = self.told(*initiating.OPEN, Do("sent", 2))
        self.assertEqual((engine.managed, engine.unacknowledged), (False, 0))

    def test_refused(self) -> None:
        """R35: after a refusal the stream continues without management."""
        engine = self.told(
            *SENT_EXTERNAL, Do("sent", 1), In(failed("service-unavailable")), Says(ManagementRefused()), Do("sent", 1),
        )
        self.assertFalse(engine.managed)

    def test_too_high(self) -> None:
        """R35: an `h` beyond the number sent, or a decreasing one, is an error."""
        end = Says(End(Cause.PROTOCOL_ERROR, condition="undefined-condition"))
        self.told(*SENT_EXTERNAL, Do("sent", 1), In(ENABLED), In(ack(2)), Out(too_high(2, 1)), end)
        self.told(
            *SENT_EXTERNAL, Do("sent", 2), In(ENABLED), In(ack(2)), Says(Acknowledged(2)), In(ack(1)), Out(too_high(1, 2)), end,
        )

    def test_answer_without_a_request(self) -> None:
        """An answer without a request is refused, and so is a second one."""
        end = Says(End(Cause.PROTOCOL_ERROR, condition="unsupported-stanza-type"))
        for given, name in ((ENABLED, "enabled"), (failed("unexpected-request"), "failed"), (ack(0), "a"), (ASK, "r")):
            text = f"<{name} xmlns='{MANAGEMENT}'/> is not expected here"
            self.told(*initiating.OPEN, In(given), Out(error("unsupported-stanza-type", text)), end)
        text = f"<enabled xmlns='{MANAGEMENT}'/> is not expected here"
        self.told(*SENT_EXTERNAL, In(ENABLED), In(ENABLED), Out(error("unsupported-stanza-type", text)), end)


class CounterTests(TranscriptCase):
    """R35: tests of the counters."""

    def test_modulus(self) -> None:
        """R35: `h` is counted modulo 2**32, both ways."""
        counters = Counters(5)
        counters.sent = counters.acknowledged = MODULUS - 1
        counters.sent += 3
        self.assertEqual(counters.acknowledge(Element("a", MANAGEMENT, {"h": "1"})), 2)
        self.assertEqual(counters.acknowledged, MODULUS + 1)
        self.assertTrue(counters.handle(MODULUS + 7, MODULUS + 12))
        self.assertEqual(counters.answer(), f"<a xmlns='{MANAGEMENT}' h='7'/>".encode())
