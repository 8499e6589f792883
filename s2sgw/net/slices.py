"""Long work in slices of a few milliseconds, with a turn of the reactor after each (docs/decisions.md#long-work).

The work is a generator. It yields None where it may be interrupted, or a Deferred that it waits for, and returns its result.
A step from one yield to the next should take well under a millisecond.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from heapq import merge
from time import perf_counter
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.net.turn_budget import TurnBudget

#: Seconds of one turn of the reactor for all such work together.
SLICE_SECONDS = 0.005
#: Seconds of CPU that the work always has, so that an answer of many steps comes even while strangers use up every turn.
LEAST_SECONDS = 0.002

T = TypeVar("T")
SlicedWork = Generator[Deferred[Any] | None, Any, T]


class _Job(Generic[T]):
    """One piece of work under way."""

    def __init__(self, work: SlicedWork[T]) -> None:
        self.work = work
        self.waits_for: Deferred[Any] | None = None
        self.answer: Any = None  # the result of the Deferred it waited for
        self.over = False
        self.result: Deferred[T] = Deferred(self._cancel)

    def _cancel(self, _: Deferred[T]) -> None:
        self.over = True
        if self.waits_for is not None:
            self.waits_for.cancel()
        self.work.close()


class Slices:
    """All sliced work of a gateway. The pieces of work take turns, step by step, and share `seconds` of each turn.

    `stopwatch` gives seconds that never run backwards: a step may wait for the disk. `budget` bounds the turn.
    """

    log = Logger()

    def __init__(
        self, clock: IReactorTime, seconds: float = SLICE_SECONDS, stopwatch: Callable[[], float] = perf_counter, *,
        budget: TurnBudget | None = None,
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._stopwatch = stopwatch
        self._budget = budget or TurnBudget()
        self._jobs: deque[_Job[Any]] = deque()
        self._is_due = False

    def run(self, work: SlicedWork[T]) -> Deferred[T]:
        """Do `work`, from the next turn of the reactor on. The Deferred fires with its result or failure.

        Cancelling the Deferred stops the work, and cancels the Deferred that it waits for.
        """
        job = _Job(work)
        self._jobs.append(job)
        self._schedule()
        return job.result

    def call(self, act: Callable[[], None]) -> None:
        """Call `act` in one of the next turns, when there is time for it. An error is logged."""
        self.run(each((act,), operator.call)).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        self.log.failure("work in slices failed", failure)

    def _schedule(self) -> None:
        if self._jobs and not self._is_due:
            self._is_due = True
            self._clock.callLater(0, self._slice)

    def _slice(self) -> None:
        self._is_due = False
        began, budget = self._stopwatch(), self._budget
        end = max(budget.end, budget.stopwatch() + LEAST_SECONDS)
        while self._jobs:
            job = self._jobs.popleft()
            if not job.over:
                self._step(job)
            if self._stopwatch() - began > self._seconds or budget.stopwatch() > end:
                break
        self._schedule()

    def _step(self, job: _Job[Any]) -> None:
        try:
            waits_for = self._resume(job)
        except StopIteration as end:
            job.over = True
            job.result.callback(end.value)
        except Exception:
            job.over = True
            job.result.errback(Failure())
        else:
            if waits_for is None:
                self._jobs.append(job)
            else:
                job.waits_for = waits_for
                waits_for.addBoth(self._go_on, job)

    def _resume(self, job: _Job[Any]) -> Deferred[Any] | None:
        answer, job.answer = job.answer, None
        waits_for: Deferred[Any] | None
        if isinstance(answer, Failure):
            waits_for = answer.throwExceptionIntoGenerator(job.work)
        else:
            waits_for = job.work.send(answer)
        return waits_for

    def _go_on(self, answer: object, job: _Job[Any]) -> None:
        """Go on with the result, or the failure, that the work waited for."""
        job.waits_for = None
        if not job.over:
            job.answer = answer
            self._jobs.append(job)
            self._schedule()


def each(items: Iterable[T], act: Callable[[T], object], at_once: int = 1) -> SlicedWork[None]:
    """Return work that calls `act` for each of `items`, `at_once` of them in a step."""
    for number, item in enumerate(items, 1):
        act(item)
        if number % at_once == 0:
            yield None


def emptied(tables: Iterable[dict[Any, Any]], at_once: int = 100) -> SlicedWork[None]:
    """Return work that empties `tables`. Freeing a large table at once would be one long step."""
    for table in tables:
        while table:
            for _ in range(min(at_once, len(table))):
                table.popitem()
            yield None


def few_at_once(calls: Iterable[Callable[[], Deferred[T]]], most: int) -> SlicedWork[list[T]]:
    """Return work that makes `calls`, each in a step, with at most `most` of them unanswered. Its result: the answers.

    An answer that fails is left out: each call handles its own failures.
    """
    answers: list[T] = []
    waiting: set[Deferred[None]] = set()
    unanswered = 0

    def answered(answer: T | Failure) -> None:
        nonlocal unanswered
        unanswered -= 1
        if not isinstance(answer, Failure):
            answers.append(answer)
        while waiting:
            waiting.pop().callback(None)

    def fewer_than(number: int) -> SlicedWork[None]:
        while unanswered >= number:
            some: Deferred[None] = Deferred(waiting.discard)
            waiting.add(some)
            yield some

    for call in calls:
        yield from fewer_than(most)
        unanswered += 1
        call().addBoth(answered)
        yield None
    yield from fewer_than(1)
    return answers


def in_order(items: Iterable[T], key: Callable[[T], Any], at_once: int = 1000) -> Generator[None, None, Iterator[T]]:
    """Return work that sorts `items`. Its result is an iterator over them. One long sort would be one long step."""
    parts: list[list[T]] = []
    part: list[T] = []
    for item in items:
        part.append(item)
        if len(part) == at_once:
            parts.append(sorted(part, key=key))
            part = []
            yield
    parts.append(sorted(part, key=key))
    return merge(*parts, key=key)
