"""The leg to the existing server: who may use it, whom it is, and what proves it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.backend.s2s import BackendInbound, BackendOutbound
from s2sgw.stream.events import JudgementNeeded, Permission
from s2sgw.trust.evidence import Attempt
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair

OURS, OTHERS, PEER = (Domain.parse(f"{name}.example") for name in ("ours", "others", "peer"))
REFUSED = Ending(Cause.NO_SUCH_DOMAIN)


class BackendTestCase(SynchronousTestCase):
    """A server for `OURS`, beside another backend's for `OTHERS`; whether its certificate proves it is the test's own."""

    proven = False

    def setUp(self) -> None:
        self.server: Any = SimpleNamespace(
            domains=frozenset({OURS}), tls="required", keys=None, authority=SimpleNamespace(leaf=lambda domain: f"leaf of {domain}"),
            prove=lambda connection, domain, role: Attempt("pkix", self.proven, None if self.proven else Cause.SELF_SIGNED, ("why",)),
        )


class InboundTests(BackendTestCase):
    """The inner listener."""

    def setUp(self) -> None:
        super().setUp()
        self.side = BackendInbound(
            self.server, lambda domain: domain in (OURS, OTHERS), lambda question: succeed(None), lambda pair: succeed(REFUSED),  # type: ignore[arg-type]
            lambda: "id",
        )

    def test_whom_it_serves(self) -> None:
        """Everybody but the server's own domains is reached here, another backend's too; as each we have a leaf, as it never."""
        options = self.side._options(False)
        self.assertEqual([options.serves(domain) for domain in (OURS, OTHERS, PEER)], [False, True, True])
        self.assertEqual([options.answers_verify(domain) for domain in (OURS, PEER)], [False, True])
        self.assertEqual([self.side._leaf(domain) for domain in (OURS, PEER, None)], [None, "leaf of peer.example", None])

    def test_who_may_send(self) -> None:
        """R14: only the server's own domains, not another backend's."""
        options = self.side._options(False)
        self.assertIsNone(options.refuses_sender(OURS))
        for domain in (OTHERS, PEER):
            refusal = options.refuses_sender(domain)
            assert refusal is not None
            self.assertEqual(refusal.ending.cause, Cause.INVALID_FROM)

    def test_what_proves_it(self) -> None:
        """R24, R28: its certificate, else dialback to its own port; never nothing."""
        for self.proven in (False, True):
            question = JudgementNeeded(OURS, PEER, True)
            judged = Deferred.fromCoroutine(self.side.judge(None, question))  # type: ignore[arg-type]
            permission, _ = self.successResultOf(judged)
            self.assertEqual((permission.external, permission.dialback), (self.proven, True))

    def test_admission(self) -> None:
        """R2: the federation says who may be written to; another backend's domain need not be asked for."""
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.side.admit(Pair(OURS, PEER)))), REFUSED)
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(self.side.admit(Pair(OURS, OTHERS)))))


class OutboundTests(BackendTestCase):
    """R12: the server's own port."""

    def judged(self, address: str) -> Permission:
        side = BackendOutbound(self.server, None, None)  # type: ignore[arg-type]
        connection: Any = SimpleNamespace(peer_address=address)
        judging = Deferred.fromCoroutine(side.judge(connection, JudgementNeeded(OURS, PEER, True), None))  # type: ignore[arg-type]
        permission: Permission = self.successResultOf(judging)[0]
        return permission

    def test_loopback(self) -> None:
        """R12: over loopback the address is the proof."""
        for address in ("127.0.0.1:15269", "[::1]:15269"):
            self.assertIsNone(self.judged(address).refusal)

    def test_elsewhere(self) -> None:
        """R12: elsewhere the certificate is, and without it nothing is handed over."""
        for address in ("192.0.2.1:5269", "[2001:db8::1]:5269", "nonsense"):
            refusal = self.judged(address).refusal
            assert refusal is not None
            self.assertEqual(refusal.ending.cause, Cause.SELF_SIGNED)
        self.proven = True
        self.assertIsNone(self.judged("192.0.2.1:5269").refusal)
