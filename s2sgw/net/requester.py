"""The party that a look-up is made for, and what the look-up may cost.

A stranger is a peer that has proven nothing. Its look-ups share slots by its address, and one claim of a name may cause a bounded
number of DNS questions: the claimant chooses the names, so they may be names in a victim's zone (CVE-2020-8616).
Look-ups of our own (outbound delivery, peers that were proven lately, deny lists) share other slots, by the registered domain of
the name.
"""

from __future__ import annotations

from typing import Any

from s2sgw.net.dns_answer import Answer, Question
from s2sgw.net.fair_slots import Owner
from s2sgw.net.sites import site_path
from s2sgw.xmpp.registered_domain import registered_domain

#: DNS questions that one claim of a stranger may cause. Answers from the cache are not counted. Two services and the two families
#: of one target are four. That leaves four: TLSA records of four targets, two more targets, or a POSH document and its reference.
QUESTIONS = 8
#: Connections that one claim of a stranger may cause, to web servers and to the servers of the domain.
DIALS = 4


class Requester:
    """A party that asks, for one purpose. `owner` is the path by which slots are shared (`net.fair_slots`).

    It gets an answer only once: a claim is one transaction, so a TTL of 0 is enough for all of it (RFC 1035 §3.2.1).
    `resolutions` are the successful ones of that transaction (`net.discovery`), by domain and route.
    """

    __slots__ = ("_answers", "dials_left", "is_stranger", "owner", "questions_left", "resolutions")

    def __init__(self, owner: Owner, *, is_stranger: bool, questions: int = QUESTIONS) -> None:
        self.owner = owner
        self.is_stranger = is_stranger
        self.questions_left = questions
        self.dials_left = DIALS
        self.resolutions: dict[tuple[str, str | None], Any] = {}
        self._answers: dict[Question, Answer] = {}

    @classmethod
    def ourselves(cls, name: str) -> Requester:
        """Return the gateway itself, which asks about the domain `name`."""
        return cls((registered_domain(name.rstrip(".").lower()),), is_stranger=False)

    @classmethod
    def stranger(cls, address: str, questions: int = QUESTIONS) -> Requester:
        """Return a peer at `address` that claims one name and has proven nothing.

        `questions`: the most that the claim may cause.
        """
        return cls(site_path(address), is_stranger=True, questions=questions)

    def take_dials(self, wanted: int) -> int:
        """Return how many of `wanted` connections may be made. Those of a stranger are counted until `renew_dials`."""
        if not self.is_stranger:
            return wanted
        taken = min(wanted, self.dials_left)
        self.dials_left -= taken
        return taken

    def renew_dials(self) -> None:
        """Allow `DIALS` again: the next claim is for another pair of domains."""
        self.dials_left = DIALS

    @property
    def is_spent(self) -> bool:
        """Whether no further connection may be made."""
        return self.is_stranger and not self.dials_left

    def recall(self, question: Question) -> Answer | None:
        """Return the earlier answer to the question."""
        return self._answers.get(question)

    def note(self, answer: Answer, question: Question) -> Answer:
        """Remember `answer` if a stranger asked, and return it."""
        if self.is_stranger and not answer.failed:
            self._answers[question] = answer
        return answer
