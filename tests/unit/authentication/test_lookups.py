"""Tests of the look-ups for a verdict."""

from __future__ import annotations

import gc
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.authentication.lookups import LOOKUP_SECONDS, EvidenceLookups
from s2sgw.net.discovery import Resolution, Target
from s2sgw.trust.evidence import TLSALookup
from s2sgw.xmpp.jid import Domain

PEER = Domain.parse("peer.example")
TARGETS = tuple(Target(f"host{number}.example", 5269, ("192.0.2.1",), secure=True, addresses_secure=True) for number in range(2))


class Targets:
    """A peer with two targets, whose TLSA records come when the test wants it."""

    def __init__(self) -> None:
        self.asked: list[Deferred[TLSALookup]] = []

    def resolve(self, domain: Domain, route: str | None, requester: object) -> Deferred[Resolution]:
        found: Deferred[Resolution] = Deferred()
        found.callback(Resolution(domain, TARGETS))
        return found

    def tlsa(self, target: Target, requester: object) -> Deferred[TLSALookup]:
        self.asked.append(Deferred())
        return self.asked[-1]


class EvidenceLookupsTests(SynchronousTestCase):
    """Tests of the look-ups of a peer with several targets."""

    def setUp(self) -> None:
        self.clock, self.discovery = Clock(), Targets()
        nothing: Any = None
        self.lookups = EvidenceLookups(self.clock, self.discovery, nothing)  # type: ignore[arg-type]

    def test_cancelled(self) -> None:
        """A stream that ends cancels the look-ups of all targets. None of them is logged as an error."""
        begun = self.lookups.begin(PEER, None, None, dane=True, posh=False)
        self.assertEqual(2, len(self.discovery.asked))
        begun.cancel()
        self.assertIsNone(self.successResultOf(begun))
        self.assertEqual([True, True], [each.called for each in self.discovery.asked])
        self.discovery.asked.clear()
        gc.collect()
        self.assertEqual([], self.flushLoggedErrors())

    def test_late(self) -> None:
        """A record that does not come in time is one more failure, and the others count."""
        found = Deferred.fromCoroutine(self.lookups.dane(PEER, None, None))
        first = TLSALookup(TARGETS[0].host, addresses_secure=True)
        self.discovery.asked[0].callback(first)
        self.assertNoResult(found)
        self.clock.advance(LOOKUP_SECONDS)
        self.assertEqual((first, TLSALookup(TARGETS[1].host, failure="no answer in time")), self.successResultOf(found))
