"""R26: secrets shared with peers: their files, what they stand in for, and what TLS they are bound to."""

from __future__ import annotations

import itertools
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.config import ConfigError, parse
from s2sgw.gateway.shared import WANTING, SharedSecrets
from s2sgw.net.secured import exporter
from s2sgw.policy.model import PeerObject
from s2sgw.policy.peers import Peers
from s2sgw.policy.secretfile import LARGEST, read_secret
from s2sgw.policy.verdict import Verdict
from s2sgw.stream.dialback import DialbackKeys
from s2sgw.stream.events import JudgementNeeded, PairProven, Permission, Refusal
from s2sgw.stream.initiating import InitiatingOptions, InitiatingStream
from s2sgw.stream.receiving import ReceivingOptions, ReceivingStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain, Pair
from tests.wires import LOCAL, Ends

PEER, OTHER = Domain.parse("peer.example"), Domain.parse("other.example")
SECURED: Any = SimpleNamespace(secured=SimpleNamespace(exporter=b"x" * 32))
PLAIN: Any = SimpleNamespace(secured=None)


class SecretTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_text("correct horse\n")


class FileTests(SecretTestCase):
    """A secret is the text of a file."""

    def test_read(self) -> None:
        """Without the line break at its end."""
        self.assertEqual(read_secret(self.path), "correct horse")

    def test_none(self) -> None:
        """What is empty, too long, no text, or of what a secret cannot have, is none."""
        for data in (b"\n", b"x" * (LARGEST + 1), b"\xff", b"a\x00b"):
            self.path.write_bytes(data)
            with self.assertRaises(ValueError):
                read_secret(self.path)

    def test_configured(self) -> None:
        """A file that cannot be used is told at the start."""
        text = f'[gateway]\ndomains = ["example.org"]\n[peers."peer.example"]\nsecret_file = "{self.path.name}"\n'
        self.path.write_bytes(b"")
        with self.assertRaises(ConfigError) as failed:
            parse(text, self.path.absolute().parent / "s2sgw.toml")
        self.assertIn("holds no secret: it is empty", str(failed.exception))


class SharedSecretsTests(SecretTestCase):
    """R26: who has one, and what it is good for."""

    def setUp(self) -> None:
        super().setUp()
        self.secrets = SharedSecrets(Peers({"peer.example": PeerObject(secret_file=self.path)}))

    def granted(self, cause: Cause | None, peer: Domain = PEER, connection: Any = SECURED) -> Permission:
        ending = None if cause is None else Ending(cause)
        refusal = None if ending is None else Refusal(StreamCondition.POLICY_VIOLATION, "no", ending)
        return self.secrets.granted(Permission(external=ending is None, refusal=refusal), Verdict(ending=ending), peer, connection)

    def test_beside_other_ways(self) -> None:
        """R26: with a sound certificate it is one more way; without TLS, or for a peer without secret, none."""
        granted = self.granted(None)
        assert granted.secret is not None
        self.assertEqual((granted.external, granted.mutual, granted.secret.binding), (True, False, b"x" * 32))
        self.assertNotEqual(granted.secret.nonce(), granted.secret.nonce())
        self.assertIsNone(self.granted(None, OTHER).secret)
        self.assertIsNone(self.granted(None, connection=PLAIN).secret)

    def test_in_place_of_a_certificate(self) -> None:
        """R26: it stands in for what is wanting in a certificate, and then must prove the peer; never for what is forbidden."""
        for cause in Cause:
            granted = self.granted(cause)
            if cause in WANTING:
                self.assertEqual((granted.refusal, granted.mutual, granted.external), (None, True, False))
            else:
                self.assertEqual((granted.secret, granted.refusal is None), (None, False))
        for cause in (Cause.REVOKED, Cause.DANE_MISMATCH, Cause.PIN_MISMATCH, Cause.KEY_REVOKED, Cause.NOT_ALLOWED, Cause.TLS_TOO_OLD):
            self.assertNotIn(cause, WANTING)

    def test_reconsidered(self) -> None:
        """R26: a stream that it has proven stays under a policy that still has it."""
        for cause, peer, stays in ((Cause.EXPIRED, PEER, True), (Cause.EXPIRED, OTHER, False), (Cause.REVOKED, PEER, False)):
            self.assertEqual(self.secrets.suffices(Verdict(ending=Ending(cause)), peer), stays)

    def test_read_again(self) -> None:
        """R26: a changed file is another secret; one that cannot be read is told, by name alone, and is none."""
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


