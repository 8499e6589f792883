"""Tests of the streams on which a pair is proven."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.ingress.pair_sources import MOST, PairSources
from s2sgw.xmpp.jid import Domain, Pair

PAIR = Pair(Domain.parse("peer.example"), Domain.parse("here.example"))


class PairSourcesTests(SynchronousTestCase):
    """R35: tests of what may be unread on older streams of a pair."""

    def setUp(self) -> None:
        self.sources = PairSources()
        self.streams: list[Any] = [SimpleNamespace(has_unread_input=True) for _ in range(MOST + 3)]
        for stream in self.streams:
            self.sources.add(PAIR, stream)

    def test_older(self) -> None:
        """Only older streams of the same pair that may have unread input are named."""
        first, second, third = self.streams[:3]
        self.assertEqual([first, second], self.sources.unread_before(PAIR, third))
        first.has_unread_input = False
        self.assertEqual([second], self.sources.unread_before(PAIR, third))
        self.assertEqual(([], []), (self.sources.unread_before(PAIR, first), self.sources.unread_before(PAIR.inverse, third)))
        self.assertEqual([], self.sources.unread_before(PAIR, SimpleNamespace()))

    def test_bounded(self) -> None:
        """Of many streams, the last ones before it are looked at."""
        self.assertEqual(self.streams[2:-1], self.sources.unread_before(PAIR, self.streams[-1]))

    def test_forgotten(self) -> None:
        """A stream that has ended is forgotten, and so is a pair without streams."""
        for stream in self.streams[1:]:
            self.sources.discard(PAIR, stream)
        self.assertEqual(1, len(self.sources))
        self.sources.discard(PAIR, self.streams[1])
        self.sources.discard(PAIR, self.streams[0])
        self.sources.discard(PAIR, self.streams[0])
        self.assertEqual(0, len(self.sources))
