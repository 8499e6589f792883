"""The filter and the rate limits of a peer's policy, between a proven pair and its delivery queue."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from s2sgw.ingress.rates import RateLimiter, RateLimiters
from s2sgw.policy.filters import Filter, Refused
from s2sgw.policy.peers import PeerPolicies
from s2sgw.reporting.record import Leg
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.stanza import Stanza


class StanzaFilter:
    """The filter and the rates for the stanzas of a pair.

    `answers`: a refused stanza is answered by a stanza error, and not dropped.
    """

    def __init__(self, filter: Filter | None, rate_limiter: RateLimiter | None, answers: bool) -> None:
        self._filter = filter
        self._rate_limiter = rate_limiter
        self.answers = answers

    def seconds_to_wait(self) -> float:
        """Return the seconds for which the next stanzas of the pair have to wait."""
        return 0.0 if self._rate_limiter is None else self._rate_limiter.seconds_to_wait()

    def partition(self, stanzas: list[Stanza]) -> tuple[list[Stanza], list[Refused]]:
        """Return the stanzas that pass, and those that do not. A filtered stanza counts for no rate."""
        filtered: list[Refused] = []
        if self._filter is not None:
            stanzas, filtered = self._filter.sift(stanzas)
        if self._rate_limiter is None:
            return stanzas, filtered
        passed, refused = self._rate_limiter.partition(stanzas)
        return passed, filtered + refused


class StanzaFilters:
    """Makes the filters of pairs."""

    def __init__(self, peers: PeerPolicies, clock: IReactorTime) -> None:
        self._peers = peers
        self._rate_limiters = RateLimiters(clock)

    def of(self, leg: Leg, pair: Pair) -> StanzaFilter | None:
        """Return the filter for stanzas of `pair` that come in on `leg`; None: all of them pass.

        Filters apply to both directions, rates to stanzas from the peer.
        """
        inbound = leg == "federation"
        peer = pair.sender if inbound else pair.recipient
        policy = self._peers.policy(peer)
        filter = Filter.of(policy)
        rate_limiter = self._rate_limiters.for_peer(peer, policy.limits) if inbound else None
        return None if filter is None and rate_limiter is None else StanzaFilter(filter, rate_limiter, policy.denied == "error")
