"""Rates by site: how many actions a second the strangers at one address may cause.

For IPv6, the /56 and the /48 around the /64 are rated too, because they often belong to one customer. An IPv4 /24 has many owners
and is not rated.
"""

from __future__ import annotations

from typing import NamedTuple

from twisted.internet.interfaces import IReactorTime

from s2sgw.net.sites import IPV4_SITES, Site
from s2sgw.xmpp.fair_dict import FairDict
from s2sgw.xmpp.token_bucket import TokenBucket

#: The rate of the /56 as a multiple of the /64's, and of the /48 as a multiple of the /56's.
WIDER = 4
#: Sites that are remembered. The widest network that has the most (a /24, or a /48) loses its least recently used first.
REMEMBERED = 8192


class _Rated(NamedTuple):
    """The bucket of a site, and the widest network around it."""

    widest: str
    bucket: TokenBucket


class SiteRates:
    """Token buckets by site: `rate` a second for one address (IPv6: one /64), and `burst` at once."""

    def __init__(self, clock: IReactorTime, rate: float, burst: float) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._buckets: FairDict[str, _Rated] = FairDict(REMEMBERED, _owner)

    def take(self, site: Site) -> bool:
        """Take a token of `site` (for IPv6, of each network around it too). Return whether there was one in each."""
        now = self._clock.seconds()
        rated = site[-1:] if len(site) == len(IPV4_SITES) else site
        buckets: list[TokenBucket] = []
        for steps, name in zip(range(len(rated) - 1, -1, -1), rated, strict=True):  # a narrower one is noted only if it counts
            buckets.append(self._bucket(name, site[0], WIDER**steps, now))
            if not buckets[-1].has(1, now):
                return False
        for bucket in buckets:
            bucket.spend(1, now)
        return True

    def _bucket(self, name: str, widest: str, factor: int, now: float) -> TokenBucket:
        rated = self._buckets.get(name) or _Rated(widest, TokenBucket(self._rate * factor, now, self._burst * factor))
        self._buckets[name] = rated  # it is the newest now
        return rated.bucket


def _owner(name: str, rated: _Rated) -> str:
    return rated.widest
