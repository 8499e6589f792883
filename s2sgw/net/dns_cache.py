"""A cache of DNS answers, which are kept until their TTL is over.

One party can ask for any number of names below a domain of its own. So the names below a registered domain share a part of the
cache, and push out each other beyond it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from twisted.internet.interfaces import IReactorTime

from s2sgw.net.dns_answer import Answer, Question
from s2sgw.xmpp.registered_domain import registered_domain

#: The size of the cache, in records of up to 256 bytes (an answer without records counts as one).
RECORDS = 16384
_RECORD_BYTES = 256
#: The part of the cache for the names below one registered domain: one of so many.
SHARE = 8


class _Owned:
    """The answers about the names below one registered domain, the least recently used first, and their records."""

    __slots__ = ("answers", "weight")

    def __init__(self) -> None:
        self.answers: dict[Question, tuple[float, Answer]] = {}
        self.weight = 0


class Cache:
    """Answers until their TTL is over.

    Beyond `limit` records, answers of the registered domain that was not used for longest are removed first. Beyond its share, a
    registered domain loses its own least recently used answers; its newest answer is kept in any case.
    """

    def __init__(self, clock: IReactorTime, limit: int = RECORDS) -> None:
        self._clock = clock
        self._limit = limit
        #: by registered domain, the least recently used first
        self._owned: OrderedDict[str, _Owned] = OrderedDict()
        self._number = 0
        self.weight = 0

    def __len__(self) -> int:
        """Return the number of answers."""
        return self._number

    def get(self, question: Question) -> Answer | None:
        """Return the answer with the rest of its TTL."""
        name = _owner(question)
        owned = self._owned.get(name)
        kept = None if owned is None else owned.answers.pop(question, None)
        if owned is None or kept is None:
            return None
        owned.answers[question] = kept  # at the end
        until, answer = kept
        left = until - self._clock.seconds()
        if left <= 0:
            self._drop(name, question)
            return None
        self._owned.move_to_end(name)
        return replace(answer, ttl=left)

    def put(self, question: Question, answer: Answer) -> None:
        """Keep `answer`. An answer with a TTL of 0 is not kept."""
        name = _owner(question)
        self._drop(name, question)
        if answer.ttl <= 0:
            return
        owned = self._owned.setdefault(name, _Owned())
        owned.answers[question] = (self._clock.seconds() + answer.ttl, answer)
        self._owned.move_to_end(name)
        self._number += 1
        self._count(owned, _weight(answer))
        while owned.weight > self._limit // SHARE and len(owned.answers) > 1:
            self._drop(name, next(iter(owned.answers)))
        while self.weight > self._limit:
            first, its = next(iter(self._owned.items()))
            self._drop(first, next(iter(its.answers)))

    def clear(self) -> None:
        """Remove everything."""
        self._owned.clear()
        self._number = self.weight = 0

    def _drop(self, name: str, question: Question) -> None:
        owned = self._owned.get(name)
        entry = None if owned is None else owned.answers.pop(question, None)
        if owned is not None and entry is not None:
            self._number -= 1
            self._count(owned, -_weight(entry[1]))
            if not owned.answers:
                del self._owned[name]

    def _count(self, owned: _Owned, number: int) -> None:
        owned.weight += number
        self.weight += number


def _owner(question: Question) -> str:
    """Return the registered domain of the name in `question`."""
    return registered_domain(question.text.removesuffix("."))


def _weight(answer: Answer) -> int:
    return max(sum(1 + len(record.to_wire() or b"") // _RECORD_BYTES for record in answer.records), 1)
