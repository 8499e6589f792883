"""The federation's receiving side: who may come at all, from where, and within which limits."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.authentication.judge import Judge, permission
from s2sgw.authentication.refusals import refusal_of_unproven
from s2sgw.net.discovery import Resolution, Target
from s2sgw.net.requester import QUESTIONS, Requester
from s2sgw.policy.denylist import DenyList
from s2sgw.policy.model import PeerObject
from s2sgw.policy.peers import PeerPolicies
from s2sgw.policy.verdict import Verdict
from s2sgw.s2s.claims import Claims
from s2sgw.s2s.federation_initiating import FederationInitiating
from s2sgw.s2s.federation_receiving import FederationReceiving
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
    """Where a peer connects from."""

    def __init__(self, address: str = "192.0.2.1:40000") -> None:
        self.peer_address = address
        self.closed: Deferred[None] = Deferred()

    def when_closed(self) -> Deferred[None]:
        return self.closed


class InboundTestCase(SynchronousTestCase):
    """A side whose look-ups and verdicts are the test's own."""

    opinion = Verdict()
    contradicted = False
    known: tuple[Domain, ...] = ()
    #: open streams of the peer
    streams = 0
    external = True

    def setUp(self) -> None:
        #: who asked for what was looked up
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
        """As `AcceptedStreamLimit`."""
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
    """The names that can be a peer's."""

    def cause_of(self, side: FederationReceiving, name: str) -> Cause | None:
        refusal = side.refuses_sender(Domain.parse(name))
        return refusal.ending.cause if refusal else None

    def test_r14(self) -> None:
        """R14: our own domains, addresses and single labels are none."""
        side = self.made()
        for name in ("ours.example", "192.0.2.1", "localhost"):
            self.assertEqual(Cause.INVALID_FROM, self.cause_of(side, name))
        self.assertIsNone(self.cause_of(side, "peer.example"))

    def test_not_allowed(self) -> None:
        """What the policy does not allow is refused with policy-violation."""
        side = self.made(allow=False)
        refusal = side.refuses_sender(PEER)
        assert refusal is not None
        self.assertEqual((Cause.NOT_ALLOWED, "policy-violation"), (refusal.ending.cause, refusal.condition.value))

    def test_deny_listed(self) -> None:
        """The peer hears that a list names it, and not which; our record says which."""
        side = self.made()
        self.peers.deny([DenyList("https://lists.example/secret", frozenset({"peer.example"}))])
        refusal = side.refuses_sender(PEER)
        assert refusal is not None
        self.assertEqual((Cause.DENY_LISTED, "policy-violation"), (refusal.ending.cause, refusal.condition.value))
        self.assertNotIn("lists.example", refusal.text)
        self.assertIn("lists.example", refusal.ending.detail)


class JudgementTests(InboundTestCase):
    """What a peer that asserts itself is permitted."""

    def test_limits(self) -> None:
        """R32: the permission carries the peer's own limits, and whether they are announced."""
        permission = self.judged(self.made(limits={"stanza_bytes": 12345}, features={"limits": False}))
        assert permission.limits is not None
        self.assertEqual((12345, False, True), (permission.limits.stanza_bytes, permission.announced, permission.external))
        self.assertTrue(self.judged(self.made()).announced)

    def test_unresolved(self) -> None:
        """R2: a name that does not resolve is refused whatever else holds."""
        unresolved = Resolution(PEER, (), Ending(Cause.NO_SUCH_DOMAIN))
        self.assertEqual(Cause.NO_SUCH_DOMAIN, self.cause(self.judged(self.made(resolution=unresolved, resolve="address-match"))))

    def test_streams(self) -> None:
        """One stream more than the limit is refused, where the certificate proves the peer; else dialback or SCRAM has to first."""
        for streams, external, cause in ((3, True, None), (4, True, Cause.TOO_MANY_STREAMS), (4, False, None)):
            self.streams, self.external = streams, external
            self.assertEqual(cause, self.cause(self.judged(self.made())))

    def test_streams_by_dialback(self) -> None:
        """A key that is valid proves a peer that has too many streams: the answer is an error, and the record says why."""
        for streams, kind in ((3, "valid"), (4, "error")):
            self.streams = streams
            question = DialbackNeeded(Pair(PEER, OURS), "key", "id")
            outcome = self.successResultOf(Deferred.fromCoroutine(self.made().verify(FakeConnection(), question)))  # type: ignore[arg-type]
            self.assertEqual(kind, outcome.type)
        assert outcome.ending is not None
        self.assertEqual(Cause.TOO_MANY_STREAMS, outcome.ending.cause)

    def test_streams_at_the_proof(self) -> None:
        """At the proof itself the limit is asked once more."""
        for streams in (3, 4):
            self.streams = streams
            excess = self.made().excess(FakeConnection(), Pair(PEER, OURS))  # type: ignore[arg-type]
            self.assertEqual(streams >= 4, excess is not None)
        assert excess is not None
        self.assertEqual(StreamCondition.RESOURCE_CONSTRAINT, excess.condition)

    def test_address_match(self) -> None:
        """`resolve = "address-match"`: any address that the look-up gives, in any spelling; no other."""
        for address, cause in (
            ("192.0.2.1:40000", None), ("[2001:db8:0:0::1]:40000", None), ("[::ffff:192.0.2.1]:40000", None),
            ("192.0.2.2:40000", Cause.ADDRESS_MISMATCH), ("[2001:db8::2]:5269", Cause.ADDRESS_MISMATCH),
        ):
            self.assertEqual(cause, self.cause(self.judged(self.made(resolve="address-match"), address)), address)
            self.assertIsNone(self.cause(self.judged(self.made(), address)))

    def test_route(self) -> None:
        """Where there is a route, its address is the one that must match."""
        self.judged(self.made(resolve="address-match", route="192.0.2.9"))
        self.assertEqual(["192.0.2.9:5269"], self.asked)


