"""Tests of slots for work at the request of peers."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.fair_slots import JOSTLE_SECONDS, SLOW_SECONDS, SlotLost
from s2sgw.net.requester import Requester
from s2sgw.net.requester_slots import BURST_SECONDS, OWNER_PART, RequesterSlots

NUMBER = 32
PART = NUMBER // 2 // OWNER_PART
US = Requester.ourselves("peer.example")


def stranger(site: int, host: int = 1) -> Requester:
    return Requester.stranger(f"10.{site}.0.{host}")


class RequesterSlotsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.slots: RequesterSlots[str] = RequesterSlots(self.clock, NUMBER, 10.0)
        self.open: list[Deferred[str]] = []

    async def call(self, name: str, suffix: str = "") -> str:
        """Wait until the test ends the call."""
        self.open.append(Deferred())
        return await self.open[-1] + name + suffix

    def ask(self, requester: Requester) -> Deferred[Any]:
        """Run a call of `requester`. The result of a call that gets no slot is the reason."""

        def reason(failure: Failure) -> str:
            failure.trap(SlotLost)
            return str(failure.value)

        answer: Deferred[Any] = self.slots.run(requester, self.call, "x")
        return answer.addErrback(reason)

    def test_result(self) -> None:
        """The call gets its arguments, and its result is returned."""
        answer = self.slots.run(US, self.call, "a", suffix="b")
        self.assertEqual(1, self.slots.in_flight)
        self.open.pop().callback("result ")
        self.assertEqual("result ab", self.successResultOf(answer))
        self.assertEqual(0, self.slots.in_flight)

    def test_halves(self) -> None:
        """Strangers take half of the slots. The gateway's own calls have the other half, and begin at once."""
        for site in range(NUMBER):
            self.ask(stranger(site))
        self.assertEqual((NUMBER // 2, NUMBER // 2), (self.slots.in_flight, self.slots.in_line))
        self.ask(US)
        self.assertEqual((NUMBER // 2 + 1, NUMBER // 2), (self.slots.in_flight, self.slots.in_line))

    def test_one_owner(self) -> None:
        """One owner holds a part of its half, and its other calls wait. The gateway's calls share by the domain asked for."""
        for requester in (stranger(1), US):
            for _ in range(PART + 3):
                self.ask(requester)
        self.assertEqual((2 * PART, 6), (self.slots.in_flight, self.slots.in_line))

    def test_rate(self) -> None:
        """A stranger's address may begin so many calls a second after its burst. The gateway's own calls have no rate."""
        answers = [self.ask(stranger(1)) for _ in range(10 * BURST_SECONDS + 1)]
        self.assertEqual("rate", self.successResultOf(answers[-1]))
        self.assertEqual(1, self.slots.given_up["rate"])
        self.ask(stranger(2))
        self.clock.advance(0.1)
        self.ask(stranger(1))
        for _ in range(10 * BURST_SECONDS + 1):
            self.ask(US)
        self.assertEqual(1, self.slots.given_up["rate"])

    def test_given_up(self) -> None:
        """The counts of both halves and of the rate are added by reason."""
        for requester in (*map(stranger, range(NUMBER)), *(Requester.ourselves(f"p{number}.example") for number in range(NUMBER))):
            self.ask(requester)
        before = self.slots.given_up["displaced"]
        for _ in range(100):
            self.clock.advance(max(JOSTLE_SECONDS, SLOW_SECONDS / 10))
        self.assertEqual(0, before)
        self.assertEqual(NUMBER, self.slots.given_up["displaced"])
