"""Tests of rates: how much one peer may send per second, slowed or refused."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.ingress import rates
from s2sgw.ingress.rates import RateLimiter, RateLimiters
from s2sgw.policy.model import Limits, StanzaRates
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.stanza import Kind, Stanza

PEER = Domain.parse("peer.example")


def stanza(kind: Kind = "message", size: int = 100) -> Stanza:
    return Stanza(kind, b"x" * size, "a@ours.example", "b@peer.example")


class MeterTests(SynchronousTestCase):
    """Tests of the buckets of one peer."""

    def setUp(self) -> None:
        self.clock = Clock()

    def rate_limiter(self, **limits: Any) -> RateLimiter:
        return RateLimiter(Limits(**limits), self.clock)

    def outcome(self, rate_limiter: RateLimiter, *stanzas: Stanza) -> str:
        """Return one letter for each stanza: passed or refused, in order."""
        passed, refused = rate_limiter.partition(list(stanzas))
        self.assertEqual({Cause.RATE_EXCEEDED} if refused else set(), {ending.cause for _, ending in refused})
        return "p" * len(passed) + "r" * len(refused)

    def test_slow_by_bytes(self) -> None:
        """Every stanza passes, and the peer then waits until its debt is paid."""
        rate_limiter = self.rate_limiter(bytes_per_second=1000)
        run = [stanza(size=1000), stanza(size=1000), stanza(size=500)]
        self.assertEqual((run, []), rate_limiter.partition(run))
        self.assertEqual(0.5, rate_limiter.seconds_to_wait())
        self.clock.advance(0.5)
        self.assertEqual(0.0, rate_limiter.seconds_to_wait())

    def test_slow_by_kind(self) -> None:
        """The peer waits for the longest debt of all rates that apply."""
        rate_limiter = self.rate_limiter(stanzas_per_second=StanzaRates(total=100, presence=1))
        rate_limiter.partition([stanza("message")] * 50)
        self.assertEqual(0.0, rate_limiter.seconds_to_wait())
        rate_limiter.partition([stanza("presence")] * 5)
        self.assertEqual(3.0, rate_limiter.seconds_to_wait())

    def test_refuse_a_kind(self) -> None:
        """Only the kind that exceeds its rate is refused. The others pass, and no stanza waits."""
        rate_limiter = self.rate_limiter(stanzas_per_second=StanzaRates(presence=1), excess="refuse")
        passed, refused = rate_limiter.partition([stanza("presence"), stanza("message"), stanza("presence"), stanza("presence"), stanza("iq")])
        self.assertEqual(["presence", "message", "presence", "iq"], [each.kind for each in passed])
        self.assertEqual(["presence"], [each.kind for each, _ in refused])
        self.assertEqual("the policy for this peer lets 1 stanzas of kind presence a second pass", refused[0][1].detail)
        self.assertEqual(0.0, rate_limiter.seconds_to_wait())
        self.clock.advance(1)
        self.assertEqual("pr", self.outcome(rate_limiter, stanza("presence"), stanza("presence")))

    def test_refuse_by_total_and_bytes(self) -> None:
        """Each rate alone refuses what exceeds it. A refused stanza costs nothing."""
        total = self.rate_limiter(stanzas_per_second=StanzaRates(total=2), excess="refuse")
        self.assertEqual("ppppr", self.outcome(total, *[stanza(kind) for kind in ("message", "iq", "presence", "message", "iq")]))
        size = self.rate_limiter(bytes_per_second=100, excess="refuse")
        self.assertEqual("pprr", self.outcome(size, *[stanza()] * 4))
        self.clock.advance(1)
        self.assertEqual("pr", self.outcome(size, *[stanza()] * 2))
        self.assertIn("100 bytes", size.partition([stanza()])[1][0][1].detail)


class MetersTests(SynchronousTestCase):
    """Tests of the meters of all peers."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.rate_limiters = RateLimiters(self.clock)

    def test_one_for_a_peer(self) -> None:
        """All streams of a peer share one meter. Other limits make a new one."""
        limits = Limits(bytes_per_second=10)
        first = self.rate_limiters.for_peer(PEER, limits)
        self.assertIs(first, self.rate_limiters.for_peer(PEER, Limits(bytes_per_second=10)))
        self.assertIsNot(first, self.rate_limiters.for_peer(Domain.parse("other.example"), limits))
        self.assertIsNot(first, self.rate_limiters.for_peer(PEER, Limits(bytes_per_second=11)))

    def test_no_rate(self) -> None:
        """Without a rate there is no meter."""
        self.assertIsNone(self.rate_limiters.for_peer(PEER, Limits()))
        self.assertIsNotNone(self.rate_limiters.for_peer(PEER, Limits(stanzas_per_second=StanzaRates(iq=1))))

    def test_bounded(self) -> None:
        """Names that strangers choose are forgotten, the least recently used first."""
        self.patch(rates, "MAX_RATE_LIMITERS", 2)
        limits = Limits(bytes_per_second=10)
        first = self.rate_limiters.for_peer(PEER, limits)
        self.rate_limiters.for_peer(Domain.parse("a.example"), limits)
        self.assertIs(first, self.rate_limiters.for_peer(PEER, limits))
        self.rate_limiters.for_peer(Domain.parse("b.example"), limits)
        self.assertIs(first, self.rate_limiters.for_peer(PEER, limits))

    def test_many_names_of_one_domain(self) -> None:
        """A peer with many sub-domains does not end the debt of another peer: only its own rate limiters start anew."""
        self.patch(rates, "MAX_RATE_LIMITERS", 10)
        self.rate_limiters, limits = RateLimiters(self.clock), Limits(bytes_per_second=10)
        first = self.rate_limiters.for_peer(PEER, limits)
        for number in range(100):
            self.rate_limiters.for_peer(Domain.parse(f"p{number}.many.example"), limits)
        self.assertIs(first, self.rate_limiters.for_peer(PEER, limits))
