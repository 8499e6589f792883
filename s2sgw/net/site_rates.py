"""Rates by site: how often a second strangers at one address, and in the networks around it, may have us do something."""

from __future__ import annotations

from collections import OrderedDict

from twisted.internet.interfaces import IReactorTime

from s2sgw.net.sites import Site
from s2sgw.xmpp.token_bucket import TokenBucket

#: How much more than the narrowest site each wider one may ask for.
WIDER = 4
#: Sites that are remembered; those that asked longest ago begin anew.
REMEMBERED = 8192


class SiteRates:
    """Token buckets by site: `rate` a second for the narrowest, and `burst` at once."""

    def __init__(self, clock: IReactorTime, rate: float, burst: float) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, site: Site) -> bool:
        """Take a token of `site` and of each site around it; return whether there was one everywhere."""
        now = self._clock.seconds()
        buckets = [self._bucket(name, WIDER**steps, now) for steps, name in enumerate(reversed(site))]
        if not all(bucket.has(1, now) for bucket in buckets):
            return False
        for bucket in buckets:
            bucket.spend(1, now)
        return True

    def _bucket(self, name: str, factor: int, now: float) -> TokenBucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = TokenBucket(self._rate * factor, now, self._burst * factor)
            if len(self._buckets) > REMEMBERED:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(name)
        return bucket
