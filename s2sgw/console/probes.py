"""Probes and live checks that were begun on the console: those under way, and the last results.

A probe takes up to a minute and a half, longer than a page may take. So it runs on its own, and a page shows its result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.admin.server import VerbError

#: Runs that are kept. The oldest finished one is forgotten first.
RUNS = 16


@dataclass(slots=True)
class ProbeRun:
    """One probe or check. `subject` is the domain of a probe. `began` and `ended` are seconds that never run backwards.

    `answer` is the result of the verb. `problem` has the reason if there is none, and `refusal` the error if the verb refused.
    """

    number: int
    kind: Literal["probe", "check"]
    subject: str
    user: str
    began: float
    ended: float | None = None
    answer: Mapping[str, Any] | None = None
    problem: str = ""
    refusal: VerbError | None = field(default=None, repr=False)

    @property
    def outcome(self) -> str:
        """Return the outcome in one word."""
        if self.ended is None:
            return "running"
        if self.answer is None:
            return "broken"
        good = self.answer["verdict"] == "federates" if self.kind == "probe" else self.answer["ok"]
        return "good" if good else "bad"


class ProbeRuns:
    """The runs. `now` returns seconds that never run backwards."""

    log = Logger("s2sgw")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._number = 0
        self._runs: dict[int, ProbeRun] = {}

    def begin(self, kind: Literal["probe", "check"], subject: str, user: str, asked: Deferred[Any]) -> ProbeRun:
        """Keep a run. `asked` will be its answer. Raises `VerbError` if the verb refused at once."""
        run = ProbeRun(self._number + 1, kind, subject, user, self._now())
        asked.addCallback(self._answered, run)
        asked.addErrback(self._failed, run)
        if run.refusal is not None:
            raise run.refusal
        self._number += 1
        self._runs[run.number] = run
        while len(self._runs) > RUNS:
            over = (number for number, each in self._runs.items() if each.ended is not None)
            del self._runs[next(over, next(iter(self._runs)))]
        return run

    def find(self, number: str) -> ProbeRun | None:
        """Return the run with this number; None if there is none, or it was forgotten."""
        return self._runs.get(int(number)) if number.isascii() and number.isdecimal() and len(number) < 12 else None

    def last(self) -> list[ProbeRun]:
        """Return the runs that are kept, the newest first."""
        return list(reversed(self._runs.values()))

    def seconds(self, run: ProbeRun) -> float:
        """Return how long a run took, or has taken so far."""
        return (self._now() if run.ended is None else run.ended) - run.began

    def _answered(self, answer: Mapping[str, Any], run: ProbeRun) -> None:
        run.ended, run.answer = self._now(), answer

    def _failed(self, failure: Failure, run: ProbeRun) -> None:
        run.ended = self._now()
        if isinstance(failure.value, VerbError):
            run.problem, run.refusal = str(failure.value), failure.value
        else:
            self.log.failure("a probe of the console failed", failure)
            run.problem = "It failed. The log of the gateway says why."