class RequesterTests(InboundTestCase):
    """The requester of look-ups for a claimed name."""

    def verified(self, side: FederationReceiving, connection: FakeConnection) -> Requester:
        needed = DialbackNeeded(Pair(PEER, OURS), "key", "id")
        self.successResultOf(Deferred.fromCoroutine(side.verify(connection, needed)))  # type: ignore[arg-type]
        return self.requesters[-1]

    def test_stranger(self) -> None:
        """A claim is one requester, by its address, from the judgement to the verification; after a minute it is a new one."""
        side, connection = self.made(), FakeConnection("192.0.2.1:40000")
        first = self.verified(side, connection)
        self.assertEqual((first.owner, first.is_stranger, first.questions_left), (("192.0.2.0/24", "192.0.2.1/32"), True, QUESTIONS))
        self.assertIs(self.verified(side, connection), first)
        self.assertIsNot(self.verified(side, FakeConnection("192.0.2.1:40001")), first)
        self.clock.advance(60.0)
        self.assertIsNot(self.verified(side, connection), first)

    def test_known(self) -> None:
        """A peer that was proven lately, or that the configuration names, is looked up as our own affair."""
        self.known = (PEER,)
        self.judged(self.made())
        self.assertEqual([(each.owner, each.is_stranger) for each in self.requesters], [(("peer.example",), False)])

    def test_address_match(self) -> None:
        """Where the address must match all targets may be asked for."""
        self.assertEqual(self.verified(self.made(resolve="address-match"), FakeConnection()).questions_left, 40)

    def test_abandoned(self) -> None:
        """What was begun beside the handshake ends with the connection."""
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

    def test_nothing_to_abandon(self) -> None:
        """A stream for which nothing more is looked up holds nothing of the look-ups until it ends."""
        side, connection = self.made(), FakeConnection()
        side.judge_of.begin = lambda *arguments, **more: succeed(None)  # type: ignore[method-assign]
        added: list[object] = []
        self.patch(connection.closed, "addCallbacks", lambda *callbacks: added.append(callbacks))
        answer = Deferred.fromCoroutine(side.resolve(connection, ResolutionNeeded(PEER, OURS)))  # type: ignore[arg-type]
        self.assertIsNone(self.successResultOf(answer))
        self.assertEqual([], added)


