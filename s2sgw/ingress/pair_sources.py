"""The open streams on which a pair is proven, in the order of their proofs.

A server that restarts opens a new stream. What it sent before may lie unread on an older one that is held, and comes first (R35).
"""

from __future__ import annotations

from s2sgw.delivery.next_hop import StanzaSource
from s2sgw.xmpp.jid import Pair

#: The number of streams before a new one that are looked at. A peer has few of a pair (`peers.*.limits.streams`).
MOST = 16


class PairSources:
    """The streams of each pair, oldest first. A peer may prove thousands of pairs, so a pair takes little memory."""

    def __init__(self) -> None:
        self._streams: dict[Pair, tuple[StanzaSource, ...]] = {}

    def add(self, pair: Pair, stream: StanzaSource) -> None:
        """Add `stream`, on which `pair` was just proven."""
        self._streams[pair] = (*self._streams.get(pair, ()), stream)

    def discard(self, pair: Pair, stream: StanzaSource) -> None:
        """Forget `stream`, if it is there."""
        left = tuple(each for each in self._streams.get(pair, ()) if each is not stream)
        if left:
            self._streams[pair] = left
        else:
            self._streams.pop(pair, None)

    def unread_before(self, pair: Pair, stream: StanzaSource) -> list[StanzaSource]:
        """Return the streams of `pair` that are older than `stream` and have input that is not read, or may have some."""
        streams = self._streams.get(pair, ())
        at = next((number for number, each in enumerate(streams) if each is stream), 0)
        return [each for each in streams[max(0, at - MOST) : at] if each.has_unread_input]

    def __len__(self) -> int:
        return len(self._streams)
