"""Tests of the federation's receiving side: which peers are accepted, from which addresses, and within which limits."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.authentication.judge import Judge, permission
from s2sgw.authentication.refusals import refusal_of_unproven
from s2sgw.ingress.pair_ingress import HOME_CONDITIONS, refusal_elsewhere
from s2sgw.net.discovery import Resolution, Target
from s2sgw.net.requester import QUESTIONS, Requester
from s2sgw.policy.denylist import DenyList
from s2sgw.policy.model import PeerObject
from s2sgw.policy.peers import PeerPolicies
from s2sgw.policy.verdict import Verdict
from s2sgw.s2s.claims import Claims
from s2sgw.s2s.federation_initiating import FederationInitiating
from s2sgw.s2s.federation_receiving import FederationReceiving
from s2sgw.sasl.scram_secret import SharedSecret, StreamSecret
from s2sgw.stream.events import DialbackNeeded, DialbackOutcome, JudgementNeeded, Permission, Refusal, ResolutionNeeded, StartTLS
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.certificates import leaf_for
from tests.support.fakes import OneDomain

OURS, PEER = Domain.parse("ours.example"), Domain.parse("peer.example")
SERVER = Target("s.peer.example", 5269, ("192.0.2.1", "2001:db8::1"))
METHODS = ("EXTERNAL", "certificate", "dialback", "SCRAM-SHA-256")


class FakeConnection:
    """A connection from a peer's address."""

    def __init__(self, address: str = "192.0.2.1:40000") -> None:
        self.peer_address = address
        self.closed: Deferred[None] = Deferred()
        self.established = False

    def when_closed(self) -> Deferred[None]:
        return self.closed


class InboundTestCase(SynchronousTestCase):
    """Base class: a leg whose look-ups and verdicts are set by the test."""

    opinion = Verdict()
    contradicted = False
    known: tuple[Domain, ...] = ()
    #: open streams of the peer
    streams = 0
    external = True

    def setUp(self) -> None:
        #: the requesters of the look-ups
        self.requesters: list[Requester] = []
        self.clock = Clock()

    def knows(self, peer: Domain) -> bool:
        return peer in self.known

    def made(self, resolution: Resolution | None = None, **policy: Any) -> FederationReceiving:
        self.peers = PeerPolicies({"default": PeerObject(**policy)})
        self.asked: list[str | None] = []
        found = resolution or Resolution(PEER, (SERVER,))

        async def locate(targets: list[Target], requester: Requester) -> list[Target]:
            return targets

        async def resolve(peer: Domain, route: str | None, requester: Requester) -> Resolution:
            self.asked.append(route)
            return found

        async def verdict(connection: object, question: JudgementNeeded, role: str, requester: Requester) -> Verdict:
            self.requesters.append(requester)
            return Verdict(external=self.external, proven_by="pkix", reasons=("fine",), contradicted=self.contradicted)

        async def opinion(connection: object, peer: Domain, role: str) -> Verdict:
            return self.opinion

        return FederationReceiving(
            OneDomain(OURS), self.peers, SimpleNamespace(resolve=resolve, locate=locate), SimpleNamespace(verdict=verdict, opinion=opinion, permission=self.permission, refusal=self.refusal),  # type: ignore[arg-type]
            None, self, self,  # type: ignore[arg-type]
            Claims(self.clock, self), Clock(),
        )

    def permission(self, verdict: Verdict, connection: object, peer: Domain) -> Permission:
        return permission(verdict, None)

    def refusal(self, ending: Ending, connection: FakeConnection, peer: Domain) -> Refusal:
        return refusal_of_unproven(ending, peer, (), datetime(2026, 1, 1, tzinfo=UTC))

    async def room(self, peer: Domain, limit: int, besides: object) -> Ending | None:
        """Answer as `AcceptedStreamLimit` does."""
        return self.excess(peer, limit, besides)

    def excess(self, peer: Domain, limit: int, besides: object) -> Ending | None:
        return Ending(Cause.TOO_MANY_STREAMS, f"{self.streams} streams are open") if self.streams >= limit else None

    async def verify(self, question: Any, requester: Requester) -> DialbackOutcome:
        self.requesters.append(requester)
        return DialbackOutcome("valid")

    def judged(self, side: FederationReceiving, address: str = "192.0.2.1:40000") -> Permission:
        question = JudgementNeeded(PEER, OURS, True)
        answer = Deferred.fromCoroutine(side.judge(FakeConnection(address), question))  # type: ignore[arg-type]
        permission, _ = self.successResultOf(answer)
        assert isinstance(permission, Permission)
        return permission

    def cause(self, permission: Permission) -> Cause | None:
        return permission.refusal.ending.cause if permission.refusal else None


