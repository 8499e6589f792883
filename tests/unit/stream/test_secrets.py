"""R26: tests of authentication by a shared secret (SCRAM) in both roles, and of the announced channel bindings (XEP-0440)."""

from __future__ import annotations

import base64
import itertools

from s2sgw.sasl.digest_md5 import DigestClient, DigestServer
from s2sgw.sasl.scram import VARIANTS, ScramClient, ScramServer
from s2sgw.sasl.scram_secret import SharedSecret, StreamSecret
from s2sgw.stream.events import JudgementNeeded, PairProven, Permission
from s2sgw.stream.initiating import InitiatingStream
from s2sgw.stream.receiving import ReceivingStream
from s2sgw.stream.sasl import Means, choose
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.mechanisms import Mechanism
from tests.support.transcripts import (
    ERRORS_FEATURE,
    EXTERNAL_FEATURE,
    LIMITS_FEATURE,
    OURS,
    PAIR,
    PEER,
    SASL,
    Do,
    End,
    In,
    Out,
    Says,
    Step,
    TranscriptCase,
    auth,
    error,
    features,
    header,
    sasl_failure,
)
from tests.unit.stream import test_initiating as initiating
from tests.unit.stream import test_receiving as receiving

SECRET = SharedSecret("correct horse", b"salt", 4096)
BOUND = StreamSecret(SECRET, lambda: "receiving", b"x" * 32)
UNBOUND = StreamSecret(SECRET, lambda: "receiving")
THEIRS = StreamSecret(SECRET, lambda: "initiating", b"x" * 32)
PLUS, PLUS_1, PLAIN, PLAIN_1 = VARIANTS
NAMES = tuple(variant.name for variant in VARIANTS)
TYPES = "<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'><channel-binding type='tls-exporter'/></sasl-channel-binding>"


def mechanisms(*names: str) -> str:
    return f"<mechanisms {SASL}>" + "".join(f"<mechanism>{name}</mechanism>" for name in names) + "</mechanisms>"


def said(name: str, message: bytes | None) -> str:
    """Return a SASL element with that message."""
    assert message is not None
    text = base64.b64encode(message).decode()
    return f"<{name} {SASL}>{text}</{name}>" if text else f"<{name} {SASL}/>"


class Exchange:
    """The messages of one exchange, as both sides write them. `secret` is the initiating side's."""

    def __init__(self, variant: object = PLUS, secret: StreamSecret = THEIRS, server: StreamSecret = BOUND, client: object = PEER) -> None:
        mine = ScramClient(variant, client, secret, NAMES)  # type: ignore[arg-type]
        theirs = ScramServer(variant, client, server)  # type: ignore[arg-type]
        self.first = mine.start()
        self.challenge = theirs.step(self.first)
        self.response = mine.respond(self.challenge)
        if secret.secret is SECRET:
            theirs.step(self.response)
        self.conclusion = theirs.conclusion


PERMITTED = Permission(secret=BOUND)
OFFERED = receiving.judged(PERMITTED, mechanisms(*NAMES), TYPES, LIMITS_FEATURE)
WELL = Exchange()
ASKED: list[Step] = [
    *OFFERED, In(auth(base64.b64encode(WELL.first).decode(), "SCRAM-SHA-256-PLUS")), Out(said("challenge", WELL.challenge)),
]


