"""The account of `tests.durability.cluster` sees what it must see."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from tests.durability.account import PairAccount
from tests.durability.cluster import plan
from tests.durability.cluster_account import LIMITS, Round, judge, measure_silence, silences


def account(managed: bool, arrived: str, sent: int = 6) -> PairAccount:
    """Return an account of stanzas that were sent one a second from 100 on. `arrived`: their digits, one arrival a second."""
    made = PairAccount("peer.example", "inside.example", managed, sent=[100.0 + number for number in range(sent)])
    for moment, number in enumerate(map(int, arrived)):
        made.arrive(number, 1)
        made.arrivals[number][-1] = 100.0 + moment
    return made


class ClusterAccountTests(SynchronousTestCase):
    """Losses, order, repeats and silence."""

    def test_all_is_well(self) -> None:
        """Stanzas that arrive once and in order are no error."""
        self.assertEqual(list(judge(account(True, "012345"), []).errors()), [])

    def test_lost(self) -> None:
        """A sender with XEP-0198 loses nothing, whatever the fault."""
        fault = Round("kill", "a kill", 100.0, 106.0)
        self.assertEqual(judge(account(True, "01245"), [fault]).lost, [3])

    def test_excused(self) -> None:
        """A sender without it may lose what it wrote about the time of a fault, if the gateway has not taken it, and nothing else."""
        early, late = Round("kill", "a kill", 103.5, 103.6), Round("kill", "a kill", 200.0, 201.0)
        self.assertEqual(judge(account(False, "01245"), [early]).excused, [3])
        self.assertEqual(judge(account(False, "01245"), [late]).lost, [3])
        self.assertEqual(judge(account(False, "01245"), [Round("server", "", 103.5, 103.6, loses=False)]).lost, [3])
        self.assertEqual(judge(account(False, "01245"), [], {3}).excused, [3])
        self.assertEqual(judge(account(True, "01245"), [], {3}).lost, [3])
        taken = account(False, "01245")
        taken.acknowledged.add(3)
        self.assertEqual(judge(taken, [early]).lost, [3])

    def test_errors(self) -> None:
        """An order that changed, an IQ request that came twice and a repeat on one stream are seen. A bounce is none of them."""
        self.assertIn("1 out of order", "".join(judge(account(True, "013245"), []).errors()))
        twice = account(True, "0123345")
        twice.requests.add(3)
        self.assertEqual(len(list(judge(twice, []).errors())), 2)
        bounced = account(True, "01245")
        bounced.bounced.add(3)
        self.assertEqual(list(judge(bounced, []).errors()), [])

    def test_silence(self) -> None:
        """The longest time without an arrival counts from the fault on, to the end of the round, and has a limit for some kinds."""
        found = Round("kill", "a kill", 102.5, 103.0)
        quiet, busy = account(True, "012"), account(True, "012345")
        measure_silence(found, [busy, quiet], 106.0)
        self.assertEqual((found.silence, found.silent), (4.0, quiet.name))
        self.assertEqual(silences([found]), [])
        measure_silence(found, [busy, quiet], 103.0 + LIMITS["kill"])
        self.assertEqual(len(silences([found])), 1)

    def test_plan(self) -> None:
        """Each kind comes once before one comes again."""
        self.assertEqual(sorted(plan(["a", "b", "c"], 3, random.Random(1))), ["a", "b", "c"])
        self.assertEqual(len(plan(["a", "b", "c"], 7, random.Random(1))), 7)
