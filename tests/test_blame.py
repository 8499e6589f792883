"""Which ends of a stream are laid at the door of a stanza (decision 10)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.gateway.blame import OF_CONTENT, Blame
from s2sgw.xmpp.ending import Cause, Ending

LOST = Ending(Cause.CONNECTION_LOST, by="network")
CLOSED = Ending(Cause.CLOSED, by="them")
BAD = Ending(Cause.STREAM_ERROR, by="them", condition="bad-format")


class BlameTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.blame = Blame()

    def accuses(self, ending: Ending, *positions: int, young: bool = False, asking: bool = False) -> bool:
        doubtful = range(positions[0], positions[-1] + 1) if positions else range(0)
        return self.blame.accuses(ending, doubtful, young, asking)

    def test_content(self) -> None:
        """Each condition that speaks of content does, at once; not while `<enable/>` is unanswered, nor when it is our own word."""
        for condition in OF_CONTENT:
            self.assertTrue(self.accuses(Ending(Cause.STREAM_ERROR, by="them", condition=condition), 1))
        self.assertFalse(self.accuses(BAD, 1, asking=True))
        self.assertFalse(self.accuses(Ending(Cause.PROTOCOL_ERROR, by="us", condition="bad-format"), 1))
        self.assertFalse(self.accuses(Ending(Cause.STREAM_ERROR, by="them", condition="system-shutdown"), 1, 2, young=True))

    def test_twice_alone(self) -> None:
        """Two ends without an error with the same stanza alone in doubt."""
        for end in (LOST, CLOSED):
            self.assertFalse(self.accuses(end, 4, young=True))
            self.assertTrue(self.accuses(end, 4))
            self.assertFalse(self.accuses(end, 5))

    def test_not_in_a_row(self) -> None:
        """Another end between them, or another stanza, begins anew."""
        for other in (Ending(Cause.UNRESPONSIVE), BAD, Ending(Cause.STREAM_ERROR, by="them", condition="reset")):
            self.assertFalse(self.accuses(LOST, 4))
            self.accuses(other, 4)
            self.assertFalse(self.accuses(LOST, 4))
            self.assertFalse(self.accuses(LOST, 5))
            self.assertFalse(self.accuses(LOST))
            self.assertFalse(self.accuses(LOST, 5))
            self.assertFalse(self.accuses(LOST))

    def test_several(self) -> None:
        """Of several none is known: they are sent one at a time where the stream was young, or they were in doubt before."""
        self.assertTrue(self.accuses(LOST, 1, 9, young=True))
        self.assertFalse(self.accuses(LOST, 20, 29))
        self.assertFalse(self.accuses(LOST, 30, 39))
        self.assertTrue(self.accuses(LOST, 33, 45))
        self.assertFalse(self.accuses(LOST, 33))
        self.assertTrue(self.accuses(LOST, 33))

    def test_beside_others(self) -> None:
        """One that was alone in its lane, beside those of other lanes on the stream, was not alone; it goes by itself from then on."""
        for expected in (False, True, True):
            self.assertEqual(expected, self.blame.accuses(LOST, range(4, 5), False, False, ambiguous=True))
        self.assertFalse(self.accuses(LOST, 4))
        self.assertTrue(self.accuses(LOST, 4))