class ReceivingSecretTests(TranscriptCase):
    """R26: tests of a peer that has the secret."""

    def told(self, *steps: Step) -> ReceivingStream:
        engine = self.play(receiving.stream, *steps)
        assert isinstance(engine, ReceivingStream)
        return engine

    def test_proven(self) -> None:
        """R26: the pair is proven by the mechanism, and `<success/>` proves our side."""
        self.told(
            *ASKED, In(said("response", WELL.response)), Out(said("success", WELL.conclusion)),
            Says(PairProven(PAIR, "SCRAM-SHA-256-PLUS")), In(receiving.ASK),
            Out(header(from_="ours.example", to="peer.example", id="s3") + features(LIMITS_FEATURE)),
        )

    def test_empty_first(self) -> None:
        """R26: without an initial response it is requested."""
        self.told(
            *OFFERED, In(auth("", "SCRAM-SHA-256-PLUS")), Out(f"<challenge {SASL}/>"), In(said("response", WELL.first)),
            Out(said("challenge", WELL.challenge)),
        )

    def test_wrong_secret(self) -> None:
        """R26: another secret proves nothing. Another mechanism may follow."""
        wrong = Exchange(secret=StreamSecret(SharedSecret("wrong", b"salt", 4096), THEIRS.nonce, THEIRS.binding))
        self.told(
            *OFFERED, In(auth(base64.b64encode(wrong.first).decode(), "SCRAM-SHA-256-PLUS")), Out(said("challenge", wrong.challenge)),
            In(said("response", wrong.response)), Out(sasl_failure("not-authorized", "the proof is not of this secret")),
            In(auth(base64.b64encode(WELL.first).decode(), "SCRAM-SHA-256-PLUS")), Out(said("challenge", WELL.challenge)),
        )

    def test_offers(self) -> None:
        """R26, docs/decisions.md#external: SCRAM is offered beside EXTERNAL and dialback if those would succeed. -PLUS and its types are
        offered only if TLS can be bound to.
        """
        self.told(*receiving.judged(
            Permission(external=True, dialback=True, secret=UNBOUND), mechanisms("EXTERNAL", "SCRAM-SHA-256", "SCRAM-SHA-1"),
            ERRORS_FEATURE, LIMITS_FEATURE,
        ))
        self.told(
            *receiving.judged(Permission(secret=UNBOUND), mechanisms("SCRAM-SHA-256", "SCRAM-SHA-1"), LIMITS_FEATURE),
            In(auth(base64.b64encode(WELL.first).decode(), "SCRAM-SHA-256-PLUS")),
            Out(sasl_failure("invalid-mechanism", "the mechanism is not offered")),
        )

    def test_order(self) -> None:
        """The policy sets which mechanisms are offered, and in which order. Others are not accepted."""
        permission = Permission(external=True, secret=UNBOUND, mechanisms=("SCRAM-SHA-1", "EXTERNAL"))
        self.told(
            *receiving.judged(permission, mechanisms("SCRAM-SHA-1", "EXTERNAL"), LIMITS_FEATURE), In(auth("", "SCRAM-SHA-256")),
            Out(sasl_failure("invalid-mechanism", "the mechanism is not offered")),
        )


LEGACY_LAST: tuple[Mechanism, ...] = ("DIGEST-MD5", "EXTERNAL", "SCRAM-SHA-1")


