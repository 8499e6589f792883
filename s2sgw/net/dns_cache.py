"""A cache of DNS answers, which are kept until their TTL is over."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from twisted.internet.interfaces import IReactorTime

from s2sgw.net.dns_answer import Answer, Question

#: The size of the cache, in records of up to 256 bytes (an answer without records counts as one).
RECORDS = 16384
_RECORD_BYTES = 256


class Cache:
    """Answers until their TTL is over. Beyond `limit` records the least recently used ones are removed first."""

    def __init__(self, clock: IReactorTime, limit: int = RECORDS) -> None:
        self._clock = clock
        self._limit = limit
        self._answers: OrderedDict[Question, tuple[float, Answer]] = OrderedDict()
        self.weight = 0

    def __len__(self) -> int:
        """Return the number of answers."""
        return len(self._answers)

    def get(self, question: Question) -> Answer | None:
        """Return the answer with the rest of its TTL."""
        kept = self._answers.get(question)
        if kept is None:
            return None
        until, answer = kept
        left = until - self._clock.seconds()
        if left <= 0:
            self._drop(question)
            return None
        self._answers.move_to_end(question)
        return replace(answer, ttl=left)

    def put(self, question: Question, answer: Answer) -> None:
        """Keep `answer`. An answer with a TTL of 0 is not kept."""
        self._drop(question)
        if answer.ttl <= 0:
            return
        self._answers[question] = (self._clock.seconds() + answer.ttl, answer)
        self.weight += _weight(answer)
        while self.weight > self._limit:
            self._drop(next(iter(self._answers)))

    def clear(self) -> None:
        """Remove everything."""
        self._answers.clear()
        self.weight = 0

    def _drop(self, question: Question) -> None:
        entry = self._answers.pop(question, None)
        if entry is not None:
            self.weight -= _weight(entry[1])


def _weight(answer: Answer) -> int:
    return max(sum(1 + len(record.to_wire() or b"") // _RECORD_BYTES for record in answer.records), 1)
