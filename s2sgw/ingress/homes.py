"""The node that owns a pair: the queues of one peer are on one node at a time (docs/decisions.md#nodes).

The stanzas of a pair may enter a queue only on its home. A node that runs alone is the home of all pairs.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Protocol

from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza


def home_of(pair: Pair, local_domains: Container[Domain]) -> Domain:
    """Return the domain whose node owns `pair`: the peer of the pair; of two local domains, the lesser name.

    A pair and its inverse have the same home, so that a bounce does not leave the node.
    """
    peers = [domain for domain in pair if domain not in local_domains]
    return peers[0] if len(peers) == 1 else min(pair, key=_name)


def _name(domain: Domain) -> str:
    return domain.ascii


class Homes(Protocol):
    """The agreement of the nodes on the owner of each pair."""

    async def claim(self, home: Domain) -> Ending | None:
        """Make this node the owner of every pair of `home`; return why stanzas may not enter here, or None.

        Asked once for each pair of a stream, before its first stanza enters a queue. May wait for other nodes.
        """


class StanzaReturn(Protocol):
    """Answers stanzas that were read here, may enter no queue here, and are not sent again by a server with XEP-0198."""

    def give_back(self, pair: Pair, stanzas: Sequence[Stanza], cause: Cause) -> None:
        """Answer these stanzas with errors, by the node that owns `pair`. `cause`: why they may not enter here."""


class SingleNode:
    """The `Homes` of a gateway that runs alone: it owns every pair, so no stanza is given back."""

    async def claim(self, home: Domain) -> Ending | None:
        """Return None at once."""
        return None

    def give_back(self, pair: Pair, stanzas: Sequence[Stanza], cause: Cause) -> None:
        """See `StanzaReturn`. Do nothing."""
