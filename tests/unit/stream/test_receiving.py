"""Tests of the receiving role: every phase of a stream that the peer opened, and every input there."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from sys import getrefcount
from typing import Any

from s2sgw.stream import dialback_authorization, negotiation
from s2sgw.stream.dialback import DialbackKeys, Request
from s2sgw.stream.events import (
    DialbackNeeded,
    DialbackOutcome,
    JudgementNeeded,
    LimitHit,
    PairProven,
    PairRefused,
    Permission,
    Refusal,
    ResolutionNeeded,
    StanzasReceived,
    StartTLS,
)
from s2sgw.stream.receiving import ReceivingOptions, ReceivingStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import LocalFault, StreamCondition
from s2sgw.xmpp.framing import FramingLimits
from s2sgw.xmpp.header import Header
from s2sgw.xmpp.jid import Domain, Pair, spelling
from tests.support.transcripts import (
    CLOSE,
    ERRORS_FEATURE,
    EXTERNAL_FEATURE,
    HEAD,
    LIMITS_FEATURE,
    OTHER,
    OURS,
    PAIR,
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
    Stanzas,
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
    shown,
    verify,
)

KEYS = DialbackKeys(b"receiving")
NOT_ALLOWED = Refusal(StreamCondition.POLICY_VIOLATION, "not you", Ending(Cause.NOT_ALLOWED, "not you"))
UNRESOLVED = Refusal(StreamCondition.REMOTE_CONNECTION_FAILED, "no such domain", Ending(Cause.NO_SUCH_DOMAIN, "no such domain"))
PERMIT_BOTH = Permission(external=True, dialback=True)
PERMIT_DIALBACK = Permission(dialback=True)
PERMIT_EXTERNAL = Permission(external=True)


def refuses(sender: Domain) -> Refusal | None:
    return NOT_ALLOWED if sender.ascii == "bad.example" else None


FEDERATION = ReceivingOptions(
    keys=KEYS, serves=lambda domain: domain in (OURS, ROOMS), answers_verify=lambda domain: domain == OURS, refuses_sender=refuses,
)
OPTIONAL = replace(FEDERATION, tls=lambda peer: "optional")
NEVER = replace(FEDERATION, tls=lambda peer: "never")
BACKEND = replace(NEVER, pre_1_0=True, resolve=False)


def stream(options: ReceivingOptions = FEDERATION) -> ReceivingStream:
    numbers = itertools.count(1)
    return ReceivingStream(options, lambda: f"s{next(numbers)}")


ASK = header(from_="peer.example", to="ours.example")
PLAIN: list[Step] = [
    In(ASK),
    Out(header(from_="ours.example", to="peer.example", id="s1") + features(STARTTLS_REQUIRED)),
    Says(ResolutionNeeded(PEER, OURS)),
]
PREPARING: list[Step] = [*PLAIN, Do("resolved", None), In(STARTTLS), Says(StartTLS(OURS, PEER))]
TO_TLS: list[Step] = [
    *PREPARING, Do("tls_ready"), Out(PROCEED), Do("tls_established"),
]
SECURED: list[Step] = [
    *TO_TLS, In(ASK), Out(header(from_="ours.example", to="peer.example", id="s2")), Says(JudgementNeeded(PEER, OURS, True)),
]


def judged(permission: Permission, *rows: str) -> list[Step]:
    return [*SECURED, Do("judged", permission), Out(features(*rows))]


BOTH = judged(PERMIT_BOTH, EXTERNAL_FEATURE, ERRORS_FEATURE, LIMITS_FEATURE)
DIALBACK = judged(PERMIT_DIALBACK, ERRORS_FEATURE, LIMITS_FEATURE)
EXTERNAL = judged(PERMIT_EXTERNAL, EXTERNAL_FEATURE, LIMITS_FEATURE)
AUTHENTICATED: list[Step] = [*BOTH, In(auth()), Out(SUCCESS), Says(PairProven(PAIR, "EXTERNAL"))]
OPEN: list[Step] = [
    *AUTHENTICATED, In(ASK), Out(header(from_="ours.example", to="peer.example", id="s3") + features(ERRORS_FEATURE, LIMITS_FEATURE)),
]
ASKED: list[Step] = [*DIALBACK, In(result("peer.example", "ours.example", "k")), Says(DialbackNeeded(PAIR, "k", "s2"))]
PROVEN: list[Step] = [
    *ASKED, Do("dialback_answered", PAIR, DialbackOutcome("valid")), Out(result("ours.example", "peer.example", type="valid")),
    Says(PairProven(PAIR, "dialback")),
]


class ReceivingCase(TranscriptCase):
    options = FEDERATION

    def told(self, *steps: Step, options: ReceivingOptions | None = None) -> ReceivingStream:
        engine = self.play(lambda: stream(options or self.options), *steps)
        assert isinstance(engine, ReceivingStream)
        return engine

    def refused(self, before: list[Step], given: str | bytes, condition: str, text: str, cause: Cause, **more: Any) -> None:
        """Check that the input `given`, after `before`, ends the stream with that error."""
        opening = more.pop("opening", "")
        self.told(*before, In(given), Out(opening + error(condition, text)), Says(End(cause, condition=condition)), **more)


class HeaderTests(ReceivingCase):
    """R1, R14: tests of stream headers before TLS."""

    def header_refused(self, given: str, condition: str, text: str, cause: Cause, **more: Any) -> None:
        self.refused([], given, condition, text, cause, opening=header(id="s1"), **more)

    def test_features(self) -> None:
        """R3, R4: the answer has from, to, id and version. If TLS is mandatory, the features say so and contain nothing else."""
        self.told(*PLAIN)

    def test_optional(self) -> None:
        """R3: if TLS is optional, dialback is offered beside it and SASL is not."""
        starttls = features(STARTTLS, ERRORS_FEATURE)
        self.told(
            In(ASK), Out(header(from_="ours.example", to="peer.example", id="s1") + starttls), Says(ResolutionNeeded(PEER, OURS)),
            options=OPTIONAL,
        )

    def test_never(self) -> None:
        """R3: if TLS is never used, it is not offered."""
        self.told(
            In(ASK), Out(header(from_="ours.example", to="peer.example", id="s1") + features(ERRORS_FEATURE)),
            Says(ResolutionNeeded(PEER, OURS)), options=NEVER,
        )

    def test_without_from(self) -> None:
        """R14: `from` may be absent before TLS. Then nothing is resolved before TLS (R2)."""
        self.told(
            In(header(to="ours.example")), Out(header(from_="ours.example", id="s1") + features(STARTTLS_REQUIRED)),
            In(STARTTLS), Says(StartTLS(OURS, None)), Do("tls_ready"), Out(PROCEED),
        )

    def test_empty_id(self) -> None:
        """Prosody's `id=''` in its header is ignored, and so are its other attributes."""
        self.told(In(ASK[:-1] + " id='' xml:lang='en'>"), *PLAIN[1:])

    def test_version(self) -> None:
        """R14: any version 1.x is answered. Others get `<unsupported-version/>`."""
        self.told(In(header(from_="peer.example", to="ours.example", version="1.99")), *PLAIN[1:])
        for version in ("2.0", "0.9", "1", "1.", "1.0 ", "x", ""):
            given = header(from_="peer.example", to="ours.example", version=version)
            text = f"the stream header has version {version}; only version 1.0 is supported"
            self.header_refused(given, "unsupported-version", text, Cause.PROTOCOL_ERROR)

    def test_pre_1_0(self) -> None:
        """R1: a header without a version is accepted only on the backend leg."""
        given = header(from_="peer.example", to="ours.example", version=None)
        text = "the stream header has no version; only version 1.0 is supported"
        self.header_refused(given, "unsupported-version", text, Cause.PROTOCOL_ERROR)

    def test_to(self) -> None:
        """R14: a missing `to`, one that is not a domain, and one that is not served are refused."""
        self.header_refused(header(from_="peer.example"), "improper-addressing", "the stream header has no `to`", Cause.ADDRESSING)
        text = "the stream header's `to` is not a domain: the domainpart is empty"
        self.header_refused(header(to=""), "improper-addressing", text, Cause.ADDRESSING)
        text = "other.example is not served here"
        self.header_refused(header(to="other.example"), "host-unknown", text, Cause.HOST_UNKNOWN)

    def test_from(self) -> None:
        """R14: `from` must be a domain, not one of ours, and one that may be a peer."""
        given = header(from_="rooms.ours.example", to="ours.example")
        text = "rooms.ours.example is served here and cannot be the sender"
        self.header_refused(given, "invalid-from", text, Cause.INVALID_FROM)
        self.header_refused(header(from_="bad.example", to="ours.example"), "policy-violation", "not you", Cause.NOT_ALLOWED)
        text = "the stream header's `from` is not a domain: the domainpart is no domain name: labels are 1-63 letters, digits and hyphens"
        self.header_refused(header(from_="juliet@peer.example", to="ours.example"), "improper-addressing", text, Cause.ADDRESSING)

    def test_ambiguous_domains(self) -> None:
        """R18: a domain that servers read in two ways is refused, with the spelling that is accepted."""
        for attribute, name, plain in (("from", "faß.example", "xn--fa-hia.example"), ("to", "βόλος.example", "xn--nxasmm1c.example")):
            given = header(**{"from_": "peer.example", "to": "ours.example", "from_" if attribute == "from" else "to": name})
            text = (
                f"the stream header's `{attribute}` is not a domain: servers read the domainpart in two ways (IDNA 2003 and IDNA 2008): "
                f"write it as {plain}"
            )
            self.header_refused(given, "improper-addressing", text, Cause.AMBIGUOUS_DOMAIN)

    def test_namespace(self) -> None:
        """R14, R38: another namespace gets `<invalid-namespace/>`, in a stream that is opened for the error (R15)."""
        given = ASK.replace("xmlns='jabber:server'", "xmlns='jabber:client'")
        self.header_refused(given, "invalid-namespace", "the default namespace is not jabber:server", Cause.PROTOCOL_ERROR)

    def test_not_xml(self) -> None:
        """R31: bytes that are not XML get an XMPP error."""
        self.header_refused("GET / HTTP/1.1\r\n", "not-well-formed", "the stream does not begin with a tag", Cause.BAD_XML)

    def test_second_header(self) -> None:
        """A stream header inside a stream is refused like any unexpected element."""
        text = "<stream xmlns='http://etherx.jabber.org/streams'/> is not expected here"
        given = "<stream:stream to='ours.example' version='1.0'/>"
        self.refused([*PLAIN], given, "unsupported-stanza-type", text, Cause.PROTOCOL_ERROR)

    def test_close(self) -> None:
        """R16: a closing tag is answered by a closing tag."""
        self.told(*PLAIN, In(CLOSE), Out(CLOSE), Says(End(Cause.CLOSED, "them", detail="")))

    def test_closed_by_us(self) -> None:
        """Before the peer's header no closing tag is sent. After our own header it is."""
        self.told(Do("close", Ending(Cause.SHUTDOWN)), Says(End(Cause.SHUTDOWN)))
        self.told(*PLAIN, Do("close", Ending(Cause.SHUTDOWN)), Out(CLOSE), Says(End(Cause.SHUTDOWN)))

    def test_failed_by_us(self) -> None:
        """R15: an error of the shell opens the stream if necessary."""
        self.told(
            Do("fail", NOT_ALLOWED), Out(header(id="s1") + error("policy-violation", "not you")),
            Says(End(Cause.NOT_ALLOWED, condition="policy-violation", detail="not you")),
        )

    def test_their_error(self) -> None:
        """A stream error of the peer is read and the stream closed."""
        streams = "xmlns='urn:ietf:params:xml:ns:xmpp-streams'"
        for inside, condition, cause, detail in (
            (f"<reset {streams}/><text {streams}>bye</text>", "reset", Cause.STREAM_ERROR, "bye"),
            (f"<host-unknown {streams}/>", "host-unknown", Cause.HOST_UNKNOWN, ""),
            ("<x xmlns='y'/>", "undefined-condition", Cause.STREAM_ERROR, ""),
        ):
            given = f"<stream:error>{inside}</stream:error>"
            self.told(*PLAIN, In(given), Out(CLOSE), Says(End(cause, "them", condition, detail)))

    def test_after_the_end(self) -> None:
        """After the end nothing more has an effect, from either side."""
        engine = self.told(*PLAIN, In(CLOSE + ASK), Out(CLOSE), Says(End(Cause.CLOSED, "them")), In("<x/>"))
        self.assertEqual(engine.resolved(UNRESOLVED), [])
        self.assertEqual(engine.judged(PERMIT_BOTH), [])
        self.assertEqual(engine.tls_established(), [])
        self.assertEqual(engine.dialback_answered(PAIR, DialbackOutcome("valid")), [])
        self.assertEqual(engine.close(Ending(Cause.IDLE)), [])
        self.assertEqual(engine.fail(NOT_ALLOWED), [])
        self.assertEqual(engine.data_to_send(), b"")

    def test_bytes_before_authentication(self) -> None:
        """R32: the bytes of a stream without a proven peer are counted. The error names the limit."""
        options = replace(FEDERATION, before=FramingLimits(stream_bytes=len(ASK) + 3))
        text = f"more than {len(ASK) + 3} bytes before authentication"
        engine = stream(options)
        engine.receive(ASK.encode())
        engine.data_to_send()
        ended = engine.receive(b"    ")
        self.assertEqual(engine.data_to_send().decode(), error("policy-violation", text))
        self._compare(ended, (End(Cause.LIMIT_EXCEEDED, condition="policy-violation", detail=text),))


