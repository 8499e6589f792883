"""One run: the testbed, the running relays, the results, and the rounds of rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.relays import TITLES, Relay, RelayPool
from benchmarks.results import Results, printed
from benchmarks.testbed import ERRORS, Testbed, TurnReader
from tests.lab.lab import Lab

#: Rounds of a row in a whole run, and in a quick one.
ROUNDS, QUICK_ROUNDS = 3, 1
#: Seconds after which the remaining rows get one round each, so that the run ends within twenty minutes.
BUDGET = 960.0
#: Seconds between two measurements.
PAUSE = 0.5
#: The limit for a turn of the gateway's reactor, in milliseconds of CPU.
LONG_TURN_MS = 50.0


@dataclass
class Run:
    """The common state of rows. `size` scales a load down for a quick run."""

    lab: Lab
    testbed: Testbed
    pool: RelayPool
    results: Results
    quick: bool = False
    only: Sequence[str] = ()
    began: float = field(default_factory=time.monotonic)

    def rounds(self) -> Iterator[int]:
        """Yield the number of each round of a row. If the run already takes long, the first round is the last."""
        for number in range(QUICK_ROUNDS if self.quick else ROUNDS):
            if not number or time.monotonic() - self.began < BUDGET:
                yield number

    def size(self, whole: int, quick: int) -> int:
        """Return the size of a load."""
        return quick if self.quick else whole

    def size_of(self, whole: Sequence[int], quick: Sequence[int]) -> Sequence[int]:
        """Return the sizes of several loads."""
        return quick if self.quick else whole

    def wanted(self, relays: Sequence[str]) -> list[str]:
        """Return the relays of these that this run measures."""
        return [name for name in relays if not self.only or name in self.only]

    @contextmanager
    def attempt(self, row: str, relay: str) -> Iterator[None]:
        """Record a failure in the results instead of raising it."""
        try:
            yield
        except ERRORS as problem:
            words = str(problem).strip() or type(problem).__name__
            self.results.note(row, relay, f"not measured: {words[:400]}")

    def add(self, row: str, relay: str, values: Mapping[str, float]) -> None:
        """Keep the values of one round. A turn that is too long is noted in the row."""
        self.results.add(row, relay, values)
        if values.get("turn_ms", 0.0) > LONG_TURN_MS:
            self.results.note(row, relay, f"a turn of the reactor took more than {LONG_TURN_MS:.0f} ms of CPU")

    def show(self, row: str) -> None:
        """Print the table of a row."""
        if row in self.results.rows:
            print(printed(self.results.rows[row], TITLES), flush=True)

    def interleaved(
        self, row: str, relays: Sequence[str], measure: Callable[[Relay], Mapping[str, float]], *, fresh: bool = False,
    ) -> None:
        """Measure each relay in turn, round after round. `fresh`: start a new relay each time.

        A relay that fails is noted and left out of the further rounds of the row.
        """
        left = self.wanted(relays)
        for _ in self.rounds():
            for name in list(left):
                if fresh:
                    self.pool.drop(name)
                measured = False
                with self.attempt(row, name):
                    relay = self.pool.get(name)
                    turns = TurnReader(relay.console) if relay.console else None
                    values = dict(measure(relay))
                    if turns is not None:
                        values["turn_ms"] = turns.longest()
                    self.add(row, name, values)
                    measured = True
                if not measured:
                    left.remove(name)
                if fresh or not measured:
                    self.pool.drop(name)
                time.sleep(PAUSE)
        self.show(row)
