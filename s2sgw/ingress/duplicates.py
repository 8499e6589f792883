"""Duplicates: a server whose managed stream was lost resends what was not acknowledged, though the gateway may have it.

A message is a duplicate if it is the same to the byte, has an id, and comes from a server that lost a stream a moment ago.
Everything else passes: presence does no harm twice, and programs send the same IQ twice on purpose.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.interfaces import IReactorTime

from s2sgw.xmpp.bounded_dict import BoundedDict
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.stanza import Stanza

#: The last stanzas of a stream that may come again; more than any server sends between two acknowledgements.
LAST = 512
#: Seconds for which they are looked for, and how many servers are remembered.
MEMORY = 600.0
SERVERS = 1000


class RecentStanzas:
    """The last stanzas of one stream, by their hashes (which mean nothing outside this process)."""

    def __init__(self) -> None:
        self.hashes: deque[int] = deque(maxlen=LAST)

    def note(self, stanzas: list[Stanza]) -> None:
        """Remember `stanzas`, which came last."""
        self.hashes.extend([hash(stanza.data) for stanza in stanzas if _tells(stanza)])


class Duplicates:
    """What may come again, by the server that would send it."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._expected: BoundedDict[Domain, tuple[float, set[int]]] = BoundedDict(SERVERS)

    def lost(self, sender: Domain, tail: RecentStanzas) -> None:
        """A managed stream of `sender` broke off."""
        if not tail.hashes:
            return
        _, hashes = self._expected.pop(sender, (0.0, set()))
        hashes = hashes if len(hashes) < LAST * 4 else set()
        self._expected[sender] = self._clock.seconds() + MEMORY, hashes | set(tail.hashes)

    def fresh(self, sender: Domain, stanzas: list[Stanza]) -> list[Stanza]:
        """Those of `stanzas` that have not come before."""
        if sender not in self._expected:
            return stanzas
        until, hashes = self._expected[sender]
        if self._clock.seconds() > until:
            del self._expected[sender]
            return stanzas
        return [stanza for stanza in stanzas if not _tells(stanza) or not _taken(hashes, hash(stanza.data))]


def _tells(stanza: Stanza) -> bool:
    """Whether it can be told from another one of the same words."""
    return stanza.kind == "message" and stanza.id is not None


def _taken(hashes: set[int], value: int) -> bool:
    """Whether it was there; each is a duplicate once."""
    try:
        hashes.remove(value)
    except KeyError:
        return False
    return True