class LegacyTests(TranscriptCase):
    """R26: tests of DIGEST-MD5, if the policy for a peer names it."""

    def test_receiving(self) -> None:
        """R26: it is offered last. The peer proves itself, and so do we, before `<success/>`."""
        server = DigestServer(PEER, "correct horse", OURS, "receiving")
        client = DigestClient("peer.example", "correct horse", "ours.example", "xmpp/ours.example", "cnonce")
        challenge = server.step(None)
        response = client.respond(challenge)
        offered = mechanisms("EXTERNAL", "SCRAM-SHA-1", "DIGEST-MD5")
        self.play(
            receiving.stream,
            *receiving.judged(Permission(external=True, secret=UNBOUND, mechanisms=LEGACY_LAST), offered, LIMITS_FEATURE),
            In(auth("", "DIGEST-MD5")), Out(said("challenge", challenge)), In(said("response", response)),
            Out(said("challenge", server.step(response))), In(f"<response {SASL}/>"), Out(f"<success {SASL}/>"),
            Says(PairProven(PAIR, "DIGEST-MD5")),
        )

    def test_wrong_secret(self) -> None:
        """R26: another secret proves nothing, and the next exchange has a new nonce."""
        numbers = itertools.count()
        secret = StreamSecret(SECRET, lambda: f"n{next(numbers)}")
        client = DigestClient("peer.example", "wrong", "ours.example", "xmpp/ours.example", "cnonce")
        engine = receiving.stream()
        self._play(engine, lambda data: [data], receiving.SECURED)
        engine.judged(Permission(secret=secret, mechanisms=("DIGEST-MD5",)))
        for number in range(2):
            engine.data_to_send()
            engine.receive(auth("", "DIGEST-MD5").encode())
            challenge = base64.b64decode(engine.data_to_send().split(b">")[1].split(b"<")[0])
            self.assertIn(f'nonce="n{number}"'.encode(), challenge)
            engine.receive(said("response", client.respond(challenge) if number == 0 else b"x").encode())
            self.assertIn((b"<not-authorized", b"<malformed-request")[number], engine.data_to_send())

    def test_off(self) -> None:
        """R26, R38: it is neither offered, accepted nor requested if the policy does not name it, or there is no secret."""
        for permission, offered in (
            (Permission(secret=UNBOUND), mechanisms("SCRAM-SHA-256", "SCRAM-SHA-1")),
            (Permission(external=True, mechanisms=LEGACY_LAST), mechanisms("EXTERNAL")),
        ):
            self.play(
                receiving.stream, *receiving.judged(permission, offered, LIMITS_FEATURE), In(auth("", "DIGEST-MD5")),
                Out(sasl_failure("invalid-mechanism", "the mechanism is not offered")),
            )

    def test_initiating(self) -> None:
        """R26: it is requested if nothing better is offered and the peer is proven. A success without proof counts as failure."""
        permission = Permission(secret=StreamSecret(SECRET, lambda: "cnonce"), mechanisms=LEGACY_LAST)
        server = DigestServer(OURS, "correct horse", PEER, "nonce")
        client = DigestClient("ours.example", "correct horse", "peer.example", "xmpp/peer.example", "cnonce")
        challenge = server.step(None)
        response = client.respond(challenge)
        begun = [
            *judged(permission), answered(mechanisms("DIGEST-MD5", "PLAIN")), Out(f"<auth {SASL} mechanism='DIGEST-MD5'/>"), In(said("challenge", challenge)),
            Out(said("response", response)),
        ]
        proven = [initiating.answered("r3", LIMITS_FEATURE), Says(PairProven(initiating.OUTBOUND, "DIGEST-MD5"))]
        proof = server.step(response)
        for late in (True, False):
            ends = [In(said("success", proof))] if late else [In(said("challenge", proof)), Out(f"<response {SASL}>=</response>"), In(f"<success {SASL}/>")]
            self.play(lambda: InitiatingStream(initiating.FEDERATION), *begun, *ends, Out(initiating.ASK), *proven)
        text = "DIGEST-MD5: the other side does not prove that it knows the secret"
        end = [Out(error("not-authorized", text)), Says(End(Cause.SASL_FAILED, condition="not-authorized"))]
        self.play(lambda: InitiatingStream(initiating.FEDERATION), *begun, In(f"<success {SASL}/>"), *end)


def answered(*rows: str) -> In:
    return initiating.answered("r2", *rows)


def judged(permission: Permission) -> list[Step]:
    return [*initiating.JUDGING, Do("judged", permission), Out(initiating.ASK)]


MINE = Exchange(client=OURS)
MUTUAL = judged(Permission(secret=THEIRS, mutual=True))
SENT: list[Step] = [
    *MUTUAL, answered(mechanisms("EXTERNAL", *NAMES), TYPES, ERRORS_FEATURE),
    Out(auth(base64.b64encode(MINE.first).decode(), "SCRAM-SHA-256-PLUS")), In(said("challenge", MINE.challenge)),
    Out(said("response", MINE.response)),
]


