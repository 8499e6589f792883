"""Rates by site: how many actions a second the strangers at one address may cause.

For IPv6, the /56 and the /48 around the /64 are rated too, because they often belong to one customer. An IPv4 /24 has many owners
and is not rated.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from s2sgw.net.sites import IPV4_SITES, Site
from s2sgw.xmpp.bounded_dict import BoundedDict
from s2sgw.xmpp.token_bucket import TokenBucket

#: The rate of the /56 as a multiple of the /64's, and of the /48 as a multiple of the /56's.
WIDER = 4
#: Sites that are remembered. The least recently used are forgotten first.
REMEMBERED = 8192


class SiteRates:
    """Token buckets by site: `rate` a second for one address (IPv6: one /64), and `burst` at once."""

    def __init__(self, clock: IReactorTime, rate: float, burst: float) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._buckets: BoundedDict[str, TokenBucket] = BoundedDict(REMEMBERED)

    def take(self, site: Site) -> bool:
        """Take a token of `site` (for IPv6, of each network around it too). Return whether there was one in each."""
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