class StartTLSTests(ReceivingCase):
    """R3–R9: tests of the way to TLS."""

    def tls_refused(self, steps: list[Step], given: str, cause: Cause = Cause.PROTOCOL_ERROR, **more: Any) -> None:
        self.told(*steps, In(given), Out(TLS_FAILURE + CLOSE), Says(End(cause)), **more)

    def test_proceed(self) -> None:
        """R5, R6: `<proceed/>` and the order to begin TLS follow, with no byte after it."""
        self.told(*TO_TLS)

    def test_waits_for_resolution(self) -> None:
        """R2: `<starttls/>` is answered after the peer's hostname is resolved, not before."""
        self.told(*PLAIN, In(STARTTLS), Do("resolved", None), Says(StartTLS(OURS, PEER)), Do("tls_ready"), Out(PROCEED))

    def test_unresolved(self) -> None:
        """R2: an unresolved hostname ends the stream, before and after `<starttls/>`."""
        end = [Out(error("remote-connection-failed", "no such domain")), Says(End(Cause.NO_SUCH_DOMAIN, condition="remote-connection-failed"))]
        self.told(*PLAIN, Do("resolved", UNRESOLVED), *end)
        self.told(*PLAIN, In(STARTTLS), Do("resolved", UNRESOLVED), *end)

    def test_no_resolution_asked(self) -> None:
        """On a leg without resolution none is requested."""
        offered = Out(header(from_="ours.example", to="peer.example", id="s1") + features(STARTTLS_REQUIRED))
        told = [In(STARTTLS), Says(StartTLS(OURS, PEER)), Do("tls_ready"), Out(PROCEED)]
        self.told(In(ASK), offered, *told, options=replace(FEDERATION, resolve=False))

    def test_injection(self) -> None:
        """R6: bytes behind `<starttls/>` are refused, even white space, before and after the resolution."""
        for more in ("<message/>", " ", "\x16\x03\x01", STARTTLS):
            engine = stream()
            engine.receive(ASK.encode())
            engine.resolved(None)
            engine.data_to_send()
            ended = engine.receive((STARTTLS + more).encode())
            self.assertEqual(engine.data_to_send().decode(), TLS_FAILURE + CLOSE)
            self._compare(ended, (End(Cause.TLS_INJECTION, detail="plain text was sent behind <starttls/>"),))
            self.tls_refused([*PLAIN, In(STARTTLS)], more, Cause.TLS_INJECTION)

    def test_injection_with_the_header(self) -> None:
        """R6: the same holds if header, `<starttls/>` and more arrive together, or the peer is not resolved yet."""
        for options in (FEDERATION, replace(FEDERATION, resolve=False)):
            engine = stream(options)
            told = engine.receive((ASK + STARTTLS + "x").encode())
            self.assertTrue(engine.data_to_send().endswith((TLS_FAILURE + CLOSE).encode()))
            self._compare(told[-1:], (End(Cause.TLS_INJECTION),))

    def test_bytes_during_the_handshake(self) -> None:
        """R6, R7: unencrypted bytes during the handshake end the stream without an error."""
        self.told(*TO_TLS[:-1], In("x"), Says(End(Cause.TLS_INJECTION, "them")))

    def test_no_certificate(self) -> None:
        """R7: if TLS cannot begin, `<starttls/>` is answered with `<failure/>`, and `<proceed/>` is not sent."""
        ending = Ending(Cause.INTERNAL, "no certificate")
        self.told(*PREPARING, Do("tls_unavailable", ending), Out(TLS_FAILURE + CLOSE), Says(End(Cause.INTERNAL, detail="no certificate")))

    def test_injection_before_proceed(self) -> None:
        """R6: bytes that arrive while `<starttls/>` is unanswered are refused."""
        self.tls_refused(PREPARING, " ", Cause.TLS_INJECTION)

    def test_ended_during_the_handshake(self) -> None:
        """R7: during the handshake neither a closing tag nor an error is sent."""
        self.told(*TO_TLS[:-1], Do("close", Ending(Cause.TLS_FAILED)), Says(End(Cause.TLS_FAILED)))
        self.told(*TO_TLS[:-1], Do("fail", NOT_ALLOWED), Says(End(Cause.NOT_ALLOWED)))

    def test_malformed(self) -> None:
        """R7: a malformed `<starttls/>` is answered with `<failure/>`."""
        for inside in ("x", " ", "<required/>"):
            self.tls_refused([*PLAIN], STARTTLS.replace("/>", f">{inside}</starttls>"))

    def test_not_offered(self) -> None:
        """R7: `<starttls/>` that was not offered gets `<failure/>` too: on a leg without TLS, behind TLS, after authentication."""
        plain = [In(ASK), Out(header(from_="ours.example", to="peer.example", id="s1") + features(ERRORS_FEATURE)), Says(ResolutionNeeded(PEER, OURS))]
        self.tls_refused(plain, STARTTLS, options=NEVER)
        self.tls_refused(BOTH, STARTTLS)
        self.tls_refused(OPEN, STARTTLS)
        self.tls_refused(PROVEN, STARTTLS)

    def test_other_input(self) -> None:
        """R29, R30: only STARTTLS is accepted if it is required."""
        self.refused(PLAIN, message(), "invalid-from", "peer.example is not authenticated on this stream", Cause.INVALID_FROM)
        text = "<x xmlns='y'/> is not expected here"
        self.refused(PLAIN, "<x xmlns='y'/>", "unsupported-stanza-type", text, Cause.PROTOCOL_ERROR)
        text = "TLS is required here before dialback"
        for given in (result("peer.example", "ours.example", "k"), verify("peer.example", "ours.example", "i", "k")):
            self.refused(PLAIN, given, "policy-violation", text, Cause.ENCRYPTION_REQUIRED)
        for name in ("response", "abort"):
            text = f"<{name} xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/> is not expected here"
            self.refused(PLAIN, f"<{name} {SASL}/>", "unsupported-stanza-type", text, Cause.PROTOCOL_ERROR)

    def test_sasl_before_tls(self) -> None:
        """R4, R25: SASL before TLS fails, and repeated attempts end the stream. Until then TLS may follow."""
        failed = sasl_failure("encryption-required", "authentication comes after TLS")
        twice = [*PLAIN, In(auth()), Out(failed), In(auth("*")), Out(failed)]
        self.told(*twice, Do("resolved", None), In(STARTTLS), Says(StartTLS(OURS, PEER)), Do("tls_ready"), Out(PROCEED))
        text = "3 failed authentications (encryption-required: authentication comes after TLS)"
        self.told(
            *twice, In(auth()), Out(failed + error("policy-violation", text)), Says(End(Cause.SASL_FAILED, condition="policy-violation")),
        )

    def test_sasl_without_tls(self) -> None:
        """R4: without TLS no mechanism is offered."""
        self.told(
            In(ASK), Out(header(from_="ours.example", to="peer.example", id="s1") + features(ERRORS_FEATURE)),
            Says(ResolutionNeeded(PEER, OURS)), In(auth()), Out(sasl_failure("invalid-mechanism", "no mechanism is offered")), options=NEVER,
        )

    def test_answers_unasked(self) -> None:
        """An answer of the shell without a question raises `LocalFault`."""
        engine = stream()
        for call in (
            lambda: engine.resolved(None), lambda: engine.judged(PERMIT_BOTH), engine.tls_established,
            lambda: engine.dialback_answered(PAIR, DialbackOutcome("valid")),
        ):
            self.assertRaises(LocalFault, call)
        engine.receive(ASK.encode())
        engine.resolved(None)
        self.assertRaises(LocalFault, engine.resolved, None)


