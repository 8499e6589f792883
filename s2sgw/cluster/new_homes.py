"""The bound of new home records: how many peers of one registered domain may come to the engine in a day (docs/cluster.md). Pure.

A stranger can prove any number of sub-domains by one certificate for `*.example.org`. Each of them takes a home record in the
engine, which stays there for a day after its last use. A peer that has a home record is not counted.
"""

from __future__ import annotations

from s2sgw.xmpp.bounded_dict import BoundedDict
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.registered_domain import registered_domain
from s2sgw.xmpp.token_bucket import TokenBucket

#: The most home records that one node makes for the sub-domains of one registered domain at once, and in each later day.
NEW_HOMES = 1000
#: Seconds in which as many may be made again.
DAY = 86400.0
#: Registered domains that are remembered. Those that were not used for the longest are forgotten first.
REMEMBERED = 65536


class NewHomes:
    """Counts the home records that this node makes for peers that have none.

    `most` may be made for each registered domain at once, and as many in a day.
    """

    def __init__(self, most: int = NEW_HOMES) -> None:
        self._most = most
        self._sites: BoundedDict[str, TokenBucket] = BoundedDict(REMEMBERED)
        #: admissions that were refused since the start
        self.refused = 0

    def take(self, peer: Domain, now: float) -> bool:
        """Count a home record of `peer`; return whether it may be made. `now`: seconds of a monotonic clock."""
        site = _site(peer)
        bucket = self._sites.use(site)
        if bucket is None:
            bucket = self._sites[site] = TokenBucket(self._most / DAY, now, self._most)
        return bucket.take(now)

    def give_back(self, peer: Domain, now: float) -> None:
        """Do not count a home record of `peer` that was not made."""
        bucket = self._sites.get(_site(peer))
        if bucket is not None:
            bucket.spend(-1, now)


def _site(peer: Domain) -> str:
    return registered_domain(peer.ascii)
