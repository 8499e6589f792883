"""The type of a scenario of `make custody`, and the list of all scenarios."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.durability.custody_testbed import CustodyTestbed
from tests.lab.lab import Lab

#: Seconds for a scenario unless it sets others.
SCENARIO_SECONDS = 60.0


class ScenarioContext:
    """The argument of a scenario: it builds one test bed and uses it."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.bed: CustodyTestbed | None = None

    def testbed(self, *arguments: Any, **keywords: Any) -> CustodyTestbed:
        """Return a new test bed; for the arguments see `CustodyTestbed`."""
        self.bed = CustodyTestbed(self._lab, *arguments, **keywords)
        return self.bed


@dataclass(frozen=True)
class Scenario:
    """One scenario with its parameters."""

    name: str
    title: str
    run: Callable[[ScenarioContext], Awaitable[None]]
    seconds: float


SCENARIOS: list[Scenario] = []


def scenario(
    title: str, *parameters: Sequence[Any], seconds: float = SCENARIO_SECONDS,
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Awaitable[None]]]:
    """Add a coroutine function to the list, once for each tuple of `parameters`, which `title` may name as {0}, {1} …"""

    def add(run: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        name = run.__name__.replace("_", "-")
        for values in parameters or [()]:
            words = "".join(f":{value}" for value in values)
            SCENARIOS.append(Scenario(f"{name}{words}", title.format(*values), _bound(run, values), seconds))
        return run

    return add


def _bound(run: Callable[..., Awaitable[None]], values: Sequence[Any]) -> Callable[[ScenarioContext], Awaitable[None]]:
    return lambda context: run(context, *values)