class SecuredTests(ReceivingCase):
    """R8, R9, R24, R25: tests of the stream behind TLS."""

    def test_offers(self) -> None:
        """R8, R24, R28: only mechanisms that would succeed are offered, never STARTTLS. The id is new."""
        self.told(*BOTH)
        self.told(*DIALBACK)
        self.told(*EXTERNAL)

    def test_limits(self) -> None:
        """R32: the announced limit is the one that applies after authentication."""
        options = replace(FEDERATION, after=FramingLimits(stanza_bytes=10000))
        limits = LIMITS_FEATURE.replace("524288", "10000")
        text = "the stanza is longer than 10000 bytes"
        steps = [*SECURED, Do("judged", PERMIT_BOTH), Out(features(EXTERNAL_FEATURE, ERRORS_FEATURE, limits)), *AUTHENTICATED[-3:], In(ASK)]
        steps.append(Out(header(from_="ours.example", to="peer.example", id="s3") + features(ERRORS_FEATURE, limits)))
        engine = stream(options)
        self._play(engine, lambda data: [data], steps)
        ended = engine.receive(message(body="x" * 10000).encode())
        self.assertEqual(engine.data_to_send().decode(), error("policy-violation", text))
        self._compare(ended, (End(Cause.LIMIT_EXCEEDED, condition="policy-violation"),))

    def test_limits_of_the_peer(self) -> None:
        """R32: the judgement's limits are announced in place of the listener's, and apply once the peer is proven."""
        permission = replace(PERMIT_BOTH, limits=FramingLimits(stanza_bytes=20000))
        limits = LIMITS_FEATURE.replace("524288", "20000")
        steps = [*SECURED, Do("judged", permission), Out(features(EXTERNAL_FEATURE, ERRORS_FEATURE, limits)), *AUTHENTICATED[-3:], In(ASK)]
        steps.append(Out(header(from_="ours.example", to="peer.example", id="s3") + features(ERRORS_FEATURE, limits)))
        engine = stream()
        self._play(engine, lambda data: [data], steps)
        engine.receive(message(body="x" * 20000).encode())
        self.assertEqual(engine.data_to_send().decode(), error("policy-violation", "the stanza is longer than 20000 bytes"))

    def test_limits_kept_to_ourselves(self) -> None:
        """A limit that is not announced applies all the same."""
        permission = replace(PERMIT_EXTERNAL, limits=FramingLimits(stanza_bytes=20000), announced=False)
        engine = self.told(*SECURED, Do("judged", permission), Out(features(EXTERNAL_FEATURE)), In(auth()), Out(SUCCESS), Says(PairProven(PAIR, "EXTERNAL")))
        engine.receive((ASK + message(body="x" * 20000)).encode())
        self.assertIn("the stanza is longer than 20000 bytes", engine.data_to_send().decode())

    def test_refused(self) -> None:
        """R8: a refusal, or the absence of any mechanism, ends the stream with `<policy-violation/>`."""
        end = [Out(error("policy-violation", "not you")), Says(End(Cause.NOT_ALLOWED, condition="policy-violation"))]
        self.told(*SECURED, Do("judged", Permission(refusal=NOT_ALLOWED)), *end)
        text = "peer.example has no way to authenticate here"
        self.told(
            *SECURED, Do("judged", Permission()), Out(error("policy-violation", text)),
            Says(End(Cause.NO_COMMON_METHOD, condition="policy-violation")),
        )

    def test_changed_from(self) -> None:
        """R9: if `from` changes behind TLS, the new one is judged, and it alone counts."""
        pair = Pair(OTHER, ROOMS)
        self.told(
            *TO_TLS, In(header(from_="other.example", to="rooms.ours.example")),
            Out(header(from_="rooms.ours.example", to="other.example", id="s2")), Says(JudgementNeeded(OTHER, ROOMS, True)),
            Do("judged", PERMIT_EXTERNAL), Out(features(EXTERNAL_FEATURE, LIMITS_FEATURE)),
            In(auth("b3RoZXIuZXhhbXBsZQ==")), Out(SUCCESS), Says(PairProven(pair, "EXTERNAL")),
        )

    def test_header_refused(self) -> None:
        """R14, R15: behind TLS `from` is required, and the header is checked as before."""
        text = "the stream header has no `from`, which authentication needs"
        opened = header(from_="ours.example", id="s2")
        self.refused(TO_TLS, header(to="ours.example"), "improper-addressing", text, Cause.ADDRESSING, opening=opened)
        opened = header(id="s2")
        text = "other.example is not served here"
        self.refused(TO_TLS, header(from_="peer.example", to="other.example"), "host-unknown", text, Cause.HOST_UNKNOWN, opening=opened)
        self.refused(TO_TLS, header(from_="bad.example", to="ours.example"), "policy-violation", "not you", Cause.NOT_ALLOWED, opening=opened)

    def test_header_unread(self) -> None:
        """R14: a header for an internationalised domain that is not served is refused before its names are converted."""
        self.patch(Domain, "claimed", self.fail)
        options = replace(FEDERATION, serves_spelling=lambda text: False)
        text = "the domain in the stream header's `to` is not served here"
        given = header(from_="käse.example", to="köln.example")
        self.refused([], given, "host-unknown", text, Cause.HOST_UNKNOWN, opening=header(id="s1"), options=options)

    def test_waiting_for_the_judgement(self) -> None:
        """Input is kept in order until the evidence is judged (docs/decisions.md#external)."""
        self.told(*SECURED, In(auth()), Do("judged", PERMIT_BOTH), Out(features(EXTERNAL_FEATURE, ERRORS_FEATURE, LIMITS_FEATURE) + SUCCESS), *AUTHENTICATED[-1:])
        self.told(*SECURED, In(CLOSE), Do("judged", PERMIT_EXTERNAL), Out(features(EXTERNAL_FEATURE, LIMITS_FEATURE) + CLOSE), Says(End(Cause.CLOSED, "them")))

    def test_all_at_once(self) -> None:
        """Input sent ahead, after TLS and after `<auth/>`, counts at its place in the stream (docs/decisions.md#engines)."""
        opened = header(from_="ours.example", to="peer.example", id="s3") + features(ERRORS_FEATURE, LIMITS_FEATURE)
        self.told(
            *SECURED, In(auth()), In("\n" + ASK + message()), Do("judged", PERMIT_BOTH),
            Out(features(EXTERNAL_FEATURE, ERRORS_FEATURE, LIMITS_FEATURE) + SUCCESS + opened),
            Says(PairProven(PAIR, "EXTERNAL"), Stanzas(PAIR, (message(),))),
        )
        engine = stream()
        self._play(engine, lambda data: [data], TO_TLS)
        engine.receive((ASK + auth() + ASK + message()).encode())
        told = engine.judged(PERMIT_BOTH)
        self.assertEqual(len(told), 2)

    def test_kept_bytes_are_bounded(self) -> None:
        """R32: the input sent ahead is bounded."""
        engine = stream()
        self._play(engine, lambda data: [data], SECURED)
        self.assertEqual(engine.receive(b" " * negotiation.KEPT_BYTES), [])
        ended = engine.receive(b" ")
        text = f"more than {negotiation.KEPT_BYTES} bytes sent without waiting for an answer"
        self.assertEqual(engine.data_to_send().decode(), error("policy-violation", text))
        self._compare(ended, (End(Cause.LIMIT_EXCEEDED, condition="policy-violation"),))

    def test_direct_tls(self) -> None:
        """R11: with direct TLS the stream begins after the handshake."""
        options = replace(FEDERATION, direct_tls=True)
        answered = Out(header(from_="ours.example", to="peer.example", id="s1"))
        judging = [Do("tls_established"), In(ASK), answered, Says(JudgementNeeded(PEER, OURS, True))]
        self.told(*judging, Do("judged", PERMIT_EXTERNAL), Out(features(EXTERNAL_FEATURE, LIMITS_FEATURE)), options=options)
        self.told(In("x"), Says(End(Cause.TLS_INJECTION, "them")), options=options)


