"""Tests of an initiating and a receiving engine that are connected to each other, over every combination of policies."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import ref

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.stream.dialback import DialbackKeys
from s2sgw.stream.events import (
    DialbackNeeded,
    DialbackOutcome,
    Ended,
    Event,
    JudgementNeeded,
    Method,
    PairProven,
    PairRefused,
    Permission,
    Refusal,
    ResolutionNeeded,
    StanzasReceived,
    StartTLS,
    TLSUse,
    Verified,
    VerifyReady,
)
from s2sgw.stream.initiating import InitiatingOptions, InitiatingStream
from s2sgw.stream.initiating_context import InitiatingPhase
from s2sgw.stream.jabberd2_router import RouterPhase
from s2sgw.stream.negotiation import ElementPhase, Stop
from s2sgw.stream.receiving import ReceivingOptions, ReceivingStream
from s2sgw.stream.receiving_context import ReceivingPhase
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import LocalFault, StreamCondition
from s2sgw.xmpp.jid import Pair, domain_of
from tests.support.transcripts import (
    CLOSE,
    ERRORS_FEATURE,
    EXTERNAL_FEATURE,
    OTHER,
    OURS,
    PAIR,
    PEER,
    PROCEED,
    ROOMS,
    SASL,
    STARTTLS,
    SUCCESS,
    TLS_FAILURE,
    Cut,
    auth,
    features,
    header,
    message,
    result,
    sasl_failure,
    verify,
)

KEYS = DialbackKeys(b"of the initiating server")
REFUSAL = Refusal(StreamCondition.POLICY_VIOLATION, "no", Ending(Cause.NOT_ALLOWED, "no"))
BOTH = Permission(external=True, dialback=True)
VALID = DialbackOutcome("valid")
USES: tuple[TLSUse, ...] = ("required", "optional", "never")


@dataclass
class World:
    """The data of both shells: the policies, and whether keys are valid."""

    initiating: InitiatingOptions = field(default_factory=lambda: InitiatingOptions(local=PEER, peer=OURS, keys=KEYS))
    tls: TLSUse = "required"
    permission: Permission = BOTH
    outcome: DialbackOutcome = VALID
    resolved: Refusal | None = None
    trusted: Permission = BOTH
    direct_tls: bool = False

    def receiving(self) -> ReceivingOptions:
        return ReceivingOptions(
            keys=KEYS, serves=lambda domain: domain in (OURS, ROOMS), answers_verify=lambda domain: domain == OURS,
            tls=lambda peer: self.tls, direct_tls=self.direct_tls,
        )


class Wire:
    """Both engines with a shell for each. TLS is established when both have ordered it, and loses nothing."""

    def __init__(self, world: World, cut: Cut) -> None:
        numbers = itertools.count(1)
        self.world = world
        self.cut = cut
        self.initiating = InitiatingStream(world.initiating)
        self.receiving = ReceivingStream(world.receiving(), lambda: f"id{next(numbers)}")
        self.engines = {"initiating": self.initiating, "receiving": self.receiving}
        self.told: dict[str, list[Event]] = {"initiating": [], "receiving": []}
        self.unanswered: list[tuple[str, Event]] = []
        self.orders = 0
        self.do("initiating", self.initiating.begin())
        if world.direct_tls:
            self.establish()

    def do(self, role: str, events: list[Event]) -> None:
        self.told[role] += events
        self.unanswered += [(role, event) for event in events]

    def run(self) -> Wire:
        """Exchange data until nothing more is sent."""
        while self.carry() or self.answer():
            pass
        return self

    def carry(self) -> bool:
        to, back = self.initiating.data_to_send(), self.receiving.data_to_send()
        for role, engine, data in (("receiving", self.receiving, to), ("initiating", self.initiating, back)):
            for part in self.cut(data):
                self.do(role, engine.receive(part))
        return bool(to or back)

    def answer(self) -> bool:
        if not self.unanswered:
            return False
        role, event = self.unanswered.pop(0)
        match event:
            case StartTLS():
                self.do(role, self.engines[role].tls_ready())
                self.orders += 1
                if self.orders == 2:
                    self.establish()
            case ResolutionNeeded():
                self.do(role, self.receiving.resolved(self.world.resolved))
            case JudgementNeeded() if role == "initiating":
                self.do(role, self.initiating.judged(self.world.trusted))
            case JudgementNeeded():
                self.do(role, self.receiving.judged(self.world.permission))
            case DialbackNeeded(pair):
                self.do(role, self.receiving.dialback_answered(pair, self.world.outcome))
        return True

    def establish(self) -> None:
        self.do("initiating", self.initiating.tls_established())
        self.do("receiving", self.receiving.tls_established())

    def of(self, role: str, kind: type[Any]) -> list[Any]:
        return [event for event in self.told[role] if isinstance(event, kind)]

    def write(self, data: str) -> None:
        """Write stanzas of the initiating shell past its engine."""
        for part in self.cut(data.encode()):
            self.do("receiving", self.receiving.receive(part))


def whole(data: bytes) -> list[bytes]:
    return [data] if data else []


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def halves() -> Iterator[Cut]:
    """Return the exchanges that are cut once, at every byte of the longest one."""
    for place in range(1, 420):
        yield lambda data, place=place: [part for part in (data[:place], data[place:]) if part]  # type: ignore[misc]


CUTS: list[Cut] = [whole, bytewise, *halves()]


class MouthToEarTests(SynchronousTestCase):
    """Tests of a complete negotiation between both engines."""

    def every_way(self, world: World) -> Iterator[Wire]:
        for cut in CUTS:
            yield Wire(world, cut).run()

    def proven(self, world: World, method: Method) -> None:
        """Check that the pair is proven on both sides by `method`, and that stanzas pass."""
        for wire in self.every_way(world):
            for role in ("initiating", "receiving"):
                self.assertEqual(wire.of(role, PairProven), [PairProven(PAIR, method)])
            wire.write(message() * 3)
            self.assertEqual(sum(len(event.stanzas) for event in wire.of("receiving", StanzasReceived)), 3)
            self.do_close(wire)

    def do_close(self, wire: Wire) -> None:
        wire.do("initiating", wire.initiating.close(Ending(Cause.IDLE)))
        wire.run()
        self.assertEqual(wire.of("initiating", Ended), [Ended(Ending(Cause.IDLE))])
        self.assertEqual(wire.of("receiving", Ended), [Ended(Ending(Cause.CLOSED, by="them"))])

    def test_external(self) -> None:
        """R1–R8, R24, R25: STARTTLS and EXTERNAL prove the pair."""
        self.proven(World(), "EXTERNAL")

    def test_direct_tls(self) -> None:
        """R11, R24: direct TLS and EXTERNAL prove the pair."""
        options = InitiatingOptions(local=PEER, peer=OURS, keys=KEYS, direct_tls=True)
        self.proven(World(initiating=options, direct_tls=True), "EXTERNAL")

    def test_dialback(self) -> None:
        """R28: STARTTLS and dialback prove the pair if either side lacks a certificate."""
        self.proven(World(permission=Permission(dialback=True)), "dialback")
        self.proven(World(initiating=InitiatingOptions(local=PEER, peer=OURS, keys=KEYS, external=False)), "dialback")

    def test_without_tls(self) -> None:
        """R28: dialback without TLS proves the pair if both sides permit it."""
        never = InitiatingOptions(local=PEER, peer=OURS, keys=KEYS, tls="never")
        self.proven(World(initiating=never, tls="optional"), "dialback")

    def test_international(self) -> None:
        """R18: an internationalised domain authenticates by its U-label."""
        books = PEER.parse("xn--bcher-kva.example")
        wire = Wire(World(initiating=InitiatingOptions(local=books, peer=OURS, keys=KEYS)), bytewise).run()
        self.assertEqual(wire.of("receiving", PairProven), [PairProven(Pair(books, OURS), "EXTERNAL")])
        wire.write(message("a@bücher.example") + message("a@xn--bcher-kva.example"))
        self.assertEqual(sum(len(event.stanzas) for event in wire.of("receiving", StanzasReceived)), 2)

    def test_dialback_refused(self) -> None:
        """R28: the results "invalid" and "error" are read as such."""
        invalid = DialbackOutcome("invalid", Ending(Cause.DIALBACK_INVALID))
        unreachable = DialbackOutcome("error", Ending(Cause.CONNECTION_TIMEOUT))
        for outcome, cause in ((invalid, Cause.DIALBACK_INVALID), (unreachable, Cause.DIALBACK_ERROR)):
            for wire in self.every_way(World(permission=Permission(dialback=True), outcome=outcome)):
                [refused] = wire.of("initiating", PairRefused)
                [ended] = wire.of("initiating", Ended)
                self.assertEqual((refused.pair, refused.ending.cause, ended.ending), (PAIR, cause, refused.ending))
                self.assertEqual(wire.of("receiving", PairProven), [])
                self.assertEqual(len(wire.of("receiving", Ended)), 1)

    def test_refusals(self) -> None:
        """R2, R8, R12: a refusal by either side is read by the other."""
        unresolved = Refusal(StreamCondition.REMOTE_CONNECTION_FAILED, "no such domain", Ending(Cause.NO_SUCH_DOMAIN))
        for world, speaker, condition in (
            (World(resolved=unresolved), "receiving", "remote-connection-failed"),
            (World(permission=Permission(refusal=REFUSAL)), "receiving", "policy-violation"),
            (World(trusted=Permission(refusal=REFUSAL)), "initiating", "policy-violation"),
        ):
            for wire in self.every_way(world):
                for role in ("initiating", "receiving"):
                    [ended] = wire.of(role, Ended)
                    self.assertEqual((ended.ending.by, ended.ending.condition), ("us" if role == speaker else "them", condition))
                    self.assertEqual(wire.of(role, PairProven), [])

    def test_more_pairs(self) -> None:
        """R28, R29: further pairs are added by dialback to a stream that EXTERNAL opened, or by the certificate if a key is not sufficient."""
        for dialback, method in ((True, "dialback"), (False, "certificate")):
            self.more_pairs(World(permission=Permission(external=True, dialback=dialback)), method)

    def more_pairs(self, world: World, method: str) -> None:
        for wire in self.every_way(world):
            for pair in (Pair(PEER, ROOMS), Pair(OTHER, OURS)):
                wire.do("initiating", wire.initiating.authorize(pair))
                wire.run()
                self.assertIn(PairProven(pair, "dialback"), wire.told["initiating"])
                self.assertIn(pair, [event.pair for event in wire.of("receiving", PairProven) if event.method == method])
            wire.write(message() + message("x@other.example"))
            self.assertEqual(sum(len(event.stanzas) for event in wire.of("receiving", StanzasReceived)), 2)

    def test_verify(self) -> None:
        """R27, R28: the authoritative side confirms only keys of its own domain, for their pair and stream."""
        asked = Pair(OURS, PEER)  # PEER received a key for stanzas from OURS, and asks OURS
        right = KEYS.key(PEER, OURS, "s1")
        for key, id, type in ((right, "s1", "valid"), (right, "s2", "invalid"), ("x", "s1", "invalid")):
            options = InitiatingOptions(local=PEER, peer=OURS, keys=KEYS, purpose="verify")
            for wire in self.every_way(World(initiating=options)):
                self.assertEqual(wire.of("initiating", VerifyReady), [VerifyReady()])
                wire.do("initiating", wire.initiating.verify(asked, id, key))
                wire.run()
                [verified] = wire.of("initiating", Verified)
                self.assertEqual((verified.pair, verified.stream_id, verified.outcome.type), (asked, id, type))
                self.do_close(wire)

    def test_every_policy(self) -> None:
        """R3, R4, R24, R28: over the full product of both policies, both sides reach the same, expected result."""
        for mine, yours, (cert, external, dialback) in itertools.product(USES, USES, itertools.product((False, True), repeat=3)):
            options = InitiatingOptions(local=PEER, peer=OURS, keys=KEYS, tls=mine, external=cert)
            world = World(initiating=options, tls=yours, permission=Permission(external, dialback))
            for cut in (whole, bytewise):
                wire = Wire(world, cut).run()
                expected = outcome(mine, yours, cert, external, dialback)
                proven = [event.method for role in wire.told for event in wire.of(role, PairProven)]
                self.assertEqual(proven, [expected] * 2 if expected else [], world)
                if not expected:
                    self.assertEqual(len(wire.of("initiating", Ended)), 1, world)


def outcome(mine: str, yours: str, cert: bool, external: bool, dialback: bool) -> str | None:
    """Return the expected result: the method by which the pair is proven."""
    if {mine, yours} == {"required", "never"}:
        return None
    if external and cert and "never" not in (mine, yours):  # TLS
        return "EXTERNAL"
    return "dialback" if dialback else None


#: elements that a peer may send, in any order
ASKED = header(from_="peer.example", to="ours.example")
ANSWERED = header(from_="ours.example", to="peer.example", id="r")
UTTERANCES = (
    ASKED, ANSWERED, header(from_="other.example", to="rooms.ours.example"), header(version=None),
    STARTTLS, PROCEED, TLS_FAILURE, features(STARTTLS), features(EXTERNAL_FEATURE, ERRORS_FEATURE), features(), SUCCESS,
    auth(), auth(""), auth("b3RoZXIuZXhhbXBsZQ=="), f"<response {SASL}>=</response>", f"<abort {SASL}/>", f"<challenge {SASL}/>",
    sasl_failure("aborted", "x"), result("peer.example", "ours.example", "k"), result("other.example", "ours.example", "k"),
    result("ours.example", "peer.example", type="valid"), result("peer.example", "ours.example", type="valid"),
    verify("peer.example", "ours.example", "i", "k"), verify("ours.example", "peer.example", "i", type="valid"),
    message(), message(), message() * 2, message("x@other.example"), message(to="x@rooms.ours.example"), " ", "x", "<x xmlns='y'/>", "<stream:error/>", CLOSE,
)
#: calls that a shell may make, in any order
DEEDS: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("begin", ()), ("tls_established", ()), ("resolved", (None,)), ("resolved", (REFUSAL,)), ("judged", (BOTH,)),
    ("judged", (Permission(dialback=True),)), ("judged", (Permission(refusal=REFUSAL),)), ("dialback_answered", (PAIR, VALID)),
    ("dialback_answered", (Pair(OTHER, OURS), VALID)), ("dialback_answered", (PAIR, DialbackOutcome("invalid"))), ("authorize", (PAIR,)),
    ("verify", (PAIR, "i", "k")), ("rest", ()), ("close", (Ending(Cause.IDLE),)), ("fail", (REFUSAL,)),
)
steps = st.lists(st.one_of(st.sampled_from(UTTERANCES), st.sampled_from(DEEDS)), max_size=14)
#: steps that lead far into a stream, so that chance need not find them
PERMITTED = ("judged", (BOTH,))
SECURE = ("tls_established", ())
RECEIVING_WAYS: tuple[tuple[Any, ...], ...] = (
    (),
    (ASKED, ("resolved", (None,))),
    (ASKED, ("resolved", (None,)), STARTTLS, SECURE, ASKED, PERMITTED),
    (ASKED, ("resolved", (None,)), STARTTLS, SECURE, ASKED, PERMITTED, auth(), ASKED, message()),
    (ASKED, ("resolved", (None,)), STARTTLS, SECURE, ASKED, PERMITTED, result("peer.example", "ours.example", "k")),
)
INITIATING_WAYS: tuple[tuple[Any, ...], ...] = (
    (),
    (("begin", ()), ANSWERED),
    (("begin", ()), ANSWERED, features(STARTTLS), PROCEED, SECURE, PERMITTED, ANSWERED),
    (("begin", ()), ANSWERED, features(STARTTLS), PROCEED, SECURE, PERMITTED, ANSWERED, features(EXTERNAL_FEATURE, ERRORS_FEATURE)),
    (
        ("begin", ()), ANSWERED, features(STARTTLS), PROCEED, SECURE, PERMITTED, ANSWERED, features(EXTERNAL_FEATURE, ERRORS_FEATURE),
        SUCCESS, ANSWERED, features(), ("authorize", (Pair(OTHER, OURS),)),
    ),
)


class AnythingTests(SynchronousTestCase):
    """For any input of the other side and any call of the shell, no stanza passes unproven, and an end is final.

    1. The only exception is `LocalFault`, and only a call of the shell raises it.
    2. A pair's stanzas follow the event that proves the pair, and have its domains.
    3. A pair is proven by dialback only after the shell's answer, and by EXTERNAL only if the shell permitted it.
    4. `Ended` is the last event. Nothing is reported or sent after it.
    """

    @settings(max_examples=500, deadline=None)
    @given(st.booleans(), st.sampled_from(USES), st.sampled_from(RECEIVING_WAYS), steps)
    def test_receiving(self, pre_1_0: bool, tls: TLSUse, way: tuple[Any, ...], more: list[Any]) -> None:
        """R29: these properties hold for the receiving role."""
        options = replace(World(tls=tls).receiving(), pre_1_0=pre_1_0)
        self.live(ReceivingStream(options, lambda: "id"), [*way, *more])

    @settings(max_examples=500, deadline=None)
    @given(st.booleans(), st.sampled_from(USES), st.sampled_from(INITIATING_WAYS), steps)
    def test_initiating(self, external: bool, tls: TLSUse, way: tuple[Any, ...], more: list[Any]) -> None:
        """R29: these properties hold for the initiating role."""
        options = InitiatingOptions(local=PEER, peer=OURS, keys=KEYS, tls=tls, external=external)
        self.live(InitiatingStream(options), [*way, *more])

    def live(self, engine: Any, life: list[Any]) -> None:
        told: list[Event] = []
        granted: set[object] = set()
        for step in life:
            over = bool(told) and isinstance(told[-1], Ended)
            events = self.act(engine, step, granted)
            if over:
                self.assertEqual((events, engine.data_to_send()), ([], b""))
            for event in events:
                self.check(engine, event, told, granted)
                told.append(event)
            if not (told and isinstance(told[-1], Ended)):
                engine.data_to_send()
            else:
                closed = engine.opened and not (over or engine.phase.mute)
                self.assertEqual(engine.data_to_send().count(b"</stream:stream>"), closed)

    def act(self, engine: Any, step: Any, granted: set[object]) -> list[Event]:
        if isinstance(step, str):
            return list(engine.receive(step.encode()))
        method, arguments = step
        act = getattr(engine, method, None)
        if act is None:
            return []
        try:
            events = list(act(*arguments) or [])
        except LocalFault:
            return []
        granted.update(arguments)
        return events

    def check(self, engine: Any, event: Event, told: list[Event], granted: set[object]) -> None:
        if isinstance(event, StanzasReceived):
            self.assertIn(event.pair, [proven.pair for proven in told if isinstance(proven, PairProven)])
            for stanza in event.stanzas:
                self.assertEqual(Pair(domain_of(stanza.from_), domain_of(stanza.to)), event.pair)
        if isinstance(event, PairProven) and isinstance(engine, ReceivingStream):
            self.assertIn(VALID if event.method == "dialback" else BOTH, granted)


class MemoryTests(SynchronousTestCase):
    """Tests of what remains in memory after an end."""

    def test_no_circle(self) -> None:
        """The exception that ends a stream does not keep it, and everything on the stack, in memory."""
        ends = (lambda stream: stream.close(Ending(Cause.IDLE)), lambda stream: stream.fail(REFUSAL))
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        for end in ends:
            stream = InitiatingStream(InitiatingOptions(local=PEER, peer=OURS, keys=KEYS))
            stream.begin()
            gone = ref(stream)
            self.assertIsInstance(end(stream)[-1], Ended)
            del stream
            self.assertIsNone(gone())
        self.assertEqual([], [each for each in gc.get_objects() if isinstance(each, Stop)])

    def test_released(self) -> None:
        """A stream whose transport is gone is kept neither by its phase nor by its parser, wherever it was in its input."""
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        for heard in ("", "<stream:str", header(), header() + "<db:result from='a' "):
            stream = ReceivingStream(ReceivingOptions(KEYS, lambda _: True, lambda _: True), lambda: "id")
            stream.receive(heard.encode())
            stream.release()
            self.assertEqual([], stream.receive(b"more"))
            gone = ref(stream)
            del stream
            self.assertIsNone(gone(), heard)


class ElementPhaseTests(SynchronousTestCase):
    """Tests of the way in which a phase takes elements."""

    def test_each_input_is_taken_somewhere(self) -> None:
        """Each method in a table of inputs belongs to a phase of that role. A phase without the method refuses the element."""
        for role in (ReceivingPhase, InitiatingPhase, RouterPhase):
            methods = {name for phase in derived(role) for name in vars(phase)} | set(dir(role))
            self.assertEqual(set(), set(role.inputs.values()) - methods, role)


def derived(phase: type[ElementPhase]) -> set[type[ElementPhase]]:
    """Return every class that derives from `phase`."""
    return {each for direct in phase.__subclasses__() for each in (direct, *derived(direct))}
