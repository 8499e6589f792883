"""Rates by site: how often a second strangers at one address may have us do something.

Of IPv6 the /56 and the /48 around it are rated too, which are often one customer's. An IPv4 /24 has many owners: it is not.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from s2sgw.net.sites import IPV4_SITES, Site
from s2sgw.xmpp.bounded_dict import BoundedDict
from s2sgw.xmpp.token_bucket import TokenBucket

#: How much more than the /64 the /56 may ask for, and than that the /48.
WIDER = 4
#: Sites that are remembered. The sites that asked longest ago are forgotten first.
REMEMBERED = 8192


class SiteRates:
    """Token buckets by site: `rate` a second for one address (IPv6: one /64), and `burst` at once."""

    def __init__(self, clock: IReactorTime, rate: float, burst: float) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._buckets: BoundedDict[str, TokenBucket] = BoundedDict(REMEMBERED)

    def take(self, site: Site) -> bool:
        """Take a token of `site` (of IPv6, of each network around it too); return whether there was one everywhere."""
        now = self._clock.seconds()
        rated = site[-1:] if len(site) == len(IPV4_SITES) else site
        buckets = [self._bucket(name, WIDER**steps, now) for steps, name in enumerate(reversed(rated))]
        if not all(bucket.has(1, now) for bucket in buckets):
            return False
        for bucket in buckets:
            bucket.spend(1, now)
        return True

    def _bucket(self, name: str, factor: int, now: float) -> TokenBucket:
        bucket = self._buckets.use(name)
        if bucket is None:
            bucket = self._buckets[name] = TokenBucket(self._rate * factor, now, self._burst * factor)
        return bucket