class SASLTests(ReceivingCase):
    """R24, R25: tests of EXTERNAL."""

    def test_success(self) -> None:
        """R24, R25: an empty authorization identity or the stream's `from` succeeds. A new stream with a new id and features follows."""
        self.told(*OPEN)
        self.told(*BOTH, In(auth("cGVlci5leGFtcGxl")), Out(SUCCESS), Says(PairProven(PAIR, "EXTERNAL")))

    def test_challenge(self) -> None:
        """RFC 6120 §6.4.2: without an initial response a challenge is sent."""
        asked = [*BOTH, In(auth("")), Out(f"<challenge {SASL}/>")]
        self.told(*asked, In(f"<response {SASL}>=</response>"), Out(SUCCESS), Says(PairProven(PAIR, "EXTERNAL")))
        self.told(*asked, In(f"<response {SASL}/>"), Out(SUCCESS), Says(PairProven(PAIR, "EXTERNAL")))
        failed = sasl_failure("invalid-authzid", "the authorization identity is not the stream's `from`, peer.example")
        self.told(*asked, In(f"<response {SASL}>eA==</response>"), Out(failed), In(auth()), Out(SUCCESS), Says(PairProven(PAIR, "EXTERNAL")))
        self.told(*asked, In(f"<abort {SASL}/>"), Out(sasl_failure("aborted", "aborted as asked")))

    def test_during_the_exchange(self) -> None:
        """Only `<response/>` and `<abort/>` are accepted during an exchange."""
        asked = [*BOTH, In(auth("")), Out(f"<challenge {SASL}/>")]
        for given, name in (
            (auth(), "auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"),
            (result("peer.example", "ours.example", "k"), "result xmlns='jabber:server:dialback'"),
            (verify("peer.example", "ours.example", "i", "k"), "verify xmlns='jabber:server:dialback'"),
        ):
            text = f"<{name}/> is not expected here"
            self.refused(asked, given, "unsupported-stanza-type", text, Cause.PROTOCOL_ERROR)
        self.refused(asked, message(), "invalid-from", "peer.example is not authenticated on this stream", Cause.INVALID_FROM)
        self.told(*asked, In(STARTTLS), Out(TLS_FAILURE + CLOSE), Says(End(Cause.PROTOCOL_ERROR)))

    def test_failures(self) -> None:
        """R24, R25: each failure gives its reason. Dialback may follow. The third failure ends the stream."""
        encoding = sasl_failure("incorrect-encoding", "the message is not encoded in canonical base64")
        mechanism = sasl_failure("invalid-mechanism", "the mechanism is not offered")
        authzid = sasl_failure("invalid-authzid", "the authorization identity is not the stream's `from`, peer.example")
        twice = [*BOTH, In(auth("*")), Out(encoding), In(auth(mechanism="PLAIN")), Out(mechanism)]
        self.told(*twice, In(result("peer.example", "ours.example", "k")), Says(DialbackNeeded(PAIR, "k", "s2")))
        text = "3 failed authentications (invalid-authzid: the authorization identity is not the stream's `from`, peer.example)"
        self.told(
            *twice, In(auth("eA==")), Out(authzid + error("policy-violation", text)), Says(End(Cause.SASL_FAILED, condition="policy-violation")),
        )

    def test_last_failure(self) -> None:
        """R25: the last failure is known at the end of the stream: the peer may close it instead of another try."""
        engine = self.told(*BOTH)
        self.assertIsNone(engine.sasl_failure)
        for given, text in ((auth("*"), "incorrect-encoding: the message is not"), (auth(mechanism="PLAIN"), "invalid-mechanism: the mechanism")):
            engine.receive(given.encode())
            assert engine.sasl_failure is not None
            self.assertEqual((Cause.SASL_FAILED, "us"), (engine.sasl_failure.cause, engine.sasl_failure.by))
            self.assertTrue(engine.sasl_failure.detail.startswith(text), engine.sasl_failure.detail)

    def test_not_offered(self) -> None:
        """R24: EXTERNAL cannot be used if the certificate proves nothing."""
        self.told(*DIALBACK, In(auth()), Out(sasl_failure("invalid-mechanism", "the mechanism is not offered")))
        self.told(*DIALBACK, In(f"<auth {SASL}/>"), Out(sasl_failure("invalid-mechanism", "the mechanism is not offered")))

    def test_not_now(self) -> None:
        """SASL is accepted once, and only before dialback on a stream. Without an exchange there is nothing to respond to."""
        text = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/> is not expected here"
        self.refused(ASKED, auth(), "unsupported-stanza-type", text, Cause.PROTOCOL_ERROR)
        self.refused(PROVEN, auth(), "unsupported-stanza-type", text, Cause.PROTOCOL_ERROR)
        self.refused(OPEN, auth(), "unsupported-stanza-type", text, Cause.PROTOCOL_ERROR)
        for name in ("response", "abort"):
            text = f"<{name} xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/> is not expected here"
            self.refused(BOTH, f"<{name} {SASL}/>", "unsupported-stanza-type", text, Cause.PROTOCOL_ERROR)

    def test_restart(self) -> None:
        """R9, R25: the stream after SASL belongs to the authenticated pair. `from` may be absent."""
        self.told(
            *AUTHENTICATED, In(header(to="ours.example")),
            Out(header(from_="ours.example", id="s3") + features(ERRORS_FEATURE, LIMITS_FEATURE)),
            In(message()), Says(Stanzas(PAIR, (message(),))),
        )
        text = "the stream header names another pair than peer.example -> ours.example"
        for from_, to in (("other.example", "ours.example"), ("peer.example", "rooms.ours.example")):
            opened = header(from_=to, to=from_, id="s3")
            self.refused(AUTHENTICATED, header(from_=from_, to=to), "invalid-from", text, Cause.INVALID_FROM, opening=opened)


class StanzaTests(ReceivingCase):
    """R16, R29, R30: tests of the stanzas that may pass, and of other elements."""

    def test_pass(self) -> None:
        """Stanzas of the proven pair pass in runs, unchanged."""
        many = tuple(message(body=str(number)) for number in range(3))
        self.told(*OPEN, In("".join(many) + "\n"), Says(Stanzas(PAIR, many)))
        self.told(*PROVEN, In("".join(many)), Says(Stanzas(PAIR, many)))

    def test_before_the_close(self) -> None:
        """R16: stanzas received before the closing tag, or before an error, are still delivered."""
        self.told(*OPEN, In(message() + CLOSE), Out(CLOSE), Says(Stanzas(PAIR, (message(),)), End(Cause.CLOSED, "them")))
        text = "comments are not allowed"
        self.told(
            *OPEN, In(message() + "<!-- -->"), Out(error("restricted-xml", text)),
            Says(Stanzas(PAIR, (message(),)), End(Cause.BAD_XML, condition="restricted-xml")),
        )

    def test_unproven(self) -> None:
        """R29: an unproven `from` gets `<invalid-from/>`, in every phase of the negotiation."""
        for steps in (BOTH, ASKED, OPEN, PROVEN):
            text = "other.example is not authenticated on this stream"
            self.refused(steps, message("mercutio@other.example"), "invalid-from", text, Cause.INVALID_FROM)
        self.refused(BOTH, message(), "invalid-from", "peer.example is not authenticated on this stream", Cause.INVALID_FROM)

    def test_unproven_recipient(self) -> None:
        """R29: a stanza to a served domain outside the proven pairs gets `<invalid-from/>`; to another domain, `<host-unknown/>`."""
        text = "peer.example is authenticated on this stream, but not for rooms.ours.example"
        self.refused(OPEN, message(to="rooms.ours.example"), "invalid-from", text, Cause.INVALID_FROM)
        self.refused(OPEN, message(to="x@other.example"), "host-unknown", "other.example is not served here", Cause.HOST_UNKNOWN)

    def test_addresses(self) -> None:
        """R30: `to` and `from` are required and must be JIDs."""
        for given, text in (
            ("<iq to='ours.example'/>", "a stanza without `from`"),
            ("<iq from='peer.example'/>", "a stanza without `to`"),
            ("<iq from='peer.example' to=''/>", "a stanza without `to`"),
            ("<iq from='@peer.example' to='ours.example'/>", "the stanza's `from` is not a JID: the localpart is empty"),
            ("<iq from='peer.example' to='ours.example/'/>", "the stanza's `to` is not a JID: the resourcepart is empty"),
        ):
            self.refused(OPEN, given, "improper-addressing", text, Cause.ADDRESSING)

    def test_ambiguous_addresses(self) -> None:
        """R18: a stanza is refused if a server behind the gateway would read its address as another one."""
        for given, attribute in (
            ("<iq from='x@faß.example' to='ours.example'/>", "from"), ("<iq from='peer.example' to='x@faß.example/y'/>", "to"),
        ):
            text = (
                f"the stanza's `{attribute}` is not a JID: servers read the domainpart in two ways (IDNA 2003 and IDNA 2008): "
                "write it as xn--fa-hia.example"
            )
            self.refused(OPEN, given, "improper-addressing", text, Cause.AMBIGUOUS_DOMAIN)

    def test_other_elements(self) -> None:
        """R30: other elements get `<unsupported-stanza-type/>`."""
        for given, name in (("<x/>", "<x xmlns='jabber:server'/>"), (PROCEED, "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")):
            self.refused(OPEN, given, "unsupported-stanza-type", f"{name} is not expected here", Cause.PROTOCOL_ERROR)

    def test_routes_are_bounded(self) -> None:
        """The number of remembered address spellings is bounded."""
        engine = stream()
        self._play(engine, lambda data: [data], OPEN)
        engine.receive("".join(message(f"u{number}@peer.example") for number in range(1024)).encode())
        self.assertEqual(len(engine.pairs.routes), 1024)
        engine.receive(message("another@peer.example").encode())
        self.assertEqual(len(engine.pairs.routes), 1)

    def test_order(self) -> None:
        """R33: an event between two stanzas is reported between them."""
        given = message(body="1") + result("other.example", "ours.example", "k") + message(body="2")
        engine = stream()
        self._play(engine, lambda data: [data], OPEN)
        self._compare(shown(engine.receive(given.encode())), (
            Stanzas(PAIR, (message(body="1"),)), JudgementNeeded(OTHER, OURS, True), Stanzas(PAIR, (message(body="2"),)),
        ))

    def test_rest(self) -> None:
        """A compacted idle stream continues without a difference (docs/decisions.md#idle-streams)."""
        self.told(*OPEN, In(message()), Says(Stanzas(PAIR, (message(),))), Do("rest"), In(message()), Says(Stanzas(PAIR, (message(),))))
        self.assertIs(self.told(*OPEN, Do("rest"))._framer._parser, None)


