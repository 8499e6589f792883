"""Tests of the decision whether a stanza caused the end of a stream (docs/decisions.md#poison)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.poison import CLOSED_TWICE, OF_CONTENT, STALLED_TWICE, PoisonDetector
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition

LOST = Ending(Cause.CONNECTION_LOST, by="network")
CLOSED = Ending(Cause.CLOSED, by="them")
SILENT = Ending(Cause.UNRESPONSIVE, by="them")
BAD = Ending(Cause.STREAM_ERROR, by="them", condition="bad-format")


class BlameTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.poison_detector = PoisonDetector()

    def suspicion(self, ending: Ending, *positions: int, young: bool = False, asking: bool = False, large: bool = False) -> str:
        doubtful = range(positions[0], positions[-1] + 1) if positions else range(0)
        return self.poison_detector.suspicion(ending, doubtful, young, asking, large=large)

    def test_content(self) -> None:
        """Each stream error about content accuses the stanza at once. While `<enable/>` is unanswered it does not, nor does our own error."""
        for condition in OF_CONTENT:
            self.assertEqual(condition, self.suspicion(Ending(Cause.STREAM_ERROR, by="them", condition=condition), 1))
        self.assertEqual("", self.suspicion(BAD, 1, asking=True))
        self.assertEqual("", self.suspicion(Ending(Cause.PROTOCOL_ERROR, by="us", condition="bad-format"), 1))
        self.assertEqual("", self.suspicion(Ending(Cause.STREAM_ERROR, by="them", condition="system-shutdown"), 1, 2, young=True))

    def test_fixed_list(self) -> None:
        """R34: the reported condition is one of RFC 6120's, whatever name a peer gives its error."""
        self.assertTrue(set(StreamCondition) >= OF_CONTENT)
        self.assertEqual("", self.suspicion(Ending(Cause.STREAM_ERROR, by="them", condition="<b/>"), 1))

    def test_twice_alone(self) -> None:
        """Two ends without an error, with the same single stanza in doubt, accuse it."""
        for end in (LOST, CLOSED):
            self.assertEqual("", self.suspicion(end, 4, young=True))
            self.assertEqual(CLOSED_TWICE, self.suspicion(end, 4))
            self.assertEqual("", self.suspicion(end, 5))

    def test_not_in_a_row(self) -> None:
        """A different end in between, or a different stanza, starts the count again."""
        for other in (Ending(Cause.UNRESPONSIVE), BAD, Ending(Cause.STREAM_ERROR, by="them", condition="reset")):
            self.assertEqual("", self.suspicion(LOST, 4))
            self.suspicion(other, 4)
            self.assertEqual("", self.suspicion(LOST, 4))
            self.assertEqual("", self.suspicion(LOST, 5))
            self.assertEqual("", self.suspicion(LOST))
            self.assertEqual("", self.suspicion(LOST, 5))
            self.assertEqual("", self.suspicion(LOST))

    def test_several(self) -> None:
        """With several stanzas in doubt none is accused. They are sent one at a time if the stream was young or they were in doubt before."""
        self.assertEqual(CLOSED_TWICE, self.suspicion(LOST, 1, 9, young=True))
        self.assertEqual("", self.suspicion(LOST, 20, 29))
        self.assertEqual("", self.suspicion(LOST, 30, 39))
        self.assertEqual(CLOSED_TWICE, self.suspicion(LOST, 33, 45))
        self.assertEqual("", self.suspicion(LOST, 33))
        self.assertEqual(CLOSED_TWICE, self.suspicion(LOST, 33))

    def test_beside_others(self) -> None:
        """The only stanza of its queue, beside other queues' stanzas on the stream, is not accused. It is sent alone from then on."""
        for expected in ("", CLOSED_TWICE, CLOSED_TWICE):
            self.assertEqual(expected, self.poison_detector.suspicion(LOST, range(4, 5), False, False, ambiguous=True))
        self.assertEqual("", self.suspicion(LOST, 4))
        self.assertEqual(CLOSED_TWICE, self.suspicion(LOST, 4))

    def silent(self, *positions: int, ambiguous: bool = False) -> bool:
        """Let the other side stop answering with something large in flight; return whether the stanza in doubt is guilty."""
        doubtful = range(positions[0], positions[-1] + 1)
        self.assertEqual(STALLED_TWICE, self.poison_detector.suspicion(SILENT, doubtful, False, False, ambiguous, large=True))
        self.assertTrue(self.poison_detector.stalled)
        return self.poison_detector.certain

    def test_silence_over_a_large_one(self) -> None:
        """The stanzas are sent one at a time. A stanza is guilty if it was alone in doubt, and in doubt at such an end before."""
        self.assertFalse(self.silent(1, 9))
        self.assertTrue(self.silent(4))
        self.assertFalse(self.silent(5))
        self.assertTrue(self.silent(5))
        self.assertFalse(self.silent(6, ambiguous=True))
        self.assertFalse(self.silent(6, ambiguous=True))
        self.assertTrue(self.silent(6))

    def test_silence_that_is_something_else(self) -> None:
        """Silence with nothing large in flight accuses no stanza, nor does our own ending. A different end starts the count again."""
        for _ in range(3):
            self.assertEqual("", self.suspicion(SILENT, 1, young=True))
        self.assertEqual("", self.suspicion(SILENT, 1, 2))
        self.assertEqual("", self.suspicion(Ending(Cause.UNRESPONSIVE), 1, 2, large=True))
        for between in (SILENT, LOST, Ending(Cause.IDLE)):
            self.assertFalse(self.silent(4))
            self.suspicion(between, 4)
            self.assertFalse(self.poison_detector.stalled)
            self.assertFalse(self.silent(4))
            self.suspicion(BAD)