class InitiatingSecretTests(TranscriptCase):
    """R26: tests of both sides having the secret, with us as the initiating side."""

    def told(self, *steps: Step, **more: object) -> InitiatingStream:
        engine = self.play(lambda: InitiatingStream(more.get("options", initiating.FEDERATION)), *steps)  # type: ignore[arg-type]
        assert isinstance(engine, InitiatingStream)
        return engine

    def test_proven(self) -> None:
        """R26: the best mechanism is used. Its success proves the peer."""
        self.told(
            *SENT, In(said("success", MINE.conclusion)), Out(initiating.ASK), initiating.answered("r3", LIMITS_FEATURE),
            Says(PairProven(initiating.OUTBOUND, "SCRAM-SHA-256-PLUS")),
        )

    def test_external_first(self) -> None:
        """R24, R26: if our certificate is accepted and the peer is proven, EXTERNAL comes first."""
        self.told(
            *judged(Permission(secret=THEIRS)), answered(mechanisms("SCRAM-SHA-1-PLUS", "EXTERNAL")), Out(initiating.AUTH),
            In(sasl_failure("not-authorized", "no")),
            Out(auth(base64.b64encode(Exchange(PLUS_1, client=OURS).first).decode(), "SCRAM-SHA-1-PLUS")),
        )

    def test_impostor(self) -> None:
        """R26: a peer that does not prove that it has the secret is not the requested one, whatever it says."""
        end = Says(End(Cause.SASL_FAILED, condition="not-authorized"))
        text = "SCRAM-SHA-256-PLUS: the other side has not proven that it has the secret"
        self.told(*SENT, In(f"<success {SASL}/>"), Out(error("not-authorized", text)), end)
        text = "SCRAM-SHA-256-PLUS: the other side's proof is not of this secret"
        self.told(*SENT, In(said("success", b"v=" + base64.b64encode(b"x" * 32))), Out(error("not-authorized", text)), end)
        bad = Says(End(Cause.BAD_XML, condition="bad-format"))
        text = "<success/>: the message is not encoded in canonical base64"
        self.told(*SENT, In(f"<success {SASL}>!</success>"), Out(error("bad-format", text)), bad)

    def test_abort(self) -> None:
        """R25, R26: an impossible challenge is answered with `<abort/>`, and dialback follows if it is permitted."""
        weak = In(said("challenge", b"r=initiatingmore,s=c2FsdA==,i=1"))
        why = "SCRAM-SHA-256-PLUS: 1 iterations are asked for; from 4096 to 100000 are made here"
        failure = In(sasl_failure("aborted", "as asked"))
        first = Out(auth(base64.b64encode(MINE.first).decode(), "SCRAM-SHA-256-PLUS"))
        offered = answered(mechanisms("SCRAM-SHA-256-PLUS"), ERRORS_FEATURE)
        begun = [offered, first, weak, Out(f"<abort {SASL}/>")]
        self.told(*MUTUAL, *begun, failure, Out("</stream:stream>"), Says(End(Cause.SASL_FAILED, detail=why)))
        self.told(*judged(Permission(secret=THEIRS)), *begun, failure, initiating.asking("r2"))
        for more in (weak, In(f"<success {SASL}/>")):
            name = "challenge" if more is weak else "success"
            text = f"<{name} xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/> is not expected here"
            end = Says(End(Cause.PROTOCOL_ERROR, condition="unsupported-stanza-type"))
            self.told(*MUTUAL, *begun, more, Out(error("unsupported-stanza-type", text)), end)

    def test_nothing_else_proves_the_peer(self) -> None:
        """R26: EXTERNAL, dialback and mechanisms that can be relayed are not used with a peer that is not proven otherwise."""
        text = "peer.example offers no mechanism that proves it to us"
        refused = [Out(error("not-authorized", text)), Says(End(Cause.NOT_PROVEN, condition="not-authorized"))]
        for rows in ((EXTERNAL_FEATURE, ERRORS_FEATURE), (mechanisms("SCRAM-SHA-256"), ERRORS_FEATURE), (ERRORS_FEATURE,)):
            self.told(*MUTUAL, answered(*rows), *refused)
        self.told(*judged(Permission(secret=UNBOUND, mutual=True)), answered(mechanisms(*NAMES)), *refused)
        self.told(
            *MUTUAL, answered(mechanisms("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"), ERRORS_FEATURE),
            Out(auth(base64.b64encode(MINE.first).decode(), "SCRAM-SHA-256-PLUS")), In(sasl_failure("not-authorized", "no")),
            Out("</stream:stream>"), Says(End(Cause.SASL_FAILED, "them", detail="SCRAM-SHA-256-PLUS: not-authorized: no")),
        )

    def test_without_tls(self) -> None:
        """R26: nothing is sent without TLS either."""
        text = "peer.example offers no mechanism that proves it to us"
        self.told(
            *initiating.BEGUN, initiating.answered("r1", ERRORS_FEATURE), Says(JudgementNeeded(PEER, OURS, False)),
            Do("judged", Permission(mutual=True)), Out(error("not-authorized", text)),
            Says(End(Cause.NOT_PROVEN, condition="not-authorized")), options=initiating.OPTIONAL,
        )