def refused(sender: Domain, ending: Ending) -> PairRefused:
    """Return the event of a refused pair towards `OURS`."""
    return PairRefused(pair(sender), ending)


def not_here(sender: Domain) -> Ending:
    """Return the ending of a request whose key is not accepted."""
    return Ending(Cause.NO_COMMON_METHOD, f"{sender} may not authenticate by dialback here")


def pair(sender: Domain = PEER, recipient: Domain = OURS) -> Pair:
    return Pair(sender, recipient)


class WithoutDialbackTests(ReceivingCase):
    """A stream on which dialback is not used."""

    def test_no_state(self) -> None:
        """It keeps nothing for dialback: an idle stream is small. A request for a domain that is proven is answered."""
        engine = self.told(*OPEN)
        self.assertIsNone(engine.phase._authorisation)  # type: ignore[attr-defined]
        self.told(*OPEN, In(result("peer.example", "ours.example", "k")), Out(result("ours.example", "peer.example", type="valid")))


class DialbackTests(ReceivingCase):
    """R27, R28: tests of dialback, receiving and authoritative."""

    def test_valid(self) -> None:
        """R28: a valid key proves the pair, and the stream continues without a restart."""
        engine = self.told(*PROVEN, In(message()), Says(Stanzas(PAIR, (message(),))))
        self.assertEqual(list(engine.pairs), [PAIR])

    def test_invalid(self) -> None:
        """R28: an invalid key ends a stream that carries nothing else (XEP-0220 §2.2.1)."""
        ending = Ending(Cause.DIALBACK_INVALID, "said peer.example", "them")
        for outcome in (DialbackOutcome("invalid", ending), DialbackOutcome("invalid")):
            self.told(
                *ASKED, Do("dialback_answered", PAIR, outcome), Out(result("ours.example", "peer.example", type="invalid") + CLOSE),
                Says(End(Cause.DIALBACK_INVALID, "them" if outcome.ending else "us")),
            )

    def test_invalid_beside_others(self) -> None:
        """R28: on a stream with other pairs an invalid key is an error, `<forbidden/>` (XEP-0220 §2.1.2)."""
        forbidden = dialback_error("forbidden", Ending(Cause.DIALBACK_INVALID).account.bounce, "auth")
        outcome = DialbackOutcome("invalid", Ending(Cause.DIALBACK_INVALID))
        asked = [In(result("peer.example", "rooms.ours.example", "k2")), Says(DialbackNeeded(pair(PEER, ROOMS), "k2", "s2"))]
        answered = [
            Do("dialback_answered", pair(PEER, ROOMS), outcome), Out(result("rooms.ours.example", "peer.example", forbidden, "error")),
            Says(PairRefused(pair(PEER, ROOMS), Ending(Cause.DIALBACK_INVALID))),
        ]
        self.told(*PROVEN, *asked, *answered)
        self.told(*ASKED, *asked, *answered)

    def test_error(self) -> None:
        """R28: if the authoritative server cannot be asked, the answer is an error and the stream stays."""
        outcome = DialbackOutcome("error", Ending(Cause.CONNECTION_REFUSED))
        text = dialback_error("remote-server-timeout", "The remote server refuses connections.", "wait")
        self.told(
            *ASKED, Do("dialback_answered", PAIR, outcome), Out(result("ours.example", "peer.example", text, "error")),
            Says(PairRefused(PAIR, Ending(Cause.CONNECTION_REFUSED))), *ASKED[-2:],
        )

    def test_unserved_target(self) -> None:
        """R28: a target that is not served gets the error item-not-found, and the stream stays."""
        text = dialback_error("item-not-found", "other.example is not served here")
        self.told(
            *DIALBACK, In(result("peer.example", "other.example", "k")), Out(result("other.example", "peer.example", text, "error")),
            *ASKED[-2:],
        )

    def test_refused_sender(self) -> None:
        """R14, R28: a sender that cannot be a peer is an error too."""
        for sender, text in (("bad.example", "not you"), ("ours.example", "ours.example is served here and cannot be the sender")):
            inside = dialback_error("policy-violation", text, "modify")
            engine = self.told(*OPEN)
            told: list[Any] = engine.receive(result(sender, "ours.example", "k").encode())
            self.assertEqual([event.pair for event in told], [pair(Domain.parse(sender))])
            self.assertEqual(engine.data_to_send().decode(), result("ours.example", sender, inside, "error"))

    def test_more_pairs(self) -> None:
        """R28: several pairs may share one stream. Each further domain is judged once, and stanzas pass meanwhile."""
        other = pair(OTHER)
        self.told(
            *OPEN, In(result("other.example", "ours.example", "k") + result("other.example", "rooms.ours.example", "k2")),
            Says(JudgementNeeded(OTHER, OURS, True)), In(message()), Says(Stanzas(PAIR, (message(),))),
            Do("judged", PERMIT_DIALBACK), Says(DialbackNeeded(other, "k", "s3"), DialbackNeeded(pair(OTHER, ROOMS), "k2", "s3")),
            Do("dialback_answered", other, DialbackOutcome("valid")), Out(result("ours.example", "other.example", type="valid")),
            Says(PairProven(other, "dialback")),
            In(message() + message("mercutio@other.example") + message()),
            Says(Stanzas(PAIR, (message(),)), Stanzas(other, (message("mercutio@other.example"),)), Stanzas(PAIR, (message(),))),
        )

    def test_limits_of_more_peers(self) -> None:
        """R32: the largest limit of the proven peers on the stream applies. A peer that is only judged does not raise it."""
        small, large = (Permission(dialback=True, limits=FramingLimits(stanza_bytes=size)) for size in (20000, 40000))
        engine = self.told(
            *SECURED, Do("judged", small), Out(features(ERRORS_FEATURE, LIMITS_FEATURE.replace("524288", "20000"))), *PROVEN[-5:],
            In(result("other.example", "ours.example", "k")), Says(JudgementNeeded(OTHER, OURS, True)),
            Do("judged", large), Says(DialbackNeeded(pair(OTHER), "k", "s2")),
            In(result("peer.example", "rooms.ours.example", "k")), Says(DialbackNeeded(pair(PEER, ROOMS), "k", "s2")),
            Do("dialback_answered", pair(PEER, ROOMS), DialbackOutcome("valid")), Out(result("rooms.ours.example", "peer.example", type="valid")),
            Says(PairProven(pair(PEER, ROOMS), "dialback")),
        )
        self.assertEqual(20000, engine.limits_of(None).stanza_bytes)
        engine.dialback_answered(pair(OTHER), DialbackOutcome("valid"))
        self.assertEqual(40000, engine.limits_of(None).stanza_bytes)
        self.assertEqual([StanzasReceived], [type(event) for event in engine.receive(message(body="x" * 30000).encode())])

    def test_side_by_side(self) -> None:
        """R28: further domains are judged in parallel, and their keys verified in parallel. The answers may come in any order."""
        third = Domain.parse("third.example")
        valid = DialbackOutcome("valid")
        self.told(
            *OPEN, In(result("other.example", "ours.example", "k") + result("third.example", "ours.example", "k3")),
            Says(JudgementNeeded(OTHER, OURS, True), JudgementNeeded(third, OURS, True)),
            Do("judged", PERMIT_DIALBACK, third), Says(DialbackNeeded(pair(third), "k3", "s3")),
            Do("judged", PERMIT_DIALBACK, OTHER), Says(DialbackNeeded(pair(OTHER), "k", "s3")),
            Do("dialback_answered", pair(OTHER), valid), Out(result("ours.example", "other.example", type="valid")),
            Says(PairProven(pair(OTHER), "dialback")),
            Do("dialback_answered", pair(third), valid), Out(result("ours.example", "third.example", type="valid")),
            Says(PairProven(pair(third), "dialback")),
        )

    def test_few_at_once(self) -> None:
        """At most four domains are judged, and eight keys verified, at a time. The next one starts when one ends."""
        names = [f"d{number}.example" for number in range(12)]
        engine = self.told(*OPEN)
        asked: list[Any] = engine.receive("".join(result(name, "ours.example", "k") for name in names).encode())
        self.assertEqual([event.peer.ascii for event in asked], names[:4])
        verified = []
        for number, name in enumerate(names):
            told = engine.judged(PERMIT_DIALBACK, Domain.parse(name))
            verified += [event.pair.sender.ascii for event in told if isinstance(event, DialbackNeeded)]
            judged = [event.peer.ascii for event in told if isinstance(event, JudgementNeeded)]
            self.assertEqual(judged, names[number + 4 : number + 5])
        self.assertEqual(verified, names[:8])
        begun: list[Any] = engine.dialback_answered(pair(Domain.parse("d3.example")), DialbackOutcome("error"))
        self.assertEqual([type(begun.pop(0)), *[event.pair.sender.ascii for event in begun]], [PairRefused, "d8.example"])

    def test_which_judgement(self) -> None:
        """If several judgements are open, the shell names the domain. Another domain is refused."""
        asked = "".join(result(name, "ours.example", "k") for name in ("other.example", "third.example"))
        engine = self.told(*OPEN)
        engine.receive(asked.encode())
        self.assertRaises(LocalFault, engine.judged, PERMIT_DIALBACK)
        self.assertRaises(LocalFault, engine.judged, PERMIT_DIALBACK, PEER)
        engine = self.told(*SECURED)
        self.assertRaises(LocalFault, engine.judged, PERMIT_DIALBACK, OTHER)

    def answers(self, engine: ReceivingStream, *requests: str) -> list[str]:
        """Return the answer to each request: a condition, the stream error that ends it, or "" for none."""
        answers = []
        for request in requests:
            engine.receive(request.encode())
            sent = engine.data_to_send().decode()
            conditions = re.findall(r"<([a-z-]+) xmlns='urn:ietf:params:xml:ns:xmpp-(?:stanzas|streams)'/>", sent)
            answers.append("+".join(conditions))
        return answers

    def test_waiting(self) -> None:
        """The number of waiting requests is bounded. Three more are told to come later, and one more ends the stream."""
        options = replace(FEDERATION, claims_waiting=5)
        engine = self.told(*OPEN, options=options)
        told = self.answers(engine, *(result(f"d{number}.example", "ours.example", "k") for number in range(9)))
        self.assertEqual(told, [""] * 5 + ["resource-constraint"] * 3 + ["resource-constraint+resource-constraint"])
        self.assertTrue(engine.over)

    def test_rate(self) -> None:
        """Requests are rated, including refused ones. An answered request frees its place, and each minute permits one more."""
        now = [0.0]
        options = replace(FEDERATION, claims_per_second=2, seconds=lambda: now[0])
        engine = self.told(*OPEN, options=options)
        bad = result("bad.example", "ours.example", "k")
        self.assertEqual(self.answers(engine, *[bad] * 12), ["policy-violation"] * 10 + ["resource-constraint"] * 2)
        now[0] += 60
        self.assertEqual(self.answers(engine, *[bad] * 14), ["policy-violation"] * 10 + ["resource-constraint"] * 2 + ["resource-constraint+resource-constraint"] + [""])

    def test_not_served(self) -> None:
        """§2.2.1: three requests for domains that are not served get errors, plus one more a minute. Further ones end the stream."""
        now = [0.0]
        engine = self.told(*OPEN, options=replace(FEDERATION, seconds=lambda: now[0]))
        asked = [result("peer.example", f"x{number}.example", "k") for number in range(3)] + [verify("peer.example", "x.example", "i", "k")]
        self.assertEqual(self.answers(engine, *asked[:3]), ["item-not-found"] * 3)
        now[0] += 60
        self.assertEqual(self.answers(engine, asked[3], asked[0]), ["item-not-found", "item-not-found+resource-constraint"])
        self.assertTrue(engine.over)

    def test_unread(self) -> None:
        """A request for a domain that is not served is answered as it was spelled, without converting internationalised names."""
        engine = self.told(*OPEN, options=replace(FEDERATION, serves_spelling=lambda text: spelling(text) == "bücher.example"))
        self.patch(Domain, "claimed", self.fail)
        asked = result("käse.example", "köln.example", "k")
        self.assertEqual(self.answers(engine, asked, verify("käse.example", "xn--kln-sna.example", "i", "k")), ["item-not-found"] * 2)
        engine.receive(asked.encode())
        self.assertIn("<db:result from='köln.example' to='käse.example' type='error'>", engine.data_to_send().decode())

    def test_spellings(self) -> None:
        """A served domain is recognised in every spelling."""
        served = Domain.parse("bücher.example")
        options = replace(FEDERATION, serves=served.__eq__, serves_spelling=lambda text: spelling(text) in ("bücher.example", served.ascii))
        for text in ("BÜCHER.example", "xn--BCHER-kva.example.", "bu\u0308cher.example"):
            engine = self.told(*OPEN)
            engine.options = options
            [event] = engine.receive(result("other.example", text, "k").encode())
            self.assertEqual(event, JudgementNeeded(OTHER, served, True), text)

    def test_domains(self) -> None:
        """The number of sending domains on a stream is bounded. A further one is told to use another stream each time. The others continue."""
        options = replace(FEDERATION, domains=2)
        engine = self.told(*OPEN, options=options)
        asked = [result(f"{name}.example", "ours.example", "k") for name in ("other", "third", "third", "third", "third", "third")]
        self.assertEqual(self.answers(engine, *asked), [""] + ["resource-constraint"] * 5)
        engine.judged(Permission(refusal=NOT_ALLOWED))
        self.assertIn("not you", engine.data_to_send().decode())
        [event] = engine.receive(asked[1].encode())
        self.assertEqual(event, JudgementNeeded(Domain.parse("third.example"), OURS, True))
        self.assertEqual(self.answers(engine, result("peer.example", "rooms.ours.example", "k")), [""])

    def test_more_domains(self) -> None:
        """A peer's policy may permit more domains. If it permits fewer, the default applies."""
        for of_peer, number in ((4, 4), (1, 2), (0, 2)):
            steps = [Do("judged", replace(PERMIT_BOTH, domains=of_peer)) if isinstance(step, Do) and step.method == "judged" else step for step in OPEN]
            engine = self.told(*steps, options=replace(FEDERATION, domains=2))
            asked = [result(f"d{each}.example", "ours.example", "k") for each in range(6)]
            answers = self.answers(engine, *asked)
            self.assertEqual(answers.count("resource-constraint"), 6 - (number - 1), of_peer)

    def test_same_permission(self) -> None:
        """If a peer has the same permission as the one before on the stream, it is kept once: there may be thousands of peers."""
        engine = self.told(*PROVEN, options=replace(FEDERATION, domains=10))
        kept = []
        for number, permission in enumerate((replace(PERMIT_BOTH), replace(PERMIT_BOTH), replace(PERMIT_BOTH, domains=9))):
            engine.receive(result(f"d{number}.example", "ours.example", "k").encode())
            before = getrefcount(permission)
            engine.judged(permission, Domain.parse(f"d{number}.example"))
            kept.append(getrefcount(permission) > before)
        self.assertEqual(kept[1:], [False, True])

    def test_constant_cost(self) -> None:
        """A request costs the same however many pairs are proven and however many wait."""
        engine = self.told(*PROVEN, options=replace(FEDERATION, claims_waiting=5000))
        for number in range(3000):
            engine.prove(Pair(Domain(f"p{number}.example", ""), OURS), "dialback")
        compared = 0

        class Counted(Domain):
            def __eq__(self, other: object) -> bool:
                nonlocal compared
                compared += 1
                return Domain.__eq__(self, other)

            __hash__ = Domain.__hash__

        authorisation = engine.phase.authorisation  # type: ignore[attr-defined]
        for number in range(100):
            name = Counted(f"q{number}.example", "")
            authorisation.result(Request("result", Pair(name, OURS), "k", "", {"from": name.ascii, "to": "ours.example"}))
        self.assertLess(compared, 1000)

    def test_further_domain_refused(self) -> None:
        """R28: a further domain that the policy refuses gets an error. The stream continues."""
        nowhere = Refusal(StreamCondition.REMOTE_CONNECTION_FAILED, "nowhere", Ending(Cause.NO_SUCH_DOMAIN))
        for permission, text, condition, kind in (
            (Permission(refusal=NOT_ALLOWED), "not you", "policy-violation", "modify"),
            (Permission(), "other.example may not authenticate by dialback here", "policy-violation", "modify"),
            (Permission(refusal=nowhere), "nowhere", "remote-server-not-found", "cancel"),
        ):
            told = Says(refused(OTHER, not_here(OTHER) if permission.refusal is None else permission.refusal.ending))
            inside = dialback_error(condition, text, kind)
            answer = Out(result("ours.example", "other.example", inside, "error"))
            asked = In(result("other.example", "ours.example", "k"))
            self.told(*OPEN, asked, Says(JudgementNeeded(OTHER, OURS, True)), Do("judged", permission), answer, told, asked, answer, told)

    def test_further_domain_refused_for_now(self) -> None:
        """R2, R28: a further domain that was told to wait is judged again when it asks again, a bounded number of times on one stream."""
        asked, question = In(result("other.example", "ours.example", "k")), Says(JudgementNeeded(OTHER, OURS, True))
        unasked = Refusal(StreamCondition.REMOTE_CONNECTION_FAILED, "unasked", Ending(Cause.DNS_UNREACHABLE))
        error = dialback_error("remote-server-timeout", "unasked", "wait")
        answer = Out(result("ours.example", "other.example", error, "error"))
        told = Says(refused(OTHER, unasked.ending))
        once = [asked, question, Do("judged", Permission(refusal=unasked)), answer, told]
        self.told(*OPEN, *once, asked, question, Do("judged", PERMIT_DIALBACK), Says(DialbackNeeded(pair(OTHER), "k", "s3")))
        self.patch(dialback_authorization, "JUDGED_ANEW", 1)
        self.told(*OPEN, *once, *once, asked, answer, told)

    def test_refused_domains(self) -> None:
        """The number of refused domains that a stream remembers is bounded: the first one is judged anew when it asks again."""
        self.patch(dialback_authorization, "REFUSED", 1)
        refusal = Refusal(StreamCondition.POLICY_VIOLATION, "no", Ending(Cause.NOT_ALLOWED))
        steps: list[Any] = []
        for name in ("other.example", "third.example", "other.example"):
            answer = result("ours.example", name, dialback_error("policy-violation", "no", "modify"), "error")
            steps += [
                In(result(name, "ours.example", "k")), Says(JudgementNeeded(Domain.parse(name), OURS, True)),
                Do("judged", Permission(refusal=refusal)), Out(answer), Says(refused(Domain.parse(name), refusal.ending)),
            ]
        self.told(*OPEN, *steps)

    def test_not_permitted(self) -> None:
        """R28: dialback is an error if the peer must authenticate by its certificate and has not done so."""
        inside = dialback_error("policy-violation", "peer.example may not authenticate by dialback here", "modify")
        answer = Out(result("ours.example", "peer.example", inside, "error"))
        self.told(*EXTERNAL, In(result("peer.example", "ours.example", "k")), answer, Says(refused(PEER, not_here(PEER))))

    def test_key_before_certificate(self) -> None:
        """R28: if dialback is allowed, the key is verified whatever the certificate proves, also for a further domain."""
        asked = In(result("peer.example", "ours.example", "k"))
        self.told(*BOTH, asked, Says(DialbackNeeded(PAIR, "k", "s2")))
        asked = In(result("other.example", "ours.example", "k"))
        self.told(
            *OPEN, asked, Says(JudgementNeeded(OTHER, OURS, True)), Do("judged", PERMIT_BOTH), Says(DialbackNeeded(pair(OTHER), "k", "s3")),
        )

    def test_certified_beside_a_key(self) -> None:
        """R28: on a stream that has not authenticated by SASL, the certificate is not sufficient for a further domain."""
        inside = dialback_error("policy-violation", "other.example may not authenticate by dialback here", "modify")
        self.told(
            *PROVEN, In(result("other.example", "ours.example", "k")), Says(JudgementNeeded(OTHER, OURS, True)),
            Do("judged", PERMIT_EXTERNAL), Out(result("ours.example", "other.example", inside, "error")), Says(refused(OTHER, not_here(OTHER))),
        )

    def test_certified_beside_another(self) -> None:
        """R28: if keys are not sufficient, a peer may add all domains of its certificate to a stream authenticated by SASL. A domain that
        is not in the certificate is refused.
        """
        other, third = pair(OTHER), Domain.parse("third.example")
        inside = dialback_error("policy-violation", "third.example may not authenticate by dialback here", "modify")
        self.told(
            *EXTERNAL, In(auth()), Out(SUCCESS), Says(PairProven(PAIR, "EXTERNAL")), In(ASK),
            Out(header(from_="ours.example", to="peer.example", id="s3") + features(ERRORS_FEATURE, LIMITS_FEATURE)),
            In(result("other.example", "ours.example", "k")), Says(JudgementNeeded(OTHER, OURS, True)),
            Do("judged", PERMIT_EXTERNAL), Out(result("ours.example", "other.example", type="valid")),
            Says(PairProven(other, "certificate")), In(message("mercutio@other.example") + message()),
            Says(Stanzas(other, (message("mercutio@other.example"),)), Stanzas(PAIR, (message(),))),
            In(result("third.example", "ours.example", "k")), Says(JudgementNeeded(third, OURS, True)),
            Do("judged", Permission()), Out(result("ours.example", "third.example", inside, "error")), Says(refused(third, not_here(third))),
        )

    def test_again(self) -> None:
        """A proven pair stays proven. A repeated question is answered once."""
        asked = In(result("peer.example", "ours.example", "k"))
        valid = Out(result("ours.example", "peer.example", type="valid"))
        self.told(*PROVEN, asked, valid)
        self.told(*ASKED, asked, *PROVEN[-3:])
        twice = In(result("other.example", "ours.example", "k") * 2)
        self.told(
            *OPEN, twice, Says(JudgementNeeded(OTHER, OURS, True)), Do("judged", PERMIT_DIALBACK), Says(DialbackNeeded(pair(OTHER), "k", "s3")),
        )

    def test_bounded(self) -> None:
        """R28: the number of pairs on one stream is bounded."""
        self.patch(dialback_authorization, "PAIRS", 2)
        said = "more than 4096 domains, or 2 pairs, on one stream: open another one"
        text = dialback_error("resource-constraint", said, "wait")
        asked = [In(result("peer.example", "rooms.ours.example", "k")), Says(DialbackNeeded(pair(PEER, ROOMS), "k", "s2"))]
        answer = Out(result("ours.example", "other.example", text, "error"))
        self.told(*PROVEN, *asked, In(result("other.example", "ours.example", "k")), answer, Says(LimitHit("domains_per_stream"), refused(OTHER, Ending(Cause.TOO_MANY_CLAIMS, said))))

    def test_malformed(self) -> None:
        """R27: an element that is not a valid request ends the stream."""
        text = "<db:result/> answers a request that was not made on this stream"
        self.refused(OPEN, result("peer.example", "ours.example", type="valid"), "invalid-from", text, Cause.INVALID_FROM)
        text = "<db:verify/> answers a request that was not made on this stream"
        self.refused(OPEN, verify("peer.example", "ours.example", "i", type="valid"), "invalid-from", text, Cause.INVALID_FROM)
        self.refused(OPEN, result("peer.example", "ours.example"), "bad-format", "<db:result/> without a key", Cause.BAD_XML)

    def test_answers_unasked(self) -> None:
        """An answer of the shell without a question raises `LocalFault`."""
        engine = stream()
        self._play(engine, lambda data: [data], ASKED)
        self.assertRaises(LocalFault, engine.judged, PERMIT_BOTH)
        self.assertRaises(LocalFault, engine.dialback_answered, pair(OTHER), DialbackOutcome("valid"))
        engine.dialback_answered(PAIR, DialbackOutcome("valid"))
        self.assertRaises(LocalFault, engine.dialback_answered, PAIR, DialbackOutcome("valid"))

    def test_verify(self) -> None:
        """R27: our keys are verified for our domains, on any stream. The answer contains nothing else."""
        key = KEYS.key(PEER, OURS, "there")
        for steps in (BOTH, DIALBACK, OPEN, PROVEN):
            self.told(*steps, In(verify("peer.example", "ours.example", "there", f"\n{key}\n")), Out(verify("ours.example", "peer.example", "there", type="valid")))
        for from_, to, id, given in (
            ("other.example", "ours.example", "there", key), ("peer.example", "ours.example", "here", key),
            ("peer.example", "ours.example", "there", key.upper()),
        ):
            self.told(*BOTH, In(verify(from_, to, id, given)), Out(verify(to, from_, id, type="invalid")))

    def test_verify_for_a_domain_that_was_given_up(self) -> None:
        """R27: a stream to it takes no claim for it, and answers for the keys of its last streams."""
        former = replace(self.options, serves=lambda domain: domain == ROOMS)
        key = KEYS.key(PEER, OURS, "there")
        claimed = In(result("peer.example", "ours.example", "k"))
        text = dialback_error("item-not-found", "ours.example is not served here")
        refused = Out(result("ours.example", "peer.example", text, "error"))
        asked = In(verify("peer.example", "ours.example", "there", key))
        self.told(*DIALBACK, claimed, refused, asked, Out(verify("ours.example", "peer.example", "there", type="valid")), options=former)

    def test_verify_for_others(self) -> None:
        """R27: for other domains the only answer is item-not-found, and the stream stays."""
        key = KEYS.key(PEER, ROOMS, "there")
        text = dialback_error("item-not-found", "rooms.ours.example is not served here")
        asked = In(verify("peer.example", "rooms.ours.example", "there", key))
        answer = Out(verify("rooms.ours.example", "peer.example", "there", text, "error"))
        self.told(*BOTH, asked, answer, asked, answer)


