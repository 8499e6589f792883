"""Nodes of a cluster under disturbances (`tests.support.cluster_simulation`): the invariants hold whatever comes together.

FUZZ_EXAMPLES sets the number of runs of each kind, FUZZ_SEED their seed.
"""

from __future__ import annotations

import os
import random

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.cluster_simulation import KINDS, SCENARIOS, Disturbance, Simulation, disturbances_of, storm_of

RUNS = int(os.environ.get("FUZZ_EXAMPLES", "8"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))

_DISTURBANCES = st.lists(
    st.builds(
        Disturbance, st.sampled_from(KINDS), st.integers(0, 2), st.floats(3.0, 40.0),
        st.sampled_from((0.3, 1.5, 3.2, 5.5, 8.0, 12.0, 20.0)), st.integers(0, 2),
    ),
    max_size=5,
)  # fmt: skip


class ClusterTests(SynchronousTestCase):
    """A peer never has two writers; no node that beats is declared dead; peers get a new home; everything settles."""

    def test_scenarios(self) -> None:
        """Each rule of the membership is needed in one of these."""
        for disturbances in SCENARIOS.values():
            Simulation(3, disturbances, SEED).run()

    def test_storms(self) -> None:
        """Several disturbances of one node at one time."""
        for number in range(RUNS):
            Simulation(3, storm_of(random.Random(SEED + number)), SEED + number).run()

    def test_walks(self) -> None:
        """Disturbances of all nodes, at any time, for two to four nodes."""
        for number in range(RUNS):
            chance = random.Random(SEED + number)
            Simulation(chance.choice((2, 3, 4)), disturbances_of(chance), SEED + number).run()

    def test_any_disturbances(self) -> None:
        """The same, with disturbances that hypothesis shortens when they break something."""
        @seed(SEED)
        @settings(max_examples=RUNS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(_DISTURBANCES, st.integers(0, 1000))
        def run(disturbances: list[Disturbance], chance: int) -> None:
            Simulation(3, disturbances, chance).run()

        run()

    def test_death_in_an_election(self) -> None:
        """The other nodes keep their lease when a process dies while the engine elects a leader: the dead one need not echo."""
        for chance in range(RUNS):
            self.assertEqual({True}, self.leases_of_others(chance))

    @staticmethod
    def leases_of_others(chance: int) -> set[bool]:
        simulation = Simulation(3, SCENARIOS["a process dies in an election"], chance)
        leases: set[bool] = set()
        for tenth in range(1, 90):
            simulation.after(24.0 + tenth / 10, lambda: leases.update(node.may_write for node in simulation.nodes[1:]))
        simulation.run()
        return leases

    def test_undisturbed(self) -> None:
        """Without disturbances no node is declared dead, and every node keeps its lease."""
        simulation = Simulation(3, [], SEED)
        simulation.run()
        self.assertEqual(simulation.buried, [])

    def test_death_is_noticed(self) -> None:
        """A dead process, a dead machine and a stopped process are each declared dead; a process that comes back soon is not."""
        for name in ("a process dies", "a machine dies", "a node is stopped, and wakes"):
            simulation = Simulation(3, SCENARIOS[name], SEED)
            simulation.run()
            self.assertEqual(simulation.buried, ["a1-0"], name)
        simulation = Simulation(3, [Disturbance("stop", 0, 24.0, 1.0)], SEED)
        simulation.run()
        self.assertEqual(simulation.buried, [])