class SenderTests(InboundTestCase):
    """Tests of the names that may be a peer's."""

    def cause_of(self, side: FederationReceiving, name: str) -> Cause | None:
        refusal = side.refuses_sender(Domain.parse(name))
        return refusal.ending.cause if refusal else None

    def test_r14(self) -> None:
        """R14: our own domains, addresses and single labels are refused."""
        side = self.made()
        for name in ("ours.example", "192.0.2.1", "localhost"):
            self.assertEqual(Cause.INVALID_FROM, self.cause_of(side, name))
        self.assertIsNone(self.cause_of(side, "peer.example"))

    def test_not_allowed(self) -> None:
        """A peer that the policy does not allow is refused with policy-violation."""
        side = self.made(allow=False)
        refusal = side.refuses_sender(PEER)
        assert refusal is not None
        self.assertEqual((Cause.NOT_ALLOWED, "policy-violation"), (refusal.ending.cause, refusal.condition.value))

    def test_deny_listed(self) -> None:
        """The peer is told that a list names it, but not which list. Our record names the list."""
        side = self.made()
        self.peers.deny([DenyList("https://lists.example/secret", dict.fromkeys({"peer.example"}))])
        refusal = side.refuses_sender(PEER)
        assert refusal is not None
        self.assertEqual((Cause.DENY_LISTED, "policy-violation"), (refusal.ending.cause, refusal.condition.value))
        self.assertNotIn("lists.example", refusal.text)
        self.assertIn("lists.example", refusal.ending.detail)