class WithoutTLSTests(ReceivingCase):
    """R1, R28: tests of dialback without TLS, if the policy permits it, and of the pre-1.0 streams of the backend leg."""

    options = NEVER
    opened: list[Step] = [
        In(ASK), Out(header(from_="ours.example", to="peer.example", id="s1") + features(ERRORS_FEATURE)), Says(ResolutionNeeded(PEER, OURS)),
    ]
    asking = In(result("peer.example", "ours.example", "k"))

    def test_dialback(self) -> None:
        """R28: the asserted peer is judged first, as unsecured."""
        self.told(
            *self.opened, Do("resolved", None), self.asking, Says(JudgementNeeded(PEER, OURS, False)), Do("judged", PERMIT_DIALBACK),
            Says(DialbackNeeded(PAIR, "k", "s1")), Do("dialback_answered", PAIR, DialbackOutcome("valid")),
            Out(result("ours.example", "peer.example", type="valid")), Says(PairProven(PAIR, "dialback")),
            In(message()), Says(Stanzas(PAIR, (message(),))),
        )

    def test_optional(self) -> None:
        """R28: the same holds if TLS is offered and not used. After dialback it is not offered any more (R7)."""
        self.told(
            In(ASK), Out(header(from_="ours.example", to="peer.example", id="s1") + features(STARTTLS, ERRORS_FEATURE)),
            Says(ResolutionNeeded(PEER, OURS)), Do("resolved", None), self.asking, Says(JudgementNeeded(PEER, OURS, False)),
            In(STARTTLS), Out(TLS_FAILURE + CLOSE), Says(End(Cause.PROTOCOL_ERROR)), options=OPTIONAL,
        )

    def test_refused(self) -> None:
        """R28: if the stream's own peer is refused, the stream ends."""
        self.told(
            *self.opened, Do("resolved", None), self.asking, Says(JudgementNeeded(PEER, OURS, False)),
            Do("judged", Permission(refusal=NOT_ALLOWED)), Out(error("policy-violation", "not you")),
            Says(End(Cause.NOT_ALLOWED, condition="policy-violation")),
        )

    def test_waits_for_resolution(self) -> None:
        """R2: dialback waits for the resolution, and so does all further input."""
        key = KEYS.key(PEER, OURS, "there")
        asked = In(result("peer.example", "ours.example", "k") + verify("peer.example", "ours.example", "there", key))
        self.told(
            *self.opened, asked, Do("resolved", None), Out(verify("ours.example", "peer.example", "there", type="valid")),
            Says(JudgementNeeded(PEER, OURS, False)),
        )
        self.told(
            *self.opened, asked, Do("resolved", UNRESOLVED), Out(error("remote-connection-failed", "no such domain")),
            Says(End(Cause.NO_SUCH_DOMAIN, condition="remote-connection-failed")),
        )

    def test_verify(self) -> None:
        """R27: keys are verified without TLS too, if the policy permits it."""
        asked = In(verify("peer.example", "ours.example", "there", KEYS.key(PEER, OURS, "there")))
        self.told(*self.opened, Do("resolved", None), asked, Out(verify("ours.example", "peer.example", "there", type="valid")))

    def test_pre_1_0(self) -> None:
        """R1: jabberd2's header without version, to and from is answered with an id and no features. The domains follow with db:result."""
        other = Pair(OTHER, OURS)
        self.told(
            In(HEAD + ">"), Out(HEAD + " id='s1'>"), In(result("peer.example", "ours.example", "k") + result("other.example", "ours.example", "k2")),
            Says(JudgementNeeded(PEER, OURS, False), JudgementNeeded(OTHER, OURS, False)),
            Do("judged", PERMIT_DIALBACK, PEER), Says(DialbackNeeded(PAIR, "k", "s1")), Do("judged", PERMIT_DIALBACK),
            Says(DialbackNeeded(other, "k2", "s1")), Do("dialback_answered", other, DialbackOutcome("valid")),
            Out(result("ours.example", "other.example", type="valid")), Says(PairProven(other, "dialback")),
            In(message("mercutio@other.example")), Says(Stanzas(other, (message("mercutio@other.example"),))), options=BACKEND,
        )

    def test_pre_1_0_refused(self) -> None:
        """R1: such a stream belongs to no peer, so a refusal is sent as an error."""
        inside = dialback_error("policy-violation", "not you", "modify")
        self.told(
            In(HEAD + ">"), Out(HEAD + " id='s1'>"), self.asking, Says(JudgementNeeded(PEER, OURS, False)),
            Do("judged", Permission(refusal=NOT_ALLOWED)), Out(result("ours.example", "peer.example", inside, "error")),
            Says(refused(PEER, NOT_ALLOWED.ending)), options=BACKEND,
        )

    def test_pre_1_0_with_names(self) -> None:
        """R1: a pre-1.0 header with names is checked like any other."""
        given = header(from_="peer.example", to="ours.example", version=None)
        self.told(In(given), Out(header(from_="ours.example", to="peer.example", id="s1", version=None)), options=BACKEND)
        text = "other.example is not served here"
        self.refused([], header(to="other.example", version=None), "host-unknown", text, Cause.HOST_UNKNOWN, options=BACKEND, opening=header(id="s1"))

    def test_pre_1_0_needs_no_tls(self) -> None:
        """R1: a stream without a version is refused if TLS is required."""
        options = replace(BACKEND, tls=lambda peer: "required")
        text = "TLS is required here; a stream without version has none"
        self.refused([], HEAD + ">", "policy-violation", text, Cause.ENCRYPTION_REQUIRED, options=options, opening=HEAD + " id='s1'>")

    def test_nameless_behind_tls(self) -> None:
        """R1, R14: on the backend leg `from` may be absent behind TLS too, with and without a version."""
        options = replace(BACKEND, direct_tls=True)
        self.told(
            Do("tls_established"), In(header(to="ours.example")),
            Out(header(from_="ours.example", id="s1") + features(ERRORS_FEATURE, LIMITS_FEATURE)),
            self.asking, Says(JudgementNeeded(PEER, OURS, True)), options=options,
        )
        self.told(
            Do("tls_established"), In(HEAD + ">"), Out(HEAD + " id='s1'>"), self.asking, Says(JudgementNeeded(PEER, OURS, True)), options=options,
        )


