"""Random walks of a state machine of hypothesis, without hypothesis. A walk costs a tenth, so ten times as many are possible.

The steps of a machine are its methods with the decorator `step`. hypothesis draws them as rules; here a random number generator does. A walk has a
number, and is the same each time. A walk that fails is shortened by removing steps.
"""

from __future__ import annotations

import random
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

#: The number of steps of a walk.
LEAST_STEPS, MOST_STEPS = 10, 60
#: A walk leaves out one of these shares of the machine's steps. A step that is rare among many is common among few.
LEFT_OUT = (0.0, 0.0, 0.2, 0.5)
#: The share of a walk's choices that are narrowed to some of their values; and how often such a step is taken beside the others.
NARROWED, WEIGHTS = 0.25, (1, 1, 2, 4)
#: The share of walks with a spool, and of walks with room for all stanzas.
SPOOLS, ROOMY = 0.85, 0.5
#: The maximum number of runs to shorten a failing walk.
SHORTER = 2000


@dataclass(frozen=True)
class Between:
    """A whole number from `least` to `most`."""

    least: int
    most: int


@dataclass(frozen=True)
class Several:
    """A list of 1 to `most` of `choices`."""

    choices: tuple[Any, ...]
    most: int


Choice = Between | Several | tuple[Any, ...]
Step = tuple[str, Mapping[str, Any]]


class Machine(Protocol):
    """A machine that walks. A new one is made for each walk."""

    def begin(self, shared: bool, spools: bool, roomy: bool) -> None:
        """Begin, in one of these ways."""

    def holds(self) -> None:
        """Check the conditions that hold after each step."""

    def finish(self) -> None:
        """Check the conditions that hold at the end."""

    def close(self) -> None:
        """Release everything, also after a failure."""


def step(needs: Callable[[Any], bool] | None = None, **choices: Choice) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a method a step, whose arguments are drawn from `choices`. `needs` tells of a machine whether the step is possible."""
    def decorate(method: Callable[..., None]) -> Callable[..., None]:
        strategies: dict[str, Any] = {name: _strategy(choice) for name, choice in choices.items()}
        made: Any = rule(**strategies)(method)
        made = made if needs is None else precondition(needs)(made)
        made.choices, made.needs = choices, needs
        return cast(Callable[..., None], made)

    return decorate


def _strategy(choice: Choice) -> st.SearchStrategy[Any]:
    if isinstance(choice, Between):
        return st.integers(choice.least, choice.most)
    if isinstance(choice, Several):
        return st.lists(st.sampled_from(choice.choices), min_size=1, max_size=choice.most)
    return st.sampled_from(choice)


def _narrowed(choice: Choice, chance: random.Random) -> Choice:
    """Return `choice`, or some of its values alone."""
    if isinstance(choice, Between) or chance.random() >= NARROWED:
        return choice
    values = choice.choices if isinstance(choice, Several) else choice
    some = tuple(chance.sample(values, chance.randint(1, len(values))))
    return replace(choice, choices=some) if isinstance(choice, Several) else some


def _drawn(choice: Choice, chance: random.Random) -> Any:
    if isinstance(choice, Between):
        return chance.randint(choice.least, choice.most)
    if isinstance(choice, Several):
        return [chance.choice(choice.choices) for _ in range(chance.randint(1, choice.most))]
    return chance.choice(choice)


@dataclass(frozen=True)
class Walk:
    """The steps of one walk. `shared`, `spools`, `roomy`: how the machine begins."""

    shared: bool
    steps: Sequence[Step]
    spools: bool = True
    roomy: bool = True

    @classmethod
    def numbered(cls, number: int, machine: type[Any]) -> Walk:
        """Return the walk of this number."""
        chance = random.Random(number)
        choices = {name: method.choices for name, method in vars(machine).items() if hasattr(method, "choices")}
        left_out = chance.choice(LEFT_OUT)
        names = [name for name in choices if chance.random() >= left_out] or list(choices)
        narrowed = {name: {each: _narrowed(choice, chance) for each, choice in choices[name].items()} for name in names}
        weights = [chance.choice(WEIGHTS) for _ in names]
        taken = chance.choices(names, weights, k=chance.randint(LEAST_STEPS, MOST_STEPS))
        drawn = [(name, {each: _drawn(choice, chance) for each, choice in narrowed[name].items()}) for name in taken]
        return cls(chance.random() < 0.5, drawn, chance.random() < SPOOLS, chance.random() < ROOMY)

    def failure(self, make: Callable[[], Machine]) -> Exception | None:
        """Walk; return the failure, or None."""
        machine = make()
        try:
            machine.begin(shared=self.shared, spools=self.spools, roomy=self.roomy)
            for name, arguments in self.steps:
                method = getattr(machine, name)
                if method.needs is None or method.needs(machine):
                    method(**arguments)
                    machine.holds()
            machine.finish()
        except Exception as error:
            return error
        finally:
            machine.close()
        return None

    def shortened(self, make: Callable[[], Machine], failure: Exception) -> Walk:
        """Return the steps without those that the same failure does not need."""
        wanted, walk, runs, size = _signature(failure), self, 0, max(1, len(self.steps) // 2)
        while runs < SHORTER:
            before, at = len(walk.steps), 0
            while at < len(walk.steps) and runs < SHORTER:
                shorter = replace(walk, steps=[*walk.steps[:at], *walk.steps[at + size :]])
                other, runs = shorter.failure(make), runs + 1
                if other is not None and _signature(other) == wanted:
                    walk = shorter
                else:
                    at += size
            if size == 1 and len(walk.steps) == before:
                break
            size = max(1, size // 2)
        return walk

    def text(self) -> str:
        """Return the steps, one a line."""
        calls = [f"{name}({', '.join(f'{each}={value!r}' for each, value in arguments.items())})" for name, arguments in self.steps]
        return "\n".join([f"begin(shared={self.shared}, spools={self.spools}, roomy={self.roomy})", *calls])


def _signature(error: Exception) -> tuple[str, str, str]:
    """Return the common part of two failures of one fault: the kind, the text without numbers and names, and the place."""
    words = re.sub(r"[\d']\S*|[({\[].*", "", str(error))
    return type(error).__name__, words, traceback.extract_tb(error.__traceback__)[-1].name
