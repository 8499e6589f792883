"""R26: tests of secrets shared with peers: their files, the proofs that they replace, and their binding to TLS."""

from __future__ import annotations

import itertools
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from s2sgw.authentication.judge import permission
from s2sgw.authentication.refusals import refusal
from s2sgw.authentication.shared_secrets import SharedSecrets
from s2sgw.policy.model import PeerObject
from s2sgw.policy.peers import PeerPolicies
from s2sgw.policy.verdict import Verdict
from s2sgw.s2s.federation_initiating import FederationInitiating
from s2sgw.stream.dialback import DialbackKeys
from s2sgw.stream.events import JudgementNeeded, PairProven, Permission
from s2sgw.stream.initiating import InitiatingOptions, InitiatingStream
from s2sgw.stream.receiving import ReceivingOptions, ReceivingStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.mechanisms import MECHANISMS, Mechanism
from tests.support.secret_files import SecretTestCase
from tests.support.wires import LOCAL, Ends

PEER, OTHER = Domain.parse("peer.example"), Domain.parse("other.example")
SECURED: Any = SimpleNamespace(secured=SimpleNamespace(exporter=b"x" * 32))
PLAIN: Any = SimpleNamespace(secured=None)


class Connection:
    """The part of a connection that a leg uses."""

    secured = SECURED.secured


class SharedSecretsTests(SecretTestCase):
    """R26: tests of which peers have a secret, and what it proves."""

    def setUp(self) -> None:
        super().setUp()
        self.secrets = SharedSecrets(PeerPolicies({"peer.example": PeerObject(secret_file=self.path)}))

    def granted(self, verdict: Verdict, peer: Domain = PEER, connection: Any = SECURED) -> Permission:
        return self.secrets.granted(permission(verdict, None if verdict.ending is None else refusal(verdict.ending)), verdict, peer, connection)

    def test_beside_other_ways(self) -> None:
        """R26: with a sound certificate it is one more method. Without TLS, or for a peer without a secret, it is none."""
        sound = Verdict(external=True, secret=True)
        granted = self.granted(sound)
        assert granted.secret is not None
        self.assertEqual((granted.external, granted.mutual, granted.secret.binding), (True, False, b"x" * 32))
        self.assertNotEqual(granted.secret.nonce(), granted.secret.nonce())
        self.assertIsNone(self.granted(sound, OTHER).secret)
        self.assertIsNone(self.granted(sound, connection=PLAIN).secret)

    def test_in_place_of_a_certificate(self) -> None:
        """R26: if nothing else proves the peer, the secret must, and it is used only if the verdict says so."""
        alone = Verdict(proven_by="secret", secret=True)
        for given, secret in ((self.granted(alone), True), (self.granted(alone, OTHER), False), (self.granted(alone, connection=PLAIN), False)):
            self.assertEqual((given.refusal, given.mutual, given.external, given.secret is not None), (None, True, False, secret))
        refused = self.granted(Verdict(ending=Ending(Cause.REVOKED)))
        self.assertEqual((refused.secret, refused.mutual, refused.refusal is None), (None, False, False))

    def test_reconsidered(self) -> None:
        """R26: a stream that the secret has proven stays if the policy still has it."""
        for verdict, peer, stays in ((Verdict(secret=True), PEER, True), (Verdict(secret=True), OTHER, False), (Verdict(), PEER, False)):
            self.assertEqual(self.secrets.suffices(verdict, peer, "SCRAM-SHA-1"), stays)
        self.assertFalse(self.secrets.suffices(Verdict(secret=True), PEER, "DIGEST-MD5"))

    def test_mechanisms(self) -> None:
        """The policy names the mechanisms. If none of them binds to TLS, none of that kind is offered, and no binding is computed."""
        cases: tuple[tuple[tuple[Mechanism, ...], bool], ...] = (
            (("SCRAM-SHA-1-PLUS", "DIGEST-MD5"), True), (("EXTERNAL", "SCRAM-SHA-256"), False),
        )
        for names, bound in cases:
            self.secrets = SharedSecrets(PeerPolicies({"peer.example": PeerObject(secret_file=self.path, sasl=names)}))
            granted = self.granted(Verdict(external=True, secret=True))
            assert granted.secret is not None
            self.assertEqual((granted.mechanisms, granted.secret.binding is not None), (names, bound))
        self.assertEqual(self.granted(Verdict(external=True), OTHER).mechanisms, MECHANISMS)

    def test_outbound(self) -> None:
        """R26: a stream of ours stays if the secret alone proves the peer by the current policy and was required at its start."""
        alone = Verdict(proven_by="secret", secret=True, reasons=("no certificate",))

        async def answer(*given: object) -> Verdict:
            return alone

        judge: Any = SimpleNamespace(verdict=answer, opinion=answer, permission=lambda verdict, *_: permission(verdict, None))
        none: Any = None
        side = FederationInitiating(PeerPolicies({"peer.example": PeerObject(secret_file=self.path)}), none, judge, none, none, none, none, none, none)
        connection: Any = Connection()
        asked = partial(side.reconsider, connection, Pair(OTHER, PEER), none)
        refusal = self.successResultOf(Deferred.fromCoroutine(asked()))
        assert refusal is not None
        self.assertEqual(refusal.ending.cause, Cause.NOT_PROVEN)
        judged = side.judge(connection, JudgementNeeded(PEER, OTHER, True), none)
        granted, reasons = self.successResultOf(Deferred.fromCoroutine(judged))
        self.assertEqual((granted.mutual, granted.bidi, reasons[0]), (True, True, "proven by secret"))
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(asked())))

    def test_read_again(self) -> None:
        """R26: a changed file is a new secret. A file that cannot be read is reported by its name only, and counts as no secret."""
        first = self.secrets.of(PEER)
        self.assertIs(self.secrets.of(PEER), first)
        self.path.write_text("battery staple\n")
        os.utime(self.path, ns=(1, 1))
        second = self.secrets.of(PEER)
        self.assertIsNot(second, first)
        self.path.write_text("")
        told: list[Any] = []
        observer: Any = told.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.assertIsNone(self.secrets.of(PEER))
        self.assertEqual([event["event"] for event in told], ["a secret cannot be read"])
        self.assertNotIn("staple", str(told))


