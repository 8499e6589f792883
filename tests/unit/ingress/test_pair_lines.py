"""Tests of the order of one pair's stanzas that wait on several streams."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.ingress.pair_lines import PairLines
from s2sgw.xmpp.jid import Domain, Pair

PAIR = Pair(Domain.parse("peer.example"), Domain.parse("here.example"))


class Stream:
    """The stanzas of one pair on one stream. When they may continue, they leave the line unless the stream is `held`."""

    def __init__(self, lines: PairLines, name: str, went_on: list[str], pair: Pair = PAIR) -> None:
        self.pair = pair
        self.held = False
        self._lines, self._name, self._went_on = lines, name, went_on

    passes = False
    waits = False

    @property
    def stream(self) -> object:
        return self._name

    def waits_for(self, stream: object) -> bool:
        return self.waits

    def abandon(self) -> None:
        self._went_on.append(f"{self._name} given up")

    def go_on(self) -> None:
        self._went_on.append(self._name)
        if not self.held:
            self._lines.leave(self)


class PairLinesTests(SynchronousTestCase):
    """R35: tests of three streams of one pair, in a line."""

    def setUp(self) -> None:
        self.lines = PairLines()
        self.went_on: list[str] = []
        self.first, self.second, self.third = (Stream(self.lines, name, self.went_on) for name in "123")
        for stream in (self.first, self.second, self.third):
            self.lines.join(stream)

    def test_must_wait(self) -> None:
        """Only the first stream may continue. A stream of another pair does not wait."""
        self.assertEqual([False, True, True], [self.lines.must_wait(each) for each in (self.first, self.second, self.third)])
        self.assertFalse(self.lines.must_wait(Stream(self.lines, "x", [], PAIR.inverse)))

    def test_waits_for_an_older_one(self) -> None:
        """A stream comes before the first one if that waits for it, and then the others wait."""
        older = Stream(self.lines, "0", self.went_on)
        self.assertTrue(self.lines.must_wait(older))
        self.first.waits = True
        self.assertFalse(self.lines.must_wait(older))
        self.lines.join(older)
        self.first.waits = False
        self.assertEqual([False, True], [self.lines.must_wait(each) for each in (older, self.first)])
        self.lines.leave(older)
        self.assertEqual(["1", "2", "3"], self.went_on)

    def test_all_go_on(self) -> None:
        """When the first stream leaves, the others continue in their order, each once. The line is then forgotten."""
        self.lines.leave(self.first)
        self.assertEqual((["2", "3"], 0), (self.went_on, len(self.lines)))

    def test_stops_at_one_that_waits(self) -> None:
        """A stream that has to wait again keeps the ones after it waiting."""
        self.second.held = True
        self.lines.leave(self.first)
        self.assertEqual(["2"], self.went_on)
        self.assertTrue(self.lines.must_wait(self.third))
        self.lines.leave(self.second)
        self.assertEqual((["2", "3"], 0), (self.went_on, len(self.lines)))

    def test_leaves_the_middle(self) -> None:
        """A stream that is not the first leaves without effect on the others."""
        self.lines.leave(self.second)
        self.assertEqual([], self.went_on)
        self.lines.leave(self.first)
        self.assertEqual(["3"], self.went_on)

    def test_twice(self) -> None:
        """A stream is in the line once, also if it enters twice, and may leave twice."""
        self.lines.join(self.first)
        self.lines.leave(self.first)
        self.lines.leave(self.first)
        self.assertEqual(["2", "3"], self.went_on)

    def test_given_up(self) -> None:
        """All streams of a home are given up, and none of them goes on. Streams of another home stay in their line."""
        lines = PairLines()
        lines.index_by(lambda pair: max(pair, key=str))
        other = Stream(lines, "other", self.went_on, Pair(PAIR.sender, Domain.parse("zero.example")))
        for stream in (self.first, self.second, other):
            lines.join(stream)
        self.assertEqual([self.first, self.second], lines.of_home(PAIR.sender))
        lines.abandon(PAIR.sender)
        self.assertEqual((["1 given up", "2 given up"], [], 1), (self.went_on, lines.of_home(PAIR.sender), len(lines)))
        lines.leave(other)
        self.assertEqual(([], 0), (lines.of_home(other.pair.recipient), len(lines)))