class BindingTests(SynchronousTestCase):
    """RFC 9266: what both ends of one TLS can compute, and nobody else."""

    def test_the_same_on_both_ends(self) -> None:
        """R26: tls-exporter is the same on both ends, another on each connection, and shown nowhere."""
        values = []
        for _ in range(2):
            ends = Ends().start_tls()
            assert ends.server.secured is not None
            assert ends.client.secured is not None
            self.assertEqual(ends.server.secured.exporter, ends.client.secured.exporter)
            self.assertEqual(len(ends.server.secured.exporter or b""), 32)
            self.assertNotIn("exporter", repr(ends.server.secured))
            values.append(ends.server.secured.exporter)
        self.assertNotEqual(*values)

    def test_tls_1_2(self) -> None:
        """R26: none below TLS 1.3, where it cannot be told whether it is safe."""
        connection: Any = SimpleNamespace(get_protocol_version_name=lambda: "TLSv1.2")
        self.assertIsNone(exporter(connection))


class WholeTests(SecretTestCase):
    """R26: both engines, both adapters and real TLS between two servers whose certificates prove nothing."""

    def engines(self, theirs: str) -> tuple[Any, Any]:
        keys, numbers = DialbackKeys(b"x"), itertools.count()
        receiving = ReceivingStream(
            ReceivingOptions(keys=keys, serves=LOCAL.__eq__, answers_verify=LOCAL.__eq__, resolve=False), lambda: f"id{next(numbers)}",
        )
        self.path.write_text(theirs)
        return InitiatingStream(InitiatingOptions(local=PEER, peer=LOCAL, keys=keys)), receiving

    def conversed(self, theirs: str) -> tuple[list[Any], list[Ending]]:
        """What both ends came to: the proven pairs, and how the initiating stream ended, if it did."""
        initiating, receiving = self.engines(theirs)
        ends = Ends(engines=(receiving, initiating))
        other = Path(self.mktemp())
        other.write_text("correct horse")
        sides = (
            (ends.server, ends.server_owner, receiving, SharedSecrets(Peers({"peer.example": PeerObject(secret_file=self.path)})), PEER),
            (ends.client, ends.client_owner, initiating, SharedSecrets(Peers({"example.org": PeerObject(secret_file=other)})), LOCAL),
        )
        unproven = Verdict(ending=Ending(Cause.SELF_SIGNED))
        refusal = Permission(refusal=Refusal(StreamCondition.POLICY_VIOLATION, "no", Ending(Cause.SELF_SIGNED)))

        def answer(connection: Any, engine: Any, secrets: SharedSecrets, peer: Domain, link: Any, event: Any) -> None:
            if isinstance(event, JudgementNeeded):
                connection.step(engine.judged, secrets.granted(refusal, unproven, peer, connection))

        for connection, owner, engine, secrets, peer in sides:
            owner.on_event = partial(answer, connection, engine, secrets, peer)
        ends.client.step(initiating.begin)
        ends.pump.flush()
        owners = (ends.server_owner, ends.client_owner)
        return [event for owner in owners for event in owner.events if isinstance(event, PairProven)], ends.client_owner.endings

    def test_same_secret(self) -> None:
        """R26: each is proven to the other, bound to their TLS."""
        proven = PairProven(Pair(PEER, LOCAL), "SCRAM-SHA-256-PLUS")
        self.assertEqual(self.conversed("correct horse\n"), ([proven, proven], []))

    def test_another_secret(self) -> None:
        """R26: with another secret neither is, and no weaker way is tried."""
        proven, (ending,) = self.conversed("battery staple\n")
        self.assertEqual((proven, ending.cause), ([], Cause.SASL_FAILED))
