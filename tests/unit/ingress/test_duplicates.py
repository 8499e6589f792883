"""Tests of resent stanzas: they are recognised by id, if they were not acknowledged."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.ingress import duplicates
from s2sgw.ingress.duplicates import MAX_OF_STREAM, MAX_PAIRS, REMEMBERED_SECONDS, Duplicates, Unacknowledged
from s2sgw.queue.entries import UpstreamAck
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza

HERE, PEER, OTHER = (Domain.parse(f"{name}.example") for name in ("here", "peer", "other"))
IN, OTHERS = Pair(PEER, HERE), Pair(OTHER, HERE)


def stanza(id: str | None, text: str = "") -> Stanza:
    return Stanza("message", f"<message id='{id}'>{text}</message>".encode(), "a@here.example", "b@peer.example", None, id)


def add(kept: Unacknowledged, *stanzas: Stanza, pair: Pair = IN) -> UpstreamAck:
    """Add these stanzas as the next ones; return their upstream acknowledgement."""
    receipt = UpstreamAck(len(stanzas))
    kept.add(pair, list(stanzas), receipt)
    return receipt


class UnacknowledgedTests(SynchronousTestCase):
    """Tests of the stanzas of a stream that its sender does not know to be safe."""

    def rows(self, kept: Unacknowledged, acknowledged: int) -> list[int]:
        return [value for _, value, _ in kept.rows(acknowledged)]

    def test_what_was_acknowledged_is_forgotten(self) -> None:
        """R35: of a run whose first stanza was acknowledged, the others may come again."""
        one, two, three = stanza("1"), stanza("2"), stanza("3")
        kept = Unacknowledged()
        add(kept, one, two)
        add(kept, three)
        self.assertEqual(self.rows(kept, 0), [hash(each.data) for each in (one, two, three)])
        self.assertEqual(self.rows(kept, 1), [hash(two.data), hash(three.data)])
        self.assertEqual(self.rows(kept, 2), [hash(three.data)])
        self.assertEqual(self.rows(kept, 3), [])

    def test_only_messages_with_ids(self) -> None:
        """IQs and presence that look the same may be sent twice on purpose. Messages without an id cannot be told apart."""
        kept = Unacknowledged()
        add(kept, stanza(None), Stanza("iq", b"<iq id='p'/>", "a@here.example", "b@peer.example", "get", "p"), stanza("1"))
        self.assertEqual(self.rows(kept, 0), [hash(stanza("1").data)])

    def test_bounded(self) -> None:
        """The oldest stanzas are forgotten, and the count continues."""
        kept = Unacknowledged()
        for number in range(MAX_OF_STREAM + 1):
            add(kept, stanza(str(number)))
        self.assertEqual(len(self.rows(kept, 0)), MAX_OF_STREAM)
        self.assertEqual(self.rows(kept, MAX_OF_STREAM), [hash(stanza(str(MAX_OF_STREAM)).data)])


class DuplicatesTests(SynchronousTestCase):
    """Tests of stanzas that a server sends again after it lost a stream."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.duplicates = Duplicates(self.clock)

    def lose(self, *stanzas: Stanza, pair: Pair = IN) -> UpstreamAck:
        kept = Unacknowledged()
        receipt = add(kept, *stanzas, pair=pair)
        self.duplicates.expect(kept.rows(0))
        return receipt

    def new(self, *stanzas: Stanza, pair: Pair = IN) -> list[str | None]:
        return [each.id for each in self.duplicates.divide(pair, list(stanzas))[0]]

    def test_recognised_once(self) -> None:
        """A repeat is returned with the upstream acknowledgement of its first copy, once. New stanzas pass."""
        receipt = self.lose(stanza("1"), stanza("2"))
        new, repeats = self.duplicates.divide(IN, [stanza("2"), stanza("3")])
        self.assertEqual(([each.id for each in new], [(each.id, first) for each, first in repeats]), (["3"], [("2", receipt)]))
        self.assertEqual(self.new(stanza("2"), stanza("1")), ["2"])

    def test_lost_twice(self) -> None:
        """Each copy is recognised once."""
        first, second = self.lose(stanza("1")), self.lose(stanza("1"))
        new, repeats = self.duplicates.divide(IN, [stanza("1"), stanza("1")])
        self.assertEqual((new, [receipt for _, receipt in repeats]), ([], [first, second]))

    def test_only_what_is_the_same(self) -> None:
        """A stanza with the same id and different content, or of another pair, is not a repeat."""
        self.lose(stanza("1"))
        self.assertEqual(self.new(stanza("1", "other")), ["1"])
        self.assertEqual(self.new(stanza("1"), pair=OTHERS), ["1"])

    def test_for_a_while(self) -> None:
        """Long after the loss no stanza is a repeat. A later loss does not bring the earlier one back."""
        self.lose(stanza("1"))
        self.clock.advance(REMEMBERED_SECONDS + 1)
        self.lose(stanza("2"))
        self.assertEqual(self.new(stanza("1")), ["1"])
        self.assertEqual(self.new(stanza("2")), [])
        self.clock.advance(2 * REMEMBERED_SECONDS)
        self.assertEqual(self.new(stanza("2")), ["2"])

    def test_from_the_last_loss(self) -> None:
        """While an earlier loss is remembered, a later one of the same pair has its whole time."""
        self.lose(stanza("1"))
        self.clock.advance(REMEMBERED_SECONDS - 1)
        self.lose(stanza("2"))
        self.clock.advance(REMEMBERED_SECONDS - 1)
        self.assertEqual(self.new(stanza("2")), [])

    def test_too_many_of_a_pair(self) -> None:
        """The number of stanzas of a pair is bounded: beyond it, those that were lost last are remembered."""
        self.patch(duplicates, "MAX_OF_PAIR", 2)
        self.lose(*(stanza(str(number)) for number in range(4)))
        self.assertEqual(self.new(*(stanza(str(number)) for number in range(4))), ["0", "1"])

    def test_bounded(self) -> None:
        """The number of pairs is bounded: the pair with the oldest loss is forgotten."""
        self.lose(stanza("1"))
        for number in range(MAX_PAIRS):
            self.lose(stanza("1"), pair=Pair(Domain.parse(f"s{number}.example"), HERE))
        self.assertEqual(self.new(stanza("1")), ["1"])

    def test_sub_domains(self) -> None:
        """A server with very many sub-domains does not remove the pairs of others, whichever of them is lost last."""
        self.lose(stanza("1"))
        for number in range(2 * MAX_PAIRS):
            self.lose(stanza("1"), pair=Pair(Domain.parse(f"s{number}.many.example"), HERE))
        self.lose(stanza("1"), pair=OTHERS)
        self.assertEqual([self.new(stanza("1")), self.new(stanza("1"), pair=OTHERS)], [[], []])
        self.assertEqual(len(self.duplicates.expected), MAX_PAIRS)

    def test_same_stanza(self) -> None:
        """A stanza that is lost again and again counts each time."""
        self.patch(duplicates, "MAX_OF_PAIR", 2)
        self.lose(*[stanza("1")] * 3)
        self.assertEqual(self.new(*[stanza("1")] * 3), ["1", "1"])

    def test_bounded_in_all(self) -> None:
        """The number of stanzas of all pairs is bounded: the registered domain with the most loses its oldest pairs, and others lose none."""
        self.patch(duplicates, "MAX_OF_ALL", 12)
        pairs = [Pair(Domain.parse(f"s{number}.many.example"), HERE) for number in range(4)]
        self.lose(*(stanza(str(number)) for number in range(4)))
        for pair in pairs:
            self.lose(*(stanza(str(number)) for number in range(4)), pair=pair)
        self.assertEqual([IN, *pairs[2:]], list(self.duplicates.expected))

    def test_several_forgotten(self) -> None:
        """A large loss may push out several pairs at once, but no more of them than it must."""
        self.patch(duplicates, "MAX_OF_ALL", 12)
        pairs = [Pair(Domain.parse(f"s{number}.many.example"), HERE) for number in range(4)]
        for pair in pairs:
            self.lose(*(stanza(str(number)) for number in range(8 if pair is pairs[3] else 4)), pair=pair)
        self.assertEqual(pairs[2:], list(self.duplicates.expected))

    def test_past_ones_first(self) -> None:
        """Stanzas that are remembered for too long are forgotten first, and then no newer ones are."""
        self.patch(duplicates, "MAX_OF_ALL", 3)
        self.lose(stanza("1"), stanza("2"), pair=OTHERS)
        self.clock.advance(REMEMBERED_SECONDS + 1)
        self.lose(stanza("1"), stanza("2"), stanza("3"))
        self.assertEqual([IN], list(self.duplicates.expected))

    def test_given_up(self) -> None:
        """A first copy that was given up, before or after the loss, makes no repeat: the next copy is new."""
        early, kept = UpstreamAck(1), Unacknowledged()
        kept.add(IN, [stanza("1")], early)
        early.abandon()
        self.assertEqual(list(kept.rows(0)), [])
        self.lose(stanza("2")).abandon()
        second = self.lose(stanza("2"))
        new, repeats = self.duplicates.divide(IN, [stanza("2"), stanza("2")])
        self.assertEqual(([each.id for each in new], [receipt for _, receipt in repeats]), (["2"], [second]))

    def test_nothing_to_expect(self) -> None:
        """A stream without stanzas leaves no entry."""
        self.lose()
        self.assertEqual(self.new(stanza("1")), ["1"])
