"""Tests of the pairs that are proven on a stream."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.stream.proven_pairs import ROUTE_CHARACTERS, ROUTES, ProvenPairs
from s2sgw.xmpp.errors import RemoteFault, StreamCondition
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza

PEER, OTHER = Domain.parse("peer.example"), Domain.parse("other.example")
HERE, ROOMS = Domain.parse("here.example"), Domain.parse("rooms.here.example")


class ProvenPairsTests(SynchronousTestCase):
    """R29, R30: tests with one proven pair and two served domains."""

    def setUp(self) -> None:
        self.pairs = ProvenPairs()
        self.pairs.prove(Pair(PEER, HERE), "EXTERNAL")

    def admit(self, from_: str, to: str) -> Pair:
        return self.pairs.admit(Stanza("message", b"", to, from_), {HERE, ROOMS}.__contains__)

    def refused(self, from_: str, to: str) -> StreamCondition:
        fault: RemoteFault = self.assertRaises(RemoteFault, self.admit, from_, to)
        return fault.condition

    def test_admitted(self) -> None:
        """A stanza of the pair passes in any spelling of its addresses, and the spelling is remembered."""
        self.assertEqual(Pair(PEER, HERE), self.admit("a@PEER.example/x", "b@here.example"))
        self.assertEqual({("a@PEER.example/x", "b@here.example"): Pair(PEER, HERE)}, self.pairs.routes)
        self.assertEqual(([Pair(PEER, HERE)], 1), (list(self.pairs), len(self.pairs)))

    def test_not_proven(self) -> None:
        """An unproven sender is refused, and so is a proven sender for another served domain. Nothing is remembered of them."""
        self.assertEqual(StreamCondition.INVALID_FROM, self.refused("a@other.example", "b@here.example"))
        self.assertEqual(StreamCondition.INVALID_FROM, self.refused("a@peer.example", "b@rooms.here.example"))
        self.assertEqual({}, self.pairs.routes)

    def test_not_served(self) -> None:
        """Only a proven sender learns that a recipient is not served."""
        self.assertEqual(StreamCondition.HOST_UNKNOWN, self.refused("a@peer.example", "b@elsewhere.example"))
        self.assertEqual(StreamCondition.INVALID_FROM, self.refused("a@other.example", "b@elsewhere.example"))

    def test_addresses(self) -> None:
        """A stanza without an address, or with an invalid one, is refused."""
        for from_, to in (("", "b@here.example"), ("a@peer.example", ""), ("a@peer.example/", "b@here.example"), ("a@peer.example", "@x")):
            self.assertEqual(StreamCondition.IMPROPER_ADDRESSING, self.refused(from_, to))

    def test_bounded(self) -> None:
        """The number of remembered spellings is bounded."""
        for number in range(ROUTES + 1):
            self.admit(f"a{number}@peer.example", "b@here.example")
        self.assertEqual(1, len(self.pairs.routes))

    def test_long_addresses(self) -> None:
        """Their characters are bounded too: an address may have two thousand, on each of many streams."""
        for number in range(500):
            self.admit(f"{number}{'a' * 1000}@peer.example/{'b' * 1000}", f"{'c' * 1000}@here.example/{'d' * 1000}")
            kept = sum(len(from_) + len(to) for from_, to in self.pairs.routes)
            self.assertLessEqual(kept, ROUTE_CHARACTERS)
        self.assertGreater(kept, ROUTE_CHARACTERS // 4)  # they are counted anew after they were forgotten