class WholeTests(SecretTestCase):
    """R26: tests of both engines and adapters with real TLS, between two servers whose certificates prove nothing."""

    def engines(self, theirs: str) -> tuple[Any, Any]:
        keys, numbers = DialbackKeys(b"x"), itertools.count()
        receiving = ReceivingStream(
            ReceivingOptions(keys=keys, serves=LOCAL.__eq__, answers_verify=LOCAL.__eq__, resolve=False), lambda: f"id{next(numbers)}",
        )
        self.path.write_text(theirs)
        return InitiatingStream(InitiatingOptions(local=PEER, peer=LOCAL, keys=keys)), receiving

    def conversed(self, theirs: str) -> tuple[list[Any], list[Ending]]:
        """Return the result of both ends: the proven pairs, and the ending of the initiating stream, if any."""
        initiating, receiving = self.engines(theirs)
        ends = Ends(engines=(receiving, initiating))
        other = Path(self.mktemp())
        other.write_text("correct horse")
        other.chmod(0o600)
        sides = (
            (ends.server, ends.server_owner, receiving, SharedSecrets(PeerPolicies({"peer.example": PeerObject(secret_file=self.path)})), PEER),
            (ends.client, ends.client_owner, initiating, SharedSecrets(PeerPolicies({"example.org": PeerObject(secret_file=other)})), LOCAL),
        )
        unproven = Verdict(proven_by="secret", secret=True)

        def answer(connection: Any, engine: Any, secrets: SharedSecrets, peer: Domain, link: Any, event: Any) -> None:
            if isinstance(event, JudgementNeeded):
                connection.step(engine.judged, secrets.granted(permission(unproven, None), unproven, peer, connection))

        for connection, owner, engine, secrets, peer in sides:
            owner.on_event = partial(answer, connection, engine, secrets, peer)
        ends.client.step(initiating.begin)
        ends.pump.flush()
        owners = (ends.server_owner, ends.client_owner)
        return [event for owner in owners for event in owner.events if isinstance(event, PairProven)], ends.client_owner.endings

    def test_same_secret(self) -> None:
        """R26: each side is proven to the other, bound to their TLS."""
        proven = PairProven(Pair(PEER, LOCAL), "SCRAM-SHA-256-PLUS")
        self.assertEqual(self.conversed("correct horse\n"), ([proven, proven], []))

    def test_another_secret(self) -> None:
        """R26: with another secret neither side is proven, and no weaker mechanism is tried."""
        proven, (ending,) = self.conversed("battery staple\n")
        self.assertEqual((proven, ending.cause), ([], Cause.SASL_FAILED))