class JudgementTests(InboundTestCase):
    """Tests of the permission of a peer that is not proven yet."""

    def test_limits(self) -> None:
        """R32: the permission carries the peer's own limits, and whether they are announced."""
        permission = self.judged(self.made(limits={"stanza_bytes": 12345}, features={"limits": False}))
        assert permission.limits is not None
        self.assertEqual((12345, False, True), (permission.limits.stanza_bytes, permission.announced, permission.external))
        self.assertTrue(self.judged(self.made()).announced)

    def test_shared(self) -> None:
        """Streams with equal permissions share one: an idle stream is small. A permission with a secret belongs to its stream alone."""
        side, secret = self.made(), StreamSecret(SharedSecret("secret", b"salt"), lambda: "nonce")
        self.assertIs(self.judged(side), self.judged(side))
        side.judge_of.permission = lambda *_: Permission(external=True, secret=secret)  # type: ignore[method-assign]
        permission = self.judged(side)
        self.assertEqual(secret, permission.secret)
        self.assertIsNot(permission, self.judged(side))

    def test_unresolved(self) -> None:
        """R2: a name that does not resolve is refused, whatever else is proven."""
        unresolved = Resolution(PEER, (), Ending(Cause.NO_SUCH_DOMAIN))
        self.assertEqual(Cause.NO_SUCH_DOMAIN, self.cause(self.judged(self.made(resolution=unresolved, resolve="address-match"))))

    def test_streams(self) -> None:
        """One stream above the limit is refused if the certificate proves the peer. Otherwise dialback or SCRAM has to prove it first."""
        for streams, external, cause in ((3, True, None), (4, True, Cause.TOO_MANY_STREAMS), (4, False, None)):
            self.streams, self.external = streams, external
            self.assertEqual(cause, self.cause(self.judged(self.made())))

    def test_streams_by_dialback(self) -> None:
        """If a valid key proves a peer that has too many streams, the answer is an error, and the record gives the reason."""
        for streams, kind in ((3, "valid"), (4, "error")):
            self.streams = streams
            question = DialbackNeeded(Pair(PEER, OURS), "key", "id")
            outcome = self.successResultOf(Deferred.fromCoroutine(self.made().verify(FakeConnection(), question)))  # type: ignore[arg-type]
            self.assertEqual(kind, outcome.type)
        assert outcome.ending is not None
        self.assertEqual(Cause.TOO_MANY_STREAMS, outcome.ending.cause)

    def test_domain_that_was_given_up(self) -> None:
        """On a stream to such a domain the peer can only verify our keys: it proves nothing there, also if it began before."""
        side, connection, former = self.made(), FakeConnection(), Domain.parse("former.example")
        question = JudgementNeeded(PEER, former, True)
        side.judge_of.permission = lambda *_: Permission(external=True, dialback=True)  # type: ignore[method-assign]
        permission, _ = self.successResultOf(Deferred.fromCoroutine(side.judge(connection, question)))  # type: ignore[arg-type]
        self.assertEqual((False, None, False, None), (permission.external, permission.secret, permission.bidi, permission.refusal))
        side.judge_of.permission = lambda *_: Permission(external=True)  # type: ignore[method-assign]
        permission, _ = self.successResultOf(Deferred.fromCoroutine(side.judge(connection, question)))  # type: ignore[arg-type]
        self.assertEqual(Cause.HOST_UNKNOWN, self.cause(permission))
        asked = side.verify(connection, DialbackNeeded(Pair(PEER, former), "key", "id"))  # type: ignore[arg-type]
        outcome = self.successResultOf(Deferred.fromCoroutine(asked))
        assert outcome.ending is not None
        self.assertEqual(("error", Cause.HOST_UNKNOWN), (outcome.type, outcome.ending.cause))
        excess = side.excess(connection, Pair(PEER, former))  # type: ignore[arg-type]
        assert excess is not None
        self.assertEqual((Cause.HOST_UNKNOWN, "host-unknown"), (excess.ending.cause, excess.condition.value))

    def test_streams_at_the_proof(self) -> None:
        """The limit is checked again at the proof itself."""
        for streams in (3, 4):
            self.streams = streams
            excess = self.made().excess(FakeConnection(), Pair(PEER, OURS))  # type: ignore[arg-type]
            self.assertEqual(streams >= 4, excess is not None)
        assert excess is not None
        self.assertEqual(StreamCondition.RESOURCE_CONSTRAINT, excess.condition)

    def test_address_match(self) -> None:
        """`resolve = "address-match"`: any address of the look-up matches, in any spelling, and no other."""
        for address, cause in (
            ("192.0.2.1:40000", None), ("[2001:db8:0:0::1]:40000", None), ("[::ffff:192.0.2.1]:40000", None),
            ("192.0.2.2:40000", Cause.ADDRESS_MISMATCH), ("[2001:db8::2]:5269", Cause.ADDRESS_MISMATCH),
        ):
            self.assertEqual(cause, self.cause(self.judged(self.made(resolve="address-match"), address)), address)
            self.assertIsNone(self.cause(self.judged(self.made(), address)))

    def test_route(self) -> None:
        """If there is a route, its address is the one that must match."""
        self.judged(self.made(resolve="address-match", route="192.0.2.9"))
        self.assertEqual(["192.0.2.9:5269"], self.asked)


class OptionsTests(InboundTestCase):
    """Tests of the options of engines."""

    def test_shared(self) -> None:
        """All streams of a kind share their options: an idle stream is small."""
        side = self.made()
        for direct_tls in (False, True):
            options = side.engine(direct_tls).options
            self.assertIs(options, side.engine(direct_tls).options)
            self.assertEqual((direct_tls, ()), (options.direct_tls, options.zero_handshake))

    def test_local_domains(self) -> None:
        """XEP-0361: a stream without a negotiation may send to the domains that are local when it begins."""
        side = replace(self.made(), zero_handshake=True)
        self.assertEqual((OURS,), side.engine(True).options.zero_handshake)
        self.patch(side.identity, "local_domains", frozenset({OURS, PEER}))
        self.assertEqual((OURS, PEER), side.engine(True).options.zero_handshake)


