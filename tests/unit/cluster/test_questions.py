"""Tests of the questions of other nodes."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.questions import Questions, UnknownQuestion


class QuestionsTests(SynchronousTestCase):
    def test_words(self) -> None:
        """The first word decides who answers, and the answer gets the whole question. An unknown word has no answer."""

        async def echo(question: bytes) -> bytes:
            return b"echo " + question

        async def other(question: bytes) -> bytes:
            return b"other"

        questions = Questions()
        questions.add(b"yield", echo)
        questions.add(b"verb", other)
        for asked, answer in ((b"yield a.example", b"echo yield a.example"), (b"yield", b"echo yield"), (b"verb {}", b"other")):
            self.assertEqual(answer, self.successResultOf(Deferred.fromCoroutine(questions.answer(asked))))
        for unknown in (b"", b"yields a", b"verb{}"):
            self.failureResultOf(Deferred.fromCoroutine(questions.answer(unknown)), UnknownQuestion)
