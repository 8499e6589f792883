"""XEP-0361: tests of streams without a handshake, in both roles."""

from __future__ import annotations

from dataclasses import replace

from s2sgw.stream.events import IdentityNeeded, JudgementNeeded, PairProven, Permission
from s2sgw.stream.initiating import InitiatingStream
from s2sgw.stream.receiving import ReceivingStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import LocalFault
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.transcripts import (
    CLOSE,
    OURS,
    PAIR,
    PEER,
    ROOMS,
    STARTTLS,
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
    message,
)
from tests.unit.stream import test_initiating as initiating
from tests.unit.stream import test_receiving as receiving

OTHER = Domain.parse("other.example")
PINNED = Permission(external=True, proven=True, pinned=True)
SECURED: list[Step] = [Do("tls_established"), Says(IdentityNeeded())]
ASKED: list[Step] = [*SECURED, Do("identified", (PEER,)), Says(JudgementNeeded(PEER, OURS, True))]
REFUSED = Permission(refusal=receiving.NOT_ALLOWED)
PROVEN = PairProven(PAIR, "zero-handshake")
OPEN: list[Step] = [*ASKED, Do("judged", PINNED, PEER), Says(PROVEN)]


class ReceivingTests(TranscriptCase):
    """Tests of a received stream without a header."""

    def told(self, *steps: Step, **options: object) -> None:
        agreed = replace(receiving.FEDERATION, direct_tls=True, **{"zero_handshake": (OURS,), **options})  # type: ignore[arg-type]
        self.play(lambda: receiving.stream(agreed), *steps)

    def test_proven(self) -> None:
        """Stanzas pass as soon as a pinned key has proven the peer. No byte is sent before the closing tag is answered."""
        self.told(*OPEN, In(message()), Says(Stanzas(PAIR, (message(),))), In(CLOSE), Out(CLOSE), Says(End(Cause.CLOSED, "them")))

    def test_sent_ahead(self) -> None:
        """Input, also white space, that arrives before the judgement is kept."""
        steps = [*ASKED, In("\n " + message()), Do("judged", PINNED, PEER), Says(PROVEN, Stanzas(PAIR, (message(),)))]
        self.told(*steps)

    def test_every_domain(self) -> None:
        """The peers of a key may send to every served domain. Each pair is proven once, with its first stanza."""
        to_rooms = [message("a@other.example", "x@rooms.ours.example"), message("b@other.example", "x@rooms.ours.example")]
        pair = Pair(OTHER, ROOMS)
        self.told(
            *SECURED, Do("identified", (PEER, OTHER)), Says(JudgementNeeded(PEER, OURS, True), JudgementNeeded(OTHER, OURS, True)),
            Do("judged", PINNED, OTHER), Do("judged", PINNED, PEER), Says(PairProven(Pair(OTHER, OURS), "zero-handshake"), PROVEN),
            In("".join(to_rooms)), Says(PairProven(pair, "zero-handshake"), Stanzas(pair, tuple(to_rooms))),
            In(message()), Says(Stanzas(PAIR, (message(),))), zero_handshake=(OURS, ROOMS),
        )

    def test_addresses(self) -> None:
        """R30: an invalid address, or a domain that is not served, ends the stream as on other streams."""
        for to, condition, text, cause in (
            ("@", "improper-addressing", None, Cause.ADDRESSING), ("x@far.example", "host-unknown", "far.example is not served here", Cause.HOST_UNKNOWN),
        ):
            engine = receiving.stream(replace(receiving.FEDERATION, direct_tls=True, zero_handshake=(OURS,)))
            self._play(engine, lambda data: [data], OPEN)
            self._compare(engine.receive(message("a@peer.example", to).encode()), (End(cause, condition=condition),))
            self.assertIn((text or condition).encode(), engine.data_to_send())

    def test_unknown(self) -> None:
        """A key whose owner has no agreement, or that does not prove the peer, ends the stream."""
        text = "no zero handshake is agreed with the owner of this key"
        end = [Out(error("not-authorized", text)), Says(End(Cause.NOT_PROVEN, condition="not-authorized"))]
        self.told(*SECURED, Do("identified", ()), *end)
        self.told(*ASKED, Do("judged", Permission(external=True, proven=True), PEER), *end)
        refused = [Out(error("policy-violation", "not you")), Says(End(Cause.NOT_ALLOWED, condition="policy-violation"))]
        self.told(*ASKED, Do("judged", REFUSED, PEER), *refused)

    def test_one_of_two(self) -> None:
        """Of several peers with one key, only those that the judgement allows may send."""
        self.told(
            *SECURED, Do("identified", (PEER, OTHER)), Says(JudgementNeeded(PEER, OURS, True), JudgementNeeded(OTHER, OURS, True)),
            Do("judged", REFUSED, OTHER), Do("judged", PINNED, PEER), Says(PROVEN), In(message("a@other.example")),
            Out(error("invalid-from", "other.example is not authenticated on this stream")),
            Says(End(Cause.INVALID_FROM, condition="invalid-from")),
        )

    def test_nothing_else(self) -> None:
        """R29: nothing is negotiated: a header, STARTTLS and SASL are refused. Stanzas before the judgement are not passed on."""
        for given in (receiving.ASK, STARTTLS, auth()):
            engine = receiving.stream(replace(receiving.FEDERATION, direct_tls=True, zero_handshake=(OURS,)))
            self._play(engine, lambda data: [data], OPEN)
            ended = engine.receive(given.encode())
            self.assertEqual([type(each).__name__ for each in ended], ["Ended"])

    def test_unasked(self) -> None:
        """A call of the shell out of order raises `LocalFault`."""
        engine = receiving.stream(replace(receiving.FEDERATION, direct_tls=True, zero_handshake=(OURS,)))
        self.assertRaises(LocalFault, engine.identified, (PEER,))
        self._play(engine, lambda data: [data], SECURED)
        engine.identified((PEER, OTHER))
        engine.judged(PINNED, PEER)
        for peer in (None, PEER, ROOMS):
            self.assertRaises(LocalFault, engine.judged, PINNED, peer)


