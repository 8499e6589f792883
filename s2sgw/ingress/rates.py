"""Rate limits of one peer, in bytes and in stanzas a second, on all of its streams together.

A token bucket holds what may be spent at once, and fills at its rate. With `excess = "slow"` in the policy, spending more than it
holds leaves a debt, for which the peer waits. With `excess = "refuse"` the excess is refused.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from s2sgw.policy.filters import Refused
from s2sgw.policy.model import Limits
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.fair_dict import FairNames
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.stanza import Stanza
from s2sgw.xmpp.token_bucket import TokenBucket

#: Peers whose rate limiters are kept. Beyond that, of the registered domain that has the most, the one that was unused longest
#: starts anew.
MAX_RATE_LIMITERS = 4096


class RateLimiter:
    """The token buckets of one peer."""

    def __init__(self, limits: Limits, clock: IReactorTime) -> None:
        self.limits = limits
        self._clock = clock
        now = clock.seconds()
        rates = limits.stanzas_per_second
        kinds = {"message": rates.message, "presence": rates.presence, "iq": rates.iq}
        self._bytes = TokenBucket(limits.bytes_per_second, now) if limits.bytes_per_second else None
        self._total = TokenBucket(rates.total, now) if rates.total else None
        self._kinds = {kind: TokenBucket(rate, now) for kind, rate in kinds.items() if rate}

    def seconds_to_wait(self) -> float:
        """Return the seconds for which the next stanzas of the peer must wait; 0 if the excess is refused."""
        if self.limits.excess == "refuse":
            return 0.0
        now = self._clock.seconds()
        return max(bucket.debt(now) for bucket in (self._bytes, self._total, *self._kinds.values()) if bucket is not None)

    def partition(self, stanzas: list[Stanza]) -> tuple[list[Stanza], list[Refused]]:
        """Return the stanzas that pass, and those that are refused, both in order. If the peer is slowed, all pass."""
        now = self._clock.seconds()
        if self.limits.excess == "slow":
            for stanza in stanzas:
                self._spend(stanza, now)
            return stanzas, []
        passed: list[Stanza] = []
        refused: list[Refused] = []
        for stanza in stanzas:
            excess = self._excess(stanza, now)
            if excess is None:
                self._spend(stanza, now)
                passed.append(stanza)
            else:
                refused.append((stanza, Ending(Cause.RATE_EXCEEDED, f"the policy for this peer lets {excess} a second pass")))
        return passed, refused

    def _excess(self, stanza: Stanza, now: float) -> str | None:
        """Return the rate that has nothing left for `stanza`, in words; None: there is enough."""
        kind = self._kinds.get(stanza.kind)
        if kind is not None and not kind.has(1, now):
            return f"{kind.rate} stanzas of kind {stanza.kind}"
        if self._total is not None and not self._total.has(1, now):
            return f"{self._total.rate} stanzas"
        if self._bytes is not None and not self._bytes.has(len(stanza.data), now):
            return f"{self._bytes.rate} bytes"
        return None

    def _spend(self, stanza: Stanza, now: float) -> None:
        kind = self._kinds.get(stanza.kind)
        if kind is not None:
            kind.spend(1, now)
        if self._total is not None:
            self._total.spend(1, now)
        if self._bytes is not None:
            self._bytes.spend(len(stanza.data), now)


class RateLimiters:
    """The rate limiters of all peers that have rates."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._rate_limiters: FairNames[RateLimiter] = FairNames(MAX_RATE_LIMITERS)

    def for_peer(self, peer: Domain, limits: Limits) -> RateLimiter | None:
        """Return the rate limiter of `peer`, a new one if its limits have changed; None: it has no rate."""
        name = peer.ascii
        if not limits.rated:
            self._rate_limiters.discard(name)
            return None
        rate_limiter = self._rate_limiters.get(name)
        if rate_limiter is None or rate_limiter.limits != limits:
            rate_limiter = RateLimiter(limits, self._clock)
        self._rate_limiters[name] = rate_limiter  # it is the newest now
        return rate_limiter
