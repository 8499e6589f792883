"""Tests of the node that owns a pair."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.ingress.homes import SingleNode, home_of
from s2sgw.xmpp.jid import Domain, Pair

HERE, ROOMS, PEER, OTHER = (Domain.parse(name) for name in ("here.example", "rooms.here.example", "peer.example", "other.example"))
LOCAL = frozenset({HERE, ROOMS})


class HomeTests(SynchronousTestCase):
    """Tests of `home_of`."""

    def test_the_peer(self) -> None:
        """Every pair of a peer, in both directions and with each local domain, has one home: the peer's."""
        for local in LOCAL:
            for pair in (Pair(PEER, local), Pair(local, PEER)):
                self.assertEqual(PEER, home_of(pair, LOCAL))

    def test_an_inverse_is_at_home_too(self) -> None:
        """A bounce belongs to the inverse pair and never leaves the node, whatever the two domains are."""
        for pair in (Pair(HERE, ROOMS), Pair(HERE, PEER), Pair(PEER, OTHER)):
            self.assertEqual(home_of(pair, LOCAL), home_of(pair.inverse, LOCAL))

    def test_two_local_domains(self) -> None:
        """Of two local domains the lesser name is the home, so that all nodes choose the same."""
        self.assertEqual(HERE, home_of(Pair(ROOMS, HERE), LOCAL))

    def test_single_node(self) -> None:
        """A node that runs alone owns every pair, at once."""
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(SingleNode().claim(PEER))))
