"""Tests of the initiating half of the federation leg."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.authentication.shared_secrets import SharedSecrets
from s2sgw.net.discovery import Target
from s2sgw.policy.model import PeerObject
from s2sgw.policy.peers import PeerPolicies
from s2sgw.policy.verdict import Verdict
from s2sgw.s2s.federation_initiating import FederationInitiating
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.fakes import OneDomain

OURS, PEER = Domain.parse("ours.example"), Domain.parse("peer.example")

SERVER = Target("s.peer.example", 5269, ("192.0.2.1", "2001:db8::1"))


class OutboundReconsiderTests(SynchronousTestCase):
    """Tests of the current policy's decision on an open stream of ours."""

    def reconsidered(self, verdict: Verdict, **policy: Any) -> Cause | None:
        peers = PeerPolicies({"default": PeerObject(**policy)})

        async def opinion(connection: object, peer: Domain, role: str, target: Target) -> Verdict:
            self.assertEqual((PEER, "receiving", SERVER), (peer, role, target))
            return verdict

        side: Any = SimpleNamespace(peers=peers, secrets=SharedSecrets(peers), judge_of=SimpleNamespace(opinion=opinion))
        asked = FederationInitiating.reconsider(side, None, Pair(OURS, PEER), SERVER)  # type: ignore[arg-type]
        refusal = self.successResultOf(Deferred.fromCoroutine(asked))
        return refusal.ending.cause if refusal else None

    def test_reconsidered(self) -> None:
        """The peer is barred, refused by the verdict, or neither."""
        self.assertEqual(Cause.NOT_ALLOWED, self.reconsidered(Verdict(), allow=False))
        self.assertEqual(Cause.EXPIRED, self.reconsidered(Verdict(ending=Ending(Cause.EXPIRED))))
        self.assertIsNone(self.reconsidered(Verdict(external=True)))


class BarredTests(SynchronousTestCase):
    """Tests of attempts to reach a peer that the policy bars."""

    def test_nowhere(self) -> None:
        """It is looked up nowhere and not connected to, also if stanzas wait for it from before a restart."""
        none: Any = None
        peers = PeerPolicies({"peer.example": PeerObject(allow=False)})
        side = FederationInitiating(peers, none, none, none, none, none, none, none, none)
        found = self.successResultOf(Deferred.fromCoroutine(side.resolve(Pair(OURS, PEER))))
        assert found.ending is not None
        self.assertEqual((Cause.NOT_ALLOWED, ()), (found.ending.cause, found.targets))


class ProxyTests(SynchronousTestCase):
    """Tests of what a proxy is asked to connect to."""

    def test_names(self) -> None:
        """The proxy gets the name of each host once, however many addresses it has. A name that it could misread is left out."""
        hosts = ("a.example", "198.51.100.1", "2001:db8::1", "a.example:22", "a b.example", "a@b.example", "a\\013.example", "[::1]")
        targets = [Target(host, 5269, ("192.0.2.1", "192.0.2.2")) for host in hosts]
        for names, given in ((True, [(host,) for host in hosts[:3]]), (False, [("192.0.2.1", "192.0.2.2")] * len(hosts))):
            side: Any = SimpleNamespace(routes=SimpleNamespace(dials_names=lambda peer, names=names: names), peers=PeerPolicies())
            found = FederationInitiating.dial_targets(side, Pair(OURS, PEER), targets)
            self.assertEqual([target.addresses for target in found], given)


class SharedStreamTests(SynchronousTestCase):
    """XEP-0220 §2.6.1: tests of which of our streams to a peer may be shared."""

    def shown(self, local: Domain = OURS, fingerprint: str | None = "ab12", **policy: Any) -> str | None:
        none: Any = None
        certificate = None if fingerprint is None else SimpleNamespace(fingerprint=fingerprint)
        peers = PeerPolicies({"default": PeerObject(**policy)})
        side = FederationInitiating(peers, none, none, none, OneDomain(OURS, certificate), none, none, none, none)
        return side.shown(Pair(local, PEER))

    def test_certificate(self) -> None:
        """Streams with the same certificate, or none, may be shared, unless the policy says otherwise."""
        self.assertEqual((self.shown(), self.shown(fingerprint=None)), ("ab12", ""))
        self.assertIsNone(self.shown(features={"multiplexing": False}))

    def test_domain_that_was_given_up(self) -> None:
        """No stream is shared with a domain that was given up, and its own streams carry nothing back (R36)."""
        self.assertIsNone(self.shown(Domain.parse("former.example")))
        none: Any = None
        judge: Any = SimpleNamespace(begin=lambda *ignored: None)
        acks: Any = SimpleNamespace(use_stream_management=lambda peer: True, use_resumption=lambda peer: True)
        extensions: Any = SimpleNamespace(usable=lambda name, extension: True)
        side = FederationInitiating(PeerPolicies({}), none, judge, none, OneDomain(OURS), none, none, acks, extensions)
        offered = [side.engine(Pair(local, PEER), SERVER, False).options.bidi for local in (OURS, Domain.parse("former.example"))]
        self.assertEqual([True, False], offered)

    def test_secret(self) -> None:
        """R26: no stream is shared if there is a shared secret: each pair proves itself by it."""
        path = Path(self.mktemp()).absolute()
        path.touch()
        self.assertIsNone(self.shown(secret_file=str(path)))
