"""Tests of the leg to the existing server: who may use it, which server it is, and how it is proven."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.backend.server import BackendInitiating, BackendReceiving
from s2sgw.net.discovery import Resolution, Target
from s2sgw.stream.events import DialbackNeeded, DialbackOutcome, JudgementNeeded, Permission, ResolutionNeeded, StartTLS
from s2sgw.trust.evidence import Attempt
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain, Pair

OURS, OTHERS, PEER = (Domain.parse(f"{name}.example") for name in ("ours", "others", "peer"))
REFUSED = Ending(Cause.NO_SUCH_DOMAIN)


class BackendTestCase(SynchronousTestCase):
    """A server for `OURS`, beside another backend's for `OTHERS`. The test decides whether its certificate proves it."""

    proven = False

    def setUp(self) -> None:
        self.server: Any = SimpleNamespace(
            resume=lambda domain: 60,
            domains=frozenset({OURS}), tls="required", keys=None, authority=SimpleNamespace(leaf=lambda domain: f"leaf of {domain}"),
            prove=lambda connection, domain, role: Attempt("pkix", self.proven, None if self.proven else Cause.SELF_SIGNED, ("why",)),
        )


class InboundTests(BackendTestCase):
    """Tests of the inner listener."""

    def setUp(self) -> None:
        super().setUp()
        self.side = BackendReceiving(
            self.server, lambda domain: domain in (OURS, OTHERS), lambda question, requester: succeed(None), lambda pair: succeed(REFUSED),  # type: ignore[arg-type]
            lambda: "id",
        )

    def test_served_domains(self) -> None:
        """Every domain except the server's own is reached here, also another backend's. We have a leaf for each of them, and none for its own."""
        options = self.side._options(False)
        self.assertEqual([options.serves(domain) for domain in (OURS, OTHERS, PEER)], [False, True, True])
        self.assertEqual([options.answers_verify(domain) for domain in (OURS, PEER)], [False, True])
        self.assertEqual([self.side._leaf(domain) for domain in (OURS, PEER, None)], [None, "leaf of peer.example", None])

    def test_home_elsewhere(self) -> None:
        """The home of the peer is asked for before the server is proven. If it is another node, the stream is refused."""
        claims: list[Pair] = []
        answers = {
            Cause.OTHER_NODE: StreamCondition.CONFLICT, Cause.NO_NODE: StreamCondition.RESOURCE_CONSTRAINT,
            Cause.INTERNAL: StreamCondition.INTERNAL_SERVER_ERROR,
        }
        for cause, condition in answers.items():
            async def claim(pair: Pair, cause: Cause = cause) -> Ending | None:
                claims.append(pair)
                return Ending(cause)

            side = replace(self.side, claim=claim, verify_key=lambda question, requester: succeed(DialbackOutcome("valid")))
            self.proven = True
            judged, _ = self.successResultOf(Deferred.fromCoroutine(side.judge(None, JudgementNeeded(OURS, PEER, True))))  # type: ignore[arg-type]
            assert judged.refusal is not None
            self.assertEqual((judged.refusal.condition, judged.refusal.ending.cause), (condition, cause))
            self.assertEqual(judged.refusal.text, Ending(cause).account.bounce)
            needed = DialbackNeeded(Pair(OURS, PEER), "key", "id")
            outcome = self.successResultOf(Deferred.fromCoroutine(side.verify(None, needed)))  # type: ignore[arg-type]
            self.assertEqual((outcome.type, outcome.ending), ("error", Ending(cause)))
        self.assertEqual(claims, [Pair(OURS, PEER)] * 6)
        self.proven = False
        judging = Deferred.fromCoroutine(side.judge(None, JudgementNeeded(OURS, PEER, True)))  # type: ignore[arg-type]
        self.assertIsNone(self.successResultOf(judging)[0].refusal)
        self.assertEqual(len(claims), 6)

    def test_domains_that_may_send(self) -> None:
        """R14: only the server's own domains may send, not another backend's."""
        options = self.side._options(False)
        self.assertIsNone(options.refuses_sender(OURS))
        for domain in (OTHERS, PEER):
            refusal = options.refuses_sender(domain)
            assert refusal is not None
            self.assertEqual(refusal.ending.cause, Cause.INVALID_FROM)

    def test_what_proves_it(self) -> None:
        """R24, R28: the server is proven by its certificate, otherwise by dialback to its own port, and never by nothing."""
        for self.proven in (False, True):
            question = JudgementNeeded(OURS, PEER, True)
            judged = Deferred.fromCoroutine(self.side.judge(None, question))  # type: ignore[arg-type]
            permission, _ = self.successResultOf(judged)
            self.assertEqual((permission.external, permission.dialback), (self.proven, True))

    def test_admission(self) -> None:
        """R2: the federation decides which domains may be written to. Another backend's domain needs no question."""
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.side.admit(Pair(OURS, PEER)))), REFUSED)
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(self.side.admit(Pair(OURS, OTHERS)))))

    def test_expected(self) -> None:
        """A peer's name is looked up beside the handshake. Another backend's needs no look-up."""
        expected: list[Domain] = []
        contexts: Any = SimpleNamespace(for_domain=lambda domain: f"TLS as {domain}")
        side = replace(self.side, expect=expected.append)
        side.__dict__["server_tls"] = contexts
        self.assertEqual("TLS as peer.example", side.tls(StartTLS(PEER, OURS)))
        self.assertEqual("TLS as others.example", side.tls(StartTLS(OTHERS, OURS)))
        self.assertEqual("TLS as None", side.tls(None))
        self.assertEqual([PEER], expected)

    def test_ours_by_configuration(self) -> None:
        """R2: the server's own domains need no DNS and are not remembered. Its keys are verified by a request to the server."""
        question = ResolutionNeeded(OURS, PEER)
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(self.side.resolve(None, question))))  # type: ignore[arg-type]
        self.side.proven(None, Pair(OURS, PEER), "EXTERNAL")  # type: ignore[arg-type]
        asked: list[object] = []
        side = replace(self.side, verify_key=lambda needed, requester: (asked.append((needed, requester)), succeed("valid"))[1])  # type: ignore[arg-type, return-value, func-returns-value]
        needed: Any = SimpleNamespace(pair=Pair(OURS, PEER))
        self.assertEqual("valid", self.successResultOf(Deferred.fromCoroutine(side.verify(None, needed))))  # type: ignore[arg-type]
        self.assertEqual([(needed, None)], asked)


