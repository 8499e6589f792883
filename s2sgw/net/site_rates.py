"""Rates by site: how often a second strangers at one address, and in the networks around it, may have us do something."""

from __future__ import annotations

from collections import OrderedDict

from twisted.internet.interfaces import IReactorTime

from s2sgw.net.sites import Site

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
        #: tokens that are left, and when that was
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, site: Site) -> bool:
        """Take a token of `site` and of each site around it; return whether there was one everywhere."""
        now = self._clock.seconds()
        left: dict[str, float] = {}
        for steps, name in enumerate(reversed(site)):
            factor = WIDER**steps
            tokens, at = self._buckets.get(name, (self._burst * factor, now))
            tokens = min(tokens + (now - at) * self._rate * factor, self._burst * factor)
            if tokens < 1:
                return False
            left[name] = tokens - 1
        for name, tokens in left.items():
            self._buckets[name] = (tokens, now)
            self._buckets.move_to_end(name)
        while len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return True
