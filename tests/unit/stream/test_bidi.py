"""R36: tests of bidirectional streams (XEP-0288) in both roles."""

from __future__ import annotations

from dataclasses import replace

from s2sgw.stream.events import (
    DialbackNeeded,
    DialbackOutcome,
    JudgementNeeded,
    ManagementEnabled,
    PairProven,
    Permission,
)
from s2sgw.stream.initiating import InitiatingOptions, InitiatingStream
from s2sgw.stream.receiving import ReceivingStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.framing import FramingLimits
from s2sgw.xmpp.jid import Pair
from tests.support.transcripts import (
    CLOSE,
    ERRORS_FEATURE,
    EXTERNAL_FEATURE,
    LIMITS_FEATURE,
    OTHER,
    OURS,
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
from tests.unit.stream.test_management import ASK as REQUEST
from tests.unit.stream.test_management import ENABLE, ENABLED, SM_FEATURE, ack

BIDI_FEATURE = "<bidi xmlns='urn:xmpp:features:bidi'/>"
BIDI = "<bidi xmlns='urn:xmpp:bidi'/>"
NOT_EXPECTED = error("unsupported-stanza-type", "<bidi xmlns='urn:xmpp:bidi'/> is not expected here")
REFUSED = [Out(NOT_EXPECTED), Says(End(Cause.PROTOCOL_ERROR, condition="unsupported-stanza-type"))]
PERMITTED = Permission(external=True, dialback=True, bidi=True)
BY_KEY = Permission(dialback=True, bidi=True)
BACK = PAIR.inverse
OFFERED = receiving.judged(PERMITTED, EXTERNAL_FEATURE, ERRORS_FEATURE, LIMITS_FEATURE, BIDI_FEATURE)
ASKED: list[Step] = [
    *receiving.judged(BY_KEY, ERRORS_FEATURE, LIMITS_FEATURE, BIDI_FEATURE), In(result("peer.example", "ours.example", "k")), Says(DialbackNeeded(PAIR, "k", "s2")),
]
VALID = [Do("dialback_answered", PAIR, DialbackOutcome("valid")), Out(result("ours.example", "peer.example", type="valid"))]


class ReceivingBidiTests(TranscriptCase):
    """R36: tests of stanzas sent back on a stream that the peer opened."""

    def told(self, *steps: Step) -> ReceivingStream:
        engine = self.play(receiving.stream, *steps)
        assert isinstance(engine, ReceivingStream)
        return engine

    def test_external(self) -> None:
        """R36: bidi is requested before SASL. The inverse of the pair may be sent after our features."""
        self.told(
            *OFFERED, In(BIDI + auth()), Out(SUCCESS), Says(PairProven(PAIR, "EXTERNAL")), In(receiving.ASK),
            Out(header(from_="ours.example", to="peer.example", id="s3") + features(ERRORS_FEATURE, LIMITS_FEATURE)),
            Says(PairProven(BACK, "bidi")),
        )

    def test_dialback(self) -> None:
        """R36: bidi may also be requested before dialback."""
        self.told(
            *ASKED[:-2], In(BIDI + result("peer.example", "ours.example", "k")), Says(DialbackNeeded(PAIR, "k", "s2")),
            *VALID, Says(PairProven(PAIR, "dialback"), PairProven(BACK, "bidi")),
        )

    def test_each_domain_by_itself(self) -> None:
        """R36: stanzas are sent back to a further domain only if that domain meets the policy itself."""
        for permission in (Permission(dialback=True), Permission(dialback=True, bidi=True)):
            pair = Pair(OTHER, OURS)
            proven = [PairProven(pair, "dialback"), *([PairProven(pair.inverse, "bidi")] if permission.bidi else [])]
            self.told(
                *OFFERED, In(BIDI + result("other.example", "ours.example", "k")), Says(JudgementNeeded(OTHER, OURS, True)),
                Do("judged", permission), Says(DialbackNeeded(pair, "k", "s2")),
                Do("dialback_answered", pair, DialbackOutcome("valid")),
                Out(result("ours.example", "other.example", type="valid")), Says(*proven),
            )

    def test_unasked(self) -> None:
        """Nothing is sent back if the other side does not request bidi."""
        self.told(*ASKED, *VALID, Says(PairProven(PAIR, "dialback")))

    def test_unoffered(self) -> None:
        """R36: a request is refused if bidi was not offered, before TLS, and after authentication has begun."""
        self.told(*receiving.BOTH, In(BIDI), *REFUSED)
        self.told(*receiving.PLAIN, In(BIDI), *REFUSED)
        self.told(*receiving.OPEN, In(BIDI), *REFUSED)
        self.told(*ASKED, In(BIDI), *REFUSED)
        self.told(*ASKED, *VALID, Says(PairProven(PAIR, "dialback")), In(BIDI), *REFUSED)


SENDING = replace(initiating.FEDERATION, bidi=True)
REACHABLE: list[Step] = [*initiating.JUDGING, Do("judged", Permission(bidi=True)), Out(initiating.ASK)]
OUTBOUND = initiating.OUTBOUND
OPEN: list[Step] = [
    *REACHABLE, initiating.answered("r2", EXTERNAL_FEATURE, BIDI_FEATURE), Out(BIDI + initiating.AUTH), In(SUCCESS),
    Out(initiating.ASK), initiating.answered("r3", LIMITS_FEATURE),
    Says(PairProven(OUTBOUND, "EXTERNAL"), PairProven(OUTBOUND.inverse, "bidi")),
]
ONE, TWO = message(body="one"), message(body="two")


class InitiatingBidiTests(TranscriptCase):
    """R36: tests of stanzas received on a stream that we opened."""

    def told(self, *steps: Step, options: InitiatingOptions = SENDING) -> InitiatingStream:
        engine = self.play(lambda: InitiatingStream(options), *steps)
        assert isinstance(engine, InitiatingStream)
        return engine

    def test_external(self) -> None:
        """R36: bidi is requested before SASL. Then stanzas of the inverse pair are received."""
        self.told(*OPEN, In(ONE + TWO), Says(Stanzas(OUTBOUND.inverse, (ONE, TWO))))

    def test_dialback(self) -> None:
        """R36: bidi is requested before dialback. The inverse of each proven pair may be received."""
        rooms = Pair(ROOMS, PEER)
        back = message(to="a@rooms.ours.example")
        self.told(
            *REACHABLE, initiating.answered("r2", ERRORS_FEATURE, BIDI_FEATURE),
            Out(BIDI + initiating.asking("r2").data), initiating.VALID,
            Says(PairProven(OUTBOUND, "dialback"), PairProven(OUTBOUND.inverse, "bidi")), Do("authorize", rooms),
            initiating.asking("r2", rooms), In(result("peer.example", "rooms.ours.example", type="valid")),
            Says(PairProven(rooms, "dialback"), PairProven(rooms.inverse, "bidi")),
            In(back), Says(Stanzas(rooms.inverse, (back,))),
        )

    def test_further_pair(self) -> None:
        """R36: the inverse of a pair added by dialback may be received too. A stanza to a domain that sends nothing here is refused."""
        rooms, back = Pair(ROOMS, PEER), message(to="a@rooms.ours.example")
        self.told(
            *OPEN, Do("authorize", rooms), initiating.asking("r3", rooms), In(result("peer.example", "rooms.ours.example", type="valid")),
            Says(PairProven(rooms, "dialback"), PairProven(rooms.inverse, "bidi")), In(back + ONE),
            Says(Stanzas(rooms.inverse, (back,)), Stanzas(OUTBOUND.inverse, (ONE,))), In(message("x@other.example", "a@rooms.ours.example")),
            Out(error("invalid-from", "other.example is not authenticated on this stream")),
            Says(End(Cause.INVALID_FROM, condition="invalid-from")),
        )

    def test_only_the_inverse(self) -> None:
        """R36: no other pair may be received."""
        for given, condition, text in (
            (message(from_="a@other.example"), "invalid-from", "other.example is not authenticated on this stream"),
            (message(to="a@other.example"), "host-unknown", "other.example is not served here"),
        ):
            cause = Cause.INVALID_FROM if condition == "invalid-from" else Cause.HOST_UNKNOWN
            self.told(*OPEN, In(given), Out(error(condition, text)), Says(End(cause, condition=condition)))

    def test_not_asked(self) -> None:
        """R36: bidi is not requested if it is off or not offered, if the peer is not proven, or to verify a key. Then nothing may be received."""
        answered = initiating.answered("r2", EXTERNAL_FEATURE, BIDI_FEATURE)
        self.told(*REACHABLE, answered, Out(initiating.AUTH), options=initiating.FEDERATION)
        self.told(*initiating.SECURED, answered, Out(initiating.AUTH))
        verifying = [*initiating.JUDGING_TO_VERIFY, *REACHABLE[len(initiating.JUDGING):]]
        engine = self.told(*verifying, answered, *initiating.READY[-1:], options=replace(SENDING, purpose="verify"))
        self.assertFalse(engine.bidi)
        text = "this stream carries stanzas in the other direction only"
        end = Says(End(Cause.INVALID_FROM, condition="invalid-from"))
        self.told(*initiating.OPEN, In(ONE), Out(error("invalid-from", text)), end)

    def test_not_before_proven(self) -> None:
        """R36: no stanza may be received before we are authenticated."""
        text = "this stream carries stanzas in the other direction only"
        self.told(
            *OPEN[:-4], In(ONE), Out(error("invalid-from", text)), Says(End(Cause.INVALID_FROM, condition="invalid-from")),
        )

    def test_read_until_the_closing_tag(self) -> None:
        """R16, R36: when we close a stream that carries both ways, it is read until the peer's closing tag. A one-way stream is not."""
        shutdown = Ending(Cause.SHUTDOWN)
        self.told(
            *OPEN, Do("wind_down", shutdown), Out(CLOSE), In(ONE), Says(Stanzas(OUTBOUND.inverse, (ONE,))), In(CLOSE),
            Says(End(Cause.SHUTDOWN)),
        )
        self.told(*initiating.OPEN, Do("wind_down", shutdown), Out(CLOSE), Says(End(Cause.SHUTDOWN)))

    def test_limits(self) -> None:
        """R32: received stanzas are limited as the judgement says."""
        permission = Permission(bidi=True, limits=FramingLimits(stanza_bytes=100))
        steps = [*initiating.JUDGING, Do("judged", permission), *OPEN[len(initiating.JUDGING) + 1 :]]
        large = message(body="x" * 100)
        self.told(
            *steps, In(ONE), Says(Stanzas(OUTBOUND.inverse, (ONE,))), In(large),
            Out(error("policy-violation", "the stanza is longer than 100 bytes")),
            Says(End(Cause.LIMIT_EXCEEDED, condition="policy-violation")),
        )

    def test_acknowledged(self) -> None:
        """R35: both directions are acknowledged on one stream. Our count starts at `<enable/>`, theirs at `<enabled/>`."""
        self.told(
            *OPEN[:-2], initiating.answered("r3", SM_FEATURE), Out(ENABLE),
            Says(PairProven(OUTBOUND, "EXTERNAL"), PairProven(OUTBOUND.inverse, "bidi")), In(ONE + ENABLED + TWO + REQUEST),
            Out(ack(0)), Says(Stanzas(OUTBOUND.inverse, (ONE,)), ManagementEnabled(), Stanzas(OUTBOUND.inverse, (TWO,))),
            Do("handled", 1), Out(ack(1)),
            options=replace(SENDING, management=True),
        )