class OutboundTests(BackendTestCase):
    """R12: tests of the server's own port."""

    def resolved(self, *addresses: str) -> Resolution:
        self.server.host, self.server.port, self.server.lookup = "xmpp.lan", 15269, lambda host: succeed(addresses)
        side = BackendInitiating(self.server, None, None)  # type: ignore[arg-type]
        resolution: Resolution = self.successResultOf(Deferred.fromCoroutine(side.resolve(Pair(PEER, OURS))))
        return resolution

    def test_configured_address(self) -> None:
        """The configured address is used, its name looked up each time. A name without an address is temporarily unreachable."""
        (target,) = self.resolved("192.0.2.7", "2001:db8::7").targets
        self.assertEqual(("xmpp.lan", 15269, ("192.0.2.7", "2001:db8::7")), (target.host, target.port, target.addresses))
        ending = self.resolved().ending
        assert ending is not None
        self.assertEqual(Cause.UNREACHABLE, ending.cause)
        self.assertIn("xmpp.lan", ending.detail)

    def test_one_peer_to_a_stream(self) -> None:
        """Each peer has its own stream, with its own leaf, and stanzas as large as the server accepts (docs/decisions.md#pairs)."""
        self.server.managed, self.server.stanza_bytes = lambda domain: False, 65535
        asked: list[object] = []
        client: Any = SimpleNamespace(for_peer=lambda *asking: asked.append(asking))
        side = BackendInitiating(self.server, client, lambda pair: f"dialler for {pair.sender}")  # type: ignore[arg-type, return-value]
        pair, target = Pair(PEER, OURS), Target("xmpp.lan", 15269, ("192.0.2.7",), 0, 0)
        engine = side.engine(pair, target, verifying=False)
        self.assertEqual((PEER, OURS, False), (engine.options.local, engine.options.peer, engine.options.management))
        self.assertEqual("verify", side.engine(pair, target, verifying=True).options.purpose)
        side.tls(pair, target)
        self.assertEqual([(OURS, "leaf of peer.example")], asked)
        self.assertEqual((0, 65535, "dialler for peer.example"), (side.streams(pair), side.largest(pair), side.dialler(pair, target)))
        self.server.stanza_bytes = 0
        self.assertEqual([None, None], [side.largest(pair), side.shown(pair)])

    def judged(self, address: str) -> Permission:
        side = BackendInitiating(self.server, None, None)  # type: ignore[arg-type]
        connection: Any = SimpleNamespace(peer_address=address)
        judging = Deferred.fromCoroutine(side.judge(connection, JudgementNeeded(OURS, PEER, True), None))  # type: ignore[arg-type]
        permission: Permission = self.successResultOf(judging)[0]
        return permission

    def test_loopback(self) -> None:
        """R12: over loopback the address is the proof."""
        for address in ("127.0.0.1:15269", "[::1]:15269"):
            self.assertIsNone(self.judged(address).refusal)

    def test_elsewhere(self) -> None:
        """R12: elsewhere the certificate is the proof, and without it no stanza is passed on."""
        for address in ("192.0.2.1:5269", "[2001:db8::1]:5269", "nonsense"):
            refusal = self.judged(address).refusal
            assert refusal is not None
            self.assertEqual(refusal.ending.cause, Cause.SELF_SIGNED)
        self.proven = True
        self.assertIsNone(self.judged("192.0.2.1:5269").refusal)