class RequesterTests(InboundTestCase):
    """Tests of the requester of look-ups for a claimed name."""

    def verified(self, side: FederationReceiving, connection: FakeConnection) -> Requester:
        needed = DialbackNeeded(Pair(PEER, OURS), "key", "id")
        self.successResultOf(Deferred.fromCoroutine(side.verify(connection, needed)))  # type: ignore[arg-type]
        return self.requesters[-1]

    def test_stranger(self) -> None:
        """A claim is one requester, by its address, from the judgement to the verification. After a minute it is a new one."""
        side, connection = self.made(), FakeConnection("192.0.2.1:40000")
        first = self.verified(side, connection)
        self.assertEqual((first.owner, first.is_stranger, first.questions_left), (("192.0.2.0/24", "192.0.2.1/32"), True, QUESTIONS))
        self.assertIs(self.verified(side, connection), first)
        self.assertIsNot(self.verified(side, FakeConnection("192.0.2.1:40001")), first)
        self.clock.advance(60.0)
        self.assertIsNot(self.verified(side, connection), first)

    def test_known(self) -> None:
        """A peer that was proven lately, or that the configuration names, is looked up on our own behalf."""
        self.known = (PEER,)
        self.judged(self.made())
        self.assertEqual([(each.owner, each.is_stranger) for each in self.requesters], [(("peer.example",), False)])

    def test_address_match(self) -> None:
        """If the address must match, all targets may be looked up."""
        self.assertEqual(self.verified(self.made(resolve="address-match"), FakeConnection()).questions_left, 40)

    def test_abandoned(self) -> None:
        """Look-ups beside the handshake end with the connection."""
        ended: list[object] = []
        begun: Deferred[None] = Deferred(ended.append)
        begun.addErrback(lambda _: None)
        side, connection = self.made(), FakeConnection()
        side.judge_of.begin = lambda *arguments, **more: begun  # type: ignore[method-assign]
        answer = Deferred.fromCoroutine(side.resolve(connection, ResolutionNeeded(PEER, OURS)))  # type: ignore[arg-type]
        self.assertIsNone(self.successResultOf(answer))
        self.assertEqual(ended, [])
        connection.closed.callback(None)
        self.assertEqual(len(ended), 1)

    def test_over(self) -> None:
        """The connection keeps nothing of look-ups that are over."""
        begun: Deferred[None] = Deferred()
        side, connection = self.made(), FakeConnection()
        side.judge_of.begin = lambda *arguments, **more: begun  # type: ignore[method-assign]
        answer = Deferred.fromCoroutine(side.resolve(connection, ResolutionNeeded(PEER, OURS)))  # type: ignore[arg-type]
        self.assertIsNone(self.successResultOf(answer))
        self.assertFalse(connection.closed.called)
        begun.callback(None)
        self.assertTrue(connection.closed.called)
        self.assertIsNone(self.successResultOf(connection.closed))

    def test_nothing_to_abandon(self) -> None:
        """A stream without further look-ups keeps no reference to them."""
        side, connection = self.made(), FakeConnection()
        side.judge_of.begin = lambda *arguments, **more: succeed(None)  # type: ignore[method-assign]
        added: list[object] = []
        self.patch(connection.closed, "addCallbacks", lambda *callbacks: added.append(callbacks))
        answer = Deferred.fromCoroutine(side.resolve(connection, ResolutionNeeded(PEER, OURS)))  # type: ignore[arg-type]
        self.assertIsNone(self.successResultOf(answer))
        self.assertEqual([], added)


class ProvenTests(InboundTestCase):
    def test_claim(self) -> None:
        """The claim of a peer that has proven itself is forgotten."""
        side, connection, order = self.made(), FakeConnection(), Mock()
        replace(side, judge_of=order.judge, claims=order.claims).proven(connection, Pair(PEER, OURS), "dialback")  # type: ignore[arg-type]
        self.assertEqual([call.judge.proven(connection, PEER, "dialback"), call.claims.forget(connection, PEER)], order.mock_calls)


