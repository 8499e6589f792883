"""The room of this node's spool in the engine: what is held there, in all and by registered domain, and the bounds of both."""

from __future__ import annotations

from collections import Counter

from s2sgw.spool.interface import SpoolFull
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.registered_domain import registered_domain

#: Bytes of a stanza in the engine, beside its own: a part of the headers of its record, and its attributes.
STANZA_OVERHEAD = 400


class SpoolRoom:
    """At most `limit` bytes in all.

    The peers of one registered domain have at most `share` bytes, and at most as much as is free for the others.
    """

    def __init__(self, limit: int, share: int) -> None:
        self.limit = limit
        self._share = share
        self.count = self.bytes = 0
        #: by registered domain
        self._used_by: Counter[str] = Counter()

    @property
    def used(self) -> int:
        return self.bytes + self.count * STANZA_OVERHEAD

    @property
    def share(self) -> int:
        return min(self._share, self.limit)

    def used_by(self, peer: Domain) -> int:
        """Return the bytes of `peer` and of the other peers of its registered domain."""
        return self._used_by[registered_domain(peer.ascii)]

    def raise_limit(self, by: int) -> None:
        """Raise the limit, and lift the shares."""
        self.limit += by
        self._share = self.limit

    def require(self, peer: Domain, count: int, size: int) -> None:
        """Check that there is room for so many stanzas and bytes more. Raises `SpoolFull`."""
        more = size + count * STANZA_OVERHEAD
        if self.used + more > self.limit:
            raise SpoolFull(f"the spool holds {self.bytes} bytes in {self.count} stanzas and may take {self.limit} in the engine")
        if self.share < self.limit:
            share = min(self.share, self.limit - self.used - more)
            owner = registered_domain(peer.ascii)
            used = self._used_by[owner]
            if used + more > share:
                what = f"the stanzas from and to {owner}, with all its sub-domains,"
                raise SpoolFull(f"{what} take {used} bytes on this node, and their share is {share}", "share")

    def change(self, peer: Domain, count: int, size: int) -> None:
        """Note that a peer has so many stanzas and bytes more, or less."""
        self.count += count
        self.bytes += size
        owner = registered_domain(peer.ascii)
        used = self._used_by[owner] + size + count * STANZA_OVERHEAD
        if used > 0:
            self._used_by[owner] = used
        else:
            self._used_by.pop(owner, None)
