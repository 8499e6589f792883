"""Tests of the list of peers' certificates that expire soon."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.peer_certificates import AT_ONCE, LISTED, PeerChain, ending_soon
from tests.support.certificates import AT, shared_issuer


def shown(peer: str, days: float) -> PeerChain:
    return PeerChain(peer, shared_issuer().issue(dns=[peer], not_after=AT + timedelta(days=days)).der_chain)


class EndingTests(SynchronousTestCase):
    """Tests of chains that open streams have shown."""

    def listed(self, *streams: PeerChain) -> tuple[list[Any], int]:
        """Return the rows as (peer, days), and the number of steps."""
        work, steps = ending_soon(streams, AT.timestamp()), 0
        while True:
            try:
                next(work)
            except StopIteration as done:
                return [(row["peer"], round((row["ends"] - AT.timestamp()) / 86400)) for row in done.value], steps
            steps += 1

    def test_soon(self) -> None:
        """The first to expire comes first. An expired one is listed, one with weeks left is not."""
        rows, _ = self.listed(shown("c.example", 13), shown("a.example", -1), shown("b.example", 3), shown("d.example", 30))
        self.assertEqual([("a.example", -1), ("b.example", 3), ("c.example", 13)], rows)

    def test_newest(self) -> None:
        """A peer that has renewed its certificate, and still has a stream with the old one, is not listed."""
        self.assertEqual([], self.listed(shown("a.example", 2), shown("a.example", 80))[0])

    def test_no_certificate(self) -> None:
        """A stream without a certificate, or with one that cannot be read, is left out."""
        self.assertEqual([], self.listed(PeerChain("a.example", ()), PeerChain("b.example", (b"nonsense",)))[0])

    def test_bounded(self) -> None:
        """Many streams are checked in steps, and the number of listed peers is bounded."""
        chain = shown("x.example", 2).chain
        rows, steps = self.listed(*(PeerChain(f"{number}.example", chain) for number in range(4 * AT_ONCE)))
        self.assertEqual((LISTED, 4), (len(rows), steps))
