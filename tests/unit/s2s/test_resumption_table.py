"""Broken streams that may be resumed (XEP-0198 §5): their owners, their number, and expired ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest.mock import Mock

from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting.record import EventRecord, Leg
from s2sgw.s2s import resumption_table
from s2sgw.s2s.resumption_table import MAX_SUSPENDED_OF_PEER, ResumptionTable
from s2sgw.stream.management import Counters, Resumption
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.two_gateways import HERE, ROOMS, THERE

OUT = Pair(HERE, THERE)
BACK = OUT.inverse


class WatchedPairs(frozenset[Pair]):
    """Pairs that count the walks over them."""

    walks = 0

    def __iter__(self) -> Iterator[Pair]:
        self.walks += 1
        return super().__iter__()


class FakeOwner:
    """A stream from a peer, as `ResumptionTable` sees it."""

    leg: Leg = "federation"

    def __init__(self, *pairs: Pair, carried: Pair | None = None) -> None:
        self.pairs: frozenset[Pair] = frozenset(pairs) if carried is None else frozenset([*pairs, carried])
        self.senders = {pair.sender for pair in pairs}
        self.incoming: Any = Mock()
        self.shared_stream: Any = Mock(resumable=True, suspend=Mock(return_value=False))
        self.displaced = False
        self.when_displaced: Callable[[], object] = lambda: None

    def displace(self) -> None:
        self.displaced = True
        self.when_displaced()


class ResumptionTableTests(SynchronousTestCase):
    """R35: the owner of a stream, and the number of streams that are kept."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.sessions = ResumptionTable(self.clock, EventRecord(self.clock, Logger()))

    def keep(self, id: str, *pairs: Pair) -> Resumption:
        resumption = Resumption(id, 60, Counters(0))
        resumption.counters.handled = 7
        self.sessions.keep(resumption, FakeOwner(*pairs), Ending(Cause.CONNECTION_LOST))
        return resumption

    def test_same_pairs(self) -> None:
        """R35: only a peer that has proven all pairs of the old stream, on the same leg, may resume it."""
        other = Pair(Domain.parse("other.example"), THERE)
        kept = self.keep("x", OUT)
        backend = FakeOwner(OUT)
        backend.leg = "backend"
        for owner in (FakeOwner(other), FakeOwner(BACK), FakeOwner(Pair(ROOMS, THERE)), FakeOwner(), backend):
            self.assertEqual(self.sessions.claim("x", owner), (None, None))
        self.assertEqual(self.sessions.claim("y", FakeOwner(OUT)), (None, None))
        self.assertEqual(self.sessions.claim("x", FakeOwner(OUT, other)), (kept, None))

    def test_many_pairs(self) -> None:
        """A stream that broke off with very many pairs is found, resumed and ended without a walk over them."""
        other = Pair(Domain.parse("other.example"), THERE)
        owner = FakeOwner(OUT, other)
        owner.pairs = pairs = WatchedPairs(owner.pairs)
        self.keep("y", OUT)
        resumption = Resumption("x", 60, Counters(0))
        self.sessions.keep(resumption, owner, Ending(Cause.CONNECTION_LOST))
        self.assertEqual(0, pairs.walks)
        self.assertEqual([True, True, True, False], [self.sessions.involves(each) for each in (HERE, THERE, other.sender, ROOMS)])
        self.assertEqual([True, True, False], [self.sessions.awaits(pair) for pair in (OUT, other, BACK)])
        self.sessions.claim("x", owner)
        self.sessions.resumed("x", owner, 0)
        self.assertEqual([True, False], [self.sessions.awaits(pair) for pair in (OUT, other)])
        self.sessions.keep(resumption, owner, Ending(Cause.CONNECTION_LOST))
        self.clock.advance(60)
        self.assertFalse(self.sessions.awaits(other) or self.sessions.involves(other.sender) or self.sessions.involves(THERE))
        self.assertEqual(1, pairs.walks)  # `claim` compares the proven pairs

    def test_carried_back(self) -> None:
        """The pair of stanzas that went back on a stream is awaited too (XEP-0288)."""
        self.sessions.keep(Resumption("x", 60, Counters(0)), FakeOwner(OUT, carried=BACK), Ending(Cause.CONNECTION_LOST))
        self.assertTrue(self.sessions.awaits(OUT) and self.sessions.awaits(BACK))

    def test_past(self) -> None:
        """R35: only its owner learns the last count of an expired stream."""
        kept = self.keep("x", OUT)
        self.assertTrue(self.sessions.awaits(OUT))
        self.clock.advance(60)
        self.assertFalse(self.sessions.awaits(OUT))
        self.assertEqual(self.sessions.claim("x", FakeOwner(OUT)), (None, kept.counters))
        self.assertEqual(self.sessions.claim("x", FakeOwner(BACK)), (None, None))

    def test_ended(self) -> None:
        """The streams of pairs that another node gets are ended, and others are kept. If it has them, nothing is passed on."""
        other = Pair(Domain.parse("other.example"), THERE)
        for abandoned in (False, True):
            self.keep("x", OUT, BACK)
            self.keep("y", other)
            owner = self.sessions._suspended["x"]
            domains = {domain for pair in (OUT, BACK, other) for domain in pair}
            self.assertEqual((True, False), (all(map(self.sessions.involves, domains)), self.sessions.involves(ROOMS)))
            self.sessions.end(OUT.__eq__, abandoned)
            self.assertEqual(set(other), {domain for domain in domains if self.sessions.involves(domain)})
            self.assertEqual((False, 1), (self.sessions.awaits(OUT), len(self.sessions)))
            self.assertEqual(abandoned, owner.incoming.abandon.called)  # type: ignore[attr-defined]
            owner.shared_stream.lost.assert_called_once()  # type: ignore[attr-defined]
            self.assertTrue(self.sessions.awaits(other))

    def test_open(self) -> None:
        """R35: an open stream is taken over only by its owner."""
        former = FakeOwner(OUT)
        self.sessions.opened("x", former)
        self.assertEqual(self.sessions.claim("x", FakeOwner(BACK)), (None, None))
        self.assertFalse(former.displaced)
        self.sessions.claim("x", FakeOwner(OUT))
        self.assertTrue(former.displaced)
        self.sessions.closed("x")
        self.sessions.closed("x")

    def test_a_user_left(self) -> None:
        """R35: if stanzas in doubt were sent elsewhere meanwhile, the stream is expired, and its last `h` is reported."""
        kept = self.keep("x", OUT)
        self.sessions._suspended["x"].shared_stream.resumable = False  # type: ignore[misc]
        self.assertEqual(self.sessions.claim("x", FakeOwner(OUT)), (None, kept.counters))
        self.assertEqual(len(self.sessions), 0)

    def test_a_user_had_left(self) -> None:
        """R35: a stream that breaks after that is expired at once. Its `h` keeps the other side from sending received stanzas again."""
        owner = FakeOwner(OUT)
        owner.shared_stream.resumable = False
        resumption = Resumption("x", 60, Counters(0))
        resumption.counters.handled = 7
        self.assertFalse(self.sessions.keep(resumption, owner, Ending(Cause.CONNECTION_LOST)))
        self.assertEqual(self.sessions.claim("x", FakeOwner(OUT)), (None, resumption.counters))
        self.assertEqual(self.sessions.claim("x", FakeOwner(BACK)), (None, None))

    def test_carries_nothing_back(self) -> None:
        """R35: stanzas went back on the stream (XEP-0288), and cannot on the new one. The old one is expired, and its `h` is reported."""
        resumption = Resumption("x", 60, Counters(0))
        resumption.counters.handled = 7
        for is_open in (False, True):
            owner = FakeOwner(OUT, carried=BACK)
            keep = partial(self.sessions.keep, resumption, owner, Ending(Cause.CONNECTION_LOST))
            if is_open:
                self.sessions.opened("x", owner)
                owner.when_displaced = keep
            else:
                keep()
            self.assertEqual(self.sessions.claim("x", FakeOwner(BACK)), (None, None))
            self.assertEqual(self.sessions.claim("x", FakeOwner(OUT)), (None, resumption.counters))
            owner.shared_stream.lost.assert_called_once()
            self.assertFalse(self.sessions.awaits(OUT))
            self.sessions._past.clear()

    def test_bounds(self) -> None:
        """Limited numbers are kept of one peer, and in total. The oldest are removed first."""
        for number in range(MAX_SUSPENDED_OF_PEER + 2):
            self.keep(str(number), OUT)
        self.assertEqual(len(self.sessions), MAX_SUSPENDED_OF_PEER)
        found = [self.sessions.claim(str(number), FakeOwner(OUT))[0] is not None for number in range(MAX_SUSPENDED_OF_PEER + 2)]
        self.assertEqual(found, [False, False, *[True] * MAX_SUSPENDED_OF_PEER])
        self.patch(resumption_table, "MAX_SUSPENDED", 40)
        self.setUp()
        for number in range(90):
            self.keep(f"n{number}", Pair(Domain.parse(f"p{number}.example"), THERE))
        self.assertEqual((list(self.sessions._suspended), list(self.sessions._past)), ([f"n{each}" for each in range(50, 90)], [f"n{each}" for each in range(10, 50)]))

    def test_sub_domains(self) -> None:
        """A peer with very many sub-domains ends its own streams and past ones, and not those of others."""
        self.patch(resumption_table, "MAX_SUSPENDED", 40)
        self.setUp()
        kept = self.keep("x", OUT)
        self.keep("past", OUT)
        self.sessions._expire(self.sessions._suspended["past"])
        for number in range(100):
            self.keep(f"n{number}", Pair(Domain.parse(f"p{number}.many.example"), THERE))
        self.assertEqual((len(self.sessions), len(self.sessions._past)), (40, 40))
        self.assertEqual(self.sessions.claim("x", FakeOwner(OUT)), (kept, None))
        self.assertIn("past", self.sessions._past)