#: steps to each phase
PHASES: dict[str, list[Step]] = {
    "Plain": PLAIN,
    "Authenticating": BOTH,
    "Exchanging": [*BOTH, In(auth("")), Out(f"<challenge {SASL}/>")],
    "Conversing": OPEN,
}
#: phases whose next input is bytes of another kind, a header, or nothing until an answer
OTHER_PHASES: dict[str, list[Step]] = {
    "AwaitHeader": [],
    "PreparingTLS": PREPARING,
    "ResolvingForTLS": [*PLAIN, In(STARTTLS)],
    "Handshaking": TO_TLS[:-1],
    "AwaitSecuredHeader": TO_TLS,
    "Judging": SECURED,
    "AwaitAuthenticatedHeader": AUTHENTICATED,
}
INPUTS = {
    "starttls": STARTTLS,
    "proceed": PROCEED,
    "features": features(),
    "auth": auth(),
    "response": f"<response {SASL}>=</response>",
    "abort": f"<abort {SASL}/>",
    "challenge": f"<challenge {SASL}/>",
    "result": result("peer.example", "ours.example", "k"),
    "verify": verify("peer.example", "ours.example", "i", "k"),
    "unknown": "<x xmlns='y'/>",
}
#: the inputs that each phase accepts; all others are refused
KNOWN = {
    "Plain": {"starttls", "auth", "result", "verify"},
    "Authenticating": {"auth", "result", "verify"},
    "Exchanging": {"response", "abort"},
    "Conversing": {"result", "verify"},
}


