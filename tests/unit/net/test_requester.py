"""Tests of the party that a look-up is made for."""

from __future__ import annotations

import dns.name
from dns.rdatatype import RdataType
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.dns_answer import Answer, Question, Status
from s2sgw.net.requester import DIALS, Requester


class RequesterTests(SynchronousTestCase):
    def test_owners(self) -> None:
        """A stranger is identified by its networks, we by the domain of the look-up."""
        self.assertEqual(Requester.stranger("192.0.2.1").owner, ("192.0.2.0/24", "192.0.2.1/32"))
        self.assertEqual(Requester.ourselves("a.example.org").owner, ("example.org",))

    def test_memory(self) -> None:
        """A stranger's claim gets the answers that it got before, except failures. For our own requests the look-up is made."""
        name = dns.name.from_text("a.example")
        found, failed = Answer(name, RdataType.A, Status.FOUND), Answer(name, RdataType.AAAA, Status.FAILED)
        address, other = Question(name, RdataType.A), Question(name, RdataType.AAAA)
        stranger, ours = Requester.stranger("192.0.2.1"), Requester.ourselves("a.example")
        for requester in (stranger, ours):
            self.assertEqual((requester.note(found, address), requester.note(failed, other)), (found, failed))
        self.assertEqual((stranger.recall(address), stranger.recall(other)), (found, None))
        self.assertIsNone(ours.recall(address))

    def test_dials(self) -> None:
        """A stranger's claim may cause a few connections, and that of the next pair as many. Our own are not counted."""
        stranger, ours = Requester.stranger("192.0.2.1"), Requester.ourselves("a.example")
        self.assertEqual([stranger.take_dials(3), stranger.is_spent, stranger.take_dials(3), stranger.is_spent], [3, False, DIALS - 3, True])
        stranger.renew_dials()
        self.assertEqual((stranger.is_spent, stranger.take_dials(9)), (False, DIALS))
        self.assertEqual((ours.take_dials(9), ours.take_dials(9), ours.is_spent), (9, 9, False))