class HomeTests(InboundTestCase):
    """The home of a peer is asked for before a pair is proven, so that no stanza is read in vain."""

    def claiming(self, ending: Ending | None) -> FederationReceiving:
        self.claims: list[Pair] = []

        async def claim(pair: Pair) -> Ending | None:
            self.claims.append(pair)
            return ending

        return replace(self.made(), claim=claim)

    def verified(self, side: FederationReceiving) -> DialbackOutcome:
        question = DialbackNeeded(Pair(PEER, OURS), "key", "id")
        return self.successResultOf(Deferred.fromCoroutine(side.verify(FakeConnection(), question)))  # type: ignore[arg-type]

    def test_elsewhere(self) -> None:
        """By dialback and by certificate the domain gets an error, which names no node."""
        side = self.claiming(Ending(Cause.OTHER_NODE, "peer.example is served by the node a"))
        outcome = self.verified(side)
        self.assertEqual(("error", Ending(Cause.OTHER_NODE)), (outcome.type, outcome.ending))
        question = JudgementNeeded(PEER, OURS, True)
        judged, _ = self.successResultOf(Deferred.fromCoroutine(side.judge(FakeConnection(), question)))  # type: ignore[arg-type]
        self.assertEqual(Cause.OTHER_NODE, self.cause(judged))
        self.assertNotIn("node a", judged.refusal.text if judged.refusal else "")
        self.assertEqual([Pair(PEER, OURS)] * 2, self.claims)

    def test_conditions(self) -> None:
        """The stream error is the same before a pair is proven and when its stanzas are admitted. None of them is for good."""
        for cause in (*HOME_CONDITIONS, Cause.INTERNAL):
            side = self.claiming(Ending(cause))
            question = JudgementNeeded(PEER, OURS, True)
            judged, _ = self.successResultOf(Deferred.fromCoroutine(side.judge(FakeConnection(), question)))  # type: ignore[arg-type]
            assert judged.refusal is not None
            self.assertEqual((judged.refusal.condition, cause), (refusal_elsewhere(Ending(cause)).condition, judged.refusal.ending.cause))

    def test_here(self) -> None:
        """A domain whose home is this node is proven."""
        self.assertEqual("valid", self.verified(self.claiming(None)).type)


class ReconsiderTests(InboundTestCase):
    """Tests of the current policy's decision on an open stream."""

    opinion = Verdict(external=True)

    def reconsidered(self, method: str = "EXTERNAL", address: str = "192.0.2.1:40000", **made: Any) -> Cause | None:
        side = self.made(**made)
        asked = side.reconsider(SimpleNamespace(peer_address=address), Pair(PEER, OURS), method)  # type: ignore[arg-type]
        refusal = self.successResultOf(Deferred.fromCoroutine(asked))
        return refusal.ending.cause if refusal else None

    def test_by_method(self) -> None:
        """A stream stays if the verdict still permits its method to prove the peer: "certificate" and SCRAM count as EXTERNAL does."""
        self.opinion = Verdict(external=True, dialback=False)
        self.assertEqual([None, None, Cause.NOT_PROVEN, None], [self.reconsidered(method) for method in METHODS])
        self.opinion = Verdict(external=False, dialback=True)
        lost = [self.reconsidered(method) for method in METHODS]
        self.assertEqual([Cause.NOT_PROVEN, Cause.NOT_PROVEN, None, Cause.NOT_PROVEN], lost)

    def test_refused(self) -> None:
        """The verdict's own ending is the cause."""
        self.opinion = Verdict(ending=Ending(Cause.TLS_TOO_OLD))
        self.assertEqual(Cause.TLS_TOO_OLD, self.reconsidered())

    def test_zero_handshake(self) -> None:
        """XEP-0361: such a stream stays while it is agreed and a pinned key proves the peer."""
        for proven_by, agreed, cause in (("pin", True, None), ("pkix", True, Cause.NOT_PROVEN), ("pin", False, Cause.NOT_PROVEN)):
            self.opinion = Verdict(external=True, proven_by=proven_by)  # type: ignore[arg-type]
            self.assertEqual(cause, self.reconsidered("zero-handshake", zero_handshake=agreed))

    def test_mechanism_barred(self) -> None:
        """A stream that was authenticated by a mechanism no longer in the policy is closed. Others stay."""
        self.assertEqual(Cause.NOT_PROVEN, self.reconsidered("EXTERNAL", sasl=("SCRAM-SHA-256",)))
        self.assertIsNone(self.reconsidered("certificate", sasl=("SCRAM-SHA-256",)))

    def test_barred(self) -> None:
        """A peer that is not allowed is refused before any look-up, with a text that gives a stranger no details."""
        self.assertEqual(Cause.NOT_ALLOWED, self.reconsidered(allow=False))
        self.assertEqual(Cause.NOT_ALLOWED, self.reconsidered("", allow=False))
        self.opinion = Verdict(ending=Ending(Cause.NOT_PROVEN))
        self.assertIsNone(self.reconsidered(""))

    def test_address(self) -> None:
        """`address-match` applies to open streams too. A look-up that fails temporarily refuses no peer."""
        self.assertEqual(Cause.ADDRESS_MISMATCH, self.reconsidered(address="192.0.2.2:1", resolve="address-match"))
        self.assertIsNone(self.reconsidered(resolve="address-match"))
        unreachable = Resolution(PEER, (), Ending(Cause.DNS_UNREACHABLE))
        self.assertIsNone(self.reconsidered(address="192.0.2.2:1", resolve="address-match", resolution=unreachable))