class ReconsiderTests(InboundTestCase):
    """What the policy of now makes of a stream that is open."""

    opinion = Verdict(external=True)

    def reconsidered(self, method: str = "EXTERNAL", address: str = "192.0.2.1:40000", **made: Any) -> Cause | None:
        side = self.made(**made)
        asked = side.reconsider(SimpleNamespace(peer_address=address), Pair(PEER, OURS), method)  # type: ignore[arg-type]
        refusal = self.successResultOf(Deferred.fromCoroutine(asked))
        return refusal.ending.cause if refusal else None

    def test_by_method(self) -> None:
        """Each method as far as the verdict still lets it prove the peer; one that the verdict does not speak of goes on."""
        self.opinion = Verdict(external=True, dialback=False)
        self.assertEqual([None, None, Cause.NOT_PROVEN, None], [self.reconsidered(method) for method in METHODS])
        self.opinion = Verdict(external=False, dialback=True)
        lost = [self.reconsidered(method) for method in METHODS]
        self.assertEqual([Cause.NOT_PROVEN, Cause.NOT_PROVEN, None, Cause.NOT_PROVEN], lost)

    def test_refused(self) -> None:
        """The verdict's own ending is the reason."""
        self.opinion = Verdict(ending=Ending(Cause.TLS_TOO_OLD))
        self.assertEqual(Cause.TLS_TOO_OLD, self.reconsidered())

    def test_zero_handshake(self) -> None:
        """XEP-0361: such a stream stays while it is agreed and a pinned key proves the peer."""
        for proven_by, agreed, cause in (("pin", True, None), ("pkix", True, Cause.NOT_PROVEN), ("pin", False, Cause.NOT_PROVEN)):
            self.opinion = Verdict(external=True, proven_by=proven_by)  # type: ignore[arg-type]
            self.assertEqual(cause, self.reconsidered("zero-handshake", zero_handshake=agreed))

    def test_mechanism_barred(self) -> None:
        """A stream that was authenticated by a mechanism which the policy names no more is closed; others stay."""
        self.assertEqual(Cause.NOT_PROVEN, self.reconsidered("EXTERNAL", sasl=("SCRAM-SHA-256",)))
        self.assertIsNone(self.reconsidered("certificate", sasl=("SCRAM-SHA-256",)))

    def test_barred(self) -> None:
        """A peer that is not allowed is refused before any look-up, with a text that tells a stranger nothing else."""
        self.assertEqual(Cause.NOT_ALLOWED, self.reconsidered(allow=False))
        self.assertEqual(Cause.NOT_ALLOWED, self.reconsidered("", allow=False))
        self.opinion = Verdict(ending=Ending(Cause.NOT_PROVEN))
        self.assertIsNone(self.reconsidered(""))

    def test_address(self) -> None:
        """`address-match` holds for open streams too; a look-up that fails just now refuses nobody."""
        self.assertEqual(Cause.ADDRESS_MISMATCH, self.reconsidered(address="192.0.2.2:1", resolve="address-match"))
        self.assertIsNone(self.reconsidered(resolve="address-match"))
        unreachable = Resolution(PEER, (), Ending(Cause.DNS_UNREACHABLE))
        self.assertIsNone(self.reconsidered(address="192.0.2.2:1", resolve="address-match", resolution=unreachable))


class ZeroHandshakeTests(InboundTestCase):
    """XEP-0361."""

    def test_dialled(self) -> None:
        """It is TLS from the first byte, whatever the route says."""
        side: Any = SimpleNamespace(routes=SimpleNamespace(dials_names=lambda peer: False))
        for agreed in (True, False):
            side.peers = PeerPolicies({"peer.example": PeerObject(zero_handshake=agreed)})
            (target,) = FederationInitiating.dial_targets(side, Pair(OURS, PEER), [Target("192.0.2.1", 5269, ("192.0.2.1",))])
            self.assertEqual(target.direct_tls, agreed)

    def test_identified(self) -> None:
        """The peers are those that have agreed and for whom the key is pinned; without a certificate there are none."""
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
        """What is agreed is as the configuration of now says."""
        policies = PeerPolicies({"peer.example": PeerObject(zero_handshake=True, pins=("sha256:" + "0" * 64,))})
        key = "sha256:" + "0" * 64
        self.assertEqual((PEER,), policies.agreed(key))
        policies.adopt(PeerPolicies({}))
        self.assertEqual((), policies.agreed(key))


class BothWaysTests(InboundTestCase):
    """R36: who may have stanzas of ours on a stream of its own."""

    def test_proven(self) -> None:
        """R36: a peer that its certificate proves, unless the policy keeps it from that."""
        self.assertTrue(self.judged(self.made()).bidi)
        self.assertFalse(self.judged(self.made(features={"bidi": False})).bidi)

    def test_contradicted(self) -> None:
        """R22: not where the DNS speaks of another key."""
        self.contradicted = True
        permission = self.judged(self.made())
        self.assertEqual((permission.external, permission.bidi), (True, False))


class CertificateTests(InboundTestCase):
    """R11: which certificate an asserted peer is shown."""

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
        """R11: direct TLS goes by SNI."""
        self.assertEqual(self.shown(None), [(True, None)])

    def test_by_to(self) -> None:
        """R11: STARTTLS goes by the domain that was asked for."""
        self.assertEqual(self.shown(StartTLS(OURS, PEER)), [(False, OURS)])

    def test_by_peer(self) -> None:
        """A peer whose policy names a certificate is shown that one; who it is must be known before TLS."""
        certificate = str(Path(self.mktemp()).absolute())
        self.assertEqual(self.shown(StartTLS(OURS, PEER), certificate=certificate), [(False, "peer.example's")])
        self.assertEqual(self.shown(StartTLS(OURS, None), certificate=certificate), [(False, OURS)])