class InitiatingTests(TranscriptCase):
    """Tests of a stream that we send without a header."""

    options = replace(initiating.FEDERATION, direct_tls=True, zero_handshake=True)
    begun: tuple[Step, ...] = (Do("begin"), Do("tls_established"), Says(JudgementNeeded(PEER, OURS, True)))

    def told(self, *steps: Step) -> None:
        self.play(lambda: InitiatingStream(self.options), *steps)

    def test_proven(self) -> None:
        """The pair may be sent as soon as a pinned key has proven the peer. Closing tags are exchanged."""
        proven = [Do("judged", PINNED), Says(PairProven(initiating.OUTBOUND, "zero-handshake"))]
        self.told(*self.begun, *proven, In(CLOSE), Out(CLOSE), Says(End(Cause.CLOSED, "them")))
        self.told(*self.begun, *proven, In(error("host-unknown", "gone")), Out(CLOSE), Says(End(Cause.HOST_UNKNOWN, "them", "host-unknown")))

    def test_not_pinned(self) -> None:
        """Only a pinned key is accepted. Nothing is sent to a peer that it does not prove."""
        self.told(*self.begun, Do("judged", Permission(external=True, proven=True)), Says(End(Cause.NOT_PROVEN)))


class MouthToEarTests(TranscriptCase):
    """Tests of both engines, connected to each other."""

    def test_stanzas(self) -> None:
        """Stanzas written by one are read by the other, and both report the end of the stream."""
        one = InitiatingStream(replace(initiating.FEDERATION, local=PEER, peer=OURS, direct_tls=True, zero_handshake=True))
        other = receiving.stream(replace(receiving.FEDERATION, direct_tls=True, zero_handshake=(OURS,)))
        assert isinstance(other, ReceivingStream)
        one.begin()
        one.tls_established()
        self.assertEqual([PairProven(PAIR, "zero-handshake")], one.judged(PINNED))
        other.tls_established()
        other.identified((PEER,))
        kept = other.receive(message().encode())
        self.assertEqual(([], b"", b""), (kept, one.data_to_send(), other.data_to_send()))
        self.assertEqual(len(other.judged(PINNED, PEER)), 2)
        one.close(Ending(Cause.IDLE))
        ended = other.receive(one.data_to_send())
        self.assertEqual((Cause.CLOSED, CLOSE.encode()), (ended[-1].ending.cause, other.data_to_send()))  # type: ignore[union-attr]