class ZeroHandshakeTests(InboundTestCase):
    """XEP-0361: tests of streams without a handshake."""

    def test_dialled(self) -> None:
        """Our connection uses TLS from the first byte, whatever the route says."""
        side: Any = SimpleNamespace(routes=SimpleNamespace(dials_names=lambda peer: False))
        for agreed in (True, False):
            side.peers = PeerPolicies({"peer.example": PeerObject(zero_handshake=agreed)})
            (target,) = FederationInitiating.dial_targets(side, Pair(OURS, PEER), [Target("192.0.2.1", 5269, ("192.0.2.1",))])
            self.assertEqual(target.direct_tls, agreed)

    def test_identified(self) -> None:
        """The peers are those that have agreed and whose key is pinned. Without a certificate there are none."""
        leaf = leaf_for("peer.example").der
        pin = str(Fingerprint.of(leaf))
        objects = {
            "peer.example": PeerObject(zero_handshake=True, pins=(pin,)), "rooms.peer.example": PeerObject(zero_handshake=True, pins=(pin,)),
            "plain.example": PeerObject(pins=(pin,)), "other.example": PeerObject(zero_handshake=True, pins=("sha256:" + "0" * 64,)),
        }
        judge: Any = SimpleNamespace(_peers=PeerPolicies(objects))
        side: Any = SimpleNamespace(judge_of=SimpleNamespace(agreed=lambda connection: Judge.agreed(judge, connection)))
        for chain, names in (((leaf,), ["peer.example", "rooms.peer.example"]), ((leaf_for("example.org").der,), []), ((), [])):
            found = FederationReceiving.identify(side, SimpleNamespace(chain=chain))  # type: ignore[arg-type]
            self.assertEqual([str(peer) for peer in found], names)

    def test_reloaded(self) -> None:
        """After a reload the new configuration's agreements apply."""
        policies = PeerPolicies({"peer.example": PeerObject(zero_handshake=True, pins=("sha256:" + "0" * 64,))})
        key = "sha256:" + "0" * 64
        self.assertEqual((PEER,), policies.agreed(key))
        policies.adopt(PeerPolicies({}))
        self.assertEqual((), policies.agreed(key))


class BothWaysTests(InboundTestCase):
    """R36: tests of which peers get our stanzas on their own streams."""

    def test_proven(self) -> None:
        """R36: a peer that is proven by its certificate, unless the policy forbids it."""
        self.assertTrue(self.judged(self.made()).bidi)
        self.assertFalse(self.judged(self.made(features={"bidi": False})).bidi)

    def test_contradicted(self) -> None:
        """R22: a peer whose key differs from the DNS does not."""
        self.contradicted = True
        permission = self.judged(self.made())
        self.assertEqual((permission.external, permission.bidi), (True, False))


class CertificateTests(InboundTestCase):
    """R11: tests of the certificate that we show to a peer."""

    def shown(self, order: StartTLS | None, **policy: Any) -> list[Any]:
        asked: list[Any] = []

        def connect_services(direct: bool) -> Any:
            return SimpleNamespace(
                for_domain=lambda domain: asked.append((direct, domain)), for_credential=lambda name: asked.append((direct, name)),
            )

        identity: Any = SimpleNamespace(server_tls=connect_services, credential=lambda local, peer: f"{peer}'s")
        side = replace(self.made(**policy), identity=identity)
        side.tls(order)
        return asked

    def test_by_sni(self) -> None:
        """R11: direct TLS uses SNI."""
        self.assertEqual(self.shown(None), [(True, None)])

    def test_by_to(self) -> None:
        """R11: STARTTLS uses the domain in the stream header."""
        self.assertEqual(self.shown(StartTLS(OURS, PEER)), [(False, OURS)])

    def test_by_peer(self) -> None:
        """If a peer's policy names a certificate, that one is shown. The peer must be known before TLS."""
        certificate = str(Path(self.mktemp()).absolute())
        self.assertEqual(self.shown(StartTLS(OURS, PEER), certificate=certificate), [(False, "peer.example's")])
        self.assertEqual(self.shown(StartTLS(OURS, None), certificate=certificate), [(False, OURS)])