class ChoiceTests(TranscriptCase):
    """R26: tests of the choice among the offered mechanisms."""

    def test_policy(self) -> None:
        """The policy sets the order. Of the mechanisms that need the secret one is used. A bound one that the policy excludes does not delay it."""
        both = (*NAMES, "EXTERNAL", "DIGEST-MD5")
        for allowed, chosen in (
            (("EXTERNAL",), []), (("SCRAM-SHA-1", "SCRAM-SHA-256"), ["SCRAM-SHA-1"]), (("SCRAM-SHA-1", "SCRAM-SHA-1-PLUS"), ["SCRAM-SHA-1-PLUS"]),
            (("DIGEST-MD5", "SCRAM-SHA-1"), ["SCRAM-SHA-1"]), (("DIGEST-MD5",), ["DIGEST-MD5"]), ((), []),
        ):
            self.assertEqual(self.chosen(both, mechanisms=allowed, peer=PEER), chosen)
        means = Means(OURS, True, THEIRS, offered=both, mechanisms=("SCRAM-SHA-256", "EXTERNAL"), peer=PEER)
        self.assertEqual([mechanism.name for mechanism in choose(means)], ["SCRAM-SHA-256", "EXTERNAL"])

    def test_legacy(self) -> None:
        """R26: DIGEST-MD5 can be relayed, so the peer must be proven otherwise. Without a secret it is not used."""
        allowed = ("EXTERNAL", "SCRAM-SHA-256-PLUS", "DIGEST-MD5")
        self.assertEqual(self.chosen(("DIGEST-MD5",), mechanisms=allowed, peer=PEER), ["DIGEST-MD5"])
        self.assertEqual(self.chosen(("DIGEST-MD5",), mechanisms=allowed, peer=PEER, mutual=True), [])
        self.assertEqual(self.chosen(("DIGEST-MD5",), None, mechanisms=allowed, peer=PEER), [])
        self.assertEqual(self.chosen(("DIGEST-MD5",), peer=PEER), [])

    def chosen(self, offered: tuple[str, ...], secret: StreamSecret | None = THEIRS, **more: object) -> list[str]:
        means = Means(OURS, False, secret, offered=offered, **more)  # type: ignore[arg-type]
        return [mechanism.name for mechanism in choose(means)]

    def test_best_first(self) -> None:
        """R26: one mechanism is used: bound before unbound, SHA-256 before SHA-1. One that can be relayed is used only if none is bound."""
        self.assertEqual(self.chosen(NAMES), ["SCRAM-SHA-256-PLUS"])
        self.assertEqual(self.chosen(("SCRAM-SHA-1-PLUS", "SCRAM-SHA-256")), ["SCRAM-SHA-1-PLUS"])
        self.assertEqual(self.chosen(("SCRAM-SHA-1", "SCRAM-SHA-256")), ["SCRAM-SHA-256"])
        self.assertEqual(self.chosen(NAMES, UNBOUND), ["SCRAM-SHA-256"])
        self.assertEqual(self.chosen(NAMES, None), [])

    def test_types(self) -> None:
        """XEP-0440: -PLUS is not used if the other side supports none of our types."""
        self.assertEqual(self.chosen(NAMES, bindings=("tls-exporter",)), ["SCRAM-SHA-256-PLUS"])
        self.assertEqual(self.chosen(NAMES, bindings=("tls-unique",)), ["SCRAM-SHA-256"])
