"""Tests of questions, which compare as names do."""

from __future__ import annotations

import dns.name
from dns.rdatatype import RdataType
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.dns_answer import Question


def question(name: str, rdtype: RdataType = RdataType.A) -> Question:
    return Question(dns.name.from_text(name), rdtype)


class QuestionTests(SynchronousTestCase):
    def test_equal(self) -> None:
        """The case of letters does not matter. The name and the type do."""
        self.assertEqual(question("A.Example"), question("a.example."))
        self.assertEqual(hash(question("A.Example")), hash(question("a.example.")))
        for other in (question("b.example"), question("a.example", RdataType.AAAA), question("a.example.example"), "a.example."):
            self.assertNotEqual(question("a.example"), other)
        self.assertNotEqual(question("a\\.b.example"), question("a.b.example"))
