"""Scenarios: named checks that pass or fail, on a stage that is built once for all of them."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from tests.lab.client import ClientError
from tests.lab.lab import Lab, LabError
from tests.lab.peer import PeerError

#: Seconds for one scenario unless it sets others, and seconds for building a stage.
SCENARIO_SECONDS = 60.0
STAGE_SECONDS = 120.0
#: Plays of a scenario that failed once. It passes if none of them fails, so a fault that comes often is still seen.
REPLAYS = 3
#: The number of items that a failure shows.
SHOWN = 8


class Failed(Exception):
    """Raised when a check failed."""


def check(truth: object, complaint: str) -> None:
    """Fail the scenario with `complaint` unless `truth`."""
    if not truth:
        raise Failed(complaint)


def expect(seen: object, wanted: object, what: str) -> None:
    """Fail the scenario unless `seen` equals `wanted`."""
    check(seen == wanted, f"{what}: {seen!r}, expected {wanted!r}")


def expect_in_order(seen: Sequence[Hashable], wanted: Sequence[Hashable], what: str) -> None:
    """Fail the scenario unless exactly the `wanted` arrived, each once and in that order; report the differences."""
    if list(seen) == list(wanted):
        return
    pairs = enumerate(zip(seen, wanted, strict=False))
    at = next((at for at, (came, due) in pairs if came != due), min(len(seen), len(wanted)))
    missing, odd = Counter(wanted) - Counter(seen), Counter(seen) - Counter(wanted)
    raise Failed(
        f"{what}: {len(seen)} came, wanted {len(wanted)}; from index {at} on: {_some(seen[at:])}, wanted {_some(wanted[at:])}; "
        f"missing: {_some(list(missing.elements()))}; twice or strange: {_some(list(odd.elements()))}"
    )


def _some(items: Sequence[Hashable]) -> str:
    """Return the first few as text."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return f"{', '.join(map(repr, items[:SHOWN]))}{more}" if items else "nothing"


def step(text: str) -> None:
    """Print one line about the current step."""
    print(f"      {text}", flush=True)


#: Results of scenarios, other than passing: rows for tables.
NOTES: list[dict[str, Any]] = []


def note(**row: Any) -> None:
    """Keep a row for a table."""
    NOTES.append(row)


@dataclass(frozen=True)
class Scenario:
    title: str
    run: Callable[[Any], Awaitable[None]]
    seconds: float = SCENARIO_SECONDS
    #: True if a quick run plays it
    quick: bool = False


@dataclass
class Stage:
    """A set of servers and clients, and the scenarios that run on it, in order."""

    name: str
    build: Callable[[Lab], AbstractAsyncContextManager[Any]]
    scenarios: list[Scenario] = field(default_factory=list)

    def scenario(self, title: str, seconds: float = SCENARIO_SECONDS, *, quick: bool = False) -> Callable[[Any], Any]:
        """Decorate a coroutine function of the world as a scenario."""
        def add(run: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
            self.scenarios.append(Scenario(title, run, seconds, quick))
            return run
        return add


@dataclass
class Tally:
    passed: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    #: stages and scenarios that failed, and passed when they were played again
    unstable: list[str] = field(default_factory=list)
    #: scenarios that may still be played again, if they fail
    replayed: int = 0

    def add(self, first: Tally, again: Tally | None) -> None:
        """Count a stage that was played once. If it failed and was played again, count the second result."""
        counted = first if again is None else again
        self.passed += counted.passed
        self.failed += counted.failed
        self.failures += counted.failures
        self.unstable += [] if again is None or again.failed else first.failures

    def fail(self, title: str, why: str) -> None:
        self.failed += 1
        self.failures.append(f"{title}: {why}")
        print(f"  FAIL {title}\n       {why}", flush=True)

    def passing(self, title: str, seconds: float) -> None:
        self.passed += 1
        print(f"  ok   {title} ({seconds:.1f} s)", flush=True)


async def _play(scenario: Scenario, world: Any, tally: Tally) -> None:
    start = time.monotonic()
    why = await _complaint(scenario, world)
    if why and tally.replayed:
        tally.replayed -= 1
        first = f"{scenario.title}: {why}"
        step(f"failed: {why}")
        for number in range(REPLAYS):
            step(f"it is played again ({number + 1} of {REPLAYS})")
            why = await _complaint(scenario, world)
            if why:
                break
        else:
            tally.unstable.append(first)
    if why:
        tally.fail(scenario.title, why)
    else:
        tally.passing(scenario.title, time.monotonic() - start)


async def _complaint(scenario: Scenario, world: Any) -> str:
    """Play a scenario once. Return why it failed, or ""."""
    try:
        async with asyncio.timeout(scenario.seconds):
            await scenario.run(world)
    except (Failed, ClientError, LabError, PeerError) as problem:
        return str(problem) or type(problem).__name__
    except TimeoutError:
        return f"stopped after {scenario.seconds:.0f} s"
    except Exception:
        return traceback.format_exc()
    return ""


async def play(stage: Stage, lab: Lab, tally: Tally, words: Sequence[str] = (), *, quick: bool = False) -> None:
    """Build the stage and run its scenarios: with `words`, those whose title contains one; with `quick`, the quick ones."""
    chosen = [
        one for one in stage.scenarios
        if (one.quick or not quick) and (not words or any(word in one.title for word in words))
    ]
    if not chosen:
        return
    print(f"\n{stage.name}", flush=True)
    before = list(lab.processes)
    played = 0
    try:
        async with asyncio.timeout(_seconds(chosen, tally)), stage.build(lab) as world:
            for scenario in chosen:
                await _play(scenario, world, tally)
                played += 1
    except Exception as problem:
        print(f"  the stage could not be built: {problem or type(problem).__name__}", flush=True)
        for scenario in chosen[played:]:
            tally.fail(scenario.title, "the stage could not be built")
    finally:
        lab.stop([process for process in lab.processes if process not in before])


def _seconds(chosen: Sequence[Scenario], tally: Tally) -> float:
    again = tally.replayed * REPLAYS * max(one.seconds for one in chosen)
    return STAGE_SECONDS + sum(one.seconds for one in chosen) + again


AsyncStage = AsyncIterator[Any]
