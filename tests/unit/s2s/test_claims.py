"""Tests of the names that connections claim, and of the requester of their look-ups."""

from __future__ import annotations

import gc
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.s2s.claims import CLAIM_SECONDS, CLAIMS, Claims
from s2sgw.xmpp.jid import Domain

PEER, FRIEND = Domain.parse("peer.example"), Domain.parse("friend.example")


class FakeConnection:
    def __init__(self, address: str) -> None:
        self.peer_address = address


class ClaimsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.claims: Any = Claims(self.clock, self)
        self.connection = FakeConnection("192.0.2.1:5000")

    def knows(self, peer: Domain) -> bool:
        return peer == FRIEND

    def test_addresses(self) -> None:
        """A stranger is identified by its address, in every spelling of the connection's remote end."""
        for address, site in (
            ("192.0.2.1:5000", "192.0.2.1/32"), ("[2001:db8::1]:5000", "2001:db8::/64"), ("[::ffff:192.0.2.1]:5", "192.0.2.1/32"),
            ("UNIXAddress(None)", "UNIXAddress(None)"),
        ):
            requester = self.claims.requester(FakeConnection(address), PEER)
            self.assertEqual((requester.owner[-1], requester.is_stranger), (site, True))

    def test_one_transaction(self) -> None:
        """One name on one connection is one requester for a minute."""
        first = self.claims.requester(self.connection, PEER)
        self.clock.rightNow = CLAIM_SECONDS - 1
        self.assertIs(self.claims.requester(self.connection, PEER), first)
        self.assertIsNot(self.claims.requester(self.connection, Domain.parse("other.example")), first)
        self.clock.rightNow = CLAIM_SECONDS
        self.assertIsNot(self.claims.requester(self.connection, PEER), first)

    def test_known(self) -> None:
        """A known name is looked up on our own behalf, whichever connection claims it."""
        requester = self.claims.requester(self.connection, FRIEND)
        self.assertEqual((requester.owner, requester.is_stranger), (("friend.example",), False))

    def test_forgotten(self) -> None:
        """A claim that was proven is forgotten. Other claims of the connection are kept, and nothing of it after the last."""
        other = Domain.parse("other.example")
        kept = self.claims.requester(self.connection, other)
        first = self.claims.requester(self.connection, PEER)
        self.claims.forget(self.connection, PEER)
        self.assertIs(self.claims.requester(self.connection, other), kept)
        self.assertIsNot(self.claims.requester(self.connection, PEER), first)
        for peer in (PEER, PEER, other, other):
            self.claims.forget(self.connection, peer)
        self.assertEqual(len(self.claims._claims), 0)

    def test_bounded(self) -> None:
        """Few claims of a connection are remembered, and none after its end."""
        for number in range(2 * CLAIMS):
            self.claims.requester(self.connection, Domain.parse(f"d{number}.example"))
        self.assertEqual(len(self.claims._claims[self.connection]), CLAIMS)
        del self.connection
        gc.collect()
        self.assertEqual(len(self.claims._claims), 0)
