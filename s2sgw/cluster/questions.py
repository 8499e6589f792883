"""The questions of other nodes to this one: the first word of a question tells what answers it (docs/cluster.md)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

QuestionAnswer = Callable[[bytes], Awaitable[bytes]]


class UnknownQuestion(Exception):
    """Nothing here answers this. A node of a newer release may ask it."""


class Questions:
    """The functions that answer questions, by the first word of a question."""

    def __init__(self) -> None:
        self._answers: dict[bytes, QuestionAnswer] = {}

    def add(self, word: bytes, answer: QuestionAnswer) -> None:
        """Let `answer` answer the questions whose first word this is."""
        self._answers[word] = answer

    async def answer(self, question: bytes) -> bytes:
        """Return the answer to a question. Raises `UnknownQuestion`, and what the answer raises: then the node cannot answer."""
        word = question.partition(b" ")[0]
        if word not in self._answers:
            raise UnknownQuestion(word[:20])
        return await self._answers[word](question)
