"""Tests of how scenarios of the hostile scripts are played again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from tests.lab.lab import Lab
from tests.lab.scenario import REPLAYS, Failed, Stage, Tally, play


class ReplayTests(SynchronousTestCase):
    """Tests of one stage whose scenarios fail at the plays that a test names."""

    def played(self, fails: Sequence[Sequence[int]], replayed: int) -> tuple[Tally, list[int]]:
        """Play a scenario for each list of plays that fail. Return the tally, and how often each was played."""
        @asynccontextmanager
        async def built(lab: Lab) -> AsyncIterator[None]:
            yield None

        stage, plays = Stage("a stage", built), [0] * len(fails)
        for number, failing in enumerate(fails):
            @stage.scenario(f"scenario {number}")
            async def _scenario(world: None, number: int = number, failing: Sequence[int] = failing) -> None:
                plays[number] += 1
                if plays[number] in failing:
                    raise Failed(f"play {plays[number]}")

        tally = Tally(replayed=replayed)
        with mock.patch("builtins.print"):
            asyncio.run(play(stage, mock.Mock(processes=[]), tally))
        return tally, plays

    def test_passes(self) -> None:
        """A scenario that failed once passes if all plays after it do, and is reported."""
        tally, plays = self.played([[], [1]], replayed=1)
        self.assertEqual((2, 0, [1, 1 + REPLAYS]), (tally.passed, tally.failed, plays))
        self.assertEqual(["scenario 1: play 1"], tally.unstable)

    def test_fails(self) -> None:
        """One more failure decides. Without permission nothing is played again, and the second failing scenario is not."""
        for fails, replayed, expected in (
            ([[1, REPLAYS + 1]], 1, [REPLAYS + 1]), ([[1, 2]], 1, [2]), ([[1]], 0, [1]),
        ):
            tally, plays = self.played(fails, replayed)
            self.assertEqual((0, 1, [], expected), (tally.passed, tally.failed, tally.unstable, plays))
        tally, plays = self.played([[1], [1]], replayed=1)
        self.assertEqual((1, 1, ["scenario 1: play 1"], [1 + REPLAYS, 1]), (tally.passed, tally.failed, tally.failures, plays))
