"""Repeated events: the first few are reported, then once a minute the number of the others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

#: Seconds for which repetitions are counted before they are reported.
EVERY = 60.0
#: Kinds of events that are counted separately. Beyond that, they are counted together.
KINDS = 2000
#: Kinds that are reported in one call, so that it is short. The others have their turn in the next call.
AT_ONCE = 100

#: The key of all kinds beyond `KINDS`.
_OTHERS = ("others",)


class Clock(Protocol):
    """Returns seconds."""

    def seconds(self) -> float: ...


@dataclass(slots=True)
class Repetition:
    """One kind of event: how many were reported since `began`, how many more there were, and the last of those."""

    began: float
    told: int = 0
    more: int = 0
    last: Any = None


class RepeatedEvents:
    """Decides which events are reported at once: the first `first` of a kind, and again after a minute without any."""

    def __init__(self, clock: Clock, first: int = 1) -> None:
        self._clock = clock
        self._first = first
        self._kinds: OrderedDict[Hashable, Repetition] = OrderedDict()

    def is_news(self, kind: Hashable, event: Any) -> bool:
        """Return whether `event` is to be reported. Otherwise count it, and keep the last one."""
        known = self._kinds.get(kind)
        if known is None:
            kind = kind if len(self._kinds) < KINDS else _OTHERS
            known = self._kinds.get(kind)
            if known is None:
                known = self._kinds[kind] = Repetition(self._clock.seconds())
        if known.told < self._first and kind != _OTHERS:
            known.told += 1
            return True
        known.more += 1
        known.last = event
        return False

    def due(self, at_once: bool = False) -> list[tuple[Any, int]]:
        """Return (the last event, their number) of at most `AT_ONCE` kinds whose minute is over. `at_once`: of every kind."""
        now = self._clock.seconds()
        found: list[tuple[Any, int]] = []
        while self._kinds and (at_once or len(found) < AT_ONCE):
            kind, known = next(iter(self._kinds.items()))
            if not at_once and 0 <= now - known.began < EVERY:
                break
            del self._kinds[kind]
            if known.more:
                found.append((known.last, known.more))
                self._kinds.update({} if at_once else {kind: Repetition(now, self._first)})
        return found
