"""R33, R41: tests of IQ answers that are not forwarded."""

from __future__ import annotations

import sys

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery import iq_replies
from s2sgw.delivery.iq_replies import LateReplies, PingReplies
from s2sgw.queue.evidence import Rule
from s2sgw.reporting.record import Direction
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.unit.delivery.test_queue import HERE, OUT, World

BACK = OUT.inverse
OTHER = Pair(Domain.parse("other.example"), HERE)


class Directions:
    """The directions of pairs with the domain that is served here."""

    def direction(self, pair: Pair) -> Direction:
        return "inbound" if pair.recipient == HERE else "outbound"


def request(id: str) -> Stanza:
    return Stanza("iq", b"", "u@there.example", "u@here.example", "get", id)


def answer(id: str, type: str = "result", kind: str = "iq", sender: str = "u@there.example") -> Stanza:
    return Stanza(kind, f"<{kind} id='{id}'/>".encode(), "u@here.example", sender, type, id)  # type: ignore[arg-type]


class LateTests(SynchronousTestCase):
    """R33: tests of late answers to requests that the gateway has already answered by an error."""

    def test_dropped_once(self) -> None:
        """R33: an answer is matched by id and both addresses, as result or error, and dropped once. Other stanzas are forwarded."""
        late = LateReplies(Directions())
        caught = PingReplies(BACK, late)
        self.assertNotIn(BACK, late.pairs)
        for each in ("1", "2", "2"):
            late.expect(BACK, request(each))
        self.assertIn(BACK, late.pairs)
        self.assertNotIn(OTHER, late.pairs)
        for stanza in (answer("3"), answer("1", sender="v@there.example"), answer("1", "get"), answer("1", kind="message")):
            self.assertFalse(caught.take(stanza))
        self.assertFalse(late.take(OTHER, answer("1")))
        self.assertEqual([Rule.LATE_REPLY, None, Rule.LATE_REPLY], [caught.take(each) for each in (answer("1"), answer("1"), answer("2", "error"))])
        self.assertNotIn(BACK, late.pairs)

    def test_asked_again(self) -> None:
        """R33: a request sent again with the same id gets its answer. A second answer is dropped."""
        late = LateReplies(Directions())
        late.expect(BACK, request("1"))
        late.asked_again(BACK, request("1"))
        late.asked_again(BACK, request("2"))
        self.assertEqual([late.take(BACK, answer("1")) for _ in range(3)], [False, True, False])
        self.assertNotIn(BACK, late.pairs)

    def test_late_before_asked_again(self) -> None:
        """R33: a late answer that arrives before the request is sent again is dropped, and the next one is forwarded."""
        late = LateReplies(Directions())
        late.expect(BACK, request("1"))
        self.assertTrue(late.take(BACK, answer("1")))
        late.asked_again(BACK, request("1"))
        self.assertFalse(late.take(BACK, answer("1")))

    def test_asked_again_and_again(self) -> None:
        """R33: each request that is sent again lets one answer pass. If it is in doubt again, that is revoked."""
        late = LateReplies(Directions())
        late.expect(BACK, request("1"))
        late.asked_again(BACK, request("1"))
        late.asked_again(BACK, request("1"))
        late.expect(BACK, request("1"))
        self.assertEqual([late.take(BACK, answer("1")) for _ in range(2)], [False, True])

    def test_still_asked(self) -> None:
        """R33: as many answers pass as requests still wait. What passes already is not taken back, and no other request is noted."""
        late = LateReplies(Directions())
        late.expect(BACK, request("1"))
        for number in (2, 1):
            late.still_asked(BACK, request("1"), number)
        late.still_asked(BACK, request("2"), 1)
        self.assertEqual([late.take(BACK, answer("1")) for _ in range(4)], [False, False, True, False])
        self.assertFalse(late.expects(BACK, request("2")))

    def test_bounded(self) -> None:
        """The number of entries is bounded: the oldest of a registered domain is removed first."""
        self.patch(iq_replies, "MAX_LATE_REPLIES", 2)
        late = LateReplies(Directions())
        first = Pair(Domain.parse("sub.there.example"), HERE)
        late.expect(first, request("0"))
        for each in "12":
            late.expect(BACK, request(each))
        self.assertNotIn(first, late.pairs)
        self.assertFalse(late.take(first, answer("0")))
        self.assertTrue(late.take(BACK, answer("2")))

    def test_long_ids(self) -> None:
        """An entry holds no text of the request, which may have a long id."""
        late, id = LateReplies(Directions()), "x" * 10_000
        references = sys.getrefcount(id)
        late.expect(BACK, request(id))
        self.assertEqual(references, sys.getrefcount(id))
        self.assertTrue(late.expects(BACK, request(id)))
        self.assertTrue(late.take(BACK, answer(id)))

    def test_fair(self) -> None:
        """A registered domain that falls silent again and again loses its own oldest entries, under whatever names, and others lose none.

        So does one whose requests our own server does not answer.
        """
        self.patch(iq_replies, "MAX_LATE_REPLIES", 6)
        for silent in ("peer", "ours"):
            late = LateReplies(Directions())
            late.expect(OTHER, request("0"))
            late.expect(OTHER.inverse, request("0"))
            pairs = [Pair(Domain.parse(f"{name}.there.example"), HERE) for name in "abcdefgh"]
            for number, pair in enumerate(pairs):
                late.expect(pair if silent == "peer" else pair.inverse, request(str(number)))
            self.assertEqual({OTHER, OTHER.inverse, *(pair if silent == "peer" else pair.inverse for pair in pairs[4:])}, set(late.pairs))
            self.assertTrue(late.take(OTHER, answer("0")))

    def test_outlives_the_queue(self) -> None:
        """R33: the late answer is also dropped if the queue was forgotten meanwhile."""
        world = World()
        world.custody.services.late.expect(BACK, request("1"))
        world.back.ready = False
        world.queues.queue(BACK)
        world.custody.expiry.sweep()
        self.assertNotIn(BACK, [queue.pair for queue in world.queues])
        world.back.ready = True
        world.queues.queue(BACK).accept([answer("1"), answer("2")])
        self.assertEqual([b"<iq id='2'/>"], world.back.sent)


class PingTests(SynchronousTestCase):
    """R41: tests of answers to the gateway's own pings."""

    def test_told(self) -> None:
        """R41: a result or an error with the expected id is reported. Other stanzas are not."""
        caught, told = PingReplies(BACK, LateReplies(Directions())), []
        caught.pings["p"] = lambda: told.append("p")
        self.assertTrue(caught)
        self.assertEqual([True, True, False, False], [caught.awaits(each) for each in (answer("p"), answer("p", "error"), answer("p", "get"), answer("q"))])
        self.assertEqual((caught.take(answer("p")), caught.take(answer("q"))), (Rule.PING_REPLY, None))
        self.assertEqual(["p"], told)