class RefusalTests(ReceivingCase):
    """Each phase refuses the inputs that it does not accept."""

    def test_second_header(self) -> None:
        """A framer gives one header per stream. No phase would accept a second one."""
        second = Header("ours.example", "peer.example", None, "1.0")
        for phase, steps in PHASES.items():
            engine = self.at(phase, steps)
            self._compare(engine.step(engine.phase.header, second), (End(Cause.PROTOCOL_ERROR, condition="unsupported-stanza-type"),))

    def at(self, phase: str, steps: list[Step]) -> ReceivingStream:
        engine = stream()
        self._play(engine, lambda data: [data], steps)
        self.assertEqual(type(engine.phase).__name__, phase)
        return engine

    def test_every_pair(self) -> None:
        """R7, R30: each input that a phase does not accept ends the stream; STARTTLS gets its own answer."""
        for phase, steps in PHASES.items():
            for name in INPUTS.keys() - KNOWN[phase]:
                engine = self.at(phase, steps)
                ended = engine.receive(INPUTS[name].encode())
                if name == "starttls":
                    self._compare(ended, (End(Cause.PROTOCOL_ERROR),))
                    self.assertEqual(engine.data_to_send().decode(), TLS_FAILURE + CLOSE)
                else:
                    self._compare(ended, (End(Cause.PROTOCOL_ERROR, condition="unsupported-stanza-type"),))
                    self.assertIn(b"<stream:error><unsupported-stanza-type ", engine.data_to_send())

    def test_stanzas(self) -> None:
        """R29: a stanza outside the proven pairs gets `<invalid-from/>` in every phase."""
        for phase, steps in PHASES.items():
            ended = self.at(phase, steps).receive(message("x@other.example").encode())
            self._compare(ended, (End(Cause.INVALID_FROM, condition="invalid-from"),))

    def test_unasked(self) -> None:
        """An answer of the shell that a phase does not expect raises `LocalFault`."""
        allowed = {
            "Plain": {"resolved"}, "ResolvingForTLS": {"resolved"}, "Judging": {"judged"},
            "PreparingTLS": {"tls_ready", "tls_unavailable"}, "Handshaking": {"tls_established"},
        }
        for phase, steps in {**PHASES, **OTHER_PHASES}.items():
            for method, arguments in (
                ("resolved", (None,)), ("judged", (PERMIT_BOTH,)), ("tls_ready", ()), ("tls_unavailable", (Ending(Cause.INTERNAL),)),
                ("tls_established", ()),
                ("dialback_answered", (PAIR, DialbackOutcome("valid"))),
            ):
                if method not in allowed.get(phase, ()):
                    self.assertRaises(LocalFault, getattr(self.at(phase, steps), method), *arguments)

    def test_ended_anywhere(self) -> None:
        """R15: the shell may end a stream in any phase: with a closing tag, or without one during the handshake."""
        for phase, steps in {**PHASES, **OTHER_PHASES}.items():
            engine = self.at(phase, steps)
            self._compare(engine.close(Ending(Cause.IDLE)), (End(Cause.IDLE),))
            unopened = phase in ("AwaitHeader", "Handshaking", "AwaitSecuredHeader", "AwaitAuthenticatedHeader")
            self.assertEqual(engine.data_to_send(), b"" if unopened else CLOSE.encode())
            engine = self.at(phase, steps)
            condition = None if phase == "Handshaking" else "policy-violation"
            self._compare(engine.fail(NOT_ALLOWED), (End(Cause.NOT_ALLOWED, condition=condition),))
            self.assertEqual(engine.data_to_send().endswith(error("policy-violation", "not you").encode()), phase != "Handshaking")
