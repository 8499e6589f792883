"""Tests of the initiating role: every phase of a stream that we open, and every input there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.stream.dialback import DialbackKeys
from s2sgw.stream.events import (
    DialbackOutcome,
    JudgementNeeded,
    PairProven,
    PairRefused,
    Permission,
    Refusal,
    StartTLS,
    Verified,
    VerifyReady,
)
from s2sgw.stream.features import PeerLimits
from s2sgw.stream.initiating import JABBERD2_BYTES, InitiatingOptions, InitiatingStream
from s2sgw.xmpp.content_namespace import is_fit
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import LocalFault, StreamCondition
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.transcripts import (
    CLOSE,
    ERRORS_FEATURE,
    EXTERNAL_FEATURE,
    HEAD,
    LIMITS_FEATURE,
    OTHER,
    OURS,
    PEER,
    PROCEED,
    ROOMS,
    SASL,
    STARTTLS,
    STARTTLS_REQUIRED,
    SUCCESS,
    TLS_FAILURE,
    Do,
    End,
    In,
    Out,
    Says,
    Step,
    TranscriptCase,
    auth,
    dialback_error,
    error,
    features,
    header,
    message,
    result,
    sasl_failure,
    verify,
)

KEYS = DialbackKeys(b"initiating")
OUTBOUND = Pair(OURS, PEER)
NOT_PROVEN = Refusal(StreamCondition.POLICY_VIOLATION, "who are you?", Ending(Cause.NOT_PROVEN, "who are you?"))

FEDERATION = InitiatingOptions(local=OURS, peer=PEER, keys=KEYS)
BARE = replace(FEDERATION, external=False)
OPTIONAL = replace(FEDERATION, tls="optional")
NEVER = replace(FEDERATION, tls="never")
VERIFYING = replace(FEDERATION, purpose="verify")

ASK = header(from_="ours.example", to="peer.example")
#: ejabberd offers an empty list of mechanisms before TLS
EMPTY_MECHANISMS = f"<mechanisms {SASL}/>"


def answered(id: str | None, *rows: str, **more: str | None) -> In:
    return In(header(from_="peer.example", to="ours.example", id=id, **more) + features(*rows))


BEGUN: list[Step] = [Do("begin"), Out(ASK)]
ASKED: list[Step] = [*BEGUN, answered("r1", STARTTLS_REQUIRED, EMPTY_MECHANISMS), Out(STARTTLS)]
ORDERED: list[Step] = [*ASKED, In(PROCEED), Says(StartTLS(OURS, PEER))]
JUDGING: list[Step] = [*ORDERED, Do("tls_established"), Says(JudgementNeeded(PEER, OURS, True))]
SECURED: list[Step] = [*JUDGING, Do("judged", Permission()), Out(ASK)]
AUTH = auth("b3Vycy5leGFtcGxl")
AUTHENTICATING: list[Step] = [*SECURED, answered("r2", EXTERNAL_FEATURE, ERRORS_FEATURE, LIMITS_FEATURE), Out(AUTH)]
SUCCEEDED: list[Step] = [*AUTHENTICATING, In(SUCCESS), Out(ASK)]
OPEN: list[Step] = [*SUCCEEDED, answered("r3", ERRORS_FEATURE, LIMITS_FEATURE), Says(PairProven(OUTBOUND, "EXTERNAL"))]


def asking(id: str, pair: Pair = OUTBOUND) -> Out:
    """Return our dialback request for a pair."""
    return Out(result(pair.sender.text, pair.recipient.text, KEYS.key(pair.recipient, pair.sender, id)))


DIALBACK: list[Step] = [*SECURED, answered("r2", ERRORS_FEATURE), asking("r2")]
VALID = In(result("peer.example", "ours.example", type="valid"))
PROVEN: list[Step] = [*DIALBACK, VALID, Says(PairProven(OUTBOUND, "dialback"))]
JUDGING_TO_VERIFY: list[Step] = [*JUDGING[:-1], Says(JudgementNeeded(PEER, OURS, True, verifying=True))]
READY: list[Step] = [
    *JUDGING_TO_VERIFY, *SECURED[len(JUDGING):], answered("r2", EXTERNAL_FEATURE, ERRORS_FEATURE), Says(VerifyReady()),
]


class InitiatingCase(TranscriptCase):
    def told(self, *steps: Step, options: InitiatingOptions = FEDERATION) -> InitiatingStream:
        engine = self.play(lambda: InitiatingStream(options), *steps)
        assert isinstance(engine, InitiatingStream)
        return engine

    def refused(self, before: list[Step], given: str, condition: str, text: str, cause: Cause, **more: Any) -> None:
        """Check that the input `given`, after `before`, ends the stream with that error."""
        self.told(*before, In(given), Out(error(condition, text)), Says(End(cause, condition=condition)), **more)


class TLSTests(InitiatingCase):
    """R1, R5–R8: tests of the way to TLS."""

    def test_external(self) -> None:
        """R1, R8, R24, R25: STARTTLS, judgement and EXTERNAL lead to a proven pair after the third header."""
        engine = self.told(*OPEN)
        self.assertEqual(engine.proven, {OUTBOUND: "EXTERNAL"})
        self.assertEqual(engine.peer_limits, PeerLimits(524288))
        self.assertTrue(engine.features.dialback)

    def test_optional(self) -> None:
        """R3: optional TLS is used if it is offered."""
        self.told(*BEGUN, answered("r1", STARTTLS), Out(STARTTLS), options=OPTIONAL)

    def test_not_offered(self) -> None:
        """R4: if TLS is required and not offered, the stream ends."""
        end = [Out(error("policy-violation", "TLS is required here, and <starttls/> was not offered"))]
        ended = Says(End(Cause.TLS_NOT_OFFERED, condition="policy-violation"))
        self.told(*BEGUN, answered("r1", ERRORS_FEATURE), *end, ended)
        self.told(*BEGUN, answered("r1"), *end, ended)
        self.told(*BEGUN, In(HEAD + " id='r1'>"), *end, ended)

    def test_required_there(self) -> None:
        """R3: if the other side requires TLS and we have none, the stream ends."""
        self.told(
            *BEGUN, answered("r1", STARTTLS_REQUIRED), Out(error("unsupported-feature", "the other side requires TLS, which is disabled here")),
            Says(End(Cause.ENCRYPTION_REQUIRED, condition="unsupported-feature")), options=NEVER,
        )

    def test_injection(self) -> None:
        """R6: bytes behind `<proceed/>`, even white space, end the stream without an error."""
        for more in (" ", "<x/>"):
            engine = InitiatingStream(FEDERATION)
            self._play(engine, lambda data: [data], ASKED)
            ended = engine.receive((PROCEED + more).encode())
            self.assertEqual(engine.data_to_send(), b"")
            self._compare(ended, (End(Cause.TLS_INJECTION, "them", detail="plain text was sent behind <proceed/>"),))
            self.told(*ORDERED, In(more), Says(End(Cause.TLS_INJECTION, "them")))

    def test_during_the_handshake(self) -> None:
        """R7: during the handshake neither a closing tag nor an error is sent."""
        self.told(*ORDERED, Do("close", Ending(Cause.TLS_FAILED)), Says(End(Cause.TLS_FAILED)))
        self.told(*ORDERED, Do("fail", NOT_PROVEN), Says(End(Cause.NOT_PROVEN)))

    def test_failure(self) -> None:
        """R7: `<failure/>` ends the stream."""
        self.told(*ASKED, In(TLS_FAILURE + CLOSE), Out(CLOSE), Says(End(Cause.TLS_FAILED, "them")))

    def test_judged(self) -> None:
        """R12: the other side is judged before anything is sent to it. If it is refused, it gets the reason (R15)."""
        end = [Out(ASK + error("policy-violation", "who are you?")), Says(End(Cause.NOT_PROVEN, condition="policy-violation"))]
        self.told(*JUDGING, Do("judged", Permission(refusal=NOT_PROVEN)), *end)

    def test_bytes_before_the_judgement(self) -> None:
        """Bytes that arrive before our header are kept."""
        given = answered("r2", ERRORS_FEATURE)
        self.told(*JUDGING, given, Do("judged", Permission()), Out(ASK + asking("r2").data))

    def test_direct_tls(self) -> None:
        """R36: with direct TLS the stream begins after the handshake."""
        options = replace(FEDERATION, direct_tls=True)
        self.told(
            Do("begin"), Do("tls_established"), Says(JudgementNeeded(PEER, OURS, True)), Do("judged", Permission()), Out(ASK),
            answered("r1", EXTERNAL_FEATURE), Out(AUTH), options=options,
        )

    def test_not_begun(self) -> None:
        """A stream that ends before it began sends nothing."""
        self.told(Do("close", Ending(Cause.SHUTDOWN)), Says(End(Cause.SHUTDOWN)))
        self.told(Do("fail", NOT_PROVEN), Says(End(Cause.NOT_PROVEN)))


class HeaderTests(InitiatingCase):
    """R8, R14: tests of the answering headers."""

    def test_version(self) -> None:
        """R14: versions other than 1.x are refused."""
        text = "the stream header has version 2.0; only version 1.0 is supported"
        self.refused(BEGUN, header(id="r1", version="2.0"), "unsupported-version", text, Cause.PROTOCOL_ERROR)

    def test_stranger(self) -> None:
        """An answer from another domain, or to another one, is refused. An error in it is reported all the same."""
        for from_, to, name in (
            ("other.example", "ours.example", "other.example"), ("peer.example", "other.example", "other.example"), ("a@b", None, "a@b"),
        ):
            opened = header(from_=from_, to=to, id="r1")
            text = f"the stream header names {name}, which was not asked for"
            self.refused(BEGUN, opened + features(STARTTLS), "invalid-from", text, Cause.INVALID_FROM)
            condition = "<host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
            ended = Says(End(Cause.HOST_UNKNOWN, "them", "host-unknown"))
            self.told(*BEGUN, In(f"{opened}<stream:error>{condition}</stream:error>"), Out(CLOSE), ended)

    def test_main_domain_instead(self) -> None:
        """R14: Openfire answers behind TLS with its main domain. This is accepted only if TLS has proven the requested domain."""
        proven = [*JUDGING, Do("judged", Permission(proven=True)), Out(ASK)]
        answer = header(from_="main.example", to="ours.example", id="r2") + features(EXTERNAL_FEATURE)
        engine = self.told(*proven, In(answer), Out(AUTH))
        self.assertEqual("main.example", engine.answered_as)
        text = "the stream header names main.example, which was not asked for"
        self.refused(SECURED, answer, "invalid-from", text, Cause.INVALID_FROM)

    def test_answer_to_another(self) -> None:
        """R14: an answer to another domain than ours is refused, whatever TLS has proven."""
        proven = [*JUDGING, Do("judged", Permission(proven=True)), Out(ASK)]
        answer = header(from_="peer.example", to="other.example", id="r2") + features(EXTERNAL_FEATURE)
        text = "the stream header names other.example, which was not asked for"
        self.refused(proven, answer, "invalid-from", text, Cause.INVALID_FROM)

    def test_nothing_proven_before_tls(self) -> None:
        """R14: a permission counts only behind TLS. Without TLS another domain in the answer is refused."""
        answer = header(from_="main.example", to="ours.example", id="r1") + features(STARTTLS)
        text = "the stream header names main.example, which was not asked for"
        self.refused(BEGUN, answer, "invalid-from", text, Cause.INVALID_FROM)

    def test_nameless(self) -> None:
        """An answer without names counts as coming from the requested domain."""
        self.told(*BEGUN, In(header(id="r1") + features(STARTTLS)), Out(STARTTLS))
        self.told(*BEGUN, In(header(from_="PEER.example", id="r1") + features(STARTTLS)), Out(STARTTLS))

    def test_fault(self) -> None:
        """R31: bytes that are not a stream are refused with the matching error."""
        self.refused(BEGUN, "HTTP/1.1 400", "not-well-formed", "the stream does not begin with a tag", Cause.BAD_XML)

    def test_close(self) -> None:
        """R16: a closing tag is answered in every phase."""
        for steps in ([*BEGUN, In(header(id="r1"))], ASKED, OPEN, PROVEN):
            self.told(*steps, In(CLOSE), Out(CLOSE), Says(End(Cause.CLOSED, "them")))


class SASLTests(InitiatingCase):
    """R24, R25: tests of EXTERNAL and what may follow it."""

    def test_challenge(self) -> None:
        """RFC 6120 §6.4.3: a challenge is answered once."""
        asked = [*AUTHENTICATING, In(f"<challenge {SASL}/>"), Out(f"<response {SASL}>b3Vycy5leGFtcGxl</response>")]
        self.told(*asked, In(SUCCESS), Out(ASK))
        self.refused(asked, f"<challenge {SASL}/>", "unsupported-stanza-type", "a second <challenge/> in SASL EXTERNAL", Cause.PROTOCOL_ERROR)
        text = "<challenge/>: the message is not encoded in canonical base64"
        self.refused(AUTHENTICATING, f"<challenge {SASL}>*</challenge>", "bad-format", text, Cause.BAD_XML)

    def test_leftover(self) -> None:
        """Bytes behind `<success/>` belong to the new stream (docs/decisions.md#engines)."""
        opened = header(from_="peer.example", to="ours.example", id="r3") + features(ERRORS_FEATURE)
        self.told(*AUTHENTICATING, In(SUCCESS + "\n" + opened), Out(ASK), Says(PairProven(OUTBOUND, "EXTERNAL")))

    def test_failure(self) -> None:
        """R25: after a failure dialback follows on the same stream, if it is offered."""
        failed = In(sasl_failure("not-authorized", "no"))
        self.told(*AUTHENTICATING, failed, asking("r2"), VALID, Says(PairProven(OUTBOUND, "dialback")))

    def test_failure_then_close(self) -> None:
        """R25: if the other side closes instead, the failure is the cause."""
        failed = In(sasl_failure("not-authorized", "no"))
        end = Says(End(Cause.SASL_FAILED, "them", detail="EXTERNAL: not-authorized: no"))
        self.told(*AUTHENTICATING, failed, asking("r2"), In(CLOSE), Out(CLOSE), end)
        self.told(*AUTHENTICATING, In(CLOSE), Out(CLOSE), Says(End(Cause.SASL_FAILED, "them")))

    def test_nothing_left(self) -> None:
        """R25: without dialback a failure ends the stream. So does the absence of any mechanism."""
        bare = [*SECURED, In((HEAD + ">").replace(" xmlns:db='jabber:server:dialback'", " from='peer.example' id='r2' version='1.0'"))]
        failed = Ending(Cause.SASL_FAILED, "EXTERNAL: not-authorized: no", "them")
        self.told(
            *bare, In(features(EXTERNAL_FEATURE)), Out(AUTH), In(sasl_failure("not-authorized", "no")),
            Out(CLOSE), Says(PairRefused(OUTBOUND, failed), End(Cause.SASL_FAILED, "them")),
        )
        none = Ending(Cause.NO_COMMON_METHOD, "the other side offers neither a usable mechanism nor dialback")
        for rows in ((), (EMPTY_MECHANISMS,), (EXTERNAL_FEATURE.replace("EXTERNAL", "PLAIN"),)):
            self.told(*bare, In(features(*rows)), Out(CLOSE), Says(PairRefused(OUTBOUND, none), End(Cause.NO_COMMON_METHOD)))
        self.told(*bare, In(features(ERRORS_FEATURE)), asking("r2"))

    def test_features_are_forgotten(self) -> None:
        """R8: a feature offered before TLS does not count behind it."""
        steps = [*BEGUN, answered("r1", STARTTLS, ERRORS_FEATURE), Out(STARTTLS), *SECURED[4:]]
        none = Ending(Cause.NO_COMMON_METHOD, "the other side offers neither a usable mechanism nor dialback")
        given = In((HEAD + " id='r2'>").replace(" xmlns:db='jabber:server:dialback'", ""))
        self.told(*steps, given, Out(CLOSE), Says(PairRefused(OUTBOUND, none), End(Cause.NO_COMMON_METHOD)))

    def test_no_certificate(self) -> None:
        """R24: without a certificate of our own EXTERNAL is not tried."""
        self.told(*SECURED, answered("r2", EXTERNAL_FEATURE, ERRORS_FEATURE), asking("r2"), options=BARE)


class DialbackTests(InitiatingCase):
    """R27, R28: tests of pairs proven by dialback."""

    def test_valid(self) -> None:
        """R28: a valid pair may be sent, and the stream does not restart."""
        self.assertEqual(self.told(*PROVEN).proven, {OUTBOUND: "dialback"})

    def test_by_the_header(self) -> None:
        """XEP-0220 §2.4.1: the header's namespace also offers dialback."""
        self.told(*SECURED, answered("r2"), asking("r2"))

    def test_invalid(self) -> None:
        """R28: the refusal of the only pair ends the stream."""
        for inside, type, cause, detail in (
            ("", "invalid", Cause.DIALBACK_INVALID, "the key was found invalid"),
            (dialback_error("item-not-found", "no"), "error", Cause.HOST_UNKNOWN, "item-not-found: no"),
            (dialback_error("remote-server-timeout", "no"), "error", Cause.DIALBACK_ERROR, "remote-server-timeout: no"),
        ):
            ending = Ending(cause, detail, "them")
            given = In(result("peer.example", "ours.example", inside, type))
            self.told(*DIALBACK, given, Out(CLOSE), Says(PairRefused(OUTBOUND, ending), End(cause, "them", detail=detail)))

    def test_more_pairs(self) -> None:
        """R28: further pairs on the same stream do not affect each other."""
        pair, third = Pair(ROOMS, PEER), Pair(OTHER, PEER)
        valid = In(result("peer.example", "rooms.ours.example", type="valid"))
        self.told(*OPEN, Do("authorize", pair), asking("r3", pair), valid, Says(PairProven(pair, "dialback")))
        refused = In(result("peer.example", "rooms.ours.example", type="invalid"))
        ending = Ending(Cause.DIALBACK_INVALID, "the key was found invalid", "them")
        self.told(*PROVEN, Do("authorize", pair), asking("r2", pair), refused, Says(PairRefused(pair, ending)))
        self.told(*DIALBACK, Do("authorize", third), asking("r2", third), *[
            In(result("peer.example", "ours.example", type="invalid")), Says(PairRefused(OUTBOUND, ending)),
            In(result("peer.example", "other.example", type="valid")), Says(PairProven(third, "dialback")),
        ])

    def test_extensible(self) -> None:
        """XEP-0220 §2.4: a server that offers dialback accepts more pairs. It offers it by a feature, or before 1.0 by the header's namespace."""
        self.assertTrue(self.told(*OPEN).extensible)
        self.assertTrue(self.told(*PROVEN).extensible)
        opened = [*SUCCEEDED, answered("r3"), Says(PairProven(OUTBOUND, "EXTERNAL"))]
        self.assertFalse(self.told(*opened).extensible)
        self.assertFalse(self.told(*SUCCEEDED, answered("", ERRORS_FEATURE), Says(PairProven(OUTBOUND, "EXTERNAL"))).extensible)
        self.assertFalse(self.told(*AUTHENTICATING).extensible)
        plain = answered("r3", ERRORS_FEATURE.replace("<errors/>", ""))
        self.assertFalse(self.told(*SUCCEEDED, plain, Says(PairProven(OUTBOUND, "EXTERNAL"))).extensible, "as Prosody offers it")
        old = In(header(from_="peer.example", id="r1", version=None))
        steps = [*BEGUN, old, Says(JudgementNeeded(PEER, OURS, False)), Do("judged", Permission()), asking("r1"), VALID]
        self.assertTrue(self.told(*steps, Says(PairProven(OUTBOUND, "dialback")), options=OPTIONAL).extensible)
        leaving = self.told(*OPEN)
        leaving.leaving = Ending(Cause.IDLE)
        self.assertFalse(leaving.extensible)

    def test_asked_again(self) -> None:
        """A pair that is proven or already requested is not requested again."""
        self.told(*OPEN, Do("authorize", OUTBOUND))
        self.told(*DIALBACK, Do("authorize", OUTBOUND), VALID, Says(PairProven(OUTBOUND, "dialback")))

    def test_unsolicited(self) -> None:
        """R27: an answer counts only if it was requested, on this stream, and only once."""
        text = "<db:result/> answers a request that was not made on this stream"
        for steps in (DIALBACK, OPEN, PROVEN):
            given = result("peer.example", "rooms.ours.example", type="valid")
            self.refused(steps, given, "invalid-from", text, Cause.INVALID_FROM)
        self.refused(PROVEN, result("peer.example", "ours.example", type="valid"), "invalid-from", text, Cause.INVALID_FROM)
        self.refused(DIALBACK, result("ours.example", "peer.example", type="valid"), "invalid-from", text, Cause.INVALID_FROM)
        self.refused(DIALBACK, result("other.example", "ours.example", type="valid"), "invalid-from", text, Cause.INVALID_FROM)

    def test_request(self) -> None:
        """The other side must not send requests on a stream of ours."""
        text = "<db:result/> with a `type` that is neither valid, invalid nor error"
        self.refused(OPEN, result("peer.example", "ours.example", "key"), "bad-format", text, Cause.BAD_XML)

    def test_no_id(self) -> None:
        """Without a stream id no key can be made."""
        ending = Ending(Cause.PROTOCOL_ERROR, "the other side's stream header has no id, which a dialback key needs", "them")
        for id in (None, ""):
            given = answered(id, ERRORS_FEATURE)
            self.told(*SECURED, given, Out(CLOSE), Says(PairRefused(OUTBOUND, ending), End(Cause.PROTOCOL_ERROR, "them")))
        steps = [*SUCCEEDED, answered("", ERRORS_FEATURE), Says(PairProven(OUTBOUND, "EXTERNAL"))]
        pair = Pair(ROOMS, PEER)
        self.told(*steps, Do("authorize", pair), Says(PairRefused(pair, ending)))

    def test_closed_unanswered(self) -> None:
        """XEP-0220 §2.1.1: if the stream is closed instead of an answer, that is a dialback error."""
        self.told(*DIALBACK, In(CLOSE), Out(CLOSE), Says(End(Cause.DIALBACK_ERROR, "them")))
        self.told(*OPEN, Do("authorize", Pair(ROOMS, PEER)), asking("r3", Pair(ROOMS, PEER)), In(CLOSE), Out(CLOSE), Says(End(Cause.CLOSED, "them")))

    def test_without_tls(self) -> None:
        """R28: if the policy permits, dialback is done without TLS. The other side is then judged as unsecured."""
        judging = [Says(JudgementNeeded(PEER, OURS, False)), Do("judged", Permission())]
        for options, rows in ((OPTIONAL, (ERRORS_FEATURE,)), (NEVER, (STARTTLS, EMPTY_MECHANISMS))):
            self.told(*BEGUN, answered("r1", *rows), *judging, asking("r1"), options=options)
        self.told(
            *BEGUN, answered("r1", ERRORS_FEATURE), judging[0], Do("judged", Permission(refusal=NOT_PROVEN)),
            Out(error("policy-violation", "who are you?")), Says(End(Cause.NOT_PROVEN, condition="policy-violation")), options=NEVER,
        )

    def test_external_needs_tls(self) -> None:
        """R4: SASL is not used without TLS, whatever is offered."""
        judging = [Says(JudgementNeeded(PEER, OURS, False)), Do("judged", Permission())]
        self.told(*BEGUN, answered("r1", EXTERNAL_FEATURE), *judging, asking("r1"), options=OPTIONAL)

    def test_pre_1_0(self) -> None:
        """R1: after jabberd2's answer without a version dialback follows at once, before TLS and behind it."""
        given = In(HEAD + " id='r1'>")
        judging = [Says(JudgementNeeded(PEER, OURS, False)), Do("judged", Permission())]
        self.told(*BEGUN, given, *judging, asking("r1"), VALID, Says(PairProven(OUTBOUND, "dialback")), options=OPTIONAL)
        self.told(*SECURED, given, asking("r1"))
        judging = [Says(JudgementNeeded(PEER, OURS, False, verifying=True)), Do("judged", Permission())]
        self.told(*BEGUN, given, *judging, Says(VerifyReady()), options=replace(VERIFYING, tls="optional"))


class VerifyTests(InitiatingCase):
    """R27, R28: tests of requests to the authoritative server."""

    asked = Do("verify", OUTBOUND.inverse, "s7", "key")
    written = Out(verify("ours.example", "peer.example", "s7", "key"))

    def test_verify(self) -> None:
        """R28: a key is verified behind TLS, without SASL. The answer is reported with its pair and stream."""
        for type, ending in (("valid", None), ("invalid", Ending(Cause.DIALBACK_INVALID, "the key was found invalid", "them"))):
            outcome = DialbackOutcome(type, ending)  # type: ignore[arg-type]
            given = In(verify("peer.example", "ours.example", "s7", type=type))
            self.told(*READY, self.asked, self.written, given, Says(Verified(OUTBOUND.inverse, "s7", outcome)), options=VERIFYING)

    def test_error(self) -> None:
        """R28: an error is reported as an error."""
        given = In(verify("peer.example", "ours.example", "s7", dialback_error("not-acceptable", "hm"), "error"))
        outcome = DialbackOutcome("error", Ending(Cause.DIALBACK_ERROR, "not-acceptable: hm", "them"))
        self.told(*READY, self.asked, self.written, given, Says(Verified(OUTBOUND.inverse, "s7", outcome)), options=VERIFYING)

    def test_on_a_stream_for_stanzas(self) -> None:
        """XEP-0220 §2.1.2: an open stream for stanzas may be used."""
        given = In(verify("peer.example", "ours.example", "s7", type="valid"))
        self.told(*OPEN, self.asked, self.written, given, Says(Verified(OUTBOUND.inverse, "s7", DialbackOutcome("valid"))))

    def test_without_tls(self) -> None:
        """R28: a key is verified without TLS if the policy permits."""
        judging = [Says(JudgementNeeded(PEER, OURS, False, verifying=True)), Do("judged", Permission()), Says(VerifyReady())]
        self.told(*BEGUN, answered("r1", ERRORS_FEATURE), *judging, self.asked, self.written, options=replace(VERIFYING, tls="optional"))

    def test_unsolicited(self) -> None:
        """R27: an answer that does not match a request in from, to and id is refused, and so is a second one."""
        text = "<db:verify/> answers a request that was not made on this stream"
        steps = [*READY, self.asked, self.written]
        for from_, to, id in (
            ("peer.example", "ours.example", "s8"), ("peer.example", "rooms.ours.example", "s7"), ("other.example", "ours.example", "s7"),
            ("peer.example", "ours.example", ""),
        ):
            self.refused(steps, verify(from_, to, id, type="valid"), "invalid-from", text, Cause.INVALID_FROM, options=VERIFYING)
        given = verify("peer.example", "ours.example", "s7", type="valid")
        steps += [In(given), Says(Verified(OUTBOUND.inverse, "s7", DialbackOutcome("valid")))]
        self.refused(steps, given, "invalid-from", text, Cause.INVALID_FROM, options=VERIFYING)

    def test_pair_refused_meanwhile(self) -> None:
        """A refused pair does not end a stream on which a key is being verified."""
        given = In(result("peer.example", "ours.example", type="invalid"))
        ending = Ending(Cause.DIALBACK_INVALID, "the key was found invalid", "them")
        self.told(*DIALBACK, self.asked, self.written, given, Says(PairRefused(OUTBOUND, ending)))


#: steps to each phase
PHASES: dict[str, tuple[list[Step], InitiatingOptions]] = {
    "AwaitFeatures": ([*BEGUN, In(header(id="r1"))], FEDERATION),
    "AwaitProceed": (ASKED, FEDERATION),
    "AwaitSecuredFeatures": ([*SECURED, In(header(id="r2"))], FEDERATION),
    "Authenticating": (AUTHENTICATING, FEDERATION),
    "AwaitAuthenticatedFeatures": ([*SUCCEEDED, In(header(id="r3"))], FEDERATION),
    "Ready": (OPEN, FEDERATION),
}
INPUTS = {
    "features": features(STARTTLS),
    "proceed": PROCEED,
    "tls failure": TLS_FAILURE,
    "challenge": f"<challenge {SASL}/>",
    "success": SUCCESS,
    "failure": sasl_failure("aborted", "x"),
    "result": result("peer.example", "ours.example", type="valid"),
    "verify": verify("peer.example", "ours.example", "x", type="valid"),
    "starttls": STARTTLS,
    "auth": auth(),
    "unknown": "<x xmlns='y'/>",
    "stanza": message(),
}
#: the inputs that each phase accepts; all others are refused
KNOWN = {
    "AwaitFeatures": {"features"},
    "AwaitProceed": {"proceed", "tls failure"},
    "AwaitSecuredFeatures": {"features"},
    "Authenticating": {"challenge", "success", "failure"},
    "AwaitAuthenticatedFeatures": {"features"},
    "Ready": {"result", "verify"},
}


class RefusalTests(InitiatingCase):
    """Each phase refuses the inputs that it does not accept."""

    def test_every_pair(self) -> None:
        """R29, R30: each input that a phase does not accept ends the stream with the same answer."""
        for phase, (steps, options) in PHASES.items():
            for name, given in INPUTS.items():
                engine = InitiatingStream(options)
                self._play(engine, lambda data: [data], steps)
                self.assertEqual(type(engine.phase).__name__, phase)
                if name in KNOWN[phase]:
                    continue
                ended = engine.receive(given.encode())
                condition = "invalid-from" if name == "stanza" else "unsupported-stanza-type"
                cause = Cause.INVALID_FROM if name == "stanza" else Cause.PROTOCOL_ERROR
                self._compare(ended, (End(cause, condition=condition),))
                self.assertIn(f"<stream:error><{condition} ".encode(), engine.data_to_send())

    def test_unasked(self) -> None:
        """Calls of the shell that a phase does not accept raise `LocalFault`."""
        allowed = {"Idle": {"begin"}, "Handshaking": {"tls_established"}, "Judging": {"judged"}, "Ready": {"authorize", "verify"}}
        phases = {**PHASES, "Idle": ([], FEDERATION), "Handshaking": (ORDERED, FEDERATION), "Judging": (JUDGING, FEDERATION), "AwaitHeader": (BEGUN, FEDERATION)}
        for phase, (steps, options) in phases.items():
            for method, arguments in (
                ("begin", ()), ("tls_established", ()), ("judged", (Permission(),)), ("authorize", (OUTBOUND,)), ("verify", (OUTBOUND, "s", "k")),
            ):
                engine = InitiatingStream(options)
                self._play(engine, lambda data: [data], steps)
                self.assertEqual(type(engine.phase).__name__, phase)
                if method not in allowed.get(phase, ()):
                    self.assertRaises(LocalFault, getattr(engine, method), *arguments)

    def test_after_the_end(self) -> None:
        """After the end nothing more has an effect, from either side."""
        engine = self.told(*OPEN, In(CLOSE + "<x/>"), Out(CLOSE), Says(End(Cause.CLOSED, "them")), In("<y/>"))
        for late in (
            engine.begin(), engine.judged(Permission()), engine.authorize(Pair(ROOMS, PEER)), engine.verify(OUTBOUND, "s", "k"),
            engine.tls_established(), engine.close(Ending(Cause.IDLE)), engine.fail(NOT_PROVEN),
        ):
            self.assertEqual(late, [])
        self.assertEqual(engine.data_to_send(), b"")

    def test_international(self) -> None:
        """R18: our headers have U-labels, however the domain was given."""
        options = replace(FEDERATION, peer=Domain.parse("xn--bcher-kva.example"))
        self.told(Do("begin"), Out(header(from_="ours.example", to="bücher.example")), options=options)

    def test_two_readings(self) -> None:
        """R18: a domain whose U-labels servers read in two ways is written with A-labels in our headers."""
        options = replace(FEDERATION, peer=Domain.parse("xn--fa-hia.example"))
        self.told(Do("begin"), Out(header(from_="ours.example", to="xn--fa-hia.example")), options=options)


#: The answers of servers to a header of cap.example, byte by byte, on 20 November 2026 (Debian 12): before TLS, behind it with a
#: certificate that they could use, and without one (Prosody then with `s2s_secure_auth = false`).
CAPTURED = {
    "Prosody 0.12.3": (
        "<?xml version='1.0'?><stream:stream to='cap.example' xml:lang='en' version='1.0' xmlns:stream='http://etherx.jabber.org/streams' from='prosody.example' xmlns='jabber:server' id='35f5d479-e981-44c5-aa89-4ba8b1ac2e10' xmlns:db='jabber:server:dialback'><stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls><dialback xmlns='urn:xmpp:features:dialback'/></stream:features>",
        "<?xml version='1.0'?><stream:stream to='cap.example' xml:lang='en' version='1.0' xmlns:stream='http://etherx.jabber.org/streams' from='prosody.example' xmlns='jabber:server' id='3852c1fd-45af-48bf-9e22-98069d18d2db' xmlns:db='jabber:server:dialback'><stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms><dialback xmlns='urn:xmpp:features:dialback'/></stream:features>",
        "<?xml version='1.0'?><stream:stream id='32855f76-9fe5-4302-be04-b8bde894b534' from='prosody.example' version='1.0' xmlns='jabber:server' xmlns:db='jabber:server:dialback' xml:lang='en' to='cap.example' xmlns:stream='http://etherx.jabber.org/streams'><stream:features><dialback xmlns='urn:xmpp:features:dialback'/></stream:features>",
    ),
    "ejabberd 23.01": (
        "<?xml version='1.0'?><stream:stream id='6689411457789608605' version='1.0' xml:lang='en' xmlns:db='jabber:server:dialback' xmlns:stream='http://etherx.jabber.org/streams' to='cap.example' from='ejabberd.example' xmlns='jabber:server'><stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>",
        "<?xml version='1.0'?><stream:stream id='1532692656015728351' version='1.0' xml:lang='en' xmlns:db='jabber:server:dialback' xmlns:stream='http://etherx.jabber.org/streams' to='cap.example' from='ejabberd.example' xmlns='jabber:server'><stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms><dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback></stream:features>",
        "<?xml version='1.0'?><stream:stream id='7347698255146588569' version='1.0' xml:lang='en' xmlns:db='jabber:server:dialback' xmlns:stream='http://etherx.jabber.org/streams' to='cap.example' from='ejabberd.example' xmlns='jabber:server'><stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms><dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback></stream:features>",
    ),
    "jabberd2 2.7.0": (
        "<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' xmlns='jabber:server' to='cap.example' from='jabberd2.example' version='1.0' id='2o0yeosbl7shwuqhj8pni7luszb7ue8w28vhwoti' xmlns:db='jabber:server:dialback'><stream:features xmlns:stream='http://etherx.jabber.org/streams'><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><dialback xmlns='urn:xmpp:features:dialback'><required></required></dialback></stream:features>",
        "<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' xmlns='jabber:server' to='cap.example' from='jabberd2.example' version='1.0' id='l0rgr9z0ynj69dy8p634ez6mvojjh2e325jufjvd' xmlns:db='jabber:server:dialback'><stream:features xmlns:stream='http://etherx.jabber.org/streams'><dialback xmlns='urn:xmpp:features:dialback'><required></required></dialback></stream:features>",
    ),
}


class PresumedLimitTests(SynchronousTestCase):
    """R32: tests of the stanza size that a server without an announced limit accepts."""

    def limits(self, *texts: str) -> PeerLimits:
        stream = InitiatingStream(InitiatingOptions(local=OURS, peer=PEER, keys=DialbackKeys(b"x"), tls="optional"))
        stream.begin()
        for text in texts:
            stream.receive(text.encode())
        return stream.peer_limits

    def limit(self, *texts: str) -> int | None:
        return self.limits(*texts).presumed

    def test_captured(self) -> None:
        """jabberd2 is recognised from its own answers, and no other server is taken for it."""
        for name, captures in CAPTURED.items():
            jabberd2 = name.startswith("jabberd2")
            for capture in captures:
                limits = self.limits(capture)
                self.assertEqual((JABBERD2_BYTES, is_fit) if jabberd2 else (None, None), (limits.presumed, limits.holds), name)

    def test_jabberd2(self) -> None:
        """jabberd2 answers without a version, or offers dialback as required. Prosody and ejabberd offer it with errors, or empty."""
        required, errors, bare = (f"<dialback xmlns='urn:xmpp:features:dialback'>{each}</dialback>" for each in ("<required/>", "<errors/>", ""))
        answer = header(from_=PEER.text, to=OURS.text, id="1")
        self.assertEqual(JABBERD2_BYTES, self.limit(header(version=None, id="1")))
        self.assertEqual(JABBERD2_BYTES, self.limit(answer, features(required)))
        for other in (errors, bare, ""):
            self.assertIsNone(self.limit(answer, features(other)))
