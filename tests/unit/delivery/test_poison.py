"""Which ends of a stream are laid at the door of a stanza (docs/decisions.md#poison)."""

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
        """Each condition that speaks of content does, at once; not while `<enable/>` is unanswered, nor when it is our own word."""
        for condition in OF_CONTENT:
            self.assertEqual(condition, self.suspicion(Ending(Cause.STREAM_ERROR, by="them", condition=condition), 1))
        self.assertEqual("", self.suspicion(BAD, 1, asking=True))
        self.assertEqual("", self.suspicion(Ending(Cause.PROTOCOL_ERROR, by="us", condition="bad-format"), 1))
        self.assertEqual("", self.suspicion(Ending(Cause.STREAM_ERROR, by="them", condition="system-shutdown"), 1, 2, young=True))

    def test_fixed_list(self) -> None:
        """R34: what is said of poison is from a list of RFC 6120's, whatever a peer may call its error."""
        self.assertTrue(set(StreamCondition) >= OF_CONTENT)
        self.assertEqual("", self.suspicion(Ending(Cause.STREAM_ERROR, by="them", condition="<b/>"), 1))

    def test_twice_alone(self) -> None:
        """Two ends without an error with the same stanza alone in doubt."""
        for end in (LOST, CLOSED):
            self.assertEqual("", self.suspicion(end, 4, young=True))
            self.assertEqual(CLOSED_TWICE, self.suspicion(end, 4))
            self.assertEqual("", self.suspicion(end, 5))

    def test_not_in_a_row(self) -> None:
        """Another end between them, or another stanza, begins anew."""
        for other in (Ending(Cause.UNRESPONSIVE), BAD, Ending(Cause.STREAM_ERROR, by="them", condition="reset")):
            self.assertEqual("", self.suspicion(LOST, 4))
            self.suspicion(other, 4)
            self.assertEqual("", self.suspicion(LOST, 4))
            self.assertEqual("", self.suspicion(LOST, 5))
            self.assertEqual("", self.suspicion(LOST))
            self.assertEqual("", self.suspicion(LOST, 5))
            self.assertEqual("", self.suspicion(LOST))

    def test_several(self) -> None:
        """Of several none is known: they are sent one at a time where the stream was young, or they were in doubt before."""
        self.assertEqual(CLOSED_TWICE, self.suspicion(LOST, 1, 9, young=True))
        self.assertEqual("", self.suspicion(LOST, 20, 29))
        self.assertEqual("", self.suspicion(LOST, 30, 39))
        self.assertEqual(CLOSED_TWICE, self.suspicion(LOST, 33, 45))
        self.assertEqual("", self.suspicion(LOST, 33))
        self.assertEqual(CLOSED_TWICE, self.suspicion(LOST, 33))

    def test_beside_others(self) -> None:
        """One that was alone in its lane, beside those of other lanes on the stream, was not alone; it goes by itself from then on."""
        for expected in ("", CLOSED_TWICE, CLOSED_TWICE):
            self.assertEqual(expected, self.poison_detector.suspicion(LOST, range(4, 5), False, False, ambiguous=True))
        self.assertEqual("", self.suspicion(LOST, 4))
        self.assertEqual(CLOSED_TWICE, self.suspicion(LOST, 4))

    def silent(self, *positions: int, ambiguous: bool = False) -> bool:
        """Whether that one is guilty which is in doubt as the other side falls silent over something large."""
        doubtful = range(positions[0], positions[-1] + 1)
        self.assertEqual(STALLED_TWICE, self.poison_detector.suspicion(SILENT, doubtful, False, False, ambiguous, large=True))
        self.assertTrue(self.poison_detector.stalled)
        return self.poison_detector.certain

    def test_silence_over_a_large_one(self) -> None:
        """They go one at a time; guilty is who was alone in doubt then, and in doubt at such an end before."""
        self.assertFalse(self.silent(1, 9))
        self.assertTrue(self.silent(4))
        self.assertFalse(self.silent(5))
        self.assertTrue(self.silent(5))
        self.assertFalse(self.silent(6, ambiguous=True))
        self.assertFalse(self.silent(6, ambiguous=True))
        self.assertTrue(self.silent(6))

    def test_silence_that_is_something_else(self) -> None:
        """With nothing large in flight it speaks of no stanza, however often, nor does our own word; another end begins anew."""
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
